//! The secrets that hooks put into requests: of variables, and of files, which are read again when they change.

use super::authorization::joined;
use super::is_field_value;
use crate::private::{self, Links};
use policy_format::Secret;
use std::collections::HashMap;
use std::fmt;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

/// Bytes that a file with a secret may have.
const MAX_FILE: usize = 64 << 10;
/// Files whose secrets are kept.
const MAX_FILES: usize = 1024;
/// How long a change may go unseen in the times of a file: those of some file systems are two seconds apart.
const SETTLED: Duration = Duration::from_secs(2);

/// Where hooks get their secrets.
pub(crate) struct HookSecrets {
    variables: HashMap<String, Zeroizing<String>>,
    files: Mutex<HashMap<PathBuf, Kept>>,
}

/// A secret of a file, as it was read.
struct Kept {
    stamp: Stamp,
    /// Whether the file had not been written to for long enough that another change shows.
    settled: bool,
    value: Zeroizing<Vec<u8>>,
}

/// What is another when a file is another, or has other content.
#[derive(PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    /// Device and number of the file, and when anything of it was changed, which nobody can set.
    #[cfg(unix)]
    identity: (u64, u64, i64, i64),
}

/// Why there is no secret. A request that needs it is not sent. Nothing of a value is in here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecretError {
    /// The variable is not set, or empty.
    #[error("the environment variable `{0}` of the proxy, which has the secret of a hook, is not set")]
    Unset(String),
    /// The file cannot be read.
    #[error("the file `{}`, which has the secret of a hook, {what}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// There is a value that no field can have.
    #[error("{0} has bytes that cannot stand in a header field, such as the end of a line, or that are not ASCII")]
    Value(String),
}

impl SecretError {
    /// What the client is told: nothing of where secrets are.
    pub(crate) const ANSWER: &'static str =
        "the proxy has to add a secret to this request, and does not have it: whoever runs the proxy finds the reason in its log";
}

impl HookSecrets {
    /// With the environment of the proxy, or what hooks may use of it.
    pub(crate) fn new(environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let variables = environment.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect();
        Self { variables, files: Mutex::default() }
    }

    /// The value of a field: what a secret is now, behind `prefix`. A file is looked at every time, which is one system call, and read if it changed.
    ///
    /// # Errors
    /// [`SecretError`]; then the request must not be sent.
    pub(crate) fn value(&self, secret: &Secret, prefix: &str) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        match secret {
            Secret::Env(name) => {
                let value = self.variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
                let value = value.ok_or_else(|| SecretError::Unset(name.clone()))?;
                field(prefix, value.as_bytes()).ok_or_else(|| SecretError::Value(format!("the environment variable `{name}`")))
            }
            Secret::File(path) => {
                let path = Path::new(path);
                self.with_file(path, |value| field(prefix, value))?
                    .ok_or_else(|| SecretError::Value(format!("the file `{}`", path.display())))
            }
        }
    }

    fn with_file<T>(&self, path: &Path, use_it: impl Fn(&[u8]) -> T) -> Result<T, SecretError> {
        let failed = |what: String| SecretError::File { path: path.to_owned(), what };
        let unreadable = |error: io::Error| failed(format!("cannot be read: {error}"));
        let found = Stamp::of(&std::fs::metadata(path).map_err(unreadable)?);
        if let Some(kept) = self.files().get(path).filter(|kept| kept.settled && kept.stamp == found) {
            return Ok(use_it(&kept.value));
        }
        // The file that was looked at may be another by now: what counts is the one that is opened.
        let file = private::open(path, Links::Followed).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(failed("is no regular file".to_owned()));
        }
        let now = SystemTime::now();
        let stamp = Stamp::of(&metadata);
        let value =
            private::content(file, MAX_FILE).map_err(unreadable)?.ok_or_else(|| failed(format!("has more than {MAX_FILE} bytes")))?;
        let value = Zeroizing::new(value.trim_ascii().to_vec());
        if value.is_empty() {
            return Err(failed("is empty".to_owned()));
        }
        let result = use_it(&value);
        let mut files = self.files();
        if files.len() >= MAX_FILES && !files.contains_key(path) {
            files.clear();
        }
        files.insert(path.to_owned(), Kept { settled: stamp.is_settled(now), stamp, value });
        Ok(result)
    }

    fn files(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Kept>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for HookSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookSecrets").finish_non_exhaustive()
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            #[cfg(unix)]
            identity: {
                use std::os::unix::fs::MetadataExt;
                (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
            },
        }
    }

    /// Whether a change after `now` would give the file another time.
    fn is_settled(&self, now: SystemTime) -> bool {
        #[cfg(unix)]
        let changed =
            u64::try_from(self.identity.2).ok().and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        #[cfg(not(unix))]
        let changed = self.modified;
        changed.and_then(|changed| now.duration_since(changed).ok()).is_some_and(|age| age > SETTLED)
    }
}

