//! `netpolicy replay`: which past decisions a new policy would change, and of which that cannot be told.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::profiles::Profile;
use policy_compiler::replay::{Options, Replay, Replayer, Time, Unknown};
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options as Compiling, compile};
use policy_format::{Blob, Layer};
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Output};

fn policy(text: &str) -> Blob<Vec<u8>> {
    policy_under("", text)
}

fn policy_under(requirements: &str, text: &str) -> Blob<Vec<u8>> {
    let text = format!("default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\n{text}");
    let managed = SourceFile::from_text(Layer::Managed, Role::Requirements, "requirements.toml", requirements.to_owned());
    let source = SourceFile::from_text(Layer::User, Role::Config, "config.toml", text);
    let sources = if requirements.is_empty() { vec![source] } else { vec![managed, source] };
    Blob::open(compile(sources, Compiling::default()).unwrap_or_else(|failure| panic!("{failure}")).blob).unwrap()
}

/// A decision as the proxy logs it, of `PROTOCOL [METHOD] HOST:PORT` and `allow`, or a reason.
fn event(asked: &str, reason: &str) -> Value {
    let words: Vec<&str> = asked.split(' ').collect();
    let (host, port) = words[words.len() - 1].rsplit_once(':').unwrap();
    let source = match reason {
        "method_not_allowed" | "mitm_required" => "mode_guard",
        "proxy_disabled" => "proxy_state",
        _ => "baseline_policy",
    };
    json!({
        "event.name": "codex.network_proxy.policy_decision",
        "event.timestamp": "2026-01-02T03:04:05.678Z",
        "network.policy.scope": "domain",
        "network.policy.decision": if reason == "allow" { "allow" } else { "deny" },
        "network.policy.source": source,
        "network.policy.reason": reason,
        "network.transport.protocol": words[0],
        "server.address": host,
        "server.port": port.parse::<u16>().unwrap(),
        "http.request.method": if words.len() == 3 { words[1] } else { "none" },
        "client.address": "127.0.0.1:4000",
        "network.policy.override": false,
        "network.policy.generation": 2,
    })
}

fn with(mut event: Value, key: &str, value: impl Into<Value>) -> Value {
    event[key] = value.into();
    event
}

/// What an embedding program said of a request.
fn program(asked: &str, decision: &str) -> Value {
    let event = with(event(asked, if decision == "allow" { "not_allowed" } else { "not_approved" }), "network.policy.source", "decider");
    with(with(event, "network.policy.decision", decision), "network.policy.override", decision == "allow")
}

fn log(events: &[Value]) -> String {
    events.iter().map(|event| format!("{event}\n")).collect()
}

fn replay(policy: &Blob<Vec<u8>>, log: &str, options: Options) -> Replay {
    let mut replayer = Replayer::new(Profile::new(policy, policy_format::ProfileId::default()), options);
    replayer.read("audit.jsonl", log.as_bytes()).unwrap();
    replayer.finish()
}

/// What becomes of one decision.
fn outcome(policy: &Blob<Vec<u8>>, event: &Value) -> String {
    let found = replay(policy, &log(std::slice::from_ref(event)), Options::default());
    assert_eq!((found.decisions, found.malformed), (1, 0), "{event}");
    let unknown: Vec<String> = found.unknown.iter().map(|(why, count)| format!("unknown {} {count}", why.as_str())).collect();
    let changes: Vec<String> = found
        .changes
        .iter()
        .map(|change| {
            let new = change.reason.map_or_else(|| "allow".to_owned(), |reason| reason.to_string());
            format!("{} {} {}", if change.opened { "opened" } else { "closed" }, new, change.rule_text().unwrap_or_default())
        })
        .collect();
    let counts = [(found.otherwise, "otherwise"), (found.asked_again, "asked again"), (found.asked_no_more, "asked no more")];
    let counted = counts.iter().filter(|(count, _)| *count > 0).map(|(_, what)| (*what).to_owned());
    let said: Vec<String> = unknown.into_iter().chain(changes).chain(counted).collect();
    assert!(said.len() <= 1, "{event}: {said:?}");
    said.first().map_or_else(|| "same".to_owned(), |said| said.trim_end().to_owned())
}

