//! `netpolicy init`.

use super::{fail, print, say};
use crate::cli::Init;
use policy_compiler::emit;
use policy_compiler::init::{Limits, Names, Outcome, Proposal, propose, repository, scan};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) fn run(arguments: Init) -> ExitCode {
    let root = match root(arguments.folder.as_deref()) {
        Ok(root) => root,
        Err(error) => return fail(format_args!("cannot find the working directory: {error}")),
    };
    let policy = arguments.output.clone().unwrap_or_else(|| root.join(".codex/config.toml"));
    let tests = policy.with_file_name("policy.test.toml");
    if policy == tests {
        return fail("`--output` is the policy; the test beside it has the name policy.test.toml already");
    }
    if !arguments.force && !arguments.dry_run {
        // A dangling link counts as well.
        if let Some(there) = [&policy, &tests].into_iter().find(|path| fs::symlink_metadata(path).is_ok()) {
            return fail(format_args!(
                "`{}` is there already\nhelp: look at it with `netpolicy check`, or replace it with `--force`",
                there.display()
            ));
        }
    }
    let folder = match scan(&root, Limits::default()) {
        Ok(folder) => folder,
        Err(error) => return fail(format_args!("cannot look at `{}`: {error}", root.display())),
    };
    let (in_policy, in_tests) = (shown(&root, &policy), shown(&root, &tests));
    let proposal = propose(&folder, Names { policy: &in_policy, tests: &in_tests });
    for sighting in &proposal.sightings {
        say(format_args!("saw {sighting}"));
    }
    if proposal.sightings.is_empty() {
        say(format_args!("saw nothing in {} that needs the network", root.display()));
    }
    if folder.cut {
        say(format_args!("stopped after {} entries: the rest of the folder was not looked at", Limits::default().entries));
    }
    if !arguments.dry_run
        && let Err(message) = write(&root, &policy, &tests, &proposal, arguments.output.is_none())
    {
        return fail(message);
    }
    let next = next(&policy, &tests);
    if !arguments.dry_run {
        say(format_args!("wrote {} and {}; read them, then run:", policy.display(), tests.display()));
        next.iter().for_each(|command| say(format_args!("  {command}")));
    }
    match (arguments.json, arguments.dry_run) {
        (true, _) => print(format_args!("{}\n", as_json(&proposal, &policy, &tests, !arguments.dry_run, folder.cut, &next))),
        (false, true) => print(format_args!("# {in_policy}\n{}\n# {in_tests}\n{}", proposal.policy, proposal.tests)),
        (false, false) => ExitCode::SUCCESS,
    }
}

/// The folder that is named, or the repository that the working directory is in, or the working directory.
fn root(named: Option<&Path>) -> std::io::Result<PathBuf> {
    match named {
        Some(folder) => Ok(folder.to_owned()),
        None => {
            let here = std::env::current_dir()?;
            // Where the two are the same, paths stay short.
            Ok(repository(&here).filter(|root| *root != here).unwrap_or_else(|| PathBuf::from(".")))
        }
    }
}

fn write(root: &Path, policy: &Path, tests: &Path, proposal: &Proposal, by_default: bool) -> Result<(), String> {
    let cannot = |path: &Path, error: std::io::Error| format!("cannot write `{}`: {error}", path.display());
    if let Some(folder) = policy.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|error| cannot(policy, error))?;
        // The folder of a project that one only looks at may be a link to somewhere else.
        let real = |path: &Path| fs::canonicalize(path).map_err(|error| cannot(policy, error));
        if by_default && !real(folder)?.starts_with(real(root)?) {
            return Err(format!("`{}` leads out of the project\nhelp: name the place with `--output`", folder.display()));
        }
    }
    emit::write(policy, proposal.policy.as_bytes()).map_err(|error| cannot(policy, error))?;
    emit::write(tests, proposal.tests.as_bytes()).map_err(|error| cannot(tests, error))
}

/// A path as comments and commands name it: below the project where it is in it, and never a line of its own.
fn shown(root: &Path, path: &Path) -> String {
    shell_word(path.strip_prefix(root).unwrap_or(path))
}

fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy().escape_debug().to_string();
    let plain = text.chars().all(|c| c.is_alphanumeric() || "/._-+".contains(c));
    if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn next(policy: &Path, tests: &Path) -> [String; 2] {
    let trim = |path: &Path| shell_word(path.strip_prefix(".").unwrap_or(path));
    [
        format!("netpolicy test --project {} {}", trim(policy), trim(tests)),
        format!("netpolicy compile --project {} -o policy.bin", trim(policy)),
    ]
}

fn as_json(proposal: &Proposal, policy: &Path, tests: &Path, written: bool, cut: bool, next: &[String]) -> Value {
    let seen = proposal.sightings.iter().map(|sighting| {
        let (outcome, value) = match &sighting.outcome {
            Outcome::Preset(name) => ("preset", json!(name)),
            Outcome::Allow(pattern) => ("allow", json!(pattern)),
            Outcome::Deny(pattern) => ("deny", json!(pattern)),
            Outcome::Covered(_, preset) => ("covered-by-preset", json!(preset)),
            Outcome::Nothing(why) => ("nothing", json!(why)),
        };
        json!({ "file": sighting.file, "line": sighting.line, "what": sighting.what, "outcome": outcome, "value": value })
    });
    let rules = proposal.rules.iter().map(|rule| (rule.pattern.to_string(), json!(rule.access.to_string())));
    json!({
        "written": written,
        "cut": cut,
        "policy": { "path": policy.display().to_string(), "text": proposal.policy },
        "test": { "path": tests.display().to_string(), "text": proposal.tests },
        "presets": proposal.presets.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "domains": rules.collect::<serde_json::Map<_, _>>(),
        "seen": seen.collect::<Vec<_>>(),
        "next": next,
    })
}
