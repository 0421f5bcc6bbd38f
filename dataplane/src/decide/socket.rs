//! Unix sockets: a request and the real path of what was opened, to a permit or a denial.
//!
//! As with names there are two steps: [`Decider::socket`] decides whether the request may ask for a socket at all, and [`SocketPermit::opened`] on the one that its path led to. The path
//! that the client wrote decides nothing.

use super::deny::Denial;
use super::{Decider, Question};
use crate::policy::{PolicyHandle, Snapshot};
use policy_format::{Allowed, Decision, Denied, Limits, Mode, Network, READING, Reason, RuleId};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// What the list of sockets stands for where rules are reported: no rule of any policy has this number.
const NO_RULE: RuleId = RuleId(u32::MAX);

/// A socket may be opened, to see what it is. Nothing may be connected to yet.
pub(crate) struct SocketPermit<'d> {
    decider: &'d Decider,
    snapshot: Arc<Snapshot>,
    question: Question,
}

/// That very socket may be connected to.
pub(crate) struct SocketRoute {
    generation: u64,
    real: Box<Path>,
    method: Option<String>,
    client: SocketAddr,
    read_only: bool,
}

impl Decider {
    /// Decides whether a request may ask for a unix socket.
    pub(crate) fn socket(&self, question: Question) -> Result<SocketPermit<'_>, Box<Denial>> {
        let snapshot = self.policy().current();
        match may_ask(&snapshot, question.client, question.method.as_deref()) {
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

impl SocketPermit<'_> {
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
        decider.observe(&snapshot, &question, Decision::Allow(Allowed { rule: NO_RULE, read_only }));
        let (generation, client) = (snapshot.generation(), question.client);
        Ok(SocketRoute { generation, real: real.into(), method: question.method, client, read_only })
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

    /// Ends when a later policy would not allow the socket. Dropping it ends nothing.
    pub(crate) async fn revoked(self, policy: &PolicyHandle) {
        let mut changes = policy.changes();
        loop {
            let current = policy.current();
            let allowed = may_ask(&current, self.client, self.method.as_deref()).is_ok() && current.allows_socket(&self.real);
            // Only what has switched protocols asks, and that cannot be read.
            if current.generation() != self.generation && !(allowed && current.meta().mode == Mode::Full) {
                return;
            }
            drop(current);
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
