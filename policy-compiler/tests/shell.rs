//! What the shell and `man` get: completions and manual pages name every command.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use std::fs;
use std::process::{Command, Output};

fn netpolicy(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netpolicy")).args(arguments).output().unwrap()
}

fn stdout(arguments: &[&str]) -> String {
    let output = netpolicy(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that the help lists.
fn commands() -> Vec<String> {
    let help = stdout(&["--help"]);
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names: Vec<String> = lines.filter_map(|line| Some(line.strip_prefix("  ")?.split_whitespace().next()?.to_owned())).collect();
    assert!(names.len() >= 5, "{names:?}");
    names.into_iter().filter(|name| name != "help").collect()
}

#[test]
fn the_help_is_short() {
    let help = stdout(&["--help"]);
    assert!(help.lines().count() <= 30, "{help}");
    for command in commands() {
        let help = stdout(&[command.as_str(), "--help"]);
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
}

#[test]
fn every_shell_completes_every_command() {
    let commands = commands();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = stdout(&["completions", shell]);
        for command in &commands {
            assert!(script.contains(command.as_str()), "{shell}: {command}");
        }
        assert!(script.contains("--output") || script.contains("-l output"), "{shell} completes flags");
    }
    assert_eq!(netpolicy(&["completions", "cobol"]).status.code(), Some(2));
}

#[test]
fn bash_accepts_its_script() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("netpolicy.bash");
    fs::write(&file, stdout(&["completions", "bash"])).unwrap();
    let output = Command::new("bash").arg("-n").arg(&file).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("share/man1");
    let main = stdout(&["man"]);
    stdout(&["man", "--output-dir", folder.to_str().unwrap()]);
    let commands = commands();
    for command in &commands {
        let page = fs::read_to_string(folder.join(format!("netpolicy-{command}.1"))).unwrap();
        assert!(page.contains(".TH netpolicy") && page.contains(".SH SYNOPSIS"), "{command}: {page}");
        assert!(page.contains(&format!("netpolicy {command}")) || page.contains(&format!("netpolicy\\-{command}")), "{command}: {page}");
        assert!(
            main.contains(&format!("netpolicy\\-{command}(1)")) || main.contains(&format!("netpolicy-{command}(1)")),
            "{command}: {main}"
        );
    }
    assert!(main.contains(".TH netpolicy 1") && main.contains("netpolicy"), "{main}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), commands.len() + 1, "one page each, and netpolicy(1)");
}
