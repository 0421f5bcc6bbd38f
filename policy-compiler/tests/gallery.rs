//! The gallery: wrong policies of the kind people write, and what is said of each, to the letter. `tests/diagnostics/gallery/NAME/` has the files of the layers and
//! `said.expected`; `docs/diagnostics.md` shows them all. `BLESS=1` writes both anew.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

mod common;

use policy_compiler::diagnostic::{Code, render};
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options, compile};
use policy_format::Layer;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const FILES: [(&str, Layer, Role); 5] = [
    ("mdm.toml", Layer::Mdm, Role::Config),
    ("requirements.toml", Layer::Managed, Role::Requirements),
    ("managed.toml", Layer::Managed, Role::Config),
    ("user.toml", Layer::User, Role::Config),
    ("project.toml", Layer::Project, Role::Config),
];

const BEGIN: &str = "<!-- gallery: begin -->\n";
const END: &str = "<!-- gallery: end -->\n";
const CODES_BEGIN: &str = "<!-- codes: begin -->\n";
const CODES_END: &str = "<!-- codes: end -->\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn blesses() -> bool {
    std::env::var_os("BLESS").is_some()
}

/// Every policy: its folder, its title, its sources.
fn gallery() -> Vec<(PathBuf, String, Vec<SourceFile>)> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(root().join("tests/diagnostics/gallery")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    let read = |folder: PathBuf| {
        let title = fs::read_to_string(folder.join("about.txt")).unwrap().trim().to_owned();
        let source = |(name, layer, role)| Some(common::source(layer, role, name, &fs::read_to_string(folder.join(name)).ok()?));
        let sources: Vec<SourceFile> = FILES.into_iter().filter_map(source).collect();
        assert!(!sources.is_empty(), "{}", folder.display());
        (folder, title, sources)
    };
    folders.into_iter().map(read).collect()
}

fn said(sources: &[SourceFile]) -> String {
    match compile(sources.to_vec(), Options::default()) {
        Ok(compiled) => render(&compiled.sources, &compiled.diagnostics, false),
        Err(failure) => failure.to_string(),
    }
}

#[test]
fn every_wrong_policy_gets_exactly_these_words_and_edits_that_work() {
    let mut edits = 0;
    for (folder, _, sources) in gallery() {
        let said = said(&sources) + "\n";
        let expected = folder.join("said.expected");
        if blesses() {
            fs::write(&expected, &said).unwrap();
        }
        assert_eq!(said, fs::read_to_string(&expected).unwrap(), "{}", folder.display());
        let diagnostics = common::said(&sources, Options::default());
        assert!(!diagnostics.is_empty(), "{}", folder.display());
        common::speaks(&diagnostics).unwrap();
        assert!(diagnostics.iter().all(|diagnostic| !diagnostic.places.is_empty()), "{}", folder.display());
        edits += common::edits_work(&sources, Options::default()).unwrap();
    }
    assert!(edits >= 15, "{edits}");
}

#[test]
fn the_document_shows_what_is_said() {
    let path = root().join("../docs/diagnostics.md");
    let document = fs::read_to_string(&path).unwrap();
    let mut shown = String::new();
    for (_, title, sources) in gallery() {
        write!(shown, "\n### {title}\n").unwrap();
        for source in &sources {
            write!(shown, "\n`{}`:\n\n```toml gallery\n{}\n```\n", source.label(), source.text().trim_end()).unwrap();
        }
        write!(shown, "\nsays:\n\n```text gallery\n{}\n```\n", said(&sources)).unwrap();
    }
    shown.push('\n');
    let mut codes = String::from("\n| code | meaning |\n| --- | --- |\n");
    for code in Code::ALL {
        writeln!(codes, "| `{}` | {} |", code.as_str(), code.meaning()).unwrap();
    }
    codes.push('\n');
    let wanted = between(&between(&document, BEGIN, END, &shown), CODES_BEGIN, CODES_END, &codes);
    if blesses() {
        return fs::write(&path, &wanted).unwrap();
    }
    assert!(document == wanted, "run the tests with BLESS=1 to write docs/diagnostics.md anew");
}

/// `document` with what stands between two markers replaced.
fn between(document: &str, begin: &str, end: &str, text: &str) -> String {
    let (before, rest) = document.split_once(begin).unwrap_or_else(|| panic!("no `{begin}`"));
    let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("no `{end}`"));
    format!("{before}{begin}{text}{end}{after}")
}
