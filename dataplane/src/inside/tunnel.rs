//! Decides on the requests of one tunnel, for whoever reads them: as if each had been made in the open, on the connection to the origin that there is.

use super::judge::{Actions, Facts, Judge, Judged, Refusal, Standing};
use crate::audit::event::{Answer as Said, Ending};
use crate::connect::Leads;
use crate::connect::upstream::Traffic;
use crate::connection::Shared;
use crate::counters::Counter;
use crate::decide::open::Open;
use crate::decide::{Question, Told};
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
    /// No rule allowed the tunnel, and somebody who was asked did: so are its requests.
    pub(crate) granted: bool,
}

impl OfTunnel {
    fn question<'q>(&self, facts: &Facts<'q>, seen: &'q Inside<'q>, standing: &Standing) -> Question<'q> {
        Question {
            method: Some(facts.method),
            path: Some(facts.path().0),
            inside: Some(seen),
            told: standing.told,
            granted: self.granted || standing.said == Some(Said::Allow),
            ..Question::numbered(standing.id, self.client, Protocol::Https, facts.target)
        }
    }
}

/// What is decided on of a request beside its method and its path.
fn seen<'f>(facts: &Facts<'f>) -> Inside<'f> {
    Inside { query: facts.path().1, headers: facts.headers, body: facts.body }
}

impl Judge for OfTunnel {
    fn body_wanted(&self, facts: &Facts<'_>) -> Option<usize> {
        // It has no number yet.
        let seen = seen(facts);
        let question = self.question(facts, &seen, &Standing { id: 0, told: Told::Revoked, said: None });
        self.shared.decider.body_wanted(&question)
    }

    fn judge(&self, facts: &Facts<'_>, standing: &Standing) -> Result<Judged, Refusal> {
        let Shared { decider, counters, .. } = &*self.shared;
        let seen = seen(facts);
        let question = self.question(facts, &seen, standing);
        if standing.told == Told::Nothing && standing.said.is_none() {
            counters.count(Counter::HttpsRequests);
        }
        if let Some(said) = &standing.said
            && let Err(denial) = decider.answered(question, said.clone())
        {
            return Err(Refusal::Answer(reply::denied(&denial)));
        }
        match decider.reuse(question, Traffic::Tunnel, &self.leads, self.peer) {
            Ok(Some(mut route)) => {
                let generation = route.snapshot().generation();
                let open = route.take_open();
                let actions = match decider.actions(&route, facts) {
                    Ok(actions) => actions,
                    Err(answer) => {
                        if let Some(mut open) = open {
                            open.end(Ending::Upstream("secret-unavailable"));
                        }
                        return Err(Refusal::Answer(answer));
                    }
                };
                // Whoever relays it says how it ends.
                open.map(Open::hand_over);
                Ok(Judged { actions: Actions { read_only: route.read_only(), ..actions }, generation })
            }
            Ok(None) => Err(Refusal::Answer(reply::another_way())),
            Err(no) => Err(match decider.ask(&no) {
                Some(asking) => Refusal::Ask(asking),
                None => Refusal::Answer(reply::denied(&decider.refuse(no))),
            }),
        }
    }

    fn given_up(&self, facts: &Facts<'_>, standing: &Standing) {
        let decider = &self.shared.decider;
        if let Err(no) = decider.reuse(self.question(facts, &seen(facts), standing), Traffic::Tunnel, &self.leads, self.peer) {
            drop(decider.refuse(no));
        }
    }

    fn still_allows(&self, facts: &Facts<'_>, standing: &Standing) -> bool {
        self.shared.decider.still_allows(&self.question(facts, &seen(facts), standing), &self.leads, self.peer)
    }
}
