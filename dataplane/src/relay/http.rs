//! One request forwarded, and its response: framing, hop-by-hop fields, both directions at once.
//!
//! Bodies are streamed. A response may come before its request has ended: then it is passed on, and the connections end with it (RFC 9112, section 9.5).

use crate::connect::UpstreamError;
use crate::connect::chain::{Form, ProxyError};
use crate::parse::http::{self, Ask, Body, Chunk, Chunks, RequestHead, ResponseHead, ToProxy};
use crate::stream::{Buffered, Reader, WriteHalf};
use bytes::Buf;
use policy_format::Limits;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of chunked data that are gathered before they are written.
const GATHER: usize = 64 * 1024;

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchanged {
    /// The response is out.
    Done {
        /// The client may send another request.
        client_reusable: bool,
        /// The upstream may be given another request.
        upstream_reusable: bool,
    },
    /// Both sides now speak another protocol.
    Upgraded,
}

/// Why an exchange ended early.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// Nothing was sent to the client yet: it can be told.
    BeforeResponse(UpstreamError),
    /// The client sent a broken body, and nothing was sent to it yet.
    BadBody(&'static str),
    /// The connections are of no more use.
    Broken,
}

/// Sends `head` and the body that follows it on `client` to `upstream`, and the response back. `read_only` keeps a switch of protocols from being offered.
pub(crate) async fn exchange(
    client: &mut Buffered,
    upstream: &mut Buffered,
    head: &RequestHead,
    form: &Form,
    read_only: bool,
    limits: &Limits,
) -> Result<Exchanged, ExchangeError> {
    let Ask::Resource(resource) = &head.ask else { return Err(ExchangeError::Broken) };
    let upgrade = !read_only && head.body == Body::None;
    let mut out = Vec::with_capacity(1024);
    let proxy = match form {
        Form::Origin => None,
        Form::Absolute(proxy) => Some(ToProxy { authorization: proxy.authorization() }),
    };
    head.write(resource, proxy, upgrade, &mut out);
    let (mut client_reader, mut client_writer) = client.split();
    let (mut upstream_reader, mut upstream_writer) = upstream.split();
    let offered = upgrade && head.upgrade.is_some();
    let started = AtomicBool::new(false);
    let mut response = Response { head, limits, offered, proxied: proxy.is_some(), started: &started };

    if matches!(head.body, Body::None | Body::Length(0)) {
        // A stale connection shows itself here or at the first read: both mean that nothing was answered.
        write(&mut upstream_writer, &out, limits).await.map_err(|_| ExchangeError::BeforeResponse(UpstreamError::Closed))?;
        return tokio::select! {
            biased;
            relayed = response.relay(&mut upstream_reader, &mut client_writer) => relayed,
            // Nobody is there to hear the answer: nothing is held for them.
            () = gone(&mut client_reader, limits) => Err(ExchangeError::Broken),
        };
    }

    let mut body_done = false;
    let send = async {
        write(&mut upstream_writer, &out, limits).await.map_err(|_| BodyError::Upstream)?;
        send_body(&mut client_reader, &mut upstream_writer, head.body, limits).await
    };
    let receive = response.relay(&mut upstream_reader, &mut client_writer);
    tokio::pin!(send, receive);
    let received = loop {
        tokio::select! {
            // The body first, so that a response that came with its end does not look early.
            biased;
            sent = &mut send, if !body_done => match sent {
                Ok(()) => body_done = true,
                // An origin that stops reading may have answered why: listen to it.
                Err(BodyError::Upstream) => break receive.await.map(|exchanged| end(exchanged, false)),
                Err(BodyError::Client) => break Err(ExchangeError::Broken),
                Err(BodyError::Malformed(what)) => break Err(ExchangeError::BadBody(what)),
            },
            received = &mut receive => break received.map(|exchanged| end(exchanged, body_done)),
        }
    };
    match received {
        Err(ExchangeError::BadBody(_)) if started.load(Ordering::Relaxed) => Err(ExchangeError::Broken),
        received => received,
    }
}

/// Ends when the client has ended its connection. What it sends meanwhile is its next request, and is kept, within bounds.
async fn gone(client: &mut Reader<'_>, limits: &Limits) {
    while client.buffer.len() < limits.head_bytes {
        if !matches!(client.more().await, Ok(1..)) {
            return;
        }
    }
    std::future::pending().await
}

/// Connections whose request did not end cannot be used again.
fn end(exchanged: Exchanged, body_done: bool) -> Exchanged {
    match exchanged {
        Exchanged::Done { client_reusable, upstream_reusable } => {
            Exchanged::Done { client_reusable: client_reusable && body_done, upstream_reusable: upstream_reusable && body_done }
        }
        Exchanged::Upgraded => Exchanged::Upgraded,
    }
}

