//! Every case of `tests/cases/hooks.toml`, sent through the real proxy over TLS, as HTTP/1.1 and as HTTP/2.

use harness::http2::{Http2, Http2Origin};
use harness::tls::{Authority, Front, secure, trusting};
use harness::{Answer, Client, DataPlane, Exchange, Origin, binaries};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

/// What origins answer; hooks may take some of it out.
const ANSWER: &[(&str, &str)] = &[("set-cookie", "a=b"), ("x-kept", "1"), ("content-length", "0")];

#[derive(Debug, Clone)]
struct Case {
    policy: String,
    proves: String,
    method: String,
    host: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    status: u16,
    reason: Option<String>,
    at: Option<String>,
    strip: Vec<String>,
    inject: Vec<(String, String)>,
    strip_response: Vec<String>,
}

fn texts(value: &toml::Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

fn table() -> toml::Table {
    include_str!("../cases/hooks.toml").parse().unwrap()
}

fn cases(table: &toml::Table) -> Vec<Case> {
    let read = |case: &toml::Value| {
        let text = |key: &str| case.get(key).map(|value| value.as_str().unwrap().to_owned());
        let list = |key: &str| case.get(key).map(texts).unwrap_or_default();
        let pairs = |key: &str| -> Vec<(String, String)> {
            let pairs = case.get(key).and_then(toml::Value::as_array).into_iter().flatten().map(texts);
            pairs.map(|pair| (pair[0].clone(), pair[1].clone())).collect()
        };
        Case {
            policy: text("policy").unwrap(),
            proves: text("proves").unwrap(),
            method: text("method").unwrap(),
            host: text("host").unwrap(),
            target: text("target").unwrap(),
            headers: pairs("headers"),
            body: text("body"),
            status: u16::try_from(case["status"].as_integer().unwrap()).unwrap(),
            reason: text("reason"),
            at: text("at"),
            strip: list("strip"),
            inject: pairs("inject"),
            strip_response: list("strip_response"),
        }
    };
    table["case"].as_array().unwrap().iter().map(read).collect()
}

/// One proxy for each policy, and one origin for all of them.
struct World {
    authority: Authority,
    proxies: BTreeMap<String, (DataPlane, String)>,
    _folder: tempfile::TempDir,
}

impl World {
    fn new(table: &toml::Table, cases: &[Case]) -> Self {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let hosts: BTreeSet<&str> = cases.iter().map(|case| case.host.as_str()).collect();
        let lines: String = hosts.iter().fold(String::new(), |mut lines, host| {
            writeln!(lines, "127.0.0.1 {host}").unwrap();
            lines
        });
        std::fs::write(folder.path().join("hosts"), lines).unwrap();
        let secrets: Vec<(&str, &str)> =
            table["secrets"].as_table().unwrap().iter().map(|(name, value)| (name.as_str(), value.as_str().unwrap())).collect();
        let policies = table["policy"].as_table().unwrap().iter();
        let proxies = policies
            .map(|(name, toml)| (name.clone(), Self::proxy(folder.path(), name, toml.as_str().unwrap(), &authority, &secrets)))
            .collect();
        Self { authority, proxies, _folder: folder }
    }

    /// A proxy, and the authority that it signs with.
    fn proxy(folder: &Path, name: &str, toml: &str, authority: &Authority, secrets: &[(&str, &str)]) -> (DataPlane, String) {
        let text = |name: String| folder.join(name).to_str().unwrap().to_owned();
        let (policy, state, roots) = (text(format!("{name}.bin")), text(format!("{name}-state")), authority.file());
        binaries::compile_to(toml, Path::new(&policy));
        let mut variables = vec![("SSL_CERT_FILE", roots.to_str().unwrap()), ("NETPROXY_STATE_DIR", state.as_str())];
        variables.extend(secrets);
        let proxy = DataPlane::start_in(&["--policy", &policy, "--hosts", &text("hosts".to_owned())], &variables);
        (proxy, binaries::authority_in(Path::new(&state)))
    }

    fn names(cases: &[Case]) -> Vec<&str> {
        cases.iter().map(|case| case.host.as_str()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The tunnel of a case, with TLS in it; or why there is none.
    fn open(&self, case: &Case, port: u16, protocol: &str) -> Result<harness::tls::Secured, Answer> {
        let (proxy, own) = &self.proxies[&case.policy];
        let mut client = Client::connect(proxy.http());
        let answer = client.tunnel(&format!("{}:{port}", case.host));
        if answer.status != 200 {
            return Err(answer);
        }
        // Only the origin's own certificate is trusted where nobody may look, and only the proxy's elsewhere.
        let trusted = if case.at.as_deref() == Some("opaque") { &self.authority.pem } else { own };
        Ok(secure(client, &case.host, &trusting(trusted, &[protocol])).unwrap_or_else(|error| panic!("{}: {error}", case.proves)))
    }
}

/// What differs from what the case says. `arrived` is what the origin has seen of it.
fn wrong(case: &Case, port: u16, answer: &Answer, arrived: &[Exchange], is_opened: bool) -> Option<String> {
    if answer.status != case.status {
        return Some(format!("status {}: {}", answer.status, answer.text()));
    }
    if is_opened != (case.at.as_deref() != Some("tunnel")) {
        return Some("it was decided elsewhere".to_owned());
    }
    if case.status != 200 {
        return refused(case, port, answer).or_else(|| (!arrived.is_empty()).then(|| format!("it reached the origin: {arrived:?}")));
    }
    let [seen] = arrived else { return Some(format!("the origin saw {} requests", arrived.len())) };
    if !seen.first_line.starts_with(&format!("{} {} HTTP/", case.method, case.target)) {
        return Some(format!("first line {:?}", seen.first_line));
    }
    if seen.header("host") != Some(format!("{}:{port}", case.host).as_str()) || seen.body != case.body.as_deref().unwrap_or("").as_bytes() {
        return Some(format!("host or body: {seen:?}"));
    }
    // Each field as it was sent, but for what is taken out or put in.
    let of = |fields: &[(String, String)], name: &str| -> Vec<String> {
        fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone()).collect()
    };
    let names = case.headers.iter().map(|(name, _)| name).chain(&case.strip).chain(case.inject.iter().map(|(name, _)| name));
    for name in names {
        let expected = match of(&case.inject, name) {
            injected if !injected.is_empty() => injected,
            _ if case.strip.iter().any(|stripped| stripped.eq_ignore_ascii_case(name)) => Vec::new(),
            _ => of(&case.headers, name),
        };
        let found = of(&seen.headers, name);
        if found != expected {
            return Some(format!("`{name}` arrived as {found:?}, expected {expected:?}"));
        }
    }
    ANSWER.iter().find_map(|(name, value)| {
        let expected = (!case.strip_response.iter().any(|stripped| stripped == name)).then_some(*value);
        let found = answer.header(name);
        (found != expected && *name != "content-length").then(|| format!("`{name}` came back as {found:?}, expected {expected:?}"))
    })
}

/// What differs in how the proxy says no.
fn refused(case: &Case, port: u16, answer: &Answer) -> Option<String> {
    let reason = case.reason.as_deref().unwrap();
    let error = match reason {
        "denied" => "blocked-by-denylist",
        "not_allowed" => "blocked-by-allowlist",
        "method_not_allowed" => "blocked-by-method-policy",
        "mitm_required" => "blocked-by-mitm-required",
        "mitm_hook_denied" => "blocked-by-mitm-hook",
        other => panic!("`{other}` is no reason"),
    };
    if answer.header("x-proxy-error") != Some(error) {
        return Some(format!("{answer:?}, expected {error}"));
    }
    if answer.header("content-type") != Some("application/json") {
        // A tunnel is refused in a line of text.
        let says = answer.reason.contains(&format!("({reason})"));
        return (case.at.as_deref() != Some("tunnel") || !says).then(|| format!("{answer:?}, expected {reason}"));
    }
    let json = answer.json();
    let found = (json["reason"].as_str(), json["host"].as_str(), json["port"].as_u64());
    (found != (Some(reason), Some(&case.host), Some(port.into()))).then(|| format!("{json}, expected {reason}"))
}

fn report(failed: &[String], of: usize) {
    assert!(of >= 180, "{of} cases");
    assert!(failed.is_empty(), "{} of {of}:\n{}", failed.len(), failed.join("\n"));
}

fn told(case: &Case, why: &str) -> String {
    format!("{} ({}): {} {}{}\n    {why}", case.proves, case.policy, case.method, case.host, case.target)
}

#[test]
fn every_case_is_as_the_table_says() {
    let table = table();
    let cases = cases(&table);
    let world = World::new(&table, &cases);
    let origin = Origin::http(|_, stream| {
        let fields: String = ANSWER.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        std::io::Write::write_all(stream, format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes()).is_ok()
    });
    let front = Front::of(&origin, world.authority.server(&World::names(&cases), &["http/1.1"]));
    let mut failed = Vec::new();
    for case in &cases {
        let before = origin.requests().len();
        let (answer, is_opened) = match world.open(case, front.port(), "http/1.1") {
            Err(refused) => (refused, false),
            Ok(mut secured) => {
                let mut head = format!("{} {} HTTP/1.1\r\nHost: {}:{}\r\n", case.method, case.target, case.host, front.port());
                for (name, value) in &case.headers {
                    write!(head, "{name}: {value}\r\n").unwrap();
                }
                if let Some(body) = &case.body {
                    write!(head, "Content-Length: {}\r\n", body.len()).unwrap();
                }
                let request = head + "\r\n" + case.body.as_deref().unwrap_or_default();
                (secured.client.send(request).answer_to(&case.method), true)
            }
        };
        failed.extend(wrong(case, front.port(), &answer, &origin.requests()[before..], is_opened).map(|why| told(case, &why)));
    }
    report(&failed, cases.len());
}

#[test]
fn every_case_is_the_same_over_http_2() {
    let table = table();
    let cases = cases(&table);
    let world = World::new(&table, &cases);
    let origin = Http2Origin::start(world.authority.server(&World::names(&cases), &["h2"]), 200, ANSWER);
    let mut failed = Vec::new();
    for case in &cases {
        let before = origin.requests().len();
        let (answer, is_opened) = match world.open(case, origin.port(), "h2") {
            Err(refused) => (refused, false),
            Ok(secured) => {
                let authority = format!("{}:{}", case.host, origin.port());
                let body = case.body.as_ref().map(|body| (body.as_bytes(), &[][..]));
                match Http2::over(secured).ask(&case.method, &authority, &case.target, &case.headers, body) {
                    Ok(answer) => (answer, true),
                    Err(error) => {
                        failed.push(told(case, &error.to_string()));
                        continue;
                    }
                }
            }
        };
        failed.extend(wrong(case, origin.port(), &answer, &origin.requests()[before..], is_opened).map(|why| told(case, &why)));
    }
    report(&failed, cases.len());
}
