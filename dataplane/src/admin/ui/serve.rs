//! What the API has for the dashboard: its page, its files, and the seconds that it remembers.

use super::overview::{INTERVAL, Overview};
use super::{HTML, POLICY, Page, asset, locked, page, refresh};
use crate::admin::access::{Peer, Refused, Scope};
use crate::admin::model::Tunnels;
use crate::admin::reply::{self, Answer, Refusal};
use crate::admin::{Api, explain, views};
use crate::policy::Snapshot;
use crate::shutdown::Shutdown;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};
use hyper::{Method, StatusCode};
use policy_format::Layer;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::MissedTickBehavior;

/// Tunnels that the page shows.
const TUNNELS: usize = 100;
/// Blocked requests that are counted in a look, at most: as many as are kept.
const BLOCKED: usize = 1_024;

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
            self.only(&self.backend.policy().current()).await;
            self.ui.add(self.stats(), self.backend.blocked(self.ui.since(), BLOCKED));
        }
    }

    /// `GET /v1/overview`.
    pub(in crate::admin) fn overview(&self) -> Overview {
        let only = self.ui.last_only();
        self.ui.overview(|request| explain::under(only, &request.reason, request.change.clone()))
    }

    /// The layer that alone allows anything in a policy, where it is an administrator's: found out once a policy.
    pub(in crate::admin) async fn only(&self, snapshot: &Arc<Snapshot>) -> Option<Layer> {
        let generation = snapshot.generation();
        if let Some(known) = self.ui.only(generation) {
            return known;
        }
        let snapshot = Arc::clone(snapshot);
        // Rules of a large policy take a while to read.
        let only = tokio::task::spawn_blocking(move || explain::only_managed(&snapshot)).await.unwrap_or_default();
        self.ui.set_only(generation, only);
        only
    }

    /// The page and its files; `None` for any other path. A page is for everybody, but without a token that is asked for there is nothing in it but the question.
    pub(in crate::admin) fn dashboard(&self, head: &hyper::http::request::Parts, peer: Peer) -> Option<Result<Answer, Refusal>> {
        let path = head.uri.path();
        let file = asset(path);
        if file.is_none() && path != "/ui" {
            return None;
        }
        if head.method != Method::GET && head.method != Method::HEAD {
            return Some(if head.method == Method::OPTIONS {
                Ok(reply::options("GET, HEAD, OPTIONS"))
            } else {
                Err(Refusal::method("GET, HEAD, OPTIONS"))
            });
        }
        if let Some(file) = file {
            return Some(Ok(with_policy(reply::full(StatusCode::OK, file.body, file.kind))));
        }
        let text = match self.scopes(&head.headers, peer) {
            Ok(scopes) if scopes.has(Scope::Read) => match self.count(peer) {
                Ok(()) => self.page(head, scopes.has(Scope::Write)),
                Err(refusal) => return Some(Err(refusal)),
            },
            Ok(_) | Err(Refused::Missing) => locked(),
            // The script says so, and asks again.
            Err(Refused::Invalid(what)) => {
                let challenge = r#"Bearer realm="netproxy", error="invalid_token""#;
                return Some(Err(Refusal::token(StatusCode::UNAUTHORIZED, challenge, what)));
            }
            Err(Refused::TooMany(wait)) => {
                return Some(Err(Refusal::later(StatusCode::TOO_MANY_REQUESTS, wait, "too many tokens from there did not hold")));
            }
        };
        Some(Ok(with_policy(reply::full(StatusCode::OK, text, HTML))))
    }

    fn page(&self, head: &hyper::http::request::Parts, may_write: bool) -> String {
        let tunnels = Tunnels { tunnels: self.backend.tunnels(0, TUNNELS), next: None, total: self.backend.tunnel_count() };
        page(&Page {
            overview: &self.overview(),
            policy: &self.policy(),
            tunnels: &tunnels,
            recent: &self.backend.blocked(0, BLOCKED).blocked,
            connections: self.ui.connections(),
            may_write,
            has_token: self.backend.access().settings().needs_token(),
            refresh: refresh(head.uri.query()),
            now_ms: views::millis(SystemTime::now()),
        })
    }
}

fn with_policy(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    answer
}
