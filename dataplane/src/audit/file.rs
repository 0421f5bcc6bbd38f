//! A file of JSON lines: appended to, rotated by size and age, and chained by hashes (`policy_format::chain`).
//!
//! What cannot be written is kept, within bounds, and tried again. A batch of lines is sealed before it is written, so that the chain holds whatever the disk does.

mod append;

use self::append::{Appender, Buffer, MOST};
use super::json::{Encoder, Stamp, VERSION, date};
use super::record::{Event, now};
use super::setup::FileSpec;
use super::sink::Sink;
use memchr::memmem;
use policy_format::Fsync;
use policy_format::chain::{Chain, Found, Header, Line, Link, MAX_LINE, SEAL_START, Seal, parse_line};
use policy_format::events::LINE_START;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Before a file that could not be written, or moved, is tried again.
const PAUSE: Duration = Duration::from_secs(1);
const ROTATE_PAUSE: Duration = Duration::from_secs(60);
/// Bytes of a file that are read at once.
const PIECE: u64 = 256 << 10;

/// The sink.
pub(super) struct FileSink {
    spec: FileSpec,
    encoder: Encoder,
    /// `None` while a predecessor has it.
    open: Option<Open>,
    buffer: Buffer,
    /// Events in it that are not sealed, and those that are.
    count: usize,
    events: usize,
    /// How far the chain has what is not sealed: events and bytes.
    chained: (usize, usize),
    lost: u64,
    /// Until when nothing is tried, and why.
    paused: Option<(Instant, String)>,
    rotate_again: Option<Instant>,
}

/// The file, and where its chain stands.
struct Open {
    end: Appender,
    /// When it was begun.
    began: u64,
    chain: Option<(u64, Chain)>,
    /// There is an event in it from this process, or before.
    used: bool,
}

/// The folder of a file.
pub(super) fn folder(file: &Path) -> Option<PathBuf> {
    match file.parent()? {
        folder if folder.as_os_str().is_empty() => Some(PathBuf::from(".")),
        folder => Some(folder.to_owned()),
    }
}

