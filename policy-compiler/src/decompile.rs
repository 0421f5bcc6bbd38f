//! A policy back to TOML: canonical text that compiles to a policy that decides alike.
//!
//! A policy may have several rules for one pattern, from several layers; a table has one entry for each key. A pattern has many keys, though: itself, and itself with a
//! port. So the widest of its rules gets the pattern, and the others get one key for each port, without the ports on which a stronger rule for the same pattern decides
//! anyway. What cannot be said that way is an error. Port 0, to which nothing connects, is not looked at.

use crate::change::quote_key;
use crate::keys::DIRECT;
use crate::profiles::Profile;
use crate::schema::limit_toml;
use crate::source::quote;
use policy_format::{
    Access, Audit, Blob, BrokerFallback, ClientCertificate, Constraints, Credential, CredentialAuth, Hook, HookBody, Hosts, InjectedHeader,
    JsonValue, Limits, Listeners, Meta, MitmMode, Mode, Network, OnRevoke, Pattern, PortRange, ProfileId, Rule, Secret, Settings,
    UnixSockets,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Keys with a port that one policy may need; each is an entry of its own.
pub const MAX_EXPANDED: usize = 16_384;

/// Why a policy cannot be written as TOML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecompileError {
    /// A pattern that its own parser does not take, or takes otherwise.
    #[error("the pattern `{0}` cannot be written: it does not read back as it is")]
    Pattern(String),
    /// Rules with methods or paths that speak of the same port of the same pattern.
    #[error("the rules for `{pattern}` on port {port} cannot be written as one entry: {places}")]
    Conflict {
        /// The pattern.
        pattern: String,
        /// A port on which they differ.
        port: u16,
        /// Where they stand.
        places: String,
    },
    /// Too many single ports.
    #[error("the rules for `{0}` and others need more than {MAX_EXPANDED} keys with single ports")]
    TooManyPorts(String),
    /// Several profiles, which one file cannot say apart: whether the proxy is on at all stands above them.
    #[error("it has several profiles: {0}\nhelp: name one with `--profile`")]
    Several(String),
    /// Two entries of a hook for one key.
    #[error("the hook `{hook}` has `{key}` twice")]
    Hook {
        /// The hook.
        hook: String,
        /// The key.
        key: String,
    },
}

/// The policy as TOML, with a comment for where each rule came from.
///
/// # Errors
/// [`DecompileError`] when something of it cannot be said in one file: nothing is left out in silence. A policy with several profiles is written one by one
/// ([`decompile_profile`]).
pub fn decompile<B: AsRef<[u8]>>(policy: &Blob<B>) -> Result<String, DecompileError> {
    match policy.profiles() {
        [_] => decompile_profile(Profile::new(policy, ProfileId::default())),
        several => Err(DecompileError::Several(several.iter().map(|meta| format!("`{}`", meta.profile)).collect::<Vec<_>>().join(", "))),
    }
}

/// One profile of a policy as TOML, with a comment for where each rule came from: it compiles to a policy that decides as this profile does.
///
/// # Errors
/// [`DecompileError`] when something of it cannot be said in one file: nothing is left out in silence.
pub fn decompile_profile<B: AsRef<[u8]>>(profile: Profile<'_, B>) -> Result<String, DecompileError> {
    let meta = profile.meta();
    let table = format!("permissions.{}.network", quote_key(&meta.profile));
    let mut text = format!("# policy {}\n", profile.blob().digest());
    for (demand, layer) in profile.settings().constraints.iter().flat_map(Constraints::demands) {
        line(&mut text, format_args!("# held by the {layer} layer: {demand}"));
    }
    line(&mut text, format_args!("default_permissions = {}", quote(&meta.profile)));
    if meta.network == Network::Direct {
        // A profile that is on under a feature that is off.
        text.push_str("\n[features]\nnetwork_proxy = false\n");
    }
    settings(&mut text, meta, &profile.settings(), &table);
    domains(&mut text, profile, &table)?;
    hooks(&mut text, profile.hooks(), &profile.settings().hook_bodies, &table)?;
    Ok(text)
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{what}");
}

