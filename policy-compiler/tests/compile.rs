//! The compiler as a library: what it says of wrong policies, to the letter, and what layers make of each other.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::diagnostic::render;
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Compiled, Options, compile};
use policy_format::{Blob, Layer, Mode, Network};
use std::fs;
use std::path::Path;

fn source(layer: Layer, text: &str) -> SourceFile {
    SourceFile::from_text(layer, Role::Config, "config.toml", text.to_owned())
}

fn requirements(layer: Layer, text: &str) -> SourceFile {
    SourceFile::from_text(layer, Role::Requirements, "requirements.toml", text.to_owned())
}

fn compiled(sources: Vec<SourceFile>) -> Compiled {
    compile(sources, Options::default()).unwrap_or_else(|failure| panic!("{failure}"))
}

fn blob(sources: Vec<SourceFile>) -> Blob<Vec<u8>> {
    Blob::open(compiled(sources).blob).unwrap()
}

/// Each rule as `access pattern @ place`.
fn rules(blob: &Blob<Vec<u8>>) -> Vec<String> {
    let mut rules: Vec<String> = blob.rules().map(|rule| format!("{} {rule} @ {}", rule.access, rule.place())).collect();
    rules.sort();
    rules
}

/// `tests/diagnostics/NAME.toml` has what was written and `NAME.expected` what is said. `BLESS=1` writes the latter anew.
#[test]
fn wrong_policies_get_exactly_these_words() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    let mut cases = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let said = match compile(vec![source(Layer::User, &fs::read_to_string(&file).unwrap())], Options::default()) {
            Ok(compiled) => render(&compiled.sources, &compiled.diagnostics, false),
            Err(failure) => failure.to_string(),
        } + "\n";
        let expected = file.with_extension("expected");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &said).unwrap();
        }
        assert_eq!(said, fs::read_to_string(&expected).unwrap(), "{}", file.display());
        cases += 1;
    }
    assert_eq!(cases, 17);
}

const BASE: &str = "default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\n";

fn domains(entries: &str) -> String {
    format!("[permissions.w.network.domains]\n{entries}")
}

#[test]
fn stronger_layers_win_entry_by_entry() {
    let blob = blob(vec![
        source(Layer::Managed, &domains("\"evil.test\" = \"deny\"\n")),
        source(Layer::User, &format!("{BASE}{}", domains("\"Evil.test.\" = \"allow\"\n\"a.test\" = \"allow\"\n"))),
        source(Layer::Project, &domains("\"a.test\" = \"deny\"\n\"b.test\" = \"allow\"\n\"c.test\" = \"none\"\n")),
    ]);
    assert_eq!(
        rules(&blob),
        ["allow a.test @ user config.toml:6", "allow b.test @ project config.toml:3", "deny evil.test @ managed config.toml:2"]
    );
}

#[test]
fn an_allow_over_a_weaker_deny_is_a_warning_that_names_both() {
    let compiled = compiled(vec![
        source(Layer::User, &format!("{BASE}{}", domains("\"a.test\" = \"allow\"\n"))),
        source(Layer::Project, &domains("\"a.test\" = \"deny\"\n")),
    ]);
    let said = render(&compiled.sources, &compiled.diagnostics, false);
    assert!(said.contains("`a.test` is allowed here although the project layer denies it") && said.contains("denied here"), "{said}");
}

#[test]
fn same_layers_same_bytes_whatever_the_order_of_tables_on_a_line() {
    let one = format!("{BASE}domains = {{ \"a.test\" = \"allow\", \"b.test\" = {{ access = \"deny\", ports = [1, 2] }} }}\n");
    let other = format!("{BASE}domains = {{ \"b.test\" = {{ ports = [2, 1], access = \"deny\" }}, \"a.test\" = \"allow\" }}\n");
    let bytes = |text: &str| compiled(vec![source(Layer::User, text)]).blob;
    assert_eq!(bytes(&one), bytes(&one));
    assert_eq!(bytes(&one), bytes(&other));
    // Tables of one file in another order, with the rules in the lines where they were.
    let first =
        "default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\n[permissions.w.network.domains]\n\"a.test\" = \"allow\"\n";
    let second = "default_permissions = \"w\"\n\n\n[permissions.w.network.domains]\n\"a.test\" = \"allow\"\n[permissions.w.network]\nenabled = true\n";
    assert_eq!(bytes(first), bytes(second));
}

