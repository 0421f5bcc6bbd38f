//! Why a policy answers as it does: the rule that decides, the rules that it beats, and the smallest edit that would change the answer.
//!
//! The verdict is [`policy_format::decide()`]'s, the function that the data plane asks; nothing here decides anything a second time.

use crate::change::{Change, Edit, EditKind, Origin, Parts, propose};
use crate::presets;
use crate::profiles::{Profile, UnknownProfile, choose, meta};
use crate::request::Asked;
use crate::source::SourceFile;
use policy_format::net::{is_metadata_address, is_metadata_name, non_public};
use policy_format::path::has_one_reading;
use policy_format::{
    Access, Blob, Decision, HTTPS_PORT, Hook, Host, Meta, MitmMode, Mode, Network, Pattern, ProfileId, Protocol, Reason, Request, Rule,
    RuleId, RuleKind, SectionKind, named_by,
};
use std::fmt;
use std::net::IpAddr;

/// Rules of one standing that are shown; the rest is counted.
const MAX_SHOWN: usize = 20;
/// Characters of a line that are shown.
const MAX_LINE: usize = 160;

/// A policy, with what it was made from if that is at hand.
#[derive(Debug)]
pub struct Subject {
    policy: Blob<Vec<u8>>,
    profile: ProfileId,
    origin: Option<Origin>,
}

impl Subject {
    /// A policy and the layers that it was compiled from, strongest first, with the profile that was asked for.
    #[must_use]
    pub fn with_layers(policy: Blob<Vec<u8>>, sources: Vec<SourceFile>, profile: Option<String>) -> Self {
        Self { policy, profile: ProfileId::default(), origin: Some(Origin::Layers(sources, profile)) }
    }

    /// A policy by itself, of which the default profile is asked.
    #[must_use]
    pub fn bare(policy: Blob<Vec<u8>>) -> Self {
        Self { policy, profile: ProfileId::default(), origin: None }
    }

    /// A policy by itself, of which the profile of that name is asked, or the default.
    ///
    /// # Errors
    /// [`UnknownProfile`] when the policy has none of that name.
    pub fn bare_profile(policy: Blob<Vec<u8>>, name: Option<&str>) -> Result<Self, UnknownProfile> {
        Ok(Self { profile: choose(&policy, name)?, policy, origin: None })
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Blob<Vec<u8>> {
        &self.policy
    }

    /// The profile that is asked.
    #[must_use]
    pub fn profile(&self) -> Profile<'_, Vec<u8>> {
        Profile::new(&self.policy, self.profile)
    }

    /// The question, put to the profile that is asked.
    pub(crate) fn ask(&self, asked: &Asked) -> Asked {
        Asked { profile: self.profile, ..asked.clone() }
    }

    fn sources(&self) -> &[SourceFile] {
        match &self.origin {
            Some(Origin::Layers(sources, _)) => sources,
            _ => &[],
        }
    }
}

/// A rule, and its line as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownRule {
    /// The rule.
    pub rule: Rule,
    /// The text of its line, when its file is at hand.
    pub text: Option<String>,
}

/// How a rule that names the host stands to the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It applies, and another decides.
    Beaten,
    /// It allows the host, and that is not enough.
    NotEnough,
    /// It does not apply to this request.
    NotInPlay,
}

/// A rule that names the host and does not decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// The rule.
    pub rule: Rule,
    /// How it stands.
    pub standing: Standing,
    /// Why.
    pub why: String,
}

/// An answer and its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What was asked, as the data plane is asked it.
    pub request: String,
    /// How it is asked.
    pub protocol: Protocol,
    /// Whether it may go on.
    pub allowed: bool,
    /// Whether only reading may go on.
    pub read_only: bool,
    /// Why it may not.
    pub reason: Option<Reason>,
    /// The same in words, where no rule says it.
    pub why: Option<String>,
    /// Whether the tunnel goes on only if its TLS is opened, so that each request inside is decided.
    pub intercept: bool,
    /// The hook that matches a request inside TLS.
    pub hook: Option<Hook>,
    /// The rule that decides.
    pub rule: Option<ShownRule>,
    /// The resolved address that decides.
    pub address: Option<IpAddr>,
    /// The other rules that name the host, the closest first.
    pub others: Vec<Other>,
    /// What to know beside the answer.
    pub notes: Vec<String>,
    /// What would change the answer.
    pub change: Change,
}

