//! Settings beyond the rules: what is not said is the default.

use super::listeners::{check_upstream, destinations, password_in_file, switched_off};
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::keys::DIRECT;
use crate::merge::Merged;
use crate::schema::{At, AuditDoc, NetworkDoc, UpstreamRuleDoc};
use crate::source::{SourceFile, layer_of};
use policy_format::{Audit, AuditLevel, BrokerFallback, Limits, Otlp, Settings, Sni, Upstream, UpstreamRule};

pub(super) fn check(network: &NetworkDoc, merged: &Merged, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) -> Settings {
    let default = Settings::default();
    looks_away(network, merged, sources, diagnostics);
    let mut limits = Limits::default();
    for (name, at) in &network.limits.values {
        limits.set(name, at.value);
    }
    Settings {
        sni: network.sni.as_ref().map_or(default.sni, |at| at.value),
        via: network.via.as_ref().map_or(default.via, |at| at.value),
        forwarded: network.forwarded.as_ref().map_or(default.forwarded, |at| at.value),
        resolver: network.resolver.as_ref().map_or(default.resolver, |at| at.value.clone()),
        upstream_rules: upstream_rules(network, sources, diagnostics),
        on_revoke: network.limits.on_revoke.as_ref().map_or(default.on_revoke, |at| at.value),
        limits,
        audit: network.audit.as_ref().map(|doc| audit(doc, diagnostics)).unwrap_or_default(),
        broker_fallback: match network.dangerously_pass_credentials_without_broker.as_ref().is_some_and(|at| at.value) {
            true => BrokerFallback::Real,
            false => BrokerFallback::None,
        },
        constraints: merged.constraints,
        ..Settings::default()
    }
}

fn audit(doc: &AuditDoc, diagnostics: &mut Vec<Diagnostic>) -> Audit {
    let default = Audit::default();
    let endpoint = doc.otlp.endpoint.as_ref();
    let of_nobody = doc.otlp.protocol.as_ref().map(|at| &at.place).or(doc.otlp.headers_file.as_ref().map(|at| &at.place));
    if let (None, Some(place)) = (endpoint, of_nobody) {
        let error = Diagnostic::error(Code::MissingKey, "`otlp` needs `endpoint`", place.clone());
        diagnostics.push(error.with_help("write `otlp = { endpoint = \"http://127.0.0.1:4318\" }`"));
    }
    let protocol = doc.otlp.protocol.as_ref().map(|at| at.value).unwrap_or_default();
    if let Some(endpoint) = endpoint
        && let Err(error) = Otlp::check_endpoint_for(&endpoint.value, protocol)
    {
        let error = Diagnostic::error(Code::InvalidAddress, error.to_string(), endpoint.place.clone());
        diagnostics.push(error.with_help("write no path behind the host and the port, or `protocol = \"http\"`"));
    }
    let mut audit = Audit {
        file: doc.file.as_ref().map(|at| at.value.clone()),
        stdout: doc.stdout.as_ref().map_or(default.stdout, |at| at.value),
        syslog: doc.syslog.as_ref().map(|at| at.value.clone()),
        journald: doc.journald.as_ref().map_or(default.journald, |at| at.value),
        otlp: endpoint.map(|endpoint| Otlp {
            endpoint: endpoint.value.clone(),
            protocol,
            headers_file: doc.otlp.headers_file.as_ref().map(|at| at.value.clone()),
        }),
        naming: doc.naming.as_ref().map_or(default.naming, |at| at.value),
        level: doc.level.as_ref().map_or(default.level, |at| at.value),
        on_full: doc.on_full.as_ref().map_or(default.on_full, |at| at.value),
        fsync: doc.fsync.as_ref().map_or(default.fsync, |at| at.value),
        chain: doc.chain.as_ref().map_or(default.chain, |at| at.value),
        metadata: doc.metadata.iter().map(|(name, at)| (name.clone(), at.value.clone())).collect(),
        ..default
    };
    for (name, at) in &doc.numbers {
        audit.set(name, at.value);
    }
    let is_named = Audit { level: AuditLevel::All, ..audit.clone() }.has_sink();
    if let Some(level) = doc.level.as_ref().filter(|level| level.value == AuditLevel::Off && is_named) {
        let message = "nothing is written down, although this policy says where";
        let warning = Diagnostic::warning(Code::NoEffect, message, level.place.clone());
        diagnostics.push(warning.with_help("choose another level, or remove the places"));
    }
    audit
}

