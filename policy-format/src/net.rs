//! Networks, and which addresses are not public.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP network: an address and how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    addr: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of `prefix` bits around `addr`; `None` when the prefix is longer than the address.
    #[must_use]
    pub fn new(addr: IpAddr, prefix: u8) -> Option<Self> {
        let addr = match addr {
            IpAddr::V4(v4) if prefix <= 32 => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask32(prefix))),
            IpAddr::V6(v6) if prefix <= 128 => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask128(prefix))),
            _ => return None,
        };
        Some(Self { addr, prefix })
    }

    /// The network of one address.
    #[must_use]
    pub fn single(addr: IpAddr) -> Self {
        Self { addr, prefix: if addr.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether it is one address.
    #[must_use]
    pub fn is_single(&self) -> bool {
        *self == Self::single(self.addr)
    }

    /// First address.
    #[must_use]
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// Bits that count.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether `ip`, of the same family, is inside.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.addr, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => ip.to_bits() & mask32(self.prefix) == net.to_bits(),
            (IpAddr::V6(net), IpAddr::V6(ip)) => ip.to_bits() & mask128(self.prefix) == net.to_bits(),
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() { write!(f, "{}", self.addr) } else { write!(f, "{}/{}", self.addr, self.prefix) }
    }
}

fn mask32(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask128(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

/// What is special about a range of addresses, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialRange {
    /// First address and prefix length.
    pub network: Network,
    /// What it is for.
    pub name: &'static str,
    /// Where it is defined.
    pub source: &'static str,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, name: &'static str, source: &'static str) -> SpecialRange {
    SpecialRange { network: Network { addr: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }, name, source }
}

const fn v6(segments: [u16; 8], prefix: u8, name: &'static str, source: &'static str) -> SpecialRange {
    let [a, b, c, d, e, f, g, h] = segments;
    SpecialRange { network: Network { addr: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix }, name, source }
}

/// The IPv4 ranges that are not public: what IANA's registry of special-purpose addresses (RFC 6890) does not mark as globally reachable, and multicast.
/// Of 192.0.0.0/24 it marks two addresses so, which lead to the nearest server of their kind: they are inside too.
pub const NON_PUBLIC_V4: [SpecialRange; 15] = [
    v4(0, 0, 0, 0, 8, "this network", "RFC 791"),
    v4(10, 0, 0, 0, 8, "private use", "RFC 1918"),
    v4(100, 64, 0, 0, 10, "shared address space (carrier-grade NAT)", "RFC 6598"),
    v4(127, 0, 0, 0, 8, "loopback", "RFC 1122"),
    v4(169, 254, 0, 0, 16, "link local", "RFC 3927"),
    v4(172, 16, 0, 0, 12, "private use", "RFC 1918"),
    v4(192, 0, 0, 0, 24, "IETF protocol assignments", "RFC 6890"),
    v4(192, 0, 2, 0, 24, "documentation (TEST-NET-1)", "RFC 5737"),
    v4(192, 88, 99, 0, 24, "relay anycast of 6to4 (deprecated) and 6a44", "RFC 7526, RFC 6751"),
    v4(192, 168, 0, 0, 16, "private use", "RFC 1918"),
    v4(198, 18, 0, 0, 15, "benchmarking", "RFC 2544"),
    v4(198, 51, 100, 0, 24, "documentation (TEST-NET-2)", "RFC 5737"),
    v4(203, 0, 113, 0, 24, "documentation (TEST-NET-3)", "RFC 5737"),
    v4(224, 0, 0, 0, 4, "multicast", "RFC 5771"),
    v4(240, 0, 0, 0, 4, "reserved, and limited broadcast", "RFC 1112, RFC 919"),
];

/// The IPv6 ranges that are not public, from the same registry, apart from the narrower ones in [`PUBLIC_V6`]. Where two hold an address, the narrower comes first.
/// 2001:1::1 to 2001:1::3 are marked as reachable, and closed for the reason of their IPv4 twins in 192.0.0.0/24.
pub const NON_PUBLIC_V6: [SpecialRange; 16] = [
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified", "RFC 4291"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback", "RFC 4291"),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "local-use IPv4/IPv6 translation", "RFC 8215"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 8, "reserved, obsolete forms of IPv4 addresses included", "RFC 4291"),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discard only", "RFC 6666"),
    v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64, "dummy prefix", "RFC 9780"),
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, "benchmarking", "RFC 5180"),
    v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, "ORCHID, deprecated", "RFC 4843"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "IETF protocol assignments", "RFC 2928"),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation", "RFC 3849"),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation", "RFC 9637"),
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "segment routing (SRv6) identifiers", "RFC 9602"),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique local", "RFC 4193"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link local", "RFC 4291"),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site local, deprecated", "RFC 3879"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast", "RFC 4291"),
];

