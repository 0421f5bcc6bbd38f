//! The replies that the proxy makes itself.

use crate::connect::UpstreamError;
use crate::decide::deny::Denial;
use crate::parse::http::BadRequest;
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

/// The request is not one. Nothing after it can be trusted, so the connection ends.
pub(crate) fn bad_request(bad: BadRequest) -> Vec<u8> {
    let reason = match bad.status {
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        505 => "HTTP Version Not Supported",
        _ => "Bad Request",
    };
    let body = format!("bad request: {}\n", bad.message);
    response(bad.status, reason, None, "text/plain; charset=utf-8", &body, "GET", false)
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
