//! The policy in force: a snapshot with its generation, and the handle that gives one out.
//!
//! A request takes a snapshot once and keeps it. A swap is one pointer store: requests after it see the new policy, requests before it finish under
//! the old one, and none waits.

pub(crate) mod mapped;
pub(crate) mod mode;
pub(crate) mod reload;
pub(crate) mod shared;
pub(crate) mod source;

use crate::audit::event::Observer;
use crate::config::within_descriptors;
use crate::connect::upstream::Upstreams;
use crate::error::{ModeError, PolicyError};
use crate::inside::interception::{Authorities, Interception};
use crate::signal::Bell;
use crate::tls::client::{ClientCertificate, ClientCertificates};
use crate::tls::roots::Own;
use arc_swap::{ArcSwap, Guard};
use mapped::PrivateMap;
use memmap2::Mmap;
use mode::Hold;
use policy_format::{Blob, Intercepted, LimitOverride, Limits, MitmMode, Mode, Overrides, ProfileId, Secret, Settings, UnixSockets};
use shared::Mapped;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::watch;

/// Where the bytes of a policy are.
#[derive(Debug)]
enum Memory {
    BuiltIn(&'static [u8]),
    Given(Vec<u8>),
    Private(PrivateMap),
    Shared(Mmap),
}

/// The bytes of a policy. The last who has them may be a request, and giving back a large map takes milliseconds: that is done on a thread that may block.
#[derive(Debug)]
struct Bytes(Memory);

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match &self.0 {
            Memory::BuiltIn(bytes) => bytes,
            Memory::Given(bytes) => bytes,
            Memory::Private(map) => map.as_ref(),
            Memory::Shared(map) => map,
        }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        /// Giving back less takes no longer than handing it over.
        const SMALL: usize = 1 << 20;
        if self.as_ref().len() < SMALL || matches!(self.0, Memory::BuiltIn(_)) {
            return;
        }
        // Outside a runtime, there is no request that waits.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let memory = std::mem::replace(&mut self.0, Memory::BuiltIn(&[]));
            drop(runtime.spawn_blocking(move || drop(memory)));
        }
    }
}

/// How much of a policy is looked at before it is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verify {
    /// All of it.
    Whole,
    /// Its digest, its settings and what rules share, and the rules too where they are few; where they are many, they are looked at [while it is in force](reload::Reloader::watch). For
    /// the first policy of a process, before which nobody is served.
    RulesLater,
}

/// Bytes of a policy from which on its rules are many: to look at a MiB of them, some 50,000, takes 6 ms on one processor.
const LARGE: usize = 1 << 20;

/// A validated policy that is not in force yet.
#[derive(Debug)]
pub struct Policy {
    blob: Blob<Bytes>,
    /// Whether its rules were looked at, and not its digest alone.
    is_checked: bool,
    /// The profile that requests are decided under.
    profile: ProfileId,
    /// The file, where the policy is what is in it rather than what was.
    mapped: Option<Mapped>,
    /// The proxies that connections go through.
    upstreams: Arc<Upstreams>,
    sockets: Arc<Sockets>,
    /// What opening TLS takes, where it is to be opened.
    interception: Option<Arc<Interception>>,
    certificates: Arc<ClientCertificates>,
}

impl Policy {
    /// The built-in policy: deny by default, and what builds commonly need is allowed. Made from `examples/default.toml`.
    ///
    /// # Errors
    /// [`PolicyError`] if this binary is damaged.
    pub fn built_in() -> Result<Self, PolicyError> {
        Self::built_in_profile(None)
    }

    pub(crate) fn built_in_profile(profile: Option<&str>) -> Result<Self, PolicyError> {
        Self::open(Memory::BuiltIn(include_bytes!(concat!(env!("OUT_DIR"), "/default.bin"))), profile, Verify::Whole)
    }

    /// The policy that blocks everything.
    pub(crate) fn blocked() -> Result<Self, PolicyError> {
        Self::open(Memory::BuiltIn(include_bytes!(concat!(env!("OUT_DIR"), "/blocked.bin"))), None, Verify::Whole)
    }

