//! Other tools' allow and deny lists to a policy: what means the same is written, and whatever means something else is said.
//!
//! Every conversion has the same promise: the policy compiles, and wherever it decides otherwise than the tool did, a warning names the line.

mod claude;
mod json;
mod smokescreen;
mod squid;
mod srt;
mod yaml;

use super::{MAX_INPUT, Note};
use crate::source::quote;
use policy_format::{Pattern, PortRange};
use std::collections::HashMap;
use std::fmt::Write;

/// A tool whose lists are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Anthropic's sandbox runtime: `.srt-settings.json`.
    Srt,
    /// Claude Code: `settings.json`.
    ClaudeSettings,
    /// Stripe's Smokescreen: a YAML access list, version `v1`.
    Smokescreen,
    /// Squid: `squid.conf`.
    Squid,
}

impl Tool {
    /// Every tool.
    pub const ALL: [Self; 4] = [Self::Srt, Self::ClaudeSettings, Self::Smokescreen, Self::Squid];

    /// The name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Srt => "srt",
            Self::ClaudeSettings => "claude-settings",
            Self::Smokescreen => "smokescreen",
            Self::Squid => "squid",
        }
    }
}

/// How to convert.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// The profile to write; [`super::DEFAULT_PROFILE`] without it.
    pub profile: Option<&'a str>,
    /// The service whose rule is taken; Smokescreen only.
    pub service: Option<&'a str>,
    /// The name of the input, for the head of the output.
    pub label: &'a str,
    /// Reads a file that the input names; Squid only. An answer of more than [`MAX_INPUT`] bytes is refused.
    pub read: &'a dyn Fn(&str) -> std::io::Result<String>,
}

/// A converted policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The policy, canonical TOML.
    pub text: String,
    /// What means something else here, in the order of the input.
    pub warnings: Vec<Note>,
}

/// An input that cannot be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ConvertError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

impl ConvertError {
    fn new(line: usize, message: impl AsRef<str>) -> Self {
        Self { line, message: clean(message.as_ref()) }
    }
}

/// Converts `text`, the lists of `tool`.
///
/// # Errors
/// [`ConvertError`] when the tool itself would not take it, or when it names something that cannot be read.
pub fn convert(tool: Tool, text: &str, options: Options<'_>) -> Result<Converted, ConvertError> {
    if text.len() > MAX_INPUT {
        return Err(ConvertError::new(1, format!("there are more than {MAX_INPUT} bytes")));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let draft = match tool {
        Tool::Srt => srt::read(text)?,
        Tool::ClaudeSettings => claude::read(text)?,
        Tool::Smokescreen => smokescreen::read(text, options.service)?,
        Tool::Squid => squid::read(text, options.read)?,
    };
    Ok(draft.finish(tool, options))
}

/// What a rule of the draft says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Allow,
    ReadOnly,
    Deny,
}

impl Access {
    fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::ReadOnly => "read-only",
            Self::Deny => "deny",
        }
    }
}

#[derive(Debug, Clone)]
struct Rule {
    pattern: Pattern,
    access: Access,
    /// All ports when empty.
    ports: Vec<PortRange>,
    line: usize,
    /// Said behind the rule.
    comment: Option<String>,
}

/// A policy that is being written.
#[derive(Debug, Default)]
struct Draft {
    rules: Vec<Rule>,
    sockets: Vec<String>,
    /// Further keys of the network table, as lines of TOML.
    settings: Vec<String>,
    warnings: Vec<Note>,
}

impl Draft {
    fn warn(&mut self, line: usize, message: impl AsRef<str>) {
        self.warnings.push(Note { line, message: clean(message.as_ref()) });
    }

