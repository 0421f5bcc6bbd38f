//! Domain lists: files of up to millions of hosts, in the formats that block lists are published in.
//!
//! A list is read as a stream, line by line, and nothing of it is kept here: every entry goes to the caller as it is found. A line is one of four things.
//! It gives entries; it is blank or a comment (*skipped*); it is a proper rule of its format that says nothing about whole hosts, such as one that hides a part
//! of a page (*ignored*); or it is *bad*. Bad lines never end the reading: they are counted, and the first few are kept with their numbers and what is wrong.
//!
//! [`parse_line`] says what the lines of each format mean.
//!
//! # Compression
//!
//! | extension | decoder |
//! | --- | --- |
//! | `.gz` | gzip (RFC 1952), any number of members |
//! | `.xz` | xz, any number of streams |
//! | `.zst`, `.zstd` | Zstandard (RFC 8878), any number of frames, without dictionaries |
//! | anything else | plain text |
//!
//! Checksums are verified. The decoders are behind the crate's feature `lists`; without it, a compressed list is refused and plain ones are read.
//!
//! # Bounds
//!
//! [`MAX_LINE`] bytes a line, [`MAX_BYTES`] bytes of text, [`MAX_LINES`] lines, and [`MAX_WINDOW`] bytes that a decoder may look back.

mod decode;
mod formats;

pub use formats::{LineError, LineKind, parse_line};

use decode::{Counted, Encoding};
use policy_format::Hosts;
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufRead};
use std::path::Path;
use std::rc::Rc;

/// Bytes in a line, without its end. A longer one is bad, and is not kept in memory.
pub const MAX_LINE: usize = 4096;
/// Bytes of text in a list, decompressed.
pub const MAX_BYTES: u64 = 4 << 30;
/// Lines in a list.
pub const MAX_LINES: u32 = u32::MAX;
/// Bytes that a compressed list may make its decoder remember: what `zstd --long` and `xz -9` ask for, and not more.
pub const MAX_WINDOW: u64 = 128 << 20;
/// Bad lines that a report shows. All are counted.
pub const MAX_SHOWN: usize = 5;

/// Characters of a bad line that a report shows.
const SHOWN_TEXT: usize = 80;
/// Bytes of the file between two reports of progress.
const PROGRESS_STEP: u64 = 256 << 10;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// How the lines of a list are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListFormat {
    /// A pattern a line.
    Domains,
    /// hosts(5).
    Hosts,
    /// Network rules of ad blockers.
    Adblock,
    /// Options of dnsmasq(8).
    Dnsmasq,
}

impl ListFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Domains, Self::Hosts, Self::Adblock, Self::Dnsmasq];

    /// The name that policies use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Domains => "domains",
            Self::Hosts => "hosts",
            Self::Adblock => "adblock",
            Self::Dnsmasq => "dnsmasq",
        }
    }

    /// The format of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == name)
    }
}

/// How far the reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file that were read, compressed ones if it is compressed.
    pub read: u64,
    /// Bytes that the file has.
    pub total: u64,
}

/// What a line of a list says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry {
    /// The line, from 1.
    pub line: u32,
    /// Which hosts. Never [`Hosts::Any`].
    pub hosts: Hosts,
    /// Whether the list says that these hosts are *not* meant (`@@` in ad-block lists).
    pub exception: bool,
}

/// What was in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListReport {
    /// Lines.
    pub lines: u32,
    /// Bytes of text, decompressed.
    pub bytes: u64,
    /// Entries given. A line may give more than one.
    pub entries: u64,
    /// Lines that are blank or comments.
    pub skipped: u32,
    /// Lines that are rules of the format and say nothing about whole hosts.
    pub ignored: u32,
    /// Lines that are wrong.
    pub bad_count: u32,
    /// The first [`MAX_SHOWN`] of them.
    pub bad: Vec<BadLine>,
}

/// A line that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// The line, from 1.
    pub line: u32,
    /// Its beginning, fit to be printed.
    pub text: String,
    /// What is wrong.
    pub why: LineError,
}

