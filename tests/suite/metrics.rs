//! What is counted: every family moves when its thing happens, by as much as happened, and nothing else does.

use harness::dns::{Record, Zone};
use harness::tls::{Authority, Front, through, trusting};
use harness::udp::{self, Association};
use harness::{Client, DataPlane, Names, Origin, Proxy, Refusing, Scrape, client::get, policy, wait_until};
use netproxy::{Limits, NameServers};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

type Moved = BTreeMap<String, i64>;

/// What moved between two scrapes. Of histograms, the counts; what the system says of the process, and the scrapes themselves, are left out.
fn moved(before: &Scrape, after: &Scrape) -> Moved {
    let (before, after) = (before.samples(), after.samples());
    let is_left_out = |name: &str| {
        // How often a request is decided on is the way's own: by its name, by its addresses, and again by those of a proxy.
        let own = ["process_", "netproxy_admin_requests_total", "netproxy_audit_", "netproxy_decide_"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        own || name.contains("_seconds_bucket") || name.contains("_seconds_sum") || name.contains("_timestamp_")
    };
    let changes = after.into_iter().map(|(name, value)| (value - before.get(&name).unwrap_or(&0.0), name));
    let changes = changes.filter(|(change, name)| *change != 0.0 && !is_left_out(name));
    #[expect(clippy::cast_possible_truncation, reason = "whole numbers")]
    let moved = changes.map(|(change, name)| (name, change as i64)).collect();
    moved
}

/// Whatever moved, in any test here.
#[derive(Default)]
struct Seen(BTreeSet<String>);

impl Seen {
    /// Does something, and waits until what moved is what is expected. Connections end some time after their clients are gone.
    fn step(&mut self, what: &str, admin: SocketAddr, act: impl FnOnce(), expected: &[(&str, i64)]) {
        let before = Scrape::of(admin);
        act();
        let expected: Moved = expected.iter().map(|(name, by)| ((*name).to_owned(), *by)).collect();
        let (mut last, start) = (Moved::new(), std::time::Instant::now());
        while start.elapsed() < harness::PATIENCE / 4 {
            last = moved(&before, &Scrape::of(admin));
            if last == expected {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let extra: Vec<_> = last.iter().filter(|(name, by)| expected.get(*name) != Some(by)).collect();
        let missing: Vec<_> = expected.iter().filter(|(name, by)| last.get(*name) != Some(by)).collect();
        assert!(last == expected, "{what}\n  moved: {extra:#?}\n  expected: {missing:#?}");
        self.0.extend(last.into_keys());
    }
}

const LOCAL: &str = "allow_local_binding = true";

/// Families whose samples are told apart by a table that is tested where it is: each label is that of its thing, and of no other.
const TABLES: [&str; 6] = [
    "netproxy_decisions_total",
    "netproxy_closed_total",
    "netproxy_upstream_failures_total",
    "netproxy_datagrams_dropped_total",
    "netproxy_limited_total",
    "netproxy_decider_answers_total",
];

/// Samples that other tests move: where, and what is to be found there.
const ELSEWHERE: [(&str, &str, &str); 22] = [
    ("netproxy_admin_requests_total", "tests/suite/metrics.rs", "requests_of_the_admin_api_are_counted"),
    ("netproxy_audit_sink_pending_events", "dataplane/src/counters/audit.rs", "netproxy_audit_sink_pending_events"),
    ("netproxy_audit_sink_failures_total", "dataplane/src/counters/audit.rs", "netproxy_audit_sink_failures_total"),
    ("netproxy_audit_sink_failing", "dataplane/src/counters/audit.rs", "netproxy_audit_sink_failing"),
    ("netproxy_audit_lost_total", "dataplane/src/counters/audit.rs", "netproxy_audit_lost_total 8"),
    ("netproxy_audit_queue_events", "dataplane/src/counters/audit.rs", "netproxy_audit_queue_events 5"),
    ("netproxy_audit_sink_lost_total", "dataplane/src/counters/audit.rs", "netproxy_audit_sink_lost_total"),
    ("netproxy_policy_limited_mode", "tests/suite/metrics.rs", "set_mode(Some(Mode::Limited))"),
    ("netproxy_accept_errors_total", "tests/suite/hostile.rs", "netproxy_accept_errors_total"),
    ("netproxy_accept_pauses_total", "tests/suite/hostile.rs", "netproxy_accept_pauses_total"),
    (
        "netproxy_pool_evictions_total{reason=\"descriptors\"}",
        "tests/suite/hostile.rs",
        "netproxy_pool_evictions_total{reason=\\\"descriptors\\\"}",
    ),
    ("netproxy_upstream_failures_total{error=\"no-descriptor\"}", "dataplane/src/counters/tests.rs", "UpstreamError::NoDescriptor"),
    ("netproxy_limited_total", "tests/suite/limits.rs", "every_limit_has_a_row"),
    ("netproxy_dns_cache_lookups_total{result=\"stale\"}", "dataplane/src/connect/cache.rs", "looked(\"stale\")"),
    ("netproxy_dns_cache_lookups_total{result=\"joined\"}", "dataplane/src/connect/cache.rs", "looked(\"joined\")"),
    ("netproxy_certificate_cache_lookups_total{result=\"joined\"}", "dataplane/src/tls/leaf.rs", "looked(\"joined\")"),
    ("netproxy_certificate_cache_evictions_total", "dataplane/src/tls/leaf.rs", "of(\"evictions_total\")"),
    ("netproxy_tunnels_total{protocol=\"https\"}", "dataplane/src/inside/http2/tests.rs", "netproxy_tunnels_total{protocol=\\\"https\\\"}"),
    ("netproxy_decider_answers_total", "dataplane/src/counters/tests.rs", "each_answer_of_the_decider"),
    ("netproxy_decider_duration_seconds_count", "dataplane/src/counters/tests.rs", "each_answer_of_the_decider"),
    ("netproxy_pool_idle_connections{protocol=\"h2\"}", "dataplane/src/inside/http2/tests.rs", "netproxy_pool_idle_connections"),
    ("netproxy_intercepted_total{outcome=\"closed\"}", "tests/suite/inside.rs", "netproxy_intercepted_total{outcome=\\\"closed\\\"}"),
];

#[test]
fn every_sample_moves_when_its_thing_happens() {
    let mut seen = Seen::default();
    let worlds = [exchanges_and_tunnels, switched_protocols, looks, pooled_connections, names, inside_tls, reloads, audit];
    // All of them, so that what is wrong in several shows at once.
    let failed = worlds.map(|world| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world(&mut seen))).is_err());
    assert_eq!(failed, [false; 8]);

    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (sample, file, needle) in ELSEWHERE {
        let text = std::fs::read_to_string(repository.join(file)).unwrap();
        assert!(text.contains(needle), "{sample}: no `{needle}` in {file}");
    }
    let proxy = Proxy::start(&policy("", &[]), &Names::default());
    let scrape = Scrape::of(proxy.admin());
    let dead: Vec<String> = scrape
        .families
        .iter()
        .filter(|family| !family.name.starts_with("process_") && !family.name.ends_with("_info"))
        .flat_map(|family| {
            let table = TABLES.contains(&family.name.as_str());
            let shown: Vec<String> = if table || family.samples.is_empty() {
                vec![family.name.clone()]
            } else {
                family
                    .samples
                    .iter()
                    .map(harness::scrape::Sample::key)
                    .filter(|key| !key.contains("_bucket") && !key.contains("_sum"))
                    .collect()
            };
            shown
        })
        .filter(|key| !seen.0.iter().any(|moved| moved == key || moved.starts_with(&format!("{key}{{"))))
        .filter(|key| !ELSEWHERE.iter().any(|(sample, ..)| sample == key))
        .collect();
    assert!(dead.is_empty(), "nothing moves {dead:#?}");
}

fn exchanges_and_tunnels(seen: &mut Seen) {
    let (origin, echo, datagrams) = (Origin::start(), Origin::echo(), udp::Echo::start());
    let names = Names::new(&[("a.test", &["127.0.0.1"]), ("evil.test", &["127.0.0.1"])]);
    let settings = format!("{LOCAL}\nenable_socks5_udp = true");
    let both = |evil: &str| policy(&settings, &[("a.test", "allow"), ("evil.test", evil), ("d.test", "deny"), ("gone.test", "allow")]);
    let proxy = Proxy::with_one_worker(&both("allow"), &names, &[]);
    let admin = proxy.admin();
    wait_until("it serves", || Scrape::of(admin).get("netproxy_workers") == 1.0);
    let url = format!("http://a.test:{}/", origin.port());
    let http = ("netproxy_connections_total{listener=\"http\"}", 1);
    let socks5 = ("netproxy_connections_total{listener=\"socks5\"}", 1);
    let asked = ("netproxy_requests_total{protocol=\"http\"}", 1);
    let missed = ("netproxy_pool_lookups_total{result=\"miss\"}", 1);
    let opened = ("netproxy_upstream_connections_total{how=\"opened\"}", 1);
    let resolved = ("netproxy_resolve_duration_seconds_count", 1);
    let connected = ("netproxy_connect_duration_seconds_count", 1);
    let answered = ("netproxy_first_byte_duration_seconds_count", 1);
    let done = ("netproxy_closed_total{protocol=\"http\",ending=\"done\"}", 1);
    let exchanged = ("netproxy_exchange_duration_seconds_count", 1);
    let tunnelled = ("netproxy_tunnel_duration_seconds_count", 1);

    seen.step(
        "an exchange, whose connection to the origin then waits",
        admin,
        || assert_eq!(get(proxy.http(), &url).status, 299),
        &[
            http,
            asked,
            ("netproxy_decisions_total{protocol=\"http\",decision=\"allow\"}", 1),
            missed,
            opened,
            resolved,
            connected,
            answered,
            done,
            exchanged,
            ("netproxy_bytes_total{direction=\"down\"}", 6),
            ("netproxy_pool_idle_connections{protocol=\"http/1.1\"}", 1),
        ],
    );
    seen.step(
        "another on the connection that waits",
        admin,
        || assert_eq!(get(proxy.http(), &url).status, 299),
        &[
            http,
            asked,
            ("netproxy_decisions_total{protocol=\"http\",decision=\"allow\"}", 1),
            ("netproxy_pool_lookups_total{result=\"hit\"}", 1),
            ("netproxy_upstream_connections_total{how=\"reused\"}", 1),
            answered,
            done,
            exchanged,
            ("netproxy_bytes_total{direction=\"down\"}", 6),
        ],
    );
    seen.step(
        "a chunked body, whose framing counts for nothing, and which could not be sent again on another connection",
        admin,
        || {
            let mut client = Client::connect(proxy.http());
            let head = format!("PUT {url} HTTP/1.1\r\nHost: a.test:{}\r\nConnection: close\r\nTransfer-Encoding: chunked", origin.port());
            assert_eq!(client.send(format!("{head}\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n")).answer().status, 299);
        },
        &[
            http,
            asked,
            ("netproxy_decisions_total{protocol=\"http\",decision=\"allow\"}", 1),
            opened,
            resolved,
            connected,
            answered,
            done,
            exchanged,
            ("netproxy_bytes_total{direction=\"up\"}", 5),
            ("netproxy_bytes_total{direction=\"down\"}", 6),
            ("netproxy_pool_idle_connections{protocol=\"http/1.1\"}", 1),
        ],
    );
    for (host, reason) in [("b.test", "not_allowed"), ("d.test", "denied"), ("192.168.7.7", "not_allowed")] {
        let decided = format!("netproxy_decisions_total{{protocol=\"http\",decision=\"deny\",reason=\"{reason}\"}}");
        seen.step(
            host,
            admin,
            || assert_eq!(get(proxy.http(), &format!("http://{host}/")).status, 403),
            &[http, asked, missed, (&decided, 1)],
        );
    }
    let refusing = Refusing::new();
    seen.step(
        "nobody listens there",
        admin,
        || assert_eq!(Client::connect(proxy.socks5()).socks5_name("a.test", refusing.port()), Some(5)),
        &[
            socks5,
            ("netproxy_requests_total{protocol=\"socks5_tcp\"}", 1),
            ("netproxy_decisions_total{protocol=\"socks5_tcp\",decision=\"allow\"}", 1),
            resolved,
            connected,
            ("netproxy_upstream_failures_total{error=\"upstream-refused\"}", 1),
            ("netproxy_closed_total{protocol=\"socks5_tcp\",ending=\"upstream\"}", 1),
            tunnelled,
        ],
    );
    seen.step(
        "what is no request",
        admin,
        || {
            assert_eq!(Client::connect(proxy.http()).send("GET / HTTP/1.1\r\n\r\n").answer().status, 400);
            assert_eq!(Client::connect(proxy.socks5()).socks5(9, b"", 0), Some(8));
        },
        &[http, socks5, ("netproxy_bad_requests_total{protocol=\"http\"}", 1), ("netproxy_bad_requests_total{protocol=\"socks5\"}", 1)],
    );
    let through_tunnel =
        [resolved, connected, opened, ("netproxy_bytes_total{direction=\"up\"}", 7), ("netproxy_bytes_total{direction=\"down\"}", 7)];
    let tunnel = |client: &mut Client| assert_eq!(client.send("seven b").bytes(7), b"seven b");
    let mut kept = None;
    seen.step(
        "a tunnel that stays",
        admin,
        || {
            let client = kept.insert(Client::connect(proxy.http()));
            assert_eq!(client.tunnel(&format!("evil.test:{}", echo.port())).status, 200);
            tunnel(client);
        },
        &[
            &[
                http,
                ("netproxy_connections_open", 1),
                ("netproxy_requests_total{protocol=\"https_connect\"}", 1),
                ("netproxy_decisions_total{protocol=\"https_connect\",decision=\"allow\"}", 1),
                ("netproxy_tunnels_total{protocol=\"https_connect\"}", 1),
                ("netproxy_tunnels_open", 1),
            ],
            &through_tunnel[..],
        ]
        .concat(),
    );
    seen.step(
        "a tunnel that ends",
        admin,
        || {
            let mut client = Client::connect(proxy.socks5());
            assert_eq!(client.socks5_name("a.test", echo.port()), Some(0));
            tunnel(&mut client);
        },
        &[
            &[
                socks5,
                ("netproxy_requests_total{protocol=\"socks5_tcp\"}", 1),
                ("netproxy_decisions_total{protocol=\"socks5_tcp\",decision=\"allow\"}", 1),
                ("netproxy_tunnels_total{protocol=\"socks5_tcp\"}", 1),
                ("netproxy_closed_total{protocol=\"socks5_tcp\",ending=\"done\"}", 1),
                tunnelled,
            ],
            &through_tunnel[..],
        ]
        .concat(),
    );
    seen.step(
        "datagrams, one of which may not go where it would",
        admin,
        || {
            let association = Association::open(proxy.socks5());
            assert!(association.echo("a.test", datagrams.port(), "three"));
            association.send("d.test", 7, "lost");
            let _ = proxy.drops(1);
        },
        &[
            socks5,
            ("netproxy_associations_total", 1),
            ("netproxy_decisions_total{protocol=\"socks5_udp\",decision=\"allow\"}", 1),
            ("netproxy_decisions_total{protocol=\"socks5_udp\",decision=\"deny\",reason=\"denied\"}", 1),
            ("netproxy_datagrams_dropped_total{reason=\"denied\"}", 1),
            // That of the association, whatever went through it.
            ("netproxy_closed_total{protocol=\"socks5_udp\",ending=\"done\"}", 1),
            ("netproxy_tunnel_duration_seconds_count", 1),
            resolved,
            ("netproxy_bytes_total{direction=\"up\"}", 5),
            ("netproxy_bytes_total{direction=\"down\"}", 5),
        ],
    );
    seen.step(
        "a policy that does not allow the tunnel that stayed",
        admin,
        || {
            proxy.swap(&both("deny"));
            assert_eq!(kept.as_mut().unwrap().rest(), Vec::<u8>::new());
        },
        &[
            ("netproxy_connections_open", -1),
            ("netproxy_tunnels_open", -1),
            ("netproxy_tunnels_revoked_total", 1),
            ("netproxy_closed_total{protocol=\"https_connect\",ending=\"revoked\"}", 1),
            tunnelled,
            ("netproxy_policy_generation", 1),
            ("netproxy_policy_reloads_total{outcome=\"swapped\"}", 1),
        ],
    );
}

/// Events that are told, and written to a file.
fn audit(seen: &mut Seen) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let moves = ["netproxy_audit_queue_capacity_events", "netproxy_audit_events_total", "netproxy_audit_sink_events_total{sink=\"file\"}"];
    let proxy = DataPlane::start(&["--audit-file", file.to_str().unwrap(), "--sandbox", "off"]);
    assert_eq!(get(proxy.http(), "http://blocked.test/").status, 403);
    wait_until("it is told", || {
        let samples = Scrape::of(proxy.admin()).samples();
        moves.iter().all(|name| samples.get(*name).is_some_and(|value| *value > 0.0))
    });
    seen.0.extend(moves.map(str::to_owned));
}