impl FileSink {
    /// Opens it, or makes it.
    pub(super) fn open(spec: FileSpec) -> Result<Self, String> {
        let mut sink = Self {
            encoder: Encoder::new(&spec.form),
            spec,
            open: None,
            buffer: Buffer::default(),
            count: 0,
            events: 0,
            chained: (0, 0),
            lost: 0,
            paused: None,
            rotate_again: None,
        };
        check(&sink.spec)?;
        let path = sink.spec.path.display().to_string();
        match sink.attach(None) {
            Ok(()) => Ok(sink),
            Err(error) if error.kind() == ErrorKind::WouldBlock && sink.spec.waits => Ok(sink),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(format!("the audit file `{path}` is written by another process; each proxy has a file of its own"))
            }
            Err(error) => Err(format!("the audit file `{path}` cannot be opened: {error}")),
        }
    }

    /// Opens the file at the path and goes on where it ends. `after`: number and last hash of the segment before it, where they are known.
    fn attach(&mut self, after: Option<(u64, Link)>) -> io::Result<()> {
        let mut file = open(&self.spec)?;
        let size = file.metadata()?.len();
        let mut began = now();
        let mut chain = None;
        if size > 0 {
            began = age(&file).unwrap_or(began);
            if self.spec.chain {
                match recover(&mut file, size)? {
                    Some(recovered) => {
                        let mut going_on = recovered.chain;
                        if recovered.found != Found::default() {
                            file.set_len(size - recovered.found.torn)?;
                            let seal = going_on.seal(Some(recovered.found));
                            file.write_all(seal.as_bytes())?;
                        }
                        chain = Some((recovered.segment, going_on));
                    }
                    // What is no segment of a chain, but was written by a proxy, is moved out of the way, as it is.
                    None => {
                        if !is_ours(&mut file)? {
                            return Err(io::Error::other(
                                "its first line is none of an audit log: name another file, or move this one out of the way",
                            ));
                        }
                        drop(file);
                        fs::rename(&self.spec.path, self.free_name(None))?;
                        return self.attach(after);
                    }
                }
            } else if !ends_in_line_feed(&mut file, size)? {
                file.write_all(b"\n")?;
            }
        }
        if self.spec.chain && chain.is_none() {
            let (segment, previous) = after.or_else(|| self.last_segment()).unwrap_or_default();
            let header = Header {
                time: String::from_utf8_lossy(Stamp::default().of(now())).into_owned(),
                segment: segment.saturating_add(1),
                previous,
                version: VERSION.to_owned(),
            };
            let line = format!("{header}\n");
            file.write_all(line.as_bytes())?;
            let mut new = Chain::new(previous);
            new.add(line.as_bytes(), 1);
            chain = Some((header.segment, new));
        }
        let size = file.metadata()?.len();
        let used = size > 0 && chain.as_ref().is_none_or(|(_, chain)| chain.open() == 0);
        let end = Appender::new(file, size, self.spec.fsync);
        self.open = Some(Open { end, began, chain, used });
        Ok(())
    }

    /// Has the chain of the file that is open go on over what was encoded, before too much of it has left the processor's cache.
    fn chain(&mut self) {
        let Some(open) = &mut self.open else { return };
        let ((count, bytes), lines) = (self.chained, self.buffer.unsealed());
        if let Some((_, chain)) = &mut open.chain {
            chain.add(lines.get(bytes..).unwrap_or_default(), (self.count - count) as u64);
        }
        self.chained = (self.count, lines.len());
    }

    /// Seals what was encoded, for the file that is open.
    fn seal(&mut self) {
        self.chain();
        let Some(open) = &mut self.open else { return };
        if self.count == 0 {
            return;
        }
        let seal = open.chain.as_mut().map(|(_, chain)| chain.seal(None));
        self.buffer.seal(seal.as_deref().unwrap_or_default());
        self.events += std::mem::take(&mut self.count);
        self.chained = (0, 0);
        open.used = true;
    }

    /// Writes what is sealed; unless it is to be `all`, part of a block may be left.
    fn write_out(&mut self, all: bool) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if self.buffer.sealed().is_empty() {
            return Ok(());
        }
        let done = open.end.append(&mut self.buffer, all);
        self.events = events_in(self.buffer.sealed());
        done?;
        if self.spec.fsync == Fsync::Always {
            open.end.file().sync_data()?;
        }
        Ok(())
    }

    fn go_on(&mut self) -> io::Result<()> {
        if let Some((until, why)) = &self.paused {
            if Instant::now() < *until {
                return Err(io::Error::other(why.clone()));
            }
            self.paused = None;
        }
        let done = self.step(false);
        if let Err(error) = &done {
            self.paused = Some((Instant::now() + PAUSE, error.to_string()));
        }
        done
    }

    fn step(&mut self, all: bool) -> io::Result<()> {
        if self.open.is_none() {
            if self.pending() == 0 {
                return Ok(());
            }
            match self.attach(None) {
                // The predecessor still has it.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                attached => attached?,
            }
        }
        if !all && self.buffer.len() < self.enough() && self.open.as_ref().is_some_and(|open| open.end.collects()) {
            self.chain();
            return Ok(());
        }
        self.seal();
        self.write_out(all)?;
        if self.is_due() {
            self.write_out(true)?;
            self.rotate()?;
        }
        Ok(())
    }

    /// Bytes that are worth going on with at once: no more than a whole file may have, or half of what may wait. A file that has some already may get so much more than it should.
    fn enough(&self) -> usize {
        let most = usize::try_from(self.spec.rotate_bytes).ok().filter(|most| *most > 0).unwrap_or(MOST);
        MOST.min(self.spec.backlog / 2).min(most)
    }

    /// How many bytes are to wait until it is gone on. Where more than enough do, it is not tried for each event.
    fn next_stop(&self) -> usize {
        let enough = self.enough();
        enough.max(self.buffer.len() + enough / 4)
    }

    fn is_due(&self) -> bool {
        let Some(open) = &self.open else { return false };
        if !open.used || self.rotate_again.is_some_and(|again| Instant::now() < again) {
            return false;
        }
        let age = u64::try_from(self.spec.rotate_age.as_millis()).unwrap_or(u64::MAX);
        (self.spec.rotate_bytes > 0 && open.end.size() >= self.spec.rotate_bytes) || (age > 0 && now().saturating_sub(open.began) >= age)
    }

    /// Moves the file out of the way and begins the next. All that is sealed is in it.
    fn rotate(&mut self) -> io::Result<()> {
        let failed = |error: io::Error| io::Error::other(format!("it cannot be rotated, and grows: {error}"));
        let Some(open) = &mut self.open else { return Ok(()) };
        if self.spec.fsync != Fsync::Never {
            open.end.file().sync_data()?;
        }
        let position = open.chain.as_ref().map(|(segment, chain)| (*segment, chain.last()));
        let name = self.free_name(position.map(|(segment, _)| segment));
        if let Err(error) = fs::rename(&self.spec.path, &name) {
            self.rotate_again = Some(Instant::now() + ROTATE_PAUSE);
            return Err(failed(error));
        }
        // Without it, the old one goes on, under its new name: nothing is lost.
        let old = self.open.take();
        if let Err(error) = self.attach(position) {
            let _ = fs::rename(&name, &self.spec.path);
            self.open = old;
            self.rotate_again = Some(Instant::now() + ROTATE_PAUSE);
            return Err(failed(error));
        }
        self.rotate_again = None;
        self.prune();
        if self.spec.fsync != Fsync::Never
            && let Some(folder) = folder(&self.spec.path)
        {
            // Where a folder cannot be opened, there is nothing that it could be told.
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }

    /// The name of a file before the mark of its time, and behind it.
    fn names(&self) -> (String, String) {
        let part = |part: Option<&OsStr>| part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default();
        let extension = self.spec.path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
        (format!("{}.", part(self.spec.path.file_stem())), extension)
    }

    /// `audit.20260102T030405Z-7.jsonl`, with the number of the segment; without one, the first that is free.
    fn free_name(&self, segment: Option<u64>) -> PathBuf {
        let (before, behind) = self.names();
        let seconds = now() / 1000;
        let (year, month, day) = date(seconds / 86_400);
        let second = seconds % 86_400;
        let time = format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60);
        let first = segment.unwrap_or(1);
        let names = (first..).map(|number| self.spec.path.with_file_name(format!("{before}{time}-{number}{behind}")));
        let mut names = names.take(100_000);
        names.find(|name| fs::symlink_metadata(name).is_err()).unwrap_or_else(|| self.spec.path.with_extension("old"))
    }

    /// Files that were rotated, the oldest first.
    fn rotated(&self) -> Vec<PathBuf> {
        let (before, behind) = self.names();
        let Some(Ok(entries)) = folder(&self.spec.path).map(fs::read_dir) else { return Vec::new() };
        let mut found: Vec<(String, u64, PathBuf)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name().into_string().ok()?;
                let mark = name.strip_prefix(&before)?.strip_suffix(&behind)?;
                let (time, number) = mark.split_once('-')?;
                let is_time = time.len() == 16 && time.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'T' | b'Z'));
                is_time.then(|| Some((time.to_owned(), number.parse().ok()?, entry.path())))?
            })
            .collect();
        found.sort();
        found.into_iter().map(|(_, _, path)| path).collect()
    }

    fn prune(&self) {
        let rotated = self.rotated();
        if self.spec.keep > 0 && rotated.len() > self.spec.keep {
            // Whoever cannot remove one now can the next time.
            rotated.iter().take(rotated.len() - self.spec.keep).for_each(|old| _ = fs::remove_file(old));
        }
    }

    /// Number and last hash of the segment that was rotated last, where there is one.
    fn last_segment(&self) -> Option<(u64, Link)> {
        self.rotated().iter().rev().find_map(|path| {
            let mut file = File::open(path).ok()?;
            let size = file.metadata().ok()?.len();
            let recovered = recover(&mut file, size).ok()??;
            Some((recovered.segment, recovered.sealed))
        })
    }
}

