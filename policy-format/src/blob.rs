//! `Blob`: the container over any bytes. It validates all of them once, then lends views.
//!
//! Order of validation: header, section table and the header of the trie (constant time, nothing else may be touched before), digest (so that damage is called
//! damage), cold records, then every record of every section (`check.rs`). A lookup nevertheless checks bounds: memory safety does not rest on validation.

use crate::addresses::Addresses;
use crate::automaton::Automata;
use crate::conditions::Conditions;
use crate::error::FormatError;
use crate::glob::OWNER_LEN;
use crate::header::{self, Digest, Layout, SectionKind};
use crate::hooks::Hooks;
use crate::host::{Host, MAX_NAME, Name};
use crate::net::Network;
use crate::pattern::Pattern;
use crate::reader::{bytes, record, record_count, u16_at, u32_at};
use crate::records::{Hook, Layer, MAX_PROFILES, MAX_RECORDS, Meta, MitmMode, Mode, ProfileId, Profiles, Source};
use crate::request::{Protocol, Request};
use crate::rules::{Access, PortRange, RULE_LEN, RuleId, RuleKind, RuleRecord, TERMS_LEN, TermsRecord};
use crate::settings::{Constraints, Settings};
use crate::settings_record;
use crate::socket_denies;
use crate::trie::{self, Node, Trie};
use serde::de::DeserializeOwned;
use std::fmt;
use std::sync::LazyLock;

/// A validated policy over any bytes: a vector, a static, a memory map.
#[derive(Clone)]
pub struct Blob<B> {
    data: B,
    layout: Layout,
    trie: trie::Header,
    /// How many rules section `rules` has.
    listed: u32,
    /// The terms from this one on deny.
    first_deny: u32,
    profiles: Vec<Meta>,
    settings: Vec<Settings>,
    sources: Vec<Source>,
    hooks: Vec<Hook>,
    matchers: Hooks,
    /// Of each profile, the hosts whose TLS stays closed.
    bypassed: Vec<Vec<Pattern>>,
}

/// A rule that names a host by name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NamedRule {
    pub(crate) id: RuleId,
    /// Bytes of the name that the rule fixes.
    pub(crate) suffix: usize,
    pub(crate) kind: RuleKind,
    pub(crate) terms: u32,
}

/// The closest rules for a name: what [`Blob::closest`] finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Closest {
    /// Of those that allow, read-only ones included.
    pub allow: Option<RuleId>,
    /// Of those that deny.
    pub deny: Option<RuleId>,
}

/// The order in which rules are listed.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum RuleKey {
    Any,
    /// Labels from the right with zeros between them: parents sort before their children, and nothing between them.
    Name(Box<[u8]>, RuleKind),
    /// As they stand.
    Network,
    Glob,
}

/// Stands in where there is no profile: nothing may pass.
static NO_PROFILE: LazyLock<Meta> = LazyLock::new(|| Meta { network: crate::records::Network::Blocked, ..Meta::default() });

/// Rules beyond which no list of hosts is made.
const MAX_INTERCEPTED: usize = 4096;

/// The hosts whose TLS may be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intercepted {
    /// Any host, or more of them than can be listed.
    All,
    /// Those of these patterns, without ports, sorted.
    Hosts(Vec<String>),
}

/// A rule, spelt out for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Number within the blob.
    pub id: RuleId,
    /// How it names its hosts.
    pub kind: RuleKind,
    /// The hosts it names, as a normalised pattern without ports.
    pub hosts: String,
    /// The ports it speaks of; none means every port.
    pub ports: Vec<PortRange>,
    /// What it does.
    pub access: Access,
    /// The methods it speaks of; none means every method.
    pub methods: Vec<String>,
    /// The paths it speaks of, and what lies below them; none means every path.
    pub paths: Vec<String>,
    /// What its author says of it; may be empty.
    pub reason: String,
    /// The layer that has it.
    pub layer: Layer,
    /// The file, or other place, that has it.
    pub label: String,
    /// The line there, from 1; 0 when there is none.
    pub line: u32,
    /// The profiles that have it.
    pub profiles: Profiles,
}

