//! Every limit: how it is set, what a client does that reaches it, what it is answered, and which counter moves.

use harness::{Client, Metrics, Names, Origin, Proxy, policy, wait_until};
use policy_format::{Limit, Limits};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

const CASES: &str = include_str!("../cases/limits.toml");

/// A row of the table.
#[derive(Debug, Default)]
struct Case {
    limit: String,
    set: String,
    also: Vec<String>,
    policy: String,
    counter: Option<String>,
    times: u64,
    steps: Vec<String>,
    elsewhere: bool,
}

fn cases() -> Vec<Case> {
    let table = toml::de::DeTable::parse(CASES).unwrap().into_inner();
    let rows = table["case"].get_ref().as_array().unwrap();
    let case = |row: &toml::de::DeTable<'_>| {
        let mut case = Case { times: 1, ..Case::default() };
        for (key, value) in row {
            let value = value.get_ref();
            let text = || value.as_str().unwrap().to_owned();
            let texts = || value.as_array().unwrap().iter().map(|text| text.get_ref().as_str().unwrap().to_owned()).collect();
            match key.get_ref().as_ref() {
                "limit" => case.limit = text(),
                "set" => case.set = text(),
                "also" => case.also = texts(),
                "policy" => case.policy = text(),
                "counter" => case.counter = Some(text()),
                "times" => case.times = value.as_integer().unwrap().as_str().parse().unwrap(),
                "steps" => case.steps = texts(),
                "elsewhere" => case.elsewhere = value.as_bool().unwrap(),
                other => panic!("unknown key {other}"),
            }
        }
        case
    };
    rows.iter().map(|row| case(row.get_ref().as_table().unwrap())).collect()
}

/// Answers with a head of so many bytes, all at once.
fn head_of(bytes: usize) -> Origin {
    let start = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Long: ";
    let head = format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4));
    Origin::http(move |_, stream| stream.write_all(head.as_bytes()).is_ok())
}

/// Who is reached through the proxy.
struct World {
    origins: Vec<(&'static str, String)>,
    _kept: (Vec<Origin>, Full),
}

impl World {
    fn new() -> Self {
        let asked = |stream: &mut TcpStream| drop(std::io::Read::read(stream, &mut [0; 4096]));
        let silent = Origin::raw(|mut stream| drop(std::io::copy(&mut stream, &mut std::io::sink())));
        let interim = Origin::raw(move |mut stream| {
            asked(&mut stream);
            while stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").is_ok() {}
        });
        let verbose = Origin::raw(move |mut stream| {
            asked(&mut stream);
            let _ = stream.write_all(&[b"HTTP/1.1 200 OK\r\nX-Long: ".as_slice(), &[b'x'; 2000]].concat());
            drop(std::io::copy(&mut stream, &mut std::io::sink()));
        });
        let fitting = head_of(1024);
        let (long, trailing) = (
            head_of(1025),
            Origin::http(|_, stream| {
                let long = "x".repeat(1024);
                let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Long: {long}\r\n\r\n");
                stream.write_all(answer.as_bytes()).is_ok()
            }),
        );
        let many = Origin::http(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nX-B: 2\r\nContent-Length: 0\r\n\r\n").is_ok());
        let (origin, echo, full) = (Origin::start(), Origin::echo(), Full::new());
        let at = |host: &str, port: u16| format!("{host}:{port}");
        let origins = vec![
            ("{origin}", at("a.test", origin.port())),
            ("{other}", at("b.test", origin.port())),
            ("{silent}", at("a.test", silent.port())),
            ("{echo}", at("a.test", echo.port())),
            ("{interim}", at("a.test", interim.port())),
            ("{verbose}", at("a.test", verbose.port())),
            ("{fitting}", at("a.test", fitting.port())),
            ("{long}", at("a.test", long.port())),
            ("{trailing}", at("a.test", trailing.port())),
            ("{many}", at("a.test", many.port())),
            ("{full}", at("a.test", full.address.port())),
            ("{slow}", "slow.test".to_owned()),
            ("{second}", at("two.test", origin.port())),
        ];
        Self { origins, _kept: (vec![origin, echo, silent, interim, verbose, fitting, long, trailing, many], full) }
    }

    fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, authority) in &self.origins {
            text = text.replace(name, authority);
        }
        while let Some(at) = text.find("{x*") {
            let end = at + text[at..].find('}').unwrap();
            let count: usize = text[at + 3..end].parse().unwrap();
            text.replace_range(at..=end, &"x".repeat(count));
        }
        text
    }
}

