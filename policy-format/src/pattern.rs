//! `Pattern`: what may stand before the `=` of a rule, and why something may not.
//!
//! | pattern | matches |
//! | --- | --- |
//! | `example.com` | that host only |
//! | `*.example.com` | subdomains at any depth, not the apex |
//! | `**.example.com` | the apex and subdomains at any depth |
//! | `region*.example.com`, `a?b.example.com`, `[ab].example.com`, `{a,b}.example.com` | globs, see [`crate::glob`] |
//! | `*` | every host |
//! | `192.0.2.7`, `[2001:db8::1]`, `10.0.0.0/8` | that address or network |
//!
//! Each may end in `:port`.

use crate::glob::{self, Glob};
use crate::host::{Host, HostError, MAX_NAME, Name, to_ascii};
use crate::net::{self, Network};
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

/// A checked, normalised pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Which hosts.
    pub hosts: Hosts,
    /// Only this port, if given.
    pub port: Option<u16>,
}

/// Which hosts a pattern matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hosts {
    /// `*`.
    Any,
    /// That name only.
    Exact(Name),
    /// Names below it, at any depth.
    Subdomains(Name),
    /// The name and names below it.
    ApexAndSubdomains(Name),
    /// Globs inside labels.
    Glob(Glob),
    /// An address or a network.
    Network(Network),
}

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternError {
    /// What is wrong.
    pub kind: PatternErrorKind,
    /// Which bytes of the pattern.
    pub span: Range<usize>,
    /// A pattern that would be accepted and may be what was meant.
    pub suggestion: Option<String>,
}

/// What is wrong with a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternErrorKind {
    /// Nothing there.
    #[error("a pattern cannot be empty")]
    Empty,
    /// `https://…`.
    #[error("a pattern is a host, without a scheme")]
    Scheme,
    /// `user@…`.
    #[error("a pattern is a host, without user information")]
    UserInfo,
    /// `/path`.
    #[error("a pattern is a host, without a path")]
    Path,
    /// Not 1 to 65535.
    #[error("a port is a number from 1 to 65535")]
    Port,
    /// `**`, `*.*`, `?*` and the like.
    #[error("this matches every host; only `*` may say so")]
    Everything,
    /// `*.`, `[a`, `{a`, `\`.
    #[error("this glob is unfinished")]
    Unfinished,
    /// `10.0.*`.
    #[error("an address cannot have wildcards")]
    WildcardInAddress,
    /// `10.0.0.1/8`.
    #[error("the address has bits set beyond the prefix")]
    HostBits,
    /// `/33`, `/x`.
    #[error("the prefix length is not a number from 0 to 32 (IPv4) or 128 (IPv6)")]
    Prefix,
    /// `127.1`.
    #[error("this is a number to some programs and an address to others; no host has such a name")]
    NumericLookalike,
    /// The glob would grow too much.
    #[error("this glob has too many alternatives")]
    TooManyAlternatives,
    /// Wildcards in a label that is not ASCII.
    #[error("a label with wildcards must be ASCII")]
    NonAsciiGlob,
    /// The host itself.
    #[error("{0}")]
    Host(HostError),
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)
    }
}

impl std::error::Error for PatternError {}

impl Pattern {
    /// Parses and normalises.
    ///
    /// # Errors
    /// [`PatternError`] with the bytes that are wrong and, where it can be guessed, what was meant.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let start = text.len() - text.trim_start().len();
        let body = text.trim();
        let error = |kind, span: Range<usize>| PatternError { kind, span: start + span.start..start + span.end, suggestion: None };
        if body.is_empty() {
            return Err(PatternError { span: 0..text.len(), ..error(PatternErrorKind::Empty, 0..0) });
        }
        refuse_urls(body).map_err(|(kind, span, suggestion)| PatternError { suggestion, ..error(kind, span) })?;
        let (host, port) = split_port(body).map_err(|span| error(PatternErrorKind::Port, span))?;
        let hosts = parse_hosts(host).map_err(|(kind, suggestion)| PatternError { suggestion, ..error(kind, 0..host.len()) })?;
        Ok(Self { hosts, port })
    }
}

