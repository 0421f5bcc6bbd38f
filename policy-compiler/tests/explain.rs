//! What `explain` says, to the letter, and that every edit that it proposes was worth proposing.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::change::{Change, Edit, EditKind};
use policy_compiler::decompile::decompile;
use policy_compiler::explain::{Subject, explain};
use policy_compiler::request::{Asked, parse_address};
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options, compile};
use policy_format::path::lies_below;
use policy_format::{
    Access, Blob, BlobBuilder, Decision, Hook, InjectedHeader, Layer, Meta, Pattern, Reason, RuleInput, Secret, Source, named_by,
};
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
    assert_eq!(cases, 18);
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
             note: the method and path are inside TLS and are not seen\n\
             to change this: api.test at user config.toml:4 is for some methods or paths, and what this carries cannot be read\n",
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

/// Policies with rules for some methods or paths of the hosts that are asked for; the hosts of the files beside this one, and worse.
const NARROW: [(&str, &[&str]); 4] = [
    (include_str!("explain/narrow.toml"), &["a.test", "b.test", "c.test"]),
    (include_str!("explain/widen.toml"), &["a.test", "b.test", "c.test", "d.test", "e.test", "f.test", "g.test", "h.test", "i.test"]),
    (include_str!("explain/beside.toml"), &["x.a.test", "b.test", "c.test", "d.test", "e.test", "g.test", "j.test"]),
    (
        r#"# == managed managed_config.toml
[permissions.w.network.domains]
"*.c.test" = { access = "read-only", paths = ["/a"] }
# == user config.toml
default_permissions = "w"
[permissions.w.network]
enabled = true
domains = { "*" = { access = "allow", methods = ["GET"], paths = ["/a/x"] }, "a.test:80" = { access = "allow", methods = ["GET", "HEAD"], paths = ["/a"] } }
# == project config.toml
[permissions.w.network.domains]
"a.test" = { access = "allow", ports = [80, 443], paths = ["/c", '/c/d' ] }
"b.test:80" = "none"
"b.test:443" = { access = "deny", methods = ["POST"] }
"x.c.test" = { access = "allow", paths = ["/b"], methods = [
  "GET"
] }
"#,
        &["a.test", "b.test", "x.c.test"],
    ),
];
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
const PATHS: [&str; 6] = ["/", "/a", "/a/x", "/b", "/b/x", "/c"];
const PORTS: [(&str, &str); 4] = [("http", ""), ("https", ""), ("http", ":8080"), ("https", ":8443")];

/// A request of which an edit might change the answer.
struct Probe {
    host: String,
    port: usize,
    method: &'static str,
    path: &'static str,
    asked: Asked,
}

fn probes(host: &str) -> Vec<Probe> {
    let hosts = [host.to_owned(), format!("below.{host}"), host.replacen(|c: char| c != '.', "other", 1)];
    let mut probes = Vec::new();
    for host in &hosts {
        for (port, (scheme, number)) in PORTS.iter().enumerate() {
            let tunnel = Asked::parse(&format!("CONNECT {host}:{}", [80, 443, 8080, 8443][port])).unwrap();
            let asked = Asked { can_intercept: false, ..tunnel };
            probes.push(Probe { host: host.clone(), port, method: "CONNECT", path: "", asked });
            for method in METHODS {
                for path in PATHS {
                    let asked = Asked::parse(&format!("{method} {scheme}://{host}{number}{path}")).unwrap();
                    probes.push(Probe { host: host.clone(), port, method, path, asked });
                }
            }
        }
    }
    probes
}

/// Whether the request, or words of what else opens, say that the probe may pass.
fn is_said(words: &[String], request: &Probe, probe: &Probe) -> bool {
    if probe.host != request.host || (probe.port != request.port && !words.iter().any(|word| word == "the same on other ports")) {
        return false;
    }
    // What goes through a tunnel that nobody reads is all that is asked for there.
    let is_asked = request.method == "CONNECT" || (probe.method == request.method && lies_below(probe.path, request.path));
    let says = |word: &String| match word.split_once(' ') {
        _ if word == "every method of every path" => true,
        Some((method, "of every other path")) => method == probe.method,
        _ => match word.strip_prefix("every other method of ") {
            Some(path) => lies_below(probe.path, path),
            None => word.split_once(' ').is_some_and(|(method, path)| method == probe.method && lies_below(probe.path, path)),
        },
    };
    is_asked || words.iter().any(says)
}

