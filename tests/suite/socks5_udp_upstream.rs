//! SOCKS5 datagrams that go through another proxy: what it is asked, what it may answer, and that neither it nor a new policy leaves a way around a decision.

use harness::udp::{Association, Echo, socket};
use harness::udp_proxy::{UdpProxy, wrapped, yes};
use harness::upstream::Upstream;
use harness::{Names, Proxy, policy, wait_until};
use netproxy::Dropped;
use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

/// An address that no test ever reaches.
const FAR: &str = "93.184.216.34";

fn names() -> Names {
    Names::new(&[("a.test", &[FAR]), ("b.test", &[FAR]), ("both.test", &["2606:2800:21f:cb07::1", FAR]), ("inside.test", &["10.0.0.1"])])
}

const DOMAINS: [(&str, &str); 7] = [
    ("a.test", "allow"),
    ("b.test", "allow"),
    ("both.test", "allow"),
    ("inside.test", "allow"),
    (FAR, "allow"),
    ("2606:2800:21f:cb07::/64", "allow"),
    ("127.0.0.1", "allow"),
];

/// Datagrams are on, and go through a proxy; those to this machine go directly.
fn through(url: &str) -> String {
    policy(&format!("enable_socks5_udp = true\nupstream = \"{url}\""), &DOMAINS)
}

#[test]
fn the_proxy_is_asked_once_and_for_checked_addresses() {
    let (upstream, names) = (UdpProxy::start(), names());
    let proxy = Proxy::start(&through(&upstream.url("socks5")), &names);
    let association = Association::open(proxy.socks5());
    for (host, asked) in [("A.Test.", FAR), (FAR, FAR), ("both.test", FAR), ("2606:2800:21f:cb07::2", "2606:2800:21f:cb07::2")] {
        association.send(host, 53, host);
        let (outside, datagram) = upstream.received();
        assert_eq!(datagram, wrapped(asked, 53, host), "of the family in which the proxy is, if there is one");
        upstream.say(outside, wrapped(asked, 53, "answer"));
        assert_eq!(association.receive(), (SocketAddr::new(asked.parse().unwrap(), 53), b"answer".to_vec()));
    }
    assert_eq!(upstream.asked(), [5, 3, 0, 1, 0, 0, 0, 0, 0, 0], "from where it will be sent is not known");
    assert_eq!(upstream.connections(), 1);
    association.send("inside.test", 53, "x");
    assert_eq!(proxy.drops(1), Dropped::Denied, "every address that was found here is decided on");
    association.send("c.test", 53, "x");
    assert_eq!(proxy.drops(2), Dropped::Denied);
    assert_eq!(names.asked(), ["a.test", "both.test", "inside.test"]);
    drop(association);
    upstream.wait_for_the_end();
}

#[test]
fn a_proxy_that_looks_names_up_is_asked_for_them() {
    let (upstream, names) = (UdpProxy::start(), names());
    let proxy = Proxy::start(&through(&upstream.url("socks5h")), &names);
    let association = Association::open(proxy.socks5());
    for (host, asked) in [("A.Test.", "a.test"), ("inside.test", "inside.test"), (FAR, FAR)] {
        association.send(host, 53, host);
        assert_eq!(upstream.received().1, wrapped(asked, 53, host));
    }
    association.send("10.0.0.1", 53, "x");
    assert_eq!(proxy.drops(1), Dropped::Denied);
    assert_eq!((names.asked(), upstream.connections()), (vec![], 1));
}

#[test]
fn a_proxy_on_this_machine_is_not_asked_for_names_with_the_ports_of_our_own_sockets() {
    let upstream = UdpProxy::start();
    let proxy = Proxy::start(&through(&upstream.url("socks5h")), &names());
    let (one, two) = (Association::open(proxy.socks5()), Association::open(proxy.socks5()));
    for (count, port) in (1..).zip([one.relay.port(), two.relay.port(), proxy.socks5().port(), proxy.admin().port()]) {
        one.send("a.test", port, "x");
        assert_eq!(proxy.drops(count), Dropped::Denied, "{port}");
        assert_eq!(proxy.decisions().last().unwrap().verdict, "policy_denied", "{port}");
    }
    one.send("a.test", 53, "x");
    assert_eq!(upstream.received().1, wrapped("a.test", 53, "x"));
}

