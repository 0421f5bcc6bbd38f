//! Log lines on standard error, and what standard output says with and without them.

use harness::binaries::{self, FREE_PORTS, without_proxies};
use harness::{Client, DataPlane, Origin, policy, wait_until};
use std::cell::RefCell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

const LOCAL: &str = "allow_local_binding = true";

/// A proxy whose standard error goes to a file.
struct Logged {
    proxy: DataPlane,
    folder: tempfile::TempDir,
    policy: PathBuf,
}

impl Logged {
    fn start(args: &[&str]) -> Self {
        Self::within(None, args)
    }

    /// One that may have so many descriptors.
    fn within(descriptors: Option<u32>, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policy_file = folder.path().join("policy.bin");
        std::fs::write(&policy_file, compiled("a.test")).unwrap();
        std::fs::write(folder.path().join("hosts"), "127.0.0.1 a.test b.test\n").unwrap();
        let mut command = Command::new("sh");
        let limited = descriptors.map_or_else(String::new, |most| format!("ulimit -n {most} && "));
        command.args(["-c", &format!("{limited}exec \"$0\" \"$@\"")]).arg(binaries::path("netproxy-dp"));
        let (hosts, state) = (folder.path().join("hosts"), folder.path().join("state"));
        command.args(FREE_PORTS).args(args).arg("--policy").arg(&policy_file).arg("--hosts").arg(hosts).arg("--state-dir").arg(state);
        command.stdin(Stdio::null()).stderr(File::create(folder.path().join("stderr")).unwrap());
        Self {
            proxy: {
                without_proxies(&mut command);
                DataPlane::spawn(command)
            },
            folder,
            policy: policy_file,
        }
    }

    /// All that is on standard error.
    fn stderr(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("stderr")).unwrap()
    }

    /// What is there of our targets.
    fn lines(&self) -> Vec<String> {
        self.stderr().lines().filter(|line| line.contains("netproxy::")).map(str::to_owned).collect()
    }

    fn replace(&self, bytes: &[u8]) -> serde_json::Value {
        let fresh = self.folder.path().join("fresh");
        std::fs::write(&fresh, bytes).unwrap();
        std::fs::rename(fresh, &self.policy).unwrap();
        self.proxy.next_reload()
    }

    fn stop(&mut self) {
        self.proxy.signal("TERM");
        assert_eq!(self.proxy.wait(), 0);
    }

    /// A policy that is another, a file that is none, and the end.
    fn live(&mut self) {
        assert_eq!(self.replace(&compiled("b.test"))["outcome"], "swapped");
        assert_eq!(self.replace(b"nonsense")["outcome"], "refused");
        self.stop();
    }

    /// What standard output says, without what differs from one process to another.
    fn said(&self) -> Vec<String> {
        let told = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| event[key].as_str().unwrap_or_default();
            format!("{} {}{}", text("event"), text("listener"), text("outcome"))
        };
        wait_until("it has said that it stopped", || self.proxy.said().contains("stopped"));
        self.proxy.said().lines().map(told).collect()
    }
}

