//! Past decisions, as logs tell them, put to another policy: which of them it would change.
//!
//! The answer is [`policy_format::decide()`]'s. What a log does not say cannot be answered, and is counted apart: paths, what hooks look at, and the addresses of names.
//! Requests of one kind (host, port, protocol, method, and what was decided) are asked about once.

mod line;
mod report;

pub use line::{Event, Line, LineError, parse};

use crate::explain::describe;
use crate::log::Lines;
use crate::profiles::Profile;
use policy_format::net::is_metadata_name;
use policy_format::{
    Access, Decision, DecisionSource, Host, Hosts, Mode, Overrides, Pattern, Protocol, READING, Reason, Request, Rule, decide, decide_with,
    named_by,
};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

/// Kinds of requests that are remembered. Of those beyond only the number of changes is known.
const MAX_KINDS: usize = 1 << 20;
/// Lines that cannot be read, which are named.
const MAX_NAMED: usize = 10;
/// The host by which events name a unix socket.
const UNIX_SOCKET: &str = "unix-socket";

/// A point in time, as logs write it, or the beginning of one: `2026-01-02`, `2026-01-02T03:04:05.678Z`. UTC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(String);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const SHAPE: &[u8] = b"0000-00-00T00:00:00.";
        let bare = text.strip_suffix('Z').filter(|bare| bare.contains('T')).unwrap_or(text);
        let fits = |(at, byte): (usize, u8)| match SHAPE.get(at) {
            Some(b'0') | None => byte.is_ascii_digit(),
            Some(other) => byte == *other,
        };
        let is_whole = matches!(bare.len(), 10 | 16 | 19 | 21..=29);
        match is_whole && bare.bytes().enumerate().all(fits) {
            true => Ok(Self(bare.to_owned())),
            false => Err(format!("`{}` is no time in UTC, such as 2026-01-02 or 2026-01-02T03:04:05Z", text.escape_debug())),
        }
    }
}

/// What is put to the policy, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Nothing that was decided before.
    pub since: Option<Time>,
    /// Nothing that was decided then or later.
    pub until: Option<Time>,
    /// The data plane opens no TLS.
    pub no_interception: bool,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The log, as it was named.
    pub log: String,
    /// The line, from 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.log, self.line)
    }
}

/// Why it cannot be told what becomes of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unknown {
    /// Rules of the new policy ask for paths.
    Path,
    /// The new policy has hooks for the host, which look at more than is in logs.
    Hook,
    /// It was denied for an address that its name led to.
    Address,
    /// It was denied because the tunnel could not be opened, or carried no TLS; the new policy would have it opened as well.
    Tls,
    /// It was denied by a mode that somebody had set while the proxy ran, or allowed by one, and the new policy has the other, which can be set as well.
    Mode,
    /// It was denied for a reason that is none of a policy's, such as a full queue.
    State,
    /// It was for a unix socket, of which no path is in logs.
    Socket,
    /// Its host, or its protocol, is none.
    Malformed,
}

impl Unknown {
    /// All of them.
    pub const ALL: [Self; 8] = [Self::Path, Self::Hook, Self::Address, Self::Tls, Self::Mode, Self::State, Self::Socket, Self::Malformed];

    /// The name that machines read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Hook => "hook",
            Self::Address => "address",
            Self::Tls => "tls",
            Self::Mode => "mode",
            Self::State => "state",
            Self::Socket => "socket",
            Self::Malformed => "malformed",
        }
    }

    /// The same for people: what stands behind `cannot be told: `.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Path => "rules of the new policy ask for the path, which is not in logs",
            Self::Hook => "hooks of the new policy look at more than is in logs",
            Self::Address => "denied for an address that the name led to, which is not in logs",
            Self::Tls => "denied because TLS could not be opened, which it would have to be again",
            Self::Mode => "decided by a mode that was set while the proxy ran",
            Self::State => "denied for the proxy's own state, not by a policy",
            Self::Socket => "for a unix socket, whose path is not in logs",
            Self::Malformed => "with a host or a protocol that is none",
        }
    }
}

/// What would be decided otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whether it would be allowed; else it would be denied.
    pub opened: bool,
    /// Whether the embedding program decided it, which would not be asked any more.
    pub by_program: bool,
    /// How many decisions.
    pub count: u64,
    /// How the clients asked.
    pub protocol: Protocol,
    /// For which host.
    pub host: Host,
    /// For which port.
    pub port: u16,
    /// With which method, where there is one.
    pub method: Option<String>,
    /// What was decided: `allow`, `deny` or `ask`.
    pub old: String,
    /// Why.
    pub old_reason: String,
    /// Why it would be denied.
    pub reason: Option<Reason>,
    /// The rule that would decide.
    pub rule: Option<Rule>,
    /// The first of them.
    pub first: Place,
}

