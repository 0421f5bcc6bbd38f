//! Domain lists as layers name them: what becomes of their entries, and what is said when something is wrong.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options, compile};
use policy_format::{Blob, Layer};
use std::fs;
use std::path::Path;

/// Compiles a policy whose lists are in `folder`: rules as `access pattern @ place`, then what was said as `severity code: message`.
fn compiled(folder: &Path, lists: &str, strict: bool) -> (Vec<String>, Vec<String>) {
    let text = format!("default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\ndomain_lists = [{lists}]\n");
    let source = SourceFile::from_text(Layer::Managed, Role::Config, "managed.toml", text).in_folder(folder);
    let (blob, diagnostics) = match compile(vec![source], Options { profile: None, strict }) {
        Ok(compiled) => (Some(compiled.blob), compiled.diagnostics),
        Err(failure) => (None, failure.diagnostics),
    };
    let blob = blob.map(|blob| Blob::open(blob).unwrap());
    let rules =
        blob.iter().flat_map(|blob| blob.rules().map(|rule| format!("{} {rule} @ {}", rule.access, rule.place())).collect::<Vec<_>>());
    let said = diagnostics.iter().map(|diagnostic| {
        let help = diagnostic.help.as_deref().map(|help| format!(" | {help}")).unwrap_or_default();
        format!("{} {}: {}{help}", diagnostic.severity.as_str(), diagnostic.code.as_str(), diagnostic.message)
    });
    (rules.collect(), said.collect())
}

#[test]
fn entries_become_rules_of_the_layer_that_names_the_list() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lists")).unwrap();
    fs::write(dir.path().join("lists/ads.txt"), "# ads\nads.test\n=only.test\n10.0.0.0/8\n").unwrap();
    fs::write(dir.path().join("ours.hosts"), "0.0.0.0 sink.test\n").unwrap();
    let lists = "{ path = \"lists/ads.txt\", format = \"domains\", access = \"deny\" }, { path = \"ours.hosts\", format = \"hosts\", access = \"read-only\" }";
    let (rules, said) = compiled(dir.path(), lists, true);
    assert_eq!(said, Vec::<String>::new());
    assert_eq!(
        rules,
        [
            "deny **.ads.test @ managed list ads.txt:2",
            "deny only.test @ managed list ads.txt:3",
            "read-only sink.test @ managed list ours.hosts:1",
            "deny 10.0.0.0/8 @ managed list ads.txt:4",
        ]
    );
}

#[test]
fn exceptions_take_entries_out_or_say_that_they_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let list = "||a.test^\n||b.test^\n||x.c.test^\n@@||b.test^\n@@||c.test^\n@@||good.a.test^\n";
    fs::write(dir.path().join("l.txt"), list).unwrap();
    let (rules, said) = compiled(dir.path(), "{ path = \"l.txt\", format = \"adblock\", access = \"deny\" }", false);
    assert_eq!(rules, ["deny **.a.test @ managed list l.txt:1"]);
    assert_eq!(
        said,
        [
            "warning no-effect: exceptions of the list `l.txt` lie within wider entries and stay denied | such as `**.good.a.test` in line 6: a deny has no holes"
        ]
    );
    // What an allow list excepts is denied.
    let (rules, said) = compiled(dir.path(), "{ path = \"l.txt\", format = \"adblock\", access = \"allow\" }", false);
    assert_eq!(said, Vec::<String>::new());
    assert!(rules.contains(&"deny **.good.a.test @ managed list l.txt:6".to_owned()), "{rules:?}");
}

#[test]
fn what_is_wrong_with_a_list_is_said() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.txt"), "good.test\nhttps://x.test/\nalso good\n").unwrap();
    fs::write(dir.path().join("other.txt"), "address=/x.test/\n").unwrap();
    let cases = [
        ("{ path = \"missing.txt\", format = \"domains\", access = \"deny\" }", "error bad-list: the list cannot be read: "),
        (
            "{ path = \"bad.txt\", format = \"domains\", access = \"deny\" }",
            "warning bad-list: 2 lines of the list `bad.txt` cannot be read | line 2: `https://x.test/`: ",
        ),
        (
            "{ path = \"other.txt\", format = \"adblock\", access = \"deny\" }",
            "error bad-list: the list `other.txt` has no entry in 1 lines | is it in another format",
        ),
        (
            "{ path = \"x\", format = \"domain\", access = \"deny\" }",
            "error invalid-value: `format` is \"domains\", \"hosts\", \"adblock\" or \"dnsmasq\", not \"domain\" | did you mean \"domains\"?",
        ),
        ("{ path = \"x\", format = \"domains\" }", "error missing-key: a domain list needs `access`"),
        ("\"x\"", "error wrong-type: `domain_lists` is a list of tables"),
    ];
    for (list, expected) in cases {
        let (_, said) = compiled(dir.path(), list, false);
        assert!(said[0].starts_with(expected), "{list}: {said:?}");
    }
    let (rules, said) = compiled(dir.path(), cases[1].0, true);
    assert!(rules.is_empty() && said.last().unwrap().starts_with("error strict"), "{said:?}");
}
