//! netproxy: enforces a policy blob for HTTP, CONNECT and SOCKS5 clients.
//!
//! The door for programs that embed the proxy: a [`Builder`] takes a policy and a [`Config`], [`Builder::bind`] opens the listeners, and [`Server::run`] serves until it
//! is told to stop.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let server = netproxy::Builder::built_in().bind().await?;
//! println!("HTTP proxy on {}", server.listeners().http);
//! server.run(async { tokio::signal::ctrl_c().await.unwrap_or(()) }).await;
//! # Ok(())
//! # }
//! ```

mod admin;
mod association;
mod audit;
mod config;
mod connect;
mod connection;
mod decide;
mod error;
mod listen;
pub mod parse;
mod policy;
mod relay;
mod reply;
mod shutdown;
mod stream;

pub use audit::event::{Decided, Dropped, Observer, Reload};
pub use config::{Config, PolicyMap};
pub use connect::resolve::{Lookup, Resolve, SystemResolver};
pub use error::{LoadError, PolicyError, ShareError, StartError};
pub use policy::{Policy, PolicyHandle, Snapshot};
pub use policy_format::{Limit, LimitError, LimitOverride, Limits};

use audit::event::Silent;
use connection::Shared;
use listen::Service;
use policy::reload::{Reloader, Stamp, load};
use policy_format::Network;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

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
    observer: Arc<dyn Observer>,
    drain: Duration,
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

/// A bound server that does not serve yet; clients wait in the listeners' queues.
pub struct Server {
    addresses: Listeners,
    http: TcpListener,
    socks5: Option<TcpListener>,
    admin: TcpListener,
    shared: Arc<Shared>,
    policy: PolicyHandle,
    watch: Option<(Reloader, Option<Stamp>)>,
    asked: (ReloadRequest, mpsc::Receiver<()>),
    drain: Duration,
}

/// Asks a running server to look at its policy file now.
#[derive(Debug, Clone)]
pub struct ReloadRequest(mpsc::Sender<()>);

impl ReloadRequest {
    /// Asks. A request that is waiting already is enough.
    pub fn reload(&self) {
        let _ = self.0.try_send(());
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
            observer: Arc::new(Silent),
            drain: Duration::from_secs(10),
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

    /// Loads the policy and opens the listeners. When it returns, clients can connect.
    ///
    /// # Errors
    /// [`StartError`]; then nothing listens.
    pub async fn bind(self) -> Result<Server, StartError> {
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
        let (http, http_address) = bind("http", "--http-listen", wanted.http).await?;
        let (socks5, socks5_address) = match wanted.socks5 {
            Some(address) => bind("socks5", "--socks-listen", address).await.map(|(listener, bound)| (Some(listener), Some(bound)))?,
            None => (None, None),
        };
        let (admin, admin_address) = bind("admin", "--admin-listen", wanted.admin).await?;
        let addresses = Listeners { http: http_address, socks5: socks5_address, admin: admin_address };

        let policy = PolicyHandle::new(policy, self.config.limits);
        let limits = Arc::clone(policy.current().limits());
        let resolver = match (self.resolver, self.hosts) {
            (Some(resolver), _) => resolver,
            (None, None) => Arc::new(SystemResolver::new(limits.lookups)),
            (None, Some(path)) => {
                let resolver = SystemResolver::new(limits.lookups).with_hosts(&path);
                Arc::new(resolver.map_err(|what| StartError::Hosts { path, what })?)
            }
        };
        let own = [Some(addresses.http), addresses.socks5, Some(addresses.admin)].into_iter().flatten().collect();
        let open_listeners =
            [Some(addresses.http), addresses.socks5].into_iter().flatten().filter(|address| !address.ip().is_loopback()).collect();
        let shared = Shared {
            decider: decide::Decider::new(policy.clone(), Arc::clone(&self.observer), own),
            connector: connect::Connector::new(resolver),
        };
        let watch = file
            .map(|(path, stamp)| (Reloader { path, map, profile, handle: policy.clone(), observer: self.observer, open_listeners }, stamp));
        // One waiting request is as good as many.
        let (sender, receiver) = mpsc::channel(1);
        Ok(Server {
            addresses,
            http,
            socks5,
            admin,
            shared: Arc::new(shared),
            policy,
            watch,
            asked: (ReloadRequest(sender), receiver),
            drain: self.drain,
        })
    }
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

/// A listener, and the address that it has got: the port may be the system's choice.
async fn bind(listener: &'static str, flag: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Bind { listener, address, flag, error };
    let bound = TcpListener::bind(address).await.map_err(failed)?;
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

    /// Asks for reloads once the server runs. Without a policy file, nothing comes of it.
    #[must_use]
    pub fn reload_request(&self) -> ReloadRequest {
        self.asked.0.clone()
    }

    /// Serves until `stop` ends; then accepts no more, lets open exchanges finish within the drain time, and returns. Dropping the future stops accepting at once.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let (trigger, shutdown) = shutdown::new();
        let connections = self.policy.current().limits().connections;
        let permits = Arc::new(Semaphore::new(connections));
        let mut tasks = tokio::task::JoinSet::new();
        let services = [(Some(self.http), Service::Http), (self.socks5, Service::Socks5)];
        for (listener, service) in services {
            if let Some(listener) = listener {
                tasks.spawn(listen::accept(listener, service, Arc::clone(&self.shared), Arc::clone(&permits), shutdown.clone()));
            }
        }
        tasks.spawn(admin::serve(self.admin, self.policy, shutdown));
        let watching = async {
            match self.watch {
                Some((reloader, stamp)) => reloader.watch(stamp, self.asked.1).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop => {}
            () = watching => {}
        }
        trigger.start();
        tasks.join_all().await;
        // All permits back is all connections ended.
        let all = u32::try_from(connections).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(self.drain, permits.acquire_many(all)).await;
    }
}
