//! HTTP/1.1 heads (RFC 9112): strict where two readers could read two things.
//!
//! `httparse` splits lines into fields. Around it stands what a proxy must refuse and a server may forgive: bare CR and LF, NUL, repeated or odd
//! lengths, a length beside a coding, repeated or disagreeing `Host`. What is refused gets 400 (RFC 9112, section 3.2 and 6.3), so that nobody
//! behind this proxy reads another request than the one that was decided.

use super::target::{Authority, AuthorityError, Target};
use memchr::memmem;
use std::io::Write;

/// Why a request head was refused: the status and a line for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRequest {
    /// Status code of the reply.
    pub status: u16,
    /// What is wrong.
    pub message: &'static str,
}

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
            Self::Resource(resource) => resource.split('?').next(),
        }
    }
}

/// A request head that has one reading.
#[derive(Debug)]
pub struct RequestHead {
    /// The method, as it was sent.
    pub method: String,
    /// Tunnel or resource.
    pub ask: Ask,
    /// Where to.
    pub target: Target,
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
    fields: Fields,
}

/// A response head that has one reading.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status code.
    pub status: u16,
    /// The reason phrase.
    reason: Vec<u8>,
    /// Whether the origin would use the connection again.
    pub keep_alive: bool,
    /// How its body ends.
    pub body: Body,
    /// The protocol that the origin switched to.
    pub upgrade: Option<Vec<u8>>,
    fields: Fields,
}

/// End-to-end fields, ready to be written.
#[derive(Debug)]
struct Fields(Vec<u8>);

/// Where a head ends in `bytes`, which may hold more; `from` is where the search was left.
#[must_use]
pub fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(3).min(bytes.len());
    memmem::find(bytes.get(from..).unwrap_or_default(), b"\r\n\r\n").map(|at| from + at + 4)
}

/// How many bytes of empty lines stand before a head. Old clients send one after a body (RFC 9112, section 2.2).
#[must_use]
pub fn leading_blank(bytes: &[u8]) -> usize {
    if bytes.starts_with(b"\r\n") { 2 } else { 0 }
}

/// Refuses what lines cannot hold, and bare ends of lines.
fn check_lines(head: &[u8]) -> Result<(), BadRequest> {
    let mut last = 0;
    for byte in head.iter().copied() {
        match byte {
            0 => return Err(bad("a NUL byte in the head")),
            b'\n' if last != b'\r' => return Err(bad("a line that ends with LF alone")),
            b'\n' => {}
            _ if last == b'\r' => return Err(bad("a CR without LF in the head")),
            b' ' | b'\t' if last == b'\n' => return Err(bad("a folded header line")),
            _ => {}
        }
        last = byte;
    }
    Ok(())
}