#[test]
fn every_decision_is_put_to_the_new_policy() {
    let new = policy(
        r#"
        [permissions.w.network.domains]
        "api.test" = "allow"
        "docs.test" = "read-only"
        "**.evil.test" = "deny"
        "paths.test" = { access = "allow", paths = ["/v1/"] }
        "half.test" = { access = "deny", paths = ["/admin/"] }
        "half.test:443" = "allow"
        "half.test:80" = "allow"
        "writes.test" = { access = "allow", methods = ["POST"], paths = ["/v1/"] }
        "192.0.2.0/24" = "deny"
        "8.8.8.8" = "allow"
        "#,
    );
    for (event, expected) in [
        (event("http GET api.test:80", "allow"), "same"),
        (event("https_connect api.test:443", "allow"), "same"),
        (event("http GET other.test:80", "not_allowed"), "same"),
        (event("http GET www.evil.test:80", "denied"), "same"),
        // What changes, with the rule that does it.
        (event("http GET api.test:80", "not_allowed"), "opened allow allow api.test, user config.toml:6"),
        (event("socks5_tcp api.test:22", "denied"), "opened allow allow api.test, user config.toml:6"),
        (event("http GET www.evil.test:80", "allow"), "closed denied deny **.evil.test, user config.toml:8"),
        (event("https_connect other.test:443", "allow"), "closed not_allowed"),
        (event("http POST docs.test:80", "allow"), "closed method_not_allowed read-only docs.test, user config.toml:7"),
        (event("http GET docs.test:80", "allow"), "same"),
        (event("https POST docs.test:443", "allow"), "closed method_not_allowed read-only docs.test, user config.toml:7"),
        (event("socks5_udp docs.test:443", "allow"), "closed mitm_required read-only docs.test, user config.toml:7"),
        (event("http GET localhost:80", "allow"), "closed not_allowed_local"),
        (event("http GET 192.0.2.7:80", "allow"), "closed denied deny 192.0.2.0/24, user config.toml:14"),
        (event("http GET 8.8.8.8:80", "not_allowed"), "opened allow allow 8.8.8.8, user config.toml:15"),
        (event("http GET [2001:db8::1]:80", "allow"), "closed not_allowed_local"),
        // Denied as before, for another reason.
        (event("http GET www.evil.test:80", "not_allowed"), "otherwise"),
        (event("http GET other.test:80", "proxy_disabled"), "otherwise"),
        (event("http GET api.test:80", "proxy_disabled"), "opened allow allow api.test, user config.toml:6"),
        // Paths are not in logs.
        (event("http GET paths.test:80", "allow"), "unknown path 1"),
        (event("http GET paths.test:80", "not_allowed"), "unknown path 1"),
        (event("https GET half.test:443", "allow"), "unknown path 1"),
        (event("https GET half.test:443", "denied"), "unknown path 1"),
        (event("http GET half.test:8080", "allow"), "unknown path 1"),
        (event("http POST writes.test:80", "allow"), "unknown path 1"),
        (event("http GET writes.test:80", "allow"), "closed not_allowed"),
        // A tunnel that has to be opened is allowed where it can be.
        (event("https_connect paths.test:443", "allow"), "same"),
        (event("socks5_udp paths.test:443", "allow"), "closed mitm_required allow paths.test /v1/, user config.toml:9"),
        // Addresses are not in logs, but for those that were asked for.
        (event("http GET api.test:80", "not_allowed_local"), "unknown address 1"),
        (with(event("http GET api.test:80", "denied"), "network.policy.pattern", "10.0.0.0/8"), "unknown address 1"),
        (
            with(event("http GET api.test:80", "denied"), "network.policy.pattern", "api.test"),
            "opened allow allow api.test, user config.toml:6",
        ),
        (event("http GET www.evil.test:80", "not_allowed_local"), "otherwise"),
        (event("http GET localhost:80", "not_allowed_local"), "same"),
        // Whether TLS can be opened is not either.
        (event("https_connect docs.test:443", "mitm_required"), "unknown tls 1"),
        (event("https_connect api.test:443", "mitm_required"), "opened allow allow api.test, user config.toml:6"),
        // What no policy decided.
        (event("http GET api.test:80", "audit_full"), "unknown state 1"),
        (with(event("http GET api.test:80", "policy_denied"), "network.policy.source", "proxy_state"), "unknown state 1"),
        (event("http GET unix-socket:0", "allow"), "unknown socket 1"),
        (event("http GET a/b:80", "allow"), "unknown malformed 1"),
        (event("gopher a.test:70", "allow"), "unknown malformed 1"),
        (with(event("http GET a.test:80", "allow"), "network.policy.decision", "maybe"), "unknown malformed 1"),
        // What an embedding program said.
        (program("http GET other.test:80", "allow"), "asked again"),
        (program("http GET other.test:80", "deny"), "asked again"),
        (program("http GET api.test:80", "allow"), "asked no more"),
        (program("http GET api.test:80", "ask"), "opened allow allow api.test, user config.toml:6"),
        (program("http GET www.evil.test:80", "allow"), "closed denied deny **.evil.test, user config.toml:8"),
        (program("http GET www.evil.test:80", "deny"), "otherwise"),
    ] {
        assert_eq!(outcome(&new, &event), expected, "{event}");
    }
}