/// A list that cannot be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The file itself.
    #[error("cannot open the domain list `{path}`: {error}")]
    Open {
        /// Which file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// A folder, a pipe, a device.
    #[error("the domain list `{path}` is not a regular file")]
    NotAFile {
        /// Which file.
        path: String,
    },
    /// Reading or decompressing failed on the way.
    #[error("cannot read the domain list `{path}` as {encoding} beyond line {line}, at byte {byte} of the file: {error}")]
    Read {
        /// Which file.
        path: String,
        /// `plain text`, `gzip`, `xz` or `zstd`.
        encoding: &'static str,
        /// Whole lines that were read.
        line: u32,
        /// Bytes of the file that were used.
        byte: u64,
        /// Why.
        error: io::Error,
    },
    /// Too much text.
    #[error("the domain list `{path}` has more than {limit} bytes of text, which it reaches after line {line}")]
    TooLarge {
        /// Which file.
        path: String,
        /// The bound, see [`MAX_BYTES`].
        limit: u64,
        /// Whole lines that were read.
        line: u32,
    },
    /// Too many lines.
    #[error("the domain list `{path}` has more than {limit} lines")]
    TooManyLines {
        /// Which file.
        path: String,
        /// The bound, see [`MAX_LINES`].
        limit: u32,
    },
    /// Compressed, and this program cannot decompress.
    #[error(
        "the domain list `{path}` is compressed ({encoding}), and this program was built without decompression (feature `lists`); decompress it first"
    )]
    NotBuilt {
        /// Which file.
        path: String,
        /// `gzip`, `xz` or `zstd`.
        encoding: &'static str,
    },
}

/// Reads a list and gives its entries to `each`, in the order of the file. `progress` hears of every few hundred KiB, and of the end.
///
/// # Errors
/// [`ListError`] if the file cannot be read to its end. The entries before that were given. Bad lines are no error.
pub fn read(
    path: &Path,
    format: ListFormat,
    progress: &mut dyn FnMut(Progress),
    each: &mut dyn FnMut(ListEntry),
) -> Result<ListReport, ListError> {
    read_at_most(MAX_BYTES, path, format, progress, each)
}

/// [`read`], with less text than [`MAX_BYTES`]: what is left of it when several lists are read.
///
/// # Errors
/// As [`read`].
pub fn read_at_most(
    bytes: u64,
    path: &Path,
    format: ListFormat,
    progress: &mut dyn FnMut(Progress),
    each: &mut dyn FnMut(ListEntry),
) -> Result<ListReport, ListError> {
    read_within(path, format, Limits { bytes: bytes.min(MAX_BYTES), lines: MAX_LINES }, progress, each)
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    bytes: u64,
    lines: u32,
}

fn read_within(
    path: &Path,
    format: ListFormat,
    limits: Limits,
    progress: &mut dyn FnMut(Progress),
    each: &mut dyn FnMut(ListEntry),
) -> Result<ListReport, ListError> {
    let shown = || path.display().to_string();
    let (file, total) = open(path)?;
    let encoding = Encoding::of(path);
    let used = Rc::new(Cell::new(0));
    let mut source = encoding
        .decoder(Counted::new(file, Rc::clone(&used)))
        .ok_or_else(|| ListError::NotBuilt { path: shown(), encoding: encoding.as_str() })?;

    let mut lines = Lines { format, limit: limits.lines, report: ListReport::default(), carry: Vec::new(), overlong: false, each };
    let (mut bytes, mut reported) = (0_u64, 0_u64);
    loop {
        let chunk = match source.fill_buf() {
            Ok([]) => break,
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let (line, byte) = (lines.report.lines, used.get());
                return Err(ListError::Read { path: shown(), encoding: encoding.as_str(), line, byte, error });
            }
        };
        let count = chunk.len();
        bytes += count as u64;
        if bytes > limits.bytes {
            return Err(ListError::TooLarge { path: shown(), limit: limits.bytes, line: lines.report.lines });
        }
        lines.feed(chunk).map_err(|TooManyLines| ListError::TooManyLines { path: shown(), limit: limits.lines })?;
        source.consume(count);
        if used.get() >= reported + PROGRESS_STEP {
            reported = used.get();
            progress(Progress { read: reported, total });
        }
    }
    let mut report = lines.finish().map_err(|TooManyLines| ListError::TooManyLines { path: shown(), limit: limits.lines })?;
    report.bytes = bytes;
    progress(Progress { read: used.get(), total });
    Ok(report)
}

