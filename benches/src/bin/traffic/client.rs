//! Connections that ask as fast as they are answered, and what came of it as one line of JSON.

use crate::net::{Bulk, LISTENER, MIB, Poll, connect, content_length, discard, head_end, receive, send};
use std::collections::HashMap;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// `idle` and `idle-socks5` open tunnels, use each once, say how many stand, and hold them until standard input ends.
pub(crate) const SCENARIOS: &[&str] = &[
    "http",
    "http-close",
    "http-1MiB",
    "connect",
    "connect-down",
    "connect-up",
    "socks5",
    "socks5-down",
    "socks5-up",
    "first",
    "first-socks5",
    "idle",
    "idle-socks5",
];
const WARM_UP: Duration = Duration::from_millis(400);
const MESSAGE: [u8; 64] = [b'E'; 64];

#[derive(Clone, Copy, PartialEq)]
enum Step {
    SocksGreeting,
    SocksReply,
    ConnectReply,
    /// So many bytes of the echo came.
    Echo(usize),
    AnswerHead,
    /// So many bytes of an answer are still to come.
    AnswerBody(usize),
    Download,
    Upload(usize),
    Idle,
}

struct Connection {
    socket: OwnedFd,
    step: Step,
    head: Vec<u8>,
    /// An answer came on it: a server may close it now, and the client asks again on another (RFC 9112, section 9.6).
    used: bool,
    /// The answer says that no other comes on this connection.
    last: bool,
    since: Instant,
}

/// What one scenario does; made from the options.
struct Plan {
    proxy: Option<SocketAddr>,
    /// Sent on a new connection.
    hello: Vec<u8>,
    first: Step,
    /// What a tunnel is for.
    inside: Step,
    request: Vec<u8>,
    target: SocketAddr,
    keep: bool,
}

#[derive(Default)]
struct Tally {
    operations: u64,
    bytes: u64,
    errors: u64,
    error: String,
    /// Microseconds.
    times: Vec<u32>,
}

impl Plan {
    fn new(scenario: &str, proxy: Option<SocketAddr>, http: SocketAddr, raw: SocketAddr) -> Self {
        let (way, what) = scenario.split_once('-').unwrap_or((scenario, ""));
        let inside = match what {
            "down" => Step::Download,
            "up" => Step::Upload(0),
            _ => Step::Echo(0),
        };
        let tunnel = |hello: Vec<u8>, first| Self { proxy, hello, first, inside, request: Vec::new(), target: raw, keep: false };
        let mut plan = match (way, what) {
            ("connect", _) | ("idle", "") => {
                tunnel(format!("CONNECT {raw} HTTP/1.1\r\nHost: {raw}\r\n\r\n").into_bytes(), Step::ConnectReply)
            }
            ("socks5", _) | ("idle" | "first", "socks5") => tunnel(b"\x05\x01\x00".to_vec(), Step::SocksGreeting),
            _ => {
                let (path, close) = (if what == "1MiB" { "large" } else { "" }, if what == "close" { "Connection: close\r\n" } else { "" });
                let line = if proxy.is_some() { format!("GET http://{http}/{path}") } else { format!("GET /{path}") };
                let head = format!("{line} HTTP/1.1\r\nHost: {http}\r\nUser-Agent: traffic/1\r\nAccept: */*\r\n{close}\r\n").into_bytes();
                Self { proxy, hello: head.clone(), first: Step::AnswerHead, inside, request: head, target: http, keep: what != "close" }
            }
        };
        if plan.proxy.is_none() && plan.request.is_empty() {
            (plan.hello, plan.first) = (plan.opening().to_vec(), plan.inside);
        }
        plan
    }

    /// What is sent when a tunnel stands.
    fn opening(&self) -> &'static [u8] {
        match self.inside {
            Step::Download => b"D",
            Step::Upload(_) => b"U",
            _ => &MESSAGE,
        }
    }

    fn open(&self) -> io::Result<Connection> {
        let since = Instant::now();
        let socket = connect(self.proxy.unwrap_or(self.target))?;
        send(&socket, &self.hello)?;
        Ok(Connection { socket, step: self.first, head: Vec::new(), used: false, last: false, since })
    }

    fn socks_request(&self) -> Vec<u8> {
        let SocketAddr::V4(target) = self.target else { return Vec::new() };
        [&[5, 1, 0, 1][..], &target.ip().octets(), &target.port().to_be_bytes()].concat()
    }
}

