//! Tunnels: success only when the upstream stands, half-close, revocation, drain.

use harness::{Client, Names, Origin, Proxy, Refusing, policy};
use std::io::{Read, Write};

const LOCAL: &str = "allow_local_binding = true";

fn names() -> Names {
    Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])])
}

#[test]
fn success_is_said_only_when_the_upstream_stands() {
    let proxy = Proxy::start(&policy(LOCAL, &[("a.test", "allow")]), &names());
    let refusing = Refusing::new();
    let answer = Client::connect(proxy.http()).tunnel(&format!("a.test:{}", refusing.port()));
    assert_eq!((answer.status, answer.header("x-proxy-error")), (502, Some("upstream-refused")));
    let blocked = Client::connect(proxy.http()).tunnel("b.test:443");
    assert_eq!((blocked.status, blocked.header("x-proxy-error")), (403, Some("blocked-by-allowlist")));
    assert_eq!(blocked.text().lines().count(), 1);
    assert!(blocked.text().starts_with("b.test:443 is blocked: no rule allows it; to allow it, add \"b.test\" = \"allow\" under"));
}

#[test]
fn each_direction_ends_by_itself() {
    // The origin reads to the end before it says anything: without half-close both would wait for ever.
    let origin = Origin::raw(|mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(format!("{} bytes", all.len()).as_bytes()).unwrap();
    });
    let proxy = Proxy::start(&policy(LOCAL, &[("a.test", "allow")]), &names());
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.tunnel(&format!("a.test:{}", origin.port())).status, 200);
    assert_eq!(client.send(vec![7; 300_000]).finish().rest(), b"300000 bytes");
}

#[test]
fn bytes_that_come_with_the_request_are_not_lost() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&policy(LOCAL, &[("a.test", "allow")]), &names());
    let authority = format!("a.test:{}", origin.port());
    let mut client = Client::connect(proxy.http());
    client.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\nearly"));
    assert_eq!(client.answer_to("CONNECT").status, 200);
    assert_eq!(client.bytes(5), b"early");
}

#[test]
fn large_transfers_arrive_whole_in_both_directions() {
    let origin = Origin::echo();
    let proxy = Proxy::start(&policy(LOCAL, &[("a.test", "allow")]), &names());
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.tunnel(&format!("a.test:{}", origin.port())).status, 200);
    let sent: Vec<u8> = (0..8_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let copy = sent.clone();
    let received = std::thread::scope(|scope| {
        let (mut reader, mut writer) = client.into_halves();
        scope.spawn(move || {
            writer.write_all(&copy).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).unwrap();
        received
    });
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
}

#[test]
fn a_swap_closes_the_tunnels_that_it_no_longer_allows_and_only_those() {
    let origin = Origin::echo();
    let both = policy(LOCAL, &[("a.test", "allow"), ("b.test", "allow")]);
    let proxy = Proxy::start(&both, &names());
    let open = |name: &str| {
        let mut client = Client::connect(proxy.http());
        assert_eq!(client.tunnel(&format!("{name}:{}", origin.port())).status, 200);
        client
    };
    let (mut a, mut b) = (open("a.test"), open("b.test"));
    let mut c = Client::connect(proxy.socks5());
    assert_eq!(c.socks5_name("b.test", origin.port()), Some(0));
    proxy.swap(&policy(LOCAL, &[("a.test", "allow")]));
    assert_eq!((b.rest(), c.rest()), (Vec::new(), Vec::new()), "closed by the proxy");
    assert_eq!(a.send("still").bytes(5), b"still");
    // The address counts too, not only the name.
    proxy.swap(&policy("", &[("a.test", "allow")]));
    assert_eq!(a.rest(), Vec::<u8>::new());
}

#[test]
fn a_swap_to_limited_mode_closes_every_tunnel_those_of_upgrades_too() {
    let origin = Origin::http(|_, stream| {
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
        let mut echo = stream.try_clone().unwrap();
        let _ = std::io::copy(stream, &mut echo);
        false
    });
    let proxy = Proxy::start(&policy(LOCAL, &[("a.test", "allow")]), &names());
    let authority = format!("a.test:{}", origin.port());
    let mut upgraded = Client::connect(proxy.http());
    upgraded.send(format!("GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"));
    assert_eq!(upgraded.answer().status, 101);
    assert_eq!(upgraded.send("ping").bytes(4), b"ping");
    let mut tunnel = Client::connect(proxy.http());
    assert_eq!(tunnel.tunnel(&authority).status, 200);
    proxy.swap(&policy(&format!("{LOCAL}\nmode = \"limited\""), &[("a.test", "allow")]));
    assert_eq!((upgraded.rest(), tunnel.rest()), (Vec::new(), Vec::new()));
}

#[test]
fn a_stop_lets_open_exchanges_finish_and_takes_no_new_ones() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let (reached, reach) = std::sync::mpsc::channel();
    let origin = Origin::http(move |_, stream| {
        reached.send(()).unwrap();
        released.lock().unwrap().recv().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").is_ok()
    });
    let proxy = Proxy::start(&policy(LOCAL, &[("a.test", "allow")]), &names());
    let mut client = Client::connect(proxy.http());
    let authority = format!("a.test:{}", origin.port());
    client.send(format!("GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
    reach.recv_timeout(harness::PATIENCE).unwrap();
    let mut idle = Client::connect(proxy.http());
    proxy.ask_to_stop();
    assert_eq!(idle.rest(), Vec::<u8>::new(), "an idle connection ends at once");
    harness::wait_until("the listener is closed", || std::net::TcpStream::connect(proxy.http()).is_err());
    release.send(()).unwrap();
    assert_eq!(client.answer().text(), "done");
    proxy.join();
}
