//! What is counted and timed, and how it is shown.
//!
//! A counter is a line of the table below, a time one of that in `histogram.rs`. Threads count on shards of their own, which are added up when somebody asks, so that
//! counting costs no more than an addition to memory that is near, and asking holds up nobody. `text.rs` has the formats.

mod audit;
mod histogram;
#[cfg(target_os = "linux")]
mod process;
mod text;

pub(crate) use histogram::Timed;
pub(crate) use text::{Format, Kind, Page};

use crate::audit::event::{Answer, Closed, Decided, Dropped, Ending, Reload};
use crate::audit::hub::Hub;
use crate::connect::UpstreamError;
use crate::connect::chain::ProxyError;
use crate::policy::PolicyHandle;
use histogram::{Sum, Times};
use policy_format::{Decision, Limit, Limits, Mode, Protocol, Reason};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Threads that do not share a shard, if there are no more than these.
const SHARDS: usize = 16;

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
        HttpRequests = r#"protocol="http""#,
        HttpsRequests = r#"protocol="https""#,
        ConnectRequests = r#"protocol="https_connect""#,
        SocksRequests = r#"protocol="socks5_tcp""#
    }
    Counter "netproxy_bad_requests_total", "Requests that could not." { BadHttpRequests = r#"protocol="http""#, BadSocksRequests = r#"protocol="socks5""# }
    Counter "netproxy_decider_answers_total", "Answers of the embedding program, where it is asked; `timeout` is its silence." {
        DeciderAllowed = r#"answer="allow""#,
        DeciderDenied = r#"answer="deny""#,
        DeciderAsks = r#"answer="ask""#,
        DeciderSilent = r#"answer="timeout""#
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
    Counter "netproxy_tunnels_total", "Tunnels opened, by how they were asked for: those of `http` and `https` are of protocols that were switched to." {
        HttpTunnels = r#"protocol="http""#,
        HttpsTunnels = r#"protocol="https""#,
        ConnectTunnels = r#"protocol="https_connect""#,
        SocksTunnels = r#"protocol="socks5_tcp""#
    }
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
    Gauge "netproxy_pool_idle_connections", "Upstream connections that wait for a request." { PoolIdle = r#"protocol="http/1.1""#, PoolIdleHttp2 = r#"protocol="h2""# }
    Counter "netproxy_pool_lookups_total", "Looks for an upstream connection that waits, and what was found." { PoolHits = r#"result="hit""#, PoolMisses = r#"result="miss""# }
    Counter "netproxy_pool_evictions_total", "Upstream connections that waited, or would have: not kept for want of room, closed after `pool_timeout`, or by the origin." {
        PoolFull = r#"reason="full""#, PoolExpired = r#"reason="expired""#, PoolClosed = r#"reason="closed""#
    }
    Counter "netproxy_dns_cache_lookups_total", "Looks into the cache of names: there; there, but no longer to be relied on; being looked up for another; not there." {
        NameHits = r#"result="hit""#, NameStale = r#"result="stale""#, NameJoined = r#"result="joined""#, NameMisses = r#"result="miss""#
    }
    Gauge "netproxy_dns_cache_entries", "Names in the cache." { NameEntries = "" }
    Counter "netproxy_certificate_cache_lookups_total", "Looks for the certificate that a client is shown where TLS is opened: there; being made for another; not there, or too old." {
        LeafHits = r#"result="hit""#, LeafJoined = r#"result="joined""#, LeafMisses = r#"result="miss""#
    }
    Gauge "netproxy_certificate_cache_entries", "Certificates that are kept." { LeafEntries = "" }
    Counter "netproxy_certificate_cache_evictions_total", "Certificates that made room for others." { LeafEvictions = "" }
    Counter "netproxy_policy_reloads_total", "Reloads of the policy file, by what came of them; one that fails again for the same reason is not counted again." {
        ReloadSwapped = r#"outcome="swapped""#,
        ReloadUnchanged = r#"outcome="unchanged""#,
        ReloadRefused = r#"outcome="refused""#,
        ReloadWithdrawn = r#"outcome="withdrawn""#
    }
    Counter "netproxy_faults_total", "Faults that whoever runs the proxy has to see to, and that clients are not told." { Faults = "" }
    Gauge "netproxy_workers", "Threads that serve connections." { Workers = "" }
}

impl Counter {
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

    /// That of a tunnel that was asked for like this; associations are counted by themselves.
    pub(crate) fn tunnels(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::HttpTunnels,
            Protocol::Https => Self::HttpsTunnels,
            Protocol::Connect => Self::ConnectTunnels,
            Protocol::Socks5Tcp => Self::SocksTunnels,
            Protocol::Socks5Udp => Self::Associations,
        }
    }

    /// That of a reload.
    pub(crate) fn reloaded(outcome: &Reload<'_>) -> Self {
        match outcome {
            Reload::Swapped(_) => Self::ReloadSwapped,
            Reload::Unchanged => Self::ReloadUnchanged,
            Reload::Refused(_) => Self::ReloadRefused,
            Reload::Withdrawn(_) => Self::ReloadWithdrawn,
        }
    }
}

/// In the order of their numbers.
const PROTOCOLS: [Protocol; 5] = [Protocol::Http, Protocol::Https, Protocol::Connect, Protocol::Socks5Tcp, Protocol::Socks5Udp];

/// Where a protocol is in what is counted by it.
fn column(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Http => 0,
        Protocol::Https => 1,
        Protocol::Connect => 2,
        Protocol::Socks5Tcp => 3,
        Protocol::Socks5Udp => 4,
    }
}

/// What became of a request, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Allowed,
    Denied(Reason),
    /// The embedding program's word.
    Said(Said),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Allow,
    Deny,
    Ask,
}

