//! The domain trie: names by their labels from the right, as a flat hash table that is read in place.
//!
//! A *node* is a name that rules speak of, or a *base*: the last two labels of names that have more. Nodes are found by a keyed hash of their text; a tag of
//! eight bits rules out nearly everything else that lies in the same place, and the whole name is compared, so that there is no false positive, ever. A lookup
//! asks for the base of a name first. The base says at which depths below it there are rules; those are asked for, and no others: a name costs as
//! many probes as the policy has use for, however many labels it has.
//!
//! ```text
//! section `trie`: header, 64 bytes                     group, 32 bytes
//!  0 4 x u64 key of the hash                            0 13 x u8 tags of its slots; 0: free, and all after it
//! 32 u32 homes    groups that a hash may name          13 u8     0
//! 36 u32 groups   that there are                       14 13 x u8 where each slot's record ends, from `records`
//! 40 u8  probe    groups to look at, 1 to 64           27 u32    records: where the first record begins in section `records`
//! 41 u8  terms    bytes of an index of terms, 1 or 2   31 u8     bit 0: a node whose home this is, or is before it, lies further on
//! 42 u8  line     bytes of a line, 0 to 4
//! 43 u8  bit 0: there are rules for single labels      record
//! 44 u32 rules    in records, one each                  0 u8  bits 0 and 1: exact, subdomains; bits 2 to 7: rules 1, 2, 3, 4, 5, or more
//! 48 u128 depths  bit n: there are rules n + 1               labels below it. No rule: the record ends here
//!                 labels longer than their base         1 terms: index of `terms`; all ones: several rules
//!                                                         line: of the source; of several: the first in section `rules`
//! section `records`: records, then 32 zeros               u8 number of the text that the name ends in
//! section `suffixes`: 256 x 16 bytes: a text of up to      what comes before it, packed (see `packed.rs`), lowest byte first
//!   20 characters, packed; the last byte: its bits
//! ```
//!
//! # Hash
//!
//! `fold(a, b)` is the exclusive or of the halves of the product of two words. A text of up to 32 characters is one number of 192 bits (see
//! `packed.rs`): words `w0`, `w1`, `w2`, lowest first, and its hash is `fold(fold(w0 ^ k0, w1 ^ k1) ^ k2, w2 ^ k3)`. Of a longer text, that is the state of its last 32
//! characters; what is before them is absorbed from the right, in pieces that end at the beginning of the last two labels and of every label before those.
//! A piece is absorbed from the left, eight bytes of text at a time: `state = fold(state ^ word ^ k2, k3 ^ bytes)`, `word` little-endian, filled up with zeros. The home of a hash is the
//! high half of its product with `homes`; its tag is its lowest byte, or 1 if that is 0.
//!
//! The key comes from the content, so that builds are reproducible; who can ask cannot make the table longer, and who writes rules
//! that collide gets another key (see `trie_writer.rs`).

use crate::header::SectionKind;
use crate::host::{MAX_LABEL, MAX_NAME, Name};
use crate::packed::{self, BITS, TAIL, Tail, low_bits};
use crate::reader::{array, byte, bytes, u32_at, u64_at, u128_at};
use crate::rules::RuleKind;
use std::ops::Range;

pub(crate) const HEADER_LEN: usize = 64;
pub(crate) const GROUP_LEN: usize = 32;
pub(crate) const SLOTS: usize = 13;
pub(crate) const ENDS_AT: usize = SLOTS + 1;
pub(crate) const RECORDS_AT: usize = ENDS_AT + SLOTS;
pub(crate) const FLAGS_AT: usize = RECORDS_AT + 4;
pub(crate) const OVERFLOW: u8 = 1;
/// Bytes after the last record: a record is read as this many.
pub(crate) const PAD: usize = 32;
pub(crate) const SUFFIXES: usize = 256;
pub(crate) const SUFFIX_LEN: usize = 16;
/// Bits of the longest suffix.
pub(crate) const MAX_SUFFIX: usize = 120;
/// Groups that a lookup may have to look at.
pub(crate) const MAX_PROBE: u8 = 64;
/// Bits of a record's flags: which names a rule of its node speaks of.
const EXACT: u8 = RuleKind::Exact as u8;
const SUBDOMAINS: u8 = RuleKind::Subdomains as u8;
const KINDS: u8 = RuleKind::ApexAndSubdomains as u8;
/// Bit of the first depth in a record's flags; there are six.
pub(crate) const DEPTHS: u32 = 2;
pub(crate) const LAST_DEPTH: u32 = 5;

