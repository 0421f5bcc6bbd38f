//! Heads of HTTP/2 messages (RFC 9113, section 8): which requests have one reading, and what becomes of fields on their way.
//!
//! `h2` refuses what the framing forbids. What is left is what a proxy must not pass on: a request for another host than that of the tunnel, and whatever two readers
//! could read in two ways.

use super::Tunnel;
use crate::calendar::http_date;
use crate::inside::judge::{Actions, Facts};
use crate::parse::chunks::may_trail;
use crate::parse::forwarding::{self, Forwarding};
use crate::parse::http::scan::ends_here;
use crate::parse::http::{BadRequest, TOO_MANY_FIELDS};
use crate::parse::target::{AuthorityError, Target};
use bytes::Bytes;
use h2::ext::Protocol;
use http::header::{CONTENT_LENGTH, COOKIE, DATE, EXPECT, GetAll, HOST, HeaderName, HeaderValue, MAX_FORWARDS, TRAILER, VIA};
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{HeaderMap, Method, Request, Response, StatusCode, request, response};
use policy_format::{Forwarded, Limits};
use tokio::time::Instant;
use zeroize::Zeroizing;

/// The one protocol that may be spoken in a stream (RFC 8441).
pub(super) const WEBSOCKET: &str = "websocket";

/// A request that has one reading.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) path: PathAndQuery,
    /// End-to-end fields; `Host` is said by `:authority`.
    pub(super) fields: HeaderMap,
    /// The stream becomes a WebSocket.
    pub(super) tunnels: bool,
    /// What it says of the length of its body.
    pub(super) length: Option<u64>,
    /// Nothing follows the head.
    pub(super) ended: bool,
    /// Of TRACE and OPTIONS: how many proxies it may still go through (RFC 9110, section 7.6.2).
    pub(super) max_forwards: Option<u64>,
    /// The client waits to be told to go on before it sends the body.
    pub(super) expects: bool,
}

/// An action that makes no field.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unfit;

const fn bad(message: &'static str) -> BadRequest {
    BadRequest { status: 400, message }
}

impl Head {
    /// Reads a request in a tunnel to `tunnel`. `ended`: nothing follows the head.
    ///
    /// # Errors
    /// [`BadRequest`] for what has no reading or more than one; 421 where it is for another host or port, 405 for CONNECT, 501 for what is no WebSocket.
    pub(super) fn read(request: request::Parts, ended: bool, tunnel: &Tunnel, limits: &Limits) -> Result<Self, BadRequest> {
        let request::Parts { method, uri, mut headers, extensions, .. } = request;
        let protocol = extensions.get::<Protocol>().map(Protocol::as_str);
        match protocol {
            None if method == Method::CONNECT => {
                return Err(BadRequest { status: 405, message: "there is no CONNECT inside of a tunnel" });
            }
            Some(protocol) if protocol != WEBSOCKET => {
                return Err(BadRequest { status: 501, message: "the only protocol that may be switched to is websocket" });
            }
            _ => {}
        }
        if uri.scheme().is_some_and(|scheme| *scheme != Scheme::HTTPS) {
            return Err(bad(":scheme is not https"));
        }
        check_authority(uri.authority().map(http::uri::Authority::as_str), headers.get_all(HOST), tunnel)?;
        let path = uri.into_parts().path_and_query.ok_or(bad(":path is missing"))?;
        check_path(&path, &method)?;
        if method.as_str().len() + path.as_str().len() > limits.request_line_bytes {
            return Err(BadRequest { status: 414, message: "the request line is too long" });
        }
        check_fields(&headers, limits)?;
        let length = content_length(&headers)?;
        if method == Method::TRACE {
            check_trace(&headers, ended)?;
        }
        let max_forwards = max_forwards(&method, &headers)?;
        let expects = headers.contains_key(EXPECT) && !ended;
        headers.remove(HOST);
        if max_forwards.is_some() {
            headers.remove(MAX_FORWARDS);
        }
        if ended {
            // Nobody waits to be told to go on (RFC 9110, section 10.1.1), and nothing trails.
            headers.remove(EXPECT);
            headers.remove(TRAILER);
        }
        remove(&mut headers, ends_here);
        Ok(Self { method, path, fields: headers, tunnels: protocol.is_some(), length, ended, max_forwards, expects })
    }

