//! The checked cursor: the only code that turns offsets into bytes.
//!
//! Every function answers `None` when any byte of what was asked for lies outside. Integers are little-endian and need no
//! alignment.

/// `len` bytes from `at`.
pub(crate) fn bytes(data: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    data.get(at..at.checked_add(len)?)
}

/// `N` bytes from `at`.
pub(crate) fn array<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    bytes(data, at, N)?.try_into().ok()
}

pub(crate) fn byte(data: &[u8], at: usize) -> Option<u8> {
    data.get(at).copied()
}

pub(crate) fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    array(data, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    array(data, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    array(data, at).map(u64::from_le_bytes)
}

pub(crate) fn u128_at(data: &[u8], at: usize) -> Option<u128> {
    array(data, at).map(u128::from_le_bytes)
}

/// The record with number `index` in a section of records of `N` bytes.
pub(crate) fn record<const N: usize>(data: &[u8], index: u32) -> Option<[u8; N]> {
    array(data, usize::try_from(index).ok()?.checked_mul(N)?)
}

/// How many records of `N` bytes a section holds; `None` when it is not a whole number that fits 32 bits.
pub(crate) fn record_count<const N: usize>(data: &[u8]) -> Option<u32> {
    if !data.len().is_multiple_of(N) {
        return None;
    }
    u32::try_from(data.len() / N).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_lies_outside() {
        let data = [1, 2, 3, 4];
        assert_eq!(u32_at(&data, 0), Some(0x0403_0201));
        assert_eq!(u32_at(&data, 1), None);
        assert_eq!(bytes(&data, usize::MAX, 2), None);
        assert_eq!(record::<2>(&data, 1), Some([3, 4]));
        assert_eq!(record::<2>(&data, u32::MAX), None);
        assert_eq!(record_count::<3>(&data), None);
    }
}
