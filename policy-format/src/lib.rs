//! The policy blob: bytes, and what they decide.
//!
//! One file holds one compiled policy. [`Blob::open`] validates it over any bytes (a vector, a static, a memory map) and [`decide()`] answers
//! [`Request`]s from it in place. There is no I/O, no clock and no `unsafe` here, and reading never panics, whatever the bytes are.
//!
//! # Layout, format 1.0
//!
//! Everything is little-endian, and nothing depends on where the blob lies in memory.
//!
//! ```text
//! header, 64 bytes                                section table, 32 bytes an entry, in order of offset
//!  0  8 bytes  magic: 89 4e 50 42 0d 0a 1a 0a      0 u32 kind
//!  8  u16      major version                       4 u32 flags    bit 0: a reader must know this section
//! 10  u16      minor version                       8 u64 offset   a multiple of 64
//! 12  u32      sections, at most 64               16 u64 length
//! 16  u64      length of the whole blob           24 u64 0
//! 24  u64      0
//! 32  32 bytes BLAKE3 of bytes 0..32 and 64..
//! ```
//!
//! | kind | section | content | see |
//! | --- | --- | --- | --- |
//! | 1 | meta | settings, postcard | [`Meta`] |
//! | 2 | trie | slots of the domain trie | `trie.rs` |
//! | 3 | labels | labels of names, end to end | `trie.rs` |
//! | 4 | rules | 16 bytes a rule, provenance included | `rules.rs` |
//! | 5 | attributes | 12 bytes: access, ports and conditions, shared by rules | `rules.rs` |
//! | 6 | ports | 4 bytes: first and last port | `rules.rs` |
//! | 7 | ipv4 | disjoint ranges, 8 bytes | `addresses.rs` |
//! | 8 | ipv6 | disjoint ranges, 20 bytes | `addresses.rs` |
//! | 9 | address rules | lists of rules for ranges | `addresses.rs` |
//! | 10 | networks | 18 bytes: networks as they were written | `addresses.rs` |
//! | 11 | globs | u32 count; u32 offsets; records back to back: u32 rule, u16 bytes of text, u16 programs, text, programs (u16 length, bytes) | [`glob`] |
//! | 12 | sources | layers and file labels, postcard | [`Source`] |
//! | 13 | conditions | methods, paths and reasons of rules | `conditions.rs` |
//! | 14 | hooks | postcard, in the order in which they are tried | [`Hook`] |
//!
//! Rules are ordered: those for `*`, then names by reversed labels (a name's rules are a run), networks, globs.
//!
//! # Versions
//!
//! A reader accepts its own major version. A section that it does not know is skipped if optional and refused if required. The same policy gives the
//! same bytes on every machine: there are no times, paths or map order inside.
#![cfg_attr(not(test), warn(missing_docs))]

mod addresses;
mod blob;
#[cfg(feature = "build")]
mod build;
mod check;
mod conditions;
mod decide;
mod decision;
mod error;
pub mod glob;
mod header;
mod host;
pub mod net;
mod packed;
pub mod path;
pub mod pattern;
mod reader;
mod records;
mod request;
mod rules;
#[cfg(feature = "build")]
mod ruleset;
mod trie;
#[cfg(feature = "build")]
mod trie_writer;

pub use blob::{Blob, Closest, Rule};
#[cfg(feature = "build")]
pub use build::{BlobBuilder, BuildError, MAX_GLOBS, RuleInput, reseal};
pub use decide::{NamedBy, READING, decide, decide_address, named_by};
pub use decision::{Allowed, Decision, Denied, Reason, Source as DecisionSource};
pub use error::FormatError;
pub use header::{Digest, HEADER_LEN, MAGIC, MAJOR, MINOR, SectionKind};
pub use host::{Host, HostError, HostRef, MAX_LABEL, MAX_NAME, Name};
pub use pattern::{Hosts, Pattern, PatternError, PatternErrorKind};
pub use records::{
    Hook, InjectedHeader, Layer, Listeners, MAX_HOOKS, MAX_PROFILES, Meta, Mitm, MitmMode, Mode, Network, ProfileId, Profiles, Secret,
    Source, UnixSockets, Upstream,
};
pub use request::{Protocol, Request};
pub use rules::{Access, PortRange, RuleId, RuleKind};
#[cfg(feature = "build")]
pub use ruleset::{HostsRef, RuleRef, RuleSet, Terms, TermsId};
