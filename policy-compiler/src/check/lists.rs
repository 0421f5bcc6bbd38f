//! Domain lists to rules.

use super::listed::{Listed, Lists};
use crate::diagnostic::{Code, Diagnostic};
use crate::lists::{self, LineError, ListEntry, ListError, ListFormat, ListReport, MAX_BYTES, Progress};
use crate::schema::{At, ListDoc};
use crate::source::SourceFile;
use policy_format::{Access, BuildError, HostError, Layer, PatternErrorKind, RuleRef, Source};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Lists that a policy may name: a list has room for millions of hosts, and each is read from its beginning to its end.
const MAX_LISTS: usize = 64;

/// Bytes of text that the lists of a project have together: ten million names. Less than [`MAX_BYTES`], because a compressed file that comes with a
/// repository can be thousands of times smaller than its text.
const MAX_PROJECT_BYTES: u64 = 256 << 20;

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

/// Reads every list, and says what rules they have. A list that cannot be read is an error: a policy without it would be another policy.
pub(super) fn read(
    docs: &[ListDoc],
    sources: &[SourceFile],
    progress: ShowProgress<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> (Vec<Listed>, Vec<ListSummary>) {
    let (mut listed, mut summaries) = (Vec::new(), Vec::new());
    if let Some(doc) = docs.get(MAX_LISTS) {
        let message = format!("there are {} domain lists, and a policy has at most {MAX_LISTS}", docs.len());
        let error = Diagnostic::error(Code::TooLarge, message, doc.path.place.clone()).with_label("the first one too many");
        diagnostics.push(error.with_help("put the hosts of several lists into one file"));
        return (listed, summaries);
    }
    let mut known = HashSet::new();
    let mut used = 0_u64;
    for doc in docs {
        let Some(source) = sources.get(doc.path.place.source.0) else { continue };
        let Some(path) = resolve(&doc.path, source, diagnostics) else { continue };
        // One file may have several names.
        let file = path.canonicalize().unwrap_or_else(|_| path.clone());
        if !known.insert((file, doc.format.as_str(), doc.access.as_str())) {
            let message = format!("the list `{}` is there twice, and counts once", doc.path.value.escape_debug());
            diagnostics.push(Diagnostic::warning(Code::NoEffect, message, doc.path.place.clone()).with_help("name it once"));
            continue;
        }
        let label = format!("list {}", path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy()));
        let mut list = Entries::new(doc, Source { layer: source.layer, label });
        let most = if source.layer >= Layer::Project { MAX_PROJECT_BYTES } else { MAX_BYTES };
        match lists::read_at_most(most.saturating_sub(used), &path, doc.format, &mut |at| progress(&path, at), &mut |entry| list.add(entry))
        {
            Ok(report) => {
                used = used.saturating_add(report.bytes);
                judge(doc, source.layer, &report, diagnostics);
                match list.finish(source.layer, diagnostics) {
                    Ok(lists) => listed.extend(lists),
                    Err(error) => diagnostics.push(Diagnostic::error(Code::TooLarge, error.to_string(), doc.path.place.clone())),
                }
                summaries.push(ListSummary { path, format: doc.format, access: doc.access, report });
            }
            Err(error) => {
                let mut diagnostic = unreadable(&error, &doc.path);
                if let ListError::TooLarge { .. } = error {
                    diagnostic.help = Some(format!("the lists of the {} layer have at most {most} bytes of text together", source.layer));
                }
                diagnostics.push(diagnostic);
            }
        }
    }
    (listed, summaries)
}

fn unreadable(error: &ListError, path: &At<String>) -> Diagnostic {
    Diagnostic::error(Code::BadList, format!("the list cannot be read: {error}"), path.place.clone())
}

/// Relative to the file that names it. A project's file comes with a repository: it may name what lies in the project, and nothing else of this machine.
fn resolve(path: &At<String>, source: &SourceFile, diagnostics: &mut Vec<Diagnostic>) -> Option<PathBuf> {
    const COPY: &str = "copy the list into the project, or name it in the user layer";
    let (written, of_project) = (Path::new(&path.value), source.layer >= Layer::Project);
    let mut refuse = |why: &str, help: &str| {
        let message = format!("`{}` {why}", path.value.escape_debug());
        diagnostics.push(Diagnostic::error(Code::BadList, message, path.place.clone()).with_help(help));
        None
    };
    if written.is_absolute() {
        let stays = "is an absolute path, and a project's lists stay in the project";
        return if of_project { refuse(stays, COPY) } else { Some(written.to_owned()) };
    }
    let Some(folder) = source.folder() else {
        return refuse(&format!("is relative, and the {} layer is no file", source.layer), "write the whole path, from the root");
    };
    let found = folder.join(written);
    if !of_project {
        return Some(found);
    }
    match lies_in_project(folder, &found) {
        Ok(true) => Some(found),
        Ok(false) => refuse("lies outside the project, and a project's lists stay in the project", COPY),
        Err(error) => {
            diagnostics.push(unreadable(&ListError::Open { path: found.display().to_string(), error }, path));
            None
        }
    }
}

