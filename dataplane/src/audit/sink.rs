//! `Sink`: where events are written to.

use super::record::Event;
use std::io;
use std::time::Instant;

/// Somewhere that events are written to. All its calls come from one thread, `netproxy-audit`, which serves all sinks: none may wait for long, and what cannot be done within
/// about a second is an error, or is kept for the next call.
///
/// A sink that fails is said to once, as a fault, until it succeeds again; the others go on.
pub trait Sink: Send {
    /// Its name, in faults and counters.
    fn name(&self) -> &'static str;

    /// Takes events, in their order. What it cannot write now and keeps is not told to it again; what it gives up it counts ([`Self::take_lost`]).
    ///
    /// # Errors
    /// Nothing was written, or not all of it.
    fn write(&mut self, events: &[Event]) -> io::Result<()>;

    /// Tries again what is left, and whatever else is due. Called after each batch, and every now and then while there is something left.
    ///
    /// # Errors
    /// There is something left.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// How many events it keeps that are not written yet.
    fn pending(&self) -> usize {
        0
    }

    /// When it is to be flushed though there may be nothing left, because something else is due then. Asked each time that there is nothing to do.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Whether it can take more without giving any up. Where no event may be lost (`on_full` is not `drop`), nothing is taken out of the queue until it can.
    fn has_room(&self) -> bool {
        true
    }

    /// How many events it has given up since this was asked the last time.
    fn take_lost(&mut self) -> u64 {
        0
    }

    /// Files are opened again: whoever rotates them has moved them (SIGHUP).
    ///
    /// # Errors
    /// It cannot be opened; the old one is used on.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The end: writes what is left, until the deadline, and makes it last.
    ///
    /// # Errors
    /// Not all was written; [`Self::pending`] says how much.
    fn close(&mut self, deadline: Instant) -> io::Result<()> {
        let _ = deadline;
        self.flush()
    }
}
