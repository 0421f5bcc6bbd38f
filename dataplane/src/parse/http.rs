//! HTTP/1.1 heads (RFC 9112): strict where two readers could read two things.
//!
//! `httparse` splits lines into fields. Around it stands what a proxy must refuse and a server may forgive: bare CR and LF, NUL, repeated or odd
//! lengths, a length beside a coding, repeated or disagreeing `Host`. What is refused gets 400 (RFC 9112, section 3.2 and 6.3), so that nobody
//! behind this proxy reads another request than the one that was decided. `tests/cases/smuggling.toml` has every known way to try that, with the answer.

pub(crate) mod last;
pub(crate) mod scan;

use super::forwarding::{self, Forwarding};
use super::target::{Authority, AuthorityError, HTTP_PORT, LastTarget, Target};
use crate::calendar::write_date;
use crate::digits;
pub use last::LastHead;
use scan::{Coding, Direction, Message, Scan};
use std::borrow::Cow;
use std::io::Write;
use std::mem::MaybeUninit;
use std::sync::Arc;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// Why a request head was refused: the status and a line for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRequest {
    /// Status code of the reply.
    pub status: u16,
    /// What is wrong.
    pub message: &'static str,
}

/// What is wrong with a head of more fields than the limit.
pub(crate) const TOO_MANY_FIELDS: &str = "too many header fields";

const fn bad(message: &'static str) -> BadRequest {
    BadRequest { status: 400, message }
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// After that many bytes.
    Length(u64),
    /// With its last chunk.
    Chunked,
    /// With the connection; responses only.
    UntilClose,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A tunnel.
    Connect,
    /// A resource: what stands in the request line towards the origin.
    Resource(String),
}

impl Ask {
    /// The path of the resource, without the query; a tunnel has none.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Connect => None,
            Self::Resource(resource) => resource.get(..memchr::memchr(b'?', resource.as_bytes()).unwrap_or(resource.len())),
        }
    }
}

/// A request head that has one reading.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The method, as it was sent.
    pub method: Cow<'static, str>,
    /// Tunnel or resource.
    pub ask: Ask,
    /// Where to.
    pub target: Arc<Target>,
    /// HTTP/1.1 rather than 1.0.
    pub is_1_1: bool,
    /// Whether the client would use the connection again.
    pub keep_alive: bool,
    /// How its body ends.
    pub body: Body,
    /// The protocol that the client would switch to.
    pub upgrade: Option<Vec<u8>>,
    /// The path of the unix socket that it asks for, absolute and without `..`.
    pub unix_socket: Option<String>,
    /// Of TRACE and OPTIONS: how many proxies it may still go through (RFC 9110, section 7.6.2). With 0 it is answered here.
    pub max_forwards: Option<u64>,
    /// It authenticates the connection that it goes over, and not itself (RFC 4559, section 6): that connection is nobody else's.
    pub binds_connection: bool,
    /// It came inside TLS, and goes on inside TLS.
    pub secure: bool,
    /// The client waits to be told to go on before it sends the body.
    pub(crate) expects: bool,
    /// The client takes trailers.
    trailers: bool,
    has_via: bool,
    fields: Fields,
    /// The fields that say whose the request is.
    said: Fields,
}

/// A response head that has one reading.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status code.
    pub status: u16,
    is_1_1: bool,
    /// The reason phrase.
    reason: Cow<'static, [u8]>,
    /// Whether the origin would use the connection again.
    pub keep_alive: bool,
    /// How its body ends.
    pub body: Body,
    /// The protocol that the origin switched to.
    pub upgrade: Option<Vec<u8>>,
    /// It challenges for what authenticates the connection.
    pub binds_connection: bool,
    /// It announces a body that it must not have, being the answer to HEAD: some origins send it all the same.
    pub announces_body: bool,
    has_date: bool,
    fields: Fields,
}

/// End-to-end fields, ready to be written.
#[derive(Debug, PartialEq, Eq)]
struct Fields(Vec<u8>);

/// Where a head ends in `bytes`, which may hold more; `from` is where the search was left.
///
/// An empty line ends it, with or without CR, and so does one behind a line without CR: who forgives that sees the end of a head there, and so it is looked at, and
/// refused, without waiting for more.
#[must_use]
pub fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(2).min(bytes.len());
    memchr::memchr_iter(b'\n', bytes.get(from..).unwrap_or_default()).find_map(|at| {
        let next = from + at + 1;
        match bytes.get(next..).unwrap_or_default() {
            [b'\n', ..] => Some(next + 1),
            [b'\r', b'\n', ..] => Some(next + 2),
            _ => None,
        }
    })
}

/// How many bytes of empty lines stand before a head. Old clients send one after a body (RFC 9112, section 2.2).
#[must_use]
pub fn leading_blank(bytes: &[u8]) -> usize {
    if bytes.starts_with(b"\r\n") { 2 } else { 0 }
}

/// Refuses what lines cannot hold, and bare ends of lines; says how many lines there are.
pub(super) fn check_lines(head: &[u8]) -> Result<usize, BadRequest> {
    let mut lines = 0;
    for end in memchr::memchr_iter(b'\n', head) {
        lines += 1;
        if end.checked_sub(1).and_then(|before| head.get(before)) != Some(&b'\r') {
            return Err(bad("a line that ends with LF alone"));
        }
        if matches!(head.get(end + 1), Some(b' ' | b'\t')) {
            return Err(bad("a folded header line"));
        }
    }
    // Every LF has its CR: one more has none.
    if memchr::memchr_iter(b'\r', head).count() != lines {
        return Err(bad("a CR without LF in the head"));
    }
    if memchr::memchr(0, head).is_some() {
        return Err(bad("a NUL byte in the head"));
    }
    Ok(lines)
}

