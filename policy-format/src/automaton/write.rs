//! The writer of automata: programs in, section out. Same programs in the same order, same bytes.
//!
//! The programs, reversed, become a tree in which equal beginnings are one path; its subsets that a name can reach are the states (subset construction). Two
//! things keep them few. Of what a `*` was reached of, nothing before that `*` is needed any more: whatever can still match from there can match from
//! the `*`, so it is dropped once that holds for all programs that it leads to. And `*?` is read as `?*`. What is left are about as many states as the tree has
//! nodes, for globs as people write them; there is nothing in it that minimising would find, because every program has states to itself at its end.
//!
//! Where that fails (globs that share their end and have two `*` multiply; `?` after `*` doubles) the set is cut into halves until each half fits.
//! All bounds count steps and states, not time, so that they say the same on every machine.

use super::{BYTES, MAX_ALONE, MAX_ALONE_BYTES, MAX_AUTOMATA};
use crate::build::BuildError;
use crate::glob::{Op, ops};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

/// Bytes in all programs together.
const MAX_PROGRAM_BYTES: usize = 8 << 20;
/// Bytes in all automata together.
const MAX_BYTES: usize = 8 << 20;
/// Room below which no more automata are tried to be made.
const LEAST_ROOM: usize = MAX_BYTES / 128;
/// Nodes of the tree of one automaton.
const MAX_NODES: usize = 1 << 20;
/// Different steps in the programs of one automaton, runs aside.
const MAX_DISTINCT: usize = 512;
/// States of one automaton: what a `u16` numbers, and no more than a set needs that does not multiply.
const MAX_STATES: usize = u16::MAX as usize;
const STATES: usize = 4096;
const STATES_PER_NODE: usize = 8;
/// Nodes that are entered while one automaton is made.
const MAX_STEPS: usize = 8_000_000;
const STEPS: usize = 1_000_000;
const STEPS_PER_NODE: usize = 256;
/// Nodes that are entered while all of them are made.
const MAX_ALL_STEPS: usize = 100_000_000;
/// Steps that take several bytes, after a `*`, from which on a program is likely to be too large for an automaton.
const RISKY: usize = 6;

/// Writes the section for programs, whose numbers are their places in the list.
///
/// # Errors
/// [`BuildError::Globs`] when more programs than may be tried one by one fit no automaton, [`BuildError::TooMany`] for more bytes than are looked at.
pub(crate) fn write(programs: &[&[u8]]) -> Result<Vec<u8>, BuildError> {
    if programs.is_empty() {
        return Ok(Vec::new());
    }
    if programs.iter().map(|program| program.len()).sum::<usize>() > MAX_PROGRAM_BYTES {
        return Err(BuildError::TooMany { what: "bytes in globs with their alternatives spelt out", limit: MAX_PROGRAM_BYTES });
    }
    let mut spelled: Vec<Spelled<'_>> = (0..).zip(programs).map(|(number, program)| Spelled { ops: reversed(program), number }).collect();
    spelled.sort_unstable();
    let mut plan = Plan::default();
    plan.place_all(spelled);
    plan.section(programs)
}

/// A program from its end to its start.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Spelled<'p> {
    ops: Vec<Op<'p>>,
    number: u32,
}

impl Spelled<'_> {
    /// Whether it has to remember much: after a `*`, many steps that take several bytes.
    fn is_risky(&self) -> bool {
        let runs = self.ops.split(|op| *op == Op::AnyRun).skip(1);
        let several = |op: &&Op<'_>| matches!(op, Op::AnyOne | Op::Class(..));
        runs.map(|steps| steps.iter().filter(several).count()).any(|count| count >= RISKY)
    }
}

fn reversed(program: &[u8]) -> Vec<Op<'_>> {
    let mut reversed: Vec<Op<'_>> = ops(program).collect();
    reversed.reverse();
    let wild = |op: &Op<'_>| matches!(op, Op::AnyRun | Op::AnyOne);
    for wilds in reversed.chunk_by_mut(|a, b| wild(a) && wild(b)) {
        wilds.sort_unstable_by_key(|op| *op == Op::AnyRun);
    }
    reversed.dedup_by(|a, b| *a == Op::AnyRun && *b == Op::AnyRun);
    reversed
}

/// Which programs are where.
#[derive(Default)]
struct Plan {
    automata: Vec<Vec<u8>>,
    bytes: usize,
    steps: usize,
    alone: Vec<u32>,
}

