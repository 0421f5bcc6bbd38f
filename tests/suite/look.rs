//! The first look into tunnels: a client may speak only to servers that the policy allows, whichever it opened the tunnel for.

use harness::client::get;
use harness::tls::{Authority, Front, trusting};
use harness::upstream::Upstream;
use harness::{Client, Names, Origin, PATIENCE, Proxy, policy, wait_until};
use netproxy::Ending;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

const LOCAL: &str = "allow_local_binding = true";

/// A proxy for tunnels to `a.test` and `b.test`.
fn proxy(settings: &str) -> Proxy {
    let domains = [("a.test", "allow"), ("b.test", "allow"), ("evil.test", "deny")];
    let names = Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])]);
    Proxy::start(&policy(&format!("{LOCAL}\n{settings}"), &domains), &names)
}

/// Sends back what comes, and tells of all of it once the connection has ended.
fn listener() -> (Origin, Receiver<Vec<u8>>) {
    let (heard, hear) = channel();
    let origin = Origin::raw(move |mut stream| {
        let (mut all, mut piece) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = stream.read(&mut piece) {
            all.extend_from_slice(&piece[..read]);
            let _ = stream.write_all(&piece[..read]);
        }
        // A test that has ended listens no more.
        let _ = heard.send(all);
    });
    (origin, hear)
}