/// Who does not look at server names inside tunnels lets clients reach, by way of an allowed host, one that is denied: a weaker layer does not do that to a requirement.
fn looks_away(network: &NetworkDoc, merged: &Merged, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) {
    let (Some(sni), Some((demand, what))) = (&network.sni, &merged.needs_proxy) else { return };
    let layer = layer_of(sources, demand);
    if sni.value != Sni::Enforce && layer_of(sources, &sni.place) > layer {
        let message = format!("`sni = \"{}\"` would let tunnels pass around {what} that the {layer} layer requires", sni.value.as_str());
        let error = Diagnostic::error(Code::RequirementViolated, message, sni.place.clone()).and(demand.clone(), "required here");
        diagnostics.push(error.with_help("remove it: a weaker layer cannot lift what this one requires"));
    }
}

fn upstream_rules(network: &NetworkDoc, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) -> Vec<UpstreamRule> {
    let Some(upstream) = &network.upstream else { return Vec::new() };
    let Some(rules) = upstream.rules.as_ref().filter(|rules| !rules.value.is_empty()) else { return Vec::new() };
    // What an administrator sends through a proxy, nobody below takes out of it.
    if let Some(url) = &upstream.url {
        let owner = layer_of(sources, &url.place);
        if owner.is_managed() && owner < layer_of(sources, &rules.place) {
            let message = format!("`upstream.rules` is ignored: the upstream proxy belongs to the {owner} layer");
            let warning = Diagnostic::warning(Code::IgnoredEntry, message, rules.place.clone()).and(url.place.clone(), "named here");
            diagnostics.push(warning.with_help("remove it: it has no effect here"));
            return Vec::new();
        }
    }
    let proxied: Vec<&At<String>> = rules.value.iter().map(|rule| &rule.url).filter(|url| url.value.trim() != DIRECT).collect();
    match (proxied.first(), &upstream.url) {
        (None, None) => {
            let message = "`upstream.rules` has no effect: all of it is direct, and no upstream proxy is named";
            diagnostics
                .push(Diagnostic::warning(Code::NoEffect, message, rules.place.clone()).with_help("remove it, or name the proxy in `url`"));
        }
        (Some(url), None) => diagnostics.extend(switched_off(network, &url.place)),
        // Said of `url` already.
        (_, Some(_)) => {}
    }
    rules.value.iter().filter_map(|rule| upstream_rule(rule, diagnostics)).collect()
}

fn upstream_rule(rule: &UpstreamRuleDoc, diagnostics: &mut Vec<Diagnostic>) -> Option<UpstreamRule> {
    if rule.hosts.value.is_empty() {
        let error = Diagnostic::error(Code::InvalidValue, "this rule of `upstream` is for no host", rule.hosts.place.clone());
        diagnostics.push(error.with_help("name hosts, or \"*\" for all; or remove the rule"));
    }
    let hosts = destinations("hosts", &rule.hosts, diagnostics);
    let url = rule.url.value.trim();
    let proxy = if url == DIRECT { None } else { Some(proxy(url, &rule.url.place, diagnostics)?) };
    Some(UpstreamRule { hosts, proxy })
}

fn proxy(url: &str, place: &Place, diagnostics: &mut Vec<Diagnostic>) -> Option<Upstream> {
    match check_upstream(url) {
        Ok(has_credentials) => {
            diagnostics.extend(has_credentials.then(|| password_in_file(place.clone())));
            Some(Upstream { url: url.to_owned(), no_proxy: Vec::new() })
        }
        Err(why) => {
            let mut error = Diagnostic::error(Code::InvalidAddress, format!("this is not the URL of a proxy: {why}"), place.clone());
            match url.to_ascii_lowercase().as_str() {
                "direct" | "none" | "no" | "off" | "" => error.did_you_mean("\"direct\""),
                _ => error.help = Some("write `http://`, `https://`, `socks5://` or `socks5h://`, a host and a port; or \"direct\"".into()),
            }
            diagnostics.push(error);
            None
        }
    }
}