impl fmt::Display for Rule {
    /// The pattern as it could be written: `*.example.com`, `example.com:8443`, `example.com (ports 1-2, 5)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ports.as_slice() {
            [] => f.write_str(&self.hosts),
            [only] if only.first == only.last && self.hosts.contains(':') => write!(f, "[{}]:{}", self.hosts, only.first),
            [only] if only.first == only.last => write!(f, "{}:{}", self.hosts, only.first),
            ports => {
                write!(f, "{} (ports ", self.hosts)?;
                for (n, range) in ports.iter().enumerate() {
                    let comma = if n == 0 { "" } else { ", " };
                    if range.first == range.last {
                        write!(f, "{comma}{}", range.first)?
                    } else {
                        write!(f, "{comma}{}-{}", range.first, range.last)?
                    }
                }
                f.write_str(")")
            }
        }
    }
}

impl Rule {
    /// `user config.toml:12`.
    #[must_use]
    pub fn place(&self) -> String {
        match self.line {
            0 => format!("{} {}", self.layer, self.label),
            line => format!("{} {}:{line}", self.layer, self.label),
        }
    }
}

impl<B: AsRef<[u8]>> Blob<B> {
    /// Validates `data` whole and takes it: [`Self::open_sealed`], then [`Self::check`].
    ///
    /// # Errors
    /// [`FormatError`] with the section and offset that is wrong. Time and memory are bounded by the length of the data.
    pub fn open(data: B) -> Result<Self, FormatError> {
        let blob = Self::open_sealed(data)?;
        blob.check()?;
        Ok(blob)
    }

    /// Takes `data` if it is what its digest says. What lookups rely on is checked first, in constant time; then the digest, so that damage is called damage; then
    /// the settings and the other cold records are read. Whether every record of every section is right is left to [`Self::check`]: whoever wrote the blob could have
    /// written anything, and where it is wrong it may decide wrongly, but never panic or read elsewhere.
    ///
    /// # Errors
    /// [`FormatError`] with what is wrong.
    pub fn open_sealed(data: B) -> Result<Self, FormatError> {
        let bytes = data.as_ref();
        let layout = header::read(bytes)?;
        let places = [SectionKind::Trie, SectionKind::Records, SectionKind::Suffixes].map(|kind| layout.range(kind));
        let trie = trie::Header::read(bytes, places);
        let trie = trie.ok_or(FormatError::Section { section: SectionKind::Trie, offset: 0, what: "header or length" })?;
        if header::digest(bytes) != layout.digest {
            return Err(FormatError::Digest);
        }
        let mut profiles: Vec<Meta> = decode(bytes, &layout, SectionKind::Meta)?;
        if profiles.is_empty() || profiles.len() > MAX_PROFILES {
            return Err(FormatError::Section { section: SectionKind::Meta, offset: 0, what: "no profile, or too many" });
        }
        let sources = decode(bytes, &layout, SectionKind::Sources)?;
        let hooks: Vec<Hook> = decode(bytes, &layout, SectionKind::Hooks)?;
        let first_deny = first_deny(bytes.get(layout.range(SectionKind::Terms)).unwrap_or_default());
        let listed = record_count::<RULE_LEN>(bytes.get(layout.range(SectionKind::Rules)).unwrap_or_default()).unwrap_or(0);
        let settings = match layout.has(SectionKind::Settings) {
            true => settings_record::read(bytes.get(layout.range(SectionKind::Settings)).unwrap_or_default(), profiles.len())?,
            false => vec![Settings::default(); profiles.len()],
        };
        if layout.has(SectionKind::SocketDenies) {
            let denied = decode(bytes, &layout, SectionKind::SocketDenies)?;
            socket_denies::put(denied, &mut profiles).map_err(|what| FormatError::Section {
                section: SectionKind::SocketDenies,
                offset: 0,
                what,
            })?;
        }
        let matchers = Hooks::prepare(&hooks, &profiles, &settings).map_err(|what| FormatError::Section {
            section: SectionKind::Hooks,
            offset: 0,
            what,
        })?;
        // What is no pattern names no host, and its TLS is opened.
        let bypassed = profiles.iter().map(|meta| meta.mitm.bypass.iter().filter_map(|text| Pattern::parse(text).ok()).collect()).collect();
        Ok(Self { layout, trie, listed, first_deny, profiles, settings, sources, hooks, matchers, bypassed, data })
    }