#[test]
fn a_profile_lies_over_the_one_that_it_extends() {
    let text = "default_permissions = \"child\"\n\
        [permissions.parent.network]\nenabled = true\nmode = \"limited\"\ndomains = { \"a.test\" = \"allow\", \"b.test\" = \"allow\" }\n\
        [permissions.child]\nextends = \"parent\"\n[permissions.child.network]\nmode = \"full\"\ndomains = { \"b.test\" = \"deny\" }\n";
    let blob = blob(vec![source(Layer::User, text)]);
    assert_eq!((blob.meta().network, blob.meta().mode, blob.meta().profile.as_str()), (Network::Proxied, Mode::Full, "child"));
    assert_eq!(rules(&blob), ["allow a.test @ user config.toml:5", "deny b.test @ user config.toml:10"]);
}

#[test]
fn the_feature_as_a_table_lies_over_the_profile() {
    let text = format!("{BASE}[features.network_proxy]\nmode = \"limited\"\ndomains = {{ \"a.test\" = \"allow\" }}\n");
    let blob = blob(vec![source(Layer::User, &text)]);
    assert_eq!((blob.meta().network, blob.meta().mode), (Network::Proxied, Mode::Limited));
    assert_eq!(rules(&blob), ["allow a.test @ user config.toml:6"]);
}

#[test]
fn what_is_on_follows_both_switches() {
    for (enabled, feature, expected) in [
        ("false", "", Network::Blocked),
        ("false", "[features]\nnetwork_proxy = true\n", Network::Blocked),
        ("false", "[features]\nnetwork_proxy = false\n", Network::Blocked),
        ("true", "", Network::Proxied),
        ("true", "[features]\nother = false\n", Network::Proxied),
        ("true", "[features]\nnetwork_proxy = true\n", Network::Proxied),
        ("true", "[features]\nnetwork_proxy = false\n", Network::Direct),
        ("true", "[features]\nnetwork_proxy = { enabled = false }\n", Network::Direct),
    ] {
        let text = format!("default_permissions = \"w\"\n[permissions.w.network]\nenabled = {enabled}\n{feature}");
        assert_eq!(blob(vec![source(Layer::User, &text)]).meta().network, expected, "{enabled} {feature}");
    }
}

#[test]
fn a_profile_can_be_chosen_on_the_command_line() {
    let text = "default_permissions = \"a\"\n[permissions.a.network]\nenabled = true\n[permissions.b.network]\nenabled = true\nmode = \"limited\"\n";
    let options = Options { profile: Some("b"), strict: false };
    let blob = Blob::open(compile(vec![source(Layer::User, text)], options).unwrap().blob).unwrap();
    assert_eq!((blob.meta().profile.as_str(), blob.meta().mode), ("b", Mode::Limited));
}

#[test]
fn presets_bring_their_domains_and_layers_may_contradict() {
    let text = format!("{BASE}presets = [\"common-dependencies\"]\n{}", domains("\"github.com\" = \"deny\"\n"));
    let blob = blob(vec![source(Layer::User, &text)]);
    let rules = rules(&blob);
    assert!(rules.len() >= 70);
    assert!(rules.contains(&"deny github.com @ user config.toml:6".to_owned()));
    assert!(!rules.iter().any(|rule| rule.starts_with("allow github.com ")));
    assert!(rules.iter().any(|rule| rule.starts_with("allow api.github.com @ user preset common-dependencies:")));
}

#[test]
fn presets_that_deny_hold_against_weaker_layers() {
    let denying = format!("{BASE}presets = [\"exfiltration\"]\n");
    let allowing = domains("\"**.ngrok.io\" = \"allow\"\n");
    let denied = |blob: &Blob<Vec<u8>>| rules(blob).iter().any(|rule| rule.starts_with("deny **.ngrok.io @ "));
    assert!(denied(&blob(vec![source(Layer::Managed, &denying), source(Layer::User, &format!("{BASE}{allowing}"))])));
    assert!(!denied(&blob(vec![source(Layer::Managed, &format!("{BASE}{allowing}")), source(Layer::User, &denying)])));
    assert!(!denied(&blob(vec![source(Layer::User, &format!("{denying}{allowing}"))])), "a layer may except one of its own");
}

#[test]
fn who_alone_may_allow_does_not_keep_others_from_denying() {
    let only = "[experimental_network]\nmanaged_allowed_domains_only = true\n";
    let text = format!("{BASE}presets = [\"github\", \"cloud-metadata\"]\n");
    let compiled = compiled(vec![requirements(Layer::Managed, only), source(Layer::User, &text)]);
    let said: Vec<&str> = compiled.diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
    assert_eq!(said, ["the preset `github` is ignored: only the managed layer may allow domains"]);
    let rules = rules(&Blob::open(compiled.blob).unwrap());
    assert!(
        rules.iter().all(|rule| rule.contains("preset cloud-metadata:"))
            && rules.iter().any(|rule| rule.starts_with("deny 169.254.169.254 "))
    );
}

