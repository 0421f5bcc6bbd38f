//! Settings of a profile beyond its rules: limits, how names are looked up, what is looked at inside tunnels.
//!
//! Every setting has its default here, and nowhere else. A blob says only what is not the default.

use crate::audit::Audit;
use crate::credentials::{ClientCertificate, Credential, HookBody};
use crate::records::{Layer, Upstream};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// What a profile says beyond its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What happens when a tunnel speaks of another server than the one that it was opened for.
    pub sni: Sni,
    /// Whether requests and responses carry `Via` (RFC 9110, section 7.6.3).
    pub via: bool,
    /// Whether requests say whose they are.
    pub forwarded: Forwarded,
    /// Who is asked for addresses, in this order; the system's resolver if there is nobody.
    pub resolver: Vec<NameServer>,
    /// Proxies for some destinations, in this order; what none of them is for goes through [`Meta::upstream`](crate::Meta::upstream).
    pub upstream_rules: Vec<UpstreamRule>,
    /// What happens to open tunnels and exchanges that a new policy would not allow.
    pub on_revoke: OnRevoke,
    /// What peers may use up.
    pub limits: Limits,
    /// What hooks ask of bodies, sorted by the hook's name.
    pub hook_bodies: Vec<HookBody>,
    /// Whether hosts of [`Mitm::bypass`](crate::Mitm::bypass) stay closed even where only what reads may pass, or where rules ask for methods or paths: nobody sees then
    /// whether they hold.
    pub bypass_read_only: bool,
    /// Certificates for servers that ask for one, in this order.
    pub client_certificates: Vec<ClientCertificate>,
    /// Credentials of the broker beside those that it knows by itself, sorted by name.
    pub credentials: Vec<Credential>,
    /// What children get where the broker cannot run.
    pub broker_fallback: BrokerFallback,
    /// What is written down of decisions, and where.
    pub audit: Audit,
    /// What administrators hold, whatever weaker layers say; `None` where the policy does not tell. Nothing is decided by it: it is for whoever says what would change a decision,
    /// or may change it.
    pub constraints: Option<Constraints>,
}

/// What administrators hold of a profile: each with the strongest layer that does, `mdm` or `managed`; `None` where none does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Constraints {
    /// The mode stays limited.
    pub mode_required: Option<Layer>,
    /// [`Meta::allow_local_binding`](crate::Meta::allow_local_binding) stays off.
    pub local_binding_required: Option<Layer>,
    /// Only this layer, and those that are stronger, allow hosts: allow rules of weaker ones are ignored.
    pub managed_allows_only: Option<Layer>,
}

impl Constraints {
    /// What is held, as a requirement says it, and the layer that does.
    pub fn demands(&self) -> impl Iterator<Item = (&'static str, Layer)> {
        let Self { mode_required, local_binding_required, managed_allows_only } = *self;
        let all = [
            ("mode = \"limited\"", mode_required),
            ("allow_local_binding = false", local_binding_required),
            ("managed_allowed_domains_only = true", managed_allows_only),
        ];
        all.into_iter().filter_map(|(demand, layer)| Some((demand, layer?)))
    }

    /// The layer of a name, if it is one that may hold something.
    pub(crate) fn holder(name: &str) -> Option<Layer> {
        Layer::named(name).filter(|layer| layer.is_managed())
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sni: Sni::default(),
            via: true,
            forwarded: Forwarded::default(),
            resolver: Vec::new(),
            upstream_rules: Vec::new(),
            on_revoke: OnRevoke::default(),
            limits: Limits::default(),
            hook_bodies: Vec::new(),
            bypass_read_only: false,
            client_certificates: Vec::new(),
            credentials: Vec::new(),
            broker_fallback: BrokerFallback::default(),
            audit: Audit::default(),
            constraints: None,
        }
    }
}

/// What happens when the first bytes in a tunnel name a server: that of a TLS ClientHello (RFC 6066, section 3), or `Host` of plain HTTP to port 80.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sni {
    /// The policy has to allow that server too.
    #[default]
    Enforce,
    /// It is told to whoever observes.
    Log,
    /// Nothing is looked at.
    Off,
}

/// Whether requests say whose they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forwarded {
    /// What the client said of itself goes on as it is; nothing is added.
    #[default]
    Pass,
    /// What the client said is taken out.
    Strip,
    /// `X-Forwarded-For` gets the client's address.
    XForwardedFor,
    /// `Forwarded` gets the client's address (RFC 7239).
    Forwarded,
}

/// What happens to what a new policy would not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnRevoke {
    /// It is closed.
    #[default]
    Close,
    /// It may finish.
    Keep,
}

