//! Decides on the requests of one tunnel, for whoever reads them: as if each had been made in the open, on the connection to the origin that there is.

use super::judge::{Actions, Answer, Facts, Judge};
use crate::connect::Leads;
use crate::connect::upstream::Traffic;
use crate::connection::Shared;
use crate::counters::Counter;
use crate::decide::Question;
use crate::reply;
use policy_format::{Inside, Protocol};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What its requests have in common.
pub(crate) struct OfTunnel {
    pub(crate) shared: Arc<Shared>,
    pub(crate) client: SocketAddr,
    /// Where the connection to the origin leads, and to whom.
    pub(crate) leads: Leads,
    pub(crate) peer: IpAddr,
}

impl OfTunnel {
    fn question<'q>(&self, facts: &Facts<'q>) -> Question<'q> {
        let (path, query) = facts.path();
        Question {
            client: self.client,
            protocol: Protocol::Https,
            target: facts.target,
            method: Some(facts.method),
            path: Some(path),
            inside: Some(Inside { query, headers: facts.headers, body: facts.body }),
            socket: false,
        }
    }
}

impl Judge for OfTunnel {
    fn body_wanted(&self, facts: &Facts<'_>) -> Option<usize> {
        self.shared.decider.body_wanted(&self.question(facts))
    }

    fn judge(&self, facts: &Facts<'_>) -> Result<Actions, Answer> {
        let Shared { decider, counters, .. } = &*self.shared;
        counters.count(Counter::HttpsRequests);
        match decider.reuse(self.question(facts), Traffic::Tunnel, &self.leads, self.peer) {
            Ok(Some(route)) => {
                let actions = decider.actions(&route, facts)?;
                Ok(Actions { read_only: route.read_only(), ..actions })
            }
            Ok(None) => Err(reply::another_way()),
            Err(denial) => Err(reply::denied(&denial)),
        }
    }

    fn still_allows(&self, facts: &Facts<'_>) -> bool {
        self.shared.decider.still_allows(&self.question(facts), &self.leads, self.peer)
    }
}
