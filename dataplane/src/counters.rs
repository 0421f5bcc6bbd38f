//! What is counted, and how it is shown: Prometheus' text format 0.0.4.
//!
//! A counter is a line of the table below. Threads count on shards of their own, which are added up when somebody asks, so that counting costs no more than an
//! addition to memory that is near.

use crate::audit::event::Dropped;
use crate::connect::UpstreamError;
use crate::connect::chain::ProxyError;
use policy_format::{Limit, Limits, Protocol, Reason};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Threads that do not share a shard, if there are no more than these.
const SHARDS: usize = 16;

/// How a metric's values move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Up.
    Counter,
    /// Up and down.
    Gauge,
}

/// A metric with its samples: a counter, and what tells it from the others.
struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: &'static [(Counter, &'static str)],
}

macro_rules! counters {
    ($($kind:ident $family:literal, $help:literal { $($counter:ident = $labels:literal),+ })+) => {
        /// Something that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Counter {
            $($($counter),+),+
        }

        impl Counter {
            const COUNT: usize = [$($(Self::$counter),+),+].len();
        }

        const FAMILIES: &[Family] = &[$(
            Family { name: $family, kind: Kind::$kind, help: $help, samples: &[$((Counter::$counter, $labels)),+] }
        ),+];
    };
}

