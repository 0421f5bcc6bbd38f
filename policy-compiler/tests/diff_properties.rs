//! The comparison of policies against brute force: every request of a small universe is put to both policies, and the answers are those that the comparison gives.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::diff::{Diff, NameKind, Reach, Surface, Witness, compare};
use policy_format::net::is_metadata_name;
use policy_format::{
    Access, Blob, BlobBuilder, Decision, Hook, Host, Layer, Meta, MitmMode, Mode, Network, Pattern, PortRange, Protocol, Request,
    RuleInput, Source, decide,
};
use proptest::prelude::*;
use std::net::IpAddr;

const PATTERNS: &[&str] = &[
    "a",
    "b.a",
    "c.b.a",
    "ab.a",
    "c",
    "*.a",
    "**.a",
    "*.b.a",
    "**.b.a",
    "**.c",
    "*.c.b",
    "localhost",
    "*.localhost",
    "metadata",
    "*",
    "192.0.2.0/30",
    "192.0.2.1",
    "192.0.2.0/31",
    "8.8.8.8",
    "8.8.8.0/30",
    "2001:db8::/127",
    "::ffff:8.8.8.8",
    "127.0.0.1",
    "169.254.169.254",
    "2001::/32",
    "2001:0:808:808::/64",
    "2001:0:808:808::f7f7:f7f0/124",
    "2001:0:4136:e378::f7f7:f7f7",
    "240.0.0.0/4",
    "a*.b",
    "?b.c",
    "*b*.c",
    "a*",
    "*.?b",
    "{a,b}.c",
    "{a,b*}.b",
    "**.[!a].c",
    "x*",
    "c?",
];
const HOOKED: &[&str] = &["a", "*.b", "**.c", "8.8.8.8"];
const LABELS: &[&str] = &["a", "b", "c", "ab"];
const OTHERS: &[&str] = &[
    "x",
    "xb.c",
    "x.a",
    "z.b.a",
    "bb",
    "abab.b",
    "localhost",
    "a.localhost",
    "metadata",
    "a.metadata",
    "metadata.goog",
    "192.0.2.0",
    "192.0.2.1",
    "192.0.2.3",
    "192.0.2.4",
    "8.8.8.7",
    "8.8.8.8",
    "8.8.8.9",
    "2001:db8::",
    "2001:db8::1",
    "2001:db8::2",
    "::ffff:8.8.8.8",
    "::ffff:8.8.8.9",
    "64:ff9b::808:808",
    "2002:808:808::1",
    "127.0.0.1",
    "::1",
    "169.254.169.254",
    "169.254.1.1",
    "127.1",
    "2606:4700::1",
    "2001:0:808:808::f7f7:f7f7",
    "2001:0:808:808::3fff:fdfe",
    "2001:0:808:808::f7f7:f7f6",
    "2001:0:4136:e378::f7f7:f7f7",
    "2001:0:4136:e378::1:f7f7:f7f7",
    "2001:0:4136:e378::f000",
    "2001:0:4136:e378::3fff:fdfe",
    "2001:0:a9fe:a9fe::f7f7:f7f7",
];
const ADDRESSES: &[&str] = &[
    "192.0.2.0",
    "192.0.2.1",
    "192.0.2.3",
    "8.8.8.8",
    "8.8.8.9",
    "2001:db8::1",
    "2001:db8::2",
    "::ffff:8.8.8.8",
    "::ffff:192.0.2.1",
    "127.0.0.1",
    "169.254.169.254",
    "2002:808:808::1",
    "2001:0:808:808::f7f7:f7f7",
    "2001:0:808:808::3fff:fdfe",
    "2001:0:808:808::f7f7:f7f6",
    "2001:0:4136:e378::f7f7:f7f7",
    "2001:0:4136:e378::1:f7f7:f7f7",
    "2001:0:4136:e378::f000",
    "2001:0:4136:e378::3fff:fdfe",
    "2001:0:a9fe:a9fe::f7f7:f7f7",
];
const PATHS: &[&str] = &["/", "/x", "/x/", "/x/y", "/x/y/z", "/xz", "/a/../b"];
const PORTS: u16 = 3;
/// An optimised build does forty times as many in the same time.
const CASES: u32 = if cfg!(debug_assertions) { 100 } else { 4000 };

#[derive(Debug, Clone)]
struct Rule {
    pattern: &'static str,
    access: Access,
    ports: Vec<PortRange>,
    methods: Vec<String>,
    paths: Vec<String>,
}

#[derive(Debug, Clone)]
struct Policy {
    network: Network,
    mode: Mode,
    local: bool,
    mitm: MitmMode,
    hooks: Vec<&'static str>,
    rules: Vec<Rule>,
}

