//! `decide()`: policy and request in, decision out. Pure: no I/O, no clock, no lock, no allocation.
//!
//! The order is the contract; the first hit wins:
//!
//! 1. the policy is off: `proxy_disabled`
//! 2. the host, as named, matches a deny: `denied`
//! 3. local addresses are closed and the host is `localhost` or a literal that is not public, which no allow names itself: `not_allowed_local`
//! 4. no allow matches: `not_allowed`
//! 5. a host that has hooks, to be reached by a plain request: `mitm_required`
//! 6. a tunnel to a host that has hooks or credentials, or where every request is to be read, and it can be neither opened nor, because it is bypassed, left closed: `mitm_required`
//! 7. read-only, and a method that writes: `method_not_allowed`
//! 8. read-only, or a rule that asks for methods or paths, and a tunnel that cannot be opened; read-only, and SOCKS5 to a port other than 443: `mitm_required`
//! 9. a request inside TLS, to a host that has hooks, none of which matches: `mitm_hook_denied`
//! 10. then, with addresses: one is in a denied network: `denied`; one is not public and nothing opens it: `not_allowed_local`
//!
//! Any matching deny beats any matching allow. Among rules of one access, the one that fixes most of the name is reported; among
//! allows it also says whether the request is read-only. A rule's methods and paths are part of its match; in a tunnel, which is not read yet, a deny that has
//! them might match, and an allow that has them might not: both need the tunnel to be opened.
//!
//! Whoever asks may set the mode ([`Overrides::mode`]), or let on what it merely does not name ([`Overrides::granted`], which stands in for step 4 and for no other); or ask what a rule more would
//! do ([`Overrides::with_rule`]).
//!
//! A tunnel that has to be opened, by somebody who can open it, is allowed under that very term ([`Allowed::intercept`]): the requests inside are decided one by one.

use crate::blob::Blob;
use crate::conditions::Held;
use crate::decision::{Allowed, Decision, Denied, Reason};
use crate::host::Host;
use crate::net;
use crate::records::{MitmMode, Mode, Network};
use crate::request::{Protocol, Request};
use crate::rules::{Access, RuleId, RuleKind, TermsRecord};
use std::net::IpAddr;

/// What somebody beside the policy says: whoever runs the proxy, or the program that embeds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The mode, in place of the policy's own. Whoever sets `full` here has seen that no requirement of the policy's holds it to `limited`: this is not looked at again.
    pub mode: Option<Mode>,
    /// The host is allowed although no rule does it. Nothing else is: what a rule denies, addresses that are not public, and what limited mode asks for stay as they are.
    pub granted: bool,
    /// As if there were one more rule, `allow`, for exactly this host and port; it also opens the host's own address where that takes a rule naming it. For finding out what would let a
    /// request pass; never for letting one pass.
    pub with_rule: bool,
}

/// Decides `request` under `policy`.
#[must_use]
pub fn decide<B: AsRef<[u8]>>(policy: &Blob<B>, request: &Request<'_>) -> Decision {
    decide_with(policy, request, Overrides::default())
}

/// The same, where somebody beside the policy has a say.
#[must_use]
pub fn decide_with<B: AsRef<[u8]>>(policy: &Blob<B>, request: &Request<'_>, overrides: Overrides) -> Decision {
    match verdict(policy, request, overrides) {
        Ok(allowed) => Decision::Allow(allowed),
        Err(denied) => Decision::Deny(denied),
    }
}

/// What stands for the rule where there is none: no rule of any policy has this number.
const NO_RULE: RuleId = RuleId(u32::MAX);

