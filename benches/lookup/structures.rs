//! What is compared: the policy and what people would write, or take from a shelf, in its place.

use crate::policy::{Decided, Named, Policy};
use netpolicy_benches::domains::{Reach, Rule, Rules, Truth};
use policy_format::Host;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::rc::Rc;

/// Hosts that are asked for in one go. Each structure takes the form that suits it, and both are in the nearest caches when the clock starts.
#[derive(Default)]
pub(crate) struct Batch<'a> {
    pub(crate) hosts: Vec<Host>,
    pub(crate) names: Vec<&'a str>,
}

impl<'a> Batch<'a> {
    pub(crate) fn fill(&mut self, names: impl Iterator<Item = &'a str>) {
        self.names.clear();
        self.names.extend(names);
        self.hosts.clear();
        self.hosts.extend(self.names.iter().map(|name| netpolicy_benches::host(name)));
    }

    pub(crate) fn of(names: impl Iterator<Item = &'a str>) -> Self {
        let mut batch = Self::default();
        batch.fill(names);
        batch
    }
}

/// What a structure says of a host. Not every structure can answer every question; each is held to the one that it answers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Answer {
    /// Value of the most specific rule, or 0.
    Closest(u32),
    /// Values of the most specific rules of both accesses, or 0.
    Both { allow: u32, deny: u32 },
    /// Value of the rule that decides, where any deny beats any allow, or 0.
    Decision(u32),
    /// Whether a rule names the host.
    Hit(bool),
    /// Whether the host is a rule's name or below one, whatever the rule reaches.
    #[cfg(feature = "peers")]
    Listed(bool),
    /// Nothing that could be held against it: it takes such names otherwise.
    #[cfg(feature = "peers")]
    Unchecked,
}

impl Answer {
    pub(crate) fn agrees(self, truth: &Truth) -> bool {
        match self {
            Self::Closest(value) => value == truth.closest,
            Self::Both { allow, deny } => (allow, deny) == (truth.allow, truth.deny),
            Self::Decision(value) => value == if truth.deny == 0 { truth.allow } else { truth.deny },
            Self::Hit(hit) => hit == (truth.closest != 0),
            #[cfg(feature = "peers")]
            Self::Listed(listed) => listed == truth.listed,
            #[cfg(feature = "peers")]
            Self::Unchecked => true,
        }
    }
}

/// A lookup, as a structure writes it.
pub(crate) trait Lookup {
    /// What is timed: finds the rule, and gives a number that depends on what was found.
    fn look(&self, host: &Host, name: &str) -> u32;
    /// The same, in a form that can be checked.
    fn answer(&self, host: &Host, name: &str) -> Answer;
}

