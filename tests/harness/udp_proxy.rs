//! A SOCKS5 proxy for datagrams whose relay is the test itself.

use crate::udp::{socket, target};
use crate::{Origin, PATIENCE};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

pub struct UdpProxy {
    origin: Origin,
    ip: IpAddr,
    relay: UdpSocket,
    /// What it was asked, as it came.
    asked: Receiver<Vec<u8>>,
    controls: Arc<Mutex<Vec<TcpStream>>>,
}

impl UdpProxy {
    /// Says yes, and where its relay is.
    #[must_use]
    pub fn start() -> Self {
        Self::answering(yes)
    }

    /// Gives that answer, of where its relay is, and keeps the connection.
    #[must_use]
    pub fn answering(answer: impl Fn(SocketAddr) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::on("127.0.0.1".parse().unwrap(), answer).unwrap()
    }

    /// The same on another address of loopback.
    ///
    /// # Errors
    /// Where the machine has no such address.
    pub fn on(ip: IpAddr, answer: impl Fn(SocketAddr) -> Vec<u8> + Send + Sync + 'static) -> io::Result<Self> {
        UdpSocket::bind((ip, 0))?;
        let relay = socket(ip);
        let at = relay.local_addr()?;
        let (sender, asked) = channel();
        let sender = Mutex::new(sender);
        let controls: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let open = Arc::clone(&controls);
        let origin = Origin::raw(move |mut stream| {
            let Ok(request) = read_request(&mut stream) else { return };
            let _ = sender.lock().unwrap().send(request);
            let answer = answer(at);
            open.lock().unwrap().push(stream.try_clone().unwrap());
            let _ = stream.write_all(&answer);
        });
        Ok(Self { origin, ip, relay, asked, controls })
    }

    /// As a policy names it.
    #[must_use]
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", SocketAddr::new(self.ip, self.origin.port()))
    }

    /// Where its relay is.
    #[must_use]
    pub fn relay(&self) -> SocketAddr {
        self.relay.local_addr().unwrap()
    }

    /// The next request.
    #[must_use]
    pub fn asked(&self) -> Vec<u8> {
        self.asked.recv_timeout(PATIENCE).expect("the upstream proxy is asked")
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.origin.connections()
    }

    /// What came next at the relay, and from where.
    #[must_use]
    pub fn received(&self) -> (SocketAddr, Vec<u8>) {
        let mut buffer = vec![0; 65_536];
        let (len, from) = self.relay.recv_from(&mut buffer).unwrap_or_else(|error| panic!("no datagram came: {error}"));
        buffer.truncate(len);
        (from, buffer)
    }

    /// The relay sends this.
    pub fn say(&self, to: SocketAddr, datagram: impl AsRef<[u8]>) {
        self.relay.send_to(datagram.as_ref(), to).unwrap();
    }

    /// Says something on its connections.
    pub fn speak(&self) {
        for control in self.controls.lock().unwrap().iter_mut() {
            let _ = control.write_all(b"?");
        }
    }

    /// Ends its connections.
    pub fn close(&self) {
        for control in self.controls.lock().unwrap().drain(..) {
            let _ = control.shutdown(Shutdown::Both);
        }
    }

    /// Waits until the first of its connections is ended by the other side.
    pub fn wait_for_the_end(&self) {
        let mut control = self.controls.lock().unwrap().remove(0);
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        let read = control.read(&mut [0]);
        assert!(matches!(read, Ok(0)) || read.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
    }
}

/// Yes, and the relay is there.
#[must_use]
pub fn yes(relay: SocketAddr) -> Vec<u8> {
    [&[5, 0, 0], &*target(&relay.ip().to_string(), relay.port())].concat()
}

/// A datagram as a relay and its clients write it.
#[must_use]
pub fn wrapped(host: &str, port: u16, payload: impl AsRef<[u8]>) -> Vec<u8> {
    [&[0, 0, 0], &*target(host, port), payload.as_ref()].concat()
}

fn read_request(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut greeting = [0; 3];
    stream.read_exact(&mut greeting)?;
    assert_eq!(greeting, [5, 1, 0]);
    stream.write_all(&[5, 0])?;
    let mut request = vec![0; 10];
    stream.read_exact(&mut request)?;
    Ok(request)
}
