//! Sockets that a service manager opened and handed down (sd_listen_fds(3)): `LISTEN_FDS`, `LISTEN_PID`, and their names in `LISTEN_FDNAMES`.

use super::Handed;
use listenfd::ListenFd;
use std::env;
use std::net::TcpListener;

/// What a socket may be for; without names, they come in this order. Of two, the second is for the admin API where the policy has SOCKS5 off and it has the address of that:
/// who takes away the line of what nobody listens for has two left.
const NAMES: [&str; 3] = ["http", "socks5", "admin"];

/// What a socket without a name is for that only the policy tells.
const SECOND: &str = "socks5 or admin";

/// The sockets for this process, if any came.
///
/// # Errors
/// What is wrong with them, and what to write instead.
pub(crate) fn take() -> Result<Option<Handed>, String> {
    // Whoever was started by a process that had some does not mistake them for its own.
    if env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
        return Ok(None);
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut handed = ListenFd::from_env();
    if handed.len() == 0 {
        return Ok(None);
    }
    let Handed { mut sockets, mut second } = Handed::default();
    for (index, name) in names_of(&names, handed.len())?.into_iter().enumerate() {
        let refused = |error: std::io::Error| format!("socket {} ({name}) of the service manager: {error}", index + 1);
        let listener = handed.take_tcp_listener(index).and_then(listening).map_err(refused)?;
        let slot = match name {
            "http" => &mut sockets.http,
            "socks5" => &mut sockets.socks5,
            SECOND => &mut second,
            _ => &mut sockets.admin,
        };
        if slot.replace(listener).is_some() {
            return Err(format!("the service manager gives two sockets for {name}; there can be one"));
        }
    }
    Ok(Some(Handed { sockets, second }))
}

fn listening(socket: Option<TcpListener>) -> std::io::Result<TcpListener> {
    let socket = socket.ok_or_else(|| std::io::Error::other("it is not there"))?;
    // Where the system cannot tell, accepting will.
    if matches!(rustix::net::sockopt::socket_acceptconn(&socket), Ok(false)) {
        return Err(std::io::Error::other("it does not listen"));
    }
    Ok(socket)
}

/// What each of `count` sockets is for. Names that are none of ours at all are what a service manager makes up where none are given.
fn names_of(names: &str, count: usize) -> Result<Vec<&str>, String> {
    let names: Vec<&str> = names.split(':').filter(|name| !name.is_empty()).collect();
    if !names.iter().any(|name| NAMES.contains(name)) {
        if count > NAMES.len() {
            return Err(format!("the service manager gives {count} sockets; there are three, in this order: {}", NAMES.join(", ")));
        }
        return Ok(if count == 2 { vec!["http", SECOND] } else { NAMES.into_iter().take(count).collect() });
    }
    match names.iter().find(|name| !NAMES.contains(name)) {
        Some(other) => Err(format!(
            "the service manager names a socket `{}`; `FileDescriptorName=` is one of {}",
            other.escape_debug(),
            NAMES.join(", ")
        )),
        None if names.len() != count => Err(format!("the service manager gives {count} sockets and {} names", names.len())),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_go_by_name_or_else_by_order() {
        for (names, count, expected) in [
            ("", 3, Ok("http socks5 admin")),
            ("", 1, Ok("http")),
            ("netproxy-dp.socket:netproxy-dp.socket", 2, Ok("http socks5 or admin")),
            ("", 2, Ok("http socks5 or admin")),
            ("unknown:unknown:unknown", 3, Ok("http socks5 admin")),
            ("admin:http", 2, Ok("admin http")),
            ("", 4, Err("the service manager gives 4 sockets; there are three, in this order: http, socks5, admin")),
            ("http:socks", 2, Err("the service manager names a socket `socks`; `FileDescriptorName=` is one of http, socks5, admin")),
            ("http:admin", 3, Err("the service manager gives 3 sockets and 2 names")),
        ] {
            let found = names_of(names, count).map(|names| names.join(" "));
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{names:?}, {count}");
        }
    }
}
