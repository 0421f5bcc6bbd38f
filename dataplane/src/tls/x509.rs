//! X.509 certificates (RFC 5280): what is asked of an authority's, and how ours are written.
//!
//! They are written here, and not by a library, so that the issuer of a leaf is byte for byte the subject of its authority: clients compare names as bytes, and what reads a
//! name and writes it anew loses the kinds of its strings and all but one of its parts of the same type.

use super::constraints::Constraints;
use super::der::{self, Reader, sequence, tag, value};
use crate::calendar::date;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Object identifiers, as they are written.
pub(crate) mod oid {
    pub(crate) const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    pub(crate) const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
    pub(crate) const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x0e];
    pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
    pub(crate) const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
    pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
    pub(crate) const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
    pub(crate) const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1d, 0x23];
    pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
    pub(crate) const ANY_EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25, 0x00];
    pub(crate) const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
}

/// `digitalSignature`, with the number of unused bits before it.
pub(crate) const DIGITAL_SIGNATURE: &[u8] = &[7, 0x80];
/// `keyCertSign` and `cRLSign`.
pub(crate) const CERT_AND_CRL_SIGN: &[u8] = &[1, 0x06];
/// `keyCertSign` in the first byte of a key usage.
const KEY_CERT_SIGN: u8 = 0x04;

/// What a certificate says.
#[derive(Debug)]
pub struct Certificate<'a> {
    /// Who issued it, and whom it is for: names, as they are written.
    pub(crate) issuer: &'a [u8],
    pub(crate) subject: &'a [u8],
    pub(crate) valid: Validity,
    /// The key with its algorithm, as it is written.
    pub(crate) public_key: &'a [u8],
    pub(crate) key_identifier: Option<&'a [u8]>,
    /// Whether it may sign certificates: it says that it is an authority, and its key usage, if it says any, does not say otherwise.
    pub(crate) is_authority: bool,
    pub(crate) constraints: Constraints,
}

/// From when to when, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl<'a> Certificate<'a> {
    /// Reads one, and nothing behind it. Its signature is not looked at.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut tbs = Reader::new(Reader::new(der::only(bytes, tag::SEQUENCE)?).expect(tag::SEQUENCE)?);
        let _version = tbs.expect(tag::context_constructed(0));
        let _serial = tbs.expect(tag::INTEGER)?;
        let _algorithm = tbs.expect(tag::SEQUENCE)?;
        let issuer = tbs.expect_whole(tag::SEQUENCE)?;
        let mut validity = Reader::new(tbs.expect(tag::SEQUENCE)?);
        let valid = Validity { not_before: read_time(&mut validity)?, not_after: read_time(&mut validity)? };
        let subject = tbs.expect_whole(tag::SEQUENCE)?;
        let public_key = tbs.expect_whole(tag::SEQUENCE)?;
        let _issuer_id = tbs.expect(tag::context(1));
        let _subject_id = tbs.expect(tag::context(2));
        let mut certificate =
            Self { issuer, subject, valid, public_key, key_identifier: None, is_authority: false, constraints: Constraints::none() };
        if let Some(extensions) = tbs.expect(tag::context_constructed(3)) {
            certificate.read_extensions(der::only(extensions, tag::SEQUENCE)?)?;
        }
        tbs.is_empty().then_some(certificate)
    }

    fn read_extensions(&mut self, extensions: &'a [u8]) -> Option<()> {
        let mut may_sign = true;
        let mut extensions = Reader::new(extensions);
        while !extensions.is_empty() {
            let mut extension = Reader::new(extensions.expect(tag::SEQUENCE)?);
            let name = extension.expect(tag::OID)?;
            let _critical = extension.expect(tag::BOOLEAN);
            let content = extension.expect(tag::OCTET_STRING)?;
            match name {
                oid::SUBJECT_KEY_IDENTIFIER => self.key_identifier = Some(der::only(content, tag::OCTET_STRING)?),
                oid::KEY_USAGE => may_sign = der::only(content, tag::BIT_STRING)?.get(1).is_some_and(|bits| bits & KEY_CERT_SIGN != 0),
                oid::BASIC_CONSTRAINTS => {
                    self.is_authority = Reader::new(der::only(content, tag::SEQUENCE)?).expect(tag::BOOLEAN) == Some(&[0xff]);
                }
                oid::NAME_CONSTRAINTS => self.constraints = Constraints::read(content)?,
                _ => {}
            }
        }
        self.is_authority &= may_sign;
        Some(())
    }

    /// Whether it names itself as its issuer.
    pub(crate) fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }
}

/// A certificate to be written.
pub(crate) struct Unsigned<'a> {
    /// Its number: positive, of at most 20 bytes.
    pub(crate) serial: &'a [u8],
    /// How it will be signed, as it is written.
    pub(crate) algorithm: &'a [u8],
    pub(crate) issuer: &'a [u8],
    pub(crate) valid: Validity,
    pub(crate) subject: &'a [u8],
    pub(crate) public_key: &'a [u8],
    pub(crate) extensions: &'a [Vec<u8>],
}

