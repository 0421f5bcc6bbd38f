//! `netproxy-dp`: arguments to the library's builder; signals, exit codes. 0: stopped as asked; 1: the policy is off; 2: bad usage or input.

#![expect(clippy::print_stderr, reason = "the binary says where it listens, and why it does not")]

mod cli;
mod cmd;
mod logging;
mod process;

use clap::Parser;
use logging::Said;
use netproxy::child::{Published, STATE_DIR, StateDir, StateError};
use netproxy::{
    Accepting, Addresses, AdminAccess, Handle, NetworkProxy, NetworkProxyBuilder, Observer, Reload, Snapshot, Sockets, StartError,
};
use process::Handed;
use process::notify::Notify;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

fn main() -> ExitCode {
    let cli::Arguments { command, run: cli } = cli::Arguments::parse();
    if let Some(command) = command {
        return cmd::run(command);
    }
    cli.logging.start();
    match start(&cli) {
        Ok(started) => serve(started, &cli),
        Err((code, error)) => {
            cli.logging.say(Said::Error, &error.to_string());
            ExitCode::from(code)
        }
    }
}

/// An exit code, and why.
type Failure = (u8, String);

/// Bad usage or input, or a system that does not let us.
fn unusable(error: impl ToString) -> Failure {
    (2, error.to_string())
}

/// It listens, and has given up what it does not need for more.
struct Started {
    proxy: NetworkProxy,
    notify: Arc<Notify>,
    /// What children find, for as long as it is kept.
    published: Option<Published>,
    #[cfg(unix)]
    offer: Option<process::handover::Offer>,
    #[cfg(target_os = "linux")]
    sandbox: process::sandbox::Report,
}

/// Everything that needs the privileges that the process was started with, then giving them up. There is one thread yet: what landlock and capabilities take away, they
/// take from a thread and those that it starts later.
fn start(cli: &cli::Cli) -> Result<Started, Failure> {
    let notify = Arc::new(Notify::from_env());
    #[cfg(target_os = "linux")]
    let user = cli.user.as_deref().map(process::privileges::Account::find).transpose().map_err(unusable)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
    #[cfg(unix)]
    process::descriptors::raise_limit();
    #[cfg(unix)]
    let (handed_down, taken) = {
        let handed_down = process::activation::take().map_err(unusable)?;
        let taken = match &cli.hand_over {
            Some(_) if handed_down.is_some() => {
                return Err(unusable(
                    "--hand-over: the service manager holds the sockets already, and no connection is lost when it starts us anew",
                ));
            }
            Some(path) => runtime.block_on(process::handover::take(path)).map_err(unusable)?,
            None => None,
        };
        (handed_down, taken.map(process::handover::Taken::split))
    };
    #[cfg(not(unix))]
    let (handed_down, taken): (Option<Handed>, Option<(Sockets, Option<netproxy::Mode>, ())>) = (None, None);
    let builder =
        cmd::builder(&cli.source).drain(Duration::from_secs(cli.drain)).observer(Announce { json: cli.json, notify: Arc::clone(&notify) });
    #[cfg(target_os = "linux")]
    let owner = user.as_ref().map(process::privileges::Account::ids);
    #[cfg(not(target_os = "linux"))]
    let owner = None;
    let builder = builder.audit(cli.audit.overrides(owner, taken.is_some()).map_err(unusable)?);
    let builder = cli.workers.into_iter().fold(builder, NetworkProxyBuilder::workers);
    let builder = listeners(builder, cli, handed_down.unwrap_or_default())?.admin_access(admin_access(&cli.admin)?);
    let (builder, taken) = match taken {
        Some((sockets, mode, taken)) => (mode.into_iter().fold(builder.inherit(sockets), NetworkProxyBuilder::mode), Some(taken)),
        None => (builder, None),
    };
    // Where another process serves until this one does, there is time for all of it.
    let builder = builder.rules_later(taken.is_none());
    #[cfg_attr(not(target_os = "linux"), expect(unused_mut, reason = "there is nothing to say of the process"))]
    let mut proxy = runtime.block_on(builder.bind()).map_err(cmd::not_bound)?;
    #[cfg(unix)]
    let offer = match &cli.hand_over {
        Some(path) => Some(process::handover::offer(path, taken, proxy.sockets().map_err(unusable)?, owner).map_err(unusable)?),
        None => None,
    };
    #[cfg(not(unix))]
    let (_, _): (_, Option<()>) = (taken, owner);
    // Its threads, if it has any, end here.
    drop(runtime);
    let published = publish(&proxy, cli).map_err(unusable)?;
    #[cfg(target_os = "linux")]
    let sandbox = {
        let named = [proxy.policy().files(), proxy.audit_files(), proxy.admin_files()].concat();
        let files: Vec<_> =
            [&cli.source.policy, &cli.source.hosts].into_iter().flatten().chain(&named).map(std::path::PathBuf::as_path).collect();
        let folders = proxy.audit_folders();
        let report = process::sandbox::apply(cli.sandbox, user.as_ref(), &files, &folders).map_err(unusable)?;
        for folder in folders {
            if rustix::fs::access(&folder, rustix::fs::Access::WRITE_OK).is_err() {
                let warning = format!(
                    "nothing can be made in `{}` any more, so that the audit file in it cannot be rotated; give the folder to the user of the proxy",
                    folder.display()
                );
                cli.logging.say(Said::Warning, &warning);
            }
        }
        for file in files {
            if let Err(error) = std::fs::File::open(file) {
                let warning = format!("`{}` cannot be read any more, so that it cannot be read again: {error}", file.display());
                cli.logging.say(Said::Warning, &warning);
            }
        }
        proxy.set_health("sandbox", report.json());
        report
    };
    // After the change of user, which undoes it.
    #[cfg(unix)]
    {
        let memory = process::memory::protect_memory();
        if !cli.json {
            cli.logging.say(Said::Note, &memory.text());
        }
        proxy.set_health("memory", memory.json());
    }
    Ok(Started {
        proxy,
        notify,
        published,
        #[cfg(unix)]
        offer,
        #[cfg(target_os = "linux")]
        sandbox,
    })
}

