//! The proxy that serves, as the API sees it.

use super::access::Access;
use super::backend::{Backend, Filter, Follow, Item, ReloadFailure, Wait};
use super::model::{Audit, AuditSink, Blocked, BlockedRequest, Listeners, Readiness, Tunnel};
use super::{Api, explain, views};
use crate::audit::event::{Observer as _, Verdict};
use crate::audit::feed::{self, Subscription};
use crate::audit::record::{Event, Wants};
use crate::counters::Format;
use crate::error::LoadError;
use crate::policy::PolicyHandle;
use crate::proxy::Facts;
use crate::tunnels::Row;
use policy_format::Mode;
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// What is known of a proxy, asked.
struct Live(Arc<Facts>);

/// The API of a proxy.
pub(crate) fn api(facts: &Arc<Facts>, process: Map<String, Value>, workers: usize) -> Arc<Api> {
    let listeners = Listeners {
        http: facts.addresses.http.to_string(),
        socks5: facts.addresses.socks5.map(|address| address.to_string()),
        admin: facts.addresses.admin.map(|address| address.to_string()),
        admin_socket: facts.access.settings().socket.as_ref().map(|path| path.display().to_string()),
    };
    let policy_file = facts.policy_file.as_ref().map(|path| path.display().to_string());
    let known = super::Facts { listeners, process, origin: facts.origin, policy_file, workers };
    Api::new(Arc::new(Live(Arc::clone(facts))), known)
}

impl Backend for Live {
    fn access(&self) -> &Access {
        &self.0.access
    }

    fn policy(&self) -> &PolicyHandle {
        &self.0.policy
    }

    fn wanted_mode(&self) -> Option<Mode> {
        self.0.policy.mode_override()
    }

    fn set_mode(&self, wanted: Option<Mode>) -> Result<(), String> {
        self.0.policy.set_mode(wanted).map(drop).map_err(|error| error.to_string())
    }

    fn reload(&self) -> Wait<'_, Result<(), ReloadFailure>> {
        Box::pin(async {
            match self.0.asked.reloaded().await {
                Ok(_) => Ok(()),
                Err(LoadError::NotWatched) => Err(ReloadFailure::NoFile),
                Err(error) => Err(ReloadFailure::Refused(error.to_string())),
            }
        })
    }

    fn drain(&self) {
        self.0.control.drain_watched();
    }

    fn is_draining(&self) -> bool {
        self.0.control.phase() != crate::handle::Phase::Serving
    }

    fn held_up(&self) -> Option<(Readiness, &'static str)> {
        let hub = &self.0.hub;
        // The queue is looked at first: it is what can be told more of.
        if hub.is_full() {
            return Some((Readiness::Refusing, "new requests are refused: the queue of audit events is full, and `on_full` is `deny`"));
        }
        if hub.holds_up() {
            return Some((Readiness::Waiting, "requests wait: the queue of audit events is full, and `on_full` is `block`"));
        }
        hub.refuses().then_some((Readiness::Refusing, "new requests are refused by the program that the proxy is part of"))
    }

    fn metrics(&self, accept: Option<&str>) -> (String, &'static str) {
        let format = Format::accepted(accept);
        (self.0.shared.counters.page(&self.0.policy, format), format.content_type())
    }

    fn counted(&self) -> String {
        self.0.shared.counters.text()
    }

    fn tunnels(&self, after: u64, limit: usize) -> Vec<Tunnel> {
        self.0.shared.decider.tunnels().list(after, limit).into_iter().map(tunnel).collect()
    }

    fn tunnel_count(&self) -> u64 {
        self.0.shared.decider.tunnels().count() as u64
    }

    fn close_tunnel(&self, id: u64) -> bool {
        self.0.shared.decider.tunnels().close(id)
    }

    fn audit(&self) -> Audit {
        let stats = self.0.hub.stats();
        let sinks = stats.sinks.iter().map(|sink| AuditSink {
            name: sink.name.to_owned(),
            told: sink.told,
            pending: sink.pending as u64,
            lost: sink.lost,
            failures: sink.failures,
            failing: sink.failing,
        });
        Audit { queue: stats.queue as u64, queued: stats.queued as u64, told: stats.told, lost: stats.lost, sinks: sinks.collect() }
    }

    fn settled(&self) -> Wait<'_, ()> {
        Box::pin(async { self.0.hub.feed().settled().await })
    }

    fn blocked(&self, since: u64, limit: usize) -> Blocked {
        let feed::Blocked { events, next, lost } = self.0.hub.feed().blocked(since, limit);
        let snapshot = self.0.policy.current();
        // They have numbers without gaps, of which `next` is the last.
        let first = next.saturating_sub(events.len() as u64).saturating_add(1);
        let requests = (first..).zip(&events).filter_map(|(seq, event)| request(seq, event)).map(|mut request| {
            request.change = explain::change_of(&snapshot, &request);
            request
        });
        Blocked { blocked: requests.collect(), next, lost }
    }

    fn drain_blocked(&self) -> u64 {
        self.0.hub.feed().drain_blocked().len() as u64
    }

    fn follow(&self, filter: Filter, after: Option<u64>) -> Option<Box<dyn Follow>> {
        let feed = self.0.hub.feed();
        let wanted = filter.clone();
        let events = feed.subscribe(wants(&filter), move |event| takes(&wanted, event))?;
        // A number that is yet to come is of a process before this one: nothing of this one was seen.
        let after = after.map(|after| if feed.has_told(after) { after } else { 0 });
        // What comes in between is in both.
        let kept = after.map(|after| feed.blocked(0, usize::MAX).events.into_iter().filter(move |event| event.sequence > after));
        let kept: VecDeque<Arc<Event>> = kept.into_iter().flatten().filter(|event| takes(&filter, event)).collect();
        let seen = kept.back().map_or(0, |event| event.sequence);
        Some(Box::new(Following { kept, seen, events }))
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        self.0.shared.decider.is_own_listener(address)
    }

    fn answered(&self, route: &'static str, status: u16) {
        self.0.shared.counters.admin_answered(route, status);
    }

    fn fault(&self, what: &str) {
        self.0.reloader.observer.fault(what);
    }
}

