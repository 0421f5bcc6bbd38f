//! The schemas that editors get: what is right passes, what is wrong does not.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn schema(flags: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_netpolicy")).arg("schema").args(flags).output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn document(text: &str) -> Value {
    toml::from_str(text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

#[track_caller]
fn assert_valid(schema: &Value, text: &str) {
    if let Err(error) = jsonschema::validate(schema, &document(text)) {
        panic!("{error} at {}\n{text}", error.instance_path());
    }
}

#[test]
fn every_example_is_valid() {
    let schema = schema(&[]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut checked = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".toml") {
            continue;
        }
        let flags: &[&str] = match () {
            () if name.contains("requirements") => &["--requirements"],
            () if name.ends_with("test.toml") => &["--test"],
            () => &[],
        };
        let own = if flags.is_empty() { schema.clone() } else { self::schema(flags) };
        assert_valid(&own, &std::fs::read_to_string(&file).unwrap());
        checked += 1;
    }
    assert!(checked >= 2);
}

const FULL: &str = r#"
model = "gpt"
default_permissions = "workspace"
features.network_proxy = true

[mcp_servers.x]
command = "x"

[permissions.workspace]
extends = "base"
filesystem = { "/tmp" = "write" }

[permissions.workspace.network]
enabled = true
mode = "full"
proxy_url = "http://127.0.0.1:3128"
enable_socks5 = true
socks_url = "http://127.0.0.1:8081"
enable_socks5_udp = true
admin_url = "http://127.0.0.1:8080"
allow_upstream_proxy = true
allow_local_binding = false
dangerously_allow_non_loopback_proxy = false
dangerously_allow_non_loopback_admin = false
dangerously_allow_all_unix_sockets = false
credential_broker = false
dangerously_allow_plaintext_credential_injection = false
sni = "log"
via = false
forwarded = "x-forwarded-for"
resolver = ["10.0.0.53", "10.0.0.53:5353", "2001:db8::53", "[2001:db8::53]:53", "https://dns.example/dns-query"]
presets = ["common-dependencies"]
domain_lists = [{ path = "lists/ads.txt", format = "domains", access = "deny" }]

[permissions.workspace.network.domains]
"*" = "allow"
"*.openai.com" = "allow"
"evil.example" = "deny"
"api.example.com:8443" = "none"
"10.20.0.0/16" = { access = "allow", ports = [443, "8000-8999"], methods = ["GET"], paths = ["/v1/"], reason = "the API" }
"[2001:db8::1]" = "read-only"

[permissions.workspace.network.unix_sockets]
"/tmp/example.sock" = "allow"

[permissions.workspace.network.upstream]
url = "http://proxy.corp.example:8080"
no_proxy = ["localhost"]
rules = [{ hosts = ["*.corp.example", "10.0.0.0/8"], url = "direct" }, { hosts = ["*"], url = "socks5h://gate.example:1080" }]

[permissions.workspace.network.limits]
connections = 4096
connect_timeout = "5s"
idle_timeout = 600
head_bytes = "32KiB"
request_body_bytes = "2 GB"
on_revoke = "keep"

[permissions.workspace.network.mitm]
mode = "auto"
bypass = ["**.bank.example"]
ca_cert_path = "ca.pem"
ca_key_path = "ca.key"
max_body_bytes = 4096

[permissions.workspace.network.mitm.hooks.github_write]
host = "api.github.com"
methods = ["POST", "PUT"]
path_prefixes = ["/repos/openai/"]
query = { state = ["open"] }
headers = { accept = ["application/json"] }
action = ["strip_auth"]

[permissions.workspace.network.mitm.actions.strip_auth]
strip_request_headers = ["authorization"]
inject_request_headers = [{ name = "authorization", secret_env_var = "TOKEN", prefix = "Bearer " }]
strip_response_headers = ["set-cookie"]
"#;

