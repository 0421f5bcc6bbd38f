//! Swapping policies: how a file is replaced, what is refused, and what happens under load.

use harness::{Client, DataPlane, Names, Origin, PATIENCE, Proxy, binaries, compile, policy, wait_until};
use netproxy::{Decided, NetworkProxy, Observer};
use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

const LOCAL: &str = "allow_local_binding = true";

fn allows(name: &str) -> Vec<u8> {
    compile(&policy(LOCAL, &[(name, "allow")]))
}

fn status(proxy: &DataPlane, name: &str, port: u16) -> u16 {
    harness::client::get(proxy.http(), &format!("http://{name}:{port}/")).status
}

/// Ends the clients of a test that fails, so that it fails rather than hangs.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A data plane on `policy.bin` in a folder, with names on loopback.
fn start(dir: &Path, policy: &Path) -> DataPlane {
    let hosts = dir.join("hosts");
    fs::write(&hosts, "127.0.0.1 a.test b.test c.test d.test\n").unwrap();
    DataPlane::start(&["--policy", policy.to_str().unwrap(), "--hosts", hosts.to_str().unwrap()])
}

#[test]
fn every_way_to_replace_the_file_swaps_the_policy() {
    let dir = tempfile::tempdir().unwrap();
    let (target, other, link) = (dir.path().join("one.bin"), dir.path().join("two.bin"), dir.path().join("policy.bin"));
    fs::write(&target, allows("a.test")).unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let origin = Origin::start();
    let proxy = start(dir.path(), &link);
    let expect = |name: &str, generation: u64| {
        let said = proxy.next_reload();
        assert_eq!((said["outcome"].as_str(), said["generation"].as_u64()), (Some("swapped"), Some(generation)), "{said}");
        for other in ["a.test", "b.test", "c.test", "d.test"] {
            assert_eq!(status(&proxy, other, origin.port()), if other == name { 299 } else { 403 }, "{other} under the policy for {name}");
        }
    };
    // A symbolic link that points elsewhere.
    fs::write(&other, allows("b.test")).unwrap();
    let fresh = dir.path().join("fresh");
    std::os::unix::fs::symlink(&other, &fresh).unwrap();
    fs::rename(&fresh, &link).unwrap();
    expect("b.test", 2);
    // A rename over the file.
    fs::write(&fresh, allows("c.test")).unwrap();
    fs::rename(&fresh, &other).unwrap();
    expect("c.test", 3);
    // In place.
    fs::write(&other, allows("d.test")).unwrap();
    expect("d.test", 4);
    // A signal looks at once, and says when there is nothing new.
    proxy.signal("HUP");
    assert_eq!(proxy.next_reload()["outcome"], "unchanged");
}

#[test]
fn a_file_that_is_no_policy_leaves_the_old_one_in_force_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.bin");
    let good = allows("a.test");
    fs::write(&file, &good).unwrap();
    let origin = Origin::start();
    let mut proxy = start(dir.path(), &file);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut newer = good.clone();
    newer[8] = 9;
    let cases: [(&str, &[u8], &str); 6] = [
        ("empty", b"", "the file has 0 bytes"),
        ("noise", &[0x5a; 4096], "not a policy blob"),
        ("cut", &good[..good.len() - 1], "cut, padded or still being written"),
        ("flipped", &flipped, "does not match its digest"),
        ("another version", &newer, "blob format 9.0 cannot be read"),
        ("TOML", b"default_permissions = \"workspace\"\n", "not a policy blob"),
    ];
    for (what, bytes, why) in cases {
        fs::write(&file, bytes).unwrap();
        let said = proxy.next_reload();
        let error = said["error"].as_str().unwrap_or_default();
        assert!(said["outcome"] == "refused" && error.contains(why), "{what}: {said}");
        assert_eq!(status(&proxy, "a.test", origin.port()), 299, "{what}");
        let health = Client::connect(proxy.admin()).send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").answer().json();
        assert_eq!((health["policy"]["generation"].as_u64(), health["policy"]["last_error"].as_str()), (Some(1), Some(error)), "{what}");
    }
    fs::remove_file(&file).unwrap();
    assert!(proxy.next_reload()["error"].as_str().unwrap().contains("cannot read the policy"));
    assert_eq!((status(&proxy, "a.test", origin.port()), proxy.is_alive()), (299, true));
    // It comes back.
    fs::write(&file, allows("b.test")).unwrap();
    assert_eq!(proxy.next_reload()["outcome"], "swapped");
    assert_eq!(status(&proxy, "a.test", origin.port()), 403);
}

