//! Why a blob was refused: which section, where, and what to do about it.

use crate::header::{MAJOR, MINOR, SectionKind};

/// A blob that cannot be used. Nothing of it went into force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The first eight bytes are not a policy blob's.
    #[error("not a policy blob: the file does not start with its magic bytes (is it a compiled policy, and was it copied in binary mode?)")]
    Magic,
    /// Fewer or more bytes than the header announces.
    #[error("the file has {found} bytes, but its header announces {expected}: it is cut, padded or still being written")]
    Length {
        /// Bytes that the header announces, or that a header needs.
        expected: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// Another major version.
    #[error(
        "blob format {major}.{minor} cannot be read by this program, which reads {MAJOR}.0 to {MAJOR}.{MINOR}: compile the policy again with the matching netpolicy"
    )]
    Version {
        /// Major version of the blob.
        major: u16,
        /// Minor version of the blob.
        minor: u16,
    },
    /// The content does not have the digest that the header carries.
    #[error("the content does not match its digest: the file is damaged; compile it again or copy it again")]
    Digest,
    /// A required section that this reader does not know.
    #[error("section {kind} is required but unknown to this program (blob format {MAJOR}.{minor}): update netproxy-dp")]
    UnknownSection {
        /// Number of the section.
        kind: u32,
        /// Minor version of the blob.
        minor: u16,
    },
    /// A section that every policy has is missing or there twice.
    #[error("section `{0}` is missing or there twice: the file is damaged; compile it again")]
    SectionCount(SectionKind),
    /// The section table itself is wrong.
    #[error("entry {entry} of the section table is wrong ({what}): the file is damaged; compile it again")]
    Table {
        /// Index in the table.
        entry: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// The inside of a section is wrong.
    #[error("section `{section}` is wrong at byte {offset} ({what}): the file is damaged; compile it again")]
    Section {
        /// Which section.
        section: SectionKind,
        /// Byte offset from the section's start.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A setting that this reader does not know, or whose value it does not know.
    #[error("the setting `{}` {what}: the policy needs a newer one; update netproxy-dp", .key.escape_debug())]
    Setting {
        /// Its key, as users type it below the network table.
        key: String,
        /// What is wrong.
        what: &'static str,
    },
}
