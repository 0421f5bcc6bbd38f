//! The examples: what the compiler says of each, and what some requests get.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

mod verdict;

use policy_compiler::diagnostic::Code;
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Compiled, Options, compile};
use policy_format::{Blob, Layer};
use std::fs;
use std::path::{Path, PathBuf};
use verdict::verdict;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

fn source(layer: Layer, role: Role, name: &str) -> SourceFile {
    let label = name.rsplit('/').next().unwrap();
    SourceFile::from_text(layer, role, label, fs::read_to_string(folder().join(name)).unwrap())
}

fn compiled(sources: Vec<SourceFile>) -> Compiled {
    compile(sources, Options::default()).unwrap_or_else(|failure| panic!("{failure}"))
}

fn example(name: &str) -> Compiled {
    compiled(vec![source(Layer::User, Role::Config, name)])
}

fn fleet() -> Compiled {
    compiled(vec![
        source(Layer::Managed, Role::Requirements, "managed-fleet/requirements.toml"),
        source(Layer::Managed, Role::Config, "managed-fleet/managed_config.toml"),
        source(Layer::User, Role::Config, "managed-fleet/user.toml"),
        source(Layer::Project, Role::Config, "managed-fleet/project.toml"),
    ])
}

fn codes(compiled: &Compiled) -> Vec<Code> {
    compiled.diagnostics.iter().map(|diagnostic| diagnostic.code).collect()
}

#[track_caller]
fn decides(compiled: &Compiled, cases: &[(&str, &str)]) {
    let blob = Blob::open(compiled.blob.clone()).unwrap();
    for (asked, expected) in cases {
        assert_eq!(verdict(&blob, asked), *expected, "{asked}");
    }
}

#[test]
fn every_example_is_tested_here() {
    let mut names: Vec<String> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let tested = [
        "corporate-network.toml",
        "default.toml",
        "legacy-lists.toml",
        "limited-with-interception.toml",
        "managed-fleet",
        "socks-upstream.toml",
        "workspace.toml",
    ];
    assert_eq!(names, tested);
}

#[test]
fn the_default_allows_registries_and_source_hosts() {
    let compiled = example("default.toml");
    assert_eq!(codes(&compiled), []);
    decides(
        &compiled,
        &[
            ("CONNECT github.com:443", "allow by github.com"),
            ("CONNECT registry.yarnpkg.com:443", "allow by registry.yarnpkg.com"),
            ("CONNECT example.com:443", "not_allowed"),
            ("CONNECT github.com:443 -> 10.0.0.1", "not_allowed_local"),
        ],
    );
}

#[test]
fn a_workspace_has_one_api_one_local_service_and_one_deny() {
    let compiled = example("workspace.toml");
    assert_eq!(codes(&compiled), []);
    decides(
        &compiled,
        &[
            ("CONNECT api.example.com:8443", "allow by api.example.com:8443"),
            ("CONNECT api.example.com:443", "not_allowed"),
            ("GET http://a.docs.example.com/", "allow by *.docs.example.com"),
            ("POST http://a.docs.example.com/", "method_not_allowed by *.docs.example.com"),
            ("CONNECT a.docs.example.com:443", "opened by *.docs.example.com"),
            ("GET http://localhost:3000/ -> 127.0.0.1", "allow by localhost:3000"),
            ("GET http://localhost:3001/", "not_allowed_local"),
            ("CONNECT 10.20.1.1:8050", "allow by 10.20.0.0/16 (ports 443, 8000-8099)"),
            ("CONNECT 10.20.1.1:22", "not_allowed_local"),
            ("CONNECT www.evil.example:443", "denied by **.evil.example"),
        ],
    );
}

#[test]
fn a_corporate_network_is_named_by_hosts_and_by_addresses() {
    let compiled = example("corporate-network.toml");
    assert_eq!(codes(&compiled), []);
    decides(
        &compiled,
        &[
            ("CONNECT git.corp.example.com:443 -> 10.20.3.4", "allow by **.corp.example.com"),
            ("CONNECT git.corp.example.com:443 -> 10.21.3.4", "not_allowed_local"),
            ("CONNECT git.corp.example.com:22 -> 10.20.3.4", "not_allowed_local"),
            ("CONNECT other.example.com:443", "not_allowed"),
            ("socks 10.30.4.12:5432", "allow by 10.30.4.12:5432"),
            ("socks 10.30.4.13:5432", "not_allowed_local"),
            ("GET http://mirror.corp.example.com/x -> 10.20.0.9", "allow by mirror.corp.example.com:80"),
            ("PUT http://mirror.corp.example.com/x", "method_not_allowed by mirror.corp.example.com:80"),
            ("CONNECT db.admin.corp.example.com:443", "denied by **.admin.corp.example.com"),
            ("CONNECT github.com:25", "denied by *:25"),
            ("CONNECT pastebin.com:443", "denied by **.pastebin.com"),
            ("CONNECT github.com:443", "allow by github.com"),
        ],
    );
}

