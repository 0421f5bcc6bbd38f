//! What changes between two policies: exactly, not by samples.
//!
//! All requests are cut into finitely many classes that neither policy can tell apart: names by the trie of all names of both policies (`names.rs`) and by the globs that
//! match (`globs.rs`), addresses into ranges (`addresses.rs`), and for each of them ports, methods and paths (`traffic.rs`). One request of each class is put to
//! [`policy_format::decide()`] under both policies; what it says of that one it says of all. So nothing is missed, and every difference has a request that shows it, the
//! *witness*. Classes that only rules speak of which both policies have are left out, if no setting that matters to decisions changed.
//!
//! A name that both policies allow may still lead to different addresses: that is looked at apart, by address, port and way ([`Resolution`]). With several
//! addresses, a request is allowed if each of them is.
//!
//! Blobs are taken to be as the compiler writes them: in one that somebody forged, rules can lie where no name of theirs leads.

mod addresses;
mod globs;
mod hosts;
mod names;
mod report;
mod settings;
mod text;
mod traffic;

pub use addresses::{AddressSet, Shown, Teredo};
pub use hosts::{HostSet, Term, Which};
pub use report::{Cause, Change, Diff, NameKind, ProfileNames, Reach, Resolution, ShownRule, Verdict, Witness};
pub use settings::{Direction, SettingChange};
pub use text::MAX_SHOWN;
pub use traffic::{Methods, Paths, Plain, Surface};

use crate::profiles::Profile;
use globs::{Globs, Group, NONE};
use hosts::{Class, Universe};
use names::Names;
use policy_format::net::METADATA_NAMES;
use policy_format::{
    Access, Blob, Decision, Denied, Host, Hosts, MitmMode, Network, Pattern, PortRange, ProfileId, Protocol, Request, Rule, RuleId,
    RuleKind,
};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;
use traffic::{Space, Terms, Way};

/// Decisions that one comparison may take; one that has to look at many rules counts more than once.
const MAX_DECISIONS: usize = 20_000_000;
/// Rules for one host that a decision looks at in the time of two that look at none.
const RULES_AT_ONCE: usize = 16;

/// Changed globs that are looked at one by one.
const MAX_CHANGED_GLOBS: usize = 64;

/// Why two policies cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// The product of the globs grows without end.
    #[error("the globs of these policies combine in too many ways to compare them exactly")]
    Globs,
    /// Ports, methods and paths do.
    #[error("the ports, methods and paths of these policies combine in too many ways to compare them exactly")]
    Combinations,
}

/// Compares two policies, of each the default profile.
///
/// # Errors
/// [`DiffError`] when the two are so tangled that an exact comparison would take too long.
pub fn compare<B: AsRef<[u8]>>(old: &Blob<B>, new: &Blob<B>) -> Result<Diff, DiffError> {
    compare_profiles(Profile::new(old, ProfileId::default()), Profile::new(new, ProfileId::default()))
}

/// Compares a profile of one policy with a profile of another.
///
/// # Errors
/// [`DiffError`] when the two are so tangled that an exact comparison would take too long.
pub fn compare_profiles<B: AsRef<[u8]>>(old: Profile<'_, B>, new: Profile<'_, B>) -> Result<Diff, DiffError> {
    let mut diff = Diff { settings: settings::compare(old, new), profiles: ProfileNames::compare(old, new), ..Diff::default() };
    // Same bytes, or nothing passes under either.
    let same = old.blob().digest() == new.blob().digest() && old.id() == new.id();
    if same || (old.meta().network != Network::Proxied && new.meta().network != Network::Proxied) {
        return Ok(diff);
    }
    Comparison::new(old, new)?.run(&mut diff)?;
    diff.resolutions.sort_by(|a, b| (a.reach, a.names, &a.cause).cmp(&(b.reach, b.names, &b.cause)));
    Ok(diff)
}

/// A rule, as far as decisions see it.
struct Known {
    id: RuleId,
    kind: RuleKind,
    hosts: String,
    terms: u32,
    /// Whether the other policy has it too.
    shared: bool,
}

/// One of the two policies.
struct Side<'a, B> {
    blob: Profile<'a, B>,
    /// In the order in which they are listed.
    rules: Vec<Known>,
    /// Where each is, by its number in the blob.
    places: HashMap<RuleId, usize>,
}

impl<'a, B: AsRef<[u8]>> Side<'a, B> {
    fn new(blob: Profile<'a, B>, rules: Vec<Known>) -> Self {
        let places = rules.iter().enumerate().map(|(at, rule)| (rule.id, at)).collect();
        Self { blob, rules, places }
    }

    fn rule(&self, id: RuleId) -> Option<&Known> {
        self.rules.get(self.place(id)?)
    }

    fn place(&self, id: RuleId) -> Option<usize> {
        self.places.get(&id).copied()
    }

