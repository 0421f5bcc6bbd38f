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
//! 40 u8  probe    groups to look at, 1 to 16           27 u32    records: where the first record begins in section `records`
//! 41 u8  terms    bytes of an index of terms, 1 or 2   31 u8     bit 0: a node whose home this is, or is before it, lies further on
//! 42 u8  line     bytes of a line, 0 to 4
//! 43 u8  bit 0: there are rules for single labels      record
//! 44 u32 rules    in records, one each                  0 u8  bits 0 and 1: exact, subdomains; bits 2 to 7: rules 1, 2, 3, 4, 5, or more
//! 48 u128 depths  bit n: there are rules n + 1               labels below it. No rule: the record ends here
//!                 labels longer than their base         1 terms: index of `terms`; all ones: several rules
//!                                                         line: of the source; of several: the first in section `rules`
//! section `records`: records, then 32 zeros               u8 number of the text that the name ends in
//! section `suffixes`: 1 to 256 x 16 bytes: up to 20      the packed name (see `packed.rs`), lowest byte first, without
//!   characters, packed; the last byte: how many           the bytes that the characters of that text fill whole
//! ```
//!
//! # Hash
//!
//! `fold(a, b)` is the exclusive or of the halves of the product of two words. A text of up to 32 characters is one number of 192 bits (see
//! `packed.rs`): words `w0`, `w1`, `w2`, lowest first, and its hash is `fold(fold(w0 ^ k0, w1 ^ k1) ^ k2, w2 ^ k3)`. Of a longer text, that is the state of its last 32
//! characters; what is before them is absorbed from the right, in pieces that end at the beginning of the last two labels and of every label before those.
//! A piece is absorbed from the left, eight bytes of text at a time: `state = fold(state ^ word ^ k2, k3 ^ length)`, `word` little-endian, filled up with zeros, `length`
//! the bytes of the whole piece. The home of a hash is the high half of its product with `homes`; its tag is its lowest byte, or 1 if that is 0.
//!
//! The key comes from the content, so that builds are reproducible; who can ask cannot make the table longer, and who writes rules
//! that collide gets another key (see `trie_writer.rs`).

use crate::host::{MAX_LABEL, MAX_NAME, Name};
use crate::packed::{self, LOWEST, Packed, TAIL, low_bytes, suffix_bits, whole_bytes};
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
/// Bits of a suffix; its characters are counted in the byte after them.
pub(crate) const SUFFIX_TEXT: u32 = 120;
/// Bytes of a name that are looked at with the beginning of its record.
const SHORT: usize = 24;
/// Groups that a lookup may have to look at.
pub(crate) const MAX_PROBE: u8 = 16;
/// Bits of a record's flags: which names a rule of its node speaks of.
const EXACT: u8 = RuleKind::Exact as u8;
pub(crate) const SUBDOMAINS: u8 = RuleKind::Subdomains as u8;
pub(crate) const KINDS: u8 = RuleKind::ApexAndSubdomains as u8;
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
    /// The index of terms that means several rules; where the name begins in a record; where the line begins in it after its flags, in bits; and the bits of terms and line.
    pub(crate) several: u32,
    pub(crate) name_at: usize,
    pub(crate) line_at: u32,
    pub(crate) fields: [u64; 2],
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
            several: several(byte(section, 41)?),
            name_at: name_at(byte(section, 41)?, byte(section, 42)?),
            line_at: 8 * u32::from(byte(section, 41)?),
            fields: [41, 42].map(|at| byte(section, at).map_or(0, |bytes| low_word(low_bytes(usize::from(bytes)).0))),
        };
        let groups = usize::try_from(header.groups).ok()?;
        let right = section.len() == HEADER_LEN.checked_add(groups.checked_mul(GROUP_LEN)?)?
            && (1..=header.groups).contains(&header.homes)
            && (1..=MAX_PROBE).contains(&header.probe)
            && (1..=2).contains(&header.terms)
            && header.line <= 4
            && flags <= 1
            && records.len() >= PAD
            && suffixes.len().is_multiple_of(SUFFIX_LEN)
            && (1..=SUFFIXES).contains(&(suffixes.len() / SUFFIX_LEN));
        right.then_some(header)
    }
}

