//! `netpolicy completions`.

use super::print_bytes;
use crate::cli::{Cli, Completions};
use clap::CommandFactory;
use std::process::ExitCode;

pub(crate) fn run(arguments: Completions) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "netpolicy", &mut script);
    print_bytes(&script)
}
