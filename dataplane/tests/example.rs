//! The example, as it is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

use std::path::Path;
use std::process::Command;

#[test]
fn it_runs_to_its_end() {
    // target/PROFILE/deps/example-HASH; Cargo makes examples before it runs tests.
    let exe = std::env::current_exe().unwrap();
    let example = exe.ancestors().nth(2).unwrap().join("examples").join(format!("embed{}", std::env::consts::EXE_SUFFIX));
    assert!(Path::new(&example).exists(), "run `cargo build -p dataplane --examples` first, as `cargo test` does");
    let output = Command::new(example).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "docs.test: HTTP/1.1 200 OK",
        "crate.test: HTTP/1.1 403 Blocked by network policy (not_approved_yet)",
        "crate.test, approved: HTTP/1.1 200 OK",
        "reload: generation 2",
        "crate.test, denied: HTTP/1.1 403 Blocked by network policy (denied)",
        "child: HTTPS_PROXY is set: true",
        "shut down: true",
    ] {
        assert!(said.lines().any(|found| found == line), "{line} is missing in\n{said}");
    }
    let count = |start: &str, with: &str| said.lines().filter(|line| line.starts_with(start) && line.contains(with)).count();
    assert_eq!((count("asked: ", "crate.test"), count("event: ", "policy_decision")), (2, 4), "{said}");
}
