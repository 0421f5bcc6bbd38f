//! `Request`: everything that a decision may depend on.

use crate::host::Host;
use crate::records::ProfileId;
use crate::settings::named;
use std::fmt;
use std::net::IpAddr;

/// A question to a policy.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Under which of the policy's profiles.
    pub profile: ProfileId,
    /// How the client asks.
    pub protocol: Protocol,
    /// Where it wants to go.
    pub host: &'a Host,
    /// To which port.
    pub port: u16,
    /// With which method; only for [`Protocol::Http`] and [`Protocol::Https`]. Methods are case-sensitive (RFC 9110, section 9.1).
    pub method: Option<&'a str>,
    /// The path, without the query; only for [`Protocol::Http`] and [`Protocol::Https`].
    pub path: Option<&'a str>,
    /// The addresses that the host was resolved to; empty as long as it was not. A name is resolved only after its request
    /// was allowed without addresses, and then asked about again with them.
    pub addresses: &'a [IpAddr],
    /// What hooks look at beside method and path; only for [`Protocol::Https`]. Without it a hook that asks for any of it does not match.
    pub inside: Option<Inside<'a>>,
    /// Whether whoever asks can open TLS, and will put each request inside to the policy again.
    pub can_intercept: bool,
}

/// What a request inside TLS says beside its method and its path.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inside<'a> {
    /// The query, without its `?`; `None` where there is none.
    pub query: Option<&'a str>,
    /// The header fields in their order: names in lower case, values without the blanks around them.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The whole body as it was sent; `None` where it was not read, or not to its end. See [`Blob::body_wanted`](crate::Blob::body_wanted).
    pub body: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    /// A tunnel by CONNECT, under the first profile, to a host that was not resolved, from somebody who does not open TLS.
    #[must_use]
    pub fn connect(host: &'a Host, port: u16) -> Self {
        Self {
            profile: ProfileId::default(),
            protocol: Protocol::Connect,
            host,
            port,
            method: None,
            path: None,
            addresses: &[],
            inside: None,
            can_intercept: false,
        }
    }
}

/// How a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// A plain HTTP request, whose method can be read.
    Http,
    /// A request that was read inside TLS, which was opened here.
    Https,
    /// CONNECT: a tunnel.
    Connect,
    /// SOCKS5 CONNECT: a tunnel.
    Socks5Tcp,
    /// A SOCKS5 datagram.
    Socks5Udp,
}

impl Protocol {
    /// Whether its method and its path can be read.
    #[must_use]
    pub fn is_read(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

// The names are those in replies and events, too.
named! {
    Protocol { Http = "http", Https = "https", Connect = "https_connect", Socks5Tcp = "socks5_tcp", Socks5Udp = "socks5_udp" }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables have a place for each, by its number.
    #[test]
    fn protocols_are_listed_in_the_order_of_their_numbers() {
        for (number, (name, protocol)) in Protocol::ALL.iter().enumerate() {
            assert_eq!((*protocol as usize, protocol.as_str(), Protocol::named(name)), (number, *name, Some(*protocol)));
        }
    }
}
