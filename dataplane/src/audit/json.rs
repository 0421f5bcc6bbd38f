//! An event as a line of JSON, written by hand: there are two for each request, and nothing of a line but hosts, methods and numbers is not known before.

use super::event::Verdict;
use super::ocsf;
use super::record::{Change, Ended, Event, Exchange, Gap, Judged, Kind, Label, PolicyName, Reached, RuleName, Text};
use super::setup::Form;
pub(super) use crate::calendar::date;
use crate::digits;
use policy_format::{AuditNaming, Protocol, events};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

/// The program, as events name it.
pub(super) const PRODUCT: &str = "netproxy-dp";
/// Its version.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Writes events as lines.
pub(super) struct Encoder {
    naming: AuditNaming,
    /// Members that every event gets, each with a comma in front.
    metadata: Vec<u8>,
    stamp: Stamp,
    kept: Kept,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { naming: AuditNaming::Codex, metadata: Vec::new(), stamp: Stamp::default(), kept: Kept::default() }
    }
}

impl Encoder {
    pub(super) fn new(form: &Form) -> Self {
        Self { naming: form.naming, metadata: members(&form.metadata), stamp: Stamp::default(), kept: Kept::default() }
    }

    /// Appends an event, with its line feed.
    pub(super) fn line(&mut self, out: &mut Vec<u8>, event: &Event) {
        match self.naming {
            AuditNaming::Codex => self.codex(out, event),
            AuditNaming::Ocsf => ocsf::write(out, event, &self.metadata),
        }
        out.push(b'\n');
    }

    fn codex(&mut self, out: &mut Vec<u8>, event: &Event) {
        match (&event.kind, &event.label) {
            (Kind::Decision(judged), Some(label)) if self.kept.decision(out, judged, label, self.stamp.of(event.time), &self.metadata) => {
                return;
            }
            (Kind::Close(ended), _) => return self.kept.close(out, ended, self.stamp.of(event.time), &self.metadata),
            _ => {}
        }
        start(out, event.kind.name(), self.stamp.of(event.time));
        match &event.kind {
            Kind::Decision(judged) | Kind::Revoked(judged) => judged_members(out, judged),
            Kind::Inner { judged, closed } => {
                judged_members(out, judged);
                out.extend_from_slice(if *closed { b",\"outcome\":\"closed\"" } else { b",\"outcome\":\"passed\"" });
            }
            other => state_members(out, other),
        }
        out.extend_from_slice(&self.metadata);
        if let Some(label) = &event.label {
            out.extend_from_slice(&label.json);
        } else if let Some(judged) = event.kind.judged() {
            number_member(out, GENERATION, judged.exchange.generation);
        }
        if let Some(exchange) = event.kind.exchange() {
            number_member(out, ID, exchange.id);
        }
        out.push(b'}');
    }
}

/// Text that most lines have in common with the one before of their kind: nearly all of one is copied at once.
#[derive(Default)]
struct Kept {
    decided: Option<Front<Reasons>>,
    closed: Option<Front<Protocol>>,
    tail: Option<(Tail, Vec<u8>)>,
}

