//! `netpolicy migrate`.

use super::{fail, say};
use crate::cli::Migrate;
use policy_compiler::emit;
use policy_compiler::migrate::{MAX_INPUT, Note, Options, diff, migrate};
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) fn run(arguments: Migrate) -> ExitCode {
    let shown = arguments.file.display().to_string();
    let text = match read(&arguments.file) {
        Ok(text) => text,
        Err(error) => return fail(format_args!("cannot read `{shown}`: {error}")),
    };
    older(&arguments, &shown, &text)
}

fn older(arguments: &Migrate, shown: &str, text: &str) -> ExitCode {
    let options = Options { profile: arguments.profile.as_deref(), requirements: arguments.requirements };
    let migration = match migrate(text, options) {
        Ok(migration) => migration,
        Err(error) => return fail(format_args!("`{shown}`: {error}")),
    };
    for note in &migration.notes {
        say(format_args!("{shown}:{}: {}", note.line, note.message));
    }
    let output = arguments.output.clone().unwrap_or_else(|| arguments.file.clone());
    let in_place = arguments.output.is_none();
    let to_stdout = output == Path::new("-");
    let difference = if arguments.dry_run { diff(text, &migration.text, shown.trim_start_matches('/')) } else { String::new() };
    let write = !arguments.dry_run && (migration.changed || !in_place);
    if write
        && !to_stdout
        && let Err(error) = emit::rewrite(&output, migration.text.as_bytes())
    {
        return fail(format_args!("cannot write `{}`: {error}", output.display()));
    }
    if !migration.changed {
        say(format_args!("{shown}: nothing to migrate"));
    } else if write && !to_stdout {
        say(format_args!("wrote {}", output.display()));
    }
    let printed = if arguments.json {
        let summary = serde_json::json!({
            "file": shown,
            "changed": migration.changed,
            "written": (write && !to_stdout).then(|| output.display().to_string()),
            "notes": notes(&migration.notes),
            "diff": arguments.dry_run.then_some(difference),
        });
        format!("{summary}\n")
    } else if arguments.dry_run {
        paint(&difference)
    } else if to_stdout {
        migration.text
    } else {
        String::new()
    };
    print(&printed)
}

fn notes(notes: &[Note]) -> Vec<serde_json::Value> {
    notes.iter().map(|note| serde_json::json!({ "line": note.line, "message": note.message })).collect()
}

fn read(path: &PathBuf) -> std::io::Result<String> {
    let mut text = String::new();
    let limit = MAX_INPUT as u64;
    if File::open(path)?.take(limit + 1).read_to_string(&mut text)? as u64 > limit {
        return Err(std::io::Error::other(format!("it has more than {limit} bytes")));
    }
    Ok(text)
}

/// A diff in colours, on a terminal that wants them.
fn paint(diff: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || !std::io::stdout().is_terminal();
    if plain {
        return diff.to_owned();
    }
    let color = |line: &str| match line.get(..1) {
        Some("+") => "32",
        Some("-") => "31",
        Some("@") => "36",
        _ => "0",
    };
    diff.lines().map(|line| format!("\u{1b}[{}m{line}\u{1b}[0m\n", color(line))).collect()
}

fn print(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(format_args!("cannot write to standard output: {error}")),
    }
}
