//! One SOCKS5 client's datagrams, as `connection.rs` is for its connection: sockets are opened, and each datagram is parsed, decided, and sent on.
//!
//! The association belongs to the client's TCP connection: it has its address from it, and ends with it.

use crate::audit::event::Dropped;
use crate::connect::chain::ProxyError;
use crate::connect::udp::{Chains, NoChain, towards_client};
use crate::connect::upstream::Traffic;
use crate::connect::{ConnectError, UpstreamError};
use crate::connection::Shared;
use crate::counters::{Counter, reached};
use crate::decide::Question;
use crate::decide::datagram::{Flow, Place};
use crate::limits::Meter;
use crate::parse::socks5::Reply;
use crate::parse::target::Target;
use crate::policy::{PolicyHandle, Snapshot};
use crate::relay::udp::{self, Over, Routing, Way, Ways};
use policy_format::{Limits, Protocol};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};

/// An association that stands.
pub(crate) struct Association<'s> {
    place: Place<'s>,
    socket: UdpSocket,
    ways: Decided<'s>,
    idle: Duration,
}

impl<'s> Association<'s> {
    /// Opens one for the client of `control`, or says why not.
    pub(crate) async fn open(control: &TcpStream, client: SocketAddr, shared: &'s Shared, limits: &Limits) -> Result<Self, Reply> {
        if !udp::allows_datagrams(&shared.decider.policy().current()) {
            return Err(Reply::CommandNotSupported);
        }
        let connected_to = control.local_addr().map_err(|_| Reply::Failure)?;
        let (socket, address) = towards_client(connected_to).await.map_err(|_| Reply::Failure)?;
        let place = shared.decider.place(address, limits.udp_associations).ok_or_else(|| {
            shared.gate.reached(reached!(udp_associations), Some(client), None);
            Reply::Failure
        })?;
        shared.counters.count(Counter::Associations);
        Ok(Self { place, socket, ways: Decided { shared, client, chains: Chains::default() }, idle: limits.udp_idle_timeout })
    }

    /// Where the client is to send to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.place.relay()
    }

    /// Moves datagrams until the client's connection ends, nothing moves for the idle time, or the policy has datagrams off.
    pub(crate) async fn relay(self, control: &TcpStream) {
        let Decided { shared, client, .. } = self.ways;
        if udp::relay(control, self.socket, client, &self.ways, self.idle).await == Over::Idle {
            shared.gate.reached(reached!(udp_idle_timeout), Some(client), None);
        }
    }
}

/// Datagrams go where the policy lets them.
struct Decided<'s> {
    shared: &'s Shared,
    client: SocketAddr,
    chains: Chains,
}

/// What a client's datagrams are dropped for where the proxy on their way does not take them.
fn no_chain(why: NoChain) -> Dropped {
    match why {
        NoChain::TooMany => Dropped::Busy,
        NoChain::Upstream(UpstreamError::Proxy(
            ProxyError::Refused | ProxyError::Unreachable | ProxyError::Timeout | ProxyError::Closed,
        )) => Dropped::NotSent,
        // It answered, and that was no yes, or not one that can be gone by.
        NoChain::Upstream(_) => Dropped::Proxied,
    }
}

impl Ways for Decided<'_> {
    /// Decide → connect: names are decided before they are resolved, and every address after. Nothing is dialled but a proxy on the way.
    fn route(&self, target: Target) -> Routing<'_> {
        Box::pin(async move {
            let (client, protocol) = (self.client, Protocol::Socks5Udp);
            let question = Question { client, protocol, target: &target, method: None, path: None, inside: None, socket: false };
            let permit = self.shared.decider.name(question).map_err(|_| Dropped::Denied)?;
            let limits = permit.limits();
            let proxy = permit.proxy(Traffic::Tunnel);
            let route = match &proxy {
                None => self.shared.connector.route(permit, &limits).await,
                Some(proxy) if proxy.scheme().is_http() => return Err(Dropped::Proxied),
                Some(proxy) => self.shared.connector.route_through(permit, proxy, &limits).await,
            };
            let route = route.map_err(|error| match error {
                ConnectError::Denied(_) => Dropped::Denied,
                ConnectError::Upstream(_) => Dropped::NotResolved,
            })?;
            let upload = self.shared.gate.stream(&target.host, &limits).map_err(|reached| {
                self.shared.gate.reached(reached, Some(client), Some(&target));
                Dropped::NotSent
            })?;
            let door = match &proxy {
                None => None,
                Some(proxy) => Some(self.chains.door(&route, proxy, &self.shared.decider, &limits).await.map_err(no_chain)?),
            };
            Ok(Way { flow: Flow::from(route).counted(Meter::up(&self.shared.counters, upload)), door })
        })
    }

    fn policy(&self) -> &PolicyHandle {
        self.shared.decider.policy()
    }

    fn holds(&self, flow: &mut Flow, policy: &Snapshot) -> bool {
        flow.holds(policy, &self.shared.decider)
    }

    fn dropped(&self, why: Dropped) {
        self.shared.decider.dropped(self.client, why);
    }
}
