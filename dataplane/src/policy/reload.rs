//! Watch, validate, swap. A file that is refused leaves the policy in force as it is.
//!
//! The file is looked at by name, so that it does not matter how it was replaced: by rename, by a symbolic link that points elsewhere, or in place. Nothing depends on
//! notifications, which network and overlay file systems drop. A file that is still changing is left alone until it has been still for one
//! look; a request to reload (SIGHUP) does not wait.

use super::mapped::PrivateMap;
use super::shared::{self, Look};
use super::source::PolicySource;
use super::{Policy, PolicyHandle, Snapshot, Verify};
use crate::audit::event::{Observer, Reload};
use crate::config::PolicyMap;
use crate::error::LoadError;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Between two looks at the file.
const INTERVAL: Duration = Duration::from_millis(200);

/// Reads and validates a policy file, which must have the profile that is named.
pub(crate) fn load(path: &Path, map: PolicyMap, profile: Option<&str>, verify: Verify) -> Result<Policy, LoadError> {
    let read = |error| LoadError::Read { path: path.to_owned(), error };
    // Opening a pipe would wait for whoever writes to it.
    if !fs::metadata(path).map_err(read)?.is_file() {
        return Err(read(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file")));
    }
    let mut file = File::open(path).map_err(read)?;
    let wrong = |error| LoadError::Format { path: path.to_owned(), error };
    match map {
        PolicyMap::Private => Policy::from_private(PrivateMap::copy(&mut file).map_err(read)?, profile, verify).map_err(wrong),
        PolicyMap::Shared => {
            let (map, mapped) = shared::open(path, file)?;
            let policy = Policy::from_shared(map, mapped, profile, verify).map_err(wrong)?;
            // What was verified is what stays only if nobody wrote meanwhile.
            policy.mapped().map_or(Ok(()), shared::Mapped::settled)?;
            Ok(policy)
        }
    }
}

/// What tells one state of a file from another, without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    len: u64,
    modified: Option<std::time::SystemTime>,
    #[cfg(unix)]
    identity: (u64, u64, i64, i64),
}

impl Stamp {
    /// `None` when there is no such file, or none that can be looked at.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            // The time of the last change of the inode cannot be set back by who writes the file.
            (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
        };
        Some(Self {
            len: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            identity,
        })
    }
}

/// Who waits for a reload, and is told what came of it.
pub(crate) type Asked = tokio::sync::oneshot::Sender<Result<Arc<Snapshot>, LoadError>>;

/// Asks whoever watches the policy file to look at it now.
#[derive(Debug, Clone)]
pub(crate) struct ReloadRequest(pub(crate) tokio::sync::mpsc::Sender<Asked>);

impl ReloadRequest {
    /// Asks, and waits until the file was looked at.
    ///
    /// # Errors
    /// [`LoadError`]: the file was refused, or nobody watches one.
    pub(crate) async fn reloaded(&self) -> Result<Arc<Snapshot>, LoadError> {
        let (sender, done) = tokio::sync::oneshot::channel();
        self.0.send(sender).await.map_err(|_| LoadError::NotWatched)?;
        done.await.unwrap_or(Err(LoadError::NotWatched))
    }
}

/// Puts policies in force after the start.
pub(crate) struct Reloader {
    pub(crate) map: PolicyMap,
    /// The profile that requests are decided under, if one was named: a policy without it is not put in force.
    pub(crate) profile: Option<String>,
    pub(crate) handle: PolicyHandle,
    pub(crate) observer: Arc<dyn Observer>,
    /// Proxy listeners that are open to other machines: a policy that forbids them is not put in force.
    pub(crate) open_listeners: Vec<SocketAddr>,
    /// The same of the admin listener.
    pub(crate) open_admin: Option<SocketAddr>,
    /// Held from the look at what is in force until everybody was told what came of it.
    pub(crate) order: Mutex<()>,
}

