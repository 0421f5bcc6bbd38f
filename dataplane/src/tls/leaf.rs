//! Leaves of our authority: one for each host that clients reach, kept as long as there is room.

use super::Alpn;
use super::authority::{Authority, IssueError};
use super::server::{OfLeaf, ServerConfigs};
use crate::counters::{self, Counter, Level};
use policy_format::Host;
use std::collections::HashMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{OnceCell, Semaphore};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::sign::CertifiedKey;

/// When there is no room, this part of what was used least lately makes it: looking for it takes time, and is done for many at once.
const EVICTED: usize = 8;

/// Leaves, made when they are asked for first.
pub(crate) struct Leaves {
    authority: Arc<Authority>,
    configs: ServerConfigs,
    capacity: NonZero<usize>,
    kept: Mutex<Kept>,
    /// As many are made at once as there are cores. More threads would make none of them sooner.
    makers: Arc<Semaphore>,
    made: AtomicU64,
}

#[derive(Default)]
struct Kept {
    slots: HashMap<Host, Slot>,
    /// Goes up with every use.
    clock: u64,
    level: Level,
}

struct Slot {
    used: u64,
    leaf: Arc<OnceCell<Arc<Leaf>>>,
}

/// A leaf with its key.
pub(crate) struct Leaf {
    key: Arc<CertifiedKey>,
    configs: OfLeaf,
    /// From then on another takes its place; it is still valid.
    until: SystemTime,
}

/// Why there is no leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LeafError {
    /// The authority does not give one.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// It could not be put to use.
    #[error("TLS cannot be set up")]
    Setup,
    /// The process is about to end.
    #[error("no thread makes certificates any more")]
    Ended,
}

impl Leaf {
    fn is_fresh(&self, now: SystemTime) -> bool {
        now < self.until
    }

    /// The leaf with its key, and what leads to the authority.
    #[cfg(test)]
    pub(crate) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

impl Leaves {
    /// Keeps `capacity` leaves, and at least one.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub(crate) fn new(authority: Arc<Authority>, capacity: usize) -> Result<Self, LeafError> {
        let makers = std::thread::available_parallelism().map_or(1, NonZero::get);
        Ok(Self {
            authority,
            configs: ServerConfigs::new().map_err(|_| LeafError::Setup)?,
            capacity: NonZero::new(capacity).unwrap_or(NonZero::<usize>::MIN),
            kept: Mutex::default(),
            makers: Arc::new(Semaphore::new(makers)),
            made: AtomicU64::new(0),
        })
    }

    /// Whose leaves they are.
    pub(crate) fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// How many were made.
    #[cfg(test)]
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// What is spoken with a client that wants `host`. Where there is a leaf, it takes no more than looking for it.
    pub(crate) async fn server_config(&self, host: &Host, alpn: Alpn) -> Result<Arc<ServerConfig>, LeafError> {
        let leaf = self.leaf(host, SystemTime::now()).await?;
        self.configs.get(&leaf.configs, &leaf.key, alpn).map_err(|_| LeafError::Setup)
    }

    /// The leaf for `host`. Where there is none it is made, once for all who wait, on a thread that serves nobody; errors are not kept.
    #[cfg(test)]
    pub(crate) async fn get(&self, host: &Host) -> Result<Arc<CertifiedKey>, LeafError> {
        Ok(Arc::clone(self.leaf(host, SystemTime::now()).await?.key()))
    }

    async fn leaf(&self, host: &Host, now: SystemTime) -> Result<Arc<Leaf>, LeafError> {
        let slot = self.slot(host, now);
        match slot.get_or_try_init(|| self.make(host, now)).await {
            Ok(leaf) => Ok(Arc::clone(leaf)),
            Err(error) => {
                self.forget(host, &slot);
                Err(error)
            }
        }
    }

    /// Where the leaf is, or will be.
    fn slot(&self, host: &Host, now: SystemTime) -> Arc<OnceCell<Arc<Leaf>>> {
        let mut kept = self.lock();
        kept.clock += 1;
        let used = kept.clock;
        if let Some(slot) = kept.slots.get_mut(host) {
            slot.used = used;
            let found = match slot.leaf.get() {
                Some(leaf) if leaf.is_fresh(now) => Counter::LeafHits,
                Some(_) => {
                    slot.leaf = Arc::default();
                    Counter::LeafMisses
                }
                None => Counter::LeafJoined,
            };
            counters::here(|counters| counters.count(found));
            return Arc::clone(&slot.leaf);
        }
        counters::here(|counters| counters.count(Counter::LeafMisses));
        if kept.slots.len() >= self.capacity.get() {
            kept.evict(self.capacity);
        }
        let slot = Slot { used, leaf: Arc::default() };
        let leaf = Arc::clone(&slot.leaf);
        kept.slots.insert(host.clone(), slot);
        kept.count();
        leaf
    }

