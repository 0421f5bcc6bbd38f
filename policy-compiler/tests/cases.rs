//! Layering and constraints as tables: each row of `tests/cases/*.toml` names what it proves.
//!
//! A row has the texts of its layers: `mdm_requirements`, `mdm`, `managed_requirements`, `managed`, `cli` (a list of `key=value`), `user`, `project`; `profile`
//! and `strict` are options. To keep rows short, `user` begins with the two lines of [`HEAD`] unless the row is `bare`; `net` at the start of a line or behind its `[` stands
//! for `permissions.w.network`; requirements begin with the line `[experimental_network]` unless they begin with a table themselves.
//!
//! It expects one of:
//! - `errors`: a part of the message of every error, in order; `error_layers`: the layers of the places of each;
//! - `expect`: fields of the compiled policy, as [`facts`] names them; `rules` and `hooks` as `what @ where`; `decides`: requests and their decisions.
//!
//! `warnings` are the codes of all warnings, in order; none unless it says so.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

mod common;

use policy_compiler::decompile::audit_toml;
use policy_compiler::diagnostic::{Diagnostic, Severity, render};
use policy_compiler::source::{LayerFiles, Places, Role, SourceFile};
use policy_compiler::{Options, compile};
use policy_format::{Blob, Decision, Host, Layer, Limits, Protocol, Request, decide};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::fs;
use std::path::Path;
use toml::de::{DeArray, DeTable, DeValue};

/// What `user` begins with.
const HEAD: &str = "default_permissions = \"w\"\npermissions.w.network.enabled = true\n";

/// The least number of rows: a file that is not read would be missed.
const ROWS: usize = 360;

const LAYERS: [(&str, Layer, Role); 7] = [
    ("mdm_requirements", Layer::Mdm, Role::Requirements),
    ("mdm", Layer::Mdm, Role::Config),
    ("managed_requirements", Layer::Managed, Role::Requirements),
    ("managed", Layer::Managed, Role::Config),
    ("cli", Layer::Cli, Role::Config),
    ("user", Layer::User, Role::Config),
    ("project", Layer::Project, Role::Config),
];

const EXPECTATIONS: [&str; 7] = ["errors", "error_layers", "expect", "rules", "hooks", "decides", "warnings"];

#[test]
fn every_row_proves_what_it_says() {
    let mut proved: HashMap<String, String> = HashMap::new();
    let mut failures = String::new();
    let mut edits = 0;
    let mut files: Vec<_> =
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let table = DeTable::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(table.get_ref().keys().all(|key| key.get_ref() == "case"), "{}", file.display());
        for row in array(&table.get_ref()["case"]) {
            let row = row.get_ref().as_table().unwrap();
            let place = format!("{}: {}", file.file_name().unwrap().to_string_lossy(), string(&row["proves"]));
            if let Some(other) = proved.insert(string(&row["proves"]), place.clone()) {
                failures.push_str(&format!("{place}\n  is also in {other}\n"));
            }
            let (sources, options) = (sources(row), options(row));
            match outcome(row, &sources, options).and_then(|()| common::edits_work(&sources, options)) {
                Ok(tried) => edits += tried,
                Err(why) => failures.push_str(&format!("{place}\n{why}\n\n")),
            }
        }
    }
    assert!(failures.is_empty(), "{failures}");
    assert!(proved.len() >= ROWS, "{} rows", proved.len());
    assert!(edits >= 20, "{edits} edits were tried");
}

fn string(value: &toml::Spanned<DeValue<'_>>) -> String {
    value.get_ref().as_str().unwrap_or_else(|| panic!("not text: {value:?}")).to_owned()
}

fn array<'v, 'i>(value: &'v toml::Spanned<DeValue<'i>>) -> &'v DeArray<'i> {
    value.get_ref().as_array().unwrap_or_else(|| panic!("not a list: {value:?}"))
}

fn strings(row: &DeTable<'_>, key: &str) -> Vec<String> {
    row.get(key).map(|value| array(value).iter().map(string).collect()).unwrap_or_default()
}

fn options<'r>(row: &'r DeTable<'_>) -> Options<'r> {
    let strict = row.get("strict").is_some_and(|value| value.get_ref().as_bool().unwrap());
    Options { profile: row.get("profile").map(|value| value.get_ref().as_str().unwrap()), strict }
}

