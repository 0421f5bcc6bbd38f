//! The smallest edit that turns an answer into the other one.
//!
//! Nothing is proposed that was not tried: an edit is made to the layers in memory (or, without layers, to the rules of the blob), the result is compiled, and
//! the same question is asked again.

mod narrow;

use crate::profiles::meta;
use crate::source::{Role, SourceFile, is_layers_own, quote};
use crate::{Options, compile, diagnostic::Severity, request::Asked};
use narrow::Also;
use policy_format::net::{is_metadata_address, non_public};
use policy_format::{
    Access, Blob, BlobBuilder, Decision, Hook, Host, Hosts, Layer, Meta, MitmMode, Mode, Network, Pattern, PortRange, ProfileId, Profiles,
    Protocol, Reason, Request, Rule, RuleId, RuleInput, Settings, Source, named_by,
};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// Edits that a change may need, at most.
const MAX_EDITS: usize = 6;

/// What has to be done for the other answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These edits together, each tried.
    Edits(Vec<Edit>),
    /// The administrator's word: no weaker layer can change this.
    Only {
        /// The layer that can.
        layer: Layer,
        /// Where it says so: `managed requirements.toml:3`. Of a policy whose layers are not at hand, its files that have rules; none where there are none.
        place: String,
    },
    /// There is no such edit; why.
    None(String),
}

/// One edit of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The layer.
    pub layer: Layer,
    /// Its file, as it was given; as the policy names it when only that is at hand.
    pub file: String,
    /// What is done.
    pub kind: EditKind,
    /// What it opens beside the request, where its line does not show that: `POST /a`.
    pub also_opens: Vec<String>,
}

/// What an edit does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditKind {
    /// Lines are added to a table.
    Add {
        /// The table, with its brackets.
        table: String,
        /// The line.
        toml: String,
    },
    /// A line reads otherwise.
    Replace {
        /// Its number, from 1.
        line: u32,
        /// What it is.
        before: String,
        /// What it should be.
        after: String,
    },
    /// A line goes.
    Remove {
        /// Its number, from 1.
        line: u32,
        /// What it is; empty when the file is not at hand.
        before: String,
    },
    /// A rule's access becomes another; for policies whose files are not at hand.
    Access {
        /// The line, from 1.
        line: u32,
        /// The rule's pattern.
        pattern: String,
        /// What it should be.
        access: Access,
    },
    /// A rule is for more methods or paths; for policies whose files are not at hand.
    Widen {
        /// The line, from 1.
        line: u32,
        /// The rule's pattern.
        pattern: String,
        /// The methods that come to it.
        methods: Vec<String>,
        /// The paths that come to it.
        paths: Vec<String>,
    },
}

impl Edit {
    fn new(layer: Layer, file: &str, kind: EditKind) -> Self {
        Self { layer, file: file.to_owned(), kind, also_opens: Vec::new() }
    }

    /// The line of the text that was tried: what is added stands below its table's head.
    fn line(&self) -> u32 {
        match &self.kind {
            EditKind::Add { .. } => 2,
            EditKind::Replace { line, .. }
            | EditKind::Remove { line, .. }
            | EditKind::Access { line, .. }
            | EditKind::Widen { line, .. } => *line,
        }
    }
}

/// What a policy was made from: where edits are tried.
#[derive(Debug, Clone)]
pub enum Origin {
    /// Its layers, strongest first, and the profile that was asked for.
    Layers(Vec<SourceFile>, Option<String>),
    /// Nothing but the policy itself.
    Policy(Box<Parts>),
}

/// A policy taken apart.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Of all profiles, in the order of their numbers.
    profiles: Vec<Meta>,
    /// The profile that is asked.
    profile: ProfileId,
    rules: Vec<(RuleInput, Rule)>,
    hooks: Vec<Hook>,
    sources: Vec<Source>,
    /// Of each profile: what hooks ask of bodies, and whose TLS stays closed, stand there.
    settings: Vec<Settings>,
}

impl Parts {
    /// The part of a policy that the answer to a question depends on: its settings, its hooks, and the rules that name the host or its addresses, of which there are
    /// few however many rules there are. `None` if one of them cannot be written.
    pub fn new<B: AsRef<[u8]>>(policy: &Blob<B>, asked: &Asked, addresses: &[IpAddr]) -> Option<Self> {
        let mut ids: BTreeSet<RuleId> = named_by(policy, &asked.request(&[])).into_iter().map(|named| named.rule).collect();
        for ip in addresses {
            let host = Host::Ip(*ip);
            ids.extend(named_by(policy, &Request { host: &host, ..asked.request(&[]) }).into_iter().map(|named| named.rule));
        }
        let rules: Option<Vec<_>> = ids.into_iter().map(|id| policy.rule(id).and_then(|rule| Some((rule_input(&rule)?, rule)))).collect();
        Some(Self {
            profiles: policy.profiles().to_vec(),
            profile: asked.profile,
            rules: rules?,
            hooks: policy.hooks().to_vec(),
            sources: policy.sources().to_vec(),
            settings: (0..).map_while(|number| policy.settings(ProfileId(number)).cloned()).collect(),
        })
    }

