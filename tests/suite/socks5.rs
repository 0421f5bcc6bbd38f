//! SOCKS5 on the wire.

use harness::{Client, Names, Origin, Proxy, Refusing, policy};
use netproxy::{Lookup, Resolve};

fn world() -> (Origin, Proxy) {
    let origin = Origin::echo();
    let names = Names::new(&[("a.test", &["127.0.0.1"])]);
    let proxy = Proxy::start(
        &policy("allow_local_binding = true", &[("a.test", "allow"), ("127.0.0.1", "allow"), ("::1", "allow"), ("gone.test", "allow")]),
        &names,
    );
    (origin, proxy)
}

#[test]
fn connects_by_name_and_by_address() {
    let (origin, proxy) = world();
    for (kind, address) in [(3, &b"\x06a.test"[..]), (1, &[127, 0, 0, 1][..]), (4, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..])] {
        let mut client = Client::connect(proxy.socks5());
        assert_eq!(client.socks5(kind, address, origin.port()), Some(0), "address type {kind}");
        assert_eq!(client.send("ping").bytes(4), b"ping");
    }
}

#[test]
fn each_failure_has_its_own_reply() {
    let (_origin, proxy) = world();
    let refusing = Refusing::new();
    for (name, port, expected) in [
        ("b.test", 443, 2),
        ("a.test", refusing.port(), 5),
        ("gone.test", 443, 4),
        ("127.1", 80, 2),
        ("not a name", 80, 1),
        ("a.test", 0, 1),
    ] {
        assert_eq!(Client::connect(proxy.socks5()).socks5_name(name, port), Some(expected), "{name}:{port}");
    }
}

#[test]
fn a_time_out_has_its_own_reply() {
    struct Silent;
    impl Resolve for Silent {
        fn resolve<'a>(&'a self, _name: &'a str) -> Lookup<'a> {
            Box::pin(std::future::pending())
        }
    }
    let proxy = Proxy::with_resolver(&policy("", &[("a.test", "allow")]), Silent, &["resolve_timeout=10ms"]);
    assert_eq!(Client::connect(proxy.socks5()).socks5_name("a.test", 443), Some(6));
}

/// What is sent whole, and what must come back before the end.
#[test]
fn answers_every_odd_message_clearly() {
    let (_origin, proxy) = world();
    let cases: [(&str, &[u8], &[u8]); 10] = [
        ("UDP ASSOCIATE", b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", b"\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"),
        ("BIND", b"\x05\x01\x00\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", b"\x05\x00\x05\x07\x00\x01\x00\x00\x00\x00\x00\x00"),
        ("address type 2", b"\x05\x01\x00\x05\x01\x00\x02\x00", b"\x05\x00\x05\x08\x00\x01\x00\x00\x00\x00\x00\x00"),
        ("no acceptable method", b"\x05\x01\x01", b"\x05\xff"),
        ("no method", b"\x05\x00", b"\x05\xff"),
        (
            "password and a denied name",
            b"\x05\x01\x02\x01\x01u\x01p\x05\x01\x00\x03\x06b.test\x01\xbb",
            b"\x05\x02\x01\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00",
        ),
        ("a wrong version inside", b"\x05\x01\x00\x04\x01\x00\x01\x7f\x00\x00\x01\x00\x50", b"\x05\x00"),
        ("a wrong password version", b"\x05\x01\x02\x05\x01u\x01p", b"\x05\x02"),
        ("SOCKS4", b"\x04\x01\x00\x50\x7f\x00\x00\x01u\x00", b"\x00\x5b\x00\x00\x00\x00\x00\x00"),
        ("noise", b"\xff\xfe\xfd", b""),
    ];
    for (what, sent, expected) in cases {
        assert_eq!(Client::connect(proxy.socks5()).send(sent).finish().rest(), expected, "{what}");
    }
    let answer = Client::connect(proxy.socks5()).send("GET / HTTP/1.1\r\n\r\n").answer();
    assert!(answer.status == 400 && answer.text().contains("this is the SOCKS5 listener"), "{answer:?}");
    assert_eq!(Client::connect(proxy.http()).send(b"\x05\x01\x00").finish().rest(), b"\x05\xff");
    assert_eq!(Client::connect(proxy.http()).send(b"\x04\x01\x00\x50").finish().rest(), b"\x00\x5b\x00\x00\x00\x00\x00\x00");
    let tls = Client::connect(proxy.http()).send(b"\x16\x03\x01\x00\x05hello").answer();
    assert!(tls.status == 400 && tls.text().contains("not TLS"), "{tls:?}");
}

#[test]
fn a_policy_without_socks5_opens_no_listener() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.bin");
    harness::binaries::compile_to(&policy("enable_socks5 = false", &[]), &file);
    let proxy = harness::DataPlane::start(&["--policy", file.to_str().unwrap()]);
    assert_eq!(proxy.socks5(), None);
}