/// What the members of a decision before the host depend on.
type Reasons = (Verdict, &'static str, &'static str, &'static str, Protocol);
/// What the members behind the client depend on.
type Tail = (&'static str, bool, Arc<Label>);

/// A line up to the client's address.
struct Front<K> {
    of: K,
    host: Text,
    port: u16,
    text: Vec<u8>,
    /// Where the time stands in it.
    time: Range<usize>,
}

impl<K: PartialEq> Front<K> {
    /// Appends it, made anew where it is another than before. `members` are those behind the time, and in front of the host.
    fn put(
        kept: &mut Option<Self>,
        out: &mut Vec<u8>,
        of: K,
        (name, stamp): (&str, &[u8; STAMP]),
        exchange: &Exchange,
        members: impl Fn(&mut Vec<u8>),
    ) {
        let is_same = |kept: &&mut Self| kept.of == of && kept.port == exchange.port && kept.host == exchange.host;
        if let Some(kept) = kept.as_mut().filter(is_same) {
            if let Some(time) = kept.text.get_mut(kept.time.clone()) {
                time.copy_from_slice(stamp);
            }
            return out.extend_from_slice(&kept.text);
        }
        let mut text = kept.take().map_or_else(|| Vec::with_capacity(512), |kept| kept.text);
        text.clear();
        start(&mut text, name, stamp);
        let time = text.len() - 1 - STAMP..text.len() - 1;
        members(&mut text);
        host_members(&mut text, exchange);
        out.extend_from_slice(&text);
        *kept = Some(Self { of, host: exchange.host.clone(), port: exchange.port, text, time });
    }
}

impl Kept {
    /// Appends a decision, with its brace, as the functions below do. `false`, and nothing is appended, where it has text that is not known before.
    fn decision(&mut self, out: &mut Vec<u8>, judged: &Judged, label: &Arc<Label>, stamp: &[u8; STAMP], metadata: &[u8]) -> bool {
        let Judged { reason: Cow::Borrowed(reason), exchange, .. } = judged else { return false };
        let method = match &judged.method {
            None => "none",
            Some(Cow::Borrowed(method)) => method,
            Some(Cow::Owned(_)) => return false,
        };
        let of = (judged.verdict, judged.source, *reason, judged.scope(), exchange.protocol);
        Front::put(&mut self.decided, out, of, (events::DECISION, stamp), exchange, |text| head_members(text, judged));
        socket(out, exchange.client);
        let (_, tail) = match &mut self.tail {
            Some(kept) if kept.0.0 == method && kept.0.1 == judged.is_override && Arc::ptr_eq(&kept.0.2, label) => kept,
            other => {
                let mut tail = Vec::with_capacity(512);
                tail.push(b'"');
                tail_members(&mut tail, method, judged.is_override);
                tail.extend_from_slice(metadata);
                tail.extend_from_slice(&label.json);
                tail.extend_from_slice(ID);
                other.insert(((method, judged.is_override, Arc::clone(label)), tail))
            }
        };
        out.extend_from_slice(tail);
        number(out, exchange.id);
        out.push(b'}');
        true
    }

    /// Appends an end, with its brace. Its decision says by which policy and rule.
    fn close(&mut self, out: &mut Vec<u8>, ended: &Ended, stamp: &[u8; STAMP], metadata: &[u8]) {
        let exchange = &ended.exchange;
        Front::put(&mut self.closed, out, exchange.protocol, (events::CLOSED, stamp), exchange, |text| protocol_member(text, exchange));
        socket(out, exchange.client);
        number_member(out, b"\",\"network.io.up\":", ended.up);
        number_member(out, b",\"network.io.down\":", ended.down);
        number_member(out, b",\"duration_ms\":", millis(ended));
        out.extend_from_slice(b",\"outcome\":\"");
        out.extend_from_slice(ended.ending.as_str().as_bytes());
        out.push(b'"');
        if let Some(detail) = ended.ending.detail() {
            member(out, "outcome.detail", detail);
        }
        out.extend_from_slice(metadata);
        number_member(out, GENERATION, exchange.generation);
        number_member(out, ID, exchange.id);
        out.push(b'}');
    }
}

/// Up to the time, with its quotation mark.
fn start(out: &mut Vec<u8>, name: &str, stamp: &[u8; STAMP]) {
    out.extend_from_slice(b"{\"event.name\":\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\",\"event.timestamp\":\"");
    out.extend_from_slice(stamp);
    out.push(b'"');
}

/// In front of a policy's number.
const GENERATION: &[u8] = b",\"network.policy.generation\":";
/// In front of the number that joins a decision with its end.
const ID: &[u8] = b",\"network.exchange.id\":";

fn judged_members(out: &mut Vec<u8>, judged: &Judged) {
    head_members(out, judged);
    host_members(out, &judged.exchange);
    socket(out, judged.exchange.client);
    out.push(b'"');
    tail_members(out, judged.method.as_deref().unwrap_or("none"), judged.is_override);
}

fn tail_members(out: &mut Vec<u8>, method: &str, is_override: bool) {
    out.extend_from_slice(b",\"http.request.method\":");
    text(out, method);
    out.extend_from_slice(if is_override { b",\"network.policy.override\":true" } else { b",\"network.policy.override\":false" });
}

/// Up to the host.
fn head_members(out: &mut Vec<u8>, judged: &Judged) {
    out.extend_from_slice(b",\"network.policy.scope\":\"");
    out.extend_from_slice(judged.scope().as_bytes());
    out.extend_from_slice(b"\",\"network.policy.decision\":\"");
    out.extend_from_slice(judged.verdict.as_str().as_bytes());
    out.extend_from_slice(b"\",\"network.policy.source\":\"");
    out.extend_from_slice(judged.source.as_bytes());
    out.extend_from_slice(b"\",\"network.policy.reason\":");
    text(out, &judged.reason);
    protocol_member(out, &judged.exchange);
}

pub(super) fn millis(ended: &Ended) -> u64 {
    u64::try_from(ended.duration.as_millis()).unwrap_or(u64::MAX)
}

/// And the name of the member that follows.
fn protocol_member(out: &mut Vec<u8>, exchange: &Exchange) {
    out.extend_from_slice(b",\"network.transport.protocol\":\"");
    out.extend_from_slice(exchange.protocol.as_str().as_bytes());
    out.extend_from_slice(b"\",\"server.address\":");
}

/// From the host to the client, and the quotation mark in front of it.
fn host_members(out: &mut Vec<u8>, exchange: &Exchange) {
    bytes(out, exchange.host.as_bytes());
    number_member(out, b",\"server.port\":", exchange.port.into());
    out.extend_from_slice(b",\"client.address\":\"");
}

fn state_members(out: &mut Vec<u8>, kind: &Kind) {
    match kind {
        Kind::Policy(Change::Swapped { rules, .. }) => {
            member(out, "outcome", "swapped");
            number_member(out, b",\"network.policy.rules\":", (*rules).into());
        }
        Kind::Policy(Change::Refused(why)) => {
            member(out, "outcome", "refused");
            member(out, "outcome.detail", why);
        }
        Kind::Policy(Change::Withdrawn(why)) => {
            member(out, "outcome", "withdrawn");
            member(out, "outcome.detail", why);
        }
        Kind::Mode { mode, set, .. } => {
            member(out, "network.policy.mode", mode.as_str());
            member(out, "outcome", if *set { "set" } else { "policy" });
        }
        Kind::Limit(reached) => limit_members(out, reached),
        Kind::Fault(what) => member(out, "outcome.detail", what),
        Kind::Lost(Gap { count, since, sink }) => {
            number_member(out, b",\"event.lost.count\":", *count);
            member(out, "event.lost.since", std::str::from_utf8(Stamp::default().of(*since)).unwrap_or_default());
            if let Some(sink) = sink {
                member(out, "event.lost.sink", sink);
            }
        }
        Kind::Start(start) => {
            member(out, "service.name", PRODUCT);
            member(out, "service.version", VERSION);
            number_member(out, b",\"process.pid\":", start.process.into());
        }
        Kind::Decision(_) | Kind::Close(_) | Kind::Revoked(_) | Kind::Inner { .. } | Kind::Stop => {}
    }
}

fn limit_members(out: &mut Vec<u8>, reached: &Reached) {
    member(out, "network.limit.name", reached.limit);
    number_member(out, b",\"network.limit.count\":", reached.count);
    if let Some(host) = &reached.host {
        member(out, "server.address", host.as_str());
    }
    if let Some(port) = reached.port {
        number_member(out, b",\"server.port\":", port.into());
    }
    if let Some(client) = reached.client {
        out.extend_from_slice(b",\"client.address\":\"");
        socket(out, client);
        out.push(b'"');
    }
}

/// What a policy and a rule are called, as members with commas in front.
pub(super) fn label(policy: &PolicyName, rule: Option<&RuleName>) -> Vec<u8> {
    let mut out = Vec::with_capacity(384);
    if let Some(rule) = rule {
        number_member(&mut out, b",\"network.policy.rule\":", rule.id.into());
        member(&mut out, "network.policy.pattern", &rule.pattern);
        member(&mut out, "network.policy.layer", rule.layer);
        member(&mut out, "network.policy.place", &rule.place);
    }
    member(&mut out, "network.policy.profile", &policy.profile);
    member(&mut out, "network.policy.digest", &policy.digest);
    number_member(&mut out, GENERATION, policy.generation);
    out
}

/// Members with commas in front.
pub(super) fn members(of: &BTreeMap<String, String>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in of {
        member(&mut out, name, value);
    }
    out
}

pub(super) fn member(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(b',');
    text(out, name);
    out.push(b':');
    text(out, value);
}

/// `start` is `,"name":`.
pub(super) fn number_member(out: &mut Vec<u8>, start: &[u8], value: u64) {
    out.extend_from_slice(start);
    number(out, value);
}

/// A string with its quotes.
pub(super) fn text(out: &mut Vec<u8>, text: &str) {
    bytes(out, text.as_bytes());
}

/// A string, of bytes that are UTF-8.
fn bytes(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    // All of them, without a branch, which is done many at a time.
    let is_plain = !text.iter().fold(false, |found, byte| found | (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\'));
    if is_plain {
        out.extend_from_slice(text);
    } else {
        escape(out, text);
    }
    out.push(b'"');
}

#[cold]
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => {
                out.extend_from_slice(b"\\u00");
                let digit = |digit: u8| HEX.get(usize::from(digit)).copied().unwrap_or(b'0');
                out.extend_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
            }
            byte => out.push(*byte),
        }
    }
}

/// A number.
pub(super) fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(digits::number(value, &mut [0; 20]));
}

