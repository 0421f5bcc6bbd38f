//! Whether audit logs are as they were written: the hash chain of their segments ([`policy_format::chain`]).
//!
//! Whoever changes a log can write its chain anew, from there to the end. So each last hash that somebody notes elsewhere holds for all that stands before it: it has to be
//! found again.

use crate::log::Lines;
use policy_format::chain::{self, Chain, ChainError, Header, Link, Seal};
use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read};

/// Things that are said of one log; what follows is counted.
const MAX_FINDINGS: usize = 100;

/// What is wrong with a log, or worth knowing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Of which kind.
    pub kind: Kind,
    /// The file, as it was named; empty where it is about all of them.
    pub file: String,
    /// The line, from 1.
    pub line: Option<u64>,
    /// What it is: lower case, no final stop.
    pub message: String,
}

/// The kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Lines were changed, taken away or put in.
    Changed,
    /// A line begins as a header or a seal does, and is none; or it is longer than any.
    Malformed,
    /// The file is no segment of a chained log, or is several.
    Header,
    /// Two files are the same segment.
    Twice,
    /// A segment is not there.
    Missing,
    /// A segment does not go on where the one before ends.
    Joint,
    /// Lines that no seal holds.
    Unsealed,
    /// A hash that was noted is not there.
    NotSeen,
    /// The first segment is not the first of the log. That is no fault.
    Begins,
    /// Lines were sealed after a crash. That is no fault.
    Recovered,
    /// Lines are not sealed yet. That is no fault.
    Open,
}

impl Kind {
    /// The name that machines read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Malformed => "malformed",
            Self::Header => "header",
            Self::Twice => "twice",
            Self::Missing => "missing",
            Self::Joint => "joint",
            Self::Unsealed => "unsealed",
            Self::NotSeen => "not-seen",
            Self::Begins => "begins",
            Self::Recovered => "recovered",
            Self::Open => "open",
        }
    }

    /// Whether the log is not as it was written, or cannot be shown to be.
    #[must_use]
    pub fn is_wrong(self) -> bool {
        !matches!(self, Self::Begins | Self::Recovered | Self::Open)
    }
}

impl fmt::Display for Finding {
    /// `audit.jsonl:7: what it is`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.file.as_str(), self.line) {
            ("", _) => write!(f, "{}", self.message),
            (file, Some(line)) => write!(f, "{file}:{line}: {}", self.message),
            (file, None) => write!(f, "{file}: {}", self.message),
        }
    }
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The file, as it was named.
    pub file: String,
    /// Its number in the log; `None` where it has no header.
    pub number: Option<u64>,
    /// Its lines.
    pub lines: u64,
    /// Those of them that are seals.
    pub seals: u64,
    /// The hash of its last seal; without one, that which its header has.
    pub last: Link,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// The files, in the order of the log.
    pub segments: Vec<Segment>,
    /// What is wrong, and what is worth knowing, in the order of the log.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more: u64,
}

impl Verified {
    /// Whether all of it is as it was written.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.more == 0 && !self.findings.iter().any(|finding| finding.kind.is_wrong())
    }
}

/// How to look.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The last file is being written: lines behind its last seal are no fault.
    pub open: bool,
    /// Hashes that were noted before: each has to be that of a seal.
    pub noted: Vec<Link>,
}

/// Which segment a file is, by its first line; `None` where it is none.
///
/// # Errors
/// What the file cannot be read for.
pub fn number_of(input: impl Read) -> io::Result<Option<u64>> {
    let mut lines = Lines::new(input.take(2 * chain::MAX_LINE as u64));
    let first = lines.next()?;
    Ok(first.and_then(|line| match chain::parse_line(line.bytes) {
        Ok(chain::Line::Header(header)) => Some(header.segment),
        _ => None,
    }))
}

