//! The compiler as a library: what it says of wrong policies, to the letter, and what it makes of whole files. What layers make of each other is in `cases.rs`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::diagnostic::render;
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Compiled, Options, compile};
use policy_format::{Blob, Layer};
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
