//! `netpolicy run`: compiles the layers, and becomes `netproxy-dp exec` with the policy in memory.
//!
//! The policy is a sealed memfd, and no file: the command may write whatever its user may, and must not get to what it is held to.

use super::{compile_named, fail, layers, say_found};
use crate::cli::{Profiles, Run};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// The proxy, as it is called beside this program and in `PATH`.
const PROXY: &str = "netproxy-dp";

pub(crate) fn run(arguments: Run) -> ExitCode {
    let Run { layers: named, profile, strict, verbose, netproxy_dp, command } = arguments;
    let sources = match layers(named) {
        Ok(sources) => sources,
        Err(code) => return code,
    };
    let profiles = Profiles { names: profile.into_iter().collect(), all: false };
    let compiled = match compile_named(sources, &profiles, strict) {
        Ok(compiled) => compiled,
        Err(failure) => {
            say_found(&failure.sources, &failure.diagnostics);
            return ExitCode::from(2);
        }
    };
    say_found(&compiled.sources, &compiled.diagnostics);
    let proxy = netproxy_dp.or_else(beside).unwrap_or_else(|| PROXY.into());
    let error = become_proxy(&proxy, &compiled.blob, verbose, command);
    match error.kind() {
        io::ErrorKind::NotFound => fail(format_args!(
            "`{}` is not there\nhelp: it comes with netpolicy; put it beside it, into PATH, or name it with `--netproxy-dp PATH`",
            proxy.display()
        )),
        _ => fail(format_args!("cannot run `{}`: {error}", proxy.display())),
    }
}

/// The proxy in this program's folder.
fn beside() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.parent()?.join(PROXY);
    path.is_file().then_some(path)
}

/// Does not come back, unless it fails.
#[cfg(target_os = "linux")]
fn become_proxy(proxy: &std::path::Path, blob: &[u8], verbose: bool, command: Vec<OsString>) -> io::Error {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    let policy = match sealed(blob) {
        Ok(policy) => policy,
        Err(error) => return error,
    };
    let path = format!("/proc/self/fd/{}", policy.as_raw_fd());
    let mut proxy = std::process::Command::new(proxy);
    proxy.args(["exec", "--policy", &path]).args(verbose.then_some("--verbose")).arg("--").args(command);
    proxy.exec()
}

/// Bytes in memory that nobody can change any more, and that stay open in the program that takes the place of this one.
#[cfg(target_os = "linux")]
fn sealed(bytes: &[u8]) -> io::Result<std::fs::File> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    use std::io::Write;
    // Not all kernels know that it is no program; some want to be told.
    let memory = memfd_create("policy.bin", MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| memfd_create("policy.bin", MemfdFlags::ALLOW_SEALING))?;
    let mut file = std::fs::File::from(memory);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file)
}

#[cfg(not(target_os = "linux"))]
fn become_proxy(_: &std::path::Path, _: &[u8], _: bool, _: Vec<OsString>) -> io::Error {
    io::Error::other("it takes Linux to hand a policy over in memory; use `netpolicy compile`, and `netproxy-dp exec --policy FILE`")
}
