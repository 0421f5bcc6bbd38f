//! Events in few bytes, for the queue: what is written by one processor and read by another has a price by the byte.
//!
//! Nearly all events say that a request was allowed by a rule, or that an exchange ended well. Those are kept as bytes, one behind the other; all others, and those that do not fit, as they are.

use super::event::{Closed, Decided, Ending};
use super::record::{Ended, Event, Exchange, Judged, Kind, Text, known_method, of_allowed, since_1970};
use policy_format::{Decision, HostRef, Protocol, RuleId};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

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
/// Bytes that all have: [`encode`].
const FRONT: usize = 32;
/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// What an event is made of.
pub(super) trait Source {
    /// Appends it in few bytes, as one that happens now. `false`, and nothing is appended, if it does not fit.
    fn append(&self, bytes: &mut Vec<u8>) -> bool;

    /// As it is, as one that happens now unless it has happened.
    fn event(self) -> Event;
}

impl Source for Event {
    fn append(&self, _: &mut Vec<u8>) -> bool {
        false
    }

    fn event(self) -> Event {
        self
    }
}

/// A request was decided.
impl Source for &Decided<'_> {
    fn append(&self, bytes: &mut Vec<u8>) -> bool {
        let (None, Decision::Allow(allowed)) = (self.decider, self.decision) else { return false };
        let method = match self.method.map(|method| known_method(method).map(u8::try_from)) {
            None => NO_METHOD,
            Some(Some(Ok(method))) => method,
            Some(_) => return false,
        };
        let [a, b, c, d] = allowed.rule.0.to_le_bytes();
        let (id, generation) = (self.id, self.snapshot.generation());
        let who = Who { id, generation, client: self.client, protocol: self.protocol, host: self.host.into(), port: self.port };
        encode(bytes, DECISION, &who, &[a, b, c, d, method])
    }

    fn event(self) -> Event {
        Event::now(Kind::Decision(Judged::of(self)))
    }
}

/// Something has ended.
impl Source for &Closed<'_> {
    fn append(&self, bytes: &mut Vec<u8>) -> bool {
        let (Ending::Done, Some(duration)) = (self.ending, nanos(self.duration)) else { return false };
        let Closed { id, generation, client, protocol, host, port, .. } = **self;
        let who = Who { id, generation, client, protocol, host, port };
        encode(bytes, CLOSE, &who, [self.up, self.down, duration].map(u64::to_le_bytes).as_flattened())
    }

    fn event(self) -> Event {
        Event::now(Kind::Close(Ended::of(self)))
    }
}

/// Whom an event is about.
struct Who<'a> {
    id: u64,
    generation: u64,
    client: SocketAddr,
    protocol: Protocol,
    host: HostRef<'a>,
    port: u16,
}

/// Appends one, numbers with their least byte first: its length, its kind, the version of the client's address and the protocol (1 each), the server's port and the client's (2 each), its time in
/// nanoseconds since 1970, the numbers of the exchange and of the policy (8 each); what its kind has, of a decision the rule (4) and the method (1), of an end bytes up and
/// down and nanoseconds (8 each); what the host is (1), the client's address, and the host up to the end.
#[inline]
fn encode(bytes: &mut Vec<u8>, kind: u8, who: &Who<'_>, more: &[u8]) -> bool {
    let Who { id, generation, client, protocol, host, port } = *who;
    let (mut room, mut host_room) = ([0; 16], [0; 16]);
    let (version, client_address) = address(client.ip(), &mut room);
    let (what, host) = match host {
        HostRef::Name(name) | HostRef::NumericLookalike(name) => (NAME, name.as_bytes()),
        HostRef::Ip(ip) => address(ip, &mut host_room),
    };
    let is_scoped = matches!(client, SocketAddr::V6(v6) if v6.scope_id() != 0 || v6.flowinfo() != 0);
    let length = FRONT + more.len() + 1 + client_address.len() + host.len();
    let (Ok(size), Some(time), false) = (u8::try_from(length), nanos(since_1970()), is_scoped) else { return false };
    let ([a, b], [c, d]) = (port.to_le_bytes(), client.port().to_le_bytes());
    let [time, id, generation] = [time, id, generation].map(u64::to_le_bytes);
    bytes.reserve(length);
    bytes.extend_from_slice([[size, kind, version, protocol as u8, a, b, c, d], time, id, generation].as_flattened());
    bytes.extend_from_slice(more);
    bytes.push(what);
    bytes.extend_from_slice(client_address);
    bytes.extend_from_slice(host);
    true
}

