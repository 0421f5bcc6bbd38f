//! What is built opens, every request gets a decision, a host that a deny names is denied, and names that share labels have the rules that a person would say
//! they have, in each of two profiles.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use policy_format::{
    Access, Blob, BlobBuilder, BuildError, Decision, Host, Hosts, Layer, Meta, Mode, Pattern, ProfileId, Profiles, Protocol, Reason,
    Request, RuleInput, Source, decide, named_by,
};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    local: bool,
    limited: bool,
    rules: Vec<(&'a str, u8)>,
    hosts: Vec<(&'a str, u16)>,
    address: Option<std::net::IpAddr>,
    /// Rules for names that share labels, and hosts to ask for.
    named: Vec<(Shared, u8)>,
    asked: Vec<Shared>,
}

/// A name of labels from a small alphabet.
#[derive(Debug, Arbitrary)]
struct Shared(Vec<u8>);

impl Shared {
    const LABELS: [&'static str; 8] = [
        "a",
        "b",
        "ab",
        "x-1",
        "_u",
        "test",
        "a-label-of-thirty-three-characters",
        "a-label-that-is-as-long-as-a-label-may-be-and-not-a-byte-longer",
    ];

    /// Its text, from the right, as long as it may be; `None` for no label.
    fn text(&self) -> Option<String> {
        let mut text = String::new();
        for label in self.0.iter().map(|number| Self::LABELS[usize::from(number % 8)]) {
            if text.is_empty() {
                text = label.to_owned();
            } else if text.len() + 1 + label.len() <= 253 {
                text = format!("{label}.{text}");
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

/// A rule for a name that shares labels.
struct Named {
    pattern: String,
    name: String,
    kind: usize,
    access: Access,
    profiles: Profiles,
}

impl Named {
    fn new(name: &Shared, flags: u8) -> Option<Self> {
        let name = name.text()?;
        let kind = usize::from(flags % 3);
        let pattern = format!("{}{name}", ["", "*.", "**."][kind]);
        let access = [Access::Allow, Access::ReadOnly, Access::Deny][usize::from(flags / 3 % 3)];
        Some(Self { pattern, name, kind, access, profiles: Profiles([1, 2, 3][usize::from(flags / 9 % 3)]) })
    }

    /// How much of the host the rule fixes, if it speaks of it.
    fn rank(&self, host: &str) -> Option<usize> {
        let below = host.strip_suffix(&self.name).is_some_and(|rest| rest.ends_with('.'));
        let speaks = match self.kind {
            0 => host == self.name,
            1 => below,
            _ => below || host == self.name,
        };
        speaks.then_some(self.name.len() + if self.kind == 0 { 1 << 16 } else { 0 })
    }
}

fn names_that_share_labels(input: &Input<'_>) {
    let rules: Vec<Named> = input.named.iter().filter_map(|(name, flags)| Named::new(name, *flags)).collect();
    let mut builder = BlobBuilder::new(Meta::default());
    builder.profile(Meta { profile: "other".into(), ..Meta::default() });
    for (line, rule) in (1..).zip(&rules) {
        let source = Source { layer: Layer::User, label: "config.toml".into() };
        let pattern = Pattern::parse(&rule.pattern).expect("a pattern");
        builder.rule(RuleInput { profiles: rule.profiles, ..RuleInput::new(pattern, rule.access, source, line) });
    }
    let blob = Blob::open(builder.build().expect("these rules can be written")).expect("what was written opens");
    assert_eq!(blob.rule_count() as usize, rules.len());
    let own = rules.iter().map(|rule| rule.name.clone());
    let below = rules.iter().filter(|rule| rule.name.len() < 252).map(|rule| format!("z.{}", rule.name));
    for text in input.asked.iter().filter_map(Shared::text).chain(own).chain(below) {
        let Ok(host) = Host::parse(&text) else { continue };
        for profile in [ProfileId(0), ProfileId(1)] {
            let request = Request {
                profile,
                protocol: Protocol::Connect,
                host: &host,
                port: 443,
                method: None,
                path: None,
                addresses: &[],
                inside: None,
                can_intercept: false,
            };
            let mut found: Vec<(usize, usize)> =
                named_by(&blob, &request).iter().map(|named| (named.rank, blob.rule(named.rule).expect("a rule").line as usize)).collect();
            let mut expected: Vec<(usize, usize)> = (1..)
                .zip(&rules)
                .filter(|(_, rule)| rule.profiles.has(profile))
                .filter_map(|(line, rule)| Some((rule.rank(&text)?, line)))
                .collect();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{text}");
            let denied = expected.iter().any(|(_, line)| rules[line - 1].access == Access::Deny);
            let says_so = matches!(decide(&blob, &request), Decision::Deny(denied) if denied.reason == Reason::Denied);
            assert_eq!(denied, says_so, "{text}");
        }
        // Of those of each kind, one of the closest, whatever the profile.
        let closest = blob.closest(host.name().expect("a name"));
        for (closest, denies) in [(closest.allow, false), (closest.deny, true)] {
            let ranks = rules.iter().filter(|rule| (rule.access == Access::Deny) == denies).filter_map(|rule| rule.rank(&text));
            let of = |id| rules[blob.rule(id).expect("a rule").line as usize - 1].rank(&text);
            assert_eq!(closest.map(|id| of(id).expect("it speaks of the host")), ranks.max(), "{text}");
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    names_that_share_labels(&input);
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
    let bytes = match builder.build() {
        Err(BuildError::TooMany { .. } | BuildError::Globs { .. }) => return,
        bytes => bytes.expect("these rules can be written"),
    };
    let blob = Blob::open(bytes.clone()).expect("what was written opens");
    let sealed = Blob::open_sealed(bytes).expect("what opens has the right digest");
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
            let profile = ProfileId::default();
            let request = Request {
                profile,
                protocol,
                host: &host,
                port,
                method,
                path,
                addresses: input.address.as_slice(),
                inside: None,
                can_intercept: false,
            };
            let decision = decide(&blob, &request);
            let says_so = matches!(decision, Decision::Deny(denied) if denied.reason == Reason::Denied);
            assert!(!denied || says_so, "{host}:{port} is denied by name, but: {decision:?}");
            assert!(!might || matches!(decision, Decision::Deny(_)), "{host}:{port} might be denied by name, but: {decision:?}");
            assert_eq!(decision, decide(&sealed, &request), "with and without a check");
        }
    }
});
