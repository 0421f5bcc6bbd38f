//! What a rule asks of a request beyond its host and port: methods and paths; and the reason that its author gives.
//!
//! ```text
//! conditions: u32 0, so that offset 0 means none; then records back to back:
//!   u16 methods, u16 paths, u16 bytes of reason; reason;
//!   methods, each u8 length and bytes; paths, each u16 length and bytes
//! ```

use crate::path;
use crate::reader::{byte, bytes, u16_at};
use crate::request::{Protocol, Request};

/// Bytes before the first record.
pub(crate) const FIRST: usize = 4;

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
    paths: u16,
    pub(crate) reason: &'a str,
    lists: &'a [u8],
}

impl<'a> Conditions<'a> {
    /// The record at `offset`, and where it ends. Nothing of it is taken on trust.
    pub(crate) fn read(section: &'a [u8], offset: usize) -> Option<(Self, usize)> {
        let (methods, paths) = (u16_at(section, offset)?, u16_at(section, offset.checked_add(2)?)?);
        let reason_len = usize::from(u16_at(section, offset.checked_add(4)?)?);
        let start = offset.checked_add(6)?;
        let reason = std::str::from_utf8(bytes(section, start, reason_len)?).ok()?;
        let lists = section.get(start + reason_len..)?;
        let record = Self { methods, paths, reason, lists };
        let mut at = 0;
        for _ in 0..methods {
            at += 1 + usize::from(byte(lists, at)?);
        }
        for _ in 0..paths {
            at += 2 + usize::from(u16_at(lists, at)?);
        }
        let whole = record.methods().count() == usize::from(methods) && record.paths().count() == usize::from(paths);
        whole.then_some((record, start + reason_len + at))
    }

    /// The record at `offset`, read as far as it goes: for lookups, after `read` found it whole.
    pub(crate) fn at(section: &'a [u8], offset: u32) -> Option<Self> {
        let offset = usize::try_from(offset).ok()?;
        let reason_len = usize::from(u16_at(section, offset.checked_add(4)?)?);
        let start = offset + 6;
        let reason = std::str::from_utf8(bytes(section, start, reason_len)?).ok()?;
        Some(Self {
            methods: u16_at(section, offset)?,
            paths: u16_at(section, offset + 2)?,
            reason,
            lists: section.get(start + reason_len..)?,
        })
    }

    pub(crate) fn methods(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut rest = self.lists;
        (0..self.methods).map_while(move |_| {
            let len = usize::from(byte(rest, 0)?);
            let text = std::str::from_utf8(bytes(rest, 1, len)?).ok()?;
            rest = rest.get(1 + len..)?;
            Some(text)
        })
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut skipped = Some(0_usize);
        for _ in 0..self.methods {
            skipped = skipped.and_then(|at| Some(at + 1 + usize::from(byte(self.lists, at)?)));
        }
        let mut rest = skipped.and_then(|at| self.lists.get(at..)).unwrap_or_default();
        (0..self.paths).map_while(move |_| {
            let len = usize::from(u16_at(rest, 0)?);
            let text = std::str::from_utf8(bytes(rest, 2, len)?).ok()?;
            rest = rest.get(2 + len..)?;
            Some(text)
        })
    }

    /// Whether the conditions hold. A deny takes more than it says where a server might: methods in any case, and every path with two readings. Case counts in
    /// paths, for denies too (RFC 3986, section 6.2.2.1).
    pub(crate) fn hold(&self, request: &Request<'_>, denies: bool) -> Held {
        if self.methods == 0 && self.paths == 0 {
            return Held::Yes;
        }
        if request.protocol != Protocol::Http {
            return Held::Unseen;
        }
        let same = |known: &str, method: &str| if denies { known.eq_ignore_ascii_case(method) } else { known == method };
        let method = self.methods == 0 || request.method.is_some_and(|method| self.methods().any(|known| same(known, method)));
        let path = || match request.path {
            _ if self.paths == 0 => true,
            Some(path) if path::has_one_reading(path) => self.paths().any(|prefix| path::lies_below(path, prefix)),
            _ => denies,
        };
        if method && path() { Held::Yes } else { Held::No }
    }
}

/// Writes a record.
#[cfg(feature = "build")]
pub(crate) fn write(out: &mut Vec<u8>, methods: &[String], paths: &[String], reason: &str) -> Option<()> {
    let count = |n: usize| u16::try_from(n).ok();
    out.extend(count(methods.len())?.to_le_bytes());
    out.extend(count(paths.len())?.to_le_bytes());
    out.extend(count(reason.len())?.to_le_bytes());
    out.extend(reason.bytes());
    for method in methods {
        out.push(u8::try_from(method.len()).ok()?);
        out.extend(method.bytes());
    }
    for path in paths {
        out.extend(count(path.len())?.to_le_bytes());
        out.extend(path.bytes());
    }
    Some(())
}
