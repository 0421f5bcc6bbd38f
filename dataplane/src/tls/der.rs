//! DER (X.690): as much of it as reading an authority's certificate, and writing certificates and Java's truststore, takes.

/// Tags of what is read and written here.
pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const NULL: u8 = 0x05;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const UTF8_STRING: u8 = 0x0c;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const BMP_STRING: u8 = 0x1e;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const SET: u8 = 0x31;

    /// `[number]` around nothing but bytes.
    pub(crate) const fn context(number: u8) -> u8 {
        0x80 | number
    }

    /// `[number]` around other values.
    pub(crate) const fn context_constructed(number: u8) -> u8 {
        0xa0 | number
    }
}

/// Reads values one after the other. What is not DER is nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

/// One value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    /// With its tag and its length.
    pub(crate) whole: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    #[cfg(test)]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next value.
    pub(crate) fn item(&mut self) -> Option<Item<'a>> {
        let (&tag, rest) = self.rest.split_first()?;
        // Tags of several bytes are in no certificate.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // As short as it can be, and of at most four bytes.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = bytes.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
                if length < 0x80 || bytes.first() == Some(&0) {
                    return None;
                }
                (length, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = self.rest.get(..self.rest.len() - rest.len())?;
        self.rest = rest;
        Some(Item { tag, content, whole })
    }

    /// The content of the next value, if that has the tag; otherwise it is still the next.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.item_of(tag).map(|item| item.content)
    }

    /// The same, and all of the value.
    pub(crate) fn expect_whole(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.item_of(tag).map(|item| item.whole)
    }

    fn item_of(&mut self, tag: u8) -> Option<Item<'a>> {
        let mut ahead = *self;
        let item = ahead.item().filter(|item| item.tag == tag)?;
        *self = ahead;
        Some(item)
    }
}

/// The content of a value that is all there is.
pub(crate) fn only(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes);
    reader.expect(tag).filter(|_| reader.is_empty())
}

/// A value of these parts.
pub(crate) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    match u8::try_from(length) {
        Ok(short @ 0..0x80) => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let skip = bytes.iter().take_while(|byte| **byte == 0).count();
            // No length has more than eight bytes.
            out.push(0x80 | u8::try_from(bytes.len() - skip).unwrap_or_default());
            out.extend(bytes.iter().skip(skip));
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// A SEQUENCE of these values.
pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(tag::SEQUENCE, parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536, 70_000] {
            let content = vec![7; length];
            let (first, second) = content.split_at(length / 2);
            let written = value(tag::OCTET_STRING, &[first, second]);
            let mut reader = Reader::new(&written);
            let item = reader.item().unwrap();
            assert_eq!((item.tag, item.content, item.whole), (tag::OCTET_STRING, &*content, &*written), "{length}");
            assert!(reader.is_empty());
            for cut in [0, 1, written.len() - 1] {
                assert_eq!(Reader::new(&written[..cut]).item(), None, "{length}, cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_not_der_is_nothing() {
        let cases: [(&str, &[u8]); 8] = [
            ("nothing", &[]),
            ("a tag of two bytes", &[0x1f, 0x01, 0x00]),
            ("no length", &[0x30]),
            ("a length without end", &[0x30, 0x80, 0x00, 0x00]),
            ("a length that could be shorter", &[0x30, 0x81, 0x01, 0x00]),
            ("a length that begins with zero", &[0x30, 0x82, 0x00, 0x80]),
            ("a length of five bytes", &[0x30, 0x85, 1, 0, 0, 0, 0]),
            ("more than there is", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]),
        ];
        for (what, bytes) in cases {
            let mut reader = Reader::new(bytes);
            assert_eq!(reader.item(), None, "{what}");
            assert_eq!(reader.rest(), bytes, "{what}");
        }
    }

    #[test]
    fn another_tag_stays_where_it_is() {
        let bytes = [sequence(&[]), value(tag::INTEGER, &[&[1]])].concat();
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.expect(tag::INTEGER), None);
        assert_eq!(reader.expect(tag::SEQUENCE), Some(&[][..]));
        assert_eq!(reader.expect(tag::INTEGER), Some(&[1][..]));
        assert_eq!(only(&bytes, tag::SEQUENCE), None, "there is more behind it");
    }
}
