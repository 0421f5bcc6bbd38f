//! What the first bytes of a client say in a tunnel: which server they are for, if they say so.
//!
//! Whoever opens a tunnel to one server can speak to another behind the same address: by the name in a TLS ClientHello, or by `Host` of plain HTTP. So both are looked at. What
//! looks like either and cannot be read is [`Look::Malformed`], never [`Look::Opaque`]: a server that forgives more would otherwise see a name that nobody here has seen.

use super::http::{head_end, leading_blank, parse_request};
use super::target::{HTTP_PORT, Target};
use super::tls::{Behind, client_hello};
use policy_format::Host;
use std::sync::Arc;

/// What the first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// It takes more bytes to tell.
    More,
    /// Nothing that names a server here: SSH, a protocol of someone's own.
    Opaque,
    /// The first word is no text. It need not be held back, but there are servers to which any word is a method: the rest of its line is for [`OddLine`].
    Odd,
    /// A TLS ClientHello.
    Hello {
        /// The server that it names (RFC 6066, section 3). With an encrypted hello, that is the outer name, in front of which the client asks to be let in.
        server_name: Option<Host>,
        /// It has an encrypted hello (`encrypted_client_hello`, or the older `encrypted_server_name`), or pretends to.
        encrypted: bool,
        /// What a second hello is to be found with; `None` where there can be none.
        behind: Option<Behind>,
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
    match first_line(bytes) {
        Line::More => return Look::More,
        Line::Other => return Look::Opaque,
        Line::Odd => return Look::Odd,
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
    Odd,
}

/// Methods that everybody knows.
const KNOWN: [&[u8]; 9] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"];

/// Whether the line at the front is for a reader of HTTP, however forgiving: one with HTTP's name, or with a path behind a word and white space, or a method that everybody knows and anything.
///
/// Behind a word of text, the end of the line is waited for, whatever stands there: servers take bytes that no URL has for a part of one. A first word that is no text is of a protocol that
/// has none, and nothing is held back; where HTTP's name stands in its line all the same, it is for a server that takes any word for a method.
fn first_line(bytes: &[u8]) -> Line {
    // Servers forgive empty lines and white space before a request.
    let Some(start) = bytes.iter().position(|byte| !is_space(*byte) && *byte != b'\n') else { return Line::More };
    let bytes = bytes.get(start..).unwrap_or_default();
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let method = bytes.get(..bytes.iter().take_while(|byte| is_token(byte)).count()).unwrap_or_default();
    let is_known = KNOWN.iter().any(|known| method.eq_ignore_ascii_case(known));
    let behind_word = bytes.iter().find(|byte| !byte.is_ascii_graphic());
    if behind_word.is_some_and(|byte| !is_space(*byte) && *byte != b'\n') && !is_known {
        return match OddLine::default().look(bytes) {
            Look::More => Line::Odd,
            Look::Malformed(_) => Line::Request,
            _ => Line::Other,
        };
    }
    let Some(end) = memchr::memchr(b'\n', bytes) else { return Line::More };
    let rest = bytes.get(method.len()..end).unwrap_or_default();
    let words = rest.get(rest.iter().take_while(|byte| is_space(**byte)).count()..).unwrap_or_default();
    let is_path = words.len() < rest.len() && words.starts_with(b"/");
    // In the first word too: what was skipped in front of it is a method to servers that know fewer blanks.
    let line = bytes.get(..end).unwrap_or_default();
    let is_named = line.windows(NAME.len()).any(|window| window.eq_ignore_ascii_case(NAME));
    if is_known || is_path || is_named { Line::Request } else { Line::Other }
}

/// HTTP's name, in front of its version.
const NAME: &[u8] = b"http/";
/// Longer first lines are read by no server that takes any word for a method: those that take the longest take half of this.
const LONGEST_LINE: usize = 128 << 10;

/// A first line that is let on as it comes ([`Look::Odd`]), of which the end is not: no server answers before that.
#[derive(Debug, Default)]
pub struct OddLine {
    /// Bytes that were let on.
    len: usize,
    /// How much of HTTP's name they end in.
    matched: usize,
    is_named: bool,
}

impl OddLine {
    /// Looks at more of it: [`Look::More`] lets the bytes on, and what follows is to be looked at too; [`Look::Opaque`] lets all on; [`Look::Malformed`] is a request to some servers.
    pub fn look(&mut self, bytes: &[u8]) -> Look {
        for byte in bytes {
            if *byte == b'\n' && self.len > 0 {
                return if self.is_named { Look::Malformed("the method is no text") } else { Look::Opaque };
            }
            // Servers forgive what is blank in front of a line.
            if self.len == 0 && (*byte == b'\n' || is_space(*byte)) {
                continue;
            }
            self.len += 1;
            let byte = byte.to_ascii_lowercase();
            // No part of the name but its first letter begins it anew.
            self.matched = if NAME.get(self.matched) == Some(&byte) { self.matched + 1 } else { usize::from(NAME.first() == Some(&byte)) };
            self.is_named |= self.matched == NAME.len();
        }
        if self.len > LONGEST_LINE { Look::Opaque } else { Look::More }
    }
}

/// What servers forgive between words: RFC 9112, section 3, has five bytes, of which a CR alone is one. Those that take bytes for characters of Latin-1 know more.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | b'\r' | 0x1c..=0x1f | 0x85 | 0xa0)
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

    /// However it arrives, nothing else is said before.
    fn told(bytes: &[u8], expected: &str) {
        assert_eq!(shown(&look(bytes, 80, 32)), expected, "{}", bytes.escape_ascii());
        for end in 0..bytes.len() {
            let early = look(&bytes[..end], 80, 32);
            assert!(
                matches!(early, Look::More | Look::Odd) || shown(&early) == expected,
                "{} after {end}: {early:?}",
                bytes.escape_ascii()
            );
        }
        // Nor is it where it is let on piece by piece.
        if let Some(at) = (0..bytes.len()).find(|end| look(&bytes[..*end], 80, 32) == Look::Odd) {
            let mut line = OddLine::default();
            let piecemeal =
                [&bytes[..at]].into_iter().chain(bytes[at..].chunks(1)).map(|piece| line.look(piece)).find(|look| *look != Look::More);
            assert_eq!(matches!(piecemeal, Some(Look::Malformed(_))), expected.starts_with("malformed"), "{}", bytes.escape_ascii());
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
            ("\u{0}\u{1}", "Odd"),
            ("\u{1e} HTTP/1.1\r\nHost: a.test\r\n\r\n", "malformed: the request line or a header line is malformed"),
            ("\u{1e}\u{1e} http/0.1\r\n\r\n", "malformed: the request line or a header line is malformed"),
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
            told(bytes.as_bytes(), expected);
        }
        assert_eq!(look(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", 8080, 32), Look::Opaque, "only on port 80");
    }

    /// Servers serve what no URL has, and some of them what no method has.
    #[test]
    fn no_byte_in_a_request_line_makes_it_something_else() {
        let every: Vec<u8> = (0..=255).collect();
        let none = Vec::new();
        let cases: [(&str, &str, &[u8]); 13] = [
            ("GET /", " HTTP/1.1", &none),
            ("GET /", "", &none),
            ("get ", "/ HTTP/1.1", &none),
            ("GET", "/ HTTP/1.1", &none),
            ("GET", " / HTTP/1.1", &none),
            ("GET / ", "HTTP/1.1", &none),
            ("GET / HTTP/1.1", "", &none),
            ("BREW /", " HTTP/1.1", &none),
            ("BREW\t/", "\thttp/1.1", &none),
            ("BREW\r/", "\rHTTP/1.1", &none),
            // It ends a line that is none.
            ("BREW", "/ HTTP/1.1", b"\n"),
            ("", "GET / HTTP/1.1", &none),
            ("BR", "W /x http/1.1", b"\n"),
        ];
        for (before, behind, opaque) in cases {
            for byte in &every {
                let bytes = [before.as_bytes(), &[*byte], behind.as_bytes(), b"\r\nHost: evil.test\r\n\r\n"].concat();
                let said = shown(&look(&bytes, 80, 32));
                // There is one byte that begins TLS, too.
                let read =
                    said == "evil.test:80" || said.starts_with("malformed: ") || (before.is_empty() && *byte == 22 && said == "More");
                assert!(if opaque.contains(byte) { said == "Opaque" } else { read }, "{}: {said}", bytes.escape_ascii());
                told(&bytes, &said);
            }
        }
        let no_target = "malformed: the request target has characters that no target has";
        let no_line = "malformed: the request line or a header line is malformed";
        let cases: [(&[u8], &str); 32] = [
            (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: evil.test\r\n\r\n", no_target),
            (b"GET /\xe4 HTTP/1.1\r\nHost: evil.test\r\n\r\n", no_line),
            (b"GET /\x01 HTTP/1.1\r\nHost: evil.test\r\n\r\n", no_line),
            (b"GET /\x7f HTTP/1.1\r\nHost: evil.test\r\n\r\n", no_line),
            (b"GET /\0 HTTP/1.1\r\nHost: evil.test\r\n\r\n", "malformed: a NUL byte in the head"),
            (b"GET /\r HTTP/1.1\r\nHost: evil.test\r\n\r\n", "malformed: a CR without LF in the head"),
            (b"GET\0/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", "malformed: a NUL byte in the head"),
            (b"GET\xa0/\xa0HTTP/1.1\r\nHost: evil.test\r\n\r\n", no_line),
            (b"BREW\x85/\x1fHTTP/1.1\r\nHost: evil.test\r\n\r\n", no_line),
            (b"BREW /\xc3\xa4\r\nHost: evil.test\r\n\r\n", no_line),
            (b"BREW / FOO/1.1\r\nHost: evil.test\r\n\r\n", "malformed: the request line is malformed"),
            (b"get\t/\xff\n\n", "malformed: a line that ends with LF alone"),
            (b" \r\n\tGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", "malformed: a folded header line"),
            (b"\n\r\n GET /\xff HTTP/1.1\r\nHost: evil.test\r\n\r\n", "malformed: the head is incomplete"),
            (b"\xa0\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n", no_line),
            (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: evil.test", "More"),
            (b"GET /\xc3\xa4 HTTP/1.1", "More"),
            (b"BREW \xff\xff", "More"),
            (b"BREW", "More"),
            (b" \t\r\n", "More"),
            (b"EHLO client.test\r\n", "Opaque"),
            (b"SSH-2.0-\xc3\xa4 \xff\r\n", "Opaque"),
            (b"SSH-2.0-PuTTY a b\r\n", "Opaque"),
            (b"name \xff\xfe\0\n", "Opaque"),
            (b"\x1f\x8b\x08", "Odd"),
            (b"name\x01", "Odd"),
            (b"\x80GET /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n", no_line),
            (b"PO\xffST /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n", no_line),
            (b"\0 /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n", "malformed: a NUL byte in the head"),
            (b"\x13BitTorrent protocol hhttp\n", "Opaque"),
            (b"\x01 /path\r\nHost: evil.test\r\n\r\n", "Opaque"),
            (b"\x01 hhttp/1.1 /path\n\r\n", "malformed: a line that ends with LF alone"),
        ];
        for (bytes, expected) in cases {
            told(bytes, expected);
        }
    }
}
