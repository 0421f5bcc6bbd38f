//! `netpolicy migrate --from`: other tools' lists to a policy, to the letter, and what both decide.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::migrate::from::{ConvertError, Converted, Options, Tool, convert};
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options as CompileOptions, compile};
use policy_format::{Blob, Decision, Host, Layer, Protocol, Request, decide};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/migrate-from")
}

/// The tool, the name and the text of each case.
fn cases() -> BTreeMap<String, (Tool, String)> {
    let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let named = files.filter_map(|file| {
        let name = file.file_name()?.to_str()?.strip_suffix(".in")?.to_owned();
        let tool = Tool::ALL.into_iter().find(|tool| name.starts_with(&format!("{}-", tool.as_str()))).unwrap();
        Some((name, (tool, fs::read_to_string(&file).unwrap())))
    });
    named.collect()
}

fn read(path: &str) -> std::io::Result<String> {
    match path {
        "odd.txt" => Ok("root:x:0:0:secret:/root:/bin/sh\n.fine.test\na*b.secret.test\n".to_owned()),
        "domains.txt" => Ok("# from a file\n.files.test\none.files.test # twice\n".to_owned()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    }
}

fn converted(tool: Tool, text: &str, service: Option<&str>) -> Result<Converted, ConvertError> {
    convert(tool, text, Options { profile: None, service, label: "input", read: &read })
}

fn blob(text: &str) -> Blob<Vec<u8>> {
    let source = SourceFile::from_text(Layer::User, Role::Config, "policy.toml", text.to_owned());
    let compiled = compile(vec![source], CompileOptions::default()).unwrap_or_else(|failure| panic!("{text}\n{failure}"));
    Blob::open(compiled.blob).unwrap()
}

/// `tests/migrate-from/TOOL-NAME.in` becomes `.out.toml` with the words of `.warnings`, or fails with those of `.warnings`. `BLESS=1` writes them anew.
#[test]
fn lists_become_exactly_this_and_compile() {
    let (cases, mut refused) = (cases(), 0);
    for (name, (tool, text)) in &cases {
        let (policy, said) = match converted(*tool, text, None) {
            Ok(converted) => {
                blob(&converted.text);
                let said = converted.warnings.iter().map(|warning| format!("{}: {}\n", warning.line, warning.message)).collect();
                (Some(converted.text), said)
            }
            Err(error) => {
                refused += 1;
                (None, format!("error: {error}\n"))
            }
        };
        for (ending, found) in [("out.toml", policy), ("warnings", Some(said))] {
            let expected = folder().join(format!("{name}.{ending}"));
            let Some(found) = found else {
                assert!(!expected.exists(), "{} is there, and the case is refused", expected.display());
                continue;
            };
            if std::env::var_os("BLESS").is_some() {
                fs::write(&expected, &found).unwrap();
            }
            assert_eq!(found, fs::read_to_string(&expected).unwrap(), "{}", expected.display());
        }
    }
    assert_eq!((cases.len(), refused), (28, 13));
}

#[test]
fn files_with_a_line_missing_are_refused_or_compile() {
    let mut policies = 0;
    for (tool, text) in cases().into_values() {
        for missing in 0..text.lines().count() {
            let rest: String = text.lines().enumerate().filter(|(at, _)| *at != missing).flat_map(|(_, line)| [line, "\n"]).collect();
            let Ok(converted) = converted(tool, &rest, None) else { continue };
            blob(&converted.text);
            policies += 1;
        }
    }
    assert!(policies > 50, "{policies}");
}

/// What the tool would have decided.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Theirs {
    Allows,
    Denies,
}
use Theirs::{Allows, Denies};

fn allows(policy: &Blob<Vec<u8>>, protocol: Protocol, target: &str) -> bool {
    let (host, port) = target.rsplit_once(':').unwrap();
    let host = Host::parse(host).unwrap();
    let method = (protocol == Protocol::Http).then_some("GET");
    let request = Request {
        profile: policy_format::ProfileId::default(),
        protocol,
        host: &host,
        port: port.parse().unwrap(),
        method,
        path: None,
        addresses: &[],
        inside: None,
        can_intercept: false,
    };
    matches!(decide(policy, &request), Decision::Allow(_))
}

