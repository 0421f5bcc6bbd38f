//! The sockets of a SOCKS5 client's datagrams: one towards the client, and towards the world one for each address family, and for each proxy that some go through.

mod chains;

use super::chain::Asked;
use crate::connect::upstream::Proxy;
use crate::counters::Reached;
use crate::decide::datagram::Flow;
use crate::spare;
pub(crate) use chains::{Chains, NoChain};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::net::{TcpStream, UdpSocket};

/// The socket towards the client, and its address. It is open on the address that the client has connected to, and on no other.
pub(crate) async fn towards_client(connected_to: SocketAddr) -> io::Result<(UdpSocket, SocketAddr)> {
    let mut address = connected_to;
    // A listener for both families sees IPv4 in IPv6 form. A scope is kept: a link-local address is none without it.
    if let canonical @ IpAddr::V4(_) = address.ip().to_canonical() {
        address.set_ip(canonical);
    }
    address.set_port(0);
    let socket = open(address).await?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// A socket towards the world, for one address family.
pub(crate) struct Door {
    socket: UdpSocket,
    v6: bool,
    /// Where it leads to a proxy. The socket hears from that one's relay alone.
    chain: Option<Chain>,
}

/// An association at a proxy, which lasts as long as the connection.
struct Chain {
    proxy: Arc<Proxy>,
    control: TcpStream,
}

/// What is new at a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Something can be received.
    Readable,
    /// The proxy that it leads to takes no more.
    Ended,
}

impl Door {
    pub(crate) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The proxy that it leads to.
    pub(crate) fn proxy(&self) -> Option<&Arc<Proxy>> {
        self.chain.as_ref().map(|chain| &chain.proxy)
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<News> {
        if self.chain.as_ref().is_some_and(|chain| is_over(&chain.control, cx).is_ready()) {
            return Poll::Ready(News::Ended);
        }
        ready!(self.socket.poll_recv_ready(cx)).map_or(Poll::Pending, |()| Poll::Ready(News::Readable))
    }

    /// Puts a datagram to the proxy, with what is asked of it before the data.
    fn hand_over(&self, flow: &mut Flow, payload: &[u8]) -> io::Result<()> {
        let mut datagram = vec![0; 3];
        match self.best(flow.addresses()) {
            Some(address) => {
                Asked::Address(address.ip(), address.port()).write(&mut datagram);
                flow.settle(address);
            }
            None => Asked::new(&flow.target().ok_or(io::ErrorKind::AddrNotAvailable)?).write(&mut datagram),
        }
        datagram.extend_from_slice(payload);
        self.socket.try_send(&datagram).map(|_| ())
    }

    /// No proxy says whether it has a way to an address: it is likelier in the family in which it was reached itself.
    fn best(&self, addresses: &[SocketAddr]) -> Option<SocketAddr> {
        addresses.iter().find(|address| address.is_ipv6() == self.v6).or_else(|| addresses.first()).copied()
    }
}

/// Ready when a proxy's connection has ended, or the proxy says something on it, which none does that keeps to the protocol.
fn is_over(control: &TcpStream, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        if ready!(control.poll_read_ready(cx)).is_err() {
            return Poll::Ready(());
        }
        match control.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return Poll::Ready(()),
        }
    }
}

/// Why a datagram was not sent.
pub(crate) enum Unsent {
    Limited(Reached),
    Failed(io::Error),
}

/// The doors of one client, each opened when it is first needed. Nothing is sent but along a [`Flow`].
#[derive(Default)]
pub(crate) struct Outward(Vec<Arc<Door>>);

impl Outward {
    /// Sends along a flow, and keeps it to the address that was sent to. What cannot be sent now is an error: it is not waited for.
    pub(crate) async fn send(&mut self, flow: &mut Flow, payload: &[u8]) -> Result<(), Unsent> {
        flow.charge(payload.len()).map_err(Unsent::Limited)?;
        let sent = match flow.proxy() {
            None => self.send_directly(flow, payload).await,
            Some(proxy) => match self.0.iter().find(|door| door.proxy() == Some(proxy)) {
                Some(door) => door.hand_over(flow, payload),
                None => Err(io::ErrorKind::NotConnected.into()),
            },
        };
        sent.map_err(Unsent::Failed)
    }

    /// Sends to the first of the flow's addresses that the network takes it for.
    async fn send_directly(&mut self, flow: &mut Flow, payload: &[u8]) -> io::Result<()> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        // By number, as the flow changes at the end.
        for at in 0..flow.addresses().len() {
            let Some(address) = flow.addresses().get(at).copied() else { break };
            let sent = match self.direct(address).await {
                Ok(door) => door.socket.try_send_to(payload, address).map(|_| ()),
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

    async fn direct(&mut self, towards: SocketAddr) -> io::Result<Arc<Door>> {
        let v6 = towards.is_ipv6();
        if let Some(door) = self.0.iter().find(|door| door.chain.is_none() && door.v6 == v6) {
            return Ok(Arc::clone(door));
        }
        let any = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let door = Arc::new(Door { socket: open(SocketAddr::new(any, 0)).await?, v6, chain: None });
        self.0.push(Arc::clone(&door));
        Ok(door)
    }

    /// Takes a door that [`Chains`] has opened.
    pub(crate) fn add(&mut self, door: Arc<Door>) {
        if !self.0.iter().any(|open| Arc::ptr_eq(open, &door)) {
            self.0.push(door);
        }
    }

    pub(crate) fn close(&mut self, door: &Arc<Door>) {
        self.0.retain(|open| !Arc::ptr_eq(open, door));
    }

    /// Closes the doors to proxies that are not `used`.
    pub(crate) fn keep(&mut self, used: impl Fn(&Arc<Proxy>) -> bool) {
        self.0.retain(|door| door.proxy().is_none_or(&used));
    }

    /// The next door with news. Who was heard last comes last, so that nobody who says much keeps others from being heard.
    pub(crate) async fn next(&mut self) -> (Arc<Door>, News) {
        poll_fn(|cx| {
            for at in 0..self.0.len() {
                if let Some(Poll::Ready(news)) = self.0.get(at).map(|door| door.poll(cx)) {
                    let door = self.0.remove(at);
                    self.0.push(Arc::clone(&door));
                    return Poll::Ready((door, news));
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// A socket that can be sent to at once: a new one does not know it before it has waited for it.
async fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = spare::again(|| UdpSocket::bind(address)).await?;
    socket.writable().await?;
    Ok(socket)
}