    /// A policy from memory. Requests are decided under its first profile.
    ///
    /// # Errors
    /// [`PolicyError`] if it is not a valid blob, or asks for what cannot be done.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, PolicyError> {
        Self::from_bytes_profile(bytes, None)
    }

    /// A policy from memory. Requests are decided under the profile of that name.
    ///
    /// # Errors
    /// [`PolicyError`] if it is not a valid blob, has no such profile, or the profile asks for what cannot be done.
    pub fn from_bytes_as(bytes: Vec<u8>, profile: &str) -> Result<Self, PolicyError> {
        Self::from_bytes_profile(bytes, Some(profile))
    }

    pub(crate) fn from_bytes_profile(bytes: Vec<u8>, profile: Option<&str>) -> Result<Self, PolicyError> {
        Self::open(Memory::Given(bytes), profile, Verify::Whole)
    }

    pub(crate) fn from_private(map: PrivateMap, profile: Option<&str>, verify: Verify) -> Result<Self, PolicyError> {
        Self::open(Memory::Private(map), profile, verify)
    }

    pub(crate) fn from_shared(map: Mmap, mapped: Option<Mapped>, profile: Option<&str>, verify: Verify) -> Result<Self, PolicyError> {
        Ok(Self { mapped, ..Self::open(Memory::Shared(map), profile, verify)? })
    }

    fn open(memory: Memory, profile: Option<&str>, verify: Verify) -> Result<Self, PolicyError> {
        let blob = Blob::open_sealed(Bytes(memory))?;
        let is_checked = verify == Verify::Whole || blob.as_bytes().len() < LARGE;
        if is_checked { blob.check() } else { blob.check_shared() }?;
        let profile = match profile {
            None => ProfileId::default(),
            Some(name) => blob.profile(name).ok_or_else(|| PolicyError::Profile {
                name: name.to_owned(),
                known: blob.profiles().iter().map(|meta| meta.profile.clone()).collect(),
            })?,
        };
        crate::connect::dns::check(&settings(&blob, profile).resolver).map_err(PolicyError::Resolver)?;
        let upstreams = Upstreams::read(meta(&blob, profile), settings(&blob, profile));
        let upstreams = Arc::new(upstreams.map_err(|(proxy, why)| PolicyError::Upstream { proxy, why })?);
        let sockets = Arc::new(Sockets::pin(&meta(&blob, profile).unix_sockets));
        let interception = Interception::of(&meta(&blob, profile).mitm, &blob.intercepted(profile)).map_err(PolicyError::Authority)?;
        let listed = settings(&blob, profile).client_certificates.iter();
        let listed = listed.map(|listed| (listed.host.as_str(), Path::new(&listed.cert_path), Path::new(&listed.key_path)));
        let certificates = ClientCertificates::load(listed).map_err(|error| PolicyError::ClientCertificate(error.to_string()))?;
        Ok(Self { blob, is_checked, profile, mapped: None, upstreams, sockets, interception, certificates: Arc::new(certificates) })
    }

    /// The file, where it can still change the policy.
    pub(crate) fn mapped(&self) -> Option<&Mapped> {
        self.mapped.as_ref()
    }

    /// The settings of the profile that requests are decided under.
    #[must_use]
    pub fn meta(&self) -> &policy_format::Meta {
        meta(&self.blob, self.profile)
    }

    /// How many rules it has.
    #[must_use]
    pub fn rule_count(&self) -> u32 {
        self.blob.rule_count()
    }

    pub(crate) fn digest(&self) -> policy_format::Digest {
        self.blob.digest()
    }
}

/// The unix sockets that a policy opens, and those that it denies: each path as it is written, and where it led when the policy was loaded. Who puts a link in the place of a
/// socket, or of a folder, later, leads nobody to another socket.
#[derive(Debug)]
struct Sockets {
    allow: Vec<PathBuf>,
    deny: Vec<PathBuf>,
    /// Those that are denied, as they are written: where they lead by now is looked up with each request.
    denied: Arc<[PathBuf]>,
}

impl Sockets {
    fn pin(sockets: &UnixSockets) -> Self {
        let denied = sockets.deny.iter().map(PathBuf::from).collect();
        Self { allow: pinned(&sockets.allow), deny: pinned(&sockets.deny), denied }
    }
}

