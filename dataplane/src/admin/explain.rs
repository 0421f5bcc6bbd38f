//! Why the policy in force answers as it does, as far as the compiled policy tells: the rule, its place, and what would allow it.
//!
//! The verdict is [`Snapshot::decide`]'s, under the mode that is in force. What needs the policy's sources, such as edits tried out, is `netpolicy explain`'s.

use super::backend::Backend;
use super::model::{Change, Explanation, Step};
use super::reply::Refusal;
use super::views::rule;
use crate::decide::deny::Denial;
use crate::parse::target::Target;
use crate::policy::Snapshot;
use policy_format::asked::Asked;
use policy_format::{Access, Decision, Denied, Host, Layer, Mode, Protocol, Reason, Request, Rule, named_by, net};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Other rules that are shown.
const OTHERS: usize = 20;
/// Addresses that may be asked about at once.
const ADDRESSES: usize = 16;
/// Rules that are looked at for who allows anything, at most.
const RULES: usize = 20_000;

/// Explains what is answered to `words`. `addresses`: what the host resolves to, separated by commas, if that is to be looked at too.
pub(super) fn explain(backend: &dyn Backend, words: &str, addresses: Option<&str>) -> Result<Explanation, Refusal> {
    let snapshot = backend.policy().current();
    let asked = Asked::parse(words).map_err(|error| {
        let help = error.help.map(|help| format!("; {help}")).unwrap_or_default();
        Refusal::bad(format!("`request`: {}{help}", error.what))
    })?;
    let addresses = match addresses {
        Some(list) => parse_addresses(list)?,
        None => Vec::new(),
    };
    let addresses: &[IpAddr] = if matches!(asked.host, Host::Name(_)) { &addresses } else { &[] };
    let asked = Asked { profile: snapshot.profile(), can_intercept: snapshot.can_intercept(), ..asked };
    let decide = |request: &Request<'_>| snapshot.decide(request);
    // Where the tunnel is opened, it is the request inside that is explained.
    let asked = asked.seen_by(&decide, addresses);
    let decision = asked.decide_by(&decide, addresses);
    let by_name = asked.decide_by(&decide, &[]);
    let literal = match asked.host {
        Host::Ip(ip) => Some(ip),
        Host::Name(_) | Host::NumericLookalike(_) => None,
    };
    let is_own = |ip: &IpAddr| backend.is_own(SocketAddr::new(*ip, asked.port));
    let (decision, deciding) = match (by_name, decision) {
        (Decision::Allow(_), Decision::Allow(_)) => match addresses.iter().copied().chain(literal).find(is_own) {
            Some(own) => (Decision::Deny(Denied { reason: Reason::PolicyDenied, rule: None }), Some(own)),
            None => (decision, None),
        },
        (Decision::Allow(_), Decision::Deny(_)) => {
            (decision, addresses.iter().copied().find(|ip| matches!(asked.decide_by(&decide, &[*ip]), Decision::Deny(_))))
        }
        _ => (decision, None),
    };
    Ok(explanation(&snapshot, &asked, addresses, decision, deciding, snapshot.mode()))
}

fn parse_addresses(list: &str) -> Result<Vec<IpAddr>, Refusal> {
    let found: Result<Vec<IpAddr>, String> = list.split(',').map(policy_format::asked::parse_address).collect();
    let found = found.map_err(|error| Refusal::bad(format!("`addresses`: {error}")))?;
    if found.len() > ADDRESSES { Err(Refusal::bad(format!("`addresses`: at most {ADDRESSES} of them"))) } else { Ok(found) }
}

