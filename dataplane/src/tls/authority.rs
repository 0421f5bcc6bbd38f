//! The authority that speaks for origins towards the clients here: made in memory, where its key stays, or read from files.

use super::constraints::Constraints;
use super::der::{self, sequence, tag, value};
use super::files::{self, CertificateFileError};
use super::x509::{CERT_AND_CRL_SIGN, Certificate, DIGITAL_SIGNATURE, Unsigned, Validity, extension, name, oid};
use super::{hexadecimal, pem};
use policy_format::Host;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_rustls::rustls::SignatureScheme;
use tokio_rustls::rustls::crypto::ring::sign::{any_ecdsa_type, any_supported_type};
use tokio_rustls::rustls::pki_types::{AlgorithmIdentifier, CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, alg_id};
use tokio_rustls::rustls::sign::{CertifiedKey, SigningKey};
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long before now a certificate begins: clocks of virtual machines go wrong by hours.
const BACKDATED: Duration = DAY;
/// How long an authority may sign. One in memory ends with its process.
const AUTHORITY_DAYS: u32 = 2 * 365;
/// How long a leaf is accepted; the most that any client accepts is more than a year.
const LEAF_DAYS: u32 = 30;
/// Bytes in an identifier of a key (RFC 7093, section 2).
const KEY_IDENTIFIER: usize = 20;
/// Bytes in a serial number; at most 20 are allowed.
const SERIAL: usize = 16;
/// Characters in the longest common name (RFC 5280, appendix A).
const MAX_COMMON_NAME: usize = 64;
const ORGANIZATION: &str = "netproxy";

/// In the order of preference; each with how a certificate says it.
const SCHEMES: [(SignatureScheme, AlgorithmIdentifier); 4] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, alg_id::ECDSA_SHA256),
    (SignatureScheme::ECDSA_NISTP384_SHA384, alg_id::ECDSA_SHA384),
    (SignatureScheme::ED25519, alg_id::ED25519),
    (SignatureScheme::RSA_PKCS1_SHA256, alg_id::RSA_PKCS1_SHA256),
];

/// An authority, and its key.
pub(crate) struct Authority {
    der: CertificateDer<'static>,
    pem: String,
    /// What clients get behind a leaf: the way to an authority that they trust, if this is not one itself.
    chain: Vec<CertificateDer<'static>>,
    signer: Signer,
    subject: Vec<u8>,
    key_identifier: Vec<u8>,
    valid: Validity,
    constraints: Constraints,
}

/// An authority to be kept: what goes into the two files.
pub(crate) struct Files {
    pub(crate) certificate: String,
    pub(crate) key: Zeroizing<String>,
}

/// A leaf, and from when to when it is valid.
#[derive(Debug)]
pub(crate) struct Issued {
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) valid: Validity,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// One of its files.
    #[error(transparent)]
    File(#[from] CertificateFileError),
    /// Only one of the two files.
    #[error("the policy has `{given}` and no `{missing}`: an authority is both, or is made in memory if neither is given")]
    Half {
        /// The key that it has.
        given: &'static str,
        /// The key that it does not have.
        missing: &'static str,
    },
    /// It is a server's, or a person's.
    #[error(
        "the certificate in `{path}` may not issue others: it has to say `CA:TRUE`, and `keyCertSign` where it says what its key is for"
    )]
    NotAnAuthority {
        /// The file with the certificate.
        path: PathBuf,
    },
    /// Its time is over, or has not come.
    #[error("the certificate in `{path}` is not valid now: it {}; every client would refuse what it issues", when(*.expired))]
    NotValid {
        /// The file with the certificate.
        path: PathBuf,
        /// Whether its time is over.
        expired: bool,
    },
    /// It is no certificate.
    #[error("the certificate in `{path}` cannot be read")]
    Unreadable {
        /// The file with the certificate.
        path: PathBuf,
    },
    /// There is no randomness, or no clock.
    #[error("no certificate can be made: {0}")]
    Make(#[from] IssueError),
}

