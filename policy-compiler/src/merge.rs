//! Layers to one document, in which every value keeps its origin.
//!
//! Tables merge key by key, the stronger layer wins; scalars and lists replace whole; `domains` and `unix_sockets` merge entry by entry on the normalised pattern or
//! path, hooks and actions by name. A profile lies over the one that it extends; `features.network_proxy` as a table lies over both. Older tables without a
//! profile lie under the chosen profile's table of the same layer.

use crate::diagnostic::{Code, Diagnostic, Place};
use crate::schema::{ActionDoc, At, DomainEntry, HookDoc, LayerDoc, MitmDoc, NetworkDoc, ProfileDoc, SocketEntry, UpstreamDoc, nearest_of};
use crate::source::{SourceFile, SourceId};
use policy_format::Access;
use std::collections::{BTreeMap, HashMap};

/// The profile's name where older tables, or an older `sandbox_mode`, name none.
const DEFAULT_PROFILE: &str = "workspace";

/// Profiles that need no table: what programs of this configuration build in, and whether their network is open.
const BUILT_IN: [(&str, Option<bool>); 3] = [(":read-only", Some(false)), (":workspace", Some(false)), (":danger-full-access", None)];

/// All layers as one.
#[derive(Debug, Default)]
pub struct Merged {
    /// The profile that is in force.
    pub profile: String,
    /// `features.network_proxy`.
    pub feature: Option<At<bool>>,
    /// The profile's network table; `None` when it has none.
    pub network: Option<NetworkDoc>,
    /// Nothing confines the network: `danger-full-access`.
    pub unconfined: Option<Place>,
}

/// Merges layers, strongest first. `profile` overrides `default_permissions`.
pub fn merge(mut layers: Vec<LayerDoc>, profile: Option<&str>, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) -> Merged {
    let mut merged = Merged::default();
    let has_base = layers.iter().any(|layer| layer.base.is_some());
    let chosen = match profile {
        Some(name) => Some((name.to_owned(), None)),
        None => layers.iter().find_map(|layer| layer.default_permissions.clone()).map(|at| (at.value, Some(at.place))),
    };
    let sandbox_mode = layers.iter().find_map(|layer| layer.sandbox_mode.clone());
    let network_access = layers.iter().find_map(|layer| layer.network_access.clone());
    merged.feature = layers.iter().find_map(|layer| layer.feature.clone());
    let (name, chosen_by) = match chosen {
        Some(chosen) => chosen,
        None if sandbox_mode.is_some() || network_access.is_some() => {
            let network = sandbox(sandbox_mode, network_access, &mut merged);
            let profile = layers.last_mut().map(|weakest| weakest.profiles.entry(DEFAULT_PROFILE.to_owned()));
            let place = Place { source: SourceId(0), span: 0..0 };
            profile.map(|entry| entry.or_insert(ProfileDoc { place, extends: None, network: None }).network.get_or_insert(network));
            (DEFAULT_PROFILE.to_owned(), None)
        }
        None if has_base => (DEFAULT_PROFILE.to_owned(), None),
        None => {
            let names: Vec<&str> = layers.iter().flat_map(|layer| layer.profiles.keys()).map(String::as_str).collect();
            diagnostics.push(no_profile(&names));
            return merged;
        }
    };
    let mut profiles: BTreeMap<String, ProfileDoc> = BTreeMap::new();
    let mut overlay: Option<NetworkDoc> = None;
    // Weakest first, so that what comes later lies over what is there.
    for mut layer in layers.into_iter().rev() {
        overlay = merge_option(overlay, layer.overlay, sources, diagnostics);
        if let Some(base) = layer.base {
            under(base, &name, &mut layer.profiles, sources, diagnostics);
        }
        for (name, profile) in layer.profiles {
            let below = profiles.remove(&name);
            let (extends, network) = below.map_or((None, None), |below| (below.extends, below.network));
            let network = merge_option(network, profile.network, sources, diagnostics);
            profiles.insert(name, ProfileDoc { place: profile.place, extends: profile.extends.or(extends), network });
        }
    }
    let network = resolve(&name, chosen_by, profiles, &mut merged, sources, diagnostics);
    merged.network = merge_option(network, overlay, sources, diagnostics);
    merged.profile = name;
    merged
}

/// The network of a legacy sandbox mode.
fn sandbox(mode: Option<At<String>>, access: Option<At<bool>>, merged: &mut Merged) -> NetworkDoc {
    let enabled = match mode {
        Some(mode) if mode.value == "danger-full-access" => {
            merged.unconfined = Some(mode.place.clone());
            Some(At { value: true, place: mode.place })
        }
        Some(mode) if mode.value == "read-only" => Some(At { value: false, place: mode.place }),
        mode => access.or(mode.map(|mode| At { value: false, place: mode.place })),
    };
    NetworkDoc { enabled, ..NetworkDoc::default() }
}

