//! Names: when they are looked up, and which addresses are dialled.

use harness::{Client, Names, Origin, Proxy, client::get, policy};

fn reason(proxy: &Proxy, url: &str) -> String {
    let answer = get(proxy.http(), url);
    match answer.status {
        403 => answer.blocked_reason(),
        299 => "ok".into(),
        status => format!("{status} {}", answer.header("x-proxy-error").unwrap_or_default()),
    }
}

#[test]
fn a_name_that_is_not_allowed_is_never_looked_up() {
    let names = Names::new(&[("a.test", &["127.0.0.1"])]);
    let proxy = Proxy::start(&policy("", &[("a.test", "allow"), ("evil.test", "deny")]), &names);
    for url in ["http://b.test/", "http://evil.test/", "http://127.1/", "http://localhost/", "http://2130706433/"] {
        assert_eq!(get(proxy.http(), url).status, 403, "{url}");
    }
    let _ = Client::connect(proxy.http()).tunnel("secret-data.attacker.test:443");
    let _ = Client::connect(proxy.socks5()).socks5_name("secret-data.attacker.test", 443);
    assert_eq!(names.asked(), Vec::<String>::new());
    assert_eq!(reason(&proxy, "http://A.test./"), "not_allowed_local");
    assert_eq!(names.asked(), ["a.test"]);
}

#[test]
fn addresses_are_decided_on_before_they_are_dialled() {
    let origin = Origin::start();
    let port = origin.port();
    let names = Names::new(&[
        ("loopback.test", &["127.0.0.1"]),
        ("mixed.test", &["93.184.216.34", "127.0.0.1"]),
        ("mapped.test", &["::ffff:127.0.0.1"]),
        ("metadata.test", &["169.254.169.254"]),
        ("denied.test", &["198.51.100.9"]),
        ("empty.test", &[]),
    ]);
    let allowed = ["loopback.test", "mixed.test", "mapped.test", "metadata.test", "denied.test", "empty.test", "missing.test"];
    let mut domains: Vec<(&str, &str)> = allowed.iter().map(|name| (*name, "allow")).collect();
    domains.push(("198.51.100.0/24", "deny"));
    let closed = Proxy::start(&policy("", &domains), &names);
    let own = format!("127.0.0.1:{port}");
    let mut opening = domains.clone();
    opening.push((&own, "allow"));
    let opened = Proxy::start(&policy("", &opening), &names);
    let local = Proxy::start(&policy("allow_local_binding = true", &domains), &names);
    let cases = [
        ("loopback.test", "not_allowed_local", "ok", "ok"),
        ("mixed.test", "not_allowed_local", "", ""),
        ("mapped.test", "not_allowed_local", "not_allowed_local", "ok"),
        ("metadata.test", "not_allowed_local", "not_allowed_local", "not_allowed_local"),
        ("denied.test", "denied", "denied", "denied"),
        ("empty.test", "502 upstream-name-not-resolved", "502 upstream-name-not-resolved", "502 upstream-name-not-resolved"),
        ("missing.test", "502 upstream-name-not-resolved", "502 upstream-name-not-resolved", "502 upstream-name-not-resolved"),
    ];
    for (name, when_closed, when_opened, when_local) in cases {
        for (proxy, expected) in [(&closed, when_closed), (&opened, when_opened), (&local, when_local)] {
            if !expected.is_empty() {
                assert_eq!(reason(proxy, &format!("http://{name}:{port}/")), expected, "{name}");
            }
        }
    }
    assert_eq!(origin.connections(), 3, "only what was allowed was dialled");
}

/// So many addresses of loopback at which nobody listens, and then another one.
fn many(count: usize, last: &str) -> Vec<String> {
    (0..count).map(|n| format!("127.1.{}.{}", n / 250, n % 250 + 1)).chain([last.to_owned()]).collect()
}

