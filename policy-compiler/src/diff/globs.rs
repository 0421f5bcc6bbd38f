//! Globs against all names at once: which of them can match together, and a shortest name for each combination.
//!
//! Names are read from right to left, as the trie reads them. The globs, reversed, run side by side as one automaton whose states are made when they are reached; its
//! product with the trie says, for each class of names, which sets of globs have a name there.

use super::DiffError;
use super::names::{LETTERS, Names, host};
use policy_format::glob::{Op, ops};
use policy_format::{MAX_LABEL, MAX_NAME};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// The letters, and the dot.
const SYMBOLS: usize = LETTERS.len() + 1;
const DOT: usize = LETTERS.len();
/// Positions in all states together.
const MAX_POSITIONS: usize = 20_000_000;
/// Steps of all searches together.
const MAX_STEPS: usize = 200_000_000;
/// States of all sets together.
const MAX_WAYS: usize = 40_000_000;
const UNKNOWN: u32 = u32::MAX;

/// Globs that are looked at as one, because no decision can tell them apart.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// As rules spell them.
    pub(super) texts: Vec<String>,
    pub(super) programs: Vec<Vec<u8>>,
    /// Whether only one policy has one of their rules.
    pub(super) changed: bool,
}

/// A set of groups, by number.
pub(super) type Set = u32;
/// The set of none.
pub(super) const NONE: Set = 0;

/// For each state, at the start of a label and within one: the first symbol of a shortest end of a name that leads to a set, and the length of that end.
type Ways = Vec<[Option<(u8, u16)>; 2]>;

enum Step {
    Run,
    One(u64),
}

struct State {
    positions: Vec<u32>,
    matched: Set,
    next: [u32; SYMBOLS],
}

pub(super) struct Globs {
    pub(super) groups: Vec<Group>,
    /// For every position, what is asked there; `None` ends a program.
    steps: Vec<Option<Step>>,
    group_of: Vec<u32>,
    states: Vec<State>,
    known: HashMap<Vec<u32>, u32>,
    sets: Vec<Vec<u32>>,
    set_of: HashMap<Vec<u32>, Set>,
    ways: Vec<Ways>,
    positions: usize,
    work: usize,
}

fn symbol(byte: u8) -> Option<usize> {
    if byte == 0 || byte == b'.' { Some(DOT) } else { LETTERS.iter().position(|letter| *letter == byte) }
}

fn letter(symbol: usize) -> char {
    LETTERS.get(symbol).map_or('.', |byte| char::from(*byte))
}

fn step(op: Op<'_>) -> Step {
    if op == Op::AnyRun {
        return Step::Run;
    }
    let takes = |symbol: usize| op.takes(LETTERS.get(symbol).copied().unwrap_or(b'.'));
    Step::One((0..SYMBOLS).filter(|symbol| takes(*symbol)).fold(0, |mask, symbol| mask | 1 << symbol))
}

impl Globs {
    pub(super) fn new(groups: Vec<Group>) -> Result<Self, DiffError> {
        let mut globs = Self {
            groups: Vec::new(),
            steps: Vec::new(),
            group_of: Vec::new(),
            states: Vec::new(),
            known: HashMap::new(),
            sets: vec![Vec::new()],
            set_of: HashMap::from([(Vec::new(), NONE)]),
            ways: Vec::new(),
            positions: 0,
            work: 0,
        };
        let mut start = Vec::new();
        for (number, group) in (0_u32..).zip(&groups) {
            for program in &group.programs {
                start.push(u32::try_from(globs.steps.len()).map_err(|_| DiffError::Globs)?);
                let mut steps: Vec<Step> = ops(program).map(step).collect();
                steps.reverse();
                globs.group_of.resize(globs.group_of.len() + steps.len() + 1, number);
                globs.steps.extend(steps.into_iter().map(Some).chain([None]));
            }
        }
        globs.groups = groups;
        let start = globs.closed(start);
        globs.state(start)?;
        Ok(globs)
    }

    fn step_at(&self, position: u32) -> Option<&Step> {
        self.steps.get(position as usize).and_then(Option::as_ref)
    }

