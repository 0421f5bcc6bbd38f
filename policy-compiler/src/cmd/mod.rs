//! One file for each subcommand, and what they share: messages on standard error, colour only on a terminal.

#![expect(clippy::print_stderr, reason = "the binary's messages go to standard error")]

pub(crate) mod compile;
pub(crate) mod diff;

use policy_compiler::source::Places;
use std::fmt::Display;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

/// Bad usage or input.
pub(crate) fn fail(message: impl Display) -> ExitCode {
    eprintln!("error: {message}");
    ExitCode::from(2)
}

pub(crate) fn say(message: impl Display) {
    eprintln!("{message}");
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
