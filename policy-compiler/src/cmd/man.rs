//! `netpolicy man`.

use super::{fail, print_bytes, say};
use crate::cli::{Cli, Man};
use clap::{Command, CommandFactory};
use policy_compiler::emit;
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn run(arguments: Man) -> ExitCode {
    let written = match arguments.output_dir {
        None => match page(&Cli::command()) {
            Ok(page) => return print_bytes(&page),
            Err(error) => Err(error),
        },
        Some(folder) => write_all(&folder),
    };
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(format_args!("cannot write the manual pages: {error}")),
    }
}

/// `netpolicy.1`, and `netpolicy-NAME.1` for each subcommand.
fn write_all(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut root = Cli::command().disable_help_subcommand(true);
    // Without it the subcommands do not know whose they are.
    root.build();
    let subcommands = root.get_subcommands().map(|command| {
        let name = format!("netpolicy-{}", command.get_name());
        (name.clone(), command.clone().display_name(name))
    });
    for (name, command) in std::iter::once(("netpolicy".to_owned(), root.clone())).chain(subcommands) {
        let path = folder.join(format!("{name}.1"));
        emit::write(&path, &page(&command)?)?;
        say(format_args!("wrote {}", path.display()));
    }
    Ok(())
}

fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    // No date: the same program makes the same pages.
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    Ok(page)
}
