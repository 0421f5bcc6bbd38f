//! `netpolicy inspect`.

use super::{fail, open_policy, rule_json, stream, stream_text};
use crate::cli::Inspect;
use policy_compiler::Layer;
use policy_compiler::decompile::decompile;
use policy_compiler::explain::describe;
use policy_format::{Access, Blob, HEADER_LEN, Meta, SectionKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;

pub(crate) fn run(arguments: Inspect) -> ExitCode {
    let policy = match open_policy(&arguments.policy) {
        Ok(policy) => policy,
        Err(code) => return code,
    };
    if arguments.toml {
        return match decompile(&policy) {
            Ok(text) => stream(ExitCode::SUCCESS, |out| out.write_all(text.as_bytes())),
            Err(error) => fail(format_args!("`{}` cannot be written as TOML: {error}", arguments.policy.display())),
        };
    }
    let write = |out: &mut dyn Write| match (arguments.rules, arguments.json) {
        (true, true) => policy.rules().try_for_each(|rule| writeln!(out, "{}", rule_json(&rule))),
        (true, false) => policy.rules().try_for_each(|rule| {
            let reason = if rule.reason.is_empty() { String::new() } else { format!(" ({})", rule.reason.escape_debug()) };
            writeln!(out, "{}{reason}", describe(&rule))
        }),
        (false, true) => writeln!(out, "{}", summary_json(&policy)),
        (false, false) => write_summary(out, &policy),
    };
    if arguments.json { stream(ExitCode::SUCCESS, write) } else { stream_text(ExitCode::SUCCESS, write) }
}

type Policy = Blob<Vec<u8>>;

/// Rules for each layer and access.
fn counts(policy: &Policy) -> BTreeMap<(Layer, &'static str), (Access, u64)> {
    let mut counts = BTreeMap::new();
    for rule in policy.rules() {
        counts.entry((rule.layer, rule.access.as_str())).or_insert((rule.access, 0)).1 += 1;
    }
    counts
}

fn settings(meta: &Meta) -> Vec<(&'static str, Value)> {
    let listeners = &meta.listeners;
    let mitm = &meta.mitm;
    vec![
        ("profile", meta.profile.as_str().into()),
        ("network", meta.network.to_string().into()),
        ("mode", meta.mode.as_str().into()),
        ("http_listener", listeners.http.to_string().into()),
        ("socks_listener", listeners.socks.map_or(Value::Null, |socks| socks.to_string().into())),
        ("admin_listener", listeners.admin.to_string().into()),
        ("enable_socks5_udp", meta.enable_socks5_udp.into()),
        ("allow_local_binding", meta.allow_local_binding.into()),
        ("dangerously_allow_non_loopback_proxy", meta.dangerously_allow_non_loopback_proxy.into()),
        ("dangerously_allow_non_loopback_admin", meta.dangerously_allow_non_loopback_admin.into()),
        ("allow_upstream_proxy", meta.allow_upstream_proxy.into()),
        // Without its password: this is what people paste.
        ("upstream", meta.upstream.as_ref().map_or(Value::Null, |upstream| upstream.shown().into())),
        ("no_proxy", meta.upstream.as_ref().map_or_else(Vec::new, |upstream| upstream.no_proxy.clone()).into()),
        ("unix_sockets", meta.unix_sockets.allow.clone().into()),
        ("dangerously_allow_all_unix_sockets", meta.unix_sockets.dangerously_allow_all.into()),
        ("mitm_mode", mitm.mode.as_str().into()),
        ("mitm_bypass", mitm.bypass.clone().into()),
        ("mitm_ca_cert_path", mitm.ca_cert_path.clone().into()),
        ("mitm_ca_key_path", mitm.ca_key_path.clone().into()),
        ("mitm_max_body_bytes", mitm.max_body_bytes.into()),
        ("credential_broker", meta.credential_broker.into()),
        ("dangerously_allow_plaintext_credential_injection", meta.dangerously_allow_plaintext_credential_injection.into()),
    ]
}

fn summary_json(policy: &Policy) -> Value {
    let (major, minor) = policy.version();
    let sections = SectionKind::ALL.map(|kind| json!({ "section": kind.to_string(), "bytes": policy.section(kind).len() }));
    let settings: serde_json::Map<String, Value> =
        settings(policy.meta()).into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let rules: Vec<Value> = counts(policy)
        .into_iter()
        .map(|((layer, access), (_, rules))| json!({ "layer": layer.as_str(), "access": access, "rules": rules }))
        .collect();
    let sources = policy.sources().iter().map(|source| json!({ "layer": source.layer.as_str(), "file": source.label }));
    let hooks = policy.hooks().iter().map(|hook| {
        json!({
            "name": hook.name,
            "host": hook.host,
            "methods": hook.methods,
            "path_prefixes": hook.path_prefixes,
            "layer": hook.source.layer.as_str(),
            "file": hook.source.label,
            "line": hook.line,
        })
    });
    json!({
        "format": format!("{major}.{minor}"),
        "bytes": policy.as_bytes().len(),
        "digest": policy.digest().to_string(),
        "header_bytes": HEADER_LEN,
        "sections": sections,
        "settings": settings,
        "rules": policy.rule_count(),
        "rules_by_layer": rules,
        "sources": sources.collect::<Vec<_>>(),
        "hooks": hooks.collect::<Vec<_>>(),
    })
}

fn write_summary(out: &mut dyn Write, policy: &Policy) -> io::Result<()> {
    let (major, minor) = policy.version();
    let bytes = policy.as_bytes().len();
    writeln!(out, "format   {major}.{minor}\nbytes    {bytes}\ndigest   {}", policy.digest())?;
    writeln!(out, "\nsection          bytes      %")?;
    for kind in SectionKind::ALL {
        let len = policy.section(kind).len();
        writeln!(out, "{:<13} {len:>8}  {:>5.1}", kind.to_string(), 100.0 * len as f64 / bytes as f64)?;
    }
    let content: usize = SectionKind::ALL.into_iter().map(|kind| policy.section(kind).len()).sum();
    let rest = bytes - content.min(bytes);
    writeln!(out, "{:<13} {rest:>8}  {:>5.1}", "header, gaps", 100.0 * rest as f64 / bytes as f64)?;
    writeln!(out, "\nsettings")?;
    for (key, value) in settings(policy.meta()) {
        let shown = match &value {
            Value::String(text) => text.escape_debug().to_string(),
            Value::Null => "none".to_owned(),
            value => value.to_string(),
        };
        writeln!(out, "  {key} = {shown}")?;
    }
    writeln!(out, "\nrules    {}", policy.rule_count())?;
    for ((layer, access), (_, rules)) in counts(policy) {
        writeln!(out, "  {:<8} {access:<10} {rules:>8}", layer.as_str())?;
    }
    writeln!(out, "\nsources  {}", policy.sources().len())?;
    for source in policy.sources() {
        writeln!(out, "  {} {}", source.layer, source.label.escape_debug())?;
    }
    writeln!(out, "\nhooks    {}", policy.hooks().len())?;
    for hook in policy.hooks() {
        let place = format!("{} {}:{}", hook.source.layer, hook.source.label, hook.line);
        writeln!(out, "  {} {}, {}", hook.name.escape_debug(), hook.host.escape_debug(), place.escape_debug())?;
    }
    Ok(())
}
