//! Settings that changed, and in which direction.

use crate::keys::DIRECT;
use crate::profiles::Profile;
use policy_format::{
    Audit, BrokerFallback, Constraints, Credential, CredentialAuth, Forwarded, Hook, HookBody, Hosts, InjectedHeader, Limit, LimitKind,
    Limits, Meta, Network, OnFull, OnRevoke, Pattern, Settings, Sni, Upstream, UpstreamRule,
};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;

/// What a changed setting does to what may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// More may pass, or less is checked; also where that cannot be ruled out.
    Looser,
    /// Less may pass, or more is checked.
    Tighter,
    /// Neither.
    Neutral,
}

impl Direction {
    /// The name that users read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Looser => "looser",
            Self::Tighter => "tighter",
            Self::Neutral => "neutral",
        }
    }

    fn reversed(self) -> Self {
        match self {
            Self::Looser => Self::Tighter,
            Self::Tighter => Self::Looser,
            Self::Neutral => Self::Neutral,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A setting that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingChange {
    /// Its name, as users type it below the network table.
    pub key: String,
    /// What it was; empty for nothing.
    pub old: String,
    /// What it is; empty for nothing.
    pub new: String,
    /// What that does.
    pub direction: Direction,
}

use Direction::{Looser, Neutral, Tighter};

/// The settings that differ.
pub(super) fn compare<B: AsRef<[u8]>>(old: Profile<'_, B>, new: Profile<'_, B>) -> Vec<SettingChange> {
    let mut changes = Changes(Vec::new());
    compare_meta(old.meta(), new.meta(), &mut changes);
    compare_settings(&old.settings(), &new.settings(), &mut changes);
    compare_hooks(old.hooks(), new.hooks(), &mut changes);
    compare_bodies(old, new, &mut changes);
    changes.0
}

struct Changes(Vec<SettingChange>);

impl Changes {
    fn add(&mut self, key: &str, old: impl fmt::Display, new: impl fmt::Display, direction: Direction) {
        self.0.push(SettingChange { key: key.to_owned(), old: old.to_string(), new: new.to_string(), direction });
    }

    /// A switch that lets more pass when it is on.
    fn switch(&mut self, key: &str, old: bool, new: bool, on: Direction) {
        if old != new {
            self.add(key, old, new, if new { on } else { on.reversed() });
        }
    }

    /// A value of which none is more than another: what a change of it does depends on `direction` alone.
    fn plain(&mut self, key: &str, old: impl fmt::Display, new: impl fmt::Display, direction: Direction) {
        let (old, new) = (old.to_string(), new.to_string());
        if old != new {
            self.add(key, old, new, direction);
        }
    }

    /// A list each entry of which lets one thing pass and another not: that less passes can be said of no change.
    fn either<'a>(&mut self, key: &str, old: &'a [String], new: &'a [String]) {
        let (old, new): (BTreeSet<&String>, BTreeSet<&String>) = (old.iter().collect(), new.iter().collect());
        for entry in old.difference(&new) {
            self.add(key, entry, "", Looser);
        }
        for entry in new.difference(&old) {
            self.add(key, "", entry, Looser);
        }
    }

    /// A list each entry of which lets more pass, or the other way round; one line for each entry that came or went.
    fn entries<'a>(&mut self, key: &str, old: &'a [String], new: &'a [String], more: Direction) {
        let (old, new): (BTreeSet<&String>, BTreeSet<&String>) = (old.iter().collect(), new.iter().collect());
        for entry in old.difference(&new) {
            self.add(key, entry, "", more.reversed());
        }
        for entry in new.difference(&old) {
            self.add(key, "", entry, more);
        }
    }
}

