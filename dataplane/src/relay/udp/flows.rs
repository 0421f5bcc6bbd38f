//! Where an association's datagrams go, and whose replies come back.

use crate::decide::datagram::Flow;
use crate::policy::Snapshot;
use std::collections::HashMap;
use std::net::SocketAddr;
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
    peers: HashMap<SocketAddr, usize>,
    generation: u64,
}

struct Entry {
    flow: Flow,
    used: Instant,
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
        for peer in flow.addresses() {
            *self.peers.entry(*peer).or_default() += 1;
        }
        self.by_address.insert(address, Entry { flow, used: now });
    }

    pub(super) fn remove(&mut self, address: &[u8]) {
        let Some(entry) = self.by_address.remove(address) else { return };
        for peer in entry.flow.addresses() {
            if let Some(flows) = self.peers.get_mut(peer) {
                *flows -= 1;
                if *flows == 0 {
                    self.peers.remove(peer);
                }
            }
        }
    }

    /// Whether something was sent there.
    pub(super) fn knows(&self, peer: SocketAddr) -> bool {
        // Without flow label and scope, which sockets add to what they receive.
        self.peers.contains_key(&SocketAddr::new(peer.ip(), peer.port()))
    }

    /// Forgets what a new policy does not allow.
    pub(super) fn renew(&mut self, policy: &Snapshot) {
        if self.generation == policy.generation() {
            return;
        }
        self.generation = policy.generation();
        self.by_address.retain(|_, entry| entry.flow.holds(policy));
        self.peers.clear();
        for peer in self.by_address.values().flat_map(|entry| entry.flow.addresses()) {
            *self.peers.entry(*peer).or_default() += 1;
        }
    }

    pub(super) fn clear(&mut self) {
        self.by_address.clear();
        self.peers.clear();
    }
}

#[cfg(test)]
mod tests {
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
