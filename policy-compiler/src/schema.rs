//! What one layer said: the network policy's part of its TOML, with spans kept and unknown keys refused.
//!
//! Keys outside the network policy belong to other programs and are passed over. Inside it, nothing is: a key that this version does not enforce is
//! refused, or, where ignoring it only ever blocks more, warned about.

use crate::diagnostic::{Diagnostic, Place};
use crate::source::{SourceFile, SourceId};
use policy_format::pattern::parse_port;
use policy_format::{Access, Mode, Pattern, PatternErrorKind, PortRange};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// What a layer of settings said.
#[derive(Debug, Default)]
pub struct LayerDoc {
    /// `default_permissions`.
    pub default_permissions: Option<At<String>>,
    /// `features.network_proxy`, as a bool or as its `enabled`.
    pub feature: Option<At<bool>>,
    /// `features.network_proxy` as a table: settings over the profile's.
    pub overlay: Option<NetworkDoc>,
    /// `permissions`.
    pub profiles: BTreeMap<String, ProfileDoc>,
}

/// `[permissions.NAME]`.
#[derive(Debug, Clone)]
pub struct ProfileDoc {
    /// Where it stands.
    pub place: Place,
    /// `extends`.
    pub extends: Option<At<String>>,
    /// `network`.
    pub network: Option<NetworkDoc>,
}

/// `[permissions.NAME.network]`.
#[derive(Debug, Clone, Default)]
pub struct NetworkDoc {
    /// `enabled`.
    pub enabled: Option<At<bool>>,
    /// `mode`.
    pub mode: Option<At<Mode>>,
    /// `proxy_url`.
    pub proxy_url: Option<At<String>>,
    /// `socks_url`.
    pub socks_url: Option<At<String>>,
    /// `admin_url`.
    pub admin_url: Option<At<String>>,
    /// `enable_socks5`.
    pub enable_socks5: Option<At<bool>>,
    /// `allow_local_binding`.
    pub allow_local_binding: Option<At<bool>>,
    /// `dangerously_allow_non_loopback_proxy`.
    pub dangerously_allow_non_loopback_proxy: Option<At<bool>>,
    /// `presets`.
    pub presets: Option<At<Vec<At<String>>>>,
    /// `domains`, in the order of the file.
    pub domains: Vec<DomainEntry>,
}

/// An entry of `[….domains]`.
#[derive(Debug, Clone)]
pub struct DomainEntry {
    /// The pattern, normalised.
    pub pattern: Pattern,
    /// Where it stands.
    pub place: Place,
    /// What it says; `None` is `"none"`: as if the entry were not there.
    pub access: Option<Access>,
    /// The ports of its table, or of its pattern.
    pub ports: Vec<PortRange>,
}

/// The keys of a network table, and how this version treats them.
const NETWORK_KEYS: [(&str, Support); 26] = [
    ("enabled", Support::Full),
    ("mode", Support::Full),
    ("proxy_url", Support::Full),
    ("socks_url", Support::Full),
    ("admin_url", Support::Full),
    ("enable_socks5", Support::Full),
    ("allow_local_binding", Support::Full),
    ("dangerously_allow_non_loopback_proxy", Support::Full),
    (
        "dangerously_allow_non_loopback_admin",
        Support::Refused("an admin listener that other machines reach needs a token, which this version cannot check"),
    ),
    ("presets", Support::Full),
    ("domains", Support::Full),
    ("enable_socks5_udp", Support::Blocks("SOCKS5 UDP is not available in this version: datagrams are refused")),
    ("allow_upstream_proxy", Support::Blocks("upstream proxies are not used by this version: connections are made directly")),
    ("unix_sockets", Support::Blocks("unix sockets are not available in this version: requests to them are blocked")),
    ("dangerously_allow_all_unix_sockets", Support::Blocks("unix sockets are not available in this version: requests to them are blocked")),
    ("mitm", Support::Refused("TLS interception and its hooks are not enforced by this version")),
    ("mitm_hooks", Support::Refused("TLS interception and its hooks are not enforced by this version")),
    ("credential_broker", Support::Refused("the credential broker is not available in this version")),
    ("dangerously_allow_plaintext_credential_injection", Support::Refused("the credential broker is not available in this version")),
    ("domain_lists", Support::Refused("domain lists are not read by this version; write the names under `domains`")),
    ("limits", Support::Refused("limits are not read by this version")),
    ("audit", Support::Refused("audit settings are not read by this version")),
    ("upstream", Support::Refused("upstream proxies are not used by this version")),
    ("clients", Support::Refused("client settings are not read by this version")),
    (
        "allowed_domains",
        Support::Refused("this older spelling is not read by this version; write `\"PATTERN\" = \"allow\"` under `domains`"),
    ),
    ("denied_domains", Support::Refused("this older spelling is not read by this version; write `\"PATTERN\" = \"deny\"` under `domains`")),
];

