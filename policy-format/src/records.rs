//! Cold records, as postcard: settings, and where rules come from.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What applies to every request, and what the data plane needs to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Name of the permission profile that was compiled.
    pub profile: String,
    /// Whether the network is proxied, blocked or direct.
    pub network: Network,
    /// Full or read-only.
    pub mode: Mode,
    /// Whether addresses that are not public are open (cloud metadata services excepted).
    pub allow_local_binding: bool,
    /// Where to listen.
    pub listeners: Listeners,
    /// Whether the proxy listeners may be on other than loopback addresses.
    pub dangerously_allow_non_loopback_proxy: bool,
    /// Whether the admin listener may be on other than loopback addresses. The compiler writes `false` only: that needs a token, which no reader can check yet.
    pub dangerously_allow_non_loopback_admin: bool,
}

/// What the policy says of the network as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// Through the proxy, by the rules.
    Proxied,
    /// Switched off: nothing may leave.
    Blocked,
    /// Not this program's business: clients connect directly.
    Direct,
}

/// What methods may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// All of them.
    Full,
    /// GET, HEAD and OPTIONS.
    Limited,
}

/// Listening addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listeners {
    /// HTTP proxy.
    pub http: SocketAddr,
    /// SOCKS5 proxy, unless it is off.
    pub socks: Option<SocketAddr>,
    /// Admin API.
    pub admin: SocketAddr,
}

impl Default for Listeners {
    fn default() -> Self {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self { http: loopback(3128), socks: Some(loopback(8081)), admin: loopback(8080) }
    }
}

/// A file, or another place, that rules come from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Source {
    /// The layer that it is.
    pub layer: Layer,
    /// Its name without its folder, so that blobs do not depend on where they were made.
    pub label: String,
}

/// The layers of a policy, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Layer {
    /// Device management.
    Mdm,
    /// The machine's administrator.
    Managed,
    /// The command line.
    Cli,
    /// The user.
    User,
    /// The project.
    Project,
}

impl Layer {
    /// The name that users type and read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mdm => "mdm",
            Self::Managed => "managed",
            Self::Cli => "cli",
            Self::User => "user",
            Self::Project => "project",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Mode {
    /// The name that users type and read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Limited => "limited",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proxied => "proxied",
            Self::Blocked => "blocked",
            Self::Direct => "direct",
        })
    }
}