    /// What an administrator holds against an edit: layers would refuse or ignore it, and are not at hand.
    fn held(&self, candidate: &Candidate) -> Option<Change> {
        let held = self.settings.get(usize::from(self.profile.0))?.constraints?;
        let layer = match candidate {
            Candidate::Rule(layer, new) if new.access != Access::Deny => held.managed_allows_only.filter(|owner| layer > owner),
            Candidate::Entry(rule, Some(access)) if *access != Access::Deny => held.managed_allows_only.filter(|owner| rule.layer > *owner),
            Candidate::Set(_, Setting::ModeFull) => held.mode_required,
            Candidate::Set(_, Setting::LocalBinding) => held.local_binding_required,
            _ => None,
        }?;
        let own = self.sources.iter().filter(|source| source.layer == layer && is_layers_own(&source.label));
        let files: BTreeSet<String> = own.map(|source| format!("{layer} {}", source.label)).collect();
        Some(Change::Only { layer, place: files.into_iter().collect::<Vec<_>>().join(", ") })
    }

    fn build(&self) -> Option<Blob<Vec<u8>>> {
        let (first, others) = self.profiles.split_first()?;
        let mut builder = BlobBuilder::new(first.clone());
        for meta in others {
            builder.profile(meta.clone());
        }
        for (number, settings) in (0..).zip(&self.settings) {
            builder.settings(ProfileId(number), settings.clone());
        }
        for (rule, _) in &self.rules {
            builder.rule(rule.clone());
        }
        for hook in &self.hooks {
            builder.hook(hook.clone());
        }
        Blob::open(builder.build().ok()?).ok()
    }
}

/// A rule as it is written into a blob.
pub(crate) fn rule_input(rule: &Rule) -> Option<RuleInput> {
    Some(RuleInput {
        hosts: Pattern::parse(&rule.hosts).ok()?.hosts,
        ports: rule.ports.clone(),
        access: rule.access,
        methods: rule.methods.clone(),
        paths: rule.paths.clone(),
        reason: rule.reason.clone(),
        source: Source { layer: rule.layer, label: rule.label.clone() },
        line: rule.line,
        profiles: rule.profiles,
    })
}

/// An edit to try.
#[derive(Debug, Clone)]
enum Candidate {
    /// A rule in the domains of the profile.
    Rule(Layer, Box<NewRule>),
    /// A rule that is there becomes another, or nothing.
    Entry(Box<Rule>, Option<Access>),
    /// A rule that is there is for more.
    Widen(Box<Widened>),
    /// A key of a table that is named from the profile's network table, or from the root.
    Set(Layer, Setting),
}

impl Candidate {
    /// What it opens beside the request.
    fn also_opens(&self) -> &[String] {
        match self {
            Self::Rule(_, new) => &new.also.words,
            Self::Widen(widened) => &widened.also.words,
            Self::Entry(..) | Self::Set(..) => &[],
        }
    }
}

/// A rule that is there, and the method and the path that come to it.
#[derive(Debug, Clone)]
struct Widened {
    rule: Rule,
    method: Option<String>,
    path: Option<String>,
    also: Also,
}

/// A rule to add.
#[derive(Debug, Clone)]
struct NewRule {
    pattern: Pattern,
    access: Access,
    /// Its port, where the key has none: the key that has it may be somebody else's.
    listed_port: Option<u16>,
    /// What may be asked for, where not all may.
    methods: Vec<String>,
    paths: Vec<String>,
    also: Also,
}

impl NewRule {
    fn new(pattern: Pattern, access: Access) -> Self {
        Self { pattern, access, listed_port: None, methods: Vec::new(), paths: Vec::new(), also: Also::default() }
    }

    fn is_narrow(&self) -> bool {
        !(self.methods.is_empty() && self.paths.is_empty())
    }

    /// Whether it is for all of what its key names.
    fn is_whole(&self) -> bool {
        !self.is_narrow() && self.listed_port.is_none()
    }

    /// What stands behind its key.
    fn value(&self) -> String {
        let access = quote(self.access.as_str());
        if self.is_whole() {
            return access;
        }
        let ports = self.listed_port.map(|port| format!(", ports = [{port}]")).unwrap_or_default();
        let list = |name: &str, items: &[String]| {
            let items: Vec<String> = items.iter().map(|item| quote(item)).collect();
            if items.is_empty() { String::new() } else { format!(", {name} = [{}]", items.join(", ")) }
        };
        format!("{{ access = {access}{ports}{}{} }}", list("methods", &self.methods), list("paths", &self.paths))
    }

