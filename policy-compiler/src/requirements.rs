//! What a stronger layer demands of weaker ones: `[experimental_network]` in requirements files.
//!
//! Requirements are constraints, not defaults: a weaker layer that conflicts is rejected, with both places. Where no layer says anything, the demanded
//! value holds. Managed denies are always in force; managed allows extend what weaker layers allow, or, with
//! `managed_allowed_domains_only`, are all that is allowed.

use crate::diagnostic::{Diagnostic, Place};
use crate::merge::Merged;
use crate::presets;
use crate::schema::{At, DomainEntry, NetworkDoc, Reader};
use crate::source::{SourceFile, SourceId};
use policy_format::{Access, Layer, Mode};
use std::fmt::Display;
use toml::Spanned;
use toml::de::{DeString, DeValue};

/// What one requirements file demands.
#[derive(Debug, Default)]
pub struct Requirements {
    enabled: Option<At<bool>>,
    http_port: Option<At<u16>>,
    socks_port: Option<At<u16>>,
    allow_local_binding: Option<At<bool>>,
    dangerously_allow_non_loopback_proxy: Option<At<bool>>,
    mode: Option<At<Mode>>,
    managed_allowed_domains_only: Option<At<bool>>,
    domains: Vec<DomainEntry>,
}

const KEYS: [&str; 14] = [
    "enabled",
    "http_port",
    "socks_port",
    "allow_upstream_proxy",
    "dangerously_allow_non_loopback_proxy",
    "dangerously_allow_all_unix_sockets",
    "allow_local_binding",
    "mode",
    "domains",
    "allowed_domains",
    "denied_domains",
    "unix_sockets",
    "allow_unix_sockets",
    "managed_allowed_domains_only",
];

/// Reads a requirements file; `None` when it is not TOML. Keys outside `[experimental_network]` belong to other programs.
pub fn read(id: SourceId, source: &SourceFile, diagnostics: &mut Vec<Diagnostic>) -> Option<Requirements> {
    let mut reader = Reader { id, diagnostics };
    let mut found = Requirements::default();
    let root = reader.parse(source.text())?;
    let Some((key, value)) = root.get_ref().get_key_value("experimental_network") else { return Some(found) };
    let Some(table) = reader.table(key, value) else { return Some(found) };
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "enabled" => found.enabled = reader.bool(key, value),
            "http_port" => found.http_port = port(&mut reader, key, value),
            "socks_port" => found.socks_port = port(&mut reader, key, value),
            "allow_local_binding" => found.allow_local_binding = reader.bool(key, value),
            "dangerously_allow_non_loopback_proxy" => found.dangerously_allow_non_loopback_proxy = reader.bool(key, value),
            "managed_allowed_domains_only" => found.managed_allowed_domains_only = reader.bool(key, value),
            "mode" => found.mode = reader.mode(key, value),
            "domains" => found.domains.extend(reader.domains(key, value)),
            "allowed_domains" => found.domains.extend(list(&mut reader, key, value, Access::Allow)),
            "denied_domains" => found.domains.extend(list(&mut reader, key, value, Access::Deny)),
            // This version opens no unix socket and uses no upstream proxy: whatever is demanded of them holds.
            "allow_upstream_proxy" | "dangerously_allow_all_unix_sockets" | "unix_sockets" | "allow_unix_sockets" => {}
            _ => reader.unknown_key(key, "`[experimental_network]`", KEYS),
        }
    }
    Some(found)
}

fn port(reader: &mut Reader<'_>, key: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>) -> Option<At<u16>> {
    let number = value.get_ref().as_integer().filter(|number| number.radix() == 10);
    let port = number.and_then(|number| policy_format::pattern::parse_port(number.as_str()));
    if port.is_none() {
        reader.error(value.span(), format!("`{}` is a port from 1 to 65535", key.get_ref()), "");
    }
    port.map(|value_| At { value: value_, place: reader.place(value.span()) })
}

fn list(reader: &mut Reader<'_>, key: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>, access: Access) -> Vec<DomainEntry> {
    let Some(array) = value.get_ref().as_array() else {
        reader.error(value.span(), format!("`{}` is a list of patterns", key.get_ref()), "");
        return Vec::new();
    };
    let entries = array.iter().filter_map(|item| {
        let text = reader.string(key, item)?;
        let pattern = reader.pattern(&text.value, &item.span())?;
        let ports = pattern.port.map(|port| policy_format::PortRange { first: port, last: port }).into_iter().collect();
        Some(DomainEntry { pattern, place: text.place, access: Some(access), ports })
    });
    entries.collect()
}