fn verdict<B: AsRef<[u8]>>(policy: &Blob<B>, request: &Request<'_>, overrides: Overrides) -> Result<Allowed, Denied> {
    let Some(meta) = policy.profile_meta(request.profile) else { return Err(deny(Reason::PolicyDenied)) };
    if meta.network != Network::Proxied {
        return Err(deny(Reason::ProxyDisabled));
    }
    let mut matched = match_host(policy, request);
    // No rule can name a look-alike, and nobody else can either: programs do not agree on what it means.
    let can_be_named = !matches!(request.host, Host::NumericLookalike(_));
    if overrides.with_rule && can_be_named {
        (matched.allow, matched.named) = (Some(TRIED), true);
    }
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
    let granted = (overrides.granted && can_be_named).then_some(GRANTED);
    let Some(best) = matched.allow.or(matched.unseen_allow).or(granted) else { return Err(deny(Reason::NotAllowed)) };
    let metadata_name = request.host.name().is_some_and(|name| net::is_metadata_name(name.as_str()));
    if metadata_name && !matched.named {
        return Err(deny(Reason::NotAllowedLocal));
    }

    let hooked = policy.is_hooked(request.profile, request.host);
    let limited = overrides.mode.unwrap_or(meta.mode) == Mode::Limited;
    let read_only = limited || best.access == Access::ReadOnly;
    let sight = Sight::new(policy, request, read_only);
    let mut intercept = false;
    if !request.protocol.is_read() {
        let wanted = hooked || meta.mitm.mode == MitmMode::Always || policy.is_credentialed(request.profile, request.host, request.port);
        if wanted && !policy.is_bypassed(request.profile, request.host, request.port) {
            intercept |= sight.needed(None)?;
        }
    } else if hooked && request.protocol == Protocol::Http {
        return Err(deny(Reason::MitmRequired));
    }
    if read_only {
        let rule = (best.access == Access::ReadOnly).then_some(best.rule);
        if request.protocol.is_read() && !request.method.is_some_and(|method| READING.contains(&method)) {
            return Err(Denied { reason: Reason::MethodNotAllowed, rule });
        }
        intercept |= sight.needed(rule)?;
    }
    if let Some(unseen) = matched.needs_sight() {
        intercept |= sight.needed(Some(unseen))?;
    }
    let hook = match hooked && request.protocol == Protocol::Https {
        true => Some(policy.matching_hook(request).ok_or(deny(Reason::MitmHookDenied))?),
        false => None,
    };

    let opened = Opened {
        local: meta.allow_local_binding,
        loopback: request.host.is_localhost() && matched.named,
        metadata: metadata_name,
        literal: literal.filter(|_| overrides.with_rule),
    };
    let mut unconditional = !(hooked || read_only || matched.conditional);
    // A literal is what it is dialled as: once is enough.
    for ip in literal.iter().chain(request.addresses.iter().filter(|ip| Some(**ip) != literal)) {
        let address = check_address(policy, request, *ip, opened, sight)?;
        intercept |= address.intercept;
        unconditional &= address.unconditional;
    }
    // Where a bypass keeps it closed nobody sees that only what reads goes through.
    Ok(Allowed { rule: best.rule, read_only: read_only && sight != Sight::Waived, intercept, hook, unconditional })
}

/// What becomes of a tunnel that a policy has to see into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// It is no tunnel: all is seen.
    Clear,
    /// It is opened.
    Opened,
    /// It stays closed, and the policy takes that.
    Waived,
    /// It stays closed, and may not be.
    Blocked,
}

impl Sight {
    #[inline]
    fn new<B: AsRef<[u8]>>(policy: &Blob<B>, request: &Request<'_>, read_only: bool) -> Self {
        match request.protocol {
            Protocol::Http | Protocol::Https => Self::Clear,
            // As in the proxy whose policies this reads: where only reading may pass, SOCKS5 carries nothing but TLS to its usual port.
            Protocol::Socks5Tcp if read_only && request.port != HTTPS_PORT => Self::Blocked,
            Protocol::Connect | Protocol::Socks5Tcp => match policy.is_bypassed(request.profile, request.host, request.port) {
                true if policy.settings(request.profile).is_some_and(|settings| settings.bypass_read_only) => Self::Waived,
                true => Self::Blocked,
                false if request.can_intercept => Self::Opened,
                false => Self::Blocked,
            },
            Protocol::Socks5Udp => Self::Blocked,
        }
    }

    /// Whether the tunnel has to be opened, where `rule`, or something else if there is none, needs to see into it.
    fn needed(self, rule: Option<RuleId>) -> Result<bool, Denied> {
        match self {
            Self::Clear | Self::Waived => Ok(false),
            Self::Opened => Ok(true),
            Self::Blocked => Err(Denied { reason: Reason::MitmRequired, rule }),
        }
    }
}

/// The port of HTTP over TLS: the only one that SOCKS5 reaches where only reading may pass.
pub const HTTPS_PORT: u16 = 443;

fn deny(reason: Reason) -> Denied {
    Denied { reason, rule: None }
}

/// Methods that read: the safe ones (RFC 9110, section 9.2.1) without TRACE, which no client of ours needs.
pub const READING: [&str; 3] = ["GET", "HEAD", "OPTIONS"];

/// What opens addresses that are not public, apart from rules that name them.
#[derive(Clone, Copy)]
struct Opened {
    /// All of them but metadata services.
    local: bool,
    /// Loopback, for a `localhost` that is itself allowed.
    loopback: bool,
    /// With `local`: metadata services, for a metadata name that is itself allowed.
    metadata: bool,
    /// This very address.
    literal: Option<IpAddr>,
}

/// Under which terms an address may be dialled.
struct Address {
    /// The tunnel has to be opened because of it.
    intercept: bool,
    /// Neither method nor path had a say.
    unconditional: bool,
}