#[test]
fn a_socks_upstream_is_in_the_policy_with_what_goes_around_it() {
    let compiled = example("socks-upstream.toml");
    assert_eq!(codes(&compiled), []);
    let blob = Blob::open(compiled.blob.as_slice()).unwrap();
    let upstream = blob.meta().upstream.clone().unwrap();
    assert_eq!(upstream.url, "socks5h://gateway.example.com:1080");
    assert_eq!(upstream.no_proxy, ["localhost", ".corp.example.com", "10.20.0.0/16"]);
    decides(
        &compiled,
        &[
            ("CONNECT api.example.com:443", "allow by api.example.com:443"),
            ("GET http://api.example.com/", "not_allowed"),
            ("CONNECT git.corp.example.com:443 -> 10.20.3.4", "allow by git.corp.example.com"),
            ("CONNECT www.example.com:443", "not_allowed"),
        ],
    );
}

#[test]
fn limited_mode_with_hooks_reads_what_it_can_see() {
    let compiled = example("limited-with-interception.toml");
    assert_eq!(codes(&compiled), []);
    let blob = Blob::open(compiled.blob.as_slice()).unwrap();
    let hooks: Vec<&str> = blob.hooks().iter().map(|hook| hook.name.as_str()).collect();
    assert_eq!(hooks, ["read_issues", "write_comments"]);
    assert!(blob.hooks().iter().all(|hook| hook.strip_request_headers == ["authorization"] && hook.inject_request_headers.len() == 1));
    decides(
        &compiled,
        &[
            ("GET http://a.docs.example.com/", "allow by *.docs.example.com"),
            ("POST http://a.docs.example.com/", "method_not_allowed by *.docs.example.com"),
            ("CONNECT a.docs.example.com:443", "opened by *.docs.example.com"),
            ("GET http://mirror.example.com/debian/dists", "allow by mirror.example.com (ports 80, 443)"),
            ("GET http://mirror.example.com/debian/../secret", "not_allowed"),
            ("GET http://mirror.example.com/ubuntu/", "not_allowed"),
            ("CONNECT api.github.com:443", "opened by api.github.com"),
            ("POST https://api.github.com/repos/example/project/issues/1/comments", "allow by api.github.com"),
            ("POST https://api.github.com/repos/example/project/issues/1", "mitm_hook_denied"),
            ("GET http://api.github.com/repos/example/project/issues", "mitm_required"),
            ("CONNECT github.com:443", "not_allowed"),
        ],
    );
}

#[test]
fn the_older_lists_compile_and_say_only_that_they_are_older() {
    let compiled = example("legacy-lists.toml");
    assert_eq!(codes(&compiled), [Code::OlderSpelling, Code::OlderSpelling]);
    decides(
        &compiled,
        &[
            ("CONNECT api.openai.com:443", "allow by *.openai.com"),
            ("CONNECT openai.com:443", "not_allowed"),
            ("CONNECT telemetry.openai.com:443", "denied by telemetry.openai.com"),
            ("GET http://localhost:3000/ -> 127.0.0.1", "allow by localhost:3000"),
            ("CONNECT evil.example:443", "denied by **.evil.example"),
        ],
    );
}

#[test]
fn a_fleet_is_four_layers() {
    let compiled = fleet();
    assert_eq!(codes(&compiled), []);
    decides(
        &compiled,
        &[
            ("CONNECT git.corp.example.com:443 -> 10.20.0.1", "allow by **.corp.example.com"),
            ("CONNECT github.com:443", "allow by github.com"),
            ("CONNECT telemetry.example.com:443", "denied by telemetry.example.com"),
            ("CONNECT api.example.com:443", "allow by api.example.com:443"),
            ("CONNECT news.example.org:443", "allow by news.example.org"),
            ("CONNECT staging.example.com:8050", "allow by staging.example.com (ports 443, 8000-8099)"),
            ("GET http://localhost:5173/ -> 127.0.0.1", "allow by localhost:5173"),
            ("CONNECT www.pastebin.com:443", "denied by **.pastebin.com"),
        ],
    );
}

/// What a user of the fleet cannot do: each is refused with the requirement, or has no effect.
#[test]
fn the_fleet_holds_its_requirements() {
    let network = |text: &str| format!("[permissions.workspace.network]\n{text}\n");
    let domains = |text: &str| format!("[permissions.workspace.network.domains]\n{text}\n");
    let cases = [
        (network("enabled = false"), Some(Code::RequirementViolated)),
        (network("allow_local_binding = true"), Some(Code::RequirementViolated)),
        (network("upstream = \"http://proxy.example.com:8080\""), Some(Code::RequirementViolated)),
        (network("proxy_url = \"http://127.0.0.1:9\""), Some(Code::RequirementViolated)),
        (network("dangerously_allow_all_unix_sockets = true"), Some(Code::RequirementViolated)),
        (domains("\"pastebin.com\" = \"allow\""), None),
    ];
    for (text, expected) in cases {
        let sources = vec![
            source(Layer::Managed, Role::Requirements, "managed-fleet/requirements.toml"),
            source(Layer::Managed, Role::Config, "managed-fleet/managed_config.toml"),
            SourceFile::from_text(Layer::User, Role::Config, "config.toml", text.clone()),
        ];
        match (compile(sources, Options::default()), expected) {
            (Err(failure), Some(code)) => assert_eq!(failure.diagnostics[0].code, code, "{text}"),
            (Ok(compiled), None) => decides(&compiled, &[("CONNECT pastebin.com:443", "denied by **.pastebin.com")]),
            (result, _) => panic!("{text}: {result:?}"),
        }
    }
}
