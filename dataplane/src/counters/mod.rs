//! What is counted and timed, and how it is shown.
//!
//! A counter is a line of the table in `table.rs`, a time one of that in `histogram.rs`. Threads count on shards of their own, which are added up when somebody asks, so that
//! counting costs no more than an addition to memory that is near, and asking holds up nobody. `page.rs` shows them, and `text.rs` has the formats.

mod audit;
mod histogram;
mod limit;
mod outcome;
mod page;
#[cfg(target_os = "linux")]
mod process;
mod table;
mod text;

pub(crate) use histogram::Timed;
pub(crate) use limit::{Reached, reached};
pub(crate) use table::Counter;
pub(crate) use text::Format;

use crate::audit::event::{Answer, Closed, Decided, Ending};
use crate::audit::hub::Hub;
use crate::connect::UpstreamError;
use crate::connect::chain::ProxyError;
use histogram::Times;
use outcome::Outcome;
use policy_format::{Limits, Protocol};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Threads that do not share a shard, if there are no more than these.
const SHARDS: usize = 16;

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
    decisions: [[AtomicU64; Protocol::ALL.len()]; Outcome::COUNT],
    closed: [[AtomicU64; Protocol::ALL.len()]; Ending::KINDS.len()],
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
        one_more(self.shard().and_then(|shard| shard.decisions.get(row)?.get(event.protocol as usize)));
    }

    /// What was allowed has ended: how, and how long it took.
    pub(crate) fn closed(&self, event: &Closed<'_>) {
        one_more(self.shard().and_then(|shard| shard.closed.get(event.ending.kind())?.get(event.protocol as usize)));
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
        one_more(self.shard().and_then(|shard| shard.limited.get(reached.place())));
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
            UpstreamError::NoDescriptor => (Counter::NoDescriptor, None),
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
}

fn one_more(value: Option<&AtomicU64>) {
    value.map(|value| value.fetch_add(1, Ordering::Relaxed));
}

#[cfg(test)]
mod tests;