/// Fields of most heads. More are read into memory from the allocator.
pub(super) const FEW: usize = 32;

/// Refuses a line that ends with LF alone, in a head that `httparse` has taken: of the rest of what [`check_lines`] looks for, it lets nothing pass.
fn check_line_ends(head: &[u8]) -> Result<(), BadRequest> {
    let pairs = head.iter().zip(head.get(1..).unwrap_or_default());
    // A loop without a way out is one that the compiler makes look at many bytes at once.
    let bare = pairs.fold(head.starts_with(b"\n"), |bare, (before, byte)| bare | ((*byte == b'\n') & (*before != b'\r')));
    debug_assert_eq!(check_lines(head).is_err(), bare);
    if bare { Err(bad("a line that ends with LF alone")) } else { Ok(()) }
}

/// Room for the fields of a head of so many lines, at most `max`: `few`, if they are enough.
pub(super) fn room<'r, 'h>(
    lines: usize,
    max: usize,
    few: &'r mut [httparse::Header<'h>; FEW],
    many: &'r mut Vec<httparse::Header<'h>>,
) -> &'r mut [httparse::Header<'h>] {
    if lines.min(max) <= FEW {
        return few.get_mut(..max.min(FEW)).unwrap_or_default();
    }
    many.resize(max.min(lines), httparse::EMPTY_HEADER);
    many
}

pub(super) fn parse_error(error: httparse::Error) -> BadRequest {
    match error {
        httparse::Error::TooManyHeaders => BadRequest { status: 431, message: TOO_MANY_FIELDS },
        httparse::Error::Version => BadRequest { status: 505, message: "the HTTP version is not 1.0 or 1.1" },
        httparse::Error::HeaderName => bad("a header name that is not a token"),
        httparse::Error::HeaderValue => bad("a header value with control characters"),
        _ => bad("the request line or a header line is malformed"),
    }
}

/// What follows the target is a version only if nothing follows it.
fn request_error(error: httparse::Error, head: &[u8]) -> BadRequest {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let is_version = words.next().is_some_and(|word| word.starts_with(b"HTTP/")) && words.next().is_none();
    if error == httparse::Error::Version && !is_version { bad("the request line is malformed") } else { parse_error(error) }
}

/// Parses a whole request head, its empty line included.
///
/// # Errors
/// [`BadRequest`] for what has no reading or more than one.
pub fn parse_request(head: &[u8], max_fields: usize) -> Result<RequestHead, BadRequest> {
    parse(head, max_fields, None, &mut LastTarget::default())
}

/// Parses a whole request head that came inside of TLS, in a tunnel to `tunnel`: it is for that host and port, and for no proxy.
///
/// # Errors
/// [`BadRequest`] for what has no reading or more than one; 421 where it is for another host or port, 405 for CONNECT.
pub fn parse_inside(head: &[u8], max_fields: usize, tunnel: &Arc<Target>) -> Result<RequestHead, BadRequest> {
    parse(head, max_fields, Some(tunnel), &mut LastTarget::default())
}

fn parse(head: &[u8], max_fields: usize, tunnel: Option<&Arc<Target>>, last: &mut LastTarget) -> Result<RequestHead, BadRequest> {
    let (mut few, mut many) = ([const { MaybeUninit::uninit() }; FEW], Vec::new());
    let mut request = httparse::Request::new(&mut []);
    let mut parsed = request.parse_with_uninit_headers(head, few.get_mut(..max_fields.min(FEW)).unwrap_or_default());
    if let Err(error) = parsed {
        // What is wrong with the lines themselves says more.
        let lines = check_lines(head)?;
        if error == httparse::Error::TooManyHeaders && max_fields > FEW {
            many.resize(max_fields.min(lines), httparse::EMPTY_HEADER);
            request = httparse::Request::new(&mut many);
            parsed = request.parse(head);
        }
    }
    match parsed.map_err(|error| request_error(error, head))? {
        httparse::Status::Complete(len) if len == head.len() => check_line_ends(head)?,
        _ => return Err(bad("the head is incomplete")),
    }
    let (Some(method), Some(uri), Some(version)) = (request.method, request.path, request.version) else {
        return Err(bad("the request line is incomplete"));
    };
    check_uri(uri)?;
    let is_1_1 = version == 1;
    let mut scan = Scan::new(request.headers, Message::Request)?;
    scan.counts_forwards = counts_forwards(method);
    let (ask, target) = match tunnel {
        None => read_target(method, uri, is_1_1, &scan, last)?,
        Some(tunnel) => (read_resource(method, uri, is_1_1, &scan, tunnel)?, Arc::clone(tunnel)),
    };
    let body = request_body(&scan, is_1_1)?;
    let has_body = !matches!(body, Body::None | Body::Length(0));
    if ask == Ask::Connect && has_body {
        return Err(bad("CONNECT has no body"));
    }
    if method == "TRACE" {
        check_trace(request.headers, has_body)?;
    }
    // A proxy keeps no connection of an HTTP/1.0 client, whatever that asks for (RFC 9112, section 9.3): another proxy may have passed the wish on without knowing it.
    let keep_alive = is_1_1 && !scan.close;
    // Inside of a tunnel there is nobody who would be asked for one: the field ends here as always.
    let unix_socket = scan.unix_socket.filter(|_| tunnel.is_none()).map(socket_path).transpose()?;
    if ask == Ask::Connect && unix_socket.is_some() {
        return Err(bad("x-unix-socket is for plain requests, not for CONNECT"));
    }
    Ok(RequestHead {
        method: shared(method),
        ask,
        target,
        is_1_1,
        keep_alive,
        body,
        upgrade: scan.upgrade().filter(|_| is_1_1),
        unix_socket,
        max_forwards: max_forwards(method, request.headers)?,
        trailers: scan.trailers && is_1_1 && scan.nominates("te"),
        binds_connection: scan.binds_connection,
        secure: tunnel.is_some(),
        expects: scan.expect && is_1_1 && has_body,
        has_via: scan.has_via,
        // Nobody waits to be told to go on (RFC 9110, section 10.1.1).
        fields: scan.fields(request.headers, if is_1_1 && has_body { Direction::Origin } else { Direction::OriginAtOnce }, head.len()),
        said: scan.said(request.headers, head.len()),
    })
}

