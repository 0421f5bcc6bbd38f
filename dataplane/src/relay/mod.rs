//! Moves bytes between two streams that others opened.

mod body;
mod flow;
pub(crate) mod http;
mod look;
pub(crate) mod tunnel;
pub(crate) mod turn;
pub(crate) mod udp;

pub(crate) use flow::{give_up_pipes, sweep_pipes};
