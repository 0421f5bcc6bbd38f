//! Unix sockets: a request and the real path of what was opened, to a permit or a denial.
//!
//! As with names there are two steps: [`Decider::socket`] decides whether the request may ask for a socket at all, and [`SocketPermit::opened`] on the one that its path led to. The path
//! that the client wrote decides nothing but what it is told.

use super::deny::Denial;
use super::open::Open;
use super::{Decider, Question};
use crate::connect::UpstreamError;
use crate::policy::Snapshot;
use policy_format::{Allowed, Decision, Denied, Limits, Mode, Network, OnRevoke, READING, Reason, RuleId};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::time::Instant;

/// What a unix socket is called where a host is asked for. No host has this name and port 0.
pub(crate) const NAME: &str = "unix-socket";

/// What the list of sockets stands for where rules are reported: no rule of any policy has this number.
pub(super) const NO_RULE: RuleId = RuleId(u32::MAX);

/// A socket may be opened, to see what it is. Nothing may be connected to yet.
pub(crate) struct SocketPermit<'q> {
    decider: &'q Decider,
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
    pub(crate) fn socket<'q>(&'q self, question: Question<'q>) -> Result<SocketPermit<'q>, Box<Denial>> {
        let snapshot = self.policy().current();
        if self.observer.refuses() {
            return Err(self.not_told(snapshot, question));
        }
        match may_ask(&snapshot, question.client, question.method) {
            Ok(()) => Ok(SocketPermit { decider: self, snapshot, question }),
            Err(reason) => Err(self.deny(snapshot, question, Denied { reason, rule: None })),
        }
    }
}

/// What does not depend on the socket.
fn may_ask(snapshot: &Snapshot, client: SocketAddr, method: Option<&str>) -> Result<(), Reason> {
    match lets_ask(snapshot, snapshot.mode(), method, false) {
        // A listener that other machines reach would be a bridge. There is none where a policy opens sockets; this is for one that was opened before.
        Ok(()) | Err(Reason::MethodNotAllowed) if !client.ip().to_canonical().is_loopback() => Err(Reason::PolicyDenied),
        said => said,
    }
}

/// What depends on neither the socket nor the client: under that mode, and as if the policy opened one more, if it is to be so.
pub(super) fn lets_ask(snapshot: &Snapshot, mode: Mode, method: Option<&str>, one_more: bool) -> Result<(), Reason> {
    let meta = snapshot.meta();
    if meta.network != Network::Proxied {
        return Err(Reason::ProxyDisabled);
    }
    if !meta.unix_sockets.any() && !one_more {
        return Err(Reason::NotAllowed);
    }
    if mode == Mode::Limited && !method.is_some_and(|method| READING.contains(&method)) {
        return Err(Reason::MethodNotAllowed);
    }
    Ok(())
}

impl<'q> SocketPermit<'q> {
    pub(crate) fn limits(&self) -> Arc<Limits> {
        Arc::clone(self.snapshot.limits())
    }

    /// Whether the policy allows this path, as it is written: only then is a client told that nothing is there.
    pub(crate) fn names(&self, path: &Path) -> bool {
        self.snapshot.allows_socket(path)
    }

    /// The paths that the policy denies, which may lead by now to what was opened.
    pub(crate) fn denied(&self) -> Arc<[PathBuf]> {
        self.snapshot.denied_sockets()
    }

    /// The path is allowed, and nothing can be opened there.
    pub(crate) fn failed(self, error: UpstreamError) -> UpstreamError {
        if let Some(mut open) = self.open() {
            open.end(error.into());
        }
        error
    }

    /// It is allowed.
    fn open(&self) -> Option<Open<'q>> {
        let read_only = self.snapshot.mode() == Mode::Limited;
        let allowed = Allowed { rule: NO_RULE, read_only, intercept: false, hook: None, unconditional: false };
        self.decider.observe(&self.snapshot, &self.question, Decision::Allow(allowed));
        Open::new(self.decider, &self.question, self.snapshot.generation(), Some(Instant::now()))
    }

    /// Decides on the real path of what was opened for `path`. `is_denied` says that a path that the policy denies leads to the same.
    pub(crate) fn opened(self, path: &Path, real: &Path, is_denied: bool) -> Result<(SocketRoute, Option<Open<'q>>), Box<Denial>> {
        if self.decider.is_own_socket(real) {
            let Self { decider, snapshot, question } = self;
            return Err(decider.deny(snapshot, question, Denied { reason: Reason::PolicyDenied, rule: None }));
        }
        if is_denied || !self.snapshot.allows_socket(real) {
            // That a denied socket is where an allowed path leads is told; where any other path leads, nobody is told.
            let is_told = self.names(path) && (is_denied || self.snapshot.denies_socket(real));
            return Err(if is_told { self.refuse_for(Reason::Denied) } else { self.refuse(path) });
        }
        let open = self.open();
        let Self { snapshot, question, .. } = self;
        let read_only = snapshot.mode() == Mode::Limited;
        let (generation, client, limits) = (snapshot.generation(), question.client, Arc::clone(snapshot.limits()));
        let method = question.method.map(str::to_owned);
        Ok((SocketRoute { generation, real: real.into(), method, client, read_only, limits }, open))
    }

    /// Nothing could be opened, or nothing that is allowed, and the path is not one that the policy allows. The answer is the same whether something is there or not.
    pub(crate) fn refuse(self, path: &Path) -> Box<Denial> {
        let reason = if self.snapshot.denies_socket(path) { Reason::Denied } else { Reason::NotAllowed };
        self.refuse_for(reason)
    }

    fn refuse_for(self, reason: Reason) -> Box<Denial> {
        self.decider.deny(self.snapshot, self.question, Denied { reason, rule: None })
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
        may && policy.mode() == Mode::Full
    }

    /// What its client is answered, if the policy that is in force now is another one and would not give this route. Whoever observes is told, unless it was `told` before.
    pub(crate) fn revoked(&self, decider: &Decider, question: &Question<'_>, told: bool) -> Option<Box<Denial>> {
        let current = decider.policy().current();
        if current.generation() == self.generation || current.settings().on_revoke == OnRevoke::Keep {
            return None;
        }
        let reason = match may_ask(&current, self.client, self.method.as_deref()) {
            Err(reason) => reason,
            Ok(()) if current.denies_socket(&self.real) => Reason::Denied,
            Ok(()) if !current.allows_socket(&self.real) => Reason::NotAllowed,
            Ok(()) => return None,
        };
        Some(decider.revoke(current, question, Denied { reason, rule: None }, told))
    }
}
