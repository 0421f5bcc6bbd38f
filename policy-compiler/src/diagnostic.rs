//! What, where, how to fix: diagnostics and their rendering.
//!
//! Everything that can be wrong is reported, not just the first thing. Rendering cuts the lines that it shows out of the file, so that a warning
//! about a file of a million lines costs what one about ten costs.

#[cfg(feature = "cli")]
use crate::source::Positions;
use crate::source::{SourceFile, SourceId};
use annotate_snippets::renderer::{DEFAULT_TERM_WIDTH, DecorStyle};
use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// Diagnostics shown at most; the rest is counted.
pub const MAX_SHOWN: usize = 50;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// No blob is written.
    Error,
    /// The blob is written; with `--strict` it is not.
    Warning,
}

impl Severity {
    /// The name that machines read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

macro_rules! codes {
    ($($name:ident $text:literal $meaning:literal,)*) => {
        /// What kind of thing is wrong: stable names for editors and pipelines.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name that machines read.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it means, in one line.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }
        }
    };
}

codes! {
    NotToml "not-toml" "The text is not TOML.",
    WrongType "wrong-type" "A value is of another type than its key wants.",
    UnknownKey "unknown-key" "A key that no table of the policy has.",
    MissingKey "missing-key" "A key that has to be there is not.",
    InvalidValue "invalid-value" "A value that its key does not have.",
    InvalidPattern "invalid-pattern" "A host pattern that matches nothing, or more than can be meant.",
    InvalidPort "invalid-port" "Not a port from 1 to 65535.",
    InvalidPath "invalid-path" "A path that servers read in two ways, or that is none.",
    InvalidHook "invalid-hook" "A hook or an action that cannot work.",
    DuplicatePattern "duplicate-pattern" "One table says two things of one pattern.",
    NotEnforced "not-enforced" "A setting that this version cannot enforce.",
    NoProfile "no-profile" "No permission profile is chosen.",
    UnknownProfile "unknown-profile" "A permission profile that no layer has.",
    ProfileCycle "profile-cycle" "A permission profile extends itself.",
    ProfilesDiffer "profiles-differ" "Profiles of one policy differ in what a process has once.",
    UnknownPreset "unknown-preset" "A preset that does not exist.",
    UnknownAction "unknown-action" "A hook names an action that no layer has.",
    InvalidAddress "invalid-address" "Not an address to listen on, not the URL of a proxy, or not a name server.",
    OpenListener "open-listener" "A listener that other machines can reach.",
    RequirementViolated "requirement-violated" "A weaker layer conflicts with what a stronger one requires.",
    WrongLayer "wrong-layer" "A setting that this layer may not make.",
    ManagedHook "managed-hook" "A weaker layer touches a host or a name whose hooks a stronger layer owns.",
    BadList "bad-list" "A domain list that cannot be read, or lines of it.",
    TestCase "test-case" "A test case that cannot be run.",
    TooLarge "too-large" "More of something than the format can count.",
    Strict "strict" "Warnings, where warnings are errors.",
    IgnoredEntry "ignored-entry" "An entry that a requirement leaves without effect.",
    OverridesDeny "overrides-deny" "An allow over the deny of a weaker layer.",
    OlderSpelling "older-spelling" "An older spelling; `netpolicy migrate` rewrites it.",
    SwitchedOff "switched-off" "The policy, or its rules, are switched off.",
    NeverActs "never-acts" "A rule that never decides anything.",
    WideWildcard "wide-wildcard" "A wildcard over names that anybody can register.",
    Credentials "credentials" "A password or token written in a file.",
    NoEffect "no-effect" "A setting that has no effect where it stands.",
}

/// A stretch of a source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Which source.
    pub source: SourceId,
    /// Which bytes of it.
    pub span: Range<usize>,
}

impl Place {
    /// No place in any source, such as an argument's: it belongs to no layer and counts as the weakest.
    pub(crate) fn nowhere() -> Self {
        Self { source: SourceId(usize::MAX), span: 0..0 }
    }
}

/// A replacement that would help.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Edit {
    /// What to replace.
    pub place: Place,
    /// By what.
    pub text: String,
}