    /// A pattern as it is written here. One that is not valid here is left out, with a warning.
    fn pattern(&mut self, text: &str, line: usize, access: Access) -> Option<Pattern> {
        match Pattern::parse(text) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                let lost = if access == Access::Deny {
                    "what it denied is denied only where nothing allows it"
                } else {
                    "nothing is allowed by it"
                };
                self.warn(line, format!("`{text}` is left out, and {lost}: {error}"));
                None
            }
        }
    }

    fn rule(&mut self, text: &str, access: Access, line: usize) {
        if let Some(pattern) = self.pattern(text, line, access) {
            self.push(Rule { pattern, access, ports: Vec::new(), line, comment: None });
        }
    }

    fn push(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    /// Everything is denied there: no allow is left.
    fn deny_everything(&mut self, line: usize) {
        self.rules.retain(|rule| rule.access == Access::Deny);
        self.warn(line, "everything is denied, which no rule can say here: every allow is left out instead");
    }

    /// One entry for each pattern: a deny beats an allow, ports are put together.
    fn settle(&mut self) -> Vec<Rule> {
        let mut settled: Vec<Rule> = Vec::new();
        let mut index: HashMap<String, usize> = HashMap::new();
        for rule in std::mem::take(&mut self.rules) {
            let name = rule.pattern.to_string();
            let Some(there) = index.get(&name).and_then(|at| settled.get_mut(*at)) else {
                index.insert(name, settled.len());
                settled.push(rule);
                continue;
            };
            if there.access == rule.access {
                if there.ports.is_empty() || rule.ports.is_empty() {
                    there.ports.clear();
                } else {
                    there.ports.extend(rule.ports);
                }
                continue;
            }
            let (first, second) = (there.line, rule.line);
            if there.access != Access::Deny && rule.access != Access::Deny {
                // Read-only and allow: the wider of the two, as either line let it pass.
                there.access = Access::Allow;
                there.ports =
                    if there.ports.is_empty() || rule.ports.is_empty() { Vec::new() } else { [there.ports.clone(), rule.ports].concat() };
                self.warn(second, format!("`{name}` is there twice (line {first}): the wider access is written"));
                continue;
            }
            if rule.access == Access::Deny {
                *there = rule;
            }
            if !there.ports.is_empty() {
                there.ports.clear();
                let message =
                    format!("`{name}` is denied on some ports and allowed on others (line {first}): it is denied on all of them here");
                self.warn(second, message);
            }
        }
        settled
    }

    fn finish(mut self, tool: Tool, options: Options<'_>) -> Converted {
        let rules = self.settle();
        self.warnings.sort();
        self.warnings.dedup();
        let profile = options.profile.unwrap_or(super::DEFAULT_PROFILE);
        let table = format!("permissions.{}.network", key(profile));
        let mut text = format!("# Made by `netpolicy migrate --from {}` from {}.\n", tool.as_str(), clean(options.label));
        text.push_str(
            "# Here a deny beats every allow, and a name that resolves to a private address is blocked unless a rule names that address.\n",
        );
        if !self.warnings.is_empty() {
            text.push_str("#\n# What means something else here:\n");
        }
        for warning in &self.warnings {
            line(&mut text, format_args!("# line {}: {}", warning.line, warning.message));
        }
        line(&mut text, format_args!("default_permissions = {}\n\n[{table}]\nenabled = true", quote(profile)));
        for setting in &self.settings {
            line(&mut text, format_args!("{setting}"));
        }
        if !rules.is_empty() {
            line(&mut text, format_args!("\n[{table}.domains]"));
        }
        for rule in &rules {
            let access = rule.access.as_str();
            let comment = rule.comment.as_deref().map(|comment| format!(" # {}", clean(comment))).unwrap_or_default();
            let pattern = quote(&rule.pattern.to_string());
            if rule.ports.is_empty() {
                line(&mut text, format_args!("{pattern} = \"{access}\"{comment}"));
            } else {
                line(&mut text, format_args!("{pattern} = {{ access = \"{access}\", ports = [{}] }}{comment}", ports(&rule.ports)));
            }
        }
        if !self.sockets.is_empty() {
            line(&mut text, format_args!("\n[{table}.unix_sockets]"));
        }
        for socket in &self.sockets {
            line(&mut text, format_args!("{} = \"allow\"", quote(socket)));
        }
        Converted { text, warnings: self.warnings }
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = text.write_fmt(arguments);
    text.push('\n');
}

/// A key of TOML, quoted where it has to be.
fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if bare { name.to_owned() } else { quote(name) }
}

