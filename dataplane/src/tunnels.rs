//! The tunnels that are open: who has one, where it leads, what has gone through it, and how it is closed.
//!
//! There may be thousands that do nothing, so that each has one small entry, which is also all that is remembered of it: its guard and the two ways of its bytes share it. The
//! table holds them in parts, each behind a lock of its own that is held for a few steps when a tunnel opens or ends.

use crate::audit::event::{Closed, Ending};
use crate::counters::Counter;
use crate::decide::Decider;
use crate::limits::Place;
use crate::signal::Bell;
use policy_format::{HostRef, Protocol};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Parts of the table.
const PARTS: usize = 16;

/// Entries that are looked at under a lock at a time.
const LOOKED_AT: usize = 256;

/// What stands for where an association leads: each of its datagrams goes where it says. No host has this name and port 0.
pub(crate) const ASSOCIATION: &str = "udp-association";

/// A tunnel as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Row {
    /// Its number, that of the decision on it.
    pub id: u64,
    /// Whose it is.
    pub client: SocketAddr,
    /// How it was asked for: `http` and `https` are those of protocols that were switched to.
    pub protocol: Protocol,
    /// Where it leads; `unix-socket` and `udp-association`, with port 0, where that is no host.
    pub host: String,
    /// To which port.
    pub port: u16,
    /// When it was decided: milliseconds since 1970, UTC.
    pub opened: u64,
    /// Bytes from the client so far; where it is read, of the bodies of the requests in it.
    pub up: u64,
    /// The same to the client.
    pub down: u64,
    /// The policy that let it on, or go on, last.
    pub generation: u64,
}

/// All of them.
pub(crate) struct Tunnels {
    parts: [Mutex<Part>; PARTS],
    /// Wakes all of them: each looks whether it is meant.
    bell: Bell,
    /// What the times of entries are counted from.
    began: Instant,
    began_at: Duration,
    /// The proxy ends what is left.
    stopped: AtomicBool,
}

#[derive(Default)]
struct Part {
    /// By place, which an entry keeps.
    entries: Vec<Option<Arc<Live>>>,
    free: Vec<u32>,
}

/// What a tunnel begins with.
pub(crate) struct Whose {
    pub(crate) id: u64,
    pub(crate) client: SocketAddr,
    pub(crate) protocol: Protocol,
    /// A place among the tunnels to its host, under whose name it is; none for associations.
    pub(crate) place: Option<Place>,
    pub(crate) port: u16,
    pub(crate) generation: u64,
    pub(crate) since: Instant,
    /// It is counted among the tunnels that are open.
    pub(crate) counted: bool,
}

/// One of them: all that is remembered of it.
pub(crate) struct Live {
    decider: Arc<Decider>,
    id: u64,
    client: Client,
    place: Option<Place>,
    up: AtomicU64,
    down: AtomicU64,
    generation: AtomicU64,
    /// Microseconds after the table began.
    opened: u64,
    /// Its place in its part of the table.
    at: u32,
    port: u16,
    protocol: Protocol,
    flags: AtomicU8,
}

/// It is counted among the tunnels that are open.
const COUNTED: u8 = 1;
/// Somebody wants it closed.
const CLOSING: u8 = 2;
/// Its end was said.
const ENDED: u8 = 4;

/// An address in less room than [`SocketAddr`] takes.
struct Client {
    ip: [u8; 16],
    scope: u32,
    port: u16,
    v6: bool,
}

impl From<SocketAddr> for Client {
    fn from(address: SocketAddr) -> Self {
        let (ip, scope, v6) = match address {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0, false),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id(), true),
        };
        Self { ip: ip.octets(), scope, port: address.port(), v6 }
    }
}

impl Client {
    fn address(&self) -> SocketAddr {
        let ip = Ipv6Addr::from(self.ip);
        match ip.to_ipv4_mapped().filter(|_| !self.v6) {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), self.port),
            None => SocketAddrV6::new(ip, self.port, 0, self.scope).into(),
        }
    }
}

