//! What is not the policy's business: how its file is held in memory, and what this process may have.

use policy_format::{LimitOverride, Limits};

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

/// Within what the system gives: no more connections than there are descriptors for them, their upstreams, and what all `workers` keep. And no client has all of them: whoever opens as
/// many as it can, and says nothing on them, would keep all others out. `overrides` are what was set over the policy.
pub(crate) fn within_descriptors(limits: &mut Limits, overrides: &[LimitOverride], workers: usize) {
    within(limits, overrides, workers, descriptors());
    leave_some(limits, overrides);
}

/// Whether nobody has said how many; the default is what nobody said.
fn is_unsaid(limits: &Limits, overrides: &[LimitOverride], name: &str) -> bool {
    let is_default = Limits::ALL.iter().any(|limit| limit.name == name && limits.get(name) == Some(limit.default));
    is_default && !overrides.iter().any(|over| over.limit.name == name)
}

/// Three quarters are for one client, unless somebody has said how many.
fn leave_some(limits: &mut Limits, overrides: &[LimitOverride]) {
    if is_unsaid(limits, overrides, "connections_per_client") {
        let most = limits.connections.saturating_sub(limits.connections / 4).max(1);
        limits.connections_per_client = limits.connections_per_client.min(most);
    }
}

fn within(limits: &mut Limits, overrides: &[LimitOverride], workers: usize, descriptors: Option<usize>) {
    let Some(descriptors) = descriptors else { return };
    let all = descriptors.saturating_sub(reserved(descriptors).max(OWN + OWN_OF_EACH * workers));
    let left = all.saturating_sub(2 * pipes_within(descriptors));
    // Each thread has a pool for HTTP/1.1, and one for HTTP/2.
    let (room, pools) = (left / 4, workers.saturating_mul(2).max(1));
    if is_unsaid(limits, overrides, "pool_connections") {
        limits.pool_connections = limits.pool_connections.min((room / pools).max(1));
    }
    // Where more was asked for, it is what is given up when descriptors run out.
    let kept = limits.pool_connections.saturating_mul(pools).min(room);
    limits.connections = limits.connections.min(left.saturating_sub(kept) / 2).max(1);
    // Each has up to three sockets besides its connection.
    limits.udp_associations = limits.udp_associations.min(all / 8).max(1);
}

/// Descriptors that a process has open before anybody connects, and those of each of its threads.
const OWN: usize = 24;
const OWN_OF_EACH: usize = 6;

/// Descriptors that are not for connections: listeners, the policy file, the runtime's own, lookups. A quarter, as far as that is not too few or too many.
fn reserved(descriptors: usize) -> usize {
    (descriptors / 4).clamp(48, 256)
}

/// Pipes that the threads of this process may have together, for bytes on their way from one socket to another. Each has two descriptors.
#[cfg(target_os = "linux")]
pub(crate) fn pipes() -> usize {
    static PIPES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *PIPES.get_or_init(|| pipes_within(descriptors().unwrap_or(usize::MAX)))
}

/// An eighth of the descriptors at most is for pipes: they may be full, of what slow readers leave there.
fn pipes_within(descriptors: usize) -> usize {
    const MOST: usize = 128;
    if cfg!(target_os = "linux") { MOST.min(descriptors.saturating_sub(reserved(descriptors)) / 16) } else { 0 }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_three_quarters_unless_somebody_says_how_many() {
        let cases: [(Option<usize>, &[&str], usize, usize); 9] = [
            (None, &[], 16_384, 12_288),
            (Some(1 << 20), &[], 16_384, 12_288),
            (Some(4096), &[], 1344, 1008),
            (Some(0), &[], 1, 1),
            (None, &["connections=2"], 2, 2),
            (None, &["connections=4"], 4, 3),
            (None, &["connections=65536"], 65_536, 16_384),
            (Some(4096), &["connections_per_client=1900"], 1344, 1900),
            (Some(4096), &["connections_per_client=16384"], 1344, 16_384),
        ];
        for (descriptors, said, connections, of_one) in cases {
            let said: Vec<LimitOverride> = said.iter().map(|limit| limit.parse().unwrap()).collect();
            let mut limits = Limits::default();
            limits.apply(&said);
            within(&mut limits, &said, 2, descriptors);
            leave_some(&mut limits, &said);
            assert_eq!((limits.connections, limits.connections_per_client), (connections, of_one), "{descriptors:?} {said:?}");
            // As a policy says it, which has no more than the number.
            let mut limits = Limits { connections_per_client: 1900, ..Limits::default() };
            within(&mut limits, &[], 2, descriptors);
            leave_some(&mut limits, &[]);
            assert_eq!(limits.connections_per_client, 1900);
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_threads_keep_is_counted_and_leaves_room_for_connections() {
        // Descriptors, threads, what was said; what each thread may keep, and the connections.
        let cases: [(usize, usize, &[&str], usize, usize); 15] = [
            (1 << 20, 2, &[], 512, 16_384),
            (1 << 20, 64, &[], 512, 16_384),
            (1024, 2, &[], 42, 252),
            (1024, 8, &[], 10, 256),
            (1024, 1000, &[], 1, 1),
            (4096, 2, &[], 224, 1344),
            // Whoever says how many has as many, and no connection less than others.
            (1024, 2, &["pool_connections=512"], 512, 252),
            (1024, 2, &["pool_connections=9"], 9, 318),
            (1024, 2, &["pool_connections=0"], 0, 336),
            (0, 2, &[], 1, 1),
            (80, 2, &[], 1, 12),
            (256, 2, &[], 10, 64),
            (512, 2, &[], 21, 126),
            (256, 16, &[], 1, 42),
            (256, 32, &[], 1, 6),
        ];
        for (descriptors, workers, said, kept, connections) in cases {
            let said: Vec<LimitOverride> = said.iter().map(|limit| limit.parse().unwrap()).collect();
            let mut limits = Limits::default();
            limits.apply(&said);
            within(&mut limits, &said, workers, Some(descriptors));
            assert_eq!((limits.pool_connections, limits.connections), (kept, connections), "{descriptors} {workers} {said:?}");
            // All of it together, where nobody asked for more, and threads have more in their pools than the one that each may have.
            if said.is_empty() && (kept > 1 || workers <= 2) && descriptors > 0 {
                let all = 2 * connections
                    + 2 * workers * kept
                    + 2 * pipes_within(descriptors)
                    + reserved(descriptors).max(OWN + OWN_OF_EACH * workers);
                assert!(all <= descriptors, "{all} of {descriptors}");
            }
        }
        // As a policy says it, which has no more than the number.
        let mut limits = Limits { pool_connections: 500, ..Limits::default() };
        within(&mut limits, &[], 2, Some(1024));
        assert_eq!((limits.pool_connections, limits.connections), (500, 252));
    }
}
