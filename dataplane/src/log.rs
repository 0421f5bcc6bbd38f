//! Log lines, by way of `tracing`. This library installs no subscriber: where the program has none, nothing is written, and asking costs one look at a number.
//!
//! Levels: `info` for the start, a policy that comes into force and the stop; `warn` for what whoever runs the proxy has to see to; `debug` for each decision, each end and each
//! limit that was reached. Lines have hosts, ports, methods and names of rules' reasons; never a path, a query, a header or a secret.

use crate::Addresses;
use crate::audit::event::{Accepting, Closed, Decided, Dropped, LimitReached, Observer, Reload};
use crate::counters::{Counter, Counters};
use crate::policy::Snapshot;
use std::net::SocketAddr;
use std::sync::Arc;
use tracing::{debug, info, warn};

/// What log lines are about: the targets of this library's `tracing` events, each below `netproxy::`.
pub const LOG_TARGETS: [&str; 7] = ["accept", "close", "decide", "fault", "limit", "policy", "server"];

/// Passes on what is observed to whoever observes; counts and logs it on the way.
pub(crate) struct Logged {
    observer: Arc<dyn Observer>,
    counters: Arc<Counters>,
}

impl Logged {
    pub(crate) fn new(observer: Arc<dyn Observer>, counters: &Arc<Counters>) -> Arc<Self> {
        Arc::new(Self { observer, counters: Arc::clone(counters) })
    }
}

/// It listens, and serves from now on.
pub(crate) fn serving(addresses: &Addresses, workers: usize, snapshot: &Snapshot) {
    let Addresses { http, socks5, admin } = addresses;
    let (socks5, admin) = (socks5.map(tracing::field::display), admin.map(tracing::field::display));
    let (generation, digest, rules) = (snapshot.generation(), snapshot.digest(), snapshot.rule_count());
    info!(target: "netproxy::server", %http, socks5, admin, workers, generation, %digest, rules, "serving");
}

/// It was stopped, and everything has ended or was ended.
pub(crate) fn stopped() {
    info!(target: "netproxy::server", "stopped");
}

fn decision(event: &Decided<'_>, what: &'static str) {
    let Decided { client, protocol, host, port, method, id, .. } = event;
    let (decision, reason, source) = (event.verdict().as_str(), event.reason(), event.source());
    let generation = event.snapshot.generation();
    debug!(target: "netproxy::decide", id, %client, %protocol, %host, port, method, decision, reason, source, generation, "{what}");
}

impl Observer for Logged {
    fn decided(&self, event: &Decided<'_>) {
        decision(event, "decided");
        self.observer.decided(event);
    }

    fn wants_closes(&self) -> bool {
        self.observer.wants_closes() || tracing::enabled!(target: "netproxy::close", tracing::Level::DEBUG)
    }

    fn closed(&self, event: &Closed<'_>) {
        let Closed { id, client, protocol, host, port, up, down, duration, ending, .. } = event;
        let (ending, detail, seconds) = (ending.as_str(), ending.detail(), duration.as_secs_f64());
        debug!(target: "netproxy::close", id, %client, %protocol, %host, port, up, down, seconds, ending, detail, "closed");
        self.observer.closed(event);
    }

    fn revoked(&self, event: &Decided<'_>) {
        decision(event, "revoked");
        self.observer.revoked(event);
    }

    fn inner(&self, event: &Decided<'_>, closed: bool) {
        decision(event, if closed { "closed for what is spoken in the tunnel" } else { "let on, whatever is spoken in the tunnel" });
        self.observer.inner(event, closed);
    }

    fn dropped(&self, client: SocketAddr, why: Dropped) {
        debug!(target: "netproxy::decide", %client, reason = why.as_str(), "datagram dropped");
        self.observer.dropped(client, why);
    }

    fn in_force(&self, snapshot: &Arc<Snapshot>) {
        let (generation, digest, rules) = (snapshot.generation(), snapshot.digest(), snapshot.rule_count());
        // The start says the first.
        if generation > 1 {
            info!(target: "netproxy::policy", generation, mode = snapshot.mode().as_str(), %digest, rules, "policy in force");
        }
        self.observer.in_force(snapshot);
    }

    fn refuses(&self) -> bool {
        self.observer.refuses()
    }

    fn mode_set(&self, snapshot: &Arc<Snapshot>) {
        self.observer.mode_set(snapshot);
    }

    fn reloaded(&self, outcome: &Reload<'_>) {
        self.counters.count(Counter::reloaded(outcome));
        match outcome {
            // Said when it came into force.
            Reload::Swapped(_) => {}
            Reload::Unchanged => debug!(target: "netproxy::policy", "the file holds the policy that is in force"),
            Reload::Refused(error) => warn!(target: "netproxy::policy", %error, "policy refused, the one in force stays"),
            Reload::Withdrawn(error) => warn!(target: "netproxy::policy", %error, "policy withdrawn, everything is blocked"),
        }
        self.observer.reloaded(outcome);
    }

    fn limited(&self, event: &LimitReached<'_>) {
        let LimitReached { limit, client, host, port } = event;
        let (client, host) = (client.map(tracing::field::display), host.map(tracing::field::display));
        debug!(target: "netproxy::limit", limit = limit.name, client, host, port, "limit reached");
        self.observer.limited(event);
    }

    fn fault(&self, what: &str) {
        self.counters.count(Counter::Faults);
        warn!(target: "netproxy::fault", "{what}");
        self.observer.fault(what);
    }

    fn accepting(&self, state: &Accepting<'_>) {
        match state {
            Accepting::Paused(error) => warn!(target: "netproxy::accept", %error, "accepting paused, clients wait"),
            Accepting::Resumed => info!(target: "netproxy::accept", "clients are accepted again"),
        }
        self.observer.accepting(state);
    }
}
