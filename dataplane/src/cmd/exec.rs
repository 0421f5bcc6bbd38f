//! `netproxy-dp exec`: a command, and a proxy for it that lives as long as it does.
//!
//! The main thread starts the command, passes signals on and waits. The proxy has a thread of its own, which gives up what it does not need before it starts others: landlock, seccomp and
//! capabilities belong to threads, so that the command gives up nothing.

use super::{builder, environment, no, not_bound, running, state_dir};
use crate::cli::Exec;
use crate::{Failure, unusable};
use netproxy::child::{ChildEnv, STATE_DIR, StateDir, dummies};
use netproxy::{Decided, Handle, NetworkProxy, Observer, Outcome};
use policy_format::Decision;
use signals::Signals;
use std::collections::HashMap;
use std::process::{Command, ExitStatus};
use std::time::Duration;

pub(crate) fn run(arguments: &Exec) -> Result<u8, Failure> {
    let parent = environment();
    if arguments.running {
        let (manifest, folder) = running(&arguments.state)?;
        let mut env = manifest.env;
        env.connect = std::env::current_exe().ok();
        let mut variables = parent.clone();
        dummies(&folder).map_err(no)?.apply(&mut variables);
        return instead(command(arguments, &parent, variables, &env)?);
    }
    if arguments.audit.prints() {
        return Err(unusable("standard output is the command's: `exec` has no `--audit-stdout`; `--audit-file` names a file"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
    let entered = runtime.enter();
    // Before there is a command that could end.
    let signals = Signals::new().map_err(unusable)?;
    drop(entered);
    #[cfg(unix)]
    crate::process::descriptors::raise_limit();
    let builder = builder(&arguments.source).free_ports().without_admin().drain(Duration::ZERO).observer(Blocked(arguments.verbose));
    let builder = builder.audit(arguments.audit.overrides(None, false).map_err(unusable)?);
    // Whatever the policy says, now or after it is replaced: what this process prints goes nowhere.
    let output = output::take().map_err(unusable)?;
    let proxy = runtime.block_on(builder.bind()).map_err(not_bound)?;
    if proxy.policy().settings().audit.stdout {
        if output.is_none() {
            return Err(unusable("standard output is the command's: `audit.stdout` of the policy cannot be turned off here"));
        }
        eprintln!("warning: `audit.stdout` of the policy is off here: standard output is the command's");
    }
    let connect = std::env::current_exe().ok();
    // Only what is to be trusted has to be a file.
    let published = match proxy.policy().authority_pem() {
        Some(_) => {
            let folder = state_dir(&arguments.state)
                .ok_or_else(|| unusable(format!("there is no home folder: name the state folder with `--state-dir` or `{STATE_DIR}`")))?;
            let state = StateDir::open(&folder).map_err(unusable)?;
            Some(proxy.publish(&state, connect.clone(), false).map_err(unusable)?)
        }
        None => None,
    };
    for problem in published.iter().flat_map(|published| published.problems()) {
        eprintln!("warning: {problem}");
    }
    let env = published.as_ref().map_or_else(|| ChildEnv { connect, ..proxy.child_env() }, |published| published.env().clone());
    let mut variables = parent.clone();
    let broker = proxy.broker();
    let virtualized = broker.virtualize(&mut variables);
    for (name, outcome) in &virtualized.variables {
        if let Outcome::Withheld(why) | Outcome::Real(why) = outcome {
            let what =
                if matches!(outcome, Outcome::Withheld(_)) { "is kept from the command" } else { "is given to the command as it is" };
            eprintln!("warning: `{name}` {what}: {why}");
        }
    }
    proxy.withhold_secrets(&mut variables);
    let mut command = command(arguments, &parent, variables, &env)?;
    if let Some(output) = output {
        command.stdout(output);
    }
    // What is no text was not looked at.
    for name in broker.variables().iter().filter(|name| !parent.contains_key(*name)) {
        command.env_remove(name);
    }
    // Before there is a command that could look into this process, whose memory and environment have what the command does not get.
    #[cfg(unix)]
    if let Some(missing) = crate::process::memory::protect_memory().missing() {
        eprintln!("warning: {missing}");
    }
    let handle = start(proxy, arguments)?;
    let ended = match command.spawn() {
        Ok(mut child) => runtime.block_on(signals.wait(&mut child)).map_err(unusable),
        Err(error) => Err(not_started(&command, &error)),
    };
    // Its files go before the process does.
    drop(published);
    // The process does not go before what was decided, and how it ended, is written.
    runtime.block_on(handle.shutdown());
    ended.map(exit_code)
}

/// The command, with the variables of the proxy on top of `variables`, which are this process's own where nothing stands for them. Those that are not UTF-8 are inherited as they are.
fn command(
    arguments: &Exec,
    parent: &HashMap<String, String>,
    mut variables: HashMap<String, String>,
    env: &ChildEnv,
) -> Result<Command, Failure> {
    let (program, rest) = arguments.command.split_first().ok_or_else(|| unusable("there is no command"))?;
    env.apply(&mut variables);
    let mut command = Command::new(program);
    command.args(rest);
    for name in parent.keys().filter(|name| !variables.contains_key(*name)) {
        command.env_remove(name);
    }
    command.envs(variables);
    Ok(command)
}

/// As shells say it: 127 where there is no such program, 126 where there is one that cannot be run.
fn not_started(command: &Command, error: &std::io::Error) -> Failure {
    let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    (code, format!("cannot run `{}`: {error}", command.get_program().to_string_lossy()))
}

/// Becomes the command, where a process can.
#[cfg(unix)]
fn instead(mut command: Command) -> Result<u8, Failure> {
    let error = std::os::unix::process::CommandExt::exec(&mut command);
    Err(not_started(&command, &error))
}

#[cfg(not(unix))]
fn instead(mut command: Command) -> Result<u8, Failure> {
    let ended = command.status().map_err(|error| not_started(&command, &error))?;
    Ok(exit_code(ended))
}

/// The command's own, or 128 and the signal that ended it.
fn exit_code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    let by_signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    #[cfg(not(unix))]
    let by_signal = None;
    status.code().or(by_signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Starts the proxy, by a thread that first gives up what its threads are to give up.
fn start(proxy: NetworkProxy, arguments: &Exec) -> Result<Handle, Failure> {
    #[cfg(target_os = "linux")]
    let (sandbox, files, folders) = {
        let named = [proxy.policy().files(), proxy.audit_files()].concat();
        let files: Vec<_> = [&arguments.source.policy, &arguments.source.hosts].into_iter().flatten().chain(&named).cloned().collect();
        (arguments.sandbox, files, proxy.audit_folders())
    };
    #[cfg(not(target_os = "linux"))]
    let _ = arguments;
    let start = move || {
        #[cfg(target_os = "linux")]
        {
            let files: Vec<_> = files.iter().map(std::path::PathBuf::as_path).collect();
            crate::process::sandbox::apply_to_thread(sandbox, &files, &folders).map_err(unusable)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(unusable)?;
        runtime.block_on(proxy.run()).map_err(unusable)
    };
    let thread = std::thread::Builder::new().name("proxy".to_owned()).spawn(start).map_err(unusable)?;
    thread.join().unwrap_or_else(|_| Err(unusable("the proxy's thread has ended")))
}

/// Says what is blocked, if it is to, and what whoever runs the command has to see to.
struct Blocked(bool);

impl Observer for Blocked {
    fn wants_closes(&self) -> bool {
        false
    }

    fn decided(&self, event: &Decided<'_>) {
        let Decision::Deny(denied) = event.decision else { return };
        if self.0 {
            let rule = denied.rule.and_then(|rule| event.snapshot.rule(rule)).map(|rule| format!(", {}", rule.place())).unwrap_or_default();
            let method = event.method.unwrap_or("CONNECT");
            eprintln!("netproxy-dp: blocked {method} {}:{} ({}{rule})", event.host, event.port, denied.reason);
        }
    }

    fn fault(&self, what: &str) {
        eprintln!("netproxy-dp: {what}");
    }
}

#[cfg(unix)]
mod output {
    use std::fs::OpenOptions;
    use std::io;
    use std::os::fd::AsFd;
    use std::process::Stdio;

    /// Standard output for the command, and none for this process any more.
    pub(super) fn take() -> io::Result<Option<Stdio>> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdout(OpenOptions::new().write(true).open("/dev/null")?)?;
        Ok(Some(stdout.into()))
    }
}

#[cfg(not(unix))]
mod output {
    use std::io;
    use std::process::Stdio;

    /// The command inherits it.
    pub(super) fn take() -> io::Result<Option<Stdio>> {
        Ok(None)
    }
}

#[cfg(unix)]
mod signals {
    use rustix::process::{Pid, Signal, getpgrp, kill_process};
    use std::fs::File;
    use std::io;
    use std::process::{Child, ExitStatus};
    use tokio::signal::unix::{SignalKind, signal};
    use tokio::sync::mpsc;

    /// What is passed on to the command. Those that stop and continue it come to its whole group from the terminal.
    const PASSED_ON: [Signal; 6] = [Signal::HUP, Signal::INT, Signal::TERM, Signal::QUIT, Signal::USR1, Signal::USR2];

    /// Signals that are caught from now on.
    pub(super) struct Signals {
        ended: tokio::signal::unix::Signal,
        caught: mpsc::UnboundedReceiver<Signal>,
    }

    impl Signals {
        /// Inside a runtime. A signal that this process was told to ignore (nohup(1)) stays ignored, and the command ignores it too.
        pub(super) fn new() -> io::Result<Self> {
            let (sender, caught) = mpsc::unbounded_channel();
            let ignored = ignored();
            for which in PASSED_ON.into_iter().filter(|which| ignored >> (which.as_raw() - 1) & 1 == 0) {
                let mut stream = signal(SignalKind::from_raw(which.as_raw()))?;
                let sender = sender.clone();
                tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(which).is_ok() {} });
            }
            Ok(Self { ended: signal(SignalKind::child())?, caught })
        }

        /// Passes signals on until the command ends.
        pub(super) async fn wait(mut self, child: &mut Child) -> io::Result<ExitStatus> {
            let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
            loop {
                if let Some(status) = child.try_wait()? {
                    return Ok(status);
                }
                tokio::select! {
                    _ = self.ended.recv() => {}
                    Some(which) = self.caught.recv() => {
                        // What is typed comes to the whole group of the terminal: the command has it already.
                        let typed = matches!(which, Signal::INT | Signal::QUIT) && in_foreground();
                        if let Some(pid) = pid.filter(|_| !typed) {
                            // One that has just ended is not there any more; it is not waited for yet, so that its number is nobody else's.
                            let _ = kill_process(pid, which);
                        }
                    }
                }
            }
        }
    }

    /// Whether the terminal, if there is one, sends what is typed to this process.
    fn in_foreground() -> bool {
        File::open("/dev/tty").ok().and_then(|tty| rustix::termios::tcgetpgrp(&tty).ok()) == Some(getpgrp())
    }

    /// The signals that are ignored, as bits. Only Linux tells without unsafe code.
    fn ignored() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default()
    }
}

#[cfg(not(unix))]
mod signals {
    use std::io;
    use std::process::{Child, ExitStatus};

    /// The console sends what is typed to the command as well.
    pub(super) struct Signals;

    impl Signals {
        pub(super) fn new() -> io::Result<Self> {
            tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
            Ok(Self)
        }

        pub(super) async fn wait(self, child: &mut Child) -> io::Result<ExitStatus> {
            child.wait()
        }
    }
}
