//! What is not the policy's business: how its file is held in memory, and what this process may have.

use policy_format::Limits;

/// How a policy file is held in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PolicyMap {
    /// A copy that nobody else has a way to. What happens to the file reaches nothing until it was read and verified anew.
    #[default]
    Private,
    /// The file itself, read-only, so that all processes that run it share its pages. **Nobody may write to the file in place**: new policies are put there by rename.
    /// Whoever truncates the file ends the process (SIGBUS). Whoever rewrites it changes the policy in force, until that is noticed, within a fifth of a second, and
    /// everything is blocked. So the file and its folder must not be writable by others than root and the user of the process: that is checked. A sealed memfd, or a file with
    /// fs-verity, cannot change, and is taken as it is.
    Shared,
}

/// Within what the system gives: no more connections than there are descriptors for them and their upstreams.
pub(crate) fn within_descriptors(limits: &mut Limits) {
    if let Some(descriptors) = descriptors() {
        let descriptors = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
        limits.connections = limits.connections.min(descriptors / 2).max(1);
        // Each has up to three sockets besides its connection.
        limits.udp_associations = limits.udp_associations.min(descriptors / 8).max(1);
    }
}

/// Descriptors that are not for connections: listeners, the policy file, the runtime's own, lookups.
const RESERVED_DESCRIPTORS: usize = 256;

/// How many descriptors this process may have. Whether to ask the system for more is the program's decision: the limit is the whole process's.
fn descriptors() -> Option<usize> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit};
        getrlimit(Resource::Nofile).current.map(|current| usize::try_from(current).unwrap_or(usize::MAX))
    }
    #[cfg(not(unix))]
    None
}
