//! Through other proxies: which, how they are asked, and what is said when they say no. Then through those that the system's packages have.

use harness::udp::{Association, Echo};
use harness::upstream::Upstream;
use harness::{Client, DataPlane, Names, Origin, Proxy, Refusing, binaries, client::get, policy};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// A policy whose proxy has an address that no rule opens: it is dialled all the same.
fn through(url: &str, domains: &[&str]) -> String {
    let domains: Vec<(&str, &str)> = domains.iter().map(|name| (*name, "allow")).collect();
    policy(&format!("upstream = \"{url}\""), &domains)
}

fn url(scheme: &str, upstream: &Upstream) -> String {
    format!("{scheme}://{}", upstream.address())
}

fn names() -> Names {
    Names::new(&[("proxy.test", &["127.0.0.1"]), ("a.test", &["93.184.216.34"])])
}

#[test]
fn plain_requests_are_put_to_an_http_proxy_in_absolute_form() {
    let upstream = Upstream::http();
    let names = names();
    let toml = through(&format!("http://user:p%40ss@proxy.test:{}", upstream.address().port()), &["a.test", "192.0.2.7"]);
    let proxy = Proxy::start(&format!("{toml}\"203.0.113.9\" = \"allow\"\n"), &names);
    let mut client = Client::connect(proxy.http());
    let proxys_own = "Proxy-Authorization: Basic bWluZQ==\r\nProxy-Connection: keep-alive\r\nProxy-Other: 1\r\n";
    let answer = client.send(format!("GET http://a.test/x?y=1 HTTP/1.1\r\nHost: a.test\r\nX-Mine: 1\r\n{proxys_own}\r\n")).answer();
    assert_eq!((answer.status, answer.text().as_str()), (299, "upstream"));
    assert_eq!(client.send("GET /z HTTP/1.1\r\nHost: a.test:8080\r\n\r\n").answer().status, 299);
    assert_eq!(client.send("OPTIONS * HTTP/1.1\r\nHost: a.test:8080\r\n\r\n").answer().status, 299);
    assert_eq!(get(proxy.http(), "http://203.0.113.9/").status, 299);
    let authorization = "Proxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n";
    assert_eq!(
        upstream.asked(),
        [
            format!("GET http://a.test/x?y=1 HTTP/1.1\r\nHost: a.test\r\nX-Mine: 1\r\n{authorization}"),
            format!("GET http://a.test:8080/z HTTP/1.1\r\nHost: a.test:8080\r\n{authorization}"),
            format!("OPTIONS http://a.test:8080 HTTP/1.1\r\nHost: a.test:8080\r\n{authorization}"),
            format!("GET http://203.0.113.9/ HTTP/1.1\r\nHost: 203.0.113.9\r\n{authorization}"),
        ]
    );
    assert_eq!(upstream.connections(), 3, "one for each host and port on the first connection, and one for the other");
    assert!(names.asked().iter().all(|name| name == "proxy.test"), "{:?}", names.asked());
}

#[test]
fn tunnels_and_upgrades_go_through_an_http_proxy_by_connect() {
    let upstream = Upstream::http();
    let names = names();
    let proxy = Proxy::start(&through(&url("http", &upstream).replace("//", "//u:p@"), &["a.test"]), &names);
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.tunnel("a.test:443").status, 200);
    assert_eq!(client.bytes(6), b"early ");
    assert_eq!(client.send("ping").bytes(4), b"ping");
    let mut client = Client::connect(proxy.socks5());
    assert_eq!(client.socks5_name("a.test", 22), Some(0));
    assert_eq!(client.send("ping").bytes(10), b"early ping");
    let asked = |port| format!("CONNECT a.test:{port} HTTP/1.1\r\nHost: a.test:{port}\r\nProxy-Authorization: Basic dTpw\r\n\r\n");
    assert_eq!(upstream.asked(), [asked(443), asked(22)]);
    assert_eq!(names.asked(), Vec::<String>::new(), "the proxy looks names up");

    let upstream = Upstream::answering(b"HTTP/1.1 200 OK\r\n\r\n", b"");
    proxy.swap(&through(&url("http", &upstream), &["a.test"]));
    let mut client = Client::connect(proxy.http());
    client.send("GET /chat HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.answer().status, 101);
    assert_eq!(client.send("frame").bytes(5), b"frame");
    assert_eq!(upstream.asked(), ["CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n"]);
}

#[test]
fn a_tunnel_stands_whatever_the_answer_says_of_a_body() {
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    ];
    for answer in answers {
        let upstream = Upstream::answering(answer.as_bytes(), b"");
        let proxy = Proxy::start(&through(&url("http", &upstream), &["a.test"]), &names());
        let mut client = Client::connect(proxy.http());
        assert_eq!(client.tunnel("a.test:443").status, 200, "{answer}");
        assert_eq!(client.send("ping").bytes(4), b"ping", "{answer}");
    }
}

