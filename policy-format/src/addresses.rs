//! The networks that rules name, and the tables that lead from an address to the closest of them.
//!
//! ```text
//! networks, 28 bytes, each network once, in ascending order: IPv4 before IPv6, then by address, then the wider first
//!  0 16 bytes  address; an IPv4 address in the first four, in network order
//! 16 u8  prefix                                  17 u8  family      4 or 6
//! 18 u16 rule_count   at least 1                 20 u32 first_rule  its rules are a run
//! 24 u32 parent       the innermost network around it; ffff_ffff: none
//!
//! ipv4, 8 bytes: u32 first address, u32 network  ipv6, 20 bytes: u128 first address, u32 network
//! ipv4 index: nothing up to 16,384 IPv4 ranges; otherwise 65,537 u32: for each value of an address's upper half, and for the one after
//!   the last, how many ranges start before it
//! ```
//!
//! Nested networks are flattened into disjoint ranges: each ends where the next one starts, and has the innermost network around its addresses, or
//! `ffff_ffff`. A lookup is one binary search, and then a walk from parent to parent: as many steps as networks hold the address, whatever else the policy
//! has, and never more than there are prefix lengths. Every section grows with the number of networks alone.

use crate::error::FormatError;
use crate::header::SectionKind;
use crate::net::Network;
use crate::reader::{array, byte, bytes, record, record_count, u16_at, u32_at, u128_at};
use crate::rules::{RuleId, RuleKind, RuleRecord};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

const V4_LEN: usize = 8;
const V6_LEN: usize = 20;
const NETWORK_LEN: usize = 28;
const WORD_LEN: usize = 4;
/// In place of a network's number: none.
const NONE: u32 = u32::MAX;
/// More IPv4 ranges than this have an index: its 256 KiB are then at most twice what the ranges take. A lookup among 20,000 ranges takes a tenth of
/// the time with it, one among two million a quarter.
const INDEX_FROM: usize = 1 << 14;

/// A view of the address sections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses<'a> {
    pub(crate) networks: &'a [u8],
    pub(crate) v4: &'a [u8],
    pub(crate) v4_index: &'a [u8],
    pub(crate) v6: &'a [u8],
}

/// What a network's record says beside its address.
#[derive(Debug, Clone, Copy)]
struct Entry {
    prefix: u8,
    rule_count: u16,
    first_rule: u32,
    parent: u32,
}

impl Entry {
    fn read(networks: &[u8], index: u32) -> Option<Self> {
        let bytes: [u8; NETWORK_LEN] = record(networks, index)?;
        let (prefix, bits) = (byte(&bytes, 16)?, if byte(&bytes, 17)? == 4 { 32 } else { 128 });
        let entry = Self { prefix, rule_count: u16_at(&bytes, 18)?, first_rule: u32_at(&bytes, 20)?, parent: u32_at(&bytes, 24)? };
        (prefix <= bits).then_some(entry)
    }

    fn rules(&self) -> Range<u32> {
        self.first_rule..self.first_rule.saturating_add(u32::from(self.rule_count))
    }
}

