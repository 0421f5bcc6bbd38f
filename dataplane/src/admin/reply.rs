//! Answers: JSON, text, streams and problems, with the header fields that all of them have.

use super::model::Problem;
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY, RETRY_AFTER,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde::Serialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

pub(super) const JSON: &str = "application/json";
pub(super) const PROBLEM: &str = "application/problem+json";

/// An answer.
pub(crate) type Answer = Response<Body>;

/// What an answer has behind its head.
pub(crate) enum Body {
    /// All of it.
    Full(Full<Bytes>),
    /// What comes, until its sender is gone.
    Stream(Pieces),
}

/// What comes, and whether anybody still sends it: what was sent may wait for a client that does not read.
#[derive(Debug)]
pub(crate) struct Pieces {
    pub(super) pieces: mpsc::Receiver<Bytes>,
    /// Its sender goes with whoever sends.
    pub(super) source: watch::Receiver<()>,
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Full(full) => Pin::new(full).poll_frame(cx),
            Self::Stream(stream) => stream.pieces.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(full) => full.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(full) => full.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// What went wrong, and what the client needs to know of it beside.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    detail: String,
    field: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), field: None }
    }

    pub(crate) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// With the methods that there are.
    pub(super) fn method(allow: &str) -> Self {
        let field = HeaderValue::from_str(allow).ok().map(|allow| (ALLOW, allow));
        Self { field, ..Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("here, there are {allow}")) }
    }

    /// Later, it may be otherwise.
    pub(super) fn later(status: StatusCode, wait: Duration, detail: impl Into<String>) -> Self {
        // Whole seconds, and not too early.
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1);
        Self { field: Some((RETRY_AFTER, seconds.into())), ..Self::new(status, detail) }
    }

    /// A token is wanted, or another one (RFC 6750, section 3).
    pub(super) fn token(status: StatusCode, challenge: &'static str, detail: impl Into<String>) -> Self {
        Self { field: Some((WWW_AUTHENTICATE, HeaderValue::from_static(challenge))), ..Self::new(status, detail) }
    }

    pub(crate) fn answer(self) -> Answer {
        let problem = Problem {
            kind: "about:blank".to_owned(),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
        };
        let mut answer = full(self.status, serialized(&problem), PROBLEM);
        if let Some((name, value)) = self.field {
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}

/// JSON of one of the models.
pub(crate) fn json(status: StatusCode, model: &impl Serialize) -> Answer {
    full(status, serialized(model), JSON)
}

fn serialized(model: &impl Serialize) -> String {
    // Their maps have texts for names, and nothing in them fails.
    serde_json::to_string(model).map_or_else(|_| "{}\n".to_owned(), |text| text + "\n")
}

/// Text of a type.
pub(crate) fn full(status: StatusCode, text: impl Into<Bytes>, kind: &'static str) -> Answer {
    with_head(status, Body::Full(Full::new(text.into())), kind)
}

/// What comes.
pub(super) fn stream(pieces: Pieces, kind: &'static str) -> Answer {
    with_head(StatusCode::OK, Body::Stream(pieces), kind)
}

/// Nothing, but which methods there are.
pub(super) fn options(allow: &str) -> Answer {
    let mut answer = with_head(StatusCode::NO_CONTENT, Body::Full(Full::default()), JSON);
    answer.headers_mut().remove(CONTENT_TYPE);
    if let Ok(allow) = HeaderValue::from_str(allow) {
        answer.headers_mut().insert(ALLOW, allow);
    }
    answer
}

/// It is somewhere else here, for good.
pub(super) fn moved(to: &str) -> Answer {
    let mut answer = with_head(StatusCode::PERMANENT_REDIRECT, Body::Full(Full::default()), JSON);
    answer.headers_mut().remove(CONTENT_TYPE);
    if let Ok(to) = HeaderValue::from_str(to) {
        answer.headers_mut().insert(LOCATION, to);
    }
    answer
}

fn with_head(status: StatusCode, body: Body, kind: &'static str) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, kind),
        // All of it is about this moment.
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
