//! Rules with paths, through the public interface: the trie decides what a naive matcher decides, and lists what was written.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_format::path::{MAX_PATH, has_one_reading, lies_below};
use policy_format::{
    Access, Blob, BlobBuilder, BuildError, Decision, Host, Layer, Meta, Pattern, Protocol, Request, RuleInput, SectionKind, Source, decide,
    reseal,
};
use proptest::prelude::*;

fn input(pattern: &str, access: Access, methods: &[&str], paths: &[String], reason: &str) -> RuleInput {
    let source = Source { layer: Layer::User, label: "config.toml".into() };
    RuleInput {
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        paths: paths.to_vec(),
        reason: reason.into(),
        ..RuleInput::new(Pattern::parse(pattern).unwrap(), access, source, 1)
    }
}

fn build(rules: impl IntoIterator<Item = RuleInput>) -> Result<Vec<u8>, BuildError> {
    let mut builder = BlobBuilder::new(Meta { profile: "test".into(), ..Meta::default() });
    for rule in rules {
        builder.rule(rule);
    }
    builder.build()
}

fn allows(blob: &Blob<Vec<u8>>, host: &str, method: &str, path: &str) -> bool {
    let host = Host::parse(host).unwrap();
    let request = Request {
        profile: policy_format::ProfileId::default(),
        protocol: Protocol::Http,
        host: &host,
        port: 80,
        method: Some(method),
        path: Some(path),
        addresses: &[],
        inside: None,
        can_intercept: false,
    };
    matches!(decide(blob, &request), Decision::Allow(_))
}

fn text(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// Paths of few segments, so that they meet; some have two readings.
fn path() -> impl Strategy<Value = String> {
    let segment = prop_oneof!["v", "v1", "v10", "a", "a-b", "a.b", "A", "%20x", "%c3%bc", "[a-z]{1,3}"];
    let odd = prop_oneof![Just(String::new()), Just("..".into()), Just("%2e".into()), Just("a;b".into()), Just("a.".into())];
    (proptest::collection::vec(prop_oneof![30 => segment.prop_map(String::from), 1 => odd], 0..5), "/?")
        .prop_map(|(segments, last)| format!("/{}{last}", segments.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn rules_with_paths_agree_with_a_naive_matcher(
        prefixes in proptest::collection::vec(path(), 1..12),
        paths in proptest::collection::vec(path(), 1..24),
    ) {
        let rules = [
            input("allowed.test", Access::Allow, &["GET"], &prefixes, "some"),
            input("**.wide.test", Access::Allow, &[], &[], ""),
            input("denied.wide.test", Access::Deny, &[], &prefixes, ""),
        ];
        let blob = Blob::open(build(rules).unwrap()).unwrap();
        for path in paths.iter().chain(&prefixes) {
            let holds = prefixes.iter().any(|prefix| lies_below(path, prefix));
            prop_assert_eq!(allows(&blob, "allowed.test", "GET", path), has_one_reading(path) && holds, "{} {:?}", path, prefixes);
            prop_assert_eq!(allows(&blob, "denied.wide.test", "GET", path), has_one_reading(path) && !holds, "{} {:?}", path, prefixes);
        }
        let mut sorted = prefixes;
        sorted.sort_unstable();
        sorted.dedup();
        let listed: Vec<Vec<String>> = blob.rules().map(|rule| rule.paths).filter(|paths| !paths.is_empty()).collect();
        prop_assert_eq!(listed, vec![sorted.clone(), sorted]);
    }
}

fn sample() -> Vec<u8> {
    let paths = text(&["/", "/v1", "/v1/", "/v1/models", "/v10/", "/repos/a/b", "/repos/a/c", "/%c3%bc"]);
    let rules = [
        input("a.test", Access::Allow, &["GET", "POST"], &paths, "models only"),
        input("b.test", Access::ReadOnly, &["PATCH"], &[], "a reason with ü"),
        input("c.test", Access::Deny, &[], &text(&["/admin"]), ""),
        input("c.test", Access::Allow, &[], &[], "why not"),
    ];
    build(rules).unwrap()
}

#[test]
fn every_changed_byte_of_the_conditions_is_refused_or_harmless() {
    let good = sample();
    let blob = Blob::open(good.clone()).unwrap();
    let section = blob.section(SectionKind::Conditions);
    let (start, len) = (section.as_ptr() as usize - good_start(&blob), section.len());
    let (mut opened, mut refused) = (0, 0);
    for at in start..start + len {
        let flipped = (0..8).map(|bit| good[at] ^ 1 << bit);
        for value in flipped.chain([0, 0x7f, 0xff]).filter(|value| *value != good[at]) {
            let mut bad = good.clone();
            bad[at] = value;
            reseal(&mut bad);
            let Ok(blob) = Blob::open(bad) else {
                refused += 1;
                continue;
            };
            opened += 1;
            for path in ["/", "/v1", "/v1/models/x", "/repos/a/b", "/admin/x"] {
                for host in ["a.test", "b.test", "c.test"] {
                    let _ = allows(&blob, host, "GET", path);
                }
            }
            assert_eq!(blob.rules().count(), 4);
        }
    }
    // Letters may be others; what says where something is may not.
    assert!(refused > 2500 && opened > 300, "{refused} refused, {opened} opened");
}

fn good_start(blob: &Blob<Vec<u8>>) -> usize {
    blob.as_bytes().as_ptr() as usize
}

/// A rule with very many paths, and one with very many that have nothing in common.
#[test]
fn many_paths_are_stored_by_segment_and_all_come_back() {
    let mut paths: Vec<String> = (0..30_000).map(|n| format!("/repos/organisation-with-a-long-name/project-{n:05}")).collect();
    paths.extend((0..70_000).map(|n| format!("/{n}/")));
    let bytes = build([input("a.test", Access::Allow, &[], &paths, "")]).unwrap();
    assert!(bytes.len() < 30_000 * (16 + 13) + 70_000 * (16 + 5) + 2000, "{} bytes: shared segments are stored once", bytes.len());
    let blob = Blob::open(bytes).unwrap();
    let repos = "/repos/organisation-with-a-long-name";
    for (path, expected) in [
        (format!("{repos}/project-00000"), true),
        (format!("{repos}/project-29999/issues/1"), true),
        (format!("{repos}/project-30000"), false),
        (format!("{repos}/project-0000"), false),
        (repos.to_owned(), false),
        ("/69999/x".to_owned(), true),
        ("/69999".to_owned(), false),
        ("/70000/".to_owned(), false),
        ("/".to_owned(), false),
    ] {
        assert_eq!(allows(&blob, "a.test", "GET", &path), expected, "{path}");
    }
    paths.sort_unstable();
    assert_eq!(blob.rules().next().unwrap().paths, paths);
}

#[test]
fn refuses_to_write_what_no_reader_would_take() {
    let too_many = |what, limit| Err(BuildError::TooMany { what, limit });
    let longest = format!("/{}", "a".repeat(MAX_PATH - 1));
    assert!(Blob::open(build([input("a.test", Access::Allow, &[], std::slice::from_ref(&longest), "")]).unwrap()).is_ok());
    let written = |methods: &[&str], path: &str, reason: &str| build([input("a.test", Access::Allow, methods, &text(&[path]), reason)]);
    assert_eq!(written(&[], &format!("{longest}a"), ""), too_many("bytes in one path", MAX_PATH));
    assert_eq!(written(&[&"M".repeat(256)], "/", ""), too_many("bytes in one method", 255));
    assert_eq!(written(&[], "/", &"r".repeat(65_536)), too_many("bytes in the reason of one rule", 65_535));
}
