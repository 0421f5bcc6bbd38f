//! Answers, kept for as long as they say, and each asked for once however many wait for it.
//!
//! An answer is never relied on for longer than its own time to live, and never without being decided on: who is given kept addresses decides on them as if they were
//! new. Nothing is kept of a lookup that failed.

use super::resolve::{Answer, Ask, Failure, Found, Lookup, Resolve};
use crate::counters::{self, Counter, Level};
use policy_format::Limits;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout};

/// Locks, so that threads hardly ever wait for one another. A lock is held for a look into a table.
const SHARDS: usize = 16;
/// An answer that says that it holds for longer is asked for again all the same.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A resolver behind a cache.
pub(crate) struct Cache<S>(Arc<Inner<S>>);

struct Inner<S> {
    source: S,
    lookups: Arc<Semaphore>,
    patience: Duration,
    capacity: usize,
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

/// Two generations of what is kept: when the young one is full, it becomes the old one, and what was old and nobody asked for since is dropped.
#[derive(Default)]
struct Shard {
    young: HashMap<Arc<str>, Kept>,
    old: HashMap<Arc<str>, Kept>,
    flights: HashMap<Arc<str>, Flight>,
    level: Level,
}

struct Kept {
    answer: Answer,
    until: Instant,
}

/// A lookup under way; what it came to, once it is over.
type Flight = watch::Sender<Option<Answer>>;

enum Place {
    Here(Answer),
    UnderWay(watch::Receiver<Option<Answer>>),
}

impl<S: Ask> Cache<S> {
    pub(crate) fn new(source: S, limits: &Limits) -> Self {
        // A small one is not cut into parts that hold next to nothing.
        let shards = if limits.cache_names < 16 * SHARDS { 1 } else { SHARDS };
        Self(Arc::new(Inner {
            source,
            lookups: Arc::new(Semaphore::new(limits.lookups)),
            patience: limits.resolve_timeout,
            capacity: limits.cache_names / shards,
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }))
    }

    /// What is known of a name, or the lookup that will tell.
    fn find(&self, name: &str) -> Option<Place> {
        let mut shard = self.0.shard(name)?;
        let why = match shard.kept(name, self.0.capacity) {
            Ok(answer) => {
                counters::here(|counters| counters.count(Counter::NameHits));
                return Some(Place::Here(answer));
            }
            Err(why) => why,
        };
        if let Some(flight) = shard.flights.get(name) {
            counters::here(|counters| counters.count(Counter::NameJoined));
            return Some(Place::UnderWay(flight.subscribe()));
        }
        counters::here(|counters| counters.count(why));
        let (flight, receiver) = watch::channel(None);
        let name: Arc<str> = name.into();
        shard.flights.insert(Arc::clone(&name), flight.clone());
        drop(shard);
        // A task of its own: who waits may go, and others still wait.
        tokio::spawn(Takeoff { inner: Arc::clone(&self.0), name, flight, landed: false }.fly());
        Some(Place::UnderWay(receiver))
    }
}

impl<S: Ask> Resolve for Cache<S> {
    fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        Box::pin(async move {
            let answer = match self.find(name) {
                Some(Place::Here(answer)) => answer,
                // The sender is gone before it said anything when the runtime ends.
                Some(Place::UnderWay(mut flight)) => match flight.wait_for(Option::is_some).await {
                    Ok(answer) => answer.clone().unwrap_or(Err(Failure::NoServer)),
                    Err(_) => Err(Failure::NoServer),
                },
                None => Err(Failure::NoServer),
            };
            Ok(answer?.to_vec())
        })
    }
}

