//! The whole trie, checked once: records lie one after the other, every name is one, and a lookup finds it where it stands.
//!
//! Names are looked at in the order of their records, so that memory is read from one end to the other; only the bases of longer names lie elsewhere. A large trie
//! is shared among threads.

use crate::header::SectionKind;
use crate::host::MAX_NAME;
use crate::packed::{self, MAX_SUFFIX, Packed, Spelt, TAIL, low_bytes, suffix_bits, whole_bytes};
use crate::reader::{array, byte, u64_at, u128_at};
use crate::threads;
use crate::trie::{
    DEPTHS, ENDS_AT, FLAGS_AT, GROUP_LEN, HEADER_LEN, KINDS, Keys, LAST_DEPTH, Labels, Node, OVERFLOW, PAD, RECORDS_AT, Record, SLOTS,
    SUBDOMAINS, SUFFIX_LEN, SUFFIX_TEXT, Trie, label_start, low_half, low_word,
};
use std::ops::Range;

/// From how many groups on the work is shared.
const PARALLEL: usize = 4096;

/// Which section is wrong at which byte, and what is.
type Wrong = (SectionKind, u64, &'static str);

/// What was found in some of the groups.
struct Part {
    /// Where their records begin and end.
    records: Range<usize>,
    /// Nodes with one rule.
    rules: u32,
    /// Nodes with several.
    several: Vec<Node>,
}

/// Bases that are asked for at once.
const BASES: usize = 512;

/// The base of a name of up to [`TAIL`] characters, which has to announce it.
struct Base {
    hash: u64,
    /// One less than the labels that the name has more.
    depth: u32,
    /// Of the name.
    keys: Keys,
}

impl Trie<'_> {
    /// Checks everything, for a policy with so many terms; gives the nodes that have several rules, in their order.
    pub(crate) fn check(&self, terms: u32) -> Result<Vec<Node>, Wrong> {
        self.check_suffixes()?;
        let (mut end, mut rules, mut several) = (0, 0_u32, Vec::new());
        for part in threads::in_parts(self.header.groups as usize, PARALLEL, |groups| self.check_groups(groups, terms)) {
            let part = part?;
            if part.records.start != end {
                return Err((SectionKind::Records, end as u64, "records do not follow one another"));
            }
            end = part.records.end;
            rules = rules.saturating_add(part.rules);
            several.extend(part.several);
        }
        let [_, section, _] = &self.header.places;
        let pad = self.blob.get(section.start + end..section.end);
        if pad.is_none_or(|pad| pad.len() != PAD || pad.iter().any(|byte| *byte != 0)) {
            return Err((SectionKind::Records, end as u64, "records do not end where the section does"));
        }
        if rules != self.header.rules {
            return Err((SectionKind::Trie, 44, "the number of rules"));
        }
        Ok(several)
    }

    fn check_groups(&self, groups: Range<usize>, terms: u32) -> Result<Part, Wrong> {
        let first = self.group(groups.start).and_then(|group| array(group, RECORDS_AT)).map_or(0, u32::from_le_bytes) as usize;
        let mut part = Part { records: first..first, rules: 0, several: Vec::new() };
        let mut bases = Vec::with_capacity(BASES);
        let mut unannounced = None;
        let last_group = groups.end;
        for index in groups {
            let wrong = |what| (SectionKind::Trie, (HEADER_LEN + index * GROUP_LEN) as u64, what);
            let group = self.group(index).ok_or(wrong("cut"))?;
            let first = array(group, RECORDS_AT).map_or(0, u32::from_le_bytes);
            let last_flags = byte(group, FLAGS_AT).filter(|flags| *flags <= OVERFLOW);
            if first as usize != part.records.end || byte(group, SLOTS) != Some(0) || last_flags.is_none() {
                return Err(wrong("a group is not what follows the one before it"));
            }
            // What a lookup would look at next is no group, and nobody has checked it.
            if last_flags == Some(OVERFLOW) && index + 1 == self.header.groups as usize {
                return Err(wrong("the last group sends lookups on"));
            }
            let used = group.iter().take(SLOTS).take_while(|tag| **tag != 0).count();
            let mut end = 0;
            for place in 0..SLOTS {
                let last = byte(group, ENDS_AT + place).unwrap_or(0);
                if place >= used {
                    if last != 0 || byte(group, place) != Some(0) {
                        return Err(wrong("a free slot has something in it"));
                    }
                } else if last <= end {
                    return Err(wrong("a record ends before it begins"));
                } else {
                    end = last;
                    self.check_slot(group, index * SLOTS + place, terms, &mut part, &mut bases).map_err(wrong)?;
                }
            }
            part.records.end += usize::from(end);
            if bases.len() + SLOTS > BASES || index + 1 == last_group {
                unannounced = unannounced.or_else(|| bases.iter().find(|base| !self.announces(base)).map(|_| index));
                bases.clear();
            }
        }
        match unannounced {
            Some(index) => {
                Err((SectionKind::Trie, (HEADER_LEN + index * GROUP_LEN) as u64, "a base here or before does not announce a name"))
            }
            None => Ok(part),
        }
    }

    fn check_slot(
        &self,
        group: &[u8; GROUP_LEN],
        slot: usize,
        terms: u32,
        part: &mut Part,
        bases: &mut Vec<Base>,
    ) -> Result<(), &'static str> {
        const NO_NAME: &str = "a record is no name";
        let record = self.record(group, slot % SLOTS).ok_or("a record lies outside")?;
        if record.flags() & KINDS == 0 {
            return if record.len == 1 { Ok(()) } else { Err("a base without a rule has more than its depths") };
        }
        let number = low_half(slot as u64);
        let [.., suffixes] = &self.header.places;
        let suffix = byte(record.window, self.header.name_at - 1).map_or(0, usize::from);
        if suffix * SUFFIX_LEN >= suffixes.len() {
            return Err("a suffix out of range");
        }
        let found = if let Some((spelt, keys)) = self.short(record) {
            let keys = keys.ok_or(NO_NAME)?;
            let text = spelt.text.get(TAIL - spelt.chars..).ok_or(NO_NAME)?;
            self.finds(&Labels { text, keys: &keys }, Some(spelt.dots), record, number, bases)?
        } else {
            let mut room = [0; MAX_NAME];
            let (_, name) = self.slot(number, &mut room).ok_or(NO_NAME)?;
            let keys = Keys::checked(name).ok_or(NO_NAME)?;
            self.finds(&Labels { text: name, keys: &keys }, None, record, number, bases)?
        };
        if !found {
            return Err("a lookup does not find a name that is there");
        }
        let node = self.node(slot, record.head());
        if node.terms == self.header.several {
            part.several.push(node);
        } else if node.terms < terms {
            part.rules += 1;
        } else {
            return Err("terms out of range");
        }
        Ok(())
    }

    /// Whether lookups of a name, and of names below it, come to a slot: they ask the same probes, but for single labels.
    /// `dots` are known of names of up to [`TAIL`] characters.
    /// Bases lie all over memory: those of short names are left for later, when many can be asked for at once.
    fn finds(
        &self,
        name: &Labels<'_>,
        dots: Option<u32>,
        record: Record<'_>,
        slot: u32,
        bases: &mut Vec<Base>,
    ) -> Result<bool, &'static str> {
        let key = &self.header.key;
        let base = key.base(name);
        if name.base() == 0 {
            let hit = self.probe(name, 0, &name.keys.base_tail, base, KINDS);
            return Ok(hit.head != 0 && low_half(hit.slot as u64) == slot && (name.top() > 0 || self.header.single));
        }
        if record.flags() >> DEPTHS != 0 {
            return Err("a node that is no base has depths");
        }
        let (mut state, mut start, mut depth, mut wanted) = (base, name.base(), 0, name.keys.base_tail);
        if let Some(dots) = dots {
            // Nothing is absorbed: the whole name is one number.
            (state, start, depth, wanted) = (key.packed(&name.keys.tail), 0, dots.count_ones() - 1, name.keys.tail);
        }
        while start > 0 {
            let next = label_start(name.text, start - 1);
            state = key.longer(name, state, next, start, &mut wanted);
            (start, depth) = (next, depth + 1);
        }
        let base = Base { hash: base, depth: depth - 1, keys: *name.keys };
        let announced = if name.text.len() > TAIL {
            self.probe(name, name.base(), &name.keys.base_tail, base.hash, SUBDOMAINS).depths >> base.depth.min(LAST_DEPTH) & 1 == 1
        } else {
            bases.push(base);
            true
        };
        let announced = announced && self.header.depths >> (depth - 1) & 1 == 1;
        let hit = self.probe(name, 0, &wanted, state, KINDS);
        Ok(announced && hit.head != 0 && low_half(hit.slot as u64) == slot)
    }

    /// Whether a base says that there are rules at a depth below it.
    #[inline(always)]
    fn announces(&self, base: &Base) -> bool {
        let name = Labels { text: &[], keys: &base.keys };
        let hit = self.probe(&name, name.base(), &base.keys.base_tail, base.hash, SUBDOMAINS);
        hit.depths >> base.depth.min(LAST_DEPTH) & 1 == 1
    }

    /// A name of up to [`TAIL`] characters, and what lookups ask of it, which is `None` if it is no name. `None` for a longer one.
    fn short(&self, record: Record<'_>) -> Option<(Spelt, Option<Keys>)> {
        let name_at = self.header.name_at;
        let (suffix, of_suffix) = self.suffix(byte(record.window, name_at - 1)?);
        let (skip, own) = (whole_bytes(of_suffix), record.len.checked_sub(name_at)?);
        if skip + own > packed::bytes_for(TAIL) {
            return None;
        }
        let (low, high) = low_bytes(own);
        let own_low = u128_at(record.window, name_at)? & low;
        let own_high = u128::from(u64_at(record.window, name_at + 16)? & high);
        // The record's bytes come after those of the suffix. There are 15 of those at most.
        let shift = 8 * skip;
        let low = own_low << shift | suffix & low_bytes(skip).0;
        let high = own_high << shift | own_low >> 1 >> (127 - shift);
        let words = [low_word(low), low_word(low >> 64), low_word(high)];
        let right = |spelt: &Spelt| {
            let dots = spelt.dots;
            // No label is empty.
            let between = spelt.chars > 0 && dots & dots >> 1 == 0 && dots >> (TAIL - 1) == 0 && dots >> (TAIL - spelt.chars) & 1 == 0;
            between && packed::bytes_for(spelt.chars) == skip + own && (low ^ suffix) & suffix_bits(of_suffix) == 0
        };
        match Spelt::new(words).filter(right) {
            Some(spelt) => {
                let before = TAIL - spelt.chars;
                let after_dot = |dots: u32| (32 - dots.leading_zeros() as usize).saturating_sub(before);
                let top = after_dot(spelt.dots);
                let base = after_dot(spelt.dots & !(1_u32.checked_shl(31 - spelt.dots.leading_zeros().min(31)).unwrap_or(0)));
                Some((spelt, Some(Keys::from_tail(Packed::new(words), spelt.chars, top, base))))
            }
            None => Some((Spelt { text: [0; TAIL], chars: 0, dots: 0 }, None)),
        }
    }

    fn check_suffixes(&self) -> Result<(), Wrong> {
        let [.., suffixes] = &self.header.places;
        let suffixes = self.blob.get(suffixes.clone()).unwrap_or_default().as_chunks::<SUFFIX_LEN>().0;
        for (index, suffix) in (0_u64..).zip(suffixes) {
            let wrong = (SectionKind::Suffixes, index * SUFFIX_LEN as u64, "a suffix is no text");
            let number = u128::from_le_bytes(*suffix);
            let (text, chars) = ((number & ((1 << SUFFIX_TEXT) - 1)).to_le_bytes(), usize::from(suffix.last().copied().unwrap_or(0)));
            let packed = text.get(..packed::bytes_for(chars)).filter(|_| chars <= MAX_SUFFIX).ok_or(wrong)?;
            let start = packed::read_before(packed, &mut [0; MAX_NAME], MAX_NAME).ok_or(wrong)?;
            let rest = text.iter().skip(packed.len()).any(|byte| *byte != 0);
            if MAX_NAME - start != chars || rest || (index == 0 && number != 0) {
                return Err(wrong);
            }
        }
        Ok(())
    }
}
