//! The library in this process.

use crate::client::Metrics;
use crate::compile;
use crate::tls::MOVERS;
use netproxy::{
    Closed, Decided, Dropped, Ending, Handle, LimitOverride, LimitReached, Lookup, NetworkProxy, NetworkProxyBuilder, Observer, Resolve,
    Snapshot, Verdict,
};
use policy_format::{Decision, Protocol};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::runtime::{Builder, Runtime};

/// A running proxy; ends when it is dropped.
pub struct Proxy {
    handle: Handle,
    decisions: Decisions,
}

/// A decision as it was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub id: u64,
    pub generation: u64,
    pub protocol: Protocol,
    pub host: String,
    pub port: u16,
    pub method: Option<String>,
    /// `allow`, or the reason of the denial.
    pub verdict: String,
    /// The place of the rule that decided.
    pub rule: Option<String>,
    /// Who decided.
    pub source: &'static str,
    /// `allow`, `deny` or `ask`.
    pub decision: &'static str,
}

/// An end as it was observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub id: u64,
    pub generation: u64,
    pub protocol: Protocol,
    pub host: String,
    pub port: u16,
    pub up: u64,
    pub down: u64,
    pub ending: Ending,
}

/// Keeps what it hears.
#[derive(Clone, Default)]
pub struct Decisions(
    Arc<Mutex<Vec<Seen>>>,
    Arc<Mutex<Vec<Limited>>>,
    Arc<Mutex<Vec<Dropped>>>,
    Arc<Mutex<Vec<Ended>>>,
    Arc<Mutex<Vec<Seen>>>,
);

/// A decision, in words of one's own.
fn seen(event: &Decided<'_>) -> Seen {
    let rule = match event.decision {
        Decision::Allow(allowed) => Some(allowed.rule),
        Decision::Deny(denied) => denied.rule,
    };
    let allowed = event.verdict() == Verdict::Allow;
    Seen {
        id: event.id,
        generation: event.snapshot.generation(),
        protocol: event.protocol,
        host: event.host.to_string(),
        port: event.port,
        method: event.method.map(str::to_owned),
        verdict: if allowed { "allow".to_owned() } else { event.reason().to_owned() },
        rule: rule.and_then(|id| event.snapshot.rule(id)).map(|rule| rule.place()),
        source: event.source(),
        decision: event.verdict().as_str(),
    }
}

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
        self.0.lock().unwrap().push(seen(event));
    }

    fn revoked(&self, event: &Decided<'_>) {
        self.4.lock().unwrap().push(seen(event));
    }

    fn closed(&self, event: &Closed<'_>) {
        let &Closed { id, generation, protocol, host, port, up, down, ending, .. } = event;
        self.3.lock().unwrap().push(Ended { id, generation, protocol, host: host.to_string(), port, up, down, ending });
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
        Self::run(NetworkProxy::builder().policy(compile(toml)).resolver(names.clone()), limits)
    }

    /// The same with one worker: workers share no connections to origins.
    #[must_use]
    pub fn with_one_worker(toml: &str, names: &Names, limits: &[&str]) -> Self {
        Self::run_on(NonZero::new(1), NetworkProxy::builder().policy(compile(toml)).resolver(names.clone()), limits)
    }

    /// The same with another resolver.
    #[must_use]
    pub fn with_resolver(toml: &str, resolver: impl Resolve, limits: &[&str]) -> Self {
        Self::run(NetworkProxy::builder().policy(compile(toml)).resolver(resolver), limits)
    }

    /// The same with environment variables.
    #[must_use]
    pub fn with_environment(toml: &str, names: &Names, variables: &[(&str, &str)]) -> Self {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self::run(NetworkProxy::builder().policy(compile(toml)).resolver(names.clone()).environment(variables), &[])
    }

    /// The same, and names are looked up as the policy says.
    #[must_use]
    pub fn with_names_of_policy(toml: &str, variables: &[(&str, &str)]) -> Self {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self::run(NetworkProxy::builder().policy(compile(toml)).environment(variables), &[])
    }

    /// A proxy with a policy file.
    #[must_use]
    pub fn file(path: &Path, names: &Names) -> Self {
        Self::run(NetworkProxy::builder().policy(path).resolver(names.clone()), &[])
    }

    /// The same with whatever else is said of it. What it asks is asked in a runtime that lasts.
    #[must_use]
    pub fn with(toml: &str, names: &Names, more: impl FnOnce(NetworkProxyBuilder) -> NetworkProxyBuilder) -> Self {
        let builder = more(NetworkProxy::builder().policy(compile(toml)).resolver(names.clone()));
        let decisions = Decisions::default();
        let builder = builder.free_ports().observer(decisions.clone());
        let handle = MOVERS.block_on(async { builder.bind().await.unwrap().run().await.unwrap() });
        Self { handle, decisions }
    }

    fn run(builder: NetworkProxyBuilder, limits: &[&str]) -> Self {
        Self::run_on(None, builder, limits)
    }

    fn run_on(workers: Option<NonZero<usize>>, builder: NetworkProxyBuilder, limits: &[&str]) -> Self {
        let limits = limits.iter().map(|limit| limit.parse::<LimitOverride>().unwrap());
        let decisions = Decisions::default();
        let builder = builder.free_ports().limits(limits).observer(decisions.clone());
        let builder = workers.into_iter().fold(builder, NetworkProxyBuilder::workers);
        let handle = runtime().block_on(async { builder.bind().await.unwrap().run().await.unwrap() });
        Self { handle, decisions }
    }

    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.handle.addrs().http
    }

    #[must_use]
    pub fn socks5(&self) -> SocketAddr {
        self.handle.addrs().socks5.unwrap()
    }

    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.handle.addrs().admin.unwrap()
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Snapshot> {
        self.handle.policy()
    }

    /// What is counted now: samples and their values.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics::read(self.admin())
    }

    /// Puts another policy in force.
    pub fn swap(&self, toml: &str) -> u64 {
        self.reload(compile(toml))
    }

    /// The same with a compiled policy.
    pub fn reload(&self, blob: Vec<u8>) -> u64 {
        runtime().block_on(self.handle.reload(blob)).unwrap().generation()
    }

    #[must_use]
    pub fn decisions(&self) -> Vec<Seen> {
        self.decisions.0.lock().unwrap().clone()
    }

    /// What was allowed and is not any more, in order.
    #[must_use]
    pub fn revoked(&self) -> Vec<Seen> {
        self.decisions.4.lock().unwrap().clone()
    }

    /// What has ended, in order.
    #[must_use]
    pub fn ended(&self) -> Vec<Ended> {
        self.decisions.3.lock().unwrap().clone()
    }

    /// Waits until so much has ended, and says how.
    #[must_use]
    pub fn ends(&self, count: usize) -> Vec<Ended> {
        crate::wait_until("it has ended", || self.ended().len() >= count);
        let ended = self.ended();
        assert_eq!(ended.len(), count, "{ended:?}");
        ended
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
    pub fn ask_to_stop(&self) {
        self.handle.drain();
    }

    /// Waits until it has stopped.
    pub fn join(&self) {
        runtime().block_on(self.handle.wait());
    }
}

/// What the calls of a proxy need while they last.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}
