//! The binary as a process: whom it gets its sockets from and hands them to, what it tells the service manager, and what it gives up once it listens.

#[cfg(unix)]
pub(crate) mod activation;
#[cfg(unix)]
pub(crate) mod descriptors;
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

/// What a service manager handed down.
#[derive(Default)]
pub(crate) struct Handed {
    pub(crate) sockets: netproxy::Sockets,
    /// For SOCKS5 or, where the policy has it off, for the admin API.
    pub(crate) second: Option<std::net::TcpListener>,
}

/// A user by name or by number, as its number.
///
/// # Errors
/// There is none.
#[cfg(unix)]
pub(crate) fn user_number(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    #[cfg(target_os = "linux")]
    if let Ok(Some(user)) = nix::unistd::User::from_name(text) {
        return Ok(user.uid.as_raw());
    }
    Err(format!("--admin-socket-user {text}: there is no such user; its number does as well"))
}
