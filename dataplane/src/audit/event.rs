//! One shape for every decision, for whoever observes.

use crate::error::LoadError;
use crate::policy::Snapshot;
use policy_format::{Decision, Host, Limit, Protocol};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

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
    /// A request was decided: allowed after its addresses were checked too, or denied. A request that is sent again, because an idle connection had gone stale, is
    /// decided again.
    fn decided(&self, event: &Decided<'_>) {
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

    /// A reload was tried.
    fn reloaded(&self, outcome: &Reload<'_>) {
        let _ = outcome;
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

impl Observer for Silent {}