/// A ClientHello for a name. One for an address names no server.
pub(crate) fn hello(name: &'static str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from(name).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// A tunnel to `a.test`, by CONNECT or by SOCKS5.
fn open(proxy: &Proxy, by_socks5: bool, port: u16) -> Client {
    let mut client = Client::connect(if by_socks5 { proxy.socks5() } else { proxy.http() });
    if by_socks5 {
        assert_eq!(client.socks5_name("a.test", port), Some(0));
    } else {
        assert_eq!(client.tunnel(&format!("a.test:{port}")).status, 200);
    }
    client
}

/// Sends pieces into tunnels of both kinds: all of it arrives as it is, or nothing does and the tunnel ends.
fn check(proxy: &Proxy, what: &str, pieces: &[&[u8]], passes: bool) {
    let all = pieces.concat();
    for by_socks5 in [false, true] {
        let what = format!("{what}, {}", if by_socks5 { "by SOCKS5" } else { "by CONNECT" });
        let (origin, hear) = listener();
        let mut client = open(proxy, by_socks5, origin.port());
        for piece in pieces {
            client.send(piece);
        }
        if passes {
            assert!(client.bytes(all.len()) == all, "{what}: sent back as it came");
            client.finish();
        }
        assert_eq!(client.rest(), Vec::<u8>::new(), "{what}: the tunnel ends");
        let heard = hear.recv_timeout(PATIENCE).unwrap();
        assert!(heard == if passes { all.clone() } else { Vec::new() }, "{what}: {} of {} bytes arrived", heard.len(), all.len());
    }
}

#[test]
fn a_hello_goes_on_if_the_policy_allows_its_server() {
    // What it names, and whether it passes by `enforce`, which is the default.
    let cases = [("a.test", true), ("b.test", true), ("127.0.0.1", true), ("c.test", false), ("evil.test", false), ("sub.a.test", false)];
    for settings in ["", "sni = \"enforce\"", "sni = \"log\"", "sni = \"off\""] {
        let proxy = proxy(settings);
        for (name, allowed) in cases {
            let passes = allowed || settings.contains("log") || settings.contains("off");
            check(&proxy, &format!("{name} with {settings:?}"), &[&hello(name)], passes);
        }
    }
}

#[test]
fn a_hello_is_read_however_it_is_cut() {
    let proxy = proxy("");
    for (name, passes) in [("a.test", true), ("c.test", false)] {
        let hello = hello(name);
        for size in [1, 3, 5, 50, hello.len() / 2 + 1, hello.len() - 1] {
            let pieces: Vec<&[u8]> = hello.chunks(size).collect();
            check(&proxy, &format!("{name} in pieces of {size}"), &pieces, passes);
        }
    }
}

#[test]
fn a_hello_that_comes_with_the_request_is_looked_at_too() {
    let proxy = proxy("");
    for (name, passes) in [("a.test", true), ("c.test", false)] {
        let (origin, hear) = listener();
        let (authority, hello) = (format!("a.test:{}", origin.port()), hello(name));
        let mut client = Client::connect(proxy.http());
        client.send([format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n").as_bytes(), &hello].concat());
        assert_eq!(client.answer_to("CONNECT").status, 200);
        if passes {
            assert!(client.bytes(hello.len()) == hello, "{name}");
            client.finish();
        }
        assert_eq!(client.rest(), Vec::<u8>::new(), "{name}");
        assert!(hear.recv_timeout(PATIENCE).unwrap() == if passes { hello } else { Vec::new() }, "{name}");
    }
}

/// Servers skip some of them, and take the hello that follows.
#[test]
fn no_other_record_comes_before_a_hello() {
    let cases: [(&str, &[u8]); 6] = [
        ("an empty change of ciphers", &[0x14, 3, 3, 0, 0]),
        ("a change of ciphers", &[0x14, 3, 3, 0, 1, 1]),
        ("an alert", &[0x15, 3, 3, 0, 2, 1, 0]),
        ("an empty alert", &[0x15, 3, 3, 0, 0]),
        ("data", &[0x17, 3, 3, 0, 1, 0]),
        ("a heartbeat", &[0x18, 3, 3, 0, 3, 1, 0, 0]),
    ];
    let (enforcing, logging) = (proxy(""), proxy("sni = \"log\""));
    for (what, record) in cases {
        for name in ["a.test", "c.test"] {
            check(&enforcing, &format!("{what} before {name}"), &[record, &hello(name)], false);
            check(&enforcing, &format!("{what} right before {name}"), &[&[record, &hello(name)].concat()], false);
        }
        check(&logging, &format!("{what}, logged"), &[record, &hello("c.test")], true);
    }
}

/// A hello with one more extension.
fn extended(mut hello: Vec<u8>, kind: u16, data: &[u8]) -> Vec<u8> {
    // The version, random bytes, and three vectors come before the extensions.
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    at += 1 + usize::from(hello[at]);
    let extension = [&kind.to_be_bytes()[..], &u16::try_from(data.len()).unwrap().to_be_bytes(), data].concat();
    // Of the record, of the message, and of the extensions.
    for len in [3, 7, at] {
        let sum = u16::from_be_bytes([hello[len], hello[len + 1]]) + u16::try_from(extension.len()).unwrap();
        hello[len..len + 2].copy_from_slice(&sum.to_be_bytes());
    }
    hello.extend_from_slice(&extension);
    hello
}

/// What comes first, between and then; whether that goes on by `enforce`, which is the default. What does not is told of by `log`.
type Second<'c> = (&'c str, &'c [u8], &'c [&'c [u8]], Vec<u8>, bool);

/// A server of TLS 1.3 may ask for another hello, and goes by the name in that one.
#[test]
fn a_second_hello_goes_on_if_the_policy_allows_its_server() {
    const CHANGE: &[u8] = &[20, 3, 3, 0, 1, 1];
    const ALERT: &[u8] = &[21, 3, 3, 0, 2, 1, 90];
    const DATA: &[u8] = &[23, 3, 3, 0, 4, 9, 9, 9, 9];
    const EARLY_DATA: u16 = 42;
    let (first, early) = (hello("a.test"), extended(hello("a.test"), EARLY_DATA, &[]));
    let later = [DATA, &hello("evil.test")].concat();
    let unreadable = [22, 3, 3, 0, 4, 1, 0, 0, 0];
    let in_two = |name| {
        let hello = hello(name);
        [&[22, 3, 3, 0, 1, 1, 22, 3, 3][..], &u16::try_from(hello.len() - 6).unwrap().to_be_bytes(), &hello[6..]].concat()
    };
    let cases: [Second<'_>; 14] = [
        ("the same server", &first, &[], hello("a.test"), true),
        ("the same server, behind a change of ciphers", &first, &[CHANGE], hello("a.test"), true),
        ("another that is allowed", &first, &[CHANGE], hello("b.test"), true),
        ("none", &first, &[CHANGE], hello("127.0.0.1"), true),
        ("one that is denied", &first, &[], hello("evil.test"), false),
        ("one that is denied, behind a change of ciphers", &first, &[CHANGE], hello("evil.test"), false),
        ("one that is not allowed", &first, &[CHANGE, CHANGE, ALERT], hello("c.test"), false),
        ("one that is denied, in two records", &first, &[CHANGE], in_two("evil.test"), false),
        ("one that is denied, with early data", &early, &[CHANGE, DATA, DATA], hello("evil.test"), false),
        ("the same server, with early data", &early, &[CHANGE, DATA, DATA], hello("a.test"), true),
        ("what cannot be read", &first, &[CHANGE], unreadable.to_vec(), false),
        ("one that is denied, where no server takes a hello", &first, &[CHANGE, DATA], hello("evil.test"), true),
        ("what TLS 1.2 goes on with", &first, &[], [&[22, 3, 3, 0, 4, 16, 0, 0, 0][..], &hello("evil.test")].concat(), true),
        ("what is not TLS", &first, &[], b"\0\x01".to_vec(), true),
    ];
    for settings in ["", "sni = \"log\"", "sni = \"off\""] {
        let proxy = proxy(settings);
        let mut looked = 0;
        for (what, first, between, second, allowed) in &cases {
            for (by_socks5, size) in [(false, second.len()), (true, second.len()), (false, 1)] {
                let passes = *allowed || !settings.is_empty();
                let (origin, hear) = listener();
                let mut client = open(&proxy, by_socks5, origin.port());
                for said in [&[*first], *between].concat() {
                    client.send(said);
                    assert!(client.bytes(said.len()) == said, "{what} with {settings:?}: what comes before goes on at once");
                }
                for piece in second.chunks(size) {
                    client.send(piece);
                }
                let mut expected = [&[*first], *between].concat().concat();
                if passes {
                    assert!(client.bytes(second.len()) == *second, "{what} with {settings:?}");
                    // It is a tunnel like any other from here on.
                    client.send(&later).finish();
                    assert!(client.bytes(later.len()) == later, "{what} with {settings:?}");
                    expected.extend_from_slice(second);
                    expected.extend_from_slice(&later);
                }
                assert_eq!(client.rest(), Vec::<u8>::new(), "{what} with {settings:?}");
                assert!(hear.recv_timeout(PATIENCE).unwrap() == expected, "{what} with {settings:?}");
                looked += u64::from(!allowed);
            }
        }
        let counted = |outcome: &str| proxy.metrics().get(&format!("netproxy_tunnels_looked_total{{outcome=\"{outcome}\"}}"));
        let expected = match settings {
            "" => (looked, 0),
            "sni = \"log\"" => (0, looked),
            _ => (0, 0),
        };
        assert_eq!((counted("closed"), counted("passed")), expected, "{settings:?}");
    }
}

#[test]
fn a_tunnel_that_goes_on_by_log_is_told_of_once_for_a_name() {
    let proxy = proxy("sni = \"log\"");
    let (origin, _hear) = listener();
    for (second, times) in [("c.test", 1), ("evil.test", 3)] {
        let mut client = open(&proxy, false, origin.port());
        for name in ["c.test", second] {
            let hello = hello(name);
            assert!(client.send(&hello).bytes(hello.len()) == hello);
        }
        assert_eq!(proxy.metrics().get("netproxy_tunnels_looked_total{outcome=\"passed\"}"), times, "{second}");
    }
}

#[test]
fn a_tunnel_waits_for_what_follows_a_hello_and_not_for_the_rest_of_it() {
    let toml = policy(LOCAL, &[("a.test", "allow")]);
    let proxy = Proxy::with_limits(&toml, &Names::new(&[("a.test", &["127.0.0.1"])]), &["look_timeout=10ms", "look_bytes=512"]);
    let (origin, _hear) = listener();
    let hello = hello("a.test");
    let begin = || {
        let mut client = open(&proxy, false, origin.port());
        assert!(client.send(&hello).bytes(hello.len()) == hello);
        client
    };
    let mut idle = begin();
    for (said, times) in [(&hello[..50], 1), (&hello[..5], 2)] {
        assert_eq!(begin().send(said).rest(), Vec::<u8>::new());
        assert_eq!(proxy.metrics().limited("look_timeout"), times);
    }
    // More of one than is looked at.
    let long = [&[22, 3, 3, 2, 200, 1, 0, 2, 196][..], &[3; 503]].concat();
    assert_eq!(begin().send(long).rest(), Vec::<u8>::new());
    assert_eq!(proxy.metrics().limited("look_bytes"), 1);
    // All that time, nothing came here.
    assert!(idle.send(&hello).bytes(hello.len()) == hello);
}

/// With a second hello, for another key; by TLS 1.2, whose second flight is in the clear, or, where a session is resumed, encrypted.
#[test]
fn handshakes_of_every_kind_come_to_an_end() {
    use rustls::HandshakeKind::{Full, FullWithHelloRetryRequest, Resumed};
    use rustls::crypto::ring::{default_provider, kx_group};
    let (authority, proxy) = (Authority::new(), proxy(""));
    let sent: Vec<u8> = (0..=255).cycle().take(32 * 1024).collect();
    for (version, group, kinds) in [
        (&rustls::version::TLS13, kx_group::SECP256R1, [FullWithHelloRetryRequest, Resumed]),
        (&rustls::version::TLS13, kx_group::X25519, [Full, Resumed]),
        (&rustls::version::TLS12, kx_group::X25519, [Full, Resumed]),
    ] {
        let provider = Arc::new(rustls::crypto::CryptoProvider { kx_groups: vec![group], ..default_provider() });
        let (certificate, key) = authority.certificate(&["a.test"]);
        let config = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        let origin = Origin::echo();
        let front = Front::of(&origin, config);
        let trust = trusting(&authority.pem, &[]);
        for kind in kinds {
            let mut stream = open(&proxy, false, front.port()).into_stream();
            let mut session = rustls::ClientConnection::new(Arc::clone(&trust), "a.test".try_into().unwrap()).unwrap();
            let mut secured = rustls::Stream::new(&mut session, &mut stream);
            let mut back = vec![0; sent.len()];
            secured.write_all(&sent).and_then(|()| secured.read_exact(&mut back)).unwrap();
            assert!(back == sent, "{version:?}");
            assert_eq!(session.handshake_kind(), Some(kind), "{version:?}");
        }
    }
}

#[test]
fn a_server_that_speaks_first_is_heard_before_its_client_speaks() {
    const BANNER: &[u8] = b"220 mail.test ready\r\n";
    let origin = Origin::raw(|mut stream| {
        let mut copy = stream.try_clone().unwrap();
        let _ = copy.write_all(BANNER);
        let _ = std::io::copy(&mut stream, &mut copy);
    });
    let proxy = proxy("");
    for by_socks5 in [false, true] {
        for (said, passes) in [(b"EHLO a.test\r\n".to_vec(), true), (hello("a.test"), true), (hello("c.test"), false)] {
            let mut client = open(&proxy, by_socks5, origin.port());
            assert_eq!(client.bytes(BANNER.len()), BANNER);
            client.send(&said);
            if passes {
                assert!(client.bytes(said.len()) == said);
            } else {
                assert_eq!(client.rest(), Vec::<u8>::new());
            }
        }
    }
}

#[test]
fn what_is_not_tls_passes() {
    let proxy = proxy("");
    for said in ["SSH-2.0-OpenSSH_9.9\r\n", "\0\u{1}", "{\"id\": 1}\n", "GET / HTTP/1.1\r\nHost: c.test\r\n\r\n"] {
        check(&proxy, &format!("{said:?}"), &[said.as_bytes()], true);
    }
}

#[test]
fn in_a_tunnel_to_port_80_nothing_is_opened_but_what_is_asked_of_servers() {
    let (web, hear) = web();
    let proxy = proxy(&format!("upstream = \"http://127.0.0.1:{}\"\nunix_sockets = {{ \"/run/a.sock\" = \"allow\" }}", web.port()));
    for by_socks5 in [false, true] {
        for (asked, says) in [
            ("CONNECT b.test:443 HTTP/1.1\r\nHost: b.test:443\r\n\r\n", "CONNECT inside a tunnel"),
            ("GET / HTTP/1.1\r\nHost: a.test\r\nX-Unix-Socket: /run/a.sock\r\n\r\n", "x-unix-socket inside a tunnel"),
        ] {
            for first in [true, false] {
                let mut client = open(&proxy, by_socks5, 80);
                if !first {
                    assert_eq!(client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").answer().status, 299);
                }
                let answer = client.send(asked).answer();
                assert_eq!((answer.status, answer.text()), (400, format!("bad request: {says}\n")));
                assert_eq!(client.rest(), Vec::<u8>::new());
            }
        }
    }
    let came: Vec<String> = hear.try_iter().collect();
    assert!(came.iter().all(|head| head.starts_with("CONNECT a.test:80 ") || head == "GET / HTTP/1.1; Host: a.test"), "{came:?}");
}

#[test]
fn in_a_tunnel_to_port_80_who_asks_may_have_nothing_more_to_say() {
    let (answers, may) = channel::<()>();
    let may = std::sync::Mutex::new(may);
    // Its answer comes once the client has ended its way.
    let web = Origin::raw(move |mut stream| {
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stream.try_clone().unwrap()));
        let mut head = || lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).count();
        assert!(head() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        if head() > 0 && may.lock().unwrap().recv().is_ok() {
            let _ = stream.write_all(b"HTTP/1.1 299 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let proxy = proxy(&format!("upstream = \"http://127.0.0.1:{}\"", web.port()));
    for by_socks5 in [false, true] {
        let mut client = open(&proxy, by_socks5, 80);
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").finish();
        // Its end came before these requests, and was seen before them.
        for _ in 0..2 {
            assert_eq!(get(proxy.http(), "http://blocked.test/").status, 403);
        }
        answers.send(()).unwrap();
        assert_eq!(client.answer().status, 299);
        assert_eq!(client.rest(), Vec::<u8>::new());
    }
}

#[test]
fn a_request_for_whom_its_tunnel_leads_to_goes_the_tunnels_way() {
    let (tunnels, requests) = (web(), web());
    let at = |web: &Origin| format!("http://127.0.0.1:{}", web.port());
    let variables = [("HTTPS_PROXY", &*at(&tunnels.0)), ("HTTP_PROXY", &*at(&requests.0))];
    let names = Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])]);
    let settings = format!("{LOCAL}\nallow_upstream_proxy = true");
    let proxy = Proxy::with_environment(&policy(&settings, &[("a.test", "allow"), ("b.test", "allow")]), &names, &variables);
    let mut client = open(&proxy, false, 80);
    for host in ["a.test", "b.test", "a.test:80"] {
        assert_eq!(client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).answer().status, 299);
    }
    let came = |hear: &Receiver<String>| hear.try_iter().filter(|head| !head.starts_with("CONNECT")).collect::<Vec<_>>();
    assert_eq!(came(&tunnels.1), ["GET / HTTP/1.1; Host: a.test", "GET / HTTP/1.1; Host: a.test"]);
    assert_eq!(came(&requests.1), ["GET http://b.test/ HTTP/1.1; Host: b.test"]);
}

