//! What children get: `netproxy-dp env`, `exec`, `connect`, `init` and `check`, as programs.

use harness::{DataPlane, Origin, audit, binaries, policy};
use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A folder, a policy in it that lets `localhost` be reached, and a state folder that is not there yet.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(settings: &str, domains: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        binaries::compile_to(&policy(settings, domains), &folder.path().join("policy.bin"));
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// `netproxy-dp`, without the proxies of this machine.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binaries::path("netproxy-dp"));
        binaries::without_proxies(&mut command).args(args).env("NETPROXY_STATE_DIR", self.path("state")).env_remove("GIT_SSH_COMMAND");
        command.env_remove("JAVA_TOOL_OPTIONS").stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        said(&self.command(args).output().unwrap())
    }

    fn exec(&self, script: &str) -> (Option<i32>, String, String) {
        self.run(&["exec", "--policy", &self.text("policy.bin"), "--", "sh", "-c", script])
    }

    fn start(&self) -> DataPlane {
        DataPlane::start_in(&["--policy", &self.text("policy.bin")], &[("NETPROXY_STATE_DIR", &self.text("state"))])
    }
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn local() -> Place {
    Place::new("", &[("localhost", "allow"), ("denied.test", "deny")])
}

/// Standard output is the command's, whatever the policy has written there: events go nowhere, and that is said elsewhere.
#[test]
fn events_do_not_get_into_what_a_command_prints() {
    let place = Place::new("audit = { stdout = true, level = \"all\" }", &[("localhost", "allow")]);
    let origin = Origin::start();
    let (code, out, err) =
        place.exec(&format!("curl -s http://localhost:{}/; curl -s -o /dev/null http://denied.test/; echo end", origin.port()));
    assert_eq!((code, out.as_str()), (Some(0), "originend\n"));
    assert!(err.contains("`audit.stdout` of the policy is off here"), "{err}");
    let (code, out, err) = place.run(&["exec", "--policy", &place.text("policy.bin"), "--audit-stdout", "--", "true"]);
    assert_eq!((code, out.as_str(), err.contains("standard output is the command's")), (Some(2), "", true), "{err}");
}

/// The process ends with the command, and not before its audit does. What is written at the very end would be missing now and then: so it is tried several times.
#[test]
fn all_that_a_command_asked_for_is_written_down() {
    let (place, origin) = (local(), Origin::start());
    let denied = ("denied", ["http://denied.test/"; 5].join(" "), 5);
    let allowed = ("allowed", format!("http://localhost:{}/", origin.port()), 1);
    for (case, urls, asked) in [denied, allowed] {
        for (on_full, run) in ["drop", "block", "deny"].into_iter().flat_map(|on_full| (0..3).map(move |run| (on_full, run))) {
            let log = place.text(&format!("{case}-{on_full}-{run}.jsonl"));
            let flags = ["exec", "--policy", &place.text("policy.bin"), "--audit-file", &log, "--audit-on-full", on_full];
            let script = format!("curl -s -o /dev/null {}; exit 7", urls.replace(' ', " -o /dev/null "));
            let (code, _, err) = place.run(&[&flags[..], &["--", "sh", "-c", &script]].concat());
            assert_eq!((code, err.as_str()), (Some(7), ""));
            let names = names_in(&log);
            let count = |name: &str| names.iter().filter(|found| *found == name).count();
            assert_eq!((count("policy_decision"), count("lost")), (asked, 0), "{log}: {names:?}");
            assert_eq!((names.first().map(String::as_str), names.last().map(String::as_str)), (Some("start"), Some("stop")), "{log}");
            assert_eq!(count("closed"), asked * usize::from(case == "allowed"), "{log}: {names:?}");
        }
    }
    // Neither does one that there is no command for.
    let log = place.text("none.jsonl");
    assert_eq!(place.run(&["exec", "--audit-file", &log, "--", "/no/such/program"]).0, Some(127));
    assert_eq!(names_in(&log), ["start", "stop"]);
}

fn names_in(log: &str) -> Vec<String> {
    audit::names(&audit::events(Path::new(log)))
}