/// The header of the trie.
#[derive(Debug, Clone, Default)]
pub(crate) struct Header {
    pub(crate) key: Key,
    pub(crate) homes: u32,
    pub(crate) groups: u32,
    pub(crate) probe: u8,
    pub(crate) terms: u8,
    pub(crate) line: u8,
    pub(crate) single: bool,
    pub(crate) rules: u32,
    pub(crate) depths: u128,
    /// Where the groups, the records and the suffixes begin and end in the blob.
    pub(crate) places: [Range<usize>; 3],
}

impl Header {
    /// Reads the header, and checks all that a lookup relies on; `None` when the sections cannot be a trie. Constant time. The ranges are those of the trie's section, the
    /// records and the suffixes in the blob.
    pub(crate) fn read(blob: &[u8], [trie, records, suffixes]: [Range<usize>; 3]) -> Option<Self> {
        let section = blob.get(trie.clone())?;
        let mut key = [0; 4];
        for (word, at) in key.iter_mut().zip((0..).step_by(8)) {
            *word = u64_at(section, at)?;
        }
        let flags = byte(section, 43)?;
        let header = Self {
            key: Key(key),
            homes: u32_at(section, 32)?,
            groups: u32_at(section, 36)?,
            probe: byte(section, 40)?,
            terms: byte(section, 41)?,
            line: byte(section, 42)?,
            single: flags == 1,
            rules: u32_at(section, 44)?,
            depths: u128_at(section, 48)?,
            places: [trie.start.checked_add(HEADER_LEN)?..trie.end, records.clone(), suffixes.clone()],
        };
        let groups = usize::try_from(header.groups).ok()?;
        let right = section.len() == HEADER_LEN.checked_add(groups.checked_mul(GROUP_LEN)?)?
            && (1..=header.groups).contains(&header.homes)
            && (1..=MAX_PROBE).contains(&header.probe)
            && (1..=2).contains(&header.terms)
            && header.line <= 4
            && flags <= 1
            && records.len() >= PAD
            && suffixes.len() == SUFFIXES * SUFFIX_LEN;
        right.then_some(header)
    }

    /// Where the number of the suffix is in a record.
    #[inline]
    pub(crate) fn suffix_at(&self) -> usize {
        1 + usize::from(self.terms) + usize::from(self.line)
    }

    /// The index of terms that means several rules.
    #[inline]
    pub(crate) fn several(&self) -> u32 {
        if self.terms == 1 { 0xff } else { 0xffff }
    }
}

/// The key of the hash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) [u64; 4]);

impl Key {
    #[inline]
    fn tail(&self, tail: Tail) -> u64 {
        let [a, b, c, d] = self.0;
        let first = fold(low_word(tail.low) ^ a, low_word(tail.low >> 64) ^ b);
        fold(first ^ c, low_word(tail.high) ^ d)
    }

    fn absorb(&self, state: u64, piece: &[u8]) -> u64 {
        let [_, _, c, d] = self.0;
        let (words, rest) = piece.as_chunks::<8>();
        let state = words.iter().fold(state, |state, word| fold(state ^ u64::from_le_bytes(*word) ^ c, d ^ 8));
        if rest.is_empty() {
            return state;
        }
        let word = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        fold(state ^ word ^ c, d ^ rest.len() as u64)
    }

    /// The hash of the last two labels of a name, or of its only one.
    #[inline]
    pub(crate) fn base(&self, name: Labels<'_>) -> u64 {
        let state = self.tail(name.keys.base_tail);
        if name.len() - name.base() <= TAIL {
            state
        } else {
            self.absorb(state, name.text.get(name.base()..name.len() - TAIL).unwrap_or_default())
        }
    }

    /// The hash of the last label of a name that has more.
    fn top(&self, name: Labels<'_>) -> u64 {
        let chars = name.len() - name.top();
        let state = self.tail(name.keys.tail.last(chars.min(TAIL)));
        if chars <= TAIL { state } else { self.absorb(state, name.text.get(name.top()..name.len() - TAIL).unwrap_or_default()) }
    }

    /// The hash of what begins at `start`, from the hash of what begins one label further right, at `after`.
    #[inline]
    pub(crate) fn longer(&self, name: Labels<'_>, state: u64, start: usize, after: usize) -> u64 {
        let len = name.len();
        if len - start <= TAIL {
            return self.tail(name.keys.tail.last(len - start));
        }
        let (state, end) = if len - after <= TAIL { (self.tail(name.keys.tail), len - TAIL) } else { (state, after) };
        self.absorb(state, name.text.get(start..end).unwrap_or_default())
    }

