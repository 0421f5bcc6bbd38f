//! What the data plane says about what it does.

mod backlog;
mod brief;
mod consumer;
pub(crate) mod event;
pub(crate) mod feed;
mod file;
pub(crate) mod hub;
mod journald;
mod json;
mod ocsf;
#[cfg(feature = "otlp")]
mod otlp;
mod policies;
mod queue;
pub(crate) mod record;
pub(crate) mod setup;
pub(crate) mod sink;
mod stdout;
mod syslog;
