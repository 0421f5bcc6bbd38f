//! `cases/smuggling.toml`: what goes in byte for byte, what the origin may see of it, and what the client gets.

use harness::{Client, Names, Origin, Proxy, policy};
use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A case: what its keys say, and the bytes that they stand for.
struct Case {
    table: toml::Table,
}

fn cases(kind: &str) -> Vec<Case> {
    let mut table: toml::Table = include_str!("../cases/smuggling.toml").parse().unwrap();
    let Some(toml::Value::Array(cases)) = table.remove(kind) else { panic!("no {kind}") };
    let cases: Vec<_> = cases.into_iter().map(|case| Case { table: case.try_into().unwrap() }).collect();
    let names: BTreeSet<_> = cases.iter().map(|case| case.text("name").to_owned()).collect();
    assert_eq!(names.len(), cases.len(), "a name that two cases have");
    cases
}

impl Case {
    fn text(&self, key: &str) -> &str {
        self.table.get(key).and_then(toml::Value::as_str).unwrap_or_default()
    }

    fn is(&self, key: &str) -> bool {
        self.table.get(key).and_then(toml::Value::as_bool).unwrap_or_default()
    }

    fn bytes(&self, key: &str, port: u16) -> Vec<u8> {
        let text = self.text(key);
        let text = text.replace("{origin}", &format!("a.test:{port}")).replace("{port}", &port.to_string());
        let text = text.replace("{long}", &"x".repeat(4096)).replace("{waste}", &format!("1;{}\r\nx\r\n", "y".repeat(1000)).repeat(40));
        let text = text.replace("{interim}", &"HTTP/1.1 100 Continue\r\n\r\n".repeat(100));
        let text = text.replace("{fields}", &(0..200).map(|n| format!("X-{n}: y\r\n")).collect::<String>());
        let (mut out, mut rest) = (Vec::new(), text.as_str());
        while let Some(at) = rest.find("{x") {
            out.extend(rest[..at].bytes());
            out.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).unwrap());
            rest = rest[at + 4..].strip_prefix('}').unwrap();
        }
        out.extend(rest.bytes());
        out
    }
}

/// The proxy's name, which is random, as the cases write it.
fn without_our_name(bytes: &[u8]) -> String {
    let text: String =
        bytes.iter().map(|byte| if byte.is_ascii() { char::from(*byte).to_string() } else { format!("{{x{byte:02x}}}") }).collect();
    let mut parts = text.split("netproxy-");
    let mut out = parts.next().unwrap().to_owned();
    for part in parts {
        assert!(part[..8].bytes().all(|byte| byte.is_ascii_hexdigit()), "{text:?}");
        out += "{us}";
        out += &part[8..];
    }
    out
}

/// What an origin says without a date gets one at the end of its final head; all dates look alike here.
fn dated(answer: &str) -> String {
    let mut at = 0;
    while answer[at..].starts_with("HTTP/1.1 1") {
        match answer[at..].find("\r\n\r\n") {
            Some(end) => at += end + 4,
            None => return answer.to_owned(),
        }
    }
    match answer[at..].find("\r\n\r\n").map(|end| at + end + 2) {
        Some(end) if !answer[at..end].contains("\r\nDate: ") => format!("{}Date: {{date}}\r\n{}", &answer[..end], &answer[end..]),
        _ => without_date(answer),
    }
}

/// The time that it is, as the cases write it.
fn without_date(text: &str) -> String {
    let Some(at) = text.find("\r\nDate: ").map(|at| at + 8) else { return text.to_owned() };
    match text.get(at..at + DATE.len()) {
        Some(date) if date.ends_with(" GMT") => format!("{}{{date}}{}", &text[..at], &text[at + DATE.len()..]),
        _ => text.to_owned(),
    }
}

/// A date as HTTP writes it.
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn proxy() -> Proxy {
    Proxy::start(&policy("allow_local_binding = true", &[("a.test", "allow")]), &Names::new(&[("a.test", &["127.0.0.1"])]))
}

