//! What a tunnel is watched by, for as long as it lasts.

use super::socket::SocketRoute;
use super::{DecidedOn, Question, Route, Told, decided};
use crate::counters::Counter;
use crate::parse::target::Target;
use crate::policy::Snapshot;
use crate::signal::Ear;
use crate::tunnels::Listed;
use policy_format::{Decision, Denied, Host, Inside, OnRevoke, Reason, Request, Sni};
use std::net::IpAddr;
use std::task::{Context, Poll};
use zeroize::Zeroizing;

/// Watches over a tunnel: whether the policy in force still allows it, and what is spoken in it.
pub(crate) struct Guard {
    ear: Ear,
    /// There may be a policy that it was not decided under, or somebody who wants it closed.
    asked: bool,
    /// No rule allowed it, and somebody who was asked did.
    granted: bool,
    /// Whose it is, and where it leads.
    live: Listed,
    addresses: DecidedOn,
    /// The request inside TLS that switched protocols.
    kept: Option<Box<Kept>>,
    /// It goes to a unix socket; the name is what stands for one.
    socket: Option<Box<SocketRoute>>,
    sni: Sni,
}

impl Route<'_> {
    /// Watches over a tunnel on this route. `look`: whether its first bytes are to be looked at.
    pub(crate) fn guard(self, ear: Ear, peer: Option<IpAddr>, look: bool, live: Listed) -> Guard {
        let Question { method, path, inside, granted, .. } = self.question;
        let kept = inside.map(|inside| Box::new(Kept::new(method, path, inside)));
        // A tunnel may last for hours: it does not keep an old policy in memory, and says in few bytes what it is.
        let addresses = self.decided_on(peer);
        let sni = if look { self.snapshot.settings().sni } else { Sni::Off };
        Guard { ear, asked: true, granted, live, addresses, kept, socket: None, sni }
    }
}

impl SocketRoute {
    /// Watches over what has switched protocols on this route.
    pub(crate) fn guard(self, ear: Ear, live: Listed) -> Guard {
        Guard {
            ear,
            asked: true,
            granted: false,
            live,
            addresses: DecidedOn::List(Box::default()),
            kept: None,
            socket: Some(Box::new(self)),
            sni: Sni::Off,
        }
    }
}

/// What was decided on of a request that is no more.
struct Kept {
    method: Option<String>,
    path: Option<String>,
    query: Option<String>,
    headers: Vec<(String, Zeroizing<Vec<u8>>)>,
}

impl Kept {
    fn new(method: Option<&str>, path: Option<&str>, inside: &Inside<'_>) -> Self {
        let headers = inside.headers.iter().map(|(name, value)| ((*name).to_owned(), Zeroizing::new(value.to_vec())));
        Self {
            method: method.map(str::to_owned),
            path: path.map(str::to_owned),
            query: inside.query.map(str::to_owned),
            headers: headers.collect(),
        }
    }
}

/// Whether a decision lets a tunnel go on as it is, unread.
fn lets_pass(decision: Decision) -> bool {
    matches!(decision, Decision::Allow(allowed) if !allowed.read_only && !allowed.intercept)
}

/// Whom a client wants to speak to inside a tunnel.
pub(crate) enum Inner<'h> {
    /// This server.
    Server(&'h Host, u16),
    /// It began to say it, and did not come to an end, or not to a good one.
    Unclear,
}

/// Why a tunnel is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The policy in force does not allow it.
    Revoked,
    /// Somebody who runs the proxy wants it closed.
    Closed,
}

impl Guard {
    /// The tunnel is over, and something else takes its place.
    pub(crate) fn into_live(self) -> Listed {
        self.live
    }

    /// Whose it is, and where it leads.
    pub(crate) fn live(&self) -> &Listed {
        &self.live
    }

    /// Where it leads, made anew: for the few that end in a way which says so.
    pub(crate) fn target(&self) -> Option<Target> {
        Some(Target { host: Host::parse(self.live.host()).ok()?, port: self.live.port() })
    }

    /// No rule allowed it, and somebody who was asked did.
    pub(crate) fn is_granted(&self) -> bool {
        self.granted
    }

