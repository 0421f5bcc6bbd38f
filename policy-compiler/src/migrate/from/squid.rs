//! `squid.conf`: the `http_access` lines and the lists that they name.
//!
//! Squid asks its lines in order and the first that matches decides; when none does, the opposite of the last one holds. Here every deny beats every allow. A deny
//! that stands behind an allow of the same hosts is therefore left out where nothing later would allow them, and said where something would.

use super::{Access, Comparisons, ConvertError, Draft, MAX_INPUT, Rule, unite};
use policy_format::net::Network;
use policy_format::{Hosts, Pattern, PortRange};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Kinds of lists that say who asks, or when.
const CLIENT: [&str; 22] = [
    "src",
    "srcdomain",
    "srcdom_regex",
    "src_as",
    "arp",
    "eui64",
    "myip",
    "localip",
    "myport",
    "localport",
    "myportname",
    "proxy_auth",
    "proxy_auth_regex",
    "ident",
    "ident_regex",
    "ext_user",
    "time",
    "external",
    "max_user_ip",
    "maxconn",
    "user_cert",
    "browser",
];

/// Methods that a read-only rule lets pass.
const SAFE: [&str; 3] = ["GET", "HEAD", "OPTIONS"];

const ALL_PORTS: PortRange = PortRange { first: 1, last: u16::MAX };

/// What a list is about.
#[derive(Debug, Clone)]
enum Acl {
    /// Every request.
    All,
    Hosts(Vec<(Pattern, usize)>),
    Ports(Vec<PortRange>),
    Methods(Vec<String>),
    /// Who asks, or when.
    Client,
    /// Squid's own pages.
    Manager,
    /// What a rule here cannot see.
    Opaque(String),
}

/// One `http_access` line.
struct Line {
    line: usize,
    allow: bool,
    terms: Vec<(bool, String)>,
}

/// What one line asks, its lists put together.
#[derive(Default)]
struct Asked {
    hosts: Option<Vec<(Pattern, usize)>>,
    /// Hosts behind a `!`.
    but: Vec<(Pattern, usize)>,
    ports: Option<Vec<PortRange>>,
    methods: Option<Vec<String>>,
    /// Methods behind a `!`.
    but_methods: Option<Vec<String>>,
    client: bool,
    manager: bool,
    opaque: Option<String>,
    /// `!all`.
    never: bool,
}

pub(super) fn read(text: &str, read: &dyn Fn(&str) -> std::io::Result<String>) -> Result<Draft, ConvertError> {
    let mut reader = Reader { draft: Draft::default(), acls: built_in(), defined: HashMap::new(), lines: Vec::new(), read, bytes: 0 };
    let mut joined: Option<(usize, String)> = None;
    for (index, raw) in text.lines().enumerate() {
        // Squid passes over comments and empty lines before it joins lines: a comment that ends in a backslash joins nothing, and one between joined
        // lines is not there. It takes the blanks off the start of each line and puts none between the two.
        let raw = raw.trim_start();
        if raw.is_empty() || raw.starts_with('#') {
            continue;
        }
        let (number, mut line) = joined.take().unwrap_or((index + 1, String::new()));
        if raw.ends_with(char::is_whitespace) && raw.trim_end().ends_with('\\') {
            reader.draft.warn(index + 1, "blanks follow the `\\` at the end of the line, so the next line does not belong to it");
        }
        match raw.strip_suffix('\\') {
            Some(head) => {
                line.push_str(head);
                joined = Some((number, line));
            }
            None => {
                line.push_str(raw);
                reader.directive(number, &line)?;
            }
        }
    }
    if let Some((number, line)) = joined {
        reader.directive(number, &line)?;
    }
    let Reader { mut draft, acls, lines, .. } = reader;
    if lines.is_empty() {
        return Err(ConvertError::new(1, "there is no `http_access`: this is no access list of Squid"));
    }
    let effects = Effects::of(&lines, &acls, &mut draft)?;
    effects.write(&mut draft);
    Ok(draft)
}

