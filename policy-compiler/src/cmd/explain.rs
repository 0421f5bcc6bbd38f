//! `netpolicy explain`.

use super::{fail, rule_json, say, stream, stream_text, subject};
use crate::cli::Explain;
use policy_compiler::change::{Change, Edit, EditKind};
use policy_compiler::explain::{Explanation, Standing, explain};
use policy_compiler::request::{Asked, parse_header, parse_resolution};
use policy_format::Hook;
use serde_json::{Value, json};
use std::process::ExitCode;

pub(crate) fn run(arguments: Explain) -> ExitCode {
    let asked = match Asked::parse(&arguments.request.join(" ")) {
        Ok(asked) => Asked { can_intercept: !arguments.no_interception, ..asked },
        Err(error) => return fail(error),
    };
    let headers: Result<Vec<_>, String> = arguments.header.iter().map(|text| parse_header(text)).collect();
    let asked = match headers.and_then(|headers| asked.with(&headers, arguments.body.as_deref())) {
        Ok(asked) => asked,
        Err(error) => return fail(error),
    };
    let mut addresses = Vec::new();
    for text in &arguments.resolve {
        match parse_resolution(text) {
            Ok((host, found)) if host == asked.host => addresses.extend(found),
            Ok((host, _)) => say(format_args!("`--resolve {host}` has no effect: the request is for {}", asked.host)),
            Err(error) => return fail(format_args!("`--resolve`: {error}")),
        }
    }
    let subject = match subject(arguments.subject) {
        Ok(subject) => subject,
        Err(code) => return code,
    };
    let explanation = explain(&subject, &asked, &addresses);
    let code = ExitCode::from(u8::from(!explanation.allowed));
    match arguments.json {
        true => stream(code, |out| writeln!(out, "{}", explanation_json(&explanation))),
        false => stream_text(code, |out| write!(out, "{explanation}")),
    }
}

/// The explanation as JSON.
pub(crate) fn explanation_json(explanation: &Explanation) -> Value {
    let rule = explanation.rule.as_ref().map(|shown| {
        let mut rule = rule_json(&shown.rule);
        if let (Some(rule), Some(text)) = (rule.as_object_mut(), &shown.text) {
            rule.insert("text".into(), text.as_str().into());
        }
        rule
    });
    let others = |standing| -> Vec<Value> {
        let of_it = explanation.others.iter().filter(|other| other.standing == standing);
        of_it.map(|other| json!({ "rule": rule_json(&other.rule), "why": other.why })).collect()
    };
    json!({
        "request": explanation.request,
        "protocol": explanation.protocol.as_str(),
        "decision": if explanation.allowed { "allow" } else { "deny" },
        "read_only": explanation.read_only,
        "reason": explanation.reason.map(|reason| reason.as_str()),
        "proxy_error": explanation.reason.map(|reason| reason.proxy_error()),
        "why": explanation.why,
        "intercept": explanation.intercept,
        "hook": explanation.hook.as_ref().map(hook_json),
        "rule": rule,
        "address": explanation.address.map(|ip| ip.to_string()),
        "beats": others(Standing::Beaten),
        "not_enough": others(Standing::NotEnough),
        "not_in_play": others(Standing::NotInPlay),
        "notes": explanation.notes,
        "change": change_json(&explanation.change),
    })
}

fn hook_json(hook: &Hook) -> Value {
    json!({
        "name": hook.name,
        "host": hook.host,
        "layer": hook.source.layer.as_str(),
        "file": hook.source.label,
        "line": hook.line,
        "strip_request_headers": hook.strip_request_headers,
        "inject_request_headers": hook.inject_request_headers.iter().map(|header| header.name.as_str()).collect::<Vec<_>>(),
        "strip_response_headers": hook.strip_response_headers,
    })
}

fn change_json(change: &Change) -> Value {
    match change {
        Change::Edits(edits) => json!({ "edits": edits.iter().map(edit_json).collect::<Vec<_>>() }),
        Change::Only { layer, place } => {
            json!({ "only": layer.as_str(), "place": Some(place).filter(|place| !place.is_empty()) })
        }
        Change::None(why) if why.is_empty() => Value::Null,
        Change::None(why) => json!({ "none": why }),
    }
}

fn edit_json(edit: &Edit) -> Value {
    let mut value = match &edit.kind {
        EditKind::Add { table, toml } => json!({ "edit": "add", "table": table, "toml": toml }),
        EditKind::Replace { line, before, after } => json!({ "edit": "replace", "line": line, "before": before, "after": after }),
        EditKind::Remove { line, before } => json!({ "edit": "remove", "line": line, "before": before }),
        EditKind::Widen { line, pattern, methods, paths } => {
            json!({ "edit": "widen", "line": line, "pattern": pattern, "methods": methods, "paths": paths })
        }
        EditKind::Access { line, pattern, access } => {
            json!({ "edit": "access", "line": line, "pattern": pattern, "access": access.as_str() })
        }
    };
    if let Some(value) = value.as_object_mut() {
        value.insert("layer".into(), edit.layer.as_str().into());
        value.insert("file".into(), edit.file.as_str().into());
        value.insert("also_opens".into(), edit.also_opens.as_slice().into());
    }
    value
}
