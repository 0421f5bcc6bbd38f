//! The hash chain of audit logs: how segments begin, how they are sealed, and how both are checked. `docs/audit.md` says it for users.
//!
//! A log is a row of *segments*, each a file of lines. The first line of a segment is its header, which has the hash that the segment before ended with; what was written since
//! is sealed now and then by a line with a hash over it. Whoever changes a line, takes one away or puts one in has to write every seal behind it anew, and the headers of
//! all later segments.
//!
//! ```text
//! {"event.name":"codex.network_proxy.segment","event.timestamp":"2026-01-02T03:04:05.678Z","chain.format":1,"chain.segment":2,"chain.previous":"<64 hex digits>","service.version":"0.1.0"}
//! {"event.name":"codex.network_proxy.policy_decision",…}
//! {"event.name":"codex.network_proxy.seal","chain.count":2,"chain.hash":"<64 hex digits>"}
//! ```
//!
//! - The hash is BLAKE3 over the 32 bytes of the previous hash, and then every byte of the segment since the end of the previous seal's line (or since its start), up to the first
//!   of the seal's own 64 digits: the seal's other members are covered. The previous hash is that of the previous seal in the segment, or the header's.
//! - `chain.count` is how many lines of the segment stand before the seal, its header and seals included.
//! - A seal may have `"chain.unsealed":N,"chain.torn":N` between the two: N lines before it were found without a seal when the log was opened again, after a crash, and N bytes
//!   of a line without an end were cut off. What was found so may have been changed before.
//! - Both lines are written as they are shown, without blanks, and end in a line feed. No other line begins as they do.

use crate::events::name;
use std::fmt;
use std::str::FromStr;

/// The event name of a segment's first line.
pub const SEGMENT: &str = name!("segment");
/// The event name of a line that seals those before it.
pub const SEAL: &str = name!("seal");
/// The `chain.format` that is written and read.
pub const FORMAT: u64 = 1;
/// Bytes of a line that are looked at; neither a header nor a seal is longer.
pub const MAX_LINE: usize = 1024;

const SEGMENT_START: &str = concat!("{\"event.name\":\"", name!("segment"), "\",");
/// How the line of a seal begins.
pub const SEAL_START: &str = concat!("{\"event.name\":\"", name!("seal"), "\",");

/// A hash of the chain. Shown and read as 64 hexadecimal digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Link(pub [u8; 32]);

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({self})")
    }
}

impl FromStr for Link {
    type Err = ChainError;

    fn from_str(text: &str) -> Result<Self, ChainError> {
        let digits = text.as_bytes();
        let mut link = [0; 32];
        if digits.len() != 64 {
            return Err(ChainError::Malformed);
        }
        for (byte, pair) in link.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().try_fold(0, |byte, digit| match digit {
                b'0'..=b'9' => Ok(byte << 4 | (digit - b'0')),
                b'a'..=b'f' => Ok(byte << 4 | (digit - b'a' + 10)),
                _ => Err(ChainError::Malformed),
            })?;
        }
        Ok(Self(link))
    }
}

/// The first line of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// When the segment was begun: RFC 3339, UTC, milliseconds.
    pub time: String,
    /// Which of the log it is, from 1.
    pub segment: u64,
    /// The last hash of the segment before; zeros where this begins a log.
    pub previous: Link,
    /// The version of the program that wrote it.
    pub version: String,
}

impl fmt::Display for Header {
    /// The line, without its line feed. Whoever makes a header sees to it that time and version hold nothing that JSON escapes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, segment, previous, version } = self;
        write!(f, "{SEGMENT_START}\"event.timestamp\":\"{time}\",\"chain.format\":{FORMAT},\"chain.segment\":{segment},")?;
        write!(f, "\"chain.previous\":\"{previous}\",\"service.version\":\"{version}\"}}")
    }
}

/// A line that seals those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seal {
    /// Lines of the segment before it.
    pub count: u64,
    /// What was found when a log was opened again after a crash.
    pub found: Option<Found>,
    /// The hash.
    pub hash: Link,
}

/// What stood behind the last seal when a log was opened again. It may have been changed before it was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// Whole lines.
    pub unsealed: u64,
    /// Bytes of a line without an end, which were cut off.
    pub torn: u64,
}

