//! Unix sockets: a request and the real path of what was opened, to a permit or a denial.
//!
//! As with names there are two steps: [`Decider::socket`] decides whether the request may ask for a socket at all, and [`SocketPermit::opened`] on the one that its path led to. The path
//! that the client wrote decides nothing.

use super::deny::Denial;
use super::{Decider, Guard, Question};
use crate::limits::Place;
use crate::policy::Snapshot;
use crate::signal::Ear;
use policy_format::{Allowed, Decision, Denied, Limits, Mode, Network, OnRevoke, Protocol, READING, Reason, RuleId, Sni};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// What a unix socket is called where a host is asked for. No host has this name and port 0.
pub(crate) const NAME: &str = "unix-socket";

/// What the list of sockets stands for where rules are reported: no rule of any policy has this number.
const NO_RULE: RuleId = RuleId(u32::MAX);

/// A socket may be opened, to see what it is. Nothing may be connected to yet.
pub(crate) struct SocketPermit<'d, 'q> {
    decider: &'d Decider,
    snapshot: Arc<Snapshot>,
    question: Question<'q>,
}

/// That very socket may be connected to.
pub(crate) struct SocketRoute {
    generation: u64,
    real: Box<Path>,
    method: Option<String>,
    client: SocketAddr,
    read_only: bool,
    limits: Arc<Limits>,
}

impl Decider {
    /// Decides whether a request may ask for a unix socket.
    pub(crate) fn socket<'d, 'q>(&'d self, question: Question<'q>) -> Result<SocketPermit<'d, 'q>, Box<Denial>> {
        let snapshot = self.policy().current();
        match may_ask(&snapshot, question.client, question.method) {
            Ok(()) => Ok(SocketPermit { decider: self, snapshot, question }),
            Err(reason) => Err(self.deny(snapshot, question, Denied { reason, rule: None })),
        }
    }
}

/// What does not depend on the socket.
fn may_ask(snapshot: &Snapshot, client: SocketAddr, method: Option<&str>) -> Result<(), Reason> {
    let meta = snapshot.meta();
    if meta.network != Network::Proxied {
        return Err(Reason::ProxyDisabled);
    }
    if !meta.unix_sockets.any() {
        return Err(Reason::NotAllowed);
    }
    // A listener that other machines reach would be a bridge. There is none where a policy opens sockets; this is for one that was opened before.
    if !client.ip().to_canonical().is_loopback() {
        return Err(Reason::PolicyDenied);
    }
    if meta.mode == Mode::Limited && !method.is_some_and(|method| READING.contains(&method)) {
        return Err(Reason::MethodNotAllowed);
    }
    Ok(())
}

impl SocketPermit<'_, '_> {
    pub(crate) fn limits(&self) -> Arc<Limits> {
        Arc::clone(self.snapshot.limits())
    }

    /// Whether the policy allows this path, as it is written: only then is a client told that nothing is there.
    pub(crate) fn names(&self, path: &Path) -> bool {
        self.snapshot.allows_socket(path)
    }

    /// Decides on the real path of what was opened.
    pub(crate) fn opened(self, real: &Path) -> Result<SocketRoute, Box<Denial>> {
        let Self { decider, snapshot, question } = self;
        if !snapshot.allows_socket(real) {
            return Err(decider.deny(snapshot, question, Denied { reason: Reason::NotAllowed, rule: None }));
        }
        let read_only = snapshot.meta().mode == Mode::Limited;
        decider.observe(&snapshot, &question, Decision::Allow(Allowed { rule: NO_RULE, read_only, intercept: false, hook: None }));
        let (generation, client, limits) = (snapshot.generation(), question.client, Arc::clone(snapshot.limits()));
        Ok(SocketRoute { generation, real: real.into(), method: question.method.map(str::to_owned), client, read_only, limits })
    }

    /// Nothing could be opened, and the path is not one that the policy allows.
    pub(crate) fn refuse(self) -> Box<Denial> {
        self.decider.deny(self.snapshot, self.question, Denied { reason: Reason::NotAllowed, rule: None })
    }
}

impl SocketRoute {
    /// Nothing that cannot be read may follow.
    pub(crate) fn read_only(&self) -> bool {
        self.read_only
    }

    /// The policy that gave this route.
    pub(crate) fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// Whether a policy allows the socket to what has switched protocols, and cannot be read.
    pub(super) fn is_allowed(&self, policy: &Snapshot) -> bool {
        let may = may_ask(policy, self.client, self.method.as_deref()).is_ok() && policy.allows_socket(&self.real);
        may && policy.meta().mode == Mode::Full
    }

    /// Whether the policy that is in force now, if it is another one, would not give this route.
    pub(crate) fn is_revoked(&self, decider: &Decider) -> bool {
        let current = decider.policy().current();
        if current.generation() == self.generation || current.settings().on_revoke == OnRevoke::Keep {
            return false;
        }
        may_ask(&current, self.client, self.method.as_deref()).is_err() || !current.allows_socket(&self.real)
    }

    /// Watches over what has switched protocols on this route.
    pub(crate) fn guard(self, decider: &Arc<Decider>, ear: Ear, place: Place) -> Guard {
        Guard {
            decider: Arc::clone(decider),
            ear,
            asked: true,
            generation: self.generation,
            client: self.client,
            protocol: Protocol::Http,
            place,
            port: 0,
            addresses: Box::default(),
            kept: None,
            socket: Some(Box::new(self)),
            sni: Sni::Off,
        }
    }
}