#[test]
fn paths_do_not_matter_where_the_answer_is_the_same_anyway() {
    let new = policy(
        r#"
        [permissions.w.network.domains]
        "a.test" = "allow"
        "a.test:80" = { access = "allow", paths = ["/v1/"] }
        "b.test" = "allow"
        "b.test:80" = { access = "read-only", paths = ["/v1/"] }
        "c.test" = "deny"
        "c.test:80" = { access = "deny", paths = ["/v1/"] }
        "#,
    );
    for (asked, expected) in [
        ("http POST a.test:80", "same"),
        ("http GET b.test:80", "same"),
        ("http POST b.test:80", "unknown path 1"),
        ("http POST b.test:81", "same"),
        ("http GET c.test:80", "closed denied deny c.test"),
    ] {
        let found = outcome(&new, &event(asked, "allow"));
        assert!(found.starts_with(expected), "{asked}: {found}");
    }
}

#[test]
fn hooks_look_at_more_than_is_in_logs() {
    let new = policy(
        r#"
        domains = { "api.test" = "allow", "b.test" = "allow" }
        [permissions.w.network.mitm.hooks.one]
        host = "api.test"
        methods = ["POST"]
        path_prefixes = ["/v1/"]
        action = ["clean"]
        [permissions.w.network.mitm.actions.clean]
        strip_request_headers = ["cookie"]
        "#,
    );
    for (asked, reason, expected) in [
        ("https POST api.test:443", "allow", "unknown hook 1"),
        ("https GET api.test:443", "mitm_hook_denied", "unknown hook 1"),
        ("https GET b.test:443", "mitm_hook_denied", "opened allow allow b.test, user config.toml:5"),
        ("http GET api.test:80", "allow", "closed mitm_required"),
        ("https_connect api.test:443", "allow", "same"),
    ] {
        assert_eq!(outcome(&new, &event(asked, reason)), expected, "{asked}");
    }
}

#[test]
fn a_mode_that_was_set_while_it_ran_is_no_policy() {
    let new = policy("domains = { \"a.test\" = \"allow\" }\n");
    let mode = |outcome: &str, generation: u64| json!({ "event.name": "codex.network_proxy.mode", "network.policy.mode": "limited", "outcome": outcome, "network.policy.generation": generation });
    let denied = |generation: u64| with(event("http POST a.test:80", "method_not_allowed"), "network.policy.generation", generation);
    let start = json!({ "event.name": "codex.network_proxy.start", "network.policy.generation": 1 });
    for (events, opened, unknown) in [
        (vec![denied(2)], 1, 0),
        (vec![mode("set", 2), denied(2), denied(3), denied(1)], 1, 2),
        (vec![mode("set", 2), denied(2), mode("policy", 3), denied(3)], 1, 1),
        // Threads of their own tell of them: whose mode it was may stand behind.
        (vec![denied(2), mode("set", 2)], 0, 1),
        (vec![mode("policy", 3), denied(3), denied(2), mode("set", 2)], 1, 1),
        // Another process counts from 1 again.
        (vec![mode("set", 2), start, denied(2)], 1, 0),
    ] {
        let found = replay(&new, &log(&events), Options::default());
        let counted: u64 = found.unknown.iter().map(|(_, count)| count).sum();
        assert_eq!((found.opened, counted), (opened, unknown), "{events:?}");
    }
}

/// What full mode let through that somebody had set over limited mode is no change of the policy's, unless nobody can set it over the new one.
#[test]
fn what_a_mode_that_was_set_to_full_allowed_is_no_change() {
    let mode = json!({ "event.name": "codex.network_proxy.mode", "network.policy.mode": "full", "outcome": "set", "network.policy.generation": 2 });
    let allowed = |asked: &str, generation: u64| with(event(asked, "allow"), "network.policy.generation", generation);
    let denied = with(event("http POST b.test:80", "not_allowed"), "network.policy.generation", 2);
    let limited = "mode = \"limited\"\ndomains = { \"a.test\" = \"allow\" }\n";
    let required = policy_under("[experimental_network]\nmode = \"limited\"\n", limited);
    for (name, new, closed, unknown) in [
        ("limited by itself", policy(limited), 2, 2),
        ("limited by a requirement", required, 4, 0),
        ("full", policy("domains = { \"a.test\" = \"allow\" }\n"), 1, 0),
        ("read-only by a rule", policy("domains = { \"a.test\" = \"read-only\" }\n"), 4, 0),
    ] {
        // Before it was set; what no rule allows now; and what the mode decides. SOCKS5 to another port than 443 is nothing that limited mode, or a rule that only reads, opens.
        let events = [
            allowed("http POST a.test:80", 1),
            mode.clone(),
            allowed("http POST a.test:80", 2),
            allowed("http GET a.test:80", 2),
            allowed("http POST x.test:80", 3),
            allowed("socks5_tcp a.test:22", 3),
            denied.clone(),
        ];
        let found = replay(&new, &log(&events), Options::default());
        let counted: u64 = found.unknown.iter().map(|(_, count)| count).sum();
        assert_eq!((found.closed, counted, found.opened), (closed, unknown, 0), "{name}");
        assert!(found.unknown.iter().all(|(why, _)| *why == Unknown::Mode), "{name}");
    }
}

