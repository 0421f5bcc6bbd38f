//! Rules with methods, paths and reasons; hooks; and settings that the data plane cannot honour: nothing of it is let pass.

use harness::{Client, Names, Origin, Proxy, binaries, policy};
use std::process::Command;

/// The verdict on a plain request, and what it says.
fn plain(proxy: &Proxy, method: &str, url: &str) -> (String, String) {
    let host = url.trim_start_matches("http://").split('/').next().unwrap();
    let answer = Client::connect(proxy.http())
        .send(format!("{method} {url} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"))
        .answer_to(method);
    match answer.status {
        299 => ("ok".into(), String::new()),
        403 => (answer.blocked_reason(), answer.json()["message"].as_str().unwrap_or_default().to_owned()),
        status => (status.to_string(), answer.text()),
    }
}

#[test]
fn methods_and_paths_are_enforced_on_what_can_be_read() {
    let origin = Origin::start();
    let port = origin.port();
    let names = Names::new(&[("api.test", &["127.0.0.1"]), ("wide.test", &["127.0.0.1"])]);
    let domains = "\"api.test\" = { access = \"allow\", methods = [\"GET\", \"POST\"], paths = [\"/v1/\"] }\n\
                   \"wide.test\" = \"allow\"\n\
                   \"wide.test:1\" = \"allow\"\n\
                   \"**.wide.test\" = { access = \"deny\", methods = [\"DELETE\"], paths = [\"/admin\"], reason = \"ask the platform team\" }\n";
    let proxy = Proxy::start(&(policy("allow_local_binding = true", &[]) + domains), &names);
    let cases = [
        ("GET", "api.test", "/v1/x?y=/../z", "ok"),
        ("POST", "api.test", "/v1/x", "ok"),
        ("PUT", "api.test", "/v1/x", "not_allowed"),
        ("GET", "api.test", "/v2/x", "not_allowed"),
        ("GET", "api.test", "/v1/../v2/x", "not_allowed"),
        ("GET", "api.test", "/v1/%2e%2e/v2", "not_allowed"),
        ("GET", "wide.test", "/admin", "ok"),
        ("DELETE", "wide.test", "/x", "ok"),
        ("DELETE", "wide.test", "/admin/x", "denied"),
        ("DELETE", "wide.test", "/x/..%2fadmin", "denied"),
    ];
    for (method, host, path, expected) in cases {
        assert_eq!(plain(&proxy, method, &format!("http://{host}:{port}{path}")).0, expected, "{method} {host}{path}");
    }
    let (_, message) = plain(&proxy, "DELETE", &format!("http://wide.test:{port}/admin"));
    assert!(message.ends_with("(ask the platform team)") && !message.contains("/admin"), "{message}");
    // What might be denied in a tunnel is not let pass unread.
    for host in ["api.test", "wide.test"] {
        let mut client = Client::connect(proxy.http());
        assert_eq!(client.tunnel(&format!("{host}:{port}")).status, 200, "{host}");
        assert!(client.send(format!("GET /v1/x HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n")).rest().is_empty(), "{host}");
        let mut client = Client::connect(proxy.socks5());
        assert_eq!(client.socks5_name(host, port), Some(0), "{host}");
        assert!(client.send("SSH-2.0-x\r\n").rest().is_empty(), "{host}");
    }
}

#[test]
fn what_has_to_be_opened_does_not_go_on_unread() {
    let origin = Origin::start();
    let port = origin.port();
    let names = Names::new(&[("hooked.test", &["127.0.0.1"]), ("other.test", &["127.0.0.1"])]);
    let allowed = [("hooked.test", "allow"), ("other.test", "allow")];
    let hook = "[permissions.workspace.network.mitm.hooks.h]\nhost = \"hooked.test\"\nmethods = [\"GET\"]\npath_prefixes = [\"/\"]\naction = [\"a\"]\n\
                [permissions.workspace.network.mitm.actions.a]\nstrip_request_headers = [\"authorization\"]\n";
    let proxy = Proxy::start(&(policy("allow_local_binding = true", &allowed) + hook), &names);
    assert_eq!(plain(&proxy, "GET", &format!("http://hooked.test:{port}/")).0, "mitm_required");
    // What goes on in a tunnel is read, or the tunnel ends.
    let unread = |proxy: &Proxy, host: &str| {
        let mut client = Client::connect(proxy.http());
        assert_eq!(client.tunnel(&format!("{host}:{port}")).status, 200);
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n")).try_answer("GET").map(|answer| answer.status).ok()
    };
    assert_eq!((unread(&proxy, "hooked.test"), unread(&proxy, "other.test")), (None, Some(299)));
    // Every tunnel, where the policy wants to see into every one.
    let always = "[permissions.workspace.network.mitm]\nmode = \"always\"\n";
    let proxy = Proxy::start(&(policy("allow_local_binding = true", &allowed) + always), &names);
    assert_eq!(plain(&proxy, "GET", &format!("http://other.test:{port}/")).0, "ok");
    assert_eq!(unread(&proxy, "other.test"), None);
}

/// Runs `netproxy-dp` on a policy that it does not start with.
fn refused(settings: &str, flags: &[&str]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.bin");
    binaries::compile_to(&policy(settings, &[("a.test", "allow")]), &file);
    let output = Command::new(binaries::path("netproxy-dp")).arg("--policy").arg(&file).args(flags).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_policy_that_cannot_be_honoured_is_refused_with_the_reason() {
    // A listener that other machines reach would be a bridge to the sockets.
    let sockets = "unix_sockets = { \"/run/x.sock\" = \"allow\" }\ndangerously_allow_non_loopback_proxy = true";
    let (code, said) = refused(sockets, &["--http-listen", "0.0.0.0:0"]);
    assert!(code == Some(2) && said.contains("the policy opens unix sockets: use a loopback address"), "{said}");
}

#[test]
fn read_only_rules_let_socks5_to_no_port_but_that_of_https() {
    let origin = Origin::start();
    let names = Names::new(&[("read.test", &["127.0.0.1"])]);
    let proxy = Proxy::start(&policy("allow_local_binding = true", &[("read.test", "read-only")]), &names);
    for port in [80, 2222, origin.port()] {
        assert_eq!(Client::connect(proxy.socks5()).socks5_name("read.test", port), Some(2), "{port}");
    }
    let verdicts: Vec<_> = proxy.decisions().into_iter().map(|seen| seen.verdict).collect();
    assert_eq!(verdicts, vec!["mitm_required"; 3]);
    assert_eq!(origin.connections(), 0);
    // By CONNECT, any port may be that of TLS.
    assert_eq!(Client::connect(proxy.http()).tunnel(&format!("read.test:{}", origin.port())).status, 200);
}
