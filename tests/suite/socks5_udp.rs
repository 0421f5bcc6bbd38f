//! SOCKS5 datagrams: whose they are, where they may go, and what comes back.

use harness::udp::{Association, Echo, socket, target};
use harness::{Client, Names, Origin, Proxy, policy, wait_until};
use netproxy::{Dropped, Lookup, Resolve};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

const LOCAL: &str = "allow_local_binding = true\nenable_socks5_udp = true";
const UDP: &str = "enable_socks5_udp = true";

fn names() -> Names {
    Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"]), ("six.test", &["::1"]), ("both.test", &["::1", "127.0.0.1"])])
}

fn open() -> Proxy {
    let domains = [("*", "allow"), ("127.0.0.0/8", "allow"), ("::1", "allow")];
    Proxy::start(&policy(LOCAL, &domains), &names())
}

#[test]
fn datagrams_go_to_names_and_addresses_of_both_families_and_come_back() {
    let proxy = open();
    let (echo, echo6) = (Echo::start(), Echo::on("::1".parse().unwrap()));
    for declared in ["0.0.0.0:0", "[::]:0", "127.0.0.1:9", "192.0.2.1:9"] {
        let association = Association::declaring(proxy.socks5(), declared.parse().unwrap());
        assert_eq!(association.relay.ip(), proxy.socks5().ip(), "only where the listener is");
        for host in ["a.test", "127.0.0.1", "A.Test.", "::ffff:127.0.0.1"] {
            let came = association.send(host, echo.port(), host).receive();
            // The header says where the datagram comes from, in numbers.
            assert_eq!(came, (echo.address(), host.as_bytes().to_vec()), "{declared}");
        }
        let Ok(echo6) = &echo6 else { continue };
        for host in ["six.test", "::1"] {
            assert_eq!(association.send(host, echo6.port(), host).receive(), (echo6.address(), host.as_bytes().to_vec()), "{declared}");
        }
    }
    assert_eq!(proxy.dropped(), []);
}

#[test]
fn every_size_goes_through_whole() {
    let (proxy, echo) = (open(), Echo::start());
    let association = Association::open(proxy.socks5());
    for len in [0, 1, 1472, 9000, 65_507 - 10] {
        let sent: Vec<u8> = (0..len).map(|n: usize| n.to_le_bytes()[n % 2]).collect();
        let (from, received) = association.send("127.0.0.1", echo.port(), &sent).receive();
        assert!(from == echo.address() && received == sent, "{len}");
    }
}

#[test]
fn the_first_datagram_of_the_clients_address_says_whose_the_association_is() {
    let (proxy, echo) = (open(), Echo::start());
    let association = Association::open(proxy.socks5());
    let datagram = [&[0, 0, 0], &*target("127.0.0.1", echo.port()), b"theirs"].concat();
    // Another address, before the client has sent anything.
    socket("127.0.0.2".parse().unwrap()).send_to(&datagram, association.relay).unwrap();
    assert_eq!(proxy.drops(1), Dropped::Stranger);
    assert!(association.echo("127.0.0.1", echo.port(), "ours"));
    // The client's address, and another port.
    socket("127.0.0.1".parse().unwrap()).send_to(&datagram, association.relay).unwrap();
    assert_eq!(proxy.drops(2), Dropped::Stranger);
    assert!(association.echo("127.0.0.1", echo.port(), "ours again"));
    assert_eq!((echo.received().1, echo.received().1), (b"ours".to_vec(), b"ours again".to_vec()));
}