/// Checks the files of a log, one after another, in the order of their segments.
#[derive(Debug)]
pub struct Verifier {
    options: Options,
    verified: Verified,
    missing: BTreeSet<[u8; 32]>,
    /// Number and last hash of the segment before, and its file.
    before: Option<(u64, Link, String)>,
}

impl Verifier {
    /// At the start of a log, or in its midst.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let missing = options.noted.iter().map(|link| link.0).collect();
        Self { options, verified: Verified::default(), missing, before: None }
    }

    /// Reads the next segment to its end. `is_last`: no other file is newer.
    ///
    /// # Errors
    /// What the file cannot be read for.
    pub fn read(&mut self, file: &str, is_last: bool, input: impl Read) -> io::Result<()> {
        let mut lines = Lines::new(input);
        let mut segment = Segment { file: file.to_owned(), number: None, lines: 0, seals: 0, last: Link::default() };
        let mut chain: Option<Chain> = None;
        // The line of the last seal, or of the header.
        let mut sealed = 0;
        let mut torn = false;
        while let Some(line) = lines.next()? {
            segment.lines = line.number;
            let mut found = Finding { kind: Kind::Malformed, file: file.to_owned(), line: Some(line.number), message: String::new() };
            if line.too_long {
                found.message = "a line that is longer than any event: nothing behind it can be checked".into();
                self.find(found);
                break;
            }
            let parsed = chain::parse_line(line.bytes);
            let Some(chain) = &mut chain else {
                let Ok(chain::Line::Header(header)) = parsed else {
                    self.find(Finding { kind: Kind::Header, message: no_header(&parsed), ..found });
                    break;
                };
                self.follow(&header, file);
                chain = Some(begin(&header, line.bytes));
                (segment.number, segment.last, sealed) = (Some(header.segment), header.previous, line.number);
                continue;
            };
            torn = !line.ended;
            match parsed {
                Ok(chain::Line::Seal(seal)) if line.ended => {
                    if let Err(error) = chain.check(&seal) {
                        self.find(Finding { kind: Kind::Changed, message: changed(error, sealed, line.number), ..found });
                        *chain = Chain::resume(seal.hash, seal.count.saturating_add(1));
                    } else {
                        self.recovered(&seal, found);
                    }
                    self.missing.remove(&seal.hash.0);
                    (segment.seals, segment.last, sealed) = (segment.seals + 1, seal.hash, line.number);
                    continue;
                }
                Ok(chain::Line::Header(_)) => {
                    let message = "a header in the midst of a segment: another file was put in here, or two were joined".into();
                    self.find(Finding { kind: Kind::Header, message, ..found });
                }
                Err(error) if line.ended => {
                    found.message = format!("{error}: it was changed, or put in");
                    self.find(found);
                }
                _ => {}
            }
            chain.add(line.bytes, 0);
            chain.add(b"\n", 1);
        }
        if segment.lines == 0 {
            let message = "the file is empty: a segment begins with its header".to_owned();
            self.find(Finding { kind: Kind::Header, file: file.to_owned(), line: None, message });
        }
        // A header by itself is sealed by what comes behind it.
        if chain.is_some() && segment.lines > sealed {
            self.unsealed(file, is_last, sealed + 1, segment.lines - sealed, torn);
        }
        if let Some(number) = segment.number {
            self.before = Some((number, segment.last, file.to_owned()));
        }
        self.verified.segments.push(segment);
        Ok(())
    }

    /// What was found.
    #[must_use]
    pub fn finish(mut self) -> Verified {
        for missing in std::mem::take(&mut self.missing) {
            let message =
                format!("no seal has the hash {}, which was noted: the log was cut off before it, or written anew", Link(missing));
            self.find(Finding { kind: Kind::NotSeen, file: String::new(), line: None, message });
        }
        self.verified
    }

    fn find(&mut self, finding: Finding) {
        match self.verified.findings.len() < MAX_FINDINGS {
            true => self.verified.findings.push(finding),
            false => self.verified.more += u64::from(finding.kind.is_wrong()),
        }
    }

    /// Holds a header against the segment before.
    fn follow(&mut self, header: &Header, file: &str) {
        let at = |kind, message| Finding { kind, file: file.to_owned(), line: Some(1), message };
        let number = header.segment;
        let finding = match &self.before {
            None if number <= 1 && header.previous != Link::default() => {
                Some(at(Kind::Joint, "the first segment of a log follows none, and this says that it does".to_owned()))
            }
            None if number <= 1 => None,
            None => Some(at(Kind::Begins, format!("this is segment {number}: what was written before it is not among these files"))),
            Some((before, _, other)) if number == *before => {
                Some(at(Kind::Twice, format!("this is segment {number}, and so is {other}: one of them was copied or put in")))
            }
            Some((before, _, other)) if number.checked_sub(1) != Some(*before) => {
                let gone = match (before.saturating_add(1), number.saturating_sub(1)) {
                    (first, last) if first == last => format!("segment {first} is"),
                    (first, last) => format!("segments {first} to {last} are"),
                };
                Some(at(Kind::Missing, format!("{gone} missing between {other} and this, segment {number}")))
            }
            Some((before, last, other)) if *last != header.previous => Some(at(
                Kind::Joint,
                format!(
                    "this is said to follow a segment {before} that ends with {}, and {other} ends with {last}: one of them was cut off, changed or put in",
                    header.previous
                ),
            )),
            Some(_) => None,
        };
        if let Some(finding) = finding {
            self.find(finding);
        }
    }

    fn recovered(&mut self, seal: &Seal, found: Finding) {
        if let Some(was) = seal.found {
            let message = format!(
                "{} before this line were found without a seal when the log was opened again, and {} bytes of a line without an end were cut off: they may have been changed until then",
                lines_of(was.unsealed),
                was.torn
            );
            self.find(Finding { kind: Kind::Recovered, message, ..found });
        }
    }

    fn unsealed(&mut self, file: &str, is_last: bool, line: u64, count: u64, torn: bool) {
        let what = match count {
            1 => "this line is not sealed".to_owned(),
            count => format!("the {count} lines from here on are not sealed"),
        };
        let torn = if torn { "; the last one has no end" } else { "" };
        let (kind, why) = match is_last && self.options.open {
            true => (Kind::Open, "they may still be on their way"),
            false if is_last => (
                Kind::Unsealed,
                "written by a crash, cut off before the seal, or put in; `--open` lets them pass where the log is being written",
            ),
            false => (Kind::Unsealed, "written by a crash, cut off before the seal, or put in"),
        };
        self.find(Finding { kind, file: file.to_owned(), line: Some(line), message: format!("{what}: {why}{torn}") });
    }
}

fn begin(header: &Header, line: &[u8]) -> Chain {
    let mut chain = Chain::new(header.previous);
    chain.add(line, 0);
    chain.add(b"\n", 1);
    chain
}

fn no_header(parsed: &Result<chain::Line, ChainError>) -> String {
    match parsed {
        Err(error @ ChainError::Format(_)) => error.to_string(),
        Err(_) => "the header of this segment is not as it was written: it was changed".to_owned(),
        Ok(_) => "a segment begins with its header, and this does not: lines were taken away from its start, or it was written with `chain = false`".to_owned(),
    }
}

fn changed(error: ChainError, sealed: u64, line: u64) -> String {
    let between = format!("between line {sealed} and this seal");
    match error {
        ChainError::Count { said, was } if said > was => format!("{} {between} are gone", lines_of(said - was)),
        ChainError::Count { said, was } => format!("{} {between} were put in", lines_of(was.saturating_sub(said))),
        _ if line == sealed + 1 => "this seal is not as it was written".to_owned(),
        _ => format!("what stands {between} is not what was sealed: a line was changed, or lines changed places"),
    }
}

fn lines_of(count: u64) -> String {
    if count == 1 { "1 line".to_owned() } else { format!("{count} lines") }
}
