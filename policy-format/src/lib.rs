//! The policy blob: bytes, and what they decide.
//!
//! One file holds one compiled policy. [`Blob::open`] validates it over any bytes (a vector, a static, a memory map) and [`decide()`] answers
//! [`Request`]s from it in place. There is no I/O, no clock and no `unsafe` here, and reading never panics, whatever the bytes are.
//!
//! # Layout, format 1.2
//!
//! Everything is little-endian, and nothing depends on where the blob lies in memory.
//!
//! ```text
//! header, 64 bytes                               section table, 32 bytes an entry, in order of offset
//!  0 8 bytes  magic: 89 4e 50 42 0d 0a 1a 0a      0 u32 kind
//!  8 u16      major version                       4 u32 flags    bit 0: a reader must know this section
//! 10 u16      minor version                       8 u64 offset   a multiple of 64
//! 12 u32      sections, at most 64               16 u64 length
//! 16 u64      length of the whole blob           24 u64 0
//! 24 u64      bytes of signatures at its end
//! 32 32 bytes BLAKE3 of bytes 0..16, and of those from 64 up to the signatures
//! ```
//!
//! | kind | section | content | see |
//! | --- | --- | --- | --- |
//! | 1 | meta | settings of the profiles, postcard | [`Meta`] |
//! | 2 | trie | the domain trie: header, and groups of 13 nodes | `trie.rs` |
//! | 3 | records | its records: names, with their rules | `trie.rs` |
//! | 4 | suffixes | up to 256 texts that many names end in | `trie.rs` |
//! | 5 | rules | 12 bytes: rules that are not alone with a name | `rules.rs` |
//! | 6 | terms | 24 bytes: access, ports, conditions, source and profiles, shared by rules | `rules.rs` |
//! | 7 | ports | 4 bytes: first and last port | `rules.rs` |
//! | 8 | ipv4 | disjoint ranges, 8 bytes | `addresses.rs` |
//! | 9 | ipv6 | disjoint ranges, 20 bytes | `addresses.rs` |
//! | 10 | ipv4 index | for many ranges: where each upper half of an address starts | `addresses.rs` |
//! | 11 | networks | 28 bytes: each network once, with its rules and the network around it | `addresses.rs` |
//! | 12 | globs | whose each program is, and globs as they were written | [`glob`] |
//! | 13 | automata | the programs of all globs, to be matched at once | `automaton.rs` |
//! | 14 | sources | layers and file labels, postcard | [`Source`] |
//! | 15 | conditions | methods, paths and reasons of rules | `conditions.rs`, `prefixes.rs` |
//! | 16 | hooks | postcard, in the order in which they are tried | [`Hook`] |
//! | 17 | settings | postcard: what profiles say that is not the default; missing where none does | [`Settings`] |
//! | 18 | socket denies | postcard: the unix sockets that profiles deny; missing where none does | [`UnixSockets::deny`] |
//!
//! `docs/format.md` has every byte of it.
//!
//! # Versions
//!
//! Format 1.1 has section 17 more, and 1.2 section 18, which is optional; a policy is written as the oldest that can say it. A reader accepts its own major version. A section that it does not know is skipped if optional and refused if required. The same policy gives the
//! same bytes on every machine: there are no times, paths or map order inside. Signatures are room that is kept: nothing writes or checks them yet.
#![cfg_attr(not(test), warn(missing_docs))]

mod addresses;
pub mod asked;
mod audit;
mod automaton;
mod blob;
#[cfg(feature = "build")]
mod build;
pub mod chain;
mod check;
mod conditions;
mod credentials;
mod decide;
mod decision;
mod error;
pub mod events;
pub mod glob;
mod header;
pub mod hooks;
mod host;
pub mod net;
mod packed;
pub mod path;
pub mod pattern;
mod prefixes;
mod reader;
mod records;
mod request;
mod rules;
#[cfg(feature = "build")]
mod ruleset;
mod settings;
mod settings_record;
mod socket_denies;
mod threads;
mod trie;
mod trie_check;
#[cfg(feature = "build")]
mod trie_writer;
mod url;

pub use audit::{Audit, AuditError, AuditLevel, AuditNaming, Fsync, OnFull, Otlp, OtlpProtocol, SyslogTarget};
pub use blob::{Blob, Closest, Intercepted, Rule};
#[cfg(feature = "build")]
pub use build::{BlobBuilder, BuildError, MAX_GLOBS, RuleInput, reseal};
pub use credentials::{
    ClientCertificate, Credential, CredentialAuth, HookBody, JsonValue, UrlPrefix, UrlPrefixError, carries_secrets, may_be_taken_out,
    same_header,
};
pub use decide::{HTTPS_PORT, NamedBy, Overrides, READING, decide, decide_address, decide_with, named_by};
pub use decision::{Allowed, Decision, Denied, Reason, Source as DecisionSource};
pub use error::FormatError;
pub use header::{Digest, HEADER_LEN, MAGIC, MAJOR, MINOR, SectionKind};
pub use host::{Host, HostError, HostRef, MAX_LABEL, MAX_NAME, Name};
pub use pattern::{Hosts, Pattern, PatternError, PatternErrorKind};
pub use records::{
    Hook, InjectedHeader, Layer, Listeners, MAX_HOOKS, MAX_PROFILES, Meta, Mitm, MitmMode, Mode, Network, ProfileId, Profiles, Secret,
    Source, UnixSockets, Upstream,
};
pub use request::{Inside, Protocol, Request};
pub use rules::{Access, PortRange, RuleId, RuleKind};
#[cfg(feature = "build")]
pub use ruleset::{HostsRef, RuleRef, RuleSet, Terms, TermsId};
pub use settings::{
    BrokerFallback, Constraints, Forwarded, Limit, LimitError, LimitKind, LimitOverride, Limits, NameServer, OnRevoke, Settings, Sni,
    UpstreamRule,
};
pub use url::hide_user;