#[test]
fn what_a_proxy_says_no_with_is_said_and_nothing_of_its_page() {
    for (connect, error, words) in [
        (
            "HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=\"secret\"\r\nContent-Length: 6\r\n\r\nsecret",
            "upstream-proxy-authentication",
            "407",
        ),
        ("HTTP/1.1 503 Down\r\nContent-Length: 6\r\n\r\nsecret", "upstream-proxy-unavailable", "503"),
        ("HTTP/1.1 508 Loop Detected\r\nContent-Length: 6\r\n\r\nsecret", "upstream-proxy-loop", "comes back"),
        ("HTTP/1.0 403 Forbidden\r\n\r\nsecret", "upstream-proxy-status", "403"),
        ("HTTP/1.1 302 Found\r\nLocation: http://secret/\r\n\r\n", "upstream-proxy-status", "302"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "upstream-proxy-bad-answer", "protocol"),
        ("SSH-2.0-secret\r\n\r\n", "upstream-proxy-bad-answer", "protocol"),
        ("HTTP/1.1 200 OK\r\nX: \0\r\n\r\n", "upstream-proxy-bad-answer", "protocol"),
        ("HTTP/1.1 503 Down\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\nsecret", "upstream-proxy-bad-answer", "protocol"),
    ] {
        let upstream = Upstream::answering(connect.as_bytes(), b"");
        let proxy = Proxy::start(&through(&url("http", &upstream).replace("//", "//hunter:hunter2@"), &["a.test"]), &names());
        let answer = Client::connect(proxy.http()).tunnel("a.test:443");
        let status = if error == "upstream-proxy-loop" { 508 } else { 502 };
        assert_eq!((answer.status, answer.header("x-proxy-error")), (status, Some(error)), "{connect}");
        let said = answer.text();
        assert!(said.starts_with("a.test:443 is allowed, but ") && said.contains(words), "{said}");
        assert!(!said.contains("secret") && !said.contains("hunter"), "{said}");
        assert_eq!(Client::connect(proxy.socks5()).socks5_name("a.test", 443), Some(1), "{connect}");
    }
    // Nobody there, and somebody who hangs up.
    let gone = Refusing::new();
    let hangs_up = Origin::raw(drop);
    for (at, error) in [(gone.address(), "upstream-proxy-refused"), (hangs_up.address(), "upstream-proxy-closed")] {
        let proxy = Proxy::start(&through(&format!("http://{at}"), &["a.test"]), &names());
        let answer = Client::connect(proxy.http()).tunnel("a.test:443");
        assert_eq!((answer.status, answer.header("x-proxy-error")), (502, Some(error)));
    }
    let proxy = Proxy::start(&through("http://unknown.test:3128", &["a.test"]), &names());
    assert_eq!(get(proxy.http(), "http://a.test/").header("x-proxy-error"), Some("upstream-proxy-not-resolved"));
    let silent = Origin::raw(|mut stream| drop(std::io::copy(&mut stream, &mut std::io::sink())));
    let toml = through(&format!("http://{}", silent.address()), &["a.test"]);
    let proxy = Proxy::with_limits(&toml, &names(), &["connect_timeout=50ms"]);
    let answer = Client::connect(proxy.http()).tunnel("a.test:443");
    assert_eq!((answer.status, answer.header("x-proxy-error")), (504, Some("upstream-proxy-timeout")));
}

#[test]
fn a_proxys_answer_to_a_plain_request_is_passed_on_unless_it_is_about_us() {
    let upstream = Upstream::answering(b"", b"HTTP/1.1 503 Down\r\nContent-Length: 4\r\n\r\nbusy");
    let proxy = Proxy::start(&through(&url("http", &upstream), &["a.test"]), &names());
    let answer = get(proxy.http(), "http://a.test/");
    assert_eq!((answer.status, answer.text().as_str()), (503, "busy"));
    let upstream = Upstream::answering(b"", b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n");
    proxy.swap(&through(&url("http", &upstream), &["a.test"]));
    let answer = get(proxy.http(), "http://a.test/");
    assert_eq!((answer.status, answer.header("x-proxy-error")), (502, Some("upstream-proxy-authentication")));
    // Who is behind it has no say in what it is.
    let (hangs_up, other) = (Origin::raw(drop), Upstream::answering(b"", b"SSH-2.0-proxy\r\n\r\n"));
    for (at, error) in
        [(format!("http://{}", hangs_up.address()), "upstream-proxy-closed"), (url("http", &other), "upstream-proxy-bad-answer")]
    {
        proxy.swap(&through(&at, &["a.test"]));
        let answer = get(proxy.http(), "http://a.test/");
        assert_eq!((answer.status, answer.header("x-proxy-error")), (502, Some(error)));
    }
}

#[test]
fn a_socks5_proxy_is_asked_for_checked_addresses_and_a_socks5h_proxy_for_names() {
    let upstream = Upstream::socks5(Some(("user", "p@ss")), "refused", 5);
    let at = upstream.address();
    let names = Names::new(&[
        ("a.test", &["93.184.216.34"]),
        ("two.test", &["2606:4700::1", "93.184.216.34"]),
        ("mixed.test", &["93.184.216.34", "10.0.0.1"]),
    ]);
    let domains = ["a.test", "two.test", "mixed.test", "1.1.1.1", "missing.test", "refused.test"];
    let proxy = Proxy::start(&through(&format!("socks5://user:p%40ss@{at}"), &domains), &names);
    let tunnel = |authority: &str| Client::connect(proxy.http()).tunnel(authority);
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.tunnel("a.test:443").status, 200);
    assert_eq!(client.send("ping").bytes(4), b"ping");
    assert_eq!((tunnel("1.1.1.1:443").status, tunnel("two.test:443").status), (200, 200));
    assert_eq!(tunnel("mixed.test:443").header("x-proxy-error"), Some("blocked-by-allowlist"));
    assert_eq!(tunnel("missing.test:443").header("x-proxy-error"), Some("upstream-name-not-resolved"));
    assert_eq!(upstream.asked(), ["93.184.216.34 443", "1.1.1.1 443", "2606:4700::1 443"]);

    let before = names.asked().len();
    proxy.swap(&through(&format!("socks5h://user:p%40ss@{at}"), &domains));
    assert_eq!((tunnel("mixed.test:443").status, tunnel("1.1.1.1:443").status), (200, 200));
    assert_eq!(Client::connect(proxy.socks5()).socks5_name("a.test", 22), Some(0));
    let mut client = Client::connect(proxy.http());
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.bytes(5), b"HTTP/", "a plain request goes through the tunnel");
    assert_eq!(upstream.asked()[3..], ["mixed.test 443", "1.1.1.1 443", "a.test 22", "a.test 80"]);
    assert_eq!(names.asked().len(), before, "the proxy looks names up");
    assert_eq!(tunnel("refused.test:443").header("x-proxy-error"), Some("upstream-refused"));
    proxy.swap(&through(&format!("socks5h://user:wrong@{at}"), &domains));
    assert_eq!(tunnel("a.test:443").header("x-proxy-error"), Some("upstream-proxy-authentication"));
    proxy.swap(&through(&format!("socks5h://{at}"), &domains));
    assert_eq!(tunnel("a.test:443").header("x-proxy-error"), Some("upstream-proxy-authentication"));
}