#[test]
fn strict_makes_warnings_errors() {
    let text = "default_permissions = \"w\"\n[permissions.w.network.domains]\n\"a.test\" = \"allow\"\n";
    assert!(compile(vec![source(Layer::User, text)], Options { profile: None, strict: false }).is_ok());
    assert!(compile(vec![source(Layer::User, text)], Options { profile: None, strict: true }).is_err());
}

/// What a requirement makes of a user's setting: the error's first line, or the settings that result.
#[test]
fn requirements_constrain_weaker_layers() {
    let cases = [
        ("enabled = true", "enabled = false", "`enabled = false` conflicts with the managed requirement `enabled = true`"),
        ("enabled = false", "enabled = true", "`enabled = true` conflicts with the managed requirement `enabled = false`"),
        ("mode = \"limited\"", "enabled = true\nmode = \"full\"", "`mode = full` conflicts with the managed requirement `mode = limited`"),
        ("mode = \"limited\"", "enabled = true", "proxied limited false"),
        ("mode = \"full\"", "enabled = true\nmode = \"limited\"", "proxied limited false"),
        (
            "allow_local_binding = false",
            "enabled = true\nallow_local_binding = true",
            "`allow_local_binding = true` conflicts with the managed requirement `allow_local_binding = false`",
        ),
        ("allow_local_binding = true", "enabled = true\nallow_local_binding = false", "proxied full false"),
        ("allow_local_binding = true", "enabled = true", "proxied full true"),
        (
            "http_port = 4000",
            "enabled = true\nproxy_url = \"http://127.0.0.1:3128\"",
            "`proxy_url` does not use the port 4000 that the managed layer requires",
        ),
        ("enabled = true", "", "proxied full false"),
    ];
    for (required, said, expected) in cases {
        let sources = vec![
            requirements(Layer::Managed, &format!("[experimental_network]\n{required}\n")),
            source(Layer::User, &format!("default_permissions = \"w\"\n[permissions.w.network]\n{said}\n")),
        ];
        let result = match compile(sources, Options::default()) {
            Ok(compiled) => {
                let blob = Blob::open(compiled.blob).unwrap();
                format!("{} {} {}", blob.meta().network, blob.meta().mode, blob.meta().allow_local_binding)
            }
            Err(failure) => failure.diagnostics[0].message.clone(),
        };
        assert_eq!(result, expected, "{required} over {said}");
    }
}

#[test]
fn a_requirement_binds_its_own_layer_and_weaker_ones() {
    let layers = |mdm: &str, managed: &str| {
        vec![
            requirements(Layer::Mdm, &format!("[experimental_network]\n{mdm}\n")),
            source(Layer::Mdm, "[permissions.w.network]\nallow_local_binding = true\n"),
            requirements(Layer::Managed, &format!("[experimental_network]\n{managed}\n")),
            source(Layer::User, BASE),
        ]
    };
    // The managed layer does not bind device management, neither its settings nor its requirements.
    let blob = blob(layers("mode = \"limited\"", "mode = \"full\"\nallow_local_binding = false"));
    assert_eq!((blob.meta().mode, blob.meta().allow_local_binding), (Mode::Limited, true));
    let failure = compile(layers("allow_local_binding = false", ""), Options::default()).unwrap_err();
    assert!(failure.diagnostics[0].message.contains("conflicts with the mdm requirement"), "{failure}");
}

#[test]
fn managed_denies_are_absolute_and_managed_allows_may_be_the_only_ones() {
    let user =
        format!("{BASE}presets = [\"github\"]\n{}", domains("\"a.test\" = \"allow\"\n\"evil.test\" = \"allow\"\n\"b.test\" = \"deny\"\n"));
    let with = |required: &str| {
        let sources = vec![requirements(Layer::Managed, &format!("[experimental_network]\n{required}\n")), source(Layer::User, &user)];
        rules(&blob(sources)).into_iter().filter(|rule| !rule.contains("preset")).collect::<Vec<_>>()
    };
    assert_eq!(
        with("denied_domains = [\"evil.test\"]\nallowed_domains = [\"m.test\"]"),
        [
            "allow a.test @ user config.toml:6",
            "allow evil.test @ user config.toml:7",
            "allow m.test @ managed requirements.toml:3",
            "deny b.test @ user config.toml:8",
            "deny evil.test @ managed requirements.toml:2",
        ]
    );
    assert_eq!(
        with("managed_allowed_domains_only = true\ndomains = { \"m.test\" = \"allow\" }"),
        ["allow m.test @ managed requirements.toml:3", "deny b.test @ user config.toml:8"]
    );
}
