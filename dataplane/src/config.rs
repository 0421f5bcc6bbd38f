//! `Config`: what is not the policy's business, and what is said over it.

use policy_format::{LimitOverride, Limits};
use std::net::SocketAddr;
use std::num::NonZero;

/// How to run. The listening addresses are the policy's unless they are set here.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// HTTP proxy address instead of the policy's.
    pub http_listen: Option<SocketAddr>,
    /// SOCKS5 proxy address instead of the policy's. Where the policy has SOCKS5 off, it stays off.
    pub socks_listen: Option<SocketAddr>,
    /// Admin address instead of the policy's.
    pub admin_listen: Option<SocketAddr>,
    /// Threads that serve connections; as many as may run at once, if it is not set.
    pub workers: Option<NonZero<usize>>,
    /// How a policy file is held in memory.
    pub policy_map: PolicyMap,
    /// Limits that are not the policy's.
    pub limits: Vec<LimitOverride>,
}

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

/// How many descriptors this process may have, after asking for as many as the system gives.
fn descriptors() -> Option<usize> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        // What is refused leaves what there was.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        getrlimit(Resource::Nofile).current.map(|current| usize::try_from(current).unwrap_or(usize::MAX))
    }
    #[cfg(not(unix))]
    None
}
