//! netproxy: enforces a policy blob for HTTP, CONNECT and SOCKS5 clients.
//!
//! The door for programs that embed the proxy: a [`Builder`] takes a policy and a [`Config`], [`Builder::bind`] opens the listeners, and [`Server::run`] serves until it
//! is told to stop.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let server = netproxy::Builder::built_in().bind().await?;
//! println!("HTTP proxy on {}", server.listeners().http);
//! server.run(async { tokio::signal::ctrl_c().await.unwrap_or(()) }).await?;
//! # Ok(())
//! # }
//! ```

mod admin;
mod association;
mod audit;
pub mod child;
mod config;
mod connect;
mod connection;
mod counters;
mod decide;
mod error;
mod inside;
mod limits;
mod listen;
pub mod parse;
mod patience;
mod policy;
mod relay;
mod reply;
mod secret;
mod shutdown;
mod signal;
mod stream;
pub mod tls;
mod worker;

pub use audit::event::{Accepting, Decided, Dropped, LimitReached, Observer, Reload};
pub use config::{Config, PolicyMap};
pub use connect::resolve::{Lookup, NameServers, Resolve, SystemResolver};
pub use error::{EnvironmentError, LoadError, PolicyError, ShareError, StartError};
pub use policy::{Policy, PolicyHandle, Snapshot};
pub use policy_format::{
    BrokerFallback, Credential, CredentialAuth, Forwarded, Limit, LimitError, LimitOverride, Limits, NameServer, UrlPrefix,
};
pub use secret::{Broker, BrokerSetup, Brokering, Child, CredentialError, Dummies, DummiesError, Outcome, Virtualized};
pub use tls::files::CertificateFileError;
pub use tls::roots::RootsError;

use audit::event::Silent;
use child::{ChildEnv, Published, StateDir, StateError};
use connect::resolve::PolicyResolver;
use connect::upstream::Environment;
use connection::Shared;
use inside::secrets::Secrets;
use listen::Service;
use policy::reload::{Reloader, Stamp, load};
use policy_format::Network;
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tls::roots::{Sources, Trust};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use worker::{Work, Worker};

/// Where the policy comes from.
enum PolicySource {
    BuiltIn,
    Given(Box<Policy>),
    File(PathBuf),
}

/// Collects what a server needs.
pub struct Builder {
    source: PolicySource,
    profile: Option<String>,
    config: Config,
    resolver: Option<Arc<dyn Resolve>>,
    hosts: Option<PathBuf>,
    environment: Vec<(String, String)>,
    observer: Arc<dyn Observer>,
    broker: Option<Broker>,
    drain: Duration,
    sockets: Sockets,
}

/// Where a server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listeners {
    /// HTTP proxy.
    pub http: SocketAddr,
    /// SOCKS5 proxy, unless the policy has it off.
    pub socks5: Option<SocketAddr>,
    /// Admin API.
    pub admin: SocketAddr,
}

/// Listening sockets that somebody else opened: a service manager, or the process that this one follows. Nothing is lost in their queues when one process ends and the
/// next goes on.
#[derive(Debug, Default)]
pub struct Sockets {
    /// HTTP proxy.
    pub http: Option<std::net::TcpListener>,
    /// SOCKS5 proxy.
    pub socks5: Option<std::net::TcpListener>,
    /// Admin API.
    pub admin: Option<std::net::TcpListener>,
}

/// A bound server that does not serve yet; clients wait in the listeners' queues.
pub struct Server {
    addresses: Listeners,
    // Of no runtime yet: between binding and running, a process gives up its privileges, and that has to be before it has threads.
    http: std::net::TcpListener,
    socks5: Option<std::net::TcpListener>,
    admin: std::net::TcpListener,
    health: serde_json::Map<String, serde_json::Value>,
    /// Variables that name authorities.
    authorities: HashMap<String, String>,
    shared: Arc<Shared>,
    policy: PolicyHandle,
    watch: Option<(Reloader, Option<Stamp>)>,
    asked: (ReloadRequest, mpsc::Receiver<Asked>),
    drain: Duration,
    workers: usize,
}

/// Asks a running server to look at its policy file now.
#[derive(Debug, Clone)]
pub struct ReloadRequest(mpsc::Sender<Asked>);

/// A request to reload, and who is told when it was done by dropping this.
type Asked = Option<tokio::sync::oneshot::Sender<()>>;

impl ReloadRequest {
    /// Asks. A request that is waiting already is enough.
    pub fn reload(&self) {
        let _ = self.0.try_send(None);
    }

