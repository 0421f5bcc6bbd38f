//! One test binary, one module for each topic.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests that cannot go on panic"
)]

/// The two binaries as programs: arguments, messages, exit codes, signals.
mod binaries;
/// Real clients through the real proxy: curl, git, pip, npm.
mod clients;
/// Every recorded decision, through the real binaries.
mod conformance;
/// HTTP: what is refused, what is forwarded, and how.
mod http;
/// Who may depend on whom.
mod layering;
/// Names: when they are looked up, and which addresses are dialled.
mod names;
/// Several profiles in one policy file.
mod profiles;
/// Rules with conditions, hooks, and what cannot be honoured.
mod rules;
/// How a policy file is held in memory: a private copy, or the file itself.
#[cfg(unix)]
mod shared;
/// SOCKS5.
mod socks5;
/// SOCKS5 datagrams.
mod socks5_udp;
/// Swapping policies: how a file is replaced, what is refused, what happens under load.
mod swap;
/// Tunnels: half-close, revocation, drain.
mod tunnels;
