//! Addresses, cut into ranges that neither policy can tell apart.
//!
//! An IPv6 address that carries an IPv4 address is judged by it too, so that every cut of the IPv4 addresses is made in those ranges as well. A Teredo address (RFC 4380)
//! carries two: that of a server in its upper half, which is cut like the others, and that of a client in its last bits. Clients are put into classes that no deny of either
//! policy tells apart, and each range of Teredo addresses is looked at once for each class.

use super::DiffError;
use super::hosts::few;
use policy_format::net::{
    METADATA_ADDRESSES, NON_PUBLIC_V4, NON_PUBLIC_V6, Network, PUBLIC_V6, embedded_ipv4, is_metadata_address, non_public,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// First addresses of the ranges that carry IPv4 addresses one by one, and where in the address they do: mapped, compatible, NAT64, 6to4.
const CARRIERS: [(u128, u32); 4] = [(0xffff << 32, 0), (0, 0), (0x0064_ff9b << 96, 0), (0x2002 << 112, 80)];
const V4_END: u128 = 1 << 32;
const TEREDO: u128 = 0x2001_0000 << 96;
const TEREDO_END: u128 = 0x2001_0001 << 96;
/// Where the server is in a Teredo address.
const SERVER: u32 = 64;
/// Ranges that are looked at, at most.
const MAX_RANGES: usize = 4_000_000;

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
    carries: Option<usize>,
    teredo: Option<Part>,
}

/// Which Teredo addresses of a range are meant.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// The IPv4 range of the server.
    server: usize,
    /// The class of the clients.
    class: usize,
    /// How many classes the range has.
    of: usize,
}

/// Some Teredo addresses of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Teredo {
    /// The first address of the range.
    pub first: Ipv6Addr,
    /// The last.
    pub last: Ipv6Addr,
    /// First and last addresses of the clients, ascending.
    pub clients: Arc<[(Ipv4Addr, Ipv4Addr)]>,
}

/// A set of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressSet {
    /// First and last addresses, ascending.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// Ranges of which only Teredo addresses of some clients are in the set.
    pub teredo: Vec<Teredo>,
}

impl AddressSet {
    /// Whether an address is in the set.
    #[must_use]
    pub fn holds(&self, ip: IpAddr) -> bool {
        let client = |ip: Ipv6Addr| embedded_ipv4(ip)[1];
        let scattered = |part: &Teredo| match ip {
            IpAddr::V6(v6) if part.first <= v6 && v6 <= part.last => {
                client(v6).is_some_and(|client| part.clients.iter().any(|(first, last)| *first <= client && client <= *last))
            }
            _ => false,
        };
        self.ranges.iter().any(|(first, last)| first.is_ipv4() == ip.is_ipv4() && *first <= ip && ip <= *last)
            || self.teredo.iter().any(scattered)
    }
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
    /// The classes of Teredo clients.
    classes: Vec<Class>,
}

