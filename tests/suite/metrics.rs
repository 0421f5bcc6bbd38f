//! What is counted: one of everything, and every sample that moved.

use harness::{Client, Names, Origin, Proxy, policy, wait_until};
use std::collections::BTreeMap;
use std::net::TcpListener;

#[test]
fn every_event_is_counted_once_where_it_belongs() {
    let (origin, echo) = (Origin::start(), Origin::echo());
    let names = Names::new(&[("a.test", &["127.0.0.1"]), ("evil.test", &["127.0.0.1"])]);
    let both = |evil: &str| policy("allow_local_binding = true", &[("a.test", "allow"), ("evil.test", evil)]);
    let proxy = Proxy::start(&both("allow"), &names);
    let authority = format!("a.test:{}", origin.port());

    let mut client = Client::connect(proxy.http());
    assert_eq!(client.send(format!("GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n")).answer().status, 299);
    let chunked = "Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n";
    assert_eq!(client.send(format!("POST / HTTP/1.1\r\nHost: {authority}\r\n{chunked}")).answer().status, 299);
    assert_eq!(client.send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n").answer().status, 403);
    assert_eq!(client.send("GET / HTTP/1.1\r\n\r\n").answer().status, 400);

    let mut tunnel = Client::connect(proxy.http());
    assert_eq!(tunnel.tunnel(&format!("evil.test:{}", echo.port())).status, 200);
    assert_eq!(tunnel.send("seven b").bytes(7), b"seven b");

    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(Client::connect(proxy.socks5()).socks5_name("a.test", refusing), Some(5));
    assert_eq!(Client::connect(proxy.socks5()).socks5(9, b"", 0), Some(8));

    let open = |proxy: &Proxy| (proxy.metrics().get("netproxy_tunnels_open"), proxy.metrics().get("netproxy_connections_open"));
    drop(client);
    wait_until("only the tunnel is open", || open(&proxy) == (1, 1));
    proxy.swap(&both("deny"));
    assert_eq!(tunnel.rest(), Vec::<u8>::new());
    wait_until("nothing is open", || open(&proxy) == (0, 0));

    let moved: BTreeMap<String, u64> = proxy.metrics().0.into_iter().filter(|(_, value)| *value > 0).collect();
    let expected = [
        (r#"netproxy_bad_requests_total{protocol="http"}"#, 1),
        (r#"netproxy_bad_requests_total{protocol="socks5"}"#, 1),
        // The body of an answer has six bytes; chunks' framing counts for nothing.
        (r#"netproxy_bytes_total{direction="down"}"#, 6 + 6 + 7),
        (r#"netproxy_bytes_total{direction="up"}"#, 5 + 7),
        (r#"netproxy_connections_total{listener="http"}"#, 2),
        (r#"netproxy_connections_total{listener="socks5"}"#, 2),
        (r#"netproxy_decisions_total{decision="allow"}"#, 4),
        (r#"netproxy_decisions_total{decision="deny",reason="not_allowed"}"#, 1),
        ("netproxy_policy_generation", 2),
        ("netproxy_policy_rules", 2),
        (r#"netproxy_requests_total{protocol="connect"}"#, 1),
        (r#"netproxy_requests_total{protocol="http"}"#, 3),
        (r#"netproxy_requests_total{protocol="socks5"}"#, 1),
        ("netproxy_tunnels_revoked_total", 1),
        ("netproxy_tunnels_total", 1),
        (r#"netproxy_upstream_connections_total{how="opened"}"#, 2),
        (r#"netproxy_upstream_connections_total{how="reused"}"#, 1),
        (r#"netproxy_upstream_failures_total{error="upstream-refused"}"#, 1),
    ];
    assert_eq!(moved, expected.map(|(sample, value)| (sample.to_owned(), value)).into());
}