    /// Asks, and waits until the file was looked at, whatever came of it. Without a policy file, that is at once.
    pub async fn reloaded(&self) {
        let (sender, done) = tokio::sync::oneshot::channel();
        if self.0.send(Some(sender)).await.is_ok() {
            // It is dropped, never used.
            let _ = done.await;
        }
    }
}

impl Builder {
    fn new(source: PolicySource) -> Self {
        Self {
            source,
            profile: None,
            config: Config::default(),
            resolver: None,
            hosts: None,
            environment: Vec::new(),
            observer: Arc::new(Silent),
            broker: None,
            drain: Duration::from_secs(10),
            sockets: Sockets::default(),
        }
    }

    /// The built-in policy.
    #[must_use]
    pub fn built_in() -> Self {
        Self::new(PolicySource::BuiltIn)
    }

    /// A policy from memory; replaced by [`PolicyHandle::swap`].
    #[must_use]
    pub fn policy(policy: Policy) -> Self {
        Self::new(PolicySource::Given(Box::new(policy)))
    }

    /// A policy file; watched, and swapped when it changes.
    #[must_use]
    pub fn file(path: impl AsRef<Path>) -> Self {
        Self::new(PolicySource::File(path.as_ref().to_owned()))
    }

    /// The profile of a policy file, or of the built-in policy, that requests are decided under, instead of its first; a file without it is never put in force.
    /// A [`Policy`] from memory has chosen its own.
    #[must_use]
    pub fn profile(mut self, name: impl Into<String>) -> Self {
        self.profile = Some(name.into());
        self
    }

    /// Addresses and limits.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// A resolver instead of the system's.
    #[must_use]
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// A hosts(5) file whose names come before the system's.
    #[must_use]
    pub fn hosts(mut self, path: impl AsRef<Path>) -> Self {
        self.hosts = Some(path.as_ref().to_owned());
        self
    }

    /// Environment variables: those that have secrets which hooks name; `CODEX_CA_CERTIFICATE` and `SSL_CERT_FILE`, which say whom to trust of origins; and those
    /// of which `HTTP_PROXY`, `HTTPS_PROXY`, `WS_PROXY`, `WSS_PROXY`, `ALL_PROXY` and `NO_PROXY` name proxies to go through, where the policy allows it and names
    /// none itself. None unless they are given: a library does not look at the environment by itself.
    #[must_use]
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment = variables.into_iter().collect();
        self
    }

    /// Who gives clients what stands for their credentials, where the policy has a broker; one with the credentials of the [environment](Self::environment), unless it is given. It is
    /// set up by the policy, and again by each one that follows.
    #[must_use]
    pub fn broker(mut self, broker: Broker) -> Self {
        self.broker = Some(broker);
        self
    }

    /// Who hears of decisions and reloads.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Arc::new(observer);
        self
    }

    /// How long open exchanges may take to finish once the server is told to stop. Ten seconds unless it is set.
    #[must_use]
    pub fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Listening sockets that are open already. Each is used where its address is the one that is asked for, port 0 asking for any, and closed where it is not.
    #[must_use]
    pub fn sockets(mut self, sockets: Sockets) -> Self {
        self.sockets = sockets;
        self
    }

    /// Loads the policy and opens the listeners. When it returns, clients can connect.
    ///
    /// # Errors
    /// [`StartError`]; then nothing listens.
    pub async fn bind(self) -> Result<Server, StartError> {
        let variables: HashMap<String, String> = self.environment.into_iter().collect();
        let environment = Environment::read(variables.clone())?;
        let authorities = child::naming_authorities(&variables);
        // The stamp is taken before the file is read, so that no change between the two is missed.
        let (map, profile) = (self.config.policy_map, self.profile);
        let (policy, file) = match self.source {
            PolicySource::BuiltIn => {
                let built_in = Policy::built_in_profile(profile.as_deref());
                (built_in.map_err(|error| LoadError::Format { path: PathBuf::from("(built in)"), error })?, None)
            }
            PolicySource::Given(policy) => (*policy, None),
            PolicySource::File(path) => {
                let stamp = Stamp::of(&path);
                (load(&path, map, profile.as_deref())?, Some((path, stamp)))
            }
        };
        let meta = policy.meta().clone();
        if meta.network != Network::Proxied {
            return Err(StartError::Off(meta.network));
        }
        let wanted = Listeners {
            http: self.config.http_listen.unwrap_or(meta.listeners.http),
            socks5: meta.listeners.socks.map(|policys| self.config.socks_listen.unwrap_or(policys)),
            admin: self.config.admin_listen.unwrap_or(meta.listeners.admin),
        };
        check_loopback(&wanted, &meta)?;
        let (http, http_address) = bind("http", "--http-listen", wanted.http, self.sockets.http).await?;
        let (socks5, socks5_address) = match wanted.socks5 {
            Some(address) => bind("socks5", "--socks-listen", address, self.sockets.socks5)
                .await
                .map(|(listener, bound)| (Some(listener), Some(bound)))?,
            None => (None, None),
        };
        let (admin, admin_address) = bind("admin", "--admin-listen", wanted.admin, self.sockets.admin).await?;
        let addresses = Listeners { http: http_address, socks5: socks5_address, admin: admin_address };

        let policy = PolicyHandle::new(policy, self.config.limits, Arc::clone(&self.observer));
        let resolver: Arc<dyn Resolve> = match (self.resolver, self.hosts) {
            (Some(resolver), _) => resolver,
            (None, None) => Arc::new(PolicyResolver::new(policy.clone())),
            (None, Some(path)) => {
                let resolver = PolicyResolver::new(policy.clone()).with_hosts(&path);
                Arc::new(resolver.map_err(|what| StartError::Hosts { path, what })?)
            }
        };
        let own = decide::own::Own::new([Some(addresses.http), addresses.socks5, Some(addresses.admin)].into_iter().flatten().collect());
        let open_listeners =
            [Some(addresses.http), addresses.socks5].into_iter().flatten().filter(|address| !address.ip().is_loopback()).collect();
        let counters = counters::Counters::new();
        let sources = Sources::read(variables.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let trust = Trust::new(sources, Arc::clone(policy.own_authorities()));
        let shared = Shared {
            decider: Arc::new(decide::Decider::new(
                policy.clone(),
                Arc::clone(&self.observer),
                Arc::clone(&counters),
                own,
                environment,
                Secrets::new(variables.clone(), self.broker, Arc::clone(&self.observer)),
            )),
            connector: connect::Connector::new(resolver, trust),
            gate: limits::Gate::new(Arc::clone(&counters), Arc::clone(&self.observer)),
            counters,
            pseudonym: parse::forwarding::pseudonym(),
        };
        // Afterwards, files may be out of reach, and a later policy may open TLS.
        match shared.connector.trust().roots().await {
            Err(error) if shared.decider.policy().current().can_intercept() && !matches!(error, RootsError::NoSystem) => {
                return Err(StartError::Roots(error));
            }
            // Each request is told.
            Ok(_) | Err(_) => {}
        }
        let watch = file
            .map(|(path, stamp)| (Reloader { path, map, profile, handle: policy.clone(), observer: self.observer, open_listeners }, stamp));
        // One waiting request is as good as many.
        let (sender, receiver) = mpsc::channel(1);
        Ok(Server {
            addresses,
            http,
            socks5,
            admin,
            health: serde_json::Map::new(),
            authorities,
            shared: Arc::new(shared),
            policy,
            watch,
            asked: (ReloadRequest(sender), receiver),
            drain: self.drain,
            workers: self.config.workers.map_or_else(cores, NonZero::get),
        })
    }
}

