//! What one layer said: the network policy's part of its TOML, with spans kept and unknown keys refused.
//!
//! Keys outside the network policy belong to other programs and are passed over. Inside it, nothing is: what this version does not enforce is refused.
//! Older spellings are read into the same documents, each with a warning that gives the canonical one.

mod audit;
mod credentials;
mod domains;
mod mitm;
mod network;
mod older;
mod settings;
mod syntax;

#[cfg(feature = "migrate")]
pub(crate) use network::socket_path;
pub(crate) use older::add_listed;
pub(crate) use settings::limit_toml;

use crate::diagnostic::{Code, Diagnostic, Place};
use crate::keys;
use crate::lists::ListFormat;
use crate::source::{SourceFile, SourceId};
use policy_format::{
    Access, AuditLevel, AuditNaming, ClientCertificate, CredentialAuth, Forwarded, Fsync, JsonValue, Layer, MitmMode, Mode, NameServer,
    OnFull, OnRevoke, OtlpProtocol, Pattern, PortRange, Secret, Sni, SyslogTarget, UrlPrefix,
};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// Bytes of a word that may be a misspelt one. No key or name that people type is as long, and a comparison costs the product of two lengths.
const MAX_GUESSED: usize = 64;
/// Known words that a misspelt one is compared with.
const MAX_KNOWN: usize = 1000;
/// Diagnostics after which no more comparisons are made: a file that has as many is not misspelt here and there.
const MAX_SUGGESTING: usize = 200;
/// Lines of a file that are not TOML, which are shown. A file of another kind has nothing but such lines.
const MAX_SYNTAX_ERRORS: usize = 50;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub place: Place,
}

/// What a layer of settings said.
#[derive(Debug, Clone, Default)]
pub struct LayerDoc {
    /// `default_permissions`.
    pub default_permissions: Option<At<String>>,
    /// `features.network_proxy`, as a bool or as its `enabled`.
    pub feature: Option<At<bool>>,
    /// `features.network_proxy` as a table: settings over the profile's.
    pub overlay: Option<NetworkDoc>,
    /// `permissions`.
    pub profiles: BTreeMap<String, ProfileDoc>,
    /// Older tables that name no profile: they lie under the chosen one's of this layer.
    pub base: Option<At<NetworkDoc>>,
    /// `sandbox_mode`: it counts where no profile is chosen.
    pub sandbox_mode: Option<At<String>>,
    /// `sandbox_workspace_write.network_access`.
    pub network_access: Option<At<bool>>,
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
    /// `enable_socks5_udp`.
    pub enable_socks5_udp: Option<At<bool>>,
    /// `allow_upstream_proxy`.
    pub allow_upstream_proxy: Option<At<bool>>,
    /// `allow_local_binding`.
    pub allow_local_binding: Option<At<bool>>,
    /// `dangerously_allow_non_loopback_proxy`.
    pub dangerously_allow_non_loopback_proxy: Option<At<bool>>,
    /// `dangerously_allow_non_loopback_admin`.
    pub dangerously_allow_non_loopback_admin: Option<At<bool>>,
    /// `dangerously_allow_all_unix_sockets`.
    pub dangerously_allow_all_unix_sockets: Option<At<bool>>,
    /// `credential_broker`.
    pub credential_broker: Option<At<bool>>,
    /// `dangerously_allow_plaintext_credential_injection`.
    pub dangerously_allow_plaintext_credential_injection: Option<At<bool>>,
    /// The port of the HTTP listener that a requirement demands.
    pub http_port: Option<At<u16>>,
    /// The port of the SOCKS5 listener that a requirement demands.
    pub socks_port: Option<At<u16>>,
    /// `upstream`.
    pub upstream: Option<UpstreamDoc>,
    /// `presets`.
    pub presets: Option<At<Vec<At<String>>>>,
    /// `domain_lists`.
    pub domain_lists: Option<At<Vec<ListDoc>>>,
    /// `domains`, in the order of the file.
    pub domains: Vec<DomainEntry>,
    /// `unix_sockets`, in the order of the file.
    pub unix_sockets: Vec<SocketEntry>,
    /// `mitm`.
    pub mitm: MitmDoc,
    /// `sni`.
    pub sni: Option<At<Sni>>,
    /// `via`.
    pub via: Option<At<bool>>,
    /// `forwarded`.
    pub forwarded: Option<At<Forwarded>>,
    /// `resolver`.
    pub resolver: Option<At<Vec<NameServer>>>,
    /// `limits`.
    pub limits: LimitsDoc,
    /// `audit`.
    pub audit: Option<AuditDoc>,
    /// `credentials`, in the order of the file.
    pub credentials: Vec<CredentialDoc>,
    /// `dangerously_pass_credentials_without_broker`.
    pub dangerously_pass_credentials_without_broker: Option<At<bool>>,
}

