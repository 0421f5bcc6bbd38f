//! The sink against a collector that does as it is told.

use super::*;
use crate::audit::record::{Change, Ended, Exchange, Gap, Judged, Kind, Label, PolicyName, Reached, RuleName, Start, Text};
use crate::audit::setup::Form;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use policy_format::{AuditNaming, Mode, OtlpProtocol, Protocol};
use prost::Message;
use serde_json::{Map, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, Sender as Answers, channel};

const SOON: Duration = Duration::from_secs(20);

fn form(naming: AuditNaming) -> Form {
    let metadata = [("conversation.id", "c-1"), ("model", "m")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    Form { naming, metadata: BTreeMap::from(metadata), lossy: true }
}

fn event(sequence: u64, kind: Kind) -> Event {
    Event { time: 1_700_000_000_123, sequence, label: None, kind }
}

fn fault(sequence: u64) -> Event {
    event(sequence, Kind::Fault("a fault".into()))
}

fn lost(sequence: u64, count: u64, since: u64) -> Event {
    event(sequence, Kind::Lost(Gap { count, since, sink: Some(NAME) }))
}

/// A collector: hands over what it gets, and answers what it is given.
struct Stub {
    requests: Receiver<(Vec<String>, ExportLogsServiceRequest)>,
    answers: Answers<String>,
    url: String,
}

impl Stub {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (told, requests) = channel();
        let (answers, given) = channel::<String>();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let mut reader = BufReader::new(stream);
                loop {
                    let mut head = Vec::new();
                    for line in (&mut reader).lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
                        head.push(line.to_ascii_lowercase());
                    }
                    let Some(length) = head.iter().find_map(|line| line.strip_prefix("content-length: ")) else { break };
                    let mut body = vec![0; length.parse().unwrap()];
                    reader.read_exact(&mut body).unwrap();
                    if head.iter().any(|line| line == "content-encoding: gzip") {
                        let mut plain = Vec::new();
                        flate2::read::GzDecoder::new(body.as_slice()).read_to_end(&mut plain).unwrap();
                        body = plain;
                    }
                    let _ = told.send((head, ExportLogsServiceRequest::decode(body.as_slice()).unwrap()));
                    let Ok(answer) = given.recv() else { return };
                    if reader.get_mut().write_all(answer.as_bytes()).is_err() {
                        break;
                    }
                }
            }
        });
        Self { requests, answers, url }
    }

    fn sink(&self, queue: usize, lossy: bool, gzip: bool) -> Otlp {
        sink(&self.url, queue, lossy, gzip, AuditNaming::Codex)
    }

    fn answer(&self, status: &str) {
        self.answers.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")).unwrap();
    }

    /// The events of the next request, by their sequence, and its head.
    fn next(&self) -> (Vec<u64>, Vec<String>) {
        let (head, request) = self.requests.recv_timeout(SOON).unwrap();
        (records(&request).iter().map(sequence).collect(), head)
    }
}

fn sink(url: &str, queue: usize, lossy: bool, gzip: bool, naming: AuditNaming) -> Otlp {
    let otlp = policy_format::Otlp { endpoint: url.to_owned(), protocol: OtlpProtocol::Http, headers_file: None };
    let collector = Arc::new(Collector::of(&otlp).unwrap());
    let sender = Sender::new(Arc::clone(&collector), None, None, gzip);
    Otlp::new(collector, queue, lossy, sender, Encoder::new(&form(naming)))
}

fn records(request: &ExportLogsServiceRequest) -> Vec<LogRecord> {
    request.resource_logs.iter().flat_map(|of| &of.scope_logs).flat_map(|of| of.log_records.clone()).collect()
}

fn sequence(record: &LogRecord) -> u64 {
    attributes(record)["log.record.uid"].as_str().unwrap().rsplit_once('-').unwrap().1.parse().unwrap()
}

/// As JSON, numbers as numbers.
fn attributes(record: &LogRecord) -> Map<String, serde_json::Value> {
    let value = |value: &Value| match value {
        Value::StringValue(text) => json!(text),
        Value::IntValue(number) => json!(number),
        Value::BoolValue(flag) => json!(flag),
        other => panic!("{other:?}"),
    };
    record.attributes.iter().map(|field| (field.key.clone(), value(field.value.as_ref().unwrap().value.as_ref().unwrap()))).collect()
}

