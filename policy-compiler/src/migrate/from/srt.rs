//! Settings of the sandbox runtime. Its wildcard `*.example.com` means subdomains alone, and a denied domain beats an allowed one: both as here.

use super::json::Json;
use super::{Access, ConvertError, Draft};
use crate::schema::socket_path;
use policy_format::Pattern;

/// The keys of its `network`, or of `sandbox.network` of Claude Code.
const KNOWN: [&str; 9] = [
    "allowedDomains",
    "deniedDomains",
    "deniedDomainReasons",
    "strictAllowlist",
    "allowUnixSockets",
    "allowAllUnixSockets",
    "allowLocalBinding",
    "httpProxyPort",
    "socksProxyPort",
];

pub(super) fn read(text: &str) -> Result<Draft, ConvertError> {
    let json = Json::parse(text)?;
    let mut draft = Draft::default();
    if json.object(&["network"])?.is_none() {
        return Err(ConvertError::new(1, "there is no `network`: these are no settings of the sandbox runtime"));
    }
    let everything = network(&json, &["network"], &mut draft)?;
    if let Some(line) = everything {
        draft.deny_everything(line);
    }
    for key in json.root.keys().filter(|key| *key != "network") {
        draft.warn(json.line(&[key]), format!("`{key}` is left out: it is not about hosts"));
    }
    Ok(draft)
}

/// The network table, which Claude Code has too. Gives the line that denies everything, if there is one.
pub(super) fn network(json: &Json<'_>, path: &[&str], draft: &mut Draft) -> Result<Option<usize>, ConvertError> {
    let Some(table) = json.object(path)? else { return Ok(None) };
    let at = |key: &'static str| -> Vec<&str> { path.iter().copied().chain([key]).collect() };
    for (text, line) in json.strings(&at("allowedDomains"))? {
        entry(&text, Access::Allow, line, draft);
    }
    let reasons = json.object(&at("deniedDomainReasons"))?.cloned().unwrap_or_default();
    let denied = json.strings(&at("deniedDomains"))?;
    for (text, line) in &denied {
        if text.trim() == "*" {
            continue;
        }
        entry(text, Access::Deny, *line, draft);
        let reason = reasons.get(text).and_then(serde_json::Value::as_str);
        if let Some((rule, reason)) = draft.rules.last_mut().filter(|rule| rule.line == *line).zip(reason) {
            rule.comment = Some(reason.to_owned());
        }
    }
    let everything = denied.iter().find(|(text, _)| text.trim() == "*").map(|(_, line)| *line);
    for (socket, line) in json.strings(&at("allowUnixSockets"))? {
        let Some(socket) = socket_path(&socket) else {
            draft.warn(line, format!("the socket `{socket}` is left out: a path is absolute here, without `..` and wildcards"));
            continue;
        };
        draft.warn(
            line,
            format!("the socket `{socket}` is opened by path there, on macOS only; here by requests with `x-unix-socket`, on every system"),
        );
        if !draft.sockets.contains(&socket) {
            draft.sockets.push(socket);
        }
    }
    if json.bool(&at("allowAllUnixSockets"))? == Some(true) {
        draft.settings.push("dangerously_allow_all_unix_sockets = true".into());
        let message =
            "`allowAllUnixSockets` switches a check of the sandbox off there; here it opens every socket to requests with `x-unix-socket`";
        draft.warn(json.line(&at("allowAllUnixSockets")), message);
    }
    if json.bool(&at("allowLocalBinding"))? == Some(true) {
        draft.settings.push("allow_local_binding = false # true would open every private address".into());
        let message =
            "`allowLocalBinding` lets programs listen there; `allow_local_binding` opens every private address here, so it is not set";
        draft.warn(json.line(&at("allowLocalBinding")), message);
    }
    for (key, url, scheme) in [("httpProxyPort", "proxy_url", "http"), ("socksProxyPort", "socks_url", "socks5")] {
        if let Some(port) = json.port(&at(key))? {
            draft.settings.push(format!("{url} = \"{scheme}://127.0.0.1:{port}\""));
            draft.warn(
                json.line(&at(key)),
                format!("`{key}` is the port of a proxy that runs already; here the proxy of this policy listens on it"),
            );
        }
    }
    json.bool(&at("strictAllowlist"))?;
    for key in table.keys().filter(|key| !KNOWN.contains(&key.as_str()) && *key != "allowManagedDomainsOnly") {
        let whole: Vec<&str> = path.iter().copied().chain([key.as_str()]).collect();
        let what = match key.as_str() {
            "parentProxy" => "write it as `url` of `[….network.upstream]`",
            "mitmProxy" | "tlsTerminate" => "interception is written under `[….network.mitm]` here, and has rules of its own",
            _ => "there is nothing like it here",
        };
        draft.warn(json.line(&whole), format!("`{key}` is left out: {what}"));
    }
    Ok(everything)
}

/// An entry of a list. Its one wildcard is a leading `*.`; what else is a wildcard or a network here has no meaning there.
pub(super) fn entry(text: &str, access: Access, line: usize, draft: &mut Draft) {
    let name = text.trim().strip_prefix("*.").unwrap_or(text.trim());
    let port_only = access == Access::Deny && name.starts_with("*:");
    let foreign = !port_only && (name.contains(['*', '?', '{', '\\', '/']) || name.starts_with('[') && !name.contains(':'));
    if foreign && Pattern::parse(text).is_ok() {
        if access == Access::Deny {
            draft.warn(line, format!("`{text}` is no pattern there; here it is one, and denied"));
        } else {
            draft.warn(line, format!("`{text}` is no pattern there; here it is one and would open more, so it is left out"));
            return;
        }
    }
    draft.rule(text, access, line);
}
