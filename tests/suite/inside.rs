use harness::tls::{Authority, Front, Secured, secure, through, trusting};
use harness::{Client, Names, Origin, Proxy, policy, wait_until};
use netproxy::Ending;
use rustls::ClientConfig;
use std::io::{Read, Write};
use std::sync::Arc;

const LIMITED: &str = "mode = \"limited\"\nallow_local_binding = true";

fn names() -> Names {
    Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])])
}

/// An origin inside TLS, and a proxy that trusts it.
struct World {
    authority: Authority,
    origin: Origin,
    front: Front,
    proxy: Proxy,
}

impl World {
    fn new(toml: &str) -> Self {
        Self::with(toml, Origin::start())
    }

    fn with(toml: &str, origin: Origin) -> Self {
        let authority = Authority::new();
        let front = Front::of(&origin, authority.server(&["a.test", "b.test", "127.0.0.1"], &["http/1.1"]));
        let proxy = Self::proxy(toml, &authority);
        Self { authority, origin, front, proxy }
    }

    fn proxy(toml: &str, authority: &Authority) -> Proxy {
        Proxy::with_environment(toml, &names(), &[("SSL_CERT_FILE", authority.file().to_str().unwrap()), ("SECRET", "s3cret")])
    }

    fn at(&self, host: &str) -> String {
        format!("{host}:{}", self.front.port())
    }

    /// A client that trusts the proxy, and nobody else.
    fn trust(&self) -> Arc<ClientConfig> {
        trusting(self.proxy.policy().authority_pem().unwrap(), &["http/1.1"])
    }

    fn open(&self, host: &str) -> Secured {
        through(self.proxy.http(), &self.at(host), &self.trust()).unwrap()
    }

    fn get(&self, client: &mut Client, method: &str, path: &str) -> harness::Answer {
        let at = self.at("a.test");
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\n\r\n")).answer_to(method)
    }

    fn counted(&self, sample: &str) -> u64 {
        self.proxy.metrics().get(sample)
    }
}

#[test]
fn limited_mode_reads_inside_tls_and_blocks_what_writes() {
    let origin = Origin::http(|request, stream| {
        let body = if request.first_line.starts_with("HEAD ") { "" } else { "origin" };
        write!(stream, "HTTP/1.1 299 Origin\r\nContent-Length: 6\r\n\r\n{body}").is_ok()
    });
    let world = World::with(&policy(LIMITED, &[("a.test", "allow")]), origin);
    let Secured { mut client, protocol, .. } = world.open("a.test");
    assert_eq!(protocol.as_deref(), Some("http/1.1"), "what the origin chose");
    for method in ["GET", "HEAD", "OPTIONS"] {
        let answer = world.get(&mut client, method, "/x?y=1");
        assert_eq!(answer.status, 299, "{method}");
    }
    let blocked = world.get(&mut client, "DELETE", "/x");
    assert_eq!((blocked.status, blocked.header("x-proxy-error")), (403, Some("blocked-by-method-policy")));
    let json = blocked.json();
    assert_eq!((json["protocol"].as_str(), json["reason"].as_str()), (Some("https"), Some("method_not_allowed")));
    assert_eq!((json["host"].as_str(), json["port"].as_u64()), (Some("a.test"), Some(world.front.port().into())));
    // The connection goes on.
    assert_eq!(world.get(&mut client, "GET", "/again").status, 299);
    let seen: Vec<String> = world.origin.requests().iter().map(|request| request.first_line.clone()).collect();
    assert_eq!(seen, ["GET /x?y=1 HTTP/1.1", "HEAD /x?y=1 HTTP/1.1", "OPTIONS /x?y=1 HTTP/1.1", "GET /again HTTP/1.1"]);
    assert_eq!(world.origin.requests()[0].header("host"), Some(world.at("a.test").as_str()));
    assert_eq!(world.front.names(), [Some("a.test".to_owned())], "one connection to the origin served all of them");
    let decided: Vec<(Option<String>, String)> =
        world.proxy.decisions().into_iter().map(|decision| (decision.method, decision.verdict)).collect();
    let allow = |method: &str| (Some(method.to_owned()), "allow".to_owned());
    let expected = [
        (None, "allow".to_owned()),
        allow("GET"),
        allow("HEAD"),
        allow("OPTIONS"),
        (Some("DELETE".to_owned()), "method_not_allowed".to_owned()),
        allow("GET"),
    ];
    assert_eq!(decided, expected, "each of them was decided on");
    assert_eq!(world.counted("netproxy_intercepted_total{outcome=\"opened\"}"), 1);
    assert_eq!(world.counted("netproxy_requests_total{protocol=\"https\"}"), 5);
}

