//! Cold records, as postcard: settings, and where rules come from.

use crate::settings::named;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Bytes that each of the sections in postcard may have: records in memory take more than their bytes do.
pub(crate) const MAX_RECORDS: usize = 16 << 20;

/// Profiles that a blob may have.
pub const MAX_PROFILES: usize = 64;

/// Number of a profile within its blob. The first is the one that is meant where none is named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileId(pub u8);

/// A set of profiles of a blob: bit *n* is set if the profile with number *n* is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Profiles(pub u64);

impl Profiles {
    /// Only this one; no profile for a number that no blob has.
    #[must_use]
    pub fn only(profile: ProfileId) -> Self {
        Self(1_u64.checked_shl(u32::from(profile.0)).unwrap_or(0))
    }

    /// Whether a profile is among them.
    #[must_use]
    pub fn has(self, profile: ProfileId) -> bool {
        self.0 & Self::only(profile).0 != 0
    }

    /// These, and the others too.
    #[must_use]
    pub fn union(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

impl Default for Profiles {
    /// The first one.
    fn default() -> Self {
        Self::only(ProfileId::default())
    }
}

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
    /// Whether the admin listener may be on other than loopback addresses; it then needs a token too.
    pub dangerously_allow_non_loopback_admin: bool,
    /// Whether SOCKS5 clients may send datagrams (UDP ASSOCIATE).
    pub enable_socks5_udp: bool,
    /// Whether connections may go through another proxy: [`Self::upstream`], or what the environment names.
    pub allow_upstream_proxy: bool,
    /// The proxy that connections go through, if the policy names one.
    pub upstream: Option<Upstream>,
    /// Which unix sockets may be reached.
    pub unix_sockets: UnixSockets,
    /// TLS interception.
    pub mitm: Mitm,
    /// Whether children get stand-ins for their credentials, which the proxy replaces on the way out.
    pub credential_broker: bool,
    /// Whether the broker may also put credentials into requests that are not encrypted.
    pub dangerously_allow_plaintext_credential_injection: bool,
}

impl Default for Meta {
    /// What a network table says that says nothing but `enabled = true`.
    fn default() -> Self {
        Self {
            profile: String::new(),
            network: Network::Proxied,
            mode: Mode::Full,
            allow_local_binding: false,
            listeners: Listeners::default(),
            dangerously_allow_non_loopback_proxy: false,
            dangerously_allow_non_loopback_admin: false,
            enable_socks5_udp: false,
            allow_upstream_proxy: true,
            upstream: None,
            unix_sockets: UnixSockets::default(),
            mitm: Mitm::default(),
            credential_broker: false,
            dangerously_allow_plaintext_credential_injection: false,
        }
    }
}

/// A proxy that connections go through.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// `http://`, `https://`, `socks5://` (names resolved here) or `socks5h://` (resolved there), with its host, port and perhaps `user:password@`.
    pub url: String,
    /// Hosts that are reached without it: names, suffixes, addresses and networks, each with or without a port.
    pub no_proxy: Vec<String>,
}

impl Upstream {
    /// The URL without its user and password, for people and logs.
    #[must_use]
    pub fn shown(&self) -> String {
        crate::url::without_user(&self.url)
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("url", &self.shown()).field("no_proxy", &self.no_proxy).finish()
    }
}

/// Which unix sockets may be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixSockets {
    /// Absolute paths, sorted.
    pub allow: Vec<String>,
    /// All of them.
    pub dangerously_allow_all: bool,
    /// Absolute paths, sorted, each once: what they lead to stays closed, by whatever path it is asked for. They are in a section of their own, since the record of 1.0
    /// has no place for them.
    #[serde(skip)]
    pub deny: Vec<String>,
}

impl UnixSockets {
    /// Whether any may be reached. Listeners are then loopback, whatever else is said.
    #[must_use]
    pub fn any(&self) -> bool {
        self.dangerously_allow_all || !self.allow.is_empty()
    }
}

/// TLS interception.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mitm {
    /// When TLS is opened.
    pub mode: MitmMode,
    /// Patterns of hosts whose TLS stays closed, although it would be opened otherwise.
    pub bypass: Vec<String>,
    /// Certificate of the authority, as PEM; made in memory when there is none.
    pub ca_cert_path: Option<String>,
    /// Its private key, as PEM.
    pub ca_key_path: Option<String>,
    /// Bytes that a body may have at most so that a hook that looks at it matches; `None` leaves that to each hook.
    pub max_body_bytes: Option<u64>,
}

/// When TLS is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MitmMode {
    /// Where a rule, a hook or the mode needs to see inside.
    #[default]
    Auto,
    /// Everywhere.
    Always,
}

impl MitmMode {
    /// The name that users type and read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
        }
    }
}

/// Hooks that a policy may have.
pub const MAX_HOOKS: usize = 1024;

/// What happens to requests of a host inside TLS. A host that has hooks passes only what one of them matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// Its name.
    pub name: String,
    /// The hosts, as a pattern: a name, `*.name`, `**.name`, an address or a network.
    pub host: String,
    /// Methods, upper case.
    pub methods: Vec<String>,
    /// Paths: prefixes, or globs after `pattern:`; `literal:` escapes.
    pub path_prefixes: Vec<String>,
    /// Query fields and the values that each may have.
    pub query: Vec<(String, Vec<String>)>,
    /// Headers, lower case, and the values that each may have; no value means any.
    pub headers: Vec<(String, Vec<String>)>,
    /// Headers to take out of requests, lower case.
    pub strip_request_headers: Vec<String>,
    /// Headers to put into requests.
    pub inject_request_headers: Vec<InjectedHeader>,
    /// Headers to take out of responses, lower case.
    pub strip_response_headers: Vec<String>,
    /// Where it stands.
    pub source: Source,
    /// In which line, from 1.
    pub line: u32,
    /// Which profiles have it.
    pub profiles: Profiles,
}

/// A header to put into requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InjectedHeader {
    /// Its name, lower case.
    pub name: String,
    /// What its value is.
    pub secret: Secret,
    /// What stands before the value, such as `Bearer `.
    pub prefix: String,
}

/// Where a secret is. The secret itself is never in a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Secret {
    /// In an environment variable of the data plane.
    Env(String),
    /// In a file, by its absolute path.
    File(String),
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
    /// Whether it is an administrator's: one that users do not write.
    #[must_use]
    pub fn is_managed(self) -> bool {
        self <= Self::Managed
    }
}

named! {
    Layer { Mdm = "mdm", Managed = "managed", Cli = "cli", User = "user", Project = "project" }
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
