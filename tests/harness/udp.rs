//! A SOCKS5 client of datagrams, and origins of them.

use crate::{Client, PATIENCE};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, channel};

/// A UDP association: its connection, and a socket of the client's.
pub struct Association {
    pub control: Client,
    /// Where the proxy takes datagrams.
    pub relay: SocketAddr,
    socket: UdpSocket,
}

impl Association {
    /// One that declares no address.
    #[must_use]
    pub fn open(proxy: SocketAddr) -> Self {
        Self::declaring(proxy, "0.0.0.0:0".parse().unwrap())
    }

    #[must_use]
    pub fn declaring(proxy: SocketAddr, declared: SocketAddr) -> Self {
        let mut control = Client::connect(proxy);
        control.send([5, 1, 0]).send([&[5, 3, 0][..], &address(declared.ip(), declared.port())].concat());
        assert_eq!(control.bytes(6), [5, 0, 5, 0, 0, if proxy.is_ipv4() { 1 } else { 4 }]);
        let ip: IpAddr = if proxy.is_ipv4() {
            <[u8; 4]>::try_from(control.bytes(4)).unwrap().into()
        } else {
            <[u8; 16]>::try_from(control.bytes(16)).unwrap().into()
        };
        let port = u16::from_be_bytes(control.bytes(2).try_into().unwrap());
        Self { control, relay: SocketAddr::new(ip, port), socket: socket(proxy.ip()) }
    }

    /// Sends to a name, or to an address.
    pub fn send(&self, host: &str, port: u16, payload: impl AsRef<[u8]>) -> &Self {
        self.send_raw([&[0, 0, 0], &*target(host, port), payload.as_ref()].concat())
    }

    /// Sends a datagram as it is.
    pub fn send_raw(&self, datagram: impl AsRef<[u8]>) -> &Self {
        self.socket.send_to(datagram.as_ref(), self.relay).unwrap();
        self
    }

    /// The next datagram: where it says it comes from, and what is in it.
    #[must_use]
    pub fn receive(&self) -> (SocketAddr, Vec<u8>) {
        let mut buffer = vec![0; 65_536];
        let (len, from) = self.socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("no datagram came: {error}"));
        assert_eq!(from, self.relay, "replies come from where requests went");
        let (ip, rest): (IpAddr, _) = match &buffer[..len] {
            [0, 0, 0, 1, a, b, c, d, rest @ ..] => ([*a, *b, *c, *d].into(), rest),
            [0, 0, 0, 4, rest @ ..] => (<[u8; 16]>::try_from(&rest[..16]).unwrap().into(), &rest[16..]),
            other => panic!("header {other:?}"),
        };
        (SocketAddr::new(ip, u16::from_be_bytes([rest[0], rest[1]])), rest[2..].to_vec())
    }

    /// Sends, and has it echoed.
    #[must_use]
    pub fn echo(&self, host: &str, port: u16, payload: impl AsRef<[u8]>) -> bool {
        self.send(host, port, payload.as_ref()).receive().1 == payload.as_ref()
    }
}

/// A socket with patience, on a port chosen by the system.
#[must_use]
pub fn socket(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A name or an address as SOCKS5 writes it.
#[must_use]
pub fn target(host: &str, port: u16) -> Vec<u8> {
    match host.parse() {
        Ok(ip) => address(ip, port),
        Err(_) => [&[3, u8::try_from(host.len()).unwrap()], host.as_bytes(), &port.to_be_bytes()].concat(),
    }
}

fn address(ip: IpAddr, port: u16) -> Vec<u8> {
    let (kind, octets) = match ip {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (4, ip.octets().to_vec()),
    };
    [&[kind], &octets[..], &port.to_be_bytes()].concat()
}

/// Sends every datagram back, and tells of it.
pub struct Echo {
    socket: UdpSocket,
    received: Receiver<(SocketAddr, Vec<u8>)>,
}

impl Echo {
    /// On loopback.
    #[must_use]
    pub fn start() -> Self {
        Self::on("127.0.0.1".parse().unwrap()).unwrap()
    }

    /// # Errors
    /// Where the machine has no such address.
    pub fn on(ip: IpAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((ip, 0))?;
        let (sender, received) = channel();
        let echo = socket.try_clone()?;
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok((len, from)) = echo.recv_from(&mut buffer) {
                // A test that has ended listens no more.
                if sender.send((from, buffer[..len].to_vec())).is_err() {
                    return;
                }
                let _ = echo.send_to(&buffer[..len], from);
            }
        });
        Ok(Self { socket, received })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// What came next, and from where.
    #[must_use]
    pub fn received(&self) -> (SocketAddr, Vec<u8>) {
        self.received.recv_timeout(PATIENCE).expect("a datagram came")
    }

    /// Says something that is no echo.
    pub fn say(&self, to: SocketAddr, what: &[u8]) {
        self.socket.send_to(what, to).unwrap();
    }
}
