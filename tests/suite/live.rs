//! The tunnels that are open: how they are listed, and closed.

use harness::{Client, Names, Origin, Proxy, policy, wait_until};
use netproxy::{Ending, Tunnel};
use policy_format::Protocol;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const LOCAL: &str = "allow_local_binding = true";

fn start() -> (Proxy, Origin) {
    let names = Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])]);
    (Proxy::start(&policy(LOCAL, &[("a.test", "allow"), ("b.test", "allow")]), &names), Origin::echo())
}

fn open(proxy: &Proxy, host: &str, port: u16) -> Client {
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.tunnel(&format!("{host}:{port}")).status, 200);
    assert_eq!(client.send("ping").bytes(4), b"ping");
    client
}

fn listed(proxy: &Proxy) -> Vec<Tunnel> {
    proxy.handle().tunnels(0, 1000)
}

#[test]
fn a_tunnel_is_listed_with_what_is_known_of_it() {
    let (proxy, origin) = start();
    let before = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let mut client = open(&proxy, "a.test", origin.port());
    let mut socks = Client::connect(proxy.socks5());
    assert_eq!(socks.socks5_name("b.test", origin.port()), Some(0));
    wait_until("both are listed", || proxy.handle().tunnel_count() == 2);
    let decided = proxy.decisions();
    let row = listed(&proxy).into_iter().find(|row| row.id == decided[0].id).unwrap();
    assert_eq!((row.host.as_str(), row.port, row.protocol, row.generation), ("a.test", origin.port(), Protocol::Connect, 1));
    assert_eq!((row.up, row.down), (4, 4));
    assert!(row.client.ip().is_loopback() && row.client.port() != 0);
    let after = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    assert!((before.saturating_sub(5)..=after + 5).contains(&row.opened), "{before} {} {after}", row.opened);
    let row = listed(&proxy).into_iter().find(|row| row.id == decided[1].id).unwrap();
    assert_eq!((row.host.as_str(), row.protocol, row.up), ("b.test", Protocol::Socks5Tcp, 0));
    // It goes on under a new policy, and says so.
    proxy.swap(&policy(LOCAL, &[("a.test", "allow"), ("b.test", "allow"), ("c.test", "allow")]));
    assert_eq!(client.send("more").bytes(4), b"more");
    wait_until("the new policy lets it go on", || listed(&proxy).iter().all(|row| row.generation == 2));
    drop((client, socks));
    wait_until("none is left", || proxy.handle().tunnel_count() == 0);
    assert!(listed(&proxy).is_empty());
}

#[test]
fn pages_follow_one_another() {
    let (proxy, origin) = start();
    let clients: Vec<Client> = (0..25).map(|_| open(&proxy, "a.test", origin.port())).collect();
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let page = proxy.handle().tunnels(after, 7);
        let Some(last) = page.last() else { break };
        after = last.id;
        seen.extend(page.iter().map(|row| row.id));
    }
    let mut ids: Vec<u64> = proxy.decisions().iter().map(|seen| seen.id).collect();
    ids.sort_unstable();
    assert_eq!(seen, ids);
    assert_eq!(proxy.metrics().get("netproxy_tunnels_open"), 25);
    drop(clients);
}

#[test]
fn the_one_that_is_meant_is_closed_and_no_other() {
    let (proxy, origin) = start();
    let (mut one, mut other) = (open(&proxy, "a.test", origin.port()), open(&proxy, "a.test", origin.port()));
    let id = proxy.decisions()[0].id;
    assert!(!proxy.handle().close_tunnel(id + 1_000_000));
    assert!(proxy.handle().close_tunnel(id));
    assert!(one.rest().is_empty());
    assert_eq!(other.send("still").bytes(5), b"still");
    assert_eq!((proxy.ends(1)[0].id, proxy.ends(1)[0].ending), (id, Ending::Closed));
    assert!(!proxy.handle().close_tunnel(id), "it is no more");
    // It was nobody's fault but the operator's: no decision was taken.
    assert_eq!((proxy.decisions().len(), proxy.revoked().len()), (2, 0));
}

#[test]
fn one_that_requests_in_the_clear_are_read_out_of_is_listed_and_closed_too() {
    // Requests in the clear are read out of tunnels to port 80: nobody here listens there, so that each asks for another.
    let (proxy, origin) = start();
    let upgrading = Origin::http(|_, stream| {
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
        let mut echo = stream.try_clone().unwrap();
        let _ = std::io::copy(stream, &mut echo);
        false
    });
    let at = format!("a.test:{}", upgrading.port());
    let mut client = Client::connect(proxy.http());
    client.send(format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"));
    assert_eq!(client.answer().status, 101);
    assert_eq!(client.send("ping").bytes(4), b"ping");
    let rows = listed(&proxy);
    assert_eq!((rows.len(), rows[0].protocol, rows[0].host.as_str(), rows[0].up), (1, Protocol::Http, "a.test", 4));
    assert!(proxy.handle().close_tunnel(rows[0].id));
    assert!(client.rest().is_empty());
    assert_eq!(proxy.ends(1)[0].ending, Ending::Closed);
    drop(origin);
}