/// What lies inside of those and is public nevertheless: the registry says that it is globally reachable, or it carries an IPv4 address and is judged by
/// that one ([`embedded_ipv4`]).
pub const PUBLIC_V6: [SpecialRange; 8] = [
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96, "IPv4-compatible", "RFC 4291"),
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, "IPv4-mapped", "RFC 4291"),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "IPv4/IPv6 translation", "RFC 6052"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo", "RFC 4380"),
    v6([0x2001, 3, 0, 0, 0, 0, 0, 0], 32, "AMT", "RFC 7450"),
    v6([0x2001, 4, 0x112, 0, 0, 0, 0, 0], 48, "AS112", "RFC 7535"),
    v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, "ORCHIDv2", "RFC 7343"),
    v6([0x2001, 0x30, 0, 0, 0, 0, 0, 0], 28, "drone remote identifiers", "RFC 9374"),
];

/// The range that makes an address not public, or `None` for a public one. An IPv6 address that carries an IPv4 address in any of the known
/// ways is judged by that address too.
#[must_use]
pub fn non_public(ip: IpAddr) -> Option<&'static SpecialRange> {
    match ip {
        IpAddr::V4(_) => in_ranges(&NON_PUBLIC_V4, ip),
        IpAddr::V6(v6) => in_ranges(&NON_PUBLIC_V6, ip)
            .or_else(|| embedded_ipv4(v6).into_iter().flatten().find_map(|v4| in_ranges(&NON_PUBLIC_V4, IpAddr::V4(v4)))),
    }
}

