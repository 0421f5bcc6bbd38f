//! How bytes get to the end of a file: through the system's cache, or, where there are many, past it.
//!
//! What goes through the cache is copied to pages of it, each of which has to be found, given a place on the disk, marked and written some time. What goes past it (`O_DIRECT`) the disk
//! takes from where it is, for a third of the processor time a byte, and nothing else is driven out of the cache. It has to be whole blocks: what is left of one goes with what comes
//! next, and the disk has to be waited for: one that takes long has the cache in front of it for the rest of the file.

use policy_format::Fsync;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// Of places in the file, of lengths and of addresses: what goes past the cache begins and ends at multiples of it. No disk in use has larger ones; where a file system asks for more,
/// its files are written through the cache.
const BLOCK: usize = 4 << 10;
/// Bytes at once that are worth going past the cache for.
const MANY: usize = 128 << 10;
/// Bytes that what goes past the cache is collected to, and that are written by one call then: a call to the disk costs as much as some 100 KB.
pub(super) const MOST: usize = 1 << 20;
/// A disk that takes longer for a call is behind: nothing goes past the cache of this file any more.
const PATIENCE: Duration = Duration::from_millis(20);
/// For how many bytes a disk that is behind with what is in the cache is left alone.
const RESPITE: u64 = 16 << 20;
/// For how long it is collected.
const LINGER: Duration = Duration::from_millis(50);
/// Bytes that are written to the cache until they are handed to the disk, and to be forgotten; and how far behind them what the disk had not taken is asked for again.
const FORGET: u64 = 1 << 20;
const BEHIND: u64 = 4 * FORGET;
/// Memory of a buffer that is kept.
const KEPT: usize = 4 * MOST;

/// Lines on their way to a file: some that are sealed and may be written, and behind them some that are not.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// Where they begin, behind what is written; most often at an address that the disk takes ([`Self::align`]).
    start: usize,
    /// How many of them are sealed.
    sealed: usize,
}

impl Buffer {
    /// Lines are put behind what is there, and nothing else is done to it.
    pub(super) fn lines(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(super) fn sealed(&self) -> &[u8] {
        self.bytes.get(self.start..self.start + self.sealed).unwrap_or_default()
    }

    pub(super) fn unsealed(&self) -> &[u8] {
        self.bytes.get(self.start + self.sealed..).unwrap_or_default()
    }

    /// Seals all there is, by that text.
    pub(super) fn seal(&mut self, seal: &str) {
        self.bytes.extend_from_slice(seal.as_bytes());
        self.sealed = self.len();
    }

    /// The first bytes, which were sealed, are written.
    fn written(&mut self, count: usize) {
        self.start += count;
        self.sealed -= count;
        if self.start > self.len() {
            self.align();
            if self.bytes.capacity() > KEPT && self.bytes.len() < MANY {
                self.bytes.shrink_to(MOST);
            }
        }
    }

    fn is_aligned(&self) -> bool {
        self.sealed().as_ptr().align_offset(BLOCK) == 0
    }

    /// Moves all to the front, to an address that the disk takes.
    fn align(&mut self) {
        // What is not there yet, or small, goes through the cache.
        if self.bytes.capacity() < BLOCK {
            return;
        }
        self.bytes.reserve(BLOCK);
        let (front, length) = (self.bytes.as_ptr().align_offset(BLOCK), self.len());
        if self.bytes.len() < front + length {
            self.bytes.resize(front + length, 0);
        }
        self.bytes.copy_within(self.start..self.start + length, front);
        self.bytes.truncate(front + length);
        self.start = front;
    }
}

/// A file, and how its end is written.
#[derive(Debug)]
pub(super) struct Appender {
    file: File,
    size: u64,
    way: Way,
    /// What was in the cache is on the disk before anything goes past it.
    syncs: bool,
    /// A disk that takes longer for a call is behind.
    patience: Duration,
    cached: Cached,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Through the cache, until there is much.
    Cached,
    /// Past the cache; the last call began then.
    Direct(Instant),
    /// Nothing goes past the cache of this file.
    Never,
}

impl Appender {
    /// Of a file that has that size and is written at its end. Unless what is written is to last after each call, it may go past the cache.
    pub(super) fn new(file: File, size: u64, fsync: Fsync) -> Self {
        let may_pass = fsync != Fsync::Always && cfg!(target_os = "linux");
        let way = if may_pass { Way::Cached } else { Way::Never };
        Self { file, size, way, syncs: fsync != Fsync::Never, patience: PATIENCE, cached: Cached::new(size, false) }
    }