/// What children get in place of credentials where the broker cannot run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BrokerFallback {
    /// Nothing.
    #[default]
    None,
    /// The credentials themselves.
    Real,
}

macro_rules! named {
    ($($kind:ident { $($variant:ident = $name:literal),+ })+) => {$(
        impl $kind {
            /// All of them in their order, with the names that users type and read.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($name, Self::$variant)),+];
            /// Their names.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The one of that name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, found)| *found)
            }

            /// The name that users type and read.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }
    )+};
}
pub(crate) use named;

named! {
    Sni { Enforce = "enforce", Log = "log", Off = "off" }
    Forwarded { Pass = "pass", Strip = "strip", XForwardedFor = "x-forwarded-for", Forwarded = "forwarded" }
    OnRevoke { Close = "close", Keep = "keep" }
    BrokerFallback { None = "none", Real = "real" }
}

/// Who is asked for addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameServer {
    /// A DNS server, by UDP and TCP (RFC 1035).
    Dns(SocketAddr),
    /// DNS over HTTPS (RFC 8484), by an `https://` URL.
    Https(String),
}

impl NameServer {
    /// Reads what is shown of one: an address with a port, or an `https://` URL, of which no more is looked at.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        match text.starts_with("https://") {
            true => Some(Self::Https(text.to_owned())),
            false => text.parse().ok().map(Self::Dns),
        }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(address) => address.fmt(f),
            Self::Https(url) => f.write_str(url),
        }
    }
}

/// A proxy for some destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamRule {
    /// Destinations, as in [`Upstream::no_proxy`]: names, suffixes, addresses and networks, each with or without a port; `*` is all.
    pub hosts: Vec<String>,
    /// The proxy, which no destination of these goes around (its `no_proxy` is empty); `None` is a direct connection.
    pub proxy: Option<Upstream>,
}

/// How the value of a limit is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKind {
    /// Things.
    Count,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Time,
}

/// A limit: its name, its default and its bounds, in the unit of its kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Limit {
    /// The name that users type.
    pub name: &'static str,
    /// How its value is counted.
    pub kind: LimitKind,
    /// Its value where nothing is said.
    pub default: u64,
    /// The least that it may be. Where that is 0, 0 means that there is no limit.
    pub min: u64,
    /// The most that it may be.
    pub max: u64,
    /// What it bounds.
    pub doc: &'static str,
}

macro_rules! limits {
    (@type Time) => { Duration };
    (@type Count) => { usize };
    (@type Bytes) => { u64 };
    (@type Size) => { usize };
    (@read Time $value:expr) => { Duration::from_millis($value) };
    (@read Count $value:expr) => { usize::try_from($value).unwrap_or(usize::MAX) };
    (@read Bytes $value:expr) => { $value };
    (@read Size $value:expr) => { limits!(@read Count $value) };
    (@write Time $value:expr) => { u64::try_from($value.as_millis()).unwrap_or(u64::MAX) };
    (@write Count $value:expr) => { $value as u64 };
    (@write Bytes $value:expr) => { $value };
    (@write Size $value:expr) => { $value as u64 };
    (@kind Size) => { LimitKind::Bytes };
    (@kind $kind:ident) => { LimitKind::$kind };
    ($($name:ident: $kind:ident = $default:expr, $min:expr => $max:expr, $doc:literal;)+) => {
        /// What a peer may use up: bytes, time, counts. None can be switched off but those whose least value is 0.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Limits {
            $(#[doc = $doc] pub $name: limits!(@type $kind),)+
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: limits!(@read $kind $default)),+ }
            }
        }

        impl Limits {
            /// Every limit.
            pub const ALL: &'static [Limit] = &[$(Limit {
                name: stringify!($name), kind: limits!(@kind $kind), default: $default, min: $min, max: $max, doc: $doc,
            }),+];

            /// The value of a limit, in the unit of its kind; `None` for a name that no limit has.
            #[must_use]
            pub fn get(&self, name: &str) -> Option<u64> {
                match name {
                    $(stringify!($name) => Some(limits!(@write $kind self.$name)),)+
                    _ => None,
                }
            }

            /// Sets a limit; a value out of its bounds is brought into them. Does nothing for a name that no limit has.
            pub fn set(&mut self, name: &str, value: u64) {
                match name {
                    $(stringify!($name) => {
                        // Bounds are data: some begin at 0.
                        let value = value.clamp($min, $max);
                        self.$name = limits!(@read $kind value);
                    })+
                    _ => {}
                }
            }
        }
    };
}

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
pub(crate) const DAY: u64 = 24 * HOUR;
pub(crate) const KIB: u64 = 1 << 10;
const MANY: u64 = 1 << 24;

