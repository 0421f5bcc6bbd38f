//! The domain trie: a flat hash table of edges over reversed labels, read in place.
//!
//! A lookup walks a name's labels from the right, one probe a label, and ends at the first label under which no rule lies. So a name costs
//! as many probes as it shares labels with the policy, and one more, however long it is. An edge is verified, not guessed: its
//! slot holds the parent's slot and the whole label, and both are compared.
//!
//! ```text
//! section `trie`: header, 32 bytes             slot, 16 bytes (free: label_len 0)
//!  0 u64 seed        of the hash                0 u32 parent      slot of the parent; u32::MAX: the root
//!  8 u32 slots       how many                   4 u32 label_at    in section `labels`
//! 12 u32 max_probe   longest run to look at     8 u32 first_rule  rules of this very name: a run
//! 16 u32 any_rules   the first rules are        12 u16 rule_count  of the rule section
//!                    those for `*`              14 u8  label_len   1 to 63
//! 20     0                                     15 u8  tag         of the hash, compared first
//! ```
//!
//! The seed comes from the content, so that builds are reproducible; who can ask cannot make the table longer, and who writes rules that
//! collide gets another seed (see `build.rs`).

use crate::host::MAX_LABEL;
use crate::reader::{bytes, record, u16_at, u32_at, u64_at};
use std::ops::Range;

pub(crate) const HEADER_LEN: usize = 32;
pub(crate) const SLOT_LEN: usize = 16;
/// Parent of the slots of top-level labels.
pub(crate) const ROOT: u32 = u32::MAX;
/// Labels in the longest name.
pub(crate) const MAX_LABELS: usize = 127;
/// Longest run of slots that a lookup may have to look at.
pub(crate) const MAX_PROBE: u32 = 256;

/// Where a slot's rules are in the rule section.
pub(crate) type Rules = Range<u32>;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) parent: u32,
    pub(crate) label_at: u32,
    pub(crate) first_rule: u32,
    pub(crate) rule_count: u16,
    pub(crate) label_len: u8,
    pub(crate) tag: u8,
}

impl Slot {
    pub(crate) fn rules(&self) -> Rules {
        self.first_rule..self.first_rule.saturating_add(u32::from(self.rule_count))
    }
}

/// A view of the trie's two sections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trie<'a> {
    pub(crate) seed: u64,
    pub(crate) slots: u32,
    pub(crate) max_probe: u32,
    pub(crate) any_rules: u32,
    table: &'a [u8],
    labels: &'a [u8],
}

impl<'a> Trie<'a> {
    /// Reads the header; `None` when the sections cannot be a trie.
    pub(crate) fn open(section: &'a [u8], labels: &'a [u8]) -> Option<Self> {
        let trie = Self {
            seed: u64_at(section, 0)?,
            slots: u32_at(section, 8)?,
            max_probe: u32_at(section, 12)?,
            any_rules: u32_at(section, 16)?,
            table: section.get(HEADER_LEN..)?,
            labels,
        };
        let whole = usize::try_from(trie.slots).ok()?.checked_mul(SLOT_LEN)? == trie.table.len();
        (whole && trie.max_probe <= MAX_PROBE).then_some(trie)
    }

    /// A trie without names.
    pub(crate) fn empty() -> Self {
        Self { seed: 0, slots: 0, max_probe: 0, any_rules: 0, table: &[], labels: &[] }
    }

    pub(crate) fn slot(&self, index: u32) -> Option<Slot> {
        let slot: [u8; SLOT_LEN] = record(self.table, index)?;
        Some(Slot {
            parent: u32_at(&slot, 0)?,
            label_at: u32_at(&slot, 4)?,
            first_rule: u32_at(&slot, 8)?,
            rule_count: u16_at(&slot, 12)?,
            label_len: *slot.get(14)?,
            tag: *slot.get(15)?,
        })
    }