/// Whether a file, its links followed, lies in the project: the folder of its settings, or the one around it if that is `.codex`.
fn lies_in_project(folder: &Path, file: &Path) -> std::io::Result<bool> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder }.canonicalize()?;
    let project = folder.parent().filter(|_| folder.ends_with(".codex")).unwrap_or(&folder);
    Ok(file.canonicalize()?.starts_with(project))
}

/// What is wrong with a list as a whole.
fn judge(doc: &ListDoc, layer: Layer, report: &ListReport, diagnostics: &mut Vec<Diagnostic>) {
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
        let shown = report.bad.iter().map(|bad| match layer {
            // A file that a repository names may be any file of the project, and what is said ends up in logs.
            Layer::Project => format!("line {}: {}", bad.line, without_text(bad.why)),
            _ => format!("line {}: `{}`: {}", bad.line, bad.text, bad.why),
        });
        let shown: Vec<String> = shown.collect();
        let more = if report.bad_count as usize > shown.len() { "\n…" } else { "" };
        diagnostics.push(Diagnostic::warning(Code::BadList, message, place()).with_help(format!("{}{more}", shown.join("\n"))));
    }
}

/// What is wrong with a line, without a word of the line.
fn without_text(why: LineError) -> String {
    match why {
        LineError::Host(HostError::Character(_)) | LineError::Pattern(PatternErrorKind::Host(HostError::Character(_))) => {
            "a character of it cannot stand in a host name".into()
        }
        LineError::MapsToAddress(_) => "this maps a host to an address of its own".into(),
        why => why.to_string(),
    }
}

/// The entries of one list, each once: the first line that says it.
struct Entries<'d> {
    doc: &'d ListDoc,
    /// Rules and exceptions, or what kept one from being added.
    found: Result<Found, BuildError>,
}

struct Found {
    kept: Listed,
    exceptions: Listed,
}

impl<'d> Entries<'d> {
    fn new(doc: &'d ListDoc, origin: Source) -> Self {
        let listed = |access| Listed::new(access, origin.clone());
        // What an allow list excepts is denied.
        let found = listed(doc.access).and_then(|kept| Ok(Found { kept, exceptions: listed(Access::Deny)? }));
        Self { doc, found }
    }

    fn add(&mut self, entry: ListEntry<'_>) {
        let Ok(Found { kept, exceptions }) = &mut self.found else { return };
        let to = if entry.exception { exceptions } else { kept };
        if let Err(error) = to.add(entry.hosts, entry.line) {
            self.found = Err(error);
        }
    }

    /// Takes out what the list itself excepts. An exception within a wider entry cannot be taken out of it: a deny has no holes. Of an allow list it is a deny.
    fn finish(self, layer: Layer, diagnostics: &mut Vec<Diagnostic>) -> Result<Vec<Listed>, BuildError> {
        let Found { mut kept, exceptions } = self.found?;
        if exceptions.rules().is_empty() {
            return Ok(vec![kept]);
        }
        let excepted = Lists::all([&exceptions]);
        let keep: Vec<bool> = kept.rules().iter().map(|rule| excepted.around(rule.hosts).is_none()).collect();
        kept.retain(&keep);
        if self.doc.access != Access::Deny {
            return Ok(vec![exceptions, kept]);
        }
        let denied = Lists::all([&kept]);
        if let Some(exception) = first_within(&exceptions, &denied) {
            let message =
                format!("exceptions of the list `{}` lie within wider entries and stay denied", self.doc.path.value.escape_debug());
            let warning = Diagnostic::warning(Code::NoEffect, message, self.doc.path.place.clone());
            let which = match layer {
                Layer::Project => format!("line {}", exception.line),
                _ => format!("`{}` in line {}", exception.hosts, exception.line),
            };
            diagnostics.push(warning.with_help(format!("such as {which}: a deny has no holes")));
        }
        Ok(vec![kept])
    }
}

/// The first line of which the hosts lie within those of `around`.
fn first_within<'l>(list: &'l Listed, around: &Lists<'_>) -> Option<RuleRef<'l>> {
    let (rules, names) = (list.rules(), list.rules().name_count());
    let first =
        |mut places: std::ops::Range<usize>| places.find_map(|index| rules.get(index).filter(|rule| around.around(rule.hosts).is_some()));
    [first(0..names), first(names..rules.len())].into_iter().flatten().min_by_key(|rule| rule.line)
}
