//! Files with secrets that callers show: their owner's alone, read again when they change.

use crate::policy::reload::Stamp;
use crate::private::{self, Links, Shared};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Bytes that a file may have.
const MAX_FILE: usize = 64 << 10;
/// How long a change may go unseen in the times of a file: those of some file systems are two seconds apart.
const SETTLED: Duration = Duration::from_secs(2);

/// Why a file of the admin API cannot be used. Nothing of what is in it is in here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminFileError {
    /// It cannot be read.
    #[error("cannot read `{path}`: {error}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A folder, a pipe, a device.
    #[error("`{path}` is not a regular file")]
    NotAFile {
        /// Which file.
        path: PathBuf,
    },
    /// Others may read or write it.
    #[error("`{path}` is open to others than its owner (mode {mode:04o}); run `chmod 600 {path}`")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Its owner may read and write it.
    #[error("`{path}` belongs to user {owner}; it has to belong to root or to the user of the proxy, {user} (`chown`)")]
    Owner {
        /// Which file.
        path: PathBuf,
        /// The owner's number.
        owner: u32,
        /// The number of the user of this process.
        user: u32,
    },
    /// What is in it.
    #[error("`{path}` cannot be used: {what}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The system has no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// What was read of a file.
pub(super) struct Kept<T> {
    path: PathBuf,
    stamp: Option<Stamp>,
    read: Instant,
    /// `None` while the file cannot be used.
    value: Option<T>,
}

impl<T> Kept<T> {
    pub(super) fn read(path: PathBuf, parse: impl Fn(&[u8]) -> Result<T, String>) -> Result<Self, AdminFileError> {
        // Before it is read, so that no change between the two is missed.
        let stamp = Stamp::of(&path);
        let value = parsed(&path, parse)?;
        Ok(Self { path, stamp, read: Instant::now(), value: Some(value) })
    }
}

/// Uses what the file says now; `None` where it cannot be read. `fault` is told when that begins.
pub(super) fn with<T, R>(
    kept: &Mutex<Kept<T>>,
    parse: impl Fn(&[u8]) -> Result<T, String>,
    fault: &dyn Fn(&str),
    use_it: impl FnOnce(&T) -> R,
) -> Option<R> {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    let stamp = Stamp::of(&kept.path);
    let changed = stamp != kept.stamp;
    if changed || kept.read.elapsed() < SETTLED {
        match parsed(&kept.path, parse) {
            Ok(value) => kept.value = Some(value),
            // The same file, which we may not read any more: what was read of it holds.
            Err(_) if !changed => {}
            Err(error) => {
                kept.value = None;
                fault(&format!("the admin API takes no token of this file until it can be read: {error}"));
            }
        }
        if changed {
            (kept.stamp, kept.read) = (stamp, Instant::now());
        }
    }
    kept.value.as_ref().map(use_it)
}

fn parsed<T>(path: &Path, parse: impl Fn(&[u8]) -> Result<T, String>) -> Result<T, AdminFileError> {
    parse(&secret(path)?).map_err(|what| AdminFileError::Content { path: path.to_owned(), what })
}

/// What is in a file that is its owner's alone. It is looked at after it was opened, so that it is the one that is read.
fn secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, AdminFileError> {
    let read = |error| AdminFileError::Read { path: path.to_owned(), error };
    let file = private::open(path, Links::Followed).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(AdminFileError::NotAFile { path: path.to_owned() });
    }
    private::check(&metadata).map_err(|shared| match shared {
        Shared::Mode(mode) => AdminFileError::Mode { path: path.to_owned(), mode },
        Shared::Owner { owner, user } => AdminFileError::Owner { path: path.to_owned(), owner, user },
    })?;
    let content = private::content(file, MAX_FILE).map_err(read)?;
    content.ok_or_else(|| AdminFileError::Content { path: path.to_owned(), what: format!("it has more than {MAX_FILE} bytes") })
}
