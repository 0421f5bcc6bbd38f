//! Snapshot and request to a `Permit` or a `Denial`: the only maker of permits.
//!
//! A decision has two steps. [`Decider::name`] decides on the request as it was made; only what it permits may be resolved. [`Permit::addresses`] decides on
//! what the name resolved to, and gives the [`Route`] that may be dialled. Both ask the same pure function.
//!
//! Where a proxy stands in between, [`Permit::proxy`] says which, and [`Permit::via`] gives the route: it leads to that proxy and says what may be asked of it. Unix sockets are
//! decided in `socket.rs`.

pub(crate) mod deny;
pub(crate) mod socket;

use crate::audit::event::{Decided, Observer};
use crate::connect::upstream::{Environment, Proxy, Traffic};
use crate::parse::target::Target;
use crate::policy::{PolicyHandle, Snapshot};
use deny::Denial;
use policy_format::{Decision, Denied, Host, Limits, Protocol, Reason, Request};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Decides for all connections.
pub(crate) struct Decider {
    policy: PolicyHandle,
    observer: Arc<dyn Observer>,
    /// Our own listeners, which nobody may reach through us.
    own: Vec<SocketAddr>,
    /// The proxies that the environment names.
    environment: Environment,
}

/// A request as the decision sees it.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) client: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) target: Target,
    /// Only for plain HTTP.
    pub(crate) method: Option<String>,
    /// Only for plain HTTP: the path, without the query.
    pub(crate) path: Option<String>,
    /// Whether it is for a unix socket. The target is then what stands for one.
    pub(crate) socket: bool,
}

impl Question {
    /// As it is put to a policy. Numbers of profiles are the policy's own, so that the question has none: it is asked under the one that each policy has for it.
    fn request<'a>(&'a self, snapshot: &Snapshot, addresses: &'a [IpAddr]) -> Request<'a> {
        Request {
            profile: snapshot.profile(),
            protocol: self.protocol,
            host: &self.target.host,
            port: self.target.port,
            method: self.method.as_deref(),
            path: self.path.as_deref(),
            addresses,
        }
    }
}

/// The name may be resolved. Nothing may be dialled yet.
pub(crate) struct Permit<'d> {
    decider: &'d Decider,
    snapshot: Arc<Snapshot>,
    question: Question,
}

/// These addresses may be dialled, for this request, under this policy.
pub(crate) struct Route {
    snapshot: Arc<Snapshot>,
    question: Question,
    addresses: Vec<SocketAddr>,
    read_only: bool,
    through: Option<Through>,
}

/// The proxy that a route leads to, and what may be asked of it.
struct Through {
    proxy: Arc<Proxy>,
    /// The checked addresses of the target; none where the proxy looks the name up.
    asked: Vec<IpAddr>,
}

impl Decider {
    pub(crate) fn new(policy: PolicyHandle, observer: Arc<dyn Observer>, own: Vec<SocketAddr>, environment: Environment) -> Self {
        Self { policy, observer, own, environment }
    }

    /// The limits of the policy that is in force.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        Arc::clone(self.policy.current().limits())
    }

    pub(crate) fn policy(&self) -> &PolicyHandle {
        &self.policy
    }

    /// Decides on a request as it was made, under the policy that is in force now.
    pub(crate) fn name(&self, question: Question) -> Result<Permit<'_>, Box<Denial>> {
        let snapshot = self.policy.current();
        match snapshot.decide(&question.request(&snapshot, &[])) {
            Decision::Allow(_) => Ok(Permit { decider: self, snapshot, question }),
            Decision::Deny(denied) => Err(self.deny(snapshot, question, denied)),
        }
    }

    fn deny(&self, snapshot: Arc<Snapshot>, question: Question, denied: Denied) -> Box<Denial> {
        self.observe(&snapshot, &question, Decision::Deny(denied));
        Box::new(Denial { snapshot, question, denied })
    }

    fn observe(&self, snapshot: &Snapshot, question: &Question, decision: Decision) {
        self.observer.decided(&Decided {
            snapshot,
            client: question.client,
            protocol: question.protocol,
            host: &question.target.host,
            port: question.target.port,
            method: question.method.as_deref(),
            decision,
        });
    }

    /// Whether an address is one of our own listeners, in any of the ways in which it can be written.
    fn is_own(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.own.iter().any(|own| {
            let listener = own.ip().to_canonical();
            // Listening on all addresses is listening on this one; connecting to "all addresses" is connecting to loopback.
            let same = listener == ip || listener.is_unspecified() || (ip.is_unspecified() && listener.is_loopback());
            same && own.port() == address.port()
        })
    }
}

