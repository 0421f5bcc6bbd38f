//! What a file that comes with a repository may cost: inputs whose parts would multiply, each with the answer that it gets. None of these tests ends in a
//! sensible time, or in the memory of a machine, when a part is compared with every other.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]
#![cfg(feature = "cli")]

use policy_compiler::diagnostic::{Code, Diagnostic, Severity, to_json, to_sarif};
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options, compile};
use policy_format::Layer;

fn project(text: &str) -> [SourceFile; 1] {
    [SourceFile::from_text(Layer::Project, Role::Config, "project", text.to_owned())]
}

fn said(sources: &[SourceFile]) -> Vec<Diagnostic> {
    compile(sources.to_vec(), Options::default()).map_or_else(|failure| failure.diagnostics, |compiled| compiled.diagnostics)
}

fn network(rest: &str) -> [SourceFile; 1] {
    project(&format!(
        "default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\ndomains = {{ \"a.test\" = \"allow\" }}\n{rest}"
    ))
}

fn errors(sources: &[SourceFile]) -> Vec<Diagnostic> {
    said(sources).into_iter().filter(|diagnostic| diagnostic.severity == Severity::Error).collect()
}

fn messages(diagnostics: &[Diagnostic]) -> Vec<&str> {
    diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect()
}

fn hook(name: &str, actions: &[String]) -> String {
    let actions: Vec<String> = actions.iter().map(|action| format!("\"{action}\"")).collect();
    format!("{name} = {{ host = \"a.test\", methods = [\"GET\"], path_prefixes = [\"/\"], action = [{}] }}\n", actions.join(","))
}

fn table(what: &str) -> String {
    format!("[permissions.w.network.mitm.{what}]\n")
}

#[test]
fn a_hook_names_few_actions_each_once() {
    let inject = vec!["{ name = \"x\", secret_env_var = \"T\" }"; 5000].join(",");
    let action = format!("{}inject_request_headers = [{inject}]\n", table("actions.a"));
    let found = errors(&network(&format!("{action}{}{}", table("hooks"), hook("h", &vec!["a".into(); 20_000]))));
    let count = |text: &str| found.iter().filter(|error| error.message == text).count();
    assert_eq!(count("the hook `h` names 20000 actions, and may name 32"), 1);
    assert_eq!(count("the hook `h` names the action `a` twice"), 31);
    assert_eq!(count("the action `a` has 5000 headers in one list, and may have 64"), 1);
    assert_eq!(found.len(), 1 + 31 + 1);

    let strip: Vec<String> = (0..20_000).map(|n| format!("\"x{n}\"")).collect();
    let action = format!("{}strip_request_headers = [{}]\n", table("actions.a"), strip.join(","));
    let found = errors(&network(&format!("{action}{}{}", table("hooks"), hook("h", &["a".into()]))));
    assert_eq!(messages(&found), ["the action `a` has 20000 headers in one list, and may have 64"]);
}

#[test]
fn as_many_actions_and_headers_as_there_may_be_are_well() {
    let mut text = String::new();
    for action in 0..32 {
        let strip: Vec<String> = (0..64).map(|n| format!("\"x{n}\"")).collect();
        text.push_str(&format!("{}strip_request_headers = [{}]\n", table(&format!("actions.a{action}")), strip.join(",")));
    }
    let names: Vec<String> = (0..32).map(|n| format!("a{n}")).collect();
    text.push_str(&format!("{}{}", table("hooks"), hook("h", &names)));
    assert_eq!(messages(&errors(&network(&text))), Vec::<&str>::new());
}

#[test]
fn hooks_are_counted_before_they_are_looked_at() {
    let actions: String =
        (0..5000).map(|n| format!("{}strip_request_headers = [\"x\"]\n", table(&format!("actions.abcdefghij{n:05}")))).collect();
    let hooks: String = (0..2000).map(|n| hook(&format!("h{n}"), &[format!("abcdefghik{n:05}")])).collect();
    let found = errors(&network(&format!("{actions}{}{hooks}", table("hooks"))));
    let unknown: Vec<_> = found.iter().filter(|error| error.code == Code::UnknownAction).collect();
    assert_eq!((unknown.len(), found.len()), (1024, 1025));
    assert_eq!(messages(&found).last(), Some(&"there are 2000 hooks, and a policy has at most 1024"));
    // The first are helped; who has hundreds reads no more of it.
    assert_eq!(unknown[0].edit.as_ref().map(|edit| edit.text.as_str()), Some("\"abcdefghij00000\""));
    assert_eq!(unknown[1023].edit, None);
}

#[test]
fn long_words_are_no_misspelt_ones() {
    let (a, b) = ("a".repeat(300_000), "b".repeat(300_000));
    let found = errors(&project(&format!("default_permissions = \"{a}\"\n[permissions.{b}]\n")));
    assert_eq!(found.iter().map(|error| (error.code, error.edit.is_some())).collect::<Vec<_>>(), [(Code::UnknownProfile, false)]);
}

#[test]
fn a_preset_counts_once() {
    let presets = vec!["\"common-dependencies\""; 20_000].join(",");
    let text = format!("default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\npresets = [{presets}]\n");
    let said = said(&project(&text));
    assert_eq!(messages(&said), ["the preset `common-dependencies` is there more than once, and counts once"]);
    assert_eq!(said[0].code, Code::NoEffect);
}

#[test]
fn what_never_was_toml_is_not_said_line_by_line() {
    // One line, many mistakes.
    assert_eq!(errors(&project(&format!("a = [{}", "= ".repeat(50_000)))).len(), 1);
    let found = errors(&project(&"}\n".repeat(20_000)));
    assert_eq!(found.len(), 51);
    assert_eq!(found[50].message, "19950 more lines are not TOML");
    assert_eq!(found[50].places[0].0.span.start, 100);
    assert_eq!(errors(&project(&"}\n".repeat(50))).len(), 50);
}

#[test]
fn every_diagnostic_has_its_line_for_machines() {
    let count = 5000;
    let lines: String = (0..count).map(|n| format!("\"a{n}.test\" = 1\n")).collect();
    let items: Vec<String> = (0..count).map(|n| format!("\"ä{n:05}.test\" = 1")).collect();
    let start = "default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\n";
    // Each in its line, then all in one.
    for (text, line, column) in [
        (format!("{start}[permissions.w.network.domains]\n{lines}"), 4 + count, 16),
        (format!("{start}domains = {{ {} }}\n", items.join(", ")), 4, 10 + count * 19),
    ] {
        let sources = project(&text);
        let found = errors(&sources);
        assert_eq!(found.len(), count);
        let json = to_json(&sources, &found);
        let place = &json[count - 1]["places"][0];
        assert_eq!((&place["line"], &place["column"]), (&line.into(), &column.into()));
        let sarif = to_sarif(&sources, &found);
        let region = &sarif["runs"][0]["results"][count - 1]["locations"][0]["physicalLocation"]["region"];
        assert_eq!((&region["startLine"], &region["startColumn"]), (&line.into(), &column.into()));
    }
}

#[test]
fn denies_of_many_ports_are_found_by_search() {
    let count = 5000;
    let domains: String = (1..=count).map(|port| format!("\"**.a.test:{port}\" = \"deny\"\n\"x.a.test:{port}\" = \"allow\"\n")).collect();
    let text = format!("default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\n[permissions.w.network.domains]\n{domains}");
    let said = said(&project(&text));
    assert_eq!(said.iter().filter(|warning| warning.code == Code::NeverActs).count(), count);
}
