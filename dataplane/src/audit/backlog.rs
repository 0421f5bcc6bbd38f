//! A sink whose messages wait, one by one and in their order, for a server or the journal to take them.

use super::record::Event;
use super::sink::Sink;
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

/// Messages that wait.
pub(super) const ROOM: usize = 8192;
/// For messages to be sent in one call; one is tried in any case.
const CALL: Duration = Duration::from_millis(500);
/// Before a server that could not be reached is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// Where messages go, and what a message is there.
pub(super) trait Destination: Send {
    /// The name of the sink.
    const NAME: &'static str;

    /// What is sent of an event.
    fn message(&mut self, event: &Event) -> Vec<u8>;

    /// Looks whether what it was sending to is there still. Asked before messages are sent, and behind the last.
    ///
    /// # Errors
    /// It is not there, and [`Self::take_lost`] says what that has cost.
    fn look(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// How many messages that were sent are known to be lost, since this was asked the last time.
    fn take_lost(&mut self) -> u64 {
        0
    }

    /// Whether somebody takes what is sent, as far as that is known. Where it is not, one message at a time is tried.
    fn is_heard(&self) -> bool {
        true
    }

    /// Sends a message, or what is left of it, and connects before if need be; says whether all of it is sent.
    ///
    /// # Errors
    /// It goes on with the same message the next time, unless [`is_too_long`] says that it would never go.
    fn send(&mut self, message: &[u8]) -> io::Result<bool>;

    /// This is why nothing more is tried now.
    fn failed(&mut self, error: &io::Error);
}

/// The sink.
pub(super) struct Backlog<D> {
    pub(super) to: D,
    pub(super) waiting: VecDeque<Vec<u8>>,
    /// What there is no room for is given up.
    pub(super) lossy: bool,
    lost: u64,
    paused: Option<(Instant, String)>,
}

impl<D: Destination> Backlog<D> {
    pub(super) fn new(to: D, lossy: bool) -> Self {
        Self { to, waiting: VecDeque::new(), lossy, lost: 0, paused: None }
    }

    /// It could not be reached: it is tried again later.
    pub(super) fn pause(&mut self, error: &io::Error) {
        self.paused = Some((Instant::now() + PAUSE, error.to_string()));
    }

    #[cfg(test)]
    pub(super) fn is_tried_again(&mut self) {
        self.paused = None;
    }

    fn send(&mut self, until: Instant) -> io::Result<()> {
        if let Some((until, why)) = &self.paused {
            if Instant::now() < *until {
                return Err(io::Error::other(why.clone()));
            }
            self.paused = None;
        }
        let done = self.send_all(until);
        if let Err(error) = &done {
            self.to.failed(error);
            self.pause(error);
        }
        done
    }

    fn send_all(&mut self, until: Instant) -> io::Result<()> {
        self.to.look()?;
        while let Some(message) = self.waiting.front() {
            match self.to.send(message) {
                Ok(true) => {
                    self.waiting.pop_front();
                    if !self.to.is_heard() {
                        return Err(io::Error::other("nobody took what was sent before"));
                    }
                }
                Ok(false) => {}
                // It would never go, and neither would what is behind it.
                Err(error) if is_too_long(&error) => {
                    self.waiting.pop_front();
                    self.lost += 1;
                }
                Err(error) => return Err(error),
            }
            if Instant::now() >= until {
                break;
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.lossy && self.waiting.len() >= ROOM
    }
}

impl<D: Destination> Sink for Backlog<D> {
    fn name(&self) -> &'static str {
        D::NAME
    }

    fn write(&mut self, events: &[Event]) -> io::Result<()> {
        let until = Instant::now() + CALL;
        for event in events {
            if self.is_full() && Instant::now() < until {
                // A server that can be reached takes them now.
                let _ = self.send(until);
            }
            if self.is_full() {
                self.lost += 1;
                continue;
            }
            let message = self.to.message(event);
            self.waiting.push_back(message);
        }
        self.send(until)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send(Instant::now() + CALL)
    }

    fn pending(&self) -> usize {
        self.waiting.len()
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < ROOM / 2
    }

    fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost) + self.to.take_lost()
    }

    fn close(&mut self, deadline: Instant) -> io::Result<()> {
        loop {
            self.paused = None;
            let done = self.send(deadline.max(Instant::now() + CALL));
            let left = deadline.saturating_duration_since(Instant::now());
            if self.waiting.is_empty() {
                return done.and(self.to.look());
            }
            if left.is_zero() {
                return done;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// Whether a datagram is longer than there can be.
fn is_too_long(error: &io::Error) -> bool {
    #[cfg(unix)]
    let number = rustix::io::Errno::MSGSIZE.raw_os_error();
    // WSAEMSGSIZE.
    #[cfg(not(unix))]
    let number = 10_040;
    error.raw_os_error() == Some(number)
}
