//! Streams, and the bytes that were read from them too early.

use crate::counters::{self, Counter};
use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop;
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
    /// The same, which the system does not tell of yet. Systems other than Linux always do.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "accepted on Linux only"))]
    Fresh(Fresh),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
    /// Inside TLS, to an origin or a proxy.
    Tls(Box<client::TlsStream<Stream>>),
    /// Inside TLS that a client opened towards somebody else, and that ends here.
    Opened(Box<server::TlsStream<Rewound>>),
}

/// A client's connection that nothing had to be waited for yet. The system is asked to tell of it, for which it has to remember it, once something has to be: most clients have said what
/// they want by the time they are accepted, and many are closed once they have their answer.
#[derive(Debug)]
pub(crate) struct Fresh {
    /// Until it is another kind of stream.
    socket: Option<std::net::TcpStream>,
}

impl Fresh {
    /// Of a socket that does not block.
    #[cfg(target_os = "linux")]
    pub(crate) fn new(socket: std::net::TcpStream) -> Self {
        Self { socket: Some(socket) }
    }

    /// What can be done at once; `None`: it has to be waited for. A task that finds something to do all the time lets others run in between.
    fn poll_now<T>(
        &self,
        cx: &mut Context<'_>,
        mut what: impl FnMut(&std::net::TcpStream) -> io::Result<T>,
    ) -> Poll<Option<io::Result<T>>> {
        let turn = ready!(coop::poll_proceed(cx));
        let Some(socket) = &self.socket else { return Poll::Ready(None) };
        loop {
            match what(socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Ready(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => {
                    turn.made_progress();
                    return Poll::Ready(Some(done));
                }
            }
        }
    }
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
    /// The system tells of it from now on.
    ///
    /// # Errors
    /// It cannot.
    pub(crate) fn settle(&mut self) -> io::Result<()> {
        if let Self::Fresh(fresh) = self {
            let socket = fresh.socket.take().ok_or(io::ErrorKind::NotConnected)?;
            // As one that could not be accepted.
            let failed = |_: &io::Error| counters::here(|counters| counters.count(Counter::AcceptErrors));
            *self = Self::Tcp(TcpStream::from_std(socket).inspect_err(failed)?);
        }
        Ok(())
    }

    /// Whether it is a connection of TCP, with nothing around it, that the system tells of, as it does from now on.
    ///
    /// # Errors
    /// It cannot.
    #[cfg(target_os = "linux")]
    pub(crate) fn settles_to_tcp(&mut self) -> io::Result<bool> {
        self.settle()?;
        Ok(matches!(self, Self::Tcp(_)))
    }

    /// The connection, if it is one of TCP and nothing is around it.
    pub(crate) fn into_tcp(mut self) -> Option<TcpStream> {
        self.settle().ok()?;
        match self {
            Self::Tcp(stream) => Some(stream),
            _ => None,
        }
    }

    /// Whether the system does not tell of it yet: what comes of it while something else is waited for wakes nobody.
    pub(crate) fn is_fresh(&self) -> bool {
        matches!(self, Self::Fresh(_))
    }

    /// Has it send what there is at once instead of waiting for more.
    pub(crate) fn send_at_once(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            Self::Fresh(Fresh { socket: Some(socket) }) => socket.set_nodelay(true),
            _ => Ok(()),
        }
    }