    /// The hashes of a whole name and of its base, and how many labels it has beyond that.
    #[cfg(feature = "build")]
    pub(crate) fn name(&self, name: Labels<'_>) -> (u64, u64, u32) {
        let base = self.base(name);
        let (mut state, mut start, mut depth) = (base, name.base(), 0);
        while start > 0 {
            let next = label_start(name.text, start - 1);
            state = self.longer(name, state, next, start);
            (start, depth) = (next, depth + 1);
        }
        (state, base, depth)
    }
}

/// What a lookup needs to know of a name, worked out once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Keys {
    /// The last characters.
    pub(crate) tail: Tail,
    /// The last characters of the last two labels.
    pub(crate) base_tail: Tail,
    pub(crate) len: u8,
    /// Where the last label begins.
    pub(crate) top: u8,
    /// Where the last two labels begin; 0 if there are no more.
    pub(crate) base: u8,
}

/// A normalised name, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Labels<'n> {
    pub(crate) text: &'n [u8],
    pub(crate) keys: &'n Keys,
}

impl Keys {
    /// Of a normalised name.
    pub(crate) fn of(text: &[u8]) -> Self {
        let top = label_start(text, text.len());
        Self::new(text, top, top.checked_sub(1).map_or(0, |dot| label_start(text, dot)))
    }

    /// Of a normalised name whose last label and last two labels begin there.
    pub(crate) fn new(text: &[u8], top: usize, base: usize) -> Self {
        let tail = Tail::of(text);
        // A name has at most 253 bytes.
        let short = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        Self { tail, base_tail: tail.last((text.len() - base).min(TAIL)), len: short(text.len()), top: short(top), base: short(base) }
    }

    /// Of text that may be a normalised name or not.
    fn checked(text: &[u8]) -> Option<Self> {
        let mut labels = text.split(|byte| *byte == b'.');
        labels.all(|label| (1..=MAX_LABEL).contains(&label.len())).then(|| Self::of(text))
    }
}

impl Labels<'_> {
    #[inline]
    fn len(&self) -> usize {
        usize::from(self.keys.len)
    }

    #[inline]
    fn base(&self) -> usize {
        usize::from(self.keys.base)
    }

    #[inline]
    fn top(&self) -> usize {
        usize::from(self.keys.top)
    }
}

/// Where the label begins that ends at `end`.
#[inline]
fn label_start(text: &[u8], end: usize) -> usize {
    text.get(..end).unwrap_or_default().iter().rposition(|byte| *byte == b'.').map_or(0, |dot| dot + 1)
}

/// A node with a rule, or with several.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    /// Its slot: group times [`SLOTS`], and the place there.
    pub(crate) slot: u32,
    /// Bits 0 and 1 of the record, which are the number of a kind.
    pub(crate) kinds: u8,
    /// Index of terms, or [`Header::several`].
    pub(crate) terms: u32,
    /// Line; of several rules the first one's number.
    pub(crate) line: u32,
}

/// A view of the trie within a blob.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trie<'a> {
    header: &'a Header,
    blob: &'a [u8],
}

/// A tag that is the one which is looked for: the group's bytes, and where it is.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    group: &'a [u8; GROUP_LEN],
    place: usize,
}

impl<'a> Trie<'a> {
    #[inline]
    pub(crate) fn new(header: &'a Header, blob: &'a [u8]) -> Self {
        Self { header, blob }
    }

    /// Calls `found` for every node that speaks of the name, the shortest first, with the length of the node's name.
    #[inline]
    pub(crate) fn walk(&self, name: &Name, mut found: impl FnMut(usize, Node)) {
        self.walk_for(name.labels(), EXACT, &mut found);
    }

    /// A walk that asks of the whole name's node to be of one of the `whole` kinds.
    #[inline]
    fn walk_for(&self, name: Labels<'_>, whole: u8, found: &mut impl FnMut(usize, Node)) {
        if self.header.single && name.top() > 0 {
            self.probe(name, name.top(), self.header.key.top(name), whole, found);
        }
        let hash = self.header.key.base(name);
        let depths = self.probe(name, name.base(), hash, whole, found);
        if depths != 0 && name.base() > 0 {
            self.deeper(name, hash, depths, whole, found);
        }
    }

