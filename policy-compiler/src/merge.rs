//! Layers to one document, in which every value keeps its origin.
//!
//! Tables merge key by key, the stronger layer wins; scalars and lists replace whole; `domains` and `unix_sockets` merge entry by entry on the normalised pattern or
//! path, hooks and actions by name. Within a layer, a profile lies over the one that it extends; `features.network_proxy` as a table lies over both. Older tables without a
//! profile lie under the chosen profile's table of the same layer. A weaker layer changes nothing that a stronger one says, whichever of these tables it uses.

use crate::diagnostic::{Code, Diagnostic, Place};
use crate::schema::{
    ActionDoc, At, AuditDoc, CredentialDoc, DomainEntry, HookDoc, LayerDoc, LimitsDoc, MitmDoc, NetworkDoc, OtlpDoc, ProfileDoc,
    SocketEntry, UpstreamDoc, nearest_of,
};
use crate::source::{SourceFile, layer_of};
use policy_format::{Access, Constraints, Layer};
use std::collections::{BTreeMap, HashMap};

/// The profile's name where older tables, or an older `sandbox_mode`, name none.
const DEFAULT_PROFILE: &str = "workspace";

/// The key of what stands where a profile would, under an older `sandbox_mode`: no table can have it, so that no profile gets mixed in.
const SANDBOX: &str = "\0";

/// The sandbox mode that confines nothing.
const FULL_ACCESS: &str = "danger-full-access";

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
    /// Where each layer says what confines the network.
    pub confining: Vec<Place>,
    /// What each table said that went into [`Self::network`], without its domains: a requirement looks at all of it, not only at what won.
    pub said: Vec<NetworkDoc>,
    /// A requirement that holds only where the proxy is, and its words.
    pub needs_proxy: Option<(Place, &'static str)>,
    /// What administrators hold; `None`: there is no requirement, no layer of theirs holds anything, and the mode is not limited.
    pub constraints: Option<Constraints>,
}

/// Merges layers, strongest first. `profile` overrides `default_permissions`. `starts` says that a requirement starts the proxy by itself, without a profile.
pub fn merge(
    mut layers: Vec<LayerDoc>,
    profile: Option<&str>,
    starts: bool,
    sources: &[SourceFile],
    diagnostics: &mut Vec<Diagnostic>,
) -> Merged {
    let mut merged = Merged::default();
    let has_base = layers.iter().any(|layer| layer.base.is_some());
    let chosen = match profile {
        Some(name) => Some((name.to_owned(), None)),
        None => layers.iter().find_map(|layer| layer.default_permissions.clone()).map(|at| (at.value, Some(at.place))),
    };
    let sandbox_mode = layers.iter().find_map(|layer| layer.sandbox_mode.clone());
    let network_access = layers.iter().find_map(|layer| layer.network_access.clone());
    let confining: Vec<Place> = layers.iter().flat_map(confining).collect();
    let mut confined = None;
    merged.feature = layers.iter().find_map(|layer| layer.feature.clone());
    let (name, chosen_by) = match chosen {
        Some((name, place)) => {
            // Whoever chooses a profile does not lift what a stronger layer's sandbox mode confines.
            let chooser = place.as_ref().map_or(Layer::Cli, |place| layer_of(sources, place));
            confined = sandbox(sandbox_mode, network_access, &mut Merged::default())
                .enabled
                .filter(|enabled| !enabled.value && layer_of(sources, &enabled.place) < chooser);
            (name, place)
        }
        None if sandbox_mode.is_some() || network_access.is_some() => {
            let network = sandbox(sandbox_mode, network_access, &mut merged);
            let profile = ProfileDoc { place: Place::nowhere(), extends: None, network: Some(network) };
            if let Some(weakest) = layers.last_mut() {
                weakest.profiles.insert(SANDBOX.to_owned(), profile);
            }
            (SANDBOX.to_owned(), None)
        }
        None if has_base => (DEFAULT_PROFILE.to_owned(), None),
        None => {
            let names: Vec<(&str, &Place)> =
                layers.iter().flat_map(|layer| &layer.profiles).map(|(name, profile)| (name.as_str(), &profile.place)).collect();
            if starts && names.is_empty() {
                merged.profile = DEFAULT_PROFILE.to_owned();
                merged.network =
                    layers.into_iter().rev().fold(None, |below, layer| merge_option(below, layer.overlay, sources, diagnostics));
                merged.said.extend(merged.network.as_mut().map(settings));
            } else {
                diagnostics.push(no_profile(&names));
            }
            return merged;
        }
    };
    let mut profiles: BTreeMap<String, ProfileDoc> = BTreeMap::new();
    let mut overlay: Option<NetworkDoc> = None;
    let mut said: Vec<(Option<String>, NetworkDoc)> = Vec::new();
    // Weakest first, so that what comes later lies over what is there.
    for mut layer in layers.into_iter().rev() {
        said.extend(layer.overlay.as_mut().map(|overlay| (None, settings(overlay))));
        overlay = merge_option(overlay, layer.overlay, sources, diagnostics);
        if let Some(base) = layer.base {
            under(base, &name, &mut layer.profiles, sources, diagnostics);
        }
        for (name, mut profile) in layer.profiles {
            said.extend(profile.network.as_mut().map(|network| (Some(name.clone()), settings(network))));
            let below = profiles.remove(&name);
            let (extends, network) = below.map_or((None, None), |below| (below.extends, below.network));
            let network = merge_option(network, profile.network, sources, diagnostics);
            profiles.insert(name, ProfileDoc { place: profile.place, extends: profile.extends.or(extends), network });
        }
    }
    let (network, names) = resolve(&name, chosen_by, profiles, &mut merged, sources, diagnostics);
    merged.said.extend(said.into_iter().filter(|(name, _)| name.as_ref().is_none_or(|name| names.contains(name))).map(|(_, said)| said));
    merged.network = merge_option(network, overlay, sources, diagnostics);
    if let Some(enabled) = confined {
        let confined = NetworkDoc { enabled: Some(enabled), ..NetworkDoc::default() };
        merged.network = merge_option(merged.network.take(), Some(confined), sources, diagnostics);
    }
    merged.confining = confining;
    if let Some(network) = &mut merged.network {
        // Tried the strongest layer first; within one, as they were merged.
        network.mitm.hooks.sort_by_key(|hook| layer_of(sources, &hook.name.place));
    }
    merged.profile = if name == SANDBOX { DEFAULT_PROFILE.to_owned() } else { name };
    merged
}

