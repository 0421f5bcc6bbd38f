//! Interception: hooks with their actions put in, and what does not go together.

use crate::diagnostic::{Code, Diagnostic, Place};
use crate::schema::{ActionDoc, At, HookDoc, MitmDoc, suggest};
use crate::source::{Lines, SourceFile, layer_of};
use policy_format::{ClientCertificate, Hook, HookBody, InjectedHeader, Layer, MAX_HOOKS, Mitm, Mode, Profiles, READING, Source};
use std::collections::{HashMap, HashSet};

/// Actions that a hook may name. Each is a set of headers by itself, and few are ever put together.
const MAX_HOOK_ACTIONS: usize = 32;
/// Headers in each list of an action. Requests have some twenty; every hook that names the action carries all of them.
const MAX_ACTION_HEADERS: usize = 64;

/// Characters of a prefix beyond which it looks like the secret itself: `Bearer `, `token `, `Basic ` are shorter.
const LONG_PREFIX: usize = 20;

/// What is read inside TLS.
pub(super) struct Checked {
    pub(super) mitm: Mitm,
    pub(super) hooks: Vec<Hook>,
    /// What hooks ask of bodies, sorted by their names.
    pub(super) bodies: Vec<HookBody>,
    pub(super) bypass_read_only: bool,
    pub(super) client_certificates: Vec<ClientCertificate>,
}

pub(super) fn check(doc: MitmDoc, mode: Mode, sources: &[SourceFile], lines: &Lines, diagnostics: &mut Vec<Diagnostic>) -> Checked {
    let pair = match (&doc.ca_cert_path, &doc.ca_key_path) {
        (Some(at), None) => Some(("ca_cert_path", "ca_key_path", at)),
        (None, Some(at)) => Some(("ca_key_path", "ca_cert_path", at)),
        _ => None,
    };
    if let Some((there, missing, at)) = pair {
        let message = format!("`{there}` without `{missing}`");
        let error = Diagnostic::error(Code::MissingKey, message, at.place.clone());
        diagnostics.push(error.with_help("give both, or neither: then an authority is made in memory"));
    }
    let bypass_read_only = bypasses(&doc, mode, diagnostics);
    let names: Vec<&str> = doc.actions.iter().map(|action| action.name.value.as_str()).collect();
    let by_name: HashMap<&str, &ActionDoc> = doc.actions.iter().map(|action| (action.name.value.as_str(), action)).collect();
    if let Some(hook) = doc.hooks.get(MAX_HOOKS) {
        let message = format!("there are {} hooks, and a policy has at most {MAX_HOOKS}", doc.hooks.len());
        let error = Diagnostic::error(Code::TooLarge, message, hook.name.place.clone()).with_label("the first one too many");
        diagnostics.push(error.with_help("give one hook several methods and paths, or a wildcard as `host`"));
    }
    let mut used: HashSet<&str> = HashSet::new();
    let mut hooks = Vec::new();
    let body = |hook: &HookDoc| {
        let body = hook.body.as_ref().filter(|body| !body.json.is_empty())?;
        Some(HookBody { hook: hook.name.value.clone(), json: body.json.clone(), max_bytes: body.max_bytes })
    };
    let mut bodies: Vec<HookBody> = doc.hooks.iter().take(MAX_HOOKS).filter_map(body).collect();
    bodies.sort_by(|a, b| a.hook.cmp(&b.hook));
    for hook in doc.hooks.iter().take(MAX_HOOKS) {
        if mode == Mode::Limited && !hook.methods.is_empty() && !hook.methods.iter().any(|method| READING.contains(&method.as_str())) {
            let message = format!("the hook `{}` never matches: limited mode lets none of its methods pass", hook.name.value);
            let warning = Diagnostic::warning(Code::NoEffect, message, hook.name.place.clone());
            diagnostics.push(warning.with_help("set `mode = \"full\"`, and say \"read-only\" of the hosts that are only read"));
        }
        used.extend(hook.action.iter().map(|name| name.value.as_str()));
        let mut actions = Vec::new();
        for name in hook_actions(hook, diagnostics) {
            match by_name.get(name.value.as_str()) {
                Some(action) => {
                    diagnostics.extend(lent(hook, name, action, sources));
                    // One that has too much is an error of its own.
                    actions.extend((longest(action) <= MAX_ACTION_HEADERS).then_some(*action));
                }
                None => {
                    let near = suggest(&name.value, &names, diagnostics);
                    diagnostics.push(unknown_action(hook, name, near));
                }
            }
        }
        hooks.push(lower(hook, &actions, sources, lines));
    }
    for action in &doc.actions {
        if longest(action) > MAX_ACTION_HEADERS {
            let message = format!(
                "the action `{}` has {} headers in one list, and may have {MAX_ACTION_HEADERS}",
                action.name.value,
                longest(action)
            );
            let error = Diagnostic::error(Code::TooLarge, message, action.name.place.clone());
            diagnostics.push(error.with_help("name the headers that matter, each once"));
        }
        if doc.hooks.len() <= MAX_HOOKS && !used.contains(action.name.value.as_str()) {
            let message = format!("no hook uses the action `{}`", action.name.value);
            let help = format!("name it in a hook, `action = [\"{}\"]`, or remove it", action.name.value);
            diagnostics.push(Diagnostic::warning(Code::NoEffect, message, action.name.place.clone()).with_help(help));
        }
        if action.inject_request_headers.iter().any(|(.., prefix)| prefix.len() > LONG_PREFIX) {
            let message = format!("the `prefix` of an injected header of `{}` is as long as a secret", action.name.value);
            let warning = Diagnostic::warning(Code::Credentials, message, action.name.place.clone());
            diagnostics.push(
                warning.with_help("a prefix is what stands before the secret, such as \"Bearer \"; the secret stays in a file or variable"),
            );
        }
    }
    let text = |at: Option<At<String>>| at.map(|at| at.value);
    let mitm = Mitm {
        mode: doc.mode.map(|at| at.value).unwrap_or_default(),
        bypass: doc.bypass.iter().flat_map(|bypass| &bypass.value).map(|at| at.value.to_string()).collect(),
        ca_cert_path: text(doc.ca_cert_path),
        ca_key_path: text(doc.ca_key_path),
        max_body_bytes: doc.max_body_bytes.map(|at| at.value),
    };
    let client_certificates = doc.client_certificates.map(|at| at.value).unwrap_or_default();
    Checked { mitm, hooks, bodies, bypass_read_only, client_certificates }
}

