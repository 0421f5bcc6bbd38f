//! Whether a wildcard reaches names of different owners, by the Public Suffix List (<https://publicsuffix.org>).
//!
//! Below a public suffix (`com`, `co.uk`, `github.io`) anyone may have a name, so `*.github.io` is as wide as an open door. The list is a data file that is sorted
//! by reversed labels: a suffix and everything below it is one run of lines, found by binary search in the text itself, with nothing
//! read or built beforehand.

use policy_format::Hosts;
use policy_format::glob::FixedEnd;
use std::cmp::Ordering;
use std::fmt;

const TEXT: &str = include_str!("../data/public_suffix_list.txt");

/// What a wildcard reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicSuffix {
    /// The part that the wildcard stands before, such as `co.uk`; empty for [`Width::NoSuffix`].
    pub base: String,
    /// In which way it is wide.
    pub width: Width,
}

/// In which way a wildcard is wide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Width {
    /// The base is a public suffix: every name directly below it may have another owner.
    IsSuffix {
        /// Whether a registry runs it (`com`, `co.uk`), not a company that gives names to its customers (`github.io`).
        icann: bool,
    },
    /// The base has one owner, but public suffixes lie below it: `*.amazonaws.com` reaches every customer's `NAME.s3.amazonaws.com`.
    AboveSuffixes {
        /// The shortest of them, as the list has it.
        example: String,
        /// How many there are.
        count: usize,
    },
    /// A glob fixes no domain at all: `example.*`.
    NoSuffix,
}

/// Whether a pattern reaches names of different owners, and how. `None` for one that does not, for names and networks, for `*`
/// (which says so itself), and for top-level names that the list does not have, such as those of a private network.
#[must_use]
pub fn wider_than_public_suffix(hosts: &Hosts) -> Option<PublicSuffix> {
    match hosts {
        Hosts::Subdomains(base) | Hosts::ApexAndSubdomains(base) => {
            let base = base.as_str();
            wide(base, &format!(".{base}"), true)
        }
        Hosts::Glob(glob) => glob.fixed_ends().find_map(wide_end),
        Hosts::Any | Hosts::Exact(_) | Hosts::Network(_) => None,
    }
}

/// The day of the list, year-month-day.
#[must_use]
pub fn list_date() -> &'static str {
    TEXT.lines().find_map(|line| line.strip_prefix("// list of ")).unwrap_or_default()
}

/// Wildcards cross dots, so all that is certain is what follows the first dot after the last of them.
fn wide_end(end: FixedEnd<'_>) -> Option<PublicSuffix> {
    if !end.wildcard {
        return None;
    }
    match end.text.split_once('.') {
        Some((_, base)) => wide(base, end.text, end.run),
        None => Some(PublicSuffix { base: String::new(), width: Width::NoSuffix }),
    }
}

/// `end` is what every match ends in; `run` whether whole labels may stand before it.
fn wide(base: &str, end: &str, run: bool) -> Option<PublicSuffix> {
    let found = |width| Some(PublicSuffix { base: base.to_owned(), width });
    if let Some(icann) = suffix(base) {
        return found(Width::IsSuffix { icann });
    }
    if !run {
        return None;
    }
    let suffixes = || below(base).filter(|rule| rule.name == base || rule.name.ends_with(end));
    let example = suffixes().min_by_key(|rule| rule.name.len())?;
    found(Width::AboveSuffixes { example: example.to_string(), count: suffixes().count() })
}

/// Whether `name` is a public suffix, and if so, whether a registry runs it.
fn suffix(name: &str) -> Option<bool> {
    let rules = || rules_from(name).take_while(|rule| rule.name == name);
    if rules().any(|rule| rule.kind == Kind::Exception) {
        return None;
    }
    let parent = name.split_once('.').map(|(_, parent)| parent);
    // `*.ck` alone makes `ck` one as well: a top-level name is a suffix, whatever is said of the names below it.
    let own = rules().find(|rule| rule.kind == Kind::Name || parent.is_none());
    let by_parent = || rules_from(parent?).take_while(|rule| Some(rule.name) == parent).find(|rule| rule.kind == Kind::Below);
    own.or_else(by_parent).map(|rule| rule.icann)
}