/// One thing to say about the sources.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Of which kind.
    pub code: Code,
    /// What is wrong: lower case, no final stop.
    pub message: String,
    /// Where, and a word on it; the first is underlined as the cause.
    pub places: Vec<(Place, String)>,
    /// How to fix it.
    pub help: Option<String>,
    /// The fix itself, where it is a replacement.
    pub edit: Option<Edit>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(code: Code, message: impl Into<String>, place: Place) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), places: vec![(place, String::new())], help: None, edit: None }
    }

    /// A warning at a place.
    pub fn warning(code: Code, message: impl Into<String>, place: Place) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message, place) }
    }

    /// An error about no place in particular.
    pub fn general(code: Code, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), places: Vec::new(), help: None, edit: None }
    }

    /// Adds a second place.
    #[must_use]
    pub fn and(mut self, place: Place, label: impl Into<String>) -> Self {
        self.places.push((place, label.into()));
        self
    }

    /// Adds a word at the first place.
    #[must_use]
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label(label);
        self
    }

    /// Adds how to fix it.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Sets the word at the first place.
    pub fn label(&mut self, label: impl Into<String>) {
        if let Some((_, old)) = self.places.first_mut() {
            *old = label.into();
        }
    }

    /// Sets a replacement of `place`, which is shown instead of the help's own words.
    pub fn edit(&mut self, place: Place, text: impl Into<String>) {
        self.edit = Some(Edit { place, text: text.into() });
    }

    /// Sets a replacement of the first place.
    pub fn fix(&mut self, text: &str) {
        if let Some((place, _)) = self.places.first() {
            self.edit = Some(Edit { place: place.clone(), text: text.to_owned() });
        }
    }

    /// Asks whether `text` was meant, and sets it as the replacement of the first place.
    pub fn did_you_mean(&mut self, text: &str) {
        self.fix(text);
        self.help = Some(format!("did you mean {}?", if text.starts_with('"') { text.to_owned() } else { format!("`{text}`") }));
    }
}

/// Diagnostics that stopped a compilation, with the sources that they point into.
#[derive(Debug)]
pub struct Failure {
    /// The sources.
    pub sources: Vec<SourceFile>,
    /// What is wrong with them.
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&render(&self.sources, &self.diagnostics, false))
    }
}

impl std::error::Error for Failure {}

/// The diagnostics as text, errors last so that they are what is seen, with a line that counts them.
#[must_use]
pub fn render(sources: &[SourceFile], diagnostics: &[Diagnostic], color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.decor_style(DecorStyle::Ascii).term_width(DEFAULT_TERM_WIDTH);
    let mut text = String::new();
    let (warnings, errors): (Vec<_>, Vec<_>) = diagnostics.iter().partition(|diagnostic| diagnostic.severity == Severity::Warning);
    let shown_errors = errors.len().min(MAX_SHOWN);
    for diagnostic in warnings.iter().take(MAX_SHOWN - shown_errors).chain(errors.iter().take(shown_errors)) {
        text.push_str(&renderer.render(&groups(sources, &shown(diagnostic))));
        text.push_str("\n\n");
    }
    if diagnostics.len() > MAX_SHOWN {
        text.push_str(&format!("… {} of {} shown\n", MAX_SHOWN, diagnostics.len()));
    }
    text.push_str(&count(errors.len(), warnings.len()));
    text
}

/// The diagnostic as it may be shown: what files say in it cannot act on a terminal, nor tell a password.
fn shown(diagnostic: &Diagnostic) -> Diagnostic {
    let clean = |text: &str| visible(&hide_passwords(text)).into_owned();
    let mut shown = diagnostic.clone();
    shown.message = clean(&shown.message);
    shown.help = shown.help.as_deref().map(clean);
    for (_, label) in &mut shown.places {
        *label = clean(label);
    }
    if let Some(edit) = &mut shown.edit {
        edit.text = clean(&edit.text);
    }
    shown
}

/// Whether a terminal acts on a character, or shows others in another order because of it. Line ends and tabs are none of these.
fn acts(c: char) -> bool {
    let marks = matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    marks || (c.is_control() && !matches!(c, '\n' | '\t'))
}

