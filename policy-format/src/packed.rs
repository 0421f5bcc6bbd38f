//! Names in six bits a character.
//!
//! A normalised name has 39 different bytes: `a`–`z`, `0`–`9`, `-`, `.` and `_`. Each has a code of six bits, and none has the code 0, so that a packed
//! text needs no length: `code = (byte & 0x1f) | (byte & 0x40) >> 1`. A packed text is a number: its last character in the lowest six bits, the one before it in the
//! next six, and zeros beyond the first. Texts are equal if and only if their numbers are, and what a text ends in is what its number has in its low bits.
//!
//! Eight characters are exactly six bytes, which is the step of the loops here.

use crate::reader::{u64_at, u128_at};

/// Bits of a character.
pub(crate) const BITS: usize = 6;
/// Characters in a [`Packed`].
pub(crate) const TAIL: usize = 32;

/// The codes that mean something, as a bit set.
const KNOWN: u64 = (1 << 0x0d) | (1 << 0x0e) | (0x3ff << 0x10) | (0x3ff_ffff << 0x21) | (1 << 0x3f);

/// Up to [`TAIL`] characters, packed: 24 bytes, lowest first, and zeros, so that as many can be read from every byte that a suffix may end in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed([u8; 40]);

impl Packed {
    #[inline]
    pub(crate) fn new(words: [u64; 3]) -> Self {
        let mut bytes = [0; 40];
        for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        Self(bytes)
    }

    /// Of the last characters of a name: all of it, if it is no longer than [`TAIL`].
    pub(crate) fn tail(name: &[u8]) -> Self {
        let mut last = [0; TAIL];
        match (name.last_chunk::<TAIL>(), last.get_mut(TAIL.saturating_sub(name.len())..)) {
            (Some(whole), _) => last = *whole,
            (None, Some(end)) => end.copy_from_slice(name),
            (None, None) => {}
        }
        // The first chunk has the first characters, which go into the highest bits.
        let mut parts = [0; 4];
        for (part, chunk) in parts.iter_mut().rev().zip(last.as_chunks::<8>().0) {
            *part = pack(u64::from_be_bytes(*chunk));
        }
        let [a, b, c, d] = parts;
        Self::new([a | b << 48, b >> 16 | c << 32, c >> 32 | d << 16])
    }

    /// Its last characters, at most [`TAIL`].
    #[inline]
    pub(crate) fn last(&self, chars: usize) -> Self {
        let masks = LAST.get(chars).copied().unwrap_or([u64::MAX; 3]);
        let (words, mut kept) = (self.words(), [0; 3]);
        for ((kept, word), mask) in kept.iter_mut().zip(words).zip(masks) {
            *kept = word & mask;
        }
        Self::new(kept)
    }

    #[inline]
    pub(crate) fn words(&self) -> [u64; 3] {
        let word = |at| u64_at(&self.0, at).unwrap_or(0);
        [word(0), word(8), word(16)]
    }

    /// Sixteen bytes from byte `at`, which is at most 24.
    #[inline]
    pub(crate) fn sixteen(&self, at: usize) -> u128 {
        u128_at(&self.0, at).unwrap_or(0)
    }

    /// Eight bytes from byte `at`, which is at most 32.
    #[inline]
    pub(crate) fn eight(&self, at: usize) -> u64 {
        u64_at(&self.0, at).unwrap_or(0)
    }
}

/// Up to 32 packed characters, spelt out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spelt {
    /// At its end; zeros before them.
    pub(crate) text: [u8; TAIL],
    pub(crate) chars: usize,
    /// Which bytes of `text` are dots.
    pub(crate) dots: u32,
}