fn compare_meta(old: &Meta, new: &Meta, changes: &mut Changes) {
    // Its name; what it says is compared by itself.
    changes.plain("profile", &old.profile, &new.profile, Neutral);
    // Without the proxy nothing is checked at all.
    let width = |network: Network| match network {
        Network::Blocked => 0,
        Network::Proxied => 1,
        Network::Direct => 2,
    };
    if old.network != new.network {
        changes.add("network", old.network, new.network, if width(new.network) > width(old.network) { Looser } else { Tighter });
    }
    if old.mode != new.mode {
        changes.add("mode", old.mode, new.mode, if new.mode == policy_format::Mode::Full { Looser } else { Tighter });
    }
    changes.switch("allow_local_binding", old.allow_local_binding, new.allow_local_binding, Looser);
    listener("proxy_url", Some(old.listeners.http), Some(new.listeners.http), changes);
    listener("socks_url", old.listeners.socks, new.listeners.socks, changes);
    listener("admin_url", Some(old.listeners.admin), Some(new.listeners.admin), changes);
    let (key, loosens) = ("dangerously_allow_non_loopback_proxy", Looser);
    changes.switch(key, old.dangerously_allow_non_loopback_proxy, new.dangerously_allow_non_loopback_proxy, loosens);
    let key = "dangerously_allow_non_loopback_admin";
    changes.switch(key, old.dangerously_allow_non_loopback_admin, new.dangerously_allow_non_loopback_admin, loosens);
    changes.switch("enable_socks5_udp", old.enable_socks5_udp, new.enable_socks5_udp, Looser);
    // The proxy on the way may be one that filters, or one that reaches what this machine does not: on or off, more may pass.
    changes.plain("allow_upstream_proxy", old.allow_upstream_proxy, new.allow_upstream_proxy, Looser);
    upstream(old.upstream.as_ref(), new.upstream.as_ref(), changes);
    changes.entries("unix_sockets", &old.unix_sockets.allow, &new.unix_sockets.allow, Looser);
    changes.entries("denied_unix_sockets", &old.unix_sockets.deny, &new.unix_sockets.deny, Tighter);
    let key = "dangerously_allow_all_unix_sockets";
    changes.switch(key, old.unix_sockets.dangerously_allow_all, new.unix_sockets.dangerously_allow_all, Looser);
    if old.mitm.mode != new.mitm.mode {
        let direction = if new.mitm.mode == policy_format::MitmMode::Always { Tighter } else { Looser };
        changes.add("mitm.mode", old.mitm.mode.as_str(), new.mitm.mode.as_str(), direction);
    }
    changes.entries("mitm.bypass", &old.mitm.bypass, &new.mitm.bypass, Looser);
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    // Whoever has the key of another authority reads what passes.
    changes.plain("mitm.ca_cert_path", text(&old.mitm.ca_cert_path), text(&new.mitm.ca_cert_path), Looser);
    changes.plain("mitm.ca_key_path", text(&old.mitm.ca_key_path), text(&new.mitm.ca_key_path), Looser);
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    // What one hook takes no longer, the next of the host may take.
    changes.plain("mitm.max_body_bytes", number(old.mitm.max_body_bytes), number(new.mitm.max_body_bytes), Looser);
    // With the broker, children hold no credentials.
    changes.switch("credential_broker", old.credential_broker, new.credential_broker, Tighter);
    let key = "dangerously_allow_plaintext_credential_injection";
    let (was, is) = (old.dangerously_allow_plaintext_credential_injection, new.dangerously_allow_plaintext_credential_injection);
    changes.switch(key, was, is, Looser);
}

/// What hooks that both have ask of bodies. Asking more is tighter only where no other hook of the host takes what no longer matches.
fn compare_bodies<B: AsRef<[u8]>>(old: Profile<'_, B>, new: Profile<'_, B>, changes: &mut Changes) {
    let (was, is) = (old.settings().hook_bodies, new.settings().hook_bodies);
    let (before, after) = (Hooks::new(old.hooks()), Hooks::new(new.hooks()));
    for known in after.known.iter().filter(|known| before.named(&known.hook.name).is_some()) {
        let of = |bodies: &[HookBody]| bodies.iter().find(|body| body.hook == known.hook.name).cloned();
        let (old, new) = (of(&was), of(&is));
        let alone = after.others(known).next().is_none();
        let narrower = alone
            && match (&old, &new) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(old), Some(new)) => new.max_bytes <= old.max_bytes && old.json.iter().all(|pointer| new.json.contains(pointer)),
            };
        let shown = |body: &Option<HookBody>| body.as_ref().map(crate::decompile::body_table).unwrap_or_default();
        changes.plain(&format!("mitm.hooks.{}.body", known.hook.name), shown(&old), shown(&new), if narrower { Tighter } else { Looser });
    }
}