#[test]
fn what_is_no_whole_datagram_is_dropped_and_ends_nothing() {
    let (proxy, echo) = (open(), Echo::start());
    let association = Association::open(proxy.socks5());
    let whole = [&[0, 0, 0], &*target("127.0.0.1", echo.port()), b"x"].concat();
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        bytes
    };
    let name = |name: &[u8]| [&[0, 0, 0, 3, u8::try_from(name.len()).unwrap()], name, &[0, 53, b'x']].concat();
    let mut cases: Vec<(String, Vec<u8>, Dropped)> =
        (0..whole.len() - 1).map(|len| (format!("{len} bytes"), whole[..len].to_vec(), Dropped::Malformed)).collect();
    cases.extend([
        ("the first fragment".into(), with(2, 1), Dropped::Fragment),
        ("the last fragment".into(), with(2, 0x82), Dropped::Fragment),
        ("a reserved byte".into(), with(1, 1), Dropped::Malformed),
        ("an address type that does not exist".into(), with(3, 2), Dropped::Malformed),
        ("an empty name".into(), name(b""), Dropped::Malformed),
        ("a name with a space".into(), name(b"a b"), Dropped::Malformed),
        ("a name that is not UTF-8".into(), name(b"\xff\xfe"), Dropped::Malformed),
        ("a name that is longer than the datagram".into(), b"\0\0\0\x03\xffa.test\0\x35".to_vec(), Dropped::Malformed),
        ("port 0".into(), [&[0, 0, 0], &*target("127.0.0.1", 0), b"x"].concat(), Dropped::Malformed),
        ("noise".into(), vec![0xa5; 2000], Dropped::Malformed),
    ]);
    for (count, (what, bytes, why)) in (1..).zip(cases) {
        association.send_raw(bytes);
        assert_eq!(proxy.drops(count), why, "{what}");
    }
    assert!(association.echo("127.0.0.1", echo.port(), "still here"));
    assert_eq!(echo.received().1, b"still here", "and nothing before it");
}

#[test]
fn each_target_is_decided_and_a_denied_one_ends_nothing() {
    let echo = Echo::start();
    let (port, own) = (echo.port(), format!("127.0.0.1:{}", echo.port()));
    let names = Names::new(&[
        ("good.test", &["127.0.0.1"]),
        ("rebound.test", &["127.0.0.2"]),
        ("mixed.test", &["127.0.0.1", "10.0.0.1"]),
        ("broadcast.test", &["255.255.255.255"]),
        ("listed.test", &["127.9.9.9"]),
    ]);
    let domains = [
        ("*", "allow"),
        ("evil.test", "deny"),
        ("127.9.0.0/16", "deny"),
        (&*own, "allow"),
        ("reads.test", "read-only"),
        ("gone.test", "allow"),
    ];
    let proxy = Proxy::start(&policy(UDP, &domains), &names);
    let association = Association::open(proxy.socks5());
    let cases = [
        ("evil.test", "denied", Dropped::Denied),
        ("127.1", "not_allowed", Dropped::Denied),
        ("reads.test", "mitm_required", Dropped::Denied),
        ("localhost", "not_allowed_local", Dropped::Denied),
        ("10.0.0.1", "not_allowed_local", Dropped::Denied),
        ("255.255.255.255", "not_allowed_local", Dropped::Denied),
        ("224.0.0.251", "not_allowed_local", Dropped::Denied),
        ("ff02::fb", "not_allowed_local", Dropped::Denied),
        ("::ffff:10.0.0.1", "not_allowed_local", Dropped::Denied),
        ("127.9.0.1", "denied", Dropped::Denied),
        ("rebound.test", "not_allowed_local", Dropped::Denied),
        ("mixed.test", "not_allowed_local", Dropped::Denied),
        ("broadcast.test", "not_allowed_local", Dropped::Denied),
        ("listed.test", "denied", Dropped::Denied),
        ("gone.test", "", Dropped::NotResolved),
    ];
    for (count, (host, verdict, why)) in (1..).zip(cases) {
        let before = proxy.decisions().len();
        association.send(host, port, "x");
        assert_eq!(proxy.drops(count), why, "{host}");
        let seen: Vec<String> = proxy.decisions()[before..].iter().map(|seen| seen.verdict.clone()).collect();
        assert_eq!(seen.join(" "), verdict, "{host}");
        assert!(association.echo("good.test", port, host), "{host}");
        assert_eq!(echo.received().1, host.as_bytes());
    }
    let asked = names.asked();
    assert!(!asked.contains(&"evil.test".to_owned()) && !asked.contains(&"reads.test".to_owned()), "{asked:?}");
    assert_eq!(asked.iter().filter(|name| *name == "good.test").count(), 1, "what was decided is not decided for each datagram");
}

