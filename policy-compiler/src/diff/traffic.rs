//! Ports, methods and paths, cut into classes that the rules at hand cannot tell apart.

use super::DiffError;
use policy_format::path::{has_one_reading, lies_below};
use policy_format::{Access, PortRange, Protocol, Request};
use std::collections::{BTreeMap, BTreeSet};

/// What a rule says beyond its hosts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Terms {
    pub(super) access: Access,
    pub(super) ports: Vec<PortRange>,
    pub(super) methods: Vec<String>,
    pub(super) paths: Vec<String>,
}

impl Terms {
    /// Whether they hold for every port, method and path.
    pub(super) fn is_plain(&self) -> bool {
        self.ports.is_empty() && self.methods.is_empty() && self.paths.is_empty()
    }
}

/// Methods that only read, as read-only rules see it.
const READING: [&str; 3] = ["GET", "HEAD", "OPTIONS"];
/// A path that servers read in two ways.
const UNCLEAR: &str = "/a%2fb";
/// What `OPTIONS` asks of a server as a whole.
const ASTERISK: &str = "*";

/// Whether a method is written as none is registered. A deny takes it in this form too: `post` stands for every spelling of POST but that one.
fn is_odd_case(method: &str) -> bool {
    method.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// A set of methods.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Methods {
    /// These.
    Only(Vec<String>),
    /// All others.
    Except(Vec<String>),
}

impl Methods {
    /// Whether a method is among them.
    #[must_use]
    pub fn hold(&self, method: &str) -> bool {
        let is_in = |list: &[String]| {
            list.iter().any(|known| known == method || is_odd_case(known) && known.eq_ignore_ascii_case(method) && is_odd_case(method))
        };
        match self {
            Self::Only(list) => is_in(list),
            Self::Except(list) => !is_in(list),
        }
    }

    fn are_all(&self) -> bool {
        *self == Self::Except(Vec::new())
    }
}

/// A set of paths: of the prefixes that a path has, the longest decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Paths {
    /// Prefixes, whether each stands for itself only, and whether its paths are in the set.
    pub prefixes: Vec<(String, bool, bool)>,
    /// Paths without any of the prefixes.
    pub others: bool,
    /// No path: `OPTIONS *`.
    pub asterisk: bool,
    /// Paths that servers read in two ways.
    pub unclear: bool,
}

impl Paths {
    const ALL: Self = Self { prefixes: Vec::new(), others: true, asterisk: true, unclear: true };

    /// Whether a path is among them.
    #[must_use]
    pub fn hold(&self, path: Option<&str>) -> bool {
        match path {
            Some(ASTERISK) => self.asterisk,
            Some(path) if has_one_reading(path) => self
                .prefixes
                .iter()
                .filter(|(prefix, exactly, _)| if *exactly { path == prefix } else { lies_below(path, prefix) })
                .max_by_key(|(prefix, exactly, _)| (*exactly, prefix.len()))
                .map_or(self.others, |(.., inside)| *inside),
            _ => self.unclear,
        }
    }
}

/// Plain requests of any of the methods for any of the paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Plain {
    /// The methods.
    pub methods: Methods,
    /// The paths.
    pub paths: Paths,
}

/// A set of requests to one host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Surface {
    /// The ports.
    pub ports: Vec<PortRange>,
    /// Tunnels: CONNECT and SOCKS5, which no decision tells apart.
    pub tunnels: bool,
    /// Plain HTTP requests.
    pub plain: Vec<Plain>,
}

impl Surface {
    /// Whether a request is among them, whatever its host.
    #[must_use]
    pub fn holds(&self, request: &Request<'_>) -> bool {
        if !self.ports.iter().any(|range| (range.first..=range.last).contains(&request.port)) {
            return false;
        }
        if request.protocol != Protocol::Http {
            return self.tunnels;
        }
        // No rule names a missing method, as none names one that nobody uses.
        let method = request.method.unwrap_or("\0");
        self.plain.iter().any(|plain| plain.methods.hold(method) && plain.paths.hold(request.path))
    }
}

/// One way to ask: a tunnel, or a plain request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) protocol: Protocol,
    pub(super) method: Option<String>,
    pub(super) path: Option<String>,
}

impl Way {
    /// Whether clients can ask so: only `OPTIONS` goes without a path.
    pub(super) fn is_possible(&self) -> bool {
        self.path.as_deref() != Some(ASTERISK) || self.method.as_deref() == Some("OPTIONS")
    }
}