/// What children need, while files can still be written. Where nobody has named a folder, and nothing has to be trusted, it may be that there is none.
fn publish(proxy: &NetworkProxy, cli: &cli::Cli) -> Result<Option<Published>, StateError> {
    let asked = cli.state.state_dir.is_some() || std::env::var_os(STATE_DIR).is_some();
    let Some(folder) = cmd::state_dir(&cli.state) else { return Ok(None) };
    match StateDir::open(&folder).and_then(|state| proxy.publish(&state, std::env::current_exe().ok(), true)) {
        Ok(published) => {
            for problem in published.problems() {
                cli.logging.say(Said::Warning, problem);
            }
            Ok(Some(published))
        }
        Err(error) if asked => Err(error),
        Err(error) => {
            if proxy.policy().authority_pem().is_some() {
                cli.logging.say(Said::Warning, &format!("children cannot be told what to trust: {error}"));
            }
            Ok(None)
        }
    }
}

/// How a listener is told of: where it is to be, or one that is open already.
type At = fn(NetworkProxyBuilder, SocketAddr) -> NetworkProxyBuilder;
type On = fn(NetworkProxyBuilder, TcpListener) -> NetworkProxyBuilder;

/// Who may use the admin API.
fn admin_access(admin: &cli::Admin) -> Result<AdminAccess, Failure> {
    let access = AdminAccess {
        token_file: admin.admin_token_file.clone(),
        shared_secret_file: admin.admin_shared_secret_file.clone(),
        issuer: admin.admin_issuer.clone(),
        audience: admin.admin_audience.clone(),
        max_clock_skew: Duration::from_secs(admin.admin_max_clock_skew_seconds),
        hosts: admin.admin_hosts.clone(),
        ..AdminAccess::default()
    };
    if !access.hosts.is_empty() && !access.needs_token() {
        return Err(unusable(
            "--admin-host: only together with tokens (`--admin-token-file`), since the page of a name that is bound anew names it too",
        ));
    }
    #[cfg(unix)]
    let access = {
        let user = admin.admin_socket_user.as_deref().map(process::user_number).transpose().map_err(unusable)?;
        AdminAccess { socket: admin.admin_socket.clone(), socket_user: user, ..access }
    };
    Ok(access)
}

