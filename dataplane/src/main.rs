//! `netproxy-dp`: arguments to `Config` to run; signals, exit codes. 0: stopped as asked; 1: the policy is off; 2: bad usage or input.

#![expect(clippy::print_stderr, reason = "the binary says where it listens, and why it does not")]

mod cli;
mod cmd;
mod process;

use clap::Parser;
use netproxy::child::{Published, STATE_DIR, StateDir, StateError};
use netproxy::{Accepting, Builder, Config, Listeners, Observer, Reload, ReloadRequest, Server, Snapshot, Sockets, StartError};
use process::notify::Notify;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

fn main() -> ExitCode {
    let cli::Arguments { command, run: cli } = cli::Arguments::parse();
    if let Some(command) = command {
        return cmd::run(command);
    }
    match start(&cli) {
        Ok(started) => serve(started, &cli),
        Err((code, error)) => {
            eprintln!("error: {error}");
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
    server: Server,
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
    let (handed_down, taken): (Option<Sockets>, Option<(Sockets, ())>) = (None, None);
    let mut config = config(cli);
    let (sockets, taken) = match (handed_down, taken) {
        (Some(sockets), _) => {
            at_handed_down(&mut config, &sockets)?;
            (sockets, None)
        }
        (None, Some((sockets, taken))) => (sockets, Some(taken)),
        (None, None) => (Sockets::default(), None),
    };
    let builder = builder(cli, &notify).config(config).sockets(sockets);
    #[cfg_attr(not(target_os = "linux"), expect(unused_mut, reason = "there is nothing to say of the process"))]
    let mut server =
        runtime.block_on(builder.bind()).map_err(|error| (if matches!(error, StartError::Off(_)) { 1 } else { 2 }, error.to_string()))?;
    #[cfg(target_os = "linux")]
    let owner = user.as_ref().map(process::privileges::Account::ids);
    #[cfg(not(target_os = "linux"))]
    let owner = None;
    #[cfg(unix)]
    let offer = match &cli.hand_over {
        Some(path) => Some(process::handover::offer(path, taken, server.sockets().map_err(unusable)?, owner).map_err(unusable)?),
        None => None,
    };
    #[cfg(not(unix))]
    let (_, _): (_, Option<()>) = (taken, owner);
    // Its threads, if it has any, end here.
    drop(runtime);
    let published = publish(&server, cli).map_err(unusable)?;
    #[cfg(target_os = "linux")]
    let sandbox = {
        let named = server.files();
        let files: Vec<_> =
            [&cli.source.policy, &cli.source.hosts].into_iter().flatten().chain(&named).map(std::path::PathBuf::as_path).collect();
        let report = process::sandbox::apply(cli.sandbox, user.as_ref(), &files).map_err(unusable)?;
        for file in files {
            if let Err(error) = std::fs::File::open(file) {
                eprintln!("warning: `{}` cannot be read any more, so that it cannot be read again: {error}", file.display());
            }
        }
        server.set_health("sandbox", report.json());
        report
    };
    // After the change of user, which undoes it.
    #[cfg(unix)]
    {
        let memory = process::memory::protect_memory();
        if !cli.json {
            eprintln!("{}", memory.text());
        }
        server.set_health("memory", memory.json());
    }
    Ok(Started {
        server,
        notify,
        published,
        #[cfg(unix)]
        offer,
        #[cfg(target_os = "linux")]
        sandbox,
    })
}

/// What children need, while files can still be written. Where nobody has named a folder, and nothing has to be trusted, it may be that there is none.
fn publish(server: &Server, cli: &cli::Cli) -> Result<Option<Published>, StateError> {
    let asked = cli.state.state_dir.is_some() || std::env::var_os(STATE_DIR).is_some();
    let Some(folder) = cmd::state_dir(&cli.state) else { return Ok(None) };
    match StateDir::open(&folder).and_then(|state| server.publish(&state, std::env::current_exe().ok(), true)) {
        Ok(published) => {
            for problem in published.problems() {
                eprintln!("warning: {problem}");
            }
            Ok(Some(published))
        }
        Err(error) if asked => Err(error),
        Err(error) => {
            if server.policy().current().authority_pem().is_some() {
                eprintln!("warning: children cannot be told what to trust: {error}");
            }
            Ok(None)
        }
    }
}

fn config(cli: &cli::Cli) -> Config {
    Config {
        http_listen: cli.http_listen,
        socks_listen: cli.socks_listen,
        admin_listen: cli.admin_listen,
        policy_map: cli.source.policy_map.into(),
        workers: cli.workers,
        limits: cli.source.limits.clone(),
    }
}

/// Sockets of a service manager are where it put them, whatever the policy says; a flag that says otherwise is a mistake.
fn at_handed_down(config: &mut Config, sockets: &Sockets) -> Result<(), Failure> {
    for (flag, wanted, socket) in [
        ("--http-listen", &mut config.http_listen, &sockets.http),
        ("--socks-listen", &mut config.socks_listen, &sockets.socks5),
        ("--admin-listen", &mut config.admin_listen, &sockets.admin),
    ] {
        let Some(socket) = socket else { continue };
        let at = socket.local_addr().map_err(unusable)?;
        if let Some(other) = wanted.replace(at).filter(|other| *other != at) {
            return Err(unusable(format!(
                "{flag} {other}: the service manager hands down a socket at {at}; take the flag away, or change the socket"
            )));
        }
    }
    Ok(())
}

fn builder(cli: &cli::Cli, notify: &Arc<Notify>) -> Builder {
    cmd::builder(&cli.source).drain(Duration::from_secs(cli.drain)).observer(Announce { json: cli.json, notify: Arc::clone(notify) })
}

fn serve(started: Started, cli: &cli::Cli) -> ExitCode {
    let ran = tokio::runtime::Builder::new_multi_thread().enable_all().build().and_then(|runtime| {
        let ran = runtime.block_on(run(started, cli));
        // What did not finish within the drain time is not waited for.
        runtime.shutdown_timeout(Duration::from_millis(100));
        ran
    });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            ExitCode::from(2)
        }
    }
}