    fn input(&self, source: Source) -> RuleInput {
        let (methods, paths) = (self.methods.clone(), self.paths.clone());
        let new = RuleInput::new(self.pattern.clone(), self.access, source, 0);
        let ports = self.listed_port.map_or(new.ports, |port| vec![PortRange { first: port, last: port }]);
        RuleInput { methods, paths, ports, ..new }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    ModeFull,
    MitmAuto,
    Enabled,
    Feature,
    LocalBinding,
}

/// Where a setting stands.
#[derive(Debug, Clone, Copy)]
enum Below {
    /// The profile's network table.
    Network,
    /// Its `mitm`.
    Mitm,
    /// `features`.
    Features,
}

impl Setting {
    /// The table, the key and the value.
    fn toml(self) -> (Below, &'static str, &'static str) {
        match self {
            Self::ModeFull => (Below::Network, "mode", "\"full\""),
            Self::MitmAuto => (Below::Mitm, "mode", "\"auto\""),
            Self::Enabled => (Below::Network, "enabled", "true"),
            Self::LocalBinding => (Below::Network, "allow_local_binding", "true"),
            Self::Feature => (Below::Features, "network_proxy", "true"),
        }
    }

    fn apply(self, meta: &mut Meta) {
        match self {
            Self::ModeFull => meta.mode = Mode::Full,
            Self::MitmAuto => meta.mitm.mode = MitmMode::Auto,
            Self::Enabled | Self::Feature => meta.network = Network::Proxied,
            Self::LocalBinding => meta.allow_local_binding = true,
        }
    }
}

/// The edits that give the other answer, or why there are none.
pub fn propose<B: AsRef<[u8]>>(origin: &Origin, policy: &Blob<B>, asked: &Asked, addresses: &[IpAddr]) -> Change {
    let first = asked.decide(policy, addresses);
    let mut edits = Vec::new();
    let mut step = match next(origin, policy, asked, addresses, first) {
        Ok(step) => step,
        Err(change) => return change,
    };
    while edits.len() < MAX_EDITS {
        edits.extend(step.edits);
        if allows(step.decision) != allows(first) {
            return Change::Edits(edits);
        }
        step = match next(&step.origin, &step.policy, asked, addresses, step.decision) {
            Ok(step) => step,
            Err(change) => return change,
        };
    }
    Change::None("several rules and settings are in the way".to_owned())
}

fn allows(decision: Decision) -> bool {
    matches!(decision, Decision::Allow(_))
}

struct Step {
    edits: Vec<Edit>,
    origin: Origin,
    policy: Blob<Vec<u8>>,
    decision: Decision,
}

/// One edit on the way: the first candidate that gives the other answer, or else the first that removes one obstacle.
fn next<B: AsRef<[u8]>>(
    origin: &Origin,
    policy: &Blob<B>,
    asked: &Asked,
    addresses: &[IpAddr],
    decision: Decision,
) -> Result<Step, Change> {
    let (mut progress, mut obstacle): (Option<Step>, Option<Change>) = (None, None);
    for candidate in candidates(origin, policy, asked, addresses, decision) {
        let (edits, changed, made) = match origin.apply(&candidate, policy, asked, addresses) {
            Ok(made) => made,
            Err(in_the_way) => {
                obstacle = obstacle.or(in_the_way);
                continue;
            }
        };
        if matches!(&candidate, Candidate::Rule(_, new) if new.access != Access::Deny && !narrow::keeps(policy, &made, asked, new)) {
            continue;
        }
        let now = asked.decide(&made, addresses);
        let step = Step { edits, origin: changed, policy: made, decision: now };
        if allows(now) != allows(decision) {
            return Ok(step);
        }
        if progress.is_none() && outcome(policy, decision) != outcome(&step.policy, now) {
            progress = Some(step);
        }
    }
    progress.ok_or_else(|| obstacle.unwrap_or_else(|| stuck(policy, asked, decision)))
}

/// A decision without the numbers of its rules, which differ from policy to policy.
fn outcome<B: AsRef<[u8]>>(policy: &Blob<B>, decision: Decision) -> (Option<Reason>, Option<String>) {
    let (reason, rule) = match decision {
        Decision::Allow(allowed) => (None, Some(allowed.rule)),
        Decision::Deny(denied) => (Some(denied.reason), denied.rule),
    };
    (reason, rule.and_then(|id| policy.rule(id)).map(|rule| format!("{} {rule} {}", rule.access, rule.place())))
}

fn stuck<B: AsRef<[u8]>>(policy: &Blob<B>, asked: &Asked, decision: Decision) -> Change {
    let Decision::Deny(denied) = decision else { return Change::None("a stronger layer allows it".to_owned()) };
    if let Some(rule) = denied.rule.and_then(|id| policy.rule(id))
        && !is_writable(rule.layer)
    {
        return Change::Only { layer: rule.layer, place: rule.place() };
    }
    let is_refused_for_it = match denied.reason {
        Reason::NotAllowed => true,
        Reason::MitmRequired => denied.rule.is_some(),
        Reason::NotAllowedLocal => !allows(asked.decide(policy, &[])),
        _ => false,
    };
    if let Some(why) = narrow::in_the_way(policy, asked, denied.reason).filter(|_| is_refused_for_it) {
        return Change::None(why);
    }
    Change::None(match (&asked.host, denied.reason) {
        (Host::NumericLookalike(_), _) => {
            "no rule can allow a number that some programs read as an address; ask for the address in full".to_owned()
        }
        (host, Reason::MitmRequired) if policy.is_hooked(asked.profile, host) && asked.protocol == Protocol::Http => {
            "the host has hooks, which act inside TLS: ask by `https://`".to_owned()
        }
        (_, Reason::MitmHookDenied) => "a hook that matches it would let it pass: see `mitm.hooks`".to_owned(),
        (host, Reason::MitmRequired) if policy.is_hooked(asked.profile, host) => {
            "the host has hooks, which act inside TLS, and this tunnel cannot be opened".to_owned()
        }
        (_, Reason::ProxyDisabled) => "the network is switched off by something that no single setting changes".to_owned(),
        _ => "no single rule or setting changes it".to_owned(),
    })
}

/// Whether people who use the machine own the layer, not its administrators.
fn is_writable(layer: Layer) -> bool {
    layer >= Layer::Cli
}

fn candidates<B: AsRef<[u8]>>(
    origin: &Origin,
    policy: &Blob<B>,
    asked: &Asked,
    addresses: &[IpAddr],
    decision: Decision,
) -> Vec<Candidate> {
    let layers = origin.layers();
    let add = |new: Option<NewRule>| -> Vec<Candidate> {
        let each = new.into_iter().flat_map(|new| layers.iter().map(move |layer| (*layer, Box::new(new.clone()))));
        each.map(|(layer, new)| Candidate::Rule(layer, new)).collect()
    };
    let rules = |pattern: Option<Pattern>, access| add(pattern.map(|pattern| NewRule::new(pattern, access)));
    let settings = |setting| layers.iter().map(|layer| Candidate::Set(*layer, setting)).collect::<Vec<_>>();
    let (host, port) = (&asked.host, asked.port);
    let Decision::Deny(denied) = decision else {
        return [rules(pattern(host, None), Access::Deny), rules(pattern(host, Some(port)), Access::Deny)].concat();
    };
    let rule = denied.rule.and_then(|id| policy.rule(id));
    let writable = rule.clone().filter(|rule| is_writable(rule.layer)).map(Box::new);
    let narrow = narrow::rules(policy, asked);
    // Whether nothing may be offered but what was asked for.
    let is_narrow = !narrow.is_empty() && narrow::seen(asked).is_some();
    let allow = |needs_port: bool| {
        if is_narrow {
            return narrow::candidates(policy, asked, &narrow, &layers);
        }
        // A rule that is there keeps its ports; what is added speaks of the port that is missing.
        if !needs_port && matches!(port, 80 | 443) && !names_exactly(policy, asked) {
            return rules(pattern(host, None), Access::Allow);
        }
        let listed = pattern(host, None).map(|pattern| NewRule { listed_port: Some(port), ..NewRule::new(pattern, Access::Allow) });
        [rules(pattern(host, Some(port)), Access::Allow), add(listed)].concat()
    };
    match denied.reason {
        Reason::ProxyDisabled => [settings(Setting::Enabled), settings(Setting::Feature)].concat(),
        Reason::Denied => {
            let names_the_host = |rule: &Rule| rule.hosts == host.to_string() || addresses.iter().any(|ip| rule.hosts == ip.to_string());
            let exact = writable.clone().filter(|rule| names_the_host(rule)).map(|rule| Candidate::Entry(rule, Some(Access::Allow)));
            writable.map(|rule| Candidate::Entry(rule, None)).into_iter().chain(exact).collect()
        }
        Reason::NotAllowedLocal => {
            let resolved = addresses.iter().find(|ip| {
                let closed = non_public(**ip).is_some() || is_metadata_address(**ip);
                closed && !allows(asked.decide(policy, &[**ip]))
            });
            let named = match resolved {
                Some(ip) if allows(asked.decide(policy, &[])) => rules(pattern(&Host::Ip(*ip), Some(port)), Access::Allow),
                _ if is_narrow => return allow(true),
                _ => allow(true),
            };
            [named, settings(Setting::LocalBinding)].concat()
        }
        Reason::NotAllowed => allow(false),
        Reason::MethodNotAllowed | Reason::MitmRequired => {
            let change = match &rule {
                None => settings(if meta(policy, asked.profile).mode == Mode::Limited { Setting::ModeFull } else { Setting::MitmAuto }),
                Some(rule) => {
                    let to = (rule.access != Access::Deny).then_some(Access::Allow);
                    // What cannot be read no narrow rule lets pass.
                    let is_read =
                        denied.reason == Reason::MethodNotAllowed || !narrow.iter().any(|rule| narrow::speaks_of_port(rule, port));
                    let others = if is_read { allow(false) } else { Vec::new() };
                    writable.map(|rule| Candidate::Entry(rule, to)).into_iter().chain(others).collect()
                }
            };
            let hooked = denied.reason == Reason::MitmRequired && policy.is_hooked(asked.profile, host);
            if hooked { Vec::new() } else { change }
        }
        Reason::MitmHookDenied | Reason::PolicyDenied => Vec::new(),
    }
}

/// Whether a rule is for this very host.
fn names_exactly<B: AsRef<[u8]>>(policy: &Blob<B>, asked: &Asked) -> bool {
    let exact = asked.host.to_string();
    let mut named = named_by(policy, &asked.request(&[])).into_iter().filter_map(|named| policy.rule(named.rule));
    named.any(|rule| rule.hosts == exact)
}

fn pattern(host: &Host, port: Option<u16>) -> Option<Pattern> {
    let hosts = match host {
        Host::Name(name) => Hosts::Exact(*name),
        Host::Ip(ip) => Hosts::Network(policy_format::net::Network::single(*ip)),
        Host::NumericLookalike(_) => return None,
    };
    Some(Pattern { hosts, port })
}

type Made = (Vec<Edit>, Origin, Blob<Vec<u8>>);
/// The edited layers, the edits, and the index of the source that has them.
type Edited = (Vec<Edit>, Vec<SourceFile>, usize);

impl Origin {
    /// The layers that an edit may go to, the stronger first; the command line is the last resort.
    fn layers(&self) -> Vec<Layer> {
        let given = |layer: Layer| match self {
            Self::Layers(sources, _) => sources.iter().any(|source| source.layer == layer && source.role == Role::Config),
            Self::Policy(parts) => parts.sources.iter().any(|source| source.layer == layer),
        };
        let mut layers: Vec<Layer> = [Layer::User, Layer::Project].into_iter().filter(|layer| given(*layer)).collect();
        if layers.is_empty() {
            layers.push(Layer::User);
        }
        layers.push(Layer::Cli);
        layers
    }