/// Waits until a condition holds that nothing rings for.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < SOON, "waited too long until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// One of each kind.
fn kinds() -> Vec<Event> {
    let exchange = |id| Exchange {
        id,
        generation: 3,
        client: "127.0.0.1:5000".parse().unwrap(),
        protocol: Protocol::Connect,
        host: Text::new("evil.test"),
        port: 443,
    };
    let judged = |verdict, method: Option<&'static str>, source, is_override| Judged {
        exchange: exchange(7),
        method: method.map(Cow::Borrowed),
        verdict,
        reason: Cow::Borrowed("not_allowed"),
        source,
        is_override,
        rule: None,
    };
    let policy = Arc::new(PolicyName { generation: 3, digest: "00ff".into(), profile: "workspace".into(), mode: Mode::Full });
    let rule =
        |name: &str| RuleName { id: 5, pattern: name.to_owned(), layer: "user", place: "config.toml:12".to_owned(), reason: String::new() };
    let label = |rule: Option<RuleName>| {
        let json = crate::audit::json::label(&policy, rule.as_ref()).into();
        Some(Arc::new(Label { policy: Arc::clone(&policy), rule, json }))
    };
    let ended = |ending| Ended { exchange: exchange(8), up: 10, down: u64::MAX, duration: Duration::from_micros(1_500_900), ending };
    let reached = Reached {
        limit: "connections",
        count: 4,
        client: Some("[::1]:9".parse().unwrap()),
        host: Some(Text::new("2001:db8::1")),
        port: Some(80),
    };
    use crate::audit::event::{Ending, Verdict};
    let mut events = Vec::new();
    let mut add = |label: Option<Arc<Label>>, kind| events.push(Event { label, ..event(events.len() as u64 + 1, kind) });
    add(label(Some(rule("**.test"))), Kind::Decision(judged(Verdict::Allow, Some("GET"), "baseline_policy", false)));
    add(label(None), Kind::Decision(judged(Verdict::Deny, None, "mode_guard", false)));
    add(None, Kind::Decision(judged(Verdict::Ask, None, "decider", true)));
    add(label(Some(rule("a\"b"))), Kind::Revoked(judged(Verdict::Deny, None, "baseline_policy", false)));
    add(label(None), Kind::Inner { judged: judged(Verdict::Deny, None, "baseline_policy", false), closed: true });
    add(label(None), Kind::Inner { judged: judged(Verdict::Deny, None, "baseline_policy", false), closed: false });
    add(label(Some(rule("x"))), Kind::Close(ended(Ending::Done)));
    add(None, Kind::Close(ended(Ending::Upstream("upstream-refused"))));
    add(label(None), Kind::Policy(Change::Swapped { generation: 3, rules: 9 }));
    add(None, Kind::Policy(Change::Refused("no good".into())));
    add(None, Kind::Policy(Change::Withdrawn("changed".into())));
    add(label(None), Kind::Mode { mode: Mode::Limited, set: true, generation: 3 });
    add(label(None), Kind::Mode { mode: Mode::Full, set: false, generation: 3 });
    add(None, Kind::Limit(Box::new(reached)));
    add(None, Kind::Limit(Box::new(Reached { limit: "tunnels", count: 1, client: None, host: None, port: None })));
    add(None, Kind::Fault("two\nlines".into()));
    add(None, Kind::Lost(Gap { count: 3, since: 1_600_000_000_000, sink: None }));
    add(None, Kind::Lost(Gap { count: 3, since: 1_600_000_000_000, sink: Some(NAME) }));
    add(label(None), Kind::Start(Start { generation: 3, process: 77 }));
    add(None, Kind::Stop);
    events
}

