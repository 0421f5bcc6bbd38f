//! `[….audit]`: what is written down of decisions, and where.

use super::{At, AuditDoc, Key, LayerDoc, OtlpDoc, Reader, Value};
use crate::diagnostic::{Code, Diagnostic};
use crate::keys;
use policy_format::{Audit, AuditLevel, AuditNaming, Fsync, OnFull, Otlp, OtlpProtocol, SyslogTarget};
use std::collections::BTreeMap;
use toml::de::DeValue;

impl Reader<'_> {
    /// `[….audit]`.
    pub(crate) fn audit(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<AuditDoc> {
        let table = self.table(key, value)?;
        let mut doc = AuditDoc { place: self.place(key.span()), ..AuditDoc::default() };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "file" => doc.file = self.sink_path(key, value, "/var/log/netproxy/audit.jsonl"),
                "stdout" => doc.stdout = self.bool(key, value),
                "syslog" => doc.syslog = self.syslog(key, value),
                "journald" => doc.journald = self.bool(key, value),
                "otlp" => doc.otlp = self.otlp(key, value),
                "naming" => doc.naming = self.word_or(key, value, AuditNaming::ALL, &[("reference", "codex"), ("otel", "codex")]),
                "level" => {
                    let meant = [("none", "off"), ("deny", "denied"), ("denials", "denied"), ("blocked", "denied"), ("full", "all")];
                    doc.level = self.word_or(key, value, AuditLevel::ALL, &meant);
                }
                "on_full" => {
                    let meant = [("lose", "drop"), ("discard", "drop"), ("wait", "block"), ("refuse", "deny"), ("reject", "deny")];
                    doc.on_full = self.word_or(key, value, OnFull::ALL, &meant);
                }
                "fsync" => {
                    let meant =
                        [("no", "never"), ("off", "never"), ("false", "never"), ("yes", "always"), ("true", "always"), ("batch", "always")];
                    doc.fsync = self.word_or(key, value, Fsync::ALL, &meant);
                }
                "chain" => doc.chain = self.bool(key, value),
                "metadata" => doc.metadata = self.metadata(key, value),
                name => match Audit::number(name) {
                    Some(number) => doc.numbers.extend(self.limit(number, key, value).map(|at| (number.name, at))),
                    None => self.unknown_key(key, table, "`audit`", &keys::AUDIT),
                },
            }
        }
        Some(doc)
    }

    /// The absolute path of a file: a policy does not know where it will run.
    fn sink_path(&mut self, key: &Key<'_>, value: &Value<'_>, example: &str) -> Option<At<String>> {
        let text = self.string(key, value)?;
        if Audit::is_path(&text.value) {
            return Some(text);
        }
        let error = self.error(Code::InvalidValue, text.place.span, format!("`{}` is the absolute path of a file", key.get_ref()));
        error.help = Some(format!("write it from the root, such as \"{example}\": a policy does not know where it will run"));
        None
    }

    /// `/dev/log`, `udp://10.0.0.1:514` or `tcp://10.0.0.1:601`.
    fn syslog(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<SyslogTarget>> {
        let text = self.string(key, value)?;
        match text.value.parse() {
            Ok(target) => Some(At { value: target, place: text.place }),
            Err(error) => {
                let port = |scheme: &str| if scheme == "tcp" { 601 } else { 514 };
                let with_port = text.value.split_once("://").map(|(scheme, rest)| format!("{scheme}://{rest}:{}", port(scheme)));
                let diagnostic = self.error(Code::InvalidAddress, text.place.span, error.to_string());
                match with_port.filter(|meant| meant.parse::<SyslogTarget>().is_ok()) {
                    Some(meant) => diagnostic.did_you_mean(&format!("\"{meant}\"")),
                    None => diagnostic.help = Some("write \"/dev/log\", or an address such as \"udp://10.0.0.1:514\"".into()),
                }
                None
            }
        }
    }

    /// `otlp = "http://127.0.0.1:4318"`, or a table with `endpoint`, `protocol` and `headers_file`.
    fn otlp(&mut self, key: &Key<'_>, value: &Value<'_>) -> OtlpDoc {
        let mut doc = OtlpDoc::default();
        match value.get_ref() {
            DeValue::String(_) => doc.endpoint = self.endpoint(key, value),
            DeValue::Table(table) => {
                for (key, value) in table {
                    match key.get_ref().as_ref() {
                        "endpoint" => doc.endpoint = self.endpoint(key, value),
                        "protocol" => {
                            doc.protocol = self.word_or(key, value, OtlpProtocol::ALL, &[("http/protobuf", "http"), ("https", "http")])
                        }
                        "headers_file" => doc.headers_file = self.sink_path(key, value, "/etc/netproxy/otlp-headers"),
                        _ => self.unknown_key(key, table, "`otlp`", &keys::OTLP),
                    }
                }
            }
            _ => self.wrong_type(
                key,
                value,
                "the URL of a collector, or a table with `endpoint`, `protocol` and `headers_file`",
                "otlp = \"http://127.0.0.1:4318\"",
            ),
        }
        doc
    }

    fn endpoint(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<String>> {
        let text = self.string(key, value)?;
        match Otlp::check_endpoint(&text.value) {
            Ok(()) => Some(text),
            Err(error) => {
                let with_scheme = Some(format!("http://{}", text.value))
                    .filter(|meant| !text.value.contains("://") && Otlp::check_endpoint(meant).is_ok());
                let diagnostic = self.error(Code::InvalidAddress, text.place.span, error.to_string());
                match with_scheme {
                    Some(meant) => diagnostic.did_you_mean(&format!("\"{meant}\"")),
                    None => {
                        diagnostic.help =
                            Some("write a URL such as \"http://127.0.0.1:4318\" or \"https://otel.example.com/v1/logs\"".into())
                    }
                }
                None
            }
        }
    }

    /// Fields that every event gets.
    fn metadata(&mut self, key: &Key<'_>, value: &Value<'_>) -> BTreeMap<String, At<String>> {
        let Some(table) = self.table(key, value) else { return BTreeMap::new() };
        if table.len() > Audit::MAX_METADATA {
            let message = format!("`metadata` has {} fields, and may have {}", table.len(), Audit::MAX_METADATA);
            self.error(Code::TooLarge, key.span(), message).help = Some("keep those that somebody looks at".into());
            return BTreeMap::new();
        }
        let mut fields = BTreeMap::new();
        for (name, value) in table {
            if value.get_ref().is_table() {
                // `metadata.user.email = …` is a table in a table.
                let quoted = format!("metadata = {{ \"{}.…\" = \"…\" }}", name.get_ref().escape_debug());
                self.wrong_type(name, value, "text", &quoted);
                if let Some(error) = self.diagnostics.last_mut() {
                    error.help = Some("put a name with dots in it into quotation marks".into());
                }
                continue;
            }
            let Some(text) = self.string(name, value) else { continue };
            match Audit::check_metadata(name.get_ref(), &text.value) {
                Ok(()) => {
                    fields.insert(name.get_ref().to_string(), text);
                }
                Err(error) => {
                    self.error(Code::InvalidValue, name.span(), error.to_string()).help =
                        Some("such as `metadata = { \"app.version\" = \"1.2.3\", model = \"m\" }`".into());
                }
            }
        }
        fields
    }
}

/// What comes with a repository says neither to which files nor to which hosts the proxy writes, nor what it does not write.
pub(super) fn not_of_projects(doc: &mut LayerDoc, diagnostics: &mut Vec<Diagnostic>) {
    let profiles = doc.profiles.values_mut().flat_map(|profile| &mut profile.network);
    let others = doc.overlay.iter_mut().chain(doc.base.iter_mut().map(|base| &mut base.value));
    for audit in profiles.chain(others).filter_map(|network| network.audit.take()) {
        let message = "a project cannot set `audit`, which names files and hosts that the proxy writes to";
        let error = Diagnostic::error(Code::WrongLayer, message, audit.place);
        diagnostics.push(error.with_help("move it to the user's settings, or to the administrator's"));
    }
}