enum Next {
    /// Nothing more for now.
    Wait,
    Again,
    /// An operation is over; the connection goes on with the next, or is done.
    Done,
    /// The server made an end between two operations.
    Closed,
}

impl Connection {
    fn go_on(&mut self, plan: &Plan, tally: &mut Tally, bulk: &Bulk, buffer: &mut [u8]) -> io::Result<Next> {
        match self.step {
            Step::AnswerBody(left) => {
                let most = buffer.len().min(left);
                let Some(count) = discard(&self.socket, &mut buffer[..most])? else { return Ok(Next::Wait) };
                some(count)?;
                tally.bytes += count as u64;
                self.step = Step::AnswerBody(left - count);
                return Ok(if left == count { Next::Done } else { Next::Again });
            }
            Step::Download => {
                let Some(count) = discard(&self.socket, buffer)? else { return Ok(Next::Wait) };
                some(count)?;
                tally.bytes += count as u64;
                return Ok(Next::Again);
            }
            Step::Upload(offset) => {
                let Some(count) = bulk.send(&self.socket, offset)? else { return Ok(Next::Wait) };
                tally.bytes += count as u64;
                self.step = Step::Upload((offset + count) % MIB);
                return Ok(Next::Again);
            }
            _ => {}
        }
        let Some(count) = receive(&self.socket, buffer)? else { return Ok(Next::Wait) };
        if count == 0 && self.used && self.head.is_empty() {
            return Ok(Next::Closed);
        }
        some(count)?;
        let got = &buffer[..count];
        match self.step {
            Step::Echo(before) => {
                self.step = Step::Echo(before + count);
                return Ok(if before + count >= MESSAGE.len() { Next::Done } else { Next::Wait });
            }
            Step::Idle => return Err(io::Error::other("bytes that nobody asked for")),
            _ => self.head.extend_from_slice(got),
        }
        match self.step {
            Step::SocksGreeting if self.head.len() >= 2 => {
                if self.head != [5, 0] {
                    return Err(io::Error::other("SOCKS5: no"));
                }
                self.head.clear();
                self.step = Step::SocksReply;
                send(&self.socket, &plan.socks_request())?;
            }
            Step::SocksReply if self.head.len() >= 10 => {
                if self.head[1] != 0 {
                    return Err(io::Error::other(format!("SOCKS5 reply {}", self.head[1])));
                }
                return self.inside(plan);
            }
            Step::ConnectReply if head_end(&self.head).is_some() => {
                self.is_good()?;
                return self.inside(plan);
            }
            Step::AnswerHead => {
                let Some(end) = head_end(&self.head) else { return Ok(Next::Wait) };
                self.is_good()?;
                let length = content_length(&self.head[..end]).ok_or_else(|| io::Error::other("an answer without a length"))?;
                let rest = self.head.len() - end;
                self.last = self.head[..end].windows(17).any(|window| window.eq_ignore_ascii_case(b"connection: close"));
                self.head.clear();
                tally.bytes += rest as u64;
                if rest >= length {
                    return Ok(Next::Done);
                }
                self.step = Step::AnswerBody(length - rest);
                return Ok(Next::Again);
            }
            _ => {}
        }
        Ok(Next::Wait)
    }

    fn is_good(&self) -> io::Result<()> {
        if self.head.starts_with(b"HTTP/1.1 200 ") || self.head.starts_with(b"HTTP/1.0 200 ") {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(self.head.split(|&byte| byte == b'\r').next().unwrap_or_default()).into_owned()))
    }

    /// The tunnel stands. An upload does not wait for another event: the socket has been ready since it was opened.
    fn inside(&mut self, plan: &Plan) -> io::Result<Next> {
        self.head = Vec::new();
        self.step = plan.inside;
        send(&self.socket, plan.opening())?;
        Ok(if matches!(self.step, Step::Upload(_)) { Next::Again } else { Next::Wait })
    }
}

