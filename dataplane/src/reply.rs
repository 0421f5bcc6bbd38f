//! The replies that the proxy makes itself.

use crate::connect::UpstreamError;
use crate::counters::Reached;
use crate::decide::deny::Denial;
use crate::parse::forwarding::Forwarding;
use crate::parse::http::{BadRequest, RequestHead};
use crate::parse::target::Target;
use std::fmt::Display;
use std::io::Write;

/// The answer to CONNECT once the upstream stands. No length and no coding: what follows is the tunnel (RFC 9110, section 9.3.6).
pub(crate) const TUNNEL_STANDS: &[u8] = b"HTTP/1.1 200 Connection Established\r\n\r\n";

/// The policy says no. Many clients show the reason phrase and nothing else, so it says whose no it is.
pub(crate) fn blocked(denial: &Denial, method: &str, keep_alive: bool) -> Vec<u8> {
    let (kind, body) =
        if denial.is_json() { ("application/json", denial.json()) } else { ("text/plain; charset=utf-8", denial.message() + "\n") };
    let reason = format!("Blocked by network policy ({})", denial.reason());
    response(403, &reason, Some(denial.reason().proxy_error()), kind, &body, method, keep_alive)
}

/// The policy says yes, and the world says no.
pub(crate) fn upstream_failed(target: &(dyn Display + Sync), error: UpstreamError, method: &str, keep_alive: bool) -> Vec<u8> {
    let reason = if error.status() == 504 { "Gateway Timeout" } else { "Bad Gateway" };
    let body = format!("{target} {}\n", error.message());
    response(error.status(), reason, Some(error.proxy_error()), "text/plain; charset=utf-8", &body, method, keep_alive)
}

/// A limit says no.
pub(crate) fn limited(reached: Reached, target: &Target, method: &str, keep_alive: bool) -> Vec<u8> {
    let (status, reason) = match reached.name() {
        "request_body_bytes" => (413, "Content Too Large"),
        "upload_bytes" => (429, "Too Many Requests"),
        _ => (503, "Service Unavailable"),
    };
    let name = reached.name();
    let body = format!("{target} is allowed, but a limit of the proxy was reached: {name}\n");
    response(status, reason, Some(&format!("limited-{name}")), "text/plain; charset=utf-8", &body, method, keep_alive)
}

/// The request is not one. Nothing after it can be trusted, so the connection ends.
pub(crate) fn bad_request(bad: BadRequest) -> Vec<u8> {
    let reason = match bad.status {
        408 => "Request Timeout",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "Bad Request",
    };
    let body = format!("bad request: {}\n", bad.message);
    response(bad.status, reason, None, "text/plain; charset=utf-8", &body, "GET", false)
}

/// What the proxy answers by itself, without a decision, since nothing leaves for it: a request that came through here before, and one that may go no further
/// (`Max-Forwards: 0`, RFC 9110, section 7.6.2).
pub(crate) fn own(head: &RequestHead, forwarding: &Forwarding<'_>, keep_alive: bool) -> Option<Vec<u8>> {
    let method = &head.method;
    if forwarding.via.is_some_and(|own| head.went_through(own)) {
        let body = "the request came through this proxy already\n";
        return Some(response(508, "Loop Detected", Some("blocked-by-policy"), "text/plain; charset=utf-8", body, method, keep_alive));
    }
    match (head.max_forwards, &**method) {
        (Some(0), "TRACE") => Some(response(200, "OK", None, "message/http", &head.trace(), method, keep_alive)),
        (Some(0), _) => Some(response(200, "OK", None, "text/plain; charset=utf-8", "", method, keep_alive)),
        _ => None,
    }
}

fn response(status: u16, reason: &str, proxy_error: Option<&str>, kind: &str, body: &str, method: &str, keep_alive: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    // Writing to a vector cannot fail.
    let _ = write!(out, "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
    if let Some(error) = proxy_error {
        let _ = write!(out, "x-proxy-error: {error}\r\n");
    }
    out.extend_from_slice(if keep_alive { b"Connection: keep-alive\r\n\r\n" } else { b"Connection: close\r\n\r\n" });
    if method != "HEAD" {
        out.extend_from_slice(body.as_bytes());
    }
    out
}
