//! What the fields of a head say about the message itself, and which of them go on.

use super::{BadRequest, FEW, Fields, bad, parse_length, trim};
use crate::parse::forwarding;

/// What a field is to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Host,
    Length,
    Coding,
    /// Gateways that turn names into variables cannot tell these from the real ones.
    LikeFraming,
    /// `Proxy-Connection` is what clients from before RFC 7230 say instead.
    Connection,
    Upgrade,
    Te,
    UnixSocket,
    /// Others for this connection or for this proxy.
    Hop,
    Via,
    Date,
    /// Credentials or a challenge, which may be for the connection.
    Auth,
    Expect,
    MaxForwards,
    Trailer,
    /// It has to do with whose the request is.
    Client,
    Other,
}

impl Kind {
    fn of(name: &str) -> Self {
        // Few names have the same length and first letter, so that nearly none is compared.
        let named: &[(&str, Self)] = match (name.len(), name.as_bytes().first().map_or(0, u8::to_ascii_lowercase)) {
            (2, b't') => &[("te", Self::Te)],
            (3, b'v') => &[("via", Self::Via)],
            (4, b'h') => &[("host", Self::Host)],
            (4, b'd') => &[("date", Self::Date)],
            (6, b'e') => &[("expect", Self::Expect)],
            (7, b'u') => &[("upgrade", Self::Upgrade)],
            (7, b't') => &[("trailer", Self::Trailer)],
            (10, b'c') => &[("connection", Self::Connection)],
            (10, b'k') => &[("keep-alive", Self::Hop)],
            (12, b'm') => &[("max-forwards", Self::MaxForwards)],
            (13, b'a') => &[("authorization", Self::Auth)],
            (13, b'x') => &[("x-unix-socket", Self::UnixSocket)],
            (14, b'c') => &[("content-length", Self::Length), ("content_length", Self::LikeFraming)],
            (14, b'h') => &[("http2-settings", Self::Hop)],
            (16, b'p') => &[("proxy-connection", Self::Connection)],
            (16, b'w') => &[("www-authenticate", Self::Auth)],
            (17, b't') => &[("transfer-encoding", Self::Coding), ("transfer_encoding", Self::LikeFraming)],
            _ => &[],
        };
        if let Some((_, kind)) = named.iter().find(|(known, _)| same(name.as_bytes(), known.as_bytes())) {
            return *kind;
        }
        match () {
            () if is_proxys_own(name) => Self::Hop,
            () if forwarding::tells_the_client(name) => Self::Client,
            () => Self::Other,
        }
    }

    /// Whether a field is for one connection or for this proxy, in every version of HTTP.
    fn ends_here(self) -> bool {
        matches!(self, Self::Connection | Self::Hop | Self::Coding | Self::Upgrade | Self::UnixSocket)
    }
}

/// Whether a field of that name is for one connection, or for this proxy; `TE` apart, which HTTP/2 has too.
pub(crate) fn ends_here(name: &str) -> bool {
    Kind::of(name).ends_here()
}

/// Whether a name is one that is known, but for the case of its letters. Of up to 24 bytes, the first, the middle and the last eight are all.
fn same(name: &[u8], known: &[u8]) -> bool {
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes);
    let Some(last) = known.len().checked_sub(8).filter(|_| name.len() == known.len()) else { return name.eq_ignore_ascii_case(known) };
    // Letters differ by this bit from their capitals; what differs so from a hyphen, a digit or an underscore is a control character, which is in no name.
    const CASE: u64 = u64::from_le_bytes([0x20; 8]);
    let differs = |at: usize| (word(name, at) ^ word(known, at)) & !CASE;
    let same = differs(0) | differs(last / 2) | differs(last) == 0;
    debug_assert!(known.len() <= 24 && same == name.eq_ignore_ascii_case(known));
    same
}