fn settings(text: &mut String, meta: &Meta, settings: &Settings, table: &str) {
    line(text, format_args!("\n[{table}]\nenabled = {}", meta.network != Network::Blocked));
    if meta.mode != Mode::Full {
        line(text, format_args!("mode = {}", quote(meta.mode.as_str())));
    }
    let default = Listeners::default();
    let Listeners { http, socks, admin } = meta.listeners;
    if http != default.http {
        line(text, format_args!("proxy_url = {}", quote(&format!("http://{http}"))));
    }
    match socks {
        None => line(text, format_args!("enable_socks5 = false")),
        Some(socks) if Some(socks) != default.socks => line(text, format_args!("socks_url = {}", quote(&format!("socks5://{socks}")))),
        Some(_) => {}
    }
    if admin != default.admin {
        line(text, format_args!("admin_url = {}", quote(&format!("http://{admin}"))));
    }
    let plain = Meta::default();
    let switches = [
        ("enable_socks5_udp", meta.enable_socks5_udp, plain.enable_socks5_udp),
        ("allow_upstream_proxy", meta.allow_upstream_proxy, plain.allow_upstream_proxy),
        ("allow_local_binding", meta.allow_local_binding, plain.allow_local_binding),
        ("dangerously_allow_non_loopback_proxy", meta.dangerously_allow_non_loopback_proxy, plain.dangerously_allow_non_loopback_proxy),
        ("dangerously_allow_non_loopback_admin", meta.dangerously_allow_non_loopback_admin, plain.dangerously_allow_non_loopback_admin),
        ("dangerously_allow_all_unix_sockets", meta.unix_sockets.dangerously_allow_all, plain.unix_sockets.dangerously_allow_all),
        ("credential_broker", meta.credential_broker, plain.credential_broker),
        (
            "dangerously_allow_plaintext_credential_injection",
            meta.dangerously_allow_plaintext_credential_injection,
            plain.dangerously_allow_plaintext_credential_injection,
        ),
    ];
    for (key, value, default) in switches {
        if value != default {
            line(text, format_args!("{key} = {value}"));
        }
    }
    let default = Settings::default();
    for (key, value, default) in
        [("sni", settings.sni.as_str(), default.sni.as_str()), ("forwarded", settings.forwarded.as_str(), default.forwarded.as_str())]
    {
        if value != default {
            line(text, format_args!("{key} = {}", quote(value)));
        }
    }
    if settings.via != default.via {
        line(text, format_args!("via = {}", settings.via));
    }
    if settings.resolver != default.resolver {
        let servers: Vec<String> = settings.resolver.iter().map(ToString::to_string).collect();
        line(text, format_args!("resolver = {}", list(&servers)));
    }
    if settings.broker_fallback == BrokerFallback::Real {
        line(text, format_args!("dangerously_pass_credentials_without_broker = true"));
    }
    limits(text, settings, table);
    let audit = audit_toml(&settings.audit);
    if !audit.is_empty() {
        line(text, format_args!("\n[{table}.audit]"));
        for (key, value) in audit {
            line(text, format_args!("{key} = {value}"));
        }
    }
    upstream(text, meta, settings, table);
    let UnixSockets { allow, deny, .. } = &meta.unix_sockets;
    if !allow.is_empty() || !deny.is_empty() {
        line(text, format_args!("\n[{table}.unix_sockets]"));
        for (path, access) in allow.iter().map(|path| (path, "allow")).chain(deny.iter().map(|path| (path, "deny"))) {
            line(text, format_args!("{} = \"{access}\"", quote(path)));
        }
    }
    let mitm = &meta.mitm;
    if *mitm != plain.mitm || settings.bypass_read_only || !settings.client_certificates.is_empty() {
        line(text, format_args!("\n[{table}.mitm]"));
        if mitm.mode != MitmMode::Auto {
            line(text, format_args!("mode = {}", quote(mitm.mode.as_str())));
        }
        if !mitm.bypass.is_empty() {
            line(text, format_args!("bypass = {}", list(&mitm.bypass)));
        }
        for (key, path) in [("ca_cert_path", &mitm.ca_cert_path), ("ca_key_path", &mitm.ca_key_path)] {
            if let Some(path) = path {
                line(text, format_args!("{key} = {}", quote(path)));
            }
        }
        if let Some(bytes) = mitm.max_body_bytes {
            line(text, format_args!("max_body_bytes = {bytes}"));
        }
        if settings.bypass_read_only {
            line(text, format_args!("dangerously_bypass_read_only = true"));
        }
        for ClientCertificate { host, cert_path, key_path } in &settings.client_certificates {
            line(text, format_args!("\n[[{table}.mitm.client_certificates]]"));
            line(text, format_args!("host = {}\ncert_path = {}\nkey_path = {}", quote(host), quote(cert_path), quote(key_path)));
        }
    }
    for credential in &settings.credentials {
        credentials(text, credential, table);
    }
}