fn in_ranges(ranges: &'static [SpecialRange], ip: IpAddr) -> Option<&'static SpecialRange> {
    let public_inside =
        |range: &Network| PUBLIC_V6.iter().any(|public| public.network.prefix > range.prefix && public.network.contains(ip));
    ranges.iter().find(|range| range.network.contains(ip) && !public_inside(&range.network))
}

/// The IPv4 addresses that an IPv6 address carries: mapped and compatible (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo server and client (RFC 4380).
#[must_use]
pub fn embedded_ipv4(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let bits = ip.to_bits();
    let low = Ipv4Addr::from_bits((bits & 0xffff_ffff) as u32);
    let [a, b, c, d, e, f, ..] = ip.segments();
    match (a, b) {
        (0, 0) if (c, d, e) == (0, 0, 0) && (f == 0xffff || (f == 0 && bits > 1)) => [Some(low), None],
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => [Some(low), None],
        (0x2002, _) => [Some(Ipv4Addr::from_bits(u32::from(b) << 16 | u32::from(c))), None],
        (0x2001, 0) => [Some(Ipv4Addr::from_bits(u32::from(c) << 16 | u32::from(d))), Some(Ipv4Addr::from_bits(!low.to_bits()))],
        _ => [None, None],
    }
}

/// Addresses under which clouds serve machine credentials. They have to be named exactly, whatever else is open.
pub const METADATA_ADDRESSES: [IpAddr; 11] = [
    // AWS, Azure, Google Cloud, OpenStack, DigitalOcean, Hetzner and most others: instance metadata.
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    // AWS: container credentials (ECS), pod identity (EKS), time.
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    // Google Cloud over IPv6.
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    // Alibaba Cloud.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Oracle Cloud (classic).
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // Azure: the host's wire server (a public address).
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // OpenStack and Scaleway over IPv6.
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
];

/// Names of the same services.
pub const METADATA_NAMES: [&str; 5] =
    ["metadata.google.internal", "metadata.goog", "metadata", "instance-data", "instance-data.ec2.internal"];

/// Whether an address, or an IPv4 address that it carries, is a cloud metadata service.
#[must_use]
pub fn is_metadata_address(ip: IpAddr) -> bool {
    METADATA_ADDRESSES.contains(&ip)
        || matches!(ip, IpAddr::V6(v6) if embedded_ipv4(v6).into_iter().flatten().any(|v4| METADATA_ADDRESSES.contains(&IpAddr::V4(v4))))
}

/// Whether a normalised name is a cloud metadata service.
#[must_use]
pub fn is_metadata_name(name: &str) -> bool {
    METADATA_NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_public_from_non_public() {
        let non_public_ones = [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.0.9",
            "192.0.0.10",
            "192.88.99.0",
            "192.88.99.255",
            "192.0.2.1",
            "192.168.0.1",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "fc00::",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "100::1",
            "100::ffff:ffff:ffff:ffff",
            "100:0:0:1::1",
            "100:0:0:1:ffff:ffff:ffff:ffff",
            "2001:1::",
            "2001:1::1",
            "2001:1::2",
            "2001:1::3",
            "2001:2::",
            "2001:2:0:ffff:ffff:ffff:ffff:ffff",
            "2001:2:1::",
            "2001:4::1",
            "2001:4:111:ffff::",
            "2001:4:113::",
            "2001:5::",
            "2001:10::",
            "2001:1f:ffff::",
            "2001:40::",
            "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff::",
            "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
            "5f00::",
            "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            // IPv4-translated (RFC 2765, obsolete), and other space next to the forms that carry IPv4 addresses.
            "::ffff:0:7f00:1",
            "::ffff:0:808:808",
            "::1:0:0",
            "::fffe:808:808",
            "64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff",
            "64:ff9b::1:808:808",
            "64:ff9b:0:1::808:808",
            "64:ff9b:2::",
            "ff:ffff::1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::8.8.8.8",
            "2002:7f00:1::1",
            "2002:c0a8:1::",
            "2001:0:7f00:1::",
            "2001:0:808:808::5601:fefd",
        ];
        for ip in non_public_ones {
            // 5601:fefd is 169.254.1.2, inverted as Teredo does it.
            assert!(non_public(ip.parse().unwrap()).is_some(), "{ip}");
        }
        let public_ones = [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "128.0.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.1.1",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "192.31.196.1",
            "192.52.193.1",
            "192.88.98.255",
            "192.88.100.0",
            "192.175.48.1",
            "2606:4700::1111",
            "2620:4f:8000::1",
            "2001:3::1",
            "2001:4:112::1",
            "2001:20::1",
            "2001:2f:ffff::",
            "2001:30::1",
            "2001:3f:ffff::",
            "2001:200::",
            "2001:db7:ffff::",
            "2001:db9::",
            "3ffe:ffff::",
            "::808:808",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2001:0:808:808::f7f7:f7f7",
        ];
        for ip in public_ones {
            assert_eq!(non_public(ip.parse().unwrap()), None, "{ip}");
        }
    }

    #[test]
    fn knows_metadata_services_in_every_form() {
        for ip in ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "fd00:ec2::254", "168.63.129.16"]
        {
            assert!(is_metadata_address(ip.parse().unwrap()), "{ip}");
        }
        assert!(!is_metadata_address("169.254.169.253".parse().unwrap()));
        assert!(is_metadata_name("metadata.google.internal"));
    }

    #[test]
    fn networks_contain_what_their_prefix_says() {
        let net = Network::new("10.20.255.1".parse().unwrap(), 12).unwrap();
        assert_eq!(net.to_string(), "10.16.0.0/12");
        assert!(net.contains("10.31.255.255".parse().unwrap()) && !net.contains("10.32.0.0".parse().unwrap()));
        assert!(!net.contains("::ffff:10.16.0.1".parse().unwrap()), "families are kept apart");
        assert_eq!(Network::new("10.0.0.1".parse().unwrap(), 33), None);
        assert!(Network::new("::".parse().unwrap(), 0).unwrap().contains("ffff::".parse().unwrap()));
    }
}