#[test]
fn replies_of_a_socks5_proxy_are_told_apart() {
    for (reply, error, code) in [
        (1, "502 upstream-proxy-failed", 1),
        (2, "502 upstream-proxy-not-allowed", 1),
        (3, "502 upstream-unreachable", 3),
        (4, "502 upstream-unreachable", 4),
        (5, "502 upstream-refused", 5),
        (6, "504 upstream-connect-timeout", 6),
        (7, "502 upstream-proxy-failed", 1),
        (8, "502 upstream-proxy-failed", 1),
        (99, "502 upstream-proxy-failed", 1),
    ] {
        let upstream = Upstream::socks5(None, "a.test", reply);
        let proxy = Proxy::start(&through(&url("socks5h", &upstream), &["a.test"]), &names());
        let answer = Client::connect(proxy.http()).tunnel("a.test:443");
        assert_eq!(format!("{} {}", answer.status, answer.header("x-proxy-error").unwrap_or_default()), error, "{reply}");
        assert_eq!(Client::connect(proxy.socks5()).socks5_name("a.test", 443), Some(code), "{reply}");
    }
    // The next address is asked for where one cannot be reached.
    let names = Names::new(&[("two.test", &["2606:4700::1", "93.184.216.34"])]);
    for reply in [1, 3, 4, 5, 8] {
        let upstream = Upstream::socks5(None, ":", reply);
        let proxy = Proxy::start(&through(&url("socks5", &upstream), &["two.test"]), &names);
        assert_eq!(Client::connect(proxy.http()).tunnel("two.test:443").status, 200, "{reply}");
        assert_eq!(upstream.asked(), ["2606:4700::1 443", "93.184.216.34 443"]);
    }
}

#[test]
fn a_socks5_proxy_is_asked_for_as_many_addresses_as_the_limit_says_and_all_are_decided_on() {
    let upstream = Upstream::socks5(None, "93.184.216.3", 5);
    let names = Names::new(&[
        ("three.test", &["93.184.216.34", "93.184.216.35", "1.1.1.1"]),
        ("mixed.test", &["93.184.216.34", "1.1.1.1", "10.0.0.1"]),
        ("later.test", &["1.1.1.1", "93.184.216.35"]),
        ("proxy.test", &["127.1.0.1", "127.0.0.1"]),
    ]);
    let toml = through(&url("socks5", &upstream), &["three.test", "mixed.test", "later.test"]);
    let cases = [
        ("three.test", "addresses=2", "upstream-refused", &["93.184.216.34 443", "93.184.216.35 443"][..]),
        ("three.test", "addresses=3", "", &["93.184.216.34 443", "93.184.216.35 443", "1.1.1.1 443"]),
        ("mixed.test", "addresses=2", "blocked-by-allowlist", &[]),
    ];
    for (name, limit, expected, asked) in cases {
        let before = upstream.asked().len();
        let proxy = Proxy::with_limits(&toml, &names, &[limit]);
        let answer = Client::connect(proxy.http()).tunnel(&format!("{name}:443"));
        assert_eq!(answer.header("x-proxy-error").unwrap_or_default(), expected, "{name} {limit}");
        assert_eq!(upstream.asked()[before..], *asked, "{name} {limit}");
    }
    // All of them are decided on again under a new policy.
    let proxy = Proxy::with_limits(&toml, &names, &["addresses=1"]);
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.tunnel("later.test:443").status, 200);
    proxy.swap(&format!("{toml}\"93.184.216.35\" = \"deny\"\n"));
    assert_eq!(client.rest(), Vec::<u8>::new(), "closed by the proxy");
    // Nobody listens at the first address of the proxy.
    let toml = through(&format!("socks5h://proxy.test:{}", upstream.address().port()), &["three.test"]);
    for (limit, expected) in [("addresses=1", Some("upstream-proxy-refused")), ("addresses=2", None)] {
        let proxy = Proxy::with_limits(&toml, &names, &[limit]);
        assert_eq!(Client::connect(proxy.http()).tunnel("three.test:443").header("x-proxy-error"), expected, "{limit}");
    }
}

