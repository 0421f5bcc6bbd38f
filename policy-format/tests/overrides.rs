//! What somebody beside the policy says: to hold it to more, or to let on what it does not name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use policy_format::{
    Access, Blob, BlobBuilder, Decision, Host, Intercepted, Layer, Meta, Mode, Overrides, Pattern, ProfileId, Protocol, Reason, Request,
    RuleId, RuleInput, Source, decide, decide_with,
};

const RULES: [(&str, Access); 5] = [
    ("allowed.test", Access::Allow),
    ("reads.test", Access::ReadOnly),
    ("denied.test", Access::Deny),
    ("203.0.113.0/24", Access::Deny),
    ("**.wide.test", Access::Allow),
];

fn build(meta: Meta) -> Blob<Vec<u8>> {
    build_with(meta, &[])
}

fn build_with(meta: Meta, more: &[(&str, Access)]) -> Blob<Vec<u8>> {
    let mut builder = BlobBuilder::new(Meta { profile: "test".into(), ..meta });
    for (pattern, access) in RULES.iter().chain(more).copied() {
        let source = Source { layer: Layer::User, label: "config.toml".into() };
        builder.rule(RuleInput::new(Pattern::parse(pattern).unwrap(), access, source, 1));
    }
    Blob::open(builder.build().unwrap()).unwrap()
}

fn asked<'a>(host: &'a Host, protocol: Protocol, method: Option<&'a str>) -> Request<'a> {
    Request { protocol, method, path: method.map(|_| "/"), can_intercept: true, ..Request::connect(host, 443) }
}

const GRANTED: Overrides = Overrides { mode: None, granted: true, with_rule: false };

/// `allow` or the reason.
fn said(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow(_) => "allow",
        Decision::Deny(denied) => denied.reason.as_str(),
    }
}

#[test]
fn what_is_granted_stands_in_for_a_rule_that_is_missing_and_for_nothing_else() {
    for local in [false, true] {
        let blob = build(Meta { allow_local_binding: local, ..Meta::default() });
        for (host, by_itself, granted) in [
            ("other.test", "not_allowed", "allow"),
            ("198.51.101.9", "not_allowed", "allow"),
            ("allowed.test", "allow", "allow"),
            ("denied.test", "denied", "denied"),
            ("203.0.113.7", "denied", "denied"),
            ("127.1", "not_allowed", "not_allowed"),
            ("0x7f000001", "not_allowed", "not_allowed"),
            ("metadata.google.internal", "not_allowed", "not_allowed_local"),
            ("169.254.169.254", if local { "not_allowed" } else { "not_allowed_local" }, "not_allowed_local"),
        ] {
            let host = Host::parse(host).unwrap();
            let request = asked(&host, Protocol::Http, Some("GET"));
            assert_eq!(said(decide(&blob, &request)), by_itself, "{host}, {local}");
            assert_eq!(said(decide_with(&blob, &request, GRANTED)), granted, "{host}, {local}");
        }
        // Where it leads is decided on as ever.
        let host = Host::parse("other.test").unwrap();
        for (ip, expected) in [
            ("198.51.101.9", "allow"),
            ("203.0.113.7", "denied"),
            ("10.0.0.1", if local { "allow" } else { "not_allowed_local" }),
            ("169.254.169.254", "not_allowed_local"),
        ] {
            let addresses = [ip.parse().unwrap()];
            let request = Request { addresses: &addresses, ..asked(&host, Protocol::Connect, None) };
            assert_eq!(said(decide_with(&blob, &request, GRANTED)), expected, "{ip}, {local}");
        }
    }
}

