//! Where an association's datagrams go, and whose replies come back.

use crate::connect::upstream::Proxy;
use crate::decide::datagram::Flow;
use crate::parse::target::Target;
use crate::policy::Snapshot;
use policy_format::Host;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Targets of one association that are remembered. The one that was not sent to for longest makes room for another.
const MOST: usize = 256;
/// A name that was not sent to for so long is decided and resolved again.
const FRESH: Duration = Duration::from_secs(60);

/// The targets that a client sends to, and the addresses that it hears from: the same.
pub(super) struct Flows {
    /// By type, address and port as they are written in headers.
    by_address: HashMap<Box<[u8]>, Entry>,
    /// How many flows lead there.
    peers: HashMap<Peer, usize>,
    generation: u64,
}

struct Entry {
    flow: Flow,
    used: Instant,
}

/// Whose replies are heard.
#[derive(PartialEq, Eq, Hash)]
struct Peer {
    /// Through which proxy.
    proxy: Option<Arc<Proxy>>,
    /// `None` is everybody: where a proxy looks a name up, it is not known here which addresses that has.
    ip: Option<IpAddr>,
    port: u16,
}

impl Peer {
    /// Those of a flow.
    fn of(flow: &Flow) -> impl Iterator<Item = Self> {
        let unknown = flow.addresses().is_empty().then_some((None, flow.port()));
        let known = flow.addresses().iter().map(|address| (Some(address.ip()), address.port()));
        known.chain(unknown).map(|(ip, port)| Self { proxy: flow.proxy().cloned(), ip, port })
    }
}

impl Flows {
    pub(super) fn new(generation: u64) -> Self {
        Self { by_address: HashMap::new(), peers: HashMap::new(), generation }
    }

    /// Under which policy all of them hold.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// The flow for an address, if it has been decided on.
    pub(super) fn get(&mut self, address: &[u8], now: Instant) -> Option<&mut Flow> {
        let entry = self.by_address.get_mut(address).filter(|entry| now.duration_since(entry.used) < FRESH)?;
        entry.used = now;
        Some(&mut entry.flow)
    }

    /// Remembers a flow that is settled on one address.
    pub(super) fn insert(&mut self, address: Box<[u8]>, flow: Flow, now: Instant) {
        self.remove(&address);
        if self.by_address.len() >= MOST {
            let oldest = self.by_address.iter().min_by_key(|(_, entry)| entry.used).map(|(address, _)| address.clone());
            if let Some(oldest) = oldest {
                self.remove(&oldest);
            }
        }
        for peer in Peer::of(&flow) {
            *self.peers.entry(peer).or_default() += 1;
        }
        self.by_address.insert(address, Entry { flow, used: now });
    }

    pub(super) fn remove(&mut self, address: &[u8]) {
        let Some(entry) = self.by_address.remove(address) else { return };
        for peer in Peer::of(&entry.flow) {
            if let Some(flows) = self.peers.get_mut(&peer) {
                *flows -= 1;
                if *flows == 0 {
                    self.peers.remove(&peer);
                }
            }
        }
    }

    /// Whether something was sent there.
    pub(super) fn knows(&self, peer: SocketAddr) -> bool {
        // Without flow label and scope, which sockets add to what they receive.
        self.peers.contains_key(&Peer { proxy: None, ip: Some(peer.ip()), port: peer.port() })
    }

    /// Whether something was sent through a proxy to where it says that a reply comes from: to that very address; or to that port, of a name that the proxy has looked up. In
    /// that case its word is all there is.
    pub(super) fn knows_behind(&self, proxy: &Arc<Proxy>, source: &Target) -> bool {
        let ip = match &source.host {
            Host::Ip(ip) => Some(ip.to_canonical()),
            Host::Name(_) | Host::NumericLookalike(_) => None,
        };
        [ip, None].into_iter().any(|ip| self.peers.contains_key(&Peer { proxy: Some(Arc::clone(proxy)), ip, port: source.port }))
    }

    /// Whether something was sent through a proxy.
    pub(super) fn has(&self, proxy: &Arc<Proxy>) -> bool {
        self.by_address.values().any(|entry| entry.flow.proxy() == Some(proxy))
    }

    /// Forgets what a new policy does not allow.
    pub(super) fn renew(&mut self, policy: &Snapshot, holds: impl Fn(&mut Flow) -> bool) {
        if self.generation == policy.generation() {
            return;
        }
        self.generation = policy.generation();
        self.retain(holds);
    }

