//! How what was allowed ends: every way, once, with its bytes, under the number of its decision.

use harness::http2::{Http2, Http2Origin};
use harness::proxy::Ended;
use harness::tls::{Authority, through, trusting};
use harness::udp::{Association, Echo};
use harness::{Client, Names, Origin, Proxy, Refusing, policy};
use netproxy::Ending;
use policy_format::Protocol;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

const LOCAL: &str = "allow_local_binding = true";

fn names() -> Names {
    Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])])
}

fn open(limits: &[&str]) -> Proxy {
    Proxy::with_limits(&policy(LOCAL, &[("a.test", "allow"), ("nowhere.test", "allow")]), &names(), limits)
}

fn request(method: &str, port: u16, more: &str) -> String {
    format!("{method} http://a.test:{port}/x HTTP/1.1\r\nHost: a.test:{port}\r\n{more}\r\n")
}

/// What is to be seen of one end.
fn how(ended: &Ended) -> (Protocol, u64, u64, Ending) {
    (ended.protocol, ended.up, ended.down, ended.ending)
}

/// Every allowance has one end under its number, and no denial has one.
fn all_joined(proxy: &Proxy) {
    let (mut allowed, mut ended): (Vec<u64>, Vec<u64>) = (
        proxy.decisions().iter().filter(|seen| seen.decision == "allow").map(|seen| seen.id).collect(),
        proxy.ended().iter().map(|ended| ended.id).collect(),
    );
    allowed.sort_unstable();
    ended.sort_unstable();
    assert_eq!(allowed, ended, "{:?}\n{:?}", proxy.decisions(), proxy.ended());
    assert!(allowed.windows(2).all(|pair| pair[0] != pair[1]) && allowed.first() != Some(&0));
    let counted: u64 = proxy.ended().iter().filter(|ended| ended.protocol != Protocol::Connect).map(|ended| ended.up).sum();
    assert!(counted <= proxy.metrics().get("netproxy_bytes_total{direction=\"up\"}"));
}

#[test]
fn exchanges_end_with_the_bytes_of_their_bodies() {
    let origin = Origin::http(|request, stream| {
        let answer: &[u8] = match request.first_line.split(' ').nth(1) {
            Some("/chunks") => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n5\r\ndefgh\r\n0\r\n\r\n",
            Some("/close") => b"HTTP/1.1 200 OK\r\n\r\nuntil close",
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\norigin",
        };
        stream.write_all(answer).is_ok() && !answer.ends_with(b"close")
    });
    let (proxy, port) = (open(&[]), origin.port());
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.send(request("GET", port, "")).answer().status, 200);
    assert_eq!(client.send(request("POST", port, "Content-Length: 5\r\n") + "hello").answer().status, 200);
    let chunked = request("POST", port, "Transfer-Encoding: chunked\r\n") + "4\r\nfour\r\n2;y\r\nab\r\n0\r\n\r\n";
    assert_eq!(client.send(chunked).answer().status, 200);
    for path in ["chunks", "close"] {
        let asked = format!("GET http://a.test:{port}/{path} HTTP/1.1\r\nHost: a.test:{port}\r\n\r\n");
        assert_eq!(client.send(asked).answer().status, 200);
    }
    // Denied: it has no end.
    let blocked = format!("GET http://b.test:{port}/ HTTP/1.1\r\nHost: b.test:{port}\r\n\r\n");
    assert_eq!(harness::client::get(proxy.http(), &format!("http://b.test:{port}/")).status, 403, "{blocked}");
    let ended = proxy.ends(5);
    let expected = [(0, 6), (5, 6), (6, 6), (0, 8), (0, 11)].map(|(up, down)| (Protocol::Http, up, down, Ending::Done));
    assert_eq!(ended.iter().map(how).collect::<Vec<_>>(), expected);
    assert!(ended.iter().all(|ended| ended.host == "a.test" && ended.port == port && ended.generation == 1));
    assert_eq!(proxy.decisions().len(), 6);
    all_joined(&proxy);
    let metrics = proxy.metrics();
    assert_eq!(metrics.get("netproxy_bytes_total{direction=\"up\"}"), 11);
    assert_eq!(metrics.get("netproxy_bytes_total{direction=\"down\"}"), 37);
}