#[test]
fn proxies_are_reached_by_ipv6_too() {
    let Ok(upstream) = UdpProxy::on("::1".parse().unwrap(), yes) else { return eprintln!("skipped: there is no IPv6") };
    let proxy = Proxy::start(&through(&upstream.url("socks5")), &names());
    let association = Association::open(proxy.socks5());
    association.send("both.test", 53, "x");
    let (outside, datagram) = upstream.received();
    assert_eq!(datagram, wrapped("2606:2800:21f:cb07::1", 53, "x"));
    upstream.say(outside, wrapped("2606:2800:21f:cb07::1", 53, "y"));
    assert_eq!(association.receive().1, b"y");
}

#[test]
fn only_replies_that_were_asked_for_come_back() {
    let upstream = UdpProxy::start();
    let proxy = Proxy::start(&through(&upstream.url("socks5")), &names());
    let association = Association::open(proxy.socks5());
    association.send("a.test", 53, "x").send(FAR, 54, "x");
    let (outside, _) = upstream.received();
    let mut fragment = wrapped(FAR, 53, "x");
    fragment[2] = 1;
    let cases = [
        (wrapped("93.184.216.35", 53, "x"), Dropped::NotAsked),
        (wrapped(FAR, 55, "x"), Dropped::NotAsked),
        (wrapped("a.test", 53, "x"), Dropped::NotAsked),
        (wrapped("127.0.0.1", 53, "x"), Dropped::NotAsked),
        (fragment, Dropped::Fragment),
        (wrapped(FAR, 53, "")[..9].to_vec(), Dropped::Malformed),
        (wrapped(FAR, 0, "x"), Dropped::Malformed),
        (b"\0\0\0\x02data".to_vec(), Dropped::Malformed),
        (Vec::new(), Dropped::Malformed),
    ];
    for (count, (datagram, why)) in (1..).zip(cases) {
        upstream.say(outside, &datagram);
        assert_eq!(proxy.drops(count), why, "{datagram:?}");
    }
    // Others than the relay are not even heard.
    socket("127.0.0.1".parse().unwrap()).send_to(&wrapped(FAR, 53, "not the relay"), outside).unwrap();
    upstream.say(outside, wrapped(FAR, 53, "the relay"));
    assert_eq!(association.receive(), (SocketAddr::new(FAR.parse().unwrap(), 53), b"the relay".to_vec()));
    assert_eq!(proxy.dropped().len(), 9);
}

#[test]
fn where_names_are_looked_up_there_a_port_is_what_was_asked_for() {
    let upstream = UdpProxy::start();
    let proxy = Proxy::start(&through(&upstream.url("socks5h")), &names());
    let association = Association::open(proxy.socks5());
    association.send("a.test", 53, "x").send(FAR, 54, "x");
    let (outside, _) = upstream.received();
    for (count, (host, port)) in (1..).zip([("198.51.100.7", 54), ("198.51.100.7", 55), ("a.test", 54)]) {
        upstream.say(outside, wrapped(host, port, "x"));
        assert_eq!(proxy.drops(count), Dropped::NotAsked, "{host}:{port}");
    }
    for (host, port) in [("198.51.100.7", 53), (FAR, 54)] {
        upstream.say(outside, wrapped(host, port, "x"));
        assert_eq!(association.receive().0, SocketAddr::new(host.parse().unwrap(), port));
    }
}