/// Whether the bypass holds where only what reads may pass.
fn bypasses(doc: &MitmDoc, mode: Mode, diagnostics: &mut Vec<Diagnostic>) -> bool {
    let bypass = doc.bypass.as_ref().filter(|bypass| !bypass.value.is_empty());
    match (bypass, doc.dangerously_bypass_read_only.as_ref().filter(|at| at.value)) {
        (Some(_), Some(_)) => return true,
        (None, Some(at)) => {
            let message = "`dangerously_bypass_read_only` has no effect: no host is in `bypass`";
            let warning = Diagnostic::warning(Code::NoEffect, message, at.place.clone());
            diagnostics.push(warning.with_help("remove it, or name the hosts in `bypass`"));
        }
        (Some(bypass), None) if mode == Mode::Limited => {
            let message = "`bypass` in limited mode would let pass what nobody can see to be read-only";
            let error = Diagnostic::error(Code::InvalidValue, message, bypass.place.clone());
            diagnostics.push(
                error.with_help("remove it, set `mode = \"full\"`, or accept that with `dangerously_bypass_read_only = true` beside it"),
            );
        }
        _ => {}
    }
    false
}

/// An administrator's hook whose action a weaker layer has: that layer would say what the hook does.
fn lent(hook: &HookDoc, name: &At<String>, action: &ActionDoc, sources: &[SourceFile]) -> Option<Diagnostic> {
    let (owner, other) = (layer_of(sources, &hook.name.place), layer_of(sources, &action.name.place));
    if !owner.is_managed() || other <= owner {
        return None;
    }
    let message =
        format!("the hook `{}` of the {owner} layer uses the action `{}`, which only the {other} layer has", hook.name.value, name.value);
    let error = Diagnostic::error(Code::ManagedHook, message, name.place.clone());
    Some(error.and(action.name.place.clone(), "the weaker layer's").with_help(format!("define the action in the {owner} layer too")))
}

