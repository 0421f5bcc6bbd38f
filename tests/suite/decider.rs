//! The embedding program's word on what no rule allows.

use harness::http2::{Http2, Http2Origin};
use harness::tls::{Authority, Front, through, trusting};
use harness::udp::{Association, Echo};
use harness::{Client, Names, Origin, Proxy, policy, wait_until};
use netproxy::{Answer, Dropped, Ending, PolicyRequest};
use policy_format::Protocol;
use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

const LOCAL: &str = "allow_local_binding = true\nenable_socks5_udp = true";

fn names() -> Names {
    Names::new(&[
        ("allowed.test", &["127.0.0.1"]),
        ("allow.test", &["127.0.0.1"]),
        ("deny.test", &["127.0.0.1"]),
        ("ask.test", &["127.0.0.1"]),
        ("silent.test", &["127.0.0.1"]),
        ("panic.test", &["127.0.0.1"]),
        ("denied.test", &["127.0.0.1"]),
        ("private.test", &["10.1.2.3"]),
    ])
}

type Asked = Arc<Mutex<Vec<PolicyRequest>>>;

/// A proxy whose decider does what the first label of the host says.
fn start(settings: &str) -> (Proxy, Asked) {
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    let decider = move |request: PolicyRequest| {
        let label = request.host.split('.').next().unwrap_or_default().to_owned();
        seen.lock().unwrap().push(request);
        async move {
            match label.as_str() {
                "deny" => Answer::Deny("not_approved".to_owned()),
                "ask" => Answer::Ask("needs_approval".to_owned()),
                "silent" => pending().await,
                // Without a word on standard error, which takes long.
                "panic" => std::panic::resume_unwind(Box::new(())),
                _ => Answer::Allow,
            }
        }
    };
    let toml = policy(settings, &[("allowed.test", "allow"), ("denied.test", "deny")]);
    let proxy = Proxy::with(&toml, &names(), |builder| {
        builder.policy_decider(decider).decider_timeout(Duration::from_secs(2)).command("make test").exec_policy_hint("prompt")
    });
    (proxy, asked)
}

fn count(asked: &Asked) -> usize {
    asked.lock().unwrap().len()
}

/// What became of a request by each of the protocols that have replies: the status, or `None` where it went through.
fn through_each(proxy: &Proxy, host: &str, port: u16) -> [bool; 3] {
    let plain = harness::client::get(proxy.http(), &format!("http://{host}:{port}/")).status;
    let connect = Client::connect(proxy.http()).tunnel(&format!("{host}:{port}")).status;
    let socks = Client::connect(proxy.socks5()).socks5_name(host, port);
    assert!(matches!((plain, connect, socks), (299 | 403, 200 | 403, Some(0 | 2))), "{host}: {plain} {connect} {socks:?}");
    [plain == 299, connect == 200, socks == Some(0)]
}

#[test]
fn it_is_asked_about_what_no_rule_allows_by_every_protocol() {
    let (proxy, asked) = start(LOCAL);
    let (origin, echo) = (Origin::start(), Echo::start());
    for (host, passes, decision, reason) in [
        ("allow.test", true, "allow", "allow"),
        ("deny.test", false, "deny", "not_approved"),
        ("ask.test", false, "ask", "needs_approval"),
        ("silent.test", false, "deny", "decider_timeout"),
        ("panic.test", false, "deny", "decider_failed"),
    ] {
        let (before, decided) = (count(&asked), proxy.decisions().len());
        assert_eq!(through_each(&proxy, host, origin.port()), [passes; 3], "{host}");
        let association = Association::open(proxy.socks5());
        // Asked once for the flow.
        if passes {
            assert!(association.echo(host, echo.port(), "one") && association.echo(host, echo.port(), "two"));
        } else {
            let dropped = proxy.dropped().len();
            association.send(host, echo.port(), "one");
            assert_eq!(proxy.drops(dropped + 1), netproxy::Dropped::Denied, "{host}");
        }
        let asked = asked.lock().unwrap()[before..].to_vec();
        let protocols: Vec<Protocol> = asked.iter().map(|request| request.protocol).collect();
        assert_eq!(protocols, [Protocol::Http, Protocol::Connect, Protocol::Socks5Tcp, Protocol::Socks5Udp], "{host}");
        assert!(asked.iter().all(|request| request.host == host && request.client.ip().is_loopback()));
        assert!(asked.iter().all(|request| request.command.as_deref() == Some("make test")));
        assert!(asked.iter().all(|request| request.exec_policy_hint.as_deref() == Some("prompt")));
        assert_eq!((asked[0].port, asked[0].method.as_deref(), asked[1].method.as_deref()), (origin.port(), Some("GET"), None));
        // One decision each, and who took it.
        let seen = proxy.decisions()[decided..].to_vec();
        assert_eq!(seen.len(), 4, "{seen:?}");
        assert!(seen.iter().all(|seen| (seen.decision, seen.verdict.as_str(), seen.source) == (decision, reason, "decider")), "{seen:?}");
    }
    // What a rule allows costs no question.
    let before = count(&asked);
    assert_eq!(through_each(&proxy, "allowed.test", origin.port()), [true; 3]);
    assert_eq!(count(&asked), before);
}