    fn group_at(&self, position: u32) -> u32 {
        self.group_of.get(position as usize).copied().unwrap_or(0)
    }

    /// The positions with those behind runs of nothing, sorted; of a group that matches whatever follows, that position only.
    fn closed(&self, mut positions: Vec<u32>) -> Vec<u32> {
        let mut at = 0;
        while let Some(position) = positions.get(at).copied() {
            if matches!(self.step_at(position), Some(Step::Run)) {
                positions.push(position + 1);
            }
            at += 1;
        }
        positions.sort_unstable();
        positions.dedup();
        let is_end = |position: u32| self.step_at(position).is_none();
        let settled: HashMap<u32, u32> = positions
            .iter()
            .filter(|position| matches!(self.step_at(**position), Some(Step::Run)) && is_end(**position + 1))
            .map(|position| (self.group_at(*position), *position))
            .collect();
        if !settled.is_empty() {
            positions
                .retain(|position| settled.get(&self.group_at(*position)).is_none_or(|sink| *position == *sink || *position == *sink + 1));
        }
        positions
    }

    fn state(&mut self, positions: Vec<u32>) -> Result<u32, DiffError> {
        if let Some(state) = self.known.get(&positions) {
            return Ok(*state);
        }
        self.positions += positions.len() + SYMBOLS;
        if self.positions > MAX_POSITIONS {
            return Err(DiffError::Globs);
        }
        let mut groups: Vec<u32> =
            positions.iter().filter(|position| self.step_at(**position).is_none()).map(|position| self.group_at(*position)).collect();
        groups.sort_unstable();
        groups.dedup();
        let number = u32::try_from(self.sets.len()).map_err(|_| DiffError::Globs)?;
        let matched = *self.set_of.entry(groups.clone()).or_insert(number);
        if matched == number {
            self.sets.push(groups);
        }
        let state = u32::try_from(self.states.len()).map_err(|_| DiffError::Globs)?;
        self.states.push(State { positions: positions.clone(), matched, next: [UNKNOWN; SYMBOLS] });
        self.known.insert(positions, state);
        Ok(state)
    }

    fn next(&mut self, from: u32, symbol: usize) -> Result<u32, DiffError> {
        let Some(state) = self.states.get(from as usize) else { return Err(DiffError::Globs) };
        match state.next.get(symbol) {
            Some(&next) if next != UNKNOWN => return Ok(next),
            _ => {}
        }
        let mut positions = Vec::new();
        for position in &state.positions {
            match self.step_at(*position) {
                Some(Step::Run) => positions.push(*position),
                Some(Step::One(mask)) if mask >> symbol & 1 == 1 => positions.push(*position + 1),
                _ => {}
            }
        }
        let positions = self.closed(positions);
        let next = self.state(positions)?;
        if let Some(place) = self.states.get_mut(from as usize).and_then(|state| state.next.get_mut(symbol)) {
            *place = next;
        }
        Ok(next)
    }

    fn matched(&self, state: u32) -> Set {
        self.states.get(state as usize).map_or(NONE, |state| state.matched)
    }

    /// Whether no glob can match any more.
    fn is_dead(&self, state: u32) -> bool {
        self.states.get(state as usize).is_none_or(|state| state.positions.is_empty())
    }

    /// The groups in a set.
    pub(super) fn set(&self, set: Set) -> &[u32] {
        self.sets.get(set as usize).map(Vec::as_slice).unwrap_or_default()
    }

    /// The set of groups that match a name.
    pub(super) fn of_name(&mut self, name: &str) -> Result<Set, DiffError> {
        let mut state = 0;
        for byte in name.bytes().rev() {
            let Some(symbol) = symbol(byte) else { return Ok(NONE) };
            state = self.next(state, symbol)?;
        }
        Ok(self.matched(state))
    }