fn built_in() -> HashMap<String, Acl> {
    let networks = |texts: &[&str]| Acl::Hosts(texts.iter().filter_map(|text| Some((Pattern::parse(text).ok()?, 0))).collect());
    [
        ("all", Acl::All),
        ("localhost", Acl::Client),
        ("manager", Acl::Manager),
        ("to_localhost", networks(&["127.0.0.0/8", "0.0.0.0/32", "::1/128", "::/128"])),
        ("to_linklocal", networks(&["169.254.0.0/16", "fe80::/10"])),
        ("CONNECT", Acl::Methods(vec!["CONNECT".into()])),
    ]
    .into_iter()
    .map(|(name, acl)| (name.to_ascii_lowercase(), acl))
    .collect()
}

struct Reader<'r> {
    draft: Draft,
    acls: HashMap<String, Acl>,
    /// The kind of each list that the file defines.
    defined: HashMap<String, String>,
    lines: Vec<Line>,
    read: &'r dyn Fn(&str) -> std::io::Result<String>,
    /// Bytes of files that the input names.
    bytes: usize,
}

impl Reader<'_> {
    fn directive(&mut self, line: usize, text: &str) -> Result<(), ConvertError> {
        let mut words = text.split_whitespace().take_while(|word| !word.starts_with('#'));
        match words.next() {
            Some("acl") => self.acl(line, words.collect()),
            Some("http_access") => self.http_access(line, words.collect()),
            Some(other @ ("include" | "if" | "else" | "endif")) => {
                self.draft.warn(line, format!("`{other}` is not followed: what it brings or guards may be missing or too much"));
                Ok(())
            }
            Some(other @ ("http_access2" | "adapted_http_access")) => {
                let message =
                    format!("`{other}` is left out: what it denies, after `http_access` allowed it, passes where a rule allows it");
                self.draft.warn(line, message);
                Ok(())
            }
            Some(other) if other.ends_with("_access") => {
                self.draft.warn(line, format!("`{other}` is left out: only `http_access` is read"));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn http_access(&mut self, line: usize, words: Vec<&str>) -> Result<(), ConvertError> {
        let allow = match words.first() {
            Some(&"allow") => true,
            Some(&"deny") => false,
            _ => return Err(ConvertError::new(line, "`http_access` says `allow` or `deny`")),
        };
        let mut terms = Vec::new();
        for word in words.iter().skip(1) {
            let (negated, name) = word.strip_prefix('!').map_or((false, *word), |name| (true, name));
            let key = name.to_ascii_lowercase();
            if !self.acls.contains_key(&key) {
                return Err(ConvertError::new(line, format!("there is no `acl {name}` before this line")));
            }
            terms.push((negated, key));
        }
        if terms.is_empty() {
            return Err(ConvertError::new(line, "`http_access` names no `acl`"));
        }
        self.lines.push(Line { line, allow, terms });
        Ok(())
    }

    fn acl(&mut self, line: usize, words: Vec<&str>) -> Result<(), ConvertError> {
        let [name, kind, rest @ ..] = words.as_slice() else {
            return Err(ConvertError::new(line, "an `acl` has a name, a type and values"));
        };
        // Squid compares the names of lists without regard to case.
        let key = name.to_ascii_lowercase();
        match self.defined.get(&key) {
            Some(before) if before != kind => {
                return Err(ConvertError::new(line, format!("`acl {name}` has the type `{before}` already")));
            }
            Some(_) => {}
            None => {
                // One that is built in is replaced.
                self.acls.remove(&key);
                self.defined.insert(key.clone(), (*kind).to_owned());
            }
        }
        let values = self.values(line, rest)?;
        let texts = || values.iter().map(|value| value.text.as_str());
        let everything = texts().any(|value| matches!(value, "all" | "0.0.0.0/0" | "0/0" | "0.0.0.0/0.0.0.0" | "::/0"));
        let added = match *kind {
            "src" | "dst" if everything => Acl::All,
            "dstdomain" => Acl::Hosts(values.iter().filter_map(|value| self.domain(value)).collect()),
            "dst" => Acl::Hosts(values.iter().filter_map(|value| self.network_of(value)).collect()),
            "port" => Acl::Ports(values.iter().map(port).collect::<Result<_, _>>()?),
            "method" => Acl::Methods(values.iter().map(Value::method).collect()),
            "proto" if texts().all(|value| value.eq_ignore_ascii_case("cache_object")) => Acl::Manager,
            "url_regex" if key == "manager" => Acl::Manager,
            kind if CLIENT.contains(&kind) => Acl::Client,
            kind => Acl::Opaque(kind.to_owned()),
        };
        let merged = match (self.acls.remove(&key), added) {
            (Some(Acl::Hosts(mut there)), Acl::Hosts(more)) => {
                there.extend(more);
                Acl::Hosts(there)
            }
            (Some(Acl::Ports(mut there)), Acl::Ports(more)) => {
                there.extend(more);
                Acl::Ports(there)
            }
            (Some(Acl::Methods(mut there)), Acl::Methods(more)) => {
                there.extend(more);
                Acl::Methods(there)
            }
            (Some(Acl::All), _) => Acl::All,
            (_, added) => added,
        };
        self.acls.insert(key, merged);
        Ok(())
    }

    /// The values of a list; those of a file have the line that names the file.
    fn values(&mut self, line: usize, words: &[&str]) -> Result<Vec<Value>, ConvertError> {
        let mut values = Vec::new();
        for word in words.iter().skip_while(|word| word.starts_with('-')) {
            if word.starts_with("parameters(") {
                return Err(ConvertError::new(line, "`parameters(…)` is not read: name the file in quotes"));
            }
            let Some(path) = word.strip_prefix('"') else {
                values.push(Value { text: (*word).to_owned(), line, named: None });
                continue;
            };
            let path = path.strip_suffix('"').ok_or_else(|| ConvertError::new(line, "the quoted name of a file does not end"))?;
            let text = (self.read)(path).map_err(|error| ConvertError::new(line, format!("cannot read `{path}`: {error}")))?;
            self.bytes = self.bytes.saturating_add(text.len());
            if self.bytes > MAX_INPUT {
                return Err(ConvertError::new(line, format!("the files that it names have more than {MAX_INPUT} bytes")));
            }
            for (number, own) in (1..).zip(text.lines()) {
                let own = own.split('#').next().unwrap_or_default().split_whitespace();
                values.extend(own.map(|value| Value { text: value.to_owned(), line, named: Some(number) }));
            }
        }
        Ok(values)
    }

    /// `.example.com` is the apex and its subdomains; a `*` has no meaning.
    fn domain(&mut self, value: &Value) -> Option<(Pattern, usize)> {
        let Value { text, line, .. } = value;
        if text.contains(['*', '?', '{']) {
            self.draft.warn(*line, format!("{} is left out: `dstdomain` has no wildcards, so it matches nothing there", value.shown()));
            return None;
        }
        let text = text.strip_prefix('.').map_or_else(|| text.clone(), |name| format!("**.{name}"));
        match Pattern::parse(&text) {
            Ok(pattern) if pattern.port.is_none() => Some((pattern, *line)),
            Ok(_) => {
                self.draft.warn(*line, format!("{} is left out: a name has no port", value.shown()));
                None
            }
            Err(error) => {
                self.draft.warn(*line, format!("{} is left out: {error}", value.shown()));
                None
            }
        }
    }

    fn network_of(&mut self, value: &Value) -> Option<(Pattern, usize)> {
        let found = network(&value.text);
        if found.is_none() {
            self.draft.warn(value.line, format!("{} is left out: it is no address, network or netmask", value.shown()));
        }
        Some((Pattern { hosts: Hosts::Network(found?), port: None }, value.line))
    }
}

/// A value of a list.
struct Value {
    text: String,
    /// The line of the list, also for what stands in a file that it names.
    line: usize,
    /// The line of that file.
    named: Option<usize>,
}

impl Value {
    /// The value, for messages. Any file can be named, so that what it says is not repeated.
    fn shown(&self) -> String {
        self.named.map_or_else(|| format!("`{}`", self.text), |number| format!("line {number} of the file that it names"))
    }

    /// A method, which messages repeat.
    fn method(&self) -> String {
        match self.named {
            Some(number) if !self.text.bytes().all(|byte| byte.is_ascii_uppercase()) => format!("(line {number} of a file)"),
            _ => self.text.clone(),
        }
    }
}

/// An address, `address/prefix` or `address/netmask`; bits beyond the prefix are cut off, as Squid does.
fn network(value: &str) -> Option<Network> {
    let (address, prefix) = value.split_once('/').map_or((value, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.trim_matches(['[', ']']).parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix: u8 = match prefix {
        None => bits,
        Some(prefix) => match prefix.parse::<u8>() {
            Ok(prefix) => prefix,
            Err(_) => {
                let mask = u32::from(prefix.parse::<std::net::Ipv4Addr>().ok().filter(|_| address.is_ipv4())?);
                let ones = u8::try_from(mask.leading_ones()).ok()?;
                (mask.count_ones() == u32::from(ones)).then_some(ones)?
            }
        },
    };
    let host_bits = u32::from(bits.checked_sub(prefix)?);
    let masked = match address {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & u32::MAX.checked_shl(host_bits).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & u128::MAX.checked_shl(host_bits).unwrap_or(0)).into()),
    };
    Network::new(masked, prefix)
}

fn port(value: &Value) -> Result<PortRange, ConvertError> {
    let (first, last) = value.text.split_once('-').unwrap_or((&value.text, &value.text));
    let number = |text: &str| text.parse::<u16>().ok();
    match number(first).zip(number(last)).filter(|(first, last)| first <= last && *last > 0) {
        Some((first, last)) => Ok(PortRange { first: first.max(1), last }),
        None => Err(ConvertError::new(value.line, format!("{} is no port and no range of ports", value.shown()))),
    }
}

/// The ports that are in both.
fn both(one: &[PortRange], other: &[PortRange]) -> Vec<PortRange> {
    let pairs = one.iter().flat_map(|one| other.iter().map(move |other| (one, other)));
    let common = pairs.map(|(one, other)| PortRange { first: one.first.max(other.first), last: one.last.min(other.last) });
    unite(&common.filter(|range| range.first <= range.last).collect::<Vec<_>>())
}

/// The ports that are in none.
fn others(ports: &[PortRange]) -> Vec<PortRange> {
    let mut next = u32::from(ALL_PORTS.first);
    let mut left = Vec::new();
    for range in unite(ports) {
        if let Some((first, last)) = u16::try_from(next).ok().zip(range.first.checked_sub(1)).filter(|(first, last)| first <= last) {
            left.push(PortRange { first, last });
        }
        next = u32::from(range.last) + 1;
    }
    if let Ok(first) = u16::try_from(next) {
        left.push(PortRange { first, last: ALL_PORTS.last });
    }
    left
}

fn asked(line: &Line, acls: &HashMap<String, Acl>, draft: &mut Draft) -> Asked {
    let mut asked = Asked::default();
    for (negated, name) in &line.terms {
        match (acls.get(name), negated) {
            (None, _) | (Some(Acl::All), false) => {}
            (Some(Acl::All), true) => asked.never = true,
            (Some(Acl::Hosts(hosts)), false) => {
                asked.hosts = Some(match asked.hosts.take() {
                    None => hosts.clone(),
                    Some(there) => narrow(&there, hosts, line.line, draft),
                });
            }
            (Some(Acl::Hosts(hosts)), true) => asked.but.extend(hosts.iter().cloned()),
            (Some(Acl::Ports(ports)), negated) => {
                let ports = if *negated { others(ports) } else { ports.clone() };
                asked.ports = Some(asked.ports.take().map_or_else(|| unite(&ports), |there| both(&there, &ports)));
            }
            (Some(Acl::Methods(methods)), false) => asked.methods.get_or_insert_default().extend(methods.iter().cloned()),
            (Some(Acl::Methods(methods)), true) => asked.but_methods.get_or_insert_default().extend(methods.iter().cloned()),
            (Some(Acl::Client), _) => asked.client = true,
            // Not the manager's pages: every other request.
            (Some(Acl::Manager), true) => {}
            (Some(Acl::Manager), false) => asked.manager = true,
            (Some(Acl::Opaque(kind)), _) => asked.opaque = Some(kind.clone()),
        }
    }
    asked
}

/// Those hosts of one list that the other one has too.
fn narrow(one: &[(Pattern, usize)], other: &[(Pattern, usize)], line: usize, draft: &mut Draft) -> Vec<(Pattern, usize)> {
    let mut comparisons = Comparisons::default();
    let mut common = Vec::new();
    let mut there = HashSet::new();
    for (from, among) in [(one, other), (other, one)] {
        for (pattern, at) in from {
            if comparisons.first(among.iter().map(|(outer, at)| (outer, *at)), |outer| outer.covers(pattern)).is_some()
                && there.insert(pattern.to_string())
            {
                common.push((pattern.clone(), *at));
            }
        }
    }
    if common.is_empty() {
        draft.warn(line, "the lists of hosts have nothing in common: the line allows and denies nothing");
    }
    comparisons.report(draft);
    common
}

struct Effect {
    rule: Rule,
    allow: bool,
}

/// What the lines say in turn, as far as a rule here can say it.
#[derive(Default)]
struct Effects {
    list: Vec<Effect>,
    /// Ports that are not denied to every host.
    ports: Option<Vec<PortRange>>,
    /// Hosts that are not denied as not being on a list.
    hosts: Option<Vec<(Pattern, usize)>>,
    /// Only methods that read are left.
    read_only: bool,
    /// A line decided everything that was left.
    decided: bool,
}

impl Effects {
    fn of(lines: &[Line], acls: &HashMap<String, Acl>, draft: &mut Draft) -> Result<Self, ConvertError> {
        let mut effects = Self::default();
        let mut last = (1, true);
        for line in lines {
            if effects.decided {
                draft.warn(line.line, "the line is left out: the ones before it decide everything");
                continue;
            }
            last = (line.line, line.allow);
            let asked = asked(line, acls, draft);
            if asked.manager {
                draft.warn(line.line, "the line is left out: it is about Squid's own pages");
                continue;
            }
            if let Some(kind) = &asked.opaque {
                let lost = if line.allow { "nothing is allowed by it" } else { "what it denied passes where another line allows it" };
                draft.warn(line.line, format!("the line is left out, and {lost}: a rule cannot ask for `{kind}`"));
                continue;
            }
            if asked.never {
                continue;
            }
            if line.allow { effects.allow(line.line, asked, draft) } else { effects.deny(line.line, asked, draft) }
        }
        if !effects.decided && !last.1 {
            draft.warn(last.0, "the last line denies, so what no line matches is allowed there; every host is allowed here too");
            effects.allow(last.0, Asked::default(), &mut Draft::default());
        }
        Ok(effects)
    }

    fn push(&mut self, allow: bool, pattern: &Pattern, ports: &[PortRange], access: Access, line: usize) {
        let rule = Rule { pattern: pattern.clone(), access, ports: ports.to_vec(), line, comment: None };
        self.list.push(Effect { rule, allow });
    }

    fn deny(&mut self, line: usize, asked: Asked, draft: &mut Draft) {
        let loose = "what it denied passes where another line allows it";
        if asked.client {
            draft.warn(line, format!("the line is left out, and {loose}: a rule cannot ask who the client is, or when it asks"));
            return;
        }
        if let Some(methods) = &asked.but_methods {
            let only = asked.hosts.is_none() && asked.but.is_empty() && asked.ports.is_none() && asked.methods.is_none();
            if only && methods.iter().all(|method| SAFE.contains(&method.as_str())) {
                self.read_only = true;
                return;
            }
        }
        if asked.methods.is_some() || asked.but_methods.is_some() {
            let methods = asked.methods.or(asked.but_methods).unwrap_or_default().join(", ");
            let what = if methods == "CONNECT" { "be for CONNECT alone".to_owned() } else { format!("ask for methods ({methods})") };
            draft.warn(line, format!("the line is left out, and {loose}: a deny cannot {what}"));
            return;
        }
        match (asked.hosts, asked.ports) {
            (None, None) if asked.but.is_empty() => self.decided = true,
            (None, None) => {
                self.hosts = Some(match self.hosts.take() {
                    None => asked.but,
                    Some(there) => narrow(&there, &asked.but, line, draft),
                });
            }
            (None, Some(ports)) if asked.but.is_empty() => {
                let left = others(&ports);
                self.ports = Some(self.ports.take().map_or_else(|| left.clone(), |there| both(&there, &left)));
            }
            (None, Some(_)) => {
                draft.warn(line, format!("the line is left out, and {loose}: a deny cannot ask for ports of hosts that are not on a list"));
            }
            (Some(hosts), ports) => {
                if let Some((but, _)) = asked.but.first() {
                    draft.warn(
                        line,
                        format!("the exception `{but}` is left out: a deny has none here, so it is denied too where the list has it"),
                    );
                }
                for (pattern, _) in hosts {
                    self.push(false, &pattern, ports.as_deref().unwrap_or_default(), Access::Deny, line);
                }
            }
        }
    }

    fn allow(&mut self, line: usize, asked: Asked, draft: &mut Draft) {
        if asked.client && asked.hosts.is_none() {
            let message = "the line is left out: it allows some clients every host, and a rule cannot ask who the client is; \
                           write `\"*\" = \"allow\"` if every client of this proxy is one of them";
            draft.warn(line, message);
            return;
        }
        if asked.client {
            draft.warn(line, "the hosts are allowed to every client: a rule cannot ask who the client is, or when it asks");
        }
        let access = self.access(line, &asked, draft);
        let ports = match (&asked.ports, &self.ports) {
            (None, None) => Vec::new(),
            (Some(ports), None) | (None, Some(ports)) => ports.clone(),
            (Some(ports), Some(limit)) => both(ports, limit),
        };
        if ports.is_empty() && (asked.ports.is_some() || self.ports.is_some()) {
            draft.warn(line, "the line is left out: the ports that it allows are denied before it");
            return;
        }
        let everything = asked.hosts.is_none() && asked.but.is_empty() && asked.ports.is_none();
        for (pattern, _) in &asked.but {
            self.push(false, pattern, &[], Access::Deny, line);
        }
        let hosts = match (asked.hosts, &self.hosts) {
            (None, None) => {
                draft.warn(line, "the line allows every host");
                vec![(Pattern { hosts: Hosts::Any, port: None }, line)]
            }
            (None, Some(limit)) => limit.clone(),
            (Some(hosts), None) => hosts,
            (Some(hosts), Some(limit)) => narrow(&hosts, limit, line, draft),
        };
        for (pattern, _) in &hosts {
            if matches!(pattern.hosts, Hosts::Network(_)) {
                let message = format!("`{pattern}` is allowed as an address; a name that resolves into it has to be allowed itself here");
                draft.warn(line, message);
            }
            self.push(true, pattern, &ports, access, line);
        }
        self.decided |= everything && access == Access::Allow && asked.methods.is_none() && asked.but_methods.is_none();
    }

    fn access(&self, line: usize, asked: &Asked, draft: &mut Draft) -> Access {
        if self.read_only {
            return Access::ReadOnly;
        }
        let Some(methods) = &asked.methods else {
            if let Some(methods) = &asked.but_methods {
                draft.warn(line, format!("every method is allowed here, also {}", methods.join(", ")));
            }
            return Access::Allow;
        };
        if methods.iter().all(|method| SAFE.contains(&method.as_str())) {
            draft.warn(
                line,
                format!("{} are allowed there; here the rule is read-only: GET, HEAD and OPTIONS, and no tunnels", methods.join(", ")),
            );
            return Access::ReadOnly;
        }
        draft.warn(line, format!("only {} is allowed there; here every method and tunnels are", methods.join(", ")));
        Access::Allow
    }

    /// The rules. A deny behind an allow of the same hosts never gets to decide about them there.
    fn write(self, draft: &mut Draft) {
        let mut comparisons = Comparisons::default();
        let allows: Vec<(usize, &Rule)> =
            self.list.iter().enumerate().filter(|(_, effect)| effect.allow).map(|(at, effect)| (at, &effect.rule)).collect();
        for (index, effect) in self.list.iter().enumerate() {
            if effect.allow {
                draft.push(effect.rule.clone());
                continue;
            }
            let Rule { pattern, line, .. } = &effect.rule;
            let (before, after) = allows.split_at(allows.partition_point(|(at, _)| *at < index));
            let mut find = |among: &[(usize, &Rule)]| {
                // `allow !LIST` has its denies and its allow in one line.
                let others = among.iter().filter(|(_, rule)| rule.line != *line).map(|(_, rule)| (&rule.pattern, rule.line));
                comparisons.first(others, |allow| allow.overlaps(pattern)).map(|(pattern, line)| (pattern.to_string(), line))
            };
            let later = find(after);
            // The `!LIST` of an allow leaves its hosts to the lines after it.
            let left_open = after.first().is_some_and(|(_, rule)| rule.line == *line);
            if let Some((allow, at)) = later.as_ref().filter(|_| left_open) {
                draft.warn(*line, format!("`{pattern}` is denied here; there `{allow}` may allow it later (line {at})"));
            }
            let Some((first, at)) = find(before) else {
                draft.push(effect.rule.clone());
                continue;
            };
            if later.is_none() {
                draft.warn(
                    *line,
                    format!(
                        "the deny of `{pattern}` is left out: `{first}` is allowed before it (line {at}), and nothing after it allows more"
                    ),
                );
                continue;
            }
            draft.push(effect.rule.clone());
            draft
                .warn(*line, format!("the deny of `{pattern}` beats the allow of `{first}` (line {at}) here; there the allow comes first"));
        }
        comparisons.report(draft);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_cut_and_turned_round() {
        let range = |first, last| PortRange { first, last };
        assert_eq!(others(&[range(80, 80), range(443, 443), range(1025, 65535)]), [range(1, 79), range(81, 442), range(444, 1024)]);
        assert_eq!(others(&[range(1, 65535)]), []);
        assert_eq!(others(&[]), [range(1, 65535)]);
        assert_eq!(both(&[range(1, 100), range(200, 300)], &[range(90, 210)]), [range(90, 100), range(200, 210)]);
    }

    #[test]
    fn networks_in_every_spelling() {
        for (value, expected) in [
            ("10.1.2.3", Some("10.1.2.3")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("10.0.0.0/255.0.0.0", Some("10.0.0.0/8")),
            ("2001:db8::1/32", Some("2001:db8::/32")),
            ("1.2.3.4/0", Some("0.0.0.0/0")),
            ("10.0.0.0/255.0.255.0", None),
            ("10.0.0.0/33", None),
            ("10.0.0.1-10.0.0.9", None),
            ("host.test", None),
        ] {
            assert_eq!(network(value).map(|network| network.to_string()).as_deref(), expected, "{value}");
        }
    }
}
