//! The trie alone against a matcher that looks at every rule: names that share labels, up to 127 of them, single ones and long ones, several rules for a name,
//! two profiles. `PROPTEST_CASES=1000000` for a long run.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_format::{
    Access, Blob, BlobBuilder, Host, Layer, MAX_NAME, Meta, Pattern, ProfileId, Profiles, Protocol, Request, RuleId, RuleInput, RuleKind,
    Source, named_by,
};
use proptest::prelude::*;

const LABELS: [&str; 12] = [
    "a",
    "b",
    "c",
    "ab",
    "a-b",
    "_x",
    "9z",
    "test",
    "co",
    "nine-char",
    "a-label-of-thirty-two-characters",
    "a-label-that-is-as-long-as-a-label-may-be-and-not-a-byte-longer",
];

/// A name of labels by their numbers, the last label first, as long as it may be.
fn joined(labels: &[usize]) -> String {
    let mut name = LABELS[labels[0]].to_owned();
    for label in labels[1..].iter().map(|label| LABELS[*label]) {
        if label.len() + 1 + name.len() <= MAX_NAME {
            name = format!("{label}.{name}");
        }
    }
    name
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        // Names meet where there are few of them.
        8 => proptest::collection::vec(0_usize..3, 1..5),
        4 => proptest::collection::vec(0_usize..LABELS.len(), 1..9),
        // Around 32 characters the hash changes, around 42 the comparison.
        2 => (proptest::collection::vec(0_usize..2, 10..30), 0_usize..LABELS.len()).prop_map(|(mut labels, first)| {
            labels[0] = first;
            labels
        }),
        1 => proptest::collection::vec(0_usize..2, 100..128),
        1 => proptest::collection::vec(9_usize..LABELS.len(), 1..8),
    ]
    .prop_map(|labels| joined(&labels))
}

#[derive(Debug, Clone)]
struct Rule {
    kind: RuleKind,
    name: String,
    access: Access,
    profiles: Profiles,
}

impl Rule {
    /// How much of the host it fixes, if it speaks of it. A deny and an allow are compared with their own kind only.
    fn rank(&self, host: &str) -> Option<usize> {
        let below = host.strip_suffix(&self.name).is_some_and(|rest| rest.ends_with('.'));
        let speaks = match self.kind {
            RuleKind::Exact => host == self.name,
            RuleKind::Subdomains => below,
            _ => below || host == self.name,
        };
        speaks.then_some(self.name.len() + if self.kind == RuleKind::Exact { 1 << 16 } else { 0 })
    }

    fn pattern(&self) -> String {
        let stars = match self.kind {
            RuleKind::Exact => "",
            RuleKind::Subdomains => "*.",
            _ => "**.",
        };
        format!("{stars}{}", self.name)
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let kinds = prop_oneof![Just(RuleKind::Exact), Just(RuleKind::Subdomains), Just(RuleKind::ApexAndSubdomains)];
    let accesses = prop_oneof![Just(Access::Allow), Just(Access::ReadOnly), Just(Access::Deny)];
    (kinds, name(), accesses, 1_u64..4).prop_map(|(kind, name, access, profiles)| Rule { kind, name, access, profiles: Profiles(profiles) })
}

/// The blob; the line of a rule is its place in the list, from 1.
fn build(rules: &[Rule]) -> Blob<Vec<u8>> {
    let mut builder = BlobBuilder::new(Meta::default());
    builder.profile(Meta { profile: "other".into(), ..Meta::default() });
    for (line, rule) in (1..).zip(rules) {
        let source = Source { layer: Layer::User, label: "config.toml".into() };
        let input = RuleInput::new(Pattern::parse(&rule.pattern()).unwrap(), rule.access, source, line);
        builder.rule(RuleInput { profiles: rule.profiles, ..input });
    }
    Blob::open(builder.build().unwrap()).unwrap()
}

/// The hosts that may tell the rules apart: they themselves, names below them and above them, and what only looks like that.
fn near(rules: &[Rule]) -> impl Iterator<Item = String> {
    rules.iter().flat_map(|rule| {
        let name = &rule.name;
        let above = name.split_once('.').map_or("a", |(_, rest)| rest);
        [name.clone(), format!("a.{name}"), format!("b.a.{name}"), format!("x{name}"), above.to_owned()]
    })
}

fn agrees(rules: &[Rule], hosts: &[String]) -> Result<(), TestCaseError> {
    let blob = build(rules);
    let rule_of = |id: RuleId| &rules[blob.rule(id).unwrap().line as usize - 1];
    for text in hosts.iter().cloned().chain(near(rules)) {
        // Too long a label or a name, in what lies near.
        let Ok(host) = Host::parse(&text) else { continue };
        let Some(name) = host.name() else { continue };
        for profile in [0, 1].map(ProfileId) {
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
            let found = named_by(&blob, &request);
            prop_assert!(found.windows(2).all(|pair| pair[0].rank >= pair[1].rank), "{text}: not the closest first");
            let mut found: Vec<(usize, u32)> = found.iter().map(|named| (named.rank, blob.rule(named.rule).unwrap().line)).collect();
            let speaking = (1..).zip(rules).filter(|(_, rule)| rule.profiles.has(profile));
            let mut expected: Vec<(usize, u32)> = speaking.filter_map(|(line, rule)| Some((rule.rank(&text)?, line))).collect();
            found.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(found, expected, "{}", &text);
        }
        // Whatever the profile.
        let closest = blob.closest(name);
        for (closest, denies) in [(closest.allow, false), (closest.deny, true)] {
            let of_access = rules.iter().filter(|rule| (rule.access == Access::Deny) == denies);
            let best = of_access.filter_map(|rule| rule.rank(&text)).max();
            let said = closest.map(|id| ((rule_of(id).access == Access::Deny), rule_of(id).rank(&text)));
            prop_assert_eq!(said, best.map(|rank| (denies, Some(rank))), "{}", &text);
        }
    }
    Ok(())
}

/// As many cases as the environment says, or so many.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(cases),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(2048))]

    #[test]
    fn agrees_with_a_matcher_that_looks_at_every_rule(
        rules in proptest::collection::vec(rule(), 0..12),
        hosts in proptest::collection::vec(name(), 1..6),
    ) {
        agrees(&rules, &hosts)?;
    }
}

proptest! {
    #![proptest_config(cases(48))]

    /// Many groups, that run over into each other.
    #[test]
    fn agrees_where_there_are_many(rules in proptest::collection::vec(rule(), 100..250), hosts in proptest::collection::vec(name(), 1..30)) {
        agrees(&rules, &hosts)?;
    }
}

/// Every number of labels, with rules at some of them: what the depths of a base say.
#[test]
fn finds_rules_at_every_depth() {
    let name = |labels: usize| vec!["a"; labels].join(".");
    for labels in 1..=127 {
        for kind in [RuleKind::Exact, RuleKind::Subdomains, RuleKind::ApexAndSubdomains] {
            let rules = [(labels, kind), (7, RuleKind::Exact), (1 + labels / 2, RuleKind::Subdomains)].map(|(labels, kind)| Rule {
                kind,
                name: name(labels),
                access: Access::Deny,
                profiles: Profiles(1),
            });
            let hosts: Vec<String> = (1_usize..=127).filter(|asked| asked % 9 == 0 || asked.abs_diff(labels) < 3).map(name).collect();
            agrees(&rules, &hosts).unwrap();
        }
    }
}