/// Why there is no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IssueError {
    /// Of the system.
    #[error("the system gives no random numbers")]
    Random,
    /// The key does not sign.
    #[error("the authority's key does not sign")]
    Sign,
    /// The clock.
    #[error("the clock is out of the years that a certificate can say")]
    Clock,
    /// The authority's time is over, or has not come.
    #[error("the authority's own certificate is not valid now")]
    Expired,
    /// It may not speak for the host.
    #[error("the authority's name constraints do not cover the host")]
    NotCovered,
}

fn when(expired: bool) -> &'static str {
    if expired { "has expired" } else { "begins later" }
}

/// Signs certificates.
struct Signer {
    key: Arc<dyn SigningKey>,
    scheme: SignatureScheme,
    /// How a certificate says it.
    algorithm: Vec<u8>,
}

impl Signer {
    /// `None` if the key can do nothing that a certificate can say.
    fn new(key: Arc<dyn SigningKey>) -> Option<Self> {
        let (scheme, algorithm) = SCHEMES.into_iter().find(|(scheme, _)| key.choose_scheme(&[*scheme]).is_some())?;
        Some(Self { key, scheme, algorithm: sequence(&[algorithm.as_ref()]) })
    }

    fn sign(&self, written: &[u8]) -> Option<Vec<u8>> {
        self.key.choose_scheme(&[self.scheme])?.sign(written).ok()
    }

    /// The certificate.
    fn issue(&self, unsigned: &Unsigned<'_>) -> Result<CertificateDer<'static>, IssueError> {
        let written = unsigned.write().ok_or(IssueError::Clock)?;
        let signature = self.sign(&written).ok_or(IssueError::Sign)?;
        Ok(unsigned.signed(&written, &signature).into())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("digest", &self.digest()).finish_non_exhaustive()
    }
}

impl Authority {
    /// What a policy asks for: one from files, or, where it names none, one in memory for these hosts.
    pub(crate) fn of(certificate: Option<&Path>, key: Option<&Path>, constraints: &Constraints) -> Result<Self, AuthorityError> {
        match (certificate, key) {
            (Some(certificate), Some(key)) => Self::load(certificate, key),
            (None, None) => Self::in_memory(constraints),
            (Some(_), None) => Err(AuthorityError::Half { given: "ca_cert_path", missing: "ca_key_path" }),
            (None, Some(_)) => Err(AuthorityError::Half { given: "ca_key_path", missing: "ca_cert_path" }),
        }
    }

    /// One with a key that only this process has.
    pub(crate) fn in_memory(constraints: &Constraints) -> Result<Self, AuthorityError> {
        let (der, document) = generate(constraints, SystemTime::now(), AUTHORITY_DAYS)?;
        let key = signing_key(&document)?;
        Self::new(vec![der], key).ok_or(AuthorityError::Make(IssueError::Sign))
    }

    /// The files of one that is kept for `days`, after which all have to trust another.
    pub(crate) fn files(constraints: &Constraints, days: u32) -> Result<Files, AuthorityError> {
        let (der, document) = generate(constraints, SystemTime::now(), days)?;
        let certificate = pem::encode("CERTIFICATE", &der).to_string();
        Ok(Files { certificate, key: pem::encode("PRIVATE KEY", document.as_ref()) })
    }

    /// One from a file with its certificate, which may be followed by those of the authorities above it, and a file with its key.
    pub(crate) fn load(certificate: &Path, key: &Path) -> Result<Self, AuthorityError> {
        let chain = files::certificates(certificate)?;
        let pem = files::private_key(key)?;
        let kind = || CertificateFileError::KeyKind { path: key.to_owned() };
        let signing = any_supported_type(&pem.der()).map_err(|_| kind())?;
        let path = || certificate.to_owned();
        let first = chain.first().ok_or_else(|| AuthorityError::Unreadable { path: path() })?;
        let read = Certificate::read(first).ok_or_else(|| AuthorityError::Unreadable { path: path() })?;
        if signing.public_key().is_none_or(|public| public.as_ref() != read.public_key) {
            return Err(CertificateFileError::Mismatch { certificate: path(), key: key.to_owned() }.into());
        }
        if !read.is_authority {
            return Err(AuthorityError::NotAnAuthority { path: path() });
        }
        let now = SystemTime::now();
        if now > read.valid.not_after || now < read.valid.not_before {
            return Err(AuthorityError::NotValid { path: path(), expired: now > read.valid.not_after });
        }
        Self::new(chain, signing).ok_or_else(|| kind().into())
    }