#[test]
fn a_request_that_is_sent_again_is_one_request() {
    let asked = AtomicUsize::new(0);
    // The second is not answered, on a connection that was used before.
    let origin = Origin::http(move |_, stream| {
        asked.fetch_add(1, Ordering::SeqCst) != 1 && stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
    });
    let proxy = open(&[]);
    let mut client = Client::connect(proxy.http());
    for _ in 0..2 {
        assert_eq!(client.send(request("GET", origin.port(), "")).answer().status, 200);
    }
    assert_eq!((origin.requests().len(), origin.connections()), (3, 2), "one of them was sent twice");
    assert_eq!(proxy.ends(2).iter().map(how).collect::<Vec<_>>(), [(Protocol::Http, 0, 2, Ending::Done); 2]);
    assert_eq!(proxy.decisions().len(), 2);
    all_joined(&proxy);
}

#[test]
fn what_fails_upstream_says_where() {
    let refusing = Refusing::new();
    let silent = Origin::http(|_, _| false);
    let malformed = Origin::http(|_, stream| stream.write_all(b"HTTP/9.9 what\r\n\r\n").is_ok());
    let proxy = open(&["response_timeout=4s"]);
    let waiting = Origin::http(|_, stream| stream.read(&mut [0]).is_ok());
    for (at, status, error) in [
        (format!("a.test:{}", refusing.port()), 502, "upstream-refused"),
        ("nowhere.test:80".to_owned(), 502, "upstream-name-not-resolved"),
        (format!("a.test:{}", silent.port()), 502, "upstream-closed"),
        (format!("a.test:{}", malformed.port()), 502, "upstream-bad-response"),
        (format!("a.test:{}", waiting.port()), 504, "upstream-response-timeout"),
    ] {
        let before = proxy.ended().len();
        let answer = harness::client::get(proxy.http(), &format!("http://{at}/"));
        assert_eq!((answer.status, answer.header("x-proxy-error")), (status, Some(error)), "{at}");
        assert_eq!(how(&proxy.ends(before + 1)[before]), (Protocol::Http, 0, 0, Ending::Upstream(error)));
    }
    // Tunnels too, and SOCKS5.
    for (count, at) in [(6, format!("a.test:{}", refusing.port())), (7, "nowhere.test:443".to_owned())] {
        assert_eq!(Client::connect(proxy.http()).tunnel(&at).status, 502);
        assert_eq!(proxy.ends(count).len(), count);
    }
    assert_eq!(Client::connect(proxy.socks5()).socks5_name("a.test", refusing.port()), Some(5));
    let ended = proxy.ends(8);
    let expected = [
        (Protocol::Connect, 0, 0, Ending::Upstream("upstream-refused")),
        (Protocol::Connect, 0, 0, Ending::Upstream("upstream-name-not-resolved")),
        (Protocol::Socks5Tcp, 0, 0, Ending::Upstream("upstream-refused")),
    ];
    assert_eq!(ended[5..].iter().map(how).collect::<Vec<_>>(), expected);
    all_joined(&proxy);
}

#[test]
fn limits_and_sides_that_break_off_are_told_apart() {
    let short = Origin::http(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour");
        false
    });
    let proxy = open(&["request_body_bytes=10", "idle_timeout=4s"]);
    let mut client = Client::connect(proxy.http());
    client.send(request("GET", short.port(), ""));
    assert!(client.try_answer("GET").is_err());
    assert_eq!(how(&proxy.ends(1)[0]), (Protocol::Http, 0, 4, Ending::Broken));
    // Known before it is sent, and found out on the way.
    let origin = Origin::start();
    let long = request("POST", origin.port(), "Content-Length: 11\r\n");
    assert_eq!(Client::connect(proxy.http()).send(long).answer().status, 413);
    assert_eq!(how(&proxy.ends(2)[1]), (Protocol::Http, 0, 0, Ending::Limited("request_body_bytes")));
    let mut client = Client::connect(proxy.http());
    client.send(request("POST", origin.port(), "Transfer-Encoding: chunked\r\n") + "6\r\nsixsix\r\n");
    client.send("6\r\nsixsix\r\n0\r\n\r\n");
    assert_eq!(client.answer().status, 413);
    assert_eq!(how(&proxy.ends(3)[2]), (Protocol::Http, 12, 0, Ending::Limited("request_body_bytes")));
    // Nobody says anything more.
    let stalled = Origin::http(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour");
        stream.read(&mut [0]).is_ok_and(|read| read > 0)
    });
    let mut client = Client::connect(proxy.http());
    client.send(request("GET", stalled.port(), ""));
    assert!(client.try_answer("GET").is_err());
    assert_eq!(how(&proxy.ends(4)[3]), (Protocol::Http, 0, 4, Ending::Limited("idle_timeout")));
    // The client leaves.
    let mut client = Client::connect(proxy.http());
    client.send(request("POST", origin.port(), "Content-Length: 5\r\n") + "hel");
    harness::wait_until("it is under way", || origin.connections() > 0);
    drop(client);
    assert_eq!(proxy.ends(5)[4].ending, Ending::Broken);
    all_joined(&proxy);
}