/// A structure, as it is measured: one indirect call for many lookups.
pub(crate) trait Structure {
    /// Lookups that may overlap.
    fn stream(&self, batch: &Batch<'_>) -> u32;
    /// Lookups of which each waits for the one before.
    fn dependent(&self, batch: &Batch<'_>) -> u32;
    /// See [`Lookup::answer`].
    fn answer(&self, host: &Host, name: &str) -> Answer;
}

impl<T: Lookup> Structure for T {
    #[inline(never)]
    fn stream(&self, batch: &Batch<'_>) -> u32 {
        let lookups = batch.hosts.iter().zip(&batch.names);
        lookups.fold(0, |sum, (host, name)| sum.wrapping_mul(31).wrapping_add(self.look(host, name)))
    }

    #[inline(never)]
    fn dependent(&self, batch: &Batch<'_>) -> u32 {
        let none = black_box(0);
        let mut last = 0;
        for at in 0..batch.names.len() {
            // The next host cannot be known before the last result is.
            let at = at + (last & none) as usize;
            last = self.look(&batch.hosts[at], batch.names[at]);
        }
        last
    }

    fn answer(&self, host: &Host, name: &str) -> Answer {
        Lookup::answer(self, host, name)
    }
}

/// Builds a structure; nothing when it cannot be asked to hold so many rules. The policy is made once.
type Build = fn(&Rules, &mut Option<Rc<Policy>>) -> Option<Box<dyn Structure>>;

/// A structure that can be built.
pub(crate) struct Candidate {
    pub(crate) name: &'static str,
    pub(crate) build: Build,
    /// Whether it is a map that answers with the most specific rule: what the others are compared with.
    pub(crate) is_map: bool,
}

const fn candidate(name: &'static str, build: Build) -> Candidate {
    Candidate { name, build, is_map: false }
}

/// All of them. `decide` shares the policy of `blob`.
pub(crate) const ALL: &[Candidate] = &[
    candidate("blob", |rules, policy| Some(Box::new(Named(Rc::clone(policy.get_or_insert_with(|| Rc::new(Policy::new(rules)))))))),
    candidate("decide", |rules, policy| Some(Box::new(Decided(Rc::clone(policy.get_or_insert_with(|| Rc::new(Policy::new(rules)))))))),
    Candidate { name: "std-siphash", build: |rules, _| Some(Box::new(Map::<RandomState>::new(rules))), is_map: true },
    Candidate { name: "std-foldhash", build: |rules, _| Some(Box::new(Map::<foldhash::fast::RandomState>::new(rules))), is_map: true },
    Candidate { name: "hashbrown", build: |rules, _| Some(Box::new(Brown::new(rules))), is_map: true },
    candidate("foldhash-both", |rules, _| Some(Box::new(BothOf(Map::<foldhash::fast::RandomState>::new(rules))))),
    candidate("foldhash-sets", |rules, _| Some(Box::new(Sets::new(rules)))),
    candidate("fst", |rules, _| Some(Box::new(Fst::new(rules)))),
    #[cfg(feature = "peers")]
    candidate("adblock", |rules, _| Some(Box::new(crate::peers::Adblock::new(rules)))),
    #[cfg(feature = "peers")]
    candidate("globset", |rules, _| crate::peers::Globs::new(rules).map(|globs| Box::new(globs) as Box<dyn Structure>)),
];

/// The values of the rules at a name: of the one that names it, and of the one that names what is below.
#[derive(Clone, Copy, Default)]
struct Values {
    exact: u32,
    below: u32,
}

impl Values {
    fn add(&mut self, rule: &Rule<'_>) {
        if rule.reach.is_exact() {
            self.exact = rule.value();
        }
        if rule.reach.is_wild() {
            self.below = rule.value();
        }
    }
}

/// The name, then each name above it, until one has a rule that reaches it.
#[inline(always)]
fn walk(name: &str, get: impl Fn(&str) -> Option<Values>) -> u32 {
    if let Some(values) = get(name).filter(|values| values.exact != 0) {
        return values.exact;
    }
    for (at, byte) in name.bytes().enumerate() {
        if byte == b'.'
            && let Some(values) = get(&name[at + 1..]).filter(|values| values.below != 0)
        {
            return values.below;
        }
    }
    0
}

/// `std-…`: the standard map, with a hasher.
struct Map<H>(HashMap<Box<str>, Values, H>);

impl<H: BuildHasher + Default> Map<H> {
    fn new(rules: &Rules) -> Self {
        let mut map: HashMap<Box<str>, Values, H> = HashMap::with_capacity_and_hasher(rules.len(), H::default());
        for rule in rules.iter() {
            map.entry(rule.name.into()).or_default().add(&rule);
        }
        Self(map)
    }
}

impl<H: BuildHasher> Lookup for Map<H> {
    #[inline]
    fn look(&self, _: &Host, name: &str) -> u32 {
        walk(name, |name| self.0.get(name).copied())
    }

    fn answer(&self, host: &Host, name: &str) -> Answer {
        Answer::Closest(self.look(host, name))
    }
}

/// `hashbrown`: that crate's map as it comes.
struct Brown(hashbrown::HashMap<Box<str>, Values>);

impl Brown {
    fn new(rules: &Rules) -> Self {
        let mut map: hashbrown::HashMap<Box<str>, Values> = hashbrown::HashMap::with_capacity(rules.len());
        for rule in rules.iter() {
            map.entry(rule.name.into()).or_default().add(&rule);
        }
        Self(map)
    }
}

impl Lookup for Brown {
    #[inline]
    fn look(&self, _: &Host, name: &str) -> u32 {
        walk(name, |name| self.0.get(name).copied())
    }

    fn answer(&self, host: &Host, name: &str) -> Answer {
        Answer::Closest(self.look(host, name))
    }
}

/// `foldhash-both`: the map's answer to the policy's question, the closest rule of each access. Any name above can hold it, so the walk rarely ends early.
struct BothOf<H>(Map<H>);

impl<H: BuildHasher> BothOf<H> {
    #[inline]
    fn both(&self, name: &str) -> [u32; 2] {
        let mut found = [0; 2];
        let mut add = |value: u32| {
            let place = &mut found[(value & 1) as usize];
            if *place == 0 {
                *place = value;
            }
            found[0] != 0 && found[1] != 0
        };
        let Self(Map(map)) = self;
        if map.get(name).is_some_and(|values| values.exact != 0 && add(values.exact)) {
            return found;
        }
        for (at, byte) in name.bytes().enumerate() {
            if byte == b'.' && map.get(&name[at + 1..]).is_some_and(|values| values.below != 0 && add(values.below)) {
                return found;
            }
        }
        found
    }
}

impl<H: BuildHasher> Lookup for BothOf<H> {
    #[inline]
    fn look(&self, _: &Host, name: &str) -> u32 {
        let [deny, allow] = self.both(name);
        allow ^ deny.rotate_left(16)
    }

    fn answer(&self, _: &Host, name: &str) -> Answer {
        let [deny, allow] = self.both(name);
        Answer::Both { allow, deny }
    }
}

/// `foldhash-sets`: names and wildcards apart, without values; it tells hits from misses and no more.
struct Sets {
    exact: HashSet<Box<str>, foldhash::fast::RandomState>,
    below: HashSet<Box<str>, foldhash::fast::RandomState>,
}

impl Sets {
    fn new(rules: &Rules) -> Self {
        let set = |wanted: fn(Reach) -> bool| {
            let count = rules.iter().filter(|rule| wanted(rule.reach)).count();
            HashSet::with_capacity_and_hasher(count, foldhash::fast::RandomState::default())
        };
        let mut sets = Self { exact: set(Reach::is_exact), below: set(Reach::is_wild) };
        for rule in rules.iter() {
            if rule.reach.is_exact() {
                sets.exact.insert(rule.name.into());
            }
            if rule.reach.is_wild() {
                sets.below.insert(rule.name.into());
            }
        }
        sets
    }

    #[inline]
    fn hit(&self, name: &str) -> bool {
        self.exact.contains(name) || name.bytes().enumerate().any(|(at, byte)| byte == b'.' && self.below.contains(&name[at + 1..]))
    }
}

impl Lookup for Sets {
    #[inline]
    fn look(&self, _: &Host, name: &str) -> u32 {
        u32::from(self.hit(name))
    }

    fn answer(&self, _: &Host, name: &str) -> Answer {
        Answer::Hit(self.hit(name))
    }
}

/// `fst`: names by reversed labels in a finite state transducer, whose outputs are indices of values.
struct Fst {
    fst: fst::raw::Fst<Vec<u8>>,
    values: Vec<Values>,
}

impl Fst {
    fn new(rules: &Rules) -> Self {
        let mut names: Vec<(Vec<u8>, Values)> = Vec::with_capacity(rules.len());
        for rule in rules.iter() {
            let mut values = Values::default();
            values.add(&rule);
            names.push((rule.name.rsplit('.').collect::<Vec<_>>().join(".").into_bytes(), values));
        }
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let (mut known, mut values) = (HashMap::new(), Vec::new());
        let mut builder = fst::raw::Builder::memory();
        for (name, found) in names {
            let index = *known.entry((found.exact, found.below)).or_insert_with(|| {
                values.push(found);
                values.len() as u64 - 1
            });
            builder.insert(name, index).unwrap();
        }
        let mut bytes = builder.into_inner().unwrap();
        bytes.shrink_to_fit();
        values.shrink_to_fit();
        Self { fst: fst::raw::Fst::new(bytes).unwrap(), values }
    }
}

impl Lookup for Fst {
    fn look(&self, _: &Host, name: &str) -> u32 {
        let (mut node, mut output, mut closest) = (self.fst.root(), fst::raw::Output::zero(), 0);
        let values = |output: fst::raw::Output| self.values[usize::try_from(output.value()).unwrap_or(usize::MAX)];
        for (at, label) in name.rsplit('.').enumerate() {
            if at > 0 && node.is_final() {
                let below = values(output.cat(node.final_output())).below;
                if below != 0 {
                    closest = below;
                }
            }
            for byte in (at > 0).then_some(b'.').into_iter().chain(label.bytes()) {
                let Some(input) = node.find_input(byte) else { return closest };
                let transition = node.transition(input);
                output = output.cat(transition.out);
                node = self.fst.node(transition.addr);
            }
        }
        match node.is_final().then(|| values(output.cat(node.final_output())).exact) {
            Some(exact) if exact != 0 => exact,
            _ => closest,
        }
    }

    fn answer(&self, host: &Host, name: &str) -> Answer {
        Answer::Closest(self.look(host, name))
    }
}