fn explanation(
    snapshot: &Arc<Snapshot>,
    asked: &Asked,
    addresses: &[IpAddr],
    decision: Decision,
    deciding: Option<IpAddr>,
    mode: Mode,
) -> Explanation {
    let (allowed, denied) = match decision {
        Decision::Allow(allowed) => (Some(allowed), None),
        Decision::Deny(denied) => (None, Some(denied)),
    };
    let winner = allowed.map(|allowed| allowed.rule).or(denied.and_then(|denied| denied.rule));
    let deciding_rule = winner.and_then(|id| snapshot.rule(id));
    let others = named_by(snapshot.blob(), &asked.request(&[])).into_iter().filter(|named| Some(named.rule) != winner);
    let others = others.take(OTHERS).filter_map(|named| snapshot.rule(named.rule)).map(|found| rule(&found)).collect();
    let message = match denied {
        Some(denied) => {
            let target = Target { host: asked.host.clone(), port: asked.port };
            Denial::explained(Arc::clone(snapshot), asked.protocol, target, denied).message()
        }
        None => allowed_message(asked, deciding_rule.as_ref(), allowed.is_some_and(|allowed| allowed.read_only)),
    };
    Explanation {
        request: asked.to_string(),
        protocol: asked.protocol.as_str().to_owned(),
        host: asked.host.to_string(),
        port: asked.port,
        method: asked.method.clone(),
        decision: if denied.is_none() { "allow" } else { "deny" }.to_owned(),
        reason: denied.map_or("allow", |denied| denied.reason.as_str()).to_owned(),
        source: denied.map_or("baseline_policy", |denied| denied.reason.source().as_str()).to_owned(),
        proxy_error: denied.map(|denied| denied.reason.proxy_error().to_owned()),
        read_only: allowed.is_some_and(|allowed| allowed.read_only),
        intercept: allowed.is_some_and(|allowed| allowed.intercept),
        hook: allowed.and_then(|allowed| snapshot.hook(allowed.hook?)).map(|hook| hook.name.clone()),
        step: if deciding.is_some() { Step::Address } else { Step::Name },
        address: deciding.map(|ip| ip.to_string()),
        others,
        message,
        notes: notes(snapshot, asked, addresses, decision),
        change: denied.and_then(|denied| {
            let place = deciding_rule.as_ref().map(|rule| (rule.layer.as_str(), rule.place()));
            let place = place.as_ref().map(|(layer, place)| (*layer, place.as_str()));
            let host = deciding.map_or_else(|| asked.host.to_string(), |ip| ip.to_string());
            change(&snapshot.meta().profile, denied.reason.as_str(), &host, place, mode == snapshot.meta().mode)
        }),
        rule: deciding_rule.as_ref().map(rule),
        generation: snapshot.generation(),
    }
}

fn allowed_message(asked: &Asked, by: Option<&Rule>, read_only: bool) -> String {
    let how = if read_only { "allowed, for reading only," } else { "allowed" };
    match by {
        Some(by) => format!("{asked} is {how} by \"{by}\" in {}", by.place()),
        None => format!("{asked} is {how}"),
    }
}

fn notes(snapshot: &Snapshot, asked: &Asked, addresses: &[IpAddr], decision: Decision) -> Vec<String> {
    let mut notes = Vec::new();
    let Decision::Allow(allowed) = decision else { return notes };
    if allowed.intercept {
        notes.push("its TLS is opened, and each request inside is decided by itself; what is not TLS is closed".to_owned());
    }
    if asked.inside.is_some() && !asked.protocol.is_read() {
        notes.push("the method and path are inside TLS and are not seen".to_owned());
    }
    if addresses.is_empty() && matches!(asked.host, Host::Name(_)) && !asked.host.is_localhost() {
        let open = if snapshot.meta().allow_local_binding { "is no cloud metadata service" } else { "is public, or that a rule names" };
        notes.push(format!("it depends on the addresses of the name, too: each has to be one that {open}; `addresses=` looks at them"));
    }
    notes
}

