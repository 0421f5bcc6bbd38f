//! What `explain` says, to the letter, and that every edit that it proposes was worth proposing.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::decompile::decompile;
use policy_compiler::explain::{Subject, explain};
use policy_compiler::request::{Asked, parse_address};
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options, compile};
use policy_format::{Access, Blob, BlobBuilder, Hook, InjectedHeader, Layer, Meta, Pattern, RuleInput, Secret, Source};
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// `# == LAYER FILE` starts a layer (`requirements.toml` is one of requirements), `# ? REQUEST [= ADDRESS…]` asks.
fn read(text: &str) -> (Vec<SourceFile>, Vec<(String, Vec<IpAddr>)>) {
    let (mut sources, mut questions) = (Vec::new(), Vec::new());
    let (head, rest) = text.split_once("# == ").unwrap();
    for line in head.lines() {
        let question = line.strip_prefix("# ? ").unwrap();
        let (request, addresses) = question.split_once(" = ").unwrap_or((question, ""));
        questions.push((request.to_owned(), addresses.split_whitespace().map(|text| parse_address(text).unwrap()).collect()));
    }
    for part in rest.split("# == ") {
        let (head, body) = part.split_once('\n').unwrap();
        let (layer, label) = head.split_once(' ').unwrap();
        let layer =
            [Layer::Mdm, Layer::Managed, Layer::Cli, Layer::User, Layer::Project].into_iter().find(|l| l.as_str() == layer).unwrap();
        let role = if label == "requirements.toml" { Role::Requirements } else { Role::Config };
        sources.push(SourceFile::from_text(layer, role, label, body.to_owned()));
    }
    (sources, questions)
}

fn answers(text: &str) -> String {
    let (sources, questions) = read(text);
    let compiled = compile(sources, Options::default()).unwrap_or_else(|failure| panic!("{failure}"));
    let policy = || Blob::open(compiled.blob.clone()).unwrap();
    let with_layers = Subject::with_layers(policy(), compiled.sources.clone(), None);
    let bare = Subject::bare(policy());
    let mut said = String::new();
    for (request, addresses) in questions {
        let asked = Asked::parse(&request).unwrap();
        let resolved = if addresses.is_empty() { String::new() } else { format!(" = {addresses:?}") };
        writeln!(said, "? {request}{resolved}\n{}", explain(&with_layers, &asked, &addresses)).unwrap();
        writeln!(said, "-- from the policy alone\n{}", explain(&bare, &asked, &addresses)).unwrap();
    }
    said
}

/// `BLESS=1` writes the expected answers anew.
#[test]
fn answers_are_exactly_these() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explain");
    let mut cases = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let said = answers(&fs::read_to_string(&file).unwrap());
        let expected = file.with_extension("expected");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &said).unwrap();
        }
        assert_eq!(said, fs::read_to_string(&expected).unwrap(), "{}", file.display());
        cases += 1;
    }
    assert_eq!(cases, 16);
}