fn sources(row: &DeTable<'_>) -> Vec<SourceFile> {
    let known = |key: &str| ["proves", "bare", "profile", "strict"].contains(&key) || EXPECTATIONS.contains(&key);
    for key in row.keys() {
        let key = key.get_ref();
        assert!(known(key) || LAYERS.iter().any(|(name, ..)| name == key), "`{key}` means nothing in a row");
    }
    let bare = row.get("bare").is_some_and(|value| value.get_ref().as_bool().unwrap());
    let mut sources = Vec::new();
    for (name, layer, role) in LAYERS {
        if layer == Layer::Cli {
            let overrides = strings(row, "cli").iter().map(|text| expand(text)).collect();
            sources.extend(LayerFiles { overrides, ..LayerFiles::default() }.read(&Places::default()).unwrap());
        } else if let Some(value) = row.get(name) {
            let text = expand(&string(value));
            let (label, text) = match role {
                Role::Requirements if text.starts_with('[') => ("requirements.toml", text),
                Role::Requirements => ("requirements.toml", format!("[experimental_network]\n{text}")),
                Role::Config if layer == Layer::User && !bare => ("config.toml", format!("{HEAD}{text}")),
                Role::Config => ("config.toml", text),
            };
            sources.push(common::source(layer, role, label, &text));
        }
    }
    sources
}

fn expand(text: &str) -> String {
    let line = |line: &str| match (line.strip_prefix("net"), line.strip_prefix("[net")) {
        (Some(rest), _) if rest.starts_with(['.', ' ']) => format!("permissions.w.network{rest}"),
        (_, Some(rest)) if rest.starts_with(['.', ']']) => format!("[permissions.w.network{rest}"),
        _ => line.to_owned(),
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

fn outcome(row: &DeTable<'_>, sources: &[SourceFile], options: Options<'_>) -> Result<(), String> {
    let (blob, diagnostics) = match compile(sources.to_vec(), options) {
        Ok(compiled) => (Some(Blob::open(compiled.blob).unwrap()), compiled.diagnostics),
        Err(failure) => (None, failure.diagnostics),
    };
    common::speaks(&diagnostics)?;
    let shown = || render(sources, &diagnostics, false);
    let (errors, warnings): (Vec<&Diagnostic>, Vec<_>) = diagnostics.iter().partition(|diagnostic| diagnostic.severity == Severity::Error);
    let codes: Vec<&str> = warnings.iter().map(|warning| warning.code.as_str()).collect();
    same("warnings", &codes, &strings(row, "warnings")).map_err(|why| format!("{why}\n{}", shown()))?;
    let wanted = strings(row, "errors");
    let messages: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
    if messages.len() != wanted.len() || messages.iter().zip(&wanted).any(|(message, wanted)| !message.contains(wanted.as_str())) {
        return Err(format!("  errors are {messages:#?}\n  expected {wanted:#?}\n{}", shown()));
    }
    if let Some(wanted) = row.get("error_layers") {
        let layers: Vec<Vec<&str>> = errors.iter().map(|error| layers(sources, error)).collect();
        let wanted: Vec<Vec<String>> = array(wanted).iter().map(|layers| array(layers).iter().map(string).collect()).collect();
        same("error_layers", &layers, &wanted)?;
    }
    let Some(blob) = blob else {
        let asks = EXPECTATIONS.iter().any(|key| !["errors", "error_layers", "warnings"].contains(key) && row.contains_key(*key));
        return if asks { Err(format!("  no policy\n{}", shown())) } else { Ok(()) };
    };
    if let Some(expect) = row.get("expect") {
        let facts = facts(&blob);
        for (key, value) in expect.get_ref().as_table().unwrap() {
            let fact = facts.get(key.get_ref().as_ref()).unwrap_or_else(|| panic!("`{}` is no fact", key.get_ref()));
            same(key.get_ref(), &[fact], &[string(value)])?;
        }
    }
    if row.contains_key("rules") {
        let mut rules: Vec<String> = blob.rules().map(|rule| format!("{} {rule} @ {}", rule.access, rule.place())).collect();
        rules.sort();
        let mut wanted = strings(row, "rules");
        wanted.sort();
        same("rules", &rules, &wanted)?;
    }
    if row.contains_key("hooks") {
        let hooks: Vec<String> = blob.hooks().iter().map(hook).collect();
        same("hooks", &hooks, &strings(row, "hooks"))?;
    }
    for pair in row.get("decides").into_iter().flat_map(|pairs| array(pairs).iter()) {
        let pair: Vec<String> = array(pair).iter().map(string).collect();
        same(&pair[0], &[answer(&blob, &pair[0])], &[&pair[1]])?;
    }
    Ok(())
}

fn same(what: &str, found: &impl Debug, wanted: &impl Debug) -> Result<(), String> {
    // Owned and borrowed text look alike.
    let (found, wanted) = (format!("{found:#?}"), format!("{wanted:#?}"));
    if found == wanted { Ok(()) } else { Err(format!("  {what}: {found}\n  expected {wanted}")) }
}

fn layers<'s>(sources: &'s [SourceFile], diagnostic: &Diagnostic) -> Vec<&'s str> {
    diagnostic.places.iter().map(|(place, _)| sources.get(place.source.0).map_or("none", |source| source.layer.as_str())).collect()
}

