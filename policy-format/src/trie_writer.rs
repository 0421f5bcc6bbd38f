//! The writer of the domain trie.
//!
//! Nodes are placed in the order of their hashes, which is that of their homes: each goes into the first group from its home on that has room, and no group is
//! looked at twice. So the result depends on the rules alone, not on the order in which they were added.

use crate::build::{BuildError, count};
use crate::packed::{self, MAX_SUFFIX, whole_bytes};
use crate::records::Layer;
use crate::rules::{Access, RuleKind, RuleRecord};
use crate::ruleset::{Named, RuleSet};
use crate::threads;
use crate::trie::{
    DEPTHS, ENDS_AT, FLAGS_AT, GROUP_LEN, HEADER_LEN, Header, Key, Keys, LAST_DEPTH, Labels, MAX_PROBE, OVERFLOW, PAD, RECORDS_AT, SLOTS,
    SUFFIX_LEN, SUFFIX_TEXT, SUFFIXES, fold, home, low_word, name_at, several, tag,
};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Keys that are tried.
const ATTEMPTS: u32 = 16;
/// By how many powers of two the table grows over the attempts.
const MOST_ROOM: u32 = 4;
/// Nodes that a hundred groups have on average: fuller groups overflow more often.
const FILL: u64 = 78 * SLOTS as u64;
/// Bytes of records that a group has on average; 255 fit.
const FILL_BYTES: u64 = 205;
/// From how many rules on it pays to share the work among threads.
const PARALLEL: usize = 50_000;
/// Of so many rules one is looked at to find frequent suffixes.
const SAMPLE: u64 = 8;

/// What the writer needs to know of the terms of a [`RuleSet`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct TermsInfo {
    /// Index in section `terms`.
    pub(crate) index: u16,
    pub(crate) access: Access,
    pub(crate) layer: Layer,
}

/// The sections of a trie.
pub(crate) struct Written {
    pub(crate) trie: Vec<u8>,
    pub(crate) records: Vec<u8>,
    pub(crate) suffixes: Vec<u8>,
    /// Rules of names that have several: name by name, in the order of slots.
    pub(crate) several: Vec<RuleRecord>,
}

/// A rule or a base on its way to its place.
#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u64,
    rule: u32,
    /// 0: the rule's own node. Otherwise a base's, and how many labels more the rule's name has.
    depth: u32,
}

/// Writes the names of a set. `terms` is indexed by the set's own numbers; `listed` is the number of the first rule of names that have several.
pub(crate) fn write(set: &RuleSet, terms: &[TermsInfo], listed: u32) -> Result<Written, BuildError> {
    count(set.named().len(), "rules", u32::MAX as usize / 4)?;
    let survey = Survey::of(set);
    let suffixes = Suffixes::choose(set, &survey.sample);
    for attempt in 0..ATTEMPTS {
        let key = survey.key(set, attempt);
        let entries = entries(set, &key);
        let runs = Runs::of(&entries);
        let last = count(listed as usize + runs.several, "rules", u32::MAX as usize)?;
        let index = terms.iter().map(|terms| terms.index).max().unwrap_or(0);
        let (terms_len, line_len) = (if u32::from(index) < several(1) { 1 } else { 2 }, bytes_of(survey.line.max(last)));
        let several = several(terms_len);
        let mut header = Header { key, probe: 1, terms: terms_len, line: line_len, single: survey.single, several, ..Header::default() };
        let head = name_at(terms_len, line_len);
        // Names that lie too close together, such as very long ones, get more room.
        let room = 1 << attempt.min(MOST_ROOM);
        header.homes = homes(&runs, suffixes.bytes(set, &survey.sample, head), set.named().len(), room)?;
        if let Some(written) = Placing::new(set, terms, &suffixes, header, listed).place(&entries)? {
            return Ok(written);
        }
    }
    Err(BuildError::Collisions)
}

/// Enough groups that few overflow, of slots or of bytes.
fn homes(runs: &Runs, record_bytes: u64, rules: usize, room: u64) -> Result<u32, BuildError> {
    let bytes = record_bytes + (runs.nodes.saturating_sub(rules)) as u64;
    let by_slots = (runs.nodes as u64 * 100).div_ceil(FILL);
    let homes = by_slots.max(bytes.div_ceil(FILL_BYTES)).max(1).saturating_mul(room);
    count(usize::try_from(homes).unwrap_or(usize::MAX), "names", u32::MAX as usize / SLOTS - 64)
}

