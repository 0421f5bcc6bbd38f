//! The admin API of the real binary: every answer as its document says, who may do what, and who may not.

use harness::binaries::{self, compile_to, netpolicy};
use harness::{Answer, Client, DataPlane, Origin, policy, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// A proxy with a policy file and a hosts file of its own.
struct World {
    folder: tempfile::TempDir,
    proxy: DataPlane,
}

fn rules() -> String {
    policy(
        "allow_local_binding = true",
        &[("a.test", "allow"), ("*.wide.test", "allow"), ("evil.test", "deny"), ("read.test", "read-only")],
    )
}

impl World {
    fn start(toml: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().join("hosts");
        fs::write(&hosts, "127.0.0.1 a.test b.wide.test evil.test read.test registry.test\n").unwrap();
        let file = folder.path().join("policy.bin");
        compile_to(toml, &file);
        let mut args = vec!["--policy", file.to_str().unwrap(), "--hosts", hosts.to_str().unwrap()];
        args.extend(more);
        let proxy = DataPlane::start(&args);
        Self { folder, proxy }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn request(&self, method: &str, path: &str, fields: &str, body: &str) -> Answer {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}{length}\r\n{body}");
        Client::connect(self.proxy.admin()).send(head).answer_to(method)
    }

    fn get(&self, path: &str) -> Value {
        let answer = self.request("GET", path, "", "");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let answer = self.request("POST", path, "Content-Type: application/json\r\n", body);
        (answer.status, answer.json())
    }

    /// Asks the proxy for a host by plain HTTP.
    fn blocked(&self, host: &str) {
        let answer = Client::connect(self.proxy.http()).send(format!("GET http://{host}/path?q HTTP/1.1\r\nHost: {host}\r\n\r\n")).answer();
        assert_eq!(answer.status, 403, "{}", answer.text());
    }

    fn tunnel(&self, port: u16) -> Client {
        let mut tunnel = Client::connect(self.proxy.http());
        assert_eq!(tunnel.tunnel(&format!("a.test:{port}")).status, 200);
        assert_eq!(tunnel.send("ping").bytes(4), b"ping");
        tunnel
    }
}

/// Percent-encodes what has a meaning in a query.
fn query(text: &str) -> String {
    text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Checks an answer against the document: its status, its type and its body.
fn check(document: &Value, path: &str, method: &str, answer: &Answer) {
    let responses = &document["paths"][path][method]["responses"];
    let response =
        responses.get(answer.status.to_string()).or_else(|| responses.get("default")).unwrap_or_else(|| panic!("{method} {path}"));
    let kind = answer.header("content-type").unwrap().split(';').next().unwrap();
    let schema = response["content"][kind]["schema"].clone();
    assert!(schema.is_object(), "{method} {path}: {} is not to be {kind}", answer.status);
    if kind.ends_with("json") {
        // The schemas that it refers to are found where it refers to them.
        let whole =
            json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "allOf": [schema], "components": document["components"] });
        let body = answer.json();
        jsonschema::validate(&whole, &body).unwrap_or_else(|error| panic!("{method} {path}: {error}: {body}"));
    }
    for (field, value) in [("cache-control", "no-store"), ("x-content-type-options", "nosniff"), ("x-frame-options", "DENY")] {
        assert_eq!(answer.header(field), Some(value), "{method} {path}");
    }
    assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("access-control-") && name != "set-cookie"), "{method} {path}");
}

#[test]
fn every_answer_is_as_the_document_says() {
    let echo = Origin::echo();
    let world = World::start(&rules(), &[]);
    let document = world.get("/v1/openapi.json");
    world.blocked("other.test");
    let _tunnel = world.tunnel(echo.port());
    let id = world.get("/v1/tunnels")["tunnels"][0]["id"].as_u64().unwrap();
    let mut checked = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            // Streams and the end have tests of their own.
            if path == "/v1/events" || path == "/v1/drain" {
                continue;
            }
            let mut at = path.replace("{id}", &id.to_string());
            if path == "/v1/explain" {
                at.push_str("?request=other.test");
            }
            let method_name = method.to_uppercase();
            let body = if operation.get("requestBody").is_some() { r#"{"mode":null}"# } else { "" };
            for path_there in [at.clone(), at.replacen("/v1", "", 1)] {
                let answer = world.request(&method_name, &path_there, "Content-Type: application/json\r\n", body);
                // The second time, the tunnel may be gone.
                assert!(
                    answer.status == 200 || (path.contains("{id}") && answer.status == 404),
                    "{method} {path_there}: {}",
                    answer.text()
                );
                check(&document, path, method, &answer);
                checked += 1;
            }
            if method == "get" {
                let head = world.request("HEAD", &at, "", "");
                assert!(head.status == 200 && head.body.is_empty() && head.header("content-type").is_some(), "HEAD {at}");
            }
            let bad = world.request(&method_name, &format!("{at}{}nothing=1", if at.contains('?') { '&' } else { '?' }), "", body);
            assert_eq!(bad.status, 400, "{method} {path}");
            check(&document, path, method, &bad);
        }
    }
    assert!(checked >= 32, "{checked}");
}

