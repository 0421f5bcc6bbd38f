//! The one `unsafe` call of the workspace. It takes nothing but a [`Trusted`] file, so that a map of another does not compile.

use super::Trusted;
use memmap2::{Mmap, MmapOptions};
use std::io;

/// Maps the file read-only and shared, at the length that was checked.
#[expect(unsafe_code, reason = "that a file stays as it is cannot be had from the system, only checked and asked for")]
pub(super) fn shared(trusted: &Trusted) -> io::Result<Mmap> {
    let len = usize::try_from(trusted.state.len).map_err(io::Error::other)?;
    // SAFETY: while the map is there, its bytes must not change, and the file must not become shorter.
    // What the program checks: nobody but root and its own user may write the file or its folder, and both could write into this process's memory without a file.
    // Length and times are compared once the digest was verified over the map, and then five times a second; when they differ, the policy is withdrawn. No program of
    // ours writes to a policy file: they rename a new one over it.
    // What who chooses a shared map has to see to, and is told where it is chosen: nobody writes to the file in place, not through a descriptor that was opened
    // before the check either. If somebody does, the compiler's assumption that the bytes are constant is wrong for a fifth of a second. What stands
    // between that and harm is that lookups check every offset they read against the length of the map, which does not come from the file.
    unsafe { MmapOptions::new().len(len).map(&trusted.file) }
}