/// Paths as they are written, and where they lead.
fn pinned(written: &[String]) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in written.iter().map(Path::new) {
        // A socket that is not there yet will be in a folder that is.
        let in_folder = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
        paths.push(path.to_owned());
        paths.extend(path.canonicalize().ok().or_else(in_folder));
    }
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// A policy in force, or that was.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Shared with the same policy in another mode.
    blob: Arc<Blob<Bytes>>,
    is_checked: bool,
    profile: ProfileId,
    mapped: Option<Arc<Mapped>>,
    limits: Arc<Limits>,
    upstreams: Arc<Upstreams>,
    sockets: Arc<Sockets>,
    interception: Option<Arc<Interception>>,
    certificates: Arc<ClientCertificates>,
    /// The mode that whoever runs the proxy has set, in place of the policy's own. `None`: the policy's own holds.
    mode: Option<Mode>,
    generation: u64,
    loaded: SystemTime,
}

impl Snapshot {
    fn new(policy: Policy, overrides: &[LimitOverride], workers: usize, mode: Option<Mode>, generation: u64) -> Self {
        let mut limits = settings(&policy.blob, policy.profile).limits.clone();
        limits.apply(overrides);
        within_descriptors(&mut limits, overrides, workers);
        let Policy { blob, is_checked, profile, mapped, upstreams, sockets, interception, certificates } = policy;
        let (blob, mapped, limits) = (Arc::new(blob), mapped.map(Arc::new), Arc::new(limits));
        Self {
            blob,
            is_checked,
            profile,
            mapped,
            limits,
            upstreams,
            sockets,
            interception,
            certificates,
            mode,
            generation,
            loaded: SystemTime::now(),
        }
    }

