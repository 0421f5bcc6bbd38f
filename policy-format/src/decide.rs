//! `decide()`: policy and request in, decision out. Pure: no I/O, no clock, no lock, no allocation.
//!
//! The order is the contract; the first hit wins:
//!
//! 1. the policy is off: `proxy_disabled`
//! 2. the host, as named, matches a deny: `denied`
//! 3. local addresses are closed and the host is `localhost` or a literal that is not public, which no allow names itself: `not_allowed_local`
//! 4. no allow matches: `not_allowed`
//! 5. read-only, and a method that writes: `method_not_allowed`
//! 6. read-only, and traffic that cannot be read: `mitm_required`
//! 7. then, with addresses: one is in a denied network: `denied`; one is not public and nothing opens it: `not_allowed_local`
//!
//! Any matching deny beats any matching allow. Among rules of one access, the one that fixes most of the name is reported; among
//! allows it also says whether the request is read-only.

use crate::blob::Blob;
use crate::decision::{Allowed, Decision, Denied, Reason};
use crate::host::Host;
use crate::net;
use crate::records::{Mode, Network};
use crate::request::{Protocol, Request};
use crate::rules::{Access, RuleId, RuleKind};
use std::net::IpAddr;

/// Decides `request` under `policy`.
#[must_use]
pub fn decide<B: AsRef<[u8]>>(policy: &Blob<B>, request: &Request<'_>) -> Decision {
    match verdict(policy, request) {
        Ok(allowed) => Decision::Allow(allowed),
        Err(denied) => Decision::Deny(denied),
    }
}

fn verdict<B: AsRef<[u8]>>(policy: &Blob<B>, request: &Request<'_>) -> Result<Allowed, Denied> {
    let meta = policy.meta();
    if meta.network != Network::Proxied {
        return Err(deny(Reason::ProxyDisabled));
    }
    let matched = match_host(policy, request);
    if let Some(best) = matched.deny {
        return Err(Denied { reason: Reason::Denied, rule: Some(best.rule) });
    }
    let literal = match request.host {
        Host::Ip(ip) => Some(*ip),
        Host::Name(_) | Host::NumericLookalike(_) => None,
    };
    let local = request.host.is_localhost() || literal.is_some_and(|ip| net::non_public(ip).is_some());
    if local && !meta.allow_local_binding && !matched.named {
        return Err(deny(Reason::NotAllowedLocal));
    }
    let Some(best) = matched.allow else { return Err(deny(Reason::NotAllowed)) };
    let metadata_name = request.host.name().is_some_and(|name| net::is_metadata_name(name.as_str()));
    if metadata_name && !matched.named {
        return Err(deny(Reason::NotAllowedLocal));
    }

    let read_only = meta.mode == Mode::Limited || best.access == Access::ReadOnly;
    if read_only {
        check_readable(request).map_err(|reason| Denied { reason, rule: (best.access == Access::ReadOnly).then_some(best.rule) })?;
    }

    let opened =
        Opened { local: meta.allow_local_binding, loopback: request.host.is_localhost() && matched.named, metadata: metadata_name };
    for ip in literal.iter().chain(request.addresses) {
        check_address(policy, request.port, *ip, opened)?;
    }
    Ok(Allowed { rule: best.rule, read_only })
}

fn deny(reason: Reason) -> Denied {
    Denied { reason, rule: None }
}

/// Read-only lets pass what is seen to read: a plain request with a safe method (RFC 9110, section 9.2.1, without TRACE, which no
/// client of ours needs).
fn check_readable(request: &Request<'_>) -> Result<(), Reason> {
    match (request.protocol, request.method) {
        (Protocol::Http, Some("GET" | "HEAD" | "OPTIONS")) => Ok(()),
        (Protocol::Http, _) => Err(Reason::MethodNotAllowed),
        (Protocol::Connect | Protocol::Socks5Tcp | Protocol::Socks5Udp, _) => Err(Reason::MitmRequired),
    }
}

/// What opens addresses that are not public, apart from rules that name them.
#[derive(Clone, Copy)]
struct Opened {
    /// All of them but metadata services.
    local: bool,
    /// Loopback, for a `localhost` that is itself allowed.
    loopback: bool,
    /// With `local`: metadata services, for a metadata name that is itself allowed.
    metadata: bool,
}