#[test]
fn a_body_behind_what_is_blocked_ends_the_connection_after_the_answer() {
    let world = World::new(&policy(LIMITED, &[("a.test", "allow")]));
    let mut client = world.open("a.test").client;
    let at = world.at("a.test");
    client.send(format!("POST / HTTP/1.1\r\nHost: {at}\r\nContent-Length: 5\r\n\r\nhello"));
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (403, Some("close")));
    assert!(client.rest().is_empty() && world.origin.requests().is_empty());
}

#[test]
fn requests_inside_are_for_the_tunnel_and_for_no_proxy() {
    let world = World::new(&policy(LIMITED, &[("a.test", "allow"), ("b.test", "allow")]));
    let (at, other) = (world.at("a.test"), world.at("b.test"));
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\nHost: {other}\r\n\r\n"), 421),
        ("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_owned(), 421),
        ("GET / HTTP/1.1\r\nHost: a.test:443\r\n\r\n".to_owned(), 421),
        (format!("GET https://{other}/ HTTP/1.1\r\nHost: {at}\r\n\r\n"), 421),
        (format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\n\r\n"), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nHost: {at}\r\nHost: {at}\r\n\r\n"), 400),
        (format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n"), 405),
        (format!("CONNECT {other} HTTP/1.1\r\nHost: {other}\r\n\r\n"), 405),
    ] {
        let mut client = world.open("a.test").client;
        assert_eq!(client.send(&request).answer().status, status, "{request:?}");
        assert!(client.rest().is_empty(), "{request:?}");
    }
    assert!(world.origin.requests().is_empty());
    let mut client = world.open("a.test").client;
    assert_eq!(client.send(format!("GET https://{at}/x HTTP/1.1\r\nHost: A.TEST.:{}\r\n\r\n", world.front.port())).answer().status, 299);
    assert_eq!(client.send(format!("GET /y HTTP/1.1\r\nHost: {at}\r\nX-Unix-Socket: /run/x\r\n\r\n")).answer().status, 299);
    let seen = world.origin.requests();
    assert_eq!((seen[0].first_line.as_str(), seen[1].first_line.as_str()), ("GET /x HTTP/1.1", "GET /y HTTP/1.1"));
    assert_eq!(seen[1].header("x-unix-socket"), None);
}

#[test]
fn what_is_no_tls_in_a_tunnel_that_has_to_be_read_is_closed() {
    let world = World::new(&policy(LIMITED, &[("a.test", "allow")]));
    let at = world.at("a.test");
    let refused = || world.proxy.decisions().iter().filter(|decision| decision.verdict == "mitm_required").count();
    for (sent, count) in [(&b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..], 1), (b"SSH-2.0-x\r\n", 2), (b"\x16\x03\x01\x00\x02\x02\x00", 3)]
    {
        let mut client = Client::connect(world.proxy.http());
        assert_eq!(client.tunnel(&at).status, 200);
        assert!(client.send(sent).rest().is_empty());
        wait_until("it was said", || refused() == count);
    }
    // Whoever says half of it and leaves.
    let mut client = Client::connect(world.proxy.http());
    assert_eq!(client.tunnel(&at).status, 200);
    assert!(client.send(b"\x16\x03").finish().rest().is_empty());
    wait_until("it was said", || refused() == 4);
    assert_eq!(world.counted("netproxy_intercepted_total{outcome=\"closed\"}"), 4);
    assert_eq!(world.front.handshakes(), 0, "nothing reached the origin");
}

#[test]
fn who_waits_for_the_server_to_speak_first_is_closed_in_time() {
    let authority = Authority::new();
    let origin = Origin::start();
    let proxy = Proxy::with_limits(&policy(LIMITED, &[("a.test", "allow")]), &names(), &["tls_timeout=50ms"]);
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.tunnel(&format!("a.test:{}", origin.port())).status, 200);
    assert!(client.rest().is_empty());
    assert_eq!(proxy.limited().iter().map(|limited| limited.limit).collect::<Vec<_>>(), ["tls_timeout"]);
    drop(authority);
}

