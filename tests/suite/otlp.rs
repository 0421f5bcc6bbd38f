//! Audit events to collectors of OpenTelemetry, by the real binary: over OTLP/HTTP and OTLP/gRPC.

use harness::collector::{Record, Reply};
use harness::tls::{Authority, Front};
use harness::{Client, Collector, DataPlane, Origin, binaries, policy, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;
use tonic::Code;

const DECISION: &str = "policy_decision";

/// A folder with a policy, and with names that lead to loopback.
struct Place(tempfile::TempDir);

impl Place {
    fn new(toml: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        binaries::compile_to(toml, &place.path().join("policy.bin"));
        std::fs::write(place.path().join("hosts"), "127.0.0.1 a.test b.test collector.test\n").unwrap();
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, name: &str) -> String {
        self.path().join(name).to_str().unwrap().to_owned()
    }

    fn start_in(&self, url: &str, flags: &[&str], variables: &[(&str, &str)]) -> DataPlane {
        let (policy, hosts) = (self.file("policy.bin"), self.file("hosts"));
        let mut all = vec!["--policy", &policy, "--hosts", &hosts, "--audit-otlp", url];
        all.extend(flags);
        DataPlane::start_in(&all, variables)
    }

    fn start(&self, collector: &Collector, flags: &[&str]) -> DataPlane {
        self.start_in(&collector.url(), flags, &[])
    }
}

/// A policy that denies everything.
fn nothing() -> Place {
    Place::new(&policy("", &[("a.test", "deny")]))
}

/// Asks for a name that is denied, so many times, on one connection.
fn ask(proxy: &DataPlane, times: usize) {
    let mut client = Client::connect(proxy.http());
    for _ in 0..times {
        assert_eq!(client.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n").answer().status, 403);
    }
}

/// What makes records different from each other, whatever they say.
fn ids(records: &[Record]) -> BTreeSet<String> {
    records.iter().map(|record| record.attributes["log.record.uid"].as_str().unwrap().to_owned()).collect()
}

fn lost(collector: &Collector) -> i64 {
    let lost = collector.named("lost");
    assert!(lost.iter().all(|record| record.severity == 17), "{lost:?}");
    lost.iter().map(|record| record.attributes["event.lost.count"].as_i64().unwrap()).sum()
}

/// Decisions in an audit file.
fn lines(log: &str) -> usize {
    std::fs::read_to_string(log).unwrap().lines().filter(|line| line.contains(DECISION)).count()
}

/// The fields of a record, those that are another each time left out.
fn shown(record: &Record) -> Value {
    let mut fields = record.attributes.clone();
    for name in ["event.timestamp", "log.record.uid", "client.address", "network.policy.digest", "network.exchange.id", "duration_ms"] {
        assert!(fields.remove(name).is_some() || name == "duration_ms" || name == "network.policy.digest", "{name}: {record:?}");
    }
    json!(fields)
}

#[test]
fn what_was_decided_arrives_field_by_field() {
    let origin = Origin::start();
    let port = origin.port();
    let sockets = tempfile::tempdir().unwrap();
    let socket = sockets.path().canonicalize().unwrap().join("api.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    for (mode, mut collector) in [("full", Collector::http()), ("limited", Collector::grpc())] {
        let settings = format!("mode = \"{mode}\"\nallow_local_binding = true\nunix_sockets = {{ \"{}\" = \"allow\" }}", socket.display());
        let place = Place::new(&policy(&settings, &[("a.test", "allow"), ("**.b.test", "deny")]));
        // Of one thread, events are told in their order.
        let mut proxy =
            place.start(&collector, &["--workers", "1", "--audit-metadata", "conversation.id=c-7", "--audit-metadata", "model=m-1"]);
        let mut client = Client::connect(proxy.http());
        let get = format!("GET /secret?token=hush HTTP/1.1\r\nHost: a.test:{port}\r\nAuthorization: hush\r\n\r\n");
        assert_eq!(client.send(get).answer().status, 299);
        let post = format!("POST /secret HTTP/1.1\r\nHost: a.test:{port}\r\nContent-Length: 4\r\n\r\nhush");
        let posted = client.send(post).answer().status;
        assert_eq!(Client::connect(proxy.http()).tunnel("x.b.test:443").status, 403);
        // In limited mode, a tunnel is decided on by what is asked inside.
        if mode == "full" {
            assert_eq!(Client::connect(proxy.http()).tunnel(&format!("a.test:{port}")).status, 200);
        }
        let socks5 = Client::connect(proxy.socks5().unwrap()).socks5_name("a.test", port);
        assert_eq!(Client::connect(proxy.socks5().unwrap()).socks5_name("c.test", 22), Some(2));
        let unix = format!("GET http://api.local/ HTTP/1.1\r\nHost: api.local\r\nX-Unix-Socket: {}x\r\n\r\n", socket.display());
        assert_eq!(Client::connect(proxy.http()).send(unix).answer().status, 403);
        assert_eq!((posted, socks5), if mode == "full" { (299, Some(0)) } else { (403, Some(2)) });

        let records = collector.wait_for(DECISION, if mode == "full" { 7 } else { 6 });
        let allowed = |protocol: &str, method: &str| {
            json!({
                "event.name": "codex.network_proxy.policy_decision", "conversation.id": "c-7", "model": "m-1",
                "network.policy.scope": "domain", "network.policy.decision": "allow", "network.policy.source": "baseline_policy",
                "network.policy.reason": "allow", "network.transport.protocol": protocol, "server.address": "a.test", "server.port": port,
                "http.request.method": method, "network.policy.override": false, "network.policy.rule": 0, "network.policy.pattern": "a.test",
                "network.policy.layer": "user", "network.policy.place": "config.toml:8", "network.policy.profile": "workspace",
                "network.policy.generation": 1,
            })
        };
        let denied = |of: [&str; 6], port: u16, rule: Option<(i64, &str, &str)>| {
            let [scope, source, reason, protocol, host, method] = of;
            let mut fields = json!({
                "event.name": "codex.network_proxy.policy_decision", "conversation.id": "c-7", "model": "m-1",
                "network.policy.scope": scope, "network.policy.decision": "deny", "network.policy.source": source,
                "network.policy.reason": reason, "network.transport.protocol": protocol, "server.address": host, "server.port": port,
                "http.request.method": method, "network.policy.override": false, "network.policy.profile": "workspace",
                "network.policy.generation": 1,
            });
            if let Some((rule, pattern, place)) = rule {
                fields["network.policy.rule"] = json!(rule);
                fields["network.policy.pattern"] = json!(pattern);
                fields["network.policy.layer"] = json!("user");
                fields["network.policy.place"] = json!(place);
            }
            fields
        };
        let of_b = Some((1, "**.b.test", "config.toml:9"));
        let guarded = |reason, protocol, method| denied(["non_domain", "mode_guard", reason, protocol, "a.test", method], port, None);
        let full = mode == "full";
        let mut expected = vec![
            allowed("http", "GET"),
            if full { allowed("http", "POST") } else { guarded("method_not_allowed", "http", "POST") },
            denied(["domain", "baseline_policy", "denied", "https_connect", "x.b.test", "CONNECT"], 443, of_b),
            allowed("https_connect", "CONNECT"),
            if full { allowed("socks5_tcp", "none") } else { guarded("mitm_required", "socks5_tcp", "none") },
            denied(["domain", "baseline_policy", "not_allowed", "socks5_tcp", "c.test", "none"], 22, None),
            denied(["non_domain", "baseline_policy", "not_allowed", "http", "unix-socket", "GET"], 0, None),
        ];
        expected.retain(|fields| full || *fields != allowed("https_connect", "CONNECT"));
        for (record, expected) in records.iter().zip(&expected) {
            assert_eq!(&shown(record), expected);
            assert_eq!(
                (record.scope.as_str(), record.severity),
                ("codex_otel.network_proxy", if record.attributes["network.policy.decision"] == "allow" { 9 } else { 13 })
            );
            let client: std::net::SocketAddr = record.attributes["client.address"].as_str().unwrap().parse().unwrap();
            assert!(client.ip().is_loopback());
            assert_eq!(record.attributes["network.policy.digest"].as_str().unwrap().len(), 64);
            // The same moment, to the millisecond.
            let time = record.attributes["event.timestamp"].as_str().unwrap();
            assert_eq!(time.get(20..23).unwrap().parse::<u64>().unwrap(), record.nanoseconds / 1_000_000 % 1000, "{time}");
            let resource: Vec<&str> = record.resource.keys().map(String::as_str).collect();
            assert_eq!(resource, ["host.name", "service.instance.id", "service.name", "service.version"]);
            assert_eq!(record.resource["service.name"], "netproxy-dp");
        }
        assert_eq!(records.len(), expected.len());
        // The end, and what is left, arrive before the process does not run any more.
        proxy.signal("TERM");
        assert_eq!(proxy.wait(), 0);
        let all = collector.records();
        assert_eq!(all.first().map(|record| record.name.as_str()), Some("codex.network_proxy.start"));
        assert_eq!(all.last().map(|record| record.name.as_str()), Some("codex.network_proxy.stop"));
        assert_eq!(ids(&all).len(), all.len());
        assert!(!format!("{:?}", collector.exports()).contains("hush"), "nothing of a path, a query, a header or a body");
        collector.go();
    }
}

#[test]
fn ends_say_how_much_went_each_way() {
    let (origin, echo) = (Origin::start(), Origin::echo());
    let place = Place::new(&policy("allow_local_binding = true", &[("a.test", "allow")]));
    for collector in [Collector::http(), Collector::grpc()] {
        let proxy = place.start(&collector, &[]);
        let post = format!("POST / HTTP/1.1\r\nHost: a.test:{}\r\nContent-Length: 5\r\n\r\nhello", origin.port());
        assert_eq!(Client::connect(proxy.http()).send(post).answer().status, 299);
        let mut tunnel = Client::connect(proxy.http());
        assert_eq!(tunnel.tunnel(&format!("a.test:{}", echo.port())).status, 200);
        assert_eq!(tunnel.send("seven b").bytes(7), b"seven b");
        assert_eq!(tunnel.finish().rest(), b"");
        let ends = collector.wait_for("closed", 2);
        let decisions = collector.wait_for(DECISION, 2);
        for (protocol, port, up, down) in [("http", origin.port(), 5, 6), ("https_connect", echo.port(), 7, 7)] {
            let of = |records: &[Record]| {
                records.iter().find(|record| record.attributes["network.transport.protocol"] == protocol).cloned().unwrap()
            };
            let (end, decision) = (of(&ends), of(&decisions));
            let expected = json!({
                "event.name": "codex.network_proxy.closed", "network.transport.protocol": protocol, "server.address": "a.test", "server.port": port,
                "network.io.up": up, "network.io.down": down, "outcome": "done", "network.policy.generation": 1,
            });
            assert_eq!(shown(&end), expected);
            assert!(end.attributes["duration_ms"].is_i64() && end.severity == 9, "{end:?}");
            for name in ["network.exchange.id", "client.address"] {
                assert_eq!(end.attributes[name], decision.attributes[name]);
            }
        }
        assert_eq!(ends.len(), 2);
    }
}

#[test]
fn a_collector_that_is_gone_for_a_while_gets_each_event_once() {
    let place = nothing();
    for mut collector in [Collector::http(), Collector::grpc()] {
        let proxy = place.start(&collector, &[]);
        ask(&proxy, 3);
        assert_eq!(collector.wait_for(DECISION, 3).len(), 3);
        collector.go();
        ask(&proxy, 500);
        wait_until("it is said that nobody answers", || proxy.said().contains("the sink `otlp` fails"));
        collector.come();
        ask(&proxy, 2);
        let found = collector.wait_for(DECISION, 505);
        assert_eq!((found.len(), ids(&found).len()), (505, 505));
        assert_eq!(lost(&collector), 0);
        // Said once, and to those who read events too.
        assert_eq!(proxy.said().matches("the sink `otlp` fails").count(), 1);
        assert_eq!(collector.wait_for("fault", 1).len(), 1);
    }
}

#[test]
fn beyond_the_bound_what_is_lost_is_counted_exactly() {
    let toml = policy("", &[("a.test", "deny")]);
    let place = Place::new(&format!("{toml}\n[permissions.workspace.network.audit]\nqueue = 64\n"));
    for mut collector in [Collector::http(), Collector::grpc()] {
        let proxy = place.start(&collector, &[]);
        ask(&proxy, 1);
        assert_eq!(collector.wait_for(DECISION, 1).len(), 1);
        collector.go();
        ask(&proxy, 2_000);
        collector.come();
        // What is said of the outage is an event too, and may be among those that are lost.
        let told = || i64::try_from(proxy.said().matches("\"event\":\"fault\"").count()).unwrap() + 2_001;
        let accounted = || (collector.named(DECISION).len() + collector.named("fault").len()) as i64 + lost(&collector);
        wait_until("each event has arrived or is counted", || accounted() == told());
        let found = collector.named(DECISION);
        assert_eq!(ids(&found).len(), found.len());
        assert!(lost(&collector) >= 2_001 - 64 * 4 - 1, "{}", lost(&collector));
        assert!(found.len() >= 60, "as many as may wait: {}", found.len());
    }
}

#[test]
fn where_requests_wait_for_room_nothing_is_lost() {
    let toml = policy("", &[("a.test", "deny")]);
    let place = Place::new(&format!("{toml}\n[permissions.workspace.network.audit]\nqueue = 64\non_full = \"block\"\n"));
    let mut collector = Collector::http();
    let proxy = place.start(&collector, &[]);
    ask(&proxy, 1);
    assert_eq!(collector.wait_for(DECISION, 1).len(), 1);
    collector.go();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&proxy, 1_000));
        wait_until("it is said that nobody answers", || proxy.said().contains("the sink `otlp` fails"));
        // There is room for a good hundred.
        assert!(!asking.is_finished());
        collector.come();
        asking.join().unwrap();
    });
    let found = collector.wait_for(DECISION, 1_001);
    assert_eq!((found.len(), ids(&found).len(), lost(&collector)), (1_001, 1_001, 0));
}