/// Stands for the way to port 80, which tests cannot listen on: a proxy that takes CONNECT and answers requests itself. Tells of every head that comes.
fn web() -> (Origin, Receiver<String>) {
    let (heard, hear) = channel();
    let origin = Origin::raw(move |stream| {
        let mut answers = stream.try_clone().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stream));
        loop {
            let head: Vec<String> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let Some(first) = head.first() else { return };
            let answer: &[u8] =
                if first.starts_with("CONNECT") { b"HTTP/1.1 200 OK\r\n\r\n" } else { b"HTTP/1.1 299 OK\r\nContent-Length: 2\r\n\r\nok" };
            // A test that has ended listens no more.
            let _ = (heard.send(format!("{first}; {}", head.get(1).cloned().unwrap_or_default())), answers.write_all(answer));
        }
    });
    (origin, hear)
}

/// Stands for the way to port 80 as well, and tells of all bytes that came through a tunnel once it has ended.
fn way() -> (Origin, Receiver<Vec<u8>>) {
    let (heard, hear) = channel();
    let origin = Origin::raw(move |mut stream| {
        let (mut all, mut piece) = (Vec::new(), [0; 4096]);
        let mut is_open = false;
        while let Ok(read @ 1..) = stream.read(&mut piece) {
            all.extend_from_slice(&piece[..read]);
            if !is_open && all.ends_with(b"\r\n\r\n") {
                is_open = true;
                all.clear();
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            }
        }
        // A test that has ended listens no more.
        let _ = heard.send(all);
    });
    (origin, hear)
}