/// Constrains what the layers merged to. `all` is strongest first.
pub fn apply(all: Vec<Requirements>, merged: &mut Merged, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) -> Vec<DomainEntry> {
    let mut demanded = Vec::new();
    let mut only_up_to: Option<Layer> = None;
    let starts = all.iter().any(|requirements| requirements.enabled.as_ref().is_some_and(|on| on.value));
    if starts {
        merged.network.get_or_insert_default();
    }
    // The strongest first: what it demands is there when a weaker one looks, and a weaker one does not bind a stronger layer.
    for requirements in all {
        let mut constrain = Constrain { sources, diagnostics };
        if let Some(network) = &mut merged.network {
            constrain.network(&requirements, network);
        }
        if let Some(only) = requirements.managed_allowed_domains_only.as_ref().filter(|only| only.value) {
            let layer = constrain.layer(&only.place);
            if let Some(network) = &mut merged.network {
                constrain.drop_weaker_allows(layer, only, network);
            }
            only_up_to = only_up_to.or(Some(layer));
        }
        let layer_of = |entry: &DomainEntry| constrain.layer(&entry.place);
        let in_force = |entry: &DomainEntry| entry.access == Some(Access::Deny) || only_up_to.is_none_or(|only| layer_of(entry) <= only);
        demanded.extend(requirements.domains.into_iter().filter(in_force));
    }
    demanded
}

struct Constrain<'a> {
    sources: &'a [SourceFile],
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Constrain<'_> {
    fn layer(&self, place: &Place) -> Layer {
        self.sources.get(place.source.0).map_or(Layer::Project, |source| source.layer)
    }

    /// A requirement binds its own layer and weaker ones.
    fn is_stronger(&self, value: &Place, demand: &Place) -> bool {
        self.layer(value) < self.layer(demand)
    }

    fn network(&mut self, demanded: &Requirements, network: &mut NetworkDoc) {
        self.value("enabled", &demanded.enabled, &mut network.enabled, |demand, value| demand == value);
        // What only tightens does not conflict.
        let no_looser = |demand: bool, value: bool| demand || !value;
        self.value("allow_local_binding", &demanded.allow_local_binding, &mut network.allow_local_binding, no_looser);
        let (demand, value) = (&demanded.dangerously_allow_non_loopback_proxy, &mut network.dangerously_allow_non_loopback_proxy);
        self.value("dangerously_allow_non_loopback_proxy", demand, value, no_looser);
        self.value("mode", &demanded.mode, &mut network.mode, |demand, value| demand == Mode::Full || value == Mode::Limited);
        self.port("proxy_url", &demanded.http_port, &mut network.proxy_url);
        self.port("socks_url", &demanded.socks_port, &mut network.socks_url);
    }

    fn value<T: Copy + Display>(&mut self, key: &str, demand: &Option<At<T>>, value: &mut Option<At<T>>, holds: impl Fn(T, T) -> bool) {
        let Some(demand) = demand else { return };
        match value {
            None => *value = Some(demand.clone()),
            Some(found) if holds(demand.value, found.value) || self.is_stronger(&found.place, &demand.place) => {}
            Some(found) => {
                let message = format!(
                    "`{key} = {}` conflicts with the {} requirement `{key} = {}`",
                    found.value,
                    self.layer(&demand.place),
                    demand.value
                );
                let help = format!("remove `{key}`: the requirement sets it");
                self.diagnostics
                    .push(Diagnostic::error(message, found.place.clone(), "").and(demand.place.clone(), "required here").help(help));
            }
        }
    }

    fn port(&mut self, key: &str, demand: &Option<At<u16>>, url: &mut Option<At<String>>) {
        let Some(demand) = demand else { return };
        let wanted = format!("http://127.0.0.1:{}", demand.value);
        match url {
            None => *url = Some(At { value: wanted, place: demand.place.clone() }),
            Some(found) if found.value.trim_end_matches('/').ends_with(&format!(":{}", demand.value)) => {}
            Some(found) if self.is_stronger(&found.place, &demand.place) => {}
            Some(found) => {
                let message =
                    format!("`{key}` does not use the port {} that the {} layer requires", demand.value, self.layer(&demand.place));
                let help = format!("write `{key} = \"{wanted}\"`");
                self.diagnostics
                    .push(Diagnostic::error(message, found.place.clone(), "").and(demand.place.clone(), "required here").help(help));
            }
        }
    }

    fn drop_weaker_allows(&mut self, layer: Layer, only: &At<bool>, network: &mut NetworkDoc) {
        let weaker = |place: &Place| self.sources.get(place.source.0).is_some_and(|source| source.layer > layer);
        let (kept, dropped): (Vec<_>, Vec<_>) =
            std::mem::take(&mut network.domains).into_iter().partition(|entry| entry.access == Some(Access::Deny) || !weaker(&entry.place));
        network.domains = kept;
        let mut ignored: Vec<_> = dropped.into_iter().map(|entry| (format!("`{}` is ignored", entry.pattern), entry.place)).collect();
        if let Some(presets) = network.presets.as_mut().filter(|presets| weaker(&presets.place)) {
            let denies = |name: &At<String>| presets::find(&name.value).is_some_and(|preset| preset.access() == Access::Deny);
            let named = presets.value.len();
            presets.value.retain(denies);
            if presets.value.len() < named {
                let what = if presets.value.is_empty() { "`presets` is ignored" } else { "`presets` is ignored, but for those that deny" };
                ignored.push((what.to_owned(), presets.place.clone()));
            }
        }
        for (message, place) in ignored {
            let message = format!("{message}: only the {layer} layer may allow domains");
            self.diagnostics.push(Diagnostic::warning(message, place, "").and(only.place.clone(), "required here"));
        }
    }
}
