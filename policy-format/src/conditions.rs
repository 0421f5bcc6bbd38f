//! What a rule asks of a request beyond its host and port: methods and paths; and the reason that its author gives.
//!
//! ```text
//! conditions: u32 0, so that offset 0 means none; then records back to back:
//!   u16 methods, u16 bytes of reason, u32 nodes, u32 bytes of segments;
//!   nodes and segments of the paths (`prefixes.rs`); reason; methods, each u8 length and bytes
//! ```

use crate::path;
use crate::prefixes::{NODE_LEN, Prefixes};
use crate::reader::{byte, bytes, u16_at, u32_at};
use crate::request::Request;

/// Bytes before the first record.
pub(crate) const FIRST: usize = 4;
/// Bytes of a record before its nodes.
const HEAD_LEN: usize = 12;

/// Whether a rule's conditions hold of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    Yes,
    No,
    /// Nobody can tell: the request cannot be read.
    Unseen,
}

/// A record in place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conditions<'a> {
    methods: u16,
    prefixes: Prefixes<'a>,
    reason: &'a [u8],
    /// From the first method on, to the end of the section.
    rest: &'a [u8],
}

impl<'a> Conditions<'a> {
    /// The record at `offset`, and where it ends. Nothing of it is taken on trust.
    pub(crate) fn read(section: &'a [u8], offset: usize) -> Option<(Self, usize)> {
        let record = Self::parse(section, offset)?;
        record.prefixes.check()?;
        std::str::from_utf8(record.reason).ok()?;
        let mut end = section.len() - record.rest.len();
        let mut found = 0;
        for method in record.methods() {
            std::str::from_utf8(method).ok()?;
            (found, end) = (found + 1, end + 1 + method.len());
        }
        (found == usize::from(record.methods)).then_some((record, end))
    }

    /// The record at `offset`, read as far as it goes: for lookups, after `read` found it whole.
    pub(crate) fn at(section: &'a [u8], offset: u32) -> Option<Self> {
        Self::parse(section, usize::try_from(offset).ok()?)
    }

    fn parse(section: &'a [u8], offset: usize) -> Option<Self> {
        let record = section.get(offset..)?;
        let length = |at| usize::try_from(u32_at(record, at)?).ok();
        let nodes = bytes(record, HEAD_LEN, length(4)?.checked_mul(NODE_LEN)?)?;
        let after_nodes = HEAD_LEN + nodes.len();
        let text = bytes(record, after_nodes, length(8)?)?;
        let after_text = after_nodes + text.len();
        let reason = bytes(record, after_text, usize::from(u16_at(record, 2)?))?;
        let rest = record.get(after_text + reason.len()..)?;
        Some(Self { methods: u16_at(record, 0)?, prefixes: Prefixes { nodes, text }, reason, rest })
    }

    pub(crate) fn methods(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.rest;
        (0..self.methods).map_while(move |_| {
            let method = bytes(rest, 1, usize::from(byte(rest, 0)?))?;
            rest = rest.get(1 + method.len()..)?;
            Some(method)
        })
    }

    /// The paths as they were written, sorted.
    pub(crate) fn paths(&self) -> Vec<String> {
        self.prefixes.list()
    }

    /// Whether they ask nothing: there is only a reason.
    pub(crate) fn hold_always(&self) -> bool {
        self.methods == 0 && self.prefixes.is_empty()
    }

    pub(crate) fn reason(&self) -> &'a str {
        std::str::from_utf8(self.reason).unwrap_or_default()
    }

    /// Whether the conditions hold. A deny takes more than it says where a server might: methods in any case, and every path with two readings. Case counts in
    /// paths, for denies too (RFC 3986, section 6.2.2.1).
    pub(crate) fn hold(&self, request: &Request<'_>, denies: bool) -> Held {
        if self.hold_always() {
            return Held::Yes;
        }
        if !request.protocol.is_read() {
            return Held::Unseen;
        }
        let same = |known: &[u8], method: &str| {
            if denies { known.eq_ignore_ascii_case(method.as_bytes()) } else { known == method.as_bytes() }
        };
        let method = self.methods == 0 || request.method.is_some_and(|method| self.methods().any(|known| same(known, method)));
        let path = || match request.path {
            _ if self.prefixes.is_empty() => true,
            Some(path) if path::has_one_reading(path) => self.prefixes.hold(path),
            _ => denies,
        };
        if method && path() { Held::Yes } else { Held::No }
    }
}

/// Writes a record.
#[cfg(feature = "build")]
pub(crate) fn write(out: &mut Vec<u8>, methods: &[String], paths: &[String], reason: &str) -> Result<(), crate::build::BuildError> {
    let too_many = |what, limit| crate::build::BuildError::TooMany { what, limit };
    let short = |len: usize, what| u16::try_from(len).map_err(|_| too_many(what, usize::from(u16::MAX)));
    let long = |len: usize, what| u32::try_from(len).map_err(|_| too_many(what, u32::MAX as usize));
    let (nodes, text) = crate::prefixes::write(paths)?;
    out.extend(short(methods.len(), "methods in one rule")?.to_le_bytes());
    out.extend(short(reason.len(), "bytes in the reason of one rule")?.to_le_bytes());
    out.extend(long(nodes.len() / NODE_LEN, "segments in the paths of one rule")?.to_le_bytes());
    out.extend(long(text.len(), "bytes in the paths of one rule")?.to_le_bytes());
    out.extend(nodes);
    out.extend(text);
    out.extend(reason.bytes());
    for method in methods {
        out.push(u8::try_from(method.len()).map_err(|_| too_many("bytes in one method", usize::from(u8::MAX)))?);
        out.extend(method.bytes());
    }
    Ok(())
}