    /// Every set that some end of a name leads to after `read`, with a shortest such end, in the order of reading. Here it is kept in mind how long a label
    /// gets, and, for a `tail` (the end of a name), that it must not become a number.
    fn search(&mut self, state: u32, read: &str, room: usize, tail: bool) -> Result<BTreeMap<Set, String>, DiffError> {
        let label = read.bytes().rev().take_while(|byte| *byte != b'.').count();
        let number = if tail { read.chars().fold(Number::START, Number::after) } else { Number::NEVER };
        let mut seen = HashSet::from([(state, label, number)]);
        let mut queue = VecDeque::from([(state, label, number, 0_usize, 0_usize)]);
        // What was read, as a tree: each entry points at the one before.
        let mut trail: Vec<(usize, usize)> = vec![(0, 0)];
        let mut found = BTreeMap::new();
        while let Some((state, label, number, at, len)) = queue.pop_front() {
            let may_end = label > 0 && !number.is_one();
            if may_end {
                let matched = self.matched(state);
                found.entry(matched).or_insert_with(|| {
                    let (mut text, mut up) = (String::new(), at);
                    while let Some((before, symbol)) = trail.get(up).filter(|_| up != 0) {
                        text.push(letter(*symbol));
                        up = *before;
                    }
                    text.chars().rev().collect::<String>()
                });
            }
            if len >= room {
                continue;
            }
            for symbol in 0..SYMBOLS {
                if (symbol == DOT && !may_end) || (symbol != DOT && label >= MAX_LABEL) {
                    continue;
                }
                self.work += 1;
                if self.work > MAX_STEPS {
                    return Err(DiffError::Globs);
                }
                let next = self.next(state, symbol)?;
                let label = if symbol == DOT { 0 } else { label + 1 };
                let number = number.after(letter(symbol));
                if seen.insert((next, label, number)) {
                    trail.push((at, symbol));
                    queue.push_back((next, label, number, trail.len() - 1, len + 1));
                }
            }
        }
        Ok(found)
    }

    /// Makes all states, and for each set the shortest ways to it.
    fn complete(&mut self) -> Result<(), DiffError> {
        let mut at = 0;
        while at < self.states.len() {
            let state = u32::try_from(at).map_err(|_| DiffError::Globs)?;
            for symbol in 0..SYMBOLS {
                self.next(state, symbol)?;
            }
            at += 1;
        }
        if self.sets.len().saturating_mul(self.states.len()) > MAX_WAYS {
            return Err(DiffError::Globs);
        }
        if self.ways.len() < self.sets.len() {
            let mut before: Vec<Vec<(u32, u8)>> = vec![Vec::new(); self.states.len()];
            for (from, state) in (0_u32..).zip(&self.states) {
                for (symbol, next) in (0_u8..).zip(state.next) {
                    if let Some(list) = before.get_mut(next as usize) {
                        list.push((from, symbol));
                    }
                }
            }
            let sets = 0..Set::try_from(self.sets.len()).map_err(|_| DiffError::Globs)?;
            self.ways = sets.map(|set| self.ways_to(set, &before)).collect();
        }
        Ok(())
    }

    /// For each state, at the start of a label and within one, the first symbol of a shortest end of a name that leads to `set`, and how long that end is.
    fn ways_to(&self, set: Set, before: &[Vec<(u32, u8)>]) -> Ways {
        let mut ways: Ways = vec![[None; 2]; self.states.len()];
        let mut queue = VecDeque::new();
        for (state, way) in (0_u32..).zip(&mut ways) {
            // Names end within a label.
            if let Some(place) = way.get_mut(1).filter(|_| self.matched(state) == set) {
                *place = Some((0, 0));
                queue.push_back((state, 1_usize, 0_u16));
            }
        }
        while let Some((state, within, len)) = queue.pop_front() {
            for (from, symbol) in before.get(state as usize).into_iter().flatten() {
                let dot = usize::from(*symbol) == DOT;
                // A dot ends a label; a letter starts or continues one.
                if dot != (within == 0) {
                    continue;
                }
                for side in if dot { 1..2 } else { 0..2_usize } {
                    if let Some(place @ None) = ways.get_mut(*from as usize).and_then(|way| way.get_mut(side)) {
                        *place = Some((*symbol, len.saturating_add(1)));
                        queue.push_back((*from, side, len.saturating_add(1)));
                    }
                }
            }
        }
        ways
    }