/// What is compiled where nobody names a profile.
pub(crate) struct DefaultProfile<'l> {
    /// Its name, if anything chooses one.
    pub(crate) name: Option<&'l str>,
    /// An older sandbox setting that stands in for a profile: no table is compiled then.
    pub(crate) instead: Option<&'l Place>,
}

/// What [`merge`] compiles where no profile is named.
pub(crate) fn default_profile(layers: &[LayerDoc]) -> DefaultProfile<'_> {
    let sandbox = || {
        let mode = layers.iter().find_map(|layer| layer.sandbox_mode.as_ref()).map(|mode| &mode.place);
        mode.or(layers.iter().find_map(|layer| layer.network_access.as_ref()).map(|access| &access.place))
    };
    match (layers.iter().find_map(|layer| layer.default_permissions.as_ref()), sandbox()) {
        (Some(at), _) => DefaultProfile { name: Some(&at.value), instead: None },
        (None, Some(place)) => DefaultProfile { name: Some(DEFAULT_PROFILE), instead: Some(place) },
        (None, None) => {
            let has_base = layers.iter().any(|layer| layer.base.is_some());
            DefaultProfile { name: has_base.then_some(DEFAULT_PROFILE), instead: None }
        }
    }
}

/// Where a layer says what confines the network.
fn confining(layer: &LayerDoc) -> impl Iterator<Item = Place> + '_ {
    let profiles = layer.profiles.values().filter(|profile| profile.network.is_some()).map(|profile| profile.place.clone());
    let base = layer.base.as_ref().map(|base| base.place.clone());
    let overlay = layer.overlay.as_ref().and(layer.feature.as_ref()).map(|feature| feature.place.clone());
    let mode = layer.sandbox_mode.as_ref().filter(|mode| mode.value != FULL_ACCESS).map(|mode| mode.place.clone());
    let access = layer.network_access.as_ref().map(|access| access.place.clone());
    profiles.chain(base).chain(overlay).chain(mode).chain(access)
}

/// A copy without the domains, of which there may be millions.
fn settings(network: &mut NetworkDoc) -> NetworkDoc {
    let domains = std::mem::take(&mut network.domains);
    let copy = network.clone();
    network.domains = domains;
    copy
}

