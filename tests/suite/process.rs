//! The process: drain, hand-over, service managers, sandbox, its own listeners.

use harness::binaries::FREE_PORTS;
use harness::client::get;
use harness::{Client, DataPlane, Origin, PATIENCE, audit, binaries, policy, wait_until};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const LOCAL: &str = "allow_local_binding = true";

/// A folder that every user may look into.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn compiled(dir: &Path, toml: &str) -> PathBuf {
    let file = dir.join("policy.bin");
    binaries::compile_to(toml, &file);
    file
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn health(proxy: &DataPlane) -> serde_json::Value {
    Client::connect(proxy.admin()).send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").answer().json()
}

#[test]
fn a_signal_drains_and_a_second_one_stops_at_once() {
    let dir = folder();
    let file = compiled(dir.path(), &policy(LOCAL, &[("127.0.0.1", "allow")]));
    let origin = Origin::echo();
    for signals in [["TERM", "TERM"], ["INT", "INT"], ["TERM", "INT"]] {
        let mut proxy = DataPlane::start(&["--policy", text(&file), "--drain", "600"]);
        let mut tunnel = Client::connect(proxy.http());
        assert_eq!(tunnel.tunnel(&origin.address().to_string()).status, 200);
        proxy.signal(signals[0]);
        wait_until("it listens no more", || TcpStream::connect(proxy.http()).is_err());
        assert_eq!(tunnel.send("still").bytes(5), b"still", "what is open goes on");
        assert!(proxy.is_alive());
        proxy.signal(signals[1]);
        assert_eq!(proxy.wait(), 0);
        assert_eq!(tunnel.rest(), b"");
    }
    // Nothing open is nothing to wait for.
    let mut proxy = DataPlane::start(&["--policy", text(&file), "--drain", "600"]);
    proxy.signal("TERM");
    assert_eq!(proxy.wait(), 0);
}

#[test]
fn what_a_second_signal_breaks_off_is_written_down() {
    let dir = folder();
    let file = compiled(dir.path(), &policy(LOCAL, &[("127.0.0.1", "allow")]));
    let origin = Origin::echo();
    for run in 0..3 {
        let log = dir.path().join(format!("audit-{run}.jsonl"));
        let mut proxy = DataPlane::start(&["--policy", text(&file), "--drain", "600", "--audit-file", text(&log), "--audit-level", "all"]);
        let mut tunnel = Client::connect(proxy.http());
        assert_eq!(tunnel.tunnel(&origin.address().to_string()).status, 200);
        assert_eq!(get(proxy.http(), "http://denied.test/").status, 403);
        proxy.signal("TERM");
        wait_until("it listens no more", || TcpStream::connect(proxy.http()).is_err());
        proxy.signal("TERM");
        assert_eq!(proxy.wait(), 0);
        wait_until("it has said that it stopped", || proxy.said().ends_with("{\"event\":\"stopped\"}\n"));
        let events = audit::events(&log);
        assert_eq!(audit::names(&events), ["start", "policy_decision", "policy_decision", "closed", "stop"]);
        let closed = events.iter().find(|event| event["outcome"] == "stopped").unwrap();
        assert_eq!(closed["event.name"], "codex.network_proxy.closed");
    }
}