    #[inline(never)]
    fn deeper(&self, name: Labels<'_>, base: u64, depths: u8, whole: u8, found: &mut impl FnMut(usize, Node)) {
        let (mut start, mut state, mut depth) = (name.base(), base, 0_u32);
        while start > 0 {
            let known = self.header.depths.checked_shr(depth).unwrap_or(0);
            let here = depths >> depth.min(LAST_DEPTH);
            if known == 0 || here == 0 {
                return;
            }
            let next = label_start(name.text, start - 1);
            state = self.header.key.longer(name, state, next, start);
            if here & 1 == 1 && known & 1 == 1 {
                self.probe(name, next, state, whole, found);
            }
            (start, depth) = (next, depth + 1);
        }
    }

    /// Looks for the node of what begins at `start`, and says at which depths below it there are rules: too many if another node has the same tag, never too few.
    #[inline(never)]
    fn probe(&self, name: Labels<'_>, start: usize, hash: u64, whole: u8, found: &mut impl FnMut(usize, Node)) -> u8 {
        let needed = if start == 0 { whole } else { SUBDOMAINS };
        let tags = u64::from(tag(hash)) * LOWEST;
        let mut depths = 0;
        let mut index = home(hash, self.header.homes) as usize;
        for _ in 0..self.header.probe {
            let Some(group) = self.group(index) else { return depths };
            let word = |at: usize| array::<8>(group, at).map_or(0, u64::from_le_bytes);
            // Thirteen tags are eight and five.
            let mut same = zero_bytes(word(0) ^ tags) >> 7 | zero_bytes((word(8) ^ tags) | 0xffff_ff00_0000_0000) >> 6;
            while same != 0 {
                let bit = same.trailing_zeros() as usize;
                same &= same - 1;
                let candidate = Candidate { group, place: bit / 8 + bit % 8 * 8 };
                let head = self.compare(name, start, needed, candidate);
                depths |= head.to_le_bytes()[0] >> DEPTHS;
                if head & u64::from(KINDS) != 0 {
                    found(name.len() - start, self.node(index * SLOTS + candidate.place, head));
                }
            }
            if byte(group, FLAGS_AT).unwrap_or(0) & OVERFLOW == 0 {
                break;
            }
            index += 1;
        }
        depths
    }

    #[inline(always)]
    fn group(&self, index: usize) -> Option<&'a [u8; GROUP_LEN]> {
        let [groups, ..] = &self.header.places;
        self.blob.get(groups.start + index * GROUP_LEN..groups.end)?.first_chunk()
    }

    /// The beginning of a candidate's record, without its kinds if it is not of a needed one or has another name.
    #[inline(never)]
    fn compare(&self, name: Labels<'_>, start: usize, needed: u8, candidate: Candidate<'a>) -> u64 {
        let Some(record) = self.record(candidate) else { return 0 };
        let head = record.head();
        let is = head & u64::from(needed) != 0 && self.is_name(name, start, record);
        if is { head } else { head & !u64::from(KINDS) }
    }

    #[inline(always)]
    fn record(&self, Candidate { group, place }: Candidate<'a>) -> Option<Record<'a>> {
        let begin = usize::from(byte(group, ENDS_AT - 1 + place)?);
        let end = usize::from(byte(group, ENDS_AT + place)?);
        let [_, records, _] = &self.header.places;
        let at = records.start + u32_at(group, RECORDS_AT)? as usize + begin;
        Some(Record { window: self.blob.get(at..records.end)?.first_chunk()?, at, len: end.wrapping_sub(begin) })
    }

    #[inline(always)]
    fn node(&self, slot: usize, head: u64) -> Node {
        let (terms, line) = (8 * u32::from(self.header.terms), 8 * u32::from(self.header.line));
        Node {
            slot: low_half(slot as u64),
            kinds: head.to_le_bytes()[0] & KINDS,
            terms: low_half(head >> 8 & ((1 << terms) - 1)),
            line: low_half(head >> 8 >> terms & ((1 << line) - 1)),
        }
    }

    /// Whether a record has the name that begins at `start`.
    #[inline(always)]
    fn is_name(&self, name: Labels<'_>, start: usize, record: Record<'_>) -> bool {
        let suffix_at = self.header.suffix_at();
        let chars = name.len() - start;
        let (suffix, suffix_bits) = self.suffix(byte(record.window, suffix_at).unwrap_or(0));
        let Some(prefix_bits) = (BITS * chars).checked_sub(suffix_bits) else { return false };
        let packed = prefix_bits.div_ceil(8);
        if record.len != suffix_at + 1 + packed || suffix_bits > MAX_SUFFIX {
            return false;
        }
        if chars > TAIL {
            let there = bytes(self.blob, record.at + suffix_at + 1, packed).unwrap_or_default();
            return is_long_name(name, start, there, suffix, suffix_bits);
        }
        let Some(low) = u128_at(record.window, suffix_at + 1) else { return false };
        // What lies further on may be on another cache line, and is seldom needed.
        let high = if packed > 16 { u64_at(record.window, suffix_at + 17).unwrap_or(0) } else { 0 };
        // The bytes that follow the record are cut off.
        let there = Tail { low, high: u128::from(high) }.last_bits(8 * packed);
        let wanted = name.keys.tail.last(chars);
        let ends = (wanted.low ^ suffix) & low_bits(suffix_bits);
        let begins = wanted.without(suffix_bits);
        ends | (begins.low ^ there.low) | (begins.high ^ there.high) == 0
    }

    /// A suffix, and its bits.
    #[inline(always)]
    fn suffix(&self, number: u8) -> (u128, usize) {
        let [.., suffixes] = &self.header.places;
        let suffix = u128_at(self.blob, suffixes.start + usize::from(number) * SUFFIX_LEN).unwrap_or(0);
        (suffix & low_bits(MAX_SUFFIX), (suffix >> MAX_SUFFIX) as usize)
    }
}