/// All requests to a host, cut into ports and ways.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) ports: Vec<PortRange>,
    /// A tunnel, and then each path of each method.
    pub(super) ways: Vec<Way>,
    methods: Vec<Method>,
    paths: Vec<PathClass>,
}

#[derive(Debug)]
struct Method {
    example: String,
    /// The methods that behave like it; none: all that are not named.
    named: Vec<String>,
}

#[derive(Debug)]
enum PathClass {
    Prefix { prefix: String, exactly: bool },
    Others,
    Asterisk,
    Unclear,
}

/// Kinds of requests to one host, at most: every port with three ways to ask, and half as many again.
const MAX_CELLS: usize = 300_000;
/// Methods, and paths, that the rules for one host may name.
const MAX_NAMED: usize = 5_000;

impl Space {
    pub(super) fn new<'a>(terms: impl Iterator<Item = &'a Terms> + Clone) -> Result<Self, DiffError> {
        let named = |list: fn(&Terms) -> &Vec<String>| terms.clone().flat_map(list).collect::<BTreeSet<_>>().len();
        if named(|terms| &terms.methods) > MAX_NAMED || named(|terms| &terms.paths) > MAX_NAMED {
            return Err(DiffError::Combinations);
        }
        let (methods, paths) = (methods(terms.clone()), paths(terms.clone()));
        let ports = ports(terms);
        if (methods.len() * paths.len() + 1).saturating_mul(ports.len()) > MAX_CELLS {
            return Err(DiffError::Combinations);
        }
        let mut ways = vec![Way { protocol: Protocol::Connect, method: None, path: None }];
        for method in &methods {
            for (_, example) in &paths {
                ways.push(Way { protocol: Protocol::Http, method: Some(method.example.clone()), path: Some(example.clone()) });
            }
        }
        Ok(Self { ports, ways, methods, paths: paths.into_iter().map(|(class, _)| class).collect() })
    }

    /// What it takes to put some requests into words: each path may be compared with each other.
    pub(super) fn words(&self, requests: usize) -> usize {
        requests.saturating_mul(1 + self.paths.len() / 16)
    }

    /// The places of the ports that some ranges have.
    pub(super) fn overlapping(&self, ranges: &[PortRange]) -> Vec<usize> {
        // How many ranges start and end at each place.
        let mut steps = vec![(0_usize, 0_usize); self.ports.len() + 1];
        for range in ranges {
            let start = self.ports.partition_point(|own| own.last < range.first);
            let end = self.ports.partition_point(|own| own.first <= range.last);
            if start < end {
                steps.get_mut(start).into_iter().for_each(|step| step.0 += 1);
                steps.get_mut(end).into_iter().for_each(|step| step.1 += 1);
            }
        }
        let mut open = 0;
        let wanted = steps.into_iter().take(self.ports.len()).map(|(starts, stops)| {
            open = open + starts - stops;
            open > 0
        });
        (0..).zip(wanted).filter(|(_, wanted)| *wanted).map(|(at, _)| at).collect()
    }

    /// How many kinds of requests there are.
    pub(super) fn cells(&self) -> usize {
        self.ports.len() * self.ways.len()
    }

    /// The requests for which `is_in(port, way)`, in few pieces.
    pub(super) fn surfaces(&self, is_in: impl Fn(usize, usize) -> bool) -> Vec<Surface> {
        let mut by_ways: BTreeMap<Vec<bool>, Vec<PortRange>> = BTreeMap::new();
        for (at, range) in self.ports.iter().enumerate() {
            let ways: Vec<bool> = (0..self.ways.len()).map(|way| is_in(at, way)).collect();
            if ways.contains(&true) {
                let ranges = by_ways.entry(ways).or_default();
                match ranges.last_mut() {
                    Some(last) if last.last.checked_add(1) == Some(range.first) => last.last = range.last,
                    _ => ranges.push(*range),
                }
            }
        }
        by_ways.into_iter().map(|(ways, ports)| self.surface(&ways, ports)).collect()
    }

    fn surface(&self, ways: &[bool], ports: Vec<PortRange>) -> Surface {
        let mut rows: BTreeMap<Paths, Vec<&Method>> = BTreeMap::new();
        let plain = ways.get(1..).unwrap_or_default();
        for (method, row) in self.methods.iter().zip(plain.chunks(self.paths.len().max(1))) {
            if row.contains(&true) {
                rows.entry(self.path_set(row, method.example == "OPTIONS")).or_default().push(method);
            }
        }
        let plain = rows.into_iter().map(|(paths, methods)| Plain { methods: self.method_set(&methods), paths }).collect();
        Surface { ports, tunnels: ways.first().copied().unwrap_or(false), plain }
    }

    fn method_set(&self, methods: &[&Method]) -> Methods {
        let names = |of: &mut dyn Iterator<Item = &Method>| -> Vec<String> {
            let mut names: Vec<String> = of.flat_map(|method| method.named.iter().cloned()).collect();
            names.sort();
            names
        };
        if methods.iter().any(|method| method.named.is_empty()) {
            let is_in = |method: &Method| methods.iter().any(|other| other.example == method.example);
            Methods::Except(names(&mut self.methods.iter().filter(|method| !is_in(method))))
        } else {
            Methods::Only(names(&mut methods.iter().copied()))
        }
    }

    fn path_set(&self, row: &[bool], options: bool) -> Paths {
        let mut set = Paths { prefixes: Vec::new(), others: false, asterisk: false, unclear: false };
        let classes = || self.paths.iter().zip(row);
        for (class, inside) in classes() {
            match class {
                PathClass::Others => (set.others, set.asterisk, set.unclear) = (*inside, *inside, *inside),
                PathClass::Asterisk if options => set.asterisk = *inside,
                PathClass::Asterisk => {}
                PathClass::Unclear => set.unclear = *inside,
                PathClass::Prefix { .. } => {}
            }
        }
        let mut known: Vec<(String, bool, bool)> = Vec::new();
        // Shorter ones first: what a prefix says that its parent says already is left out.
        for (class, inside) in classes() {
            let PathClass::Prefix { prefix, exactly } = class else { continue };
            let parent =
                known.iter().filter(|(other, exactly, _)| !exactly && lies_below(prefix, other)).max_by_key(|(other, ..)| other.len());
            if parent.map_or(set.others, |(.., inside)| *inside) != *inside {
                known.push((prefix.clone(), *exactly, *inside));
            }
        }
        set.prefixes = known;
        set
    }
}