fn check_uri(uri: &str) -> Result<(), BadRequest> {
    // As in `check_line_ends`.
    let fits = uri.bytes().fold(true, |fits, byte| fits & byte.is_ascii_graphic() & (byte != b'#'));
    if fits { Ok(()) } else { Err(bad("the request target has characters that no target has")) }
}

/// What a TRACE is answered with is what it was: no body (RFC 9110, section 9.3.8), and nothing that whoever reads the answer must not see.
fn check_trace(headers: &[httparse::Header<'_>], has_body: bool) -> Result<(), BadRequest> {
    let secret = |header: &httparse::Header<'_>| is(header.name, "authorization") || is(header.name, "cookie");
    match () {
        () if has_body => Err(bad("TRACE has no body")),
        () if headers.iter().any(secret) => Err(bad("TRACE carries credentials")),
        () => Ok(()),
    }
}

/// `Max-Forwards`, where it means something. What is too large to be counted is as good as the largest number.
fn max_forwards(method: &str, headers: &[httparse::Header<'_>]) -> Result<Option<u64>, BadRequest> {
    if !counts_forwards(method) {
        return Ok(None);
    }
    let mut values = headers.iter().filter(|header| is(header.name, "max-forwards")).map(|header| trim(header.value));
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
            Ok(Some(std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX)))
        }
        _ => Err(bad("Max-Forwards is not a number")),
    }
}

/// A method that most requests have takes no memory of its own.
fn shared(method: &str) -> Cow<'static, str> {
    const COMMON: &[&str] = &["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT"];
    COMMON.iter().find(|common| **common == method).map_or_else(|| Cow::Owned(method.to_owned()), |common| Cow::Borrowed(*common))
}

fn counts_forwards(method: &str) -> bool {
    matches!(method, "TRACE" | "OPTIONS")
}

/// Parses a whole response head to a request with `method`.
///
/// # Errors
/// A line that says what is wrong with it.
pub fn parse_response(head: &[u8], method: &str, max_fields: usize) -> Result<ResponseHead, &'static str> {
    let (mut few, mut many) = ([const { MaybeUninit::uninit() }; FEW], Vec::new());
    let mut response = httparse::Response::new(&mut []);
    let few = few.get_mut(..max_fields.min(FEW)).unwrap_or_default();
    let mut parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, head, few);
    if let Err(error) = parsed {
        let lines = check_lines(head).map_err(|bad| bad.message)?;
        if error == httparse::Error::TooManyHeaders && max_fields > FEW {
            many.resize(max_fields.min(lines), httparse::EMPTY_HEADER);
            response = httparse::Response::new(&mut many);
            parsed = response.parse(head);
        }
    }
    // Empty lines before it are forgiven above.
    if !head.starts_with(b"HTTP/") {
        return Err("the status line is malformed");
    }
    match parsed {
        Ok(httparse::Status::Complete(len)) if len == head.len() => check_line_ends(head).map_err(|bad| bad.message)?,
        Ok(_) => return Err("the head is incomplete"),
        Err(error) => return Err(parse_error(error).message),
    }
    let (Some(status), Some(version)) = (response.code, response.version) else { return Err("the status line is incomplete") };
    if !(100..=599).contains(&status) {
        return Err("the status code is not 100 to 599");
    }
    let is_1_1 = version == 1;
    let opens_tunnel = method == "CONNECT" && (200..=299).contains(&status);
    let of = if opens_tunnel { Message::Tunnel } else { Message::Response };
    let scan = Scan::new(response.headers, of).map_err(|bad| bad.message)?;
    if scan.coding != Coding::None && scan.length.is_some() {
        return Err("both a length and a transfer coding");
    }
    let body = match (method, status) {
        ("HEAD", _) | (_, 100..=199 | 204 | 304) => Body::None,
        _ if opens_tunnel => Body::None,
        _ => match (scan.coding, scan.length) {
            (Coding::None, None) => Body::UntilClose,
            (Coding::None, Some(length)) => Body::Length(length),
            (Coding::Chunked, None) if is_1_1 => Body::Chunked,
            (Coding::Chunked, _) => return Err("a transfer coding in HTTP/1.0"),
            (Coding::Other | Coding::Endless, _) => return Err("an unknown transfer coding"),
        },
    };
    let no_content = opens_tunnel || matches!(status, 100..=199 | 204);
    // A body where none can be is not read, and may yet come: what follows on that connection is nobody's answer.
    let announced = no_content && (scan.coding != Coding::None || scan.length.is_some_and(|length| length > 0));
    Ok(ResponseHead {
        status,
        binds_connection: scan.binds_connection,
        has_date: scan.has_date && !scan.nominates("date"),
        announces_body: method == "HEAD" && (scan.coding != Coding::None || scan.length.is_some_and(|length| length > 0)),
        is_1_1,
        reason: match response.reason.unwrap_or_default() {
            "OK" => Cow::Borrowed(b"OK"),
            // Or one that is no ASCII, which is not shown.
            "" => Cow::Owned(reason(head).to_vec()),
            other => Cow::Owned(other.as_bytes().to_vec()),
        },
        keep_alive: !announced && if is_1_1 { !scan.close } else { scan.keep_alive && !scan.close },
        body,
        upgrade: scan.upgrade(),
        // A length on what has no content would make a client take the next response for it (RFC 9110, section 8.6).
        fields: scan.fields(response.headers, if no_content { Direction::ClientWithoutLength } else { Direction::Client }, head.len()),
    })
}

