//! The merged document to a `Policy`, collecting every diagnostic.

mod credentials;
mod denies;
mod listed;
mod listeners;
mod lists;
mod mitm;
mod rules;
mod settings;

pub(crate) use listeners::{is_remote, listening_port, split_authority};
pub use lists::{ListSummary, ShowProgress};

use crate::diagnostic::{Code, Diagnostic, Place, Severity};
use crate::merge::{self, Merged};
use crate::policy::Policy;
use crate::schema::{At, DomainEntry, NetworkDoc};
use crate::source::{Lines, SourceFile, layer_of};
use policy_format::{Layer, Meta, Mode, Network, UnixSockets};

/// Makes a policy, and says which domain lists it read; `None` when an error was reported.
pub fn check(
    mut merged: Merged,
    demanded: Vec<DomainEntry>,
    sources: &[SourceFile],
    progress: ShowProgress<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<(Policy, Vec<ListSummary>)> {
    // Taken, not copied: there may be millions of entries.
    let network = merged.network.take().unwrap_or_default();
    let lines = Lines::new(sources);
    let unix_sockets = unix_sockets(&network, diagnostics);
    let (listeners, upstream) = listeners::check(&network, &unix_sockets, sources, diagnostics);
    let mut settings = settings::check(&network, &merged, sources, diagnostics);
    let state = state(&network, &merged, sources, diagnostics);
    let refused = |place: &Place| {
        let about = |diagnostic: &&Diagnostic| diagnostic.code == Code::RequirementViolated;
        diagnostics.iter().filter(about).any(|diagnostic| diagnostic.places.first().is_some_and(|(at, _)| at == place))
    };
    if let Some(place) = merged.unconfined.as_ref().filter(|place| !refused(place)) {
        diagnostics.extend(merge::lifts(&merged.confining, place, sources));
    }
    if state == Network::Direct {
        goes_around(&merged, &network, sources, diagnostics);
    }
    let (rules, listed, lists) = rules::rules(&network, demanded, sources, &lines, progress, diagnostics);
    let mode = network.mode.as_ref().map_or(Mode::Full, |at| at.value);
    let inside = mitm::check(network.mitm.clone(), mode, sources, &lines, diagnostics);
    settings.hook_bodies = inside.bodies;
    settings.bypass_read_only = inside.bypass_read_only;
    settings.client_certificates = inside.client_certificates;
    settings.credentials = credentials::check(&network, sources, diagnostics);
    let (mitm, hooks) = (inside.mitm, inside.hooks);
    let default = Meta::default();
    let meta = Meta {
        profile: merged.profile,
        network: state,
        mode,
        allow_local_binding: or(&network.allow_local_binding, default.allow_local_binding),
        listeners,
        dangerously_allow_non_loopback_proxy: or(
            &network.dangerously_allow_non_loopback_proxy,
            default.dangerously_allow_non_loopback_proxy,
        ),
        dangerously_allow_non_loopback_admin: or(
            &network.dangerously_allow_non_loopback_admin,
            default.dangerously_allow_non_loopback_admin,
        ),
        enable_socks5_udp: or(&network.enable_socks5_udp, default.enable_socks5_udp),
        allow_upstream_proxy: or(&network.allow_upstream_proxy, default.allow_upstream_proxy),
        upstream,
        unix_sockets,
        mitm,
        credential_broker: or(&network.credential_broker, default.credential_broker),
        dangerously_allow_plaintext_credential_injection: or(
            &network.dangerously_allow_plaintext_credential_injection,
            default.dangerously_allow_plaintext_credential_injection,
        ),
    };
    let switches = [
        ("dangerously_allow_plaintext_credential_injection", &network.dangerously_allow_plaintext_credential_injection),
        ("dangerously_pass_credentials_without_broker", &network.dangerously_pass_credentials_without_broker),
    ];
    let without = switches.iter().filter_map(|(key, at)| Some((*key, &at.as_ref().filter(|at| at.value)?.place)));
    let first = network.credentials.first().map(|credential| ("credentials", &credential.name.place));
    for (key, place) in without.chain(first).filter(|_| !meta.credential_broker) {
        let message = format!("`{key}` has no effect: the credential broker is off");
        diagnostics
            .push(Diagnostic::warning(Code::NoEffect, message, place.clone()).with_help("set `credential_broker = true`, or remove it"));
    }
    let failed = diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    (!failed).then(|| (Policy::new(meta, settings, rules, listed, hooks), lists))
}

fn or(value: &Option<At<bool>>, default: bool) -> bool {
    value.as_ref().map_or(default, |at| at.value)
}

/// Direct connections do not meet what a requirement says of them; whoever is stronger than the requirement may choose them.
fn goes_around(merged: &Merged, network: &NetworkDoc, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) {
    let switch =
        merged.unconfined.as_ref().or(merged.feature.as_ref().map(|at| &at.place)).or(network.enabled.as_ref().map(|at| &at.place));
    let (Some((demand, what)), Some(switch)) = (&merged.needs_proxy, switch) else { return };
    let layer = layer_of(sources, demand);
    if layer_of(sources, switch) < layer {
        return;
    }
    let message = format!("clients would connect directly, around {what} that the {layer} layer requires");
    let error = Diagnostic::error(Code::RequirementViolated, message, switch.clone()).with_label("the switch");
    diagnostics.push(
        error
            .and(demand.clone(), "required here")
            .with_help("set `features.network_proxy = true` and choose a profile whose network is on"),
    );
}

fn unix_sockets(network: &NetworkDoc, diagnostics: &mut Vec<Diagnostic>) -> UnixSockets {
    // What is denied stays closed by whatever path it is asked for; but of sockets that are all open, nobody can say which others lead to the same service.
    if let Some(all) = network.dangerously_allow_all_unix_sockets.as_ref().filter(|all| all.value) {
        for denied in network.unix_sockets.iter().filter(|entry| entry.allow == Some(false)) {
            let message = format!("all unix sockets are allowed here, although `{}` is denied", denied.path);
            let error = Diagnostic::error(Code::InvalidValue, message, all.place.clone()).and(denied.place.clone(), "denied here");
            diagnostics.push(error.with_help("remove `dangerously_allow_all_unix_sockets`, and name the sockets"));
        }
    }
    let that = |allow: bool| {
        let mut paths: Vec<String> =
            network.unix_sockets.iter().filter(|entry| entry.allow == Some(allow)).map(|entry| entry.path.clone()).collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    };
    let dangerously_allow_all = or(&network.dangerously_allow_all_unix_sockets, false);
    UnixSockets { allow: that(true), dangerously_allow_all, deny: that(false) }
}

/// Whether the network is proxied, blocked or direct; rules under a switch that is off are worth a warning.
fn state(network: &NetworkDoc, merged: &Merged, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) -> Network {
    let first_rule = network.domains.first().map(|entry| entry.place.clone());
    let off = |message: String, place| Diagnostic::warning(Code::SwitchedOff, message, place);
    match (&network.enabled, &merged.feature) {
        (Some(enabled), _) if !enabled.value => {
            if let Some(rule) = first_rule {
                let message = "the network is switched off: its rules have no effect".to_owned();
                diagnostics.push(
                    off(message, enabled.place.clone())
                        .with_label("the switch")
                        .and(rule, "such as this one")
                        .with_help("set `enabled = true`, or remove the rules"),
                );
            }
            Network::Blocked
        }
        (None, _) => {
            if let Some(rule) = first_rule {
                let profile = &merged.profile;
                let message = format!("the network of profile `{profile}` is not switched on: its rules have no effect");
                let help = format!("add `enabled = true` under `[permissions.{profile}.network]`");
                diagnostics.push(off(message, rule).with_label("such as this one").with_help(help));
            }
            Network::Blocked
        }
        (Some(enabled), feature) => {
            if let (Some(place), Some(feature)) = (&merged.unconfined, feature.as_ref().filter(|feature| feature.value))
                && layer_of(sources, &feature.place) < layer_of(sources, place)
            {
                let layer = layer_of(sources, &feature.place);
                let message = format!("full access would go around the proxy that the {layer} layer switches on");
                let error =
                    Diagnostic::error(Code::RequirementViolated, message, place.clone()).and(feature.place.clone(), "switched on here");
                diagnostics.push(error.with_help("remove it: a weaker layer cannot lift what this one confines"));
                return Network::Direct;
            }
            if let Some(place) = &merged.unconfined {
                let message = "full access: clients connect directly, and no rule has an effect".to_owned();
                let help = "choose a profile with a network table, or `sandbox_mode = \"workspace-write\"`";
                diagnostics.push(off(message, place.clone()).with_label("the switch").with_help(help));
                return Network::Direct;
            }
            // The strongest layer that has the network on, or rules for it.
            let rules = network.domains.iter().map(|entry| &entry.place);
            let owner = rules.chain([&enabled.place]).map(|place| layer_of(sources, place)).min().filter(|layer| *layer < Layer::Project);
            match feature.as_ref().filter(|feature| !feature.value) {
                // Who writes a network that is on without a word of the feature has it on; what comes with a repository does not take it away.
                Some(feature) if layer_of(sources, &feature.place) == Layer::Project && owner.is_some() => {
                    let layer = owner.unwrap_or(Layer::Project);
                    let message =
                        format!("`features.network_proxy` is not switched off: the {layer} layer has the network on, with its rules");
                    let warning = Diagnostic::warning(Code::IgnoredEntry, message, feature.place.clone());
                    let warning = warning.with_label("ignored").and(enabled.place.clone(), "the network is on");
                    diagnostics.push(warning.with_help(format!("remove it, or switch it off in the {layer} layer")));
                    Network::Proxied
                }
                Some(feature) => {
                    let message = "`features.network_proxy` is off: clients connect directly, and no rule has an effect".to_owned();
                    let warning = off(message, feature.place.clone()).with_label("the switch");
                    let help = "set `network_proxy = true`, or `enabled = false` if nothing may connect";
                    diagnostics.push(warning.and(enabled.place.clone(), "the network is on").with_help(help));
                    Network::Direct
                }
                None => Network::Proxied,
            }
        }
    }
}
