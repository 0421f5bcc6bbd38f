//! Moves bytes between two streams that others opened.

pub(crate) mod http;
pub(crate) mod tunnel;
pub(crate) mod udp;
