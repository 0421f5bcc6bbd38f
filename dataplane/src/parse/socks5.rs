//! The SOCKS5 codec (RFC 1928, RFC 1929), free of sockets.
//!
//! ```text
//! client: 05 n method×n                       server: 05 method        00 none, 02 user name and password, ff nothing acceptable
//! client: 01 len name len password            server: 01 00            only after method 02
//! client: 05 command 00 type address port     server: 05 reply 00 type address port
//! ```
//!
//! Datagrams, which follow UDP ASSOCIATE, are in [`socks5_udp`](super::socks5_udp).

use super::target::Target;
use policy_format::Host;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First byte of everything in SOCKS5.
pub const VERSION: u8 = 5;
/// First byte of everything in SOCKS4.
pub const VERSION_4: u8 = 4;
/// The answer to SOCKS4: request rejected.
pub const SOCKS4_REJECTED: [u8; 8] = [0, 0x5b, 0, 0, 0, 0, 0, 0];
/// The answer to a greeting with no method that is offered here.
pub const NO_METHOD: [u8; 2] = [VERSION, 0xff];

/// How a client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    None,
    /// With a user name and a password.
    Password,
}

/// A reply code (RFC 1928, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    /// The upstream stands.
    Succeeded = 0,
    /// Something else went wrong.
    Failure = 1,
    /// The policy does not allow it.
    NotAllowed = 2,
    /// There is no way to the network.
    NetworkUnreachable = 3,
    /// The host cannot be reached, or there is no such name.
    HostUnreachable = 4,
    /// The host refused.
    Refused = 5,
    /// Nobody answered in time. The code is called "TTL expired"; no other is for time-outs, and clients show it as one.
    TimedOut = 6,
    /// Another command than CONNECT, and than UDP ASSOCIATE where the policy has it on.
    CommandNotSupported = 7,
    /// An address type that does not exist.
    AddressNotSupported = 8,
}

/// A message that needs no more bytes, or more bytes, or no answer but an error.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The message, and how many bytes it had.
    Complete(T, usize),
    /// More bytes are needed.
    More,
    /// Nothing sensible can follow.
    Malformed,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "taken apart where it is read; a box would be one more allocation for each connection")]
pub enum Request {
    /// CONNECT: a tunnel.
    Connect(Target),
    /// UDP ASSOCIATE. Which address the client says it will send from is not read: most do not know it, and those behind an address translator are wrong.
    Associate,
}

/// Reads a greeting and chooses a method; `None` when none is acceptable.
#[must_use]
pub fn parse_greeting(bytes: &[u8]) -> Parsed<Option<Method>> {
    match bytes {
        [VERSION, count, rest @ ..] => {
            let count = usize::from(*count);
            let Some(methods) = rest.get(..count) else { return Parsed::More };
            let method = if methods.contains(&0) {
                Some(Method::None)
            } else if methods.contains(&2) {
                Some(Method::Password)
            } else {
                None
            };
            Parsed::Complete(method, 2 + count)
        }
        [] | [VERSION] => Parsed::More,
        _ => Parsed::Malformed,
    }
}

/// The answer to a greeting.
#[must_use]
pub fn greeting_reply(method: Method) -> [u8; 2] {
    [VERSION, if method == Method::None { 0 } else { 2 }]
}

/// Reads a user name and a password, and forgets them: there are none to compare with, and clients that are given some insist on sending them.
#[must_use]
pub fn parse_password(bytes: &[u8]) -> Parsed<()> {
    let [version, name_len, rest @ ..] = bytes else {
        return if bytes.first().is_none_or(|version| *version == 1) { Parsed::More } else { Parsed::Malformed };
    };
    if *version != 1 {
        return Parsed::Malformed;
    }
    let name_len = usize::from(*name_len);
    let Some(password_len) = rest.get(name_len) else { return Parsed::More };
    let total = 3 + name_len + usize::from(*password_len);
    if bytes.len() < total { Parsed::More } else { Parsed::Complete((), total) }
}