/// Text from outside for a terminal: control characters and those that turn the direction of text round stand as escapes, such as `\u{1b}`.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// A line of a file for a terminal. Carets stand under its bytes, so that their number stays; what is below U+0080 the renderer replaces itself.
fn shown_line(text: &str) -> String {
    hide_passwords(text).chars().map(|c| if matches!(c, '\u{80}'..='\u{9f}') { '\u{bf}' } else { c }).collect()
}

fn count(errors: usize, warnings: usize) -> String {
    let some = |n: usize, what: &str| match n {
        0 => None,
        1 => Some(format!("1 {what}")),
        n => Some(format!("{n} {what}s")),
    };
    let parts: Vec<String> = [some(errors, "error"), some(warnings, "warning")].into_iter().flatten().collect();
    parts.join(", ")
}

fn groups<'a>(sources: &'a [SourceFile], diagnostic: &'a Diagnostic) -> Vec<Group<'a>> {
    let mut groups = vec![group(sources, diagnostic)];
    groups.extend(patch(sources, diagnostic));
    groups
}

/// The edit, shown on the line as it would be.
fn patch<'a>(sources: &'a [SourceFile], diagnostic: &'a Diagnostic) -> Option<Group<'a>> {
    let edit = diagnostic.edit.as_ref()?;
    let excerpt = sources.get(edit.place.source.0)?.excerpt(&edit.place.span);
    let snippet = Snippet::source(shown_line(excerpt.text)).line_start(excerpt.line).patch(Patch::new(excerpt.span, edit.text.as_str()));
    let title = Level::HELP.secondary_title(diagnostic.help.as_deref().unwrap_or("replace it"));
    Some(Group::with_title(title).element(snippet))
}

fn group<'a>(sources: &'a [SourceFile], diagnostic: &'a Diagnostic) -> Group<'a> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(&diagnostic.message);
    let snippets = diagnostic.places.iter().enumerate().filter_map(|(n, (place, label))| {
        let source = sources.get(place.source.0)?;
        let excerpt = source.excerpt(&place.span);
        let kind = if n == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
        let annotation = kind.span(excerpt.span).label((!label.is_empty()).then_some(label.as_str()));
        Some(Snippet::source(shown_line(excerpt.text)).line_start(excerpt.line).path(visible(source.shown())).annotation(annotation))
    });
    let mut group = Group::with_title(title).elements(snippets);
    if let Some(help) = diagnostic.help.as_ref().filter(|_| diagnostic.edit.is_none()) {
        group = group.element(Level::HELP.message(help));
    }
    group
}

/// A line of TOML with the user information of its URLs overwritten, byte for byte: diagnostics end up in logs. What stands after a scheme, up to the last `@` of its
/// string, is taken for that; in a value whose key ends in `url`, `upstream` or `proxy`, also without a scheme.
#[must_use]
pub fn hide_passwords(text: &str) -> Cow<'_, str> {
    if !text.contains('@') {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut is_url = false;
    let mut rest = text;
    while !rest.is_empty() {
        let (part, end) = match rest.chars().next() {
            Some(quote @ ('"' | '\'')) => (rest, string_end(rest, quote)),
            _ => (rest, rest.find(['"', '\'', '=']).map_or(rest.len(), |at| at + usize::from(rest.get(at..=at) == Some("=")))),
        };
        let (part, after) = part.split_at_checked(end).unwrap_or((part, ""));
        hide_in(part, is_url, &mut shown);
        rest = after;
        if part.ends_with('=') && !part.starts_with(['"', '\'']) {
            let before = text.get(..text.len() - rest.len() - 1).unwrap_or_default();
            let key = before.trim_end().trim_end_matches(['"', '\'']).to_ascii_lowercase();
            is_url = ["url", "upstream", "proxy"].iter().any(|end| key.ends_with(end));
        }
    }
    Cow::Owned(shown)
}