fn compare_settings(old: &Settings, new: &Settings, changes: &mut Changes) {
    changes.switch("mitm.dangerously_bypass_read_only", old.bypass_read_only, new.bypass_read_only, Looser);
    let certificates = |settings: &Settings| -> Vec<String> {
        settings.client_certificates.iter().map(|own| format!("{}: {} {}", own.host, own.cert_path, own.key_path)).collect()
    };
    // Whom a server takes us for says what it lets us do.
    changes.plain("mitm.client_certificates", certificates(old).join(", "), certificates(new).join(", "), Looser);
    compare_credentials(&old.credentials, &new.credentials, changes);
    let real = |settings: &Settings| settings.broker_fallback == BrokerFallback::Real;
    changes.switch("dangerously_pass_credentials_without_broker", real(old), real(new), Looser);
    let strictness = |sni: Sni| match sni {
        Sni::Off => 0,
        Sni::Log => 1,
        Sni::Enforce => 2,
    };
    let direction = if strictness(new.sni) > strictness(old.sni) { Tighter } else { Looser };
    changes.plain("sni", old.sni.as_str(), new.sni.as_str(), direction);
    // Who counts proxies on the way by it may come to loop; nothing more passes.
    changes.plain("via", old.via, new.via, Neutral);
    // Servers may trust what it says, be it the client's own words or the proxy's.
    let direction = if new.forwarded == Forwarded::Strip { Tighter } else { Looser };
    changes.plain("forwarded", old.forwarded.as_str(), new.forwarded.as_str(), direction);
    // Who says which addresses a name has says where connections go.
    let servers = |settings: &Settings| settings.resolver.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    changes.plain("resolver", servers(old), servers(new), Looser);
    upstream_rules(&old.upstream_rules, &new.upstream_rules, changes);
    let direction = if new.on_revoke == OnRevoke::Close { Tighter } else { Looser };
    changes.plain("limits.on_revoke", old.on_revoke.as_str(), new.on_revoke.as_str(), direction);
    for limit in Limits::ALL {
        let (Some(was), Some(is)) = (old.limits.get(limit.name), new.limits.get(limit.name)) else { continue };
        if was != is {
            changes.add(&format!("limits.{}", limit.name), limit.shown(was), limit.shown(is), limit_direction(limit, was, is));
        }
    }
    compare_audits(&old.audit, &new.audit, changes);
    // What is no longer held, the next layer may loosen.
    let held = |settings: &Settings| settings.constraints.iter().flat_map(Constraints::demands).collect::<Vec<_>>();
    let (was, is) = (held(old), held(new));
    for (demand, layer) in was.iter().filter(|one| !is.contains(one)) {
        changes.add("experimental_network", format_args!("{demand} ({layer})"), "", Looser);
    }
    for (demand, layer) in is.iter().filter(|one| !was.contains(one)) {
        changes.add("experimental_network", "", format_args!("{demand} ({layer})"), Tighter);
    }
}

/// Less that is written down is less that is checked. What is written elsewhere is missing where somebody looks.
fn compare_audits(old: &Audit, new: &Audit, changes: &mut Changes) {
    let mut place = |key: &str, old: Option<String>, new: Option<String>| {
        let direction = if old.is_none() { Tighter } else { Looser };
        changes.plain(key, old.unwrap_or_default(), new.unwrap_or_default(), direction);
    };
    let otlp = |audit: &Audit| {
        let otlp = audit.otlp.as_ref()?;
        let headers_file = otlp.headers_file.as_ref().map(|path| format!(", headers from {path}")).unwrap_or_default();
        Some(format!("{} by {}{headers_file}", otlp.endpoint, otlp.protocol.as_str()))
    };
    place("audit.file", old.file.clone(), new.file.clone());
    place("audit.syslog", old.syslog.as_ref().map(ToString::to_string), new.syslog.as_ref().map(ToString::to_string));
    place("audit.otlp", otlp(old), otlp(new));
    changes.switch("audit.stdout", old.stdout, new.stdout, Tighter);
    changes.switch("audit.journald", old.journald, new.journald, Tighter);
    changes.switch("audit.chain", old.chain, new.chain, Tighter);
    let more = |is_more: bool| if is_more { Tighter } else { Looser };
    changes.plain("audit.level", old.level.as_str(), new.level.as_str(), more(new.level > old.level));
    changes.plain("audit.fsync", old.fsync.as_str(), new.fsync.as_str(), more(new.fsync > old.fsync));
    changes.plain(
        "audit.on_full",
        old.on_full.as_str(),
        new.on_full.as_str(),
        more(new.on_full != OnFull::Drop && old.on_full != OnFull::Deny),
    );
    changes.plain("audit.naming", old.naming.as_str(), new.naming.as_str(), Neutral);
    for number in Audit::NUMBERS {
        let (Some(was), Some(is)) = (old.get(number.name), new.get(number.name)) else { continue };
        let all_are_kept = |files: u64| if files == 0 { u64::MAX } else { files };
        let direction = match number.name {
            "keep" => more(all_are_kept(is) > all_are_kept(was)),
            "queue" => more(is > was),
            _ => Neutral,
        };
        changes.plain(&format!("audit.{}", number.name), number.shown(was), number.shown(is), direction);
    }
    let all: BTreeSet<&String> = old.metadata.keys().chain(new.metadata.keys()).collect();
    for name in all {
        let of = |audit: &Audit| audit.metadata.get(name).cloned().unwrap_or_default();
        changes.plain(&format!("audit.metadata.{name}"), of(old), of(new), Neutral);
    }
}

