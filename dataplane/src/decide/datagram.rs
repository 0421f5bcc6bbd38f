//! Datagrams: a decision for each target, which holds as long as its policy does.

use super::own::leads_to;
use super::{Decider, Plan, Question, Route, Through, Told};
use crate::audit::event::Dropped;
use crate::connect::upstream::{Proxy, Traffic};
use crate::counters::{Counter, Reached};
use crate::limits::Meter;
use crate::parse::target::Target;
use crate::policy::Snapshot;
use policy_format::{Decision, Host, Protocol};
use std::collections::HashMap;
#[cfg(test)]
use std::net::Ipv4Addr;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

/// A route for datagrams. It keeps no policy in memory, and has to be asked about under each new one. Small, as a client may have many.
pub(crate) struct Flow {
    client: SocketAddr,
    protocol: Protocol,
    host: Box<str>,
    port: u16,
    /// How many of its addresses are tried.
    tried: u16,
    /// The proxy that it leads through.
    proxy: Option<Arc<Proxy>>,
    /// All that are decided on, in their own family: an IPv4 address in IPv6 form is written as IPv4. None where the proxy looks the name up.
    addresses: Vec<SocketAddr>,
    generation: u64,
    /// No rule allowed it, and somebody who was asked did.
    granted: bool,
    /// What may be sent, and what was.
    meter: Option<Meter>,
}

impl From<Route<'_>> for Flow {
    fn from(route: Route<'_>) -> Self {
        let Plan { snapshot, question: Question { client, protocol, target, granted, .. }, addresses, through, .. } = route.plan;
        let (proxy, ips) = match (through, &target.host) {
            (None, _) => (None, addresses.iter().map(SocketAddr::ip).collect()),
            // A literal address is its own, whoever would look it up.
            (Some(Through { proxy, .. }), Host::Ip(ip)) => (Some(proxy), vec![*ip]),
            (Some(Through { proxy, asked }), Host::Name(_) | Host::NumericLookalike(_)) => (Some(proxy), asked),
        };
        let addresses = ips.iter().map(|ip| SocketAddr::new(ip.to_canonical(), target.port)).collect();
        let host = target.host.to_string().into_boxed_str();
        let tried = u16::try_from(snapshot.limits().addresses).unwrap_or(u16::MAX);
        Self { client, protocol, host, port: target.port, tried, proxy, addresses, generation: snapshot.generation(), granted, meter: None }
    }
}

impl Flow {
    /// Where its datagrams may be sent, or what may be asked of its proxy. Of a proxy alone there may be none: it is asked for [`Self::target`], by its name.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        self.addresses.get(..usize::from(self.tried)).unwrap_or(&self.addresses)
    }

    /// The proxy that its datagrams are sent to instead.
    pub(crate) fn proxy(&self) -> Option<&Arc<Proxy>> {
        self.proxy.as_ref()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What was decided on, made anew.
    pub(crate) fn target(&self) -> Option<Target> {
        // As it is shown, a host is read again as itself.
        Some(Target { host: Host::parse(&self.host).ok()?, port: self.port })
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
            tried: 1,
            proxy: None,
            addresses: vec![address],
            generation: 1,
            granted: false,
            meter: None,
        }
    }

    /// For the same tests: through a proxy, to an address, or to a name that the proxy looks up.
    #[cfg(test)]
    pub(crate) fn through(proxy: &Arc<Proxy>, address: Option<SocketAddr>, port: u16) -> Self {
        let flow = Self::towards(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
        Self { proxy: Some(Arc::clone(proxy)), host: "a.test".into(), addresses: address.into_iter().collect(), ..flow }
    }

    /// Keeps to one of its addresses.
    pub(crate) fn settle(&mut self, address: SocketAddr) {
        if self.addresses.len() > 1 {
            self.addresses = vec![address];
        }
    }

    /// Whether a policy gives it still, on the same way: through the same proxy, or through none.
    pub(crate) fn holds(&mut self, policy: &Snapshot, decider: &Decider) -> bool {
        if self.generation == policy.generation() {
            return true;
        }
        self.generation = policy.generation();
        let Some(target) = self.target() else { return false };
        if policy.upstreams().choose(&decider.environment, &target, Traffic::Tunnel) != self.proxy {
            return false;
        }
        let (client, protocol) = (self.client, self.protocol);
        let question = Question { told: Told::Allowed, granted: self.granted, ..Question::new(client, protocol, &target) };
        let ips: Vec<IpAddr> = self.addresses.iter().map(SocketAddr::ip).collect();
        matches!(decider.decide(policy, &question, &ips), Decision::Allow(allowed) if !allowed.read_only && !allowed.intercept)
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

    /// Whether one of them has that port.
    pub(super) fn has_port(&self, port: u16) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_port.contains_key(&port)
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

    /// Where a proxy that was reached at `proxy` may have its datagrams sent, when it wants them at `said`.
    ///
    /// What is sent there is what a client wrote, and for the address there is nothing but the proxy's word: it could name any host that this machine reaches and the proxy does not, and
    /// have it hit from in here, past all rules. So nothing is taken but the host that the configuration named, where it was reached; an unspecified address stands for it. And were both on
    /// one machine, the proxy could name a relay of ours whose client has not sent anything yet, and so be taken for that client.
    pub(crate) fn relay_of(&self, proxy: SocketAddr, said: SocketAddr) -> Option<SocketAddr> {
        let same = said.ip().is_unspecified() || said.ip().to_canonical() == proxy.ip().to_canonical();
        // As it was reached: a link-local address is none without its scope.
        let mut relay = proxy;
        relay.set_port(said.port());
        (same && said.port() > 0 && !self.is_own(Protocol::Socks5Udp, relay)).then_some(relay)
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