const OLDER: &str = r#"
[network]
proxy = "http://proxy.corp.example:8080"
no_proxy = ["localhost"]

[network_proxy]
enabled = true
mode = "limited"

[network_proxy.policy]
allowed_domains = ["*.openai.com"]
denied_domains = ["evil.example"]
allow_local_binding = false
allow_unix_sockets = ["/tmp/x.sock"]

[network_proxy.mitm]
enabled = true
inspect = true
max_body_bytes = 4096
ca_cert_path = "ca.pem"
ca_key_path = "ca.key"

[permissions.network]
enabled = true
allowed_domains = ["*.openai.com"]

[permissions.w.network]
mitm = { enabled = true, inspect = false }

[features.network_proxy]
enabled = true
domains = { "a.example" = "allow" }
"#;

const REQUIREMENTS: &str = r#"
allowed_approval_policies = ["on-request"]

[experimental_network]
enabled = true
http_port = 3128
socks_port = 8081
allow_upstream_proxy = false
dangerously_allow_non_loopback_proxy = false
dangerously_allow_all_unix_sockets = false
allow_local_binding = false
mode = "limited"
allowed_domains = ["*.openai.com"]
denied_domains = ["evil.example"]
allow_unix_sockets = ["/tmp/x.sock"]
managed_allowed_domains_only = true

[experimental_network.domains]
"**.corp.example" = "allow"

[experimental_network.unix_sockets]
"/tmp/example.sock" = "allow"
"#;

const TESTS: &str = r#"
[[case]]
name = "the package registry can be reached"
request = "GET https://github.com/"
expect = "allow"
rule = "github.com"
layer = "project"

[[case]]
name = "nothing else can"
requests = ["GET https://example.com/", "CONNECT example.org:443", "socks example.net:22"]
expect = "deny"
reason = "not_allowed"
"#;

#[test]
fn everything_that_can_be_said_is_valid() {
    let config = schema(&[]);
    for text in ["", FULL, OLDER] {
        assert_valid(&config, text);
    }
    assert_valid(&schema(&["--requirements"]), REQUIREMENTS);
    assert_valid(&schema(&["--test"]), TESTS);
}

#[test]
fn every_key_of_the_tables_is_offered() {
    let schema = schema(&[]);
    let network = &schema["definitions"]["network"]["properties"];
    for key in policy_compiler::keys::NETWORK.all_keys() {
        let property = &network[key.name];
        assert!(property["description"].as_str().unwrap().starts_with(key.doc), "{}", key.name);
        assert_eq!(property.get("deprecated").is_some(), key.instead.is_some(), "{}", key.name);
    }
    assert_eq!(network["mode"]["enum"], serde_json::json!(["limited", "full"]));
    assert_eq!(network["proxy_url"]["default"], "http://127.0.0.1:3128");
    let limits = &schema["definitions"]["limits"]["properties"];
    for limit in policy_format::Limits::ALL {
        assert_eq!(limits[limit.name]["description"], limit.doc);
    }
    assert_eq!(limits["connect_timeout"]["default"], "15s");
    assert_eq!(limits["connections"]["default"], 16384);
    assert_eq!(limits["on_revoke"]["enum"], serde_json::json!(["close", "keep"]));
}

