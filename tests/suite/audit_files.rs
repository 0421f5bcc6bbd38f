//! Audit files, as the real program writes them.

use harness::audit::{events, names};
use harness::client::get;
use harness::{Client, DataPlane, Origin, Scrape, binaries, policy, wait_until};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What [`Origin::start`] answers.
const ORIGIN: u16 = 299;
const LOCAL: &str = "allow_local_binding = true";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn compiled(dir: &Path, settings: &str, domains: &[(&str, &str)]) -> PathBuf {
    let file = dir.join("policy.bin");
    binaries::compile_to(&policy(settings, domains), &file);
    file
}

fn waits_for(log: &Path, what: &str, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    wait_until(what, || {
        found = events(log);
        names(&found).iter().filter(|name| *name == what).count() >= count
    });
    found
}

/// Whether `netpolicy audit verify` finds nothing wrong.
fn is_whole(dir: &Path, logs: &[&Path]) -> bool {
    let args: Vec<&str> = ["audit", "verify"].into_iter().chain(logs.iter().map(|log| text(log))).collect();
    let output = binaries::netpolicy(dir, &args);
    assert!(output.status.code().is_some_and(|code| code < 2), "{}", String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

#[test]
fn every_decision_and_every_end_is_written_sealed_and_ends_with_stop() {
    let dir = tempfile::tempdir().unwrap();
    let origin = Origin::start();
    let file = compiled(dir.path(), LOCAL, &[("127.0.0.1", "allow")]);
    let log = dir.path().join("audit.jsonl");
    let metadata = ["--audit-metadata", "conversation.id=c-1", "--audit-metadata", "model=m"];
    let mut args = vec!["--policy", text(&file), "--sandbox", "auto", "--audit-file", text(&log)];
    args.extend(metadata);
    let mut proxy = DataPlane::start(&args);
    assert_eq!(get(proxy.http(), &format!("http://{}/secret?token=1", origin.address())).status, ORIGIN);
    // A client has its answer before the exchange has ended.
    waits_for(&log, "closed", 1);
    assert_eq!(get(proxy.http(), "http://denied.example/secret").status, 403);
    proxy.signal("TERM");
    assert_eq!(proxy.wait(), 0);
    let found = events(&log);
    assert_eq!(names(&found), ["start", "policy_decision", "closed", "policy_decision", "stop"]);
    let [_, allowed, closed, denied, _] = &found[..] else { panic!("{found:?}") };
    for (name, value) in [
        ("network.policy.decision", "allow".into()),
        ("network.policy.reason", "allow".into()),
        ("network.policy.scope", "domain".into()),
        ("network.policy.source", "baseline_policy".into()),
        ("network.transport.protocol", "http".into()),
        ("server.address", "127.0.0.1".into()),
        ("server.port", origin.address().port().into()),
        ("http.request.method", "GET".into()),
        ("network.policy.pattern", "127.0.0.1".into()),
        ("network.policy.generation", 1.into()),
        ("conversation.id", "c-1".into()),
    ] {
        let value: Value = value;
        assert_eq!(allowed[name], value, "{name}");
    }
    assert!(allowed["network.policy.place"].as_str().unwrap().contains(':'));
    assert_eq!(closed["network.exchange.id"], allowed["network.exchange.id"]);
    assert_eq!(
        (closed["outcome"].as_str(), closed["network.io.up"].as_u64(), closed["network.io.down"].as_u64()),
        (Some("done"), Some(0), Some(6))
    );
    assert_eq!(
        (denied["network.policy.reason"].as_str(), denied["server.address"].as_str()),
        (Some("not_allowed"), Some("denied.example"))
    );
    assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!fs::read_to_string(&log).unwrap().contains("secret"), "no path, no query");
    assert!(is_whole(dir.path(), &[&log]));
    let changed = fs::read_to_string(&log).unwrap().replacen("denied.example", "other.example", 1);
    fs::write(&log, changed).unwrap();
    assert!(!is_whole(dir.path(), &[&log]));
}

#[test]
fn a_file_is_rotated_under_the_sandbox_and_opened_again_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let log = logs.join("audit.jsonl");
    let settings = format!("{LOCAL}\naudit = {{ file = \"{}\", rotate_bytes = \"4KiB\", keep = 2, fsync = \"always\" }}", log.display());
    let file = compiled(dir.path(), &settings, &[("127.0.0.1", "allow")]);
    let mut proxy = DataPlane::start(&["--policy", text(&file), "--sandbox", "auto"]);
    let rotated = || {
        let names = fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<PathBuf> = names.filter(|path| path.file_name().unwrap().to_str().unwrap().contains("Z-")).collect();
        names.sort_by_key(|path| path.to_str().unwrap().rsplit_once('-').unwrap().1.trim_end_matches(".jsonl").parse::<u64>().unwrap());
        names
    };
    let mut host = 0;
    wait_until("three were rotated", || {
        host += 1;
        assert_eq!(get(proxy.http(), &format!("http://denied-{host}.example/")).status, 403);
        rotated().last().is_some_and(|last| text(last).ends_with("-3.jsonl"))
    });
    wait_until("the oldest is removed", || rotated().len() == 2);
    // Somebody else moves it.
    let moved = logs.join("moved");
    let before = fs::metadata(&log).unwrap().ino();
    fs::rename(&log, &moved).unwrap();
    proxy.signal("HUP");
    wait_until("there is a new one", || fs::metadata(&log).is_ok_and(|found| found.ino() != before));
    assert_eq!(get(proxy.http(), "http://last.example/").status, 403);
    waits_for(&log, "policy_decision", 1);
    proxy.signal("TERM");
    assert_eq!(proxy.wait(), 0);
    let all: Vec<PathBuf> = rotated().into_iter().chain([moved, log]).collect();
    let all: Vec<&Path> = all.iter().map(PathBuf::as_path).collect();
    assert!(is_whole(dir.path(), &all), "what is left is one log");
}