/// Puts an older table under the chosen profile's of the same layer. What both say of one pattern could be meant either way.
fn under(
    base: NetworkDoc,
    name: &str,
    profiles: &mut BTreeMap<String, ProfileDoc>,
    sources: &[SourceFile],
    diagnostics: &mut Vec<Diagnostic>,
) {
    let place = base.domains.first().map_or(Place { source: SourceId(0), span: 0..0 }, |entry| entry.place.clone());
    let profile = profiles.entry(name.to_owned()).or_insert(ProfileDoc { place, extends: None, network: None });
    let above = profile.network.take();
    let said: HashMap<String, &DomainEntry> = base.domains.iter().map(|entry| (entry.pattern.to_string(), entry)).collect();
    for entry in above.iter().flat_map(|network| &network.domains) {
        if let Some(old) = said.get(&entry.pattern.to_string()).filter(|old| old.access != entry.access) {
            let message = format!("`{}` is there twice, in an older table and in the profile's", entry.pattern);
            let error = Diagnostic::error(Code::DuplicatePattern, message, entry.place.clone());
            diagnostics.push(error.and(old.place.clone(), "first here").with_help("keep one of them"));
        }
    }
    profile.network = merge_option(Some(base), above, sources, diagnostics);
}

fn no_profile(profiles: &[&str]) -> Diagnostic {
    let diagnostic = Diagnostic::general(Code::NoProfile, "no permission profile is chosen");
    match profiles.first() {
        Some(name) => diagnostic.with_help(format!("set `default_permissions = \"{name}\"`, or use `--profile {name}`")),
        None => diagnostic.with_help(
            "write a policy: `default_permissions = \"workspace\"` and a table `[permissions.workspace.network]`; or run `netpolicy init`",
        ),
    }
}

/// The network table of a profile, over those of the profiles that it extends.
fn resolve(
    chosen: &str,
    chosen_by: Option<Place>,
    mut profiles: BTreeMap<String, ProfileDoc>,
    merged: &mut Merged,
    sources: &[SourceFile],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<NetworkDoc> {
    let known: Vec<String> = profiles.keys().cloned().collect();
    let mut chain: Vec<ProfileDoc> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut next = Some((chosen.to_owned(), chosen_by));
    while let Some((name, said_at)) = next {
        let Some(profile) = profiles.remove(&name) else {
            if let Some((_, open)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
                chain.push(built_in(*open, said_at, merged));
                break;
            }
            diagnostics.push(missing(&name, said_at, &names, &known));
            return None;
        };
        next = profile.extends.as_ref().map(|at| (at.value.clone(), Some(at.place.clone())));
        names.push(name);
        chain.push(profile);
    }
    chain.into_iter().rev().fold(None, |below, profile| merge_option(below, profile.network, sources, diagnostics))
}

fn built_in(open: Option<bool>, said_at: Option<Place>, merged: &mut Merged) -> ProfileDoc {
    let place = said_at.unwrap_or(Place { source: SourceId(0), span: 0..0 });
    if open.is_none() {
        merged.unconfined = Some(place.clone());
    }
    let enabled = Some(At { value: open.unwrap_or(true), place: place.clone() });
    ProfileDoc { place, extends: None, network: Some(NetworkDoc { enabled, ..NetworkDoc::default() }) }
}

/// A profile that is not there, or that was there already.
fn missing(name: &str, said_at: Option<Place>, path: &[String], known: &[String]) -> Diagnostic {
    let (code, message) = if path.iter().any(|passed| passed == name) {
        let cycle = path.iter().chain([&name.to_owned()]).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" → ");
        (Code::ProfileCycle, format!("the profile `{name}` extends itself: {cycle}"))
    } else {
        (Code::UnknownProfile, format!("there is no permission profile `{}`", name.escape_debug()))
    };
    let located = said_at.is_some();
    let mut diagnostic = match said_at {
        Some(place) => Diagnostic::error(code, message, place),
        None => Diagnostic::general(code, message),
    };
    let names: Vec<&str> = known.iter().map(String::as_str).collect();
    match nearest_of(name, &names) {
        _ if code == Code::ProfileCycle => diagnostic.help = Some("let one of them extend nothing".into()),
        Some(near) if located => diagnostic.did_you_mean(&format!("\"{near}\"")),
        _ if names.is_empty() => diagnostic.help = Some(format!("add a table `[permissions.{name}.network]`")),
        _ => {
            let listed = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            diagnostic.help = Some(format!("these are there: {listed}"));
        }
    }
    diagnostic
}