impl<'a> Addresses<'a> {
    /// The rules whose networks hold `ip`, with their ranks: closest network first, the rules of one network in their order. The rank is the prefix length
    /// and one more: 0 is left to rules that name no address.
    pub(crate) fn covering(&self, ip: IpAddr) -> impl Iterator<Item = (usize, RuleId)> + use<'a> {
        let networks = self.networks;
        let innermost = self.innermost(ip).and_then(|index| Entry::read(networks, index));
        // Parents are wider, or the walk ends: no bytes make it a loop.
        std::iter::successors(innermost, move |inner| Entry::read(networks, inner.parent).filter(|outer| outer.prefix < inner.prefix))
            .flat_map(|entry| entry.rules().map(move |id| (usize::from(entry.prefix) + 1, RuleId(id))))
    }

    /// The network with number `index`.
    pub(crate) fn network(&self, index: u32) -> Option<Network> {
        network(self.networks, index)
    }

    /// The numbers of the rules for the network with number `index`.
    pub(crate) fn rules(&self, index: u32) -> Option<Range<u32>> {
        Entry::read(self.networks, index).map(|entry| entry.rules())
    }

    /// The number of the innermost network around `ip`.
    fn innermost(&self, ip: IpAddr) -> Option<u32> {
        match ip {
            IpAddr::V4(v4) => {
                let bits = v4.to_bits();
                let part = self.indexed(bits).unwrap_or(0..self.v4.len() / V4_LEN);
                search::<V4_LEN>(self.v4, part, |entry| u32_at(entry, 0).is_some_and(|first| first <= bits))
            }
            IpAddr::V6(v6) => {
                let bits = v6.to_bits();
                search::<V6_LEN>(self.v6, 0..self.v6.len() / V6_LEN, |entry| u128_at(entry, 0).is_some_and(|first| first <= bits))
            }
        }
    }

    /// The IPv4 ranges that start under the address's upper half, if there is an index.
    fn indexed(&self, bits: u32) -> Option<Range<usize>> {
        let word = |at: u32| usize::try_from(u32_at(self.v4_index, usize::try_from(at).ok()? * WORD_LEN)?).ok();
        Some(word(bits >> 16)?..word((bits >> 16) + 1)?.min(self.v4.len() / V4_LEN))
    }

    /// Makes sure that the sections say one thing: networks ascend, each with the parent and the rules that are its own, and ranges and index are
    /// those of the networks. Linear in their length.
    pub(crate) fn check(&self, rules: &[u8]) -> Result<(), FormatError> {
        let wrong = |index: u32, what| wrong(SectionKind::Networks, u64::from(index) * NETWORK_LEN as u64, what);
        let (mut last, mut nesting) = (None, Nesting::default());
        for index in 0..record_count::<NETWORK_LEN>(self.networks).ok_or(wrong(0, "length"))? {
            let network = self.network(index).ok_or(wrong(index, "not a network"))?;
            let entry = Entry::read(self.networks, index).ok_or(wrong(index, "not a network"))?;
            if last.replace(network).is_some_and(|last| last >= network) {
                return Err(wrong(index, "networks do not ascend"));
            }
            if entry.parent != nesting.enter(network, index) {
                return Err(wrong(index, "its parent is not the innermost network around it"));
            }
            // A rule has one network, so that none is looked at twice, however many networks claim it.
            let own = |id| RuleRecord::read(rules, id).is_some_and(|rule| rule.kind == RuleKind::Network && rule.anchor == index);
            if entry.rule_count == 0 || !entry.rules().all(own) {
                return Err(wrong(index, "its rules are not rules for it"));
            }
        }
        self.check_ranges::<V4_LEN>(SectionKind::Ipv4, self.v4)?;
        self.check_ranges::<V6_LEN>(SectionKind::Ipv6, self.v6)?;
        if index_of(self.v4) != self.v4_index {
            return Err(self::wrong(SectionKind::Ipv4Index, 0, "not the index of the IPv4 ranges"));
        }
        Ok(())
    }

    fn check_ranges<const N: usize>(&self, kind: SectionKind, table: &[u8]) -> Result<(), FormatError> {
        let wrong = |index: usize, what| wrong(kind, index as u64 * N as u64, what);
        let (mut at, mut different) = (0, None);
        flatten(self.networks, N == V4_LEN, |first, network| {
            if range_at::<N>(table, at) != Some((first, network)) {
                different = different.or(Some(at));
            }
            at += 1;
        });
        match different {
            Some(index) => Err(wrong(index, "not the range that the networks make")),
            None if at.checked_mul(N) != Some(table.len()) => Err(wrong(at, "more ranges than the networks make")),
            None => Ok(()),
        }
    }
}

fn wrong(section: SectionKind, offset: u64, what: &'static str) -> FormatError {
    FormatError::Section { section, offset, what }
}