fn ports<'a>(terms: impl Iterator<Item = &'a Terms>) -> Vec<PortRange> {
    let mut cuts = BTreeSet::from([1, 1 << 16]);
    for range in terms.flat_map(|terms| &terms.ports) {
        cuts.extend([u32::from(range.first).max(1), u32::from(range.last) + 1]);
    }
    let ends = cuts.iter().skip(1);
    let range = |(first, end): (&u32, &u32)| Some(PortRange { first: u16::try_from(*first).ok()?, last: u16::try_from(end - 1).ok()? });
    cuts.iter().zip(ends).filter_map(range).collect()
}

fn methods<'a>(terms: impl Iterator<Item = &'a Terms> + Clone) -> Vec<Method> {
    let mut own: BTreeSet<&str> = terms.clone().flat_map(|terms| &terms.methods).map(String::as_str).collect();
    let denied = terms.clone().filter(|terms| terms.access == Access::Deny).flat_map(|terms| &terms.methods);
    let odd: BTreeSet<String> = denied.map(|method| method.to_ascii_lowercase()).filter(|method| is_odd_case(method)).collect();
    // `OPTIONS *` has no path.
    own.extend(terms.flat_map(|terms| &terms.paths).next().map(|_| "OPTIONS"));
    let reading: Vec<&str> = READING.into_iter().filter(|method| !own.contains(method)).collect();
    let mut methods: Vec<Method> =
        own.iter().map(|method| Method { example: (*method).to_owned(), named: vec![(*method).to_owned()] }).collect();
    methods.extend(odd.iter().map(|method| Method { example: method.clone(), named: vec![method.clone()] }));
    if let Some(first) = reading.first() {
        methods.push(Method { example: (*first).to_owned(), named: reading.iter().map(|method| (*method).to_owned()).collect() });
    }
    let common = ["POST", "PUT", "PATCH", "DELETE"].into_iter().map(str::to_owned);
    let other = common.chain((0..).map(|n| format!("X{n}"))).find(|method| !own.contains(method.as_str()));
    methods.extend(other.map(|example| Method { example, named: Vec::new() }));
    methods
}