    /// Settings of the first profile: the one that is meant where none is named.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        // `open_sealed` made sure that there is one.
        self.profiles.first().unwrap_or(&NO_PROFILE)
    }

    /// The profiles, in the order of their numbers.
    #[must_use]
    pub fn profiles(&self) -> &[Meta] {
        &self.profiles
    }

    /// The profile of that name.
    #[must_use]
    pub fn profile(&self, name: &str) -> Option<ProfileId> {
        self.profiles.iter().zip(0..).find(|(meta, _)| meta.profile == name).map(|(_, number)| ProfileId(number))
    }

    /// Settings of a profile; `None` when there is no such number.
    #[must_use]
    pub fn profile_meta(&self, profile: ProfileId) -> Option<&Meta> {
        self.profiles.get(usize::from(profile.0))
    }

    /// What a profile says beyond its rules; `None` when there is no such number.
    #[must_use]
    pub fn settings(&self, profile: ProfileId) -> Option<&Settings> {
        self.settings.get(usize::from(profile.0))
    }

    /// What administrators hold of a profile; `None` where the policy does not tell, which does not mean that they hold nothing.
    #[must_use]
    pub fn constraints(&self, profile: ProfileId) -> Option<&Constraints> {
        self.settings(profile)?.constraints.as_ref()
    }

    /// The policy's name for machines.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.layout.digest
    }

    /// Major and minor version of the format.
    #[must_use]
    pub fn version(&self) -> (u16, u16) {
        (header::MAJOR, self.layout.minor)
    }

    /// The places that rules come from.
    #[must_use]
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The hooks, in the order in which they are tried.
    #[must_use]
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// Whether a hook of the profile speaks of the host.
    #[must_use]
    pub fn is_hooked(&self, profile: ProfileId, host: &Host) -> bool {
        self.matchers.speak_of(profile, host)
    }

    /// The place among [`Self::hooks`] of the hook that a request inside TLS matches: the first of those of its profile and its host. What hooks see beside method and path is
    /// [`Request::inside`].
    #[must_use]
    pub fn matching_hook(&self, request: &Request<'_>) -> Option<usize> {
        if request.protocol == Protocol::Https { self.matchers.first(request) } else { None }
    }

    /// How many bytes of a request's body have to be read before it can be decided: what is longer matches no hook that looks at it. `None` where no hook that might match looks
    /// at the body. To be asked once [`decide()`](crate::decide()) did not refuse the request without its body, or refused it for [`Reason::MitmHookDenied`](crate::Reason) only.
    #[must_use]
    pub fn body_wanted(&self, request: &Request<'_>) -> Option<usize> {
        if request.protocol == Protocol::Https { self.matchers.body_wanted(request) } else { None }
    }

    /// Whether the profile leaves the TLS of that host closed ([`Mitm::bypass`](crate::Mitm::bypass)). Where only what reads may pass, or a rule asks for methods or paths, it counts only with
    /// [`Settings::bypass_read_only`].
    #[must_use]
    pub fn is_bypassed(&self, profile: ProfileId, host: &Host, port: u16) -> bool {
        let patterns = self.bypassed.get(usize::from(profile.0));
        patterns.is_some_and(|patterns| {
            patterns.iter().any(|pattern| pattern.port.is_none_or(|own| own == port) && pattern.hosts.matches(host))
        })
    }

    /// Whether a credential of the profile may go to that host and port, inside TLS. Those that the broker knows by itself depend on its environment, and are not among them.
    #[must_use]
    pub fn is_credentialed(&self, profile: ProfileId, host: &Host, port: u16) -> bool {
        let settings = self.settings(profile).filter(|settings| !settings.credentials.is_empty());
        let brokers = self.profile_meta(profile).is_some_and(|meta| meta.credential_broker);
        let mut prefixes = settings.iter().flat_map(|settings| &settings.credentials).flat_map(|credential| &credential.url_prefixes);
        brokers && prefixes.any(|prefix| prefix.is_for(true, host, port))
    }

    /// The hosts whose TLS may be opened under a profile; [`Meta::mitm`]'s bypass is not taken out. Where it has a broker, those are all that it allows: what the broker knows of
    /// depends on its environment too.
    #[must_use]
    pub fn intercepted(&self, profile: ProfileId) -> Intercepted {
        self.intercepted_with(profile, None)
    }

    /// The same under another mode than the profile's own ([`Overrides::mode`](crate::Overrides::mode)), where one is set.
    #[must_use]
    pub fn intercepted_with(&self, profile: ProfileId, mode: Option<Mode>) -> Intercepted {
        let Some(meta) = self.profile_meta(profile) else { return Intercepted::Hosts(Vec::new()) };
        let limited = mode.unwrap_or(meta.mode) == Mode::Limited;
        let everywhere = limited || meta.mitm.mode == MitmMode::Always || meta.credential_broker;
        let opens = |terms: &TermsRecord| {
            terms.profiles.has(profile)
                && (terms.access == Access::ReadOnly || (everywhere && terms.access != Access::Deny) || self.is_conditional(terms))
        };
        let mut patterns = Vec::new();
        // A million rules share a few terms, and mostly none of those opens anything.
        let any = (0..).map_while(|index| self.terms(index)).any(|terms| opens(&terms));
        for id in self.rule_ids().take_while(|_| any) {
            let Some((kind, terms, ..)) = self.find(id) else { continue };
            let Some(terms) = self.terms(terms).filter(opens) else { continue };
            // Names that lead into a network are not known.
            let unknown = kind == RuleKind::Any || (terms.access == Access::Deny && kind == RuleKind::Network);
            match self.rule(id) {
                Some(rule) if !unknown && patterns.len() < MAX_INTERCEPTED => patterns.push(rule.hosts),
                _ => return Intercepted::All,
            }
        }
        patterns.extend(self.hooks.iter().filter(|hook| hook.profiles.has(profile)).map(|hook| hook.host.clone()));
        patterns.sort_unstable();
        patterns.dedup();
        Intercepted::Hosts(patterns)
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.data.as_ref()
    }

    /// How many rules there are.
    #[must_use]
    pub fn rule_count(&self) -> u32 {
        self.listed_count().saturating_add(self.trie.rules)
    }

    /// The numbers of all rules, in no particular order. Cheap, unlike [`Self::rules`].
    pub fn rule_ids(&self) -> impl Iterator<Item = RuleId> {
        let listed = self.listed_count();
        let trie = self.trie();
        let alone = (0..trie.slots()).filter(move |slot| trie.has_one_rule(*slot)).map(move |slot| RuleId(listed.saturating_add(slot)));
        (0..listed).map(RuleId).chain(alone)
    }

    /// Every rule: those for `*`, for names by their labels from the right, for networks, for globs; rules of one name as they stand in the blob.
    pub fn rules(&self) -> impl Iterator<Item = Rule> {
        let mut sorted: Vec<(RuleKey, RuleId)> = self.rule_ids().filter_map(|id| Some((self.key(id)?, id))).collect();
        sorted.sort_unstable();
        sorted.into_iter().filter_map(|(_, id)| self.rule(id))
    }

    fn key(&self, id: RuleId) -> Option<RuleKey> {
        let (kind, _, _, anchor) = self.find(id)?;
        Some(match kind {
            RuleKind::Any => RuleKey::Any,
            RuleKind::Exact | RuleKind::Subdomains | RuleKind::ApexAndSubdomains => {
                let mut room = [0; MAX_NAME];
                let (_, name) = self.trie().slot(anchor, &mut room)?;
                let labels: Vec<&[u8]> = name.rsplit(|byte| *byte == b'.').collect();
                RuleKey::Name(labels.join(&0).into_boxed_slice(), kind)
            }
            RuleKind::Network => RuleKey::Network,
            RuleKind::Glob => RuleKey::Glob,
        })
    }

    /// A rule's kind, terms and line, and its slot, network or glob.
    fn find(&self, id: RuleId) -> Option<(RuleKind, u32, u32, u32)> {
        if let Some(rule) = self.listed(id) {
            return Some((rule.kind, u32::from(rule.terms), rule.line, rule.anchor));
        }
        let slot = id.0.checked_sub(self.listed_count())?;
        let node = self.trie().slot(slot, &mut [0; MAX_NAME])?.0;
        (node.terms != self.trie.several).then_some(())?;
        Some((RuleKind::from_number(node.kinds)?, node.terms, node.line, slot))
    }

    /// A rule, spelt out for people. Allocates; not for the hot path.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<Rule> {
        let (kind, terms, line, anchor) = self.find(id)?;
        let terms = self.terms(terms)?;
        let source = self.sources.get(usize::from(terms.source))?;
        let name = || {
            let mut room = [0; MAX_NAME];
            let (_, name) = self.trie().slot(anchor, &mut room)?;
            std::str::from_utf8(name).ok().map(str::to_owned)
        };
        let conditions = self.conditions(&terms);
        Some(Rule {
            id,
            kind,
            hosts: match kind {
                RuleKind::Any => "*".to_owned(),
                RuleKind::Exact => name()?,
                RuleKind::Subdomains => format!("*.{}", name()?),
                RuleKind::ApexAndSubdomains => format!("**.{}", name()?),
                RuleKind::Network => self.addresses().network(anchor)?.to_string(),
                RuleKind::Glob => String::from_utf8(self.glob(anchor)?.text.to_vec()).ok()?,
            },
            ports: terms.ports(self.ports()).collect(),
            access: terms.access,
            methods: conditions
                .iter()
                .flat_map(|conditions| conditions.methods())
                .map(|method| String::from_utf8_lossy(method).into_owned())
                .collect(),
            paths: conditions.iter().flat_map(|conditions| conditions.paths()).collect(),
            reason: conditions.map_or_else(String::new, |conditions| conditions.reason().to_owned()),
            layer: source.layer,
            label: source.label.clone(),
            line,
            profiles: terms.profiles,
        })
    }

    /// The closest rules that name a host exactly or by a suffix, whatever they say of ports, methods, paths and profiles. Rules for globs and `*` are not among
    /// them. For measurements, and for whoever has but one question; [`crate::decide()`] is what a policy means.
    #[must_use]
    #[inline]
    pub fn closest(&self, name: &Name) -> Closest {
        let mut closest = Closest::default();
        // The closest come last.
        self.for_each_named(name, |named| {
            let best = if named.terms >= self.first_deny { &mut closest.deny } else { &mut closest.allow };
            *best = Some(named.id);
        });
        closest
    }

    /// Every glob: its rule, and its programs ([`crate::glob::ops`]), any of which may match.
    pub fn globs(&self) -> impl Iterator<Item = (RuleId, Vec<&[u8]>)> {
        (0..self.glob_count()).map_while(|index| self.glob(index)).map(|glob| (glob.rule, glob.programs().collect()))
    }

    /// The bytes of a section.
    #[must_use]
    #[inline]
    pub fn section(&self, kind: SectionKind) -> &[u8] {
        self.data.as_ref().get(self.layout.range(kind)).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn trie(&self) -> Trie<'_> {
        Trie::new(&self.trie, self.data.as_ref())
    }

    /// Calls `found` for every rule that names a host by name.
    #[inline(always)]
    pub(crate) fn for_each_named(&self, name: &Name, mut found: impl FnMut(NamedRule)) {
        let several = self.trie.several;
        self.trie().walk(name, |suffix, node| {
            if node.terms == several {
                return self.for_each_of_several(node, suffix, suffix == name.len(), &mut found);
            }
            // The walk asked for this kind.
            let Some(kind) = RuleKind::from_number(node.kinds) else { return };
            found(NamedRule { id: RuleId(self.listed_count().saturating_add(node.slot)), suffix, kind, terms: node.terms });
        });
    }

    #[inline(never)]
    fn for_each_of_several(&self, node: Node, suffix: usize, whole: bool, found: &mut impl FnMut(NamedRule)) {
        for index in node.line..self.listed_count() {
            let Some(rule) = self.listed(RuleId(index)).filter(|rule| rule.kind.names() && rule.anchor == node.slot) else { return };
            let applies = match rule.kind {
                RuleKind::Exact => whole,
                RuleKind::Subdomains => !whole,
                RuleKind::ApexAndSubdomains => true,
                RuleKind::Any | RuleKind::Network | RuleKind::Glob => false,
            };
            if applies {
                found(NamedRule { id: RuleId(index), suffix, kind: rule.kind, terms: u32::from(rule.terms) });
            }
        }
    }

    /// Calls `found` for every rule for `*`.
    #[inline]
    pub(crate) fn for_each_any(&self, mut found: impl FnMut(RuleId, RuleRecord)) {
        for index in 0..self.listed_count() {
            let Some(rule) = self.listed(RuleId(index)).filter(|rule| rule.kind == RuleKind::Any) else { return };
            found(RuleId(index), rule);
        }
    }

    pub(crate) fn addresses(&self) -> Addresses<'_> {
        Addresses {
            networks: self.section(SectionKind::Networks),
            v4: self.section(SectionKind::Ipv4),
            v4_index: self.section(SectionKind::Ipv4Index),
            v6: self.section(SectionKind::Ipv6),
        }
    }

    pub(crate) fn ports(&self) -> &[u8] {
        self.section(SectionKind::Ports)
    }

    /// What the rule asks beyond host and port; `None` when it asks nothing.
    pub(crate) fn is_conditional(&self, terms: &TermsRecord) -> bool {
        self.conditions(terms).is_some_and(|conditions| !conditions.hold_always())
    }

    pub(crate) fn conditions(&self, terms: &TermsRecord) -> Option<Conditions<'_>> {
        if terms.conditions == 0 {
            return None;
        }
        Conditions::at(self.section(SectionKind::Conditions), terms.conditions)
    }

    #[inline]
    pub(crate) fn terms(&self, index: u32) -> Option<TermsRecord> {
        TermsRecord::read(self.section(SectionKind::Terms), index)
    }

    /// How many rules section `rules` has.
    #[inline]
    pub(crate) fn listed_count(&self) -> u32 {
        self.listed
    }

    /// A rule of section `rules`.
    #[inline]
    pub(crate) fn listed(&self, id: RuleId) -> Option<RuleRecord> {
        RuleRecord::read(self.section(SectionKind::Rules), id.0)
    }

    pub(crate) fn rule_network(&self, id: RuleId) -> Option<Network> {
        self.addresses().network(self.listed(id)?.anchor)
    }

    /// Calls `found` for every glob that matches, in their order, with its rule and how many bytes its first program that matches fixes.
    #[inline]
    pub(crate) fn for_each_glob(&self, name: &[u8], mut found: impl FnMut(RuleId, usize)) {
        let Some(automata) = Automata::open(self.section(SectionKind::Automata)) else { return };
        let mut last = None;
        automata.for_each_match(name, |program| {
            // The programs of a glob follow each other.
            if let Some((rule, literals)) = self.glob_owner(program).filter(|(rule, _)| last != Some(*rule)) {
                last = Some(rule);
                found(rule, usize::from(literals));
            }
        });
    }

    pub(crate) fn glob_programs(&self) -> u32 {
        u32_at(self.section(SectionKind::Globs), 4).unwrap_or(0)
    }

    /// Whose a program is, and how many bytes it fixes.
    pub(crate) fn glob_owner(&self, program: u32) -> Option<(RuleId, u16)> {
        let offsets = usize::try_from(self.glob_count()).ok()?.checked_mul(4)?;
        let owner: [u8; OWNER_LEN] = record(self.section(SectionKind::Globs).get(8_usize.checked_add(offsets)?..)?, program)?;
        Some((RuleId(u32_at(&owner, 0)?), u16_at(&owner, 4)?))
    }

    pub(crate) fn glob_rule(&self, index: u32) -> Option<RuleId> {
        self.glob(index).map(|glob| glob.rule)
    }

    pub(crate) fn glob_count(&self) -> u32 {
        u32_at(self.section(SectionKind::Globs), 0).unwrap_or(0)
    }

    pub(crate) fn glob(&self, index: u32) -> Option<GlobRecord<'_>> {
        let section = self.section(SectionKind::Globs);
        let index = usize::try_from(index).ok()?;
        let at = usize::try_from(u32_at(section, index.checked_add(2)?.checked_mul(4)?)?).ok()?;
        let text_len = usize::from(u16_at(section, at.checked_add(4)?)?);
        Some(GlobRecord {
            rule: RuleId(u32_at(section, at)?),
            programs: u16_at(section, at + 6)?,
            text: bytes(section, at + 8, text_len)?,
            rest: section.get(at + 8 + text_len..)?,
        })
    }
}

