//! Snapshot and request to a `Permit` or a `Denial`: the only maker of permits.
//!
//! A decision has two steps. [`Decider::name`] decides on the request as it was made; only what it permits may be resolved. [`Permit::addresses`] decides on
//! what the name resolved to, and gives the [`Route`] that may be dialled. Both ask the same pure function.

pub(crate) mod datagram;
pub(crate) mod deny;

use crate::audit::event::{Decided, Observer};
use crate::parse::target::Target;
use crate::policy::{PolicyHandle, Snapshot};
use datagram::Relays;
use deny::Denial;
use policy_format::{Decision, Denied, Limits, Protocol, Reason, Request};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Decides for all connections.
pub(crate) struct Decider {
    policy: PolicyHandle,
    observer: Arc<dyn Observer>,
    /// Our own listeners, which nobody may reach through us.
    own: Vec<SocketAddr>,
    /// Our own sockets for clients' datagrams.
    relays: Relays,
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
}

impl Decider {
    pub(crate) fn new(policy: PolicyHandle, observer: Arc<dyn Observer>, own: Vec<SocketAddr>) -> Self {
        Self { policy, observer, own, relays: Relays::default() }
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

    /// Refuses what is no matter of rules.
    pub(crate) fn refuse(&self, question: Question, reason: Reason) -> Box<Denial> {
        self.deny(self.policy.current(), question, Denied { reason, rule: None })
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

    /// Whether an address is one of our own listeners or, for datagrams, one of our own relays.
    fn is_own(&self, protocol: Protocol, address: SocketAddr) -> bool {
        self.own.iter().any(|own| leads_to(address, *own)) || (protocol == Protocol::Socks5Udp && self.relays.has(address))
    }
}

/// Whether what is sent to an address comes to `own`, in any of the ways in which it can be written.
fn leads_to(address: SocketAddr, own: SocketAddr) -> bool {
    let (ip, listener) = (address.ip().to_canonical(), own.ip().to_canonical());
    // Listening on all addresses is listening on this one; connecting to "all addresses" is connecting to loopback.
    let same = listener == ip || listener.is_unspecified() || (ip.is_unspecified() && listener.is_loopback());
    same && own.port() == address.port()
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
            Decision::Allow(_) if addresses.iter().any(|address| decider.is_own(question.protocol, *address)) => {
                Err(decider.deny(snapshot, question, Denied { reason: Reason::PolicyDenied, rule: None }))
            }
            Decision::Allow(allowed) => {
                decider.observe(&snapshot, &question, decision);
                Ok(Route { snapshot, question, addresses, read_only: allowed.read_only })
            }
        }
    }
}

impl Route {
    /// What may be dialled.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Nothing that cannot be read may follow.
    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }

    /// Ends when a later policy would not give this route to `peer`, the address that was dialled. Dropping it ends nothing.
    pub(crate) async fn revoked(self, policy: &PolicyHandle, peer: SocketAddr) {
        // A tunnel may last for hours: it does not keep an old policy in memory.
        let Self { snapshot, question, .. } = self;
        let generation = snapshot.generation();
        drop(snapshot);
        let mut changes = policy.changes();
        loop {
            // A policy may have changed between this request's snapshot and the subscription.
            let current = policy.current();
            if current.generation() != generation {
                let decision = current.decide(&question.request(&current, &[peer.ip()]));
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
