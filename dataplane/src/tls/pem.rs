//! PEM (RFC 7468), as it is found: several certificates in a file, text around them, line ends of any kind, the labels of OpenSSL, sections that are something else.

use super::der::{Reader, tag};
use super::x509::oid;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use base64::{DecodeError, Engine};
use std::fmt;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use zeroize::Zeroizing;

/// The longest file that is read, in bytes. That of a system has a quarter of a mebibyte.
pub const MAX_PEM: usize = 8 * 1024 * 1024;
/// Characters of base64 in a line.
const LINE: usize = 64;
/// Bytes of which a line is made.
const LINE_BYTES: usize = LINE / 4 * 3;

/// Padding may be missing.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// What is wrong with a file, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {kind}")]
pub struct PemError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub kind: PemErrorKind,
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemErrorKind {
    /// Longer than [`MAX_PEM`].
    #[error("the file is longer than {MAX_PEM} bytes, which no bundle of certificates is")]
    TooLong,
    /// It begins and does not end.
    #[error("a section begins here, and has no end: the file may be cut off")]
    NoEnd,
    /// `BEGIN A`, `END B`.
    #[error("this is not the end of the section that was begun")]
    OtherEnd,
    /// Other characters, or too few.
    #[error("this is not base64")]
    NotBase64,
    /// Base64 of something else.
    #[error("what begins here is no certificate: it is not DER")]
    NotDer,
    /// A key with a pass phrase.
    #[error("this key is encrypted, and there is nobody to ask for its pass phrase; `openssl pkey -in FILE -out PLAIN` writes it without")]
    Encrypted,
}

/// A private key.
pub(crate) struct Key {
    label: KeyLabel,
    der: Zeroizing<Vec<u8>>,
}

#[derive(Clone, Copy)]
enum KeyLabel {
    Pkcs8,
    Sec1,
    Pkcs1,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    /// As rustls takes it; nothing is copied.
    pub(crate) fn der(&self) -> PrivateKeyDer<'_> {
        let der = self.der.as_slice();
        match self.label {
            KeyLabel::Pkcs8 => PrivatePkcs8KeyDer::from(der).into(),
            KeyLabel::Sec1 => PrivateSec1KeyDer::from(der).into(),
            KeyLabel::Pkcs1 => PrivatePkcs1KeyDer::from(der).into(),
        }
    }
}

/// All certificates of a file, in their order; none is no error. Those that OpenSSL has written with what they are trusted for are left out where that is not servers.
///
/// # Errors
/// [`PemError`] where a certificate cannot be read: one that is missing would be missed later, and nobody would know why.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut found = Vec::new();
    let wanted = |label: &[u8]| matches!(label, b"CERTIFICATE" | b"X509 CERTIFICATE" | b"TRUSTED CERTIFICATE");
    sections(pem, wanted, |section| {
        let mut der = Reader::new(&section.der);
        let Some(certificate) = der.expect_whole(tag::SEQUENCE) else {
            return Err(PemError { line: section.line, kind: PemErrorKind::NotDer });
        };
        // Only OpenSSL writes something behind it.
        if section.label != b"TRUSTED CERTIFICATE" || is_for_servers(der) {
            found.push(CertificateDer::from(certificate.to_vec()));
        }
        Ok(())
    })?;
    Ok(found)
}

/// The first private key of a file.
pub(crate) fn private_key(pem: &[u8]) -> Result<Option<Key>, PemError> {
    let mut found = None;
    let label = |label: &[u8]| match label {
        b"PRIVATE KEY" => Some(KeyLabel::Pkcs8),
        b"EC PRIVATE KEY" => Some(KeyLabel::Sec1),
        b"RSA PRIVATE KEY" => Some(KeyLabel::Pkcs1),
        _ => None,
    };
    const ENCRYPTED: &[u8] = b"ENCRYPTED PRIVATE KEY";
    sections(
        pem,
        |name| name == ENCRYPTED || label(name).is_some(),
        |section| {
            if section.encrypted || section.label == ENCRYPTED {
                return Err(PemError { line: section.line, kind: PemErrorKind::Encrypted });
            }
            if let (None, Some(label)) = (&found, label(section.label)) {
                found = Some(Key { label, der: section.der });
            }
            Ok(())
        },
    )?;
    Ok(found)
}

