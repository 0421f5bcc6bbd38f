//! What the API has for the dashboard: its page, its files, and the seconds that it remembers.

use super::overview::{INTERVAL, Overview};
use super::{HTML, POLICY, Page, asset, locked, page};
use crate::admin::access::{Peer, Refused, Scope};
use crate::admin::model::Tunnels;
use crate::admin::query::Query;
use crate::admin::reply::{self, Answer, Refusal};
use crate::admin::{Api, Checked, Turned, explain, invalid_token, too_many_tokens, views};
use crate::audit::feed::RING;
use crate::shutdown::Shutdown;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use hyper::{Method, StatusCode};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::MissedTickBehavior;

/// Seconds after which a browser is to ask again, where it is asked for: no fewer than five.
const REFRESH: &str = "refresh";
const LEAST: u64 = 5;
const MOST: u64 = 3_600;
/// Tunnels that the page shows.
const TUNNELS: usize = 100;
/// For all that has happened to be in the ring: a sink that hangs keeps nobody from the rest.
const SETTLED: Duration = Duration::from_secs(1);

impl Api {
    /// Counts what is done in each second, until `over`.
    pub(in crate::admin) async fn remember(self: Arc<Self>, over: Shutdown) {
        let mut ticks = tokio::time::interval(INTERVAL);
        // Seconds that were missed, because the machine slept, are one long second.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = over.started() => return,
            }
            self.look();
            self.ui.add(self.stats());
        }
    }

    /// Counts what was blocked since the last look.
    pub(in crate::admin) fn look(&self) {
        self.ui.look(|since| self.backend.blocked(since, RING));
    }

    /// `GET /v1/overview`, with all that was blocked before it was asked for.
    pub(in crate::admin) async fn overview(&self) -> Overview {
        let _ = tokio::time::timeout(SETTLED, self.backend.settled()).await;
        self.look();
        let snapshot = self.backend.policy().current();
        self.ui.overview(|request| explain::change_of(&snapshot, request))
    }

    /// The page and its files; `None` for any other path. A page is for everybody, but without a token that is asked for there is nothing in it but the question.
    pub(in crate::admin) fn dashboard(&self, head: &hyper::http::request::Parts, peer: Peer) -> Option<Result<Checked, Turned>> {
        let path = head.uri.path();
        let file = asset(path);
        // As everything else has it.
        let is_versioned = path == "/v1/ui";
        if file.is_none() && path != "/ui" && !is_versioned {
            return None;
        }
        if head.method != Method::GET && head.method != Method::HEAD {
            return Some(if head.method == Method::OPTIONS {
                Ok(Checked::Answered(reply::options("GET, HEAD, OPTIONS")))
            } else {
                Err(Refusal::method("GET, HEAD, OPTIONS").into())
            });
        }
        let names: &[&str] = if file.is_some() { &[] } else { &[REFRESH] };
        let query = Query::read(head.uri.query().unwrap_or_default(), names);
        let refresh = match query.and_then(|query| query.number(REFRESH, LEAST, MOST)) {
            Ok(refresh) => refresh,
            Err(refusal) => return Some(Err(refusal.into())),
        };
        if is_versioned {
            let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            return Some(Ok(Checked::Answered(reply::moved(&format!("/ui{query}")))));
        }
        if let Some(file) = file {
            return Some(Ok(Checked::Answered(with_policy(reply::full(StatusCode::OK, file.body, file.kind)))));
        }
        Some(match self.scopes(&head.headers, peer) {
            Ok(scopes) if scopes.has(Scope::Read) => match self.count(peer) {
                Ok(()) => Ok(Checked::Page { refresh, may_write: scopes.has(Scope::Write) }),
                Err(refusal) => Err(Turned::Known(refusal)),
            },
            Ok(_) | Err(Refused::Missing) => Ok(Checked::Answered(with_policy(reply::full(StatusCode::OK, locked(), HTML)))),
            // The script says so, and asks again.
            Err(Refused::Invalid(what)) => Err(invalid_token(what)),
            Err(Refused::TooMany(wait)) => Err(too_many_tokens(wait)),
        })
    }

    /// The page as it is now, for somebody who may see it.
    pub(in crate::admin) async fn page(&self, refresh: Option<u64>, may_write: bool) -> Answer {
        let overview = self.overview().await;
        let tunnels = Tunnels { tunnels: self.backend.tunnels(0, TUNNELS), next: None, total: self.backend.tunnel_count() };
        let text = page(&Page {
            overview: &overview,
            policy: &self.policy(),
            tunnels: &tunnels,
            recent: &self.backend.blocked(0, RING).blocked,
            connections: self.ui.connections(),
            may_write,
            has_token: self.backend.access().settings().needs_token(),
            refresh,
            now_ms: views::millis(SystemTime::now()),
        });
        with_policy(reply::full(StatusCode::OK, text, HTML))
    }
}

fn with_policy(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    answer
}