impl Sink for FileSink {
    fn name(&self) -> &'static str {
        "file"
    }

    fn write(&mut self, events: &[Event]) -> io::Result<()> {
        // What comes behind its time is not in it.
        let rotated = if self.pending() == 0 && self.is_due() { self.rotate() } else { Ok(()) };
        let mut done = Ok(());
        let mut next = self.next_stop();
        for event in events {
            if self.spec.form.lossy && self.buffer.len() >= self.spec.backlog {
                self.lost += 1;
                continue;
            }
            self.encoder.line(self.buffer.lines(), event);
            self.count += 1;
            if self.buffer.len() >= next {
                done = self.go_on();
                next = self.next_stop();
            }
        }
        rotated.and(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.go_on()
    }

    fn pending(&self) -> usize {
        self.events + self.count
    }

    fn due(&self) -> Option<Instant> {
        let open = self.open.as_ref().filter(|open| open.used && !self.spec.rotate_age.is_zero())?;
        let age = u64::try_from(self.spec.rotate_age.as_millis()).unwrap_or(u64::MAX);
        let left = open.began.saturating_add(age).saturating_sub(now());
        let due = Instant::now().checked_add(Duration::from_millis(left))?;
        Some(self.rotate_again.map_or(due, |again| due.max(again)))
    }

    fn has_room(&self) -> bool {
        self.buffer.len() < self.spec.backlog / 2
    }

    fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.paused = None;
        self.step(true)?;
        let Some(open) = &mut self.open else { return Ok(()) };
        if is_at(open.end.file(), &self.spec.path) {
            return Ok(());
        }
        if self.spec.fsync != Fsync::Never {
            open.end.file().sync_data()?;
        }
        let position = open.chain.as_ref().map(|(segment, chain)| (*segment, chain.last()));
        let old = self.open.take();
        let attached = self.attach(position);
        if attached.is_err() {
            self.open = old;
        }
        attached
    }

    fn close(&mut self, deadline: Instant) -> io::Result<()> {
        self.paused = None;
        loop {
            let done = self.step(true);
            let left = deadline.saturating_duration_since(Instant::now());
            if done.is_ok() && self.pending() == 0 {
                break;
            }
            if left.is_zero() {
                return done;
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
        // Somebody else may write to it then; what comes all the same opens it again.
        match self.open.take() {
            Some(open) if self.spec.fsync != Fsync::Never => open.end.file().sync_data(),
            _ => Ok(()),
        }
    }
}

/// Events that have not been written wholly. The end of a seal that a full disk has cut in two counts as one: somebody has to come back for it.
fn events_in(sealed: &[u8]) -> usize {
    let is_seal = |line: &&[u8]| line.starts_with(SEAL_START.as_bytes());
    let lines = sealed.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !is_seal(line)).count().max(usize::from(!sealed.is_empty()))
}