impl<S> Inner<S> {
    fn shard(&self, name: &str) -> Option<MutexGuard<'_, Shard>> {
        let number = usize::try_from(self.hasher.hash_one(name) % self.shards.len().max(1) as u64).unwrap_or_default();
        Some(self.shards.get(number)?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shard {
    /// What may be relied on, or as what it is counted that there is nothing.
    fn kept(&mut self, name: &str, capacity: usize) -> Result<Answer, Counter> {
        let now = Instant::now();
        if let Some(kept) = self.young.get(name) {
            return if now < kept.until { Ok(kept.answer.clone()) } else { Err(Counter::NameStale) };
        }
        let (name, kept) = self.old.remove_entry(name).ok_or(Counter::NameMisses)?;
        if now >= kept.until {
            self.count();
            return Err(Counter::NameStale);
        }
        let answer = kept.answer.clone();
        self.keep(name, kept, capacity);
        Ok(answer)
    }

    fn count(&mut self) {
        self.level.set(Counter::NameEntries, self.young.len() + self.old.len());
    }

    fn keep(&mut self, name: Arc<str>, kept: Kept, capacity: usize) {
        if self.young.len() >= (capacity / 2).max(1) && !self.young.contains_key(&name) {
            let full = std::mem::take(&mut self.young);
            self.old = if capacity > 1 { full } else { HashMap::new() };
        }
        self.old.remove(&name);
        self.young.insert(name, kept);
        self.count();
    }
}

/// A lookup that nobody waits for any more goes on, so that who asks next finds an answer.
struct Takeoff<S> {
    inner: Arc<Inner<S>>,
    name: Arc<str>,
    flight: Flight,
    landed: bool,
}

impl<S: Ask> Takeoff<S> {
    async fn fly(mut self) {
        let Some(permit) = self.turn().await else { return };
        let found = match timeout(self.inner.patience, self.inner.source.ask(&self.name, permit)).await {
            Ok(found) => found,
            Err(_) => Found { answer: Err(Failure::TimedOut), keep: Duration::ZERO },
        };
        self.land(found);
    }

    /// Waits for its turn. `None` when nobody waits for the answer any more: lookups that were not begun do not pile up.
    async fn turn(&mut self) -> Option<OwnedSemaphorePermit> {
        loop {
            tokio::select! {
                permit = Arc::clone(&self.inner.lookups).acquire_owned() => return permit.ok(),
                () = self.flight.closed() => {}
            }
            // Whoever joins does so under the lock.
            let mut shard = self.inner.shard(&self.name)?;
            if self.flight.receiver_count() == 0 {
                shard.flights.remove(&self.name);
                self.landed = true;
                return None;
            }
        }
    }

    fn land(&mut self, Found { answer, keep }: Found) {
        if let Some(mut shard) = self.inner.shard(&self.name) {
            if self.inner.capacity > 0 && !keep.is_zero() {
                let kept = Kept { answer: answer.clone(), until: Instant::now() + keep.min(LONGEST) };
                shard.keep(Arc::clone(&self.name), kept, self.inner.capacity);
            }
            shard.flights.remove(&self.name);
        }
        self.landed = true;
        self.flight.send_replace(Some(answer));
    }
}

impl<S> Drop for Takeoff<S> {
    fn drop(&mut self) {
        // It ended before it could say anything: the next one asks anew.
        if !self.landed
            && let Some(mut shard) = self.inner.shard(&self.name)
        {
            shard.flights.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use std::sync::atomic::{AtomicU8, Ordering};

    /// Answers with a new address each time, after a second, for as long as it is told.
    struct Source {
        asked: Arc<AtomicU8>,
        answer: Result<Duration, Failure>,
        slow: Duration,
    }

    impl Ask for Source {
        async fn ask(&self, _: &str, _permit: OwnedSemaphorePermit) -> Found {
            let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
            tokio::time::sleep(self.slow).await;
            match self.answer {
                Ok(keep) => Found { answer: Ok([IpAddr::from([192, 0, 2, number])].into()), keep },
                Err(failure) => Found { answer: Err(failure), keep: Duration::from_secs(5) },
            }
        }
    }

    struct Bench {
        cache: Arc<Cache<Source>>,
        asked: Arc<AtomicU8>,
    }

    impl Bench {
        fn new(answer: Result<Duration, Failure>, limits: &Limits) -> Self {
            let asked = Arc::default();
            let source = Source { asked: Arc::clone(&asked), answer, slow: Duration::from_secs(1) };
            Self { cache: Arc::new(Cache::new(source, limits)), asked }
        }

        /// Which answer it was.
        async fn look_up(&self, name: &str) -> Result<u8, String> {
            match self.cache.resolve(name).await.map_err(|error| error.to_string())?.as_slice() {
                [IpAddr::V4(ip)] => Ok(ip.octets()[3]),
                other => Err(format!("{other:?}")),
            }
        }

        fn asked(&self) -> u8 {
            self.asked.load(Ordering::Relaxed)
        }

        fn kept(&self) -> usize {
            self.cache.0.shards.iter().map(|shard| shard.lock().unwrap()).map(|shard| shard.young.len() + shard.old.len()).sum()
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_for_its_time_to_live_and_no_longer() {
        let bench = Bench::new(Ok(MINUTE), &Limits::default());
        assert_eq!(bench.look_up("a.test").await, Ok(1));
        pass(59).await;
        assert_eq!(bench.look_up("a.test").await, Ok(1));
        assert_eq!(bench.look_up("b.test").await, Ok(2));
        // Being asked for does not prolong it; neither does moving between generations.
        assert_eq!(bench.look_up("a.test").await, Ok(3));
        let long = Bench::new(Ok(Duration::from_secs(u64::from(u32::MAX))), &Limits::default());
        assert_eq!(long.look_up("a.test").await, Ok(1));
        pass(24 * 60 * 60).await;
        assert_eq!(long.look_up("a.test").await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_says_that_it_holds_no_time_is_not_kept() {
        let bench = Bench::new(Ok(Duration::ZERO), &Limits::default());
        assert_eq!((bench.look_up("a.test").await, bench.look_up("a.test").await), (Ok(1), Ok(2)));
        assert_eq!(bench.kept(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn that_there_is_nothing_is_kept_too() {
        let bench = Bench::new(Err(Failure::NotFound), &Limits::default());
        for _ in 0..3 {
            assert_eq!(bench.look_up("a.test").await, Err(Failure::NotFound.to_string()));
        }
        assert_eq!(bench.asked(), 1);
        pass(5).await;
        assert!(bench.look_up("a.test").await.is_err());
        assert_eq!(bench.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_found_is_counted_and_what_is_kept() {
        let counters = crate::counters::Counters::new();
        let _serving = counters.serve();
        let limits = Limits { cache_names: 4, ..Limits::default() };
        let bench = Bench::new(Ok(MINUTE), &limits);
        let counted = || {
            let looked = |result| counters.sample(&format!("netproxy_dns_cache_lookups_total{{result=\"{result}\"}}")).unwrap();
            let entries = counters.sample("netproxy_dns_cache_entries").unwrap();
            (looked("miss"), looked("joined"), looked("hit"), looked("stale"), entries)
        };
        let _ = tokio::join!(bench.look_up("a.test"), bench.look_up("a.test"));
        assert_eq!(counted(), (1, 1, 0, 0, 1));
        let _ = bench.look_up("a.test").await;
        assert_eq!(counted(), (1, 1, 1, 0, 1));
        pass(60).await;
        let _ = bench.look_up("a.test").await;
        assert_eq!(counted(), (1, 1, 1, 1, 1));
        // Of an older generation, too: it is gone by then.
        for name in ["b.test", "c.test"] {
            let _ = bench.look_up(name).await;
        }
        assert_eq!((counted(), bench.kept()), ((3, 1, 1, 1, 3), 3));
        pass(60).await;
        let mut again = bench.cache.resolve("a.test");
        assert!(timeout(Duration::from_millis(1), &mut again).await.is_err());
        assert_eq!(counted(), (3, 1, 1, 2, bench.kept() as u64));
        drop(again);
        for number in 0..9 {
            let _ = bench.look_up(&format!("{number}.test")).await;
            assert_eq!(counted().4, bench.kept() as u64);
        }
        pass(1).await;
        drop(bench);
        assert_eq!(counted().4, 0, "a policy with other name servers has a cache of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_make_one_lookup() {
        let bench = Bench::new(Ok(Duration::ZERO), &Limits::default());
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let cache = Arc::clone(&bench.cache);
            asking.spawn(async move { cache.resolve("a.test").await.map_err(|error| error.to_string()) });
        }
        for found in asking.join_all().await {
            assert_eq!(found, Ok(vec![IpAddr::from([192, 0, 2, 1])]));
        }
        assert_eq!(bench.asked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_does_not_take_the_answer_from_others() {
        let bench = Bench::new(Ok(MINUTE), &Limits::default());
        let mut first = bench.cache.resolve("a.test");
        assert!(timeout(Duration::from_millis(500), &mut first).await.is_err());
        let cache = Arc::clone(&bench.cache);
        let second = tokio::spawn(async move { cache.resolve("a.test").await.is_ok() });
        tokio::task::yield_now().await;
        drop(first);
        assert!(second.await.unwrap());
        // And where nobody was left, the answer is there for the next.
        let third = timeout(Duration::from_millis(500), bench.cache.resolve("b.test")).await;
        assert!(third.is_err());
        pass(1).await;
        tokio::task::yield_now().await;
        assert_eq!(bench.look_up("b.test").await, Ok(2));
        assert_eq!(bench.asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn lookups_wait_for_their_turn_and_those_that_nobody_wants_are_not_made() {
        let bench = Bench::new(Ok(MINUTE), &Limits { lookups: 1, ..Limits::default() });
        let both = tokio::join!(bench.look_up("a.test"), async {
            // The second waits behind the first, and its client goes before it has begun.
            let waited = timeout(Duration::from_millis(500), bench.cache.resolve("b.test")).await;
            assert!(waited.is_err());
        });
        assert_eq!(both.0, Ok(1));
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(bench.asked(), 1);
        assert!(bench.cache.0.shards.iter().all(|shard| shard.lock().unwrap().flights.is_empty()));
        assert_eq!(bench.look_up("b.test").await, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_ends_in_time() {
        let mut bench = Bench::new(Ok(MINUTE), &Limits { resolve_timeout: Duration::from_millis(900), ..Limits::default() });
        assert_eq!(bench.look_up("a.test").await, Err(Failure::TimedOut.to_string()));
        // Nothing of it is left, so that the next one is asked for anew.
        assert_eq!(bench.kept(), 0);
        assert_eq!(bench.look_up("a.test").await, Err(Failure::TimedOut.to_string()));
        assert_eq!(bench.asked(), 2);
        bench = Bench::new(Ok(MINUTE), &Limits::default());
        assert_eq!(bench.look_up("a.test").await, Ok(1));
    }

    #[test]
    fn a_runtime_that_ends_leaves_no_lookup_behind() {
        let bench = Bench::new(Ok(MINUTE), &Limits::default());
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let first = runtime();
        first.block_on(async { assert!(timeout(Duration::from_millis(10), bench.cache.resolve("a.test")).await.is_err()) });
        drop(first);
        assert_eq!(runtime().block_on(bench.look_up("a.test")), Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_kept_than_the_limit_says() {
        for cache_names in [0, 1, 2, 7, 256] {
            let limits = Limits { cache_names, ..Limits::default() };
            let bench = Bench::new(Ok(Duration::from_secs(100_000)), &limits);
            for number in 0..2 * cache_names + 3 {
                let _ = bench.look_up(&format!("{number}.test")).await;
                // In use all the time.
                let _ = bench.look_up("0.test").await;
                assert!(bench.kept() <= cache_names, "{} of {cache_names}", bench.kept());
            }
            if cache_names > 1 {
                let asked = bench.asked();
                assert_eq!(bench.look_up("0.test").await, Ok(1), "what is used stays");
                assert_eq!(bench.asked(), asked);
            }
        }
    }
}