impl Live {
    pub(crate) fn decider(&self) -> &Arc<Decider> {
        &self.decider
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn client(&self) -> SocketAddr {
        self.client.address()
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Where it leads, or what stands for that.
    pub(crate) fn host(&self) -> &str {
        self.place.as_ref().map_or(ASSOCIATION, |place| place.key())
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The policy that let it go on last.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// A policy lets it go on.
    pub(crate) fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
    }

    /// Somebody wants it closed.
    pub(crate) fn is_closing(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & CLOSING != 0
    }

    /// Bytes went through it.
    pub(crate) fn add(&self, up: u64, down: u64) {
        for (sum, bytes) in [(&self.up, up), (&self.down, down)] {
            if bytes > 0 {
                sum.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }

    fn row(&self, tunnels: &Tunnels) -> Row {
        let opened = tunnels.began_at + Duration::from_micros(self.opened);
        Row {
            id: self.id,
            client: self.client(),
            protocol: self.protocol,
            host: self.host().to_owned(),
            port: self.port,
            opened: u64::try_from(opened.as_millis()).unwrap_or(u64::MAX),
            up: self.up.load(Ordering::Relaxed),
            down: self.down.load(Ordering::Relaxed),
            generation: self.generation(),
        }
    }

    fn say(&self, ending: Ending) {
        let tunnels = self.decider.tunnels();
        tunnels.remove(self);
        let flags = self.flags.load(Ordering::Relaxed);
        if flags & COUNTED != 0 {
            self.decider.counters().take_back(Counter::TunnelsOpen);
        }
        let since = tunnels.began + Duration::from_micros(self.opened);
        let closed = Closed {
            id: self.id,
            generation: self.generation(),
            client: self.client(),
            protocol: self.protocol,
            host: self.host().parse().map_or_else(|_| HostRef::Name(self.host()), HostRef::Ip),
            port: self.port,
            up: self.up.load(Ordering::Relaxed),
            down: self.down.load(Ordering::Relaxed),
            duration: Instant::now().saturating_duration_since(since),
            ending,
        };
        self.decider.counters().closed(&closed);
        let observer = self.decider.observer();
        if observer.wants_closes() {
            observer.closed(&closed);
        }
    }
}

/// A tunnel in the table, in the hands of whoever says how it ends. Dropped without a word, it was broken off, or the proxy stopped.
pub(crate) struct Listed(Arc<Live>);

impl Listed {
    /// Puts one into the table.
    pub(crate) fn new(decider: &Arc<Decider>, whose: Whose) -> Self {
        let tunnels = decider.tunnels();
        let Whose { id, client, protocol, place, port, generation, since, counted } = whose;
        if counted {
            decider.counters().count(Counter::TunnelsOpen);
        }
        let since = since.saturating_duration_since(tunnels.began).as_micros();
        let live = |at| Live {
            decider: Arc::clone(decider),
            id,
            client: client.into(),
            place,
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            generation: AtomicU64::new(generation),
            opened: u64::try_from(since).unwrap_or(u64::MAX),
            at,
            port,
            protocol,
            flags: AtomicU8::new(if counted { COUNTED } else { 0 }),
        };
        Self(tunnels.insert(id, live))
    }

    /// The same, for those who count its bytes.
    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.0
    }

    /// That is how it ended. What was said first counts.
    pub(crate) fn end(&self, ending: Ending) {
        if self.0.flags.fetch_or(ENDED, Ordering::Relaxed) & ENDED == 0 {
            self.0.say(ending);
        }
    }
}

impl std::ops::Deref for Listed {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.0
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.end(self.decider.tunnels().cut_off());
    }
}

impl Tunnels {
    pub(crate) fn new(bell: Bell) -> Self {
        let began_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let parts = std::array::from_fn(|_| Mutex::default());
        Self { parts, bell, began: Instant::now(), began_at, stopped: AtomicBool::new(false) }
    }

    /// Numbers of one thread are near each other, and so are its tunnels.
    fn part(&self, id: u64) -> Option<MutexGuard<'_, Part>> {
        let part = usize::try_from(id.saturating_sub(1) / 1024).unwrap_or_default() % PARTS;
        self.parts.get(part).map(|part| part.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn insert(&self, id: u64, live: impl FnOnce(u32) -> Live) -> Arc<Live> {
        let Some(mut part) = self.part(id) else { return Arc::new(live(0)) };
        let at = part.free.pop().unwrap_or_else(|| {
            part.entries.push(None);
            u32::try_from(part.entries.len() - 1).unwrap_or(u32::MAX)
        });
        let live = Arc::new(live(at));
        if let Some(entry) = part.entries.get_mut(at as usize) {
            *entry = Some(Arc::clone(&live));
        }
        live
    }

    fn remove(&self, live: &Live) {
        let Some(mut part) = self.part(live.id) else { return };
        let entry = part.entries.get_mut(live.at as usize).and_then(Option::take);
        part.free.push(live.at);
        if part.free.len() == part.entries.len() {
            // After a flood, its room is given back.
            *part = Part::default();
        }
        drop(part);
        // Outside of the lock: it may be the last.
        drop(entry);
    }

    /// Calls `each` for every tunnel of a part; it must not take long.
    fn for_each(&self, part: &Mutex<Part>, mut each: impl FnMut(&Live)) {
        let mut from = 0;
        loop {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(entries) = part.entries.get(from..).filter(|rest| !rest.is_empty()) else { return };
            entries.iter().take(LOOKED_AT).flatten().for_each(|live| each(live));
            from += LOOKED_AT;
        }
    }

    /// At most `limit` of them whose numbers come after `after`, by number. Those that open or end meanwhile may be among them or not.
    pub(crate) fn list(&self, after: u64, limit: usize) -> Vec<Row> {
        let mut ids = Vec::new();
        for part in &self.parts {
            self.for_each(part, |live| ids.extend(Some(live.id).filter(|id| *id > after)));
        }
        ids.sort_unstable();
        ids.truncate(limit);
        let mut rows = Vec::with_capacity(ids.len());
        for part in &self.parts {
            self.for_each(part, |live| {
                if ids.binary_search(&live.id).is_ok() {
                    rows.push(live.row(self));
                }
            });
        }
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }

    /// Has one closed; whether there is one with that number. It ends soon.
    pub(crate) fn close(&self, id: u64) -> bool {
        let mut found = false;
        if let Some(part) = self.part(id)
            && let Some(live) = part.entries.iter().flatten().find(|live| live.id == id)
        {
            live.flags.fetch_or(CLOSING, Ordering::Relaxed);
            found = true;
        }
        if found {
            self.bell.ring();
        }
        found
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        let len = |part: &Mutex<Part>| {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            part.entries.len() - part.free.len()
        };
        self.parts.iter().map(len).sum()
    }

    /// What does not end by itself from now on is ended by the proxy.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// How something has ended that nobody said anything of.
    pub(crate) fn cut_off(&self) -> Ending {
        if self.stopped.load(Ordering::Relaxed) { Ending::Stopped } else { Ending::Broken }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::audit::event::Observer;
    use crate::connect::upstream::Environment;
    use crate::counters::Counters;
    use crate::decide::ids;
    use crate::decide::own::Own;
    use crate::inside::secrets::Secrets;
    use crate::limits::Gate;
    use crate::policy::{Policy, PolicyHandle};
    use policy_format::{Host, Limits};
    use std::collections::HashMap;

    /// Number, host, bytes up and down, and how it ended.
    type Close = (u64, String, u64, u64, Ending);

    /// And those of them that led to an address.
    #[derive(Default)]
    struct Closes(Mutex<Vec<Close>>, Mutex<Vec<IpAddr>>);

    impl Observer for Arc<Closes> {
        fn closed(&self, event: &Closed<'_>) {
            if let HostRef::Ip(ip) = event.host {
                self.1.lock().unwrap().push(ip);
            }
            self.0.lock().unwrap().push((event.id, event.host.to_string(), event.up, event.down, event.ending));
        }
    }

    struct Rig {
        decider: Arc<Decider>,
        gate: Gate,
        closes: Arc<Closes>,
    }

    impl Rig {
        fn new() -> Self {
            let closes = Arc::<Closes>::default();
            let observer: Arc<dyn Observer> = Arc::new(Arc::clone(&closes));
            let policy = PolicyHandle::new(Policy::built_in().unwrap(), Vec::new(), Arc::clone(&observer));
            let counters = Counters::new();
            let secrets = Secrets::new(HashMap::new(), None, Arc::clone(&observer));
            let environment = Environment::read(HashMap::new()).unwrap();
            let own = Own::new(Vec::new());
            let decider = Decider::new(policy, Arc::clone(&observer), Arc::clone(&counters), own, environment, secrets, None);
            Self { decider: Arc::new(decider), gate: Gate::new(counters, observer), closes }
        }

        fn open(&self, host: &str) -> Listed {
            let place = self.gate.tunnel(&Host::parse(host).unwrap(), &Limits::default()).unwrap();
            let client = "[fe80::1%3]:5".parse().unwrap();
            let (id, protocol) = (ids::next(), Protocol::Connect);
            let whose = Whose { id, client, protocol, place: Some(place), port: 443, generation: 1, since: Instant::now(), counted: true };
            Listed::new(&self.decider, whose)
        }
    }

    #[test]
    fn an_entry_is_small() {
        // Two counts of references come on top, and nothing else is remembered of an idle tunnel.
        assert!(size_of::<Live>() <= 104, "{}", size_of::<Live>());
    }

    #[test]
    fn clients_are_shown_as_they_are() {
        for address in ["127.0.0.1:1", "[::1]:65535", "[::ffff:127.0.0.1]:7", "[fe80::1%3]:5", "0.0.0.0:9"] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(Client::from(address).address(), address);
        }
    }

    #[test]
    fn an_end_says_where_a_tunnel_led_as_its_decision_did() {
        let rig = Rig::new();
        let hosts = ["a.test", "192.0.2.1", "2001:db8::1", "::ffff:192.0.2.255", "127.1"];
        hosts.iter().for_each(|host| drop(rig.open(host)));
        assert!(
            rig.closes
                .0
                .lock()
                .unwrap()
                .iter()
                .map(|(_, host, ..)| host.clone())
                .eq(hosts.map(|host| Host::parse(host).unwrap().to_string()))
        );
        assert!(rig.closes.1.lock().unwrap().iter().eq(&hosts[1..4].iter().map(|ip| ip.parse::<IpAddr>().unwrap()).collect::<Vec<_>>()));
    }

    #[test]
    fn what_is_open_is_listed_in_pages_and_what_has_ended_is_not() {
        let rig = Rig::new();
        let tunnels = rig.decider.tunnels();
        let mut open: Vec<Listed> = (0..700).map(|n| rig.open(&format!("h{}.test", n % 7))).collect();
        assert_eq!(tunnels.count(), 700);
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let page = tunnels.list(after, 100);
            let Some(last) = page.last() else { break };
            assert!(page.len() <= 100 && page.is_sorted_by_key(|row| row.id));
            after = last.id;
            seen.extend(page);
        }
        assert_eq!(seen.len(), 700);
        let (first, row) = (&open[0], &seen[0]);
        first.add(3, 4);
        assert_eq!((row.id, row.host.as_str(), row.port, row.up, row.generation), (first.id(), "h0.test", 443, 0, 1));
        let row = tunnels.list(0, 1).remove(0);
        assert_eq!((row.up, row.down, row.client.to_string()), (3, 4, "[fe80::1%3]:5".to_owned()));
        let ended: Vec<u64> = open.drain(..350).map(|listed| listed.id()).collect();
        assert_eq!(tunnels.count(), 350);
        assert!(tunnels.list(0, 1000).iter().all(|row| !ended.contains(&row.id)));
        // What has ended makes room for what comes.
        open.extend((0..350).map(|_| rig.open("x.test")));
        assert_eq!((tunnels.count(), tunnels.list(0, 1000).len()), (700, 700));
        drop(open);
        assert_eq!(tunnels.count(), 0);
        assert!(tunnels.parts.iter().all(|part| part.lock().unwrap().entries.capacity() == 0), "its room is given back");
    }

    #[test]
    fn an_end_is_said_once_and_one_that_nobody_says_is_known_too() {
        let rig = Rig::new();
        let [a, b, c] = ["a.test", "b.test", "c.test"].map(|host| rig.open(host));
        let ids = [a.id(), b.id(), c.id()];
        a.add(1, 2);
        a.end(Ending::Limited("idle_timeout"));
        a.end(Ending::Done);
        drop(a);
        drop(b);
        rig.decider.tunnels().stop();
        drop(c);
        let closes = rig.closes.0.lock().unwrap();
        let expected = [
            (ids[0], "a.test".to_owned(), 1, 2, Ending::Limited("idle_timeout")),
            (ids[1], "b.test".to_owned(), 0, 0, Ending::Broken),
            (ids[2], "c.test".to_owned(), 0, 0, Ending::Stopped),
        ];
        assert_eq!(*closes, expected);
    }

    #[test]
    fn the_one_that_is_meant_is_asked_to_end() {
        let rig = Rig::new();
        let (one, other) = (rig.open("a.test"), rig.open("a.test"));
        assert!(!rig.decider.tunnels().close(u64::MAX));
        assert!(rig.decider.tunnels().close(one.id()));
        assert!(one.is_closing() && !other.is_closing());
        let id = one.id();
        one.end(Ending::Closed);
        assert!(!rig.decider.tunnels().close(id), "it is no more");
    }
}
