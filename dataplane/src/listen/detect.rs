//! First byte to protocol: what is spoken to a listener, whether or not it is what belongs there.

use super::Service;
use crate::parse::socks5;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http,
    Socks5,
    Socks4,
    Tls,
    Other,
}

/// Every protocol here tells itself by its first byte.
pub(crate) fn spoken(first: u8) -> Spoken {
    match first {
        socks5::VERSION => Spoken::Socks5,
        socks5::VERSION_4 => Spoken::Socks4,
        // The record type of a ClientHello (RFC 8446, section 5.1).
        0x16 => Spoken::Tls,
        // A method is a token (RFC 9110, section 5.6.2), and a CR LF may stand before it.
        b'\r' | b'\n' | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~' => {
            Spoken::Http
        }
        _ => Spoken::Other,
    }
}

/// What is said to a client that speaks the wrong protocol to a listener; `None` when it is the right one.
pub(crate) fn mismatch(service: Service, spoken: Spoken) -> Option<Mismatch> {
    match (service, spoken) {
        (Service::Http, Spoken::Http) | (Service::Socks5, Spoken::Socks5) => None,
        (Service::Http, Spoken::Socks5) => Some(Mismatch::Bytes(&socks5::NO_METHOD)),
        (_, Spoken::Socks4) => Some(Mismatch::Bytes(&socks5::SOCKS4_REJECTED)),
        (Service::Socks5, Spoken::Http) => Some(Mismatch::Text("this is the SOCKS5 listener; HTTP clients use the HTTP listener")),
        (_, Spoken::Tls) => {
            Some(Mismatch::Text("this listener speaks plain HTTP or SOCKS5, not TLS; write the proxy's URL with http:// or socks5://"))
        }
        (Service::Http, Spoken::Other) => Some(Mismatch::Text("this is not HTTP")),
        (Service::Socks5, Spoken::Other) => Some(Mismatch::Silence),
    }
}

/// How it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// In the client's own protocol.
    Bytes(&'static [u8]),
    /// As a 400 that says it.
    Text(&'static str),
    /// Not at all.
    Silence,
}