#[test]
fn the_name_in_the_hello_is_the_tunnels() {
    let world = World::new(&policy(LIMITED, &[("a.test", "allow"), ("b.test", "allow")]));
    let mut client = Client::connect(world.proxy.http());
    assert_eq!(client.tunnel(&world.at("a.test")).status, 200);
    assert!(secure(client, "b.test", &world.trust()).is_err());
    // A client that asks for an address names nobody.
    let world = World::new(&policy(LIMITED, &[("127.0.0.1", "allow")]));
    let mut client = world.open("127.0.0.1").client;
    let at = world.at("127.0.0.1");
    assert_eq!(client.send(format!("GET / HTTP/1.1\r\nHost: {at}\r\n\r\n")).answer().status, 299);
    assert_eq!(world.front.names(), [None]);
}

#[test]
fn an_origin_that_nobody_vouches_for_is_explained() {
    let world = World::new(&policy(LIMITED, &[("a.test", "allow"), ("127.0.0.1", "allow")]));
    let stranger = Authority::new();
    let front = |config| Front::of(&world.origin, config);
    // Whatever is said to it, it answers in the clear.
    let plain = Origin::raw(|mut stream| {
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let unknown = front(stranger.server(&["a.test"], &["http/1.1"]));
    let other = front(world.authority.server(&["b.test"], &["http/1.1"]));
    for (port, error) in [
        (unknown.port(), "upstream-tls-unknown-issuer"),
        (other.port(), "upstream-tls-name-mismatch"),
        (plain.port(), "upstream-tls-not-tls"),
    ] {
        let Secured { mut client, .. } = through(world.proxy.http(), &format!("a.test:{port}"), &world.trust()).unwrap();
        for _ in 0..2 {
            let answer = client.send(format!("GET / HTTP/1.1\r\nHost: a.test:{port}\r\n\r\n")).answer();
            assert_eq!((answer.status, answer.header("x-proxy-error")), (502, Some(error)));
            assert!(answer.text().starts_with(&format!("a.test:{port} is allowed, but ")), "{}", answer.text());
        }
        // What is not allowed is told that, and not what is wrong with the origin.
        let answer = client.send(format!("DELETE / HTTP/1.1\r\nHost: a.test:{port}\r\n\r\n")).answer();
        assert_eq!(answer.status, 403);
    }
    assert!(world.origin.requests().is_empty());
}

#[test]
fn connections_to_origins_serve_one_client_after_the_other() {
    let world = World::new(&policy(LIMITED, &[("a.test", "allow")]));
    let trust = world.trust();
    for _ in 0..40 {
        let mut client = through(world.proxy.http(), &world.at("a.test"), &trust).unwrap().client;
        assert_eq!(world.get(&mut client, "GET", "/").status, 299);
        drop(client);
        wait_until("the connection has come back", || world.counted("netproxy_connections_open") == 0);
    }
    // Each worker has connections of its own.
    let workers = std::thread::available_parallelism().unwrap().get();
    let handshakes = world.front.handshakes();
    assert!(handshakes <= workers, "{handshakes} handshakes for 40 clients");
}

#[test]
fn hooks_decide_and_change_what_goes_on_and_what_comes_back() {
    let hooks = r#"
allow_local_binding = true
[permissions.workspace.network.mitm.hooks.api]
host = "a.test"
methods = ["GET", "POST"]
path_prefixes = ["/api"]
action = ["swap"]
[permissions.workspace.network.mitm.actions.swap]
strip_request_headers = ["x-secret", "authorization"]
inject_request_headers = [{ name = "authorization", secret_env_var = "SECRET", prefix = "Bearer " }]
"#;
    let origin = Origin::http(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok").is_ok()
    });
    let world = World::with(&policy(hooks, &[("a.test", "allow"), ("b.test", "allow")]), origin);
    let mut client = world.open("a.test").client;
    let at = world.at("a.test");
    let request = format!(
        "POST /api/x HTTP/1.1\r\nHost: {at}\r\nAuthorization: Basic dummy\r\nConnection: X-Other\r\nX-Other: 1\r\nX-Secret: 2\r\nX-Kept: 3\r\nContent-Length: 2\r\n\r\nhi"
    );
    assert_eq!(client.send(request).answer().status, 200);
    let seen = world.origin.requests().remove(0);
    let headers: Vec<&str> = seen.headers.iter().filter(|(name, _)| name == "authorization").map(|(_, value)| value.as_str()).collect();
    assert_eq!(headers, ["Bearer s3cret"]);
    assert_eq!((seen.header("x-secret"), seen.header("x-other"), seen.header("x-kept")), (None, None, Some("3")));
    let blocked = world.get(&mut client, "GET", "/other");
    assert_eq!(
        (blocked.status, blocked.header("x-proxy-error"), blocked.blocked_reason().as_str()),
        (403, Some("blocked-by-mitm-hook"), "mitm_hook_denied")
    );
    // A host without hooks stays closed.
    let mut opaque = Client::connect(world.proxy.http());
    assert_eq!(opaque.tunnel(&world.at("b.test")).status, 200);
    let config = trusting(&world.authority.pem, &["http/1.1"]);
    let mut opaque = secure(opaque, "b.test", &config).unwrap().client;
    assert_eq!(opaque.send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n").answer().status, 200);
}

#[test]
fn a_websocket_passes_where_it_may_be_written_to() {
    let origin = || {
        Origin::http(|_, stream| {
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
            let mut echo = stream.try_clone().unwrap();
            let _ = std::io::copy(stream, &mut echo);
            false
        })
    };
    let always = "allow_local_binding = true\n[permissions.workspace.network.mitm]\nmode = \"always\"";
    let world = World::with(&policy(always, &[("a.test", "allow")]), origin());
    let mut client = world.open("a.test").client;
    let upgrade = format!("GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", world.at("a.test"));
    assert_eq!(client.send(&upgrade).answer().status, 101);
    assert_eq!(client.send("ping").bytes(4), b"ping");
    let large = vec![7; 3_000_000];
    let received = std::thread::scope(|scope| {
        let (mut reader, mut writer) = client.into_halves();
        scope.spawn(move || {
            writer.write_all(&large).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        received
    });
    assert!(received.len() == 3_000_000 && received.iter().all(|byte| *byte == 7));
    // A policy that allows it no more ends it.
    let mut client = world.open("a.test").client;
    assert_eq!(client.send(&upgrade).answer().status, 101);
    world.proxy.swap(&policy(always, &[("b.test", "allow")]));
    assert!(client.rest().is_empty());
    // In limited mode the offer is not passed on.
    let world = World::new(&policy(LIMITED, &[("a.test", "allow")]));
    let upgrade = format!("GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", world.at("a.test"));
    assert_eq!(world.open("a.test").client.send(upgrade).answer().status, 299);
    assert_eq!(world.origin.requests()[0].header("upgrade"), None);
}

#[test]
fn events_come_through_one_by_one_and_bodies_whole() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::http(move |request, stream| {
        if request.first_line.starts_with("POST ") {
            let body = &request.body;
            let _ = write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len());
            let _ = stream.write_all(body);
            return stream.write_all(b"\r\n0\r\nX-Sum: 1\r\n\r\n").is_ok();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").unwrap();
        for event in 0..3 {
            write!(stream, "data: {event}\n\n").unwrap();
            wait.lock().unwrap().recv().unwrap();
        }
        false
    });
    let always = "allow_local_binding = true\n[permissions.workspace.network.mitm]\nmode = \"always\"";
    let world = World::with(&policy(always, &[("a.test", "allow")]), origin);
    let mut client = world.open("a.test").client;
    let at = world.at("a.test");
    // The body is asked for, and comes back.
    let body: Vec<u8> = (0..700_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: {at}\r\nExpect: 100-continue\r\nTE: trailers\r\nConnection: TE\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    assert_eq!(client.answer().status, 100);
    let answer = client.send(&body).answer();
    assert!(answer.status == 200 && answer.body == body, "{} of {}", answer.body.len(), body.len());
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    // Nothing is held back.
    client.send(format!("GET / HTTP/1.1\r\nHost: {at}\r\n\r\n"));
    let head = b"HTTP/1.1 200 OK\r\n".len();
    assert_eq!(client.bytes(head), b"HTTP/1.1 200 OK\r\n");
    let mut text = String::new();
    for event in 0..3 {
        while !text.ends_with(&format!("data: {event}\n\n")) {
            text.push(char::from(client.bytes(1)[0]));
        }
        go.send(()).unwrap();
    }
    assert!(client.rest().is_empty());
}

#[test]
fn the_policy_in_force_decides_inside_and_closes_what_it_wants_read() {
    let full = policy("allow_local_binding = true", &[("a.test", "allow")]);
    let limited = policy(LIMITED, &[("a.test", "allow")]);
    let world = World::new(&limited);
    let mut client = world.open("a.test").client;
    assert_eq!(world.get(&mut client, "DELETE", "/").status, 403);
    // What was opened stays open, and each request is decided anew.
    world.proxy.swap(&full);
    assert_eq!(world.get(&mut client, "DELETE", "/").status, 299);
    let mut opaque = Client::connect(world.proxy.http());
    assert_eq!(opaque.tunnel(&world.at("a.test")).status, 200);
    let mut opaque = secure(opaque, "a.test", &trusting(&world.authority.pem, &[])).unwrap().client;
    let get = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    assert_eq!(opaque.send(get).answer().status, 299);
    // What nobody reads may not go on.
    world.proxy.swap(&limited);
    assert!(opaque.rest().is_empty());
    assert_eq!(world.get(&mut client, "DELETE", "/").status, 403);
    world.proxy.swap(&policy(LIMITED, &[("b.test", "allow")]));
    let blocked = world.get(&mut client, "GET", "/");
    assert_eq!((blocked.status, blocked.blocked_reason().as_str()), (403, "not_allowed"));
}

#[test]
fn socks5_tunnels_are_read_where_that_is_allowed() {
    let hook = r#"
allow_local_binding = true
[permissions.workspace.network.mitm.hooks.api]
host = "a.test"
methods = ["GET"]
path_prefixes = ["/api"]
action = ["none"]
[permissions.workspace.network.mitm.actions.none]
strip_request_headers = ["x-none"]
"#;
    let world = World::new(&policy(hook, &[("a.test", "allow")]));
    let mut client = Client::connect(world.proxy.socks5());
    assert_eq!(client.socks5_name("a.test", world.front.port()), Some(0));
    let mut client = secure(client, "a.test", &world.trust()).unwrap().client;
    assert_eq!(world.get(&mut client, "GET", "/api/x").status, 299);
    assert_eq!(world.get(&mut client, "GET", "/x").status, 403);
    // In limited mode only on port 443.
    let world = World::new(&policy(LIMITED, &[("a.test", "allow")]));
    assert_eq!(Client::connect(world.proxy.socks5()).socks5_name("a.test", world.front.port()), Some(2));
    // On port 443 nobody listens here: the policy allows it, and the system does not.
    assert!(matches!(Client::connect(world.proxy.socks5()).socks5_name("a.test", 443), Some(code) if code != 2));
}

#[test]
fn upstream_proxies_carry_tunnels_that_are_read() {
    let authority = Authority::new();
    let origin = Origin::start();
    let front = Front::of(&origin, authority.server(&["a.test"], &["http/1.1"]));
    let far = Proxy::start(&policy("allow_local_binding = true", &[("a.test", "allow")]), &names());
    for upstream in [format!("http://{}", far.http()), format!("socks5h://{}", far.socks5())] {
        let toml = policy(&format!("{LIMITED}\nupstream = \"{upstream}\""), &[("a.test", "allow")]);
        let near = Proxy::with_environment(&toml, &Names::default(), &[("SSL_CERT_FILE", authority.file().to_str().unwrap())]);
        let trust = trusting(near.policy().authority_pem().unwrap(), &["http/1.1"]);
        let at = format!("a.test:{}", front.port());
        let mut client = through(near.http(), &at, &trust).unwrap().client;
        assert_eq!(client.send(format!("GET / HTTP/1.1\r\nHost: {at}\r\n\r\n")).answer().status, 299, "{upstream}");
        assert_eq!(client.send(format!("PUT / HTTP/1.1\r\nHost: {at}\r\n\r\n")).answer().status, 403, "{upstream}");
    }
    // The far one saw tunnels, and nothing in them.
    assert!(far.decisions().iter().all(|decision| decision.method.is_none() && decision.host == "a.test"), "{:?}", far.decisions());
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn an_authority_of_ones_own_signs_for_everyone() {
    let own = Authority::new();
    let (cert, key) = own.files();
    let mitm = format!(
        "{LIMITED}\n[permissions.workspace.network.mitm]\nca_cert_path = {:?}\nca_key_path = {:?}",
        cert.to_str().unwrap(),
        key.to_str().unwrap()
    );
    let world = World::new(&policy(&mitm, &[("a.test", "allow")]));
    let mut client = through(world.proxy.http(), &world.at("a.test"), &trusting(&own.pem, &[])).unwrap();
    assert_eq!(client.protocol, None, "nothing was offered");
    assert_eq!(world.get(&mut client.client, "GET", "/").status, 299);
}

#[test]
fn a_hook_looks_at_bodies_and_they_go_on_whole() {
    let hook = r#"
allow_local_binding = true
[permissions.workspace.network.mitm.hooks.review]
host = "a.test"
methods = ["POST"]
path_prefixes = ["/reviews"]
body = { json = { "/event" = ["COMMENT"] }, max_bytes = "1KiB" }
action = ["none"]
[permissions.workspace.network.mitm.actions.none]
strip_request_headers = ["x-none"]
"#;
    let world = World::new(&policy(hook, &[("a.test", "allow")]));
    let at = world.at("a.test");
    let good = "{\"event\": \"COMMENT\"}";
    let long = format!("{{\"event\": \"COMMENT\", \"x\": \"{}\"}}", "x".repeat(2000));
    let head = |body: &str, more: &str| {
        format!("POST /reviews HTTP/1.1\r\nHost: {at}\r\nContent-Type: application/json\r\n{more}Content-Length: {}\r\n\r\n", body.len())
    };
    for (body, status) in [(good, 299), ("{\"event\": \"APPROVE\"}", 403), ("{", 403), (long.as_str(), 403)] {
        let mut client = world.open("a.test").client;
        assert_eq!(client.send(head(body, "") + body).answer().status, status, "{body:.40}");
    }
    // In chunks; and asked for before it is sent, by us and not by the origin.
    let mut client = world.open("a.test").client;
    client.send(format!(
        "POST /reviews HTTP/1.1\r\nHost: {at}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}\r\n",
        &good[..9]
    ));
    client.send(format!("{:x}\r\n{}\r\n0\r\n\r\n", good.len() - 9, &good[9..]));
    assert_eq!(client.answer().status, 299);
    client.send(head(good, "Expect: 100-continue\r\n"));
    assert_eq!(client.answer().status, 100);
    assert_eq!(client.send(good).answer().status, 299);
    let seen = world.origin.requests();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|request| request.body == good.as_bytes() && request.header("expect").is_none()));
}

#[test]
fn an_origin_that_asks_is_shown_the_certificate_that_is_listed() {
    let authority = Authority::new();
    let origin = Origin::start();
    let front = Front::of(&origin, authority.server_for_known(&["a.test", "b.test"]));
    let (cert, key) = authority.client_files();
    let mitm = format!(
        "{LIMITED}\n[permissions.workspace.network.mitm]\nclient_certificates = [{{ host = \"a.test\", cert_path = {:?}, key_path = {:?} }}]",
        cert.to_str().unwrap(),
        key.to_str().unwrap()
    );
    let proxy = World::proxy(&policy(&mitm, &[("a.test", "allow"), ("b.test", "allow")]), &authority);
    let trust = trusting(proxy.policy().authority_pem().unwrap(), &[]);
    // In TLS 1.3 an origin refuses after the handshake; when it closes at once, its reason may be lost on the way.
    let refused = [Some("upstream-tls-client-certificate"), Some("upstream-closed")];
    for (host, status, errors) in [("a.test", 299, &[None][..]), ("b.test", 502, &refused)] {
        let at = format!("{host}:{}", front.port());
        let mut client = through(proxy.http(), &at, &trust).unwrap().client;
        let answer = client.send(format!("GET / HTTP/1.1\r\nHost: {at}\r\n\r\n")).answer();
        assert!(answer.status == status && errors.contains(&answer.header("x-proxy-error")), "{host}: {answer:?}");
    }
}

#[test]
fn the_origin_hears_nothing_of_who_is_not_allowed_by_the_time_of_the_hello() {
    for protocol in ["http/1.1", "h2"] {
        let world = World::new(&policy(LIMITED, &[("a.test", "allow")]));
        let trust = trusting(world.proxy.policy().authority_pem().unwrap(), &[protocol]);
        let mut client = Client::connect(world.proxy.http());
        assert_eq!(client.tunnel(&world.at("a.test")).status, 200);
        world.proxy.swap(&policy(LIMITED, &[("b.test", "allow")]));
        let mut client = secure(client, "a.test", &trust).unwrap().client;
        if protocol == "h2" {
            // Nobody is there who would speak it.
            assert_eq!(client.rest(), Vec::<u8>::new());
            wait_until("it is told", || !world.proxy.ended().is_empty());
            assert_eq!(world.proxy.ended()[0].ending, Ending::Revoked);
        } else {
            assert_eq!(world.get(&mut client, "GET", "/").status, 403);
        }
        assert_eq!(world.front.names(), [], "{protocol}");
    }
}