    /// What is decided on. `body` is the whole of it, where it was read.
    pub(super) fn with_facts<T>(&self, target: &Target, body: Option<&[u8]>, decide: impl FnOnce(&Facts<'_>) -> T) -> T {
        // Crumbs are one field, for whoever does not know HTTP/2 (RFC 9113, section 8.2.3).
        let mut crumbs = self.fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
        let cookie = match (crumbs.next(), crumbs.next()) {
            (Some(first), Some(second)) => [first, second].into_iter().chain(crumbs).collect::<Vec<_>>().join(&b"; "[..]),
            _ => Vec::new(),
        };
        let mut headers = Vec::with_capacity(self.fields.len() + 1);
        let joined = |name: &HeaderName| !cookie.is_empty() && *name == COOKIE;
        headers.extend(self.fields.iter().filter(|(name, _)| !joined(name)).map(|(name, value)| (name.as_str(), value.as_bytes())));
        if !cookie.is_empty() {
            headers.push((COOKIE.as_str(), cookie.as_slice()));
        }
        // What opens a WebSocket is a GET in HTTP/1.1, and is decided on as that.
        let method = if self.tunnels { Method::GET.as_str() } else { self.method.as_str() };
        decide(&Facts { target, method, path_and_query: self.path.as_str(), headers: &headers, body })
    }

    /// Whether it went through whoever calls itself that already.
    pub(super) fn went_through(&self, own: &str) -> bool {
        self.fields.get_all(VIA).iter().any(|value| forwarding::names(value.as_bytes(), own))
    }

    /// The request as it goes to the origin.
    ///
    /// # Errors
    /// [`Unfit`]: then nothing may be sent.
    pub(super) fn request(&self, tunnel: &Tunnel, forwarding: &Forwarding<'_>, actions: Actions) -> Result<Request<()>, Unfit> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = Some(tunnel.authority.clone());
        uri.path_and_query = Some(self.path.clone());
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from_parts(uri).map_err(|_| Unfit)?;
        if self.tunnels {
            request.extensions_mut().insert(Protocol::from_static(WEBSOCKET));
        }
        let fields = request.headers_mut();
        *fields = self.fields.clone();
        say_client(fields, forwarding)?;
        say_via(fields, forwarding)?;
        if let Some(left) = self.max_forwards {
            fields.insert(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
        }
        strip(fields, &actions.strip_request);
        for (name, value) in actions.set_request {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Unfit)?;
            // Whom the request is for, and where it ends, is not for anybody to say anew.
            if name == HOST || name == CONTENT_LENGTH {
                return Err(Unfit);
            }
            fields.insert(name, secret(value)?);
        }
        Ok(request)
    }
}

/// A value that no table remembers and that is overwritten when it is let go of.
fn secret(value: Zeroizing<Vec<u8>>) -> Result<HeaderValue, Unfit> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(value)).map_err(|_| Unfit)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The response as it goes to the client.
///
/// # Errors
/// What is wrong with it.
pub(super) fn response(
    head: response::Parts,
    forwarding: &Forwarding<'_>,
    without: &[String],
    limits: &Limits,
) -> Result<Response<()>, &'static str> {
    let response::Parts { status, headers: mut fields, .. } = head;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err("there is no 101 in HTTP/2");
    }
    if fields.len() > limits.head_fields {
        return Err(TOO_MANY_FIELDS);
    }
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        fields.remove(CONTENT_LENGTH);
    }
    // Where the origin has not said when it answered, whoever passes it on does (RFC 9110, section 6.6.1).
    if !status.is_informational() && !fields.contains_key(DATE) {
        fields.insert(DATE, http_date(Instant::now()));
    }
    remove(&mut fields, ends_here);
    strip(&mut fields, without);
    say_via(&mut fields, forwarding).map_err(|Unfit| "our own name is no field")?;
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    Ok(response)
}

/// Takes out what may not stand behind a body, and what was taken out in front of it.
pub(super) fn clean_trailers(fields: &mut HeaderMap, without: &[String]) {
    remove(fields, |name| !may_trail(name));
    strip(fields, without);
}

/// `:authority`, or `Host`, names the tunnel's host and port; where both are there, both do.
fn check_authority(authority: Option<&str>, hosts: GetAll<'_, HeaderValue>, tunnel: &Tunnel) -> Result<(), BadRequest> {
    let mut hosts = hosts.iter();
    let host = match (hosts.next(), hosts.next()) {
        (host, None) => host.map(|host| host.to_str().map_err(|_| bad("Host is not a host"))).transpose()?,
        _ => return Err(bad("more than one Host")),
    };
    match (authority, host) {
        (None, None) => Err(bad("neither :authority nor Host")),
        (None, Some(one)) | (Some(one), None) => names_the_tunnel(one, tunnel),
        (Some(authority), Some(host)) => {
            names_the_tunnel(authority, tunnel)?;
            names_the_tunnel(host, tunnel).map_err(|_| bad("Host and :authority disagree"))
        }
    }
}

fn names_the_tunnel(authority: &str, tunnel: &Tunnel) -> Result<(), BadRequest> {
    // As nearly everybody writes it.
    if authority == tunnel.authority.as_str() {
        return Ok(());
    }
    match Target::parse(authority, Some(443)) {
        Ok(target) if target == tunnel.target => Ok(()),
        Ok(_) => Err(BadRequest { status: 421, message: "the request is for another host or port than the tunnel" }),
        Err(AuthorityError::UserInfo) => Err(bad("user information in the target is not accepted")),
        Err(AuthorityError::Host | AuthorityError::Port) => Err(bad("the host is malformed")),
    }
}

fn check_path(path: &PathAndQuery, method: &Method) -> Result<(), BadRequest> {
    let path = path.as_str();
    let of_server = path == "*" && method == Method::OPTIONS;
    if !path.starts_with('/') && !of_server {
        return Err(bad(":path is not an absolute path"));
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad("the request target has characters that no target has"));
    }
    Ok(())
}

