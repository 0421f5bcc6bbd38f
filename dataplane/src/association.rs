//! One SOCKS5 client's datagrams, as `connection.rs` is for its connection: sockets are opened, and each datagram is parsed, decided, and sent on.
//!
//! The association belongs to the client's TCP connection: it has its address from it, and ends with it.

use crate::audit::event::{Dropped, Ending};
use crate::connect::chain::ProxyError;
use crate::connect::udp::{Chains, NoChain, towards_client};
use crate::connect::upstream::Traffic;
use crate::connect::{ConnectError, UpstreamError};
use crate::connection::Shared;
use crate::counters::{Counter, Reached, reached};
use crate::decide::datagram::{Flow, Place};
use crate::decide::{Decider, No, Question, ids};
use crate::limits::Meter;
use crate::parse::socks5::Reply;
use crate::parse::target::Target;
use crate::policy::{PolicyHandle, Snapshot};
use crate::relay::udp::{self, Over, Routing, Way, Ways};
use crate::signal::Ear;
use crate::tunnels::{Listed, Whose};
use policy_format::{Limits, Protocol};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;

/// An association that stands.
pub(crate) struct Association<'s> {
    place: Place<'s>,
    socket: UdpSocket,
    ways: Decided<'s>,
    idle: Duration,
    ear: Ear,
}

impl<'s> Association<'s> {
    /// Opens one for the client of `control`, or says why not.
    /// `ear` hears of news.
    pub(crate) async fn open(
        control: &TcpStream,
        client: SocketAddr,
        shared: &'s Shared,
        limits: &Limits,
        ear: Ear,
    ) -> Result<Self, Reply> {
        let current = shared.decider.policy().current();
        if !udp::allows_datagrams(&current) {
            return Err(Reply::CommandNotSupported);
        }
        let connected_to = control.local_addr().map_err(|_| Reply::Failure)?;
        let (socket, address) = towards_client(connected_to).await.map_err(|_| Reply::Failure)?;
        let place = shared.decider.place(address, limits.udp_associations).ok_or_else(|| {
            shared.gate.reached(reached!(udp_associations), Some(client), None);
            Reply::Failure
        })?;
        shared.counters.count(Counter::Associations);
        let (protocol, generation) = (Protocol::Socks5Udp, current.generation());
        let whose = Whose { id: ids::next(), client, protocol, place: None, port: 0, generation, since: Instant::now(), counted: false };
        let live = Listed::new(&shared.decider, whose);
        Ok(Self { place, socket, ways: Decided { shared, client, chains: Chains::default(), live }, idle: limits.udp_idle_timeout, ear })
    }

    /// Where the client is to send to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.place.relay()
    }

    /// Moves datagrams until the client's connection ends, nothing moves for the idle time, or the policy has datagrams off.
    pub(crate) async fn relay(self, control: &TcpStream) {
        let Decided { shared, client, .. } = self.ways;
        let ending = match udp::relay(control, self.socket, client, &self.ways, self.idle, self.ear).await {
            Over::Ended => Ending::Done,
            Over::Failed => Ending::Broken,
            Over::Revoked => Ending::Revoked,
            Over::Closed => Ending::Closed,
            Over::Idle => {
                shared.gate.reached(reached!(udp_idle_timeout), Some(client), None);
                reached!(udp_idle_timeout).into()
            }
        };
        self.ways.live.end(ending);
    }
}

/// What no rule allows, and somebody is asked about. Dropping it, with an association that ends first, refuses it, and tells that.
struct Unanswered<'d> {
    decider: &'d Decider,
    no: Option<No<'d>>,
}

impl Unanswered<'_> {
    /// The answer says more than the refusal would.
    fn answered(mut self) {
        self.no = None;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(no) = self.no.take() {
            drop(self.decider.refuse(no));
        }
    }
}

/// Datagrams go where the policy lets them.
struct Decided<'s> {
    shared: &'s Shared,
    client: SocketAddr,
    chains: Chains,
    live: Listed,
}

/// What a client's datagrams are dropped for where the proxy on their way does not take them.
fn no_chain(why: NoChain) -> Dropped {
    match why {
        NoChain::TooMany => Dropped::Busy,
        NoChain::Upstream(
            UpstreamError::NoDescriptor
            | UpstreamError::Proxy(ProxyError::Refused | ProxyError::Unreachable | ProxyError::Timeout | ProxyError::Closed),
        ) => Dropped::NotSent,
        // It answered, and that was no yes, or not one that can be gone by.
        NoChain::Upstream(_) => Dropped::Proxied,
    }
}

impl Ways for Decided<'_> {
    /// Decide → connect: names are decided before they are resolved, and every address after. Nothing is dialled but a proxy on the way.
    fn route(&self, target: Target) -> Routing<'_> {
        Box::pin(async move {
            let (client, decider) = (self.client, &self.shared.decider);
            let question = Question::new(client, Protocol::Socks5Udp, &target);
            let permit = match decider.name(question) {
                Ok(permit) => permit,
                Err(no) => {
                    // Whoever lets it on does so for the flow, and is not asked for each datagram.
                    let Some(asking) = decider.ask(&no) else {
                        drop(decider.refuse(no));
                        return Err(Dropped::Denied);
                    };
                    let unanswered = Unanswered { decider, no: Some(no) };
                    let said = asking.await;
                    unanswered.answered();
                    let granted = decider.answered(question, said).map_err(|_| Dropped::Denied)?;
                    decider.name(granted).map_err(|no| {
                        drop(decider.refuse(no));
                        Dropped::Denied
                    })?
                }
            };
            let limits = permit.limits();
            let proxy = permit.proxy(Traffic::Tunnel);
            let route = match &proxy {
                None => self.shared.connector.route(permit, &limits).await,
                Some(proxy) if proxy.scheme().is_http() => return Err(Dropped::Proxied),
                Some(proxy) => self.shared.connector.route_through(permit, proxy, &limits).await,
            };
            let route = route.map_err(|error| match error {
                ConnectError::Denied(_) | ConnectError::Closed => Dropped::Denied,
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
            let [up, _] = Meter::tunnel(self.live.live(), upload);
            Ok(Way { flow: Flow::from(route).counted(up), door })
        })
    }

    fn policy(&self) -> &PolicyHandle {
        self.shared.decider.policy()
    }

    fn holds(&self, flow: &mut Flow, policy: &Snapshot) -> bool {
        flow.holds(policy, &self.shared.decider)
    }

    fn reached(&self, reached: Reached, flow: &Flow) {
        self.shared.gate.reached(reached, Some(self.client), flow.target().as_ref());
    }

    fn handed(&self, bytes: usize) {
        self.shared.counters.add(Counter::BytesDown, bytes);
        self.live.add(0, bytes as u64);
    }

    fn renewed(&self, generation: u64) {
        self.live.set_generation(generation);
    }

    fn is_closing(&self) -> bool {
        self.live.is_closing()
    }

    fn dropped(&self, why: Dropped) {
        self.shared.decider.dropped(self.client, why);
    }
}