fn switched_protocols(seen: &mut Seen) {
    let origin = Origin::http(|_, stream| {
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n").unwrap();
        false
    });
    let proxy = Proxy::start(&policy(LOCAL, &[("127.0.0.1", "allow")]), &Names::default());
    let before = Scrape::of(proxy.admin());
    let at = origin.address();
    let head = format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(Client::connect(proxy.http()).send(head).answer().status, 101);
    wait_until("it is counted", || moved(&before, &Scrape::of(proxy.admin())).contains_key("netproxy_tunnels_total{protocol=\"http\"}"));
    seen.0.insert("netproxy_tunnels_total{protocol=\"http\"}".to_owned());
}

fn looks(seen: &mut Seen) {
    let origin = Origin::echo();
    let names = Names::new(&[("a.test", &["127.0.0.1"])]);
    for (sni, outcome) in [("enforce", "closed"), ("log", "passed")] {
        let proxy = Proxy::start(&policy(&format!("{LOCAL}\nsni = \"{sni}\""), &[("a.test", "allow")]), &names);
        let before = Scrape::of(proxy.admin());
        let mut client = Client::connect(proxy.http());
        assert_eq!(client.tunnel(&format!("a.test:{}", origin.port())).status, 200);
        client.send(crate::look::hello("elsewhere.test"));
        let sample = format!("netproxy_tunnels_looked_total{{outcome=\"{outcome}\"}}");
        wait_until("it was looked at", || moved(&before, &Scrape::of(proxy.admin())).get(&sample) == Some(&1));
        seen.0.insert(sample);
    }
}