    async fn make(&self, host: &Host, now: SystemTime) -> Result<Arc<Leaf>, LeafError> {
        // Whoever came first is the first.
        let permit = Arc::clone(&self.makers).acquire_owned().await.map_err(|_| LeafError::Ended)?;
        let (authority, host) = (Arc::clone(&self.authority), host.clone());
        let issue = move || {
            let issued = authority.issue(&host, now);
            drop(permit);
            issued
        };
        let issued = tokio::task::spawn_blocking(issue).await.map_err(|_| LeafError::Ended)??;
        self.made.fetch_add(1, Ordering::Relaxed);
        // Half of its time is left for clocks that are ahead, and for connections that stay.
        let rest = issued.valid.not_after.duration_since(now).unwrap_or(Duration::ZERO);
        Ok(Arc::new(Leaf { key: issued.key, configs: OfLeaf::default(), until: now + rest / 2 }))
    }

    /// Gives up the room of a leaf that could not be made.
    fn forget(&self, host: &Host, slot: &Arc<OnceCell<Arc<Leaf>>>) {
        let mut kept = self.lock();
        if kept.slots.get(host).is_some_and(|kept| Arc::ptr_eq(&kept.leaf, slot) && !kept.leaf.initialized()) {
            kept.slots.remove(host);
            kept.count();
        }
    }

