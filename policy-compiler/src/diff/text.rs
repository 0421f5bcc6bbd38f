//! A comparison in words.

use super::hosts::few;
use super::{Cause, Change, Diff, NameKind, Reach, Resolution, SettingChange, ShownRule, Verdict, Witness};
use policy_format::{Host, Protocol};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::IpAddr;

/// Groups of requests that are shown unless all are asked for.
pub const MAX_SHOWN: usize = 50;

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
            for change in changes.iter().take(share) {
                line(&mut out, format_args!("  {sign} {}: {}", change.hosts, few_surfaces(&change.surfaces)));
                details(&mut out, &change.cause, &change.witness);
            }
            let rest = share.saturating_sub(changes.len());
            for change in resolutions.iter().take(rest) {
                let verb = if reach == Reach::Opened { "may now lead to" } else { "may no longer lead to" };
                let (names, addresses) = (change.names.as_str(), shown_addresses(change));
                line(&mut out, format_args!("  {sign} {names} {verb} {addresses}: {}", few_surfaces(&change.surfaces)));
                details(&mut out, &change.cause, &change.witness);
            }
            left -= groups.min(share);
            summarise(&mut out, &changes, share, resolutions.len().saturating_sub(rest));
        }
        if self.blocked_otherwise > 0 {
            line(&mut out, format_args!("blocked for another reason than before: {} of hosts", counted(self.blocked_otherwise, "kind")));
        }
        if self.is_empty() {
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

fn details(out: &mut String, cause: &Cause, witness: &Witness) {
    line(out, format_args!("      by {cause}"));
    line(out, format_args!("      {witness}"));
    line(out, format_args!("        old: {}", witness.old));
    line(out, format_args!("        new: {}", witness.new));
}

/// What was left out, by the file that causes it.
fn summarise(out: &mut String, changes: &[&Change], shown: usize, resolutions: usize) {
    let hidden = changes.get(shown..).unwrap_or_default();
    if hidden.is_empty() && resolutions == 0 {
        return;
    }
    line(out, format_args!("  … and {} more (see `--all` or `--json`)", counted(hidden.len() + resolutions, "group")));
    let mut by_place: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for change in hidden {
        let place = |rule: &ShownRule| rule.place.rsplit_once(':').map_or(rule.place.clone(), |(file, _)| file.to_owned());
        let cause = match &change.cause {
            Cause::Other => "by settings".to_owned(),
            Cause::Added(rule) => format!("by rules added in {}", place(rule)),
            Cause::Removed(rule) => format!("by rules removed from {}", place(rule)),
        };
        let entry = by_place.entry(cause).or_default();
        entry.0 += 1;
        entry.1 += change.hosts.kinds;
    }
    for (cause, (groups, kinds)) in by_place {
        line(out, format_args!("      {} of hosts in {} {cause}", counted(kinds, "kind"), counted(groups, "group")));
    }
}