    fn way(&self, set: Set, state: u32, within: bool) -> Option<(u8, u16)> {
        self.ways.get(set as usize)?.get(state as usize)?.get(usize::from(within)).copied().flatten()
    }

    /// The shortest end of a name that leads to a set, if it fits into `room`.
    fn shortest(&mut self, set: Set, mut state: u32, mut within: bool, room: usize) -> Result<Option<String>, DiffError> {
        let mut text = String::new();
        loop {
            match self.way(set, state, within) {
                None => return Ok(None),
                Some((_, len)) if usize::from(len) > room => return Ok(None),
                Some((_, 0)) => return Ok(Some(text)),
                Some((symbol, _)) => {
                    let symbol = usize::from(symbol);
                    text.push(letter(symbol));
                    state = self.next(state, symbol)?;
                    within = symbol != DOT;
                }
            }
            // Each step is one shorter; the longest that fits is a name.
            if text.len() > MAX_NAME {
                return Ok(None);
            }
        }
    }

    /// For every node, the sets that names below it (and closer to no other one) have, each with such a name. Nodes that are left out have names that no glob
    /// matches, and no others.
    pub(super) fn below(&mut self, names: &Names, wanted: &dyn Fn(usize) -> bool) -> Result<Below, DiffError> {
        self.complete()?;
        let mut walk = Walk::default();
        let mut open = vec![Stretch { first: 1, end: names.len(), depth: 0, state: 0, node: 0, own: 0 }];
        while let Some(stretch) = open.pop() {
            // Where no glob can match any more, one name is as good as another.
            if self.is_dead(stretch.state) && walk.plain.contains(&stretch.node) {
                continue;
            }
            self.visit(names, stretch, wanted, &mut walk, &mut open)?;
        }
        self.gather(names, walk)
    }

    fn visit(
        &mut self,
        names: &Names,
        stretch: Stretch,
        wanted: &dyn Fn(usize) -> bool,
        walk: &mut Walk,
        open: &mut Vec<Stretch>,
    ) -> Result<(), DiffError> {
        let Stretch { mut first, end, depth, state, node: above, own } = stretch;
        let key = |index: usize| names.get(index).map(|node| node.key.as_slice()).unwrap_or_default();
        let read = if first < end { key(first).get(..depth).unwrap_or_default() } else { &[] };
        let node = (first < end && key(first).len() == depth).then_some(first);
        first += usize::from(node.is_some());
        let label = read.iter().rev().take_while(|byte| **byte != 0).count();
        if node.is_none() && label > 0 && wanted(above) {
            let known = walk.ends.entry(above).or_default();
            let matched = self.matched(state);
            if let Entry::Vacant(place) = known.entry(matched) {
                let name: String = spelt(read).chars().rev().collect();
                if host(&name).is_some() {
                    place.insert(name);
                }
            }
        }
        // The stretches that go on with the same byte.
        let mut goes_on = 0_u64;
        while first < end {
            let Some(byte) = key(first).get(depth).copied() else { break };
            let rest = names.nodes().get(first..end).unwrap_or_default();
            let stop = first + rest.partition_point(|node| node.key.get(depth).is_some_and(|other| *other <= byte)).max(1);
            if let Some(symbol) = symbol(byte) {
                goes_on |= 1 << symbol;
                let next = self.next(state, symbol)?;
                // After a node, a dot leads below it and a letter beside it.
                let (node, own) = node.filter(|_| symbol == DOT).map_or((above, own), |node| (node, depth));
                open.push(Stretch { first, end: stop, depth: depth + 1, state: next, node, own });
            }
            first = stop;
        }
        // What leaves from the same state with the same letters, closer to the same node, was seen.
        let dot_only = node.is_some() || label == 0;
        let seen = walk.seen.entry((above, state, goes_on | u64::from(dot_only) << DOT)).or_insert(usize::MAX);
        let news = depth - own < *seen;
        *seen = (*seen).min(depth - own);
        for symbol in (0..SYMBOLS).filter(|symbol| goes_on >> symbol & 1 == 0) {
            if (symbol == DOT && label == 0) || !(news || symbol == DOT && node.is_some()) {
                continue;
            }
            let (closest, own) = node.filter(|_| symbol == DOT).map_or((above, own), |node| (node, depth));
            if !wanted(closest) {
                continue;
            }
            let next = self.next(state, symbol)?;
            if self.is_dead(next) {
                walk.plain.insert(closest);
            }
            let list = walk.exits.entry(closest).or_default();
            if list.get(&(next, symbol != DOT)).is_none_or(|known| known.len() > depth - own + 1) {
                list.insert((next, symbol != DOT), format!("{}{}", spelt(read.get(own..).unwrap_or_default()), letter(symbol)));
            }
        }
        Ok(())
    }