impl Reloader {
    /// Loads a policy and puts it in force, unless it is the policy in force already; gives what is in force then.
    ///
    /// # Errors
    /// [`LoadError`]; the policy in force stays. A file that could not be read may pass by itself (no descriptor or no memory left, or written meanwhile), so that it has to be
    /// tried again.
    pub(crate) async fn reload(&self, source: PolicySource) -> Result<Arc<Snapshot>, LoadError> {
        let (name, map, profile) = (source.name(), self.map, self.profile.clone());
        // Reading and hashing a large policy takes a while; requests go on meanwhile.
        let load = move || source.load(map, profile.as_deref(), Verify::Whole);
        let loaded = match tokio::runtime::Handle::try_current() {
            Ok(runtime) => runtime.spawn_blocking(load).await,
            // Somebody else's runtime: what it takes, it takes there.
            Err(_) => Ok(load()),
        };
        let outcome = match loaded {
            Ok(loaded) => loaded.and_then(|policy| self.check_listeners(&name, policy)),
            Err(panic) => Err(LoadError::Read { path: name, error: std::io::Error::other(panic) }),
        };
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(policy) if self.is_in_force(&policy) => {
                self.handle.set_last_error(None);
                self.observer.reloaded(&Reload::Unchanged);
            }
            Ok(policy) => {
                self.handle.set_last_error(None);
                self.handle.swap(policy);
                self.observer.reloaded(&Reload::Swapped(self.handle.current()));
            }
            Err(error) => {
                let said = Some(error.to_string());
                // What is tried again and fails the same way is said once.
                if self.handle.last_error() != said {
                    self.handle.set_last_error(said);
                    self.observer.reloaded(&Reload::Refused(&error));
                }
                return Err(error);
            }
        }
        Ok(self.handle.current())
    }

    /// Whether it is the policy in force, under the same profile.
    fn is_in_force(&self, policy: &Policy) -> bool {
        let current = self.handle.current();
        (policy.digest(), policy.profile) == (current.digest(), current.profile)
    }

    /// Looks at what was left for later when the policy from that file was put in force at the start ([`Verify::RulesLater`]). One that is wrong there is withdrawn.
    async fn check_rest(&self, path: &Path) {
        let first = self.handle.current();
        let checked = Arc::clone(&first);
        let error = match tokio::task::spawn_blocking(move || checked.check_rest()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => LoadError::Format { path: path.to_owned(), error },
            Err(panic) => LoadError::Read { path: path.to_owned(), error: std::io::Error::other(panic) },
        };
        self.withdraw(&first, &error);
    }

    /// Withdraws a policy in force whose file was changed under it.
    async fn check_map(&self) {
        let snapshot = self.handle.current();
        let error = match snapshot.mapped().map(shared::Mapped::look) {
            None | Some(Look::Same) => return,
            Some(Look::Changed(error)) => error,
            Some(Look::Unclear) => {
                let verified = Arc::clone(&snapshot);
                if tokio::task::spawn_blocking(move || verified.is_intact()).await.unwrap_or(false) {
                    return;
                }
                let Some(mapped) = snapshot.mapped() else { return };
                mapped.damaged()
            }
        };
        self.withdraw(&snapshot, &error);
    }

    /// Until a good policy is loaded, everything is blocked; unless another than the one that is meant is in force by now.
    fn withdraw(&self, meant: &Snapshot, error: &LoadError) {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if self.handle.withdraw(meant) {
            self.handle.set_last_error(Some(error.to_string()));
            self.observer.reloaded(&Reload::Withdrawn(error));
        }
    }

    fn check_listeners(&self, name: &Path, policy: Policy) -> Result<Policy, LoadError> {
        let meta = policy.meta();
        let is_forbidden = !meta.dangerously_allow_non_loopback_admin || meta.unix_sockets.any();
        if let Some(address) = self.open_admin.filter(|_| is_forbidden) {
            return Err(LoadError::AdminListener { path: name.to_owned(), address });
        }
        match self.open_listeners.first() {
            Some(address) if !policy.meta().dangerously_allow_non_loopback_proxy || policy.meta().unix_sockets.any() => {
                Err(LoadError::Listener { path: name.to_owned(), address: *address })
            }
            _ => Ok(policy),
        }
    }

    /// Watches the file, whose last known state is `seen`, and reloads it when it has changed or when asked. Never returns.
    pub(crate) async fn watch(&self, path: &Path, seen: Option<Stamp>, mut asked: tokio::sync::mpsc::Receiver<Asked>) {
        let mut settled = seen;
        let mut last = settled.clone();
        let mut looks = tokio::time::interval(INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut rest, mut is_checked) = (pin!(self.check_rest(path)), false);
        loop {
            tokio::select! {
                () = &mut rest, if !is_checked => is_checked = true,
                _ = looks.tick() => {
                    self.check_map().await;
                    let now = stamp(path).await;
                    let still = now == last;
                    last.clone_from(&now);
                    // A file that is gone is settled once that was said: it cannot be read until it changes.
                    if still && now != settled && (settles(&self.reload(path.into()).await) || now.is_none()) {
                        settled = now;
                    }
                }
                Some(done) = asked.recv() => {
                    self.check_map().await;
                    let now = stamp(path).await;
                    last.clone_from(&now);
                    let outcome = self.reload(path.into()).await;
                    if settles(&outcome) || now.is_none() {
                        settled = now;
                    }
                    // Who does not wait any more need not be told.
                    let _ = done.send(outcome);
                }
            }
        }
    }
}

/// The state of a file, from a thread that may block: a file system may not answer, and whoever serves the admin API here has other things to do.
async fn stamp(path: &Path) -> Option<Stamp> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || Stamp::of(&path)).await.ok().flatten()
}

/// Whether a file need not be tried again until it changes. One that could not be read has to be; one that may not be shared may be mended by what does not show in its stamp: the mode of its
/// folder.
fn settles(outcome: &Result<Arc<Snapshot>, LoadError>) -> bool {
    !matches!(outcome, Err(LoadError::Read { .. } | LoadError::Share { .. }))
}
