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

/// Within what the system gives: no more connections than there are descriptors for them and their upstreams. And no client has all of them: whoever opens as many as it can, and
/// says nothing on them, would keep all others out. `overrides` are what was set over the policy.
pub(crate) fn within_descriptors(limits: &mut Limits, overrides: &[LimitOverride]) {
    within(limits, descriptors());
    leave_some(limits, overrides);
}

/// Three quarters are for one client, unless somebody has said how many; the default is what nobody said.
fn leave_some(limits: &mut Limits, overrides: &[LimitOverride]) {
    const NAME: &str = "connections_per_client";
    let is_default = Limits::ALL.iter().any(|limit| limit.name == NAME && limits.get(NAME) == Some(limit.default));
    if is_default && !overrides.iter().any(|over| over.limit.name == NAME) {
        let most = limits.connections.saturating_sub(limits.connections / 4).max(1);
        limits.connections_per_client = limits.connections_per_client.min(most);
    }
}

fn within(limits: &mut Limits, descriptors: Option<usize>) {
    if let Some(descriptors) = descriptors {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_three_quarters_unless_somebody_says_how_many() {
        let cases: [(Option<usize>, &[&str], usize, usize); 9] = [
            (None, &[], 16_384, 12_288),
            (Some(1 << 20), &[], 16_384, 12_288),
            (Some(4096), &[], 1920, 1440),
            (Some(0), &[], 1, 1),
            (None, &["connections=2"], 2, 2),
            (None, &["connections=4"], 4, 3),
            (None, &["connections=65536"], 65_536, 16_384),
            (Some(4096), &["connections_per_client=1900"], 1920, 1900),
            (Some(4096), &["connections_per_client=16384"], 1920, 16_384),
        ];
        for (descriptors, said, connections, of_one) in cases {
            let said: Vec<LimitOverride> = said.iter().map(|limit| limit.parse().unwrap()).collect();
            let mut limits = Limits::default();
            limits.apply(&said);
            within(&mut limits, descriptors);
            leave_some(&mut limits, &said);
            assert_eq!((limits.connections, limits.connections_per_client), (connections, of_one), "{descriptors:?} {said:?}");
            // As a policy says it, which has no more than the number.
            let mut limits = Limits { connections_per_client: 1900, ..Limits::default() };
            within(&mut limits, descriptors);
            leave_some(&mut limits, &[]);
            assert_eq!(limits.connections_per_client, 1900);
        }
    }
}
