//! `netpolicy migrate`: older spellings to the canonical form, to the letter, and what the result means.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::diagnostic::Code;
use policy_compiler::migrate::{Migration, Options, migrate};
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options as CompileOptions, compile};
use policy_format::{Blob, Hook, Layer, Meta};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/migrate")
}

/// The name and the text of each case.
fn cases() -> BTreeMap<String, String> {
    let files = fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let named = files.filter_map(|file| {
        let name = file.file_name()?.to_str()?.strip_suffix(".in.toml")?.to_owned();
        Some((name, fs::read_to_string(&file).unwrap()))
    });
    named.collect()
}

fn notes(migration: &Migration) -> String {
    migration.notes.iter().map(|note| format!("{}: {}\n", note.line, note.message)).collect()
}

fn migrated(text: &str) -> Migration {
    migrate(text, Options::default()).unwrap()
}

/// `tests/migrate/NAME.in.toml` becomes `NAME.out.toml` with the words of `NAME.notes`. `BLESS=1` writes the latter two anew.
#[test]
fn older_spellings_become_exactly_this() {
    let cases = cases();
    for (name, text) in &cases {
        let migration = migrated(text);
        for (ending, found) in [("out.toml", migration.text.clone()), ("notes", notes(&migration))] {
            let expected = folder().join(format!("{name}.{ending}"));
            if std::env::var_os("BLESS").is_some() {
                fs::write(&expected, &found).unwrap();
            }
            assert_eq!(found, fs::read_to_string(&expected).unwrap(), "{}", expected.display());
        }
        assert_eq!(migration.changed, migration.text != *text, "{name}");
    }
    assert_eq!(cases.len(), 20);
}

#[test]
fn migrating_twice_changes_nothing() {
    for (name, text) in cases() {
        let once = migrated(&text);
        let twice = migrated(&once.text);
        assert_eq!((twice.changed, twice.text.as_str()), (false, once.text.as_str()), "{name}");
    }
}

#[test]
fn files_with_a_line_missing_are_migrated_too() {
    let mut migrations = 0;
    for (name, text) in cases() {
        for missing in 0..text.lines().count() {
            let rest: String = text.lines().enumerate().filter(|(at, _)| *at != missing).flat_map(|(_, line)| [line, "\n"]).collect();
            let Ok(once) = migrate(&rest, Options::default()) else { continue };
            let twice =
                migrate(&once.text, Options::default()).unwrap_or_else(|error| panic!("{name} without {missing}: {error}\n{}", once.text));
            assert!(!twice.changed, "{name} without {missing}:\n{}\n{}", once.text, twice.text);
            migrations += 1;
        }
    }
    assert!(migrations > 100, "{migrations}");
}

#[test]
fn every_line_of_comment_is_still_there() {
    for (name, text) in cases() {
        let migration = migrated(&text);
        for comment in text.lines().filter_map(|line| line.split_once('#').map(|(_, comment)| comment)) {
            assert!(migration.text.contains(&format!("#{comment}")), "{name} lost #{comment}");
        }
    }
}

/// What a text means: every setting and each rule, or what is wrong with it.
fn meaning(text: &str, role: Role) -> Result<(Meta, Vec<Hook>, Vec<String>), String> {
    let mut sources = vec![SourceFile::from_text(Layer::Managed, role, "config.toml", text.to_owned())];
    if role == Role::Requirements {
        let text = "default_permissions = \"w\"\n[permissions.w.network]\n";
        sources.push(SourceFile::from_text(Layer::User, Role::Config, "config.toml", text.to_owned()));
    }
    let compiled = compile(sources, CompileOptions::default()).map_err(|failure| failure.to_string())?;
    let blob = Blob::open(compiled.blob).unwrap();
    let mut rules: Vec<String> = blob.rules().map(|rule| format!("{} {rule}", rule.access)).collect();
    rules.sort();
    Ok((blob.meta().clone(), blob.hooks().to_vec(), rules))
}

#[test]
fn the_migrated_policy_means_what_the_older_one_meant() {
    let (mut compared, mut wrong_before) = (0, Vec::new());
    for (name, text) in cases() {
        let role = if name == "requirements" { Role::Requirements } else { Role::Config };
        let (before, after) = (meaning(&text, role), meaning(&migrated(&text).text, role));
        match before {
            Ok(before) => {
                assert_eq!(before, after.unwrap_or_else(|said| panic!("{name} is wrong after it was migrated:\n{said}")), "{name}");
                compared += 1;
            }
            Err(said) => wrong_before.push((name, said)),
        }
    }
    let names: Vec<&str> = wrong_before.iter().map(|(name, _)| name.as_str()).collect();
    assert!(compared >= 11, "{compared} compared; wrong before: {wrong_before:#?}");
    assert_eq!(names, WRONG_BEFORE, "{wrong_before:#?}");
}

/// The codes of what is said of settings or requirements.
fn codes(text: &str, role: Role) -> Vec<Code> {
    let mut sources = vec![SourceFile::from_text(Layer::Managed, role, "config.toml", text.to_owned())];
    if role == Role::Requirements {
        let text = "default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\n".to_owned();
        sources.push(SourceFile::from_text(Layer::User, Role::Config, "config.toml", text));
    }
    let diagnostics = match compile(sources, CompileOptions::default()) {
        Ok(compiled) => compiled.diagnostics,
        Err(failure) => failure.diagnostics,
    };
    diagnostics.iter().map(|diagnostic| diagnostic.code).collect()
}

