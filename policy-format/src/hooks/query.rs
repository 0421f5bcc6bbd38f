//! The query of a URL, read as forms are (`application/x-www-form-urlencoded`), and as little as possible: what a server could read otherwise is told from what
//! all read alike.

use super::text::{TextGlob, TextKind};

/// The fields of a query that has one reading.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// A query that all servers read alike: no `;`, which some take for `&`; no broken escape, no control character, no text that is not UTF-8.
    pub(crate) fn read(query: &'a str) -> Option<Self> {
        let fields = query.split('&');
        let fine = fields.clone().all(|field| {
            let (name, value) = split(field);
            [name, value].iter().all(|part| !part.contains(';') && escapes_are_whole(part) && is_text(Decoded::of(part)))
        });
        fine.then_some(Self(query))
    }

    /// Whether there is a field of that name, and each that is, or that some server could take for it, has that very name and an allowed value.
    pub(crate) fn holds(self, name: &str, allowed: &[ValueMatcher]) -> bool {
        let mut found = false;
        for field in self.0.split('&').filter(|field| !field.is_empty()) {
            let (own, value) = split(field);
            if !resembles(Decoded::of(own), name) {
                continue;
            }
            if !Decoded::of(own).eq(name.bytes()) || !allowed.iter().any(|matcher| matcher.matches(Decoded::of(value))) {
                return false;
            }
            found = true;
        }
        found
    }
}

/// What a value has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ValueMatcher {
    Exact(Box<str>),
    Glob(TextGlob),
    /// It could not be read: it matches nothing.
    Nothing,
}

impl ValueMatcher {
    /// `pattern:` and a glob, `literal:` and a text, or a text.
    pub(crate) fn new(text: &str) -> Self {
        match (text.strip_prefix("literal:"), text.strip_prefix("pattern:")) {
            (Some(literal), _) => Self::Exact(literal.into()),
            (None, Some(glob)) => TextGlob::parse(glob, TextKind::Value).map_or(Self::Nothing, Self::Glob),
            (None, None) => Self::Exact(text.into()),
        }
    }

    pub(crate) fn matches(&self, mut text: impl Iterator<Item = u8> + Clone) -> bool {
        match self {
            Self::Exact(own) => own.bytes().all(|byte| text.next() == Some(byte)) && text.next().is_none(),
            Self::Glob(glob) => glob.matches(text),
            Self::Nothing => false,
        }
    }

    pub(crate) fn steps(&self) -> usize {
        if let Self::Glob(glob) = self { glob.steps() } else { 0 }
    }
}

fn split(field: &str) -> (&str, &str) {
    field.split_once('=').unwrap_or((field, ""))
}

fn escapes_are_whole(part: &str) -> bool {
    let mut rest = part.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        match rest.get(at + 1..at + 3) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => rest = rest.get(at + 3..).unwrap_or_default(),
            _ => return false,
        }
    }
    true
}

/// UTF-8 without control characters.
fn is_text(bytes: Decoded<'_>) -> bool {
    let mut utf8 = crate::path::Utf8::default();
    for byte in bytes {
        if byte.is_ascii_control() || !utf8.take(byte) {
            return false;
        }
    }
    utf8.is_whole()
}

/// Whether some server could take a name for `wanted`: in another case, with `[…]` behind it, with blanks before it, or with `.`, `_` and blanks for each other.
fn resembles(name: Decoded<'_>, wanted: &str) -> bool {
    fn same(byte: u8) -> u8 {
        match byte {
            b'.' | b' ' => b'_',
            byte => byte.to_ascii_lowercase(),
        }
    }
    // What is left of either behind a bracket does not count, unless it is named with it.
    let cut = |byte: &u8| *byte != b'[';
    let wanted_folded = wanted.bytes().skip_while(|byte| *byte == b' ').take_while(cut).map(same);
    name.skip_while(|byte| *byte == b' ').take_while(cut).map(same).eq(wanted_folded)
}

/// Bytes of a field without its escapes; `+` is a blank.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoded<'a>(&'a [u8]);

impl<'a> Decoded<'a> {
    pub(crate) fn of(part: &'a str) -> Self {
        Self(part.as_bytes())
    }
}

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(match first {
            b'+' => b' ',
            b'%' => match rest {
                [high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    self.0 = rest;
                    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok()).unwrap_or(0);
                    digit(*high) << 4 | digit(*low)
                }
                _ => b'%',
            },
            byte => *byte,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(query: &str, name: &str, allowed: &[&str]) -> bool {
        let allowed: Vec<ValueMatcher> = allowed.iter().map(|text| ValueMatcher::new(text)).collect();
        Query::read(query).is_some_and(|query| query.holds(name, &allowed))
    }

    #[test]
    fn every_occurrence_has_to_be_allowed() {
        for (query, expected) in [
            ("state=open", true),
            ("a=1&state=open&b", true),
            ("state=open&state=open", true),
            ("state=o%70en", true),
            ("st%61te=open", true),
            ("&&state=open&", true),
            ("state=op en", false),
            ("", false),
            ("state", false),
            ("state=", false),
            ("state=closed", false),
            ("state=open&state=closed", false),
            ("state=open&st%61te=closed", false),
            ("state=Open", false),
            ("states=open", false),
            // What some servers take for the same field.
            ("state=open&State=closed", false),
            ("state=open&state[]=open", false),
            ("state=open&state%5B%5D=open", false),
            ("state=open&+state=open", false),
            ("state=open;x=1", false),
            ("x=1;state=open", false),
            ("state=open&x=%", false),
            ("state=open&x=%f", false),
            ("state=open&x=%zz", false),
            ("state=open&x=%00", false),
            ("state=open&x=%0a", false),
            ("state=open&x=%ff", false),
            ("state=open&x=%c0%af", false),
            ("state=open&x=%3b", true),
            ("state=open&x=%c3%bc", true),
        ] {
            assert_eq!(holds(query, "state", &["open"]), expected, "{query}");
        }
    }

    #[test]
    fn values_are_texts_or_globs() {
        assert!(holds("q=a+b", "q", &["a b"]));
        assert!(holds("q=pattern:x", "q", &["literal:pattern:x"]));
        assert!(holds("q=a%2Fb", "q", &["pattern:a*b"]));
        assert!(!holds("q=a%2Fbc", "q", &["pattern:a*b"]));
        assert!(holds("a.b=1", "a.b", &["1"]));
        assert!(!holds("a.b=1&a_b=2", "a.b", &["1"]));
        assert!(holds("a[]=1&a[]=2", "a[]", &["1", "2"]));
        assert!(!holds("a[]=1&a=2", "a[]", &["1", "2"]));
        assert!(!holds("q=a", "q", &["pattern:[", "b"]));
    }
}
