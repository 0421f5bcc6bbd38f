//! Names, against a name server on loopback that says right things, wrong things, and nothing.

use harness::dns::{Manner, NameServer, Record, Zone, zone};
use harness::http2::Http2Origin;
use harness::tls::Authority;
use harness::{Client, Origin, Proxy, client::get, policy};
use netproxy::{Limits, NameServers};
use std::net::SocketAddr;
use std::time::Duration;

/// Every name below `test`, and loopback at the origin's port.
fn open(origin: &Origin) -> String {
    let (four, six) = (format!("127.0.0.1:{}", origin.port()), format!("[::1]:{}", origin.port()));
    policy("", &[("**.test", "allow"), (&four, "allow"), (&six, "allow"), ("198.51.100.0/24", "deny")])
}

fn limits(patience: Duration) -> Limits {
    Limits { resolve_timeout: patience, ..Limits::default() }
}

fn servers(addresses: &[SocketAddr], limits: &Limits) -> NameServers {
    let servers: Vec<netproxy::NameServer> = addresses.iter().map(|address| netproxy::NameServer::Dns(*address)).collect();
    NameServers::new(&servers, limits).unwrap()
}

/// A proxy that asks these servers, for as long as a slow machine may take.
fn proxy(toml: &str, addresses: &[SocketAddr]) -> Proxy {
    let limits = limits(harness::PATIENCE);
    Proxy::with_resolver(toml, servers(addresses, &limits), &["resolve_timeout=20s"])
}

fn verdict(proxy: &Proxy, name: &str, port: u16) -> String {
    let answer = get(proxy.http(), &format!("http://{name}:{port}/"));
    match answer.status {
        403 => answer.blocked_reason(),
        299 => "ok".into(),
        status => format!("{status} {}", answer.header("x-proxy-error").unwrap_or_default()),
    }
}

#[derive(Debug)]
struct Case {
    about: String,
    name: String,
    expect: String,
    zone: Zone,
}

fn cases() -> Vec<Case> {
    let table: toml::Table = include_str!("../cases/dns.toml").parse().unwrap();
    let read = |case: &toml::Value| {
        let text = |key: &str| case[key].as_str().unwrap().to_owned();
        let records = |key: &str| -> Vec<Record> {
            let list = case.get(key).and_then(toml::Value::as_array);
            list.into_iter().flatten().map(|record| Record::parse(record.as_str().unwrap())).collect()
        };
        let manner = match case.get("manner").map(|manner| manner.as_str().unwrap()) {
            None => Manner::Plain,
            Some("truncated") => Manner::Truncated,
            Some("always-truncated") => Manner::AlwaysTruncated,
            Some("silent-on-six") => Manner::SilentOnSix,
            Some("old") => Manner::Old,
            Some("garbage") => Manner::Garbage,
            Some("spoofed") => Manner::Spoofed,
            Some(other) => panic!("`{other}` is no manner"),
        };
        let code = case.get("code").map_or(0, |code| u8::try_from(code.as_integer().unwrap()).unwrap());
        let zone =
            Zone { answers: vec![records("answer")], authority: records("authority"), additional: records("additional"), code, manner };
        Case { about: text("about"), name: text("name"), expect: text("expect"), zone }
    };
    table["case"].as_array().unwrap().iter().map(read).collect()
}

#[test]
fn every_answer_leads_to_what_the_table_says() {
    let cases = cases();
    let server = NameServer::start(cases.iter().map(|case| (case.name.clone(), case.zone.clone())));
    let origin = Origin::start();
    let proxy = proxy(&open(&origin), &[server.address()]);
    let found: Vec<String> = cases.iter().map(|case| verdict(&proxy, &case.name, origin.port())).collect();
    let wrong: Vec<String> = cases
        .iter()
        .zip(&found)
        .filter(|(case, found)| case.expect != **found)
        .map(|(case, found)| format!("{}: {}: found `{found}`, expected `{}`", case.name, case.about, case.expect))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.len() > 30, "cases went missing");
    let asked = server.asked();
    for (name, transports) in [("truncated.test", &["tcp", "udp"][..]), ("plain.test", &["udp"])] {
        let mut seen: Vec<&str> =
            asked.iter().filter(|line| line.ends_with(&format!(" {name}"))).filter_map(|line| line.split(' ').next()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, transports, "{name}");
    }
    // Nothing that is denied or not found was dialled.
    assert_eq!(origin.connections(), cases.iter().filter(|case| case.expect == "ok").count());
}

