//! Rules and queries of the size of public domain lists, from files or made here.
//!
//! ```text
//! rule line    D|A <pattern> <attribute>     pattern: host, *.host or **.host; attribute: 1 to 65535; each name once
//! query line   M|E|W <host>                  M no rule names it, E one names it itself, W one names it by a wildcard
//! ```

use crate::synthetic;
use policy_format::{Host, Hosts, Pattern};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Environment variable: the file with the rules.
pub const RULES: &str = "NETPOLICY_BENCH_RULES";
/// Environment variable: the file with the queries.
pub const QUERIES: &str = "NETPOLICY_BENCH_QUERIES";
/// Environment variable: how many rules are made when no file is named.
pub const SIZE: &str = "NETPOLICY_BENCH_SIZE";

/// Which hosts a rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// `host`.
    Exact,
    /// `*.host`.
    Below,
    /// `**.host`.
    Both,
}

impl Reach {
    /// What stands before the name in a pattern.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Exact => "",
            Self::Below => "*.",
            Self::Both => "**.",
        }
    }

    /// Whether it reaches the name itself.
    #[must_use]
    pub fn is_exact(self) -> bool {
        self != Self::Below
    }

    /// Whether it reaches the names below.
    #[must_use]
    pub fn is_wild(self) -> bool {
        self != Self::Exact
    }
}

/// A rule of the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule<'a> {
    /// The name, without wildcards.
    pub name: &'a str,
    /// Which hosts it names.
    pub reach: Reach,
    /// Whether it allows; else it denies.
    pub allow: bool,
    /// What else is known of it, such as the list that it is from: 1 to 65535.
    pub attribute: u16,
}

impl Rule<'_> {
    /// What a lookup that finds this rule answers. Never 0, which means that no rule was found.
    #[must_use]
    pub fn value(&self) -> u32 {
        value(self.attribute, self.allow)
    }

    /// The rule as a line of a file.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} {}{} {}", if self.allow { 'A' } else { 'D' }, self.reach.prefix(), self.name, self.attribute)
    }
}

/// The value of a rule: its attribute and its access in one number.
#[must_use]
pub fn value(attribute: u16, allow: bool) -> u32 {
    u32::from(attribute) << 1 | u32::from(allow)
}

/// Whether the rule of a value allows.
#[must_use]
pub fn allows(value: u32) -> bool {
    value & 1 == 1
}

struct Entry {
    at: u32,
    len: u8,
    reach: Reach,
    allow: bool,
    attribute: u16,
}

/// Many rules, their names end to end in one text.
#[derive(Default)]
pub struct Rules {
    text: String,
    entries: Vec<Entry>,
    /// Lines of the file that are no rule for a name, as the policy sees it, and were left out.
    pub left_out: usize,
}

impl Rules {
    /// Reads lines.
    ///
    /// # Panics
    /// When a line is not of the form.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut rules = Self::default();
        for (number, line) in text.lines().enumerate() {
            let (access, pattern, attribute) = fields(line).unwrap_or_else(|| panic!("rules, line {}: `{line}` is no rule", number + 1));
            let allow = access == "A";
            match Pattern::parse(pattern).map(|pattern| pattern.hosts) {
                Ok(Hosts::Exact(name)) => rules.push(name.as_str(), Reach::Exact, allow, attribute),
                Ok(Hosts::Subdomains(name)) => rules.push(name.as_str(), Reach::Below, allow, attribute),
                Ok(Hosts::ApexAndSubdomains(name)) => rules.push(name.as_str(), Reach::Both, allow, attribute),
                Ok(Hosts::Any | Hosts::Network(_) | Hosts::Glob(_)) | Err(_) => rules.left_out += 1,
            }
        }
        rules
    }

    /// Adds a rule.
    ///
    /// # Panics
    /// When the names are more than 4 GiB.
    pub fn push(&mut self, name: &str, reach: Reach, allow: bool, attribute: u16) {
        let at = u32::try_from(self.text.len()).unwrap();
        self.text.push_str(name);
        self.entries.push(Entry { at, len: u8::try_from(name.len()).unwrap(), reach, allow, attribute });
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The rule with a number.
    #[must_use]
    pub fn get(&self, number: usize) -> Option<Rule<'_>> {
        self.entries.get(number).map(|entry| self.rule(entry))
    }

    /// All of them in their order.
    pub fn iter(&self) -> impl Iterator<Item = Rule<'_>> {
        self.entries.iter().map(|entry| self.rule(entry))
    }

    fn rule(&self, entry: &Entry) -> Rule<'_> {
        let at = entry.at as usize;
        let name = self.text.get(at..at + usize::from(entry.len)).unwrap_or_default();
        Rule { name, reach: entry.reach, allow: entry.allow, attribute: entry.attribute }
    }
}

