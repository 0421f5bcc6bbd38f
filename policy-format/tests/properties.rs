//! The blob against models of it: what was built is what is read, decisions agree with a naive matcher, and changed bytes do no more than be refused or
//! decide otherwise. (`trie.rs` has names alone, `versions.rs` every byte.)

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test that cannot go on panics")]

use policy_format::{
    Access, Blob, BlobBuilder, Decision, Hook, Host, Hosts, Layer, Meta, Mode, Network, Pattern, ProfileId, Profiles, Protocol, Reason,
    Request, RuleInput, Source, decide, decide_address, glob, named_by, reseal,
};
use proptest::prelude::*;
use std::net::IpAddr;

fn meta() -> Meta {
    Meta { profile: "test".into(), ..Meta::default() }
}

fn input(pattern: &str, access: Access, line: u32) -> RuleInput {
    RuleInput::new(Pattern::parse(pattern).unwrap(), access, Source { layer: Layer::User, label: "config.toml".into() }, line)
}

fn build(meta: Meta, rules: &[(&str, Access)]) -> Vec<u8> {
    let mut builder = BlobBuilder::new(meta);
    for (line, (pattern, access)) in (1..).zip(rules) {
        builder.rule(input(pattern, *access, line));
    }
    builder.build().unwrap()
}

fn ask(blob: &Blob<Vec<u8>>, host: &str, port: u16, method: Option<&str>, addresses: &[&str]) -> String {
    let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    let host = Host::parse(host).unwrap();
    let protocol = if method.is_some() { Protocol::Http } else { Protocol::Connect };
    shown(
        blob,
        &Request {
            profile: ProfileId::default(),
            protocol,
            host: &host,
            port,
            method,
            path: None,
            addresses: &addresses,
            inside: None,
            can_intercept: false,
        },
    )
}

fn shown(blob: &Blob<Vec<u8>>, request: &Request<'_>) -> String {
    match decide(blob, request) {
        Decision::Allow(allowed) => format!("allow {}", blob.rule(allowed.rule).unwrap()),
        Decision::Deny(denied) => match denied.rule {
            Some(rule) => format!("{} {}", denied.reason, blob.rule(rule).unwrap()),
            None => denied.reason.to_string(),
        },
    }
}

const ALLOW: Access = Access::Allow;
const DENY: Access = Access::Deny;
const READ: Access = Access::ReadOnly;