/// What stands behind the status code.
fn reason(head: &[u8]) -> &[u8] {
    head.split(|byte| *byte == b'\r').next().and_then(|line| line.splitn(3, |byte| *byte == b' ').nth(2)).unwrap_or_default()
}

/// Bytes that most start lines and the fields of this proxy's own have room in: a new buffer does not grow line by line.
const OWN_LINES: usize = 512;

pub(super) fn is(name: &str, expected: &str) -> bool {
    name.eq_ignore_ascii_case(expected)
}

pub(super) fn trim(value: &[u8]) -> &[u8] {
    value.trim_ascii()
}

/// Digits only, of one reading, and not more than everybody can count (RFC 9110, section 8.6): some take leading zeros for octal, and some have signed numbers.
fn parse_length(value: &[u8]) -> Result<u64, BadRequest> {
    let wrong = bad("Content-Length is not a number");
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(wrong);
    }
    if matches!(value, [b'0', _, ..]) {
        return Err(bad("Content-Length has leading zeros"));
    }
    // So many digits are less than what overflows.
    let length = value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0'));
    if length <= i64::MAX as u64 { Ok(length) } else { Err(wrong) }
}

/// Bytes of the path of a unix socket. A link may be longer than what a socket's address holds.
const MAX_SOCKET_PATH: usize = 4095;

/// The absolute path of a unix socket. What steps up has no single meaning among links.
fn socket_path(value: &[u8]) -> Result<String, BadRequest> {
    let path = std::str::from_utf8(value).map_err(|_| bad("x-unix-socket is not UTF-8"))?;
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(bad("x-unix-socket is not the absolute path of a socket"));
    }
    if path.split('/').any(|part| part == "..") || path.contains(char::is_control) {
        return Err(bad("x-unix-socket has `..` or control characters in its path"));
    }
    if path.len() > MAX_SOCKET_PATH {
        return Err(bad("x-unix-socket is too long for a path"));
    }
    Ok(path.to_owned())
}

fn request_body(scan: &Scan<'_>, is_1_1: bool) -> Result<Body, BadRequest> {
    match (scan.coding, scan.length) {
        (Coding::None, None) => Ok(Body::None),
        (Coding::None, Some(length)) => Ok(Body::Length(length)),
        (Coding::Chunked, None) if is_1_1 => Ok(Body::Chunked),
        (Coding::Chunked, None) => Err(bad("Transfer-Encoding in HTTP/1.0")),
        (Coding::Other, None) => Err(BadRequest { status: 501, message: "Transfer-Encoding has others than chunked" }),
        (Coding::Endless, None) => Err(bad("Transfer-Encoding does not end in chunked")),
        (_, Some(_)) => Err(bad("both Content-Length and Transfer-Encoding")),
    }
}

/// `Host`, once; HTTP/1.0 may go without.
fn read_host<'h>(scan: &Scan<'h>, is_1_1: bool) -> Result<Option<&'h [u8]>, BadRequest> {
    match (scan.hosts, scan.host) {
        (0 | 1, None) if is_1_1 => Err(bad("Host is missing")),
        (0 | 1, host) => Ok(host),
        _ => Err(bad("more than one Host")),
    }
}

fn host_text(host: &[u8]) -> Result<&str, BadRequest> {
    std::str::from_utf8(host).map_err(|_| bad("Host is not a host"))
}

/// What is asked for inside of a tunnel to `tunnel`, which `Host` and the request line have to name.
fn read_resource(method: &str, uri: &str, is_1_1: bool, scan: &Scan<'_>, tunnel: &Target) -> Result<Ask, BadRequest> {
    if method == "CONNECT" {
        return Err(BadRequest { status: 405, message: "there is no CONNECT inside of a tunnel" });
    }
    let names_the_tunnel = |authority: &str| match Target::parse(authority, Some(443)) {
        Ok(target) if target == *tunnel => Ok(()),
        Ok(_) => Err(BadRequest { status: 421, message: "the request is for another host or port than the tunnel" }),
        Err(AuthorityError::UserInfo) => Err(bad("user information in the target is not accepted")),
        Err(_) => Err(bad("the host is malformed")),
    };
    if let Some(host) = read_host(scan, is_1_1)? {
        names_the_tunnel(host_text(host)?)?;
    }
    if uri.starts_with('/') || (uri == "*" && method == "OPTIONS") {
        return Ok(Ask::Resource(uri.to_owned()));
    }
    let rest = match uri.get(..8) {
        Some(scheme) if scheme.eq_ignore_ascii_case("https://") => uri.get(8..).unwrap_or_default(),
        _ if uri.contains("://") => return Err(bad("only https:// targets are asked for inside of TLS")),
        _ => return Err(bad("the request target is malformed")),
    };
    let (authority, path) = split_authority(rest)?;
    names_the_tunnel(authority)?;
    Ok(Ask::Resource(resource(method, path)))
}

