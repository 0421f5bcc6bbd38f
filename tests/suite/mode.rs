//! The mode, set while the proxy runs.

use harness::tls::{Authority, Front, through, trusting};
use harness::{Client, Names, Origin, Proxy, policy, wait_until};
use netproxy::{Ending, ModeError};
use policy_format::Mode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const LOCAL: &str = "allow_local_binding = true";

fn names() -> Names {
    Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])])
}

fn ask(proxy: &Proxy, method: &str, port: u16) -> u16 {
    let asked = format!("{method} http://a.test:{port}/ HTTP/1.1\r\nHost: a.test:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    Client::connect(proxy.http()).send(asked).answer_to(method).status
}

#[test]
fn limited_mode_comes_and_goes_as_swaps_do() {
    let origin = Origin::start();
    let proxy = Proxy::start(&policy(LOCAL, &[("a.test", "allow")]), &names());
    let (handle, port) = (proxy.handle(), origin.port());
    assert_eq!((ask(&proxy, "POST", port), handle.mode_override()), (299, None));
    assert_eq!(handle.set_mode(Some(Mode::Limited)).unwrap(), 2);
    assert_eq!((ask(&proxy, "POST", port), ask(&proxy, "GET", port)), (403, 299));
    assert_eq!((proxy.policy().mode(), proxy.policy().meta().mode, handle.health().mode), (Mode::Limited, Mode::Full, Mode::Limited));
    // The same again is nothing new.
    assert_eq!(handle.set_mode(Some(Mode::Limited)).unwrap(), 2);
    // It holds for policies that follow.
    assert_eq!(proxy.swap(&policy(LOCAL, &[("a.test", "allow"), ("b.test", "allow")])), 3);
    assert_eq!((ask(&proxy, "POST", port), handle.mode_override()), (403, Some(Mode::Limited)));
    assert_eq!(handle.set_mode(None).unwrap(), 4);
    assert_eq!((ask(&proxy, "POST", port), proxy.policy().mode()), (299, Mode::Full));
    // Full is what the policy says.
    assert_eq!(handle.set_mode(Some(Mode::Full)).unwrap(), 4);
    // A policy that is limited stays that, whatever was set before.
    proxy.swap(&policy(&format!("{LOCAL}\nmode = \"limited\""), &[("a.test", "allow")]));
    assert_eq!((ask(&proxy, "POST", port), proxy.policy().mode()), (403, Mode::Limited));
    let refused = handle.set_mode(Some(Mode::Full));
    assert!(matches!(&refused, Err(ModeError::Looser { profile }) if profile == "workspace"), "{refused:?}");
    assert_eq!(handle.set_mode(None).unwrap(), proxy.policy().generation());
    assert_eq!(ask(&proxy, "POST", port), 403);
    let reasons: Vec<String> = proxy.decisions().into_iter().filter(|seen| seen.decision == "deny").map(|seen| seen.verdict).collect();
    assert_eq!(reasons, ["method_not_allowed"; 4]);
}

#[test]
fn a_tunnel_that_is_not_read_ends_with_limited_mode_and_those_that_follow_are_read() {
    let authority = Authority::new();
    let origin = Origin::start();
    let front = Front::of(&origin, authority.server(&["a.test"], &["http/1.1"]));
    let roots = authority.file();
    let toml = policy(LOCAL, &[("a.test", "allow")]);
    let proxy = Proxy::with_environment(&toml, &names(), &[("SSL_CERT_FILE", roots.to_str().unwrap())]);
    let at = format!("a.test:{}", front.port());
    assert!(proxy.policy().authority_pem().is_none(), "nothing is opened");
    // End to end, with the origin's own certificate.
    let mut client = through(proxy.http(), &at, &trusting(&authority.pem, &["http/1.1"])).unwrap().client;
    assert_eq!(client.send(format!("POST / HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\n\r\n")).answer().status, 299);
    proxy.handle().set_mode(Some(Mode::Limited)).unwrap();
    assert!(client.rest().is_empty());
    assert_eq!(proxy.ends(1)[0].ending, Ending::Revoked);
    let trust = trusting(proxy.policy().authority_pem().unwrap(), &["http/1.1"]);
    let mut client = through(proxy.http(), &at, &trust).unwrap().client;
    assert_eq!(client.send(format!("GET / HTTP/1.1\r\nHost: {at}\r\n\r\n")).answer().status, 299);
    assert_eq!(client.send(format!("PUT / HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\n\r\n")).answer().status, 403);
    proxy.handle().set_mode(None).unwrap();
    assert!(proxy.policy().authority_pem().is_none());
    let mut client = through(proxy.http(), &at, &trusting(&authority.pem, &["http/1.1"])).unwrap().client;
    assert_eq!(client.send(format!("PUT / HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\n\r\n")).answer().status, 299);
}

#[test]
fn under_load_every_request_is_decided_by_one_mode() {
    let origin = Origin::start();
    let echo = Origin::echo();
    let proxy = Proxy::start(&policy(LOCAL, &[("a.test", "allow")]), &names());
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    struct StopOnDrop<'a>(&'a AtomicBool);
    impl Drop for StopOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let at = format!("a.test:{}", origin.port());
                let mut client = Client::connect(proxy.http());
                while !stop.load(Ordering::Relaxed) {
                    client.send(format!("POST http://{at}/ HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\n\r\n"));
                    let status = client.answer().status;
                    assert!(matches!(status, 299 | 403), "{status}");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _stop = StopOnDrop(&stop);
        for round in 0..10 {
            let mut tunnel = Client::connect(proxy.http());
            assert_eq!(tunnel.tunnel(&format!("a.test:{}", echo.port())).status, 200);
            assert_eq!(tunnel.send("ping").bytes(4), b"ping");
            proxy.handle().set_mode(Some(Mode::Limited)).unwrap();
            assert!(tunnel.rest().is_empty(), "the tunnel ends with its mode");
            assert_eq!(ask(&proxy, "POST", origin.port()), 403);
            proxy.handle().set_mode(None).unwrap();
            assert_eq!(ask(&proxy, "POST", origin.port()), 299);
            let enough = 20 * (round + 1);
            wait_until("requests go on", || asked.load(Ordering::Relaxed) >= enough);
        }
    });
    // What was decided under a limited generation, which are the even ones, was denied; and the rest allowed.
    let decisions = proxy.decisions();
    assert!(decisions.len() > 200);
    for seen in decisions.iter().filter(|seen| seen.method.is_some()) {
        let expected = if seen.generation % 2 == 0 { "method_not_allowed" } else { "allow" };
        assert_eq!(seen.verdict, expected, "{seen:?}");
    }
}
