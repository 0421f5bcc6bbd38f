//! Addresses, cut into ranges that neither policy can tell apart.
//!
//! An IPv6 address that carries an IPv4 address is judged by it too, so that every cut of the IPv4 addresses is made in those ranges as well. A Teredo address carries two,
//! scattered over its bits: it is taken to follow them, and only rules that name its own range cut it.

use policy_format::net::{METADATA_ADDRESSES, NON_PUBLIC_V4, NON_PUBLIC_V6, Network, is_metadata_address, non_public};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// First addresses of the ranges that carry IPv4 addresses one by one, and where in the address they do: mapped, compatible, NAT64, 6to4.
const CARRIERS: [(u128, u32); 4] = [(0xffff << 32, 0), (0, 0), (0x0064_ff9b << 96, 0), (0x2002 << 112, 80)];
const V4_END: u128 = 1 << 32;
const TEREDO: u128 = 0x2001_0000 << 96;
const TEREDO_END: u128 = 0x2001_0001 << 96;

/// What is special about a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Public,
    NonPublic,
    Metadata,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) first: IpAddr,
    pub(super) last: IpAddr,
    pub(super) kind: Kind,
    /// An address of it that stands for all.
    pub(super) example: IpAddr,
    /// The IPv4 range that it carries.
    pub(super) carries: Option<usize>,
}

/// First address, and the one after the last, which an IPv6 range may not have.
fn bounds(network: &Network) -> (u128, Option<u128>) {
    let (first, bits) = match network.addr() {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    (first, 1_u128.checked_shl(bits - u32::from(network.prefix())).and_then(|size| first.checked_add(size)))
}

/// All addresses, IPv4 first, in order.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    all: Vec<Range>,
    /// For each range, how many others carry it.
    carriers: Vec<usize>,
    /// How many there are of each kind.
    kinds: [usize; 3],
}

impl Ranges {
    pub(super) fn new(networks: impl Iterator<Item = Network>) -> Self {
        let all = ranges(networks);
        let mut carriers = vec![0; all.len()];
        for carried in all.iter().filter_map(|range| range.carries) {
            if let Some(count) = carriers.get_mut(carried) {
                *count += 1;
            }
        }
        let kinds = [Kind::Public, Kind::NonPublic, Kind::Metadata].map(|kind| all.iter().filter(|range| range.kind == kind).count());
        Self { all, carriers, kinds }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Range> {
        self.all.get(index)
    }
}

fn ranges(networks: impl Iterator<Item = Network>) -> Vec<Range> {
    let (mut v4, mut v6) = (BTreeSet::from([0]), BTreeSet::from([0, 2, TEREDO, TEREDO_END]));
    let known = NON_PUBLIC_V4.iter().chain(&NON_PUBLIC_V6).map(|range| range.network);
    for network in networks.chain(known).chain(METADATA_ADDRESSES.map(Network::single)) {
        let (first, end) = bounds(&network);
        let cuts = if network.addr().is_ipv4() { &mut v4 } else { &mut v6 };
        cuts.extend([Some(first), end].into_iter().flatten());
    }
    v4.remove(&V4_END);
    for (base, shift) in CARRIERS {
        v6.extend(v4.iter().chain([&V4_END]).filter_map(|cut| base.checked_add(cut << shift)));
    }
    let ends = |cuts: &BTreeSet<u128>, end: u128| -> Vec<(u128, u128)> {
        cuts.iter().copied().zip(cuts.iter().skip(1).map(|next| next - 1).chain([end])).collect()
    };
    let v4 = ends(&v4, V4_END - 1);
    let neutral = v4.iter().map(|(first, _)| v4_at(*first)).find(|ip| kind(IpAddr::V4(*ip)) == Kind::Public).unwrap_or(Ipv4Addr::LOCALHOST);
    let mut ranges: Vec<Range> = Vec::new();
    for (first, last) in &v4 {
        let (first, last) = (IpAddr::V4(v4_at(*first)), IpAddr::V4(v4_at(*last)));
        ranges.push(Range { first, last, kind: kind(first), example: first, carries: None });
    }
    for (first, last) in ends(&v6, u128::MAX) {
        let carrier = CARRIERS.iter().find(|(base, shift)| first >= *base && (first - base) >> shift < V4_END && first > 1);
        let carries = carrier.map(|(base, shift)| v4.partition_point(|(start, _)| *start <= (first - base) >> shift) - 1);
        let mut example = Ipv6Addr::from_bits(first);
        if (TEREDO..TEREDO_END).contains(&first) {
            let wanted = TEREDO | u128::from(neutral.to_bits()) << 64 | u128::from(!neutral.to_bits());
            if (first..=last).contains(&wanted) {
                example = Ipv6Addr::from_bits(wanted);
            }
        }
        let example = IpAddr::V6(example);
        let (first, last) = (IpAddr::V6(Ipv6Addr::from_bits(first)), IpAddr::V6(Ipv6Addr::from_bits(last)));
        ranges.push(Range { first, last, kind: kind(example), example, carries });
    }
    ranges
}

fn v4_at(bits: u128) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX))
}

fn kind(ip: IpAddr) -> Kind {
    if is_metadata_address(ip) {
        Kind::Metadata
    } else if non_public(ip).is_some() {
        Kind::NonPublic
    } else {
        Kind::Public
    }
}

/// A set of ranges, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// What is in it: a phrase or networks.
    pub include: Vec<String>,
    /// What of that is not.
    pub except: Vec<String>,
}

