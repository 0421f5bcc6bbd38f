//! The state folder: files that children read, and the manifest that says who serves them.
//!
//! Files are immutable and named by what is in them, so that a child never sees one change. A process holds a *lease*, a copy of its manifest with a lock on it, for as long as it runs;
//! files that no lease names are removed by the next one that starts. The private key of an authority is never among them.

use super::bundle::Authorities;
use super::manifest::{self, CURRENT, Manifest};
use super::variables::{ChildEnv, Files};
use crate::secret::{Dummies, DummiesError};
use crate::tls::{hexadecimal, pem};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The variable that says where the state folder is.
pub const STATE_DIR: &str = "NETPROXY_STATE_DIR";

/// Where the state folder of root is.
pub const SYSTEM: &str = "/var/lib/netproxy";

/// The file in it with what stands for credentials; only its owner reads it.
pub const DUMMIES: &str = "dummies.json";

/// Held while files are written or removed.
const LOCK: &str = ".lock";

/// Before the random name of a file that is not finished.
const UNFINISHED: &str = ".tmp-";

/// What is written, but for the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Authority,
    Bundle,
    Truststore,
    Wgetrc,
    /// A folder with one file, [`PHP_INI`].
    Php,
}

/// In the folder that PHP scans.
const PHP_INI: &str = "netproxy.ini";

impl Kind {
    const ALL: [Self; 5] = [Self::Authority, Self::Bundle, Self::Truststore, Self::Wgetrc, Self::Php];

    /// What is before and behind the digest in its name.
    fn around(self) -> (&'static str, &'static str) {
        match self {
            Self::Authority => ("ca-", ".pem"),
            Self::Bundle => ("ca-bundle-", ".pem"),
            Self::Truststore => ("truststore-", ".p12"),
            Self::Wgetrc => ("wgetrc-", ""),
            Self::Php => ("php-", ""),
        }
    }

    fn name(self, content: &[u8]) -> String {
        let (before, behind) = self.around();
        format!("{before}{}{behind}", hexadecimal(digest::digest(&digest::SHA256, content).as_ref()))
    }

    /// Whether this is the name of such a file.
    pub(crate) fn is_name(self, name: &str) -> bool {
        let (before, behind) = self.around();
        let digest = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
        digest.is_some_and(|digest| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }
}

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Something in it cannot be read or written.
    #[error("cannot use `{path}`: {error}; another state folder can be given with `--state-dir` or `{STATE_DIR}`")]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others could put files there, which children would trust.
    #[error("the state folder `{path}` {what}")]
    Unsafe {
        /// Which folder.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// The path cannot stand in variables.
    #[error("the path of the state folder, `{0}`, is not UTF-8, or has quotes or control characters; choose another one")]
    Path(PathBuf),
    /// What is to be trusted is no certificate.
    #[error("the authority is not a certificate in PEM")]
    Authority,
    /// There is no randomness to be had.
    #[error("the system gives no random bytes")]
    Random,
}

/// The state folder.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

/// What a proxy has published. Dropping it takes it back, as far as the process still may; when the process ends, it counts no more either way.
#[derive(Debug)]
pub struct Published {
    env: ChildEnv,
    problems: Vec<String>,
    manifest: String,
    lease: PathBuf,
    /// Where `netproxy-dp env` finds it, if it does.
    current: Option<PathBuf>,
    /// What stands for credentials, and where it was written, if it was.
    dummies: Option<(Dummies, PathBuf)>,
    /// Of the lease.
    _lock: File,
}

impl StateDir {
    /// Where the folder is unless somebody says: `$NETPROXY_STATE_DIR`; for root, `/var/lib/netproxy`; else `$XDG_STATE_HOME/netproxy`, or `~/.local/state/netproxy`.
    #[must_use]
    pub fn default_path(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let users = || {
            let absolute = set("XDG_STATE_HOME").filter(|path| path.is_absolute());
            let home = || Some(set(if cfg!(windows) { "USERPROFILE" } else { "HOME" })?.join(".local/state"));
            Some(absolute.or_else(home)?.join("netproxy"))
        };
        set(STATE_DIR).or_else(|| if is_root() { Some(PathBuf::from(SYSTEM)) } else { users() })
    }

