//! `domains`: patterns, and what they say.

use super::{DomainEntry, Key, Reader, Value, nearest, nearest_of};
use crate::diagnostic::{Code, Diagnostic};
use crate::keys;
use policy_format::pattern::parse_port;
use policy_format::{Access, HostError, Hosts, Pattern, PatternErrorKind, PortRange, path};
use std::collections::HashMap;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// What a pattern can be said to be.
const ACCESS: [&str; 4] = ["allow", "deny", "read-only", "none"];

/// Bytes that a rule's reason may have: it is shown in one line.
const MAX_REASON: usize = 200;

impl Reader<'_> {
    pub(crate) fn domains(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<DomainEntry> {
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table of patterns", &format!("{} = {{ \"example.com\" = \"allow\" }}", key.get_ref()));
            if let (Some(meant), Some(error)) = (as_map(value.get_ref()), self.diagnostics.last_mut()) {
                error.fix(&meant);
                error.help = Some("say of each pattern what it does".into());
            }
            return Vec::new();
        };
        let mut entries: Vec<DomainEntry> = Vec::with_capacity(table.len());
        for (pattern, value) in table {
            if !self.turned_round(pattern, value) && !self.unquoted(pattern, value) {
                entries.extend(self.domain(pattern, value));
            }
        }
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

    /// `"allow" = ["example.com"]`: the access as the key.
    fn turned_round(&mut self, key: &Key<'_>, value: &Value<'_>) -> bool {
        let access = key.get_ref().to_lowercase();
        let patterns: Option<Vec<&str>> = match value.get_ref() {
            DeValue::Array(array) => array.iter().map(|item| item.get_ref().as_str()).collect(),
            DeValue::String(text) if !ACCESS.contains(&text.as_ref()) => Some(vec![text.as_ref()]),
            _ => None,
        };
        let (Some(patterns), true) = (patterns, ACCESS.contains(&access.as_str())) else { return false };
        let known = !patterns.is_empty() && patterns.iter().all(|pattern| Pattern::parse(pattern).is_ok());
        let whole = key.span().start..value.span().end;
        // Lines of a table of its own, items of one that stands in a line.
        let line = super::syntax::line_of(self.text, whole.start);
        let own_line = self.written(&(line.start..whole.start)).trim().is_empty();
        let entries: Vec<String> = patterns.iter().map(|pattern| format!("{} = \"{access}\"", quoted(pattern))).collect();
        let place = self.place(whole);
        let error =
            self.error(Code::WrongType, key.span(), format!("in a table of domains the pattern comes first, and `{access}` after it"));
        error.help = Some(format!("write `\"example.com\" = \"{access}\"`"));
        if known {
            error.help = Some("turn it round".into());
            error.edit(place, entries.join(if own_line { "\n" } else { ", " }));
        }
        true
    }

    /// `api.example.com = "allow"`: without quotes, dots make tables in tables.
    fn unquoted(&mut self, key: &Key<'_>, value: &Value<'_>) -> bool {
        let is_quoted = self.written(&key.span()).starts_with(['"', '\'']);
        if is_quoted || self.nest(value).is_none() {
            return false;
        }
        // What is deeper than a name can be is none.
        let mut open: Vec<(String, &Key<'_>, &Value<'_>, usize)> = vec![(key.get_ref().to_string(), key, value, 0)];
        let mut found = false;
        while let Some((name, key, value, depth)) = open.pop() {
            match self.nest(value).filter(|_| depth < 127) {
                Some(table) => {
                    let below = table.iter().map(|(key, value)| (format!("{name}.{}", key.get_ref()), key, value, depth + 1));
                    open.extend(below);
                }
                None if depth == 0 || Pattern::parse(&name).is_err() => {}
                None => {
                    found = true;
                    let end = key.span().end;
                    let span = end.saturating_sub(name.len())..end;
                    let as_written = self.written(&span) == name;
                    let message = format!("`{name}` needs quotes: without them TOML reads its dots as tables in tables");
                    let error = self.error(Code::InvalidPattern, if as_written { span } else { key.span() }, message);
                    error.help = Some(format!("write `\"{name}\"`"));
                    if as_written {
                        error.fix(&format!("\"{name}\""));
                        error.help = Some("quote the pattern".into());
                    }
                }
            }
        }
        found
    }

    /// The table that a dot in a pattern made: none of its keys is one of a rule or, between braces, looks like one.
    fn nest<'v, 'i>(&self, value: &'v Value<'i>) -> Option<&'v DeTable<'i>> {
        let table = value.get_ref().as_table().filter(|table| !table.is_empty())?;
        let braces = self.written(&value.span()).starts_with('{');
        let of_a_rule = |name: &str| keys::RULE.key(name).is_some() || (braces && looks_like_a_rule(name));
        table.keys().all(|key| !of_a_rule(key.get_ref())).then_some(table)
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
        if access.is_none() && conditional && pattern.port.is_none() {
            let message = "`access = \"none\"` takes the whole entry away: its other keys have no effect";
            self.warning(Code::NoEffect, value.span(), message).help = Some("write `\"none\"` by itself".into());
        }
        let Terms { methods, paths, reason, .. } = terms;
        Some(DomainEntry { pattern, place: self.place(key.span()), access, ports, methods, paths, reason })
    }

    /// The table form of a rule.
    fn rule(&mut self, table: &DeTable<'_>, value: &Value<'_>, terms: &mut Terms) -> Option<Option<Access>> {
        let mut access_is_said = false;
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "access" => {}
                "ports" => terms.ports = Some(self.ports(key, value)),
                "methods" => terms.methods = self.methods(key, value),
                "paths" => terms.paths = self.paths(key, value),
                "reason" => terms.reason = self.reason(key, value),
                "port" if !table.contains_key("ports") && value.get_ref().is_integer() => {
                    let meant = format!("ports = [{}]", self.written(&value.span()));
                    let place = self.place(key.span().start..value.span().end);
                    let error = self.error(Code::UnknownKey, key.span(), "`port` is not a key of a rule");
                    error.label("unknown key");
                    error.help = Some("ports are a list".into());
                    error.edit(place, meant);
                }
                name if ACCESS.contains(&name) && !table.contains_key("access") && value.get_ref().as_bool() == Some(true) => {
                    let (meant, place) = (format!("access = \"{name}\""), self.place(key.span().start..value.span().end));
                    let error = self.error(Code::UnknownKey, key.span(), format!("`{name}` is not a key of a rule"));
                    error.label("unknown key");
                    error.help = Some("say it with `access`".into());
                    error.edit(place, meant);
                    access_is_said = true;
                }
                name => {
                    access_is_said |= nearest_of(name, &["access"]).is_some();
                    self.unknown_key(key, table, "a rule", &keys::RULE);
                }
            }
        }
        match table.get("access") {
            Some(access) => self.access(access),
            // Said, and wrongly: once is enough.
            None if access_is_said => None,
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
                    other => nearest(other, ACCESS),
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
                let whole = self.place(inner);
                let bare: String = text.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect();
                let bare = Some(bare).filter(|bare| bare != text).and_then(|bare| Pattern::parse(&bare).ok());
                let diagnostic =
                    self.error(Code::InvalidPattern, place, format!("the pattern `{}` is not valid: {error}", text.escape_debug()));
                match error.suggestion.or_else(|| bare.map(|bare| bare.to_string())) {
                    Some(suggestion) => {
                        diagnostic.help = Some(format!("write \"{suggestion}\""));
                        if quoted {
                            diagnostic.edit(whole, suggestion);
                        }
                    }
                    None => diagnostic.help = Some(pattern_help(error.kind).to_owned()),
                }
                None
            }
        }
    }

    fn ports(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<Vec<PortRange>> {
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of ports", "ports = [443, \"8000-8999\"]");
            if port_range(value.get_ref()).is_some() {
                self.bracket(value);
            }
            return None;
        };
        if array.is_empty() {
            self.error(Code::InvalidPort, value.span(), "`ports` is empty: the rule would never act").help =
                Some("name a port, or leave `ports` out".into());
            return None;
        }
        let mut ranges = Vec::new();
        for item in array.iter() {
            match port_range(item.get_ref()) {
                Some(range) => ranges.push(range),
                None => {
                    let written = self.written(&item.span()).trim_matches(['"', '\'']).to_owned();
                    let message = format!("`{written}` is not a port from 1 to 65535, nor a range of them");
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
                    diagnostic.help = Some("write a path from its `/`, without wildcards, query and steps up, such as \"/v1/\"".into());
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
            self.error(Code::InvalidValue, text.place.span, format!("`reason` is one line of at most {MAX_REASON} bytes")).help =
                Some("shorten it: it is shown to whoever is refused".into());
            return String::new();
        }
        text.value.trim().to_owned()
    }
}

/// Whether a key is one of a rule, misspelt, or what a rule does.
fn looks_like_a_rule(name: &str) -> bool {
    ACCESS.contains(&name) || nearest_of(name, &keys::RULE.names()).is_some()
}

/// `443`, `"443"` or `"8000-8999"`.
fn port_range(value: &DeValue<'_>) -> Option<PortRange> {
    match value {
        DeValue::Integer(number) if number.radix() == 10 => parse_port(number.as_str()).map(|port| PortRange { first: port, last: port }),
        DeValue::String(text) => match text.split_once('-') {
            Some((first, last)) => parse_port(first.trim())
                .zip(parse_port(last.trim()))
                .filter(|(first, last)| first <= last)
                .map(|(first, last)| PortRange { first, last }),
            None => parse_port(text).map(|port| PortRange { first: port, last: port }),
        },
        _ => None,
    }
}

/// How to write what a pattern that nothing can be guessed from may have meant.
fn pattern_help(kind: PatternErrorKind) -> &'static str {
    match kind {
        PatternErrorKind::WildcardInAddress | PatternErrorKind::Prefix => "write a network, such as \"10.0.0.0/8\" or \"2001:db8::/32\"",
        PatternErrorKind::NumericLookalike => "write the address in full, such as \"127.0.0.1\"",
        PatternErrorKind::Port => "write one from 1 to 65535, such as \"example.com:8443\", or leave it out for every port",
        PatternErrorKind::Everything => "write \"*\" if every host is meant",
        PatternErrorKind::Unfinished => "close what is open, or write the wildcard in full, such as \"*.example.com\"",
        PatternErrorKind::TooManyAlternatives => "write several patterns with fewer alternatives each",
        PatternErrorKind::NonAsciiGlob => "write the label without wildcards, or in its `xn--` form",
        PatternErrorKind::Host(HostError::Zone) => "write the address without its zone",
        _ => "write a host, such as \"example.com\", \"*.example.com\" or \"10.0.0.0/8\"",
    }
}

/// A list of patterns, or one, as the table that was meant: `*` and all.
fn as_map(value: &DeValue<'_>) -> Option<String> {
    let patterns: Vec<&str> = match value {
        DeValue::Array(array) => array.iter().map(|item| item.get_ref().as_str()).collect::<Option<_>>()?,
        DeValue::String(text) => vec![text],
        _ => return None,
    };
    let mut seen = std::collections::HashSet::with_capacity(patterns.len());
    let all_new = |pattern: &&str| Pattern::parse(pattern).is_ok_and(|pattern| seen.insert(pattern.to_string()));
    if patterns.is_empty() || !patterns.iter().all(all_new) {
        return None;
    }
    let entries: Vec<String> = patterns.iter().map(|pattern| format!("{} = \"allow\"", quoted(pattern))).collect();
    Some(format!("{{ {} }}", entries.join(", ")))
}

/// A pattern as a key. Valid ones have no quotes, but some globs have backslashes.
fn quoted(pattern: &str) -> String {
    if pattern.contains('\\') { format!("'{pattern}'") } else { format!("\"{pattern}\"") }
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
