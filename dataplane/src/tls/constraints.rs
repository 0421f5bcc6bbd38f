//! Name constraints (RFC 5280, section 4.2.1.10): the hosts that an authority may speak for. Clients hold every leaf against them, so that a key that got out opens nothing
//! but what the policy had opened here.

use super::der::{self, Reader, sequence, tag, value};
use policy_format::{Host, Hosts, Pattern};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Names, and networks, that are written; every client has to compare a host with all of them.
const MAX_SUBTREES: usize = 256;

/// `GeneralName`: `dNSName`, `directoryName` and `iPAddress`.
const DNS_NAME: u8 = tag::context(2);
const DIRECTORY_NAME: u8 = tag::context_constructed(4);
const IP_ADDRESS: u8 = tag::context(7);

/// Hosts that an authority may speak for, and hosts that it may not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Constraints {
    permitted: Subtrees,
    excluded: Subtrees,
}

/// Names with all that is below them, and networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Subtrees {
    names: Vec<String>,
    networks: Vec<Masked>,
    /// Whether there are names of organisations and people, which the subject of a leaf would be held against.
    directory: bool,
}

/// An address, and which of its bits count. Four bytes each, or sixteen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Masked {
    address: Vec<u8>,
    mask: Vec<u8>,
}

/// What is permitted of one kind.
enum Kind<T> {
    All,
    Listed(Vec<T>),
}

impl Constraints {
    /// Every host.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// The hosts of these patterns, and as few others as can be said: a name is permitted with all names below it, a glob as what all its matches end in. Where none of one kind is
    /// listed, name or address, that kind is excluded as a whole: it would be free otherwise. Too many names are permitted by their last two labels; where those are too many still,
    /// or a pattern has any name, all are.
    pub(crate) fn of(patterns: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let (mut names, mut networks) = (Some(BTreeSet::new()), Vec::new());
        for pattern in patterns {
            match Pattern::parse(pattern.as_ref()).map(|pattern| pattern.hosts) {
                Ok(Hosts::Network(network)) => networks.push(Masked::new(network.addr(), network.prefix())),
                Ok(Hosts::Exact(name) | Hosts::Subdomains(name) | Hosts::ApexAndSubdomains(name)) => {
                    if let Some(names) = &mut names {
                        names.insert(name.as_str().to_owned());
                    }
                }
                Ok(Hosts::Glob(glob)) => {
                    for end in glob.fixed_ends() {
                        // Below a wildcard, the first label is cut.
                        let suffix = if end.wildcard { end.text.split_once('.').map(|(_, rest)| rest) } else { Some(end.text) };
                        match (&mut names, suffix.filter(|suffix| !suffix.is_empty())) {
                            (Some(names), Some(suffix)) => drop(names.insert(suffix.to_owned())),
                            _ => names = None,
                        }
                    }
                }
                // A policy has no pattern that is none; if it had, nothing could be said of it.
                Ok(Hosts::Any) | Err(_) => return Self::none(),
            }
        }
        let names = names.and_then(few).map_or(Kind::All, Kind::Listed);
        let networks = if networks.len() > MAX_SUBTREES { Kind::All } else { Kind::Listed(networks) };
        Self::permit(names, networks)
    }

    fn permit(names: Kind<String>, networks: Kind<Masked>) -> Self {
        let mut constraints = Self::none();
        match names {
            Kind::All => {}
            // What is empty is every name.
            Kind::Listed(names) if names.is_empty() => constraints.excluded.names.push(String::new()),
            Kind::Listed(names) => constraints.permitted.names = names,
        }
        match networks {
            Kind::All => {}
            Kind::Listed(networks) if networks.is_empty() => {
                constraints.excluded.networks = [4, 16].map(|bytes| Masked { address: vec![0; bytes], mask: vec![0; bytes] }).into();
            }
            Kind::Listed(networks) => constraints.permitted.networks = networks,
        }
        constraints
    }