/// `[….credentials.NAME]`, whole: it is replaced by name, never field by field.
#[derive(Debug, Clone)]
pub struct CredentialDoc {
    /// Its name, and where that stands.
    pub name: At<String>,
    /// `env`.
    pub env: Vec<At<String>>,
    /// `url_prefixes`.
    pub url_prefixes: Vec<At<UrlPrefix>>,
    /// `auth`, with `header` and `prefix`.
    pub auth: CredentialAuth,
}

/// `[….audit]`.
#[derive(Debug, Clone)]
pub struct AuditDoc {
    /// Where the table stands.
    pub place: Place,
    /// `file`.
    pub file: Option<At<String>>,
    /// `stdout`.
    pub stdout: Option<At<bool>>,
    /// `syslog`.
    pub syslog: Option<At<SyslogTarget>>,
    /// `journald`.
    pub journald: Option<At<bool>>,
    /// `otlp`.
    pub otlp: OtlpDoc,
    /// `naming`.
    pub naming: Option<At<AuditNaming>>,
    /// `level`.
    pub level: Option<At<AuditLevel>>,
    /// `on_full`.
    pub on_full: Option<At<OnFull>>,
    /// `fsync`.
    pub fsync: Option<At<Fsync>>,
    /// `chain`.
    pub chain: Option<At<bool>>,
    /// Settings that are numbers by name, in the unit of their kind.
    pub numbers: BTreeMap<&'static str, At<u64>>,
    /// `metadata`.
    pub metadata: BTreeMap<String, At<String>>,
}

impl Default for AuditDoc {
    /// Nothing is said.
    fn default() -> Self {
        Self {
            place: Place::nowhere(),
            file: None,
            stdout: None,
            syslog: None,
            journald: None,
            otlp: OtlpDoc::default(),
            naming: None,
            level: None,
            on_full: None,
            fsync: None,
            chain: None,
            numbers: BTreeMap::new(),
            metadata: BTreeMap::new(),
        }
    }
}

/// `otlp` of `[….audit]`.
#[derive(Debug, Clone, Default)]
pub struct OtlpDoc {
    /// `endpoint`.
    pub endpoint: Option<At<String>>,
    /// `protocol`.
    pub protocol: Option<At<OtlpProtocol>>,
    /// `headers_file`.
    pub headers_file: Option<At<String>>,
}

/// `[….limits]`.
#[derive(Debug, Clone, Default)]
pub struct LimitsDoc {
    /// Limits by name, in the unit of their kind.
    pub values: BTreeMap<&'static str, At<u64>>,
    /// `on_revoke`.
    pub on_revoke: Option<At<OnRevoke>>,
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
    /// The methods of its table.
    pub methods: Vec<String>,
    /// The paths of its table.
    pub paths: Vec<String>,
    /// The reason of its table.
    pub reason: String,
}

/// An entry of `[….unix_sockets]`.
#[derive(Debug, Clone)]
pub struct SocketEntry {
    /// The absolute path.
    pub path: String,
    /// Where it stands.
    pub place: Place,
    /// Whether it is allowed; `None` is `"none"`.
    pub allow: Option<bool>,
}

/// An entry of `domain_lists`.
#[derive(Debug, Clone)]
pub struct ListDoc {
    /// The file, as it was written.
    pub path: At<String>,
    /// How the file is written.
    pub format: ListFormat,
    /// What its entries do.
    pub access: Access,
}

/// `upstream`.
#[derive(Debug, Clone)]
pub struct UpstreamDoc {
    /// `url`.
    pub url: Option<At<String>>,
    /// `no_proxy`.
    pub no_proxy: Option<At<Vec<At<String>>>>,
    /// `rules`, in the order of the file.
    pub rules: Option<At<Vec<UpstreamRuleDoc>>>,
    /// Written as text: it replaces a weaker table whole.
    pub whole: bool,
}