    /// Writes the last that it is given. Once all of it is written, our way may have ended with it: the end of a connection of TCP goes into the packet of the last bytes, which saves both sides one.
    pub(crate) fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        #[cfg(target_os = "linux")]
        match self {
            Self::Fresh(fresh) => {
                if let Some(written) = ready!(fresh.poll_now(cx, |socket| send_last(socket, bytes))) {
                    return Poll::Ready(written);
                }
            }
            Self::Tcp(stream) => loop {
                ready!(stream.poll_write_ready(cx))?;
                match stream.try_io(tokio::io::Interest::WRITABLE, || send_last(&*stream, bytes)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    written => return Poll::Ready(written),
                }
            },
            Self::Unix(_) | Self::Tls(_) | Self::Opened(_) => {}
        }
        Pin::new(self).poll_write(cx, bytes)
    }

    /// Whether closing it is a reset, which nobody takes for the end of what was being sent, or an end as others are.
    #[cfg(unix)]
    pub(crate) fn set_reset_by_close(&self, resets: bool) {
        use rustix::net::sockopt::set_socket_linger;
        let linger = resets.then_some(std::time::Duration::ZERO);
        // A socket that refuses is closed as others are.
        let _ = match self {
            Self::Tcp(stream) => set_socket_linger(stream, linger),
            Self::Fresh(Fresh { socket: Some(socket) }) => set_socket_linger(socket, linger),
            Self::Opened(stream) => set_socket_linger(&stream.get_ref().0.stream, linger),
            Self::Fresh(_) | Self::Unix(_) | Self::Tls(_) => Ok(()),
        };
    }

    #[cfg(not(unix))]
    pub(crate) fn set_reset_by_close(&self, _resets: bool) {}

    /// Whether there is nothing to read, not even the end. News of that may be on its way.
    fn is_quiet(&self) -> bool {
        let quiet = |read: io::Result<usize>| read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        match self {
            Self::Tcp(stream) => quiet(stream.try_read(&mut [0])),
            Self::Fresh(Fresh { socket }) => socket.as_ref().is_some_and(|mut socket| quiet(socket.read(&mut [0]))),
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
            Self::Fresh(Fresh { socket: Some(socket) }) => recv(socket, &mut [0; 1], flags),
            Self::Fresh(_) => return false,
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
            Self::Fresh(fresh) => fresh.socket.as_ref()?.peer_addr().ok(),
            #[cfg(unix)]
            Self::Unix(_) => None,
            Self::Tls(stream) => stream.get_ref().0.peer(),
            Self::Opened(stream) => stream.get_ref().0.stream.peer_addr().ok(),
        }
    }
}

/// Sends bytes, and behind the last of them the end. It is said here, not left to the closing of the socket: with unread bytes that would be a reset, and nothing that waits for the end would be sent.
#[cfg(target_os = "linux")]
fn send_last(socket: impl std::os::fd::AsFd, bytes: &[u8]) -> io::Result<usize> {
    use rustix::net::{SendFlags, Shutdown, send, shutdown};
    let sent = send(&socket, bytes, SendFlags::MORE | SendFlags::NOSIGNAL)?;
    if sent == bytes.len() {
        // Whoever is gone by now needs no end.
        let _ = shutdown(&socket, Shutdown::Write);
    }
    Ok(sent)
}