    /// Forgets what does not `hold`.
    pub(super) fn retain(&mut self, hold: impl Fn(&mut Flow) -> bool) {
        self.by_address.retain(|_, entry| hold(&mut entry.flow));
        self.peers.clear();
        for peer in self.by_address.values().flat_map(|entry| Peer::of(&entry.flow)) {
            *self.peers.entry(peer).or_default() += 1;
        }
    }

    pub(super) fn clear(&mut self) {
        self.by_address.clear();
        self.peers.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;

    fn peer(n: usize) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], u16::try_from(n + 1).unwrap()))
    }

    #[test]
    fn what_is_not_used_is_decided_again_and_heard_until_then() {
        let (mut flows, start) = (Flows::new(1), Instant::now());
        flows.insert(Box::new([1]), Flow::towards(peer(0)), start);
        assert!(flows.get(&[1], start + FRESH / 2).is_some());
        assert!(flows.get(&[1], start + FRESH).is_some(), "each use counts");
        assert!(flows.get(&[1], start + FRESH * 2).is_none());
        assert!(flows.knows(peer(0)));
        flows.insert(Box::new([1]), Flow::towards(peer(1)), start + FRESH * 2);
        assert_eq!((flows.knows(peer(0)), flows.knows(peer(1))), (false, true));
    }

    #[test]
    fn an_address_is_heard_as_long_as_one_name_leads_there() {
        let (mut flows, now) = (Flows::new(1), Instant::now());
        flows.insert(Box::new([1]), Flow::towards(peer(0)), now);
        flows.insert(Box::new([2]), Flow::towards(peer(0)), now);
        flows.remove(&[1]);
        assert!(flows.knows(peer(0)));
        flows.remove(&[2]);
        assert!(!flows.knows(peer(0)) && flows.peers.is_empty());
    }

    #[test]
    fn behind_a_proxy_an_address_is_heard_or_where_it_looked_up_a_name_a_port() {
        let (one, same, other) = (Proxy::of("socks5h://[::1]:1"), Proxy::of("socks5h://[::1]:1"), Proxy::of("socks5h://[::1]:2"));
        let (mut flows, now) = (Flows::new(1), Instant::now());
        flows.insert(Box::new([1]), Flow::through(&one, Some(peer(6)), 7), now);
        flows.insert(Box::new([2]), Flow::through(&one, None, 53), now);
        let cases = [
            (&one, "192.0.2.1:7", true),
            (&same, "192.0.2.1:7", true),
            (&one, "[::ffff:192.0.2.1]:7", true),
            (&one, "192.0.2.2:7", false),
            (&one, "a.test:7", false),
            (&one, "192.0.2.1:8", false),
            (&other, "192.0.2.1:7", false),
            (&one, "198.51.100.1:53", true),
            (&one, "a.test:53", true),
            (&one, "198.51.100.1:54", false),
            (&other, "198.51.100.1:53", false),
        ];
        for (proxy, source, expected) in cases {
            assert_eq!(flows.knows_behind(proxy, &Target::parse(source, None).unwrap()), expected, "{source} through {proxy}");
        }
        assert!(!flows.knows(peer(6)) && !flows.knows(SocketAddr::from(([198, 51, 100, 1], 53))), "not without the proxy");
        assert!(flows.has(&same) && !flows.has(&other));
        flows.insert(Box::new([3]), Flow::towards(peer(6)), now);
        assert!(flows.knows(peer(6)));
        flows.retain(|flow| flow.proxy().is_none());
        assert!(!flows.has(&one) && flows.peers.len() == 1 && flows.knows(peer(6)));
    }

    #[test]
    fn the_one_that_was_not_used_for_longest_makes_room() {
        let (mut flows, start) = (Flows::new(1), Instant::now());
        let at = |n: usize| start + Duration::from_millis(u64::try_from(n).unwrap());
        for n in 0..MOST {
            flows.insert(n.to_le_bytes().into(), Flow::towards(peer(n)), at(n));
        }
        assert!(flows.get(&0_usize.to_le_bytes(), at(MOST)).is_some());
        flows.insert(MOST.to_le_bytes().into(), Flow::towards(peer(MOST)), at(MOST + 1));
        assert_eq!((flows.knows(peer(0)), flows.knows(peer(1)), flows.knows(peer(MOST))), (true, false, true));
        assert_eq!((flows.by_address.len(), flows.peers.len()), (MOST, MOST));
    }
}