impl Ranges {
    /// Cuts all addresses at the ends of `networks`. `says` has what the denies of both policies say of an IPv4 address.
    pub(super) fn new<K: Ord>(networks: impl Iterator<Item = Network>, says: impl Fn(Ipv4Addr) -> K) -> Result<Self, DiffError> {
        let (all, classes) = ranges(networks, says)?;
        let mut carriers = vec![0; all.len()];
        for carried in all.iter().filter_map(|range| range.carries) {
            if let Some(count) = carriers.get_mut(carried) {
                *count += 1;
            }
        }
        let kinds = [Kind::Public, Kind::NonPublic, Kind::Metadata].map(|kind| all.iter().filter(|range| range.kind == kind).count());
        Ok(Self { all, carriers, kinds, classes })
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Range> {
        self.all.get(index)
    }
}

/// The IPv4 ranges of a class of Teredo clients: their places among all ranges, and first and last addresses.
type Class = (Vec<usize>, Arc<[(Ipv4Addr, Ipv4Addr)]>);
/// The ranges, and the classes of Teredo clients.
type Cut = (Vec<Range>, Vec<Class>);

fn ranges<K: Ord>(networks: impl Iterator<Item = Network>, says: impl Fn(Ipv4Addr) -> K) -> Result<Cut, DiffError> {
    let (mut v4, mut v6) = (BTreeSet::from([0]), BTreeSet::from([0, 2, TEREDO, TEREDO_END]));
    let known = NON_PUBLIC_V4.iter().chain(&NON_PUBLIC_V6).chain(&PUBLIC_V6).map(|range| range.network);
    for network in networks.chain(known).chain(METADATA_ADDRESSES.map(Network::single)) {
        let (first, end) = bounds(&network);
        let cuts = if network.addr().is_ipv4() { &mut v4 } else { &mut v6 };
        cuts.extend([Some(first), end].into_iter().flatten());
    }
    v4.remove(&V4_END);
    // So that a range of Teredo addresses has either every client or those of one run.
    let within: Vec<u128> = v6.range(TEREDO..TEREDO_END).copied().filter(|cut| cut % V4_END != 0).collect();
    v6.extend(within.into_iter().flat_map(|cut| [cut / V4_END * V4_END, (cut / V4_END + 1) * V4_END]));
    for (base, shift) in CARRIERS.into_iter().chain([(TEREDO, SERVER)]) {
        v6.extend(v4.iter().chain([&V4_END]).filter_map(|cut| base.checked_add(cut << shift)));
    }
    let ends = |cuts: &BTreeSet<u128>, end: u128| -> Vec<(u128, u128)> {
        cuts.iter().copied().zip(cuts.iter().skip(1).map(|next| next - 1).chain([end])).collect()
    };
    let v4 = ends(&v4, V4_END - 1);
    let classes = client_classes(&v4, says);
    let mut ranges: Vec<Range> = Vec::new();
    for (first, last) in &v4 {
        let (first, last) = (IpAddr::V4(v4_at(*first)), IpAddr::V4(v4_at(*last)));
        ranges.push(Range { first, last, kind: kind(first), example: first, carries: None, teredo: None });
    }
    let carried = |first: u128, base: u128, shift: u32| v4.partition_point(|(start, _)| *start <= (first - base) >> shift) - 1;
    for (first, last) in ends(&v6, u128::MAX) {
        let carrier = CARRIERS.iter().find(|(base, shift)| first >= *base && (first - base) >> shift < V4_END && first > 1);
        let carries = carrier.map(|(base, shift)| carried(first, *base, *shift));
        let (from, to) = (IpAddr::V6(Ipv6Addr::from_bits(first)), IpAddr::V6(Ipv6Addr::from_bits(last)));
        let mut push = |example: u128, teredo: Option<Part>| {
            let example = IpAddr::V6(Ipv6Addr::from_bits(example));
            ranges.push(Range { first: from, last: to, kind: kind(example), example, carries, teredo });
        };
        if !(TEREDO..TEREDO_END).contains(&first) {
            push(first, None);
            continue;
        }
        let server = carried(first, TEREDO, SERVER);
        let examples = teredo_examples(first, last, &v4, &classes);
        for (class, example) in &examples {
            push(*example, Some(Part { server, class: *class, of: examples.len() }));
        }
        if ranges.len() > MAX_RANGES {
            return Err(DiffError::Combinations);
        }
    }
    let addresses = |members: &[usize]| {
        let own = members.iter().filter_map(|index| v4.get(*index));
        own.map(|(first, last)| (v4_at(*first), v4_at(*last))).collect::<Arc<[_]>>()
    };
    Ok((ranges, classes.into_iter().map(|members| (addresses(&members), members)).map(|(own, members)| (members, own)).collect()))
}

/// IPv4 ranges of which both policies say the same.
fn client_classes<K: Ord>(v4: &[(u128, u128)], says: impl Fn(Ipv4Addr) -> K) -> Vec<Vec<usize>> {
    let mut classes: BTreeMap<(u8, K), Vec<usize>> = BTreeMap::new();
    for (index, (first, _)) in v4.iter().enumerate() {
        let ip = v4_at(*first);
        classes.entry((kind(IpAddr::V4(ip)) as u8, says(ip))).or_default().push(index);
    }
    classes.into_values().collect()
}

/// An address for each class of clients that a range of Teredo addresses has.
fn teredo_examples(first: u128, last: u128, v4: &[(u128, u128)], classes: &[Vec<usize>]) -> Vec<(usize, u128)> {
    // The bits of the client are turned round.
    let client = |bits: u128| V4_END - 1 - bits % V4_END;
    let block = first / V4_END * V4_END;
    let (low, high) = if last / V4_END * V4_END == block { (client(last), client(first)) } else { (0, V4_END - 1) };
    let mut examples = Vec::new();
    for (number, members) in classes.iter().enumerate() {
        let next = members.partition_point(|index| v4.get(*index).is_some_and(|(_, end)| *end < low));
        let found = members.get(next).and_then(|index| v4.get(*index)).filter(|(start, _)| *start <= high);
        examples.extend(found.map(|(start, _)| (number, block + client((*start).max(low)))));
    }
    examples
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

    /// The addresses of some ranges; `members` ascends.
    pub(super) fn set(&self, members: &[usize]) -> AddressSet {
        let mut set = AddressSet::default();
        let mut whole = Vec::new();
        for parts in self.by_range(members) {
            let Some(range) = parts.first().copied() else { continue };
            if range.teredo.is_none_or(|part| part.of == parts.len()) {
                whole.push((range.first, range.last));
                continue;
            }
            for part in parts {
                let clients = part.teredo.and_then(|part| self.classes.get(part.class)).map(|(_, clients)| Arc::clone(clients));
                if let (IpAddr::V6(first), IpAddr::V6(last), Some(clients)) = (part.first, part.last, clients) {
                    set.teredo.push(Teredo { first, last, clients });
                }
            }
        }
        set.ranges = merge(whole.into_iter());
        set
    }

    /// The members, those of one range together.
    fn by_range(&self, members: &[usize]) -> Vec<Vec<&Range>> {
        let mut groups: Vec<Vec<&Range>> = Vec::new();
        for range in members.iter().filter_map(|index| self.get(*index)) {
            match groups.last_mut() {
                Some(group) if group.first().is_some_and(|other| other.first == range.first) => group.push(range),
                _ => groups.push(vec![range]),
            }
        }
        groups
    }

    /// Ranges as networks; those that only carry others of them are not repeated.
    fn networks(&self, members: &[usize]) -> Vec<String> {
        let carried = |index: &usize| self.get(*index).and_then(|range| range.carries);
        let own: Vec<usize> = members.iter().copied().filter(|index| self.get(*index).is_some_and(|range| range.first.is_ipv4())).collect();
        let images: Vec<usize> =
            members.iter().copied().filter(|index| carried(index).is_some_and(|v4| own.binary_search(&v4).is_ok())).collect();
        let expected: usize = own.iter().filter_map(|index| self.carriers.get(*index)).sum();
        let follow = !own.is_empty() && images.len() == expected;
        let is_own = |index: &usize| own.binary_search(index).is_ok();
        let own_classes: Vec<bool> = self.classes.iter().map(|(members, _)| members.iter().any(is_own)).collect();
        let teredo_image = |index: &usize| {
            let part = self.get(*index).and_then(|range| range.teredo);
            part.is_some_and(|part| is_own(&part.server) || own_classes.get(part.class).copied().unwrap_or(false))
        };
        let is_image = |index: &usize| images.binary_search(index).is_ok() || teredo_image(index);
        let listed: Vec<usize> = members.iter().copied().filter(|index| !follow || !is_image(index)).collect();
        let in_networks = |ranges: &[(IpAddr, IpAddr)]| -> Vec<String> {
            ranges.iter().flat_map(|(first, last)| split(*first, *last)).map(|network| network.to_string()).collect()
        };
        let mut shown = in_networks(&self.set(&listed).ranges);
        // Ranges of which the same clients are meant.
        let mut partly: BTreeMap<Vec<usize>, Vec<(IpAddr, IpAddr)>> = BTreeMap::new();
        for parts in self.by_range(&listed) {
            let classes: Vec<usize> = parts.iter().filter_map(|range| range.teredo).map(|part| part.class).collect();
            if let Some(range) = parts.first().filter(|range| range.teredo.is_some_and(|part| part.of != classes.len())) {
                partly.entry(classes).or_default().push((range.first, range.last));
            }
        }
        for (classes, ranges) in partly {
            let clients = |wanted: bool| {
                let chosen = self.classes.iter().enumerate().filter(|(class, _)| classes.contains(class) == wanted);
                let mut all: Vec<(IpAddr, IpAddr)> =
                    chosen.flat_map(|(_, (_, own))| own.iter().map(|(first, last)| (IpAddr::V4(*first), IpAddr::V4(*last)))).collect();
                all.sort_unstable();
                in_networks(&merge(all.into_iter()))
            };
            let (yes, no) = (clients(true), clients(false));
            let which =
                if yes.len() <= no.len() { format!("a client in {}", few(&yes)) } else { format!("any client but in {}", few(&no)) };
            let where_to = few(&in_networks(&merge(ranges.into_iter())));
            shown.push(format!("Teredo addresses in {where_to} with {which}"));
        }
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

    #[test]
    fn ranges_cover_all_addresses_and_know_what_they_carry() {
        let networks = ["10.1.2.0/24", "::/0", "2001:0:1::/48", "2001:0:1:2:3:4:5:0/112"].iter().map(|text| {
            let (addr, prefix) = text.split_once('/').unwrap();
            Network::new(addr.parse().unwrap(), prefix.parse().unwrap()).unwrap()
        });
        let is_named = |ip: Ipv4Addr| ip.octets().starts_with(&[10, 1, 2]);
        let all = Ranges::new(networks, is_named).unwrap();
        let whole = all.set(&(0..all.len()).collect::<Vec<_>>());
        assert_eq!((whole.ranges.len(), whole.teredo.len()), (2, 0), "one run for each family");
        let ranges = &all.all;
        for (index, range) in ranges.iter().enumerate() {
            assert!(all.set(&[index]).holds(range.example));
            assert!(range.first <= range.example && range.example <= range.last);
            let IpAddr::V6(v6) = range.first else { continue };
            let [carried, second] = embedded_ipv4(v6);
            if let (Some(part), IpAddr::V6(example)) = (range.teredo, range.example) {
                let [server, client] = embedded_ipv4(example).map(|ip| IpAddr::V4(ip.unwrap()));
                let own = &ranges[part.server];
                assert!(own.first <= server && server <= own.last, "{example}");
                let class = &all.classes[part.class].0;
                assert!(class.iter().any(|at| ranges[*at].first <= client && client <= ranges[*at].last), "{example}");
            }
            assert_eq!(second.is_some(), range.teredo.is_some());
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