fn check_address<B: AsRef<[u8]>>(
    policy: &Blob<B>,
    request: &Request<'_>,
    ip: IpAddr,
    opened: Opened,
    sight: Sight,
) -> Result<Address, Denied> {
    let covering = match_address(policy, request, ip);
    if let Some(best) = covering.deny {
        return Err(Denied { reason: Reason::Denied, rule: Some(best.rule) });
    }
    let intercept = covering.unseen_deny.map_or(Ok(false), |best| sight.needed(Some(best.rule)))?;
    let open = if opened.literal == Some(ip) {
        true
    } else if net::is_metadata_address(ip) {
        covering.named_exactly || (opened.local && opened.metadata)
    } else {
        opened.local || covering.named || (opened.loopback && ip.is_loopback()) || net::non_public(ip).is_none()
    };
    if open { Ok(Address { intercept, unconditional: !covering.conditional }) } else { Err(deny(Reason::NotAllowedLocal)) }
}

/// The step for addresses alone: what the policy says of one address that the name of a request leads to, if it allows the request as it stands, without
/// addresses. For comparisons of policies, which look at names and at addresses apart.
///
/// # Errors
/// [`Denied`] as [`decide()`] would say it.
pub fn decide_address<B: AsRef<[u8]>>(policy: &Blob<B>, request: &Request<'_>, ip: IpAddr) -> Result<(), Denied> {
    let Some(meta) = policy.profile_meta(request.profile) else { return Err(deny(Reason::PolicyDenied)) };
    // A name of these kinds that is allowed is allowed because a rule names it, or else everything local is open anyway.
    let opened = Opened {
        local: meta.allow_local_binding,
        loopback: request.host.is_localhost(),
        metadata: request.host.name().is_some_and(|name| net::is_metadata_name(name.as_str())),
        literal: None,
    };
    check_address(policy, request, ip, opened, Sight::new(policy, request, meta.mode == Mode::Limited)).map(|_| ())
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
    /// A deny that asks for a method or a path that cannot be seen.
    unseen_deny: Option<Best>,
    /// An allow that does.
    unseen_allow: Option<Best>,
    /// An allow names the host itself: exactly, or as a network that holds the literal.
    named: bool,
    /// An allow names the one address.
    named_exactly: bool,
    /// A rule for the host and the port asks for a method or a path, whether it holds or not.
    conditional: bool,
}

/// What stands for a rule where somebody beside the policy allows the host.
const GRANTED: Best = Best { rank: 0, rule: NO_RULE, access: Access::Allow };

/// What stands for a rule that names the host itself, and is tried.
const TRIED: Best = Best { rank: usize::MAX, ..GRANTED };

/// A name that is fixed whole outranks every pattern that fixes a part.
const EXACT: usize = 1 << 16;

impl Matched {
    fn add<B: AsRef<[u8]>>(&mut self, policy: &Blob<B>, request: &Request<'_>, found: Found) {
        let Found { id, rank, kind, terms } = found;
        if !terms.profiles.has(request.profile) || !terms.covers(policy.ports(), request.port) {
            return;
        }
        let denies = terms.access == Access::Deny;
        self.conditional |= policy.is_conditional(&terms);
        let held = policy.conditions(&terms).map_or(Held::Yes, |conditions| conditions.hold(request, denies));
        let place = match (held, denies) {
            (Held::No, _) => return,
            (Held::Yes, true) => &mut self.deny,
            (Held::Yes, false) => &mut self.allow,
            (Held::Unseen, true) => &mut self.unseen_deny,
            (Held::Unseen, false) => &mut self.unseen_allow,
        };
        if place.is_none_or(|old| old.rank <= rank) {
            *place = Some(Best { rank, rule: id, access: terms.access });
        }
        self.named |= !denies && matches!(kind, RuleKind::Exact | RuleKind::Network);
    }

    /// The rule for which a tunnel has to be opened: a deny that might match; an allow without which nothing is allowed; a read-only rule that might
    /// match and is closer than what allows the tunnel as it is.
    fn needs_sight(&self) -> Option<RuleId> {
        let allow = match (self.allow, self.unseen_allow) {
            (None, unseen) => unseen,
            (Some(seen), Some(unseen)) if unseen.access == Access::ReadOnly && unseen.rank >= seen.rank => Some(unseen),
            _ => None,
        };
        self.unseen_deny.or(allow).map(|best| best.rule)
    }
}

/// A rule that names a host, whatever it says of ports, methods and paths.
#[derive(Clone, Copy)]
struct Found {
    id: RuleId,
    rank: usize,
    kind: RuleKind,
    terms: TermsRecord,
}

