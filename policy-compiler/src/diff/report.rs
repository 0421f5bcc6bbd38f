//! What a comparison found.

use super::{AddressSet, Direction, HostSet, SettingChange, Shown, Surface};
use crate::profiles::Profile;
use policy_format::{Host, Protocol, Request, net};
use std::net::IpAddr;

/// What changes between two policies.
#[derive(Debug, Clone, Default)]
pub struct Diff {
    /// Profiles that only one of the policies has.
    pub profiles: ProfileNames,
    /// Settings that changed, in the order of their keys.
    pub settings: Vec<SettingChange>,
    /// What is newly reachable, and what no longer is: for requests whose names are not resolved yet.
    pub changes: Vec<Change>,
    /// Where names that both policies allow may newly lead, or no longer.
    pub resolutions: Vec<Resolution>,
    /// Kinds of hosts some requests to which are blocked under both policies, but for different reasons.
    pub blocked_otherwise: usize,
}

/// The names of profiles that only one of two policies has. A profile that is compared is none of them: that it has another name is a setting that changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProfileNames {
    /// Only in the old one, in its order.
    pub only_old: Vec<String>,
    /// Only in the new one, in its order.
    pub only_new: Vec<String>,
}

impl ProfileNames {
    pub(super) fn compare<B: AsRef<[u8]>>(old: Profile<'_, B>, new: Profile<'_, B>) -> Self {
        let without = |of: Profile<'_, B>, others: Profile<'_, B>| -> Vec<String> {
            let names = of.blob().profiles().iter().map(|meta| &meta.profile).filter(|name| **name != of.meta().profile);
            names.filter(|name| others.blob().profile(name).is_none()).cloned().collect()
        };
        Self { only_old: without(old, new), only_new: without(new, old) }
    }

    /// Whether both have the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.only_old.is_empty() && self.only_new.is_empty()
    }
}

/// Whether something became reachable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// It was blocked and is allowed.
    Opened,
    /// It was allowed and is blocked.
    Closed,
}

/// A rule, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShownRule {
    /// Such as `deny *.example.com`.
    pub text: String,
    /// Such as `user config.toml:12`.
    pub place: String,
}

/// What makes the difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A setting, a hook, or rules that both policies have and that other changes uncover.
    Other,
    /// A rule that only the new policy has.
    Added(ShownRule),
    /// A rule that only the old policy has.
    Removed(ShownRule),
}

/// What one policy says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `allow`, `allow read-only`, or the reason of a denial.
    pub text: String,
    /// The rule that says so, if one does.
    pub rule: Option<ShownRule>,
}

/// A request that one policy allows and the other does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// How the client asks.
    pub protocol: Protocol,
    /// For which host.
    pub host: Host,
    /// On which port.
    pub port: u16,
    /// With which method, if the request is a plain one.
    pub method: Option<String>,
    /// For which path, if the request is a plain one.
    pub path: Option<String>,
    /// To which address the name leads, where that matters.
    pub address: Option<IpAddr>,
    /// What the old policy says.
    pub old: Verdict,
    /// What the new policy says.
    pub new: Verdict,
}

/// Requests that one change of the policy opened or closed.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which of the two.
    pub reach: Reach,
    /// The hosts.
    pub hosts: HostSet,
    /// The ports, methods and paths.
    pub surfaces: Vec<Surface>,
    /// What makes the difference.
    pub cause: Cause,
    /// One of the requests.
    pub witness: Witness,
}

/// Names, as the step for addresses tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NameKind {
    /// Most names.
    Ordinary,
    /// `localhost`, and names below it.
    Localhost,
    /// A cloud metadata service.
    Metadata,
}

/// Addresses that names may lead to under one policy only, although both allow the names.
#[derive(Debug, Clone)]
pub struct Resolution {
    /// Whether names may now lead there, or no longer.
    pub reach: Reach,
    /// Which names.
    pub names: NameKind,
    /// The addresses.
    pub addresses: AddressSet,
    /// The addresses in few words.
    pub shown: Shown,
    /// The ports, methods and paths.
    pub surfaces: Vec<Surface>,
    /// What makes the difference.
    pub cause: Cause,
    /// One of the requests.
    pub witness: Witness,
}

impl NameKind {
    pub(super) fn of(host: &Host) -> Option<Self> {
        let name = host.name()?.as_str();
        Some(if host.is_localhost() {
            Self::Localhost
        } else if net::is_metadata_name(name) {
            Self::Metadata
        } else {
            Self::Ordinary
        })
    }
}

impl Diff {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.profiles.is_empty() && self.settings.is_empty() && self.changes.is_empty() && self.resolutions.is_empty()
    }

    /// Whether anything opened, or a setting became looser.
    #[must_use]
    pub fn widens(&self) -> bool {
        self.settings.iter().any(|change| change.direction == Direction::Looser)
            || self.changes.iter().any(|change| change.reach == Reach::Opened)
            || self.resolutions.iter().any(|change| change.reach == Reach::Opened)
    }

    /// What becomes of a request: with no address, as it stands; with addresses, when its name leads there, if both policies allow it as it stands.
    #[must_use]
    pub fn at(&self, request: &Request<'_>) -> Option<Reach> {
        let holds = |surfaces: &[Surface]| surfaces.iter().any(|surface| surface.holds(request));
        if request.addresses.is_empty() {
            return self
                .changes
                .iter()
                .find(|change| change.hosts.holds(request.host) && holds(&change.surfaces))
                .map(|change| change.reach);
        }
        let kind = NameKind::of(request.host)?;
        let inside = |change: &Resolution| {
            change.names == kind && request.addresses.iter().any(|ip| change.addresses.holds(*ip)) && holds(&change.surfaces)
        };
        self.resolutions.iter().find(|change| inside(change)).map(|change| change.reach)
    }
}
