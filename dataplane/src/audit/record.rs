//! `Event`: what is written to logs, kept in the ring and sent to subscribers. It owns what it says.
//!
//! Nothing of a path, a query, a header or a body can be in one: there is no field that such a thing could be put into.

use super::event::{self, Closed, Decided, Ending, Verdict};
use crate::digits;
use policy_format::{AuditLevel, Decision, HostRef, Mode, Protocol, RuleId, events};
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Something that has happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When: milliseconds since 1970, UTC.
    pub time: u64,
    /// Its place among all events that were told, from 1. As long as it was not told: nanoseconds behind [`Self::time`], by which it gets its place.
    pub sequence: u64,
    /// The policy, and the rule, that it speaks of. `None` as long as it was not told, and where it speaks of none.
    pub label: Option<Arc<Label>>,
    /// What.
    pub kind: Kind,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A request was decided.
    Decision(Judged),
    /// Something that was allowed has ended.
    Close(Ended),
    /// What was allowed is closed, because the policy in force does not allow it.
    Revoked(Judged),
    /// The first bytes in a tunnel speak of a server that the policy does not allow, or that cannot be made out.
    Inner {
        /// What was decided of that server.
        judged: Judged,
        /// Whether the tunnel is closed for it.
        closed: bool,
    },
    /// A policy came into force, or did not.
    Policy(Change),
    /// What methods may pass was set while it runs, or is the policy's again.
    Mode {
        /// What is in force now.
        mode: Mode,
        /// Whether an operator set it.
        set: bool,
        /// The policy, as it is in force with it.
        generation: u64,
    },
    /// A limit was reached.
    Limit(Box<Reached>),
    /// Something that whoever runs the proxy has to see to.
    Fault(Box<str>),
    /// Events that are not told: there was no room for them.
    Lost(Gap),
    /// The proxy begins to serve.
    Start(Start),
    /// It does not serve any more. Nothing comes after it.
    Stop,
}

/// Whom an event is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    /// The number that joins a decision with its close; 0 is none.
    pub id: u64,
    /// The policy that decided, by its number since the start.
    pub generation: u64,
    /// Who asked.
    pub client: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// The host; `unix-socket` stands for one of those.
    pub host: Text,
    /// The port; 0 for a unix socket.
    pub port: u16,
}

/// A request, and what was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// Whom it is about.
    pub exchange: Exchange,
    /// The method, where there is one.
    pub method: Option<Cow<'static, str>>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why, for machines.
    pub reason: Cow<'static, str>,
    /// Who decided, for machines.
    pub source: &'static str,
    /// An embedding program allowed what no rule does.
    pub is_override: bool,
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
}

/// How something that was allowed has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// Whom it is about.
    pub exchange: Exchange,
    /// Bytes from the client.
    pub up: u64,
    /// Bytes to it.
    pub down: u64,
    /// From the decision to the end.
    pub duration: Duration,
    /// How.
    pub ending: Ending,
}

/// What came of a new policy.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It is in force.
    Swapped {
        /// Its number since the start.
        generation: u64,
        /// How many rules it has.
        rules: u32,
    },
    /// It was refused, and why; the policy in force is the old one.
    Refused(Box<str>),
    /// The file of the policy in force was changed under it, and everything is blocked.
    Withdrawn(Box<str>),
}

/// A limit that was reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Reached {
    /// Its name.
    pub limit: &'static str,
    /// How often since the last event that says so: this one, and those for which there were too many in a second.
    pub count: u64,
    /// By whom, the last time, if by one client.
    pub client: Option<SocketAddr>,
    /// On the way to which host.
    pub host: Option<Text>,
    /// To which port.
    pub port: Option<u16>,
}

/// Events that are not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// How many.
    pub count: u64,
    /// When the first of them happened: milliseconds since 1970.
    pub since: u64,
    /// To which sink they are not told; `None`: to none at all.
    pub sink: Option<&'static str>,
}

/// How it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The policy's number: 1, unless it was replaced meanwhile.
    pub generation: u64,
    /// The number of the process.
    pub process: u32,
}

/// What an event's policy and rule are called. One for all events that speak of the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The policy.
    pub policy: Arc<PolicyName>,
    /// The rule, if there is one.
    pub rule: Option<RuleName>,
    /// All of it as members of a JSON object, a comma in front.
    pub(crate) json: Box<[u8]>,
}

/// What a policy is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyName {
    /// Its number since the start.
    pub generation: u64,
    /// Its digest, in hexadecimal digits.
    pub digest: String,
    /// The profile that requests are decided under.
    pub profile: String,
    /// What methods may pass.
    pub mode: Mode,
}

