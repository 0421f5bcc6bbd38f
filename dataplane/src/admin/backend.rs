//! What the API asks of the proxy: everything that is not in a [`Snapshot`](crate::policy::Snapshot) of its policy.

use super::access::Access;
use super::model::{Audit, Blocked, Readiness, Tunnel};
use crate::policy::PolicyHandle;
use policy_format::Mode;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

/// Something to be awaited.
pub(crate) type Wait<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The proxy, as the API sees it.
pub(crate) trait Backend: Send + Sync + 'static {
    /// Who may use the API.
    fn access(&self) -> &Access;

    /// The policy in force, and the one after it.
    fn policy(&self) -> &PolicyHandle;

    /// The mode that an operator wanted.
    fn wanted_mode(&self) -> Option<Mode>;

    /// Wants a mode, or takes that back.
    ///
    /// # Errors
    /// Why not, for people.
    fn set_mode(&self, wanted: Option<Mode>) -> Result<(), String>;

    /// Looks at the policy file now.
    ///
    /// # Errors
    /// There is none, or it was refused.
    fn reload(&self) -> Wait<'_, Result<(), ReloadFailure>>;

    /// Stops accepting, finishes what is open, and ends.
    fn drain(&self);

    /// Whether it does so already.
    fn is_draining(&self) -> bool;

    /// Why every new request is refused, or waits, if it does, and what that is called.
    fn held_up(&self) -> Option<(Readiness, &'static str)>;

    /// The counters, and of which type that text is, as somebody who accepts this wants it.
    fn metrics(&self, accept: Option<&str>) -> (String, &'static str);
    /// What is counted in this process, in Prometheus' format, and nothing that the system has to be asked for.
    fn counted(&self) -> String;

    /// Tunnels with a number above `after`, at most `limit` of them, by their numbers.
    fn tunnels(&self, after: u64, limit: usize) -> Vec<Tunnel>;

    /// How many are open.
    fn tunnel_count(&self) -> u64;

    /// Closes one; `false` where there is none of that number.
    fn close_tunnel(&self, id: u64) -> bool;

    /// Where events go, and how that goes.
    fn audit(&self) -> Audit;

    /// Ends once all that has happened so far can be seen.
    fn settled(&self) -> Wait<'_, ()>;

    /// What was refused after the number `since`, the oldest first, at most `limit` of it.
    fn blocked(&self, since: u64, limit: usize) -> Blocked;

    /// Forgets it, and says how much it was.
    fn drain_blocked(&self) -> u64;

    /// Events from now on, behind those refusals above the number `after` that are kept; `None` where too many follow already.
    fn follow(&self, filter: Filter, after: Option<u64>) -> Option<Box<dyn Follow>>;

    /// Whether an address is one of our own listeners.
    fn is_own(&self, address: SocketAddr) -> bool;

    /// A request was answered: by which route, or by none.
    fn answered(&self, route: &'static str, status: u16);

    /// Something that whoever runs the proxy has to see to.
    fn fault(&self, what: &str);
}

/// Why there is no new policy.
#[derive(Debug)]
pub(crate) enum ReloadFailure {
    /// There is no file.
    NoFile,
    /// It was refused, and why.
    Refused(String),
}

/// Events as they come.
pub(crate) trait Follow: Send {
    /// The next one; `None` once there are no more.
    fn next(&mut self) -> Wait<'_, Option<Item>>;
}

/// What somebody who follows events gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// An event: its number, the last part of its name, and itself as a line of JSON.
    Event { id: u64, name: &'static str, json: String },
    /// He was too slow: that many are missing.
    Lost(u64),
}

/// Which events somebody wants. Those that are about no request have no decision, reason, host or protocol.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// `allow`, `deny` or `ask`.
    pub(crate) decision: Option<String>,
    /// Why, for machines.
    pub(crate) reason: Option<String>,
    /// The host, or, after `*.`, what is below it.
    pub(crate) host: Option<String>,
    /// How it was asked for.
    pub(crate) protocol: Option<String>,
}

impl Filter {
    /// Whether an event with these facts is wanted.
    pub(crate) fn takes(&self, decision: Option<&str>, reason: Option<&str>, host: Option<&str>, protocol: Option<&str>) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
        let host_is = match &self.host {
            None => true,
            Some(wanted) => host.is_some_and(|host| match wanted.strip_prefix("*.") {
                Some(parent) => host.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')),
                None => host == wanted,
            }),
        };
        host_is && is(&self.decision, decision) && is(&self.reason, reason) && is(&self.protocol, protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_take_what_has_all_that_they_ask_for() {
        let filter = |decision: Option<&str>, host: Option<&str>| Filter {
            decision: decision.map(str::to_owned),
            host: host.map(str::to_owned),
            ..Filter::default()
        };
        let takes = |filter: &Filter| filter.takes(Some("deny"), Some("not_allowed"), Some("a.b.test"), Some("http"));
        for (wanted, expected) in [
            (filter(None, None), true),
            (filter(Some("deny"), None), true),
            (filter(Some("allow"), None), false),
            (filter(Some("deny"), Some("a.b.test")), true),
            (filter(None, Some("*.b.test")), true),
            (filter(None, Some("*.test")), true),
            (filter(None, Some("*.a.b.test")), false),
            (filter(None, Some("b.test")), false),
            (filter(Some("allow"), Some("a.b.test")), false),
        ] {
            assert_eq!(takes(&wanted), expected, "{wanted:?}");
        }
        assert!(filter(None, None).takes(None, None, None, None) && !filter(Some("deny"), None).takes(None, None, None, None));
    }
}