/// The answer to any user name and password.
pub const PASSWORD_ACCEPTED: [u8; 2] = [1, 0];

/// Reads a request, or the reply that it gets at once.
#[must_use]
pub fn parse_request(bytes: &[u8]) -> Parsed<Result<Request, Reply>> {
    let (command, rest) = match bytes {
        [VERSION, command, _reserved, rest @ ..] => (*command, rest),
        [] | [VERSION, ..] => return Parsed::More,
        _ => return Parsed::Malformed,
    };
    let address = match address(rest) {
        Address::Whole(address) => address,
        Address::More => return Parsed::More,
        // How long the address is nobody knows: answer now.
        Address::Unknown => return Parsed::Complete(Err(Reply::AddressNotSupported), bytes.len()),
    };
    let request = match command {
        // No such name and no such port: nothing that could be reached.
        1 => target(address).map(Request::Connect).ok_or(Reply::Failure),
        3 => Ok(Request::Associate),
        _ => Err(Reply::CommandNotSupported),
    };
    Parsed::Complete(request, 3 + address.len())
}

/// The type, the address and the port at the beginning of some bytes.
pub(super) enum Address<'a> {
    Whole(&'a [u8]),
    More,
    /// No such type.
    Unknown,
}

pub(super) fn address(bytes: &[u8]) -> Address<'_> {
    let len = match bytes {
        [1, ..] => 1 + 4 + 2,
        [3, len, ..] => 1 + 1 + usize::from(*len) + 2,
        [4, ..] => 1 + 16 + 2,
        [] | [3] => return Address::More,
        _ => return Address::Unknown,
    };
    bytes.get(..len).map_or(Address::More, Address::Whole)
}

/// What an address leads to, if anything could be there.
pub(super) fn target(address: &[u8]) -> Option<Target> {
    let (kind, rest) = address.split_first()?;
    let (host, port) = rest.split_last_chunk::<2>()?;
    let host = match kind {
        1 => Host::Ip(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(host).ok()?))),
        4 => Host::Ip(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(host).ok()?))),
        _ => Host::parse(std::str::from_utf8(host.get(1..)?).ok()?).ok()?,
    };
    let port = u16::from_be_bytes(*port);
    (port > 0).then_some(Target { host, port })
}