/// Explains a policy's answer. `addresses` are what the host resolves to; none when that is not known.
#[must_use]
pub fn explain(subject: &Subject, asked: &Asked, addresses: &[IpAddr]) -> Explanation {
    let (policy, asked) = (&subject.policy, &subject.ask(asked));
    let addresses = if matches!(asked.host, Host::Name(_)) { addresses } else { &[] };
    let mut explanation = verdict(subject, asked, addresses);
    explanation.change = match &subject.origin {
        Some(origin) => propose(origin, policy, asked, addresses),
        None => match Parts::new(policy, asked, addresses) {
            Some(parts) => propose(&Origin::Policy(Box::new(parts)), policy, asked, addresses),
            None => Change::None("the policy has a rule that cannot be written".to_owned()),
        },
    };
    explanation
}

/// The explanation without a change: what a failed test shows.
#[must_use]
pub fn verdict(subject: &Subject, asked: &Asked, addresses: &[IpAddr]) -> Explanation {
    let policy = &subject.policy;
    // Where the tunnel is opened, it is the request inside that is explained.
    let asked = &subject.ask(asked).seen(policy, addresses);
    let decision = asked.decide(policy, addresses);
    let by_name = asked.decide(policy, &[]);
    let address = if matches!(by_name, Decision::Allow(_)) { deciding_address(policy, asked, addresses) } else { None };
    let (allowed, reason, winner) = match decision {
        Decision::Allow(allowed) => (Some(allowed), None, Some(allowed.rule)),
        Decision::Deny(denied) => (None, Some(denied.reason), denied.rule),
    };
    let winning = winner.and_then(|id| policy.rule(id));
    let others = others(policy, asked, address, decision, winner);
    Explanation {
        request: asked.to_string(),
        protocol: asked.protocol,
        allowed: allowed.is_some(),
        read_only: allowed.is_some_and(|allowed| allowed.read_only),
        reason,
        intercept: allowed.is_some_and(|allowed| allowed.intercept),
        hook: allowed.and_then(|allowed| policy.hooks().get(allowed.hook?)).cloned(),
        why: reason.and_then(|reason| why(policy, asked, address, reason, winning.as_ref())),
        notes: notes(policy, asked, addresses, decision, &others),
        rule: winning.map(|rule| ShownRule { text: line_text(subject.sources(), &rule), rule }),
        address,
        others,
        change: Change::None(String::new()),
    }
}

/// The first address that is refused, by itself as among the others.
fn deciding_address(policy: &Blob<Vec<u8>>, asked: &Asked, addresses: &[IpAddr]) -> Option<IpAddr> {
    addresses.iter().copied().find(|ip| matches!(asked.decide(policy, &[*ip]), Decision::Deny(_)))
}