/// The index of terms that means several rules, where an index has so many bytes: all ones.
pub(crate) fn several(terms: u8) -> u32 {
    if terms == 1 { 0xff } else { 0xffff }
}

/// Where the name begins in a record: after flags, terms, line and the number of a suffix.
pub(crate) fn name_at(terms: u8, line: u8) -> usize {
    2 + usize::from(terms) + usize::from(line)
}

/// The key of the hash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) [u64; 4]);

impl Key {
    #[inline]
    pub(crate) fn packed(&self, text: &Packed) -> u64 {
        let ([a, b, c, d], [low, middle, high]) = (self.0, text.words());
        fold(fold(low ^ a, middle ^ b) ^ c, high ^ d)
    }

    /// Every step has the bytes of the whole piece in it, so that it is plain where pieces end: `xxxxxxxxyyyyyyy.` is not what `xxxxxxxx` and then `yyyyyyy.` is.
    fn absorb(&self, state: u64, piece: &[u8]) -> u64 {
        let [_, _, c, d] = self.0;
        let length = d ^ piece.len() as u64;
        let (words, rest) = piece.as_chunks::<8>();
        let state = words.iter().fold(state, |state, word| fold(state ^ u64::from_le_bytes(*word) ^ c, length));
        if rest.is_empty() {
            return state;
        }
        let word = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        fold(state ^ word ^ c, length)
    }

    /// The hash of the last two labels of a name, or of its only one.
    #[inline]
    pub(crate) fn base(&self, name: &Labels<'_>) -> u64 {
        let state = self.packed(&name.keys.base_tail);
        if name.len() - name.base() <= TAIL {
            state
        } else {
            self.absorb(state, name.text.get(name.base()..name.len() - TAIL).unwrap_or_default())
        }
    }

    /// The hash of the last label of a name that has more.
    fn top(&self, name: &Labels<'_>, last: &Packed) -> u64 {
        let chars = name.len() - name.top();
        let state = self.packed(last);
        if chars <= TAIL { state } else { self.absorb(state, name.text.get(name.top()..name.len() - TAIL).unwrap_or_default()) }
    }

    /// The hash of what begins at `start`, from the hash of what begins one label further right, at `after`; and into `packed` what it is, if it is no longer than that.
    #[inline]
    pub(crate) fn longer(&self, name: &Labels<'_>, state: u64, start: usize, after: usize, packed: &mut Packed) -> u64 {
        let len = name.len();
        if len - start <= TAIL {
            *packed = name.keys.tail.last(len - start);
            return self.packed(packed);
        }
        let (state, end) = if len - after <= TAIL { (self.packed(&name.keys.tail), len - TAIL) } else { (state, after) };
        self.absorb(state, name.text.get(start..end).unwrap_or_default())
    }

    /// The hashes of a whole name and of its base, and how many labels it has beyond that.
    #[cfg(feature = "build")]
    pub(crate) fn name(&self, name: &Labels<'_>) -> (u64, u64, u32) {
        let base = self.base(name);
        if name.len() <= TAIL {
            // Nothing is absorbed: the whole name is one number.
            let dots = name.text.iter().filter(|byte| **byte == b'.').count();
            return (self.packed(&name.keys.tail), base, low_half(dots.saturating_sub(1) as u64));
        }
        let (mut state, mut start, mut depth, mut packed) = (base, name.base(), 0, Packed::default());
        while start > 0 {
            let next = label_start(name.text, start - 1);
            state = self.longer(name, state, next, start, &mut packed);
            (start, depth) = (next, depth + 1);
        }
        (state, base, depth)
    }
}

/// What a lookup needs to know of a name, worked out once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Keys {
    /// The last characters.
    pub(crate) tail: Packed,
    /// The last characters of the last two labels.
    pub(crate) base_tail: Packed,
    pub(crate) len: u8,
    /// Where the last label begins.
    pub(crate) top: u8,
    /// Where the last two labels begin; 0 if there are no more.
    pub(crate) base: u8,
}

