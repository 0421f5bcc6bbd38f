//! What the lines of each format say.

use super::{ListFormat, MAX_LINE};
use policy_format::net::Network;
use policy_format::{Host, HostError, HostRef, Hosts, HostsRef, MAX_NAME, Name, Pattern, PatternErrorKind, RuleKind};
use std::net::IpAddr;

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineKind {
    /// It gave entries.
    Entries,
    /// Blank, or a comment.
    Skipped,
    /// A rule of the format that says nothing about whole hosts.
    Ignored,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// Over [`MAX_LINE`] bytes.
    #[error("the line is longer than {MAX_LINE} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("the line is not UTF-8 text")]
    Utf8,
    /// No host.
    #[error("{0}")]
    Host(HostError),
    /// No pattern.
    #[error("{0}")]
    Pattern(PatternErrorKind),
    /// `example.com:443`.
    #[error("a list names hosts, without ports")]
    Port,
    /// `*`.
    #[error("this matches every host, which a list cannot say; write `*` among the domains of the policy")]
    Everything,
    /// `=*.example.com`.
    #[error("`=` stands before a plain name")]
    NotExact,
    /// A name or an option where an address belongs.
    #[error("`0.0.0.0`, `127.0.0.1`, `::` or `::1` is expected here")]
    NoAddress,
    /// Only an address.
    #[error("a name is expected after the address")]
    NoName,
    /// `192.0.2.7 example.com`: it says where a host is, and not that it is to be blocked.
    #[error("this maps a host to the address {0}; a list has only `0.0.0.0`, `127.0.0.1`, `::` or `::1`")]
    MapsToAddress(IpAddr),
    /// An address among names.
    #[error("a name is expected here, not an address")]
    AddressAsName,
    /// Spaces in the middle.
    #[error("this is not a rule of an ad-block list")]
    NotARule,
    /// Neither `key` nor `key=value`, or `address=/example.com` without the last slash.
    #[error("this is not an option of dnsmasq such as `address=/example.com/`")]
    NotAnOption,
}

type Parsed = Result<LineKind, LineError>;
type Each<'a> = dyn FnMut(HostsRef<'_>, bool) + 'a;

