//! Domain lists: files of up to millions of hosts, in the formats that block lists are published in.
//!
//! A list is read as a stream, line by line, and nothing of it is kept here: every entry goes to the caller as it is found. The lines of a long list are taken apart
//! on other threads (`batch.rs`), which changes nothing of what is given, nor of its order. A line is one of four things.
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

mod batch;
mod decode;
mod formats;

pub use formats::{LineError, LineKind, parse_line};

use batch::{Chunk, Threads};
use decode::{Counted, Encoding};
use policy_format::HostsRef;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListEntry<'a> {
    /// The line, from 1.
    pub line: u32,
    /// Which hosts, normalised. Never [`HostsRef::Any`].
    pub hosts: HostsRef<'a>,
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
    each: &mut dyn FnMut(ListEntry<'_>),
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
    each: &mut dyn FnMut(ListEntry<'_>),
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
    each: &mut dyn FnMut(ListEntry<'_>),
) -> Result<ListReport, ListError> {
    let shown = || path.display().to_string();
    let (file, total) = open(path)?;
    let encoding = Encoding::of(path);
    let used = Rc::new(Cell::new(0));
    let mut source = encoding
        .decoder(Counted::new(file, Rc::clone(&used)))
        .ok_or_else(|| ListError::NotBuilt { path: shown(), encoding: encoding.as_str() })?;

    let (mut report, mut reported) = (ListReport::default(), 0);
    let mut reading = Reading { limits, lines: 0, bytes: 0, buffer: Vec::new(), overlong: false };
    let read = batch::in_order(
        Threads::for_bytes(total),
        format,
        |give| {
            reading.all(source.as_mut(), give, &mut || {
                let used = used.get();
                if used >= reported + PROGRESS_STEP {
                    reported = used;
                    progress(Progress { read: used, total });
                }
            })?;
            reading.give_rest(give)
        },
        |batch| batch.give(&mut report, each),
    );
    let line = reading.lines;
    read.map_err(|stopped| match stopped {
        Stopped::Failed(error) => ListError::Read { path: shown(), encoding: encoding.as_str(), line, byte: used.get(), error },
        Stopped::TooLarge => ListError::TooLarge { path: shown(), limit: limits.bytes, line },
        Stopped::TooManyLines => ListError::TooManyLines { path: shown(), limit: limits.lines },
    })?;
    report.bytes = reading.bytes;
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

/// Why the reading stopped before the end.
enum Stopped {
    Failed(io::Error),
    TooLarge,
    TooManyLines,
}

/// Bytes that are cut into lines together.
const CHUNK: usize = 256 << 10;
/// What is kept of a line that is too long: so much that it still is without a byte order mark.
const OVERLONG: usize = MAX_LINE + BOM.len() + 1;

/// Cuts a text into chunks of whole lines.
struct Reading {
    limits: Limits,
    /// Lines that were given.
    lines: u32,
    /// Bytes that were read.
    bytes: u64,
    /// What was read and not yet given.
    buffer: Vec<u8>,
    /// Whether the line at the end of the buffer is too long, and what follows of it is thrown away.
    overlong: bool,
}

impl Reading {
    /// Gives all that has an end; what follows the last end stays in the buffer. `step` is called now and then.
    fn all(&mut self, source: &mut dyn BufRead, give: &mut dyn FnMut(Chunk), step: &mut dyn FnMut()) -> Result<(), Stopped> {
        loop {
            let piece = match source.fill_buf() {
                Ok([]) => return self.give_whole_lines(give),
                Ok(piece) => piece,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.give_whole_lines(give).and(Err(Stopped::Failed(error))),
            };
            let count = piece.len();
            self.bytes += count as u64;
            if self.bytes > self.limits.bytes {
                return self.give_whole_lines(give).and(Err(Stopped::TooLarge));
            }
            self.keep(piece);
            source.consume(count);
            if self.buffer.len() >= CHUNK {
                self.give_whole_lines(give)?;
            }
            step();
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        let end = if self.overlong { memchr::memchr(b'\n', piece) } else { Some(0) };
        if let Some(rest) = end.and_then(|at| piece.get(at..)) {
            self.overlong = false;
            self.buffer.extend_from_slice(rest);
        }
    }

    fn give_whole_lines(&mut self, give: &mut dyn FnMut(Chunk)) -> Result<(), Stopped> {
        if let Some(end) = memchr::memrchr(b'\n', &self.buffer) {
            let mut next = Vec::with_capacity(CHUNK + CHUNK / 4);
            next.extend_from_slice(self.buffer.get(end + 1..).unwrap_or_default());
            let mut text = std::mem::replace(&mut self.buffer, next);
            text.truncate(end);
            self.give(text, give)?;
        }
        if self.buffer.len() > OVERLONG {
            self.buffer.truncate(OVERLONG);
            self.overlong = true;
        }
        Ok(())
    }

    /// Gives the last line, if it has no end.
    fn give_rest(&mut self, give: &mut dyn FnMut(Chunk)) -> Result<(), Stopped> {
        let text = std::mem::take(&mut self.buffer);
        if text.is_empty() { Ok(()) } else { self.give(text, give) }
    }

    /// Gives lines, of which the last is without its end, and no more of them than there may be.
    fn give(&mut self, mut text: Vec<u8>, give: &mut dyn FnMut(Chunk)) -> Result<(), Stopped> {
        let ends = memchr::memchr_iter(b'\n', &text).count();
        let room = self.limits.lines - self.lines;
        let fits = u32::try_from(ends).ok().and_then(|ends| ends.checked_add(1)).filter(|lines| *lines <= room);
        if fits.is_none() {
            let end = (room as usize).checked_sub(1).and_then(|last| memchr::memchr_iter(b'\n', &text).nth(last));
            text.truncate(end.unwrap_or(0));
        }
        let lines = fits.unwrap_or(room);
        if lines > 0 {
            give(Chunk { text, before: self.lines });
            self.lines += lines;
        }
        fits.map(|_| ()).ok_or(Stopped::TooManyLines)
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