/// However early in the life of its connection, and whoever the one to the origin is from.
#[test]
fn a_client_that_leaves_before_it_is_answered_is_noticed() {
    let (thinks, thinking) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let thinks = std::sync::Arc::new((thinks, thinking));
    let seen = std::sync::Arc::clone(&thinks);
    let origin = Origin::http(move |request, stream| {
        if request.first_line.starts_with("HEAD") {
            return stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").is_ok();
        }
        seen.0.fetch_add(1, Ordering::AcqRel);
        // Until the proxy has nobody to tell any more.
        let ended = stream.read(&mut [0]).is_ok_and(|read| read == 0);
        seen.1.fetch_add(usize::from(ended), Ordering::AcqRel);
        false
    });
    let proxy = open(&["idle_timeout=1d", "response_timeout=1d"]);
    for (number, first) in [(1, None), (2, Some("Connection: close\r\n")), (3, Some(""))] {
        let mut client = Client::connect(proxy.http());
        if let Some(more) = first {
            assert_eq!(client.send(request("HEAD", origin.port(), more)).answer_to("HEAD").status, 200);
            if !more.is_empty() {
                // Its connection to the origin is there for the next.
                assert!(client.rest().is_empty());
                client = Client::connect(proxy.http());
            }
        }
        client.send(request("GET", origin.port(), ""));
        harness::wait_until("the origin thinks", || thinks.0.load(Ordering::Acquire) == number);
        drop(client);
        harness::wait_until("the origin is told", || thinks.1.load(Ordering::Acquire) == number);
    }
    let ends = proxy.ends(5);
    assert_eq!(ends.iter().filter(|ended| ended.ending == Ending::Broken).count(), 3);
    all_joined(&proxy);
}

/// A tunnel to an origin that sends back what comes.
fn tunnel(proxy: &Proxy, origin: &Origin) -> Client {
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.tunnel(&format!("a.test:{}", origin.port())).status, 200);
    assert_eq!(client.send("ping").bytes(4), b"ping");
    client
}

#[test]
fn tunnels_end_in_every_way_they_can() {
    let origin = Origin::echo();
    let proxy = open(&["idle_timeout=4s"]);
    // Both sides say all.
    let mut client = tunnel(&proxy, &origin);
    assert_eq!(client.send("more").finish().rest(), b"more");
    assert_eq!(how(&proxy.ends(1)[0]), (Protocol::Connect, 8, 8, Ending::Done));
    let mut client = Client::connect(proxy.socks5());
    assert_eq!(client.socks5_name("a.test", origin.port()), Some(0));
    assert_eq!(client.send(vec![7; 100_000]).finish().rest().len(), 100_000);
    assert_eq!(how(&proxy.ends(2)[1]), (Protocol::Socks5Tcp, 100_000, 100_000, Ending::Done));
    // Nobody says anything for too long.
    let mut client = tunnel(&proxy, &origin);
    assert!(client.rest().is_empty());
    assert_eq!(how(&proxy.ends(3)[2]), (Protocol::Connect, 4, 4, Ending::Limited("idle_timeout")));
    // Somebody closes it.
    let proxy = open(&[]);
    let mut client = tunnel(&proxy, &origin);
    let id = proxy.decisions()[0].id;
    assert!(proxy.handle().close_tunnel(id));
    assert!(client.rest().is_empty());
    assert_eq!((how(&proxy.ends(1)[0]), proxy.ended()[0].id), ((Protocol::Connect, 4, 4, Ending::Closed), id));
    // A policy comes that does not allow it.
    let mut client = tunnel(&proxy, &origin);
    proxy.swap(&policy(LOCAL, &[("b.test", "allow")]));
    assert!(client.rest().is_empty());
    let ended = proxy.ends(2);
    assert_eq!((how(&ended[1]), ended[1].generation), ((Protocol::Connect, 4, 4, Ending::Revoked), 1));
    let revoked = proxy.revoked();
    assert_eq!((revoked.len(), revoked[0].id, revoked[0].verdict.as_str()), (1, ended[1].id, "not_allowed"));
    all_joined(&proxy);
}

