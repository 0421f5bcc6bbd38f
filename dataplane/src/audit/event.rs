//! One shape for every decision, for whoever observes.

use crate::error::LoadError;
use crate::policy::Snapshot;
use policy_format::{Decision, Host, HostRef, Limit, Protocol};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Why a request may go on, and who says so, where it is a rule.
pub(super) const ALLOWED: &str = "allow";
pub(super) const BASELINE: &str = "baseline_policy";

/// A request was decided. Borrowed: an observer that keeps something copies it.
#[derive(Debug)]
pub struct Decided<'a> {
    /// The policy that decided.
    pub snapshot: &'a Snapshot,
    /// Who asked.
    pub client: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// For which host; `unix-socket`, with port 0 and no rule, stands for a unix socket.
    pub host: &'a Host,
    /// For which port.
    pub port: u16,
    /// With which method, where there is one.
    pub method: Option<&'a str>,
    /// What was decided.
    pub decision: Decision,
    /// Which request this is about. Where it was allowed, [`Closed`] has the same number at its end; an association for datagrams has one without a decision, since each
    /// of its targets is decided by itself. Each number is used once while the process lives; 0 is none.
    pub id: u64,
    /// What the embedding program said, where it was asked: about what no rule allows, and nothing else. It goes before `decision`.
    pub decider: Option<&'a Answer>,
}

impl Decided<'_> {
    /// What becomes of the request.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.decider, self.decision) {
            (Some(Answer::Allow), _) | (None, Decision::Allow(_)) => Verdict::Allow,
            (Some(Answer::Ask(_)), _) => Verdict::Ask,
            (Some(Answer::Deny(_)), _) | (None, Decision::Deny(_)) => Verdict::Deny,
        }
    }

    /// Why, for machines: `allow`, the policy's reason, or the embedding program's. An override of it keeps the policy's reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        match (self.decider, self.decision) {
            (Some(Answer::Ask(reason) | Answer::Deny(reason)), _) => reason,
            (_, Decision::Deny(denied)) => denied.reason.as_str(),
            (_, Decision::Allow(_)) => ALLOWED,
        }
    }

    /// Who decided, for machines.
    #[must_use]
    pub fn source(&self) -> &'static str {
        match (self.decider, self.decision) {
            (Some(_), _) => "decider",
            (None, Decision::Deny(denied)) => denied.reason.source().as_str(),
            (None, Decision::Allow(_)) => BASELINE,
        }
    }

    /// The embedding program allowed what no rule does.
    #[must_use]
    pub fn is_override(&self) -> bool {
        matches!(self.decider, Some(Answer::Allow))
    }
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It may go on.
    Allow,
    /// It may not.
    Deny,
    /// It may not, until somebody who was asked lets it: the client is told as of a denial.
    Ask,
}

impl Verdict {
    /// The name used in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Ask => "ask",
        }
    }
}

/// What an embedding program says of a request that no rule allows. Reasons are short words for machines, such as `not_approved`; an empty one stands for `policy_denied`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Let it go on, this once.
    Allow,
    /// Refuse it.
    Deny(String),
    /// Refuse it for now: somebody has to be asked.
    Ask(String),
}

/// Something that was allowed has ended: an HTTP exchange, a tunnel, an association for datagrams.
#[derive(Debug)]
pub struct Closed<'a> {
    /// That of [`Decided`].
    pub id: u64,
    /// The policy that allowed it, or last let it go on.
    pub generation: u64,
    /// Whose it was.
    pub client: SocketAddr,
    /// How it was asked for.
    pub protocol: Protocol,
    /// Where it led, as in [`Decided`]; `udp-association`, with port 0, stands for where the datagrams of a client went.
    pub host: HostRef<'a>,
    /// To which port.
    pub port: u16,
    /// Bytes of bodies, or in the tunnel, from the client. Those of a tunnel that was read are those of the requests in it, each of which has an end of its own too.
    pub up: u64,
    /// The same to the client.
    pub down: u64,
    /// From the decision to the end.
    pub duration: Duration,
    /// How it ended.
    pub ending: Ending,
}

/// How something that was allowed has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Both sides said all.
    Done,
    /// One of them broke off.
    Broken,
    /// The origin, or the way to it, failed: an `x-proxy-error`.
    Upstream(&'static str),
    /// A limit, by its name.
    Limited(&'static str),
    /// A new policy does not allow it.
    Revoked,
    /// Its first bytes speak of a server that the policy does not allow.
    Looked,
    /// An operator closed it.
    Closed,
    /// The proxy stopped.
    Stopped,
}

impl Ending {
    /// One of each kind.
    pub(crate) const KINDS: [Self; 8] =
        [Self::Done, Self::Broken, Self::Upstream(""), Self::Limited(""), Self::Revoked, Self::Looked, Self::Closed, Self::Stopped];

    /// The place of its kind among them.
    pub(crate) fn kind(self) -> usize {
        let is_same = |kind: &Self| std::mem::discriminant(kind) == std::mem::discriminant(&self);
        Self::KINDS.iter().position(is_same).unwrap_or(Self::KINDS.len())
    }

    /// The name used in events; of a failure upstream and of a limit, the kind only.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Broken => "broken",
            Self::Upstream(_) => "upstream",
            Self::Limited(_) => "limited",
            Self::Revoked => "revoked",
            Self::Looked => "looked",
            Self::Closed => "closed",
            Self::Stopped => "stopped",
        }
    }

    /// Which failure, or which limit.
    #[must_use]
    pub fn detail(self) -> Option<&'static str> {
        match self {
            Self::Upstream(detail) | Self::Limited(detail) => Some(detail),
            _ => None,
        }
    }
}

