//! Chunks of lines, taken apart on other threads.
//!
//! Whoever reads the file cuts it into chunks of whole lines; threads turn each into a batch of entries, names end to end; and the batches come back in the order
//! of the chunks. So what a list says does not depend on how many threads there are.

use super::formats::{LineError, LineKind, parse_line};
use super::{BOM, BadLine, ListEntry, ListFormat, ListReport, MAX_SHOWN, printable};
use policy_format::glob::Glob;
use policy_format::net::Network;
use policy_format::{HostsRef, RuleKind};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// Files below are done before a thread has begun.
const THREADS_FROM: u64 = 512 << 10;
/// Chunks that each thread has before it.
const DEPTH: usize = 2;
/// More threads than these wait for whoever takes the entries.
const MAX_THREADS: usize = 4;

/// Lines of a list, the last without its end.
pub(super) struct Chunk {
    pub(super) text: Vec<u8>,
    /// How many lines there are before it.
    pub(super) before: u32,
}

/// How many threads take lines apart beside the one that reads them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Threads(pub(super) usize);

impl Threads {
    /// Those that a file of so many bytes is worth.
    pub(super) fn for_bytes(bytes: u64) -> Self {
        let others = thread::available_parallelism().map_or(0, |all| all.get() - 1);
        Self(if bytes < THREADS_FROM { 0 } else { others.min(MAX_THREADS) })
    }
}

/// Lets `read` give chunks, and `take` have what is in each, in the same order.
pub(super) fn in_order<T>(
    threads: Threads,
    format: ListFormat,
    read: impl FnOnce(&mut dyn FnMut(Chunk)) -> T,
    mut take: impl FnMut(Batch),
) -> T {
    let Some(threads) = NonZero::new(threads.0) else { return read(&mut |chunk| take(Batch::of(format, &chunk))) };
    thread::scope(|scope| {
        let lanes: Vec<(SyncSender<Chunk>, Receiver<Batch>)> = (0..threads.get())
            .map(|_| {
                let (to, chunks) = sync_channel::<Chunk>(DEPTH);
                let (back, batches) = sync_channel(DEPTH);
                scope.spawn(move || chunks.into_iter().all(|chunk| back.send(Batch::of(format, &chunk)).is_ok()));
                (to, batches)
            })
            .collect();
        // A thread that is gone has panicked, and the scope says so at its end.
        let lane = |number: usize| lanes.get(number % threads);
        let (mut given, mut taken) = (0, 0);
        let mut take_next = |taken: &mut usize| {
            if let Some(batch) = lane(*taken).and_then(|(_, batches)| batches.recv().ok()) {
                take(batch);
            }
            *taken += 1;
        };
        let result = read(&mut |chunk| {
            if given - taken == threads.get() * DEPTH {
                take_next(&mut taken);
            }
            if let Some((to, _)) = lane(given) {
                to.send(chunk).ok();
            }
            given += 1;
        });
        while taken < given {
            take_next(&mut taken);
        }
        result
    })
}

/// What the lines of a chunk say.
#[derive(Debug, Default)]
pub(super) struct Batch {
    report: ListReport,
    entries: Vec<Packed>,
    /// Names end to end.
    names: String,
    /// The hosts that are no names, in the order of their entries.
    others: Vec<Other>,
}

#[derive(Debug)]
enum Other {
    Any,
    Network(Network),
    Glob(Glob),
}

/// An entry in 12 bytes.
#[derive(Debug, Clone, Copy)]
struct Packed {
    line: u32,
    /// Where its name ends; nothing if its hosts are no name.
    name: Option<(RuleKind, u8)>,
    exception: bool,
}

impl Batch {
    pub(super) fn of(format: ListFormat, chunk: &Chunk) -> Self {
        let mut batch = Self::default();
        batch.names.reserve(chunk.text.len());
        let mut rest = Some(chunk.text.as_slice());
        while let Some(text) = rest {
            let line = match memchr::memchr(b'\n', text).and_then(|end| text.split_at_checked(end)) {
                Some((line, after)) => {
                    rest = after.get(1..);
                    line
                }
                None => {
                    rest = None;
                    text
                }
            };
            batch.report.lines += 1;
            batch.line(format, line, chunk.before + batch.report.lines);
        }
        batch
    }

    fn line(&mut self, format: ListFormat, line: &[u8], number: u32) {
        let line = if number == 1 { line.strip_prefix(BOM).unwrap_or(line) } else { line };
        let kind = parse_line(format, line, &mut |hosts, exception| self.entry(number, hosts, exception));
        match kind {
            Ok(LineKind::Entries) => {}
            Ok(LineKind::Skipped) => self.report.skipped += 1,
            Ok(LineKind::Ignored) => self.report.ignored += 1,
            Err(why) => self.bad(line, number, why),
        }
    }