    /// Makes the edits; `Err` when they cannot be made, with what is in the way if that is known.
    fn apply<B: AsRef<[u8]>>(
        &self,
        candidate: &Candidate,
        policy: &Blob<B>,
        asked: &Asked,
        addresses: &[IpAddr],
    ) -> Result<Made, Option<Change>> {
        let profile = &meta(policy, asked.profile).profile;
        let also_opens = match candidate {
            // All of what the rule names, beside rules for some of it.
            Candidate::Entry(rule, Some(Access::Allow))
                if !narrow::is_narrow(rule) && narrow::seen(asked).is_some() && !narrow::rules(policy, asked).is_empty() =>
            {
                vec![narrow::EVERYTHING.to_owned()]
            }
            other => other.also_opens().to_vec(),
        };
        let say = |mut edits: Vec<Edit>| {
            if let Some(last) = edits.last_mut() {
                last.also_opens.clone_from(&also_opens);
            }
            edits
        };
        let by_rule = |parts: &Parts| {
            if let Some(only) = parts.held(candidate) {
                return Err(Some(only));
            }
            let (edit, parts) = edit_parts(parts, candidate, profile).ok_or(None)?;
            let made = parts.build().ok_or(None)?;
            Ok((say(vec![edit]), Self::Policy(Box::new(parts)), made))
        };
        match (self, candidate) {
            (Self::Policy(parts), _) => by_rule(parts),
            (Self::Layers(sources, chosen), _) => match (edit_layers(sources, candidate, profile), candidate) {
                (Some((edits, changed, at)), _) => {
                    let made = recompile(changed.clone(), chosen.as_deref(), at, &edits)?;
                    Ok((say(edits), Self::Layers(changed, chosen.clone()), made))
                }
                // The rule stands where no line of its own can be shown.
                (None, Candidate::Widen(_)) => by_rule(&Parts::new(policy, asked, addresses).ok_or(None)?),
                (None, _) => Err(None),
            },
        }
    }
}

/// Compiles edited layers. What a requirement refuses or ignores of the edit names that requirement.
fn recompile(sources: Vec<SourceFile>, profile: Option<&str>, edited: usize, edits: &[Edit]) -> Result<Blob<Vec<u8>>, Option<Change>> {
    let (sources, diagnostics, blob) = match compile(sources, Options { profile, strict: false }) {
        Ok(compiled) => (compiled.sources, compiled.diagnostics, Some(compiled.blob)),
        Err(failure) => (failure.sources, failure.diagnostics, None),
    };
    let in_the_way =
        diagnostics.iter().filter(|diagnostic| blob.is_some() || diagnostic.severity == Severity::Error).find_map(|diagnostic| {
            let [(value, _), (demand, _), ..] = diagnostic.places.as_slice() else { return None };
            let source = sources.get(demand.source.0).filter(|source| source.role == Role::Requirements && value.source.0 == edited)?;
            let line = line_of(sources.get(edited)?.text(), value.span.start);
            let is_ours = edits.iter().any(|edit| edit.line() == line);
            let line = Some(line_of(source.text(), demand.span.start)).filter(|_| is_ours)?;
            Some(Change::Only { layer: source.layer, place: format!("{} {}:{line}", source.layer, source.label()) })
        });
    match (blob, in_the_way) {
        (Some(blob), None) => Blob::open(blob).map_err(|_| None),
        (_, in_the_way) => Err(in_the_way),
    }
}

fn edit_layers(sources: &[SourceFile], candidate: &Candidate, profile: &str) -> Option<Edited> {
    let one = |(edit, changed, at)| (vec![edit], changed, at);
    match candidate {
        Candidate::Rule(layer, new) => {
            let key = new.pattern.to_string();
            let configs = sources.iter().enumerate().filter(|(_, source)| source.role == Role::Config);
            let mut there = configs.filter_map(|(at, source)| Some((at, source.layer, domain_entry(source.text(), profile, &key)?)));
            if new.is_whole() {
                if let Some((at, _, entry)) = there.find(|(_, owner, _)| owner == layer) {
                    return replace(sources, at, &entry, Some(new.access)).map(one);
                }
            } else if there.any(|(_, owner, _)| owner >= *layer) {
                // It would take the place of what is there.
                return None;
            }
            Some(one(add(sources, *layer, &["permissions", profile, "network", "domains"], &quote(&key), &new.value())))
        }
        Candidate::Entry(rule, to) => {
            let own = sources.iter().enumerate().filter(|(_, source)| source.layer == rule.layer && source.label() == rule.label);
            own.filter(|(_, source)| source.role == Role::Config)
                .find_map(|(at, source)| Some((at, rule_entry(source.text(), rule)?)))
                .and_then(|(at, entry)| replace(sources, at, &entry, *to))
                .map(one)
        }
        Candidate::Widen(widened) => widen(sources, &widened.rule, [("methods", &widened.method), ("paths", &widened.path)]),
        Candidate::Set(layer, setting) => {
            let (below, key, value) = setting.toml();
            let mut path = vec!["permissions", profile, "network"];
            match below {
                Below::Network => {}
                Below::Mitm => path.push("mitm"),
                Below::Features => path = vec!["features"],
            }
            Some(one(add(sources, *layer, &path, key, value)))
        }
    }
}

/// A rule that is there is for more: an item behind the last in each of these lists, in one line of its file or in two.
fn widen(sources: &[SourceFile], rule: &Rule, items: [(&str, &Option<String>); 2]) -> Option<Edited> {
    let (mut changed, mut edits, mut place) = (sources.to_vec(), Vec::<Edit>::new(), None);
    for (name, item) in items.into_iter().filter_map(|(name, item)| Some((name, item.as_ref()?))) {
        let mut own = changed.iter().enumerate().filter(|(_, source)| source.layer == rule.layer && source.label() == rule.label);
        let (at, end) =
            own.find_map(|(at, source)| Some((at, rule_entry(source.text(), rule)?.lists.into_iter().find(|(list, _)| *list == name)?.1)))?;
        let (edit, next, at) = rewrite(&changed, at, end..end, &format!(", {}", quote(item)))?;
        (changed, place) = (next, Some(at));
        let same_line = edits.last_mut().filter(|last| last.line() == edit.line());
        match (same_line.map(|last| &mut last.kind), edit.kind) {
            (Some(EditKind::Replace { after, .. }), EditKind::Replace { after: now, .. }) => *after = now,
            (_, kind) => edits.push(Edit { kind, ..edit }),
        }
    }
    edits.sort_by_key(Edit::line);
    Some((edits, changed, place?))
}

/// A key in a table of a layer. What is there is replaced; a table in braces gets it between them; otherwise it goes below the table's head, which is tried as a
/// second file of the same layer that is read before the first.
fn add(sources: &[SourceFile], layer: Layer, path: &[&str], key: &str, value: &str) -> (Edit, Vec<SourceFile>, usize) {
    let own = sources.iter().enumerate().filter(|(_, source)| source.layer == layer && source.role == Role::Config);
    for (at, source) in own {
        let text = source.text();
        let Ok(root) = DeTable::parse(text) else { continue };
        let mut table = Some(root.get_ref());
        for (depth, step) in path.iter().enumerate() {
            let Some((_, found)) = table.and_then(|table| table.get_key_value(*step)) else { break };
            table = found.get_ref().as_table();
            let braces = table.is_some() && text.get(found.span()).is_some_and(|inner| inner.starts_with('{') && inner.ends_with('}'));
            if let Some(table) = table.filter(|_| braces) {
                let rest: Vec<String> = path.iter().skip(depth + 1).map(|step| quote_key(step)).chain([key.to_owned()]).collect();
                let comma = if table.is_empty() { " " } else { ", " };
                let start = found.span().end - 1;
                let trimmed = text.get(..start).map_or(start, |before| before.trim_end().len());
                let inside = format!("{comma}{} = {value} ", rest.join("."));
                if let Some(made) = rewrite(sources, at, trimmed..start, &inside) {
                    return made;
                }
            }
        }
        // Keys of settings stand as they are; the keys of rules were looked for before.
        if let Some((_, found)) = walk(root.get_ref(), path).and_then(|table| table.get_key_value(key))
            && let Some(made) = rewrite(sources, at, found.span(), value)
        {
            return made;
        }
    }
    let is_later = |source: &SourceFile| source.layer > layer || (source.layer == layer && source.role == Role::Config);
    let at = sources.iter().position(is_later).unwrap_or(sources.len());
    let (label, file) = match sources.get(at).filter(|source| source.layer == layer) {
        Some(source) => (source.label().to_owned(), source.shown().to_owned()),
        None if layer == Layer::Cli => ("-c".to_owned(), "-c".to_owned()),
        None => ("config.toml".to_owned(), "config.toml".to_owned()),
    };
    let table = format!("[{}]", path.iter().map(|step| quote_key(step)).collect::<Vec<_>>().join("."));
    let toml = format!("{key} = {value}");
    let mut changed = sources.to_vec();
    changed.insert(at, SourceFile::from_text(layer, Role::Config, &label, format!("{table}\n{toml}\n")).shown_as(&file));
    (Edit::new(layer, &file, EditKind::Add { table, toml }), changed, at)
}

fn walk<'t, 'i>(root: &'t DeTable<'i>, path: &[&str]) -> Option<&'t DeTable<'i>> {
    path.iter().try_fold(root, |table, key| table.get(*key)?.get_ref().as_table())
}

/// Other text in the place of some, within one line.
fn rewrite(sources: &[SourceFile], at: usize, span: Range<usize>, with: &str) -> Option<(Edit, Vec<SourceFile>, usize)> {
    let source = sources.get(at)?;
    let text = source.text();
    let from = text.get(..span.start)?.rfind('\n').map_or(0, |newline| newline + 1);
    let until = text.get(span.end..)?.find('\n').map_or(text.len(), |newline| span.end + newline);
    let (before, line) = (text.get(from..until)?.to_owned(), line_of(text, span.start));
    let after = format!("{}{with}{}", text.get(from..span.start)?, text.get(span.end..until)?);
    let kind = EditKind::Replace { line, before, after: after.clone() };
    Some((Edit::new(source.layer, source.shown(), kind), with_text(sources, at, from..until, &after)?, at))
}

fn with_text(sources: &[SourceFile], at: usize, span: Range<usize>, with: &str) -> Option<Vec<SourceFile>> {
    let mut changed = sources.to_vec();
    let source = changed.get_mut(at)?;
    let text = format!("{}{with}{}", source.text().get(..span.start)?, source.text().get(span.end..)?);
    *source = source.with_text(text);
    Some(changed)
}

/// Where a rule stands in a text.
struct Entry {
    /// The text of its access, with its quotes.
    access: Range<usize>,
    /// Its key.
    key: Range<usize>,
    /// What it asks for: where the last item of each list ends.
    lists: Vec<(&'static str, usize)>,
}

impl Entry {
    fn new(access: Range<usize>, key: Range<usize>, value: &DeValue<'_>) -> Self {
        let list = |name: &'static str| Some((name, value.as_table()?.get(name)?.get_ref().as_array()?.iter().last()?.span().end));
        Self { access, key, lists: ["methods", "paths"].into_iter().filter_map(list).collect() }
    }
}

/// The rule that stands in a line.
fn rule_entry(text: &str, rule: &Rule) -> Option<Entry> {
    let root = DeTable::parse(text).ok()?;
    let mut lines = text.match_indices('\n').map(|(at, _)| at + 1);
    let start = match rule.line.checked_sub(2) {
        Some(skipped) => lines.nth(usize::try_from(skipped).ok()?)?,
        None => 0,
    };
    let end = text.get(start..)?.find('\n').map_or(text.len(), |newline| start + newline);
    find_rule(root.get_ref(), &(start..end), rule)
}

fn find_rule(table: &DeTable<'_>, line: &Range<usize>, rule: &Rule) -> Option<Entry> {
    table.iter().find_map(|(key, value)| {
        let is_there = line.contains(&key.span().start);
        let is_rule =
            || Pattern::parse(key.get_ref()).is_ok_and(|pattern| pattern.hosts.to_string() == rule.hosts && has_ports(&pattern, rule));
        match access_span(value.get_ref(), value.span()) {
            Some(access) if is_there && is_rule() => Some(Entry::new(access, key.span(), value.get_ref())),
            _ => find_rule(value.get_ref().as_table()?, line, rule),
        }
    })
}

fn has_ports(pattern: &Pattern, rule: &Rule) -> bool {
    pattern.port.is_none_or(|port| rule.ports == [PortRange { first: port, last: port }])
}

/// The rule for a pattern in the profile's own domains.
fn domain_entry(text: &str, profile: &str, pattern: &str) -> Option<Entry> {
    let root = DeTable::parse(text).ok()?;
    let table = walk(root.get_ref(), &["permissions", profile, "network", "domains"])?;
    table.iter().find_map(|(key, value)| {
        let found = Pattern::parse(key.get_ref()).ok()?;
        let access = access_span(value.get_ref(), value.span())?;
        (found.to_string() == pattern).then(|| Entry::new(access, key.span(), value.get_ref()))
    })
}

fn access_span(value: &DeValue<'_>, span: Range<usize>) -> Option<Range<usize>> {
    match value {
        DeValue::String(_) => Some(span),
        DeValue::Table(table) => table.get("access").filter(|access| access.get_ref().is_str()).map(|access| access.span()),
        _ => None,
    }
}

fn line_of(text: &str, at: usize) -> u32 {
    let newlines = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count();
    u32::try_from(newlines + 1).unwrap_or(u32::MAX)
}

/// Another access in the place of the old one; a rule that has its line to itself goes with the line.
fn replace(sources: &[SourceFile], at: usize, entry: &Entry, to: Option<Access>) -> Option<(Edit, Vec<SourceFile>, usize)> {
    let source = sources.get(at)?;
    let text = source.text();
    let from = text.get(..entry.access.start)?.rfind('\n').map_or(0, |newline| newline + 1);
    let until = text.get(entry.access.end..)?.find('\n').map_or(text.len(), |newline| entry.access.end + newline);
    let (before, line) = (text.get(from..until)?, line_of(text, entry.access.start));
    let alone = entry.key.start >= from
        && DeTable::parse(before).is_ok_and(|table| {
            let keys: Vec<_> = table.get_ref().iter().collect();
            matches!(keys.as_slice(), [(key, value)] if key.span() == (entry.key.start - from..entry.key.end - from)
            && access_span(value.get_ref(), value.span()).is_some())
        });
    if to.is_none() && alone {
        let kind = EditKind::Remove { line, before: before.to_owned() };
        return Some((Edit::new(source.layer, source.shown(), kind), with_text(sources, at, from..until, "")?, at));
    }
    rewrite(sources, at, entry.access.clone(), &quote(to.map_or("none", Access::as_str)))
}

fn edit_parts(parts: &Parts, candidate: &Candidate, profile: &str) -> Option<(Edit, Parts)> {
    let mut parts = parts.clone();
    let label = |parts: &Parts, layer: Layer| {
        let known = parts.sources.iter().find(|source| source.layer == layer && is_layers_own(&source.label));
        known.map_or_else(|| if layer == Layer::Cli { "-c" } else { "config.toml" }.to_owned(), |source| source.label.clone())
    };
    let edit = match candidate {
        Candidate::Rule(layer, new) => {
            let source = Source { layer: *layer, label: label(&parts, *layer) };
            let input = new.input(source.clone());
            // The stronger layer's word on the same pattern is the only one.
            let same = |rule: &RuleInput| rule.hosts == input.hosts && (rule.ports == input.ports || new.pattern.port.is_none());
            if parts.rules.iter().any(|(rule, _)| same(rule) && (rule.source.layer < *layer || !new.is_whole())) {
                return None;
            }
            parts.rules.retain(|(rule, _)| !same(rule));
            let shown = Blob::open({
                let mut builder = BlobBuilder::new(Meta::default());
                builder.rule(input.clone());
                builder.build().ok()?
            });
            let shown = shown.ok()?.rules().next()?;
            let profiles = Profiles::only(parts.profile);
            parts.rules.push((RuleInput { profiles, ..input }, Rule { profiles, ..shown }));
            let table = format!("[permissions.{}.network.domains]", quote_key(profile));
            let toml = format!("{} = {}", quote(&new.pattern.to_string()), new.value());
            Edit::new(*layer, &source.label, EditKind::Add { table, toml })
        }
        Candidate::Entry(rule, to) => {
            let at = parts.rules.iter().position(|(_, known)| Rule { id: rule.id, ..known.clone() } == **rule)?;
            let kind = match to {
                None => {
                    parts.rules.remove(at);
                    EditKind::Remove { line: rule.line, before: String::new() }
                }
                Some(access) => {
                    parts.rules.get_mut(at)?.0.access = *access;
                    EditKind::Access { line: rule.line, pattern: rule.to_string(), access: *access }
                }
            };
            Edit::new(rule.layer, &rule.label, kind)
        }
        Candidate::Widen(widened) => {
            let Widened { rule, method, path, .. } = widened.as_ref();
            let at = parts.rules.iter().position(|(_, known)| Rule { id: rule.id, ..known.clone() } == *rule)?;
            let (input, _) = parts.rules.get_mut(at)?;
            input.methods.extend(method.clone());
            input.paths.extend(path.clone());
            let (methods, paths) = (method.iter().cloned().collect(), path.iter().cloned().collect());
            let kind = EditKind::Widen { line: rule.line, pattern: rule.to_string(), methods, paths };
            Edit::new(rule.layer, &rule.label, kind)
        }
        Candidate::Set(layer, setting) => {
            setting.apply(parts.profiles.get_mut(usize::from(parts.profile.0))?);
            let (below, key, value) = setting.toml();
            let network = format!("permissions.{}.network", quote_key(profile));
            let table = match below {
                Below::Network => format!("[{network}]"),
                Below::Mitm => format!("[{network}.mitm]"),
                Below::Features => "[features]".to_owned(),
            };
            let line = format!("{key} = {value}");
            Edit::new(*layer, &label(&parts, *layer), EditKind::Add { table, toml: line })
        }
    };
    Some((edit, parts))
}

/// A key as it stands in a table's name or before `=`.
pub(crate) fn quote_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if bare { key.to_owned() } else { quote(key) }
}