fn pooled_connections(seen: &mut Seen) {
    let names = Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])]);
    let toml = policy(LOCAL, &[("a.test", "allow"), ("b.test", "allow")]);
    let origin = Origin::start();
    let at = |name: &str| format!("http://{name}:{}/", origin.port());
    let proxy = Proxy::with_one_worker(&toml, &names, &["pool_connections=1"]);
    let scrape = || Scrape::of(proxy.admin());
    let idle = |scrape: &Scrape| scrape.get("netproxy_pool_idle_connections{protocol=\"http/1.1\"}");
    let evicted = |scrape: &Scrape, reason: &str| scrape.get(&format!("netproxy_pool_evictions_total{{reason=\"{reason}\"}}"));
    assert_eq!(get(proxy.http(), &at("a.test")).status, 299);
    wait_until("one waits", || idle(&scrape()) == 1.0);
    assert_eq!(get(proxy.http(), &at("a.test")).status, 299);
    wait_until("it waits again", || idle(&scrape()) == 1.0);
    assert_eq!(get(proxy.http(), &at("b.test")).status, 299);
    wait_until("there is room for one", || evicted(&scrape(), "full") == 1.0);
    assert_eq!(idle(&scrape()), 1.0);
    // The first was timed, and of those that follow one in sixteen: of few, there is something to see.
    let timed = || scrape().get("netproxy_decide_duration_seconds_count");
    let first = timed();
    assert!(first > 0.0);
    for _ in 4..=16 {
        assert_eq!(get(proxy.http(), &at("a.test")).status, 299);
    }
    assert_eq!(timed(), first, "the first of sixteen alone");
    assert_eq!(get(proxy.http(), &at("a.test")).status, 299);
    assert!(timed() > first);
    seen.0.insert("netproxy_decide_duration_seconds_count".to_owned());
    // An origin that goes.
    let closing = Origin::http(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 299 Origin\r\nContent-Length: 6\r\n\r\norigin");
        false
    });
    let other = Proxy::with_one_worker(&toml, &names, &["pool_timeout=1d"]);
    let url = format!("http://a.test:{}/", closing.port());
    // The first may find that it was closed before it was put away.
    wait_until("one that was closed was found", || {
        assert_eq!(get(other.http(), &url).status, 299);
        evicted(&Scrape::of(other.admin()), "closed") > 0.0
    });
    let impatient = Proxy::with_one_worker(&toml, &names, &["pool_timeout=10ms"]);
    wait_until("one has waited for too long", || {
        assert_eq!(get(impatient.http(), &at("a.test")).status, 299);
        evicted(&Scrape::of(impatient.admin()), "expired") > 0.0
    });
    let reasons = ["full", "closed", "expired"].map(|reason| format!("netproxy_pool_evictions_total{{reason=\"{reason}\"}}"));
    seen.0.extend(reasons);
}

