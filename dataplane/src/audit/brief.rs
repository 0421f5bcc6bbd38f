//! Events in few bytes, for the queue: what is written by one processor and read by another has a price by the byte.
//!
//! Nearly all events say that a request was allowed by a rule, or that an exchange ended well. Those are kept as bytes, one behind the other; all others, and those that do not fit, as they are.

use super::event::{Closed, Decided, Ending};
use super::record::{Ended, Event, Exchange, Judged, Kind, Text, known_method, of_allowed, since_1970};
use policy_format::{Decision, Host, Protocol, RuleId};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Bytes that one may have, its length included.
const ROOM: usize = 192;
/// Kinds: what is kept as it is, an allowed request, and an exchange that ended well.
const WHOLE: u8 = 0;
const DECISION: u8 = 1;
const CLOSE: u8 = 2;
/// What a host or a client is: a name, or an address of that version.
const NAME: u8 = 0;
const V4: u8 = 4;
const V6: u8 = 6;
/// Stands for no method.
const NO_METHOD: u8 = u8::MAX;
/// What stands for one that is kept as it is: its length and its kind.
const MARK: [u8; 2] = [2, WHOLE];
/// Bytes that one has, about: so many are kept for each event that memory is kept for.
const EACH: usize = 64;
/// Nanoseconds of a millisecond.
const MILLI: u64 = 1_000_000;

/// An event, on its way into the queue.
pub(super) enum Entry {
    Brief(Brief),
    Whole(Event),
}

impl Entry {
    /// A request was decided, now.
    pub(super) fn decided(event: &Decided<'_>) -> Self {
        match Brief::decided(event) {
            Some(brief) => Self::Brief(brief),
            None => Self::Whole(Event::now(Kind::Decision(Judged::of(event)))),
        }
    }

    /// Something has ended, now.
    pub(super) fn closed(event: &Closed<'_>) -> Self {
        match Brief::closed(event) {
            Some(brief) => Self::Brief(brief),
            None => Self::Whole(Event::now(Kind::Close(Ended::of(event)))),
        }
    }

    /// As it is told. `None` cannot be: it was made here.
    pub(super) fn event(self) -> Option<Event> {
        match self {
            Self::Brief(brief) => brief.bytes.get(1..usize::from(brief.used)).and_then(read),
            Self::Whole(event) => Some(event),
        }
    }
}

impl From<Event> for Entry {
    fn from(event: Event) -> Self {
        Self::Whole(event)
    }
}

/// The bytes of one, numbers with their least byte first: its length and its kind (1 each), its time in nanoseconds since 1970 (8), the number of the exchange and of the policy (8 each),
/// the protocol (1), the server's port and the client's (2 each), the client; of a decision, the rule (4) and the method (1); of an end, bytes up and down, seconds (8 each) and nanoseconds
/// (4); at last the host. A host or a client is its kind (1), and an address or, up to the end, a name.
pub(super) struct Brief {
    bytes: [u8; ROOM],
    used: u8,
}

impl Brief {
    fn decided(event: &Decided<'_>) -> Option<Self> {
        let (None, Decision::Allow(allowed)) = (event.decider, event.decision) else { return None };
        let method = match event.method {
            None => NO_METHOD,
            Some(method) => u8::try_from(known_method(method)?).ok()?,
        };
        let mut brief = Self::new(DECISION)?;
        brief.exchange(event.id, event.snapshot.generation(), event.client, event.protocol, event.port)?;
        brief.put(allowed.rule.0.to_le_bytes())?;
        brief.put([method])?;
        match event.host {
            Host::Name(name) | Host::NumericLookalike(name) => brief.name(name.as_str())?,
            Host::Ip(IpAddr::V4(ip)) => {
                brief.put([V4])?;
                brief.put(ip.octets())?;
            }
            Host::Ip(IpAddr::V6(ip)) => {
                brief.put([V6])?;
                brief.put(ip.octets())?;
            }
        }
        Some(brief)
    }