fn is_proxys_own(name: &str) -> bool {
    name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("proxy")) && matches!(name.as_bytes().get(5), None | Some(b'-'))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    None,
    Chunked,
    /// Others, and chunked at the end.
    Other,
    /// The end of the body cannot be told (RFC 9112, section 6.3).
    Endless,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Origin,
    /// The same, and the client sends its whole request without asking: it has no body, or is of HTTP/1.0.
    OriginAtOnce,
    Client,
    /// The response has no content, so that a length on it would lie.
    ClientWithoutLength,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    Request,
    Response,
    /// A response behind which a tunnel begins, and no body.
    Tunnel,
}

/// What the fields say about the message itself.
pub(super) struct Scan<'h> {
    pub(super) host: Option<&'h [u8]>,
    pub(super) hosts: usize,
    pub(super) length: Option<u64>,
    pub(super) coding: Coding,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    wants_upgrade: bool,
    upgrade: Vec<&'h [u8]>,
    pub(super) unix_socket: Option<&'h [u8]>,
    pub(super) has_via: bool,
    pub(super) has_date: bool,
    pub(super) binds_connection: bool,
    pub(super) expect: bool,
    /// `TE` has `trailers`.
    pub(super) trailers: bool,
    /// There are fields that say whose the request is.
    tells_the_client: bool,
    /// How many options `Connection` has.
    options: usize,
    /// Fields that `Connection` names: they end here (RFC 9110, section 7.6.1).
    nominated: Vec<&'h [u8]>,
    /// `Max-Forwards` is read, and written anew.
    pub(super) counts_forwards: bool,
    /// What the first fields are.
    kinds: [Kind; FEW],
}

impl<'h> Scan<'h> {
    pub(super) fn new(headers: &[httparse::Header<'h>], of: Message) -> Result<Self, BadRequest> {
        let mut scan = Self {
            host: None,
            hosts: 0,
            length: None,
            coding: Coding::None,
            close: false,
            keep_alive: false,
            wants_upgrade: false,
            upgrade: Vec::new(),
            unix_socket: None,
            has_via: false,
            has_date: false,
            binds_connection: false,
            expect: false,
            trailers: false,
            tells_the_client: false,
            options: 0,
            nominated: Vec::new(),
            counts_forwards: false,
            kinds: [Kind::Other; FEW],
        };
        for (at, header) in headers.iter().enumerate() {
            let (value, kind) = (trim(header.value), Kind::of(header.name));
            if let Some(known) = scan.kinds.get_mut(at) {
                *known = kind;
            }
            match kind {
                // Whatever they say, there is nothing that they could be about (RFC 9110, section 9.3.6).
                Kind::Length | Kind::Coding if of == Message::Tunnel => {}
                Kind::Host => {
                    scan.host = Some(value);
                    scan.hosts += 1;
                }
                Kind::Length => {
                    // Not even twice the same: what one reader folds, another does not.
                    if scan.length.replace(parse_length(value)?).is_some() {
                        return Err(bad("more than one Content-Length"));
                    }
                }
                Kind::Coding => {
                    if scan.coding != Coding::None {
                        return Err(bad("more than one Transfer-Encoding"));
                    }
                    scan.coding = coding(value);
                }
                Kind::LikeFraming if of == Message::Request => {
                    return Err(bad("a header name that some read as one of framing"));
                }
                Kind::Connection => scan.connection(value)?,
                Kind::Upgrade => scan.upgrade.push(value),
                Kind::UnixSocket => {
                    if scan.unix_socket.replace(value).is_some() {
                        return Err(bad("more than one x-unix-socket"));
                    }
                }
                Kind::Via => scan.has_via = true,
                Kind::Date => scan.has_date = true,
                Kind::Auth => scan.binds_connection |= binds_connection(value),
                Kind::Te => {
                    scan.trailers |= value.split(|byte| *byte == b',').any(|coding| trim(coding).eq_ignore_ascii_case(b"trailers"));
                }
                Kind::Expect if of == Message::Request => {
                    // Once, and the one that there is: others are read in more than one way.
                    if scan.expect || !value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(BadRequest { status: 417, message: "Expect is not 100-continue" });
                    }
                    scan.expect = true;
                }
                Kind::Client => scan.tells_the_client = true,
                Kind::Hop | Kind::MaxForwards | Kind::Trailer | Kind::Expect | Kind::LikeFraming | Kind::Other => {}
            }
        }
        Ok(scan)
    }

