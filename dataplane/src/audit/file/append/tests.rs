#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use super::*;
use proptest::prelude::*;
use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use tempfile::TempDir;

/// A file that is written, and all that should be in it.
struct Written {
    _folder: TempDir,
    path: PathBuf,
    end: Appender,
    buffer: Buffer,
    text: Vec<u8>,
}

impl Written {
    /// Begins with so many bytes.
    fn new(size: usize, fsync: Fsync) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text = vec![b'-'; size];
        fs::write(&path, &text).unwrap();
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        Self { _folder: folder, path, end: Appender::new(file, size as u64, fsync), buffer: Buffer::default(), text }
    }

    /// Seals a text of that length, none of which is like another.
    fn seal(&mut self, length: usize) {
        let text: String =
            (self.text.len()..).map(|at| char::from(b' ' + u8::try_from((at ^ at >> 7 ^ at >> 13) % 90).unwrap())).take(length).collect();
        let (line, seal) = text.split_at(length / 2);
        self.buffer.lines().extend_from_slice(line.as_bytes());
        self.buffer.seal(seal);
        self.text.extend_from_slice(text.as_bytes());
    }

    fn append(&mut self, all: bool) {
        self.end.append(&mut self.buffer, all).unwrap();
    }

    /// How much of it is not in the file.
    fn left(&self) -> usize {
        let found = fs::read(&self.path).unwrap();
        assert_eq!(found.len() as u64, self.end.size());
        assert!(self.text.starts_with(&found), "something else is in the file than was put there");
        assert_eq!(self.text[found.len()..], *self.buffer.sealed());
        self.buffer.len()
    }

    /// Whether the file system has files that are written past the cache.
    fn can_pass(&self) -> bool {
        let can = set_direct(self.end.file(), true).is_ok();
        assert!(set_direct(self.end.file(), false).is_ok() || !can);
        can
    }
}

#[test]
fn little_goes_through_the_cache_at_once_and_much_past_it_in_whole_blocks() {
    for size in [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 17] {
        let mut written = Written::new(size, Fsync::Rotate);
        written.end.be_patient();
        let can_pass = written.can_pass();
        let steps = [
            (1, false),
            (MANY - 1, false),
            (MANY, true),
            // What is left of a block waits no longer.
            (0, false),
            (5 * BLOCK, false),
            (3 * MOST + 5, true),
            (5 * BLOCK, true),
            (BLOCK, true),
            (1, false),
        ];
        for (length, passes) in steps {
            written.seal(length);
            written.append(false);
            let is_direct = passes && can_pass;
            assert_eq!((written.end.is_direct(), written.end.collects()), (is_direct, is_direct), "{size}, {length}");
            assert_eq!(written.left(), if is_direct { written.text.len() % BLOCK } else { 0 }, "{size}, {length}");
        }
        for length in [MANY, MOST + 1] {
            written.seal(length);
            written.append(true);
            assert_eq!(written.left(), 0, "{size}, {length}");
            assert!(!written.end.is_direct());
        }
    }
}

#[test]
fn nothing_is_collected_for_long() {
    let mut written = Written::new(0, Fsync::Never);
    written.end.way = Way::Direct(Instant::now().checked_sub(LINGER).unwrap());
    assert!(!written.end.collects());
    written.end.way = Way::Direct(Instant::now() + LINGER);
    assert!(written.end.collects());
}

#[test]
fn a_disk_that_is_behind_has_the_cache_in_front_of_it_as_long_as_the_file_lasts() {
    let mut written = Written::new(0, Fsync::Rotate);
    written.end.patience = Duration::ZERO;
    for length in [MANY + 1, 3 * MOST] {
        written.seal(length);
        written.append(false);
        assert_eq!((written.left(), written.end.way), (0, Way::Never));
    }
    // Also where it is found out on the way.
    let mut written = Written::new(0, Fsync::Rotate);
    if written.can_pass() {
        set_direct(written.end.file(), true).unwrap();
        written.end.way = Way::Direct(Instant::now());
        written.end.patience = Duration::ZERO;
        written.seal(MANY + 1);
        written.append(false);
        assert_eq!((written.left(), written.end.way), (0, Way::Never));
    }
}

