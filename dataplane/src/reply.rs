//! The replies that the proxy makes itself.

use crate::calendar::write_date;
use crate::connect::UpstreamError;
use crate::counters::Reached;
use crate::decide::deny::Denial;
use crate::inside::judge::Answer;
use crate::parse::forwarding::Forwarding;
use crate::parse::http::{BadRequest, RequestHead};
use crate::parse::target::Target;
use crate::secret::SecretError;
use std::fmt::Display;
use std::io::Write;
use tokio::time::Instant;

/// The answer to CONNECT once the upstream stands. No length and no coding: what follows is the tunnel (RFC 9110, section 9.3.6).
pub(crate) const TUNNEL_STANDS: &[u8] = b"HTTP/1.1 200 Connection Established\r\n\r\n";

/// The policy says no. Many clients show the reason phrase and nothing else, so it says whose no it is.
pub(crate) fn blocked(denial: &Denial, method: &str, keep_alive: bool) -> Vec<u8> {
    let (kind, body) =
        if denial.is_json() { ("application/json", denial.json()) } else { ("text/plain; charset=utf-8", denial.message() + "\n") };
    let reason = format!("Blocked by network policy ({})", denial.reason());
    response(403, &reason, Some(denial.proxy_error()), kind, &body, method, keep_alive)
}

/// The same to a request inside TLS, for whoever writes it.
pub(crate) fn denied(denial: &Denial) -> Answer {
    let fields = vec![("content-type", "application/json".to_owned()), ("x-proxy-error", denial.proxy_error().to_owned())];
    Answer { status: 403, fields, body: denial.json() }
}

/// A hook of the policy cannot be applied: without its secret, the request must not go on. Where secrets are is nothing that a client is told.
pub(crate) fn no_secret() -> Answer {
    let what = SecretError::ANSWER;
    let fields = vec![("content-type", "text/plain; charset=utf-8".to_owned()), ("x-proxy-error", "secret-unavailable".to_owned())];
    Answer { status: 502, fields, body: format!("{what}\n") }
}

/// The policy in force has another way to the origin than the connection that there is: on a new one, the client has it.
pub(crate) fn another_way() -> Answer {
    let fields = vec![("content-type", "text/plain; charset=utf-8".to_owned())];
    Answer { status: 421, fields, body: "the policy has another way for this request: connect anew\n".to_owned() }
}

/// A whole answer, as HTTP/1.1 writes it.
pub(crate) fn answer(answer: &Answer, method: &str, keep_alive: bool) -> Vec<u8> {
    let field = |name: &str| answer.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
    let kind = field("content-type").unwrap_or("text/plain; charset=utf-8");
    response(answer.status, phrase(answer.status), field("x-proxy-error"), kind, &answer.body, method, keep_alive)
}

/// The policy says yes, and the world says no.
pub(crate) fn upstream_failed(target: &(dyn Display + Sync), error: UpstreamError, method: &str, keep_alive: bool) -> Vec<u8> {
    let body = format!("{target} {}\n", error.message());
    response(error.status(), phrase(error.status()), Some(error.proxy_error()), "text/plain; charset=utf-8", &body, method, keep_alive)
}

/// A limit says no.
pub(crate) fn limited(reached: Reached, target: &Target, method: &str, keep_alive: bool) -> Vec<u8> {
    let status = match reached.name() {
        "request_body_bytes" => 413,
        "upload_bytes" => 429,
        _ => 503,
    };
    let name = reached.name();
    let body = format!("{target} is allowed, but a limit of the proxy was reached: {name}\n");
    response(status, phrase(status), Some(&format!("limited-{name}")), "text/plain; charset=utf-8", &body, method, keep_alive)
}

/// The request is not one. Nothing after it can be trusted, so the connection ends.
pub(crate) fn bad_request(bad: BadRequest) -> Vec<u8> {
    let body = format!("bad request: {}\n", bad.message);
    if bad.status == 405 {
        // It says which methods there are (RFC 9110, section 15.5.6); of the origin's nobody here knows more.
        let mut out = b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE\r\n".to_vec();
        write_date(Instant::now(), &mut out);
        let _ = write!(out, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        return out;
    }
    response(bad.status, phrase(bad.status), None, "text/plain; charset=utf-8", &body, "GET", false)
}

/// What the proxy answers by itself, without a decision, since nothing leaves for it: a request that came through here before, and one that may go no further
/// (`Max-Forwards: 0`, RFC 9110, section 7.6.2).
pub(crate) fn own(head: &RequestHead, forwarding: &Forwarding<'_>, keep_alive: bool) -> Option<Vec<u8>> {
    let method = &head.method;
    if forwarding.via.is_some_and(|own| head.went_through(own)) {
        let body = "the request came through this proxy already\n";
        return Some(response(508, phrase(508), Some("blocked-by-policy"), "text/plain; charset=utf-8", body, method, keep_alive));
    }
    match (head.max_forwards, &**method) {
        (Some(0), "TRACE") => Some(response(200, phrase(200), None, "message/http", &head.trace(), method, keep_alive)),
        (Some(0), _) => Some(response(200, phrase(200), None, "text/plain; charset=utf-8", "", method, keep_alive)),
        _ => None,
    }
}

/// What a status is called (RFC 9110, section 15; RFC 6585; RFC 5842).
fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        // A phrase may be empty (RFC 9112, section 4).
        _ => "",
    }
}

fn response(status: u16, reason: &str, proxy_error: Option<&str>, kind: &str, body: &str, method: &str, keep_alive: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    // Writing to a vector cannot fail.
    let _ = write!(out, "HTTP/1.1 {status} {reason}\r\n");
    write_date(Instant::now(), &mut out);
    let _ = write!(out, "Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
    if let Some(error) = proxy_error {
        let _ = write!(out, "x-proxy-error: {error}\r\n");
    }
    out.extend_from_slice(if keep_alive { b"Connection: keep-alive\r\n\r\n" } else { b"Connection: close\r\n\r\n" });
    if method != "HEAD" {
        out.extend_from_slice(body.as_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_called_what_its_status_is() {
        for (what, line) in [(another_way(), "HTTP/1.1 421 Misdirected Request\r\n"), (no_secret(), "HTTP/1.1 502 Bad Gateway\r\n")] {
            assert!(answer(&what, "GET", true).starts_with(line.as_bytes()), "{line}");
        }
        assert!(answer(&no_secret(), "GET", true).windows(7).any(|start| start == b"\nDate: "));
        // Those of one that is malformed, of origins, and of limits.
        for status in [400, 405, 408, 413, 414, 417, 421, 429, 431, 501, 502, 503, 504, 505, 508] {
            assert!(!phrase(status).is_empty(), "{status}");
        }
    }
}