fn why(policy: &Blob<Vec<u8>>, asked: &Asked, address: Option<IpAddr>, reason: Reason, rule: Option<&Rule>) -> Option<String> {
    let host = &asked.host;
    let local = address.or(match host {
        Host::Ip(ip) => Some(*ip),
        Host::Name(_) | Host::NumericLookalike(_) => None,
    });
    let metadata = local.is_some_and(is_metadata_address) || host.name().is_some_and(|name| is_metadata_name(name.as_str()));
    let what = match (reason, rule) {
        (Reason::ProxyDisabled, _) if meta(policy, asked.profile).network == Network::Direct => {
            "the feature is off: clients connect directly".into()
        }
        (Reason::ProxyDisabled, _) => "the network is switched off".into(),
        (Reason::Denied, _) => return address.map(|ip| format!("{host} resolves to {ip}, which is in a denied network")),
        (Reason::NotAllowedLocal, _) if metadata => "a cloud metadata service has to be named exactly".into(),
        (Reason::NotAllowedLocal, _) => {
            let range = local.and_then(non_public).map(|range| format!(" ({}, {})", range.name, range.source)).unwrap_or_default();
            match address {
                Some(ip) => format!("{host} resolves to {ip}, which is not public{range}, and no rule opens it"),
                None => format!("{host} is not public{range}, and no rule names it"),
            }
        }
        (Reason::NotAllowed, _) if matches!(host, Host::NumericLookalike(_)) => {
            "it is a number that some programs read as an address, and no rule can name it".into()
        }
        (Reason::NotAllowed, _) => "no rule allows it".into(),
        (Reason::MethodNotAllowed, None) => "mode = \"limited\" allows GET, HEAD and OPTIONS only".into(),
        (Reason::MethodNotAllowed, Some(_)) => "the rule is read-only: GET, HEAD and OPTIONS only".into(),
        (Reason::MitmRequired, None) if policy.is_hooked(asked.profile, host) && asked.protocol == Protocol::Http => {
            "the host has hooks, which act inside TLS, and this is not encrypted".into()
        }
        (Reason::MitmRequired, _) if asked.protocol == Protocol::Socks5Tcp && is_odd_socks(policy, asked) => {
            "in limited mode SOCKS5 reaches port 443 only, where TLS can be opened".into()
        }
        (Reason::MitmRequired, Some(rule))
            if asked.protocol == Protocol::Socks5Tcp && rule.access == Access::ReadOnly && asked.port != HTTPS_PORT =>
        {
            "the rule is read-only, and SOCKS5 reaches port 443 only then, where TLS can be opened".into()
        }
        (Reason::MitmRequired, _) if asked.protocol == Protocol::Socks5Udp => {
            "datagrams cannot be read, and here only what is read may pass".into()
        }
        (Reason::MitmRequired, _) if asked.can_intercept && policy.is_bypassed(asked.profile, host, asked.port) => {
            "`mitm.bypass` keeps its TLS closed, and here only what is read may pass".into()
        }
        (Reason::MitmRequired, None) if policy.is_hooked(asked.profile, host) => {
            "the host has hooks, which act inside TLS, and this tunnel cannot be opened".into()
        }
        (Reason::MitmRequired, None) if is_always(meta(policy, asked.profile)) => {
            "mitm.mode = \"always\" wants every tunnel opened, and this tunnel cannot be opened".into()
        }
        (Reason::MitmRequired, None) if policy.is_credentialed(asked.profile, host, asked.port) => {
            "credentials of the host are put in inside TLS, and this tunnel cannot be opened".into()
        }
        (Reason::MitmRequired, None) => "mode = \"limited\" allows only what can be read, and this cannot".into(),
        (Reason::MitmRequired, Some(rule)) if rule.access == Access::ReadOnly => {
            "the rule is read-only, and what this carries cannot be read".into()
        }
        (Reason::MitmRequired, Some(_)) => "the rule asks for methods or paths, and what this carries cannot be read".into(),
        (Reason::MitmHookDenied, _) => no_hook(policy, asked),
        (Reason::PolicyDenied, _) => "the policy does not open it".into(),
    };
    Some(what)
}

/// Whether limited mode lets no SOCKS5 connection through to that port.
fn is_odd_socks(policy: &Blob<Vec<u8>>, asked: &Asked) -> bool {
    meta(policy, asked.profile).mode == Mode::Limited && asked.port != HTTPS_PORT
}

/// Whether the data plane may open a tunnel for a credential that it knows by itself: for which hosts it has one, depends on its environment.
fn may_be_credentialed(policy: &Blob<Vec<u8>>, asked: &Asked) -> bool {
    asked.can_intercept
        && matches!(asked.protocol, Protocol::Connect | Protocol::Socks5Tcp)
        && meta(policy, asked.profile).credential_broker
        && !policy.is_bypassed(asked.profile, &asked.host, asked.port)
}

/// What the hooks of the host are, and why none of them matches where it is known.
fn no_hook(policy: &Blob<Vec<u8>>, asked: &Asked) -> String {
    let speaks = |hook: &&Hook| {
        hook.profiles.has(asked.profile) && Pattern::parse(&hook.host).is_ok_and(|pattern| pattern.hosts.matches(&asked.host))
    };
    let names: Vec<String> =
        policy.hooks().iter().filter(speaks).take(MAX_SHOWN).map(|hook| format!("`{}`", printable(&hook.name))).collect();
    let which = format!("no hook of this host matches the request: {}", names.join(", "));
    match asked.path.as_deref().is_some_and(has_one_reading) {
        true => which,
        false => format!("{which}; servers read this path in two ways, and then none does"),
    }
}

fn is_always(meta: &Meta) -> bool {
    meta.mode == Mode::Full && meta.mitm.mode == MitmMode::Always
}