#[test]
fn a_name_that_is_not_allowed_is_never_asked_for() {
    let server = NameServer::of(60, &[("a.test", &["127.0.0.1"])]);
    let origin = Origin::start();
    let proxy = proxy(&open(&origin), &[server.address()]);
    for name in ["secret.attacker.example", "127.1", "localhost", "a.test.example"] {
        assert_eq!(get(proxy.http(), &format!("http://{name}:{}/", origin.port())).status, 403, "{name}");
    }
    assert_eq!(server.asked(), Vec::<String>::new());
    assert_eq!(verdict(&proxy, "a.test", origin.port()), "ok");
    let mut asked = server.asked();
    asked.sort_unstable();
    // As absolute names: no search list made other names of it.
    assert_eq!(asked, ["udp A a.test", "udp AAAA a.test"]);
    assert_eq!(verdict(&proxy, "127.0.0.1", origin.port()), "ok");
    assert_eq!(server.asked().len(), 2, "an address is no name");
}

#[test]
fn what_an_alias_leads_to_is_never_asked_for() {
    let alias = |owner: &str, target: &str| {
        let record = Record::parse(&format!("{owner} 60 CNAME {target}"));
        (owner.to_owned(), Zone { answers: vec![vec![record]], ..Zone::default() })
    };
    let target = ("open.test".to_owned(), zone("open.test", 60, &["127.0.0.1"]));
    let server = NameServer::start([alias("a.test", "secret.attacker.example"), alias("b.test", "open.test"), target]);
    let origin = Origin::start();
    let proxy = proxy(&open(&origin), &[server.address()]);
    for (name, expected) in
        [("a.test", "502 upstream-name-not-resolved"), ("b.test", "502 upstream-name-not-resolved"), ("open.test", "ok")]
    {
        let before = server.asked().len();
        assert_eq!(verdict(&proxy, name, origin.port()), expected, "{name}");
        let mut asked = server.asked().split_off(before);
        asked.sort_unstable();
        assert_eq!(asked, [format!("udp A {name}"), format!("udp AAAA {name}")]);
    }
}