    /// Nothing is left half done by whoever panics with it.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn evict(&mut self, capacity: NonZero<usize>) {
        let mut used: Vec<u64> = self.slots.values().map(|slot| slot.used).collect();
        let gone = (capacity.get() / EVICTED).max(1).min(used.len());
        let (_, last, _) = used.select_nth_unstable(gone.saturating_sub(1));
        let last = *last;
        self.slots.retain(|_, slot| slot.used > last);
        counters::here(|counters| counters.add(Counter::LeafEvictions, used.len().saturating_sub(self.slots.len())));
    }

    fn count(&mut self) {
        self.level.set(Counter::LeafEntries, self.slots.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::constraints::Constraints;
    use crate::tls::others::host;

    fn leaves(capacity: usize) -> Arc<Leaves> {
        let authority = Authority::in_memory(&Constraints::of(["**.test", "[::1]"])).unwrap();
        Arc::new(Leaves::new(Arc::new(authority), capacity).unwrap())
    }

    fn kept(leaves: &Leaves) -> usize {
        leaves.lock().slots.len()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_is_made_for_all_who_wait() {
        let leaves = leaves(64);
        // Nobody begins before all wait.
        let held = Arc::clone(&leaves.makers).acquire_many_owned(u32::try_from(leaves.makers.available_permits()).unwrap()).await.unwrap();
        let waiting: Vec<_> = (0..200)
            .map(|n| {
                let leaves = Arc::clone(&leaves);
                tokio::spawn(async move { leaves.get(&host(if n % 2 == 0 { "a.test" } else { "b.test" })).await.unwrap() })
            })
            .collect();
        drop(held);
        let mut found = Vec::new();
        for task in waiting {
            found.push(task.await.unwrap());
        }
        assert_eq!(leaves.made(), 2);
        assert!(found.iter().step_by(2).all(|leaf| Arc::ptr_eq(leaf, &found[0])));
        assert!(!Arc::ptr_eq(&found[0], &found[1]));
    }

    #[tokio::test]
    async fn whoever_gives_up_waiting_leaves_it_to_the_next() {
        let leaves = leaves(64);
        let held = Arc::clone(&leaves.makers).acquire_many_owned(u32::try_from(leaves.makers.available_permits()).unwrap()).await.unwrap();
        let first = tokio::spawn({
            let leaves = Arc::clone(&leaves);
            async move { leaves.get(&host("a.test")).await }
        });
        tokio::task::yield_now().await;
        let second = tokio::spawn({
            let leaves = Arc::clone(&leaves);
            async move { leaves.get(&host("a.test")).await }
        });
        tokio::task::yield_now().await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        drop(held);
        assert!(second.await.unwrap().is_ok());
        assert_eq!(leaves.made(), 1);
    }

    #[tokio::test]
    async fn there_is_room_for_so_many() {
        let leaves = leaves(16);
        let first = leaves.get(&host("h0.test")).await.unwrap();
        for n in 0..200 {
            leaves.get(&host(&format!("h{n}.test"))).await.unwrap();
            assert!(Arc::ptr_eq(&first, &leaves.get(&host("h0.test")).await.unwrap()), "what is used stays");
            assert!(kept(&leaves) <= 16);
        }
        assert_eq!(leaves.made(), 200);
        leaves.get(&host("h100.test")).await.unwrap();
        assert_eq!(leaves.made(), 201, "what was not used went");
    }

    #[tokio::test]
    async fn what_is_found_is_counted_and_what_is_kept() {
        let counters = crate::counters::Counters::new();
        let _serving = counters.serve();
        let leaves = leaves(2);
        let counted = || {
            let looked = |result| counters.sample(&format!("netproxy_certificate_cache_lookups_total{{result=\"{result}\"}}")).unwrap();
            let of = |what| counters.sample(&format!("netproxy_certificate_cache_{what}")).unwrap();
            // Who comes second joins the first, or finds what that has made by then.
            (looked("miss"), looked("joined") + looked("hit"), of("entries"), of("evictions_total"))
        };
        let (a, now) = (host("a.test"), SystemTime::now());
        let (one, other) = tokio::join!(leaves.get(&a), leaves.get(&a));
        assert!(one.is_ok() && other.is_ok());
        assert_eq!(counted(), (1, 1, 1, 0));
        leaves.get(&a).await.unwrap();
        assert_eq!(counted(), (1, 2, 1, 0));
        leaves.leaf(&a, now + Duration::from_secs(300 * 24 * 60 * 60)).await.unwrap();
        assert_eq!(counted(), (2, 2, 1, 0), "one that is too old is none");
        for name in ["b.test", "c.test"] {
            leaves.get(&host(name)).await.unwrap();
        }
        assert_eq!(counted(), (4, 2, 2, 1));
        assert!(leaves.get(&host("a.example")).await.is_err());
        assert_eq!(counted().2, kept(&leaves) as u64);
        drop(leaves);
        assert_eq!(counted().2, 0);
    }

    #[tokio::test]
    async fn room_for_none_is_room_for_one() {
        let leaves = leaves(0);
        for name in ["a.test", "a.test", "b.test", "a.test"] {
            leaves.get(&host(name)).await.unwrap();
            assert_eq!(kept(&leaves), 1);
        }
        assert_eq!(leaves.made(), 3);
    }

    #[tokio::test]
    async fn errors_take_no_room() {
        let leaves = leaves(16);
        for name in ["a.example", "127.1", "192.0.2.1"] {
            let error = leaves.get(&host(name)).await.unwrap_err();
            assert_eq!(error, LeafError::Issue(IssueError::NotCovered), "{name}");
        }
        assert_eq!((kept(&leaves), leaves.made()), (0, 0));
    }

    #[tokio::test]
    async fn another_is_made_long_before_one_expires() {
        let leaves = leaves(16);
        let (host, now) = (host("a.test"), SystemTime::now());
        let day = Duration::from_secs(24 * 60 * 60);
        let first = leaves.leaf(&host, now).await.unwrap();
        let later = leaves.leaf(&host, now + 14 * day).await.unwrap();
        assert!(Arc::ptr_eq(&first, &later));
        let renewed = leaves.leaf(&host, now + 16 * day).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &renewed) && renewed.until > first.until + 14 * day);
        assert_eq!((kept(&leaves), leaves.made()), (1, 2));
    }

    #[tokio::test]
    async fn a_configuration_is_made_once() {
        let leaves = leaves(16);
        let host = host("::1");
        let mut seen = Vec::new();
        for alpn in Alpn::ALL {
            let config = leaves.server_config(&host, alpn).await.unwrap();
            assert_eq!(config.alpn_protocols, alpn.protocols());
            assert!(Arc::ptr_eq(&config, &leaves.server_config(&host, alpn).await.unwrap()));
            assert!(!seen.iter().any(|seen| Arc::ptr_eq(seen, &config)));
            seen.push(config);
        }
        assert_eq!(leaves.made(), 1);
    }

    /// What a first contact costs, alone and among a thousand: `cargo test --release -p dataplane first_contacts -- --ignored --nocapture`.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "it measures"]
    async fn first_contacts() {
        let leaves = leaves(4096);
        let mut alone: Vec<Duration> = Vec::new();
        for n in 0..200 {
            let (host, began) = (host(&format!("alone{n}.test")), std::time::Instant::now());
            leaves.get(&host).await.unwrap();
            alone.push(began.elapsed());
        }
        let began = std::time::Instant::now();
        let tasks: Vec<_> = (0..1000)
            .map(|n| {
                let leaves = Arc::clone(&leaves);
                tokio::spawn(async move {
                    leaves.get(&host(&format!("h{n}.test"))).await.unwrap();
                    began.elapsed()
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.push(task.await.unwrap());
        }
        alone.sort();
        all.sort();
        let (first, again) = (host("h0.test"), std::time::Instant::now());
        for _ in 0..10_000 {
            leaves.server_config(&first, Alpn::Http1).await.unwrap();
        }
        println!("alone: median {:?}, p99 {:?}", alone[100], alone[198]);
        println!("a thousand at once: median {:?}, p99 {:?}, all {:?}", all[500], all[990], all[999]);
        println!("again: {:?}", again.elapsed() / 10_000);
    }
}
