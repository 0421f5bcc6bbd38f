//! `explain`, `test` and `inspect` through the real binary: exit codes, text and JSON.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use quick_xml::events::Event;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const CONFIG: &str = "default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\nallow_local_binding = true\n\
    [permissions.w.network.domains]\n\"**.example.com\" = \"allow\"\n\"evil.example.com\" = \"deny\"\n\"docs.test\" = \"read-only\"\n\
    [permissions.other.network]\nenabled = true\n";

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write("config.toml", CONFIG);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netpolicy"));
        command.args(arguments).current_dir(self.0.path()).env("HOME", self.0.path()).env_remove("CODEX_HOME");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn compiled(self) -> Self {
        let output = self.run(&["compile", "--user", "config.toml", "-o", "policy.bin"]);
        assert!(output.status.success(), "{}", err(&output));
        self
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", out(output), err(output)))
}

#[test]
fn explain_answers_by_exit_code() {
    let place = Place::new().compiled();
    let cases: [(&[&str], i32); 12] = [
        (&["--user", "config.toml", "GET", "https://www.example.com/x"], 0),
        (&["--user", "config.toml", "GET https://www.example.com/x"], 0),
        (&["--policy", "policy.bin", "CONNECT", "evil.example.com:443"], 1),
        (&["--policy", "policy.bin", "socks", "www.example.com:22"], 0),
        (&["--user", "config.toml", "--as", "other", "www.example.com"], 1),
        (&["--user", "config.toml", "--resolve", "www.example.com=169.254.169.254", "www.example.com"], 1),
        (&["--user", "config.toml", "--resolve", "www.example.com=10.0.0.1,8.8.8.8", "www.example.com"], 0),
        (&["--user", "config.toml", "--resolve", "www.example.com", "www.example.com"], 2),
        (&["--user", "config.toml", "GET", "www.example.com"], 2),
        (&["--user", "missing.toml", "www.example.com"], 2),
        (&["--policy", "config.toml", "www.example.com"], 2),
        (&["--policy", "policy.bin", "--user", "config.toml", "www.example.com"], 2),
    ];
    for (arguments, code) in cases {
        let output = place.run(&[&["explain"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{}{}", out(&output), err(&output));
        assert_eq!(out(&output).is_empty(), code == 2, "{arguments:?}");
        assert_eq!(err(&output).starts_with("error: "), code == 2, "{arguments:?}: {}", err(&output));
    }
    let wrong = place.run(&["explain", "--user", "config.toml", "CONNECT", "a.test:99999"]);
    assert_eq!(err(&wrong), "error: a port is a number from 1 to 65535\n  CONNECT a.test:99999\n                 ^^^^^\n");
    let elsewhere = place.run(&["explain", "--user", "config.toml", "--resolve", "x.test=8.8.8.8", "www.example.com"]);
    assert_eq!(err(&elsewhere), "`--resolve x.test` has no effect: the request is for www.example.com\n");
}

#[test]
fn explain_shows_layers_that_do_not_compile_and_counts_warnings() {
    let place = Place::new();
    place.write("wrong.toml", "default_permissions = \"w\"\n[permissions.w.network]\nenabeld = true\n");
    let output = place.run(&["explain", "--user", "wrong.toml", "a.test"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("did you mean `enabled`?"), "{}", err(&output));
    place.write("off.toml", &CONFIG.replace("enabled = true\nallow", "enabled = false\nallow"));
    let output = place.run(&["explain", "--user", "off.toml", "a.test"]);
    assert_eq!((output.status.code(), err(&output).as_str()), (Some(1), "1 warning, shown by `netpolicy check`\n"));
}

/// Whoever reads it should be able to open the file that is named.
#[test]
fn explain_names_the_file_of_an_edit_as_it_was_given() {
    let place = Place::new();
    place.write(".codex/config.toml", CONFIG);
    let output = place.run(&["explain", "--project", ".codex/config.toml", "evil.example.com"]);
    assert!(out(&output).contains("to change this: remove project .codex/config.toml:7\n"), "{}", out(&output));
    let added = place.run(&["explain", "--json", "--user", "./config.toml", "a.test"]);
    assert_eq!(json(&added)["change"]["edits"][0]["file"], "./config.toml");
    // Two edits, the second of a file that the first has changed.
    place.write("off.toml", &CONFIG.replace("enabled = true\nallow", "enabled = false\nallow"));
    let both = out(&place.run(&["explain", "--user", "./off.toml", "evil.example.com"]));
    assert_eq!(both.matches("user ./off.toml:").count(), 2, "{both}");
    let bare = place.compiled();
    let output = bare.run(&["explain", "--policy", "policy.bin", "evil.example.com"]);
    assert!(out(&output).contains("to change this: remove the rule at user config.toml:7\n"), "{}", out(&output));
}

#[test]
fn explain_repeats_no_password() {
    let place = Place::new();
    let output = place.run(&["explain", "--user", "config.toml", "https://me:s3cret@github.com/a"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        err(&output),
        "error: user information has no place in a request\n  https://*********@github.com/a\n          ^^^^^^^^^^\nhelp: leave it out\n"
    );
}

#[test]
fn explain_as_json_says_what_the_text_says() {
    let place = Place::new();
    let output = place.run(&["explain", "--json", "--user", "config.toml", "GET", "https://evil.example.com/x"]);
    assert_eq!(output.status.code(), Some(1));
    let said = json(&output);
    for (pointer, expected) in [
        ("/request", "CONNECT evil.example.com:443"),
        ("/decision", "deny"),
        ("/reason", "denied"),
        ("/proxy_error", "blocked-by-denylist"),
        ("/rule/hosts", "evil.example.com"),
        ("/rule/layer", "user"),
        ("/rule/text", "\"evil.example.com\" = \"deny\""),
        ("/beats/0/rule/hosts", "**.example.com"),
        ("/beats/0/why", "a deny beats every allow"),
        ("/change/edits/0/edit", "remove"),
        ("/change/edits/0/file", "config.toml"),
    ] {
        assert_eq!(said.pointer(pointer).and_then(Value::as_str), Some(expected), "{pointer} of {said}");
    }
    assert_eq!(said.pointer("/rule/line"), Some(&Value::from(7)));
}

const TESTS: &str = "[[case]]\nname = \"examples & <all>\"\nrequests = [\"GET https://www.example.com/\", \"POST http://example.com/\"]\nexpect = \"allow\"\n\
    rule = \"**.example.com\"\nlayer = \"user\"\n\n\
    [[case]]\nname = \"others\"\nhosts = [\"a.test\", \"b.test:8443\"]\nexpect = \"deny\"\nreason = \"not_allowed\"\n\n\
    [[case]]\nname = \"services\"\nrequest = \"www.example.com\"\nresolve = [\"169.254.169.254\"]\nexpect = \"deny\"\nreason = \"not_allowed_local\"\n";

const FAILING: &str = "\n[[case]]\nname = \"bad \\\"one\\\" \\u0007\"\nhosts = [\"evil.example.com\", \"x.test\"]\nexpect = \"deny\"\nreason = \"not_allowed\"\n";

#[test]
fn test_passes_and_fails_by_exit_code() {
    let place = Place::new().compiled();
    place.write("policy.test.toml", TESTS);
    for arguments in [
        &["--user", "config.toml"][..],
        &["--user", "config.toml", "policy.test.toml"],
        &["--user", "config.toml", "--tests", "policy.test.toml"],
        &["--policy", "policy.bin"],
        &["--policy", "policy.bin", "--filter", "oth"],
    ] {
        let output = place.run(&[&["test"], arguments].concat());
        let passed = if arguments.contains(&"--filter") { "2 passed, 0 failed\n" } else { "5 passed, 0 failed\n" };
        assert_eq!((output.status.code(), out(&output).as_str()), (Some(0), passed), "{arguments:?}: {}", err(&output));
    }
    place.write("failing.toml", &format!("{TESTS}{FAILING}"));
    let output = place.run(&["test", "--user", "config.toml", "failing.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        out(&output),
        "FAIL failing.toml:21: bad \\\"one\\\" \\u{7}: CONNECT evil.example.com:443\n  - expected: deny, reason not_allowed\n  \
         + found:    deny, reason denied, rule evil.example.com, layer user\n    reason: denied (x-proxy-error: blocked-by-denylist)\n    \
         rule: deny evil.example.com, user config.toml:7\n        7 | \"evil.example.com\" = \"deny\"\n    beats:\n      \
         allow **.example.com, user config.toml:6: a deny beats every allow\n6 passed, 1 failed\n"
    );
}

/// Which files are run when none is named, by how many requests they have.
#[test]
fn test_takes_the_files_beside_what_was_read() {
    let place = Place::new();
    let case = |requests: usize| {
        let hosts: String = (0..requests).map(|n| format!("\"h{n}.test\", ")).collect();
        format!("[[case]]\nhosts = [{hosts}]\nexpect = \"deny\"\n")
    };
    place.write("policy.test.toml", &case(1));
    place.write("repo/.git/HEAD", "");
    place.write("repo/.codex/config.toml", CONFIG);
    place.write("repo/.codex/policy.test.toml", &case(10));
    place.write("repo/src/x", "");
    let cases: [(&str, &[&str], usize); 10] = [
        (".", &["--user", "config.toml"], 1),
        ("repo", &[], 10),
        ("repo/src", &[], 10),
        ("repo/src", &["-c", "features.x=true"], 10),
        ("repo", &["--project", ".codex/config.toml"], 10),
        ("repo", &["--project", "./.codex/config.toml"], 10),
        ("repo", &["--project", "./.codex/config.toml", "--user", ".codex/../.codex/config.toml"], 10),
        ("repo", &["--user", "../config.toml"], 1),
        ("repo", &["--user", "../config.toml", "--discover"], 11),
        ("repo/src", &["--user", "../../config.toml", "--discover"], 11),
    ];
    for (folder, arguments, passed) in cases {
        let output = place.command(&[&["test"], arguments].concat()).current_dir(place.path(folder)).output().unwrap();
        assert_eq!(out(&output), format!("{passed} passed, 0 failed\n"), "{folder} {arguments:?}: {}", err(&output));
    }
    place.write("repo/.codex/policy.test.toml", "[[case]]\nhosts = [\"a.test\"]\nexpect = \"allow\"\n");
    let failed = place.command(&["test"]).current_dir(place.path("repo")).output().unwrap();
    assert!(out(&failed).starts_with("FAIL .codex/policy.test.toml:1: "), "{}", out(&failed));
    let place = place.compiled();
    let output = place.command(&["test", "--policy", "../policy.bin"]).current_dir(place.path("repo")).output().unwrap();
    assert_eq!(out(&output), "1 passed, 0 failed\n", "{}", err(&output));
}

#[test]
fn test_refuses_what_tests_nothing() {
    let place = Place::new();
    place.write("empty.toml", "");
    place.write("one.toml", TESTS);
    for (arguments, said) in [
        (&["--user", "config.toml"][..], "error: no test file was found\n"),
        (&["--user", "config.toml", "missing.toml"], "error: cannot read the test file `missing.toml`: "),
        (&["--user", "config.toml", "empty.toml"], "error: the test files have no case\n"),
        (&["--user", "config.toml", "one.toml", "--filter", "nothing"], "error: no case has `nothing` in its name\n"),
        (&["--user", "missing.toml", "one.toml"], "error: cannot read the user layer"),
    ] {
        let output = place.run(&[&["test"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(err(&output).starts_with(said), "{arguments:?}: {}", err(&output));
    }
}

/// Every mistake of a file at once, each with its place.
#[test]
fn test_files_with_mistakes_get_exactly_these_words() {
    let place = Place::new();
    let expected = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testing/mistakes.expected");
    let file = expected.with_extension("toml");
    let output = place.run(&["test", "--user", "config.toml", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let said = err(&output).replace(file.to_str().unwrap(), "mistakes.toml");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&expected, &said).unwrap();
    }
    assert_eq!(said, fs::read_to_string(&expected).unwrap());
}

#[test]
fn coverage_counts_the_rules_that_decided_or_would_have_applied() {
    let place = Place::new();
    place.write("policy.test.toml", TESTS);
    let output = place.run(&["test", "--user", "config.toml", "--coverage"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        out(&output),
        "coverage: 33.3 % of 3 rules\n  no test: deny evil.example.com, user config.toml:7\n  no test: read-only docs.test, user config.toml:8\n5 passed, 0 failed\n"
    );
    // What a preset or a list names as a whole is counted apart.
    place.write("list.txt", "ads.test\nmore.test\n");
    let more =
        "enabled = true\npresets = [\"crates\"]\ndomain_lists = [{ path = \"list.txt\", format = \"domains\", access = \"deny\" }]\nallow";
    place.write("more.toml", &CONFIG.replace("enabled = true\nallow", more));
    place.write(
        "ads.test.toml",
        "[[case]]\nhosts = [\"ads.test\", \"www.example.com\"]\nrequest = \"evil.example.com\"\nexpect = \"deny\"\n",
    );
    let output = out(&place.run(&["test", "--user", "more.toml", "ads.test.toml", "--coverage"]));
    let coverage = output.split_once("coverage: ").unwrap().1;
    assert!(coverage.starts_with("66.7 % of 3 rules\n  and 1 of "), "{output}");
    assert!(coverage.contains(" rules of presets and lists\n  no test: read-only docs.test, user more.toml:10\n2 passed"), "{output}");
    for (percent, code) in [("33", 0), ("34", 1), ("0", 0), ("101", 2)] {
        let output = place.run(&["test", "--user", "config.toml", "--fail-under", percent]);
        assert_eq!(output.status.code(), Some(code), "{percent}");
    }
    let said = json(&place.run(&["test", "--user", "config.toml", "--coverage", "--json"]));
    assert_eq!(said["passed"], 5);
    assert_eq!(said["coverage"]["exercised"], 1);
    assert_eq!(said["coverage"]["unexercised"][0]["hosts"], "evil.example.com");
    assert_eq!(said["outcomes"][0]["expected"], "allow, rule **.example.com, layer user");
}

#[test]
fn junit_is_xml_that_says_the_same() {
    let place = Place::new();
    place.write("policy.test.toml", &format!("{TESTS}{FAILING}"));
    let output = place.run(&["test", "--user", "config.toml", "--junit", "junit.xml", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let said = json(&output);
    assert_eq!((&said["passed"], &said["failed"]), (&Value::from(6), &Value::from(1)));
    let text = fs::read_to_string(place.path("junit.xml")).unwrap();
    let mut reader = quick_xml::Reader::from_str(&text);
    let (mut names, mut failures, mut counts) = (Vec::new(), Vec::new(), String::new());
    loop {
        let event = reader.read_event().unwrap();
        match &event {
            Event::Eof => break,
            Event::Start(tag) | Event::Empty(tag) => {
                let value = |key: &str| {
                    let found = tag.attributes().map(|attribute| attribute.unwrap()).find(|attribute| attribute.key.as_ref() == key);
                    quick_xml::escape::unescape(&found.unwrap().value).unwrap().into_owned()
                };
                match tag.name().as_ref() {
                    "testcase" => names.push(value("name")),
                    "failure" => failures.push(value("message")),
                    "testsuite" => counts = format!("{} {} {}", value("name"), value("tests"), value("failures")),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    assert_eq!(counts, "policy.test.toml 7 1");
    assert_eq!(names.len(), 7);
    assert_eq!(names[0], "examples & <all>: CONNECT www.example.com:443");
    assert_eq!(names[5], "bad \"one\" \u{fffd}: CONNECT evil.example.com:443");
    assert_eq!(failures, ["expected deny, reason not_allowed, found deny, reason denied, rule evil.example.com, layer user"]);
}

#[test]
fn inspect_shows_header_sections_settings_and_rules() {
    let place = Place::new().compiled();
    let output = place.run(&["inspect", "policy.bin"]);
    assert_eq!(output.status.code(), Some(0));
    let text = out(&output);
    for part in [
        "format   1.0\n",
        "\nmeta ",
        "\nconditions ",
        "\n  profile = w\n",
        "\n  allow_local_binding = true\n",
        "\n  socks_listener = 127.0.0.1:8081\n",
        "\nrules    3\n  user     allow             1\n  user     deny              1\n  user     read-only         1\n",
        "\nsources  1\n  user config.toml\n",
        "\nhooks    0\n",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let said = json(&place.run(&["inspect", "--json", "policy.bin"]));
    let bytes = fs::metadata(place.path("policy.bin")).unwrap().len();
    assert_eq!((&said["bytes"], &said["rules"], &said["settings"]["mode"]), (&bytes.into(), &3.into(), &"full".into()));
    // It says no settings beyond its rules.
    assert_eq!(
        said["sections"].as_array().unwrap().len(),
        policy_format::SectionKind::ALL.into_iter().filter(|kind| !kind.may_be_missing()).count()
    );
    assert!(!text.contains("limits."), "{text}");
    let settings = &said["settings"];
    assert_eq!(
        (&settings["sni"], &settings["resolver"], &settings["limits"]["connect_timeout"]),
        (&"enforce".into(), &serde_json::json!([]), &"15s".into())
    );
    assert!(text.contains(said["digest"].as_str().unwrap()));

    let rules =
        "deny evil.example.com, user config.toml:7\nallow **.example.com, user config.toml:6\nread-only docs.test, user config.toml:8\n";
    let shown = out(&place.run(&["inspect", "--rules", "policy.bin"]));
    assert_eq!(sorted(&shown), sorted(rules));
    let lines = out(&place.run(&["inspect", "--rules", "--json", "policy.bin"]));
    let hosts: Vec<String> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["hosts"].as_str().unwrap().to_owned()).collect();
    assert_eq!(hosts.len(), 3);
    assert!(hosts.contains(&"docs.test".to_owned()));

    let wrong = place.run(&["inspect", "config.toml"]);
    assert_eq!(
        err(&wrong),
        "error: `config.toml` is not a compiled policy: it is TOML\nhelp: `netpolicy check --user config.toml` says what is in it\n"
    );
    for arguments in [&["inspect", "config.toml"][..], &["inspect", "missing.bin"], &["inspect", "--toml", "--json", "policy.bin"]] {
        assert_eq!(place.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn inspect_writes_toml_that_compiles_again() {
    let place = Place::new().compiled();
    let output = place.run(&["inspect", "--toml", "policy.bin"]);
    let text = out(&output);
    assert_eq!(
        text.split_once('\n').unwrap().1,
        "default_permissions = \"w\"\n\n[permissions.w.network]\nenabled = true\nallow_local_binding = true\n\n[permissions.w.network.domains]\n\
         \"**.example.com\" = \"allow\" # user config.toml:6\n\"evil.example.com\" = \"deny\" # user config.toml:7\n\"docs.test\" = \"read-only\" # user config.toml:8\n"
    );
    place.write("again.toml", &text);
    assert!(place.run(&["compile", "--strict", "--user", "again.toml", "-o", "again.bin"]).status.success());
    let rules = |name: &str| out(&place.run(&["inspect", "--rules", name])).replace("again.toml", "config.toml");
    let without_lines = |text: String| -> Vec<String> { text.lines().map(|line| line.split_once(", ").unwrap().0.to_owned()).collect() };
    assert_eq!(without_lines(rules("policy.bin")), without_lines(rules("again.bin")));
}

/// A pipe that nobody reads any more, with all that prints what it was asked for.
#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_failure() {
    let place = Place::new();
    place.write("other.toml", &CONFIG.replace("evil", "ill"));
    place.write("srt.json", "{\"network\": {\"allowedDomains\": [\"a.test\"]}}");
    place.write("older.toml", "[permissions.network]\nenabled = true\n");
    let cases: [(&[&str], i32); 10] = [
        (&["presets"], 0),
        (&["presets", "--json"], 0),
        (&["presets", "show", "crates"], 0),
        (&["presets", "which", "github.com"], 0),
        (&["presets", "which", "a.test"], 1),
        (&["migrate", "--from", "srt", "srt.json"], 0),
        (&["migrate", "--from", "srt", "srt.json", "--json", "-o", "-"], 0),
        (&["migrate", "--dry-run", "older.toml"], 0),
        (&["diff", "config.toml", "other.toml"], 1),
        (&["schema"], 0),
    ];
    for (arguments, code) in cases {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = place.command(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", err(&output));
        assert!(!err(&output).contains("pipe"), "{arguments:?}: {}", err(&output));
    }
}

/// `head` closes its end early; the rules do not fit a pipe.
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let place = Place::new();
    let names: String = (0..20_000).map(|n| format!("\"host{n}.example\" = \"allow\"\n")).collect();
    place.write(
        "config.toml",
        &format!("default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\n[permissions.w.network.domains]\n{names}"),
    );
    let place = place.compiled();
    for arguments in
        [&["inspect", "--rules", "policy.bin"][..], &["inspect", "--rules", "--json", "policy.bin"], &["inspect", "--toml", "policy.bin"]]
    {
        let mut child = place.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""), "{arguments:?}");
    }
}