counters! {
    Counter "netproxy_connections_total", "Client connections accepted." { HttpConnections = r#"listener="http""#, SocksConnections = r#"listener="socks5""# }
    Gauge "netproxy_connections_open", "Client connections that are open." { ConnectionsOpen = "" }
    Counter "netproxy_accept_errors_total", "Connections that could not be accepted." { AcceptErrors = "" }
    Counter "netproxy_accept_pauses_total", "Times that accepting paused because descriptors or memory had run out." { AcceptPauses = "" }
    Counter "netproxy_requests_total", "Requests that could be read." {
        HttpRequests = r#"protocol="http""#, HttpsRequests = r#"protocol="https""#, ConnectRequests = r#"protocol="connect""#, SocksRequests = r#"protocol="socks5""#
    }
    Counter "netproxy_bad_requests_total", "Requests that could not." { BadHttpRequests = r#"protocol="http""#, BadSocksRequests = r#"protocol="socks5""# }
    Counter "netproxy_decisions_total", "Decisions, by reason where they were denials." {
        Allowed = r#"decision="allow""#,
        ProxyDisabled = r#"decision="deny",reason="proxy_disabled""#,
        Denied = r#"decision="deny",reason="denied""#,
        NotAllowedLocal = r#"decision="deny",reason="not_allowed_local""#,
        NotAllowed = r#"decision="deny",reason="not_allowed""#,
        MethodNotAllowed = r#"decision="deny",reason="method_not_allowed""#,
        MitmRequired = r#"decision="deny",reason="mitm_required""#,
        MitmHookDenied = r#"decision="deny",reason="mitm_hook_denied""#,
        PolicyDenied = r#"decision="deny",reason="policy_denied""#
    }
    Counter "netproxy_upstream_connections_total", "Upstream connections that were opened, or used again." {
        UpstreamOpened = r#"how="opened""#, UpstreamReused = r#"how="reused""#
    }
    Counter "netproxy_upstream_failures_total", "Requests that were allowed and failed upstream, by `x-proxy-error`; all of upstream proxies together, and all of TLS." {
        NameNotResolved = r#"error="upstream-name-not-resolved""#,
        NameServerFailed = r#"error="upstream-name-server-failed""#,
        ResolveTimeout = r#"error="upstream-resolve-timeout""#,
        Refused = r#"error="upstream-refused""#,
        Unreachable = r#"error="upstream-unreachable""#,
        ConnectTimeout = r#"error="upstream-connect-timeout""#,
        ResponseTimeout = r#"error="upstream-response-timeout""#,
        UpstreamClosed = r#"error="upstream-closed""#,
        BadResponse = r#"error="upstream-bad-response""#,
        SocketMissing = r#"error="upstream-socket-missing""#,
        NotASocket = r#"error="upstream-not-a-socket""#,
        AtProxy = r#"error="upstream-proxy""#,
        OriginTls = r#"error="upstream-tls""#
    }
    Counter "netproxy_tunnels_total", "Tunnels opened, those of protocols that were switched to included." { Tunnels = "" }
    Gauge "netproxy_tunnels_open", "Tunnels that are open." { TunnelsOpen = "" }
    Counter "netproxy_tunnels_revoked_total", "Tunnels closed because a new policy does not allow them." { TunnelsRevoked = "" }
    Counter "netproxy_tunnels_looked_total", "Tunnels whose first bytes speak of a server that the policy does not allow, or cannot be made out." {
        LookedClosed = r#"outcome="closed""#, LookedPassed = r#"outcome="passed""#
    }
    Counter "netproxy_intercepted_total", "Tunnels that have to be read: opened, or closed because what the client sends is no TLS, or for another server." {
        Intercepted = r#"outcome="opened""#, InterceptedClosed = r#"outcome="closed""#
    }
    Counter "netproxy_tls_handshakes_total", "TLS handshakes of tunnels that are read, by the side and how they ended." {
        ClientHandshakes = r#"side="client",outcome="done""#,
        ClientHandshakesFailed = r#"side="client",outcome="failed""#,
        OriginHandshakes = r#"side="origin",outcome="done""#,
        OriginHandshakesFailed = r#"side="origin",outcome="failed""#
    }
    Counter "netproxy_associations_total", "SOCKS5 clients that were let send datagrams." { Associations = "" }
    Counter "netproxy_datagrams_dropped_total", "Datagrams of SOCKS5 clients, or to them, that went no further." {
        DatagramMalformed = r#"reason="malformed""#,
        DatagramFragment = r#"reason="fragment""#,
        DatagramStranger = r#"reason="stranger""#,
        DatagramDenied = r#"reason="denied""#,
        DatagramProxied = r#"reason="proxied""#,
        DatagramNotResolved = r#"reason="not_resolved""#,
        DatagramBusy = r#"reason="busy""#,
        DatagramNotSent = r#"reason="not_sent""#,
        DatagramNotAsked = r#"reason="not_asked""#
    }
    Counter "netproxy_bytes_total", "Bytes of bodies and tunnels, from clients (up) and to them (down)." { BytesUp = r#"direction="up""#, BytesDown = r#"direction="down""# }
}

impl Counter {
    /// That of a denial.
    pub(crate) fn denied(reason: Reason) -> Self {
        match reason {
            Reason::ProxyDisabled => Self::ProxyDisabled,
            Reason::Denied => Self::Denied,
            Reason::NotAllowedLocal => Self::NotAllowedLocal,
            Reason::NotAllowed => Self::NotAllowed,
            Reason::MethodNotAllowed => Self::MethodNotAllowed,
            Reason::MitmRequired => Self::MitmRequired,
            Reason::MitmHookDenied => Self::MitmHookDenied,
            Reason::PolicyDenied => Self::PolicyDenied,
        }
    }

    /// That of a datagram that was dropped.
    pub(crate) fn dropped(why: Dropped) -> Self {
        match why {
            Dropped::Malformed => Self::DatagramMalformed,
            Dropped::Fragment => Self::DatagramFragment,
            Dropped::Stranger => Self::DatagramStranger,
            Dropped::Denied => Self::DatagramDenied,
            Dropped::Proxied => Self::DatagramProxied,
            Dropped::NotResolved => Self::DatagramNotResolved,
            Dropped::Busy => Self::DatagramBusy,
            Dropped::NotSent => Self::DatagramNotSent,
            Dropped::NotAsked => Self::DatagramNotAsked,
        }
    }

    /// That of a request; datagrams are none.
    pub(crate) fn requests(protocol: Protocol) -> Option<Self> {
        match protocol {
            Protocol::Http => Some(Self::HttpRequests),
            Protocol::Https => Some(Self::HttpsRequests),
            Protocol::Connect => Some(Self::ConnectRequests),
            Protocol::Socks5Tcp => Some(Self::SocksRequests),
            Protocol::Socks5Udp => None,
        }
    }
}

/// Which limit was reached: its place in [`Limits::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached(usize);

/// The place of a limit, found when this is compiled; a name that no limit has does not compile.
macro_rules! reached {
    ($name:ident) => {
        const { $crate::counters::Reached::named(stringify!($name)) }
    };
}
pub(crate) use reached;

impl Reached {
    pub(crate) const fn named(name: &str) -> Self {
        let mut place = 0;
        let mut all = Limits::ALL;
        while let [limit, rest @ ..] = all {
            if is_same(limit.name.as_bytes(), name.as_bytes()) {
                return Self(place);
            }
            all = rest;
            place += 1;
        }
        assert!(place < Limits::ALL.len(), "no limit has this name");
        Self(place)
    }
}

impl Reached {
    /// The limit itself.
    pub(crate) fn limit(self) -> Option<&'static Limit> {
        Limits::ALL.get(self.0)
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        self.limit().map_or("", |limit| limit.name)
    }
}

/// `==` of slices is no constant function.
const fn is_same(mut one: &[u8], mut other: &[u8]) -> bool {
    while let ([a, rest @ ..], [b, others @ ..]) = (one, other) {
        if *a != *b {
            return false;
        }
        (one, other) = (rest, others);
    }
    one.is_empty() && other.is_empty()
}

/// All counters of a server.
pub(crate) struct Counters {
    shards: [Shard; SHARDS],
}

/// On cache lines of its own, pairs of which some processors load together.
#[repr(align(128))]
struct Shard {
    values: [AtomicU64; Counter::COUNT],
    limited: [AtomicU64; Limits::ALL.len()],
}

/// One more of something for as long as this lives.
pub(crate) struct Held {
    counters: Arc<Counters>,
    gauge: Counter,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.counters.move_by(self.gauge, 1_u64.wrapping_neg());
    }
}

/// Which shard the calling thread counts on.
fn shard() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static SHARD: usize = THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS);
    // A thread that is ending counts too.
    SHARD.try_with(|shard| *shard).unwrap_or_default()
}

