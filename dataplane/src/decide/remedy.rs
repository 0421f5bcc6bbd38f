//! What would let a refused request pass, as far as the policy in force tells. A line that is offered works where it is pasted, or it is not offered.

use super::socket;
use crate::policy::Snapshot;
use policy_format::asked::Asked;
use policy_format::{
    Access, Allowed, Decision, Denied, Host, Hosts, Layer, MitmMode, Mode, Overrides, Pattern, READING, Reason, Request, Rule, named_by,
    net,
};
use std::borrow::Cow;
use std::net::IpAddr;

/// A request that was refused.
pub(crate) struct Refused<'a> {
    /// Why, as events have it.
    pub(crate) reason: &'a str,
    /// What was asked for, as far as it is known.
    pub(crate) asked: Asked,
    /// What the host resolves to, where that is known.
    pub(crate) addresses: &'a [IpAddr],
    /// The one of them that is refused, where the host itself is not.
    pub(crate) address: Option<IpAddr>,
    /// It was for a unix socket.
    pub(crate) socket: bool,
    /// The rule that refused it.
    pub(crate) rule: Option<By>,
}

/// A rule that refuses something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct By {
    /// As it is written.
    pub(crate) pattern: String,
    pub(crate) layer: String,
    /// Layer, file and line.
    pub(crate) place: String,
}

impl From<&Rule> for By {
    fn from(rule: &Rule) -> Self {
        Self { pattern: rule.to_string(), layer: rule.layer.as_str().to_owned(), place: rule.place() }
    }
}

/// What would let it pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remedy {
    /// The table that the line belongs under.
    pub(crate) table: Option<String>,
    /// A line that allows it by itself.
    pub(crate) toml: Option<String>,
    /// The place of what has to be changed first.
    pub(crate) place: Option<String>,
    /// Nobody but this layer can change it.
    pub(crate) only: Option<Layer>,
    /// The same for people: what to do, or who alone can.
    pub(crate) help: String,
    /// Whether the help reads on behind `to allow it, `.
    pub(crate) follows_to: bool,
    /// Whoever runs the proxy has to do something, too, and nobody by an edit.
    pub(crate) by_operator: bool,
    /// What it comes to, as far as that can be tried.
    change: Edit,
}

/// What a remedy comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edit {
    /// A rule more for the host.
    Rule,
    /// The other mode.
    Mode,
    /// What nobody tries here.
    Other,
}

impl Remedy {
    fn words(help: String) -> Self {
        Self { table: None, toml: None, place: None, only: None, help, follows_to: true, by_operator: false, change: Edit::Other }
    }

    fn only(layer: Layer, help: String) -> Self {
        Self { only: Some(layer), follows_to: false, ..Self::words(help) }
    }

    fn line(table: String, line: String, help: String) -> Self {
        Self { table: Some(table), toml: Some(line), ..Self::words(help) }
    }

    /// Words that do not read on behind `to allow it, `.
    fn remark(help: &str) -> Self {
        Self { follows_to: false, ..Self::words(help.to_owned()) }
    }

    /// Both have to be done: no line does it by itself.
    fn and(self, next: Self) -> Self {
        let help = match (next.follows_to, self.help.contains(';')) {
            (true, false) => format!("{}, and {}", self.help, next.help),
            (true, true) => format!("{}; and {}", self.help, next.help),
            (false, _) => format!("{}; {}", self.help, next.help),
        };
        let (follows_to, by_operator) = (self.follows_to, self.by_operator || next.by_operator);
        Self { place: self.place.or(next.place), follows_to, by_operator, change: next.change, ..Self::words(help) }
    }

    /// Of several addresses that are refused, it is for one.
    pub(crate) fn of_several(self) -> Self {
        let help = format!("{}; others of its addresses are refused, too", self.help);
        Self { table: None, toml: None, help, ..self }
    }

    /// The help behind what is wrong: `; to allow it, …`, or `; …` where somebody else has to do something.
    pub(crate) fn after(&self, purpose: &str) -> String {
        if self.follows_to { format!("; to {purpose}, {}", self.help) } else { format!("; {}", self.help) }
    }
}

/// The end of a help where it is not known what administrators hold.
const UNLESS: &str = ", unless an administrator holds it";
/// Allowed by no rule: what an answer needs that is only looked at for yes or no.
const LET_ON: Allowed = Allowed { rule: socket::NO_RULE, read_only: false, intercept: false, hook: None, unconditional: false };
/// Said of what another policy refused.
const ALLOWED_NOW: &str = "the policy in force allows it by now";

