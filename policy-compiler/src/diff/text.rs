//! A comparison in words.

use super::hosts::few;
use super::{Cause, Change, Diff, NameKind, Reach, Resolution, SettingChange, ShownRule, Verdict, Witness};
use policy_format::{Host, Protocol};
use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write};
use std::net::IpAddr;

/// Groups of requests that are shown unless all are asked for.
pub const MAX_SHOWN: usize = 50;

/// Changes of one kind that are shown one by one; more of them stand together.
const FEW: usize = 3;

impl Reach {
    /// The name that users read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
        }
    }
}

impl NameKind {
    /// What names of this kind are called.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ordinary => "names that both allow",
            Self::Localhost => "localhost and names below it",
            Self::Metadata => "names of cloud metadata services",
        }
    }
}

impl fmt::Display for ShownRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text, self.place)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other => f.write_str("settings, or rules that both policies have"),
            Self::Added(rule) => write!(f, "added: {rule}"),
            Self::Removed(rule) => write!(f, "removed: {rule}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Some(rule) => write!(f, "{}, {rule}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

impl fmt::Display for Witness {
    /// As `netpolicy explain` reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Http => write!(f, "{} http://", self.method.as_deref().unwrap_or("GET"))?,
            Protocol::Https => write!(f, "{} https://", self.method.as_deref().unwrap_or("GET"))?,
            Protocol::Connect => f.write_str("CONNECT ")?,
            Protocol::Socks5Tcp | Protocol::Socks5Udp => f.write_str("socks ")?,
        }
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port)?,
            host => write!(f, "{host}:{}", self.port)?,
        }
        f.write_str(self.path.as_deref().filter(|path| path.starts_with('/')).unwrap_or_default())?;
        self.address.map_or(Ok(()), |ip| write!(f, " --resolve {}={ip}", self.host))
    }
}

impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &str| if value.is_empty() { "(none)".to_owned() } else { value.to_owned() };
        write!(f, "{}: {} -> {} ({})", self.key, shown(&self.old), shown(&self.new), self.direction)
    }
}

impl Diff {
    /// The comparison as text: settings, then what opened and what closed, each with its cause and a request that shows it; of these, as many as `limit`.
    #[must_use]
    pub fn render(&self, limit: usize) -> String {
        let mut out = String::new();
        for (names, which) in [(&self.profiles.only_old, "old"), (&self.profiles.only_new, "new")] {
            if !names.is_empty() {
                let noun = if names.len() == 1 { "a profile" } else { "profiles" };
                line(&mut out, format_args!("only the {which} policy has {noun} {}, which this does not compare", few(names)));
            }
        }
        if !self.settings.is_empty() {
            out.push_str("settings:\n");
            for change in &self.settings {
                line(&mut out, format_args!("  {change}"));
            }
        }
        let mut left = limit;
        for reach in [Reach::Opened, Reach::Closed] {
            let changes: Vec<&Change> = self.changes.iter().filter(|change| change.reach == reach).collect();
            let resolutions: Vec<&Resolution> = self.resolutions.iter().filter(|change| change.reach == reach).collect();
            if changes.is_empty() && resolutions.is_empty() {
                continue;
            }
            let kinds: usize = changes.iter().map(|change| change.hosts.kinds).sum();
            let groups = changes.len() + resolutions.len();
            let hosts = if kinds > 0 { format!("{} of hosts, ", counted(kinds, "kind")) } else { String::new() };
            line(&mut out, format_args!("{}: {hosts}{} of requests", reach.as_str(), counted(groups, "group")));
            // Half of what may be shown is left for the other direction.
            let share = if reach == Reach::Opened { left.div_ceil(2).max(left.saturating_sub(self.count(Reach::Closed))) } else { left };
            let sign = if reach == Reach::Opened { '+' } else { '-' };
            let bundles = bundles(&changes);
            for bundle in bundles.iter().take(share) {
                show(&mut out, sign, bundle);
            }
            let rest = share.saturating_sub(bundles.len());
            for change in resolutions.iter().take(rest) {
                let verb = if reach == Reach::Opened { "may now lead to" } else { "may no longer lead to" };
                let (names, addresses) = (change.names.as_str(), shown_addresses(change));
                line(&mut out, format_args!("  {sign} {names} {verb} {addresses}: {}", few_surfaces(&change.surfaces)));
                details(&mut out, &change.cause, &change.witness);
            }
            left -= (bundles.len() + resolutions.len()).min(share);
            let hidden: Vec<&Change> = bundles.iter().skip(share).flatten().copied().collect();
            summarise(&mut out, &hidden, resolutions.len().saturating_sub(rest));
        }
        if self.blocked_otherwise > 0 {
            line(&mut out, format_args!("blocked for another reason than before: {} of hosts", counted(self.blocked_otherwise, "kind")));
        }
        if self.settings.is_empty() && self.changes.is_empty() && self.resolutions.is_empty() {
            line(&mut out, format_args!("no difference in what may be reached, nor in settings"));
        }
        out
    }