#[test]
fn records_say_what_the_json_says() {
    let events = kinds();
    let mut encoder = Encoder::new(&form(AuditNaming::Codex));
    let mut lines = crate::audit::json::Encoder::new(&form(AuditNaming::Codex));
    let (request, count) = encoder.request(&events);
    assert_eq!(count, events.len());
    let request = ExportLogsServiceRequest::decode(request.as_slice()).unwrap();
    let [of_resource] = request.resource_logs.as_slice() else { panic!("one resource") };
    let [of_scope] = of_resource.scope_logs.as_slice() else { panic!("one scope") };
    assert_eq!(of_scope.scope.as_ref().unwrap().name, "codex_otel.network_proxy");
    for (event, record) in events.iter().zip(&of_scope.log_records) {
        let mut line = Vec::new();
        lines.line(&mut line, event);
        let mut expected: Map<String, serde_json::Value> = serde_json::from_slice(&line).unwrap();
        // What protobuf has no number for.
        if let Some(down) = expected.get_mut("network.io.down") {
            *down = json!(i64::MAX);
        }
        let mut found = attributes(record);
        assert!(found.remove("log.record.uid").is_some());
        // The same fields, of the same types, in the same order, each once.
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        assert_eq!(found, expected);
        assert_eq!(record.attributes.len(), found.len() + 1);
        assert_eq!((record.event_name.as_str(), record.body.as_ref()), (event.kind.name(), None));
        assert_eq!(record.time_unix_nano, 1_700_000_000_123_000_000);
        assert!(record.observed_time_unix_nano > record.time_unix_nano);
    }
    let severities: Vec<&str> = of_scope.log_records.iter().map(|record| record.severity_text.as_str()).collect();
    let expected = "INFO WARN WARN WARN WARN WARN INFO INFO INFO ERROR ERROR INFO INFO WARN WARN ERROR ERROR ERROR INFO INFO";
    assert_eq!(severities.join(" "), expected);
    let numbers = [SeverityNumber::Info, SeverityNumber::Warn, SeverityNumber::Error];
    for record in &of_scope.log_records {
        assert!(
            numbers.iter().any(|number| *number as i32 == record.severity_number && number.as_str_name().ends_with(&record.severity_text))
        );
    }
    let names: Vec<&str> = of_resource.resource.as_ref().unwrap().attributes.iter().map(|field| field.key.as_str()).collect();
    assert_eq!(names, ["service.name", "service.version", "service.instance.id", "host.name"]);
}

#[test]
fn with_the_names_of_ocsf_the_body_is_the_line() {
    let events = kinds();
    let (request, _) = Encoder::new(&form(AuditNaming::Ocsf)).request(&events);
    let request = ExportLogsServiceRequest::decode(request.as_slice()).unwrap();
    let mut lines = crate::audit::json::Encoder::new(&form(AuditNaming::Ocsf));
    for (event, record) in events.iter().zip(records(&request)) {
        let mut line = Vec::new();
        lines.line(&mut line, event);
        let body = record.body.as_ref().unwrap().value.as_ref().unwrap();
        assert_eq!(body, &Value::StringValue(String::from_utf8(line).unwrap().trim_end().to_owned()));
        assert_eq!(attributes(&record).keys().collect::<Vec<_>>(), ["event.name", "event.timestamp", "log.record.uid"]);
    }
}

#[test]
fn a_request_has_as_much_as_a_collector_takes() {
    let mut encoder = Encoder::new(&form(AuditNaming::Codex));
    let large: Vec<Event> = (1..=5).map(|n| event(n, Kind::Fault("x".repeat(400_000).into()))).collect();
    let counts: Vec<usize> = [&large[..], &large[2..], &large[4..], &[]].iter().map(|events| encoder.request(*events).1).collect();
    assert_eq!(counts, [2, 2, 1, 0]);
    // One that is too large by itself goes alone.
    let (request, count) = encoder.request(&[event(1, Kind::Fault("x".repeat(2 << 20).into())), fault(2)]);
    assert!(count == 1 && request.len() > 2 << 20);
}

