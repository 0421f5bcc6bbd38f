//! Which deny takes all of what a rule allows.

use super::listed::{Listed, Lists, suffixes};
use policy_format::glob::Glob;
use policy_format::net::Network;
use policy_format::{Access, Hosts, HostsRef, Name, PortRange, RuleInput, RuleRef};
use std::collections::{BTreeMap, HashMap};

/// Globs that are tried on every name that is allowed.
const MAX_GLOBS: usize = 1024;

/// The denies that hold without conditions, by what they name. Asking costs the labels of a name or the bits of a network, however many denies there are;
/// only globs are tried one by one, and of those the first [`MAX_GLOBS`].
#[derive(Default)]
pub(super) struct Denies<'r> {
    any: Ports,
    named: HashMap<&'r str, Vec<(&'r Hosts, Ports)>>,
    networks: HashMap<Network, Ports>,
    globs: BTreeMap<&'r str, (&'r Glob, Ports)>,
    /// Those of domain lists, which hold for every port.
    listed: Lists<'r>,
}

/// A deny that takes all of what a rule allows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cover<'r> {
    /// One of the rules, by its index.
    Rule(usize),
    /// A rule of a list.
    Listed(RuleRef<'r>),
}

impl<'r> Denies<'r> {
    /// Those of rules, and of lists that come after them.
    pub(super) fn new(rules: &'r [RuleInput], lists: &'r [Listed]) -> Self {
        let mut denies = Self::default();
        let unconditional = |rule: &RuleInput| rule.access == Access::Deny && rule.methods.is_empty() && rule.paths.is_empty();
        for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| unconditional(rule)) {
            if let Some(ports) = denies.ports_of(&rule.hosts) {
                ports.add(&rule.ports, index);
            }
        }
        denies.any.sort();
        denies.named.values_mut().flatten().for_each(|(_, ports)| ports.sort());
        denies.networks.values_mut().for_each(Ports::sort);
        denies.globs.values_mut().for_each(|(_, ports)| ports.sort());
        let room = MAX_GLOBS - denies.globs.len();
        denies.listed = Lists::new(lists.iter().filter(|list| list.access() == Access::Deny), room);
        denies
    }

    /// The ports that are denied of exactly these hosts; `None` for a glob too many.
    fn ports_of(&mut self, hosts: &'r Hosts) -> Option<&mut Ports> {
        match hosts {
            Hosts::Any => Some(&mut self.any),
            Hosts::Exact(name) | Hosts::Subdomains(name) | Hosts::ApexAndSubdomains(name) => {
                // One of each kind at most.
                let kinds = self.named.entry(name.as_str()).or_default();
                let at = kinds.iter().position(|(kind, _)| *kind == hosts).unwrap_or(kinds.len());
                if at == kinds.len() {
                    kinds.push((hosts, Ports::default()));
                }
                kinds.get_mut(at).map(|(_, ports)| ports)
            }
            Hosts::Network(network) => Some(self.networks.entry(*network).or_default()),
            Hosts::Glob(glob) => {
                let room = self.globs.len() < MAX_GLOBS || self.globs.contains_key(glob.text());
                room.then(|| &mut self.globs.entry(glob.text()).or_insert_with(|| (glob, Ports::default())).1)
            }
        }
    }

    /// A deny that takes all of what `rule` allows: of those for names the nearest, otherwise the first.
    pub(super) fn cover(&self, rule: &RuleInput) -> Option<Cover<'r>> {
        let (ports, hosts) = (rule.ports.as_slice(), HostsRef::from(&rule.hosts));
        let (by_name, other) = match (&rule.hosts, hosts) {
            (_, HostsRef::Name(kind, name)) => {
                let around = |suffix: &str| {
                    let listed = || self.listed.around_name(suffix, kind, suffix.len() == name.len()).map(Cover::Listed);
                    self.named(suffix, rule).map(Cover::Rule).or_else(listed)
                };
                (suffixes(name).find_map(around), self.by_globs(&rule.hosts, ports))
            }
            (Hosts::Glob(glob), _) => (None, self.globs.get(glob.text()).and_then(|(_, denied)| denied.cover(ports))),
            (Hosts::Network(network), _) => (None, self.by_networks(network, ports)),
            _ => (None, None),
        };
        by_name
            .or_else(|| other.into_iter().chain(self.any.cover(ports)).min().map(Cover::Rule))
            .or_else(|| self.listed.around_other(hosts).map(Cover::Listed))
    }

    fn named(&self, suffix: &str, rule: &RuleInput) -> Option<usize> {
        let kinds = self.named.get(suffix)?.iter();
        kinds.filter(|(kind, _)| names_within(&rule.hosts, kind)).filter_map(|(_, denied)| denied.cover(&rule.ports)).min()
    }

    fn by_globs(&self, hosts: &Hosts, ports: &[PortRange]) -> Option<usize> {
        let Hosts::Exact(name) = hosts else { return None };
        let matching = self.globs.values().filter(|(glob, _)| glob.matches(name.as_str()));
        matching.filter_map(|(_, denied)| denied.cover(ports)).min()
    }

    fn by_networks(&self, inner: &Network, ports: &[PortRange]) -> Option<usize> {
        let around = (0..=inner.prefix()).filter_map(|prefix| Network::new(inner.addr(), prefix));
        around.filter_map(|network| self.networks.get(&network)?.cover(ports)).min()
    }
}