/// The network of the last range that starts at or before the address, where `part` are the ranges that may.
fn search<const N: usize>(table: &[u8], part: Range<usize>, starts_before: impl Fn(&[u8]) -> bool) -> Option<u32> {
    let (mut low, mut high) = (part.start, part.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if bytes(table, middle * N, N).is_some_and(&starts_before) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    u32_at(table, low.checked_sub(1)?.checked_mul(N)?.checked_add(N - WORD_LEN)?).filter(|network| *network != NONE)
}

fn network(networks: &[u8], index: u32) -> Option<Network> {
    let entry: [u8; NETWORK_LEN] = record(networks, index)?;
    let addr = match (byte(&entry, 17)?, u128_at(&entry, 0)? >> 32) {
        (4, 0) => IpAddr::V4(Ipv4Addr::from(array::<4>(&entry, 0)?)),
        (6, _) => IpAddr::V6(Ipv6Addr::from(array::<16>(&entry, 0)?)),
        _ => return None,
    };
    Network::new(addr, byte(&entry, 16)?).filter(|network| network.addr() == addr)
}

/// The range with number `index`: its first address and its network's number.
fn range_at<const N: usize>(table: &[u8], index: usize) -> Option<(u128, u32)> {
    let entry = bytes(table, index.checked_mul(N)?, N)?;
    let first = if N == V4_LEN { u128::from(u32_at(entry, 0)?) } else { u128_at(entry, 0)? };
    Some((first, u32_at(entry, N - WORD_LEN)?))
}

/// Which networks are around the one that is looked at, when they come in ascending order.
#[derive(Default)]
struct Nesting {
    open: Vec<(Network, u32)>,
}

impl Nesting {
    /// The number of the innermost network around `network`. In ascending order it is an earlier one, and wider if it holds the address.
    fn enter(&mut self, network: Network, index: u32) -> u32 {
        while self.open.pop_if(|(outer, _)| !outer.contains(network.addr())).is_some() {}
        let parent = self.open.last().map_or(NONE, |(_, index)| *index);
        self.open.push((network, index));
        parent
    }
}

/// Calls `each` for the disjoint ranges that the networks of one family make, ascending: first address, and number of the innermost network.
fn flatten(networks: &[u8], v4: bool, mut each: impl FnMut(u128, u32)) {
    // Of ranges that start at one address the last one stands: it is the innermost.
    let mut pending: Option<(u128, u32)> = None;
    let mut start = |first: u128, network: u32| {
        if let Some((before, network)) = pending.replace((first, network)).filter(|(before, _)| *before != first) {
            each(before, network);
        }
    };
    // Last address and number of the networks around.
    let mut open: Vec<(u128, u32)> = Vec::new();
    let around = |open: &[(u128, u32)]| open.last().map_or(NONE, |(_, index)| *index);
    let numbered = (0..record_count::<NETWORK_LEN>(networks).unwrap_or(0)).filter_map(|index| Some((index, network(networks, index)?)));
    for (index, network) in numbered.filter(|(_, network)| network.addr().is_ipv4() == v4) {
        let (first, last) = ends(&network);
        while let Some((end, _)) = open.pop_if(|(end, _)| *end < first) {
            start(end + 1, around(&open));
        }
        start(first, index);
        open.push((last, index));
    }
    let highest = if v4 { u128::from(u32::MAX) } else { u128::MAX };
    while let Some((end, _)) = open.pop() {
        if end < highest {
            start(end + 1, around(&open));
        }
    }
    if let Some((first, network)) = pending {
        each(first, network);
    }
}

/// First and last address of a network.
fn ends(network: &Network) -> (u128, u128) {
    let (first, bits) = match network.addr() {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let others = 1_u128.checked_shl(bits - u32::from(network.prefix())).map_or(u128::MAX, |size| size - 1);
    (first, first | others)
}

/// The index of a table of IPv4 ranges; empty for a short one.
fn index_of(v4: &[u8]) -> Vec<u8> {
    let ranges = v4.len() / V4_LEN;
    if ranges <= INDEX_FROM {
        return Vec::new();
    }
    let (mut index, mut before) = (Vec::with_capacity((0x1_0000 + 1) * WORD_LEN), 0_u32);
    for upper in 0..=0x1_0000_u128 {
        while range_at::<V4_LEN>(v4, before as usize).is_some_and(|(first, _)| first < upper << 16) {
            before += 1;
        }
        index.extend(before.to_le_bytes());
    }
    index
}

/// The address sections, and the network of each rule.
#[cfg(feature = "build")]
pub(crate) struct Written {
    pub(crate) networks: Vec<u8>,
    pub(crate) v4: Vec<u8>,
    pub(crate) v4_index: Vec<u8>,
    pub(crate) v6: Vec<u8>,
    /// For each of the rules, in their order.
    pub(crate) network_of_rule: Vec<u32>,
}

/// Writes the address sections for rules that are in ascending order of their networks, with consecutive numbers.
#[cfg(feature = "build")]
pub(crate) fn write(rules: &[(u32, Network)]) -> Result<Written, crate::build::BuildError> {
    let too_many = |what, limit| crate::build::BuildError::TooMany { what, limit };
    let (mut networks, mut network_of_rule, mut nesting) = (Vec::new(), Vec::with_capacity(rules.len()), Nesting::default());
    for (index, run) in (0_u32..).zip(rules.chunk_by(|(_, a), (_, b)| a == b)) {
        let Some((first_rule, network)) = run.first() else { continue };
        let rule_count = u16::try_from(run.len()).map_err(|_| too_many("rules for one network", usize::from(u16::MAX)))?;
        let (family, mut octets) = match network.addr() {
            IpAddr::V4(addr) => (4, addr.octets().to_vec()),
            IpAddr::V6(addr) => (6, addr.octets().to_vec()),
        };
        octets.resize(16, 0);
        networks.extend(octets);
        networks.extend([network.prefix(), family]);
        networks.extend(rule_count.to_le_bytes());
        networks.extend(first_rule.to_le_bytes());
        networks.extend(nesting.enter(*network, index).to_le_bytes());
        network_of_rule.extend(std::iter::repeat_n(index, run.len()));
    }
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    flatten(&networks, true, |first, network| {
        v4.extend(u32::try_from(first).unwrap_or(u32::MAX).to_le_bytes());
        v4.extend(network.to_le_bytes());
    });
    flatten(&networks, false, |first, network| {
        v6.extend(first.to_le_bytes());
        v6.extend(network.to_le_bytes());
    });
    if v4.len() / V4_LEN > u32::MAX as usize {
        return Err(too_many("IPv4 ranges", u32::MAX as usize));
    }
    Ok(Written { v4_index: index_of(&v4), networks, v4, v6, network_of_rule })
}
