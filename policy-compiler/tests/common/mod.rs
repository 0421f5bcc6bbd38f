//! What tests of the compiler share.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::diagnostic::{Code, Diagnostic, Severity};
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options, compile};
use std::collections::BTreeSet;

/// Compiles, and gives back what was said, whether it went well or not.
pub(crate) fn said(sources: &[SourceFile], options: Options<'_>) -> Vec<Diagnostic> {
    match compile(sources.to_vec(), options) {
        Ok(compiled) => compiled.diagnostics,
        Err(failure) => failure.diagnostics,
    }
}

fn name(diagnostic: &Diagnostic) -> (Code, String) {
    (diagnostic.code, diagnostic.message.clone())
}

fn errors(diagnostics: &[Diagnostic]) -> BTreeSet<(Code, String)> {
    diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).map(name).collect()
}

/// Every edit that is offered works: what it was offered for is gone, and nothing new is wrong. Gives back how many there were.
pub(crate) fn edits_work(sources: &[SourceFile], options: Options<'_>) -> Result<usize, String> {
    let before = said(sources, options);
    let mut edits = 0;
    for diagnostic in &before {
        let Some(edit) = &diagnostic.edit else { continue };
        edits += 1;
        let at = edit.place.source.0;
        let old = &sources[at];
        let mut text = old.text().to_owned();
        text.replace_range(edit.place.span.clone(), &edit.text);
        let mut edited = sources.to_vec();
        edited[at] = SourceFile::from_text(old.layer, old.role, old.label(), text.clone());
        let after = said(&edited, options);
        let count = |all: &[Diagnostic]| all.iter().filter(|other| name(other) == name(diagnostic)).count();
        if count(&after) >= count(&before) {
            return Err(format!("still there after its edit: {}\n{text}", diagnostic.message));
        }
        // A file that was not TOML hid what else is wrong with it.
        let new: Vec<_> = errors(&after).difference(&errors(&before)).cloned().collect();
        if diagnostic.code != Code::NotToml && !new.is_empty() {
            return Err(format!("the edit of `{}` brings {new:?}\n{text}", diagnostic.message));
        }
    }
    Ok(edits)
}

/// What every diagnostic owes: lower case, no final stop, words on how to fix it.
pub(crate) fn speaks(diagnostics: &[Diagnostic]) -> Result<(), String> {
    for diagnostic in diagnostics {
        let text = &diagnostic.message;
        if text.ends_with('.') || text.starts_with(char::is_uppercase) {
            return Err(format!("not in the style: {text}"));
        }
        if diagnostic.help.is_none() && diagnostic.code != Code::Strict {
            return Err(format!("no help: {text}"));
        }
    }
    Ok(())
}

/// A source of settings or requirements.
pub(crate) fn source(layer: policy_format::Layer, role: Role, label: &str, text: &str) -> SourceFile {
    SourceFile::from_text(layer, role, label, text.to_owned())
}