/// What a policy would change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// Decisions that were put to it.
    pub decisions: u64,
    /// Of these, those that it would allow although they were denied.
    pub opened: u64,
    /// Those that it would deny although they were allowed.
    pub closed: u64,
    /// Those that stay denied, for another reason.
    pub otherwise: u64,
    /// Those that an embedding program would be asked about again: what it says is not known, and not a change.
    pub asked_again: u64,
    /// Those that an embedding program has allowed, and that the policy would allow by itself.
    pub asked_no_more: u64,
    /// Those of which it cannot be told, by why.
    pub unknown: Vec<(Unknown, u64)>,
    /// Changes by kind: what would be allowed first, then the most frequent.
    pub changes: Vec<Change>,
    /// Changed decisions of kinds that are not among them, because there are too many.
    pub unlisted: u64,
    /// Other events.
    pub others: u64,
    /// Decisions before and after the time that was asked for.
    pub out_of_time: u64,
    /// Lines that cannot be read.
    pub malformed: u64,
    /// The first of them, and why.
    pub named: Vec<(Place, String)>,
}

impl Replay {
    /// Whether anything would be decided otherwise.
    #[must_use]
    pub fn changes_anything(&self) -> bool {
        self.opened + self.closed > 0
    }
}

/// What the policy says of a kind of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Same,
    Otherwise,
    AskedAgain,
    AskedNoMore,
    Unknown(Unknown),
    /// An index among the changes; none where there are too many.
    Change {
        opened: bool,
        at: Option<usize>,
    },
}

/// What was denied by a mode.
struct ByMode {
    event: Event<'static>,
    first: Place,
    count: u64,
}

/// Reads logs, and puts what was decided to a policy.
pub struct Replayer<'p> {
    profile: Profile<'p, Vec<u8>>,
    options: Options,
    kinds: HashMap<Box<[u8]>, Answer>,
    key: Vec<u8>,
    /// What somebody has set the mode to, or that it was taken back, by the number of the policy from which on. Of the proxy that the log is of now.
    modes: BTreeMap<u64, Option<Mode>>,
    /// Denials by a mode, by what is asked and the policy's number: whose mode it was may be told behind them.
    by_mode: HashMap<Box<[u8]>, ByMode>,
    unknown: [u64; Unknown::ALL.len()],
    replay: Replay,
}

impl<'p> Replayer<'p> {
    /// Asks a profile of a policy.
    #[must_use]
    pub fn new(profile: Profile<'p, Vec<u8>>, options: Options) -> Self {
        Self {
            profile,
            options,
            kinds: HashMap::new(),
            key: Vec::new(),
            modes: BTreeMap::new(),
            by_mode: HashMap::new(),
            unknown: [0; Unknown::ALL.len()],
            replay: Replay::default(),
        }
    }

    /// Reads a log to its end.
    ///
    /// # Errors
    /// What the log cannot be read for.
    pub fn read(&mut self, log: &str, input: impl Read) -> io::Result<()> {
        let mut lines = Lines::new(input);
        while let Some(line) = lines.next()? {
            let place = || Place { log: log.to_owned(), line: line.number };
            if line.too_long {
                self.malformed(place(), "the line is longer than any event");
                continue;
            }
            match parse(line.bytes) {
                Ok(Line::Decision(event)) => self.decision(&event, place),
                Ok(Line::Mode { set, generation }) => {
                    self.modes.insert(generation, set);
                    self.replay.others += 1;
                }
                Ok(Line::Start) => {
                    self.settle();
                    self.replay.others += 1;
                }
                Ok(Line::Other) => self.replay.others += u64::from(!line.bytes.is_empty()),
                Err(error) => self.malformed(place(), &error.to_string()),
            }
        }
        self.settle();
        Ok(())
    }

    /// Answers for what was denied by a mode, now that all modes of the proxy are known.
    fn settle(&mut self) {
        let (modes, by_mode) = (std::mem::take(&mut self.modes), std::mem::take(&mut self.by_mode));
        let mut waiting: Vec<ByMode> = by_mode.into_values().collect();
        waiting.sort_by_key(|waiting| waiting.first.line);
        for ByMode { event, first, count } in waiting {
            let held = held_at(&modes, event.generation);
            self.put(&event, held, count, || first.clone());
        }
    }