#[test]
fn an_origin_sees_one_request_to_the_letter_or_none() {
    let (origin, proxy) = (Origin::start(), proxy());
    let request = |path: &str| format!("GET /{path} HTTP/1.1\r\nHost: a.test:{}\r\n\r\n", origin.port());
    let seen = |from: usize| -> Vec<String> {
        let requests = origin.requests();
        requests[from..].iter().map(|request| without_our_name(&[&request.raw_head[..], &request.raw_body].concat())).collect()
    };
    let next = format!("GET /next HTTP/1.1\r\nHost: a.test:{}\r\nVia: 1.1 {{us}}\r\n\r\n", origin.port());
    let (mut wrong, mut before) = (Vec::new(), 0);
    let cases = cases("request");
    for case in &cases {
        let (name, passes) = (case.text("name"), case.table["status"].as_integer() == Some(299));
        let method = if case.text("method").is_empty() { "GET" } else { case.text("method") };
        let mut client = Client::connect(proxy.http());
        client.send(case.bytes("send", origin.port()));
        if !passes {
            // What stands behind a request that was refused is nobody's.
            client.send(request("smuggled"));
        }
        let mut answer = client.answer_to(method);
        while answer.status < 200 {
            answer = client.answer_to(method);
        }
        let mut check = |what: &str, is: String, expected: String| {
            if is != expected {
                wrong.push(format!("{name}: {what}\n   is       {is:?}\n   expected {expected:?}"));
            }
        };
        check("status", answer.status.to_string(), case.table["status"].as_integer().unwrap().to_string());
        if answer.status != 299 {
            check("text", answer.text(), format!("bad request: {}\n", case.text("says")));
            check("behind it", without_our_name(&client.rest()), String::new());
            check("the origin saw", seen(before).concat(), String::new());
        } else if case.is("closed") {
            check("behind it", without_our_name(&client.rest()), String::new());
            check("the origin saw", seen(before).concat(), without_our_name(&case.bytes("origin", origin.port())));
        } else {
            check("the next request", client.send(request("next")).answer().status.to_string(), "299".to_owned());
            check("the origin saw", seen(before).concat(), without_our_name(&case.bytes("origin", origin.port())) + &next);
        }
        before = origin.requests().len();
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(origin.requests().iter().filter(|request| request.first_line.contains("/smuggled")).count(), 0);
}

#[test]
fn a_client_gets_one_response_to_the_letter_or_502() {
    let proxy = proxy();
    let mut wrong = Vec::new();
    let cases = cases("response");
    for case in &cases {
        let (name, bytes, end) = (case.text("name"), case.bytes("send", 0), case.is("end"));
        let method = if case.text("method").is_empty() { "GET" } else { case.text("method") };
        // The first connection says what the case says; what is asked after that gets the number of its connection.
        let (connections, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(0)));
        let origin = Origin::raw(move |stream| {
            let number = connections.fetch_add(1, Ordering::SeqCst);
            let mut writer = stream.try_clone().unwrap();
            let mut reader = std::io::BufReader::new(stream);
            while harness::origin::read_exchange(&mut reader, &mut writer).is_some() {
                let mut asked = asked.lock().unwrap();
                *asked += 1;
                if *asked > 1 {
                    let _ = write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
                    continue;
                }
                let _ = writer.write_all(&bytes);
                if end {
                    let _ = writer.shutdown(std::net::Shutdown::Both);
                    return;
                }
            }
        });
        let mut check = |what: &str, is: String, expected: String| {
            if is != expected {
                wrong.push(format!("{name}: {what}\n   is       {is:?}\n   expected {expected:?}"));
            }
        };
        let request = |method: &str| format!("{method} / HTTP/1.1\r\nHost: a.test:{}\r\n\r\n", origin.port());
        let mut client = Client::connect(proxy.http());
        client.send(request(method));
        if case.text("answer").is_empty() {
            let mut answer = client.answer();
            while answer.status < 200 {
                answer = client.answer();
            }
            check("status", answer.status.to_string(), "502".to_owned());
            check("kind", answer.header("x-proxy-error").unwrap_or_default().to_owned(), "upstream-bad-response".to_owned());
            check("the next response", client.send(request("GET")).answer().text(), "1".to_owned());
            continue;
        }
        let expected = dated(case.text("answer"));
        if case.is("closed") {
            let mut rest = without_date(&without_our_name(&client.rest()));
            if case.is("prefix") {
                rest.truncate(expected.len());
            }
            check("answer", rest, expected);
        } else {
            let len = expected.replace("{us}", "netproxy-01234567").replace("{date}", DATE).len();
            check("answer", without_date(&without_our_name(&client.bytes(len))), expected);
            let number = u8::from(!case.is("reused")).to_string();
            check("the next response", client.send(request("GET")).answer().text(), number);
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