    pub(crate) fn sni(&self) -> Sni {
        self.sni
    }

    /// Ready when the tunnel is to end.
    pub(crate) fn poll_cause(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        while self.ear.poll_rung(cx).is_ready() {
            self.asked = true;
        }
        if !std::mem::take(&mut self.asked) {
            return Poll::Pending;
        }
        match () {
            () if self.live.is_closing() => Poll::Ready(Cause::Closed),
            () if self.is_revoked() => Poll::Ready(Cause::Revoked),
            () => Poll::Pending,
        }
    }

    fn is_revoked(&self) -> bool {
        let decider = self.live.decider();
        let current = decider.policy.current();
        if current.generation() == self.live.generation() || current.settings().on_revoke == OnRevoke::Keep {
            return false;
        }
        if !self.is_denied(&current) {
            self.live.set_generation(current.generation());
            return false;
        }
        decider.counters.count(Counter::TunnelsRevoked);
        true
    }

    fn is_denied(&self, current: &Snapshot) -> bool {
        if let Some(socket) = &self.socket {
            return !socket.is_allowed(current);
        }
        let Some(target) = self.target() else { return true };
        let decision = self.decide(current, &target.host, target.port);
        // A tunnel that is not read now will not be.
        let denied = !lets_pass(decision);
        if denied {
            self.live.decider().observer.revoked(&decided(current, &self.question(&target), unread(decision)));
        }
        denied
    }

    /// Whether the client may speak to that server in here: the policy has to allow it as if it had been asked for.
    pub(crate) fn inner(&self, inner: Inner<'_>) -> bool {
        let decider = self.live.decider();
        let current = decider.policy.current();
        let (host, decision) = match inner {
            Inner::Server(host, port) if self.is_for(host, port) => return true,
            Inner::Server(host, port) => (host.clone(), self.decide(&current, host, port)),
            Inner::Unclear => match Host::parse(self.live.host()) {
                Ok(host) => (host, Decision::Deny(Denied { reason: Reason::PolicyDenied, rule: None })),
                Err(_) => return false,
            },
        };
        if lets_pass(decision) {
            return true;
        }
        let target = Target { host, port: self.live.port() };
        let closed = self.sni == Sni::Enforce;
        decider.counters.count(if closed { Counter::LookedClosed } else { Counter::LookedPassed });
        decider.observer.inner(&decided(&current, &self.question(&target), unread(decision)), closed);
        !closed
    }

    fn is_for(&self, host: &Host, port: u16) -> bool {
        port == self.live.port() && host.to_string() == self.live.host()
    }

    fn question<'q>(&self, target: &'q Target) -> Question<'q> {
        let (client, protocol, id) = (self.live.client(), self.live.protocol(), self.live.id());
        Question {
            client,
            protocol,
            target,
            method: None,
            path: None,
            inside: None,
            socket: false,
            id,
            told: Told::Allowed,
            granted: false,
        }
    }

    fn decide(&self, snapshot: &Snapshot, host: &Host, port: u16) -> Decision {
        let kept = self.kept.as_deref();
        let headers: Vec<(&str, &[u8])> =
            kept.map(|kept| kept.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect()).unwrap_or_default();
        let request = Request {
            profile: snapshot.profile(),
            protocol: self.live.protocol(),
            host,
            port,
            method: kept.and_then(|kept| kept.method.as_deref()),
            path: kept.and_then(|kept| kept.path.as_deref()),
            addresses: self.addresses.as_slice(),
            inside: kept.map(|kept| Inside { query: kept.query.as_deref(), headers: &headers, body: None }),
            can_intercept: snapshot.can_intercept(),
        };
        // What was let on is the tunnel's own host, and no other that is spoken to in there.
        snapshot.decide_as(&request, self.granted && self.is_for(host, port))
    }
}

/// What stands in the way of a tunnel that cannot be read.
fn unread(decision: Decision) -> Decision {
    match decision {
        Decision::Allow(_) => Decision::Deny(Denied { reason: Reason::MitmRequired, rule: None }),
        denied @ Decision::Deny(_) => denied,
    }
}
