//! The rules of domain lists, millions of them in little memory, and which of them speak of given hosts.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use policy_format::glob::Glob;
use policy_format::net::Network;
use policy_format::{Access, BuildError, HostsRef, MAX_GLOBS, RuleKind, RuleRef, RuleSet, Source, Terms, TermsId};
use std::hash::{BuildHasher, RandomState};

/// Rules with the same terms, one for the same hosts: the first.
pub(super) struct Listed {
    rules: RuleSet,
    access: Access,
    terms: TermsId,
    hasher: RandomState,
    /// By hosts: the places of rules for names, and those of others behind the names.
    names: HashTable<Slot>,
    others: HashTable<Slot>,
}

/// The place of a rule, and the hash of its hosts: memory that is far away is only asked for if that is the same, and never when the table grows.
#[derive(Debug, Clone, Copy)]
struct Slot {
    hash: u32,
    place: u32,
}

impl Slot {
    fn new(hash: u32, place: usize) -> Self {
        // There are no more rules than bytes of text in a list, which 32 bits count.
        Self { hash, place: u32::try_from(place).unwrap_or(u32::MAX) }
    }
}

impl Listed {
    /// No rules.
    ///
    /// # Errors
    /// [`BuildError`] as for a [`RuleSet`].
    pub(super) fn new(access: Access, source: Source) -> Result<Self, BuildError> {
        let mut rules = RuleSet::new();
        let terms = rules.terms(Terms::plain(access, source))?;
        Ok(Self { rules, access, terms, hasher: RandomState::new(), names: HashTable::new(), others: HashTable::new() })
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }

    pub(super) fn rules(&self) -> &RuleSet {
        &self.rules
    }

    pub(super) fn into_rules(self) -> RuleSet {
        self.rules
    }

    /// Adds a rule, unless there is one for these hosts.
    pub(super) fn add(&mut self, hosts: HostsRef<'_>, line: u32) -> Result<(), BuildError> {
        self.add_hashed(hash(&self.hasher, hosts), hosts, line)
    }

    fn add_hashed(&mut self, hash: u32, hosts: HostsRef<'_>, line: u32) -> Result<(), BuildError> {
        let Self { rules, names, others, terms, .. } = self;
        let (table, first, count) =
            if is_name(hosts) { (names, 0, rules.name_count()) } else { (others, rules.name_count(), rules.len() - rules.name_count()) };
        let same = |slot: &Slot| slot.hash == hash && rules.get(first + slot.place as usize).is_some_and(|rule| rule.hosts == hosts);
        if let Entry::Vacant(free) = table.entry(spread(hash), same, |slot| spread(slot.hash)) {
            rules.push_ref(hosts, *terms, line)?;
            free.insert(Slot::new(hash, count));
        }
        Ok(())
    }

    /// Keeps the rules for which `keep` says so; they are in the order of [`RuleSet::iter`].
    pub(super) fn retain(&mut self, keep: &[bool]) {
        if keep.iter().all(|keep| *keep) {
            return;
        }
        self.rules.retain(|index| keep.get(index).copied().unwrap_or(true));
        self.names.clear();
        self.others.clear();
        let names = self.rules.name_count();
        for (index, rule) in self.rules.iter().enumerate() {
            let hash = hash(&self.hasher, rule.hosts);
            match index.checked_sub(names) {
                None => self.names.insert_unique(spread(hash), Slot::new(hash, index), |slot| spread(slot.hash)),
                Some(index) => self.others.insert_unique(spread(hash), Slot::new(hash, index), |slot| spread(slot.hash)),
            };
        }
    }

    /// The rule for exactly these hosts, by its place in [`RuleSet::iter`].
    fn find(&self, hosts: HostsRef<'_>) -> Option<usize> {
        self.find_hashed(hash(&self.hasher, hosts), hosts)
    }

    fn find_hashed(&self, hash: u32, hosts: HostsRef<'_>) -> Option<usize> {
        let (table, first) = if is_name(hosts) { (&self.names, 0) } else { (&self.others, self.rules.name_count()) };
        let rule = |slot: &Slot| self.rules.get(first + slot.place as usize);
        let found = table.find(spread(hash), |slot| slot.hash == hash && rule(slot).is_some_and(|rule| rule.hosts == hosts));
        found.map(|slot| first + slot.place as usize)
    }

    /// The rules for anything but names, with their places.
    fn others(&self) -> impl Iterator<Item = RuleRef<'_>> {
        (self.rules.name_count()..self.rules.len()).filter_map(|index| self.rules.get(index))
    }

    /// The first rule for a name that has in it what `kind` says of a name: `suffix` is that name, or one that it is below.
    fn around_name(&self, suffix: &str, kind: RuleKind, same: bool) -> Option<RuleRef<'_>> {
        let narrow = if same { kind } else { RuleKind::Subdomains };
        let places = [narrow, RuleKind::ApexAndSubdomains].into_iter().filter_map(|kind| self.find(HostsRef::Name(kind, suffix)));
        self.rules.get(places.min()?)
    }

    fn around_network(&self, inner: Network) -> Option<RuleRef<'_>> {
        if self.others.is_empty() {
            return None;
        }
        let around = (0..=inner.prefix()).filter_map(|prefix| Network::new(inner.addr(), prefix));
        self.rules.get(around.filter_map(|network| self.find(HostsRef::Network(network))).min()?)
    }
}

fn is_name(hosts: HostsRef<'_>) -> bool {
    matches!(hosts, HostsRef::Name(..))
}