/// A reply. The bound address is not told: nobody needs it, and it would tell of the network behind.
#[must_use]
pub fn reply(code: Reply) -> [u8; 10] {
    [VERSION, code as u8, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// The reply to UDP ASSOCIATE: where datagrams are to be sent.
#[must_use]
pub fn associated(relay: SocketAddr) -> Vec<u8> {
    // Laid out as the header of a datagram, but for the first byte.
    let mut reply = super::socks5_udp::Header::from(relay).as_bytes().to_vec();
    if let Some(version) = reply.first_mut() {
        *version = VERSION;
    }
    reply
}

/// Where a server wants datagrams, of the address in its reply to UDP ASSOCIATE; `None` for a name, and for port 0.
pub(crate) fn relay(address: &[u8]) -> Option<SocketAddr> {
    match target(address)? {
        Target { host: Host::Ip(ip), port } => Some(SocketAddr::new(ip, port)),
        Target { host: Host::Name(_) | Host::NumericLookalike(_), .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_the_method_that_asks_least() {
        assert_eq!(parse_greeting(&[5, 2, 2, 0]), Parsed::Complete(Some(Method::None), 4));
        assert_eq!(parse_greeting(&[5, 1, 2, 9]), Parsed::Complete(Some(Method::Password), 3));
        assert_eq!(parse_greeting(&[5, 1, 1]), Parsed::Complete(None, 3));
        assert_eq!(parse_greeting(&[5, 0]), Parsed::Complete(None, 2));
        assert_eq!(parse_greeting(&[5, 2, 0]), Parsed::More);
        assert_eq!(parse_greeting(&[4, 1]), Parsed::Malformed);
    }

    #[test]
    fn reads_requests_in_every_address_type() {
        let name = |text: &str| [&[5, 1, 0, 3, u8::try_from(text.len()).unwrap()], text.as_bytes(), &[1, 187]].concat();
        let shown = |bytes: &[u8]| match parse_request(bytes) {
            Parsed::Complete(Ok(Request::Connect(target)), used) => format!("{target} {used}"),
            other => format!("{other:?}"),
        };
        assert_eq!(shown(&[5, 1, 0, 1, 127, 0, 0, 1, 0, 80]), "127.0.0.1:80 10");
        assert_eq!(shown(&name("Example.com.")), "example.com:443 19");
        assert_eq!(shown(&name("127.0.0.1")), "127.0.0.1:443 16");
        assert_eq!(shown(&name("::1")), "[::1]:443 10");
        assert_eq!(shown(&[&[5, 1, 0, 4][..], &[0; 15], &[1, 0, 80]].concat()), "[::1]:80 22");
        assert_eq!(shown(&name("")), "Complete(Err(Failure), 7)");
        assert_eq!(shown(&name("a b")), "Complete(Err(Failure), 10)");
        assert_eq!(shown(&[5, 1, 0, 1, 127, 0, 0, 1, 0, 0]), "Complete(Err(Failure), 10)");
        assert_eq!(shown(&[5, 2, 0, 1, 127, 0, 0, 1, 0, 80]), "Complete(Err(CommandNotSupported), 10)");
        for (declared, used) in [(&[1, 0, 0, 0, 0, 0, 0][..], 10), (&[1, 127, 0, 0, 1, 9, 9], 10), (&[3, 0, 0, 0], 7), (&[4; 19], 22)] {
            assert_eq!(shown(&[&[5, 3, 0], declared].concat()), format!("Complete(Ok(Associate), {used})"));
        }
        assert_eq!(shown(&[5, 3, 0, 2]), "Complete(Err(AddressNotSupported), 4)");
        assert_eq!(shown(&[5, 1, 0, 2, 1]), "Complete(Err(AddressNotSupported), 5)");
        assert_eq!(shown(&[4, 1, 0, 80]), "Malformed");
        let whole = name("example.com");
        for len in 0..whole.len() {
            assert_eq!(parse_request(&whole[..len]), Parsed::More, "{len}");
        }
    }

    #[test]
    fn says_where_datagrams_are_to_be_sent() {
        assert_eq!(associated("127.0.0.1:258".parse().unwrap()), [5, 0, 0, 1, 127, 0, 0, 1, 1, 2]);
        assert_eq!(associated("[::1]:258".parse().unwrap()), [&[5, 0, 0, 4][..], &[0; 15], &[1, 1, 2]].concat());
    }

    #[test]
    fn reads_where_a_server_wants_datagrams() {
        let cases: [(&[u8], Option<&str>); 8] = [
            (&[1, 192, 0, 2, 7, 1, 2], Some("192.0.2.7:258")),
            (&[1, 0, 0, 0, 0, 1, 2], Some("0.0.0.0:258")),
            (&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2], Some("[::1]:258")),
            (b"\x03\x0910.0.0.12\x01\x02", Some("10.0.0.12:258")),
            (b"\x03\x06a.test\x01\x02", None),
            (b"\x03\x00\x01\x02", None),
            (&[1, 192, 0, 2, 7, 0, 0], None),
            (&[], None),
        ];
        for (address, expected) in cases {
            assert_eq!(relay(address), expected.map(|text| text.parse().unwrap()), "{address:?}");
        }
    }

    #[test]
    fn reads_and_forgets_passwords() {
        assert_eq!(parse_password(&[1, 1, b'u', 2, b'p', b'q', 5]), Parsed::Complete((), 6));
        assert_eq!(parse_password(&[1, 0, 0]), Parsed::Complete((), 3));
        assert_eq!(parse_password(&[1, 5, b'u']), Parsed::More);
        assert_eq!(parse_password(&[5, 1]), Parsed::Malformed);
        assert_eq!(parse_password(&[]), Parsed::More);
    }
}
