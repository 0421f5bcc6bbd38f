//! A policy as TOML compiles to a policy that decides alike.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::decompile::{DecompileError, decompile};
use policy_compiler::diff::{DiffError, compare};
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options, compile};
use policy_format::{
    Access, Blob, BlobBuilder, Decision, Host, Layer, Listeners, Meta, Mode, Network, Pattern, PortRange, Protocol, Request, RuleInput,
    Source, UnixSockets, decide,
};
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeSet;

const PATTERNS: [&str; 16] = [
    "*",
    "a.test",
    "*.a.test",
    "**.a.test",
    "x.a.test",
    "b.test",
    "**.test",
    "x?.a.test",
    "{x,y}*.a.test",
    "localhost",
    "10.0.0.0/8",
    "10.1.2.3",
    "2001:db8::/32",
    "2001:db8::1",
    "8.8.8.8",
    "0.0.0.0/0",
];
const HOSTS: [&str; 12] = [
    "a.test",
    "x.a.test",
    "xy.a.test",
    "deep.x.a.test",
    "b.test",
    "other.example",
    "localhost",
    "10.1.2.3",
    "10.9.9.9",
    "2001:db8::1",
    "::ffff:10.1.2.3",
    "8.8.8.8",
];
const PORTS: [u16; 9] = [1, 22, 79, 80, 81, 443, 444, 8443, 65535];
/// Lines of TOML up to which two policies have to be comparable.
const MANY_KEYS: usize = 300;
const ADDRESSES: [&str; 5] = ["8.8.8.8", "10.1.2.3", "127.0.0.1", "2001:db8::1", "1.1.1.1"];

fn ports() -> impl Strategy<Value = Vec<PortRange>> {
    let single = select(&PORTS[..]).prop_map(|port| PortRange { first: port, last: port });
    let wide = Just(PortRange { first: 444, last: 65535 });
    let narrow = (75_u16..84, 0_u16..6).prop_map(|(first, more)| PortRange { first, last: first + more });
    prop_oneof![3 => Just(Vec::new()), 4 => prop::collection::vec(prop_oneof![single, narrow], 1..4), 1 => wide.prop_map(|range| vec![range])]
}

fn rule() -> impl Strategy<Value = RuleInput> {
    let access = select(vec![Access::Allow, Access::ReadOnly, Access::Deny]);
    let layer = select(vec![Layer::Mdm, Layer::Managed, Layer::Cli, Layer::User, Layer::Project]);
    let methods = prop::collection::vec(select(vec!["GET", "POST"]).prop_map(str::to_owned), 0..2);
    let paths = prop::collection::vec(select(vec!["/v1", "/v1/", "/x"]).prop_map(str::to_owned), 0..2);
    (select(&PATTERNS[..]), ports(), access, layer, 1_u32..9, methods, paths).prop_map(
        |(pattern, ports, access, layer, line, methods, paths)| RuleInput {
            hosts: Pattern::parse(pattern).unwrap().hosts,
            ports,
            access,
            methods,
            paths,
            reason: String::new(),
            source: Source { layer, label: "odd\n\"name\".toml".to_owned() },
            line,
            profiles: policy_format::Profiles::default(),
        },
    )
}

fn meta() -> impl Strategy<Value = Meta> {
    let profile = select(vec!["w", "", "two words", "a.b", "qu\"ote", "ü\u{7f}"]);
    let network = select(vec![Network::Proxied, Network::Proxied, Network::Proxied, Network::Blocked, Network::Direct]);
    let mode = select(vec![Mode::Full, Mode::Full, Mode::Limited]);
    let socks = select(vec![None, Some("127.0.0.1:8081"), Some("127.0.0.1:1080"), Some("[::1]:1080")]);
    let unix_sockets = (unix_paths(), unix_paths()).prop_map(|(allow, deny)| UnixSockets {
        // Of one path a policy says one thing.
        allow: allow.difference(&deny).cloned().collect(),
        deny: deny.into_iter().collect(),
        dangerously_allow_all: false,
    });
    let parts = (profile, network, mode, any::<bool>(), socks, any::<bool>(), unix_sockets);
    parts.prop_map(|(profile, network, mode, local, socks, ports, unix_sockets)| Meta {
        profile: profile.to_owned(),
        network,
        mode,
        allow_local_binding: local,
        listeners: Listeners {
            socks: socks.map(|socks| socks.parse().unwrap()),
            http: if ports { "127.0.0.1:99" } else { "127.0.0.1:3128" }.parse().unwrap(),
            ..Listeners::default()
        },
        unix_sockets,
        ..Meta::default()
    })
}