/// Fields of HTTP/1.1 that have no place here (RFC 9113, section 8.2.2), and those that two readers could read in two ways.
fn check_fields(fields: &HeaderMap, limits: &Limits) -> Result<(), BadRequest> {
    // Crumbs of one cookie count as one.
    let crumbs = fields.get_all(COOKIE).iter().count();
    if fields.len() - crumbs.saturating_sub(1) > limits.head_fields {
        return Err(BadRequest { status: 431, message: TOO_MANY_FIELDS });
    }
    // Once, and the one that there is: others are read in more than one way.
    let mut expected = fields.get_all(EXPECT).iter();
    let first = expected.next();
    if first.is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) || expected.next().is_some() {
        return Err(BadRequest { status: 417, message: "Expect is not 100-continue" });
    }
    for (name, value) in fields {
        match name.as_str() {
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => {
                return Err(bad("a field that has no place in HTTP/2"));
            }
            "te" if value != "trailers" => return Err(bad("TE has others than trailers")),
            // Gateways that turn names into variables cannot tell these from the real ones.
            "content_length" | "transfer_encoding" => return Err(bad("a header name that some read as one of framing")),
            _ => {}
        }
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value.as_bytes() {
            return Err(bad("a header value that begins or ends with white space"));
        }
    }
    Ok(())
}

/// Once, digits only, of one reading, and not more than everybody can count; `h2` sees to it that the body keeps to it.
fn content_length(fields: &HeaderMap) -> Result<Option<u64>, BadRequest> {
    let mut lengths = fields.get_all(CONTENT_LENGTH).iter();
    let length = match (lengths.next(), lengths.next()) {
        (None, _) => return Ok(None),
        (Some(length), None) => length.as_bytes(),
        _ => return Err(bad("more than one Content-Length")),
    };
    if matches!(length, [b'0', _, ..]) {
        return Err(bad("Content-Length has leading zeros"));
    }
    let digits = std::str::from_utf8(length).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse().ok()).filter(|length| *length <= i64::MAX as u64);
    number.map(Some).ok_or(bad("Content-Length is not a number"))
}

/// What a TRACE is answered with is what it was: no body, and nothing that whoever reads the answer must not see (RFC 9110, section 9.3.8).
fn check_trace(fields: &HeaderMap, ended: bool) -> Result<(), BadRequest> {
    match () {
        () if !ended => Err(bad("TRACE has no body")),
        () if fields.contains_key("authorization") || fields.contains_key(COOKIE) => Err(bad("TRACE carries credentials")),
        () => Ok(()),
    }
}

/// `Max-Forwards`, where it means something. What is too large to be counted is as good as the largest number.
fn max_forwards(method: &Method, fields: &HeaderMap) -> Result<Option<u64>, BadRequest> {
    if *method != Method::TRACE && *method != Method::OPTIONS {
        return Ok(None);
    }
    let mut values = fields.get_all(MAX_FORWARDS).iter().map(HeaderValue::as_bytes);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
            Ok(Some(std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX)))
        }
        _ => Err(bad("Max-Forwards is not a number")),
    }
}

/// Takes out all fields that `goes` says so of.
fn remove(fields: &mut HeaderMap, goes: impl Fn(&str) -> bool) {
    // Nearly always there are none.
    let gone: Vec<HeaderName> = fields.keys().filter(|name| goes(name.as_str())).cloned().collect();
    for name in gone {
        fields.remove(name);
    }
}

fn strip(fields: &mut HeaderMap, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let is_named = |field: &http::HeaderName| names.iter().any(|name| policy_format::same_header(name, field.as_str().as_bytes()));
    let gone: Vec<_> = fields.keys().filter(|field| is_named(field)).cloned().collect();
    for field in gone {
        fields.remove(field);
    }
}

/// Our entry in `Via`, behind those of others (RFC 9110, section 7.6.3).
fn say_via(fields: &mut HeaderMap, forwarding: &Forwarding<'_>) -> Result<(), Unfit> {
    if let Some(own) = forwarding.via {
        fields.append(VIA, HeaderValue::from_str(&format!("2.0 {own}")).map_err(|_| Unfit)?);
    }
    Ok(())
}

/// What is said of the client, as the policy has it.
fn say_client(fields: &mut HeaderMap, forwarding: &Forwarding<'_>) -> Result<(), Unfit> {
    let Some((name, client)) = forwarding.client_entry() else {
        if forwarding.forwarded == Forwarded::Strip {
            remove(fields, forwarding::tells_the_client);
        }
        return Ok(());
    };
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Unfit)?;
    let said = fields.get_all(&name).iter().map(HeaderValue::as_bytes).filter(|value| !value.is_empty());
    let list = said.chain([client.as_bytes()]).collect::<Vec<_>>().join(&b", "[..]);
    fields.insert(name, HeaderValue::from_bytes(&list).map_err(|_| Unfit)?);
    Ok(())
}