fn parse_error(error: httparse::Error) -> BadRequest {
    match error {
        httparse::Error::TooManyHeaders => BadRequest { status: 431, message: "too many header fields" },
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
    check_lines(head)?;
    let mut storage = vec![httparse::EMPTY_HEADER; max_fields];
    let mut request = httparse::Request::new(&mut storage);
    match request.parse(head).map_err(|error| request_error(error, head))? {
        httparse::Status::Complete(len) if len == head.len() => {}
        _ => return Err(bad("the head is incomplete")),
    }
    let (Some(method), Some(uri), Some(version)) = (request.method, request.path, request.version) else {
        return Err(bad("the request line is incomplete"));
    };
    if !uri.bytes().all(|byte| byte.is_ascii_graphic()) || uri.contains('#') {
        return Err(bad("the request target has characters that no target has"));
    }
    let is_1_1 = version == 1;
    let scan = Scan::new(request.headers)?;
    let (ask, target) = read_target(method, uri, is_1_1, &scan)?;
    let body = request_body(&scan, is_1_1)?;
    if ask == Ask::Connect && body != Body::None && body != Body::Length(0) {
        return Err(bad("CONNECT has no body"));
    }
    let keep_alive = if is_1_1 { !scan.close } else { scan.keep_alive && !scan.close };
    let unix_socket = scan.unix_socket.map(socket_path).transpose()?;
    if ask == Ask::Connect && unix_socket.is_some() {
        return Err(bad("x-unix-socket is for plain requests, not for CONNECT"));
    }
    Ok(RequestHead {
        method: method.to_owned(),
        ask,
        target,
        is_1_1,
        keep_alive,
        body,
        upgrade: scan.upgrade().filter(|_| is_1_1).map(<[u8]>::to_vec),
        unix_socket,
        fields: scan.fields(request.headers, Direction::Origin),
    })
}

/// Parses a whole response head to a request with `method`.
///
/// # Errors
/// A line that says what is wrong with it.
pub fn parse_response(head: &[u8], method: &str, max_fields: usize) -> Result<ResponseHead, &'static str> {
    check_lines(head).map_err(|bad| bad.message)?;
    let mut storage = vec![httparse::EMPTY_HEADER; max_fields];
    let mut response = httparse::Response::new(&mut storage);
    match response.parse(head) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => {}
        Ok(_) => return Err("the head is incomplete"),
        Err(error) => return Err(parse_error(error).message),
    }
    let (Some(status), Some(version)) = (response.code, response.version) else { return Err("the status line is incomplete") };
    if !(100..=599).contains(&status) {
        return Err("the status code is not 100 to 599");
    }
    let is_1_1 = version == 1;
    let scan = Scan::new(response.headers).map_err(|bad| bad.message)?;
    if scan.coding != Coding::None && scan.length.is_some() {
        return Err("both a length and a transfer coding");
    }
    let body = match (method, status) {
        ("HEAD", _) | (_, 100..=199 | 204 | 304) => Body::None,
        _ => match (scan.coding, scan.length) {
            (Coding::None, None) => Body::UntilClose,
            (Coding::None, Some(length)) => Body::Length(length),
            (Coding::Chunked, None) if is_1_1 => Body::Chunked,
            (Coding::Chunked, _) => return Err("a transfer coding in HTTP/1.0"),
            (Coding::Other, _) => return Err("an unknown transfer coding"),
        },
    };
    Ok(ResponseHead {
        status,
        reason: response.reason.unwrap_or_default().as_bytes().to_vec(),
        keep_alive: if is_1_1 { !scan.close } else { scan.keep_alive && !scan.close },
        body,
        upgrade: scan.upgrade().map(<[u8]>::to_vec),
        // A length on what has no content would make a client take the next response for it (RFC 9110, section 8.6).
        fields: scan
            .fields(response.headers, if matches!(status, 100..=199 | 204) { Direction::ClientWithoutLength } else { Direction::Client }),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    None,
    Chunked,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Origin,
    Client,
    /// The response has no content, so that a length on it would lie.
    ClientWithoutLength,
}

/// What the fields say about the message itself.
struct Scan<'h> {
    hosts: Vec<&'h [u8]>,
    length: Option<u64>,
    coding: Coding,
    close: bool,
    keep_alive: bool,
    wants_upgrade: bool,
    upgrade: Option<&'h [u8]>,
    unix_socket: Option<&'h [u8]>,
    /// Fields that `Connection` names: they end here (RFC 9110, section 7.6.1).
    nominated: Vec<&'h [u8]>,
}