/// Sockets of a service manager are where it put them, whatever the policy says; a flag that says otherwise is a mistake.
fn listeners(mut builder: NetworkProxyBuilder, cli: &cli::Cli, handed_down: Handed) -> Result<NetworkProxyBuilder, Failure> {
    let Handed { sockets: Sockets { http, socks5, admin, .. }, second } = handed_down;
    let (socks5, on_socks5): (_, On) = match second {
        Some(second) => (Some(second), NetworkProxyBuilder::second_listener),
        None => (socks5, NetworkProxyBuilder::socks_listener),
    };
    let listeners: [(_, _, _, At, On); 3] = [
        ("--http-listen", cli.http_listen, http, NetworkProxyBuilder::http_addr, NetworkProxyBuilder::http_listener),
        ("--socks-listen", cli.socks_listen, socks5, NetworkProxyBuilder::socks_addr, on_socks5),
        ("--admin-listen", cli.admin_listen, admin, NetworkProxyBuilder::admin_addr, NetworkProxyBuilder::admin_listener),
    ];
    for (flag, wanted, socket, at, on) in listeners {
        builder = match (socket, wanted) {
            (None, None) => builder,
            (None, Some(wanted)) => at(builder, wanted),
            (Some(socket), wanted) => {
                let found = socket.local_addr().map_err(unusable)?;
                if let Some(other) = wanted.filter(|wanted| *wanted != found) {
                    return Err(unusable(format!(
                        "{flag} {other}: the service manager hands down a socket at {found}; take the flag away, or change the socket"
                    )));
                }
                on(builder, socket)
            }
        };
    }
    Ok(builder)
}

fn serve(started: Started, cli: &cli::Cli) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::from);
    let ran = runtime.and_then(|runtime| {
        let ran = runtime.block_on(run(started, cli));
        // What waits for signals is not waited for.
        runtime.shutdown_background();
        ran
    });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli.logging.say(Said::Error, &error.to_string());
            ExitCode::from(2)
        }
    }
}

async fn run(started: Started, cli: &cli::Cli) -> Result<(), StartError> {
    let Started { proxy, notify, published, .. } = started;
    // Signals are caught before anything is announced, so that whoever reads the announcement can send one.
    let mut signals = Signals::new()?;
    let handle = Arc::new(proxy.run().await?);
    #[cfg(target_os = "linux")]
    announce_sandbox(&started.sandbox, cli);
    announce(&handle, cli);
    notify.ready(&status(&handle.policy()));
    let (watchdog, watched) = (Arc::clone(&notify), Arc::clone(&handle));
    if let Some(within) = process::notify::watchdog() {
        let responds = move || {
            let handle = Arc::clone(&watched);
            async move { handle.responds().await }
        };
        tokio::spawn(async move { watchdog.watchdog(within, responds).await });
    }
    #[cfg(unix)]
    let handed_over = {
        let (json, handle) = (cli.json, &handle);
        async move {
            match started.offer {
                Some(offer) => offer.handed_over(|| handle.mode_override()).await.map(|()| {
                    say(
                        json,
                        &serde_json::json!({ "event": "handed over" }),
                        "handed over: another process has the listeners; open exchanges are finished here",
                    );
                }),
                None => std::future::pending().await,
            }
        }
    };
    #[cfg(not(unix))]
    let handed_over = std::future::pending::<std::io::Result<()>>();
    tokio::select! {
        () = signals.stop(&handle, &notify) => {}
        () = handle.draining() => {}
        // Without descriptors for it there is no hand-over, and all else goes on.
        Ok(()) = handed_over => {}
    }
    notify.stopping("finishing open exchanges");
    // Who starts children now looks elsewhere.
    drop(published);
    handle.drain();
    tokio::select! {
        () = handle.wait() => {}
        // What is open is broken off. What was decided is written all the same, which takes a few seconds at most; whoever cannot wait for that says so once more.
        () = signals.told_to_stop() => tokio::select! {
            () = handle.shutdown() => {}
            () = signals.told_to_stop() => std::process::exit(0),
        },
    }
    say(cli.json, &serde_json::json!({ "event": "stopped" }), "stopped");
    Ok(())
}

/// What the service manager shows.
fn status(snapshot: &Snapshot) -> String {
    format!("policy generation {}, {} rules, digest {}", snapshot.generation(), snapshot.rule_count(), snapshot.digest())
}

/// What was given up.
#[cfg(target_os = "linux")]
fn announce_sandbox(report: &process::sandbox::Report, cli: &cli::Cli) {
    if !cli.json {
        cli.logging.say(Said::Note, &report.text());
        return;
    }
    let mut line = serde_json::json!({ "event": "sandbox" });
    if let (Some(line), serde_json::Value::Object(report)) = (line.as_object_mut(), report.json()) {
        line.extend(report);
    }
    say(cli.json, &line, "");
}