/// The target of a request: from the request line, with which `Host` must agree, or from `Host` alone.
fn read_target(method: &str, uri: &str, is_1_1: bool, scan: &Scan<'_>, last: &mut LastTarget) -> Result<(Ask, Arc<Target>), BadRequest> {
    let host = read_host(scan, is_1_1)?;
    if method == "CONNECT" {
        let target = Target::parse(uri, None).map_err(|error| match error {
            AuthorityError::Port => bad("CONNECT needs host:port, with a port from 1 to 65535"),
            AuthorityError::Host | AuthorityError::UserInfo => bad("CONNECT needs host:port"),
        })?;
        agree(host, uri, &target, target.port)?;
        return Ok((Ask::Connect, Arc::new(target)));
    }
    let authority_error = |error| match error {
        AuthorityError::Host => bad("the host is malformed"),
        AuthorityError::Port => bad("the port is not a number from 1 to 65535"),
        AuthorityError::UserInfo => bad("user information in the target is not accepted"),
    };
    let asked = RequestTarget::of(method, uri)?;
    let Some(authority) = asked.authority else {
        let text = host_text(host.ok_or(bad("Host is missing"))?)?;
        let target = last.parse(text, host).map_err(authority_error)?;
        return Ok((Ask::Resource(asked.resource), target));
    };
    let target = last.parse(authority, host).map_err(authority_error)?;
    agree(host, authority, &target, HTTP_PORT)?;
    Ok((Ask::Resource(asked.resource), target))
}

/// The request target of a request line outside of TLS (RFC 9112, section 3.2).
struct RequestTarget<'u> {
    /// In absolute form; else it is for `Host` to say.
    authority: Option<&'u str>,
    /// As it is asked of an origin.
    resource: String,
}

impl<'u> RequestTarget<'u> {
    /// Of any method but CONNECT.
    fn of(method: &str, uri: &'u str) -> Result<Self, BadRequest> {
        if uri.starts_with('/') || (uri == "*" && method == "OPTIONS") {
            return Ok(Self { authority: None, resource: uri.to_owned() });
        }
        let rest = match uri.get(..7) {
            Some(scheme) if scheme.eq_ignore_ascii_case("http://") => uri.get(7..).unwrap_or_default(),
            _ if uri.contains("://") => return Err(bad("only http:// targets are proxied; for others use CONNECT")),
            _ => return Err(bad("the request target is malformed")),
        };
        let (authority, path) = split_authority(rest)?;
        Ok(Self { authority: Some(authority), resource: resource(method, path) })
    }
}

/// What stands behind a scheme: the authority, and the rest.
fn split_authority(rest: &str) -> Result<(&str, &str), BadRequest> {
    let end = memchr::memchr2(b'/', b'?', rest.as_bytes()).unwrap_or(rest.len());
    rest.split_at_checked(end).ok_or(bad("the request target is malformed"))
}

/// What stands behind the authority, as it is asked of an origin.
fn resource(method: &str, path: &str) -> String {
    match path.as_bytes().first() {
        None if method == "OPTIONS" => "*".to_owned(),
        None => "/".to_owned(),
        Some(b'?') => format!("/{path}"),
        Some(_) => path.to_owned(),
    }
}

/// `Host` names the same host and port as the target, which was read from `authority`.
fn agree(host: Option<&[u8]>, authority: &str, target: &Target, default_port: u16) -> Result<(), BadRequest> {
    let Some(other) = host.filter(|host| *host != authority.as_bytes()) else { return Ok(()) };
    match Target::parse(host_text(other)?, Some(default_port)) {
        Ok(host) if host == *target => Ok(()),
        _ => Err(bad("Host and the request target disagree")),
    }
}

/// What is changed in the fields of a message on its way, beyond what a proxy changes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Edits<'a> {
    /// Names of fields that are taken out, in lower case.
    pub(crate) without: &'a [String],
    /// Fields that are put in, each instead of all that have its name.
    pub(crate) with: &'a [(String, Zeroizing<Vec<u8>>)],
}

impl Edits<'_> {
    /// Whether nothing is changed.
    pub(crate) fn is_empty(&self) -> bool {
        self.without.is_empty() && self.with.is_empty()
    }

    fn takes_out(&self, name: &[u8]) -> bool {
        // How long a body is, is not for hooks to say, whatever a policy has.
        let framing = name.eq_ignore_ascii_case(b"content-length");
        !framing && self.without.iter().chain(self.with.iter().map(|(name, _)| name)).any(|known| policy_format::same_header(known, name))
    }

    /// Writes what is left of `fields`.
    fn write(&self, fields: &[u8], out: &mut Vec<u8>) {
        if self.is_empty() {
            return out.extend_from_slice(fields);
        }
        for line in fields.split_inclusive(|byte| *byte == b'\n') {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            if !self.takes_out(name) {
                out.extend_from_slice(line);
            }
        }
    }

    fn write_new(&self, out: &mut Vec<u8>) {
        for (name, value) in self.with {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Fields with their names in lower case.
#[derive(Debug, Default)]
pub(crate) struct Lowered<'h> {
    names: String,
    /// Where each name ends, and its value.
    fields: Vec<(usize, &'h [u8])>,
}

impl Lowered<'_> {
    pub(crate) fn list(&self) -> Vec<(&str, &[u8])> {
        let mut start = 0;
        self.fields
            .iter()
            .map(|(end, value)| {
                let name = self.names.get(start..*end).unwrap_or_default();
                start = *end;
                (name, *value)
            })
            .collect()
    }
}

/// What a request to a proxy says beyond one to an origin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ToProxy<'a> {
    /// The value of `Proxy-Authorization`.
    pub(crate) authorization: Option<&'a str>,
}