/// What would allow a request that was refused for `reason`. `place`: the layer and the place of the rule that refused it. `is_own_mode`: the mode in force is the policy's.
pub(crate) fn change(profile: &str, reason: &str, host: &str, place: Option<(&str, &str)>, is_own_mode: bool) -> Option<Change> {
    let table = |of: &str| Some(format!("[permissions.{profile}.network{of}]"));
    let only = |layer: &str| ["mdm", "managed"].contains(&layer).then(|| layer.to_owned());
    let parsed = Host::parse(host).ok();
    let metadata = match &parsed {
        Some(Host::Ip(ip)) => net::is_metadata_address(*ip),
        Some(Host::Name(name)) => net::is_metadata_name(name.as_str()),
        _ => false,
    };
    let nameable = matches!(parsed, Some(Host::Ip(_) | Host::Name(_)));
    let add =
        |help: String| Change { table: table(".domains"), toml: Some(format!("\"{host}\" = \"allow\"")), place: None, only: None, help };
    let set = |line: &str| Change {
        table: table(""),
        toml: Some(line.to_owned()),
        place: None,
        only: None,
        help: format!("set {line} under [permissions.{profile}.network]"),
    };
    match (reason, place) {
        ("not_allowed", _) if nameable => Some(add(format!("add \"{host}\" = \"allow\" under [permissions.{profile}.network.domains]"))),
        ("not_allowed_local", _) if metadata && matches!(parsed, Some(Host::Name(_))) => Some(add(format!(
            "add \"{host}\" = \"allow\" under [permissions.{profile}.network.domains], and set allow_local_binding = true"
        ))),
        ("not_allowed_local", _) => match parsed {
            Some(Host::Ip(_)) => {
                Some(add(format!("name the address: add \"{host}\" = \"allow\" under [permissions.{profile}.network.domains]")))
            }
            _ => Some(set("allow_local_binding = true")),
        },
        ("denied" | "method_not_allowed" | "mitm_required", Some((layer, place))) => Some(Change {
            table: None,
            toml: None,
            place: Some(place.to_owned()),
            only: only(layer),
            help: match only(layer) {
                Some(layer) => format!("only the {layer} layer can change this: the rule is in {place}"),
                None => format!("change or remove the rule in {place}"),
            },
        }),
        ("method_not_allowed" | "mitm_required", None) if !is_own_mode => Some(Change {
            table: None,
            toml: None,
            place: None,
            only: None,
            help: "an operator holds the policy to limited mode: POST /v1/mode with {\"mode\":null} takes that back".to_owned(),
        }),
        ("method_not_allowed", None) => Some(set("mode = \"full\"")),
        _ => None,
    }
}

/// What would allow a request, where nothing but the layer `only` allows anything: a line elsewhere may be one that is ignored.
pub(super) fn under(only: Option<Layer>, reason: &str, change: Option<Change>) -> Option<Change> {
    match (only, change) {
        // Whether a line elsewhere counts, a compiled policy does not say.
        (Some(layer), Some(change)) if reason == "not_allowed" && change.only.is_none() => Some(Change {
            table: None,
            toml: None,
            place: None,
            only: None,
            help: format!(
                "nothing but the {layer} layer allows hosts in this policy: where it sets `managed_allowed_domains_only`, a line elsewhere is ignored, and only an administrator can add one there"
            ),
        }),
        (_, change) => change,
    }
}

/// The administrator's layer, where no other layer allows anything, as far as some thousand rules tell.
pub(super) fn only_managed(snapshot: &Snapshot) -> Option<Layer> {
    let is_managed = |layer: Layer| layer <= Layer::Managed;
    let managed = snapshot.blob().sources().iter().map(|source| source.layer).find(|layer| is_managed(*layer))?;
    let mut rules = snapshot.blob().rule_ids().take(RULES).filter_map(|id| snapshot.rule(id));
    let is_all = snapshot.blob().rule_count() as usize <= RULES;
    let weaker_allows = rules.any(|rule| rule.access != Access::Deny && rule.profiles.has(snapshot.profile()) && !is_managed(rule.layer));
    (is_all && !weaker_allows).then_some(managed)
}

/// How somebody asked, by its name.
pub(super) fn protocols() -> [Protocol; 5] {
    [Protocol::Http, Protocol::Https, Protocol::Connect, Protocol::Socks5Tcp, Protocol::Socks5Udp]
}