fn fields(line: &str) -> Option<(&str, &str, u16)> {
    let mut fields = line.split(' ');
    let (access, pattern, attribute) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
    (["A", "D"].contains(&access) && attribute != 0 && fields.next().is_none()).then_some((access, pattern, attribute))
}

/// What a query is meant to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No rule names the host.
    Miss,
    /// A rule names the host itself.
    Exact,
    /// None does, and a wildcard reaches it.
    Wildcard,
}

impl Kind {
    /// How a line with it begins.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Miss => 'M',
            Self::Exact => 'E',
            Self::Wildcard => 'W',
        }
    }
}

/// Many hosts to ask for, end to end in one text.
#[derive(Default)]
pub struct Queries {
    text: String,
    entries: Vec<(u32, u8, Kind)>,
    /// Lines of the file that are no name, as the policy sees it, and were left out.
    pub left_out: usize,
}

impl Queries {
    /// Reads lines.
    ///
    /// # Panics
    /// When a line is not of the form.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut queries = Self::default();
        for (number, line) in text.lines().enumerate() {
            let kind = [Kind::Miss, Kind::Exact, Kind::Wildcard].into_iter().find(|kind| line.starts_with(kind.letter()));
            let (Some(kind), Some(host)) = (kind, line.get(2..)) else { panic!("queries, line {}: `{line}` is no query", number + 1) };
            match Host::parse(host) {
                Ok(Host::Name(name)) if name.as_str() == host => queries.push(host, kind),
                _ => queries.left_out += 1,
            }
        }
        queries
    }

    /// Adds a query.
    ///
    /// # Panics
    /// When the hosts are more than 4 GiB.
    pub fn push(&mut self, host: &str, kind: Kind) {
        let at = u32::try_from(self.text.len()).unwrap();
        self.text.push_str(host);
        self.entries.push((at, u8::try_from(host.len()).unwrap(), kind));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of them in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Kind)> {
        self.range(0, self.len())
    }

    /// `count` of them from number `first`, or fewer at the end.
    pub fn range(&self, first: usize, count: usize) -> impl Iterator<Item = (&str, Kind)> {
        let entries = self.entries.iter().skip(first).take(count);
        entries.map(|(at, len, kind)| (self.text.get(*at as usize..*at as usize + usize::from(*len)).unwrap_or_default(), *kind))
    }
}

/// What a rule set says of a host, found the plain way: what every structure has to agree with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Truth {
    /// Value of the rule that names it most specifically, or 0.
    pub closest: u32,
    /// Of those that allow, the same.
    pub allow: u32,
    /// Of those that deny, the same.
    pub deny: u32,
    /// Whether a rule names the host itself.
    pub exact: bool,
    /// Whether the host or a name above it is one of the rules' names, whatever they reach.
    pub listed: bool,
}

impl Truth {
    /// What kind of query the host is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match (self.exact, self.closest) {
            (true, _) => Kind::Exact,
            (false, 0) => Kind::Miss,
            (false, _) => Kind::Wildcard,
        }
    }
}

/// The rules by name.
pub struct Oracle<'a> {
    rules: HashMap<&'a str, Rule<'a>>,
}

impl<'a> Oracle<'a> {
    /// Of a rule set that has each name once.
    ///
    /// # Panics
    /// When it has a name twice: then it is not clear which of the two is to be found.
    #[must_use]
    pub fn new(rules: &'a Rules) -> Self {
        let mut known = HashMap::with_capacity(rules.len());
        for rule in rules.iter() {
            assert!(known.insert(rule.name, rule).is_none(), "two rules have the name {}", rule.name);
        }
        Self { rules: known }
    }

