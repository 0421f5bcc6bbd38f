//! One body copied, by its framing.

use super::flow::{End, Flow, FlowError};
use crate::counters::Reached;
use crate::parse::chunks::{self, Chunk, Chunks};
use crate::parse::http::Body;
use crate::stream::{Buffered, Stream};
use bytes::Buf;
use policy_format::Limits;
use std::io::Write;
use std::task::{Context, Poll, ready};

/// Bytes of chunked data that are gathered before they are written.
const GATHER: usize = 64 * 1024;

/// A body under way. What its flow has in its buffer, such as the head, goes first.
pub(crate) enum BodyCopy {
    /// So many bytes more; the flow's own bytes first.
    Length { left: u64, early: bool },
    /// Until the sender closes.
    UntilClose { early: bool },
    /// Chunk by chunk.
    Chunked(Box<Chunked>),
}

pub(crate) struct Chunked {
    chunks: Chunks,
    /// It stays chunked on its way.
    chunked: bool,
    max_fields: usize,
    /// Trailers end here.
    drops_trailers: bool,
    ended: bool,
}

/// The body is out.
#[derive(Debug)]
pub(crate) struct Copied;

/// Why it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyError {
    Read,
    Write,
    Malformed(&'static str),
    Limited(Reached),
}

impl From<FlowError> for CopyError {
    fn from(error: FlowError) -> Self {
        match error {
            FlowError::Read => Self::Read,
            FlowError::Write => Self::Write,
            FlowError::Limited(reached) => Self::Limited(reached),
        }
    }
}

impl BodyCopy {
    /// `chunked`: whether a chunked body stays chunked on its way.
    pub(crate) fn new(body: Body, chunked: bool, limits: &Limits) -> Self {
        match body {
            Body::None => Self::Length { left: 0, early: false },
            Body::Length(left) => Self::Length { left, early: true },
            Body::UntilClose => Self::UntilClose { early: true },
            Body::Chunked => Self::Chunked(Box::new(Chunked {
                chunks: Chunks::new(limits.head_bytes),
                chunked,
                max_fields: limits.head_fields,
                drops_trailers: false,
                ended: false,
            })),
        }
    }

    /// Where fields of the head are taken out, none comes back behind the body.
    pub(crate) fn without_trailers(mut self, drops_trailers: bool) -> Self {
        if let Self::Chunked(chunked) = &mut self {
            chunked.drops_trailers = drops_trailers;
        }
        self
    }

    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Buffered,
        to: &mut Stream,
        flow: &mut Flow,
    ) -> Poll<Result<Copied, CopyError>> {
        match self {
            Self::Length { left, early } => {
                // What is there already goes out with what goes before it.
                if std::mem::take(early) {
                    let ready = usize::try_from(*left).unwrap_or(usize::MAX).min(from.buffer.len());
                    flow.begin_with(from.buffer.get(..ready).unwrap_or_default())?;
                    from.buffer.advance(ready);
                    *left -= ready as u64;
                    if *left == 0 {
                        flow.has_last();
                    }
                }
                match ready!(flow.poll(cx, &mut from.stream, to, left))? {
                    End::Done => Poll::Ready(Ok(Copied)),
                    End::Eof => Poll::Ready(Err(CopyError::Read)),
                }
            }
            Self::UntilClose { early } => {
                if std::mem::take(early) {
                    flow.begin_with(&from.buffer)?;
                    from.buffer.clear();
                }
                let mut left = u64::MAX;
                ready!(flow.poll(cx, &mut from.stream, to, &mut left))?;
                Poll::Ready(Ok(Copied))
            }
            Self::Chunked(chunked) => chunked.poll(cx, from, to, flow),
        }
    }
}

impl Chunked {
    /// Reads chunks and writes chunks of its own: sizes are what was checked, and extensions end here.
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Buffered, to: &mut Stream, flow: &mut Flow) -> Poll<Result<Copied, CopyError>> {
        while !self.ended {
            if flow.is_blocked() && flow.buffer().len() >= GATHER {
                ready!(flow.poll_write(cx, to))?;
            }
            match self.chunks.next(&from.buffer).map_err(CopyError::Malformed)? {
                Chunk::Skip(framing) => from.buffer.advance(framing),
                Chunk::Data(len) => {
                    flow.charge(len)?;
                    let out = flow.buffer();
                    if self.chunked {
                        // Writing to a vector cannot fail.
                        let _ = write!(out, "{len:x}\r\n");
                    }
                    out.extend_from_slice(from.buffer.get(..len).unwrap_or_default());
                    from.buffer.advance(len);
                    if self.chunked {
                        out.extend_from_slice(b"\r\n");
                    }
                }
                Chunk::End(len) => {
                    self.ended = true;
                    // The empty line at their end is framing.
                    flow.charge(len.saturating_sub(2))?;
                    let trailers = from.buffer.split_to(len);
                    if self.chunked {
                        let out = flow.buffer();
                        out.extend_from_slice(b"0\r\n");
                        let before = out.len();
                        chunks::write_trailers(&trailers, self.max_fields, out).map_err(CopyError::Malformed)?;
                        if self.drops_trailers {
                            out.truncate(before);
                        }
                        out.extend_from_slice(b"\r\n");
                    }
                }
                Chunk::More => {
                    // What is whole goes on before more is waited for: nothing is held back.
                    ready!(flow.poll_write(cx, to))?;
                    match ready!(from.poll_more_body(cx)) {
                        Ok(1..) => flow.touch(),
                        _ => return Poll::Ready(Err(CopyError::Read)),
                    }
                }
            }
        }
        flow.has_last();
        ready!(flow.poll_write(cx, to))?;
        Poll::Ready(Ok(Copied))
    }
}