/// A line for each listener; with the built-in policy, a line that says what it is and how to use it.
fn announce(handle: &Handle, cli: &cli::Cli) {
    let Addresses { http, socks5, admin } = handle.addrs();
    if cli.source.policy.is_none() && !cli.json {
        let also = |name, address: Option<SocketAddr>| address.map(|address| format!(", {name} on {address}")).unwrap_or_default();
        let (socks5, admin) = (also("SOCKS5", socks5), also("admin", admin));
        let note = format!(
            "no --policy: running the built-in default policy, HTTP on {http}{socks5}{admin}; \
             point a client at it with `export HTTP_PROXY=http://{http} HTTPS_PROXY=http://{http}`; \
             the policy's source is examples/default.toml"
        );
        cli.logging.say(Said::Note, &note);
    }
    #[cfg(unix)]
    if let Some(few) = process::descriptors::few() {
        let connections = handle.policy().limits().connections;
        let warning = format!(
            "this process may have {few} descriptors, which lets it serve {connections} connections at once, and others wait: \
             raise the hard limit of open files (`ulimit -Hn`, `LimitNOFILE=`)"
        );
        cli.logging.say(Said::Warning, &warning);
    }
    for (listener, address) in [("http", Some(http)), ("socks5", socks5), ("admin", admin)] {
        let Some(address) = address else { continue };
        let line = serde_json::json!({ "event": "listening", "listener": listener, "address": address.to_string() });
        say(cli.json, &line, &format!("{listener} {address}"));
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
    notify: Arc<Notify>,
}

impl Observer for Announce {
    fn wants_closes(&self) -> bool {
        false
    }

    fn reloaded(&self, outcome: &Reload<'_>) {
        let (line, text) = match outcome {
            Reload::Swapped(snapshot) => {
                self.notify.status(&status(snapshot));
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
                self.notify.status("everything is blocked: the policy file was changed in place");
                let line = serde_json::json!({ "event": "policy", "outcome": "withdrawn", "error": error.to_string() });
                (line, format!("policy: {error}; everything is blocked until a good policy is loaded"))
            }
        };
        say(self.json, &line, &text);
    }

    fn mode_set(&self, snapshot: &Arc<Snapshot>) {
        self.notify.status(&status(snapshot));
        let (mode, generation) = (snapshot.mode().as_str(), snapshot.generation());
        // As the audit log has it.
        let (outcome, why) =
            if snapshot.mode() == snapshot.meta().mode { ("policy", "as the policy says") } else { ("set", "as an operator set it") };
        let line = serde_json::json!({ "event": "mode", "outcome": outcome, "mode": mode, "generation": generation });
        say(self.json, &line, &format!("mode: {mode}, {why}; generation {generation} is in force"));
    }

    fn fault(&self, what: &str) {
        say(self.json, &serde_json::json!({ "event": "fault", "error": what }), &format!("fault: {what}"));
    }

    fn accepting(&self, state: &Accepting<'_>) {
        let (line, text) = match state {
            Accepting::Paused(error) => (
                serde_json::json!({ "event": "accept", "outcome": "paused", "error": error.to_string() }),
                format!("accept: paused, clients wait: {error}; raise the limit of open files, or lower the limit `connections`"),
            ),
            Accepting::Resumed => {
                (serde_json::json!({ "event": "accept", "outcome": "resumed" }), "accept: clients are accepted again".to_owned())
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

    /// Ends with SIGTERM or SIGINT; SIGHUP asks for a reload. Whoever drops this future, which a hand-over does, still has the signals caught.
    async fn stop(&mut self, handle: &Handle, notify: &Notify) {
        let Self { hangup, terminate, interrupt } = self;
        let reloads = async {
            while hangup.recv().await.is_some() {
                notify.reloading();
                // The observer says what came of it; without a policy file, nothing does.
                let _ = handle.reload_file().await;
                handle.reopen_audit();
                notify.ready(&status(&handle.policy()));
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = reloads => {}
        }
    }

    /// Ends with the next SIGTERM or SIGINT.
    async fn told_to_stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn stop(&mut self, _handle: &Handle, _notify: &Notify) {
        self.told_to_stop().await;
    }

    async fn told_to_stop(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