    fn shown(&self, id: RuleId) -> Option<ShownRule> {
        let rule: Rule = self.blob.rule(id)?;
        let mut text = format!("{} {rule}", rule.access);
        for (list, what) in [(&rule.methods, "methods"), (&rule.paths, "paths")] {
            if !list.is_empty() {
                text.push_str(&format!(" ({what} {})", hosts::few(list)));
            }
        }
        Some(ShownRule { text, place: rule.place() })
    }

    fn verdict(&self, decision: Decision) -> Verdict {
        let rule = |id: Option<RuleId>| id.and_then(|id| self.shown(id));
        match decision {
            Decision::Allow(allowed) => {
                Verdict { text: if allowed.read_only { "allow read-only" } else { "allow" }.to_owned(), rule: rule(Some(allowed.rule)) }
            }
            Decision::Deny(denied) => Verdict { text: denied.reason.to_string(), rule: rule(denied.rule) },
        }
    }
}

/// What makes a difference, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum CauseId {
    Other,
    /// The rule's place in the list.
    Added(usize),
    Removed(usize),
}

/// Hosts for which the same changes for the same cause.
struct Bundle {
    classes: Vec<Class>,
    ranges: Vec<usize>,
    seen: Box<Seen>,
}

/// A request that shows a difference.
struct Seen {
    host: Host,
    way: Way,
    port: u16,
}

/// What a bundle is kept under: how reach changes, why, and the number of the surfaces.
type BundleKey = (Reach, CauseId, usize);

/// A space, by its place, and requests in it: port and way.
type CutKey = (*const Space, Vec<(usize, usize)>);

struct Comparison<'a, B> {
    old: Side<'a, B>,
    new: Side<'a, B>,
    terms: Vec<Terms>,
    names: Names,
    /// For each name, whether decisions on it, and on what lies below it, can differ.
    dirty: Vec<(bool, bool)>,
    /// Whether decisions on all hosts can differ.
    everything: bool,
    /// Whether settings make them differ, so that they can for every request.
    settings_matter: bool,
    /// Whether decisions on names that some glob matches can.
    globs_changed: bool,
    globs: Globs,
    below: globs::Below,
    no_names_below: HashSet<usize>,
    ranges: addresses::Ranges,
    /// Whether any rule, or any setting, speaks of ports, methods or paths.
    conditions: bool,
    /// Ports of settings, as terms.
    own_ports: Vec<u32>,
    spaces: HashMap<Vec<u32>, Rc<Space>>,
    /// Numbers of surfaces, by the space and the requests in it.
    cut: HashMap<CutKey, usize>,
    surfaces: Vec<Vec<Surface>>,
    surface_numbers: HashMap<Vec<Surface>, usize>,
    bundles: HashMap<BundleKey, Bundle>,
    blocked_otherwise: usize,
    decisions: usize,
}

fn read_rules<B: AsRef<[u8]>>(blob: Profile<'_, B>, terms: &mut Vec<Terms>, numbers: &mut HashMap<Terms, u32>) -> Vec<Known> {
    let mut number = |own: Terms| {
        *numbers.entry(own).or_insert_with_key(|own| {
            terms.push(own.clone());
            u32::try_from(terms.len() - 1).unwrap_or(u32::MAX)
        })
    };
    blob.rules()
        .map(|rule| {
            let terms = number(Terms { access: rule.access, ports: rule.ports, methods: rule.methods, paths: rule.paths });
            Known { id: rule.id, kind: rule.kind, hosts: rule.hosts, terms, shared: false }
        })
        .collect()
}

fn mark_shared(a: &mut [Known], b: &mut [Known]) {
    let key = |rule: &Known| (rule.kind, rule.hosts.clone(), rule.terms);
    let (of_a, of_b): (HashSet<_>, HashSet<_>) = (a.iter().map(key).collect(), b.iter().map(key).collect());
    for (rules, others) in [(a, of_b), (b, of_a)] {
        for rule in rules {
            rule.shared = others.contains(&key(rule));
        }
    }
}

/// The name in the pattern of a rule that names names.
fn name_of(rule: &Known) -> Option<&str> {
    match rule.kind {
        RuleKind::Exact => Some(&rule.hosts),
        RuleKind::Subdomains => rule.hosts.strip_prefix("*."),
        RuleKind::ApexAndSubdomains => rule.hosts.strip_prefix("**."),
        RuleKind::Any | RuleKind::Network | RuleKind::Glob => None,
    }
}

