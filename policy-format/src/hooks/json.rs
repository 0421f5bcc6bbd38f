//! JSON bodies (RFC 8259), read in place: whether a value that a pointer (RFC 6901) leads to is an allowed one.
//!
//! The whole text is checked, so that no server finds another end or another value in it: nothing behind the value, no broken text, no surrogate by itself. On the way
//! to the value an object that has the member twice, or has another one that some programs take for it because they do not mind the case, leads nowhere.

use super::query::ValueMatcher;

/// Values that may lie in each other.
const MAX_DEPTH: usize = 64;

/// A pointer, and what its value may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PointerMatcher {
    /// The names on the way, without their escapes.
    pub(crate) path: Vec<Box<str>>,
    pub(crate) allowed: Vec<JsonMatcher>,
}

/// What a value may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum JsonMatcher {
    Text(ValueMatcher),
    Bool(bool),
    Number(u64),
}

/// The names of a pointer; `None` for what is none.
pub(crate) fn pointer(text: &str) -> Option<Vec<Box<str>>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let names = text.strip_prefix('/')?.split('/').map(|name| {
        let mut rest = name;
        while let Some(at) = rest.find('~') {
            rest = rest.get(at + 1..)?;
            if !rest.starts_with(['0', '1']) {
                return None;
            }
        }
        Some(name.replace("~1", "/").replace("~0", "~").into_boxed_str())
    });
    names.collect()
}

/// Whether a body is JSON of which every pointer holds.
pub(crate) fn holds(body: &[u8], pointers: &[PointerMatcher]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else { return false };
    let whole = {
        let mut cursor = Cursor { text, at: 0 };
        cursor.value(0).is_some() && cursor.is_at_end()
    };
    whole
        && pointers
            .iter()
            .all(|pointer| find(text, &pointer.path).is_some_and(|value| pointer.allowed.iter().any(|matcher| matcher.matches(value))))
}

impl JsonMatcher {
    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Text(matcher) => {
                value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).is_some_and(|text| matcher.matches(Unescaped::of(text)))
            }
            Self::Bool(wanted) => value == if *wanted { "true" } else { "false" },
            // `5.0` and `5e0` are 5 to some and not to others.
            Self::Number(wanted) => value.parse() == Ok(*wanted) && value.bytes().all(|byte| byte.is_ascii_digit()),
        }
    }
}

/// The text of the value that a path leads to, in a text that is JSON.
fn find<'a>(text: &'a str, path: &[Box<str>]) -> Option<&'a str> {
    let mut cursor = Cursor { text, at: 0 };
    for name in path {
        cursor.blanks();
        match cursor.peek()? {
            b'{' => cursor.enter_member(name)?,
            b'[' => cursor.enter_item(name)?,
            _ => return None,
        }
    }
    cursor.blanks();
    let start = cursor.at;
    cursor.value(0)?;
    text.get(start..cursor.at)
}

#[derive(Clone, Copy)]
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn is_at_end(&mut self) -> bool {
        self.blanks();
        self.at == self.text.len()
    }

    /// Goes behind a value; `None` where there is none.
    fn value(&mut self, depth: usize) -> Option<()> {
        self.blanks();
        match self.peek()? {
            b'{' | b'[' if depth >= MAX_DEPTH => None,
            b'{' => self.list(b'}', |cursor| {
                cursor.string()?;
                cursor.blanks();
                cursor.take(b':')?;
                cursor.value(depth + 1)
            }),
            b'[' => self.list(b']', |cursor| cursor.value(depth + 1)),
            b'"' => self.string().map(|_| ()),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number(),
        }
    }

    /// Goes behind an object or an array, whose parts `part` goes behind.
    fn list(&mut self, close: u8, mut part: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.at += 1;
        self.blanks();
        if self.take(close).is_some() {
            return Some(());
        }
        loop {
            self.blanks();
            part(self)?;
            self.blanks();
            if self.take(b',').is_none() {
                return self.take(close);
            }
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.text.get(self.at..)?.starts_with(word).then(|| self.at += word.len())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    /// Goes behind a string, and lends what stands between its quotes.
    fn string(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let start = self.at;
        loop {
            match self.peek()? {
                b'"' => break,
                0..=0x1f => return None,
                b'\\' => {
                    self.at += 1;
                    match self.peek()? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
                        b'u' => self.unit()?,
                        _ => return None,
                    }
                }
                _ => self.at += 1,
            }
        }
        let text = self.text.get(start..self.at)?;
        self.at += 1;
        Some(text)
    }

    /// Goes behind `uXXXX`, and behind the second half of a pair; a half by itself is no text.
    fn unit(&mut self) -> Option<()> {
        let first = hex4(self.text.get(self.at + 1..)?)?;
        self.at += 5;
        match first {
            0xd800..=0xdbff => {
                let rest = self.text.get(self.at..)?.strip_prefix("\\u")?;
                self.at += 6;
                (0xdc00..=0xdfff).contains(&hex4(rest)?).then_some(())
            }
            0xdc00..=0xdfff => None,
            _ => Some(()),
        }
    }

    /// Goes to the value of the member of that name; `None` where there is none, or where it is not the only one.
    fn enter_member(&mut self, name: &str) -> Option<()> {
        let mut found = None;
        self.list(b'}', |cursor| {
            let own = Unescaped::of(cursor.string()?);
            cursor.blanks();
            cursor.take(b':')?;
            if folded(own.clone()).eq(folded(name.bytes())) {
                if found.is_some() || !own.eq(name.bytes()) {
                    return None;
                }
                found = Some(cursor.at);
            }
            cursor.value(0)
        })?;
        self.at = found?;
        Some(())
    }

    /// Goes to the item of that number.
    fn enter_item(&mut self, name: &str) -> Option<()> {
        if name.is_empty() || (name.len() > 1 && name.starts_with('0')) || !name.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (wanted, mut number, mut found) = (name.parse::<usize>().ok()?, 0, None);
        self.list(b']', |cursor| {
            if number == wanted {
                found = Some(cursor.at);
            }
            number += 1;
            cursor.value(0)
        })?;
        self.at = found?;
        Some(())
    }
}

