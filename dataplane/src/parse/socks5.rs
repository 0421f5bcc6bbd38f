//! The SOCKS5 codec (RFC 1928, RFC 1929), free of sockets.
//!
//! ```text
//! client: 05 n method×n                       server: 05 method        00 none, 02 user name and password, ff nothing acceptable
//! client: 01 len name len password            server: 01 00            only after method 02
//! client: 05 command 00 type address port     server: 05 reply 00 01 0.0.0.0 0
//! ```

use super::target::Target;
use policy_format::Host;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// The host cannot be reached, or there is no such name.
    HostUnreachable = 4,
    /// The host refused.
    Refused = 5,
    /// Another command than CONNECT.
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

/// A request to connect, or the reply that it gets at once.
pub type Request = Result<Target, Reply>;

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

/// Reads a request.
#[must_use]
pub fn parse_request(bytes: &[u8]) -> Parsed<Request> {
    let (command, kind, rest) = match bytes {
        [VERSION, command, _reserved, kind, rest @ ..] => (*command, *kind, rest),
        [] => return Parsed::More,
        [VERSION, ..] => return Parsed::More,
        _ => return Parsed::Malformed,
    };
    let address_len = match kind {
        1 => 4,
        3 => match rest.first() {
            Some(len) => 1 + usize::from(*len),
            None => return Parsed::More,
        },
        4 => 16,
        // How long the address is nobody knows: answer now.
        _ => return Parsed::Complete(Err(Reply::AddressNotSupported), bytes.len()),
    };
    let (Some(address), Some([high, low])) = (rest.get(..address_len), rest.get(address_len..address_len + 2)) else { return Parsed::More };
    let total = 4 + address_len + 2;
    let port = u16::from_be_bytes([*high, *low]);
    if command != 1 {
        return Parsed::Complete(Err(Reply::CommandNotSupported), total);
    }
    let host = match kind {
        1 => <[u8; 4]>::try_from(address).ok().map(|octets| Host::Ip(IpAddr::V4(Ipv4Addr::from(octets)))),
        4 => <[u8; 16]>::try_from(address).ok().map(|octets| Host::Ip(IpAddr::V6(Ipv6Addr::from(octets)))),
        _ => address.get(1..).and_then(|name| std::str::from_utf8(name).ok()).and_then(|name| Host::parse(name).ok()),
    };
    let target = match (host, port) {
        (Some(host), 1..) => Ok(Target { host, port }),
        // No such name and no such port: nothing that could be reached.
        _ => Err(Reply::Failure),
    };
    Parsed::Complete(target, total)
}

/// A reply. The bound address is not told: nobody needs it, and it would tell of the network behind.
#[must_use]
pub fn reply(code: Reply) -> [u8; 10] {
    [VERSION, code as u8, 0, 1, 0, 0, 0, 0, 0, 0]
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
            Parsed::Complete(Ok(target), used) => format!("{target} {used}"),
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
        assert_eq!(shown(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]), "Complete(Err(CommandNotSupported), 10)");
        assert_eq!(shown(&[5, 1, 0, 2, 1]), "Complete(Err(AddressNotSupported), 5)");
        assert_eq!(shown(&[4, 1, 0, 80]), "Malformed");
        let whole = name("example.com");
        for len in 0..whole.len() {
            assert_eq!(parse_request(&whole[..len]), Parsed::More, "{len}");
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