fn names(seen: &mut Seen) {
    let zone = Zone { answers: vec![vec![Record::parse("a.test 600 A 127.0.0.1")]], ..Zone::default() };
    let server = harness::dns::NameServer::start([("a.test".to_owned(), zone)]);
    let servers = NameServers::new(&[netproxy::NameServer::Dns(server.address())], &Limits::default()).unwrap();
    let origin = Origin::start();
    let proxy = Proxy::with_resolver(&policy(LOCAL, &[("a.test", "allow")]), servers, &["pool_connections=0"]);
    let before = Scrape::of(proxy.admin());
    for _ in 0..3 {
        assert_eq!(get(proxy.http(), &format!("http://a.test:{}/", origin.port())).status, 299);
    }
    let moved = moved(&before, &Scrape::of(proxy.admin()));
    let (miss, hit, entries) = (
        "netproxy_dns_cache_lookups_total{result=\"miss\"}",
        "netproxy_dns_cache_lookups_total{result=\"hit\"}",
        "netproxy_dns_cache_entries",
    );
    assert_eq!((moved[miss], moved[hit], moved[entries], moved["netproxy_resolve_duration_seconds_count"]), (1, 2, 1, 3));
    seen.0.extend([miss, hit, entries].map(str::to_owned));
}

fn inside_tls(seen: &mut Seen) {
    let (authority, origin) = (Authority::new(), Origin::start());
    let front = Front::of(&origin, authority.server(&["a.test"], &["http/1.1"]));
    let names = Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])]);
    let toml = policy(&format!("{LOCAL}\nmode = \"limited\""), &[("a.test", "allow"), ("b.test", "allow")]);
    let proxy = Proxy::with_environment(&toml, &names, &[("SSL_CERT_FILE", authority.file().to_str().unwrap())]);
    let before = Scrape::of(proxy.admin());
    let trust = trusting(proxy.policy().authority_pem().unwrap(), &["http/1.1"]);
    let at = |host: &str| format!("{host}:{}", front.port());
    for _ in 0..2 {
        let mut client = through(proxy.http(), &at("a.test"), &trust).unwrap().client;
        let head = format!("HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", at("a.test"));
        assert_eq!(client.send(format!("GET / {head}")).answer().status, 299);
    }
    // Its certificate is for another name, and a client that trusts nobody ends the handshake.
    let nobody = trusting(&Authority::new().pem, &["http/1.1"]);
    assert!(through(proxy.http(), &at("b.test"), &nobody).is_err());
    let expected = [
        ("netproxy_requests_total{protocol=\"https\"}", 2),
        ("netproxy_decisions_total{protocol=\"https\",decision=\"allow\"}", 2),
        ("netproxy_intercepted_total{outcome=\"opened\"}", 2),
        ("netproxy_tls_handshakes_total{side=\"client\",outcome=\"done\"}", 2),
        ("netproxy_tls_handshakes_total{side=\"client\",outcome=\"failed\"}", 1),
        ("netproxy_tls_handshakes_total{side=\"origin\",outcome=\"failed\"}", 1),
        ("netproxy_tls_handshake_duration_seconds_count{side=\"client\"}", 3),
        ("netproxy_certificate_cache_lookups_total{result=\"miss\"}", 2),
        ("netproxy_certificate_cache_lookups_total{result=\"hit\"}", 1),
        ("netproxy_certificate_cache_entries", 2),
    ];
    // The second client may be given the connection of the first.
    let at_least_one = [
        "netproxy_tls_handshakes_total{side=\"origin\",outcome=\"done\"}",
        "netproxy_tls_handshake_duration_seconds_count{side=\"origin\"}",
    ];
    let mut last = Moved::new();
    wait_until("all of it is counted", || {
        last = moved(&before, &Scrape::of(proxy.admin()));
        expected.iter().all(|(name, _)| last.contains_key(*name)) && last.get(expected[4].0) == Some(&1)
    });
    for (name, by) in expected {
        assert_eq!(last.get(name), Some(&by), "{name}: {last:#?}");
    }
    assert!(at_least_one.iter().all(|name| last.contains_key(*name)), "{last:#?}");
    seen.0.extend(expected.map(|(name, _)| name.to_owned()));
    seen.0.extend(at_least_one.map(str::to_owned));
}