/// A rule that names what decided, before it has a standing.
struct Candidate {
    rule: Rule,
    rank: usize,
    holds: Option<bool>,
}

fn others(policy: &Blob<Vec<u8>>, asked: &Asked, address: Option<IpAddr>, decision: Decision, winner: Option<RuleId>) -> Vec<Other> {
    let spell = |request: &Request<'_>| -> Vec<Candidate> {
        let named = named_by(policy, request).into_iter();
        named.filter_map(|n| Some(Candidate { rule: policy.rule(n.rule)?, rank: n.rank, holds: n.holds })).collect()
    };
    let mut named = spell(&asked.request(&[]));
    if let Some(ip) = address {
        let host = Host::Ip(ip);
        // `*` names the host already, and opens no address.
        named.extend(spell(&Request { host: &host, ..asked.request(&[]) }).into_iter().filter(|candidate| candidate.rule.hosts != "*"));
    }
    let winning = winner.and_then(|id| named.iter().find(|candidate| candidate.rule.id == id)).map(|found| found.rank);
    let rest = named.into_iter().filter(|candidate| Some(candidate.rule.id) != winner);
    rest.map(|candidate| {
        let (standing, why) = standing(asked, decision, winning, &candidate);
        Other { rule: candidate.rule, standing, why }
    })
    .collect()
}

fn standing(asked: &Asked, decision: Decision, winning: Option<usize>, candidate: &Candidate) -> (Standing, String) {
    let Candidate { rule, rank, holds } = candidate;
    let denies = rule.access == Access::Deny;
    match (decision, holds) {
        (_, Some(false)) => (Standing::NotInPlay, other_than(asked, rule)),
        (Decision::Allow(allowed), None) if allowed.intercept => {
            (Standing::NotInPlay, "it asks for methods or paths, which are seen once the tunnel is opened".to_owned())
        }
        (Decision::Allow(_), None) => (Standing::NotInPlay, "it asks for methods or paths, which are not seen".to_owned()),
        (Decision::Allow(_), Some(true)) => (Standing::Beaten, closer(winning, *rank, "an allow")),
        (Decision::Deny(denied), _) => match (denied.reason, denies) {
            (Reason::Denied, true) => (Standing::Beaten, closer(winning, *rank, "a deny")),
            (Reason::Denied, false) => (Standing::Beaten, "a deny beats every allow".to_owned()),
            (_, true) => (Standing::NotEnough, "it might match, and nobody can tell".to_owned()),
            (Reason::ProxyDisabled, false) => (Standing::NotEnough, "the network is off".to_owned()),
            (Reason::NotAllowedLocal, false) => (Standing::NotEnough, "it does not open addresses that are not public".to_owned()),
            (Reason::MethodNotAllowed | Reason::MitmRequired, false) => match (winning, holds) {
                (Some(winning), Some(true)) if winning >= *rank => (Standing::Beaten, closer(Some(winning), *rank, "an allow")),
                (_, None) => (Standing::NotEnough, "it asks for methods or paths, which are not seen".to_owned()),
                _ => (Standing::NotEnough, "it allows the host, not what is done there".to_owned()),
            },
            (Reason::MitmHookDenied, false) => (Standing::NotEnough, "it allows the host, and hooks say what may pass there".to_owned()),
            (_, false) => (Standing::NotEnough, "it is not enough".to_owned()),
        },
    }
}

fn closer(winning: Option<usize>, rank: usize, what: &str) -> String {
    match winning {
        Some(winning) if winning == rank => format!("{what} that is as close; of equals the last decides"),
        _ => format!("{what} that is less close"),
    }
}

/// What a rule wants that the request is not.
fn other_than(asked: &Asked, rule: &Rule) -> String {
    let has_port = rule.ports.is_empty() || rule.ports.iter().any(|range| (range.first..=range.last).contains(&asked.port));
    let has_method = rule.methods.is_empty() || asked.method.as_ref().is_some_and(|method| rule.methods.contains(method));
    match (has_port, has_method) {
        (false, _) => "other port",
        (true, false) => "other method",
        (true, true) => "other path",
    }
    .to_owned()
}

