//! Whom we trust: the authorities that certificates of origins, proxies and name servers are held against. There is no way to hold them against none.

use super::client::ClientCertificate;
use super::files::{self, CertificateFileError};
use super::pem::MAX_PEM;
use super::{Alpn, provider};
use arc_swap::{ArcSwap, ArcSwapOption};
use memchr::memmem;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::OnceCell;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Servers whose sessions are kept.
const SESSIONS: usize = 1024;

/// Adds to what the system trusts.
const ADDED: &str = "CODEX_CA_CERTIFICATE";
/// Instead of what the system trusts, as for OpenSSL.
const FILE: &str = "SSL_CERT_FILE";
/// The same, of folders.
const FOLDERS: &str = "SSL_CERT_DIR";

/// Where systems have theirs, in one file each: Debian, Fedora, older Fedora, openSUSE, Alpine and OpenBSD, FreeBSD, NetBSD.
#[cfg(not(any(target_os = "macos", windows)))]
const SYSTEM_FILES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
    "/etc/openssl/certs/ca-certificates.crt",
];
/// And in folders, where an administrator may have added some to the file's.
#[cfg(not(any(target_os = "macos", windows)))]
const SYSTEM_FOLDERS: &[&str] = &["/etc/ssl/certs", "/etc/pki/tls/certs", "/usr/local/share/certs", "/etc/openssl/certs"];

/// Why there is nobody to trust. Nothing is connected then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootsError {
    /// A file that the environment names.
    #[error("the environment variable `{variable}`: {error}; mend the file, or unset the variable")]
    Variable {
        /// Which variable.
        variable: &'static str,
        /// What is wrong with its file.
        error: CertificateFileError,
    },
    /// Files without an authority.
    #[error("the environment variable `{variable}` names nothing with an authority's certificate in it: `{value}`")]
    Unusable {
        /// Which variable.
        variable: &'static str,
        /// What it names.
        value: String,
    },
    /// Neither does the system.
    #[error(
        "the system has no certificates of authorities; install them (`ca-certificates` on most systems), or name a file with `SSL_CERT_FILE`"
    )]
    NoSystem,
    /// The configuration cannot be made.
    #[error("TLS cannot be set up")]
    Setup,
}

/// What the environment says of whom to trust.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    added: Option<PathBuf>,
    file: Option<PathBuf>,
    folders: Option<String>,
}

impl Sources {
    /// Of these variables. One that is empty is not set.
    pub(crate) fn read<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let set: HashMap<&str, &str> = variables.into_iter().filter(|(_, value)| !value.trim().is_empty()).collect();
        let path = |name| set.get(name).map(PathBuf::from);
        // Who names one for this program means it, and not what is for all programs.
        match path(ADDED) {
            Some(added) => Self { added: Some(added), ..Self::default() },
            None => Self { added: None, file: path(FILE), folders: set.get(FOLDERS).map(|value| (*value).to_owned()) },
        }
    }

    /// Of the environment of this process.
    pub(crate) fn of_process() -> Self {
        let variables =
            [ADDED, FILE, FOLDERS].map(|name| (name, std::env::var_os(name).unwrap_or_default().to_string_lossy().into_owned()));
        Self::read(variables.iter().map(|(name, value)| (*name, value.as_str())))
    }

    /// Reads what they name, and does not look into it.
    fn content(&self) -> Content {
        Content {
            file: self.file.as_deref().map(Named::read),
            // As with OpenSSL, a folder that is not there is none.
            folders: self.folders.as_ref().map(|folders| (folders.clone(), Folders::read(std::env::split_paths(folders)))),
            system: (self.file.is_none() && self.folders.is_none()).then(System::read),
            added: self.added.as_deref().map(Named::read),
        }
    }

    /// The certificates of all authorities that are trusted, each once.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, RootsError> {
        self.content().certificates()
    }
}