#[test]
fn a_collector_that_is_busy_is_asked_again_when_it_says() {
    let place = nothing();
    let cases = [
        (Collector::http(), vec![Reply::Http(429, Some("1")), Reply::Http(502, None), Reply::Http(503, Some("0")), Reply::Http(504, None)]),
        (
            Collector::grpc(),
            vec![
                Reply::Grpc(Code::ResourceExhausted, Some(1)),
                Reply::Grpc(Code::Unavailable, None),
                Reply::Grpc(Code::DeadlineExceeded, Some(0)),
            ],
        ),
    ];
    for (collector, replies) in cases {
        collector.reply(&replies);
        let proxy = place.start(&collector, &[]);
        ask(&proxy, 1);
        assert_eq!(collector.wait_for(DECISION, 1).len(), 1);
        let exports = collector.exports();
        let (again, first) = (&exports[1], &exports[0]);
        assert!(again.at - first.at >= Duration::from_secs(1), "it said a second");
        // What is sent again is what was sent.
        assert!(exports[..=replies.len()].iter().all(|export| export.request == first.request));
        assert_eq!(lost(&collector), 0);
    }
}

#[test]
fn what_a_collector_will_not_have_is_counted_and_the_rest_goes_on() {
    let place = nothing();
    let cases = [
        (Collector::http(), Reply::Http(400, None), "it answered 400"),
        (Collector::grpc(), Reply::Grpc(Code::PermissionDenied, None), "it answered PERMISSION_DENIED: as the test says"),
        (Collector::http(), Reply::Partial(2, "too old"), "it rejects events: too old"),
        (Collector::grpc(), Reply::Partial(2, "too old"), "it rejects events: too old"),
    ];
    for (collector, reply, said) in cases {
        let log = place.file("audit.jsonl");
        let _ = std::fs::remove_file(&log);
        let proxy = place.start(&collector, &["--audit-file", &log]);
        assert_eq!(collector.wait_for("start", 1).len(), 1);
        // While one request waits for its answer, the next gathers nine events.
        collector.hold();
        let before = collector.arrived();
        ask(&proxy, 1);
        wait_until("a request waits", || collector.arrived() > before);
        ask(&proxy, 9);
        wait_until("all are told", || lines(&log) == 10);
        wait_until("they wait", || proxy.metrics().get("netproxy_audit_sink_pending_events{sink=\"otlp\"}") == 10);
        collector.reply(&[Reply::Accept, reply.clone()]);
        collector.release();
        let of_lost = collector.wait_for("lost", 1);
        assert_eq!(of_lost[0].attributes["event.lost.sink"], "otlp");
        ask(&proxy, 1);
        // Of a partial success, it is the collector's word which those are that it does not have.
        let (rejected, expected) = if matches!(reply, Reply::Partial(..)) { (2, 11) } else { (9, 2) };
        let found = collector.wait_for(DECISION, expected);
        assert_eq!((found.len(), ids(&found).len(), lost(&collector)), (expected, expected, rejected));
        assert!(proxy.said().contains(said), "{}", proxy.said());
    }
}