/// A normalised name, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Labels<'n> {
    /// The name, and after it zeros or nothing.
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
        Self::from_tail(Packed::tail(text), text.len(), top, base)
    }

    /// Of a normalised name of which that is known.
    pub(crate) fn from_tail(tail: Packed, len: usize, top: usize, base: usize) -> Self {
        // A name has at most 253 bytes.
        let short = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        Self { tail, base_tail: tail.last((len - base).min(TAIL)), len: short(len), top: short(top), base: short(base) }
    }

    /// Of text that may be a normalised name or not.
    pub(crate) fn checked(text: &[u8]) -> Option<Self> {
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
    pub(crate) fn base(&self) -> usize {
        usize::from(self.keys.base)
    }

    #[inline]
    pub(crate) fn top(&self) -> usize {
        usize::from(self.keys.top)
    }
}

/// Where the label begins that ends at `end`.
#[inline]
pub(crate) fn label_start(text: &[u8], end: usize) -> usize {
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
    pub(crate) header: &'a Header,
    pub(crate) blob: &'a [u8],
}

/// What a probe finds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Hit {
    /// At which depths below there are rules: too many if another node has the same tag, never too few.
    pub(crate) depths: u8,
    pub(crate) slot: usize,
    /// The beginning of the node's record; 0 if there is no such node.
    pub(crate) head: u64,
}

impl<'a> Trie<'a> {
    #[inline]
    pub(crate) fn new(header: &'a Header, blob: &'a [u8]) -> Self {
        Self { header, blob }
    }

    /// Calls `found` for every node that speaks of the name, the shortest first, with the length of the node's name.
    #[inline(always)]
    pub(crate) fn walk(&self, name: &Name, mut found: impl FnMut(usize, Node)) {
        let (name, found) = (&name.labels(), &mut found);
        if self.header.single && name.top() > 0 {
            self.single(name, found);
        }
        let hash = self.header.key.base(name);
        let start = name.base();
        let hit = self.probe(name, start, &name.keys.base_tail, hash, if start == 0 { EXACT } else { SUBDOMAINS });
        self.tell(name, start, hit, found);
        if start > 0 && hit.depths != 0 {
            self.deeper(name, hash, hit.depths, found);
        }
    }

    /// The node of the last label.
    #[inline(never)]
    fn single(&self, name: &Labels<'_>, found: &mut impl FnMut(usize, Node)) {
        let wanted = name.keys.tail.last((name.len() - name.top()).min(TAIL));
        let hit = self.probe(name, name.top(), &wanted, self.header.key.top(name, &wanted), SUBDOMAINS);
        self.tell(name, name.top(), hit, found);
    }

    #[inline(always)]
    fn tell(&self, name: &Labels<'_>, start: usize, hit: Hit, found: &mut impl FnMut(usize, Node)) {
        if hit.head != 0 {
            found(name.len() - start, self.node(hit.slot, hit.head));
        }
    }

    #[inline(never)]
    fn deeper(&self, name: &Labels<'_>, base: u64, depths: u8, found: &mut impl FnMut(usize, Node)) {
        let (mut start, mut state, mut depth) = (name.base(), base, 0);
        let (mut known, mut here, mut wanted) = (self.header.depths, depths, Packed::default());
        while start > 0 && known != 0 && here != 0 {
            let next = label_start(name.text, start - 1);
            let asked = here & 1 == 1 && known & 1 == 1;
            // Of longer texts the hash is made of those of shorter ones.
            if asked || name.len() - next > TAIL {
                state = self.header.key.longer(name, state, next, start, &mut wanted);
            }
            if asked {
                let hit = self.probe(name, next, &wanted, state, if next == 0 { EXACT } else { SUBDOMAINS });
                self.tell(name, next, hit, found);
            }
            known >>= 1;
            // The last bit stands for all depths from there on.
            here >>= u8::from(depth < LAST_DEPTH);
            (start, depth) = (next, depth + 1);
        }
    }

