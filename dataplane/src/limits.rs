//! What all connections share of the limits: how many there are for each client and each tunnel's host, and how much was sent to a host lately.
//!
//! Everything is counted up by a guard that counts it down again when it is dropped, whatever becomes of its connection. What is held for a client or a host is gone
//! with its last guard; what was sent is forgotten with its window, and hosts beyond [`UPLOAD_HOSTS`] share one budget, so that memory stays bounded.

use crate::audit::event::{Accepting, LimitReached, Observer};
use crate::connect::UpstreamError;
use crate::counters::{Counter, Counters, Reached, reached};
use crate::parse::http::{BadRequest, Body};
use crate::parse::target::{Target, ipv6_bits};
use crate::tunnels::Live;
use policy_format::{Host, Limits};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Hosts whose uploads are counted apart.
const UPLOAD_HOSTS: usize = 16 * 1024;
/// How often whoever runs the proxy is told of the same fault.
const SELDOM: Duration = Duration::from_secs(1);
/// Parts of a window that are forgotten together.
const SLOTS: usize = 8;

/// What all connections go through.
pub(crate) struct Gate {
    counters: Arc<Counters>,
    observer: Arc<dyn Observer>,
    /// By address.
    clients: Arc<Tally<u128>>,
    tunnels: Arc<Tally<Arc<str>>>,
    uploads: Mutex<Uploads>,
    paused: AtomicBool,
    /// When somebody was last told that descriptors have run out.
    told: Mutex<Option<Instant>>,
    /// KiB for bodies that are read before their requests are decided on.
    ahead: Arc<Semaphore>,
}

/// KiB that all such bodies have together.
const AHEAD: usize = 64 * 1024;

impl Gate {
    pub(crate) fn new(counters: Arc<Counters>, observer: Arc<dyn Observer>) -> Self {
        Self {
            counters,
            observer,
            clients: Arc::default(),
            tunnels: Arc::default(),
            uploads: Mutex::new(Uploads { hosts: HashMap::new(), rest: Arc::default(), swept: Instant::now() }),
            paused: AtomicBool::new(false),
            told: Mutex::default(),
            ahead: Arc::new(Semaphore::new(AHEAD)),
        }
    }

