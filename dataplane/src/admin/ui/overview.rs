//! What is shown beyond the answers of the API: how much was done in each of the last seconds, and which hosts were blocked how often.
//!
//! Both are made of what the API itself answers, and are bounded: seconds by [`SECONDS`], hosts by [`HOSTS`]. Seconds are counted once each; what was blocked is looked at then, and whenever
//! somebody asks.

use super::super::model::{Blocked, BlockedRequest, Change, Latency, Stats};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Between two looks.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// Seconds that are remembered.
const SECONDS: usize = 300;
/// Hosts that are counted, at most. Where there are more, the one that was blocked least, and longest ago, is forgotten.
const HOSTS: usize = 1_000;
/// Hosts that are shown.
const SHOWN: usize = 50;
/// What is timed and shown.
pub(crate) const TIMED: [&str; 2] = ["connect", "first_byte"];

macro_rules! models {
    ($($(#[$meta:meta])* pub(crate) struct $name:ident { $($body:tt)* })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        pub(crate) struct $name { $($body)* }
    )+};
}

models! {
    /// `GET /v1/overview`: what the dashboard shows beyond what else the API answers.
    pub(crate) struct Overview {
        /// Hosts that were blocked, those that were blocked most first.
        pub(crate) blocked: Vec<TopBlocked>,
        /// How many were blocked and are not among them: they went by too fast, or there were too many hosts.
        pub(crate) not_counted: u64,
        /// How much was done in each of the last seconds.
        pub(crate) series: Series,
    }

    /// Requests to one host and port that were blocked for one reason.
    pub(crate) struct TopBlocked {
        /// How many.
        pub(crate) count: u64,
        /// The last one.
        pub(crate) last: BlockedRequest,
    }

    /// How much was done in each of the last seconds, the oldest first: lists of one length.
    pub(crate) struct Series {
        /// The end of the last second, in milliseconds since 1970.
        pub(crate) end_ms: u64,
        /// Milliseconds from one value to the next.
        pub(crate) step_ms: u64,
        /// Requests and tunnels that were allowed.
        pub(crate) allowed: Vec<u64>,
        /// Those that were refused.
        pub(crate) denied: Vec<u64>,
        /// Bytes from clients.
        pub(crate) up: Vec<u64>,
        /// Bytes to clients.
        pub(crate) down: Vec<u64>,
        /// Tunnels that were open at the end of the second.
        pub(crate) tunnels: Vec<u64>,
        /// Times, by what took them.
        pub(crate) times: Vec<Times>,
    }

    /// How long something took in each second: microseconds; none where there was nothing to measure.
    pub(crate) struct Times {
        /// What: `connect` or `first_byte`.
        pub(crate) what: String,
        /// Half of them took no longer.
        pub(crate) p50: Vec<Option<u64>>,
        /// Of a hundred, 99 took no longer.
        pub(crate) p99: Vec<Option<u64>>,
    }
}

/// What was done in a second.
#[derive(Debug, Clone, Copy, Default)]
struct Second {
    allowed: u64,
    denied: u64,
    up: u64,
    down: u64,
    tunnels: u64,
    times: [(Option<u64>, Option<u64>); TIMED.len()],
}

/// What the dashboard remembers.
#[derive(Debug, Default)]
pub(crate) struct History {
    seconds: VecDeque<Second>,
    last: Option<Stats>,
    hosts: HashMap<(String, u16, String), TopBlocked>,
    not_counted: u64,
    /// How far the ring of blocked requests was read.
    next: u64,
}

impl History {
    /// Client connections that were open at the last look.
    pub(crate) fn connections(&self) -> u64 {
        self.last.as_ref().map_or(0, |stats| stats.connections)
    }

    /// Another second has gone by.
    pub(crate) fn add(&mut self, stats: Stats) {
        if let Some(before) = &self.last {
            if self.seconds.len() == SECONDS {
                self.seconds.pop_front();
            }
            self.seconds.push_back(second(before, &stats));
        }
        self.last = Some(stats);
    }

    /// Counts what was blocked since the last look; `ring` gives what comes after a number.
    pub(crate) fn look(&mut self, ring: impl FnOnce(u64) -> Blocked) {
        let blocked = ring(self.next);
        self.next = blocked.next;
        self.not_counted += blocked.lost;
        for request in blocked.blocked {
            self.count(request);
        }
    }

    fn count(&mut self, request: BlockedRequest) {
        let key = (request.host.clone(), request.port, request.reason.clone());
        if let Some(known) = self.hosts.get_mut(&key) {
            known.count += 1;
            known.last = request;
            return;
        }
        if self.hosts.len() >= HOSTS {
            let least = self.hosts.iter().min_by_key(|(_, top)| (top.count, top.last.seq)).map(|(key, _)| key.clone());
            let forgotten = least.and_then(|key| self.hosts.remove(&key));
            self.not_counted += forgotten.map_or(0, |top| top.count);
        }
        self.hosts.insert(key, TopBlocked { count: 1, last: request });
    }

    /// Requests that were blocked are counted anew.
    pub(crate) fn forget(&mut self) {
        self.hosts.clear();
        self.not_counted = 0;
    }

    /// All that is shown of it. `change` says what would let a request pass under the policy of now.
    pub(crate) fn overview(&self, mut change: impl FnMut(&BlockedRequest) -> Option<Change>) -> Overview {
        let mut top: Vec<&TopBlocked> = self.hosts.values().collect();
        top.sort_unstable_by_key(|top| std::cmp::Reverse((top.count, top.last.seq)));
        let hidden: u64 = top.iter().skip(SHOWN).map(|top| top.count).sum();
        let shown = top.into_iter().take(SHOWN).map(|top| {
            let mut top = top.clone();
            top.last.change = change(&top.last);
            top
        });
        Overview { blocked: shown.collect(), not_counted: self.not_counted + hidden, series: self.series() }
    }

    fn series(&self) -> Series {
        let list = |of: fn(&Second) -> u64| self.seconds.iter().map(of).collect();
        let times = TIMED.iter().enumerate().map(|(place, what)| {
            let of = |second: &Second| second.times.get(place).copied().unwrap_or_default();
            Times {
                what: (*what).to_owned(),
                p50: self.seconds.iter().map(|second| of(second).0).collect(),
                p99: self.seconds.iter().map(|second| of(second).1).collect(),
            }
        });
        Series {
            end_ms: self.last.as_ref().map_or(0, |stats| stats.at_ms),
            step_ms: u64::try_from(INTERVAL.as_millis()).unwrap_or(u64::MAX),
            allowed: list(|second| second.allowed),
            denied: list(|second| second.denied),
            up: list(|second| second.up),
            down: list(|second| second.down),
            tunnels: list(|second| second.tunnels),
            times: times.collect(),
        }
    }
}

fn second(before: &Stats, now: &Stats) -> Second {
    let of = |what: &&str| {
        let (before, now) = (before.latencies.get(*what), now.latencies.get(*what));
        now.map_or((None, None), |now| (quantile(before, now, 50), quantile(before, now, 99)))
    };
    let [connect, first_byte] = &TIMED;
    Second {
        allowed: now.allowed.saturating_sub(before.allowed),
        denied: now.denied.saturating_sub(before.denied),
        up: now.bytes_up.saturating_sub(before.bytes_up),
        down: now.bytes_down.saturating_sub(before.bytes_down),
        tunnels: now.tunnels,
        times: [of(connect), of(first_byte)],
    }
}

/// Microseconds that so many of a hundred took no longer than, of those that were measured between the two: the bound of the bucket in which they are.
#[expect(clippy::cast_possible_truncation, reason = "bounds are seconds, none of them negative; a cast to an integer saturates")]
fn quantile(before: Option<&Latency>, now: &Latency, percent: u64) -> Option<u64> {
    let earlier = |place: usize| before.and_then(|before| before.buckets.get(place)).map_or(0, |bucket| bucket.count);
    let measured = now.count.saturating_sub(before.map_or(0, |before| before.count));
    if measured == 0 {
        return None;
    }
    let wanted = measured.saturating_mul(percent).div_ceil(100);
    let reached = |(place, bucket): &(usize, &super::super::model::Bucket)| bucket.count.saturating_sub(earlier(*place)) >= wanted;
    // Beyond the last bound, that is all that is known.
    let bucket =
        now.buckets.iter().enumerate().find(reached).map(|(_, bucket)| bucket).or(now.buckets.iter().rfind(|bucket| bucket.le.is_finite()));
    bucket.map(|bucket| (bucket.le * 1e6) as u64)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

    use super::super::super::model::Bucket;
    use super::*;
    use std::collections::BTreeMap;

    pub(crate) fn request(seq: u64, host: &str) -> BlockedRequest {
        BlockedRequest {
            seq,
            host: host.to_owned(),
            reason: "not_allowed".to_owned(),
            client: Some("127.0.0.1:5".to_owned()),
            method: Some("GET".to_owned()),
            mode: None,
            protocol: "http".to_owned(),
            decision: "deny".to_owned(),
            source: "baseline_policy".to_owned(),
            port: 443,
            timestamp: 1_800_000_000,
            at: "2027-01-15T08:00:00.000Z".to_owned(),
            rule: None,
            layer: None,
            place: None,
            generation: 1,
            change: None,
        }
    }

    pub(crate) fn stats(at_ms: u64, allowed: u64, times: &[u64]) -> Stats {
        // 1 ms, 10 ms, and above.
        let buckets = [0.001, 0.01].iter().zip([1_000, 10_000]);
        let count = |bound: u64| times.iter().filter(|time| **time <= bound).count() as u64;
        let latency = Latency {
            count: times.len() as u64,
            sum_seconds: 0.0,
            buckets: buckets.map(|(le, bound)| Bucket { le: *le, count: count(bound) }).collect(),
        };
        Stats {
            at_ms,
            started: String::new(),
            allowed,
            denied: 0,
            denied_by_reason: BTreeMap::new(),
            connections: 0,
            tunnels: 3,
            bytes_up: allowed * 10,
            bytes_down: allowed * 100,
            upstream_failures: 0,
            latencies: BTreeMap::from([("first_byte".to_owned(), latency)]),
            events_lost: 0,
            generation: 1,
        }
    }

    fn blocked(blocked: Vec<BlockedRequest>, next: u64, lost: u64) -> Blocked {
        Blocked { blocked, next, lost }
    }

    #[test]
    fn seconds_are_what_changed_in_them_and_the_oldest_go() {
        let mut history = History::default();
        history.add(stats(0, 5, &[]));
        assert_eq!(history.overview(|_| None).series.allowed, [0; 0], "one look is no rate");
        history.add(stats(1_000, 7, &[500, 5_000]));
        history.add(stats(2_000, 7, &[500, 5_000]));
        history.add(stats(3_000, 8, &[500, 5_000, 5_000, 70_000]));
        let series = history.overview(|_| None).series;
        assert_eq!(
            (series.allowed, series.up, series.down, series.tunnels),
            (vec![2, 0, 1], vec![20, 0, 10], vec![200, 0, 100], vec![3; 3])
        );
        assert_eq!((series.end_ms, series.step_ms), (3_000, 1_000));
        assert_eq!(series.times[0].what, "connect");
        assert_eq!(series.times[0].p50, [None; 3]);
        assert_eq!(series.times[1].p50, [Some(1_000), None, Some(10_000)]);
        assert_eq!(series.times[1].p99, [Some(10_000), None, Some(10_000)], "above the last bound, the last bound");
        for second in 4..2_000 {
            history.add(stats(second * 1_000, 8 + second, &[]));
        }
        assert_eq!(history.overview(|_| None).series.allowed.len(), SECONDS);
    }

    #[test]
    fn hosts_are_counted_and_those_blocked_least_are_forgotten() {
        let mut history = History::default();
        let requests = vec![request(1, "a.test"), request(2, "b.test"), request(3, "a.test")];
        history.look(|since| {
            assert_eq!(since, 0);
            blocked(requests, 3, 2)
        });
        let overview = history.overview(|request| {
            (request.host == "a.test").then(|| Change { table: None, toml: None, place: None, only: None, help: "so".to_owned() })
        });
        let rows: Vec<_> =
            overview.blocked.iter().map(|top| (top.last.host.as_str(), top.count, top.last.seq, top.last.change.is_some())).collect();
        assert_eq!(rows, [("a.test", 2, 3, true), ("b.test", 1, 2, false)]);
        assert_eq!(overview.not_counted, 2);
        // As many as there are: the two that were there first, of which one was asked for twice.
        let flood = (0..HOSTS as u64).map(|number| request(10 + number, &format!("h{number}.test"))).collect();
        history.look(|since| {
            assert_eq!(since, 3, "nothing is counted twice");
            blocked(flood, 9_999, 0)
        });
        assert_eq!(history.hosts.len(), HOSTS);
        let overview = history.overview(|_| None);
        assert_eq!(overview.blocked.len(), SHOWN);
        assert_eq!(overview.blocked[0].last.host, "a.test");
        let counted: u64 = overview.blocked.iter().map(|top| top.count).sum();
        assert_eq!(counted + overview.not_counted, 2 + 3 + HOSTS as u64, "nobody is lost");
        history.forget();
        assert_eq!(history.overview(|_| None).blocked.len(), 0);
    }
}