#[test]
fn addresses_that_a_socks5_proxy_is_asked_for_are_tried_as_without_one() {
    let ips = ["93.184.216.34", "93.184.216.35", "93.184.216.36"];
    let names = Names::new(&[("three.test", &ips)]);
    // What it says of each address; nothing, of some; and of how many it has been asked at least.
    let cases = [
        ([None, Some(0), None], "200 ", 1),
        ([None, None, Some(0)], "200 ", 1),
        ([Some(5), None, Some(0)], "200 ", 2),
        ([Some(6), Some(0), None], "200 ", 2),
        ([Some(6), Some(3), Some(1)], "504 upstream-connect-timeout", 3),
        ([Some(1), Some(3), Some(8)], "502 upstream-unreachable", 3),
        ([Some(4), Some(5), Some(6)], "502 upstream-refused", 3),
        ([Some(1), Some(7), Some(8)], "502 upstream-proxy-failed", 3),
        ([Some(2), Some(0), Some(0)], "502 upstream-proxy-not-allowed", 1),
        ([None, Some(2), Some(0)], "502 upstream-proxy-not-allowed", 1),
    ];
    let verdict = |upstream: &Upstream, limits: &[&str]| {
        let proxy = Proxy::with_limits(&through(&url("socks5", upstream), &["three.test"]), &names, limits);
        let answer = Client::connect(proxy.http()).tunnel("three.test:443");
        format!("{} {}", answer.status, answer.header("x-proxy-error").unwrap_or_default())
    };
    let replying = |replies: [Option<u8>; 3]| Upstream::replying(None, move |host| replies[ips.iter().position(|ip| *ip == host).unwrap()]);
    for (replies, expected, asked) in cases {
        let upstream = replying(replies);
        assert_eq!(verdict(&upstream, &[]), expected, "{replies:?}");
        let (seen, first) = (upstream.asked(), ips[..asked].iter().map(|ip| format!("{ip} 443")).collect::<Vec<_>>());
        assert!(seen.starts_with(&first), "{replies:?} {seen:?}");
    }
    // When time is over, what was told until then is what there is to say.
    for (replies, expected) in [
        ([None, None, None], "504 upstream-proxy-timeout"),
        ([Some(1), None, None], "504 upstream-proxy-timeout"),
        ([Some(3), None, None], "504 upstream-proxy-timeout"),
        ([Some(6), None, None], "504 upstream-connect-timeout"),
        ([Some(5), None, None], "502 upstream-refused"),
    ] {
        assert_eq!(verdict(&replying(replies), &["connect_timeout=3s"]), expected, "{replies:?}");
    }
    let upstream = Upstream::socks5(Some(("user", "pass")), "", 0);
    assert_eq!(verdict(&upstream, &[]), "502 upstream-proxy-authentication");
    assert_eq!(upstream.asked(), [""; 0]);
}

#[test]
fn the_policy_decides_before_a_proxy_hears_of_anything() {
    let upstream = Upstream::http();
    let settings = format!("upstream = \"{}\"", url("http", &upstream));
    let proxy = Proxy::start(&policy(&settings, &[("a.test", "allow"), ("evil.test", "deny"), ("198.51.100.0/24", "deny")]), &names());
    for url in ["http://b.test/", "http://evil.test/", "http://10.0.0.1/", "http://198.51.100.1/", "http://localhost/", "http://127.1/"] {
        assert_eq!(get(proxy.http(), url).status, 403, "{url}");
    }
    assert_eq!(Client::connect(proxy.http()).tunnel("secret.attacker.test:443").status, 403);
    assert_eq!(Client::connect(proxy.socks5()).socks5_name("secret.attacker.test", 443), Some(2));
    assert_eq!(upstream.connections(), 0);
    // A header names no proxy.
    let answer = Client::connect(proxy.http()).send("GET / HTTP/1.1\r\nHost: a.test\r\nProxy: http://127.0.0.1:1\r\n\r\n").answer();
    assert_eq!((answer.status, upstream.connections()), (299, 1));
}

#[test]
fn a_proxy_is_never_its_own_upstream() {
    let proxy = Proxy::start(&policy("", &[("a.test", "allow")]), &names());
    for at in [proxy.http(), proxy.socks5(), proxy.admin()] {
        for scheme in ["http", "socks5h"] {
            let toml = through(&format!("{scheme}://proxy.test:{}", at.port()), &["a.test"]);
            proxy.swap(&toml);
            let answer = get(proxy.http(), "http://a.test/");
            assert_eq!((answer.status, answer.blocked_reason().as_str()), (403, "policy_denied"), "{scheme} {at}");
            assert!(answer.text().contains("none of them can be its upstream proxy"), "{}", answer.text());
        }
    }
}

