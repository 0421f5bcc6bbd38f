#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use super::*;
use crate::audit::event::Ending;
use crate::audit::record::{Label, Start, Text};
use policy_format::{Mode, Protocol, RuleId};
use proptest::prelude::*;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// 2026-01-02T03:04:05.678Z.
const TIME: u64 = 1_767_323_045_678;

fn exchange(host: &str) -> Exchange {
    Exchange { id: 7, generation: 3, client: "127.0.0.1:49152".parse().unwrap(), protocol: Protocol::Http, host: Text::new(host), port: 80 }
}

fn judged(verdict: Verdict, reason: &str, source: &'static str) -> Judged {
    let rule = (verdict == Verdict::Allow).then_some(RuleId(12));
    let reason = Cow::Owned(reason.to_owned());
    Judged { exchange: exchange("api.example.com"), method: Some("GET".into()), verdict, reason, source, is_override: false, rule }
}

fn name() -> PolicyName {
    PolicyName { generation: 3, digest: "ab".repeat(32), profile: "workspace".into(), mode: Mode::Full }
}

fn label(with_rule: bool) -> Arc<Label> {
    let rule = RuleName { id: 12, pattern: "**.example.com".into(), layer: "user", place: "config.toml:12".into(), reason: String::new() };
    let (policy, rule) = (Arc::new(name()), with_rule.then_some(rule));
    let json = super::label(&policy, rule.as_ref()).into();
    Arc::new(Label { policy, rule, json })
}

fn ended(ending: Ending) -> Ended {
    Ended { exchange: exchange("api.example.com"), up: 10, down: 2000, duration: Duration::from_millis(1234), ending }
}

/// One of each kind.
pub(in crate::audit) fn all() -> Vec<Event> {
    let reached = Reached {
        limit: "head_timeout",
        count: 3,
        client: Some("[2001:db8::1]:5".parse().unwrap()),
        host: Some(Text::new("a.example")),
        port: Some(443),
    };
    let mut ask = judged(Verdict::Ask, "not_approved", "decider");
    (ask.exchange.protocol, ask.method) = (Protocol::Connect, None);
    let mut given = judged(Verdict::Allow, "allow", "decider");
    (given.is_override, given.rule) = (true, None);
    let mut socket = judged(Verdict::Deny, "not_allowed", "baseline_policy");
    (socket.exchange.host, socket.exchange.port) = (Text::new("unix-socket"), 0);
    let kinds = [
        (Kind::Start(Start { generation: 3, process: 42 }), Some(false)),
        (Kind::Decision(judged(Verdict::Allow, "allow", "baseline_policy")), Some(true)),
        (Kind::Decision(judged(Verdict::Deny, "method_not_allowed", "mode_guard")), Some(false)),
        (Kind::Decision(ask), Some(false)),
        (Kind::Decision(given), Some(false)),
        (Kind::Decision(socket), None),
        (Kind::Close(ended(Ending::Done)), Some(false)),
        (Kind::Close(ended(Ending::Upstream("upstream-refused"))), Some(false)),
        (Kind::Revoked(judged(Verdict::Deny, "denied", "baseline_policy")), Some(true)),
        (Kind::Inner { judged: judged(Verdict::Deny, "not_allowed", "baseline_policy"), closed: true }, Some(false)),
        (Kind::Policy(Change::Swapped { generation: 3, rules: 99 }), Some(false)),
        (Kind::Policy(Change::Refused("it is \"odd\"".into())), Some(false)),
        (Kind::Policy(Change::Withdrawn("it was written to".into())), Some(false)),
        (Kind::Mode { mode: Mode::Limited, set: true, generation: 3 }, Some(false)),
        (Kind::Limit(Box::new(reached)), None),
        (Kind::Fault("the secret is missing".into()), None),
        (Kind::Lost(Gap { count: 5, since: TIME, sink: Some("file") }), None),
        (Kind::Stop, Some(false)),
    ];
    let event = |(number, (kind, of)): (usize, (Kind, Option<bool>))| Event {
        time: TIME + number as u64,
        sequence: number as u64 + 1,
        label: of.map(label),
        kind,
    };
    kinds.into_iter().enumerate().map(event).collect()
}