impl RequestHead {
    /// The head as it goes to the origin. `upgrade`: whether a switch of protocols may be offered on.
    pub fn write(&self, resource: &str, upgrade: bool, forwarding: &Forwarding<'_>, out: &mut Vec<u8>) {
        self.write_to(None, resource, upgrade, forwarding, Edits::default(), out);
    }

    /// The end-to-end fields, as whoever decides on them sees them.
    pub(crate) fn lowered(&self) -> Lowered<'_> {
        let mut lowered = Lowered::default();
        for line in [&self.fields.0, &self.said.0].into_iter().flat_map(|lines| lines.split(|byte| *byte == b'\n')) {
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let (name, value) = line.split_at_checked(colon).unwrap_or_default();
            lowered.names.extend(name.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
            lowered.fields.push((lowered.names.len(), trim(value.get(1..).unwrap_or_default())));
        }
        lowered
    }

    /// The path and the query of the resource; a tunnel has neither.
    pub(crate) fn path_and_query(&self) -> &str {
        match &self.ask {
            Ask::Connect => "",
            Ask::Resource(resource) => resource,
        }
    }

    /// The query of the resource, without its `?`.
    pub(crate) fn query(&self) -> Option<&str> {
        self.path_and_query().split_once('?').map(|(_, query)| query)
    }

    /// The port that goes without saying.
    fn default_port(&self) -> u16 {
        if self.secure { 443 } else { HTTP_PORT }
    }