    /// The first certificate of `chain` is the authority's.
    fn new(chain: Vec<CertificateDer<'static>>, key: Arc<dyn SigningKey>) -> Option<Self> {
        let mut chain = chain.into_iter();
        let der = chain.next()?;
        let read = Certificate::read(&der)?;
        let key_identifier = read.key_identifier.map_or_else(|| identify(read.public_key), <[u8]>::to_vec);
        // A client has the certificate that it trusts.
        let is_sent = |der: &CertificateDer<'_>| Certificate::read(der).is_some_and(|read| !read.is_self_issued());
        let own = (!read.is_self_issued()).then(|| der.clone());
        let chain = own.into_iter().chain(chain.filter(is_sent)).collect();
        let (subject, valid, constraints) = (read.subject.to_vec(), read.valid, read.constraints);
        let pem = pem::encode("CERTIFICATE", &der).to_string();
        Some(Self { signer: Signer::new(key)?, der, pem, chain, subject, key_identifier, valid, constraints })
    }

    /// Its certificate, for those who shall trust it.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// The same.
    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of its certificate, in hexadecimal.
    pub(crate) fn digest(&self) -> String {
        hexadecimal(digest(&SHA256, &self.der).as_ref())
    }

    /// Whether clients accept a leaf for `host` from it.
    pub(crate) fn covers(&self, host: &Host) -> bool {
        self.constraints.covers(host)
    }

    /// Makes a key, and a certificate for it and `host`. Takes a tenth of a millisecond: not for threads that serve.
    pub(crate) fn issue(&self, host: &Host, now: SystemTime) -> Result<Issued, IssueError> {
        if !self.covers(host) {
            return Err(IssueError::NotCovered);
        }
        self.issue_unchecked(host, now)
    }

    /// The same for any host, for those who look at what clients make of it.
    pub(super) fn issue_unchecked(&self, host: &Host, now: SystemTime) -> Result<Issued, IssueError> {
        let valid = validity(now, LEAF_DAYS)?;
        let valid =
            Validity { not_before: valid.not_before.max(self.valid.not_before), not_after: valid.not_after.min(self.valid.not_after) };
        if now < valid.not_before || now >= valid.not_after {
            return Err(IssueError::Expired);
        }
        let document = generate_key()?;
        let key = signing_key(&document)?;
        let public_key = key.public_key().ok_or(IssueError::Sign)?;
        let (subject, alternative, alternative_is_critical) = self.names(host);
        let extensions = [
            // Not an authority, which is what nothing says.
            extension(oid::BASIC_CONSTRAINTS, true, &sequence(&[])),
            extension(oid::KEY_USAGE, true, &value(tag::BIT_STRING, &[DIGITAL_SIGNATURE])),
            extension(oid::EXTENDED_KEY_USAGE, false, &sequence(&[&value(tag::OID, &[oid::SERVER_AUTH])])),
            extension(oid::SUBJECT_KEY_IDENTIFIER, false, &value(tag::OCTET_STRING, &[&identify(&public_key)])),
            extension(oid::AUTHORITY_KEY_IDENTIFIER, false, &sequence(&[&value(tag::context(0), &[&self.key_identifier])])),
            extension(oid::SUBJECT_ALT_NAME, alternative_is_critical, &sequence(&[&alternative])),
        ];
        let unsigned = Unsigned {
            serial: &serial()?,
            algorithm: &self.signer.algorithm,
            issuer: &self.subject,
            valid,
            subject: &subject,
            public_key: &public_key,
            extensions: &extensions,
        };
        let leaf = self.signer.issue(&unsigned)?;
        let chain = std::iter::once(leaf).chain(self.chain.iter().cloned()).collect();
        Ok(Issued { key: Arc::new(CertifiedKey::new(chain, key)), valid })
    }

