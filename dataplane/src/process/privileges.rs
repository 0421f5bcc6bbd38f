//! From root to a user that can do little, for good.

use nix::unistd::{Gid, Group, Uid, User, getresgid, getresuid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Whom to become.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    name: String,
    user: Uid,
    group: Gid,
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}:{})", self.name, self.user, self.group)
    }
}

impl Account {
    /// `USER` or `USER:GROUP`, each by name or by number.
    ///
    /// # Errors
    /// There is no such user or group, or it is root.
    pub(crate) fn find(text: &str) -> Result<Self, String> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let failed = |error: nix::Error| format!("--user {text}: cannot be looked up: {error}");
        let known = match user.parse() {
            Ok(number) => User::from_uid(Uid::from_raw(number)),
            Err(_) => User::from_name(user),
        }
        .map_err(failed)?;
        let uid = match (&known, user.parse()) {
            (Some(known), _) => known.uid,
            (None, Ok(number)) => Uid::from_raw(number),
            (None, Err(_)) => return Err(format!("--user {text}: there is no user `{user}`")),
        };
        let gid = match group.map(|group| (group, group.parse())) {
            Some((_, Ok(number))) => Gid::from_raw(number),
            Some((group, Err(_))) => {
                Group::from_name(group).map_err(failed)?.ok_or_else(|| format!("--user {text}: there is no group `{group}`"))?.gid
            }
            None => known.ok_or_else(|| format!("--user {text}: user {uid} has no entry; write {uid}:GID"))?.gid,
        };
        if uid.is_root() {
            return Err(format!("--user {text}: that is root; name a user that can do less"));
        }
        Ok(Self { name: user.to_owned(), user: uid, group: gid })
    }

    pub(crate) fn ids(&self) -> (u32, u32) {
        (self.user.as_raw(), self.group.as_raw())
    }

    /// Becomes the user, with this one group, and makes sure that there is no way back. For all threads, as the C library does it.
    ///
    /// # Errors
    /// Not root, and not that user already; or the system refuses.
    pub(crate) fn become_it(&self) -> Result<(), String> {
        let failed = |what: &str, error: nix::Error| format!("cannot become user {self}: {what}: {error}");
        if !Uid::effective().is_root() {
            return if self.is_it()? { Ok(()) } else { Err(format!("cannot become user {self}: that needs root")) };
        }
        setgroups(&[self.group]).map_err(|error| failed("setgroups", error))?;
        setresgid(self.group, self.group, self.group).map_err(|error| failed("setresgid", error))?;
        setresuid(self.user, self.user, self.user).map_err(|error| failed("setresuid", error))?;
        let root = Uid::from_raw(0);
        if !self.is_it()? || setresuid(root, root, root).is_ok() || Uid::effective().is_root() {
            return Err(format!("cannot become user {self}: there is a way back to root"));
        }
        Ok(())
    }

    fn is_it(&self) -> Result<bool, String> {
        let user = getresuid().map_err(|error| error.to_string())?;
        let group = getresgid().map_err(|error| error.to_string())?;
        Ok([user.real, user.effective, user.saved] == [self.user; 3] && [group.real, group.effective, group.saved] == [self.group; 3])
    }
}

/// Gives up all capabilities. Root keeps those that let it read its files and reach the unix sockets that a policy names, whoever owns them. For this thread and those
/// that it starts.
///
/// # Errors
/// The system refuses.
pub(crate) fn drop_capabilities() -> Result<&'static str, String> {
    let keep =
        if Uid::effective().is_root() { CapabilitySet::DAC_READ_SEARCH | CapabilitySet::DAC_OVERRIDE } else { CapabilitySet::empty() };
    let has = capabilities(None).map_err(|error| error.to_string())?.permitted & keep;
    set_capabilities(None, CapabilitySets { effective: has, permitted: has, inheritable: CapabilitySet::empty() })
        .map_err(|error| error.to_string())?;
    Ok(if has.is_empty() { "none" } else { "files" })
}