/// Hosts, with the ports, that settings single out: those with hooks, those whose TLS stays closed, and those that credentials are for.
fn singled_out<B: AsRef<[u8]>>(blob: Profile<'_, B>) -> BTreeSet<(String, Option<u16>)> {
    let (meta, settings) = (blob.meta(), blob.settings());
    let hooks = blob.hooks().map(|hook| (hook.host.clone(), None));
    let bypassed = meta.mitm.bypass.iter().filter_map(|text| {
        let pattern = Pattern::parse(text).ok()?;
        Some((pattern.hosts.to_string(), pattern.port))
    });
    let credentials = settings.credentials.iter().filter(|_| meta.credential_broker).flat_map(|credential| &credential.url_prefixes);
    hooks.chain(bypassed).chain(credentials.map(|prefix| (prefix.host.to_string(), Some(prefix.port)))).collect()
}

/// What the denies of a policy say of an IPv4 address, by the numbers of their terms.
fn denies<B: AsRef<[u8]>>(side: &Side<'_, B>, ip: std::net::Ipv4Addr) -> BTreeSet<u32> {
    let host = Host::Ip(IpAddr::V4(ip));
    let request = Request::connect(&host, 443);
    let rules = side.blob.named_by(&request).into_iter().filter(|named| named.rank > 0).filter_map(|named| {
        let rule = side.rule(named.rule).filter(|rule| rule.kind == RuleKind::Network)?;
        Some((rule.terms, side.blob.rule(named.rule)?.access))
    });
    rules.filter(|(_, access)| *access == Access::Deny).map(|(terms, _)| terms).collect()
}

/// Whether settings that decisions depend on differ.
fn settings_matter<B: AsRef<[u8]>>(old: Profile<'_, B>, new: Profile<'_, B>) -> bool {
    let of = |blob: Profile<'_, B>| {
        let meta = blob.meta();
        let bypassed: BTreeSet<String> = meta.mitm.bypass.iter().cloned().collect();
        let settings = (meta.network, meta.mode, meta.allow_local_binding, meta.mitm.mode == MitmMode::Always);
        (settings, bypassed, blob.settings().bypass_read_only)
    };
    of(old) != of(new) || singled_out(old) != singled_out(new)
}

/// What the rules of a glob say, in the old policy and (`true`) in the new one, by the numbers of their terms.
type Says = BTreeSet<(bool, u32)>;

/// What globs have in common that are looked at as one: what is said of them, the text if only one policy says so, the program if it matters how much it fixes.
type GroupKey = (Says, Option<String>, Option<Vec<u8>>);

/// A glob of either policy.
#[derive(Default)]
struct OwnGlob {
    programs: Vec<Vec<u8>>,
    says: Says,
    /// Whether only one policy has one of its rules.
    changed: bool,
}

/// The globs of both policies, grouped: programs whose rules say the same. How much of a name a glob fixes matters only where read-only rules and others compete.
fn glob_groups<B: AsRef<[u8]>>(old: &Side<'_, B>, new: &Side<'_, B>, terms: &[Terms], coarse: bool) -> Vec<Group> {
    let competing = terms.iter().any(|terms| terms.access == Access::ReadOnly);
    // For each glob, its programs and what the rules of both policies say of it.
    let mut globs: BTreeMap<String, OwnGlob> = BTreeMap::new();
    for (is_new, side) in [(false, old), (true, new)] {
        for (id, programs) in side.blob.blob().globs() {
            let Some(rule) = side.rule(id) else { continue };
            let entry = globs.entry(rule.hosts.clone()).or_default();
            entry.programs.extend(programs.into_iter().map(<[u8]>::to_vec));
            entry.says.insert((is_new, rule.terms));
            entry.changed |= !rule.shared;
        }
    }
    let mut groups: Vec<Group> = Vec::new();
    // Many that changed would combine without end: which of them matches is then not told apart.
    let coarse = coarse || globs.values().filter(|glob| glob.changed).count() > MAX_CHANGED_GLOBS;
    let mut known: HashMap<GroupKey, usize> = HashMap::new();
    for (text, OwnGlob { mut programs, says, changed }) in globs {
        programs.sort();
        programs.dedup();
        let denies = says.iter().all(|(_, number)| terms.get(*number as usize).is_some_and(|terms| terms.access == Access::Deny));
        for program in programs {
            let ranked = competing && !denies;
            let own_text = Some(text.clone()).filter(|_| changed && !coarse);
            let key = (says.clone(), own_text, ranked.then(|| program.clone()));
            let at = *known.entry(key).or_insert_with(|| {
                groups.push(Group { texts: Vec::new(), programs: Vec::new(), changed: false });
                groups.len() - 1
            });
            if let Some(group) = groups.get_mut(at) {
                group.changed |= changed;
                let shown = if ranked { globs::spell(&program) } else { text.clone() };
                if !group.texts.contains(&shown) {
                    group.texts.push(shown);
                }
                group.programs.push(program);
            }
        }
    }
    groups
}