impl<'h> Scan<'h> {
    fn new(headers: &[httparse::Header<'h>]) -> Result<Self, BadRequest> {
        let mut scan = Self {
            hosts: Vec::new(),
            length: None,
            coding: Coding::None,
            close: false,
            keep_alive: false,
            wants_upgrade: false,
            upgrade: None,
            unix_socket: None,
            nominated: Vec::new(),
        };
        for header in headers {
            let value = trim(header.value);
            match () {
                () if is(header.name, "host") => scan.hosts.push(value),
                () if is(header.name, "content-length") => {
                    // Not even twice the same: what one reader folds, another does not.
                    if scan.length.replace(parse_length(value)?).is_some() {
                        return Err(bad("more than one Content-Length"));
                    }
                }
                () if is(header.name, "transfer-encoding") => {
                    if scan.coding != Coding::None {
                        return Err(bad("more than one Transfer-Encoding"));
                    }
                    scan.coding = if value.eq_ignore_ascii_case(b"chunked") { Coding::Chunked } else { Coding::Other };
                }
                () if is(header.name, "connection") || is(header.name, "proxy-connection") => scan.connection(value)?,
                () if is(header.name, "upgrade") => scan.upgrade = Some(value),
                () if is(header.name, "x-unix-socket") => {
                    if scan.unix_socket.replace(value).is_some() {
                        return Err(bad("more than one x-unix-socket"));
                    }
                }
                () => {}
            }
        }
        Ok(scan)
    }

    /// Every `Connection` line counts, and all of its options. `Proxy-Connection` is what clients from before RFC 7230 say instead.
    fn connection(&mut self, value: &'h [u8]) -> Result<(), BadRequest> {
        for option in value.split(|byte| *byte == b',').map(trim).filter(|option| !option.is_empty()) {
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            if is("close") {
                self.close = true;
            } else if is("keep-alive") {
                self.keep_alive = true;
            } else if is("upgrade") {
                self.wants_upgrade = true;
            } else if is("host") || is("content-length") || is("transfer-encoding") || is("authorization") || is("cookie") {
                return Err(bad("Connection names a field that is not for one connection"));
            } else {
                self.nominated.push(option);
            }
        }
        Ok(())
    }

    /// The protocol to switch to. HTTP/2 in clear text is not offered on: its requests could not be decided one by one.
    fn upgrade(&self) -> Option<&'h [u8]> {
        let offered = self.upgrade.filter(|_| self.wants_upgrade)?;
        let h2c = offered.split(|byte| *byte == b',').map(trim).any(|name| name.eq_ignore_ascii_case(b"h2c"));
        (!h2c && !offered.is_empty()).then_some(offered)
    }

    /// The end-to-end fields, without those that are for this connection or for this proxy.
    fn fields(&self, headers: &[httparse::Header<'_>], direction: Direction) -> Fields {
        let mut out = Vec::with_capacity(512);
        for header in headers {
            let name = header.name;
            let proxys_own = name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("proxy-"));
            let hop = ["connection", "keep-alive", "te", "transfer-encoding", "upgrade", "http2-settings", "x-unix-socket"];
            let nominated = self.nominated.iter().any(|option| option.eq_ignore_ascii_case(name.as_bytes()));
            let here = match direction {
                Direction::Origin => is(name, "host"),
                Direction::Client => false,
                Direction::ClientWithoutLength => is(name, "content-length"),
            };
            if proxys_own || nominated || here || hop.iter().any(|hop| is(name, hop)) {
                continue;
            }
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(trim(header.value));
            out.extend_from_slice(b"\r\n");
        }
        Fields(out)
    }
}

fn is(name: &str, expected: &str) -> bool {
    name.eq_ignore_ascii_case(expected)
}

fn trim(value: &[u8]) -> &[u8] {
    value.trim_ascii()
}

/// Digits only, and not more than can be counted (RFC 9110, section 8.6).
fn parse_length(value: &[u8]) -> Result<u64, BadRequest> {
    let wrong = bad("Content-Length is not a number");
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(wrong);
    }
    std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).ok_or(wrong)
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
        (Coding::Other, None) => Err(BadRequest { status: 501, message: "Transfer-Encoding is not chunked" }),
        (_, Some(_)) => Err(bad("both Content-Length and Transfer-Encoding")),
    }
}

/// The target of a request: from the request line, with which `Host` must agree, or from `Host` alone.
fn read_target(method: &str, uri: &str, is_1_1: bool, scan: &Scan<'_>) -> Result<(Ask, Target), BadRequest> {
    let host = match scan.hosts.as_slice() {
        [] => None,
        [host] => Some(std::str::from_utf8(host).map_err(|_| bad("Host is not a host"))?),
        _ => return Err(bad("more than one Host")),
    };
    if host.is_none() && is_1_1 {
        return Err(bad("Host is missing"));
    }
    if method == "CONNECT" {
        let target = Target::parse(uri, None).map_err(|error| match error {
            AuthorityError::Port => bad("CONNECT needs host:port, with a port from 1 to 65535"),
            AuthorityError::Host | AuthorityError::UserInfo => bad("CONNECT needs host:port"),
        })?;
        agree(host, &target, target.port)?;
        return Ok((Ask::Connect, target));
    }
    let authority_error = |error| match error {
        AuthorityError::Host => bad("the host is malformed"),
        AuthorityError::Port => bad("the port is not a number from 1 to 65535"),
        AuthorityError::UserInfo => bad("user information in the target is not accepted"),
    };
    if uri.starts_with('/') || (uri == "*" && method == "OPTIONS") {
        let host = host.ok_or(bad("Host is missing"))?;
        let target = Target::parse(host, Some(80)).map_err(authority_error)?;
        return Ok((Ask::Resource(uri.to_owned()), target));
    }
    let rest = match uri.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case("http://") => uri.get(7..).unwrap_or_default(),
        _ if uri.contains("://") => return Err(bad("only http:// targets are proxied; for others use CONNECT")),
        _ => return Err(bad("the request target is malformed")),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).ok_or(bad("the request target is malformed"))?;
    let target = Target::parse(authority, Some(80)).map_err(authority_error)?;
    agree(host, &target, 80)?;
    let resource = match path.as_bytes().first() {
        None if method == "OPTIONS" => "*".to_owned(),
        None => "/".to_owned(),
        Some(b'?') => format!("/{path}"),
        Some(_) => path.to_owned(),
    };
    Ok((Ask::Resource(resource), target))
}