#[test]
fn a_command_gets_a_proxy_of_its_own_and_its_exit_code_comes_back() {
    let (place, origin) = (local(), Origin::start());
    let url = format!("http://localhost:{}/", origin.port());
    let (code, out, err) = place.exec(&format!("curl -s -w '%{{http_code}}' {url}; exit 7"));
    assert_eq!((code, out.as_str(), err.as_str()), (Some(7), "origin299", ""));
    let (code, out, _) = place.exec("curl -s -o /dev/null -w '%{http_code}' http://denied.test/");
    assert_eq!((code, out.as_str()), (Some(0), "403"));
    // Both protocols; the admin listener is nobody's business.
    let (_, out, _) = place.exec(&format!("curl -s -x \"$FTP_PROXY\" {url}; echo $CODEX_NETWORK_PROXY_ACTIVE"));
    assert_eq!(out, "origin1\n");
    assert_eq!(place.exec("kill -TERM $$").0, Some(128 + 15));
    assert_eq!(place.run(&["exec", "--", "/no/such/program"]).0, Some(127));
    assert_eq!(place.run(&["exec", "--", "/etc/passwd"]).0, Some(126));
    assert_eq!(place.run(&["exec"]).0, Some(2));
    assert_eq!(place.run(&["exec", "--polcy", "p.bin", "--", "true"]).0, Some(2));
    assert_eq!(place.run(&["exec", "--policy", "/no/such/policy", "--", "true"]).0, Some(2));
    // Nothing is to be trusted, so that there is nothing to write.
    assert!(!place.path("state").exists());
}

#[test]
fn what_is_blocked_is_said_only_where_it_is_asked_for() {
    let place = local();
    let policy = place.text("policy.bin");
    let args = ["exec", "--policy", &policy, "--", "curl", "-s", "-o", "/dev/null", "http://denied.test/"];
    assert_eq!(place.run(&args).2, "");
    let (_, _, err) = place.run(&[&["exec", "-v"], &args[1..]].concat());
    assert_eq!(err, "netproxy-dp: blocked GET denied.test:80 (denied, user config.toml:7)\n");
}

#[test]
fn faults_are_said_on_standard_error() {
    let (place, origin) = (Place::new("", &[("denied.test", "deny")]), Origin::start());
    binaries::compile_to(&policy("mode = \"limited\"", &[("localhost", "allow")]), &place.path("opens.bin"));
    let url = format!("http://localhost:{}/", origin.port());
    let script = format!("mv '{}' '{}'", place.text("opens.bin"), place.text("policy.bin"));
    // Until the new policy is in force.
    let script = format!("{script}; until [ \"$(curl -s -o /dev/null -w '%{{http_code}}' {url})\" = 299 ]; do :; done");
    let (code, _, err) = place.exec(&script);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.starts_with("netproxy-dp: TLS is opened with an authority that children of this proxy were not told of"), "{err}");
}

#[test]
fn a_proxy_that_runs_already_is_told_nothing() {
    let place = local();
    for more in [&["--sandbox", "off"][..], &["--verbose"], &["--hosts", "/etc/hosts"]] {
        let (code, _, err) = place.run(&[&["exec", "--running"], more, &["--", "true"]].concat());
        assert!(code == Some(2) && err.contains("cannot be used with"), "{more:?}: {err}");
    }
}

#[test]
fn input_arguments_and_variables_come_through_untouched() {
    let place = local();
    let mut command = place.command(&[
        "exec",
        "--policy",
        &place.text("policy.bin"),
        "--",
        "sh",
        "-c",
        "cat; printf '%s|' \"$@\" \"$OWN\"",
        "sh",
        "--running",
        "a b",
        "-v",
        "",
    ]);
    let mut child = command.env("OWN", "it's mine\n").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"input\0").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"input\0--running|a b|-v||it's mine\n|");
}

/// A command that says when it is there.
fn started(command: &mut Command) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, out)
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status().unwrap().success());
}

