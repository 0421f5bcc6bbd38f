//! Token buckets: so many at once, and so many in a second.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Addresses whose buckets are kept; those of others share one.
const ADDRESSES: usize = 1024;
/// Requests at once, and in a second: through one door, from everybody together who may, but for `/health` and `/ready`; and from one address, of those who have shown nothing.
const REQUESTS: Rate = Rate { burst: 1000, each: Duration::from_millis(2) };
/// Tokens that do not hold, from one address.
const FAILURES: Rate = Rate { burst: 10, each: Duration::from_secs(1) };

/// How many at once, and after how long there is room for one more.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    each: Duration,
}

/// What was taken, as the time at which all of it is forgotten.
#[derive(Debug, Clone, Copy)]
struct Bucket(Instant);

impl Bucket {
    /// How long to wait for room; zero where there is some.
    fn wait(self, rate: Rate, now: Instant) -> Duration {
        let most = rate.each.saturating_mul(rate.burst.saturating_sub(1));
        self.0.saturating_duration_since(now).saturating_sub(most)
    }
}

/// Buckets of one rate by address.
pub(crate) struct Throttle {
    rate: Rate,
    buckets: Mutex<HashMap<Key, Bucket>>,
}

/// Whose bucket it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    /// An address; of IPv6, a network of 64 bits, which is one customer's.
    Of(IpAddr),
    Everybody,
}

impl Key {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = u128::from(v6) & !u128::from(u64::MAX);
                Self::Of(Ipv6Addr::from(network).into())
            }
            v4 @ IpAddr::V4(_) => Self::Of(v4),
        }
    }
}

impl Throttle {
    /// For tokens that do not hold.
    pub(crate) fn failures() -> Self {
        Self { rate: FAILURES, buckets: Mutex::default() }
    }

    /// For all requests through one door together, or for those of each address.
    pub(crate) fn requests() -> Self {
        Self { rate: REQUESTS, buckets: Mutex::default() }
    }

    /// One more of that address, if there is room; else, how long until there is.
    pub(crate) fn take(&self, address: IpAddr) -> Result<(), Duration> {
        self.take_as(Key::of(address))
    }

    /// One more of everybody.
    pub(crate) fn take_any(&self) -> Result<(), Duration> {
        self.take_as(Key::Everybody)
    }

    fn take_as(&self, key: Key) -> Result<(), Duration> {
        let mut buckets = self.lock();
        let now = Instant::now();
        if buckets.len() >= ADDRESSES && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| bucket.0 > now);
        }
        let key = Self::key(&buckets, key);
        let bucket = buckets.entry(key).or_insert(Bucket(now));
        match bucket.wait(self.rate, now) {
            Duration::ZERO => {
                bucket.0 = bucket.0.max(now) + self.rate.each;
                Ok(())
            }
            wait => Err(wait),
        }
    }

    /// The address's own, as long as there is room for one.
    fn key(buckets: &HashMap<Key, Bucket>, key: Key) -> Key {
        if buckets.len() >= ADDRESSES && !buckets.contains_key(&key) { Key::Everybody } else { key }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_at_once_and_then_one_after_the_other() {
        let throttle = Throttle::failures();
        let address = IpAddr::from([192, 0, 2, 1]);
        for n in 0..10 {
            assert_eq!(throttle.take(address), Ok(()), "{n}");
        }
        assert_eq!((throttle.take(address), throttle.take(address)), (Err(Duration::from_secs(1)), Err(Duration::from_secs(1))));
        assert_eq!(throttle.take(IpAddr::from([192, 0, 2, 2])), Ok(()), "others are not in its way");
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert_eq!((throttle.take(address), throttle.take(address)), (Ok(()), Err(Duration::from_millis(500))));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!((0..12).filter(|_| throttle.take(address).is_ok()).count(), 10, "no more is saved up than there was");
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_requests_at_once_and_then_five_hundred_in_a_second() {
        let throttle = Throttle::requests();
        let room = || (0..2000).filter(|_| throttle.take_any().is_ok()).count();
        assert_eq!(room(), 1000);
        assert_eq!(throttle.take_any(), Err(Duration::from_millis(2)));
        assert_eq!(Throttle::requests().take_any(), Ok(()), "another door has room of its own");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(room(), 500);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(room(), 1000, "no more is saved up than there was");
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_ipv6_is_one_and_there_is_an_end_to_buckets() {
        let throttle = Throttle::failures();
        let address = |n: u128| IpAddr::from(Ipv6Addr::from((0x2001_0db8_u128 << 96) + n));
        assert_eq!((0..20).filter(|n| throttle.take(address(*n)).is_ok()).count(), 10);
        for n in 0..2000_u128 {
            let _ = throttle.take(address(n << 64));
        }
        assert!(throttle.lock().len() <= ADDRESSES + 1);
        // Those that there is no room for have ten together.
        assert!(throttle.take(address(5000 << 64)).is_err());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(throttle.take(address(5000 << 64)), Ok(()));
        assert!(throttle.lock().len() < 3, "what is forgotten makes room");
    }
}
