//! Requests in words: `GET https://example.com/x`, `CONNECT example.com:443`, `socks example.com:22`, or a host by itself.
//!
//! | words | what is asked |
//! | --- | --- |
//! | `GET http://host[:port]/path`, any method | a plain request; without a method, GET; `OPTIONS` without a path asks for `*`, the server as a whole |
//! | `GET https://host[:port]/path` | the tunnel that the client opens for it and, where the policy has its TLS opened, the request inside |
//! | `CONNECT host:port` | a tunnel |
//! | `host`, `host:port`, an address | a tunnel, to port 443 unless another is named |
//! | `socks host[:port]`, also `socks5`, `socks5h` | a SOCKS5 connection, to port 443 unless another is named |
//! | `udp host:port` | a SOCKS5 datagram |
//! | `https_connect`, `socks5_tcp`, `socks5_udp`, and the same | as events name protocols: `CONNECT`, `socks`, `udp` |
//!
//! IPv6 addresses with a port stand in brackets. Queries of plain requests are passed over: no rule sees them; hooks do, inside TLS. What the data plane refuses as malformed is an
//! error here too.

use crate::blob::Blob;
use crate::decide::decide;
use crate::decision::Decision;
use crate::host::Host;
use crate::pattern::parse_port;
use crate::records::ProfileId;
use crate::request::{Inside, Protocol, Request};
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

/// Bytes that a request in words may have.
pub const MAX_REQUEST: usize = 16 << 10;

/// Methods whose case is known.
const METHODS: [&str; 8] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"];

const DEFAULT_TUNNEL_PORT: u16 = 443;
const DEFAULT_HTTP_PORT: u16 = 80;
/// What `OPTIONS` asks for without a path: the server as a whole (RFC 9112, section 3.2.4).
const ASTERISK: &str = "*";

/// A request as somebody put it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Under which of the policy's profiles; words alone ask under the default.
    pub profile: ProfileId,
    /// How the client asks.
    pub protocol: Protocol,
    /// Where it wants to go.
    pub host: Host,
    /// To which port.
    pub port: u16,
    /// The method; only for [`Protocol::Http`] and [`Protocol::Https`].
    pub method: Option<String>,
    /// The path, without the query; only for [`Protocol::Http`] and [`Protocol::Https`].
    pub path: Option<String>,
    /// What was asked for inside the tunnel. It is seen where the policy has the tunnel opened.
    pub inside: Option<Box<Within>>,
    /// Whether the data plane can open TLS.
    pub can_intercept: bool,
}

/// A request inside TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Within {
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The query, without its `?`.
    pub query: Option<String>,
    /// The header fields: names in lower case, values without the blanks around them.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Option<String>,
}

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// Words that are no request: what is wrong, and which bytes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestError {
    /// The words, user information overwritten byte for byte.
    pub text: String,
    /// What is wrong: lower case, no final stop.
    pub what: String,
    /// Which bytes of the words.
    pub span: Range<usize>,
    /// What may have been meant.
    pub help: Option<String>,
}

impl fmt::Display for RequestError {
    /// What is wrong, the words with carets under the wrong part, and how to fix it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if self.text.len() <= 200 && !self.text.contains(char::is_control) {
            let width = |range: Range<usize>| self.text.get(range).map_or(0, |part| part.chars().count());
            let carets = "^".repeat(width(self.span.clone()).max(1));
            write!(f, "\n  {}\n  {}{carets}", self.text, " ".repeat(width(0..self.span.start)))?;
        }
        self.help.as_ref().map_or(Ok(()), |help| write!(f, "\nhelp: {help}"))
    }
}

impl std::error::Error for RequestError {}

impl RequestError {
    fn new(text: &str, (what, span, help): Wrong) -> Self {
        Self { text: without_user(text), what, span, help: help.map(|help| without_user(&help)) }
    }
}

/// Words with user information overwritten, in URLs and, where there is no scheme, before an `@`: errors end up in logs.
fn without_user(text: &str) -> String {
    text.split_inclusive(char::is_whitespace)
        .map(|word| match word.contains("://") {
            true => without_user_of_url(word),
            false => match word.split('/').next().unwrap_or_default().rfind('@') {
                Some(at) => "*".repeat(at) + word.get(at..).unwrap_or_default(),
                None => word.to_owned(),
            },
        })
        .collect()
}

