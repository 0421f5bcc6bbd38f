//! The merged document to a `Policy`, collecting every diagnostic.

use crate::diagnostic::{Diagnostic, Place, Severity};
use crate::merge::Merged;
use crate::policy::Policy;
use crate::presets::{self, PRESETS};
use crate::schema::{At, DomainEntry, NetworkDoc, nearest};
use crate::source::{Lines, SourceFile};
use policy_format::{Access, Layer, Listeners, Meta, Mode, Network, RuleInput, Source};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Makes a policy; `None` when an error was reported.
pub fn check(merged: Merged, demanded: Vec<DomainEntry>, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) -> Option<Policy> {
    let profile = merged.profile.as_ref().map(|at| at.value.clone()).unwrap_or_default();
    let network = merged.network.unwrap_or_default();
    let lines = Lines::new(sources);
    let listeners = listeners(&network, diagnostics);
    let state = state(&network, merged.feature.as_ref(), &profile, diagnostics);
    let rules = rules(&network, demanded, sources, &lines, diagnostics);
    let meta = Meta {
        profile,
        network: state,
        mode: network.mode.as_ref().map_or(Mode::Full, |at| at.value),
        allow_local_binding: on(&network.allow_local_binding),
        listeners,
        dangerously_allow_non_loopback_proxy: on(&network.dangerously_allow_non_loopback_proxy),
        dangerously_allow_non_loopback_admin: false,
    };
    let failed = diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    (!failed).then(|| Policy::new(meta, rules))
}

fn on(value: &Option<At<bool>>) -> bool {
    value.as_ref().is_some_and(|at| at.value)
}

/// Whether the network is proxied, blocked or direct; rules under a switch that is off are worth a warning.
fn state(network: &NetworkDoc, feature: Option<&At<bool>>, profile: &str, diagnostics: &mut Vec<Diagnostic>) -> Network {
    let first_rule = network.domains.first().map(|entry| entry.place.clone());
    match (&network.enabled, feature) {
        (Some(enabled), _) if !enabled.value => {
            if let Some(rule) = first_rule {
                let message = "the network is switched off: its rules have no effect";
                diagnostics.push(Diagnostic::warning(message, enabled.place.clone(), "the switch").and(rule, "such as this one"));
            }
            Network::Blocked
        }
        (None, _) => {
            if let Some(rule) = first_rule {
                let message = format!("the network of profile `{profile}` is not switched on: its rules have no effect");
                diagnostics.push(
                    Diagnostic::warning(message, rule, "such as this one")
                        .help(format!("add `enabled = true` under `[permissions.{profile}.network]`")),
                );
            }
            Network::Blocked
        }
        (Some(enabled), Some(feature)) if !feature.value => {
            let message = "`features.network_proxy` is off: clients connect directly, and no rule has an effect";
            diagnostics
                .push(Diagnostic::warning(message, feature.place.clone(), "the switch").and(enabled.place.clone(), "the network is on"));
            Network::Direct
        }
        _ => Network::Proxied,
    }
}

fn listeners(network: &NetworkDoc, diagnostics: &mut Vec<Diagnostic>) -> Listeners {
    let default = Listeners::default();
    let socks_on = network.enable_socks5.as_ref().is_none_or(|at| at.value);
    let mut address = |key: &str, url: &Option<At<String>>, default: SocketAddr| match url {
        None => default,
        Some(url) => listen_address(&url.value, default.port()).unwrap_or_else(|why| {
            let scheme = if key == "socks_url" { "socks5" } else { "http" };
            let help = format!("write `{key} = \"{scheme}://{default}\"`");
            diagnostics.push(Diagnostic::error(format!("`{key}` is not an address to listen on: {why}"), url.place.clone(), "").help(help));
            default
        }),
    };
    let http = address("proxy_url", &network.proxy_url, default.http);
    let admin = address("admin_url", &network.admin_url, default.admin);
    // Read although it may be off, so that a mistake in it is not hidden.
    let socks = default.socks.map(|default| address("socks_url", &network.socks_url, default));
    let listeners = Listeners { http, socks: socks.filter(|_| socks_on), admin };
    let opens = "set `dangerously_allow_non_loopback_proxy = true`";
    let open = on(&network.dangerously_allow_non_loopback_proxy);
    let keys = [
        ("proxy_url", &network.proxy_url, Some(http).filter(|_| !open), Some(opens)),
        ("socks_url", &network.socks_url, listeners.socks.filter(|_| !open), Some(opens)),
        ("admin_url", &network.admin_url, Some(admin), None),
    ];
    for (key, url, address, opens) in keys {
        if let (Some(url), Some(address)) = (url, address)
            && !address.ip().is_loopback()
        {
            let message = format!("`{key}` opens the listener to other machines");
            let help = opens.map_or_else(|| "use 127.0.0.1".to_owned(), |opens| format!("use 127.0.0.1, or {opens}"));
            diagnostics.push(Diagnostic::error(message, url.place.clone(), "").help(help));
        }
    }
    listeners
}

