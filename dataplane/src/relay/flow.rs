//! Bytes one way, from one stream to another.
//!
//! Little is copied through a buffer that all flows of a thread share. Where both ends are TCP and much is to be moved, the kernel moves it itself, by splice(2) through a
//! pipe that is borrowed while bytes are in it: an idle flow holds neither buffer nor pipe.

use crate::counters::Reached;
use crate::limits::Meter;
use crate::stream::{Stream, poll_read_scratch};
use std::cell::RefCell;
#[cfg(target_os = "linux")]
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Bytes that are copied at a time; a slow reader makes a flow hold so many.
const PIECE: usize = 16 * 1024;
/// Bytes of a buffer that is kept.
const KEPT: usize = 4 * 1024;
/// Buffers that a thread keeps while nobody has them.
const MAX_SPARE: usize = 64;
/// Pieces moved before others have their turn.
const ROUNDS: usize = 16;
/// Whoever moved so much since it last had to wait is expected to move much again.
#[cfg(target_os = "linux")]
const BULK: u64 = 128 * 1024;

/// One way, and what is on it.
pub(crate) struct Flow {
    meter: Meter,
    /// Read and not yet written; from `sent` on.
    pending: Vec<u8>,
    sent: usize,
    /// Something was written since a head began.
    written: bool,
    /// Nothing is said to the stream that it goes to behind the last of it.
    closes: bool,
    /// What is in the buffer is the last, since a head began.
    last: bool,
    /// The buffer is kept for what comes next.
    keep: bool,
    /// The proxy's own credentials were in the buffer.
    secret: bool,
    /// What was written may wait within the stream that it was written to.
    unflushed: bool,
    /// Borrowed while bytes are in it.
    #[cfg(target_os = "linux")]
    pipe: pipes::Pipe,
    /// The kernel moves what comes.
    #[cfg(target_os = "linux")]
    bulk: bool,
    /// Since it last waited for more.
    #[cfg(target_os = "linux")]
    burst: u64,
    /// Something was read since this was last asked.
    moved: bool,
}

thread_local! {
    /// Empty buffers of flows that are over, for heads of those that follow.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Flow {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.pending);
        if self.keep && !self.secret && (1..=KEPT).contains(&buffer.capacity()) {
            buffer.clear();
            // While its thread ends, there may be nowhere to keep it.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < MAX_SPARE {
                    spare.push(buffer);
                }
            });
        }
    }
}

/// Why a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// All that was to be moved was.
    Done,
    /// The stream that was read from ended; everything before that was written.
    Eof,
}

/// Which side failed.
#[derive(Debug)]
pub(crate) enum FlowError {
    Read,
    Write,
    /// What was read must not be sent on.
    Limited(Reached),
}

impl Flow {
    pub(crate) fn new(meter: Meter) -> Self {
        Self {
            meter,
            pending: Vec::new(),
            sent: 0,
            written: false,
            closes: false,
            last: false,
            keep: false,
            secret: false,
            unflushed: false,
            #[cfg(target_os = "linux")]
            pipe: pipes::Pipe::default(),
            #[cfg(target_os = "linux")]
            bulk: false,
            #[cfg(target_os = "linux")]
            burst: 0,
            moved: false,
        }
    }

    /// A flow that keeps its small buffer, because something follows that is written through [`Self::buffer`].
    pub(crate) fn kept(meter: Meter) -> Self {
        let mut flow = Self::new(meter);
        flow.keep = true;
        flow
    }

    /// Puts bytes that were read before in front of those that are read next, and counts them.
    pub(crate) fn begin_with(&mut self, early: &[u8]) -> Result<(), FlowError> {
        self.meter.charge(early.len()).map_err(FlowError::Limited)?;
        self.pending.extend_from_slice(early);
        self.moved |= !early.is_empty();
        Ok(())
    }

    /// Another exchange is counted from here on.
    pub(crate) fn set_meter(&mut self, meter: Meter) {
        self.meter = meter;
    }

    /// Bytes of the exchange that is counted.
    pub(crate) fn total(&self) -> u64 {
        self.meter.total()
    }

    /// Another exchange is counted from here on, by the same meter.
    pub(crate) fn begin(&mut self) {
        self.meter.begin();
    }