    /// Subject and subject alternative name; the latter is critical where the former is empty.
    ///
    /// An address is not in the subject: OpenSSL would take it for a name, and hold that against the constraints.
    fn names(&self, host: &Host) -> (Vec<u8>, Vec<u8>, bool) {
        let (text, alternative) = match host {
            Host::Name(name) | Host::NumericLookalike(name) => (Some(name.as_str()), value(tag::context(2), &[name.as_bytes()])),
            Host::Ip(IpAddr::V4(ip)) => (None, value(tag::context(7), &[&ip.octets()])),
            Host::Ip(IpAddr::V6(ip)) => (None, value(tag::context(7), &[&ip.octets()])),
        };
        // Where subjects are constrained, none is better than one of another name.
        let empty = self.constraints.has_directory_names();
        let organization = Some((oid::ORGANIZATION, ORGANIZATION)).filter(|_| !empty);
        let common = text.filter(|text| !empty && text.len() <= MAX_COMMON_NAME).map(|text| (oid::COMMON_NAME, text));
        (name(&organization.into_iter().chain(common).collect::<Vec<_>>()), alternative, empty)
    }
}

/// A new authority's certificate, and its key as PKCS #8.
fn generate(
    constraints: &Constraints,
    now: SystemTime,
    days: u32,
) -> Result<(CertificateDer<'static>, ring::pkcs8::Document), AuthorityError> {
    let document = generate_key()?;
    let key = signing_key(&document)?;
    let public_key = key.public_key().ok_or(IssueError::Sign)?;
    let identifier = identify(&public_key);
    // Of two authorities with one name, some clients try only the first.
    let common = format!("netproxy authority {}", hexadecimal(identifier.get(..4).unwrap_or_default()));
    let subject = name(&[(oid::ORGANIZATION, ORGANIZATION), (oid::COMMON_NAME, &common)]);
    let mut extensions = vec![
        // An authority; it may issue no others.
        extension(oid::BASIC_CONSTRAINTS, true, &sequence(&[&value(tag::BOOLEAN, &[&[0xff]]), &value(tag::INTEGER, &[&[0]])])),
        extension(oid::KEY_USAGE, true, &value(tag::BIT_STRING, &[CERT_AND_CRL_SIGN])),
        extension(oid::SUBJECT_KEY_IDENTIFIER, false, &value(tag::OCTET_STRING, &[&identifier])),
    ];
    if !constraints.is_none() {
        extensions.push(extension(oid::NAME_CONSTRAINTS, true, &constraints.write()));
    }
    let signer = Signer::new(Arc::clone(&key)).ok_or(IssueError::Sign)?;
    let unsigned = Unsigned {
        serial: &serial()?,
        algorithm: &signer.algorithm,
        issuer: &subject,
        valid: validity(now, days)?,
        subject: &subject,
        public_key: &public_key,
        extensions: &extensions,
    };
    Ok((signer.issue(&unsigned)?, document))
}

/// From a day ago on.
fn validity(now: SystemTime, days: u32) -> Result<Validity, IssueError> {
    let not_before = now.checked_sub(BACKDATED).ok_or(IssueError::Clock)?;
    let not_after = now.checked_add(DAY.saturating_mul(days)).ok_or(IssueError::Clock)?;
    Ok(Validity { not_before, not_after })
}

/// A new P-256 key, as PKCS #8.
fn generate_key() -> Result<ring::pkcs8::Document, IssueError> {
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).map_err(|_| IssueError::Random)
}

fn signing_key(document: &ring::pkcs8::Document) -> Result<Arc<dyn SigningKey>, IssueError> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(document.as_ref()));
    any_ecdsa_type(&der).map_err(|_| IssueError::Sign)
}

/// Random, positive, and as short as DER wants it: it begins with bits 01.
fn serial() -> Result<[u8; SERIAL], IssueError> {
    let mut serial = [0; SERIAL];
    SystemRandom::new().fill(&mut serial).map_err(|_| IssueError::Random)?;
    let [first, ..] = &mut serial;
    *first = *first & 0x7f | 0x40;
    Ok(serial)
}