/// Overwrites everything up to the last `@`, but for the scheme before it.
fn without_user_of_url(word: &str) -> String {
    let Some(at) = word.rfind('@') else { return word.to_owned() };
    let start = word.find("://").map_or(0, |scheme| scheme + 3);
    let start = if start <= at { start } else { 0 };
    format!("{}{}{}", word.get(..start).unwrap_or_default(), "*".repeat(at - start), word.get(at..).unwrap_or_default())
}

impl fmt::Display for Asked {
    /// What the data plane is asked: for `GET https://…` the tunnel.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = authority(&self.host, self.port);
        match self.protocol {
            Protocol::Http => {
                let port = if self.port == DEFAULT_HTTP_PORT { bracketed(&self.host) } else { authority };
                let path = self.path.as_deref().filter(|path| *path != ASTERISK);
                let without = if self.path.is_some() { "" } else { "/" };
                write!(f, "{} http://{port}{}", self.method.as_deref().unwrap_or("GET"), path.unwrap_or(without))
            }
            Protocol::Https => {
                let port = if self.port == DEFAULT_TUNNEL_PORT { bracketed(&self.host) } else { authority };
                let path = self.path.as_deref().filter(|path| *path != ASTERISK);
                write!(f, "{} https://{port}{}", self.method.as_deref().unwrap_or("GET"), path.unwrap_or_default())
            }
            Protocol::Connect => write!(f, "CONNECT {authority}"),
            Protocol::Socks5Tcp => write!(f, "socks5 {authority}"),
            Protocol::Socks5Udp => write!(f, "udp {authority}"),
        }
    }
}

fn bracketed(host: &Host) -> String {
    match host {
        Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]"),
        host => host.to_string(),
    }
}

fn authority(host: &Host, port: u16) -> String {
    format!("{}:{port}", bracketed(host))
}

/// Part of the words, with its place in them.
#[derive(Clone, Copy)]
struct Part<'a> {
    text: &'a str,
    start: usize,
}

impl<'a> Part<'a> {
    fn slice(self, range: Range<usize>) -> Self {
        Self { text: self.text.get(range.clone()).unwrap_or_default(), start: self.start + range.start }
    }

    fn split(self, at: usize, skip: usize) -> (Self, Self) {
        (self.slice(0..at), self.slice(at + skip..self.text.len()))
    }
}

type Wrong = (String, Range<usize>, Option<String>);

fn wrong<T>(part: Part<'_>, what: impl Into<String>, help: impl Into<String>) -> Result<T, Wrong> {
    let help = help.into();
    Err((what.into(), part.start..part.start + part.text.len(), (!help.is_empty()).then_some(help)))
}

impl Asked {
    /// Reads a request.
    ///
    /// # Errors
    /// [`RequestError`] with the bytes that are wrong.
    pub fn parse(text: &str) -> Result<Self, RequestError> {
        parse(text).map_err(|wrong| RequestError::new(text, wrong))
    }

    /// A tunnel to `host[:port]`, as a table of hosts means it.
    ///
    /// # Errors
    /// [`RequestError`] with the bytes that are wrong.
    pub fn tunnel(text: &str) -> Result<Self, RequestError> {
        let part = Part { text, start: 0 };
        tunnel(Protocol::Connect, part).map_err(|wrong| RequestError::new(text, wrong))
    }

    /// The method and the path that are asked for, also inside TLS; `None` of what has none.
    #[must_use]
    pub fn method_and_path(&self) -> Option<(&str, &str)> {
        let inside = self.inside.as_deref();
        let seen = self.method.as_deref().zip(self.path.as_deref());
        seen.or_else(|| inside.map(|inside| (inside.method.as_str(), inside.path.as_str())))
    }

    /// The question to a policy, as far as rules go: of a request inside TLS, what only hooks see is not in it.
    #[must_use]
    pub fn request<'a>(&'a self, addresses: &'a [IpAddr]) -> Request<'a> {
        Request {
            profile: self.profile,
            protocol: self.protocol,
            host: &self.host,
            port: self.port,
            method: self.method.as_deref(),
            path: self.path.as_deref(),
            addresses,
            inside: None,
            can_intercept: self.can_intercept,
        }
    }