    /// Bytes that go out before those that are read next. Where the buffer is kept, it is one that another flow has left, if there is one.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        if self.pending.capacity() == 0 && self.keep {
            self.pending = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        &mut self.pending
    }

    /// The proxy's own credentials were put into the buffer: it goes when the flow does.
    pub(crate) fn has_secrets(&mut self) {
        self.secret = true;
    }

    /// Whether something was read since this was last asked.
    pub(crate) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Counts bytes that were read by somebody else, before they are sent on.
    pub(crate) fn charge(&mut self, n: usize) -> Result<(), FlowError> {
        self.moved |= n > 0;
        self.meter.charge(n).map_err(FlowError::Limited)
    }

    /// Bytes were read that are not counted, such as framing.
    pub(crate) fn touch(&mut self) {
        self.moved = true;
    }

    /// A head is put into the buffer now.
    pub(crate) fn begin_head(&mut self) {
        (self.written, self.closes, self.last) = (false, false, false);
    }

    /// Nothing is said to the stream that it goes to once all of it is written.
    pub(crate) fn closes(&mut self) {
        self.closes = true;
    }

    /// Nothing comes behind what is in the buffer.
    pub(crate) fn has_last(&mut self) {
        self.last = true;
    }

    /// Whether nothing was written of the last head, and of what follows it.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.written
    }

    /// Whether a part was written of what waits: nothing else may be said before the rest of it.
    pub(crate) fn is_torn(&self) -> bool {
        self.sent > 0
    }

    /// Whether bytes that were read wait to be written.
    pub(crate) fn is_blocked(&self) -> bool {
        #[cfg(target_os = "linux")]
        if self.pipe.filled > 0 {
            return true;
        }
        self.sent < self.pending.len()
    }

    /// Moves at most `left` bytes, and counts `left` down.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Stream,
        to: &mut Stream,
        left: &mut u64,
    ) -> Poll<Result<End, FlowError>> {
        for _ in 0..ROUNDS {
            ready!(self.poll_write(cx, to))?;
            if *left == 0 {
                return Poll::Ready(Ok(self.end(End::Done)));
            }
            #[cfg(target_os = "linux")]
            if self.bulk
                && let (Stream::Tcp(source), Stream::Tcp(_)) = (&*from, &*to)
                && let Poll::Ready(filled) = self.poll_fill(cx, source, *left)
            {
                match filled {
                    Filled::Some(0) => return Poll::Ready(Ok(self.end(End::Eof))),
                    Filled::Some(n) => {
                        self.meter.charge(usize::try_from(n).unwrap_or(usize::MAX)).map_err(FlowError::Limited)?;
                        self.count(n, left);
                        continue;
                    }
                    Filled::Failed => return Poll::Ready(Err(FlowError::Read)),
                    // What the kernel does not take from the socket can be read from it, or there is nothing.
                    Filled::Nothing => {}
                }
            }
            let n = match self.poll_copy(cx, from, to, *left) {
                Poll::Ready(copied) => copied?,
                Poll::Pending => {
                    self.rest();
                    return Poll::Pending;
                }
            };
            if n == 0 {
                return Poll::Ready(Ok(self.end(End::Eof)));
            }
            self.count(n as u64, left);
            #[cfg(target_os = "linux")]
            {
                // A whole piece: more is there already.
                self.bulk = n == PIECE
                    && from.settles_to_tcp().map_err(|_| FlowError::Read)?
                    && to.settles_to_tcp().map_err(|_| FlowError::Write)?;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn count(&mut self, n: u64, left: &mut u64) {
        *left = left.saturating_sub(n);
        self.moved |= n > 0;
        #[cfg(target_os = "linux")]
        {
            self.burst += n;
        }
    }

    /// Writes what was read before.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut Stream) -> Poll<Result<(), FlowError>> {
        let failed = |_| FlowError::Write;
        if !self.pending.is_empty() {
            while let Some(rest) = self.pending.get(self.sent..).filter(|rest| !rest.is_empty()) {
                let written = if self.closes && self.last { to.poll_write_last(cx, rest) } else { Pin::new(&mut *to).poll_write(cx, rest) };
                match ready!(written).map_err(failed)? {
                    0 => return Poll::Ready(Err(FlowError::Write)),
                    n => {
                        self.sent += n;
                        self.written = true;
                    }
                }
            }
            if self.keep && self.pending.capacity() <= KEPT {
                self.pending.clear();
            } else {
                self.pending = Vec::new();
            }
            self.sent = 0;
            self.unflushed = !matches!(to, Stream::Tcp(_));
        }
        if self.unflushed {
            ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(failed)?;
            self.unflushed = false;
        }
        #[cfg(target_os = "linux")]
        if let Stream::Tcp(to) = &*to {
            while self.pipe.filled > 0 {
                ready!(to.poll_write_ready(cx)).map_err(failed)?;
                match to.try_io(tokio::io::Interest::WRITABLE, || self.pipe.empty_into(to)) {
                    Ok(0) => return Poll::Ready(Err(FlowError::Write)),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(failed(error))),
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Copies a piece; what cannot be written at once waits here.
    fn poll_copy(&mut self, cx: &mut Context<'_>, from: &mut Stream, to: &mut Stream, left: u64) -> Poll<Result<usize, FlowError>> {
        let Self { pending, unflushed, meter, .. } = self;
        let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let read = poll_read_scratch(from, cx, most, |cx, bytes| {
            meter.charge(bytes.len()).map_err(FlowError::Limited)?;
            let mut rest = bytes;
            while !rest.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, rest) {
                    Poll::Ready(Ok(written @ 1..)) => rest = rest.get(written..).unwrap_or_default(),
                    Poll::Ready(_) => return Err(FlowError::Write),
                    Poll::Pending => {
                        pending.extend_from_slice(rest);
                        break;
                    }
                }
            }
            *unflushed = !bytes.is_empty() && !matches!(to, Stream::Tcp(_));
            Ok(bytes.len())
        });
        match ready!(read) {
            Ok(copied) => Poll::Ready(copied),
            Err(_) => Poll::Ready(Err(FlowError::Read)),
        }
    }

    /// Whoever waits holds no pipe, and who moved little goes back to copying.
    fn rest(&mut self) {
        #[cfg(target_os = "linux")]
        {
            self.pipe = pipes::Pipe::default();
            self.bulk = std::mem::take(&mut self.burst) >= BULK;
        }
    }

    fn end(&mut self, end: End) -> End {
        self.rest();
        end
    }

    /// Lets the kernel take what is there into a pipe.
    #[cfg(target_os = "linux")]
    fn poll_fill(&mut self, cx: &mut Context<'_>, from: &tokio::net::TcpStream, left: u64) -> Poll<Filled> {
        if ready!(from.poll_read_ready(cx)).is_err() {
            return Poll::Ready(Filled::Failed);
        }
        if !self.pipe.has_one() {
            return Poll::Ready(Filled::Nothing);
        }
        // Not through `try_io`: splice says that it would block at urgent data too, and then there is something to read.
        Poll::Ready(match self.pipe.fill_from(from, left) {
            Ok(n) => Filled::Some(n),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Filled::Nothing,
            Err(_) => Filled::Failed,
        })
    }
}

/// Closes the pipes that this thread keeps and nobody has borrowed; gives how many.
pub(crate) fn give_up_pipes() -> usize {
    #[cfg(target_os = "linux")]
    {
        pipes::give_up()
    }
    #[cfg(not(target_os = "linux"))]
    0
}

/// Closes those of them that were not needed since this was last called.
pub(crate) fn sweep_pipes() {
    #[cfg(target_os = "linux")]
    pipes::sweep();
}

/// What a pipe was filled with.
#[cfg(target_os = "linux")]
enum Filled {
    Some(u64),
    Nothing,
    Failed,
}

/// Pipes that flows borrow.
#[cfg(target_os = "linux")]
mod pipes {
    use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
    use std::cell::RefCell;
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Bytes that a pipe holds, if the system lets it.
    const SIZE: usize = 1 << 20;
    /// With less, copying is as good.
    const SMALLEST: usize = 64 * 1024;
    /// Free ones that a thread keeps.
    const KEPT: usize = 8;
    static THERE_ARE: AtomicUsize = AtomicUsize::new(0);

    thread_local! {
        static FREE: RefCell<Free> = const { RefCell::new(Free { pipes: Vec::new(), unused: 0 }) };
    }

    /// Those that nobody has borrowed, the latest last.
    struct Free {
        pipes: Vec<Ends>,
        /// So many of the first were not needed since this was last asked for.
        unused: usize,
    }

    #[derive(Debug)]
    struct Ends {
        read: OwnedFd,
        write: OwnedFd,
    }

    impl Drop for Ends {
        fn drop(&mut self) {
            THERE_ARE.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A pipe, if one is borrowed, and how many bytes are in it.
    #[derive(Debug, Default)]
    pub(super) struct Pipe {
        ends: Option<Ends>,
        pub(super) filled: usize,
    }

    /// Closes those that are free; gives how many.
    pub(super) fn give_up() -> usize {
        let free = FREE.with_borrow_mut(|free| std::mem::take(&mut free.pipes));
        free.len()
    }

    /// Closes those that were not needed since this was last called.
    pub(super) fn sweep() {
        FREE.with_borrow_mut(|free| {
            let unused = free.unused.min(free.pipes.len());
            drop(free.pipes.drain(..unused));
            free.unused = free.pipes.len();
        });
    }

    impl Free {
        fn pop(&mut self) -> Option<Ends> {
            let ends = self.pipes.pop();
            self.unused = self.unused.min(self.pipes.len());
            ends
        }
    }

    fn open() -> Option<Ends> {
        if THERE_ARE.fetch_add(1, Ordering::Relaxed) >= crate::config::pipes() {
            THERE_ARE.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        match pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) {
            Ok((read, write)) => {
                let ends = Ends { read, write };
                // What is refused leaves the size that there was. Whoever has too many pipes already gets very small ones.
                let _ = fcntl_setpipe_size(&ends.write, SIZE);
                fcntl_getpipe_size(&ends.write).is_ok_and(|size| size >= SMALLEST).then_some(ends)
            }
            Err(_) => {
                THERE_ARE.fetch_sub(1, Ordering::Relaxed);
                None
            }
        }
    }

    impl Pipe {
        /// Whether a pipe is borrowed: from here on, a free one or a new one is, unless there are enough or the system gives none.
        pub(super) fn has_one(&mut self) -> bool {
            if self.ends.is_none() {
                self.ends = FREE.with_borrow_mut(Free::pop).or_else(open);
            }
            self.ends.is_some()
        }

        /// Takes at most `left` bytes from a socket.
        pub(super) fn fill_from(&mut self, from: impl AsFd, left: u64) -> io::Result<u64> {
            let Some(ends) = &self.ends else { return Err(io::ErrorKind::NotConnected.into()) };
            let most = usize::try_from(left).unwrap_or(SIZE).min(SIZE);
            let n = splice(from, None, &ends.write, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?;
            self.filled += n;
            Ok(n as u64)
        }

        /// Gives what it has to a socket.
        pub(super) fn empty_into(&mut self, to: impl AsFd) -> io::Result<usize> {
            let Some(ends) = &self.ends else { return Err(io::ErrorKind::NotConnected.into()) };
            let n = splice(&ends.read, None, to, None, self.filled, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?;
            self.filled = self.filled.saturating_sub(n);
            Ok(n)
        }
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            // What is in it belongs to nobody else.
            if let Some(ends) = self.ends.take().filter(|_| self.filled == 0) {
                // A thread that ends has no free pipes any more.
                let _ = FREE.try_with(|free| {
                    let mut free = free.borrow_mut();
                    if free.pipes.len() < KEPT {
                        free.pipes.push(ends);
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    fn pipe() -> pipes::Pipe {
        let mut pipe = pipes::Pipe::default();
        assert!(pipe.has_one());
        pipe
    }

    fn meter() -> Meter {
        Meter::down(&crate::counters::Counters::new())
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pipes_that_nobody_has_are_given_up() {
        let (one, other) = (pipe(), pipe());
        assert_eq!(give_up_pipes(), 0, "they are borrowed");
        drop((one, other));
        assert_eq!((give_up_pipes(), give_up_pipes()), (2, 0));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pipes_that_are_not_needed_for_a_while_are_closed() {
        let many: Vec<_> = (0..5).map(|_| pipe()).collect();
        drop(many);
        // Which they are is known from here on.
        sweep_pipes();
        let some: Vec<_> = (0..2).map(|_| pipe()).collect();
        drop(some);
        // Two at once were needed, and three were not.
        sweep_pipes();
        assert_eq!(give_up_pipes(), 2);
        drop(pipe());
        sweep_pipes();
        sweep_pipes();
        assert_eq!(give_up_pipes(), 0);
    }

    fn spare() -> Vec<usize> {
        SPARE.with_borrow(|spare| spare.iter().map(Vec::capacity).collect())
    }

    #[test]
    fn buffers_of_flows_that_are_over_are_used_again_empty_and_few_are_kept() {
        let mut flow = Flow::kept(meter());
        assert!(flow.buffer().is_empty());
        // One that had nothing, one that was not to be kept, one that has grown, and one that had what is nobody else's leave nothing.
        drop(flow);
        let mut other = Flow::new(meter());
        other.buffer().reserve_exact(100);
        drop(other);
        let mut large = Flow::kept(meter());
        large.buffer().reserve_exact(KEPT + 1);
        drop(large);
        let mut secret = Flow::kept(meter());
        secret.buffer().extend_from_slice(b"Authorization: Bearer a\r\n");
        secret.has_secrets();
        drop(secret);
        assert!(spare().is_empty());
        let mut flow = Flow::kept(meter());
        flow.buffer().extend_from_slice(b"half a head");
        drop(flow);
        let kept = spare();
        assert_eq!(kept.len(), 1);
        let mut next = Flow::kept(meter());
        let buffer = next.buffer();
        assert_eq!((buffer.len(), buffer.capacity(), spare().len()), (0, kept[0], 0));
        let mut flows: Vec<_> = (0..MAX_SPARE + 8).map(|_| Flow::kept(meter())).collect();
        flows.iter_mut().for_each(|flow| flow.buffer().push(0));
        drop(flows);
        assert_eq!(spare().len(), MAX_SPARE);
    }
}
