//! What files say may be hostile: nothing of it acts on the terminal that it is shown on, and no password is shown.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// The title of the window, the screen, the direction of the text: as TOML spells them.
const EVIL: &str = r"\u001b]0;PWN\u0007\u001b[2J\u009b2J";

fn netpolicy(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netpolicy"));
    command.args(arguments).current_dir(folder).env_clear().env("CODEX_HOME", folder).output().unwrap()
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(text).unwrap()
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).unwrap();
}

fn assert_tame(arguments: &[&str], text: &str) {
    assert!(!text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')), "{arguments:?}: {text:?}");
}

#[test]
fn nothing_that_a_policy_says_acts_on_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    let good = format!(
        "default_permissions = \"{EVIL}\"
[permissions.\"{EVIL}\".network]
enabled = true
unix_sockets = {{ \"/a\" = \"allow\" }}
domains = {{ \"a.test\" = \"allow\", \"b.test\" = \"deny\" }}
[permissions.\"{EVIL}\".network.mitm]
ca_cert_path = \"/{EVIL}\"
ca_key_path = \"/{EVIL}\"
[permissions.\"{EVIL}\".network.mitm.hooks.\"{EVIL}\"]
host = \"a.test\"
methods = [\"GET\"]
path_prefixes = [\"/\"]
action = [\"{EVIL}\"]
[permissions.\"{EVIL}\".network.mitm.actions.\"{EVIL}\"]
strip_request_headers = [\"x\"]
"
    );
    write(folder, "good.toml", &good);
    write(folder, "plain.toml", "default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\n");
    write(
        folder,
        "older.toml",
        &format!("default_permissions = \"{EVIL}\"\n[network_proxy.policy]\nallowed_domains = [\"a.test\"] # \u{9b}2J\n"),
    );
    write(folder, "tests.toml", &format!("[[case]]\nname = \"{EVIL}\"\nrequest = \"b.test\"\nexpect = \"allow\"\n"));
    let table = |line: &str| format!("default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\n{line}\n");
    let bad = [
        format!("default_permissions = \"{EVIL}\"\n"),
        format!("default_permissions = \"w\"\n[permissions.w]\nextends = \"{EVIL}\"\n[permissions.\"{EVIL}\"]\nextends = \"w\"\n"),
        format!("[permissions.\"{EVIL}\".network]\nenabled = true\n"),
        format!("\"{EVIL}\" = 1\n\"{EVIL}\" = 2\n"),
        table(&format!("mode = \"{EVIL}\"")),
        table(&format!("\"{EVIL}\" = 1")),
        table(&format!("presets = [\"{EVIL}\"]")),
        table(&format!("upstream = \"http://{EVIL}\"")),
        table(&format!("domain_lists = [{{ path = \"{EVIL}\", format = \"domains\", access = \"deny\" }}]")),
        table("mode = 1 # \u{9b}2J \u{202e}"),
        good.replace(&format!("action = [\"{EVIL}\"]"), &format!("action = [\"{EVIL}1\"]")),
    ];
    for (number, text) in bad.iter().enumerate() {
        write(folder, "bad.toml", text);
        let arguments = ["check", "--user", "bad.toml"];
        let output = netpolicy(folder, &arguments);
        let said = said(&output);
        assert!(said.contains("error") || said.contains("warning"), "{number}: {said}");
        assert_tame(&arguments, &said);
        let arguments = ["diff", "bad.toml", "plain.toml"];
        assert_tame(&arguments, &self::said(&netpolicy(folder, &arguments)));
    }
    for arguments in [
        ["check", "--user", "good.toml"].as_slice(),
        &["compile", "--user", "good.toml", "-o", "p.bin"],
        &["explain", "--user", "good.toml", "b.test"],
        &["explain", "--user", "good.toml", "c.test"],
        &["test", "--user", "good.toml", "tests.toml"],
        &["diff", "plain.toml", "good.toml"],
        &["inspect", "p.bin"],
        &["inspect", "p.bin", "--rules"],
        &["inspect", "p.bin", "--toml"],
        &["migrate", "--dry-run", "older.toml"],
        &["migrate", "--dry-run", "\u{1b}[2J.toml"],
    ] {
        let output = netpolicy(folder, arguments);
        assert!(!said(&output).is_empty(), "{arguments:?}");
        assert_tame(arguments, &said(&output));
    }
}

#[test]
fn passwords_are_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    for key in ["proxy_url", "socks_url", "admin_url", "upstream"] {
        for value in ["'http://user:hun/ter2@proxy.test:70000'", "'http://user:hun\"ter2@proxy.test'", "'ftp://user:hun ter2@proxy.test'"] {
            write(folder, "a.toml", &format!("default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\n{key} = {value}\n"));
            let output = netpolicy(folder, &["check", "--user", "a.toml"]);
            let said = said(&output);
            assert!(said.contains(&format!("{key} = ")) && said.contains("*@proxy.test"), "{said}");
            assert!(!said.contains("ter2"), "{said}");
        }
    }
    write(folder, "older.toml", "[network]\nproxy = \"http://user:hunter2@proxy.test:8080\"\n");
    for arguments in [["migrate", "--dry-run", "older.toml"].as_slice(), &["migrate", "--dry-run", "--json", "older.toml"]] {
        let said = said(&netpolicy(folder, arguments));
        assert!(said.contains("@proxy.test:8080") && !said.contains("hunter2"), "{said}");
    }
}
