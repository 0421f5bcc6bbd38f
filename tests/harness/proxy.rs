//! The library in this process.

use crate::client::Metrics;
use crate::compile;
use netproxy::{
    Builder, Config, Decided, Dropped, LimitOverride, LimitReached, Listeners, Lookup, Observer, Policy, PolicyHandle, Resolve,
};
use policy_format::Decision;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

/// A running proxy; stops when it is dropped.
pub struct Proxy {
    listeners: Listeners,
    policy: PolicyHandle,
    decisions: Decisions,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A decision as it was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub generation: u64,
    pub host: String,
    pub port: u16,
    pub method: Option<String>,
    /// `allow`, or the reason of the denial.
    pub verdict: String,
    /// The place of the rule that decided.
    pub rule: Option<String>,
}

/// Keeps what it hears.
#[derive(Clone, Default)]
pub struct Decisions(Arc<Mutex<Vec<Seen>>>, Arc<Mutex<Vec<Limited>>>, Arc<Mutex<Vec<Dropped>>>);

/// A limit that was reached, as it was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    pub limit: &'static str,
    pub client: Option<SocketAddr>,
    /// Host and port.
    pub target: Option<String>,
}

impl Observer for Decisions {
    fn limited(&self, event: &LimitReached<'_>) {
        let target = event.host.zip(event.port).map(|(host, port)| format!("{host}:{port}"));
        self.1.lock().unwrap().push(Limited { limit: event.limit.name, client: event.client, target });
    }

    fn dropped(&self, _client: SocketAddr, why: Dropped) {
        self.2.lock().unwrap().push(why);
    }

    fn decided(&self, event: &Decided<'_>) {
        let (verdict, rule) = match event.decision {
            Decision::Allow(allowed) => ("allow".to_owned(), Some(allowed.rule)),
            Decision::Deny(denied) => (denied.reason.to_string(), denied.rule),
        };
        self.0.lock().unwrap().push(Seen {
            generation: event.snapshot.generation(),
            host: event.host.to_string(),
            port: event.port,
            method: event.method.map(str::to_owned),
            verdict,
            rule: rule.and_then(|id| event.snapshot.rule(id)).map(|rule| rule.place()),
        });
    }
}

/// A resolver that knows what it is told, and keeps what it is asked.
#[derive(Clone, Default)]
pub struct Names {
    known: HashMap<String, Vec<IpAddr>>,
    slow: Vec<String>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Names {
    #[must_use]
    pub fn new(known: &[(&str, &[&str])]) -> Self {
        let known = known.iter().map(|(name, ips)| ((*name).to_owned(), ips.iter().map(|ip| ip.parse().unwrap()).collect())).collect();
        Self { known, ..Self::default() }
    }

    /// The same, and a name whose lookup never ends.
    #[must_use]
    pub fn with_slow(mut self, name: &str) -> Self {
        self.slow.push(name.to_owned());
        self
    }

    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Resolve for Names {
    fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        self.asked.lock().unwrap().push(name.to_owned());
        if self.slow.iter().any(|slow| slow == name) {
            return Box::pin(std::future::pending());
        }
        let found = self.known.get(name).cloned().ok_or_else(|| io::Error::other("no such name"));
        Box::pin(async move { found })
    }
}

impl Proxy {
    /// A proxy with a policy from TOML, and names that resolve as said.
    #[must_use]
    pub fn start(toml: &str, names: &Names) -> Self {
        Self::with_limits(toml, names, &[])
    }

    /// The same with other limits, each as `NAME=VALUE`.
    #[must_use]
    pub fn with_limits(toml: &str, names: &Names, limits: &[&str]) -> Self {
        let policy = Policy::from_bytes(compile(toml)).unwrap();
        Self::run(Builder::policy(policy).resolver(names.clone()), limits)
    }

    /// The same with one worker: workers share no connections to origins.
    #[must_use]
    pub fn with_one_worker(toml: &str, names: &Names, limits: &[&str]) -> Self {
        let policy = Policy::from_bytes(compile(toml)).unwrap();
        Self::run_on(NonZero::new(1), Builder::policy(policy).resolver(names.clone()), limits)
    }

    /// The same with another resolver.
    #[must_use]
    pub fn with_resolver(toml: &str, resolver: impl Resolve, limits: &[&str]) -> Self {
        let policy = Policy::from_bytes(compile(toml)).unwrap();
        Self::run(Builder::policy(policy).resolver(resolver), limits)
    }

    /// The same with environment variables.
    #[must_use]
    pub fn with_environment(toml: &str, names: &Names, variables: &[(&str, &str)]) -> Self {
        let policy = Policy::from_bytes(compile(toml)).unwrap();
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self::run(Builder::policy(policy).resolver(names.clone()).environment(variables), &[])
    }

    /// A proxy with a policy file.
    #[must_use]
    pub fn file(path: &Path, names: &Names) -> Self {
        Self::run(Builder::file(path).resolver(names.clone()), &[])
    }

    fn run(builder: Builder, limits: &[&str]) -> Self {
        Self::run_on(None, builder, limits)
    }

    fn run_on(workers: Option<NonZero<usize>>, builder: Builder, limits: &[&str]) -> Self {
        let limits = limits.iter().map(|limit| limit.parse::<LimitOverride>().unwrap()).collect();
        let free = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let config = Config { http_listen: free, socks_listen: free, admin_listen: free, limits, workers, ..Config::default() };
        let decisions = Decisions::default();
        let builder = builder.config(config).observer(decisions.clone());
        let (stop, stopped) = oneshot::channel();
        let (ready, bound) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let server = builder.bind().await.unwrap();
                ready.send((server.listeners(), server.policy())).unwrap();
                server.run(async { drop(stopped.await) }).await.unwrap();
            });
            runtime.shutdown_background();
        });
        let (listeners, policy) = bound.recv().expect("the proxy did not start");
        Self { listeners, policy, decisions, stop: Some(stop), thread: Some(thread) }
    }

    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.listeners.http
    }

    #[must_use]
    pub fn socks5(&self) -> SocketAddr {
        self.listeners.socks5.unwrap()
    }

    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.listeners.admin
    }

    #[must_use]
    pub fn policy(&self) -> &PolicyHandle {
        &self.policy
    }

    /// What is counted now: samples and their values.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics::read(self.admin())
    }

    /// Puts another policy in force.
    pub fn swap(&self, toml: &str) -> u64 {
        self.policy.swap(Policy::from_bytes(compile(toml)).unwrap())
    }

    #[must_use]
    pub fn decisions(&self) -> Vec<Seen> {
        self.decisions.0.lock().unwrap().clone()
    }

    /// The limits that were reached, in order.
    #[must_use]
    pub fn limited(&self) -> Vec<Limited> {
        self.decisions.1.lock().unwrap().clone()
    }

    /// The datagrams that went no further, in order.
    #[must_use]
    pub fn dropped(&self) -> Vec<Dropped> {
        self.decisions.2.lock().unwrap().clone()
    }

    /// Waits until that many datagrams were dropped, and says why the last was.
    #[must_use]
    pub fn drops(&self, count: usize) -> Dropped {
        crate::wait_until("datagrams were dropped", || self.dropped().len() >= count);
        let dropped = self.dropped();
        assert_eq!(dropped.len(), count, "{dropped:?}");
        *dropped.last().unwrap()
    }

    /// Asks it to stop, without waiting.
    pub fn ask_to_stop(&mut self) {
        self.stop.take();
    }

    /// Waits until it has stopped.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.take();
        // Not joined: a test that failed does not wait for a drain.
    }
}