#[test]
fn a_collector_that_is_slow_or_gone_holds_up_nobody_else() {
    let place = nothing();
    let mut collector = Collector::grpc();
    let log = place.file("audit.jsonl");
    let proxy = place.start(&collector, &["--audit-file", &log]);
    assert_eq!(collector.wait_for("start", 1).len(), 1);
    // It answers no more: clients are answered all the same, and the file has it all.
    collector.hold();
    ask(&proxy, 1_000);
    wait_until("the file has it", || lines(&log) == 1_000);
    assert_eq!(collector.named(DECISION).len(), 0);
    collector.release();
    assert_eq!(collector.wait_for(DECISION, 1_000).len(), 1_000);
    collector.go();
    ask(&proxy, 1_000);
    wait_until("the file has that too", || lines(&log) == 2_000);
    collector.come();
    let found = collector.wait_for(DECISION, 2_000);
    assert_eq!((found.len(), ids(&found).len(), lost(&collector)), (2_000, 2_000, 0));
}

#[cfg(unix)]
#[test]
fn inside_tls_the_collector_proves_who_it_is_and_is_shown_the_headers_of_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let (authority, other) = (Authority::new(), Authority::new());
    let place = nothing();
    let headers = place.file("headers");
    let write = |text: &str| {
        let new = place.file("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(&new, &headers).unwrap();
    };
    for (collector, scheme, protocol) in [(Collector::http(), "https", "http/1.1"), (Collector::grpc(), "grpcs", "h2")] {
        write("authorization: Bearer one\nx-scope: team\n");
        let front = Front::before(collector.address(), authority.server(&["localhost"], &[protocol]));
        let url = format!("{scheme}://localhost:{}", front.port());
        let roots = authority.file();
        // No proxy is gone through, whatever the environment says.
        let variables =
            [("SSL_CERT_FILE", roots.to_str().unwrap()), ("HTTPS_PROXY", "http://127.0.0.1:9"), ("ALL_PROXY", "http://127.0.0.1:9")];
        let proxy = place.start_in(&url, &["--audit-otlp-headers-file", &headers], &variables);
        ask(&proxy, 1);
        assert_eq!(collector.wait_for(DECISION, 1).len(), 1);
        let first = collector.exports().remove(0).headers;
        assert!(first.get("authorization").unwrap() == "Bearer one" && first.get("x-scope").unwrap() == "team", "{first:?}");
        assert!(first.get("user-agent").unwrap().to_str().unwrap().starts_with("netproxy-dp/"));
        write("authorization: Bearer two\n");
        ask(&proxy, 1);
        assert_eq!(collector.wait_for(DECISION, 2).len(), 2);
        let last = collector.exports().pop().unwrap().headers;
        assert!(last.get("authorization").unwrap() == "Bearer two" && last.get("x-scope").is_none(), "{last:?}");
        // Nobody whom the roots do not vouch for gets anything.
        let stranger = Front::before(collector.address(), other.server(&["localhost"], &[protocol]));
        let url = format!("{scheme}://localhost:{}", stranger.port());
        let before = collector.exports().len();
        let proxy = place.start_in(&url, &["--audit-otlp-headers-file", &headers], &variables);
        wait_until("it is said why", || proxy.said().contains("the sink `otlp` fails"));
        assert!(proxy.said().contains("TLS: invalid peer certificate"), "{}", proxy.said());
        assert_eq!(collector.exports().len(), before);
    }
}