/// The ports that are denied of the same hosts, and by which deny.
#[derive(Default)]
struct Ports {
    /// The first deny of every port.
    every: Option<usize>,
    /// By first port; last port and deny are those of the range that reaches furthest among this one and those before it.
    ranges: Vec<(u16, u16, usize)>,
}

impl Ports {
    fn add(&mut self, ports: &[PortRange], index: usize) {
        if ports.is_empty() {
            self.every.get_or_insert(index);
        }
        self.ranges.extend(ports.iter().map(|range| (range.first, range.last, index)));
    }

    fn sort(&mut self) {
        self.ranges.sort_unstable();
        let mut furthest: Option<(u16, usize)> = None;
        for (_, last, index) in &mut self.ranges {
            match furthest {
                Some((before, of)) if before >= *last => (*last, *index) = (before, of),
                _ => furthest = Some((*last, *index)),
            }
        }
    }

    /// The first deny that has to do with it, if each of the ranges lies within a denied one.
    fn cover(&self, ports: &[PortRange]) -> Option<usize> {
        let within = |range: &PortRange| {
            let at = self.ranges.partition_point(|(first, ..)| *first <= range.first).checked_sub(1)?;
            self.ranges.get(at).filter(|(_, last, _)| *last >= range.last).map(|(.., index)| *index)
        };
        let ranges = ports.iter().map(within).collect::<Option<Vec<usize>>>();
        self.every.into_iter().chain(ranges.into_iter().flatten()).min()
    }
}