/// The identifier of a public key: the beginning of SHA-256 over its bits, without the algorithm (RFC 7093, section 2).
fn identify(public_key: &[u8]) -> Vec<u8> {
    let mut inside = der::Reader::new(der::only(public_key, tag::SEQUENCE).unwrap_or_default());
    let _algorithm = inside.expect(tag::SEQUENCE);
    let bits = inside.expect(tag::BIT_STRING).and_then(|bits| bits.get(1..)).unwrap_or(public_key);
    digest(&SHA256, bits).as_ref().iter().take(KEY_IDENTIFIER).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::others::{LONG, host, only_ours};
    use std::collections::HashSet;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

    fn authority() -> Authority {
        Authority::in_memory(&Constraints::none()).unwrap()
    }

    /// Writes the two files of an authority.
    fn write(folder: &tempfile::TempDir, name: &str, files: &Files) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.path().join(format!("{name}.pem")), folder.path().join(format!("{name}.key")));
        std::fs::write(&certificate, &files.certificate).unwrap();
        std::fs::write(&key, files.key.as_bytes()).unwrap();
        only_ours(&key);
        (certificate, key)
    }

    #[test]
    fn an_authority_says_what_it_is() {
        let now = SystemTime::now();
        let constraints = Constraints::of(["**.example.com"]);
        let (one, other) = (Authority::in_memory(&constraints).unwrap(), Authority::in_memory(&constraints).unwrap());
        let read = Certificate::read(one.der()).unwrap();
        assert!(read.is_authority && read.is_self_issued());
        assert_eq!(read.constraints, constraints);
        assert_eq!(read.key_identifier.unwrap().len(), KEY_IDENTIFIER);
        assert!(read.valid.not_before < now && now + YEAR < read.valid.not_after && read.valid.not_after < now + 3 * YEAR);
        assert!(String::from_utf8_lossy(read.subject).contains("netproxy authority "));
        assert_ne!(one.subject, other.subject, "clients tell them apart by their names");
        assert_ne!(one.digest(), other.digest());
        assert_eq!(one.digest().len(), 64);
        assert_eq!(pem::certificates(one.pem().as_bytes()).unwrap(), [one.der().clone()]);
        assert_eq!(format!("{one:?}"), format!("Authority {{ digest: {:?}, .. }}", one.digest()));
    }

    #[test]
    fn leaves_are_for_one_host_and_have_everything_of_their_own() {
        let authority = authority();
        let now = SystemTime::now();
        let (mut serials, mut keys) = (HashSet::new(), HashSet::new());
        for _ in 0..50 {
            let issued = authority.issue(&host("a.test"), now).unwrap();
            let [leaf] = issued.key.cert.as_slice() else { panic!("the authority is not sent") };
            let mut tbs = der::Reader::new(der::Reader::new(der::only(leaf, tag::SEQUENCE).unwrap()).expect(tag::SEQUENCE).unwrap());
            tbs.expect(tag::context_constructed(0)).unwrap();
            let serial = tbs.expect(tag::INTEGER).unwrap();
            assert!(serial.len() <= 20 && (1..0x80).contains(&serial[0]), "{serial:?}");
            let read = Certificate::read(leaf).unwrap();
            assert!(!read.is_authority);
            assert_eq!(read.issuer, authority.subject);
            assert!(read.valid.not_before + BACKDATED <= now + Duration::from_secs(1) && now < read.valid.not_after);
            assert!(read.valid.not_after <= now + 90 * DAY);
            assert!(serials.insert(serial.to_vec()) && keys.insert(read.public_key.to_vec()));
            issued.key.keys_match().unwrap();
        }
    }

    #[test]
    fn names_of_leaves() {
        let has = |authority: &Authority, name: &str| {
            let leaf = authority.issue(&host(name), SystemTime::now()).unwrap().key.cert[0].clone();
            let subject = Certificate::read(&leaf).unwrap().subject.to_vec();
            (String::from_utf8_lossy(&subject).contains(name), subject.len() > 2)
        };
        let plain = authority();
        assert_eq!(has(&plain, "a.test"), (true, true));
        assert_eq!(has(&plain, LONG), (false, true), "too long for a common name");
        assert_eq!(has(&plain, "192.0.2.1"), (false, true));
        assert_eq!(plain.issue(&host("127.1"), SystemTime::now()).unwrap_err(), IssueError::NotCovered);
        let mut constrained = authority();
        let directory = sequence(&[&value(tag::context_constructed(4), &[&name(&[(oid::ORGANIZATION, "Corp")])])]);
        constrained.constraints = Constraints::read(&sequence(&[&value(tag::context_constructed(0), &[&directory])])).unwrap();
        assert_eq!(has(&constrained, "a.test"), (false, false), "a subject would be held against the constraints");
    }

    #[test]
    fn a_leaf_never_outlives_its_authority() {
        let authority = authority();
        let end = authority.valid.not_after;
        let issued = authority.issue(&host("a.test"), end - 3 * DAY).unwrap();
        assert_eq!(issued.valid.not_after, end);
        let issued = authority.issue(&host("a.test"), authority.valid.not_before).unwrap();
        assert_eq!(issued.valid.not_before, authority.valid.not_before);
        for now in [end, end + DAY, authority.valid.not_before - DAY] {
            assert_eq!(authority.issue(&host("a.test"), now).unwrap_err(), IssueError::Expired);
        }
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let constraints = Constraints::of(["a.test"]);
        let files = Authority::files(&constraints, 365).unwrap();
        let (certificate, key) = write(&folder, "one", &files);
        let loaded = Authority::load(&certificate, &key).unwrap();
        assert_eq!(loaded.pem(), files.certificate);
        assert_eq!(loaded.constraints, constraints);
        assert!(loaded.covers(&host("a.test")) && !loaded.covers(&host("b.test")));
        assert_eq!(loaded.issue(&host("b.test"), SystemTime::now()).unwrap_err(), IssueError::NotCovered);

        let of = |certificate, key| Authority::of(certificate, key, &Constraints::of(["b.test"]));
        let (certificate, key) = (certificate.as_path(), key.as_path());
        assert_eq!(of(Some(certificate), Some(key)).unwrap().digest(), loaded.digest());
        assert!(of(None, None).unwrap().covers(&host("b.test")));
        for (certificate, key, missing) in [(Some(certificate), None, "no `ca_key_path`"), (None, Some(key), "no `ca_cert_path`")] {
            let error = of(certificate, key).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
    }

    #[test]
    fn files_that_are_no_authority() {
        let folder = tempfile::tempdir().unwrap();
        let none = Constraints::none();
        let (certificate, key) = write(&folder, "one", &Authority::files(&none, 365).unwrap());
        let (_, other) = write(&folder, "other", &Authority::files(&none, 365).unwrap());
        let refused = |certificate: &Path, key: &Path| Authority::load(certificate, key).unwrap_err();
        let error = refused(&certificate, &other);
        assert!(matches!(error, AuthorityError::File(CertificateFileError::Mismatch { .. })), "{error}");

        let of = |name: &str, not_before: SystemTime| {
            let (der, document) = generate(&none, not_before, 365).unwrap();
            let files =
                Files { certificate: pem::encode("CERTIFICATE", &der).to_string(), key: pem::encode("PRIVATE KEY", document.as_ref()) };
            write(&folder, name, &files)
        };
        let (old, old_key) = of("old", SystemTime::now() - 2 * YEAR);
        let error = refused(&old, &old_key);
        assert!(matches!(error, AuthorityError::NotValid { expired: true, .. }), "{error}");
        let (new, new_key) = of("new", SystemTime::now() + YEAR);
        let error = refused(&new, &new_key);
        assert!(matches!(error, AuthorityError::NotValid { expired: false, .. }), "{error}");

        // What it issues may not issue.
        let document = generate_key().unwrap();
        let leaf = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let files = Files { certificate: leaf.cert.pem(), key: pem::encode("PRIVATE KEY", leaf.signing_key.serialized_der()) };
        let (leaf, leaf_key) = write(&folder, "leaf", &files);
        let error = refused(&leaf, &leaf_key);
        assert!(matches!(error, AuthorityError::NotAnAuthority { .. }), "{error}");

        // A key that is damaged.
        let mut broken = document.as_ref().to_vec();
        broken[40] ^= 1;
        std::fs::write(&other, pem::encode("PRIVATE KEY", &broken).as_bytes()).unwrap();
        let error = refused(&certificate, &other);
        assert!(matches!(error, AuthorityError::File(CertificateFileError::KeyKind { .. })), "{error}");

        // A certificate that is none.
        std::fs::write(&old, pem::encode("CERTIFICATE", &sequence(&[&sequence(&[])])).as_bytes()).unwrap();
        let error = refused(&old, &key);
        assert!(matches!(error, AuthorityError::Unreadable { .. }), "{error}");
    }
}
