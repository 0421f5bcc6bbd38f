//! Numbers for dashboards, read from the counters as they are shown: their names have one home, which is `GET /metrics`.

use super::model::{Bucket, Latency, Stats};
use std::collections::BTreeMap;

/// Takes them out of Prometheus' text.
pub(super) fn of(text: &str, at_ms: u64, started: String, generation: u64, events_lost: u64) -> Stats {
    let mut stats = Stats {
        at_ms,
        started,
        allowed: 0,
        denied: 0,
        denied_by_reason: BTreeMap::new(),
        connections: 0,
        tunnels: 0,
        bytes_up: 0,
        bytes_down: 0,
        upstream_failures: 0,
        latencies: BTreeMap::new(),
        events_lost,
        generation,
    };
    for sample in text.lines().filter_map(Sample::read) {
        let count = sample.count();
        match (sample.name, sample.label("decision"), sample.label("direction")) {
            ("netproxy_decisions_total", Some("allow"), _) => stats.allowed += count,
            ("netproxy_decisions_total", Some(_), _) => {
                stats.denied += count;
                let reason = sample.label("reason").unwrap_or("other").to_owned();
                *stats.denied_by_reason.entry(reason).or_default() += count;
            }
            ("netproxy_connections_open", ..) => stats.connections += count,
            ("netproxy_tunnels_open", ..) => stats.tunnels += count,
            ("netproxy_bytes_total", _, Some("up")) => stats.bytes_up += count,
            ("netproxy_bytes_total", _, Some("down")) => stats.bytes_down += count,
            ("netproxy_upstream_failures_total", ..) => stats.upstream_failures += count,
            _ => sample.add_to(&mut stats.latencies),
        }
    }
    for latency in stats.latencies.values_mut() {
        latency.buckets.sort_by(|one, other| one.le.total_cmp(&other.le));
    }
    stats
}

/// A line that is no comment.
struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: &'a str,
}

impl<'a> Sample<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let line = Some(line).filter(|line| !line.starts_with('#'))?;
        let (sample, value) = line.rsplit_once(' ')?;
        let (name, labels) = match sample.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}')?),
            None => (sample, ""),
        };
        Some(Self { name, labels, value })
    }

    /// Values of ours have neither commas nor quotes in them.
    fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
    }

    fn count(&self) -> u64 {
        self.value.parse().unwrap_or_default()
    }

    /// Histograms are `netproxy_WHAT_duration_seconds`; those of one name that labels tell apart are added up.
    fn add_to(&self, latencies: &mut BTreeMap<String, Latency>) {
        let Some((what, part)) = self.name.strip_prefix("netproxy_").and_then(|name| name.split_once("_duration_seconds_")) else { return };
        let latency = latencies.entry(what.to_owned()).or_insert_with(|| Latency { count: 0, sum_seconds: 0.0, buckets: Vec::new() });
        match part {
            "count" => latency.count += self.count(),
            "sum" => latency.sum_seconds += self.value.parse().unwrap_or(0.0),
            // The last bucket, which has all, is the count.
            "bucket" => {
                let Some(le) = self.label("le").and_then(|le| le.parse().ok()).filter(|le: &f64| le.is_finite()) else { return };
                let known = latency.buckets.iter_mut().find(|bucket| bucket.le.total_cmp(&le).is_eq());
                match known {
                    Some(bucket) => bucket.count += self.count(),
                    None => latency.buckets.push(Bucket { le, count: self.count() }),
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::{Counter, Counters};

    #[test]
    fn what_is_counted_is_found() {
        let counters = Counters::new();
        for (counter, times) in [
            (Counter::BytesUp, 5),
            (Counter::BytesDown, 7),
            (Counter::Refused, 1),
            (Counter::ConnectTimeout, 2),
            (Counter::TunnelsOpen, 3),
            (Counter::ConnectionsOpen, 4),
        ] {
            counters.add(counter, times);
        }
        let stats = of(&counters.text(), 1, String::new(), 2, 3);
        assert_eq!((stats.bytes_up, stats.bytes_down, stats.upstream_failures), (5, 7, 3));
        assert_eq!((stats.tunnels, stats.connections, stats.at_ms, stats.generation, stats.events_lost), (3, 4, 1, 2, 3));
    }

    #[test]
    fn decisions_and_histograms_are_added_up_by_their_labels() {
        let text = "# HELP x y\n\
                    netproxy_decisions_total{decision=\"allow\",protocol=\"http\"} 3\n\
                    netproxy_decisions_total{decision=\"allow\"} 4\n\
                    netproxy_decisions_total{decision=\"deny\",reason=\"denied\",protocol=\"http\"} 1\n\
                    netproxy_decisions_total{decision=\"deny\",reason=\"denied\",protocol=\"https\"} 1\n\
                    netproxy_decisions_total{decision=\"deny\",reason=\"not_allowed\"} 5\n\
                    netproxy_tls_handshake_duration_seconds_bucket{side=\"client\",le=\"0.5\"} 2\n\
                    netproxy_tls_handshake_duration_seconds_bucket{side=\"client\",le=\"0.25\"} 1\n\
                    netproxy_tls_handshake_duration_seconds_bucket{side=\"client\",le=\"+Inf\"} 3\n\
                    netproxy_tls_handshake_duration_seconds_bucket{side=\"origin\",le=\"0.25\"} 1\n\
                    netproxy_tls_handshake_duration_seconds_sum{side=\"client\"} 1.5\n\
                    netproxy_tls_handshake_duration_seconds_count{side=\"client\"} 3\n\
                    netproxy_tls_handshake_duration_seconds_count{side=\"origin\"} 1\n\
                    broken{ 7\nbroken\n\n";
        let stats = of(text, 0, String::new(), 1, 0);
        assert_eq!((stats.allowed, stats.denied), (7, 7));
        assert_eq!(stats.denied_by_reason, BTreeMap::from([("denied".to_owned(), 2), ("not_allowed".to_owned(), 5)]));
        let handshake = Latency { count: 4, sum_seconds: 1.5, buckets: vec![Bucket { le: 0.25, count: 2 }, Bucket { le: 0.5, count: 2 }] };
        assert_eq!(stats.latencies, BTreeMap::from([("tls_handshake".to_owned(), handshake)]));
    }
}
