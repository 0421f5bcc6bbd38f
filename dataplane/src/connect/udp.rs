//! The sockets of a SOCKS5 client's datagrams: one towards the client, and one for each address family towards the world.

use crate::decide::datagram::Flow;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;

/// The socket towards the client, and its address. It is open on the address that the client has connected to, and on no other.
pub(crate) async fn towards_client(connected_to: SocketAddr) -> io::Result<(UdpSocket, SocketAddr)> {
    let mut address = connected_to;
    // A listener for both families sees IPv4 in IPv6 form. A scope is kept: a link-local address is none without it.
    if let canonical @ std::net::IpAddr::V4(_) = address.ip().to_canonical() {
        address.set_ip(canonical);
    }
    address.set_port(0);
    let socket = open(address).await?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// The sockets towards the world, each opened when it is first needed. Nothing is sent but along a [`Flow`].
#[derive(Default)]
pub(crate) struct Outward {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Outward {
    /// Sends to the first of the flow's addresses that the network takes it for, and keeps the flow to it. What cannot be sent now is an error: it is not waited for.
    pub(crate) async fn send(&mut self, flow: &mut Flow, payload: &[u8]) -> io::Result<()> {
        flow.charge(payload.len()).map_err(|reached| io::Error::other(reached.name()))?;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        // By number, as the flow changes at the end.
        for at in 0..flow.addresses().len() {
            let Some(address) = flow.addresses().get(at).copied() else { break };
            let sent = match self.socket(address).await {
                Ok(socket) => socket.try_send_to(payload, address).map(|_| ()),
                Err(error) => Err(error),
            };
            match sent {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => last = error,
                sent => {
                    flow.settle(address);
                    return sent;
                }
            }
        }
        Err(last)
    }

    /// The open sockets, IPv4 first.
    pub(crate) fn sockets(&self) -> (Option<&UdpSocket>, Option<&UdpSocket>) {
        (self.v4.as_ref(), self.v6.as_ref())
    }

    async fn socket(&mut self, towards: SocketAddr) -> io::Result<&UdpSocket> {
        let (place, any) = match towards {
            SocketAddr::V4(_) => (&mut self.v4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            SocketAddr::V6(_) => (&mut self.v6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        };
        match place {
            Some(socket) => Ok(socket),
            None => Ok(place.insert(open(any).await?)),
        }
    }
}

/// A socket that can be sent to at once: a new one does not know it before it has waited for it.
async fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address).await?;
    socket.writable().await?;
    Ok(socket)
}
