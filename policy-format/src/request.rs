//! `Request`: everything that a decision may depend on.

use crate::host::Host;
use crate::records::ProfileId;
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
    /// With which method; only for [`Protocol::Http`]. Methods are case-sensitive (RFC 9110, section 9.1).
    pub method: Option<&'a str>,
    /// The path, without the query; only for [`Protocol::Http`].
    pub path: Option<&'a str>,
    /// The addresses that the host was resolved to; empty as long as it was not. A name is resolved only after its request
    /// was allowed without addresses, and then asked about again with them.
    pub addresses: &'a [IpAddr],
}

impl<'a> Request<'a> {
    /// A tunnel by CONNECT, under the first profile, to a host that was not resolved.
    #[must_use]
    pub fn connect(host: &'a Host, port: u16) -> Self {
        Self { profile: ProfileId::default(), protocol: Protocol::Connect, host, port, method: None, path: None, addresses: &[] }
    }
}

/// How a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// A plain HTTP request, whose method can be read.
    Http,
    /// CONNECT: a tunnel.
    Connect,
    /// SOCKS5 CONNECT: a tunnel.
    Socks5Tcp,
    /// A SOCKS5 datagram.
    Socks5Udp,
}

impl Protocol {
    /// The name used in replies and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Connect => "https_connect",
            Self::Socks5Tcp => "socks5_tcp",
            Self::Socks5Udp => "socks5_udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
