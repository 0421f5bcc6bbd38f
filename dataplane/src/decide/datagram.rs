//! Datagrams: a decision for each target, which holds as long as its policy does.

use super::own::leads_to;
use super::{Decider, Question, Route};
use crate::audit::event::Dropped;
use crate::counters::{Counter, Reached};
use crate::limits::Meter;
use crate::parse::target::Target;
use crate::policy::Snapshot;
use policy_format::{Decision, Host, Protocol};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

/// A route for datagrams. It keeps no policy in memory, and has to be asked about under each new one. Small, as a client may have many.
pub(crate) struct Flow {
    client: SocketAddr,
    protocol: Protocol,
    host: Box<str>,
    port: u16,
    /// In their own family: an IPv4 address in IPv6 form is written as IPv4.
    addresses: Vec<SocketAddr>,
    generation: u64,
    /// What may be sent, and what was.
    meter: Option<Meter>,
}

impl From<Route<'_>> for Flow {
    fn from(route: Route<'_>) -> Self {
        let Route { snapshot, question: Question { client, protocol, target, .. }, addresses, .. } = route;
        let addresses = addresses.iter().map(|address| SocketAddr::new(address.ip().to_canonical(), address.port())).collect();
        let host = target.host.to_string().into_boxed_str();
        Self { client, protocol, host, port: target.port, addresses, generation: snapshot.generation(), meter: None }
    }
}

impl Flow {
    /// Where its datagrams may be sent.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What is sent along it counts there.
    pub(crate) fn counted(self, meter: Meter) -> Self {
        Self { meter: Some(meter), ..self }
    }

    /// Counts a datagram before it is sent. After an error, it must not be.
    pub(crate) fn charge(&mut self, bytes: usize) -> Result<(), Reached> {
        self.meter.as_mut().map_or(Ok(()), |meter| meter.charge(bytes))
    }

    /// For tests of those who keep flows.
    #[cfg(test)]
    pub(crate) fn towards(address: SocketAddr) -> Self {
        let host = address.ip().to_string().into_boxed_str();
        Self {
            client: address,
            protocol: Protocol::Socks5Udp,
            host,
            port: address.port(),
            addresses: vec![address],
            generation: 1,
            meter: None,
        }
    }

    /// Keeps to one of its addresses.
    pub(crate) fn settle(&mut self, address: SocketAddr) {
        if self.addresses.len() > 1 {
            self.addresses = vec![address];
        }
    }

    /// Whether a policy gives it still.
    pub(crate) fn holds(&mut self, policy: &Snapshot) -> bool {
        if self.generation == policy.generation() {
            return true;
        }
        self.generation = policy.generation();
        // As it is shown, a host is read again as itself.
        let Ok(host) = Host::parse(&self.host) else { return false };
        let target = Target { host, port: self.port };
        let question = Question { client: self.client, protocol: self.protocol, target: &target, method: None, path: None, socket: false };
        let ips: Vec<IpAddr> = self.addresses.iter().map(SocketAddr::ip).collect();
        matches!(policy.decide(&question.request(policy, &ips)), Decision::Allow(allowed) if !allowed.read_only)
    }
}

/// Our own sockets for clients' datagrams, by port: no datagram goes from one of them to another.
#[derive(Default)]
pub(super) struct Relays(Mutex<Open>);

#[derive(Default)]
struct Open {
    by_port: HashMap<u16, Vec<SocketAddr>>,
    count: usize,
}

impl Relays {
    pub(super) fn has(&self, address: SocketAddr) -> bool {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.by_port.get(&address.port()).is_some_and(|relays| relays.iter().any(|own| leads_to(address, *own)))
    }
}

/// A place among the associations that there may be at once. Dropping it gives it back.
pub(crate) struct Place<'d> {
    decider: &'d Decider,
    relay: SocketAddr,
}

impl Place<'_> {
    /// Where the client sends to.
    pub(crate) fn relay(&self) -> SocketAddr {
        self.relay
    }
}

impl Decider {
    /// A place for an association whose client sends to `relay`; `None` when there are `limit` already.
    pub(crate) fn place(&self, relay: SocketAddr, limit: usize) -> Option<Place<'_>> {
        let mut open = self.relays.0.lock().unwrap_or_else(PoisonError::into_inner);
        if open.count >= limit {
            return None;
        }
        open.count += 1;
        open.by_port.entry(relay.port()).or_default().push(relay);
        Some(Place { decider: self, relay })
    }

    /// Tells of a datagram that went no further.
    pub(crate) fn dropped(&self, client: SocketAddr, why: Dropped) {
        self.counters.count(Counter::dropped(why));
        self.observer.dropped(client, why);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut open = self.decider.relays.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.count = open.count.saturating_sub(1);
        if let Some(relays) = open.by_port.get_mut(&self.relay.port()) {
            relays.retain(|known| *known != self.relay);
            if relays.is_empty() {
                open.by_port.remove(&self.relay.port());
            }
        }
    }
}
