//! `RuleSet`: rules on their way into a blob, millions of them in little memory.
//!
//! A rule for a name takes 12 bytes and its name; what rules say beyond their hosts and lines, their [`Terms`], is kept once: [`RuleSet::terms`] gives them a number, and
//! [`RuleSet::push`] adds a rule that has them.

use crate::build::BuildError;
use crate::glob::Glob;
use crate::net::Network;
use crate::pattern::Hosts;
use crate::records::{Profiles, Source};
use crate::rules::{Access, PortRange, RuleKind};
use std::collections::{BTreeSet, HashMap};
use std::fmt;

/// What a rule says beyond its hosts and its line.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Terms {
    /// What it does.
    pub access: Access,
    /// Which ports; none means every port.
    pub ports: Vec<PortRange>,
    /// Which methods, such as `GET`; none means every method.
    pub methods: Vec<String>,
    /// Which paths, and what lies below them ([`crate::path::lies_below`]); none means every path.
    pub paths: Vec<String>,
    /// What its author says of it; may be empty.
    pub reason: String,
    /// Where it stands.
    pub source: Source,
    /// Which profiles have it.
    pub profiles: Profiles,
}

impl Terms {
    /// Every port, method and path, and no reason, in the first profile.
    #[must_use]
    pub fn plain(access: Access, source: Source) -> Self {
        let (ports, methods, paths, reason) = (Vec::new(), Vec::new(), Vec::new(), String::new());
        Self { access, ports, methods, paths, reason, source, profiles: Profiles::default() }
    }

    fn without_profiles(&self) -> (Access, &[PortRange], &[String], &[String], &str, &Source) {
        (self.access, &self.ports, &self.methods, &self.paths, &self.reason, &self.source)
    }

    /// In one order, each once.
    fn normalise(&mut self) {
        self.ports.sort_unstable();
        self.ports.dedup();
        for list in [&mut self.methods, &mut self.paths] {
            list.sort_unstable();
            list.dedup();
        }
    }
}

/// Number of terms within a [`RuleSet`]; it means nothing in another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TermsId(pub(crate) u16);

/// Distinct terms that a policy may have.
const MAX_TERMS: usize = u16::MAX as usize;

/// Rules in little memory: for domain lists. A few rules are added to a [`crate::BlobBuilder`] one by one.
#[derive(Debug, Clone, Default)]
pub struct RuleSet {
    terms: Vec<Terms>,
    known: HashMap<Terms, TermsId>,
    /// Names end to end.
    text: Vec<u8>,
    named: Vec<Named>,
    others: Vec<Other>,
}

/// A rule for a name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named {
    pub(crate) at: u32,
    pub(crate) line: u32,
    pub(crate) terms: u16,
    pub(crate) len: u8,
    /// The number of a [`RuleKind`].
    pub(crate) kind: u8,
}

/// A rule for anything else.
#[derive(Debug, Clone)]
pub(crate) struct Other {
    pub(crate) hosts: Unnamed,
    pub(crate) terms: u16,
    pub(crate) line: u32,
}

/// Hosts that are no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unnamed {
    Any,
    Network(Network),
    Glob(Glob),
}

impl fmt::Display for Unnamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Network(network) => network.fmt(f),
            Self::Glob(glob) => f.write_str(glob.text()),
        }
    }
}

/// A rule of a [`RuleSet`].
#[derive(Debug, Clone, Copy)]
pub struct RuleRef<'a> {
    /// Which hosts.
    pub hosts: HostsRef<'a>,
    /// What it says of them.
    pub terms: &'a Terms,
    /// In which line, from 1; 0 when there is none.
    pub line: u32,
}

/// The hosts of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostsRef<'a> {
    /// `*`.
    Any,
    /// A name, and how far the rule reaches: [`RuleKind::Exact`], [`RuleKind::Subdomains`] or [`RuleKind::ApexAndSubdomains`].
    Name(RuleKind, &'a str),
    /// An address or a network.
    Network(Network),
    /// Globs inside labels.
    Glob(&'a Glob),
}

impl<'a> From<&'a Hosts> for HostsRef<'a> {
    fn from(hosts: &'a Hosts) -> Self {
        match hosts {
            Hosts::Any => Self::Any,
            Hosts::Exact(name) => Self::Name(RuleKind::Exact, name.as_str()),
            Hosts::Subdomains(name) => Self::Name(RuleKind::Subdomains, name.as_str()),
            Hosts::ApexAndSubdomains(name) => Self::Name(RuleKind::ApexAndSubdomains, name.as_str()),
            Hosts::Network(network) => Self::Network(*network),
            Hosts::Glob(glob) => Self::Glob(glob),
        }
    }
}