/// Where both decide the same.
#[test]
fn both_decide_the_same() {
    let table: [(&str, &[(&str, Theirs)]); 10] = [
        (
            "srt-settings",
            &[
                ("github.com:443", Allows),
                ("www.github.com:443", Denies),
                ("example.com:443", Denies),
                ("a.example.com:443", Allows),
                ("a.b.example.com:443", Allows),
                ("a.example.com:22", Denies),
                ("secret.example.com:443", Denies),
                ("both.test:443", Denies),
                ("api.test:8443", Allows),
                ("api.test:443", Denies),
                ("other.test:443", Denies),
            ],
        ),
        ("srt-deny-all", &[("a.test:443", Denies), ("b.test:443", Denies), ("c.test:443", Denies)]),
        (
            "claude-settings-sandbox",
            &[
                ("docs.test:443", Allows),
                ("wiki.test:443", Denies),
                ("a.wiki.test:443", Allows),
                ("private.wiki.test:443", Denies),
                ("cdn.test:443", Denies),
                ("x.cdn.test:443", Allows),
                ("a.npm.test:443", Denies),
            ],
        ),
        ("claude-settings-everything", &[("a.test:443", Allows), ("evil.test:443", Denies)]),
        ("claude-settings-nothing-fetched", &[("a.test:443", Denies), ("c.test:443", Denies)]),
        (
            "smokescreen-enforce",
            &[
                ("api.bank.test:443", Allows),
                ("bank.test:443", Denies),
                ("pay.test:443", Denies),
                ("x.pay.test:443", Allows),
                ("a.b.pay.test:443", Allows),
                ("old.pay.test:443", Allows),
                ("ok.evil.test:443", Allows),
                ("bad.evil.test:443", Denies),
                ("x.shared.test:443", Denies),
                ("metrics.test:443", Allows),
                ("else.test:443", Denies),
            ],
        ),
        ("smokescreen-open", &[("a.test:443", Allows), ("bad.evil.test:443", Denies), ("whole.test:443", Allows)]),
        (
            "squid-typical",
            &[
                ("github.com:443", Allows),
                ("www.github.com:443", Allows),
                ("www.github.com:22", Denies),
                ("www.github.com:80", Allows),
                ("evil.github.com:443", Denies),
                ("x.evil.github.com:443", Denies),
                ("pypi.test:443", Allows),
                ("www.pypi.test:443", Denies),
                ("a.files.test:443", Allows),
                ("10.1.2.3:443", Denies),
                ("127.0.0.1:443", Denies),
                ("other.test:443", Denies),
            ],
        ),
        (
            "squid-order",
            &[
                ("bad.evil.test:80", Denies),
                ("evil.test:80", Denies),
                ("a.test:80", Allows),
                ("test:80", Allows),
                ("x.late.example:80", Allows),
                ("late.example:80", Denies),
                ("docs.example:80", Allows),
                ("other.example:80", Denies),
            ],
        ),
        (
            "squid-default",
            &[
                ("bad.test:80", Denies),
                ("x.bad.test:80", Denies),
                ("192.0.2.7:80", Denies),
                ("a.star.test:80", Allows),
                ("other.test:80", Allows),
            ],
        ),
    ];
    let cases = cases();
    for (name, rows) in table {
        let (tool, text) = &cases[name];
        let policy = blob(&converted(*tool, text, None).unwrap().text);
        for (target, theirs) in rows {
            assert_eq!(allows(&policy, Protocol::Http, target), *theirs == Allows, "{name} {target}");
        }
    }
}

/// Where they do not, a warning says so; and where it can be helped, less is allowed here than there.
#[test]
fn where_they_decide_otherwise_a_warning_says_so() {
    let table = [
        // What was asked first there.
        ("smokescreen-open", Protocol::Connect, "ok.evil.test:443", Allows, "beats `ok.evil.test` of the service's own list (line 6)"),
        ("squid-order", Protocol::Http, "ok.evil.test:80", Allows, "beats the allow of `ok.evil.test` (line 8)"),
        // What is asked of a person.
        ("claude-settings-sandbox", Protocol::Connect, "draft.wiki.test:443", Allows, "asks a person; here it is denied"),
        // What an allow leaves to later lines.
        (
            "squid-but",
            Protocol::Http,
            "a.but.test:80",
            Allows,
            "`**.but.test` is denied here; there `a.but.test` may allow it later (line 4)",
        ),
        // Who asks.
        ("squid-typical", Protocol::Http, "anything.test:443", Allows, "it allows some clients every host"),
        // Tunnels to ports that are fine for plain requests.
        ("squid-typical", Protocol::Connect, "github.com:80", Denies, "a deny cannot be for CONNECT alone"),
        // What a rule cannot ask for.
        ("squid-default", Protocol::Http, "ads.test:80", Denies, "a rule cannot ask for `dstdom_regex`"),
    ];
    let cases = cases();
    for (name, protocol, target, theirs, warning) in table {
        let (tool, text) = &cases[name];
        let converted = converted(*tool, text, None).unwrap();
        assert_ne!(allows(&blob(&converted.text), protocol, target), theirs == Allows, "{name} {target}");
        assert!(converted.warnings.iter().any(|note| note.message.contains(warning)), "{name}: {warning}: {:?}", converted.warnings);
        assert!(converted.text.contains(warning), "{name}: the policy says it too");
    }
}