    /// Decides as the data plane does: on the request as it was made and, only if that is allowed and there are addresses, again on them. Where a tunnel is to be opened,
    /// what is asked for inside is decided then.
    #[must_use]
    pub fn decide<B: AsRef<[u8]>>(&self, policy: &Blob<B>, addresses: &[IpAddr]) -> Decision {
        self.decide_by(&|request: &Request<'_>| decide(policy, request), addresses)
    }

    /// The same by somebody who decides under more than a policy's bytes.
    #[must_use]
    pub fn decide_by(&self, decide: &impl Fn(&Request<'_>) -> Decision, addresses: &[IpAddr]) -> Decision {
        let decision = match self.put(decide, &[]) {
            Decision::Allow(_) if !addresses.is_empty() => self.put(decide, addresses),
            decision => decision,
        };
        match (decision, self.opened()) {
            (Decision::Allow(allowed), Some(inside)) if allowed.intercept => inside.decide_by(decide, addresses),
            _ => decision,
        }
    }

    /// What the data plane comes to see of it: the request inside, where the policy has the tunnel opened for it, else the tunnel.
    #[must_use]
    pub fn seen<B: AsRef<[u8]>>(&self, policy: &Blob<B>, addresses: &[IpAddr]) -> Self {
        self.seen_by(&|request: &Request<'_>| decide(policy, request), addresses)
    }

    /// The same by somebody who decides under more than a policy's bytes.
    #[must_use]
    pub fn seen_by(&self, decide: &impl Fn(&Request<'_>) -> Decision, addresses: &[IpAddr]) -> Self {
        let tunnel = Self { inside: None, ..self.clone() }.decide_by(decide, addresses);
        match (tunnel, self.opened()) {
            (Decision::Allow(allowed), Some(inside)) if allowed.intercept => inside,
            _ => self.clone(),
        }
    }

    /// The request inside a tunnel, as who opens it sees it.
    fn opened(&self) -> Option<Self> {
        let within = self.inside.as_ref().filter(|_| !self.protocol.is_read())?;
        let (method, path) = (Some(within.method.clone()), Some(within.path.clone()));
        Some(Self { protocol: Protocol::Https, method, path, ..self.clone() })
    }

    /// One question, with all that hooks see.
    fn put(&self, decide: &impl Fn(&Request<'_>) -> Decision, addresses: &[IpAddr]) -> Decision {
        let within = self.inside.as_ref().filter(|_| self.protocol == Protocol::Https);
        let headers: Vec<(&str, &[u8])> =
            within.iter().flat_map(|within| &within.headers).map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let inside = within.map(|within| Inside {
            query: within.query.as_deref(),
            headers: &headers,
            body: within.body.as_deref().map(str::as_bytes),
        });
        decide(&Request { inside, ..self.request(addresses) })
    }

    /// The same with these header fields and this body, which only requests inside TLS have. A body that nobody says the type of is JSON.
    ///
    /// # Errors
    /// What is wrong, in a sentence.
    pub fn with(mut self, headers: &[(String, String)], body: Option<&str>) -> Result<Self, String> {
        if headers.is_empty() && body.is_none() {
            return Ok(self);
        }
        let Some(within) = &mut self.inside else {
            return Err("only requests inside TLS have headers and bodies that a policy sees: ask for an `https://` URL".to_owned());
        };
        within.headers.extend(headers.iter().cloned());
        within.body = body.map(str::to_owned);
        if within.body.is_some() && within.headers.iter().all(|(name, _)| name != "content-type") {
            within.headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        Ok(self)
    }
}

/// `name: value`, as it stands in a request.
///
/// # Errors
/// What is wrong, in a sentence.
pub fn parse_header(text: &str) -> Result<(String, String), String> {
    let shown = text.split(':').next().unwrap_or_default().escape_debug().to_string();
    let (name, value) = text.split_once(':').ok_or_else(|| format!("`{shown}` is not `name: value`"))?;
    let value = value.trim_matches([' ', '\t']);
    if !is_token(name) {
        return Err(format!("`{shown}` is not the name of a header"));
    }
    if value.contains(char::is_control) {
        return Err(format!("the value of `{shown}` has a control character"));
    }
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}

/// A token (RFC 9110, section 5.6.2).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn parse(text: &str) -> Result<Asked, Wrong> {
    let whole = Part { text, start: 0 };
    if text.len() > MAX_REQUEST {
        return wrong(whole, format!("a request has at most {MAX_REQUEST} bytes"), "");
    }
    let start = text.len() - text.trim_start().len();
    let body = whole.slice(start..text.trim_end().len().max(start));
    let Some(space) = body.text.find(char::is_whitespace) else {
        return match body.text {
            "" => wrong(body, "the request is empty", "write `GET https://example.com/`, `CONNECT example.com:443` or `example.com`"),
            url if url.contains("://") => url_request("GET", body),
            "CONNECT" => wrong(body, "`CONNECT` needs a host", "write `CONNECT example.com:443`"),
            method if METHODS.contains(&method) => {
                wrong(body, format!("`{method}` needs a URL"), format!("write `{method} https://example.com/`"))
            }
            _ => tunnel(Protocol::Connect, body),
        };
    };
    let (word, rest) = body.split(space, 0);
    let indent = rest.text.len() - rest.text.trim_start().len();
    let rest = rest.slice(indent..rest.text.len());
    if let Some(at) = rest.text.find(char::is_whitespace) {
        return wrong(rest.slice(at..rest.text.len()), "a request ends here", "write a method or a protocol, and then where to");
    }
    match word.text.to_ascii_lowercase().as_str() {
        "connect" | "https_connect" => connect(rest),
        "socks" | "socks5" | "socks5h" | "socks5_tcp" => tunnel(Protocol::Socks5Tcp, rest),
        "udp" | "socks5_udp" => tunnel(Protocol::Socks5Udp, rest),
        lower => {
            if !is_token(word.text) {
                return wrong(word, "this is no method", "write `GET https://example.com/`, or `CONNECT`, `socks` or `udp` and a host");
            }
            let upper = lower.to_ascii_uppercase();
            if METHODS.contains(&upper.as_str()) && upper != word.text {
                return wrong(word, "methods are case-sensitive", format!("write `{upper}`"));
            }
            let other = if lower.contains("udp") { "udp" } else { "socks" };
            if !rest.text.contains("://") && (other == "udp" || lower.starts_with("socks") || lower.contains("tcp")) {
                // What is suggested is a request.
                let words = [format!("{other} {}", rest.text), format!("{other} {}:53", rest.text), format!("{other} example.com:53")];
                let help = words.into_iter().find(|words| parse(words).is_ok()).unwrap_or_default();
                return wrong(word, "this is no protocol", format!("write `{help}`"));
            }
            if !rest.text.contains("://") {
                let help = format!("write `{} https://{}` or `{} http://{}`", word.text, rest.text, word.text, rest.text);
                return wrong(rest, "a request with a method needs a URL with its scheme", help);
            }
            url_request(word.text, rest)
        }
    }
}

fn url_request(method: &str, url: Part<'_>) -> Result<Asked, Wrong> {
    let at = url.text.find("://").unwrap_or(0);
    let (scheme, rest) = url.split(at, 3);
    let tls = match scheme.text.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        "socks5" | "socks5h" => return tunnel(Protocol::Socks5Tcp, rest),
        _ => return wrong(scheme, "the scheme is `http` or `https`", "for anything else write `CONNECT host:port` or `socks host:port`"),
    };
    let (place, tail) = rest.split(rest.text.find(['/', '?', '#']).unwrap_or(rest.text.len()), 0);
    if let Some(user) = place.text.rfind('@') {
        return wrong(place.slice(0..user + 1), "user information has no place in a request", "leave it out");
    }
    // A client keeps the fragment to itself: within TLS nobody would see it, in a plain request it is malformed.
    if let Some(at) = tail.text.find('#').filter(|_| !tls) {
        return wrong(tail.slice(at..tail.text.len()), "a plain request has no fragment", "leave it out: clients do not send it");
    }
    let path = tail.text.split(['?', '#']).next().unwrap_or_default();
    if let Some(at) = path.find(|c: char| !c.is_ascii_graphic()) {
        let len = path.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
        return wrong(tail.slice(at..at + len), "a path has printable ASCII only", "write other characters as `%XX`");
    }
    let query = tail.text.split('#').next().and_then(|tail| tail.split_once('?')).map(|(_, query)| query.to_owned());
    if let Some(at) = query.as_ref().and_then(|query| query.find(|c: char| !c.is_ascii_graphic())).filter(|_| tls) {
        let at = path.len() + 1 + at;
        let len = tail.text.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
        return wrong(tail.slice(at..at + len), "a query has printable ASCII only", "write other characters as `%XX`");
    }
    let path = match path {
        "" if method == "OPTIONS" && tail.text.is_empty() => ASTERISK,
        "" => "/",
        path => path,
    };
    let default = if tls { DEFAULT_TUNNEL_PORT } else { DEFAULT_HTTP_PORT };
    let (host, port) = host_and_port(place)?;
    let (port, profile) = (port.unwrap_or(default), ProfileId::default());
    Ok(if tls {
        let within = Within { method: method.to_owned(), path: path.to_owned(), query, headers: Vec::new(), body: None };
        Asked {
            profile,
            protocol: Protocol::Connect,
            host,
            port,
            method: None,
            path: None,
            inside: Some(Box::new(within)),
            can_intercept: true,
        }
    } else {
        let (method, path) = (Some(method.to_owned()), Some(path.to_owned()));
        Asked { profile, protocol: Protocol::Http, host, port, method, path, inside: None, can_intercept: true }
    })
}

/// `CONNECT` as clients send it: with a port.
fn connect(place: Part<'_>) -> Result<Asked, Wrong> {
    let asked = tunnel(Protocol::Connect, place)?;
    if matches!(host_and_port(place), Ok((_, None))) {
        return wrong(place, "`CONNECT` needs a port", format!("write `{asked}`"));
    }
    Ok(asked)
}

fn tunnel(protocol: Protocol, place: Part<'_>) -> Result<Asked, Wrong> {
    if let Some(at) = place.text.find("://") {
        return wrong(place.slice(0..at + 3), "a tunnel goes to a host and a port, without a scheme", "write `CONNECT example.com:443`");
    }
    if let Some(at) = place.text.find(['/', '?', '#']) {
        let help = format!("for a request with a path write `GET https://{}`", place.text);
        return wrong(place.slice(at..place.text.len()), "a tunnel goes to a host and a port, without a path", help);
    }
    if let Some(user) = place.text.rfind('@') {
        return wrong(place.slice(0..user + 1), "user information has no place in a request", "leave it out");
    }
    let (host, port) = host_and_port(place)?;
    let port = match (port, protocol) {
        (Some(port), _) => port,
        (None, Protocol::Socks5Udp) => return wrong(place, "a datagram needs a port", format!("write `udp {}:53`", place.text)),
        (None, _) => DEFAULT_TUNNEL_PORT,
    };
    Ok(Asked { profile: ProfileId::default(), protocol, host, port, method: None, path: None, inside: None, can_intercept: true })
}

/// `host`, `host:port`, an IPv6 address with or without brackets, brackets before a port.
fn host_and_port(place: Part<'_>) -> Result<(Host, Option<u16>), Wrong> {
    let colon = match place.text.rfind(']') {
        Some(bracket) => place.text.get(bracket + 1..).filter(|rest| rest.starts_with(':')).map(|_| bracket + 1),
        None => place.text.find(':').filter(|at| place.text.rfind(':') == Some(*at)),
    };
    let (host, port) = match colon {
        Some(colon) => {
            let (host, digits) = place.split(colon, 1);
            match parse_port(digits.text) {
                Some(port) => (host, Some(port)),
                None => return wrong(if digits.text.is_empty() { place } else { digits }, "a port is a number from 1 to 65535", ""),
            }
        }
        None => (place, None),
    };
    if host.text.contains('*') {
        return wrong(host, "a request goes to one host, without wildcards", "name a host that the pattern holds");
    }
    match Host::parse(host.text) {
        Ok(host) => Ok((host, port)),
        Err(error) => wrong(host, format!("this is not a host: {error}"), ""),
    }
}

/// `name=address[,address…]`, as `--resolve` has it.
///
/// # Errors
/// What is wrong, in a sentence.
pub fn parse_resolution(text: &str) -> Result<(Host, Vec<IpAddr>), String> {
    let (name, addresses) = text.split_once('=').ok_or_else(|| format!("`{text}` is not `name=address`"))?;
    let host = Host::parse(name).map_err(|error| format!("`{name}` is not a host: {error}"))?;
    let addresses: Result<Vec<IpAddr>, String> = addresses.split(',').map(parse_address).collect();
    Ok((host, addresses?))
}

/// An address, in brackets or not.
///
/// # Errors
/// What is wrong, in a sentence.
pub fn parse_address(text: &str) -> Result<IpAddr, String> {
    let text = text.trim();
    text.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| format!("`{text}` is not an address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match Asked::parse(text) {
            Ok(asked) => format!("{asked}{}", asked.inside.as_ref().map(|inside| format!(" ({inside})")).unwrap_or_default()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn reads_every_way_of_asking() {
        for (text, expected) in [
            ("GET https://api.github.com/repos/x?q=1#f", "CONNECT api.github.com:443 (GET /repos/x)"),
            ("POST https://Example.com:8443", "CONNECT example.com:8443 (POST /)"),
            ("POST http://example.com/a?b", "POST http://example.com/a"),
            ("PURGE http://example.com:8080?x", "PURGE http://example.com:8080/"),
            ("https://example.com/", "CONNECT example.com:443 (GET /)"),
            ("HTTP://example.com", "GET http://example.com/"),
            ("  CONNECT   example.com:22 ", "CONNECT example.com:22"),
            ("connect example.com:443", "CONNECT example.com:443"),
            ("OPTIONS http://example.com", "OPTIONS http://example.com"),
            ("OPTIONS http://example.com:8080/", "OPTIONS http://example.com:8080/"),
            ("OPTIONS http://example.com?x", "OPTIONS http://example.com/"),
            ("OPTIONS https://example.com", "CONNECT example.com:443 (OPTIONS *)"),
            ("socks example.com:22", "socks5 example.com:22"),
            ("socks5h [::1]:22", "socks5 [::1]:22"),
            ("socks5://example.com:1", "socks5 example.com:1"),
            ("udp 192.0.2.1:53", "udp 192.0.2.1:53"),
            ("example.com", "CONNECT example.com:443"),
            ("example.com:8443", "CONNECT example.com:8443"),
            ("2001:db8::1", "CONNECT [2001:db8::1]:443"),
            ("[2001:db8::1]:80", "CONNECT [2001:db8::1]:80"),
            ("GET http://[2001:db8::1]/x", "GET http://[2001:db8::1]/x"),
            ("127.1", "CONNECT 127.1:443"),
            ("bücher.example", "CONNECT xn--bcher-kva.example:443"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
            // What is shown says the same again.
            let asked = Asked::parse(text).unwrap();
            assert_eq!(Asked::parse(&asked.to_string()).unwrap(), Asked { inside: None, ..asked });
        }
    }

    #[test]
    fn options_without_a_path_asks_for_the_server() {
        let path = |text: &str| Asked::parse(text).unwrap().path;
        assert_eq!(path("OPTIONS http://a.test").as_deref(), Some("*"));
        assert_eq!(path("OPTIONS http://a.test/").as_deref(), Some("/"));
        assert_eq!(path("GET http://a.test").as_deref(), Some("/"));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        for (text, expected) in [
            ("", "the request is empty\n  \n  ^\nhelp: write `GET https://example.com/`, `CONNECT example.com:443` or `example.com`"),
            ("get http://a.test", "methods are case-sensitive\n  get http://a.test\n  ^^^\nhelp: write `GET`"),
            (
                "GET a.test/x",
                "a request with a method needs a URL with its scheme\n  GET a.test/x\n      ^^^^^^^^\nhelp: write `GET https://a.test/x` or `GET http://a.test/x`",
            ),
            (
                "GET ftp://a.test",
                "the scheme is `http` or `https`\n  GET ftp://a.test\n      ^^^\nhelp: for anything else write `CONNECT host:port` or `socks host:port`",
            ),
            ("CONNECT a.test", "`CONNECT` needs a port\n  CONNECT a.test\n          ^^^^^^\nhelp: write `CONNECT a.test:443`"),
            ("CONNECT ::1", "`CONNECT` needs a port\n  CONNECT ::1\n          ^^^\nhelp: write `CONNECT [::1]:443`"),
            (
                "GET http://a.test/x#f",
                "a plain request has no fragment\n  GET http://a.test/x#f\n                     ^^\nhelp: leave it out: clients do not send it",
            ),
            ("CONNECT a.test:0", "a port is a number from 1 to 65535\n  CONNECT a.test:0\n                 ^"),
            (
                "GET http://u:p@a.test/",
                "user information has no place in a request\n  GET http://***@a.test/\n             ^^^^\nhelp: leave it out",
            ),
            (
                "CONNECT u:p@a.test:443",
                "user information has no place in a request\n  CONNECT ***@a.test:443\n          ^^^^\nhelp: leave it out",
            ),
            (
                "GET u:p@a.test/x",
                "a request with a method needs a URL with its scheme\n  GET ***@a.test/x\n      ^^^^^^^^^^^^\nhelp: write `GET https://***@a.test/x` or `GET http://***@a.test/x`",
            ),
            ("GET", "`GET` needs a URL\n  GET\n  ^^^\nhelp: write `GET https://example.com/`"),
            ("CONNECT", "`CONNECT` needs a host\n  CONNECT\n  ^^^^^^^\nhelp: write `CONNECT example.com:443`"),
            (
                "CONNECT https://a.test",
                "a tunnel goes to a host and a port, without a scheme\n  CONNECT https://a.test\n          ^^^^^^^^\nhelp: write `CONNECT example.com:443`",
            ),
            (
                "a.test/x",
                "a tunnel goes to a host and a port, without a path\n  a.test/x\n        ^^\nhelp: for a request with a path write `GET https://a.test/x`",
            ),
            ("socks5-udp a.test:53", "this is no protocol\n  socks5-udp a.test:53\n  ^^^^^^^^^^\nhelp: write `udp a.test:53`"),
            ("UDP6 a.test", "this is no protocol\n  UDP6 a.test\n  ^^^^\nhelp: write `udp a.test:53`"),
            ("tcp a.test:22", "this is no protocol\n  tcp a.test:22\n  ^^^\nhelp: write `socks a.test:22`"),
            ("udp a.test", "a datagram needs a port\n  udp a.test\n      ^^^^^^\nhelp: write `udp a.test:53`"),
            ("ü..b", "this is not a host: a label (the part between two dots) is empty\n  ü..b\n  ^^^^"),
            ("*.a.test", "a request goes to one host, without wildcards\n  *.a.test\n  ^^^^^^^^\nhelp: name a host that the pattern holds"),
            (
                "GET http://a.test/ü",
                "a path has printable ASCII only\n  GET http://a.test/ü\n                    ^\nhelp: write other characters as `%XX`",
            ),
            (
                "GET http://a.test/ x",
                "a request ends here\n  GET http://a.test/ x\n                    ^^\nhelp: write a method or a protocol, and then where to",
            ),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        assert_eq!(shown("a\u{1b}[2Jb"), "this is not a host: '\\u{1b}' cannot stand in a host name");
        assert!(shown(&"a".repeat(MAX_REQUEST + 1)).starts_with("a request has at most"));
    }

    #[test]
    fn events_name_protocols_in_their_own_words() {
        for (theirs, ours) in [("https_connect", "CONNECT"), ("socks5_tcp", "socks"), ("socks5_udp", "udp")] {
            let parse = |word: &str| Asked::parse(&format!("{word} a.test:53")).unwrap();
            assert_eq!(parse(theirs), parse(ours));
            assert_eq!(parse(theirs).protocol.as_str(), theirs);
        }
    }

    #[test]
    fn reads_resolutions() {
        let (host, addresses) = parse_resolution("A.test=192.0.2.1,[2001:db8::1]").unwrap();
        assert_eq!((host.to_string(), addresses.len()), ("a.test".to_owned(), 2));
        for (text, error) in [
            ("a.test", "`a.test` is not `name=address`"),
            ("a.test=x", "`x` is not an address"),
            ("=::1", "`` is not a host: the host is empty"),
        ] {
            assert_eq!(parse_resolution(text).unwrap_err(), error);
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(GET |CONNECT |udp )?(https?://)?\\PC{0,30}(:[0-9]{0,6})?(/\\PC{0,10})?") {
            if let Err(error) = Asked::parse(&text) {
                proptest::prop_assert!(error.text.get(error.span.clone()).is_some() || error.span.is_empty(), "{error:?}");
            }
        }
    }
}
