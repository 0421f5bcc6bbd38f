//! Argument types of `netproxy-dp`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use netproxy::child::Shell;
use netproxy::{Limit, LimitOverride, Limits, PolicyMap};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;

/// Enforces a compiled network policy for HTTP, CONNECT and SOCKS5 clients.
///
/// Without --policy, the built-in default policy runs: deny by default, and the hosts that builds commonly need are allowed.
#[derive(Debug, Parser)]
#[command(name = "netproxy-dp", version, max_term_width = 100, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) run: Cli,
}

/// What else it does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Env(Env),
    Exec(Exec),
    Connect(Connect),
    Doctor(Doctor),
    Init(Init),
    Check(Check),
}

/// Print the variables that point clients at the running proxy, and make them trust it: `eval "$(netproxy-dp env)"`
#[derive(Debug, Args)]
pub(crate) struct Env {
    /// For whom they are written
    #[arg(long, value_name = "WHOM", default_value = "sh")]
    pub(crate) shell: ShellName,

    /// Print what takes the variables out of the environment again; no proxy has to be running
    #[arg(long)]
    pub(crate) unset: bool,

    #[command(flatten)]
    pub(crate) state: State,
}

/// Run a command whose clients go through a proxy of its own, on ports that the system chooses; ends with the command, and with its exit code
#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    pub(crate) source: Source,

    /// Use the proxy that runs already, and start none
    #[arg(long, conflicts_with_all = ["policy", "profile", "hosts", "limits", "verbose"])]
    #[cfg_attr(target_os = "linux", arg(conflicts_with = "sandbox"))]
    pub(crate) running: bool,

    /// Say on standard error what is blocked, and why
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// What the threads of the proxy give up; the command gives up nothing
    #[cfg(target_os = "linux")]
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(crate) sandbox: crate::process::sandbox::Sandbox,

    #[command(flatten)]
    pub(crate) state: State,

    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Join standard input and output to a host, through the proxy: a ProxyCommand for ssh
#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// Name or address
    pub(crate) host: String,

    /// Port
    pub(crate) port: u16,

    /// The proxy, `http://…` or `socks5h://…` [default: HTTPS_PROXY, ALL_PROXY or HTTP_PROXY of the environment, else the running one]
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,

    #[command(flatten)]
    pub(crate) state: State,
}

/// Try every installed tool through a proxy that opens TLS: which of them take it, which trust it, and what to do for the others
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Only these tools, by name
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// Do not open TLS, and have tools trust the origin's own authority: tries the variables alone
    #[arg(long)]
    pub(crate) opaque: bool,

    /// Seconds that a tool may take
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub(crate) timeout: u64,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Make an authority that lasts: a certificate and a key in files, and tell how to trust the one and use both
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where to put them [default: `ca` in the state folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Say whether a policy could be put in force here, without doing so
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) source: Source,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which shell.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ShellName {
    /// sh, bash, zsh and their kin
    Sh,
    /// `netproxy-dp env --shell fish | source`
    Fish,
    /// `netproxy-dp env --shell powershell | Out-String | Invoke-Expression`
    Powershell,
    /// A `.env` file
    Dotenv,
    /// One JSON object
    Json,
    /// A file for `docker run --env-file`
    Docker,
}

impl From<ShellName> for Shell {
    fn from(name: ShellName) -> Self {
        match name {
            ShellName::Sh => Self::Sh,
            ShellName::Fish => Self::Fish,
            ShellName::Powershell => Self::PowerShell,
            ShellName::Dotenv => Self::Dotenv,
            ShellName::Json => Self::Json,
            ShellName::Docker => Self::Docker,
        }
    }
}

/// Where the files for children are.
#[derive(Debug, Args)]
pub(crate) struct State {
    /// Folder of the files that children read [default: NETPROXY_STATE_DIR; for root /var/lib/netproxy, else ~/.local/state/netproxy]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// What is enforced.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// Compiled policy (from `netpolicy compile`); reloaded when the file changes, and on SIGHUP. Listeners stay as they were at the start
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// Permission profile of the policy that requests are decided under [default: the policy's first]. A policy without it is not put in force
    #[arg(long, value_name = "NAME", requires = "policy")]
    pub(crate) profile: Option<String>,

    /// How the policy file is held in memory; with `shared`, replace it by rename only
    #[arg(long, value_name = "HOW", default_value = "private", requires = "policy")]
    pub(crate) policy_map: Map,

    /// Names in hosts(5) format that come before every resolver; the policy decides on their addresses too
    #[arg(long, value_name = "FILE")]
    pub(crate) hosts: Option<PathBuf>,

    /// A limit instead of the policy's, such as `connect_timeout=5s`; may be repeated. `--limit help` lists them
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = limit)]
    pub(crate) limits: Vec<LimitOverride>,
}

/// The proxy.
#[derive(Debug, Args)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) source: Source,

    /// HTTP proxy address instead of the policy's; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) http_listen: Option<SocketAddr>,

    /// SOCKS5 proxy address instead of the policy's; where the policy has SOCKS5 off, it stays off
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) socks_listen: Option<SocketAddr>,

    /// Admin API address instead of the policy's
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) admin_listen: Option<SocketAddr>,

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

    #[command(flatten)]
    pub(crate) state: State,

    /// Print events as JSON, one object a line: addresses, the policy, faults, the sandbox, pauses in accepting, hand-over
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