/// What another value of a limit does. Peers may use up more where it is higher, but for those that bound what is looked at, or for how long is counted.
fn limit_direction(limit: &Limit, was: u64, is: u64) -> Direction {
    // No bytes of them are no limit.
    let size = |value: u64| if limit.kind == LimitKind::Bytes && limit.min == 0 && value == 0 { u64::MAX } else { value };
    let higher = size(is) > size(was);
    match limit.name {
        // Counted over a longer time, fewer bytes go.
        "upload_window" => {
            if higher {
                Tighter
            } else {
                Looser
            }
        }
        // More is looked at, or more passes before it was.
        "look_bytes" | "look_timeout" => Looser,
        // What is kept for later lets nothing pass.
        "pool_connections" | "pool_connections_per_host" | "pool_timeout" | "cache_names" => Neutral,
        _ if higher => Looser,
        _ => Tighter,
    }
}

/// A credential more is one that programs no longer hold, and one more that the proxy sends: whether it is worth more or less nobody can say here.
fn compare_credentials(old: &[Credential], new: &[Credential], changes: &mut Changes) {
    let shown = |credential: &Credential| {
        let prefixes: Vec<String> = credential.url_prefixes.iter().map(ToString::to_string).collect();
        let prefix = if let CredentialAuth::Header { prefix, .. } = &credential.auth { prefix.as_str() } else { "" };
        let header = credential.auth.header();
        format!("{} to {} by {} ({header}: {prefix}…)", credential.env.join(" "), prefixes.join(" "), credential.auth.as_str())
    };
    let all: BTreeSet<&String> = old.iter().chain(new).map(|credential| &credential.id).collect();
    for id in all {
        let of = |credentials: &[Credential]| credentials.iter().find(|own| own.id == *id).map(shown).unwrap_or_default();
        changes.plain(&format!("credentials.{id}"), of(old), of(new), Looser);
    }
}

/// Rules are tried in their order, and each takes destinations out of one proxy and into another: that less passes can be said of no change.
fn upstream_rules(old: &[UpstreamRule], new: &[UpstreamRule], changes: &mut Changes) {
    if old == new {
        return;
    }
    let shown = |rules: &[UpstreamRule]| {
        let rule = |rule: &UpstreamRule| {
            format!("{} = {}", rule.hosts.join(" "), rule.proxy.as_ref().map_or_else(|| DIRECT.to_owned(), Upstream::shown))
        };
        rules.iter().map(rule).collect::<Vec<_>>().join(", ")
    };
    let (old, new) = (shown(old), shown(new));
    // Passwords are never shown; that one changed is.
    let note = if old == new { " (with another user or password)" } else { "" };
    changes.add("upstream.rules", old, format!("{new}{note}"), Looser);
}

fn listener(key: &str, old: Option<SocketAddr>, new: Option<SocketAddr>, changes: &mut Changes) {
    if old == new {
        return;
    }
    // Off, for this machine, for others.
    let width = |address: Option<SocketAddr>| address.map_or(0, |address| if address.ip().is_loopback() { 1 } else { 2 });
    let direction = match width(new).cmp(&width(old)) {
        std::cmp::Ordering::Less => Tighter,
        // Another port of this machine.
        std::cmp::Ordering::Equal if width(new) == 1 => Neutral,
        // Another network, or another port that a firewall may not guard.
        std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => Looser,
    };
    let shown = |address: Option<SocketAddr>| address.map_or_else(|| "off".to_owned(), |address| address.to_string());
    changes.add(key, shown(old), shown(new), direction);
}

