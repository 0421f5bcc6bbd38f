//! The address tables against a reference that looks at every network bit by bit, through the public interface.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test that cannot go on panics")]

use policy_format::net::{Network, embedded_ipv4, is_metadata_address};
use policy_format::{
    Access, Blob, BlobBuilder, BuildError, Decision, FormatError, Host, Hosts, Layer, Meta, NamedBy, Pattern, PortRange, Protocol, Request,
    Rule, RuleInput, SectionKind, Source, decide, named_by, reseal,
};
use proptest::prelude::*;
use std::cmp::Reverse;
use std::net::IpAddr;

fn input(network: Network, access: Access, port: Option<u16>, line: u32) -> RuleInput {
    let source = Source { layer: Layer::User, label: "config.toml".into() };
    RuleInput::new(Pattern { hosts: Hosts::Network(network), port }, access, source, line)
}

fn build(rules: &[(Network, Access, Option<u16>)]) -> Result<Vec<u8>, BuildError> {
    let mut builder = BlobBuilder::new(Meta { profile: "test".into(), allow_local_binding: true, ..Meta::default() });
    for (line, (network, access, port)) in (1..).zip(rules) {
        builder.rule(input(*network, *access, *port, line));
    }
    builder.build()
}

fn bits(ip: IpAddr) -> Vec<bool> {
    let octets = match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1 == 1)).collect()
}

/// An address from its bits, counted as a number.
fn address(v4: bool, number: u128) -> IpAddr {
    if v4 { IpAddr::V4((number as u32).into()) } else { IpAddr::V6(number.into()) }
}

fn number(ip: IpAddr) -> u128 {
    bits(ip).iter().fold(0, |number, bit| number << 1 | u128::from(*bit))
}

/// First and last address, and their neighbours outside.
fn borders(network: &Network) -> [IpAddr; 4] {
    let v4 = network.addr().is_ipv4();
    let width = bits(network.addr()).len() - usize::from(network.prefix());
    let first = number(network.addr());
    let last = (0..width).fold(first, |last, bit| last | 1 << bit);
    [first, first.wrapping_sub(1), last, last.wrapping_add(1)].map(|at| address(v4, at))
}

/// A rule as it is read back, with its network.
struct Known {
    rule: Rule,
    network: Network,
    bits: Vec<bool>,
}

impl Known {
    fn all(blob: &Blob<Vec<u8>>) -> Vec<Self> {
        let known = |rule: Rule| {
            let Hosts::Network(network) = Pattern::parse(&rule.hosts).unwrap().hosts else { unreachable!("{rule}") };
            let bits = bits(network.addr())[..usize::from(network.prefix())].to_vec();
            Self { rule, network, bits }
        };
        blob.rules().map(known).collect()
    }

    /// Whether it holds the address of these bits: 32 or 128 of them, by family.
    fn covers(&self, bits: &[bool]) -> bool {
        (bits.len() == 32) == self.network.addr().is_ipv4() && bits.starts_with(&self.bits)
    }

    fn speaks_of(&self, port: u16) -> bool {
        self.rule.ports.is_empty() || self.rule.ports.iter().any(|range| (range.first..=range.last).contains(&port))
    }

    fn denies(&self) -> bool {
        self.rule.access == Access::Deny
    }

    fn rank(&self) -> usize {
        usize::from(self.network.prefix()) + 1
    }
}

fn carried(ip: IpAddr) -> Vec<IpAddr> {
    match ip {
        IpAddr::V4(_) => Vec::new(),
        IpAddr::V6(v6) => embedded_ipv4(v6).into_iter().flatten().map(IpAddr::V4).collect(),
    }
}

/// What is decided of an address, and by which rule: the closest network, and of its rules the last.
fn expected(rules: &[Known], ip: IpAddr, port: u16) -> String {
    let best = |ip: IpAddr, denies: bool| {
        let bits = bits(ip);
        let found = rules.iter().filter(|known| known.denies() == denies && known.speaks_of(port) && known.covers(&bits));
        found.max_by_key(|known| (known.network.prefix(), known.rule.id)).map(|known| known.rule.line)
    };
    match (std::iter::once(ip).chain(carried(ip)).find_map(|ip| best(ip, true)), best(ip, false)) {
        (Some(line), _) => format!("denied {line}"),
        (None, Some(line)) => format!("allow {line}"),
        (None, None) => "not_allowed".to_owned(),
    }
}