#[test]
fn limited_mode_lets_no_datagram_out_and_looks_nothing_up() {
    let names = names();
    let proxy = Proxy::start(&policy(&format!("{LOCAL}\nmode = \"limited\""), &[("a.test", "allow"), ("127.0.0.1", "allow")]), &names);
    let association = Association::open(proxy.socks5());
    for (count, host) in (1..).zip(["a.test", "127.0.0.1"]) {
        association.send(host, 53, "x");
        assert_eq!(proxy.drops(count), Dropped::Denied);
    }
    assert!(proxy.decisions().iter().all(|seen| seen.verdict == "mitm_required"), "{:?}", proxy.decisions());
    assert_eq!(names.asked(), Vec::<String>::new());
}

#[test]
fn the_proxys_own_sockets_are_out_of_reach() {
    let proxy = open();
    let (one, two) = (Association::open(proxy.socks5()), Association::open(proxy.socks5()));
    let targets = [one.relay, two.relay, proxy.socks5(), proxy.http(), proxy.admin(), SocketAddr::from(([127, 0, 0, 1], two.relay.port()))];
    for (count, address) in (1..).zip(targets) {
        one.send(&address.ip().to_string(), address.port(), "x");
        assert_eq!(proxy.drops(count), Dropped::Denied, "{address}");
        assert_eq!(proxy.decisions().last().unwrap().verdict, "policy_denied", "{address}");
    }
}

#[test]
fn only_those_who_were_sent_to_are_heard() {
    let proxy = open();
    let (echo, other) = (Echo::start(), Echo::start());
    let association = Association::open(proxy.socks5());
    assert!(association.echo("127.0.0.1", echo.port(), "hello"));
    let (outside, _) = echo.received();
    assert_ne!(outside, association.relay, "the world sees another socket than the client");
    other.say(outside, b"unasked");
    assert_eq!(proxy.drops(1), Dropped::NotAsked);
    // Once it was sent to, it is heard, also when it speaks by itself.
    assert!(association.echo("127.0.0.1", other.port(), "now"));
    other.say(outside, b"asked");
    assert_eq!(association.receive(), (other.address(), b"asked".to_vec()));
    // Of very many, those who were not sent to for longest are forgotten.
    let sinks = socket("127.0.0.1".parse().unwrap());
    for n in 0..256_u16 {
        let [high, low] = n.to_be_bytes();
        association.send(&format!("127.1.{high}.{low}"), sinks.local_addr().unwrap().port(), "x");
        // No more at a time than a socket holds.
        assert!(n % 32 != 31 || association.echo("127.0.0.1", echo.port(), "this one is remembered"));
    }
    other.say(outside, b"too late");
    assert_eq!(proxy.drops(2), Dropped::NotAsked);
}