    /// However slow the disk is.
    #[cfg(test)]
    pub(super) fn be_patient(&mut self) {
        self.patience = Duration::MAX;
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether it is better to wait for more than to write what little there is.
    pub(super) fn collects(&self) -> bool {
        matches!(self.way, Way::Direct(last) if last.elapsed() < LINGER)
    }

    /// Writes what is sealed. Unless it is to be `all`, part of a block may be left, which is to be offered again soon.
    ///
    /// # Errors
    /// Something is left that cannot be written.
    pub(super) fn append(&mut self, buffer: &mut Buffer, all: bool) -> io::Result<()> {
        if !all && self.may_pass(buffer.sealed) {
            self.pass(buffer)?;
            if self.is_direct() {
                return Ok(());
            }
        }
        self.leave()?;
        while buffer.sealed > 0 {
            self.write(buffer, buffer.sealed)?;
        }
        self.forget();
        Ok(())
    }

    /// Whether so many bytes, which are all there are, go past the cache.
    fn may_pass(&self, count: usize) -> bool {
        match self.way {
            Way::Cached => count >= MANY,
            Way::Direct(_) => count >= BLOCK,
            Way::Never => false,
        }
    }

    fn is_direct(&self) -> bool {
        matches!(self.way, Way::Direct(_))
    }

    /// Has the disk take whole blocks, as long as it does. What is left otherwise is for the cache, which also says what is really wrong.
    fn pass(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        if !self.is_direct() {
            self.enter(buffer)?;
        }
        while self.is_direct() && buffer.sealed >= BLOCK {
            if !buffer.is_aligned() {
                buffer.align();
            }
            let before = Instant::now();
            match self.write(buffer, (buffer.sealed / BLOCK * BLOCK).min(MOST)) {
                // Less was written than whole blocks: the rest of this one goes through the cache.
                Ok(()) if !self.size.is_multiple_of(BLOCK as u64) => self.leave()?,
                Ok(()) if before.elapsed() <= self.patience => self.way = Way::Direct(before),
                // The disk is behind, or full; or the file system does not do that, or wants larger blocks.
                Ok(()) | Err(_) => self.give_up()?,
            }
        }
        Ok(())
    }

    /// Begins to go past the cache, at the beginning of a block.
    fn enter(&mut self, buffer: &mut Buffer) -> io::Result<()> {
        let over = self.size % BLOCK as u64;
        let before = Instant::now();
        if over > 0 {
            let rest = BLOCK - usize::try_from(over).unwrap_or_default();
            self.write(buffer, rest.min(buffer.sealed))?;
        }
        if !self.size.is_multiple_of(BLOCK as u64) {
            return Ok(());
        }
        // A power failure may take the end of a file, but must not leave a hole in front of what the disk has.
        let synced = if self.syncs { self.file.sync_data() } else { Ok(()) };
        let is_direct = synced.is_ok() && before.elapsed() <= self.patience && set_direct(&self.file, true).is_ok();
        self.way = if is_direct { Way::Direct(before) } else { Way::Never };
        synced
    }

    /// Goes through the cache from now on.
    fn leave(&mut self) -> io::Result<()> {
        if self.is_direct() {
            set_direct(&self.file, false)?;
            self.way = Way::Cached;
            self.cached = Cached::new(self.size, false);
        }
        Ok(())
    }

    /// The same, as long as the file lasts.
    fn give_up(&mut self) -> io::Result<()> {
        self.leave()?;
        self.way = Way::Never;
        Ok(())
    }

    /// One call, for so many bytes.
    fn write(&mut self, buffer: &mut Buffer, count: usize) -> io::Result<()> {
        match self.file.write(buffer.sealed().get(..count).unwrap_or_default()) {
            Ok(0) => Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                buffer.written(written);
                self.size += written as u64;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Hands what was written to the cache to the disk, and does not wait until it is there. An advice: what comes of it is the system's affair.
    fn forget(&mut self) {
        let Some((start, length)) = self.cached.part(self.size) else { return };
        let before = Instant::now();
        forget(&self.file, start, length);
        self.cached = Cached::new(self.size, before.elapsed() > self.patience);
    }
}

/// What the system's cache may have of a file. Nobody reads soon what was written, so there is little use in it; and pages that come back at once are the next that are written to,
/// where a log that grows through all the memory there is takes new ones all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cached {
    /// All before was handed to the disk.
    from: u64,
    /// The size at which what is behind is handed over, too.
    due: u64,
}

impl Cached {
    /// Of a file that had that size when it was handed over.
    fn new(size: u64, is_slow: bool) -> Self {
        Self { from: size, due: size.saturating_add(if is_slow { RESPITE } else { FORGET }) }
    }

    /// The part of a file of that size that is to be forgotten now.
    fn part(self, size: u64) -> Option<(u64, NonZeroU64)> {
        let start = self.from.saturating_sub(BEHIND);
        (size >= self.due).then(|| Some((start, NonZeroU64::new(size - start)?)))?
    }
}

#[cfg(target_os = "linux")]
fn forget(file: &File, start: u64, length: NonZeroU64) {
    let _ = rustix::fs::fadvise(file, start, Some(length), rustix::fs::Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
fn forget(_file: &File, _start: u64, _length: NonZeroU64) {}

/// What is written to a file goes past the cache from now on, or does not.
#[cfg(target_os = "linux")]
fn set_direct(file: &File, is_direct: bool) -> io::Result<()> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, is_direct);
    Ok(fcntl_setfl(file, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn set_direct(_file: &File, _is_direct: bool) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(test)]
#[path = "append/tests.rs"]
mod tests;
