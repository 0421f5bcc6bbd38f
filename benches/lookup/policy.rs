//! The policy blob as a structure of this bench: how it is built from rules, and how it is asked. What changes with the library's API is here and nowhere else.

use crate::structures::{Answer, Lookup};
use netpolicy_benches::domains::{Rules, value};
use policy_format::{
    Access, Blob, BlobBuilder, Closest, Decision, Host, Layer, Meta, Pattern, ProfileId, Protocol, Request, RuleId, RuleSet, SectionKind,
    Source, Terms, decide,
};
use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;

/// A policy of nothing but the rules.
pub(crate) struct Policy {
    blob: Blob<Aligned>,
    /// Values of the rules by their numbers in the blob, read out of it when they are first wanted.
    values: OnceCell<Vec<u32>>,
}

impl Policy {
    /// Builds and opens. An attribute is the text of a rule's reason; a rule's line is its place in the set.
    pub(crate) fn new(rules: &Rules) -> Self {
        let (mut set, mut known) = (RuleSet::new(), HashMap::new());
        let source = Source { layer: Layer::User, label: "rules.txt".into() };
        for (line, rule) in (1..).zip(rules.iter()) {
            let pattern = Pattern::parse(&format!("{}{}", rule.reach.prefix(), rule.name)).unwrap();
            let access = if rule.allow { Access::Allow } else { Access::Deny };
            let terms = *known.entry((access, rule.attribute)).or_insert_with(|| {
                set.terms(Terms { reason: rule.attribute.to_string(), ..Terms::plain(access, source.clone()) }).unwrap()
            });
            set.push(&pattern.hosts, terms, line).unwrap();
        }
        let mut builder = BlobBuilder::new(Meta::default());
        builder.rules(set);
        let blob = Aligned::new(builder.build().unwrap());
        Self { blob: Blob::open(blob).unwrap(), values: OnceCell::new() }
    }

    /// The lookup that is measured.
    #[inline]
    fn closest(&self, host: &Host) -> Closest {
        host.name().map(|name| self.blob.closest(name)).unwrap_or_default()
    }

    fn decide(&self, host: &Host) -> Option<RuleId> {
        let request = Request {
            profile: ProfileId::default(),
            protocol: Protocol::Connect,
            host,
            port: 443,
            method: None,
            path: None,
            addresses: &[],
            inside: None,
            can_intercept: false,
        };
        match decide(&self.blob, &request) {
            Decision::Allow(allowed) => Some(allowed.rule),
            Decision::Deny(denied) => denied.rule,
        }
    }

    /// What the rule is in the set: its access and its reason as the blob has them.
    fn value(&self, id: Option<RuleId>) -> u32 {
        let values = self.values.get_or_init(|| {
            let last = self.blob.rule_ids().map(|id| id.0).max().unwrap_or(0);
            let mut values = vec![0; last as usize + 1];
            for rule in self.blob.rule_ids().map(|id| self.blob.rule(id).unwrap()) {
                values[rule.id.0 as usize] = value(rule.reason.parse().unwrap(), rule.access == Access::Allow);
            }
            values
        });
        id.map_or(0, |id| values[id.0 as usize])
    }

    /// Bytes of the blob.
    pub(crate) fn len(&self) -> usize {
        self.blob.as_bytes().len()
    }

    /// What the sections of the blob take, in bytes; the empty ones are left out.
    pub(crate) fn sections(&self) -> Vec<(String, usize)> {
        let sections = SectionKind::ALL.into_iter().map(|kind| (kind.to_string(), self.blob.section(kind).len()));
        sections.filter(|(_, bytes)| *bytes > 0).collect()
    }
}

/// Bytes at the beginning of a cache line, as a map of a file has them.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(blob: Vec<u8>) -> Self {
        const LINE: usize = 64;
        let mut bytes: Vec<u8> = Vec::with_capacity(blob.len() + LINE);
        let start = bytes.as_ptr().align_offset(LINE);
        bytes.resize(start, 0);
        bytes.extend(blob);
        Self { bytes, start }
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..]
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
