//! Sets of hosts, as few patterns as say it: of the names that a host is or lies below, the closest decides.

use super::DiffError;
use super::addresses::{self, AddressSet, Shown};
use super::globs::{Globs, NONE, Set};
use super::names::Names;
use policy_format::{Host, Pattern};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// A class of names: a node, or what lies below it and closer to no other, of the latter those that the globs of a set match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub(super) node: usize,
    pub(super) below: bool,
    pub(super) set: Set,
}

/// Which of the names that a pattern speaks of are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// None of them.
    None,
    /// Those that one of the globs `any` matches (every name, if there are none) and none of the globs `none`.
    Matching {
        /// One of these matches.
        any: Vec<String>,
        /// None of these does.
        none: Vec<String>,
    },
    /// Those for which the globs that match are exactly one of these sets; each glob stands for the others of its set in [`HostSet::globs`].
    Sets(Vec<Vec<usize>>),
}

/// What is said of one name and what lies below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The name; empty for all names.
    pub name: String,
    /// Whether this speaks of what lies below it, or of the name itself.
    pub below: bool,
    /// Which of these names are in the set.
    pub which: Which,
}

/// A set of hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostSet {
    /// Names: the closest term decides, without one a name is not in the set.
    pub names: Vec<Term>,
    /// The globs that [`Which::Sets`] speaks of, those that no decision tells apart together.
    pub globs: Vec<Vec<String>>,
    /// The addresses.
    pub addresses: AddressSet,
    /// The addresses in few words.
    pub shown_addresses: Shown,
    /// How many kinds of hosts are in it, as the rules of both policies tell hosts apart.
    pub kinds: usize,
}

fn matches(glob: &str, host: &Host) -> bool {
    // One alternative of a glob may be a name.
    Pattern::parse(glob).is_ok_and(|pattern| pattern.hosts.matches(host))
}

impl HostSet {
    /// Whether a host is in the set.
    #[must_use]
    pub fn holds(&self, host: &Host) -> bool {
        match host {
            Host::NumericLookalike(_) => false,
            Host::Ip(ip) => self.addresses.holds(*ip),
            Host::Name(name) => {
                let name = name.as_str();
                let speaks = |term: &&Term| {
                    let is_below = term.name.is_empty() || name.strip_suffix(&term.name).is_some_and(|rest| rest.ends_with('.'));
                    if term.below { is_below } else { term.name == name }
                };
                let closest = self.names.iter().filter(speaks).max_by_key(|term| (term.name.len(), !term.below));
                closest.is_some_and(|term| match &term.which {
                    Which::All => true,
                    Which::None => false,
                    Which::Matching { any, none } => {
                        let some = |globs: &[String]| globs.iter().any(|glob| matches(glob, host));
                        (any.is_empty() || some(any)) && !some(none)
                    }
                    Which::Sets(sets) => {
                        let own: Vec<usize> = (0..)
                            .zip(&self.globs)
                            .filter(|(_, globs)| globs.iter().any(|glob| matches(glob, host)))
                            .map(|(n, _)| n)
                            .collect();
                        sets.contains(&own)
                    }
                })
            }
        }
    }

    /// Patterns of what is in the set, and of what they hold too much.
    #[must_use]
    pub fn patterns(&self) -> (Vec<String>, Vec<String>) {
        let (mut include, mut except) = (Vec::new(), Vec::new());
        let mut at = 0;
        while let Some(term) = self.names.get(at) {
            let next = self.names.get(at + 1);
            // A name and what lies below it, of which the same is said, are one pattern.
            let both = !term.below && next.is_some_and(|next| next.below && next.name == term.name && next.which == term.which);
            at += 1 + usize::from(both);
            let base = match (term.name.is_empty(), both, term.below) {
                (true, ..) => "*".to_owned(),
                (_, true, _) => format!("**.{}", term.name),
                (_, _, true) => format!("*.{}", term.name),
                _ => term.name.clone(),
            };
            match &term.which {
                Which::All => include.push(base),
                Which::None => except.push(base),
                Which::Matching { any, none } => include.push(show_matching(&base, &term.name, any, none)),
                Which::Sets(sets) => include.extend(sets.iter().map(|set| format!("{base} {}", self.show_set(set)))),
            }
        }
        include.extend(self.shown_addresses.include.iter().cloned());
        except.extend(self.shown_addresses.except.iter().cloned());
        (include, except)
    }

    fn show_set(&self, set: &[usize]) -> String {
        let first = |number: usize| self.globs.get(number).and_then(|globs| globs.first()).cloned().unwrap_or_default();
        let list = |wanted: bool| (0..self.globs.len()).filter(|n| set.contains(n) == wanted).map(first).collect::<Vec<_>>();
        match (list(true), list(false)) {
            (yes, no) if yes.is_empty() => format!("matching none of {}", no.join(", ")),
            (yes, no) if no.is_empty() => format!("matching {}", yes.join(" and ")),
            (yes, no) => format!("matching {} but not {}", yes.join(" and "), no.join(", ")),
        }
    }
}

fn show_matching(base: &str, name: &str, any: &[String], none: &[String]) -> String {
    let (yes, no) = (few_or(any), few_or(none));
    match (any.is_empty(), none.is_empty()) {
        (false, true) if within(any, name) => yes,
        (false, false) if within(any, name) => format!("{yes} not matching {no}"),
        (false, true) => format!("{base} matching {yes}"),
        (false, false) => format!("{base} matching {yes}, not {no}"),
        (true, _) => format!("{base} not matching {no}"),
    }
}