/// Text from outside on one line, and not without end.
fn clean(text: &str) -> String {
    let mut cleaned: String = text.chars().take(400).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(400).is_some() {
        cleaned.push('…');
    }
    cleaned
}

/// Ranges of ports, sorted and put together.
fn unite(ports: &[PortRange]) -> Vec<PortRange> {
    let mut sorted = ports.to_vec();
    sorted.sort_by_key(|range| (range.first, range.last));
    let mut united: Vec<PortRange> = Vec::new();
    for range in sorted {
        match united.last_mut() {
            Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => last.last = last.last.max(range.last),
            _ => united.push(range),
        }
    }
    united
}

fn ports(ranges: &[PortRange]) -> String {
    let shown = unite(ranges).into_iter().map(|range| match range.first == range.last {
        true => range.first.to_string(),
        false => format!("\"{}-{}\"", range.first, range.last),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// Comparisons of each pattern of a list with each of another one, in a number that is bounded.
struct Comparisons {
    left: u64,
}

impl Default for Comparisons {
    fn default() -> Self {
        Self { left: 20_000_000 }
    }
}

impl Comparisons {
    /// The first pattern for which `meets` holds. Once there were too many comparisons, there is none.
    fn first<'p>(
        &mut self,
        among: impl IntoIterator<Item = (&'p Pattern, usize)>,
        meets: impl Fn(&Pattern) -> bool,
    ) -> Option<(&'p Pattern, usize)> {
        for (pattern, line) in among {
            if self.left == 0 {
                return None;
            }
            self.left -= 1;
            if meets(pattern) {
                return Some((pattern, line));
            }
        }
        None
    }

    /// Says so when lists were too long to be compared.
    fn report(&self, draft: &mut Draft) {
        if self.left == 0 {
            draft.warn(
                1,
                "the lists are too long to compare each pattern with each: some denies may beat an allow that was asked first there",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_and_overlap() {
        let parse = |text: &str| Pattern::parse(text).unwrap();
        for (outer, inner, expected) in [
            ("*", "a.test", (true, true)),
            ("a.test", "a.test", (true, true)),
            ("a.test", "b.a.test", (false, false)),
            ("*.a.test", "a.test", (false, false)),
            ("*.a.test", "b.a.test", (true, true)),
            ("*.a.test", "*.a.test", (true, true)),
            ("*.a.test", "**.a.test", (false, true)),
            ("**.a.test", "*.a.test", (true, true)),
            ("**.a.test", "xa.test", (false, false)),
            ("**.b.a.test", "**.a.test", (false, true)),
            ("10.0.0.0/8", "10.1.0.0/16", (true, true)),
            ("10.1.0.0/16", "10.0.0.0/8", (false, true)),
            ("10.0.0.0/8", "a.test", (false, false)),
            ("a.test:1", "a.test", (false, true)),
            ("a.test:1", "a.test:2", (false, false)),
            ("a*.test", "b.test", (false, false)),
        ] {
            assert_eq!((parse(outer).covers(&parse(inner)), parse(outer).overlaps(&parse(inner))), expected, "{outer} {inner}");
        }
    }

    #[test]
    fn ports_are_put_together() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(ports(&[range(443, 443), range(80, 80), range(81, 90), range(85, 86), range(65535, 65535)]), "\"80-90\", 443, 65535");
    }

    #[test]
    fn text_from_outside_stays_on_its_line() {
        assert_eq!(clean("a\nb = \"allow\""), "a\u{fffd}b = \"allow\"");
        assert_eq!(clean(&"x".repeat(500)).chars().count(), 401);
    }
}