fn check_address<B: AsRef<[u8]>>(policy: &Blob<B>, port: u16, ip: IpAddr, opened: Opened) -> Result<(), Denied> {
    let covering = match_address(policy, port, ip);
    if let Some(best) = covering.deny {
        return Err(Denied { reason: Reason::Denied, rule: Some(best.rule) });
    }
    let open = if net::is_metadata_address(ip) {
        covering.named_exactly || (opened.local && opened.metadata)
    } else {
        opened.local || covering.named || (opened.loopback && ip.is_loopback()) || net::non_public(ip).is_none()
    };
    if open { Ok(()) } else { Err(deny(Reason::NotAllowedLocal)) }
}

/// The best rule of one access so far.
#[derive(Clone, Copy)]
struct Best {
    rank: usize,
    rule: RuleId,
    access: Access,
}

/// What matched a host or an address.
#[derive(Clone, Copy, Default)]
struct Matched {
    deny: Option<Best>,
    allow: Option<Best>,
    /// An allow names the host itself: exactly, or as a network that holds the literal.
    named: bool,
    /// An allow names the one address.
    named_exactly: bool,
}

/// A name that is fixed whole outranks every pattern that fixes a part.
const EXACT: usize = 1 << 16;

impl Matched {
    fn add<B: AsRef<[u8]>>(&mut self, policy: &Blob<B>, id: RuleId, rank: usize, port: u16, applies: impl Fn(RuleKind) -> bool) {
        let Some((record, attributes)) = policy.rule_record(id) else { return };
        if !applies(record.kind) || !attributes.covers(policy.ports(), port) {
            return;
        }
        let rank = if record.kind == RuleKind::Exact { rank + EXACT } else { rank };
        let best = Some(Best { rank, rule: id, access: attributes.access });
        if attributes.access == Access::Deny {
            self.deny = if self.deny.is_none_or(|old| old.rank <= rank) { best } else { self.deny };
        } else {
            self.allow = if self.allow.is_none_or(|old| old.rank <= rank) { best } else { self.allow };
            self.named |= matches!(record.kind, RuleKind::Exact | RuleKind::Network);
        }
    }
}

fn match_host<B: AsRef<[u8]>>(policy: &Blob<B>, request: &Request<'_>) -> Matched {
    let port = request.port;
    let mut matched = match request.host {
        // No rule can name it, and no wildcard means it.
        Host::NumericLookalike(_) => return Matched::default(),
        Host::Ip(ip) => match_address(policy, port, *ip),
        Host::Name(name) => {
            let mut matched = Matched::default();
            let name = name.as_bytes();
            policy.trie().walk(name, |suffix, rules| {
                let whole = suffix == name.len();
                for id in rules {
                    matched.add(policy, RuleId(id), suffix, port, |kind| match kind {
                        RuleKind::Exact => whole,
                        RuleKind::Subdomains => !whole,
                        RuleKind::ApexAndSubdomains => true,
                        RuleKind::Any | RuleKind::Network | RuleKind::Glob => false,
                    });
                }
            });
            policy.for_each_glob(name, |id, literals| matched.add(policy, id, literals, port, |kind| kind == RuleKind::Glob));
            matched
        }
    };
    for id in 0..policy.trie().any_rules {
        matched.add(policy, RuleId(id), 0, port, |kind| kind == RuleKind::Any);
    }
    matched
}

/// The networks that hold an address. An allow must name the address in the very form that is used; a deny also reaches an IPv4 address
/// that an IPv6 address carries.
fn match_address<B: AsRef<[u8]>>(policy: &Blob<B>, port: u16, ip: IpAddr) -> Matched {
    let mut matched = Matched::default();
    for (rank, id) in policy.addresses().covering(ip).enumerate() {
        let single = policy.rule_network(id).is_some_and(|network| network.is_single());
        let named_before = std::mem::take(&mut matched.named);
        matched.add(policy, id, rank + 1, port, |kind| kind == RuleKind::Network);
        matched.named_exactly |= matched.named && single;
        matched.named |= named_before;
    }
    if let IpAddr::V6(v6) = ip {
        for v4 in net::embedded_ipv4(v6).into_iter().flatten() {
            let carried = match_address(policy, port, IpAddr::V4(v4));
            matched.deny = matched.deny.or(carried.deny);
        }
    }
    matched
}