impl Spelt {
    /// `None` if something in it is no character of a name.
    pub(crate) fn new([low, middle, high]: [u64; 3]) -> Option<Self> {
        const SIX_BYTES: u64 = (1 << 48) - 1;
        let parts = [high >> 16, (middle >> 32 | high << 32) & SIX_BYTES, (low >> 48 | middle << 16) & SIX_BYTES, low & SIX_BYTES];
        let zeros = if high != 0 {
            high.leading_zeros()
        } else if middle != 0 {
            64 + middle.leading_zeros()
        } else {
            128 + low.leading_zeros()
        };
        let chars = (192 - zeros as usize).div_ceil(BITS);
        let (mut text, mut dots, mut known) = ([0; TAIL], 0, 0);
        for (at, (to, part)) in text.as_chunks_mut::<8>().0.iter_mut().zip(parts).enumerate() {
            let word = unpack(part).swap_bytes();
            // Bytes from `first` up to `last`, all below 0x80: the high bit of each.
            let within = |first: u64, last: u64| (word + (0x80 - first) * LOWEST) & !(word + (0x7f - last) * LOWEST) & LOWEST << 7;
            known += (within(0x61, 0x7a) | within(0x30, 0x39) | within(0x2d, 0x2e) | within(0x5f, 0x5f)).count_ones() as usize;
            // The eight high bits side by side.
            dots |= ((within(0x2e, 0x2e) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * at);
            *to = word.to_le_bytes();
        }
        let dots = u32::try_from(dots).ok()?;
        (known == chars).then_some(Self { text, chars, dots })
    }
}

/// The lowest bit of every byte.
pub(crate) const LOWEST: u64 = 0x0101_0101_0101_0101;

impl Default for Packed {
    fn default() -> Self {
        Self([0; 40])
    }
}

/// The bits of the last so many characters. Tables, because shifts by other than constants are slow where numbers have more bits than registers.
#[expect(clippy::indexing_slicing, reason = "worked out when this is compiled")]
const LAST: [[u64; 3]; TAIL + 1] = {
    let mut masks = [[0; 3]; TAIL + 1];
    let mut bit = 0;
    while bit < TAIL * BITS {
        let mut chars = bit / BITS + 1;
        while chars <= TAIL {
            masks[chars][bit / 64] |= 1 << (bit % 64);
            chars += 1;
        }
        bit += 1;
    }
    masks
};

/// Characters of the longest suffix.
pub(crate) const MAX_SUFFIX: usize = 20;

/// The bits of the last so many characters of a suffix.
#[inline(always)]
pub(crate) fn suffix_bits(chars: usize) -> u128 {
    #[expect(clippy::indexing_slicing, reason = "worked out when this is compiled")]
    const BITS_OF: [u128; 32] = {
        let mut masks = [0; 32];
        let mut chars = 0;
        while chars <= MAX_SUFFIX {
            masks[chars] = (1 << (BITS * chars)) - 1;
            chars += 1;
        }
        masks
    };
    BITS_OF.get(chars).copied().unwrap_or(0)
}

/// The lowest so many bytes, at most 24, of sixteen and of the eight after them.
#[inline(always)]
pub(crate) fn low_bytes(bytes: usize) -> (u128, u64) {
    #[expect(clippy::indexing_slicing, reason = "worked out when this is compiled")]
    const LOW: [(u128, u64); 32] = {
        let mut masks = [(u128::MAX, u64::MAX); 32];
        let mut bytes = 0;
        while bytes < 24 {
            masks[bytes] = if bytes < 16 { ((1 << (8 * bytes)) - 1, 0) } else { (u128::MAX, (1 << (8 * (bytes - 16))) - 1) };
            bytes += 1;
        }
        masks
    };
    LOW.get(bytes).copied().unwrap_or_default()
}

/// The whole bytes that `chars` last characters take: a record does not repeat those of its suffix.
#[inline]
pub(crate) fn whole_bytes(chars: usize) -> usize {
    BITS * chars / 8
}

/// Eight characters, the last in the lowest byte and zeros for none, as 48 bits.
#[inline]
fn pack(bytes: u64) -> u64 {
    let codes = bytes & 0x1f1f_1f1f_1f1f_1f1f | (bytes & 0x4040_4040_4040_4040) >> 1;
    let pairs = codes & 0x003f_003f_003f_003f | (codes & 0x3f00_3f00_3f00_3f00) >> 2;
    let fours = pairs & 0x0000_0fff_0000_0fff | (pairs & 0x0fff_0000_0fff_0000) >> 4;
    fours & 0x00ff_ffff | (fours & 0x00ff_ffff_0000_0000) >> 8
}

/// 48 bits as eight characters, the last in the lowest byte.
#[inline]
fn unpack(bits: u64) -> u64 {
    let fours = bits & 0x00ff_ffff | (bits & 0xffff_ff00_0000) << 8;
    let pairs = fours & 0x0000_0fff_0000_0fff | (fours & 0x00ff_f000_00ff_f000) << 4;
    let codes = pairs & 0x003f_003f_003f_003f | (pairs & 0x0fc0_0fc0_0fc0_0fc0) << 2;
    // 0x40 for letters and `_`, 0x20 for the others, nothing where there is no character; then `_`, which would be DEL, is one bit less.
    let letters = codes & 0x2020_2020_2020_2020;
    let some = (codes | codes >> 1 | codes >> 2 | codes >> 3 | codes >> 4) & LOWEST;
    let bytes = codes | letters << 1 | (some << 5 & !letters);
    let all = codes & codes >> 1 & codes >> 2 & codes >> 3 & codes >> 4 & codes >> 5 & LOWEST;
    bytes & !(all << 5)
}

/// Bytes that `chars` characters take.
pub(crate) const fn bytes_for(chars: usize) -> usize {
    (BITS * chars).div_ceil(8)
}

/// The characters before `end` in `text`, at most eight, as a number.
#[inline]
pub(crate) fn eight_before(text: &[u8], end: usize) -> u64 {
    let before = text.get(..end).unwrap_or(text);
    pack(match before.last_chunk::<8>() {
        Some(whole) => u64::from_be_bytes(*whole),
        None => before.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    })
}

/// Whether `packed` is what `text` is from its packed byte `skip` on.
pub(crate) fn is_equal(text: &[u8], skip: usize, packed: &[u8]) -> bool {
    if packed.len() + skip != bytes_for(text.len()) {
        return false;
    }
    let (mut end, mut at) = (text.len(), 0);
    let mut there = packed.iter();
    while at < skip + packed.len() {
        // Eight characters are six bytes.
        for byte in eight_before(text, end).to_le_bytes().iter().take(6) {
            if at >= skip && there.next().is_some_and(|there| there != byte) {
                return false;
            }
            at += 1;
        }
        end = end.saturating_sub(8);
    }
    true
}

/// Up to eight bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Appends a packed text, from its byte `skip` on.
#[cfg(feature = "build")]
pub(crate) fn write(text: &[u8], skip: usize, out: &mut Vec<u8>) {
    let (first, mut end, mut left) = (out.len(), text.len(), bytes_for(text.len()));
    while left > 0 {
        let step = left.min(6);
        out.extend(eight_before(text, end).to_le_bytes().iter().take(step));
        end = end.saturating_sub(8);
        left -= step;
    }
    out.drain(first..first + skip);
}

/// Unpacks in front of what `text` has from `at` on; returns where the text now begins. `None` when it is no text, or has no room.
pub(crate) fn read_before(packed: &[u8], text: &mut [u8], mut at: usize) -> Option<usize> {
    let mut chunks = packed.chunks(6).peekable();
    while let Some(chunk) = chunks.next() {
        let bits = number(chunk);
        let chars = (64 - bits.leading_zeros() as usize).div_ceil(BITS);
        if chars < 8 && chunks.peek().is_some() {
            return None;
        }
        // A byte more than its characters need is not how they are written.
        if bytes_for(chars) != chunk.len() || !(0..chars).all(|n| KNOWN >> (bits >> (BITS * n) & 0x3f) & 1 == 1) {
            return None;
        }
        let start = at.checked_sub(chars)?;
        let bytes = unpack(bits).to_be_bytes();
        text.get_mut(start..at)?.copy_from_slice(bytes.get(8 - chars..)?);
        at = start;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-._";

    #[test]
    fn every_character_has_a_code_of_its_own() {
        let mut codes: Vec<u64> = ALL.iter().map(|byte| eight_before(&[*byte], 1)).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ALL.len());
        assert!(codes.iter().all(|code| KNOWN >> code & 1 == 1) && KNOWN.count_ones() as usize == ALL.len());
    }

    #[test]
    fn refuses_what_is_no_text() {
        let mut text = [0; 300];
        for wrong in [&[1][..], &[0], &[0x21, 0], &[0x21, 0, 0, 0, 0, 0, 0x21], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(read_before(wrong, &mut text, 300), None, "{wrong:?}");
        }
        assert_eq!(read_before(&[0x21; 6], &mut text, 4), None, "no room");
        assert_eq!(read_before(&[], &mut text, 4), Some(4));
    }

    #[cfg(feature = "build")]
    proptest::proptest! {
        #[test]
        fn short_texts_are_spelt_out(text in "[a-z0-9._-]{1,32}", noise in proptest::array::uniform3(proptest::num::u64::ANY)) {
            let spelt = Spelt::new(Packed::tail(text.as_bytes()).words()).unwrap();
            proptest::prop_assert_eq!(&spelt.text[TAIL - spelt.chars..], text.as_bytes());
            for (at, byte) in spelt.text.iter().enumerate() {
                proptest::prop_assert_eq!(spelt.dots >> at & 1 == 1, *byte == b'.');
            }
            // What is no text is refused, and what is not refused packs to what it was.
            if let Some(odd) = Spelt::new(noise) {
                proptest::prop_assert_eq!(Packed::tail(&odd.text[TAIL - odd.chars..]).words(), noise);
            }
        }

        #[test]
        fn what_is_packed_is_what_was_there(text in "[a-z0-9._-]{0,260}", other in "[a-z0-9._-]{0,40}") {
            let mut packed = Vec::new();
            write(text.as_bytes(), 0, &mut packed);
            proptest::prop_assert_eq!(packed.len(), bytes_for(text.len()));
            let mut room = [0; 300];
            let start = read_before(&packed, &mut room, 280).unwrap();
            proptest::prop_assert_eq!(&room[start..280], text.as_bytes());
            for skip in 0..=packed.len().min(15) {
                proptest::prop_assert!(is_equal(text.as_bytes(), skip, &packed[skip..]));
                let same = packed.len() == bytes_for(other.len()) && { let mut own = Vec::new(); write(other.as_bytes(), 0, &mut own); own[skip..] == packed[skip..] };
                proptest::prop_assert_eq!(is_equal(other.as_bytes(), skip, &packed[skip..]), same);
            }
        }

        #[test]
        fn tails_are_cut_like_texts(text in "[a-z0-9._-]{0,60}", keep in 0_usize..33) {
            let (tail, bytes) = (Packed::tail(text.as_bytes()), text.as_bytes());
            let last = &bytes[bytes.len().saturating_sub(TAIL)..];
            let kept = &last[last.len().saturating_sub(keep)..];
            proptest::prop_assert_eq!(tail.last(keep), Packed::tail(kept));
            let mut packed = Vec::new();
            write(last, 0, &mut packed);
            packed.resize(40, 0);
            proptest::prop_assert_eq!(&tail.0[..], &packed[..]);
        }
    }
}