/// Whether the globs have no names but below the given one.
fn within(globs: &[String], name: &str) -> bool {
    globs.iter().all(|glob| name.is_empty() || glob.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')))
}

impl fmt::Display for HostSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (include, except) = self.patterns();
        write!(f, "{}", few(&include))?;
        if except.is_empty() { Ok(()) } else { write!(f, " but not {}", few(&except)) }
    }
}

/// Entries of a list that are shown.
const FEW: usize = 6;

fn few_or(list: &[String]) -> String {
    few(list).replace(", ", " or ")
}

pub(super) fn few(list: &[String]) -> String {
    let shown = list.iter().take(FEW).map(String::as_str).collect::<Vec<_>>().join(", ");
    match list.len().checked_sub(FEW) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}

/// What the sets of hosts are made from.
pub(super) struct Universe<'a> {
    pub(super) names: &'a Names,
    pub(super) globs: &'a mut Globs,
    /// The sets that each class of names below a node has; [`NONE`] alone where nothing is said.
    pub(super) below: &'a HashMap<usize, BTreeMap<Set, String>>,
    /// Classes without any name, of which anything may be said.
    pub(super) empty: &'a dyn Fn(usize, bool) -> bool,
    pub(super) ranges: &'a addresses::Ranges,
}

impl Universe<'_> {
    /// The set of some classes and ranges, each in ascending order.
    pub(super) fn host_set(&mut self, classes: &[Class], ranges: &[usize]) -> Result<HostSet, DiffError> {
        let mut set = HostSet { kinds: classes.len() + ranges.len(), ..HostSet::default() };
        set.globs = self.globs.groups.iter().map(|group| group.texts.clone()).collect();
        let mut open: Vec<(usize, Which)> = vec![(self.names.len(), Which::None)];
        let (mut at, mut rest) = (0, classes);
        while at < self.names.len() {
            while open.len() > 1 && open.last().is_some_and(|(end, _)| at >= *end) {
                open.pop();
            }
            let Some((end, inherited)) = open.last().cloned() else { break };
            rest = rest.get(rest.partition_point(|class| class.node < at)..).unwrap_or_default();
            if inherited == Which::None {
                // Nothing to say before the next one that is in the set.
                match rest.first() {
                    None => break,
                    Some(class) if class.node >= end => {
                        at = end;
                        continue;
                    }
                    Some(class) => at = class.node,
                }
            }
            let Some(node) = self.names.get(at) else { break };
            let own = rest.get(..rest.partition_point(|class| class.node == at)).unwrap_or_default();
            let (exact, below) = own.split_at(own.partition_point(|class| !class.below));
            if !(self.empty)(at, false) && at > 0 {
                let inside = !exact.is_empty();
                let matched = if matches!(inherited, Which::All | Which::None) { NONE } else { self.globs.of_name(&node.name)? };
                if self.says(&inherited, matched) != inside {
                    let which = if inside { Which::All } else { Which::None };
                    set.names.push(Term { name: node.name.clone(), below: false, which });
                }
            }
            let mut said = inherited.clone();
            if !(self.empty)(at, true) {
                let known: Vec<Set> = self.below.get(&at).map_or_else(|| vec![NONE], |sets| sets.keys().copied().collect());
                let inside: Vec<Set> = below.iter().map(|class| class.set).collect();
                if known.iter().any(|set| self.says(&inherited, *set) != inside.contains(set)) {
                    said = self.which(&known, &inside);
                    set.names.push(Term { name: node.name.clone(), below: true, which: said.clone() });
                }
            }
            open.push((node.end, said));
            at += 1;
        }
        set.addresses = self.ranges.set(ranges);
        set.shown_addresses = self.ranges.show(ranges);
        Ok(set)
    }

    fn says(&self, which: &Which, set: Set) -> bool {
        let groups = self.globs.set(set);
        let has = |glob: &String| {
            groups.iter().any(|group| self.globs.groups.get(*group as usize).is_some_and(|group| group.texts.contains(glob)))
        };
        match which {
            Which::All => true,
            Which::None => false,
            Which::Matching { any, none } => (any.is_empty() || any.iter().any(has)) && !none.iter().any(has),
            Which::Sets(sets) => sets.iter().any(|own| own.iter().copied().eq(groups.iter().map(|group| *group as usize))),
        }
    }

    /// The shortest way to say which sets are meant.
    fn which(&self, known: &[Set], inside: &[Set]) -> Which {
        if inside.is_empty() {
            return Which::None;
        }
        if known.iter().all(|set| inside.contains(set)) {
            return Which::All;
        }
        let texts = |groups: &[u32]| -> Vec<String> {
            groups.iter().filter_map(|group| self.globs.groups.get(*group as usize)).flat_map(|group| group.texts.iter().cloned()).collect()
        };
        let said = |which: &Which| known.iter().all(|set| self.says(which, *set) == inside.contains(set));
        let of = |sets: &[Set]| -> BTreeSet<u32> { sets.iter().flat_map(|set| self.globs.set(*set)).copied().collect() };
        let (inner, all) = (of(inside), of(known));
        // Those of one glob, or of any that are in the set at all, or all; without those that are in no set that is meant.
        let single = all.iter().map(|group| vec![*group]);
        for any in std::iter::once(Vec::new()).chain(single).chain([inner.iter().copied().collect()]) {
            let none: Vec<u32> = all.difference(&inner).copied().filter(|group| !any.contains(group)).collect();
            for none in [Vec::new(), none] {
                let which = Which::Matching { any: texts(&any), none: texts(&none) };
                if said(&which) {
                    return which;
                }
            }
        }
        Which::Sets(inside.iter().map(|set| self.globs.set(*set).iter().map(|group| *group as usize).collect()).collect())
    }
}