/// As many threads as may run at once.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Where clients on this machine reach a listener: one on all addresses is on loopback too.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn check_loopback(wanted: &Listeners, meta: &policy_format::Meta) -> Result<(), StartError> {
    for (listener, address) in [("http", Some(wanted.http)), ("socks5", wanted.socks5)] {
        let Some(address) = address.filter(|address| !address.ip().is_loopback()) else { continue };
        if meta.unix_sockets.any() {
            return Err(StartError::UnixSockets { listener, address });
        }
        if !meta.dangerously_allow_non_loopback_proxy {
            return Err(StartError::NotLoopback { listener, address, key: "dangerously_allow_non_loopback_proxy" });
        }
    }
    if !wanted.admin.ip().is_loopback() {
        return Err(StartError::AdminNotLoopback(wanted.admin));
    }
    Ok(())
}

/// A listener, and the address that it has got: the port may be the system's choice. One that is open already is used if it is at the address.
async fn bind(
    listener: &'static str,
    flag: &'static str,
    address: SocketAddr,
    open: Option<std::net::TcpListener>,
) -> Result<(std::net::TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Bind { listener, address, flag, error };
    let asked_for = |at: SocketAddr| at.ip() == address.ip() && (at.port() == address.port() || address.port() == 0);
    if let Some(open) = open
        && let Ok(at) = open.local_addr()
        && asked_for(at)
    {
        open.set_nonblocking(true).map_err(failed)?;
        return Ok((open, at));
    }
    let bound = TcpListener::bind(address).await.and_then(TcpListener::into_std).map_err(failed)?;
    let address = bound.local_addr().map_err(failed)?;
    Ok((bound, address))
}

