//! A connection to an origin that speaks HTTP/2.
//!
//! A task of its own drives it, so that it can outlive the client that it was opened for. It ends when the last [`Upstream`] is dropped, or when the origin ends it.

use crate::connect::UpstreamError;
use crate::patience::Patience;
use crate::signal::{Bell, Ear};
use bytes::Bytes;
use h2::SendStream;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use http::Request;
use policy_format::Limits;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

/// Bytes of one response that an origin may send ahead of what its client takes.
pub(super) const STREAM_WINDOW: u32 = 512 * 1024;
/// The same for all responses of a connection: some slow readers leave room for the others.
pub(super) const WINDOW: u32 = 4 * 1024 * 1024;

/// A connection to an origin, as long as somebody has this.
#[derive(Debug, Clone)]
pub(crate) struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    send: Mutex<SendRequest<Bytes>>,
    /// The origin takes no new requests on it.
    leaving: AtomicBool,
    /// It waited in a pool, and has not answered since: the origin may have ended it already.
    stale: AtomicBool,
    /// Rings when the origin takes no new requests.
    bell: Bell,
    /// A stream may become a byte stream (RFC 8441).
    tunnels: bool,
}

impl Upstream {
    /// Begins to speak HTTP/2 with an origin that agreed on it, and waits until it has said how many requests it takes, which is the first thing that it has to say.
    ///
    /// # Errors
    /// It does not speak HTTP/2, or does not begin to within `connect_timeout`.
    pub(crate) async fn open<U>(stream: U, limits: &Limits) -> Result<Self, UpstreamError>
    where
        U: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let opened = timeout(limits.connect_timeout, begin(stream, limits)).await;
        let (send, connection) = opened.map_err(|_| UpstreamError::ConnectTimeout)??;
        let tunnels = send.is_extended_connect_protocol_enabled();
        let inner = Arc::new(Inner {
            send: Mutex::new(send),
            leaving: AtomicBool::new(false),
            stale: AtomicBool::new(false),
            bell: Bell::default(),
            tunnels,
        });
        let driver = Driver { connection, inner: Arc::downgrade(&inner), linger: limits.linger_timeout, goodbye: None };
        tokio::spawn(driver);
        Ok(Self(inner))
    }

    /// Whether the origin takes new requests on it.
    pub(crate) fn is_usable(&self) -> bool {
        !self.0.leaving.load(Ordering::Acquire)
    }

    /// It waited for this client: who knows whether the origin still is there.
    pub(super) fn set_stale(&self) {
        self.0.stale.store(true, Ordering::Relaxed);
    }

    /// The origin answered on it.
    pub(super) fn answered(&self) {
        self.0.stale.store(false, Ordering::Relaxed);
    }

    pub(super) fn is_stale(&self) -> bool {
        self.0.stale.load(Ordering::Relaxed)
    }

    /// Whether a stream may become a byte stream.
    pub(super) fn tunnels(&self) -> bool {
        self.0.tunnels
    }

    /// Hears when the origin takes no new requests.
    pub(super) fn ear(&self) -> Ear {
        self.0.bell.ear()
    }

    /// Sends the head of a request. Where the origin has as many as it takes, it waits within the connection.
    pub(super) fn send(&self, request: Request<()>, ended: bool) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        // One of its own for each request: a shared one lets only one wait.
        let mut send = self.0.lock().clone();
        let sent = send.send_request(request, ended);
        if sent.is_err() {
            self.0.look();
        }
        sent
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, SendRequest<Bytes>> {
        self.send.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out whether the origin still takes requests: it may have sent GOAWAY.
    fn look(&self) {
        // Ready in any case: nothing waits on this one.
        let ready = self.lock().poll_ready(&mut Context::from_waker(std::task::Waker::noop()));
        if matches!(ready, Poll::Ready(Err(_))) {
            self.leave();
        }
    }

    fn leave(&self) {
        if !self.leaving.swap(true, Ordering::AcqRel) {
            self.bell.ring();
        }
    }
}

type Begun<U> = (SendRequest<Bytes>, Connection<U, Bytes>);

async fn begin<U: AsyncRead + AsyncWrite + Unpin>(stream: U, limits: &Limits) -> Result<Begun<U>, UpstreamError> {
    let begun = Builder::new()
        .enable_push(false)
        // Until the origin has said how many, none: that is how it is known that it did.
        .initial_max_send_streams(0)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buffer_size(super::SEND_BUFFER)
        .max_header_list_size(super::header_list(limits))
        .max_concurrent_reset_streams(super::RESET_STREAMS)
        .max_local_error_reset_streams(Some(super::ERROR_RESETS))
        .handshake(stream)
        .await;
    let (send, mut connection) = begun.map_err(|_| UpstreamError::Closed)?;
    poll_fn(|cx| {
        let driven = Pin::new(&mut connection).poll(cx);
        match driven {
            _ if send.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
            Poll::Ready(Ok(())) => Poll::Ready(Err(UpstreamError::Closed)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(failure(&error))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await?;
    Ok((send, connection))
}

/// What an error of a connection, or one of ours on a stream, says of the origin.
pub(super) fn failure(error: &h2::Error) -> UpstreamError {
    if error.is_library() { UpstreamError::BadResponse } else { UpstreamError::Closed }
}

/// Moves frames until the connection is over.
struct Driver<U> {
    connection: Connection<U, Bytes>,
    inner: Weak<Inner>,
    linger: Duration,
    /// Nobody has it any more: how long the end may take.
    goodbye: Option<Patience>,
}

impl<U: AsyncRead + AsyncWrite + Unpin> Future for Driver<U> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let over = Pin::new(&mut this.connection).poll(cx).is_ready();
        match this.inner.upgrade() {
            Some(inner) if over => inner.leave(),
            Some(inner) => inner.look(),
            None if over => {}
            None => {
                let linger = this.linger;
                ready!(this.goodbye.get_or_insert_with(|| Patience::new(linger)).poll_over(cx));
                return Poll::Ready(());
            }
        }
        if over { Poll::Ready(()) } else { Poll::Pending }
    }
}