#[test]
fn a_crash_is_seen_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = compiled(dir.path(), LOCAL, &[("127.0.0.1", "allow")]);
    let log = dir.path().join("audit.jsonl");
    let args = ["--policy", text(&file), "--audit-file", text(&log)];
    let mut proxy = DataPlane::start(&args);
    assert_eq!(get(proxy.http(), "http://one.example/").status, 403);
    waits_for(&log, "policy_decision", 1);
    // Two do not write to one file.
    let second = Command::new(binaries::path("netproxy-dp")).args(binaries::FREE_PORTS).args(args).output().unwrap();
    assert_eq!(second.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&second.stderr).contains("is written by another process"));
    proxy.signal("KILL");
    proxy.wait();
    let mut broken = fs::read_to_string(&log).unwrap();
    broken.push_str("{\"event.name\":\"codex.netw");
    fs::write(&log, broken).unwrap();
    let mut proxy = DataPlane::start(&args);
    proxy.signal("TERM");
    assert_eq!(proxy.wait(), 0);
    assert_eq!(names(&events(&log)), ["start", "policy_decision", "start", "stop"]);
    assert!(fs::read_to_string(&log).unwrap().contains("\"chain.unsealed\":0,\"chain.torn\":25,"));
}

#[test]
fn a_reload_puts_its_audit_in_force_and_says_which_policy_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one.jsonl"), dir.path().join("two.jsonl"));
    let audit = |log: &Path, level: &str| format!("{LOCAL}\naudit = {{ file = \"{}\", level = \"{level}\" }}", log.display());
    let file = compiled(dir.path(), &audit(&one, "all"), &[("127.0.0.1", "allow")]);
    let mut proxy = DataPlane::start(&["--policy", text(&file)]);
    compiled(dir.path(), &audit(&two, "denied"), &[("127.0.0.1", "allow"), ("a.example", "deny")]);
    proxy.signal("HUP");
    assert_eq!(proxy.next_reload()["outcome"], "swapped");
    let swapped = waits_for(&one, "policy", 1);
    assert_eq!(names(&swapped), ["start", "policy"]);
    assert_eq!((&swapped[1]["outcome"], &swapped[1]["network.policy.generation"]), (&"swapped".into(), &2.into()));
    wait_until("the other is there", || two.exists());
    let origin = Origin::start();
    assert_eq!(get(proxy.http(), &format!("http://{}/", origin.address())).status, ORIGIN);
    assert_eq!(get(proxy.http(), "http://a.example/").status, 403);
    proxy.signal("TERM");
    assert_eq!(proxy.wait(), 0);
    assert_eq!(names(&events(&two)), ["policy_decision", "stop"], "what is allowed is not told at this level");
    assert_eq!(events(&two)[0]["network.policy.generation"], 2);
}

