//! What is built opens, every request gets a decision, and a host that a deny names is denied.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use policy_format::{
    Access, Blob, BlobBuilder, BuildError, Decision, Host, Hosts, Layer, Meta, Mode, Pattern, Protocol, Reason, Request, RuleInput, Source,
    decide,
};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    local: bool,
    limited: bool,
    rules: Vec<(&'a str, u8)>,
    hosts: Vec<(&'a str, u16)>,
    address: Option<std::net::IpAddr>,
}

fuzz_target!(|input: Input<'_>| {
    let access = |number: u8| [Access::Allow, Access::ReadOnly, Access::Deny][usize::from(number % 3)];
    let rules: Vec<(Pattern, Access, u8)> =
        input.rules.iter().filter_map(|(text, number)| Some((Pattern::parse(text).ok()?, access(*number), number / 3))).collect();
    let mut builder = BlobBuilder::new(Meta {
        mode: if input.limited { Mode::Limited } else { Mode::Full },
        allow_local_binding: input.local,
        ..Meta::default()
    });
    for (line, (pattern, access, conditions)) in (1..).zip(&rules) {
        let source = Source { layer: Layer::User, label: "config.toml".into() };
        let list = |there: bool, text: &str| if there { vec![text.to_owned()] } else { Vec::new() };
        let (methods, paths) = (list(conditions & 1 != 0, "GET"), list(conditions & 2 != 0, "/v1/"));
        builder.rule(RuleInput { methods, paths, ..RuleInput::new(pattern.clone(), *access, source, line) });
    }
    let blob = match builder.build() {
        Err(BuildError::TooMany { .. }) => return,
        blob => Blob::open(blob.expect("these rules can be written")).expect("what was written opens"),
    };
    // Random text seldom meets random text: the rules themselves are asked for too.
    let asked = input.hosts.iter().map(|(text, port)| ((*text).to_owned(), *port));
    let named = rules.iter().map(|(pattern, ..)| (pattern.hosts.to_string(), pattern.port.unwrap_or(443)));
    for (text, port) in asked.chain(named) {
        let Ok(host) = Host::parse(&text) else { continue };
        let names = |pattern: &Pattern| match (&pattern.hosts, &host) {
            (Hosts::Exact(rule), Host::Name(name)) => rule == name,
            (Hosts::Network(network), Host::Ip(ip)) => network.is_single() && network.addr() == *ip,
            _ => false,
        };
        let covers = |pattern: &Pattern| pattern.port.is_none_or(|only| only == port);
        let denied = rules
            .iter()
            .any(|(pattern, access, conditions)| *access == Access::Deny && conditions & 3 == 0 && covers(pattern) && names(pattern));
        // What a deny with conditions takes is denied where it can be seen, and not let through where it cannot.
        let might = rules.iter().any(|(pattern, access, _)| *access == Access::Deny && covers(pattern) && names(pattern));
        for (protocol, seen) in [(Protocol::Http, true), (Protocol::Connect, false)] {
            let (method, path) = if seen { (Some("GET"), Some("/v1/x")) } else { (None, None) };
            let request = Request { profile: policy_format::ProfileId::default(), protocol, host: &host, port, method, path, addresses: input.address.as_slice() };
            let decision = decide(&blob, &request);
            let says_so = matches!(decision, Decision::Deny(denied) if denied.reason == Reason::Denied);
            assert!(!denied || says_so, "{host}:{port} is denied by name, but: {decision:?}");
            assert!(!might || matches!(decision, Decision::Deny(_)), "{host}:{port} might be denied by name, but: {decision:?}");
        }
    }
});