fn form(naming: AuditNaming) -> Form {
    let metadata = [("conversation.id", "c-1"), ("user.email", "a\"b@example.com")];
    Form { naming, metadata: metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).into(), lossy: true }
}

fn lines(naming: AuditNaming) -> String {
    let mut encoder = Encoder::new(&form(naming));
    let mut out = Vec::new();
    all().iter().for_each(|event| encoder.line(&mut out, event));
    String::from_utf8(out).unwrap().replace(&format!("\"{VERSION}\""), "\"VERSION\"")
}

/// `BLESS=1` writes what is expected anew.
fn golden(name: &str, found: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/audit/json").join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(path).unwrap());
}

#[test]
fn lines_are_as_they_always_were() {
    golden("codex.jsonl", &lines(AuditNaming::Codex));
    golden("ocsf.jsonl", &lines(AuditNaming::Ocsf));
}

/// What the schema has a place for is elsewhere than by the names of the others; what it has none for is there by those.
#[test]
fn what_is_about_no_request_has_the_same_facts_in_both_forms() {
    for event in all().into_iter().filter(|event| event.kind.exchange().is_none()) {
        let line = |naming| -> Value {
            let mut out = Vec::new();
            Encoder::new(&form(naming)).line(&mut out, &event);
            serde_json::from_slice(&out).unwrap()
        };
        let (codex, ocsf) = (line(AuditNaming::Codex), line(AuditNaming::Ocsf));
        let elsewhere = ["event.name", "event.timestamp", "service.name", "service.version", "outcome.detail", "event.lost.since"];
        for (name, value) in codex.as_object().unwrap().iter().filter(|(name, _)| !elsewhere.contains(&name.as_str())) {
            assert_eq!(&ocsf["unmapped"][name], value, "{name} of {ocsf}");
        }
    }
}

/// What is kept of the events before does not show.
#[test]
fn a_line_does_not_depend_on_those_before() {
    let mut encoder = Encoder::new(&form(AuditNaming::Codex));
    let events = all();
    let known = events.iter().cloned().map(|mut event| {
        if let Kind::Decision(judged) = &mut event.kind {
            judged.reason = Cow::Borrowed(judged.reason.clone().into_owned().leak());
            judged.exchange.client.set_port(16 * u16::try_from(event.sequence).unwrap());
        }
        event
    });
    let known: Vec<Event> = known.collect();
    let elsewhere = |host: &str, port| {
        let mut events = known.clone();
        for event in &mut events {
            if let Kind::Decision(Judged { exchange, .. }) | Kind::Close(Ended { exchange, .. }) = &mut event.kind {
                (exchange.host, exchange.port) = (Text::new(host), port);
            }
        }
        events
    };
    let (other, same_port, long) = (elsewhere("b.example", 8080), elsewhere("b.example", 80), elsewhere(&"long.".repeat(40), 80));
    for event in
        known.iter().chain(&events).chain(known.iter().rev()).chain(&known).chain(&other).chain(&same_port).chain(&long).chain(&known)
    {
        let (mut found, mut alone) = (Vec::new(), Vec::new());
        encoder.line(&mut found, event);
        Encoder::new(&form(AuditNaming::Codex)).line(&mut alone, event);
        // By the way of text that is not known before.
        let mut unknown = event.clone();
        if let Kind::Decision(judged) = &mut unknown.kind {
            judged.reason = Cow::Owned(judged.reason.clone().into_owned());
        }
        let mut slow = Vec::new();
        encoder.line(&mut slow, &unknown);
        assert_eq!((&found, &found), (&alone, &slow), "{}", String::from_utf8_lossy(&alone));
    }
}

#[test]
fn every_line_is_one_object_with_each_name_once() {
    for naming in [AuditNaming::Codex, AuditNaming::Ocsf] {
        for line in lines(naming).lines() {
            let value: Value = serde_json::from_str(line).unwrap();
            // A name that is there twice would be dropped on the way.
            assert_eq!(value.to_string(), line, "{naming:?}");
        }
    }
}