/// A syslog that is not there takes nothing: what the sink keeps is bounded, and then the queue fills.
#[test]
fn what_cannot_be_told_is_refused_where_the_policy_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let audit = format!("{LOCAL}\naudit = {{ syslog = \"{}\", on_full = \"deny\", queue = 64 }}", log.display());
    let file = compiled(dir.path(), &audit, &[("127.0.0.1", "allow")]);
    let origin = Origin::start();
    let mut proxy = DataPlane::start(&["--policy", text(&file), "--sandbox", "off"]);
    let url = format!("http://{}/", origin.address());
    let mut client = Client::connect(proxy.http());
    // Nothing new is to be sent here, and why is said where that is asked.
    let ready = || Client::connect(proxy.admin()).send("GET /v1/ready HTTP/1.1\r\nHost: localhost\r\n\r\n").answer();
    let (mut refused, mut full) = (None, None);
    for _ in 0..100_000 {
        let answer = client.send(format!("GET {url} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.address())).answer();
        if answer.status != ORIGIN {
            refused = Some(answer);
            // As long as the sink has room, the queue is full for a moment only.
            full = Some(ready()).filter(|full| full.status == 503);
        }
        if full.is_some() {
            break;
        }
    }
    let (refused, full) = (refused.expect("the queue is bounded"), full.expect("it stays full"));
    assert_eq!((refused.status, refused.header("x-proxy-error")), (403, Some("blocked-by-policy")));
    let body = refused.json();
    assert_eq!((&body["reason"], &body["source"]), (&"policy_denied".into(), &"proxy_state".into()));
    assert!(body["message"].as_str().unwrap().contains("the audit log is full"));
    let said = full.json();
    assert_eq!((&said["ready"], &said["status"]), (&false.into(), &"refusing".into()));
    assert!(said["reason"].as_str().unwrap().contains("the queue of audit events is full"), "{said}");
    // Somebody does again.
    let system = std::os::unix::net::UnixDatagram::bind(&log).unwrap();
    std::thread::spawn(move || {
        let mut message = vec![0; 65_536];
        while system.recv(&mut message).is_ok() {}
    });
    wait_until("requests go on", || get(proxy.http(), &url).status == ORIGIN);
    assert_eq!((ready().status, &ready().json()["status"]), (200, &"ready".into()));
    // What was lost was not told, but shown to who asks what was blocked.
    wait_until("what was told and what was written is as much", || {
        let samples = Scrape::of(proxy.admin()).samples();
        let lost = samples.get("netproxy_audit_lost_total").is_some_and(|lost| *lost > 0.0);
        lost && samples.get("netproxy_audit_events_total") == samples.get("netproxy_audit_sink_events_total{sink=\"syslog\"}")
    });
    proxy.signal("TERM");
    assert_eq!(proxy.wait(), 0);
}

/// The same where requests wait for room: whoever asks which proxy to send them to is told of another.
#[test]
fn a_proxy_whose_requests_wait_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let audit = format!("{LOCAL}\naudit = {{ syslog = \"{}\", on_full = \"block\", queue = 64 }}", log.display());
    let file = compiled(dir.path(), &audit, &[("127.0.0.1", "allow")]);
    let mut proxy = DataPlane::start(&["--policy", text(&file), "--sandbox", "off"]);
    let ready = || Client::connect(proxy.admin()).send("GET /v1/ready HTTP/1.1\r\nHost: localhost\r\n\r\n").answer();
    let mut client = Client::connect(proxy.http());
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let asks = std::thread::spawn(move || {
        while !stopped.load(Ordering::SeqCst) {
            assert_eq!(client.send("GET http://denied.test/ HTTP/1.1\r\nHost: denied.test\r\n\r\n").answer().status, 403);
        }
    });
    let mut full = None;
    wait_until("requests wait", || {
        full = Some(ready()).filter(|full| full.status == 503);
        full.is_some()
    });
    let said = full.unwrap().json();
    assert_eq!((&said["ready"], &said["status"]), (&false.into(), &"waiting".into()));
    assert!(said["reason"].as_str().unwrap().contains("requests wait: the queue of audit events is full"), "{said}");
    let system = std::os::unix::net::UnixDatagram::bind(&log).unwrap();
    std::thread::spawn(move || {
        let mut message = vec![0; 65_536];
        while system.recv(&mut message).is_ok() {}
    });
    stop.store(true, Ordering::SeqCst);
    asks.join().unwrap();
    assert_eq!((ready().status, &ready().json()["status"]), (200, &"ready".into()));
    proxy.signal("TERM");
    assert_eq!(proxy.wait(), 0);
}

#[test]
fn what_cannot_be_written_to_is_said_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let start = |args: &[&str]| {
        let output = Command::new(binaries::path("netproxy-dp")).args(binaries::FREE_PORTS).args(args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let missing = dir.path().join("no/audit.jsonl");
    let (code, said) = start(&["--audit-file", text(&missing)]);
    assert_eq!(code, Some(2));
    assert!(said.contains("has no folder: make it, and give it to the user of the proxy"), "{said}");
    for (flag, value, why) in [
        ("--audit-metadata", "server.address=x", "is a field that events have themselves"),
        ("--audit-metadata", "x", "it is not `KEY=VALUE`"),
        ("--audit-syslog", "ftp://127.0.0.1:1", "it is spoken to by `udp` or `tcp`"),
        ("--audit-level", "loud", "it is one of `off`, `denied`, `decisions`, `all`"),
        (
            "--audit-otlp",
            "collector:4317",
            "--audit-otlp: `collector:4317` is not the URL of a collector: it starts with `http://`, `https://`, `grpc://` or `grpcs://`",
        ),
        (
            "--audit-otlp",
            "http://user:s3cret@collector:4317",
            "`http://***********@collector:4317` is not the URL of a collector: a user or a password",
        ),
        ("--audit-otlp", "grpc://user:s3cret@collector:4317", "`grpc://***********@collector:4317`"),
    ] {
        let (code, said) = start(&[flag, value]);
        assert_eq!(code, Some(2), "{flag} {value}");
        assert!(said.contains(why) && !said.contains("s3cret"), "{flag} {value}: {said}");
    }
}