fn credentials(text: &mut String, credential: &Credential, table: &str) {
    let Credential { id, env, url_prefixes, auth } = credential;
    let prefixes: Vec<String> = url_prefixes.iter().map(ToString::to_string).collect();
    line(text, format_args!("\n[{table}.credentials.{}]", quote_key(id)));
    line(text, format_args!("env = {}\nurl_prefixes = {}\nauth = {}", list(env), list(&prefixes), quote(auth.as_str())));
    if let CredentialAuth::Header { name, prefix } = auth {
        line(text, format_args!("header = {}", quote(name)));
        if !prefix.is_empty() {
            line(text, format_args!("prefix = {}", quote(prefix)));
        }
    }
}

/// `{ json = { "/event" = ["COMMENT"] }, max_bytes = 65536 }`.
pub(crate) fn body_table(body: &HookBody) -> String {
    let value = |value: &JsonValue| match value {
        JsonValue::Text(text) => quote(text),
        JsonValue::Bool(value) => value.to_string(),
        JsonValue::Number(value) => value.to_string(),
    };
    let pointer = |(pointer, values): &(String, Vec<JsonValue>)| {
        format!("{} = [{}]", quote(pointer), values.iter().map(value).collect::<Vec<_>>().join(", "))
    };
    let json = body.json.iter().map(pointer).collect::<Vec<_>>().join(", ");
    format!("{{ json = {{ {json} }}, max_bytes = {} }}", body.max_bytes)
}

fn limits(text: &mut String, settings: &Settings, table: &str) {
    let values = Limits::ALL.iter().filter_map(|limit| Some((limit, settings.limits.get(limit.name)?)));
    let mut said: Vec<String> = values
        .filter(|(limit, value)| *value != limit.default)
        .map(|(limit, value)| format!("{} = {}", limit.name, limit_toml(limit, value)))
        .collect();
    if settings.on_revoke != OnRevoke::default() {
        said.push(format!("on_revoke = {}", quote(settings.on_revoke.as_str())));
    }
    if !said.is_empty() {
        line(text, format_args!("\n[{table}.limits]\n{}", said.join("\n")));
    }
}

/// What the settings of audit say that is not the default: keys, and values as TOML.
pub fn audit_toml(audit: &Audit) -> Vec<(&'static str, String)> {
    let default = Audit::default();
    let word = |value: &'static str, default: &'static str| (value != default).then(|| quote(value));
    let switch = |value: bool, default: bool| (value != default).then(|| value.to_string());
    let number = |name: &str| {
        let (number, value) = (Audit::number(name)?, audit.get(name)?);
        (value != number.default).then(|| limit_toml(number, value))
    };
    let otlp = audit.otlp.as_ref().map(|otlp| {
        let headers_file = otlp.headers_file.as_ref().map(|path| format!(", headers_file = {}", quote(path)));
        let headers_file = headers_file.unwrap_or_default();
        format!("{{ endpoint = {}, protocol = {}{headers_file} }}", quote(&otlp.endpoint), quote(otlp.protocol.as_str()))
    });
    let metadata: Vec<String> = audit.metadata.iter().map(|(name, value)| format!("{} = {}", quote(name), quote(value))).collect();
    let said = [
        ("file", audit.file.as_deref().map(quote)),
        ("stdout", switch(audit.stdout, default.stdout)),
        ("syslog", audit.syslog.as_ref().map(|target| quote(&target.to_string()))),
        ("journald", switch(audit.journald, default.journald)),
        ("otlp", otlp),
        ("naming", word(audit.naming.as_str(), default.naming.as_str())),
        ("level", word(audit.level.as_str(), default.level.as_str())),
        ("on_full", word(audit.on_full.as_str(), default.on_full.as_str())),
        ("queue", number("queue")),
        ("rotate_bytes", number("rotate_bytes")),
        ("rotate_age", number("rotate_age")),
        ("keep", number("keep")),
        ("fsync", word(audit.fsync.as_str(), default.fsync.as_str())),
        ("chain", switch(audit.chain, default.chain)),
        ("metadata", (!metadata.is_empty()).then(|| format!("{{ {} }}", metadata.join(", ")))),
    ];
    said.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

fn upstream(text: &mut String, meta: &Meta, settings: &Settings, table: &str) {
    if meta.upstream.is_some() || !settings.upstream_rules.is_empty() {
        line(text, format_args!("\n[{table}.upstream]"));
    }
    if let Some(upstream) = &meta.upstream {
        line(text, format_args!("url = {}", quote(&upstream.url)));
        if !upstream.no_proxy.is_empty() {
            line(text, format_args!("no_proxy = {}", list(&upstream.no_proxy)));
        }
    }
    for rule in &settings.upstream_rules {
        let url = rule.proxy.as_ref().map_or(DIRECT, |proxy| &proxy.url);
        line(text, format_args!("\n[[{table}.upstream.rules]]\nhosts = {}\nurl = {}", list(&rule.hosts), quote(url)));
    }
}

fn list(items: &[String]) -> String {
    format!("[{}]", items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", "))
}

