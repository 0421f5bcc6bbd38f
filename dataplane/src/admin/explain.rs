//! Why the policy in force answers as it does, as far as the compiled policy tells: the rule, its place, and what would allow it.
//!
//! The verdict is [`Snapshot::decide`]'s, under the mode that is in force. What needs the policy's sources, such as edits tried out, is `netpolicy explain`'s.

use super::backend::Backend;
use super::model::{BlockedRequest, Change, Explanation, Step};
use super::reply::Refusal;
use super::views::rule;
use crate::connect::resolve::LOOPBACK;
use crate::decide::deny::Denial;
use crate::decide::remedy::{By, Refused, Remedy};
use crate::decide::socket;
use crate::policy::Snapshot;
use policy_format::asked::Asked;
use policy_format::{Decision, Denied, Host, Protocol, Reason, Request, Rule, named_by};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Other rules that are shown.
const OTHERS: usize = 20;
/// Addresses that may be asked about at once.
const ADDRESSES: usize = 16;

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
    let addresses: &[IpAddr] = match asked.host {
        // Nobody is asked for these, and nobody says otherwise.
        Host::Name(_) if asked.host.is_localhost() => &LOOPBACK,
        Host::Name(_) => &addresses,
        Host::Ip(_) | Host::NumericLookalike(_) => &[],
    };
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
    Ok(explanation(&snapshot, &asked, addresses, decision, deciding))
}

fn parse_addresses(list: &str) -> Result<Vec<IpAddr>, Refusal> {
    let found: Result<Vec<IpAddr>, String> = list.split(',').map(policy_format::asked::parse_address).collect();
    let found = found.map_err(|error| Refusal::bad(format!("`addresses`: {error}")))?;
    if found.len() > ADDRESSES { Err(Refusal::bad(format!("`addresses`: at most {ADDRESSES} of them"))) } else { Ok(found) }
}

fn explanation(snapshot: &Arc<Snapshot>, asked: &Asked, addresses: &[IpAddr], decision: Decision, deciding: Option<IpAddr>) -> Explanation {
    let (allowed, denied) = match decision {
        Decision::Allow(allowed) => (Some(allowed), None),
        Decision::Deny(denied) => (None, Some(denied)),
    };
    let winner = allowed.map(|allowed| allowed.rule).or(denied.and_then(|denied| denied.rule));
    let deciding_rule = winner.and_then(|id| snapshot.rule(id));
    let others = named_by(snapshot.blob(), &asked.request(&[])).into_iter().filter(|named| Some(named.rule) != winner);
    let others = others.take(OTHERS).filter_map(|named| snapshot.rule(named.rule)).map(|found| rule(&found)).collect();
    let message = match denied {
        Some(denied) => Denial::explained(Arc::clone(snapshot), asked, denied).message(),
        None => allowed_message(asked, deciding_rule.as_ref(), allowed.is_some_and(|allowed| allowed.read_only)),
    };
    // A line for one address leaves the others as they are.
    let is_closed = |ip: &&IpAddr| matches!(asked.decide_by(&|request: &Request<'_>| snapshot.decide(request), &[**ip]), Decision::Deny(_));
    let others_closed = deciding.is_some() && addresses.iter().filter(is_closed).any(|ip| Some(*ip) != deciding);
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
            let (reason, rule) = (denied.reason.as_str(), deciding_rule.as_ref().map(By::from));
            let refused = Refused { reason, asked: asked.clone(), addresses, address: deciding, socket: false, rule };
            refused.remedy(snapshot).map(|remedy| change(if others_closed { remedy.of_several() } else { remedy }))
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

/// What would let a request pass that was refused, under the policy of now; where that allows it, this is said.
pub(super) fn change_of(snapshot: &Snapshot, request: &BlockedRequest) -> Option<Change> {
    // Of a unix socket no path is known. Port 0 is nobody's else.
    let socket = request.port == 0 && request.host == socket::NAME;
    let host = Host::parse(&request.host).ok().filter(|_| socket || request.port != 0)?;
    let protocol = Protocol::named(&request.protocol)?;
    let method = request.method.clone().filter(|_| protocol.is_read());
    let (profile, can_intercept) = (snapshot.profile(), snapshot.can_intercept());
    let asked = Asked { profile, protocol, host, port: request.port, method, path: None, inside: None, can_intercept };
    let rule = match (&request.rule, &request.layer, &request.place) {
        (Some(pattern), Some(layer), Some(place)) => Some(By { pattern: pattern.clone(), layer: layer.clone(), place: place.clone() }),
        _ => None,
    };
    let refused = Refused { reason: &request.reason, asked, addresses: &[], address: None, socket, rule };
    refused.remedy_by_now(snapshot, request.generation).map(change)
}

fn change(remedy: Remedy) -> Change {
    let Remedy { table, toml, place, only, mut help, by_operator, .. } = remedy;
    if by_operator {
        // Which clients are not told.
        help.push_str(": POST /v1/mode with {\"mode\":null}");
    }
    Change { table, toml, place, only: only.map(|layer| layer.as_str().to_owned()), help }
}
