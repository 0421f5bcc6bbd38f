//! Domain lists to rules.

use super::denies::Denies;
use crate::diagnostic::{Code, Diagnostic};
use crate::lists::{self, ListEntry, ListFormat, ListReport, Progress};
use crate::schema::{At, ListDoc};
use crate::source::SourceFile;
use policy_format::{Access, Hosts, RuleInput, Source};
use std::path::{Path, PathBuf};

/// Called with how far the reading of a list has come.
pub type ShowProgress<'p> = &'p mut dyn FnMut(&Path, Progress);

/// A list that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListSummary {
    /// Where it was read.
    pub path: PathBuf,
    /// How it is written.
    pub format: ListFormat,
    /// What its entries do.
    pub access: Access,
    /// What was found in it.
    pub report: ListReport,
}

/// Reads every list and adds its rules. A list that cannot be read is an error: a policy without it would be another policy.
pub(super) fn add(
    docs: &[ListDoc],
    sources: &[SourceFile],
    progress: ShowProgress<'_>,
    rules: &mut Vec<RuleInput>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<ListSummary> {
    let mut summaries = Vec::new();
    for doc in docs {
        let Some(source) = sources.get(doc.path.place.source.0) else { continue };
        let Some(path) = resolve(&doc.path, source, diagnostics) else { continue };
        let label = format!("list {}", path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy()));
        let origin = Source { layer: source.layer, label };
        let mut list = Entries { doc, origin, kept: Vec::new(), exceptions: Vec::new() };
        match lists::read(&path, doc.format, &mut |at| progress(&path, at), &mut |entry| list.add(entry)) {
            Ok(report) => {
                judge(doc, &report, diagnostics);
                list.finish(rules, diagnostics);
                summaries.push(ListSummary { path, format: doc.format, access: doc.access, report });
            }
            Err(error) => {
                let message = format!("the list cannot be read: {error}");
                diagnostics.push(Diagnostic::error(Code::BadList, message, doc.path.place.clone()));
            }
        }
    }
    summaries
}

/// Relative to the file that names it.
fn resolve(path: &At<String>, source: &SourceFile, diagnostics: &mut Vec<Diagnostic>) -> Option<PathBuf> {
    let written = Path::new(&path.value);
    if written.is_absolute() {
        return Some(written.to_owned());
    }
    match source.folder() {
        Some(folder) => Some(folder.join(written)),
        None => {
            let message = format!("`{}` is relative, and the {} layer is no file", path.value.escape_debug(), source.layer);
            diagnostics
                .push(Diagnostic::error(Code::BadList, message, path.place.clone()).with_help("write the whole path, from the root"));
            None
        }
    }
}

/// What is wrong with a list as a whole.
fn judge(doc: &ListDoc, report: &ListReport, diagnostics: &mut Vec<Diagnostic>) {
    let place = || doc.path.place.clone();
    if report.entries == 0 {
        let message = format!("the list `{}` has no entry in {} lines", doc.path.value.escape_debug(), report.lines);
        let others: Vec<String> =
            ListFormat::ALL.iter().filter(|format| **format != doc.format).map(|format| format!("\"{}\"", format.as_str())).collect();
        let help = format!("is it in another format than \"{}\"? There are {}", doc.format.as_str(), others.join(", "));
        diagnostics.push(Diagnostic::error(Code::BadList, message, place()).with_help(help));
    } else if report.bad_count > 0 {
        let some = if report.bad_count == 1 { "1 line".to_owned() } else { format!("{} lines", report.bad_count) };
        let message = format!("{some} of the list `{}` cannot be read", doc.path.value.escape_debug());
        let shown: Vec<String> = report.bad.iter().map(|bad| format!("line {}: `{}`: {}", bad.line, bad.text, bad.why)).collect();
        let more = if report.bad_count as usize > shown.len() { "\n…" } else { "" };
        diagnostics.push(Diagnostic::warning(Code::BadList, message, place()).with_help(format!("{}{more}", shown.join("\n"))));
    }
}

/// The entries of one list.
struct Entries<'d> {
    doc: &'d ListDoc,
    origin: Source,
    kept: Vec<RuleInput>,
    exceptions: Vec<(u32, Hosts)>,
}

impl Entries<'_> {
    fn add(&mut self, entry: ListEntry) {
        if entry.exception {
            self.exceptions.push((entry.line, entry.hosts));
        } else {
            self.kept.push(self.rule(entry.hosts, self.doc.access, entry.line));
        }
    }

    fn rule(&self, hosts: Hosts, access: Access, line: u32) -> RuleInput {
        let (ports, methods, paths) = (Vec::new(), Vec::new(), Vec::new());
        RuleInput { hosts, ports, access, methods, paths, reason: String::new(), source: self.origin.clone(), line }
    }

    /// Takes out what the list itself excepts. An exception within a wider entry cannot be taken out of it: a deny has no holes. Of an allow list it is a deny.
    fn finish(mut self, rules: &mut Vec<RuleInput>, diagnostics: &mut Vec<Diagnostic>) {
        let exceptions = std::mem::take(&mut self.exceptions);
        let mut exceptions: Vec<RuleInput> = exceptions.into_iter().map(|(line, hosts)| self.rule(hosts, Access::Deny, line)).collect();
        if !exceptions.is_empty() {
            let excepted = Denies::new(&exceptions);
            self.kept.retain(|rule| excepted.cover(rule).is_none());
            if self.doc.access != Access::Deny {
                rules.append(&mut exceptions);
            } else {
                let denied = Denies::new(&self.kept);
                if let Some(exception) = exceptions.iter().find(|exception| denied.cover(exception).is_some()) {
                    let message =
                        format!("exceptions of the list `{}` lie within wider entries and stay denied", self.doc.path.value.escape_debug());
                    let warning = Diagnostic::warning(Code::NoEffect, message, self.doc.path.place.clone());
                    let help = format!("such as `{}` in line {}: a deny has no holes", exception.hosts, exception.line);
                    diagnostics.push(warning.with_help(help));
                }
            }
        }
        rules.append(&mut self.kept);
    }
}