#[test]
fn what_ocsf_asks_for_is_there() {
    for (line, event) in lines(AuditNaming::Ocsf).lines().zip(all()) {
        let value: Value = serde_json::from_str(line).unwrap();
        let number = |name: &str| value[name].as_u64().unwrap_or_else(|| panic!("{name}: {line}"));
        assert_eq!(number("type_uid"), number("class_uid") * 100 + number("activity_id"));
        assert_eq!(number("time"), event.time);
        assert!((1..=3).contains(&number("severity_id")));
        assert_eq!(value["metadata"]["version"], "1.3.0");
        assert!(value["metadata"]["product"]["vendor_name"].is_string());
        let about_a_request = event.kind.exchange().is_some();
        assert_eq!(number("class_uid") == 4001, about_a_request);
        if about_a_request {
            assert_eq!(number("category_uid"), 4);
            assert_eq!(value["src_endpoint"]["ip"], "127.0.0.1");
            assert!(value["dst_endpoint"]["hostname"].is_string());
            assert_eq!(value["connection_info"]["direction_id"], 2);
        }
        if let Some(judged) = event.kind.judged() {
            let id = if judged.verdict == Verdict::Allow { 1 } else { 2 };
            assert_eq!((number("action_id"), number("disposition_id")), (id, id));
        }
    }
}

#[test]
fn dates_are_those_of_the_calendar() {
    let stamp = |time| String::from_utf8(Stamp::default().of(time).to_vec()).unwrap();
    for (time, expected) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (951_782_399_999, "2000-02-28T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (951_868_800_000, "2000-03-01T00:00:00.000Z"),
        (TIME, "2026-01-02T03:04:05.678Z"),
        (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        (u64::MAX, "9999-12-31T23:59:59.999Z"),
    ] {
        assert_eq!(stamp(time), expected);
    }
    // What was made before does not show.
    let mut kept = Stamp::default();
    for time in [TIME, TIME + 1, TIME + 321, TIME + 322, TIME + 86_400_000, TIME] {
        assert_eq!(kept.of(time), stamp(time).as_bytes());
    }
}

#[test]
fn numbers_and_addresses_are_as_they_are_shown() {
    for value in [0, 9, 10, 12_345, u64::MAX] {
        let mut out = Vec::new();
        number(&mut out, value);
        assert_eq!(out, value.to_string().as_bytes());
    }
    for text in ["0.0.0.0:0", "255.1.20.255:65535", "[2001:db8::1]:443", "[fe80::1%3]:1"] {
        let address: SocketAddr = text.parse().unwrap();
        let mut out = Vec::new();
        socket(&mut out, address);
        assert_eq!(out, address.to_string().as_bytes());
        let host = policy_format::Host::parse(&address.ip().to_string()).unwrap();
        let mut out = Vec::new();
        super::address(&mut out, address.ip());
        assert_eq!(String::from_utf8(out).unwrap(), host.to_string());
    }
}

proptest! {
    #[test]
    fn any_text_gives_one_line_that_says_it(
        host in any::<String>(), method in any::<String>(), reason in any::<String>(), key in "[a-z.]{1,20}", value in any::<String>(), ocsf in any::<bool>()
    ) {
        let mut judged = judged(Verdict::Deny, &reason, "decider");
        (judged.exchange.host, judged.method) = (Text::new(&host), Some(Cow::Owned(method.clone())));
        let naming = if ocsf { AuditNaming::Ocsf } else { AuditNaming::Codex };
        let key = format!("x.{key}");
        let mut encoder = Encoder::new(&Form { naming, metadata: [(key.clone(), value.clone())].into(), lossy: true });
        let mut out = Vec::new();
        encoder.line(&mut out, &Event { time: TIME, sequence: 1, label: Some(label(true)), kind: Kind::Decision(judged) });
        prop_assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        let read: Value = serde_json::from_slice(&out).unwrap();
        let own = if ocsf { &read["unmapped"] } else { &read };
        prop_assert_eq!(&own["http.request.method"], &Value::from(method));
        prop_assert_eq!(&own[key.as_str()], &Value::from(value));
        if !ocsf {
            prop_assert_eq!(&read["server.address"], &Value::from(host));
            prop_assert_eq!(&read["network.policy.reason"], &Value::from(reason));
        }
    }
}