/// What the files said that tell whom to trust: it is there when they are out of reach, and costs little as long as nobody needs it.
#[derive(Debug)]
struct Content {
    file: Option<Named>,
    /// With what names them.
    folders: Option<(String, Folders)>,
    system: Option<System>,
    added: Option<Named>,
}

impl Content {
    /// The certificates of all authorities that are trusted, each once.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, RootsError> {
        let mut found = Vec::new();
        if let Some(file) = &self.file {
            found = file.certificates(FILE)?;
        }
        if let Some((value, folders)) = &self.folders {
            // Not all of them may be none.
            match usable(folders.certificates().collect(), FOLDERS, value) {
                Ok(inside) => found.extend(inside),
                Err(_) if self.file.is_some() => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(system) = &self.system {
            found = system.certificates();
        }
        if let Some(added) = &self.added {
            found.extend(added.certificates(ADDED)?);
        }
        if found.is_empty() {
            return Err(RootsError::NoSystem);
        }
        let mut seen = HashSet::new();
        found.retain(|certificate| seen.insert(certificate.clone()));
        Ok(found)
    }
}

/// A file that a variable names.
#[derive(Debug)]
struct Named {
    path: PathBuf,
    /// Or why it cannot be read.
    content: Result<Vec<u8>, (io::ErrorKind, String)>,
}

impl Named {
    fn read(path: &Path) -> Self {
        Self { path: path.to_owned(), content: files::content(path).map_err(|error| (error.kind(), error.to_string())) }
    }

    fn certificates(&self, variable: &'static str) -> Result<Vec<CertificateDer<'static>>, RootsError> {
        let Self { path, content } = self;
        let found = match content {
            Ok(content) => files::certificates_in(path, content),
            Err((kind, what)) => Err(CertificateFileError::Read { path: path.clone(), error: io::Error::new(*kind, what.clone()) }),
        };
        usable(found.map_err(|error| RootsError::Variable { variable, error })?, variable, &path.to_string_lossy())
    }
}

/// What the files of folders say that may have certificates, each once: there are often several links to one.
#[derive(Debug)]
struct Folders(Vec<Vec<u8>>);

impl Folders {
    fn read(folders: impl IntoIterator<Item = impl AsRef<Path>>) -> Self {
        let (mut seen, mut found) = (HashSet::new(), Vec::new());
        for folder in folders.into_iter().filter_map(|folder| std::fs::read_dir(folder).ok()) {
            let mut paths: Vec<_> = folder.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
            // Who is trusted stands in the same order wherever the same files are.
            paths.sort_unstable();
            // Links are followed; those that lead nowhere are passed over.
            let is_new =
                |path: &PathBuf| std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && seen.insert(identity(path, &metadata)));
            let may_have_one = |content: &Vec<u8>| content.len() <= MAX_PEM && memmem::find(content, b"-----BEGIN ").is_some();
            found.extend(paths.into_iter().filter(is_new).filter_map(|path| files::content(&path).ok()).filter(may_have_one));
        }
        Self(found)
    }

    /// What is none is passed over.
    fn certificates(&self) -> impl Iterator<Item = CertificateDer<'static>> {
        self.0.iter().flat_map(|content| CertificateDer::pem_slice_iter(content).filter_map(Result::ok))
    }
}

/// What tells a file from others, by whatever name it was found.
#[cfg(unix)]
fn identity(_: &Path, metadata: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

/// What tells a file from others.
#[cfg(not(unix))]
fn identity(path: &Path, _: &std::fs::Metadata) -> PathBuf {
    path.to_owned()
}

/// An error if there is none that anything could be held against.
fn usable(found: Vec<CertificateDer<'static>>, variable: &'static str, value: &str) -> Result<Vec<CertificateDer<'static>>, RootsError> {
    match RootCertStore::empty().add_parsable_certificates(found.iter().cloned()) {
        (0, _) => Err(RootsError::Unusable { variable, value: value.to_owned() }),
        _ => Ok(found),
    }
}

/// The certificates of the files in a folder; what is none is passed over.
pub(crate) fn in_folder(folder: &Path) -> Vec<CertificateDer<'static>> {
    Folders::read([folder]).certificates().collect()
}

