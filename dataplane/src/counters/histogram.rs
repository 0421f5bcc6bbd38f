//! How long things take: histograms whose buckets double.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Something whose time is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timed {
    /// A decision, with nothing that is waited for.
    Decide,
    /// The answer of the embedding program, or its silence.
    Decider,
    /// Looking a name up; what was kept is as quick as it is.
    Resolve,
    /// Dialling, all addresses that were tried together, and the proxies on the way.
    Connect,
    /// A TLS handshake with a client.
    TlsClient,
    /// A TLS handshake with an origin.
    TlsOrigin,
    /// From the begin of a request that is sent on to the head of its answer.
    FirstByte,
    /// An HTTP exchange, from its decision to its end.
    Exchange,
    /// A tunnel or an association, from its decision to its end.
    Tunnel,
}

/// What is shown of one.
pub(super) struct Shown {
    pub(super) timed: Timed,
    pub(super) name: &'static str,
    pub(super) labels: &'static str,
    pub(super) help: &'static str,
}

/// All of them; those of one name follow one another.
pub(super) const ALL: [Shown; Timed::COUNT] = [
    shown(
        Timed::Decide,
        "netproxy_decide_duration_seconds",
        "",
        "Time for a decision on a request; one request in sixteen is timed, and the first of each thread.",
    ),
    shown(
        Timed::Decider,
        "netproxy_decider_duration_seconds",
        "",
        "Time until the embedding program answered what it was asked, or its time was over.",
    ),
    shown(Timed::Resolve, "netproxy_resolve_duration_seconds", "", "Time for looking a name up, answers that were kept included."),
    shown(
        Timed::Connect,
        "netproxy_connect_duration_seconds",
        "",
        "Time for connecting to origins, by way of upstream proxies too, all addresses of a name together, whether it succeeded or not.",
    ),
    shown(
        Timed::TlsClient,
        "netproxy_tls_handshake_duration_seconds",
        r#"side="client""#,
        "Time for TLS handshakes of tunnels that are read, by the side, whether they came about or not.",
    ),
    shown(
        Timed::TlsOrigin,
        "netproxy_tls_handshake_duration_seconds",
        r#"side="origin""#,
        "Time for TLS handshakes of tunnels that are read, by the side, whether they came about or not.",
    ),
    shown(
        Timed::FirstByte,
        "netproxy_first_byte_duration_seconds",
        "",
        "Time from when a request began to be sent on until the head of its answer was there.",
    ),
    shown(Timed::Exchange, "netproxy_exchange_duration_seconds", "", "Time of HTTP exchanges, from the decision to the end of the answer."),
    shown(
        Timed::Tunnel,
        "netproxy_tunnel_duration_seconds",
        "",
        "Time of tunnels and of associations for datagrams, from the decision to the end.",
    ),
];

const fn shown(timed: Timed, name: &'static str, labels: &'static str, help: &'static str) -> Shown {
    Shown { timed, name, labels, help }
}

impl Timed {
    pub(super) const COUNT: usize = Self::Tunnel as usize + 1;

    /// The bound of the first bucket in nanoseconds; each that follows is twice the one before.
    const fn first(self) -> u64 {
        match self {
            Self::Decide => 100,
            Self::Tunnel => 10_000_000,
            _ => 100_000,
        }
    }

    /// How many buckets have a bound.
    const fn bounded(self) -> usize {
        match self {
            // 100 ns to 1.6 ms.
            Self::Decide => 15,
            // 10 ms to 1.5 hours; 100 µs to 52 s.
            Self::Tunnel
            | Self::Decider
            | Self::Resolve
            | Self::Connect
            | Self::TlsClient
            | Self::TlsOrigin
            | Self::FirstByte
            | Self::Exchange => BOUNDED,
        }
    }

    /// The bounds of its buckets in seconds.
    #[expect(clippy::cast_precision_loss, reason = "bounds are far below 2^53 ns")]
    pub(super) fn bounds(self) -> impl Iterator<Item = f64> {
        (0..self.bounded()).map(move |bucket| (self.first() << bucket) as f64 / 1e9)
    }

    /// Which bucket a time falls into: bounds belong to their bucket.
    fn bucket(self, nanos: u64) -> usize {
        // Divided by what is known when this is compiled, wherever it is called with a constant.
        let doublings = u64::BITS - (nanos.saturating_sub(1) / self.first()).leading_zeros();
        (doublings as usize).min(self.bounded())
    }
}

/// The most that any has.
const BOUNDED: usize = 20;