fn some(count: usize) -> io::Result<()> {
    if count == 0 { Err(io::Error::other("closed too early")) } else { Ok(()) }
}

/// Runs one scenario; the options are those of the usage line.
pub(crate) fn run(words: &[&str]) {
    let (scenario, options) = words.split_first().unwrap();
    assert!(SCENARIOS.contains(scenario), "scenarios: {}", SCENARIOS.join(" "));
    let options: HashMap<&str, &str> = options.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let address = |name: &str| options.get(name).map(|text| text.parse::<SocketAddr>().unwrap());
    let number = |name: &str, default: f64| options.get(name).map_or(default, |text| text.parse().unwrap());
    let plan = Plan::new(scenario, address("--proxy"), address("--http").unwrap(), address("--raw").unwrap());
    let (connections, seconds) = (number("--connections", 1.0) as usize, number("--seconds", 1.0));
    match *scenario {
        "first" | "first-socks5" => first(&plan, seconds),
        "idle" | "idle-socks5" => idle(&plan, connections),
        _ => steady(&plan, connections, Duration::from_secs_f64(seconds), options.get("--cpu").copied()),
    }
}

fn steady(plan: &Plan, count: usize, length: Duration, cpu: Option<&str>) {
    let (poll, bulk, mut buffer) = (Poll::new(), Bulk::new(), vec![0; 256 * 1024]);
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let (mut ready, mut busy, mut tally, mut total_errors) = (Vec::new(), Vec::new(), Tally::default(), 0_u64);
    let open = |at: usize, tally: &mut Tally| match plan.open() {
        Ok(connection) => {
            poll.add(&connection.socket, at as u64);
            Some(connection)
        }
        Err(error) => {
            tally.errors += 1;
            tally.error = error.to_string();
            None
        }
    };
    for at in 0..count {
        connections.push(open(at, &mut tally));
    }
    let mut start = Instant::now();
    let (mut measured, mut used, mut before) = (false, 0.0, 0);
    loop {
        let now = Instant::now();
        if !measured && now - start >= WARM_UP {
            total_errors += tally.errors;
            before = tally.operations;
            (tally, start, measured, used) = (Tally { error: tally.error, ..Tally::default() }, now, true, cpu_seconds(cpu));
        } else if measured && now - start >= length || total_errors + tally.errors > 10_000 {
            break;
        }
        poll.wait(&mut ready, Some(if busy.is_empty() { Duration::from_millis(20) } else { Duration::ZERO }));
        ready.append(&mut busy);
        for &number in &ready {
            let at = number as usize;
            if number == LISTENER {
                continue;
            }
            let Some(connection) = &mut connections[at] else { continue };
            let mut turns = 0;
            let outcome = loop {
                turns += 1;
                match connection.go_on(plan, &mut tally, &bulk, &mut buffer) {
                    Ok(Next::Again) if turns < 16 => {}
                    other => break other,
                }
            };
            match outcome {
                Ok(Next::Wait) => continue,
                Ok(Next::Again) => {
                    busy.push(number);
                    continue;
                }
                Ok(Next::Done) => {
                    tally.operations += 1;
                    tally.times.push(connection.since.elapsed().as_micros() as u32);
                    if plan.keep && !connection.last {
                        (connection.step, connection.used, connection.since) = (plan.first, true, Instant::now());
                        if send(&connection.socket, &plan.request).is_ok() {
                            continue;
                        }
                    }
                }
                Ok(Next::Closed) => {}
                Err(_) if connection.used && connection.head.is_empty() && connection.step == plan.first => {}
                Err(error) => {
                    tally.errors += 1;
                    tally.error = error.to_string();
                }
            }
            connections[at] = None;
            connections[at] = open(at, &mut tally);
        }
    }
    let (elapsed, used) = (start.elapsed().as_secs_f64(), cpu_seconds(cpu) - used);
    tally.times.sort_unstable();
    let quantile = |share: f64| tally.times.get((tally.times.len() as f64 * share) as usize).copied().unwrap_or(0);
    println!(
        "{{\"seconds\":{elapsed:.4},\"operations\":{},\"with_warm_up\":{},\"bytes\":{},\"errors\":{},\"error\":{:?},\"cpu\":{used:.6},\"p50\":{},\"p99\":{}}}",
        tally.operations,
        before + tally.operations,
        tally.bytes,
        tally.errors,
        tally.error,
        quantile(0.5),
        quantile(0.99)
    );
}