/// With a key of its own for every list, so that nobody can write one that collides.
fn hash(hasher: &RandomState, hosts: HostsRef<'_>) -> u32 {
    let hash = match hosts {
        HostsRef::Any => hasher.hash_one(0_u8),
        HostsRef::Name(kind, name) => hasher.hash_one((kind as u8, name)),
        HostsRef::Network(network) => hasher.hash_one(network),
        HostsRef::Glob(glob) => hasher.hash_one(glob.text()),
    };
    (hash >> 32) as u32
}

/// A table takes the place of an entry from the lowest bits and tells neighbours apart by the highest.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Several lists that are asked together. Asking costs the labels of a name or the bits of a network, for each list; only globs are tried one by one, and of
/// those no more than a policy may have.
#[derive(Default)]
pub(super) struct Lists<'l> {
    lists: Vec<&'l Listed>,
    globs: Vec<(&'l Glob, RuleRef<'l>)>,
}

impl<'l> Lists<'l> {
    /// With as many of their globs as there is room for.
    pub(super) fn new(lists: impl IntoIterator<Item = &'l Listed>, room: usize) -> Self {
        let lists: Vec<&Listed> = lists.into_iter().collect();
        let globs = lists.iter().flat_map(|list| list.others()).filter_map(|rule| match rule.hosts {
            HostsRef::Glob(glob) => Some((glob, rule)),
            _ => None,
        });
        let globs = globs.take(room).collect();
        Self { lists, globs }
    }

    /// With all globs that a policy may have.
    pub(super) fn all(lists: impl IntoIterator<Item = &'l Listed>) -> Self {
        Self::new(lists, MAX_GLOBS)
    }

    /// A rule that has all of these hosts in it.
    pub(super) fn around(&self, hosts: HostsRef<'_>) -> Option<RuleRef<'l>> {
        match hosts {
            HostsRef::Name(kind, name) => suffixes(name).find_map(|suffix| self.around_name(suffix, kind, suffix.len() == name.len())),
            _ => None,
        }
        .or_else(|| self.around_other(hosts))
    }

    /// The first rule for a name that has in it what `kind` says of a name: `suffix` is that name, or one that it is below.
    pub(super) fn around_name(&self, suffix: &str, kind: RuleKind, same: bool) -> Option<RuleRef<'l>> {
        self.lists.iter().find_map(|list| list.around_name(suffix, kind, same))
    }

    /// The first rule for anything but a name that has these hosts in it.
    pub(super) fn around_other(&self, hosts: HostsRef<'_>) -> Option<RuleRef<'l>> {
        let first = |matches: &dyn Fn(&Glob) -> bool| self.globs.iter().find(|(glob, _)| matches(glob)).map(|(_, rule)| *rule);
        match hosts {
            HostsRef::Any | HostsRef::Name(RuleKind::Subdomains | RuleKind::ApexAndSubdomains, _) => None,
            HostsRef::Name(_, name) => first(&|glob| glob.matches(name)),
            HostsRef::Glob(asked) => first(&|glob| glob.text() == asked.text()),
            HostsRef::Network(network) => self.lists.iter().find_map(|list| list.around_network(network)),
        }
    }
}

/// `a.b.c`, `b.c`, `c`.
pub(super) fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |rest| rest.split_once('.').map(|(_, parent)| parent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_format::{Hosts, Layer, Pattern};

    fn hosts(text: &str) -> Hosts {
        Pattern::parse(text).unwrap().hosts
    }

    fn empty() -> Listed {
        Listed::new(Access::Deny, Source { layer: Layer::User, label: "list".into() }).unwrap()
    }

    fn shown(list: &Listed) -> Vec<String> {
        list.rules().iter().map(|rule| format!("{} {}", rule.line, rule.hosts)).collect()
    }

    #[test]
    fn hosts_with_one_hash_are_told_apart() {
        let texts = ["a.test", "b.test", "*.a.test", "**.a.test", "10.0.0.0/8", "10.0.0.0/9", "a*.test", "b*.test"];
        let mut list = empty();
        for (line, text) in (1..).zip(texts.iter().chain(&texts)) {
            list.add_hashed(7, HostsRef::from(&hosts(text)), line).unwrap();
        }
        let expected: Vec<_> = (1..).zip(texts).map(|(line, text)| format!("{line} {text}")).collect();
        assert_eq!(shown(&list), expected);
        for (place, text) in texts.iter().enumerate() {
            assert_eq!(list.find_hashed(7, HostsRef::from(&hosts(text))), Some(place), "{text}");
        }
        assert_eq!(list.find_hashed(7, HostsRef::from(&hosts("c.test"))), None);
    }

    #[test]
    fn what_is_left_is_found_and_what_is_gone_is_not() {
        let mut list = empty();
        let text = |number: usize| if number.is_multiple_of(3) { format!("10.0.0.{number}") } else { format!("host-{number}.test") };
        for number in 0..200 {
            list.add(HostsRef::from(&hosts(&text(number))), u32::try_from(number).unwrap()).unwrap();
        }
        let keep: Vec<bool> = list.rules().iter().map(|rule| rule.line % 2 == 0).collect();
        list.retain(&keep);
        for number in 0..200 {
            let found = list.find(HostsRef::from(&hosts(&text(number)))).and_then(|place| list.rules().get(place));
            assert_eq!(found.map(|rule| rule.line as usize), Some(number).filter(|number| number % 2 == 0), "{number}");
        }
        list.add(HostsRef::from(&hosts(&text(1))), 1).unwrap();
        list.add(HostsRef::from(&hosts(&text(2))), 1).unwrap();
        assert_eq!(list.rules().len(), 101, "what went may come again, and what stayed is there");
    }
}