#[test]
fn what_was_refused_is_told_with_what_would_allow_it_until_it_is_drained() {
    let world = World::start(&rules(), &[]);
    let mut all = Value::Null;
    for host in ["other.test", "evil.test", "third.test"] {
        world.blocked(host);
        // Told by threads of their own, what happens in one millisecond has no order.
        all = world.get("/blocked");
    }
    let hosts =
        |page: &Value| page["blocked"].as_array().unwrap().iter().map(|one| one["host"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(hosts(&all), ["other.test", "evil.test", "third.test"]);
    assert_eq!(world.get("/v1/blocked"), all, "asking takes nothing away");
    let [other, evil, _] = [0, 1, 2].map(|at| all["blocked"][at].clone());
    assert_eq!(
        (other["reason"].as_str(), other["decision"].as_str(), other["method"].as_str()),
        (Some("not_allowed"), Some("deny"), Some("GET"))
    );
    assert_eq!(other["change"]["toml"], "\"other.test\" = \"allow\"");
    assert_eq!(other["change"]["table"], "[permissions.workspace.network.domains]");
    assert_eq!((evil["reason"].as_str(), evil["layer"].as_str()), (Some("denied"), Some("user")));
    assert!(evil["place"].as_str().unwrap().starts_with("user config.toml:") && evil["change"]["place"] == evil["place"], "{evil}");
    assert!(!all.to_string().contains("path"), "nothing of a path or a query");
    let first = world.get("/v1/blocked?limit=1");
    assert_eq!(hosts(&first), ["other.test"]);
    let rest = world.get(&format!("/v1/blocked?since={}", first["next"]));
    assert_eq!((hosts(&rest), rest["lost"].as_u64()), (vec!["evil.test".to_owned(), "third.test".to_owned()], Some(0)));
    assert_eq!(world.post("/v1/blocked/drain", ""), (200, json!({ "drained": 3 })));
    assert_eq!(hosts(&world.get("/v1/blocked")), [""; 0]);
    world.blocked("fourth.test");
    let seq = world.get(&format!("/v1/blocked?since={}", rest["next"]))["blocked"][0]["seq"].as_u64();
    assert_eq!(seq, Some(4), "numbers go on");
}

/// What is offered for each of some requests, under a policy of these layers; what is offered as a line is pasted into the user's layer, and allows the request.
#[test]
fn what_is_offered_works_where_it_is_pasted() {
    const USER: &str = "default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\n[permissions.w.network.domains]\n\"name.test\" = \"allow\"\n\"deny.test\" = \"deny\"\n\"paths.test\" = { access = \"allow\", paths = [\"/ok/\"] }\n\"ports.test\" = { access = \"allow\", ports = [443] }\n\"one.test:80\" = { access = \"allow\", methods = [\"GET\"] }\n";
    const BOTH: &str = "add \"new.test\" = \"allow\" under [permissions.w.network.domains], and change mode = \"limited\" to mode = \"full\" under [permissions.w.network]";
    let limited = USER.replace("enabled = true", "enabled = true\nmode = \"limited\"");
    let always = USER.replace("enabled = true", "enabled = true\nmitm = { mode = \"always\" }");
    let reads = format!("{limited}\"read.test\" = \"read-only\"\n");
    // Nothing is opened before there is a rule.
    let nothing =
        "default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\nmode = \"limited\"\n[permissions.w.network.domains]\n"
            .to_owned();
    let only = "managed_allowed_domains_only = true";
    for (user, managed, required, request, more, line, owner, words) in [
        // Of its own rule another key is taken, and where there is none the rule is named.
        (USER, "", "", "GET http://paths.test/x", "", "", "", "have \"paths.test\" in user config.toml:7"),
        (USER, "", "", "GET http://ports.test/", "", "\"ports.test:80\" = \"allow\"", "", "add"),
        (USER, "", "", "POST http://one.test/", "", "", "", "have \"one.test:80\" in user config.toml:9"),
        (USER, "", "", "GET http://new.test/", "", "\"new.test\" = \"allow\"", "", "add"),
        (USER, "", "", "GET http://localhost:9/", "", "\"localhost\" = \"allow\"", "", "add"),
        (USER, "", "", "GET http://name.test/", "127.0.0.1", "\"127.0.0.1\" = \"allow\"", "", "add"),
        (USER, "", "", "GET http://deny.test/", "", "", "", "change or remove the rule in user config.toml:6"),
        // A mode stands somewhere already.
        (
            &limited,
            "",
            "",
            "POST http://name.test/",
            "",
            "",
            "",
            "change mode = \"limited\" to mode = \"full\" under [permissions.w.network]",
        ),
        (&limited, "", "domains = {}", "POST http://name.test/", "", "", "", "to mode = \"full\" under [permissions.w.network]"),
        (
            USER,
            "",
            "mode = \"limited\"",
            "POST http://name.test/",
            "",
            "",
            "managed",
            "only the managed layer can change this: it holds mode",
        ),
        // A rule more is not all that it takes, where the mode is in the way; where it is not, it is.
        (&limited, "", "", "POST http://new.test/", "", "", "", BOTH),
        (&limited, "", "", "POST https://new.test/x", "", "", "", BOTH),
        (&limited, "", "", "socks new.test:22", "", "", "", BOTH),
        (&limited, "", "", "udp new.test:53", "", "", "", BOTH),
        (&limited, "", "", "POST http://127.0.0.1:9/", "", "", "", "and change mode = \"limited\" to mode = \"full\""),
        (&limited, "", "", "POST http://localhost:9/", "", "", "", "and change mode = \"limited\" to mode = \"full\""),
        (&limited, "", "", "POST http://ports.test/", "", "", "", "add \"ports.test:80\" = \"allow\""),
        (&limited, "", "", "GET http://new.test/", "", "\"new.test\" = \"allow\"", "", "add"),
        (&limited, "", "", "OPTIONS http://new.test/", "", "\"new.test\" = \"allow\"", "", "add"),
        (&limited, "", "", "CONNECT new.test:443", "", "\"new.test\" = \"allow\"", "", "add"),
        (&limited, "", "", "GET https://new.test/x", "", "\"new.test\" = \"allow\"", "", "add"),
        (&limited, "", "", "socks new.test:443", "", "\"new.test\" = \"allow\"", "", "add"),
        (USER, "", "mode = \"limited\"", "GET http://new.test/", "", "\"new.test\" = \"allow\"", "", "add"),
        (USER, "", "mode = \"limited\"", "POST http://new.test/", "", "", "managed", "it holds mode = \"limited\""),
        (USER, "", "mode = \"limited\"", "udp new.test:53", "", "", "managed", "it holds mode = \"limited\""),
        (&reads, "", "", "POST http://read.test/", "", "", "", "change the rule in user config.toml:11, and change mode"),
        (&nothing, "", "", "CONNECT new.test:443", "", "\"new.test\" = \"allow\"", "", "add"),
        // Nor where every tunnel is read.
        (
            &always,
            "",
            "",
            "udp new.test:53",
            "",
            "",
            "",
            "and change mode = \"always\" to mode = \"auto\" under [permissions.w.network.mitm]",
        ),
        (&always, "", "", "udp name.test:53", "", "", "", "change mode = \"always\" to mode = \"auto\""),
        (&always, "", "", "CONNECT new.test:443", "", "\"new.test\" = \"allow\"", "", "add"),
        // Nor where the name leads to what is closed.
        (USER, "", "", "GET http://new.test/", "10.0.0.1", "", "", "and set allow_local_binding = true"),
        (USER, "", "", "GET http://name.test/", "10.0.0.1,10.0.0.2", "", "", "others of its addresses are refused, too"),
        (USER, "", "", "GET http://metadata.google.internal/", "", "", "", "and set allow_local_binding = true"),
        // An administrator who denies something does not say that nobody else allows.
        (
            USER,
            "\"bad.test\" = \"deny\"",
            "",
            "GET http://new.test/",
            "",
            "\"new.test\" = \"allow\"",
            "",
            "where an administrator lets no other layer",
        ),
        (
            USER,
            "\"bad.test\" = \"deny\"",
            "",
            "GET http://bad.test/",
            "",
            "",
            "managed",
            "only the managed layer can change this: the rule is in",
        ),
        (USER, "", only, "GET http://new.test/", "", "", "managed", "only the managed layer allows hosts"),
        (USER, "", only, "GET http://127.0.0.1:9/", "", "", "managed", "only the managed layer allows hosts"),
        (USER, "", only, "GET http://[fd00::1]/", "", "", "managed", "only the managed layer allows hosts"),
        (USER, "", only, "GET http://deny.test/", "", "", "managed", "without the rule in user config.toml:6, no rule allows it"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let compiled = |user: &str| {
            fs::write(dir.join("config.toml"), user).unwrap();
            fs::write(dir.join("managed.toml"), format!("[permissions.w.network.domains]\n{managed}\n")).unwrap();
            fs::write(dir.join("requirements.toml"), format!("[experimental_network]\n{required}\n")).unwrap();
            let mut args = vec!["compile", "--user", "config.toml", "-o", "policy.bin"];
            args.extend((!managed.is_empty()).then_some(["--managed", "managed.toml"]).into_iter().flatten());
            args.extend((!required.is_empty()).then_some(["--requirements", "requirements.toml"]).into_iter().flatten());
            let output = netpolicy(dir, &args);
            assert!(output.status.success(), "{request}: {user}\n{}", String::from_utf8_lossy(&output.stderr));
        };
        compiled(user);
        let proxy = DataPlane::start(&["--policy", dir.join("policy.bin").to_str().unwrap()]);
        let world = World { folder, proxy };
        let more = if more.is_empty() { String::new() } else { format!("&addresses={more}") };
        let explain = |world: &World| world.get(&format!("/v1/explain?request={}{more}", query(request)));
        let found = explain(&world);
        let change = &found["change"];
        assert_eq!(change["toml"].as_str().unwrap_or_default(), line, "{request} under {required}: {found}");
        assert_eq!(change["only"].as_str().unwrap_or_default(), owner, "{request} under {required}: {found}");
        let help = change["help"].as_str().unwrap_or_default();
        // As many edits as `netpolicy explain` finds.
        if owner.is_empty() && more.is_empty() && !request.contains("metadata") {
            let theirs = netpolicy(world.folder.path(), &["explain", "--json", "--policy", "policy.bin", request]);
            let theirs: Value = serde_json::from_slice(&theirs.stdout).unwrap();
            let edits = theirs["change"]["edits"].as_array().map_or(0, Vec::len);
            assert_eq!(edits == 1 && !line.is_empty(), !line.is_empty(), "{request}: {theirs}");
            assert_eq!(edits > 1, help.contains(", and "), "{request}: {theirs}");
        }
        assert!(help.contains(words), "{request} under {required}: {found}");
        // The client's message knows no address, and names the rule where one denies.
        if change["place"].is_null() && found["rule"].is_null() && more.is_empty() && !request.contains("https://") {
            assert!(found["message"].as_str().unwrap().contains(help), "{found}");
        }
        if !line.is_empty() {
            let table = change["table"].as_str().unwrap();
            let pasted = user.replace(table, &format!("{table}\n{line}"));
            let dir = world.folder.path();
            let compile_again = || {
                fs::write(dir.join("config.toml"), &pasted).unwrap();
                let mut args = vec!["compile", "--user", "config.toml", "-o", "policy.bin"];
                args.extend((!managed.is_empty()).then_some(["--managed", "managed.toml"]).into_iter().flatten());
                args.extend((!required.is_empty()).then_some(["--requirements", "requirements.toml"]).into_iter().flatten());
                netpolicy(dir, &args)
            };
            let output = compile_again();
            assert!(output.status.success(), "{request}: {pasted}\n{}", String::from_utf8_lossy(&output.stderr));
            let world = World {
                proxy: DataPlane::start(&["--policy", dir.join("policy.bin").to_str().unwrap()]),
                folder: tempfile::tempdir().unwrap(),
            };
            assert_eq!(explain(&world)["decision"], "allow", "{request}: {pasted}");
        }
    }
}

#[test]
fn what_was_refused_is_held_against_the_policy_of_now() {
    const NOW: &str = "the policy in force allows it by now";
    let of = |settings: &str, rules: &str| policy(settings, &[]) + rules;
    let plain = |host: &str| format!("GET http://{host}/path?q HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let post = "POST http://registry.test/ HTTP/1.1\r\nHost: registry.test\r\nContent-Length: 0\r\n\r\n".to_owned();
    let connect = "CONNECT registry.test:443 HTTP/1.1\r\nHost: registry.test\r\n\r\n".to_owned();
    let get = plain("registry.test");
    let allow = "\"registry.test\" = \"allow\"\n";
    let line = "\"registry.test\" = \"allow\"";
    let (limited, local) = ("mode = \"limited\"", "allow_local_binding = true");
    for (request, then, now, toml, words) in [
        (&get, of("", ""), of("", "\"other.test\" = \"allow\"\n"), line, "add"),
        (&get, of("", ""), of("", allow), "", NOW),
        (&get, of("", ""), of("", "\"**.test\" = \"allow\"\n"), "", NOW),
        // An allow would not beat it.
        (&get, of("", ""), of("", "\"registry.test\" = \"deny\"\n"), "", "change or remove the rule in user config.toml:6"),
        (&get, of("", "\"registry.test\" = \"deny\"\n"), of("", ""), line, "add"),
        (&get, of("", "\"registry.test\" = \"deny\"\n"), of("", allow), "", NOW),
        // Of its method there is an answer, of its path there is none.
        (&post, of("", ""), of(limited, allow), "", "change mode = \"limited\" to mode = \"full\""),
        (&post, of("", ""), of(limited, ""), "", "and change mode = \"limited\" to mode = \"full\""),
        (&post, of(limited, allow), of("", allow), "", NOW),
        (&post, of("", ""), of("", "\"registry.test\" = \"read-only\"\n"), "", "change the rule in user config.toml:6"),
        (
            &get,
            of("", ""),
            of("", "\"registry.test\" = { access = \"allow\", paths = [\"/path\"] }\n"),
            "",
            "by now it depends on its path, which is not kept: \"registry.test\" is in user config.toml:6",
        ),
        (&get, of("", ""), of("", "\"registry.test\" = { access = \"allow\", methods = [\"GET\"] }\n"), "", NOW),
        (&connect, of("", ""), of(limited, allow), "", "the policy in force allows it by now, where it can be read"),
        (&connect, of("", ""), of("", allow), "", NOW),
        // Nor of its addresses.
        (
            &get,
            of("", allow),
            of("", &format!("{allow}\"b.test\" = \"allow\"\n")),
            "allow_local_binding = true",
            "its addresses are not kept",
        ),
        (&get, of("", allow), of(local, allow), "", NOW),
        (
            &get,
            of(local, &format!("{allow}\"127.0.0.0/8\" = \"deny\"\n")),
            of(local, &format!("{allow}\n\"127.0.0.0/8\" = \"deny\"\n")),
            "",
            "config.toml:8",
        ),
        (&get, of(local, &format!("{allow}\"127.0.0.0/8\" = \"deny\"\n")), of(local, allow), "", NOW),
        // Where the network is switched off, no line helps.
        (&get, of("", ""), of("", "").replace("enabled = true", "enabled = false"), "", ""),
    ] {
        let world = World::start(&then, &[]);
        let answer = Client::connect(world.proxy.http()).send(request).answer();
        assert_eq!(answer.status, 403, "{request}{then}: {}", answer.text());
        compile_to(&now, &world.path("policy.bin"));
        assert_eq!(world.post("/v1/reload", "").1["generation"], 2, "{now}");
        let change = world.get("/v1/blocked")["blocked"][0]["change"].clone();
        assert_eq!(change["toml"].as_str().unwrap_or_default(), toml, "{request}{now}: {change}");
        let help = change["help"].as_str().unwrap_or_default();
        assert!(help.contains(words) && help.is_empty() == words.is_empty(), "{request}{now}: {change}");
        assert_eq!(world.get("/v1/overview")["blocked"][0]["last"]["change"], change, "{request}{now}");
    }
}

#[test]
fn a_unix_socket_that_was_refused_has_the_remedy_that_its_client_was_told() {
    let limited = "mode = \"limited\"";
    let open = "unix_sockets = { \"/run/other.sock\" = \"allow\" }";
    let under = "add \"/REAL/PATH\" = \"allow\" under [permissions.workspace.network.unix_sockets]";
    let change_mode = "change mode = \"limited\" to mode = \"full\" under [permissions.workspace.network]";
    let both = format!("{under}, and {change_mode}");
    for (method, settings, help) in [
        ("GET", String::new(), under),
        ("GET", open.to_owned(), under),
        ("GET", limited.to_owned(), under),
        ("POST", limited.to_owned(), &both),
        ("POST", format!("{limited}\n{open}"), change_mode),
    ] {
        let world = World::start(&policy(&settings, &[]), &[]);
        let request =
            format!("{method} http://localhost/ HTTP/1.1\r\nHost: localhost\r\nx-unix-socket: /run/none.sock\r\nContent-Length: 0\r\n\r\n");
        let answer = Client::connect(world.proxy.http()).send(request).answer();
        assert_eq!(answer.status, 403, "{settings}");
        assert!(answer.text().contains(&help.replace('"', "\\\"")), "{method} {settings}: {}", answer.text());
        let found = world.get("/v1/blocked")["blocked"][0].clone();
        assert_eq!(
            (found["host"].as_str(), found["change"]["help"].as_str()),
            (Some("unix-socket"), Some(help)),
            "{method} {settings}: {found}"
        );
        assert!(found["change"]["toml"].is_null(), "its path is not known: {found}");
        let page = world.request("GET", "/ui", "", "").text();
        assert!(page.contains("/REAL/PATH") == help.contains("/REAL/PATH") && !page.contains("No single line"), "{method} {settings}");
    }
}

#[test]
fn explanations_name_the_rule_its_place_and_what_would_allow_it() {
    let world = World::start(&rules(), &[]);
    let explain = |request: &str, more: &str| world.get(&format!("/v1/explain?request={}{more}", query(request)));
    let allowed = explain("GET https://a.test/x", "");
    assert_eq!((allowed["decision"].as_str(), allowed["protocol"].as_str()), (Some("allow"), Some("https_connect")));
    assert_eq!((allowed["rule"]["hosts"].as_str(), allowed["rule"]["file"].as_str()), (Some("a.test"), Some("config.toml")));
    assert!(allowed["rule"]["line"].as_u64().is_some(), "{allowed}");
    for (request, more, reason, step, change) in [
        ("nobody.test", "", "not_allowed", "name", "\"nobody.test\" = \"allow\""),
        ("POST http://read.test/", "", "method_not_allowed", "name", ""),
        ("evil.test", "", "denied", "name", ""),
        ("127.1", "", "not_allowed", "name", ""),
        ("a.test", "&addresses=169.254.169.254", "not_allowed_local", "address", "\"169.254.169.254\" = \"allow\""),
        ("a.test", "&addresses=127.0.0.1,%5B::1%5D", "allow", "name", ""),
    ] {
        let found = explain(request, more);
        assert_eq!((found["reason"].as_str(), found["step"].as_str()), (Some(reason), Some(step)), "{request}: {found}");
        assert_eq!(found["change"]["toml"].as_str().unwrap_or_default(), change, "{request}: {found}");
        assert!(!found["message"].as_str().unwrap().is_empty());
    }
    // Who wrote what may be asked for there did not mean all of it: no line is offered that would open the rest.
    let narrow = World::start(&(policy("", &[]) + "\"a.test\" = { access = \"allow\", methods = [\"GET\"], paths = [\"/x\"] }\n"), &[]);
    for (request, is_narrow) in [("POST http://a.test/x", true), ("GET http://a.test/y", true), ("GET http://b.test/", false)] {
        let found = narrow.get(&format!("/v1/explain?request={}", query(request)));
        assert_eq!(found["reason"], "not_allowed", "{found}");
        assert_eq!(found["change"]["toml"].is_null(), is_narrow, "{found}");
        assert_eq!(found["message"].as_str().unwrap().contains("have \"a.test\" in user config.toml:6"), is_narrow, "{found}");
    }
    // Our own listeners are nobody's.
    let own = explain(&format!("CONNECT a.test:{}", world.proxy.admin().port()), "&addresses=127.0.0.1");
    assert_eq!((own["reason"].as_str(), own["address"].as_str()), (Some("policy_denied"), Some("127.0.0.1")));
    // `localhost` is what it always is, whatever somebody says that it resolves to.
    let local = World::start(&policy("allow_local_binding = true", &[("localhost", "allow")]), &[]);
    for more in ["", "&addresses=192.0.2.1"] {
        let request = format!("CONNECT localhost:{}", local.proxy.admin().port());
        let own = local.get(&format!("/v1/explain?request={}{more}", query(&request)));
        assert_eq!((own["reason"].as_str(), own["address"].as_str()), (Some("policy_denied"), Some("127.0.0.1")), "{own}");
    }
    for (bad, what) in
        [("", "the request is empty"), ("GET a.test", "a request with a method needs a URL"), ("a b c", "a request ends here")]
    {
        let answer = world.request("GET", &format!("/v1/explain?request={}", query(bad)), "", "");
        assert!(answer.status == 400 && answer.json()["detail"].as_str().unwrap().contains(what), "{bad}: {}", answer.text());
    }
    // The same verdicts as `netpolicy explain`.
    fs::write(world.path("config.toml"), rules()).unwrap();
    for request in ["GET https://a.test/x", "nobody.test", "POST http://read.test/", "evil.test", "socks read.test:22", "udp a.test:53"] {
        let output = netpolicy(world.folder.path(), &["explain", "--json", "--user", "config.toml", request]);
        let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
        let ours = explain(request, "");
        assert_eq!(ours["decision"], theirs["decision"], "{request}");
        assert_eq!(ours["reason"].as_str().filter(|reason| *reason != "allow"), theirs["reason"].as_str(), "{request}");
    }
}

#[test]
fn rules_come_in_pages() {
    let world = World::start(&rules(), &[]);
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let page = world.get(&format!("/v1/patterns?limit=1{after}"));
        found.extend(page["rules"].as_array().unwrap().iter().map(|rule| rule["hosts"].as_str().unwrap().to_owned()));
        match page["next"].as_u64() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    found.sort();
    assert_eq!(found, ["*.wide.test", "a.test", "evil.test", "read.test"]);
    let wide = world.get("/patterns?contains=WIDE");
    assert_eq!((wide["allowed"].clone(), wide["denied"].clone()), (json!(["*.wide.test"]), json!([])));
}

#[test]
fn tunnels_are_listed_with_what_went_through_them_and_closed_one_by_one() {
    let echo = Origin::echo();
    let world = World::start(&rules(), &[]);
    let mut one = world.tunnel(echo.port());
    let mut two = world.tunnel(echo.port());
    let page = world.get("/v1/tunnels?limit=1");
    assert_eq!((page["total"].as_u64(), page["tunnels"].as_array().unwrap().len()), (Some(2), 1));
    let first = page["tunnels"][0].clone();
    assert_eq!((first["host"].as_str(), first["protocol"].as_str()), (Some("a.test"), Some("https_connect")));
    wait_until("bytes are seen", || {
        let first = world.get("/v1/tunnels")["tunnels"][0].clone();
        (first["up"].as_u64(), first["down"].as_u64()) == (Some(4), Some(4))
    });
    let next = world.get(&format!("/v1/tunnels?after={}", page["next"]));
    let second = next["tunnels"][0]["id"].as_u64().unwrap();
    assert!(next["next"].is_null() && second > first["id"].as_u64().unwrap());
    assert_eq!(world.request("DELETE", &format!("/v1/tunnels/{}", first["id"]), "", "").json()["status"], "closing");
    assert_eq!(one.rest(), b"", "it is closed");
    assert_eq!(two.send("pong").bytes(4), b"pong", "the other is not");
    assert_eq!(world.post(&format!("/tunnels/{second}/close"), "").0, 200);
    assert_eq!(two.rest(), b"");
    wait_until("none is left", || world.get("/v1/tunnels")["total"] == 0);
    assert_eq!(world.post(&format!("/v1/tunnels/{second}/close"), "").0, 404);
}

/// Reads events from a stream: pairs of a name and a JSON value, with their ids.
struct Events(BufReader<std::net::TcpStream>);

impl Events {
    fn follow(admin: SocketAddr, query: &str, fields: &str) -> Self {
        let mut client = Client::connect(admin);
        client.send(format!("GET /v1/events{query} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{fields}\r\n"));
        let (mut reader, _) = client.into_halves();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0);
        }
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"), "{head}");
        let mut events = Self(reader);
        // Its first piece says when to come back: from then on it follows.
        while events.line() != "retry: 2000" {}
        events
    }

    /// A line, without the framing of chunks.
    fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "the stream has ended");
        line.trim_end().to_owned()
    }

    /// Whether what comes next is the end, rather than an event, which is read.
    fn is_over(&mut self) -> bool {
        let mut is_start = false;
        loop {
            let mut line = String::new();
            // The last chunk is an empty one.
            if self.0.read_line(&mut line).unwrap() == 0 || line == "0\r\n" {
                return true;
            }
            if line.starts_with("data: ") && !std::mem::take(&mut is_start) {
                return false;
            }
            is_start |= line.trim_end() == "event: start";
        }
    }

    /// The next one. The start is told to who follows early enough.
    fn next(&mut self) -> (u64, String, Value) {
        let (mut id, mut name) = (0, String::new());
        loop {
            let line = self.line();
            if let Some(found) = line.strip_prefix("id: ") {
                id = found.parse().unwrap();
            } else if let Some(found) = line.strip_prefix("event: ") {
                name = found.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ").filter(|_| name != "start") {
                return (id, name, serde_json::from_str(data).unwrap());
            }
        }
    }
}