/// A proxy that says everything as text.
struct Plain {
    child: Child,
    lines: RefCell<BufReader<ChildStdout>>,
    admin: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Plain {
    fn start(args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let policy_file = folder.path().join("policy.bin");
        std::fs::write(&policy_file, compiled("a.test")).unwrap();
        let mut command = Command::new(binaries::path("netproxy-dp"));
        let ports = FREE_PORTS.into_iter().filter(|flag| *flag != "--json");
        command.args(ports).arg("--policy").arg(&policy_file).arg("--state-dir").arg(folder.path().join("state")).args(args);
        let mut child = without_proxies(&mut command).stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let lines = RefCell::new(BufReader::new(child.stdout.take().unwrap()));
        let mut plain = Self { child, lines, admin: SocketAddr::from(([0; 4], 0)), _folder: folder };
        plain.admin = loop {
            if let Some(address) = plain.line().strip_prefix("admin ") {
                break address.parse().unwrap();
            }
        };
        plain
    }

    /// The next line of standard output.
    fn line(&self) -> String {
        let mut line = String::new();
        assert_ne!(self.lines.borrow_mut().read_line(&mut line).unwrap(), 0, "it has ended");
        line.trim_end().to_owned()
    }

    /// Stops it, and gives all that it wrote to standard error.
    fn stderr(mut self) -> String {
        let status = Command::new("sh").args(["-c", &format!("kill -TERM {}", self.child.id())]).status().unwrap();
        assert!(status.success() && self.child.wait().unwrap().success());
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // One that has ended already is no news.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn compiled(host: &str) -> Vec<u8> {
    harness::compile(&policy(LOCAL, &[(host, "allow")]))
}

#[test]
fn few_descriptors_are_told_of_and_let_more_than_one_connection_stand() {
    let logged = Logged::within(Some(128), &["--workers", "2"]);
    let warning = logged.stderr().lines().find(|line| line.contains("128 descriptors")).map(str::to_owned).expect("a warning");
    let serves: usize = warning.split("serve ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    assert!((16..64).contains(&serves), "{warning}");
    // A client has three quarters of them, which stand with their upstreams.
    let origin = Origin::raw(|mut stream| {
        let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
    });
    let open = |_| {
        let mut client = Client::connect(logged.proxy.http());
        let target = format!("a.test:{}", origin.port());
        assert_eq!(client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).answer_to("CONNECT").status, 200);
        client
    };
    let mut tunnels: Vec<_> = (0..serves * 3 / 4).map(open).collect();
    for tunnel in &mut tunnels {
        assert_eq!(tunnel.send("ping").bytes(4), b"ping");
    }
    assert!(!Logged::within(Some(1024), &[]).stderr().contains("descriptors"));
}

#[test]
fn without_being_asked_for_there_are_no_log_lines_and_standard_output_has_one_for_each_event() {
    let mut quiet = Logged::start(&[]);
    quiet.live();
    assert_eq!(quiet.lines(), [""; 0]);
    let expected = ["listening http", "listening socks5", "listening admin", "policy swapped", "policy refused", "stopped "];
    let without_sandbox = |said: Vec<String>| said.into_iter().filter(|event| event != "sandbox ").collect::<Vec<_>>();
    assert_eq!(without_sandbox(quiet.said()), expected);
    let mut logged = Logged::start(&["--log", "debug"]);
    logged.live();
    assert_eq!(without_sandbox(logged.said()), expected, "the same with log lines");
}

/// A mode is a generation of its own: each that is in force has a line.
#[test]
fn a_mode_that_is_switched_is_said_as_a_swap_is() {
    let set = |admin: SocketAddr, mode: &str| {
        let body = format!("{{\"mode\":{mode}}}");
        let head = format!("Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
        let answer = Client::connect(admin).send(format!("POST /v1/mode HTTP/1.1\r\n{head}\r\n\r\n{body}")).answer();
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    let mut logged = Logged::start(&[]);
    // The second time, it is in force already.
    for mode in ["\"limited\"", "\"limited\"", "null"] {
        set(logged.proxy.admin(), mode);
    }
    assert_eq!(logged.replace(&compiled("b.test"))["generation"], 4);
    logged.stop();
    wait_until("it has said that it stopped", || logged.proxy.said().contains("stopped"));
    let said = logged.proxy.said();
    let events: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let generations: Vec<_> = events.iter().filter(|event| event["generation"].is_u64()).collect();
    assert_eq!(generations[0], &serde_json::json!({ "event": "mode", "outcome": "set", "mode": "limited", "generation": 2 }));
    assert_eq!(generations[1], &serde_json::json!({ "event": "mode", "outcome": "policy", "mode": "full", "generation": 3 }));
    assert_eq!((generations.len(), &generations[2]["event"]), (3, &"policy".into()), "{said}");

    let plain = Plain::start(&[]);
    for (mode, said) in [
        ("\"limited\"", "mode: limited, as an operator set it; generation 2 is in force"),
        ("null", "mode: full, as the policy says; generation 3 is in force"),
    ] {
        set(plain.admin, mode);
        // Limited mode reads tunnels, and it may be a fault that children do not trust it.
        let line = std::iter::repeat_with(|| plain.line()).find(|line| !line.starts_with("fault: "));
        assert_eq!(line.as_deref(), Some(said));
    }
}

/// Whoever reads JSON there finds nothing else, whatever is said on standard output.
#[test]
fn with_json_every_line_on_standard_error_is_an_object() {
    let objects = |text: &str| -> Vec<(String, String, String)> {
        let object = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let text = |key: &str| value[key].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
            assert!(text("timestamp").ends_with('Z'), "{line}");
            (text("level"), text("target"), text("message"))
        };
        text.lines().map(object).collect()
    };
    for args in [&["--log-format", "json"][..], &["--log-format", "json", "--log", "off"]] {
        let plain = Plain::start(args);
        let said = objects(&plain.stderr());
        let memory = said.iter().find(|(_, _, message)| message.starts_with("memory: ")).unwrap_or_else(|| panic!("{said:?}"));
        assert_eq!((memory.0.as_str(), memory.1.as_str()), ("INFO", "netproxy::process"));
        assert_eq!(cfg!(target_os = "linux"), said.iter().any(|(_, _, message)| message.starts_with("sandbox")), "{said:?}");
        assert_eq!(args.contains(&"off"), said.iter().all(|(_, target, _)| target == "netproxy::process"), "{said:?}");
    }
    let failed = |args: &[&str]| {
        let mut command = Command::new(binaries::path("netproxy-dp"));
        let output = command.args(FREE_PORTS).args(["--policy", "/nowhere/policy.bin"]).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = objects(&failed(&["--log-format", "json"]));
    let [(level, target, message)] = said.as_slice() else { panic!("{said:?}") };
    assert!(level == "ERROR" && target == "netproxy::process" && message.contains("/nowhere/policy.bin"), "{said:?}");
    assert!(failed(&[]).starts_with("error: "), "as text, it is as it was");
}

#[test]
fn info_is_one_line_for_start_swap_refusal_and_stop() {
    for args in [&["--log", "info"][..], &["--log-format", "text"]] {
        let mut logged = Logged::start(args);
        logged.live();
        let lines = logged.lines();
        let expected = [
            (" INFO netproxy::server: serving ", "generation=1 "),
            (" INFO netproxy::policy: policy in force ", "generation=2 "),
            (" WARN netproxy::policy: policy refused, the one in force stays ", "error="),
            (" INFO netproxy::server: stopped", ""),
        ];
        assert_eq!(lines.len(), expected.len(), "{lines:#?}");
        for (line, (what, field)) in lines.iter().zip(expected) {
            assert!(line.contains(what) && line.contains(field), "{line}");
            assert!(line.starts_with("20") && line[..40].contains('T') && line[..40].contains("Z "), "a time in UTC: {line}");
        }
    }
    let mut warned = Logged::start(&["--log", "warn"]);
    warned.live();
    assert_eq!(warned.lines().len(), 1);
    let mut off = Logged::start(&["--log", "off"]);
    off.live();
    assert_eq!(off.lines().len(), 0);
}

/// One of everything that has a secret in it, and none is in any line.
#[test]
fn debug_has_every_decision_and_nothing_of_paths_queries_headers_and_secrets() {
    let (origin, echo) = (Origin::start(), Origin::echo());
    let mut logged = Logged::start(&["--log", "debug", "--log-format", "json"]);
    let (port, proxy) = (origin.port(), &logged.proxy);
    let mut client = Client::connect(proxy.http());
    let fields = "Authorization: Bearer s3cret\r\nCookie: s3cret=1\r\nProxy-Authorization: Basic czNjcmV0\r\nReferer: http://r.test/s3cret";
    let asked = client.send(format!("GET /s3cret-path?token=s3cret HTTP/1.1\r\nHost: a.test:{port}\r\n{fields}\r\n\r\n")).answer();
    assert_eq!(asked.status, 299);
    let blocked = client.send(format!("POST /s3cret HTTP/1.1\r\nHost: c.test\r\n{fields}\r\nContent-Length: 0\r\n\r\n")).answer();
    assert_eq!(blocked.status, 403);
    drop(client);
    let mut tunnel = Client::connect(proxy.http());
    assert_eq!(tunnel.tunnel(&format!("a.test:{}", echo.port())).status, 200);
    assert_eq!(tunnel.send("s3cret").bytes(6), b"s3cret");
    drop(tunnel);
    assert_eq!(Client::connect(proxy.http()).send("GET /s3cret HTTP/1.1\r\n\r\n").answer().status, 400);
    logged.stop();
    let events: Vec<serde_json::Value> = logged.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in &events {
        assert!(["timestamp", "level", "target", "message"].iter().all(|key| event[key].is_string()), "{event}");
    }
    let decided: Vec<String> = events
        .iter()
        .filter(|event| event["target"] == "netproxy::decide")
        .map(|event| {
            assert_eq!((event["level"].as_str(), event["generation"].as_u64()), (Some("DEBUG"), Some(1)));
            let text = |key: &str| event[key].as_str().unwrap_or("-").to_owned();
            format!("{} {} {} {} {} {}", text("protocol"), text("method"), text("host"), event["port"], text("decision"), text("reason"))
        })
        .collect();
    let expected = [
        format!("http GET a.test {port} allow allow"),
        "http POST c.test 80 deny not_allowed".to_owned(),
        format!("https_connect - a.test {} allow allow", echo.port()),
    ];
    assert_eq!(decided, expected);
    for text in [logged.stderr(), logged.proxy.said()] {
        for secret in ["s3cret", "czNjcmV0", "token", "path", "Bearer", "r.test"] {
            let found = text.lines().find(|line| line.contains(secret) && !line.starts_with("sandbox"));
            assert_eq!(found, None, "{secret}");
        }
    }
}

#[test]
fn a_filter_that_is_none_is_told() {
    for (filter, told) in [("loud", "`loud` is no level"), ("h2=debug", "there is no target `h2`; there are accept, close, decide,")] {
        let output = Command::new(binaries::path("netproxy-dp")).args(FREE_PORTS).args(["--log", filter]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains(told), "{said}");
    }
}
