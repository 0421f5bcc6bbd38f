//! A new process follows a running one without a refused connection.
//!
//! Both are started with `--hand-over PATH`. The running one listens on the unix socket PATH and gives the listening sockets themselves (SCM_RIGHTS) to a process of its
//! own user or of root. Two processes then hold the same sockets and the same queues. The new one says that it is ready once nothing can fail any more; only then does
//! the old one stop accepting, and drains. A new one that fails has changed nothing. What neither has accepted stays in the queue that both share. A mode that was set
//! while the old one ran goes along, as it is when the sockets do.
//!
//! Sockets of their own on the same port (SO_REUSEPORT) would each have a queue, and closing one resets who waits in it: that loses connections, unless
//! `net.ipv4.tcp_migrate_req` is on, which it is not by default.

use netproxy::{Mode, Sockets};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::fs;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// The first line of what the old process says; what follows are the names of the sockets, a line each, and, where a mode was set, one with that.
const VERSION: &str = "netproxy-dp hand-over 1";
/// What begins the line with the mode. A process that does not know the line does not follow, rather than forget the mode.
const MODE: &str = "mode ";
/// What the new process says when it serves.
const READY: &[u8] = b"ready\n";
/// A predecessor that runs answers at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// http, socks5, admin, the admin API's unix socket, and the one that all this goes through.
const MOST: usize = 5;

/// What a predecessor gave.
pub(crate) struct Taken {
    pub(crate) sockets: Sockets,
    mode: Option<Mode>,
    listener: UnixListener,
    predecessor: std::os::unix::net::UnixStream,
}

/// Takes the sockets of the process that offers them at `path`; `None` when there is none.
///
/// # Errors
/// There is something else, or somebody who must not be trusted.
pub(crate) async fn take(path: &Path) -> Result<Option<Taken>, String> {
    let wrong = |what: String| format!("cannot take over through `{}`: {what}", path.display());
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        // Nobody listens there (any more).
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
    };
    check_peer(&stream).map_err(|error| wrong(error.to_string()))?;
    let received =
        tokio::time::timeout(PATIENCE, receive(&stream)).await.map_err(|_| wrong("the running process does not answer".into()))?;
    let (sockets, mode, listener) = received.map_err(|error| wrong(error.to_string()))?;
    let predecessor = stream.into_std().map_err(|error| wrong(error.to_string()))?;
    Ok(Some(Taken { sockets, mode, listener, predecessor }))
}

/// A descriptor from the queue is as good as its sender: root, or our own user.
fn check_peer(stream: &UnixStream) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    if peer == 0 || peer == own {
        return Ok(());
    }
    Err(io::Error::other(format!("its other end belongs to user {peer}; it has to be root, or user {own}")))
}

async fn receive(stream: &UnixStream) -> io::Result<(Sockets, Option<Mode>, UnixListener)> {
    let (mut text, mut descriptors) = ([0; 256], Vec::new());
    let len = stream
        .async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    descriptors.extend(received);
                }
            }
            Ok(received.bytes)
        })
        .await?;
    let strange = || io::Error::other("what is there is no netproxy-dp of a version that this one can follow");
    let text = text.get(..len).and_then(|text| std::str::from_utf8(text).ok()).ok_or_else(strange)?;
    let names = text.strip_prefix(VERSION).ok_or_else(strange)?.trim();
    let (modes, names): (Vec<&str>, Vec<&str>) = names.lines().partition(|line| line.starts_with(MODE));
    let mode = match modes.as_slice() {
        [] => None,
        [line] => Some(named(line.trim_start_matches(MODE)).ok_or_else(strange)?),
        _ => return Err(strange()),
    };
    if names.len() != descriptors.len() {
        return Err(strange());
    }
    let (mut sockets, mut listener) = (Sockets::default(), None);
    for (name, descriptor) in names.into_iter().zip(descriptors) {
        match name {
            "http" => sockets.http = Some(TcpListener::from(descriptor)),
            "socks5" => sockets.socks5 = Some(TcpListener::from(descriptor)),
            "admin" => sockets.admin = Some(TcpListener::from(descriptor)),
            "admin-socket" => sockets.admin_socket = Some(UnixListener::from(descriptor)),
            "hand-over" => listener = Some(UnixListener::from(descriptor)),
            _ => return Err(strange()),
        }
    }
    Ok((sockets, mode, listener.ok_or_else(strange)?))
}