/// An item of `upstream.rules`.
#[derive(Debug, Clone)]
pub struct UpstreamRuleDoc {
    /// `hosts`.
    pub hosts: At<Vec<At<String>>>,
    /// `url`: a proxy, or `direct`.
    pub url: At<String>,
}

/// `mitm`.
#[derive(Debug, Clone, Default)]
pub struct MitmDoc {
    /// `mode`.
    pub mode: Option<At<MitmMode>>,
    /// `bypass`.
    pub bypass: Option<At<Vec<At<Pattern>>>>,
    /// `dangerously_bypass_read_only`.
    pub dangerously_bypass_read_only: Option<At<bool>>,
    /// `client_certificates`.
    pub client_certificates: Option<At<Vec<ClientCertificate>>>,
    /// `ca_cert_path`.
    pub ca_cert_path: Option<At<String>>,
    /// `ca_key_path`.
    pub ca_key_path: Option<At<String>>,
    /// `max_body_bytes`.
    pub max_body_bytes: Option<At<u64>>,
    /// `hooks`, in the order of the file.
    pub hooks: Vec<HookDoc>,
    /// `actions`, in the order of the file.
    pub actions: Vec<ActionDoc>,
}

/// A hook, whole: hooks are replaced by name, never field by field.
#[derive(Debug, Clone)]
pub struct HookDoc {
    /// Its name, and where that stands.
    pub name: At<String>,
    /// `host`: a name, an address or a scoped wildcard.
    pub host: At<Pattern>,
    /// `methods`, upper case.
    pub methods: Vec<String>,
    /// `path_prefixes`.
    pub path_prefixes: Vec<String>,
    /// `query`.
    pub query: Vec<(String, Vec<String>)>,
    /// `headers`, lower case.
    pub headers: Vec<(String, Vec<String>)>,
    /// `body`.
    pub body: Option<BodyDoc>,
    /// `action`: names of actions.
    pub action: Vec<At<String>>,
}

/// `body` of a hook.
#[derive(Debug, Clone)]
pub struct BodyDoc {
    /// `json`: pointers, sorted, and the values that each may lead to.
    pub json: Vec<(String, Vec<JsonValue>)>,
    /// `max_bytes`.
    pub max_bytes: u64,
}

/// An action, whole.
#[derive(Debug, Clone)]
pub struct ActionDoc {
    /// Its name, and where that stands.
    pub name: At<String>,
    /// `strip_request_headers`, lower case.
    pub strip_request_headers: Vec<String>,
    /// `inject_request_headers`: name, secret, prefix.
    pub inject_request_headers: Vec<(String, Secret, String)>,
    /// `strip_response_headers`, lower case.
    pub strip_response_headers: Vec<String>,
}

/// Reads one layer of settings. Everything wrong in it is reported; `None` when it is not TOML.
pub fn read(id: SourceId, source: &SourceFile, diagnostics: &mut Vec<Diagnostic>) -> Option<LayerDoc> {
    let mut reader = Reader { id, text: source.text(), diagnostics };
    let mut doc = LayerDoc::default();
    let root = reader.parse()?;
    for (key, value) in root.get_ref() {
        match key.get_ref().as_ref() {
            "default_permissions" => doc.default_permissions = reader.string(key, value),
            "features" => reader.features(value, &mut doc),
            "permissions" => reader.permissions(key, value, &mut doc),
            "sandbox_mode" => doc.sandbox_mode = reader.sandbox_mode(key, value),
            "sandbox_workspace_write" => doc.network_access = reader.network_access(key, value),
            // Other programs may have a key of that name; ours are tables.
            "network_proxy" if value.get_ref().is_table() => reader.network_proxy(key, value, &mut doc),
            "network" if value.get_ref().is_table() => reader.older_upstream(key, value, &mut doc),
            _ => {}
        }
    }
    if source.layer == Layer::Project {
        audit::not_of_projects(&mut doc, diagnostics);
    }
    Some(doc)
}

/// Parses TOML for any reader; a syntax error is reported with its place.
pub(crate) struct Reader<'d> {
    pub(crate) id: SourceId,
    pub(crate) text: &'d str,
    pub(crate) diagnostics: &'d mut Vec<Diagnostic>,
}

pub(crate) type Key<'i> = Spanned<DeString<'i>>;
pub(crate) type Value<'i> = Spanned<DeValue<'i>>;

