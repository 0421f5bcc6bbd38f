//! `netpolicy`: arguments to command to exit code. 0: done; 1: the answer is no; 2: bad usage or input.

mod cli;
mod cmd;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::Cli::parse().command {
        cli::Command::Compile(arguments) => cmd::compile::run(arguments),
        cli::Command::Check(arguments) => cmd::check::run(arguments),
        cli::Command::Init(arguments) => cmd::init::run(arguments),
        cli::Command::Schema(arguments) => cmd::schema::run(arguments),
        cli::Command::Completions(arguments) => cmd::completions::run(arguments),
        cli::Command::Man(arguments) => cmd::man::run(arguments),
        cli::Command::Migrate(arguments) => cmd::migrate::run(arguments),
        cli::Command::Presets(arguments) => cmd::presets::run(arguments),
        cli::Command::Explain(arguments) => cmd::explain::run(arguments),
        cli::Command::Test(arguments) => cmd::test::run(arguments),
        cli::Command::Inspect(arguments) => cmd::inspect::run(arguments),
        cli::Command::Replay(arguments) => cmd::replay::run(arguments),
        cli::Command::Audit(arguments) => cmd::audit::run(arguments),
        cli::Command::Diff(arguments) => cmd::diff::run(arguments),
        cli::Command::Run(arguments) => cmd::run::run(arguments),
    }
}