impl fmt::Display for HostsRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, text) = match self {
            Self::Any => ("", "*"),
            Self::Name(RuleKind::Subdomains, name) => ("*.", *name),
            Self::Name(RuleKind::ApexAndSubdomains, name) => ("**.", *name),
            Self::Name(_, name) => ("", *name),
            Self::Network(network) => return network.fmt(f),
            Self::Glob(glob) => ("", glob.text()),
        };
        f.write_str(before)?;
        f.write_str(text)
    }
}

impl RuleSet {
    /// No rules.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.named.len() + self.others.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes terms known; the same terms have the same number.
    ///
    /// # Errors
    /// [`BuildError::TooMany`] of them.
    pub fn terms(&mut self, mut terms: Terms) -> Result<TermsId, BuildError> {
        terms.normalise();
        if let Some(id) = self.known.get(&terms) {
            return Ok(*id);
        }
        let too_many = BuildError::TooMany { what: "kinds of rules", limit: MAX_TERMS };
        let id = u16::try_from(self.terms.len()).ok().filter(|id| usize::from(*id) < MAX_TERMS).map(TermsId).ok_or(too_many)?;
        self.terms.push(terms.clone());
        self.known.insert(terms, id);
        Ok(id)
    }

    /// Adds a rule in `line` of its source, from 1; 0 when there is none.
    ///
    /// # Errors
    /// [`BuildError::TooMany`] bytes in all names together.
    pub fn push(&mut self, hosts: &Hosts, terms: TermsId, line: u32) -> Result<(), BuildError> {
        self.push_ref(hosts.into(), terms, line)
    }

    /// [`Self::push`] for hosts that were checked before: a name has to be as a [`Name`](crate::Name) or a rule of a set has it.
    ///
    /// # Errors
    /// [`BuildError::TooMany`] bytes in all names together.
    pub fn push_ref(&mut self, hosts: HostsRef<'_>, terms: TermsId, line: u32) -> Result<(), BuildError> {
        let hosts = match hosts {
            HostsRef::Name(kind, name) => return self.push_name(kind, name, terms, line),
            HostsRef::Any => Unnamed::Any,
            HostsRef::Network(network) => Unnamed::Network(network),
            HostsRef::Glob(glob) => Unnamed::Glob(glob.clone()),
        };
        self.others.push(Other { hosts, terms: terms.0, line });
        Ok(())
    }

    fn push_name(&mut self, kind: RuleKind, name: &str, terms: TermsId, line: u32) -> Result<(), BuildError> {
        let too_many = BuildError::TooMany { what: "bytes in names", limit: u32::MAX as usize };
        let at = u32::try_from(self.text.len()).map_err(|_| too_many)?;
        // A name has at most 253 bytes.
        let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
        self.text.extend_from_slice(name.as_bytes());
        self.named.push(Named { at, line, terms: terms.0, len, kind: kind as u8 });
        Ok(())
    }

    /// Adds all rules of another set.
    ///
    /// # Errors
    /// [`BuildError::TooMany`] as for single ones.
    pub fn append(&mut self, mut other: Self) -> Result<(), BuildError> {
        if self.is_empty() && self.terms.is_empty() {
            *self = other;
            return Ok(());
        }
        let ids = std::mem::take(&mut other.terms).into_iter().map(|terms| self.terms(terms)).collect::<Result<Vec<_>, _>>()?;
        let mapped = |terms: u16| ids.get(usize::from(terms)).map_or(0, |id| id.0);
        let too_many = BuildError::TooMany { what: "bytes in names", limit: u32::MAX as usize };
        let shift = u32::try_from(self.text.len()).map_err(|_| too_many.clone())?;
        if self.text.len() + other.text.len() > u32::MAX as usize {
            return Err(too_many);
        }
        self.text.append(&mut other.text);
        self.named.extend(other.named.into_iter().map(|rule| Named { at: rule.at + shift, terms: mapped(rule.terms), ..rule }));
        self.others.extend(other.others.into_iter().map(|rule| Other { terms: mapped(rule.terms), ..rule }));
        Ok(())
    }