    /// What was found.
    #[must_use]
    pub fn finish(mut self) -> Replay {
        let counted = Unknown::ALL.into_iter().zip(self.unknown);
        self.replay.unknown = counted.filter(|(_, count)| *count > 0).collect();
        // What would be allowed is worse than what would not: nobody complains of it.
        self.replay.changes.sort_by(|a, b| {
            let key = |change: &Change| (!change.opened, std::cmp::Reverse(change.count));
            key(a).cmp(&key(b)).then_with(|| a.first.line.cmp(&b.first.line))
        });
        self.replay
    }

    fn malformed(&mut self, place: Place, why: &str) {
        self.replay.malformed += 1;
        if self.replay.named.len() < MAX_NAMED {
            self.replay.named.push((place, why.to_owned()));
        }
    }

    fn decision(&mut self, event: &Event<'_>, place: impl Fn() -> Place) {
        if self.options.since.is_some() || self.options.until.is_some() {
            let Ok(time) = event.time.parse::<Time>() else {
                return self.malformed(place(), "a decision without a proper `event.timestamp`");
            };
            let is_before = self.options.since.as_ref().is_some_and(|since| time < *since);
            if is_before || self.options.until.as_ref().is_some_and(|until| time >= *until) {
                self.replay.out_of_time += 1;
                return;
            }
        }
        self.replay.decisions += 1;
        if event.source != DecisionSource::ModeGuard.as_str() {
            return self.put(event, held_at(&self.modes, event.generation), 1, place);
        }
        let mut key = std::mem::take(&mut self.key);
        kind(event, None, &mut key);
        key.extend_from_slice(&event.generation.to_le_bytes());
        let known = self.by_mode.get_mut(key.as_slice());
        let is_known = known.is_some();
        known.into_iter().for_each(|waiting| waiting.count += 1);
        if !is_known {
            if self.by_mode.len() >= MAX_KINDS {
                let modes = self.modes.clone();
                self.settle();
                self.modes = modes;
            }
            self.by_mode.insert(key.as_slice().into(), ByMode { event: event.to_owned_event(), first: place(), count: 1 });
        }
        self.key = key;
    }

    /// Puts decisions of one kind to the policy. `held`: the mode that somebody had set.
    fn put(&mut self, event: &Event<'_>, held: Option<Mode>, count: u64, place: impl Fn() -> Place) {
        let mut key = std::mem::take(&mut self.key);
        kind(event, held, &mut key);
        let answer = match self.kinds.get(key.as_slice()) {
            Some(answer) => *answer,
            None => {
                let has_room = self.kinds.len() < MAX_KINDS;
                let answer = self.answer(event, held, has_room.then(place));
                if has_room {
                    self.kinds.insert(key.as_slice().into(), answer);
                }
                answer
            }
        };
        self.key = key;
        self.count(answer, count);
    }

    fn count(&mut self, answer: Answer, by: u64) {
        let replay = &mut self.replay;
        match answer {
            Answer::Same => {}
            Answer::Otherwise => replay.otherwise += by,
            Answer::AskedAgain => replay.asked_again += by,
            Answer::AskedNoMore => replay.asked_no_more += by,
            Answer::Unknown(why) => {
                let at = Unknown::ALL.iter().position(|known| *known == why);
                if let Some(count) = at.and_then(|at| self.unknown.get_mut(at)) {
                    *count += by;
                }
            }
            Answer::Change { opened, at } => {
                *if opened { &mut replay.opened } else { &mut replay.closed } += by;
                match at.and_then(|at| replay.changes.get_mut(at)) {
                    Some(change) => change.count += by,
                    None => replay.unlisted += by,
                }
            }
        }
    }