impl<'a, B: AsRef<[u8]>> Comparison<'a, B> {
    fn new(old: Profile<'a, B>, new: Profile<'a, B>) -> Result<Self, DiffError> {
        let (mut terms, mut numbers) = (Vec::new(), HashMap::new());
        let mut of_old = read_rules(old, &mut terms, &mut numbers);
        let mut of_new = read_rules(new, &mut terms, &mut numbers);
        mark_shared(&mut of_old, &mut of_new);
        let (old, new) = (Side::new(old, of_old), Side::new(new, of_new));
        let rules = || old.rules.iter().chain(&new.rules);
        let singled_out: BTreeSet<(String, Option<u16>)> = [old.blob, new.blob].into_iter().flat_map(singled_out).collect();
        let patterns = singled_out.iter().filter_map(|(host, _)| Some(Pattern::parse(host).ok()?.hosts));
        // A port that only a setting names cuts as that of a rule does, for every host.
        let ports: BTreeSet<u16> = singled_out.iter().filter_map(|(_, port)| *port).collect();
        let mut own_ports = Vec::with_capacity(ports.len());
        for port in ports {
            let ports = vec![PortRange { first: port, last: port }];
            own_ports.extend(u32::try_from(terms.len()));
            terms.push(Terms { access: Access::Allow, ports, methods: Vec::new(), paths: Vec::new() });
        }
        let (mut hook_names, mut networks) = (Vec::new(), Vec::new());
        for hosts in patterns {
            match hosts {
                Hosts::Exact(name) | Hosts::Subdomains(name) | Hosts::ApexAndSubdomains(name) => hook_names.push(name.as_str().to_owned()),
                Hosts::Network(network) => networks.push(network),
                Hosts::Any | Hosts::Glob(_) => {}
            }
        }
        let special = ["localhost"].into_iter().chain(METADATA_NAMES).map(str::to_owned);
        let names = Names::new(rules().filter_map(name_of).map(str::to_owned).chain(hook_names).chain(special));
        networks.extend(rules().filter(|rule| rule.kind == RuleKind::Network).filter_map(|rule| {
            match Pattern::parse(&rule.hosts).ok()?.hosts {
                Hosts::Network(network) => Some(network),
                _ => None,
            }
        }));
        let changed = |kinds: &[RuleKind]| rules().any(|rule| !rule.shared && kinds.contains(&rule.kind));
        let matter = settings_matter(old.blob, new.blob);
        let everything = matter || changed(&[RuleKind::Any]);
        let globs_changed = changed(&[RuleKind::Glob]);
        // No range can differ if no rule for one does.
        let ranges = if everything || changed(&[RuleKind::Network]) {
            addresses::Ranges::new(networks.into_iter(), |ip| (denies(&old, ip), denies(&new, ip)))?
        } else {
            addresses::Ranges::default()
        };
        let mut comparison = Self {
            dirty: vec![(everything, everything); names.len()],
            everything,
            settings_matter: matter,
            globs_changed,
            globs: Globs::new(Vec::new())?,
            below: globs::Below::new(),
            no_names_below: HashSet::new(),
            ranges,
            conditions: terms.iter().any(|terms| !terms.is_plain()),
            own_ports,
            spaces: HashMap::new(),
            cut: HashMap::new(),
            surfaces: Vec::new(),
            surface_numbers: HashMap::new(),
            bundles: HashMap::new(),
            blocked_otherwise: 0,
            decisions: 0,
            old,
            new,
            terms,
            names,
        };
        comparison.mark_dirty();
        comparison.run_globs()?;
        Ok(comparison)
    }

    fn mark_dirty(&mut self) {
        for rule in self.old.rules.iter().chain(&self.new.rules).filter(|rule| !rule.shared) {
            let Some(place) = name_of(rule).and_then(|name| self.names.find(name)).and_then(|index| self.dirty.get_mut(index)) else {
                continue;
            };
            place.0 |= rule.kind != RuleKind::Subdomains;
            place.1 |= rule.kind != RuleKind::Exact;
        }
        // Parents come before their children.
        for (index, node) in self.names.nodes().iter().enumerate().skip(1) {
            let above = self.dirty.get(node.parent).is_some_and(|(_, below)| *below);
            if let Some(place) = self.dirty.get_mut(index).filter(|_| above) {
                *place = (true, true);
            }
        }
    }