fn tunnel(row: Row) -> Tunnel {
    Tunnel {
        id: row.id,
        client: row.client.to_string(),
        protocol: row.protocol.as_str().to_owned(),
        host: row.host,
        port: row.port,
        opened: views::rfc3339(row.opened),
        opened_ms: row.opened,
        up: row.up,
        down: row.down,
        generation: row.generation,
    }
}

/// What a filter needs to be told of.
fn wants(filter: &Filter) -> Wants {
    match filter.decision.as_deref() {
        Some("allow") => Wants::ALLOWS,
        Some(_) => Wants::DENIALS,
        None if *filter == Filter::default() => Wants::ALL,
        None if filter.reason.is_some() => Wants::ALLOWS.and(Wants::DENIALS),
        None => Wants::ALLOWS.and(Wants::DENIALS).and(Wants::CLOSES),
    }
}

fn takes(filter: &Filter, event: &Event) -> bool {
    let judged = event.kind.judged();
    let exchange = event.kind.exchange();
    filter.takes(
        judged.map(|judged| judged.verdict.as_str()),
        judged.map(|judged| judged.reason.as_ref()),
        exchange.map(|exchange| exchange.host.as_str()),
        exchange.map(|exchange| exchange.protocol.as_str()),
    )
}

/// Refusals that were missed, then events as they come.
struct Following {
    kept: VecDeque<Arc<Event>>,
    /// The last of those that were missed.
    seen: u64,
    events: Subscription,
}

impl Follow for Following {
    fn next(&mut self) -> Wait<'_, Option<Item>> {
        Box::pin(async {
            if let Some(event) = self.kept.pop_front() {
                return Some(item(&event));
            }
            loop {
                match self.events.next().await? {
                    feed::Item::Event(event) if event.sequence <= self.seen => {}
                    feed::Item::Event(event) => return Some(item(&event)),
                    feed::Item::Lost(count) => return Some(Item::Lost(count)),
                }
            }
        })
    }
}

fn item(event: &Event) -> Item {
    let name = event.kind.name();
    Item::Event { id: event.sequence, name: name.rsplit('.').next().unwrap_or(name), json: event.json() }
}

/// A refusal. What would have it allowed, the policy of now says.
fn request(seq: u64, event: &Event) -> Option<BlockedRequest> {
    let judged = event.kind.judged()?;
    let exchange = &judged.exchange;
    let (policy, rule) = event.label.as_ref().map_or((None, None), |label| (Some(&label.policy), label.rule.as_ref()));
    let place = rule.map(|rule| format!("{} {}", rule.layer, rule.place));
    let host = exchange.host.as_str();
    Some(BlockedRequest {
        seq,
        host: host.to_owned(),
        reason: judged.reason.to_string(),
        client: Some(exchange.client.to_string()),
        method: judged.method.as_ref().map(ToString::to_string),
        mode: policy.filter(|_| judged.source == "mode_guard").map(|policy| policy.mode.as_str().to_owned()),
        protocol: exchange.protocol.as_str().to_owned(),
        // What was allowed and is not any more, or speaks of another server, is refused now.
        decision: if judged.verdict == Verdict::Ask { Verdict::Ask } else { Verdict::Deny }.as_str().to_owned(),
        source: judged.source.to_owned(),
        port: exchange.port,
        timestamp: i64::try_from(event.time / 1000).unwrap_or(i64::MAX),
        at: views::rfc3339(event.time),
        rule: rule.map(|rule| rule.pattern.clone()),
        layer: rule.map(|rule| rule.layer.to_owned()),
        place,
        generation: exchange.generation,
        change: None,
    })
}