/// The network of a legacy sandbox mode.
fn sandbox(mode: Option<At<String>>, access: Option<At<bool>>, merged: &mut Merged) -> NetworkDoc {
    let enabled = match mode {
        Some(mode) if mode.value == FULL_ACCESS => {
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
    base: At<NetworkDoc>,
    name: &str,
    profiles: &mut BTreeMap<String, ProfileDoc>,
    sources: &[SourceFile],
    diagnostics: &mut Vec<Diagnostic>,
) {
    let At { value: base, place } = base;
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

fn no_profile(profiles: &[(&str, &Place)]) -> Diagnostic {
    const MESSAGE: &str = "no permission profile is chosen";
    let diagnostic = Diagnostic::general(Code::NoProfile, MESSAGE);
    match profiles.first() {
        Some((name, place)) => {
            let mut error = Diagnostic::error(Code::NoProfile, MESSAGE, (*place).clone()).with_label("there is this one");
            error.help = Some(format!("set `default_permissions = \"{name}\"` at the top of the file, or use `--profile {name}`"));
            if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
                let top = Place { source: place.source, span: 0..0 };
                error.edit(top, format!("default_permissions = \"{name}\"\n"));
            }
            error
        }
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
) -> (Option<NetworkDoc>, Vec<String>) {
    let known: Vec<String> = profiles.keys().cloned().collect();
    let mut chain: Vec<ProfileDoc> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    let mut ground = None;
    let mut next = Some((chosen.to_owned(), chosen_by));
    while let Some((name, said_at)) = next {
        let Some(profile) = profiles.remove(&name) else {
            if let Some((_, open)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
                ground = Some(built_in(*open, said_at, merged));
                break;
            }
            diagnostics.push(missing(&name, said_at, &names, &known));
            return (None, names);
        };
        next = profile.extends.as_ref().map(|at| (at.value.clone(), Some(at.place.clone())));
        names.push(name);
        chain.push(profile);
    }
    let mut network = chain.into_iter().rev().fold(None, |below, profile| merge_option(below, profile.network, sources, diagnostics));
    if let Some(mut enabled) = ground {
        // What is built in is the weakest of all, wherever it was chosen.
        let network = network.get_or_insert_default();
        enabled = network.enabled.take().unwrap_or(enabled);
        merged.said.push(NetworkDoc { enabled: Some(enabled.clone()), ..NetworkDoc::default() });
        network.enabled = Some(enabled);
    }
    (network, names)
}

/// Full access that a weaker layer chooses although a stronger one says how the network is confined.
pub(crate) fn lifts(confining: &[Place], place: &Place, sources: &[SourceFile]) -> Option<Diagnostic> {
    // What is nowhere was said on the command line.
    let weak = if *place == Place::nowhere() { Layer::Cli } else { layer_of(sources, place) };
    let own = confining.iter().find(|own| layer_of(sources, own) < weak)?;
    let message = format!("full access cannot lift what the {} layer confines", layer_of(sources, own));
    let error = Diagnostic::error(Code::RequirementViolated, message, place.clone());
    Some(error.and(own.clone(), "the stronger layer's network").with_help("remove it: a weaker layer cannot lift what this one confines"))
}

fn built_in(open: Option<bool>, said_at: Option<Place>, merged: &mut Merged) -> At<bool> {
    let place = said_at.unwrap_or(Place::nowhere());
    if open.is_none() {
        merged.unconfined = Some(place.clone());
    }
    At { value: open.unwrap_or(true), place }
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
    let near = nearest_of(name, &names);
    match near {
        _ if code == Code::ProfileCycle => diagnostic.help = Some("let one of them extend nothing".into()),
        Some(near) if located => diagnostic.did_you_mean(&format!("\"{near}\"")),
        _ if names.is_empty() => diagnostic.help = Some(format!("add a table `[permissions.{name}.network]`")),
        _ => {
            let listed = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let near = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            diagnostic.help = Some(format!("these are there: {listed}{near}"));
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

/// One table over another. Whichever of them it is in, what a stronger layer says holds: neither a child profile nor the feature's table lets a weaker one change it.
pub(crate) fn networks(below: NetworkDoc, above: NetworkDoc, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) -> NetworkDoc {
    macro_rules! pick {
        ($($key:ident),*) => { NetworkDoc {
            $($key: pick(below.$key, above.$key, sources),)*
            upstream: merge_upstream(below.upstream, above.upstream, sources),
            domains: merge_domains(below.domains, above.domains, sources, diagnostics),
            unix_sockets: merge_sockets(below.unix_sockets, above.unix_sockets, sources),
            mitm: merge_mitm(below.mitm, above.mitm, sources),
            limits: merge_limits(below.limits, above.limits, sources),
            audit: merge_audits(below.audit, above.audit, sources, diagnostics),
            credentials: merge_named(below.credentials, above.credentials, |credential: &CredentialDoc| &credential.name, sources),
        } };
    }
    pick!(
        enabled,
        mode,
        proxy_url,
        socks_url,
        admin_url,
        http_port,
        socks_port,
        enable_socks5,
        enable_socks5_udp,
        allow_upstream_proxy,
        allow_local_binding,
        dangerously_allow_non_loopback_proxy,
        dangerously_allow_non_loopback_admin,
        dangerously_allow_all_unix_sockets,
        credential_broker,
        dangerously_allow_plaintext_credential_injection,
        dangerously_pass_credentials_without_broker,
        presets,
        domain_lists,
        sni,
        via,
        forwarded,
        resolver
    )
}

fn pick<T>(below: Option<At<T>>, above: Option<At<T>>, sources: &[SourceFile]) -> Option<At<T>> {
    match (below, above) {
        (Some(below), Some(above)) if layer_of(sources, &below.place) < layer_of(sources, &above.place) => Some(below),
        (below, above) => above.or(below),
    }
}

fn merge_upstream(below: Option<UpstreamDoc>, above: Option<UpstreamDoc>, sources: &[SourceFile]) -> Option<UpstreamDoc> {
    let layer = |doc: &UpstreamDoc| {
        let place = doc.url.as_ref().map(|url| &url.place).or(doc.no_proxy.as_ref().map(|list| &list.place));
        let place = place.or(doc.rules.as_ref().map(|rules| &rules.place));
        place.map_or(Layer::Project, |place| layer_of(sources, place))
    };
    let (weak, strong) = match (below, above) {
        (Some(below), Some(above)) if layer(&below) < layer(&above) => (above, below),
        (Some(below), Some(above)) => (below, above),
        (below, above) => return above.or(below),
    };
    if strong.whole {
        return Some(strong);
    }
    let url = pick(weak.url, strong.url, sources);
    let rules = pick(weak.rules, strong.rules, sources);
    Some(UpstreamDoc { url, no_proxy: pick(weak.no_proxy, strong.no_proxy, sources), rules, whole: false })
}

/// Limit by limit.
fn merge_limits(below: LimitsDoc, above: LimitsDoc, sources: &[SourceFile]) -> LimitsDoc {
    let mut values = below.values;
    for (name, above) in above.values {
        let held = pick(values.remove(name), Some(above), sources);
        values.extend(held.map(|at| (name, at)));
    }
    LimitsDoc { values, on_revoke: pick(below.on_revoke, above.on_revoke, sources) }
}

/// Setting by setting. Where an administrator has a table, weaker layers add nothing to it: they would say what is written down of them.
fn merge_audits(
    below: Option<AuditDoc>,
    above: Option<AuditDoc>,
    sources: &[SourceFile],
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<AuditDoc> {
    let (Some(below), Some(above)) = (&below, &above) else { return above.or(below) };
    let (of_below, of_above) = (layer_of(sources, &below.place), layer_of(sources, &above.place));
    let (strong, weak) = if of_below < of_above { (below, above) } else { (above, below) };
    let (owner, other) = (of_below.min(of_above), of_below.max(of_above));
    if owner.is_managed() && !other.is_managed() {
        let message = format!("this `audit` is ignored: what is written down belongs to the {owner} layer");
        let warning = Diagnostic::warning(Code::IgnoredEntry, message, weak.place.clone()).and(strong.place.clone(), "said here");
        diagnostics.push(warning.with_help("remove it: it has no effect here"));
        return Some(strong.clone());
    }
    let (below, above) = (weak.clone(), strong.clone());
    let mut doc = AuditDoc { place: above.place, numbers: below.numbers, metadata: below.metadata, ..AuditDoc::default() };
    macro_rules! pick {
        ($($($key:ident).+),*) => { $(doc.$($key).+ = pick(below.$($key).+, above.$($key).+, sources);)* };
    }
    pick!(file, stdout, syslog, journald, naming, level, on_full, fsync, chain);
    doc.otlp = match above.otlp.endpoint.is_some() {
        // The headers of one collector are not sent to another.
        true => above.otlp,
        false => OtlpDoc {
            endpoint: below.otlp.endpoint,
            protocol: pick(below.otlp.protocol, above.otlp.protocol, sources),
            headers_file: pick(below.otlp.headers_file, above.otlp.headers_file, sources),
        },
    };
    for (name, at) in above.numbers {
        let held = pick(doc.numbers.remove(name), Some(at), sources);
        doc.numbers.extend(held.map(|at| (name, at)));
    }
    for (name, at) in above.metadata {
        let held = pick(doc.metadata.remove(&name), Some(at), sources);
        doc.metadata.extend(held.map(|at| (name, at)));
    }
    Some(doc)
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
            Some(old) if layer_of(sources, &old.place) < layer_of(sources, &entry.place) => {
                diagnostics.extend(overridden(&pattern, &entry, old, sources));
            }
            Some(old) => {
                diagnostics.extend(overridden(&pattern, old, &entry, sources));
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

/// What to say where one layer's entry replaces another's: an allow over a deny, or a deny over an allow.
fn overridden(pattern: &str, weak: &DomainEntry, strong: &DomainEntry, sources: &[SourceFile]) -> Option<Diagnostic> {
    let (weak_layer, strong_layer) = (layer_of(sources, &weak.place), layer_of(sources, &strong.place));
    if weak_layer == strong_layer {
        return None;
    }
    let label = format!("the {strong_layer} layer is the stronger one");
    match (weak.access?, strong.access?) {
        (Access::Deny, Access::Allow | Access::ReadOnly) => {
            let message = format!("`{pattern}` is allowed here although the {weak_layer} layer denies it");
            let warning = Diagnostic::warning(Code::OverridesDeny, message, strong.place.clone()).with_label(label);
            let help = format!("remove this entry to keep the deny, or the deny of the {weak_layer} layer");
            Some(warning.and(weak.place.clone(), "denied here").with_help(help))
        }
        (Access::Allow | Access::ReadOnly, Access::Deny) => {
            let message = format!("`{pattern}` is allowed here and never acts: the {strong_layer} layer denies it");
            let warning = Diagnostic::warning(Code::NeverActs, message, weak.place.clone());
            Some(
                warning
                    .and(strong.place.clone(), format!("denied here; {label}"))
                    .with_help("remove this entry: a stronger deny cannot be lifted from here"),
            )
        }
        _ => None,
    }
}

fn merge_sockets(below: Vec<SocketEntry>, above: Vec<SocketEntry>, sources: &[SourceFile]) -> Vec<SocketEntry> {
    let mut merged = below;
    let mut index: HashMap<String, usize> = merged.iter().enumerate().map(|(at, entry)| (entry.path.clone(), at)).collect();
    for entry in above {
        match index.get(&entry.path).and_then(|at| merged.get_mut(*at)) {
            Some(old) if layer_of(sources, &old.place) < layer_of(sources, &entry.place) => {}
            Some(old) => *old = entry,
            None => {
                index.insert(entry.path.clone(), merged.len());
                merged.push(entry);
            }
        }
    }
    merged
}

fn merge_mitm(below: MitmDoc, above: MitmDoc, sources: &[SourceFile]) -> MitmDoc {
    MitmDoc {
        mode: pick(below.mode, above.mode, sources),
        bypass: pick(below.bypass, above.bypass, sources),
        dangerously_bypass_read_only: pick(below.dangerously_bypass_read_only, above.dangerously_bypass_read_only, sources),
        client_certificates: pick(below.client_certificates, above.client_certificates, sources),
        ca_cert_path: pick(below.ca_cert_path, above.ca_cert_path, sources),
        ca_key_path: pick(below.ca_key_path, above.ca_key_path, sources),
        max_body_bytes: pick(below.max_body_bytes, above.max_body_bytes, sources),
        hooks: merge_named(below.hooks, above.hooks, |hook: &HookDoc| &hook.name, sources),
        actions: merge_named(below.actions, above.actions, |action: &ActionDoc| &action.name, sources),
    }
}

/// By name, whole; what is above comes first, and of one name the stronger layer's holds.
pub(crate) fn merge_named<T>(below: Vec<T>, above: Vec<T>, name: impl Fn(&T) -> &At<String>, sources: &[SourceFile]) -> Vec<T> {
    let beats = |a: &T, b: &T| name(a).value == name(b).value && layer_of(sources, &name(a).place) < layer_of(sources, &name(b).place);
    let above: Vec<T> = above.into_iter().filter(|new| !below.iter().any(|old| beats(old, new))).collect();
    let kept: Vec<T> = below.into_iter().filter(|old| !above.iter().any(|new| name(new).value == name(old).value)).collect();
    above.into_iter().chain(kept).collect()
}
