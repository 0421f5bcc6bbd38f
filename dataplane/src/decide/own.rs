//! Our own listeners, which nobody may reach through us: a request that came back would come back for ever, and the admin listener trusts this machine.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

/// The addresses that we listen on.
pub(crate) struct Own {
    listeners: Vec<SocketAddr>,
    /// The real path of the admin API's unix socket.
    socket: Option<PathBuf>,
    is_local: fn(IpAddr) -> bool,
}

impl Own {
    pub(crate) fn new(listeners: Vec<SocketAddr>) -> Self {
        Self { listeners, socket: None, is_local }
    }

    /// With a unix socket that is there.
    pub(crate) fn with_socket(self, path: Option<&Path>) -> Self {
        Self { socket: path.map(|path| path.canonicalize().unwrap_or_else(|_| path.to_owned())), ..self }
    }

    /// Whether it is our own unix socket that has this real path.
    pub(crate) fn holds_socket(&self, real: &Path) -> bool {
        self.socket.as_deref() == Some(real)
    }

    /// Whether connecting to an address is connecting to one of our listeners.
    pub(crate) fn holds(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.listeners.iter().any(|own| own.port() == address.port() && self.is_at(own.ip(), ip))
    }

    /// Whether somebody at one of these addresses, who looks names up by himself, could be led to one of our listeners by a name and this port: he is on this machine, and what he
    /// finds is not seen here.
    pub(crate) fn is_beside(&self, at: &[IpAddr], port: u16) -> bool {
        self.listeners.iter().any(|own| own.port() == port) && self.is_on_this_machine(at)
    }

    /// Whether one of these addresses is this machine's.
    pub(crate) fn is_on_this_machine(&self, at: &[IpAddr]) -> bool {
        at.iter().map(IpAddr::to_canonical).any(|ip| ip.is_unspecified() || ip.is_loopback() || (self.is_local)(ip))
    }

    /// `ip` is canonical: an IPv4 address inside of an IPv6 one is that IPv4 address.
    fn is_at(&self, listener: IpAddr, ip: IpAddr) -> bool {
        // Connecting to "all addresses" is connecting to this machine; which of its addresses that is, is the system's choice.
        if ip.is_unspecified() {
            return listener.is_unspecified() || listener.to_canonical().is_loopback() || (self.is_local)(listener);
        }
        // Listening on all addresses is listening on every one that this machine has now; `::` takes IPv4 as well, unless the system has that off.
        match listener {
            IpAddr::V4(own) if own.is_unspecified() => ip.is_ipv4() && (self.is_local)(ip),
            IpAddr::V6(own) if own.is_unspecified() => (self.is_local)(ip),
            own => own.to_canonical() == ip,
        }
    }
}

/// Whether what is sent to `address` comes to `own`.
pub(super) fn leads_to(address: SocketAddr, own: SocketAddr) -> bool {
    Own::new(vec![own]).holds(address)
}

/// Whether an address is this machine's. The system is asked each time, because interfaces come and go, by a socket that nothing is sent through; only addresses with
/// the port of a listener on all addresses are asked about. What cannot be told is ours.
fn is_local(ip: IpAddr) -> bool {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::AddrNotAvailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with the addresses 192.0.2.7 and 2001:db8::7.
    fn listening(on: &str) -> Own {
        let is_local = |ip: IpAddr| ip.is_loopback() || ["192.0.2.7", "2001:db8::7"].contains(&ip.to_string().as_str());
        Own { listeners: vec![on.parse().unwrap()], socket: None, is_local }
    }

    #[test]
    fn every_spelling_of_a_listener_is_known() {
        for (on, to, own) in [
            ("127.0.0.1:3128", "127.0.0.1:3128", true),
            ("127.0.0.1:3128", "127.0.0.1:3129", false),
            ("127.0.0.1:3128", "127.0.0.2:3128", false),
            ("127.0.0.1:3128", "[::ffff:127.0.0.1]:3128", true),
            ("127.0.0.1:3128", "0.0.0.0:3128", true),
            ("127.0.0.1:3128", "[::]:3128", true),
            ("127.0.0.1:3128", "[::ffff:0.0.0.0]:3128", true),
            ("127.0.0.1:3128", "[::1]:3128", false),
            ("[::1]:3128", "[::1]:3128", true),
            ("[::1]:3128", "[::]:3128", true),
            ("[::1]:3128", "127.0.0.1:3128", false),
            ("[::ffff:127.0.0.1]:3128", "127.0.0.1:3128", true),
            ("192.0.2.7:3128", "192.0.2.7:3128", true),
            ("192.0.2.7:3128", "0.0.0.0:3128", true),
            ("192.0.2.7:3128", "127.0.0.1:3128", false),
            ("0.0.0.0:3128", "127.0.0.1:3128", true),
            ("0.0.0.0:3128", "127.9.9.9:3128", true),
            ("0.0.0.0:3128", "192.0.2.7:3128", true),
            ("0.0.0.0:3128", "0.0.0.0:3128", true),
            ("0.0.0.0:3128", "[::ffff:192.0.2.7]:3128", true),
            ("0.0.0.0:3128", "[::]:3128", true),
            ("0.0.0.0:3128", "[2001:db8::7]:3128", false),
            ("0.0.0.0:3128", "[::1]:3128", false),
            ("0.0.0.0:3128", "192.0.2.8:3128", false),
            ("0.0.0.0:3128", "192.0.2.7:443", false),
            ("[::]:3128", "[2001:db8::7]:3128", true),
            ("[::]:3128", "192.0.2.7:3128", true),
            ("[::]:3128", "127.0.0.1:3128", true),
            ("[::]:3128", "0.0.0.0:3128", true),
            ("[::]:3128", "[2001:db8::8]:3128", false),
            ("[::]:3128", "192.0.2.8:3128", false),
        ] {
            assert_eq!(listening(on).holds(to.parse().unwrap()), own, "listening on {on}, connecting to {to}");
        }
    }

    #[test]
    fn who_is_on_this_machine_could_be_led_to_a_listener_by_its_port() {
        for (on, at, port, beside) in [
            ("127.0.0.1:3128", "127.0.0.1", 3128, true),
            ("127.0.0.1:3128", "127.0.0.1", 3129, false),
            ("127.0.0.1:3128", "::1", 3128, true),
            ("127.0.0.1:3128", "::ffff:127.0.0.1", 3128, true),
            ("127.0.0.1:3128", "0.0.0.0", 3128, true),
            ("127.0.0.1:3128", "192.0.2.7", 3128, true),
            ("127.0.0.1:3128", "192.0.2.8", 3128, false),
            ("192.0.2.7:3128", "127.0.0.1", 3128, true),
            ("[::]:3128", "2001:db8::7", 3128, true),
            ("[::]:3128", "2001:db8::8", 3128, false),
        ] {
            assert_eq!(listening(on).is_beside(&[at.parse().unwrap()], port), beside, "listening on {on}, asking {at} for port {port}");
        }
        let own = listening("127.0.0.1:3128");
        assert!(own.is_beside(&["192.0.2.8".parse().unwrap(), "127.0.0.1".parse().unwrap()], 3128), "any of them may be dialled");
        assert!(!own.is_beside(&[], 3128));
    }

    #[test]
    fn the_system_says_which_addresses_it_has() {
        assert!(is_local(IpAddr::from([127, 0, 0, 1])));
        // Reserved for documentation, so that it is nobody's.
        assert!(!is_local(IpAddr::from([203, 0, 113, 77])));
    }
}