    /// Gives all rules to these profiles, and to no others.
    pub fn set_profiles(&mut self, profiles: Profiles) {
        self.known.clear();
        for (terms, id) in self.terms.iter_mut().zip(0..) {
            terms.profiles = profiles;
            self.known.insert(terms.clone(), TermsId(id));
        }
    }

    /// Every rule: first those for names, in the order in which they were added, then the others.
    pub fn iter(&self) -> impl Iterator<Item = RuleRef<'_>> {
        self.named.iter().filter_map(|rule| self.named_ref(rule)).chain(self.others.iter().filter_map(|rule| self.other_ref(rule)))
    }

    /// How many rules are for names.
    #[must_use]
    pub fn name_count(&self) -> usize {
        self.named.len()
    }

    /// A rule by its place in the order of [`Self::iter`].
    #[must_use]
    pub fn get(&self, index: usize) -> Option<RuleRef<'_>> {
        match index.checked_sub(self.named.len()) {
            None => self.named_ref(self.named.get(index)?),
            Some(index) => self.other_ref(self.others.get(index)?),
        }
    }

    fn named_ref(&self, rule: &Named) -> Option<RuleRef<'_>> {
        let hosts = HostsRef::Name(RuleKind::from_number(rule.kind)?, std::str::from_utf8(self.name(rule)).ok()?);
        Some(RuleRef { hosts, terms: self.terms_of(rule.terms)?, line: rule.line })
    }

    fn other_ref<'a>(&'a self, rule: &'a Other) -> Option<RuleRef<'a>> {
        let hosts = match &rule.hosts {
            Unnamed::Any => HostsRef::Any,
            Unnamed::Network(network) => HostsRef::Network(*network),
            Unnamed::Glob(glob) => HostsRef::Glob(glob),
        };
        Some(RuleRef { hosts, terms: self.terms_of(rule.terms)?, line: rule.line })
    }

    /// Keeps the rules for which `keep` says so; it is asked in the order of [`Self::iter`].
    pub fn retain(&mut self, mut keep: impl FnMut(usize) -> bool) {
        let mut index = 0;
        let mut next = || {
            index += 1;
            keep(index - 1)
        };
        // Names of rules that go stay in the text, which is thrown away as a whole.
        self.named.retain(|_| next());
        self.others.retain(|_| next());
    }

    /// Makes one rule of those that several profiles have: the same hosts, terms and line.
    pub(crate) fn merge_profiles(&mut self) -> Result<(), BuildError> {
        self.merge_named()?;
        self.merge_others()
    }

    fn merge_named(&mut self) -> Result<(), BuildError> {
        let mut named: Vec<u32> = (0..u32::try_from(self.named.len()).unwrap_or(u32::MAX)).collect();
        let rule = |index: &u32| self.named.get(*index as usize).copied();
        let key = |index: &u32| {
            rule(index).map(|rule| (self.name(&rule), rule.kind, rule.line, self.terms_of(rule.terms).map(Terms::without_profiles)))
        };
        named.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
        let mut merged: Vec<(u32, Terms)> = Vec::new();
        let mut kept = vec![true; self.named.len()];
        for same in named.chunk_by(|a, b| key(a) == key(b)).filter(|same| same.len() > 1) {
            let all = same.iter().filter_map(|index| self.terms_of(rule(index)?.terms));
            let profiles = all.clone().fold(Profiles(0), |all, terms| all.union(terms.profiles));
            let (Some(terms), Some((first, others))) = (all.clone().next(), same.split_first()) else { continue };
            merged.push((*first, Terms { profiles, ..terms.clone() }));
            for index in others {
                kept.get_mut(*index as usize).into_iter().for_each(|kept| *kept = false);
            }
        }
        for (index, terms) in merged {
            let terms = self.terms(terms)?;
            if let Some(rule) = self.named.get_mut(index as usize) {
                rule.terms = terms.0;
            }
        }
        let mut kept = kept.into_iter();
        self.named.retain(|_| kept.next().unwrap_or(true));
        Ok(())
    }

    /// There are few of these, and of equals the terms differ in their profiles only.
    fn merge_others(&mut self) -> Result<(), BuildError> {
        let mut others: Vec<Other> = Vec::with_capacity(self.others.len());
        let mut known: HashMap<(String, u32, Terms), usize> = HashMap::new();
        for rule in std::mem::take(&mut self.others) {
            let Some(terms) = self.terms_of(rule.terms).cloned() else { continue };
            let bare = Terms { profiles: Profiles(0), ..terms.clone() };
            let at = *known.entry((rule.hosts.to_string(), rule.line, bare)).or_insert(others.len());
            let there = others.get(at).and_then(|other| self.terms_of(other.terms)).map(|there| there.profiles.union(terms.profiles));
            match there {
                Some(profiles) => {
                    let id = self.terms(Terms { profiles, ..terms })?.0;
                    others.get_mut(at).into_iter().for_each(|other| other.terms = id);
                }
                None => others.push(rule),
            }
        }
        self.others = others;
        Ok(())
    }

    /// The numbers of terms that a rule has.
    pub(crate) fn used_terms(&self) -> BTreeSet<u16> {
        let mut used = vec![false; self.terms.len()];
        for terms in self.named.iter().map(|rule| rule.terms).chain(self.others.iter().map(|rule| rule.terms)) {
            used.get_mut(usize::from(terms)).into_iter().for_each(|used| *used = true);
        }
        used.iter().zip(0..).filter(|(used, _)| **used).map(|(_, id)| id).collect()
    }

    pub(crate) fn name(&self, rule: &Named) -> &[u8] {
        let at = rule.at as usize;
        self.text.get(at..at + usize::from(rule.len)).unwrap_or_default()
    }

    pub(crate) fn terms_of(&self, id: u16) -> Option<&Terms> {
        self.terms.get(usize::from(id))
    }

    pub(crate) fn named(&self) -> &[Named] {
        &self.named
    }

    pub(crate) fn others(&self) -> &[Other] {
        &self.others
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;
    use crate::records::Layer;

    #[test]
    fn what_is_pushed_is_there_in_its_place() {
        let mut set = RuleSet::new();
        let terms = set.terms(Terms::plain(Access::Deny, Source { layer: Layer::User, label: "list".into() })).unwrap();
        let texts = ["10.0.0.0/8", "a.test", "*", "**.b.test", "x*.c.test", "*.d.test"];
        let all: Vec<Hosts> = texts.iter().map(|text| Pattern::parse(text).unwrap().hosts).collect();
        for (line, hosts) in (1..).zip(&all) {
            set.push(hosts, terms, line).unwrap();
        }
        let shown = |set: &RuleSet| set.iter().map(|rule| format!("{} {}", rule.line, rule.hosts)).collect::<Vec<_>>();
        let expected = ["2 a.test", "4 **.b.test", "6 *.d.test", "1 10.0.0.0/8", "3 *", "5 x*.c.test"];
        assert_eq!((shown(&set), set.name_count(), set.len()), (expected.map(str::to_owned).to_vec(), 3, 6));
        for (index, rule) in set.iter().enumerate() {
            assert_eq!(set.get(index).map(|same| (same.hosts, same.line)), Some((rule.hosts, rule.line)), "{index}");
            assert_eq!(rule.hosts, HostsRef::from(&all[rule.line as usize - 1]));
        }
        assert!(set.get(6).is_none());
        // Rules of one set are as good as patterns.
        let mut copy = RuleSet::new();
        let terms = copy.terms(Terms::plain(Access::Allow, Source { layer: Layer::User, label: "copy".into() })).unwrap();
        set.iter().try_for_each(|rule| copy.push_ref(rule.hosts, terms, rule.line)).unwrap();
        assert_eq!(shown(&copy), shown(&set));
        assert!(copy.iter().all(|rule| rule.terms.access == Access::Allow));
    }
}
