//! Argument types of `netproxy-dp`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use netproxy::child::Shell;
use netproxy::{
    Audit as AuditSettings, AuditLevel, AuditNaming, AuditOverrides, Limit, LimitOverride, Limits, OnFull, Otlp, PolicyMap, SyslogTarget,
};
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
    Exec(Box<Exec>),
    Connect(Connect),
    Doctor(Doctor),
    Init(Init),
    Check(Check),
    Top(Top),
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
// What is always refused is not listed.
#[derive(Debug, Args)]
#[command(mut_arg("audit_stdout", |flag| flag.hide(true)))]
pub(crate) struct Exec {
    #[command(flatten)]
    pub(crate) source: Source,

    /// Use the proxy that runs already, and start none
    #[arg(long, conflicts_with_all = ["policy", "profile", "hosts", "limits", "verbose", "Audit"])]
    #[cfg_attr(target_os = "linux", arg(conflicts_with = "sandbox"))]
    pub(crate) running: bool,

    /// Say on standard error what is blocked, and why
    #[arg(short, long)]
    pub(crate) verbose: bool,

    #[command(flatten)]
    pub(crate) audit: Audit,

    /// What the threads of the proxy give up; the command gives up nothing
    #[cfg(target_os = "linux")]
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(crate) sandbox: crate::process::sandbox::Sandbox,

    #[command(flatten)]
    pub(crate) state: State,

    /// The command and its arguments; `--` stands before one that begins with `-`
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
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

/// Show in the terminal what the running proxy does: decisions as they are made, what is blocked and what would allow it, tunnels, the policy
///
/// Keys: 1 to 5, tab or left and right choose what is shown; up and down choose a row; / filters; p pauses; x closes a tunnel; m switches the mode; r loads the policy again; q ends.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// The admin API [default: that of the running proxy]
    #[arg(long, value_name = "URL", conflicts_with = "admin_socket")]
    pub(crate) admin: Option<String>,

    /// The unix socket of the admin API
    #[arg(long, value_name = "PATH")]
    pub(crate) admin_socket: Option<PathBuf>,

    /// File with the token, or the signed token, that the admin API asks for
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,

    /// Print what there is, and end
    #[arg(long)]
    pub(crate) once: bool,

    /// Print JSON, as the admin API says it
    #[arg(long, requires = "once")]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) state: State,
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

/// Who may use the admin API, and how it is reached.
#[derive(Debug, Args)]
pub(crate) struct Admin {
    /// Tokens that the admin API takes, one a line; `read:TOKEN` only reads. The file has mode 600, and is read again when it changes. Needed where other machines reach the API
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,

    /// Secret of at least 32 bytes that tokens for the admin API are signed with (JWS, HS256); mode 600, and read again when it changes
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_shared_secret_file: Option<PathBuf>,

    /// Issuer (`iss`) that signed tokens must have
    #[arg(long, value_name = "NAME", requires = "admin_shared_secret_file")]
    pub(crate) admin_issuer: Option<String>,

    /// Audience (`aud`) that signed tokens must be for
    #[arg(long, value_name = "NAME", requires = "admin_shared_secret_file")]
    pub(crate) admin_audience: Option<String>,

    /// How far apart the clocks of who signs tokens and of this machine may be
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(..=600), requires = "admin_shared_secret_file")]
    pub(crate) admin_max_clock_skew_seconds: u64,

    /// Name that callers may call the admin API by, beside addresses and localhost; may be repeated. Only together with tokens
    #[arg(long = "admin-host", value_name = "NAME")]
    pub(crate) admin_hosts: Vec<String>,

    /// Unix socket for the admin API, beside its listener: for this user and root, who need no token
    #[cfg(unix)]
    #[arg(long, value_name = "PATH")]
    pub(crate) admin_socket: Option<PathBuf>,

    /// Another user that may use that socket, by name or number
    #[cfg(unix)]
    #[arg(long, value_name = "USER", requires = "admin_socket")]
    pub(crate) admin_socket_user: Option<String>,
}

/// What is written down of decisions, and where: over what the policy's `audit` says, or beside it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Audit, beside or over what the policy says")]
pub(crate) struct Audit {
    /// Append a line of JSON for each event to a file, whose folder exists; opened again on SIGHUP
    #[arg(long, value_name = "FILE")]
    audit_file: Option<PathBuf>,