fn decided(blob: &Blob<Vec<u8>>, ip: IpAddr, port: u16) -> String {
    let host = Host::Ip(ip);
    let request = Request {
        profile: policy_format::ProfileId::default(),
        protocol: Protocol::Connect,
        host: &host,
        port,
        method: None,
        path: None,
        addresses: &[],
        inside: None,
        can_intercept: false,
    };
    let line = |rule| blob.rule(rule).unwrap().line;
    match decide(blob, &request) {
        Decision::Allow(allowed) => format!("allow {}", line(allowed.rule)),
        Decision::Deny(denied) => denied.rule.map_or_else(|| denied.reason.to_string(), |rule| format!("{} {}", denied.reason, line(rule))),
    }
}

fn expected_names(rules: &[Known], ip: IpAddr, port: u16) -> Vec<NamedBy> {
    let (bits, carried) = (bits(ip), carried(ip).into_iter().map(bits).collect::<Vec<_>>());
    let own = rules.iter().filter(|known| known.covers(&bits));
    let reached = rules.iter().filter(|known| known.denies() && carried.iter().any(|bits| known.covers(bits)));
    let mut named: Vec<NamedBy> =
        own.chain(reached).map(|known| NamedBy { rule: known.rule.id, rank: known.rank(), holds: Some(known.speaks_of(port)) }).collect();
    named.sort_by_key(|named| (Reverse(named.rank), named.rule));
    named
}

fn names(blob: &Blob<Vec<u8>>, ip: IpAddr, port: u16) -> Vec<NamedBy> {
    let host = Host::Ip(ip);
    named_by(
        blob,
        &Request {
            profile: policy_format::ProfileId::default(),
            protocol: Protocol::Connect,
            host: &host,
            port,
            method: None,
            path: None,
            addresses: &[],
            inside: None,
            can_intercept: false,
        },
    )
}

/// Networks that nest, repeat and touch: few addresses, every length.
fn network() -> impl Strategy<Value = Network> {
    let v4_address = prop_oneof![
        any::<u32>(),
        (0_u32..4, 0_u32..4).prop_map(|(high, low)| high << 30 | low),
        (0_u32..16).prop_map(|low| 0x0a01_0200 | low),
        Just(u32::MAX),
    ];
    let v6_address = prop_oneof![
        any::<u128>(),
        (0_u128..4, 0_u128..4).prop_map(|(high, low)| high << 126 | low),
        (0_u128..16).prop_map(|low| 0x2001_0db8 << 96 | low),
        // Carriers of IPv4 addresses: mapped, 6to4, Teredo.
        (0_u128..16).prop_map(|low| 0xffff_0a01_0200 | low),
        (0_u128..16).prop_map(|low| 0x2002_0a01_0200 << 80 | low << 80),
        (0_u128..16).prop_map(|low| 0x2001_0000_0a01_0200 << 64 | low),
        Just(u128::MAX),
    ];
    let v4_length = prop_oneof![Just(0), Just(32), 0_u8..=32, 28_u8..=32];
    let v6_length = prop_oneof![Just(0), Just(128), 0_u8..=128, 124_u8..=128];
    prop_oneof![
        (v4_address, v4_length).prop_map(|(addr, prefix)| Network::new(IpAddr::V4(addr.into()), prefix).unwrap()),
        (v6_address, v6_length).prop_map(|(addr, prefix)| Network::new(IpAddr::V6(addr.into()), prefix).unwrap()),
    ]
}

