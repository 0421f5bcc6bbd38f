//! `GET /ui` as a browser without JavaScript has it, and `GET /v1/overview`. `tests/clients/dashboard` has the browser.

use harness::{Answer, Client, Names, Origin, Proxy, policy};

fn ask(proxy: &Proxy, line: &str, fields: &str) -> Answer {
    Client::connect(proxy.admin()).send(format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).answer()
}

#[test]
fn the_page_has_what_happened_and_loads_only_its_own_files() {
    let echo = Origin::echo();
    let names = Names::new(&[("a.test", &["127.0.0.1"])]);
    let proxy = Proxy::start(&policy("allow_local_binding = true", &[("a.test", "allow"), ("evil.test", "deny")]), &names);
    let mut client = Client::connect(proxy.http());
    for host in ["other.test", "other.test", "evil.test"] {
        let request = format!("GET /where?secret=query HTTP/1.1\r\nHost: {host}\r\nX-Secret: field\r\n\r\n");
        assert_eq!(client.send(request).answer().status, 403);
    }
    let mut tunnel = Client::connect(proxy.http());
    assert_eq!(tunnel.tunnel(&format!("a.test:{}", echo.port())).status, 200);

    // At once: whoever was just blocked looks here, and does not wait for the next second.
    let answer = ask(&proxy, "GET /ui", "");
    assert_eq!(
        (answer.status, answer.header("content-type"), answer.header("cache-control")),
        (200, Some("text/html; charset=utf-8"), Some("no-store"))
    );
    let loads = answer.header("content-security-policy").unwrap();
    for part in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ] {
        assert!(loads.split("; ").any(|found| found == part), "{part}: {loads}");
    }
    let page = answer.text();
    for part in [
        "other.test:80</th><td class=\"number\" role=\"cell\" data-label=\"Count\">2<",
        "data-act=\"copy\"",
        "&quot;other.test&quot; = &quot;allow&quot;",
        "no rule allows it",
        "evil.test",
        "denied by a rule",
        "a.test:",
        "data-act=\"close\"",
        "data-access=\"write\"",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("secret") && !page.contains("/where"), "paths, queries and fields are nowhere: {page}");
    for (path, kind) in
        [("/ui/app.js", "text/javascript; charset=utf-8"), ("/ui/app.css", "text/css; charset=utf-8"), ("/ui/icon.svg", "image/svg+xml")]
    {
        let file = ask(&proxy, &format!("GET {path}"), "");
        assert_eq!(
            (file.status, file.header("content-type"), file.header("x-content-type-options")),
            (200, Some(kind), Some("nosniff")),
            "{path}"
        );
        assert!(page.contains(&format!("\"{path}\"")), "{path}");
    }

    let overview = ask(&proxy, "GET /v1/overview", "").json();
    assert_eq!(overview["blocked"][0]["count"], 2);
    assert_eq!(overview["blocked"][0]["last"]["host"], "other.test");
    assert_eq!(overview["blocked"][0]["last"]["change"]["toml"], "\"other.test\" = \"allow\"");
    assert_eq!(overview["series"]["step_ms"], 1_000);
    drop(tunnel);
}

/// However often somebody asks, and whoever else counts each second.
#[test]
fn what_was_blocked_is_shown_at_once_and_counted_once() {
    let proxy = Proxy::start(&policy("", &[]), &Names::new(&[]));
    let shown = || {
        let overview = ask(&proxy, "GET /v1/overview", "").json();
        let first = &overview["blocked"][0];
        (first["count"].as_u64(), first["last"]["change"]["toml"].as_str().map(str::to_owned), overview["not_counted"].as_u64())
    };
    let line = Some("\"other.test\" = \"allow\"".to_owned());
    for count in 1..=20 {
        let blocked = Client::connect(proxy.http()).send("GET / HTTP/1.1\r\nHost: other.test\r\n\r\n").answer();
        assert_eq!(blocked.status, 403);
        assert_eq!(shown(), (Some(count), line.clone(), Some(0)));
    }
    assert_eq!(shown(), (Some(20), line, Some(0)));
    let drained = ask(&proxy, "POST /v1/blocked/drain", "Content-Length: 0\r\n").json();
    assert_eq!(drained["drained"], 20);
    assert_eq!(shown(), (None, None, Some(0)), "what was taken out is not missing");
}

#[test]
fn it_is_read_only_by_what_may_read_it() {
    let proxy = Proxy::start(&policy("", &[]), &Names::new(&[]));
    for (line, fields, status) in [
        ("GET /ui", "", 200),
        ("HEAD /ui", "", 200),
        ("GET /ui?refresh=10", "", 200),
        ("GET /ui?", "", 200),
        ("GET /ui?x=1", "", 400),
        ("GET /ui?refresh=x", "", 400),
        ("GET /ui?refresh=", "", 400),
        ("GET /ui?refresh=4", "", 400),
        ("GET /ui?refresh=3601", "", 400),
        ("GET /ui?refresh=10&refresh=10", "", 400),
        ("GET /ui?refresh=%zz", "", 400),
        ("GET /v1/ui?x=1", "", 400),
        ("GET /ui/app.js?x=1", "", 400),
        ("POST /ui", "Content-Length: 0\r\n", 405),
        ("GET /v1/ui", "", 308),
        ("HEAD /v1/ui", "", 308),
        ("POST /v1/ui", "Content-Length: 0\r\n", 405),
        ("GET /v1/ui", "Origin: http://attacker.test\r\n", 403),
        ("GET /ui/", "", 404),
        ("GET /ui/app.js.map", "", 404),
        ("GET /ui/../health", "", 404),
        ("GET /ui", "Origin: http://attacker.test\r\n", 403),
        ("GET /ui/app.js", "Sec-Fetch-Site: cross-site\r\n", 403),
    ] {
        let mut client = Client::connect(proxy.admin());
        let answer = client.send(format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")).answer_to(line.split(' ').next().unwrap());
        assert_eq!(answer.status, status, "{line} {fields}");
    }
    for (asked, there) in [("/v1/ui", "/ui"), ("/v1/ui?refresh=10", "/ui?refresh=10")] {
        assert_eq!(ask(&proxy, &format!("GET {asked}"), "").header("location"), Some(there));
    }
    let rebound = Client::connect(proxy.admin()).send("GET /ui HTTP/1.1\r\nHost: attacker.test\r\n\r\n").answer();
    assert_eq!(rebound.status, 403);
    assert!(ask(&proxy, "GET /ui?refresh=10", "").text().contains(r#"<noscript><meta http-equiv="refresh" content="10"></noscript>"#));
}
