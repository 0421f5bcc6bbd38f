//! The models of what is in force, made of a snapshot.

use super::backend::Backend;
use super::model::{self, Layer, Mitm, ModeState, Patterns, Switches, UnixSockets, Upstream, UpstreamRule};
use super::query::Query;
use super::reply::Refusal;
use crate::calendar::date;
use crate::policy::Snapshot;
use crate::policy::mode::Hold;
use policy_format::{Limits, NameServer, PortRange, RuleId, Settings};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// Rules of a page, unless fewer are asked for.
const PAGE: u64 = 100;
pub(super) const MOST: u64 = 1000;
/// Rules that are looked at for a page: beyond, the page ends, and tells where the next begins.
const LOOKED_AT: usize = 50_000;

/// A rule, spelt out.
pub(super) fn rule(rule: &policy_format::Rule) -> model::Rule {
    model::Rule {
        id: rule.id.0,
        hosts: rule.hosts.clone(),
        access: rule.access.as_str().to_owned(),
        ports: rule.ports.iter().map(ports).collect(),
        methods: rule.methods.clone(),
        paths: rule.paths.clone(),
        reason: Some(rule.reason.clone()).filter(|reason| !reason.is_empty()),
        layer: rule.layer.as_str().to_owned(),
        file: rule.label.clone(),
        line: Some(rule.line).filter(|line| *line > 0),
        place: rule.place(),
    }
}

fn ports(range: &PortRange) -> String {
    if range.first == range.last { range.first.to_string() } else { format!("{}-{}", range.first, range.last) }
}

/// Which rules are wanted.
pub(super) struct Wanted {
    first: u32,
    limit: u64,
    contains: String,
}

impl Wanted {
    pub(super) fn read(query: &Query) -> Result<Self, Refusal> {
        let after = query.number("after", 0, u64::from(u32::MAX))?;
        Ok(Self {
            first: after.map_or(0, |after| u32::try_from(after).unwrap_or(u32::MAX).saturating_add(1)),
            limit: query.number("limit", 1, MOST)?.unwrap_or(PAGE),
            contains: query.text("contains").unwrap_or_default().to_lowercase(),
        })
    }
}

/// A page of rules of the profile in force.
pub(super) fn patterns(snapshot: &Snapshot, wanted: &Wanted) -> Patterns {
    let Wanted { first, limit, contains } = wanted;
    let mut page = Patterns {
        rules: Vec::new(),
        allowed: Vec::new(),
        denied: Vec::new(),
        next: None,
        total: snapshot.rule_count(),
        generation: snapshot.generation(),
    };
    let mut last = None;
    for (looked_at, id) in snapshot.blob().rule_ids().filter(|id| id.0 >= *first).enumerate() {
        if looked_at == LOOKED_AT || page.rules.len() as u64 == *limit {
            page.next = last;
            break;
        }
        last = Some(id.0);
        let Some(found) = rule_of(snapshot, id).filter(|found| found.hosts.contains(contains.as_str())) else { continue };
        let hosts = if found.access == policy_format::Access::Deny { &mut page.denied } else { &mut page.allowed };
        hosts.push(found.hosts.clone());
        page.rules.push(rule(&found));
    }
    page
}

fn rule_of(snapshot: &Snapshot, id: RuleId) -> Option<policy_format::Rule> {
    snapshot.rule(id).filter(|rule| rule.profiles.has(snapshot.profile()))
}

/// The mode, and who wants it.
pub(super) fn mode(backend: &dyn Backend, snapshot: &Snapshot) -> ModeState {
    ModeState {
        mode: snapshot.mode().into(),
        policy_mode: snapshot.meta().mode.into(),
        wanted: backend.wanted_mode().map(model::Mode::from),
        may_be_full: snapshot.hold().is_none(),
        required_by: match snapshot.hold() {
            Some(Hold::Required(layer)) => Some(layer.to_string()),
            Some(Hold::Unknown) | None => None,
        },
    }
}

/// The layers that have rules, with their files, and those that hold something, strongest first: of others a policy does not tell.
pub(super) fn layers(snapshot: &Snapshot) -> Vec<Layer> {
    let mut sources: Vec<_> = snapshot.blob().sources().to_vec();
    sources.sort_unstable();
    sources.dedup();
    // Layers are in this order, the strongest first.
    let mut layers: BTreeMap<policy_format::Layer, Layer> = BTreeMap::new();
    let empty = |layer: policy_format::Layer| Layer { layer: layer.as_str().to_owned(), files: Vec::new(), holds: Vec::new() };
    for source in sources {
        layers.entry(source.layer).or_insert_with(|| empty(source.layer)).files.push(source.label);
    }
    let held = snapshot.blob().constraints(snapshot.profile()).copied().unwrap_or_default();
    for (demand, layer) in held.demands() {
        layers.entry(layer).or_insert_with(|| empty(layer)).holds.push(demand.to_owned());
    }
    layers.into_values().collect()
}

