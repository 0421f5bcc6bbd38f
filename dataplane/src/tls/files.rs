//! Files with certificates, and files with private keys, which nobody else may read.

use super::pem::{self, Key, MAX_PEM, PemError};
use crate::private::{self, Links, Shared};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use tokio_rustls::rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

/// The longest file with a key, in bytes.
const MAX_KEY: usize = 256 * 1024;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFileError {
    /// It cannot be read.
    #[error("cannot read `{path}`: {error}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What it says is no PEM.
    #[error("`{path}`, {error}")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Where, and what.
        error: PemError,
    },
    /// There is none in it.
    #[error("`{path}` has no certificate: a file is wanted that has `-----BEGIN CERTIFICATE-----` in it")]
    NoCertificate {
        /// Which file.
        path: PathBuf,
    },
    /// There is none in it.
    #[error("`{path}` has no private key: a file is wanted that has `-----BEGIN PRIVATE KEY-----` in it")]
    NoKey {
        /// Which file.
        path: PathBuf,
    },
    /// It leads elsewhere, and where to may change.
    #[error("`{path}` is a symbolic link; name the file itself: who may change a link chooses the key")]
    Link {
        /// Which file.
        path: PathBuf,
    },
    /// A folder, a pipe, a device.
    #[error("`{path}` is not a regular file")]
    NotAFile {
        /// Which file.
        path: PathBuf,
    },
    /// Others may read or write it.
    #[error("the private key `{path}` is open to others than its owner (mode {mode:04o}); run `chmod 600 {path}`")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Its owner may read it.
    #[error("the private key `{path}` belongs to user {owner}; it has to belong to root or to the user of the proxy, {user} (`chown`)")]
    Owner {
        /// Which file.
        path: PathBuf,
        /// The owner's number.
        owner: u32,
        /// The number of the user of this process.
        user: u32,
    },
    /// Of a kind that is not known here.
    #[error(
        "the private key `{path}` is none that can be used: it has to be P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits, and not damaged"
    )]
    KeyKind {
        /// Which file.
        path: PathBuf,
    },
    /// They are of different pairs.
    #[error("the private key `{key}` is not that of the certificate in `{certificate}`")]
    Mismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
}

/// The certificates of a file; at least one.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateFileError> {
    certificates_in(path, &content(path).map_err(|error| CertificateFileError::Read { path: path.to_owned(), error })?)
}

/// What is in a file with certificates; of one that is longer than it may be, one byte more.
pub(crate) fn content(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let most = MAX_PEM as u64 + 1;
    // With room for all that there is, it is read at once.
    let length = file.metadata()?.len().saturating_add(1).min(most);
    let mut pem = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(most).read_to_end(&mut pem)?;
    Ok(pem)
}

/// The certificates of a file that says this; at least one.
pub(crate) fn certificates_in(path: &Path, content: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateFileError> {
    let found = pem::certificates(content).map_err(|error| CertificateFileError::Pem { path: path.to_owned(), error })?;
    if found.is_empty() { Err(CertificateFileError::NoCertificate { path: path.to_owned() }) } else { Ok(found) }
}

/// The private key of a file that is its owner's alone.
pub(crate) fn private_key(path: &Path) -> Result<Key, CertificateFileError> {
    let pem = secret(path)?;
    let found = pem::private_key(&pem).map_err(|error| CertificateFileError::Pem { path: path.to_owned(), error })?;
    found.ok_or_else(|| CertificateFileError::NoKey { path: path.to_owned() })
}

/// What is in a file that is its owner's alone. It is looked at after it was opened, so that it is the one that is read.
fn secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, CertificateFileError> {
    let read = |error| CertificateFileError::Read { path: path.to_owned(), error };
    let file = open(path)?;
    let metadata = file.metadata().map_err(read)?;
    if !metadata.is_file() {
        return Err(CertificateFileError::NotAFile { path: path.to_owned() });
    }
    private::check(&metadata).map_err(|shared| match shared {
        Shared::Mode(mode) => CertificateFileError::Mode { path: path.to_owned(), mode },
        Shared::Owner { owner, user } => CertificateFileError::Owner { path: path.to_owned(), owner, user },
    })?;
    let content = private::content(file.take(MAX_KEY as u64), MAX_KEY).map_err(read)?;
    Ok(content.unwrap_or_default())
}

#[cfg(unix)]
fn open(path: &Path) -> Result<File, CertificateFileError> {
    use rustix::io::Errno;
    // What following none says of a link; FreeBSD says it with EMLINK.
    private::open(path, Links::Refused).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::LOOP | Errno::MLINK) => CertificateFileError::Link { path: path.to_owned() },
        _ => CertificateFileError::Read { path: path.to_owned(), error },
    })
}

#[cfg(not(unix))]
fn open(path: &Path) -> Result<File, CertificateFileError> {
    let read = |error| CertificateFileError::Read { path: path.to_owned(), error };
    if std::fs::symlink_metadata(path).map_err(read)?.is_symlink() {
        return Err(CertificateFileError::Link { path: path.to_owned() });
    }
    private::open(path, Links::Refused).map_err(read)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMAMBAgM=\n-----END PRIVATE KEY-----\n";

    fn file(folder: &tempfile::TempDir, name: &str, mode: u32) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, KEY).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_key_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o600, 0o400] {
            let path = file(&folder, &format!("{mode:o}"), mode);
            assert!(private_key(&path).is_ok(), "{mode:o}");
        }
        for mode in [0o640, 0o604, 0o660, 0o644, 0o700, 0o601, 0o2600, 0o4600] {
            let path = file(&folder, &format!("{mode:o}"), mode);
            let error = private_key(&path).unwrap_err();
            assert!(matches!(error, CertificateFileError::Mode { mode: found, .. } if found == mode), "{mode:o}: {error}");
            let path = path.display();
            assert_eq!(
                error.to_string(),
                format!("the private key `{path}` is open to others than its owner (mode {mode:04o}); run `chmod 600 {path}`")
            );
        }
    }

    #[test]
    fn a_key_is_a_file_and_no_link_to_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder, "key", 0o600);
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(private_key(&link), Err(CertificateFileError::Link { .. })));
        // A pipe that nobody writes to is not waited for.
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(matches!(private_key(&pipe), Err(CertificateFileError::NotAFile { .. })));
        assert!(matches!(private_key(folder.path()), Err(CertificateFileError::NotAFile { .. })));
        let missing = private_key(&folder.path().join("missing")).unwrap_err();
        assert!(matches!(&missing, CertificateFileError::Read { error, .. } if error.kind() == io::ErrorKind::NotFound), "{missing}");
    }

    #[test]
    fn files_without_what_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder, "key", 0o600);
        assert!(matches!(certificates(&path), Err(CertificateFileError::NoCertificate { .. })));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n").unwrap();
        assert!(matches!(private_key(&path), Err(CertificateFileError::NoKey { .. })));
        let broken = certificates(&path).unwrap_err().to_string();
        assert!(broken.ends_with("key`, line 1: a section begins here, and has no end: the file may be cut off"), "{broken}");
    }
}
