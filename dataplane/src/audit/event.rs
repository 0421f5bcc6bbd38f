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

/// Hears of decisions and reloads. Called on the request's own task: whoever takes long or blocks holds up requests.
pub trait Observer: Send + Sync + 'static {
    /// A request was decided: allowed after its addresses were checked too, or denied. A request that is sent again, because an idle connection had gone stale, is
    /// decided again.
    fn decided(&self, event: &Decided<'_>) {
        let _ = event;
    }

    /// A reload was tried.
    fn reloaded(&self, outcome: &Reload<'_>) {
        let _ = outcome;
    }
}

/// Hears and says nothing.
pub(crate) struct Silent;

impl Observer for Silent {}