#[test]
fn a_proxy_on_this_machine_leads_nobody_to_our_own_listeners_by_a_name() {
    // Where it finds v4.test is not seen here: it may be this machine, and the admin API trusts who comes from there.
    let upstream = Upstream::http();
    let socks = Upstream::socks5(None, "refused", 5);
    let proxy = Proxy::start(&through(&url("http", &upstream), &["v4.test"]), &names());
    for toml in [through(&url("http", &upstream), &["v4.test"]), through(&url("socks5h", &socks), &["v4.test"])] {
        proxy.swap(&toml);
        for at in [proxy.http(), proxy.socks5(), proxy.admin()] {
            let answer = Client::connect(proxy.http()).tunnel(&format!("v4.test:{}", at.port()));
            assert_eq!((answer.status, answer.header("x-proxy-error")), (403, Some("blocked-by-policy")), "{toml} {at}");
            let answer = get(proxy.http(), &format!("http://v4.test:{}/v1/policy", at.port()));
            assert_eq!((answer.status, answer.blocked_reason().as_str()), (403, "policy_denied"), "{toml} {at}");
            assert_eq!(Client::connect(proxy.socks5()).socks5_name("v4.test", at.port()), Some(2), "{toml} {at}");
        }
    }
    assert_eq!((upstream.connections(), socks.connections()), (0, 0), "it is not even asked");
    proxy.swap(&through(&url("http", &upstream), &["v4.test"]));
    assert_eq!(Client::connect(proxy.http()).tunnel("v4.test:443").status, 200, "other ports are not ours");
}

#[test]
fn a_proxy_that_is_asked_for_a_tunnel_is_told_the_way_of_the_request() {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    for (via, came) in [("via = true", true), ("via = false", false)] {
        let upstream = Upstream::http();
        let toml = policy(&format!("upstream = \"{}\"\n{via}", url("http", &upstream)), &[("a.test", "allow")]);
        let proxy = Proxy::start(&toml, &names());
        let http = |request: String| assert_ne!(Client::connect(proxy.http()).send(request).answer_to("CONNECT").status, 508);
        http("CONNECT a.test:1 HTTP/1.1\r\nHost: a.test:1\r\nVia: 1.0 fred (x), 1.1 p\r\nX: 1\r\nvia: 1.1 q\r\n\r\n".to_owned());
        http("CONNECT a.test:2 HTTP/1.0\r\n\r\n".to_owned());
        http(format!("GET http://a.test:3/ HTTP/1.1\r\nHost: a.test:3\r\nVia: 1.1 p\r\n{upgrade}\r\n"));
        assert_eq!(Client::connect(proxy.socks5()).socks5_name("a.test", 4), Some(0));
        let said = |head: &String| -> Vec<String> {
            let lines = head.lines().filter(|line| line.to_ascii_lowercase().starts_with("via: "));
            lines.map(|line| line.split_once("netproxy-").map_or(line, |(before, _)| before).to_owned()).collect()
        };
        let with =
            |lines: &[&str], own: &str| -> Vec<String> { lines.iter().copied().chain(came.then_some(own)).map(str::to_owned).collect() };
        assert_eq!(
            upstream.heads().iter().map(said).collect::<Vec<_>>(),
            [
                with(&["Via: 1.0 fred (x), 1.1 p", "Via: 1.1 q"], "Via: 1.1 "),
                with(&[], "Via: 1.0 "),
                with(&["Via: 1.1 p"], "Via: 1.1 "),
                with(&[], "Via: 1.1 "),
            ],
            "{via}"
        );
    }
}

#[test]
fn proxies_whose_upstreams_are_each_other_see_that_a_request_comes_back() {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let [one, other] = [(); 2].map(|()| Proxy::start(&policy("", &[("a.test", "allow")]), &names()));
    for (proxy, next) in [(&one, &other), (&other, &one)] {
        proxy.swap(&through(&format!("http://{}", next.http()), &["a.test"]));
    }
    let connections = || [&one, &other].map(|proxy| proxy.metrics().get("netproxy_connections_total{listener=\"http\"}"));
    for request in [
        "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n".to_owned(),
        "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(),
        format!("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n{upgrade}\r\n"),
    ] {
        let before = connections();
        assert_eq!(Client::connect(one.http()).send(&request).answer().status, 508, "{request}");
        let after = connections();
        let made = [after[0] - before[0], after[1] - before[1]];
        assert!(made[0] <= 2 && made[1] <= 1, "there and back, once: {made:?}, {request}");
    }
    assert_eq!(Client::connect(one.socks5()).socks5_name("a.test", 443), Some(1));
}

#[test]
fn tunnels_through_a_proxy_are_decided_on_again_by_name() {
    let upstream = Upstream::http();
    let toml = |names: &[&str]| through(&url("http", &upstream), names);
    let proxy = Proxy::start(&toml(&["a.test", "b.test"]), &names());
    let open = |name: &str| {
        let mut client = Client::connect(proxy.http());
        assert_eq!(client.tunnel(&format!("{name}:443")).status, 200);
        assert_eq!(client.bytes(6), b"early ");
        client
    };
    let (mut a, mut b) = (open("a.test"), open("b.test"));
    proxy.swap(&toml(&["a.test"]));
    assert_eq!(b.rest(), Vec::<u8>::new(), "closed by the proxy");
    assert_eq!(a.send("still").bytes(5), b"still", "the address of the proxy does not count");
}