impl Unsigned<'_> {
    /// What is signed.
    pub(crate) fn write(&self) -> Option<Vec<u8>> {
        let version = value(tag::context_constructed(0), &[&value(tag::INTEGER, &[&[2]])]);
        let validity = sequence(&[&write_time(self.valid.not_before)?, &write_time(self.valid.not_after)?]);
        let extensions: Vec<&[u8]> = self.extensions.iter().map(Vec::as_slice).collect();
        let extensions = value(tag::context_constructed(3), &[&sequence(&extensions)]);
        let serial = value(tag::INTEGER, &[self.serial]);
        Some(sequence(&[&version, &serial, self.algorithm, self.issuer, &validity, self.subject, self.public_key, &extensions]))
    }

    /// The certificate: what was signed, and its signature.
    pub(crate) fn signed(&self, written: &[u8], signature: &[u8]) -> Vec<u8> {
        sequence(&[written, self.algorithm, &value(tag::BIT_STRING, &[&[0], signature])])
    }
}

/// An extension.
pub(crate) fn extension(name: &[u8], critical: bool, content: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[tag::BOOLEAN, 1, 0xff] } else { &[] };
    sequence(&[&value(tag::OID, &[name]), critical, &value(tag::OCTET_STRING, &[content])])
}

/// A name of one part for each type.
pub(crate) fn name(parts: &[(&[u8], &str)]) -> Vec<u8> {
    let part = |(name, text): &(&[u8], &str)| {
        let pair = sequence(&[&value(tag::OID, &[name]), &value(tag::UTF8_STRING, &[text.as_bytes()])]);
        value(tag::SET, &[&pair])
    };
    let parts: Vec<Vec<u8>> = parts.iter().map(part).collect();
    value(tag::SEQUENCE, &parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

const DAY: u64 = 24 * 60 * 60;

/// A time to the second: with two digits for the year until 2049, and with four from then on (RFC 5280, section 4.1.2.5).
fn write_time(time: SystemTime) -> Option<Vec<u8>> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let (year, month, day) = date(seconds / DAY);
    let (hour, minute, second) = (seconds % DAY / 3600, seconds % 3600 / 60, seconds % 60);
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    match year {
        ..2050 => Some(value(tag::UTC_TIME, &[format!("{:02}{rest}", year % 100).as_bytes()])),
        2050..=9999 => Some(value(tag::GENERALIZED_TIME, &[format!("{year}{rest}").as_bytes()])),
        _ => None,
    }
}

/// What [`write_time`] writes. Times before 1970, with which some old authorities begin, are read as its first second.
fn read_time(reader: &mut Reader<'_>) -> Option<SystemTime> {
    let item = reader.item()?;
    let text = std::str::from_utf8(item.content).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match item.tag {
        tag::UTC_TIME => text.split_at_checked(2)?,
        tag::GENERALIZED_TIME => text.split_at_checked(4)?,
        _ => return None,
    };
    if rest.len() != 10 {
        return None;
    }
    let number = |from: usize| rest.get(from..from + 2)?.parse::<u64>().ok();
    let year = match (item.tag, year.parse::<u64>().ok()?) {
        (tag::UTC_TIME, year @ 0..50) => year + 2000,
        (tag::UTC_TIME, year) => year + 1900,
        (_, year) => year,
    };
    let (month, day) = (number(0)?, number(2)?);
    let (hour, minute, second) = (number(4)?, number(6)?, number(8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// The other way round; 0 before 1970.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.saturating_sub(1), month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    days.saturating_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn times_are_written_and_read() {
        for (seconds, written) in [
            (0, "700101000000Z"),
            (68_169_599, "720228235959Z"),
            (68_169_600, "720229000000Z"),
            (951_782_400, "000229000000Z"),
            (1_709_251_199, "240229235959Z"),
            (1_795_219_200, "261121000000Z"),
            (2_524_607_999, "491231235959Z"),
            (2_524_608_000, "20500101000000Z"),
            (4_107_542_399, "21000228235959Z"),
            (4_107_542_400, "21000301000000Z"),
            (253_402_300_799, "99991231235959Z"),
        ] {
            let time = write_time(at(seconds)).unwrap();
            assert_eq!(std::str::from_utf8(&time[2..]).unwrap(), written);
            assert_eq!(read_time(&mut Reader::new(&time)), Some(at(seconds)), "{written}");
        }
        assert_eq!(write_time(at(253_402_300_800)), None, "the year 10000");
    }

    #[test]
    fn times_that_are_none() {
        for text in
            ["", "Z", "700101000000", "7001010000Z", "701301000000Z", "700001000000Z", "700132000000Z", "700101240000Z", "70010100000xZ"]
        {
            let time = value(tag::UTC_TIME, &[text.as_bytes()]);
            assert_eq!(read_time(&mut Reader::new(&time)), None, "{text}");
        }
        let early = value(tag::UTC_TIME, &[b"500101000000Z"]);
        assert_eq!(read_time(&mut Reader::new(&early)), Some(UNIX_EPOCH));
    }
}
