//! Upstream connections that wait for the next request.
//!
//! Each worker has its own, so that nothing is locked. A connection is found again by the target that it was opened for; whether it may be used is decided for each request, by the policy in force then.

use super::Leads;
use crate::counters::{self, Counter, Level};
use crate::parse::target::Target;
use crate::stream::Buffered;
use policy_format::Limits;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;

/// Targets that are kept beyond as many as there are connections that wait: room for those whose connections are all in use.
const MAX_BEYOND: usize = 64;

thread_local! {
    static POOL: RefCell<Pool> = RefCell::new(Pool::default());
}

#[derive(Default)]
struct Pool {
    /// By target, the latest last. Where all are in use, the room for them is kept until the next sweep.
    idle: HashMap<Target, Vec<Waiting>>,
    connections: usize,
    level: Level,
    /// When the stale ones are looked for again.
    sweep: Option<Instant>,
}

struct Waiting {
    idle: Box<Idle>,
    until: Instant,
}

/// An upstream connection that may serve another request. It is boxed, since it goes back and forth between those who use it and where it waits.
pub(crate) struct Idle {
    pub(crate) stream: Buffered,
    pub(crate) leads: Leads,
    pub(crate) tls: Secured,
}

impl Idle {
    pub(crate) fn new(stream: Buffered, leads: Leads, tls: Secured) -> Box<Self> {
        Box::new(Self { stream, leads, tls })
    }
}

/// How a connection was secured, which tells those apart that only some requests may use: by which configuration, and so with which certificate of ours; `None` is not at all.
pub(crate) type Secured = Option<Arc<ClientConfig>>;

/// Whether what asks for one may use what is secured by the other.
pub(crate) fn same(wanted: &Secured, there: &Secured) -> bool {
    match (wanted, there) {
        (None, None) => true,
        (Some(wanted), Some(there)) => Arc::ptr_eq(wanted, there),
        _ => false,
    }
}

/// The latest connection to a target that is still open and silent, secured as `fits` says.
pub(crate) fn take(target: &Target, fits: impl Fn(&Secured) -> bool) -> Option<Box<Idle>> {
    POOL.with_borrow_mut(|pool| {
        let found = pool.find(target, fits);
        counters::here(|counters| counters.count(if found.is_some() { Counter::PoolHits } else { Counter::PoolMisses }));
        pool.level.set(Counter::PoolIdle, pool.connections);
        found
    })
}

/// Keeps a connection for later requests to its target, if there is room.
pub(crate) fn put(target: &Target, idle: Box<Idle>, limits: &Limits) {
    POOL.with_borrow_mut(|pool| {
        let now = Instant::now();
        pool.sweep(now, limits.pool_timeout);
        if pool.connections >= limits.pool_connections || !keeps(limits) {
            return evicted(Counter::PoolFull, 1);
        }
        let one = Waiting { idle, until: now + limits.pool_timeout };
        match pool.idle.get_mut(target) {
            Some(waiting) if waiting.len() >= limits.pool_connections_per_host => return evicted(Counter::PoolFull, 1),
            Some(waiting) => waiting.push(one),
            None => _ = pool.idle.insert(target.clone(), vec![one]),
        }
        pool.connections += 1;
        pool.level.set(Counter::PoolIdle, pool.connections);
    });
}

/// Whether connections are kept at all, also for the client that had the last request.
pub(crate) fn keeps(limits: &Limits) -> bool {
    limits.pool_connections > 0 && limits.pool_connections_per_host > 0
}

/// Closes what has waited for too long, and says when to ask again.
pub(crate) fn sweep() -> Duration {
    const OFTEN: Duration = Duration::from_secs(5);
    POOL.with_borrow_mut(|pool| pool.sweep(Instant::now(), Duration::ZERO));
    OFTEN
}

/// Closes all of them, for want of descriptors; gives how many.
pub(crate) fn give_up() -> usize {
    POOL.with_borrow_mut(|pool| {
        pool.idle.clear();
        let count = std::mem::take(&mut pool.connections);
        evicted(Counter::PoolGivenUp, count);
        pool.level.set(Counter::PoolIdle, 0);
        count
    })
}

/// So many were closed, or not kept.
pub(crate) fn evicted(why: Counter, count: usize) {
    if count > 0 {
        counters::here(|counters| counters.add(why, count));
    }
}

impl Pool {
    fn find(&mut self, target: &Target, fits: impl Fn(&Secured) -> bool) -> Option<Box<Idle>> {
        let waiting = self.idle.get_mut(target)?;
        let mut found = None;
        while let Some(at) = waiting.iter().rposition(|waiting| fits(&waiting.idle.tls)) {
            let Waiting { mut idle, until } = waiting.remove(at);
            self.connections -= 1;
            if until <= Instant::now() {
                evicted(Counter::PoolExpired, 1);
            // Another client's: the system is asked, and not what is known of it.
            } else if idle.stream.is_silent() {
                found = Some(idle);
                break;
            } else {
                evicted(Counter::PoolClosed, 1);
            }
        }
        found
    }

    fn sweep(&mut self, now: Instant, every: Duration) {
        let is_crowded = self.idle.len() > self.connections + MAX_BEYOND;
        if self.sweep.is_some_and(|due| due > now) && !every.is_zero() && !is_crowded {
            return;
        }
        self.sweep = Some(now + every);
        for idle in self.idle.values_mut() {
            idle.retain(|waiting| waiting.until > now);
        }
        self.idle.retain(|_, idle| !idle.is_empty());
        let left = self.idle.values().map(Vec::len).sum();
        evicted(Counter::PoolExpired, self.connections.saturating_sub(left));
        self.connections = left;
        self.level.set(Counter::PoolIdle, left);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::stream::Stream;
    use tokio::net::{TcpListener, TcpStream};

    /// A client that goes to another target each time makes the pool no larger than its connections and a few more.
    #[tokio::test]
    async fn targets_whose_connections_are_all_in_use_are_few() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = |port| Target { port, ..Target::parse("a.test:1", None).unwrap() };
        let limits = Limits::default();
        let ports = 1..=u16::try_from(5 * MAX_BEYOND).unwrap();
        let (mut waiting, mut most) = (Vec::new(), 0);
        for port in ports.clone() {
            let stream = Stream::Tcp(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            waiting.push(listener.accept().await.unwrap());
            put(&target(port), Idle::new(Buffered::new(stream), Leads::direct(), None), &limits);
            // Some wait on.
            assert!(port % 5 == 0 || take(&target(port), |_| true).is_some(), "{port}");
            let (targets, connections) = POOL.with_borrow(|pool| (pool.idle.len(), pool.connections));
            assert_eq!(connections, usize::from(port / 5));
            assert!(targets <= connections + MAX_BEYOND + 1, "{targets} targets, {connections} connections");
            most = most.max(targets);
        }
        // Room is kept for those whose connection is in use.
        assert!(most > MAX_BEYOND, "{most}");
        for port in ports {
            assert_eq!(take(&target(port), |_| true).is_some(), port % 5 == 0, "{port}");
        }
        sweep();
        POOL.with_borrow(|pool| assert!(pool.idle.is_empty() && pool.connections == 0));
    }
}
