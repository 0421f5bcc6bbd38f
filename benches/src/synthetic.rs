//! Rules and queries with the statistics of public domain lists, from a seed: for machines that have no such lists, and for a first look.
//!
//! The statistics: `.com` has 44 % of the names and a long tail of suffixes the rest; 64 % have two labels; a name is 19 bytes on average; names below a name
//! share a few crowded parents; 45 % are exact, 10 % `*.`, 45 % `**.`; 3 % allow; attributes are Zipf distributed over 4,096. Of the queries 60 % miss (popular
//! and unseen hosts, deep subdomains, near misses), 25 % are names of rules, 15 % lie below wildcards.

use crate::domains::{Kind, Oracle, Queries, Reach, Rules};
use crate::splitmix;
use std::collections::HashSet;

/// Attributes that rules have.
pub const ATTRIBUTES: usize = 4096;
/// Hosts that everybody asks for.
const POPULAR: usize = 20_000;
/// Suffixes and their weights.
const SUFFIXES: [(&str, u32); 48] = [
    ("com", 440),
    ("net", 56),
    ("org", 40),
    ("ru", 38),
    ("top", 30),
    ("xyz", 30),
    ("info", 28),
    ("online", 22),
    ("site", 20),
    ("de", 18),
    ("co", 14),
    ("io", 14),
    ("pl", 14),
    ("tk", 14),
    ("co.uk", 12),
    ("shop", 12),
    ("ml", 11),
    ("ga", 11),
    ("cf", 11),
    ("club", 10),
    ("fr", 10),
    ("biz", 9),
    ("com.br", 9),
    ("it", 9),
    ("nl", 9),
    ("pro", 9),
    ("us", 9),
    ("cc", 8),
    ("in", 8),
    ("store", 8),
    ("jp", 7),
    ("me", 7),
    ("eu", 6),
    ("live", 6),
    ("com.au", 5),
    ("cz", 5),
    ("space", 5),
    ("website", 5),
    ("app", 4),
    ("ca", 4),
    ("ch", 4),
    ("cn", 4),
    ("co.jp", 4),
    ("dev", 4),
    ("se", 4),
    ("tv", 4),
    ("uk", 3),
    ("vip", 3),
];
const SUBDOMAINS: [&str; 24] = [
    "www",
    "api",
    "cdn",
    "ads",
    "static",
    "img",
    "mail",
    "m",
    "track",
    "s",
    "t",
    "log",
    "pixel",
    "stats",
    "metrics",
    "events",
    "a",
    "b",
    "app",
    "data",
    "click",
    "media",
    "collector",
    "go",
];

/// Random numbers that are the same everywhere (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        splitmix(self.0)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from((u128::from(self.next()) * limit as u128) >> 64).unwrap_or(0)
    }

    fn percent(&mut self, share: usize) -> bool {
        self.below(100) < share
    }

    /// Uniform in 0 to 1.
    fn unit(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
        let fraction = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        fraction
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        of.get(self.below(of.len())).unwrap()
    }

    /// Rank from 0, of Zipf's law with exponent 1, by the inverse of its continuous form.
    fn zipf(&mut self, ranks: usize) -> usize {
        #[expect(clippy::cast_precision_loss, reason = "ranks are few")]
        let rank = ((ranks + 1) as f64).powf(self.unit());
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to ranks + 1")]
        let rank = rank as usize;
        rank.clamp(1, ranks) - 1
    }

    fn suffix(&mut self) -> &'static str {
        let all: u32 = SUFFIXES.iter().map(|(_, weight)| weight).sum();
        let mut left = u32::try_from(self.below(all as usize)).unwrap();
        for (suffix, weight) in SUFFIXES {
            if left < weight {
                return suffix;
            }
            left -= weight;
        }
        "com"
    }

    /// A label that can be spoken, now and then with a digit or a hyphen.
    fn word(&mut self, out: &mut String, length: usize) {
        const CONSONANTS: &[u8] = b"rtnslcdmpbgkhfvwyzjxq";
        const VOWELS: &[u8] = b"eaiou";
        for at in 0..length {
            let inner = at > 0 && at + 1 < length;
            let letter = match self.below(100) {
                0..3 if inner && !out.ends_with('-') => b'-',
                3..6 => b'0' + u8::try_from(self.below(10)).unwrap(),
                _ if at % 2 == 0 => *CONSONANTS.get(self.zipf(CONSONANTS.len() * 2) / 2).unwrap(),
                _ => *self.pick(VOWELS),
            };
            out.push(char::from(letter));
        }
    }

    /// A name that can be registered.
    fn base(&mut self) -> String {
        let mut name = String::new();
        let length = 4 + self.below(9) + self.below(8);
        self.word(&mut name, length);
        name.push('.');
        name.push_str(self.suffix());
        name
    }

    fn subdomain(&mut self) -> String {
        if self.percent(40) {
            return (*self.pick(&SUBDOMAINS)).to_owned();
        }
        let mut label = String::new();
        let length = 3 + self.below(9);
        self.word(&mut label, length);
        label
    }

    /// A name as a list has it.
    fn name(&mut self, hubs: &[String]) -> String {
        let below = match self.below(1000) {
            0..645 => 0,
            645..954 => 1,
            954..994 => 2,
            994..999 => 3,
            _ => 4 + self.below(4),
        };
        let mut name = if below > 0 && self.percent(60) { hubs.get(self.zipf(hubs.len())).unwrap().clone() } else { self.base() };
        for _ in 0..below {
            name = format!("{}.{name}", self.subdomain());
        }
        name
    }
}

