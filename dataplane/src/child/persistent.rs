//! An authority that outlives the process: a certificate and a key in files, made once, trusted by people by hand, and named in a policy.

use crate::tls::constraints::Constraints;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The certificate's file.
pub const CERTIFICATE: &str = "ca.pem";

/// The private key's file.
pub const KEY: &str = "ca-key.pem";

/// Why the files were not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// They are there already: programs that trust the old certificate would not trust a new one.
    #[error("`{0}` is there already, and what trusts it would not trust a new one; remove it by hand, or name another folder with `--dir`")]
    Exists(PathBuf),
    /// The folder or a file.
    #[error("cannot write `{path}`: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The key or the certificate.
    #[error("cannot make the authority: {0}")]
    Make(String),
}

/// Certificate and key, where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityFiles {
    /// PEM, mode 0644.
    pub certificate: PathBuf,
    /// PEM, mode 0600.
    pub key: PathBuf,
}

/// For five years: after that, all have to trust another.
const DAYS: u32 = 5 * 365;

/// A certificate of an authority (P-256) for every host, and its private key, both as PEM.
///
/// # Errors
/// What went wrong, in words.
pub fn generate() -> Result<(String, Zeroizing<String>), String> {
    let files = crate::tls::authority::Authority::files(&Constraints::none(), DAYS).map_err(|error| error.to_string())?;
    Ok((files.certificate, files.key))
}

/// Makes both files in a folder, which is made if it is not there (mode 0700). `make` gives certificate and key as PEM.
///
/// # Errors
/// [`InitError`]; then neither file is there that was not before.
pub fn init(dir: &Path, make: impl FnOnce() -> Result<(String, Zeroizing<String>), String>) -> Result<AuthorityFiles, InitError> {
    let failed = |path: &Path, error| InitError::Io { path: path.to_owned(), error };
    let dir = std::path::absolute(dir).map_err(|error| failed(dir, error))?;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&dir).map_err(|error| failed(&dir, error))?;
    let made = AuthorityFiles { certificate: dir.join(CERTIFICATE), key: dir.join(KEY) };
    // Looked at before a key is made; `create_new` below is what holds.
    if let Some(there) = [&made.key, &made.certificate].into_iter().find(|path| fs::symlink_metadata(path).is_ok()) {
        return Err(InitError::Exists(there.clone()));
    }
    let (certificate, key) = make().map_err(InitError::Make)?;
    write(&made.key, &key, 0o600)?;
    write(&made.certificate, &certificate, 0o644).inspect_err(|_| drop(fs::remove_file(&made.key)))?;
    Ok(made)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), InitError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => InitError::Exists(path.to_owned()),
        _ => InitError::Io { path: path.to_owned(), error },
    };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let mut file = options.open(path).map_err(failed)?;
    let mut written = || {
        // What the umask has taken away.
        #[cfg(unix)]
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    written().map_err(|error| {
        let _ = fs::remove_file(path);
        failed(error)
    })
}

/// How to trust the certificate: for whom, and what to do.
#[must_use]
pub fn instructions(certificate: &Path) -> Vec<(&'static str, Vec<String>)> {
    let ca = certificate.to_string_lossy();
    let sh = super::shell::sh_quoted(&ca);
    let lines = |lines: &[String]| lines.to_vec();
    vec![
        (
            "Debian, Ubuntu, Alpine",
            lines(&[format!("sudo cp {sh} /usr/local/share/ca-certificates/netproxy.crt"), "sudo update-ca-certificates".to_owned()]),
        ),
        (
            "Fedora, RHEL",
            lines(&[format!("sudo cp {sh} /etc/pki/ca-trust/source/anchors/netproxy.pem"), "sudo update-ca-trust".to_owned()]),
        ),
        ("macOS", lines(&[format!("sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain {sh}")])),
        ("Windows", lines(&[format!("certutil -addstore -f Root \"{ca}\"")])),
        ("Chromium on Linux", lines(&[format!("certutil -d sql:\"$HOME/.pki/nssdb\" -A -t C,, -n netproxy -i {sh}")])),
        (
            "Firefox",
            lines(&[
                "Settings, Privacy & Security, View Certificates, Authorities, Import".to_owned(),
                "or, from the system: `security.enterprise_roots.enabled` in about:config (macOS, Windows)".to_owned(),
            ]),
        ),
        ("Java", lines(&[format!("sudo keytool -importcert -noprompt -cacerts -storepass changeit -alias netproxy -file {sh}")])),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;

    fn pair() -> Result<(String, Zeroizing<String>), String> {
        Ok(("certificate".to_owned(), Zeroizing::new("key".to_owned())))
    }

    #[test]
    fn files_are_made_once_and_the_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("a/ca");
        let made = init(&dir, pair).unwrap();
        assert_eq!(fs::read_to_string(&made.certificate).unwrap(), "certificate");
        assert_eq!(fs::read_to_string(&made.key).unwrap(), "key");
        #[cfg(unix)]
        for (path, mode) in [(&made.key, 0o600), (&made.certificate, 0o644), (&dir, 0o700)] {
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions()) & 0o777, mode);
        }
        assert!(matches!(init(&dir, || unreachable!("it is not made in vain")), Err(InitError::Exists(path)) if path == made.key));
        // Half of a pair is not completed.
        fs::remove_file(&made.key).unwrap();
        assert!(matches!(init(&dir, pair), Err(InitError::Exists(path)) if path == made.certificate));
        assert!(!made.key.exists());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, folder.path().join(KEY)).unwrap();
        assert!(matches!(init(folder.path(), pair), Err(InitError::Exists(_))));
        assert!(!elsewhere.exists());
    }

    /// By OpenSSL, where it is installed: strictly an authority, and the key is its key.
    #[test]
    fn what_is_generated_is_an_authority() {
        let folder = tempfile::tempdir().unwrap();
        let made = init(folder.path(), generate).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let openssl = |args: &[&str]| {
            std::process::Command::new("openssl").args(args).output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let (certificate, key) = (text(&made.certificate), text(&made.key));
        let Ok(said) = openssl(&["x509", "-noout", "-text", "-in", &certificate]) else { return };
        for word in ["CA:TRUE", "Certificate Sign", "X509v3 Subject Key Identifier", "prime256v1"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(openssl(&["verify", "-x509_strict", "-CAfile", &certificate, &certificate]).unwrap().ends_with(": OK\n"));
        assert_eq!(
            openssl(&["x509", "-noout", "-pubkey", "-in", &certificate]).unwrap(),
            openssl(&["pkey", "-pubout", "-in", &key]).unwrap()
        );
    }

    #[test]
    fn everyone_is_told() {
        let shown = format!("{:?}", instructions(Path::new("/a b/ca.pem")));
        for word in [
            "update-ca-certificates",
            "update-ca-trust",
            "security add-trusted-cert",
            "certutil -addstore",
            "about:config",
            "keytool",
            "'/a b/ca.pem'",
        ] {
            assert!(shown.contains(word), "{word}");
        }
    }
}
