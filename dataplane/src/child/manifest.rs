//! The manifest: what a running proxy says of itself to those who start children, as JSON.

use super::state::{Kind, lock};
use super::variables::{ChildEnv, Files};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The file that `netproxy-dp env` looks at.
pub const CURRENT: &str = "current.json";

/// Of this form of it.
const VERSION: u64 = 1;

/// No manifest is longer.
const MAX_BYTES: u64 = 64 << 10;

/// A running proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its process.
    pub pid: u32,
    /// What its children are told. The program for ssh is not in the manifest: it is the reader's.
    pub env: ChildEnv,
    /// Where its admin API is, for those who look at it; `None` where it is not said.
    pub admin: Option<SocketAddr>,
    /// Files and folders of authorities that the user had named when it started, and that are in the bundle.
    pub included: Vec<PathBuf>,
    /// The file in the same folder that it holds a lock on.
    pub(crate) lease: String,
}

/// Why no proxy was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// None has been there.
    #[error(
        "no proxy is running: there is no `{0}`; start one with `netproxy-dp`, or run a command under one of its own with `netproxy-dp exec`"
    )]
    None(PathBuf),
    /// It was there.
    #[error("no proxy is running: process {pid}, which wrote `{path}`, has ended")]
    Ended {
        /// Its process.
        pid: u32,
        /// The manifest.
        path: PathBuf,
    },
    /// The file.
    #[error("cannot read `{path}`: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Its content.
    #[error("`{0}` is not a manifest that this version of netproxy-dp has written")]
    Malformed(PathBuf),
}

/// The name of a lease.
pub(crate) fn lease_name(random: &str) -> String {
    format!("proxy-{random}.json")
}