/// `count` rules, no name twice.
#[must_use]
pub fn rules(count: usize, seed: u64) -> Rules {
    let mut random = Random(seed);
    let hubs: Vec<String> = (0..count / 200 + 8).map(|_| random.base()).collect();
    let (mut rules, mut seen) = (Rules::default(), HashSet::new());
    while rules.len() < count {
        let name = random.name(&hubs);
        if !seen.insert(name.clone()) {
            continue;
        }
        let reach = match random.below(100) {
            0..45 => Reach::Exact,
            45..55 => Reach::Below,
            _ => Reach::Both,
        };
        let allow = random.percent(3);
        rules.push(&name, reach, allow, u16::try_from(1 + random.zipf(ATTRIBUTES)).unwrap());
    }
    rules
}

/// `count` queries for a rule set.
///
/// # Panics
/// When the rule set is empty, or has a name twice.
#[must_use]
pub fn queries(rules: &Rules, count: usize, seed: u64) -> Queries {
    let oracle = Oracle::new(rules);
    let mut random = Random(seed ^ 0x71_7565_7279);
    let popular: Vec<String> = (0..POPULAR).map(|_| random.base()).collect();
    let mut queries = Queries::default();
    while queries.len() < count {
        let wanted = match random.below(100) {
            0..60 => Kind::Miss,
            60..85 => Kind::Exact,
            _ => Kind::Wildcard,
        };
        // Some hosts turn out to be of another kind, because of other rules. A set may lack what a kind needs, so the tries are few.
        let tries = (0..100).map(|_| host(&mut random, rules, &popular, wanted));
        let found = tries.into_iter().find(|host| oracle.ask(host).kind() == wanted && host.len() <= policy_format::MAX_NAME);
        if let Some(host) = found {
            queries.push(&host, wanted);
        }
    }
    queries
}

fn host(random: &mut Random, rules: &Rules, popular: &[String], wanted: Kind) -> String {
    let ruled = rules.get(random.below(rules.len())).unwrap().name;
    match wanted {
        Kind::Exact => ruled.to_owned(),
        Kind::Wildcard => match random.below(100) {
            0..60 => format!("{}.{ruled}", random.pick(&SUBDOMAINS)),
            60..80 => format!("{}.{ruled}", random.subdomain()),
            _ => deep(random, ruled),
        },
        Kind::Miss => {
            let known = popular.get(random.zipf(popular.len())).unwrap();
            match random.below(100) {
                0..25 => known.clone(),
                25..55 => format!("{}.{known}", random.pick(&SUBDOMAINS)),
                55..75 => random.name(popular),
                75..90 => deep(random, known),
                // Near misses: a sibling of a rule, a child of an exact one.
                90..95 => format!("{}.{}", random.subdomain(), ruled.split_once('.').map_or(ruled, |(_, parent)| parent)),
                _ => format!("www.{ruled}"),
            }
        }
    }
}

/// A host as content networks have them, far below a name.
fn deep(random: &mut Random, base: &str) -> String {
    let mut name = format!("{:x}", random.next() >> (8 * random.below(7)));
    for _ in 0..=random.below(5) {
        name = format!("{name}.{}", random.pick(&SUBDOMAINS));
    }
    format!("{name}.{base}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domains::Rule;

    const MANY: usize = 20_000;

    fn per_mille(rules: &Rules, what: impl Fn(&Rule<'_>) -> bool) -> usize {
        rules.iter().filter(what).count() * 1000 / rules.len()
    }

    #[test]
    fn rules_have_the_statistics_of_lists() {
        let rules = rules(MANY, 1);
        let shares = [
            ("two labels", per_mille(&rules, |rule| rule.name.matches('.').count() == 1), 620..660),
            ("com", per_mille(&rules, |rule| rule.name.ends_with(".com")), 410..460),
            ("exact", per_mille(&rules, |rule| rule.reach == Reach::Exact), 435..465),
            ("below", per_mille(&rules, |rule| rule.reach == Reach::Below), 90..110),
            ("allow", per_mille(&rules, |rule| rule.allow), 25..35),
            ("the commonest attribute", per_mille(&rules, |rule| rule.attribute == 1), 60..140),
            ("bytes", rules.iter().map(|rule| rule.name.len()).sum::<usize>() * 10 / rules.len(), 180..200),
        ];
        for (what, found, expected) in shares {
            assert!(expected.contains(&found), "{what}: {found}");
        }
    }

    #[test]
    fn every_rule_and_query_is_one_that_a_file_could_hold() {
        let rules = rules(MANY, 3);
        let lines: String = rules.iter().map(|rule| rule.line() + "\n").collect();
        let read = Rules::read(&lines);
        assert!(read.left_out == 0 && read.iter().eq(rules.iter()));
        let queries = queries(&rules, MANY, 4);
        let lines: String = queries.iter().map(|(host, kind)| format!("{} {host}\n", kind.letter())).collect();
        let read = Queries::read(&lines);
        assert!(read.left_out == 0 && read.iter().eq(queries.iter()));
    }

    #[test]
    fn queries_are_of_the_kinds_they_say_in_the_shares_that_are_wanted() {
        let rules = rules(MANY, 1);
        let oracle = Oracle::new(&rules);
        let queries = queries(&rules, MANY, 2);
        let mut counts = [0; 3];
        for (host, kind) in queries.iter() {
            assert_eq!(oracle.ask(host).kind(), kind, "{host}");
            *counts.get_mut(kind as usize).unwrap() += 1;
        }
        for (found, expected) in counts.into_iter().zip([600_usize, 250, 150]) {
            assert!((found * 1000 / MANY).abs_diff(expected) < 15, "{counts:?}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_names_every_time_and_another_seed_others() {
        let names = |seed| rules(100, seed).iter().map(|rule| rule.line()).collect::<Vec<_>>();
        assert_eq!(names(1), names(1));
        assert_ne!(names(1), names(2));
    }
}