    /// What the rules say of a host.
    #[must_use]
    pub fn ask(&self, host: &str) -> Truth {
        let mut truth = Truth::default();
        let mut suffix = Some(host);
        while let Some(name) = suffix {
            if let Some(rule) = self.rules.get(name) {
                truth.listed = true;
                let whole = name.len() == host.len();
                if if whole { rule.reach.is_exact() } else { rule.reach.is_wild() } {
                    truth.exact |= whole;
                    let of_access = if rule.allow { &mut truth.allow } else { &mut truth.deny };
                    for value in [of_access, &mut truth.closest] {
                        if *value == 0 {
                            *value = rule.value();
                        }
                    }
                }
            }
            suffix = name.split_once('.').map(|(_, parent)| parent);
        }
        truth
    }
}

/// The rules and the queries of a run: those of the files that the environment names, or made here.
///
/// # Panics
/// When only one of the two files is named, or one cannot be read, or is not of the form.
#[must_use]
pub fn load(smoke: bool) -> (String, Rules, Queries) {
    let path = |variable| std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    match (path(RULES), path(QUERIES)) {
        (Some(rules), Some(queries)) => {
            let names = [&rules, &queries].map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            (names.join(", "), Rules::read(&read(&rules)), Queries::read(&read(&queries)))
        }
        (None, None) => {
            let size = match std::env::var(SIZE) {
                Ok(size) => size.parse().unwrap_or_else(|_| panic!("{SIZE} is `{size}`, which is no number of rules")),
                Err(_) if smoke => 2_000,
                Err(_) => 100_000,
            };
            let rules = synthetic::rules(size, 1);
            let queries = synthetic::queries(&rules, if smoke { 4_096 } else { 200_000 }, 2);
            ("synthetic".to_owned(), rules, queries)
        }
        _ => panic!("{RULES} and {QUERIES} name two files that belong together: set both, or neither"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "D a.example 7\nA *.b.a.example 8\nD **.c.example 9\nD 192.0.2.1 1\n";

    #[test]
    fn lines_become_rules_and_come_back() {
        let rules = Rules::read(LINES);
        let lines: String = rules.iter().map(|rule| rule.line() + "\n").collect();
        assert_eq!((lines + "D 192.0.2.1 1\n", rules.left_out), (LINES.to_owned(), 1));
    }

    #[test]
    fn the_oracle_knows_the_closest_of_each_access() {
        let rules = Rules::read("D **.example 1\nA **.a.example 2\nD b.a.example 3\nD *.c.a.example 4");
        let oracle = Oracle::new(&rules);
        let (d1, a2, d3, d4) = (value(1, false), value(2, true), value(3, false), value(4, false));
        let cases = [
            ("other", Truth::default()),
            ("example", Truth { closest: d1, allow: 0, deny: d1, exact: true, listed: true }),
            ("a.example", Truth { closest: a2, allow: a2, deny: d1, exact: true, listed: true }),
            ("b.a.example", Truth { closest: d3, allow: a2, deny: d3, exact: true, listed: true }),
            ("x.b.a.example", Truth { closest: a2, allow: a2, deny: d1, exact: false, listed: true }),
            ("c.a.example", Truth { closest: a2, allow: a2, deny: d1, exact: false, listed: true }),
            ("x.c.a.example", Truth { closest: d4, allow: a2, deny: d4, exact: false, listed: true }),
        ];
        for (host, truth) in cases {
            assert_eq!(oracle.ask(host), truth, "{host}");
        }
    }

    #[test]
    fn queries_that_are_no_names_are_left_out() {
        let queries = Queries::read("M a.example\nE 192.0.2.1\nW b.example");
        let read: Vec<_> = queries.iter().collect();
        assert_eq!((read, queries.left_out), (vec![("a.example", Kind::Miss), ("b.example", Kind::Wildcard)], 1));
    }
}