/// Where a segment ends.
struct Recovered {
    segment: u64,
    /// The hash of the last seal; the header's where there is none.
    sealed: Link,
    chain: Chain,
    found: Found,
}

/// Finds out where a segment ends, and what stands behind its last seal. `None`: it is no segment.
fn recover(file: &mut File, size: u64) -> io::Result<Option<Recovered>> {
    let mut first = Vec::new();
    file.rewind()?;
    Read::by_ref(file).take(MAX_LINE as u64).read_to_end(&mut first)?;
    let end = memchr::memchr(b'\n', &first);
    let Some(Ok(Line::Header(header))) = end.and_then(|end| first.get(..end)).map(parse_line) else { return Ok(None) };
    let seal = last_seal(file, size)?;
    let (mut chain, sealed, from) = match &seal {
        Some((seal, end)) => (Chain::resume(seal.hash, seal.count.saturating_add(1)), seal.hash, *end),
        None => (Chain::new(header.previous), header.previous, 0),
    };
    let whole = last_line_feed(file, from, size)?.unwrap_or(from);
    let mut count = 0;
    let mut place = from;
    while place < whole {
        let lines = piece(file, place, (place + PIECE).min(whole))?;
        let feeds = memchr::memchr_iter(b'\n', &lines).count() as u64;
        chain.add(&lines, feeds);
        count += feeds;
        place += lines.len() as u64;
    }
    file.seek(SeekFrom::End(0))?;
    let torn = size - whole;
    // The header of a file that has nothing else is sealed with what follows.
    let unsealed = if seal.is_none() && count == 1 && torn == 0 { 0 } else { count };
    Ok(Some(Recovered { segment: header.segment, sealed, chain, found: Found { unsealed, torn } }))
}

/// The bytes from one place to another.
fn piece(file: &mut File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).map_err(io::Error::other)?];
    file.seek(SeekFrom::Start(from))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The last seal, and the place behind its line.
fn last_seal(file: &mut File, size: u64) -> io::Result<Option<(Seal, u64)>> {
    let mut end = size;
    while end > 0 {
        let start = end.saturating_sub(PIECE);
        // One that begins before the end of the piece ends behind it.
        let bytes = piece(file, start, (end + MAX_LINE as u64 + 2).min(size))?;
        let found = memmem::rfind_iter(&bytes, SEAL_START).find_map(|place| {
            let (before, line) = bytes.split_at_checked(place)?;
            let length = memchr::memchr(b'\n', line)?;
            match parse_line(line.get(..length)?) {
                // There is a line before it, if only the header's.
                Ok(Line::Seal(seal)) if before.ends_with(b"\n") => Some((seal, start + (place + length + 1) as u64)),
                _ => None,
            }
        });
        if found.is_some() {
            return Ok(found);
        }
        end = start;
    }
    Ok(None)
}

