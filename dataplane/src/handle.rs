//! A proxy that serves, and what can be done with it.

use crate::admin::{self, Api, Doors};
use crate::audit::feed::Feed;
use crate::audit::hub::{AuditStats, Running};
use crate::child::{ChildEnv, Published, StateDir, StateError};
use crate::counters::Format;
use crate::error::{LoadError, ModeError};
use crate::listen::Service;
use crate::log;
use crate::policy::Snapshot;
use crate::policy::source::PolicySource;
use crate::proxy::{Addresses, Bound, Facts, NetworkProxy, Watch};
use crate::pulse::{self, Heart, Life, Pulse};
use crate::secret::Broker;
use crate::shutdown::{self, Trigger};
use crate::tunnels::Row as Tunnel;
use crate::worker::{Work, Worker};
use policy_format::Mode;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

/// How far a proxy is. It only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It accepts and serves.
    Serving,
    /// It accepts no more, and finishes what is open.
    Draining,
    /// It breaks off what is open.
    Ending,
}

/// Moves a proxy on to its end.
#[derive(Debug)]
pub(crate) struct Control(watch::Sender<Phase>, AtomicBool);

impl Control {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Phase::Serving), AtomicBool::new(false))
    }

    /// Begins to drain, unless that has begun.
    pub(crate) fn drain(&self) {
        self.advance(|phase| phase.max(Phase::Draining));
    }

    /// The same for somebody who watches how it ends through the admin API, which is there until then.
    pub(crate) fn drain_watched(&self) {
        self.1.store(true, Ordering::SeqCst);
        self.drain();
    }

    /// Whether somebody does.
    fn is_watched(&self) -> bool {
        self.1.load(Ordering::SeqCst)
    }

    /// Breaks off what is open.
    fn end(&self) {
        self.advance(|_| Phase::Ending);
    }

    /// Begins to drain; where that has begun, breaks off what is open.
    fn stop(&self) {
        self.advance(|phase| if phase == Phase::Serving { Phase::Draining } else { Phase::Ending });
    }

    fn advance(&self, to: impl FnOnce(Phase) -> Phase) {
        self.0.send_if_modified(|phase| {
            let before = std::mem::replace(phase, to(*phase));
            before != *phase
        });
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.0.borrow()
    }
}

/// A proxy that serves. **Dropping the handle ends it at once**, and breaks off what is open; the listeners are closed a moment later. [`Self::shutdown`] lets open exchanges finish, and returns when
/// all is over. All methods take `&self`: who shares a handle puts it in an [`Arc`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let handle = netproxy::NetworkProxy::builder().free_ports().bind().await?.run().await?;
/// println!("export HTTPS_PROXY=http://{}", handle.addrs().http);
/// println!("{} rules are in force", handle.policy().rule_count());
/// handle.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping the handle ends the proxy"]
pub struct Handle {
    facts: Arc<Facts>,
    ended: watch::Receiver<()>,
    /// Of all its threads that have something to do for clients and operators.
    pulses: Vec<Pulse>,
}

/// How a proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Whether it accepts clients: until it is shut down.
    pub serving: bool,
    /// Which policy is in force since the start, from 1.
    pub generation: u64,
    /// The name of that policy for machines: 64 hexadecimal digits.
    pub digest: String,
    /// The profile that requests are decided under.
    pub profile: String,
    /// The mode in force.
    pub mode: Mode,
    /// Whether that policy lets anything through: one that switches the network off, or whose file was changed in place, does not.
    pub open: bool,
    /// Why the last reload was refused, if it was.
    pub last_error: Option<String>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("addresses", &self.facts.addresses)
            .field("phase", &self.facts.control.phase())
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.facts.control.end();
    }
}