impl Seal {
    /// The line up to the hash.
    fn start(count: u64, found: Option<Found>) -> String {
        let found = found.map(|Found { unsealed, torn }| format!("\"chain.unsealed\":{unsealed},\"chain.torn\":{torn},"));
        format!("{SEAL_START}\"chain.count\":{count},{}\"chain.hash\":\"", found.unwrap_or_default())
    }
}

/// What a line of a log is to the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Begins a segment.
    Header(Header),
    /// Seals what stands before it.
    Seal(Seal),
    /// An event, or anything else.
    Other,
}

/// Why a log is not as it was written, or cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// It begins as a header or a seal does, and goes on otherwise.
    #[error("the line begins as a header or a seal of the chain does, and is none")]
    Malformed,
    /// A header of another format.
    #[error("the segment is of chain format {0}, and this program reads {FORMAT}")]
    Format(u64),
    /// The first line of a segment is something else, or a header stands further down.
    #[error("a segment begins with a header, and has no other")]
    Header,
    /// A header that does not follow the segment before.
    #[error("the segment says that the one before it is number {} and ends with {}, and that is number {} and ends with {}", .said.0, .said.1, .was.0, .was.1)]
    Segment {
        /// What the header says: number and hash.
        said: (u64, Link),
        /// What it was.
        was: (u64, Link),
    },
    /// Lines were taken away or put in.
    #[error("the seal says that {said} lines stand before it, and there are {was}")]
    Count {
        /// What the seal says.
        said: u64,
        /// What it was.
        was: u64,
    },
    /// Lines were changed.
    #[error("the seal's hash is {said}, and that of what stands before it is {was}")]
    Hash {
        /// What the seal says.
        said: Link,
        /// What it was.
        was: Link,
    },
}

/// Says what a line is, without its line feed.
///
/// # Errors
/// [`ChainError::Malformed`], [`ChainError::Format`].
pub fn parse_line(line: &[u8]) -> Result<Line, ChainError> {
    let is_header = line.starts_with(SEGMENT_START.as_bytes());
    if !is_header && !line.starts_with(SEAL_START.as_bytes()) {
        return Ok(Line::Other);
    }
    if line.len() > MAX_LINE {
        return Err(ChainError::Malformed);
    }
    let text = std::str::from_utf8(line).map_err(|_| ChainError::Malformed)?;
    let read = if is_header { header(text)? } else { seal(text).map(Line::Seal) };
    read.ok_or(ChainError::Malformed)
}

fn header(text: &str) -> Result<Option<Line>, ChainError> {
    let Some((time, rest)) = text.strip_prefix(SEGMENT_START).and_then(|rest| word(rest, "event.timestamp")) else { return Ok(None) };
    let Some((format, rest)) = number(rest, "chain.format") else { return Ok(None) };
    if format != FORMAT {
        return Err(ChainError::Format(format));
    }
    let rest = || {
        let (segment, rest) = number(rest, "chain.segment")?;
        let (previous, rest) = word(rest, "chain.previous")?;
        let (version, rest) = word_at_end(rest, "service.version")?;
        let header = Header { time: time.to_owned(), segment, previous: previous.parse().ok()?, version: version.to_owned() };
        (rest == "}" && header.to_string() == text).then_some(Line::Header(header))
    };
    Ok(rest())
}

fn seal(text: &str) -> Option<Seal> {
    let (count, rest) = number(text.strip_prefix(SEAL_START)?, "chain.count")?;
    let (found, rest) = match number(rest, "chain.unsealed") {
        Some((unsealed, rest)) => {
            let (torn, rest) = number(rest, "chain.torn")?;
            (Some(Found { unsealed, torn }), rest)
        }
        None => (None, rest),
    };
    let (hash, rest) = word_at_end(rest, "chain.hash")?;
    let seal = Seal { count, found, hash: hash.parse().ok()? };
    // Numbers with zeros in front would be another text for the same seal.
    let start = Seal::start(count, found);
    (rest == "}" && text.strip_prefix(start.as_str()).is_some_and(|end| end.len() == 66)).then_some(seal)
}

/// `"key":"word",` in front of the rest.
fn word<'a>(text: &'a str, key: &str) -> Option<(&'a str, &'a str)> {
    let (word, rest) = word_at_end(text, key)?;
    Some((word, rest.strip_prefix(',')?))
}