/// The place behind the last line feed between two places.
fn last_line_feed(file: &mut File, from: u64, to: u64) -> io::Result<Option<u64>> {
    let mut end = to;
    while end > from {
        let start = end.saturating_sub(PIECE).max(from);
        if let Some(place) = memchr::memrchr(b'\n', &piece(file, start, end)?) {
            return Ok(Some(start + place as u64 + 1));
        }
        end = start;
    }
    Ok(None)
}

/// Whether a file begins as the lines of a proxy do, or as half of one.
fn is_ours(file: &mut File) -> io::Result<bool> {
    const STARTS: [&[u8]; 2] = [LINE_START.as_bytes(), b"{\"class_uid\":"];
    let mut first = Vec::new();
    file.rewind()?;
    Read::by_ref(file).take(64).read_to_end(&mut first)?;
    file.seek(SeekFrom::End(0))?;
    Ok(STARTS.iter().any(|start| first.starts_with(start) || start.starts_with(&first)))
}

fn ends_in_line_feed(file: &mut File, size: u64) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::Start(size - 1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// When a file was made.
fn age(file: &File) -> Option<u64> {
    let created = file.metadata().ok()?.created().ok()?;
    u64::try_from(created.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// Whether the file can be trusted to be ours.
fn check(spec: &FileSpec) -> Result<(), String> {
    let path = spec.path.display();
    let no_folder = || format!("the audit file `{path}` has no folder: make it, and give it to the user of the proxy");
    match folder(&spec.path).map(fs::metadata) {
        Some(Ok(folder)) if folder.is_dir() => {}
        _ => return Err(no_folder()),
    }
    let found = match fs::symlink_metadata(&spec.path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|error| format!("the audit file `{path}` cannot be looked at: {error}"))?,
    };
    if found.is_symlink() {
        return Err(format!("the audit file `{path}` is a symbolic link, which somebody may point elsewhere; name the file itself"));
    }
    trusted(spec, &found).map_err(|why| format!("the audit file `{path}` {why}"))
}

/// Whether what was found, or opened, can be trusted to be ours; if not, why.
fn trusted(spec: &FileSpec, found: &fs::Metadata) -> Result<(), String> {
    if !found.is_file() {
        return Err("is no regular file".to_owned());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let user = rustix::process::geteuid().as_raw();
        let ours = [Some(user), spec.owner.map(|(user, _)| user)];
        if !ours.contains(&Some(found.uid())) {
            return Err(format!("belongs to user {}, and the proxy is user {user}; name another, or `chown` it", found.uid()));
        }
        if found.mode() & 0o022 != 0 {
            return Err(format!("can be written by others (mode {:04o}); run `chmod 600 {}`", found.mode() & 0o7777, spec.path.display()));
        }
    }
    #[cfg(not(unix))]
    let _ = spec;
    Ok(())
}

#[cfg(unix)]
fn open(spec: &FileSpec) -> io::Result<File> {
    use rustix::fs::{FlockOperation, OFlags, flock};
    use std::os::unix::fs::OpenOptionsExt;
    let no_links = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    for _ in 0..8 {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(no_links).open(&spec.path)?;
        // Before it can be seen: who finds it locked leaves it alone.
        // Other errors: not every file system has locks.
        if let Err(rustix::io::Errno::WOULDBLOCK) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            return Err(ErrorKind::WouldBlock.into());
        }
        // It may have been moved out of the way in between.
        if !is_at(&file, &spec.path) {
            continue;
        }
        // Whoever rotates it may have made it, or another at its place since it was looked at.
        trusted(spec, &file.metadata()?).map_err(|why| io::Error::other(format!("it {why}")))?;
        if let Some((user, group)) = spec.owner
            && rustix::process::geteuid().is_root()
        {
            rustix::fs::fchown(&file, Some(rustix::fs::Uid::from_raw(user)), Some(rustix::fs::Gid::from_raw(group)))?;
        }
        return Ok(file);
    }
    Err(io::Error::other("it is replaced all the time"))
}

#[cfg(not(unix))]
fn open(spec: &FileSpec) -> io::Result<File> {
    let file = OpenOptions::new().read(true).append(true).create(true).open(&spec.path)?;
    trusted(spec, &file.metadata()?).map_err(|why| io::Error::other(format!("it {why}")))?;
    Ok(file)
}

/// Whether the file is the one at the path.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |one: fs::Metadata, other: fs::Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
    file.metadata().is_ok_and(|one| fs::symlink_metadata(path).is_ok_and(|other| same(one, other)))
}

#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
#[path = "file/tests.rs"]
mod tests;
