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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    UnknownPreset "unknown-preset" "A preset that does not exist.",
    UnknownAction "unknown-action" "A hook names an action that no layer has.",
    InvalidAddress "invalid-address" "Not an address to listen on, or not the URL of a proxy.",
    OpenListener "open-listener" "A listener that other machines can reach.",
    RequirementViolated "requirement-violated" "A weaker layer conflicts with what a stronger one requires.",
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// What to replace.
    pub place: Place,
    /// By what.
    pub text: String,
}

/// One thing to say about the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
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
        text.push_str(&renderer.render(&groups(sources, diagnostic)));
        text.push_str("\n\n");
    }
    if diagnostics.len() > MAX_SHOWN {
        text.push_str(&format!("… {} of {} shown\n", MAX_SHOWN, diagnostics.len()));
    }
    text.push_str(&count(errors.len(), warnings.len()));
    text
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
    let snippet =
        Snippet::source(hide_passwords(excerpt.text)).line_start(excerpt.line).patch(Patch::new(excerpt.span, edit.text.as_str()));
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
        Some(Snippet::source(hide_passwords(excerpt.text)).line_start(excerpt.line).path(source.shown()).annotation(annotation))
    });
    let mut group = Group::with_title(title).elements(snippets);
    if let Some(help) = diagnostic.help.as_ref().filter(|_| diagnostic.edit.is_none()) {
        group = group.element(Level::HELP.message(help));
    }
    group
}

/// A line with the user information of its URLs overwritten, byte for byte: diagnostics end up in logs.
pub(crate) fn hide_passwords(text: &str) -> Cow<'_, str> {
    if !text.contains("://") {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        let authority = after.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '/')).unwrap_or(after.len());
        let hidden = after.get(..authority).and_then(|authority| authority.rfind('@')).unwrap_or(0);
        shown.extend(std::iter::repeat_n('*', hidden));
        rest = after.get(hidden..).unwrap_or_default();
    }
    shown.push_str(rest);
    Cow::Owned(shown)
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
            ("a = \"http://proxy.test/@x\", b = \"x@y\"", "a = \"http://proxy.test/@x\", b = \"x@y\""),
            ("mail = \"x@y\"", "mail = \"x@y\""),
        ] {
            assert_eq!(hide_passwords(text), expected);
        }
    }

    #[test]
    fn codes_are_different_and_speak() {
        let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| code.meaning().ends_with('.')));
    }
}