#[test]
fn a_mode_that_is_set_shows() {
    use policy_format::Mode;
    let proxy = Proxy::start(&policy(LOCAL, &[("a.test", "allow")]), &Names::default());
    let of = |sample: &str| Scrape::of(proxy.admin()).get(sample);
    assert_eq!((of("netproxy_policy_limited_mode"), of("netproxy_policy_generation")), (0.0, 1.0));
    let _ = proxy.handle().set_mode(Some(Mode::Limited)).unwrap();
    assert_eq!((of("netproxy_policy_limited_mode"), of("netproxy_policy_generation")), (1.0, 2.0));
    let _ = proxy.handle().set_mode(None).unwrap();
    assert_eq!((of("netproxy_policy_limited_mode"), of("netproxy_policy_generation")), (0.0, 3.0));
}

fn reloads(seen: &mut Seen) {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = dir.path().join("policy.bin");
    let put = |bytes: &[u8]| {
        let fresh = dir.path().join("fresh");
        std::fs::write(&fresh, bytes).unwrap();
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::rename(fresh, &file).unwrap();
    };
    let compiled = |name: &str| harness::compile(&policy("", &[(name, "allow"), ("b.test", "allow")]));
    put(&compiled("a.test"));
    let proxy = DataPlane::start(&["--policy", file.to_str().unwrap(), "--policy-map", "shared", "--workers", "2"]);
    let admin = proxy.admin();
    wait_until("both serve", || Scrape::of(admin).get("netproxy_workers") == 2.0);
    let first = Scrape::of(admin);
    assert_eq!((first.get("netproxy_policy_rules"), first.get("netproxy_policy_last_reload_successful")), (2.0, 1.0));
    let outcome = |outcome: &str| format!("netproxy_policy_reloads_total{{outcome=\"{outcome}\"}}");
    let (swapped, unchanged, refused, withdrawn) = (outcome("swapped"), outcome("unchanged"), outcome("refused"), outcome("withdrawn"));
    let (generation, good, rules) = ("netproxy_policy_generation", "netproxy_policy_last_reload_successful", "netproxy_policy_rules");
    seen.step("another policy", admin, || put(&compiled("c.test")), &[(&swapped, 1), (generation, 1)]);
    seen.step("the same", admin, || proxy.signal("HUP"), &[(&unchanged, 1)]);
    seen.step("what is none", admin, || put(b"nonsense"), &[(&refused, 1), (good, -1)]);
    seen.step("a good one", admin, || put(&compiled("a.test")), &[(&swapped, 1), (generation, 1), (good, 1)]);
    let write_over = || {
        let mut bytes = std::fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::OpenOptions::new().write(true).open(&file).unwrap().write_all(&bytes).unwrap();
    };
    let before = Scrape::of(admin);
    write_over();
    wait_until("it is withdrawn", || moved(&before, &Scrape::of(admin)).get(&withdrawn) == Some(&1));
    let after = Scrape::of(admin);
    assert_eq!((after.get(rules), after.get(good), moved(&before, &after)[generation]), (0.0, 0.0, 1));
    assert!(after.get("netproxy_policy_loaded_timestamp_seconds") >= first.get("netproxy_policy_loaded_timestamp_seconds"));
    seen.0.extend([withdrawn, rules.to_owned(), "netproxy_workers".to_owned(), "netproxy_policy_loaded_timestamp_seconds".to_owned()]);
    // An authority that was there at the start does not serve for what comes later.
    let opening = |host: &str| harness::compile(&policy("mode = \"limited\"", &[(host, "allow")]));
    let proxy = Proxy::start(&policy("mode = \"limited\"", &[("a.test", "allow")]), &Names::default());
    let before = Scrape::of(proxy.admin());
    proxy.reload(opening("b.test"));
    assert_eq!(moved(&before, &Scrape::of(proxy.admin())).get("netproxy_faults_total"), Some(&1));
    seen.0.insert("netproxy_faults_total".to_owned());
}