/// A record in place.
#[derive(Clone, Copy)]
struct Record<'a> {
    /// Its beginning; beyond its length come other bytes.
    window: &'a [u8; PAD],
    at: usize,
    len: usize,
}

impl Record<'_> {
    #[inline(always)]
    fn head(&self) -> u64 {
        u64_at(self.window, 0).unwrap_or(0)
    }

    fn flags(&self) -> u8 {
        self.head().to_le_bytes()[0]
    }
}

#[cold]
fn is_long_name(name: Labels<'_>, start: usize, there: &[u8], suffix: u128, suffix_bits: usize) -> bool {
    let chars = suffix_bits / BITS;
    let text = name.text.get(start..name.len() - chars).unwrap_or_default();
    name.keys.tail.last(chars).low == suffix && packed::is_equal(text, there)
}

/// The group where a hash would like to be: below `homes`.
#[inline]
pub(crate) fn home(hash: u64, homes: u32) -> u32 {
    low_half(low_word(u128::from(hash) * u128::from(homes) >> 64))
}

#[inline]
pub(crate) fn tag(hash: u64) -> u8 {
    hash.to_le_bytes()[0].max(1)
}

/// The lowest bit of every byte.
const LOWEST: u64 = 0x0101_0101_0101_0101;

/// The high bit of every byte that is zero; also of a byte above one that is, if it is 1. Who asks compares whole names anyway.
#[inline(always)]
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(LOWEST) & !word & LOWEST << 7
}