fn rule() -> impl Strategy<Value = Rule> {
    let access = prop_oneof![4 => Just(Access::Allow), 2 => Just(Access::Deny), 1 => Just(Access::ReadOnly)];
    let ports = prop_oneof![3 => Just(None), 2 => (1..=PORTS, 0..2_u16).prop_map(Some)];
    let methods = prop_oneof![4 => Just(vec![]), 1 => proptest::sample::subsequence(vec!["GET", "POST"], 1..=2)];
    let paths = prop_oneof![4 => Just(vec![]), 1 => proptest::sample::subsequence(vec!["/", "/x", "/x/", "/x/y"], 1..=2)];
    (proptest::sample::select(PATTERNS), access, ports, methods, paths).prop_map(|(pattern, access, ports, methods, paths)| Rule {
        // `*` is never a deny.
        access: if pattern == "*" && access == Access::Deny { Access::Allow } else { access },
        pattern,
        ports: ports.map(|(first, more)| PortRange { first, last: first + more }).into_iter().collect(),
        methods: methods.into_iter().map(str::to_owned).collect(),
        paths: paths.into_iter().map(str::to_owned).collect(),
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    proptest::collection::vec(rule(), 0..5)
}

type Settings = (Network, Mode, bool, MitmMode, Vec<&'static str>);

fn settings() -> impl Strategy<Value = Settings> {
    (
        prop_oneof![12 => Just(Network::Proxied), 1 => Just(Network::Blocked)],
        prop_oneof![6 => Just(Mode::Full), 1 => Just(Mode::Limited)],
        prop_oneof![4 => Just(false), 1 => Just(true)],
        prop_oneof![6 => Just(MitmMode::Auto), 1 => Just(MitmMode::Always)],
        prop_oneof![4 => Just(vec![]), 1 => proptest::sample::subsequence(HOOKED, 1..=2)],
    )
}

/// Two policies that share some of their rules, and mostly their settings.
fn pair() -> impl Strategy<Value = (Policy, Policy)> {
    let policy = |(network, mode, local, mitm, hooks): Settings, rules: Vec<Vec<Rule>>| Policy {
        network,
        mode,
        local,
        mitm,
        hooks,
        rules: rules.concat(),
    };
    (settings(), prop_oneof![2 => Just(None), 1 => settings().prop_map(Some)], rules(), rules(), rules()).prop_map(
        move |(one, other, shared, old, new)| {
            (policy(one.clone(), vec![shared.clone(), old]), policy(other.unwrap_or(one), vec![new, shared]))
        },
    )
}

fn source() -> Source {
    Source { layer: Layer::User, label: "config.toml".into() }
}

fn build(policy: &Policy) -> Blob<Vec<u8>> {
    let mut meta = Meta { network: policy.network, mode: policy.mode, allow_local_binding: policy.local, ..Meta::default() };
    meta.mitm.mode = policy.mitm;
    let mut builder = BlobBuilder::new(meta);
    for (line, rule) in (1..).zip(&policy.rules) {
        let mut input = RuleInput::new(Pattern::parse(rule.pattern).unwrap(), rule.access, source(), line);
        (input.ports, input.methods, input.paths) = (rule.ports.clone(), rule.methods.clone(), rule.paths.clone());
        builder.rule(input);
    }
    for (number, host) in policy.hooks.iter().enumerate() {
        builder.hook(Hook {
            name: format!("h{number}"),
            host: (*host).to_owned(),
            methods: vec![],
            path_prefixes: vec![],
            query: vec![],
            headers: vec![],
            strip_request_headers: vec![],
            inject_request_headers: vec![],
            strip_response_headers: vec![],
            source: source(),
            line: 1,
            profiles: policy_format::Profiles::default(),
        });
    }
    Blob::open(builder.build().unwrap()).unwrap()
}

fn hosts() -> Vec<Host> {
    let mut names: Vec<String> = LABELS.iter().map(|label| (*label).to_owned()).collect();
    let mut last = names.clone();
    for _ in 0..2 {
        last = last.iter().flat_map(|name| LABELS.iter().map(move |label| format!("{label}.{name}"))).collect();
        names.extend(last.clone());
    }
    names.extend(OTHERS.iter().map(|name| (*name).to_owned()));
    names.iter().map(|name| Host::parse(name).unwrap()).collect()
}

/// Every way to ask, apart from the host and the port; one path is enough where no rule speaks of paths.
fn ways(with_paths: bool) -> Vec<(Protocol, Option<&'static str>, Option<&'static str>)> {
    let mut ways = vec![(Protocol::Connect, None, None)];
    let paths = if with_paths { PATHS } else { &PATHS[..1] };
    for method in ["GET", "POST", "OPTIONS", "PUT", "post", "Get"] {
        ways.extend(paths.iter().map(|path| (Protocol::Http, Some(method), Some(*path))));
    }
    if with_paths {
        ways.extend([(Protocol::Http, Some("OPTIONS"), Some("*")), (Protocol::Socks5Tcp, None, None), (Protocol::Socks5Udp, None, None)]);
    }
    ways
}

fn allows(blob: &Blob<Vec<u8>>, request: &Request<'_>) -> bool {
    matches!(decide(blob, request), Decision::Allow(_))
}

fn flips(old: &Blob<Vec<u8>>, new: &Blob<Vec<u8>>, request: &Request<'_>) -> Option<Reach> {
    match (allows(old, request), allows(new, request)) {
        (false, true) => Some(Reach::Opened),
        (true, false) => Some(Reach::Closed),
        _ => None,
    }
}

fn holds(surfaces: &[Surface], request: &Request<'_>) -> bool {
    surfaces.iter().any(|surface| surface.holds(request))
}

fn check_witness(old: &Blob<Vec<u8>>, new: &Blob<Vec<u8>>, witness: &Witness, reach: Reach) -> Result<(), TestCaseError> {
    let request = Request {
        profile: policy_format::ProfileId::default(),
        protocol: witness.protocol,
        host: &witness.host,
        port: witness.port,
        method: witness.method.as_deref(),
        path: witness.path.as_deref(),
        addresses: witness.address.as_slice(),
        inside: None,
        can_intercept: false,
    };
    prop_assert_eq!(flips(old, new, &request), Some(reach), "{} does not show it", witness);
    Ok(())
}

/// What is reported is what brute force finds, request by request.
fn check(old: &Blob<Vec<u8>>, new: &Blob<Vec<u8>>, diff: &Diff) -> Result<(), TestCaseError> {
    let with_paths = [old, new].iter().any(|blob| blob.rules().any(|rule| !rule.paths.is_empty()));
    let (hosts, ways) = (hosts(), ways(with_paths));
    let addresses: Vec<IpAddr> = ADDRESSES.iter().map(|ip| ip.parse().unwrap()).collect();
    for (number, host) in hosts.iter().enumerate() {
        let changes: Vec<_> = diff.changes.iter().filter(|change| change.hosts.holds(host)).collect();
        let kind = if host.is_localhost() {
            NameKind::Localhost
        } else if is_metadata_name(&host.to_string()) {
            NameKind::Metadata
        } else {
            NameKind::Ordinary
        };
        for port in [1, 2, 3, 5] {
            for (protocol, method, path) in ways.iter().copied() {
                let request = Request {
                    profile: policy_format::ProfileId::default(),
                    protocol,
                    host,
                    port,
                    method,
                    path,
                    addresses: &[],
                    inside: None,
                    can_intercept: false,
                };
                let expected = flips(old, new, &request);
                let said: Vec<Reach> =
                    changes.iter().filter(|change| holds(&change.surfaces, &request)).map(|change| change.reach).collect();
                prop_assert_eq!(said.clone(), Vec::from_iter(expected), "{:?}", request);
                // The names of two labels or more are like those of one.
                let ordinary = (LABELS.len()..hosts.len() - OTHERS.len()).contains(&number);
                if ordinary || host.name().is_none() || !allows(old, &request) || !allows(new, &request) {
                    continue;
                }
                for ip in &addresses {
                    let request = Request { addresses: std::slice::from_ref(ip), ..request };
                    let said = diff
                        .resolutions
                        .iter()
                        .filter(|change| change.names == kind && change.addresses.holds(*ip) && holds(&change.surfaces, &request));
                    let said: Vec<Reach> = said.map(|change| change.reach).collect();
                    prop_assert_eq!(said, Vec::from_iter(flips(old, new, &request)), "{:?}", request);
                }
            }
        }
    }
    Ok(())
}

fn mirrored(reach: Reach) -> Reach {
    if reach == Reach::Opened { Reach::Closed } else { Reach::Opened }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn says_of_every_request_what_brute_force_says((old, new) in pair()) {
        let (old, new) = (build(&old), build(&new));
        let diff = compare(&old, &new).unwrap();
        check(&old, &new, &diff)?;
        for change in &diff.changes {
            check_witness(&old, &new, &change.witness, change.reach)?;
            prop_assert!(change.hosts.holds(&change.witness.host), "{} {}", change.hosts, change.witness);
        }
        for change in &diff.resolutions {
            check_witness(&old, &new, &change.witness, change.reach)?;
        }
    }

    #[test]
    fn is_nothing_for_the_same_and_the_mirror_for_the_reverse((old, new) in pair()) {
        let (old, new) = (build(&old), build(&new));
        prop_assert!(compare(&old, &old).unwrap().is_empty());
        let (there, back) = (compare(&old, &new).unwrap(), compare(&new, &old).unwrap());
        let count = |diff: &Diff, reach: Reach| diff.changes.iter().filter(|change| change.reach == reach).count();
        prop_assert_eq!(count(&there, Reach::Opened) == 0, count(&back, Reach::Closed) == 0);
        prop_assert_eq!(there.settings.len(), back.settings.len());
        for host in hosts().iter().step_by(11) {
            for (protocol, method, path) in ways(true) {
                let request = Request { profile: policy_format::ProfileId::default(), protocol, host, port: 1, method, path, addresses: &[], inside: None, can_intercept: false };
                prop_assert_eq!(there.at(&request), back.at(&request).map(mirrored));
            }
        }
    }
}