impl Handle {
    /// Where it listens, ports chosen by the system included.
    #[must_use]
    pub fn addrs(&self) -> Addresses {
        self.facts.addresses
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Snapshot> {
        self.facts.policy.current()
    }

    /// Follows the [generations](Snapshot::generation) of policies: what changes when another one is put in force.
    #[must_use]
    pub fn policy_changes(&self) -> watch::Receiver<u64> {
        self.facts.policy.changes()
    }

    /// Puts a policy in force, unless it is in force already, and gives what is in force then. Requests that follow are decided by it; tunnels that it does not allow are closed. Where
    /// it switches the network off, everything is blocked; listeners stay where they are.
    ///
    /// A file that was named at the start is watched still, and its next change counts; a path that is given here is read once.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let handle = netproxy::NetworkProxy::builder().free_ports().bind().await?.run().await?;
    /// // It is not a compiled policy, and the one in force stays.
    /// let refused = handle.reload(vec![0; 64]).await;
    /// assert!(matches!(refused, Err(netproxy::LoadError::Format { .. })));
    /// assert_eq!(handle.policy().generation(), 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`LoadError`]; the policy in force stays.
    pub async fn reload(&self, policy: impl Into<PolicySource>) -> Result<Arc<Snapshot>, LoadError> {
        self.facts.reloader.reload(policy.into()).await
    }

    /// Looks at the policy file now, without waiting for the next look, and gives the policy that is in force then.
    ///
    /// # Errors
    /// [`LoadError`]; the policy in force stays. [`LoadError::NotWatched`] where there is no file.
    pub async fn reload_file(&self) -> Result<Arc<Snapshot>, LoadError> {
        self.facts.asked.reloaded().await
    }

    /// Sets the mode: limited of this policy and of all that follow, full of this one only, since the next may say `mode = "limited"` for a reason; or, by `None`, lets each have its own
    /// again. Where an administrators' requirement in a policy holds it in limited mode, it refuses `full`. So does a policy of a compiler that did not write requirements down.
    /// What single rules say, such as `"read-only"`, holds in every mode. Gives the [generation](Snapshot::generation) in force then, which is a new one where the mode in force has
    /// changed: tunnels are decided again, and in limited mode every tunnel has to be read.
    ///
    /// # Errors
    /// [`ModeError`]; then nothing has changed.
    pub fn set_mode(&self, mode: Option<Mode>) -> Result<u64, ModeError> {
        self.facts.policy.set_mode(mode)
    }

    /// The mode that was [set](Self::set_mode), if one was.
    #[must_use]
    pub fn mode_override(&self) -> Option<Mode> {
        self.facts.policy.mode_override()
    }

    /// How many tunnels are open, with clients' associations for datagrams.
    #[must_use]
    pub fn tunnel_count(&self) -> usize {
        self.facts.shared.decider.tunnels().count()
    }

    /// At most `limit` of the tunnels that are open, those whose numbers come after `after`, by their numbers. Requests that are no tunnels are not among them; clients' associations
    /// for datagrams are.
    #[must_use]
    pub fn tunnels(&self, after: u64, limit: usize) -> Vec<Tunnel> {
        self.facts.shared.decider.tunnels().list(after, limit)
    }

    /// Closes the tunnel with that number, soon; whether there is one.
    pub fn close_tunnel(&self, id: u64) -> bool {
        self.facts.shared.decider.tunnels().close(id)
    }

    /// How it is.
    #[must_use]
    pub fn health(&self) -> Health {
        let policy = self.policy();
        let meta = policy.meta();
        Health {
            serving: self.facts.control.phase() == Phase::Serving,
            generation: policy.generation(),
            digest: policy.digest().to_string(),
            profile: meta.profile.clone(),
            mode: policy.mode(),
            open: meta.network == policy_format::Network::Proxied,
            last_error: self.facts.policy.last_error(),
        }
    }

    /// What is counted, in the text format of Prometheus, as `GET /metrics` of the admin API has it.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.facts.shared.counters.page(&self.facts.policy, Format::Prometheus)
    }

    /// The last denials, and events as they come: [`Feed::blocked`], [`Feed::subscribe`].
    #[must_use]
    pub fn feed(&self) -> Feed {
        self.facts.hub.feed()
    }

    /// How events are doing: how many wait, were told, and were lost.
    #[must_use]
    pub fn audit_stats(&self) -> AuditStats {
        self.facts.hub.stats()
    }

    /// Opens audit files again: whoever rotates them has moved them.
    pub fn reopen_audit(&self) {
        self.facts.hub.reopen();
    }