/// `Host` names the same host and port as the target.
fn agree(host: Option<&str>, target: &Target, default_port: u16) -> Result<(), BadRequest> {
    match host.map(|host| Target::parse(host, Some(default_port))) {
        None => Ok(()),
        Some(Ok(host)) if host == *target => Ok(()),
        Some(_) => Err(bad("Host and the request target disagree")),
    }
}

/// What a request to a proxy says beyond one to an origin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ToProxy<'a> {
    /// The value of `Proxy-Authorization`.
    pub(crate) authorization: Option<&'a str>,
}

impl RequestHead {
    /// The head as it goes to the origin, or in absolute form to a proxy (RFC 9112, section 3.2.2), with its `Proxy-Authorization`. `upgrade`: whether a switch of protocols may be offered on.
    pub(crate) fn write(&self, resource: &str, proxy: Option<ToProxy<'_>>, upgrade: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(self.method.as_bytes());
        out.push(b' ');
        let mut resource = resource;
        if proxy.is_some() {
            // Writing to a vector cannot fail.
            let _ = write!(out, "http://{}", Authority { target: &self.target, default_port: Some(80) });
            // `OPTIONS *` is said without a path (RFC 9112, section 3.2.4).
            resource = if resource == "*" { "" } else { resource };
        }
        out.extend_from_slice(resource.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        // Writing to a vector cannot fail.
        let _ = write!(out, "{}", Authority { target: &self.target, default_port: Some(80) });
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.fields.0);
        if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization) {
            let _ = write!(out, "Proxy-Authorization: {authorization}\r\n");
        }
        if self.body == Body::Chunked {
            out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        write_upgrade(self.upgrade.as_deref().filter(|_| upgrade), out);
        out.extend_from_slice(b"\r\n");
    }
}

impl ResponseHead {
    /// The head as it goes to the client. `chunked`: how its body is sent; `close`: whether the connection ends with it.
    pub(crate) fn write(&self, client_is_1_1: bool, chunked: bool, close: bool, out: &mut Vec<u8>) {
        let _ = write!(out, "HTTP/1.1 {} ", self.status);
        out.extend_from_slice(&self.reason);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.fields.0);
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

/// A chunked body read piece by piece (RFC 9112, section 7.1): sizes are checked, extensions are dropped.
#[derive(Debug)]
pub struct Chunks {
    state: ChunkState,
    /// Bytes of trailers that may still come.
    trailer_room: usize,
}

#[derive(Debug, Clone, Copy)]
enum ChunkState {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// A piece of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    /// That many bytes at the front of the buffer are data.
    Data(usize),
    /// That many bytes at the front of the buffer are framing: skip them.
    Skip(usize),
    /// That many bytes at the front of the buffer are the trailers, their empty line included; the body ends with them.
    End(usize),
    /// More bytes are needed.
    More,
}

/// Bytes of a chunk's size line, extensions included.
const MAX_CHUNK_LINE: usize = 1024;

impl Chunks {
    /// A body of which nothing was read, and of whose trailers at most `trailer_room` bytes will be.
    #[must_use]
    pub fn new(trailer_room: usize) -> Self {
        Self { state: ChunkState::Size, trailer_room }
    }