#[test]
fn a_relay_is_taken_on_the_proxys_own_address_alone() {
    let answer: Arc<Mutex<Vec<u8>>> = Arc::default();
    let said = Arc::clone(&answer);
    let upstream = UdpProxy::answering(move |_| said.lock().unwrap().clone());
    let [high, low] = upstream.relay().port().to_be_bytes();
    let proxy = Proxy::start(&through(&upstream.url("socks5h")), &names());
    let victim = Association::open(proxy.socks5());
    let [own_high, own_low] = victim.relay.port().to_be_bytes();
    let association = Association::open(proxy.socks5());
    let no: [(&str, Vec<u8>); 10] = [
        ("another address of this machine", vec![5, 0, 0, 1, 127, 0, 0, 2, high, low]),
        ("another machine", vec![5, 0, 0, 1, 10, 0, 0, 1, high, low]),
        ("another client's relay", vec![5, 0, 0, 1, 127, 0, 0, 1, own_high, own_low]),
        ("the same, not spelled out", vec![5, 0, 0, 1, 0, 0, 0, 0, own_high, own_low]),
        ("a name", [&[5, 0, 0, 3, 9][..], b"localhost", &[high, low]].concat()),
        ("no port", vec![5, 0, 0, 1, 127, 0, 0, 1, 0, 0]),
        ("no such command", vec![5, 7, 0, 1, 0, 0, 0, 0, 0, 0]),
        ("not allowed there", vec![5, 2, 0, 1, 0, 0, 0, 0, 0, 0]),
        ("no such type", vec![5, 0, 0, 2, 0, 0, 0, 0, 0, 0]),
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
    ];
    for (count, (what, bytes)) in (1..).zip(no) {
        *answer.lock().unwrap() = bytes;
        association.send("a.test", 53, "x");
        assert_eq!(proxy.drops(count), Dropped::Proxied, "{what}");
        assert_eq!(upstream.connections(), count, "each datagram asks anew");
    }
    let yes: [Vec<u8>; 3] = [
        vec![5, 0, 0, 1, 0, 0, 0, 0, high, low],
        [&[5, 0, 0, 4][..], &[0; 16], &[high, low]].concat(),
        [&[5, 0, 0, 4][..], &[0; 10], &[0xff, 0xff, 127, 0, 0, 1, high, low]].concat(),
    ];
    for bytes in yes {
        *answer.lock().unwrap() = bytes;
        let association = Association::open(proxy.socks5());
        association.send("a.test", 53, "y");
        assert_eq!(upstream.received().1, wrapped("a.test", 53, "y"));
    }
    // Nothing of all this has come to the other client, or made the proxy its client.
    let echo = Echo::start();
    assert!(victim.echo("127.0.0.1", echo.port(), "still the first"));
    assert_eq!(proxy.dropped().len(), 10);
}

#[test]
fn what_cannot_take_datagrams_is_not_gone_around() {
    let (http, silent) = (
        Upstream::http(),
        UdpProxy::answering(|_| {
            loop {
                std::thread::park()
            }
        }),
    );
    let proxy = Proxy::with_limits(&through(&format!("http://{}", http.address())), &names(), &["connect_timeout=100ms"]);
    let association = Association::open(proxy.socks5());
    association.send("a.test", 53, "x");
    assert_eq!(proxy.drops(1), Dropped::Proxied);
    assert_eq!(http.connections(), 0);
    let unheard = socket("127.0.0.1".parse().unwrap()).local_addr().unwrap();
    for (count, (url, why)) in (2..).zip([
        (silent.url("socks5h"), Dropped::NotSent),
        (format!("socks5h://{unheard}"), Dropped::NotSent),
        ("socks5://nowhere.test:1080".to_owned(), Dropped::NotResolved),
    ]) {
        proxy.swap(&through(&url));
        association.send("a.test", 53, "x");
        assert_eq!(proxy.drops(count), why, "{url}");
    }
    let metrics = proxy.metrics();
    let dropped = |reason: &str| metrics.get(&format!("netproxy_datagrams_dropped_total{{reason=\"{reason}\"}}"));
    assert_eq!((dropped("proxied"), dropped("not_sent"), dropped("not_resolved")), (1, 2, 1));
}