impl<B: AsRef<[u8]>> fmt::Debug for Blob<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("digest", &self.layout.digest).field("rules", &self.rule_count()).finish_non_exhaustive()
    }
}

/// Terms are in order, and those that deny come last.
fn first_deny(terms: &[u8]) -> u32 {
    let (mut low, mut high) = (0, record_count::<TERMS_LEN>(terms).unwrap_or(0));
    while low < high {
        let middle = low + (high - low) / 2;
        if TermsRecord::read(terms, middle).is_some_and(|terms| terms.access != Access::Deny) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn decode<T: DeserializeOwned>(data: &[u8], layout: &Layout, kind: SectionKind) -> Result<T, FormatError> {
    let wrong = FormatError::Section { section: kind, offset: 0, what: "not the record that belongs here" };
    if layout.range(kind).len() > MAX_RECORDS {
        return Err(FormatError::Section { section: kind, offset: 0, what: "more bytes than there may be" });
    }
    match postcard::take_from_bytes(data.get(layout.range(kind)).unwrap_or_default()) {
        Ok((value, [])) => Ok(value),
        _ => Err(wrong),
    }
}

pub(crate) struct GlobRecord<'a> {
    pub(crate) rule: RuleId,
    pub(crate) text: &'a [u8],
    pub(crate) programs: u16,
    rest: &'a [u8],
}

impl<'a> GlobRecord<'a> {
    pub(crate) fn programs(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.rest;
        (0..self.programs).map_while(move |_| {
            let len = usize::from(u16_at(rest, 0)?);
            let program = bytes(rest, 2, len)?;
            rest = rest.get(2 + len..)?;
            Some(program)
        })
    }
}