fn merge_option(
    below: Option<NetworkDoc>,
    above: Option<NetworkDoc>,
    sources: &[SourceFile],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<NetworkDoc> {
    match (below, above) {
        (Some(below), Some(above)) => Some(networks(below, above, sources, diagnostics)),
        (below, above) => above.or(below),
    }
}

/// One table over another.
pub(crate) fn networks(below: NetworkDoc, above: NetworkDoc, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) -> NetworkDoc {
    NetworkDoc {
        enabled: above.enabled.or(below.enabled),
        mode: above.mode.or(below.mode),
        proxy_url: above.proxy_url.or(below.proxy_url),
        socks_url: above.socks_url.or(below.socks_url),
        admin_url: above.admin_url.or(below.admin_url),
        enable_socks5: above.enable_socks5.or(below.enable_socks5),
        enable_socks5_udp: above.enable_socks5_udp.or(below.enable_socks5_udp),
        allow_upstream_proxy: above.allow_upstream_proxy.or(below.allow_upstream_proxy),
        allow_local_binding: above.allow_local_binding.or(below.allow_local_binding),
        dangerously_allow_non_loopback_proxy: above.dangerously_allow_non_loopback_proxy.or(below.dangerously_allow_non_loopback_proxy),
        dangerously_allow_non_loopback_admin: above.dangerously_allow_non_loopback_admin.or(below.dangerously_allow_non_loopback_admin),
        dangerously_allow_all_unix_sockets: above.dangerously_allow_all_unix_sockets.or(below.dangerously_allow_all_unix_sockets),
        credential_broker: above.credential_broker.or(below.credential_broker),
        dangerously_allow_plaintext_credential_injection: above
            .dangerously_allow_plaintext_credential_injection
            .or(below.dangerously_allow_plaintext_credential_injection),
        upstream: merge_upstream(below.upstream, above.upstream),
        presets: above.presets.or(below.presets),
        domain_lists: above.domain_lists.or(below.domain_lists),
        domains: merge_domains(below.domains, above.domains, sources, diagnostics),
        unix_sockets: merge_sockets(below.unix_sockets, above.unix_sockets),
        mitm: merge_mitm(below.mitm, above.mitm),
    }
}

fn merge_upstream(below: Option<UpstreamDoc>, above: Option<UpstreamDoc>) -> Option<UpstreamDoc> {
    match (below, above) {
        (Some(below), Some(above)) => Some(UpstreamDoc { url: above.url.or(below.url), no_proxy: above.no_proxy.or(below.no_proxy) }),
        (below, above) => above.or(below),
    }
}

fn merge_domains(
    below: Vec<DomainEntry>,
    above: Vec<DomainEntry>,
    sources: &[SourceFile],
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<DomainEntry> {
    if below.is_empty() {
        return above;
    }
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
                    let warning = Diagnostic::warning(Code::OverridesDeny, message, entry.place.clone());
                    let label = format!("the {} layer is the stronger one", layer(&entry.place));
                    diagnostics.push(warning.with_label(label).and(old.place.clone(), "denied here"));
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

fn merge_sockets(below: Vec<SocketEntry>, above: Vec<SocketEntry>) -> Vec<SocketEntry> {
    let mut merged = below;
    merged.retain(|old| !above.iter().any(|entry| entry.path == old.path));
    merged.extend(above);
    merged
}

fn merge_mitm(below: MitmDoc, above: MitmDoc) -> MitmDoc {
    MitmDoc {
        mode: above.mode.or(below.mode),
        bypass: above.bypass.or(below.bypass),
        ca_cert_path: above.ca_cert_path.or(below.ca_cert_path),
        ca_key_path: above.ca_key_path.or(below.ca_key_path),
        max_body_bytes: above.max_body_bytes.or(below.max_body_bytes),
        hooks: merge_named(below.hooks, above.hooks, |hook: &HookDoc| &hook.name.value),
        actions: merge_named(below.actions, above.actions, |action: &ActionDoc| &action.name.value),
    }
}

/// By name, whole; what is above comes first, because hooks are tried in that order.
fn merge_named<T>(below: Vec<T>, above: Vec<T>, name: impl Fn(&T) -> &String) -> Vec<T> {
    let kept: Vec<T> = below.into_iter().filter(|old| !above.iter().any(|new| name(new) == name(old))).collect();
    above.into_iter().chain(kept).collect()
}