/// Whether nobody listens there any more: the system says so to whoever has sent.
fn is_closed(relay: SocketAddr) -> bool {
    let probe = UdpSocket::bind("127.0.0.1:0").unwrap();
    probe.connect(relay).unwrap();
    probe.set_nonblocking(true).unwrap();
    (0..2).any(|_| probe.send(b"?").is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
}

#[test]
fn an_association_ends_with_its_connection() {
    let (proxy, echo) = (open(), Echo::start());
    let mut association = Association::open(proxy.socks5());
    // What is said on the connection means nothing.
    association.control.send("noise");
    assert!(association.echo("127.0.0.1", echo.port(), "hello"));
    assert!(!is_closed(association.relay));
    association.control.finish();
    assert_eq!(association.control.rest(), b"");
    wait_until("the relay is closed", || is_closed(association.relay));
}

#[test]
fn an_idle_association_ends_and_its_connection_with_it() {
    let proxy = Proxy::with_limits(&policy(LOCAL, &[("127.0.0.1", "allow")]), &names(), &["udp_idle_timeout=50ms"]);
    let mut silent = Association::open(proxy.socks5());
    assert_eq!(silent.control.rest(), b"");
    wait_until("the relay is closed", || is_closed(silent.relay));
}

#[test]
fn there_are_no_more_associations_at_once_than_the_limit() {
    let proxy = Proxy::with_limits(&policy(LOCAL, &[("127.0.0.1", "allow")]), &names(), &["udp_associations=2"]);
    let ask = || {
        let mut client = Client::connect(proxy.socks5());
        client.send([5, 1, 0, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0]);
        (client.bytes(4)[3], client)
    };
    let (one, _two) = (Association::open(proxy.socks5()), Association::open(proxy.socks5()));
    assert_eq!(ask().0, 1, "general failure");
    drop(one);
    wait_until("there is room again", || ask().0 == 0);
}

#[test]
fn what_the_budget_of_a_host_keeps_back_is_told() {
    let echo = Echo::start();
    let proxy = Proxy::with_limits(&policy(LOCAL, &[("127.0.0.1", "allow")]), &names(), &["upload_bytes=10"]);
    let association = Association::open(proxy.socks5());
    assert!(association.echo("127.0.0.1", echo.port(), "six by"));
    for dropped in 1..=2 {
        association.send("127.0.0.1", echo.port(), "seven..");
        assert_eq!(proxy.drops(dropped), Dropped::NotSent);
        let told: Vec<_> = proxy.limited().into_iter().map(|one| (one.limit, one.client.is_some(), one.target)).collect();
        assert_eq!(told, vec![("upload_bytes", true, Some(format!("127.0.0.1:{}", echo.port()))); dropped]);
        assert_eq!(proxy.metrics().limited("upload_bytes"), dropped as u64);
    }
    assert!(association.echo("127.0.0.1", echo.port(), "four"), "what fits still goes");
}

#[test]
fn a_swap_stops_what_is_no_longer_allowed_at_once() {
    let (echo, other) = (Echo::start(), Echo::start());
    let names = names();
    let proxy = Proxy::start(&policy(LOCAL, &[("a.test", "allow"), ("b.test", "allow")]), &names);
    let mut association = Association::open(proxy.socks5());
    assert!(association.echo("a.test", echo.port(), "one") && association.echo("b.test", other.port(), "two"));
    let (outside, _) = other.received();
    proxy.swap(&policy(LOCAL, &[("a.test", "allow")]));
    // In neither direction.
    other.say(outside, b"late");
    assert_eq!(proxy.drops(1), Dropped::NotAsked);
    association.send("b.test", other.port(), "three");
    assert_eq!(proxy.drops(2), Dropped::Denied);
    assert!(association.echo("a.test", echo.port(), "four"), "the other goes on");
    assert_eq!(names.asked(), ["a.test", "b.test"], "with the address that it had");
    // The address counts too, not only the name.
    proxy.swap(&policy(UDP, &[("a.test", "allow")]));
    association.send("a.test", echo.port(), "five");
    assert_eq!(proxy.drops(3), Dropped::Denied);
    // With datagrams off, nothing is left.
    proxy.swap(&policy("allow_local_binding = true", &[("a.test", "allow")]));
    assert_eq!(association.control.rest(), b"");
    wait_until("the relay is closed", || is_closed(association.relay));
    let received: Vec<Vec<u8>> = (0..2).map(|_| echo.received().1).collect();
    assert_eq!(received, [b"one", &b"four"[..]]);
}

#[test]
fn every_address_of_a_name_is_decided_on_under_a_policy_that_comes_meanwhile_too() {
    let echo = Echo::start();
    let ips = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|ip| ip.parse().unwrap());
    let slow = Slow { ips: ips.to_vec(), asked: Arc::default(), answers: Arc::new(Semaphore::new(0)) };
    let open = policy(LOCAL, &[("**.test", "allow")]);
    let denied = policy(LOCAL, &[("**.test", "allow"), ("127.0.0.3", "deny")]);
    let proxy = Proxy::with_resolver(&open, slow.clone(), &["addresses=1"]);
    let association = Association::open(proxy.socks5());
    association.send("a.test", echo.port(), "x");
    wait_until("it is looked up", || slow.asked.lock().unwrap().len() == 1);
    proxy.swap(&denied);
    slow.answers.add_permits(2);
    assert_eq!(proxy.drops(1), Dropped::Denied);
    association.send("b.test", echo.port(), "x");
    assert_eq!(proxy.drops(2), Dropped::Denied);
    proxy.swap(&open);
    slow.answers.add_permits(1);
    assert!(association.echo("c.test", echo.port(), "all are allowed"));
    assert_eq!(echo.received().1, b"all are allowed");
}