fn field(prefix: &str, value: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    (is_field_value(prefix.as_bytes()) && is_field_value(value)).then(|| joined(&[prefix.as_bytes(), value]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    fn secrets() -> HookSecrets {
        HookSecrets::new(
            [("TOKEN", "top-secret"), ("LINE", "top-secret\n"), ("EMPTY", " "), ("BAD", "top\r\nsecret"), ("FOREIGN", "gehëim")]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        )
    }

    fn said(secrets: &HookSecrets, secret: &Secret, prefix: &str) -> Result<String, String> {
        let value = secrets.value(secret, prefix);
        value.map(|value| String::from_utf8(value.to_vec()).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn variables_are_values_or_errors() {
        let secrets = secrets();
        let unset = |name| Err(format!("the environment variable `{name}` of the proxy, which has the secret of a hook, is not set"));
        let bad = |name| {
            Err(format!(
                "the environment variable `{name}` has bytes that cannot stand in a header field, such as the end of a line, or that are not ASCII"
            ))
        };
        let cases = [
            ("TOKEN", "", Ok("top-secret".to_owned())),
            ("TOKEN", "Bearer ", Ok("Bearer top-secret".to_owned())),
            ("LINE", "", Ok("top-secret".to_owned())),
            ("EMPTY", "", unset("EMPTY")),
            ("ABSENT", "", unset("ABSENT")),
            ("BAD", "", bad("BAD")),
            ("FOREIGN", "", bad("FOREIGN")),
            ("TOKEN", "a\nb", bad("TOKEN")),
        ];
        for (name, prefix, expected) in cases {
            assert_eq!(said(&secrets, &Secret::Env(name.to_owned()), prefix), expected, "{name}");
        }
        assert!(!format!("{secrets:?}").contains("top-secret"));
    }

    #[test]
    fn files_are_read_again_when_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let secret = Secret::File(path.to_str().unwrap().to_owned());
        let secrets = secrets();
        let changes: [&dyn Fn(); 5] = [
            &|| fs::write(&path, "first-one\n").unwrap(),
            // In place, of the same length.
            &|| fs::write(&path, "other-one\n").unwrap(),
            &|| fs::write(&path, "another, longer one").unwrap(),
            // Another file in its place, with the old times.
            &|| {
                let next = folder.path().join("next");
                fs::write(&next, "renamed").unwrap();
                let times = fs::FileTimes::new().set_modified(fs::metadata(&path).unwrap().modified().unwrap());
                File::options().write(true).open(&next).unwrap().set_times(times).unwrap();
                fs::rename(&next, &path).unwrap();
            },
            #[cfg(unix)]
            &|| {
                fs::write(folder.path().join("linked"), "\tlinked \r\n").unwrap();
                fs::remove_file(&path).unwrap();
                std::os::unix::fs::symlink("linked", &path).unwrap();
            },
            #[cfg(not(unix))]
            &|| fs::write(&path, "linked").unwrap(),
        ];
        for (change, expected) in changes.iter().zip(["first-one", "other-one", "another, longer one", "renamed", "linked"]) {
            change();
            for _ in 0..2 {
                assert_eq!(said(&secrets, &secret, ""), Ok(expected.to_owned()));
            }
        }
        assert_eq!(said(&secrets, &secret, "token "), Ok("token linked".to_owned()));
        // What is gone is not remembered.
        fs::remove_file(&path).unwrap();
        let error = said(&secrets, &secret, "").unwrap_err();
        assert!(error.contains("which has the secret of a hook, cannot be read") && !error.contains("linked "), "{error}");
    }

    /// What is kept is used, as long as the file's times tell a change.
    #[test]
    fn files_are_kept_once_their_times_tell() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "secret").unwrap();
        let stamp = || Stamp::of(&fs::metadata(&path).unwrap());
        let now = SystemTime::now();
        assert!(!stamp().is_settled(now), "it was just written");
        assert!(stamp().is_settled(now + Duration::from_secs(5)));
        // A clock that was set back.
        assert!(!stamp().is_settled(now - Duration::from_secs(5)));
        let secrets = secrets();
        let secret = Secret::File(path.to_str().unwrap().to_owned());
        assert_eq!(said(&secrets, &secret, ""), Ok("secret".to_owned()));
        assert!(!secrets.files().get(&path).unwrap().settled);
        // Another value, to tell where it comes from.
        *secrets.files().get_mut(&path).unwrap() = Kept { stamp: stamp(), settled: true, value: Zeroizing::new(b"kept".to_vec()) };
        assert_eq!(said(&secrets, &secret, ""), Ok("kept".to_owned()));
        fs::write(&path, "longer secret").unwrap();
        assert_eq!(said(&secrets, &secret, ""), Ok("longer secret".to_owned()));
    }

    #[test]
    fn files_that_cannot_be_secrets_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let mut cases = vec![
            (folder.path().join("absent"), "cannot be read"),
            (folder.path().to_owned(), "is no regular file"),
            (file("empty", b""), "is empty"),
            (file("blank", b" \n\n"), "is empty"),
            (file("lines", b"top\nsecret\n"), "cannot stand in a header field"),
            (file("nul", b"top\0secret"), "cannot stand in a header field"),
            (file("foreign", "gehëim".as_bytes()), "not ASCII"),
            (file("long", &vec![b'a'; MAX_FILE + 1]), "has more than 65536 bytes"),
        ];
        #[cfg(unix)]
        {
            let pipe = folder.path().join("pipe");
            rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
            cases.push((pipe, "is no regular file"));
            let dangling = folder.path().join("dangling");
            std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
            cases.push((dangling, "cannot be read"));
        }
        let secrets = secrets();
        for (path, expected) in cases {
            let error = said(&secrets, &Secret::File(path.to_str().unwrap().to_owned()), "").unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("top"), "{error}");
        }
        let most = file("most", &[b'a'; MAX_FILE]);
        assert_eq!(said(&secrets, &Secret::File(most.to_str().unwrap().to_owned()), "").unwrap().len(), MAX_FILE);
    }
}