#[test]
fn a_tunnel_that_speaks_of_another_server_is_looked_into() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&policy(LOCAL, &[("a.test", "allow"), ("evil.test", "deny")]), &names());
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.tunnel(&format!("a.test:{}", origin.port())).status, 200);
    client.send(crate::look::hello("evil.test"));
    assert!(client.rest().is_empty());
    assert_eq!(how(&proxy.ends(1)[0]), (Protocol::Connect, 0, 0, Ending::Looked));
    all_joined(&proxy);
}

#[test]
fn what_the_end_of_the_proxy_cuts_off_was_stopped() {
    let origin = Origin::echo();
    let streaming = Origin::http(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour");
        stream.read(&mut [0]).is_ok_and(|read| read > 0)
    });
    let proxy =
        Proxy::with(&policy(LOCAL, &[("a.test", "allow")]), &names(), |builder| builder.drain(std::time::Duration::from_millis(50)));
    let _tunnel = tunnel(&proxy, &origin);
    let mut client = Client::connect(proxy.http());
    client.send(request("GET", streaming.port(), ""));
    harness::wait_until("it is under way", || proxy.metrics().get("netproxy_bytes_total{direction=\"down\"}") == 8);
    proxy.ask_to_stop();
    proxy.join();
    let mut ended: Vec<_> = proxy.ends(2).iter().map(how).collect();
    ended.sort_by_key(|ended| ended.0 == Protocol::Connect);
    assert_eq!(ended, [(Protocol::Http, 0, 4, Ending::Stopped), (Protocol::Connect, 4, 4, Ending::Stopped)]);
}

#[test]
fn a_policy_that_comes_in_the_middle_ends_an_exchange() {
    let streaming = Origin::http(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour");
        stream.read(&mut [0]).is_ok_and(|read| read > 0)
    });
    let proxy = open(&[]);
    let mut client = Client::connect(proxy.http());
    client.send(request("GET", streaming.port(), ""));
    harness::wait_until("it is under way", || proxy.metrics().get("netproxy_bytes_total{direction=\"down\"}") == 4);
    proxy.swap(&policy(LOCAL, &[("b.test", "allow")]));
    assert!(client.try_answer("GET").is_err());
    assert_eq!(how(&proxy.ends(1)[0]), (Protocol::Http, 0, 4, Ending::Revoked));
    assert_eq!((proxy.revoked().len(), proxy.decisions().len()), (1, 1));
    all_joined(&proxy);
}