fn notes(policy: &Blob<Vec<u8>>, asked: &Asked, addresses: &[IpAddr], decision: Decision, others: &[Other]) -> Vec<String> {
    let mut notes = Vec::new();
    let sight_matters = match decision {
        Decision::Allow(_) => true,
        Decision::Deny(denied) => matches!(denied.reason, Reason::MitmRequired | Reason::MethodNotAllowed),
    };
    if matches!(decision, Decision::Allow(allowed) if allowed.intercept) {
        notes.push("its TLS is opened, and each request inside is decided by itself; what is not TLS is closed".to_owned());
    }
    if matches!(decision, Decision::Allow(allowed) if !allowed.intercept) && may_be_credentialed(policy, asked) {
        notes.push(
            "`credential_broker` has it opened if a credential of the proxy's environment is for the host: GitHub's, OpenAI's".to_owned(),
        );
    }
    if asked.inside.is_some()
        && !asked.protocol.is_read()
        && (sight_matters || others.iter().any(|other| !other.rule.methods.is_empty() || !other.rule.paths.is_empty()))
    {
        notes.push("the method and path are inside TLS and are not seen".to_owned());
    }
    if matches!(decision, Decision::Allow(_)) && addresses.is_empty() && matches!(asked.host, Host::Name(_)) && !asked.host.is_localhost() {
        notes.push(address_condition(Profile::new(policy, asked.profile)));
    }
    notes
}

/// What still has to hold of the addresses that a name resolves to.
fn address_condition(profile: Profile<'_, Vec<u8>>) -> String {
    let (mut denied, mut opened) = (false, false);
    // Most policies name no networks; then there is no need to look at every rule.
    if !profile.blob().section(SectionKind::Networks).is_empty() {
        for rule in profile.unsorted_rules() {
            let network = rule.kind == RuleKind::Network;
            denied |= network && rule.access == Access::Deny;
            opened |= network && rule.access != Access::Deny;
        }
    }
    let open = match (profile.meta().allow_local_binding, opened) {
        (true, _) => "allowed, if it does not resolve to a cloud metadata service",
        (false, false) => "allowed, if it resolves to public addresses",
        (false, true) => "allowed, if it resolves to public addresses, or to ones that a rule names",
    };
    format!("{open}{}", if denied { ", and to none in a denied network" } else { "" })
}

/// The text of a rule's line, without what a terminal would act on.
fn line_text(sources: &[SourceFile], rule: &Rule) -> Option<String> {
    let number = usize::try_from(rule.line).ok()?.checked_sub(1)?;
    if let Some(preset) = rule.label.strip_prefix("preset ") {
        return presets::find(preset)?.patterns().find(|entry| entry.line == rule.line).map(|entry| entry.pattern.to_string());
    }
    let own = sources.iter().filter(|source| source.layer == rule.layer && source.label() == rule.label);
    let mut lines = own.filter_map(|source| source.text().lines().nth(number));
    let first = lines.next()?;
    // Several `-c` have one name: the line that has the pattern is the one.
    let line = if first.contains(&rule.hosts) { first } else { lines.find(|line| line.contains(&rule.hosts)).unwrap_or(first) };
    Some(printable(line.trim_end()))
}

/// Text without control characters, and not too much of it.
fn printable(text: &str) -> String {
    let mut shown: String =
        text.chars().take(MAX_LINE).map(|c| if c == '\t' { ' ' } else { c }).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(MAX_LINE).is_some() {
        shown.push('…');
    }
    shown
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.allowed, self.read_only, self.intercept) {
            (true, true, true) => "allowed, read-only, and would be intercepted",
            (true, false, true) => "allowed, and would be intercepted",
            (true, true, false) => "allowed, read-only",
            (true, false, false) => "allowed",
            (false, ..) => "blocked",
        };
        writeln!(f, "{verdict}: {}", self.request)?;
        if let Some(reason) = self.reason {
            writeln!(f, "reason: {reason} (x-proxy-error: {})", reason.proxy_error())?;
        }
        if let Some(why) = &self.why {
            writeln!(f, "why: {why}")?;
        }
        if let Some(hook) = &self.hook {
            writeln!(f, "hook: {}", describe_hook(hook))?;
        }
        if let Some(ShownRule { rule, text }) = &self.rule {
            writeln!(f, "rule: {}", describe(rule))?;
            if let Some(text) = text {
                writeln!(f, "    {} | {text}", rule.line)?;
            }
            if !rule.reason.is_empty() {
                writeln!(f, "    its author says: {}", printable(&rule.reason))?;
            }
        }
        for (standing, title) in [(Standing::Beaten, "beats"), (Standing::NotEnough, "not enough"), (Standing::NotInPlay, "not in play")] {
            let of_it: Vec<&Other> = self.others.iter().filter(|other| other.standing == standing).collect();
            if !of_it.is_empty() {
                writeln!(f, "{title}:")?;
            }
            for other in of_it.iter().take(MAX_SHOWN) {
                writeln!(f, "  {}: {}", describe(&other.rule), other.why)?;
            }
            if of_it.len() > MAX_SHOWN {
                writeln!(f, "  … and {} more", of_it.len() - MAX_SHOWN)?;
            }
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        write_change(f, &self.change)
    }
}