#[test]
fn in_a_tunnel_to_port_80_no_byte_makes_a_request_something_else() {
    let requests: [&[u8]; 10] = [
        b"GET /\xc3\xa4 HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"GET /\x01 HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"GET /\x7f HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"BREW /\r\xa0HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"\r\n\n get\t/\x80\r\n\r\n",
        b"BREW\x85/ FOO\r\nHost: evil.test\r\n\r\n",
        b"\x80GET /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"\0 /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    ];
    let others: [&[u8]; 4] = [b"SSH-2.0-x \xff\r\n", b"EHLO a.test\r\n", b"\x10\0name", b"\x10\0name\n and more"];
    let (way, hear) = way();
    let proxies = ["enforce", "log"].map(|sni| (sni, proxy(&format!("sni = \"{sni}\"\nupstream = \"http://127.0.0.1:{}\"", way.port()))));
    for (sni, proxy) in proxies {
        let mut looked = 0;
        for by_socks5 in [false, true] {
            for (said, is_http) in requests.map(|said| (said, true)).into_iter().chain(others.map(|said| (said, false))) {
                let passes = !is_http || sni == "log";
                let what = format!("{}, {sni}", said.escape_ascii());
                let mut client = open(&proxy, by_socks5, 80);
                client.send(said);
                if passes {
                    client.finish();
                }
                assert_eq!(client.rest(), Vec::<u8>::new(), "{what}");
                let came = hear.recv_timeout(PATIENCE).unwrap();
                assert!(came == if passes { said } else { b"" }, "{what}: {}", came.escape_ascii());
                looked += u64::from(is_http);
            }
        }
        let outcome = if sni == "log" { "passed" } else { "closed" };
        assert_eq!(proxy.metrics().get(&format!("netproxy_tunnels_looked_total{{outcome=\"{outcome}\"}}")), looked, "{sni}: told of each");
    }
}

