#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use super::*;
use crate::audit::backlog::ROOM;
use crate::audit::record::{Exchange, Judged, Text};
use crate::audit::sink::Sink;
use policy_format::{AuditNaming, Protocol};
use std::collections::BTreeMap;
use std::io::Read;
use std::net::TcpListener;
use std::time::Instant;

fn form() -> Form {
    Form { naming: AuditNaming::Codex, metadata: BTreeMap::new(), lossy: true }
}

fn denied(host: &str) -> Event {
    let exchange = Exchange {
        id: 7,
        generation: 1,
        client: "127.0.0.1:5".parse().unwrap(),
        protocol: Protocol::Connect,
        host: Text::new(host),
        port: 443,
    };
    let judged = Judged {
        exchange,
        method: None,
        verdict: crate::audit::event::Verdict::Deny,
        reason: "not_allowed".into(),
        source: "baseline_policy",
        is_override: false,
        rule: None,
    };
    Event { time: 1_767_323_045_678, sequence: 9, label: None, kind: Kind::Decision(judged) }
}

/// Header, structured data and text of a message.
fn parts(message: &str) -> (Vec<&str>, &str, serde_json::Value) {
    let (header, rest) = message.split_once(" [").unwrap();
    let (data, text) = rest.split_once("] ").unwrap();
    (header.split(' ').collect(), data, serde_json::from_str(text).unwrap())
}

fn check(message: &str) {
    let (header, data, line) = parts(message);
    let process = std::process::id().to_string();
    // local0, notice.
    assert!(
        matches!(header[..], ["<133>1", "2026-01-02T03:04:05.678Z", host, "netproxy-dp", of, "policy_decision"] if !host.is_empty() && of == process),
        "{header:?}"
    );
    let expected = "netproxy@32473 sequence=\"9\" id=\"7\" host=\"a.example\" port=\"443\" client=\"127.0.0.1:5\" protocol=\"https_connect\" \
                    decision=\"deny\" reason=\"not_allowed\"";
    assert_eq!(data, expected);
    assert_eq!(line["server.address"], "a.example");
}

#[test]
fn the_system_gets_datagrams_and_those_of_before_it_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut sink = SyslogSink::open(SyslogTarget::Socket(path.to_str().unwrap().to_owned()), &form()).unwrap();
    assert!(sink.write(&[denied("a.example")]).is_err());
    assert_eq!(sink.pending(), 1);
    let system = UnixDatagram::bind(&path).unwrap();
    sink.close(Instant::now()).unwrap();
    assert_eq!(sink.pending(), 0);
    let mut message = [0; 4096];
    let length = system.recv(&mut message).unwrap();
    check(std::str::from_utf8(&message[..length]).unwrap());
}

#[test]
fn what_nobody_takes_is_bounded_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log").to_str().unwrap().to_owned();
    let mut sink = SyslogSink::open(SyslogTarget::Socket(path), &form()).unwrap();
    let events: Vec<Event> = (0..ROOM + 10).map(|_| denied("a.example")).collect();
    assert!(sink.write(&events).is_err());
    assert_eq!((sink.pending(), sink.take_lost(), sink.take_lost()), (ROOM, 10, 0));
    assert!(!sink.has_room());
    // Where nothing may be lost, what it was given is kept.
    sink.lossy = false;
    assert!(sink.write(&events).is_err());
    assert_eq!((sink.pending(), sink.take_lost()), (2 * ROOM + 10, 0));
}

#[test]
fn what_is_too_long_for_a_datagram_is_given_up() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sink = SyslogSink::open(SyslogTarget::Udp(server.local_addr().unwrap()), &form()).unwrap();
    sink.waiting.push_back(vec![b'x'; 70_000]);
    sink.write(&[denied("a.example")]).unwrap();
    assert_eq!((sink.pending(), sink.take_lost()), (0, 1));
    let mut message = [0; 4096];
    let length = server.recv(&mut message).unwrap();
    check(std::str::from_utf8(&message[..length]).unwrap());
}

#[test]
fn a_connection_that_is_slow_goes_on_in_the_middle_of_a_message() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sink = SyslogSink::open(SyslogTarget::Tcp(server.local_addr().unwrap()), &form()).unwrap();
    let (mut stream, _) = server.accept().unwrap();
    // More than buffers between them hold.
    let all: Vec<u8> = (0..64 << 20).map(|place: u32| u8::try_from(place % 251).unwrap_or_default()).collect();
    sink.waiting.push_back(all.clone());
    let _ = sink.flush();
    assert!(sink.to.sent > 0);
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        got
    });
    sink.close(Instant::now() + Duration::from_secs(60)).unwrap();
    assert_eq!(sink.pending(), 0);
    drop(sink);
    assert!(reader.join().unwrap() == all);
}