#[test]
fn events_come_as_they_happen_and_those_that_were_missed_come_again() {
    let world = World::start(&rules(), &[]);
    let mut all = Events::follow(world.proxy.admin(), "", "");
    let mut some = Events::follow(world.proxy.admin(), "?decision=deny&host=*.some.test&protocol=http", "");
    for host in ["other.test", "x.some.test"] {
        world.blocked(host);
    }
    let (first, name, event) = all.next();
    assert_eq!((name.as_str(), event["server.address"].as_str()), ("policy_decision", Some("other.test")));
    assert_eq!(event["event.name"], "codex.network_proxy.policy_decision");
    assert_eq!(all.next().2["server.address"], "x.some.test");
    let (second, _, event) = some.next();
    assert_eq!(event["server.address"], "x.some.test", "the other is not wanted");
    assert!(second > first);
    drop(all);
    world.blocked("third.test");
    let mut again = Events::follow(world.proxy.admin(), "", &format!("Last-Event-ID: {first}\r\n"));
    assert_eq!(
        [again.next().2, again.next().2].map(|event| event["server.address"].as_str().unwrap().to_owned()),
        ["x.some.test", "third.test"]
    );
    world.blocked("fourth.test");
    assert_eq!(again.next().2["server.address"], "fourth.test");
    // A number that was never given is of a process before this one.
    let mut restarted = Events::follow(world.proxy.admin(), "", "Last-Event-ID: 1000000\r\n");
    assert_eq!(restarted.next().2["server.address"], "other.test");
    for bad in ["?decision=maybe", "?protocol=gopher", "?host=*.", "?since=1"] {
        assert_eq!(world.request("GET", &format!("/v1/events{bad}"), "", "").status, 400, "{bad}");
    }
    assert_eq!(world.request("GET", "/v1/events", "Last-Event-ID: x\r\n", "").status, 400);
}