impl Plan {
    /// One automaton if they fit; otherwise those that are likely to be too large keep no room from the others.
    fn place_all(&mut self, all: Vec<Spelled<'_>>) {
        if self.add(&all) {
            return;
        }
        let (risky, others): (Vec<_>, Vec<_>) = all.into_iter().partition(Spelled::is_risky);
        match (others.as_slice(), risky.as_slice()) {
            (all, []) | ([], all) => self.halve(all),
            (others, risky) => {
                self.place(others);
                self.place(risky);
            }
        }
    }

    fn place(&mut self, set: &[Spelled<'_>]) {
        if !self.add(set) {
            self.halve(set);
        }
    }

    /// Neighbours have the same ends, so that halves have less in common than any other two parts.
    fn halve(&mut self, set: &[Spelled<'_>]) {
        match set.split_at(set.len() / 2) {
            ([], alone) => self.alone.extend(alone.iter().map(|program| program.number)),
            (first, second) => {
                self.place(first);
                self.place(second);
            }
        }
    }

    /// Whether they fit.
    fn add(&mut self, set: &[Spelled<'_>]) -> bool {
        let left = MAX_ALL_STEPS.saturating_sub(self.steps);
        let room = MAX_BYTES.saturating_sub(self.bytes);
        if self.automata.len() >= MAX_AUTOMATA || left == 0 || room < LEAST_ROOM {
            return false;
        }
        let Some(tree) = Tree::new(set) else { return false };
        let mut states = States::new(&tree, left, room);
        let automaton = states.all().and_then(|()| states.write());
        self.steps += tree.steps + states.steps;
        match automaton.filter(|automaton| automaton.len() <= room) {
            Some(automaton) => {
                self.bytes += automaton.len();
                self.automata.push(automaton);
                true
            }
            None => false,
        }
    }

    fn section(mut self, programs: &[&[u8]]) -> Result<Vec<u8>, BuildError> {
        let alone_bytes = self.alone.iter().filter_map(|number| programs.get(*number as usize)).map(|program| program.len()).sum();
        let too_large = BuildError::Globs { found: self.alone.len(), bytes: alone_bytes, limit: MAX_ALONE_BYTES };
        if self.alone.len() > MAX_ALONE || alone_bytes > MAX_ALONE_BYTES {
            return Err(too_large);
        }
        self.alone.sort_unstable();
        let mut section = Vec::with_capacity(self.bytes + 8 + 4 * self.automata.len());
        let number = |number: usize| u32::try_from(number).map_err(|_| too_large.clone()).map(u32::to_le_bytes);
        section.extend(number(self.automata.len())?);
        section.extend(number(self.alone.len())?);
        for automaton in &self.automata {
            section.extend(number(automaton.len())?);
        }
        section.extend(self.automata.iter().flatten());
        for (number, program) in self.alone.iter().filter_map(|number| Some((number, programs.get(*number as usize)?))) {
            section.extend(number.to_le_bytes());
            section.extend(u16::try_from(program.len()).map_err(|_| too_large.clone())?.to_le_bytes());
            section.extend(*program);
        }
        Ok(section)
    }
}

/// What several programs have read so far. Nodes are numbered in the order in which a walk comes by them: what is below a node follows it.
#[derive(Default)]
struct Node {
    /// Steps onward but for `*`: what each takes, as an index of [`Tree::takes`], and where it leads.
    onward: Vec<(usize, u32)>,
    /// Where a `*` onward leads.
    run: Option<u32>,
    /// Whether it was reached by a `*`, so that any byte leads here again.
    loops: bool,
    /// Programs that end here.
    ends: Vec<u32>,
    /// Programs that end here or below.
    programs: u32,
    /// The first node that is not below.
    behind: u32,
}

/// Programs with what they have in common at their ends, and the bytes that they tell apart.
struct Tree {
    nodes: Vec<Node>,
    /// Classes that a step takes.
    takes: Vec<Vec<u8>>,
    class_of: [u8; BYTES],
    classes: usize,
    /// What it took to tell bytes apart, in steps.
    steps: usize,
}

impl Tree {
    /// From sorted programs; `None` for too many nodes or too many different steps.
    fn new(set: &[Spelled<'_>]) -> Option<Self> {
        let distinct: BTreeSet<Op<'_>> = set.iter().flat_map(|program| &program.ops).copied().filter(|op| *op != Op::AnyRun).collect();
        if distinct.len() > MAX_DISTINCT {
            return None;
        }
        let pairs = |op: &Op<'_>| if let Op::Class(pairs, _) = op { pairs.len() / 2 } else { 0 };
        let steps = distinct.iter().map(|op| BYTES * (1 + pairs(op))).sum();
        let (class_of, classes) = classes(&distinct);
        let takes = distinct.iter().map(|op| {
            let taken: BTreeSet<u8> = (0..=u8::MAX).zip(class_of).filter(|(byte, _)| op.takes(*byte)).map(|(_, class)| class).collect();
            taken.into_iter().collect()
        });
        let takes = takes.collect();
        let index_of: HashMap<Op<'_>, usize> = distinct.into_iter().zip(0..).collect();

        let mut tree = Self { nodes: vec![Node::default()], takes, class_of, classes, steps };
        let (mut path, mut before): (Vec<u32>, &[Op<'_>]) = (vec![0], &[]);
        for program in set {
            let shared = before.iter().zip(&program.ops).take_while(|(a, b)| a == b).count();
            tree.leave(&mut path, shared + 1)?;
            for op in program.ops.iter().skip(shared) {
                path.push(tree.grow(*path.last()?, index_of.get(op).copied())?);
            }
            tree.nodes.get_mut(*path.last()? as usize)?.ends.push(program.number);
            for node in &path {
                tree.nodes.get_mut(*node as usize)?.programs += 1;
            }
            before = &program.ops;
        }
        tree.leave(&mut path, 0)?;
        Some(tree)
    }

    /// A new node behind a step; `None` as the step is `*`.
    fn grow(&mut self, from: u32, step: Option<usize>) -> Option<u32> {
        let id = u32::try_from(self.nodes.len()).ok().filter(|_| self.nodes.len() < MAX_NODES)?;
        let node = self.nodes.get_mut(from as usize)?;
        match step {
            Some(takes) => node.onward.push((takes, id)),
            None => node.run = Some(id),
        }
        self.nodes.push(Node { loops: step.is_none(), ..Node::default() });
        Some(id)
    }

    /// Nothing more will be below the nodes of the path from `keep` on.
    fn leave(&mut self, path: &mut Vec<u32>, keep: usize) -> Option<()> {
        let behind = u32::try_from(self.nodes.len()).ok()?;
        while path.len() > keep {
            self.nodes.get_mut(path.pop()? as usize)?.behind = behind;
        }
        Some(())
    }

    fn node(&self, id: u32) -> Option<&Node> {
        self.nodes.get(id as usize)
    }

    /// Adds a node, and those behind runs of nothing.
    fn enter(&self, id: u32, set: &mut Vec<u32>) {
        let mut at = Some(id);
        while let Some(id) = at {
            set.push(id);
            at = self.node(id).and_then(|node| node.run);
        }
    }

    /// Sorts a set, and drops each node all of whose programs are also at some `*` below it.
    fn settle(&self, set: &mut Vec<u32>) {
        set.sort_unstable();
        set.dedup();
        // Parts of the tree, from the last to the first, with the programs in each that are at a `*`.
        let mut at_runs: Vec<(u32, u32)> = Vec::new();
        let mut kept = Vec::with_capacity(set.len());
        while let Some((id, node)) = set.pop().and_then(|id| Some((id, self.node(id)?))) {
            let mut below = 0;
            while let Some((_, programs)) = at_runs.pop_if(|(part, _)| *part < node.behind) {
                below += programs;
            }
            if below < node.programs {
                kept.push(id);
            }
            at_runs.push((id, if node.loops { node.programs } else { below }));
        }
        kept.reverse();
        *set = kept;
    }
}

/// Bytes that no step tells apart are of one class. Classes are numbered by their first byte.
fn classes(steps: &BTreeSet<Op<'_>>) -> ([u8; BYTES], usize) {
    let (mut class_of, mut count) = ([0; BYTES], 1);
    for step in steps {
        let mut parts: BTreeMap<(u8, bool), u8> = BTreeMap::new();
        for (byte, class) in (0..=u8::MAX).zip(&mut class_of) {
            // There are no more classes than bytes.
            let new = u8::try_from(parts.len()).unwrap_or(u8::MAX);
            *class = *parts.entry((*class, step.takes(byte))).or_insert(new);
        }
        count = parts.len();
    }
    (class_of, count)
}

/// The subsets of a tree's nodes that a name can lead to.
struct States<'t> {
    tree: &'t Tree,
    sets: Vec<Rc<[u32]>>,
    known: HashMap<Rc<[u32]>, u16>,
    /// A row of classes for each state.
    next: Vec<u16>,
    steps: usize,
    max_steps: usize,
    max_states: usize,
}

impl<'t> States<'t> {
    /// The dead state, and the one to start in. No more steps than are `left`, and no more bytes than there is `room` for.
    fn new(tree: &'t Tree, left: usize, room: usize) -> Self {
        let nodes = tree.nodes.len();
        let mut states = Self {
            tree,
            sets: Vec::new(),
            known: HashMap::new(),
            next: Vec::new(),
            steps: 0,
            max_steps: left.min(MAX_STEPS).min(STEPS + STEPS_PER_NODE * nodes),
            max_states: MAX_STATES.min(STATES + STATES_PER_NODE * nodes).min(room / (2 * tree.classes)),
        };
        states.state(&mut Vec::new());
        let mut start = Vec::new();
        tree.enter(0, &mut start);
        states.state(&mut start);
        states
    }

    /// The number of a set; `None` for a state too many.
    fn state(&mut self, set: &mut Vec<u32>) -> Option<u16> {
        self.tree.settle(set);
        if let Some(state) = self.known.get(set.as_slice()) {
            return Some(*state);
        }
        let state = u16::try_from(self.sets.len()).ok().filter(|_| self.sets.len() < self.max_states)?;
        let set: Rc<[u32]> = set.as_slice().into();
        self.known.insert(Rc::clone(&set), state);
        self.sets.push(set);
        Some(state)
    }

    /// Finds them all; `None` for too many, or too many steps.
    fn all(&mut self) -> Option<()> {
        let mut nexts = vec![Vec::new(); self.tree.classes];
        let mut at = 0;
        while let Some(set) = self.sets.get(at).map(Rc::clone) {
            for (id, node) in set.iter().filter_map(|id| Some((*id, self.tree.node(*id)?))) {
                let loops = if node.loops { self.tree.classes } else { 0 };
                self.steps += loops + node.onward.iter().filter_map(|(takes, _)| self.tree.takes.get(*takes)).map(Vec::len).sum::<usize>();
                if self.steps > self.max_steps {
                    return None;
                }
                if node.loops {
                    nexts.iter_mut().for_each(|next| self.tree.enter(id, next));
                }
                for (takes, to) in &node.onward {
                    for class in self.tree.takes.get(*takes)? {
                        self.tree.enter(*to, nexts.get_mut(usize::from(*class))?);
                    }
                }
            }
            // Most classes lead where the one before leads; at first, nowhere.
            let (mut before, mut state) = (Vec::new(), 0);
            for next in &mut nexts {
                if *next != before {
                    before.clone_from(next);
                    state = self.state(next)?;
                }
                self.next.push(state);
                next.clear();
            }
            self.steps += nexts.len();
            at += 1;
        }
        Some(())
    }

    /// The programs that match when a name ends in a state, by number.
    fn accepted(&self, set: &[u32]) -> Vec<u32> {
        let mut programs: Vec<u32> = set.iter().filter_map(|id| self.tree.node(*id)).flat_map(|node| &node.ends).copied().collect();
        programs.sort_unstable();
        programs
    }

    /// The automaton's bytes. Accepting states get the last numbers; otherwise states keep the order in which they were found.
    fn write(&self) -> Option<Vec<u8>> {
        let (accepting, others): (Vec<_>, Vec<_>) =
            self.sets.iter().map(|set| self.accepted(set)).enumerate().partition(|(_, programs)| !programs.is_empty());
        let order: Vec<usize> = others.iter().chain(&accepting).map(|(state, _)| *state).collect();
        let mut renumbered = vec![0_u16; order.len()];
        for (new, old) in (0..).zip(&order) {
            *renumbered.get_mut(*old)? = new;
        }
        let mut out = Vec::with_capacity(2 * self.next.len() + 4 * accepting.len());
        // The state after the dead one was found first: it starts.
        for count in [order.len(), self.tree.classes, accepting.len(), usize::from(*renumbered.get(1)?)] {
            out.extend(u16::try_from(count).ok()?.to_le_bytes());
        }
        out.extend(self.tree.class_of);
        for old in &order {
            let row = self.next.get(old * self.tree.classes..(old + 1) * self.tree.classes)?;
            for state in row {
                out.extend(renumbered.get(usize::from(*state))?.to_le_bytes());
            }
        }
        let mut end = 0;
        for (_, programs) in &accepting {
            end += programs.len();
            out.extend(u32::try_from(end).ok()?.to_le_bytes());
        }
        out.extend(accepting.iter().flat_map(|(_, programs)| programs).flat_map(|number| number.to_le_bytes()));
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glob::Glob;

    fn compiled(glob: &str) -> Vec<u8> {
        Glob::parse(glob).unwrap().programs()[0].clone()
    }

    #[test]
    fn too_many_that_no_automaton_can_hold_are_an_error_that_says_so() {
        let plan = |count: u32| Plan { alone: (0..count).rev().collect(), ..Plan::default() };
        let short = vec![b"a".as_slice(); MAX_ALONE + 1];
        let error = plan(4097).section(&short).unwrap_err();
        assert_eq!(error, BuildError::Globs { found: 4097, bytes: 4097, limit: MAX_ALONE_BYTES });
        assert!(error.to_string().contains("write fewer globs, or globs with fewer"), "{error}");
        let section = plan(4096).section(&short).unwrap();
        assert_eq!(super::super::Automata::open(&section).unwrap().check(4096), Ok(()));
        // What bounds them is their bytes.
        let long = vec![b"?a*x".as_slice(); MAX_ALONE];
        assert_eq!(
            plan(2049).section(&long).unwrap_err(),
            BuildError::Globs { found: 2049, bytes: MAX_ALONE_BYTES + 4, limit: MAX_ALONE_BYTES }
        );
        let section = plan(2048).section(&long).unwrap();
        assert_eq!(super::super::Automata::open(&section).unwrap().check(2048), Ok(()));
    }

    #[test]
    fn more_bytes_than_are_looked_at_are_an_error() {
        let program = vec![b'?'; 1 << 15];
        let error = write(&vec![program.as_slice(); 257]).unwrap_err();
        assert_eq!(error, BuildError::TooMany { what: "bytes in globs with their alternatives spelt out", limit: MAX_PROGRAM_BYTES });
    }

    #[test]
    fn steps_that_differ_too_much_are_spread() {
        let programs: Vec<Vec<u8>> = (0..=255)
            .flat_map(|first| [(first, 0), (first, 1), (first, 2)])
            .map(|(first, more)| vec![b'[', 0, 1, first, first.saturating_add(more), b'.', b't'])
            .collect();
        let section = write(&programs.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        let automata = super::super::Automata::open(&section).unwrap();
        assert_eq!((automata.automata().count(), automata.check(768)), (2, Ok(())));
        let mut found = Vec::new();
        automata.for_each_match(b"a.t", |number| found.push(number));
        assert_eq!(found, [3 * 95 + 2, 3 * 96 + 1, 3 * 96 + 2, 3 * 97, 3 * 97 + 1, 3 * 97 + 2]);
    }

    #[test]
    fn work_and_room_are_bounded() {
        // As many steps as one automaton has, and no more.
        let programs = ["ab", "cd", "ef"].map(|pair| compiled(&format!("{}[{pair}]*.t", "[a-f]".repeat(40))));
        let spelled: Vec<Spelled<'_>> = (0..).zip(&programs).map(|(number, program)| Spelled { ops: reversed(program), number }).collect();
        let mut plan = Plan::default();
        assert!(spelled.iter().all(Spelled::is_risky));
        plan.place_all(spelled);
        assert_eq!((plan.automata.len(), plan.alone.len()), (0, 3));
        assert!(plan.steps <= 5 * (STEPS + STEPS_PER_NODE * 200), "{}", plan.steps);
        for full in [Plan { steps: MAX_ALL_STEPS, ..Plan::default() }, Plan { bytes: MAX_BYTES, ..Plan::default() }] {
            let mut plan = full;
            plan.place_all(vec![Spelled { ops: reversed(b"a.test"), number: 0 }]);
            assert_eq!((plan.automata.len(), plan.alone), (0, vec![0]));
        }
    }

    #[test]
    fn what_is_likely_to_be_too_large_keeps_no_room_from_the_others() {
        for (program, risky) in
            [("??????-*.t", true), ("?????-*.t", false), ("*-??????.t", false), ("???x*???-*.t", false), ("[ab]?????-*.t", true)]
        {
            assert_eq!(Spelled { ops: reversed(&compiled(program)), number: 0 }.is_risky(), risky, "{program}");
        }
    }
}