/// Calls `each` for the rules that name `host`, in no order, with how much of it they fix.
#[inline]
fn for_each_rule<B: AsRef<[u8]>>(policy: &Blob<B>, host: &Host, mut each: impl FnMut(Found)) {
    let mut add = |id: RuleId, rank: usize, kind: RuleKind, terms: u32| {
        let Some(terms) = policy.terms(terms) else { return };
        let rank = if kind == RuleKind::Exact { rank + EXACT } else { rank };
        each(Found { id, rank, kind, terms });
    };
    match host {
        // No rule can name it, and no wildcard means it.
        Host::NumericLookalike(_) => return,
        Host::Ip(ip) => {
            for (rank, id) in policy.addresses().covering(*ip) {
                if let Some(rule) = policy.listed(id).filter(|rule| rule.kind == RuleKind::Network) {
                    add(id, rank, rule.kind, u32::from(rule.terms));
                }
            }
        }
        Host::Name(name) => {
            policy.for_each_named(name, |named| add(named.id, named.suffix, named.kind, named.terms));
            policy.for_each_glob(name.as_bytes(), |id, literals| {
                if let Some(rule) = policy.listed(id).filter(|rule| rule.kind == RuleKind::Glob) {
                    add(id, literals, rule.kind, u32::from(rule.terms));
                }
            });
        }
    }
    policy.for_each_any(|id, rule| add(id, 0, rule.kind, u32::from(rule.terms)));
}

fn match_host<B: AsRef<[u8]>>(policy: &Blob<B>, request: &Request<'_>) -> Matched {
    let mut matched = Matched::default();
    for_each_rule(policy, request.host, |found| matched.add(policy, request, found));
    if let Host::Ip(ip) = request.host {
        matched.add_carried(policy, request, *ip);
    }
    matched
}

/// The networks that hold an address. An allow must name the address in the very form that is used; a deny also reaches an IPv4 address
/// that an IPv6 address carries.
fn match_address<B: AsRef<[u8]>>(policy: &Blob<B>, request: &Request<'_>, ip: IpAddr) -> Matched {
    let mut matched = Matched::default();
    for (rank, id) in policy.addresses().covering(ip) {
        let Some(rule) = policy.listed(id) else { continue };
        let Some(terms) = policy.terms(u32::from(rule.terms)) else { continue };
        let named_before = std::mem::take(&mut matched.named);
        matched.add(policy, request, Found { id, rank, kind: rule.kind, terms });
        matched.named_exactly |= matched.named && policy.rule_network(id).is_some_and(|network| network.is_single());
        matched.named |= named_before;
    }
    matched.add_carried(policy, request, ip);
    matched
}

impl Matched {
    fn add_carried<B: AsRef<[u8]>>(&mut self, policy: &Blob<B>, request: &Request<'_>, ip: IpAddr) {
        let IpAddr::V6(v6) = ip else { return };
        for v4 in net::embedded_ipv4(v6).into_iter().flatten() {
            let carried = match_address(policy, request, IpAddr::V4(v4));
            self.deny = self.deny.or(carried.deny);
            self.unseen_deny = self.unseen_deny.or(carried.unseen_deny);
            self.conditional |= carried.conditional;
        }
    }
}

/// A rule that names a host: exactly, by a wildcard, or as a network. For explanations: the decision itself does not need the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedBy {
    /// The rule.
    pub rule: RuleId,
    /// How much of the name or the address it fixes: among rules of one access, the highest decides, and of equals the last.
    pub rank: usize,
    /// Whether its ports, methods and paths hold of the request; `None` when the request cannot be read and they might.
    pub holds: Option<bool>,
}

/// Every rule that names the host of a request, whatever it says of ports, methods and paths; the closest first. For an address, rules for the IPv4 address
/// that an IPv6 address carries are among them if they deny.
#[must_use]
pub fn named_by<B: AsRef<[u8]>>(policy: &Blob<B>, request: &Request<'_>) -> Vec<NamedBy> {
    let mut named = Vec::new();
    let mut add = |found: Found| {
        if !found.terms.profiles.has(request.profile) {
            return;
        }
        let conditions = policy.conditions(&found.terms);
        let held = conditions.map_or(Held::Yes, |conditions| conditions.hold(request, found.terms.access == Access::Deny));
        let holds = match held {
            _ if !found.terms.covers(policy.ports(), request.port) => Some(false),
            Held::Yes => Some(true),
            Held::No => Some(false),
            Held::Unseen => None,
        };
        named.push(NamedBy { rule: found.id, rank: found.rank, holds });
    };
    for_each_rule(policy, request.host, &mut add);
    if let Host::Ip(IpAddr::V6(v6)) = request.host {
        for v4 in net::embedded_ipv4(*v6).into_iter().flatten() {
            for_each_rule(policy, &Host::Ip(IpAddr::V4(v4)), |found| {
                if found.terms.access == Access::Deny && found.kind == RuleKind::Network {
                    add(found);
                }
            });
        }
    }
    named.sort_by_key(|named| (std::cmp::Reverse(named.rank), named.rule));
    named.dedup_by_key(|named| named.rule);
    named
}
