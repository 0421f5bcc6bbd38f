//! Which mode is in force: the policy's own, or one that whoever runs the proxy has set, held to what administrators require.

use super::{Bytes, meta};
use policy_format::{Blob, Layer, Mode, ProfileId};

/// Why a policy stays in limited mode, whoever wants another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// A requirement of that layer, an administrators', says so.
    Required(Layer),
    /// The policy says limited, and does not say whether a requirement does: who does not know is not looser.
    Unknown,
}

/// What holds a profile in limited mode; nothing where its own is the other one.
pub(super) fn hold(blob: &Blob<Bytes>, profile: ProfileId) -> Option<Hold> {
    if meta(blob, profile).mode == Mode::Full {
        return None;
    }
    match blob.constraints(profile) {
        Some(constraints) => constraints.mode_required.map(Hold::Required),
        None => Some(Hold::Unknown),
    }
}

/// The mode that stands in the place of a profile's own, where one is `wanted`. `None`: its own holds.
pub(super) fn instead(blob: &Blob<Bytes>, profile: ProfileId, wanted: Option<Mode>) -> Option<Mode> {
    let own = meta(blob, profile).mode;
    wanted.filter(|wanted| *wanted != own && (*wanted == Mode::Limited || hold(blob, profile).is_none()))
}