/// A regular file and its size. It is looked at before it is opened, because opening a pipe can wait for ever, and afterwards, because it may be another one by then.
fn open(path: &Path) -> Result<(File, u64), ListError> {
    let failed = |error| ListError::Open { path: path.display().to_string(), error };
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(ListError::NotAFile { path: path.display().to_string() });
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(ListError::NotAFile { path: path.display().to_string() });
    }
    Ok((file, metadata.len()))
}

struct TooManyLines;

/// Cuts chunks into lines. Lines that lie in one chunk, nearly all of them, are not copied.
struct Lines<'a> {
    format: ListFormat,
    limit: u32,
    report: ListReport,
    /// The beginning of a line that goes on in the next chunk.
    carry: Vec<u8>,
    /// Whether that line is too long already; `carry` then has enough of it to be shown.
    overlong: bool,
    each: &'a mut dyn FnMut(ListEntry),
}

impl Lines<'_> {
    fn feed(&mut self, mut chunk: &[u8]) -> Result<(), TooManyLines> {
        while let Some((head, tail)) = memchr::memchr(b'\n', chunk).and_then(|at| chunk.split_at_checked(at)) {
            if self.carry.is_empty() {
                self.line(head)?;
            } else {
                self.keep(head);
                self.complete()?;
            }
            chunk = tail.get(1..).unwrap_or_default();
        }
        self.keep(chunk);
        Ok(())
    }

    fn finish(mut self) -> Result<ListReport, TooManyLines> {
        if !self.carry.is_empty() {
            self.complete()?;
        }
        Ok(self.report)
    }

    fn keep(&mut self, part: &[u8]) {
        self.overlong |= self.carry.len() + part.len() > MAX_LINE;
        if !self.overlong {
            self.carry.extend_from_slice(part);
        } else if self.carry.len() < MAX_LINE {
            let room = MAX_LINE - self.carry.len();
            self.carry.extend(part.iter().take(room));
        }
    }

    fn complete(&mut self) -> Result<(), TooManyLines> {
        let mut line = std::mem::take(&mut self.carry);
        if self.overlong {
            self.overlong = false;
            self.count()?;
            self.bad(&line, LineError::TooLong);
        } else {
            self.line(&line)?;
        }
        line.clear();
        self.carry = line;
        Ok(())
    }

    fn count(&mut self) -> Result<u32, TooManyLines> {
        if self.report.lines >= self.limit {
            return Err(TooManyLines);
        }
        self.report.lines += 1;
        Ok(self.report.lines)
    }

    fn line(&mut self, line: &[u8]) -> Result<(), TooManyLines> {
        let number = self.count()?;
        let line = if number == 1 { line.strip_prefix(BOM).unwrap_or(line) } else { line };
        let (each, entries) = (&mut self.each, &mut self.report.entries);
        let kind = parse_line(self.format, line, &mut |hosts, exception| {
            *entries += 1;
            each(ListEntry { line: number, hosts, exception });
        });
        match kind {
            Ok(LineKind::Entries) => {}
            Ok(LineKind::Skipped) => self.report.skipped += 1,
            Ok(LineKind::Ignored) => self.report.ignored += 1,
            Err(why) => self.bad(line, why),
        }
        Ok(())
    }

    fn bad(&mut self, line: &[u8], why: LineError) {
        self.report.bad_count += 1;
        if self.report.bad.len() < MAX_SHOWN {
            self.report.bad.push(BadLine { line: self.report.lines, text: printable(line), why });
        }
    }
}

/// The beginning of a line without what would move a cursor or turn the text around.
fn printable(line: &[u8]) -> String {
    let start = line.get(..4 * SHOWN_TEXT).unwrap_or(line);
    let text = String::from_utf8_lossy(start);
    let text = text.trim();
    let mut shown = String::with_capacity(text.len());
    for c in text.chars().take(SHOWN_TEXT) {
        if matches!(c, '"' | '\'' | '\\') { shown.push(c) } else { shown.extend(c.escape_debug()) }
    }
    if start.len() < line.len() || text.chars().count() > SHOWN_TEXT {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;