/// Both formats, while requests are under way: whatever moves between two lines, each histogram adds up.
#[test]
fn a_scrape_under_load_can_be_read_and_adds_up() {
    let origin = Origin::start();
    let proxy = Proxy::start(&policy(LOCAL, &[("127.0.0.1", "allow")]), &Names::default());
    let url = format!("http://{}/", origin.address());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = Client::connect(proxy.http());
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let head = format!("GET {url} HTTP/1.1\r\nHost: {}\r\n\r\n", origin.address());
                    assert_eq!(client.send(head).answer().status, 299);
                }
            });
        }
        let mut last = 0.0;
        for round in 0..20 {
            let scrape = if round % 2 == 0 { Scrape::of(proxy.admin()) } else { Scrape::open(proxy.admin()) };
            let count = scrape.get("netproxy_first_byte_duration_seconds_count") + scrape.get("netproxy_decide_duration_seconds_count");
            assert!(count >= last, "what was counted stays");
            last = count;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let (plain, open) = (Scrape::of(proxy.admin()), Scrape::open(proxy.admin()));
    let shape = |scrape: &Scrape| -> Vec<(String, Vec<String>)> {
        scrape
            .families
            .iter()
            .map(|family| (family.name.clone(), family.samples.iter().map(harness::scrape::Sample::key).collect()))
            .collect()
    };
    assert_eq!(shape(&plain), shape(&open), "both formats have the same");
}

