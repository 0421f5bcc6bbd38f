//! The policy blob as a structure of this bench: how it is built from rules, and how it is asked. What changes with the library's API is here and nowhere else.

use crate::structures::{Answer, Lookup};
use netpolicy_benches::domains::{Rules, allows, value};
use policy_format::{
    Access, Blob, BlobBuilder, Decision, Host, Layer, Meta, Pattern, Protocol, Request, RuleId, RuleInput, SectionKind, Source, decide,
    named_by,
};
use std::cell::OnceCell;
use std::rc::Rc;

/// The most specific rule of each access that names a host, by its name alone.
#[derive(Clone, Copy, Default)]
pub(crate) struct Closest {
    allow: Option<RuleId>,
    deny: Option<RuleId>,
}

/// A policy of nothing but the rules.
pub(crate) struct Policy {
    blob: Blob<Box<[u8]>>,
    /// Values of the rules by their numbers in the blob, read out of it when they are first wanted.
    values: OnceCell<Vec<u32>>,
}

impl Policy {
    /// Builds and opens. An attribute is the text of a rule's reason; a rule's line is its place in the set.
    pub(crate) fn new(rules: &Rules) -> Self {
        let mut builder = BlobBuilder::new(Meta::default());
        let source = Source { layer: Layer::User, label: "rules.txt".into() };
        for (line, rule) in (1..).zip(rules.iter()) {
            let pattern = Pattern::parse(&format!("{}{}", rule.reach.prefix(), rule.name)).unwrap();
            let access = if rule.allow { Access::Allow } else { Access::Deny };
            builder.rule(RuleInput { reason: rule.attribute.to_string(), ..RuleInput::new(pattern, access, source.clone(), line) });
        }
        Self { blob: Blob::open(builder.build().unwrap().into_boxed_slice()).unwrap(), values: OnceCell::new() }
    }

    /// The lookup that is measured.
    fn closest(&self, host: &Host) -> Closest {
        let request = Request { protocol: Protocol::Connect, host, port: 443, method: None, path: None, addresses: &[] };
        let mut closest = Closest::default();
        // The closest come first.
        for named in named_by(&self.blob, &request) {
            let place = if allows(self.value(Some(named.rule))) { &mut closest.allow } else { &mut closest.deny };
            place.get_or_insert(named.rule);
        }
        closest
    }

    fn decide(&self, host: &Host) -> Option<RuleId> {
        let request = Request { protocol: Protocol::Connect, host, port: 443, method: None, path: None, addresses: &[] };
        match decide(&self.blob, &request) {
            Decision::Allow(allowed) => Some(allowed.rule),
            Decision::Deny(denied) => denied.rule,
        }
    }

    /// What the rule is in the set: its access and its reason as the blob has them.
    fn value(&self, id: Option<RuleId>) -> u32 {
        let values = self.values.get_or_init(|| {
            let mut values = vec![0; self.blob.rule_count() as usize];
            for rule in self.blob.rules() {
                values[rule.id.0 as usize] = value(rule.reason.parse().unwrap(), rule.access == Access::Allow);
            }
            values
        });
        id.map_or(0, |id| values[id.0 as usize])
    }

    /// What the sections of the blob take, in bytes; the empty ones are left out.
    pub(crate) fn sections(&self) -> Vec<(String, usize)> {
        let sections = SectionKind::ALL.into_iter().map(|kind| (kind.to_string(), self.blob.section(kind).len()));
        sections.filter(|(_, bytes)| *bytes > 0).collect()
    }
}

/// A rule's number as the result of a lookup; 0 for none.
fn number(id: Option<RuleId>) -> u32 {
    id.map_or(0, |id| id.0 + 1)
}

/// `blob`: names alone.
pub(crate) struct Named(pub(crate) Rc<Policy>);

impl Lookup for Named {
    #[inline]
    fn look(&self, host: &Host, _: &str) -> u32 {
        let closest = self.0.closest(host);
        number(closest.allow) ^ number(closest.deny).rotate_left(16)
    }

    fn answer(&self, host: &Host, _: &str) -> Answer {
        let closest = self.0.closest(host);
        Answer::Both { allow: self.0.value(closest.allow), deny: self.0.value(closest.deny) }
    }
}

/// `decide`: a whole decision on a tunnel to port 443.
pub(crate) struct Decided(pub(crate) Rc<Policy>);

impl Lookup for Decided {
    #[inline]
    fn look(&self, host: &Host, _: &str) -> u32 {
        number(self.0.decide(host))
    }

    fn answer(&self, host: &Host, _: &str) -> Answer {
        Answer::Decision(self.0.value(self.0.decide(host)))
    }
}