#[test]
fn a_name_that_moves_is_decided_on_by_what_it_is_now() {
    let records = |text: &str| vec![Record::parse(text)];
    let first = "rebind.test 0 A 127.0.0.1";
    let rebind = Zone { answers: vec![records(first), records("rebind.test 0 A 10.0.0.1"), records(first)], ..Zone::default() };
    let server = NameServer::start([("rebind.test".to_owned(), rebind)]);
    let origin = Origin::start();
    // Each request opens a connection of its own.
    let proxy =
        Proxy::with_resolver(&open(&origin), servers(&[server.address()], &limits(Duration::from_secs(10))), &["pool_connections=0"]);
    for expected in ["ok", "not_allowed_local", "ok"] {
        assert_eq!(verdict(&proxy, "rebind.test", origin.port()), expected);
    }
    // With no time to live, each request asked: for both families.
    assert_eq!(server.asked().len(), 6);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn what_is_kept_is_decided_on_anew_and_by_the_policy_in_force() {
    let server = NameServer::of(600, &[("kept.test", &["127.0.0.1"])]);
    let origin = Origin::start();
    let proxy = proxy(&open(&origin), &[server.address()]);
    assert_eq!(verdict(&proxy, "kept.test", origin.port()), "ok");
    server.set("kept.test", zone("kept.test", 600, &["10.0.0.1"]));
    assert_eq!(verdict(&proxy, "kept.test", origin.port()), "ok", "it is what it was for its time to live");
    assert_eq!(verdict(&proxy, "kept.test", 1), "not_allowed_local", "another port is another question");
    proxy.swap(&policy("", &[("**.test", "allow")]));
    assert_eq!(verdict(&proxy, "kept.test", origin.port()), "not_allowed_local");
    proxy.swap(&policy("", &[("kept.test", "deny")]));
    assert_eq!(verdict(&proxy, "kept.test", origin.port()), "denied");
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn that_there_is_no_such_name_is_kept_for_as_long_as_its_zone_says() {
    let absent = |minimum: u32| Zone { code: 3, authority: vec![Record::parse(&format!("test 600 SOA {minimum}"))], ..Zone::default() };
    let server = NameServer::start([("kept.test".to_owned(), absent(600)), ("not.test".to_owned(), absent(0))]);
    let origin = Origin::start();
    let proxy = proxy(&open(&origin), &[server.address()]);
    for (name, questions) in [("kept.test", 2), ("not.test", 4)] {
        for _ in 0..2 {
            assert_eq!(verdict(&proxy, name, origin.port()), "502 upstream-name-not-resolved");
        }
        assert_eq!(server.asked().iter().filter(|line| line.ends_with(name)).count(), questions, "{name}");
    }
}

#[test]
fn many_clients_who_want_one_name_make_one_question() {
    let server = NameServer::of(60, &[("busy.test", &["127.0.0.1"])]);
    let origin = Origin::start();
    let proxy = proxy(&open(&origin), &[server.address()]);
    server.hold();
    let clients: Vec<Client> = (0..50)
        .map(|_| {
            let mut client = Client::connect(proxy.http());
            client.send(format!("GET http://busy.test:{}/ HTTP/1.1\r\nHost: busy.test:{}\r\n\r\n", origin.port(), origin.port()));
            client
        })
        .collect();
    harness::wait_until("it is asked", || !server.asked().is_empty());
    server.release();
    for mut client in clients {
        assert_eq!(client.answer().status, 299);
    }
    assert_eq!(server.asked().len(), 2, "one for each family: {:?}", server.asked());
}

#[test]
fn more_addresses_than_can_be_decided_on_are_no_answer() {
    // The answer goes by TCP. The first that is tried is the origin.
    let ips = |count| std::iter::once("127.0.0.1".into()).chain((1..count).map(|n| format!("93.184.{}.{}", n / 250, n % 250)));
    for (count, expected) in [(256, "ok"), (257, "502 upstream-name-server-failed"), (2000, "502 upstream-name-server-failed")] {
        let ips: Vec<String> = ips(count).collect();
        let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        let server = NameServer::of(60, &[("huge.test", &ips)]);
        let origin = Origin::start();
        let proxy = proxy(&open(&origin), &[server.address()]);
        assert_eq!(verdict(&proxy, "huge.test", origin.port()), expected, "{count}");
        assert!(server.asked().contains(&"tcp A huge.test".to_owned()));
    }
}

#[test]
fn a_silent_server_is_a_time_out() {
    for manner in [Manner::Silent, Manner::OtherQuestion] {
        let zone = Zone { manner, ..zone("slow.test", 60, &["127.0.0.1"]) };
        let server = NameServer::start([("slow.test".to_owned(), zone)]);
        let origin = Origin::start();
        let proxy = Proxy::with_resolver(
            &open(&origin),
            servers(&[server.address()], &limits(Duration::from_millis(300))),
            &["resolve_timeout=300ms"],
        );
        assert_eq!(verdict(&proxy, "slow.test", origin.port()), "504 upstream-resolve-timeout", "{manner:?}");
        // Time-out.
        assert_eq!(Client::connect(proxy.socks5()).socks5_name("slow.test", origin.port()), Some(6));
        assert_eq!(origin.connections(), 0);
    }
}

#[test]
fn an_upstream_proxy_that_no_server_knows_is_not_resolved() {
    let failing = |name: &str, code| (name.to_owned(), Zone { code, ..Zone::default() });
    let server = NameServer::start([failing("servfail.test", 2), failing("missing.test", 3)]);
    for name in ["servfail.test", "missing.test"] {
        let toml = policy(&format!("upstream = \"http://{name}:3128\""), &[("a.test", "allow")]);
        assert_eq!(verdict(&proxy(&toml, &[server.address()]), "a.test", 80), "502 upstream-proxy-not-resolved", "{name}");
    }
}

#[test]
fn the_next_server_is_asked_when_one_does_not_answer_or_does_not_know() {
    let origin = Origin::start();
    let good = NameServer::of(0, &[("a.test", &["127.0.0.1"])]);
    for (code, manner) in [(0, Manner::Silent), (2, Manner::Plain), (5, Manner::Plain), (0, Manner::Garbage), (0, Manner::AlwaysTruncated)]
    {
        let bad = NameServer::start([("a.test".to_owned(), Zone { code, manner, ..Zone::default() })]);
        let resolver = servers(&[bad.address(), good.address()], &limits(Duration::from_secs(8)));
        let proxy = Proxy::with_resolver(&open(&origin), resolver, &["resolve_timeout=20s", "pool_connections=0"]);
        assert_eq!(verdict(&proxy, "a.test", origin.port()), "ok", "{code} {manner:?}");
        let before = bad.asked().len();
        assert!(before > 0);
        // One that did not answer is asked last from now on; one that did not know is asked first again.
        assert_eq!(verdict(&proxy, "a.test", origin.port()), "ok", "{code} {manner:?}");
        let is_avoided = matches!(manner, Manner::Silent | Manner::Garbage);
        assert_eq!(bad.asked().len() > before, !is_avoided, "{code} {manner:?}");
    }
}

#[test]
fn what_the_first_server_knows_the_second_is_not_asked() {
    let origin = Origin::start();
    let inner = NameServer::of(60, &[("a.test", &["127.0.0.1"])]);
    let outer = NameServer::of(60, &[("secret.test", &["127.0.0.1"])]);
    let proxy = proxy(&open(&origin), &[inner.address(), outer.address()]);
    assert_eq!(verdict(&proxy, "a.test", origin.port()), "ok");
    assert_eq!(verdict(&proxy, "secret.test", origin.port()), "502 upstream-name-not-resolved");
    assert_eq!(outer.asked(), Vec::<String>::new());
}

#[test]
fn a_server_that_is_asked_by_https_is_held_against_what_the_proxy_trusts() {
    let authority = Authority::new();
    // That it is asked at all says that it is trusted.
    let server = Http2Origin::start(authority.server(&["localhost"], &["h2"]), 500, &[]);
    let toml = policy(&format!("resolver = [\"https://localhost:{}/q\"]", server.port()), &[("a.test", "allow")]);
    let file = authority.file();
    let named: &[(&str, &str)] = &[("SSL_CERT_FILE", file.to_str().unwrap())];
    for (variables, trusted) in [(&[][..], false), (named, true)] {
        let proxy = Proxy::with_names_of_policy(&toml, variables);
        if trusted {
            // Once it listens, files may be out of reach.
            std::fs::remove_file(&file).unwrap();
        }
        assert_eq!(verdict(&proxy, "a.test", 80), "502 upstream-name-server-failed");
        let asked: Vec<String> = server.requests().into_iter().map(|request| request.first_line).collect();
        assert_eq!(asked.iter().any(|line| line == "POST /q HTTP/2"), trusted, "{asked:?}");
    }
}

#[test]
fn the_address_that_accepts_is_taken() {
    let origin = Origin::start();
    // Nothing listens there, at this port.
    let server = NameServer::of(60, &[("two.test", &["127.0.0.2", "127.0.0.3", "127.0.0.1"]), ("none.test", &["127.0.0.2", "127.0.0.3"])]);
    let proxy = proxy(&policy("allow_local_binding = true", &[("**.test", "allow")]), &[server.address()]);
    assert_eq!(verdict(&proxy, "two.test", origin.port()), "ok");
    assert_eq!(verdict(&proxy, "none.test", origin.port()), "502 upstream-refused");
}
