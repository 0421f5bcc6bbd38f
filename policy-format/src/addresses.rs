//! The table of networks: disjoint ranges, each with the list of the rules whose networks cover it.
//!
//! Nested networks are flattened when the policy is compiled, so that a lookup is one binary search.
//!
//! ```text
//! ipv4, 8 bytes: u32 first address, u32 list        ipv6, 20 bytes: u128 first address, u32 list
//! address rules: u32 words; lists back to back, each its length and then that many rule ids, widest network first; list 0 is empty
//! networks, 18 bytes: u8 4 or 6, u8 prefix, 16 bytes of the address (an IPv4 address in the first four, in network order)
//! ```
//! A range ends where the next one starts.

use crate::net::Network;
use crate::reader::{byte, bytes, record, u32_at, u128_at};
use crate::rules::RuleId;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const V4_LEN: usize = 8;
pub(crate) const V6_LEN: usize = 20;
pub(crate) const NETWORK_LEN: usize = 18;
pub(crate) const WORD_LEN: usize = 4;

/// A view of the address sections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses<'a> {
    pub(crate) v4: &'a [u8],
    pub(crate) v6: &'a [u8],
    pub(crate) lists: &'a [u8],
}

impl<'a> Addresses<'a> {
    /// The rules whose networks hold `ip`, widest first.
    pub(crate) fn covering(&self, ip: IpAddr) -> impl Iterator<Item = RuleId> + use<'a> {
        let list = match ip {
            IpAddr::V4(v4) => search::<V4_LEN>(self.v4, |entry| u32_at(entry, 0).is_some_and(|first| first <= v4.to_bits())),
            IpAddr::V6(v6) => search::<V6_LEN>(self.v6, |entry| u128_at(entry, 0).is_some_and(|first| first <= v6.to_bits())),
        };
        self.list(list)
    }

    fn list(&self, list: u32) -> impl Iterator<Item = RuleId> + use<'a> {
        let (lists, first) = (self.lists, usize::try_from(list).unwrap_or(usize::MAX));
        let len = word(lists, first).unwrap_or(0);
        (1..=len).map_while(move |n| word(lists, first.checked_add(usize::try_from(n).ok()?)?).map(RuleId))
    }
}

pub(crate) fn word(words: &[u8], index: usize) -> Option<u32> {
    u32_at(words, index.checked_mul(WORD_LEN)?)
}

/// The list of the last range that starts at or before the address; 0 when there is none.
fn search<const N: usize>(table: &[u8], starts_before: impl Fn(&[u8]) -> bool) -> u32 {
    let (mut low, mut high) = (0, table.len() / N);
    while low < high {
        let middle = low + (high - low) / 2;
        if bytes(table, middle * N, N).is_some_and(&starts_before) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low.checked_sub(1).and_then(|index| u32_at(table, index * N + N - WORD_LEN)).unwrap_or(0)
}

/// The network with number `index`, as it was written.
pub(crate) fn network(section: &[u8], index: u32) -> Option<Network> {
    let entry: [u8; NETWORK_LEN] = record(section, index)?;
    let addr = match byte(&entry, 0)? {
        4 => IpAddr::V4(Ipv4Addr::from(crate::reader::array::<4>(&entry, 2)?)),
        6 => IpAddr::V6(Ipv6Addr::from(crate::reader::array::<16>(&entry, 2)?)),
        _ => return None,
    };
    Network::new(addr, byte(&entry, 1)?).filter(|network| network.addr() == addr)
}