fn unix_paths() -> impl Strategy<Value = BTreeSet<String>> {
    prop::collection::btree_set(select(vec!["/run/a.sock", "/run/b \"q\".sock", "/c", "/run/\u{fc}"]).prop_map(str::to_owned), 0..3)
}

fn blob(meta: &Meta, rules: &[RuleInput]) -> Blob<Vec<u8>> {
    let mut builder = BlobBuilder::new(meta.clone());
    for rule in rules {
        builder.rule(rule.clone());
    }
    Blob::open(builder.build().unwrap()).unwrap()
}

fn recompiled(text: &str) -> Blob<Vec<u8>> {
    let source = SourceFile::from_text(Layer::User, Role::Config, "config.toml", text.to_owned());
    let compiled = compile(vec![source], Options::default()).unwrap_or_else(|failure| panic!("{failure}\n{text}"));
    Blob::open(compiled.blob).unwrap()
}

/// The decision. Which of two rules that say the same of a request is named, is not part of it.
fn answer(policy: &Blob<Vec<u8>>, request: &Request<'_>) -> String {
    match decide(policy, request) {
        Decision::Allow(allowed) => format!("allow {}", allowed.read_only),
        Decision::Deny(denied) => format!("deny {}", denied.reason),
    }
}

fn same_decisions(one: &Blob<Vec<u8>>, other: &Blob<Vec<u8>>, text: &str) {
    let addresses: Vec<_> = ADDRESSES.iter().map(|ip| ip.parse().unwrap()).collect();
    for host in HOSTS {
        let host = Host::parse(host).unwrap();
        for port in PORTS {
            let ask = |protocol, method, path, addresses: &[std::net::IpAddr]| {
                let request = Request {
                    profile: policy_format::ProfileId::default(),
                    protocol,
                    host: &host,
                    port,
                    method,
                    path,
                    addresses,
                    inside: None,
                    can_intercept: false,
                };
                assert_eq!(answer(one, &request), answer(other, &request), "{request:?}\n{text}");
            };
            for (method, path) in [("GET", "/v1"), ("POST", "/v1/x"), ("GET", "/")] {
                ask(Protocol::Http, Some(method), Some(path), &[]);
            }
            ask(Protocol::Connect, None, None, &[]);
            for ip in &addresses {
                ask(Protocol::Connect, None, None, std::slice::from_ref(ip));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn toml_compiles_back_to_the_same_decisions(meta in meta(), rules in prop::collection::vec(rule(), 0..12)) {
        let policy = blob(&meta, &rules);
        match decompile(&policy) {
            Ok(text) => {
                let back = recompiled(&text);
                prop_assert_eq!(back.meta(), &meta, "{}", text);
                same_decisions(&policy, &back, &text);
                match compare(&policy, &back) {
                    Ok(difference) => prop_assert!(difference.is_empty(), "{}\n{}", difference.render(usize::MAX), text),
                    // A wide range beside all ports needs hundreds of keys for one pattern, each a rule that every decision looks at.
                    Err(DiffError::Combinations) => prop_assert!(text.lines().count() > MANY_KEYS, "{}", text),
                    Err(error) => panic!("{error}\n{text}"),
                }
                // And the text of that says the same again.
                same_decisions(&back, &recompiled(&decompile(&back).unwrap()), &text);
            }
            // Wide ranges against each other need a key for each port.
            Err(DecompileError::TooManyPorts(_)) => {}
            Err(DecompileError::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn entry(pattern: &str, ports: &[(u16, u16)], access: Access, line: u32) -> RuleInput {
    let source = Source { layer: Layer::User, label: "config.toml".to_owned() };
    let mut rule = RuleInput::new(Pattern::parse(pattern).unwrap(), access, source, line);
    rule.ports.extend(ports.iter().map(|(first, last)| PortRange { first: *first, last: *last }));
    rule
}

fn domains(rules: &[RuleInput]) -> Result<String, DecompileError> {
    let text = decompile(&blob(&Meta { profile: "w".into(), ..Meta::default() }, rules))?;
    Ok(text.split_once(".domains]\n").map_or(String::new(), |(_, domains)| domains.to_owned()))
}

#[test]
fn rules_for_one_pattern_get_keys_of_their_own() {
    let allow = |ports: &[(u16, u16)], line| entry("a.test", ports, Access::Allow, line);
    let deny = |ports: &[(u16, u16)], line| entry("a.test", ports, Access::Deny, line);
    let cases: [(&[RuleInput], &str); 7] = [
        (&[allow(&[], 3)], "\"a.test\" = \"allow\" # user config.toml:3\n"),
        (&[allow(&[(8443, 8443)], 3)], "\"a.test:8443\" = \"allow\" # user config.toml:3\n"),
        // A deny on some ports of what is allowed otherwise.
        (
            &[allow(&[], 3), deny(&[(22, 23)], 4)],
            "\"a.test\" = \"allow\" # user config.toml:3\n\"a.test:22\" = \"deny\" # user config.toml:4\n\"a.test:23\" = \"deny\" # user config.toml:4\n",
        ),
        // A deny of everything leaves nothing of the allow.
        (&[allow(&[(80, 80)], 3), deny(&[], 4)], "\"a.test\" = \"deny\" # user config.toml:4\n"),
        // Two that say the same become one.
        (
            &[allow(&[(80, 80)], 3), allow(&[(443, 443), (81, 90)], 4)],
            "\"a.test\" = { access = \"allow\", ports = [\"80-90\", 443] } # user config.toml:3, user config.toml:4\n",
        ),
        (
            &[allow(&[(1, 100)], 3), deny(&[(100, 101)], 4), entry("a.test", &[(50, 50)], Access::ReadOnly, 5)],
            "\"a.test\" = { access = \"allow\", ports = [\"1-100\"] } # user config.toml:3\n\"a.test:100\" = \"deny\" # user config.toml:4\n\"a.test:101\" = \"deny\" # user config.toml:4\n\"a.test:50\" = \"read-only\" # user config.toml:5\n",
        ),
        (&[entry("*", &[], Access::Deny, 3)], "\"*\" = { access = \"deny\", ports = [\"1-65535\"] } # user config.toml:3\n"),
    ];
    for (rules, expected) in cases {
        assert_eq!(domains(rules).unwrap(), expected);
    }
}

#[test]
fn what_cannot_be_said_is_an_error() {
    let wide = [entry("a.test", &[(1, 30_000)], Access::Allow, 3), entry("a.test", &[(30_001, 65_535)], Access::Deny, 4)];
    assert_eq!(domains(&wide).unwrap_err(), DecompileError::TooManyPorts("a.test".into()));

    let with = |method: &str, line| RuleInput { methods: vec![method.into()], ..entry("a.test:80", &[], Access::Allow, line) };
    let many = [entry("a.test", &[(1, 70)], Access::Deny, 2), with("GET", 3), with("POST", 4)];
    let error = domains(&many).unwrap_err().to_string();
    assert_eq!(error, "the rules for `a.test` on port 80 cannot be written as one entry: user config.toml:3, user config.toml:4");
}

/// Every setting that TOML can say, there and back.
#[test]
fn every_setting_comes_back() {
    let text = r#"
        default_permissions = "w"
        [permissions.w.network]
        enabled = true
        mode = "full"
        proxy_url = "http://127.0.0.1:4000"
        enable_socks5_udp = true
        allow_local_binding = true
        dangerously_allow_non_loopback_proxy = true
        dangerously_allow_non_loopback_admin = true
        credential_broker = true
        dangerously_allow_plaintext_credential_injection = true
        dangerously_pass_credentials_without_broker = true
        unix_sockets = { "/run/a b.sock" = "allow", "/run/\"q\".sock" = "allow", "/run/no \"q\".sock" = "deny", "/a.sock" = "deny" }
        upstream = { url = "socks5h://10.0.0.1:1080", no_proxy = [".example.com", "10.0.0.0/8"] }
        [permissions.w.network.audit]
        file = "/var/log/a \"b\".jsonl"
        stdout = true
        syslog = "tcp://[2001:db8::1]:601"
        journald = true
        otlp = { endpoint = "https://otel.test:4317", protocol = "grpc", headers_file = "/etc/headers" }
        naming = "ocsf"
        level = "denied"
        on_full = "block"
        queue = 100
        rotate_bytes = "18446744073709551615"
        rotate_age = "36h"
        keep = 0
        fsync = "never"
        chain = false
        metadata = { "app.version" = "1 \"q\"", model = "" }
        [permissions.w.network.mitm]
        mode = "always"
        bypass = ["pinned.example.com", "**.bank.test:443"]
        ca_cert_path = "/etc/ca.pem"
        ca_key_path = "/etc/ca.key"
        max_body_bytes = 4096
        dangerously_bypass_read_only = true
        client_certificates = [{ host = "*.corp.test", cert_path = "/etc/c.pem", key_path = "/etc/k.pem" }]
        [permissions.w.network.credentials.one]
        env = "ONE_TOKEN"
        url_prefixes = ["https://one.test", "http://[2001:db8::1]:8080/v1"]
        [permissions.w.network.credentials."t w o"]
        env = ["TWO", "TWO_TOO"]
        url_prefixes = ["https://two.test/"]
        auth = "header"
        header = "X-Key"
        prefix = "Key \"q\" "
        [permissions.w.network.mitm.hooks.first]
        host = "**.api.test"
        methods = ["POST", "GET"]
        path_prefixes = ["/v1/", "pattern:/repos/*/issues", "literal:/a*"]
        query = { state = ["open", "pattern:clo*"] }
        headers = { accept = [], "x-kind" = ["a"] }
        body = { json = { "/a~1b/\"q\"" = ["x", "pattern:y*", true, 7], "" = ["z"] }, max_bytes = "1MiB" }
        action = ["auth", "clean"]
        [permissions.w.network.mitm.hooks.second]
        host = "10.0.0.1"
        methods = ["GET"]
        path_prefixes = ["/"]
        action = ["clean"]
        [permissions.w.network.mitm.actions.auth]
        inject_request_headers = [
            { name = "Authorization", secret_env_var = "TOKEN", prefix = "Bearer " },
            { name = "x-key", secret_file = "/run/key" },
        ]
        [permissions.w.network.mitm.actions.clean]
        strip_request_headers = ["Cookie"]
        strip_response_headers = ["set-cookie"]
        [permissions.w.network.domains]
        "api.test" = { access = "allow", methods = ["GET"], paths = ["/v1/"], reason = "so that \"it\" works" }
        "x.api.test:8443" = "read-only"
    "#;
    let one = recompiled(text);
    let back = recompiled(&decompile(&one).unwrap());
    assert_eq!(back.meta(), one.meta());
    let settings = |blob: &Blob<Vec<u8>>| blob.settings(policy_format::ProfileId::default()).cloned();
    assert_eq!(settings(&back), settings(&one));
    assert_eq!((settings(&one).unwrap().hook_bodies.len(), settings(&one).unwrap().credentials.len()), (1, 2));
    let places_apart = |blob: &Blob<Vec<u8>>| {
        let hooks: Vec<_> = blob.hooks().iter().map(|hook| policy_format::Hook { line: 0, ..hook.clone() }).collect();
        let rules: Vec<_> = blob.rules().map(|rule| (rule.to_string(), rule.access, rule.methods, rule.paths, rule.reason)).collect();
        (hooks, rules)
    };
    assert_eq!(places_apart(&back), places_apart(&one), "{}", decompile(&one).unwrap());
}
