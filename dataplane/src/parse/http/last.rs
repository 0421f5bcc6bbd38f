//! The head of the request before, on the same connection.
//!
//! Clients that keep a connection send the same fields again and again, to other paths of the same origin. What was read of them is what would be read of them anew: so the request line
//! is, and nothing else.

use super::{Ask, BadRequest, Body, RequestHead, RequestTarget, check_uri, parse};
use crate::parse::target::LastTarget;

/// Bytes of fields that are kept for the request that may follow.
const MAX_KEPT: usize = 2048;

/// What is kept of the last plain request on a connection.
#[derive(Debug, Default)]
pub struct LastHead {
    target: LastTarget,
    /// All behind the request line, as it came; nothing, where another head has to be read from its beginning.
    lines: Vec<u8>,
    /// As many fields might it have.
    max_fields: usize,
    head: Option<RequestHead>,
}

impl LastHead {
    /// As [`parse_request`](super::parse_request), of the next request on the connection.
    ///
    /// # Errors
    /// The same.
    pub fn parse(&mut self, head: &[u8], max_fields: usize) -> Result<RequestHead, BadRequest> {
        if let Some(again) = self.again(head, max_fields) {
            debug_assert_eq!(super::parse_request(head, max_fields).as_ref(), Ok(&again));
            return Ok(again);
        }
        self.lines.clear();
        self.head = None;
        let parsed = parse(head, max_fields, None, &mut self.target)?;
        if self.stands_for_others(&parsed)
            && let Some((_, lines)) = split_line(head).filter(|(_, lines)| lines.len() <= MAX_KEPT)
        {
            self.lines.extend_from_slice(lines);
            self.max_fields = max_fields;
        }
        Ok(parsed)
    }

    /// The request has been answered: what was read of it may be read again.
    pub fn keep(&mut self, mut head: RequestHead) {
        if !self.lines.is_empty() {
            // The path will be another one.
            head.ask = Ask::Resource(String::new());
            head.fields.0.shrink_to(MAX_KEPT);
            head.said.0.shrink_to(MAX_KEPT);
            self.head = Some(head);
        }
    }

    /// Whether a request with the same method, version and fields differs in its path alone, as long as its authority is the same too. What has a body, or asks for more than a resource, is
    /// always read from its beginning: that is rare, and much hangs on it.
    fn stands_for_others(&self, head: &RequestHead) -> bool {
        let plain = head.body == Body::None && head.upgrade.is_none() && head.unix_socket.is_none();
        plain && head.ask != Ask::Connect && self.target.is_kept() && self.target.is_host()
    }

    /// The head, if all that is new in it is the path.
    fn again(&mut self, head: &[u8], max_fields: usize) -> Option<RequestHead> {
        let last = self.head.as_ref()?;
        let (line, lines) = split_line(head)?;
        // A policy may have come into force that allows fewer.
        if lines != self.lines || max_fields != self.max_fields {
            return None;
        }
        let mut request = httparse::Request::new(&mut []);
        // It is only the beginning of one.
        let Ok(httparse::Status::Partial) = request.parse(line) else { return None };
        let (method, uri, version) = (request.method?, request.path?, request.version?);
        if method != last.method || (version == 1) != last.is_1_1 {
            return None;
        }
        check_uri(uri).ok()?;
        let asked = RequestTarget::of(method, uri).ok()?;
        if asked.authority.is_some_and(|authority| authority != self.target.authority()) {
            return None;
        }
        self.head.take().map(|last| RequestHead { ask: Ask::Resource(asked.resource), ..last })
    }
}