/// Bytes that a number needs.
fn bytes_of(number: u32) -> u8 {
    u8::try_from((32 - number.leading_zeros()).div_ceil(8)).unwrap_or(4)
}

/// What is to be known of all names before the first is placed. It does not depend on their order.
#[derive(Default)]
struct Survey {
    sums: [u64; 2],
    names: u64,
    line: u32,
    single: bool,
    /// Some of the rules, chosen by their names.
    sample: Vec<u32>,
}

impl Survey {
    fn of(set: &RuleSet) -> Self {
        let every = if set.named().len() < PARALLEL { 1 } else { SAMPLE };
        let parts = spread(set.named(), |first, rules| {
            let mut part = Self::default();
            for (index, rule) in (first..).zip(rules) {
                let text = set.name(rule);
                let keys = Keys::of(text);
                // Any key will do: the sum tells one set of names from another.
                let (hash, base, _) = Key([1, 2, 3, 4].map(|n| fold(n, 0x9e37_79b9_7f4a_7c15))).name(&Labels { text, keys: &keys });
                part.sums[0] = part.sums[0].wrapping_add(hash);
                part.sums[1] = part.sums[1].wrapping_add(fold(hash ^ base.rotate_left(32), 0xd1b5_4a32_d192_ed03));
                part.names += 1;
                part.line = part.line.max(rule.line);
                part.single |= keys.top == 0;
                if hash % every == 0 {
                    part.sample.push(index);
                }
            }
            part
        });
        parts.into_iter().fold(Self::default(), |mut all, part| {
            all.sums = [all.sums[0].wrapping_add(part.sums[0]), all.sums[1].wrapping_add(part.sums[1])];
            all.names += part.names;
            all.line = all.line.max(part.line);
            all.single |= part.single;
            all.sample.extend(part.sample);
            all
        })
    }

    /// The key of an attempt: the first is made of sums, which are cheap and which whoever writes the names could bring about; the others are made of the names
    /// themselves. They can be foreseen too, but none can be chosen.
    fn key(&self, set: &RuleSet, attempt: u32) -> Key {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"netpolicy trie key");
        for number in [u64::from(attempt), self.names, self.sums[0], self.sums[1]] {
            hasher.update(&number.to_le_bytes());
        }
        if attempt > 0 {
            let mut names: Vec<&[u8]> = set.named().iter().map(|rule| set.name(rule)).collect();
            names.sort_unstable();
            for name in names {
                hasher.update(name);
                hasher.update(&[0]);
            }
        }
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(hasher.finalize().as_bytes().as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        Key(words)
    }
}

/// Shares slices of the rules among threads; each is told the number of its first rule.
fn spread<T: Send>(rules: &[Named], work: impl Fn(u32, &[Named]) -> T + Sync) -> Vec<T> {
    threads::in_parts(rules.len(), PARALLEL, |part| {
        work(u32::try_from(part.start).unwrap_or(u32::MAX), rules.get(part).unwrap_or_default())
    })
}

/// What is to be placed, in the order of hashes.
fn entries(set: &RuleSet, key: &Key) -> Vec<Entry> {
    let parts = spread(set.named(), |first, rules| {
        let mut entries = Vec::with_capacity(rules.len() + rules.len() / 2);
        for (rule, named) in (first..).zip(rules) {
            let text = set.name(named);
            let (hash, base, depth) = key.name(&Labels { text, keys: &Keys::of(text) });
            entries.push(Entry { hash, rule, depth: 0 });
            if depth > 0 {
                entries.push(Entry { hash: base, rule, depth });
            }
        }
        entries
    });
    let mut parts = parts.into_iter();
    let mut entries = parts.next().unwrap_or_default();
    parts.for_each(|part| entries.extend(part));
    sort(&mut entries, threads::count());
    entries
}