#[test]
fn a_list_of_all_that_is_allowed_holds_for_the_lines_after_it() {
    let (tool, text) = &cases()["squid-only"];
    let policy = blob(&converted(*tool, text, None).unwrap().text);
    for (protocol, target, expected) in [
        (Protocol::Http, "x.a.test:8080", true),
        (Protocol::Connect, "x.a.test:8080", false),
        (Protocol::Http, "x.a.test:80", false),
        (Protocol::Http, "other.test:8080", false),
        (Protocol::Http, "b.test:8080", false),
    ] {
        assert_eq!(allows(&policy, protocol, target), expected, "{target}");
    }
}

#[test]
fn the_service_is_chosen_by_name() {
    let cases = cases();
    let text = &cases["smokescreen-enforce"].1;
    let crawler = blob(&converted(Tool::Smokescreen, text, Some("crawler")).unwrap().text);
    assert!(allows(&crawler, Protocol::Connect, "else.test:443") && !allows(&crawler, Protocol::Connect, "bad.evil.test:443"));
    let billing = converted(Tool::Smokescreen, text, Some("billing")).unwrap();
    assert!(!allows(&blob(&billing.text), Protocol::Connect, "else.test:443"));
    let error = converted(Tool::Smokescreen, text, Some("nobody")).unwrap_err();
    assert_eq!(error.message, "there is no service `nobody`; these are there: `billing`, `crawler`");
}

#[test]
fn no_input_gets_out_of_its_comment_or_its_quotes() {
    let text = r#"{"network": {"allowedDomains": ["a\"\n\"*\" = \"allow", "x\ny"], "deniedDomains": ["d.test"],
        "deniedDomainReasons": {"d.test": "no\n\"*\" = \"allow\""}, "allowUnixSockets": ["/a\" = \"allow\"\n\"/b"]}}"#;
    let converted = convert(Tool::Srt, text, Options { profile: Some("a b\n"), service: None, label: "x\ny = 1", read: &read }).unwrap();
    let rules: Vec<String> = blob(&converted.text).rules().map(|rule| format!("{} {rule}", rule.access)).collect();
    assert_eq!(rules, ["deny d.test"]);
}

#[test]
fn long_lists_are_not_compared_without_end() {
    let mut text = String::from("acl a dstdomain");
    for number in 0..5_000 {
        text.push_str(&format!(" a{number}.test"));
    }
    text.push_str("\nacl b dstdomain");
    for number in 0..5_000 {
        text.push_str(&format!(" b{number}.test"));
    }
    text.push_str("\nhttp_access allow a\nhttp_access deny b\nhttp_access deny all\n");
    let converted = converted(Tool::Squid, &text, None).unwrap();
    assert_eq!(blob(&converted.text).rule_count(), 10_000, "a deny that was not compared stays");
    assert!(converted.warnings.iter().any(|warning| warning.message.contains("too long to compare")));
}

#[test]
fn what_is_too_large_is_refused() {
    for tool in Tool::ALL {
        let text = " ".repeat(policy_compiler::migrate::MAX_INPUT + 1);
        assert!(converted(tool, &text, None).unwrap_err().message.contains("more than"), "{tool:?}");
    }
}

fn netpolicy(arguments: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netpolicy")).arg("migrate").args(arguments).current_dir(dir).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_command_writes_the_policy_and_warns_with_places() {
    let dir = tempfile::tempdir().unwrap();
    let cases = cases();
    for name in ["squid-typical", "srt-not-json", "smokescreen-several"] {
        fs::write(dir.path().join(name), &cases[name].1).unwrap();
    }
    fs::write(dir.path().join("domains.txt"), ".files.test\n").unwrap();
    let done = netpolicy(&["--from", "squid", "squid-typical", "--profile", "ci"], dir.path());
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("warning: squid-typical:13: "), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("[permissions.ci.network]\n") && text(&done.stdout).contains("\"**.files.test\" = "));

    let written = netpolicy(&["--from", "squid", "squid-typical", "-o", "p.toml", "--json", "--profile", "ci"], dir.path());
    let summary: serde_json::Value = serde_json::from_slice(&written.stdout).unwrap();
    assert_eq!((&summary["written"], summary["warnings"][0]["line"].as_u64()), (&"p.toml".into(), Some(13)));
    assert_eq!(fs::read_to_string(dir.path().join("p.toml")).unwrap(), text(&done.stdout));

    for (tool, name, message) in [
        ("srt", "srt-not-json", "error: srt-not-json:3: this is not JSON: "),
        (
            "smokescreen",
            "smokescreen-several",
            "error: smokescreen-several:3: there are several services; choose one with `--service`: `a`, `b`\n",
        ),
    ] {
        let failed = netpolicy(&["--from", tool, name], dir.path());
        assert_eq!(failed.status.code(), Some(2));
        assert!(text(&failed.stderr).starts_with(message), "{}", text(&failed.stderr));
    }
    assert_eq!(netpolicy(&["--from", "nginx", "srt-not-json"], dir.path()).status.code(), Some(2));
    assert_eq!(netpolicy(&["--from", "srt", "--service", "a", "srt-not-json"], dir.path()).status.code(), Some(2));
}
