//! What a stream is answered by the proxy itself.

use super::head::Head;
use crate::calendar::http_date;
use crate::connect::UpstreamError;
use crate::counters::Reached;
use crate::inside::judge::Answer;
use crate::parse::forwarding::Forwarding;
use crate::parse::http::BadRequest;
use crate::parse::target::Target;
use bytes::Bytes;
use h2::server::SendResponse;
use http::header::{CONTENT_LENGTH, DATE, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use tokio::time::Instant;

fn text(status: u16, proxy_error: Option<String>, body: String) -> Answer {
    let kind = ("content-type", "text/plain; charset=utf-8".to_owned());
    let fields = [kind].into_iter().chain(proxy_error.map(|error| ("x-proxy-error", error))).collect();
    Answer { status, fields, body }
}

/// The request is not one that may go on as it is.
pub(super) fn bad_request(bad: BadRequest) -> Answer {
    text(bad.status, None, format!("bad request: {}\n", bad.message))
}

/// The policy says yes, and the world says no.
pub(super) fn upstream_failed(target: &Target, error: UpstreamError) -> Answer {
    let message = match error {
        UpstreamError::BadResponse => "is allowed, but answered with something that is not HTTP/2".into(),
        error => error.message(),
    };
    text(error.status(), Some(error.proxy_error().to_owned()), format!("{target} {message}\n"))
}

/// A limit says no.
pub(super) fn limited(target: &Target, reached: Reached) -> Answer {
    let name = reached.name();
    let status = match name {
        "request_body_bytes" => 413,
        "upload_bytes" => 429,
        _ => 503,
    };
    text(status, Some(format!("limited-{name}")), format!("{target} is allowed, but a limit of the proxy was reached: {name}\n"))
}

/// What may only be read would become a WebSocket, in which nothing can be.
pub(super) fn read_only(target: &Target) -> Answer {
    text(403, Some("blocked-by-policy".to_owned()), format!("{target} is blocked: it is read-only, and a WebSocket cannot be read\n"))
}

/// What the policy has put into a request makes no field. Nothing of it is said.
pub(super) fn unfit(target: &Target) -> Answer {
    text(500, None, format!("{target} is allowed, but what the policy has put into the request makes no header field\n"))
}

/// What is answered without a decision, since nothing leaves for it: a request that came through here before, and one that may go no further (RFC 9110, section 7.6.2).
pub(super) fn own(head: &Head, target: &Target, forwarding: &Forwarding<'_>) -> Option<Answer> {
    if forwarding.via.is_some_and(|own| head.went_through(own)) {
        return Some(text(508, Some("blocked-by-policy".to_owned()), "the request came through this proxy already\n".to_owned()));
    }
    match head.max_forwards {
        // Fields may be anybody's secrets, and are not repeated.
        Some(0) if head.method == Method::TRACE => {
            let kind = ("content-type", "message/http".to_owned());
            let body = format!("TRACE {} HTTP/2\r\nHost: {target}\r\n\r\n", head.path);
            Some(Answer { status: 200, fields: vec![kind], body })
        }
        Some(0) => Some(text(200, None, String::new())),
        _ => None,
    }
}

/// Answers a stream. What it still sends is not waited for: `h2` tells it so.
pub(super) fn say(respond: &mut SendResponse<Bytes>, answer: Answer, to_head: bool) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let fields = response.headers_mut();
    fields.insert(DATE, http_date(Instant::now()));
    fields.insert(CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
    for (name, value) in answer.fields {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::try_from(value)) {
            fields.append(name, value);
        }
    }
    let empty = to_head || answer.body.is_empty();
    // Who is gone hears nothing.
    if let Ok(mut body) = respond.send_response(response, empty)
        && !empty
    {
        let _ = body.send_data(answer.body.into(), true);
    }
}
