//! What a proxy is made of: collected, checked, and bound to its listeners.

use crate::admin::Doors;
use crate::admin::access::{Access, AdminAccess};
use crate::audit::event::{Answer, Observer, Silent};
use crate::audit::hub::{Hub, Means};
use crate::audit::setup::AuditOverrides;
use crate::audit::sink::Sink;
use crate::blocked::{BlockedRequest, Told};
use crate::child::naming_authorities;
use crate::config::PolicyMap;
use crate::connect::Connector;
use crate::connect::resolve::{PolicyResolver, Resolve};
use crate::connect::upstream::Environment;
use crate::connection::Shared;
use crate::counters::Counters;
use crate::decide::asked::{Asked, PolicyDecider, PolicyRequest, TIMEOUT};
use crate::decide::{self, Decider};
use crate::decider::{AtHome, Home};
use crate::error::{LoadError, StartError};
use crate::handle::Control;
use crate::inside::secrets::Secrets;
use crate::limits::Gate;
use crate::log::Logged;
use crate::parse::forwarding::pseudonym;
use crate::policy::reload::{ReloadRequest, Reloader, Stamp};
use crate::policy::source::PolicySource;
use crate::policy::{PolicyHandle, Verify};
use crate::proxy::{Addresses, Bound, Facts, NetworkProxy, Sockets, Watch};
use crate::secret::Broker;
use crate::tls::roots::{RootsError, Sources, Trust};
use policy_format::{LimitOverride, Meta, Mode, Network};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// How long open exchanges may take to finish, unless it is set.
const DRAIN: Duration = Duration::from_secs(10);

/// Where a listener is.
#[derive(Debug, Default)]
enum Listen {
    /// Where the policy says.
    #[default]
    Policy,
    /// Where the embedding program says.
    At(SocketAddr),
    /// It is open already.
    Open(TcpListener),
}

impl Listen {
    /// What is open already and may be the admin API's: it is if it is where that is wanted, by the policy or else by the program. Anywhere else it may be the port that SOCKS5 had, which
    /// others than operators reach.
    fn or_open(self, open: TcpListener, of_policy: SocketAddr) -> Result<Self, StartError> {
        let address = match self {
            Self::Policy => of_policy,
            Self::At(address) => address,
            Self::Open(_) => return Ok(self),
        };
        match open.local_addr() {
            Ok(found) if found == address => Ok(Self::Open(open)),
            found => {
                let found = found.map_or_else(|error| error.to_string(), |found| found.to_string());
                Err(StartError::Second { found, admin: address })
            }
        }
    }
}

/// Collects what a proxy needs; made by [`NetworkProxy::builder`]. What is not set is as [`NetworkProxy`] describes it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use netproxy::NetworkProxy;
/// use std::time::Duration;
///
/// let proxy = NetworkProxy::builder()
///     .http_addr("127.0.0.1:0".parse()?)
///     .socks_listener(std::net::TcpListener::bind("127.0.0.1:0")?)
///     .without_admin()
///     .limits(["connections=100".parse()?])
///     .drain(Duration::from_secs(1))
///     .bind()
///     .await?;
/// assert_ne!(proxy.addrs().http.port(), 0);
/// assert_eq!(proxy.addrs().admin, None);
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing listens until `bind`"]
pub struct NetworkProxyBuilder {
    source: PolicySource,
    profile: Option<String>,
    map: PolicyMap,
    verify: Verify,
    mode: Option<Mode>,
    http: Listen,
    socks5: Listen,
    admin: Option<Listen>,
    access: AdminAccess,
    /// For SOCKS5 or, where the policy has it off, for the admin API.
    second: Option<TcpListener>,
    inherited: Sockets,
    workers: Option<NonZero<usize>>,
    limits: Vec<LimitOverride>,
    resolver: Option<Arc<dyn Resolve>>,
    hosts: Option<PathBuf>,
    environment: HashMap<String, String>,
    observer: Arc<dyn Observer>,
    audit: AuditOverrides,
    event_sinks: Vec<Box<dyn Sink>>,
    told: Option<Told>,
    decider: Option<Arc<dyn PolicyDecider>>,
    decider_timeout: Duration,
    command: Option<String>,
    exec_policy_hint: Option<String>,
    broker: Option<Broker>,
    drain: Duration,
}

