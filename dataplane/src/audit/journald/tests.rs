#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use super::*;
use crate::audit::event::Ending;
use crate::audit::record::{Ended, Exchange, Text};
use crate::audit::sink::Sink;
use policy_format::{AuditNaming, Protocol};
use std::collections::BTreeMap;
use std::time::Instant;

/// The fields of a datagram, as the journal reads them.
fn fields(mut datagram: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    while !datagram.is_empty() {
        let end = datagram.iter().position(|byte| matches!(byte, b'=' | b'\n')).unwrap();
        let (name, rest) = datagram.split_at(end);
        let (value, rest) = if rest[0] == b'=' {
            let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
            (&rest[1..end], &rest[end + 1..])
        } else {
            let length = usize::try_from(u64::from_le_bytes(rest[1..9].try_into().unwrap())).unwrap();
            assert_eq!(rest[9 + length], b'\n');
            (&rest[9..9 + length], &rest[10 + length..])
        };
        assert!(name.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'_' || byte.is_ascii_digit()));
        assert_eq!(fields.insert(text(name), text(value)), None);
        datagram = rest;
    }
    fields
}

/// All that the line of JSON says, by the names that it has there.
#[test]
fn each_kind_of_event_has_a_field_for_each_of_its_facts() {
    let form =
        Form { naming: AuditNaming::Codex, metadata: BTreeMap::from([("conversation.id".to_owned(), "c-1".to_owned())]), lossy: true };
    let folder = tempfile::tempdir().unwrap();
    let mut journal = JournaldSink::at(folder.path().join("socket").to_str().unwrap(), &form).to;
    let mut encoder = crate::audit::json::Encoder::new(&form);
    for event in crate::audit::json::tests::all() {
        let mut line = Vec::new();
        encoder.line(&mut line, &event);
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let found = fields(&journal.message(&event));
        for (name, value) in line.as_object().unwrap().iter().filter(|(name, _)| *name != "event.timestamp") {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            assert_eq!(found.get(&upper(name)), Some(&value), "{name} of {line}");
        }
        assert_eq!(found["EVENT_TIME_MS"], event.time.to_string());
    }
}

#[test]
fn the_journal_gets_a_field_for_each_fact() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let metadata = [("conversation.id".to_owned(), "c-1".to_owned())].into();
    let mut sink = JournaldSink::at(path.to_str().unwrap(), &Form { naming: AuditNaming::Codex, metadata, lossy: true });
    let exchange = Exchange {
        id: 7,
        generation: 1,
        client: "127.0.0.1:5".parse().unwrap(),
        protocol: Protocol::Http,
        host: Text::new("a.example"),
        port: 80,
    };
    let ended = Ended { exchange, up: 1, down: 2, duration: Duration::from_secs(3), ending: Ending::Limited("idle_timeout") };
    let events = [Kind::Close(ended), Kind::Fault("two\nlines".into())].map(Event::now);
    assert!(sink.write(&events).is_err(), "there is no journal yet");
    let journal = UnixDatagram::bind(&path).unwrap();
    sink.close(Instant::now()).unwrap();
    let mut datagram = [0; 8192];
    let mut next = || {
        let length = journal.recv(&mut datagram).unwrap();
        fields(&datagram[..length])
    };
    let closed = next();
    for (name, value) in [
        ("MESSAGE", "closed http a.example:80: limited, 1 B up, 2 B down"),
        ("PRIORITY", "6"),
        ("SYSLOG_IDENTIFIER", "netproxy-dp"),
        ("EVENT_NAME", "codex.network_proxy.closed"),
        ("SERVER_ADDRESS", "a.example"),
        ("SERVER_PORT", "80"),
        ("OUTCOME", "limited"),
        ("OUTCOME_DETAIL", "idle_timeout"),
        ("DURATION_MS", "3000"),
        ("CONVERSATION_ID", "c-1"),
    ] {
        assert_eq!(closed.get(name).map(String::as_str), Some(value), "{name}");
    }
    let fault = next();
    assert_eq!((fault["MESSAGE"].as_str(), fault["PRIORITY"].as_str()), ("fault: two\nlines", "4"));
}
