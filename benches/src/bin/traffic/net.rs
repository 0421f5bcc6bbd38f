//! Sockets, and waiting for many of them (epoll, edge-triggered).

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};

pub(crate) const MIB: usize = 1 << 20;
/// Number of a listener among the events.
pub(crate) const LISTENER: u64 = u64::MAX;

pub(crate) struct Poll(OwnedFd);

impl Poll {
    pub(crate) fn new() -> Self {
        Self(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap())
    }

    /// Both directions, until it is closed. Told once each time that something new is there.
    pub(crate) fn add(&self, socket: impl AsFd, number: u64) {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.0, socket, EventData::new_u64(number), flags).unwrap();
    }

    /// Connections to take, as long as there are some.
    pub(crate) fn add_listener(&self, socket: impl AsFd, number: u64) {
        epoll::add(&self.0, socket, EventData::new_u64(number), EventFlags::IN).unwrap();
    }

    pub(crate) fn remove(&self, socket: impl AsFd) {
        let _ = epoll::delete(&self.0, socket);
    }

    /// Numbers of those that are ready, each once.
    pub(crate) fn wait(&self, ready: &mut Vec<u64>, patience: Option<std::time::Duration>) {
        let mut events = Vec::with_capacity(256);
        let timeout = patience
            .map(|patience| rustix::time::Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) });
        ready.clear();
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => ready.extend(events.iter().map(|event| event.data.u64())),
            Err(error) => panic!("epoll: {error}"),
        }
    }
}

pub(crate) fn listen(address: SocketAddr) -> (TcpListener, SocketAddr) {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    rustix::net::bind(&socket, &address).unwrap();
    rustix::net::listen(&socket, 4096).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) fn accept(listener: &TcpListener) -> Option<OwnedFd> {
    let socket = rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    Some(socket)
}

/// On loopback a connection stands as soon as it is asked for, so this does not wait.
pub(crate) fn connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &address)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

/// Some bytes; none at the end; `None` when there is nothing yet.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    again(rustix::net::recv(socket, buffer, RecvFlags::empty()).map(|(count, _)| count))
}

/// The same, but the kernel drops the bytes and copies none (`MSG_TRUNC`, tcp(7)). Says how many there were.
pub(crate) fn discard(socket: impl AsFd, most: &mut [u8]) -> io::Result<Option<usize>> {
    again(rustix::net::recv(socket, most, RecvFlags::TRUNC).map(|(_, count)| count))
}

pub(crate) fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<Option<usize>> {
    again(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL))
}

pub(crate) fn again(result: Result<usize, Errno>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A mebibyte in memory that the kernel sends by itself.
pub(crate) struct Bulk(std::fs::File);

impl Bulk {
    pub(crate) fn new() -> Self {
        let mut file = std::fs::File::from(memfd_create("bulk", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(&vec![b'x'; MIB]).unwrap();
        Self(file)
    }

    /// Sends from `offset` to the end of the mebibyte, or less.
    pub(crate) fn send(&self, socket: impl AsFd, offset: usize) -> io::Result<Option<usize>> {
        let mut from = offset as u64;
        again(rustix::fs::sendfile(socket, &self.0, Some(&mut from), MIB - offset))
    }
}

/// Where a head ends.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// `Content-Length` of a head.
pub(crate) fn content_length(head: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(head).ok()?;
    text.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })
}