    /// What is at the front of `buffer`.
    ///
    /// # Errors
    /// A line that says what is wrong.
    pub fn next(&mut self, buffer: &[u8]) -> Result<Chunk, &'static str> {
        match self.state {
            ChunkState::Size => {
                let Some(end) = line_end(buffer, MAX_CHUNK_LINE)? else { return Ok(Chunk::More) };
                let size = parse_chunk_size(buffer.get(..end).unwrap_or_default())?;
                self.state = if size == 0 { ChunkState::Trailers } else { ChunkState::Data(size) };
                Ok(Chunk::Skip(end + 2))
            }
            ChunkState::Data(left) => {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                if take == 0 {
                    return Ok(Chunk::More);
                }
                let left = left - take as u64;
                self.state = if left == 0 { ChunkState::DataEnd } else { ChunkState::Data(left) };
                Ok(Chunk::Data(take))
            }
            ChunkState::DataEnd => match buffer {
                [b'\r', b'\n', ..] => {
                    self.state = ChunkState::Size;
                    Ok(Chunk::Skip(2))
                }
                [] | [b'\r'] => Ok(Chunk::More),
                _ => Err("a chunk that does not end where its size says"),
            },
            ChunkState::Trailers => {
                match buffer {
                    [b'\r', b'\n', ..] => {
                        self.state = ChunkState::Done;
                        return Ok(Chunk::End(2));
                    }
                    [] | [b'\r'] => return Ok(Chunk::More),
                    _ => {}
                }
                match head_end(buffer, 0) {
                    Some(end) if end <= self.trailer_room => {
                        self.state = ChunkState::Done;
                        Ok(Chunk::End(end))
                    }
                    None if buffer.len() < self.trailer_room => Ok(Chunk::More),
                    _ => Err("trailers that are too long"),
                }
            }
            ChunkState::Done => Ok(Chunk::End(0)),
        }
    }
}

/// Where the line at the front ends, before its CR LF.
fn line_end(buffer: &[u8], max: usize) -> Result<Option<usize>, &'static str> {
    match memchr::memchr2(b'\r', b'\n', buffer) {
        Some(at) if at > max => Err("a chunk size line that is too long"),
        Some(at) => match buffer.get(at..at + 2) {
            Some(b"\r\n") => Ok(Some(at)),
            None if buffer.get(at) == Some(&b'\r') => Ok(None),
            _ => Err("a chunk size line with a bare CR or LF"),
        },
        None if buffer.len() > max => Err("a chunk size line that is too long"),
        None => Ok(None),
    }
}

/// Hexadecimal digits only, then possibly an extension, which nobody here understands and which is therefore not passed on.
fn parse_chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, extension) = line.split_at_checked(end).unwrap_or((line, &[]));
    if digits.is_empty() || digits.len() > 16 {
        return Err("a chunk size that is not a number, or out of range");
    }
    match trim(extension) {
        [] if extension.is_empty() => {}
        [b';', rest @ ..] if rest.iter().all(|byte| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t')) => {}
        _ => return Err("a chunk size with something behind it"),
    }
    let digits = std::str::from_utf8(digits).map_err(|_| "a chunk size that is not a number")?;
    let size = u64::from_str_radix(digits, 16).map_err(|_| "a chunk size out of range")?;
    // What cannot be added to without wrapping cannot be counted by those behind us.
    if size > i64::MAX as u64 { Err("a chunk size out of range") } else { Ok(size) }
}

/// The trailer fields that may be passed on: no framing, routing or authority (RFC 9110, section 6.5.1).
pub(crate) fn write_trailers(trailers: &[u8], max_fields: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
    check_lines(trailers).map_err(|bad| bad.message)?;
    let mut storage = vec![httparse::EMPTY_HEADER; max_fields];
    let headers = match httparse::parse_headers(trailers, &mut storage).map_err(|error| parse_error(error).message)? {
        httparse::Status::Complete((len, headers)) if len == trailers.len() => headers,
        _ => return Err("the trailers are incomplete"),
    };
    for header in headers {
        let forbidden = [
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "authorization",
            "cookie",
            "set-cookie",
            "te",
            "trailer",
            "upgrade",
        ];
        let proxys_own = header.name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("proxy-"));
        if proxys_own || forbidden.iter().any(|name| is(header.name, name)) {
            continue;
        }
        out.extend_from_slice(header.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(trim(header.value));
        out.extend_from_slice(b"\r\n");
    }
    Ok(())
}