impl Outcome {
    const COUNT: usize = 1 + Reason::ALL.len() + 3;

    fn of(decision: Decision, decider: Option<&Answer>) -> Self {
        match (decider, decision) {
            (Some(Answer::Allow), _) => Self::Said(Said::Allow),
            (Some(Answer::Deny(_)), _) => Self::Said(Said::Deny),
            (Some(Answer::Ask(_)), _) => Self::Said(Said::Ask),
            (None, Decision::Allow(_)) => Self::Allowed,
            (None, Decision::Deny(denied)) => Self::Denied(denied.reason),
        }
    }

    /// In the order of their rows.
    fn all() -> impl Iterator<Item = Self> {
        let said = [Said::Allow, Said::Deny, Said::Ask];
        std::iter::once(Self::Allowed).chain(Reason::ALL.map(Self::Denied)).chain(said.map(Self::Said))
    }

    fn row(self) -> usize {
        match self {
            Self::Allowed => 0,
            Self::Denied(reason) => 1 + Reason::ALL.iter().position(|other| *other == reason).unwrap_or_default(),
            Self::Said(said) => 1 + Reason::ALL.len() + said as usize,
        }
    }

    fn labels(self) -> String {
        match self {
            Self::Allowed => r#"decision="allow""#.to_owned(),
            Self::Denied(reason) => format!(r#"decision="deny",reason="{reason}""#),
            Self::Said(Said::Allow) => r#"decision="allow",reason="decider""#.to_owned(),
            Self::Said(Said::Deny) => r#"decision="deny",reason="decider""#.to_owned(),
            Self::Said(Said::Ask) => r#"decision="ask",reason="decider""#.to_owned(),
        }
    }

    /// Whether it is shown before it has happened: what a protocol never comes to is not.
    fn is_shown(self, protocol: Protocol) -> bool {
        let tunnel = matches!(protocol, Protocol::Connect | Protocol::Socks5Tcp);
        match self {
            Self::Denied(Reason::MethodNotAllowed) => matches!(protocol, Protocol::Http | Protocol::Https),
            Self::Denied(Reason::MitmHookDenied) => protocol == Protocol::Https,
            Self::Denied(Reason::MitmRequired) => tunnel,
            Self::Denied(Reason::ProxyDisabled | Reason::Denied | Reason::NotAllowedLocal | Reason::NotAllowed | Reason::PolicyDenied)
            | Self::Allowed => true,
            // Most programs have no decider.
            Self::Said(_) => false,
        }
    }
}

/// The row of an ending.
fn ending(ending: Ending) -> usize {
    match ending {
        Ending::Done => 0,
        Ending::Broken => 1,
        Ending::Upstream(_) => 2,
        Ending::Limited(_) => 3,
        Ending::Revoked => 4,
        Ending::Looked => 5,
        Ending::Closed => 6,
        Ending::Stopped => 7,
    }
}

/// The names of endings, by their rows.
const ENDINGS: [&str; 8] = ["done", "broken", "upstream", "limited", "revoked", "looked", "closed", "stopped"];

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
    /// Made when a thread counts first: of many processes on a machine, most have few threads.
    shards: [OnceLock<Box<Shard>>; SHARDS],
    /// Answers of the admin API by route and status. Workers never come here.
    admin: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// Where events go.
    hub: OnceLock<Arc<Hub>>,
}