async fn run(started: Started, cli: &cli::Cli) -> std::io::Result<()> {
    let Started { server, notify, published, .. } = started;
    // Signals are caught before anything is announced, so that whoever reads the announcement can send one.
    let signals = Signals::new()?;
    #[cfg(target_os = "linux")]
    announce_sandbox(&started.sandbox, cli.json);
    announce(&server, cli);
    let policy = server.policy();
    notify.ready(&status(&policy.current()));
    let watchdog = Arc::clone(&notify);
    tokio::spawn(async move { watchdog.watchdog().await });
    let reload = server.reload_request();
    #[cfg(unix)]
    let handed_over = {
        let json = cli.json;
        async move {
            match started.offer {
                Some(offer) => offer.handed_over().await.map(|()| {
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
    server
        .run(async {
            tokio::select! {
                () = signals.stop(reload, &notify, || status(&policy.current())) => {}
                // Without descriptors for it there is no hand-over, and all else goes on.
                Ok(()) = handed_over => {}
            }
            notify.stopping("finishing open exchanges");
            // Who starts children now looks elsewhere.
            drop(published);
        })
        .await
}

/// What the service manager shows.
fn status(snapshot: &Snapshot) -> String {
    format!("policy generation {}, {} rules, digest {}", snapshot.generation(), snapshot.rule_count(), snapshot.digest())
}

/// What was given up.
#[cfg(target_os = "linux")]
fn announce_sandbox(report: &process::sandbox::Report, json: bool) {
    if !json {
        eprintln!("{}", report.text());
        return;
    }
    let mut line = serde_json::json!({ "event": "sandbox" });
    if let (Some(line), serde_json::Value::Object(report)) = (line.as_object_mut(), report.json()) {
        line.extend(report);
    }
    say(json, &line, "");
}

/// A line for each listener; with the built-in policy, a line that says what it is and how to use it.
fn announce(server: &Server, cli: &cli::Cli) {
    let listeners = server.listeners();
    let Listeners { http, socks5, admin } = listeners;
    if cli.source.policy.is_none() && !cli.json {
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

    /// Ends with SIGTERM or SIGINT; SIGHUP asks for a reload. The second signal to stop stops at once; so does the first after a hand-over.
    async fn stop(self, reload: ReloadRequest, notify: &Notify, status: impl Fn() -> String) {
        let Self { mut hangup, mut terminate, mut interrupt } = self;
        // Whoever drops this future, which a hand-over does, still has the signals caught.
        let (first, stopped) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut first = Some(first);
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                // The first is for whoever waits for it.
                if first.take().is_none_or(|first| first.send(()).is_err()) {
                    std::process::exit(0);
                }
            }
        });
        let reloads = async {
            while hangup.recv().await.is_some() {
                notify.reloading();
                reload.reloaded().await;
                notify.ready(&status());
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = stopped => {}
            () = reloads => {}
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

    async fn stop(self, _reload: ReloadRequest, _notify: &Notify, _status: impl Fn() -> String) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