impl Counters {
    pub(crate) fn new() -> Arc<Self> {
        let zeros = || Shard { values: std::array::from_fn(|_| AtomicU64::new(0)), limited: std::array::from_fn(|_| AtomicU64::new(0)) };
        Arc::new(Self { shards: std::array::from_fn(|_| zeros()) })
    }

    /// One more.
    pub(crate) fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// That many more.
    pub(crate) fn add(&self, counter: Counter, n: usize) {
        self.move_by(counter, n as u64);
    }

    /// One more until what this gives is dropped.
    pub(crate) fn hold(self: &Arc<Self>, gauge: Counter) -> Held {
        self.move_by(gauge, 1);
        Held { counters: Arc::clone(self), gauge }
    }

    /// A limit was reached. [`Gate::reached`](crate::limits::Gate::reached) also says so.
    pub(crate) fn limited(&self, reached: Reached) {
        let value = self.shards.get(shard()).and_then(|shard| shard.limited.get(reached.0));
        value.map(|value| value.fetch_add(1, Ordering::Relaxed));
    }

    /// A request that was allowed failed upstream; gives the limit that it failed by, if by one.
    pub(crate) fn upstream_failed(&self, error: UpstreamError) -> Option<Reached> {
        let (counter, reached) = match error {
            UpstreamError::NameNotResolved => (Counter::NameNotResolved, None),
            UpstreamError::NameServerFailed => (Counter::NameServerFailed, None),
            UpstreamError::ResolveTimeout => (Counter::ResolveTimeout, Some(reached!(resolve_timeout))),
            UpstreamError::Refused => (Counter::Refused, None),
            UpstreamError::Unreachable | UpstreamError::NetworkUnreachable => (Counter::Unreachable, None),
            UpstreamError::ConnectTimeout => (Counter::ConnectTimeout, Some(reached!(connect_timeout))),
            UpstreamError::ResponseTimeout => (Counter::ResponseTimeout, Some(reached!(response_timeout))),
            UpstreamError::Closed => (Counter::UpstreamClosed, None),
            UpstreamError::BadResponse => (Counter::BadResponse, None),
            UpstreamError::SocketMissing => (Counter::SocketMissing, None),
            UpstreamError::NotASocket => (Counter::NotASocket, None),
            UpstreamError::Proxy(ProxyError::Timeout) => (Counter::AtProxy, Some(reached!(connect_timeout))),
            UpstreamError::Proxy(_) => (Counter::AtProxy, None),
            UpstreamError::TlsTimeout => (Counter::OriginTls, Some(reached!(tls_timeout))),
            UpstreamError::Tls(_) => (Counter::OriginTls, None),
        };
        self.count(counter);
        reached
    }