#[test]
fn a_slow_proxy_holds_up_a_few_datagrams_and_nobody_else() {
    let (go, gone) = channel::<()>();
    let gone = Mutex::new(gone);
    let upstream = UdpProxy::answering(move |relay| {
        let _ = gone.lock().unwrap().recv_timeout(harness::PATIENCE);
        yes(relay)
    });
    let echo = Echo::start();
    let proxy = Proxy::start(&through(&upstream.url("socks5h")), &names());
    let association = Association::open(proxy.socks5());
    for n in 0..9 {
        association.send("a.test", 53, [n]);
    }
    assert_eq!(proxy.drops(1), Dropped::Busy, "the ninth for one target");
    for port in 1..=16 {
        association.send(FAR, port, "x");
    }
    assert_eq!(proxy.drops(2), Dropped::Busy, "the seventeenth target, and by its address");
    association.send("b.test", 53, "x");
    assert_eq!(proxy.drops(3), Dropped::Busy);
    assert!(association.echo("127.0.0.1", echo.port(), "what goes directly does not wait"));
    assert_eq!((upstream.asked().len(), upstream.connections()), (10, 1), "one attempt for all");
    go.send(()).unwrap();
    let mut received: Vec<Vec<u8>> = (0..8 + 15).map(|_| upstream.received().1).collect();
    received.sort();
    let mut expected: Vec<Vec<u8>> = (0..8).map(|n| wrapped("a.test", 53, [n])).collect();
    expected.extend((1..=15).map(|port| wrapped(FAR, port, "x")));
    expected.sort();
    assert_eq!(received, expected);
    // It stands now: nobody waits any more.
    association.send("b.test", 53, "x");
    assert_eq!(upstream.received().1, wrapped("b.test", 53, "x"));
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_policy_that_comes_while_the_proxy_is_asked_counts() {
    let (go, gone) = channel::<()>();
    let gone = Mutex::new(gone);
    let upstream = UdpProxy::answering(move |relay| {
        let _ = gone.lock().unwrap().recv_timeout(harness::PATIENCE);
        yes(relay)
    });
    let proxy = Proxy::start(&through(&upstream.url("socks5h")), &names());
    let association = Association::open(proxy.socks5());
    association.send("a.test", 53, "x").send("b.test", 53, "x");
    assert_eq!(upstream.asked().len(), 10);
    let settings = format!("enable_socks5_udp = true\nupstream = \"{}\"", upstream.url("socks5h"));
    proxy.swap(&policy(&settings, &[("b.test", "allow")]));
    go.send(()).unwrap();
    assert_eq!(proxy.drops(1), Dropped::Denied);
    // What was asked for with it goes; the proxy may be asked for that anew.
    let _ = go.send(());
    assert_eq!(upstream.received().1, wrapped("b.test", 53, "x"));
}

#[test]
fn when_the_proxy_ends_the_next_datagram_asks_it_again() {
    let upstream = UdpProxy::start();
    let proxy = Proxy::start(&through(&upstream.url("socks5h")), &names());
    let association = Association::open(proxy.socks5());
    association.send("a.test", 53, "x");
    let (mut outside, _) = upstream.received();
    let before = outside;
    for end in [UdpProxy::close as fn(&UdpProxy), UdpProxy::speak] {
        let count = upstream.connections();
        end(&upstream);
        // That it ended is heard of a moment later.
        wait_until("it is asked again", || {
            association.send("a.test", 53, "x");
            upstream.connections() > count
        });
        // Some may have gone the old way until then.
        outside = std::iter::repeat_with(|| upstream.received().0).find(|from| *from != outside).unwrap();
    }
    upstream.say(before, wrapped("198.51.100.7", 53, "late"));
    upstream.say(outside, wrapped("198.51.100.7", 53, "in time"));
    assert_eq!(association.receive().1, b"in time");
}

#[test]
fn under_a_new_policy_no_datagram_goes_the_old_way() {
    let (one, two, echo) = (UdpProxy::start(), UdpProxy::start(), Echo::start());
    // Without a rule for it, this machine is reached directly.
    let toml = |url: &str, domains: &[(&str, &str)]| {
        let rules = format!("[{{ hosts = [\"127.0.0.1\"], url = \"{url}\" }}]");
        policy(&format!("enable_socks5_udp = true\nupstream = {{ rules = {rules} }}"), domains)
    };
    let domains = [("127.0.0.1", "allow"), ("a.test", "allow")];
    let proxy = Proxy::start(&toml(&one.url("socks5"), &domains), &names());
    let association = Association::open(proxy.socks5());
    let to_me = |payload: &str| wrapped("127.0.0.1", echo.port(), payload);
    association.send("127.0.0.1", echo.port(), "one");
    let (outside, datagram) = one.received();
    assert_eq!(datagram, to_me("one"));
    // The same way under another policy stays open.
    proxy.swap(&toml(&one.url("socks5"), &domains[..1]));
    association.send("127.0.0.1", echo.port(), "again");
    assert_eq!(one.received(), (outside, to_me("again")));
    // Another proxy: the old one is not asked and not heard.
    proxy.swap(&toml(&two.url("socks5"), &domains));
    one.wait_for_the_end();
    association.send("127.0.0.1", echo.port(), "two");
    let (outside, datagram) = two.received();
    assert_eq!(datagram, to_me("two"));
    one.say(outside, to_me("not from here"));
    two.say(outside, to_me("from here"));
    assert_eq!(association.receive().1, b"from here");
    // None, and one again.
    proxy.swap(&toml("direct", &domains));
    assert!(association.echo("127.0.0.1", echo.port(), "three"));
    let (directly, _) = echo.received();
    two.wait_for_the_end();
    proxy.swap(&toml(&two.url("socks5"), &domains));
    association.send("127.0.0.1", echo.port(), "four");
    let (outside, datagram) = two.received();
    assert_eq!(datagram, to_me("four"));
    echo.say(directly, b"late");
    assert_eq!(proxy.drops(1), Dropped::NotAsked, "the address is known, but not without the proxy");
    // No longer allowed, in neither direction.
    proxy.swap(&toml(&two.url("socks5"), &domains[1..]));
    two.wait_for_the_end();
    two.say(outside, to_me("late"));
    association.send("127.0.0.1", echo.port(), "five");
    assert_eq!(proxy.drops(2), Dropped::Denied);
}

#[test]
fn one_client_has_associations_at_four_proxies_at_most() {
    let upstreams: Vec<UdpProxy> = (0..5).map(|_| UdpProxy::start()).collect();
    let toml = |through: &[usize]| {
        let rule = |n: &usize| format!("{{ hosts = [\"{n}.test\"], url = \"{}\" }}", upstreams[*n].url("socks5h"));
        let rules: Vec<String> = through.iter().map(rule).collect();
        policy(&format!("enable_socks5_udp = true\nupstream = {{ rules = [{}] }}", rules.join(", ")), &[("*.test", "allow")])
    };
    let proxy = Proxy::start(&toml(&[0, 1, 2, 3, 4]), &names());
    let association = Association::open(proxy.socks5());
    for (n, upstream) in upstreams[..4].iter().enumerate() {
        association.send(&format!("{n}.test"), 53, "x");
        assert_eq!(upstream.received().1, wrapped(&format!("{n}.test"), 53, "x"));
    }
    association.send("4.test", 53, "x");
    assert_eq!(proxy.drops(1), Dropped::Busy);
    // One that is not gone through any more makes room.
    proxy.swap(&toml(&[1, 2, 3, 4]));
    upstreams[0].wait_for_the_end();
    association.send("4.test", 53, "x");
    assert_eq!(upstreams[4].received().1, wrapped("4.test", 53, "x"));
}

#[test]
fn what_is_sent_through_a_proxy_counts() {
    let upstream = UdpProxy::start();
    let proxy = Proxy::with_limits(&through(&upstream.url("socks5h")), &names(), &["upload_bytes=10"]);
    let association = Association::open(proxy.socks5());
    association.send("a.test", 53, "six by").send("a.test", 53, "seven..");
    assert_eq!(proxy.drops(1), Dropped::NotSent);
    assert_eq!(upstream.received().1, wrapped("a.test", 53, "six by"));
    let limited = proxy.limited();
    assert!(limited.iter().all(|one| one.limit == "upload_bytes" && one.client.is_some()), "{limited:?}");
    assert_eq!(limited.iter().map(|one| one.target.as_deref()).collect::<Vec<_>>(), [Some("a.test:53")]);
    assert_eq!(proxy.metrics().limited("upload_bytes"), 1);
    assert_eq!(
        proxy.metrics().get("netproxy_bytes_total{direction=\"up\"}"),
        13,
        "as directly: the data, and not what is written before it"
    );
}