#[test]
fn events_arrive_in_order_and_failing_is_said_until_they_do() {
    for gzip in [false, true] {
        let stub = Stub::start();
        let mut sink = stub.sink(100, true, gzip);
        assert!(sink.write(&[fault(1), fault(2)]).is_ok());
        stub.answer("503 Busy\r\nRetry-After: 0");
        let (events, head) = stub.next();
        assert_eq!(events, [1, 2]);
        assert_eq!(head[0], "post /v1/logs http/1.1");
        assert!(head.contains(&"content-type: application/x-protobuf".to_owned()), "{head:?}");
        assert_eq!(head.contains(&"content-encoding: gzip".to_owned()), gzip);
        // The same again, and nothing else of it.
        let (events, _) = stub.next();
        assert_eq!(events, [1, 2]);
        let error = sink.flush().unwrap_err().to_string();
        assert_eq!(error, format!("{}/v1/logs: it answered 503; 2 events wait", stub.url));
        assert_eq!((sink.pending(), sink.take_lost()), (2, 0));
        stub.answer("200 OK");
        until("they are sent", || sink.pending() == 0);
        assert!(sink.flush().is_ok());
        sink.write(&[fault(3)]).unwrap();
        stub.answer("200 OK");
        assert_eq!(stub.next().0, [3]);
        assert!(sink.close(Instant::now() + SOON).is_ok());
        assert_eq!((sink.pending(), sink.take_lost()), (0, 0));
    }
}

#[test]
fn beyond_the_bound_events_are_counted_exactly_and_what_says_so_is_kept() {
    // Nobody listens there, and nobody else has the port.
    let gone = tokio::net::TcpSocket::new_v4().unwrap();
    gone.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut sink = sink(&format!("http://{}", gone.local_addr().unwrap()), 10, true, false, AuditNaming::Codex);
    let all: Vec<Event> = (1..=25).map(fault).collect();
    let _ = sink.write(&all[..7]);
    let _ = sink.write(&all[7..]);
    assert_eq!((sink.pending(), sink.has_room(), sink.take_lost(), sink.take_lost()), (10, false, 15, 0));
    let _ = sink.write(&[lost(26, 15, 50), fault(27), lost(28, 1, 40), lost(29, 2, 60)]);
    // One more waits than may: what is missing is said in one event, for as long as there is nothing else behind it.
    assert_eq!((sink.pending(), sink.take_lost()), (11, 1));
    let waiting = sink.shared.state().waiting.back().unwrap().kind.clone();
    assert_eq!(waiting, Kind::Lost(Gap { count: 18, since: 40, sink: Some(NAME) }));
    until("it fails", || sink.flush().is_err());
    let error = sink.close(Instant::now() + Duration::from_millis(20)).unwrap_err().to_string();
    assert!(error.ends_with("; 11 events were not sent"), "{error}");
    assert_eq!(sink.pending(), 11);
}

#[test]
fn one_that_may_lose_nothing_says_when_it_is_full_and_takes_what_it_is_told() {
    let stub = Stub::start();
    let mut sink = stub.sink(4, false, false);
    assert!(sink.has_room());
    sink.write(&(1..=6).map(fault).collect::<Vec<_>>()).unwrap();
    assert!(!sink.has_room());
    stub.answer("200 OK");
    assert_eq!(stub.next().0, [1, 2, 3, 4, 5, 6]);
    until("there is room", || sink.has_room());
    assert_eq!(sink.take_lost(), 0);
}

#[test]
fn what_a_collector_rejects_is_counted_and_not_sent_again() {
    let stub = Stub::start();
    let mut sink = stub.sink(100, true, false);
    sink.write(&[fault(1), fault(2), fault(3)]).unwrap();
    stub.answer("400 Bad Request");
    assert_eq!(stub.next().0, [1, 2, 3]);
    until("they are settled", || sink.pending() == 0);
    assert_eq!(sink.take_lost(), 3);
    assert_eq!(sink.flush().unwrap_err().to_string(), format!("{}/v1/logs: it rejects events: it answered 400; 0 events wait", stub.url));
    sink.write(&[fault(4), fault(5), fault(6)]).unwrap_err();
    // `partial_success` with two that are rejected, and why.
    let body = "\x0a\x07\x08\x02\x12\x03old";
    stub.answers.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).unwrap();
    assert_eq!(stub.next().0, [4, 5, 6]);
    until("they are settled", || sink.pending() == 0);
    assert_eq!(sink.take_lost(), 2);
    assert!(sink.flush().unwrap_err().to_string().contains(": it rejects events: old"));
    sink.write(&[fault(7)]).unwrap_err();
    stub.answer("200 OK");
    assert_eq!(stub.next().0, [7]);
    until("it is well again", || sink.flush().is_ok());
    assert_eq!(sink.take_lost(), 0);
}

