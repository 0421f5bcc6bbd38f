//! `netpolicy`: arguments to command to exit code. 0: done; 1: the answer is no; 2: bad usage or input.

mod cli;
mod cmd;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::Cli::parse().command {
        cli::Command::Compile(arguments) => cmd::compile::run(arguments),
        cli::Command::Diff(arguments) => cmd::diff::run(arguments),
    }
}