#[test]
fn what_happens_to_the_file_under_load_reaches_no_request() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.bin");
    // Large enough to be on many pages.
    let many: Vec<String> = (0..5_000).map(|n| format!("host-{n}.example.test")).collect();
    let mut domains: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "deny")).collect();
    domains.push(("a.test", "allow"));
    let good = compile(&policy(LOCAL, &domains));
    assert!(good.len() > 16 * 4096);
    fs::write(&file, &good).unwrap();
    let origin = Origin::start();
    let mut proxy = start(dir.path(), &file);
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for n in 0..4 {
            let (proxy, origin, stop, asked) = (&proxy, &origin, &stop, &asked);
            scope.spawn(move || {
                let mut client = Client::connect(proxy.http());
                let denied = format!("host-{n}.example.test");
                while !stop.load(Ordering::Relaxed) {
                    let request = format!("GET / HTTP/1.1\r\nHost: a.test:{}\r\n\r\n", origin.port());
                    assert_eq!(client.send(request).answer().status, 299);
                    let answer = client.send(format!("GET / HTTP/1.1\r\nHost: {denied}\r\n\r\n")).answer();
                    assert_eq!(answer.blocked_reason(), "denied");
                    asked.fetch_add(2, Ordering::Relaxed);
                }
            });
        }
        let refused = |what: &str| {
            let said = proxy.next_reload();
            assert_eq!(said["outcome"], "refused", "{what}: {said}");
        };
        for _ in 0..3 {
            // Truncated in place: whoever maps the file itself dies of this.
            fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(0).unwrap();
            refused("truncated");
            fs::write(&file, vec![0xa5; good.len()]).unwrap();
            refused("noise");
            fs::remove_file(&file).unwrap();
            refused("deleted");
            fs::write(&file, &good).unwrap();
            assert_eq!(proxy.next_reload()["outcome"], "unchanged");
        }
        let before = asked.load(Ordering::Relaxed);
        wait_until("more requests were answered", || asked.load(Ordering::Relaxed) > before + 100);
    });
    assert!(proxy.is_alive());
}

/// Two policies that contradict each other in everything. A request that saw a part of each would be allowed by the one where the other says no, or by a rule
/// of the other's line.
#[test]
fn a_thousand_swaps_under_two_hundred_clients_mix_nothing_and_fail_nothing() {
    const CLIENTS: usize = 200;
    const SWAPS: u64 = 1_000;
    let origin = Origin::start();
    let names = Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])]);
    let odd = policy(LOCAL, &[("a.test", "allow"), ("b.test", "deny")]);
    // The same rules the other way round, each on another line.
    let even = policy(&format!("{LOCAL}\n\n"), &[("a.test", "deny"), ("b.test", "allow")]);
    let (odd_blob, even_blob) = (compile(&odd), compile(&even));
    let proxy = Proxy::start(&odd, &names);
    let (stop, failed, served) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let authority = Arc::new(["a.test", "b.test"].map(|name| format!("{name}:{}", origin.port())));
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for client in 0..CLIENTS {
            let (proxy, stop, failed, served, authority) = (&proxy, &stop, &failed, &served, Arc::clone(&authority));
            scope.spawn(move || {
                let mut connection = Client::connect(proxy.http());
                let mut n = client;
                while !stop.load(Ordering::Relaxed) {
                    let host = &authority[n % 2];
                    let answer = connection.send(format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n")).try_answer("GET");
                    if !matches!(answer.map(|answer| answer.status), Ok(299 | 403)) {
                        failed.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                    n += 1;
                }
            });
        }
        wait_until("every client is served", || served.load(Ordering::Relaxed) >= CLIENTS || failed.load(Ordering::Relaxed) > 0);
        for n in 0..SWAPS {
            let blob = if n % 2 == 0 { &even_blob } else { &odd_blob };
            // The whole way that a file takes: validated, then put in force.
            proxy.reload(blob.clone());
            // Some requests between any two swaps.
            let before = served.load(Ordering::Relaxed);
            wait_until("a request was served", || served.load(Ordering::Relaxed) > before || failed.load(Ordering::Relaxed) > 0);
        }
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "requests failed");
    assert_eq!(proxy.policy().generation(), SWAPS + 1);
    let decisions = proxy.decisions();
    for seen in &decisions {
        let odd = seen.generation % 2 == 1;
        let allowed = (seen.host == "a.test") == odd;
        let line = match (seen.host.as_str(), odd) {
            ("a.test", true) => 6,
            ("a.test", false) => 8,
            (_, true) => 7,
            (_, false) => 9,
        };
        let expected = (if allowed { "allow" } else { "denied" }, Some(format!("user config.toml:{line}")));
        assert_eq!((seen.verdict.as_str(), seen.rule.clone()), expected, "{seen:?}");
    }
    let generations: HashSet<u64> = decisions.iter().map(|seen| seen.generation).collect();
    eprintln!("{} decisions under {} generations", decisions.len(), generations.len());
    assert!(decisions.len() >= served.load(Ordering::Relaxed) && generations.len() as u64 > SWAPS / 2);
}

#[test]
fn a_policy_that_is_switched_off_later_allows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.bin");
    fs::write(&file, allows("a.test")).unwrap();
    let origin = Origin::start();
    let proxy = start(dir.path(), &file);
    assert_eq!(status(&proxy, "a.test", origin.port()), 299);
    let off =
        "default_permissions = \"w\"\n[permissions.w.network]\nenabled = false\n[permissions.w.network.domains]\n\"a.test\" = \"allow\"\n";
    binaries::compile_to(off, &file);
    assert_eq!(proxy.next_reload()["outcome"], "swapped");
    let answer = harness::client::get(proxy.http(), &format!("http://a.test:{}/", origin.port()));
    assert_eq!((answer.header("x-proxy-error"), answer.blocked_reason().as_str()), (Some("blocked-by-policy"), "proxy_disabled"));
}