    /// Ends of names for each set that can be reached and for which no name is known that is as short.
    fn nearest(
        &mut self,
        state: u32,
        within: bool,
        room: usize,
        own: usize,
        known: &BTreeMap<Set, String>,
    ) -> Result<BTreeMap<Set, String>, DiffError> {
        let mut found = BTreeMap::new();
        for set in 0..Set::try_from(self.ways.len()).unwrap_or(Set::MAX) {
            let Some((_, len)) = self.way(set, state, within) else { continue };
            if known.get(&set).is_none_or(|known| known.len() > own + usize::from(len)) {
                found.extend(self.shortest(set, state, within, room)?.map(|rest| (set, rest)));
            }
        }
        Ok(found)
    }

    fn gather(&mut self, names: &Names, walk: Walk) -> Result<Below, DiffError> {
        let mut below = walk.ends;
        for (index, exits) in walk.exits {
            let Some(node) = names.get(index) else { continue };
            let known = below.entry(index).or_default();
            // First without a look at lengths and numbers; where that leads to what is no name, with it.
            for strict in [false, true] {
                let mut missed = false;
                for ((state, within), read) in &exits {
                    let Some(room) = MAX_NAME.checked_sub(node.name.len() + read.len()) else { continue };
                    let tail = index == 0 && !read.contains('.');
                    let found = if strict {
                        self.search(*state, read, room, tail)?
                    } else {
                        self.nearest(*state, *within, room, node.name.len() + read.len(), known)?
                    };
                    for (set, rest) in found {
                        let name: String = rest.chars().rev().chain(read.chars().rev()).chain(node.name.chars()).collect();
                        if known.get(&set).is_some_and(|known| known.len() <= name.len()) {
                            continue;
                        }
                        if host(&name).is_some() {
                            known.insert(set, name);
                        } else {
                            missed |= !known.contains_key(&set);
                        }
                    }
                }
                if !missed {
                    break;
                }
            }
            if walk.plain.contains(&index)
                && !known.contains_key(&NONE)
                && let Some(host) = names.below(index)
                && self.of_name(&host.to_string())? == NONE
            {
                known.insert(NONE, host.to_string());
            }
        }
        Ok(below)
    }
}

fn spelt(read: &[u8]) -> String {
    read.iter().map(|byte| if *byte == 0 { '.' } else { char::from(*byte) }).collect()
}

/// For nodes, the sets of globs that match names below them, each with such a name.
pub(super) type Below = HashMap<usize, BTreeMap<Set, String>>;

/// Nodes that share what was read so far: first, end, bytes read, state, the closest node above, and how long that one is.
struct Stretch {
    first: usize,
    end: usize,
    depth: usize,
    state: u32,
    node: usize,
    own: usize,
}

/// What a walk over the nodes finds.
#[derive(Default)]
struct Walk {
    /// Names that are part of a node's name.
    ends: Below,
    /// For each node, the states in which names leave those that rules speak of, whether within a label, and the shortest that was read by then.
    exits: HashMap<usize, BTreeMap<(u32, bool), String>>,
    /// Nodes with names that no glob matches.
    plain: HashSet<usize>,
    /// For the closest node, the state, and the symbols with which names go on in the trie, the fewest bytes that were read since that node.
    seen: HashMap<(usize, u32, u64), usize>,
}