/// Makes an edit as somebody would who reads it.
fn make(sources: &mut Vec<SourceFile>, edit: &Edit) {
    let at = sources.iter().position(|source| source.layer == edit.layer && source.role == Role::Config && source.label() == edit.file);
    let mut lines: Vec<String> = at.map(|at| sources[at].text().lines().map(str::to_owned).collect()).unwrap_or_default();
    match &edit.kind {
        EditKind::Replace { line, before, after } => {
            let line = &mut lines[usize::try_from(*line).unwrap() - 1];
            assert_eq!(line, before);
            *line = after.clone();
        }
        EditKind::Add { table, toml } => match lines.iter().position(|line| line == table) {
            Some(head) => lines.insert(head + 1, toml.clone()),
            None => lines.extend([table.clone(), toml.clone()]),
        },
        EditKind::Remove { line, before } => {
            let line = std::mem::take(&mut lines[usize::try_from(*line).unwrap() - 1]);
            assert_eq!(line, *before);
        }
        kind => panic!("{kind:?}"),
    }
    let made = SourceFile::from_text(edit.layer, Role::Config, &edit.file, lines.join("\n") + "\n");
    match at {
        Some(at) => sources[at] = made,
        None => {
            let after = sources.iter().position(|source| source.layer > edit.layer).unwrap_or(sources.len());
            sources.insert(after, made);
        }
    }
}

fn passes(policy: &Blob<Vec<u8>>, asked: &Asked) -> bool {
    matches!(asked.decide(policy, &[]), Decision::Allow(_))
}

#[test]
fn an_edit_beside_a_narrow_rule_opens_what_was_asked_and_what_it_says() {
    let (mut edited, mut worded) = (0, 0);
    for (text, hosts) in NARROW {
        let text = text.split_once("# == ").map(|(_, rest)| format!("# == {rest}")).unwrap();
        let compiled = compile(read(&text).0, Options::default()).unwrap_or_else(|failure| panic!("{failure}"));
        let before = Blob::open(compiled.blob.clone()).unwrap();
        let subject = Subject::with_layers(Blob::open(compiled.blob).unwrap(), compiled.sources.clone(), None);
        for host in hosts {
            let probes = probes(host);
            for request in probes.iter().filter(|probe| probe.host == *host && probe.path != "/b/x") {
                if passes(&before, &request.asked) {
                    continue;
                }
                let change = explain(&subject, &request.asked, &[]).change;
                let rules = named_by(&before, &request.asked.request(&[])).into_iter().filter_map(|named| before.rule(named.rule));
                let has_narrow =
                    rules.filter(|rule| rule.access != Access::Deny).any(|rule| !(rule.methods.is_empty() && rule.paths.is_empty()));
                let Change::Edits(edits) = &change else {
                    worded += 1;
                    continue;
                };
                let mut sources = compiled.sources.clone();
                // Lines are numbered as they are now: what is added comes last.
                let (added, others): (Vec<&Edit>, Vec<&Edit>) = edits.iter().partition(|edit| matches!(edit.kind, EditKind::Add { .. }));
                others.into_iter().chain(added).for_each(|edit| make(&mut sources, edit));
                let made = compile(sources, Options::default()).unwrap_or_else(|failure| panic!("{} {change:?}: {failure}", request.asked));
                let after = Blob::open(made.blob).unwrap();
                assert!(passes(&after, &request.asked), "{}: {change:?}", request.asked);
                // What another access opens, and a rule that goes, their lines show.
                let is_allow = |text: &str| text.contains("access = \"allow\"");
                let shows = |edit: &Edit| match &edit.kind {
                    EditKind::Replace { before, after, .. } => !is_allow(before) && is_allow(after),
                    kind => matches!(kind, EditKind::Remove { .. }),
                };
                let words: Vec<String> = edits.iter().flat_map(|edit| edit.also_opens.clone()).collect();
                for probe in &probes {
                    let (was, is) = (passes(&before, &probe.asked), passes(&after, &probe.asked));
                    assert!(is || !was, "{} closes {}: {change:?}", request.asked, probe.asked);
                    let is_denied = matches!(probe.asked.decide(&before, &[]), Decision::Deny(denied) if denied.reason == Reason::Denied);
                    let may_open = is_said(&words, request, probe) || !(has_narrow || is_denied) || edits.iter().any(shows);
                    assert!(was || !is || may_open, "{} opens {}: {change:?}", request.asked, probe.asked);
                }
                edited += 1;
            }
        }
    }
    assert_eq!((edited, worded), (1191, 47));
}
