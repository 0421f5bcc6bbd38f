//! Argument types of `netproxy-dp`.

use clap::{Parser, ValueEnum};
use netproxy::{Limit, LimitOverride, Limits, PolicyMap};
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;

/// Enforces a compiled network policy for HTTP, CONNECT and SOCKS5 clients.
///
/// Without --policy, the built-in default policy runs: deny by default, and the hosts that builds commonly need are allowed.
#[derive(Debug, Parser)]
#[command(name = "netproxy-dp", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// Compiled policy (from `netpolicy compile`); reloaded when the file changes, and on SIGHUP. Listeners stay as they were at the start
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// Permission profile of the policy that requests are decided under [default: the policy's first]. A policy without it is not put in force
    #[arg(long, value_name = "NAME", requires = "policy")]
    pub(crate) profile: Option<String>,

    /// How the policy file is held in memory; with `shared`, replace it by rename only
    #[arg(long, value_name = "HOW", default_value = "private", requires = "policy")]
    pub(crate) policy_map: Map,

    /// HTTP proxy address instead of the policy's; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) http_listen: Option<SocketAddr>,

    /// SOCKS5 proxy address instead of the policy's; where the policy has SOCKS5 off, it stays off
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) socks_listen: Option<SocketAddr>,

    /// Admin API address instead of the policy's
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) admin_listen: Option<SocketAddr>,

    /// Names in hosts(5) format that come before every resolver; the policy decides on their addresses too
    #[arg(long, value_name = "FILE")]
    pub(crate) hosts: Option<PathBuf>,

    /// Threads that serve connections [default: as many as may run at once]
    #[arg(long, value_name = "COUNT")]
    pub(crate) workers: Option<NonZero<usize>>,

    /// Seconds that open exchanges may take to finish after SIGTERM or SIGINT; a second signal ends them at once
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) drain: u64,

    /// Unix socket through which a new process, started with the same flag, takes over the listeners of the one that runs; no connection is lost
    #[cfg(unix)]
    #[arg(long, value_name = "PATH")]
    pub(crate) hand_over: Option<PathBuf>,

    /// User to become once it listens, by name or number; without a group, the user's own. Needs root
    #[cfg(target_os = "linux")]
    #[arg(long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,

    /// What to give up once it listens: capabilities, new privileges, files (landlock) and system calls (seccomp)
    #[cfg(target_os = "linux")]
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(crate) sandbox: crate::process::sandbox::Sandbox,

    /// A limit instead of the policy's, such as `connect_timeout=5s`; may be repeated. `--limit help` lists them
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = limit)]
    pub(crate) limits: Vec<LimitOverride>,

    /// Print events as JSON, one object a line: addresses, reloads, the sandbox, pauses in accepting, hand-over
    #[arg(long)]
    pub(crate) json: bool,
}

fn limit(text: &str) -> Result<LimitOverride, String> {
    if text == "help" {
        let line = |limit: &Limit| format!("\n  {} [{}]: {}", limit.name, limit.shown(limit.default), limit.doc);
        return Err(format!("these are the limits and their defaults:{}", Limits::ALL.iter().map(line).collect::<String>()));
    }
    text.parse().map_err(|error: netproxy::LimitError| error.to_string())
}

/// How the policy file is held in memory.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Map {
    /// A copy of its own, which nothing that happens to the file can reach
    Private,
    /// The file itself, so that all processes on the machine share its pages; writing to it in place blocks everything, and truncating it ends the process
    Shared,
}

impl From<Map> for PolicyMap {
    fn from(map: Map) -> Self {
        match map {
            Map::Private => Self::Private,
            Map::Shared => Self::Shared,
        }
    }
}