impl std::fmt::Debug for NetworkProxyBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment may have secrets.
        let mut shown = f.debug_struct("NetworkProxyBuilder");
        shown.field("source", &self.source).field("http", &self.http).field("socks5", &self.socks5).field("admin", &self.admin);
        shown.finish_non_exhaustive()
    }
}

impl NetworkProxyBuilder {
    pub(crate) fn new() -> Self {
        Self {
            source: PolicySource::default(),
            profile: None,
            map: PolicyMap::default(),
            verify: Verify::Whole,
            mode: None,
            http: Listen::default(),
            socks5: Listen::default(),
            admin: Some(Listen::default()),
            access: AdminAccess::default(),
            second: None,
            inherited: Sockets::default(),
            workers: None,
            limits: Vec::new(),
            resolver: None,
            hosts: None,
            environment: HashMap::new(),
            observer: Arc::new(Silent),
            audit: AuditOverrides::default(),
            event_sinks: Vec::new(),
            told: None,
            decider: None,
            decider_timeout: TIMEOUT,
            command: None,
            exec_policy_hint: None,
            broker: None,
            drain: DRAIN,
        }
    }

    /// The policy: a [`Policy`](crate::Policy), a [`Blob`](policy_format::Blob) or its bytes, or the path of a file. A file is watched, and put in force again when it changes.
    /// The built-in policy, unless it is set.
    pub fn policy(mut self, policy: impl Into<PolicySource>) -> Self {
        self.source = policy.into();
        self
    }

    /// The profile that requests are decided under, instead of the policy's first, now and after each reload: a policy without it is never put in force. A
    /// [`Policy`](crate::Policy) has chosen its own.
    pub fn profile(mut self, name: impl Into<String>) -> Self {
        self.profile = Some(name.into());
        self
    }

    /// The mode that is set from the start, as by [`Handle::set_mode`](crate::Handle::set_mode): for whoever takes over from a proxy that had one. Where the policy does not let it be,
    /// the policy's own holds; where there is nothing to open TLS with, what limited mode has to read is refused.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// How a policy file is held in memory.
    pub fn policy_map(mut self, map: PolicyMap) -> Self {
        self.map = map;
        self
    }

    /// Whether a policy file of more than a MiB may be in force before each of its rules was looked at, which takes a tenth of a second for a million of them. Its digest and everything else are
    /// verified before. A rule that is wrong, which takes a compiler that is, shows while the policy serves: then it is withdrawn, and everything is blocked until another one is
    /// [loaded](crate::Handle::reload). Unless this is set, [`Self::bind`] looks at all of them. What is loaded later is verified whole before it is in force.
    pub fn rules_later(mut self, later: bool) -> Self {
        self.verify = if later { Verify::RulesLater } else { Verify::Whole };
        self
    }

    /// Where the HTTP proxy listens, instead of where the policy says. Port 0 takes a free one. Other than loopback addresses need the policy's word.
    pub fn http_addr(mut self, address: SocketAddr) -> Self {
        self.http = Listen::At(address);
        self
    }

    /// Where the SOCKS5 proxy listens, as [`Self::http_addr`]. Where the policy has SOCKS5 off, it stays off.
    pub fn socks_addr(mut self, address: SocketAddr) -> Self {
        self.socks5 = Listen::At(address);
        self
    }

    /// Where the admin API listens, as [`Self::http_addr`].
    pub fn admin_addr(mut self, address: SocketAddr) -> Self {
        self.admin = Some(Listen::At(address));
        self
    }

    /// Every listener on a free port of 127.0.0.1, whatever the policy says: [`NetworkProxy::addrs`] tells which.
    pub fn free_ports(self) -> Self {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        self.http_addr(free).socks_addr(free).admin_addr(free)
    }

    /// A listener for the HTTP proxy that is open already. It is used as it is, whatever address the policy says; that it may be reached from other machines needs the policy's
    /// word all the same.
    pub fn http_listener(mut self, listener: TcpListener) -> Self {
        self.http = Listen::Open(listener);
        self
    }

    /// A listener for the SOCKS5 proxy that is open already, as [`Self::http_listener`]. Where the policy has SOCKS5 off, it is closed.
    pub fn socks_listener(mut self, listener: TcpListener) -> Self {
        self.socks5 = Listen::Open(listener);
        self
    }