fn word_at_end<'a>(text: &'a str, key: &str) -> Option<(&'a str, &'a str)> {
    let rest = text.strip_prefix('"')?.strip_prefix(key)?.strip_prefix("\":\"")?;
    let (word, rest) = rest.split_once('"')?;
    (!word.contains(|c: char| c == '\\' || c.is_control())).then_some((word, rest))
}

/// `"key":number,` in front of the rest.
fn number<'a>(text: &'a str, key: &str) -> Option<(u64, &'a str)> {
    let rest = text.strip_prefix('"')?.strip_prefix(key)?.strip_prefix("\":")?;
    let (number, rest) = rest.split_once(',')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?.map(|number| (number, rest))
}

/// The chain of one segment, on its way: whoever writes or reads it gives it every byte.
#[derive(Debug, Clone)]
pub struct Chain {
    hasher: blake3::Hasher,
    count: u64,
    last: Link,
    /// Lines since the last seal.
    open: u64,
}

impl Chain {
    /// At the start of a segment that has `previous` in its header. The header itself is the first that it is given.
    #[must_use]
    pub fn new(previous: Link) -> Self {
        Self::resume(previous, 0)
    }

    /// Behind a seal with that hash, which is a segment's line number `count`, from 1.
    #[must_use]
    pub fn resume(hash: Link, count: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&hash.0);
        Self { hasher, count, last: hash, open: 0 }
    }

    /// Takes whole lines, each with its line feed.
    pub fn add(&mut self, lines: &[u8], count: u64) {
        self.hasher.update(lines);
        self.count = self.count.saturating_add(count);
        self.open = self.open.saturating_add(count);
    }

    /// Lines since the last seal.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open
    }

    /// The hash of the last seal; where there is none yet, the one that it began with.
    #[must_use]
    pub fn last(&self) -> Link {
        self.last
    }

    /// The line, with its line feed, that seals what was added since the last one.
    pub fn seal(&mut self, found: Option<Found>) -> String {
        let mut line = Seal::start(self.count, found);
        let hash = self.hash(&line);
        line.push_str(&format!("{hash}\"}}\n"));
        *self = Self::resume(hash, self.count.saturating_add(1));
        line
    }

    /// Goes past a seal that was read.
    ///
    /// # Errors
    /// [`ChainError::Count`] or [`ChainError::Hash`]: what stands before it is not what was sealed.
    pub fn check(&mut self, seal: &Seal) -> Result<(), ChainError> {
        if seal.count != self.count {
            return Err(ChainError::Count { said: seal.count, was: self.count });
        }
        let was = self.hash(&Seal::start(seal.count, seal.found));
        if seal.hash != was {
            return Err(ChainError::Hash { said: seal.hash, was });
        }
        *self = Self::resume(was, self.count.saturating_add(1));
        Ok(())
    }

    fn hash(&self, start: &str) -> Link {
        let mut hasher = self.hasher.clone();
        hasher.update(start.as_bytes());
        Link(hasher.finalize().into())
    }
}

/// Reads a log, segment after segment.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    chain: Option<Chain>,
    /// Number and last hash of the segment before.
    before: Option<(u64, Link)>,
    segment: u64,
}

impl Reader {
    /// At the start of a log, or in its midst: the first header is believed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Behind a segment of that number that ended with that hash.
    #[must_use]
    pub fn behind(segment: u64, hash: Link) -> Self {
        Self { before: Some((segment, hash)), ..Self::default() }
    }

    /// Takes the next line, without its line feed.
    ///
    /// # Errors
    /// [`ChainError`]. It can be asked on: after a seal that is wrong, it goes by what that seal says.
    pub fn line(&mut self, line: &[u8]) -> Result<Line, ChainError> {
        let read = parse_line(line);
        let Some(chain) = &mut self.chain else {
            let header = match read? {
                Line::Header(header) => header,
                Line::Seal(_) | Line::Other => return Err(ChainError::Header),
            };
            let mut chain = Chain::new(header.previous);
            chain.add(line, 1);
            chain.hasher.update(b"\n");
            (self.chain, self.segment) = (Some(chain), header.segment);
            let said = (header.segment.wrapping_sub(1), header.previous);
            return match self.before.replace(said).filter(|was| *was != said) {
                Some(was) => Err(ChainError::Segment { said, was }),
                None => Ok(Line::Header(header)),
            };
        };
        match read {
            Ok(Line::Seal(seal)) => {
                let checked = chain.check(&seal);
                if checked.is_err() {
                    *chain = Chain::resume(seal.hash, chain.count.saturating_add(1));
                }
                checked.map(|()| Line::Seal(seal))
            }
            read => {
                chain.add(line, 1);
                chain.hasher.update(b"\n");
                match read? {
                    Line::Header(_) => Err(ChainError::Header),
                    other => Ok(other),
                }
            }
        }
    }