fn sort(entries: &mut [Entry], threads: usize) {
    if threads < 2 || entries.len() < PARALLEL {
        return entries.sort_unstable_by_key(|entry| entry.hash);
    }
    let middle = entries.len() / 2;
    entries.select_nth_unstable_by_key(middle, |entry| entry.hash);
    let (low, high) = entries.split_at_mut(middle);
    let shared = std::thread::scope(|scope| {
        let other = std::thread::Builder::new().spawn_scoped(scope, || sort(low, threads / 2));
        sort(high, threads - threads / 2);
        other.is_ok()
    });
    // The system had no thread to give.
    if !shared {
        sort(low, 1);
    }
}

/// How many nodes there are, and rules of nodes that have several.
#[derive(Default)]
struct Runs {
    nodes: usize,
    several: usize,
}

impl Runs {
    fn of(entries: &[Entry]) -> Self {
        let mut runs = Self::default();
        for node in entries.chunk_by(|a, b| a.hash == b.hash) {
            runs.nodes += 1;
            let rules = if node.len() < 2 { 0 } else { node.iter().filter(|entry| entry.depth == 0).count() };
            runs.several += if rules < 2 { 0 } else { rules };
        }
        runs
    }
}

/// Texts that many names end in.
struct Suffixes {
    /// Packed; the bits of each in the highest byte.
    texts: Vec<u128>,
    numbers: HashMap<u128, u8, BuildHasherDefault<Folded>>,
}

impl Suffixes {
    fn choose(set: &RuleSet, sample: &[u32]) -> Self {
        let mut counts: HashMap<u128, u64, BuildHasherDefault<Folded>> = HashMap::default();
        for name in sampled(set, sample) {
            for (suffix, _) in candidates(&name) {
                *counts.entry(suffix).or_default() += 1;
            }
        }
        // Only those that save more than they take.
        let of_all = |n: u64| n * (set.named().len() as u64) / (sample.len() as u64).max(1);
        let saves = |text: u128, n: u64| of_all(n) * whole_bytes(chars(text)) as u64;
        let worth = counts.into_iter().filter(|(text, n)| saves(*text, *n) > 2 * SUFFIX_LEN as u64);
        let mut best: Vec<(Reverse<u64>, u128)> = worth.map(|(text, n)| (Reverse(n * chars(text) as u64), text)).collect();
        best.sort_unstable();
        let texts: Vec<u128> = std::iter::once(0).chain(best.into_iter().map(|(_, text)| text).take(SUFFIXES - 1)).collect();
        let numbers = texts.iter().copied().zip(0..=u8::MAX).skip(1).collect();
        Self { texts, numbers }
    }

    /// The suffix to write a name with, and its characters.
    fn of(&self, name: &Keys) -> (u8, usize) {
        candidates(name).find_map(|(text, chars)| Some((*self.numbers.get(&text)?, chars))).unwrap_or((0, 0))
    }

    /// About how many bytes the records of all names take.
    fn bytes(&self, set: &RuleSet, sample: &[u32], head: usize) -> u64 {
        let bytes = sampled(set, sample)
            .map(|name| (head + packed::bytes_for(usize::from(name.len)) - whole_bytes(self.of(&name).1)) as u64)
            .sum::<u64>();
        (bytes * set.named().len() as u64).div_ceil((sample.len() as u64).max(1))
    }

    fn write(&self) -> Vec<u8> {
        self.texts.iter().flat_map(|text| text.to_le_bytes()).collect()
    }
}

fn sampled<'s>(set: &'s RuleSet, sample: &'s [u32]) -> impl Iterator<Item = Keys> + use<'s> {
    sample.iter().filter_map(|index| set.named().get(*index as usize)).map(|rule| Keys::of(set.name(rule)))
}

/// What a name may be said to end in, the longest first, with the dot before it: its last two labels, its last one.
fn candidates(name: &Keys) -> impl Iterator<Item = (u128, usize)> {
    let Keys { tail, len, base, top, .. } = *name;
    let short = move |start: u8| {
        let chars = usize::from(len - start.checked_sub(1)?);
        (chars <= MAX_SUFFIX).then(|| (tail.last(chars).sixteen(0) | (chars as u128) << SUFFIX_TEXT, chars))
    };
    [base, top].into_iter().filter_map(short)
}

fn chars(suffix: u128) -> usize {
    (suffix >> SUFFIX_TEXT) as usize
}

/// A hasher for packed texts, which need no more than to be mixed: who writes them gains nothing by collisions but a slow build of a sample.
#[derive(Default)]
struct Folded(u64);

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = fold(self.0 ^ word ^ 0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03);
    }

    fn write_u128(&mut self, number: u128) {
        self.write_u64((number >> 64) as u64);
        self.write_u64(low_word(number));
    }
}

