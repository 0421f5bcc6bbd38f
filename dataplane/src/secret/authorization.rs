//! What a field presents, and the same field with a credential in place of what stands for it.

use super::provider::Scheme;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// A value that a field presents, and how the field is written with another in its place.
pub(super) struct Presented<'a> {
    /// The value.
    pub(super) value: &'a [u8],
    /// What it is presented as.
    pub(super) place: Place<'a>,
}

/// What stands around a presented value.
pub(super) enum Place<'a> {
    /// `Bearer …` or `token …`, as the client wrote the scheme.
    Token { scheme: Scheme, written: &'a [u8] },
    /// The user of `Basic …`; `rest` is the colon and the password.
    User { written: &'a [u8], rest: &'a [u8] },
    /// The password of `Basic …`; `rest` is the user and the colon.
    Password { written: &'a [u8], rest: &'a [u8] },
    /// A field of the policy's choice.
    Field { prefix: &'a str },
}

/// A value of `Authorization`: a scheme, blanks, and what belongs to it (RFC 9110, section 11.4).
pub(super) struct Authorization<'a> {
    pub(super) scheme: Scheme,
    written: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Authorization<'a> {
    /// Reads a value with a scheme that credentials are sent by.
    pub(super) fn read(value: &'a [u8]) -> Option<Self> {
        let value = value.trim_ascii();
        let (written, rest) = value.split_at_checked(value.iter().position(|byte| *byte == b' ')?)?;
        let scheme = [("bearer", Scheme::Bearer), ("token", Scheme::Token), ("basic", Scheme::Basic)]
            .into_iter()
            .find(|(name, _)| written.eq_ignore_ascii_case(name.as_bytes()))?
            .1;
        Some(Self { scheme, written, rest: rest.trim_ascii() })
    }

    /// User, colon and password; `None` unless this is `Basic` and they can be read.
    pub(super) fn pair(&self) -> Option<Vec<u8>> {
        (self.scheme == Scheme::Basic).then(|| STANDARD.decode(self.rest).ok()).flatten()
    }

    /// What is presented. `pair` is what [`Self::pair`] gave.
    pub(super) fn presented(&self, pair: Option<&'a [u8]>) -> [Option<Presented<'a>>; 2] {
        let written = self.written;
        if self.scheme != Scheme::Basic {
            let place = Place::Token { scheme: self.scheme, written };
            return [Some(Presented { value: self.rest, place }), None];
        }
        let Some((pair, colon)) = pair.and_then(|pair| Some((pair, pair.iter().position(|byte| *byte == b':')?))) else {
            return [None, None];
        };
        let (user, rest) = pair.split_at_checked(colon).unwrap_or_default();
        let (before, password) = pair.split_at_checked(colon + 1).unwrap_or_default();
        [
            Some(Presented { value: user, place: Place::User { written, rest } }),
            Some(Presented { value: password, place: Place::Password { written, rest: before } }),
        ]
    }
}

impl Place<'_> {
    /// The scheme of `Authorization` by which the value is presented.
    pub(super) fn scheme(&self) -> Option<Scheme> {
        match self {
            Self::Token { scheme, .. } => Some(*scheme),
            Self::User { .. } | Self::Password { .. } => Some(Scheme::Basic),
            Self::Field { .. } => None,
        }
    }

    /// The field with `real` in this place. No copy of it is left behind in memory.
    pub(super) fn with(&self, real: &[u8]) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Token { written, .. } => joined(&[written, b" ", real]),
            Self::User { written, rest } => joined(&[written, b" ", &encoded(&joined(&[real, rest]))]),
            Self::Password { written, rest } => joined(&[written, b" ", &encoded(&joined(&[rest, real]))]),
            Self::Field { prefix } => joined(&[prefix.as_bytes(), real]),
        }
    }
}

/// The parts, one after the other, in memory that does not grow: growing would leave copies.
pub(super) fn joined(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let mut whole = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| part.len()).sum()));
    for part in parts {
        whole.extend_from_slice(part);
    }
    whole
}

fn encoded(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(vec![0; base64::encoded_len(bytes.len(), true).unwrap_or(0)]);
    let written = STANDARD.encode_slice(bytes, &mut text).unwrap_or(0);
    text.truncate(written);
    text
}