    /// Looks for the node of what begins at `start`, whose last characters are `wanted`: there is one at most. Inlined, because how far the processor can look ahead, to
    /// the next question while memory has not answered the last, is counted in instructions.
    #[inline(always)]
    pub(crate) fn probe(&self, name: &Labels<'_>, start: usize, wanted: &Packed, hash: u64, needed: u8) -> Hit {
        let tags = u64::from(tag(hash)) * LOWEST;
        let mut hit = Hit::default();
        let mut index = home(hash, self.header.homes) as usize;
        let end = index + usize::from(self.header.probe);
        while index < end {
            let Some(group) = self.group(index) else { return hit };
            let word = |at: usize| array::<8>(group, at).map_or(0, u64::from_le_bytes);
            // Thirteen tags are eight and five.
            let mut same = zero_bytes(word(0) ^ tags) >> 7 | zero_bytes((word(8) ^ tags) | 0xffff_ff00_0000_0000) >> 6;
            while same != 0 {
                let bit = same.trailing_zeros() as usize;
                let place = bit / 8 + bit % 8 * 8;
                if let Some(record) = self.record(group, place) {
                    let head = record.head();
                    let flags = head.to_le_bytes()[0];
                    if flags & needed != 0 && self.is_name(name, start, wanted, record) {
                        return Hit { depths: flags >> DEPTHS, slot: index * SLOTS + place, head };
                    }
                    // A base without a rule has no name to compare; what has the same tag may be it.
                    hit.depths |= flags >> DEPTHS;
                }
                same &= same - 1;
            }
            if byte(group, FLAGS_AT).unwrap_or(0) & OVERFLOW == 0 {
                break;
            }
            index += 1;
        }
        hit
    }

    #[inline(always)]
    pub(crate) fn group(&self, index: usize) -> Option<&'a [u8; GROUP_LEN]> {
        let [groups, ..] = &self.header.places;
        self.blob.get(groups.start + index * GROUP_LEN..)?.first_chunk()
    }

    #[inline(always)]
    pub(crate) fn record(&self, group: &[u8; GROUP_LEN], place: usize) -> Option<Record<'a>> {
        let begin = usize::from(byte(group, ENDS_AT - 1 + place)?);
        let end = usize::from(byte(group, ENDS_AT + place)?);
        let [_, records, _] = &self.header.places;
        let at = records.start + u32_at(group, RECORDS_AT)? as usize + begin;
        // A free slot, which has the tag 0, may look like one with the tag 1: it has no record.
        let len = end.checked_sub(begin).filter(|len| *len > 0)?;
        Some(Record { window: self.blob.get(at..)?.first_chunk()?, at, len })
    }

    #[inline(always)]
    pub(crate) fn node(&self, slot: usize, head: u64) -> Node {
        let ([terms, line], fields) = (self.header.fields, head >> 8);
        Node {
            slot: low_half(slot as u64),
            kinds: head.to_le_bytes()[0] & KINDS,
            terms: low_half(fields & terms),
            line: low_half(fields.wrapping_shr(self.header.line_at) & line),
        }
    }

    /// Whether a record has the name that begins at `start`.
    #[inline(always)]
    fn is_name(&self, name: &Labels<'_>, start: usize, wanted: &Packed, record: Record<'_>) -> bool {
        let name_at = self.header.name_at;
        let chars = name.len() - start;
        let (suffix, of_suffix) = self.suffix(byte(record.window, name_at - 1).unwrap_or(0));
        let own = record.len.wrapping_sub(name_at);
        if own > SHORT || chars > TAIL {
            return self.is_long_name(name, start, record);
        }
        // The bytes that follow the record are cut off; beyond a name there are zeros, which no character is. All is compared at once: nothing has to be guessed
        // before memory has answered.
        let skip = whole_bytes(of_suffix);
        let (low_bytes, high_bytes) = low_bytes(own);
        let low = u128_at(record.window, name_at).unwrap_or(0) & low_bytes ^ wanted.sixteen(skip);
        let high = u64_at(record.window, name_at + 16).unwrap_or(0) & high_bytes ^ wanted.eight(skip + 16);
        (wanted.sixteen(0) ^ suffix) & suffix_bits(of_suffix) | low | u128::from(high) == 0
    }

    #[inline(never)]
    fn is_long_name(&self, name: &Labels<'_>, start: usize, record: Record<'_>) -> bool {
        let name_at = self.header.name_at;
        let (suffix, of_suffix) = self.suffix(byte(record.window, name_at - 1).unwrap_or(0));
        let there = bytes(self.blob, record.at + name_at, record.len.wrapping_sub(name_at)).unwrap_or_default();
        let text = name.text.get(start..name.len()).unwrap_or_default();
        let ends = of_suffix <= text.len() && (name.keys.tail.sixteen(0) ^ suffix) & suffix_bits(of_suffix) == 0;
        ends && packed::is_equal(text, whole_bytes(of_suffix), there)
    }

    /// A suffix, and its characters.
    #[inline(always)]
    pub(crate) fn suffix(&self, number: u8) -> (u128, usize) {
        let [.., suffixes] = &self.header.places;
        let suffix = u128_at(self.blob, suffixes.start + usize::from(number) * SUFFIX_LEN).unwrap_or(0);
        // Not more than 31, so that nothing that it leads to has to be checked; 20 is the most that is right.
        (suffix, (suffix >> SUFFIX_TEXT) as usize & 31)
    }
}