#[test]
fn nothing_is_said_to_whom_a_new_policy_denies_while_it_is_being_connected_to() {
    // A proxy that takes connections and says nothing: who has asked it waits.
    let (asked, hear_asked) = channel();
    let (heard, hear) = channel();
    let (asked, heard) = (Mutex::new(asked), Mutex::new(heard));
    let upstream = Origin::raw(move |mut stream| {
        let mut greeting = [0; 3];
        stream.read_exact(&mut greeting).unwrap();
        asked.lock().unwrap().send(()).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let _ = heard.lock().unwrap().send(rest);
    });
    let through = format!("{LOCAL}\nupstream = \"socks5h://127.0.0.1:{}\"", upstream.port());
    let names = Names::new(&[("a.test", &["127.0.0.1"])]);
    let proxy = Proxy::start(&policy(&through, &[("a.test", "allow")]), &names);
    let requests = [
        "POST http://a.test/ HTTP/1.1\r\nHost: a.test\r\nContent-Length: 6\r\n\r\nsecret",
        "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n",
    ];
    for request in requests {
        let mut client = Client::connect(proxy.http());
        client.send(request);
        hear_asked.recv().unwrap();
        let (revoked, ended) = (proxy.revoked().len(), proxy.ended().len());
        proxy.swap(&policy(&through, &[("a.test", "deny")]));
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("x-proxy-error")), (403, Some("blocked-by-denylist")), "{request}");
        assert_eq!(hear.recv_timeout(PATIENCE).unwrap(), b"", "{request}");
        wait_until("it is told", || proxy.ended().len() == ended + 1);
        assert_eq!(proxy.revoked().len(), revoked + 1, "{request}");
        proxy.swap(&policy(&through, &[("a.test", "allow")]));
    }
}

#[test]
fn a_tunnel_has_the_limits_of_the_policy_that_allows_it() {
    let echo = Origin::echo();
    let (names, at) = (Names::new(&[("a.test", &["127.0.0.1"])]), format!("a.test:{}", echo.port()));
    let domains = [("a.test", "allow")];
    let proxy = Proxy::start(&policy(LOCAL, &domains), &names);
    // A connection, and what its limits were when it was accepted.
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.send("GET http://b.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n").answer().status, 403);
    proxy.swap(&policy(&format!("{LOCAL}\nlimits = {{ tunnels_per_host = 1 }}"), &domains));
    let mut first = Client::connect(proxy.http());
    assert_eq!(first.tunnel(&at).status, 200);
    let answer = client.tunnel(&at);
    assert_eq!((answer.status, answer.header("x-proxy-error")), (503, Some("limited-tunnels_per_host")));
}

/// Says of each decision that it was made; the worker goes on once it is told to.
struct Halt {
    decided: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

impl Observer for Halt {
    fn decided(&self, _: &Decided<'_>) {
        self.decided.lock().unwrap().send(()).unwrap();
        self.go_on.lock().unwrap().recv_timeout(PATIENCE).unwrap();
    }
}

/// Where a worker has many clients, a request waits a little between its decision and its sending. What comes into force meanwhile holds for it.
#[test]
fn a_request_that_waits_for_its_turn_is_asked_about_again() {
    const CLIENTS: usize = 32;
    let ((decided, was_decided), (go, go_on)) = (channel(), channel());
    let halt = Halt { decided: Mutex::new(decided), go_on: Mutex::new(go_on) };
    let origin = Origin::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let names = Names::new(&[("a.test", &["127.0.0.1"])]);
    let builder =
        NetworkProxy::builder().policy(allows("a.test")).resolver(names).observer(halt).workers(NonZero::<usize>::MIN).free_ports();
    let proxy = runtime.block_on(async { builder.bind().await.unwrap().run().await.unwrap() });
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(proxy.addrs().http)).collect();
    let ask = |client: &mut Client, meanwhile: &dyn Fn()| {
        client.send(format!("GET http://a.test:{}/ HTTP/1.1\r\nHost: a.test:{}\r\n\r\n", origin.port(), origin.port()));
        was_decided.recv_timeout(PATIENCE).unwrap();
        meanwhile();
        go.send(()).unwrap();
    };
    for client in &mut clients {
        ask(client, &|| {});
        assert_eq!(client.answer().status, 299);
    }
    let last = clients.last_mut().unwrap();
    ask(last, &|| {
        runtime.block_on(proxy.reload(allows("b.test"))).unwrap();
    });
    let answer = last.answer();
    assert_eq!((answer.status, answer.blocked_reason().as_str()), (403, "not_allowed"));
    assert_eq!(origin.requests().len(), CLIENTS, "nothing of it went out");
    runtime.block_on(proxy.shutdown());
}
