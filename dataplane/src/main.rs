//! `netproxy-dp`: arguments to `Config` to run; signals, exit codes. 0: stopped as asked; 1: the policy is off; 2: bad usage or input.

#![expect(clippy::print_stderr, reason = "the binary says where it listens, and why it does not")]

mod cli;

use clap::Parser;
use netproxy::{Builder, Config, Listeners, Observer, Reload, ReloadRequest, Server, Snapshot, StartError};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::from(2);
        }
    };
    let code = runtime.block_on(run(cli));
    // What did not finish within the drain time is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

async fn run(cli: cli::Cli) -> ExitCode {
    let builder = match &cli.policy {
        Some(path) => Builder::file(path),
        None => Builder::built_in(),
    };
    let config = Config {
        http_listen: cli.http_listen,
        socks_listen: cli.socks_listen,
        admin_listen: cli.admin_listen,
        policy_map: cli.policy_map.into(),
        limits: cli.limits.clone(),
    };
    let builder = builder.config(config).drain(Duration::from_secs(cli.drain)).observer(Announce { json: cli.json });
    let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
    let builder = builder.environment(std::env::vars_os().map(|(name, value)| (text(name), text(value))));
    let builder = match &cli.profile {
        Some(name) => builder.profile(name),
        None => builder,
    };
    let builder = match &cli.hosts {
        Some(path) => builder.hosts(path),
        None => builder,
    };
    // Signals are caught before anything is announced, so that whoever reads the announcement can send one.
    let signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("error: cannot catch signals: {error}");
            return ExitCode::from(2);
        }
    };
    match builder.bind().await {
        Ok(server) => {
            announce(&server, &cli);
            say_shortfalls(&server.policy().current());
            let reload = server.reload_request();
            server.run(signals.stop(reload)).await;
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(if matches!(error, StartError::Off(_)) { 1 } else { 2 })
        }
    }
}

/// A line for each listener; with the built-in policy, a line that says what it is and how to use it.
fn announce(server: &Server, cli: &cli::Cli) {
    let listeners = server.listeners();
    let Listeners { http, socks5, admin } = listeners;
    if cli.policy.is_none() && !cli.json {
        let socks5 = socks5.map(|socks5| format!(", SOCKS5 on {socks5}")).unwrap_or_default();
        eprintln!(
            "no --policy: running the built-in default policy, HTTP on {http}{socks5}, admin on {admin}; \
             point a client at it with `export HTTP_PROXY=http://{http} HTTPS_PROXY=http://{http}`; \
             the policy's source is examples/default.toml"
        );
    }
    for (listener, address) in [("http", Some(http)), ("socks5", socks5), ("admin", Some(admin))] {
        let Some(address) = address else { continue };
        let line = serde_json::json!({ "event": "listening", "listener": listener, "address": address.to_string() });
        say(cli.json, &line, &format!("{listener} {address}"));
    }
}

/// What the policy asks for and this version does not do: said when it comes into force, because what is blocked would otherwise be a riddle.
fn say_shortfalls(snapshot: &Snapshot) {
    for line in snapshot.shortfalls() {
        eprintln!("warning: not available in this version: {line}");
    }
}

/// Standard output that nobody reads is no reason to stop.
fn say(json: bool, line: &serde_json::Value, text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = if json { writeln!(stdout, "{line}") } else { writeln!(stdout, "{text}") };
    let _ = stdout.flush();
}

struct Announce {
    json: bool,
}

impl Observer for Announce {
    fn reloaded(&self, outcome: &Reload<'_>) {
        let (line, text) = match outcome {
            Reload::Swapped(snapshot) => {
                say_shortfalls(snapshot);
                let (generation, digest, rules) = (snapshot.generation(), snapshot.digest().to_string(), snapshot.rule_count());
                let line = serde_json::json!({ "event": "policy", "outcome": "swapped", "generation": generation, "digest": digest, "rules": rules });
                (line, format!("policy: generation {generation} is in force, {rules} rules, digest {digest}"))
            }
            Reload::Unchanged => (
                serde_json::json!({ "event": "policy", "outcome": "unchanged" }),
                "policy: the file holds the policy that is in force".to_owned(),
            ),
            Reload::Refused(error) => {
                let line = serde_json::json!({ "event": "policy", "outcome": "refused", "error": error.to_string() });
                (line, format!("policy: {error}; the policy in force stays"))
            }
            Reload::Withdrawn(error) => {
                let line = serde_json::json!({ "event": "policy", "outcome": "withdrawn", "error": error.to_string() });
                (line, format!("policy: {error}; everything is blocked until a good policy is loaded"))
            }
        };
        say(self.json, &line, &text);
    }
}

#[cfg(unix)]
struct Signals {
    hangup: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Ends with SIGTERM or SIGINT; SIGHUP asks for a reload. The second signal to stop stops at once.
    async fn stop(mut self, reload: ReloadRequest) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => reload.reload(),
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
            }
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
            std::process::exit(0);
        });
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn stop(self, _reload: ReloadRequest) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