/// Where a string ends that starts with `quote`. A quote after which no string of TOML ends is part of it: somebody forgot to escape it.
fn string_end(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            let next = text.get(at + 1..).and_then(|rest| rest.trim_start_matches([' ', '\t']).chars().next());
            if next.is_none_or(|next| matches!(next, ',' | ']' | '}' | '#' | '=' | '.' | '\n' | '\r' | ')' | '`')) {
                return at + 1;
            }
        }
        escaped = c == '\\' && quote == '"' && !escaped;
    }
    text.len()
}

fn hide_in(part: &str, is_url: bool, shown: &mut String) {
    let start = match part.find("://") {
        Some(at) => Some(at + 3),
        None if is_url => {
            let text = part.trim_start_matches(['"', '\'', ' ']);
            let open = part.len() - text.len();
            // `http:/user@host`: a slash was forgotten.
            Some(text.find(":/").filter(|at| text.get(..*at).is_some_and(is_scheme)).map_or(open, |at| open + at + 2))
        }
        None => None,
    };
    match start {
        Some(start) => shown.push_str(&policy_format::hide_user(part, start)),
        None => shown.push_str(part),
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// Every diagnostic as JSON, for editors and pipelines: lines and columns from 1, columns in characters.
#[cfg(feature = "cli")]
#[must_use]
pub fn to_json(sources: &[SourceFile], diagnostics: &[Diagnostic]) -> serde_json::Value {
    let positions = Positions::new(sources);
    diagnostics.iter().map(|diagnostic| one_to_json(&positions, diagnostic)).collect()
}

#[cfg(feature = "cli")]
fn one_to_json(positions: &Positions<'_>, diagnostic: &Diagnostic) -> serde_json::Value {
    let places = diagnostic.places.iter().filter_map(|(place, label)| {
        let mut value = region(positions, place)?;
        value.as_object_mut()?.insert("label".into(), label.as_str().into());
        Some(value)
    });
    let edit = diagnostic.edit.as_ref().and_then(|edit| {
        let mut value = region(positions, &edit.place)?;
        value.as_object_mut()?.insert("text".into(), edit.text.as_str().into());
        Some(value)
    });
    serde_json::json!({
        "severity": diagnostic.severity.as_str(),
        "code": diagnostic.code.as_str(),
        "message": diagnostic.message,
        "places": places.collect::<Vec<_>>(),
        "help": diagnostic.help,
        "edit": edit,
    })
}

#[cfg(feature = "cli")]
fn region(positions: &Positions<'_>, place: &Place) -> Option<serde_json::Value> {
    let (source, [(line, column), (end_line, end_column)]) = positions.of(place)?;
    Some(serde_json::json!({
        "layer": source.layer.as_str(),
        "file": source.shown(),
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
    }))
}

/// A path as a URI reference (RFC 3986): what means something in one, or is not ASCII, is percent-encoded.
#[cfg(feature = "cli")]
fn uri_reference(path: &str) -> String {
    let mut uri = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=@".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri
}

/// Every diagnostic as a SARIF 2.1.0 log, which code hosts show beside the lines.
#[cfg(feature = "cli")]
#[must_use]
pub fn to_sarif(sources: &[SourceFile], diagnostics: &[Diagnostic]) -> serde_json::Value {
    use serde_json::{Value, json};
    let positions = Positions::new(sources);
    let sarif_region = |place: &Place| {
        let (source, [(line, column), (end_line, end_column)]) = positions.of(place)?;
        let region = json!({ "startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column });
        Some((uri_reference(source.shown()), region))
    };
    let location = |place: &Place| {
        let (uri, region) = sarif_region(place)?;
        Some(json!({ "physicalLocation": { "artifactLocation": { "uri": uri }, "region": region } }))
    };
    let results = diagnostics.iter().map(|diagnostic| {
        let text = match &diagnostic.help {
            Some(help) => format!("{}\nhelp: {help}", diagnostic.message),
            None => diagnostic.message.clone(),
        };
        let mut locations = diagnostic.places.iter().filter_map(|(place, label)| {
            let mut value = location(place)?;
            if !label.is_empty() {
                value.as_object_mut()?.insert("message".into(), json!({ "text": label }));
            }
            Some(value)
        });
        let first: Vec<Value> = locations.next().into_iter().collect();
        let related: Vec<Value> = locations
            .enumerate()
            .map(|(id, mut value)| {
                if let Some(object) = value.as_object_mut() {
                    object.insert("id".into(), json!(id));
                }
                value
            })
            .collect();
        let fix = diagnostic.edit.as_ref().and_then(|edit| {
            let (uri, region) = sarif_region(&edit.place)?;
            let replacement = json!({ "deletedRegion": region, "insertedContent": { "text": edit.text } });
            let change = json!({ "artifactLocation": { "uri": uri }, "replacements": [replacement] });
            Some(json!({ "description": { "text": diagnostic.help.as_deref().unwrap_or("replace it") }, "artifactChanges": [change] }))
        });
        let mut result = json!({
            "ruleId": diagnostic.code.as_str(),
            "level": diagnostic.severity.as_str(),
            "message": { "text": text },
            "locations": first,
        });
        if let Some(object) = result.as_object_mut() {
            if !related.is_empty() {
                object.insert("relatedLocations".into(), Value::Array(related));
            }
            if let Some(fix) = fix {
                object.insert("fixes".into(), json!([fix]));
            }
        }
        result
    });
    let rules: Vec<Value> =
        Code::ALL.iter().map(|code| json!({ "id": code.as_str(), "shortDescription": { "text": code.meaning() } })).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "netpolicy", "version": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "columnKind": "unicodeCodePoints",
            "results": results.collect::<Vec<_>>(),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for (text, expected) in [
            ("url = \"http://user:pass@proxy.test:1\"", "url = \"http://*********@proxy.test:1\""),
            ("url = \"http://u:p@ss@proxy.test\"", "url = \"http://******@proxy.test\""),
            ("a = \"http://proxy.test/\", b = \"x@y\"", "a = \"http://proxy.test/\", b = \"x@y\""),
            ("upstream='http://user:hun/ter2@proxy.test'", "upstream='http://*************@proxy.test'"),
            ("upstream='http://user:hun\"ter2@proxy.test'", "upstream='http://*************@proxy.test'"),
            ("upstream=\"http://user:hun\"ter2@proxy.test\"", "upstream=\"http://*************@proxy.test\""),
            ("upstream='http://user:hun ter2@proxy.test'", "upstream='http://*************@proxy.test'"),
            ("upstream = 'user:hunter2@proxy.test:8080'", "upstream = '************@proxy.test:8080'"),
            ("proxy_url='http:/user:hunter2@proxy.test'", "proxy_url='http:/************@proxy.test'"),
            ("socks_url = \"user:hunter2@proxy.test\"", "socks_url = \"************@proxy.test\""),
            ("admin_url = 'user:hunter2@proxy.test', x = 'a@b'", "admin_url = '************@proxy.test', x = 'a@b'"),
            ("\"proxy\" = \"ü:p@proxy.test\"", "\"proxy\" = \"****@proxy.test\""),
            ("upstream = http://user:hunter2@proxy.test", "upstream = http://************@proxy.test"),
            ("# was http://user:hunter2@proxy.test", "# was http://************@proxy.test"),
            ("mail = \"x@y\"", "mail = \"x@y\""),
        ] {
            assert_eq!(hide_passwords(text), expected);
        }
    }

    #[test]
    fn nothing_acts_on_a_terminal() {
        let evil = "\u{1b}]0;x\u{7}\u{9b}2J\u{202e}";
        let source = SourceFile::from_text(crate::Layer::User, crate::source::Role::Config, "a\u{1b}.toml", format!("x = \"{evil}\"\n"));
        let place = Place { source: SourceId(0), span: 4..6 };
        let mut diagnostic = Diagnostic::error(Code::NotToml, evil, place.clone()).with_label(evil).with_help(evil);
        let plain = diagnostic.clone();
        diagnostic.edit(place, evil);
        let text = render(&[source], &[plain, diagnostic], false);
        assert!(!text.contains(acts), "{text:?}");
        assert!(text.contains("help: \\u{1b}]0;x\\u{7}\\u{9b}2J\\u{202e}"), "{text}");
        assert_eq!(visible("a\tb\n"), "a\tb\n");
    }

    #[test]
    fn codes_are_different_and_speak() {
        let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| code.meaning().ends_with('.')));
    }
}