    /// A listener that is open already, as [`Self::http_listener`], for the SOCKS5 proxy, in the place of any other listener that was asked for, or, where the policy has SOCKS5 off, for the
    /// admin API, whose address it has to have then: what comes second where listeners come without names.
    pub fn second_listener(mut self, listener: TcpListener) -> Self {
        self.second = Some(listener);
        self
    }

    /// A listener for the admin API that is open already, as [`Self::http_listener`].
    pub fn admin_listener(mut self, listener: TcpListener) -> Self {
        self.admin = Some(Listen::Open(listener));
        self
    }

    /// Who may use the admin API, and where it is reached beside its listener. Everybody on this machine, and nowhere, unless it is set.
    pub fn admin_access(mut self, access: AdminAccess) -> Self {
        self.access = access;
        self
    }

    /// No admin API: what it tells, [`Handle`](crate::Handle) tells as well.
    pub fn without_admin(mut self) -> Self {
        self.admin = None;
        self
    }

    /// Listening sockets of the process that this one follows. Each is used where its address is the one that is asked for, port 0 asking for any, and closed where it is not.
    pub fn inherit(mut self, sockets: Sockets) -> Self {
        self.inherited = sockets;
        self
    }

    /// Threads that serve connections; as many as the system can run at once, unless it is set.
    pub fn workers(mut self, workers: NonZero<usize>) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Limits over those of the policy, now and after each reload: `NAME=VALUE`, parsed. Connections are limited by how many descriptors the process may have, too.
    pub fn limits(mut self, limits: impl IntoIterator<Item = LimitOverride>) -> Self {
        self.limits = limits.into_iter().collect();
        self
    }

    /// Who looks names up, instead of the policy's name servers and the system's.
    pub fn resolver(mut self, resolver: impl Resolve) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// A hosts(5) file whose names come before the system's.
    pub fn hosts(mut self, path: impl AsRef<Path>) -> Self {
        self.hosts = Some(path.as_ref().to_owned());
        self
    }

    /// Environment variables: those that have secrets which hooks name; `CODEX_CA_CERTIFICATE` and `SSL_CERT_FILE`, which say whom to trust of origins and name servers; and those
    /// of which `HTTP_PROXY`, `HTTPS_PROXY`, `WS_PROXY`, `WSS_PROXY`, `ALL_PROXY` and `NO_PROXY` name proxies to go through, where the policy allows it and names
    /// none itself. None unless they are given: a library does not look at the environment by itself.
    pub fn environment(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment = variables.into_iter().collect();
        self
    }

    /// Who gives clients what stands for their credentials, where the policy has a broker; one with the credentials of the [environment](Self::environment), unless it is given. It is
    /// set up by the policy, and again by each one that follows.
    pub fn broker(mut self, broker: Broker) -> Self {
        self.broker = Some(broker);
        self
    }