#[test]
fn a_policy_that_comes_before_the_answer_has_it_refused() {
    let silent = Origin::http(|_, stream| stream.read(&mut [0]).is_ok_and(|read| read > 0));
    let answering = Origin::start();
    let proxy = open(&[]);
    let requests = [
        request("GET", silent.port(), ""),
        request("POST", silent.port(), "Content-Length: 5\r\n") + "hello",
        request("GET", silent.port(), "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    ];
    let mut clients: Vec<Client> = requests.iter().map(|_| Client::connect(proxy.http())).collect();
    for (client, request) in clients.iter_mut().zip(&requests) {
        client.send(request);
    }
    harness::wait_until("all wait", || silent.requests().len() == requests.len());
    proxy.swap(&policy(LOCAL, &[("a.test", "deny"), ("b.test", "allow")]));
    for client in &mut clients {
        let answer = client.answer();
        assert_eq!((answer.status, answer.blocked_reason().as_str()), (403, "denied"));
    }
    // Whose request is over may go on.
    let next = format!("GET http://b.test:{0}/ HTTP/1.1\r\nHost: b.test:{0}\r\n\r\n", answering.port());
    assert_eq!(clients[0].send(next).answer().status, 299);
    assert!(proxy.ends(4)[..3].iter().all(|ended| ended.ending == Ending::Revoked));
    let told: Vec<_> = proxy.revoked().into_iter().map(|seen| seen.verdict).collect();
    assert_eq!((told, proxy.decisions().len()), (vec!["denied".to_owned(); 3], 4));
    assert_eq!(proxy.metrics().get("netproxy_closed_total{protocol=\"http\",ending=\"revoked\"}"), 3);
    all_joined(&proxy);
}

#[test]
fn upgrades_end_as_tunnels() {
    let origin = Origin::http(|_, stream| {
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
        let mut echo = stream.try_clone().unwrap();
        let _ = std::io::copy(stream, &mut echo);
        false
    });
    let proxy = open(&[]);
    let mut client = Client::connect(proxy.http());
    client.send(request("GET", origin.port(), "Connection: Upgrade\r\nUpgrade: websocket\r\n"));
    assert_eq!(client.answer().status, 101);
    assert_eq!(client.send("frames").bytes(6), b"frames");
    assert!(proxy.ended().is_empty());
    client.finish();
    assert!(client.rest().is_empty());
    assert_eq!(how(&proxy.ends(1)[0]), (Protocol::Http, 6, 6, Ending::Done));
    all_joined(&proxy);
}

#[test]
fn associations_end_once_and_their_datagrams_have_numbers_of_their_own() {
    let echo = Echo::start();
    let toml = policy("allow_local_binding = true\nenable_socks5_udp = true", &[("*", "allow")]);
    let proxy = Proxy::start(&toml, &names());
    let association = Association::open(proxy.socks5());
    assert!(association.echo("a.test", echo.port(), "four") && association.echo("b.test", echo.port(), "more."));
    assert!(association.echo("a.test", echo.port(), "again"));
    drop(association);
    let ended = proxy.ends(1);
    assert_eq!(how(&ended[0]), (Protocol::Socks5Udp, 14, 14, Ending::Done));
    assert_eq!((ended[0].host.as_str(), ended[0].port), ("udp-association", 0));
    let ids: Vec<u64> = proxy.decisions().iter().map(|seen| seen.id).collect();
    assert!(ids.len() == 2 && ids[0] != ids[1] && !ids.contains(&ended[0].id) && !ids.contains(&0), "{ids:?}");
    // Another one is closed.
    let association = Association::open(proxy.socks5());
    assert!(association.echo("a.test", echo.port(), "four"));
    // What came is counted once it is handed over.
    harness::wait_until("both ways are counted", || proxy.handle().tunnels(0, 10)[0].down == 4);
    let listed = proxy.handle().tunnels(0, 10);
    assert_eq!((listed.len(), listed[0].host.as_str(), listed[0].protocol), (1, "udp-association", Protocol::Socks5Udp));
    assert_eq!(listed[0].up, 4);
    assert!(proxy.handle().close_tunnel(listed[0].id));
    assert_eq!(how(&proxy.ends(2)[1]), (Protocol::Socks5Udp, 4, 4, Ending::Closed));
    drop(association);
}

#[cfg(unix)]
#[test]
fn unix_sockets_end_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read > 0) {
                head.push(byte[0]);
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\napi");
        }
    });
    let gone = dir.path().join("gone.sock");
    let sockets = format!("unix_sockets = {{ {path:?} = \"allow\", {gone:?} = \"allow\" }}");
    let proxy = Proxy::start(&policy(&sockets, &[]), &names());
    for (count, (path, status)) in [(1, (&path, 200)), (2, (&gone, 502))] {
        let asked = format!("GET http://x/ HTTP/1.1\r\nHost: x\r\nX-Unix-Socket: {}\r\nConnection: close\r\n\r\n", path.display());
        assert_eq!(Client::connect(proxy.http()).send(asked).answer().status, status);
        // It is told when the answer is out, and so a moment later.
        assert_eq!(proxy.ends(count).len(), count);
    }
    let ended = proxy.ends(2);
    assert_eq!(how(&ended[0]), (Protocol::Http, 0, 3, Ending::Done));
    assert_eq!(how(&ended[1]), (Protocol::Http, 0, 0, Ending::Upstream("upstream-socket-missing")));
    assert_eq!((ended[0].host.as_str(), ended[0].port), ("unix-socket", 0));
    all_joined(&proxy);
}

