//! What would let a refused request pass, as far as the policy in force tells. A line that is offered works where it is pasted, or it is not offered.

use crate::policy::Snapshot;
use policy_format::{Access, Host, Layer, Mode, Pattern, Reason, Request, Rule, named_by, net};

/// A request that was refused.
pub(crate) struct Refused<'a> {
    /// Why, as events have it.
    pub(crate) reason: &'a str,
    pub(crate) host: &'a Host,
    pub(crate) port: u16,
    /// The layer and the place of the rule that refused it.
    pub(crate) rule: Option<(&'a str, &'a str)>,
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
}

impl Remedy {
    fn words(help: String) -> Self {
        Self { table: None, toml: None, place: None, only: None, help, follows_to: true }
    }

    fn only(layer: Layer, help: String) -> Self {
        Self { only: Some(layer), follows_to: false, ..Self::words(help) }
    }

    fn line(table: String, line: String, help: String) -> Self {
        Self { table: Some(table), toml: Some(line), ..Self::words(help) }
    }

    /// The help behind what is wrong: `; to allow it, …`, or `; …` where somebody else has to do something.
    pub(crate) fn after(&self, purpose: &str) -> String {
        if self.follows_to { format!("; to {purpose}, {}", self.help) } else { format!("; {}", self.help) }
    }
}

/// The end of a help where it is not known what administrators hold.
const UNLESS: &str = ", unless an administrator holds it";