/// What a rule is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleName {
    /// Its number in the policy.
    pub id: u32,
    /// Its pattern.
    pub pattern: String,
    /// The layer that has it.
    pub layer: &'static str,
    /// The file and the line, as `config.toml:12`.
    pub place: String,
    /// What its author says of it; may be empty.
    pub reason: String,
}

/// Which events somebody wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants(u8);

impl Wants {
    /// None.
    pub const NONE: Self = Self(0);
    /// Requests that were allowed.
    pub const ALLOWS: Self = Self(1);
    /// Requests that were not, and what of them was closed later: revoked, or looked into.
    pub const DENIALS: Self = Self(2);
    /// Ends.
    pub const CLOSES: Self = Self(4);
    /// What is about the proxy rather than about a request: policies, modes, faults, events that were lost, start and stop.
    pub const STATE: Self = Self(8);
    /// Limits that were reached.
    pub const LIMITS: Self = Self(16);
    /// All of them.
    pub const ALL: Self = Self(31);

    /// These and those.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether any of those is among them.
    #[must_use]
    pub const fn any(self, of: Self) -> bool {
        self.0 & of.0 != 0
    }

    /// What there is at a level.
    #[must_use]
    pub const fn at(level: AuditLevel) -> Self {
        match level {
            AuditLevel::Off => Self::NONE,
            AuditLevel::Denied => Self::DENIALS.and(Self::STATE),
            AuditLevel::Decisions => Self::DENIALS.and(Self::STATE).and(Self::ALLOWS),
            AuditLevel::All => Self::ALL,
        }
    }

    pub(super) const fn bits(self) -> u8 {
        self.0
    }

    pub(super) const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL.0)
    }
}

impl Kind {
    /// The name of the event.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Decision(_) => events::DECISION,
            Self::Close(_) => events::CLOSED,
            Self::Revoked(_) => events::REVOKED,
            Self::Inner { .. } => events::INNER,
            Self::Policy(_) => events::POLICY,
            Self::Mode { .. } => events::MODE,
            Self::Limit(_) => events::LIMIT,
            Self::Fault(_) => events::FAULT,
            Self::Lost(_) => events::LOST,
            Self::Start(_) => events::START,
            Self::Stop => events::STOP,
        }
    }

    /// Who wants it: one of the constants of [`Wants`].
    #[must_use]
    pub fn of(&self) -> Wants {
        match self {
            Self::Decision(judged) if judged.verdict == Verdict::Allow => Wants::ALLOWS,
            Self::Decision(_) | Self::Revoked(_) | Self::Inner { .. } => Wants::DENIALS,
            Self::Close(_) => Wants::CLOSES,
            Self::Limit(_) => Wants::LIMITS,
            Self::Policy(_) | Self::Mode { .. } | Self::Fault(_) | Self::Lost(_) | Self::Start(_) | Self::Stop => Wants::STATE,
        }
    }

    /// The decision, where there is one.
    #[must_use]
    pub fn judged(&self) -> Option<&Judged> {
        match self {
            Self::Decision(judged) | Self::Revoked(judged) | Self::Inner { judged, .. } => Some(judged),
            _ => None,
        }
    }

    /// Whom it is about, where it is about a request.
    #[must_use]
    pub fn exchange(&self) -> Option<&Exchange> {
        match self {
            Self::Close(ended) => Some(&ended.exchange),
            _ => self.judged().map(|judged| &judged.exchange),
        }
    }

    /// Which policy it speaks of.
    pub(super) fn generation(&self) -> Option<u64> {
        match self {
            Self::Policy(Change::Swapped { generation, .. }) | Self::Mode { generation, .. } | Self::Start(Start { generation, .. }) => {
                Some(*generation)
            }
            _ => self.exchange().map(|exchange| exchange.generation),
        }
    }
}

impl Event {
    /// One that happens now.
    #[must_use]
    pub fn now(kind: Kind) -> Self {
        Self::at(since_1970(), kind)
    }

    /// One that happened so long after the beginning of 1970.
    pub(super) fn at(since: Duration, kind: Kind) -> Self {
        Self { time: millis(since), sequence: u64::from(since.subsec_nanos() % 1_000_000), label: None, kind }
    }