#[test]
fn its_denials_say_whose_they_are() {
    let (proxy, _) = start(LOCAL);
    for (host, decision, reason) in
        [("deny.test", "deny", "not_approved"), ("ask.test", "ask", "needs_approval"), ("silent.test", "deny", "decider_timeout")]
    {
        let answer = harness::client::get(proxy.http(), &format!("http://{host}:80/"));
        assert_eq!((answer.status, answer.header("x-proxy-error")), (403, Some("blocked-by-allowlist")));
        let json = answer.json();
        let said = [&json["source"], &json["decision"], &json["reason"], &json["host"]].map(|value| value.as_str().unwrap().to_owned());
        assert_eq!(said, ["decider", decision, reason, host]);
        let tunnel = Client::connect(proxy.http()).tunnel(&format!("{host}:443"));
        assert!(tunnel.status == 403 && tunnel.text().contains(reason), "{}", tunnel.text());
    }
}

#[test]
fn it_is_never_asked_about_anything_else() {
    // With and without local addresses open, and with the policy off.
    for settings in ["", LOCAL, "mode = \"limited\""] {
        let (proxy, asked) = start(settings);
        for host in [
            "denied.test",
            "localhost",
            "x.localhost",
            "127.0.0.1",
            "10.1.2.3",
            "169.254.169.254",
            "192.168.0.1",
            "metadata.google.internal",
            "127.1",
            "0x7f000001",
            "2130706433",
            "017700000001",
        ] {
            // In limited mode, what is not denied before it is asked about is denied after.
            let answer = harness::client::get(proxy.http(), &format!("http://{host}:9/"));
            assert_eq!(answer.status, 403, "{host} with {settings:?}");
            assert_ne!(answer.json()["source"], "decider", "{host}");
            assert_eq!(Client::connect(proxy.http()).tunnel(&format!("{host}:9")).status, 403, "{host}");
        }
        let socket = "GET http://x.test/ HTTP/1.1\r\nHost: x.test\r\nX-Unix-Socket: /tmp/none.sock\r\nConnection: close\r\n\r\n";
        assert_eq!(Client::connect(proxy.http()).send(socket).answer().status, 403);
        assert_eq!(count(&asked), 0, "with {settings:?}: {:?}", asked.lock().unwrap());
    }
}

