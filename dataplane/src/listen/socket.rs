//! A listener of one thread.

use crate::stream::{Fresh, Stream};
use std::io;
use std::net::SocketAddr;

/// Takes clients from a listener.
pub(crate) struct Listener(Inner);

/// That of tokio gives connections of which the system tells already, and nothing else of it is to be had without `unsafe` but that of a stream, which does not ask what kind of socket it has.
#[cfg(target_os = "linux")]
type Inner = tokio::net::TcpStream;
#[cfg(not(target_os = "linux"))]
type Inner = tokio::net::TcpListener;

#[cfg(target_os = "linux")]
impl Listener {
    /// Of a listener that does not block.
    ///
    /// # Errors
    /// The system does not tell of it.
    pub(crate) fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        Ok(Self(Inner::from_std(std::os::fd::OwnedFd::from(listener).into())?))
    }

    /// The next client. Cancel safe. The system is not asked to tell of its connection: most have said by now what they want, and many are closed before they say more.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        use rustix::net::{SocketFlags, acceptfrom_with};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (socket, client) = self.0.async_io(tokio::io::Interest::READABLE, || Ok(acceptfrom_with(&self.0, flags)?)).await?;
        let client = client.and_then(|client| SocketAddr::try_from(client).ok()).ok_or(io::ErrorKind::ConnectionAborted)?;
        Ok((Stream::Fresh(Fresh::new(socket.into())), client))
    }

    /// Has what is accepted from now on send at once; gives whether it does.
    pub(super) fn sends_at_once(&self) -> bool {
        rustix::net::sockopt::set_tcp_nodelay(&self.0, true).is_ok()
    }
}

#[cfg(not(target_os = "linux"))]
impl Listener {
    /// Of a listener that does not block.
    ///
    /// # Errors
    /// The system does not tell of it.
    pub(crate) fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        Ok(Self(Inner::from_std(listener)?))
    }

    /// The next client. Cancel safe.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let (stream, client) = self.0.accept().await?;
        Ok((Stream::Tcp(stream), client))
    }

    /// Has what is accepted from now on send at once; gives whether it does.
    pub(super) fn sends_at_once(&self) -> bool {
        false
    }
}
