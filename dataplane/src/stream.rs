//! A TCP stream and the bytes that were read from it too early.

use bytes::BytesMut;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, ReadHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// Bytes asked for at a time when more of a body is read.
const BODY_READ: usize = 64 * 1024;
/// Bytes asked for at a time when a head is read.
const HEAD_READ: usize = 8 * 1024;

/// A stream with a read buffer.
#[derive(Debug)]
pub(crate) struct Buffered {
    pub(crate) stream: Stream,
    pub(crate) buffer: BytesMut,
}

/// The half that writes.
pub(crate) type WriteHalf<'a> = tokio::io::WriteHalf<&'a mut Stream>;

/// Its two halves, so that both directions can move at once.
pub(crate) struct Reader<'a> {
    pub(crate) half: ReadHalf<&'a mut Stream>,
    pub(crate) buffer: &'a mut BytesMut,
}

impl Buffered {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    pub(crate) fn split(&mut self) -> (Reader<'_>, WriteHalf<'_>) {
        let (read, write) = tokio::io::split(&mut self.stream);
        (Reader { half: read, buffer: &mut self.buffer }, write)
    }

    pub(crate) fn reader(&mut self) -> Reader<'_> {
        self.split().0
    }

    /// Whether an idle stream is still what it was left as: open, and with nothing to say.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut nothing = [0];
        let mut look = Context::from_waker(Waker::noop());
        self.buffer.is_empty() && Pin::new(&mut self.stream).poll_read(&mut look, &mut ReadBuf::new(&mut nothing)).is_pending()
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

/// A connection to an origin, or to a proxy.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
    /// To a proxy that speaks TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The other end, where that is an address.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            #[cfg(unix)]
            Self::Unix(_) => None,
            Self::Tls(stream) => stream.get_ref().0.peer_addr().ok(),
        }
    }
}

macro_rules! on_each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp($stream) => $call,
            #[cfg(unix)]
            Self::Unix($stream) => $call,
            Self::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        on_each!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        on_each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        on_each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