    /// Asks the policy about a kind of requests. `first` is where the first of them stands, if there is room to remember it.
    fn answer(&mut self, event: &Event<'_>, held: Option<Mode>, first: Option<Place>) -> Answer {
        let asked = match Asked::of(event, held) {
            Ok(asked) => asked,
            Err(why) => return Answer::Unknown(why),
        };
        let (policy, id) = (self.profile.blob(), self.profile.id());
        let request = Request {
            profile: id,
            protocol: asked.protocol,
            method: asked.method,
            can_intercept: !self.options.no_interception,
            ..Request::connect(&asked.host, event.port)
        };
        let decision = decide(policy, &request);
        if asked.protocol.is_read() && depends_on_path(self.profile, &request, decision) {
            return Answer::Unknown(Unknown::Path);
        }
        let hooked = asked.protocol == Protocol::Https && policy.is_hooked(id, &asked.host);
        // Where nobody holds the new policy in limited mode, the other is set as easily as it was.
        let settable = policy.constraints(id).is_some_and(|constraints| constraints.mode_required.is_none());
        let by_set = held == Some(Mode::Full) && settable && matches!(decision, Decision::Deny(_)) && {
            matches!(decide_with(policy, &request, Overrides { mode: Some(Mode::Full), ..Overrides::default() }), Decision::Allow(_))
        };
        let (opened, reason, rule) = match (asked.was, decision) {
            (_, Decision::Allow(_)) if hooked => return Answer::Unknown(Unknown::Hook),
            (_, Decision::Deny(denied)) if hooked && denied.reason == Reason::MitmHookDenied => return Answer::Unknown(Unknown::Hook),
            (Was::Denied(Some(why)), Decision::Allow(_)) if why != Unknown::Tls => return Answer::Unknown(why),
            (Was::Denied(Some(Unknown::Tls)), Decision::Allow(allowed)) if allowed.intercept => return Answer::Unknown(Unknown::Tls),
            (Was::Allowed | Was::ByProgram { allowed: true }, Decision::Deny(_)) if by_set => return Answer::Unknown(Unknown::Mode),
            (Was::Allowed, Decision::Allow(_)) => return Answer::Same,
            (Was::ByProgram { allowed: true }, Decision::Allow(_)) => return Answer::AskedNoMore,
            (Was::ByProgram { .. }, Decision::Deny(denied)) if denied.reason == Reason::NotAllowed => return Answer::AskedAgain,
            (Was::Denied(_), Decision::Deny(denied)) if denied.reason.as_str() == event.reason => return Answer::Same,
            (Was::Denied(_) | Was::ByProgram { allowed: false }, Decision::Deny(_)) => return Answer::Otherwise,
            (Was::Denied(_) | Was::ByProgram { allowed: false }, Decision::Allow(allowed)) => (true, None, Some(allowed.rule)),
            (Was::Allowed | Was::ByProgram { allowed: true }, Decision::Deny(denied)) => (false, Some(denied.reason), denied.rule),
        };
        let Some(first) = first else { return Answer::Change { opened, at: None } };
        let at = self.replay.changes.len();
        self.replay.changes.push(Change {
            opened,
            by_program: matches!(asked.was, Was::ByProgram { .. }),
            count: 0,
            protocol: asked.protocol,
            port: event.port,
            method: asked.method.map(str::to_owned),
            old: event.decision.clone().into_owned(),
            old_reason: event.reason.clone().into_owned(),
            reason,
            rule: rule.and_then(|rule| policy.rule(rule)),
            first,
            host: asked.host,
        });
        Answer::Change { opened, at: Some(at) }
    }
}

/// The mode that somebody had set under a policy.
fn held_at(modes: &BTreeMap<u64, Option<Mode>>, generation: u64) -> Option<Mode> {
    modes.range(..=generation).next_back().and_then(|(_, set)| *set)
}

/// What tells one kind of requests from another. The byte between two texts is in none of them.
fn kind(event: &Event<'_>, held: Option<Mode>, key: &mut Vec<u8>) {
    const END: u8 = 0xff;
    key.clear();
    // The pattern says whether it was denied for an address.
    let pattern = if event.reason == Reason::Denied.as_str() { event.pattern.as_bytes() } else { b"" };
    for text in [
        event.host.as_bytes(),
        event.protocol.as_bytes(),
        event.method.as_bytes(),
        event.decision.as_bytes(),
        event.reason.as_bytes(),
        event.source.as_bytes(),
        pattern,
    ] {
        key.extend_from_slice(text);
        key.push(END);
    }
    key.extend_from_slice(&event.port.to_le_bytes());
    key.extend_from_slice(held.map_or("", Mode::as_str).as_bytes());
}

/// What was decided, by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Was {
    Allowed,
    /// With what keeps an allow of the new policy from counting.
    Denied(Option<Unknown>),
    ByProgram {
        allowed: bool,
    },
}

/// A request as the log tells it.
struct Asked<'e> {
    protocol: Protocol,
    host: Host,
    method: Option<&'e str>,
    was: Was,
}

impl<'e> Asked<'e> {
    fn of(event: &'e Event<'_>, held: Option<Mode>) -> Result<Self, Unknown> {
        if event.port == 0 && event.host == UNIX_SOCKET {
            return Err(Unknown::Socket);
        }
        let protocol = Protocol::named(&event.protocol).ok_or(Unknown::Malformed)?;
        let host = Host::parse(&event.host).map_err(|_| Unknown::Malformed)?;
        let method = Some(event.method.as_ref()).filter(|method| protocol.is_read() && !method.is_empty() && *method != "none");
        let allowed = match event.decision.as_ref() {
            "allow" => true,
            "deny" | "ask" => false,
            _ => return Err(Unknown::Malformed),
        };
        let was = match (event.source.as_ref(), allowed) {
            ("decider", _) => Was::ByProgram { allowed },
            (_, true) if event.is_override => Was::ByProgram { allowed },
            (_, true) => Was::Allowed,
            (source, false) => Was::Denied(Self::denied(event, &host, source, protocol, held)?),
        };
        Ok(Self { protocol, host, method, was })
    }