pub(super) fn switches(snapshot: &Snapshot) -> Switches {
    let (meta, settings) = (snapshot.meta(), snapshot.settings());
    Switches {
        allow_local_binding: meta.allow_local_binding,
        allow_upstream_proxy: meta.allow_upstream_proxy,
        enable_socks5_udp: meta.enable_socks5_udp,
        credential_broker: meta.credential_broker,
        dangerously_allow_plaintext_credential_injection: meta.dangerously_allow_plaintext_credential_injection,
        dangerously_allow_non_loopback_proxy: meta.dangerously_allow_non_loopback_proxy,
        dangerously_allow_non_loopback_admin: meta.dangerously_allow_non_loopback_admin,
        sni: settings.sni.as_str().to_owned(),
        via: settings.via,
        forwarded: settings.forwarded.as_str().to_owned(),
        on_revoke: settings.on_revoke.as_str().to_owned(),
    }
}

pub(super) fn mitm(snapshot: &Snapshot) -> Mitm {
    let mitm = &snapshot.meta().mitm;
    Mitm {
        mode: mitm.mode.as_str().to_owned(),
        can_intercept: snapshot.can_intercept(),
        bypass: mitm.bypass.clone(),
        ca_cert_path: mitm.ca_cert_path.clone(),
        hooks: hooks(snapshot),
    }
}

/// How many hooks the profile in force has.
pub(super) fn hooks(snapshot: &Snapshot) -> u32 {
    let own = snapshot.blob().hooks().iter().filter(|hook| hook.profiles.has(snapshot.profile()));
    u32::try_from(own.count()).unwrap_or(u32::MAX)
}

pub(super) fn unix_sockets(snapshot: &Snapshot) -> UnixSockets {
    let sockets = &snapshot.meta().unix_sockets;
    UnixSockets { allow: sockets.allow.clone(), dangerously_allow_all: sockets.dangerously_allow_all, deny: sockets.deny.clone() }
}

pub(super) fn limits(limits: &Limits) -> BTreeMap<String, u64> {
    Limits::ALL.iter().filter_map(|limit| Some((limit.name.to_owned(), limits.get(limit.name)?))).collect()
}

/// Name servers: of a URL, where it leads; its path may be somebody's secret.
pub(super) fn resolver(settings: &Settings) -> Vec<String> {
    settings.resolver.iter().map(|server| if let NameServer::Https(url) = server { origin(url) } else { server.to_string() }).collect()
}

/// Scheme, host and port of a URL.
fn origin(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return String::new() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    format!("{scheme}://{}", authority.rsplit_once('@').map_or(authority, |(_, host)| host))
}

pub(super) fn upstream(snapshot: &Snapshot) -> Upstream {
    let proxy = snapshot.meta().upstream.as_ref();
    Upstream {
        url: proxy.map(|proxy| origin(&proxy.url)),
        no_proxy: proxy.map(|proxy| proxy.no_proxy.clone()).unwrap_or_default(),
        rules: snapshot.settings().upstream_rules.iter().map(upstream_rule).collect(),
    }
}

fn upstream_rule(rule: &policy_format::UpstreamRule) -> UpstreamRule {
    UpstreamRule { hosts: rule.hosts.clone(), url: rule.proxy.as_ref().map(|proxy| origin(&proxy.url)) }
}

/// Milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// RFC 3339 in UTC, with milliseconds.
pub(crate) fn rfc3339(millis: u64) -> String {
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{millis:03}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_standard_has_them() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_001, "2000-02-29T00:00:00.001Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (1_893_455_999_500, "2029-12-31T23:59:59.500Z"),
        ] {
            assert_eq!(rfc3339(millis), expected);
        }
    }

    #[test]
    fn of_urls_it_is_shown_where_they_lead() {
        for (url, expected) in [
            ("https://user:secret@dns.test:8443/token?x=secret#y", "https://dns.test:8443"),
            ("http://u:p%40@proxy.test", "http://proxy.test"),
            ("socks5h://[2001:db8::1]:1080", "socks5h://[2001:db8::1]:1080"),
            ("https://dns.test?user@x", "https://dns.test"),
            ("nothing", ""),
        ] {
            assert_eq!(origin(url), expected);
        }
    }
}
