//! One test binary, one module for each topic.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests that cannot go on panic"
)]

/// The admin API: every answer as its document says, who may do what, and who may not.
#[cfg(unix)]
mod admin;
/// Audit files, as the real program writes them.
#[cfg(unix)]
mod audit_files;
/// The two binaries as programs: arguments, messages, exit codes, signals.
mod binaries;
/// Credentials: who gets one, and who gets what stands for it.
#[cfg(unix)]
mod broker;
/// What children get: variables, commands under a proxy, tunnels for ssh.
#[cfg(unix)]
mod child;
/// Real clients through the real proxy: curl, git, pip, npm.
mod clients;
/// How what was allowed ends: every way, once, with its bytes.
mod closes;
/// Every recorded decision, through the real binaries.
mod conformance;
/// The dashboard, as it is without JavaScript.
mod dashboard;
/// The embedding program's word on what no rule allows.
mod decider;
/// Names, against a name server on loopback.
mod dns;
/// The library in a program that embeds it.
mod embed;
/// Hooks of the policy, case by case, through the real proxy.
mod hooks;
/// Clients that want to use the proxy up.
#[cfg(target_os = "linux")]
mod hostile;
/// HTTP: what is refused, what is forwarded, and how.
mod http;
/// Inside TLS that is opened: what is decided, changed and answered there.
mod inside;
/// Who may depend on whom.
mod layering;
/// Every limit: how it is set, what its client is answered, and what is counted.
mod limits;
/// The tunnels that are open: how they are listed, and closed.
mod live;
/// Log lines of the binary, and of the library.
mod logs;
/// The first look into tunnels: whom clients speak to in there.
mod look;
/// What is counted.
mod metrics;
/// The mode, set while the proxy runs.
mod mode;
/// Names: when they are looked up, and which addresses are dialled.
mod names;
/// Audit events to collectors of OpenTelemetry.
#[cfg(unix)]
mod otlp;
/// Connections to origins: who is given one that another client had, and when one ends before its exchange does.
mod pool;
/// The process: drain, hand-over, service managers, sandbox, its own listeners.
#[cfg(unix)]
mod process;
/// Several profiles in one policy file.
mod profiles;
/// Rules with conditions, hooks, and what cannot be honoured.
mod rules;
/// How a policy file is held in memory: a private copy, or the file itself.
#[cfg(unix)]
mod shared;
/// Every known way to have two readers read two things, byte for byte.
mod smuggling;
/// SOCKS5.
mod socks5;
/// SOCKS5 datagrams.
mod socks5_udp;
/// SOCKS5 datagrams through other proxies.
mod socks5_udp_upstream;
/// Swapping policies: how a file is replaced, what is refused, what happens under load.
mod swap;
/// Tunnels: half-close, revocation, drain.
mod tunnels;
/// Unix sockets: which may be reached, and that no link leads elsewhere.
#[cfg(unix)]
mod unix;
/// Upstream proxies.
#[cfg(unix)]
mod upstream;