/// On cache lines of its own, pairs of which some processors load together.
#[repr(align(128))]
struct Shard {
    values: [AtomicU64; Counter::COUNT],
    limited: [AtomicU64; Limits::ALL.len()],
    decisions: [[AtomicU64; PROTOCOLS.len()]; Outcome::COUNT],
    closed: [[AtomicU64; PROTOCOLS.len()]; ENDINGS.len()],
    times: [Times; Timed::COUNT],
}

impl Shard {
    fn new() -> Self {
        Self {
            values: zeros(),
            limited: zeros(),
            decisions: std::array::from_fn(|_| zeros()),
            closed: std::array::from_fn(|_| zeros()),
            times: std::array::from_fn(|_| Times::new()),
        }
    }
}

fn zeros<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
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

/// How much of something there is in one place of a thread that serves; what is gone with this is taken back. Elsewhere, nothing is counted.
#[derive(Default)]
pub(crate) struct Level {
    counted: Option<(Arc<Counters>, Counter)>,
    value: u64,
}

impl Level {
    /// That much is there now. The gauge is the same each time.
    pub(crate) fn set(&mut self, gauge: Counter, value: usize) {
        if self.counted.is_none() {
            let served = SERVED.try_with(|served| served.try_borrow().ok().and_then(|served| served.clone()));
            self.counted = served.ok().flatten().map(|counters| (counters, gauge));
        }
        self.move_to(value as u64);
    }

    fn move_to(&mut self, value: u64) {
        if let Some((counters, gauge)) = &self.counted {
            counters.move_by(*gauge, value.wrapping_sub(self.value));
            self.value = value;
        }
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        self.move_to(0);
    }
}

thread_local! {
    /// The counters of the server that this thread serves: one thread serves one.
    static SERVED: RefCell<Option<Arc<Counters>>> = const { RefCell::new(None) };
}

/// Counts for the server that this thread serves, where what is counted knows no server. On other threads, nothing is counted.
pub(crate) fn here(count: impl FnOnce(&Counters)) {
    // A thread that is ending serves nobody.
    let _ = SERVED.try_with(|served| {
        if let Ok(served) = served.try_borrow()
            && let Some(counters) = &*served
        {
            count(counters);
        }
    });
}

/// The time until this is dropped, on a thread that serves: what is given up counts too.
#[must_use]
pub(crate) struct Timing {
    timed: Timed,
    since: Instant,
}

/// Takes the time of something from now on.
pub(crate) fn time(timed: Timed) -> Timing {
    Timing { timed, since: Instant::now() }
}

impl Drop for Timing {
    fn drop(&mut self) {
        here(|counters| counters.observe(self.timed, self.since.elapsed()));
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
        Arc::new(Self { shards: std::array::from_fn(|_| OnceLock::new()), admin: Mutex::default(), hub: OnceLock::new() })
    }

    fn shard(&self) -> Option<&Shard> {
        Some(self.shards.get(shard())?.get_or_init(|| Box::new(Shard::new())))
    }