/// Whether the last label of a name, read from its end, is a number, as [`policy_format::Host::parse`] sees it: digits only, or `0x` and hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Number {
    digits: bool,
    hexadecimal: bool,
    x: bool,
    prefixed: bool,
}

impl Number {
    const START: Self = Self { digits: true, hexadecimal: true, x: false, prefixed: false };
    const NEVER: Self = Self { digits: false, hexadecimal: false, x: false, prefixed: false };

    fn after(self, letter: char) -> Self {
        Self {
            digits: self.digits && letter.is_ascii_digit(),
            hexadecimal: self.hexadecimal && letter.is_ascii_hexdigit(),
            x: self.hexadecimal && letter == 'x',
            prefixed: self.x && letter == '0',
        }
    }

    fn is_one(self) -> bool {
        self.digits || self.prefixed
    }
}

/// A program as a glob.
pub(super) fn spell(program: &[u8]) -> String {
    let mut text = String::new();
    for op in ops(program) {
        match op {
            Op::AnyRun => text.push('*'),
            Op::AnyOne => text.push('?'),
            Op::Literal(byte) => text.push(char::from(byte)),
            Op::Class(pairs, negated) => {
                text.push_str(if negated { "[!" } else { "[" });
                for pair in pairs.chunks_exact(2) {
                    if let [first, last] = pair {
                        text.push(char::from(*first));
                        if first != last {
                            text.push('-');
                            text.push(char::from(*last));
                        }
                    }
                }
                text.push(']');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_format::{Hosts, Pattern};

    /// The sets of globs that names below the root have, each by its texts, with the name that was found.
    fn found(globs: &[&str], names: &[&str]) -> Vec<(Vec<usize>, String)> {
        let group = |text: &&str| match Pattern::parse(text).unwrap().hosts {
            Hosts::Glob(glob) => Group { texts: vec![(*text).to_owned()], programs: glob.programs().to_vec(), changed: true },
            _ => panic!("{text} is no glob"),
        };
        let mut all = Globs::new(globs.iter().map(group).collect()).unwrap();
        let names = Names::new(names.iter().map(|name| (*name).to_owned()));
        let below = all.below(&names, &|_| true).unwrap();
        let sets = below.get(&0).unwrap().iter();
        sets.map(|(set, name)| (all.set(*set).iter().map(|group| *group as usize).collect(), name.clone())).collect()
    }

    #[test]
    fn finds_a_name_for_every_combination_and_none_that_cannot_be() {
        let long = format!("{}x.a", "?".repeat(70));
        let too_long = format!("a{}b.a", "?".repeat(251));
        type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a [usize]]);
        let cases: [Case<'_>; 6] = [
            (&["a*.b", "*c.b"], &[], &[&[], &[0], &[1], &[0, 1]]),
            // A dot has to stand among the first seventy letters.
            (&[&long], &[], &[&[], &[0]]),
            (&[&too_long], &[], &[&[]]),
            // No name ends in a number: the shortest match is none.
            (&["x.[0-9]*"], &[], &[&[], &[0]]),
            (&["x[0-9].[0-9]"], &[], &[&[]]),
            // The only names that match are nodes.
            (&["{a,b}.c"], &["a.c", "b.c"], &[&[]]),
        ];
        for (globs, names, expected) in cases {
            let mut found = found(globs, names);
            found.sort();
            let mut sets: Vec<&[usize]> = expected.to_vec();
            sets.sort();
            assert_eq!(found.iter().map(|(set, _)| set.as_slice()).collect::<Vec<_>>(), sets, "{globs:?}: {found:?}");
            for (set, name) in &found {
                let host = host(name).unwrap();
                let matching = |glob: &&str| Pattern::parse(glob).unwrap().hosts.matches(&host);
                let own: Vec<usize> = (0..globs.len()).filter(|number| matching(&globs[*number])).collect();
                assert_eq!(*set, own, "{name}");
            }
        }
    }
}