#[test]
fn where_nothing_may_go_past_the_cache_nothing_does() {
    let mut written = Written::new(5, Fsync::Always);
    for length in [MANY, 3 * MOST, 1] {
        written.seal(length);
        written.append(false);
        assert_eq!((written.left(), written.end.way), (0, Way::Never));
    }
}

/// The system refuses what does not begin with a block of the file.
#[test]
fn what_the_file_system_refuses_goes_through_the_cache() {
    let mut written = Written::new(100, Fsync::Rotate);
    written.end.size = 0;
    written.end.be_patient();
    written.seal(MANY);
    written.append(false);
    let found = fs::read(&written.path).unwrap();
    assert_eq!(found, written.text);
    // Some do not refuse it.
    assert!(written.end.way == Way::Never || written.end.is_direct());
}

#[test]
fn what_cannot_be_written_is_still_there() {
    let mut written = Written::new(0, Fsync::Never);
    written.end.file = File::open(&written.path).unwrap();
    for (length, all) in [(10, false), (MANY, false), (MANY, true)] {
        written.seal(length);
        written.end.append(&mut written.buffer, all).unwrap_err();
        assert_eq!(written.left(), written.text.len());
    }
    written.end.file = OpenOptions::new().append(true).open(&written.path).unwrap();
    written.append(true);
    assert_eq!(written.left(), 0);
}

#[test]
fn what_went_through_the_cache_is_forgotten_piece_by_piece_and_what_the_disk_had_not_taken_again() {
    let part = |start, end: u64| Some((start, NonZeroU64::new(end - start).unwrap()));
    for (from, is_slow, size, expected) in [
        (0, false, 0, None),
        (0, false, FORGET - 1, None),
        (0, false, FORGET, part(0, FORGET)),
        (FORGET, false, 2 * FORGET + 7, part(0, 2 * FORGET + 7)),
        (100 * FORGET, false, 100 * FORGET + 1, None),
        (100 * FORGET, false, 101 * FORGET, part(96 * FORGET, 101 * FORGET)),
        (100 * FORGET, true, 100 * FORGET + RESPITE - 1, None),
        (100 * FORGET, true, 100 * FORGET + RESPITE, part(96 * FORGET, 100 * FORGET + RESPITE)),
    ] {
        assert_eq!(Cached::new(from, is_slow).part(size), expected, "{from}, {is_slow}, {size}");
    }
}

#[test]
fn a_file_is_whole_after_it_was_forgotten() {
    let mut written = Written::new(0, Fsync::Always);
    let mut handed_over = 0;
    for _ in 0..40 {
        // However slow this disk is.
        written.end.cached.due = written.end.cached.from + FORGET;
        let before = written.end.cached.from;
        written.seal(64 << 10);
        written.append(false);
        if written.end.cached.from != before {
            assert_eq!(written.end.cached.from, written.end.size());
            handed_over += 1;
        }
    }
    assert_eq!((handed_over, written.left()), (2, 0));
}

proptest! {
    /// In whatever pieces it is put in, part of it unsealed, and written.
    #[test]
    fn a_buffer_gives_what_was_put_in(steps in proptest::collection::vec((0usize..9000, any::<bool>(), 0usize..9000), 1..60)) {
        let mut buffer = Buffer::default();
        let (mut sealed, mut unsealed) = (Vec::new(), Vec::new());
        let mut next = 0u8;
        for (length, is_sealed, written) in steps {
            let text: Vec<u8> = (0..length).map(|_| { next = next.wrapping_add(1) % 251; next }).collect();
            buffer.lines().extend_from_slice(&text);
            unsealed.extend_from_slice(&text);
            if is_sealed {
                buffer.seal("seal");
                sealed.append(&mut unsealed);
                sealed.extend_from_slice(b"seal");
            }
            let written = written.min(sealed.len());
            buffer.written(written);
            sealed.drain(..written);
            prop_assert_eq!(buffer.sealed(), &sealed[..]);
            prop_assert_eq!(buffer.unsealed(), &unsealed[..]);
            prop_assert_eq!(buffer.len(), sealed.len() + unsealed.len());
            if buffer.bytes.capacity() >= BLOCK {
                buffer.align();
                prop_assert!(buffer.is_aligned());
                prop_assert_eq!(buffer.sealed(), &sealed[..]);
                prop_assert_eq!(buffer.unsealed(), &unsealed[..]);
            }
        }
    }
}