/// Each alone makes a document wrong.
#[test]
fn what_is_wrong_does_not_pass() {
    let network = [
        "enabled = 1",
        "mode = \"ful\"",
        "enabeld = true",
        "presets = \"github\"",
        "presets = [\"no-such-preset\"]",
        "proxy_url = 3128",
        "proxy_url = \"http://127.0.0.1:3128/a/b\"",
        "allow_local_binding = \"yes\"",
        "domains = [\"a.example\"]",
        "domains = { \"https://a.example\" = \"allow\" }",
        "domains = { \"a.example/path\" = \"allow\" }",
        "domains = { \"user@a.example\" = \"allow\" }",
        "domains = { \"**\" = \"allow\" }",
        "domains = { \"\" = \"allow\" }",
        "domains = { \"*\" = \"deny\" }",
        "domains = { \"a.example\" = \"alow\" }",
        "domains = { \"a.example\" = true }",
        "domains = { \"a.example\" = { ports = [443] } }",
        "domains = { \"a.example\" = { access = \"allow\", ports = [] } }",
        "domains = { \"a.example\" = { access = \"allow\", ports = [0] } }",
        "domains = { \"a.example\" = { access = \"allow\", ports = [\"a-b\"] } }",
        "domains = { \"a.example\" = { access = \"allow\", prots = [443] } }",
        "domains = { \"a.example\" = { access = \"allow\", paths = [\"v1/\"] } }",
        "domain_lists = [{ path = \"x\", access = \"deny\", format = \"csv\" }]",
        "domain_lists = [{ access = \"deny\" }]",
        "unix_sockets = { \"relative.sock\" = \"allow\" }",
        "unix_sockets = { \"/tmp/x\" = \"read-only\" }",
        "upstream = { url = \"ftp://proxy.example\" }",
        "upstream = { rules = [{ hosts = [\"*\"] }] }",
        "upstream = { rules = [{ hosts = [\"*\"], url = \"proxy.example:80\" }] }",
        "sni = true",
        "sni = \"strict\"",
        "via = \"yes\"",
        "forwarded = \"xff\"",
        "resolver = \"10.0.0.53\"",
        "resolver = [\"dns.example\"]",
        "resolver = [\"http://dns.example/dns-query\"]",
        "limits = { conections = 5 }",
        "limits = { connections = 0 }",
        "limits = { connections = \"many\" }",
        "limits = { connect_timeout = \"5 parsecs\" }",
        "limits = { connect_timeout = 0 }",
        "limits = { on_revoke = \"pause\" }",
        "mitm = { mode = \"never\" }",
        "mitm = { hooks = { x = { methods = [\"GET\"] } } }",
        "mitm = { actions = { x = { inject_request_headers = [{ name = \"a\" }] } } }",
        "mitm = { actions = { x = { inject_request_headers = [{ name = \"a\", secret_file = \"x\", secret_env_var = \"X\" }] } } }",
    ];
    let config = schema(&[]);
    for line in network {
        for table in ["permissions.workspace.network", "features.network_proxy"] {
            let text = format!("[{table}]\n{line}\n");
            assert!(!jsonschema::is_valid(&config, &document(&text)), "{text}");
        }
    }
    let others: [(&[&str], &str); 14] = [
        (&[], "default_permissions = 1"),
        (&[], "features.network_proxy = \"on\""),
        (&[], "permissions = \"all\""),
        (&[], "[network_proxy]\nallowed = []"),
        (&[], "[network]\nproxies = []"),
        (&["--requirements"], "[experimental_network]\nhttp_port = 70000"),
        (&["--requirements"], "[experimental_network]\nproxy_url = \"http://127.0.0.1:1\""),
        (&["--requirements"], "[experimental_network]\nmode = \"off\""),
        (&["--test"], "[[case]]\nname = \"x\"\nexpect = \"allow\""),
        (&["--test"], "[[case]]\nname = \"x\"\nrequest = \"GET https://a.example/\""),
        (&["--test"], "[[case]]\nname = \"x\"\nrequest = \"GET\"\nexpect = \"allow\""),
        (&["--test"], "[[case]]\nname = \"x\"\nrequest = \"GET https://a.example/\"\nexpect = \"maybe\""),
        (&["--test"], "[[case]]\nname = \"x\"\nrequests = []\nexpect = \"deny\""),
        (&["--test"], "[[cases]]\nname = \"x\"\nrequest = \"GET https://a.example/\"\nexpect = \"deny\""),
    ];
    for (flags, text) in others {
        assert!(!jsonschema::is_valid(&schema(flags), &document(text)), "{text}");
    }
}