    /// One line of JSON, without metadata and without a line feed, as the logs have it.
    #[must_use]
    pub fn json(&self) -> String {
        let mut line = Vec::with_capacity(1024);
        super::json::Encoder::default().line(&mut line, self);
        line.pop();
        String::from_utf8(line).unwrap_or_default()
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    millis(since_1970())
}

pub(super) fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn millis(since: Duration) -> u64 {
    // Shorter than by `as_millis`, which has 128 bits.
    since.as_secs().saturating_mul(1000).saturating_add(u64::from(since.subsec_millis()))
}

/// The number that stands for no rule, where somebody beside the policy allows a request.
const NO_RULE: RuleId = RuleId(u32::MAX);

impl Judged {
    /// What an observer is told, to keep.
    #[must_use]
    pub fn of(event: &Decided<'_>) -> Self {
        let reason = match (event.decider, event.decision) {
            (None, Decision::Allow(_)) => Cow::Borrowed(event::ALLOWED),
            (None, Decision::Deny(denied)) => Cow::Borrowed(denied.reason.as_str()),
            (Some(_), _) => Cow::Owned(event.reason().to_owned()),
        };
        Self {
            exchange: Exchange {
                id: event.id,
                generation: event.snapshot.generation(),
                client: event.client,
                protocol: event.protocol,
                host: Text::of(event.host.into()),
                port: event.port,
            },
            method: shown_method(event.method.map(method), event.protocol),
            verdict: event.verdict(),
            reason,
            source: event.source(),
            is_override: event.is_override(),
            rule: match event.decision {
                Decision::Allow(allowed) => Some(allowed.rule),
                Decision::Deny(denied) => denied.rule,
            }
            .filter(|rule| *rule != NO_RULE),
        }
    }

    /// `domain`, where a host was decided on; `non_domain` where it was the mode, the proxy's own state or a unix socket.
    #[must_use]
    pub fn scope(&self) -> &'static str {
        let is_domain = !matches!(self.source, "mode_guard" | "proxy_state") && self.exchange.port != 0;
        if is_domain { "domain" } else { "non_domain" }
    }
}

impl Ended {
    /// What an observer is told, to keep.
    #[must_use]
    pub fn of(event: &Closed<'_>) -> Self {
        Self {
            exchange: Exchange {
                id: event.id,
                generation: event.generation,
                client: event.client,
                protocol: event.protocol,
                host: Text::of(event.host),
                port: event.port,
            },
            up: event.up,
            down: event.down,
            duration: event.duration,
            ending: event.ending,
        }
    }
}

/// Bytes of a method that are kept. The client chooses it.
const METHOD: usize = 32;

/// Those that are not kept as text.
const KNOWN: [&str; 9] = ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"];

/// The number of a method that need not be kept as text.
pub(super) fn known_method(method: &str) -> Option<usize> {
    KNOWN.iter().position(|known| *known == method)
}

fn method(method: &str) -> Cow<'static, str> {
    match known_method(method).and_then(|number| KNOWN.get(number)) {
        Some(known) => Cow::Borrowed(known),
        // It is ASCII: it was parsed.
        None => Cow::Owned(method.chars().take(METHOD).collect()),
    }
}

/// The method that an event has: a tunnel is asked for by CONNECT, whether or not it was said.
fn shown_method(said: Option<Cow<'static, str>>, protocol: Protocol) -> Option<Cow<'static, str>> {
    said.or_else(|| (protocol == Protocol::Connect).then_some(Cow::Borrowed("CONNECT")))
}

/// A request that a rule allowed, by the number of its method ([`known_method`]).
pub(super) fn of_allowed(exchange: Exchange, method: Option<usize>, rule: RuleId) -> Judged {
    let said = method.and_then(|number| KNOWN.get(number)).map(|known| Cow::Borrowed(*known));
    Judged {
        method: shown_method(said, exchange.protocol),
        exchange,
        verdict: Verdict::Allow,
        reason: Cow::Borrowed(event::ALLOWED),
        source: event::BASELINE,
        is_override: false,
        rule: Some(rule).filter(|rule| *rule != NO_RULE),
    }
}

/// A short text, in place: most host names need no memory elsewhere.
#[derive(Clone)]
pub struct Text(Place);

#[derive(Clone)]
enum Place {
    Here { len: u8, bytes: [u8; HERE] },
    Elsewhere(Box<str>),
}

/// Bytes that are kept in place.
const HERE: usize = digits::ADDRESS;

impl Text {
    /// Keeps a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; HERE];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(room), Ok(len)) => {
                room.copy_from_slice(text.as_bytes());
                Self(Place::Here { len, bytes })
            }
            _ => Self(Place::Elsewhere(text.into())),
        }
    }

    /// A host as it is shown.
    pub(super) fn of(host: HostRef<'_>) -> Self {
        match host {
            HostRef::Name(name) | HostRef::NumericLookalike(name) => Self::new(name),
            HostRef::Ip(ip) => Self::of_address(ip),
        }
    }

    pub(super) fn of_address(ip: IpAddr) -> Self {
        let mut bytes = [0; HERE];
        let len = u8::try_from(digits::address(ip, &mut bytes).len()).unwrap_or_default();
        Self(Place::Here { len, bytes })
    }

    /// Its bytes, which are UTF-8.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Place::Here { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Place::Elsewhere(text) => text.as_bytes(),
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Place::Here { .. } => std::str::from_utf8(self.as_bytes()).unwrap_or_default(),
            Place::Elsewhere(text) => text,
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Text {}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
