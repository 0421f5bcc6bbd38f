//! `Allowed::unconditional`: what is said of one request holds of every other one to the same place, and where nothing asks for methods or paths, it is said.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use policy_format::{
    Access, Blob, BlobBuilder, Decision, Host, Layer, Meta, Mode, Pattern, ProfileId, Protocol, Request, RuleInput, Source, decide,
};
use proptest::prelude::*;
use proptest::sample::select;
use std::net::IpAddr;

const METHODS: [&str; 4] = ["GET", "POST", "get", "DELETE"];
const PATHS: [&str; 5] = ["/", "/v1/x", "/v1", "/a/../v1", "*"];

type Rule = (&'static str, Access, &'static [&'static str], &'static [&'static str]);

fn build(mode: Mode, rules: &[Rule]) -> Blob<Vec<u8>> {
    let text = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
    let mut builder = BlobBuilder::new(Meta { profile: "test".into(), mode, allow_local_binding: true, ..Meta::default() });
    for (pattern, access, methods, paths) in rules {
        let source = Source { layer: Layer::User, label: "config.toml".into() };
        let input = RuleInput::new(Pattern::parse(pattern).unwrap(), *access, source, 1);
        builder.rule(RuleInput { methods: text(methods), paths: text(paths), ..input });
    }
    Blob::open(builder.build().unwrap()).unwrap()
}

fn asked(blob: &Blob<Vec<u8>>, protocol: Protocol, host: &str, addresses: &[IpAddr], method: &str, path: &str) -> Decision {
    let (profile, host) = (ProfileId::default(), &Host::parse(host).unwrap());
    let (method, path) = if protocol == Protocol::Connect { (None, None) } else { (Some(method), Some(path)) };
    decide(blob, &Request { profile, protocol, host, port: 80, method, path, addresses, inside: None, can_intercept: true })
}

#[test]
fn what_asks_for_no_method_and_no_path_is_unconditional() {
    let rules: &[Rule] = &[
        ("**.test", Access::Allow, &[], &[]),
        ("reads.test", Access::ReadOnly, &[], &[]),
        ("never.test", Access::Deny, &["PURGE"], &[]),
        ("paths.test", Access::Allow, &[], &["/v1"]),
        ("port.test:81", Access::Deny, &["PURGE"], &[]),
        ("10.0.0.0/8", Access::Deny, &["PURGE"], &[]),
    ];
    // Host, address, and whether it is, in full mode; in limited mode nothing is.
    let cases = [
        ("a.test", "11.0.0.1", true),
        ("reads.test", "11.0.0.1", false),
        ("never.test", "11.0.0.1", false),
        ("paths.test", "11.0.0.1", false),
        ("port.test", "11.0.0.1", true),
        ("a.test", "10.0.0.1", false),
        ("a.test", "::ffff:10.0.0.1", false),
    ];
    for (mode, expected) in [(Mode::Full, true), (Mode::Limited, false)] {
        let blob = build(mode, rules);
        for (host, address, unconditional) in cases {
            let Decision::Allow(allowed) = asked(&blob, Protocol::Http, host, &[address.parse().unwrap()], "GET", "/v1/x") else {
                panic!("{host} is allowed");
            };
            assert_eq!(allowed.unconditional, unconditional && expected, "{mode} {host} {address}");
        }
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    (
        select(vec![
            "a.test",
            "b.a.test",
            "*.a.test",
            "**.test",
            "1.2.3.4",
            "1.2.3.0/24",
            "1.2.0.0/16",
            "a.test:80",
            "a.test:81",
            "b*.a.test",
        ]),
        select(vec![Access::Allow, Access::Allow, Access::Deny, Access::ReadOnly]),
        select(vec![&[][..], &[], &["GET"], &["POST", "GET"], &["DELETE"]]),
        select(vec![&[][..], &[], &["/"], &["/v1"], &["/v1/", "/b"]]),
    )
        // What is denied in any case is not what this is about.
        .prop_filter("a deny asks for something", |(_, access, methods, paths)| *access != Access::Deny || methods.len() + paths.len() > 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_unconditional_is_so_for_every_request(
        rules in proptest::collection::vec(rule(), 1..8),
        mode in select(vec![Mode::Full, Mode::Full, Mode::Full, Mode::Limited]),
    ) {
        let blob = build(mode, &rules);
        for (host, addresses) in [("a.test", vec![]), ("b.a.test", vec!["1.2.3.4"]), ("b.a.test", vec!["::ffff:1.2.9.9", "5.6.7.8"]), ("1.2.3.4", vec!["1.2.3.4"])] {
            let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
            for protocol in [Protocol::Http, Protocol::Https, Protocol::Connect] {
                let all: Vec<_> = METHODS
                    .iter()
                    .flat_map(|method| PATHS.iter().map(move |path| (method, path)))
                    .map(|(method, path)| asked(&blob, protocol, host, &addresses, method, path))
                    .collect();
                if let Some(whole) = all.iter().find(|decision| matches!(decision, Decision::Allow(allowed) if allowed.unconditional)) {
                    prop_assert!(all.iter().all(|decision| decision == whole), "{} {} {:?}", host, protocol, all);
                }
            }
        }
    }
}