/// A syslog server that is not there has the whole of the drain time: after one signal. After two it has a second, and after three none.
#[test]
fn audit_that_cannot_be_written_holds_up_a_second_signal_for_a_short_time_and_a_third_not_at_all() {
    let dir = folder();
    let file = compiled(dir.path(), &policy(LOCAL, &[("127.0.0.1", "allow")]));
    let origin = Origin::echo();
    let nobody = dir.path().join("log");
    for (signals, open) in [(2, true), (2, false), (3, false)] {
        let mut proxy = DataPlane::start(&["--policy", text(&file), "--drain", "600", "--audit-syslog", text(&nobody)]);
        let mut tunnel = Some(Client::connect(proxy.http())).filter(|_| open);
        if let Some(tunnel) = &mut tunnel {
            assert_eq!(tunnel.tunnel(&origin.address().to_string()).status, 200);
        }
        proxy.signal("TERM");
        let listener = if open { proxy.http() } else { proxy.admin() };
        wait_until("it listens no more", || TcpStream::connect(listener).is_err());
        assert!(proxy.is_alive());
        proxy.signal("TERM");
        if let Some(tunnel) = &mut tunnel {
            assert_eq!(tunnel.rest(), b"");
        }
        if signals == 3 {
            // Two that come before the process looks are one to it.
            wait_until("it ends", || {
                let lives = proxy.is_alive();
                if lives {
                    proxy.signal("TERM");
                }
                !lives
            });
        }
        assert_eq!(proxy.wait(), 0);
        if signals == 2 {
            wait_until("it has said that it stopped", || proxy.said().contains("\"stopped\""));
        }
        assert_eq!((proxy.said().contains("not written"), proxy.said().contains("\"stopped\"")), (signals == 2, signals == 2));
    }
}

/// Clients that connect, ask and read, one connection after the other, until told to stop: every one of them has to get its whole answer.
struct Hammer {
    stop: AtomicBool,
    answered: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Hammer {
    /// Runs `meanwhile` while clients ask all listeners, and gives the number of answers.
    fn run(http: SocketAddr, socks5: Option<SocketAddr>, admin: SocketAddr, meanwhile: impl FnOnce(&Self)) -> usize {
        let hammer = Self { stop: AtomicBool::new(false), answered: AtomicUsize::new(0), failed: Mutex::default() };
        let blocked = b"GET http://blocked.test/ HTTP/1.1\r\nHost: blocked.test\r\nConnection: close\r\n\r\n";
        let health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let refused = b"\x05\x01\x00\x05\x01\x00\x03\x0cblocked.test\x00\x50";
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| hammer.ask("http", http, blocked, |answer| answer.starts_with(b"HTTP/1.1 403 ") && answer.ends_with(b"}")));
            }
            scope.spawn(|| {
                hammer.ask("admin", admin, health, |answer| answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"}\n"));
            });
            let hammer = &hammer;
            // Also when `meanwhile` panics: the scope waits for them.
            let _stop = Stop(&hammer.stop);
            if let Some(socks5) = socks5 {
                scope.spawn(move || hammer.ask("socks5", socks5, refused, |answer| answer.starts_with(&[5, 0, 5, 2])));
            }
            meanwhile(hammer);
        });
        let failed = hammer.failed.into_inner().unwrap();
        assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed.first());
        hammer.answered.into_inner()
    }

    fn ask(&self, name: &str, address: SocketAddr, question: &[u8], right: impl Fn(&[u8]) -> bool) {
        while !self.stop.load(Ordering::SeqCst) {
            let mut answer = Vec::new();
            let asked = TcpStream::connect(address).and_then(|mut stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(question)?;
                stream.read_to_end(&mut answer)
            });
            match asked {
                Ok(_) if right(&answer) => {
                    self.answered.fetch_add(1, Ordering::SeqCst);
                }
                outcome => self.failed.lock().unwrap().push(format!("{name}: {outcome:?}: {:?}", String::from_utf8_lossy(&answer))),
            }
        }
    }

    /// Waits for so many more answers.
    fn answers(&self, more: usize) {
        let goal = self.answered.load(Ordering::SeqCst) + more;
        wait_until("clients are answered", || {
            let failed = self.failed.lock().unwrap();
            assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed.first());
            self.answered.load(Ordering::SeqCst) >= goal
        });
    }
}