    fn closed(event: &Closed<'_>) -> Option<Self> {
        if event.ending != Ending::Done {
            return None;
        }
        let mut brief = Self::new(CLOSE)?;
        brief.exchange(event.id, event.generation, event.client, event.protocol, event.port)?;
        brief.put(event.up.to_le_bytes())?;
        brief.put(event.down.to_le_bytes())?;
        brief.put(event.duration.as_secs().to_le_bytes())?;
        brief.put(event.duration.subsec_nanos().to_le_bytes())?;
        brief.name(event.host)?;
        Some(brief)
    }

    fn new(kind: u8) -> Option<Self> {
        let now = since_1970();
        let mut brief = Self { bytes: [0; ROOM], used: 1 };
        brief.put([kind])?;
        brief.put(now.as_secs().checked_mul(1000 * MILLI)?.checked_add(now.subsec_nanos().into())?.to_le_bytes())?;
        Some(brief)
    }

    fn exchange(&mut self, id: u64, generation: u64, client: SocketAddr, protocol: Protocol, port: u16) -> Option<()> {
        self.put(id.to_le_bytes())?;
        self.put(generation.to_le_bytes())?;
        self.put([protocol as u8])?;
        self.put(port.to_le_bytes())?;
        self.put(client.port().to_le_bytes())?;
        match client {
            SocketAddr::V4(v4) => {
                self.put([V4])?;
                self.put(v4.ip().octets())
            }
            SocketAddr::V6(v6) if v6.scope_id() == 0 && v6.flowinfo() == 0 => {
                self.put([V6])?;
                self.put(v6.ip().octets())
            }
            SocketAddr::V6(_) => None,
        }
    }

    /// The last of all: it has what is left.
    fn name(&mut self, name: &str) -> Option<()> {
        self.put([NAME])?;
        let end = usize::from(self.used).checked_add(name.len())?;
        self.bytes.get_mut(usize::from(self.used)..end)?.copy_from_slice(name.as_bytes());
        self.used = u8::try_from(end).ok()?;
        Some(())
    }

    fn put<const N: usize>(&mut self, bytes: [u8; N]) -> Option<()> {
        *self.bytes.get_mut(usize::from(self.used)..)?.first_chunk_mut()? = bytes;
        self.used += u8::try_from(N).ok()?;
        Some(())
    }

    fn sealed(&mut self) -> &[u8] {
        let [length, ..] = &mut self.bytes;
        *length = self.used;
        self.bytes.get(..usize::from(self.used)).unwrap_or_default()
    }
}

/// Events one behind the other.
#[derive(Default)]
pub(super) struct Run {
    bytes: Vec<u8>,
    /// Those that are kept as they are, in their order among the bytes.
    whole: Vec<Event>,
    count: usize,
}