    fn count(&self, reach: Reach) -> usize {
        self.changes.iter().filter(|change| change.reach == reach).count()
            + self.resolutions.iter().filter(|change| change.reach == reach).count()
    }
}

fn line(out: &mut String, text: fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = out.write_fmt(text);
    out.push('\n');
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn few_surfaces(surfaces: &[super::Surface]) -> String {
    few(&surfaces.iter().map(ToString::to_string).collect::<Vec<_>>()).replace(", any port", "; any port")
}

fn shown_addresses(change: &Resolution) -> String {
    let except = if change.shown.except.is_empty() { String::new() } else { format!(" but not {}", few(&change.shown.except)) };
    format!("{}{except}", few(&change.shown.include))
}

/// The file of a rule, without the line.
fn file_of(rule: &ShownRule) -> &str {
    rule.place.rsplit_once(':').map_or(rule.place.as_str(), |(file, _)| file)
}

/// Changes that differ only in which rule of one file they come from stand together, such as those of a preset.
fn bundles<'c>(changes: &[&'c Change]) -> Vec<Vec<&'c Change>> {
    let mut bundles: Vec<Vec<&Change>> = Vec::new();
    let mut index: HashMap<(bool, &str, String), usize> = HashMap::new();
    for change in changes {
        let key = match &change.cause {
            Cause::Other => None,
            Cause::Added(rule) => Some((true, file_of(rule), few_surfaces(&change.surfaces))),
            Cause::Removed(rule) => Some((false, file_of(rule), few_surfaces(&change.surfaces))),
        };
        match key.map(|key| (index.get(&key).copied(), key)) {
            Some((Some(at), _)) => bundles.get_mut(at).into_iter().for_each(|bundle| bundle.push(change)),
            Some((None, key)) => {
                index.insert(key, bundles.len());
                bundles.push(vec![change]);
            }
            None => bundles.push(vec![change]),
        }
    }
    // Few of a kind are shown one by one, each with its witness.
    bundles
        .into_iter()
        .flat_map(|bundle| if bundle.len() > FEW { vec![bundle] } else { bundle.into_iter().map(|change| vec![change]).collect() })
        .collect()
}

fn show(out: &mut String, sign: char, bundle: &[&Change]) {
    let Some(first) = bundle.first() else { return };
    let surfaces = few_surfaces(&first.surfaces);
    if bundle.len() == 1 {
        line(out, format_args!("  {sign} {}: {surfaces}", first.hosts));
        return details(out, &first.cause, &first.witness);
    }
    let hosts: Vec<String> = bundle.iter().map(|change| change.hosts.to_string()).collect();
    line(out, format_args!("  {sign} {}: {surfaces}", few(&hosts)));
    let (verb, rule) = match &first.cause {
        Cause::Added(rule) => ("added in", file_of(rule)),
        Cause::Removed(rule) => ("removed from", file_of(rule)),
        Cause::Other => return,
    };
    line(out, format_args!("      by {} {verb} {rule}; the first of them:", counted(bundle.len(), "rule")));
    details(out, &first.cause, &first.witness);
}

fn details(out: &mut String, cause: &Cause, witness: &Witness) {
    line(out, format_args!("      by {cause}"));
    line(out, format_args!("      {witness}"));
    line(out, format_args!("        old: {}", witness.old));
    line(out, format_args!("        new: {}", witness.new));
}

/// What was left out, by the file that causes it.
fn summarise(out: &mut String, hidden: &[&Change], resolutions: usize) {
    if hidden.is_empty() && resolutions == 0 {
        return;
    }
    line(out, format_args!("  … and {} more (see `--all` or `--json`)", counted(hidden.len() + resolutions, "group")));
    let mut by_place: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for change in hidden {
        let cause = match &change.cause {
            Cause::Other => "by settings".to_owned(),
            Cause::Added(rule) => format!("by rules added in {}", file_of(rule)),
            Cause::Removed(rule) => format!("by rules removed from {}", file_of(rule)),
        };
        let entry = by_place.entry(cause).or_default();
        entry.0 += 1;
        entry.1 += change.hosts.kinds;
    }
    for (cause, (groups, kinds)) in by_place {
        line(out, format_args!("      {} of hosts in {} {cause}", counted(kinds, "kind"), counted(groups, "group")));
    }
}