    /// Room for a body of so many bytes that is read before its request is decided on, until what this gives is dropped; `None` where others have it.
    pub(crate) fn ahead(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes.div_ceil(1024)).ok()?;
        Arc::clone(&self.ahead).try_acquire_many_owned(kib).ok()
    }

    /// A connection of a client, until what this gives is dropped.
    pub(crate) fn client(&self, address: IpAddr, limits: &Limits) -> Result<Entered<u128>, Reached> {
        // An IPv4 client of an IPv6 listener is the same client.
        Tally::enter(&self.clients, ipv6_bits(address), limits.connections_per_client).ok_or(reached!(connections_per_client))
    }

    /// A tunnel to a host, until what this gives is dropped.
    pub(crate) fn tunnel(&self, host: &Host, limits: &Limits) -> Result<Place, Reached> {
        Tally::enter(&self.tunnels, host.to_string().into(), limits.tunnels_per_host).ok_or(reached!(tunnels_per_host))
    }

    /// What a request with `body` may send to a host.
    pub(crate) fn body(&self, host: &Host, body: Body, limits: &Limits) -> Result<Upload, Reached> {
        let most = if limits.request_body_bytes == 0 { u64::MAX } else { limits.request_body_bytes };
        let least = match body {
            // Nothing is sent that would be counted.
            Body::None | Body::Length(0) => return Ok(Upload { body: u64::MAX, budget: None }),
            Body::Length(length) if length > most => return Err(reached!(request_body_bytes)),
            Body::Length(length) => length,
            Body::Chunked | Body::UntilClose => 1,
        };
        self.upload(host, most, least, limits)
    }

    /// What a tunnel may send to a host.
    pub(crate) fn stream(&self, host: &Host, limits: &Limits) -> Result<Upload, Reached> {
        self.upload(host, u64::MAX, 1, limits)
    }

    fn upload(&self, host: &Host, body: u64, least: u64, limits: &Limits) -> Result<Upload, Reached> {
        let mut upload = Upload { body, budget: None };
        if limits.upload_bytes > 0 {
            let now = Instant::now();
            let budget = self.uploads().budget(host, limits.upload_window, now);
            if !budget.has_room(least, limits, now) {
                return Err(reached!(upload_bytes));
            }
            upload.budget = Some(Box::new(Allowance { budget, most: limits.upload_bytes, window: limits.upload_window }));
        }
        Ok(upload)
    }

    fn uploads(&self) -> MutexGuard<'_, Uploads> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts that a limit was reached, and says so.
    pub(crate) fn reached(&self, reached: Reached, client: Option<SocketAddr>, target: Option<&Target>) {
        self.counters.limited(reached);
        if let Some(limit) = reached.limit() {
            self.observer.limited(&LimitReached {
                limit,
                client,
                host: target.map(|target| &target.host),
                port: target.map(|target| target.port),
            });
        }
    }

    /// Counts that a request failed upstream, and by which limit, if by one. That there is no descriptor is no matter of the origin's: whoever runs the proxy is told, as often as
    /// anybody can read.
    pub(crate) fn upstream_failed(&self, error: UpstreamError, client: SocketAddr, target: &Target) {
        if error == UpstreamError::NoDescriptor && self.is_news(Instant::now()) {
            self.observer
                .fault("no descriptor is left to connect upstream: raise the limit of open files, or lower the limit `connections`");
        }
        if let Some(reached) = self.counters.upstream_failed(error) {
            self.reached(reached, Some(client), Some(target));
        }
    }

    /// Whether nobody was told lately that descriptors have run out.
    fn is_news(&self, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let news = told.is_none_or(|told| now >= told + SELDOM);
        if news {
            *told = Some(now);
        }
        news
    }

    /// Listeners cannot accept. Said once, however many listeners and threads find out.
    pub(crate) fn paused(&self, error: &io::Error) {
        self.counters.count(Counter::AcceptPauses);
        if !self.paused.swap(true, Ordering::Relaxed) {
            self.observer.accepting(&Accepting::Paused(error));
        }
    }

    /// They can again.
    pub(crate) fn resumed(&self) {
        if self.paused.swap(false, Ordering::Relaxed) {
            self.observer.accepting(&Accepting::Resumed);
        }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// How many there are of each. What there is none of takes no room.
struct Tally<K>(Mutex<HashMap<K, usize>>);

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// A place among the tunnels to a host.
pub(crate) type Place = Entered<Arc<str>>;

/// One of them.
pub(crate) struct Entered<K: Eq + Hash + Clone> {
    tally: Arc<Tally<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Tally<K> {
    /// One more, unless there are `most`.
    fn enter(tally: &Arc<Self>, key: K, most: usize) -> Option<Entered<K>> {
        let mut counts = tally.lock();
        let key = match counts.entry(key) {
            Entry::Occupied(found) if *found.get() >= most => return None,
            Entry::Occupied(mut found) => {
                *found.get_mut() += 1;
                // The name that is there already is shared.
                found.key().clone()
            }
            Entry::Vacant(room) => {
                let key = room.key().clone();
                room.insert(1);
                key
            }
        };
        Some(Entered { tally: Arc::clone(tally), key })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone> Entered<K> {
    /// Whose.
    pub(crate) fn key(&self) -> &K {
        &self.key
    }
}

impl<K: Eq + Hash + Clone> Drop for Entered<K> {
    fn drop(&mut self) {
        let mut counts = self.tally.lock();
        match counts.entry(self.key.clone()) {
            Entry::Occupied(mut found) if *found.get() > 1 => *found.get_mut() -= 1,
            Entry::Vacant(_) => {}
            Entry::Occupied(last) => {
                last.remove();
                // After a flood, its room is given back.
                if counts.capacity() > 64 && counts.len() < counts.capacity() / 8 {
                    counts.shrink_to_fit();
                }
            }
        }
    }
}

/// What was sent to hosts.
struct Uploads {
    hosts: HashMap<Box<str>, Arc<Budget>>,
    /// For hosts that there is no room for.
    rest: Arc<Budget>,
    swept: Instant,
}

impl Uploads {
    fn budget(&mut self, host: &Host, window: Duration, now: Instant) -> Arc<Budget> {
        let name = host.to_string();
        if let Some(budget) = self.hosts.get(name.as_str()) {
            return Arc::clone(budget);
        }
        // Looking through all of them for each new host would be slow where there are many.
        if self.hosts.len() >= UPLOAD_HOSTS && now >= self.swept + slot(window) {
            self.swept = now;
            self.hosts.retain(|_, budget| Arc::strong_count(budget) > 1 || budget.used(window, now) > 0);
        }
        if self.hosts.len() >= UPLOAD_HOSTS {
            return Arc::clone(&self.rest);
        }
        Arc::clone(self.hosts.entry(name.into()).or_default())
    }
}

/// What was sent to a host within the last window, which slides by an eighth: never more than the limit goes within any window, and what was sent is forgotten after
/// nine eighths of it. Behind a lock that is held for a few additions, once for each piece that was read, and only where the limit is set.
#[derive(Default)]
struct Budget(Mutex<Sent>);

#[derive(Default)]
struct Sent {
    /// When the present slot began; `None` before the first byte.
    since: Option<Instant>,
    slot: Duration,
    /// The present slot, then those before it.
    slots: [u64; SLOTS + 1],
}

fn slot(window: Duration) -> Duration {
    (window / u32::try_from(SLOTS).unwrap_or(1)).max(Duration::from_millis(1))
}

impl Sent {
    /// Forgets what was sent before the window, and says how much was sent since.
    fn used(&mut self, window: Duration, now: Instant) -> u64 {
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since).as_nanos();
        if let Some(slots @ 1..) = passed.checked_div(self.slot.as_nanos()) {
            let gone = usize::try_from(slots).unwrap_or(usize::MAX).min(self.slots.len());
            self.slots.rotate_right(gone);
            self.slots.iter_mut().take(gone).for_each(|sent| *sent = 0);
            let into = u64::try_from(passed % self.slot.as_nanos()).unwrap_or_default();
            self.since = now.checked_sub(Duration::from_nanos(into)).or(Some(now));
        }
        let slot = slot(window);
        if self.slot != slot {
            // The first time, or a new policy: what is not forgotten counts as sent now.
            let left = self.slots.iter().fold(0_u64, |sum, sent| sum.saturating_add(*sent));
            *self = Self { since: Some(now), slot, slots: [0; SLOTS + 1] };
            self.add(left);
        }
        self.slots.iter().fold(0, |sum, sent| sum.saturating_add(*sent))
    }

    fn add(&mut self, bytes: u64) {
        if let Some(sent) = self.slots.first_mut() {
            *sent = sent.saturating_add(bytes);
        }
    }
}

impl Budget {
    fn lock(&self) -> MutexGuard<'_, Sent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used(&self, window: Duration, now: Instant) -> u64 {
        self.lock().used(window, now)
    }

    fn has_room(&self, bytes: u64, limits: &Limits, now: Instant) -> bool {
        self.used(limits.upload_window, now).saturating_add(bytes) <= limits.upload_bytes
    }

    /// Counts them, if they still fit.
    fn charge(&self, bytes: u64, most: u64, window: Duration, now: Instant) -> bool {
        let mut sent = self.lock();
        let fits = sent.used(window, now).saturating_add(bytes) <= most;
        if fits {
            sent.add(bytes);
        }
        fits
    }
}

/// What an exchange or a tunnel may still send.
pub(crate) struct Upload {
    /// Of this body.
    body: u64,
    /// Boxed: few policies have one, and thousands of tunnels hold this.
    budget: Option<Box<Allowance>>,
}

/// What may be sent to a host in a while.
struct Allowance {
    budget: Arc<Budget>,
    most: u64,
    window: Duration,
}

/// What is counted of the bytes that go one way.
pub(crate) struct Meter {
    /// Towards an origin.
    up: bool,
    whose: Bytes,
    /// Only towards an origin.
    budget: Option<Box<Allowance>>,
}

/// Of whom bytes are counted.
enum Bytes {
    /// Of an exchange: what may still come, and what came.
    Exchange { counters: Arc<Counters>, most: u64, total: u64 },
    /// Of a tunnel, whose entry is told.
    Tunnel(Arc<Live>),
}

impl Meter {
    /// Of what goes to a client.
    pub(crate) fn down(counters: &Arc<Counters>) -> Self {
        Self { up: false, whose: Bytes::Exchange { counters: Arc::clone(counters), most: u64::MAX, total: 0 }, budget: None }
    }

    /// Of what goes to an origin.
    pub(crate) fn up(counters: &Arc<Counters>, Upload { body, budget }: Upload) -> Self {
        Self { up: true, whose: Bytes::Exchange { counters: Arc::clone(counters), most: body, total: 0 }, budget }
    }

    /// Of both ways of a tunnel: towards an origin, and towards a client.
    pub(crate) fn tunnel(live: &Arc<Live>, Upload { budget, .. }: Upload) -> [Self; 2] {
        [
            Self { up: true, whose: Bytes::Tunnel(Arc::clone(live)), budget },
            Self { up: false, whose: Bytes::Tunnel(Arc::clone(live)), budget: None },
        ]
    }

    /// An exchange goes on as a tunnel: what was counted is the tunnel's.
    pub(crate) fn switch(&mut self, live: &Arc<Live>) {
        let total = self.total();
        live.add(if self.up { total } else { 0 }, if self.up { 0 } else { total });
        self.whose = Bytes::Tunnel(Arc::clone(live));
    }

    /// Counts bytes before they are sent on. After an error, they must not be.
    pub(crate) fn charge(&mut self, bytes: usize) -> Result<(), Reached> {
        let counter = if self.up { Counter::BytesUp } else { Counter::BytesDown };
        match &mut self.whose {
            Bytes::Exchange { counters, most, total } => {
                counters.add(counter, bytes);
                *total = total.saturating_add(bytes as u64);
                if *total > *most {
                    return Err(reached!(request_body_bytes));
                }
            }
            Bytes::Tunnel(live) => {
                live.decider().counters().add(counter, bytes);
                let bytes = bytes as u64;
                live.add(if self.up { bytes } else { 0 }, if self.up { 0 } else { bytes });
            }
        }
        match &self.budget {
            Some(to) if !to.budget.charge(bytes as u64, to.most, to.window, Instant::now()) => Err(reached!(upload_bytes)),
            _ => Ok(()),
        }
    }

    /// What was counted of an exchange since it began.
    pub(crate) fn total(&self) -> u64 {
        match &self.whose {
            Bytes::Exchange { total, .. } => *total,
            Bytes::Tunnel(_) => 0,
        }
    }

    /// Another exchange is counted from here on, without a bound.
    pub(crate) fn begin(&mut self) {
        if let Bytes::Exchange { total, .. } = &mut self.whose {
            *total = 0;
        }
    }
}

/// Whether a head is not too long: all of it, if `end` is where it ends, or what has come so far, which is `len` bytes.
pub(crate) fn fits(len: usize, end: Option<usize>, limits: &Limits) -> bool {
    // Without its end, at least one byte is still to come.
    end.map_or(len < limits.head_bytes, |end| end <= limits.head_bytes)
}

/// Whether a request head keeps to its lengths: all of it, if `end` is where it ends, or what has come so far.
pub(crate) fn head_fits(bytes: &[u8], end: Option<usize>, limits: &Limits) -> Result<(), (Reached, BadRequest)> {
    // CR LF belongs to no limit.
    let room = limits.request_line_bytes.saturating_add(2);
    let start = bytes.get(..room).unwrap_or(bytes);
    if start.len() == room && memchr::memchr(b'\n', start).is_none() {
        return Err((reached!(request_line_bytes), BadRequest { status: 414, message: "the request line is too long" }));
    }
    let too_long = BadRequest { status: 431, message: "the request head is too long" };
    if fits(bytes.len(), end, limits) { Ok(()) } else { Err((reached!(head_bytes), too_long)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::audit::event::Silent;

    fn gate() -> Gate {
        Gate::new(Counters::new(), Arc::new(Silent))
    }

    fn limits(overrides: &[&str]) -> Limits {
        let mut limits = Limits::default();
        limits.apply(&overrides.iter().map(|limit| limit.parse().unwrap()).collect::<Vec<_>>());
        limits
    }

    #[test]
    fn that_descriptors_have_run_out_is_told_and_not_for_each_request() {
        #[derive(Default)]
        struct Faults(Mutex<Vec<String>>);
        impl Observer for Faults {
            fn fault(&self, what: &str) {
                self.0.lock().unwrap().push(what.to_owned());
            }
        }
        let faults = Arc::<Faults>::default();
        let gate = Gate::new(Counters::new(), Arc::clone(&faults) as Arc<dyn Observer>);
        let target = Target::parse("a.test:443", None).ok().unwrap();
        let fails = |error| gate.upstream_failed(error, SocketAddr::from(([127, 0, 0, 1], 1)), &target);
        fails(UpstreamError::Unreachable);
        assert_eq!(faults.0.lock().unwrap().len(), 0);
        for _ in 0..100 {
            fails(UpstreamError::NoDescriptor);
        }
        let told = faults.0.lock().unwrap().clone();
        assert!((1..100).contains(&told.len()) && told[0].starts_with("no descriptor is left"), "{told:?}");
        let now = Instant::now();
        assert!(gate.is_news(now + SELDOM) && !gate.is_news(now + SELDOM) && gate.is_news(now + 2 * SELDOM));
    }

    #[test]
    fn bodies_that_are_read_ahead_have_so_much_together() {
        let gate = gate();
        let held: Vec<_> = (0..64).map(|_| gate.ahead(1 << 20).unwrap()).collect();
        assert!(gate.ahead(1).is_none());
        drop(held);
        assert!(gate.ahead(64 << 20).is_some() && gate.ahead((64 << 20) + 1).is_none() && gate.ahead(usize::MAX).is_none());
    }

    #[test]
    fn what_was_counted_up_is_counted_down_and_leaves_nothing() {
        let (gate, limits) = (gate(), limits(&["connections_per_client=2", "tunnels_per_host=1"]));
        let [one, mapped, other] = ["10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let first = gate.client(one, &limits).ok().unwrap();
        let second = gate.client(mapped, &limits).ok().unwrap();
        assert_eq!(gate.client(one, &limits).err(), Some(reached!(connections_per_client)));
        let third = gate.client(other, &limits).ok().unwrap();
        drop(first);
        assert!(gate.client(mapped, &limits).is_ok());
        let host = Host::parse("a.test").unwrap();
        let tunnel = gate.tunnel(&host, &limits).ok().unwrap();
        assert_eq!(gate.tunnel(&host, &limits).err(), Some(reached!(tunnels_per_host)));
        drop((second, third, tunnel));
        assert!(gate.clients.lock().is_empty() && gate.tunnels.lock().is_empty());
        let many: Vec<_> = (0..10_000_u32).map(|n| gate.client(IpAddr::from(n.to_be_bytes()), &limits).ok().unwrap()).collect();
        drop(many);
        assert!(gate.clients.lock().capacity() <= 64);
    }

    #[test]
    fn no_window_has_more_than_the_limit_and_bytes_are_forgotten_after_nine_eighths() {
        let (budget, start) = (Budget::default(), Instant::now());
        let (most, window) = (100, Duration::from_secs(8));
        // Tries to send 9 bytes every 300 ms for 60 s, and keeps what went.
        let mut went: Vec<(Duration, u64)> = Vec::new();
        for step in 0..200 {
            let at = Duration::from_millis(300 * step);
            if budget.charge(9, most, window, start + at) {
                went.push((at, 9));
            }
        }
        for (at, _) in &went {
            let within: u64 = went.iter().filter(|(other, _)| other >= at && *other < *at + window).map(|(_, bytes)| bytes).sum();
            assert!(within <= most, "{within} bytes in the window from {at:?}");
        }
        // Eleven times nine in each nine seconds, and what the last of them leaves room for.
        assert_eq!(went.len(), 77);
        let budget = Budget::default();
        assert!(budget.charge(most, most, window, start));
        assert!(!budget.charge(1, most, window, start + Duration::from_millis(8_999)));
        assert!(budget.charge(most, most, window, start + Duration::from_secs(9)));
        // Another window forgets nothing too early.
        assert!(!budget.charge(1, most, window * 2, start + Duration::from_secs(17)));
        assert!(budget.charge(most + 1, most + 1, window, start + Duration::from_secs(100)));
    }

    #[test]
    fn hosts_beyond_the_bound_share_a_budget_until_others_are_forgotten() {
        let (gate, limits) = (gate(), limits(&["upload_bytes=10", "upload_window=8s"]));
        for n in 0..UPLOAD_HOSTS {
            let upload = gate.stream(&Host::parse(&format!("h{n}.test")).unwrap(), &limits).ok().unwrap();
            assert!(Meter::up(&gate.counters, upload).charge(1).is_ok());
        }
        let late = |name: &str| gate.stream(&Host::parse(name).unwrap(), &limits);
        let mut one = Meter::up(&gate.counters, late("one.test").ok().unwrap());
        assert!(one.charge(10).is_ok());
        assert_eq!(late("two.test").err(), Some(reached!(upload_bytes)));
        assert_eq!(gate.uploads().hosts.len(), UPLOAD_HOSTS);
        // Ten seconds later.
        let now = Instant::now() + Duration::from_secs(10);
        gate.uploads().budget(&Host::parse("three.test").unwrap(), limits.upload_window, now);
        assert_eq!(gate.uploads().hosts.len(), 1);
    }

    #[test]
    fn bodies_are_refused_before_they_come_where_their_length_is_known() {
        let (gate, limits) = (gate(), limits(&["request_body_bytes=10", "upload_bytes=15"]));
        let host = Host::parse("a.test").unwrap();
        assert_eq!(gate.body(&host, Body::Length(11), &limits).err(), Some(reached!(request_body_bytes)));
        let mut chunked = Meter::up(&gate.counters, gate.body(&host, Body::Chunked, &limits).ok().unwrap());
        assert!(chunked.charge(10).is_ok());
        assert_eq!(chunked.charge(1), Err(reached!(request_body_bytes)));
        assert_eq!(gate.body(&host, Body::Length(6), &limits).err(), Some(reached!(upload_bytes)));
        let mut tunnel = Meter::up(&gate.counters, gate.stream(&host, &limits).ok().unwrap());
        assert_eq!((tunnel.charge(5), tunnel.charge(1)), (Ok(()), Err(reached!(upload_bytes))));
        assert_eq!(gate.stream(&host, &limits).err(), Some(reached!(upload_bytes)));
        assert!(gate.body(&host, Body::None, &limits).is_ok(), "nothing is sent that would be counted");
    }

    #[test]
    fn heads_are_measured_to_the_byte() {
        let limits = limits(&["request_line_bytes=64", "head_bytes=1KiB"]);
        let line = |len: usize| [vec![b'x'; len], b"\r\n".to_vec()].concat();
        let what = |bytes: &[u8], end| head_fits(bytes, end, &limits).map_err(|(_, bad)| bad.status);
        assert_eq!((what(&line(64), None), what(&line(65), None)), (Ok(()), Err(414)));
        assert_eq!((what(&[b'x'; 65], None), what(&[b'x'; 66], None)), (Ok(()), Err(414)));
        let head = [line(10), vec![b'y'; 1100]].concat();
        assert_eq!((what(&head[..1023], None), what(&head[..1024], None)), (Ok(()), Err(431)));
        assert_eq!((what(&head, Some(1024)), what(&head, Some(1025))), (Ok(()), Err(431)));
    }
}
