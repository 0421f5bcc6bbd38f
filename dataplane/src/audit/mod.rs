//! What the data plane says about what it does.

pub(crate) mod event;