impl Ranges {
    /// Says in few words which of the ranges are meant; `members` ascends.
    pub(super) fn show(&self, members: &[usize]) -> Shown {
        let mut shown = Shown::default();
        let mut rest: Vec<usize> = Vec::new();
        let kinds = [
            (Kind::Public, "every public address"),
            (Kind::NonPublic, "every address that is not public"),
            (Kind::Metadata, "every metadata service"),
        ];
        for (wanted, phrase) in kinds {
            let of_kind = |index: &usize| self.get(*index).is_some_and(|range| range.kind == wanted);
            let inside: Vec<usize> = members.iter().copied().filter(of_kind).collect();
            // Few of many are listed as they are, without a look at all the others.
            let many = inside.len() * 2 > self.of_kind(wanted);
            if many {
                let outside: Vec<usize> = (0..self.len()).filter(|index| of_kind(index) && members.binary_search(index).is_err()).collect();
                shown.include.push(phrase.to_owned());
                shown.except.extend(self.networks(&outside));
            } else {
                rest.extend(inside);
            }
        }
        rest.sort_unstable();
        shown.include.extend(self.networks(&rest));
        shown
    }

    fn of_kind(&self, kind: Kind) -> usize {
        self.kinds.get(kind as usize).copied().unwrap_or(0)
    }

    /// Ranges as networks; those that only carry others of them are not repeated.
    fn networks(&self, members: &[usize]) -> Vec<String> {
        let carried = |index: &usize| self.get(*index).and_then(|range| range.carries);
        let own: Vec<usize> = members.iter().copied().filter(|index| self.get(*index).is_some_and(|range| range.first.is_ipv4())).collect();
        let images: Vec<usize> =
            members.iter().copied().filter(|index| carried(index).is_some_and(|v4| own.binary_search(&v4).is_ok())).collect();
        let expected: usize = own.iter().filter_map(|index| self.carriers.get(*index)).sum();
        let follow = !own.is_empty() && images.len() == expected;
        let listed = members.iter().filter(|index| !follow || images.binary_search(index).is_err());
        let merged = merge(listed.filter_map(|index| self.get(*index)).map(|range| (range.first, range.last)));
        let mut shown: Vec<String> =
            merged.into_iter().flat_map(|(first, last)| split(first, last)).map(|network| network.to_string()).collect();
        if follow {
            shown.push("IPv6 addresses that carry them".to_owned());
        }
        shown
    }
}

/// Ranges, ascending, with neighbours joined.
pub(super) fn merge(ranges: impl Iterator<Item = (IpAddr, IpAddr)>) -> Vec<(IpAddr, IpAddr)> {
    let mut merged: Vec<(IpAddr, IpAddr)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, before)) if before.is_ipv4() == first.is_ipv4() && bits(*before).checked_add(1) == Some(bits(first)) => *before = last,
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The fewest networks that make up a range.
fn split(first: IpAddr, last: IpAddr) -> Vec<Network> {
    let width = if first.is_ipv4() { 32 } else { 128 };
    let (mut at, end) = (bits(first), bits(last));
    let mut networks = Vec::new();
    loop {
        // As large as the address allows, and no larger than what is left.
        let mut size = at.trailing_zeros().min(width);
        while size > 0 && (size == 128 && end != u128::MAX || size < 128 && end - at < (1 << size) - 1) {
            size -= 1;
        }
        let addr = if width == 32 { IpAddr::V4(v4_at(at)) } else { IpAddr::V6(Ipv6Addr::from_bits(at)) };
        networks.extend(u8::try_from(width - size).ok().and_then(|prefix| Network::new(addr, prefix)));
        let next = 1_u128.checked_shl(size).and_then(|size| at.checked_add(size));
        match next {
            Some(next) if next <= end => at = next,
            _ => return networks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_format::net::embedded_ipv4;

    #[test]
    fn ranges_cover_all_addresses_and_know_what_they_carry() {
        let ranges = ranges(["10.1.2.0/24", "::/0", "2001:0:1::/48"].iter().map(|text| {
            let (addr, prefix) = text.split_once('/').unwrap();
            Network::new(addr.parse().unwrap(), prefix.parse().unwrap()).unwrap()
        }));
        assert_eq!(merge(ranges.iter().map(|range| (range.first, range.last))).len(), 2, "one run for each family");
        for range in &ranges {
            assert!(range.first <= range.example && range.example <= range.last);
            let IpAddr::V6(v6) = range.first else { continue };
            let [carried, second] = embedded_ipv4(v6);
            if second.is_none() {
                let own = range.carries.and_then(|index| ranges.get(index));
                assert_eq!(carried.is_some(), own.is_some(), "{v6}");
                assert!(
                    own.is_none_or(|own| own.first <= IpAddr::V4(carried.unwrap()) && IpAddr::V4(carried.unwrap()) <= own.last),
                    "{v6}"
                );
            }
        }
    }

    #[test]
    fn ranges_split_into_the_fewest_networks() {
        for (first, last, expected) in [
            ("10.0.0.0", "10.255.255.255", "10.0.0.0/8"),
            ("0.0.0.0", "255.255.255.255", "0.0.0.0/0"),
            ("10.0.0.1", "10.0.0.4", "10.0.0.1 10.0.0.2/31 10.0.0.4"),
            ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::/0"),
            (
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127",
            ),
        ] {
            let networks = split(first.parse().unwrap(), last.parse().unwrap());
            assert_eq!(networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), expected);
        }
    }
}