/// A record in place.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    /// Its beginning; beyond its length come other bytes.
    pub(crate) window: &'a [u8; PAD],
    pub(crate) at: usize,
    pub(crate) len: usize,
}

impl Record<'_> {
    #[inline(always)]
    pub(crate) fn head(&self) -> u64 {
        u64_at(self.window, 0).unwrap_or(0)
    }

    pub(crate) fn flags(&self) -> u8 {
        self.head().to_le_bytes()[0]
    }
}

/// The group where a hash would like to be: below `homes`.
#[inline]
pub(crate) fn home(hash: u64, homes: u32) -> u32 {
    low_half(low_word((u128::from(hash) * u128::from(homes)) >> 64))
}

#[inline]
pub(crate) fn tag(hash: u64) -> u8 {
    hash.to_le_bytes()[0].max(1)
}

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
pub(crate) fn low_word(number: u128) -> u64 {
    number as u64
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
pub(crate) fn low_half(number: u64) -> u32 {
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
        let record = self.record(group, place)?;
        let name_at = self.header.name_at;
        if record.flags() & KINDS == 0 || record.len < name_at {
            return None;
        }
        let (suffix, chars) = self.suffix(byte(record.window, name_at - 1)?);
        // The low bytes are the suffix's, and the others are the record's, which repeats what bits of the suffix its first byte has.
        let (skip, own) = (whole_bytes(chars), bytes(self.blob, record.at + name_at, record.len - name_at)?);
        let mut packed = [0; packed::bytes_for(MAX_NAME)];
        packed.get_mut(..skip)?.copy_from_slice(suffix.to_le_bytes().get(..skip)?);
        packed.get_mut(skip..skip + own.len())?.copy_from_slice(own);
        let start = packed::read_before(packed.get(..skip + own.len())?, room, MAX_NAME)?;
        if (u128_at(&packed, 0)? ^ suffix) & suffix_bits(chars) != 0 {
            return None;
        }
        Some((self.node(slot as usize, record.head()), room.get(start..)?))
    }

    /// Whether there is a node with one rule in a slot.
    pub(crate) fn has_one_rule(&self, slot: u32) -> bool {
        let (index, place) = (slot as usize / SLOTS, slot as usize % SLOTS);
        let group = self.group(index).filter(|group| byte(*group, place) != Some(0));
        let record = group.and_then(|group| self.record(group, place));
        record.is_some_and(|record| record.flags() & KINDS != 0 && self.node(slot as usize, record.head()).terms != self.header.several)
    }

    /// Slots that there are, free ones included.
    pub(crate) fn slots(&self) -> u32 {
        u32::try_from(SLOTS).map_or(0, |slots| self.header.groups.saturating_mul(slots))
    }
}
