//! The keys of a network table.

use super::{At, Key, ListDoc, NetworkDoc, Reader, SocketEntry, UpstreamDoc, Value, nearest};
use crate::diagnostic::{Code, Diagnostic};
use crate::keys;
use crate::lists::ListFormat;
use policy_format::{Access, Forwarded, Sni};
use std::collections::HashMap;
use toml::de::{DeTable, DeValue};

/// What this version does not enforce, and why.
const NOT_ENFORCED: [(&str, &str); 1] = [("clients", "client settings are not read by this version")];

impl Reader<'_> {
    pub(crate) fn network(&mut self, table: &DeTable<'_>) -> NetworkDoc {
        let mut doc = NetworkDoc::default();
        for (key, value) in table {
            if !self.network_key(key, value, &mut doc) {
                self.unknown_key(key, table, "a network table", &keys::NETWORK);
            }
        }
        doc
    }

    /// Reads one key; `false` when it is none of a network table.
    pub(super) fn network_key(&mut self, key: &Key<'_>, value: &Value<'_>, doc: &mut NetworkDoc) -> bool {
        match key.get_ref().as_ref() {
            "enabled" => doc.enabled = self.bool(key, value),
            "mode" => doc.mode = self.mode(key, value),
            "proxy_url" => doc.proxy_url = self.string(key, value),
            "socks_url" => doc.socks_url = self.string(key, value),
            "admin_url" => doc.admin_url = self.string(key, value),
            "enable_socks5" => doc.enable_socks5 = self.bool(key, value),
            "enable_socks5_udp" => doc.enable_socks5_udp = self.bool(key, value),
            "allow_upstream_proxy" => doc.allow_upstream_proxy = self.bool(key, value),
            "allow_local_binding" => doc.allow_local_binding = self.bool(key, value),
            "dangerously_allow_non_loopback_proxy" => doc.dangerously_allow_non_loopback_proxy = self.bool(key, value),
            "dangerously_allow_non_loopback_admin" => doc.dangerously_allow_non_loopback_admin = self.bool(key, value),
            "dangerously_allow_all_unix_sockets" => doc.dangerously_allow_all_unix_sockets = self.bool(key, value),
            "credential_broker" => doc.credential_broker = self.bool(key, value),
            "dangerously_allow_plaintext_credential_injection" => {
                doc.dangerously_allow_plaintext_credential_injection = self.bool(key, value);
            }
            "credentials" => doc.credentials = self.credentials(key, value),
            "dangerously_pass_credentials_without_broker" => doc.dangerously_pass_credentials_without_broker = self.bool(key, value),
            "upstream" => doc.upstream = self.upstream(key, value),
            "presets" => doc.presets = self.strings(key, value),
            "domain_lists" => doc.domain_lists = self.domain_lists(key, value),
            "domains" => doc.domains.extend(self.domains(key, value)),
            "unix_sockets" => doc.unix_sockets.extend(self.unix_sockets(key, value)),
            "mitm" => doc.mitm = self.mitm(key, value),
            "sni" => {
                doc.sni = self.word_or(key, value, Sni::ALL, &[("none", "off"), ("ignore", "off"), ("warn", "log"), ("strict", "enforce")])
            }
            "via" => doc.via = self.bool(key, value),
            "forwarded" => {
                let meant = [("none", "strip"), ("remove", "strip"), ("off", "pass"), ("xff", "x-forwarded-for")];
                doc.forwarded = self.word_or(key, value, Forwarded::ALL, &meant);
            }
            "resolver" => doc.resolver = self.resolver(key, value),
            "limits" => self.limits(key, value, &mut doc.limits),
            "audit" => doc.audit = self.audit(key, value),
            "allowed_domains" | "denied_domains" | "allow_unix_sockets" => self.older_list(key, value, doc),
            name => match NOT_ENFORCED.iter().find(|(known, _)| *known == name) {
                Some((_, why)) => self.not_enforced(key, value, why),
                None => return false,
            },
        }
        true
    }

    /// `upstream = "http://proxy:8080"`, or a table with `url`, `no_proxy` and `rules`.
    fn upstream(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<UpstreamDoc> {
        if value.get_ref().is_str() {
            return Some(UpstreamDoc { url: self.string(key, value), no_proxy: None, rules: None, whole: true });
        }
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(
                key,
                value,
                "a URL, or a table with `url`, `no_proxy` and `rules`",
                "upstream = \"http://proxy.example.com:8080\"",
            );
            return None;
        };
        let mut doc = UpstreamDoc { url: None, no_proxy: None, rules: None, whole: false };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "url" => doc.url = self.string(key, value),
                "no_proxy" => doc.no_proxy = self.strings(key, value),
                "rules" => doc.rules = self.upstream_rules(key, value),
                _ => self.unknown_key(key, table, "`upstream`", &keys::UPSTREAM),
            }
        }
        Some(doc)
    }

    fn domain_lists(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<Vec<ListDoc>>> {
        const EXAMPLE: &str = "domain_lists = [{ path = \"lists/ads.txt\", format = \"domains\", access = \"deny\" }]";
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of tables", EXAMPLE);
            return None;
        };
        let lists = array.iter().filter_map(|item| {
            let Some(table) = item.get_ref().as_table() else {
                self.wrong_type(key, item, "a list of tables", EXAMPLE);
                return None;
            };
            let (mut path, mut format, mut access) = (None, None, None);
            for (key, value) in table {
                match key.get_ref().as_ref() {
                    "path" => path = self.string(key, value),
                    "format" => {
                        format = self.word(key, value, ListFormat::ALL.map(|format| (format.as_str(), format)));
                    }
                    "access" => {
                        access = self.word(key, value, [("allow", Access::Allow), ("deny", Access::Deny), ("read-only", Access::ReadOnly)])
                    }
                    _ => self.unknown_key(key, table, "a domain list", &keys::DOMAIN_LIST),
                }
            }
            for name in ["path", "format", "access"] {
                if !table.contains_key(name) {
                    let error = self.error(Code::MissingKey, item.span(), format!("a domain list needs `{name}`"));
                    error.help = Some(format!("write `{EXAMPLE}`"));
                }
            }
            Some(ListDoc { path: path?, format: format?.value, access: access?.value })
        });
        let lists = lists.collect();
        Some(At { value: lists, place: self.place(value.span()) })
    }

    pub(crate) fn unix_sockets(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<SocketEntry> {
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table of paths", &format!("{} = {{ \"/run/example.sock\" = \"allow\" }}", key.get_ref()));
            if let (Some(meant), Some(error)) = (as_map(value.get_ref()), self.diagnostics.last_mut()) {
                error.fix(&meant);
                error.help = Some("say of each path what it is".into());
            }
            return Vec::new();
        };
        let mut entries: Vec<SocketEntry> = table
            .iter()
            .filter_map(|(path, value)| {
                let allow = match value.get_ref().as_str() {
                    Some("allow") => Some(true),
                    Some("deny") => Some(false),
                    Some("none") => None,
                    other => {
                        let near = other.and_then(|other| nearest(other, ["allow", "deny", "none"]));
                        let error = self.error(Code::InvalidValue, value.span(), "a unix socket is \"allow\", \"deny\" or \"none\"");
                        match near {
                            Some(near) => error.did_you_mean(&format!("\"{near}\"")),
                            None => error.help = Some("write \"allow\", \"deny\" or \"none\"".into()),
                        }
                        return None;
                    }
                };
                self.socket(path.get_ref(), path.span(), allow)
            })
            .collect();
        entries.sort_by_key(|entry| entry.place.span.start);
        let mut first: HashMap<&str, &SocketEntry> = HashMap::with_capacity(entries.len());
        for entry in &entries {
            if let Some(old) = first.get(entry.path.as_str()) {
                let message = format!("`{}` is there twice, in two spellings", entry.path);
                let error = Diagnostic::error(Code::DuplicatePattern, message, entry.place.clone());
                self.diagnostics.push(error.and(old.place.clone(), "first here").with_help("keep one of them"));
            } else {
                first.insert(&entry.path, entry);
            }
        }
        entries
    }

    /// An absolute path without steps up: what is written is what is opened.
    pub(crate) fn socket(&mut self, path: &str, span: std::ops::Range<usize>, allow: Option<bool>) -> Option<SocketEntry> {
        let Some(path) = socket_path(path) else {
            let error =
                self.error(Code::InvalidValue, span, format!("`{}` is not the absolute path of a unix socket", path.escape_debug()));
            error.help = Some("write it from the root, without `..` and wildcards, such as \"/run/example.sock\"".into());
            return None;
        };
        Some(SocketEntry { path, place: self.place(span), allow })
    }
}