    /// Gauges go down by going up past zero: only the sum of all shards means something.
    fn move_by(&self, counter: Counter, n: u64) {
        let value = self.shards.get(shard()).and_then(|shard| shard.values.get(counter as usize));
        value.map(|value| value.fetch_add(n, Ordering::Relaxed));
    }

    fn sum(&self, of: impl Fn(&Shard) -> Option<&AtomicU64>) -> u64 {
        self.shards.iter().filter_map(of).fold(0, |sum, value| sum.wrapping_add(value.load(Ordering::Relaxed)))
    }

    /// All of them, as Prometheus reads them.
    pub(crate) fn text(&self) -> String {
        let mut out = String::with_capacity(8 * 1024);
        for family in FAMILIES {
            header(&mut out, family.name, family.kind, family.help);
            for (counter, labels) in family.samples {
                sample(&mut out, family.name, labels, self.sum(|shard| shard.values.get(*counter as usize)));
            }
        }
        let name = "netproxy_limited_total";
        header(&mut out, name, Kind::Counter, "Times that a limit was reached: somebody waited, was refused or was cut off.");
        for (place, limit) in Limits::ALL.iter().enumerate() {
            let labels = format!("limit=\"{}\"", limit.name);
            sample(&mut out, name, &labels, self.sum(|shard| shard.limited.get(place)));
        }
        out
    }
}

/// A gauge of one value that is known elsewhere.
pub(crate) fn gauge(out: &mut String, name: &str, help: &str, value: u64) {
    header(out, name, Kind::Gauge, help);
    sample(out, name, "", value);
}

fn header(out: &mut String, name: &str, kind: Kind, help: &str) {
    let kind = if kind == Kind::Counter { "counter" } else { "gauge" };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(out: &mut String, name: &str, labels: &str, value: u64) {
    let _ = if labels.is_empty() { writeln!(out, "{name} {value}") } else { writeln!(out, "{name}{{{labels}}} {value}") };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(counters: &Counters, sample: &str) -> Option<u64> {
        let text = counters.text();
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok())
    }

    #[test]
    fn what_is_counted_on_one_thread_is_seen_from_another() {
        let counters = Counters::new();
        let held = counters.hold(Counter::TunnelsOpen);
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    counters.add(Counter::BytesUp, 5);
                    counters.limited(reached!(head_timeout));
                });
            }
            // A gauge may go down on another thread than it went up on.
            scope.spawn(move || drop(held));
        });
        assert_eq!(value(&counters, "netproxy_bytes_total{direction=\"up\"}"), Some(200));
        assert_eq!(value(&counters, "netproxy_limited_total{limit=\"head_timeout\"}"), Some(40));
        assert_eq!(value(&counters, "netproxy_tunnels_open"), Some(0));
    }

    #[test]
    fn every_counter_has_a_sample_of_its_own_and_every_limit_one() {
        let text = Counters::new().text();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let distinct: std::collections::HashSet<&str> = samples.iter().copied().collect();
        assert_eq!((samples.len(), distinct.len()), (Counter::COUNT + Limits::ALL.len(), samples.len()));
        assert!(samples.iter().all(|line| line.ends_with(" 0")), "{text}");
        for reason in Reason::ALL {
            let counters = Counters::new();
            counters.count(Counter::denied(reason));
            let sample = format!("netproxy_decisions_total{{decision=\"deny\",reason=\"{}\"}}", reason.as_str());
            assert_eq!(value(&counters, &sample), Some(1));
        }
    }
}