    /// The mode in force: the one that whoever runs the proxy has set ([`Handle::set_mode`](crate::Handle::set_mode)), as far as the policy lets that be, or else the policy's own
    /// ([`Meta::mode`](policy_format::Meta::mode)).
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or(self.meta().mode)
    }

    /// What holds it in limited mode, whatever is set.
    pub(crate) fn hold(&self) -> Option<Hold> {
        mode::hold(&self.blob, self.profile)
    }

    /// The file, where it can still change the policy.
    pub(crate) fn mapped(&self) -> Option<&Mapped> {
        self.mapped.as_deref()
    }

    /// Looks at what [`Verify::RulesLater`] left for later, if it did. Reads all of the bytes.
    pub(crate) fn check_rest(&self) -> Result<(), PolicyError> {
        if self.is_checked { Ok(()) } else { Ok(self.blob.check()?) }
    }

    /// Whether the bytes still are the policy that was put in force. Reads all of them.
    pub(crate) fn is_intact(&self) -> bool {
        Blob::open(self.blob.as_bytes()).is_ok_and(|blob| blob.digest() == self.digest())
    }

    /// Which policy this is since the start, from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When it was put in force.
    #[must_use]
    pub fn loaded(&self) -> SystemTime {
        self.loaded
    }

    /// Its name for machines.
    #[must_use]
    pub fn digest(&self) -> policy_format::Digest {
        self.blob.digest()
    }

    /// The profile that requests are decided under. Its number is of this policy: in another one, the profile of that name may have another.
    #[must_use]
    pub fn profile(&self) -> ProfileId {
        self.profile
    }

    /// The settings of that profile.
    #[must_use]
    pub fn meta(&self) -> &policy_format::Meta {
        meta(&self.blob, self.profile)
    }

    /// What that profile says beyond its rules. Limits may have been set from outside: see [`Self::limits`].
    #[must_use]
    pub fn settings(&self) -> &Settings {
        settings(&self.blob, self.profile)
    }

    /// What peers may use up: what that profile says, and over it what was [set from outside](crate::NetworkProxyBuilder::limits).
    #[must_use]
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// What opening TLS takes, where the policy has it opened.
    pub(crate) fn interception(&self) -> Option<&Arc<Interception>> {
        self.interception.as_ref()
    }

    /// The certificate that an origin is shown, where one is listed for it.
    pub(crate) fn certificate(&self, host: &policy_format::Host) -> Option<&Arc<ClientCertificate>> {
        self.certificates.get(host)
    }

    /// Whether TLS can be opened.
    pub(crate) fn can_intercept(&self) -> bool {
        self.interception.is_some()
    }

    /// The certificate of the authority whose leaves clients are shown where TLS is opened, as PEM: what they have to trust. `None` where none is opened.
    #[must_use]
    pub fn authority_pem(&self) -> Option<&str> {
        self.interception.as_deref().map(Interception::pem)
    }

    /// Files that the policy names and that are read again later: secrets of hooks, the authority, certificates for origins.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let mitm = &self.meta().mitm;
        let hooks = self.blob.hooks().iter().filter(|hook| hook.profiles.has(self.profile)).flat_map(|hook| &hook.inject_request_headers);
        let secrets = hooks.filter_map(|injected| match &injected.secret {
            Secret::File(path) => Some(path),
            Secret::Env(_) => None,
        });
        let certificates = self.settings().client_certificates.iter().flat_map(|listed| [&listed.cert_path, &listed.key_path]);
        [&mitm.ca_cert_path, &mitm.ca_key_path].into_iter().flatten().chain(secrets).chain(certificates).map(PathBuf::from).collect()
    }

    /// Variables of the proxy's environment that hooks put into requests.
    pub(crate) fn secret_variables(&self) -> Vec<String> {
        let hooks = self.blob.hooks().iter().filter(|hook| hook.profiles.has(self.profile)).flat_map(|hook| &hook.inject_request_headers);
        let variables = hooks.filter_map(|injected| match &injected.secret {
            Secret::Env(name) => Some(name.clone()),
            Secret::File(_) => None,
        });
        variables.collect()
    }

    /// Whether the TLS of that host stays closed, where nothing but hooks, credentials or `always` wants it opened.
    pub(crate) fn is_bypassed(&self, host: &policy_format::Host, port: u16) -> bool {
        self.blob.is_bypassed(self.profile, host, port)
    }

    /// A hook by its place.
    pub(crate) fn hook(&self, place: usize) -> Option<&policy_format::Hook> {
        self.blob.hooks().get(place)
    }

    /// Bytes of the body that have to be there before a decision.
    pub(crate) fn body_wanted(&self, request: &policy_format::Request<'_>) -> Option<usize> {
        self.blob.body_wanted(request)
    }

    /// The proxies that connections go through.
    pub(crate) fn upstreams(&self) -> &Upstreams {
        &self.upstreams
    }

    /// Whether the unix socket with this real path may be reached: one that is denied is not, whatever is allowed.
    pub(crate) fn allows_socket(&self, path: &Path) -> bool {
        let is_allowed = self.meta().unix_sockets.dangerously_allow_all || self.sockets.allow.iter().any(|allowed| allowed == path);
        is_allowed && !self.denies_socket(path)
    }

    /// Whether the unix socket with this real path is one that the policy denies.
    pub(crate) fn denies_socket(&self, path: &Path) -> bool {
        self.sockets.deny.iter().any(|denied| denied == path)
    }

    /// The unix sockets that the policy denies, as it has them.
    pub(crate) fn denied_sockets(&self) -> Arc<[PathBuf]> {
        Arc::clone(&self.sockets.denied)
    }

    /// Its bytes, for whoever shows them.
    pub(crate) fn blob(&self) -> &Blob<impl AsRef<[u8]>> {
        &*self.blob
    }

    /// How many rules it has.
    #[must_use]
    pub fn rule_count(&self) -> u32 {
        self.blob.rule_count()
    }

    /// A rule of it, spelt out.
    #[must_use]
    pub fn rule(&self, id: policy_format::RuleId) -> Option<policy_format::Rule> {
        self.blob.rule(id)
    }

    /// Whether a hook of that profile speaks of the host.
    #[must_use]
    pub fn is_hooked(&self, host: &policy_format::Host) -> bool {
        self.blob.is_hooked(self.profile, host)
    }

    /// Decides a request, under the profile that it names and the mode that is in force.
    #[must_use]
    pub fn decide(&self, request: &policy_format::Request<'_>) -> policy_format::Decision {
        self.decide_as(request, false)
    }

    /// The same; `granted`: the program that embeds the proxy allows the host, where no rule does.
    pub(crate) fn decide_as(&self, request: &policy_format::Request<'_>, granted: bool) -> policy_format::Decision {
        policy_format::decide_with(&self.blob, request, Overrides { mode: self.mode, granted, with_rule: false })
    }

    /// What it would say were things otherwise: for who looks for what would let a request pass.
    pub(crate) fn decide_if(&self, request: &policy_format::Request<'_>, tried: Overrides) -> policy_format::Decision {
        policy_format::decide_with(&self.blob, request, Overrides { mode: tried.mode.or(self.mode), ..tried })
    }
}

