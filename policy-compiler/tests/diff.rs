//! `netpolicy diff` in words, and as pipelines use it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diff")
}

fn netpolicy(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netpolicy")).current_dir(folder()).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// `tests/diff/NAME.old.toml` and `NAME.new.toml` have the policies and `NAME.expected` what is said. `BLESS=1` writes the latter anew.
#[test]
fn differences_are_said_in_exactly_these_words() {
    let mut cases = 0;
    for file in fs::read_dir(folder()).unwrap() {
        let file = file.unwrap().path();
        let Some(name) = file.file_name().and_then(|name| name.to_str()?.strip_suffix(".old.toml")) else { continue };
        let output = netpolicy(&["diff", &format!("{name}.old.toml"), &format!("{name}.new.toml")]);
        let said = stdout(&output);
        let expected = folder().join(format!("{name}.expected"));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &said).unwrap();
        }
        assert_eq!(said, fs::read_to_string(&expected).unwrap(), "{name}");
        assert_eq!(output.status.code(), Some(i32::from(name != "same")), "{name}");
        cases += 1;
    }
    assert_eq!(cases, 11);
}

#[test]
fn pipelines_may_stop_at_what_widens_only() {
    for (old, new, widen, any) in [
        ("removed.old.toml", "removed.new.toml", 0, 1),
        ("removed.new.toml", "removed.old.toml", 1, 1),
        ("mode.old.toml", "mode.new.toml", 1, 1),
        ("mode.new.toml", "mode.old.toml", 0, 1),
        ("networks.old.toml", "networks.new.toml", 1, 1),
        ("teredo.old.toml", "teredo.new.toml", 1, 1),
        ("same.old.toml", "same.new.toml", 0, 0),
    ] {
        for (what, expected) in [("widen", widen), ("any", any)] {
            let output = netpolicy(&["diff", "--fail-on", what, old, new]);
            assert_eq!(output.status.code(), Some(expected), "{old} {new} {what}: {}", stdout(&output));
        }
    }
}

#[test]
fn compiled_policies_and_configurations_compare_alike() {
    let dir = tempfile::tempdir().unwrap();
    let blob = dir.path().join("new.bin");
    let blob = blob.to_str().unwrap();
    assert!(netpolicy(&["compile", "--user", "wildcard.new.toml", "-o", blob]).status.success());
    let (from_blob, from_file) =
        (netpolicy(&["diff", "wildcard.old.toml", blob]), netpolicy(&["diff", "wildcard.old.toml", "wildcard.new.toml"]));
    assert_eq!(stdout(&from_blob), stdout(&from_file));
}

#[test]
fn json_has_every_change_with_its_witness() {
    let output = netpolicy(&["diff", "--json", "wildcard.old.toml", "wildcard.new.toml"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(json["widens"], true);
    let change = &json["changes"][0];
    assert_eq!(change["reach"], "opened");
    assert_eq!(change["hosts"]["include"], serde_json::json!(["*.example.com"]));
    assert_eq!(change["hosts"]["except"], serde_json::json!(["evil.example.com"]));
    assert_eq!(change["witness"]["request"], "CONNECT x.example.com:443");
    assert_eq!(change["cause"]["rule"]["place"], "user wildcard.new.toml:6");
}

#[test]
fn what_cannot_be_read_is_bad_input() {
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken.bin");
    fs::write(&broken, [policy_format::MAGIC.as_slice(), b"broken"].concat()).unwrap();
    for (path, expected) in [("missing.toml", "`missing.toml`"), (broken.to_str().unwrap(), "broken.bin`")] {
        let output = netpolicy(&["diff", "same.old.toml", path]);
        assert_eq!(output.status.code(), Some(2), "{path}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(expected), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty());
    }
}

/// Rules for one host, each of which has more to say than the one before.
fn policy(folder: &Path, name: &str, rules: impl Iterator<Item = String>) -> String {
    let path = folder.join(name);
    let head =
        "default_permissions = \"workspace\"\n[permissions.workspace.network]\nenabled = true\n[permissions.workspace.network.domains]\n";
    fs::write(&path, format!("{head}{}\n", rules.collect::<Vec<_>>().join("\n"))).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn policies_that_combine_without_end_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let combined = |count: usize| {
        let rule = |n| format!("\"a.test:{n}\" = {{ access = \"allow\", methods = [\"M{n}\"], paths = [\"/p{n}\"] }}");
        policy(dir.path(), &format!("{count}.toml"), (1..=count).map(rule))
    };
    let output = netpolicy(&["diff", &combined(300), &combined(301)]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "error: the ports, methods and paths of these policies combine in too many ways to compare them exactly\n");
}

#[test]
fn one_of_many_ports_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let ports = |last: u16| {
        policy(dir.path(), &format!("{last}.toml"), (1..=4999).chain([last]).map(|port| format!("\"a.test:{port}\" = \"allow\"")))
    };
    let output = netpolicy(&["diff", &ports(5000), &ports(5001)]);
    let said = stdout(&output);
    assert!(said.contains("+ a.test: port 5001\n") && said.contains("- a.test: port 5000\n"), "{said}");
}