impl Run {
    pub(super) fn push(&mut self, entry: Entry) {
        self.count += 1;
        match entry {
            Entry::Brief(mut brief) => self.bytes.extend_from_slice(brief.sealed()),
            Entry::Whole(event) => {
                self.bytes.extend_from_slice(&MARK);
                self.whole.push(event);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// For how many events there is memory, about.
    pub(super) fn capacity(&self) -> usize {
        (self.bytes.capacity() / EACH).max(self.whole.capacity())
    }

    /// Moves all of them. Of its memory, what is for more than `kept` is given back if little of it was used. Gives how many could not be read: none, as long as what is written here is what
    /// is read here.
    pub(super) fn drain(&mut self, into: &mut Vec<Event>, kept: usize) -> usize {
        let (bytes, events, before) = (self.bytes.len(), self.whole.len(), into.len());
        let mut whole = self.whole.drain(..);
        let mut rest = self.bytes.as_slice();
        while let Some((one, behind)) = rest.first().and_then(|length| rest.split_at_checked((*length).max(1).into())) {
            rest = behind;
            into.extend(if one == MARK { whole.next() } else { one.get(1..).and_then(read) });
        }
        drop(whole);
        self.bytes.clear();
        if self.bytes.capacity() > EACH * kept && bytes < self.bytes.capacity() / 16 {
            self.bytes.shrink_to(EACH * kept);
        }
        if self.whole.capacity() > kept && events < self.whole.capacity() / 16 {
            self.whole.shrink_to(kept);
        }
        std::mem::take(&mut self.count).saturating_sub(into.len() - before)
    }
}

/// What [`Brief`] says, behind its length.
fn read(bytes: &[u8]) -> Option<Event> {
    let mut rest = Rest(bytes);
    let [kind] = rest.take()?;
    let time = rest.number()?;
    let (id, generation) = (rest.number()?, rest.number()?);
    let [protocol] = rest.take()?;
    let (_, protocol) = *Protocol::ALL.get(usize::from(protocol))?;
    let (port, client_port) = (u16::from_le_bytes(rest.take()?), u16::from_le_bytes(rest.take()?));
    let client = SocketAddr::new(rest.address()?, client_port);
    let exchange = |host| Exchange { id, generation, client, protocol, host, port };
    let kind = match kind {
        DECISION => {
            let rule = RuleId(u32::from_le_bytes(rest.take()?));
            let [method] = rest.take()?;
            let method = (method != NO_METHOD).then_some(usize::from(method));
            Kind::Decision(of_allowed(exchange(rest.host()?), method, rule))
        }
        CLOSE => {
            let (up, down, seconds) = (rest.number()?, rest.number()?, rest.number()?);
            let duration = Duration::new(seconds, u32::from_le_bytes(rest.take()?));
            Kind::Close(Ended { exchange: exchange(rest.host()?), up, down, duration, ending: Ending::Done })
        }
        _ => return None,
    };
    Some(Event { time: time / MILLI, sequence: time % MILLI, label: None, kind })
}

struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn address(&mut self) -> Option<IpAddr> {
        match self.take()? {
            [V4] => self.take::<4>().map(IpAddr::from),
            [V6] => self.take::<16>().map(IpAddr::from),
            _ => None,
        }
    }

    fn host(&mut self) -> Option<Text> {
        match self.0 {
            [NAME, name @ ..] => std::str::from_utf8(name).ok().map(Text::new),
            _ => self.address().map(Text::of_address),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::audit::event::{Answer, Silent};
    use crate::policy::{Policy, PolicyHandle};
    use policy_format::{Allowed, Denied, Reason};
    use proptest::prelude::*;
    use proptest::sample::select;
    use std::net::Ipv6Addr;
    use std::sync::Arc;

    /// Hosts, clients and methods of every kind, those that do not fit among them.
    fn host() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z]{1,10}(\\.[a-z]{1,20}){1,3}",
            any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
            any::<Ipv6Addr>().prop_map(|ip| ip.to_string()),
            // A number that some take for an address.
            Just("127.1".to_owned()),
            Just(format!("{0}.{0}.{0}.example", "a".repeat(63))),
            (1..60_usize).prop_map(|length| format!("{}.{}.example", "a".repeat(63), "b".repeat(length))),
        ]
    }

    fn client() -> impl Strategy<Value = SocketAddr> {
        let scoped = std::net::SocketAddrV6::new(Ipv6Addr::LOCALHOST, 7, 0, 3);
        prop_oneof![any::<(IpAddr, u16)>().prop_map(SocketAddr::from), Just(scoped.into())]
    }

    fn protocol() -> impl Strategy<Value = Protocol> {
        (0..Protocol::ALL.len()).prop_map(|number| Protocol::ALL[number].1)
    }

    fn ending() -> impl Strategy<Value = Ending> {
        prop_oneof![4 => Just(Ending::Done), 1 => select(Ending::KINDS.to_vec())]
    }

    fn decision() -> impl Strategy<Value = Decision> {
        let allowed =
            |rule| Decision::Allow(Allowed { rule: RuleId(rule), read_only: false, intercept: false, hook: None, unconditional: true });
        let denied = Decision::Deny(Denied { reason: Reason::NotAllowed, rule: Some(RuleId(3)) });
        prop_oneof![4 => prop_oneof![any::<u32>(), Just(u32::MAX)].prop_map(allowed), 1 => Just(denied)]
    }

    /// All that it says, and that it happened in between.
    fn is_same(found: &Event, (before, wanted): &(Event, Event)) -> bool {
        let at = |event: &Event| (event.time, event.sequence);
        found.kind == wanted.kind && found.label.is_none() && (at(before)..=at(wanted)).contains(&at(found))
    }

    proptest! {
        #[test]
        fn what_is_put_in_comes_out(
            facts in proptest::collection::vec((any::<(u64, u16, u64, u64)>(), host(), client(), protocol(), any::<(u64, u32)>()), 1..20),
            methods in proptest::collection::vec(prop_oneof![Just(None), Just(Some("GET")), Just(Some("TRACE")), Just(Some("BREW"))], 20),
            decisions in proptest::collection::vec(decision(), 20),
            endings in proptest::collection::vec(ending(), 20),
            answered in proptest::collection::vec(proptest::option::weighted(0.1, Just(Answer::Allow)), 20),
        ) {
            let policy = PolicyHandle::new(Policy::built_in().unwrap(), Vec::new(), Arc::new(Silent));
            let snapshot = policy.current();
            let (mut run, mut wanted) = (Run::default(), Vec::new());
            for (at, ((id, port, up, down), host, client, protocol, (seconds, nanos))) in facts.into_iter().enumerate() {
                let parsed = Host::parse(&host).unwrap();
                let decided = Decided {
                    snapshot: &snapshot, client, protocol, host: &parsed, port, method: methods[at], decision: decisions[at], id, decider: answered[at].as_ref(),
                };
                let before = Event::now(Kind::Stop);
                run.push(Entry::decided(&decided));
                wanted.push((before, Event::now(Kind::Decision(Judged::of(&decided)))));
                let duration = Duration::new(seconds, nanos % 1_000_000_000);
                let closed = Closed { id, generation: up, client, protocol, host: &host, port, up, down, duration, ending: endings[at] };
                let before = Event::now(Kind::Stop);
                run.push(Entry::closed(&closed));
                let ended = Event::now(Kind::Close(Ended::of(&closed)));
                prop_assert_eq!(&Entry::closed(&closed).event().unwrap().kind, &ended.kind);
                wanted.push((before, ended));
            }
            let mut found = Vec::new();
            prop_assert_eq!(run.drain(&mut found, 0), 0);
            prop_assert!(run.is_empty() && found.len() == wanted.len());
            for (found, wanted) in found.iter().zip(&wanted) {
                prop_assert!(is_same(found, wanted), "{:?} where {:?} was put in", found, wanted);
            }
        }
    }

    #[test]
    fn what_most_requests_say_is_short() {
        let policy = PolicyHandle::new(Policy::built_in().unwrap(), Vec::new(), Arc::new(Silent));
        let (snapshot, name) = (policy.current(), "registry.packages.example");
        let (host, client) = (Host::parse(name).unwrap(), "127.0.0.1:1".parse().unwrap());
        let decision = Decision::Allow(Allowed { rule: RuleId(1), read_only: false, intercept: false, hook: None, unconditional: true });
        let (protocol, port, id) = (Protocol::Http, 80, 1);
        let mut run = Run::default();
        run.push(Entry::decided(&Decided {
            snapshot: &snapshot,
            client,
            protocol,
            host: &host,
            port,
            method: Some("GET"),
            decision,
            id,
            decider: None,
        }));
        let duration = Duration::from_millis(1);
        run.push(Entry::closed(&Closed {
            id,
            generation: 1,
            client,
            protocol,
            host: name,
            port,
            up: 0,
            down: 1,
            duration,
            ending: Ending::Done,
        }));
        assert!(run.whole.is_empty() && run.bytes.len() < 160, "{} bytes, and {} events as they are", run.bytes.len(), run.whole.len());
    }

    #[test]
    fn what_cannot_be_read_is_counted() {
        let unknown = || {
            let mut brief = Brief::new(CLOSE).unwrap();
            brief.bytes[1] = 9;
            Entry::Brief(brief)
        };
        let (mut run, mut found) = (Run::default(), Vec::new());
        [unknown(), Event::now(Kind::Stop).into(), unknown()].into_iter().for_each(|entry| run.push(entry));
        assert_eq!((run.drain(&mut found, 0), found.len()), (2, 1));
        assert_eq!(run.drain(&mut found, 0), 0);
    }
}