#[test]
fn in_a_tunnel_to_port_80_each_request_is_decided_and_not_only_the_first() {
    let (web, hear) = web();
    let proxy = proxy(&format!("upstream = \"http://127.0.0.1:{}\"", web.port()));
    for by_socks5 in [false, true] {
        let mut client = open(&proxy, by_socks5, 80);
        for (host, status) in [("a.test", 299), ("evil.test", 403), ("a.test", 299), ("unknown.test", 403), ("b.test", 299)] {
            let answer = client.send(format!("GET /{host} HTTP/1.1\r\nHost: {host}\r\n\r\n")).answer();
            assert_eq!(answer.status, status, "{host}: {}", answer.text());
        }
        drop(client);
        let came: Vec<String> = hear.try_iter().filter(|head| !head.starts_with("CONNECT")).collect();
        assert_eq!(came.len(), 3, "{came:?}");
        assert!(came.iter().all(|head| !head.contains("evil") && !head.contains("unknown")), "{came:?}");
    }
}

#[test]
fn a_tunnel_that_is_closed_ends_although_a_request_in_it_waits_for_its_way() {
    // It gives a way to the first, and says nothing of the other.
    let upstream = Upstream::replying(None, |host| (host == "a.test").then_some(0));
    let proxy = proxy(&format!("upstream = \"socks5h://{}\"", upstream.address()));
    let mut client = open(&proxy, false, 80);
    client.send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n");
    wait_until("the way is asked for", || upstream.asked().iter().any(|asked| asked == "b.test 80"));
    let tunnels = proxy.handle().tunnels(0, 10);
    assert!(proxy.handle().close_tunnel(tunnels[0].id));
    assert_eq!(client.rest(), Vec::<u8>::new());
    let endings = || proxy.ended().iter().map(|ended| ended.ending).collect::<Vec<_>>();
    wait_until("it is told", || endings().len() == 2);
    assert_eq!(endings(), [Ending::Closed; 2]);
}