#[test]
fn the_environment_names_proxies_where_the_policy_allows_it_and_names_none() {
    let (http, https, policys) = (Upstream::http(), Upstream::http(), Upstream::http());
    let origin = Origin::start();
    let variables = [
        ("HTTP_PROXY", &*url("http", &http)),
        ("https_proxy", &*url("http", &https)),
        ("NO_PROXY", "direct.test, .corp.test, 127.0.0.0/8"),
    ];
    let local = "allow_local_binding = true";
    let domains = [("a.test", "allow"), ("direct.test", "allow"), ("b.corp.test", "allow"), ("127.0.0.1", "allow")];
    let names = Names::new(&[("direct.test", &["127.0.0.1"]), ("b.corp.test", &["127.0.0.1"])]);
    let proxy = Proxy::with_environment(&policy(local, &domains), &names, &variables);
    let text = |url: &str| get(proxy.http(), url).text();
    assert_eq!(text("http://a.test/"), "upstream");
    assert_eq!(Client::connect(proxy.http()).tunnel("a.test:443").status, 200);
    for host in ["direct.test", "b.corp.test", "127.0.0.1"] {
        assert_eq!(text(&format!("http://{host}:{}/", origin.port())), "origin", "{host}");
    }
    assert_eq!((http.asked().len(), https.asked().len()), (1, 1));
    proxy.swap(&policy(&format!("{local}\nupstream = \"{}\"", url("http", &policys)), &domains));
    assert_eq!(text("http://direct.test/"), "upstream", "NO_PROXY is for the proxies of the environment");
    assert_eq!((http.asked().len(), policys.asked().len()), (1, 1));
    proxy.swap(&policy(&format!("{local}\nallow_upstream_proxy = false"), &domains));
    assert_eq!(get(proxy.http(), "http://a.test/").header("x-proxy-error"), Some("upstream-name-not-resolved"), "directly");
}

#[test]
fn an_environment_that_cannot_be_read_is_exit_2_and_shows_no_password() {
    for value in ["gopher://u:hunter2@proxy.test:1", "http://u:hunter2@proxy.test:port", "http://u%zz:hunter2@proxy.test"] {
        let mut command = Command::new(binaries::path("netproxy-dp"));
        let output = binaries::without_proxies(&mut command).args(binaries::FREE_PORTS).env("all_proxy", value).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.starts_with("error: the environment variable `all_proxy` is not the URL of a proxy: "), "{said}");
        assert!(!said.contains("hunter2") && output.stdout.is_empty(), "{said}");
    }
}

/// An authority, and a certificate of it for `localhost` and `127.0.0.1`, all as PEM.
struct Authority {
    root: String,
    certificate: String,
    key: String,
    config: Arc<rustls::ServerConfig>,
}

fn authority() -> Authority {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let der = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], der).unwrap();
    Authority { root, certificate: certificate.pem(), key: key.serialize_pem(), config: Arc::new(config) }
}

#[test]
fn a_proxy_behind_tls_has_to_show_a_certificate_that_the_system_trusts() {
    let dir = tempfile::tempdir().unwrap();
    let Authority { root, config, .. } = authority();
    let (roots, others) = (dir.path().join("roots.pem"), dir.path().join("others.pem"));
    std::fs::write(&roots, root).unwrap();
    std::fs::write(&others, authority().root).unwrap();
    let upstream = Upstream::https(config);
    let port = upstream.address().port();
    let file = dir.path().join("policy.bin");
    binaries::compile_to(&policy("", &[("a.test", "allow")]), &file);
    let start = |host: &str, roots: &std::path::Path| {
        let variables = [("ALL_PROXY", &*format!("https://u:p@{host}:{port}")), ("SSL_CERT_FILE", roots.to_str().unwrap())];
        DataPlane::start_in(&["--policy", file.to_str().unwrap()], &variables)
    };
    for host in ["localhost", "127.0.0.1"] {
        let proxy = start(host, &roots);
        let mut client = Client::connect(proxy.http());
        assert_eq!(client.tunnel("a.test:443").status, 200);
        assert_eq!(client.send("ping").bytes(10), b"early ping");
        assert_eq!(get(proxy.http(), "http://a.test/").text(), "upstream");
    }
    let seen = upstream.asked();
    assert_eq!(seen[0], "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nProxy-Authorization: Basic dTpw\r\n\r\n");
    assert!(seen[1].starts_with("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n"), "{seen:?}");
    // Another authority, another name, and no TLS at all.
    let plain = Origin::raw(|mut stream| drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")));
    let proxy = start("localhost", &others);
    assert_eq!(Client::connect(proxy.http()).tunnel("a.test:443").header("x-proxy-error"), Some("upstream-proxy-tls"));
    let proxy = start("[::1]", &roots);
    assert_eq!(Client::connect(proxy.http()).tunnel("a.test:443").header("x-proxy-error"), Some("upstream-proxy-tls"));
    let variables = [("ALL_PROXY", &*format!("https://{}", plain.address())), ("SSL_CERT_FILE", roots.to_str().unwrap())];
    let proxy = DataPlane::start_in(&["--policy", file.to_str().unwrap()], &variables);
    assert_eq!(Client::connect(proxy.http()).tunnel("a.test:443").header("x-proxy-error"), Some("upstream-proxy-tls"));
    assert_eq!(upstream.asked().len(), 4);
}

/// A proxy of the system's packages; ended, with what it started, when it is dropped.
struct Daemon {
    child: Child,
    at: SocketAddr,
}

impl Daemon {
    fn start(mut command: Command, at: SocketAddr) -> Self {
        let child =
            binaries::without_proxies(&mut command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut daemon = Self { child, at };
        harness::wait_until("the upstream proxy listens", || {
            assert!(daemon.child.try_wait().unwrap().is_none(), "{command:?} ended");
            TcpStream::connect(at).is_ok()
        });
        daemon
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Asked, not killed: some have children that they end themselves.
        let _ = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child.id())]).status();
        let _ = self.child.wait();
    }
}