/// A listener whose queue is full, so that it answers nobody who connects.
struct Full {
    address: SocketAddr,
    _listener: tokio::net::TcpListener,
    _waiting: Vec<TcpStream>,
    _runtime: tokio::runtime::Runtime,
}

impl Full {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            socket.listen(1).unwrap()
        });
        let address = listener.local_addr().unwrap();
        let waiting = std::iter::from_fn(|| TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok()).take(64).collect();
        Self { address, _listener: listener, _waiting: waiting, _runtime: runtime }
    }
}

/// A case on its way.
struct Run<'c> {
    case: &'c Case,
    world: &'c World,
    proxy: Proxy,
    before: Metrics,
    clients: BTreeMap<String, Client>,
}

impl Run<'_> {
    fn counter(&self) -> &str {
        self.case.counter.as_deref().unwrap_or(&self.case.limit)
    }

    fn reached(&self) -> u64 {
        self.proxy.metrics().limited(self.counter()) - self.before.limited(self.counter())
    }

    fn socks(&self, client: &mut Client, host: &str) -> u8 {
        let (name, port) = host.split_once(':').unwrap();
        client.socks5_name(name, port.parse().unwrap()).expect("a reply")
    }

    fn step(&mut self, step: &str) {
        let step = self.world.fill(step);
        let (who, rest) = step.split_once(' ').unwrap_or((&step, ""));
        match who {
            "reached" => return wait_until("the limit is reached", || self.reached() == self.case.times),
            "free" => {
                return wait_until("no connection is open", || self.proxy.metrics().get("netproxy_connections_open") == 0);
            }
            "again" => {
                let (_, rest) = rest.split_once(' ').unwrap();
                let (host, code) = rest.split_once(' ').unwrap();
                let socks5 = self.proxy.socks5();
                return wait_until(&step, || self.socks(&mut Client::connect(socks5), host).to_string() == code);
            }
            _ => {}
        }
        let (what, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let words: Vec<&str> = rest.split(' ').collect();
        let address = match what {
            "http" => Some(self.proxy.http()),
            "socks5" => Some(self.proxy.socks5()),
            _ => None,
        };
        if let Some(address) = address {
            self.clients.insert(who.to_owned(), Client::connect(address));
            return;
        }
        let mut client = self.clients.remove(who).unwrap();
        match what {
            "send" => drop(client.send(rest)),
            "answer" => {
                let tunnel = words[0] == "200";
                let answer = if tunnel { client.answer_to("CONNECT") } else { client.answer() };
                let expected = (words[0].to_owned(), words.get(1).copied());
                assert_eq!((answer.status.to_string(), answer.header("x-proxy-error")), expected, "{}", answer.text());
            }
            "get" => {
                let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", words[0]);
                assert_eq!(client.send(request).answer().status.to_string(), words[1]);
            }
            "gets" => assert_eq!(String::from_utf8(client.bytes(rest.len())).unwrap(), rest),
            "socks" => assert_eq!(self.socks(&mut client, words[0]).to_string(), words[1]),
            "closed" => return assert_eq!(client.rest(), Vec::<u8>::new()),
            "reset" => return,
            other => panic!("unknown step {other}"),
        }
        self.clients.insert(who.to_owned(), client);
    }
}