/// A list of plain paths, each once, as the table that was meant.
fn as_map(value: &DeValue<'_>) -> Option<String> {
    let paths: Vec<&str> = value.as_array()?.iter().map(|item| item.get_ref().as_str()).collect::<Option<_>>()?;
    let is_plain = |path: &&str| {
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|part| plain(part) && part != "." && part != ".."))
    };
    let once: std::collections::BTreeSet<&str> = paths.iter().copied().collect();
    if paths.is_empty() || once.len() != paths.len() || !paths.iter().all(is_plain) {
        return None;
    }
    let entries: Vec<String> = paths.iter().map(|path| format!("\"{path}\" = \"allow\"")).collect();
    Some(format!("{{ {} }}", entries.join(", ")))
}

/// The path of a unix socket, with `//` and `/./` taken out, which lead to the same file; `None` when it is not absolute or could mean another one.
pub(crate) fn socket_path(path: &str) -> Option<String> {
    let steps_up = path.split('/').any(|part| part == "..");
    let strange = path.contains(|c: char| c.is_control() || matches!(c, '*' | '?'));
    if !path.starts_with('/') || path.ends_with('/') || steps_up || strange || path.len() > 4096 {
        return None;
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    Some(format!("/{}", parts.join("/")))
}

/// Whether a table is of ours: used to tell `[permissions.network]` from a profile that is called so.
pub(super) fn has_network_keys(value: &DeValue<'_>) -> bool {
    let is_profile = |table: &DeTable<'_>| table.contains_key("network") || table.contains_key("extends");
    let names = keys::NETWORK.names();
    // A misspelt key is one of ours too: it is to be reported, not passed over.
    value.as_table().is_some_and(|table| !is_profile(table) && table.keys().any(|key| super::nearest_of(key.get_ref(), &names).is_some()))
}
