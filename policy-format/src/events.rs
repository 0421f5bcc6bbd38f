//! What the events of audit logs are called: the proxy writes these names, and whoever reads its logs knows events by them. [`chain`](crate::chain) has the names of its own lines.

/// The name whose last word is this.
macro_rules! name {
    ($last:literal) => {
        concat!("codex.network_proxy.", $last)
    };
}
pub(crate) use name;

/// How a line with such an event begins.
pub const LINE_START: &str = concat!("{\"event.name\":\"", name!(""));

/// A request was decided.
pub const DECISION: &str = name!("policy_decision");
/// Something that was allowed has ended.
pub const CLOSED: &str = name!("closed");
/// Something that was open was closed, because the policy does not allow it any more.
pub const REVOKED: &str = name!("revoked");
/// The first bytes in a tunnel speak of a server that the policy does not allow.
pub const INNER: &str = name!("inner");
/// A policy came into force, or was refused.
pub const POLICY: &str = name!("policy");
/// The mode is one that an operator set, or the policy's own again.
pub const MODE: &str = name!("mode");
/// A limit was reached.
pub const LIMIT: &str = name!("limit");
/// Something that whoever runs the proxy has to see to.
pub const FAULT: &str = name!("fault");
/// Events were lost.
pub const LOST: &str = name!("lost");
/// A proxy began: generations of its policies count from 1 again.
pub const START: &str = name!("start");
/// It ended.
pub const STOP: &str = name!("stop");
