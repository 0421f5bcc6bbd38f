//! What the first bytes of a client say in a tunnel: which server they are for, if they say so.
//!
//! Whoever opens a tunnel to one server can speak to another behind the same address: by the name in a TLS ClientHello, or by `Host` of plain HTTP. So both are looked at. What
//! looks like either and cannot be read is [`Look::Malformed`], never [`Look::Opaque`]: a server that forgives more would otherwise see a name that nobody here has seen.

use super::http::{head_end, leading_blank, parse_request};
use super::target::{HTTP_PORT, Target};
use super::tls::client_hello;
use policy_format::Host;
use std::sync::Arc;

/// What the first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// It takes more bytes to tell.
    More,
    /// Nothing that names a server here: SSH, a protocol of someone's own.
    Opaque,
    /// A TLS ClientHello.
    Hello {
        /// The server that it names (RFC 6066, section 3). With an encrypted hello, that is the outer name, in front of which the client asks to be let in.
        server_name: Option<Host>,
        /// It has an encrypted hello (`encrypted_client_hello`, or the older `encrypted_server_name`), or pretends to.
        encrypted: bool,
    },
    /// A plain HTTP request, and where it goes: `Host` and the target agree.
    Http(Target),
    /// TLS or HTTP, with something that has no reading or more than one: what is wrong.
    Malformed(&'static str),
}

/// What the first bytes of a client in a tunnel to `port` are. `bytes` are all that came so far; whoever calls bounds them, in number and in time.
///
/// TLS is looked for on every port, plain HTTP on [`HTTP_PORT`].
#[must_use]
pub fn look(bytes: &[u8], port: u16, max_fields: usize) -> Look {
    match client_hello(bytes) {
        Look::Opaque if port == HTTP_PORT => http_host(bytes, max_fields),
        look => look,
    }
}

/// What the first bytes of a client are, if they are plain HTTP. The request is read as one to the proxy is: there is one meaning.
#[must_use]
pub fn http_host(bytes: &[u8], max_fields: usize) -> Look {
    // Servers forgive empty lines of any kind before a request.
    let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    match first_line(bytes.get(blank..).unwrap_or_default()) {
        Line::More => return Look::More,
        Line::Other => return Look::Opaque,
        Line::Request => {}
    }
    let mut head = bytes;
    while leading_blank(head) > 0 {
        head = head.get(leading_blank(head)..).unwrap_or_default();
    }
    let Some(end) = head_end(head, 0) else { return Look::More };
    match parse_request(head.get(..end).unwrap_or_default(), max_fields) {
        Ok(request) => Look::Http(Arc::unwrap_or_clone(request.target)),
        Err(bad) => Look::Malformed(bad.message),
    }
}

enum Line {
    More,
    Request,
    Other,
}

/// Whether the line at the front is for a reader of HTTP, however forgiving: a token, white space, and then HTTP's name or a method that everybody knows.
fn first_line(bytes: &[u8]) -> Line {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let end = memchr::memchr2(b'\r', b'\n', bytes);
    let line = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    // Servers forgive white space of any kind, before a method and between words.
    let is_text = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t' | 0x0b | 0x0c);
    if !line.iter().all(is_text) {
        return Line::Other;
    }
    let method = line.iter().take_while(|byte| is_token(byte)).count();
    let (method, rest) = line.split_at_checked(method).unwrap_or_default();
    if end.is_none() {
        return Line::More;
    }
    let line = rest;
    let named = line.windows(5).any(|window| window.eq_ignore_ascii_case(b"http/"));
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    if named || known.iter().any(|name| method.eq_ignore_ascii_case(name.as_bytes())) { Line::Request } else { Line::Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(look: &Look) -> String {
        match look {
            Look::Http(target) => target.to_string(),
            Look::Malformed(what) => format!("malformed: {what}"),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn plain_http_names_its_server() {
        let cases = [
            ("GET / HTTP/1.1\r\nHost: A.test\r\n\r\nbody", "a.test:80"),
            ("GET / HTTP/1.1\r\nHost: a.test.:8080\r\n\r\n", "a.test:8080"),
            ("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "a.test:80"),
            ("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", "a.test:443"),
            ("BREW /pot HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n", "192.0.2.1:80"),
            ("\r\n\r\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "a.test:80"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "malformed: the HTTP version is not 1.0 or 1.1"),
            ("\nGET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "malformed: a line that ends with LF alone"),
            ("GET / HTTP/1.1\nHost: a.test\n\n", "malformed: a line that ends with LF alone"),
            ("GET http://a.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n", "malformed: Host and the request target disagree"),
            ("GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n", "malformed: more than one Host"),
            ("GET / HTTP/1.0\r\n\r\n", "malformed: Host is missing"),
            ("GET /\r\n\r\n", "malformed: the request line or a header line is malformed"),
            ("get / http/1.1\r\nHost: a.test\r\n\r\n", "malformed: the request line is malformed"),
            ("GET\t/\tHTTP/1.1\r\nHost: a.test\r\n\r\n", "malformed: the request line or a header line is malformed"),
            ("x y http/1.1\r\nHost: a.test\r\n\r\n", "malformed: the request line is malformed"),
            ("SSH-2.0-OpenSSH_9.9\r\n", "Opaque"),
            ("SSH-2.0-OpenSSH_9.9 Debian-1\r\n", "Opaque"),
            ("\u{0}\u{1}", "Opaque"),
            (" GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "malformed: the request line or a header line is malformed"),
            ("GET\u{b}/\u{b}HTTP/1.1\r\nHost: a.test\r\n\r\n", "malformed: the request line or a header line is malformed"),
            ("{\"json\": 1}\n", "Opaque"),
            ("", "More"),
            ("\r", "More"),
            ("GE", "More"),
            ("GET / HTTP/1.1", "More"),
            ("GET / HTTP/1.1\r\nHost: a.test\r\n", "More"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(shown(&look(bytes.as_bytes(), 80, 32)), expected, "{bytes:?}");
            // However it arrives, nothing else is said before.
            for end in 0..bytes.len() {
                let early = look(&bytes.as_bytes()[..end], 80, 32);
                assert!(early == Look::More || shown(&early) == expected, "{bytes:?} after {end}: {early:?}");
            }
        }
        assert_eq!(look(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", 8080, 32), Look::Opaque, "only on port 80");
    }
}
