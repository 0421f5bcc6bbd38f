//! Rules that are not alone with a name, and what rules say beyond their hosts.
//!
//! A rule that is the only one of its name lies in the trie (see `trie.rs`). Section `rules` has the others: those for `*`, those of names that have several, name by
//! name, those for networks, those for globs.
//!
//! ```text
//! rule, 12 bytes                                terms, 24 bytes
//!  0 u32 anchor   slot in the trie, index of     0 u8  access      0 allow, 1 read-only, 2 deny
//!                 the network or of the glob     1 u8  0
//!  4 u32 line     in its source, from 1;         2 u16 port_count  0: every port
//!                 0: no line                     4 u32 first_port  index in `ports`
//!  8 u16 terms    index                          8 u32 conditions  offset in `conditions`; 0: none
//! 10 u8  kind     see RuleKind                  12 u16 source      index
//! 11 u8  0                                      14 u16 0
//! ports, 4 bytes: u16 first, u16 last           16 u64 profiles    bit n: profile n has the rule
//! ```
//!
//! Terms stand in order of access: those that deny come last. Rules stand by kind: `*`, names, networks, globs; of one name the exact ones last, then, like those of
//! every anchor, by access, by layer with the weakest first, by line, and by kind, so that the last that matches is the closest.
//!
//! A rule's number is its index in section `rules`; of a rule in the trie, its slot and the number of rules in that section.

use crate::reader::{record, u16_at, u32_at, u64_at};
use crate::records::Profiles;
use std::fmt;

pub(crate) const RULE_LEN: usize = 12;
pub(crate) const TERMS_LEN: usize = 24;
pub(crate) const PORTS_LEN: usize = 4;

/// Number of a rule within its blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u32);

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Access {
    /// Everything may pass.
    Allow = 0,
    /// GET, HEAD and OPTIONS may pass.
    ReadOnly = 1,
    /// Nothing may pass.
    Deny = 2,
}

impl Access {
    /// The name that users type and read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::ReadOnly => "read-only",
            Self::Deny => "deny",
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        const ALL: [Access; 3] = [Access::Allow, Access::ReadOnly, Access::Deny];
        ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Ports from first to last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// How a rule names its hosts. Of those that name a name, bit 0 says that they speak of the name itself, and bit 1 that they speak of what is below it; records of the trie
/// have these two bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RuleKind {
    /// `*`.
    Any = 0,
    /// `example.com`.
    Exact = 1,
    /// `*.example.com`.
    Subdomains = 2,
    /// `**.example.com`.
    ApexAndSubdomains = 3,
    /// An address or network.
    Network = 4,
    /// Globs inside names.
    Glob = 5,
}

impl RuleKind {
    /// Whether its rules name their hosts by a name.
    pub(crate) fn names(self) -> bool {
        matches!(self, Self::Exact | Self::Subdomains | Self::ApexAndSubdomains)
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        // A table, not a search: the number comes from memory that may be slow, and nothing should have to guess it.
        const ALL: [RuleKind; 6] =
            [RuleKind::Any, RuleKind::Exact, RuleKind::Subdomains, RuleKind::ApexAndSubdomains, RuleKind::Network, RuleKind::Glob];
        ALL.get(usize::from(number)).copied()
    }
}

/// A rule as it stands in section `rules`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RuleRecord {
    pub(crate) anchor: u32,
    pub(crate) line: u32,
    pub(crate) terms: u16,
    pub(crate) kind: RuleKind,
}

impl RuleRecord {
    pub(crate) fn read(section: &[u8], index: u32) -> Option<Self> {
        let bytes: [u8; RULE_LEN] = record(section, index)?;
        Some(Self {
            anchor: u32_at(&bytes, 0)?,
            line: u32_at(&bytes, 4)?,
            terms: u16_at(&bytes, 8)?,
            kind: RuleKind::from_number(*bytes.get(10)?)?,
        })
    }

    #[cfg(feature = "build")]
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.anchor.to_le_bytes());
        out.extend(self.line.to_le_bytes());
        out.extend(self.terms.to_le_bytes());
        out.extend([self.kind as u8, 0]);
    }
}

/// Terms as they stand in the blob.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TermsRecord {
    pub(crate) access: Access,
    pub(crate) port_count: u16,
    pub(crate) first_port: u32,
    /// Offset in the conditions; 0 when there are none.
    pub(crate) conditions: u32,
    pub(crate) source: u16,
    pub(crate) profiles: Profiles,
}

impl TermsRecord {
    #[inline]
    pub(crate) fn read(section: &[u8], index: u32) -> Option<Self> {
        let bytes: [u8; TERMS_LEN] = record(section, index)?;
        Some(Self {
            access: Access::from_number(*bytes.first()?)?,
            port_count: u16_at(&bytes, 2)?,
            first_port: u32_at(&bytes, 4)?,
            conditions: u32_at(&bytes, 8)?,
            source: u16_at(&bytes, 12)?,
            profiles: Profiles(u64_at(&bytes, 16)?),
        })
    }

    #[cfg(feature = "build")]
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend([self.access as u8, 0]);
        out.extend(self.port_count.to_le_bytes());
        out.extend(self.first_port.to_le_bytes());
        out.extend(self.conditions.to_le_bytes());
        out.extend(self.source.to_le_bytes());
        out.extend([0, 0]);
        out.extend(self.profiles.0.to_le_bytes());
    }

    /// The port ranges; none means every port.
    pub(crate) fn ports<'a>(&self, section: &'a [u8]) -> impl Iterator<Item = PortRange> + use<'a> {
        port_ranges(section, self.first_port, u32::from(self.port_count))
    }

    /// Whether the rule speaks of `port`.
    pub(crate) fn covers(&self, section: &[u8], port: u16) -> bool {
        self.port_count == 0 || self.ports(section).any(|range| (range.first..=range.last).contains(&port))
    }
}

/// `count` port ranges from number `first`.
pub(crate) fn port_ranges(section: &[u8], first: u32, count: u32) -> impl Iterator<Item = PortRange> + use<'_> {
    (0..count).map_while(move |n| {
        let bytes: [u8; PORTS_LEN] = record(section, first.checked_add(n)?)?;
        Some(PortRange { first: u16_at(&bytes, 0)?, last: u16_at(&bytes, 2)? })
    })
}