    /// The same, or in absolute form to a proxy (RFC 9112, section 3.2.2), with its `Proxy-Authorization`.
    pub(crate) fn write_to(
        &self,
        proxy: Option<ToProxy<'_>>,
        resource: &str,
        upgrade: bool,
        forwarding: &Forwarding<'_>,
        edits: Edits<'_>,
        out: &mut Vec<u8>,
    ) {
        out.reserve(self.fields.0.len() + self.said.0.len() + OWN_LINES);
        let upgrade = self.upgrade.as_deref().filter(|_| upgrade);
        self.write_first_lines(proxy.is_some(), resource, out);
        edits.write(&self.fields.0, out);
        if edits.is_empty() {
            forwarding.write_client(&self.said.0, out);
        } else {
            let mut said = Vec::new();
            edits.write(&self.said.0, &mut said);
            forwarding.write_client(&said, out);
            edits.write_new(out);
        }
        forwarding.write_via(self.is_1_1, out);
        if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization) {
            let _ = write!(out, "Proxy-Authorization: {authorization}\r\n");
        }
        if let Some(left) = self.max_forwards {
            let _ = write!(out, "Max-Forwards: {}\r\n", left.saturating_sub(1));
        }
        if self.body == Body::Chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        // One `Connection` line: some servers read no second one.
        if self.trailers && upgrade.is_none() {
            out.extend_from_slice(b"Connection: TE\r\nTE: trailers\r\n");
        }
        write_upgrade(upgrade, out);
        out.extend_from_slice(b"\r\n");
    }

    fn write_first_lines(&self, absolute: bool, resource: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(self.method.as_bytes());
        out.push(b' ');
        let mut resource = resource;
        if absolute {
            out.extend_from_slice(b"http://");
            Authority { target: &self.target, default_port: Some(self.default_port()) }.write(out);
            // `OPTIONS *` is said without a path (RFC 9112, section 3.2.4).
            resource = if resource == "*" { "" } else { resource };
        }
        out.extend_from_slice(resource.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        Authority { target: &self.target, default_port: Some(self.default_port()) }.write(out);
        out.extend_from_slice(b"\r\n");
    }

    /// Whether it would switch to WebSocket, and to nothing else (RFC 6455, section 4.1).
    pub(crate) fn is_websocket(&self) -> bool {
        self.upgrade.as_deref().is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
    }

    /// Whether it went through whoever calls itself that already.
    #[must_use]
    pub fn went_through(&self, pseudonym: &str) -> bool {
        self.has_via && self.fields.named("via").any(|value| forwarding::names(value, pseudonym))
    }

    /// The `Via` lines that it came with, as they came.
    fn write_vias(&self, out: &mut Vec<u8>) {
        for value in self.fields.named("via").filter(|_| self.has_via) {
            out.extend_from_slice(b"Via: ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// What a TRACE that ends here shows: where it wanted to, and where it came through. Its other fields may be anybody's secrets, and are not repeated.
    #[must_use]
    pub fn trace(&self) -> String {
        let mut out = Vec::new();
        if let Ask::Resource(resource) = &self.ask {
            self.write_first_lines(false, resource, &mut out);
        }
        self.write_vias(&mut out);
        out.extend_from_slice(b"\r\n");
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// The way that a request has come, for the one that is made for it: the `Via` lines of `head`, where there is one, and `own`, unless the policy keeps it out.
pub(crate) fn write_way(head: Option<&RequestHead>, own: Option<&str>, out: &mut Vec<u8>) {
    if let Some(head) = head {
        head.write_vias(out);
    }
    forwarding::write_entry(own, head.is_none_or(|head| head.is_1_1), out);
}

impl Fields {
    /// The values of all lines of that name.
    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0.split(|byte| *byte == b'\n').filter_map(move |line| match line.split_at_checked(name.len())? {
            (found, [b':', value @ ..]) if found.eq_ignore_ascii_case(name.as_bytes()) => Some(trim(value)),
            _ => None,
        })
    }
}

impl ResponseHead {
    /// Whether it switches, and to nothing but what was offered (RFC 9110, section 7.8). Who is offered a protocol may answer with a version of it.
    pub(crate) fn switches_as_offered(&self, request: &RequestHead) -> bool {
        let (Some(chosen), Some(offered)) = (&self.upgrade, &request.upgrade) else { return false };
        let (chosen, offered) = (chosen.to_ascii_lowercase(), offered.to_ascii_lowercase());
        let is_offered = |chosen: &[u8]| {
            let names = |offered: &[u8]| chosen.strip_prefix(offered).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
            offered.split(|byte| *byte == b',').map(trim).any(names)
        };
        chosen.split(|byte| *byte == b',').map(trim).all(is_offered)
    }

    /// The head as it goes to the client. `chunked`: how its body is sent; `close`: whether the connection ends with it.
    pub fn write(&self, client_is_1_1: bool, chunked: bool, close: bool, forwarding: &Forwarding<'_>, out: &mut Vec<u8>) {
        self.write_edited(client_is_1_1, chunked, close, forwarding, Edits::default(), out);
    }

    /// Says when it came, at the end of the head that was just written: where the origin has not, whoever passes it on does (RFC 9110, section 6.6.1).
    pub(crate) fn write_missing_date(&self, now: Instant, edits: Edits<'_>, out: &mut Vec<u8>) {
        if !self.has_date && !edits.takes_out(b"date") {
            // In front of the empty line.
            out.truncate(out.len().saturating_sub(2));
            write_date(now, out);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// The same with changes to its fields.
    pub(crate) fn write_edited(
        &self,
        client_is_1_1: bool,
        chunked: bool,
        close: bool,
        forwarding: &Forwarding<'_>,
        edits: Edits<'_>,
        out: &mut Vec<u8>,
    ) {
        out.reserve(self.fields.0.len() + OWN_LINES);
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(digits::number(self.status.into(), &mut [0; 20]));
        out.push(b' ');
        out.extend_from_slice(&self.reason);
        out.extend_from_slice(b"\r\n");
        edits.write(&self.fields.0, out);
        edits.write_new(out);
        forwarding.write_via(self.is_1_1, out);
        if chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        if self.status == 101 {
            write_upgrade(self.upgrade.as_deref(), out);
        } else if close {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if !client_is_1_1 && self.status >= 200 {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn write_upgrade(protocol: Option<&[u8]>, out: &mut Vec<u8>) {
    if let Some(protocol) = protocol {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
        out.extend_from_slice(protocol);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_format::Forwarded;

    const FORWARDING: Forwarding<'_> =
        Forwarding { via: None, forwarded: Forwarded::Pass, client: std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST) };

    #[test]
    fn requests_are_written_with_what_the_policy_has_added() {
        let head = "GET http://a.test/x HTTP/1.0\r\nVia: 1.0 fred\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: b.test\r\nForwarded: for=x\r\nX-A: b\r\n\r\n";
        let first = "GET /x HTTP/1.1\r\nHost: a.test\r\nVia: 1.0 fred\r\nX-A: b\r\n";
        let said = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: b.test\r\nForwarded: for=x\r\n";
        let cases = [
            (Some("us"), Forwarded::Pass, format!("{said}Via: 1.0 us\r\n")),
            (None, Forwarded::Pass, said.to_owned()),
            (None, Forwarded::Strip, String::new()),
            (Some("us"), Forwarded::Strip, "Via: 1.0 us\r\n".to_owned()),
            (
                None,
                Forwarded::XForwardedFor,
                "X-Forwarded-Host: b.test\r\nForwarded: for=x\r\nX-Forwarded-For: 192.0.2.1, ::1\r\n".to_owned(),
            ),
            (
                None,
                Forwarded::Forwarded,
                "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: b.test\r\nForwarded: for=x, for=\"[::1]\"\r\n".to_owned(),
            ),
        ];
        let request = parse_request(head.as_bytes(), 16).unwrap();
        for (via, forwarded, expected) in cases {
            let mut out = Vec::new();
            request.write("/x", true, &Forwarding { via, forwarded, ..FORWARDING }, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{first}{expected}\r\n"), "{via:?} {forwarded:?}");
        }
        assert!(request.went_through("fred") && !request.went_through("us"));
    }

    #[test]
    fn responses_are_written_for_the_client_that_asked() {
        let head =
            b"HTTP/1.0 200 Fine\r\nConnection: keep-alive, X-A\r\nX-A: b\r\nContent-Length: 2\r\nContent_Length: 3\r\nExpect: x\r\n\r\n";
        let first = "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nContent_Length: 3\r\nExpect: x\r\n";
        let response = parse_response(head, "GET", 16).unwrap();
        let cases = [
            (None, true, false, ""),
            (None, true, true, "Connection: close\r\n"),
            (None, false, false, "Connection: keep-alive\r\n"),
            (Some("us"), true, false, "Via: 1.0 us\r\n"),
        ];
        for (via, client_is_1_1, close, expected) in cases {
            let mut out = Vec::new();
            response.write(client_is_1_1, false, close, &Forwarding { via, ..FORWARDING }, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{first}{expected}\r\n"));
        }
    }

    #[test]
    fn a_reason_is_passed_on_as_it_came() {
        for reason in ["OK", "Fine by me", "Gr\u{fc}\u{df}e", " two", ""] {
            let line = format!("HTTP/1.1 200 {reason}\r\n");
            let response = parse_response(format!("{line}Content-Length: 0\r\n\r\n").as_bytes(), "GET", 10).unwrap();
            let mut out = Vec::new();
            response.write(true, false, false, &Forwarding { via: None, ..FORWARDING }, &mut out);
            assert!(out.starts_with(line.as_bytes()), "{reason:?}: {}", out.escape_ascii());
        }
        // Without the blank, which is forgiven.
        assert!(parse_response(b"HTTP/1.1 200\r\n\r\n", "GET", 10).unwrap().reason.is_empty());
    }

    #[test]
    fn what_opens_a_tunnel_has_no_body_whatever_its_fields_say() {
        let read = |method: &str, status: u16, fields: &str| {
            let head = format!("HTTP/1.1 {status} Fine\r\n{fields}X-A: b\r\n\r\n");
            parse_response(head.as_bytes(), method, 16).map(|response| (response.body, String::from_utf8(response.fields.0).unwrap()))
        };
        let bad = [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ];
        for fields in bad.into_iter().chain(["", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"]) {
            for status in [200, 201, 204, 299] {
                assert_eq!(read("CONNECT", status, fields), Ok((Body::None, "X-A: b\r\n".to_owned())), "{status} {fields}");
            }
        }
        // Nothing else is read so.
        for fields in bad {
            for (method, status) in [("CONNECT", 199), ("CONNECT", 300), ("CONNECT", 407), ("GET", 200), ("connect", 200), ("HEAD", 200)] {
                // Of what has no body, a coding is not looked at.
                let expected =
                    fields.starts_with("Transfer-Encoding") && fields.lines().count() == 1 && (method == "HEAD" || status == 199);
                assert_eq!(read(method, status, fields).is_ok(), expected, "{method} {status} {fields}");
            }
        }
        assert_eq!(read("CONNECT", 407, "Content-Length: 5\r\n").unwrap().0, Body::Length(5));
        assert!(read("CONNECT", 200, "Connection: content-length\r\n").is_err(), "what is wrong otherwise is wrong still");
    }

    #[test]
    fn a_head_ends_where_any_reader_sees_its_end() {
        let cases: [(&str, Option<usize>); 8] = [
            ("GET / HTTP/1.1\r\nA: b\r\n\r\nbody\r\n\r\n", Some(24)),
            ("GET / HTTP/1.1\nA: b\n\nbody", Some(21)),
            ("GET / HTTP/1.1\r\nA: b\n\r\nbody", Some(23)),
            ("GET / HTTP/1.1\r\nA: b\r\n\nbody", Some(23)),
            ("GET / HTTP/1.1\r\nA: b\r\r\nbody", None),
            ("GET / HTTP/1.1\r\nA: b\r\n\r", None),
            ("\r\n", None),
            ("", None),
        ];
        for (bytes, expected) in cases {
            for from in 0..expected.unwrap_or(bytes.len()) {
                assert_eq!(head_end(bytes.as_bytes(), from), expected, "{bytes:?} from {from}");
            }
        }
    }

    /// Wherever a field stands among many, it ends here or goes on.
    #[test]
    fn what_ends_here_does_so_behind_any_number_of_fields() {
        let ending =
            ["Connection: keep-alive, x-mine", "Keep-Alive: 1", "Proxy-Authorization: Basic dTpw", "X-Mine: 1", "Upgrade: a", "TE: b"];
        for count in [0, FEW - ending.len(), FEW - 3, FEW, 3 * FEW] {
            let others: String = (0..count).map(|at| format!("x-{at}: {at}\r\n")).collect();
            let head = format!("GET http://a.test/ HTTP/1.1\r\n{others}{}\r\nHost: a.test\r\nX-Real-IP: 1\r\n\r\n", ending.join("\r\n"));
            let parsed = parse_request(head.as_bytes(), 200).unwrap();
            assert_eq!(String::from_utf8(parsed.fields.0).unwrap(), others, "{count}");
            assert_eq!(parsed.said.0, b"X-Real-IP: 1\r\n", "{count}");
        }
    }

    #[test]
    fn only_what_was_offered_is_switched_to() {
        let cases = [
            ("websocket", "websocket", true),
            ("websocket", "WebSocket", true),
            ("websocket", "foo", false),
            ("websocket", "websocket, foo", false),
            ("websocket", "websocket2", false),
            ("tcp, foo/2", "foo/2", true),
            ("tcp, foo/2", "foo/3", false),
            ("tcp , foo", "foo/3", true),
            ("tcp, foo", "foo, tcp", true),
            ("tcp,, foo", ",", false),
            ("tcp,, foo", "/x", false),
            ("tcp,, foo", "foo,", true),
            ("foo/2", "foo", false),
            // More than anybody offers, or chooses.
            (&"x,".repeat(17), "x", false),
            (&"x,".repeat(16), "x", true),
            ("x", &"x,".repeat(17), false),
        ];
        for (offered, chosen, expected) in cases {
            // In one line, and in one for each protocol: they are one list.
            for offered in [format!("Upgrade: {offered}\r\n"), format!("Upgrade: {}\r\n", offered.replace(',', "\r\nUpgrade: "))] {
                let request = format!("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\n{offered}\r\n");
                let request = parse(request.as_bytes(), 32, None, &mut LastTarget::default()).unwrap();
                let response = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {chosen}\r\n\r\n");
                let response = parse_response(response.as_bytes(), "GET", 16).unwrap();
                assert_eq!(response.switches_as_offered(&request), expected, "{offered} {chosen}");
            }
        }
    }
}