#[test]
fn changes_are_counted_by_kind_and_the_worst_is_first() {
    let new = policy("domains = { \"a.test\" = \"allow\", \"b.test\" = \"allow\" }\n");
    let mut events = vec![event("http GET x.test:80", "allow"); 5];
    events.extend(vec![event("http GET a.test:80", "not_allowed"); 2]);
    events.extend(vec![event("http POST b.test:80", "denied"); 3]);
    events.push(event("http POST a.test:80", "not_allowed"));
    events.push(event("http GET a.test:80", "allow"));
    let found = replay(&new, &log(&events), Options::default());
    let kinds: Vec<_> =
        found.changes.iter().map(|change| (change.opened, change.count, change.request(), change.first.to_string())).collect();
    let kind = |opened, count, request: &str, first: &str| (opened, count, request.to_owned(), first.to_owned());
    assert_eq!(
        kinds,
        [
            kind(true, 3, "POST http://b.test:80/", "audit.jsonl:8"),
            kind(true, 2, "GET http://a.test:80/", "audit.jsonl:6"),
            kind(true, 1, "POST http://a.test:80/", "audit.jsonl:11"),
            kind(false, 5, "GET http://x.test:80/", "audit.jsonl:1"),
        ]
    );
    assert_eq!((found.decisions, found.opened, found.closed), (12, 6, 5));
    let text = found.render(2);
    assert!(
        text.starts_with("12 decisions: 11 would change\n\nwould be allowed: 6 decisions of 3 kinds\n  3 x POST http://b.test:80/\n"),
        "{text}"
    );
    assert!(text.contains("and 1 kind more") && !text.contains("audit.jsonl:11"), "{text}");
}

#[test]
fn what_a_log_says_does_not_act_on_a_terminal() {
    let new = policy("domains = { \"a.test\" = \"allow\" }\n");
    let strange = "\u{1b}[2J\u{202e}\n    now allowed";
    let denied = with(program("http GET a.test:80", "deny"), "network.policy.reason", strange);
    let method = with(event("http GET x.test:80", "allow"), "http.request.method", format!("GET{strange}"));
    let found = replay(&new, &log(&[denied, method]), Options::default());
    assert_eq!((found.opened, found.closed), (1, 1));
    let text = found.render(9);
    assert!(!text.contains(['\u{1b}', '\u{202e}']) && !text.contains("\n    now allowed\n"), "{text}");
    assert_eq!(text.matches(r"\u{1b}[2J\u{202e}\n    now allowed").count(), 2, "{text}");
}

#[test]
fn only_the_time_that_is_asked_for_counts() {
    let new = policy("");
    let at = |time: &str| with(event("http GET a.test:80", "allow"), "event.timestamp", time);
    let text = log(&[
        at("2026-01-01T23:59:59.999Z"),
        at("2026-01-02T00:00:00.000Z"),
        at("2026-01-02T12:00:00.000Z"),
        at("2026-01-03T00:00:00.000Z"),
    ]);
    for (since, until, expected) in [
        (None, None, 4),
        (Some("2026-01-02"), None, 3),
        (Some("2026-01-02"), Some("2026-01-03"), 2),
        (Some("2026-01-02T12:00"), None, 2),
        (Some("2026-01-02T12:00:00.001Z"), None, 1),
        (None, Some("2026-01-02T00:00:00Z"), 1),
    ] {
        let time = |text: Option<&str>| text.map(|text| text.parse::<Time>().unwrap());
        let found = replay(&new, &text, Options { since: time(since), until: time(until), ..Options::default() });
        assert_eq!((found.closed, found.out_of_time), (expected, 4 - expected), "{since:?} {until:?}");
    }
    for text in [
        "",
        "2026",
        "2026-01",
        "2026-1-2",
        "2026-01-02Z",
        "2026-01-02T",
        "2026-01-02 03:04",
        "2026-01-02T03:04:05+01:00",
        "2026-01-02T03:04:05.Z",
        "yesterday",
    ] {
        assert!(text.parse::<Time>().is_err(), "{text}");
    }
    let found = replay(&new, &log(&[at("yesterday")]), Options { since: "2026-01-02".parse().ok(), ..Options::default() });
    assert_eq!((found.decisions, found.malformed), (0, 1));
}