#[test]
fn streams_have_an_end_to_how_many_there_are_and_leave_room_for_others() {
    let world = World::start(&rules(), &[]);
    let streams: Vec<Events> = (0..16).map(|_| Events::follow(world.proxy.admin(), "", "")).collect();
    let answer = world.request("GET", "/v1/events", "", "");
    assert!(answer.status == 503 && answer.header("retry-after").is_some());
    assert_eq!(world.get("/v1/health")["status"], "ok");
    drop(streams);
    wait_until("there is room again", || {
        let mut client = Client::connect(world.proxy.admin());
        client.send("HEAD /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").answer_to("HEAD");
        let mut again = Client::connect(world.proxy.admin());
        again.send("GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let (mut reader, _) = again.into_halves();
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line.contains(" 200 ")
    });
}

#[test]
fn a_mode_holds_until_it_is_taken_back_and_is_never_looser_than_what_is_required() {
    let origin = Origin::start();
    let world = World::start(&rules(), &[]);
    let post = || {
        let authority = format!("a.test:{}", origin.port());
        Client::connect(world.proxy.http())
            .send(format!("POST http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
            .answer()
            .status
    };
    assert_eq!(post(), 299);
    let (status, limited) = world.post("/v1/mode", r#"{"mode":"limited"}"#);
    assert_eq!(
        (status, limited["mode"].as_str(), limited["policy_mode"].as_str(), limited["wanted"].as_str()),
        (200, Some("limited"), Some("full"), Some("limited"))
    );
    assert_eq!(limited["generation"], 2, "it is a swap");
    assert_eq!(post(), 403);
    let explained = world.get(&format!("/v1/explain?request={}", query("POST http://a.test/")));
    assert_eq!(explained["reason"], "method_not_allowed");
    assert!(explained["message"].as_str().unwrap().contains("an operator holds the policy to limited mode"), "{explained}");
    assert!(explained["change"]["help"].as_str().unwrap().contains("/v1/mode"), "{explained}");
    assert_eq!(world.get("/v1/health")["policy"]["mode"], "limited");
    assert_eq!(world.get("/v1/policy")["mode"]["wanted"], "limited");
    let (status, back) = world.post("/mode", r#"{"mode":null}"#);
    assert_eq!((status, back["mode"].as_str(), back["wanted"].is_null()), (200, Some("full"), true));
    assert_eq!(post(), 299);

    // A policy that is limited by itself may be loosened, by the user's operator; not one that an administrator holds.
    let limited = policy("allow_local_binding = true\nmode = \"limited\"", &[("a.test", "allow")]);
    let strict = World::start(&limited, &[]);
    let (status, set) = strict.post("/v1/mode", r#"{"mode":"full"}"#);
    let said = ["mode", "policy_mode", "wanted", "required_by", "may_be_full"].map(|key| set[key].clone());
    assert_eq!((status, said), (200, [json!("full"), json!("limited"), json!("full"), json!(null), json!(true)]));
    let post = |world: &World| {
        let authority = format!("a.test:{}", origin.port());
        Client::connect(world.proxy.http())
            .send(format!("POST http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
            .answer()
            .status
    };
    assert_eq!(post(&strict), 299);
    assert_eq!(strict.get(&format!("/v1/explain?request={}", query("POST http://a.test/")))["decision"], "allow");
    let file = strict.path("policy.bin");
    fs::write(&file, harness::compile_under("[experimental_network]\nmode = \"limited\"\n", &limited)).unwrap();
    assert_eq!(strict.post("/v1/reload", "").0, 200);
    assert_eq!(post(&strict), 403);
    let state = strict.get("/v1/policy")["mode"].clone();
    assert_eq!(
        state,
        json!({ "mode": "limited", "policy_mode": "limited", "wanted": null, "may_be_full": false, "required_by": "managed" })
    );
    let (status, refused) = strict.post("/v1/mode", r#"{"mode":"full"}"#);
    assert!(
        status == 409 && refused["detail"].as_str().unwrap().starts_with("the managed layer requires `mode = \"limited\"`"),
        "{refused}"
    );
    assert_eq!(strict.get("/v1/config")["mode"]["mode"], "limited");
    assert_eq!(strict.post("/v1/mode", r#"{"mode":"limited"}"#).0, 200, "what it is can be set");
}

#[test]
fn a_reload_says_what_came_of_it() {
    let world = World::start(&rules(), &[]);
    let file = world.path("policy.bin");
    let (status, same) = world.post("/v1/reload", "");
    assert_eq!(
        (status, same["status"].as_str(), same["outcome"].as_str(), same["generation"].as_u64()),
        (200, Some("reloaded"), Some("unchanged"), Some(1))
    );
    compile_to(&policy("", &[("b.test", "allow")]), &file);
    // Whoever looks first, the file is in force now.
    let (status, swapped) = world.post("/reload", "");
    assert_eq!((status, swapped["generation"].as_u64()), (200, Some(2)));
    assert_eq!(world.get("/v1/policy")["digest"], swapped["digest"]);
    fs::write(&file, "noise").unwrap();
    let (status, refused) = world.post("/v1/reload", "");
    assert!(status == 422 && refused["detail"].as_str().unwrap().contains("not a policy blob"), "{refused}");
    let shown = world.get("/v1/policy");
    assert!(shown["last_error"].as_str().unwrap().contains("not a policy blob") && shown["generation"] == 2 && shown["withdrawn"] == false);
    let built_in = DataPlane::start(&[]);
    let answer =
        Client::connect(built_in.admin()).send("POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").answer();
    assert_eq!(answer.status, 409, "{}", answer.text());
}

#[test]
fn a_drain_finishes_what_is_open_and_can_be_watched() {
    let echo = Origin::echo();
    let mut world = World::start(&rules(), &["--drain", "30"]);
    let ready = world.get("/v1/ready");
    assert_eq!((ready["ready"].as_bool(), ready["status"].as_str()), (Some(true), Some("ready")));
    let mut tunnel = world.tunnel(echo.port());
    let (status, draining) = world.post("/v1/drain", "");
    assert_eq!((status, draining["status"].as_str(), draining["tunnels"].as_u64()), (202, Some("draining"), Some(1)));
    let answer = world.request("GET", "/v1/ready", "", "");
    assert_eq!((answer.status, answer.json()["status"].as_str()), (503, Some("draining")));
    assert_eq!(tunnel.send("pong").bytes(4), b"pong", "what is open goes on");
    drop(tunnel);
    assert_eq!(world.proxy.wait(), 0);
}

#[test]
fn what_is_wrong_with_a_request_is_told_in_one_shape() {
    let world = World::start(&rules(), &[]);
    let json = "Content-Type: application/json\r\n";
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let long = "x".repeat(70_000);
    let uri = format!("/v1/explain?request={}", "x".repeat(17_000));
    let field = format!("X-Long: {}\r\n", "x".repeat(17_000));
    for (method, path, fields, body, status) in [
        ("GET", "/", "", "", 404),
        ("GET", "/v1/nothing", "", "", 404),
        ("GET", "/v2/health", "", "", 404),
        ("POST", "/v1/health", "", "", 405),
        ("GET", "/v1/mode", "", "", 405),
        ("PUT", "/v1/mode", json, "{}", 405),
        ("BREW", "/v1/health", "", "", 405),
        ("GET", "/v1/health", "Accept: text/html\r\n", "", 406),
        ("GET", "/v1/health", "Accept: application/json;q=0, text/*\r\n", "", 406),
        ("GET", "/v1/health", "Accept: text/html, */*;q=0.1\r\n", "", 200),
        ("GET", "/v1/metrics", "Accept: application/json\r\n", "", 406),
        ("POST", "/v1/mode", json, "", 411),
        ("POST", "/v1/mode", "Content-Length: 0\r\nContent-Type: application/json\r\n", "", 400),
        ("POST", "/v1/mode", json, "{", 400),
        ("POST", "/v1/mode", json, "{}", 400),
        ("POST", "/v1/mode", json, r#"{"mode":"loose"}"#, 400),
        ("POST", "/v1/mode", json, r#"{"mode":null,"more":1}"#, 400),
        ("POST", "/v1/mode", json, r#"["limited"]"#, 400),
        // Of no type, or of the one that curl and others give unless they are told another.
        ("POST", "/v1/mode", "", r#"{"mode":null}"#, 200),
        ("POST", "/v1/mode", form, r#"{"mode":null}"#, 200),
        ("POST", "/v1/mode", "Content-Type: Application/X-WWW-Form-URLencoded; charset=utf-8\r\n", r#"{"mode":null}"#, 200),
        ("POST", "/v1/mode", form, "mode=limited", 400),
        ("POST", "/v1/mode", "Content-Type: multipart/form-data; boundary=x\r\n", r#"{"mode":null}"#, 415),
        ("POST", "/v1/mode", "Content-Type: text/plain\r\n", r#"{"mode":null}"#, 415),
        ("POST", "/v1/mode", "Content-Type: application/json; charset=latin1\r\n", r#"{"mode":null}"#, 415),
        ("POST", "/v1/mode", "Content-Type: application/json; charset=UTF-8\r\n", r#"{"mode":null}"#, 200),
        ("POST", "/v1/mode", json, long.as_str(), 413),
        // Nothing is to be said there.
        ("POST", "/v1/reload", json, "{}", 200),
        ("POST", "/v1/reload", form, " { } ", 200),
        ("POST", "/v1/reload", json, r#"{"a":1}"#, 400),
        ("POST", "/v1/reload", json, "[]", 400),
        ("POST", "/v1/reload", json, "null", 400),
        ("POST", "/v1/reload", json, "{}{}", 400),
        ("POST", "/v1/reload", form, "a=b", 400),
        ("POST", "/v1/reload", "Content-Type: text/plain\r\n", "{}", 415),
        ("POST", "/v1/blocked/drain", "", "{}", 200),
        ("POST", "/v1/tunnels/1/close", form, "{}", 404),
        ("DELETE", "/v1/tunnels/1", "", "", 404),
        ("DELETE", "/v1/tunnels/x", "", "", 404),
        ("GET", "/v1/patterns?limit=0", "", "", 400),
        ("GET", "/v1/patterns?limit=1&limit=2", "", "", 400),
        ("GET", "/v1/explain", "", "", 400),
        ("GET", "/v1/explain?request=%zz", "", "", 400),
        ("GET", uri.as_str(), "", "", 414),
        ("GET", "/v1/health", field.as_str(), "", 431),
        ("GET", "/v1/health", "Host: localhost\r\n", "", 400),
    ] {
        let answer = world.request(method, path, fields, body);
        let shown = path.get(..40).unwrap_or(path);
        assert_eq!(answer.status, status, "{method} {shown} {fields:.40}: {}", answer.text());
        if status >= 400 {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{method} {shown}");
            let problem = answer.json();
            assert_eq!((problem["status"].as_u64(), problem["type"].as_str()), (Some(u64::from(status)), Some("about:blank")));
            assert!(!problem["detail"].as_str().unwrap().is_empty() && !problem["title"].as_str().unwrap().is_empty());
        }
        assert_eq!(answer.header("allow").is_some(), status == 405, "{method} {shown}");
    }
    // Told at once, before anything of it comes, and to who may not write as well.
    for (fields, status) in [("Content-Type: application/json\r\n", 413), ("Origin: http://attacker.test\r\n", 403)] {
        let head = format!("POST /v1/mode HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: 99999999\r\n\r\n");
        // Of a body that is waited for, 408 is what is told.
        assert_eq!(Client::connect(world.proxy.admin()).send(head).answer().status, status, "{fields}");
    }
    let chunked = world.request("POST", "/v1/mode", &format!("{json}Transfer-Encoding: chunked\r\n"), "");
    assert_eq!(chunked.status, 408, "a body that does not come: {}", chunked.text());
    let options = world.request("OPTIONS", "/v1/tunnels/7", "Origin: http://localhost\r\n", "");
    assert_eq!((options.status, options.header("allow")), (204, Some("DELETE, OPTIONS")));
    assert!(options.headers.iter().all(|(name, _)| !name.starts_with("access-control-")));
}

#[test]
fn web_pages_neither_read_nor_write() {
    let world = World::start(&rules(), &[]);
    let rebound = "GET /v1/health HTTP/1.1\r\nHost: rebound.attacker.test\r\n\r\n";
    assert_eq!(Client::connect(world.proxy.admin()).send(rebound).answer().status, 403);
    for (method, path, fields, status) in [
        ("GET", "/v1/policy", "Origin: http://attacker.test\r\n", 403),
        ("GET", "/v1/policy", "Sec-Fetch-Site: cross-site\r\n", 403),
        ("POST", "/v1/blocked/drain", "Origin: http://attacker.test\r\n", 403),
        ("POST", "/v1/blocked/drain", "Origin: null\r\nContent-Type: application/x-www-form-urlencoded\r\n", 403),
        ("POST", "/v1/blocked/drain", "User-Agent: Mozilla/5.0\r\nReferer: http://attacker.test/\r\n", 403),
        ("POST", "/v1/blocked/drain", "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\nUser-Agent: Mozilla/5.0\r\n", 200),
        ("POST", "/v1/blocked/drain", "User-Agent: Mozilla/5.0\r\nX-Netproxy-Admin: 1\r\n", 200),
        ("OPTIONS", "/v1/mode", "Origin: http://attacker.test\r\nAccess-Control-Request-Method: POST\r\n", 403),
    ] {
        assert_eq!(world.request(method, path, fields, "").status, status, "{method} {path} {fields}");
    }
    // A form of a page can have JSON for its body, and a script can send it without a type: never with nothing of a browser about it. Which fields there are is a browser's doing.
    let own = "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\nUser-Agent: Mozilla/5.0\r\n";
    for (fields, status) in [
        ("Origin: http://attacker.test\r\nSec-Fetch-Site: cross-site\r\nUser-Agent: Mozilla/5.0\r\n", 403),
        ("Origin: http://attacker.test\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Sec-Fetch-Site: cross-site\r\n", 403),
        ("Referer: http://attacker.test/\r\n", 403),
        ("User-Agent: Mozilla/5.0\r\n", 403),
        (own, 415),
        ("Sec-Fetch-Mode: no-cors\r\n", 415),
        ("Cookie: a=b\r\n", 415),
        ("User-Agent: Mozilla/5.0\r\nX-Netproxy-Admin: 1\r\n", 415),
        ("Referer: http://attacker.test/\r\nX-Netproxy-Admin: 1\r\n", 415),
        ("User-Agent: curl/8.5.0\r\n", 200),
    ] {
        for kind in ["", "Content-Type: application/x-www-form-urlencoded\r\n"] {
            let answer = world.request("POST", "/v1/mode", &format!("{fields}{kind}"), r#"{"mode":null}"#);
            assert_eq!(answer.status, status, "{fields}{kind}: {}", answer.text());
        }
        let plain = world.request("POST", "/v1/mode", &format!("{fields}Content-Type: text/plain\r\n"), r#"{"mode":null}"#);
        assert_eq!(plain.status, if status == 200 { 415 } else { status }, "{fields}");
    }
    let ours = world.request("POST", "/v1/mode", &format!("{own}Content-Type: application/json\r\n"), r#"{"mode":null}"#);
    assert_eq!(ours.status, 200, "{}", ours.text());
}

const BOTH: &str = "0123456789abcdef0123456789abcdef";
const READ: &str = "fedcba9876543210fedcba9876543210";

fn secret_file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn tokens_are_asked_for_where_there_are_some_and_do_what_their_scope_says() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = secret_file(folder.path(), "tokens", &format!("{BOTH}\nread:{READ}\n"));
    let world = World::start(&rules(), &["--admin-token-file", &tokens, "--admin-host", "proxy.internal.test"]);
    let ask = |method: &str, path: &str, token: &str| {
        let fields = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        world.request(method, path, &fields, "")
    };
    for path in ["/v1/health", "/v1/ready", "/v1/metrics", "/v1/openapi.json", "/v1/events", "/config"] {
        let answer = ask("GET", path, "");
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer realm=\"netproxy\"")), "{path}");
    }
    assert_eq!(ask("GET", "/v1/policy", READ).status, 200);
    let refused = ask("POST", "/v1/blocked/drain", READ);
    assert!(refused.status == 403 && refused.header("www-authenticate").unwrap().contains("insufficient_scope"));
    assert_eq!(ask("POST", "/v1/blocked/drain", BOTH).status, 200);
    let config = ask("GET", "/v1/config", BOTH);
    assert_eq!(config.json()["admin"]["auth"], "token");
    assert!(!config.text().contains(BOTH) && !config.text().contains(READ));
    let named = format!("GET /v1/policy HTTP/1.1\r\nHost: proxy.internal.test\r\nAuthorization: Bearer {READ}\r\n\r\n");
    assert_eq!(Client::connect(world.proxy.admin()).send(named).answer().status, 200);
    // Who guesses is slowed down, and not told whether he is right.
    let guess = || ask("GET", "/v1/policy", "guess-guess-guess-guess");
    let first = guess();
    assert!(first.status == 401 && first.header("www-authenticate").unwrap().contains("invalid_token"));
    wait_until("who guesses is slowed down", || {
        let answer = guess();
        answer.status == 429 && answer.header("retry-after").is_some()
    });
}

/// Signed as its issuer would, with what the machine has.
fn signed(secret: &str, header: &str, claims: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as base64url;
    let text = format!("{}.{}", base64url.encode(header), base64url.encode(claims));
    let tag = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes()), text.as_bytes());
    format!("{text}.{}", base64url.encode(tag))
}

#[test]
fn signed_tokens_do_what_their_scope_says_as_long_as_they_hold() {
    let secret = "a secret of more than thirty-two bytes";
    let folder = tempfile::tempdir().unwrap();
    let file = secret_file(folder.path(), "secret", secret);
    let flags = [
        "--admin-shared-secret-file",
        &file,
        "--admin-issuer",
        "ops",
        "--admin-audience",
        "netproxy",
        "--admin-max-clock-skew-seconds",
        "5",
    ];
    let world = World::start(&rules(), &flags);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let header = r#"{"alg":"HS256","typ":"JWT"}"#;
    let claims = |exp: u64, scope: &str| format!(r#"{{"iss":"ops","aud":"netproxy","exp":{exp},"scope":"{scope}"}}"#);
    for (token, read, write) in [
        (signed(secret, header, &claims(now + 60, "netproxy:read")), 200, 403),
        (signed(secret, header, &claims(now + 60, "netproxy:write")), 200, 200),
        (signed(secret, header, &claims(now + 60, "other")), 403, 403),
        (signed(secret, header, &claims(now - 60, "netproxy:read")), 401, 401),
        (signed("another secret of thirty-two bytes", header, &claims(now + 60, "netproxy:read")), 401, 401),
        (signed(secret, r#"{"alg":"none"}"#, &claims(now + 60, "netproxy:read")), 401, 401),
    ] {
        let ask = |method: &str, path: &str| world.request(method, path, &format!("Authorization: Bearer {token}\r\n"), "").status;
        assert_eq!((ask("GET", "/v1/policy"), ask("POST", "/v1/blocked/drain")), (read, write));
    }
}

/// A stream lasts no longer than the token that opened it.
#[test]
fn a_stream_of_events_ends_with_its_token() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = secret_file(folder.path(), "tokens", &format!("{BOTH}\nread:{READ}\n"));
    let world = World::start(&rules(), &["--admin-token-file", &tokens]);
    let of = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let [mut lasting, mut ending] = [BOTH, READ].map(|token| Events::follow(world.proxy.admin(), "", &of(token)));
    world.blocked("first.test");
    assert_eq!(
        [lasting.next().2, ending.next().2].map(|event| event["server.address"].clone()),
        [json!("first.test"), json!("first.test")]
    );
    let new = folder.path().join("new");
    fs::rename(secret_file(folder.path(), "new", BOTH), &tokens).unwrap();
    assert!(!new.exists());
    wait_until("the token holds no longer", || world.request("GET", "/v1/policy", &of(READ), "").status != 200);
    // It is looked at before an event is told, and not more than once a second.
    let began = std::time::Instant::now();
    loop {
        world.blocked("later.test");
        assert_eq!(lasting.next().2["server.address"], "later.test");
        if ending.is_over() {
            break;
        }
        assert!(began.elapsed() < harness::PATIENCE, "it has not ended");
    }
}

#[test]
fn other_machines_need_the_policys_word_and_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = secret_file(folder.path(), "tokens", BOTH);
    let (closed, open) = (folder.path().join("closed.bin"), folder.path().join("open.bin"));
    compile_to(&policy("", &[]), &closed);
    compile_to(&policy("dangerously_allow_non_loopback_admin = true", &[]), &open);
    let sockets = folder.path().join("sockets.bin");
    compile_to(&policy("dangerously_allow_non_loopback_admin = true\nunix_sockets = { \"/run/x.sock\" = \"allow\" }", &[]), &sockets);
    let run = |file: &Path, more: &[&str]| {
        let mut command = std::process::Command::new(harness::binaries::path("netproxy-dp"));
        command.args([
            "--policy",
            file.to_str().unwrap(),
            "--http-listen",
            "127.0.0.1:0",
            "--socks-listen",
            "127.0.0.1:0",
            "--admin-listen",
            "0.0.0.0:0",
        ]);
        let output = command.args(more).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (file, more, said) in [
        (&closed, &[][..], "needs a token"),
        (&open, &[], "needs a token"),
        (&closed, &["--admin-token-file", &tokens], "dangerously_allow_non_loopback_admin = true"),
        (&sockets, &["--admin-token-file", &tokens], "the policy opens unix sockets"),
        (&open, &["--admin-token-file", "/no/such/file"], "cannot read `/no/such/file`"),
        (&open, &["--admin-host", "x.test"], "only together with tokens"),
        (&open, &["--admin-socket", "/no/such/folder/socket"], "needs a token"),
    ] {
        let (code, stderr) = run(file, more);
        assert!(code == Some(2) && stderr.contains(said), "{more:?}: {stderr}");
    }
    let mut command = std::process::Command::new(harness::binaries::path("netproxy-dp"));
    command.args(["--json", "--policy", open.to_str().unwrap(), "--http-listen", "127.0.0.1:0", "--socks-listen", "127.0.0.1:0"]);
    command.args(["--admin-listen", "0.0.0.0:0", "--admin-token-file", &tokens]).env("NETPROXY_STATE_DIR", folder.path().join("state"));
    let proxy = DataPlane::spawn(command);
    let at = SocketAddr::from(([127, 0, 0, 1], proxy.admin().port()));
    assert_eq!(Client::connect(at).send("GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n").answer().status, 401);
    let with = format!("GET /v1/health HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {BOTH}\r\n\r\n");
    assert_eq!(Client::connect(at).send(with).answer().status, 200);
    // A policy that takes that back is not put in force.
    compile_to(&policy("", &[]), &open);
    let reload = format!("POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {BOTH}\r\nContent-Length: 0\r\n\r\n");
    let refused = Client::connect(at).send(reload).answer();
    assert!(refused.status == 422 && refused.text().contains("forbids the open admin listener"), "{}", refused.text());
}

fn over_socket(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_unix_socket_needs_no_token_and_no_client_of_the_proxy_gets_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, alias, hard) = (folder.path().join("admin.sock"), folder.path().join("alias.sock"), folder.path().join("hard.sock"));
    let tokens = secret_file(folder.path(), "tokens", BOTH);
    let sockets: Vec<String> = [&socket, &alias, &hard].map(|path| format!("\"{}\" = \"allow\"", path.display())).into();
    let toml = policy(
        &format!("allow_local_binding = true\nunix_sockets = {{ {} }}", sockets.join(", ")),
        &[("*", "allow"), ("localhost", "allow")],
    );
    // What a process that has ended left there is replaced.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let world = World::start(&toml, &["--admin-token-file", &tokens, "--admin-socket", socket.to_str().unwrap()]);
    assert_eq!(fs::symlink_metadata(&socket).unwrap().permissions().mode() & 0o7777, 0o600);
    let answer = over_socket(&socket, "GET /v1/config HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("admin.sock"), "{answer}");
    assert!(
        over_socket(&socket, "POST /v1/blocked/drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            .starts_with("HTTP/1.1 200 ")
    );
    assert!(over_socket(&socket, "GET /v1/config HTTP/1.1\r\nHost: attacker.test\r\n\r\n").starts_with("HTTP/1.1 403 "));
    std::os::unix::fs::symlink(&socket, &alias).unwrap();
    fs::hard_link(&socket, &hard).unwrap();
    let through = |path: &Path| {
        let head = format!("GET http://x/v1/config HTTP/1.1\r\nHost: x\r\nX-Unix-Socket: {}\r\nConnection: close\r\n\r\n", path.display());
        Client::connect(world.proxy.http()).send(head).answer()
    };
    for path in [&socket, &alias] {
        let answer = through(path);
        assert_eq!((answer.status, answer.blocked_reason().as_str()), (403, "policy_denied"), "{}", answer.text());
    }
    // By a name that nobody knows to be the same, it is the kernel that says who comes.
    assert_eq!(through(&hard).status, 502);
    // Nor by any way to its address.
    let port = world.proxy.admin().port();
    for host in ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"] {
        let head = format!("GET http://{host}:{port}/v1/config HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {BOTH}\r\n\r\n");
        let answer = Client::connect(world.proxy.http()).send(head).answer();
        assert_eq!((answer.status, answer.blocked_reason().as_str()), (403, "policy_denied"), "{host}: {}", answer.text());
    }
    // Another process does not take it away from one that runs.
    let output = std::process::Command::new(harness::binaries::path("netproxy-dp"))
        .args(["--http-listen", "127.0.0.1:0", "--socks-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--admin-socket"])
        .arg(&socket)
        .output()
        .unwrap();
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("another process listens there"));
}

#[test]
fn who_says_nothing_locks_nobody_out() {
    let world = World::start(&rules(), &[]);
    let mut silent: Vec<Client> = (0..64).map(|_| Client::connect(world.proxy.admin())).collect();
    // Each of these has the place of one that came before it.
    for _ in 0..80 {
        assert_eq!(world.request("GET", "/v1/health", "", "").status, 200);
    }
    // Half a head is none.
    silent.extend((0..64).map(|_| {
        let mut client = Client::connect(world.proxy.admin());
        client.send("GET /v1/health HTTP/1.1\r\nHost: localh");
        client
    }));
    assert_eq!(world.request("GET", "/v1/health", "", "").status, 200);
    drop(silent);
    // The same through the unix socket, which has fewer places.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let proxy = DataPlane::start(&["--admin-socket", path.to_str().unwrap()]);
    let silent: Vec<UnixStream> = (0..64).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert!(over_socket(&path, "GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n").starts_with("HTTP/1.1 200"));
    drop((silent, proxy));
}

#[test]
fn what_is_answered_to_nobody_in_particular_has_a_bound_too() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = secret_file(folder.path(), "tokens", "a-token-a-token-a-token-a-token\n");
    let token = "Authorization: Bearer a-token-a-token-a-token-a-token\r\n";
    for (args, path, status) in [
        (vec![], "/v1/nothing", 404),
        (vec![], "/v1/policy?x=1", 400),
        (vec!["--admin-token-file", &tokens], "/v1/nothing", 404),
        (vec!["--admin-token-file", &tokens], "/v1/policy", 401),
        (vec!["--admin-token-file", &tokens], "/ui", 200),
    ] {
        let world = World::start(&rules(), &args);
        let began = Instant::now();
        let all: Vec<u16> = std::thread::scope(|scope| {
            let ask = || (0..500).map(|_| world.request("GET", path, "", "").status).collect::<Vec<_>>();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let room = 1000 + 500 * (usize::try_from(began.elapsed().as_secs()).unwrap() + 1);
        let answered = all.iter().filter(|said| **said == status).count();
        assert!((1000..=room).contains(&answered), "{path}: {answered} of {} in {:?}", all.len(), began.elapsed());
        assert!(all.iter().all(|said| *said == status || *said == 429), "{path}");
        if !args.is_empty() {
            assert_eq!(world.request("GET", "/v1/stats", token, "").status, 200, "who may has room of his own");
        }
    }
}

#[test]
fn what_is_in_force_is_shown_without_a_secret() {
    let settings = "upstream = \"http://user:hunter2@proxy.test:3128\"";
    let toml = policy(settings, &[("a.test", "allow")]);
    let world = World::start(&toml, &["--limit", "connections=77"]);
    let config = world.get("/v1/config");
    assert_eq!(config["limits"]["connections"], 77);
    assert_eq!(config["listeners"]["admin"], world.proxy.admin().to_string());
    assert_eq!((config["admin"]["auth"].as_str(), config["network"].as_str()), (Some("none"), Some("proxied")));
    assert!(!config.to_string().contains("hunter2"), "{config}");
    let shown = world.get("/v1/policy");
    assert_eq!((shown["origin"].as_str(), shown["layers"][0]["layer"].as_str()), (Some("file"), Some("user")));
    assert_eq!(shown["layers"][0]["files"], json!(["config.toml"]));
    let stats = world.get("/v1/stats");
    assert_eq!((stats["allowed"].as_u64(), stats["generation"].as_u64()), (Some(0), Some(1)));
}

#[test]
fn a_layer_that_holds_something_is_shown_without_a_rule() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    fs::write(dir.join("config.toml"), policy("", &[("a.test", "allow")])).unwrap();
    fs::write(dir.join("requirements.toml"), "[experimental_network]\nmode = \"limited\"\n").unwrap();
    let output = netpolicy(dir, &["compile", "--user", "config.toml", "--requirements", "requirements.toml", "-o", "policy.bin"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let inspected = String::from_utf8(netpolicy(dir, &["inspect", "policy.bin"]).stdout).unwrap();
    assert!(inspected.contains("\n  held_by_administrators = [\"mode = \\\"limited\\\" (managed)\"]\n"), "{inspected}");
    let proxy = DataPlane::start(&["--policy", dir.join("policy.bin").to_str().unwrap()]);
    let world = World { folder, proxy };
    let shown = world.get("/v1/policy");
    assert_eq!(shown["mode"]["required_by"], "managed");
    assert_eq!(
        shown["layers"],
        json!([
            { "layer": "managed", "files": [], "holds": ["mode = \"limited\""] },
            { "layer": "user", "files": ["config.toml"], "holds": [] },
        ])
    );
    let page = world.request("GET", "/ui", "", "").text();
    assert!(page.contains("<strong>managed</strong>, holds <code>mode = &quot;limited&quot;</code>"), "{page}");
    let admin = format!("http://{}", world.proxy.admin());
    let top = Command::new(binaries::path("netproxy-dp")).args(["top", "--once", "--admin", &admin]).output().unwrap();
    let top = String::from_utf8(top.stdout).unwrap();
    assert!(top.contains("managed: holds mode = \"limited\"\n"), "{top}");
}

#[test]
fn a_new_process_goes_on_with_the_unix_socket_of_an_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let (door, socket) = (folder.path().join("door"), folder.path().join("admin.sock"));
    let flags = ["--hand-over", door.to_str().unwrap(), "--admin-socket", socket.to_str().unwrap()];
    let mut old = DataPlane::start(&flags);
    let started = || over_socket(&socket, "GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let first = started();
    assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
    let new = DataPlane::start(&flags);
    assert_eq!(old.wait(), 0);
    assert_eq!(old.admin(), new.admin());
    let second = started();
    assert!(second.starts_with("HTTP/1.1 200 ") && second.contains(env!("CARGO_PKG_VERSION")), "{second}");
}
