//! All that is counted, as a page for a scrape.

use super::histogram::{self, Sum};
use super::outcome::Outcome;
use super::table::FAMILIES;
use super::text::{Format, Kind, Page};
use super::{Counters, audit};
use crate::audit::event::Ending;
use crate::policy::PolicyHandle;
use policy_format::{Limits, Mode, Protocol};
use std::sync::PoisonError;
use std::time::{Duration, UNIX_EPOCH};

impl Counters {
    /// All of them, with what is known of the policy and the process, for a scrape. Takes no lock that a request takes.
    pub(crate) fn page(&self, policy: &PolicyHandle, format: Format) -> String {
        let mut page = Page::new(format);
        self.write(&mut page);
        write_policy(&mut page, policy);
        audit::write(&mut page, &self.hub.get().map(|hub| hub.stats()).unwrap_or_default());
        page.family("netproxy_build_info", Kind::Info, "What runs.");
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("os", std::env::consts::OS), ("arch", std::env::consts::ARCH)];
        page.sample("netproxy_build_info", &labels.map(|(name, value)| format!("{name}=\"{value}\"")).join(","), 1);
        #[cfg(target_os = "linux")]
        super::process::write(&mut page);
        page.finish()
    }

    /// What is counted here, in Prometheus' format.
    pub(crate) fn text(&self) -> String {
        let mut page = Page::new(Format::Prometheus);
        self.write(&mut page);
        page.finish()
    }

    /// The value of a sample that is a whole number.
    #[cfg(test)]
    pub(crate) fn sample(&self, sample: &str) -> Option<u64> {
        let text = self.text();
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok())
    }

    fn write(&self, page: &mut Page) {
        for family in FAMILIES {
            page.family(family.name, family.kind, family.help);
            for (counter, labels) in family.samples {
                page.sample(family.name, labels, self.sum(|shard| shard.values.get(*counter as usize)));
            }
        }
        let name = "netproxy_limited_total";
        page.family(name, Kind::Counter, "Times that a limit was reached: somebody waited, was refused or was cut off.");
        for (place, limit) in Limits::ALL.iter().enumerate() {
            let labels = format!("limit=\"{}\"", limit.name);
            page.sample(name, &labels, self.sum(|shard| shard.limited.get(place)));
        }
        self.write_decisions(page);
        let mut last = "";
        for shown in &histogram::ALL {
            if shown.name != last {
                page.family(shown.name, Kind::Histogram, shown.help);
                last = shown.name;
            }
            let sum = Sum::of(self.shards().filter_map(|shard| shard.times.get(shown.timed as usize)));
            page.histogram(shown.name, shown.labels, shown.timed, &sum);
        }
        let name = "netproxy_admin_requests_total";
        page.family(name, Kind::Counter, "Requests to the admin API, by route and status.");
        for ((route, status), count) in &*self.admin.lock().unwrap_or_else(PoisonError::into_inner) {
            page.sample(name, &format!("route=\"{route}\",status=\"{status}\""), count);
        }
    }

    fn write_decisions(&self, page: &mut Page) {
        let name = "netproxy_decisions_total";
        page.family(name, Kind::Counter, "Decisions, by protocol, and by reason where they were denials or the embedding program's.");
        for (_, protocol) in Protocol::ALL {
            for outcome in Outcome::all() {
                let count = self.sum(|shard| shard.decisions.get(outcome.row())?.get(*protocol as usize));
                if count > 0 || outcome.is_shown(*protocol) {
                    page.sample(name, &format!("protocol=\"{protocol}\",{}", outcome.labels()), count);
                }
            }
        }
        let name = "netproxy_closed_total";
        page.family(name, Kind::Counter, "What was allowed and has ended, and how: exchanges (`http`, `https`), tunnels (`https_connect`, `socks5_tcp`), associations (`socks5_udp`).");
        for (_, protocol) in Protocol::ALL {
            for (row, ending) in Ending::KINDS.iter().enumerate() {
                let count = self.sum(|shard| shard.closed.get(row)?.get(*protocol as usize));
                let is_never = *ending == Ending::Looked && !matches!(protocol, Protocol::Connect | Protocol::Socks5Tcp);
                if count > 0 || !is_never {
                    page.sample(name, &format!("protocol=\"{protocol}\",ending=\"{}\"", ending.as_str()), count);
                }
            }
        }
    }
}

fn write_policy(page: &mut Page, policy: &PolicyHandle) {
    let snapshot = policy.current();
    page.single("netproxy_policy_generation", Kind::Gauge, "Policies that have been in force so far.", snapshot.generation());
    page.single("netproxy_policy_rules", Kind::Gauge, "Rules of the policy in force.", snapshot.rule_count());
    let limited = u8::from(snapshot.mode() == Mode::Limited);
    page.single("netproxy_policy_limited_mode", Kind::Gauge, "Whether it is in limited mode, by itself or held to it: 1 or 0.", limited);
    let loaded = snapshot.loaded().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
    page.single("netproxy_policy_loaded_timestamp_seconds", Kind::Gauge, "When the policy in force was put in force, since 1970.", loaded);
    let good = u8::from(policy.last_error().is_none());
    page.single(
        "netproxy_policy_last_reload_successful",
        Kind::Gauge,
        "Whether the policy file, when it was read last, could be put in force: 1 or 0.",
        good,
    );
}