    /// What keeps an allow of the new policy from counting, where it was denied.
    fn denied(event: &Event<'_>, host: &Host, source: &str, protocol: Protocol, held: Option<Mode>) -> Result<Option<Unknown>, Unknown> {
        let reason = Reason::ALL.into_iter().find(|reason| reason.as_str() == event.reason).ok_or(Unknown::State)?;
        if source == DecisionSource::ProxyState.as_str() && reason != Reason::ProxyDisabled {
            return Err(Unknown::State);
        }
        let by_mode = matches!(reason, Reason::MethodNotAllowed | Reason::MitmRequired);
        if held == Some(Mode::Limited) && by_mode && source == DecisionSource::ModeGuard.as_str() {
            return Err(Unknown::Mode);
        }
        let name = host.name().filter(|_| !host.is_localhost());
        Ok(match reason {
            // Of names it is said for an address, but for those that are known without asking.
            Reason::NotAllowedLocal if name.is_some_and(|name| !is_metadata_name(name.as_str())) => Some(Unknown::Address),
            Reason::Denied if name.is_some() && is_network(&event.pattern) => Some(Unknown::Address),
            Reason::MitmRequired if !protocol.is_read() => Some(Unknown::Tls),
            _ => None,
        })
    }
}

/// Whether a pattern is for addresses.
fn is_network(pattern: &str) -> bool {
    !pattern.is_empty() && Pattern::parse(pattern).is_ok_and(|pattern| matches!(pattern.hosts, Hosts::Network(_)))
}

/// Whether a rule that asks for paths could make another decision of it.
fn depends_on_path(profile: Profile<'_, Vec<u8>>, request: &Request<'_>, decision: Decision) -> bool {
    let policy = profile.blob();
    if matches!(decision, Decision::Deny(denied) if denied.reason == Reason::ProxyDisabled) {
        return false;
    }
    let rules = named_by(policy, request).into_iter().filter_map(|named| Some((policy.rule(named.rule)?, named.holds)));
    let (mut denies, mut allows, mut denied_anyway) = (false, Vec::new(), false);
    for (rule, holds) in rules {
        match (rule.access, rule.paths.is_empty()) {
            (Access::Deny, true) => denied_anyway |= holds == Some(true),
            // Whatever the path is: a deny holds where nobody knows it.
            (Access::Deny, false) => denies |= holds == Some(true),
            (_, true) => {}
            (access, false) => allows.extend(holds_but_for_path(&rule, request).then_some(access)),
        }
    }
    if denied_anyway || (!denies && allows.is_empty()) {
        return false;
    }
    let reads = request.method.is_some_and(|method| READING.contains(&method));
    // An allow more changes nothing of what is allowed, but that it may be for reading only.
    let stays = matches!(decision, Decision::Allow(_)) && (reads || !allows.contains(&Access::ReadOnly));
    denies || !stays
}

fn holds_but_for_path(rule: &Rule, request: &Request<'_>) -> bool {
    let port = rule.ports.is_empty() || rule.ports.iter().any(|range| (range.first..=range.last).contains(&request.port));
    let method = rule.methods.is_empty() || request.method.is_some_and(|method| rule.methods.iter().any(|known| known == method));
    port && method
}

impl Change {
    /// What would decide, and how: `allow a.test, user config.toml:3`.
    #[must_use]
    pub fn rule_text(&self) -> Option<String> {
        self.rule.as_ref().map(describe)
    }

    /// The request in the words of `netpolicy explain`.
    #[must_use]
    pub fn request(&self) -> String {
        let host = match &self.host {
            Host::Ip(ip @ std::net::IpAddr::V6(_)) => format!("[{ip}]"),
            host => host.to_string(),
        };
        let authority = format!("{host}:{}", self.port);
        let method = self.method.as_deref().unwrap_or("GET");
        match self.protocol {
            Protocol::Http => format!("{method} http://{authority}/"),
            Protocol::Https => format!("{method} https://{authority}/"),
            Protocol::Connect => format!("CONNECT {authority}"),
            Protocol::Socks5Tcp => format!("socks {authority}"),
            Protocol::Socks5Udp => format!("udp {authority}"),
        }
    }
}
