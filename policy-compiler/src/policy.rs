//! `Policy`: the type that cannot be wrong. Only `check.rs` makes one.

use policy_format::{Hook, Meta, RuleInput, RuleSet, Settings};

/// A checked policy: settings, and rules with their origins.
#[derive(Debug, Clone)]
pub struct Policy {
    meta: Meta,
    settings: Settings,
    rules: Vec<RuleInput>,
    listed: RuleSet,
    hooks: Vec<Hook>,
}

impl Policy {
    pub(crate) fn new(meta: Meta, settings: Settings, rules: Vec<RuleInput>, listed: RuleSet, hooks: Vec<Hook>) -> Self {
        Self { meta, settings, rules, listed, hooks }
    }

    /// Settings.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Settings beyond the rules.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Rules of layers, of presets, and those that requirements demand.
    #[must_use]
    pub fn rules(&self) -> &[RuleInput] {
        &self.rules
    }

    /// Rules of domain lists.
    #[must_use]
    pub fn listed(&self) -> &RuleSet {
        &self.listed
    }

    /// Hooks, in the order in which they are tried.
    #[must_use]
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    pub(crate) fn into_parts(self) -> (Meta, Settings, Vec<RuleInput>, RuleSet, Vec<Hook>) {
        (self.meta, self.settings, self.rules, self.listed, self.hooks)
    }
}