    /// Whether these permit every host that the others, made by [`Self::of`], permit.
    pub(crate) fn contains(&self, others: &Self) -> bool {
        let names = {
            let (mine, others) = ((&self.permitted.names, &self.excluded.names), (&others.permitted.names, &others.excluded.names));
            holds_all(mine, others, |name, base| is_within(name, base))
        };
        let (mine, others) = ((&self.permitted.networks, &self.excluded.networks), (&others.permitted.networks, &others.excluded.networks));
        names && holds_all(mine, others, |network, base| base.holds(network))
    }

    /// Whether there are none.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::none()
    }

    /// Whether a leaf for `host` would be accepted.
    pub(crate) fn covers(&self, host: &Host) -> bool {
        match host {
            Host::Name(name) => {
                let has = |subtrees: &Subtrees| subtrees.names.iter().any(|base| is_within(name.as_str(), base));
                (self.permitted.names.is_empty() || has(&self.permitted)) && !has(&self.excluded)
            }
            Host::Ip(ip) => {
                let has = |subtrees: &Subtrees| subtrees.networks.iter().any(|network| network.contains(*ip));
                (self.permitted.networks.is_empty() || has(&self.permitted)) && !has(&self.excluded)
            }
            Host::NumericLookalike(_) => false,
        }
    }

    /// Whether the subject of a leaf would be held against them.
    pub(crate) fn has_directory_names(&self) -> bool {
        self.permitted.directory || self.excluded.directory
    }

    /// The content of the extension.
    pub(crate) fn write(&self) -> Vec<u8> {
        let subtrees = |number, subtrees: &Subtrees| match subtrees.write() {
            written if written.is_empty() => written,
            written => value(tag::context_constructed(number), &[&written]),
        };
        sequence(&[&subtrees(0, &self.permitted), &subtrees(1, &self.excluded)])
    }

    /// Reads the content of the extension. Names of other kinds are none of ours.
    pub(crate) fn read(content: &[u8]) -> Option<Self> {
        let mut content = Reader::new(der::only(content, tag::SEQUENCE)?);
        let mut subtrees = |number| match content.expect(tag::context_constructed(number)) {
            Some(written) => Subtrees::read(written),
            None => Some(Subtrees::default()),
        };
        let (permitted, excluded) = (subtrees(0)?, subtrees(1)?);
        content.is_empty().then_some(Self { permitted, excluded })
    }
}

/// Whether what is permitted of one kind, and not excluded, holds all that is of others. What is permitted is listed, unless that is all; if anything is excluded, everything is.
fn holds_all<T>(mine: (&Vec<T>, &Vec<T>), others: (&Vec<T>, &Vec<T>), is_within: impl Fn(&T, &T) -> bool) -> bool {
    let is_all = |(permitted, excluded): (&Vec<T>, &Vec<T>)| permitted.is_empty() && excluded.is_empty();
    let is_none = !others.1.is_empty();
    is_all(mine) || is_none || !is_all(others) && others.0.iter().all(|other| mine.0.iter().any(|base| is_within(other, base)))
}

impl Subtrees {
    fn write(&self) -> Vec<u8> {
        let names = self.names.iter().map(|name| sequence(&[&value(DNS_NAME, &[name.as_bytes()])]));
        let networks = self.networks.iter().map(|network| sequence(&[&value(IP_ADDRESS, &[&network.address, &network.mask])]));
        names.chain(networks).collect::<Vec<_>>().concat()
    }

    fn read(written: &[u8]) -> Option<Self> {
        let (mut subtrees, mut written) = (Self::default(), Reader::new(written));
        while !written.is_empty() {
            let base = Reader::new(written.expect(tag::SEQUENCE)?).item()?;
            match base.tag {
                DNS_NAME => subtrees.names.push(std::str::from_utf8(base.content).ok()?.to_ascii_lowercase()),
                IP_ADDRESS => subtrees.networks.push(Masked::read(base.content)?),
                DIRECTORY_NAME => subtrees.directory = true,
                _ => {}
            }
        }
        Some(subtrees)
    }
}

impl Masked {
    fn new(address: IpAddr, prefix: u8) -> Self {
        let address = octets(address);
        let mask = (0..address.len()).map(|byte| {
            let ones = usize::from(prefix).saturating_sub(8 * byte).min(8);
            // All of the first `ones` bits.
            u8::try_from(0xff00_u16 >> ones & 0xff).unwrap_or_default()
        });
        Self { mask: mask.collect(), address }
    }