fn rule() -> impl Strategy<Value = (Network, Access, Option<u16>)> {
    let access = prop_oneof![3 => Just(Access::Allow), 1 => Just(Access::Deny)];
    (network(), access, prop_oneof![2 => Just(None), 1 => Just(Some(80)), 1 => Just(Some(443))])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn the_tables_agree_with_a_bit_by_bit_reference(
        drawn in proptest::collection::vec(rule(), 0..16),
        again in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..6),
        probes in proptest::collection::vec(network(), 0..6),
    ) {
        // Some networks have several rules.
        let mut rules = drawn.clone();
        for (index, deny) in again {
            if !drawn.is_empty() {
                rules.push((index.get(&drawn).0, if deny { Access::Deny } else { Access::Allow }, None));
            }
        }
        let blob = Blob::open(build(&rules).unwrap()).unwrap();
        let known = Known::all(&blob);
        let mut written: Vec<(Network, u32)> = (1..).zip(&rules).map(|(line, (network, ..))| (*network, line)).collect();
        written.sort_unstable();
        let mut read: Vec<(Network, u32)> = known.iter().map(|known| (known.network, known.rule.line)).collect();
        read.sort_unstable();
        prop_assert_eq!(written, read);
        let mut ips: Vec<IpAddr> = rules.iter().map(|(network, ..)| network).chain(&probes).flat_map(borders).collect();
        ips.extend(ips.clone().into_iter().filter_map(|ip| match ip {
            IpAddr::V4(v4) => Some(IpAddr::V6(v4.to_ipv6_mapped())),
            IpAddr::V6(_) => None,
        }));
        ips.sort_unstable();
        ips.dedup();
        for ip in ips.into_iter().filter(|ip| !is_metadata_address(*ip)) {
            prop_assert_eq!(decided(&blob, ip, 443), expected(&known, ip, 443), "{}", ip);
            prop_assert_eq!(names(&blob, ip, 443), expected_names(&known, ip, 443), "{}", ip);
        }
    }
}

/// Where a section starts in its blob.
fn start(blob: &Blob<Vec<u8>>, kind: SectionKind) -> usize {
    blob.section(kind).as_ptr() as usize - blob.as_bytes().as_ptr() as usize
}

fn cidr(text: &str) -> Network {
    let Hosts::Network(network) = Pattern::parse(text).unwrap().hosts else { unreachable!("{text}") };
    network
}

#[test]
fn no_byte_of_the_tables_is_free() {
    let networks =
        ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "192.168.0.0/16", "::/0", "2001:db8::/32", "2001:db8::1", "ffff::/16"];
    let rules: Vec<_> =
        networks.iter().flat_map(|text| [(cidr(text), Access::Allow, Some(80)), (cidr(text), Access::Deny, None)]).collect();
    let good = build(&rules).unwrap();
    let blob = Blob::open(good.clone()).unwrap();
    for kind in [SectionKind::Networks, SectionKind::Ipv4, SectionKind::Ipv6] {
        let (start, len) = (start(&blob, kind), blob.section(kind).len());
        assert!(len > 0, "{kind}");
        for at in start..start + len {
            for change in [1, 2, 0x10, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= change;
                reseal(&mut bad);
                assert!(matches!(Blob::open(bad), Err(FormatError::Section { .. })), "{kind}: byte {} ^ {change}", at - start);
            }
        }
    }
}

/// Many IPv4 ranges are looked up through an index.
#[test]
fn the_index_of_a_large_table_leads_to_the_same_ranges() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as u32
    };
    // Some upper halves have many ranges, most have none or one, and the first and the last have theirs.
    let mut rules: Vec<(Network, Access, Option<u16>)> = (0..12_000)
        .map(|n| {
            let address = if n % 3 == 0 { 0x0b16_0000 | random() & 0xffff } else { random() };
            (Network::new(IpAddr::V4(address.into()), 24 + u8::try_from(n % 9).unwrap()).unwrap(), Access::Allow, None)
        })
        .collect();
    rules.extend(["0.0.0.0/30", "255.255.255.252/30", "11.0.0.0/8"].map(|text| (cidr(text), Access::Allow, None)));
    let good = build(&rules).unwrap();
    let blob = Blob::open(good.clone()).unwrap();
    assert_eq!(blob.section(SectionKind::Ipv4Index).len(), 4 * 65_537);
    let known = Known::all(&blob);
    let few = rules.iter().step_by(101).chain(&rules[12_000..]);
    for ip in few.flat_map(|(network, ..)| borders(network)).filter(|ip| !is_metadata_address(*ip)) {
        assert_eq!(decided(&blob, ip, 443), expected(&known, ip, 443), "{ip}");
    }
    let start = start(&blob, SectionKind::Ipv4Index);
    for word in [0, 1, 0x0b16, 0x0b17, 0xffff, 0x1_0000] {
        let mut bad = good.clone();
        bad[start + 4 * word] ^= 1;
        reseal(&mut bad);
        let refused = Blob::open(bad).unwrap_err();
        assert!(matches!(refused, FormatError::Section { section: SectionKind::Ipv4Index, .. }), "{refused}");
    }
    let small = Blob::open(build(&rules[..1000]).unwrap()).unwrap();
    assert!(small.section(SectionKind::Ipv4Index).is_empty(), "a short table has none");
}