/// A rule of the node that is being put together.
#[derive(Clone, Copy)]
struct Member {
    /// Its name within the batch.
    name: (usize, usize),
    rule: Named,
    info: TermsInfo,
}

/// The table as far as it is filled.
struct Placing<'s> {
    set: &'s RuleSet,
    terms: &'s [TermsInfo],
    suffixes: &'s Suffixes,
    header: Header,
    listed: u32,
    groups: Vec<[u8; GROUP_LEN]>,
    records: Vec<u8>,
    several: Vec<RuleRecord>,
    /// The group that is filled, its slots, and the bytes of its records.
    group: usize,
    used: usize,
    bytes: usize,
    record: Vec<u8>,
}

/// Entries whose names are fetched together: memory answers many questions at once.
const BATCH: usize = 256;

impl<'s> Placing<'s> {
    fn new(set: &'s RuleSet, terms: &'s [TermsInfo], suffixes: &'s Suffixes, header: Header, listed: u32) -> Self {
        let (groups, records) = (vec![[0; GROUP_LEN]; header.homes as usize], Vec::with_capacity(set.named().len() * 18));
        let (several, record) = (Vec::new(), Vec::with_capacity(256));
        Self { set, terms, suffixes, header, listed, groups, records, several, group: 0, used: 0, bytes: 0, record }
    }

    /// `None`: under this key names collide, or groups run over too far.
    fn place(mut self, entries: &[Entry]) -> Result<Option<Written>, BuildError> {
        let (mut members, mut names, mut batch): (Vec<Member>, Vec<u8>, Vec<(Entry, Named)>) = (Vec::new(), Vec::new(), Vec::new());
        let mut depths = 0;
        let mut rest = entries;
        while !rest.is_empty() {
            let (now, later) = split_batch(rest);
            rest = later;
            batch.clear();
            names.clear();
            batch.extend(now.iter().filter_map(|entry| Some((*entry, *self.set.named().get(entry.rule as usize)?))));
            let mut ends = Vec::with_capacity(batch.len());
            for (entry, rule) in &batch {
                if entry.depth == 0 {
                    names.extend_from_slice(self.set.name(rule));
                }
                ends.push(names.len());
            }
            for (at, (entry, rule)) in batch.iter().enumerate() {
                if entry.depth == 0 {
                    let end = ends.get(at).copied().unwrap_or(0);
                    let info = *self.terms.get(usize::from(rule.terms)).ok_or(BuildError::Collisions)?;
                    members.push(Member { name: (end - usize::from(rule.len), end), rule: *rule, info });
                } else {
                    depths |= 1 << DEPTHS << (entry.depth - 1).min(LAST_DEPTH);
                    self.header.depths |= 1_u128.checked_shl(entry.depth - 1).unwrap_or(0);
                }
                if batch.get(at + 1).is_none_or(|(next, _)| next.hash != entry.hash) {
                    if !self.node(entry.hash, depths, &mut members, &names)? {
                        return Ok(None);
                    }
                    members.clear();
                    depths = 0;
                }
            }
        }
        Ok(Some(self.finish()?))
    }

    fn node(&mut self, hash: u64, depths: u8, members: &mut [Member], names: &[u8]) -> Result<bool, BuildError> {
        let text = |member: &Member| names.get(member.name.0..member.name.1).unwrap_or_default();
        let mut record = std::mem::take(&mut self.record);
        record.clear();
        let kinds = members.iter().fold(0, |kinds, member| kinds | member.rule.kind);
        record.push(depths | kinds);
        if let Some(first) = members.first() {
            let name = text(first);
            if members.iter().any(|member| text(member) != name) {
                return Ok(false);
            }
            let (terms, line) = match members {
                [only] => (u32::from(only.info.index), only.rule.line),
                _ => (self.header.several, count(self.listed as usize + self.several.len(), "rules", u32::MAX as usize)?),
            };
            record.extend(terms.to_le_bytes().iter().take(usize::from(self.header.terms)));
            record.extend(line.to_le_bytes().iter().take(usize::from(self.header.line)));
            let (suffix, chars) = self.suffixes.of(&Keys::of(name));
            record.push(suffix);
            packed::write(name, whole_bytes(chars), &mut record);
        }
        let slot = self.slot(hash, &record)?;
        self.record = record;
        let Some(slot) = slot else { return Ok(false) };
        if members.len() > 1 {
            // The closest come last, and of equals the strongest layer's.
            members.sort_unstable_by_key(|Member { rule, info, .. }| {
                let exact = rule.kind == RuleKind::Exact as u8;
                (exact, info.access, Reverse(info.layer), rule.line, rule.kind, info.index)
            });
            for member in members {
                let kind = RuleKind::from_number(member.rule.kind).unwrap_or(RuleKind::Exact);
                self.several.push(RuleRecord { anchor: slot, line: member.rule.line, terms: member.info.index, kind });
            }
        } else {
            self.header.rules += u32::from(kinds != 0);
        }
        Ok(true)
    }

