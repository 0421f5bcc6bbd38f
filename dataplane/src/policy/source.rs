//! Where a policy comes from, and how it is had from there.

use super::reload::load;
use super::{Policy, Verify};
use crate::config::PolicyMap;
use crate::error::LoadError;
use policy_format::Blob;
use std::path::{Path, PathBuf};

/// Where a policy comes from: the built-in one (the default), a [`Policy`], a [`Blob`] or its bytes from memory, or the path of a file.
///
/// ```
/// use netproxy::PolicySource;
/// use std::path::Path;
///
/// let from_a_file = PolicySource::from("policy.bin");
/// let from_a_path = PolicySource::from(Path::new("policy.bin"));
/// let from_memory = PolicySource::from(vec![0x50, 0x4f, 0x4c]);
/// let built_in = PolicySource::default();
/// ```
#[derive(Debug, Default)]
pub struct PolicySource(Source);

#[derive(Debug, Default)]
enum Source {
    #[default]
    BuiltIn,
    Given(Box<Policy>),
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// A policy that is opened already, and has chosen its profile.
impl From<Policy> for PolicySource {
    fn from(policy: Policy) -> Self {
        Self(Source::Given(Box::new(policy)))
    }
}

/// The bytes of a compiled policy. They are validated when they are put in force.
impl From<Vec<u8>> for PolicySource {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Source::Bytes(bytes))
    }
}

/// The bytes of a compiled policy, which are copied.
impl From<&[u8]> for PolicySource {
    fn from(bytes: &[u8]) -> Self {
        Self(Source::Bytes(bytes.to_owned()))
    }
}

/// A blob, whose bytes are copied, and validated once more.
impl<B: AsRef<[u8]>> From<&Blob<B>> for PolicySource {
    fn from(blob: &Blob<B>) -> Self {
        Self(Source::Bytes(blob.as_bytes().to_owned()))
    }
}

/// The path of a compiled policy.
impl From<PathBuf> for PolicySource {
    fn from(path: PathBuf) -> Self {
        Self(Source::File(path))
    }
}

/// The path of a compiled policy.
impl From<&Path> for PolicySource {
    fn from(path: &Path) -> Self {
        Self(Source::File(path.to_owned()))
    }
}

/// The path of a compiled policy. It is never the policy itself, whose bytes are no text.
impl From<&str> for PolicySource {
    fn from(path: &str) -> Self {
        Self(Source::File(path.into()))
    }
}

impl PolicySource {
    /// The file, if it is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.0 {
            Source::File(path) => Some(path),
            Source::BuiltIn | Source::Given(_) | Source::Bytes(_) => None,
        }
    }

    /// What the admin API calls it.
    pub(crate) fn origin(&self) -> crate::admin::model::Origin {
        use crate::admin::model::Origin;
        match self.0 {
            Source::BuiltIn => Origin::BuiltIn,
            Source::Given(_) | Source::Bytes(_) => Origin::Given,
            Source::File(_) => Origin::File,
        }
    }

    /// What messages call it: a path, or words in brackets.
    pub(crate) fn name(&self) -> PathBuf {
        match &self.0 {
            Source::BuiltIn => PathBuf::from("(built in)"),
            Source::Given(_) | Source::Bytes(_) => PathBuf::from("(from memory)"),
            Source::File(path) => path.clone(),
        }
    }

    /// Reads and validates the policy, a file as far as `verify` says; it must have the profile that is named; one that is opened already has chosen its own. May take a while.
    pub(crate) fn load(self, map: PolicyMap, profile: Option<&str>, verify: Verify) -> Result<Policy, LoadError> {
        let path = self.name();
        let opened = match self.0 {
            Source::File(path) => return load(&path, map, profile, verify),
            Source::Given(policy) => return Ok(*policy),
            Source::BuiltIn => Policy::built_in_profile(profile),
            Source::Bytes(bytes) => Policy::from_bytes_profile(bytes, profile),
        };
        opened.map_err(|error| LoadError::Format { path, error })
    }
}