    /// The segment ends here: the next line is a header. Gives how many lines were not sealed.
    pub fn end_segment(&mut self) -> u64 {
        let Some(chain) = self.chain.take() else { return 0 };
        self.before = Some((self.segment, chain.last));
        chain.open
    }

    /// Number and last hash of the segment that is read, or that ended last.
    #[must_use]
    pub fn position(&self) -> Option<(u64, Link)> {
        self.chain.as_ref().map(|chain| (self.segment, chain.last)).or(self.before)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use proptest::prelude::*;

    fn header(segment: u64, previous: Link) -> Header {
        Header { time: "2026-01-02T03:04:05.678Z".into(), segment, previous, version: "0.1.0".into() }
    }

    /// A segment with batches of lines, each of them sealed.
    fn segment(number: u64, previous: Link, batches: &[&[&str]]) -> (String, Link) {
        let mut text = format!("{}\n", header(number, previous));
        let mut chain = Chain::new(previous);
        chain.add(text.as_bytes(), 1);
        for batch in batches {
            for line in *batch {
                let line = format!("{line}\n");
                chain.add(line.as_bytes(), 1);
                text.push_str(&line);
            }
            text.push_str(&chain.seal(None));
        }
        (text, chain.last())
    }

    fn read(reader: &mut Reader, text: &str) -> Vec<ChainError> {
        text.lines().filter_map(|line| reader.line(line.as_bytes()).err()).collect()
    }

    #[test]
    fn the_lines_are_as_they_are_documented() {
        let (text, _) = segment(2, Link([0xab; 32]), &[&["{}"]]);
        let hash = {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&[0xab; 32]);
            let (before, _) = text.split_once("\"chain.hash\":\"").unwrap();
            hasher.update(before.as_bytes()).update(b"\"chain.hash\":\"");
            hasher.finalize().to_hex()
        };
        let expected = format!(
            "{{\"event.name\":\"codex.network_proxy.segment\",\"event.timestamp\":\"2026-01-02T03:04:05.678Z\",\"chain.format\":1,\"chain.segment\":2,\
             \"chain.previous\":\"{}\",\"service.version\":\"0.1.0\"}}\n{{}}\n{{\"event.name\":\"codex.network_proxy.seal\",\"chain.count\":2,\"chain.hash\":\"{hash}\"}}\n",
            "ab".repeat(32)
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_log_that_was_left_alone_is_whole() {
        let (one, last) = segment(1, Link::default(), &[&["{\"a\":1}", "{\"b\":2}"], &["{\"c\":3}"]]);
        let (two, end) = segment(2, last, &[&["{\"d\":4}"]]);
        let mut reader = Reader::new();
        assert_eq!(read(&mut reader, &one), []);
        assert_eq!((reader.end_segment(), reader.position()), (0, Some((1, last))));
        assert_eq!(read(&mut reader, &two), []);
        assert_eq!((reader.end_segment(), reader.position()), (0, Some((2, end))));
        // The second does not follow another, nor does it stand alone where another is expected.
        let was = (1, Link([7; 32]));
        assert_eq!(read(&mut Reader::behind(was.0, was.1), &two), [ChainError::Segment { said: (1, last), was }]);
        assert_eq!(read(&mut Reader::behind(3, last), &two), [ChainError::Segment { said: (1, last), was: (3, last) }]);
    }

    #[test]
    fn what_was_changed_is_seen_and_said_once() {
        let (text, _) = segment(1, Link::default(), &[&["{\"a\":1}", "{\"b\":2}"], &["{\"c\":3}"], &["{\"d\":4}"]]);
        let changed = |from: &str, to: &str| read(&mut Reader::new(), &text.replace(from, to));
        assert!(matches!(changed("\"a\":1", "\"a\":2")[..], [ChainError::Hash { .. }]));
        assert!(matches!(
            changed("{\"b\":2}\n", "")[..],
            [ChainError::Count { said: 3, was: 2 }, ChainError::Count { .. }, ChainError::Count { .. }]
        ));
        assert!(matches!(changed("{\"a\":1}\n{\"b\":2}", "{\"b\":2}\n{\"a\":1}")[..], [ChainError::Hash { .. }]));
        assert!(matches!(
            changed("chain.count\":3,", "chain.count\":3,\"chain.unsealed\":1,\"chain.torn\":0,")[..],
            [ChainError::Hash { .. }]
        ));
        assert!(matches!(changed("03:04:05", "03:04:06")[..], [ChainError::Hash { .. }]));
        assert!(matches!(changed("chain.format\":1", "chain.format\":2")[..], [ChainError::Format(2), ..]));
        assert!(matches!(read(&mut Reader::new(), "{}")[..], [ChainError::Header]));
        let twice = format!("{text}{}\n", header(2, Link::default()));
        assert_eq!(read(&mut Reader::new(), &twice), [ChainError::Header]);
    }

    #[test]
    fn what_was_found_after_a_crash_is_sealed_as_such() {
        let (text, last) = segment(1, Link::default(), &[&["{\"a\":1}"]]);
        let mut chain = Chain::resume(last, 3);
        chain.add(b"{\"b\":2}\n", 1);
        let seal = chain.seal(Some(Found { unsealed: 1, torn: 9 }));
        let mut reader = Reader::new();
        let lines = format!("{text}{{\"b\":2}}\n{seal}");
        let read: Vec<Line> = lines.lines().map(|line| reader.line(line.as_bytes()).unwrap()).collect();
        let Some(Line::Seal(seal)) = read.last() else { panic!("{read:?}") };
        assert_eq!((seal.count, seal.found), (4, Some(Found { unsealed: 1, torn: 9 })));
    }

    #[test]
    fn a_line_that_is_almost_one_of_ours_is_refused() {
        let (text, _) = segment(1, Link::default(), &[&[]]);
        for line in text.lines() {
            assert!(!matches!(parse_line(line.as_bytes()).unwrap(), Line::Other));
            let almost = [
                line.replace(':', ": "),
                line.replace('}', ",\"x\":1}"),
                line.replace("\":1", "\":01"),
                line.replace("00\"", "0A\""),
                format!("{line} "),
                line.strip_suffix('}').unwrap().to_owned(),
            ];
            for almost in almost.iter().filter(|almost| *almost != line) {
                let read = parse_line(almost.as_bytes());
                assert!(read == Err(ChainError::Malformed) || read == Ok(Line::Other), "{almost}: {read:?}");
            }
        }
        assert_eq!(parse_line(format!("{SEAL_START}{}", "x".repeat(MAX_LINE)).as_bytes()), Err(ChainError::Malformed));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(segment in any::<u64>(), hash in any::<[u8; 32]>(), count in any::<u64>(), found in any::<Option<(u64, u64)>>()) {
            let header = header(segment, Link(hash));
            prop_assert_eq!(parse_line(header.to_string().as_bytes()), Ok(Line::Header(header)));
            let found = found.map(|(unsealed, torn)| Found { unsealed, torn });
            let line = format!("{}{}\"}}", Seal::start(count, found), Link(hash));
            prop_assert_eq!(parse_line(line.as_bytes()), Ok(Line::Seal(Seal { count, found, hash: Link(hash) })));
        }

        #[test]
        fn any_changed_byte_is_seen(place in any::<prop::sample::Index>(), to in any::<u8>()) {
            let (text, last) = segment(1, Link::default(), &[&["{\"a\":1}", "{\"b\":2}"], &["{\"c\":3}"]]);
            let mut bytes = text.into_bytes();
            let place = place.index(bytes.len() - 1);
            prop_assume!(bytes[place] != to);
            bytes[place] = to;
            let mut reader = Reader::behind(0, Link::default());
            let wrong = bytes.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').filter(|line| reader.line(line).is_err()).count();
            prop_assert!(wrong > 0 || reader.end_segment() > 0 || reader.position() != Some((1, last)));
        }

        #[test]
        fn nothing_panics(lines in prop::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let mut reader = Reader::new();
            for line in lines {
                let _ = reader.line(&line);
            }
            reader.end_segment();
        }
    }
}