fn upstream(old: Option<&Upstream>, new: Option<&Upstream>, changes: &mut Changes) {
    let shown = |upstream: Option<&Upstream>| upstream.map(Upstream::shown).unwrap_or_default();
    let url = |upstream: Option<&Upstream>| upstream.map(|upstream| upstream.url.clone());
    if url(old) != url(new) {
        // The password is never shown; that it changed is.
        let note = if shown(old) == shown(new) { " (with another user or password)" } else { "" };
        // The old one may be one that filters, and the new one may reach what the old one does not.
        changes.add("upstream", shown(old), format!("{}{note}", shown(new)), Looser);
    }
    let list = |upstream: Option<&Upstream>| upstream.map(|upstream| upstream.no_proxy.clone()).unwrap_or_default();
    changes.either("upstream.no_proxy", &list(old), &list(new));
}

/// A hook with its hosts; `None` stands for hosts that cannot be read, which may be any.
struct Known<'a> {
    hook: &'a Hook,
    hosts: Option<Hosts>,
}

impl Known<'_> {
    fn all<'a>(hooks: impl Iterator<Item = &'a Hook>) -> Vec<Known<'a>> {
        hooks.map(|hook| Known { hook, hosts: Pattern::parse(&hook.host).ok().map(|pattern| pattern.hosts) }).collect()
    }

    fn meets(&self, other: &Known<'_>) -> bool {
        match (&self.hosts, &other.hosts) {
            (Some(a), Some(b)) => a.meets(b),
            _ => true,
        }
    }

    fn lies_within(&self, other: &Known<'_>) -> bool {
        matches!((&self.hosts, &other.hosts), (Some(a), Some(b)) if a.within(b))
    }
}

/// Hooks in their order, with their places by name. To a host that has hooks, a request passes that one of them matches; the first of these acts on it.
struct Hooks<'a> {
    known: Vec<Known<'a>>,
    places: HashMap<&'a str, usize>,
}

impl<'a> Hooks<'a> {
    fn new(hooks: impl Iterator<Item = &'a Hook>) -> Self {
        let known = Known::all(hooks);
        Self { places: known.iter().enumerate().map(|(at, known)| (known.hook.name.as_str(), at)).collect(), known }
    }

    fn named(&self, name: &str) -> Option<&Known<'a>> {
        self.known.get(*self.places.get(name)?)
    }

    /// The hooks of other names that share hosts with one.
    fn others<'k>(&'k self, of: &'k Known<'_>) -> impl Iterator<Item = &'k Known<'a>> {
        self.known.iter().filter(|other| other.hook.name != of.hook.name && other.meets(of))
    }
}

fn compare_hooks<'a>(old: impl Iterator<Item = &'a Hook>, new: impl Iterator<Item = &'a Hook>, changes: &mut Changes) {
    let (old, new) = (Hooks::new(old), Hooks::new(new));
    for gone in old.known.iter().filter(|known| new.named(&known.hook.name).is_none()) {
        // Without it, its hosts must still have a hook, and what it matched must not go on to a hook after it, which does other things.
        let covered = new.others(gone).any(|other| gone.lies_within(other));
        let place = old.places.get(gone.hook.name.as_str());
        let all_before = new.others(gone).all(|other| old.places.get(other.hook.name.as_str()).is_some_and(|at| Some(at) < place));
        let direction = if covered && all_before { Tighter } else { Looser };
        changes.add(&format!("mitm.hooks.{}", gone.hook.name), &gone.hook.host, "", direction);
    }
    for known in &new.known {
        let key = format!("mitm.hooks.{}", known.hook.name);
        match old.named(&known.hook.name) {
            None => {
                // Where other hooks are, it is one more way to pass; and a header that it puts in is more than clients have.
                let alone = new.others(known).next().is_none() && old.others(known).next().is_none();
                let direction = if alone && known.hook.inject_request_headers.is_empty() { Tighter } else { Looser };
                changes.add(&key, "", &known.hook.host, direction);
            }
            Some(before) => {
                let alone = new.others(known).next().is_none();
                compare_hook(&key, before.hook, known.hook, alone, changes);
            }
        }
    }
    let order = |hooks: &Hooks<'_>, others: &Hooks<'_>| -> Vec<String> {
        let names = hooks.known.iter().map(|known| &known.hook.name);
        names.filter(|name| others.named(name).is_some()).cloned().collect()
    };
    changes.plain("mitm.hooks (order)", order(&old, &new).join(", "), order(&new, &old).join(", "), Looser);
}