/// What the system trusts, whatever the environment says; some may be there twice.
pub(crate) fn system() -> Vec<CertificateDer<'static>> {
    System::read().certificates()
}

/// Where the system says whom it trusts.
#[cfg(not(any(target_os = "macos", windows)))]
#[derive(Debug)]
struct System {
    /// The first with a certificate counts.
    files: Vec<(&'static str, Vec<u8>)>,
    folders: Folders,
}

#[cfg(not(any(target_os = "macos", windows)))]
impl System {
    fn read() -> Self {
        Self {
            files: SYSTEM_FILES.iter().filter_map(|path| Some((*path, files::content(Path::new(path)).ok()?))).collect(),
            folders: Folders::read(SYSTEM_FOLDERS),
        }
    }

    fn certificates(&self) -> Vec<CertificateDer<'static>> {
        let file = self.files.iter().find_map(|(path, content)| files::certificates_in(Path::new(path), content).ok());
        file.into_iter().flatten().chain(self.folders.certificates()).collect()
    }
}

/// Who the system says is to be trusted.
#[cfg(any(target_os = "macos", windows))]
#[derive(Debug)]
struct System(Vec<CertificateDer<'static>>);

#[cfg(any(target_os = "macos", windows))]
impl System {
    fn read() -> Self {
        Self(rustls_native_certs::load_native_certs().certs)
    }

    fn certificates(&self) -> Vec<CertificateDer<'static>> {
        self.0.clone()
    }
}

/// Authorities that are trusted, and what is spoken with whoever they vouch for.
pub(crate) struct Roots {
    base: ClientConfig,
    configs: Configs,
    /// With a client certificate; for as long as that is there.
    with_certificate: Mutex<Vec<(Weak<ClientCertificate>, Configs)>>,
    authorities: usize,
}

/// One for each [`Alpn`].
#[derive(Clone)]
struct Configs([Arc<ClientConfig>; Alpn::ALL.len()]);

impl Configs {
    /// The same but for what is offered: a session that was begun with one goes on with another.
    fn new(base: &ClientConfig) -> Self {
        Self(Alpn::ALL.map(|alpn| {
            let mut config = base.clone();
            config.alpn_protocols = alpn.protocols();
            Arc::new(config)
        }))
    }

    fn get(&self, alpn: Alpn) -> Arc<ClientConfig> {
        let Self([none, http1, http2, both]) = self;
        Arc::clone(match alpn {
            Alpn::None => none,
            Alpn::Http1 => http1,
            Alpn::Http2 => http2,
            Alpn::Both => both,
        })
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots").field("authorities", &self.authorities).finish_non_exhaustive()
    }
}

impl Roots {
    /// Reads them, and makes what is spoken with whoever they vouch for.
    pub(crate) fn load(sources: &Sources, own: &[CertificateDer<'static>]) -> Result<Self, RootsError> {
        Self::new(&sources.certificates()?, own)
    }

    /// Of these certificates; that takes milliseconds. `own` are authorities of ours, which are not trusted even if a file has them: what they vouch for came through here already.
    fn new(certificates: &[CertificateDer<'static>], own: &[CertificateDer<'static>]) -> Result<Self, RootsError> {
        let mut store = RootCertStore::empty();
        // Some systems have an old one that nobody can read any more.
        let (authorities, _) =
            store.add_parsable_certificates(certificates.iter().filter(|certificate| !own.contains(certificate)).cloned());
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider())).with_safe_default_protocol_versions();
        let mut base = builder.map_err(|_| RootsError::Setup)?.with_root_certificates(store).with_no_client_auth();
        base.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self { configs: Configs::new(&base), base, with_certificate: Mutex::default(), authorities })
    }

    /// What is spoken with an origin: TLS 1.2 and 1.3, its certificate held against the roots, sessions resumed.
    pub(crate) fn client_config(&self, alpn: Alpn, certificate: Option<&Arc<ClientCertificate>>) -> Arc<ClientConfig> {
        let Some(certificate) = certificate else { return self.configs.get(alpn) };
        let mut kept = self.with_certificate.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |weak: &Weak<ClientCertificate>| std::ptr::eq(weak.as_ptr(), Arc::as_ptr(certificate));
        if let Some((_, configs)) = kept.iter().find(|(weak, _)| is_it(weak)) {
            return configs.get(alpn);
        }
        // Those of a policy that is no longer in force.
        kept.retain(|(weak, _)| weak.strong_count() > 0);
        let mut base = self.base.clone();
        base.client_auth_cert_resolver = Arc::clone(certificate.resolver());
        let configs = Configs::new(&base);
        let config = configs.get(alpn);
        kept.push((Arc::downgrade(certificate), configs));
        config
    }

    /// How many authorities are trusted.
    #[cfg(test)]
    pub(crate) fn authorities(&self) -> usize {
        self.authorities
    }
}