    /// Who hears of everything in place, on the request's own thread, before the client does: see [`Observer`]. What may take longer, or has to be awaited, belongs elsewhere:
    /// [`Self::blocked_request_observer`], [`Self::event_sink`].
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observer = Arc::new(observer);
        self
    }

    /// What is written down of decisions, and where, over what the policy says of it. Files are opened by [`Self::bind`].
    pub fn audit(mut self, overrides: AuditOverrides) -> Self {
        self.audit = overrides;
        self
    }

    /// Somebody who gets every event, in batches, on a thread that requests do not wait for, behind a bounded queue: see [`Sink`]. May be called more than once.
    ///
    /// ```
    /// use netproxy::{Event, EventSink, NetworkProxy};
    ///
    /// struct Lines(Vec<String>);
    ///
    /// impl EventSink for Lines {
    ///     fn name(&self) -> &'static str {
    ///         "lines"
    ///     }
    ///
    ///     fn write(&mut self, events: &[Event]) -> std::io::Result<()> {
    ///         self.0.extend(events.iter().map(Event::json));
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let builder = NetworkProxy::builder().event_sink(Lines(Vec::new()));
    /// ```
    pub fn event_sink(mut self, sink: impl Sink + 'static) -> Self {
        self.event_sinks.push(Box::new(sink));
        self
    }

    /// Who is told of each request that was refused, off its path: one after the other, on the runtime in which the proxy [runs](NetworkProxy::run). Of those that come while a
    /// thousand wait, it is told [how many](BlockedRequest::missed) there were.
    ///
    /// ```
    /// use netproxy::NetworkProxy;
    ///
    /// let builder = NetworkProxy::builder().blocked_request_observer(|blocked| async move {
    ///     println!("{} was blocked: {}", blocked.host, blocked.reason);
    /// });
    /// ```
    pub fn blocked_request_observer<F, D>(mut self, observer: F) -> Self
    where
        F: Fn(BlockedRequest) -> D + Send + Sync + 'static,
        D: Future<Output = ()> + Send + 'static,
    {
        self.told = Some(Arc::new(move |blocked| Box::pin(observer(blocked))));
        self
    }

    /// Who is asked about requests that no rule allows, and about nothing else: not about what a rule denies, nor about addresses that are not public, metadata services, unix sockets, or
    /// a policy that is switched off. What it allows goes on, this once, as if a rule had allowed the host: its addresses are decided on as ever, and limited mode holds. A tunnel that it
    /// lets on stays open under a new policy, as long as that does not deny it or its addresses.
    ///
    /// It runs on the runtime in which the proxy [runs](NetworkProxy::run). Silence for longer than [`Self::decider_timeout`] denies (`decider_timeout`), and so does a panic
    /// (`decider_failed`). Where the client goes away, the future is dropped.
    ///
    /// ```
    /// use netproxy::{Answer, NetworkProxy};
    ///
    /// let builder = NetworkProxy::builder().policy_decider(|request| async move {
    ///     match request.host.as_str() {
    ///         "docs.example.com" if request.port == 443 => Answer::Allow,
    ///         _ => Answer::Ask("not_approved_yet".to_owned()),
    ///     }
    /// });
    /// ```
    pub fn policy_decider<F, D>(mut self, decider: F) -> Self
    where
        F: Fn(PolicyRequest) -> D + Send + Sync + 'static,
        D: Future<Output = Answer> + Send + 'static,
    {
        self.decider = Some(Arc::new(decider));
        self
    }

    /// How long a [decider](Self::policy_decider) may take for an answer, and its client waits; 30 seconds, unless it is set.
    pub fn decider_timeout(mut self, timeout: Duration) -> Self {
        self.decider_timeout = timeout;
        self
    }

    /// The command that the proxy runs for: told to the [decider](Self::policy_decider).
    pub fn command(mut self, command: impl Into<String>) -> Self {
        self.command = Some(command.into());
        self
    }

    /// What the program's own rules for commands say of it: told to the [decider](Self::policy_decider).
    pub fn exec_policy_hint(mut self, hint: impl Into<String>) -> Self {
        self.exec_policy_hint = Some(hint.into());
        self
    }

    /// How long open exchanges may take to finish once the proxy is shut down. Ten seconds unless it is set.
    pub fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Loads the policy and opens the listeners. When it returns, clients can connect; they are served once the proxy [runs](NetworkProxy::run). Starts no threads that stay, so that a
    /// process can give up privileges before it runs.
    ///
    /// # Errors
    /// [`StartError`]; then nothing listens.
    pub async fn bind(self) -> Result<NetworkProxy, StartError> {
        let runtime = tokio::runtime::Handle::try_current()?;
        let environment = Environment::read(self.environment.clone())?;
        let (map, profile, verify) = (self.map, self.profile, self.verify);
        // The stamp is taken before the file is read, so that no change between the two is missed.
        let file = self.source.file().map(|path| (path.to_owned(), Stamp::of(path)));
        let name = self.source.name();
        let origin = self.source.origin();
        let (source, wanted) = (self.source, profile.clone());
        let loaded = runtime.spawn_blocking(move || source.load(map, wanted.as_deref(), verify)).await;
        let policy = loaded.unwrap_or_else(|panic| Err(LoadError::Read { path: name, error: std::io::Error::other(panic) }))?;
        let meta = policy.meta().clone();
        if meta.network != Network::Proxied {
            return Err(StartError::Off(meta.network));
        }
        let Sockets {
            http,
            socks5,
            admin,
            #[cfg(unix)]
            admin_socket,
        } = self.inherited;
        let (socks5_listen, admin_listen) = match (self.second, meta.listeners.socks) {
            (None, _) => (self.socks5, self.admin),
            (Some(second), Some(_)) => (Listen::Open(second), self.admin),
            (Some(second), None) => (self.socks5, self.admin.map(|listen| listen.or_open(second, meta.listeners.admin)).transpose()?),
        };
        let http = Wanted::new("http", "--http-listen", self.http, meta.listeners.http, http)?;
        let socks5 = match meta.listeners.socks {
            Some(address) => Some(Wanted::new("socks5", "--socks-listen", socks5_listen, address, socks5)?),
            None => None,
        };
        let admin = match admin_listen {
            Some(listen) => Some(Wanted::new("admin", "--admin-listen", listen, meta.listeners.admin, admin)?),
            None => None,
        };
        check_loopback([Some(&http), socks5.as_ref()], admin.as_ref(), &meta, &self.access)?;
        let access = Access::new(self.access)?;
        let (http, http_address) = http.bind().await?;
        let (socks5, socks5_address) = Wanted::bind_if(socks5).await?;
        let (admin, admin_address) = Wanted::bind_if(admin).await?;
        #[cfg(unix)]
        let admin_socket = match &access.settings().socket {
            Some(path) => Some(
                crate::admin::socket::Socket::bind(path, access.settings().socket_user, admin_socket)
                    .map_err(|error| StartError::AdminSocket { path: path.clone(), error })?,
            ),
            None => None,
        };
        let addresses = Addresses { http: http_address, socks5: socks5_address, admin: admin_address };

        let counters = Counters::new();
        let hub = Hub::new(Logged::new(self.observer, &counters));
        counters.follow(&hub);
        let observer: Arc<dyn Observer> = Arc::clone(&hub) as Arc<dyn Observer>;
        let home = Home::default();
        let asked = self.decider.map(|decider| Asked {
            timeout: self.decider_timeout,
            command: self.command,
            exec_policy_hint: self.exec_policy_hint,
            ..Asked::new(Arc::new(AtHome { decider, home: Arc::clone(&home) }))
        });
        let workers = self.workers.map_or_else(cores, NonZero::get);
        let policy = PolicyHandle::asking(policy, self.limits, workers, Arc::clone(&observer), asked.is_some(), self.mode);
        let sources = Sources::read(self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let trust = Arc::new(Trust::new(sources.clone(), Arc::clone(policy.own_authorities())));
        let resolver: Arc<dyn Resolve> = match (self.resolver, self.hosts) {
            (Some(resolver), _) => resolver,
            (None, None) => Arc::new(PolicyResolver::new(policy.clone(), Arc::clone(&trust))),
            (None, Some(path)) => {
                let resolver = PolicyResolver::new(policy.clone(), Arc::clone(&trust)).with_hosts(&path);
                Arc::new(resolver.map_err(|what| StartError::Hosts { path, what })?)
            }
        };
        let own = decide::own::Own::new(addresses.all().collect());
        #[cfg(unix)]
        let own = own.with_socket(access.settings().socket.as_deref());
        let open_listeners = addresses.proxies().filter(|address| !address.ip().is_loopback()).collect();
        let means = Means { overrides: self.audit, sources };
        hub.open(&policy.current().settings().audit, means, self.event_sinks).map_err(StartError::Audit)?;
        let authorities = naming_authorities(&self.environment);
        let shared = Shared {
            decider: Arc::new(Decider::new(
                policy.clone(),
                Arc::clone(&observer),
                Arc::clone(&counters),
                own,
                environment,
                Secrets::new(self.environment, self.broker, Arc::clone(&observer)),
                asked,
            )),
            connector: Connector::new(resolver, trust),
            gate: Gate::new(Arc::clone(&counters), Arc::clone(&observer)),
            counters,
            pseudonym: pseudonym(),
        };
        // Afterwards, files may be out of reach, and a later policy may open TLS.
        let trust = shared.connector.trust();
        trust.read().await;
        if policy.current().can_intercept() {
            match trust.roots().await {
                // Each request is told.
                Ok(_) | Err(RootsError::NoSystem) => {}
                Err(error) => return Err(StartError::Roots(error)),
            }
        }
        let open_admin = addresses.admin.filter(|address| !address.ip().is_loopback());
        let reloader =
            Arc::new(Reloader { map, profile, handle: policy.clone(), observer, open_listeners, open_admin, order: Mutex::default() });
        // One waiting request is as good as many.
        let (sender, asked) = mpsc::channel(1);
        Ok(NetworkProxy {
            facts: Arc::new(Facts {
                addresses,
                authorities,
                shared: Arc::new(shared),
                policy,
                reloader,
                hub,
                asked: ReloadRequest(sender),
                control: Control::new(),
                access,
                origin,
                policy_file: file.as_ref().map(|(path, _)| path.clone()),
            }),
            bound: Bound {
                http,
                socks5,
                admin: Doors {
                    listener: admin,
                    #[cfg(unix)]
                    socket: admin_socket,
                },
            },
            home,
            told: self.told,
            health: serde_json::Map::new(),
            watch: Watch { file, asked },
            drain: self.drain,
            workers,
        })
    }
}