#[test]
fn signals_are_passed_on() {
    let place = local();
    // What was ignored when this began, as under nohup, no shell can catch.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok()).unwrap_or_default();
    for (name, number) in [("TERM", 15), ("HUP", 1), ("USR1", 10), ("QUIT", 3), ("INT", 2)] {
        if ignored >> (number - 1) & 1 == 1 {
            println!("SIG{name} is ignored here: not tested");
            continue;
        }
        let script =
            format!("trap 'echo got {name}; exit 40' {name}; echo ready; n=0; while [ $n -lt 1200 ]; do sleep 0.05; n=$((n+1)); done");
        // A session of its own: what is typed at a terminal comes to the command by itself.
        let (mut child, mut out) = started(
            Command::new("setsid")
                .arg("-w")
                .arg(binaries::path("netproxy-dp"))
                .args(["exec", "--", "sh", "-c", &script])
                .env("NETPROXY_STATE_DIR", place.path("state")),
        );
        // setsid forks only where it leads a group; then the signal would be its own.
        let target =
            Command::new("sh").args(["-c", &format!("pgrep -P {} netproxy-dp || echo {}", child.id(), child.id())]).output().unwrap();
        let target = String::from_utf8(target.stdout).unwrap();
        assert!(Command::new("sh").args(["-c", &format!("kill -{name} {}", target.trim())]).status().unwrap().success());
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!((child.wait().unwrap().code(), rest.as_str()), (Some(40), format!("got {name}\n").as_str()), "{number}");
    }
    // One that the command does not catch.
    let (mut child, _out) = started(&mut place.command(&["exec", "--", "sh", "-c", "echo ready; exec sleep 600"]));
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

#[test]
fn a_proxy_of_the_environment_becomes_the_upstream() {
    // The outer one blocks what the inner one allows.
    let (outer, inner) = (Place::new("", &[("denied.test", "deny"), ("*", "allow")]), Place::new("", &[("*", "allow")]));
    let proxy = outer.start();
    let mut command = inner.command(&["exec", "--policy", &inner.text("policy.bin"), "--", "curl", "-s", "http://denied.test/"]);
    let (_, out, _) = said(&command.env("HTTP_PROXY", format!("http://{}", proxy.http())).output().unwrap());
    assert!(out.contains("\"reason\":\"denied\""), "{out}");
}

#[test]
fn the_variables_of_a_running_proxy() {
    let (place, origin) = (local(), Origin::start());
    let (code, out, err) = place.run(&["env"]);
    assert!(code == Some(1) && out.is_empty() && err.contains("no proxy is running"), "{err}");

    let mut proxy = place.start();
    let (code, out, err) = place.run(&["env"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains(&format!("export HTTPS_PROXY='http://{}'\n", proxy.http())), "{out}");
    // No TLS is opened: nothing is said of what to trust.
    assert!(!out.contains("SSL_CERT_FILE"), "{out}");
    let url = format!("http://localhost:{}/", origin.port());
    let dp = binaries::path("netproxy-dp");
    let script = format!("eval \"$({} env)\"; curl -s {url}; eval \"$({} env --unset)\"; env", dp.display(), dp.display());
    let output = place
        .command(&[])
        .get_envs()
        .fold(&mut Command::new("sh"), |command, (name, value)| match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        })
        .args(["-c", &script])
        .output()
        .unwrap();
    let (_, out, _) = said(&output);
    assert!(out.starts_with("origin") && !out.contains(&proxy.http().to_string()), "{out}");

    let (_, json, _) = place.run(&["env", "--shell", "json"]);
    let json: HashMap<String, String> = serde_json::from_str::<serde_json::Map<_, _>>(&json)
        .unwrap()
        .into_iter()
        .map(|(name, value)| (name, value.as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(json["FTP_PROXY"], format!("socks5h://{}", proxy.socks5().unwrap()));
    assert!(json["GIT_SSH_COMMAND"].contains(" connect --proxy http://"));

    // The same proxy for a command.
    let (code, out, _) = place.run(&["exec", "--running", "--", "sh", "-c", &format!("curl -s {url}; echo \" $HTTP_PROXY\"; exit 3")]);
    assert_eq!((code, out), (Some(3), format!("origin http://{}\n", proxy.http())));

    proxy.signal("TERM");
    assert_eq!(proxy.wait(), 0);
    let (code, _, err) = place.run(&["env"]);
    assert!(code == Some(1) && err.contains("no proxy is running"), "{err}");
}

#[test]
fn a_proxy_that_was_killed_is_not_taken_for_one_that_runs() {
    let place = local();
    let mut proxy = place.start();
    assert_eq!(place.run(&["env"]).0, Some(0));
    proxy.signal("KILL");
    proxy.wait();
    let (code, _, err) = place.run(&["env"]);
    assert!(code == Some(1) && err.contains("has ended"), "{err}");
    // The next one takes its place.
    let proxy = place.start();
    assert!(place.run(&["env"]).1.contains(&proxy.http().to_string()));
    let leases = fs::read_dir(place.path("state"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("proxy-"));
    assert_eq!(leases.count(), 1);
}

#[test]
fn a_state_folder_that_is_asked_for_has_to_be_usable() {
    let place = local();
    fs::write(place.path("file"), "").unwrap();
    let mut command = place.command(&["--policy", &place.text("policy.bin"), "--state-dir", &place.text("file")]);
    let (code, _, err) = said(&command.args(binaries::FREE_PORTS).output().unwrap());
    assert!(code == Some(2) && err.contains("--state-dir"), "{err}");
}

#[test]
#[cfg(unix)]
fn files_for_children_are_within_reach_of_all_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new("mode = \"limited\"", &[("localhost", "allow")]);
    let mut command = Command::new("sh");
    binaries::without_proxies(&mut command).args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(binaries::path("netproxy-dp"));
    command.args(["exec", "--policy", &place.text("policy.bin"), "--", "true"]).env("NETPROXY_STATE_DIR", place.path("state"));
    let (code, _, err) = said(&command.output().unwrap());
    assert_eq!(code, Some(0), "{err}");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let state = place.path("state");
    let named = |start: &str| {
        let mut entries = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path());
        entries.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(start)).unwrap()
    };
    assert_eq!((mode(&state), mode(&named("php-")), mode(&named("ca-bundle-"))), (0o755, 0o755, 0o644));
}

/// `netproxy-dp connect`, with its input.
fn connect(place: &Place, args: &[&str], input: &[u8]) -> (Option<i32>, String, String) {
    let mut command = place.command(&[&["connect"], args].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // One that does not get through does not read.
    let _ = child.stdin.take().unwrap().write_all(input);
    said(&child.wait_with_output().unwrap())
}

#[test]
fn connect_joins_streams_by_http_and_by_socks5() {
    let (place, echo) = (Place::new("", &[("localhost", "allow"), ("127.0.0.1", "allow"), ("denied.test", "deny")]), Origin::echo());
    let proxy = place.start();
    let port = echo.port().to_string();
    let input: Vec<u8> = (0..300_000u32).map(|number| b'a' + u8::try_from(number % 26).unwrap()).collect();
    let expected = String::from_utf8(input.clone()).unwrap();
    let (http, socks5) = (format!("http://{}", proxy.http()), format!("socks5h://{}", proxy.socks5().unwrap()));
    for (url, host) in [(&http, "localhost"), (&socks5, "localhost"), (&http, "127.0.0.1"), (&socks5, "127.0.0.1")] {
        // The end of the input reaches the other side, and what it says then comes back.
        let (code, out, err) = connect(&place, &[host, &port, "--proxy", url], &input);
        assert!(code == Some(0) && out == expected, "{url} {host}: {code:?} {} bytes {err}", out.len());
    }
    // The running one is found, and so is that of the environment.
    assert_eq!(connect(&place, &["localhost", &port], b"hello").1, "hello");
    let (code, _, err) = connect(&place, &["denied.test", "443", "--proxy", &http], b"");
    assert!(code == Some(1) && err.starts_with("error: denied.test:443: 403 Blocked by network policy (denied): "), "{err}");
    assert!(err.contains("config.toml"), "{err}");
    let (code, _, err) = connect(&place, &["denied.test", "443", "--proxy", &socks5], b"");
    assert!(code == Some(1) && err.contains("SOCKS5 reply 2"), "{err}");
    let (code, _, err) = connect(&place, &["localhost", &port, "--proxy", "http://127.0.0.1:1"], b"");
    assert!(code == Some(1) && err.contains("cannot connect to the proxy http://127.0.0.1:1"), "{err}");
    let (code, _, err) = connect(&place, &["localhost", &port, "--proxy", "gopher://u:hunter2@x"], b"");
    assert!(code == Some(2) && !err.contains("hunter2"), "{err}");
    assert_eq!(connect(&place, &["localhost", "0x", "--proxy", &http], b"").0, Some(2));
}

/// git's ssh goes through the proxy by the variable alone; what stands for sshd says what every one of them says first.
#[test]
fn ssh_goes_through_by_the_variable() {
    if Command::new("ssh").arg("-V").stderr(Stdio::null()).status().is_err() {
        println!("skipped: ssh is not installed");
        return;
    }
    let place = local();
    let origin = Origin::raw(|mut stream| {
        let _ = stream.write_all(b"SSH-2.0-stand_in\r\n");
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let script = format!("$GIT_SSH_COMMAND -v -p {} -F none git@localhost 2>&1", origin.port());
    let (_, out, _) = place.exec(&format!("eval \"{}\"", script.replace('"', "\\\"")));
    assert!(out.contains("remote software version stand_in"), "{out}");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn init_makes_an_authority_once() {
    let place = local();
    let dir = place.text("it's here");
    let (code, out, err) = place.run(&["init", "--dir", &dir]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for word in
        [&format!("ca_cert_path = \"{dir}/ca.pem\""), &format!("ca_key_path = \"{dir}/ca-key.pem\""), "update-ca-certificates", "keytool"]
    {
        assert!(out.contains(word), "{word}: {out}");
    }
    let key = fs::read_to_string(Path::new(&dir).join("ca-key.pem")).unwrap();
    assert!(key.contains("PRIVATE KEY") && !out.contains(key.lines().nth(1).unwrap()));
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(Path::new(&dir).join("ca-key.pem")).unwrap().permissions()) & 0o777,
        0o600
    );
    let (code, _, err) = place.run(&["init", "--dir", &dir]);
    assert!(code == Some(1) && err.contains("is there already"), "{err}");
    assert_eq!(fs::read_to_string(Path::new(&dir).join("ca-key.pem")).unwrap(), key);
    let (_, json, _) = place.run(&["init", "--dir", &place.text("other"), "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["certificate"], place.text("other/ca.pem"));
    // The lines are a policy's.
    binaries::compile_to(
        &format!("{}\n[permissions.workspace.network.mitm]\n{}", policy("", &[("a.test", "allow")]), json["toml"].as_str().unwrap()),
        &place.path("with.bin"),
    );
    // Without a place of its own, it is in the state folder.
    assert_eq!(place.run(&["init"]).0, Some(0));
    assert!(place.path("state/ca/ca.pem").exists());
}

#[test]
fn check_says_whether_a_policy_could_be_put_in_force() {
    let place = local();
    let file = place.text("policy.bin");
    let (code, out, _) = place.run(&["check", "--policy", &file]);
    assert!(code == Some(0) && out.contains("profile workspace, mode full, 2 rules, digest "), "{out}");
    // One that runs is not in the way.
    let _proxy = place.start();
    assert_eq!(place.run(&["check", "--policy", &file]).0, Some(0));
    let (code, out, _) = place.run(&["check", "--policy", &file, "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, json["ok"].as_bool(), json["rules"].as_u64()), (Some(0), Some(true), Some(2)));
    let mut bytes = fs::read(place.path("policy.bin")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(place.path("damaged.bin"), bytes).unwrap();
    let (code, out, err) = place.run(&["check", "--policy", &place.text("damaged.bin"), "--json"]);
    assert!(code == Some(1) && out.contains("\"ok\":false") && err.contains("is refused"), "{out}{err}");
    assert_eq!(place.run(&["check", "--policy", &file, "--profile", "other"]).0, Some(1));
    assert_eq!(place.run(&["check", "--policy", "/no/such/file"]).0, Some(2));
    assert_eq!(place.run(&["check"]).0, Some(0));
}

#[test]
fn the_doctor_tries_what_is_installed() {
    let place = local();
    let (code, out, err) = place.run(&["doctor", "--opaque", "--json", "--only", "curl,python urllib"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
    for tool in json["tools"].as_array().unwrap() {
        assert_eq!((tool["proxied"].as_bool(), tool["trusted"].as_bool()), (Some(true), Some(true)), "{tool}");
    }
    assert_eq!((code, json["ok"].as_bool()), (Some(0), Some(true)));
    let (code, _, err) = place.run(&["doctor", "--only", "no such tool"]);
    assert!(code == Some(2) && err.contains("python urllib"), "{err}");
}

#[test]
fn the_proxy_itself_is_started_as_before() {
    let place = local();
    for (args, words) in [
        (&["--policy", "x", "env"][..], "cannot be used with"),
        (&["env", "--policy", "x"], "unexpected argument"),
        (&["nonsense"], "unrecognized subcommand"),
    ] {
        let (code, _, err) = place.run(args);
        assert!(code == Some(2) && err.contains(words), "{args:?}: {err}");
    }
}

#[test]
fn a_command_does_not_get_the_secrets_that_hooks_send_for_it() {
    let place = Place::new("", &[]);
    let text = r#"
default_permissions = "w"
[permissions.w.network]
enabled = true
domains = { "api.test" = "allow" }
[permissions.w.network.mitm.hooks.h]
host = "api.test"
methods = ["GET"]
path_prefixes = ["/"]
action = ["a"]
[permissions.w.network.mitm.actions.a]
inject_request_headers = [{ name = "x-api-key", secret_env_var = "HOOK_SECRET" }]
"#;
    binaries::compile_to(text, &place.path("policy.bin"));
    let script = "echo \"$HOOK_SECRET|$COPY|$OTHER\"; cat /proc/$PPID/environ | tr '\\0' '\\n' | grep -c HOOK_SECRET";
    let mut command = place.command(&["exec", "--policy", &place.text("policy.bin"), "--", "sh", "-c", script]);
    command.env("HOOK_SECRET", "s3cret-of-the-hook-0").env("COPY", "https://u:s3cret-of-the-hook-0@host").env("OTHER", "as it was");
    let (_, out, err) = said(&command.output().unwrap());
    assert_eq!(out.lines().next(), Some("||as it was"), "{out} {err}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_command_is_run_under_what_the_layers_say_and_cannot_change_it() {
    let (place, origin) = (local(), Origin::start());
    let config = place.text("config.toml");
    fs::write(&config, policy("", &[("localhost", "allow"), ("denied.test", "deny")])).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(binaries::path("netpolicy"));
        binaries::without_proxies(&mut command).arg("run").args(args).env("NETPROXY_STATE_DIR", place.path("state")).stdin(Stdio::null());
        said(&command.output().unwrap())
    };
    let asks = format!("curl -s -w '%{{http_code}} ' -o /dev/null http://localhost:{}/ -o /dev/null http://denied.test/", origin.port());
    let (code, out, err) = run(&["--user", &config, "-v", "--", "sh", "-c", &format!("{asks}; exit 7")]);
    let blocked = "netproxy-dp: blocked GET denied.test:80 (denied, user config.toml:7)\n";
    assert_eq!((code, out.as_str(), err.ends_with(blocked)), (Some(7), "299 403 ", true), "{err}");
    let writes = r#"for file in /proc/$$/fd/* /proc/$PPID/fd/*; do case "$(readlink "$file")" in /memfd:*) printf x > "$file" && echo changed;; esac; done"#;
    let (code, out, _) = run(&["--user", &config, "sh", "-c", &format!("{writes}; {asks}")]);
    assert_eq!((code, out.as_str()), (Some(0), "299 403 "));
    // Nothing is run without a policy, or without a proxy.
    fs::write(&config, "default_permissions = 1\n").unwrap();
    let (code, out, err) = run(&["--user", &config, "--", "echo", "ran"]);
    assert_eq!((code, out.as_str(), err.contains("config.toml:1")), (Some(2), "", true), "{err}");
    fs::write(&config, policy("", &[])).unwrap();
    let (code, out, err) = run(&["--user", &config, "--netproxy-dp", "/no/such/proxy", "--", "echo", "ran"]);
    assert_eq!((code, out.as_str(), err.contains("`--netproxy-dp PATH`")), (Some(2), "", true), "{err}");
}
