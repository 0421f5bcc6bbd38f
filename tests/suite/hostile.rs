//! Clients that want to use the proxy up: each time, others are served meanwhile, its memory stays bounded, and afterwards nothing is left of them.
//!
//! The proxy is a process of its own, so that its memory and its descriptors are its own.

use harness::binaries::{FREE_PORTS, compile_to, path, without_proxies};
use harness::client::get;
use harness::{Client, DataPlane, Origin, policy, wait_until};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// Names for the origin, more than there are descriptors where they are few.
const MANY: usize = 400;

fn one_of_many(number: usize) -> String {
    format!("n{number}.many.test")
}

struct Victim {
    proxy: DataPlane,
    origin: Origin,
    memory: u64,
    _dir: tempfile::TempDir,
}

impl Victim {
    fn new(limits: &[&str]) -> Self {
        Self::within(None, limits)
    }

    /// One with two threads, that may have so many descriptors.
    fn within(descriptors: Option<u32>, limits: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (file, hosts) = (dir.path().join("policy.bin"), dir.path().join("hosts"));
        compile_to(&policy("allow_local_binding = true", &[("127.0.0.1", "allow"), ("*.many.test", "allow")]), &file);
        std::fs::write(&hosts, (0..MANY).map(|number| format!("127.0.0.1 {}\n", one_of_many(number))).collect::<String>()).unwrap();
        let mut command = Command::new("sh");
        let limited = descriptors.map_or_else(String::new, |most| format!("ulimit -n {most} && "));
        without_proxies(&mut command).args(["-c", &format!("{limited}exec \"$0\" \"$@\"")]).arg(path("netproxy-dp")).args(FREE_PORTS);
        command.args(["--workers", "2", "--policy", file.to_str().unwrap(), "--hosts", hosts.to_str().unwrap()]);
        command
            .args(limits.iter().flat_map(|limit| ["--limit", limit]))
            .env("NETPROXY_STATE_DIR", dir.path().join("state"))
            .stdin(Stdio::null());
        let victim = Self { proxy: DataPlane::spawn(command), origin: Origin::start(), memory: 0, _dir: dir };
        // What a first request needs is no growth.
        victim.serves_others();
        Self { memory: victim.resident(), ..victim }
    }

    fn serves_others(&self) {
        let answer = get(self.proxy.http(), &format!("http://{}/", self.origin.address()));
        assert_eq!(answer.status, 299, "{}", answer.text());
        let mut tunnel = Client::connect(self.proxy.socks5().unwrap());
        assert_eq!(tunnel.socks5(1, &[127, 0, 0, 1], self.origin.port()), Some(0));
    }

    /// Asks for something of one origin after the other, each by another name.
    fn visits(&self, names: std::ops::Range<usize>) {
        for number in names {
            let answer = get(self.proxy.http(), &format!("http://{}:{}/", one_of_many(number), self.origin.port()));
            assert_eq!(answer.status, 299, "{number}: {}", answer.text());
        }
    }

    /// Upstream connections that wait for a request.
    fn waiting(&self) -> u64 {
        self.proxy.metrics().get("netproxy_pool_idle_connections{protocol=\"http/1.1\"}")
    }

    fn given_up(&self) -> u64 {
        self.proxy.metrics().get("netproxy_pool_evictions_total{reason=\"descriptors\"}")
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.proxy.id())
    }

    /// Bytes of its memory that are in use.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    fn descriptors(&self) -> u64 {
        std::fs::read_dir(self.proc("fd")).unwrap().count() as u64
    }

    fn open(&self) -> u64 {
        self.proxy.metrics().get("netproxy_connections_open")
    }

    fn has_grown_by_less_than(&self, bytes: u64) {
        let grown = self.resident().saturating_sub(self.memory);
        assert!(grown < bytes, "{grown} bytes more, of {bytes}");
    }

    fn recovers(&self) {
        wait_until("all connections are closed", || self.open() == 0);
        self.serves_others();
    }

    fn connect_many(&self, count: usize, bytes: &[u8]) -> Vec<Client> {
        Self::connect_to(self.proxy.http(), count, bytes)
    }

    fn connect_to(listener: SocketAddr, count: usize, bytes: &[u8]) -> Vec<Client> {
        let start = |_| {
            let mut client = Client::connect(listener);
            client.send(bytes);
            client
        };
        (0..count).map(start).collect()
    }

    /// Waits until bodies move no more, because nobody takes them.
    fn stalls(&self) {
        let moved = || self.proxy.metrics().get("netproxy_bytes_total{direction=\"down\"}");
        let mut last = 0;
        wait_until("nothing moves", || {
            std::thread::sleep(Duration::from_millis(50));
            let now = moved();
            std::mem::replace(&mut last, now) == now && now > 0
        });
    }
}