impl<'d> Reader<'d> {
    pub(crate) fn parse(&mut self) -> Option<Spanned<DeTable<'d>>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        let newlines: Vec<usize> = if errors.is_empty() { Vec::new() } else { memchr::memchr_iter(b'\n', self.text.as_bytes()).collect() };
        let (mut lines, mut beyond) = (HashSet::new(), None);
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            // One mistake makes the parser stumble several times in its line.
            if !lines.insert(newlines.partition_point(|newline| *newline < span.start)) {
                continue;
            }
            let place = self.place(span);
            if lines.len() <= MAX_SYNTAX_ERRORS {
                self.diagnostics.push(syntax::not_toml(self.text, error.message(), place));
            } else {
                beyond.get_or_insert(place);
            }
        }
        if let Some(place) = beyond {
            let some = match lines.len() - MAX_SYNTAX_ERRORS {
                1 => "1 more line is".to_owned(),
                more => format!("{more} more lines are"),
            };
            let error = Diagnostic::error(Code::NotToml, format!("{some} not TOML"), place).with_label("the next one");
            self.diagnostics.push(error.with_help("mend those above first, or name another file if this one never was TOML"));
        }
        errors.is_empty().then_some(table)
    }
}

impl Reader<'_> {
    /// The text of a span, as it was written.
    pub(crate) fn written(&self, span: &Range<usize>) -> &str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    pub(crate) fn place(&self, span: Range<usize>) -> Place {
        Place { source: self.id, span }
    }

    pub(crate) fn error(&mut self, code: Code, span: Range<usize>, message: impl Into<String>) -> &mut Diagnostic {
        let place = self.place(span);
        self.push(Diagnostic::error(code, message, place))
    }

    pub(crate) fn warning(&mut self, code: Code, span: Range<usize>, message: impl Into<String>) -> &mut Diagnostic {
        let place = self.place(span);
        self.push(Diagnostic::warning(code, message, place))
    }

    pub(crate) fn push(&mut self, diagnostic: Diagnostic) -> &mut Diagnostic {
        let at = self.diagnostics.len();
        self.diagnostics.push(diagnostic);
        // The index of what was just pushed.
        #[expect(clippy::indexing_slicing, reason = "pushed above")]
        &mut self.diagnostics[at]
    }

    pub(crate) fn wrong_type(&mut self, key: &Key<'_>, value: &Value<'_>, expected: &str, example: &str) {
        let message = format!("`{}` is {expected}", key.get_ref());
        let label = format!("this is {}", article(value.get_ref().type_str()));
        let error = self.error(Code::WrongType, value.span(), message);
        error.label(label);
        error.help = Some(format!("write `{example}`"));
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
                // `"true"` and `"yes"` are what people write who come from YAML.
                let meant = match value.get_ref().as_str().map(str::to_ascii_lowercase).as_deref() {
                    Some("true" | "yes" | "on") => Some("true"),
                    Some("false" | "no" | "off") => Some("false"),
                    _ => None,
                };
                self.wrong_type(key, value, "true or false", &format!("{} = {}", key.get_ref(), meant.unwrap_or("true")));
                if let (Some(meant), Some(error)) = (meant, self.diagnostics.last_mut()) {
                    error.fix(meant);
                }
                None
            }
        }
    }

    pub(crate) fn table<'v, 'i>(&mut self, key: &Key<'_>, value: &'v Value<'i>) -> Option<&'v DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let message = format!("`{}` is a table", key.get_ref());
            let label = format!("this is {}", article(value.get_ref().type_str()));
            let error = self.error(Code::WrongType, value.span(), message);
            error.label(label);
            error.help = Some(format!("write `{} = {{ … }}`, or a table of that name", key.get_ref()));
        }
        table
    }

    pub(crate) fn number(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<u64>> {
        let number = value.get_ref().as_integer().filter(|number| number.radix() == 10).and_then(|number| number.as_str().parse().ok());
        if number.is_none() {
            self.wrong_type(key, value, "a whole number, not below 0", &format!("{} = 65536", key.get_ref()));
        }
        number.map(|value_| At { value: value_, place: self.place(value.span()) })
    }

    pub(crate) fn strings(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<Vec<At<String>>>> {
        let Some(array) = value.get_ref().as_array() else {
            let items: Vec<String> =
                value.get_ref().as_str().unwrap_or("…").split(',').map(|item| format!("\"{}\"", item.trim().escape_debug())).collect();
            let list = format!("[{}]", items.join(", "));
            self.wrong_type(key, value, "a list of text", &format!("{} = {list}", key.get_ref()));
            if let (true, Some(error)) = (value.get_ref().is_str(), self.diagnostics.last_mut()) {
                error.fix(&list);
                error.help = Some("put it into brackets".into());
            }
            return None;
        };
        let items = array.iter().filter_map(|item| self.string(key, item)).collect();
        Some(At { value: items, place: self.place(value.span()) })
    }

    /// The edit of the error before: the one value as a list of one.
    pub(crate) fn bracket(&mut self, value: &Value<'_>) {
        let meant = format!("[{}]", self.written(&value.span()));
        if let Some(error) = self.diagnostics.last_mut() {
            error.fix(&meant);
            error.help = Some("put it into brackets".into());
        }
    }

    /// A value that is one of a few words.
    pub(crate) fn word<T: Copy, const N: usize>(
        &mut self,
        key: &Key<'_>,
        value: &Value<'_>,
        words: [(&'static str, T); N],
    ) -> Option<At<T>> {
        self.word_or(key, value, &words, &[])
    }

    /// Like [`Self::word()`], with words that mean one of those: what is meant is offered.
    pub(crate) fn word_or<T: Copy>(
        &mut self,
        key: &Key<'_>,
        value: &Value<'_>,
        words: &[(&'static str, T)],
        meant: &[(&str, &'static str)],
    ) -> Option<At<T>> {
        let text = self.string(key, value)?;
        let found = words.iter().find(|(word, _)| *word == text.value).map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<&'static str> = words.iter().map(|(word, _)| *word).collect();
            let listed = list_words(&names);
            let lower = text.value.to_lowercase().replace('_', "-");
            let meant = meant.iter().find(|(word, _)| *word == lower).map(|(_, meant)| *meant);
            let near = meant.or_else(|| suggest(&lower, &names, self.diagnostics));
            let error = self.error(
                Code::InvalidValue,
                value.span(),
                format!("`{}` is {listed}, not \"{}\"", key.get_ref(), text.value.escape_debug()),
            );
            match near {
                Some(near) => error.did_you_mean(&format!("\"{near}\"")),
                None => error.help = Some(format!("write {listed}")),
            }
        }
        found.map(|value_| At { value: value_, place: text.place })
    }

    pub(crate) fn mode(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<Mode>> {
        let mode = self.word(key, value, [("full", Mode::Full), ("limited", Mode::Limited)]);
        // What other programs call them.
        let meant = match value.get_ref().as_str().map(|text| text.to_lowercase().replace(['_', ' '], "-")).as_deref() {
            Some("readonly" | "read-only" | "ro" | "read" | "restricted") => Some("\"limited\""),
            Some("read-write" | "readwrite" | "rw" | "unrestricted" | "open" | "all") => Some("\"full\""),
            _ => None,
        };
        if let (None, Some(meant), Some(error)) = (&mode, meant, self.diagnostics.last_mut()) {
            error.did_you_mean(meant);
        }
        mode
    }

    fn features(&mut self, value: &Value<'_>, doc: &mut LayerDoc) {
        let Some(features) = value.get_ref().as_table() else { return };
        let Some((key, value)) = features.get_key_value("network_proxy") else {
            // Other features are not ours, but a switch that is silently not read is no switch.
            if let Some(key) = features.keys().find(|key| nearest(&key.get_ref().replace('-', "_"), ["network_proxy"]).is_some()) {
                self.warning(Code::UnknownKey, key.span(), format!("`{}` is not read by this program", key.get_ref().escape_debug()))
                    .did_you_mean("network_proxy");
            }
            return;
        };
        match value.get_ref() {
            DeValue::Boolean(on) => doc.feature = Some(At { value: *on, place: self.place(value.span()) }),
            DeValue::Table(table) => {
                // `enabled` switches the feature, and what else the table has lies over the profile.
                let mut overlay = self.network(table);
                if overlay.enabled.is_none() && table.contains_key("enabled") {
                    // It was there, and wrong.
                    return;
                }
                doc.feature = Some(overlay.enabled.take().unwrap_or(At { value: true, place: self.place(key.span()) }));
                doc.overlay = Some(overlay);
            }
            _ => self.wrong_type(key, value, "true, false or a table", "network_proxy = true"),
        }
    }

    fn permissions(&mut self, key: &Key<'_>, value: &Value<'_>, doc: &mut LayerDoc) {
        let Some(profiles) = self.table(key, value) else { return };
        for (name, value) in profiles {
            if name.get_ref() == "network" && network::has_network_keys(value.get_ref()) {
                self.network_without_profile(name, value, doc);
                continue;
            }
            let Some(table) = self.table(name, value) else { continue };
            let mut profile = ProfileDoc { place: self.place(name.span()), extends: None, network: None };
            for (key, value) in table {
                match key.get_ref().as_ref() {
                    "network" => profile.network = self.table(key, value).map(|table| self.network(table)),
                    "extends" => profile.extends = self.string(key, value),
                    // Workspace roots and file system rules are read by other programs.
                    other if other.len() <= MAX_GUESSED && strsim::damerau_levenshtein(other, "network") <= 2 => {
                        self.warning(Code::UnknownKey, key.span(), format!("`{other}` is not read by this program"))
                            .did_you_mean("network");
                    }
                    _ => {}
                }
            }
            doc.profiles.insert(name.get_ref().to_string(), profile);
        }
    }

    /// Reports a key that `table` cannot have. What the table has already is not what was meant.
    pub(crate) fn unknown_key(&mut self, key: &Key<'_>, table: &DeTable<'_>, of: &str, keys: &keys::Table) {
        let (name, known) = (key.get_ref(), keys.names());
        let free: Vec<&str> = known.iter().copied().filter(|known| !table.contains_key(*known)).collect();
        let near = suggest(name, &free, self.diagnostics);
        let error = self.error(Code::UnknownKey, key.span(), format!("`{}` is not a key of {of}", name.escape_debug()));
        error.label("unknown key");
        match near {
            Some(near) => error.did_you_mean(near),
            None => {
                let listed = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                error.help = Some(format!("remove it; the keys of {of} are {listed}"));
            }
        }
    }

    pub(crate) fn not_enforced(&mut self, key: &Key<'_>, value: &Value<'_>, why: &str) {
        if is_on(value) {
            let message = format!("`{}` cannot be enforced: {why}", key.get_ref());
            self.error(Code::NotEnforced, key.span(), message).help =
                Some("remove it: a setting that nothing enforces protects nobody".into());
        }
    }
}

/// `"a", "b" or "c"`.
fn list_words(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => format!("\"{only}\""),
        [first @ .., last] => {
            let first = first.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
            format!("{first} or \"{last}\"")
        }
    }
}

/// Whether a value asks for anything: `false` and what is empty do not.
fn is_on(value: &Value<'_>) -> bool {
    match value.get_ref() {
        DeValue::Boolean(on) => *on,
        DeValue::Array(array) => !array.is_empty(),
        DeValue::Table(table) => table.values().any(is_on),
        _ => true,
    }
}

/// The known word that `text` may have meant.
pub(crate) fn nearest<const N: usize>(text: &str, known: [&'static str; N]) -> Option<&'static str> {
    nearest_of(text, &known)
}

pub(crate) fn nearest_of<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    if text.len() > MAX_GUESSED {
        return None;
    }
    let (length, reach) = (text.chars().count(), (text.len() / 3).max(1));
    let known = || known.iter().copied().take(MAX_KNOWN).filter(|word| word.len() <= MAX_GUESSED);
    // Words differ at least by as much as their lengths do.
    let similar = known().filter(|word| word.chars().count().abs_diff(length) <= reach);
    let measured = similar.map(|word| (strsim::damerau_levenshtein(text, word), word));
    let near = measured.min_by_key(|(distance, _)| *distance).filter(|(distance, _)| *distance <= reach);
    // `limit` for `limited`: a beginning that only one word has.
    let mut begun = known().filter(|word| text.len() >= 4 && word.starts_with(text));
    near.map(|(_, word)| word).or_else(|| begun.next().filter(|_| begun.next().is_none()))
}

/// The known word that `text` may have meant, unless so much was said already that nobody reads on.
pub(crate) fn suggest<'k>(text: &str, known: &[&'k str], diagnostics: &[Diagnostic]) -> Option<&'k str> {
    if diagnostics.len() < MAX_SUGGESTING { nearest_of(text, known) } else { None }
}

fn article(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}