    /// Print the same lines
    #[arg(long)]
    audit_stdout: bool,

    /// Send events to syslog (RFC 5424): `/dev/log`, `udp://ADDRESS:PORT` or `tcp://ADDRESS:PORT`
    #[arg(long, value_name = "TARGET")]
    audit_syslog: Option<SyslogTarget>,

    /// Send events to the journal of systemd
    #[arg(long)]
    audit_journald: bool,

    /// Send events to a collector of OpenTelemetry: `http://127.0.0.1:4318` or `https://…` for OTLP/HTTP, `grpc://127.0.0.1:4317` or `grpcs://…` for OTLP/gRPC
    // Parsed in `overrides`: clap quotes a value that it refuses, and a password with it.
    #[arg(long, value_name = "URL")]
    audit_otlp: Option<String>,

    /// File with headers for that collector, `name: value`, a line each, which nobody else may read; read again when it changes
    #[arg(long, value_name = "FILE", requires = "audit_otlp")]
    audit_otlp_headers_file: Option<PathBuf>,

    /// Which events: `off`, `denied`, `decisions` (those that were allowed too) or `all` (ends and limits too)
    #[arg(long, value_name = "LEVEL", value_parser = |text: &str| named(text, AuditLevel::ALL))]
    audit_level: Option<AuditLevel>,

    /// Names of fields: `codex`, or `ocsf` for those of the Open Cybersecurity Schema Framework
    #[arg(long, value_name = "NAMES", value_parser = |text: &str| named(text, AuditNaming::ALL))]
    audit_naming: Option<AuditNaming>,

    /// What becomes of requests when events cannot be written as fast as they come: `drop` (events are lost, and counted), `block` (requests wait) or `deny` (requests are refused)
    #[arg(long, value_name = "WHAT", value_parser = |text: &str| named(text, OnFull::ALL))]
    audit_on_full: Option<OnFull>,

    /// A field that every event gets, such as `conversation.id=7`; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = metadata)]
    audit_metadata: Vec<(String, String)>,
}

impl Audit {
    /// Whether events go to standard output.
    pub(crate) fn prints(&self) -> bool {
        self.audit_stdout
    }

    /// `owner`: whom files are given to. `waits`: a file may be another process's still.
    pub(crate) fn overrides(&self, owner: Option<(u32, u32)>, waits: bool) -> Result<AuditOverrides, String> {
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()));
        let headers_file = self.audit_otlp_headers_file.as_ref().map(absolute).transpose()?;
        let headers_file = headers_file.map(|path| path.to_string_lossy().into_owned());
        let otlp = self.audit_otlp.as_ref().map(|url| url.parse::<Otlp>().map_err(|error| format!("--audit-otlp: {error}"))).transpose()?;
        let otlp = otlp.map(|otlp| Otlp { headers_file, ..otlp });
        Ok(AuditOverrides {
            file: self.audit_file.as_ref().map(absolute).transpose()?,
            stdout: self.audit_stdout,
            syslog: self.audit_syslog.clone(),
            journald: self.audit_journald,
            otlp,
            naming: self.audit_naming,
            level: self.audit_level,
            on_full: self.audit_on_full,
            metadata: self.audit_metadata.iter().cloned().collect(),
            owner,
            waits,
        })
    }
}