fn hex4(text: &str) -> Option<u32> {
    let digits = text.get(..4)?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
}

/// Bytes as programs compare them that do not mind the case of names: ASCII, and the two other letters that fold to ASCII (U+017F and U+212A).
fn folded(bytes: impl Iterator<Item = u8> + Clone) -> impl Iterator<Item = u8> {
    let mut bytes = bytes;
    std::iter::from_fn(move || {
        let byte = bytes.next()?;
        let mut ahead = bytes.clone();
        match byte {
            0xc5 if ahead.next() == Some(0xbf) => {
                bytes = ahead;
                Some(b's')
            }
            0xe2 if ahead.next() == Some(0x84) && ahead.next() == Some(0xaa) => {
                bytes = ahead;
                Some(b'k')
            }
            byte => Some(byte.to_ascii_lowercase()),
        }
    })
}

/// The bytes of a string that was checked, without its escapes.
#[derive(Clone)]
struct Unescaped<'a> {
    rest: &'a str,
    /// Bytes of the last character that are still to come, and how many.
    pending: [u8; 4],
    left: u8,
}

impl<'a> Unescaped<'a> {
    /// What stands between the quotes.
    fn of(text: &'a str) -> Self {
        Self { rest: text, pending: [0; 4], left: 0 }
    }
}

impl Iterator for Unescaped<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let Self { rest, pending, left } = self;
        if *left > 0 {
            let [first, others @ ..] = *pending;
            let [second, third, fourth] = others;
            *pending = [second, third, fourth, 0];
            *left -= 1;
            return Some(first);
        }
        let byte = *rest.as_bytes().first()?;
        let Some(escape) = rest.strip_prefix('\\') else {
            // A byte of a character of several: `str` cannot be cut there.
            if byte.is_ascii() {
                *rest = rest.get(1..).unwrap_or_default();
                return Some(byte);
            }
            let mut chars = rest.chars();
            let character = chars.next()?;
            *rest = chars.as_str();
            return Some(start(character, pending, left));
        };
        let (character, len) = match escape.as_bytes().first()? {
            b'u' => {
                let first = hex4(escape.get(1..)?)?;
                match first {
                    0xd800..=0xdbff => {
                        let second = hex4(escape.get(7..)?)?;
                        (char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + second.checked_sub(0xdc00)?)?, 11)
                    }
                    _ => (char::from_u32(first)?, 5),
                }
            }
            b'b' => ('\u{8}', 1),
            b'f' => ('\u{c}', 1),
            b'n' => ('\n', 1),
            b'r' => ('\r', 1),
            b't' => ('\t', 1),
            other => (char::from(*other), 1),
        };
        *rest = escape.get(len..).unwrap_or_default();
        Some(start(character, pending, left))
    }
}