impl Refused<'_> {
    /// What would let it pass under the policy that refused it; `None` where nothing can be said.
    pub(crate) fn remedy(&self, snapshot: &Snapshot) -> Option<Remedy> {
        let reason = Reason::ALL.into_iter().find(|reason| reason.as_str() == self.reason)?;
        self.steps(snapshot, reason, self.rule.clone())
    }

    /// The same where the policy may be another one by now: what it says of the request comes first.
    pub(crate) fn remedy_by_now(&self, snapshot: &Snapshot, generation: u64) -> Option<Remedy> {
        if snapshot.generation() == generation {
            return self.remedy(snapshot);
        }
        let decision = self.decide_if(snapshot, Overrides::default());
        let (reason, rule) = match decision {
            Decision::Deny(Denied { reason, rule }) => (Some(reason), rule.and_then(|id| snapshot.rule(id))),
            Decision::Allow(_) => (None, None),
        };
        let is_certain = reason == Some(Reason::ProxyDisabled)
            || (reason == Some(Reason::Denied) && rule.as_ref().is_none_or(|rule| rule.paths.is_empty()));
        if let Some(rule) = self.rule_of_paths(snapshot).filter(|_| !is_certain) {
            let help = format!("by now it depends on its path, which is not kept: \"{rule}\" is in {}", rule.place());
            return Some(Remedy { place: Some(rule.place()), ..Remedy::remark(&help) });
        }
        match (decision, reason) {
            (Decision::Allow(allowed), _) => self.allowed_by_now(snapshot, allowed),
            (_, reason) => self.steps(snapshot, reason?, rule.as_ref().map(By::from)),
        }
    }

    /// The request as it was made is allowed by now. What it led to is not known any more.
    fn allowed_by_now(&self, snapshot: &Snapshot, allowed: Allowed) -> Option<Remedy> {
        let is_name = matches!(self.asked.host, Host::Name(_)) && !self.asked.host.is_localhost();
        match Reason::ALL.into_iter().find(|reason| reason.as_str() == self.reason) {
            // It was none of the policy's.
            Some(Reason::PolicyDenied) => None,
            Some(Reason::NotAllowed) if self.socket => self.remedy(snapshot),
            _ if self.socket => Some(Remedy::remark("by now it depends on its path, which is not kept")),
            Some(Reason::NotAllowedLocal) if is_name && !snapshot.meta().allow_local_binding => {
                let remedy = self.remedy(snapshot)?;
                let help = format!("its addresses are not kept: where they are still closed, {}", remedy.help);
                Some(Remedy { help, ..remedy })
            }
            Some(Reason::Denied) => match self.network_still_denied(snapshot) {
                Some(rule) => self.steps(snapshot, Reason::Denied, Some(By::from(&rule))),
                None => Some(Remedy::remark(ALLOWED_NOW)),
            },
            _ if allowed.intercept => Some(Remedy::remark(&format!("{ALLOWED_NOW}, where it can be read"))),
            _ => Some(Remedy::remark(ALLOWED_NOW)),
        }
    }

    /// The network that an address of the host was in, where it is denied still.
    fn network_still_denied(&self, snapshot: &Snapshot) -> Option<Rule> {
        let pattern = &self.rule.as_ref()?.pattern;
        let Hosts::Network(network) = Pattern::parse(pattern).ok()?.hosts else { return None };
        let host = Host::Ip(network.addr());
        let request = Request { host: &host, ..self.asked.request(&[]) };
        let named = named_by(snapshot.blob(), &request).into_iter().filter_map(|named| snapshot.rule(named.rule));
        named.into_iter().find(|rule| rule.access == Access::Deny && rule.to_string() == *pattern)
    }

    /// A rule by which it depends on the path, where that is not known.
    fn rule_of_paths(&self, snapshot: &Snapshot) -> Option<Rule> {
        if self.socket || !self.asked.protocol.is_read() || self.asked.path.is_some() {
            return None;
        }
        let method = self.asked.method.as_deref();
        let may_hold = |rule: &Rule| {
            !rule.paths.is_empty()
                && self.speaks_of_port(rule)
                && (rule.methods.is_empty()
                    || rule.methods.iter().any(|known| method.is_some_and(|method| known.eq_ignore_ascii_case(method))))
        };
        self.named(snapshot).map(|(rule, _)| rule).find(may_hold)
    }

    fn speaks_of_port(&self, rule: &Rule) -> bool {
        rule.ports.is_empty() || rule.ports.iter().any(|range| (range.first..=range.last).contains(&self.asked.port))
    }

    /// All that has to be done, where the policy refuses it for that reason: after each edit it is decided again, as if that were made.
    fn steps(&self, snapshot: &Snapshot, reason: Reason, rule: Option<By>) -> Option<Remedy> {
        let mut tried = Overrides::default();
        let mut remedy = self.step(snapshot, tried, reason, rule)?;
        // The address alone stands in the way, or somebody who is not to be moved.
        while self.address.is_none() && remedy.only.is_none() {
            match remedy.change {
                Edit::Rule if !tried.with_rule => tried.with_rule = true,
                Edit::Mode if tried.mode.is_none() => tried.mode = Some(Mode::Full),
                Edit::Other => break,
                Edit::Rule | Edit::Mode => return None,
            }
            let Decision::Deny(denied) = self.decide_if(snapshot, tried) else { break };
            let rule = denied.rule.and_then(|id| snapshot.rule(id));
            let next = self.step(snapshot, tried, denied.reason, rule.as_ref().map(By::from))?;
            if next.only.is_some() {
                return Some(next);
            }
            remedy = remedy.and(next);
        }
        Some(remedy)
    }

    /// What the policy would say of it were things otherwise.
    fn decide_if(&self, snapshot: &Snapshot, tried: Overrides) -> Decision {
        let deny = |reason| Decision::Deny(Denied { reason, rule: None });
        let mode = tried.mode.unwrap_or(snapshot.mode());
        if self.socket {
            return match socket::lets_ask(snapshot, mode, self.asked.method.as_deref(), tried.with_rule) {
                Ok(()) => Decision::Allow(LET_ON),
                Err(reason) => deny(reason),
            };
        }
        // What limited mode and `always` have opened, a rule more has opened too, though there may be nothing to open without it.
        let opens = mode == Mode::Limited || snapshot.meta().mitm.mode == MitmMode::Always;
        let can_intercept = snapshot.can_intercept() || (opens && tried.with_rule);
        let asked = Asked { profile: snapshot.profile(), can_intercept, ..self.asked.clone() };
        // A metadata service's are closed in another way.
        let addresses = if self.is_metadata_name() { &[] } else { self.addresses };
        let decision = asked.decide_by(&|request: &Request<'_>| snapshot.decide_if(request, tried), addresses);
        match decision {
            // Only by a path that nobody knows: it was not that which refused it.
            Decision::Deny(Denied { reason: Reason::Denied, .. }) if tried.with_rule && self.rule_of_paths(snapshot).is_some() => {
                let reads = asked.method.as_deref().is_some_and(|method| READING.contains(&method));
                if mode == Mode::Limited && !reads { deny(Reason::MethodNotAllowed) } else { Decision::Allow(LET_ON) }
            }
            decision => decision,
        }
    }

    fn is_metadata_name(&self) -> bool {
        self.asked.host.name().is_some_and(|name| net::is_metadata_name(name.as_str()))
    }

    /// What stands in the way: the host, or the one address.
    fn host(&self) -> Cow<'_, Host> {
        self.address.map_or(Cow::Borrowed(&self.asked.host), |ip| Cow::Owned(Host::Ip(ip)))
    }

    /// What has to be done about one reason, once what was tried is done.
    fn step(&self, snapshot: &Snapshot, tried: Overrides, reason: Reason, rule: Option<By>) -> Option<Remedy> {
        if self.socket {
            return match reason {
                Reason::NotAllowed => Some(sockets(snapshot)),
                Reason::MethodNotAllowed => Some(mode(snapshot)),
                _ => None,
            };
        }
        let is_limited = tried.mode.unwrap_or(snapshot.mode()) == Mode::Limited;
        match (reason, self.host().as_ref(), rule) {
            (Reason::NotAllowed | Reason::NotAllowedLocal, Host::NumericLookalike(_), _) => None,
            (Reason::NotAllowed, ..) if self.is_metadata_name() => Some(self.metadata(snapshot)),
            (Reason::NotAllowed, ..) => Some(self.allow(snapshot)),
            (Reason::NotAllowedLocal, Host::Ip(_), _) => Some(self.allow(snapshot)),
            // Who names it opens loopback with it.
            (Reason::NotAllowedLocal, host, _) if host.is_localhost() => Some(self.allow(snapshot)),
            (Reason::NotAllowedLocal, ..) if self.is_metadata_name() => Some(self.metadata(snapshot)),
            (Reason::NotAllowedLocal, ..) => Some(local(snapshot)),
            (Reason::Denied | Reason::MethodNotAllowed | Reason::MitmRequired, _, Some(by)) => Some(self.by_rule(snapshot, reason, &by)),
            (Reason::MitmRequired, host, None) if snapshot.is_hooked(host) => None,
            (Reason::MethodNotAllowed | Reason::MitmRequired, _, None) if is_limited => Some(mode(snapshot)),
            (Reason::MitmRequired, host, None) if !snapshot.blob().is_credentialed(snapshot.profile(), host, self.asked.port) => {
                always(snapshot)
            }
            _ => None,
        }
    }

    /// The rules for this very host, which a line with the same key would meet.
    fn own_rules(&self, snapshot: &Snapshot) -> Vec<Rule> {
        let own = Pattern::parse(&self.host().to_string()).map(|pattern| pattern.hosts.to_string()).unwrap_or_default();
        self.named(snapshot).filter(|(rule, _)| rule.hosts == own).map(|(rule, _)| rule).collect()
    }

    /// The rules that name the host, and whether they are for such requests.
    fn named(&self, snapshot: &Snapshot) -> impl Iterator<Item = (Rule, bool)> {
        let host = self.host();
        let request = Request { profile: snapshot.profile(), ..Request::connect(&host, self.asked.port) };
        named_by(snapshot.blob(), &request)
            .into_iter()
            .filter_map(|named| Some((snapshot.rule(named.rule)?, named.holds != Some(false))))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// A rule more.
    fn allow(&self, snapshot: &Snapshot) -> Remedy {
        if let Some(only) = ignored_elsewhere(snapshot) {
            return only;
        }
        let (own, host, port) = (self.own_rules(snapshot), self.host(), self.asked.port);
        let is_for_port = |rule: &Rule| matches!(rule.ports.as_slice(), [only] if (only.first, only.last) == (port, port));
        // Who wrote which methods or paths may be asked for did not mean all of them, be it for this host or for many.
        let is_narrow =
            |rule: &Rule| self.speaks_of_port(rule) && rule.access != Access::Deny && !(rule.methods.is_empty() && rule.paths.is_empty());
        if let Some(rule) = own.iter().find(|rule| is_for_port(rule) || is_narrow(rule)) {
            let (place, only) = (rule.place(), Some(rule.layer).filter(|layer| layer.is_managed()));
            let help = match only {
                Some(layer) => format!("only the {layer} layer can change this: \"{rule}\" in {place} is not for this request"),
                None => format!("have \"{rule}\" in {place} allow such requests too"),
            };
            return Remedy { place: Some(place), follows_to: only.is_none(), only, change: Edit::Rule, ..Remedy::words(help) };
        }
        // Another key than that of the rule that there is.
        let key_of_port = || match host.as_ref() {
            Host::Ip(std::net::IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            host => format!("{host}:{port}"),
        };
        if let Some((rule, _)) = self.named(snapshot).find(|(rule, _)| is_narrow(rule)) {
            let (place, key, table) = (rule.place(), key_of_port(), table(snapshot, ".domains"));
            let help =
                format!("add a rule for \"{key}\" under {table} that is for such requests only: \"{rule}\" in {place} is not for all");
            return Remedy { table: Some(table), change: Edit::Rule, ..Remedy::words(help) };
        }
        let key = if own.is_empty() { host.to_string() } else { key_of_port() };
        let (table, line) = (table(snapshot, ".domains"), format!("\"{key}\" = \"allow\""));
        let is_managed = snapshot.blob().sources().iter().any(|source| source.layer.is_managed());
        let doubt = match constraints(snapshot) {
            None if is_managed => "; where an administrator lets no other layer allow hosts, it is ignored",
            _ => "",
        };
        let help = format!("add {line} under {table}{doubt}");
        Remedy { change: Edit::Rule, ..Remedy::line(table, line, help) }
    }

    /// A metadata service by its name: it takes a rule for that very name, and local addresses opened.
    fn metadata(&self, snapshot: &Snapshot) -> Remedy {
        let is_named = self.own_rules(snapshot).iter().any(|rule| rule.access != Access::Deny && rule.ports.is_empty());
        match (is_named, snapshot.meta().allow_local_binding) {
            (false, true) => self.allow(snapshot),
            (true, _) => local(snapshot),
            (false, false) => match (self.allow(snapshot), local(snapshot)) {
                (allow, local) if allow.only.is_none() && local.only.is_none() => {
                    let help = format!("{}, and set allow_local_binding = true", allow.help);
                    Remedy { change: Edit::Rule, ..Remedy::words(help) }
                }
                (allow, local) => {
                    if allow.only.is_some() {
                        allow
                    } else {
                        local
                    }
                }
            },
        }
    }

    /// The rule that refuses it.
    fn by_rule(&self, snapshot: &Snapshot, reason: Reason, By { layer, place, .. }: &By) -> Remedy {
        let at = |remedy: Remedy| Remedy { place: Some(place.clone()), ..remedy };
        if let Some(layer) = Layer::named(layer).filter(|layer| layer.is_managed()) {
            return at(Remedy::only(layer, format!("only the {layer} layer can change this: the rule is in {place}")));
        }
        if reason != Reason::Denied {
            // It is changed to one that allows: what is refused besides is found out then.
            let is_deny = self.named(snapshot).any(|(rule, _)| rule.access == Access::Deny && rule.place() == *place);
            let change = if is_deny { Edit::Other } else { Edit::Rule };
            return at(Remedy { change, ..Remedy::words(format!("change the rule in {place}")) });
        }
        match managed_only(snapshot) {
            Some(owner) if !self.named(snapshot).any(|(rule, fits)| fits && rule.access != Access::Deny && rule.layer <= owner) => {
                let help = format!("only the {owner} layer allows hosts in this policy: without the rule in {place}, no rule allows it");
                // Its place is not where the layer could change it.
                Remedy::only(owner, help)
            }
            _ => at(Remedy::words(format!("change or remove the rule in {place}"))),
        }
    }
}

/// A table of the profile in force.
fn table(snapshot: &Snapshot, below: &str) -> String {
    let profile = &snapshot.meta().profile;
    let is_bare = !profile.is_empty() && profile.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    // A string of JSON is one of TOML.
    let quoted = || serde_json::Value::from(profile.as_str()).to_string();
    format!("[permissions.{}.network{below}]", if is_bare { profile.clone() } else { quoted() })
}

fn constraints(snapshot: &Snapshot) -> Option<&policy_format::Constraints> {
    snapshot.blob().constraints(snapshot.profile())
}

fn managed_only(snapshot: &Snapshot) -> Option<Layer> {
    constraints(snapshot).and_then(|held| held.managed_allows_only)
}

/// What is said where only one layer allows hosts.
fn ignored_elsewhere(snapshot: &Snapshot) -> Option<Remedy> {
    let layer = managed_only(snapshot)?;
    Some(Remedy::only(layer, format!("only the {layer} layer allows hosts in this policy: a line elsewhere is ignored")))
}

/// A unix socket, of which no path is known here.
fn sockets(snapshot: &Snapshot) -> Remedy {
    let table = table(snapshot, ".unix_sockets");
    let help = format!("add \"/REAL/PATH\" = \"allow\" under {table}");
    Remedy { table: Some(table), change: Edit::Rule, ..Remedy::words(help) }
}

/// Addresses that are not public, all of them.
fn local(snapshot: &Snapshot) -> Remedy {
    let ignored = ignored_elsewhere(snapshot);
    let name_it = format!("name the address under {}", table(snapshot, ".domains"));
    if snapshot.meta().allow_local_binding {
        // Metadata services stay closed.
        return ignored.unwrap_or_else(|| Remedy::words(name_it));
    }
    let (table, line) = (table(snapshot, ""), "allow_local_binding = true".to_owned());
    let address = if ignored.is_none() { format!(", or {name_it}") } else { String::new() };
    match constraints(snapshot).map(|held| held.local_binding_required) {
        Some(Some(layer)) => {
            let help =
                format!("the {layer} layer holds allow_local_binding = false: only it can open addresses that are not public{address}");
            Remedy::only(layer, help)
        }
        known => {
            let doubt = if known.is_none() { UNLESS } else { "" };
            let help = format!("set {line} under {table}{doubt}{address}");
            Remedy::line(table, line, help)
        }
    }
}

/// What has every tunnel read, those too that cannot be.
fn always(snapshot: &Snapshot) -> Option<Remedy> {
    let help = || format!("change mode = \"always\" to mode = \"auto\" under {}{UNLESS}", table(snapshot, ".mitm"));
    (snapshot.meta().mitm.mode == MitmMode::Always).then(|| Remedy::words(help()))
}

/// Another mode. Full is the default: where a policy is limited, some line says so, and one more would be one too many.
fn mode(snapshot: &Snapshot) -> Remedy {
    if snapshot.meta().mode != Mode::Limited {
        let help = "an operator holds the policy to limited mode, and can take that back";
        return Remedy { by_operator: true, change: Edit::Mode, ..Remedy::remark(help) };
    }
    match constraints(snapshot).map(|held| held.mode_required) {
        Some(Some(layer)) => Remedy::only(layer, format!("only the {layer} layer can change this: it holds mode = \"limited\"")),
        known => {
            let doubt = if known.is_none() { UNLESS } else { "" };
            let help = format!("change mode = \"limited\" to mode = \"full\" under {}{doubt}", table(snapshot, ""));
            Remedy { change: Edit::Mode, ..Remedy::words(help) }
        }
    }
}