#[test]
fn its_word_opens_no_address_and_no_mode() {
    let (proxy, asked) = start("");
    let answer = harness::client::get(proxy.http(), "http://private.test:80/");
    assert_eq!((answer.status, answer.blocked_reason().as_str()), (403, "not_allowed_local"));
    assert_eq!(answer.json()["source"], "baseline_policy");
    assert_eq!(count(&asked), 1);
    let seen = proxy.decisions();
    assert_eq!((seen.len(), seen[0].verdict.as_str(), seen[0].source), (1, "not_allowed_local", "baseline_policy"));
    // A network that is denied, to which the name leads.
    let deciding = |_: PolicyRequest| async { Answer::Allow };
    let toml = policy(LOCAL, &[("127.0.0.0/8", "deny")]);
    let proxy = Proxy::with(&toml, &names(), |builder| builder.policy_decider(deciding));
    let answer = harness::client::get(proxy.http(), "http://allow.test:80/");
    assert_eq!((answer.status, answer.blocked_reason().as_str()), (403, "denied"));
    // Limited mode lets through what reads.
    let origin = Origin::start();
    let (proxy, _) = start(&format!("{LOCAL}\nmode = \"limited\""));
    let at = format!("allow.test:{}", origin.port());
    let ask = |method: &str| {
        let asked = format!("{method} http://{at}/ HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        Client::connect(proxy.http()).send(asked).answer_to(method)
    };
    assert_eq!(ask("GET").status, 299);
    let answer = ask("PUT");
    assert_eq!((answer.status, answer.blocked_reason().as_str()), (403, "method_not_allowed"));
    assert_eq!(Client::connect(proxy.socks5()).socks5_name("allow.test", origin.port()), Some(2), "it cannot be read");
}

#[test]
fn an_override_is_for_one_request_and_its_connection_is_nobodys_right() {
    let allows = Arc::new(AtomicUsize::new(2));
    let left = Arc::clone(&allows);
    let decider = move |_: PolicyRequest| {
        let may = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        async move { if may { Answer::Allow } else { Answer::Deny("used_up".to_owned()) } }
    };
    let proxy = Proxy::with(&policy(LOCAL, &[("allowed.test", "allow")]), &names(), |builder| builder.policy_decider(decider));
    let origin = Origin::start();
    let at = format!("allow.test:{}", origin.port());
    let mut client = Client::connect(proxy.http());
    let mut statuses = Vec::new();
    for _ in 0..4 {
        client.send(format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\n\r\n"));
        statuses.push(client.answer().status);
    }
    assert_eq!(statuses, [299, 299, 403, 403]);
    assert_eq!((origin.connections(), origin.requests().len()), (1, 2), "the second went over the connection of the first");
    assert_eq!(proxy.ends(2).iter().map(|ended| ended.ending).collect::<Vec<_>>(), [Ending::Done; 2]);
    let seen: Vec<_> = proxy.decisions().into_iter().map(|seen| (seen.decision, seen.source)).collect();
    assert_eq!(seen, [("allow", "decider"), ("allow", "decider"), ("deny", "decider"), ("deny", "decider")]);
}

#[test]
fn a_tunnel_that_it_let_on_stays_until_a_policy_denies_it() {
    let (proxy, asked) = start(LOCAL);
    let origin = Origin::echo();
    let open = || {
        let mut client = Client::connect(proxy.http());
        assert_eq!(client.tunnel(&format!("allow.test:{}", origin.port())).status, 200);
        assert_eq!(client.send("ping").bytes(4), b"ping");
        client
    };
    let mut client = open();
    // Still no rule allows it.
    proxy.swap(&policy(LOCAL, &[("other.test", "allow")]));
    wait_until("it is decided again", || proxy.handle().tunnels(0, 1)[0].generation == 2);
    assert_eq!(client.send("still").bytes(5), b"still");
    assert_eq!(count(&asked), 1, "it is not asked again");
    proxy.swap(&policy(LOCAL, &[("allow.test", "deny")]));
    assert!(client.rest().is_empty());
    assert_eq!(proxy.ends(1)[0].ending, Ending::Revoked);
    // Its address counts too, and its mode.
    for settings in ["enable_socks5_udp = true", "allow_local_binding = true\nmode = \"limited\""] {
        proxy.swap(&policy(LOCAL, &[("other.test", "allow")]));
        let mut client = open();
        proxy.swap(&policy(settings, &[("other.test", "allow")]));
        assert!(client.rest().is_empty(), "{settings}");
    }
}

#[test]
fn inside_a_tunnel_that_it_let_on_requests_go_on_as_the_mode_lets_them() {
    let (authority, origin) = (Authority::new(), Origin::start());
    let front = Front::of(&origin, authority.server(&["allow.test"], &["http/1.1"]));
    let asked = Asked::default();
    let seen = Arc::clone(&asked);
    let decider = move |request: PolicyRequest| {
        seen.lock().unwrap().push(request);
        async { Answer::Allow }
    };
    let roots = authority.file();
    let toml = policy(&format!("{LOCAL}\nmode = \"limited\""), &[("allowed.test", "allow")]);
    let proxy = Proxy::with(&toml, &names(), |builder| {
        builder.policy_decider(decider).environment([("SSL_CERT_FILE".to_owned(), roots.to_str().unwrap().to_owned())])
    });
    let at = format!("allow.test:{}", front.port());
    let trust = trusting(proxy.policy().authority_pem().unwrap(), &["http/1.1"]);
    let mut client = through(proxy.http(), &at, &trust).unwrap().client;
    for (method, status) in [("GET", 299), ("PUT", 403), ("GET", 299)] {
        let asked = format!("{method} / HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.send(asked).answer_to(method).status, status, "{method}");
    }
    assert_eq!(count(&asked), 1, "once, for the tunnel");
    let seen: Vec<_> = proxy.decisions().into_iter().map(|seen| (seen.protocol, seen.decision, seen.source)).collect();
    let https = |decision, source| (Protocol::Https, decision, source);
    let expected =
        [(Protocol::Connect, "allow", "decider"), https("allow", "decider"), https("deny", "mode_guard"), https("allow", "decider")];
    assert_eq!(seen, expected);
}

type Never = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A decider that never answers: how often it was asked, and how often nobody waited for it any more.
fn silent() -> (impl Fn(PolicyRequest) -> Never + Send + Sync, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    struct Given(Arc<AtomicUsize>);
    impl Drop for Given {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (asked, given_up) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (count, end) = (Arc::clone(&asked), Arc::clone(&given_up));
    let decider = move |_: PolicyRequest| {
        count.fetch_add(1, Ordering::SeqCst);
        let given = Given(Arc::clone(&end));
        let never: Never = Box::pin(async move {
            let _given = given;
            pending().await
        });
        never
    };
    (decider, asked, given_up)
}

/// The association ends with its control connection, and what waits in it with the association.
#[test]
fn an_association_that_ends_meanwhile_takes_its_datagrams_along_and_tells_of_them() {
    let (decider, asked, given_up) = silent();
    let proxy = Proxy::with(&policy(LOCAL, &[("allowed.test", "allow")]), &names(), |builder| builder.policy_decider(decider));
    let association = Association::open(proxy.socks5());
    association.send("allow.test", 9, "one").send("allow.test", 9, "two").send("ask.test", 9, "three");
    wait_until("both are asked about", || asked.load(Ordering::SeqCst) == 2);
    assert!(proxy.decisions().is_empty() && proxy.dropped().is_empty());
    drop(association);
    wait_until("nobody is asked any more", || given_up.load(Ordering::SeqCst) == 2);
    wait_until("it is told", || proxy.decisions().len() == 2 && proxy.dropped().len() >= 2);
    assert!(proxy.decisions().iter().all(|seen| (seen.protocol, seen.verdict.as_str()) == (Protocol::Socks5Udp, "not_allowed")));
    assert!(proxy.dropped().iter().all(|why| *why == Dropped::NotSent), "{:?}", proxy.dropped());
}

/// Of a stream, as of a connection.
#[test]
fn a_stream_that_is_reset_meanwhile_is_asked_about_no_more() {
    let authority = Authority::new();
    let origin = Http2Origin::start(authority.server(&["allowed.test"], &["h2"]), 299, &[]);
    let (decider, asked, given_up) = silent();
    let roots = authority.file();
    let toml = format!("{}\n", policy(LOCAL, &[])) + "\"allowed.test\" = { access = \"allow\", methods = [\"GET\"] }\n";
    let proxy = Proxy::with(&toml, &names(), |builder| {
        builder.policy_decider(decider).environment([("SSL_CERT_FILE".to_owned(), roots.to_str().unwrap().to_owned())])
    });
    let at = format!("allowed.test:{}", origin.port());
    let trust = trusting(proxy.policy().authority_pem().unwrap(), &["h2"]);
    let mut client = Http2::over(through(proxy.http(), &at, &trust).unwrap());
    let begun = client.begin("PUT", &at, "/");
    wait_until("it is asked about", || asked.load(Ordering::SeqCst) == 1);
    let https = || proxy.decisions().into_iter().filter(|seen| seen.protocol == Protocol::Https).collect::<Vec<_>>();
    assert!(https().is_empty());
    drop(begun);
    wait_until("nobody is asked any more", || given_up.load(Ordering::SeqCst) == 1);
    wait_until("it is told", || https().len() == 1);
    assert_eq!(https()[0].verdict, "not_allowed");
    // The connection goes on.
    assert_eq!(client.ask("GET", &at, "/", &[], None).unwrap().status, 299);
    assert_eq!((asked.load(Ordering::SeqCst), origin.requests().len()), (1, 1));
}

#[test]
fn who_goes_away_is_asked_about_no_more() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (asked, dropped) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let (count, end) = (Arc::clone(&asked), Arc::clone(&dropped));
    let never = Arc::new(Notify::new());
    let decider = move |_: PolicyRequest| {
        count.fetch_add(1, Ordering::SeqCst);
        let (held, never) = (Dropped(Arc::clone(&end)), Arc::clone(&never));
        async move {
            never.notified().await;
            drop(held);
            Answer::Allow
        }
    };
    let proxy = Proxy::with(&policy(LOCAL, &[("allowed.test", "allow")]), &names(), |builder| builder.policy_decider(decider));
    let mut plain = Client::connect(proxy.http());
    plain.send("GET http://allow.test/ HTTP/1.1\r\nHost: allow.test\r\n\r\n");
    let mut connect = Client::connect(proxy.http());
    connect.send("CONNECT allow.test:443 HTTP/1.1\r\nHost: allow.test:443\r\n\r\n");
    wait_until("both are asked about", || asked.load(Ordering::SeqCst) == 2);
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    drop((plain, connect));
    wait_until("nobody is asked any more", || dropped.load(Ordering::SeqCst) == 2);
    // What they asked for was not allowed, and that is known.
    wait_until("it is told", || proxy.decisions().len() == 2);
    assert!(proxy.decisions().iter().all(|seen| seen.verdict == "not_allowed"));
    assert!(proxy.ended().is_empty());
}