#[test]
fn a_server_gets_datagrams() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sink = SyslogSink::open(SyslogTarget::Udp(server.local_addr().unwrap()), &form()).unwrap();
    sink.write(&[denied("a.example")]).unwrap();
    let mut message = [0; 4096];
    let length = server.recv(&mut message).unwrap();
    check(std::str::from_utf8(&message[..length]).unwrap());
}

#[test]
fn a_server_gets_counted_frames_again_after_it_was_gone() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sink = SyslogSink::open(SyslogTarget::Tcp(server.local_addr().unwrap()), &form()).unwrap();
    for _ in 0..2 {
        sink.write(&[denied("a.example"), denied("a.example")]).unwrap();
        let (mut stream, _) = server.accept().unwrap();
        sink.to.way = None;
        let mut frames = String::new();
        stream.read_to_string(&mut frames).unwrap();
        for _ in 0..2 {
            let (length, rest) = frames.split_once(' ').unwrap();
            let (message, rest) = rest.split_at(length.parse().unwrap());
            check(message);
            frames = rest.to_owned();
        }
        assert_eq!(frames, "");
    }
}

/// The system says of a datagram that nobody took it, and of no more than one: so many are counted, and what was not sent yet waits.
#[test]
fn datagrams_that_nobody_took_are_counted_and_said() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    drop(server);
    let mut sink = SyslogSink::open(SyslogTarget::Udp(address), &form()).unwrap();
    let (mut given, mut lost, mut failed) = (0, 0, 0);
    for _ in 0..5 {
        given += 2;
        let told = sink.write(&[denied("a.example"), denied("a.example")]).and(sink.flush());
        failed += usize::from(told.is_err());
        sink.is_tried_again();
        lost += sink.take_lost();
    }
    assert_eq!((failed, sink.pending() as u64 + lost), (5, given));
    assert!(lost > 0);
    // The last one is asked after, too.
    let left = sink.pending() as u64;
    assert!(sink.close(Instant::now() + Duration::from_secs(60)).is_err());
    assert_eq!((sink.pending(), sink.take_lost()), (0, left));
    // Who listens again gets what comes then.
    let server = UdpSocket::bind(address).unwrap();
    sink.is_tried_again();
    assert!(sink.write(&[denied("a.example")]).is_err(), "nobody knows yet that it has come");
    sink.is_tried_again();
    sink.write(&[denied("a.example")]).and(sink.flush()).unwrap();
    let mut message = [0; 4096];
    let length = server.recv(&mut message).unwrap();
    check(std::str::from_utf8(&message[..length]).unwrap());
    assert_eq!(sink.take_lost(), 0);
}

#[test]
fn a_connection_that_the_server_has_closed_is_written_to_no_more() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sink = SyslogSink::open(SyslogTarget::Tcp(server.local_addr().unwrap()), &form()).unwrap();
    for _ in 0..3 {
        let (mut stream, _) = server.accept().unwrap();
        sink.write(&[denied("a.example")]).unwrap();
        let mut frame = [0; 4096];
        assert!(stream.read(&mut frame).unwrap() > 0);
        drop(stream);
        // Its end is here.
        let Some(Way::Tcp(closed)) = &sink.to.way else { panic!("there is a connection") };
        assert_eq!(closed.peek(&mut frame).unwrap(), 0);
        let before = closed.local_addr().unwrap();
        sink.write(&[denied("a.example")]).unwrap();
        let Some(Way::Tcp(fresh)) = &sink.to.way else { panic!("there is a connection") };
        assert_ne!(fresh.local_addr().unwrap(), before);
        let (mut stream, _) = server.accept().unwrap();
        let length = stream.read(&mut frame).unwrap();
        check(std::str::from_utf8(&frame[..length]).unwrap().split_once(' ').unwrap().1);
        sink.to.way = Some(connect(&sink.to.target).unwrap());
    }
}

#[test]
fn the_end_of_a_connection_is_found_behind_what_the_server_says() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let (mut other, _) = server.accept().unwrap();
    assert!(!has_ended(&stream));
    other.write_all(&[b'x'; 100_000]).unwrap();
    assert!(!has_ended(&stream));
    drop(other);
    let patience = Instant::now() + Duration::from_secs(20);
    while !has_ended(&stream) {
        assert!(Instant::now() < patience);
    }
}

#[test]
fn what_would_end_a_parameter_is_escaped() {
    let mut message = Vec::new();
    structured(&mut message, &denied("a\"]\\b"));
    assert!(String::from_utf8(message).unwrap().contains(" host=\"a\\\"\\]\\\\b\" "));
}