fn meta(blob: &Blob<Bytes>, profile: ProfileId) -> &policy_format::Meta {
    // It was looked up in this very blob.
    blob.profile_meta(profile).unwrap_or(blob.meta())
}

fn settings(blob: &Blob<Bytes>, profile: ProfileId) -> &Settings {
    static DEFAULT: LazyLock<Settings> = LazyLock::new(Settings::default);
    blob.settings(profile).unwrap_or(&DEFAULT)
}

/// What TLS is opened with where other hosts have to be than the policy itself says: `mode` stands in the place of its own, or hosts that no rule names may be let on, and have to be
/// read. `None`: the policy's own does.
fn other(blob: &Blob<Bytes>, profile: ProfileId, mode: Option<Mode>, open: bool) -> Option<Result<Option<Arc<Interception>>, String>> {
    let meta = meta(blob, profile);
    let everything = mode.unwrap_or(meta.mode) == Mode::Limited || meta.mitm.mode == MitmMode::Always;
    let hosts = match (open && everything, mode) {
        (true, _) => Intercepted::All,
        (false, Some(_)) => blob.intercepted_with(profile, mode),
        (false, None) => return None,
    };
    Some(Interception::of(&meta.mitm, &hosts))
}

/// Said where TLS is opened from now on with an authority that is not the one of the start.
const NOT_TOLD: &str = "TLS is opened with an authority that children of this proxy were not told of, and do not trust: start the proxy anew, or have the policy name \
                        one that lasts (`netproxy-dp init`) from the start";

/// Gives out the policy in force, and replaces it.
#[derive(Clone)]
pub(crate) struct PolicyHandle(Arc<Inner>);

impl fmt::Debug for PolicyHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyHandle").field("current", &self.0.current).finish_non_exhaustive()
    }
}

struct Inner {
    current: ArcSwap<Snapshot>,
    /// The mode that whoever runs the proxy has set, for this policy and those that follow.
    mode: Mutex<Option<Mode>>,
    /// Hosts may be let on that no rule names: where all that is let on has to be read, that is any host.
    open: bool,
    authorities: Authorities,
    observer: Arc<dyn Observer>,
    overrides: Vec<LimitOverride>,
    /// Threads that serve under it.
    workers: usize,
    generation: watch::Sender<u64>,
    bell: Bell,
    last_error: Mutex<Option<String>>,
}

impl PolicyHandle {
    #[cfg(test)]
    pub(crate) fn new(policy: Policy, overrides: Vec<LimitOverride>, observer: Arc<dyn Observer>) -> Self {
        Self::asking(policy, overrides, 1, observer, false, None)
    }

    /// With its first policy. `open`: there is somebody who may let hosts on that no rule names. `wanted`: the mode that is set from the start.
    pub(crate) fn asking(
        mut policy: Policy,
        overrides: Vec<LimitOverride>,
        workers: usize,
        observer: Arc<dyn Observer>,
        open: bool,
        wanted: Option<Mode>,
    ) -> Self {
        let authorities = Authorities::default();
        let mode = mode::instead(&policy.blob, policy.profile, wanted);
        match other(&policy.blob, policy.profile, mode, open) {
            Some(Ok(other)) => policy.interception = other,
            // As in a swap: what has to be read is refused.
            Some(Err(_)) if mode.is_some() => policy.interception = None,
            Some(Err(_)) | None => {}
        }
        policy.interception = policy.interception.map(|wanted| authorities.choose(wanted).0);
        let snapshot = Arc::new(Snapshot::new(policy, &overrides, workers, mode, 1));
        observer.in_force(&snapshot);
        Self(Arc::new(Inner {
            current: ArcSwap::new(snapshot),
            mode: Mutex::new(wanted),
            open,
            authorities,
            observer,
            overrides,
            workers,
            generation: watch::Sender::new(1),
            bell: Bell::default(),
            last_error: Mutex::new(None),
        }))
    }

