//! One body, one way: as much as the other side takes, and no more is asked for.

use super::head::clean_trailers;
use crate::counters::Reached;
use crate::limits::Meter;
use crate::tunnels::Live;
use bytes::Bytes;
use h2::{RecvStream, SendStream};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Pieces moved before others have their turn.
const ROUNDS: usize = 16;

/// A body under way.
pub(super) struct Way {
    from: RecvStream,
    pub(super) to: SendStream<Bytes>,
    /// Read and not yet written: a frame at most, or what was read before it began.
    held: Bytes,
    /// How much of that the sender has not been given back as room.
    owed: usize,
    meter: Meter,
    /// There must not be one.
    empty: bool,
    /// Trailer fields that are taken out.
    without: Vec<String>,
    /// Its end is written, or nobody takes it.
    pub(super) ended: bool,
    moved: bool,
}

/// Why a body is not whole.
#[derive(Debug)]
pub(super) enum Broken {
    Read(h2::Error),
    Write,
    Malformed,
    Limited(Reached),
}

impl Way {
    pub(super) fn new(from: RecvStream, to: SendStream<Bytes>, meter: Meter) -> Self {
        Self { from, to, held: Bytes::new(), owed: 0, meter, empty: false, without: Vec::new(), ended: false, moved: false }
    }

    /// Fields that are taken out of the head are taken out of trailers too.
    pub(super) fn without(self, without: Vec<String>) -> Self {
        Self { without, ..self }
    }

    /// A body that has to be empty, whatever its head says.
    pub(super) fn empty(self, empty: bool) -> Self {
        Self { empty, ..self }
    }

    /// One whose head had its end.
    pub(super) fn ended(self, ended: bool) -> Self {
        Self { ended, ..self }
    }

    /// What was read before goes first.
    pub(super) fn begin_with(&mut self, early: Bytes) -> Result<(), Reached> {
        self.meter.charge(early.len())?;
        self.held = early;
        Ok(())
    }

    /// What was counted of it.
    pub(super) fn total(&self) -> u64 {
        self.meter.total()
    }

    /// It goes on as a way of a tunnel.
    pub(super) fn switch(&mut self, live: &Arc<Live>) {
        self.meter.switch(live);
    }

    /// Whether something moved since this was last asked.
    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Moves what there is; ready when its end is written.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..ROUNDS {
            if self.held.is_empty() {
                match ready!(self.from.poll_data(cx)) {
                    Some(Ok(data)) => self.hold(data)?,
                    Some(Err(error)) => return Poll::Ready(Err(Broken::Read(error))),
                    None => {
                        ready!(self.poll_trailers(cx))?;
                        self.ended = true;
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            let room = if self.held.is_empty() { 0 } else { ready!(self.poll_room(cx))? };
            let piece = self.held.split_to(room.min(self.held.len()));
            let last = self.held.is_empty() && self.from.is_end_stream();
            if !piece.is_empty() || last {
                self.write(piece, last)?;
            }
            if last {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Counts what was read, before it is sent on.
    fn hold(&mut self, data: Bytes) -> Result<(), Broken> {
        if self.empty && !data.is_empty() {
            return Err(Broken::Malformed);
        }
        self.meter.charge(data.len()).map_err(Broken::Limited)?;
        self.owed = data.len();
        self.held = data;
        self.moved = true;
        Ok(())
    }

    /// How much the other side takes now of what is held.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        let room = self.to.capacity();
        if room > 0 {
            return Poll::Ready(Ok(room));
        }
        self.to.reserve_capacity(self.held.len());
        let room = self.to.capacity();
        if room > 0 {
            return Poll::Ready(Ok(room));
        }
        match ready!(self.to.poll_capacity(cx)) {
            Some(Ok(room)) => Poll::Ready(Ok(room)),
            _ => Poll::Ready(Err(Broken::Write)),
        }
    }

    /// Only what was written is given back to the sender as room for more.
    fn write(&mut self, piece: Bytes, last: bool) -> Result<(), Broken> {
        let written = piece.len().min(self.owed);
        self.to.send_data(piece, last).map_err(|_| Broken::Write)?;
        self.moved = true;
        self.owed -= written;
        if written > 0 {
            // It fails for streams that are over, whose room is given back anyway.
            let _ = self.from.flow_control().release_capacity(written);
        }
        Ok(())
    }

    fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let trailers = ready!(self.from.poll_trailers(cx)).map_err(Broken::Read)?;
        let mut trailers = trailers.unwrap_or_default();
        clean_trailers(&mut trailers, &self.without);
        let sent = if trailers.is_empty() { self.to.send_data(Bytes::new(), true) } else { self.to.send_trailers(trailers) };
        self.moved = true;
        Poll::Ready(sent.map_err(|_| Broken::Write))
    }
}
