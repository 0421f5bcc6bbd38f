//! A truststore for Java: certificates alone, as PKCS#12 (RFC 7292).
//!
//! Written here because it is this little, and because Java takes a certificate for trusted only where its bag has an attribute of Java's own. Nothing in it is secret, so
//! nothing is encrypted; the MAC is there because Java asks for one, and its salt comes from the content, so that the same certificates are the same file. HMAC with SHA-256 is read by Java
//! since 8u301, 11.0.12 and 12.

use crate::tls::der::{sequence, tag, value};
use crate::tls::x509::oid;
use ring::{digest, hmac};

/// The password that everybody knows; Java's own for what is not secret.
pub const PASSWORD: &str = "changeit";

const ITERATIONS: u16 = 10_000;

// Object identifiers.
const DATA: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"; // 1.2.840.113549.1.7.1
const CERT_BAG: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x0a\x01\x03"; // 1.2.840.113549.1.12.10.1.3
const X509_CERTIFICATE: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x16\x01"; // 1.2.840.113549.1.9.22.1
const FRIENDLY_NAME: &[u8] = b"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x14"; // 1.2.840.113549.1.9.20
/// Java's: for which purposes a certificate is trusted.
const TRUSTED_KEY_USAGE: &[u8] = b"\x60\x86\x48\x01\x86\xf9\x66\xad\xca\x7b\x01\x01"; // 2.16.840.1.113894.746875.1.1
const SHA256: &[u8] = b"\x60\x86\x48\x01\x65\x03\x04\x02\x01"; // 2.16.840.1.101.3.4.2.1

/// The file. Each certificate comes as DER, with a name of its own.
pub(crate) fn pkcs12<'c>(certificates: impl IntoIterator<Item = (String, &'c [u8])>) -> Vec<u8> {
    let bags: Vec<Vec<u8>> = certificates.into_iter().map(|(name, der)| bag(&name, der)).collect();
    let contents = sequence(&[&bags.concat()]);
    let safe = sequence(&[&data(&contents)]);
    let salt = digest::digest(&digest::SHA256, &safe);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &mac_key(salt.as_ref()));
    let mac = hmac::sign(&key, &safe);
    let algorithm = sequence(&[&value(tag::OID, &[SHA256]), &value(tag::NULL, &[])]);
    let digest_info = sequence(&[&algorithm, &value(tag::OCTET_STRING, &[mac.as_ref()])]);
    let iterations = value(tag::INTEGER, &[&ITERATIONS.to_be_bytes()]);
    let mac_data = sequence(&[&digest_info, &value(tag::OCTET_STRING, &[salt.as_ref()]), &iterations]);
    sequence(&[&value(tag::INTEGER, &[&[3]]), &data(&safe), &mac_data])
}

/// A `ContentInfo` of data.
fn data(content: &[u8]) -> Vec<u8> {
    sequence(&[&value(tag::OID, &[DATA]), &value(tag::context_constructed(0), &[&value(tag::OCTET_STRING, &[content])])])
}

/// A `SafeBag` with one certificate, trusted for everything.
fn bag(name: &str, der: &[u8]) -> Vec<u8> {
    let content = value(tag::context_constructed(0), &[&value(tag::OCTET_STRING, &[der])]);
    let certificate = sequence(&[&value(tag::OID, &[X509_CERTIFICATE]), &content]);
    let attribute = |of: &[u8], is: &[u8]| sequence(&[&value(tag::OID, &[of]), &value(tag::SET, &[is])]);
    let mut attributes = [
        attribute(FRIENDLY_NAME, &value(tag::BMP_STRING, &[&bmp(name)])),
        attribute(TRUSTED_KEY_USAGE, &value(tag::OID, &[oid::ANY_EXTENDED_KEY_USAGE])),
    ];
    // As DER orders a set.
    attributes.sort();
    sequence(&[
        &value(tag::OID, &[CERT_BAG]),
        &value(tag::context_constructed(0), &[&certificate]),
        &value(tag::SET, &[&attributes.concat()]),
    ])
}

fn bmp(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// The key of the MAC (RFC 7292, appendix B.2), of which one block is enough.
fn mac_key(salt: &[u8]) -> [u8; 32] {
    const BLOCK: usize = 64;
    let password = [bmp(PASSWORD), vec![0, 0]].concat();
    // Each fills whole blocks.
    let filled = |bytes: &[u8]| bytes.iter().copied().cycle().take(bytes.len().next_multiple_of(BLOCK)).collect::<Vec<u8>>();
    let start = [vec![3; BLOCK], filled(salt), filled(&password)].concat();
    let mut key = digest::digest(&digest::SHA256, &start);
    for _ in 1..ITERATIONS {
        key = digest::digest(&digest::SHA256, key.as_ref());
    }
    let mut out = [0; 32];
    out.copy_from_slice(key.as_ref());
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on panics, and says what it skips")]

    use super::*;
    use std::process::Command;

    fn certificates() -> Vec<(String, Vec<u8>)> {
        let make = |number: usize| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(vec![format!("host{number}.test")]).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            (format!("netproxy-{number}"), params.self_signed(&key).unwrap().der().to_vec())
        };
        (0..3).map(make).collect()
    }

    fn file(certificates: &[(String, Vec<u8>)]) -> Vec<u8> {
        pkcs12(certificates.iter().map(|(name, der)| (name.clone(), der.as_slice())))
    }

    #[test]
    fn the_same_certificates_are_the_same_file() {
        let certificates = certificates();
        assert_eq!(file(&certificates), file(&certificates));
        assert_ne!(file(&certificates), file(certificates.get(..2).unwrap()));
    }

    /// By the programs that read such files, where they are installed: all entries are there, and trusted, and the MAC is right.
    #[test]
    fn others_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("truststore.p12");
        let certificates = certificates();
        std::fs::write(&path, file(&certificates)).unwrap();
        let run = |program: &str, args: &[&str]| match Command::new(program).args(args).arg(&path).output() {
            Ok(output) => Some((output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())),
            Err(_) => {
                println!("skipped: {program} is not installed");
                None
            }
        };
        if let Some((done, said)) = run("openssl", &["pkcs12", "-nokeys", "-passin", "pass:changeit", "-in"]) {
            assert!(done && said.matches("BEGIN CERTIFICATE").count() == 3, "{said}");
        }
        if let Some((done, said)) = run("openssl", &["pkcs12", "-nokeys", "-passin", "pass:wrong", "-in"]) {
            assert!(!done, "the MAC is looked at: {said}");
        }
        if let Some((done, said)) = run("keytool", &["-list", "-storetype", "PKCS12", "-storepass", "changeit", "-keystore"]) {
            assert!(done && said.matches("trustedCertEntry").count() == 3, "{said}");
            assert!(certificates.iter().all(|(name, _)| said.contains(&format!("{name}, "))), "{said}");
        }
        if let Some((done, _)) = run("keytool", &["-list", "-storetype", "PKCS12", "-storepass", "wrong1", "-keystore"]) {
            assert!(!done, "the MAC is looked at");
        }
    }
}