#[test]
fn a_hand_over_refuses_and_resets_no_connection() {
    let dir = folder();
    let file = compiled(dir.path(), &policy(LOCAL, &[("127.0.0.1", "allow")]));
    let door = dir.path().join("hand-over");
    let args = ["--policy", text(&file), "--hand-over", text(&door), "--drain", "30"];
    let origin = Origin::echo();
    let mut running = DataPlane::start(&args);
    let (http, socks5, admin) = (running.http(), running.socks5(), running.admin());
    let mut tunnel = Client::connect(http);
    assert_eq!(tunnel.tunnel(&origin.address().to_string()).status, 200);
    let mut first = None;
    let answered = Hammer::run(http, socks5, admin, |hammer| {
        for n in 0..8 {
            hammer.answers(50);
            let next = DataPlane::start(&args);
            assert_eq!((next.http(), next.socks5(), next.admin()), (http, socks5, admin), "the same sockets");
            let mut old = std::mem::replace(&mut running, next);
            if n == 0 {
                // It has the tunnel, and goes on until that ends.
                first = Some(old);
            } else {
                assert_eq!(old.wait(), 0);
            }
        }
        hammer.answers(50);
    });
    assert!(answered >= 450, "{answered}");
    assert_eq!(tunnel.send("still").bytes(5), b"still", "a tunnel stays with the process that opened it");
    drop(tunnel);
    assert_eq!(first.unwrap().wait(), 0);
    // The last one has them all by itself.
    running.signal("TERM");
    assert_eq!(running.wait(), 0);
    assert!(TcpStream::connect(http).is_err());
    // What is left of it is no obstacle.
    let _ = health(&DataPlane::start(&args));
}