/// Reads one line, with or without its end, and gives what it says to `each`: which hosts, and whether they are an exception.
///
/// In all formats, blank space around a line is dropped, and hosts are normalised as in patterns (case, international names, one trailing dot).
///
/// # `domains`
///
/// A pattern a line, as in a policy, but for plain names. `#` begins a comment, at the start of a line or after a blank.
///
/// | line | hosts |
/// | --- | --- |
/// | `example.com` | that host and all below it, as block lists mean it |
/// | `=example.com` | that host only |
/// | `*.example.com` | all below it |
/// | `**.example.com` | that host and all below it |
/// | `ads*.example.com` | a glob, as in a policy |
/// | `192.0.2.7`, `2001:db8::1`, `10.0.0.0/8` | the address or the network |
/// | `*`, `example.com:443`, `https://example.com/` | bad |
///
/// # `hosts`
///
/// hosts(5): an address and names; `#` begins a comment anywhere. Each name is that host only: hosts files have no subdomains.
///
/// | line | hosts |
/// | --- | --- |
/// | `0.0.0.0 a.example b.example` | both; so with `127.…`, `::`, `::1` |
/// | `127.0.0.1 localhost`, `255.255.255.255 broadcasthost`, `ff02::1 ip6-allnodes` | ignored: names of the machine itself, with any address |
/// | `192.0.2.7 a.example` | bad: it says where a host is |
///
/// Of a line with a bad name, the other names count.
///
/// # `adblock`
///
/// The network rules of Adblock Plus, uBlock Origin and AdGuard that are about whole hosts. `!`, `#` and `[Adblock Plus 2.0]` are comments; conditions (`!#if`) are not
/// evaluated, and files (`!#include`) not followed.
///
/// | line | hosts |
/// | --- | --- |
/// | `\|\|example.com^`, `\|\|example.com\|`, `\|\|example.com` | that host and all below it |
/// | `\|example.com^` | that host only (AdGuard DNS) |
/// | `example.com` | that host and all below it |
/// | `0.0.0.0 example.com` | as in `hosts` |
/// | `\|\|ads*.example.com^` | the glob `**.ads*.example.com` |
/// | `\|\|*.example.com^` | all below it |
/// | `@@` before any of these | the same, as exception |
/// | `$important`, `$all`, `$document`, `$doc` after any of these | the same; of an exception, `$document` is about pages, and the rule is ignored |
/// | any other `$option` | ignored: it holds for some pages, kinds of request or clients, and a proxy does not see which |
/// | `\|\|example.com/path`, `\|\|example.com:8080^`, `\|https://example.com^`, `/regex/`, `-ad-banner.` | ignored: about parts of URLs |
/// | `\|\|ads.`, `\|\|adserver` (nothing ends the name) | ignored: beginnings of names |
/// | `##.banner`, `example.com#@#.banner`, `example.com$$script` | ignored: about parts of pages |
/// | `\|\|*^` | bad |
///
/// An ignored rule neither blocks nor excepts anything; so `$badfilter` does not take back the rule that it names.
///
/// # `dnsmasq`
///
/// The options of dnsmasq(8) that make a name not resolve. `#` begins a comment, at the start of a line or after a blank.
///
/// | line | hosts |
/// | --- | --- |
/// | `address=/example.com/`, `address=/example.com/#`, `address=/example.com/0.0.0.0` | that host and all below it; so with `127.…`, `::`, `::1` |
/// | `server=/example.com/`, `local=/example.com/` | the same |
/// | `address=/a.example/b.example/` | both |
/// | `/.example.com/` | as `/example.com/` |
/// | `/*.example.com/` | all below it |
/// | `/*example.com/` | the glob `*example.com` |
/// | `server=/example.com/192.0.2.53` | ignored: the name resolves, elsewhere |
/// | `address=//`, `server=//` | ignored: names without dots |
/// | other options | ignored |
/// | `address=/example.com/192.0.2.7` | bad: it says where a host is |
/// | `address=/#/` | bad: every host |
///
/// # Errors
/// [`LineError`] if the line is none of its format. `each` may have been called for the good part of it.
pub fn parse_line(format: ListFormat, line: &[u8], each: &mut dyn FnMut(HostsRef<'_>, bool)) -> Result<LineKind, LineError> {
    if line.len() > MAX_LINE {
        return Err(LineError::TooLong);
    }
    let text = std::str::from_utf8(line).map_err(|_| LineError::Utf8)?.trim();
    if text.is_empty() {
        return Ok(LineKind::Skipped);
    }
    match format {
        ListFormat::Domains => domains(text, each),
        ListFormat::Hosts => hosts(text, each),
        ListFormat::Adblock => adblock(text, each),
        ListFormat::Dnsmasq => dnsmasq(text, each),
    }
}

fn domains(text: &str, each: &mut Each<'_>) -> Parsed {
    let text = before_comment(text);
    if text.is_empty() {
        return Ok(LineKind::Skipped);
    }
    if plain_name(text, each)? {
        return Ok(LineKind::Entries);
    }
    let hosts = match text.strip_prefix('=') {
        Some(name) => match pattern(name)? {
            exact @ (Hosts::Exact(_) | Hosts::Network(_)) => exact,
            _ => return Err(LineError::NotExact),
        },
        None => match pattern(text)? {
            Hosts::Exact(name) => Hosts::ApexAndSubdomains(name),
            other => other,
        },
    };
    each((&hosts).into(), false);
    Ok(LineKind::Entries)
}

/// Nearly every line of a long list: a name, or what is below it. The way over the pattern gives the same and takes longer; `false` says that it has to be taken.
fn plain_name(text: &str, each: &mut Each<'_>) -> Result<bool, LineError> {
    let (kind, name) = match text.strip_prefix("*.") {
        Some(name) => (RuleKind::Subdomains, name),
        None => (RuleKind::ApexAndSubdomains, text.strip_prefix("**.").unwrap_or(text)),
    };
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Ok(false);
    }
    match Host::parse_into(name, &mut [0; MAX_NAME]).map_err(LineError::Host)? {
        HostRef::Name(name) => each(HostsRef::Name(kind, name), false),
        HostRef::Ip(_) if name.len() < text.len() => return Err(LineError::Pattern(PatternErrorKind::WildcardInAddress)),
        HostRef::Ip(address) => each(HostsRef::Network(Network::single(address)), false),
        HostRef::NumericLookalike(_) => return Err(LineError::Pattern(PatternErrorKind::NumericLookalike)),
    }
    Ok(true)
}

