//! Decision, Reason, Source: closed enums and small ids.
//!
//! They are exhaustive on purpose: a new outcome breaks the build of whoever must handle it.

use crate::rules::RuleId;
use std::fmt;

/// What a policy says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It may go on.
    Allow(Allowed),
    /// It may not.
    Deny(Denied),
}

/// Under which terms a request may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// The rule that allows it; `u32::MAX`, which no rule has, where none does and somebody beside the policy has it allowed.
    pub rule: RuleId,
    /// Only GET, HEAD and OPTIONS: nothing that cannot be read may follow.
    pub read_only: bool,
    /// Only for tunnels: it may go on only if its TLS is opened here and each request in it is decided. What is no TLS in it may not go on
    /// ([`Reason::MitmRequired`]).
    pub intercept: bool,
    /// The hook that matches a request inside TLS: its place in [`Blob::hooks`](crate::Blob::hooks). It says what becomes of headers.
    pub hook: Option<usize>,
    /// Neither its method nor its path had a say: any other request of its protocol to the same host and port, over the same addresses, is allowed under the same terms, for
    /// as long as the policy, the mode and what was granted stay what they are.
    pub unconditional: bool,
}

/// Why a request may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// Why.
    pub reason: Reason,
    /// The rule that says so, if one does.
    pub rule: Option<RuleId>,
}

/// Why a request may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The policy is off.
    ProxyDisabled,
    /// A deny rule.
    Denied,
    /// An address that is not public, and that no rule opens.
    NotAllowedLocal,
    /// No allow rule.
    NotAllowed,
    /// A method that writes, where only reading is allowed.
    MethodNotAllowed,
    /// Traffic that cannot be read, where only reading is allowed.
    MitmRequired,
    /// A hooked host, and no hook matches.
    MitmHookDenied,
    /// Anything else that the policy forbids.
    PolicyDenied,
}

/// Which part of the system decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The rules.
    BaselinePolicy,
    /// The mode.
    ModeGuard,
    /// The proxy's own state.
    ProxyState,
    /// An embedding program.
    Decider,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::ProxyDisabled,
        Self::Denied,
        Self::NotAllowedLocal,
        Self::NotAllowed,
        Self::MethodNotAllowed,
        Self::MitmRequired,
        Self::MitmHookDenied,
        Self::PolicyDenied,
    ];

    /// The name used in replies and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProxyDisabled => "proxy_disabled",
            Self::Denied => "denied",
            Self::NotAllowedLocal => "not_allowed_local",
            Self::NotAllowed => "not_allowed",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::MitmRequired => "mitm_required",
            Self::MitmHookDenied => "mitm_hook_denied",
            Self::PolicyDenied => "policy_denied",
        }
    }

    /// The value of `x-proxy-error`.
    #[must_use]
    pub fn proxy_error(self) -> &'static str {
        match self {
            Self::ProxyDisabled | Self::PolicyDenied => "blocked-by-policy",
            Self::Denied => "blocked-by-denylist",
            Self::NotAllowedLocal | Self::NotAllowed => "blocked-by-allowlist",
            Self::MethodNotAllowed => "blocked-by-method-policy",
            Self::MitmRequired => "blocked-by-mitm-required",
            Self::MitmHookDenied => "blocked-by-mitm-hook",
        }
    }

    /// Which part of the system decides for this reason.
    #[must_use]
    pub fn source(self) -> Source {
        match self {
            Self::ProxyDisabled => Source::ProxyState,
            Self::MethodNotAllowed | Self::MitmRequired => Source::ModeGuard,
            Self::Denied | Self::NotAllowedLocal | Self::NotAllowed | Self::MitmHookDenied | Self::PolicyDenied => Source::BaselinePolicy,
        }
    }
}

impl Source {
    /// The name used in replies and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BaselinePolicy => "baseline_policy",
            Self::ModeGuard => "mode_guard",
            Self::ProxyState => "proxy_state",
            Self::Decider => "decider",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