/// How this version treats a key.
#[derive(Clone, Copy)]
enum Support {
    /// Read and enforced.
    Full,
    /// Not there yet, and its absence only blocks more: a warning when it is switched on.
    Blocks(&'static str),
    /// Not there yet, and ignoring it could let something pass: an error when it is switched on.
    Refused(&'static str),
}

/// Whole tables of older spellings. Ignoring one would lose a deny list.
const OLDER_TABLES: [(&str, &str); 2] = [
    ("network_proxy", "move it to `[permissions.NAME.network]`, and set `default_permissions = \"NAME\"`"),
    ("network", "it sets an upstream proxy, and upstream proxies are not used by this version; remove the table"),
];

/// Reads one layer of settings. Everything wrong in it is reported; `None` when it is not TOML.
pub fn read(id: SourceId, source: &SourceFile, diagnostics: &mut Vec<Diagnostic>) -> Option<LayerDoc> {
    let mut reader = Reader { id, diagnostics };
    let mut doc = LayerDoc::default();
    let root = reader.parse(source.text())?;
    for (key, value) in root.get_ref() {
        match key.get_ref().as_ref() {
            "default_permissions" => doc.default_permissions = reader.string(key, value),
            "features" => reader.features(value, &mut doc),
            "permissions" => reader.permissions(key, value, &mut doc),
            name => {
                if let Some((_, help)) = OLDER_TABLES.iter().find(|(older, _)| *older == name && value.get_ref().is_table()) {
                    let message = format!("`[{name}]` is not read by this version");
                    reader.diagnostics.push(Diagnostic::error(message, reader.place(key.span()), "").help(*help));
                }
            }
        }
    }
    Some(doc)
}

/// Parses TOML for any reader; a syntax error is reported with its place.
pub(crate) struct Reader<'d> {
    pub(crate) id: SourceId,
    pub(crate) diagnostics: &'d mut Vec<Diagnostic>,
}

type Key<'i> = Spanned<DeString<'i>>;
type Value<'i> = Spanned<DeValue<'i>>;

impl Reader<'_> {
    pub(crate) fn parse<'i>(&mut self, text: &'i str) -> Option<Spanned<DeTable<'i>>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let place = self.place(error.span().unwrap_or(0..0));
            self.diagnostics.push(Diagnostic::error(format!("this is not TOML: {}", error.message()), place, ""));
        }
        errors.is_empty().then_some(table)
    }

    pub(crate) fn place(&self, span: Range<usize>) -> Place {
        Place { source: self.id, span }
    }

    pub(crate) fn error(&mut self, span: Range<usize>, message: impl Into<String>, label: impl Into<String>) -> &mut Diagnostic {
        let place = self.place(span);
        self.push(Diagnostic::error(message, place, label))
    }

    fn push(&mut self, diagnostic: Diagnostic) -> &mut Diagnostic {
        let at = self.diagnostics.len();
        self.diagnostics.push(diagnostic);
        // The index of what was just pushed.
        #[expect(clippy::indexing_slicing, reason = "pushed above")]
        &mut self.diagnostics[at]
    }

    fn wrong_type(&mut self, key: &Key<'_>, value: &Value<'_>, expected: &str, example: &str) {
        let message = format!("`{}` is {expected}", key.get_ref());
        let label = format!("this is {}", article(value.get_ref().type_str()));
        self.error(value.span(), message, label).help = Some(format!("write `{example}`"));
    }

    pub(crate) fn string(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<String>> {
        match value.get_ref().as_str() {
            Some(text) => Some(At { value: text.to_owned(), place: self.place(value.span()) }),
            None => {
                self.wrong_type(key, value, "text", &format!("{} = \"…\"", key.get_ref()));
                None
            }
        }
    }

    pub(crate) fn bool(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<bool>> {
        match value.get_ref().as_bool() {
            Some(value_) => Some(At { value: value_, place: self.place(value.span()) }),
            None => {
                self.wrong_type(key, value, "true or false", &format!("{} = true", key.get_ref()));
                None
            }
        }
    }

    pub(crate) fn table<'v, 'i>(&mut self, key: &Key<'i>, value: &'v Value<'i>) -> Option<&'v DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let message = format!("`{}` is a table", key.get_ref());
            let label = format!("this is {}", article(value.get_ref().type_str()));
            self.error(value.span(), message, label);
        }
        table
    }

    pub(crate) fn mode(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<Mode>> {
        let text = self.string(key, value)?;
        let mode = match text.value.as_str() {
            "full" => Mode::Full,
            "limited" => Mode::Limited,
            other => {
                let help = nearest(other, ["full", "limited"])
                    .map_or_else(|| "write \"full\" or \"limited\"".to_owned(), |near| format!("did you mean \"{near}\"?"));
                self.error(value.span(), format!("`mode` is \"full\" or \"limited\", not \"{other}\""), "").help = Some(help);
                return None;
            }
        };
        Some(At { value: mode, place: text.place })
    }

    fn features(&mut self, value: &Value<'_>, doc: &mut LayerDoc) {
        let Some((key, value)) = value.get_ref().as_table().and_then(|table| table.get_key_value("network_proxy")) else { return };
        match value.get_ref() {
            DeValue::Boolean(on) => doc.feature = Some(At { value: *on, place: self.place(value.span()) }),
            DeValue::Table(table) => {
                // `enabled` switches the feature, and what else the table has lies over the profile.
                let mut overlay = self.network(table);
                doc.feature = Some(overlay.enabled.take().unwrap_or(At { value: true, place: self.place(key.span()) }));
                doc.overlay = Some(overlay);
            }
            _ => self.wrong_type(key, value, "true, false or a table", "network_proxy = true"),
        }
    }

    fn permissions(&mut self, key: &Key<'_>, value: &Value<'_>, doc: &mut LayerDoc) {
        let Some(profiles) = self.table(key, value) else { return };
        for (name, value) in profiles {
            if name.get_ref() == "network"
                && value.get_ref().as_table().is_some_and(|table| table.keys().any(|key| is_network_key(key.get_ref())))
            {
                let help = "name the profile: `[permissions.NAME.network]`, and set `default_permissions = \"NAME\"`";
                self.error(name.span(), "`[permissions.network]` is an older spelling that this version does not read", "").help =
                    Some(help.into());
                continue;
            }
            let Some(table) = self.table(name, value) else { continue };
            let mut profile = ProfileDoc { place: self.place(name.span()), extends: None, network: None };
            for (key, value) in table {
                match key.get_ref().as_ref() {
                    "network" => profile.network = self.table(key, value).map(|table| self.network(table)),
                    "extends" => profile.extends = self.string(key, value),
                    other if strsim::damerau_levenshtein(other, "network") <= 2 => {
                        let warning = Diagnostic::warning(format!("`{other}` is not read by this program"), self.place(key.span()), "");
                        self.push(warning.help("did you mean `network`?"));
                    }
                    _ => {}
                }
            }
            doc.profiles.insert(name.get_ref().to_string(), profile);
        }
    }

    pub(crate) fn network(&mut self, table: &DeTable<'_>) -> NetworkDoc {
        let mut doc = NetworkDoc::default();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            match NETWORK_KEYS.iter().find(|(known, _)| *known == name) {
                None => self.unknown_key(key, "a network table", NETWORK_KEYS.map(|(name, _)| name)),
                Some((_, Support::Full)) => self.network_key(name, key, value, &mut doc),
                Some((_, Support::Blocks(why))) if is_on(value) => {
                    let warning = Diagnostic::warning(format!("`{name}` has no effect: {why}"), self.place(key.span()), "");
                    self.push(warning);
                }
                Some((_, Support::Refused(why))) if is_on(value) => {
                    self.error(key.span(), format!("`{name}` cannot be enforced: {why}"), "");
                }
                Some((_, Support::Blocks(_) | Support::Refused(_))) => {}
            }
        }
        doc
    }

    fn network_key(&mut self, name: &str, key: &Key<'_>, value: &Value<'_>, doc: &mut NetworkDoc) {
        match name {
            "enabled" => doc.enabled = self.bool(key, value),
            "mode" => doc.mode = self.mode(key, value),
            "proxy_url" => doc.proxy_url = self.string(key, value),
            "socks_url" => doc.socks_url = self.string(key, value),
            "admin_url" => doc.admin_url = self.string(key, value),
            "enable_socks5" => doc.enable_socks5 = self.bool(key, value),
            "allow_local_binding" => doc.allow_local_binding = self.bool(key, value),
            "dangerously_allow_non_loopback_proxy" => doc.dangerously_allow_non_loopback_proxy = self.bool(key, value),
            "presets" => doc.presets = self.strings(key, value),
            "domains" => doc.domains = self.domains(key, value),
            // A key that is said to be read and is not would be a policy that is not enforced.
            _ => {
                self.error(key.span(), format!("`{name}` cannot be enforced: this version does not read it"), "");
            }
        }
    }

    pub(crate) fn unknown_key<const N: usize>(&mut self, key: &Key<'_>, of: &str, known: [&'static str; N]) {
        let name = key.get_ref();
        let help = nearest(name, known).map(|near| format!("did you mean `{near}`?"));
        self.error(key.span(), format!("`{name}` is not a key of {of}"), "unknown key").help = help;
    }

    fn strings(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<Vec<At<String>>>> {
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of text", &format!("{} = [\"…\"]", key.get_ref()));
            return None;
        };
        let items = array.iter().filter_map(|item| self.string(key, item)).collect();
        Some(At { value: items, place: self.place(value.span()) })
    }

    pub(crate) fn domains(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<DomainEntry> {
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table of patterns", &format!("{} = {{ \"example.com\" = \"allow\" }}", key.get_ref()));
            return Vec::new();
        };
        let mut entries: Vec<DomainEntry> = table.iter().filter_map(|(pattern, value)| self.domain(pattern, value)).collect();
        entries.sort_by_key(|entry| entry.place.span.start);
        self.refuse_two_spellings(&entries);
        entries
    }

    /// Two spellings of one pattern in one table say two things of it: nobody can tell which one was meant.
    fn refuse_two_spellings(&mut self, entries: &[DomainEntry]) {
        let mut first: HashMap<String, &DomainEntry> = HashMap::with_capacity(entries.len());
        for entry in entries {
            let pattern = entry.pattern.to_string();
            if let Some(old) = first.get(&pattern) {
                let error = Diagnostic::error(format!("`{pattern}` is there twice, in two spellings"), entry.place.clone(), "");
                self.diagnostics.push(error.and(old.place.clone(), "first here").help("keep one of them"));
            } else {
                first.insert(pattern, entry);
            }
        }
    }

    fn domain(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<DomainEntry> {
        let pattern = self.pattern(key.get_ref(), &key.span());
        let mut entry_ports = None;
        let access = match value.get_ref() {
            DeValue::String(_) => self.access(value),
            DeValue::Table(table) => {
                entry_ports = table.get_key_value("ports").map(|(key, ports)| self.ports(key, ports));
                for key in table.keys() {
                    match key.get_ref().as_ref() {
                        "access" | "ports" => {}
                        name @ ("methods" | "paths" | "reason") => {
                            self.error(key.span(), format!("`{name}` cannot be enforced: this version reads `access` and `ports`"), "");
                        }
                        _ => self.unknown_key(key, "a rule", ["access", "ports", "methods", "paths", "reason"]),
                    }
                }
                match table.get("access") {
                    Some(access) => self.access(access),
                    None => {
                        let help = "write `{ access = \"allow\", … }`";
                        self.error(value.span(), "a rule needs `access`", "").help = Some(help.into());
                        None
                    }
                }
            }
            _ => {
                let example = format!("\"{}\" = \"allow\"", key.get_ref());
                self.wrong_type(key, value, "\"allow\", \"deny\", \"read-only\" or a table", &example);
                None
            }
        };
        let (pattern, access) = (pattern?, access?);
        if pattern.port.is_some() && entry_ports.is_some() {
            self.error(key.span(), "the pattern has a port and the rule has `ports`", "").help = Some("say it once".into());
            return None;
        }
        let ports = match (pattern.port, entry_ports) {
            (Some(port), _) => vec![PortRange { first: port, last: port }],
            (None, Some(ports)) => ports?,
            (None, None) => Vec::new(),
        };
        let everything = pattern.hosts == policy_format::Hosts::Any && ports.is_empty();
        if everything && access == Some(Access::Deny) {
            let help = "what no rule allows is denied anyway; to switch the network off, set `enabled = false`";
            self.error(key.span(), "`*` cannot be denied", "").help = Some(help.into());
            return None;
        }
        Some(DomainEntry { pattern, place: self.place(key.span()), access, ports })
    }

    /// `Some(None)` is `"none"`.
    fn access(&mut self, value: &Value<'_>) -> Option<Option<Access>> {
        match value.get_ref().as_str() {
            Some("allow") => Some(Some(Access::Allow)),
            Some("deny") => Some(Some(Access::Deny)),
            Some("read-only") => Some(Some(Access::ReadOnly)),
            Some("none") => Some(None),
            other => {
                let near = other.and_then(|other| nearest(&other.to_lowercase().replace('_', "-"), ["allow", "deny", "read-only", "none"]));
                let help = near.map_or_else(
                    || "write \"allow\", \"deny\", \"read-only\" or \"none\"".to_owned(),
                    |near| format!("did you mean \"{near}\"?"),
                );
                let message = "access is \"allow\", \"deny\", \"read-only\" or \"none\"";
                self.error(value.span(), message, "").help = Some(help);
                None
            }
        }
    }

    pub(crate) fn pattern(&mut self, text: &str, span: &Range<usize>) -> Option<Pattern> {
        match Pattern::parse(text) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                // A quoted key's text starts behind its quote; escapes are rare enough to point at the whole.
                let inner = span.start + 1..span.end.saturating_sub(1).max(span.start + 1);
                let exact = inner.len() == text.len() && !error.span.is_empty();
                let place = if exact { inner.start + error.span.start..inner.start + error.span.end } else { span.clone() };
                let help = match (&error.suggestion, error.kind) {
                    (Some(suggestion), _) => Some(format!("write \"{suggestion}\"")),
                    (None, PatternErrorKind::WildcardInAddress) => Some("write a network, such as \"10.0.0.0/8\"".to_owned()),
                    (None, PatternErrorKind::NumericLookalike) => Some("write the address in full, such as \"127.0.0.1\"".to_owned()),
                    (None, _) => None,
                };
                self.error(place, format!("the pattern `{}` is not valid: {error}", text.escape_debug()), "").help = help;
                None
            }
        }
    }

    fn ports(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<Vec<PortRange>> {
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of ports", "ports = [443, \"8000-8999\"]");
            return None;
        };
        if array.is_empty() {
            self.error(value.span(), "`ports` is empty: the rule would never act", "").help =
                Some("name a port, or leave `ports` out".into());
            return None;
        }
        let mut ranges = Vec::new();
        for item in array.iter() {
            let range = match item.get_ref() {
                DeValue::Integer(number) if number.radix() == 10 => {
                    parse_port(number.as_str()).map(|port| PortRange { first: port, last: port })
                }
                DeValue::String(text) => match text.split_once('-') {
                    Some((first, last)) => parse_port(first.trim())
                        .zip(parse_port(last.trim()))
                        .filter(|(first, last)| first <= last)
                        .map(|(first, last)| PortRange { first, last }),
                    None => parse_port(text).map(|port| PortRange { first: port, last: port }),
                },
                _ => None,
            };
            match range {
                Some(range) => ranges.push(range),
                None => {
                    let help = "write `ports = [443, \"8000-8999\"]`";
                    self.error(item.span(), "a port is a number from 1 to 65535, or a range such as \"8000-8999\"", "").help =
                        Some(help.into());
                }
            }
        }
        (!ranges.is_empty()).then_some(ranges)
    }
}

pub(crate) fn is_network_key(name: &str) -> bool {
    NETWORK_KEYS.iter().any(|(known, _)| *known == name)
}

/// Whether a value asks for anything: `false` and what is empty do not.
fn is_on(value: &Value<'_>) -> bool {
    match value.get_ref() {
        DeValue::Boolean(on) => *on,
        DeValue::Array(array) => !array.is_empty(),
        DeValue::Table(table) => table.values().any(is_on),
        DeValue::String(text) => text != "deny" && text != "none",
        _ => true,
    }
}

/// The known word that `text` may have meant.
pub(crate) fn nearest<const N: usize>(text: &str, known: [&'static str; N]) -> Option<&'static str> {
    let distance = |word: &&str| strsim::damerau_levenshtein(text, word);
    known.into_iter().min_by_key(distance).filter(|word| distance(word) <= (text.len() / 3).max(1))
}

fn article(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}
