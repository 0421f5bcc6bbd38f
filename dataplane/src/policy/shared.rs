//! A policy file mapped as it is, so that all processes that run it share its pages.
//!
//! What a private copy gives by itself has to be seen to here: nobody may change the file while it is mapped. A file that the kernel keeps from changing
//! (a sealed memfd, or one with fs-verity) needs nothing more. Any other has to be beyond the reach of everybody but root and the user of this process, who
//! could change this process's memory anyway; it is looked at for as long as its policy is in force, and a policy whose file changed is withdrawn.

mod map;

use super::mapped::MAX_POLICY;
use crate::error::{LoadError, ShareError};
use memmap2::{Mmap, MmapOptions};
use std::fs::{self, File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Maps a policy file. What can still change comes with the [`Mapped`] that tells whether it did.
pub(crate) fn open(path: &Path, file: File) -> Result<(Mmap, Option<Mapped>), LoadError> {
    let read = |error| LoadError::Read { path: path.to_owned(), error };
    let refused = |error| LoadError::Share { path: path.to_owned(), error };
    let metadata = file.metadata().map_err(read)?;
    if metadata.len() > MAX_POLICY {
        return Err(read(io::Error::other(format!("it has {} bytes, and at most {MAX_POLICY} are read", metadata.len()))));
    }
    if let Ok(map) = MmapOptions::new().map_if_safe(&file) {
        return Ok((map, None));
    }
    let trusted = Trusted::check(path, file).map_err(refused)?;
    let map = map::shared(&trusted).map_err(read)?;
    Ok((map, Some(Mapped { path: path.to_owned(), file: trusted.file, seen: Mutex::new(trusted.state) })))
}

/// An open file that only root and the user of this process may change, or put another in the place of.
struct Trusted {
    file: File,
    state: State,
}

impl Trusted {
    fn check(path: &Path, file: File) -> Result<Self, ShareError> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file").into());
        }
        check_access(path, &metadata)?;
        // The folder of the name, and, where that is a link, the one of the file that it leads to.
        let target = fs::canonicalize(path)?;
        for name in [path, &target] {
            let folder = match name.parent() {
                Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
                Some(folder) => folder,
                None => continue,
            };
            check_access(folder, &fs::metadata(folder)?)?;
        }
        Ok(Self { file, state: State::of(&metadata) })
    }
}

/// Access lists are covered: where there is one, the group's bits are the most that it gives.
#[cfg(unix)]
fn check_access(path: &Path, metadata: &Metadata) -> Result<(), ShareError> {
    use std::os::unix::fs::MetadataExt;
    let (mode, owner, user) = (metadata.mode() & 0o7777, metadata.uid(), rustix::process::geteuid().as_raw());
    let sticky = metadata.is_dir() && mode & 0o1000 != 0;
    if mode & 0o022 != 0 && !sticky {
        return Err(ShareError::Writable { path: path.to_owned(), mode });
    }
    if owner != 0 && owner != user {
        return Err(ShareError::Owner { path: path.to_owned(), owner, user });
    }
    Ok(())
}

#[cfg(unix)]
fn is_nameless(metadata: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(metadata) == 0
}

#[cfg(not(unix))]
fn is_nameless(_: &Metadata) -> bool {
    false
}

#[cfg(not(unix))]
fn check_access(_: &Path, _: &Metadata) -> Result<(), ShareError> {
    Err(ShareError::Unsupported)
}

/// What tells that a file was written, or that more may write it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    len: u64,
    modified: Option<std::time::SystemTime>,
    /// Changes with everything, and cannot be set back: content, times, permissions, names.
    #[cfg(unix)]
    changed: (i64, i64),
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt;
        Self {
            len: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn written_since(&self, earlier: &Self) -> bool {
        (self.len, self.modified) != (earlier.len, earlier.modified)
    }
}

/// A file that is mapped, and could be changed by those who are trusted not to.
#[derive(Debug)]
pub(crate) struct Mapped {
    path: PathBuf,
    file: File,
    seen: Mutex<State>,
}

/// What a look at a mapped file found.
#[derive(Debug)]
pub(crate) enum Look {
    /// Nothing happened to it.
    Same,
    /// Something did, which may have been harmless: a new name, a new mode. What is mapped has to be verified again.
    Unclear,
    /// It was written, cut, or opened to others.
    Changed(LoadError),
}

impl Mapped {
    /// Looks at the file that is mapped, whatever has its name by now.
    pub(crate) fn look(&self) -> Look {
        let error = match self.try_look() {
            Ok(look) => return look,
            Err(error) => error,
        };
        Look::Changed(LoadError::Share { path: self.path.clone(), error })
    }

    fn try_look(&self) -> Result<Look, ShareError> {
        let metadata = self.file.metadata()?;
        let now = State::of(&metadata);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if now == *seen {
            return Ok(Look::Same);
        }
        if now.written_since(&seen) {
            return Err(ShareError::Changed);
        }
        check_access(&self.path, &metadata)?;
        *seen = now;
        // Another took its place: no name leads to it any more.
        Ok(if is_nameless(&metadata) { Look::Same } else { Look::Unclear })
    }

    /// Whether the file is, at the end of its validation, as it was when it was mapped.
    pub(crate) fn settled(&self) -> Result<(), LoadError> {
        match self.look() {
            Look::Same => Ok(()),
            Look::Unclear => Err(LoadError::Share { path: self.path.clone(), error: ShareError::Changed }),
            Look::Changed(error) => Err(error),
        }
    }

    /// What is said when what is mapped is no longer what was verified.
    pub(crate) fn damaged(&self) -> LoadError {
        LoadError::Share { path: self.path.clone(), error: ShareError::Changed }
    }
}