/// An address and a port.
pub(super) fn socket(out: &mut Vec<u8>, socket: SocketAddr) {
    out.extend_from_slice(digits::socket(socket, &mut [0; digits::SOCKET]));
}

/// An address.
pub(super) fn address(out: &mut Vec<u8>, ip: IpAddr) {
    out.extend_from_slice(digits::address(ip, &mut [0; digits::ADDRESS]));
}

/// Bytes of a time.
const STAMP: usize = 24;

/// RFC 3339, UTC, milliseconds: made once for all events of a millisecond.
pub(super) struct Stamp {
    time: u64,
    text: [u8; STAMP],
}

impl Default for Stamp {
    fn default() -> Self {
        Self { time: 0, text: *b"1970-01-01T00:00:00.000Z" }
    }
}

/// The last millisecond of the year 9999: the form has no room for more.
const LAST: u64 = 253_402_300_799_999;

impl Stamp {
    pub(super) fn of(&mut self, time: u64) -> &[u8; STAMP] {
        let time = time.min(LAST);
        if time != self.time {
            let mut rest = time % 1000;
            if time / 1000 != self.time / 1000 {
                self.second(time / 1000);
            }
            let [.., hundreds, tens, ones, _] = &mut self.text;
            for digit in [ones, tens, hundreds] {
                *digit = b'0' + u8::try_from(rest % 10).unwrap_or_default();
                rest /= 10;
            }
            self.time = time;
        }
        &self.text
    }

    fn second(&mut self, seconds: u64) {
        let (year, month, day) = date(seconds / 86_400);
        let second = seconds % 86_400;
        let mut text = Vec::with_capacity(STAMP);
        let _ = write!(text, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.000Z", second / 3600, second / 60 % 60, second % 60);
        if let Ok(text) = text.try_into() {
            self.text = text;
        }
    }
}

/// Whether an event is about something that did not go well.
pub(super) fn is_bad(kind: &Kind) -> bool {
    match kind {
        Kind::Decision(judged) => judged.verdict != Verdict::Allow,
        Kind::Revoked(_) | Kind::Inner { .. } | Kind::Fault(_) | Kind::Lost(_) | Kind::Limit(_) => true,
        Kind::Policy(change) => !matches!(change, Change::Swapped { .. }),
        Kind::Close(_) | Kind::Mode { .. } | Kind::Start(_) | Kind::Stop => false,
    }
}

#[cfg(test)]
#[path = "json/tests.rs"]
pub(super) mod tests;