#[test]
fn a_line_that_begins_oddly_is_held_back_at_its_end_and_not_before() {
    for (end, passes) in [(" HTTP/1.1\r\n", false), ("\r\n", true)] {
        let (origin, hear) = pieces();
        let proxy = proxy(&format!("upstream = \"http://127.0.0.1:{}\"", origin.port()));
        let mut client = open(&proxy, false, 80);
        client.send(b"G\x01T /x");
        assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), b"G\x01T /x", "it waits for nothing");
        client.send(end);
        if passes {
            assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), end.as_bytes());
        } else {
            assert_eq!(client.rest(), Vec::<u8>::new());
            assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), b"", "its end");
        }
    }
}

/// A proxy that gives ways to anywhere and tells of every piece that comes along one, and of its end as of an empty one.
fn pieces() -> (Origin, Receiver<Vec<u8>>) {
    let (heard, hear) = channel();
    let heard = std::sync::Mutex::new(heard);
    let origin = Origin::raw(move |mut stream| {
        let mut head = std::io::BufRead::lines(std::io::BufReader::with_capacity(1, stream.try_clone().unwrap()));
        assert!(head.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).count() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let mut piece = vec![0; 4096];
        loop {
            let read = stream.read(&mut piece).unwrap_or_default();
            if heard.lock().unwrap().send(piece[..read].to_vec()).is_err() || read == 0 {
                return;
            }
        }
    });
    (origin, hear)
}