/// The classes of paths, each with an example.
fn paths<'a>(terms: impl Iterator<Item = &'a Terms>) -> Vec<(PathClass, String)> {
    let own: BTreeSet<&str> = terms.flat_map(|terms| &terms.paths).map(String::as_str).collect();
    if own.is_empty() {
        return vec![(PathClass::Others, "/".to_owned())];
    }
    // `/v1` is that path, and `/v1/` with what lies below it.
    let exact: BTreeSet<String> = own.iter().filter(|prefix| !prefix.ends_with('/')).map(|prefix| (*prefix).to_owned()).collect();
    let below: BTreeSet<String> = own
        .iter()
        .map(|prefix| if prefix.ends_with('/') { (*prefix).to_owned() } else { format!("{prefix}/") })
        .filter(|prefix| prefix != "/")
        .collect();
    let free = |start: &str| {
        let closest = |path: &str| below.iter().filter(|prefix| path.starts_with(prefix.as_str())).map(String::len).max().unwrap_or(0);
        let own = if start == "/" { 0 } else { start.len() };
        let names = ["", "x", "y", "z"].into_iter().map(str::to_owned).chain((0..).map(|n| format!("x{n}")));
        names.map(|name| format!("{start}{name}")).find(|path| !exact.contains(path) && closest(path) == own)
    };
    let mut classes: Vec<(PathClass, String)> = free("/").map(|example| (PathClass::Others, example)).into_iter().collect();
    let mut prefixes: Vec<(&String, bool)> = exact.iter().map(|path| (path, true)).chain(below.iter().map(|path| (path, false))).collect();
    prefixes.sort_by_key(|(path, exactly)| (path.len(), !exactly));
    for (prefix, exactly) in prefixes {
        let example = if exactly { Some(prefix.clone()) } else { free(prefix) };
        classes.extend(example.map(|example| (PathClass::Prefix { prefix: prefix.clone(), exactly }, example)));
    }
    classes.push((PathClass::Asterisk, ASTERISK.to_owned()));
    classes.push((PathClass::Unclear, UNCLEAR.to_owned()));
    classes
}

/// `any port`, `port 443`, `ports 80, 8000-8999`.
pub(super) fn show_ports(ports: &[PortRange]) -> String {
    let one =
        |range: &PortRange| if range.first == range.last { range.first.to_string() } else { format!("{}-{}", range.first, range.last) };
    match ports {
        [PortRange { first: 1, last: u16::MAX }] => "any port".to_owned(),
        [only] if only.first == only.last => format!("port {}", only.first),
        _ => format!("ports {}", ports.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}

impl std::fmt::Display for Methods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Only(list) => f.write_str(&list.join(", ")),
            Self::Except(list) if list.is_empty() => f.write_str("any method"),
            Self::Except(list) => write!(f, "any method but {}", list.join(", ")),
        }
    }
}

impl std::fmt::Display for Paths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |wanted: bool| -> Vec<String> {
            let chosen = self.prefixes.iter().filter(|(.., inside)| *inside == wanted);
            let mut shown: Vec<String> = Vec::new();
            for (prefix, exactly, _) in chosen {
                match prefix.strip_suffix('/') {
                    // `/v1` and what lies below it are one prefix to a rule.
                    Some(whole) if shown.last().is_some_and(|last| *last == format!("exactly {whole}")) => {
                        shown.pop();
                        shown.push(whole.to_owned());
                    }
                    _ if *exactly => shown.push(format!("exactly {prefix}")),
                    _ => shown.push(prefix.clone()),
                }
            }
            shown
        };
        let mut inside = if self.others { vec!["any path".to_owned()] } else { list(true) };
        let mut outside = list(false);
        let special = [(self.asterisk, "no path (`OPTIONS *`)"), (self.unclear, "paths that servers read in two ways")];
        for (is_in, what) in special {
            if is_in != self.others {
                if is_in { inside.push(what.to_owned()) } else { outside.push(what.to_owned()) }
            }
        }
        f.write_str(&inside.join(", "))?;
        if !outside.is_empty() {
            write!(f, " but {}", outside.join(", "))?;
        }
        let again = if self.others { list(true) } else { Vec::new() };
        if again.is_empty() { Ok(()) } else { write!(f, ", and {}", again.join(", ")) }
    }
}

impl std::fmt::Display for Surface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&show_ports(&self.ports))?;
        let everything = |plain: &Plain| plain.methods.are_all() && plain.paths == Paths::ALL;
        match (self.tunnels, self.plain.as_slice()) {
            (true, [plain]) if everything(plain) => return Ok(()),
            (false, [plain]) if everything(plain) => return f.write_str(", plain HTTP"),
            (true, []) => return f.write_str(", tunnels"),
            (true, _) => f.write_str(", tunnels and plain HTTP: ")?,
            (false, _) => f.write_str(", plain HTTP: ")?,
        }
        for (n, Plain { methods, paths }) in self.plain.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { "; " })?;
            match (methods.are_all(), *paths == Paths::ALL) {
                (_, true) => write!(f, "{methods}")?,
                (true, false) => write!(f, "{paths}")?,
                (false, false) => write!(f, "{methods} of {paths}")?,
            }
        }
        Ok(())
    }
}