    /// The calling thread serves from now on, until what this gives is dropped: [`here`] counts on these counters.
    pub(crate) fn serve(self: &Arc<Self>) -> Held {
        SERVED.set(Some(Arc::clone(self)));
        self.hold(Counter::Workers)
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

    /// One less, of what is counted up by [`Self::count`].
    pub(crate) fn take_back(&self, gauge: Counter) {
        self.move_by(gauge, 1_u64.wrapping_neg());
    }

    /// Something took that long.
    #[inline]
    pub(crate) fn observe(&self, timed: Timed, took: Duration) {
        if let Some(times) = self.shard().and_then(|shard| shard.times.get(timed as usize)) {
            times.observe(timed, took);
        }
    }

    /// A request was decided.
    pub(crate) fn decided(&self, event: &Decided<'_>) {
        let row = Outcome::of(event.decision, event.decider).row();
        one_more(self.shard().and_then(|shard| shard.decisions.get(row)?.get(column(event.protocol))));
    }

    /// What was allowed has ended: how, and how long it took.
    pub(crate) fn closed(&self, event: &Closed<'_>) {
        one_more(self.shard().and_then(|shard| shard.closed.get(ending(event.ending))?.get(column(event.protocol))));
        let timed = match event.protocol {
            Protocol::Http | Protocol::Https => Timed::Exchange,
            Protocol::Connect | Protocol::Socks5Tcp | Protocol::Socks5Udp => Timed::Tunnel,
        };
        self.observe(timed, event.duration);
    }

    /// The embedding program was asked; `None` is its silence.
    pub(crate) fn answered(&self, answer: Option<&Answer>, took: Duration) {
        self.count(match answer {
            Some(Answer::Allow) => Counter::DeciderAllowed,
            Some(Answer::Deny(_)) => Counter::DeciderDenied,
            Some(Answer::Ask(_)) => Counter::DeciderAsks,
            None => Counter::DeciderSilent,
        });
        self.observe(Timed::Decider, took);
    }

    /// The admin API answered. `route` is one of few, and nothing that a client chose.
    pub(crate) fn admin_answered(&self, route: &'static str, status: u16) {
        *self.admin.lock().unwrap_or_else(PoisonError::into_inner).entry((route, status)).or_default() += 1;
    }

    /// Events go there: how they are doing is shown with the rest. Said once.
    pub(crate) fn follow(&self, hub: &Arc<Hub>) {
        let _ = self.hub.set(Arc::clone(hub));
    }

    /// A limit was reached. [`Gate::reached`](crate::limits::Gate::reached) also says so.
    pub(crate) fn limited(&self, reached: Reached) {
        one_more(self.shard().and_then(|shard| shard.limited.get(reached.0)));
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
        let value = self.shard().and_then(|shard| shard.values.get(counter as usize));
        value.map(|value| value.fetch_add(n, Ordering::Relaxed));
    }

    fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter_map(|shard| Some(&**shard.get()?))
    }

    fn sum(&self, of: impl Fn(&Shard) -> Option<&AtomicU64>) -> u64 {
        self.shards().filter_map(of).fold(0, |sum, value| sum.wrapping_add(value.load(Ordering::Relaxed)))
    }

    /// All of them, with what is known of the policy and the process, for a scrape. Takes no lock that a request takes.
    pub(crate) fn page(&self, policy: &PolicyHandle, format: Format) -> String {
        let mut page = Page::new(format);
        self.write(&mut page);
        write_policy(&mut page, policy);
        audit::write(&mut page, &self.hub.get().map(|hub| hub.stats()).unwrap_or_default());
        page.family("netproxy_build_info", Kind::Info, "What runs.");
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("os", std::env::consts::OS), ("arch", std::env::consts::ARCH)];
        page.sample("netproxy_build_info", &labels.map(|(name, value)| format!("{name}=\"{value}\"")).join(","), 1);
        #[cfg(target_os = "linux")]
        process::write(&mut page);
        page.finish()
    }

    /// What is counted here, in Prometheus' format.
    pub(crate) fn text(&self) -> String {
        let mut page = Page::new(Format::Prometheus);
        self.write(&mut page);
        page.finish()
    }

    /// The value of a sample that is a whole number.
    #[cfg(test)]
    pub(crate) fn sample(&self, sample: &str) -> Option<u64> {
        let text = self.text();
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok())
    }

    fn write(&self, page: &mut Page) {
        for family in FAMILIES {
            page.family(family.name, family.kind, family.help);
            for (counter, labels) in family.samples {
                page.sample(family.name, labels, self.sum(|shard| shard.values.get(*counter as usize)));
            }
        }
        let name = "netproxy_limited_total";
        page.family(name, Kind::Counter, "Times that a limit was reached: somebody waited, was refused or was cut off.");
        for (place, limit) in Limits::ALL.iter().enumerate() {
            let labels = format!("limit=\"{}\"", limit.name);
            page.sample(name, &labels, self.sum(|shard| shard.limited.get(place)));
        }
        self.write_decisions(page);
        let mut last = "";
        for shown in &histogram::ALL {
            if shown.name != last {
                page.family(shown.name, Kind::Histogram, shown.help);
                last = shown.name;
            }
            let sum = Sum::of(self.shards().filter_map(|shard| shard.times.get(shown.timed as usize)));
            page.histogram(shown.name, shown.labels, shown.timed, &sum);
        }
        let name = "netproxy_admin_requests_total";
        page.family(name, Kind::Counter, "Requests to the admin API, by route and status.");
        for ((route, status), count) in &*self.admin.lock().unwrap_or_else(PoisonError::into_inner) {
            page.sample(name, &format!("route=\"{route}\",status=\"{status}\""), count);
        }
    }

    fn write_decisions(&self, page: &mut Page) {
        let name = "netproxy_decisions_total";
        page.family(name, Kind::Counter, "Decisions, by protocol, and by reason where they were denials or the embedding program's.");
        for protocol in PROTOCOLS {
            for outcome in Outcome::all() {
                let count = self.sum(|shard| shard.decisions.get(outcome.row())?.get(column(protocol)));
                if count > 0 || outcome.is_shown(protocol) {
                    page.sample(name, &format!("protocol=\"{protocol}\",{}", outcome.labels()), count);
                }
            }
        }
        let name = "netproxy_closed_total";
        page.family(name, Kind::Counter, "What was allowed and has ended, and how: exchanges (`http`, `https`), tunnels (`https_connect`, `socks5_tcp`), associations (`socks5_udp`).");
        for protocol in PROTOCOLS {
            for (row, ending) in ENDINGS.iter().enumerate() {
                let count = self.sum(|shard| shard.closed.get(row)?.get(column(protocol)));
                let only_tunnels = *ending == "looked" && !matches!(protocol, Protocol::Connect | Protocol::Socks5Tcp);
                if count > 0 || !only_tunnels {
                    page.sample(name, &format!("protocol=\"{protocol}\",ending=\"{ending}\""), count);
                }
            }
        }
    }
}

