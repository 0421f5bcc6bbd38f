//! A proxy that has its policy and its listeners, and does not serve yet.

use crate::admin::Doors;
use crate::admin::access::Access;
use crate::admin::model::Origin;
use crate::audit::hub::Hub;
use crate::blocked::{self, Told};
use crate::builder::NetworkProxyBuilder;
use crate::child::{ChildEnv, Published, StateDir, StateError};
use crate::connection::Shared;
use crate::decider::Home;
use crate::error::StartError;
use crate::handle::{Control, Handle};
use crate::policy::reload::{Asked, ReloadRequest, Reloader, Stamp};
use crate::policy::{PolicyHandle, Snapshot};
use crate::secret::{Broker, Dummies};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Where a proxy listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// HTTP proxy.
    pub http: SocketAddr,
    /// SOCKS5 proxy, unless the policy has it off.
    pub socks5: Option<SocketAddr>,
    /// Admin API, unless there is none.
    pub admin: Option<SocketAddr>,
}

impl Addresses {
    /// Those that clients speak to.
    pub(crate) fn proxies(&self) -> impl Iterator<Item = SocketAddr> {
        [Some(self.http), self.socks5].into_iter().flatten()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = SocketAddr> {
        self.proxies().chain(self.admin)
    }
}

/// Listening sockets that somebody else opened: a service manager, or the process that this one follows. Nothing is lost in their queues when one process ends and the
/// next goes on.
#[derive(Debug, Default)]
pub struct Sockets {
    /// HTTP proxy.
    pub http: Option<TcpListener>,
    /// SOCKS5 proxy.
    pub socks5: Option<TcpListener>,
    /// Admin API.
    pub admin: Option<TcpListener>,
    /// Admin API, on a unix socket.
    #[cfg(unix)]
    pub admin_socket: Option<std::os::unix::net::UnixListener>,
}

/// A proxy that is bound and does not serve yet: clients can connect, and wait in the listeners' queues until it [runs](Self::run).
///
/// What the [builder](Self::builder) is not told:
/// - The policy is the built-in one, which allows what builds commonly need. Listeners are where the policy says.
/// - Nothing is taken from the environment of the process, and nothing in it is changed: no variables, signals, limits or standard streams, and no state that two proxies would
///   share. Any number of proxies can run in one process, each with its own policy, counters and threads.
///
/// Connections are served on threads of the proxy's own, and so are the admin API and the watch on the policy file; a busy or blocked runtime of the embedding program does not hold
/// them up. Closures that are asked or told of requests run on the runtime in which [`Self::run`] was called, of either flavor.
pub struct NetworkProxy {
    pub(crate) facts: Arc<Facts>,
    pub(crate) bound: Bound,
    pub(crate) home: Home,
    pub(crate) told: Option<Told>,
    pub(crate) health: serde_json::Map<String, serde_json::Value>,
    pub(crate) watch: Watch,
    pub(crate) drain: Duration,
    pub(crate) workers: usize,
}

/// What is known of a proxy as long as it is there.
pub(crate) struct Facts {
    pub(crate) addresses: Addresses,
    /// Variables that name authorities.
    pub(crate) authorities: HashMap<String, String>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) policy: PolicyHandle,
    pub(crate) reloader: Arc<Reloader>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) asked: ReloadRequest,
    pub(crate) access: Access,
    pub(crate) origin: Origin,
    pub(crate) policy_file: Option<PathBuf>,
    pub(crate) control: Control,
}

/// Listeners of no runtime yet: between binding and running, a process gives up its privileges, and that has to be before it has threads.
pub(crate) struct Bound {
    pub(crate) http: TcpListener,
    pub(crate) socks5: Option<TcpListener>,
    pub(crate) admin: Doors,
}

/// The policy file, if there is one, as it was when it was read, and who asks for it to be read again.
pub(crate) struct Watch {
    pub(crate) file: Option<(PathBuf, Option<Stamp>)>,
    pub(crate) asked: mpsc::Receiver<Asked>,
}

impl std::fmt::Debug for NetworkProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetworkProxy").field("addresses", &self.facts.addresses).finish_non_exhaustive()
    }
}