/// Rules with methods, paths and reasons, and hooks: a policy as another program may have written it.
#[test]
fn methods_paths_and_hooks_are_explained_too() {
    let source = Source { layer: Layer::User, label: "config.toml".into() };
    let rule = |pattern: &str, access, methods: &[&str], paths: &[&str], line| RuleInput {
        methods: methods.iter().map(|text| (*text).to_owned()).collect(),
        paths: paths.iter().map(|text| (*text).to_owned()).collect(),
        reason: "read the handbook".into(),
        ..RuleInput::new(Pattern::parse(pattern).unwrap(), access, source.clone(), line)
    };
    let mut builder = BlobBuilder::new(Meta { profile: "w".into(), ..Meta::default() });
    builder.rule(rule("api.test", Access::Allow, &["GET"], &["/v1/"], 4));
    builder.rule(rule("**.test", Access::Deny, &[], &["/admin"], 5));
    builder.rule(rule("hooked.example", Access::Allow, &[], &[], 6));
    builder.hook(Hook {
        name: "write".into(),
        host: "hooked.example".into(),
        methods: vec!["POST".into()],
        path_prefixes: vec!["/repos/".into()],
        query: vec![("a b".into(), vec!["c".into()])],
        headers: vec![("x-any".into(), Vec::new())],
        strip_request_headers: vec!["authorization".into()],
        inject_request_headers: vec![InjectedHeader {
            name: "authorization".into(),
            secret: Secret::Env("TOKEN".into()),
            prefix: "Bearer ".into(),
        }],
        strip_response_headers: Vec::new(),
        source: source.clone(),
        line: 8,
        profiles: policy_format::Profiles::default(),
    });
    let subject = Subject::bare(Blob::open(builder.build().unwrap()).unwrap());
    let said =
        |request: &str, can_intercept| explain(&subject, &Asked { can_intercept, ..Asked::parse(request).unwrap() }, &[]).to_string();
    for (request, expected) in [
        ("GET https://api.test/v1/x", "allowed: GET https://api.test/v1/x\nrule: allow api.test GET /v1/, user config.toml:4\n"),
        (
            "GET https://api.test/admin",
            "blocked: GET https://api.test/admin\nreason: denied (x-proxy-error: blocked-by-denylist)\nrule: deny **.test /admin, user config.toml:5\n",
        ),
        ("api.test", "allowed, and would be intercepted: CONNECT api.test:443\nrule: allow api.test GET /v1/, user config.toml:4\n"),
        (
            "https://hooked.example/",
            "blocked: GET https://hooked.example/\nreason: mitm_hook_denied (x-proxy-error: blocked-by-mitm-hook)\n\
             why: no hook of this host matches the request: `write`\n",
        ),
        (
            "POST https://hooked.example/repos/../x?a+b=c",
            "blocked: POST https://hooked.example/repos/../x\nreason: mitm_hook_denied (x-proxy-error: blocked-by-mitm-hook)\n\
             why: no hook of this host matches the request: `write`; servers read this path in two ways, and then none does\n",
        ),
        (
            "http://hooked.example/",
            "blocked: GET http://hooked.example/\nreason: mitm_required (x-proxy-error: blocked-by-mitm-required)\n\
             why: the host has hooks, which act inside TLS, and this is not encrypted\n",
        ),
    ] {
        assert!(said(request, true).starts_with(expected), "{request}: {}", said(request, true));
    }
    let asked = Asked::parse("POST https://hooked.example/repos/x?a+b=c").unwrap().with(&[("x-any".into(), "1".into())], None).unwrap();
    let found = explain(&subject, &asked, &[]);
    assert!(found.to_string().contains("\nhook: write, user config.toml:8 (-authorization +authorization)\n"), "{found}");
    for (request, expected) in [
        (
            "GET http://api.test/v1/x",
            "allowed: GET http://api.test/v1/x\nrule: allow api.test GET /v1/, user config.toml:4\n    its author says: read the handbook\n\
             not in play:\n  deny **.test /admin, user config.toml:5: other path\nnote: allowed, if it resolves to public addresses\n\
             to change this: add to user config.toml, under [permissions.w.network.domains]\n    \"api.test\" = \"deny\"\n",
        ),
        (
            "POST http://api.test/v1/x",
            "blocked: POST http://api.test/v1/x\nreason: not_allowed (x-proxy-error: blocked-by-allowlist)\nwhy: no rule allows it\n\
             not in play:\n  allow api.test GET /v1/, user config.toml:4: other method\n  deny **.test /admin, user config.toml:5: other path\n\
             to change this: add to user config.toml, under [permissions.w.network.domains]\n    \"api.test:80\" = { access = \"allow\", methods = [\"POST\"], paths = [\"/v1/x\"] }\n",
        ),
        (
            "GET https://api.test/v1/x",
            "blocked: CONNECT api.test:443\nreason: mitm_required (x-proxy-error: blocked-by-mitm-required)\n\
             why: the rule asks for methods or paths, and what this carries cannot be read\nrule: deny **.test /admin, user config.toml:5\n    \
             its author says: read the handbook\nnot enough:\n  allow api.test GET /v1/, user config.toml:4: it asks for methods or paths, which are not seen\n\
             note: the method and path are inside TLS and are not seen\nto change this: remove the rule at user config.toml:5\n\
             and: add to user config.toml, under [permissions.w.network.domains]\n    \"api.test:443\" = \"allow\"\n",
        ),
        (
            "https://hooked.example/",
            "blocked: CONNECT hooked.example:443\nreason: mitm_required (x-proxy-error: blocked-by-mitm-required)\n\
             why: the host has hooks, which act inside TLS, and this tunnel cannot be opened\n\
             not enough:\n  allow hooked.example, user config.toml:6: it allows the host, not what is done there\n\
             note: the method and path are inside TLS and are not seen\n\
             to change this: the host has hooks, which act inside TLS, and this tunnel cannot be opened\n",
        ),
    ] {
        assert_eq!(said(request, false), expected, "{request}");
    }
    let text = decompile(subject.policy()).unwrap();
    let (_, body) = text.split_once('\n').unwrap();
    assert_eq!(
        body,
        "default_permissions = \"w\"\n\n[permissions.w.network]\nenabled = true\n\n[permissions.w.network.domains]\n\
         \"hooked.example\" = { access = \"allow\", reason = \"read the handbook\" } # user config.toml:6\n\
         \"**.test\" = { access = \"deny\", paths = [\"/admin\"], reason = \"read the handbook\" } # user config.toml:5\n\
         \"api.test\" = { access = \"allow\", methods = [\"GET\"], paths = [\"/v1/\"], reason = \"read the handbook\" } # user config.toml:4\n\
         \n[permissions.w.network.mitm.hooks.write] # user config.toml:8\nhost = \"hooked.example\"\nmethods = [\"POST\"]\n\
         path_prefixes = [\"/repos/\"]\nquery = { \"a b\" = [\"c\"] }\nheaders = { x-any = [] }\naction = [\"write\"]\n\
         \n[permissions.w.network.mitm.actions.write]\nstrip_request_headers = [\"authorization\"]\n\
         inject_request_headers = [{ name = \"authorization\", secret_env_var = \"TOKEN\", prefix = \"Bearer \" }]\n"
    );
}
