//! Which authorities children trust: the system's, those that the user has named, and ours.

use super::variables::names_authorities;
use crate::tls::{files, pem, roots};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// All of them, each once, ours last.
#[derive(Debug)]
pub(crate) struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    /// The files and folders of the user that were read.
    pub(crate) included: Vec<PathBuf>,
    /// What could not be read, in words.
    pub(crate) problems: Vec<String>,
}

impl Authorities {
    /// Collects them. `env` is the environment at the start, whose variables name what the user trusts; `ours` comes last.
    pub(crate) fn collect(env: &HashMap<String, String>, ours: CertificateDer<'static>) -> Self {
        // Whatever the environment says: `SSL_CERT_FILE` adds to them here, and does not replace them.
        let mut found = Self { certificates: roots::system(), included: Vec::new(), problems: Vec::new() };
        if found.certificates.is_empty() {
            found.problems.push("the system has no authorities (on Debian, install `ca-certificates`)".to_owned());
        }
        for name in names_authorities() {
            let Some(path) = env.get(name).filter(|value| !value.is_empty()).map(PathBuf::from) else { continue };
            // Several variables often name one file.
            if found.included.contains(&path) {
                continue;
            }
            match files::certificates(&path) {
                Ok(certificates) => {
                    found.certificates.extend(certificates);
                    found.included.push(path);
                }
                Err(error) => found.problems.push(format!("children will not trust what `{name}` names: {error}")),
            }
        }
        for path in env.get("SSL_CERT_DIR").map(std::env::split_paths).into_iter().flatten().filter(|path| path.is_dir()) {
            found.certificates.extend(roots::in_folder(&path));
            found.included.push(path);
        }
        let mut seen = HashSet::new();
        found.certificates.retain(|certificate| *certificate != ours && seen.insert(certificate.clone()));
        found.certificates.push(ours);
        found
    }

    pub(crate) fn pem(&self) -> String {
        self.certificates.iter().map(|certificate| pem::encode("CERTIFICATE", certificate).to_string()).collect()
    }

    pub(crate) fn pkcs12(&self) -> Vec<u8> {
        let last = self.certificates.len().saturating_sub(1);
        let name = |number| if number == last { "netproxy".to_owned() } else { format!("authority-{number}") };
        super::truststore::pkcs12(self.certificates.iter().enumerate().map(|(number, der)| (name(number), der.as_ref())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::tls::der::{sequence, tag, value};
    use std::path::Path;

    fn certificate(name: &str) -> CertificateDer<'static> {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap().der().clone()
    }

    fn pem(certificate: &[u8]) -> String {
        pem::encode("CERTIFICATE", certificate).to_string()
    }

    #[test]
    fn the_users_files_and_ours_are_added_once() {
        let folder = tempfile::tempdir().unwrap();
        let (users, ours, in_folder) = (certificate("users.test"), certificate("ours.test"), certificate("folder.test"));
        let file = folder.path().join("users.pem");
        // As OpenSSL writes one that is trusted for mail alone.
        let (mails, mail) = (certificate("mails.test"), value(tag::OID, &[b"\x2b\x06\x01\x05\x05\x07\x03\x04"]));
        let mails_alone = pem::encode("TRUSTED CERTIFICATE", &[mails.as_ref(), &sequence(&[&sequence(&[&mail])])].concat());
        std::fs::write(&file, format!("# a remark\n{}{}{}", pem(&users), pem(&ours), *mails_alone)).unwrap();
        let certs = folder.path().join("certs");
        std::fs::create_dir(&certs).unwrap();
        std::fs::write(certs.join("a.pem"), pem(&in_folder)).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let env = HashMap::from([
            ("SSL_CERT_FILE".to_owned(), text(&file)),
            ("PIP_CERT".to_owned(), text(&file)),
            ("DENO_CERT".to_owned(), text(&folder.path().join("none.pem"))),
            ("SSL_CERT_DIR".to_owned(), text(&certs)),
        ]);
        let found = Authorities::collect(&env, ours.clone());
        let count = |certificate: &CertificateDer<'_>| found.certificates.iter().filter(|found| *found == certificate).count();
        assert_eq!((count(&users), count(&ours), count(&in_folder), count(&mails)), (1, 1, 1, 0));
        assert_eq!(found.certificates.last(), Some(&ours));
        assert_eq!(found.included, [file, certs]);
        let said = found
            .problems
            .iter()
            .filter(|problem| problem.starts_with("children will not trust what `DENO_CERT` names: cannot read `"))
            .count();
        assert_eq!(said, 1, "{:?}", found.problems);
        // The system's are there as well, as many as without the user's.
        assert!(roots::system().iter().all(|certificate| found.certificates.contains(certificate)));
        assert_eq!(pem::certificates(found.pem().as_bytes()).unwrap(), found.certificates);
    }
}
