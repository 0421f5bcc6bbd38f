//! `Policy`: the type that cannot be wrong. Only `check.rs` makes one.

use policy_format::{Hook, Meta, RuleInput};

/// A checked policy: settings, and rules with their origins.
#[derive(Debug, Clone)]
pub struct Policy {
    meta: Meta,
    rules: Vec<RuleInput>,
    hooks: Vec<Hook>,
}

impl Policy {
    pub(crate) fn new(meta: Meta, rules: Vec<RuleInput>, hooks: Vec<Hook>) -> Self {
        Self { meta, rules, hooks }
    }

    /// Settings.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Rules.
    #[must_use]
    pub fn rules(&self) -> &[RuleInput] {
        &self.rules
    }

    /// Hooks, in the order in which they are tried.
    #[must_use]
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    pub(crate) fn into_parts(self) -> (Meta, Vec<RuleInput>, Vec<Hook>) {
        (self.meta, self.rules, self.hooks)
    }
}
