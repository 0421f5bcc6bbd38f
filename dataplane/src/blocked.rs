//! What embedding programs are told of requests that were refused, off the path of requests.

use crate::audit::event::Verdict;
use crate::audit::feed::{Feed, Item};
use crate::audit::record::{Event, Wants};
use policy_format::Protocol;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A request that was refused, or that was allowed and is allowed no more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockedRequest {
    /// When.
    pub time: SystemTime,
    /// Its number, as in [`Decided::id`](crate::Decided::id).
    pub id: u64,
    /// Who asked.
    pub client: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// For which host; `unix-socket`, with port 0, stands for a unix socket.
    pub host: String,
    /// For which port.
    pub port: u16,
    /// With which method, where there is one.
    pub method: Option<String>,
    /// Whether it is refused ([`Verdict::Deny`]), or waits for somebody's approval ([`Verdict::Ask`]).
    pub verdict: Verdict,
    /// Why, for machines.
    pub reason: String,
    /// Who decided, for machines: `baseline_policy`, `mode_guard`, `proxy_state` or `decider`.
    pub source: &'static str,
    /// The pattern of the rule that decided, if one did.
    pub rule: Option<String>,
    /// The layer, file and line of that rule.
    pub place: Option<String>,
    /// The [generation](crate::Snapshot::generation) of the policy that decided.
    pub generation: u64,
    /// How many requests that were refused before this one an observer was not told of, because it took too long with others.
    pub missed: u64,
}

impl BlockedRequest {
    /// What an event tells of one; `None` where it tells of something else. `missed` is 0.
    #[must_use]
    pub fn of(event: &Event) -> Option<Self> {
        let judged = event.kind.judged().filter(|judged| judged.verdict != Verdict::Allow)?;
        let exchange = &judged.exchange;
        let rule = event.label.as_ref().and_then(|label| label.rule.as_ref());
        Some(Self {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(event.time),
            id: exchange.id,
            client: exchange.client,
            protocol: exchange.protocol,
            host: exchange.host.to_string(),
            port: exchange.port,
            method: judged.method.as_deref().map(str::to_owned),
            verdict: judged.verdict,
            reason: judged.reason.clone().into_owned(),
            source: judged.source,
            rule: rule.map(|rule| rule.pattern.clone()),
            place: rule.map(|rule| rule.place.clone()),
            generation: exchange.generation,
            missed: 0,
        })
    }
}

/// A closure that is told.
pub(crate) type Told = Arc<dyn Fn(BlockedRequest) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Tells it of one request after the other, until the proxy has ended.
pub(crate) async fn tell(feed: Feed, told: Told) {
    // The feed has room for more than there are observers of one proxy.
    let Some(mut subscription) = feed.subscribe(Wants::DENIALS, |_| true) else { return };
    drop(feed);
    let mut missed = 0;
    while let Some(item) = subscription.next().await {
        match item {
            Item::Lost(count) => missed += count,
            Item::Event(event) => {
                let Some(blocked) = BlockedRequest::of(&event) else { continue };
                let blocked = BlockedRequest { missed: std::mem::take(&mut missed), ..blocked };
                let told = Arc::clone(&told);
                // A task of its own, so that one that panics does not end the others.
                let _ = tokio::spawn(async move { told(blocked).await }).await;
            }
        }
    }
}