/// The next process has the mode that was set here, as far as its policy lets that be.
#[test]
fn a_hand_over_takes_the_mode_along() {
    let dir = folder();
    let door = dir.path().join("hand-over");
    let policies = |name: &str, blob: Vec<u8>| {
        let file = dir.path().join(name);
        fs::write(&file, blob).unwrap();
        file
    };
    let limited = policy(&format!("{LOCAL}\nmode = \"limited\""), &[("127.0.0.1", "allow")]);
    let free = policies("limited.bin", harness::compile(&limited));
    let held = policies("held.bin", harness::compile_under("[experimental_network]\nmode = \"limited\"\n", &limited));
    let full = policies("full.bin", harness::compile(&policy(LOCAL, &[("127.0.0.1", "allow")])));
    let log = dir.path().join("audit.jsonl");
    let start = |policy: &Path| DataPlane::start(&["--policy", text(policy), "--hand-over", text(&door), "--audit-file", text(&log)]);
    let set = |proxy: &DataPlane, mode: &str| {
        let body = format!("{{\"mode\":{mode}}}");
        let head = format!(
            "POST /v1/mode HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        assert_eq!(Client::connect(proxy.admin()).send(head + &body).answer().status, 200);
    };
    let mut running = start(&full);
    let starts = || fs::read_to_string(&log).map_or(0, |lines| lines.matches("codex.network_proxy.start").count());
    for (n, (policy, wanted, mode, then)) in [
        (&full, None, "full", Some("\"limited\"")),
        (&full, Some("limited"), "limited", None),
        (&free, Some("limited"), "limited", Some("\"full\"")),
        (&free, Some("full"), "full", None),
        (&held, Some("full"), "limited", None),
        (&free, Some("full"), "full", Some("null")),
        (&free, None, "limited", None),
    ]
    .into_iter()
    .enumerate()
    {
        let mut old = std::mem::replace(&mut running, start(policy));
        assert_eq!(old.wait(), 0);
        wait_until("the log is this process's", || starts() == n + 2);
        let asked = "GET /v1/policy HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let state = Client::connect(running.admin()).send(asked).answer().json()["mode"].clone();
        assert_eq!((state["wanted"].as_str(), state["mode"].as_str()), (wanted, Some(mode)), "{}", policy.display());
        if let Some(then) = then {
            set(&running, then);
        }
    }
    running.signal("TERM");
    assert_eq!(running.wait(), 0);
    // A mode that was set is told at the start, so that who reads the log knows what decided.
    let lines: Vec<serde_json::Value> = fs::read_to_string(&log).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = lines.iter().filter_map(|line| match line["event.name"].as_str()?.strip_prefix("codex.network_proxy.")? {
        "start" => Some("start".to_owned()),
        "mode" => Some(format!("{} {}", line["network.policy.mode"].as_str()?, line["outcome"].as_str()?)),
        _ => None,
    });
    let expected = [
        "start",
        "start",
        "limited set",
        "start",
        "limited set",
        "start",
        "full set",
        "start",
        "full set",
        "start",
        "start",
        "full set",
        "limited policy",
        "start",
    ];
    assert_eq!(told.collect::<Vec<_>>(), expected);
}

#[test]
fn a_successor_that_fails_changes_nothing() {
    let dir = folder();
    let file = compiled(dir.path(), &policy("", &[]));
    let door = dir.path().join("hand-over");
    let args = ["--policy", text(&file), "--hand-over", text(&door)];
    let mut running = DataPlane::start(&args);
    let noise = dir.path().join("noise.bin");
    fs::write(&noise, "noise").unwrap();
    let run = |door: &Path, policy: &Path, user: Option<u32>| {
        let mut command = Command::new(binaries::path("netproxy-dp"));
        command.args(FREE_PORTS).args(["--policy", text(policy), "--hand-over", text(door)]);
        if let Some(user) = user {
            command.uid(user);
        }
        command.output().map(|output| (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let failed = run(&door, &noise, None).unwrap();
    assert!(failed.0 == Some(2) && failed.1.contains("not a policy blob"), "{failed:?}");
    assert_eq!(health(&running)["status"], "ok");
    // What is no socket is left alone.
    let failed = run(&noise, &file, None).unwrap();
    assert!(failed.0 == Some(2) && failed.1.contains("hand-over at"), "{failed:?}");
    assert_eq!(fs::read(&noise).unwrap(), b"noise");
    // Other users get nothing, whatever the mode of the socket says.
    if is_root() {
        fs::set_permissions(&door, fs::Permissions::from_mode(0o666)).unwrap();
        match run(&door, &file, Some(65534)) {
            Ok(failed) => assert!(failed.0 == Some(2) && failed.1.contains("cannot take over through"), "{failed:?}"),
            Err(error) => eprintln!("skipped: another user cannot run the binary: {error}"),
        }
    } else {
        eprintln!("skipped: a successor of another user needs root");
    }
    let next = DataPlane::start(&args);
    assert_eq!(running.wait(), 0);
    assert_eq!(health(&next)["status"], "ok");
}

/// As a service manager starts it: its sockets are `sockets`, of the names `names`.
fn activated(sockets: [&TcpListener; 2], names: &str, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let script = "exec 3<&0 4<&2 0</dev/null 2>/dev/null; export LISTEN_FDS=2 LISTEN_PID=$$; exec \"$0\" \"$@\"";
    let [first, second] = sockets.map(|socket| Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    command.args(["-c", script]).arg(binaries::path("netproxy-dp")).arg("--json").args(args);
    if ["http", "admin"].iter().any(|name| names.contains(name)) {
        command.args(["--socks-listen", "127.0.0.1:0"]);
    }
    command.env("LISTEN_FDNAMES", names).stdin(first).stderr(second);
    command
}

#[test]
fn a_restart_with_sockets_of_a_service_manager_loses_nothing() {
    let [http, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let start = || DataPlane::spawn(activated([&admin, &http], "admin:http", &[]));
    let mut running = start();
    assert_eq!((running.http(), running.admin()), (http.local_addr().unwrap(), admin.local_addr().unwrap()));
    let answered = Hammer::run(running.http(), None, running.admin(), |hammer| {
        for _ in 0..4 {
            hammer.answers(50);
            running.signal("TERM");
            assert_eq!(running.wait(), 0);
            running = start();
        }
        hammer.answers(50);
    });
    assert!(answered >= 250, "{answered}");
}

#[test]
fn sockets_of_a_service_manager_are_checked() {
    let [one, two] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let run = |command: &mut Command| command.stdout(Stdio::null()).status().unwrap().code();
    assert_eq!(run(&mut activated([&one, &two], "http:http", &[])), Some(2), "the same twice");
    assert_eq!(run(&mut activated([&one, &two], "http:other", &[])), Some(2), "an unknown name");
    assert_eq!(run(&mut activated([&one, &two], "http:admin", &["--http-listen", "127.0.0.1:1"])), Some(2), "a flag that says otherwise");
    assert_eq!(run(&mut activated([&one, &two], "http:admin", &["--hand-over", "/nonexistent/door"])), Some(2), "both ways");
    let open = TcpListener::bind("0.0.0.0:0").unwrap();
    assert_eq!(run(&mut activated([&open, &two], "http:admin", &[])), Some(2), "not loopback, without the policy's word");
    // For another process.
    let mut command = Command::new(binaries::path("netproxy-dp"));
    command.args(FREE_PORTS).env("LISTEN_FDS", "2").env("LISTEN_PID", "1").stdin(Stdio::null());
    assert_eq!(health(&DataPlane::spawn(command))["status"], "ok");
}

/// As systemd names them where nobody does. The address of the admin API is that of its socket, which the manager holds, or another.
#[test]
fn of_two_sockets_without_names_the_second_is_for_whoever_listens() {
    let dir = folder();
    let names = "netproxy-dp.socket:netproxy-dp.socket";
    let [http, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let found = [&http, &second].map(|socket| socket.local_addr().unwrap());
    let start = |settings: &str, args: &[&str]| {
        let file = compiled(dir.path(), &policy(settings, &[]));
        activated([&http, &second], names, &[&["--policy", text(&file)], args].concat())
    };
    let mut proxy = DataPlane::spawn(start(&format!("enable_socks5 = false\nadmin_url = \"http://{}\"", found[1]), &[]));
    assert_eq!([proxy.http(), proxy.admin()], found);
    assert_eq!(health(&proxy)["status"], "ok");
    proxy.signal("TERM");
    assert_eq!(proxy.wait(), 0);
    let mut proxy = DataPlane::spawn(start("", &["--admin-listen", "127.0.0.1:0"]));
    assert_eq!((proxy.http(), proxy.socks5()), (found[0], Some(found[1])));
    proxy.signal("TERM");
    assert_eq!(proxy.wait(), 0);
    // Elsewhere, it may be the port that clients had for SOCKS5.
    for args in [&["--admin-listen", "127.0.0.1:0"][..], &[]] {
        let mut command = start("enable_socks5 = false", args);
        assert_eq!(command.stdout(Stdio::null()).status().unwrap().code(), Some(2), "{args:?}");
    }
}

#[test]
fn the_service_manager_is_told() {
    let dir = folder();
    let file = compiled(dir.path(), &policy("", &[("a.test", "allow")]));
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let next = || {
        let mut bytes = [0; 1024];
        let len = manager.recv(&mut bytes).expect("the service manager is told");
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    };
    // Signs of life come between all others.
    let next_other = || loop {
        let said = next();
        if said != "WATCHDOG=1\n" {
            return said;
        }
    };
    let mut command = Command::new(binaries::path("netproxy-dp"));
    command.args(FREE_PORTS).args(["--policy", text(&file)]).stdin(Stdio::null());
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000").env_remove("WATCHDOG_PID");
    let mut proxy = DataPlane::spawn(command);
    let ready = next_other();
    assert!(ready.starts_with("READY=1\nSTATUS=policy generation 1, 1 rules, digest "), "{ready}");
    for _ in 0..3 {
        assert_eq!(next(), "WATCHDOG=1\n");
    }
    proxy.signal("HUP");
    let reloading = next_other();
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim().parse::<u64>().unwrap();
    assert!(since > 0);
    assert!(next_other().starts_with("READY=1\nSTATUS=policy generation 1, "), "a reload ends, whatever came of it");
    assert_eq!(proxy.next_reload()["outcome"], "unchanged");
    compiled(dir.path(), &policy("", &[("a.test", "allow"), ("b.test", "allow")]));
    let swapped = next_other();
    assert!(swapped.starts_with("STATUS=policy generation 2, 2 rules, digest "), "{swapped}");
    proxy.signal("TERM");
    assert_eq!(next_other(), "STOPPING=1\nSTATUS=finishing open exchanges\n");
    assert_eq!(proxy.wait(), 0);

    // Without a policy file, a reload ends as well.
    let mut command = Command::new(binaries::path("netproxy-dp"));
    command.args(FREE_PORTS).stdin(Stdio::null()).env("NOTIFY_SOCKET", &path);
    let proxy = DataPlane::spawn(command);
    // The first may have given a sign of life while it stopped.
    assert!(next_other().starts_with("READY=1\n"));
    proxy.signal("HUP");
    assert!(next_other().starts_with("RELOADING=1\n"));
    assert!(next_other().starts_with("READY=1\n"));
}

/// The lines of `/proc/PID/task/*/status` with one of these names, of all threads.
#[cfg(target_os = "linux")]
fn threads(process: u32, field: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let value = |task: std::io::Result<fs::DirEntry>| {
        let status = fs::read_to_string(task.unwrap().path().join("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t").map(str::to_owned))
    };
    tasks.filter_map(value).collect()
}

/// A name that only the system's resolver knows, with an address that this machine has.
#[cfg(target_os = "linux")]
fn own_name() -> Option<(String, IpAddr)> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().to_ascii_lowercase();
    let mut found = (name.as_str(), 0).to_socket_addrs().ok()?.map(|address| address.ip());
    let local = found.find(|ip| ip.is_ipv4() && TcpListener::bind((*ip, 0)).is_ok())?;
    (name != "localhost").then_some((name, local))
}

#[cfg(target_os = "linux")]
#[test]
fn everything_works_in_the_strict_sandbox() {
    let dir = folder();
    let own = own_name();
    let named = own.as_ref().map_or("a.test", |(name, _)| name);
    let rules = [("127.0.0.1", "allow"), ("127.0.0.9", "allow"), (named, "allow")];
    let one = policy(LOCAL, &rules);
    let origin = Origin::echo();
    for map in ["private", "shared"] {
        if map == "shared" && !is_root() {
            // The folder of a temporary file is not always one that nobody else may write.
            eprintln!("skipped: a shared map in a folder of our own needs root");
            continue;
        }
        let file = compiled(dir.path(), &one);
        let mut args = vec!["--policy", text(&file), "--policy-map", map, "--sandbox", "strict"];
        if is_root() {
            args.extend(["--user", "nobody"]);
        } else {
            eprintln!("skipped: another user needs root");
        }
        let mut proxy = DataPlane::start(&args);
        let sandbox = &health(&proxy)["sandbox"];
        assert_eq!((&sandbox["mode"], sandbox["missing"].as_array().map(Vec::len)), (&"strict".into(), Some(0)), "{sandbox}");
        // All threads, those that look names up too.
        let mut tunnel = Client::connect(proxy.http());
        assert_eq!(tunnel.tunnel(&origin.address().to_string()).status, 200);
        assert_eq!(tunnel.send("through").bytes(7), b"through");
        if let Some((name, ip)) = &own {
            let listener = TcpListener::bind((*ip, 0)).unwrap();
            let target = format!("{name}:{}", listener.local_addr().unwrap().port());
            let answer = Client::connect(proxy.http()).tunnel(&target);
            assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        } else {
            eprintln!("skipped: this machine's name does not resolve to an address of it");
        }
        let mut socks = Client::connect(proxy.socks5().unwrap());
        assert_eq!(socks.socks5(1, &[127, 0, 0, 1], origin.port()), Some(0));
        let two = policy(LOCAL, &[("b.test", "allow")]);
        compiled(dir.path(), &two);
        assert_eq!(proxy.next_reload()["outcome"], "swapped");
        assert_eq!(tunnel.rest(), b"", "and revoked");
        proxy.signal("HUP");
        assert_eq!(proxy.next_reload()["outcome"], "unchanged");
        for (field, expected) in [("Seccomp", "2"), ("NoNewPrivs", "1")] {
            let found = threads(proxy.id(), field);
            assert!(found.len() >= 2 && found.iter().all(|value| value == expected), "{field}: {found:?}");
        }
        if is_root() {
            for (field, expected) in [("Uid", "65534\t65534\t65534\t65534"), ("CapPrm", "0000000000000000"), ("CapEff", "0000000000000000")]
            {
                let found = threads(proxy.id(), field);
                assert!(found.iter().all(|value| value == expected), "{field}: {found:?}");
            }
            assert!(threads(proxy.id(), "Groups").iter().all(|groups| groups.split_whitespace().count() == 1));
        }
        proxy.signal("TERM");
        assert_eq!(proxy.wait(), 0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_sandbox_can_be_off_and_users_are_checked() {
    let proxy = DataPlane::start(&["--sandbox", "off"]);
    assert_eq!(health(&proxy)["sandbox"]["mode"], "off");
    assert!(threads(proxy.id(), "Seccomp").iter().chain(&threads(proxy.id(), "NoNewPrivs")).all(|value| value == "0"));
    let run = |user: &str, as_user: Option<u32>| {
        let mut command = Command::new(binaries::path("netproxy-dp"));
        command.args(FREE_PORTS).args(["--user", user]);
        if let Some(as_user) = as_user {
            command.uid(as_user);
        }
        command.output().map(|output| (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    for (user, words) in [
        ("root", "that is root"),
        ("0:0", "that is root"),
        ("no-such-user", "there is no user"),
        ("nobody:no-such-group", "there is no group"),
        ("54321", "write 54321:GID"),
    ] {
        let (code, said) = run(user, None).unwrap();
        assert!(code == Some(2) && said.contains(words), "{user}: {said}");
    }
    let (needs_root, as_user) = if is_root() { ("54321:54321", Some(65534)) } else { ("54321:54321", None) };
    match run(needs_root, as_user) {
        Ok((code, said)) => assert!(code == Some(2) && said.contains("that needs root"), "{said}"),
        Err(error) => eprintln!("skipped: another user cannot run the binary: {error}"),
    }
}

#[test]
fn nobody_reaches_our_own_listeners_through_us() {
    let dir = folder();
    let toml = policy(&format!("{LOCAL}\ndangerously_allow_non_loopback_proxy = true"), &[("*", "allow")]);
    let file = compiled(dir.path(), &toml);
    let hosts = dir.path().join("hosts");
    // An address that goes out is one that this machine has; nothing is sent.
    let outside = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let outside = outside.map_or("127.0.0.1".to_owned(), |address| address.ip().to_string());
    fs::write(&hosts, format!("127.0.0.1 own.test\n127.0.0.9 second.test\n{outside} outside.test\n")).unwrap();
    let mut command = Command::new(binaries::path("netproxy-dp"));
    command.args(["--json", "--http-listen", "0.0.0.0:0", "--socks-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let proxy = DataPlane::spawn({
        command.args(["--policy", text(&file), "--hosts", text(&hosts)]);
        command
    });
    let own = |authority: String| {
        let tunnel = Client::connect(SocketAddr::from(([127, 0, 0, 1], proxy.http().port()))).tunnel(&authority);
        assert_eq!((tunnel.status, tunnel.header("x-proxy-error")), (403, Some("blocked-by-policy")), "{authority}: {}", tunnel.text());
        let plain = get(SocketAddr::from(([127, 0, 0, 1], proxy.http().port())), &format!("http://{authority}/"));
        assert_eq!((plain.status, plain.blocked_reason().as_str()), (403, "policy_denied"), "{authority}");
    };
    // On all addresses: every one that this machine has, however it is written, and names for them.
    let hosts =
        ["127.0.0.1", "127.0.0.9", "localhost", "own.test", "second.test", "outside.test", "0.0.0.0", "[::ffff:127.0.0.1]", &outside];
    for host in hosts {
        own(format!("{host}:{}", proxy.http().port()));
    }
    // On one address: that one.
    for host in ["127.0.0.1", "localhost", "own.test", "0.0.0.0", "[::ffff:7f00:1]"] {
        own(format!("{host}:{}", proxy.admin().port()));
        own(format!("{host}:{}", proxy.socks5().unwrap().port()));
    }
    // What is on another address with the same port is not ours.
    let other = TcpListener::bind(("127.0.0.9", proxy.admin().port())).unwrap();
    let http = SocketAddr::from(([127, 0, 0, 1], proxy.http().port()));
    assert_eq!(Client::connect(http).tunnel(&format!("second.test:{}", other.local_addr().unwrap().port())).status, 200);
}