/// A hook as `name host ACTIONS @ layer`, the actions as `-stripped +injected ~stripped-from-responses`.
fn hook(hook: &policy_format::Hook) -> String {
    let stripped = hook.strip_request_headers.iter().map(|name| format!("-{name} "));
    let injected = hook.inject_request_headers.iter().map(|header| format!("+{} ", header.name));
    let responses = hook.strip_response_headers.iter().map(|name| format!("~{name} "));
    let actions: String = stripped.chain(injected).chain(responses).collect();
    format!("{} {} {actions}@ {}", hook.name, hook.host, hook.source.layer)
}

/// A body as `hook /pointer=value|value … max_bytes`.
fn body(body: &policy_format::HookBody) -> String {
    let value = |value: &policy_format::JsonValue| match value {
        policy_format::JsonValue::Text(text) => text.clone(),
        policy_format::JsonValue::Bool(value) => value.to_string(),
        policy_format::JsonValue::Number(value) => value.to_string(),
    };
    let pointers = body.json.iter().map(|(at, values)| format!("{at}={} ", values.iter().map(value).collect::<Vec<_>>().join("|")));
    format!("{} {}{}", body.hook, pointers.collect::<String>(), body.max_bytes)
}

/// What administrators hold, as `mode LAYER, local LAYER, allows LAYER`.
fn constraints(held: &policy_format::Constraints) -> String {
    let all = [("mode", held.mode_required), ("local", held.local_binding_required), ("allows", held.managed_allows_only)];
    all.into_iter().filter_map(|(what, layer)| Some(format!("{what} {}", layer?))).collect::<Vec<_>>().join(", ")
}

/// A credential as `name VARIABLES PLACES auth header`.
fn credential(credential: &policy_format::Credential) -> String {
    let places: Vec<String> = credential.url_prefixes.iter().map(ToString::to_string).collect();
    let auth = &credential.auth;
    format!("{} {} {} {} {}", credential.id, credential.env.join(" "), places.join(" "), auth.as_str(), auth.header())
}