#[test]
fn every_limit_is_set_reached_answered_and_counted() {
    let world = World::new();
    let one: &[&str] = &["127.0.0.1"];
    let names = Names::new(&[("a.test", one), ("b.test", one), ("two.test", &["127.0.0.2", "127.0.0.1"])]).with_slow("slow.test");
    let run = |case: &Case| {
        let mut limits = vec![format!("{}={}", case.limit, case.set)];
        limits.extend(case.also.iter().cloned());
        if case.limit != "linger_timeout" {
            // Clients here read at their leisure.
            limits.push("linger_timeout=1m".to_owned());
        }
        let limits: Vec<&str> = limits.iter().map(String::as_str).collect();
        let toml = policy(&format!("allow_local_binding = true\n{}", case.policy), &[("*.test", "allow")]);
        let proxy = Proxy::with_limits(&toml, &names, &limits);
        let before = proxy.metrics();
        let mut run = Run { case, world: &world, proxy, before, clients: BTreeMap::new() };
        for step in &case.steps {
            eprintln!("{}: {step}", case.limit);
            run.step(step);
        }
        if case.steps.iter().any(|step| step.starts_with("again")) {
            assert!(run.reached() >= case.times);
            return;
        }
        wait_until("the limit is counted", || run.reached() >= case.times);
        let after = run.proxy.metrics();
        let moved = Limits::ALL.iter().map(|limit| (limit.name, after.limited(limit.name) - run.before.limited(limit.name)));
        let moved: Vec<(&str, u64)> = moved.filter(|(_, moved)| *moved > 0).collect();
        let expected: Vec<(&str, u64)> = (case.times > 0).then(|| (run.counter(), case.times)).into_iter().collect();
        assert_eq!(moved, expected, "{}", case.limit);
        // Whoever observes hears of each, and where to.
        let events = run.proxy.limited();
        let times = usize::try_from(case.times).unwrap();
        assert!(events.len() == times && events.iter().all(|event| event.limit == run.counter() && event.client.is_some()), "{events:?}");
        let of_host = !matches!(
            case.limit.as_str(),
            "connections"
                | "connections_per_client"
                | "head_timeout"
                | "keep_alive_timeout"
                | "linger_timeout"
                | "request_line_bytes"
                | "head_bytes"
                | "head_fields"
        );
        assert!(!of_host || events.iter().all(|event| event.target.is_some()), "{events:?}");
    };
    let cases = cases();
    let here: Vec<&Case> = cases.iter().filter(|case| !case.elsewhere).collect();
    for case in &here {
        assert!(!case.steps.is_empty(), "{} has nothing to do", case.limit);
        run(case);
    }
    assert_eq!(here.len(), 46);
}

/// Limits that unit tests set, beside what they bound.
const IN_UNIT_TESTS: &[&str] = &["lookups", "cache_names"];

#[test]
fn every_limit_has_a_row_and_those_elsewhere_a_test() {
    let cases = cases();
    let rows: BTreeSet<&str> = cases.iter().map(|case| case.limit.as_str()).collect();
    assert_eq!(rows, Limits::ALL.iter().map(|limit| limit.name).collect());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("suite");
    let tests: String = std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    for case in cases.iter().filter(|case| case.elsewhere && !IN_UNIT_TESTS.contains(&case.limit.as_str())) {
        assert!(tests.contains(&format!("{}=", case.limit)), "no test sets {}", case.limit);
    }
}

#[test]
fn the_page_about_limits_is_their_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/limits.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (start, end) = ("<!-- limits -->\n", "<!-- end -->\n");
    let (head, rest) = text.split_once(start).unwrap();
    let (_, tail) = rest.split_once(end).unwrap();
    let row = |limit: &Limit| {
        let least = if limit.min == 0 { "0".to_owned() } else { limit.shown(limit.min) };
        let most = if limit.max == u64::MAX { "-".to_owned() } else { limit.shown(limit.max) };
        let default = if limit.default == 0 { "0".to_owned() } else { limit.shown(limit.default) };
        format!("| `{}` | {default} | {least} | {most} | {} |\n", limit.name, limit.doc)
    };
    let rows: String = Limits::ALL.iter().map(row).collect();
    let expected =
        format!("{head}{start}| limit | default | least | most | what it bounds |\n| --- | --- | --- | --- | --- |\n{rows}{end}{tail}");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    assert!(text == expected || std::env::var_os("BLESS").is_some(), "docs/limits.md is not what it would be: run this test with BLESS=1");
}