impl Pattern {
    /// Whether this pattern is known to match all that `other` does, ports included ([`Hosts::within`]).
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        (self.port.is_none() || self.port == other.port) && other.hosts.within(&self.hosts)
    }

    /// Whether the two match a host and a port in common, or might ([`Hosts::meets`]).
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        (self.port.is_none() || other.port.is_none() || self.port == other.port) && self.hosts.meets(&other.hosts)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.hosts, self.port) {
            (Hosts::Network(net), Some(_)) if net.addr().is_ipv6() => write!(f, "[{net}]")?,
            (hosts, _) => write!(f, "{hosts}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Hosts {
    /// Whether an allow of these hosts covers `host`, as [`decide`](crate::decide()) sees it: a name or an address literal that is in them, in the very form that
    /// is used. No pattern covers a name that looks like a number.
    #[must_use]
    pub fn matches(&self, host: &Host) -> bool {
        match (self, host) {
            (_, Host::NumericLookalike(_)) => false,
            (Self::Any, Host::Name(_) | Host::Ip(_)) => true,
            (Self::Network(network), Host::Ip(ip)) => network.contains(*ip),
            (Self::Exact(base), Host::Name(name)) => name == base,
            (Self::Subdomains(base), Host::Name(name)) => is_below(name, base),
            (Self::ApexAndSubdomains(base), Host::Name(name)) => name == base || is_below(name, base),
            (Self::Glob(glob), Host::Name(name)) => glob.matches(name.as_str()),
            (Self::Network(_), Host::Name(_)) => false,
            (Self::Exact(_) | Self::Subdomains(_) | Self::ApexAndSubdomains(_) | Self::Glob(_), Host::Ip(_)) => false,
        }
    }

    /// Whether a deny of these hosts covers `host`: what [`matches`](Self::matches) says, and IPv6 addresses that carry an IPv4 address
    /// of a network ([`net::embedded_ipv4`]).
    #[must_use]
    pub fn denies(&self, host: &Host) -> bool {
        let carried = match (self, host) {
            (Self::Network(network), Host::Ip(IpAddr::V6(ip))) => {
                net::embedded_ipv4(*ip).into_iter().flatten().any(|v4| network.contains(IpAddr::V4(v4)))
            }
            _ => false,
        };
        carried || self.matches(host)
    }

    /// Whether two sets have a host in common. A glob is taken to meet every name: where it is not simple to tell, the answer is yes. No network meets a name.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Network(a), Self::Network(b)) => a.contains(b.addr()) || b.contains(a.addr()),
            (Self::Network(_), hosts) | (hosts, Self::Network(_)) => *hosts == Self::Any,
            (Self::Glob(glob), Self::Exact(name)) | (Self::Exact(name), Self::Glob(glob)) => glob.matches(name.as_str()),
            (Self::Any | Self::Glob(_), _) | (_, Self::Any | Self::Glob(_)) => true,
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Exact(name), Self::Subdomains(base)) | (Self::Subdomains(base), Self::Exact(name)) => is_below(name, base),
            (Self::Exact(name), Self::ApexAndSubdomains(base)) | (Self::ApexAndSubdomains(base), Self::Exact(name)) => {
                name == base || is_below(name, base)
            }
            (Self::Subdomains(a) | Self::ApexAndSubdomains(a), Self::Subdomains(b) | Self::ApexAndSubdomains(b)) => {
                a == b || is_below(a, b) || is_below(b, a)
            }
        }
    }

    /// Whether every host of this set is known to be in the other. Of globs, only the same one and plain names are compared: where it is not simple to tell, the
    /// answer is no.
    #[must_use]
    pub fn within(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Any) => true,
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Exact(a) | Self::ApexAndSubdomains(a), Self::Subdomains(b)) => is_below(a, b),
            (Self::Subdomains(a), Self::Subdomains(b))
            | (Self::Exact(a) | Self::Subdomains(a) | Self::ApexAndSubdomains(a), Self::ApexAndSubdomains(b)) => a == b || is_below(a, b),
            (Self::Exact(name), Self::Glob(glob)) => glob.matches(name.as_str()),
            (Self::Glob(a), Self::Glob(b)) => a == b,
            (Self::Network(a), Self::Network(b)) => a.prefix() >= b.prefix() && b.contains(a.addr()),
            _ => false,
        }
    }
}

fn is_below(name: &Name, base: &Name) -> bool {
    name.as_bytes().strip_suffix(base.as_bytes()).is_some_and(|rest| rest.ends_with(b"."))
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name.as_str()),
            Self::Subdomains(name) => write!(f, "*.{}", name.as_str()),
            Self::ApexAndSubdomains(name) => write!(f, "**.{}", name.as_str()),
            Self::Glob(glob) => f.write_str(glob.text()),
            Self::Network(net) => write!(f, "{net}"),
        }
    }
}

