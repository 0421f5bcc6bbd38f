//! Unix sockets: opens what a path leads to, has its real path decided on, and connects to that very object.
//!
//! On Linux a descriptor is opened that is good for looking only (`O_PATH`); its real path is what the kernel says of it, and it is what is connected to, through `/proc/self/fd`. So
//! nobody who changes a link, a folder or the socket itself between the look and the connection leads it elsewhere. Elsewhere there is no such descriptor: the real path is worked out, decided on
//! and connected to, and who may rename folders on that path could win the race between the two.

use super::{ConnectError, UpstreamError, Watch};
use crate::counters::{self, Timed};
use crate::decide::deny::Denial;
use crate::decide::open::{Open, stopped};
use crate::decide::socket::{SocketPermit, SocketRoute};
use crate::spare::{self, is_exhausted};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

/// How long a socket whose queue is full is left alone.
const FULL_QUEUE: Duration = Duration::from_millis(10);

/// Connects to the socket that `path` leads to, unless it is `revoked` by then: nothing is said to it then.
pub(crate) async fn connect<'q>(
    permit: SocketPermit<'q>,
    path: &str,
    watch: &mut Watch<'_>,
    revoked: impl Fn(&SocketRoute) -> Option<Box<Denial>>,
) -> Result<(UnixStream, SocketRoute, Option<Open<'q>>), ConnectError> {
    let path = Arc::new(PathBuf::from(path));
    let deadline = Instant::now() + permit.limits().connect_timeout;
    let named = permit.names(&path);
    let (asked, denied) = (Arc::clone(&path), permit.denied());
    // A path may lead to a file system that does not answer.
    let opening = spare::again(|| {
        let (asked, denied) = (Arc::clone(&asked), denied.clone());
        async { tokio::task::spawn_blocking(move || Found::open(&asked, &denied)).await? }
    });
    let found = match timeout_at(deadline, opening).await {
        Ok(Ok(found)) => found,
        // What is there and what is not is nobody's business who may not reach it.
        _ if !named => return Err(ConnectError::Denied(permit.refuse(&path))),
        Ok(Err(error)) => return Err(ConnectError::Upstream(permit.failed(open_error(&error)))),
        Err(_) => return Err(ConnectError::Upstream(permit.failed(UpstreamError::ConnectTimeout))),
    };
    let (route, mut open) = permit.opened(&path, &found.real, found.is_denied)?;
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
    match watch.while_allowed(timeout_at(deadline, connecting), || revoked(&route)).await {
        Ok(Ok(Ok(stream))) => Ok((stream, route, open)),
        Ok(Ok(Err(error))) => failed(open, error),
        Ok(Err(_)) => failed(open, UpstreamError::ConnectTimeout),
        Err(stop) => Err(stopped(&mut open, stop)),
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
    /// One of the paths that are denied leads here.
    is_denied: bool,
    #[cfg(target_os = "linux")]
    descriptor: std::os::fd::OwnedFd,
}

#[cfg(target_os = "linux")]
impl Found {
    fn open(path: &Path, denied: &[PathBuf]) -> io::Result<Self> {
        use rustix::fs::{Mode, OFlags, open};
        let file = std::fs::File::from(open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?);
        let there = file.metadata()?;
        let descriptor = file.into();
        let (is_socket, is_denied) = (there.file_type().is_socket(), leads_here(denied, &there));
        let real = std::fs::read_link(magic_link(&descriptor))?;
        Ok(Self { real, is_socket, is_denied, descriptor })
    }

    /// Leads to that very object, whatever has its name by now.
    fn address(&self) -> PathBuf {
        magic_link(&self.descriptor)
    }
}

/// Whether one of these paths leads to that very object: through links that are others than when the policy was loaded, another name of the same socket, or another mount of
/// its folder.
fn leads_here(paths: &[PathBuf], here: &Metadata) -> bool {
    let object = |there: Metadata| (there.dev(), there.ino()) == (here.dev(), here.ino());
    paths.iter().any(|path| std::fs::metadata(path).is_ok_and(object))
}

#[cfg(target_os = "linux")]
fn magic_link(descriptor: &std::os::fd::OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into()
}

#[cfg(not(target_os = "linux"))]
impl Found {
    fn open(path: &Path, denied: &[PathBuf]) -> io::Result<Self> {
        let real = path.canonicalize()?;
        let there = real.symlink_metadata()?;
        let is_denied = leads_here(denied, &there);
        Ok(Self { real, is_socket: there.file_type().is_socket(), is_denied })
    }

    fn address(&self) -> PathBuf {
        self.real.clone()
    }
}
