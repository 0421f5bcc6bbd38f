//! Events as they come, as `text/event-stream` (the HTML standard, section 9.2).
//!
//! Each has its number as `id`, and the last part of its name as `event`. Who comes back with `Last-Event-ID` gets the refusals that he missed, as far as they are kept. Who is
//! slow loses events, and is told how many; who does not read at all, or whose token holds no longer, is cut off.

use super::Api;
use super::access::{Peer, Scope};
use super::backend::{Filter, Item};
use super::query::Query;
use super::reply::{self, Answer, Pieces, Refusal};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HeaderMap};
use policy_format::Protocol;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub(super) const KIND: &str = "text/event-stream";
/// Streams at once.
pub(super) const STREAMS: usize = 16;
/// Without an event, after which a comment is sent: intermediaries and clients see that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// For a client to take what there is.
const PATIENCE: Duration = Duration::from_secs(30);
/// After which a caller's token is looked at again before he is told more.
const RECHECK: Duration = Duration::from_secs(1);
/// Events that wait for the connection; before them, the feed has a queue of its own.
const WAITING: usize = 16;
/// What a browser waits before it comes back.
const RETRY_MS: u32 = 2000;

/// What is wanted.
pub(super) fn filter(query: &Query) -> Result<Filter, Refusal> {
    let text = |name: &str| query.text(name).map(str::to_owned);
    let decision = query.word("decision", &[("allow", "allow"), ("deny", "deny"), ("ask", "ask")])?.map(str::to_owned);
    let protocol = query.word("protocol", Protocol::ALL)?.map(|protocol| protocol.as_str().to_owned());
    let host = match query.text("host") {
        None => None,
        Some(text) => {
            let (below, name) = text.strip_prefix("*.").map_or(("", text), |name| ("*.", name));
            let host =
                policy_format::Host::parse(name).map_err(|error| Refusal::bad(format!("`host` is a host, or `*.` and a name: {error}")))?;
            Some(format!("{below}{host}"))
        }
    };
    Ok(Filter { decision, reason: text("reason"), host, protocol })
}

/// The number that a client saw last.
pub(super) fn last_seen(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let name = hyper::header::HeaderName::from_static("last-event-id");
    match super::door::single(headers, &name)? {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| Refusal::bad("`Last-Event-ID` is a number")),
    }
}

/// Who follows, so that what he shows can be checked again.
pub(super) struct Caller {
    headers: HeaderMap,
    peer: Peer,
}

impl Caller {
    pub(super) fn of(headers: &HeaderMap, peer: Peer) -> Self {
        let shown = headers.get_all(AUTHORIZATION).iter().map(|value| (AUTHORIZATION, value.clone()));
        Self { headers: shown.collect(), peer }
    }

    /// Whether he still may: his token has not expired, and its file still has it.
    fn still_may(&self, api: &Api) -> bool {
        api.scopes(&self.headers, self.peer).is_ok_and(|scopes| scopes.has(Scope::Read))
    }
}

/// Follows events until the client goes away, may not any more, or the proxy ends.
pub(super) fn follow(api: &Arc<Api>, filter: Filter, after: Option<u64>, caller: Caller) -> Result<Answer, Refusal> {
    let busy = || Refusal::later(StatusCode::SERVICE_UNAVAILABLE, Duration::from_secs(5), "too many follow events already");
    let permit = Arc::clone(&api.streams).try_acquire_owned().map_err(|_| busy())?;
    let mut events = api.backend.follow(filter, after).ok_or_else(busy)?;
    let (sender, pieces) = mpsc::channel(WAITING);
    let (here, source) = watch::channel(());
    let api = Arc::clone(api);
    tokio::spawn(async move {
        let mut checked = Instant::now();
        let mut piece = format!("retry: {RETRY_MS}\n\n");
        loop {
            // Nobody reads, or nobody is there any more: then the events end too.
            if !matches!(tokio::time::timeout(PATIENCE, sender.send(Bytes::from(piece))).await, Ok(Ok(()))) {
                break;
            }
            piece = tokio::select! {
                item = events.next() => match item {
                    Some(item) => shown(&item),
                    None => break,
                },
                () = tokio::time::sleep(HEARTBEAT) => ": \n\n".to_owned(),
                () = sender.closed() => break,
            };
            // Before anything more is told; a heartbeat is short enough for who is told nothing.
            if checked.elapsed() >= RECHECK {
                if !caller.still_may(&api) {
                    break;
                }
                checked = Instant::now();
            }
        }
        drop((permit, here));
    });
    Ok(reply::stream(Pieces { pieces, source }, KIND))
}

fn shown(item: &Item) -> String {
    match item {
        // A line of JSON has no line end in it.
        Item::Event { id, name, json } => format!("id: {id}\nevent: {name}\ndata: {json}\n\n"),
        Item::Lost(count) => format!("event: missed\ndata: {{\"missed\":{count}}}\n\n"),
    }
}