/// Whatever the collector makes of it, each number is told once, as soon as it takes events.
#[test]
fn what_says_how_much_is_missing_is_said_again_where_it_was_rejected() {
    // `partial_success` with one that is rejected.
    let partial = "200 OK\r\nContent-Length: 4\r\n\r\n\x0a\x02\x08\x01";
    for rejects in ["400 Bad Request\r\nContent-Length: 0\r\n\r\n", partial] {
        let stub = Stub::start();
        let mut sink = stub.sink(100, true, false);
        let reject = || stub.answers.send(format!("HTTP/1.1 {rejects}")).unwrap();
        let gaps = |request: &ExportLogsServiceRequest| -> Vec<(i64, String)> {
            let told = |record: &LogRecord| {
                let fields = attributes(record);
                Some((fields.get("event.lost.count")?.as_i64()?, fields["event.lost.since"].as_str()?.to_owned()))
            };
            records(request).iter().filter_map(told).collect()
        };
        let next = || {
            let (_, request) = stub.requests.recv_timeout(SOON).unwrap();
            (records(&request).iter().map(sequence).collect::<Vec<_>>(), gaps(&request))
        };
        let said = |count, since: &str| vec![(count, format!("1970-01-01T00:00:00.{since}Z"))];
        let elsewhere = event(9, Kind::Lost(Gap { count: 5, since: 7, sink: None }));
        let _ = sink.write(&[fault(1), lost(2, 9, 20), fault(3), elsewhere]);
        for expected in [(vec![1], vec![]), (vec![2], said(9, "020")), (vec![3], vec![]), (vec![9], said(5, "007"))] {
            reject();
            assert_eq!(next(), expected);
        }
        until("they are settled", || sink.pending() == 0);
        assert_eq!(sink.take_lost(), 2);
        // What has come to be missing since is said with it.
        let _ = sink.write(&[lost(10, 2, 10), fault(11)]);
        reject();
        assert_eq!(next(), (vec![2], said(11, "010")));
        reject();
        assert_eq!(next(), (vec![9], said(5, "007")));
        stub.answer("200 OK");
        assert_eq!(next(), (vec![11], vec![]));
        until("they are settled", || sink.pending() == 0);
        // Nothing but the next batch has it tried again, and then it is forgotten.
        let _ = sink.write(&[fault(12)]);
        for expected in [(vec![2], said(11, "010")), (vec![9], said(5, "007")), (vec![12], vec![])] {
            stub.answer("200 OK");
            assert_eq!(next(), expected);
        }
        let _ = sink.write(&[fault(13)]);
        stub.answer("200 OK");
        assert_eq!(next(), (vec![13], vec![]));
        assert!(sink.close(Instant::now() + SOON).is_ok());
        assert_eq!(sink.take_lost(), 0);
    }
}

#[test]
fn the_end_waits_for_what_is_left_but_not_longer() {
    let stub = Stub::start();
    let mut sink = stub.sink(100, true, false);
    // Nothing was ever told.
    let started = Instant::now();
    assert!(stub.sink(100, true, false).close(Instant::now() + SOON).is_ok());
    assert!(started.elapsed() < SOON);
    sink.write(&[fault(1)]).unwrap();
    stub.answer("200 OK");
    assert!(sink.close(Instant::now() + SOON).is_ok());
    assert_eq!(stub.next().0, [1]);
    // It takes the request, and never answers.
    let mut sink = stub.sink(100, true, false);
    sink.write(&[fault(2), fault(3)]).unwrap();
    assert_eq!(stub.next().0, [2, 3]);
    let error = sink.close(Instant::now() + Duration::from_millis(50)).unwrap_err().to_string();
    assert!(error.ends_with("there was no time; 2 events were not sent"), "{error}");
    assert_eq!(sink.pending(), 2);
}

#[test]
fn waits_grow_up_to_a_bound_and_differ() {
    let mut back_off = BackOff::default();
    let waits: Vec<Duration> = (0..12).map(|_| back_off.next()).collect();
    let mut longest = BACK_OFF.0;
    for wait in &waits {
        assert!(*wait >= longest / 2 && *wait <= longest, "{waits:?}");
        longest = (longest * 2).min(BACK_OFF.1);
    }
    let first: std::collections::HashSet<Duration> = (0..50).map(|_| BackOff::default().next()).collect();
    assert!(first.len() > 1);
}