/// The two halves of the product, folded.
#[inline(always)]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    low_word(product) ^ low_word(product >> 64)
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
fn low_word(number: u128) -> u64 {
    number as u64
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
fn low_half(number: u64) -> u32 {
    number as u32
}

/// Room for the longest name.
pub(crate) type NameRoom = [u8; MAX_NAME];

impl<'a> Trie<'a> {
    /// The node in a slot with a rule, and its name, which is written to the end of `room`; `None` if there is none.
    pub(crate) fn slot<'r>(&self, slot: u32, room: &'r mut NameRoom) -> Option<(Node, &'r [u8])> {
        let (index, place) = (slot as usize / SLOTS, slot as usize % SLOTS);
        let group = self.group(index)?;
        if byte(group, place)? == 0 {
            return None;
        }
        let record = self.record(Candidate { group, place })?;
        let name_at = self.header.suffix_at() + 1;
        if record.flags() & KINDS == 0 || record.len < name_at {
            return None;
        }
        let (suffix, bits) = self.suffix(byte(record.window, name_at - 1)?);
        let suffix = suffix.to_le_bytes();
        let end = packed::read_before(suffix.get(..bits.div_ceil(8))?, room, MAX_NAME)?;
        let start = packed::read_before(bytes(self.blob, record.at + name_at, record.len - name_at)?, room, end)?;
        Some((self.node(slot as usize, record.head()), room.get(start..)?))
    }

    /// What the terms of a node with several rules are.
    #[inline]
    pub(crate) fn several(&self) -> u32 {
        self.header.several()
    }

    /// Whether there is a node with one rule in a slot.
    pub(crate) fn has_one_rule(&self, slot: u32) -> bool {
        let (index, place) = (slot as usize / SLOTS, slot as usize % SLOTS);
        let group = self.group(index).filter(|group| byte(*group, place) != Some(0));
        let record = group.and_then(|group| self.record(Candidate { group, place }));
        record.is_some_and(|record| record.flags() & KINDS != 0 && self.node(slot as usize, record.head()).terms != self.several())
    }

    /// Slots that there are, free ones included.
    pub(crate) fn slots(&self) -> u32 {
        self.header.groups.saturating_mul(SLOTS as u32)
    }

    /// Checks everything: that records lie one after the other, that every name is one and stands where a lookup finds it. Calls `each` for every node with a rule.
    pub(crate) fn check(&self, mut each: impl FnMut(Node) -> Result<(), &'static str>) -> Result<(), (SectionKind, u64, &'static str)> {
        let mut records = 0_usize;
        let mut rules = 0_u32;
        for index in 0..self.header.groups as usize {
            let wrong = |what| (SectionKind::Trie, (HEADER_LEN + index * GROUP_LEN) as u64, what);
            let group = self.group(index).ok_or(wrong("cut"))?;
            let first = array(group, RECORDS_AT).map_or(0, u32::from_le_bytes);
            if first as usize != records || byte(group, SLOTS) != Some(0) || byte(group, FLAGS_AT).is_none_or(|flags| flags > OVERFLOW) {
                return Err(wrong("a group is not what follows the one before it"));
            }
            let used = group.iter().take(SLOTS).take_while(|tag| **tag != 0).count();
            let mut end = 0;
            for slot in 0..SLOTS {
                let last = byte(group, ENDS_AT + slot).unwrap_or(0);
                if slot >= used {
                    if last != 0 || byte(group, slot) != Some(0) {
                        return Err(wrong("a free slot has something in it"));
                    }
                    continue;
                }
                if last <= end {
                    return Err(wrong("a record ends before it begins"));
                }
                end = last;
                let record = self.record(Candidate { group, place: slot }).ok_or(wrong("a record lies outside"))?;
                if record.flags() & KINDS == 0 {
                    if record.len != 1 {
                        return Err(wrong("a base without a rule has more than its depths"));
                    }
                    continue;
                }
                let number = low_half((index * SLOTS + slot) as u64);
                let mut room = [0; MAX_NAME];
                let (node, name) = self.slot(number, &mut room).ok_or(wrong("a record is no name"))?;
                let keys = Keys::checked(name).ok_or(wrong("a record is no name"))?;
                let name = Labels { text: name, keys: &keys };
                if record.flags() >> DEPTHS != 0 && name.base() > 0 {
                    return Err(wrong("a node that is no base has depths"));
                }
                let mut there = name.top() > 0 || self.header.single;
                if there {
                    there = false;
                    self.walk_for(name, KINDS, &mut |_, found: Node| there |= found.slot == number);
                }
                if !there {
                    return Err(wrong("a lookup does not find a name that is there"));
                }
                each(node).map_err(wrong)?;
                rules += u32::from(node.terms != self.header.several());
            }
            records += usize::from(end);
        }
        let end = |what| (SectionKind::Records, records as u64, what);
        let [_, section, suffixes] = &self.header.places;
        let pad = self.blob.get(section.start + records..section.end);
        if pad.is_none_or(|pad| pad.len() != PAD || pad.iter().any(|byte| *byte != 0)) {
            return Err(end("records do not end where the section does"));
        }
        if rules != self.header.rules {
            return Err((SectionKind::Trie, 44, "the number of rules"));
        }
        let suffixes = self.blob.get(suffixes.clone()).unwrap_or_default().as_chunks::<SUFFIX_LEN>().0;
        for (index, suffix) in (0_u64..).zip(suffixes) {
            let wrong = (SectionKind::Suffixes, index * SUFFIX_LEN as u64, "a suffix is no text");
            let (text, bits) = self.suffix(u8::try_from(index).unwrap_or(0));
            let mut room = [0; MAX_NAME];
            let text = text.to_le_bytes();
            let start = text.get(..bits.div_ceil(8)).and_then(|packed| packed::read_before(packed, &mut room, MAX_NAME)).ok_or(wrong)?;
            if (MAX_NAME - start) * BITS != bits || bits > MAX_SUFFIX || (index == 0 && *suffix != [0; SUFFIX_LEN]) {
                return Err(wrong);
            }
        }
        Ok(())
    }
}