#[test]
fn heads_that_never_end_hold_little_and_nobody_up() {
    let victim = Victim::new(&[]);
    let slow = victim.connect_many(1000, b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Slow: ");
    wait_until("all are open", || victim.open() == 1000);
    victim.serves_others();
    victim.has_grown_by_less_than(24 * MIB);
    drop(slow);
    victim.recovers();
}

#[test]
fn half_open_connections_hold_little_and_end() {
    let victim = Victim::new(&["head_timeout=2s"]);
    let silent = victim.connect_many(500, b"");
    let halved = victim.connect_many(500, b"GET / HT");
    for client in halved {
        // Dropped without a word to come: its answer would not be read.
        client.into_halves().1.shutdown(Shutdown::Write).unwrap();
    }
    victim.serves_others();
    victim.has_grown_by_less_than(24 * MIB);
    // They end by the proxy's own clock.
    victim.recovers();
    drop(silent);
}

#[test]
fn who_does_not_read_a_long_answer_holds_two_buffers() {
    let victim = Victim::new(&[]);
    let endless = Origin::raw(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
        while stream.write_all(&chunk).is_ok() {}
    });
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", endless.address());
    let slow = victim.connect_many(64, request.as_bytes());
    victim.stalls();
    victim.serves_others();
    // Without a bound it would be gigabytes: the origin never ends.
    victim.has_grown_by_less_than(64 * MIB);
    drop(slow);
    victim.recovers();
}

#[test]
fn who_asks_and_never_reads_is_not_read_either() {
    let victim = Victim::new(&[]);
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", victim.origin.address());
    let many = request.repeat(1000);
    let clients: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut client = TcpStream::connect(victim.proxy.http()).unwrap();
            client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            // Until the kernel's buffers are full, in both directions.
            let mut sent = 0;
            while sent < 64 * MIB && client.write_all(many.as_bytes()).is_ok() {
                sent += many.len() as u64;
            }
            assert!(sent < 64 * MIB, "the proxy went on reading");
            client
        })
        .collect();
    victim.serves_others();
    victim.has_grown_by_less_than(32 * MIB);
    drop(clients);
    victim.recovers();
}

#[test]
fn what_never_ends_is_refused_in_bounded_memory() {
    // Who goes on sending is listened to for this long, so that it may read its answer.
    let victim = Victim::new(&["linger_timeout=50ms"]);
    let authority = victim.origin.address();
    let body = format!("POST / HTTP/1.1\r\nHost: {authority}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let cases: [(&str, String, &str, u16); 8] = [
        ("request line", "GET /".into(), "x", 414),
        ("header fields", format!("GET / HTTP/1.1\r\nHost: {authority}\r\n"), "X-A: 1\r\n", 431),
        ("one header field", format!("GET / HTTP/1.1\r\nHost: {authority}\r\nX-A: "), "x", 431),
        ("chunk extension", format!("{body}5;"), "a=b;", 400),
        ("chunk size", body.clone(), "0", 400),
        ("trailer fields", format!("{body}0\r\n"), "X-A: 1\r\n", 400),
        ("one trailer field", format!("{body}0\r\nX-A: "), "x", 400),
        ("noise", String::new(), "G\u{1}\u{2}\r", 414),
    ];
    for (name, start, piece, status) in cases {
        let mut stream = TcpStream::connect(victim.proxy.http()).unwrap();
        stream.set_read_timeout(Some(harness::PATIENCE)).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let pieces = piece.repeat(64 * 1024 / piece.len());
        let sending = std::thread::spawn(move || {
            let _ = writer.write_all(start.as_bytes());
            // Ends because the proxy does.
            while writer.write_all(pieces.as_bytes()).is_ok() {}
        });
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(String::from_utf8_lossy(&first), format!("HTTP/1.1 {status}"), "{name}");
        victim.has_grown_by_less_than(16 * MIB);
        sending.join().unwrap();
    }
    victim.recovers();
}

#[test]
fn any_first_byte_gets_an_answer_or_an_end() {
    let victim = Victim::new(&["head_timeout=2s"]);
    for listener in [victim.proxy.http(), victim.proxy.socks5().unwrap()] {
        let clients: Vec<Client> = (0..=255_u8)
            .map(|byte| {
                let mut client = Client::connect(listener);
                client.send([&[byte][..], &[0xff; 700], b"\r\n\r\n"].concat()).finish();
                client
            })
            .collect();
        for (byte, mut client) in clients.into_iter().enumerate() {
            let said = client.rest();
            // Nobody is connected anywhere by noise.
            assert!(!said.starts_with(b"HTTP/1.1 2") && !said.starts_with(&[5, 0, 0]), "{byte}: {said:?}");
        }
    }
    victim.has_grown_by_less_than(16 * MIB);
    victim.recovers();
}

