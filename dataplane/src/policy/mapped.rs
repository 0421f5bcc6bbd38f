//! A private copy of a policy file, mapped read-only.
//!
//! A shared map of the file is cheaper (see [`super::shared`]) and no default: whoever truncates the file kills the process (SIGBUS), and whoever rewrites it changes
//! the policy behind its digest. So the file is copied into an anonymous mapping to which nobody else has a way, the mapping is made read-only, and what is
//! verified and used is that. Safe by construction: there is no `unsafe` here.

use memmap2::{Mmap, MmapMut};
use std::fs::File;
use std::io::{self, Read};

/// Bytes that a policy file may have: far beyond ten million rules.
pub(crate) const MAX_POLICY: u64 = 4 << 30;

/// Read-only memory with a copy of a file.
#[derive(Debug)]
pub(crate) struct PrivateMap(Option<Mmap>);

impl PrivateMap {
    /// Copies the whole file. A file that changes its length meanwhile is an error, not half a policy.
    pub(crate) fn copy(file: &mut File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let len = metadata.len();
        if len > MAX_POLICY {
            return Err(io::Error::other(format!("it has {len} bytes, and at most {MAX_POLICY} are read")));
        }
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let map = if len == 0 {
            // Nothing can be mapped, and nothing is what there is.
            None
        } else {
            let mut map = MmapMut::map_anon(len)?;
            // Where the system has large pages to give, the copy takes 500 times fewer faults, and a lookup fewer entries of the processor's tables.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            file.read_exact(&mut map).map_err(changed)?;
            Some(map.make_read_only()?)
        };
        match file.read(&mut [0])? {
            0 => Ok(Self(map)),
            _ => Err(changed(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

fn changed(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::InvalidData, "it changed while it was read"),
        _ => error,
    }
}

impl AsRef<[u8]> for PrivateMap {
    fn as_ref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}