fn one_more(value: Option<&AtomicU64>) {
    value.map(|value| value.fetch_add(1, Ordering::Relaxed));
}

fn write_policy(page: &mut Page, policy: &PolicyHandle) {
    let snapshot = policy.current();
    page.single("netproxy_policy_generation", Kind::Gauge, "Policies that have been in force so far.", snapshot.generation());
    page.single("netproxy_policy_rules", Kind::Gauge, "Rules of the policy in force.", snapshot.rule_count());
    let limited = u8::from(snapshot.mode() == Mode::Limited);
    page.single("netproxy_policy_limited_mode", Kind::Gauge, "Whether it is in limited mode, by itself or held to it: 1 or 0.", limited);
    let loaded = snapshot.loaded().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
    page.single("netproxy_policy_loaded_timestamp_seconds", Kind::Gauge, "When the policy in force was put in force, since 1970.", loaded);
    let good = u8::from(policy.last_error().is_none());
    page.single(
        "netproxy_policy_last_reload_successful",
        Kind::Gauge,
        "Whether the policy file, when it was read last, could be put in force: 1 or 0.",
        good,
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

    use super::*;
    use policy_format::{Allowed, Denied, RuleId};

    fn value(counters: &Counters, sample: &str) -> Option<u64> {
        counters.sample(sample)
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
        assert_eq!(samples.len(), distinct.len());
        assert!(samples.iter().all(|line| line.ends_with(" 0")), "{text}");
        for limit in Limits::ALL {
            assert!(text.contains(&format!("netproxy_limited_total{{limit=\"{}\"}} 0\n", limit.name)), "{}", limit.name);
        }
    }

    /// The samples that are not 0, but for histograms.
    fn moved(counters: &Counters) -> Vec<String> {
        let text = counters.text();
        let moved = text.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0") && !line.contains("_duration_seconds"));
        moved.map(str::to_owned).collect()
    }

    #[test]
    fn each_decision_and_each_ending_moves_a_sample_of_its_own() {
        let decision = |outcome| match outcome {
            Outcome::Allowed => Decision::Allow(Allowed { rule: RuleId(0), read_only: false, intercept: false, hook: None }),
            Outcome::Denied(reason) => Decision::Deny(Denied { reason, rule: None }),
            Outcome::Said(_) => Decision::Deny(Denied { reason: Reason::NotAllowed, rule: None }),
        };
        let mut seen = std::collections::HashSet::new();
        for (row, outcome) in Outcome::all().enumerate() {
            assert_eq!(outcome.row(), row);
            let answer = match outcome {
                Outcome::Said(Said::Allow) => Some(Answer::Allow),
                Outcome::Said(Said::Deny) => Some(Answer::Deny("not_approved".to_owned())),
                Outcome::Said(Said::Ask) => Some(Answer::Ask("not_approved".to_owned())),
                _ => None,
            };
            assert_eq!(Outcome::of(decision(outcome), answer.as_ref()), outcome);
            for protocol in PROTOCOLS {
                let counters = Counters::new();
                one_more(counters.shard().and_then(|shard| shard.decisions.get(row)?.get(column(protocol))));
                let sample = format!("netproxy_decisions_total{{protocol=\"{protocol}\",{}}} 1", outcome.labels());
                assert_eq!(moved(&counters), std::slice::from_ref(&sample));
                assert!(seen.insert(sample));
            }
        }
        let endings = [
            Ending::Done,
            Ending::Broken,
            Ending::Upstream("upstream-refused"),
            Ending::Limited("idle_timeout"),
            Ending::Revoked,
            Ending::Looked,
            Ending::Closed,
            Ending::Stopped,
        ];
        assert_eq!(endings.map(Ending::as_str), ENDINGS);
        for (row, how) in endings.into_iter().enumerate() {
            assert_eq!(ending(how), row);
            for protocol in PROTOCOLS {
                let counters = Counters::new();
                counters.closed(&Closed {
                    id: 1,
                    generation: 1,
                    client: ([127, 0, 0, 1], 1).into(),
                    protocol,
                    host: "a.test",
                    port: 1,
                    up: 0,
                    down: 0,
                    duration: Duration::from_millis(3),
                    ending: how,
                });
                assert_eq!(moved(&counters), [format!("netproxy_closed_total{{protocol=\"{protocol}\",ending=\"{}\"}} 1", how.as_str())]);
                let timed = if matches!(protocol, Protocol::Http | Protocol::Https) { "exchange" } else { "tunnel" };
                assert_eq!(value(&counters, &format!("netproxy_{timed}_duration_seconds_count")), Some(1));
            }
        }
    }

    #[test]
    fn each_answer_of_the_decider_and_its_silence_are_counted_and_timed() {
        let said = |reason: &str| reason.to_owned();
        for (answer, label) in [
            (Some(Answer::Allow), "allow"),
            (Some(Answer::Deny(said("no"))), "deny"),
            (Some(Answer::Ask(said("later"))), "ask"),
            (None, "timeout"),
        ] {
            let counters = Counters::new();
            counters.answered(answer.as_ref(), Duration::from_millis(2));
            assert_eq!(moved(&counters), [format!("netproxy_decider_answers_total{{answer=\"{label}\"}} 1")]);
            assert_eq!(value(&counters, "netproxy_decider_duration_seconds_count"), Some(1));
        }
    }

    #[test]
    fn labels_are_the_names_that_events_and_answers_have() {
        let failures = [
            UpstreamError::NameNotResolved,
            UpstreamError::NameServerFailed,
            UpstreamError::ResolveTimeout,
            UpstreamError::Refused,
            UpstreamError::Unreachable,
            UpstreamError::ConnectTimeout,
            UpstreamError::ResponseTimeout,
            UpstreamError::Closed,
            UpstreamError::BadResponse,
            UpstreamError::SocketMissing,
            UpstreamError::NotASocket,
        ];
        for failure in failures {
            let counters = Counters::new();
            let _ = counters.upstream_failed(failure);
            assert_eq!(moved(&counters), [format!("netproxy_upstream_failures_total{{error=\"{}\"}} 1", failure.proxy_error())]);
        }
        for (failure, label) in [(UpstreamError::Proxy(ProxyError::Refused), "proxy"), (UpstreamError::TlsTimeout, "tls")] {
            let counters = Counters::new();
            let _ = counters.upstream_failed(failure);
            assert_eq!(moved(&counters), [format!("netproxy_upstream_failures_total{{error=\"upstream-{label}\"}} 1")]);
        }
        for why in Dropped::ALL {
            let counters = Counters::new();
            counters.count(Counter::dropped(why));
            assert_eq!(moved(&counters), [format!("netproxy_datagrams_dropped_total{{reason=\"{}\"}} 1", why.as_str())]);
        }
        for protocol in PROTOCOLS {
            let counters = Counters::new();
            counters.count(Counter::tunnels(protocol));
            if let Some(requests) = Counter::requests(protocol) {
                counters.count(requests);
                let both = ["requests", "tunnels"].map(|what| format!("netproxy_{what}_total{{protocol=\"{protocol}\"}} 1"));
                assert_eq!(moved(&counters), both);
            }
        }
    }

    #[test]
    fn a_histogram_is_shown_in_seconds_and_adds_up() {
        let counters = Counters::new();
        counters.observe(Timed::TlsOrigin, Duration::from_micros(150));
        counters.observe(Timed::TlsOrigin, Duration::from_secs(100));
        let text = counters.text();
        let of_origin: Vec<&str> =
            text.lines().filter(|line| line.contains("side=\"origin\"") && line.starts_with("netproxy_tls_handshake_duration")).collect();
        let (first, last) = (&of_origin[..3], &of_origin[of_origin.len() - 4..]);
        let name = "netproxy_tls_handshake_duration_seconds";
        assert_eq!(
            first,
            [
                format!("{name}_bucket{{side=\"origin\",le=\"0.0001\"}} 0"),
                format!("{name}_bucket{{side=\"origin\",le=\"0.0002\"}} 1"),
                format!("{name}_bucket{{side=\"origin\",le=\"0.0004\"}} 1")
            ]
        );
        assert_eq!(
            last,
            [
                format!("{name}_bucket{{side=\"origin\",le=\"52.4288\"}} 1"),
                format!("{name}_bucket{{side=\"origin\",le=\"+Inf\"}} 2"),
                format!("{name}_sum{{side=\"origin\"}} 100.00015"),
                format!("{name}_count{{side=\"origin\"}} 2")
            ]
        );
        assert_eq!(text.matches("# TYPE netproxy_tls_handshake_duration_seconds histogram").count(), 1);
        assert!(text.contains("netproxy_decide_duration_seconds_bucket{le=\"0.0000001\"} 0"));
    }

    #[test]
    fn what_serves_no_server_counts_for_nobody_and_a_level_that_is_gone_is_taken_back() {
        let counters = Counters::new();
        here(|_| panic!("this thread serves nobody"));
        let mut nowhere = Level::default();
        nowhere.set(Counter::PoolIdle, 3);
        let mut level = std::thread::scope(|scope| {
            let serve = || {
                let serving = counters.serve();
                here(|counters| counters.count(Counter::PoolHits));
                let mut level = Level::default();
                level.set(Counter::PoolIdle, 5);
                level.set(Counter::PoolIdle, 2);
                assert_eq!(value(&counters, "netproxy_workers"), Some(1));
                drop(serving);
                level
            };
            scope.spawn(serve).join().unwrap()
        });
        assert_eq!(value(&counters, "netproxy_pool_lookups_total{result=\"hit\"}"), Some(1));
        assert_eq!(value(&counters, "netproxy_pool_idle_connections{protocol=\"http/1.1\"}"), Some(2));
        assert_eq!(value(&counters, "netproxy_workers"), Some(0));
        level.set(Counter::PoolIdle, 9);
        drop((level, nowhere));
        assert_eq!(value(&counters, "netproxy_pool_idle_connections{protocol=\"http/1.1\"}"), Some(0));
    }

    #[test]
    fn names_and_texts_keep_to_the_rules() {
        let counters = Counters::new();
        counters.admin_answered("/v1/policy", 200);
        let policy = PolicyHandle::new(crate::policy::Policy::built_in().unwrap(), Vec::new(), Arc::new(crate::audit::event::Silent));
        let text = counters.page(&policy, Format::Prometheus);
        assert!(text.contains("netproxy_admin_requests_total{route=\"/v1/policy\",status=\"200\"} 1\n"));
        let mut families = std::collections::HashMap::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let help = line.strip_prefix("# HELP ").expect(line);
            let (name, help) = help.split_once(' ').unwrap();
            let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert!(help.ends_with('.') && !help.contains(['"', '\\']), "{help}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            assert!(kind != "histogram" || name.ends_with("_seconds"), "{name}");
            assert_eq!(families.insert(name.to_owned(), kind.to_owned()), None, "{name} is there twice");
            while let Some(sample) = lines.next_if(|line| !line.starts_with('#')) {
                let rest = sample.strip_prefix(name).expect(sample);
                assert!(kind == "histogram" || rest.starts_with([' ', '{']), "{sample}");
            }
        }
        let open = counters.page(&policy, Format::OpenMetrics);
        assert!(open.ends_with("\n# EOF\n") && open.contains("# TYPE netproxy_build info\nnetproxy_build_info{version="));
        assert!(open.contains("# TYPE netproxy_decisions counter\nnetproxy_decisions_total{"));
    }
}