fn domains<B: AsRef<[u8]>>(text: &mut String, profile: Profile<'_, B>, table: &str) -> Result<(), DecompileError> {
    let mut group: Vec<Rule> = Vec::new();
    let mut expanded = 0;
    let mut rules = profile.rules().peekable();
    if rules.peek().is_some() {
        line(text, format_args!("\n[{table}.domains]"));
    }
    for rule in rules {
        // Rules for one pattern stand side by side.
        if group.last().is_some_and(|last| last.hosts != rule.hosts) {
            pattern_entries(text, &std::mem::take(&mut group), &mut expanded)?;
        }
        group.push(rule);
    }
    pattern_entries(text, &group, &mut expanded)
}

/// Ports from 1 to 65535, as ranges in order with gaps between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ports(Vec<(u32, u32)>);

impl Ports {
    const LAST: u32 = 65_535;

    /// A rule's ports; none means all.
    fn of(ranges: &[PortRange]) -> Self {
        if ranges.is_empty() {
            return Self(vec![(1, Self::LAST)]);
        }
        let ranges = ranges.iter().map(|range| (u32::from(range.first).max(1), u32::from(range.last)));
        Self::joined(ranges.filter(|(first, last)| first <= last).collect())
    }

    fn joined(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(open) if first <= open.1 + 1 => open.1 = open.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    fn or(&self, other: &Self) -> Self {
        Self::joined(self.0.iter().chain(&other.0).copied().collect())
    }

    fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for (first, last) in &self.0 {
            let mut from = *first;
            for (start, end) in other.0.iter().filter(|(start, end)| end >= first && start <= last) {
                if *start > from {
                    left.push((from, start - 1));
                }
                from = from.max(end + 1);
            }
            if from <= *last {
                left.push((from, *last));
            }
        }
        Self(left)
    }

    fn count(&self) -> usize {
        self.0.iter().map(|(first, last)| (last - first + 1) as usize).sum()
    }

    fn is_all(&self) -> bool {
        self.0 == [(1, Self::LAST)]
    }

    fn each(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last).filter_map(|port| u16::try_from(port).ok())
    }

    fn toml(&self) -> String {
        let ranges = self.0.iter().map(|(first, last)| if first == last { first.to_string() } else { format!("\"{first}-{last}\"") });
        format!("[{}]", ranges.collect::<Vec<_>>().join(", "))
    }
}

/// Rules for one pattern that say the same, apart from their ports.
struct Terms<'a> {
    /// The one that is reported.
    rule: &'a Rule,
    /// What they say together.
    ports: Ports,
    /// Without what stronger rules for the pattern decide.
    own: Ports,
    places: Vec<String>,
}

impl Terms<'_> {
    fn is_like(&self, rule: &Rule) -> bool {
        let terms = |rule: &Rule| (rule.access, rule.methods.clone(), rule.paths.clone(), rule.reason.clone());
        terms(self.rule) == terms(rule)
    }

    fn has_conditions(&self) -> bool {
        has_conditions(self.rule)
    }
}

fn has_conditions(rule: &Rule) -> bool {
    !rule.methods.is_empty() || !rule.paths.is_empty()
}