/// As many threads as may run at once.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// A listener that is wanted.
struct Wanted {
    listener: &'static str,
    flag: &'static str,
    at: SocketAddr,
    /// One that is open already, to be used if it is there.
    open: Option<TcpListener>,
}

impl Wanted {
    fn new(
        listener: &'static str,
        flag: &'static str,
        listen: Listen,
        of_policy: SocketAddr,
        inherited: Option<TcpListener>,
    ) -> Result<Self, StartError> {
        let (at, open) = match listen {
            Listen::Policy => (of_policy, inherited),
            Listen::At(address) => (address, inherited),
            Listen::Open(open) => {
                let at = open.local_addr().map_err(|error| StartError::Bind { listener, address: of_policy, flag, error })?;
                (at, Some(open))
            }
        };
        Ok(Self { listener, flag, at, open })
    }

    /// The listener, and the address that it has got: the port may be the system's choice.
    async fn bind(self) -> Result<(TcpListener, SocketAddr), StartError> {
        let Self { listener, flag, at: address, open } = self;
        let failed = |error| StartError::Bind { listener, address, flag, error };
        let asked_for = |at: SocketAddr| at.ip() == address.ip() && (at.port() == address.port() || address.port() == 0);
        if let Some(open) = open
            && let Ok(at) = open.local_addr()
            && asked_for(at)
        {
            open.set_nonblocking(true).map_err(failed)?;
            return Ok((open, at));
        }
        let bound = tokio::net::TcpListener::bind(address).await.and_then(tokio::net::TcpListener::into_std).map_err(failed)?;
        let address = bound.local_addr().map_err(failed)?;
        Ok((bound, address))
    }

