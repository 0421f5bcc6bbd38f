//! Names in six bits a character.
//!
//! A normalised name has 39 different bytes: `a`–`z`, `0`–`9`, `-`, `.` and `_`. Each has a code of six bits, and none has the code 0, so that a packed
//! text needs no length: `code = (byte & 0x1f) | (byte & 0x40) >> 1`. A packed text is a number: its last character in the lowest six bits, the one before it in the
//! next six, and zeros beyond the first. Texts are equal if and only if their numbers are, and what a text ends in is what its number has in its low bits.
//!
//! Eight characters are exactly six bytes, which is the step of the loops here.

/// Bits of a character.
pub(crate) const BITS: usize = 6;
/// Characters in a [`Tail`].
pub(crate) const TAIL: usize = 32;

/// The codes that mean something, as a bit set.
const KNOWN: u64 = (1 << 0x0d) | (1 << 0x0e) | (0x3ff << 0x10) | (0x3ff_ffff << 0x21) | (1 << 0x3f);

/// The last [`TAIL`] characters of a name, packed: all of it, if it is no longer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) low: u128,
    /// 64 bits.
    pub(crate) high: u128,
}

impl Tail {
    /// Of the last bytes of a name, with zeros before its beginning.
    pub(crate) fn new(last: &[u8; TAIL]) -> Self {
        let word = |index: usize| {
            let bytes = last.as_chunks::<8>().0.get(index).copied().unwrap_or_default();
            u128::from(pack(u64::from_be_bytes(bytes)))
        };
        let (a, b, c, d) = (word(3), word(2), word(1), word(0));
        Self { low: a | b << 48 | c << 96, high: c >> 32 | d << 16 }
    }

    /// Of a name.
    pub(crate) fn of(name: &[u8]) -> Self {
        let mut last = [0; TAIL];
        match name.last_chunk::<TAIL>() {
            Some(whole) => last = *whole,
            None => last.iter_mut().rev().zip(name.iter().rev()).for_each(|(to, from)| *to = *from),
        }
        Self::new(&last)
    }

    /// The last `chars` characters, at most [`TAIL`].
    #[inline]
    pub(crate) fn last(self, chars: usize) -> Self {
        self.last_bits(BITS * chars)
    }

    /// The lowest `bits` bits, at most 192.
    #[inline]
    pub(crate) fn last_bits(self, bits: usize) -> Self {
        match bits.checked_sub(128) {
            None => Self { low: self.low & low_bits(bits), high: 0 },
            Some(more) => Self { low: self.low, high: self.high & low_bits(more) },
        }
    }

    /// Without the last `bits / 6` characters. Below 128 bits.
    #[inline]
    pub(crate) fn without(self, bits: usize) -> Self {
        Self { low: self.low >> bits | self.high << 1 << (127 - bits), high: self.high >> bits }
    }
}

/// The lowest `bits` bits, below 128.
#[inline]
pub(crate) fn low_bits(bits: usize) -> u128 {
    (1 << bits) - 1
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
    let some = (codes | codes >> 1 | codes >> 2 | codes >> 3 | codes >> 4) & 0x0101_0101_0101_0101;
    let bytes = codes | letters << 1 | (some << 5 & !letters);
    let all = codes & codes >> 1 & codes >> 2 & codes >> 3 & codes >> 4 & codes >> 5 & 0x0101_0101_0101_0101;
    bytes & !(all << 5)
}

/// Bytes that `chars` characters take.
pub(crate) fn bytes_for(chars: usize) -> usize {
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

/// Whether `packed` is `text`.
pub(crate) fn is_equal(text: &[u8], packed: &[u8]) -> bool {
    if packed.len() != bytes_for(text.len()) {
        return false;
    }
    let mut end = text.len();
    packed.chunks(6).all(|chunk| {
        let wanted = eight_before(text, end);
        end = end.saturating_sub(8);
        number(chunk) == wanted
    })
}

/// Up to eight bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Appends a packed text.
#[cfg(feature = "build")]
pub(crate) fn write(text: &[u8], out: &mut Vec<u8>) {
    let (mut end, mut left) = (text.len(), bytes_for(text.len()));
    while left > 0 {
        let step = left.min(6);
        out.extend(eight_before(text, end).to_le_bytes().iter().take(step));
        end = end.saturating_sub(8);
        left -= step;
    }
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
        fn what_is_packed_is_what_was_there(text in "[a-z0-9._-]{0,260}", other in "[a-z0-9._-]{0,40}") {
            let mut packed = Vec::new();
            write(text.as_bytes(), &mut packed);
            proptest::prop_assert_eq!(packed.len(), bytes_for(text.len()));
            let mut room = [0; 300];
            let start = read_before(&packed, &mut room, 280).unwrap();
            proptest::prop_assert_eq!(&room[start..280], text.as_bytes());
            proptest::prop_assert!(is_equal(text.as_bytes(), &packed));
            proptest::prop_assert_eq!(is_equal(other.as_bytes(), &packed), text == other);
        }

        #[test]
        fn tails_are_cut_and_joined_like_texts(text in "[a-z0-9._-]{0,60}", cut in 0_usize..21, keep in 0_usize..33) {
            let (tail, bytes) = (Tail::of(text.as_bytes()), text.as_bytes());
            let from = |chars: usize| bytes.len().min(TAIL).saturating_sub(chars);
            let last = &bytes[bytes.len().saturating_sub(TAIL)..];
            proptest::prop_assert_eq!(tail.last(keep), Tail::of(&last[from(keep)..]));
            proptest::prop_assert_eq!(tail.without(BITS * cut), Tail::of(&last[..from(cut)]));
        }
    }
}