limits! {
    connections: Count = 16 * 1024, 1 => MANY, "Client connections at once, as far as there are descriptors for them and their upstreams. More wait in the listener's queue.";
    connections_per_client: Count = 16 * 1024, 1 => MANY, "Client connections at once from one address. More are closed. Where it is the default, at most three quarters of `connections`.";
    tunnels_per_host: Count = 16 * 1024, 1 => MANY, "Open tunnels at once to one host. More are refused.";
    request_line_bytes: Size = 16 * KIB, 64 => KIB * KIB, "Bytes of a request line.";
    head_bytes: Size = 64 * KIB, KIB => KIB * KIB, "Bytes of a request or response head, its first line included.";
    head_fields: Count = 128, 1 => 1024, "Header fields in a head.";
    head_timeout: Time = 30 * SECOND, 10 => DAY, "From accepting a connection, or from the first byte of a later request, to the end of its head or handshake.";
    look_bytes: Size = 16 * KIB, 512 => 64 * KIB, "Bytes at the beginning of a tunnel that are looked at to find the server's name.";
    look_timeout: Time = 10 * SECOND, 10 => HOUR, "From a client's first byte in a tunnel to the end of what is looked at.";
    tls_timeout: Time = 15 * SECOND, 10 => HOUR, "For a TLS handshake: from the answer to CONNECT or SOCKS5 to the end of the client's where a tunnel is opened to be read, and the same for the origin's.";
    keep_alive_timeout: Time = 75 * SECOND, 10 => DAY, "Between two requests on one connection.";
    resolve_timeout: Time = 10 * SECOND, 10 => HOUR, "For looking a name up.";
    connect_timeout: Time = 15 * SECOND, 10 => HOUR, "For connecting, all addresses of a name together.";
    response_timeout: Time = 15 * MINUTE, 10 => DAY, "From the end of a request, or the last piece of its body that was sent, to the head of its final response. Long, because long polls and model answers are.";
    idle_timeout: Time = 30 * MINUTE, 10 => DAY, "Without a byte in either direction, in a body or a tunnel.";
    tunnel_lifetime: Time = 7 * DAY, 10 => 365 * DAY, "Of a tunnel, however busy it is.";
    linger_timeout: Time = 2 * SECOND, 10 => MINUTE, "For a client to read why it was refused; for one that was answered while it was still sending, between two pieces of that, and 15 times as long in all.";
    interim_responses: Count = 32, 0 => 1024, "Interim (1xx) responses before the final one.";
    request_body_bytes: Bytes = 0, 0 => u64::MAX, "Bytes of a request's body. 0: no limit.";
    upload_bytes: Bytes = 0, 0 => u64::MAX, "Bytes that all clients together may send to one host within `upload_window`, in bodies, tunnels and datagrams. 0: no limit.";
    upload_window: Time = HOUR, SECOND => 30 * DAY, "Time over which `upload_bytes` are counted.";
    pool_connections: Count = 512, 0 => MANY, "Upstream connections that each thread keeps open for later requests, of each version of HTTP. The default is lowered where there are few descriptors. 0: none.";
    pool_connections_per_host: Count = 64, 0 => MANY, "The same for one host and port. 0: none.";
    pool_timeout: Time = MINUTE, 10 => DAY, "How long an upstream connection is kept open without a request.";
    lookups: Count = 64, 1 => 4096, "Lookups of names at once.";
    addresses: Count = 16, 1 => 256, "Addresses of a name that are tried.";
    cache_names: Count = 4096, 0 => MANY, "Names whose addresses are kept until their time to live ends. 0: none.";
    udp_associations: Count = 1024, 1 => MANY, "SOCKS5 clients that send datagrams at once.";
    udp_idle_timeout: Time = 2 * MINUTE, 10 => DAY, "Without a datagram, after which an association ends.";
}

/// Why the text of a limit is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LimitError(pub String);

