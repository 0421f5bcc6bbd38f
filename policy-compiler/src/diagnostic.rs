//! What, where, how to fix: diagnostics and their rendering.
//!
//! Everything that can be wrong is reported, not just the first thing. Rendering cuts the lines that it shows out of the file, so that a warning
//! about a file of a million lines costs what one about ten costs.

use crate::source::{SourceFile, SourceId};
use annotate_snippets::renderer::{DEFAULT_TERM_WIDTH, DecorStyle};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
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

/// A stretch of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which source.
    pub source: SourceId,
    /// Which bytes of it.
    pub span: Range<usize>,
}

/// One thing to say about the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong: lower case, no final stop.
    pub message: String,
    /// Where, and a word on it; the first is underlined as the cause.
    pub places: Vec<(Place, String)>,
    /// How to fix it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at a place.
    pub fn error(message: impl Into<String>, place: Place, label: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), places: vec![(place, label.into())], help: None }
    }

    /// A warning at a place.
    pub fn warning(message: impl Into<String>, place: Place, label: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message, place, label) }
    }

    /// An error about no place in particular.
    pub fn general(message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), places: Vec::new(), help: None }
    }

    /// Adds a second place.
    #[must_use]
    pub fn and(mut self, place: Place, label: impl Into<String>) -> Self {
        self.places.push((place, label.into()));
        self
    }

    /// Adds how to fix it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
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
        text.push_str(&renderer.render(&[group(sources, diagnostic)]));
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
        Some(Snippet::source(excerpt.text).line_start(excerpt.line).path(source.shown()).annotation(annotation))
    });
    let mut group = Group::with_title(title).elements(snippets);
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help));
    }
    group
}