impl Permit<'_> {
    pub(crate) fn target(&self) -> &Target {
        &self.question.target
    }

    /// The limits of the policy that gave this permit.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        Arc::clone(self.snapshot.limits())
    }

    /// Decides on every address that the name resolved to: one that is not allowed denies them all, so that a name cannot mix in a bad one.
    pub(crate) fn addresses(self, found: &[IpAddr]) -> Result<Route, Box<Denial>> {
        let Self { decider, snapshot, question } = self;
        let decision = snapshot.decide(&question.request(&snapshot, found));
        let addresses: Vec<SocketAddr> = found.iter().map(|ip| SocketAddr::new(*ip, question.target.port)).collect();
        match decision {
            Decision::Deny(denied) => Err(decider.deny(snapshot, question, denied)),
            Decision::Allow(_) if addresses.iter().any(|address| decider.is_own(*address)) => {
                Err(decider.deny(snapshot, question, Denied { reason: Reason::PolicyDenied, rule: None }))
            }
            Decision::Allow(allowed) => {
                decider.observe(&snapshot, &question, decision);
                Ok(Route { snapshot, question, addresses, read_only: allowed.read_only, through: None })
            }
        }
    }

    /// The proxy that the policy, or the environment, has for this request; `None` is a direct connection.
    pub(crate) fn proxy(&self, traffic: Traffic) -> Option<Arc<Proxy>> {
        self.snapshot.upstreams().choose(&self.decider.environment, &self.question.target, traffic)
    }

    /// Lets a proxy be dialled at its addresses `at`, and be asked for the target: by name where `found` is empty, since then the proxy looks it up; else for one of the addresses that
    /// were found here, on each of which is decided as in [`Self::addresses`]. The proxy's own address is the configuration's matter and not that of rules; but it is never one of our
    /// own listeners.
    pub(crate) fn via(self, proxy: &Arc<Proxy>, at: &[IpAddr], found: Vec<IpAddr>) -> Result<Route, Box<Denial>> {
        let Self { decider, snapshot, question } = self;
        let decision = snapshot.decide(&question.request(&snapshot, &found));
        let literal = match question.target.host {
            Host::Ip(ip) => Some(ip),
            Host::Name(_) | Host::NumericLookalike(_) => None,
        };
        let addresses: Vec<SocketAddr> = at.iter().map(|ip| SocketAddr::new(*ip, proxy.at().port)).collect();
        let reached = found.iter().chain(&literal).map(|ip| SocketAddr::new(*ip, question.target.port));
        let comes_back = reached.chain(addresses.iter().copied()).any(|address| decider.is_own(address));
        match decision {
            Decision::Deny(denied) => Err(decider.deny(snapshot, question, denied)),
            Decision::Allow(_) if comes_back => Err(decider.deny(snapshot, question, Denied { reason: Reason::PolicyDenied, rule: None })),
            Decision::Allow(allowed) => {
                decider.observe(&snapshot, &question, decision);
                let through = Some(Through { proxy: Arc::clone(proxy), asked: found });
                Ok(Route { snapshot, question, addresses, read_only: allowed.read_only, through })
            }
        }
    }
}

impl Route {
    /// What may be dialled: the target, or the proxy on the way to it.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where to.
    pub(crate) fn target(&self) -> &Target {
        &self.question.target
    }

    /// The proxy that is dialled instead of the target.
    pub(crate) fn proxy(&self) -> Option<&Arc<Proxy>> {
        self.through.as_ref().map(|through| &through.proxy)
    }

    /// The addresses that may be asked of the proxy; none where it is asked for the name.
    pub(crate) fn asked(&self) -> &[IpAddr] {
        self.through.as_ref().map_or(&[], |through| &through.asked)
    }

    /// Nothing that cannot be read may follow.
    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }

    /// Ends when a later policy would not give this route to `peer`, the address that was dialled. Of a route through a proxy, which is that peer, the name is decided on again, with the
    /// addresses that were asked for. Dropping it ends nothing.
    pub(crate) async fn revoked(self, policy: &PolicyHandle, peer: SocketAddr) {
        // A tunnel may last for hours: it does not keep an old policy in memory.
        let Self { snapshot, question, through, .. } = self;
        let addresses = through.map_or_else(|| vec![peer.ip()], |through| through.asked);
        let generation = snapshot.generation();
        drop(snapshot);
        let mut changes = policy.changes();
        loop {
            // A policy may have changed between this request's snapshot and the subscription.
            let current = policy.current();
            if current.generation() != generation {
                let decision = current.decide(&question.request(&current, &addresses));
                // Only tunnels ask, and a tunnel cannot be read.
                if !matches!(decision, Decision::Allow(allowed) if !allowed.read_only) {
                    return;
                }
            }
            if changes.changed().await.is_err() {
                // No more policies: nothing will revoke this.
                std::future::pending::<()>().await;
            }
        }
    }
}
