//! The fixed header and the section table: the first thing read, and the only thing read before the digest was checked.

use crate::error::FormatError;
use crate::reader::{array, bytes, u16_at, u32_at, u64_at};
use std::ops::Range;

/// First bytes of every blob. The high bit, CR LF and ^Z tell at once of a copy made in text mode.
pub const MAGIC: [u8; 8] = *b"\x89NPB\r\n\x1a\n";
/// Major version: a reader reads its own only.
pub const MAJOR: u16 = 1;
/// Newest minor version that this crate writes; a blob says the oldest that has all of its sections (`SectionKind::since`). A reader accepts every minor version of its major.
pub const MINOR: u16 = 2;

/// Bytes in the header.
pub const HEADER_LEN: usize = 64;
/// Bytes in an entry of the section table.
pub(crate) const ENTRY_LEN: usize = 32;
/// Sections start at multiples of this.
pub(crate) const ALIGN: usize = 64;
/// Sections that a blob may have.
pub(crate) const MAX_SECTIONS: u32 = 64;
/// Where the digest stands in the header.
pub(crate) const DIGEST_AT: usize = 32;
/// The bytes before this one are digested; the two lengths after it are not, so that a policy keeps its digest when it is signed.
const LENGTHS_AT: usize = 16;
/// Bytes of signatures that a blob may end in.
const MAX_SIGNATURES: u64 = 64 << 10;

/// Flag of a section that a reader must know.
pub(crate) const REQUIRED: u32 = 1;

/// The sections of format 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum SectionKind {
    /// Settings of the profiles, as postcard.
    Meta = 1,
    /// The groups of the domain trie.
    Trie = 2,
    /// The records of the domain trie.
    Records = 3,
    /// Texts that many names end in.
    Suffixes = 4,
    /// Rules that are not alone with a name.
    Rules = 5,
    /// What rules say beyond their hosts.
    Terms = 6,
    /// Port ranges of the terms.
    Ports = 7,
    /// IPv4 ranges.
    Ipv4 = 8,
    /// IPv6 ranges.
    Ipv6 = 9,
    /// Where to start among many IPv4 ranges.
    Ipv4Index = 10,
    /// Networks, with their rules.
    Networks = 11,
    /// Globs.
    Globs = 12,
    /// Automata that match globs.
    Automata = 13,
    /// Layers and file labels, as postcard.
    Sources = 14,
    /// Methods, paths and reasons of rules.
    Conditions = 15,
    /// Hooks, as postcard.
    Hooks = 16,
    /// What profiles say beyond their rules, as postcard. Only where one says anything; since 1.1.
    Settings = 17,
    /// Unix sockets that profiles deny, as postcard. Only where one denies any; since 1.2.
    SocketDenies = 18,
}

impl SectionKind {
    /// All of them, in the order in which they are written.
    pub const ALL: [Self; 18] = [
        Self::Meta,
        Self::Trie,
        Self::Records,
        Self::Suffixes,
        Self::Rules,
        Self::Terms,
        Self::Ports,
        Self::Ipv4,
        Self::Ipv6,
        Self::Ipv4Index,
        Self::Networks,
        Self::Globs,
        Self::Automata,
        Self::Sources,
        Self::Conditions,
        Self::Hooks,
        Self::Settings,
        Self::SocketDenies,
    ];

    /// Position in [`Self::ALL`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize - 1
    }

    /// Whether a blob may be without it.
    #[must_use]
    pub fn may_be_missing(self) -> bool {
        matches!(self, Self::Settings | Self::SocketDenies)
    }

    /// Whether a reader that does not know it refuses the blob. Who does not know of denied sockets goes by the list of those that are open, as it always did.
    #[cfg(feature = "build")]
    pub(crate) fn is_required(self) -> bool {
        self != Self::SocketDenies
    }

    /// The minor version that has it first.
    #[cfg(feature = "build")]
    pub(crate) fn since(self) -> u16 {
        match self {
            Self::SocketDenies => 2,
            Self::Settings => 1,
            _ => 0,
        }
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }
}

impl std::fmt::Display for SectionKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Meta => "meta",
            Self::Trie => "trie",
            Self::Records => "records",
            Self::Suffixes => "suffixes",
            Self::Rules => "rules",
            Self::Terms => "terms",
            Self::Ports => "ports",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Ipv4Index => "ipv4 index",
            Self::Networks => "networks",
            Self::Globs => "globs",
            Self::Automata => "automata",
            Self::Sources => "sources",
            Self::Conditions => "conditions",
            Self::Hooks => "hooks",
            Self::Settings => "settings",
            Self::SocketDenies => "socket denies",
        })
    }
}

/// BLAKE3 digest of a blob's content: the policy's name for machines.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Where the sections are. Bounds are checked; contents are not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) minor: u16,
    pub(crate) digest: Digest,
    sections: [(usize, usize); SectionKind::ALL.len()],
}

impl Layout {
    /// Whether the blob has a section: only those that may be missing can be.
    pub(crate) fn has(&self, kind: SectionKind) -> bool {
        self.range(kind).start != 0
    }