    fn read(content: &[u8]) -> Option<Self> {
        matches!(content.len(), 8 | 32).then(|| {
            let (address, mask) = content.split_at(content.len() / 2);
            Self { address: address.to_owned(), mask: mask.to_owned() }
        })
    }

    /// Whether all of another network is in this one.
    fn holds(&self, other: &Self) -> bool {
        let bits = self.address.iter().zip(&self.mask).zip(other.address.iter().zip(&other.mask));
        self.address.len() == other.address.len() && { bits }
            .all(|((own, mask), (its, its_mask))| own & mask == its & mask && its_mask & mask == *mask)
    }

    fn contains(&self, ip: IpAddr) -> bool {
        let ip = octets(ip);
        ip.len() == self.address.len() && ip.iter().zip(&self.address).zip(&self.mask).all(|((a, b), mask)| a & mask == b & mask)
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Whether a name is `base` or below it. With a dot in front, it is only what is below; empty, it is everything.
fn is_within(name: &str, base: &str) -> bool {
    match name.strip_suffix(base) {
        Some(rest) => base.is_empty() || base.starts_with('.') && !rest.is_empty() || rest.is_empty() || rest.ends_with('.'),
        None => false,
    }
}

/// Names without those that are below another, if that leaves few enough; else by their last two labels.
fn few(names: BTreeSet<String>) -> Option<Vec<String>> {
    let tops = tops(&names);
    if tops.len() <= MAX_SUBTREES {
        return Some(tops);
    }
    let last_two = |name: &String| {
        let second = name.rmatch_indices('.').nth(1);
        second.and_then(|(dot, _)| name.get(dot + 1..)).unwrap_or(name).to_owned()
    };
    let shorter = tops_of(tops.iter().map(last_two));
    (shorter.len() <= MAX_SUBTREES).then_some(shorter)
}

fn tops_of(names: impl Iterator<Item = String>) -> Vec<String> {
    tops(&names.collect())
}

fn tops(names: &BTreeSet<String>) -> Vec<String> {
    let is_top = |name: &&String| !name.match_indices('.').any(|(dot, _)| name.get(dot + 1..).is_some_and(|parent| names.contains(parent)));
    names.iter().filter(is_top).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(constraints: &Constraints, host: &str) -> bool {
        constraints.covers(&Host::parse(host).unwrap())
    }

    #[test]
    fn patterns_and_the_hosts_that_they_permit() {
        type Row = (&'static [&'static str], &'static [&'static str], &'static [&'static str]);
        let rows: [Row; 11] = [
            (&["api.example.com"], &["api.example.com", "x.api.example.com"], &["example.com", "xapi.example.com", "192.0.2.1", "::1"]),
            (&["*.example.com"], &["a.example.com", "a.b.example.com", "example.com"], &["example.org", "192.0.2.1"]),
            (&["**.example.com", "a.example.com"], &["example.com", "a.example.com"], &["com"]),
            (&["example.com:8443"], &["example.com"], &["example.org"]),
            (&["region*.example.com"], &["region1.example.com", "region.eu.example.com"], &["example.org", "com"]),
            (&["{a.com,b*.c.org}"], &["a.com", "b.c.org", "c.org"], &["c.com", "b.org"]),
            (&["192.0.2.0/24"], &["192.0.2.255"], &["192.0.3.0", "2001:db8::1", "example.com", "localhost"]),
            (&["[2001:db8::]/33"], &["2001:db8:7fff::1"], &["2001:db8:8000::", "192.0.2.1"]),
            (&["a.test", "192.0.2.7", "[::1]"], &["a.test", "192.0.2.7", "::1"], &["192.0.2.6", "::2", "b.test"]),
            (&["*.test", "*"], &["a.test", "192.0.2.1", "::1"], &[]),
            (&[], &[], &["a.test", "192.0.2.1", "::1"]),
        ];
        for (patterns, inside, outside) in rows {
            let constraints = Constraints::of(patterns);
            let read = Constraints::read(&constraints.write()).unwrap();
            assert_eq!(read, constraints, "{patterns:?}");
            for host in inside {
                assert!(covers(&constraints, host), "{patterns:?}: {host}");
            }
            for host in outside {
                assert!(!covers(&constraints, host), "{patterns:?}: {host}");
            }
        }
        assert!(!Constraints::none().covers(&Host::parse("127.1").unwrap()));
    }

    #[test]
    fn which_constraints_hold_which() {
        type Row = (&'static [&'static str], &'static [&'static str], bool);
        let rows: [Row; 14] = [
            (&["a.test"], &["a.test"], true),
            (&["*.a.test", "b.test"], &["x.a.test"], true),
            (&["a.test"], &["b.a.test", "a.test"], true),
            (&["b.a.test"], &["a.test"], false),
            (&["a.test"], &["a.test", "b.test"], false),
            (&["a.test"], &["*"], false),
            (&["*"], &["a.test", "192.0.2.1"], true),
            (&["a.test"], &["192.0.2.1"], false),
            (&["192.0.2.0/24"], &["a.test"], false),
            (&["192.0.2.0/24"], &["192.0.2.128/25"], true),
            (&["192.0.2.128/25"], &["192.0.2.0/24"], false),
            (&["192.0.2.0/24"], &["192.0.3.0/24"], false),
            (&["192.0.2.0/24", "a.test"], &["::1"], false),
            (&["api.*"], &["b.test"], true),
        ];
        for (mine, others, expected) in rows {
            assert_eq!(Constraints::of(mine).contains(&Constraints::of(others)), expected, "{mine:?}, {others:?}");
        }
    }

    #[test]
    fn a_glob_that_ends_in_anything_leaves_names_free_and_addresses_excluded() {
        for glob in ["api.*", "a*b", "x?com"] {
            let constraints = Constraints::of([glob, "a.test"]);
            assert!(covers(&constraints, "example.com"), "{glob}");
            assert!(!covers(&constraints, "192.0.2.1"), "{glob}");
        }
    }

    #[test]
    fn too_many_are_said_in_fewer() {
        let many: Vec<String> = (0..300).map(|n| format!("h{n}.example.com")).collect();
        let constraints = Constraints::of(&many);
        assert_eq!(constraints.permitted.names, ["example.com"]);
        let all: Vec<String> = (0..300).map(|n| format!("h{n}.example{n}.com")).collect();
        let constraints = Constraints::of(&all);
        assert!(covers(&constraints, "any.test") && !covers(&constraints, "192.0.2.1"));
        let networks: Vec<String> = (0..300).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
        let constraints = Constraints::of(&networks);
        assert!(covers(&constraints, "192.0.2.1") && !covers(&constraints, "a.test"));
    }

    #[test]
    fn what_others_write_is_read() {
        let subtree = |tag, content: &[u8]| sequence(&[&value(tag, &[content]), &value(tag::context(0), &[&[0]])]);
        let permitted =
            [subtree(DNS_NAME, b".Corp.TEST"), subtree(tag::context(1), b"mail.test"), subtree(DIRECTORY_NAME, &sequence(&[]))].concat();
        let excluded = [subtree(DNS_NAME, b"x.corp.test"), subtree(IP_ADDRESS, &[10, 0, 0, 0, 255, 0, 0, 0])].concat();
        let written = sequence(&[&value(tag::context_constructed(0), &[&permitted]), &value(tag::context_constructed(1), &[&excluded])]);
        let constraints = Constraints::read(&written).unwrap();
        assert!(constraints.has_directory_names());
        for (host, covered) in
            [("a.corp.test", true), ("corp.test", false), ("a.x.corp.test", false), ("10.1.2.3", false), ("11.0.0.1", true), ("::1", true)]
        {
            assert_eq!(covers(&constraints, host), covered, "{host}");
        }
        for broken in [&b""[..], b"\x30\x02\xa0\x00\x00", b"\x30\x04\xa0\x02\x30\x00", b"\x30\x06\xa0\x04\x30\x02\x87\x00"] {
            assert_eq!(Constraints::read(broken), None, "{broken:?}");
        }
    }
}