/// The blocks of the page about older spellings that are warned about.
fn documented() -> Vec<String> {
    let page = fs::read_to_string(folder().join("../../../docs/policy/older-spellings.md")).unwrap();
    let block = |block: &str| {
        let (info, body) = block.split_once('\n')?;
        let head = if info.starts_with("toml network") { "[permissions.workspace.network]\nenabled = true\n" } else { "" };
        info.contains("warns=older-spelling").then(|| format!("{head}{body}"))
    };
    page.split("```").filter_map(block).collect()
}

/// The compiler says of every older spelling that `migrate` rewrites the file; so it has to.
#[test]
fn what_migrate_wrote_has_no_older_spelling() {
    let mut texts: Vec<(String, String, Role)> = Vec::new();
    // A list that is not text is an error, and left for people.
    for (name, text) in cases().into_iter().filter(|(name, _)| name != "not-text") {
        let role = if name == "requirements" { Role::Requirements } else { Role::Config };
        texts.push((name, text, role));
    }
    texts.extend(documented().into_iter().map(|text| ("the page".to_owned(), text, Role::Config)));
    let mitm = "[experimental_network]\nmitm = { enabled = true }\n".to_owned();
    texts.push(("mitm of requirements".to_owned(), mitm, Role::Requirements));
    let (mut older, mut left) = (0, Vec::new());
    for (name, text, role) in texts {
        let written = migrated(&text).text;
        older += usize::from(codes(&text, role).contains(&Code::OlderSpelling));
        if codes(&written, role).contains(&Code::OlderSpelling) {
            left.push(format!("{name}:\n{written}"));
        }
    }
    assert!(older >= 18, "{older}");
    assert!(left.is_empty(), "{}", left.join("\n"));
}

/// Cases that no compiler takes: what they prove is what becomes of the text.
const WRONG_BEFORE: [&str; 8] =
    ["dotted-apart", "inline-proxy", "into-a-profile", "network-proxy", "not-text", "remote-proxy", "remote-urls", "upstream-table"];

fn netpolicy(arguments: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netpolicy")).arg("migrate").args(arguments).current_dir(dir).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_command_rewrites_the_file_or_shows_how() {
    let dir = tempfile::tempdir().unwrap();
    let (file, cases) = (dir.path().join("config.toml"), cases());
    let (older, canonical) = (&cases["profileless"], migrated(&cases["profileless"]).text);
    fs::write(&file, older).unwrap();

    let shown = netpolicy(&["--dry-run", "config.toml"], dir.path());
    assert_eq!(shown.status.code(), Some(0));
    let diff = text(&shown.stdout);
    assert!(diff.starts_with("--- a/config.toml\n+++ b/config.toml\n@@ ") && diff.contains("\n-[permissions.network]\n"), "{diff}");
    assert!(!diff.contains('\u{1b}'), "no colour but on a terminal");
    assert_eq!(fs::read_to_string(&file).unwrap(), *older, "nothing is written");

    let other = netpolicy(&["config.toml", "-o", "-"], dir.path());
    assert_eq!(text(&other.stdout), canonical);
    let named = netpolicy(&["config.toml", "-o", "new.toml", "--json"], dir.path());
    let summary: serde_json::Value = serde_json::from_slice(&named.stdout).unwrap();
    assert_eq!((&summary["changed"], &summary["written"]), (&true.into(), &"new.toml".into()));
    assert_eq!(summary["notes"][0]["line"], 1);
    assert_eq!(fs::read_to_string(dir.path().join("new.toml")).unwrap(), canonical);
    assert_eq!(fs::read_to_string(&file).unwrap(), *older, "nothing is written");

    let done = netpolicy(&["config.toml"], dir.path());
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("config.toml:1: `[permissions.network]` is now `[permissions.workspace.network]`\n"));
    assert_eq!(fs::read_to_string(&file).unwrap(), canonical);

    let again = netpolicy(&["config.toml"], dir.path());
    assert_eq!((again.status.code(), text(&again.stderr)), (Some(0), "config.toml: nothing to migrate\n"));
    assert_eq!(text(&netpolicy(&["--dry-run", "config.toml"], dir.path()).stdout), "");
}

/// A profile that says nothing else is still one that can be chosen.
#[test]
fn no_profile_goes_with_its_last_key() {
    for name in ["w", "other", "off", "both", "said", "dotted", "why", "apart", "gone", "empty"] {
        let text = cases()["profile-mitm"].replacen("\"w\"", &format!("\"{name}\""), 1);
        let (before, after) = (meaning(&text, Role::Config), meaning(&migrated(&text).text, Role::Config));
        assert_eq!(before.unwrap(), after.unwrap_or_else(|said| panic!("{name}: {said}")), "{name}");
    }
}

#[test]
fn the_profile_can_be_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("c.toml"), "[network_proxy]\nenabled = true\n").unwrap();
    let done = netpolicy(&["c.toml", "--profile", "ci", "-o", "-"], dir.path());
    assert_eq!(text(&done.stdout), "default_permissions = \"ci\"\n\n[permissions.ci.network]\nenabled = true\n");
}

#[test]
fn a_flag_says_that_it_is_a_requirements_file() {
    let text = "[network_proxy]\nenabled = true\n";
    let options = Options { requirements: true, ..Options::default() };
    assert!(!migrate(text, options).unwrap().changed, "`[network_proxy]` has no meaning there");
}

#[test]
fn what_cannot_be_read_is_said_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.toml"), "a = 1\nb = [\n").unwrap();
    let failed = netpolicy(&["bad.toml"], dir.path());
    assert_eq!(failed.status.code(), Some(2));
    assert!(text(&failed.stderr).starts_with("error: `bad.toml`: line "), "{}", text(&failed.stderr));
    let missing = netpolicy(&["missing.toml"], dir.path());
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).starts_with("error: cannot read `missing.toml`: "), "{}", text(&missing.stderr));
}