/// `deny **.example.com, user config.toml:7`, with the methods and paths that it asks for.
#[must_use]
pub fn describe(rule: &Rule) -> String {
    let list = |items: &[String]| if items.is_empty() { String::new() } else { format!(" {}", items.join(",")) };
    format!("{} {rule}{}{}, {}", rule.access, list(&rule.methods), list(&rule.paths), printable(&rule.place()))
}

/// `github_write, user config.toml:12 (-authorization +authorization ~set-cookie)`: its name, its place, and the headers that it takes out, puts in and takes out of responses.
#[must_use]
pub fn describe_hook(hook: &Hook) -> String {
    let stripped = hook.strip_request_headers.iter().map(|name| format!("-{name}"));
    let injected = hook.inject_request_headers.iter().map(|header| format!("+{}", header.name));
    let responses = hook.strip_response_headers.iter().map(|name| format!("~{name}"));
    let actions = stripped.chain(injected).chain(responses).collect::<Vec<_>>().join(" ");
    let place = format!("{} {}:{}", hook.source.layer, hook.source.label, hook.line);
    let actions = if actions.is_empty() { String::new() } else { format!(" ({actions})") };
    format!("{}, {}{}", printable(&hook.name), printable(&place), printable(&actions))
}

fn write_change(f: &mut fmt::Formatter<'_>, change: &Change) -> fmt::Result {
    match change {
        Change::Edits(edits) => edits.iter().enumerate().try_for_each(|(n, edit)| {
            let lead = if n == 0 { "to change this" } else { "and" };
            writeln!(f, "{lead}: {edit}")
        }),
        Change::Only { layer, place } => {
            let place = if place.is_empty() { String::new() } else { format!(" ({})", printable(place)) };
            writeln!(f, "to change this: only the {layer} layer can change this{place}")
        }
        Change::None(why) if why.is_empty() => Ok(()),
        Change::None(why) => writeln!(f, "to change this: {why}"),
    }
}

impl fmt::Display for Edit {
    /// One edit: what to do where, and the lines of it, indented.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = format!("{} {}", self.layer, printable(&self.file));
        match &self.kind {
            EditKind::Add { table, toml } if self.file == "-c" => {
                let path = table.trim_matches(['[', ']']);
                let (key, value) = toml.split_once(" = ").unwrap_or((toml, ""));
                write!(f, "add to the command line\n    -c '{path}.{key}={value}'")
            }
            EditKind::Add { table, toml } => write!(f, "add to {place}, under {table}\n    {toml}"),
            EditKind::Replace { line, before, after } => {
                write!(
                    f,
                    "edit {place}:{line}\n  - {line} | {}\n  + {line} | {}",
                    printable(before.trim_end()),
                    printable(after.trim_end())
                )
            }
            EditKind::Remove { line, before } if before.is_empty() => write!(f, "remove the rule at {place}:{line}"),
            EditKind::Remove { line, before } => write!(f, "remove {place}:{line}\n  - {line} | {}", printable(before.trim_end())),
            EditKind::Access { line, pattern, access } => write!(f, "edit {place}:{line}: make the access of {pattern} \"{access}\""),
            EditKind::Widen { line, pattern, methods, paths } => {
                let items: Vec<String> = methods.iter().chain(paths).map(|item| format!("\"{}\"", printable(item))).collect();
                write!(f, "edit {place}:{line}: add {} to what {pattern} is for", items.join(" and "))
            }
        }?;
        match self.also_opens.as_slice() {
            [] => Ok(()),
            words => write!(f, "\n  also opens: {}", words.iter().map(|word| printable(word)).collect::<Vec<_>>().join(", ")),
        }
    }
}