    /// A slot in the first group with room, from the hash's home on.
    fn slot(&mut self, hash: u64, record: &[u8]) -> Result<Option<u32>, BuildError> {
        let home = home(hash, self.header.homes) as usize;
        if home > self.group {
            self.go_to(home)?;
        }
        if self.used == SLOTS || self.bytes + record.len() > usize::from(u8::MAX) {
            self.go_to(self.group + 1)?;
        }
        let far = self.group - home;
        if far >= usize::from(MAX_PROBE) {
            return Ok(None);
        }
        self.header.probe = self.header.probe.max(u8::try_from(far + 1).unwrap_or(MAX_PROBE));
        for group in self.groups.iter_mut().skip(home).take(far) {
            set(group, FLAGS_AT, OVERFLOW);
        }
        self.bytes += record.len();
        self.records.extend_from_slice(record);
        let (used, end) = (self.used, u8::try_from(self.bytes).unwrap_or(u8::MAX));
        self.used += 1;
        if let Some(group) = self.groups.get_mut(self.group) {
            set(group, used, tag(hash));
            set(group, ENDS_AT + used, end);
        }
        Ok(Some(count(self.group * SLOTS + used, "names", u32::MAX as usize)?))
    }

    fn go_to(&mut self, group: usize) -> Result<(), BuildError> {
        if group >= self.groups.len() {
            self.groups.resize(group + 1, [0; GROUP_LEN]);
        }
        let first = count(self.records.len(), "bytes in names", u32::MAX as usize)?.to_le_bytes();
        for next in self.groups.iter_mut().take(group + 1).skip(self.group + 1) {
            for (at, byte) in (RECORDS_AT..).zip(first) {
                set(next, at, byte);
            }
        }
        (self.group, self.used, self.bytes) = (group, 0, 0);
        Ok(())
    }

    fn finish(mut self) -> Result<Written, BuildError> {
        self.go_to(self.groups.len() - 1)?;
        self.header.groups = count(self.groups.len(), "names", u32::MAX as usize)?;
        let mut trie = Vec::with_capacity(HEADER_LEN + self.groups.len() * GROUP_LEN);
        self.header.write(&mut trie);
        trie.extend_from_slice(self.groups.as_flattened());
        self.records.resize(self.records.len() + PAD, 0);
        Ok(Written { trie, records: self.records, suffixes: self.suffixes.write(), several: self.several })
    }
}

/// The next entries to place, and those after them. A batch ends where a node does.
fn split_batch(entries: &[Entry]) -> (&[Entry], &[Entry]) {
    let mut len = BATCH.min(entries.len());
    while let (Some(last), Some(next)) = (len.checked_sub(1).and_then(|at| entries.get(at)), entries.get(len))
        && last.hash == next.hash
    {
        len += 1;
    }
    entries.split_at_checked(len).unwrap_or((entries, &[]))
}

fn set(group: &mut [u8; GROUP_LEN], at: usize, value: u8) {
    if let Some(byte) = group.get_mut(at) {
        *byte = value;
    }
}

impl Header {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.key.0.iter().flat_map(|word| word.to_le_bytes()));
        out.extend(self.homes.to_le_bytes());
        out.extend(self.groups.to_le_bytes());
        out.extend([self.probe, self.terms, self.line, u8::from(self.single)]);
        out.extend(self.rules.to_le_bytes());
        out.extend(self.depths.to_le_bytes());
    }
}
