//! Unix sockets: opens what a path leads to, has its real path decided on, and connects to that very object.
//!
//! On Linux a descriptor is opened that is good for looking only (`O_PATH`); its real path is what the kernel says of it, and it is what is connected to, through `/proc/self/fd`. So
//! nobody who changes a link, a folder or the socket itself between the look and the connection leads it elsewhere. Elsewhere there is no such descriptor: the real path is worked out, decided on
//! and connected to, and who may rename folders on that path could win the race between the two.

use super::{ConnectError, UpstreamError};
use crate::counters::{self, Timed};
use crate::decide::open::Open;
use crate::decide::socket::{SocketPermit, SocketRoute};
use crate::spare::{self, is_exhausted};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

/// How long a socket whose queue is full is left alone.
const FULL_QUEUE: Duration = Duration::from_millis(10);

/// Connects to the socket that `path` leads to.
pub(crate) async fn connect<'q>(permit: SocketPermit<'q>, path: &str) -> Result<(UnixStream, SocketRoute, Option<Open<'q>>), ConnectError> {
    let path = PathBuf::from(path);
    let deadline = Instant::now() + permit.limits().connect_timeout;
    let named = permit.names(&path);
    // A path may lead to a file system that does not answer.
    let opening = spare::again(|| {
        let path = path.clone();
        async { tokio::task::spawn_blocking(move || Found::open(&path)).await? }
    });
    let found = match timeout_at(deadline, opening).await {
        Ok(Ok(found)) => found,
        // What is there and what is not is nobody's business who may not reach it.
        _ if !named => return Err(ConnectError::Denied(permit.refuse())),
        Ok(Err(error)) => return Err(ConnectError::Upstream(permit.failed(open_error(&error)))),
        Err(_) => return Err(ConnectError::Upstream(permit.failed(UpstreamError::ConnectTimeout))),
    };
    let (route, open) = permit.opened(&found.real)?;
    let failed = |open: Option<Open<'_>>, error: UpstreamError| {
        if let Some(mut open) = open {
            open.end(error.into());
        }
        Err(ConnectError::Upstream(error))
    };
    if !found.is_socket {
        return failed(open, UpstreamError::NotASocket);
    }
    let _timing = counters::time(Timed::Connect);
    let connecting = async {
        loop {
            match spare::again(|| UnixStream::connect(found.address())).await {
                Ok(stream) => return Ok(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(FULL_QUEUE).await,
                Err(error) => return Err(connect_error(&error)),
            }
        }
    };
    let connected = timeout_at(deadline, connecting).await.unwrap_or(Err(UpstreamError::ConnectTimeout));
    match connected {
        Ok(stream) => Ok((stream, route, open)),
        Err(error) => failed(open, error),
    }
}

fn open_error(error: &io::Error) -> UpstreamError {
    match error.kind() {
        _ if is_exhausted(error) => UpstreamError::NoDescriptor,
        io::ErrorKind::NotFound => UpstreamError::SocketMissing,
        _ => UpstreamError::Unreachable,
    }
}

fn connect_error(error: &io::Error) -> UpstreamError {
    match error.kind() {
        _ if is_exhausted(error) => UpstreamError::NoDescriptor,
        io::ErrorKind::ConnectionRefused => UpstreamError::Refused,
        io::ErrorKind::NotFound => UpstreamError::SocketMissing,
        _ => UpstreamError::Unreachable,
    }
}

/// What a path led to.
struct Found {
    /// Its path without links.
    real: PathBuf,
    is_socket: bool,
    #[cfg(target_os = "linux")]
    descriptor: std::os::fd::OwnedFd,
}

#[cfg(target_os = "linux")]
impl Found {
    fn open(path: &Path) -> io::Result<Self> {
        use rustix::fs::{FileType, Mode, OFlags, fstat, open};
        let descriptor = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let is_socket = FileType::from_raw_mode(fstat(&descriptor)?.st_mode) == FileType::Socket;
        let real = std::fs::read_link(magic_link(&descriptor))?;
        Ok(Self { real, is_socket, descriptor })
    }

    /// Leads to that very object, whatever has its name by now.
    fn address(&self) -> PathBuf {
        magic_link(&self.descriptor)
    }
}

#[cfg(target_os = "linux")]
fn magic_link(descriptor: &std::os::fd::OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into()
}

#[cfg(not(target_os = "linux"))]
impl Found {
    fn open(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::FileTypeExt;
        let real = path.canonicalize()?;
        let is_socket = real.symlink_metadata()?.file_type().is_socket();
        Ok(Self { real, is_socket })
    }

    fn address(&self) -> PathBuf {
        self.real.clone()
    }
}