/// The first byte of a character; the others are left to come.
fn start(character: char, pending: &mut [u8; 4], left: &mut u8) -> u8 {
    let mut bytes = [0; 4];
    let len = character.encode_utf8(&mut bytes).len();
    let [first, second, third, fourth] = bytes;
    *pending = [second, third, fourth, 0];
    *left = u8::try_from(len - 1).unwrap_or(0);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(body: &str, at: &str, allowed: JsonMatcher) -> bool {
        holds(body.as_bytes(), &[PointerMatcher { path: pointer(at).unwrap(), allowed: vec![allowed] }])
    }

    fn text(body: &str, at: &str, allowed: &str) -> bool {
        has(body, at, JsonMatcher::Text(ValueMatcher::new(allowed)))
    }

    #[test]
    fn pointers_lead_to_one_value() {
        for (body, at, expected) in [
            (r#"{"a":"x"}"#, "/a", true),
            (r#" { "b" : [ 1 , {} ] , "a" : "x" } "#, "/a", true),
            (r#"{"a":{"b":[0,{"c":"x"}]}}"#, "/a/b/1/c", true),
            (r#""x""#, "", true),
            (r#"{"a/b":{"~":"x"}}"#, "/a~1b/~0", true),
            (r#"{"":"x"}"#, "/", true),
            (r#"{"\u0061":"\u0078"}"#, "/a", true),
            (r#"{"a":"y"}"#, "/a", false),
            (r#"{"a":["x"]}"#, "/a", false),
            (r#"{"a":{"x":1}}"#, "/a", false),
            (r#"{"b":"x"}"#, "/a", false),
            (r#"["x"]"#, "/00", false),
            (r#"["x"]"#, "/-", false),
            (r#"["x"]"#, "/1", false),
            // Two readings.
            (r#"{"a":"x","a":"x"}"#, "/a", false),
            (r#"{"a":"y","a":"x"}"#, "/a", false),
            (r#"{"a":"x","\u0061":"y"}"#, "/a", false),
            (r#"{"a":"x","A":"y"}"#, "/a", false),
            (r#"{"A":"x"}"#, "/a", false),
            ("{\"task\":\"x\",\"ta\u{17f}k\":\"y\"}", "/task", false),
            (r#"{"task":"x","tas\u212a":"y"}"#, "/task", false),
            (r#"{"a":{"b":"x"},"a":{"b":"x"}}"#, "/a/b", false),
            (r#"{"a":"x"} {"a":"y"}"#, "/a", false),
            (r#"{"a":"x"}x"#, "/a", false),
            (r#"{"a":"x",}"#, "/a", false),
            (r#"{"a":"x""#, "/a", false),
            (r#"{'a':"x"}"#, "/a", false),
            (r#"{"a":"x","b":"\ud800"}"#, "/a", false),
            (r#"{"a":"x","b":"\udc00\ud800"}"#, "/a", false),
            (r#"{"a":"x","b":"\q"}"#, "/a", false),
            ("{\"a\":\"x\",\"b\":\"\n\"}", "/a", false),
            (r#"{"a":"x","b":01}"#, "/a", false),
            (r#"{"a":"x","b":NaN}"#, "/a", false),
            (r#"{"a":"x","b":1.}"#, "/a", false),
            (r#"{"a":"x","b":-1.5e+9}"#, "/a", true),
            ("\u{feff}{\"a\":\"x\"}", "/a", false),
            ("", "/a", false),
        ] {
            assert_eq!(text(body, at, "x"), expected, "{body} {at}");
        }
        let deep = |levels: usize| format!("{{\"a\":\"x\",\"b\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(text(&deep(MAX_DEPTH - 1), "/a", "x"));
        assert!(!text(&deep(MAX_DEPTH), "/a", "x"));
        assert!(!text(&deep(100_000), "/a", "x"));
        assert!(!holds(b"{\"a\":\"x\",\"b\":\"\xff\"}", &[]));
    }

    #[test]
    fn values_are_of_their_own_kind() {
        assert!(has(r#"{"a":true}"#, "/a", JsonMatcher::Bool(true)));
        assert!(!has(r#"{"a":"true"}"#, "/a", JsonMatcher::Bool(true)));
        assert!(!has(r#"{"a":1}"#, "/a", JsonMatcher::Bool(true)));
        assert!(has(r#"{"a":5}"#, "/a", JsonMatcher::Number(5)));
        for other in ["5.0", "5e0", "-5", "\"5\"", "50", "null"] {
            assert!(!has(&format!("{{\"a\":{other}}}"), "/a", JsonMatcher::Number(5)), "{other}");
        }
        assert!(text(r#"{"a":"\ud83d\ude00\n\u00fc\/ü"}"#, "/a", "\u{1f600}\nü/ü"));
        assert!(text(r#"{"a":"open/issues"}"#, "/a", "pattern:open*"));
        assert!(text(r#"{"a":""}"#, "/a", ""));
    }

    #[test]
    fn pointers_are_read_as_they_are_defined() {
        for (text, expected) in
            [("", Some(0)), ("/", Some(1)), ("/a/b", Some(2)), ("a", None), ("/a~", None), ("/~2", None), ("/~01", Some(1))]
        {
            assert_eq!(pointer(text).map(|names| names.len()), expected, "{text}");
        }
        assert_eq!(&*pointer("/~01").unwrap()[0], "~1");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(body in "[\\[\\]{}\"a\\\\u0d8:,1.e-]{0,24}", at in "(/[a01~]{0,2}){0,3}") {
            if let Some(path) = pointer(&at) {
                let _ = holds(body.as_bytes(), &[PointerMatcher { path, allowed: vec![JsonMatcher::Bool(true)] }]);
            }
        }
    }
}