#[test]
fn the_system_says_what_the_process_uses() {
    let proxy = DataPlane::start(&[]);
    let scrape = Scrape::of(proxy.admin());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let started = scrape.get("process_start_time_seconds");
    assert!(started > now - 300.0 && started < now + 5.0, "{started}");
    assert!(scrape.get("process_resident_memory_bytes") > 1e6 && scrape.get("process_cpu_seconds_total") > 0.0);
    let open = scrape.get("process_open_fds");
    assert!(open > 5.0 && open < scrape.get("process_max_fds"), "{open}");
    let clients: Vec<Client> = (0..20).map(|_| Client::connect(proxy.http())).collect();
    wait_until("twenty more are open", || Scrape::of(proxy.admin()).get("process_open_fds") >= open + 20.0);
    drop(clients);
    let build = scrape.families.iter().find(|family| family.name == "netproxy_build_info").unwrap();
    assert_eq!(build.samples[0].labels[0], ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    assert_eq!(Scrape::of(proxy.admin()).get("process_start_time_seconds").to_bits(), started.to_bits());
}

#[test]
fn requests_of_the_admin_api_are_counted_by_route_and_status() {
    let proxy = Proxy::start(&policy("", &[]), &Names::default());
    let ask = |path: &str| Client::connect(proxy.admin()).send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).answer().status;
    assert_eq!((ask("/health"), ask("/nowhere/secret-path")), (200, 404));
    let scrape = Scrape::of(proxy.admin());
    assert_eq!(scrape.get("netproxy_admin_requests_total{route=\"/health\",status=\"200\"}"), 1.0);
    let family = scrape.families.iter().find(|family| family.name == "netproxy_admin_requests_total").unwrap();
    assert!(family.samples.iter().any(|sample| sample.labels[1].1 == "404" && sample.value == 1.0), "{family:?}");
    assert!(!family.samples.iter().any(|sample| sample.key().contains("secret")), "no path of a client is a label");
}

fn repository() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Families whose samples come with what there is: which labels they have.
const LATER: [(&str, &str); 3] = [
    ("netproxy_admin_requests_total", "`route`, `status`"),
    ("netproxy_build_info", "`version`, `os`, `arch`"),
    ("netproxy_limited_total", "`limit`: [all of them](limits.md)"),
];

