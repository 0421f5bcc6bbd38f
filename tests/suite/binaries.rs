//! The two binaries as programs: arguments, messages, exit codes, signals.

use harness::{Client, DataPlane, Origin, binaries, policy};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `netproxy-dp` to its end.
fn netproxy_dp(args: &[&str]) -> Output {
    Command::new(binaries::path("netproxy-dp")).args(args).output().unwrap()
}

fn compiled(dir: &Path, toml: &str) -> String {
    let file = dir.join("policy.bin");
    binaries::compile_to(toml, &file);
    file.to_str().unwrap().to_owned()
}

#[test]
fn compile_says_what_it_read_and_what_it_wrote() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.toml"), policy("", &[("a.test", "allow")])).unwrap();
    let output = binaries::netpolicy(dir.path(), &["compile", "--user", "config.toml", "-o", "policy.bin"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.starts_with("read user settings config.toml\nwrote policy.bin: profile workspace, network proxied, mode full, 1 rule, "),
        "{said}"
    );
    assert!(output.stdout.is_empty());

    let json = binaries::netpolicy(dir.path(), &["compile", "--user", "config.toml", "-o", "policy.bin", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((json["rules"].as_u64(), json["format"].as_str()), (Some(1), Some("1.0")));

    // To standard output, byte for byte the same.
    let piped = binaries::netpolicy(dir.path(), &["compile", "--user", "config.toml", "-o", "-"]);
    assert_eq!((piped.status.code(), piped.stdout), (Some(0), fs::read(dir.path().join("policy.bin")).unwrap()));
}

#[test]
fn the_order_of_flags_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("user.toml"), policy("", &[("a.test", "allow")])).unwrap();
    fs::write(dir.path().join("managed.toml"), "[permissions.workspace.network.domains]\n\"b.test\" = \"deny\"\n").unwrap();
    fs::write(dir.path().join("project.toml"), "[permissions.workspace.network.domains]\n\"c.test\" = \"allow\"\n").unwrap();
    let flags = [["--user", "user.toml"], ["--managed", "managed.toml"], ["--project", "project.toml"]];
    let compile = |order: [usize; 3]| {
        let mut args = vec!["compile", "-o", "-"];
        args.extend(order.iter().flat_map(|n| flags[*n]));
        binaries::netpolicy(dir.path(), &args).stdout
    };
    let first = compile([0, 1, 2]);
    assert!(first.len() > 64);
    for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        assert_eq!(compile(order), first, "{order:?}");
    }
}