macro_rules! on_each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp($stream) => $call,
            // It was settled.
            Self::Fresh(_) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            #[cfg(unix)]
            Self::Unix($stream) => $call,
            Self::Tls($stream) => $call,
            Self::Opened($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Self::Fresh(fresh) = &mut *self {
            let into = buffer.initialize_unfilled();
            if let Some(read) = ready!(fresh.poll_now(cx, |mut socket| socket.read(into))) {
                return Poll::Ready(read.map(|count| buffer.advance(count)));
            }
            self.settle()?;
        }
        on_each!(self, stream => Pin::new(stream).poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Self::Fresh(fresh) = &mut *self {
            if let Some(written) = ready!(fresh.poll_now(cx, |mut socket| socket.write(bytes))) {
                return Poll::Ready(written);
            }
            self.settle()?;
        }
        on_each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(*self, Self::Fresh(_)) {
            return Poll::Ready(Ok(()));
        }
        on_each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Fresh(Fresh { socket: Some(socket) }) = &*self {
            return Poll::Ready(socket.shutdown(Shutdown::Write));
        }
        on_each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Self::Fresh(fresh) = &mut *self {
            if let Some(written) = ready!(fresh.poll_now(cx, |mut socket| socket.write_vectored(bytes))) {
                return Poll::Ready(written);
            }
            self.settle()?;
        }
        on_each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Fresh(_) => true,
            #[cfg(unix)]
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Opened(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::listen::socket::Listener;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A client, and its connection as it was accepted, behind what it has said.
    async fn accepted(said: &[u8]) -> (TcpStream, Stream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(said).await.unwrap();
        let (stream, from) = Listener::new(listener).unwrap().accept().await.unwrap();
        assert_eq!((stream.peer(), from), (Some(from), client.local_addr().unwrap()));
        assert!(matches!(stream, Stream::Fresh(_)));
        while !said.is_empty() && stream.is_silent() {
            tokio::task::yield_now().await;
        }
        (client, stream)
    }

    #[tokio::test]
    async fn a_client_that_has_said_all_is_answered_without_the_system_telling_of_it() {
        let (mut client, mut stream) = accepted(b"said").await;
        assert!(!stream.is_silent());
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"said");
        assert!(stream.is_silent() && stream.is_quiet());
        stream.write_all(b"answer").await.unwrap();
        assert_eq!(stream.write_vectored(&[io::IoSlice::new(b"1"), io::IoSlice::new(b"2")]).await.unwrap(), 2);
        stream.flush().await.unwrap();
        assert!(stream.is_write_vectored());
        stream.shutdown().await.unwrap();
        assert!(matches!(stream, Stream::Fresh(_)));
        let mut answered = Vec::new();
        client.read_to_end(&mut answered).await.unwrap();
        assert_eq!(answered, b"answer12");
        drop(client);
        assert_eq!(stream.read(&mut heard).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_end_comes_with_the_last_bytes() {
        // As little as is taken at once, and so much that most of it is written in pieces.
        for (is_settled, bytes) in [(false, 6), (true, 6), (false, 16 << 20), (true, 16 << 20)] {
            let (mut client, mut stream) = accepted(b"").await;
            if is_settled {
                stream.settle().unwrap();
            }
            let answer = vec![b'x'; bytes];
            let send = async {
                let mut rest = &answer[..];
                while !rest.is_empty() {
                    let written = poll_fn(|cx| stream.poll_write_last(cx, rest)).await.unwrap();
                    rest = rest.get(written..).unwrap();
                }
            };
            let mut got = Vec::new();
            // The stream is still there when the client has read to its end.
            let (read, ()) = tokio::join!(client.read_to_end(&mut got), send);
            assert_eq!((read.unwrap(), got.len()), (bytes, bytes));
            // What the client still says is heard.
            client.write_all(b"said").await.unwrap();
            assert_eq!(stream.read(&mut [0; 4]).await.unwrap(), 4);
        }
    }

    #[tokio::test]
    async fn what_has_to_be_waited_for_is_told_of() {
        let (mut client, mut stream) = accepted(b"").await;
        let mut heard = [0; 4];
        let (read, said) = tokio::join!(stream.read_exact(&mut heard), async {
            tokio::task::yield_now().await;
            client.write_all(b"said").await
        });
        assert_eq!((read.unwrap(), said.unwrap()), (4, ()));
        assert!(matches!(stream, Stream::Tcp(_)));
    }

    #[tokio::test]
    async fn what_the_client_does_not_take_yet_is_sent_later() {
        for vectored in [false, true] {
            let (mut client, mut stream) = accepted(b"").await;
            let much = vec![b'x'; 16 << 20];
            let send = async {
                let mut rest = &much[..];
                while !rest.is_empty() {
                    let written = if vectored { stream.write_vectored(&[io::IoSlice::new(rest)]).await } else { stream.write(rest).await };
                    rest = rest.get(written.unwrap()..).unwrap();
                }
                stream.shutdown().await.unwrap();
                assert!(matches!(stream, Stream::Tcp(_)));
            };
            let mut got = Vec::new();
            let (read, ()) = tokio::join!(client.read_to_end(&mut got), send);
            assert_eq!((read.unwrap(), got.len()), (much.len(), much.len()));
        }
    }

    #[tokio::test]
    async fn who_finds_more_all_the_time_lets_others_run() {
        let (_client, mut stream) = accepted(&[b'x'; 1000]).await;
        let at_once = poll_fn(|cx| {
            let reads = (0..1000).take_while(|_| Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut [0; 1])).is_ready());
            Poll::Ready(reads.count())
        });
        let at_once = at_once.await;
        assert!((1..1000).contains(&at_once), "{at_once}");
        assert!(matches!(stream, Stream::Fresh(_)));
    }

    #[tokio::test]
    async fn settled_once_is_settled() {
        let (_client, mut stream) = accepted(b"").await;
        for _ in 0..2 {
            stream.settle().unwrap();
            assert!(matches!(stream, Stream::Tcp(_)));
        }
        assert!(stream.settles_to_tcp().unwrap() && accepted(b"").await.1.settles_to_tcp().unwrap());
        assert!(stream.into_tcp().is_some());
        assert!(accepted(b"").await.1.into_tcp().is_some());
    }
}
