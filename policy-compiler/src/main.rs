//! `netpolicy`: arguments to command to exit code. 0: done; 1: the answer is no; 2: bad usage or input.

mod cli;
mod cmd;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::Cli::parse().command {
        cli::Command::Compile(arguments) => cmd::compile::run(arguments),
        cli::Command::Explain(arguments) => cmd::explain::run(arguments),
        cli::Command::Test(arguments) => cmd::test::run(arguments),
        cli::Command::Inspect(arguments) => cmd::inspect::run(arguments),
    }
}
