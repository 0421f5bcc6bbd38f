//! The binary as a process: whom it gets its sockets from and hands them to, what it tells the service manager, and what it gives up once it listens.

#[cfg(unix)]
pub(crate) mod activation;
#[cfg(unix)]
pub(crate) mod handover;
#[cfg(unix)]
pub(crate) mod memory;
pub(crate) mod notify;
#[cfg(target_os = "linux")]
pub(crate) mod privileges;
#[cfg(target_os = "linux")]
pub(crate) mod sandbox;
#[cfg(target_os = "linux")]
mod seccomp;