    /// Opens the folder, and makes it if it is not there.
    ///
    /// # Errors
    /// [`StateError`]: it cannot be made, is a link, or may be written by others than root and the user.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |error| StateError::Io { path: path.to_owned(), error };
        let path = std::path::absolute(path).map_err(failed)?;
        // What the settings of wget and PHP cannot say.
        if path.to_str().is_none_or(|text| text.contains(|c: char| c.is_control() || c == '"')) {
            return Err(StateError::Path(path));
        }
        let is_new = !path.exists();
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o755);
        builder.create(&path).map_err(failed)?;
        check(&path)?;
        if is_new {
            open_to_readers(&path).map_err(failed)?;
        }
        Ok(Self { path })
    }

    /// Its path, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what children need: files to trust, if there is an `authority` (PEM) that TLS is opened with, and the manifest of the proxy that `env` tells of. `parent` is the environment at
    /// the start, whose variables name what the user trusts. `current`: whether `netproxy-dp env` finds this proxy. What processes that have ended left behind is removed.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn publish(
        &self,
        env: ChildEnv,
        authority: Option<&str>,
        parent: &HashMap<String, String>,
        current: bool,
    ) -> Result<Published, StateError> {
        self.publish_with(Dummies::default(), None, env, authority, parent, current)
    }

    /// The same, with what stands for credentials, which `netproxy-dp env` gives to whoever may read it. That of another proxy does not stay beside the manifest of this one.
    pub(crate) fn publish_with(
        &self,
        dummies: Dummies,
        admin: Option<SocketAddr>,
        mut env: ChildEnv,
        authority: Option<&str>,
        parent: &HashMap<String, String>,
        current: bool,
    ) -> Result<Published, StateError> {
        let _lock = self.lock()?;
        let (mut included, mut problems) = (Vec::new(), Vec::new());
        if let Some(authority) = authority {
            let ours =
                pem::certificates(authority.as_bytes()).ok().and_then(|found| found.into_iter().next()).ok_or(StateError::Authority)?;
            let authorities = Authorities::collect(parent, ours.clone());
            env.files = Some(self.write_files(&pem::encode("CERTIFICATE", &ours), &authorities)?);
            (included, problems) = (authorities.included, authorities.problems);
        }
        let lease = manifest::lease_name(&random()?);
        let manifest = Manifest { pid: std::process::id(), lease: lease.clone(), env: env.clone(), admin, included }.json();
        let lease = self.path.join(lease);
        let lock = self.write(&lease, manifest.as_bytes(), true)?;
        let current = if current { Some(self.path.join(CURRENT)) } else { None };
        let mut left = None;
        if let Some(current) = &current {
            left = self.leave(dummies).unwrap_or_else(|error| {
                problems.push(format!("`netproxy-dp env` will not know of credentials: {error}"));
                None
            });
            self.write(current, manifest.as_bytes(), false)?;
        }
        self.prune();
        Ok(Published { env, problems, manifest, lease, current, dummies: left, _lock: lock })
    }

    /// Leaves what stands for credentials; gives where it is, if there is any.
    fn leave(&self, dummies: Dummies) -> Result<Option<(Dummies, PathBuf)>, DummiesError> {
        let path = self.path.join(DUMMIES);
        if dummies != Dummies::default() {
            dummies.write(&path)?;
            return Ok(Some((dummies, path)));
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(DummiesError { path, what: format!("cannot be removed: {error}") })
            }
            _ => Ok(None),
        }
    }

    fn write_files(&self, authority: &str, authorities: &Authorities) -> Result<Files, StateError> {
        let named = |kind: Kind, content: &[u8]| {
            let path = self.path.join(kind.name(content));
            self.write(&path, content, false).map(|_| path)
        };
        let bundle = named(Kind::Bundle, authorities.pem().as_bytes())?;
        let shown = bundle.display();
        let ini = format!("openssl.cafile = \"{shown}\"\ncurl.cainfo = \"{shown}\"\n");
        let php = self.path.join(Kind::Php.name(ini.as_bytes()));
        if php.is_symlink() || !php.is_dir() {
            fs::create_dir(&php).and_then(|()| open_to_readers(&php)).map_err(|error| StateError::Io { path: php.clone(), error })?;
        }
        self.write(&php.join(PHP_INI), ini.as_bytes(), false)?;
        Ok(Files {
            authority: named(Kind::Authority, authority.as_bytes())?,
            truststore: named(Kind::Truststore, &authorities.pkcs12())?,
            wgetrc: named(Kind::Wgetrc, format!("ca_certificate = {shown}\n").as_bytes())?,
            bundle,
            php,
        })
    }

    /// Puts a whole file in place, by rename: whoever reads sees the old one or the new one, and a link that lies there is replaced, not followed. Gives the file, locked if that is asked for.
    fn write(&self, path: &Path, content: &[u8], locked: bool) -> Result<File, StateError> {
        let unfinished = self.path.join(format!("{UNFINISHED}{}", random()?));
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            let mut file = options.open(&unfinished)?;
            // Children read it, whoever they are.
            #[cfg(unix)]
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            // Nobody waits for the disk: what is left after a power cut is of a process that has ended.
            file.write_all(content)?;
            if locked {
                lock::hold(&file)?;
            }
            fs::rename(&unfinished, path)?;
            Ok(file)
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&unfinished);
            StateError::Io { path: path.to_owned(), error }
        })
    }

    /// Keeps others from writing and removing until it is dropped.
    fn lock(&self) -> Result<File, StateError> {
        let path = self.path.join(LOCK);
        let lock = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            #[cfg(unix)]
            {
                use std::os::unix::fs::OpenOptionsExt;
                let no_follow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default();
                options.mode(0o600).custom_flags(no_follow);
            }
            let file = options.open(&path)?;
            lock::wait_for(&file)?;
            Ok(file)
        };
        lock().map_err(|error| StateError::Io { path: path.clone(), error })
    }

    /// Removes leases of processes that have ended, and files that no lease names. What cannot be removed stays.
    fn prune(&self) {
        let entries: BTreeMap<String, PathBuf> = fs::read_dir(&self.path)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path)))
            .collect();
        let mut kept = HashSet::new();
        for (name, path) in entries.iter().filter(|(name, _)| manifest::is_lease(name)) {
            if lock::is_held(path) {
                kept.extend(Manifest::read(&self.path, name).ok().into_iter().flat_map(|manifest| manifest.file_names()));
            } else {
                let _ = fs::remove_file(path);
            }
        }
        for (name, path) in &entries {
            let stale = name.starts_with(UNFINISHED) || Kind::ALL.iter().any(|kind| kind.is_name(name)) && !kept.contains(name);
            if stale && Kind::Php.is_name(name) {
                let _ = fs::remove_file(path.join(PHP_INI));
                let _ = fs::remove_dir(path);
            } else if stale {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// What stands for the credentials of the proxy that has `folder` for its state folder; nothing where it has left nothing.
///
/// # Errors
/// [`DummiesError`]: the file cannot be read, is open to others, or is not such a file.
pub fn dummies(folder: &Path) -> Result<Dummies, DummiesError> {
    let path = folder.join(DUMMIES);
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(Dummies::default());
    }
    Dummies::read(&path)
}

impl Published {
    /// What children are told.
    #[must_use]
    pub fn env(&self) -> &ChildEnv {
        &self.env
    }

    /// Files of the user that could not be read, so that children do not trust what is in them, and what could not be left for them; in words.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.lease);
        // Not that of a process that came later.
        if let Some(current) =
            self.current.as_deref().filter(|current| fs::read(current).is_ok_and(|text| text == self.manifest.as_bytes()))
        {
            let _ = fs::remove_file(current);
        }
        if let Some((_, path)) = self.dummies.as_ref().filter(|(dummies, path)| Dummies::read(path).is_ok_and(|found| found == *dummies)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// A folder that nobody else can put files into.
fn check(path: &Path) -> Result<(), StateError> {
    let found = fs::symlink_metadata(path).map_err(|error| StateError::Io { path: path.to_owned(), error })?;
    let refused = |what: String| Err(StateError::Unsafe { path: path.to_owned(), what });
    if !found.is_dir() {
        return refused("is a link, or not a folder; name the folder itself".to_owned());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let user = rustix::process::geteuid().as_raw();
        if found.mode() & 0o022 != 0 {
            return refused(format!(
                "can be written by others than its owner (mode {:04o}); run `chmod go-w {}`",
                found.mode() & 0o7777,
                path.display()
            ));
        }
        if found.uid() != user && found.uid() != 0 {
            return refused(format!(
                "belongs to user {}; it has to belong to root or to the user of the proxy, {user} (`chown`)",
                found.uid()
            ));
        }
    }
    Ok(())
}

/// A folder that was just made: children look into it, whoever they are, and whatever the umask.
fn open_to_readers(folder: &Path) -> io::Result<()> {
    #[cfg(unix)]
    fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

fn is_root() -> bool {
    #[cfg(unix)]
    {
        rustix::process::geteuid().is_root()
    }
    #[cfg(not(unix))]
    false
}

/// Sixteen random bytes as hexadecimal digits.
fn random() -> Result<String, StateError> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| StateError::Random)?;
    Ok(hexadecimal(&bytes))
}

/// Locks that end with the process, however it ends.
pub(crate) mod lock {
    #[cfg(unix)]
    use rustix::fs::{FlockOperation, flock};
    use std::fs::File;
    use std::io;
    use std::path::Path;

    /// Takes the lock, or fails.
    #[cfg(unix)]
    pub(crate) fn hold(file: &File) -> io::Result<()> {
        Ok(flock(file, FlockOperation::NonBlockingLockExclusive)?)
    }

    /// Takes the lock when it is free.
    #[cfg(unix)]
    pub(crate) fn wait_for(file: &File) -> io::Result<()> {
        Ok(flock(file, FlockOperation::LockExclusive)?)
    }

    /// Whether somebody has the lock. One that cannot be looked at may be held.
    #[cfg(unix)]
    pub(crate) fn is_held(path: &Path) -> bool {
        File::open(path).map_or_else(
            |error| error.kind() != io::ErrorKind::NotFound,
            |file| flock(&file, FlockOperation::NonBlockingLockShared).is_err(),
        )
    }

    /// Without locks, nothing is known of others: what they have written stays.
    #[cfg(not(unix))]
    pub(crate) fn hold(_: &File) -> io::Result<()> {
        Ok(())
    }

    #[cfg(not(unix))]
    pub(crate) fn wait_for(_: &File) -> io::Result<()> {
        Ok(())
    }

    #[cfg(not(unix))]
    pub(crate) fn is_held(path: &Path) -> bool {
        path.exists()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

    use super::*;
    use std::path::Component;

    fn authority(name: &str) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap().pem()
    }

    fn child(port: u16) -> ChildEnv {
        ChildEnv { http: ([127, 0, 0, 1], port).into(), socks5: None, allow_local_binding: false, files: None, connect: None }
    }

    fn folder() -> (tempfile::TempDir, StateDir) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(&folder.path().join("a/state folder")).unwrap();
        (folder, state)
    }

    /// Visible files, those in folders included.
    fn files(state: &StateDir) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![state.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found.retain(|path| !path.ends_with(LOCK));
        found.sort();
        found
    }

    fn current(state: &StateDir) -> Option<Manifest> {
        Manifest::read(state.path(), CURRENT).ok()
    }

    #[test]
    fn what_is_published_is_what_is_found() {
        let (_folder, state) = folder();
        let pem = authority("ours.test");
        let published = state.publish(child(1), Some(&pem), &HashMap::new(), true).unwrap();
        let manifest = Manifest::running(state.path()).unwrap();
        assert_eq!((&manifest.env, manifest.pid), (published.env(), std::process::id()));
        let found = manifest.env.files.unwrap();
        assert_eq!(fs::read_to_string(&found.authority).unwrap().replace("\r\n", "\n"), pem.replace("\r\n", "\n"));
        assert!(fs::read_to_string(&found.bundle).unwrap().ends_with(&fs::read_to_string(&found.authority).unwrap()));
        let shown = found.bundle.to_str().unwrap();
        assert_eq!(fs::read_to_string(&found.wgetrc).unwrap(), format!("ca_certificate = {shown}\n"));
        assert!(fs::read_to_string(found.php.join(PHP_INI)).unwrap().contains(&format!("curl.cainfo = \"{shown}\"")));
        // Named by what is in them; readable by all, writable by us.
        for (kind, path) in [(Kind::Authority, &found.authority), (Kind::Bundle, &found.bundle), (Kind::Truststore, &found.truststore)] {
            assert_eq!(path.file_name().unwrap().to_str().unwrap(), kind.name(&fs::read(path).unwrap()));
            #[cfg(unix)]
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o777, 0o644);
        }
        assert!(files(&state).iter().all(|path| !fs::read_to_string(path).is_ok_and(|text| text.contains("PRIVATE KEY"))));
        drop(published);
        assert!(Manifest::running(state.path()).is_err());
        assert!(current(&state).is_none());
    }

    #[test]
    fn without_an_authority_there_is_nothing_to_trust() {
        let (_folder, state) = folder();
        let published = state.publish(child(1), None, &HashMap::new(), true).unwrap();
        assert_eq!(published.env().files, None);
        assert_eq!(files(&state).len(), 2);
        assert!(matches!(state.publish(child(1), Some("no certificate"), &HashMap::new(), true), Err(StateError::Authority)));
    }

    #[test]
    fn files_of_the_living_stay_and_those_of_the_dead_go() {
        let (_folder, state) = folder();
        let publish = |name: &str, current| state.publish(child(1), Some(&authority(name)), &HashMap::new(), current).unwrap();
        let first = publish("first.test", true);
        let of_first = first.env().files.clone().unwrap();
        // One that was killed: its lease is there, and nobody holds it. So are the leavings of one that was killed while it wrote.
        let killed = publish("killed.test", false);
        let of_killed = killed.env().files.clone().unwrap();
        let lease = killed.lease.clone();
        let text = fs::read(&lease).unwrap();
        drop(killed);
        fs::write(&lease, text).unwrap();
        fs::write(state.path().join(".tmp-00"), "half").unwrap();
        // What is not ours stays.
        let others = ["ca-bundle.pem", "ca-mine.pem", "notes.txt"];
        others.iter().for_each(|name| fs::write(state.path().join(name), "").unwrap());

        let second = publish("second.test", true);
        for path in [&of_killed.authority, &of_killed.bundle, &of_killed.truststore, &of_killed.wgetrc, &of_killed.php, &lease] {
            assert!(!path.exists(), "{}", path.display());
        }
        for env in [first.env(), second.env()] {
            let files = env.files.clone().unwrap();
            assert!(
                files.authority.exists()
                    && files.bundle.exists()
                    && files.truststore.exists()
                    && files.wgetrc.exists()
                    && files.php.exists()
            );
        }
        assert!(others.iter().all(|name| state.path().join(name).exists()));
        assert!(!state.path().join(".tmp-00").exists());
        // The later one is found, and does not go with the earlier one.
        drop(first);
        assert_eq!(current(&state).map(|manifest| manifest.env), Some(second.env().clone()));
        drop(second);
        let last = state.publish(child(1), None, &HashMap::new(), false).unwrap();
        assert!(!of_first.bundle.exists());
        assert!(current(&state).is_none());
        drop(last);
    }

    #[test]
    fn dummies_come_and_go_with_the_proxy() {
        let (_folder, state) = folder();
        let with = |dummy: &str| {
            let mut dummies = Dummies::default();
            dummies.variables.insert("TOKEN".to_owned(), dummy.to_owned());
            dummies
        };
        let publish = |dummy: &str, current| state.publish_with(with(dummy), None, child(1), None, &HashMap::new(), current).unwrap();
        let (first, second) = (publish("one", true), publish("two", true));
        assert_eq!(dummies(state.path()).unwrap(), with("two"));
        // Nobody finds this one.
        let private = publish("three", false);
        drop(first);
        drop(private);
        assert_eq!(dummies(state.path()).unwrap(), with("two"), "those of the later one stay");
        drop(second);
        assert_eq!(dummies(state.path()).unwrap(), Dummies::default());
        assert!(!state.path().join(DUMMIES).exists());
        // What one left that was killed does not stay beside the manifest of the next.
        with("killed").write(&state.path().join(DUMMIES)).unwrap();
        let last = state.publish(child(1), None, &HashMap::new(), true).unwrap();
        assert!(!state.path().join(DUMMIES).exists());
        // What cannot be left is said.
        fs::create_dir(state.path().join(DUMMIES)).unwrap();
        let said = publish("four", true).problems().concat();
        assert!(said.starts_with("`netproxy-dp env` will not know of credentials: "), "{said}");
        drop(last);
    }

    #[test]
    fn readers_see_whole_files_while_others_write() {
        let (_folder, state) = folder();
        let pems: Vec<String> = (0..4).map(|number| authority(&format!("host{number}.test"))).collect();
        let _first = state.publish(child(1), Some(&pems[0]), &HashMap::new(), true).unwrap();
        std::thread::scope(|scope| {
            let writers: Vec<_> = pems
                .iter()
                .map(|pem| {
                    let state = state.clone();
                    scope
                        .spawn(move || (0..5).for_each(|port| drop(state.publish(child(port), Some(pem), &HashMap::new(), false).unwrap())))
                })
                .collect();
            while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
                let manifest = Manifest::running(state.path()).unwrap();
                let files = manifest.env.files.unwrap();
                let bundle = fs::read(&files.bundle).unwrap();
                assert!(files.bundle.ends_with(Kind::Bundle.name(&bundle)));
            }
        });
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed_and_what_others_may_write_is_refused() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let (folder, state) = folder();
        let victim = folder.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        // A link where the manifest goes is replaced.
        symlink(&victim, state.path().join(CURRENT)).unwrap();
        let published = state.publish(child(1), None, &HashMap::new(), true).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(!state.path().join(CURRENT).is_symlink());
        drop(published);
        // A link where the lock is, or the folder, is not.
        fs::remove_file(state.path().join(LOCK)).unwrap();
        symlink(&victim, state.path().join(LOCK)).unwrap();
        assert!(matches!(state.publish(child(1), None, &HashMap::new(), true), Err(StateError::Io { .. })));
        let link = folder.path().join("link");
        symlink(state.path(), &link).unwrap();
        assert!(matches!(StateDir::open(&link), Err(StateError::Unsafe { .. })));
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = StateDir::open(state.path()).unwrap_err().to_string();
        assert!(error.contains("chmod go-w"), "{error}");
        assert!(matches!(StateDir::open(&folder.path().join("two\nlines")), Err(StateError::Path(_))));
    }

    #[test]
    fn the_default_folder_is_the_users() {
        let path = |pairs: &[(&str, &str)]| {
            StateDir::default_path(|name| pairs.iter().find(|(found, _)| *found == name).map(|(_, value)| value.into()))
        };
        assert_eq!(path(&[(STATE_DIR, "here"), ("HOME", "/home/u")]), Some("here".into()));
        if is_root() {
            assert_eq!(path(&[("HOME", "/root")]), Some(SYSTEM.into()));
        } else {
            assert_eq!(path(&[("HOME", "/home/u"), ("XDG_STATE_HOME", "not/absolute")]), Some("/home/u/.local/state/netproxy".into()));
            assert_eq!(path(&[("XDG_STATE_HOME", "/x")]), Some("/x/netproxy".into()));
            assert_eq!(path(&[]), None);
        }
        assert!(
            StateDir::open(Path::new(".")).is_ok_and(|state| state.path().components().next() == Some(Component::RootDir)) || cfg!(windows)
        );
    }
}