pub(crate) fn is_lease(name: &str) -> bool {
    let random = name.strip_prefix("proxy-").and_then(|rest| rest.strip_suffix(".json"));
    random.is_some_and(|random| random.len() == 32 && random.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl Manifest {
    /// The proxy that runs and has `folder` for its state folder.
    ///
    /// # Errors
    /// [`ManifestError`]; among others, that it has ended.
    pub fn running(folder: &Path) -> Result<Self, ManifestError> {
        let manifest = Self::read(folder, CURRENT)?;
        if !lock::is_held(&folder.join(&manifest.lease)) {
            return Err(ManifestError::Ended { pid: manifest.pid, path: folder.join(CURRENT) });
        }
        Ok(manifest)
    }

    pub(crate) fn read(folder: &Path, name: &str) -> Result<Self, ManifestError> {
        let path = folder.join(name);
        let read = || {
            let mut text = String::new();
            File::open(&path)?.take(MAX_BYTES).read_to_string(&mut text)?;
            Ok(text)
        };
        let text = read().map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => ManifestError::None(path.clone()),
            _ => ManifestError::Io { path: path.clone(), error },
        })?;
        // What a power cut may leave of one that was just written.
        if text.bytes().all(|byte| byte == 0) {
            return Err(ManifestError::None(path));
        }
        Self::parse(folder, &text).ok_or(ManifestError::Malformed(path))
    }

    /// Names are of files in the folder itself, and of those that are written there.
    fn parse(folder: &Path, text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let text = |value: &Value, key: &str| value.get(key)?.as_str().map(str::to_owned);
        if value.get("version")?.as_u64()? != VERSION {
            return None;
        }
        let files = match value.get("files")? {
            Value::Null => None,
            files => {
                let path = |key: &str, kind: Kind| text(files, key).filter(|name| kind.is_name(name)).map(|name| folder.join(name));
                Some(Files {
                    authority: path("authority", Kind::Authority)?,
                    bundle: path("bundle", Kind::Bundle)?,
                    truststore: path("truststore", Kind::Truststore)?,
                    wgetrc: path("wgetrc", Kind::Wgetrc)?,
                    php: path("php", Kind::Php)?,
                })
            }
        };
        let socks5 = match value.get("socks5")? {
            Value::Null => None,
            address => Some(address.as_str()?.parse().ok()?),
        };
        let admin = match value.get("admin") {
            None | Some(Value::Null) => None,
            Some(address) => Some(address.as_str()?.parse().ok()?),
        };
        let env = ChildEnv {
            http: text(&value, "http")?.parse().ok()?,
            socks5,
            allow_local_binding: value.get("allow_local_binding")?.as_bool()?,
            files,
            connect: None,
        };
        let included = value.get("included")?.as_array()?.iter().filter_map(Value::as_str).map(PathBuf::from).collect();
        let lease = text(&value, "lease").filter(|name| is_lease(name))?;
        Some(Self { pid: u32::try_from(value.get("pid")?.as_u64()?).ok()?, env, admin, included, lease })
    }

    pub(crate) fn json(&self) -> String {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let files = self.env.files.as_ref().map(|files| {
            json!({
                "authority": name(&files.authority),
                "bundle": name(&files.bundle),
                "truststore": name(&files.truststore),
                "wgetrc": name(&files.wgetrc),
                "php": name(&files.php),
            })
        });
        let manifest = json!({
            "version": VERSION,
            "pid": self.pid,
            "lease": self.lease,
            "http": self.env.http.to_string(),
            "socks5": self.env.socks5.map(|address| address.to_string()),
            "admin": self.admin.map(|address| address.to_string()),
            "allow_local_binding": self.env.allow_local_binding,
            "files": files,
            "included": self.included.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>(),
        });
        format!("{manifest:#}\n")
    }

    /// The names of its files.
    pub(crate) fn file_names(&self) -> Vec<String> {
        let Some(files) = &self.env.files else { return Vec::new() };
        [&files.authority, &files.bundle, &files.truststore, &files.wgetrc, &files.php]
            .into_iter()
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;

    fn manifest() -> Manifest {
        let folder = Path::new("/state");
        let name = |before: &str, behind: &str| folder.join(format!("{before}{}{behind}", "0".repeat(64)));
        let files = Files {
            authority: name("ca-", ".pem"),
            bundle: name("ca-bundle-", ".pem"),
            truststore: name("truststore-", ".p12"),
            wgetrc: name("wgetrc-", ""),
            php: name("php-", ""),
        };
        let (http, socks5) = ("127.0.0.1:3128".parse().unwrap(), Some("[::1]:8081".parse().unwrap()));
        let env = ChildEnv { http, socks5, allow_local_binding: true, files: Some(files), connect: None };
        Manifest {
            pid: 7,
            env,
            admin: Some("127.0.0.1:8080".parse().unwrap()),
            included: vec!["/etc/corp.pem".into()],
            lease: lease_name(&"a".repeat(32)),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let full = manifest();
        let bare =
            Manifest { env: ChildEnv { socks5: None, files: None, ..full.env.clone() }, admin: None, included: Vec::new(), ..full.clone() };
        for manifest in [full, bare] {
            assert_eq!(Manifest::parse(Path::new("/state"), &manifest.json()), Some(manifest));
        }
    }

    #[test]
    fn what_a_power_cut_leaves_is_no_proxy() {
        let folder = tempfile::tempdir().unwrap();
        for (text, is_none) in [("", true), ("\0\0\0", true), ("{", false), ("\0{}", false)] {
            std::fs::write(folder.path().join("current.json"), text).unwrap();
            let error = Manifest::read(folder.path(), "current.json").unwrap_err();
            assert_eq!(matches!(error, ManifestError::None(_)), is_none, "{text:?}: {error}");
        }
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        let text = manifest().json();
        for (from, to) in [
            ("ca-bundle-", "../ca-bundle-"),
            ("\"truststore\": \"truststore-", "\"truststore\": \"/etc/passwd"),
            ("127.0.0.1:3128", "proxy.test:3128"),
            ("127.0.0.1:3128", "127.0.0.1:3128'; id; '"),
            ("127.0.0.1:8080", "admin.test:8080"),
            ("\"lease\": \"proxy-", "\"lease\": \"../proxy-"),
            ("\"version\": 1", "\"version\": 2"),
            ("{", ""),
        ] {
            assert_ne!(text.replace(from, to), text);
            assert_eq!(Manifest::parse(Path::new("/state"), &text.replace(from, to)), None, "{to}");
        }
    }
}