/// Whether the first set of names lies within the second.
fn names_within(inner: &Hosts, outer: &Hosts) -> bool {
    let below = |child: &Name, parent: &Name| child.as_str().strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.'));
    match (inner, outer) {
        (Hosts::Exact(a), Hosts::Exact(b)) => a == b,
        (Hosts::Exact(a), Hosts::Subdomains(b)) => below(a, b),
        (Hosts::Exact(a) | Hosts::Subdomains(a) | Hosts::ApexAndSubdomains(a), Hosts::ApexAndSubdomains(b)) => a == b || below(a, b),
        (Hosts::Subdomains(a), Hosts::Subdomains(b)) => a == b || below(a, b),
        (Hosts::ApexAndSubdomains(a), Hosts::Subdomains(b)) => below(a, b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_format::{Layer, Pattern, Source};

    fn rules(access: Access, texts: impl IntoIterator<Item = impl AsRef<str>>) -> Vec<RuleInput> {
        let source = || Source { layer: Layer::Project, label: String::new() };
        texts.into_iter().map(|text| RuleInput::new(Pattern::parse(text.as_ref()).unwrap(), access, source(), 0)).collect()
    }

    fn cover(denies: &Denies<'_>, rule: &RuleInput) -> Option<usize> {
        denies.cover(rule).map(|cover| match cover {
            Cover::Rule(index) => index,
            Cover::Listed(deny) => panic!("{}", deny.hosts),
        })
    }

    #[test]
    fn finds_the_deny_around_a_rule() {
        let denied =
            rules(Access::Deny, ["**.a.test", "*.b.test", "x.c.test:80", "10.0.0.0/8", "10.1.0.0/16:443", "ad*.d.test", "2001:db8::/32"]);
        let denies = Denies::new(&denied, &[]);
        for (text, expected) in [
            ("a.test", Some(0)),
            ("*.a.test:7", Some(0)),
            ("**.b.test", None),
            ("**.x.b.test", Some(1)),
            ("b.test", None),
            ("x.c.test", None),
            ("x.c.test:80", Some(2)),
            ("x.c.test:81", None),
            ("10.1.2.3:443", Some(3)),
            ("10.0.0.0/7", None),
            ("11.0.0.1", None),
            ("ads.d.test:1", Some(5)),
            ("ad*.d.test", Some(5)),
            ("d.test", None),
            ("2001:db8::1", Some(6)),
            ("::1", None),
            ("*", None),
        ] {
            assert_eq!(cover(&denies, &rules(Access::Allow, [text])[0]), expected, "{text}");
        }
        let all = rules(Access::Deny, ["*:443", "*"]);
        assert_eq!(cover(&Denies::new(&all, &[]), &rules(Access::Allow, ["x.test:443"])[0]), Some(0));
        assert_eq!(cover(&Denies::new(&all, &[]), &rules(Access::Allow, ["*"])[0]), Some(1));
    }

    /// Of denies for names the nearest counts, in rules or lists, and of others the first; rules come before lists, and lists in their order.
    #[test]
    fn rules_come_before_lists_and_near_names_before_far_ones() {
        let denied = rules(Access::Deny, ["**.a.test", "b.test:80", "10.0.0.0/8:80", "y*.e.test", "*:7"]);
        let list = |access, texts: &[&str]| {
            let mut list = Listed::new(access, Source { layer: Layer::User, label: "list".into() }).unwrap();
            for (line, text) in (1..).zip(texts) {
                list.add(HostsRef::from(&Pattern::parse(text).unwrap().hosts), line).unwrap();
            }
            list
        };
        let lists = [
            list(Access::Allow, &["**.allowed.test"]),
            list(Access::Deny, &["**.x.a.test", "*.a.test", "b.test", "10.1.0.0/16", "x*.e.test", "*.c.test"]),
            list(Access::Deny, &["**.b.test", "10.0.0.0/8", "xy*.e.test", "**.test", "c.test"]),
        ];
        let denies = Denies::new(&denied, &lists);
        for (text, expected) in [
            ("y.a.test", "rule 0"),
            ("y.x.a.test", "**.x.a.test"),
            ("b.test:80", "rule 1"),
            ("b.test", "b.test"),
            ("*.b.test", "**.b.test"),
            ("10.1.1.1:80", "rule 2"),
            ("10.1.1.1", "10.1.0.0/16"),
            ("10.2.1.1", "10.0.0.0/8"),
            ("11.0.0.1", "nothing"),
            // Names before globs.
            ("xyz.e.test", "**.test"),
            ("xyz.e.test:7", "**.test"),
            ("c.test", "c.test"),
            ("**.c.test", "**.test"),
            ("z.c.test", "*.c.test"),
            ("x*.e.test", "x*.e.test"),
            ("y*.e.test", "rule 3"),
            ("allowed.test", "**.test"),
            ("elsewhere.example:7", "rule 4"),
            ("elsewhere.example", "nothing"),
        ] {
            let found = match denies.cover(&rules(Access::Allow, [text])[0]) {
                None => "nothing".to_owned(),
                Some(Cover::Rule(index)) => format!("rule {index}"),
                Some(Cover::Listed(deny)) => deny.hosts.to_string(),
            };
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_range_lies_within_the_range_that_reaches_furthest() {
        let ranges = |list: &[(u16, u16)]| list.iter().map(|(first, last)| PortRange { first: *first, last: *last }).collect::<Vec<_>>();
        let mut ports = Ports::default();
        for (index, range) in [(10, 20), (1, 100), (50, 60), (200, 300)].iter().enumerate() {
            ports.add(&ranges(&[*range]), index);
        }
        ports.sort();
        for (asked, expected) in [
            (vec![(12, 15)], Some(1)),
            (vec![(1, 100)], Some(1)),
            (vec![(99, 101)], None),
            (vec![(250, 250), (70, 71)], Some(1)),
            (vec![(250, 250), (150, 150)], None),
            (vec![], None),
        ] {
            assert_eq!(ports.cover(&ranges(&asked)), expected, "{asked:?}");
        }
    }

    #[test]
    fn as_many_denies_as_questions_are_no_product() {
        let count = 20_000_u16;
        let denied = rules(
            Access::Deny,
            (1..=count).map(|port| format!("**.a.test:{port}")).chain((1..=count).map(|port| format!("10.0.0.0/8:{port}"))),
        );
        let denies = Denies::new(&denied, &[]);
        for (name, first) in [("x.a.test", 0), ("10.1.2.3", usize::from(count))] {
            let asked = rules(Access::Allow, (1..=count + 1).map(|port| format!("{name}:{port}")));
            let found: Vec<_> = asked.iter().map(|rule| cover(&denies, rule)).collect();
            let expected: Vec<_> = (0..usize::from(count)).map(|index| Some(first + index)).chain([None]).collect();
            assert_eq!(found, expected);
        }
    }
}
