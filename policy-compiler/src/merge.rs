//! Layers to one document, in which every value keeps its origin.
//!
//! Tables merge key by key, the stronger layer wins; scalars and lists replace whole; `domains` merge entry by entry on the normalised
//! pattern. A profile lies over the one that it extends; `features.network_proxy` as a table lies over both.

use crate::diagnostic::{Diagnostic, Place};
use crate::schema::{At, DomainEntry, LayerDoc, NetworkDoc, ProfileDoc};
use crate::source::SourceFile;
use policy_format::Access;
use std::collections::{BTreeMap, HashMap};

/// All layers as one.
#[derive(Debug, Default)]
pub struct Merged {
    /// The profile that is in force, and who says so.
    pub profile: Option<At<String>>,
    /// `features.network_proxy`.
    pub feature: Option<At<bool>>,
    /// The profile's network table; `None` when it has none.
    pub network: Option<NetworkDoc>,
}

/// Merges layers, strongest first. `profile` overrides `default_permissions`.
pub fn merge(layers: Vec<LayerDoc>, profile: Option<&str>, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) -> Merged {
    let mut merged = Merged::default();
    let mut profiles: BTreeMap<String, ProfileDoc> = BTreeMap::new();
    let mut overlay: Option<NetworkDoc> = None;
    // Weakest first, so that what comes later lies over what is there.
    for layer in layers.into_iter().rev() {
        merged.profile = layer.default_permissions.or(merged.profile);
        merged.feature = layer.feature.or(merged.feature);
        overlay = merge_option(overlay, layer.overlay, sources, diagnostics);
        for (name, profile) in layer.profiles {
            let below = profiles.remove(&name);
            let (extends, network) = below.map_or((None, None), |below| (below.extends, below.network));
            let network = merge_option(network, profile.network, sources, diagnostics);
            profiles.insert(name, ProfileDoc { place: profile.place, extends: profile.extends.or(extends), network });
        }
    }
    let chosen = match profile {
        Some(name) => name.to_owned(),
        None => match &merged.profile {
            Some(name) => name.value.clone(),
            None => {
                diagnostics.push(no_profile(&profiles));
                return merged;
            }
        },
    };
    let network = resolve(&chosen, merged.profile.as_ref().filter(|_| profile.is_none()), profiles, sources, diagnostics);
    merged.network = merge_option(network, overlay, sources, diagnostics);
    if profile.is_some() || merged.profile.is_none() {
        let place = merged.profile.as_ref().map_or(Place { source: crate::source::SourceId(0), span: 0..0 }, |at| at.place.clone());
        merged.profile = Some(At { value: chosen, place });
    }
    merged
}

fn no_profile(profiles: &BTreeMap<String, ProfileDoc>) -> Diagnostic {
    let diagnostic = Diagnostic::general("no permission profile is chosen");
    match profiles.keys().next() {
        Some(name) => diagnostic.help(format!("set `default_permissions = \"{name}\"`, or use `--profile {name}`")),
        None => diagnostic.help("write a policy: `default_permissions = \"workspace\"` and a table `[permissions.workspace.network]`"),
    }
}

/// The network table of a profile, over those of the profiles that it extends.
fn resolve(
    chosen: &str,
    chosen_by: Option<&At<String>>,
    mut profiles: BTreeMap<String, ProfileDoc>,
    sources: &[SourceFile],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<NetworkDoc> {
    let known: Vec<String> = profiles.keys().cloned().collect();
    let mut chain: Vec<ProfileDoc> = Vec::new();
    let mut next = Some((chosen.to_owned(), chosen_by.map(|at| at.place.clone())));
    while let Some((name, said_at)) = next {
        let Some(profile) = profiles.remove(&name) else {
            let message = if known.contains(&name) {
                format!("the profile `{name}` extends itself")
            } else {
                format!("there is no permission profile `{name}`")
            };
            let diagnostic = match said_at {
                Some(place) => Diagnostic::error(message, place, ""),
                None => Diagnostic::general(message),
            };
            let names = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            diagnostics.push(match names.is_empty() {
                true => diagnostic.help(format!("add a table `[permissions.{name}.network]`")),
                false => diagnostic.help(format!("these are there: {names}")),
            });
            return None;
        };
        next = profile.extends.as_ref().map(|at| (at.value.clone(), Some(at.place.clone())));
        chain.push(profile);
    }
    chain.into_iter().rev().fold(None, |below, profile| merge_option(below, profile.network, sources, diagnostics))
}

fn merge_option(
    below: Option<NetworkDoc>,
    above: Option<NetworkDoc>,
    sources: &[SourceFile],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<NetworkDoc> {
    match (below, above) {
        (Some(below), Some(above)) => Some(merge_networks(below, above, sources, diagnostics)),
        (below, above) => above.or(below),
    }
}

fn merge_networks(below: NetworkDoc, above: NetworkDoc, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) -> NetworkDoc {
    NetworkDoc {
        enabled: above.enabled.or(below.enabled),
        mode: above.mode.or(below.mode),
        proxy_url: above.proxy_url.or(below.proxy_url),
        socks_url: above.socks_url.or(below.socks_url),
        admin_url: above.admin_url.or(below.admin_url),
        enable_socks5: above.enable_socks5.or(below.enable_socks5),
        allow_local_binding: above.allow_local_binding.or(below.allow_local_binding),
        dangerously_allow_non_loopback_proxy: above.dangerously_allow_non_loopback_proxy.or(below.dangerously_allow_non_loopback_proxy),
        presets: above.presets.or(below.presets),
        domains: merge_domains(below.domains, above.domains, sources, diagnostics),
    }
}

fn merge_domains(
    below: Vec<DomainEntry>,
    above: Vec<DomainEntry>,
    sources: &[SourceFile],
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<DomainEntry> {
    let mut merged = below;
    let mut index: HashMap<String, usize> = merged.iter().enumerate().map(|(at, entry)| (entry.pattern.to_string(), at)).collect();
    for entry in above {
        let pattern = entry.pattern.to_string();
        match index.get(&pattern).and_then(|at| merged.get_mut(*at)) {
            Some(old) => {
                let loosens = old.access == Some(Access::Deny) && entry.access.is_some_and(|access| access != Access::Deny);
                if loosens && old.place.source != entry.place.source {
                    let layer = |place: &Place| sources.get(place.source.0).map_or("", |source| source.layer.as_str());
                    let message = format!("`{pattern}` is allowed here although the {} layer denies it", layer(&old.place));
                    let label = format!("the {} layer is the stronger one", layer(&entry.place));
                    diagnostics.push(Diagnostic::warning(message, entry.place.clone(), label).and(old.place.clone(), "denied here"));
                }
                *old = entry;
            }
            None => {
                index.insert(pattern, merged.len());
                merged.push(entry);
            }
        }
    }
    merged
}