fn address(ip: IpAddr, room: &mut [u8; 16]) -> (u8, &[u8]) {
    match ip {
        IpAddr::V4(ip) => {
            let (first, _) = room.split_at_mut(4);
            first.copy_from_slice(&ip.octets());
            (V4, first)
        }
        IpAddr::V6(ip) => {
            *room = ip.octets();
            (V6, room)
        }
    }
}

/// `None` after more than 500 years.
fn nanos(of: Duration) -> Option<u64> {
    of.as_secs().checked_mul(SECOND)?.checked_add(of.subsec_nanos().into())
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
    pub(super) fn push(&mut self, source: impl Source) {
        self.count += 1;
        if !source.append(&mut self.bytes) {
            self.bytes.extend_from_slice(&MARK);
            self.whole.push(source.event());
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
            into.extend(if one == MARK { whole.next() } else { decode(one) });
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

/// What [`encode`] says.
fn decode(bytes: &[u8]) -> Option<Event> {
    let (front, rest) = bytes.split_first_chunk::<FRONT>()?;
    let [[_, kind, version, protocol, a, b, c, d], time, id, generation] = front.as_chunks().0 else { return None };
    let [time, id, generation] = [time, id, generation].map(|bytes| u64::from_le_bytes(*bytes));
    let (_, protocol) = *Protocol::ALL.get(usize::from(*protocol))?;
    let (port, client_port) = (u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]));
    let exchange = |rest: &[u8]| {
        let (what, rest) = rest.split_first()?;
        let (client, host) = split_address(*version, rest)?;
        let host = match *what {
            NAME => Text::new(std::str::from_utf8(host).ok()?),
            version => Text::of_address(split_address(version, host)?.0),
        };
        Some(Exchange { id, generation, client: SocketAddr::new(client, client_port), protocol, host, port })
    };
    let kind = match *kind {
        DECISION => {
            let ([a, b, c, d, method], rest) = rest.split_first_chunk()?;
            let method = (*method != NO_METHOD).then_some(usize::from(*method));
            Kind::Decision(of_allowed(exchange(rest)?, method, RuleId(u32::from_le_bytes([*a, *b, *c, *d]))))
        }
        CLOSE => {
            let (numbers, rest) = rest.split_first_chunk::<24>()?;
            let [up, down, duration] = numbers.as_chunks().0 else { return None };
            let [up, down, duration] = [up, down, duration].map(|bytes| u64::from_le_bytes(*bytes));
            Kind::Close(Ended { exchange: exchange(rest)?, up, down, duration: Duration::from_nanos(duration), ending: Ending::Done })
        }
        _ => return None,
    };
    Some(Event::at(Duration::from_nanos(time), kind))
}

fn split_address(version: u8, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    match version {
        V4 => bytes.split_first_chunk::<4>().map(|(ip, rest)| (IpAddr::from(*ip), rest)),
        V6 => bytes.split_first_chunk::<16>().map(|(ip, rest)| (IpAddr::from(*ip), rest)),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::audit::event::{Answer, Silent};
    use crate::policy::{Policy, PolicyHandle};
    use policy_format::{Allowed, Denied, Host, Reason};
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
            (1..=253_usize).prop_map(name),
        ]
    }

    /// A name of so many bytes.
    fn name(length: usize) -> String {
        (1..=length).map(|at| if at % 10 == 0 && at < length { '.' } else { 'a' }).collect()
    }

    fn allow(rule: u32) -> Decision {
        Decision::Allow(Allowed { rule: RuleId(rule), read_only: false, intercept: false, hook: None, unconditional: true })
    }

    fn client() -> impl Strategy<Value = SocketAddr> {
        let scoped = std::net::SocketAddrV6::new(Ipv6Addr::LOCALHOST, 7, 0, 3);
        prop_oneof![any::<(IpAddr, u16)>().prop_map(SocketAddr::from), Just(scoped.into())]
    }

    fn protocol() -> impl Strategy<Value = Protocol> {
        (0..Protocol::ALL.len()).prop_map(|number| Protocol::ALL[number].1)
    }

    fn seconds() -> impl Strategy<Value = u64> {
        prop_oneof![9 => 0..100_000_000_u64, 1 => any::<u64>()]
    }

    fn ending() -> impl Strategy<Value = Ending> {
        prop_oneof![4 => Just(Ending::Done), 1 => select(Ending::KINDS.to_vec())]
    }

    fn decision() -> impl Strategy<Value = Decision> {
        let denied = Decision::Deny(Denied { reason: Reason::NotAllowed, rule: Some(RuleId(3)) });
        prop_oneof![4 => prop_oneof![any::<u32>(), Just(u32::MAX)].prop_map(allow), 1 => Just(denied)]
    }

    /// All that it says, and that it happened in between.
    fn is_same(found: &Event, (before, wanted): &(Event, Event)) -> bool {
        let at = |event: &Event| (event.time, event.sequence);
        found.kind == wanted.kind && found.label.is_none() && (at(before)..=at(wanted)).contains(&at(found))
    }

    proptest! {
        #[test]
        fn what_is_put_in_comes_out(
            facts in proptest::collection::vec((any::<(u64, u16, u64, u64)>(), host(), client(), protocol(), (seconds(), any::<u32>())), 1..20),
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
                run.push(&decided);
                wanted.push((before, Event::now(Kind::Decision(Judged::of(&decided)))));
                let duration = Duration::new(seconds, nanos % 1_000_000_000);
                let closed = Closed { id, generation: up, client, protocol, host: (&parsed).into(), port, up, down, duration, ending: endings[at] };
                let before = Event::now(Kind::Stop);
                run.push(&closed);
                let ended = Event::now(Kind::Close(Ended::of(&closed)));
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
        let decision = allow(1);
        let (protocol, port, id) = (Protocol::Http, 80, 1);
        let mut run = Run::default();
        run.push(&Decided { snapshot: &snapshot, client, protocol, host: &host, port, method: Some("GET"), decision, id, decider: None });
        let duration = Duration::from_millis(1);
        run.push(&Closed {
            id,
            generation: 1,
            client,
            protocol,
            host: HostRef::Name(name),
            port,
            up: 0,
            down: 1,
            duration,
            ending: Ending::Done,
        });
        assert!(run.whole.is_empty() && run.bytes.len() < 160, "{} bytes, and {} events as they are", run.bytes.len(), run.whole.len());
    }

    #[test]
    fn what_has_no_room_for_its_length_is_kept_as_it_is() {
        let policy = PolicyHandle::new(Policy::built_in().unwrap(), Vec::new(), Arc::new(Silent));
        let (snapshot, protocol, port, id, method) = (policy.current(), Protocol::Http, 80, 7, Some("GET"));
        for (client, longest_decided, longest_closed) in [("127.0.0.1:1", 213, 194), ("[::1]:1", 201, 182)] {
            let client = client.parse().unwrap();
            for length in [longest_closed, longest_closed + 1, longest_decided, longest_decided + 1, 253] {
                let name = name(length);
                let host = Host::parse(&name).unwrap();
                let (mut run, mut found) = (Run::default(), Vec::new());
                run.push(&Decided {
                    snapshot: &snapshot,
                    client,
                    protocol,
                    host: &host,
                    port,
                    method,
                    decision: allow(1),
                    id,
                    decider: None,
                });
                assert_eq!(run.whole.len(), usize::from(length > longest_decided), "a decision, {client}, {length}");
                let duration = Duration::from_millis(1);
                let before = run.whole.len();
                run.push(&Closed {
                    id,
                    generation: 1,
                    client,
                    protocol,
                    host: HostRef::Name(&name),
                    port,
                    up: 2,
                    down: 3,
                    duration,
                    ending: Ending::Done,
                });
                assert_eq!(run.whole.len() - before, usize::from(length > longest_closed), "an end, {client}, {length}");
                assert_eq!(run.drain(&mut found, 0), 0);
                let hosts: Vec<&str> = found.iter().map(|event| event.kind.exchange().unwrap().host.as_str()).collect();
                assert_eq!(hosts, [&name, &name]);
            }
        }
    }

    /// An event that is appended as what nobody can read.
    pub(in crate::audit) struct Unreadable;

    impl Source for Unreadable {
        fn append(&self, bytes: &mut Vec<u8>) -> bool {
            bytes.extend_from_slice(&[3, 9, 9]);
            true
        }

        fn event(self) -> Event {
            Event::now(Kind::Stop)
        }
    }

    #[test]
    fn what_cannot_be_read_is_counted() {
        let (mut run, mut found) = (Run::default(), Vec::new());
        run.push(Unreadable);
        run.push(Event::now(Kind::Stop));
        run.push(Unreadable);
        assert_eq!((run.drain(&mut found, 0), found.len()), (2, 1));
        assert_eq!(run.drain(&mut found, 0), 0);
    }
}
