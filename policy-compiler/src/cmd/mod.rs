//! One file for each subcommand, and what they share: messages on standard error, colour only on a terminal.

#![expect(clippy::print_stderr, reason = "the binary's messages go to standard error")]

pub(crate) mod check;
pub(crate) mod compile;
pub(crate) mod completions;
pub(crate) mod init;
pub(crate) mod man;
pub(crate) mod migrate;
pub(crate) mod progress;
pub(crate) mod schema;

use policy_compiler::check::ListSummary;
use policy_compiler::diagnostic::Failure;
use policy_compiler::source::Places;
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Compiled, Options};
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// What to say where there is nothing to read.
pub(crate) const NO_LAYER: &str =
    "no layer was found in the default places\nhelp: name one, such as `--user config.toml`, or write a first one with `netpolicy init`";

/// Compiles, with a progress bar for long domain lists.
pub(crate) fn compile(sources: Vec<SourceFile>, options: Options<'_>) -> Result<Compiled, Failure> {
    let mut bar = progress::ProgressBar::stderr();
    policy_compiler::compile_showing(sources, options, &mut |path, progress| bar.update(path, progress))
}

/// A domain list in one line.
pub(crate) fn describe_list(list: &ListSummary) -> String {
    let report = &list.report;
    let mut line = format!("{} list {}: {} entries", list.access, list.path.display(), report.entries);
    for (count, what) in [(report.ignored, "ignored"), (report.bad_count, "bad")] {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    line
}

/// A source in one line: layer, role, place.
pub(crate) fn describe(source: &SourceFile) -> String {
    let what = if source.role == Role::Requirements { "requirements" } else { "settings" };
    format!("{} {what} {}", source.layer, source.shown())
}

/// Bad usage or input.
pub(crate) fn fail(message: impl Display) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(2)
}

pub(crate) fn say(message: impl Display) {
    eprintln!("{message}");
}

/// Prints what was asked for on standard output.
pub(crate) fn print(text: impl Display) -> ExitCode {
    print_bytes(text.to_string().as_bytes())
}

/// Prints a line of data.
pub(crate) fn print_line(line: impl Display) -> ExitCode {
    print(format_args!("{line}\n"))
}

pub(crate) fn print_bytes(bytes: &[u8]) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough: `netpolicy schema | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(format_args!("cannot write to standard output: {error}")),
    }
}

/// Whether standard error may be coloured (<https://no-color.org>).
pub(crate) fn color() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::io::stderr().is_terminal()
}

/// The default places of layers on this machine.
pub(crate) fn places() -> Places {
    let home = || std::env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| PathBuf::from(home).join(".codex"));
    Places {
        etc: Some(PathBuf::from("/etc/codex")),
        codex_home: std::env::var_os("CODEX_HOME").filter(|home| !home.is_empty()).map(PathBuf::from).or_else(home),
        working_dir: std::env::current_dir().ok(),
    }
}