/// Many rules around many networks: a table that listed the rules of every range would have a hundred million entries.
#[test]
fn a_blob_grows_with_its_rules_however_they_nest() {
    let everywhere = (1..=10_000).map(|port| (cidr("0.0.0.0/0"), Access::Allow, Some(port)));
    let inside = (0..10_000_u32).map(|n| (Network::single(IpAddr::V4((0x0b00_0000 + 2 * n).into())), Access::Allow, Some(443)));
    let rules: Vec<_> = everywhere.chain(inside).collect();
    let bytes = build(&rules).unwrap();
    assert!(bytes.len() < 1_500_000, "{} bytes", bytes.len());
    let blob = Blob::open(bytes).unwrap();
    let inside: IpAddr = "11.0.0.2".parse().unwrap();
    assert_eq!(decided(&blob, inside, 443), "allow 10002");
    assert_eq!(decided(&blob, inside, 444), "allow 444");
    assert_eq!(decided(&blob, "11.0.0.3".parse().unwrap(), 443), "allow 443");
    let named = names(&blob, inside, 443);
    assert_eq!((named.len(), named[0].rank, named[1].rank), (10_001, 33, 1));
    // A chain: each network inside of the one before.
    let nested: Vec<_> =
        (0..=128).map(|prefix| (Network::new("2001:db8::".parse().unwrap(), prefix).unwrap(), Access::Allow, None)).collect();
    let blob = Blob::open(build(&nested).unwrap()).unwrap();
    let ranks: Vec<usize> = names(&blob, "2001:db8::".parse().unwrap(), 443).iter().map(|named| named.rank).collect();
    assert_eq!(ranks, (1..=129).rev().collect::<Vec<_>>());
}

#[test]
fn a_network_has_as_many_rules_as_its_record_can_count() {
    let mut rules = vec![(cidr("10.0.0.0/8"), Access::Allow, None); 65_535];
    let blob = Blob::open(build(&rules).unwrap()).unwrap();
    assert_eq!(decided(&blob, "10.0.0.1".parse().unwrap(), 443), "allow 65535");
    rules.push(rules[0]);
    assert_eq!(build(&rules), Err(BuildError::TooMany { what: "rules for one network", limit: 65_535 }));
}

/// Of the rules of one network the last decides, as of those of one name.
#[test]
fn of_rules_for_one_network_the_last_decides() {
    let rule = |access, first: u16, layer, line| RuleInput {
        ports: vec![PortRange { first, last: 500 }],
        source: Source { layer, label: "config.toml".into() },
        ..input(cidr("10.0.0.0/8"), access, None, line)
    };
    let mut builder = BlobBuilder::new(Meta { profile: "test".into(), ..Meta::default() });
    builder.rule(rule(Access::Allow, 2, Layer::Managed, 7)).rule(rule(Access::Allow, 1, Layer::User, 9)).rule(rule(
        Access::Allow,
        3,
        Layer::User,
        8,
    ));
    builder.rule(input(cidr("0.0.0.0/0"), Access::Allow, None, 99));
    let blob = Blob::open(builder.build().unwrap()).unwrap();
    assert_eq!(decided(&blob, "10.0.0.1".parse().unwrap(), 443), "allow 7", "the strongest layer's");
    assert_eq!(decided(&blob, "10.0.0.1".parse().unwrap(), 1), "allow 9");
    assert_eq!(decided(&blob, "10.0.0.1".parse().unwrap(), 501), "allow 99");
}
