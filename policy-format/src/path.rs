//! Paths of requests: what they mean, and when they mean two things.

/// Bytes that a path in a rule may have.
pub const MAX_PATH: usize = 2048;

/// Whether every server reads `path` the same way. Not so with dot segments, with an encoded dot that makes one, with an encoded slash, backslash or
/// percent sign, with a raw backslash, or with a broken escape (RFC 3986, sections 2.1 and 5.2.4): what one server decodes or normalises another takes as it is.
#[must_use]
pub fn has_one_reading(path: &str) -> bool {
    path.split('/').all(segment_has_one_reading)
}

fn segment_has_one_reading(segment: &str) -> bool {
    let (mut dots, mut others) = (0_usize, 0_usize);
    let mut rest = segment.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'.' => dots += 1,
            b'\\' => return false,
            b'%' => {
                let Some(decoded) = rest.split_at_checked(2).and_then(|(digits, after)| {
                    rest = after;
                    u8::from_str_radix(std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?, 16)
                        .ok()
                }) else {
                    return false;
                };
                match decoded {
                    b'%' | b'/' | b'\\' => return false,
                    b'.' => dots += 1,
                    _ => others += 1,
                }
            }
            _ => others += 1,
        }
    }
    others > 0 || !matches!(dots, 1 | 2)
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
    #[error("servers read this path in two ways (dot segments, encoded dots, slashes or percent signs, backslashes, broken escapes)")]
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
        for path in ["", "/", "/a/b", "/a.b", "/...", "/.hidden", "/a%20b", "/%41", "//a", "/a;b", "/%c3%bc"] {
            assert!(has_one_reading(path), "{path}");
        }
        for path in
            ["/.", "/..", "/a/../b", "/%2e", "/%2E%2e/x", "/.%2e", "/a%2fb", "/a%5cb", "/a%25b", "/a\\b", "/a%", "/a%4", "/a%zz", "/a%+1"]
        {
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
