//! `domains`: patterns, and what they say.

use super::{DomainEntry, Key, Reader, Value, nearest};
use crate::diagnostic::{Code, Diagnostic};
use policy_format::pattern::parse_port;
use policy_format::{Access, Hosts, Pattern, PatternErrorKind, PortRange, path};
use std::collections::HashMap;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

const RULE_KEYS: [&str; 5] = ["access", "ports", "methods", "paths", "reason"];

/// Bytes that a rule's reason may have: it is shown in one line.
const MAX_REASON: usize = 200;

impl Reader<'_> {
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
                let error =
                    Diagnostic::error(Code::DuplicatePattern, format!("`{pattern}` is there twice, in two spellings"), entry.place.clone());
                self.diagnostics.push(error.and(old.place.clone(), "first here").with_help("keep one of them"));
            } else {
                first.insert(pattern, entry);
            }
        }
    }

    fn domain(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<DomainEntry> {
        let pattern = self.pattern(key.get_ref(), &key.span());
        let mut terms = Terms::default();
        let access = match value.get_ref() {
            DeValue::String(_) => self.access(value),
            DeValue::Table(table) => self.rule(table, value, &mut terms),
            DeValue::Boolean(on) => {
                let meant = if *on { "\"allow\"" } else { "\"deny\"" };
                self.error(Code::InvalidValue, value.span(), "access is \"allow\", \"deny\", \"read-only\" or \"none\"")
                    .did_you_mean(meant);
                None
            }
            _ => {
                let example = format!("\"{}\" = \"allow\"", key.get_ref());
                self.wrong_type(key, value, "\"allow\", \"deny\", \"read-only\" or a table", &example);
                None
            }
        };
        let (pattern, access) = (pattern?, access?);
        if pattern.port.is_some() && terms.ports.is_some() {
            self.error(Code::InvalidValue, key.span(), "the pattern has a port and the rule has `ports`").help = Some("say it once".into());
            return None;
        }
        let ports = match (pattern.port, terms.ports) {
            (Some(port), _) => vec![PortRange { first: port, last: port }],
            (None, Some(ports)) => ports?,
            (None, None) => Vec::new(),
        };
        let conditional = !ports.is_empty() || !terms.methods.is_empty() || !terms.paths.is_empty();
        if !conditional && self.denies_everything(&pattern, access, &key.span()) {
            return None;
        }
        let Terms { methods, paths, reason, .. } = terms;
        Some(DomainEntry { pattern, place: self.place(key.span()), access, ports, methods, paths, reason })
    }

    /// The table form of a rule.
    fn rule(&mut self, table: &DeTable<'_>, value: &Value<'_>, terms: &mut Terms) -> Option<Option<Access>> {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "access" => {}
                "ports" => terms.ports = Some(self.ports(key, value)),
                "methods" => terms.methods = self.methods(key, value),
                "paths" => terms.paths = self.paths(key, value),
                "reason" => terms.reason = self.reason(key, value),
                _ => self.unknown_key(key, "a rule", &RULE_KEYS),
            }
        }
        match table.get("access") {
            Some(access) => self.access(access),
            None => {
                self.error(Code::MissingKey, value.span(), "a rule needs `access`").help = Some("write `{ access = \"allow\", … }`".into());
                None
            }
        }
    }

    /// Reports a `*` that is denied.
    pub(super) fn denies_everything(&mut self, pattern: &Pattern, access: Option<Access>, span: &Range<usize>) -> bool {
        let everything = pattern.hosts == Hosts::Any && pattern.port.is_none() && access == Some(Access::Deny);
        if everything {
            let help = "what no rule allows is denied anyway; to switch the network off, set `enabled = false`";
            self.error(Code::InvalidPattern, span.clone(), "`*` cannot be denied").help = Some(help.into());
        }
        everything
    }

    /// `Some(None)` is `"none"`.
    fn access(&mut self, value: &Value<'_>) -> Option<Option<Access>> {
        match value.get_ref().as_str() {
            Some("allow") => Some(Some(Access::Allow)),
            Some("deny") => Some(Some(Access::Deny)),
            Some("read-only") => Some(Some(Access::ReadOnly)),
            Some("none") => Some(None),
            other => {
                let near = other.and_then(|other| match other.to_lowercase().replace('_', "-").as_str() {
                    "block" | "blocked" | "denied" | "false" => Some("deny"),
                    "allowed" | "true" | "yes" => Some("allow"),
                    "readonly" | "read" => Some("read-only"),
                    other => nearest(other, ["allow", "deny", "read-only", "none"]),
                });
                let error = self.error(Code::InvalidValue, value.span(), "access is \"allow\", \"deny\", \"read-only\" or \"none\"");
                match near {
                    Some(near) => error.did_you_mean(&format!("\"{near}\"")),
                    None => error.help = Some("write \"allow\", \"deny\", \"read-only\" or \"none\"".to_owned()),
                }
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
                let quoted = inner.len() == text.len();
                let exact = quoted && !error.span.is_empty();
                let place = if exact { inner.start + error.span.start..inner.start + error.span.end } else { span.clone() };
                let help = match error.kind {
                    PatternErrorKind::WildcardInAddress => Some("write a network, such as \"10.0.0.0/8\""),
                    PatternErrorKind::NumericLookalike => Some("write the address in full, such as \"127.0.0.1\""),
                    _ => None,
                };
                let whole = self.place(inner);
                let diagnostic =
                    self.error(Code::InvalidPattern, place, format!("the pattern `{}` is not valid: {error}", text.escape_debug()));
                match &error.suggestion {
                    Some(suggestion) => {
                        diagnostic.help = Some(format!("write \"{suggestion}\""));
                        if quoted {
                            diagnostic.edit(whole, suggestion);
                        }
                    }
                    None => diagnostic.help = help.map(str::to_owned),
                }
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
            self.error(Code::InvalidPort, value.span(), "`ports` is empty: the rule would never act").help =
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
                    let message = "a port is a number from 1 to 65535, or a range such as \"8000-8999\"";
                    self.error(Code::InvalidPort, item.span(), message).help = Some("write `ports = [443, \"8000-8999\"]`".into());
                }
            }
        }
        (!ranges.is_empty()).then_some(ranges)
    }

    /// Methods, upper case: that is how every registered one is written (RFC 9110, section 9.1).
    pub(super) fn methods(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<String> {
        let Some(list) = self.strings(key, value) else { return Vec::new() };
        if list.value.is_empty() {
            let message = format!("`{}` is empty: nothing would match", key.get_ref());
            self.error(Code::InvalidValue, list.place.span, message).help = Some("write `methods = [\"GET\"]`".into());
        }
        let mut methods = Vec::new();
        for method in list.value {
            let name = method.value.trim().to_ascii_uppercase();
            let is_token =
                !name.is_empty() && name.len() <= 32 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
            if !is_token || name == "*" {
                self.error(Code::InvalidValue, method.place.span, format!("`{}` is not an HTTP method", method.value.escape_debug()))
                    .help = Some("write methods such as \"GET\" or \"POST\"; leave `methods` out to mean every method".into());
            } else if name == "CONNECT" {
                self.error(Code::InvalidValue, method.place.span, "`CONNECT` opens a tunnel and is no method of a request inside it")
                    .help = Some("leave `methods` out: a rule without them allows tunnels".into());
            } else {
                methods.push(name);
            }
        }
        methods
    }

    fn paths(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<String> {
        let Some(list) = self.strings(key, value) else { return Vec::new() };
        if list.value.is_empty() {
            self.error(Code::InvalidPath, list.place.span, "`paths` is empty: nothing would match").help =
                Some("name a path such as \"/v1/\", or leave `paths` out".into());
        }
        let mut paths = Vec::new();
        for item in list.value {
            match path::check_prefix(&item.value) {
                Ok(()) => paths.push(item.value),
                Err(error) => {
                    let message = format!("the path `{}` is not valid: {error}", item.value.escape_debug());
                    let diagnostic = self.error(Code::InvalidPath, item.place.span, message);
                    if error == path::PathError::NotAbsolute && path::check_prefix(&format!("/{}", item.value)).is_ok() {
                        diagnostic.did_you_mean(&format!("\"/{}\"", item.value));
                    }
                }
            }
        }
        paths
    }

    fn reason(&mut self, key: &Key<'_>, value: &Value<'_>) -> String {
        let Some(text) = self.string(key, value) else { return String::new() };
        if text.value.len() > MAX_REASON || text.value.chars().any(char::is_control) {
            self.error(Code::InvalidValue, text.place.span, format!("`reason` is one line of at most {MAX_REASON} bytes"));
            return String::new();
        }
        text.value.trim().to_owned()
    }
}

/// What the table form of a rule says beyond access.
#[derive(Default)]
struct Terms {
    /// `Some(None)`: there, and wrong.
    ports: Option<Option<Vec<PortRange>>>,
    methods: Vec<String>,
    paths: Vec<String>,
    reason: String,
}