fn named(name: &str) -> Option<Mode> {
    [Mode::Full, Mode::Limited].into_iter().find(|mode| mode.as_str() == name)
}

/// The sockets of this process, for the next one.
pub(crate) struct Offer {
    sockets: Vec<(&'static str, OwnedFd)>,
    listener: UnixListener,
    predecessor: Option<std::os::unix::net::UnixStream>,
}

/// Offers `sockets` at `path`: on the socket that the predecessor listened on, which then has the same name and the same queue, or on a new one. `owner` may connect.
///
/// # Errors
/// There is something else at `path`, or no socket can be made there.
pub(crate) fn offer(
    path: &Path,
    taken: Option<(UnixListener, std::os::unix::net::UnixStream)>,
    sockets: Sockets,
    owner: Option<(u32, u32)>,
) -> Result<Offer, String> {
    let wrong = |error: io::Error| format!("cannot offer a hand-over at `{}`: {error}", path.display());
    let (listener, predecessor) = match taken {
        Some((listener, predecessor)) => (listener, Some(predecessor)),
        None => (listen(path, owner).map_err(wrong)?, None),
    };
    listener.set_nonblocking(true).map_err(wrong)?;
    let named = [("http", sockets.http), ("socks5", sockets.socks5), ("admin", sockets.admin)];
    let admin_socket = sockets.admin_socket;
    let mut sockets: Vec<_> = named.into_iter().filter_map(|(name, socket)| Some((name, OwnedFd::from(socket?)))).collect();
    sockets.extend(admin_socket.map(|socket| ("admin-socket", OwnedFd::from(socket))));
    sockets.push(("hand-over", OwnedFd::from(listener.try_clone().map_err(wrong)?)));
    Ok(Offer { sockets, listener, predecessor })
}

fn listen(path: &Path, owner: Option<(u32, u32)>) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        // Of a process that has ended: nobody listened there when we tried.
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket")),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    // Who connects is checked all the same.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    if let Some((user, group)) = owner {
        std::os::unix::fs::chown(path, Some(user), Some(group))?;
    }
    Ok(listener)
}

impl Taken {
    /// What is used, and what the offer goes on with.
    pub(crate) fn split(self) -> (Sockets, Option<Mode>, (UnixListener, std::os::unix::net::UnixStream)) {
        (self.sockets, self.mode, (self.listener, self.predecessor))
    }
}

impl Offer {
    /// Tells the predecessor, if there is one, that we serve: it stops accepting. Then waits for a successor that serves. `mode`: the one that is set here, asked when there is a successor.
    pub(crate) async fn handed_over(mut self, mode: impl Fn() -> Option<Mode>) -> io::Result<()> {
        if let Some(predecessor) = self.predecessor.take() {
            // If it has ended meanwhile, there is nobody to tell.
            let _ = UnixStream::from_std(predecessor)?.write_all(READY).await;
        }
        let listener = tokio::net::UnixListener::from_std(self.listener)?;
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            // One at a time. Who is refused, or fails before it is ready, changes nothing; an end that says nothing for ever holds up only the next hand-over, and is one of our own user.
            if check_peer(&stream).is_err() || send(&stream, &self.sockets, mode()).await.is_err() {
                continue;
            }
            let mut said = [0; READY.len()];
            if stream.read_exact(&mut said).await.is_ok() && said == READY {
                return Ok(());
            }
        }
    }
}

async fn send(stream: &UnixStream, sockets: &[(&'static str, OwnedFd)], mode: Option<Mode>) -> io::Result<()> {
    let mode = mode.map(|mode| format!("{MODE}{}", mode.as_str()));
    let names = sockets.iter().map(|(name, _)| *name).chain(mode.as_deref());
    let text = std::iter::once(VERSION).chain(names).collect::<Vec<_>>().join("\n");
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::Error::other("more sockets than there is room for"));
            }
            rustix::net::sendmsg(stream, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
            Ok(())
        })
        .await
}
