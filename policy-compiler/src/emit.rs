//! Policy to blob; written beside its place, synced, renamed into it.

use crate::policy::Policy;
use policy_format::{BlobBuilder, BuildError, Hook, MAX_HOOKS, ProfileId, Profiles, RuleInput, RuleSet};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Policies on their way into one blob: the first is its default profile, the others are profiles beside it. Same policies, same bytes.
#[derive(Debug)]
pub struct Lowering {
    builder: BlobBuilder,
    hooks: Vec<Hook>,
}

impl Lowering {
    /// With the default profile.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let (meta, settings, rules, listed, hooks) = policy.into_parts();
        let mut lowering = Self { builder: BlobBuilder::new(meta), hooks: Vec::new() };
        lowering.builder.settings(ProfileId::default(), settings);
        lowering.fill(ProfileId::default(), rules, listed, hooks);
        lowering
    }

    /// Adds a profile. Its rules take less room here than in the policy, which is gone afterwards.
    pub fn add(&mut self, policy: Policy) {
        let (meta, settings, rules, listed, hooks) = policy.into_parts();
        let profile = self.builder.profile(meta);
        self.builder.settings(profile, settings);
        self.fill(profile, rules, listed, hooks);
    }

    /// Adds the rules of one profile. Hooks that others have too stand once, as long as the order stays in which each profile tries them.
    fn fill(&mut self, profile: ProfileId, rules: Vec<RuleInput>, mut listed: RuleSet, hooks: Vec<Hook>) {
        let profiles = Profiles::only(profile);
        listed.set_profiles(profiles);
        // The many first: what comes first is taken as it is.
        self.builder.rules(listed);
        for rule in rules {
            self.builder.rule(RuleInput { profiles, ..rule });
        }
        let mut next = 0;
        for mut hook in hooks {
            // More than there may be are refused when the blob is written: which are the same does not matter then.
            let room = MAX_HOOKS.saturating_sub(next);
            let same = self.hooks.iter_mut().enumerate().skip(next).take(room).find(|(_, there)| {
                hook.profiles = there.profiles;
                **there == hook
            });
            match same {
                Some((at, there)) => {
                    there.profiles = there.profiles.union(profiles);
                    next = at + 1;
                }
                None => {
                    hook.profiles = profiles;
                    self.hooks.insert(next, hook);
                    next += 1;
                }
            }
        }
    }

    /// The blob.
    ///
    /// # Errors
    /// [`BuildError`] when the policies are larger than the format can count.
    pub fn build(mut self) -> Result<Vec<u8>, BuildError> {
        for hook in self.hooks {
            self.builder.hook(hook);
        }
        self.builder.build()
    }
}

/// Replaces the file at `path` whole: readers see the old bytes or the new ones, and after a crash one of the two is there. A symbolic link is followed; what is not
/// a regular file (a pipe, `/dev/stdout`) is written to as it is.
///
/// # Errors
/// Whatever the file system says.
pub fn write(path: &Path, blob: &[u8]) -> io::Result<()> {
    replace(path, blob, false)
}

/// Like [`write()`], for a file that people wrote: it keeps its permissions, for it may hold secrets.
///
/// # Errors
/// Whatever the file system says.
pub fn rewrite(path: &Path, text: &[u8]) -> io::Result<()> {
    replace(path, text, true)
}

fn replace(path: &Path, bytes: &[u8], keep_permissions: bool) -> io::Result<()> {
    let target = match fs::canonicalize(path) {
        Ok(target) if !target.is_file() => return fs::OpenOptions::new().write(true).open(target)?.write_all(bytes),
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // What is wrong with the folder is said of it, not of a file that nobody named.
    fs::metadata(folder)?;
    let permissions = if keep_permissions { fs::metadata(&target).ok().map(|there| there.permissions()) } else { None };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".policy-").suffix(".tmp");
    // A policy is no secret, and the data plane may run as another user; the umask still applies.
    #[cfg(unix)]
    if permissions.is_none() {
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    }
    let mut file = builder.tempfile_in(folder).map_err(|error| io::Error::from(error.kind()))?;
    file.as_file_mut().write_all(bytes)?;
    if let Some(permissions) = permissions {
        file.as_file().set_permissions(permissions)?;
    }
    file.as_file().sync_all()?;
    file.persist(&target)?;
    // The rename itself is durable once the folder is.
    #[cfg(unix)]
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_files_whole_and_follows_links() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("policy.bin"), dir.path().join("current.bin"));
        write(&file, b"one").unwrap();
        write(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&file, &link).unwrap();
            write(&link, b"three").unwrap();
            assert!(link.is_symlink());
        }
        assert_eq!(fs::read(&file).unwrap(), b"three");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left behind");
        let error = write(&dir.path().join("missing/policy.bin"), b"x").unwrap_err().to_string();
        assert!(!error.contains(".tmp") && error.contains("No such file"), "{error}");
        #[cfg(unix)]
        for mode in [0o600, 0o664] {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            rewrite(&file, b"four").unwrap();
            assert_eq!(
                (fs::read(&file).unwrap().as_slice(), fs::metadata(&file).unwrap().permissions().mode() & 0o777),
                (&b"four"[..], mode)
            );
        }
    }
}