#[test]
fn a_data_plane_that_opens_no_tls_decides_otherwise() {
    let new = policy("domains = { \"a.test\" = \"read-only\" }\n");
    let text = log(&[event("https_connect a.test:443", "allow")]);
    assert_eq!(replay(&new, &text, Options::default()).closed, 0);
    assert_eq!(replay(&new, &text, Options { no_interception: true, ..Options::default() }).closed, 1);
}

#[test]
fn lines_that_cannot_be_read_are_counted_and_the_first_are_named() {
    let new = policy("");
    let mut text = log(&[event("http GET a.test:80", "not_allowed"), json!({ "event.name": "codex.network_proxy.stop" })]);
    text.push_str("\n\nnot JSON\n{\"event.name\":\"codex.network_proxy.policy_decision\"}\n[]\n");
    text.push_str(&"x\n".repeat(20));
    let found = replay(&new, &text, Options::default());
    assert_eq!((found.decisions, found.others, found.malformed, found.named.len()), (1, 1, 23, 10));
    assert_eq!((found.named[0].0.to_string(), found.named[0].1.as_str()), ("audit.jsonl:5".into(), "this is not a JSON object"));
    assert_eq!(found.named[1].1, "a decision without a proper `server.port`");
}

fn netpolicy(dir: &tempfile::TempDir, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netpolicy")).args(arguments).current_dir(dir.path()).output().unwrap()
}

#[test]
fn the_command_says_what_would_change() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("new.bin"), policy("domains = { \"a.test\" = \"allow\" }\n").as_bytes()).unwrap();
    fs::write(dir.path().join("same.jsonl"), log(&[event("http GET a.test:80", "allow")])).unwrap();
    fs::write(dir.path().join("audit.jsonl"), log(&[event("http GET a.test:80", "not_allowed"), event("http GET b.test:80", "allow")]))
        .unwrap();
    fs::write(dir.path().join("odd.jsonl"), "odd\n").unwrap();
    let run = |arguments: &[&str]| {
        let output = netpolicy(&dir, &[&["replay", "--policy", "new.bin"], arguments].concat());
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text, _) = run(&["same.jsonl"]);
    assert!(code == 0 && text.starts_with("1 decision: 0 would change\n"), "{text}");
    let (code, text, _) = run(&["same.jsonl", "audit.jsonl", "odd.jsonl"]);
    assert!(
        code == 1 && text.starts_with("3 decisions: 2 would change\n") && text.contains("odd.jsonl:1: this is not a JSON object"),
        "{text}"
    );
    let (code, text, _) = run(&["audit.jsonl", "--json"]);
    let said: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 1);
    assert_eq!((&said["opened"], &said["closed"], &said["decisions"], &said["profile"]), (&1.into(), &1.into(), &2.into(), &"w".into()));
    let first = &said["changes"][0];
    assert_eq!(
        (&first["direction"], &first["first"], &first["new"]["rule"]["line"]),
        (&"opened".into(), &"audit.jsonl:1".into(), &4.into())
    );
    assert_eq!((&said["changes"][1]["new"]["reason"], &said["changes"][1]["new"]["rule"]), (&"not_allowed".into(), &Value::Null));
    let (code, text, _) = run(&["audit.jsonl", "--json", "--limit", "0"]);
    assert_eq!((code, &serde_json::from_str::<Value>(&text).unwrap()["changes"]), (1, &json!([])));
    for (wrong, said) in [
        (&["/dev/null"][..], "no decision is in these logs"),
        (&["same.jsonl", "--since", "2030-01-01"], "no decision in these logs is of that time: 1 of another time are"),
        (&["odd.jsonl"], "no decision is in these logs, and 1 lines cannot be read; the first is odd.jsonl:1"),
        (&["none.jsonl"], "cannot read `none.jsonl`"),
        (&["audit.jsonl", "--profile", "x"], "there is no"),
        (&["audit.jsonl", "--since", "x"], "no time in UTC"),
        (&[], "required"),
    ] {
        let (code, _, stderr) = run(wrong);
        assert!(code == 2 && (stderr.contains(said) || said == "there is no"), "{wrong:?}: {stderr}");
    }
}