/// Labels, and their values where those are few.
fn labels(family: &harness::scrape::Family) -> String {
    if let Some((_, labels)) = LATER.iter().find(|(name, _)| *name == family.name) {
        return (*labels).to_owned();
    }
    let mut values: Vec<(&str, Vec<&str>)> = Vec::new();
    for (name, value) in family.samples.iter().flat_map(|sample| &sample.labels).filter(|(name, _)| name != "le") {
        let place = values.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            values.push((name, Vec::new()));
            values.len() - 1
        });
        if !values[place].1.contains(&value.as_str()) {
            values[place].1.push(value);
        }
    }
    let labels = values.iter().map(|(name, values)| format!("`{name}`: {}", values.join(", ")));
    if family.name.starts_with("netproxy_audit_sink_") { "`sink`".to_owned() } else { labels.collect::<Vec<_>>().join("; ") }
}

#[test]
fn the_page_about_metrics_is_what_is_exported() {
    let path = repository().join("docs/metrics.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (start, end) = ("<!-- metrics -->\n", "<!-- end -->\n");
    let (head, rest) = text.split_once(start).unwrap();
    let (_, tail) = rest.split_once(end).unwrap();
    let proxy = DataPlane::start(&[]);
    let families = Scrape::of(proxy.admin()).families;
    let row = |family: &harness::scrape::Family| {
        let kind = if family.name.ends_with("_info") { "info" } else { &family.kind };
        format!("| `{}` | {kind} | {} | {} |\n", family.name, labels(family), family.help)
    };
    let rows: String = families.iter().map(row).collect();
    let expected = format!("{head}{start}| metric | type | labels | what it is |\n| --- | --- | --- | --- |\n{rows}{end}{tail}");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    assert!(text == expected || std::env::var_os("BLESS").is_some(), "docs/metrics.md is not what it would be: run this test with BLESS=1");
}

/// Metrics that an expression names, each with the labels that it is selected by.
fn named(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for prefix in ["netproxy_", "process_"] {
        for (at, _) in expression.match_indices(prefix) {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if expression[..at].ends_with(is_part) {
                continue;
            }
            let rest = &expression[at..];
            let name: String = rest.chars().take_while(|c| is_part(*c)).collect();
            let selector = rest[name.len()..].strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(selector, _)| selector);
            let labels = selector.split(',').filter_map(|label| label.split(['=', '!']).next()).filter(|label| !label.is_empty());
            found.push((name, labels.map(str::to_owned).collect()));
        }
    }
    found
}

/// What a dashboard or an alert asks for is exported, with the labels that it is told apart by.
#[test]
fn dashboard_and_alerts_ask_for_what_is_there() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(repository().join("deploy/grafana/netproxy.json")).unwrap()).unwrap();
    let alerts = std::fs::read_to_string(repository().join("deploy/prometheus/alerts.yml")).unwrap();
    let of_alerts: Vec<(String, Vec<String>)> = alerts.lines().filter(|line| !line.contains("description:")).flat_map(named).collect();
    assert!(of_alerts.len() > 10, "{of_alerts:?}");
    let mut of_panels = Vec::new();
    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut places) = (BTreeSet::new(), Vec::new());
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have one number");
        let place = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        let [x, y, w, h] = place;
        assert!(x + w <= 24);
        let over = |[ox, oy, ow, oh]: &[u64; 4]| x < ox + ow && *ox < x + w && y < oy + oh && *oy < y + h;
        assert!(!places.iter().any(over), "{} lies over another", panel["title"]);
        places.push(place);
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        for target in panel["targets"].as_array().unwrap() {
            let asks = named(target["expr"].as_str().unwrap());
            assert!(!asks.is_empty(), "{}", panel["title"]);
            of_panels.extend(asks);
        }
    }
    let variables: Vec<&str> = dashboard["templating"]["list"].as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(variables, ["datasource", "job", "instance"]);

    let proxy = Proxy::start(&policy(LOCAL, &[]), &Names::default());
    let _ = Scrape::of(proxy.admin());
    let scrape = Scrape::of(proxy.admin());
    let mut shown = BTreeSet::new();
    let all = of_alerts.into_iter().map(|asked| (asked, false)).chain(of_panels.into_iter().map(|asked| (asked, true)));
    for ((name, labels), is_shown) in all {
        let family = scrape.families.iter().find(|family| {
            family.name == name
                || (family.kind == "histogram" && ["_bucket", "_sum", "_count"].iter().any(|part| name == format!("{}{part}", family.name)))
        });
        let family = family.unwrap_or_else(|| panic!("`{name}` is not exported"));
        for label in labels.iter().filter(|label| !["job", "instance"].contains(&label.as_str())) {
            let has = family.samples.iter().any(|sample| sample.labels.iter().any(|(name, _)| name == label));
            assert!(has, "`{name}` has no label `{label}`");
        }
        if is_shown {
            shown.insert(family.name.clone());
        }
    }
    // The dashboard has all of it.
    let missing: Vec<&str> = scrape.families.iter().map(|family| family.name.as_str()).filter(|name| !shown.contains(*name)).collect();
    assert_eq!(missing, [""; 0]);
}