/// The rules that make suffixes of names below `base`.
fn below(base: &str) -> impl Iterator<Item = Rule> {
    let is_below = move |name: &str| name.strip_suffix(base).is_some_and(|rest| rest.ends_with('.'));
    rules_from(base)
        .take_while(move |rule| rule.name == base || is_below(rule.name))
        .filter(move |rule| rule.kind == Kind::Below || (rule.kind == Kind::Name && rule.name != base))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `co.uk`: that name.
    Name,
    /// `*.ck`: every name directly below.
    Below,
    /// `!www.ck`: not that one.
    Exception,
}

/// A line of the list.
#[derive(Debug, Clone, Copy)]
struct Rule {
    /// The line without its marks.
    name: &'static str,
    kind: Kind,
    icann: bool,
}

impl Rule {
    fn parse(line: &'static str) -> Self {
        let (rest, icann) = line.strip_suffix(" private").map_or((line, true), |rest| (rest, false));
        let (name, kind) = match (rest.strip_prefix("*."), rest.strip_prefix('!')) {
            (Some(name), _) => (name, Kind::Below),
            (None, Some(name)) => (name, Kind::Exception),
            (None, None) => (rest, Kind::Name),
        };
        Self { name, kind, icann }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.kind {
            Kind::Name => "",
            Kind::Below => "*.",
            Kind::Exception => "!",
        };
        write!(f, "{mark}{}", self.name)
    }
}

/// The rules of the list, without its head.
fn body() -> &'static str {
    TEXT.split_once("\n\n").map_or("", |(_, body)| body)
}

/// The order of the list: by labels from the right, so that a name stands before all that lies below it.
fn by_labels(a: &str, b: &str) -> Ordering {
    a.rsplit('.').cmp(b.rsplit('.'))
}