impl Limit {
    /// The limit of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        Limits::ALL.iter().find(|limit| limit.name == name)
    }

    /// Reads a value: counts are digits; bytes may have `KiB`, `MiB`, `GiB`, `kB`, `MB` or `GB` behind them; times have `ms`, `s`, `m`, `h` or `d`, and are seconds without.
    ///
    /// # Errors
    /// [`LimitError`] for what is no number in this limit's unit, or out of its bounds.
    pub fn parse(&self, text: &str) -> Result<u64, LimitError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
        let wrong = || LimitError(format!("`{text}` is not {}", self.expected()));
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let units = self.units();
        let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?;
        let value = number.checked_mul(*factor).ok_or_else(wrong)?;
        if (self.min..=self.max).contains(&value) {
            Ok(value)
        } else {
            Err(LimitError(format!(
                "`{text}` is out of range: `{}` is from {} to {}",
                self.name,
                self.shown(self.min),
                self.shown(self.max)
            )))
        }
    }

    /// A value as it may be written.
    #[must_use]
    pub fn shown(&self, value: u64) -> String {
        // The largest unit that leaves no rest. Seconds are said, because a bare number reads as anything.
        let unit = self
            .units()
            .iter()
            .filter(|(name, factor)| !(self.kind == LimitKind::Time && name.is_empty()) && value.is_multiple_of(*factor));
        match unit.max_by_key(|(_, factor)| *factor) {
            Some((name, factor)) if value > 0 => format!("{}{name}", value / factor),
            _ => format!("{value}"),
        }
    }

    /// What its value is, in words.
    #[must_use]
    pub fn expected(&self) -> &'static str {
        match self.kind {
            LimitKind::Count => "a number",
            LimitKind::Bytes => "a number of bytes, such as `65536` or `64KiB`",
            LimitKind::Time => "a time, such as `500ms`, `30s` or `5m`",
        }
    }

    /// The units that may stand behind its value, and how much each is.
    #[must_use]
    pub fn units(&self) -> &'static [(&'static str, u64)] {
        match self.kind {
            LimitKind::Count => &[("", 1)],
            LimitKind::Bytes => &[
                ("", 1),
                ("kB", 1000),
                ("MB", 1_000_000),
                ("GB", 1_000_000_000),
                ("KiB", KIB),
                ("MiB", KIB * KIB),
                ("GiB", KIB * KIB * KIB),
            ],
            LimitKind::Time => &[("ms", 1), ("", SECOND), ("s", SECOND), ("m", MINUTE), ("h", HOUR), ("d", DAY)],
        }
    }
}

/// A limit that is set from outside the policy: `NAME=VALUE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitOverride {
    /// Which one.
    pub limit: &'static Limit,
    /// Its value, in the unit of its kind.
    pub value: u64,
}

impl FromStr for LimitOverride {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let (name, value) = text.split_once('=').ok_or_else(|| LimitError(format!("`{text}` is not `NAME=VALUE`")))?;
        let names = || Limits::ALL.iter().map(|limit| limit.name).collect::<Vec<_>>().join(", ");
        let limit = Limit::named(name).ok_or_else(|| LimitError(format!("there is no limit `{name}`; there are {}", names())))?;
        Ok(Self { limit, value: limit.parse(value)? })
    }
}

impl Limits {
    /// Puts other values in force.
    pub fn apply(&mut self, overrides: &[LimitOverride]) {
        for LimitOverride { limit, value } in overrides {
            self.set(limit.name, *value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_is_within_its_own_bounds_and_reads_what_it_shows() {
        let mut limits = Limits::default();
        for limit in Limits::ALL {
            assert!((limit.min..=limit.max).contains(&limit.default), "{}", limit.name);
            assert_eq!(limits.get(limit.name), Some(limit.default), "{}", limit.name);
            for value in [limit.min, limit.default, limit.max] {
                assert_eq!(limit.parse(&limit.shown(value)), Ok(value), "{}", limit.name);
                limits.set(limit.name, value);
                assert_eq!(limits.get(limit.name), Some(value), "{}", limit.name);
            }
        }
    }

    #[test]
    fn overrides_say_what_is_wrong_with_them() {
        let read = |text: &str| text.parse::<LimitOverride>().map(|found| found.value).map_err(|error| error.to_string());
        assert_eq!(read("connect_timeout=5s"), Ok(5000));
        assert_eq!(read("connect_timeout=5"), Ok(5000));
        assert_eq!(read("head_bytes=32KiB"), Ok(32 * 1024));
        assert_eq!(read("connect_timeout=5 parsecs"), Err("`5 parsecs` is not a time, such as `500ms`, `30s` or `5m`".into()));
        assert_eq!(read("connect_timeout=1ms"), Err("`1ms` is out of range: `connect_timeout` is from 10ms to 1h".into()));
        assert_eq!(
            read("head_bytes=99999999999999999999"),
            Err("`99999999999999999999` is not a number of bytes, such as `65536` or `64KiB`".into())
        );
        assert!(
            read("conect_timeout=5s").is_err_and(|error| error.starts_with("there is no limit `conect_timeout`; there are connections, "))
        );
        assert_eq!(read("5s"), Err("`5s` is not `NAME=VALUE`".into()));
    }
}