    fn run_globs(&mut self) -> Result<(), DiffError> {
        for coarse in [false, true] {
            let groups = glob_groups(&self.old, &self.new, &self.terms, coarse);
            if groups.is_empty() {
                return Ok(());
            }
            let dirty = &self.dirty;
            let wanted = |index: usize| self.globs_changed || dirty.get(index).is_some_and(|(_, below)| *below);
            let mut globs = Globs::new(groups)?;
            match globs.below(&self.names, &wanted) {
                Ok(below) => {
                    (self.globs, self.below) = (globs, below);
                    return Ok(());
                }
                Err(error) if coarse => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn run(mut self, diff: &mut Diff) -> Result<(), DiffError> {
        for index in 0..self.names.len() {
            let (exact, below) = self.dirty.get(index).copied().unwrap_or_default();
            self.compare_node(index, exact, below)?;
        }
        for index in 0..self.ranges.len() {
            let Some(range) = self.ranges.get(index).copied().filter(|range| self.is_dirty(range)) else { continue };
            self.compare_host(&Host::Ip(range.example), Member::Range(index))?;
        }
        let resolutions = self.resolutions()?;
        diff.blocked_otherwise = self.blocked_otherwise;
        diff.resolutions = resolutions;
        diff.changes = self.changes()?;
        Ok(())
    }

    /// The classes of names at a node.
    fn classes(&mut self, index: usize, exact: bool, below: bool) -> Vec<(Class, Host)> {
        let mut classes = Vec::new();
        if exact && index > 0 {
            let host = self.names.get(index).and_then(|node| names::host(&node.name));
            classes.extend(host.map(|host| (Class { node: index, below: false, set: NONE }, host)));
        }
        if below {
            match self.below.get(&index) {
                Some(sets) => classes.extend(
                    sets.iter().filter_map(|(set, name)| Some((Class { node: index, below: true, set: *set }, names::host(name)?))),
                ),
                None => classes.extend(self.names.below(index).map(|host| (Class { node: index, below: true, set: NONE }, host))),
            }
            if classes.last().is_none_or(|(class, _)| !class.below) {
                self.no_names_below.insert(index);
            }
        }
        classes
    }

    fn compare_node(&mut self, index: usize, exact: bool, below: bool) -> Result<(), DiffError> {
        for (class, host) in self.classes(index, exact || self.globs_changed, below || self.globs_changed) {
            let dirty = if class.below { below } else { exact };
            if dirty || self.has_changed_glob(&class, &host)? {
                self.compare_host(&host, Member::Class(class))?;
            }
        }
        Ok(())
    }

    fn has_changed_glob(&mut self, class: &Class, host: &Host) -> Result<bool, DiffError> {
        let set = match host.name().filter(|_| !class.below) {
            Some(name) => self.globs.of_name(name.as_str())?,
            None => class.set,
        };
        Ok(self.globs.set(set).iter().any(|group| self.globs.groups.get(*group as usize).is_some_and(|group| group.changed)))
    }

    /// Whether decisions on a range can differ.
    fn is_dirty(&self, range: &addresses::Range) -> bool {
        let host = Host::Ip(range.example);
        let request = Request::connect(&host, 443);
        let changed =
            |side: &Side<'_, B>| side.blob.named_by(&request).iter().any(|named| side.rule(named.rule).is_some_and(|rule| !rule.shared));
        self.everything || changed(&self.old) || changed(&self.new)
    }

    /// The requests to a host, as the rules of both policies for it cut them.
    fn space(&mut self, hosts: &[&Host]) -> Result<Asked, DiffError> {
        let mut own: Vec<u32> = self.own_ports.clone();
        let mut rules = 0;
        let mut changed: Vec<PortRange> = Vec::new();
        for host in hosts.iter().filter(|_| self.conditions) {
            let request = Request::connect(host, 443);
            for side in [&self.old, &self.new] {
                for named in side.blob.named_by(&request) {
                    rules += 1;
                    let Some(rule) = side.rule(named.rule) else { continue };
                    let Some(terms) = self.terms.get(rule.terms as usize) else { continue };
                    own.extend(Some(rule.terms).filter(|_| !terms.is_plain()));
                    match terms.ports.as_slice() {
                        _ if rule.shared => {}
                        [] => changed.push(ALL_PORTS),
                        ports => changed.extend(ports),
                    }
                }
            }
        }
        if self.settings_matter || !self.conditions {
            changed = vec![ALL_PORTS];
        }
        self.count(rules / RULES_AT_ONCE)?;
        own.sort_unstable();
        own.dedup();
        let space = match self.spaces.get(&own) {
            Some(space) => Rc::clone(space),
            None => {
                let space = Rc::new(Space::new(own.iter().filter_map(|terms| self.terms.get(*terms as usize)))?);
                self.count(space.cells())?;
                self.spaces.insert(own, Rc::clone(&space));
                space
            }
        };
        let changed = space.overlapping(&changed);
        Ok(Asked { space, changed, weight: 2 + rules / RULES_AT_ONCE })
    }

    fn count(&mut self, decisions: usize) -> Result<(), DiffError> {
        self.decisions = self.decisions.saturating_add(decisions);
        if self.decisions > MAX_DECISIONS { Err(DiffError::Combinations) } else { Ok(()) }
    }

    fn cause(&self, old: Option<RuleId>, new: Option<RuleId>) -> CauseId {
        let own =
            |side: &Side<'_, B>, id: Option<RuleId>| side.place(id?).filter(|at| side.rules.get(*at).is_some_and(|rule| !rule.shared));
        let (added, removed) = (own(&self.new, new).map(CauseId::Added), own(&self.old, old).map(CauseId::Removed));
        added.or(removed).unwrap_or(CauseId::Other)
    }

    /// The rule for a network of an address that only one policy has: what opens an address is not named in the answer.
    fn network_cause(&self, ip: IpAddr) -> CauseId {
        let host = Host::Ip(ip);
        let request = Request::connect(&host, 443);
        let own = |side: &Side<'_, B>| {
            let is_own = |at: &usize| side.rules.get(*at).is_some_and(|rule| !rule.shared && rule.kind == RuleKind::Network);
            side.blob.named_by(&request).into_iter().filter_map(|named| side.place(named.rule)).find(is_own)
        };
        own(&self.new).map(CauseId::Added).or_else(|| own(&self.old).map(CauseId::Removed)).unwrap_or(CauseId::Other)
    }

    fn compare_host(&mut self, host: &Host, member: Member) -> Result<(), DiffError> {
        let Asked { space, changed, weight } = self.space(&[host])?;
        self.count(weight.saturating_mul(changed.len() * space.ways.len()))?;
        let mut found: BTreeMap<(Reach, CauseId), Vec<(usize, usize)>> = BTreeMap::new();
        let mut otherwise = false;
        for (at, range) in changed.iter().filter_map(|at| Some((*at, space.ports.get(*at)?))) {
            for (number, way) in space.ways.iter().enumerate().filter(|(_, way)| way.is_possible()) {
                let request = request(way, host, range.first, &[]);
                let (old, new) = (self.old.blob.decide(&request), self.new.blob.decide(&request));
                match (old, new) {
                    (Decision::Allow(_), Decision::Allow(_)) => {}
                    (Decision::Deny(old), Decision::Deny(new)) => otherwise |= old.reason != new.reason,
                    (Decision::Deny(old), Decision::Allow(new)) => {
                        let cause = self.cause(old.rule, Some(new.rule));
                        found.entry((Reach::Opened, cause)).or_default().push((at, number));
                    }
                    (Decision::Allow(old), Decision::Deny(new)) => {
                        let cause = self.cause(Some(old.rule), new.rule);
                        found.entry((Reach::Closed, cause)).or_default().push((at, number));
                    }
                }
            }
        }
        self.blocked_otherwise += usize::from(otherwise);
        for ((reach, cause), cells) in found {
            let surfaces = self.cut(&space, &cells)?;
            let key = (reach, cause, surfaces);
            let bundle = match self.bundles.entry(key) {
                Entry::Occupied(bundle) => bundle.into_mut(),
                Entry::Vacant(place) => {
                    let Some(seen) = witness(&space, &cells, host) else { continue };
                    place.insert(Bundle { classes: Vec::new(), ranges: Vec::new(), seen: Box::new(seen) })
                }
            };
            match member {
                Member::Class(class) => bundle.classes.push(class),
                Member::Range(index) => bundle.ranges.push(index),
            }
        }
        Ok(())
    }

    /// The number of the surfaces that some requests make up.
    fn cut(&mut self, space: &Rc<Space>, cells: &[(usize, usize)]) -> Result<usize, DiffError> {
        // Spaces are kept, so that their places name them.
        let key = (Rc::as_ptr(space), cells.to_vec());
        if let Some(number) = self.cut.get(&key) {
            return Ok(*number);
        }
        self.count(space.words(space.cells()))?;
        let number = self.number(space.surfaces(|port, way| cells.binary_search(&(port, way)).is_ok()));
        self.cut.insert(key, number);
        Ok(number)
    }

    fn number(&mut self, surfaces: Vec<Surface>) -> usize {
        if let Some(number) = self.surface_numbers.get(&surfaces) {
            return *number;
        }
        let number = self.surfaces.len();
        self.surfaces.push(surfaces.clone());
        self.surface_numbers.insert(surfaces, number);
        number
    }

    fn show(&self, way: &Way, host: &Host, port: u16, address: Option<IpAddr>) -> Witness {
        let request = request(way, host, port, address.as_slice());
        Witness {
            protocol: way.protocol,
            host: host.clone(),
            port,
            method: way.method.clone(),
            path: way.path.clone(),
            address,
            old: self.old.verdict(self.old.blob.decide(&request)),
            new: self.new.verdict(self.new.blob.decide(&request)),
        }
    }

    fn shown_cause(&self, cause: CauseId) -> Cause {
        match cause {
            CauseId::Other => None,
            CauseId::Added(at) => self.new.rules.get(at).and_then(|rule| self.new.shown(rule.id)).map(Cause::Added),
            CauseId::Removed(at) => self.old.rules.get(at).and_then(|rule| self.old.shown(rule.id)).map(Cause::Removed),
        }
        .unwrap_or(Cause::Other)
    }

    /// What was found: of each direction first what has the most hosts.
    fn changes(&mut self) -> Result<Vec<Change>, DiffError> {
        let mut bundles: Vec<(BundleKey, Bundle)> = std::mem::take(&mut self.bundles).into_iter().collect();
        bundles.sort_unstable_by_key(|((reach, cause, surfaces), bundle)| {
            let added = matches!(cause, CauseId::Added(_));
            (*reach, std::cmp::Reverse(bundle.classes.len() + bundle.ranges.len()), !added, *cause, *surfaces)
        });
        let no_names = &self.no_names_below;
        let names = &self.names;
        let empty = |index: usize, below: bool| {
            if below { no_names.contains(&index) } else { names.get(index).is_none_or(|node| names::host(&node.name).is_none()) }
        };
        let mut universe = Universe { names, globs: &mut self.globs, below: &self.below, empty: &empty, ranges: &self.ranges };
        let mut hosts = Vec::with_capacity(bundles.len());
        for (_, bundle) in &bundles {
            hosts.push(universe.host_set(&bundle.classes, &bundle.ranges)?);
        }
        let change = |(((reach, cause, surfaces), bundle), hosts): ((BundleKey, Bundle), HostSet)| Change {
            reach,
            hosts,
            surfaces: self.surfaces.get(surfaces).cloned().unwrap_or_default(),
            cause: self.shown_cause(cause),
            witness: self.show(&bundle.seen.way, &bundle.seen.host, bundle.seen.port, None),
        };
        Ok(bundles.into_iter().zip(hosts).map(change).collect())
    }

    /// Where names that both policies allow may lead under one of them only.
    fn resolutions(&mut self) -> Result<Vec<Resolution>, DiffError> {
        let mut found: HashMap<(NameKind, BundleKey), Vec<usize>> = HashMap::new();
        for index in 0..self.ranges.len() {
            let Some(range) = self.ranges.get(index).copied().filter(|range| self.is_dirty(range)) else { continue };
            let Asked { space, changed, weight } = self.space(&[&Host::Ip(range.example)])?;
            for (kind, name) in [(NameKind::Ordinary, "host.example"), (NameKind::Localhost, "localhost"), (NameKind::Metadata, "metadata")]
            {
                let Some(host) = names::host(name) else { continue };
                self.count(weight.saturating_mul(changed.len() * space.ways.len()))?;
                let mut cells: BTreeMap<(Reach, CauseId), Vec<(usize, usize)>> = BTreeMap::new();
                for (at, ports) in changed.iter().filter_map(|at| Some((*at, space.ports.get(*at)?))) {
                    for (number, way) in space.ways.iter().enumerate().filter(|(_, way)| way.is_possible()) {
                        let request = request(way, &host, ports.first, &[]);
                        let old = self.old.blob.decide_address(&request, range.example);
                        let new = self.new.blob.decide_address(&request, range.example);
                        let rule = |result: Result<(), Denied>| result.err().and_then(|denied| denied.rule);
                        let reach = match (&old, &new) {
                            (Err(_), Ok(())) => Reach::Opened,
                            (Ok(()), Err(_)) => Reach::Closed,
                            _ => continue,
                        };
                        let cause = match self.cause(rule(old), rule(new)) {
                            CauseId::Other => self.network_cause(range.example),
                            cause => cause,
                        };
                        cells.entry((reach, cause)).or_default().push((at, number));
                    }
                }
                for ((reach, cause), cells) in cells {
                    let surfaces = self.cut(&space, &cells)?;
                    found.entry((kind, (reach, cause, surfaces))).or_default().push(index);
                }
            }
        }
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let examples = self.allowed_by_both()?;
        let mut resolutions = Vec::new();
        let mut sorted: Vec<_> = found.into_iter().collect();
        sorted.sort();
        for ((kind, (reach, cause, surfaces)), members) in sorted {
            let Some(witness) = self.resolution_witness(kind, reach, surfaces, &members, &examples)? else { continue };
            resolutions.push(Resolution {
                reach,
                names: kind,
                addresses: self.ranges.set(&members),
                shown: self.ranges.show(&members),
                surfaces: self.surfaces.get(surfaces).cloned().unwrap_or_default(),
                cause: self.shown_cause(cause),
                witness,
            });
        }
        Ok(resolutions)
    }

    /// Names that both policies allow, one for every kind of name and set of requests for which they do.
    fn allowed_by_both(&mut self) -> Result<Vec<(NameKind, Host)>, DiffError> {
        // The classes of all names, not only of those on which decisions differ.
        if !self.everything && !self.globs_changed {
            self.below = self.globs.below(&self.names, &|_| true)?;
        }
        let mut seen: HashMap<(NameKind, usize), Host> = HashMap::new();
        for index in 0..self.names.len() {
            for (_, host) in self.classes(index, true, true) {
                let Some(kind) = NameKind::of(&host) else { continue };
                let Asked { space, weight, .. } = self.space(&[&host])?;
                self.count(weight.saturating_mul(space.words(space.cells())))?;
                let both = |port: usize, way: usize| {
                    let (Some(range), Some(way)) = (space.ports.get(port), space.ways.get(way)) else { return false };
                    let request = request(way, &host, range.first, &[]);
                    let allows = |side: &Side<'_, B>| matches!(side.blob.decide(&request), Decision::Allow(_));
                    way.is_possible() && allows(&self.old) && allows(&self.new)
                };
                let surfaces = space.surfaces(both);
                if !surfaces.is_empty() {
                    let number = self.number(surfaces);
                    seen.entry((kind, number)).or_insert(host);
                }
            }
        }
        let mut examples: Vec<((NameKind, usize), Host)> = seen.into_iter().collect();
        examples.sort_by_key(|(key, _)| *key);
        Ok(examples.into_iter().map(|((kind, _), host)| (kind, host)).collect())
    }

    /// A request that both policies allow as it stands, and that leads to one of the ranges, which only one of them allows.
    fn resolution_witness(
        &mut self,
        kind: NameKind,
        reach: Reach,
        surfaces: usize,
        members: &[usize],
        examples: &[(NameKind, Host)],
    ) -> Result<Option<Witness>, DiffError> {
        let Some(range) = members.first().and_then(|index| self.ranges.get(*index)).copied() else { return Ok(None) };
        let address = Host::Ip(range.example);
        for (_, host) in examples.iter().filter(|(other, _)| *other == kind) {
            let Asked { space, weight, .. } = self.space(&[host, &address])?;
            self.count(weight.saturating_mul(2 * space.cells()))?;
            for ports in &space.ports {
                for way in space.ways.iter().filter(|way| way.is_possible()) {
                    let addresses = [range.example];
                    let (bare, full) = (request(way, host, ports.first, &[]), request(way, host, ports.first, &addresses));
                    let allows = |side: &Side<'_, B>, request: &Request<'_>| matches!(side.blob.decide(request), Decision::Allow(_));
                    let wanted = if reach == Reach::Opened { (false, true) } else { (true, false) };
                    let inside = self.surfaces.get(surfaces).is_some_and(|surfaces| surfaces.iter().any(|surface| surface.holds(&bare)));
                    if inside
                        && allows(&self.old, &bare)
                        && allows(&self.new, &bare)
                        && (allows(&self.old, &full), allows(&self.new, &full)) == wanted
                    {
                        let usual = if way.protocol == Protocol::Http { 80 } else { 443 };
                        let port = if (ports.first..=ports.last).contains(&usual) { usual } else { ports.first };
                        return Ok(Some(self.show(way, host, port, Some(range.example))));
                    }
                }
            }
        }
        Ok(None)
    }
}

const ALL_PORTS: PortRange = PortRange { first: 1, last: u16::MAX };

/// What is asked of one host.
struct Asked {
    space: Rc<Space>,
    /// The ports, by their places in the space, on which decisions can differ: some rule speaks of them that only one policy has.
    changed: Vec<usize>,
    /// How much both decisions on one request count.
    weight: usize,
}

/// What is being compared.
#[derive(Clone, Copy)]
enum Member {
    Class(Class),
    Range(usize),
}

fn request<'a>(way: &'a Way, host: &'a Host, port: u16, addresses: &'a [IpAddr]) -> Request<'a> {
    Request {
        profile: ProfileId::default(),
        protocol: way.protocol,
        host,
        port,
        method: way.method.as_deref(),
        path: way.path.as_deref(),
        addresses,
        inside: None,
        can_intercept: false,
    }
}

/// The most ordinary of some requests: a tunnel to 443 if there is one, else a plain request to 80.
fn witness(space: &Space, cells: &[(usize, usize)], host: &Host) -> Option<Seen> {
    let wanted = |way: &Way| if way.protocol == Protocol::Http { 80 } else { 443 };
    let usual = |(port, way): &&(usize, usize)| -> Option<bool> {
        let (range, way) = (space.ports.get(*port)?, space.ways.get(*way)?);
        Some((range.first..=range.last).contains(&wanted(way)))
    };
    let (port, way) = cells.iter().filter(|cell| usual(cell) == Some(true)).min_by_key(|(_, way)| *way).or(cells.first())?;
    let (range, way) = (space.ports.get(*port)?, space.ways.get(*way)?);
    let port = if (range.first..=range.last).contains(&wanted(way)) { wanted(way) } else { range.first };
    Some(Seen { host: host.clone(), way: way.clone(), port })
}