/// What came of a reload.
#[derive(Debug)]
pub enum Reload<'a> {
    /// A new policy is in force.
    Swapped(Arc<Snapshot>),
    /// The file holds the policy that is in force.
    Unchanged,
    /// The file was refused; the policy in force is the old one.
    Refused(&'a LoadError),
    /// The file of the policy in force, which is mapped as it is, was changed under it. Everything is blocked until a good policy is loaded.
    Withdrawn(&'a LoadError),
}

/// A limit was reached: somebody waited, was refused or was cut off.
#[derive(Debug)]
pub struct LimitReached<'a> {
    /// Which one.
    pub limit: &'static Limit,
    /// By whom, if by one client.
    pub client: Option<SocketAddr>,
    /// On the way to which host, if to one.
    pub host: Option<&'a Host>,
    /// To which port.
    pub port: Option<u16>,
}

/// Whether clients are accepted. At the limit of connections they wait too, but that is a limit ([`Observer::limited`]).
#[derive(Debug)]
pub enum Accepting<'a> {
    /// The system gives no more descriptors, or no more memory: clients wait until it does.
    Paused(&'a io::Error),
    /// It does again.
    Resumed,
}

/// Why a datagram of a SOCKS5 client went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// From the client, or from a proxy on the way: it has no header, or one that leads nowhere.
    Malformed,
    /// From the client, or from a proxy on the way: a piece of a longer one (RFC 1928, section 7, lets a server drop them).
    Fragment,
    /// To the relay, from somebody else than the client.
    Stranger,
    /// From the client: the policy does not allow its target.
    Denied,
    /// From the client: its target is reached through another proxy, which takes no datagrams. It is not gone around.
    Proxied,
    /// From the client: its target's name, or that of the proxy on the way, could not be resolved.
    NotResolved,
    /// From the client: too many wait for names and proxies already, or there are too many proxies.
    Busy,
    /// Either way: the network does not take it, or not now; the proxy on the way cannot be reached.
    NotSent,
    /// To the client: nothing was sent to where it comes from, or nothing may be any more.
    NotAsked,
}

impl Dropped {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::Fragment,
        Self::Stranger,
        Self::Denied,
        Self::Proxied,
        Self::NotResolved,
        Self::Busy,
        Self::NotSent,
        Self::NotAsked,
    ];

    /// The name used in events and counters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::Stranger => "stranger",
            Self::Denied => "denied",
            Self::Proxied => "proxied",
            Self::NotResolved => "not_resolved",
            Self::Busy => "busy",
            Self::NotSent => "not_sent",
            Self::NotAsked => "not_asked",
        }
    }
}

/// Hears of decisions and reloads. Called on the request's own task: whoever takes long or blocks holds up requests.
pub trait Observer: Send + Sync + 'static {
    /// A request was decided: allowed after its addresses were checked too, or denied. Of a request that is allowed this is said once, also where it is sent again because an idle
    /// connection had gone stale.
    fn decided(&self, event: &Decided<'_>) {
        let _ = event;
    }

    /// Whether somebody hears of what has ended. Asked before each [`Self::closed`], so that what nobody hears of costs nothing.
    fn wants_closes(&self) -> bool {
        true
    }

    /// Something that was allowed has ended.
    fn closed(&self, event: &Closed<'_>) {
        let _ = event;
    }

    /// A tunnel, or an exchange under way, was closed, because the policy that came into force does not allow it.
    fn revoked(&self, event: &Decided<'_>) {
        let _ = event;
    }

    /// The first bytes in a tunnel speak of a server that the policy does not allow, or that cannot be made out: then the host is the tunnel's. `closed`: whether the tunnel
    /// is closed for it.
    fn inner(&self, event: &Decided<'_>, closed: bool) {
        let _ = (event, closed);
    }

    /// A datagram of a SOCKS5 client, or one to it, was dropped. `client` is the client's end of the connection that the datagrams belong to.
    fn dropped(&self, client: SocketAddr, why: Dropped) {
        let _ = (client, why);
    }

    /// A policy comes into force: the first, or by a swap, in their order. Said before anything is decided by it.
    fn in_force(&self, snapshot: &Arc<Snapshot>) {
        let _ = snapshot;
    }

    /// A reload was tried.
    fn reloaded(&self, outcome: &Reload<'_>) {
        let _ = outcome;
    }

    /// Whoever runs the proxy has [set the mode](crate::Handle::set_mode), and this came of it: the same policy under a generation of its own.
    fn mode_set(&self, snapshot: &Arc<Snapshot>) {
        let _ = snapshot;
    }

    /// Whether new requests are to be refused, because what is decided on them could not be told. Asked for each of them.
    fn refuses(&self) -> bool {
        false
    }

    /// A limit was reached. Peers can make that happen as often as they like.
    fn limited(&self, event: &LimitReached<'_>) {
        let _ = event;
    }

    /// Something that whoever runs the proxy has to see to, and that clients are not told: a secret that is missing. Nothing of a secret is in it.
    fn fault(&self, what: &str) {
        let _ = what;
    }

    /// Listeners paused, or went on.
    fn accepting(&self, state: &Accepting<'_>) {
        let _ = state;
    }
}

/// Hears and says nothing.
pub(crate) struct Silent;

impl Observer for Silent {
    fn wants_closes(&self) -> bool {
        false
    }
}