    /// The policy in force now.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.0.current.load_full()
    }

    /// The same for a short look: it does not count among those who hold it, a count that all threads would write. Not for keeping, nor across an await: that is [`Self::current`].
    pub(crate) fn look(&self) -> Guard<Arc<Snapshot>> {
        self.0.current.load()
    }

    /// Which policy is in force now, for those who only want to know whether it still is the one that they asked.
    pub(crate) fn generation(&self) -> u64 {
        self.look().generation
    }

    /// Puts a policy in force and returns its generation. Tunnels are decided again.
    /// TLS is opened with the authority of an earlier one as long as that covers its hosts: clients trust it. Where it does not, the observer hears of a
    /// [fault](crate::Observer::fault).
    ///
    /// Limited mode that was [set](Self::set_mode) holds for it too; full mode was set over another policy, and is not: who writes `mode = "limited"` has it.
    pub(crate) fn swap(&self, policy: Policy) -> u64 {
        self.swap_in(policy, self.mode_lock())
    }

    /// Blocks everything, until another policy is put in force, if the policy that is meant is in force, in whichever mode. Tells whether it was.
    pub(crate) fn withdraw(&self, meant: &Snapshot) -> bool {
        // They are bytes of the program, and were opened at the start. Nothing may pass all the same.
        let blocked = Policy::blocked().unwrap_or_else(|_| std::process::abort());
        let set = self.mode_lock();
        let is_in_force = Arc::ptr_eq(&self.look().blob, &meant.blob);
        if is_in_force {
            self.swap_in(blocked, set);
        }
        is_in_force
    }

    /// Under the lock of the mode until it is in force, so that modes and swaps have one order.
    fn swap_in(&self, mut policy: Policy, mut set: MutexGuard<'_, Option<Mode>>) -> u64 {
        if *set == Some(Mode::Full) && policy.blob.digest() != self.current().digest() {
            *set = None;
        }
        let mode = mode::instead(&policy.blob, policy.profile, *set);
        if let Some(other) = other(&policy.blob, policy.profile, mode, self.0.open) {
            // Without an authority, what has to be read is refused.
            policy.interception = other.unwrap_or_default();
        }
        let wanted = policy.interception.take();
        let put = self.put(Snapshot::new(policy, &self.0.overrides, self.0.workers, mode, 0), wanted);
        drop(set);
        self.is_put(put)
    }

    /// Puts it in force, with what TLS is opened with. Gives its generation, and whether clients do not know the authority.
    fn put(&self, mut snapshot: Snapshot, wanted: Option<Arc<Interception>>) -> (u64, bool) {
        let (mut generation, mut not_told) = (0, false);
        // Under the sender's lock, so that generations and swaps have one order.
        self.0.generation.send_modify(|last| {
            *last += 1;
            generation = *last;
            (snapshot.generation, snapshot.loaded) = (generation, SystemTime::now());
            snapshot.interception = wanted.map(|wanted| {
                let (chosen, is_new) = self.0.authorities.choose(wanted);
                not_told = is_new;
                chosen
            });
            let snapshot = Arc::new(snapshot);
            // Before anything is decided by it.
            self.0.observer.in_force(&snapshot);
            self.0.current.store(snapshot);
        });
        (generation, not_told)
    }

    /// Tells everyone.
    fn is_put(&self, (generation, not_told): (u64, bool)) -> u64 {
        self.0.bell.ring();
        if not_told {
            self.0.observer.fault(NOT_TOLD);
        }
        generation
    }

    /// Sets the mode: limited of this policy and of all that follow, full of this one only; or, by `None`, lets each have its own again. Where an administrators' requirement holds a policy in
    /// limited mode, it refuses `full`. What comes of it is a swap: it has a generation of its own, which is returned,
    /// and tunnels are decided again. Where the mode in force stays what it is, there is none, and the generation in force is returned.
    ///
    /// In limited mode every tunnel has to be read: children that were not told of an authority for that do not trust it, as after a [swap](Self::swap).
    ///
    /// # Errors
    /// [`ModeError`]; then nothing has changed.
    pub(crate) fn set_mode(&self, wanted: Option<Mode>) -> Result<u64, ModeError> {
        let mut set = self.mode_lock();
        let current = self.current();
        match current.hold().filter(|_| wanted == Some(Mode::Full)) {
            Some(Hold::Required(layer)) => return Err(ModeError::Required { profile: current.meta().profile.clone(), layer }),
            Some(Hold::Unknown) => return Err(ModeError::Unknown { profile: current.meta().profile.clone() }),
            None => {}
        }
        let mode = mode::instead(&current.blob, current.profile, wanted);
        if mode == current.mode {
            *set = wanted;
            return Ok(current.generation);
        }
        let other = other(&current.blob, current.profile, mode, self.0.open);
        let other = other.unwrap_or_else(|| Interception::of(&current.meta().mitm, &current.blob.intercepted(current.profile)));
        let interception = other.map_err(ModeError::Authority)?;
        *set = wanted;
        let put = self.put(Snapshot { mode, ..(*current).clone() }, interception);
        drop(set);
        let generation = self.is_put(put);
        self.0.observer.mode_set(&self.current());
        Ok(generation)
    }

    /// The mode that was set, if one was.
    #[must_use]
    pub(crate) fn mode_override(&self) -> Option<Mode> {
        *self.mode_lock()
    }

    fn mode_lock(&self) -> MutexGuard<'_, Option<Mode>> {
        self.0.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The certificates of all authorities that TLS was ever opened with here.
    pub(crate) fn own_authorities(&self) -> &Arc<Own> {
        self.0.authorities.own()
    }

    /// Follows generations.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    /// Rings after each swap.
    pub(crate) fn bell(&self) -> &Bell {
        &self.0.bell
    }

    /// Why the last reload was refused, if it was.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.0.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_last_error(&self, error: Option<String>) {
        *self.0.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc;

    #[test]
    fn the_policy_that_blocks_everything_does() {
        let policy = Policy::blocked().unwrap();
        assert_eq!((policy.meta().network, policy.rule_count()), (policy_format::Network::Blocked, 0));
    }

    #[derive(Default)]
    struct Faults(Mutex<Vec<String>>);

    impl Observer for Arc<Faults> {
        fn fault(&self, what: &str) {
            self.0.lock().unwrap().push(what.to_owned());
        }
    }

    #[test]
    fn a_swap_keeps_the_authority_that_clients_trust_or_says_that_it_cannot() {
        let opening = |hosts: &[&str]| {
            let hosts = policy_format::Intercepted::Hosts(hosts.iter().map(|host| (*host).to_owned()).collect());
            let interception = Interception::of(&policy_format::Mitm::default(), &hosts).unwrap();
            Policy { interception, ..Policy::built_in().unwrap() }
        };
        let faults = Arc::<Faults>::default();
        let handle = PolicyHandle::new(opening(&["*.a.test"]), Vec::new(), Arc::new(Arc::clone(&faults)));
        let authority = || handle.current().authority_pem().map(str::to_owned);
        let first = authority();
        // By way of a policy that opens nothing, to one that opens less.
        for (hosts, expected) in [(&[][..], None), (&["x.a.test"], first.clone()), (&["*.a.test"], first.clone())] {
            handle.swap(opening(hosts));
            assert_eq!(authority(), expected, "{hosts:?}");
        }
        assert_eq!(*faults.0.lock().unwrap(), [""; 0]);
        handle.swap(opening(&["*.a.test", "b.test"]));
        assert_ne!(authority(), first);
        assert_eq!(*faults.0.lock().unwrap(), [NOT_TOLD]);
        let all = handle.own_authorities().all();
        assert_eq!(all.len(), 2, "neither is trusted of origins");
        handle.swap(opening(&["*.a.test"]));
        assert_eq!((authority(), faults.0.lock().unwrap().len()), (first, 1));
    }

    /// With the only thread that may block held up, what was dropped has to wait for it.
    #[test]
    fn a_large_map_is_given_back_on_a_thread_that_may_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large.bin");
        fs::write(&path, vec![7; 1 << 20]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let mapped = || fs::read_to_string("/proc/self/maps").unwrap().contains(path.to_str().unwrap());
        let (map, file) = shared::open(&path, File::open(&path).unwrap()).unwrap();
        drop(file);
        let bytes = Bytes(Memory::Shared(map));
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let (go, wait) = mpsc::channel::<()>();
            let held = tokio::task::spawn_blocking(move || wait.recv());
            drop(bytes);
            assert!(mapped(), "this thread did not give it back");
            go.send(()).unwrap();
            held.await.unwrap().unwrap();
            // Behind it in the queue.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert!(!mapped(), "the other did");
        });
    }
}
