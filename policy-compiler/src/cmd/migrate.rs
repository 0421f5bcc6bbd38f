//! `netpolicy migrate`.

use super::{color, fail, print, print_line, say};
use crate::cli::Migrate;
use policy_compiler::diagnostic::{hide_passwords, visible};
use policy_compiler::emit;
use policy_compiler::migrate::from::{self, Tool, convert};
use policy_compiler::migrate::{MAX_INPUT, Note, Options, diff, migrate};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn run(arguments: Migrate) -> ExitCode {
    let shown = arguments.file.display().to_string();
    let text = match read(&arguments.file) {
        Ok(text) => text,
        Err(error) => return fail(format_args!("cannot read `{shown}`: {error}")),
    };
    match arguments.from.as_deref().and_then(|name| Tool::ALL.into_iter().find(|tool| tool.as_str() == name)) {
        Some(tool) => other_tool(tool, &arguments, &shown, &text),
        None => older(&arguments, &shown, &text),
    }
}

fn other_tool(tool: Tool, arguments: &Migrate, shown: &str, text: &str) -> ExitCode {
    if arguments.service.is_some() && tool != Tool::Smokescreen {
        return fail("`--service` goes with `--from smokescreen`");
    }
    let folder = arguments.file.parent().unwrap_or(Path::new(""));
    let label = arguments.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let options = from::Options {
        profile: arguments.profile.as_deref(),
        service: arguments.service.as_deref(),
        label: &label,
        // A pipe that the input names would be waited for without end.
        read: &|path| match folder.join(path) {
            path if path.is_dir() || (path.exists() && !path.is_file()) => Err(std::io::Error::other("it is no regular file")),
            path => read(&path),
        },
    };
    let converted = match convert(tool, text, options) {
        Ok(converted) => converted,
        Err(error) => return fail(format_args!("{shown}:{}: {}", error.line, error.message)),
    };
    for warning in &converted.warnings {
        say(format_args!("warning: {shown}:{}: {}", warning.line, warning.message));
    }
    let file = arguments.output.as_deref().filter(|output| *output != Path::new("-"));
    if let Some(file) = file {
        if let Err(error) = emit::rewrite(file, converted.text.as_bytes()) {
            return fail(format_args!("cannot write `{}`: {error}", file.display()));
        }
        say(format_args!("wrote {}", file.display()));
    }
    if arguments.json {
        let summary = serde_json::json!({
            "file": shown,
            "written": file.map(|file| file.display().to_string()),
            "warnings": notes(&converted.warnings),
            "policy": file.is_none().then_some(&converted.text),
        });
        return print_line(summary);
    }
    if file.is_none() { print(converted.text) } else { ExitCode::SUCCESS }
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
    let difference =
        if arguments.dry_run { hide_passwords_of(&diff(text, &migration.text, shown.trim_start_matches('/'))) } else { String::new() };
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
        paint(&visible(&difference))
    } else if to_stdout {
        migration.text
    } else {
        String::new()
    };
    print(printed)
}

fn notes(notes: &[Note]) -> Vec<serde_json::Value> {
    notes.iter().map(|note| serde_json::json!({ "line": note.line, "message": note.message })).collect()
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let limit = MAX_INPUT as u64;
    if File::open(path)?.take(limit + 1).read_to_string(&mut text)? as u64 > limit {
        return Err(std::io::Error::other(format!("it has more than {limit} bytes")));
    }
    Ok(text)
}

/// A diff is shown, not applied: passwords have no place in it.
fn hide_passwords_of(diff: &str) -> String {
    diff.split_inclusive('\n').map(hide_passwords).collect()
}

/// A diff in colours, on a terminal that wants them.
fn paint(diff: &str) -> String {
    if !color(&std::io::stdout()) {
        return diff.to_owned();
    }
    let code = |line: &str| match line.get(..1) {
        Some("+") => "32",
        Some("-") => "31",
        Some("@") => "36",
        _ => "0",
    };
    diff.lines().map(|line| format!("\u{1b}[{}m{line}\u{1b}[0m\n", code(line))).collect()
}
