//! Settings that changed, and in which direction.

use policy_format::{Blob, Hook, InjectedHeader, Meta, Network, Upstream};
use std::collections::BTreeSet;
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
pub(super) fn compare<B: AsRef<[u8]>>(old: &Blob<B>, new: &Blob<B>) -> Vec<SettingChange> {
    let mut changes = Changes(Vec::new());
    compare_meta(old.meta(), new.meta(), &mut changes);
    compare_hooks(old.hooks(), new.hooks(), &mut changes);
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

    /// A value of which none is more than another.
    fn plain(&mut self, key: &str, old: impl fmt::Display, new: impl fmt::Display) {
        let (old, new) = (old.to_string(), new.to_string());
        if old != new {
            self.add(key, old, new, Neutral);
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
    changes.plain("profile", &old.profile, &new.profile);
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
    changes.switch("allow_upstream_proxy", old.allow_upstream_proxy, new.allow_upstream_proxy, Looser);
    upstream(old.upstream.as_ref(), new.upstream.as_ref(), changes);
    changes.entries("unix_sockets", &old.unix_sockets.allow, &new.unix_sockets.allow, Looser);
    let key = "dangerously_allow_all_unix_sockets";
    changes.switch(key, old.unix_sockets.dangerously_allow_all, new.unix_sockets.dangerously_allow_all, Looser);
    if old.mitm.mode != new.mitm.mode {
        let direction = if new.mitm.mode == policy_format::MitmMode::Always { Tighter } else { Looser };
        changes.add("mitm.mode", old.mitm.mode.as_str(), new.mitm.mode.as_str(), direction);
    }
    changes.entries("mitm.bypass", &old.mitm.bypass, &new.mitm.bypass, Looser);
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    changes.plain("mitm.ca_cert_path", text(&old.mitm.ca_cert_path), text(&new.mitm.ca_cert_path));
    changes.plain("mitm.ca_key_path", text(&old.mitm.ca_key_path), text(&new.mitm.ca_key_path));
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    changes.plain("mitm.max_body_bytes", number(old.mitm.max_body_bytes), number(new.mitm.max_body_bytes));
    // With the broker, children hold no credentials.
    changes.switch("credential_broker", old.credential_broker, new.credential_broker, Tighter);
    let key = "dangerously_allow_plaintext_credential_injection";
    let (was, is) = (old.dangerously_allow_plaintext_credential_injection, new.dangerously_allow_plaintext_credential_injection);
    changes.switch(key, was, is, Looser);
}

fn listener(key: &str, old: Option<SocketAddr>, new: Option<SocketAddr>, changes: &mut Changes) {
    if old == new {
        return;
    }
    // Off, for this machine, for others.
    let width = |address: Option<SocketAddr>| address.map_or(0, |address| if address.ip().is_loopback() { 1 } else { 2 });
    let direction = match width(new).cmp(&width(old)) {
        std::cmp::Ordering::Less => Tighter,
        std::cmp::Ordering::Equal => Neutral,
        std::cmp::Ordering::Greater => Looser,
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
        changes.add("upstream", shown(old), format!("{}{note}", shown(new)), Neutral);
    }
    let list = |upstream: Option<&Upstream>| upstream.map(|upstream| upstream.no_proxy.clone()).unwrap_or_default();
    changes.entries("upstream.no_proxy", &list(old), &list(new), Neutral);
}

fn compare_hooks(old: &[Hook], new: &[Hook], changes: &mut Changes) {
    let named = |hooks: &[Hook], name: &str| hooks.iter().position(|hook| hook.name == name);
    let alone = |hooks: &[Hook], hook: &Hook| !hooks.iter().any(|other| other.name != hook.name && other.host == hook.host);
    for hook in old.iter().filter(|hook| named(new, &hook.name).is_none()) {
        // The last hook of a host lets everything pass that the rules let pass; one of several lets less pass.
        let direction = if alone(old, hook) { Looser } else { Tighter };
        changes.add(&format!("mitm.hooks.{}", hook.name), &hook.host, "", direction);
    }
    for hook in new {
        let key = format!("mitm.hooks.{}", hook.name);
        match named(old, &hook.name).and_then(|index| old.get(index)) {
            None => changes.add(&key, "", &hook.host, if alone(new, hook) { Tighter } else { Looser }),
            Some(before) => compare_hook(&key, before, hook, changes),
        }
    }
    let order = |hooks: &[Hook], others: &[Hook]| -> Vec<String> {
        hooks.iter().filter(|hook| named(others, &hook.name).is_some()).map(|hook| hook.name.clone()).collect()
    };
    changes.plain("mitm.hooks (order)", order(old, new).join(", "), order(new, old).join(", "));
}

fn compare_hook(key: &str, old: &Hook, new: &Hook, changes: &mut Changes) {
    let key = |field: &str| format!("{key}.{field}");
    if old.host != new.host {
        // One host loses its hook, another gets one.
        changes.add(&key("host"), &old.host, &new.host, Looser);
    }
    alternatives(&key("methods"), &old.methods, &new.methods, changes);
    alternatives(&key("path_prefixes"), &old.path_prefixes, &new.path_prefixes, changes);
    conditions(&key("query"), &old.query, &new.query, changes);
    conditions(&key("headers"), &old.headers, &new.headers, changes);
    changes.entries(&key("strip_request_headers"), &old.strip_request_headers, &new.strip_request_headers, Tighter);
    changes.entries(&key("strip_response_headers"), &old.strip_response_headers, &new.strip_response_headers, Tighter);
    let injected = |headers: &[InjectedHeader]| -> Vec<String> { headers.iter().map(show_injected).collect() };
    changes.entries(&key("inject_request_headers"), &injected(&old.inject_request_headers), &injected(&new.inject_request_headers), Looser);
}

fn show_injected(header: &InjectedHeader) -> String {
    let secret = match &header.secret {
        policy_format::Secret::Env(name) => format!("variable {name}"),
        policy_format::Secret::File(path) => format!("file {path}"),
    };
    format!("{}: {}<{secret}>", header.name, header.prefix)
}

/// A list any entry of which may match; without entries, everything does.
fn alternatives(key: &str, old: &[String], new: &[String], changes: &mut Changes) {
    let (before, after): (BTreeSet<&String>, BTreeSet<&String>) = (old.iter().collect(), new.iter().collect());
    if before != after {
        let narrower = !after.is_empty() && (before.is_empty() || after.is_subset(&before));
        changes.add(key, old.join(", "), new.join(", "), if narrower { Tighter } else { Looser });
    }
}

/// Fields that all have to match.
fn conditions(key: &str, old: &[(String, Vec<String>)], new: &[(String, Vec<String>)], changes: &mut Changes) {
    let (before, after): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
    if before != after {
        let show = |fields: &[(String, Vec<String>)]| {
            let one = |(name, values): &(String, Vec<String>)| {
                if values.is_empty() { name.clone() } else { format!("{name}={}", values.join("|")) }
            };
            fields.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        changes.add(key, show(old), show(new), if before.is_subset(&after) { Tighter } else { Looser });
    }
}