enum BodyError {
    Client,
    Upstream,
    Malformed(&'static str),
}

async fn send_body(from: &mut Reader<'_>, to: &mut WriteHalf<'_>, body: Body, limits: &Limits) -> Result<(), BodyError> {
    match copy_body(from, to, body, true, limits).await {
        Ok(()) => Ok(()),
        Err(CopyError::Read) => Err(BodyError::Client),
        Err(CopyError::Write) => Err(BodyError::Upstream),
        Err(CopyError::Malformed(what)) => Err(BodyError::Malformed(what)),
    }
}

/// The response's way back.
struct Response<'h> {
    head: &'h RequestHead,
    limits: &'h Limits,
    /// The client offered to switch protocols, and the offer was passed on.
    offered: bool,
    /// A proxy answers, and not the origin.
    proxied: bool,
    /// Something of the final response was sent to the client.
    started: &'h AtomicBool,
}

impl Response<'_> {
    async fn relay(&mut self, from: &mut Reader<'_>, to: &mut WriteHalf<'_>) -> Result<Exchanged, ExchangeError> {
        let mut interim = 0;
        // One deadline for all heads: interim ones do not stretch it.
        let deadline = Instant::now() + self.limits.response_timeout;
        loop {
            let response = self.read_head(from, deadline).await?;
            match response.status {
                101 if self.offered && response.upgrade.is_some() => {
                    self.write_head(to, &response, false, false).await?;
                    return Ok(Exchanged::Upgraded);
                }
                // That is between the proxy and us: the client has no business with it.
                407 if self.proxied => return Err(ExchangeError::BeforeResponse(ProxyError::Status(407).into())),
                101 => return Err(ExchangeError::BeforeResponse(UpstreamError::BadResponse)),
                100..=199 => {
                    interim += 1;
                    if interim > self.limits.interim_responses {
                        return Err(ExchangeError::BeforeResponse(UpstreamError::BadResponse));
                    }
                    // HTTP/1.0 knows none of them.
                    if self.head.is_1_1 {
                        self.write_head(to, &response, false, false).await?;
                    }
                }
                _ => return self.relay_final(from, to, &response).await,
            }
        }
    }

    async fn relay_final(
        &mut self,
        from: &mut Reader<'_>,
        to: &mut WriteHalf<'_>,
        response: &ResponseHead,
    ) -> Result<Exchanged, ExchangeError> {
        let chunked = response.body == Body::Chunked && self.head.is_1_1;
        let delimited = match response.body {
            Body::None | Body::Length(_) => true,
            Body::Chunked => chunked,
            Body::UntilClose => false,
        };
        let keep_alive = self.head.keep_alive && delimited;
        self.started.store(true, Ordering::Relaxed);
        let mut out = Vec::with_capacity(1024);
        response.write(self.head.is_1_1, chunked, !keep_alive, &mut out);
        // What of the body is there already goes out with the head.
        if let Body::Length(length) = response.body {
            let ready = usize::try_from(length).unwrap_or(usize::MAX).min(from.buffer.len());
            out.extend_from_slice(from.buffer.get(..ready).unwrap_or_default());
            from.buffer.advance(ready);
            write(to, &out, self.limits).await.map_err(|_| ExchangeError::Broken)?;
            copy_body(from, to, Body::Length(length - ready as u64), false, self.limits).await.map_err(|_| ExchangeError::Broken)?;
        } else {
            write(to, &out, self.limits).await.map_err(|_| ExchangeError::Broken)?;
            copy_body(from, to, response.body, chunked, self.limits).await.map_err(|_| ExchangeError::Broken)?;
        }
        let upstream_reusable = response.keep_alive && response.body != Body::UntilClose;
        Ok(Exchanged::Done { client_reusable: keep_alive, upstream_reusable })
    }

    async fn write_head(
        &mut self,
        to: &mut WriteHalf<'_>,
        response: &ResponseHead,
        chunked: bool,
        close: bool,
    ) -> Result<(), ExchangeError> {
        let mut out = Vec::with_capacity(512);
        response.write(self.head.is_1_1, chunked, close, &mut out);
        write(to, &out, self.limits).await.map_err(|_| ExchangeError::Broken)
    }

    async fn read_head(&self, from: &mut Reader<'_>, deadline: Instant) -> Result<ResponseHead, ExchangeError> {
        let before = |error| ExchangeError::BeforeResponse(error);
        let read = async {
            let mut seen = 0;
            loop {
                if let Some(end) = http::head_end(from.buffer, seen) {
                    let head = from.buffer.split_to(end);
                    return http::parse_response(&head, &self.head.method, self.limits.head_fields)
                        .map_err(|_| before(UpstreamError::BadResponse));
                }
                if from.buffer.len() >= self.limits.head_bytes {
                    return Err(before(UpstreamError::BadResponse));
                }
                seen = from.buffer.len();
                match from.more().await {
                    Ok(0) if seen == 0 => return Err(before(UpstreamError::Closed)),
                    Ok(0) => return Err(before(UpstreamError::BadResponse)),
                    Ok(_) => {}
                    Err(_) => return Err(before(UpstreamError::Closed)),
                }
            }
        };
        timeout_at(deadline, read).await.unwrap_or(Err(before(UpstreamError::ResponseTimeout)))
    }
}