/// The actions that a hook names, each once. Naming one twice is refused: what is injected twice would be sent twice.
fn hook_actions<'h>(hook: &'h HookDoc, diagnostics: &mut Vec<Diagnostic>) -> Vec<&'h At<String>> {
    if let Some(name) = hook.action.get(MAX_HOOK_ACTIONS) {
        let message = format!("the hook `{}` names {} actions, and may name {MAX_HOOK_ACTIONS}", hook.name.value, hook.action.len());
        let error = Diagnostic::error(Code::TooLarge, message, name.place.clone()).with_label("the first one too many");
        diagnostics.push(error.with_help("put the headers of several actions into one"));
    }
    let mut seen: HashMap<&str, &At<String>> = HashMap::new();
    let mut once = Vec::new();
    for name in hook.action.iter().take(MAX_HOOK_ACTIONS) {
        if let Some(first) = seen.get(name.value.as_str()) {
            let message = format!("the hook `{}` names the action `{}` twice", hook.name.value, name.value.escape_debug());
            let error = Diagnostic::error(Code::InvalidHook, message, name.place.clone());
            diagnostics.push(error.and(first.place.clone(), "named here").with_help("name it once"));
            continue;
        }
        seen.insert(&name.value, name);
        once.push(name);
    }
    once
}

/// Headers in the longest list of an action.
fn longest(action: &ActionDoc) -> usize {
    let lists = [action.strip_request_headers.len(), action.inject_request_headers.len(), action.strip_response_headers.len()];
    lists.into_iter().max().unwrap_or_default()
}

fn unknown_action(hook: &HookDoc, name: &At<String>, near: Option<&str>) -> Diagnostic {
    let message = format!("the hook `{}` names the action `{}`, which no layer has", hook.name.value, name.value.escape_debug());
    let mut error = Diagnostic::error(Code::UnknownAction, message, name.place.clone());
    match near {
        Some(near) => error.did_you_mean(&format!("\"{near}\"")),
        None => error.help = Some(format!("say what it does under `[….mitm.actions.{}]`", name.value)),
    }
    error
}

fn lower(hook: &HookDoc, actions: &[&ActionDoc], sources: &[SourceFile], lines: &Lines) -> Hook {
    let collect = |pick: fn(&ActionDoc) -> &Vec<String>| {
        let mut seen = HashSet::new();
        actions.iter().flat_map(|action| pick(action)).filter(|name| seen.insert(name.as_str())).cloned().collect()
    };
    let injected = actions.iter().flat_map(|action| &action.inject_request_headers);
    Hook {
        name: hook.name.value.clone(),
        host: hook.host.value.to_string(),
        methods: hook.methods.clone(),
        path_prefixes: hook.path_prefixes.clone(),
        query: hook.query.clone(),
        headers: hook.headers.clone(),
        strip_request_headers: collect(|action| &action.strip_request_headers),
        inject_request_headers: injected
            .map(|(name, secret, prefix)| InjectedHeader { name: name.clone(), secret: secret.clone(), prefix: prefix.clone() })
            .collect(),
        strip_response_headers: collect(|action| &action.strip_response_headers),
        source: origin(&hook.name.place, sources),
        line: lines.line(&hook.name.place),
        profiles: Profiles::default(),
    }
}

fn origin(place: &Place, sources: &[SourceFile]) -> Source {
    let source = sources.get(place.source.0);
    Source {
        layer: source.map_or(Layer::Project, |source| source.layer),
        label: source.map(|source| source.label().to_owned()).unwrap_or_default(),
    }
}
