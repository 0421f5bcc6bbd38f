//! The query of a request: names and values, each name once, none that the route does not have.

use super::reply::Refusal;

/// What a query says.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query that may have these names.
    pub(super) fn read(query: &str, names: &[&str]) -> Result<Self, Refusal> {
        let mut found: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if !names.contains(&name.as_str()) {
                let known = match names {
                    [] => "there are none here".to_owned(),
                    names => format!("there are `{}`", names.join("`, `")),
                };
                return Err(Refusal::bad(format!("there is no parameter `{}`; {known}", name.escape_debug())));
            }
            if found.iter().any(|(other, _)| *other == name) {
                return Err(Refusal::bad(format!("`{name}` stands twice")));
            }
            found.push((name, value));
        }
        Ok(Self(found))
    }

    /// The value of a parameter, if it is there.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// A number from `least` to `most`.
    pub(crate) fn number(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let number = Some(text).filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
        match number.and_then(|text| text.parse().ok()).filter(|number| (least..=most).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(Refusal::bad(format!("`{name}` is a number from {least} to {most}"))),
        }
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Refusal> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                let words: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
                Err(Refusal::bad(format!("`{name}` is one of {}", words.join(", "))))
            }
        }
    }
}

/// `%XX` and `+`, as forms have them; what comes of it is UTF-8.
fn decode(text: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
                match (digit(), digit()) {
                    (Some(high), Some(low)) => high * 16 + low,
                    _ => return Err(Refusal::bad("a `%` in the query is followed by two hexadecimal digits")),
                }
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| Refusal::bad("the query is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Vec<(String, String)>, u16> {
        Query::read(query, &["a", "b"]).map(|query| query.0).map_err(|refusal| refusal.answer().status().as_u16())
    }

    #[test]
    fn queries_are_read_strictly() {
        let pairs =
            |pairs: &[(&str, &str)]| Ok(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>());
        assert_eq!(read(""), pairs(&[]));
        assert_eq!(read("a=GET+https%3A%2F%2Fx%2f&b=%C3%bc"), pairs(&[("a", "GET https://x/"), ("b", "ü")]));
        assert_eq!(read("a&&b=1=2"), pairs(&[("a", ""), ("b", "1=2")]));
        for wrong in ["c=1", "a=1&a=2", "a=%", "a=%4", "a=%zz", "a=%+1", "a=%ff", "%61=1&a=1", "A=1"] {
            assert_eq!(read(wrong), Err(400), "{wrong}");
        }
    }

    #[test]
    fn numbers_and_words_have_bounds() {
        let query = Query::read("a=7&b=x", &["a", "b"]).unwrap();
        assert_eq!((query.number("a", 1, 10).unwrap(), query.number("c", 1, 10).unwrap()), (Some(7), None));
        assert!(query.number("a", 8, 10).is_err() && query.number("b", 0, 10).is_err());
        for text in ["", "+7", "-1", "7.0", "0x7", "18446744073709551616"] {
            let query = Query(vec![("a".into(), text.into())]);
            assert!(query.number("a", 0, u64::MAX).is_err(), "{text}");
        }
        assert_eq!(query.word("b", &[("x", 1), ("y", 2)]).unwrap(), Some(1));
        assert!(query.word("b", &[("y", 2)]).is_err());
    }
}