type UrlError = (PatternErrorKind, Range<usize>, Option<String>);

/// Schemes, user information and paths, with the host they surround as suggestion.
fn refuse_urls(body: &str) -> Result<(), UrlError> {
    if let Some(at) = body.find("://") {
        let rest = body.get(at + 3..).unwrap_or_default();
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        return Err((PatternErrorKind::Scheme, 0..at + 3, suggest(host)));
    }
    if let Some(at) = body.find('@') {
        return Err((PatternErrorKind::UserInfo, 0..at + 1, suggest(body.get(at + 1..).unwrap_or_default())));
    }
    if let Some(at) = body.find('/') {
        let before = body.get(..at).unwrap_or_default();
        let is_address = before.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        let looks_like_one = before.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'*' | b'?')) && !before.is_empty();
        if !is_address && !looks_like_one {
            return Err((PatternErrorKind::Path, at..body.len(), suggest(before)));
        }
    }
    Ok(())
}

fn suggest(text: &str) -> Option<String> {
    Pattern::parse(text).ok().map(|pattern| pattern.to_string())
}

/// Splits `:port` off. A bare IPv6 address has more than one colon and no port.
fn split_port(body: &str) -> Result<(&str, Option<u16>), Range<usize>> {
    let colon = match body.rfind(']') {
        // After the bracket of an IPv6 address, or anywhere after that of a class.
        Some(bracket) => body.get(bracket + 1..).and_then(|rest| Some(bracket + 1 + rest.find(':')?)),
        None if body.matches(':').count() == 1 => body.find(':'),
        None => None,
    };
    let Some(colon) = colon else { return Ok((body, None)) };
    let (host, digits) = (body.get(..colon).unwrap_or_default(), body.get(colon + 1..).unwrap_or_default());
    let port = parse_port(digits).ok_or(colon + 1..body.len())?;
    Ok((host, Some(port)))
}

/// A decimal port from 1 to 65535, digits only.
#[must_use]
pub fn parse_port(digits: &str) -> Option<u16> {
    let plain = !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|port| plain && *port != 0)
}

type HostsError = (PatternErrorKind, Option<String>);

fn parse_hosts(host: &str) -> Result<Hosts, HostsError> {
    if host == "*" {
        return Ok(Hosts::Any);
    }
    // `[2001:db8::/32]` is how a network is shown before a port.
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|inner| inner.contains(':'));
    if let Some((addr, prefix)) = bracketed.unwrap_or(host).split_once('/') {
        return parse_network(addr, prefix);
    }
    let (wrap, rest): (fn(Name) -> Hosts, &str) = if let Some(rest) = host.strip_prefix("**.") {
        (Hosts::ApexAndSubdomains, rest)
    } else if let Some(rest) = host.strip_prefix("*.") {
        (Hosts::Subdomains, rest)
    } else {
        (Hosts::Exact, host)
    };
    let wildcard = rest.len() != host.len();
    if wildcard && rest.is_empty() {
        return Err((PatternErrorKind::Unfinished, None));
    }
    // Brackets are IPv6 before they are a class; a class stands in a name with other characters around it.
    if glob::has_wildcards(rest) && !(rest.starts_with('[') && rest.contains(':')) {
        return parse_glob(host, rest);
    }
    match Host::parse(rest) {
        Ok(Host::Name(name)) => Ok(wrap(name)),
        Ok(Host::Ip(_)) if wildcard => Err((PatternErrorKind::WildcardInAddress, None)),
        Ok(Host::Ip(ip)) => Ok(Hosts::Network(Network::single(ip))),
        Ok(Host::NumericLookalike(_)) => Err((PatternErrorKind::NumericLookalike, None)),
        Err(error) => Err((PatternErrorKind::Host(error), None)),
    }
}

fn parse_network(addr: &str, prefix: &str) -> Result<Hosts, HostsError> {
    if glob::has_wildcards(addr) && !addr.starts_with('[') {
        return Err((PatternErrorKind::WildcardInAddress, None));
    }
    let Ok(Host::Ip(addr)) = Host::parse(addr) else { return Err((PatternErrorKind::Host(HostError::Ipv6), None)) };
    let digits = !prefix.is_empty() && prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
    let bits: u8 = prefix.parse().ok().filter(|_| digits).ok_or((PatternErrorKind::Prefix, None))?;
    let network = Network::new(addr, bits).ok_or((PatternErrorKind::Prefix, None))?;
    if network.addr() != addr {
        return Err((PatternErrorKind::HostBits, Some(network.to_string())));
    }
    Ok(Hosts::Network(network))
}