/// The entries for the rules of one pattern.
fn pattern_entries(text: &mut String, rules: &[Rule], expanded: &mut usize) -> Result<(), DecompileError> {
    let Some(first) = rules.first() else { return Ok(()) };
    let hosts = match Pattern::parse(&first.hosts) {
        Ok(Pattern { hosts, port: None }) if hosts.to_string() == first.hosts => hosts,
        _ => return Err(DecompileError::Pattern(first.hosts.clone())),
    };
    let mut terms: Vec<Terms<'_>> = Vec::new();
    // Of rules for one pattern a deny decides first, then a read-only rule, then an allow; of equals the last in the policy's order. Rules with methods or
    // paths stand beside those without: they may not apply.
    let (mut denied, mut decided) = (Ports::default(), Ports::default());
    for rule in rules.iter().rev() {
        let ports = Ports::of(&rule.ports);
        let own = ports.without(if has_conditions(rule) { &denied } else { &decided });
        if !has_conditions(rule) {
            decided = decided.or(&ports);
            if rule.access == Access::Deny {
                denied = denied.or(&ports);
            }
        }
        match terms.iter_mut().find(|terms| terms.is_like(rule)) {
            Some(terms) => {
                terms.ports = terms.ports.or(&ports);
                terms.own = terms.own.or(&own);
                terms.places.push(rule.place());
            }
            None => terms.push(Terms { rule, ports, own, places: vec![rule.place()] }),
        }
    }
    // A rule without a port of its own decides nothing.
    terms.retain(|terms| terms.own.count() > 0);
    // The pattern itself goes to the widest: it is the last of those that are left.
    terms.sort_by_key(|terms| (terms.own.count(), std::cmp::Reverse(terms.rule.id)));
    let Some(widest) = terms.pop() else { return Ok(()) };
    let ports = main_ports(&widest, &terms);
    match ports.each().next() {
        Some(port) if ports.count() == 1 && terms.is_empty() => {
            entry(text, &Pattern { hosts: hosts.clone(), port: Some(port) }, &widest, None)
        }
        _ => entry(text, &Pattern { hosts: hosts.clone(), port: None }, &widest, Some(&ports)),
    }
    let mut taken: BTreeMap<u16, &Terms<'_>> = BTreeMap::new();
    for terms in terms.iter().rev() {
        *expanded = expanded.saturating_add(terms.own.count());
        if *expanded > MAX_EXPANDED {
            return Err(DecompileError::TooManyPorts(first.hosts.clone()));
        }
        for port in terms.own.each() {
            if let Some(other) = taken.insert(port, terms) {
                let places = [other.places.clone(), terms.places.clone()].concat().join(", ");
                return Err(DecompileError::Conflict { pattern: first.hosts.clone(), port, places });
            }
            entry(text, &Pattern { hosts: hosts.clone(), port: Some(port) }, terms, None);
        }
    }
    Ok(())
}

/// The ports of the entry that has the pattern for itself. Where the others decide anyway, its own ports need not have a gap.
fn main_ports(widest: &Terms<'_>, others: &[Terms<'_>]) -> Ports {
    let beaten = !widest.has_conditions() && others.iter().all(|other| other.rule.id > widest.rule.id && !other.has_conditions());
    if beaten || widest.has_conditions() { widest.ports.clone() } else { widest.own.clone() }
}

fn entry(text: &mut String, pattern: &Pattern, terms: &Terms<'_>, ports: Option<&Ports>) {
    let rule = terms.rule;
    let mut fields = vec![format!("access = {}", quote(rule.access.as_str()))];
    // `*` cannot be denied, but all of its ports can.
    let denies_all = pattern.hosts == Hosts::Any && rule.access == Access::Deny;
    if let Some(ports) = ports.filter(|ports| !ports.is_all() || denies_all) {
        fields.push(format!("ports = {}", ports.toml()));
    }
    if !rule.methods.is_empty() {
        fields.push(format!("methods = {}", list(&rule.methods)));
    }
    if !rule.paths.is_empty() {
        fields.push(format!("paths = {}", list(&rule.paths)));
    }
    if !rule.reason.is_empty() {
        fields.push(format!("reason = {}", quote(&rule.reason)));
    }
    let value = if fields.len() == 1 { quote(rule.access.as_str()) } else { format!("{{ {} }}", fields.join(", ")) };
    let places = terms.places.iter().rev().map(|place| comment(place)).collect::<Vec<_>>().join(", ");
    line(text, format_args!("{} = {value} # {places}", quote(&pattern.to_string())));
}