impl Refused<'_> {
    /// What would let it pass under a policy; `None` where nothing can be said.
    pub(crate) fn remedy(&self, snapshot: &Snapshot) -> Option<Remedy> {
        let reason = Reason::ALL.into_iter().find(|reason| reason.as_str() == self.reason)?;
        match (reason, self.host, self.rule) {
            (Reason::NotAllowed | Reason::NotAllowedLocal, Host::NumericLookalike(_), _) => None,
            (Reason::NotAllowed, ..) => Some(self.allow(snapshot)),
            (Reason::NotAllowedLocal, Host::Ip(_), _) => Some(self.allow(snapshot)),
            // Who names it opens loopback with it.
            (Reason::NotAllowedLocal, host, _) if host.is_localhost() => Some(self.allow(snapshot)),
            (Reason::NotAllowedLocal, Host::Name(name), _) if net::is_metadata_name(name.as_str()) => Some(self.metadata(snapshot)),
            (Reason::NotAllowedLocal, ..) => Some(local(snapshot)),
            (Reason::Denied | Reason::MethodNotAllowed | Reason::MitmRequired, _, Some((layer, place))) => {
                Some(self.by_rule(snapshot, reason, layer, place))
            }
            (Reason::MitmRequired, host, None) if snapshot.is_hooked(host) => None,
            (Reason::MethodNotAllowed | Reason::MitmRequired, _, None) if snapshot.mode() == Mode::Limited => Some(mode(snapshot)),
            _ => None,
        }
    }

    /// The rules for this very host, which a line with the same key would meet.
    fn own_rules(&self, snapshot: &Snapshot) -> Vec<Rule> {
        let own = Pattern::parse(&self.host.to_string()).map(|pattern| pattern.hosts.to_string()).unwrap_or_default();
        self.named(snapshot).filter(|(rule, _)| rule.hosts == own).map(|(rule, _)| rule).collect()
    }

    /// The rules that name the host, and whether they are for such requests.
    fn named(&self, snapshot: &Snapshot) -> impl Iterator<Item = (Rule, bool)> {
        let request = Request { profile: snapshot.profile(), ..Request::connect(self.host, self.port) };
        named_by(snapshot.blob(), &request)
            .into_iter()
            .filter_map(|named| Some((snapshot.rule(named.rule)?, named.holds != Some(false))))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// A rule more.
    fn allow(&self, snapshot: &Snapshot) -> Remedy {
        if let Some(layer) = managed_only(snapshot) {
            return Remedy::only(layer, format!("only the {layer} layer allows hosts in this policy: a line elsewhere is ignored"));
        }
        let own = self.own_rules(snapshot);
        let is_for_port = |rule: &Rule| matches!(rule.ports.as_slice(), [only] if (only.first, only.last) == (self.port, self.port));
        // Who wrote which methods or paths may be asked for did not mean all of them.
        let is_narrow = |rule: &Rule| {
            let speaks = rule.ports.is_empty() || rule.ports.iter().any(|range| (range.first..=range.last).contains(&self.port));
            speaks && rule.access != Access::Deny && !(rule.methods.is_empty() && rule.paths.is_empty())
        };
        if let Some(rule) = own.iter().find(|rule| is_for_port(rule) || is_narrow(rule)) {
            let (place, only) = (rule.place(), Some(rule.layer).filter(|layer| layer.is_managed()));
            let help = match only {
                Some(layer) => format!("only the {layer} layer can change this: \"{rule}\" in {place} is not for this request"),
                None => format!("have \"{rule}\" in {place} allow such requests too"),
            };
            return Remedy { place: Some(place), follows_to: only.is_none(), only, ..Remedy::words(help) };
        }
        // Another key than that of the rule that there is.
        let key = match (own.is_empty(), self.host) {
            (true, host) => host.to_string(),
            (false, Host::Ip(std::net::IpAddr::V6(ip))) => format!("[{ip}]:{}", self.port),
            (false, host) => format!("{host}:{}", self.port),
        };
        let (table, line) = (table(snapshot, ".domains"), format!("\"{key}\" = \"allow\""));
        let is_managed = snapshot.blob().sources().iter().any(|source| source.layer.is_managed());
        let doubt = match constraints(snapshot) {
            None if is_managed => "; where an administrator lets no other layer allow hosts, it is ignored",
            _ => "",
        };
        let help = format!("add {line} under {table}{doubt}");
        Remedy::line(table, line, help)
    }

    /// A metadata service by its name: it takes a rule for that very name, and local addresses opened.
    fn metadata(&self, snapshot: &Snapshot) -> Remedy {
        let is_named = self.own_rules(snapshot).iter().any(|rule| rule.access != Access::Deny && rule.ports.is_empty());
        match (is_named, snapshot.meta().allow_local_binding) {
            (false, true) => self.allow(snapshot),
            (true, _) => local(snapshot),
            (false, false) => match (self.allow(snapshot), local(snapshot)) {
                (allow, local) if allow.only.is_none() && local.only.is_none() => {
                    Remedy::words(format!("{}, and set allow_local_binding = true", allow.help))
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
    fn by_rule(&self, snapshot: &Snapshot, reason: Reason, layer: &str, place: &str) -> Remedy {
        let at = |remedy: Remedy| Remedy { place: Some(place.to_owned()), ..remedy };
        if let Some(layer) = Layer::named(layer).filter(|layer| layer.is_managed()) {
            return at(Remedy::only(layer, format!("only the {layer} layer can change this: the rule is in {place}")));
        }
        if reason != Reason::Denied {
            return at(Remedy::words(format!("change the rule in {place}")));
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
pub(crate) fn table(snapshot: &Snapshot, below: &str) -> String {
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

/// Addresses that are not public, all of them.
fn local(snapshot: &Snapshot) -> Remedy {
    let (held, domains) = (constraints(snapshot), table(snapshot, ".domains"));
    let (table, line) = (table(snapshot, ""), "allow_local_binding = true".to_owned());
    let address = if managed_only(snapshot).is_none() { format!(", or name the address under {domains}") } else { String::new() };
    match held.map(|held| held.local_binding_required) {
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

/// Another mode. Full is the default: where a policy is limited, some line says so, and one more would be one too many.
fn mode(snapshot: &Snapshot) -> Remedy {
    if snapshot.meta().mode != Mode::Limited {
        let help = "an operator holds the policy to limited mode, and can take that back";
        return Remedy { follows_to: false, ..Remedy::words(help.to_owned()) };
    }
    match constraints(snapshot).map(|held| held.mode_required) {
        Some(Some(layer)) => Remedy::only(layer, format!("only the {layer} layer can change this: it holds mode = \"limited\"")),
        known => {
            let doubt = if known.is_none() { UNLESS } else { "" };
            Remedy::words(format!("change mode = \"limited\" to mode = \"full\" under {}{doubt}", table(snapshot, "")))
        }
    }
}