/// A section with this label.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    // All of it at once: what grows leaves copies behind.
    let mut out = Zeroizing::new(String::with_capacity(der.len() * 3 / 2 + 2 * label.len() + 64));
    out.extend(["-----BEGIN ", label, "-----\n"]);
    for line in der.chunks(LINE_BYTES) {
        STANDARD.encode_string(line, &mut out);
        out.push('\n');
    }
    out.extend(["-----END ", label, "-----\n"]);
    out
}

/// Whether what OpenSSL adds to a certificate (`CertAux`: what it is trusted for, and for what it is not) leaves room for servers. Nothing added is no limit.
fn is_for_servers(mut added: Reader<'_>) -> bool {
    let Some(added) = added.expect(tag::SEQUENCE) else { return added.is_empty() };
    let mut added = Reader::new(added);
    let names_servers = |purposes: &[u8]| {
        let mut purposes = Reader::new(purposes);
        std::iter::from_fn(|| purposes.expect(tag::OID)).any(|purpose| matches!(purpose, oid::SERVER_AUTH | oid::ANY_EXTENDED_KEY_USAGE))
    };
    let trusted = added.expect(tag::SEQUENCE).is_none_or(names_servers);
    let rejected = added.expect(tag::context_constructed(0)).is_some_and(names_servers);
    trusted && !rejected
}

struct Section<'p> {
    label: &'p [u8],
    /// Where it begins.
    line: usize,
    encrypted: bool,
    der: Zeroizing<Vec<u8>>,
}

/// Gives every section whose label is wanted. What stands between sections, and in others, is skipped.
fn sections<'p>(
    pem: &'p [u8],
    wanted: impl Fn(&[u8]) -> bool,
    mut take: impl FnMut(Section<'p>) -> Result<(), PemError>,
) -> Result<(), PemError> {
    if pem.len() > MAX_PEM {
        return Err(PemError { line: 1, kind: PemErrorKind::TooLong });
    }
    // The label of a section that has begun, its line, and what follows that.
    let mut open: Option<(&[u8], usize, &[u8])> = None;
    let mut rest = pem.strip_prefix(b"\xef\xbb\xbf").unwrap_or(pem);
    let mut number = 0;
    while !rest.is_empty() {
        number += 1;
        let before = rest;
        let line;
        (line, rest) = split_line(rest);
        if let Some(label) = boundary(line, b"-----BEGIN ") {
            if let Some((_, line, _)) = open {
                return Err(PemError { line, kind: PemErrorKind::NoEnd });
            }
            open = wanted(label).then_some((label, number, rest));
        } else if let Some(end) = boundary(line, b"-----END ")
            && let Some((label, line, body)) = open.take()
        {
            if label != end {
                return Err(PemError { line: number, kind: PemErrorKind::OtherEnd });
            }
            let body = body.get(..body.len() - before.len()).unwrap_or_default();
            take(decode(label, line, body)?)?;
        }
    }
    match open {
        Some((_, line, _)) => Err(PemError { line, kind: PemErrorKind::NoEnd }),
        None => Ok(()),
    }
}

/// A line without the white space around it, and what follows.
fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b'\n', text).map_or(text.len(), |at| at + 1);
    let (line, rest) = text.split_at_checked(end).unwrap_or((text, &[]));
    (line.trim_ascii(), rest)
}

/// The label of a line that begins or ends a section.
fn boundary<'p>(line: &'p [u8], with: &[u8]) -> Option<&'p [u8]> {
    line.strip_prefix(with)?.strip_suffix(b"-----")
}

