//! A body that is read before its request is decided on, and stays where it is.

use crate::parse::chunks::{Chunk, Chunks};
use crate::parse::http::Body;
use policy_format::Limits;

/// What was read so far.
pub(crate) struct Ahead {
    /// Bytes of the buffer that were looked at.
    seen: usize,
    left: u64,
    chunks: Option<Chunks>,
    most: usize,
    body: Vec<u8>,
}

/// What is known of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// All of it.
    Whole(Vec<u8>),
    /// It is too long, or is broken: nobody decides on it.
    Never,
    More,
}

impl Ahead {
    /// `None` for a body that there is not, or that says of itself that it is longer than `most`.
    pub(crate) fn new(body: Body, most: usize, limits: &Limits) -> Option<Self> {
        let (left, chunks) = match body {
            Body::Length(length) if usize::try_from(length).is_ok_and(|length| length <= most) => (length, None),
            Body::Chunked => (0, Some(Chunks::new(limits.head_bytes))),
            Body::None | Body::UntilClose | Body::Length(_) => return None,
        };
        Some(Self { seen: 0, left, chunks, most, body: Vec::new() })
    }

    /// Looks at what has come; `buffer` begins with the body, and only grows from one look to the next.
    pub(crate) fn look(&mut self, buffer: &[u8]) -> Known {
        let Some(chunks) = &mut self.chunks else {
            let length = usize::try_from(self.left).unwrap_or(usize::MAX);
            return buffer.get(..length).map_or(Known::More, |body| Known::Whole(body.to_vec()));
        };
        loop {
            let rest = buffer.get(self.seen..).unwrap_or_default();
            match chunks.next(rest) {
                Ok(Chunk::Skip(framing)) => self.seen += framing,
                Ok(Chunk::Data(len)) => {
                    self.body.extend_from_slice(rest.get(..len).unwrap_or_default());
                    self.seen += len;
                    if self.body.len() > self.most {
                        return Known::Never;
                    }
                }
                Ok(Chunk::End(_)) => return Known::Whole(std::mem::take(&mut self.body)),
                Ok(Chunk::More) => return Known::More,
                Err(_) => return Known::Never,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However it arrives, the same is known of it in the end, and nothing before.
    fn known(body: Body, most: usize, sent: &[u8]) -> Option<Known> {
        let mut ahead = Ahead::new(body, most, &Limits::default())?;
        (0..=sent.len()).map(|end| ahead.look(&sent[..end])).find(|known| *known != Known::More).or(Some(Known::More))
    }

    #[test]
    fn bodies_are_read_whole_or_not_at_all() {
        let whole = |text: &str| Some(Known::Whole(text.as_bytes().to_vec()));
        for (body, most, sent, expected) in [
            (Body::Length(5), 5, "hello, and what follows", whole("hello")),
            (Body::Length(0), 5, "GET", whole("")),
            (Body::Length(6), 5, "hello!", None),
            (Body::Length(u64::MAX), usize::MAX - 1, "", None),
            (Body::Length(5), 5, "hell", Some(Known::More)),
            (Body::None, 5, "", None),
            (Body::Chunked, 5, "3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\nGET", whole("hello")),
            (Body::Chunked, 5, "3\r\nhel\r\n0\r\nT: 1\r\n\r\n", whole("hel")),
            (Body::Chunked, 4, "3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", Some(Known::Never)),
            (Body::Chunked, 5, "3\r\nhel\r\n2\r\nlo\r\n0\r\n", Some(Known::More)),
            (Body::Chunked, 5, "3\nhel", Some(Known::Never)),
        ] {
            assert_eq!(known(body, most, sent.as_bytes()), expected, "{body:?} {sent:?}");
        }
    }
}
