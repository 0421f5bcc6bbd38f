//! Every recorded decision, through the real binaries.

use harness::{Client, DataPlane, Origin, binaries};
use serde_json::Value;
use std::fmt::Write;
use std::net::IpAddr;

/// The recorded port, which is the origin's.
const RECORDED_PORT: &str = "18080";

#[test]
fn agrees_with_every_recorded_decision() {
    let recorded: Value = serde_json::from_str(include_str!("../cases/decisions.json")).unwrap();
    let origin = Origin::start();
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    let lines: String = recorded["names_on_loopback"].as_array().unwrap().iter().fold(String::new(), |mut lines, name| {
        writeln!(lines, "127.0.0.1 {}", name.as_str().unwrap()).unwrap();
        lines
    });
    std::fs::write(&hosts, lines).unwrap();

    let (mut ran, mut wrong) = (0, Vec::new());
    for scenario in recorded["scenarios"].as_array().unwrap() {
        let name = scenario["name"].as_str().unwrap();
        let policy = dir.path().join(format!("{name}.bin"));
        binaries::compile_to(scenario["config_toml"].as_str().unwrap(), &policy);
        let proxy = DataPlane::start(&["--policy", policy.to_str().unwrap(), "--hosts", hosts.to_str().unwrap()]);
        for case in scenario["cases"].as_array().unwrap() {
            let expected: Vec<&str> = case["expect"].as_array().unwrap().iter().map(|verdict| verdict.as_str().unwrap()).collect();
            let found = run(case, &proxy, &origin);
            if !expected.contains(&found.as_str()) {
                wrong.push(format!("{name}: {}: found `{found}`, expected one of {expected:?}", case["name"].as_str().unwrap()));
            }
            ran += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {ran} decisions differ:\n{}", wrong.len(), wrong.join("\n"));
    eprintln!("{ran} recorded decisions ran");
    assert_eq!(ran, 732, "recorded decisions went missing");
}

fn run(case: &Value, proxy: &DataPlane, origin: &Origin) -> String {
    let text = |key: &str| case[key].as_str().unwrap_or_default().replace(RECORDED_PORT, &origin.port().to_string());
    let port = || match u16::try_from(case["port"].as_u64().unwrap()).unwrap() {
        18080 => origin.port(),
        other => other,
    };
    match case["kind"].as_str().unwrap() {
        "http" => {
            let method = text("method");
            let extra: String =
                case["headers"].as_array().into_iter().flatten().map(|line| format!("{}\r\n", line.as_str().unwrap())).collect();
            let request = format!("{method} {} HTTP/1.1\r\nHost: {}\r\n{extra}\r\n", text("target"), text("host"));
            verdict(&Client::connect(proxy.http()).send(request).answer_to(&method), &method)
        }
        "connect" => {
            let authority = text("authority");
            let mut client = Client::connect(proxy.http());
            let answer = client.tunnel(&authority);
            if answer.status != 200 {
                return verdict(&answer, "CONNECT");
            }
            if !authority.ends_with(&format!(":{}", origin.port())) {
                return "tls".into();
            }
            let inner = client.send(format!("GET /ok HTTP/1.1\r\nHost: {authority}\r\n\r\n")).try_answer("GET");
            inner.map_or_else(|_| "fail".into(), |answer| verdict(&answer, "GET"))
        }
        kind => {
            let Some(socks5) = proxy.socks5() else { return "off".into() };
            let mut client = Client::connect(socks5);
            let reply = match kind {
                "socks" => client.socks5_name(&text("host"), port()),
                _ => match text("ip").parse().unwrap() {
                    IpAddr::V4(ip) => client.socks5(1, &ip.octets(), port()),
                    IpAddr::V6(ip) => client.socks5(4, &ip.octets(), port()),
                },
            };
            match reply {
                Some(0) => "ok".into(),
                Some(2) => "block".into(),
                _ => "fail".into(),
            }
        }
    }
}

fn verdict(answer: &harness::Answer, method: &str) -> String {
    match answer.status {
        299 => "ok".into(),
        400 => "bad".into(),
        403 => {
            let error = answer.header("x-proxy-error").unwrap_or_default();
            // A HEAD reply has no body, and a tunnel's is a line of text.
            if answer.header("content-type") == Some("application/json") && method != "HEAD" {
                format!("block {error} {}", answer.blocked_reason())
            } else {
                format!("block {error}")
            }
        }
        502 | 504 => "fail".into(),
        other => format!("status {other}"),
    }
}
