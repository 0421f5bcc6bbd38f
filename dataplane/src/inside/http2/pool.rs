//! Connections to origins that speak HTTP/2 and wait for the next client.
//!
//! Like those of HTTP/1.1 they belong to their thread, and whether one may be used is decided anew for each client. One serves one client at a time: who reads slowly keeps
//! nobody else waiting. Who has it may have any number of requests on it.

use super::upstream::Upstream;
use crate::connect::Leads;
use crate::connect::pool::evicted;
use crate::counters::{self, Counter, Level};
use crate::parse::target::Target;
use policy_format::Limits;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;

thread_local! {
    static POOL: RefCell<Pool> = RefCell::new(Pool::default());
}

/// A connection that may serve another client.
#[derive(Debug)]
pub(crate) struct Idle {
    pub(crate) upstream: Upstream,
    pub(crate) leads: Leads,
    /// The address that was dialled.
    pub(crate) peer: Option<IpAddr>,
    /// By which configuration it was secured, and so with which certificate of ours: what an origin allows to one, it need not allow to others.
    pub(crate) tls: Arc<ClientConfig>,
}

#[derive(Default)]
struct Pool {
    /// By target, the latest last.
    idle: HashMap<Target, Vec<(Idle, Instant)>>,
    connections: usize,
    level: Level,
}

/// The latest connection to a target, secured by that very configuration, that the origin still takes requests on.
pub(crate) fn take(target: &Target, tls: &Arc<ClientConfig>) -> Option<Idle> {
    POOL.with_borrow_mut(|pool| {
        let found = pool.find(target, tls);
        counters::here(|counters| counters.count(if found.is_some() { Counter::PoolHits } else { Counter::PoolMisses }));
        pool.level.set(Counter::PoolIdleHttp2, pool.connections);
        found
    })
}

impl Pool {
    fn find(&mut self, target: &Target, tls: &Arc<ClientConfig>) -> Option<Idle> {
        let waiting = self.idle.get_mut(target)?;
        let mut found = None;
        while let Some(at) = waiting.iter().rposition(|(idle, _)| Arc::ptr_eq(&idle.tls, tls)) {
            let (idle, until) = waiting.remove(at);
            self.connections -= 1;
            if until <= Instant::now() {
                evicted(Counter::PoolExpired, 1);
            } else if idle.upstream.is_usable() {
                idle.upstream.set_stale();
                found = Some(idle);
                break;
            } else {
                evicted(Counter::PoolClosed, 1);
            }
        }
        if waiting.is_empty() {
            self.idle.remove(target);
        }
        found
    }
}

/// Keeps a connection for later clients, if the origin takes more requests on it and there is room.
pub(crate) fn put(target: &Target, idle: Idle, limits: &Limits) {
    POOL.with_borrow_mut(|pool| {
        let full = pool.connections >= limits.pool_connections || limits.pool_connections_per_host == 0;
        if full || !idle.upstream.is_usable() {
            return evicted(if full { Counter::PoolFull } else { Counter::PoolClosed }, 1);
        }
        if !pool.idle.contains_key(target) {
            pool.idle.insert(target.clone(), Vec::new());
        }
        if let Some(waiting) = pool.idle.get_mut(target).filter(|waiting| waiting.len() < limits.pool_connections_per_host) {
            waiting.push((idle, Instant::now() + limits.pool_timeout));
            pool.connections += 1;
        } else {
            evicted(Counter::PoolFull, 1);
        }
        pool.level.set(Counter::PoolIdleHttp2, pool.connections);
    });
}

/// Closes all of them, for want of descriptors, as soon as their tasks have their turn; gives how many.
pub(crate) fn give_up() -> usize {
    POOL.with_borrow_mut(|pool| {
        pool.idle.clear();
        let count = std::mem::take(&mut pool.connections);
        evicted(Counter::PoolGivenUp, count);
        pool.level.set(Counter::PoolIdleHttp2, 0);
        count
    })
}

/// Closes what has waited for too long, and what origins have ended.
pub(crate) fn sweep() {
    POOL.with_borrow_mut(|pool| {
        let now = Instant::now();
        let (mut expired, mut closed) = (0, 0);
        for waiting in pool.idle.values_mut() {
            waiting.retain(|(idle, until)| {
                let (late, gone) = (*until <= now, !idle.upstream.is_usable());
                expired += usize::from(late);
                closed += usize::from(gone && !late);
                !late && !gone
            });
        }
        evicted(Counter::PoolExpired, expired);
        evicted(Counter::PoolClosed, closed);
        pool.idle.retain(|_, waiting| !waiting.is_empty());
        pool.connections = pool.idle.values().map(Vec::len).sum();
        pool.level.set(Counter::PoolIdleHttp2, pool.connections);
    });
}
