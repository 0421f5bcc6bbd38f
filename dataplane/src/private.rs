//! Files with secrets: how they are opened, whose they are, how they are read. Which of it a file has to keep to, whoever reads it says: tokens and keys are their owner's
//! alone; what an orchestrator gives to a group may have links on its way.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::path::Path;
use zeroize::Zeroizing;

/// Whether a link in a file's place is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// Secrets that a container is given are links.
    Followed,
    /// Who may change a link chooses the file. Other systems than unix follow them all the same.
    Refused,
}

/// Opens a file without waiting for whoever might write into a pipe of that name. What is to be known of it is asked of what was opened.
pub(crate) fn open(path: &Path, links: Links) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        let no_links = if links == Links::Refused { OFlags::NOFOLLOW } else { OFlags::empty() };
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | no_links).bits();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, i32::try_from(flags).unwrap_or_default());
    }
    #[cfg(not(unix))]
    let _ = links;
    options.open(path)
}

/// Who else may use a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shared {
    /// Others than its owner, by these permissions.
    Mode(u32),
    /// Its owner, who is neither root nor the user of this process.
    Owner {
        /// The owner's number.
        owner: u32,
        /// The number of the user of this process.
        user: u32,
    },
}

/// Whether a file is its owner's alone, and its owner one that could read it anyway. Access lists are covered: where there is one, the group's bits are the most that it gives.
#[cfg(unix)]
pub(crate) fn check(metadata: &Metadata) -> Result<(), Shared> {
    use std::os::unix::fs::MetadataExt;
    let (mode, owner, user) = (metadata.mode() & 0o7777, metadata.uid(), rustix::process::geteuid().as_raw());
    if mode & !0o600 != 0 {
        return Err(Shared::Mode(mode));
    }
    if owner != 0 && owner != user {
        return Err(Shared::Owner { owner, user });
    }
    Ok(())
}

/// Who may read a file is said in another way there.
#[cfg(not(unix))]
pub(crate) fn check(_: &Metadata) -> Result<(), Shared> {
    Ok(())
}

/// The content; `None` if it has more than `most` bytes. Read into memory that does not grow: what grows leaves copies behind.
pub(crate) fn content(from: impl Read, most: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut content = Zeroizing::new(Vec::with_capacity(most + 1));
    from.take(most as u64 + 1).read_to_end(&mut content)?;
    Ok((content.len() <= most).then_some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_bounded_and_stays_where_it_is() {
        for (length, fits) in [(0, true), (99, true), (100, true), (101, false), (1000, false)] {
            let found = content(&*vec![b'x'; length], 100).unwrap();
            assert_eq!(found.as_ref().map(|content| content.len()), fits.then_some(length));
            assert!(found.is_none_or(|content| content.capacity() < 202), "{length}");
        }
    }
}
