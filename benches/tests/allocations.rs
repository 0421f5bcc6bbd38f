//! `decide()` takes no memory from the allocator, whatever a policy asks of it and whatever it is asked.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

use allocation_counter::measure;
use netpolicy_benches::{blob, host, hostile, hostile_and_deep, patterns};
use policy_format::{Blob, Decision, Host, Protocol, Reason, Request, decide};
use std::hint::black_box;
use std::net::IpAddr;

/// A policy with a rule of every sort: names, wildcards, globs, networks, ports, methods, paths, reasons and hooks.
const POLICY: &str = r#"
default_permissions = "bench"

[permissions.bench.network]
enabled = true

[permissions.bench.network.domains]
"exact.example" = "allow"
"*.below.example" = "allow"
"**.both.example" = "allow"
"**.ads.both.example" = { access = "deny", reason = "advertising" }
"region*.glob.example" = "allow"
"{a,b}[cd]?.glob.example" = "deny"
"192.0.2.0/24" = "deny"
"10.20.0.0/16" = "allow"
"2001:db8::/32" = "allow"
"localhost:3000" = "allow"
"ports.example" = { access = "allow", ports = [443, "8000-8999"] }
"conditions.example" = { access = "allow", methods = ["GET"], paths = ["/v1/"], reason = "the public part" }
"reading.example" = "read-only"
"hooked.example" = "allow"

[permissions.bench.network.mitm.hooks.write]
host = "hooked.example"
methods = ["POST"]
path_prefixes = ["/repos/"]
action = ["strip"]

[permissions.bench.network.mitm.actions.strip]
strip_request_headers = ["authorization"]
"#;

/// Hosts to ask for, and what is decided of a plain GET of `/v1/x` on port 443 when no address is known yet.
const CASES: [(&str, Result<(), Reason>); 24] = [
    ("exact.example", Ok(())),
    ("www.exact.example", Err(Reason::NotAllowed)),
    ("below.example", Err(Reason::NotAllowed)),
    ("a.b.below.example", Ok(())),
    ("both.example", Ok(())),
    ("a.both.example", Ok(())),
    ("x.ads.both.example", Err(Reason::Denied)),
    ("region-1.glob.example", Ok(())),
    ("ac1.glob.example", Err(Reason::Denied)),
    ("192.0.2.7", Err(Reason::Denied)),
    ("[::ffff:192.0.2.7]", Err(Reason::Denied)),
    ("10.20.1.2", Ok(())),
    ("10.21.1.2", Err(Reason::NotAllowedLocal)),
    ("2001:db8::7", Ok(())),
    ("169.254.169.254", Err(Reason::NotAllowedLocal)),
    ("localhost", Err(Reason::NotAllowedLocal)),
    ("ports.example", Ok(())),
    ("conditions.example", Ok(())),
    ("reading.example", Ok(())),
    ("hooked.example", Err(Reason::MitmRequired)),
    ("127.1", Err(Reason::NotAllowed)),
    ("example", Err(Reason::NotAllowed)),
    ("nothing.of.this.is.known.test", Err(Reason::NotAllowed)),
    ("xn--bcher-kva.example", Err(Reason::NotAllowed)),
];

fn decided(decision: &Decision) -> Result<(), Reason> {
    match decision {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(denied) => Err(denied.reason),
    }
}

/// What one decision allocates, and what is decided.
fn count<B: AsRef<[u8]>>(policy: &Blob<B>, request: &Request<'_>) -> (u64, Decision) {
    let mut decision = None;
    let counted = measure(|| decision = Some(black_box(decide(black_box(policy), black_box(request)))));
    (counted.count_total, decision.unwrap())
}

#[test]
fn the_counter_counts() {
    assert_eq!(measure(|| drop(black_box(Box::new(black_box(1_u64))))).count_total, 1);
}

#[test]
fn a_decision_allocates_nothing() {
    let policy = Blob::open(blob(POLICY)).unwrap();
    let addresses: [IpAddr; 4] = ["198.18.0.1", "10.20.0.1", "192.0.2.1", "2001:4860::1"].map(|address| address.parse().unwrap());
    for (text, expected) in CASES {
        let host = host(text);
        let plain = Request {
            profile: policy_format::ProfileId::default(),
            protocol: Protocol::Http,
            host: &host,
            port: 443,
            method: Some("GET"),
            path: Some("/v1/x"),
            addresses: &[],
            inside: None,
            can_intercept: false,
        };
        assert_eq!(decided(&count(&policy, &plain).1), expected, "{text}");
        for protocol in [Protocol::Http, Protocol::Connect, Protocol::Socks5Tcp, Protocol::Socks5Udp] {
            for (method, path) in [(Some("GET"), Some("/v1/x")), (Some("POST"), Some("/other")), (None, None)] {
                for port in [443, 3000, 8080, 1] {
                    for addresses in [&[][..], &addresses] {
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
                        let (allocations, decision) = count(&policy, &request);
                        assert_eq!(allocations, 0, "{request:?}: {decision:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn nor_does_one_among_many_rules_or_on_a_crafted_name() {
    let policy = Blob::open(blob(&netpolicy_benches::layer(&patterns(1_000)))).unwrap();
    for host in patterns(1_000).iter().map(|pattern| host(pattern.trim_start_matches("**."))).chain([hostile(), hostile_and_deep()]) {
        let request = Request {
            profile: policy_format::ProfileId::default(),
            protocol: Protocol::Connect,
            host: &host,
            port: 443,
            method: None,
            path: None,
            addresses: &[],
            inside: None,
            can_intercept: false,
        };
        assert_eq!(count(&policy, &request).0, 0, "{host}");
    }
}

#[test]
fn nor_does_the_reading_of_an_ascii_host() {
    for (text, _) in CASES {
        let counted = measure(|| drop(black_box(Host::parse(black_box(text)))));
        assert_eq!(counted.count_total, 0, "{text}");
    }
}