#[test]
fn what_cannot_work_is_said_before_anything_listens() {
    let place = nothing();
    let open = place.file("open");
    std::fs::write(&open, "a: b").unwrap();
    let policy = place.file("policy.bin");
    let run = |flags: &[&str]| {
        let mut command = std::process::Command::new(binaries::path("netproxy-dp"));
        command.args(binaries::FREE_PORTS).args(["--policy", &policy]).args(flags).env("NETPROXY_STATE_DIR", place.path());
        let output = binaries::without_proxies(&mut command).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let url = "http://127.0.0.1:4318";
    for (flags, said) in [
        (&["--audit-otlp", "127.0.0.1:4318"][..], "is not the URL of a collector"),
        (&["--audit-otlp", "ftp://127.0.0.1:4318"], "is not the URL of a collector"),
        (&["--audit-otlp", "grpc://127.0.0.1:4317/v1/logs"], "spoken to by gRPC: it has a path"),
        (&["--audit-otlp", url, "--audit-otlp-headers-file", "/no/such/file"], "cannot read `/no/such/file`"),
        (&["--audit-otlp", url, "--audit-otlp-headers-file", &open], "run `chmod 600`"),
        (&["--audit-otlp-headers-file", &open], "--audit-otlp <URL>"),
    ] {
        let (code, text) = run(flags);
        assert!(code == Some(2) && text.contains(said), "{flags:?}: {code:?} {text}");
    }
}
