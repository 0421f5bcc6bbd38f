//! Why there is no TLS with an origin, in few kinds that people can act on.

use std::io;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// Why there is no TLS with an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsError {
    Expired,
    NotYetValid,
    UnknownIssuer,
    /// The certificate of an authority, as a server's.
    SelfSigned,
    OtherName,
    Revoked,
    /// Its authority may not speak for the host.
    Constrained,
    /// Its signature, its purpose, or how it is written.
    BadCertificate,
    /// It wants one of us, or another.
    ClientCertificate,
    /// No version, no algorithm, or nothing to speak inside, in common.
    Protocol,
    /// What it says is something else.
    NotTls,
    Closed,
    /// Nobody is trusted here: there are no roots, or they cannot be read.
    NoRoots,
    Failed,
}

impl TlsError {
    /// The value of `x-proxy-error`, and a line for people; it follows the target's name.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Expired => ("upstream-tls-expired", "is allowed, but its certificate has expired"),
            Self::NotYetValid => {
                ("upstream-tls-not-yet-valid", "is allowed, but its certificate is not valid yet; the clock of the proxy may be wrong")
            }
            Self::UnknownIssuer => (
                "upstream-tls-unknown-issuer",
                "is allowed, but its certificate is from an authority that the proxy does not trust, or from none; `CODEX_CA_CERTIFICATE` names a file with others to trust",
            ),
            Self::SelfSigned => (
                "upstream-tls-self-signed",
                "is allowed, but what it shows as its own certificate is that of an authority; it needs one that an authority has issued to it",
            ),
            Self::OtherName => ("upstream-tls-name-mismatch", "is allowed, but its certificate is for another name"),
            Self::Revoked => ("upstream-tls-revoked", "is allowed, but its certificate has been revoked"),
            Self::Constrained => {
                ("upstream-tls-name-constraints", "is allowed, but its certificate is from an authority that may not speak for it")
            }
            Self::BadCertificate => {
                ("upstream-tls-bad-certificate", "is allowed, but its certificate is not one of a server, or is damaged or wrongly signed")
            }
            Self::ClientCertificate => (
                "upstream-tls-client-certificate",
                "is allowed, but wants a client certificate, and the proxy has none for it, or one that it does not accept",
            ),
            Self::Protocol => ("upstream-tls-protocol", "is allowed, but has no version or algorithm of TLS in common with the proxy"),
            Self::NotTls => ("upstream-tls-not-tls", "is allowed, but does not speak TLS on this port"),
            Self::Closed => ("upstream-tls-closed", "is allowed, but closed the connection before there was TLS"),
            Self::NoRoots => ("upstream-tls-no-roots", "is allowed, but the proxy has no authorities to hold its certificate against"),
            Self::Failed => ("upstream-tls-failed", "is allowed, but there is no TLS with it"),
        }
    }

    /// The value of `x-proxy-error`.
    pub(crate) const fn proxy_error(self) -> &'static str {
        self.words().0
    }

    /// A line for people; it follows the target's name.
    pub(crate) const fn message(self) -> &'static str {
        self.words().1
    }
}

impl From<&Error> for TlsError {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => error.into(),
            Error::NoCertificatesPresented => Self::BadCertificate,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::Protocol,
            Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => Self::NotTls,
            Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::NoCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied,
            ) => Self::ClientCertificate,
            Error::AlertReceived(
                AlertDescription::ProtocolVersion
                | AlertDescription::HandshakeFailure
                | AlertDescription::InsufficientSecurity
                | AlertDescription::NoApplicationProtocol,
            ) => Self::Protocol,
            Error::AlertReceived(AlertDescription::UnrecognisedName) => Self::OtherName,
            _ => Self::Failed,
        }
    }
}

impl From<&CertificateError> for TlsError {
    fn from(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::OtherName,
            CertificateError::Revoked => Self::Revoked,
            // What has no kind of its own is known by its name.
            CertificateError::Other(other) => match other.to_string().as_str() {
                "CaUsedAsEndEntity" => Self::SelfSigned,
                "NameConstraintViolation" => Self::Constrained,
                _ => Self::BadCertificate,
            },
            _ => Self::BadCertificate,
        }
    }
}