/// Text for a comment, which ends at the end of its line and has no control characters.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn hooks<'a>(text: &mut String, hooks: impl Iterator<Item = &'a Hook>, bodies: &[HookBody], table: &str) -> Result<(), DecompileError> {
    let mut names = BTreeSet::new();
    for hook in hooks {
        let name = quote_key(&hook.name);
        if !names.insert(&hook.name) {
            return Err(DecompileError::Hook { hook: hook.name.clone(), key: "name".to_owned() });
        }
        let (layer, label) = (hook.source.layer, comment(&hook.source.label));
        line(text, format_args!("\n[{table}.mitm.hooks.{name}] # {layer} {label}:{}", hook.line));
        line(text, format_args!("host = {}", quote(&hook.host)));
        for (key, items) in [("methods", &hook.methods), ("path_prefixes", &hook.path_prefixes)] {
            if !items.is_empty() {
                line(text, format_args!("{key} = {}", list(items)));
            }
        }
        for (key, fields) in [("query", &hook.query), ("headers", &hook.headers)] {
            if !fields.is_empty() {
                line(text, format_args!("{key} = {}", fields_table(hook, fields)?));
            }
        }
        if let Some(body) = bodies.iter().find(|body| body.hook == hook.name) {
            line(text, format_args!("body = {}", body_table(body)));
        }
        let actions = [
            ("strip_request_headers", list(&hook.strip_request_headers), hook.strip_request_headers.is_empty()),
            ("inject_request_headers", injected(&hook.inject_request_headers), hook.inject_request_headers.is_empty()),
            ("strip_response_headers", list(&hook.strip_response_headers), hook.strip_response_headers.is_empty()),
        ];
        if actions.iter().any(|(_, _, empty)| !empty) {
            line(text, format_args!("action = [{}]\n\n[{table}.mitm.actions.{name}]", quote(&hook.name)));
            for (key, value, _) in actions.iter().filter(|(_, _, empty)| !empty) {
                line(text, format_args!("{key} = {value}"));
            }
        }
    }
    Ok(())
}

fn fields_table(hook: &Hook, fields: &[(String, Vec<String>)]) -> Result<String, DecompileError> {
    let mut seen = BTreeSet::new();
    if let Some((key, _)) = fields.iter().find(|(key, _)| !seen.insert(key)) {
        return Err(DecompileError::Hook { hook: hook.name.clone(), key: key.clone() });
    }
    let entries = fields.iter().map(|(key, values)| format!("{} = {}", quote_key(key), list(values)));
    Ok(format!("{{ {} }}", entries.collect::<Vec<_>>().join(", ")))
}

fn injected(headers: &[InjectedHeader]) -> String {
    let each = headers.iter().map(|header| {
        let (key, place) = match &header.secret {
            Secret::Env(name) => ("secret_env_var", name),
            Secret::File(path) => ("secret_file", path),
        };
        let prefix = if header.prefix.is_empty() { String::new() } else { format!(", prefix = {}", quote(&header.prefix)) };
        format!("{{ name = {}, {key} = {}{prefix} }}", quote(&header.name), quote(place))
    });
    format!("[{}]", each.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_sets() {
        let ports = |ranges: &[(u16, u16)]| {
            Ports::of(&ranges.iter().map(|(first, last)| PortRange { first: *first, last: *last }).collect::<Vec<_>>())
        };
        assert_eq!(ports(&[(5, 9), (1, 4), (20, 20)]).toml(), "[\"1-9\", 20]");
        assert_eq!(ports(&[]).without(&ports(&[(443, 443), (1, 80)])).toml(), "[\"81-442\", \"444-65535\"]");
        assert_eq!(ports(&[(1, 10)]).without(&ports(&[])), Ports::default());
        assert!(ports(&[(0, 65_535)]).is_all() && ports(&[(0, 0)]).count() == 0);
        assert_eq!(ports(&[(1, 2), (9, 9)]).each().collect::<Vec<_>>(), [1, 2, 9]);
    }
}