    fn entry(&mut self, line: u32, hosts: HostsRef<'_>, exception: bool) {
        self.report.entries += 1;
        let other = match hosts {
            HostsRef::Name(kind, name) => {
                self.names.push_str(name);
                // A name has at most 253 bytes.
                let name = Some((kind, u8::try_from(name.len()).unwrap_or(u8::MAX)));
                return self.entries.push(Packed { line, name, exception });
            }
            HostsRef::Any => Other::Any,
            HostsRef::Network(network) => Other::Network(network),
            HostsRef::Glob(glob) => Other::Glob(glob.clone()),
        };
        self.others.push(other);
        self.entries.push(Packed { line, name: None, exception });
    }

    fn bad(&mut self, line: &[u8], number: u32, why: LineError) {
        self.report.bad_count += 1;
        if self.report.bad.len() < MAX_SHOWN {
            self.report.bad.push(BadLine { line: number, text: printable(line), why });
        }
    }

    /// Adds what was found to the report of the list, and gives the entries.
    pub(super) fn give(self, report: &mut ListReport, each: &mut dyn FnMut(ListEntry<'_>)) {
        let Self { report: own, entries, names, others } = self;
        report.lines += own.lines;
        report.entries += own.entries;
        report.skipped += own.skipped;
        report.ignored += own.ignored;
        report.bad_count += own.bad_count;
        let room = MAX_SHOWN - report.bad.len();
        report.bad.extend(own.bad.into_iter().take(room));
        let (mut names, mut others) = (names.as_str(), others.iter());
        for Packed { line, name, exception } in entries {
            let hosts = match name {
                Some((kind, len)) => {
                    let Some((name, rest)) = names.split_at_checked(usize::from(len)) else { return };
                    names = rest;
                    HostsRef::Name(kind, name)
                }
                None => {
                    let Some(other) = others.next() else { return };
                    match other {
                        Other::Any => HostsRef::Any,
                        Other::Network(network) => HostsRef::Network(*network),
                        Other::Glob(glob) => HostsRef::Glob(glob),
                    }
                }
            };
            each(ListEntry { line, hosts, exception });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that a text says, cut into chunks of so many lines.
    fn said(threads: usize, format: ListFormat, text: &str, lines: usize) -> (Vec<String>, ListReport) {
        let all: Vec<&str> = text.split('\n').collect();
        let (mut entries, mut report) = (Vec::new(), ListReport::default());
        in_order(
            Threads(threads),
            format,
            |give| {
                let mut before = 0;
                for chunk in all.chunks(lines) {
                    give(Chunk { text: chunk.join("\n").into_bytes(), before });
                    before += u32::try_from(chunk.len()).unwrap();
                }
            },
            |batch| {
                batch.give(&mut report, &mut |entry| {
                    entries.push(format!("{} {} {}", entry.line, entry.hosts, entry.exception));
                });
            },
        );
        (entries, report)
    }

    #[test]
    fn threads_and_chunks_change_nothing() {
        let line = |number: u32| match number % 11 {
            0 => "! comment".to_owned(),
            1 => format!("@@||good-{number}.test^"),
            2 => format!("||10.0.{}.{}^", number / 256 % 256, number % 256),
            3 => format!("||ads*-{number}.test^"),
            4 => "||*^".to_owned(),
            5 => format!("0.0.0.0 a-{number}.test b-{number}.test"),
            6 => format!("||{number}.test/path"),
            _ => format!("||bad-{number}.test^"),
        };
        let text: Vec<String> = (0..3000).map(line).collect();
        let text = format!("\u{feff}{}", text.join("\n"));
        let expected = said(0, ListFormat::Adblock, &text, usize::MAX);
        assert_eq!((expected.1.lines, expected.1.bad_count, expected.1.bad.len()), (3000, 273, MAX_SHOWN));
        assert_eq!(expected.0.len() as u64, expected.1.entries);
        assert!(expected.0.starts_with(&["2 **.good-1.test true".into(), "3 10.0.0.2 false".into(), "4 **.ads*-3.test false".into()]));
        for (threads, lines) in [(0, 7), (1, 1), (1, 100), (2, 13), (3, 1), (3, 999), (4, 2999), (4, usize::MAX)] {
            assert_eq!(said(threads, ListFormat::Adblock, &text, lines), expected, "{threads} {lines}");
        }
    }

    #[test]
    fn who_stops_reading_has_what_was_given() {
        for threads in [0, 1, 3] {
            let mut lines = 0;
            let result = in_order(
                Threads(threads),
                ListFormat::Domains,
                |give| {
                    (0..5).for_each(|before| give(Chunk { text: b"a.test".to_vec(), before }));
                    Err::<(), _>("stopped")
                },
                |batch| lines += batch.report.lines,
            );
            assert_eq!((lines, result), (5, Err("stopped")));
        }
    }
}