    pub(crate) fn label(&self, slot: &Slot) -> Option<&'a [u8]> {
        bytes(self.labels, usize::try_from(slot.label_at).ok()?, usize::from(slot.label_len))
    }

    /// The child of `parent` under `label`, and its hash.
    fn child(&self, parent: u32, hash: u64, label: &[u8]) -> Option<(u32, Slot)> {
        if self.slots == 0 {
            return None;
        }
        let mut index = home(hash, self.slots);
        for _ in 0..self.max_probe {
            let slot = self.slot(index)?;
            if slot.label_len == 0 {
                return None;
            }
            if slot.tag == tag(hash) && slot.parent == parent && self.label(&slot) == Some(label) {
                return Some((index, slot));
            }
            index = next(index, self.slots);
        }
        None
    }

    /// Calls `found` with the rules of every suffix of `name` that has some, the shortest first: the length of the suffix, and its rules.
    pub(crate) fn walk(&self, name: &[u8], mut found: impl FnMut(usize, Rules)) {
        let (mut parent, mut hash, mut end) = (ROOT, self.seed, name.len());
        loop {
            let before = name.get(..end).unwrap_or_default();
            let start = memchr::memrchr(b'.', before).map_or(0, |dot| dot + 1);
            let label = before.get(start..).unwrap_or_default();
            hash = absorb(hash, label, self.seed);
            let Some((index, slot)) = self.child(parent, hash, label) else { return };
            if slot.rule_count > 0 {
                found(name.len() - start, slot.rules());
            }
            if start == 0 {
                return;
            }
            parent = index;
            end = start - 1;
        }
    }

    /// The name of a slot, rebuilt from its labels; `None` for a broken table.
    pub(crate) fn name(&self, index: u32) -> Option<String> {
        let mut name = String::new();
        let mut at = index;
        // A table with a loop ends here.
        for _ in 0..MAX_LABELS {
            let slot = self.slot(at)?;
            name.push_str(std::str::from_utf8(self.label(&slot)?).ok()?);
            if slot.parent == ROOT {
                return Some(name);
            }
            name.push('.');
            at = slot.parent;
        }
        None
    }

    /// Checks that slot `index` stands where a lookup will find it, given the hash of its parent; returns its own hash.
    pub(crate) fn check_place(&self, index: u32, slot: &Slot, parent_hash: u64) -> Option<u64> {
        let label = self.label(slot)?;
        let hash = absorb(parent_hash, label, self.seed);
        let well_formed = !label.is_empty() && label.len() <= MAX_LABEL && slot.tag == tag(hash);
        let found = self.child(slot.parent, hash, label).is_some_and(|(found, _)| found == index);
        (well_formed && found).then_some(hash)
    }
}

/// The slot where a hash would like to be.
pub(crate) fn home(hash: u64, slots: u32) -> u32 {
    // The high half of a 64 by 32 bit product is below `slots`.
    u32::try_from((u128::from(hash) * u128::from(slots)) >> 64).unwrap_or(0)
}

pub(crate) fn next(index: u32, slots: u32) -> u32 {
    if index + 1 >= slots { 0 } else { index + 1 }
}

pub(crate) fn tag(hash: u64) -> u8 {
    hash.to_le_bytes().first().copied().unwrap_or(0)
}

/// The hash of a suffix from the hash of the suffix one label shorter: folded multiplication, keyed by the seed.
pub(crate) fn absorb(state: u64, label: &[u8], seed: u64) -> u64 {
    const A: u64 = 0x9e37_79b9_7f4a_7c15;
    const B: u64 = 0xd1b5_4a32_d192_ed03;
    let mut state = fold(state ^ label.len() as u64 ^ A, seed ^ B);
    let mut chunks = label.chunks_exact(8);
    for chunk in &mut chunks {
        state = fold(state ^ u64_at(chunk, 0).unwrap_or(0), seed ^ A);
    }
    let rest = chunks.remainder().iter().rev().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
    fold(state ^ rest, seed.rotate_left(32) ^ B)
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    // Low and high half, both meant to be cut.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the product")]
    let halves = (product as u64, (product >> 64) as u64);
    halves.0 ^ halves.1
}