/// The request line with its CR and LF, and what follows it. An empty line is none: what stands in front of a head is no part of it.
fn split_line(head: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', head)? + 1;
    head.split_at_checked(end).filter(|(line, _)| line.len() > 2 && line.ends_with(b"\r\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::parse::http::parse_request;
    use proptest::prelude::*;
    use proptest::sample::select;

    const FIELDS: usize = 10;

    /// What is kept of two requests with that head.
    fn after(head: &str) -> LastHead {
        let mut last = LastHead::default();
        for _ in 0..2 {
            if let Ok(head) = last.parse(head.as_bytes(), FIELDS) {
                last.keep(head);
            }
        }
        last
    }

    fn head(line: &str, fields: &str) -> String {
        format!("{line}\r\n{fields}\r\n")
    }

    /// Whether what was kept was enough to read a head by, which is read as if it were the only one.
    #[track_caller]
    fn is_read_again(mut last: LastHead, next: &[u8], max_fields: usize) -> bool {
        let alone = parse_request(next, max_fields);
        let again = last.again(next, max_fields);
        if let Some(again) = &again {
            assert_eq!(Ok(again), alone.as_ref(), "{:?}", next.escape_ascii().to_string());
        } else {
            assert_eq!(last.parse(next, max_fields), alone, "{:?}", next.escape_ascii().to_string());
        }
        again.is_some()
    }

    const HOST: &str = "Host: a.test\r\nAccept: */*\r\n";

    #[test]
    fn the_same_fields_are_not_read_again_for_another_path() {
        let cases = [
            ("GET http://a.test/1 HTTP/1.1", HOST, true),
            ("GET http://a.test/2?q HTTP/1.1", HOST, true),
            ("GET http://a.test?q HTTP/1.1", HOST, true),
            ("GET HTTP://a.test HTTP/1.1", HOST, true),
            ("GET /in/origin/form HTTP/1.1", HOST, true),
            ("GET //b.test/x HTTP/1.1", HOST, true),
            ("GET http://a.test/1 HTTP/1.1", "Host: a.test\r\nAccept: text/html\r\n", false),
            ("GET http://a.test/1 HTTP/1.1", "Host: a.test\r\nAccept: */*\r\nX: y\r\n", false),
            ("HEAD http://a.test/1 HTTP/1.1", HOST, false),
            ("get http://a.test/1 HTTP/1.1", HOST, false),
            ("GET http://a.test/1 HTTP/1.0", HOST, false),
            ("GET http://a.test/1 HTTP/1.2", HOST, false),
            ("GET http://A.test/1 HTTP/1.1", HOST, false),
            ("GET http://b.test/1 HTTP/1.1", HOST, false),
            ("GET http://a.test:80/1 HTTP/1.1", HOST, false),
            ("GET http://u@a.test/1 HTTP/1.1", HOST, false),
            ("GET https://a.test/1 HTTP/1.1", HOST, false),
            ("GET http://a.test/#1 HTTP/1.1", HOST, false),
            ("GET http://a.test/\u{e4} HTTP/1.1", HOST, false),
            ("GET http://a.test/1 HTTP/1.1 ", HOST, false),
            ("GET  http://a.test/1 HTTP/1.1", HOST, false),
            ("GET http://a.test/1", HOST, false),
            ("GET * HTTP/1.1", HOST, false),
            ("GET http://a.test/1 HTTP/1.1\r\nX: y", HOST, false),
            ("\r\nGET http://a.test/1 HTTP/1.1", HOST, false),
        ];
        for (line, fields, again) in cases {
            let last = after(&head("GET http://a.test/0 HTTP/1.1", HOST));
            let next = head(line, fields);
            assert_eq!(is_read_again(last, next.as_bytes(), FIELDS), again, "{next:?}");
        }
        let first = head("GET http://a.test/0 HTTP/1.1", HOST);
        let bare = first.replacen("\r\n", "\n", 1);
        assert!(!is_read_again(after(&first), bare.as_bytes(), FIELDS));
        // A policy that comes into force may allow fewer fields.
        assert!(is_read_again(after(&first), first.as_bytes(), FIELDS) && !is_read_again(after(&first), first.as_bytes(), 1));
        // Empty lines in front of a head are no request line, and the one behind them is no field.
        let blank = format!("\r\n{first}");
        assert!(!is_read_again(after(&blank), head("GET http://a.test/1 HTTP/1.1", &first).as_bytes(), FIELDS));
    }

    #[test]
    fn nothing_is_kept_where_more_than_the_path_may_be_another_one() {
        let long = format!("{HOST}X: {}\r\n", "x".repeat(MAX_KEPT));
        let cases = [
            ("GET http://a.test/ HTTP/1.1", HOST, true),
            ("GET / HTTP/1.1", HOST, true),
            ("PURGE /x HTTP/1.1", HOST, true),
            ("OPTIONS http://a.test/ HTTP/1.1", HOST, true),
            ("TRACE http://a.test/ HTTP/1.1", "Host: a.test\r\nMax-Forwards: 3\r\n", true),
            ("GET http://a.test/ HTTP/1.0", HOST, true),
            // It says whether the client stays, which is the same again.
            ("GET / HTTP/1.1", "Host: a.test\r\nConnection: close\r\n", true),
            ("GET http://a.test/ HTTP/1.1", &long, false),
            ("GET http://a.test/ HTTP/1.0", "Accept: */*\r\n", false),
            ("GET http://a.test/ HTTP/1.1", "Host: a.test:80\r\n", false),
            ("GET http://a.test/ HTTP/1.1", "Host: A.test\r\n", false),
            ("POST http://a.test/ HTTP/1.1", "Host: a.test\r\nContent-Length: 0\r\n", false),
            ("POST http://a.test/ HTTP/1.1", "Host: a.test\r\nTransfer-Encoding: chunked\r\n", false),
            ("GET http://a.test/ HTTP/1.1", "Host: a.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\n", false),
            ("GET http://a.test/ HTTP/1.1", "Host: a.test\r\nx-unix-socket: /a\r\n", false),
            ("CONNECT a.test:80 HTTP/1.1", "Host: a.test:80\r\n", false),
        ];
        for (line, fields, kept) in cases {
            let first = head(line, fields);
            parse_request(first.as_bytes(), FIELDS).unwrap();
            assert_eq!(is_read_again(after(&first), first.as_bytes(), FIELDS), kept, "{first:?}");
            // Nor of the only request of a connection.
            let mut last = LastHead::default();
            let only = last.parse(first.as_bytes(), FIELDS).unwrap();
            last.keep(only);
            assert!(last.head.is_none() && last.lines.capacity() == 0, "{first:?}");
        }
    }

    #[test]
    fn no_more_is_kept_than_what_may_come_again() {
        let long = head(&format!("GET http://a.test/{} HTTP/1.1", "x".repeat(3 * MAX_KEPT)), HOST);
        let last = after(&long).head.unwrap();
        assert!(last.fields.0.capacity() <= MAX_KEPT && last.said.0.capacity() <= MAX_KEPT);
        assert_eq!(last.ask, Ask::Resource(String::new()));
    }

    /// A head, by its parts.
    type Parts = [&'static str; 4];

    const BASE: Parts = ["GET", "http://a.test/", "HTTP/1.1", "Host: a.test\r\n"];

    /// One part, and what stands there instead.
    fn other() -> impl Strategy<Value = (usize, &'static str)> {
        let methods = ["HEAD", "OPTIONS", "TRACE", "CONNECT", "GET ", "\r\nGET", "\r\n\r\nGET", "GET http://a.test/x HTTP/1.1\r\nGET"];
        let targets = [
            "http://a.test/x?y",
            "http://A.test/",
            "http://b.test/",
            "http://a.test",
            "/",
            "/x",
            "*",
            "a.test:80",
            "http://u@a.test/",
            "/#",
        ];
        let versions = ["HTTP/1.0", "HTTP/2.0", "HTTP/1.1 "];
        let fields = [
            "Host: A.test\r\n",
            "Host: b.test\r\n",
            "Host: a.test:80\r\n",
            "",
            "Host: a.test\r\nHost: a.test\r\n",
            "Host: a.test\r\nContent-Length: 0\r\n",
            "Host: a.test\r\nConnection: close\r\nX-Real-IP: 1\r\n",
            "Host: a.test\r\nMax-Forwards: 3\r\n",
        ];
        prop_oneof![
            select(methods.to_vec()).prop_map(|other| (0, other)),
            select(targets.to_vec()).prop_map(|other| (1, other)),
            select(versions.to_vec()).prop_map(|other| (2, other)),
            select(fields.to_vec()).prop_map(|other| (3, other)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// What the requests before were says nothing of what this one may be.
        #[test]
        fn requests_are_read_the_same_whatever_those_before_them_were(
            base in proptest::option::of(other()),
            steps in proptest::collection::vec((1..4_usize, other()), 1..8),
        ) {
            let with = |base: Parts, (part, other): (usize, &'static str)| {
                let mut parts = base;
                parts[part] = other;
                parts
            };
            let base = base.map_or(BASE, |other| with(BASE, other));
            let mut last = LastHead::default();
            // The same some times, then something else.
            for [method, uri, version, fields] in steps.into_iter().flat_map(|(times, other)| [vec![base; times], vec![with(base, other)]].concat()) {
                let next = head(&format!("{method} {uri} {version}"), fields);
                let (found, alone) = (last.parse(next.as_bytes(), FIELDS), parse_request(next.as_bytes(), FIELDS));
                prop_assert_eq!(&found, &alone, "{:?}", next);
                if let Ok(head) = found {
                    last.keep(head);
                }
            }
        }
    }
}
