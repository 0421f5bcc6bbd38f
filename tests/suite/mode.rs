//! The mode, set while the proxy runs.

use harness::tls::{Authority, Front, through, trusting};
use harness::{Client, Names, Origin, Proxy, compile_under, policy, wait_until};
use netproxy::{Ending, ModeError};
use policy_format::{
    Access, BlobBuilder, Constraints, Layer, Meta, Mode, Network, Pattern, ProfileId, Profiles, RuleInput, Settings, Source,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const LOCAL: &str = "allow_local_binding = true";

fn names() -> Names {
    Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])])
}

fn ask(proxy: &Proxy, method: &str, port: u16) -> u16 {
    ask_at(proxy, method, "a.test", port)
}

fn ask_at(proxy: &Proxy, method: &str, host: &str, port: u16) -> u16 {
    let asked = format!("{method} http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
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
    // It is no more than that: a policy that follows and is limited by itself is limited, until somebody sets full over it.
    let limited = policy(&format!("{LOCAL}\nmode = \"limited\""), &[("a.test", "allow")]);
    assert_eq!(proxy.swap(&limited), 5);
    assert_eq!((ask(&proxy, "POST", port), handle.mode_override()), (403, None));
    assert_eq!(handle.set_mode(Some(Mode::Full)).unwrap(), 6);
    assert_eq!((ask(&proxy, "POST", port), proxy.policy().mode(), proxy.policy().meta().mode), (299, Mode::Full, Mode::Limited));
    assert_eq!(proxy.reload(compile_under("[experimental_network]\nmode = \"limited\"\n", &limited)), 7);
    assert_eq!((ask(&proxy, "POST", port), proxy.policy().mode()), (403, Mode::Limited));
    let refused = handle.set_mode(Some(Mode::Full));
    assert!(matches!(&refused, Err(ModeError::Required { profile, layer: Layer::Managed }) if profile == "workspace"), "{refused:?}");
    assert_eq!(proxy.swap(&limited), 8);
    assert_eq!((ask(&proxy, "POST", port), handle.health().mode), (403, Mode::Limited));
    let reasons: Vec<String> = proxy.decisions().into_iter().filter(|seen| seen.decision == "deny").map(|seen| seen.verdict).collect();
    assert_eq!(reasons, ["method_not_allowed"; 5]);
}

/// A policy that allows `a.test`, and `b.test` for reading only. `told`: whether it tells what administrators hold, and who of them requires limited mode.
fn blob(own: Mode, told: Option<Option<Layer>>) -> Vec<u8> {
    let mut builder =
        BlobBuilder::new(Meta { profile: "w".into(), network: Network::Proxied, mode: own, allow_local_binding: true, ..Meta::default() });
    for (host, access) in [("a.test", Access::Allow), ("b.test", Access::ReadOnly)] {
        builder.rule(RuleInput {
            hosts: Pattern::parse(host).unwrap().hosts,
            ports: Vec::new(),
            access,
            methods: Vec::new(),
            paths: Vec::new(),
            reason: String::new(),
            source: Source { layer: Layer::User, label: "config.toml".into() },
            line: 1,
            profiles: Profiles::default(),
        });
    }
    let constraints = told.map(|mode_required| Constraints { mode_required, ..Constraints::default() });
    builder.settings(ProfileId(0), Settings { constraints, ..Settings::default() });
    builder.build().unwrap()
}

/// The policy's own mode, who requires what, and what is wanted: what is said to that, and the mode in force after it.
#[test]
fn a_mode_can_be_set_unless_an_administrator_requires_another() {
    use Mode::{Full, Limited};
    #[derive(Debug, PartialEq)]
    enum Said {
        Set,
        Required(Layer),
        Unknown,
    }
    use Said::{Required, Set, Unknown};
    // A blob that does not tell, and the three that do.
    let (untold, free) = (None, Some(None));
    let (managed, mdm) = (Some(Some(Layer::Managed)), Some(Some(Layer::Mdm)));
    let rows = [
        (Full, untold, None, Set, Full),
        (Full, untold, Some(Full), Set, Full),
        (Full, untold, Some(Limited), Set, Limited),
        (Full, free, None, Set, Full),
        (Full, free, Some(Full), Set, Full),
        (Full, free, Some(Limited), Set, Limited),
        // Which no compiler writes: it is no looser than it is.
        (Full, managed, Some(Full), Set, Full),
        (Full, managed, Some(Limited), Set, Limited),
        (Limited, untold, None, Set, Limited),
        (Limited, untold, Some(Full), Unknown, Limited),
        (Limited, untold, Some(Limited), Set, Limited),
        (Limited, free, None, Set, Limited),
        (Limited, free, Some(Full), Set, Full),
        (Limited, free, Some(Limited), Set, Limited),
        (Limited, managed, None, Set, Limited),
        (Limited, managed, Some(Full), Required(Layer::Managed), Limited),
        (Limited, managed, Some(Limited), Set, Limited),
        (Limited, mdm, None, Set, Limited),
        (Limited, mdm, Some(Full), Required(Layer::Mdm), Limited),
        (Limited, mdm, Some(Limited), Set, Limited),
    ];
    let origin = Origin::start();
    let proxy = Proxy::start(&policy(LOCAL, &[]), &names());
    let (handle, port) = (proxy.handle(), origin.port());
    let statuses = |mode: Mode| [(if mode == Full { 299 } else { 403 }), 299, 403, 299];
    let asked = || {
        [("POST", "a.test"), ("GET", "a.test"), ("POST", "b.test"), ("GET", "b.test")]
            .map(|(method, host)| ask_at(&proxy, method, host, port))
    };
    for (own, told, wanted, said, mode) in &rows {
        let row = format!("{own:?} {told:?} {wanted:?}");
        handle.set_mode(None).unwrap();
        let before = proxy.reload(blob(*own, *told));
        assert_eq!(proxy.policy().mode(), *own, "{row}");
        let set = handle.set_mode(*wanted);
        assert_eq!((proxy.policy().mode(), proxy.policy().meta().mode), (*mode, *own), "{row}");
        let generation = proxy.policy().generation();
        assert_eq!(generation - before, u64::from(mode != own), "{row}: a change is a swap, and nothing else is");
        assert_eq!(handle.mode_override(), wanted.filter(|_| *said == Set), "{row}");
        let found = match set {
            Ok(at) => {
                assert_eq!(at, generation, "{row}");
                Set
            }
            Err(ModeError::Required { layer, .. }) => Required(layer),
            Err(ModeError::Unknown { .. }) => Unknown,
            Err(other) => panic!("{row}: {other}"),
        };
        assert_eq!((&found, asked()), (said, statuses(*mode)), "{row}");
    }
    // Set before, limited mode holds for the next policy too; full mode was for the one before.
    for (own, told, wanted, _, mode) in &rows {
        let row = format!("{own:?} {told:?} {wanted:?} before");
        let before = [(Limited, free), (Full, free)].into_iter().find(|before| *before != (*own, *told)).unwrap();
        proxy.reload(blob(before.0, before.1));
        handle.set_mode(*wanted).unwrap();
        proxy.reload(blob(*own, *told));
        let kept = wanted.filter(|wanted| *wanted == Limited);
        let mode = if kept.is_some() { mode } else { own };
        assert_eq!((proxy.policy().mode(), handle.mode_override()), (*mode, kept), "{row}");
        assert_eq!(asked(), statuses(*mode), "{row}");
    }
    // And so it does where it is set from the start.
    for (own, told, wanted, _, mode) in rows.iter().filter(|row| row.2.is_some()) {
        let row = format!("{own:?} {told:?} {wanted:?} at the start");
        let proxy = Proxy::with(&policy(LOCAL, &[]), &names(), |builder| builder.policy(blob(*own, *told)).mode(wanted.unwrap()));
        assert_eq!((proxy.policy().mode(), proxy.policy().generation(), proxy.handle().mode_override()), (*mode, 1, *wanted), "{row}");
        assert_eq!(ask(&proxy, "POST", port), statuses(*mode)[0], "{row}");
        assert!(proxy.policy().authority_pem().is_some(), "{row}: `b.test` is read in every mode");
    }
}

/// What limited mode would have read passes unread in full mode, and ends when that does.
#[test]
fn full_mode_over_a_limited_policy_opens_no_tunnels_and_goes_as_it_came() {
    let (authority, echo) = (Authority::new(), Origin::echo());
    let origin = Origin::start();
    let front = Front::of(&origin, authority.server(&["a.test"], &["http/1.1"]));
    let toml = policy(&format!("{LOCAL}\nmode = \"limited\""), &[("a.test", "allow")]);
    let roots = authority.file();
    let proxy = Proxy::with_environment(&toml, &names(), &[("SSL_CERT_FILE", roots.to_str().unwrap())]);
    assert!(proxy.policy().authority_pem().is_some());
    for _ in 0..2 {
        proxy.handle().set_mode(Some(Mode::Full)).unwrap();
        assert!(proxy.policy().authority_pem().is_none(), "nothing is opened");
        let at = format!("a.test:{}", front.port());
        let mut client = through(proxy.http(), &at, &trusting(&authority.pem, &["http/1.1"])).unwrap().client;
        assert_eq!(client.send(format!("POST / HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\n\r\n")).answer().status, 299);
        let mut tunnel = Client::connect(proxy.http());
        assert_eq!(tunnel.tunnel(&format!("a.test:{}", echo.port())).status, 200);
        assert_eq!(tunnel.send("ping").bytes(4), b"ping");
        proxy.handle().set_mode(None).unwrap();
        assert!(tunnel.rest().is_empty() && client.rest().is_empty(), "tunnels end with the mode");
        let trust = trusting(proxy.policy().authority_pem().unwrap(), &["http/1.1"]);
        let mut client = through(proxy.http(), &at, &trust).unwrap().client;
        assert_eq!(client.send(format!("PUT / HTTP/1.1\r\nHost: {at}\r\nContent-Length: 0\r\n\r\n")).answer().status, 403);
    }
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