fn facts(blob: &Blob<Vec<u8>>) -> BTreeMap<&'static str, String> {
    let meta = blob.meta();
    let settings = blob.settings(policy_format::ProfileId::default()).unwrap();
    let limits =
        Limits::ALL.iter().map(|limit| (limit, settings.limits.get(limit.name).unwrap())).filter(|(limit, value)| *value != limit.default);
    let limits: Vec<String> = limits.map(|(limit, value)| format!("{} {}", limit.name, limit.shown(value))).collect();
    let rule = |rule: &policy_format::UpstreamRule| {
        format!("{} to {}", rule.hosts.join(" "), rule.proxy.as_ref().map_or("direct", |proxy| &proxy.url))
    };
    let (rules, servers) = (settings.upstream_rules.iter().map(rule), settings.resolver.iter().map(ToString::to_string));
    let on = |on: bool| (if on { "on" } else { "off" }).to_owned();
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".into());
    BTreeMap::from([
        ("profile", meta.profile.clone()),
        ("network", meta.network.to_string()),
        ("mode", meta.mode.to_string()),
        ("local", on(meta.allow_local_binding)),
        ("http", meta.listeners.http.to_string()),
        ("socks", meta.listeners.socks.map_or_else(|| "off".into(), |socks| socks.to_string())),
        ("admin", meta.listeners.admin.to_string()),
        ("open_proxy", on(meta.dangerously_allow_non_loopback_proxy)),
        ("open_admin", on(meta.dangerously_allow_non_loopback_admin)),
        ("udp", on(meta.enable_socks5_udp)),
        ("upstream_allowed", on(meta.allow_upstream_proxy)),
        ("upstream", meta.upstream.as_ref().map_or_else(|| "none".into(), |upstream| upstream.url.clone())),
        ("no_proxy", meta.upstream.as_ref().map(|upstream| upstream.no_proxy.join(" ")).unwrap_or_default()),
        ("sockets", if meta.unix_sockets.dangerously_allow_all { "all".into() } else { meta.unix_sockets.allow.join(" ") }),
        ("denied_sockets", meta.unix_sockets.deny.join(" ")),
        ("mitm", meta.mitm.mode.as_str().to_owned()),
        ("bypass", meta.mitm.bypass.join(" ")),
        ("ca_cert", text(&meta.mitm.ca_cert_path)),
        ("max_body", meta.mitm.max_body_bytes.map_or_else(|| "none".into(), |bytes| bytes.to_string())),
        ("broker", on(meta.credential_broker)),
        ("sni", settings.sni.as_str().to_owned()),
        ("via", on(settings.via)),
        ("forwarded", settings.forwarded.as_str().to_owned()),
        ("resolver", servers.collect::<Vec<_>>().join(" ")),
        ("upstream_rules", rules.collect::<Vec<_>>().join(", ")),
        ("on_revoke", settings.on_revoke.as_str().to_owned()),
        ("limits", limits.join(", ")),
        ("audit", audit_toml(&settings.audit).iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", ")),
        ("bodies", settings.hook_bodies.iter().map(body).collect::<Vec<_>>().join(", ")),
        ("credentials", settings.credentials.iter().map(credential).collect::<Vec<_>>().join(", ")),
        ("fallback", settings.broker_fallback.as_str().to_owned()),
        ("held", settings.constraints.map_or_else(|| "untold".to_owned(), |held| constraints(&held))),
        ("unseen", on(settings.bypass_read_only)),
        (
            "certificates",
            settings.client_certificates.iter().map(|own| format!("{} {} {}", own.host, own.cert_path, own.key_path)).collect(),
        ),
        ("format", format!("1.{}", blob.version().1)),
        ("plaintext", on(meta.dangerously_allow_plaintext_credential_injection)),
    ])
}

/// `GET a.test:80/path`, `CONNECT a.test:443`, `SOCKS5 …`, `UDP …`, with ` -> ADDRESS` where the name was resolved.
fn answer(blob: &Blob<Vec<u8>>, question: &str) -> String {
    let (asked, resolved) = question.split_once(" -> ").map_or((question, None), |(asked, ip)| (asked, Some(ip.parse().unwrap())));
    let (method, target) = asked.split_once(' ').unwrap();
    let protocol = match method {
        "CONNECT" => Protocol::Connect,
        "SOCKS5" => Protocol::Socks5Tcp,
        "UDP" => Protocol::Socks5Udp,
        _ => Protocol::Http,
    };
    let (authority, path) = target.find('/').map_or((target, "/"), |at| target.split_at(at));
    let (host, port) = authority.rsplit_once(':').unwrap();
    let host = Host::parse(host).unwrap();
    let addresses: Vec<std::net::IpAddr> = resolved.into_iter().collect();
    let http = protocol == Protocol::Http;
    let request = Request {
        profile: policy_format::ProfileId::default(),
        protocol,
        host: &host,
        port: port.parse().unwrap(),
        method: http.then_some(method),
        path: http.then_some(path),
        addresses: &addresses,
        inside: None,
        can_intercept: false,
    };
    match decide(blob, &request) {
        Decision::Allow(_) => "allow".to_owned(),
        Decision::Deny(denied) => denied.reason.as_str().to_owned(),
    }
}
