//! The subcommands: arguments to calls of the library, results to text and exit codes.

mod check;
mod connect;
mod doctor;
mod env;
mod exec;
mod init;
mod top;

use crate::Failure;
use crate::cli::{Command, Source, State};
use netproxy::child::{Manifest, ManifestError, STATE_DIR, SYSTEM, StateDir};
use netproxy::{NetworkProxy, NetworkProxyBuilder, StartError};
use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

pub(crate) fn run(command: Command) -> ExitCode {
    let done = match command {
        Command::Env(arguments) => env::run(&arguments),
        Command::Exec(arguments) => exec::run(&arguments),
        Command::Connect(arguments) => connect::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Init(arguments) => init::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
    };
    done.map_or_else(
        |(code, error)| {
            eprintln!("error: {error}");
            ExitCode::from(code)
        },
        ExitCode::from,
    )
}

/// The answer is no.
fn no(error: impl ToString) -> Failure {
    (1, error.to_string())
}

/// Where the state folder is, if anybody can say.
pub(crate) fn state_dir(state: &State) -> Option<PathBuf> {
    state.state_dir.clone().or_else(|| StateDir::default_path(|name| std::env::var_os(name)))
}

/// The proxy that runs, the user's, or else the system's; and its state folder.
fn running(state: &State) -> Result<(Manifest, PathBuf), Failure> {
    let folder = state_dir(state)
        .ok_or_else(|| crate::unusable(format!("there is no home folder: name the state folder with `--state-dir` or `{STATE_DIR}`")))?;
    let folder = std::path::absolute(&folder).map_err(crate::unusable)?;
    let named = state.state_dir.is_some() || std::env::var_os(STATE_DIR).is_some();
    let system = PathBuf::from(SYSTEM);
    match Manifest::running(&folder) {
        Err(error @ (ManifestError::None(_) | ManifestError::Ended { .. })) if !named => match Manifest::running(&system) {
            Ok(manifest) => Ok((manifest, system)),
            Err(_) => Err(no(error)),
        },
        found => Ok((found.map_err(no)?, folder)),
    }
}

/// The variables of this process; those that are not UTF-8 are not among them.
fn environment() -> HashMap<String, String> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// A builder with the policy and all that belongs to it.
pub(crate) fn builder(source: &Source) -> NetworkProxyBuilder {
    let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
    let mut builder = NetworkProxy::builder()
        .policy_map(source.policy_map.into())
        .limits(source.limits.clone())
        .environment(std::env::vars_os().map(|(name, value)| (text(name), text(value))));
    if let Some(path) = &source.policy {
        builder = builder.policy(path.as_path());
    }
    if let Some(name) = &source.profile {
        builder = builder.profile(name);
    }
    if let Some(path) = &source.hosts {
        builder = builder.hosts(path);
    }
    builder
}

/// A policy that is off is an answer, and all else is a mistake.
pub(crate) fn not_bound(error: StartError) -> Failure {
    (if matches!(error, StartError::Off(_)) { 1 } else { 2 }, error.to_string())
}

/// Puts the answer on standard output. That nobody reads it is no failure.
fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