/// One thread's share of a histogram. Buckets are not cumulative here.
pub(super) struct Times {
    buckets: [AtomicU64; BOUNDED + 1],
    nanos: AtomicU64,
}

impl Times {
    pub(super) fn new() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), nanos: AtomicU64::new(0) }
    }

    #[inline]
    pub(super) fn observe(&self, timed: Timed, took: Duration) {
        // 584 years.
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Some(bucket) = self.buckets.get(timed.bucket(nanos)) {
            // Who sees it in the bucket sees it in the sum.
            bucket.fetch_add(1, Ordering::Release);
        }
    }
}

/// All threads' shares, added up. The count is that of the buckets, so that the two cannot differ within one scrape; the sum has at least what was counted.
#[derive(Default)]
pub(super) struct Sum {
    buckets: [u64; BOUNDED + 1],
    nanos: u64,
}

impl Sum {
    pub(super) fn of<'t>(shares: impl Iterator<Item = &'t Times>) -> Self {
        let mut sum = Self::default();
        for share in shares {
            for (total, bucket) in sum.buckets.iter_mut().zip(&share.buckets) {
                *total += bucket.load(Ordering::Acquire);
            }
            sum.nanos = sum.nanos.wrapping_add(share.nanos.load(Ordering::Relaxed));
        }
        sum
    }

    /// Each bound with how many took no longer.
    pub(super) fn cumulative(&self, timed: Timed) -> impl Iterator<Item = (f64, u64)> {
        let counts = self.buckets.iter().scan(0, |sum, bucket| {
            *sum += bucket;
            Some(*sum)
        });
        timed.bounds().zip(counts)
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "that of a double is what Prometheus has")]
    pub(super) fn seconds(&self) -> f64 {
        self.nanos as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_each_in_its_place() {
        for (place, shown) in ALL.iter().enumerate() {
            assert_eq!(shown.timed as usize, place, "{}", shown.name);
            assert_eq!(shown.timed.bounds().count(), shown.timed.bounded());
            assert!(shown.timed.bounds().is_sorted() && shown.timed.bounded() <= BOUNDED);
        }
    }

    #[test]
    fn a_time_falls_into_the_bucket_that_a_search_would_find() {
        for shown in &ALL {
            let timed = shown.timed;
            let bounds: Vec<u64> = (0..timed.bounded()).map(|bucket| timed.first() << bucket).collect();
            let around = bounds.iter().flat_map(|bound| [bound - 1, *bound, bound + 1]);
            for nanos in around.chain([0, 1, 2, u64::MAX - 1, u64::MAX]) {
                assert_eq!(timed.bucket(nanos), bounds.partition_point(|bound| *bound < nanos), "{}: {nanos}", shown.name);
            }
        }
    }

    #[test]
    fn bounds_are_written_short() {
        let written = |timed: Timed| timed.bounds().map(|bound| bound.to_string()).collect::<Vec<_>>();
        assert_eq!(written(Timed::Decide)[..5], ["0.0000001", "0.0000002", "0.0000004", "0.0000008", "0.0000016"]);
        assert_eq!(written(Timed::Decide).last().unwrap(), "0.0016384");
        assert_eq!(written(Timed::Connect)[..3], ["0.0001", "0.0002", "0.0004"]);
        assert_eq!(written(Timed::Connect).last().unwrap(), "52.4288");
        assert!(ALL.iter().flat_map(|shown| written(shown.timed)).all(|bound| bound.len() <= 9));
    }

    #[test]
    fn what_is_observed_on_many_threads_adds_up_and_nothing_is_lost_at_the_ends() {
        let shares = [Times::new(), Times::new()];
        std::thread::scope(|scope| {
            for share in &shares {
                scope.spawn(|| {
                    for micros in 0..1000 {
                        share.observe(Timed::Connect, Duration::from_micros(micros));
                    }
                    share.observe(Timed::Connect, Duration::MAX);
                });
            }
        });
        let sum = Sum::of(shares.iter());
        let cumulative: Vec<(f64, u64)> = sum.cumulative(Timed::Connect).collect();
        // 0 to 100 µs, to 200 µs, to 400 µs, to 800 µs, and the rest of a millisecond.
        assert_eq!(cumulative[..5], [(0.0001, 202), (0.0002, 402), (0.0004, 802), (0.0008, 1602), (0.0016, 2000)]);
        assert_eq!((cumulative.last().unwrap().1, sum.count()), (2000, 2002));
    }
}