/// The rules from `name` on: a binary search over the lines of the text.
fn rules_from(name: &str) -> impl Iterator<Item = Rule> {
    let body = body();
    let (mut low, mut high) = (0, body.len());
    // `low` and `high` are starts of lines; the line that is sought starts in between.
    while low < high {
        let middle = low + (high - low) / 2;
        let start = memchr::memrchr(b'\n', body.as_bytes().get(low..middle).unwrap_or_default()).map_or(low, |at| low + at + 1);
        let line = body.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        if by_labels(Rule::parse(line).name, name) == Ordering::Less {
            low = start + line.len() + 1;
        } else {
            high = start;
        }
    }
    body.get(low..).unwrap_or_default().lines().map(Rule::parse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_format::{Host, Pattern};

    fn shown(pattern: &str) -> String {
        match wider_than_public_suffix(&Pattern::parse(pattern).unwrap().hosts) {
            None => "no".to_owned(),
            Some(PublicSuffix { base, width: Width::IsSuffix { icann } }) => format!("is {base}{}", if icann { "" } else { " private" }),
            Some(PublicSuffix { base, width: Width::AboveSuffixes { example, count } }) => {
                format!("above {base} {example}{}", if count > 1 { " and more" } else { "" })
            }
            Some(PublicSuffix { width: Width::NoSuffix, .. }) => "all".to_owned(),
        }
    }

    #[test]
    fn tells_one_owner_from_many() {
        let cases = [
            ("*.com", "is com"),
            ("**.com", "is com"),
            ("**.co.uk", "is co.uk"),
            ("*.uk", "is uk"),
            ("*.github.io", "is github.io private"),
            ("*.githubusercontent.com", "is githubusercontent.com private"),
            ("**.s3.amazonaws.com", "is s3.amazonaws.com private"),
            ("*.cloudfront.net", "is cloudfront.net private"),
            // Rules with a wildcard and their exceptions.
            ("*.ck", "is ck"),
            ("*.example.ck", "is example.ck"),
            ("*.www.ck", "no"),
            ("*.kawasaki.jp", "above kawasaki.jp *.kawasaki.jp"),
            ("*.some.kawasaki.jp", "is some.kawasaki.jp"),
            ("*.city.kawasaki.jp", "no"),
            ("*.рф", "is xn--p1ai"),
            // One owner, whose customers have names below.
            ("*.amazonaws.com", "above amazonaws.com s3.amazonaws.com and more"),
            ("*.compute.amazonaws.com", "above compute.amazonaws.com *.compute.amazonaws.com"),
            ("*.fedoraproject.org", "above fedoraproject.org cloud.fedoraproject.org and more"),
            // One owner.
            ("*.google.com", "no"),
            ("*.github.com", "no"),
            ("*.microsoft.com", "no"),
            ("*.openai.com", "no"),
            ("**.debian.org", "no"),
            ("**.npmjs.org", "no"),
            ("*.example.com", "no"),
            ("*.bucket.s3.amazonaws.com", "no"),
            // Not on the list, or not a wildcard.
            ("*.internal", "no"),
            ("*.corp.test", "no"),
            ("com", "no"),
            ("github.io", "no"),
            ("*", "no"),
            ("10.0.0.0/8", "no"),
            // Globs: what follows the first dot after the last wildcard is certain.
            ("a*.com", "is com"),
            ("*.a?b.com", "is com"),
            ("exampl[ea].com", "is com"),
            ("*.*.github.io", "is github.io private"),
            ("team-*.s3.amazonaws.com", "is s3.amazonaws.com private"),
            ("a*.amazonaws.com", "above amazonaws.com s3.amazonaws.com and more"),
            ("a?.amazonaws.com", "no"),
            ("{a,b}.com", "no"),
            ("*.{a,b}.com", "no"),
            ("*.{a.com,co.uk}", "is co.uk"),
            ("region*.cdn.example.com", "no"),
            ("a*.corp.test", "no"),
            ("example.*", "all"),
            ("example.c?m", "all"),
        ];
        for (pattern, expected) in cases {
            assert_eq!(shown(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn every_rule_is_found() {
        for line in body().lines() {
            let rule = Rule::parse(line);
            assert!(
                rules_from(rule.name).take_while(|found| found.name == rule.name).any(|found| found.to_string() == rule.to_string()),
                "{line}"
            );
        }
    }

    /// `PUBLIC_SUFFIX_LIST=FILE` makes the data file anew from a `public_suffix_list.dat`, of the day that `PUBLIC_SUFFIX_DATE` says.
    #[test]
    fn the_list_is_sorted_normalised_and_dated() {
        if let Some(file) = std::env::var_os("PUBLIC_SUFFIX_LIST") {
            let date = std::env::var("PUBLIC_SUFFIX_DATE").unwrap();
            let made = made_from(&std::fs::read_to_string(file).unwrap(), &date);
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/data/public_suffix_list.txt"), &made).unwrap();
            return;
        }
        let names: Vec<&str> = body().lines().map(|line| Rule::parse(line).name).collect();
        assert!(names.len() > 9_000 && names.is_sorted_by(|a, b| by_labels(a, b) != Ordering::Greater));
        for name in names {
            assert_eq!(Host::parse(name).unwrap().name().unwrap().as_str(), name);
        }
        assert_eq!(list_date().split('-').map(str::len).collect::<Vec<_>>(), [4, 2, 2]);
        assert!(TEXT.contains("Mozilla Public"), "the licence goes with the list");
    }

    fn made_from(list: &str, date: &str) -> String {
        let mut private = false;
        let mut lines = Vec::new();
        for line in list.lines().map(str::trim) {
            private |= line.contains("BEGIN PRIVATE DOMAINS");
            if line.is_empty() || line.starts_with("//") {
                continue;
            }
            let (mark, name) = line.split_at(line.len() - line.trim_start_matches(['!', '*']).trim_start_matches('.').len());
            let name = Host::parse(name).unwrap().name().unwrap().as_str().to_owned();
            lines.push((name.clone(), format!("{mark}{name}{}", if private { " private" } else { "" })));
        }
        lines.sort_by(|a, b| by_labels(&a.0, &b.0).then_with(|| a.1.cmp(&b.1)));
        let head = "\
            // This Source Code Form is subject to the terms of the Mozilla Public\n\
            // License, v. 2.0. If a copy of the MPL was not distributed with this\n\
            // file, You can obtain one at https://mozilla.org/MPL/2.0/.\n\
            // The rules of the Public Suffix List (https://publicsuffix.org/list/), as A-labels, sorted by labels from the right,\n\
            // `private` after those of its private section. Made by the tests of `suffix.rs`, from the\n";
        format!("{head}// list of {date}\n\n{}\n", lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("\n"))
    }
}