/// `alone`: no other hook has hosts of this one, so that what it no longer matches does not pass.
fn compare_hook(key: &str, old: &Hook, new: &Hook, alone: bool, changes: &mut Changes) {
    let key = |field: &str| format!("{key}.{field}");
    if old.host != new.host {
        // One host loses its hook, another gets one.
        changes.add(&key("host"), &old.host, &new.host, Looser);
    }
    alternatives(&key("methods"), &old.methods, &new.methods, alone, changes);
    alternatives(&key("path_prefixes"), &old.path_prefixes, &new.path_prefixes, alone, changes);
    conditions(&key("query"), &old.query, &new.query, alone, changes);
    conditions(&key("headers"), &old.headers, &new.headers, alone, changes);
    changes.entries(&key("strip_request_headers"), &old.strip_request_headers, &new.strip_request_headers, Tighter);
    changes.entries(&key("strip_response_headers"), &old.strip_response_headers, &new.strip_response_headers, Tighter);
    let injected = |headers: &[InjectedHeader]| -> Vec<String> { headers.iter().map(show_injected).collect() };
    // One that is no longer put in is no longer put in place of the client's own.
    changes.either(&key("inject_request_headers"), &injected(&old.inject_request_headers), &injected(&new.inject_request_headers));
}

fn show_injected(header: &InjectedHeader) -> String {
    let secret = match &header.secret {
        policy_format::Secret::Env(name) => format!("variable {name}"),
        policy_format::Secret::File(path) => format!("file {path}"),
    };
    format!("{}: {}<{secret}>", header.name, header.prefix)
}

/// A list any entry of which may match; without entries, everything does.
fn alternatives(key: &str, old: &[String], new: &[String], alone: bool, changes: &mut Changes) {
    let (before, after): (BTreeSet<&String>, BTreeSet<&String>) = (old.iter().collect(), new.iter().collect());
    if before != after {
        let narrower = alone && !after.is_empty() && (before.is_empty() || after.is_subset(&before));
        changes.add(key, old.join(", "), new.join(", "), if narrower { Tighter } else { Looser });
    }
}

