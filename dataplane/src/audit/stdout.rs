//! Standard output as lines of JSON.
//!
//! A reader that does not read must not hold up the other sinks: standard output is written by a thread of its own, which is given whole batches, and has room for a few.

use super::json::Encoder;
use super::record::Event;
use super::setup::Form;
use super::sink::Sink;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Batches that wait for the reader.
const BATCHES: usize = 16;
/// Bytes of lines that are collected while they do.
const BACKLOG: usize = 8 << 20;

/// The sink.
pub(super) struct StdoutSink {
    encoder: Encoder,
    lines: Vec<u8>,
    count: usize,
    /// What there is no room for is given up.
    lossy: bool,
    /// Room for lines, which the writer gives back.
    to: SyncSender<(Vec<u8>, usize)>,
    shared: Arc<Shared>,
    lost: u64,
}

/// What the writer says of itself.
#[derive(Default)]
struct Shared {
    /// Events that it was given and has not written.
    waiting: AtomicUsize,
    error: Mutex<Option<io::Error>>,
}

impl StdoutSink {
    pub(super) fn new(form: &Form) -> Self {
        Self::to(form, io::stdout())
    }

    fn to(form: &Form, out: impl Write + Send + 'static) -> Self {
        let (to, from) = sync_channel(BATCHES);
        let shared = Arc::<Shared>::default();
        let mut sink =
            Self { encoder: Encoder::new(form), lines: Vec::new(), count: 0, lossy: form.lossy, to, shared: Arc::clone(&shared), lost: 0 };
        let writer = move || write_all(out, &from, &shared);
        if let Err(error) = std::thread::Builder::new().name("netproxy-stdout".into()).spawn(writer) {
            // Its end of the channel is gone: that is said of each batch.
            sink.shared = Arc::new(Shared { waiting: AtomicUsize::new(0), error: Mutex::new(Some(error)) });
        }
        sink
    }

    fn hand_over(&mut self) -> io::Result<()> {
        if self.count > 0 {
            self.shared.waiting.fetch_add(self.count, Ordering::AcqRel);
            match self.to.try_send((std::mem::take(&mut self.lines), self.count)) {
                Ok(()) => self.count = 0,
                Err(TrySendError::Full((lines, count))) => {
                    self.shared.waiting.fetch_sub(count, Ordering::AcqRel);
                    self.lines = lines;
                }
                Err(TrySendError::Disconnected((_, count))) => {
                    self.shared.waiting.fetch_sub(count, Ordering::AcqRel);
                    self.lost += count as u64;
                    self.count = 0;
                }
            }
        }
        match self.shared.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn write_all(mut out: impl Write, from: &Receiver<(Vec<u8>, usize)>, shared: &Shared) {
    for (lines, count) in from {
        let done = out.write_all(&lines).and_then(|()| out.flush());
        shared.waiting.fetch_sub(count, Ordering::AcqRel);
        if let Err(error) = done {
            *shared.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            // Nobody reads any more, and nobody will.
            return;
        }
    }
}

impl Sink for StdoutSink {
    fn name(&self) -> &'static str {
        "stdout"
    }

    fn write(&mut self, events: &[Event]) -> io::Result<()> {
        for event in events {
            if self.lossy && self.lines.len() >= BACKLOG {
                self.lost += 1;
                continue;
            }
            self.encoder.line(&mut self.lines, event);
            self.count += 1;
        }
        self.hand_over()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hand_over()
    }

    fn pending(&self) -> usize {
        self.count + self.shared.waiting.load(Ordering::Acquire)
    }

    fn has_room(&self) -> bool {
        self.lines.len() < BACKLOG / 2
    }

    fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn close(&mut self, deadline: Instant) -> io::Result<()> {
        loop {
            self.hand_over()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if self.pending() == 0 || left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(5)));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::audit::record::Kind;
    use policy_format::AuditNaming;
    use std::collections::BTreeMap;
    use std::sync::mpsc::{Sender, channel};

    fn form() -> Form {
        Form { naming: AuditNaming::Codex, metadata: BTreeMap::new(), lossy: true }
    }

    fn events(count: usize) -> Vec<Event> {
        (0..count).map(|_| Event::now(Kind::Stop)).collect()
    }

    /// Hands on what it is given, once it may.
    struct Slow(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up_and_loses_what_is_counted() {
        let ((go, may), (to, from)) = (channel(), channel());
        let mut sink = StdoutSink::to(&form(), Slow(may, to));
        let mut given = 0;
        while sink.has_room() {
            sink.write(&events(1000)).unwrap();
            given += 1000;
        }
        sink.write(&events(200_000)).unwrap();
        let lost = sink.take_lost();
        assert!(lost > 0);
        assert_eq!(sink.pending() as u64 + lost, given + 200_000);
        drop(std::thread::spawn(move || while go.send(()).is_ok() {}));
        sink.close(Instant::now() + Duration::from_secs(60)).unwrap();
        assert_eq!(sink.pending(), 0);
        drop(sink);
        let lines: usize = from.iter().map(|bytes| bytes.iter().filter(|byte| **byte == b'\n').count()).sum();
        assert_eq!(lines as u64 + lost, given + 200_000);
    }

    #[test]
    fn a_reader_that_has_gone_is_said() {
        let ((go, may), (to, from)) = (channel(), channel());
        drop((go, from));
        let mut sink = StdoutSink::to(&form(), Slow(may, to));
        let failed = (0..).any(|_| sink.write(&events(1)).is_err());
        assert!(failed);
    }
}