#[test]
fn every_address_is_decided_on_and_only_as_many_are_dialled_as_the_limit_says() {
    let origin = Origin::start();
    let lists = [many(16, "127.0.0.1"), many(16, "10.0.0.1"), many(255, "198.51.100.9"), many(255, "127.0.0.1"), many(256, "127.0.0.1")];
    let lists: Vec<Vec<&str>> = lists.iter().map(|list| list.iter().map(String::as_str).collect()).collect();
    let [last, private, denied, most, too_many] = &lists[..] else { panic!() };
    let names = Names::new(&[
        ("last.test", last),
        ("private.test", private),
        ("denied.test", denied),
        ("most.test", most),
        ("too-many.test", too_many),
    ]);
    let domains = [("**.test", "allow"), ("127.0.0.0/8", "allow"), ("198.51.100.0/24", "deny")];
    let cases = [
        ("last.test", "addresses=16", "502 upstream-refused"),
        ("last.test", "addresses=17", "ok"),
        ("private.test", "addresses=16", "not_allowed_local"),
        ("private.test", "addresses=1", "not_allowed_local"),
        ("denied.test", "addresses=1", "denied"),
        ("most.test", "addresses=1", "502 upstream-refused"),
        ("most.test", "addresses=256", "ok"),
        ("too-many.test", "addresses=1", "502 upstream-name-server-failed"),
        ("too-many.test", "addresses=256", "502 upstream-name-server-failed"),
    ];
    for (name, limit, expected) in cases {
        let proxy = Proxy::with_limits(&policy("", &domains), &names, &[limit]);
        assert_eq!(reason(&proxy, &format!("http://{name}:{}/", origin.port())), expected, "{name} {limit}");
    }
}

#[test]
fn localhost_is_loopback_and_nobody_is_asked() {
    let origin = Origin::start();
    let names = Names::new(&[("localhost", &["93.184.216.34"])]);
    let proxy = Proxy::start(&policy("", &[(&format!("localhost:{}", origin.port()), "allow")]), &names);
    assert_eq!(reason(&proxy, &format!("http://localhost:{}/", origin.port())), "ok");
    assert_eq!(reason(&proxy, "http://localhost:1/"), "not_allowed_local");
    assert_eq!(names.asked(), Vec::<String>::new());
}

#[test]
fn a_name_that_moves_is_decided_on_again() {
    // Each request asks anew and is decided on what it was told: there is no answer that outlives its check.
    let origin = Origin::start();
    let names = Names::new(&[("rebind.test", &["127.0.0.1"])]);
    let proxy = Proxy::start(&policy("", &[("rebind.test", "allow"), (&format!("127.0.0.1:{}", origin.port()), "allow")]), &names);
    assert_eq!(reason(&proxy, &format!("http://rebind.test:{}/", origin.port())), "ok");
    assert_eq!(reason(&proxy, "http://rebind.test:1/"), "not_allowed_local");
    assert_eq!(names.asked().len(), 2);
}

#[test]
fn nobody_reaches_the_proxys_own_listeners_through_it() {
    let names = Names::default();
    let proxy = Proxy::start(
        &policy("allow_local_binding = true", &[("localhost", "allow"), ("127.0.0.1", "allow"), ("0.0.0.0", "allow")]),
        &names,
    );
    for host in ["localhost", "127.0.0.1", "0.0.0.0"] {
        for address in [proxy.admin(), proxy.http(), proxy.socks5()] {
            assert_eq!(reason(&proxy, &format!("http://{host}:{}/health", address.port())), "policy_denied", "{host} {address}");
        }
    }
}

#[test]
fn a_metadata_service_is_opened_by_its_exact_name_only_and_the_reply_says_so() {
    let proxy = Proxy::start(&policy("allow_local_binding = true", &[("*", "allow")]), &Names::default());
    let answer = get(proxy.http(), "http://169.254.169.254/latest/meta-data");
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert_eq!(answer.blocked_reason(), "not_allowed_local");
    assert!(message.ends_with("add \"169.254.169.254\" = \"allow\" under [permissions.workspace.network.domains]"), "{message}");
}
