//! Paths of requests: what they mean, and when they mean two things.

/// Bytes that a path in a rule may have.
pub const MAX_PATH: usize = 2048;

/// Whether every server reads `path` the same way, as a path from the root. What one server decodes, strips or normalises another takes as it is
/// (RFC 3986, sections 2.1, 3.3, 5.2.4 and 6.2):
///
/// - dot segments, and segments that end in a dot or a space, which some file systems strip
/// - empty segments (`//`), which some servers collapse, and parameters (`;`), which some cut off
/// - a backslash; escapes of `/`, `\\`, `%`, `?`, `#` and `;`; escapes of characters that need none (`%41`); escapes of control characters
/// - escapes that are broken, or that are not UTF-8, overlong forms included
#[must_use]
pub fn has_one_reading(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        // The last segment may be empty: the path of a folder.
        if segment.is_empty() && segments.peek().is_some() || !segment_has_one_reading(segment) {
            return false;
        }
    }
    true
}

fn segment_has_one_reading(segment: &str) -> bool {
    let mut utf8 = Utf8::default();
    let (mut rest, mut last) = (segment.as_bytes(), b'a');
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        last = *byte;
        if *byte == b'%' {
            let Some((digits, after)) = rest.split_first_chunk::<2>() else { return false };
            let [Some(high), Some(low)] = digits.map(hex) else { return false };
            rest = after;
            last = high << 4 | low;
            let unreserved = last.is_ascii_alphanumeric() || matches!(last, b'-' | b'.' | b'_' | b'~');
            if unreserved || last.is_ascii_control() || matches!(last, b'%' | b'/' | b'\\' | b'?' | b'#' | b';') {
                return false;
            }
        } else if matches!(byte, b'\\' | b';') {
            return false;
        }
        if !utf8.take(last) {
            return false;
        }
    }
    utf8.is_whole() && !matches!(last, b'.' | b' ')
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Well-formed UTF-8, a byte at a time (RFC 3629, section 4): a percent-encoded character comes in pieces.
#[derive(Default)]
pub(crate) struct Utf8 {
    /// Continuation bytes that are still to come.
    left: u8,
    /// The least and greatest value that the next of them may have.
    next: (u8, u8),
}

impl Utf8 {
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        if self.left > 0 {
            let fits = (self.next.0..=self.next.1).contains(&byte);
            (self.left, self.next) = (self.left - 1, (0x80, 0xbf));
            return fits;
        }
        (self.left, self.next) = match byte {
            0..=0x7f => (0, (0, 0)),
            0xc2..=0xdf => (1, (0x80, 0xbf)),
            0xe0 => (2, (0xa0, 0xbf)),
            0xed => (2, (0x80, 0x9f)),
            0xe1..=0xef => (2, (0x80, 0xbf)),
            0xf0 => (3, (0x90, 0xbf)),
            0xf1..=0xf3 => (3, (0x80, 0xbf)),
            0xf4 => (3, (0x80, 0x8f)),
            _ => return false,
        };
        true
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.left == 0
    }
}

/// Whether `path` is `prefix` or lies below it, segment by segment: `/v1` holds `/v1` and `/v1/x`, not `/v10`; `/v1/` holds `/v1/` and `/v1/x`, not `/v1`.
#[must_use]
pub fn lies_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'))
}

/// Why a path in a rule was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not start at the root.
    #[error("a path starts with `/`")]
    NotAbsolute,
    /// `?` or `#`.
    #[error("a path ends before `?` and `#`: rules do not see queries")]
    Query,
    /// Not printable ASCII.
    #[error("a path has printable ASCII only; write other characters as `%XX`")]
    Character,
    /// It could be read in two ways.
    #[error("servers read this path in two ways: dot or empty segments, `;`, backslashes, or escapes of what needs none")]
    TwoReadings,
    /// `*`.
    #[error("a path is a prefix, without wildcards")]
    Wildcard,
    /// More than [`MAX_PATH`].
    #[error("a path has at most {MAX_PATH} bytes")]
    TooLong,
}

/// Checks a path prefix that a rule is to have.
///
/// # Errors
/// [`PathError`] that says what is wrong.
pub fn check_prefix(prefix: &str) -> Result<(), PathError> {
    let refuse_if = |wrong: bool, error| if wrong { Err(error) } else { Ok(()) };
    refuse_if(!prefix.starts_with('/'), PathError::NotAbsolute)?;
    refuse_if(prefix.len() > MAX_PATH, PathError::TooLong)?;
    refuse_if(prefix.contains(['?', '#']), PathError::Query)?;
    refuse_if(!prefix.bytes().all(|byte| byte.is_ascii_graphic()), PathError::Character)?;
    refuse_if(prefix.contains('*'), PathError::Wildcard)?;
    refuse_if(!has_one_reading(prefix), PathError::TwoReadings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_paths_that_have_two_readings() {
        for path in [
            "/",
            "/a/b",
            "/a/",
            "/a.b",
            "/.hidden",
            "/a%20b",
            "/%c3%bc",
            "/%E2%82%AC/x",
            "/%f0%9f%98%80",
            "/a+b",
            "/a%2Bb",
            "/~x",
            "/a:b@c",
        ] {
            assert!(has_one_reading(path), "{path}");
        }
        let two = [
            "",
            "*",
            "a",
            "/.",
            "/..",
            "/a/../b",
            "/%2e",
            "/%2E%2e/x",
            "/.%2e",
            "/...",
            "/a.",
            "/a%20",
            "//a",
            "/a//b",
            "/a;b",
            "/;/a",
            "/..;/a",
            "/a%3bb",
            "/a%2fb",
            "/a%5cb",
            "/a%25b",
            "/a%3fb",
            "/a%23b",
            "/a\\b",
            "/%41",
            "/%7e",
            "/a%00",
            "/a%0a",
            "/a%7f",
            "/a%",
            "/a%4",
            "/a%zz",
            "/a%+1",
            "/%c0%af",
            "/%c0%ae%c0%ae/x",
            "/%e0%80%af",
            "/%ed%a0%80",
            "/%f4%90%80%80",
            "/%c3",
            "/%c3/%bc",
            "/%bc",
            "/%ff",
        ];
        for path in two {
            assert!(!has_one_reading(path), "{path}");
        }
    }

    #[test]
    fn prefixes_end_at_segments() {
        for (path, prefix, expected) in [
            ("/v1", "/v1", true),
            ("/v1/x", "/v1", true),
            ("/v10", "/v1", false),
            ("/v1/", "/v1/", true),
            ("/v1", "/v1/", false),
            ("/v1/x", "/v1/", true),
            ("/", "/", true),
            ("/x", "/", true),
            ("/V1", "/v1", false),
        ] {
            assert_eq!(lies_below(path, prefix), expected, "{path} {prefix}");
        }
    }

    #[test]
    fn refuses_prefixes_that_would_mislead() {
        let cases = [
            ("/v1/", Ok(())),
            ("v1", Err(PathError::NotAbsolute)),
            ("/a?b", Err(PathError::Query)),
            ("/a b", Err(PathError::Character)),
            ("/ü", Err(PathError::Character)),
            ("/a/../b", Err(PathError::TwoReadings)),
            ("/a/*", Err(PathError::Wildcard)),
        ];
        for (prefix, expected) in cases {
            assert_eq!(check_prefix(prefix), expected, "{prefix}");
        }
        assert_eq!(check_prefix(&format!("/{}", "a".repeat(MAX_PATH))), Err(PathError::TooLong));
    }
}