    /// What children are told of this proxy, so that they go through it: variables for their environment. Without files to trust: where TLS is opened, [`Self::publish`] writes those.
    /// `connect` of what is returned can be set to the program `netproxy-dp`, for git over ssh.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let handle = netproxy::NetworkProxy::builder().free_ports().bind().await?.run().await?;
    /// let parent = std::env::vars().collect();
    /// let mut command = std::process::Command::new("curl");
    /// command.envs(handle.child_env().variables(&parent));
    /// # assert!(command.get_envs().any(|(name, _)| name == "HTTPS_PROXY"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn child_env(&self) -> ChildEnv {
        self.facts.child_env()
    }

    /// Writes what children need to a state folder, and tells what they are told: [`Published::env`] is [`Self::child_env`] with the files. It holds for as long as what is returned is kept.
    /// Authorities that the environment of [`NetworkProxyBuilder::environment`](crate::NetworkProxyBuilder::environment) names are among those that children trust. `connect`: the program
    /// `netproxy-dp`. `current`: whether `netproxy-dp env` finds this proxy, and what stands for its credentials.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn publish(&self, state: &StateDir, connect: Option<PathBuf>, current: bool) -> Result<Published, StateError> {
        self.facts.publish(state, connect, current)
    }

    /// Who gives clients what stands for their credentials, set up by the policy in force.
    #[must_use]
    pub fn broker(&self) -> Broker {
        self.facts.broker()
    }

    /// Accepts no more, lets open exchanges finish within the [drain time](crate::NetworkProxyBuilder::drain), and returns when everything is over: then the listeners are closed, and no
    /// thread of the proxy is left. A second call, while the first waits, breaks off what is open. Whoever stops waiting does not stop that.
    pub async fn shutdown(&self) {
        self.facts.control.stop();
        self.wait().await;
    }

    /// Begins to shut down, as [`Self::shutdown`] does, and does not wait. Nothing comes of it where that has begun.
    pub fn drain(&self) {
        self.facts.control.drain();
    }

    /// Returns when the proxy accepts no more, whoever told it so.
    pub async fn draining(&self) {
        reached(&mut self.facts.control.0.subscribe(), Phase::Draining).await;
    }

    /// Returns when the proxy has ended: after [`Self::shutdown`], or the admin API's `POST /drain`.
    pub async fn wait(&self) {
        // Nothing is ever sent: the other end is dropped when all is over.
        let _ = self.ended.clone().changed().await;
    }

    /// Returns once each thread of the proxy, those that serve and the one for all else, has answered that it runs: an idle one does at once, a busy one when it has time. It never returns
    /// while one of them hangs, or has ended by itself. Threads that are held up because there is no [room for events](crate::OnFull::Block), as their settings want it, do not hang. Where the
    /// proxy ends, it returns.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let handle = netproxy::NetworkProxy::builder().free_ports().bind().await?.run().await?;
    /// let in_time = tokio::time::timeout(std::time::Duration::from_secs(30), handle.responds()).await;
    /// assert!(in_time.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn responds(&self) {
        let all = async {
            for pulse in &self.pulses {
                pulse.felt().await;
            }
        };
        let held_up = async {
            loop {
                tokio::time::sleep(LOOK).await;
                if self.facts.hub.holds_up() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = all => {}
            () = held_up => {}
        }
    }

    /// Starts the threads.
    pub(crate) fn start(proxy: NetworkProxy) -> io::Result<Self> {
        let NetworkProxy { facts, bound, health, watch, drain, workers: wanted, .. } = proxy;
        let Bound { http, socks5, admin } = bound;
        let (trigger, shutdown) = shutdown::new(facts.policy.bell().clone());
        let connections = facts.policy.current().limits().connections;
        let permits = Arc::new(Semaphore::new(connections));
        let listeners = [(Some(http), Service::Http), (socks5, Service::Socks5)];
        let listeners = listeners.into_iter().filter_map(|(listener, service)| Some((listener?, service))).collect();
        let (accepting, accept_ended) = mpsc::channel(1);
        let work =
            Work { accepting, listeners, shared: Arc::clone(&facts.shared), permits: Arc::clone(&permits), shutdown: shutdown.clone() };
        let audit = facts.hub.start()?;
        // Where no more threads are to be had, fewer serve; one has to be.
        let mut workers = vec![Worker::start(0, &work)?];
        workers.extend((1..wanted).map_while(|number| Worker::start(number, &work).ok()));
        drop(work);
        log::serving(&facts.addresses, workers.len(), &facts.policy.current());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let phases = facts.control.0.subscribe();
        let (life, heart) = pulse::new();
        let pulses = workers.iter().map(Worker::pulse).chain([life.pulse()]).collect();
        let (over, ended) = watch::channel(());
        let keeper = Keeper {
            facts: Arc::clone(&facts),
            api: admin::live::api(&facts, health, workers.len()),
            audit,
            admin,
            watch,
            trigger,
            phases,
            workers,
            accept_ended,
            permits,
            connections,
            drain,
            life,
            heart,
        };
        let keep = move || {
            runtime.block_on(keeper.keep());
            // A policy that is being read is not waited for.
            runtime.shutdown_background();
            drop(over);
        };
        std::thread::Builder::new().name("keeper".to_owned()).spawn(keep)?;
        Ok(Self { facts, ended, pulses })
    }
}

