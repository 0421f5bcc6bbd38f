//! Streams, and the bytes that were read from them too early.

use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

/// Bytes that can be read at a time.
const SCRATCH: usize = 64 * 1024;
/// Bytes asked for at a time when a head is read.
const HEAD_READ: usize = 8 * 1024;

/// A stream with a read buffer.
#[derive(Debug)]
pub(crate) struct Buffered {
    pub(crate) stream: Stream,
    pub(crate) buffer: BytesMut,
    /// The other end, where that is an address.
    peer: Option<SocketAddr>,
}

impl Buffered {
    pub(crate) fn new(stream: Stream) -> Self {
        Self::beginning_with(stream, BytesMut::new())
    }

    /// Whose other end is known.
    pub(crate) fn with_peer(stream: Stream, peer: SocketAddr) -> Self {
        Self { stream, buffer: BytesMut::new(), peer: Some(peer) }
    }

    /// With bytes that were read before.
    pub(crate) fn beginning_with(stream: Stream, buffer: BytesMut) -> Self {
        let peer = stream.peer();
        Self { stream, buffer, peer }
    }

    /// A connection whose other end is known already, if it has an address, because it was another kind of stream before.
    pub(crate) fn wrapped(stream: Stream, peer: Option<SocketAddr>) -> Self {
        Self { stream, buffer: BytesMut::new(), peer }
    }

    /// The other end, where that is an address. The system is asked once.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Reads more into the buffer; 0 is the end.
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_at_most(cx, HEAD_READ)
    }

    /// The same for bodies: more at a time.
    pub(crate) fn poll_more_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_at_most(cx, SCRATCH)
    }

    fn poll_at_most(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        let Self { stream, buffer, .. } = self;
        poll_read_scratch(stream, cx, most, |_, read| {
            buffer.extend_from_slice(read);
            read.len()
        })
    }

    /// Reads more into the buffer; 0 is the end. Cancel safe.
    pub(crate) async fn more(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_more(cx)).await
    }

    /// Whether an idle stream is still what it was left as: open, and with nothing to say.
    pub(crate) fn is_quiet(&mut self) -> bool {
        if self.buffer.is_empty() && matches!(self.stream, Stream::Tls(_)) {
            // What came may be tickets, which nobody has read yet because nobody waited: they are no news.
            return self.poll_more(&mut Context::from_waker(std::task::Waker::noop())).is_pending() && self.stream.is_quiet();
        }
        self.buffer.is_empty() && self.stream.is_quiet()
    }

    /// The same, and the system is asked: news that nobody has heard yet counts.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.is_quiet() && self.stream.is_silent()
    }
}

thread_local! {
    static BYTES: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Reads at most `most` bytes into memory that all connections of a thread share, so that none holds any while it waits, and gives them to `take`.
pub(crate) fn poll_read_scratch<T>(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    most: usize,
    take: impl FnOnce(&mut Context<'_>, &[u8]) -> T,
) -> Poll<io::Result<T>> {
    BYTES.with_borrow_mut(|bytes| {
        let mut buffer = ReadBuf::new(bytes.get_mut(..most.min(SCRATCH)).unwrap_or_default());
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(take(cx, buffer.filled())))
    })
}

/// A connection: of a client, to an origin, a proxy or a unix socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
    /// Inside TLS, to an origin or a proxy.
    Tls(Box<client::TlsStream<Stream>>),
    /// Inside TLS that a client opened towards somebody else, and that ends here.
    Opened(Box<server::TlsStream<Rewound>>),
}

/// A client's connection, in front of which stands what was read of it to see what it is.
#[derive(Debug)]
pub(crate) struct Rewound {
    early: BytesMut,
    stream: TcpStream,
}

impl Rewound {
    pub(crate) fn new(early: BytesMut, stream: TcpStream) -> Self {
        Self { early, stream }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { early, stream } = self.get_mut();
        if early.is_empty() {
            return Pin::new(stream).poll_read(cx, buffer);
        }
        let taken = early.len().min(buffer.remaining());
        buffer.put_slice(early.get(..taken).unwrap_or_default());
        early.advance(taken);
        if early.is_empty() {
            // Its memory is given back.
            *early = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Stream {
    /// Whether there is nothing to read, not even the end. News of that may be on its way.
    fn is_quiet(&self) -> bool {
        let quiet = |read: io::Result<usize>| read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        match self {
            Self::Tcp(stream) => quiet(stream.try_read(&mut [0])),
            #[cfg(unix)]
            Self::Unix(stream) => quiet(stream.try_read(&mut [0])),
            // What it has read already may be a message of TLS itself, or a part of one. It wants to read when nothing that was read waits, and not the end either.
            Self::Tls(stream) => {
                let (stream, session) = stream.get_ref();
                session.wants_read() && !session.wants_write() && stream.is_quiet()
            }
            Self::Opened(stream) => {
                let (rewound, session) = stream.get_ref();
                session.wants_read() && !session.wants_write() && quiet(rewound.stream.try_read(&mut [0]))
            }
        }
    }

    #[cfg(unix)]
    fn is_silent(&self) -> bool {
        use rustix::net::{RecvFlags, recv};
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let seen = match self {
            Self::Tcp(stream) => recv(stream, &mut [0; 1], flags),
            Self::Unix(stream) => recv(stream, &mut [0; 1], flags),
            Self::Tls(stream) => return stream.get_ref().0.is_silent(),
            Self::Opened(stream) => recv(&stream.get_ref().0.stream, &mut [0; 1], flags),
        };
        matches!(seen, Err(rustix::io::Errno::AGAIN))
    }

    #[cfg(not(unix))]
    fn is_silent(&self) -> bool {
        true
    }

    /// The other end, where that is an address.
    fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok(),
            #[cfg(unix)]
            Self::Unix(_) => None,
            Self::Tls(stream) => stream.get_ref().0.peer(),
            Self::Opened(stream) => stream.get_ref().0.stream.peer_addr().ok(),
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
            Self::Opened($stream) => $call,
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
            Self::Opened(stream) => stream.is_write_vectored(),
        }
    }
}