#[test]
fn bad_input_is_exit_2_with_file_line_and_caret() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.toml"), policy("mode = \"limitted\"", &[])).unwrap();
    let output = binaries::netpolicy(dir.path(), &["compile", "--user", "config.toml", "-o", "policy.bin"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("--> config.toml:4:8") && said.contains("^^^^^^^^^^") && said.contains("did you mean \"limited\"?"), "{said}");
    assert!(!dir.path().join("policy.bin").exists(), "nothing is written");
    for (args, words) in [
        (&["compile", "--user", "missing.toml", "-o", "x"][..], "cannot read the user layer `missing.toml`"),
        (&["compile", "--user", "config.toml"][..], "--output"),
        (&["compile", "-o", "-", "--json"][..], "both want standard output"),
        (&["frobnicate"][..], "frobnicate"),
    ] {
        let output = binaries::netpolicy(dir.path(), args);
        assert!(output.status.code() == Some(2) && text(&output.stderr).contains(words), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn overrides_on_the_command_line_are_a_layer() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.toml"), policy("", &[("a.test", "allow")])).unwrap();
    let args = ["compile", "--user", "config.toml", "-c", "permissions.workspace.network.mode=limited", "-o", "policy.bin", "--json"];
    let json: serde_json::Value = serde_json::from_slice(&binaries::netpolicy(dir.path(), &args).stdout).unwrap();
    assert_eq!(json["mode"], "limited");
}

#[test]
fn the_built_in_policy_runs_and_says_how_to_use_it() {
    let output = {
        // Stopped by an address that is taken, after everything else was right.
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        netproxy_dp(&["--http-listen", &address, "--socks-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
    };
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("cannot listen on") && said.contains("`--http-listen`"), "{said}");

    let proxy = DataPlane::start(&[]);
    let blocked = Client::connect(proxy.http()).tunnel("example.test:443");
    assert_eq!((blocked.status, blocked.reason.as_str()), (403, "Blocked by network policy (not_allowed)"));
    let health = Client::connect(proxy.admin()).send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").answer().json();
    assert_eq!(health["policy"]["profile"], "default");
    assert!(health["policy"]["rules"].as_u64().unwrap() >= 70);
}

#[test]
fn addresses_are_printed_one_a_line() {
    let mut child = Command::new(binaries::path("netproxy-dp"))
        .args(["--http-listen", "127.0.0.1:0", "--socks-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let three: Vec<String> = (0..3).map(|_| lines.next().unwrap().unwrap()).collect();
    for (line, listener) in three.iter().zip(["http", "socks5", "admin"]) {
        let (name, address) = line.split_once(' ').unwrap();
        assert_eq!(name, listener);
        assert_ne!(address.parse::<std::net::SocketAddr>().unwrap().port(), 0);
    }
    child.kill().unwrap();
    let said = text(&child.wait_with_output().unwrap().stderr);
    // One line: three listeners, how to use them, where the policy is. Before it: what was done for the memory and, on Linux, what was given up.
    assert_eq!(said.lines().count(), if cfg!(target_os = "linux") { 3 } else { 2 }, "{said}");
    for line in &three {
        assert!(said.contains(line.split_once(' ').unwrap().1), "{said}");
    }
    assert!(said.contains("export HTTP_PROXY=http://127.0.0.1:") && said.contains("examples/default.toml"), "{said}");
}

#[test]
fn listeners_that_other_machines_reach_need_the_policys_word() {
    let dir = tempfile::tempdir().unwrap();
    let closed = compiled(dir.path(), &policy("", &[]));
    for (flag, key) in [
        ("--http-listen", "dangerously_allow_non_loopback_proxy"),
        ("--socks-listen", "dangerously_allow_non_loopback_proxy"),
        ("--admin-listen", "needs a token"),
    ] {
        let mut args = vec!["--policy", &closed, flag, "0.0.0.0:0"];
        for other in ["--http-listen", "--socks-listen", "--admin-listen"] {
            if other != flag {
                args.extend([other, "127.0.0.1:0"]);
            }
        }
        let output = netproxy_dp(&args);
        assert!(output.status.code() == Some(2) && text(&output.stderr).contains(key), "{flag}: {}", text(&output.stderr));
    }
}

#[test]
fn a_policy_that_is_off_binds_nothing_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = compiled(dir.path(), "default_permissions = \"w\"\n[permissions.w.network]\nenabled = false\n");
    let output = netproxy_dp(&["--policy", &blocked]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("switches the network off"), "{}", text(&output.stderr));
    let direct = compiled(dir.path(), &format!("{}[features]\nnetwork_proxy = false\n", policy("", &[])));
    let output = netproxy_dp(&["--policy", &direct]);
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("clients connect directly"), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty(), "nothing listens");
}

#[test]
fn a_policy_that_cannot_be_read_is_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    let noise = dir.path().join("noise.bin");
    fs::write(&noise, "noise").unwrap();
    for (file, words) in [
        ("/nonexistent/policy.bin", "cannot read the policy"),
        (noise.to_str().unwrap(), "not a policy blob"),
        (dir.path().to_str().unwrap(), "it is not a regular file"),
    ] {
        let output = netproxy_dp(&["--policy", file]);
        assert!(output.status.code() == Some(2) && text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
}

#[test]
fn sigterm_ends_with_exit_0() {
    let dir = tempfile::tempdir().unwrap();
    let file = compiled(dir.path(), &policy("allow_local_binding = true", &[("127.0.0.1", "allow")]));
    let origin = Origin::echo();
    let mut proxy = DataPlane::start(&["--policy", &file, "--drain", "0"]);
    let mut tunnel = Client::connect(proxy.http());
    assert_eq!(tunnel.tunnel(&origin.address().to_string()).status, 200);
    proxy.signal("TERM");
    assert_eq!(proxy.wait(), 0);
    assert_eq!(tunnel.rest(), Vec::<u8>::new());
}