    /// Every `Connection` line counts, and all of its options.
    fn connection(&mut self, value: &'h [u8]) -> Result<(), BadRequest> {
        for option in value.split(|byte| *byte == b',').map(trim).filter(|option| !option.is_empty()) {
            self.options += 1;
            if self.options > MAX_OPTIONS {
                return Err(bad("Connection names too many fields"));
            }
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            if is("close") {
                self.close = true;
            } else if is("keep-alive") {
                self.keep_alive = true;
            } else if is("upgrade") {
                self.wants_upgrade = true;
            } else if END_TO_END.iter().any(|name| is(name)) {
                return Err(bad("Connection names a field that is not for one connection"));
            } else {
                self.nominated.push(option);
            }
        }
        Ok(())
    }

    /// The protocols to switch to; several lines are one list (RFC 9110, section 5.3). Another HTTP, such as `h2c`, is not offered on, and nothing that stands beside it: its requests could
    /// not be decided one by one. Nor is a list that is longer than anybody's, which is held against another one.
    pub(super) fn upgrade(&self) -> Option<Vec<u8>> {
        if !self.wants_upgrade || self.upgrade.is_empty() {
            return None;
        }
        let all = self.upgrade.iter().flat_map(|line| line.split(|byte| *byte == b',')).map(trim).filter(|name| !name.is_empty());
        let names: Vec<&[u8]> = all.take(MAX_PROTOCOLS + 1).collect();
        let starts =
            |name: &[u8], prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()));
        let is_http = names.iter().any(|name| starts(name, "h2") || starts(name, "http"));
        (!is_http && (1..=MAX_PROTOCOLS).contains(&names.len())).then(|| names.join(&b", "[..]))
    }

    /// Whether `Connection` names a field.
    pub(super) fn nominates(&self, name: &str) -> bool {
        self.nominated.iter().any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// The end-to-end fields, without those that are for this connection or for this proxy. `capacity`: how long the head is, which they hardly exceed.
    pub(super) fn fields(&self, headers: &[httparse::Header<'_>], direction: Direction, capacity: usize) -> Fields {
        let to_origin = matches!(direction, Direction::Origin | Direction::OriginAtOnce);
        let goes_on = |header: &httparse::Header<'_>, kind| {
            let ends_here = match kind {
                Kind::Te => true,
                Kind::Host | Kind::Client => to_origin,
                Kind::Expect => direction == Direction::OriginAtOnce,
                Kind::MaxForwards => self.counts_forwards,
                Kind::Length => direction == Direction::ClientWithoutLength,
                // Those that are announced can only come behind chunks.
                Kind::Trailer => self.coding != Coding::Chunked,
                other => other.ends_here(),
            };
            !(ends_here || self.nominates(header.name))
        };
        self.lines(headers, capacity, goes_on)
    }

    /// The fields that say whose the request is, without those that `Connection` names.
    pub(super) fn said(&self, headers: &[httparse::Header<'_>], capacity: usize) -> Fields {
        if !self.tells_the_client {
            return Fields(Vec::new());
        }
        self.lines(headers, capacity, |header, kind| kind == Kind::Client && !self.nominates(header.name))
    }

    /// The fields that `goes_on` says so of, as lines.
    fn lines(&self, headers: &[httparse::Header<'_>], capacity: usize, goes_on: impl Fn(&httparse::Header<'_>, Kind) -> bool) -> Fields {
        let mut out = Vec::new();
        for (at, header) in headers.iter().enumerate() {
            let kind = self.kinds.get(at).copied().unwrap_or_else(|| Kind::of(header.name));
            if !goes_on(header, kind) {
                continue;
            }
            if out.capacity() == 0 {
                out = Vec::with_capacity(capacity.min(MAX_RESERVED));
            }
            out.extend_from_slice(header.name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(trim(header.value));
            out.extend_from_slice(b"\r\n");
        }
        Fields(out)
    }
}

/// Bytes that a head's fields get before they are there: what is left out of a long head does not hold memory for as long as its exchange takes.
const MAX_RESERVED: usize = 4096;

/// Fields that are for all recipients, whatever `Connection` says of them: taken out, they would leave another message (RFC 9110, section 7.6.1).
pub(in crate::parse) const END_TO_END: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "content-type",
    "content-encoding",
    "content-range",
    "authorization",
    "cookie",
    "set-cookie",
    "expect",
    "max-forwards",
    "range",
    "via",
    "cache-control",
];

/// What a transfer coding says of the end of the body. `chunked` is last, and only once.
fn coding(value: &[u8]) -> Coding {
    let chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    if chunked(value) {
        return Coding::Chunked;
    }
    let codings = || value.split(|byte| *byte == b',').map(trim);
    let ends = codings().next_back().is_some_and(chunked) && codings().filter(|coding| chunked(coding)).count() == 1;
    if ends && codings().all(|coding| !coding.is_empty()) { Coding::Other } else { Coding::Endless }
}

/// Protocols that may be offered, or chosen.
const MAX_PROTOCOLS: usize = 16;
/// Options of `Connection` in a head; each is compared with each field.
const MAX_OPTIONS: usize = 64;

/// Whether credentials or a challenge are of a scheme that authenticates the connection (RFC 4559, section 6; NTLM does the same).
fn binds_connection(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').map(trim).any(|one| {
        let scheme = |name: &str| one.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()));
        scheme("ntlm") || scheme("negotiate")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_known_however_they_are_written_and_by_their_whole_names_only() {
        let known = [
            ("host", Kind::Host),
            ("content-length", Kind::Length),
            ("transfer-encoding", Kind::Coding),
            ("content_length", Kind::LikeFraming),
            ("transfer_encoding", Kind::LikeFraming),
            ("connection", Kind::Connection),
            ("proxy-connection", Kind::Connection),
            ("upgrade", Kind::Upgrade),
            ("te", Kind::Te),
            ("x-unix-socket", Kind::UnixSocket),
            ("keep-alive", Kind::Hop),
            ("http2-settings", Kind::Hop),
            ("proxy", Kind::Hop),
            ("proxy-authorization", Kind::Hop),
            ("proxy-authenticate", Kind::Hop),
            ("proxy-status", Kind::Hop),
            ("via", Kind::Via),
            ("date", Kind::Date),
            ("authorization", Kind::Auth),
            ("www-authenticate", Kind::Auth),
            ("expect", Kind::Expect),
            ("max-forwards", Kind::MaxForwards),
            ("trailer", Kind::Trailer),
            ("forwarded", Kind::Client),
            ("x-forwarded-for", Kind::Client),
            ("x-real-ip", Kind::Client),
            ("x-client-ip", Kind::Client),
            ("x-cluster-client-ip", Kind::Client),
            ("client-ip", Kind::Client),
            ("true-client-ip", Kind::Client),
            ("proxyid", Kind::Other),
            ("content-type", Kind::Other),
        ];
        for (name, kind) in known {
            let capitals = name.to_ascii_uppercase();
            assert_eq!((Kind::of(name), Kind::of(&capitals)), (kind, kind), "{name}");
            let (longer, shorter) = (format!("a{name}"), name.split_at(1).1);
            assert_eq!((Kind::of(&longer), Kind::of(shorter)), (Kind::Other, Kind::Other), "{name}");
            // Every byte counts.
            for (at, byte) in (0..name.len()).flat_map(|at| (b'!'..=b'~').map(move |byte| (at, byte))).filter(|(_, byte)| *byte != b':') {
                let mut other = name.as_bytes().to_vec();
                other[at] = byte;
                assert_eq!(same(&other, name.as_bytes()), other.eq_ignore_ascii_case(name.as_bytes()), "{name} {at} {byte}");
            }
        }
    }
}