/// Reads what is in a section that begins on `line`.
fn decode<'p>(label: &'p [u8], line: usize, body: &[u8]) -> Result<Section<'p>, PemError> {
    // As large as they can become: what grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(body.len()));
    let mut der = Zeroizing::new(Vec::with_capacity(body.len() / 4 * 3 + 3));
    let (mut encrypted, mut ends, mut rest) = (false, Vec::new(), body);
    while !rest.is_empty() {
        let line;
        (line, rest) = split_line(rest);
        // `Proc-Type: 4,ENCRYPTED` (RFC 1421, section 4.6); base64 has no colon.
        if line.contains(&b':') {
            encrypted |= line.ends_with(b"ENCRYPTED");
        } else {
            text.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
        }
        ends.push(text.len());
    }
    if let Err(error) = LENIENT.decode_vec(&*text, &mut der)
        && !encrypted
    {
        let at = match error {
            DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol { offset: at, .. } => at,
            _ => text.len().saturating_sub(1),
        };
        return Err(PemError { line: line + 1 + ends.partition_point(|end| *end <= at), kind: PemErrorKind::NotBase64 });
    }
    Ok(Section { label, line, encrypted, der })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tls/pem_cases.txt");

    /// `== name: what is expected`, and the file below it; `\\r` at the end of a line is a carriage return.
    fn cases() -> Vec<(String, String, Vec<u8>)> {
        let text = std::fs::read_to_string(FILES).unwrap();
        let case = |case: &str| {
            let (head, body) = case.split_once('\n').unwrap();
            let (name, expected) = head.split_once(": ").unwrap();
            (name.to_owned(), expected.to_owned(), body.replace("\\r\n", "\r\n").replace("\\u{feff}", "\u{feff}").into_bytes())
        };
        text.split("== ").skip(1).map(case).collect()
    }

    #[test]
    fn files_as_they_are_found() {
        let cases = cases();
        assert!(cases.len() > 15, "{}", cases.len());
        for (name, expected, file) in cases {
            let found = match certificates(&file) {
                Ok(found) if found.is_empty() => "none".to_owned(),
                Ok(found) => {
                    found.iter().map(|der| der.iter().map(|byte| format!("{byte:02x}")).collect::<String>()).collect::<Vec<_>>().join(" ")
                }
                Err(error) => error.to_string(),
            };
            assert_eq!(found, expected.trim_end(), "{name}");
        }
    }

    #[test]
    fn keys_as_they_are_found() {
        let key = |label: &str, body: &str| private_key(format!("x\n-----BEGIN {label}-----\n{body}-----END {label}-----\n").as_bytes());
        for (label, kind) in [("PRIVATE KEY", "Pkcs8"), ("EC PRIVATE KEY", "Sec1"), ("RSA PRIVATE KEY", "Pkcs1")] {
            let found = key(label, "MAMBAgM=\n").unwrap().unwrap();
            assert_eq!(found.der().secret_der(), [0x30, 3, 1, 2, 3], "{label}");
            assert!(format!("{:?}", found.der()).starts_with(kind), "{label}");
            assert_eq!(format!("{found:?}"), "Key", "nothing of it is shown");
        }
        assert!(key("EC PARAMETERS", "BggqhkjOPQMBBw==\n").unwrap().is_none());
        let encrypted = PemError { line: 2, kind: PemErrorKind::Encrypted };
        assert_eq!(key("ENCRYPTED PRIVATE KEY", "MAMBAgM=\n").unwrap_err(), encrypted);
        assert_eq!(key("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAA\n").unwrap_err(), encrypted);
    }

    #[test]
    fn what_is_too_long_is_not_read() {
        let error = certificates(&vec![b'\n'; MAX_PEM + 1]).unwrap_err();
        assert_eq!(error, PemError { line: 1, kind: PemErrorKind::TooLong });
        assert_eq!(certificates(&vec![b'\n'; MAX_PEM]), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(content in proptest::collection::vec(any::<u8>(), 0..300)) {
            let der = crate::tls::der::sequence(&[&content]);
            let pem = encode("CERTIFICATE", &der);
            prop_assert!(pem.lines().all(|line| line.len() <= LINE));
            prop_assert_eq!(certificates(pem.as_bytes()).unwrap(), [CertificateDer::from(der)]);
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>, head in 0..3_usize) {
            let begin = [&b"-----BEGIN CERTIFICATE-----\n"[..], b"-----BEGIN TRUSTED CERTIFICATE-----\nMAAwAA==\n", b""][head];
            let _ = certificates(&[begin, &bytes].concat());
            let _ = private_key(&[begin, &bytes, b"\n-----BEGIN PRIVATE KEY-----\n"].concat());
        }
    }
}
