//! A TCP stream and the bytes that were read from it too early.

use bytes::BytesMut;
use std::io;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::timeout;

/// Bytes asked for at a time when more of a body is read.
const BODY_READ: usize = 64 * 1024;
/// Bytes asked for at a time when a head is read.
const HEAD_READ: usize = 8 * 1024;

/// A stream with a read buffer.
#[derive(Debug)]
pub(crate) struct Buffered {
    pub(crate) stream: TcpStream,
    pub(crate) buffer: BytesMut,
}

/// Its two halves, so that both directions can move at once.
pub(crate) struct Reader<'a> {
    pub(crate) half: ReadHalf<'a>,
    pub(crate) buffer: &'a mut BytesMut,
}

impl Buffered {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    pub(crate) fn split(&mut self) -> (Reader<'_>, WriteHalf<'_>) {
        let (read, write) = self.stream.split();
        (Reader { half: read, buffer: &mut self.buffer }, write)
    }

    pub(crate) fn reader(&mut self) -> Reader<'_> {
        self.split().0
    }

    /// Whether an idle stream is still what it was left as: open, and with nothing to say.
    pub(crate) fn is_quiet(&self) -> bool {
        let nothing = self.stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        nothing && self.buffer.is_empty()
    }
}

impl Reader<'_> {
    /// Reads more into the buffer; 0 is the end.
    pub(crate) async fn more(&mut self) -> io::Result<usize> {
        self.buffer.reserve(HEAD_READ);
        self.half.read_buf(self.buffer).await
    }

    /// The same for bodies: more at a time, and the end of patience is an error.
    pub(crate) async fn more_body(&mut self, idle: Duration) -> io::Result<usize> {
        self.buffer.reserve(BODY_READ);
        timeout(idle, self.half.read_buf(self.buffer)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