    async fn bind_if(wanted: Option<Self>) -> Result<(Option<TcpListener>, Option<SocketAddr>), StartError> {
        match wanted {
            Some(wanted) => wanted.bind().await.map(|(listener, at)| (Some(listener), Some(at))),
            None => Ok((None, None)),
        }
    }
}

/// Other machines may reach the listeners only on the policy's word, and the admin listener only with a token, too.
fn check_loopback(proxies: [Option<&Wanted>; 2], admin: Option<&Wanted>, meta: &Meta, access: &AdminAccess) -> Result<(), StartError> {
    let open = |wanted: &&Wanted| !wanted.at.ip().is_loopback();
    for Wanted { listener, at, .. } in proxies.into_iter().flatten().filter(open) {
        let (listener, address) = (*listener, *at);
        if meta.unix_sockets.any() {
            return Err(StartError::UnixSockets { listener, address });
        }
        if !meta.dangerously_allow_non_loopback_proxy {
            return Err(StartError::NotLoopback { listener, address, key: "dangerously_allow_non_loopback_proxy" });
        }
    }
    match admin.filter(open) {
        Some(admin) if !access.needs_token() => Err(StartError::AdminNotLoopback(admin.at)),
        Some(Wanted { listener, at, .. }) if meta.unix_sockets.any() => Err(StartError::UnixSockets { listener, address: *at }),
        Some(Wanted { listener, at, .. }) if !meta.dangerously_allow_non_loopback_admin => {
            Err(StartError::NotLoopback { listener, address: *at, key: "dangerously_allow_non_loopback_admin" })
        }
        _ => Ok(()),
    }
}