#[test]
fn decides_in_the_order_of_the_contract() {
    let rules = [
        ("api.alpha.test", ALLOW),
        ("*.beta.test", ALLOW),
        ("**.gamma.test", ALLOW),
        ("www.beta.test", DENY),
        ("only.port.test:8443", ALLOW),
        ("docs.read.test", READ),
        ("region*.cdn.test", ALLOW),
        ("10.20.0.0/16", ALLOW),
        ("10.20.9.0/24", DENY),
        ("127.0.0.1:5432", ALLOW),
        ("localhost:3000", ALLOW),
        ("8.8.8.8", ALLOW),
        ("198.51.100.0/24", DENY),
        ("metadata.google.internal", ALLOW),
    ];
    let blob = Blob::open(build(meta(), &rules)).unwrap();
    let get = Some("GET");
    type Case = (&'static str, u16, Option<&'static str>, &'static [&'static str], &'static str);
    let cases: &[Case] = &[
        ("api.alpha.test", 443, None, &[], "allow api.alpha.test"),
        ("API.Alpha.Test.", 443, None, &["1.2.3.4"], "allow api.alpha.test"),
        ("x.api.alpha.test", 443, None, &[], "not_allowed"),
        ("beta.test", 443, None, &[], "not_allowed"),
        ("a.b.beta.test", 443, None, &[], "allow *.beta.test"),
        ("www.beta.test", 443, None, &[], "denied www.beta.test"),
        ("gamma.test", 443, None, &[], "allow **.gamma.test"),
        ("a.gamma.test", 443, None, &[], "allow **.gamma.test"),
        ("xgamma.test", 443, None, &[], "not_allowed"),
        ("only.port.test", 8443, None, &[], "allow only.port.test:8443"),
        ("only.port.test", 443, None, &[], "not_allowed"),
        ("region1.cdn.test", 443, None, &[], "allow region*.cdn.test"),
        ("cdn.test", 443, None, &[], "not_allowed"),
        ("docs.read.test", 80, get, &[], "allow docs.read.test"),
        ("docs.read.test", 80, Some("POST"), &[], "method_not_allowed docs.read.test"),
        ("docs.read.test", 80, Some("get"), &[], "method_not_allowed docs.read.test"),
        ("docs.read.test", 443, None, &[], "mitm_required docs.read.test"),
        // Addresses.
        ("8.8.8.8", 443, None, &[], "allow 8.8.8.8"),
        ("8.8.4.4", 443, None, &[], "not_allowed"),
        ("::ffff:8.8.8.8", 443, None, &[], "not_allowed"),
        ("10.20.1.1", 443, None, &[], "allow 10.20.0.0/16"),
        ("10.20.9.1", 443, None, &[], "denied 10.20.9.0/24"),
        ("::ffff:10.20.9.1", 443, None, &[], "denied 10.20.9.0/24"),
        ("10.21.1.1", 443, None, &[], "not_allowed_local"),
        ("127.0.0.1", 5432, None, &[], "allow 127.0.0.1:5432"),
        ("127.0.0.1", 5433, None, &[], "not_allowed_local"),
        ("localhost", 3000, None, &["127.0.0.1", "::1"], "allow localhost:3000"),
        ("localhost", 3000, None, &["10.0.0.1"], "not_allowed_local"),
        ("localhost", 3001, None, &[], "not_allowed_local"),
        ("x.localhost", 3000, None, &[], "not_allowed_local"),
        ("169.254.169.254", 80, None, &[], "not_allowed_local"),
        ("127.1", 5432, None, &[], "not_allowed"),
        // Names that resolve.
        ("api.alpha.test", 443, None, &["127.0.0.1"], "not_allowed_local"),
        ("api.alpha.test", 5432, None, &["127.0.0.1"], "allow api.alpha.test"),
        ("api.alpha.test", 443, None, &["1.2.3.4", "192.168.0.1"], "not_allowed_local"),
        ("api.alpha.test", 443, None, &["10.20.1.1"], "allow api.alpha.test"),
        ("api.alpha.test", 443, None, &["10.20.9.1"], "denied 10.20.9.0/24"),
        ("api.alpha.test", 443, None, &["64:ff9b::c633:6401"], "denied 198.51.100.0/24"),
        ("api.alpha.test", 443, None, &["::ffff:10.20.1.1"], "not_allowed_local"),
        ("metadata.google.internal", 80, None, &["169.254.169.254"], "not_allowed_local"),
    ];
    for (host, port, method, addresses, expected) in cases {
        assert_eq!(&ask(&blob, host, *port, *method, addresses), expected, "{host}:{port} {method:?} {addresses:?}");
    }
}