/// Between two looks whether threads are held up.
const LOOK: Duration = Duration::from_millis(100);

/// What goes on beside the workers, on a thread of its own: the admin API, the watch on the policy file, the end.
struct Keeper {
    facts: Arc<Facts>,
    api: Arc<Api>,
    admin: Doors,
    audit: Running,
    watch: Watch,
    trigger: Trigger,
    phases: watch::Receiver<Phase>,
    workers: Vec<Worker>,
    /// Ends when nobody accepts any more.
    accept_ended: mpsc::Receiver<()>,
    permits: Arc<Semaphore>,
    /// How many permits there are.
    connections: usize,
    drain: Duration,
    life: Life,
    heart: Heart,
}

impl Keeper {
    /// Until all is over.
    async fn keep(self) {
        let Self {
            facts,
            api,
            audit,
            admin,
            watch,
            trigger,
            mut phases,
            workers,
            mut accept_ended,
            permits,
            connections,
            drain,
            life,
            mut heart,
        } = self;
        let mut tasks = JoinSet::new();
        let (admin_over, over) = shutdown::new(facts.policy.bell().clone());
        tasks.spawn(api.serve(admin, over));
        let watching = async {
            match watch.file {
                Some((path, stamp)) => facts.reloader.watch(&path, stamp, watch.asked).await,
                None => {
                    // Who waits for a reload is told that none comes.
                    drop(watch.asked);
                    std::future::pending().await
                }
            }
        };
        tokio::select! {
            () = reached(&mut phases, Phase::Draining) => {}
            () = watching => {}
            // For as long as the life is kept.
            () = heart.beat() => {}
        }
        trigger.start();
        let began = Instant::now();
        let finish = async {
            // Who had it drained through the API goes on to see it there; else somebody may follow, who has the same listener.
            if !facts.control.is_watched() {
                admin_over.start();
            }
            // Nothing is ever sent. Who was accepted by then has a permit.
            let _ = accept_ended.recv().await;
            // All permits back is all connections ended.
            let all = u32::try_from(connections).unwrap_or(u32::MAX);
            let _ = tokio::time::timeout(drain, permits.acquire_many(all)).await;
            admin_over.start();
            tasks.join_all().await;
        };
        tokio::select! {
            () = finish => {}
            () = reached(&mut phases, Phase::Ending) => {}
            () = heart.beat() => {}
        }
        // What is waited for from here on has bounds of its own.
        drop((life, heart));
        // A worker that waits for room in the queue of events waits no more.
        facts.hub.release();
        // What is still open ends because the proxy does.
        facts.shared.decider.tunnels().stop();
        Worker::end(workers);
        // What is decided is written, whoever else was faster.
        audit.end(drain.saturating_sub(began.elapsed()), || *phases.borrow() == Phase::Ending);
        log::stopped();
    }
}

/// Ends when the proxy is that far.
async fn reached(phases: &mut watch::Receiver<Phase>, phase: Phase) {
    // Nobody left who could say is the end as well.
    let _ = phases.wait_for(|reached| *reached >= phase).await;
}