impl Server {
    /// Where it listens, ports chosen by the system included.
    #[must_use]
    pub fn listeners(&self) -> Listeners {
        self.addresses
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> PolicyHandle {
        self.policy.clone()
    }

    /// What children are told of this proxy, without files to trust: [`Self::publish`] writes those. `connect` is the program `netproxy-dp`, for `GIT_SSH_COMMAND`.
    #[must_use]
    pub fn child_env(&self, connect: Option<PathBuf>) -> ChildEnv {
        let Listeners { http, socks5, .. } = self.addresses;
        let allow_local_binding = self.policy.current().meta().allow_local_binding;
        ChildEnv { http: reachable(http), socks5: socks5.map(reachable), allow_local_binding, files: None, connect }
    }

    /// Writes what children need to a state folder, and tells what they are told. It holds for as long as what is returned is kept. Authorities that the environment of
    /// [`Builder::environment`] names are among those that children trust. `current`: whether `netproxy-dp env` finds this proxy, and what stands for its credentials.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn publish(&self, state: &StateDir, connect: Option<PathBuf>, current: bool) -> Result<Published, StateError> {
        let dummies = if current { self.broker().dummies() } else { Dummies::default() };
        state.publish_with(dummies, self.child_env(connect), self.policy.current().authority_pem(), &self.authorities, current)
    }

    /// Files that the policy names, and that are read again later: secrets of hooks, the authority, certificates that origins are shown.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.policy.current().files()
    }

    /// Takes out of an environment the secrets that hooks put into requests, and copies of those that are long enough to be no accident. What stands for a credential stays.
    pub fn withhold_secrets(&self, environment: &mut HashMap<String, String>) {
        self.shared.decider.secrets().withhold(&self.policy.current(), environment);
    }

    /// Who gives clients what stands for their credentials, set up by the policy in force.
    #[must_use]
    pub fn broker(&self) -> Broker {
        let secrets = self.shared.decider.secrets();
        secrets.follow(&self.policy.current());
        secrets.broker().clone()
    }

    /// The listening sockets once more, to hand them to a process that follows this one.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn sockets(&self) -> std::io::Result<Sockets> {
        Ok(Sockets {
            http: Some(self.http.try_clone()?),
            socks5: self.socks5.as_ref().map(std::net::TcpListener::try_clone).transpose()?,
            admin: Some(self.admin.try_clone()?),
        })
    }

    /// Says something about the process in `GET /health`, under `name`.
    pub fn set_health(&mut self, name: &str, value: serde_json::Value) {
        self.health.insert(name.to_owned(), value);
    }

    /// Asks for reloads once the server runs. Without a policy file, nothing comes of it.
    #[must_use]
    pub fn reload_request(&self) -> ReloadRequest {
        self.asked.0.clone()
    }

    /// Serves until `stop` ends; then accepts no more, lets open exchanges finish within the drain time, and returns. Dropping the future stops accepting at once.
    ///
    /// # Errors
    /// There are no descriptors left, or no threads.
    pub async fn run(self, stop: impl Future<Output = ()>) -> std::io::Result<()> {
        let admin = TcpListener::from_std(self.admin)?;
        let (trigger, shutdown) = shutdown::new(self.policy.bell().clone());
        let connections = self.policy.current().limits().connections;
        let permits = Arc::new(Semaphore::new(connections));
        let listeners = [(Some(self.http), Service::Http), (self.socks5, Service::Socks5)];
        let listeners = listeners.into_iter().filter_map(|(listener, service)| Some((listener?, service))).collect();
        let counters = Arc::clone(&self.shared.counters);
        let (accepting, mut accept_ended) = mpsc::channel(1);
        let work = Work { accepting, listeners, shared: self.shared, permits: Arc::clone(&permits), shutdown: shutdown.clone() };
        // Where no more threads are to be had, fewer serve; one has to be.
        let mut workers = vec![Worker::start(0, &work)?];
        workers.extend((1..self.workers).map_while(|number| Worker::start(number, &work).ok()));
        drop(work);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(admin::serve(admin, self.policy, counters, self.health, shutdown));
        let watching = async {
            match self.watch {
                Some((reloader, stamp)) => reloader.watch(stamp, self.asked.1).await,
                None => {
                    // Who waits for a reload is told that none comes.
                    drop(self.asked);
                    std::future::pending().await
                }
            }
        };
        tokio::select! {
            () = stop => {}
            () = watching => {}
        }
        trigger.start();
        tasks.join_all().await;
        // Nothing is ever sent: it ends when nobody accepts any more. Who was accepted by then has a permit.
        let _ = accept_ended.recv().await;
        // All permits back is all connections ended.
        let all = u32::try_from(connections).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(self.drain, permits.acquire_many(all)).await;
        Worker::end(workers);
        Ok(())
    }
}
