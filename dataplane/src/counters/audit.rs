//! How audit events are doing.

use super::text::{Kind, Page};
use crate::audit::hub::{AuditStats, SinkStats};
use std::collections::BTreeMap;

/// A family of sinks: name, kind, help, and what is shown of each.
type OfSinks = (&'static str, Kind, &'static str, fn(&SinkStats) -> u64);

const OF_SINKS: [OfSinks; 5] = [
    ("netproxy_audit_sink_events_total", Kind::Counter, "Audit events that a sink was given.", |sink| sink.told),
    ("netproxy_audit_sink_pending_events", Kind::Gauge, "Audit events that a sink has not written yet.", |sink| sink.pending as u64),
    ("netproxy_audit_sink_lost_total", Kind::Counter, "Audit events that a sink has given up.", |sink| sink.lost),
    (
        "netproxy_audit_sink_failures_total",
        Kind::Counter,
        "Times that a sink began to fail; it is tried again until it succeeds.",
        |sink| sink.failures,
    ),
    ("netproxy_audit_sink_failing", Kind::Gauge, "Sinks of that name that fail now.", |sink| sink.failing.into()),
];

/// All of it. Sinks of one name, as an embedding program may have, are added up.
pub(super) fn write(page: &mut Page, stats: &AuditStats) {
    page.single("netproxy_audit_queue_events", Kind::Gauge, "Audit events that wait to be given to sinks, about.", stats.queued);
    page.single("netproxy_audit_queue_capacity_events", Kind::Gauge, "Audit events that may wait.", stats.queue);
    page.single("netproxy_audit_events_total", Kind::Counter, "Audit events that were told.", stats.told);
    page.single("netproxy_audit_lost_total", Kind::Counter, "Audit events that there was no room for.", stats.lost);
    for (name, kind, help, value) in OF_SINKS {
        page.family(name, kind, help);
        let mut sinks: BTreeMap<&str, u64> = BTreeMap::new();
        for sink in &stats.sinks {
            *sinks.entry(sink.name).or_default() += value(sink);
        }
        for (sink, value) in sinks {
            page.sample(name, &format!("sink=\"{sink}\""), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::Format;
    use super::*;

    #[test]
    fn each_number_has_its_sample_and_sinks_of_one_name_are_added_up() {
        let sink = |name, by: u64| SinkStats { name, told: by, pending: 2, lost: 3, failures: 4, failing: true };
        let stats = AuditStats { queued: 5, queue: 6, told: 7, lost: 8, sinks: vec![sink("file", 10), sink("own", 20), sink("own", 30)] };
        let mut page = Page::new(Format::Prometheus);
        write(&mut page, &stats);
        let text = page.finish();
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "netproxy_audit_queue_events 5",
            "netproxy_audit_queue_capacity_events 6",
            "netproxy_audit_events_total 7",
            "netproxy_audit_lost_total 8",
            "netproxy_audit_sink_events_total{sink=\"file\"} 10",
            "netproxy_audit_sink_events_total{sink=\"own\"} 50",
            "netproxy_audit_sink_pending_events{sink=\"file\"} 2",
            "netproxy_audit_sink_pending_events{sink=\"own\"} 4",
            "netproxy_audit_sink_lost_total{sink=\"file\"} 3",
            "netproxy_audit_sink_lost_total{sink=\"own\"} 6",
            "netproxy_audit_sink_failures_total{sink=\"file\"} 4",
            "netproxy_audit_sink_failures_total{sink=\"own\"} 8",
            "netproxy_audit_sink_failing{sink=\"file\"} 1",
            "netproxy_audit_sink_failing{sink=\"own\"} 2",
        ];
        assert_eq!(samples, expected);
    }
}