#[test]
fn requests_inside_tls_and_their_tunnel_end_apart() {
    let authority = Authority::new();
    let limited = policy("mode = \"limited\"\nallow_local_binding = true", &[("a.test", "allow")]);
    let roots = authority.file();
    let start = || Proxy::with_environment(&limited, &names(), &[("SSL_CERT_FILE", roots.to_str().unwrap())]);
    // HTTP/1.1.
    let origin = Origin::start();
    let front = harness::tls::Front::of(&origin, authority.server(&["a.test"], &["http/1.1"]));
    let (proxy, at) = (start(), format!("a.test:{}", front.port()));
    let trust = trusting(proxy.policy().authority_pem().unwrap(), &["http/1.1"]);
    let mut client = through(proxy.http(), &at, &trust).unwrap().client;
    assert_eq!(client.send(format!("GET / HTTP/1.1\r\nHost: {at}\r\n\r\n")).answer().status, 299);
    assert_eq!(client.send(format!("POST / HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\n\r\n")).answer().status, 403);
    assert_eq!(how(&proxy.ends(1)[0]), (Protocol::Https, 0, 6, Ending::Done));
    let listed = proxy.handle().tunnels(0, 10);
    assert_eq!((listed.len(), listed[0].protocol, listed[0].down), (1, Protocol::Connect, 6));
    drop(client);
    assert_eq!(how(&proxy.ends(2)[1]), (Protocol::Connect, 0, 6, Ending::Done));
    all_joined(&proxy);
    // It is closed while it waits for a request.
    let mut client = through(proxy.http(), &at, &trust).unwrap().client;
    assert_eq!(client.send(format!("GET / HTTP/1.1\r\nHost: {at}\r\n\r\n")).answer().status, 299);
    assert!(proxy.handle().close_tunnel(proxy.handle().tunnels(0, 1)[0].id));
    assert!(client.rest().is_empty());
    assert_eq!(how(&proxy.ends(4)[3]), (Protocol::Connect, 0, 6, Ending::Closed));
    // HTTP/2.
    let origin = Http2Origin::start(authority.server(&["a.test"], &["h2"]), 299, &[]);
    let (proxy, at) = (start(), format!("a.test:{}", origin.port()));
    let trust = trusting(proxy.policy().authority_pem().unwrap(), &["h2"]);
    let mut client = Http2::over(through(proxy.http(), &at, &trust).unwrap());
    for (method, status) in [("GET", 299), ("PUT", 403), ("HEAD", 299)] {
        assert_eq!(client.ask(method, &at, "/", &[], None).unwrap().status, status);
    }
    assert_eq!(proxy.ends(2).iter().map(how).collect::<Vec<_>>(), [(Protocol::Https, 0, 0, Ending::Done); 2]);
    let listed = proxy.handle().tunnels(0, 10);
    assert!(listed.len() == 1 && proxy.handle().close_tunnel(listed[0].id));
    assert_eq!(how(&proxy.ends(3)[2]), (Protocol::Connect, 0, 0, Ending::Closed));
    all_joined(&proxy);
}

#[test]
fn what_is_no_tls_in_a_tunnel_that_has_to_be_read_ends_it() {
    let origin = Origin::echo();
    let toml = policy("mode = \"limited\"\nallow_local_binding = true", &[("a.test", "allow")]);
    let proxy = Proxy::start(&toml, &names());
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.tunnel(&format!("a.test:{}", origin.port())).status, 200);
    client.send("SSH-2.0-x\r\n");
    assert!(client.rest().is_empty());
    assert_eq!(how(&proxy.ends(1)[0]), (Protocol::Connect, 0, 0, Ending::Looked));
    let seen: Vec<_> = proxy.decisions().into_iter().map(|seen| (seen.id == proxy.ended()[0].id, seen.verdict)).collect();
    assert_eq!(seen, [(true, "allow".to_owned()), (false, "mitm_required".to_owned())]);
}

#[test]
fn a_program_that_hears_of_no_ends_is_asked_whether_it_does() {
    struct Deaf(std::sync::Arc<AtomicUsize>);
    impl netproxy::Observer for Deaf {
        fn wants_closes(&self) -> bool {
            false
        }
        fn closed(&self, _: &netproxy::Closed<'_>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (heard, origin) = (std::sync::Arc::<AtomicUsize>::default(), Origin::start());
    let (deaf, toml) = (Deaf(std::sync::Arc::clone(&heard)), harness::compile(&policy(LOCAL, &[("a.test", "allow")])));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let builder = netproxy::NetworkProxy::builder().free_ports().policy(toml).resolver(names()).observer(deaf);
        let handle = builder.bind().await.unwrap().run().await.unwrap();
        let (at, port) = (handle.addrs().http, origin.port());
        let answer = tokio::task::spawn_blocking(move || harness::client::get(at, &format!("http://a.test:{port}/")));
        assert_eq!(answer.await.unwrap().status, 299);
        let stream: TcpStream = TcpStream::connect(handle.addrs().http).unwrap();
        drop(stream);
        handle.shutdown().await;
    });
    assert_eq!(heard.load(Ordering::SeqCst), 0);
}
