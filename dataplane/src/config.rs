//! `Config`: addresses, limits, deadlines. Every field has a sane default, and none can switch a bound off: what is out of range is brought into it.

use std::net::SocketAddr;
use std::time::Duration;

/// How to run. The listening addresses are the policy's unless they are set here.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// HTTP proxy address instead of the policy's.
    pub http_listen: Option<SocketAddr>,
    /// SOCKS5 proxy address instead of the policy's. Where the policy has SOCKS5 off, it stays off.
    pub socks_listen: Option<SocketAddr>,
    /// Admin address instead of the policy's.
    pub admin_listen: Option<SocketAddr>,
    /// How a policy file is held in memory.
    pub policy_map: PolicyMap,
    /// What clients and origins may use up.
    pub limits: Limits,
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

/// What a peer may use up: bytes, time, counts.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections at once, as far as there are descriptors for them and their upstreams. More wait in the listener's queue.
    pub connections: usize,
    /// Bytes of a request or response head, its first line included.
    pub head_bytes: usize,
    /// Header fields in a head.
    pub head_fields: usize,
    /// From accepting a connection, or from the first byte of a later request, to the end of its head or handshake.
    pub head: Duration,
    /// Between two requests on one connection.
    pub keep_alive: Duration,
    /// For looking a name up.
    pub resolve: Duration,
    /// For connecting, all addresses of a name together.
    pub connect: Duration,
    /// From the head of a request to the head of its final response, the request's body included. Long, because uploads, long polls and model answers are.
    pub response: Duration,
    /// Without a byte in either direction, in a body or a tunnel.
    pub idle: Duration,
    /// How long a client that is told of its mistake may take to read it.
    pub linger: Duration,
    /// Lookups at once.
    pub lookups: usize,
    /// Addresses of a name that are tried.
    pub addresses: usize,
    /// Interim (1xx) responses before the final one.
    pub interim_responses: usize,
}

impl Limits {
    /// Within what can be counted and waited for.
    pub(crate) fn clamped(mut self) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let counts = [&mut self.connections, &mut self.head_bytes, &mut self.head_fields, &mut self.lookups, &mut self.addresses];
        for count in counts {
            *count = (*count).clamp(1, 1 << 24);
        }
        let times = [
            &mut self.head,
            &mut self.keep_alive,
            &mut self.resolve,
            &mut self.connect,
            &mut self.response,
            &mut self.idle,
            &mut self.linger,
        ];
        for time in times {
            *time = (*time).min(DAY);
        }
        if let Some(descriptors) = descriptors() {
            self.connections = self.connections.min(descriptors.saturating_sub(RESERVED_DESCRIPTORS) / 2).max(1);
        }
        self
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

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16 * 1024,
            head_bytes: 64 * 1024,
            head_fields: 128,
            head: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            resolve: Duration::from_secs(10),
            connect: Duration::from_secs(15),
            response: Duration::from_secs(15 * 60),
            idle: Duration::from_secs(30 * 60),
            linger: Duration::from_secs(2),
            lookups: 64,
            addresses: 16,
            interim_responses: 32,
        }
    }
}