/// As a handshake fails.
impl From<&io::Error> for TlsError {
    fn from(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(error) => error.into(),
            None if is_end(error.kind()) => Self::Closed,
            None => Self::Failed,
        }
    }
}

fn is_end(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::others::{handshake, trusting};
    use crate::tls::provider;
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd};
    use std::sync::Arc;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio_rustls::rustls::{ALL_VERSIONS, ServerConfig, SupportedProtocolVersion, version};

    static ONLY_13: [&SupportedProtocolVersion; 1] = [&version::TLS13];

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params
    }

    fn authority() -> (rcgen::Certificate, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = params("authority.test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.self_signed(&key).unwrap(), Issuer::new(params, key))
    }

    /// What comes of a server that shows this, signed by `issuer` or by itself.
    fn of(change: impl FnOnce(&mut CertificateParams), signed: bool, versions: &[&'static SupportedProtocolVersion]) -> Option<TlsError> {
        let (root, issuer) = authority();
        let key = KeyPair::generate().unwrap();
        let mut params = params("a.test");
        change(&mut params);
        let certificate = if signed { params.signed_by(&key, &issuer) } else { params.self_signed(&key) };
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider())).with_protocol_versions(versions).unwrap();
        let server = builder.with_no_client_auth().with_single_cert(vec![certificate.unwrap().der().clone()], der).unwrap();
        let client = trusting(root.der(), if versions.len() == 1 { &ONLY_13 } else { ALL_VERSIONS });
        handshake(&Arc::new(client), &Arc::new(server), "a.test").err().map(|error| TlsError::from(&error))
    }

    #[test]
    fn certificates_that_are_not_accepted() {
        assert_eq!(of(|_| {}, true, ALL_VERSIONS), None);
        type Change = fn(&mut CertificateParams);
        let rows: [(Change, bool, TlsError); 7] = [
            (|params| params.not_after = date_time_ymd(2021, 1, 1), true, TlsError::Expired),
            (|params| params.not_before = date_time_ymd(2999, 1, 1), true, TlsError::NotYetValid),
            (|_| {}, false, TlsError::UnknownIssuer),
            (|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), false, TlsError::SelfSigned),
            (|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), true, TlsError::SelfSigned),
            (|params| params.subject_alt_names.clear(), true, TlsError::OtherName),
            (|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth], true, TlsError::BadCertificate),
        ];
        for (change, signed, expected) in rows {
            assert_eq!(of(change, signed, ALL_VERSIONS), Some(expected));
        }
        assert_eq!(of(|_| {}, true, &[&version::TLS12]), Some(TlsError::Protocol));
    }

    #[test]
    fn what_comes_instead_of_tls() {
        for (bytes, expected) in [(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], TlsError::NotTls), (b"SSH-2.0-x\r\n", TlsError::NotTls)] {
            let name = crate::tls::others::server_name("a.test");
            let client = trusting(authority().0.der(), ALL_VERSIONS);
            let mut client = tokio_rustls::rustls::ClientConnection::new(Arc::new(client), name).unwrap();
            let mut unread = bytes;
            client.read_tls(&mut unread).unwrap();
            let error = io::Error::new(io::ErrorKind::InvalidData, client.process_new_packets().unwrap_err());
            assert_eq!(TlsError::from(&error), expected, "{error}");
        }
        assert_eq!(TlsError::from(&io::Error::from(io::ErrorKind::UnexpectedEof)), TlsError::Closed);
        assert_eq!(TlsError::from(&io::Error::other("?")), TlsError::Failed);
    }

    #[test]
    fn each_has_words_of_its_own() {
        use TlsError::*;
        let all = [
            Expired,
            NotYetValid,
            UnknownIssuer,
            SelfSigned,
            OtherName,
            Revoked,
            Constrained,
            BadCertificate,
            ClientCertificate,
            Protocol,
            NotTls,
            Closed,
            NoRoots,
            Failed,
        ];
        for (n, error) in all.into_iter().enumerate() {
            assert!(error.proxy_error().starts_with("upstream-tls-") && error.message().starts_with("is allowed, but "));
            assert!(all.iter().skip(n + 1).all(|other| other.proxy_error() != error.proxy_error() && other.message() != error.message()));
        }
        assert_eq!(TlsError::from(&CertificateError::Revoked), Revoked);
    }
}
