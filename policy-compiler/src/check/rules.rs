//! Rules of the layers, of presets and of domain lists, those that requirements demand, and which of them never act.

use super::denies::{Cover, Denies};
use super::listed::{Listed, Lists};
use super::lists::{self, ListSummary, ShowProgress};
use crate::diagnostic::{Code, Diagnostic, Place, Severity};
use crate::presets::{self, PRESETS};
use crate::schema::{At, DomainEntry, NetworkDoc, nearest_of};
use crate::source::{Lines, SourceFile};
use crate::suffix::{self, Width};
use policy_format::{Access, Host, Hosts, HostsRef, Layer, MAX_HOOKS, MAX_NAME, Mode, Profiles, READING, RuleInput, RuleSet, Source};
use std::collections::HashMap;

/// All rules: those of layers and presets, and those of lists.
pub(super) fn rules(
    network: &NetworkDoc,
    demanded: Vec<DomainEntry>,
    sources: &[SourceFile],
    lines: &Lines,
    progress: ShowProgress<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> (Vec<RuleInput>, RuleSet, Vec<ListSummary>) {
    let mut rules = Vec::with_capacity(network.domains.len() + demanded.len());
    // Which rule is which entry, for what is said about it.
    let mut places: Vec<Place> = Vec::new();
    for entry in network.domains.iter().chain(&demanded) {
        let Some(access) = entry.access else { continue };
        let Some(source) = sources.get(entry.place.source.0) else { continue };
        places.push(entry.place.clone());
        rules.push(RuleInput {
            hosts: entry.pattern.hosts.clone(),
            ports: entry.ports.clone(),
            access,
            methods: entry.methods.clone(),
            paths: entry.paths.clone(),
            reason: entry.reason.clone(),
            source: Source { layer: source.layer, label: source.label().to_owned() },
            line: lines.line(&entry.place),
            profiles: Profiles::default(),
        });
    }
    add_presets(network, sources, &mut rules, diagnostics);
    let lists = network.domain_lists.as_ref().map(|lists| lists.value.as_slice()).unwrap_or_default();
    let (listed, summaries) = lists::read(lists, sources, progress, diagnostics);
    // What is wrong may be what covers a rule: first things first.
    if diagnostics.iter().all(|diagnostic| diagnostic.severity == Severity::Warning) {
        never_acting(&rules, &listed, &places, network, diagnostics);
        idle_hooks(&rules, &listed, network, diagnostics);
    }
    wide_wildcards(&rules, &places, diagnostics);
    let mut all = RuleSet::new();
    for list in listed {
        if let Err(error) = all.append(list.into_rules()) {
            diagnostics.push(Diagnostic::general(Code::TooLarge, error.to_string()));
            break;
        }
    }
    (rules, all, summaries)
}

/// A preset's patterns, except those of which a layer that is at least as strong as the preset's says something itself.
fn add_presets(network: &NetworkDoc, sources: &[SourceFile], rules: &mut Vec<RuleInput>, diagnostics: &mut Vec<Diagnostic>) {
    let layer_of = |place: &Place| sources.get(place.source.0).map_or(Layer::Project, |source| source.layer);
    let mut said: HashMap<String, Layer> = HashMap::new();
    if network.presets.as_ref().is_some_and(|presets| !presets.value.is_empty()) {
        for entry in &network.domains {
            said.insert(entry.pattern.to_string(), layer_of(&entry.place));
        }
    }
    let mut named: HashMap<&str, usize> = HashMap::new();
    for name in network.presets.iter().flat_map(|presets| &presets.value) {
        let layer = layer_of(&name.place);
        let Some(preset) = presets::find(&name.value) else {
            diagnostics.push(unknown_preset(name));
            continue;
        };
        let times = named.entry(preset.name).or_default();
        *times += 1;
        if *times > 1 {
            // Said of the second, and not of a thousand more.
            if *times == 2 {
                let message = format!("the preset `{}` is there more than once, and counts once", preset.name);
                let warning = Diagnostic::warning(Code::NoEffect, message, name.place.clone());
                diagnostics.push(warning.with_help("name it once"));
            }
            continue;
        }
        for entry in preset.patterns() {
            if said.get(&entry.pattern.to_string()).is_some_and(|other| *other <= layer) {
                continue;
            }
            let source = Source { layer, label: format!("preset {}", preset.name) };
            rules.push(RuleInput::new(entry.pattern, preset.access(), source, entry.line));
        }
    }
}

fn unknown_preset(name: &At<String>) -> Diagnostic {
    let names = PRESETS.map(|preset| preset.name);
    let mut error =
        Diagnostic::error(Code::UnknownPreset, format!("there is no preset `{}`", name.value.escape_debug()), name.place.clone());
    match nearest_of(&name.value, &names) {
        Some(near) => error.did_you_mean(&format!("\"{near}\"")),
        None => error.help = Some(format!("these are there: {}", names.map(|name| format!("`{name}`")).join(", "))),
    }
    error
}

/// Warns of allows under which anybody can register a name. What denies may be as wide as it likes.
fn wide_wildcards(rules: &[RuleInput], places: &[Place], diagnostics: &mut Vec<Diagnostic>) {
    for (rule, place) in rules.iter().zip(places).filter(|(rule, _)| rule.access != Access::Deny) {
        let Some(suffix) = suffix::wider_than_public_suffix(&rule.hosts) else { continue };
        let (hosts, base) = (&rule.hosts, &suffix.base);
        let message = match &suffix.width {
            Width::IsSuffix { icann: true } => format!("`{hosts}` allows every site that is registered under `{base}`"),
            Width::IsSuffix { icann: false } => format!("`{hosts}` allows every customer's site: anybody can get a name under `{base}`"),
            Width::AboveSuffixes { example, .. } => {
                format!("`{hosts}` allows other people's sites: anybody can get a name under `{example}`")
            }
            Width::NoSuffix => format!("`{hosts}` allows names under every domain that anybody registers"),
        };
        let warning = Diagnostic::warning(Code::WideWildcard, message, place.clone());
        diagnostics.push(warning.with_help("name the hosts that you mean, or the wildcard below the name that is yours"));
    }
}

/// Warns of entries that never decide anything: allows of which a deny takes all, and names that nobody can send.
fn never_acting(rules: &[RuleInput], lists: &[Listed], places: &[Place], network: &NetworkDoc, diagnostics: &mut Vec<Diagnostic>) {
    let denies = Denies::new(rules, lists);
    let limited = network.mode.as_ref().is_some_and(|mode| mode.value == Mode::Limited);
    let local = network.allow_local_binding.as_ref().is_some_and(|local| local.value);
    for (rule, place) in rules.iter().zip(places) {
        let never = |message: String| Diagnostic::warning(Code::NeverActs, message, place.clone());
        if let Hosts::Subdomains(name) = &rule.hosts
            && name.as_str().len() + 2 > MAX_NAME
        {
            diagnostics.push(never(format!("`{}` never acts: no longer name can be sent", rule.hosts)).with_help("remove it"));
        }
        if rule.access == Access::Deny {
            continue;
        }
        let reads = |method: &String| READING.contains(&method.as_str());
        if (limited || rule.access == Access::ReadOnly) && !rule.methods.is_empty() && !rule.methods.iter().any(reads) {
            let message = format!(
                "`{}` never acts: it is for {}, and read-only lets {} pass",
                rule.hosts,
                rule.methods.join(", "),
                READING.join(", ")
            );
            diagnostics.push(never(message).with_help("set its `access` to \"allow\" and the mode to \"full\", or remove it"));
        }
        if !local && is_below_localhost(&rule.hosts) {
            let message = format!("`{}` never acts: names below localhost have to be named exactly", rule.hosts);
            diagnostics.push(never(message).with_help("name each, such as \"app.localhost\", or set `allow_local_binding = true`"));
        }
        let Some(cover) = denies.cover(rule) else { continue };
        let (deny, source, line, place) = match cover {
            Cover::Rule(index) => {
                let Some(deny) = rules.get(index) else { continue };
                (HostsRef::from(&deny.hosts), &deny.source, deny.line, places.get(index))
            }
            Cover::Listed(deny) => (deny.hosts, &deny.terms.source, deny.line, None),
        };
        let absolute = if source.layer < rule.source.layer { format!(" of the {} layer", source.layer) } else { String::new() };
        let mut warning = never(format!("`{}` is allowed here and never acts: `{deny}`{absolute} denies all of it", rule.hosts));
        match place {
            Some(place) => {
                warning = warning.and(place.clone(), "denied here").with_help("remove it: a deny that matches beats every allow")
            }
            None => warning.help = Some(format!("the deny is in line {line} of {}", source.label)),
        }
        diagnostics.push(warning);
    }
}

/// Wildcards over names that are this machine.
fn is_below_localhost(hosts: &Hosts) -> bool {
    match hosts {
        Hosts::Subdomains(name) | Hosts::ApexAndSubdomains(name) => Host::Name(*name).is_localhost(),
        Hosts::Any | Hosts::Exact(_) | Hosts::Glob(_) | Hosts::Network(_) => false,
    }
}

/// Warns of hooks whose host no rule allows: nothing gets as far as them.
fn idle_hooks(rules: &[RuleInput], lists: &[Listed], network: &NetworkDoc, diagnostics: &mut Vec<Diagnostic>) {
    // A policy without rules says that by itself.
    if rules.is_empty() && lists.iter().all(|list| list.rules().is_empty()) {
        return;
    }
    let allowing = Lists::all(lists.iter().filter(|list| list.access() != Access::Deny));
    // More than a policy may have are an error of their own.
    for hook in network.mitm.hooks.iter().take(MAX_HOOKS) {
        let hosts = &hook.host.value.hosts;
        let host = match hosts {
            Hosts::Exact(name) => Host::Name(*name),
            Hosts::Network(network) => Host::Ip(network.addr()),
            // Of a wildcard, one name may be allowed.
            Hosts::Any | Hosts::Subdomains(_) | Hosts::ApexAndSubdomains(_) | Hosts::Glob(_) => continue,
        };
        let allowed = rules.iter().any(|rule| rule.access != Access::Deny && rule.hosts.matches(&host));
        if !allowed && allowing.around(hosts.into()).is_none() {
            let message = format!("no rule allows `{host}`: its hook `{}` has nothing to look at", hook.name.value);
            let warning = Diagnostic::warning(Code::NoEffect, message, hook.host.place.clone());
            diagnostics
                .push(warning.with_help(format!("add `\"{host}\" = \"allow\"` under `domains`: a hook only narrows what is allowed")));
        }
    }
}