/// What is said with a rule more is what a policy says that has it.
#[test]
fn as_if_a_rule_were_there_is_as_a_policy_that_has_it() {
    for (local, mode) in [(false, Mode::Full), (true, Mode::Full), (false, Mode::Limited)] {
        let meta = || Meta { allow_local_binding: local, mode, ..Meta::default() };
        for host in [
            "other.test",
            "allowed.test",
            "reads.test",
            "denied.test",
            "x.wide.test",
            "198.51.101.9",
            "203.0.113.7",
            "10.0.0.1",
            "127.0.0.1",
            "::1",
            "fd00::1",
            "::ffff:203.0.113.7",
            "169.254.169.254",
            "localhost",
            "x.localhost",
            "metadata.google.internal",
        ] {
            let parsed = Host::parse(host).unwrap();
            let with = build_with(meta(), &[(host, Access::Allow)]);
            for (protocol, method) in [
                (Protocol::Http, Some("GET")),
                (Protocol::Http, Some("PUT")),
                (Protocol::Connect, None),
                (Protocol::Socks5Tcp, None),
                (Protocol::Socks5Udp, None),
            ] {
                for ip in [None, Some("198.51.101.9"), Some("203.0.113.7"), Some("10.0.0.1"), Some("127.0.0.1"), Some("169.254.169.254")] {
                    let addresses: Vec<_> = ip.into_iter().map(|ip| ip.parse().unwrap()).collect();
                    let request = Request { addresses: &addresses, ..asked(&parsed, protocol, method) };
                    let tried = decide_with(&build(meta()), &request, Overrides { with_rule: true, ..Overrides::default() });
                    // A rule that only reads, and is as close, keeps its say.
                    if host != "reads.test" {
                        assert_eq!(said(tried), said(decide(&with, &request)), "{host} {protocol} {method:?} {ip:?} {local} {mode}");
                    }
                }
            }
        }
    }
    let lookalike = Host::parse("127.1").unwrap();
    let tried = Overrides { with_rule: true, ..Overrides::default() };
    assert_eq!(said(decide_with(&build(Meta::default()), &asked(&lookalike, Protocol::Connect, None), tried)), "not_allowed");
}

#[test]
fn no_rule_is_named_for_what_none_allows() {
    let blob = build(Meta::default());
    let host = Host::parse("other.test").unwrap();
    let decision = decide_with(&blob, &asked(&host, Protocol::Connect, None), GRANTED);
    assert!(matches!(decision, Decision::Allow(allowed) if allowed.rule == RuleId(u32::MAX)), "{decision:?}");
    assert!(blob.rule(RuleId(u32::MAX)).is_none());
    let host = Host::parse("allowed.test").unwrap();
    let decision = decide_with(&blob, &asked(&host, Protocol::Connect, None), GRANTED);
    assert!(matches!(decision, Decision::Allow(allowed) if blob.rule(allowed.rule).is_some()), "{decision:?}");
}

#[test]
fn a_policy_whose_mode_is_set_decides_as_one_that_has_that_mode() {
    let (full, limited) = (build(Meta::default()), build(Meta { mode: Mode::Limited, ..Meta::default() }));
    for host in ["allowed.test", "reads.test", "denied.test", "other.test", "x.wide.test"] {
        let host = Host::parse(host).unwrap();
        for (protocol, method) in [
            (Protocol::Http, Some("GET")),
            (Protocol::Http, Some("PUT")),
            (Protocol::Https, Some("POST")),
            (Protocol::Connect, None),
            (Protocol::Socks5Tcp, None),
            (Protocol::Socks5Udp, None),
        ] {
            for can_intercept in [false, true] {
                for granted in [false, true] {
                    let request = Request { can_intercept, ..asked(&host, protocol, method) };
                    for (mode, other, same) in [(Mode::Limited, &full, &limited), (Mode::Full, &limited, &full)] {
                        let held = decide_with(other, &request, Overrides { mode: Some(mode), granted, with_rule: false });
                        let own = decide_with(same, &request, Overrides { mode: None, granted, with_rule: false });
                        assert_eq!(held, own, "{mode} {host} {protocol} {method:?} {can_intercept} {granted}");
                        // What it says itself can be set, too.
                        assert_eq!(decide_with(same, &request, Overrides { mode: Some(mode), granted, with_rule: false }), own);
                    }
                }
            }
        }
    }
    assert_eq!(full.intercepted_with(ProfileId::default(), Some(Mode::Limited)), limited.intercepted(ProfileId::default()));
    assert_eq!(limited.intercepted_with(ProfileId::default(), Some(Mode::Full)), full.intercepted(ProfileId::default()));
    let named = |blob: &Blob<Vec<u8>>| match blob.intercepted(ProfileId::default()) {
        Intercepted::Hosts(hosts) => hosts.len(),
        Intercepted::All => usize::MAX,
    };
    assert!(named(&full) < named(&limited));
    let host = Host::parse("other.test").unwrap();
    let decision = decide(&full, &asked(&host, Protocol::Connect, None));
    assert!(matches!(decision, Decision::Deny(denied) if denied.reason == Reason::NotAllowed));
}
