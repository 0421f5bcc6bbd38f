//! `Policy`: the type that cannot be wrong. Only `check.rs` makes one.

use policy_format::{Meta, RuleInput};

/// A checked policy: settings, and rules with their origins.
#[derive(Debug, Clone)]
pub struct Policy {
    meta: Meta,
    rules: Vec<RuleInput>,
}

impl Policy {
    pub(crate) fn new(meta: Meta, rules: Vec<RuleInput>) -> Self {
        Self { meta, rules }
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

    pub(crate) fn into_parts(self) -> (Meta, Vec<RuleInput>) {
        (self.meta, self.rules)
    }
}