/// Certificates of our own authorities, all that ever were in force.
#[derive(Debug, Default)]
pub(crate) struct Own(ArcSwap<Vec<CertificateDer<'static>>>);

impl Own {
    /// From now on it is ours.
    pub(crate) fn add(&self, certificate: &CertificateDer<'static>) {
        self.0.rcu(|all| {
            if all.contains(certificate) { Arc::clone(all) } else { Arc::new([all.as_slice(), std::slice::from_ref(certificate)].concat()) }
        });
    }

    /// All of them; the same list as before if none was added.
    pub(crate) fn all(&self) -> Arc<Vec<CertificateDer<'static>>> {
        self.0.load_full()
    }
}

/// Roots that are read once, when they are needed first or [before](Trust::read), and are made anew when one of them turns out to be ours.
#[derive(Debug)]
pub(crate) struct Trust {
    sources: Sources,
    /// What was read before it was needed, until it is known what it says.
    content: Mutex<Option<Arc<Content>>>,
    own: Arc<Own>,
    found: OnceCell<Arc<[CertificateDer<'static>]>>,
    made: ArcSwapOption<Made>,
    making: tokio::sync::Mutex<()>,
}

/// Roots, and which of our own are not among them.
#[derive(Debug)]
struct Made {
    without: Arc<Vec<CertificateDer<'static>>>,
    roots: Arc<Roots>,
}

impl Trust {
    /// Of these sources, without our own authorities.
    pub(crate) fn new(sources: Sources, own: Arc<Own>) -> Self {
        Self {
            sources,
            content: Mutex::default(),
            own,
            found: OnceCell::new(),
            made: ArcSwapOption::empty(),
            making: tokio::sync::Mutex::default(),
        }
    }

    /// Reads them, for when files may be out of reach. What is wrong with them is told to whoever needs them.
    pub(crate) async fn read(&self) {
        let sources = self.sources.clone();
        // Should it panic, the files are read when they are needed.
        let read = tokio::task::spawn_blocking(move || sources.content()).await.ok();
        *self.content() = read.map(Arc::new);
    }

    fn content(&self) -> MutexGuard<'_, Option<Arc<Content>>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The roots. An error is not kept: the file may be there next time.
    pub(crate) async fn roots(&self) -> Result<Arc<Roots>, RootsError> {
        if let Some(roots) = self.made_without(&self.own.all()) {
            return Ok(roots);
        }
        let _making = self.making.lock().await;
        let own = self.own.all();
        // Somebody else has made them meanwhile.
        if let Some(roots) = self.made_without(&own) {
            return Ok(roots);
        }
        let read = || async {
            let (content, sources) = (self.content().clone(), self.sources.clone());
            let read = move || match content.map(|content| content.certificates()) {
                Some(Ok(found)) => Ok(found),
                // What was wrong says more than that the files are out of reach by now.
                Some(Err(error)) => sources.certificates().map_err(|_| error),
                None => sources.certificates(),
            };
            tokio::task::spawn_blocking(read).await.map_err(|_| RootsError::Setup)?.map(Arc::from)
        };
        let found = Arc::clone(self.found.get_or_try_init(read).await?);
        // Not before: whoever asked may have been given up in the middle of it.
        *self.content() = None;
        let is_new = |made: &Made, own: &CertificateDer<'_>| found.contains(own) && !made.without.contains(own);
        let roots = match self.made.load_full().filter(|made| !own.iter().any(|own| is_new(made, own))) {
            // They go on, with the sessions that they have.
            Some(made) => Arc::clone(&made.roots),
            None => {
                let own = Arc::clone(&own);
                let made = tokio::task::spawn_blocking(move || Roots::new(&found, &own)).await;
                Arc::new(made.map_err(|_| RootsError::Setup)??)
            }
        };
        self.made.store(Some(Arc::new(Made { without: own, roots: Arc::clone(&roots) })));
        Ok(roots)
    }

