//! What became of a request, as decisions are counted by it.

use crate::audit::event::Answer;
use policy_format::{Decision, Protocol, Reason};

/// What became of a request, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Allowed,
    Denied(Reason),
    /// The embedding program's word.
    Said(Said),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Allow,
    Deny,
    Ask,
}

impl Outcome {
    pub(super) const COUNT: usize = 1 + Reason::ALL.len() + 3;

    pub(super) fn of(decision: Decision, decider: Option<&Answer>) -> Self {
        match (decider, decision) {
            (Some(Answer::Allow), _) => Self::Said(Said::Allow),
            (Some(Answer::Deny(_)), _) => Self::Said(Said::Deny),
            (Some(Answer::Ask(_)), _) => Self::Said(Said::Ask),
            (None, Decision::Allow(_)) => Self::Allowed,
            (None, Decision::Deny(denied)) => Self::Denied(denied.reason),
        }
    }

    /// In the order of their rows.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let said = [Said::Allow, Said::Deny, Said::Ask];
        std::iter::once(Self::Allowed).chain(Reason::ALL.map(Self::Denied)).chain(said.map(Self::Said))
    }

    pub(super) fn row(self) -> usize {
        match self {
            Self::Allowed => 0,
            Self::Denied(reason) => 1 + Reason::ALL.iter().position(|other| *other == reason).unwrap_or_default(),
            Self::Said(said) => 1 + Reason::ALL.len() + said as usize,
        }
    }

    pub(super) fn labels(self) -> String {
        match self {
            Self::Allowed => r#"decision="allow""#.to_owned(),
            Self::Denied(reason) => format!(r#"decision="deny",reason="{reason}""#),
            Self::Said(Said::Allow) => r#"decision="allow",reason="decider""#.to_owned(),
            Self::Said(Said::Deny) => r#"decision="deny",reason="decider""#.to_owned(),
            Self::Said(Said::Ask) => r#"decision="ask",reason="decider""#.to_owned(),
        }
    }

    /// Whether it is shown before it has happened: what a protocol never comes to is not.
    pub(super) fn is_shown(self, protocol: Protocol) -> bool {
        let tunnel = matches!(protocol, Protocol::Connect | Protocol::Socks5Tcp);
        match self {
            Self::Denied(Reason::MethodNotAllowed) => matches!(protocol, Protocol::Http | Protocol::Https),
            Self::Denied(Reason::MitmHookDenied) => protocol == Protocol::Https,
            Self::Denied(Reason::MitmRequired) => tunnel,
            Self::Denied(Reason::ProxyDisabled | Reason::Denied | Reason::NotAllowedLocal | Reason::NotAllowed | Reason::PolicyDenied)
            | Self::Allowed => true,
            // Most programs have no decider.
            Self::Said(_) => false,
        }
    }
}