enum CopyError {
    Read,
    Write,
    Malformed(&'static str),
}

/// Copies one body. `chunked`: whether a chunked body stays chunked on its way.
async fn copy_body(from: &mut Reader<'_>, to: &mut WriteHalf<'_>, body: Body, chunked: bool, limits: &Limits) -> Result<(), CopyError> {
    match body {
        Body::None => Ok(()),
        Body::Length(length) => copy_length(from, to, length, limits).await,
        Body::Chunked => copy_chunks(from, to, chunked, limits).await,
        Body::UntilClose => copy_until_close(from, to, limits).await,
    }
}

async fn copy_length(from: &mut Reader<'_>, to: &mut WriteHalf<'_>, length: u64, limits: &Limits) -> Result<(), CopyError> {
    let mut left = length;
    while left > 0 {
        if from.buffer.is_empty() && from.more_body(limits.idle_timeout).await.map_err(|_| CopyError::Read)? == 0 {
            return Err(CopyError::Read);
        }
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(from.buffer.len());
        write(to, from.buffer.get(..take).unwrap_or_default(), limits).await?;
        from.buffer.advance(take);
        left -= take as u64;
    }
    Ok(())
}

async fn copy_until_close(from: &mut Reader<'_>, to: &mut WriteHalf<'_>, limits: &Limits) -> Result<(), CopyError> {
    loop {
        write(to, from.buffer, limits).await?;
        from.buffer.clear();
        if from.more_body(limits.idle_timeout).await.map_err(|_| CopyError::Read)? == 0 {
            return Ok(());
        }
    }
}

/// Reads chunks and writes chunks of its own: sizes are what was checked, and extensions end here.
async fn copy_chunks(from: &mut Reader<'_>, to: &mut WriteHalf<'_>, chunked: bool, limits: &Limits) -> Result<(), CopyError> {
    let mut chunks = Chunks::new(limits.head_bytes);
    let mut out = Vec::new();
    loop {
        match chunks.next(from.buffer).map_err(CopyError::Malformed)? {
            Chunk::Skip(framing) => from.buffer.advance(framing),
            Chunk::Data(len) => {
                let data = from.buffer.split_to(len);
                if chunked {
                    // Writing to a vector cannot fail.
                    let _ = write!(out, "{len:x}\r\n");
                }
                out.extend_from_slice(&data);
                if chunked {
                    out.extend_from_slice(b"\r\n");
                }
            }
            Chunk::End(len) => {
                let trailers = from.buffer.split_to(len);
                if chunked {
                    out.extend_from_slice(b"0\r\n");
                    http::write_trailers(&trailers, limits.head_fields, &mut out).map_err(CopyError::Malformed)?;
                    out.extend_from_slice(b"\r\n");
                }
                return write(to, &out, limits).await;
            }
            Chunk::More => {
                // What is whole goes on before more is waited for: nothing is held back.
                flush(to, &mut out, limits).await?;
                if from.more_body(limits.idle_timeout).await.map_err(|_| CopyError::Read)? == 0 {
                    return Err(CopyError::Read);
                }
            }
        }
        if out.len() >= GATHER {
            flush(to, &mut out, limits).await?;
        }
    }
}

async fn flush(to: &mut WriteHalf<'_>, out: &mut Vec<u8>, limits: &Limits) -> Result<(), CopyError> {
    write(to, out, limits).await?;
    out.clear();
    Ok(())
}

/// Writes all of it; who does not read for too long is given up.
async fn write(to: &mut WriteHalf<'_>, bytes: &[u8], limits: &Limits) -> Result<(), CopyError> {
    if bytes.is_empty() {
        return Ok(());
    }
    let write = async {
        to.write_all(bytes).await?;
        // What writes to a proxy through TLS keeps some back.
        to.flush().await
    };
    let written: io::Result<()> = timeout(limits.idle_timeout, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    written.map_err(|_| CopyError::Write)
}
