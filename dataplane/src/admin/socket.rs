//! The API on a unix socket: the kernel says who connects. The file has mode 600, or 666 where another user is named, and then the kernel's word alone counts.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// A listener that has a file. The file stays when the process ends, which mostly may not remove files by then; nobody listens there, and the next process replaces it.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    /// Who may connect beside root and the user of this process.
    user: Option<u32>,
}

impl Socket {
    /// Listens at `path`, or goes on with what the predecessor listened on there. What a process that has ended left there is replaced; anything else is not.
    pub(crate) fn bind(path: &Path, user: Option<u32>, inherited: Option<UnixListener>) -> io::Result<Self> {
        let is_there = |listener: &UnixListener| listener.local_addr().is_ok_and(|at| at.as_pathname() == Some(path));
        if let Some(listener) = inherited.filter(is_there) {
            listener.set_nonblocking(true)?;
            return Ok(Self { listener, user });
        }
        check_folder(path)?;
        // The file of a link is found by whoever may change the link.
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => match UnixStream::connect(path) {
                Ok(_) => return Err(io::Error::new(ErrorKind::AddrInUse, "another process listens there")),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
                Err(error) => return Err(error),
            },
            Ok(_) => return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket")),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(path)?;
        // Between the two, somebody may connect; who that is, is asked of the kernel for each connection.
        set_mode(path, if user.is_some() { 0o666 } else { 0o600 })?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, user })
    }

    /// The listener once more.
    pub(crate) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// The listener, in a runtime, and who may connect.
    pub(crate) fn into_parts(self) -> io::Result<(tokio::net::UnixListener, Option<u32>)> {
        Ok((tokio::net::UnixListener::from_std(self.listener)?, self.user))
    }
}

/// Where others may put files, they take the socket away and listen in its place, and who asks there tells them. In a folder such as `/tmp`, where nobody may remove what is another's,
/// they cannot. Access lists are covered: where there is one, the group's bits are the most that it gives. Whose folder it is is not looked at: root listens for the user that it becomes.
fn check_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mode = fs::metadata(folder)?.permissions().mode() & 0o7777;
    if mode & 0o022 == 0 || mode & 0o1000 != 0 {
        return Ok(());
    }
    let folder = folder.display();
    Err(io::Error::new(
        ErrorKind::PermissionDenied,
        format!(
            "others than its owner may put files into `{folder}` (mode {mode:04o}), and so take the socket's place; run `chmod go-w {folder}`, or name another folder"
        ),
    ))
}

/// Sets the mode of the socket at `path`, and of nothing else: the folder may be somebody's who put a link there meanwhile, and we may be root.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use rustix::fs::{FileType, Mode, OFlags};
    use std::os::fd::AsRawFd;
    // The file itself, opened for nothing. Its name is not used any more after that.
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let found = rustix::fs::fstat(&file)?;
    let is_ours = found.st_uid == rustix::process::geteuid().as_raw() && found.st_nlink == 1;
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket || !is_ours {
        return Err(io::Error::new(
            ErrorKind::AlreadyExists,
            "it is not the socket that was made there; somebody else writes in its folder",
        ));
    }
    if found.st_mode & 0o7777 == mode {
        return Ok(());
    }
    // `fchmod` takes no such descriptor, and `fchmodat` without following is younger than many kernels.
    fs::set_permissions(format!("/proc/self/fd/{}", file.as_raw_fd()), fs::Permissions::from_mode(mode))
}

/// Sets the mode of what is at `path`; of a link, its own.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Mode, RawMode};
    let mode = RawMode::try_from(mode).map_err(|_| ErrorKind::InvalidInput)?;
    Ok(rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Whether the other end of a connection may use the API. Never this process itself, by whatever path it came: it connects to unix sockets for its clients.
pub(super) fn may(peer: tokio::net::unix::UCred, named: Option<u32>) -> bool {
    let is_us = peer.pid().is_some_and(|pid| u32::try_from(pid).is_ok_and(|pid| pid == std::process::id()));
    !is_us && is_allowed(peer.uid(), named)
}

/// Root, who can do all of it anyway; the user of this process; the one who was named.
fn is_allowed(user: u32, named: Option<u32>) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw() || named == Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_its_owners_and_follows_one_that_nobody_listens_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let mode = || fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777;
        let socket = Socket::bind(&path, None, None).unwrap();
        assert_eq!(mode(), 0o600);
        let own = rustix::process::geteuid().as_raw();
        let user = socket.user;
        assert!(is_allowed(own, user) && is_allowed(0, user) && !is_allowed(own + 12_345, user));
        assert_eq!(Socket::bind(&path, None, None).unwrap_err().kind(), ErrorKind::AddrInUse, "it is in use");
        // A successor goes on with it; with one of another path it does not.
        let successor = Socket::bind(&path, None, Some(socket.listener().unwrap())).unwrap();
        let elsewhere = UnixListener::bind(folder.path().join("other.sock")).unwrap();
        assert_eq!(Socket::bind(&path, None, Some(elsewhere)).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(socket);
        assert_eq!(Socket::bind(&path, None, None).unwrap_err().kind(), ErrorKind::AddrInUse, "the successor has it");
        // The process ends without a word.
        drop(successor);
        let again = Socket::bind(&path, Some(own + 12_345), None).unwrap();
        assert!(is_allowed(own + 12_345, again.user) && mode() == 0o666);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_mode_is_given_to_the_socket_and_not_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link, hard) = (folder.path().join("file"), folder.path().join("link"), folder.path().join("hard"));
        fs::write(&file, "precious").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = |path: &Path| set_mode(path, 0o666).unwrap_err().kind();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!((refused(&link), refused(&file)), (ErrorKind::AlreadyExists, ErrorKind::AlreadyExists));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
        let socket = folder.path().join("other.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        assert_eq!(refused(&link), ErrorKind::AlreadyExists);
        fs::hard_link(&socket, &hard).unwrap();
        assert_eq!(refused(&hard), ErrorKind::AlreadyExists, "a socket that has another name");
    }

    #[test]
    fn a_folder_that_others_may_write_is_refused_unless_they_may_not_remove_what_is_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        for (mode, refused) in
            [(0o700, false), (0o755, false), (0o770, true), (0o757, true), (0o777, true), (0o1777, false), (0o1770, false)]
        {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            let bound = Socket::bind(&path, None, None);
            assert_eq!(bound.as_ref().err().map(io::Error::kind), refused.then_some(ErrorKind::PermissionDenied), "{mode:04o}");
            let said = bound.err().map_or_else(String::new, |error| error.to_string());
            assert_eq!(said.contains(&format!("(mode {mode:04o})")) && said.contains("chmod go-w"), refused, "{said}");
            assert_eq!(path.symlink_metadata().is_ok(), !refused, "{mode:04o}: nothing is left there");
            let _ = fs::remove_file(&path);
        }
    }

    #[test]
    fn what_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert_eq!(Socket::bind(&path, None, None).unwrap_err().kind(), ErrorKind::AlreadyExists);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(Socket::bind(&link, None, None).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert_eq!(Socket::bind(&folder.path().join("none/admin.sock"), None, None).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