#[test]
fn without_descriptors_clients_wait_and_none_is_lost() {
    let victim = Victim::new(&[]);
    wait_until("the first requests are over", || victim.open() == 0);
    let pid = Pid::from_raw(i32::try_from(victim.proxy.id()).unwrap());
    let room = victim.descriptors() + 8;
    let before = prlimit(pid, Resource::Nofile, Rlimit { current: Some(room), maximum: Some(room) }).unwrap();
    assert!(before.maximum.is_none_or(|most| most > room));
    // What these are asking for needs no further descriptor.
    let blocked = b"GET / HTTP/1.1\r\nHost: blocked.test\r\nConnection: close\r\n\r\n";
    let held = victim.connect_many(16, b"GET / HT");
    let paused = victim.proxy.next_reload();
    assert_eq!((paused["event"].as_str(), paused["outcome"].as_str()), (Some("accept"), Some("paused")), "{paused}");
    assert!(paused["error"].as_str().unwrap().contains("os error 24"), "{paused}");
    let waiting = victim.connect_many(100, blocked);
    drop(held);
    for mut client in waiting {
        assert_eq!(client.answer().status, 403);
    }
    let resumed = victim.proxy.next_reload();
    assert_eq!((resumed["event"].as_str(), resumed["outcome"].as_str()), (Some("accept"), Some("resumed")), "{resumed}");
    let metrics = victim.proxy.metrics();
    assert!(metrics.get("netproxy_accept_pauses_total") > 0);
    assert!(metrics.get("netproxy_accept_errors_total") >= metrics.get("netproxy_accept_pauses_total"));
    victim.recovers();
}

#[test]
fn connections_that_wait_for_requests_leave_descriptors_for_others() {
    // Of 104 beyond those that are reserved, twelve are for pipes, and a quarter of the others for the pools: five for each thread and protocol.
    let victim = Victim::within(Some(152), &[]);
    victim.visits(0..MANY);
    wait_until("all that may wait do", || victim.open() == 0);
    assert!((1..=10).contains(&victim.waiting()), "{}", victim.waiting());
    assert!(victim.descriptors() < 100, "{}", victim.descriptors());
    assert_eq!(victim.given_up(), 0);
    victim.recovers();
}

#[test]
fn connections_that_wait_for_requests_are_given_up_for_one_that_is_wanted() {
    // Somebody asked for more of them than there can be.
    let victim = Victim::within(Some(152), &["pool_connections=512", "pool_timeout=1d"]);
    victim.visits(0..MANY);
    assert!(victim.given_up() > 0);
    assert_eq!(victim.proxy.metrics().get("netproxy_upstream_failures_total{error=\"no-descriptor\"}"), 0);
    victim.recovers();
}

#[test]
fn connections_that_wait_for_requests_are_given_up_for_clients_and_operators() {
    let victim = Victim::new(&["pool_timeout=1d"]);
    let pid = Pid::from_raw(i32::try_from(victim.proxy.id()).unwrap());
    for asks_first in ["a client", "an operator"] {
        let before = victim.given_up();
        victim.visits(0..20);
        wait_until("the connections wait", || victim.open() == 0 && victim.waiting() >= 20);
        let room = victim.descriptors();
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limit = prlimit(pid, Resource::Nofile, Rlimit { current: Some(room), maximum }).unwrap();
        // More than the few descriptors that may have become free since.
        let listener = if asks_first == "a client" { victim.proxy.http() } else { victim.proxy.admin() };
        let held = Victim::connect_to(listener, 8, b"GET / HT");
        wait_until(&format!("connections are given up for {asks_first}"), || victim.given_up() > before);
        let mut client = Client::connect(victim.proxy.http());
        client.send(b"GET / HTTP/1.1\r\nHost: blocked.test\r\nConnection: close\r\n\r\n");
        assert_eq!(client.answer().status, 403);
        prlimit(pid, Resource::Nofile, limit).unwrap();
        drop(held);
        wait_until("they are gone", || victim.open() == 0);
    }
    victim.recovers();
}

#[test]
fn what_moved_much_keeps_no_descriptors() {
    let victim = Victim::new(&["pool_timeout=10ms"]);
    wait_until("what the first requests needed is closed", || victim.open() == 0 && victim.waiting() == 0);
    let before = victim.descriptors();
    let large = Origin::http(|_, stream| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 32 * MIB);
        stream.write_all(head.as_bytes()).is_ok() && (0..32).all(|_| stream.write_all(&[b'x'; 1 << 20]).is_ok())
    });
    let mut most = 0;
    let mut client = Client::connect(victim.proxy.http());
    client.send(format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", large.address()));
    let mut stream = client.into_stream();
    let mut piece = vec![0; 1 << 18];
    while let Ok(1..) = stream.read(&mut piece) {
        most = most.max(victim.descriptors());
    }
    // Its own connection, that to the origin, and a pipe; before, one of an operator may not have been closed yet.
    assert!(cfg!(not(target_os = "linux")) || most >= before + 3, "{most} after {before}");
    wait_until("nothing is left of it", || victim.descriptors() <= before);
}