    pub(crate) fn range(&self, kind: SectionKind) -> Range<usize> {
        let (start, end) = self.sections.get(kind.index()).copied().unwrap_or((0, 0));
        start..end
    }
}

/// Reads header and section table. Constant time: at most [`MAX_SECTIONS`] entries.
pub(crate) fn read(data: &[u8]) -> Result<Layout, FormatError> {
    let found = data.len() as u64;
    let short = FormatError::Length { expected: HEADER_LEN as u64, found };
    match bytes(data, 0, MAGIC.len()) {
        Some(magic) if magic == MAGIC => {}
        Some(_) => return Err(FormatError::Magic),
        None if data.is_empty() || !MAGIC.starts_with(data) => return Err(if data.is_empty() { short } else { FormatError::Magic }),
        None => return Err(short),
    }
    if data.len() < HEADER_LEN {
        return Err(short);
    }
    let (Some(major), Some(minor), Some(count), Some(expected), Some(signatures), Some(digest)) =
        (u16_at(data, 8), u16_at(data, 10), u32_at(data, 12), u64_at(data, 16), u64_at(data, 24), array::<32>(data, DIGEST_AT))
    else {
        return Err(short);
    };
    if major != MAJOR {
        return Err(FormatError::Version { major, minor });
    }
    if expected != found {
        return Err(FormatError::Length { expected, found });
    }
    if count > MAX_SECTIONS {
        return Err(FormatError::Table { entry: count, what: "too many sections" });
    }
    let Some(content) = content_len(data).filter(|_| signatures <= MAX_SIGNATURES) else {
        return Err(FormatError::Table { entry: 0, what: "more bytes of signatures than there may be" });
    };
    Ok(Layout { minor, digest: Digest(digest), sections: read_table(data, count, content, minor)? })
}

/// Where each section begins and ends, from `count` entries; sections lie before `content`.
fn read_table(data: &[u8], count: u32, content: usize, minor: u16) -> Result<[(usize, usize); SectionKind::ALL.len()], FormatError> {
    let mut sections: [Option<(usize, usize)>; SectionKind::ALL.len()] = [None; SectionKind::ALL.len()];
    let mut floor = HEADER_LEN + ENTRY_LEN * count as usize;
    for entry in 0..count {
        let wrong = |what| FormatError::Table { entry, what };
        let at = HEADER_LEN + ENTRY_LEN * entry as usize;
        let (Some(kind), Some(flags), Some(offset), Some(len), Some(reserved)) =
            (u32_at(data, at), u32_at(data, at + 4), u64_at(data, at + 8), u64_at(data, at + 16), u64_at(data, at + 24))
        else {
            return Err(wrong("the table is cut"));
        };
        let start = usize::try_from(offset).map_err(|_| wrong("offset too large"))?;
        let len = usize::try_from(len).map_err(|_| wrong("length too large"))?;
        let end = start.checked_add(len).filter(|end| *end <= content).ok_or(wrong("it ends beyond the file"))?;
        if start % ALIGN != 0 || start < floor || reserved != 0 || flags & !REQUIRED != 0 {
            return Err(wrong("misaligned, overlapping, out of order, or unknown flags"));
        }
        floor = end;
        match SectionKind::from_number(kind) {
            Some(known) => match sections.get_mut(known.index()) {
                Some(slot @ None) => *slot = Some((start, end)),
                _ => return Err(FormatError::SectionCount(known)),
            },
            None if flags & REQUIRED != 0 => return Err(FormatError::UnknownSection { kind, minor }),
            None => {}
        }
    }
    let mut found = [(0, 0); SectionKind::ALL.len()];
    for (kind, (slot, section)) in SectionKind::ALL.into_iter().zip(found.iter_mut().zip(sections)) {
        *slot = match section {
            Some(section) => section,
            None if kind.may_be_missing() => continue,
            None => return Err(FormatError::SectionCount(kind)),
        };
    }
    Ok(found)
}

/// Bytes before the signatures; `None` when there is no header, or less content than that.
fn content_len(data: &[u8]) -> Option<usize> {
    let signatures = usize::try_from(u64_at(data, LENGTHS_AT + 8)?).ok()?;
    data.len().checked_sub(signatures).filter(|content| *content >= HEADER_LEN)
}

/// The digest of a blob: BLAKE3 over everything but the lengths and the digest's own place in the header, and the signatures.
pub(crate) fn digest(data: &[u8]) -> Digest {
    let content = content_len(data).unwrap_or(data.len());
    let mut hasher = blake3::Hasher::new();
    hasher.update(data.get(..LENGTHS_AT).unwrap_or(data));
    hasher.update(data.get(HEADER_LEN..content).unwrap_or_default());
    Digest(hasher.finalize().into())
}

#[cfg(all(test, feature = "build"))]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_that_of_the_newest_section() {
        assert_eq!(SectionKind::ALL.into_iter().map(SectionKind::since).max(), Some(MINOR));
    }
}