/// A rule with methods and paths, asked by plain requests and by tunnels.
#[test]
fn methods_and_paths_are_part_of_a_match() {
    let text = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
    type Rule = (&'static str, Access, &'static [&'static str], &'static [&'static str]);
    let rules: &[Rule] = &[
        ("api.test", ALLOW, &["GET", "POST"], &["/v1/", "/health"]),
        ("**.wide.test", ALLOW, &[], &[]),
        ("part.wide.test", DENY, &["DELETE"], &[]),
        ("admin.wide.test", DENY, &[], &["/admin"]),
        ("docs.wide.test", READ, &[], &["/private"]),
        ("also.wide.test", ALLOW, &["GET"], &[]),
        ("10.0.0.0/8", ALLOW, &["GET"], &[]),
        ("8.8.8.8", DENY, &["POST"], &[]),
    ];
    let mut builder = BlobBuilder::new(meta());
    for (line, (pattern, access, methods, paths)) in (1..).zip(rules) {
        builder.rule(RuleInput { methods: text(methods), paths: text(paths), ..input(pattern, *access, line) });
    }
    let blob = Blob::open(builder.build().unwrap()).unwrap();
    // Method and path of a plain request, or none for a tunnel.
    type Case = (&'static str, Option<(&'static str, &'static str)>, &'static [&'static str], &'static str);
    let cases: &[Case] = &[
        ("api.test", Some(("GET", "/v1/x")), &[], "allow api.test"),
        ("api.test", Some(("GET", "/health")), &[], "allow api.test"),
        ("api.test", Some(("GET", "/healthy")), &[], "not_allowed"),
        ("api.test", Some(("PUT", "/v1/x")), &[], "not_allowed"),
        ("api.test", Some(("GET", "/v1/../admin")), &[], "not_allowed"),
        ("api.test", Some(("GET", "/v1/%2e%2e/admin")), &[], "not_allowed"),
        ("api.test", None, &[], "mitm_required api.test"),
        ("part.wide.test", Some(("GET", "/")), &[], "allow **.wide.test"),
        ("part.wide.test", Some(("DELETE", "/")), &[], "denied part.wide.test"),
        ("part.wide.test", None, &[], "mitm_required part.wide.test"),
        ("admin.wide.test", Some(("GET", "/")), &[], "allow **.wide.test"),
        ("admin.wide.test", Some(("GET", "/admin/x")), &[], "denied admin.wide.test"),
        ("admin.wide.test", Some(("GET", "/x/../admin")), &[], "denied admin.wide.test"),
        ("admin.wide.test", Some(("GET", "//admin")), &[], "denied admin.wide.test"),
        ("admin.wide.test", Some(("GET", "/%61dmin")), &[], "denied admin.wide.test"),
        ("admin.wide.test", Some(("GET", "/admin;x")), &[], "denied admin.wide.test"),
        ("admin.wide.test", Some(("GET", "/Admin/x")), &[], "allow **.wide.test"),
        ("admin.wide.test", Some(("GET", "/administrator")), &[], "allow **.wide.test"),
        ("admin.wide.test", Some(("OPTIONS", "*")), &[], "denied admin.wide.test"),
        ("part.wide.test", Some(("delete", "/")), &[], "denied part.wide.test"),
        ("api.test", Some(("get", "/v1/x")), &[], "not_allowed"),
        ("api.test", Some(("GET", "/V1/x")), &[], "not_allowed"),
        ("api.test", Some(("GET", "/v1/..;/x")), &[], "not_allowed"),
        ("docs.wide.test", Some(("POST", "/private/x")), &[], "method_not_allowed docs.wide.test"),
        ("docs.wide.test", Some(("POST", "/public")), &[], "allow **.wide.test"),
        ("docs.wide.test", None, &[], "mitm_required docs.wide.test"),
        ("also.wide.test", None, &[], "allow **.wide.test"),
        ("10.1.1.1", Some(("GET", "/")), &[], "allow 10.0.0.0/8"),
        ("10.1.1.1", Some(("POST", "/")), &[], "not_allowed_local"),
        ("10.1.1.1", None, &[], "mitm_required 10.0.0.0/8"),
        ("x.wide.test", Some(("GET", "/")), &["10.1.1.1"], "allow **.wide.test"),
        ("x.wide.test", Some(("POST", "/")), &["10.1.1.1"], "not_allowed_local"),
        ("x.wide.test", Some(("POST", "/")), &["8.8.8.8"], "denied 8.8.8.8"),
        ("x.wide.test", None, &["8.8.8.8"], "mitm_required 8.8.8.8"),
    ];
    for (host, seen, addresses, expected) in cases {
        let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let host = Host::parse(host).unwrap();
        let (method, path) = seen.map_or((None, None), |(method, path)| (Some(method), Some(path)));
        let protocol = if seen.is_some() { Protocol::Http } else { Protocol::Connect };
        let request = Request {
            profile: ProfileId::default(),
            protocol,
            host: &host,
            port: 80,
            method,
            path,
            addresses: &addresses,
            inside: None,
            can_intercept: false,
        };
        assert_eq!(&shown(&blob, &request), expected, "{host} {seen:?} {addresses:?}");
    }
    let rule = blob.rules().find(|rule| rule.hosts == "api.test").unwrap();
    assert_eq!((rule.methods, rule.paths), (text(&["GET", "POST"]), text(&["/health", "/v1/"])));
}

#[test]
fn a_hooked_host_passes_nothing_that_cannot_be_read() {
    let mut builder = BlobBuilder::new(meta());
    builder.rule(input("**.test", ALLOW, 1));
    builder.hook(Hook {
        name: "h".into(),
        host: "*.hooked.test".into(),
        methods: vec!["GET".into()],
        path_prefixes: vec!["/".into()],
        query: Vec::new(),
        headers: Vec::new(),
        strip_request_headers: vec!["authorization".into()],
        inject_request_headers: Vec::new(),
        strip_response_headers: Vec::new(),
        source: Source { layer: Layer::User, label: "config.toml".into() },
        line: 2,
        profiles: Profiles::default(),
    });
    let blob = Blob::open(builder.build().unwrap()).unwrap();
    assert_eq!(blob.hooks().len(), 1);
    for (host, method, expected) in [
        ("a.hooked.test", None, "mitm_required"),
        ("a.hooked.test", Some("GET"), "mitm_required"),
        ("hooked.test", None, "allow **.test"),
        ("other.test", Some("GET"), "allow **.test"),
    ] {
        assert_eq!(ask(&blob, host, 443, method, &[]), expected, "{host} {method:?}");
    }
}

#[test]
fn local_binding_opens_all_but_metadata_services() {
    let open = Meta { allow_local_binding: true, ..meta() };
    let any = Blob::open(build(open.clone(), &[("*", ALLOW), ("evil.test", DENY)])).unwrap();
    for (host, addresses, expected) in [
        ("10.0.0.1", &[][..], "allow *"),
        ("a.test", &["192.168.0.1"], "allow *"),
        ("evil.test", &[], "denied evil.test"),
        ("169.254.169.254", &[], "not_allowed_local"),
        ("::ffff:169.254.169.254", &[], "not_allowed_local"),
        ("168.63.129.16", &[], "not_allowed_local"),
        ("a.test", &["169.254.169.254"], "not_allowed_local"),
        ("metadata.google.internal", &[], "not_allowed_local"),
        ("2130706433", &[], "not_allowed"),
    ] {
        assert_eq!(ask(&any, host, 80, None, addresses), expected, "{host} {addresses:?}");
    }
    let named =
        Blob::open(build(open, &[("metadata.google.internal", ALLOW), ("169.254.0.0/16", ALLOW), ("fd00:ec2::254", ALLOW)])).unwrap();
    assert_eq!(ask(&named, "metadata.google.internal", 80, None, &["169.254.169.254"]), "allow metadata.google.internal");
    assert_eq!(ask(&named, "169.254.169.254", 80, None, &[]), "not_allowed_local", "a network is not an exact name");
    assert_eq!(ask(&named, "fd00:ec2::254", 80, None, &[]), "allow fd00:ec2::254");
}

#[test]
fn limited_mode_reads_only() {
    let blob = Blob::open(build(Meta { mode: Mode::Limited, ..meta() }, &[("a.test", ALLOW)])).unwrap();
    assert_eq!(ask(&blob, "a.test", 80, Some("OPTIONS"), &[]), "allow a.test");
    assert_eq!(ask(&blob, "a.test", 80, Some("TRACE"), &[]), "method_not_allowed");
    assert_eq!(ask(&blob, "a.test", 443, None, &[]), "mitm_required");
    assert_eq!(ask(&blob, "b.test", 443, None, &[]), "not_allowed");
}

#[test]
fn a_policy_that_is_off_allows_nothing() {
    for network in [Network::Blocked, Network::Direct] {
        let blob = Blob::open(build(Meta { network, ..meta() }, &[("*", ALLOW)])).unwrap();
        assert_eq!(ask(&blob, "a.test", 80, None, &[]), Reason::ProxyDisabled.as_str());
    }
}

#[test]
fn a_pattern_matches_what_a_rule_of_it_decides() {
    let hosts = [
        "example.com",
        "www.example.com",
        "a.b.example.com",
        "notexample.com",
        "com",
        "region1.eu.cdn.test",
        "8.8.8.8",
        "10.1.2.3",
        "::ffff:10.1.2.3",
        "::ffff:8.8.8.8",
        "2606:4700::1111",
        "127.1",
        "2130706433",
    ];
    let patterns =
        ["example.com", "*.example.com", "**.example.com", "**.com", "region*.cdn.test", "8.0.0.0/8", "10.1.2.3", "2606:4700::/32"];
    let (mut matched, mut carried) = (0, 0);
    for pattern in patterns {
        let parsed = Pattern::parse(pattern).unwrap().hosts;
        let denying = Blob::open(build(meta(), &[("*", ALLOW), (pattern, DENY)])).unwrap();
        let allowing = Blob::open(build(Meta { allow_local_binding: true, ..meta() }, &[(pattern, ALLOW)])).unwrap();
        for text in hosts {
            let host = Host::parse(text).unwrap();
            assert_eq!(parsed.denies(&host), ask(&denying, text, 443, None, &[]).starts_with("denied"), "deny {pattern}, {text}");
            assert_eq!(parsed.matches(&host), ask(&allowing, text, 443, None, &[]).starts_with("allow"), "allow {pattern}, {text}");
            matched += usize::from(parsed.matches(&host));
            carried += usize::from(parsed.denies(&host) && !parsed.matches(&host));
        }
    }
    assert_eq!((matched, carried), (15, 2));
    let any = Pattern::parse("*").unwrap().hosts;
    let allowing = Blob::open(build(Meta { allow_local_binding: true, ..meta() }, &[("*", ALLOW)])).unwrap();
    for text in hosts {
        assert_eq!(any.matches(&Host::parse(text).unwrap()), ask(&allowing, text, 443, None, &[]).starts_with("allow"), "*, {text}");
    }
}

#[test]
fn the_order_of_rules_does_not_matter() {
    let rules = [("b.test", ALLOW), ("*.a.test", DENY), ("10.0.0.0/8", ALLOW), ("x*.a.test", ALLOW), ("*", ALLOW), ("10.1.0.0/16", DENY)];
    let write = |order: &mut dyn Iterator<Item = usize>| {
        let mut builder = BlobBuilder::new(meta());
        for index in order {
            let (pattern, access) = rules[index];
            builder.rule(input(pattern, access, u32::try_from(index).unwrap()));
        }
        builder.build().unwrap()
    };
    assert_eq!(write(&mut (0..rules.len())), write(&mut (0..rules.len()).rev()));
}

/// Asks enough to touch every section; panics are the failure.
fn exercise(blob: &Blob<Vec<u8>>) {
    for host in
        ["a.test", "x.b.test", "c.test", "d.c.e.test", "several.test", "us-1.x.glob.test", "10.1.2.3", "2001:db8::1", "other", "127.1"]
    {
        for port in [80, 443] {
            ask_raw(blob, host, port);
        }
    }
    assert!(blob.rules().count() <= blob.rule_count() as usize);
}

fn ask_raw(blob: &Blob<Vec<u8>>, host: &str, port: u16) {
    let host = Host::parse(host).unwrap();
    let addresses = ["10.1.2.3".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let _ = decide(
        blob,
        &Request {
            profile: ProfileId::default(),
            protocol: Protocol::Connect,
            host: &host,
            port,
            method: None,
            path: None,
            addresses: &addresses,
            inside: None,
            can_intercept: false,
        },
    );
}

/// The rules of a name by their text, the way a person would check them.
fn naive(rules: &[(String, Access)], host: &str) -> &'static str {
    let matches = |pattern: &str| match (pattern.strip_prefix("**."), pattern.strip_prefix("*.")) {
        (Some(base), _) => host == base || host.ends_with(&format!(".{base}")),
        (None, Some(base)) => host.ends_with(&format!(".{base}")),
        (None, None) => pattern == "*" || host == pattern,
    };
    let any = |access: Access| rules.iter().any(|(pattern, a)| *a == access && matches(pattern));
    if any(DENY) {
        "denied"
    } else if any(ALLOW) {
        "allow"
    } else {
        "not_allowed"
    }
}

fn name() -> impl Strategy<Value = String> {
    proptest::collection::vec("[ab]{1,2}|[a-c]{30}", 1..5).prop_map(|labels| labels.join("."))
}

fn rule() -> impl Strategy<Value = (String, Access)> {
    (prop_oneof![Just(""), Just("*."), Just("**.")], name(), prop_oneof![Just(ALLOW), Just(DENY)])
        .prop_map(|(prefix, name, access)| (format!("{prefix}{name}"), access))
}

fn steps_match(steps: &[glob::Op<'_>], name: &[u8]) -> bool {
    match (steps, name) {
        ([], name) => name.is_empty(),
        ([glob::Op::AnyRun, rest @ ..], name) => (0..=name.len()).any(|from| steps_match(rest, &name[from..])),
        ([step, rest @ ..], [byte, name @ ..]) => step.takes(*byte) && steps_match(rest, name),
        (_, []) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn globs_have_the_rank_of_the_first_of_their_programs_that_matches(
        globs in proptest::collection::btree_set("(\\*\\.|\\*\\*\\.)?([ab.*?]|\\{[ab*]{0,2},[ab?]{1,2}\\}|\\[!?a\\]){1,6}[ab]", 1..20),
        hosts in proptest::collection::vec("[ab]{1,3}(\\.[ab]{1,3}){0,2}", 1..20),
    ) {
        let globs: Vec<(&str, glob::Glob)> = globs.iter().filter_map(|text| match Pattern::parse(text).ok()?.hosts {
            Hosts::Glob(glob) => Some((text.as_str(), glob)),
            _ => None,
        }).collect();
        let blob = Blob::open(build(meta(), &globs.iter().map(|(text, _)| (*text, ALLOW)).collect::<Vec<_>>())).unwrap();
        for host in hosts {
            let parsed = Host::parse(&host).unwrap();
            let request = Request { profile: ProfileId::default(), protocol: Protocol::Connect, host: &parsed, port: 443, method: None, path: None, addresses: &[], inside: None, can_intercept: false };
            let mut named: Vec<(String, usize)> = named_by(&blob, &request).into_iter().map(|named| (blob.rule(named.rule).unwrap().hosts, named.rank)).collect();
            let rank = |glob: &glob::Glob| {
                let program = glob.programs().iter().find(|program| steps_match(&glob::ops(program).collect::<Vec<_>>(), host.as_bytes()))?;
                Some((glob.text().to_owned(), glob::ops(program).filter(|op| matches!(op, glob::Op::Literal(_))).count()))
            };
            let mut expected: Vec<(String, usize)> = globs.iter().filter_map(|(_, glob)| rank(glob)).collect();
            named.sort();
            expected.sort();
            prop_assert_eq!(named, expected, "{}", host);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_trie_agrees_with_a_naive_matcher(rules in proptest::collection::vec(rule(), 0..40), hosts in proptest::collection::vec(name(), 1..40)) {
        let borrowed: Vec<(&str, Access)> = rules.iter().map(|(pattern, access)| (pattern.as_str(), *access)).collect();
        let blob = Blob::open(build(meta(), &borrowed)).unwrap();
        for host in hosts {
            let answer = ask(&blob, &host, 443, None, &[]);
            prop_assert_eq!(answer.split(' ').next().unwrap(), naive(&rules, &host), "{}: {}", host, answer);
        }
    }

    #[test]
    fn what_was_built_is_what_is_read(rules in proptest::collection::vec(rule(), 0..60)) {
        let borrowed: Vec<(&str, Access)> = rules.iter().map(|(pattern, access)| (pattern.as_str(), *access)).collect();
        let blob = Blob::open(build(meta(), &borrowed)).unwrap();
        let mut read: Vec<(String, Access, u32)> = blob.rules().map(|rule| (rule.hosts, rule.access, rule.line)).collect();
        let mut written: Vec<(String, Access, u32)> = (1..).zip(rules).map(|(line, (pattern, access))| (pattern, access, line)).collect();
        read.sort();
        written.sort();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn networks_agree_with_a_bit_by_bit_reference(
        networks in proptest::collection::vec((any::<u32>(), 0_u8..=32, any::<bool>()), 0..20),
        probes in proptest::collection::vec(any::<u32>(), 1..20),
    ) {
        let networks: Vec<(policy_format::net::Network, Access)> = networks
            .into_iter()
            .map(|(addr, prefix, deny)| {
                let network = policy_format::net::Network::new(IpAddr::V4(addr.into()), prefix).unwrap();
                (network, if deny { DENY } else { ALLOW })
            })
            .collect();
        let texts: Vec<(String, Access)> = networks.iter().map(|(network, access)| (network.to_string(), *access)).collect();
        let borrowed: Vec<(&str, Access)> = texts.iter().map(|(pattern, access)| (pattern.as_str(), *access)).collect();
        let blob = Blob::open(build(Meta { allow_local_binding: true, ..meta() }, &borrowed)).unwrap();
        // Edges of the networks are where mistakes are.
        let edges = networks.iter().flat_map(|(network, _)| match network.addr() {
            IpAddr::V4(v4) => [v4.to_bits(), v4.to_bits().wrapping_sub(1)],
            IpAddr::V6(_) => [0, 0],
        });
        for probe in probes.into_iter().chain(edges) {
            let ip = IpAddr::V4(probe.into());
            if policy_format::net::is_metadata_address(ip) {
                continue;
            }
            let holds = |access: Access| networks.iter().any(|(network, a)| *a == access && network.contains(ip));
            let expected = if holds(DENY) { "denied" } else if holds(ALLOW) { "allow" } else { "not_allowed" };
            let answer = ask(&blob, &ip.to_string(), 443, None, &[]);
            prop_assert_eq!(answer.split(' ').next().unwrap(), expected, "{}", ip);
        }
    }

    #[test]
    fn no_bytes_make_open_or_decide_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut blob = include_bytes!("../../tests/golden/v1.0/everything.bin").to_vec();
        for (at, value) in changes {
            let at = at.index(blob.len());
            blob[at] = value;
        }
        reseal(&mut blob);
        if let Ok(blob) = Blob::open(blob) {
            exercise(&blob);
        }
    }
}

#[test]
fn the_step_for_addresses_alone_says_what_the_decision_says() {
    let rules = [
        ("*.beta.test", ALLOW),
        ("localhost", ALLOW),
        ("metadata", ALLOW),
        ("10.20.0.0/16", ALLOW),
        ("10.20.9.0/24", DENY),
        ("8.8.8.0/24:443", DENY),
    ];
    for local in [false, true] {
        let blob = Blob::open(build(Meta { allow_local_binding: local, ..meta() }, &rules)).unwrap();
        for host in ["a.beta.test", "localhost", "metadata"] {
            let host = Host::parse(host).unwrap();
            for ip in
                ["1.1.1.1", "8.8.8.8", "10.20.1.1", "10.20.9.1", "10.9.9.9", "127.0.0.1", "169.254.169.254", "::ffff:10.20.9.1", "fd00::1"]
            {
                let addresses = [ip.parse::<IpAddr>().unwrap()];
                for port in [80, 443] {
                    let request = Request {
                        profile: ProfileId::default(),
                        protocol: Protocol::Connect,
                        host: &host,
                        port,
                        method: None,
                        path: None,
                        addresses: &addresses,
                        inside: None,
                        can_intercept: false,
                    };
                    let alone = decide_address(&blob, &Request { addresses: &[], ..request }, addresses[0]).err();
                    let whole = match decide(&blob, &request) {
                        Decision::Allow(_) => None,
                        Decision::Deny(denied) => Some(denied),
                    };
                    assert_eq!(alone, whole, "{host} {ip} {port} {local}");
                }
            }
        }
    }
}