/// An address that nobody listens on. Somebody may take it before the daemon does: then that does not start, and says so.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The program of a package, and a folder that its unprivileged user can use too; `None`, with a word, where the package is missing.
fn package(program: &str) -> Option<(PathBuf, tempfile::TempDir)> {
    let found = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists());
    let Some(found) = found else {
        eprintln!("skipped: {program} is not installed");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    Some((found, dir))
}

/// A name of this machine that an upstream's own resolver knows; `None`, with a word, where there is none.
fn machine() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let known = (name.as_str(), 0).to_socket_addrs().is_ok_and(|mut found| found.any(|address| address.ip().to_string() == "127.0.0.1"));
    if !known {
        eprintln!("skipped: this machine's name does not lead to 127.0.0.1");
    }
    known.then_some(name)
}

/// Requests, tunnels and SOCKS5 clients go through; what cannot be reached there is said, and so are wrong credentials.
fn works_through(machine: &str, right: &str, wrong: Option<&str>, unreachable: &str) {
    let (origin, echo) = (Origin::start(), Origin::echo());
    let names = Names::new(&[(machine, &["127.0.0.1"])]);
    let toml = |url: &str| policy(&format!("allow_local_binding = true\nupstream = \"{url}\""), &[(machine, "allow")]);
    let proxy = Proxy::start(&toml(right), &names);
    let mut client = Client::connect(proxy.http());
    for _ in 0..2 {
        let answer = client.send(format!("GET / HTTP/1.1\r\nHost: {machine}:{}\r\n\r\n", origin.port())).answer();
        assert_eq!((answer.status, answer.text().as_str()), (299, "origin"), "{right}: {answer:?}");
    }
    assert!(origin.requests().iter().all(|seen| seen.headers.iter().all(|(name, _)| !name.starts_with("proxy-"))));
    let mut client = Client::connect(proxy.http());
    let answer = client.tunnel(&format!("{machine}:{}", echo.port()));
    assert_eq!(answer.status, 200, "{right}: {answer:?} {}", answer.text());
    assert_eq!(client.send("ping").bytes(4), b"ping");
    client.finish();
    assert_eq!(client.rest(), Vec::<u8>::new(), "the end goes through, and comes back");
    let mut client = Client::connect(proxy.socks5());
    assert_eq!(client.socks5_name(machine, echo.port()), Some(0));
    assert_eq!(client.send("ping").bytes(4), b"ping");
    let answer = Client::connect(proxy.http()).tunnel(&format!("{machine}:{}", free().port()));
    assert_eq!((answer.status, answer.header("x-proxy-error")), (502, Some(unreachable)), "{right}: {}", answer.text());
    assert_eq!(names.asked().is_empty(), !right.starts_with("socks5:"), "{right}");
    if let Some(wrong) = wrong {
        proxy.swap(&toml(wrong));
        let answer = Client::connect(proxy.http()).tunnel(&format!("{machine}:{}", echo.port()));
        assert_eq!((answer.status, answer.header("x-proxy-error")), (502, Some("upstream-proxy-authentication")), "{wrong}");
        assert!(!answer.text().contains("wrong"), "{}", answer.text());
    }
}

#[test]
fn through_squid_also_with_tls_to_it() {
    let (Some((squid, dir)), Some(machine)) = (package("squid"), machine()) else { return };
    let (at, tls) = (free(), free());
    let Authority { root, certificate, key, .. } = authority();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // `secret`, as crypt(3) with MD5 writes it.
    let hash = Command::new("openssl").args(["passwd", "-1", "-salt", "saltsalt", "secret"]).output().unwrap();
    let users = file("users", &format!("user:{}", String::from_utf8(hash.stdout).unwrap()));
    let (certificate, key, root) = (file("cert.pem", &certificate), file("key.pem", &key), file("root.pem", &root));
    let log = dir.path().join("cache.log");
    let config = file(
        "squid.conf",
        &format!(
            "http_port {at}\nhttps_port {tls} tls-cert={certificate} tls-key={key}\nvisible_hostname squid.test\npid_filename none\ncache deny all\naccess_log none\n\
             cache_log {}\ncoredump_dir {}\nshutdown_lifetime 0 seconds\nauth_param basic program /usr/lib/squid/basic_ncsa_auth {users}\n\
             acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\n",
            log.display(),
            dir.path().display()
        ),
    );
    let mut command = Command::new(squid);
    command.args(["-N", "-f", &config]);
    let squid = Daemon::start(command, at);
    works_through(
        &machine,
        &format!("http://user:secret@{at}"),
        Some(&format!("http://user:wrong@{}", squid.at)),
        "upstream-proxy-unavailable",
    );

    let policy_file = dir.path().join("policy.bin");
    binaries::compile_to(&policy("", &[(machine.as_str(), "allow")]), &policy_file);
    let variables = [("ALL_PROXY", &*format!("https://user:secret@{tls}")), ("SSL_CERT_FILE", &*root)];
    let proxy = DataPlane::start_in(&["--policy", policy_file.to_str().unwrap()], &variables);
    let (origin, echo) = (Origin::start(), Origin::echo());
    assert_eq!(get(proxy.http(), &format!("http://{machine}:{}/", origin.port())).text(), "origin");
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.tunnel(&format!("{machine}:{}", echo.port())).status, 200);
    assert_eq!(client.send("ping").bytes(4), b"ping");
}