/// The first answer that comes within some seconds, asked for anew as long as nobody listens. Says when it came.
fn first(plan: &Plan, seconds: f64) {
    let (poll, bulk, mut ready, mut buffer) = (Poll::new(), Bulk::new(), Vec::new(), vec![0; 64 * 1024]);
    let (deadline, mut tally) = (Instant::now() + Duration::from_secs_f64(seconds), Tally::default());
    let mut said = false;
    while Instant::now() < deadline {
        let Ok(mut connection) = plan.open() else {
            if !std::mem::replace(&mut said, true) {
                println!("waiting");
            }
            std::thread::sleep(Duration::from_micros(200));
            continue;
        };
        poll.add(&connection.socket, 0);
        loop {
            match connection.go_on(plan, &mut tally, &bulk, &mut buffer) {
                Ok(Next::Done) => {
                    let at = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
                    return println!("{{\"at\":{}.{:09}}}", at.tv_sec, at.tv_nsec);
                }
                Ok(Next::Wait) if Instant::now() < deadline => poll.wait(&mut ready, Some(Duration::from_millis(100))),
                Ok(Next::Again) => {}
                _ => break,
            }
        }
    }
    println!("{{\"at\":null}}");
}

fn idle(plan: &Plan, count: usize) {
    let (poll, bulk, mut ready, mut buffer, mut tally) = (Poll::new(), Bulk::new(), Vec::new(), vec![0; 64 * 1024], Tally::default());
    let mut standing = Vec::new();
    'all: for _ in 0..count {
        let Ok(mut connection) = plan.open() else { break };
        poll.add(&connection.socket, 0);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match connection.go_on(plan, &mut tally, &bulk, &mut buffer) {
                Ok(Next::Done) => break,
                Ok(_) if Instant::now() < deadline => poll.wait(&mut ready, Some(Duration::from_millis(100))),
                _ => break 'all,
            }
        }
        connection.step = Step::Idle;
        poll.remove(&connection.socket);
        standing.push(connection);
    }
    println!("{{\"standing\":{}}}", standing.len());
    let _ = io::stdin().read(&mut [0]);
    let alive = standing.iter_mut().filter(|connection| matches!(receive(&connection.socket, &mut buffer), Ok(None))).count();
    println!("{{\"alive\":{alive}}}");
}

/// Seconds of processor time that the proxy has used: of a control group's file in nanoseconds (`cpuacct.usage`) or with a line `usage_usec` (`cpu.stat`), or of a process and all that
/// it started.
fn cpu_seconds(source: Option<&str>) -> f64 {
    let Some(source) = source else { return 0.0 };
    if let Ok(pid) = source.parse() {
        return tree_ticks(pid) as f64 / rustix::param::clock_ticks_per_second() as f64;
    }
    let text = std::fs::read_to_string(Path::new(source)).unwrap_or_default();
    let microseconds = text.lines().find_map(|line| line.strip_prefix("usage_usec ")).and_then(|value| value.parse::<f64>().ok());
    microseconds.map(|value| value / 1e6).or_else(|| text.trim().parse::<f64>().ok().map(|value| value / 1e9)).unwrap_or(0.0)
}

/// utime, stime, cutime and cstime of a process, and of all that it started and that are still there (proc_pid_stat(5)).
fn tree_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let own: u64 =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4).filter_map(|value| value.parse::<u64>().ok()).sum();
    let mut children = String::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        children += &std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    }
    own + children.split_whitespace().filter_map(|child| child.parse().ok()).map(tree_ticks).sum::<u64>()
}