fn hosts(text: &str, each: &mut Each<'_>) -> Parsed {
    let text = text.split_once('#').map_or(text, |(before, _)| before);
    let mut fields = text.split_ascii_whitespace();
    let Some(address) = fields.next() else { return Ok(LineKind::Skipped) };
    let address: IpAddr = address.split_once('%').map_or(address, |(address, _)| address).parse().map_err(|_| LineError::NoAddress)?;
    let (mut kind, mut first_error) = (Err(LineError::NoName), None);
    for field in fields {
        if kind.is_err() {
            kind = Ok(LineKind::Ignored);
        }
        if is_own_name(field) {
            continue;
        }
        if !is_sink(address) {
            return Err(LineError::MapsToAddress(address));
        }
        match name(field) {
            Ok(name) => {
                each(HostsRef::Name(RuleKind::Exact, name.as_str()), false);
                kind = Ok(LineKind::Entries);
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(kind, Err)
}

/// Options of ad-block rules that leave a rule about whole hosts.
const WHOLE_HOST_OPTIONS: [&str; 4] = ["important", "all", "document", "doc"];
/// Those that do so for an exception: `@@||example.com^$document` is about what the pages of a host load from others.
const WHOLE_HOST_EXCEPTION_OPTIONS: [&str; 2] = ["important", "all"];

fn adblock(text: &str, each: &mut Each<'_>) -> Parsed {
    if text.starts_with("[$") || is_cosmetic(text) {
        return Ok(LineKind::Ignored);
    }
    if text.starts_with('!') || (text.starts_with('[') && text.ends_with(']')) {
        return Ok(LineKind::Skipped);
    }
    let rule = before_comment(text);
    if rule.is_empty() {
        return Ok(LineKind::Skipped);
    }
    if rule.split_once([' ', '\t']).is_some_and(|(first, _)| first.parse::<IpAddr>().is_ok()) {
        return hosts(rule, each);
    }
    let (rule, exception) = rule.strip_prefix("@@").map_or((rule, false), |rule| (rule, true));
    if rule.starts_with('/') {
        return Ok(LineKind::Ignored);
    }
    let (rule, options) = rule.split_once('$').unwrap_or((rule, ""));
    let known: &[&str] = if exception { &WHOLE_HOST_EXCEPTION_OPTIONS } else { &WHOLE_HOST_OPTIONS };
    if !options.is_empty() && !options.split(',').all(|option| known.contains(&option)) {
        return Ok(LineKind::Ignored);
    }
    if rule.contains(char::is_whitespace) {
        return Err(LineError::NotARule);
    }
    match whole_hosts(rule)? {
        None => Ok(LineKind::Ignored),
        Some(hosts) => {
            each((&hosts).into(), exception);
            Ok(LineKind::Entries)
        }
    }
}

/// The hosts of the pattern of an ad-block rule, if it is about whole hosts.
fn whole_hosts(rule: &str) -> Result<Option<Hosts>, LineError> {
    let (rest, below, anchored) = match (rule.strip_prefix("||"), rule.strip_prefix('|')) {
        (Some(rest), _) => (rest, true, true),
        (None, Some(rest)) => (rest, false, true),
        (None, None) => (rule, true, false),
    };
    let ended = rest.strip_suffix(['^', '|']).filter(|_| anchored);
    let body = ended.unwrap_or(rest);
    let in_names = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '*') || !c.is_ascii();
    if (body.is_empty() && ended.is_some()) || body == "*" {
        return Err(LineError::Everything);
    }
    // A run of `*` is one to ad blockers and something else to patterns; a dot before the end is no end of a name.
    if !body.chars().all(in_names) || body.contains("**") || body.ends_with('.') {
        return Ok(None);
    }
    let complete = body.contains('.') && !body.ends_with(['-', '_', '*']);
    let plausible = if anchored {
        ended.is_some() || (below && complete)
    } else {
        complete && !body.contains('*') && !body.starts_with(['.', '-', '_'])
    };
    if !plausible {
        return Ok(None);
    }
    let hosts = match (body.contains('*'), below) {
        (false, true) => host_and_below(body)?,
        (false, false) => pattern(body)?,
        // The blank before a dot cannot be empty: no name begins with a dot.
        (true, true) if !body.starts_with("*.") => pattern(&format!("**.{body}"))?,
        (true, _) => pattern(body)?,
    };
    Ok(Some(hosts))
}

/// Whether the first `#` begins a separator of a rule about parts of pages: `##`, `#@#`, `#?#`, `#$#`, `#%#` and their combinations.
fn is_cosmetic(text: &str) -> bool {
    let Some((before, after)) = text.split_once('#') else { return false };
    !before.ends_with(char::is_whitespace) && after.trim_start_matches(['@', '?', '$', '%']).starts_with('#')
}

fn dnsmasq(text: &str, each: &mut Each<'_>) -> Parsed {
    let text = before_comment(text);
    if text.is_empty() {
        return Ok(LineKind::Skipped);
    }
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let (key, value) = (key.trim_end(), value.trim_start());
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(LineError::NotAnOption);
    }
    let is_address = key == "address";
    if !is_address && key != "server" && key != "local" {
        return Ok(LineKind::Ignored);
    }
    let (domains, target) = match value.strip_prefix('/') {
        Some(rest) => rest.rsplit_once('/').ok_or(LineError::NotAnOption)?,
        None if is_address => return Err(LineError::NotAnOption),
        None => return Ok(LineKind::Ignored),
    };
    match target.trim() {
        "" => {}
        _ if !is_address => return Ok(LineKind::Ignored),
        "#" => {}
        address => match address.parse() {
            Ok(address) if is_sink(address) => {}
            Ok(address) => return Err(LineError::MapsToAddress(address)),
            Err(_) => return Err(LineError::NoAddress),
        },
    }
    let (mut kind, mut first_error) = (LineKind::Ignored, None);
    for domain in domains.split('/').map(str::trim).filter(|domain| !domain.is_empty()) {
        match dnsmasq_domain(domain) {
            Ok(hosts) => {
                each((&hosts).into(), false);
                kind = LineKind::Entries;
            }
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(kind), Err)
}

fn dnsmasq_domain(domain: &str) -> Result<Hosts, LineError> {
    if domain == "#" || domain == "*" {
        return Err(LineError::Everything);
    }
    if let Some(below) = domain.strip_prefix("*.") {
        return Ok(Hosts::Subdomains(name(below)?));
    }
    if let Some(end) = domain.strip_prefix('*') {
        return pattern(&format!("*{}", name(end)?.as_str()));
    }
    Ok(Hosts::ApexAndSubdomains(name(domain.strip_prefix('.').unwrap_or(domain))?))
}

/// Names that hosts files have for the machine itself and for groups of machines.
fn is_own_name(name: &str) -> bool {
    const OWN: [&str; 10] = [
        "localhost",
        "localhost.localdomain",
        "localhost4",
        "localhost4.localdomain4",
        "localhost6",
        "localhost6.localdomain6",
        "local",
        "broadcasthost",
        "0.0.0.0",
        "::1",
    ];
    OWN.iter().any(|own| own.eq_ignore_ascii_case(name))
        || (name.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("ip6-")) && !name.contains('.'))
}

/// Addresses that lead nowhere but to this machine.
fn is_sink(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_unspecified() || address.is_loopback()
}

fn before_comment(text: &str) -> &str {
    let is_start = |at: &usize| text.get(..*at).is_some_and(|before| before.is_empty() || before.ends_with(char::is_whitespace));
    let start = memchr::memchr_iter(b'#', text.as_bytes()).find(is_start);
    start.and_then(|at| text.get(..at)).map_or(text, str::trim_end)
}

fn name(text: &str) -> Result<Name, LineError> {
    match Host::parse(text).map_err(LineError::Host)? {
        Host::Name(name) => Ok(name),
        Host::Ip(_) => Err(LineError::AddressAsName),
        Host::NumericLookalike(_) => Err(LineError::Pattern(PatternErrorKind::NumericLookalike)),
    }
}

fn host_and_below(text: &str) -> Result<Hosts, LineError> {
    match Host::parse(text).map_err(LineError::Host)? {
        Host::Name(name) => Ok(Hosts::ApexAndSubdomains(name)),
        Host::Ip(address) => Ok(Hosts::Network(Network::single(address))),
        Host::NumericLookalike(_) => Err(LineError::Pattern(PatternErrorKind::NumericLookalike)),
    }
}

fn pattern(text: &str) -> Result<Hosts, LineError> {
    let pattern = Pattern::parse(text).map_err(|error| match error.kind {
        PatternErrorKind::Everything => LineError::Everything,
        PatternErrorKind::Host(error) => LineError::Host(error),
        PatternErrorKind::Port => LineError::Port,
        kind => LineError::Pattern(kind),
    })?;
    match pattern {
        Pattern { port: Some(_), .. } => Err(LineError::Port),
        Pattern { hosts: Hosts::Any, .. } => Err(LineError::Everything),
        Pattern { hosts, port: None } => Ok(hosts),
    }
}