/// `http://127.0.0.1:3128`, with or without scheme and port.
fn listen_address(url: &str, default_port: u16) -> Result<SocketAddr, &'static str> {
    let rest = match url.trim().split_once("://") {
        Some(("http" | "https" | "socks5" | "socks5h", rest)) => rest,
        Some(_) => return Err("the scheme is not `http` or `socks5`"),
        None => url.trim(),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@']) {
        return Err("it has more than a host and a port");
    }
    if let Ok(address) = rest.parse::<SocketAddr>() {
        return Ok(address);
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().map_err(|_| "the port is not a number up to 65535")?)
        }
        _ => (rest, default_port),
    };
    let host = host.trim_matches(['[', ']']);
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    let ip: IpAddr = host.parse().map_err(|_| "it names another host, and upstream proxies are not used by this version")?;
    Ok(SocketAddr::new(ip, port))
}

/// Rules of the layers, of presets (unless a layer says otherwise of the same pattern), and those that requirements demand.
fn rules(
    network: &NetworkDoc,
    demanded: Vec<DomainEntry>,
    sources: &[SourceFile],
    lines: &Lines,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<RuleInput> {
    let mut rules = Vec::with_capacity(network.domains.len() + demanded.len());
    let layer_of = |place: &Place| sources.get(place.source.0).map_or(Layer::Project, |source| source.layer);
    let said: HashMap<String, Layer> = network.domains.iter().map(|entry| (entry.pattern.to_string(), layer_of(&entry.place))).collect();
    for entry in network.domains.iter().chain(&demanded) {
        let Some(access) = entry.access else { continue };
        let Some(source) = sources.get(entry.place.source.0) else { continue };
        rules.push(RuleInput {
            hosts: entry.pattern.hosts.clone(),
            ports: entry.ports.clone(),
            access,
            source: Source { layer: source.layer, label: source.label().to_owned() },
            line: lines.line(&entry.place),
        });
    }
    for name in network.presets.iter().flat_map(|presets| &presets.value) {
        let layer = layer_of(&name.place);
        let Some(preset) = presets::find(&name.value) else {
            let help = nearest(&name.value, PRESETS.map(|preset| preset.name)).map_or_else(
                || format!("these are there: {}", PRESETS.map(|preset| format!("`{}`", preset.name)).join(", ")),
                |near| format!("did you mean \"{near}\"?"),
            );
            diagnostics.push(Diagnostic::error(format!("there is no preset `{}`", name.value), name.place.clone(), "").help(help));
            continue;
        };
        // A weaker layer does not take back what a stronger one denies.
        let stands = |said: &Layer| preset.access() == Access::Deny && *said > layer;
        let fresh = preset.patterns().filter(|entry| said.get(&entry.pattern.to_string()).is_none_or(stands));
        rules.extend(fresh.map(|entry| RuleInput {
            hosts: entry.pattern.hosts,
            ports: Vec::new(),
            access: preset.access(),
            source: Source { layer, label: format!("preset {}", preset.name) },
            line: entry.line,
        }));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_listen_addresses_in_every_spelling() {
        for (url, expected) in [
            ("http://127.0.0.1:3128", "127.0.0.1:3128"),
            ("http://127.0.0.1:3128/", "127.0.0.1:3128"),
            ("socks5h://localhost:1080", "127.0.0.1:1080"),
            ("127.0.0.1", "127.0.0.1:9"),
            ("[::1]:5", "[::1]:5"),
            ("http://[::1]", "[::1]:9"),
            ("0.0.0.0:0", "0.0.0.0:0"),
        ] {
            assert_eq!(listen_address(url, 9).map(|address| address.to_string()), Ok(expected.to_owned()), "{url}");
        }
        for url in
            ["http://proxy.corp.example:8080", "ftp://127.0.0.1", "http://u:p@127.0.0.1:1", "http://127.0.0.1:1/x", "127.0.0.1:70000", ""]
        {
            assert!(listen_address(url, 9).is_err(), "{url}");
        }
    }
}