/// Fields that all have to match.
fn conditions(key: &str, old: &[(String, Vec<String>)], new: &[(String, Vec<String>)], alone: bool, changes: &mut Changes) {
    let (before, after): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
    if before != after {
        let show = |fields: &[(String, Vec<String>)]| {
            let one = |(name, values): &(String, Vec<String>)| {
                if values.is_empty() { name.clone() } else { format!("{name}={}", values.join("|")) }
            };
            fields.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        changes.add(key, show(old), show(new), if alone && before.is_subset(&after) { Tighter } else { Looser });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_format::{Layer, Secret, Source};

    fn hook(name: &str, host: &str) -> Hook {
        Hook {
            name: name.to_owned(),
            host: host.to_owned(),
            methods: vec!["GET".to_owned()],
            path_prefixes: vec![],
            query: vec![],
            headers: vec![],
            strip_request_headers: vec![],
            inject_request_headers: vec![],
            strip_response_headers: vec![],
            source: Source { layer: Layer::User, label: "config.toml".into() },
            line: 1,
            profiles: policy_format::Profiles::default(),
        }
    }

    fn directions(old: &[Hook], new: &[Hook]) -> Vec<Direction> {
        let mut changes = Changes(Vec::new());
        compare_hooks(old.iter(), new.iter(), &mut changes);
        changes.0.into_iter().map(|change| change.direction).collect()
    }

    #[test]
    fn hooks_tighten_only_where_nothing_else_lets_pass() {
        let narrow = |name: &str, host: &str| Hook { path_prefixes: vec!["/x/".into()], ..hook(name, host) };
        let (one, wide) = (hook("one", "api.x.com"), hook("two", "*.x.com"));
        let secret = InjectedHeader { name: "a".into(), prefix: String::new(), secret: Secret::Env("A".into()) };
        let giving = Hook { inject_request_headers: vec![secret], ..hook("one", "api.x.com") };
        for (what, old, new, expected) in [
            ("one more for hosts that had none", vec![one.clone()], vec![one.clone(), hook("two", "*.y.com")], vec![Tighter]),
            ("a wildcard over hosts of another", vec![one.clone()], vec![one.clone(), wide.clone()], vec![Looser]),
            ("one under the wildcard of another", vec![wide.clone()], vec![one.clone(), wide.clone()], vec![Looser]),
            ("one that gives a secret", vec![], vec![giving], vec![Looser]),
            ("the last of a host is gone", vec![one.clone()], vec![], vec![Looser]),
            ("its host falls to a hook before it", vec![wide.clone(), one.clone()], vec![wide.clone()], vec![Tighter]),
            ("its requests fall to a hook after it", vec![one.clone(), wide.clone()], vec![wide.clone()], vec![Looser]),
            ("the wider of two is gone", vec![one.clone(), wide.clone()], vec![one.clone()], vec![Looser]),
            ("the order", vec![one.clone(), wide.clone()], vec![wide.clone(), one.clone()], vec![Looser]),
            ("fewer requests match", vec![one.clone()], vec![narrow("one", "api.x.com")], vec![Tighter]),
            ("fewer match, others do", vec![one.clone(), wide.clone()], vec![narrow("one", "api.x.com"), wide.clone()], vec![Looser]),
        ] {
            assert_eq!(directions(&old, &new), expected, "{what}");
        }
    }

    #[test]
    fn settings_that_may_loosen_are_said_to() {
        let upstream = |url: &str, no_proxy: &[&str]| {
            Some(Upstream { url: url.to_owned(), no_proxy: no_proxy.iter().map(|host| (*host).to_owned()).collect() })
        };
        let meta = |change: &dyn Fn(&mut Meta)| {
            let mut meta = Meta::default();
            change(&mut meta);
            meta
        };
        let with = |url: &'static str, no_proxy: &'static [&'static str]| meta(&|meta| meta.upstream = upstream(url, no_proxy));
        let listening = |at: &str| meta(&|meta| meta.listeners.http = at.parse().unwrap());
        let body = |bytes: Option<u64>| meta(&|meta| meta.mitm.max_body_bytes = bytes);
        for (what, old, new, expected) in [
            ("upstream", with("http://a.test:1", &[]), with("http://b.test:1", &[]), Looser),
            ("upstream", Meta::default(), with("http://a.test:1", &[]), Looser),
            ("upstream", with("http://a.test:1", &[]), Meta::default(), Looser),
            ("upstream", with("http://u:p@a.test:1", &[]), with("http://u:q@a.test:1", &[]), Looser),
            ("upstream.no_proxy", with("http://a.test:1", &[]), with("http://a.test:1", &["b.test"]), Looser),
            ("upstream.no_proxy", with("http://a.test:1", &["b.test"]), with("http://a.test:1", &[]), Looser),
            ("allow_upstream_proxy", Meta::default(), meta(&|meta| meta.allow_upstream_proxy = false), Looser),
            ("mitm.ca_cert_path", Meta::default(), meta(&|meta| meta.mitm.ca_cert_path = Some("/a".into())), Looser),
            ("mitm.ca_key_path", Meta::default(), meta(&|meta| meta.mitm.ca_key_path = Some("/a".into())), Looser),
            ("mitm.bypass", Meta::default(), meta(&|meta| meta.mitm.bypass = vec!["a.test".into()]), Looser),
            ("mitm.bypass", meta(&|meta| meta.mitm.bypass = vec!["a.test".into()]), Meta::default(), Tighter),
            ("mitm.max_body_bytes", body(Some(1)), body(Some(2)), Looser),
            ("mitm.max_body_bytes", body(Some(2)), body(Some(1)), Looser),
            ("mitm.max_body_bytes", body(None), body(Some(1)), Looser),
            ("proxy_url", listening("127.0.0.1:1"), listening("127.0.0.1:2"), Neutral),
            ("proxy_url", listening("10.0.0.1:1"), listening("0.0.0.0:1"), Looser),
            ("proxy_url", listening("0.0.0.0:1"), listening("127.0.0.1:1"), Tighter),
            ("profile", Meta::default(), meta(&|meta| meta.profile = "w".into()), Neutral),
        ] {
            let mut changes = Changes(Vec::new());
            compare_meta(&old, &new, &mut changes);
            let said: Vec<_> = changes.0.iter().map(|change| (change.key.as_str(), change.direction)).collect();
            assert_eq!(said, [(what, expected)]);
        }
    }
}