#[test]
fn through_tinyproxy() {
    let (Some((tinyproxy, dir)), Some(machine)) = (package("tinyproxy"), machine()) else { return };
    let at = free();
    let config = dir.path().join("tinyproxy.conf");
    let text = format!("Port {}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\nBasicAuth user secret\nLogLevel Critical\n", at.port());
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(tinyproxy);
    command.arg("-d").arg("-c").arg(config);
    let _tinyproxy = Daemon::start(command, at);
    works_through(&machine, &format!("http://user:secret@{at}"), Some(&format!("http://user:wrong@{at}")), "upstream-proxy-status");
}

#[test]
fn through_dante() {
    let (Some((danted, dir)), Some(machine)) = (package("danted"), machine()) else { return };
    let at = free();
    let config = dir.path().join("danted.conf");
    let text = format!(
        "logoutput: {}\ninternal: 127.0.0.1 port = {}\nexternal: 127.0.0.1\nclientmethod: none\nsocksmethod: none\n\
         client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}\nsocks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}\n",
        dir.path().join("log").display(),
        at.port()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(danted);
    command.arg("-f").arg(config).arg("-p").arg(dir.path().join("pid"));
    let danted = Daemon::start(command, at);
    for scheme in ["socks5", "socks5h"] {
        works_through(&machine, &format!("{scheme}://{at}"), None, "upstream-refused");
        datagrams_go_through(&machine, &format!("{scheme}://{at}"));
    }

    // With all that the process gives up once it listens.
    let policy_file = dir.path().join("policy.bin");
    binaries::compile_to(&policy("enable_socks5_udp = true", &[(machine.as_str(), "allow")]), &policy_file);
    let proxy = DataPlane::start_in(&["--policy", policy_file.to_str().unwrap()], &[("ALL_PROXY", &*format!("socks5h://{at}"))]);
    let (echo, association) = (Echo::start(), Association::open(proxy.socks5().unwrap()));
    assert!(association.echo(&machine, echo.port(), "ping"));
    drop(danted);
    let association = Association::open(proxy.socks5().unwrap());
    association.send(&machine, echo.port(), "pong");
    let dropped = || proxy.metrics().get("netproxy_datagrams_dropped_total{reason=\"not_sent\"}");
    harness::wait_until("it is dropped, and not sent around the proxy", || dropped() == 1);
}

/// Datagrams go there and come back, to a name and to an address.
fn datagrams_go_through(machine: &str, url: &str) {
    let echo = Echo::start();
    let names = Names::new(&[(machine, &["127.0.0.1"])]);
    // An address of this machine goes through a proxy only where a rule says so.
    let upstream = format!("upstream = {{ url = \"{url}\", rules = [{{ hosts = [\"127.0.0.0/8\"], url = \"{url}\" }}] }}");
    let settings = format!("allow_local_binding = true\nenable_socks5_udp = true\n{upstream}");
    let proxy = Proxy::start(&policy(&settings, &[(machine, "allow"), ("127.0.0.1", "allow")]), &names);
    let association = Association::open(proxy.socks5());
    let mut outside = Vec::new();
    for host in [machine, "127.0.0.1", machine] {
        assert_eq!(association.send(host, echo.port(), host).receive(), (echo.address(), host.as_bytes().to_vec()), "{url}");
        outside.push(echo.received().0);
    }
    outside.dedup();
    assert_eq!(outside.len(), 1, "all from one relay");
    assert_eq!((proxy.dropped(), names.asked().is_empty()), (Vec::new(), url.starts_with("socks5h:")));
}

#[test]
fn through_microsocks() {
    let (Some((microsocks, _dir)), Some(machine)) = (package("microsocks"), machine()) else { return };
    let at = free();
    let mut command = Command::new(microsocks);
    command.args(["-i", "127.0.0.1", "-p", &at.port().to_string(), "-u", "user", "-P", "secret"]);
    let _microsocks = Daemon::start(command, at);
    for scheme in ["socks5", "socks5h"] {
        works_through(&machine, &format!("{scheme}://user:secret@{at}"), Some(&format!("{scheme}://user:wrong@{at}")), "upstream-refused");
    }
}