    fn made_without(&self, own: &Arc<Vec<CertificateDer<'static>>>) -> Option<Arc<Roots>> {
        self.made.load().as_ref().filter(|made| Arc::ptr_eq(&made.without, own)).map(|made| Arc::clone(&made.roots))
    }
}

impl Default for Trust {
    /// As the environment of this process says.
    fn default() -> Self {
        Self::new(Sources::of_process(), Arc::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::authority::Authority;
    use crate::tls::constraints::Constraints;
    use crate::tls::failure::TlsError;
    use crate::tls::leaf::Leaves;
    use crate::tls::others::{handshake, host, roots_of};
    use std::future::poll_fn;
    use std::task::Poll;
    use tokio_rustls::rustls::HandshakeKind;

    fn authority() -> Authority {
        Authority::in_memory(&Constraints::none()).unwrap()
    }

    #[test]
    fn what_the_environment_names() {
        type Row = (&'static [(&'static str, &'static str)], (Option<&'static str>, Option<&'static str>, Option<&'static str>));
        let rows: [Row; 7] = [
            (&[], (None, None, None)),
            (&[(FILE, ""), (FOLDERS, " "), (ADDED, "")], (None, None, None)),
            (&[(FILE, "/f")], (None, Some("/f"), None)),
            (&[(FILE, "/f"), (FOLDERS, "/d:/e")], (None, Some("/f"), Some("/d:/e"))),
            (&[(ADDED, "/a"), (FILE, "/f"), (FOLDERS, "/d")], (Some("/a"), None, None)),
            (&[(ADDED, " "), (FILE, "/f")], (None, Some("/f"), None)),
            (&[("NODE_TLS_REJECT_UNAUTHORIZED", "0"), ("GIT_SSL_NO_VERIFY", "1"), ("SSLKEYLOGFILE", "/k")], (None, None, None)),
        ];
        for (variables, (added, file, folders)) in rows {
            let expected = Sources { added: added.map(PathBuf::from), file: file.map(PathBuf::from), folders: folders.map(str::to_owned) };
            assert_eq!(Sources::read(variables.iter().copied()), expected, "{variables:?}");
        }
    }

    #[test]
    fn a_named_file_that_cannot_be_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("roots.pem");
        let path = file.to_str().unwrap();
        let error = |variable| Roots::load(&Sources::read([(variable, path)]), &[]).unwrap_err().to_string();
        for variable in [FILE, ADDED] {
            let _ = std::fs::remove_file(&file);
            let missing = error(variable);
            assert!(missing.starts_with(&format!("the environment variable `{variable}`: cannot read `{path}`: ")), "{missing}");
            std::fs::write(&file, "nothing").unwrap();
            let empty = error(variable);
            assert!(empty.contains(&format!("`{variable}`: `{path}` has no certificate")), "{empty}");
            std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nMAMC!\n-----END CERTIFICATE-----\n").unwrap();
            let broken = error(variable);
            assert!(broken.contains(&format!("`{variable}`: `{path}`, line 2: this is not base64; mend")), "{broken}");
            std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nMAMCAQc=\n-----END CERTIFICATE-----\n").unwrap();
            let unusable = error(variable);
            assert_eq!(
                unusable,
                format!("the environment variable `{variable}` names nothing with an authority's certificate in it: `{path}`")
            );
        }
        let _ = std::fs::remove_file(&file);
        let folders = Roots::load(&Sources::read([(FOLDERS, folder.path().to_str().unwrap())]), &[]).unwrap_err();
        assert!(matches!(folders, RootsError::Unusable { variable: FOLDERS, .. }), "{folders}");
    }

