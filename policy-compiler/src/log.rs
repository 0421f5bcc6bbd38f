//! Logs that are read line by line, of any length, in a bounded buffer.

use std::io::{self, Read};

/// Bytes that a line may have.
pub const MAX_LINE: usize = 1 << 20;
/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// A line of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'l> {
    /// Its number, from 1.
    pub number: u64,
    /// Its bytes, without its line feed; of one that is too long, the first [`MAX_LINE`].
    pub bytes: &'l [u8],
    /// Whether it ends in a line feed: the last line of a file may not.
    pub ended: bool,
    /// Whether it is longer than [`MAX_LINE`]: the rest of it is passed over.
    pub too_long: bool,
}

/// Reads lines.
#[derive(Debug)]
pub struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    /// What is not given out yet.
    start: usize,
    end: usize,
    number: u64,
    /// The rest of a line that was too long is to be passed over.
    skips: bool,
    is_over: bool,
}

impl<R: Read> Lines<R> {
    /// Reads from the start of a log.
    pub fn new(input: R) -> Self {
        Self { input, buffer: vec![0; MAX_LINE + CHUNK], start: 0, end: 0, number: 0, skips: false, is_over: false }
    }

    /// The next line.
    ///
    /// # Errors
    /// What the input fails with.
    #[allow(clippy::should_implement_trait, reason = "a line lies in the buffer, which no iterator can lend")]
    pub fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        // Where the search for the end of the line goes on.
        let mut seen = self.start;
        loop {
            let rest = self.buffer.get(seen..self.end).unwrap_or_default();
            if let Some(at) = memchr::memchr(b'\n', rest) {
                let (from, to) = (self.start, seen + at);
                self.start = to + 1;
                seen = self.start;
                if std::mem::take(&mut self.skips) {
                    continue;
                }
                return Ok(Some(self.line(from, to, true)));
            }
            if self.skips {
                self.start = self.end;
            } else if self.end - self.start > MAX_LINE {
                let from = self.start;
                self.start = self.end;
                self.skips = true;
                return Ok(Some(self.line(from, self.end, false)));
            }
            if self.is_over {
                let (from, to) = (self.start, self.end);
                self.start = self.end;
                return Ok(if from == to { None } else { Some(self.line(from, to, false)) });
            }
            if self.buffer.len() - self.end < CHUNK {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            seen = self.end;
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        loop {
            match self.input.read(self.buffer.get_mut(self.end..).unwrap_or_default()) {
                Ok(0) => self.is_over = true,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }

    fn line(&mut self, from: usize, to: usize, ended: bool) -> Line<'_> {
        self.number += 1;
        let too_long = to - from > MAX_LINE;
        let to = to.min(from + MAX_LINE);
        Line { number: self.number, bytes: self.buffer.get(from..to).unwrap_or_default(), ended, too_long }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives few bytes at a time.
    struct Slow<'t>(&'t [u8], usize);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(self.1).min(buffer.len());
            let (now, later) = self.0.split_at(count);
            buffer[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    fn read(text: &[u8], step: usize) -> Vec<(u64, Vec<u8>, bool, bool)> {
        let mut lines = Lines::new(Slow(text, step));
        let mut found = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            found.push((line.number, line.bytes.to_vec(), line.ended, line.too_long));
        }
        found
    }

    #[test]
    fn lines_that_are_too_long_are_passed_over() {
        let text =
            [b"a\n".as_slice(), &vec![b'x'; MAX_LINE + 1], b"\nb\n", &vec![b'y'; MAX_LINE], b"\n", &vec![b'z'; 3 * MAX_LINE]].concat();
        for step in [usize::MAX, 100_000] {
            let found: Vec<_> =
                read(&text, step).into_iter().map(|(number, bytes, _, too_long)| (number, bytes[0], bytes.len(), too_long)).collect();
            assert_eq!(
                found,
                [
                    (1, b'a', 1, false),
                    (2, b'x', MAX_LINE, true),
                    (3, b'b', 1, false),
                    (4, b'y', MAX_LINE, false),
                    (5, b'z', MAX_LINE, true)
                ]
            );
        }
    }

    proptest! {
        #[test]
        fn every_line_is_given_as_it_is(lines in prop::collection::vec("[ab]{0,5}", 0..9), ends in any::<bool>(), step in 1..9_usize) {
            let mut text = lines.join("\n");
            if ends && !lines.is_empty() {
                text.push('\n');
            }
            let found = read(text.as_bytes(), step);
            let expected: Vec<&str> = text.split_inclusive('\n').collect();
            prop_assert_eq!(found.len(), expected.len());
            for ((number, bytes, ended, too_long), (at, line)) in found.iter().zip((1..).zip(expected)) {
                prop_assert_eq!((*number, *ended, *too_long), (at, line.ends_with('\n'), false));
                prop_assert_eq!(bytes.as_slice(), line.trim_end_matches('\n').as_bytes());
            }
        }
    }
}