/// One of a few names.
fn named<T: Copy>(text: &str, all: &[(&'static str, T)]) -> Result<T, String> {
    let names = || all.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    all.iter().find(|(name, _)| *name == text).map(|(_, found)| *found).ok_or_else(|| format!("it is one of {}", names()))
}

fn metadata(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is not `KEY=VALUE`")?;
    AuditSettings::check_metadata(key, value).map_err(|error| error.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The proxy.
#[derive(Debug, Args)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) source: Source,

    #[command(flatten)]
    pub(crate) audit: Audit,

    /// HTTP proxy address instead of the policy's; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) http_listen: Option<SocketAddr>,

    /// SOCKS5 proxy address instead of the policy's; where the policy has SOCKS5 off, it stays off
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) socks_listen: Option<SocketAddr>,

    /// Admin API address instead of the policy's
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) admin_listen: Option<SocketAddr>,

    #[command(flatten)]
    pub(crate) admin: Admin,

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

    /// What to give up once it listens: capabilities, new privileges, files (landlock) and system calls (seccomp). `--user` works with `off`, too
    #[cfg(target_os = "linux")]
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub(crate) sandbox: crate::process::sandbox::Sandbox,

    #[command(flatten)]
    pub(crate) state: State,

    #[command(flatten)]
    pub(crate) logging: crate::logging::Logging,

    /// Print events as JSON, one object a line: addresses, the policy, its mode, faults, the sandbox, pauses in accepting, hand-over, the end
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    #[test]
    fn what_stands_before_a_command_is_a_flag_that_there_is() {
        let command = |words: &[&'static str]| {
            let words = ["netproxy-dp", "exec"].into_iter().chain(words.iter().copied());
            match Arguments::try_parse_from(words).map_err(|error| error.kind())?.command {
                Some(Command::Exec(exec)) => Ok(exec.command.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>()),
                _ => Err(ErrorKind::InvalidSubcommand),
            }
        };
        for (words, expected) in [
            (&["--polcy", "p.bin", "--", "true"][..], Err(ErrorKind::UnknownArgument)),
            (&["--polcy", "p.bin", "true"], Err(ErrorKind::UnknownArgument)),
            (&["-x", "true"], Err(ErrorKind::UnknownArgument)),
            (&[], Err(ErrorKind::MissingRequiredArgument)),
            (&["true"], Ok(vec!["true"])),
            (&["--", "true"], Ok(vec!["true"])),
            (
                &["--verbose", "cargo", "build", "--release", "-p", "x", "--verbose"],
                Ok(vec!["cargo", "build", "--release", "-p", "x", "--verbose"]),
            ),
            (&["sh", "-c", "exit 1", "--", "x", "--policy"], Ok(vec!["sh", "-c", "exit 1", "--", "x", "--policy"])),
            (&["--", "--odd", "-x"], Ok(vec!["--odd", "-x"])),
        ] {
            let expected = expected.map(|words: Vec<&str>| words.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(command(words), expected, "{words:?}");
        }
    }

    #[test]
    fn help_lists_what_can_be_used() {
        let mut command = Arguments::command();
        let exec = command.find_subcommand_mut("exec").unwrap().render_long_help().to_string();
        assert!(exec.contains("--audit-file") && !exec.contains("--audit-stdout") && !exec.contains("--user"), "{exec}");
        assert!(command.render_long_help().to_string().contains("--audit-stdout"));
    }

    #[test]
    fn what_is_for_a_proxy_of_its_own_is_refused_with_one_that_runs() {
        let command = Arguments::command();
        let exec = command.find_subcommand("exec").unwrap();
        let flags: Vec<_> = exec.get_arguments().filter_map(clap::Arg::get_long).filter(|flag| flag.starts_with("audit-")).collect();
        assert!(flags.len() >= 10, "{flags:?}");
        for flag in flags {
            let value = match flag {
                "audit-stdout" | "audit-journald" => None,
                "audit-syslog" => Some("/dev/log"),
                "audit-otlp" => Some("http://127.0.0.1:4318"),
                "audit-level" => Some("all"),
                "audit-naming" => Some("ocsf"),
                "audit-on-full" => Some("drop"),
                "audit-metadata" => Some("a=b"),
                _ => Some("file"),
            };
            let flag = format!("--{flag}");
            let otlp = (flag == "--audit-otlp-headers-file").then_some("--audit-otlp=http://127.0.0.1:4318");
            let audit = || [flag.as_str()].into_iter().chain(value).chain(otlp);
            let parse = |more: &[&'static str]| {
                let words = ["netproxy-dp", "exec"].into_iter().chain(more.iter().copied()).chain(audit()).chain(["--", "true"]);
                Arguments::try_parse_from(words).map(|_| ()).map_err(|error| error.kind())
            };
            assert_eq!(parse(&[]), Ok(()), "{flag}");
            assert_eq!(parse(&["--running"]), Err(ErrorKind::ArgumentConflict), "{flag}");
        }
    }
}