    #[test]
    fn files_and_folders_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (authority(), authority());
        let file = folder.path().join("one.pem");
        std::fs::write(&file, format!("{}# once more\n{}", one.pem(), one.pem())).unwrap();
        let inside = folder.path().join("certs");
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join("two.pem"), format!("{}-----BEGIN CERTIFICATE-----\nMAMC!\n-----END CERTIFICATE-----\n", two.pem()))
            .unwrap();
        // What else may lie there.
        std::fs::create_dir(inside.join("java")).unwrap();
        std::fs::write(inside.join("README"), [0xff, 0, b'\n']).unwrap();
        std::fs::write(inside.join("long.pem"), format!("{}{}", authority().pem(), " ".repeat(MAX_PEM))).unwrap();
        #[cfg(unix)]
        let _socket = std::os::unix::net::UnixListener::bind(inside.join("socket")).unwrap();
        #[cfg(unix)]
        for (link, to) in [("5ed36f99.0", "two.pem"), ("gone.pem", "nowhere")] {
            std::os::unix::fs::symlink(to, inside.join(link)).unwrap();
        }
        let both = std::env::join_paths([inside.as_path(), Path::new("/nowhere/at/all")]).unwrap();
        let (file, both) = (file.to_str().unwrap(), both.to_str().unwrap());
        let read = |variables: &[(&str, &str)]| Sources::read(variables.iter().copied()).certificates().unwrap();
        assert_eq!(read(&[(FILE, file)]), [one.der().clone()], "each once");
        assert_eq!(read(&[(FOLDERS, both)]), [two.der().clone()]);
        assert_eq!(read(&[(FILE, file), (FOLDERS, both)]), [one.der().clone(), two.der().clone()]);
        let added = Sources { added: Some(file.into()), file: None, folders: Some(both.to_owned()) };
        assert_eq!(added.certificates().unwrap(), [two.der().clone(), one.der().clone()]);
    }

    #[tokio::test]
    async fn our_own_authority_is_never_trusted() {
        let ours = Arc::new(authority());
        let leaves = Leaves::new(Arc::clone(&ours), 8).unwrap();
        let server = leaves.server_config(&host("a.test"), Alpn::Http1).await.unwrap();
        let (_folder, roots) = roots_of(ours.der(), &[]);
        assert_eq!(roots.authorities(), 1);
        assert!(handshake(&roots.client_config(Alpn::Http1, None), &server, "a.test").is_ok());
        let (_folder, roots) = roots_of(ours.der(), &[ours.der().clone()]);
        assert_eq!(roots.authorities(), 0);
        let error = handshake(&roots.client_config(Alpn::Http1, None), &server, "a.test").unwrap_err();
        assert_eq!(TlsError::from(&error), TlsError::UnknownIssuer);
    }

    #[tokio::test]
    async fn sessions_go_on_whatever_is_offered() {
        let origin = Arc::new(authority());
        let leaves = Leaves::new(Arc::clone(&origin), 8).unwrap();
        let (_folder, roots) = roots_of(origin.der(), &[]);
        let mut kinds = Vec::new();
        for (offered, taken) in [(Alpn::Http1, Alpn::Http1), (Alpn::Both, Alpn::Http2), (Alpn::None, Alpn::None)] {
            let server = leaves.server_config(&host("a.test"), taken).await.unwrap();
            let (client, _) = handshake(&roots.client_config(offered, None), &server, "a.test").unwrap();
            kinds.extend(client.handshake_kind());
        }
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]);
    }

    #[tokio::test]
    async fn roots_are_read_when_they_are_needed_first() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("roots.pem");
        let trust = Trust::new(Sources::read([(ADDED, ""), (FILE, file.to_str().unwrap())]), Arc::default());
        assert!(trust.roots().await.is_err());
        std::fs::write(&file, authority().pem()).unwrap();
        let first = trust.roots().await.unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(Arc::ptr_eq(&first, &trust.roots().await.unwrap()));
    }

    #[tokio::test]
    async fn what_was_read_is_there_when_the_files_are_out_of_reach() {
        let folder = tempfile::tempdir().unwrap();
        let (file, inside) = (folder.path().join("roots.pem"), folder.path().join("certs"));
        let variables = [(FILE, file.to_str().unwrap()), (FOLDERS, inside.to_str().unwrap())];
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join("one.pem"), authority().pem()).unwrap();
        std::fs::write(&file, authority().pem()).unwrap();
        let trust = Trust::new(Sources::read(variables), Arc::default());
        trust.read().await;
        std::fs::remove_file(&file).unwrap();
        std::fs::remove_dir_all(&inside).unwrap();
        // Whoever asks first is given up in the middle of it.
        let mut given_up = Box::pin(trust.roots());
        poll_fn(|cx| Poll::Ready(given_up.as_mut().poll(cx).is_ready())).await;
        drop(given_up);
        assert_eq!(trust.roots().await.unwrap().authorities(), 2);
        assert!(trust.content().is_none(), "it is known what it says");

        // What was wrong then is told, until it is mended.
        std::fs::write(&file, "nothing").unwrap();
        let trust = Trust::new(Sources::read(variables), Arc::default());
        trust.read().await;
        std::fs::remove_file(&file).unwrap();
        for _ in 0..2 {
            let error = trust.roots().await.unwrap_err().to_string();
            assert!(error.contains("has no certificate"), "{error}");
        }
        std::fs::write(&file, authority().pem()).unwrap();
        assert_eq!(trust.roots().await.unwrap().authorities(), 1);
    }

    #[tokio::test]
    async fn an_authority_that_becomes_ours_is_trusted_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("roots.pem");
        let (ours, other, unknown) = (authority(), authority(), authority());
        std::fs::write(&file, format!("{}{}", ours.pem(), other.pem())).unwrap();
        let own = Arc::<Own>::default();
        let trust = Trust::new(Sources::read([(FILE, file.to_str().unwrap())]), Arc::clone(&own));
        let first = trust.roots().await.unwrap();
        assert_eq!(first.authorities(), 2);
        // Files are out of reach by then.
        std::fs::remove_file(&file).unwrap();
        own.add(unknown.der());
        assert!(Arc::ptr_eq(&first, &trust.roots().await.unwrap()), "it was not trusted before");
        own.add(ours.der());
        let second = trust.roots().await.unwrap();
        assert_eq!(second.authorities(), 1);
        own.add(ours.der());
        assert!(Arc::ptr_eq(&second, &trust.roots().await.unwrap()));
    }

    #[test]
    fn nothing_is_accepted_without_being_held_against_the_roots() {
        let (_folder, roots) = roots_of(authority().der(), &[]);
        let other = authority();
        let leaf = other.issue(&host("a.test"), std::time::SystemTime::now()).unwrap().key;
        for alpn in Alpn::ALL {
            let config = roots.client_config(alpn, None);
            assert!(!config.enable_early_data && config.enable_sni);
            assert_eq!(config.alpn_protocols, alpn.protocols());
            // Its verifier is not to be had; the handshake tells.
            let server = tokio_rustls::rustls::ServerConfig::builder_with_provider(Arc::clone(provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(tokio_rustls::rustls::sign::SingleCertAndKey::from(Arc::clone(&leaf))));
            let error = handshake(&config, &Arc::new(server), "a.test").unwrap_err();
            assert_eq!(TlsError::from(&error), TlsError::UnknownIssuer);
        }
    }
}