impl Facts {
    pub(crate) fn child_env(&self) -> ChildEnv {
        let Addresses { http, socks5, .. } = self.addresses;
        let allow_local_binding = self.policy.current().meta().allow_local_binding;
        ChildEnv { http: reachable(http), socks5: socks5.map(reachable), allow_local_binding, files: None, connect: None }
    }

    pub(crate) fn publish(&self, state: &StateDir, connect: Option<PathBuf>, current: bool) -> Result<Published, StateError> {
        let dummies = if current { self.broker().dummies() } else { Dummies::default() };
        let env = ChildEnv { connect, ..self.child_env() };
        let admin = self.addresses.admin.map(reachable);
        state.publish_with(dummies, admin, env, self.policy.current().authority_pem(), &self.authorities, current)
    }

    pub(crate) fn broker(&self) -> Broker {
        let secrets = self.shared.decider.secrets();
        secrets.follow(&self.policy.current());
        secrets.broker().clone()
    }
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

impl NetworkProxy {
    /// Begins one. Nothing is opened or read until [`NetworkProxyBuilder::bind`].
    pub fn builder() -> NetworkProxyBuilder {
        NetworkProxyBuilder::new()
    }

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

    /// What children are told of this proxy: see [`Handle::child_env`].
    #[must_use]
    pub fn child_env(&self) -> ChildEnv {
        self.facts.child_env()
    }

    /// Writes what children need to a state folder: see [`Handle::publish`].
    ///
    /// # Errors
    /// [`StateError`].
    pub fn publish(&self, state: &StateDir, connect: Option<PathBuf>, current: bool) -> Result<Published, StateError> {
        self.facts.publish(state, connect, current)
    }

    /// Files that are read again while it runs, beside those of the [policy](Snapshot::files): tokens of the admin API.
    #[must_use]
    pub fn admin_files(&self) -> Vec<PathBuf> {
        self.facts.access.settings().files()
    }

    /// Takes out of an environment the secrets that hooks put into requests, and copies of those that are long enough to be no accident. What stands for a credential stays.
    pub fn withhold_secrets(&self, environment: &mut HashMap<String, String>) {
        self.facts.shared.decider.secrets().withhold(&self.policy(), environment);
    }

    /// Who gives clients what stands for their credentials, set up by the policy in force.
    #[must_use]
    pub fn broker(&self) -> Broker {
        self.facts.broker()
    }

    /// The listening sockets once more, to hand them to a process that follows this one.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn sockets(&self) -> io::Result<Sockets> {
        let Bound { http, socks5, admin } = &self.bound;
        let again = |socket: &Option<TcpListener>| socket.as_ref().map(TcpListener::try_clone).transpose();
        Ok(Sockets {
            http: Some(http.try_clone()?),
            socks5: again(socks5)?,
            admin: again(&admin.listener)?,
            #[cfg(unix)]
            admin_socket: admin.socket.as_ref().map(crate::admin::socket::Socket::listener).transpose()?,
        })
    }

    /// Folders in which audit files are made, renamed and removed: a process that gives up what it may do to files keeps that.
    #[must_use]
    pub fn audit_folders(&self) -> Vec<PathBuf> {
        self.facts.hub.folders()
    }

    /// Files that audit reads again when they change: headers for a collector.
    #[must_use]
    pub fn audit_files(&self) -> Vec<PathBuf> {
        self.facts.hub.files()
    }

    /// Says something about the process in `GET /health`, under `name`.
    pub fn set_health(&mut self, name: &str, value: serde_json::Value) {
        self.health.insert(name.to_owned(), value);
    }

    /// Serves from now on, until the [`Handle`] says otherwise or is dropped. Threads are started for that, and what they may do is what this thread may.
    ///
    /// # Errors
    /// [`StartError::System`]: there are no descriptors left, or no threads. [`StartError::Runtime`]: there is no tokio runtime.
    pub async fn run(mut self) -> Result<Handle, StartError> {
        let home = tokio::runtime::Handle::try_current()?;
        // It was not: a proxy runs once.
        let _ = self.home.set(home.clone());
        let told = self.told.take();
        let handle = Handle::start(self)?;
        if let Some(told) = told {
            drop(home.spawn(blocked::tell(handle.feed(), told)));
        }
        Ok(handle)
    }
}