fn parse_glob(host: &str, rest: &str) -> Result<Hosts, HostsError> {
    let lower = glob_to_ascii(host)?;
    let rest = lower.get(lower.len() - glob_to_ascii(rest)?.len()..).unwrap_or_default().to_owned();
    // No host has an empty label: such a rule would never match, and a deny that never matches is worse than an error.
    if lower.split('.').any(str::is_empty) {
        return Err((PatternErrorKind::Host(HostError::EmptyLabel), None));
    }
    let literal = |c: char| !matches!(c, '*' | '?' | '.' | '[' | ']' | '!' | '^' | '-' | '{' | '}' | ',' | '\\' | ':' | '%');
    if !rest.contains(literal) {
        return Err((PatternErrorKind::Everything, Some("*".into())));
    }
    if rest.chars().filter(|c| literal(*c)).all(|c| c.is_ascii_digit()) || rest.contains(':') {
        return Err((PatternErrorKind::WildcardInAddress, None));
    }
    if rest.len() > 2 * MAX_NAME {
        return Err((PatternErrorKind::Host(HostError::NameTooLong), None));
    }
    Glob::parse(&lower).map(Hosts::Glob).map_err(|kind| (kind, (kind == PatternErrorKind::Everything).then(|| "*".into())))
}

/// Lower case, one trailing dot stripped, labels without wildcards as A-labels.
fn glob_to_ascii(text: &str) -> Result<String, HostsError> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let labels = text.split('.').map(|label| {
        if label.is_ascii() {
            return Ok(label.to_ascii_lowercase());
        }
        if glob::has_wildcards(label) {
            return Err((PatternErrorKind::NonAsciiGlob, None));
        }
        to_ascii(label).map(|ascii| ascii.to_ascii_lowercase()).map_err(|error| (PatternErrorKind::Host(error), None))
    });
    Ok(labels.collect::<Result<Vec<_>, _>>()?.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match Pattern::parse(text) {
            Ok(pattern) => {
                let kind = match pattern.hosts {
                    Hosts::Any => "any",
                    Hosts::Exact(_) => "exact",
                    Hosts::Subdomains(_) => "sub",
                    Hosts::ApexAndSubdomains(_) => "apex+sub",
                    Hosts::Glob(_) => "glob",
                    Hosts::Network(_) => "net",
                };
                format!("{kind} {pattern}")
            }
            Err(PatternError { kind, span, suggestion }) => {
                format!("{kind:?} {span:?}{}", suggestion.map(|s| format!(" try {s}")).unwrap_or_default())
            }
        }
    }

    #[test]
    fn accepts_and_normalises() {
        let cases = [
            ("Example.COM.", "exact example.com"),
            (" *.Bücher.example ", "sub *.xn--bcher-kva.example"),
            ("**.example.com:8443", "apex+sub **.example.com:8443"),
            ("*", "any *"),
            ("*:443", "any *:443"),
            ("Region*.CDN.test", "glob region*.cdn.test"),
            ("*.a?b.test", "glob *.a?b.test"),
            ("*.com", "sub *.com"),
            ("localhost:3000", "exact localhost:3000"),
            ("127.0.0.1:5432", "net 127.0.0.1:5432"),
            ("10.0.0.0/8", "net 10.0.0.0/8"),
            ("[2001:DB8::1]", "net 2001:db8::1"),
            ("[2001:db8::1]:443", "net [2001:db8::1]:443"),
            ("2001:db8::/32", "net 2001:db8::/32"),
            ("[2001:db8::/32]:443", "net [2001:db8::/32]:443"),
            ("0.0.0.0/0", "net 0.0.0.0/0"),
            ("{a,b}.example.com", "glob {a,b}.example.com"),
            ("[ab].example.com", "glob [ab].example.com"),
            ("x[ab].example.com:8443", "glob x[ab].example.com:8443"),
            ("x.[a-c]:443", "glob x.[a-c]:443"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_pattern_shown_is_the_same_pattern() {
        for text in
            ["*", "*:1", "a.b", "*.a.b:80", "**.a.b", "x*.a", "10.0.0.0/8", "10.0.0.1:53", "[::1]:53", "::1", "2001:db8::/32", "[ab]x.a:80"]
        {
            let pattern = Pattern::parse(text).unwrap();
            assert_eq!(Pattern::parse(&pattern.to_string()).unwrap(), pattern, "{text}");
        }
    }

    #[test]
    fn sets_of_hosts_meet_and_lie_within() {
        let hosts = |text: &str| Pattern::parse(text).unwrap().hosts;
        // Whether they meet, and whether the first lies within the second and the other way round.
        for (a, b, meet, within, around) in [
            ("*", "a.test", true, false, true),
            ("*", "10.0.0.0/8", true, false, true),
            ("a.test", "a.test", true, true, true),
            ("a.test", "b.test", false, false, false),
            ("a.test", "*.a.test", false, false, false),
            ("a.test", "**.a.test", true, true, false),
            ("b.a.test", "*.a.test", true, true, false),
            ("ba.test", "**.a.test", false, false, false),
            ("*.a.test", "**.a.test", true, true, false),
            ("*.b.a.test", "*.a.test", true, true, false),
            ("**.b.a.test", "*.a.test", true, true, false),
            ("**.a.test", "*.b.a.test", true, false, true),
            ("*.a.test", "*.b.test", false, false, false),
            ("x*.a.test", "xy.a.test", true, false, true),
            ("x*.a.test", "y.a.test", false, false, false),
            ("x*.a.test", "*.a.test", true, false, false),
            ("x*.a.test", "x*.a.test", true, true, true),
            ("x*.a.test", "10.0.0.0/8", false, false, false),
            ("10.1.0.0/16", "10.0.0.0/8", true, true, false),
            ("10.0.0.0/8", "11.0.0.0/8", false, false, false),
            ("10.0.0.0/8", "a.test", false, false, false),
        ] {
            let (a, b) = (hosts(a), hosts(b));
            assert_eq!((a.meets(&b), b.meets(&a)), (meet, meet), "{a} {b}");
            assert_eq!((a.within(&b), b.within(&a)), (within, around), "{a} {b}");
        }
    }

    #[test]
    fn refuses_with_the_place_and_what_was_meant() {
        let long = format!("{}.test", "a".repeat(64));
        let cases = [
            ("", "Empty 0..0"),
            ("  ", "Empty 0..2"),
            ("**", "Everything 0..2 try *"),
            ("*.*", "Everything 0..3 try *"),
            ("?*", "Everything 0..2 try *"),
            ("**.**", "Everything 0..5 try *"),
            ("[a-z]*", "Everything 0..6 try *"),
            ("{*,a}", "Everything 0..5 try *"),
            ("*.", "Unfinished 0..2"),
            ("a[b.test", "Unfinished 0..8"),
            ("a{b.test", "Unfinished 0..8"),
            ("a*.test\\", "Unfinished 0..8"),
            ("10.0.*", "WildcardInAddress 0..6"),
            ("*.10.0.0.1", "WildcardInAddress 0..10"),
            ("10.0.0.?", "WildcardInAddress 0..8"),
            ("10.*.0.0/8", "WildcardInAddress 0..10"),
            ("10.0.0.1/8", "HostBits 0..10 try 10.0.0.0/8"),
            ("10.0.0.0/33", "Prefix 0..11"),
            ("10.0.0.0/", "Prefix 0..9"),
            ("127.1", "NumericLookalike 0..5"),
            ("example.com:0", "Port 12..13"),
            ("example.com:70000", "Port 12..17"),
            ("example.com:", "Port 12..12"),
            ("example.com:+80", "Port 12..15"),
            ("https://example.com/x", "Scheme 0..8 try example.com"),
            ("https://u:p@example.com:444/x", "Scheme 0..8 try example.com:444"),
            ("u@example.com", "UserInfo 0..2 try example.com"),
            ("example.com/v1", "Path 11..14 try example.com"),
            ("a\tb.test", "Host(Character('\\t')) 0..8"),
            ("exa mple.com", "Host(Character(' ')) 0..12"),
            ("a..b", "Host(EmptyLabel) 0..4"),
            ("a*..", "Host(EmptyLabel) 0..4"),
            ("x*..test", "Host(EmptyLabel) 0..8"),
            ("1::/16]:443", "Prefix 0..7"),
            (long.as_str(), "Host(LabelTooLong) 0..69"),
            ("x*.bü?.test", "NonAsciiGlob 0..12"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }
}