/// A resolver that answers when it is told to.
#[derive(Clone)]
struct Slow {
    ips: Vec<IpAddr>,
    asked: Arc<Mutex<Vec<String>>>,
    answers: Arc<Semaphore>,
}

impl Resolve for Slow {
    fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        self.asked.lock().unwrap().push(name.to_owned());
        Box::pin(async {
            self.answers.acquire().await.map_err(io::Error::other)?.forget();
            Ok(self.ips.clone())
        })
    }
}

#[test]
fn names_that_are_slow_hold_up_a_few_datagrams_and_nobody_else() {
    let echo = Echo::start();
    let slow = Slow { ips: vec![[127, 0, 0, 1].into()], asked: Arc::default(), answers: Arc::new(Semaphore::new(0)) };
    let proxy = Proxy::with_resolver(&policy(LOCAL, &[("**.test", "allow"), ("127.0.0.1", "allow")]), slow.clone(), &[]);
    let association = Association::open(proxy.socks5());
    for n in 0..17 {
        association.send(&format!("{n}.test"), echo.port(), format!("{n}"));
    }
    assert_eq!(proxy.drops(1), Dropped::Busy, "the seventeenth name");
    assert_eq!(slow.asked.lock().unwrap().len(), 16);
    // Seven more wait for a name that is waited for already, and then no more.
    for n in 1..=8 {
        association.send("0.test", echo.port(), format!("0.{n}"));
    }
    assert_eq!(proxy.drops(2), Dropped::Busy);
    association.send("1.test", echo.port(), vec![0; 60_000]).send("1.test", echo.port(), vec![0; 60_000]).send(
        "1.test",
        echo.port(),
        vec![0; 60_000],
    );
    assert_eq!(proxy.drops(3), Dropped::Busy, "what waits is bounded in bytes too");
    assert!(association.echo("127.0.0.1", echo.port(), "an address does not wait"));
    assert_eq!(echo.received().1, b"an address does not wait");
    // A policy that comes between the question and the answer counts.
    proxy.swap(&policy(LOCAL, &[("**.test", "allow"), ("5.test", "deny"), ("127.0.0.1", "allow")]));
    slow.answers.add_permits(16);
    let mut received: Vec<String> =
        (0..16 - 1 + 7 + 2).map(|_| String::from_utf8(echo.received().1).unwrap()).filter(|text| text.len() < 10).collect();
    received.sort();
    let mut expected: Vec<String> = (0..16).filter(|n| *n != 5).map(|n| n.to_string()).chain((1..=7).map(|n| format!("0.{n}"))).collect();
    expected.sort();
    assert_eq!(received, expected);
    assert_eq!(proxy.drops(4), Dropped::Denied);
    assert_eq!(slow.asked.lock().unwrap().len(), 16, "each was looked up once");
}

#[test]
fn tcp_and_datagrams_share_one_listener() {
    let (proxy, echo, origin) = (open(), Echo::start(), Origin::echo());
    let association = Association::open(proxy.socks5());
    let mut tunnel = Client::connect(proxy.socks5());
    assert_eq!(tunnel.socks5_name("a.test", origin.port()), Some(0));
    assert!(association.echo("a.test", echo.port(), "datagram"));
    assert_eq!(tunnel.send("bytes").bytes(5), b"bytes");
}
