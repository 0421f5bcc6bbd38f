//! What policies and rules are called: of generations and numbers, which events have, the text that is told.

use super::record::{Event, Kind, Label, PolicyName, RuleName};
use crate::policy::Snapshot;
use policy_format::RuleId;
use std::collections::HashMap;
use std::sync::Arc;

/// Rules of one policy whose text is kept. They are spelt out anew when there are more.
const RULES: usize = 4096;
/// Policies that are not in force any more and whose names are kept, for what ends later.
const POLICIES: usize = 256;

/// The policies that events may speak of.
#[derive(Default)]
pub(super) struct Policies {
    /// By generation, the newest last.
    known: Vec<Known>,
}

struct Known {
    name: Arc<PolicyName>,
    /// As long as there may be decisions by it that are not told.
    snapshot: Option<Arc<Snapshot>>,
    labels: HashMap<RuleId, Arc<Label>>,
    /// The rule that was asked for last, which is what is asked for next as often as not; and what is said where there is none, as of an end.
    last: Option<(RuleId, Arc<Label>)>,
    none: Option<Arc<Label>>,
}

impl Policies {
    /// From now on, events may speak of it.
    pub(super) fn add(&mut self, snapshot: Arc<Snapshot>) {
        let name = PolicyName {
            generation: snapshot.generation(),
            digest: snapshot.digest().to_string(),
            profile: snapshot.meta().profile.clone(),
            mode: snapshot.mode(),
        };
        if self.known.len() >= POLICIES {
            self.known.remove(0);
        }
        self.known.push(Known { name: Arc::new(name), snapshot: Some(snapshot), labels: HashMap::new(), last: None, none: None });
    }

    /// Policies of which no more decisions can come than there are in the queue now.
    pub(super) fn retired(&self) -> Vec<u64> {
        let (_, old) = self.known.split_last().map_or((None, &[][..]), |(last, old)| (Some(last), old));
        let nobody_else = |known: &&Known| known.snapshot.as_ref().is_some_and(|snapshot| Arc::strong_count(snapshot) == 1);
        old.iter().filter(nobody_else).map(|known| known.name.generation).collect()
    }

    /// Keeps of them what they are called, and no more.
    pub(super) fn retire(&mut self, generations: &[u64]) {
        for known in self.known.iter_mut().filter(|known| generations.contains(&known.name.generation)) {
            (known.snapshot, known.last) = (None, None);
            known.labels.clear();
        }
    }

    /// Puts into an event what it speaks of.
    pub(super) fn label(&mut self, event: &mut Event) {
        let Some(generation) = event.kind.generation() else { return };
        // An end speaks of a policy; its decision says of which rule.
        let rule = event.kind.judged().and_then(|judged| judged.rule);
        let known = self.known.iter_mut().rev().find(|known| known.name.generation == generation);
        event.label = known.map(|known| known.label(rule));
    }

    /// The same for what speaks of the policy in force without its number.
    pub(super) fn label_current(&mut self, event: &mut Event) {
        if matches!(event.kind, Kind::Stop | Kind::Policy(_)) && event.label.is_none() {
            event.label = self.known.last_mut().map(|known| known.label(None));
        }
    }
}

impl Known {
    fn label(&mut self, rule: Option<RuleId>) -> Arc<Label> {
        let Some(rule) = rule else {
            return Arc::clone(self.none.get_or_insert_with(|| Arc::new(spell(&self.name, None, None))));
        };
        if let Some((last, label)) = &self.last
            && *last == rule
        {
            return Arc::clone(label);
        }
        if self.labels.len() >= RULES {
            self.labels.clear();
        }
        let spell = || Arc::new(spell(&self.name, self.snapshot.as_deref(), Some(rule)));
        let label = Arc::clone(self.labels.entry(rule).or_insert_with(spell));
        self.last = Some((rule, Arc::clone(&label)));
        label
    }
}

fn spell(name: &Arc<PolicyName>, snapshot: Option<&Snapshot>, rule: Option<RuleId>) -> Label {
    let spelt = rule.and_then(|id| Some((id, snapshot?.rule(id)?)));
    let rule = spelt.map(|(id, rule)| RuleName {
        id: id.0,
        pattern: rule.to_string(),
        layer: rule.layer.as_str(),
        place: if rule.line == 0 { rule.label.clone() } else { format!("{}:{}", rule.label, rule.line) },
        reason: rule.reason,
    });
    let json = super::json::label(name, rule.as_ref());
    Label { policy: Arc::clone(name), rule, json: json.into() }
}
