//! Certificates of our own, towards origins that ask for them.

use super::files::{self, CertificateFileError};
use policy_format::{Host, Hosts, Pattern};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::crypto::ring::sign::any_supported_type;
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};

/// A client certificate and its key.
pub(crate) struct ClientCertificate {
    resolver: Arc<dyn ResolvesClientCert>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate")
    }
}

impl ClientCertificate {
    /// Reads the certificate, with those that lead to its authority behind it, and its key.
    pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Self, CertificateFileError> {
        let chain = files::certificates(certificate)?;
        let pem = files::private_key(key)?;
        let signing = any_supported_type(&pem.der()).map_err(|_| CertificateFileError::KeyKind { path: key.to_owned() })?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|_| CertificateFileError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() })?;
        Ok(Self { resolver: Arc::new(SingleCertAndKey::from(certified)) })
    }

    /// Where rustls gets it.
    pub(crate) fn resolver(&self) -> &Arc<dyn ResolvesClientCert> {
        &self.resolver
    }
}

/// Which certificate goes to which host.
#[derive(Debug, Default)]
pub(crate) struct ClientCertificates(Vec<(Hosts, Arc<ClientCertificate>)>);

impl ClientCertificates {
    /// Reads them all: patterns of hosts, each with the files of a certificate and its key.
    pub(crate) fn load<'a>(listed: impl IntoIterator<Item = (&'a str, &'a Path, &'a Path)>) -> Result<Self, CertificateFileError> {
        let mut found = Vec::new();
        for (host, certificate, key) in listed {
            // A policy has no pattern that is none; it would be nobody's.
            let Ok(pattern) = Pattern::parse(host) else { continue };
            found.push((pattern.hosts, Arc::new(ClientCertificate::load(certificate, key)?)));
        }
        Ok(Self(found))
    }

    /// The first whose pattern has `host`.
    pub(crate) fn get(&self, host: &Host) -> Option<&Arc<ClientCertificate>> {
        self.0.iter().find(|(hosts, _)| hosts.matches(host)).map(|(_, certificate)| certificate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::Alpn;
    use crate::tls::authority::Authority;
    use crate::tls::constraints::Constraints;
    use crate::tls::failure::TlsError;
    use crate::tls::others::{handshake, host, only_ours, roots_of};
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
    use std::path::PathBuf;
    use std::time::SystemTime;
    use tokio_rustls::rustls::server::WebPkiClientVerifier;
    use tokio_rustls::rustls::{HandshakeKind, RootCertStore, ServerConfig};

    fn write(path: PathBuf, content: &str) -> PathBuf {
        std::fs::write(&path, content).unwrap();
        only_ours(&path);
        path
    }

    #[test]
    fn an_origin_that_asks_gets_the_certificate_of_its_host() {
        let folder = tempfile::tempdir().unwrap();
        // Who vouches for clients.
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let clients = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let own = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["client.test".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = write(folder.path().join("c.pem"), &params.signed_by(&own, &issuer).unwrap().pem());
        let key = write(folder.path().join("c.key"), &own.serialize_pem());
        let other = write(folder.path().join("other.key"), &KeyPair::generate().unwrap().serialize_pem());

        let listed = ClientCertificates::load([("*.origin.test", certificate.as_path(), key.as_path())]).unwrap();
        assert!(listed.get(&host("origin.test")).is_none());
        let found = listed.get(&host("a.origin.test")).unwrap();
        assert_eq!(format!("{listed:?}"), "ClientCertificates([(Subdomains(Name(origin.test)), ClientCertificate)])");
        let error = ClientCertificates::load([("a.test", certificate.as_path(), other.as_path())]).unwrap_err();
        assert!(matches!(error, CertificateFileError::Mismatch { .. }), "{error}");

        // An origin that wants one.
        let origin = Authority::in_memory(&Constraints::none()).unwrap();
        let leaf = origin.issue(&host("a.origin.test"), SystemTime::now()).unwrap().key;
        let mut roots = RootCertStore::empty();
        roots.add(clients.der().clone()).unwrap();
        let provider = crate::tls::provider();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(provider)).build().unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider)).with_safe_default_protocol_versions().unwrap();
        let server = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(SingleCertAndKey::from(leaf)));
        let server = Arc::new(server);

        let (_folder, roots) = roots_of(origin.der(), &[]);
        let with = roots.client_config(Alpn::None, Some(found));
        assert!(Arc::ptr_eq(&with, &roots.client_config(Alpn::None, Some(found))));
        let (client, ended) = handshake(&with, &server, "a.origin.test").unwrap();
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(ended.peer_certificates().map(<[_]>::len), Some(1));
        let (client, _) = handshake(&with, &server, "a.origin.test").unwrap();
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Resumed));
        // Without it, not even the session of it is used.
        let error = handshake(&roots.client_config(Alpn::None, None), &server, "a.origin.test").unwrap_err();
        assert_eq!(TlsError::from(&error), TlsError::ClientCertificate, "{error}");
    }
}
