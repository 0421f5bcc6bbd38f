//! One shape for every decision, for whoever observes.

use crate::error::LoadError;
use crate::policy::Snapshot;
use policy_format::{Decision, Host, Protocol};
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
    /// For which host.
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

/// Why a datagram of a SOCKS5 client went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// From the client: it has no header, or one that leads nowhere.
    Malformed,
    /// From the client: a piece of a longer one (RFC 1928, section 7, lets a server drop them).
    Fragment,
    /// To the relay, from somebody else than the client.
    Stranger,
    /// From the client: the policy does not allow its target.
    Denied,
    /// From the client: its target's name could not be resolved.
    NotResolved,
    /// From the client: too many wait for names already.
    Busy,
    /// Either way: the network does not take it, or not now.
    NotSent,
    /// To the client: nothing was sent to where it comes from, or nothing may be any more.
    NotAsked,
}

impl Dropped {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Malformed, Self::Fragment, Self::Stranger, Self::Denied, Self::NotResolved, Self::Busy, Self::NotSent, Self::NotAsked];

    /// The name used in events and counters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::Stranger => "stranger",
            Self::Denied => "denied",
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

    /// A datagram of a SOCKS5 client, or one to it, was dropped. `client` is the client's end of the connection that the datagrams belong to.
    fn dropped(&self, client: SocketAddr, why: Dropped) {
        let _ = (client, why);
    }

    /// A reload was tried.
    fn reloaded(&self, outcome: &Reload<'_>) {
        let _ = outcome;
    }
}

/// Hears and says nothing.
pub(crate) struct Silent;

impl Observer for Silent {}
