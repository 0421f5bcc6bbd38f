//! `BlobBuilder`: the writer. Same input, in whatever order, same bytes.
//!
//! Names are placed by their hashes (see `trie_writer.rs`), whose key is taken from the names themselves, with a counter for the case that they collide too
//! much; other rules are sorted by what they say. Nothing depends on addresses in memory, the order of maps, or the clock.

use crate::addresses;
use crate::automaton;
use crate::conditions;
use crate::glob::{self, Glob, OWNER_LEN};
use crate::header::{self, ALIGN, DIGEST_AT, Digest, ENTRY_LEN, HEADER_LEN, MAGIC, MAJOR, MAX_SECTIONS, REQUIRED, SectionKind};
use crate::hooks::Hooks;
use crate::net::Network;
use crate::pattern::{Hosts, Pattern};
use crate::records::{Hook, MAX_HOOKS, MAX_PROFILES, MAX_RECORDS, Meta, ProfileId, Profiles, Source};
use crate::rules::{Access, PortRange, RULE_LEN, RuleKind, RuleRecord, TermsRecord};
use crate::ruleset::{Other, RuleSet, Terms, Unnamed};
use crate::settings::Settings;
use crate::settings_record;
use crate::socket_denies;
use crate::trie_writer::{self, TermsInfo};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Globs that one policy may have. What also bounds them is the size of the automata that they become.
pub const MAX_GLOBS: usize = 4096;

/// A rule to write.
#[derive(Debug, Clone)]
pub struct RuleInput {
    /// Which hosts.
    pub hosts: Hosts,
    /// Which ports; none means every port.
    pub ports: Vec<PortRange>,
    /// What it does.
    pub access: Access,
    /// Which methods, such as `GET`; none means every method.
    pub methods: Vec<String>,
    /// Which paths, and what lies below them ([`crate::path::lies_below`]); none means every path.
    pub paths: Vec<String>,
    /// What its author says of it; may be empty.
    pub reason: String,
    /// Where it stands.
    pub source: Source,
    /// In which line, from 1; 0 when there is none.
    pub line: u32,
    /// Which profiles have it.
    pub profiles: Profiles,
}

impl RuleInput {
    /// A rule of the first profile, for the hosts and the port of a pattern, every method and every path.
    #[must_use]
    pub fn new(pattern: Pattern, access: Access, source: Source, line: u32) -> Self {
        let ports = pattern.port.map(|port| PortRange { first: port, last: port }).into_iter().collect();
        let (methods, paths, reason) = (Vec::new(), Vec::new(), String::new());
        Self { hosts: pattern.hosts, ports, access, methods, paths, reason, source, line, profiles: Profiles::default() }
    }
}

/// Collects a policy and writes it.
#[derive(Debug)]
pub struct BlobBuilder {
    profiles: Vec<Meta>,
    /// Of the profiles with these numbers; the others say nothing.
    settings: BTreeMap<ProfileId, Settings>,
    rules: RuleSet,
    hooks: Vec<Hook>,
    /// What went wrong first; said by [`Self::build`].
    failed: Option<BuildError>,
}

/// Why a policy cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// More of something than its index can count.
    #[error("the policy has too many {what}: at most {limit} fit")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many fit.
        limit: usize,
    },
    /// Globs that the tables which match them have no room for.
    #[error(
        "the policy's globs are too many or too varied to be matched together: {found} alternatives of {bytes} bytes are left to be tried one by one on every name, and at most {limit} bytes may be; write fewer globs, or globs with fewer `*`, `?` and braces"
    )]
    Globs {
        /// Alternatives of globs that no automaton holds.
        found: usize,
        /// Their bytes.
        bytes: usize,
        /// How many bytes may be left.
        limit: usize,
    },
    /// A settings record that could not be encoded.
    #[error("the policy's settings could not be encoded: {0}")]
    Encode(String),
    /// No seed spreads the names.
    #[error("the names of the policy collide under every seed that was tried")]
    Collisions,
}

impl BlobBuilder {
    /// A policy without rules, with one profile.
    #[must_use]
    pub fn new(meta: Meta) -> Self {
        Self { profiles: vec![meta], settings: BTreeMap::new(), rules: RuleSet::new(), hooks: Vec::new(), failed: None }
    }

    /// Adds a profile, and says its number.
    pub fn profile(&mut self, meta: Meta) -> ProfileId {
        self.profiles.push(meta);
        // More than there may be are refused when the policy is written.
        ProfileId(u8::try_from(self.profiles.len() - 1).unwrap_or(u8::MAX))
    }

    /// Says what a profile says beyond its rules. Where nobody does, and where all is the default, the blob has no section for it.
    pub fn settings(&mut self, profile: ProfileId, settings: Settings) -> &mut Self {
        self.settings.insert(profile, settings);
        self
    }

    /// Adds a rule.
    pub fn rule(&mut self, rule: RuleInput) -> &mut Self {
        let RuleInput { hosts, ports, access, methods, paths, reason, source, line, profiles } = rule;
        let terms = self.rules.terms(Terms { access, ports, methods, paths, reason, source, profiles });
        let added = terms.and_then(|terms| self.rules.push(&hosts, terms, line));
        self.note(added)
    }

    /// Adds many rules.
    pub fn rules(&mut self, rules: RuleSet) -> &mut Self {
        let added = self.rules.append(rules);
        self.note(added)
    }

    /// Adds a hook. Hooks are tried in the order in which they are added.
    pub fn hook(&mut self, hook: Hook) -> &mut Self {
        self.hooks.push(hook);
        self
    }

    fn note(&mut self, added: Result<(), BuildError>) -> &mut Self {
        self.failed = self.failed.take().or(added.err());
        self
    }

    /// Writes the blob.
    ///
    /// # Errors
    /// [`BuildError`] when something is more than the format can count.
    pub fn build(self) -> Result<Vec<u8>, BuildError> {
        let Self { profiles, settings: mut nobodys, mut rules, hooks, failed } = self;
        if let Some(error) = failed {
            return Err(error);
        }
        count(profiles.len(), "profiles", MAX_PROFILES)?;
        count(hooks.len(), "hooks", MAX_HOOKS)?;
        if profiles.len() > 1 {
            rules.merge_profiles()?;
        }
        let settings: Vec<Settings> = (0..).zip(&profiles).map(|(id, _)| nobodys.remove(&ProfileId(id)).unwrap_or_default()).collect();
        if let Some(ProfileId(profile)) = nobodys.keys().next() {
            return Err(BuildError::Encode(format!("there are settings of profile {profile}, and no such profile")));
        }
        // What no reader could prepare is not written.
        Hooks::prepare(&hooks, &profiles, &settings).map_err(|what| BuildError::Encode(what.to_owned()))?;
        Sections::new(&profiles, &settings, rules, &hooks)?.write()
    }
}

/// Gives a blob whose content was changed by hand its right digest again: for tests and fuzzers that look behind it.
pub fn reseal(blob: &mut [u8]) {
    let Digest(digest) = header::digest(blob);
    if let Some(place) = blob.get_mut(DIGEST_AT..HEADER_LEN) {
        place.copy_from_slice(&digest);
    }
}

/// The contents of the sections.
struct Sections {
    contents: BTreeMap<u32, Vec<u8>>,
}

impl Sections {
    fn new(profiles: &[Meta], settings: &[Settings], rules: RuleSet, hooks: &[Hook]) -> Result<Self, BuildError> {
        let terms = TermsTable::new(&rules)?;
        let mut others: Vec<OtherRule<'_>> = rules
            .others()
            .iter()
            .filter_map(|rule| Some((OtherKey::new(&rule.hosts), rule, *terms.of.get(usize::from(rule.terms))?)))
            .collect();
        others.sort_by_key(|(key, rule, info)| (*key, info.access, Reverse(info.layer), rule.line, info.index));

        let any = others.iter().take_while(|(key, ..)| *key == OtherKey::Any).count();
        let trie = trie_writer::write(&rules, &terms.of, count(any, "rules", u32::MAX as usize)?)?;
        // Rules of names that have several stand between those for `*` and the others.
        let number = |at: usize| count(at + if at < any { 0 } else { trie.several.len() }, "rules", u32::MAX as usize);
        let (mut networks, mut globs) = (Vec::new(), Vec::new());
        for (at, (_, rule, _)) in others.iter().enumerate() {
            match &rule.hosts {
                Unnamed::Any => {}
                Unnamed::Network(network) => networks.push((number(at)?, *network)),
                Unnamed::Glob(glob) => globs.push((number(at)?, glob)),
            }
        }
        count(globs.len(), "globs", MAX_GLOBS)?;
        let programs: Vec<&[u8]> = globs.iter().flat_map(|(_, glob)| glob.programs()).map(Vec::as_slice).collect();
        let addresses = addresses::write(&networks)?;
        let listed = write_listed(&others, any, &trie.several, &addresses.network_of_rule);

        let contents = [
            (SectionKind::Meta, records(profiles)?),
            (SectionKind::Trie, trie.trie),
            (SectionKind::Records, trie.records),
            (SectionKind::Suffixes, trie.suffixes),
            (SectionKind::Rules, listed),
            (SectionKind::Terms, terms.records),
            (SectionKind::Ports, terms.ports),
            (SectionKind::Ipv4, addresses.v4),
            (SectionKind::Ipv6, addresses.v6),
            (SectionKind::Ipv4Index, addresses.v4_index),
            (SectionKind::Networks, addresses.networks),
            (SectionKind::Globs, write_globs(&globs)?),
            (SectionKind::Automata, automaton::write(&programs)?),
            (SectionKind::Sources, records(&terms.sources)?),
            (SectionKind::Conditions, terms.conditions),
            (SectionKind::Hooks, records(hooks)?),
        ];
        let settings = settings_record::write(settings)?.map(|content| (SectionKind::Settings, content));
        let denies = socket_denies::write(profiles)?.map(|content| (SectionKind::SocketDenies, content));
        Ok(Self { contents: contents.into_iter().chain(settings).chain(denies).map(|(kind, content)| (kind as u32, content)).collect() })
    }

    fn write(self) -> Result<Vec<u8>, BuildError> {
        let table = HEADER_LEN + ENTRY_LEN * self.contents.len();
        let mut offset = table;
        let mut out = vec![0; HEADER_LEN];
        for (kind, content) in &self.contents {
            offset = offset.next_multiple_of(ALIGN);
            let is_required = SectionKind::from_number(*kind).is_none_or(SectionKind::is_required);
            out.extend(kind.to_le_bytes());
            out.extend(if is_required { REQUIRED } else { 0 }.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            out.extend((content.len() as u64).to_le_bytes());
            out.extend(0_u64.to_le_bytes());
            offset += content.len();
        }
        out.reserve_exact(offset - out.len());
        // A reader of 1.0 reads what has nothing newer, and such a policy keeps its digest.
        let minor = self.contents.keys().filter_map(|kind| SectionKind::from_number(*kind)).map(SectionKind::since).max().unwrap_or(0);
        let sections = count(self.contents.len(), "sections", MAX_SECTIONS as usize)?;
        // Each is given back as soon as it is copied: they may be large.
        for content in self.contents.into_values() {
            out.resize(out.len().next_multiple_of(ALIGN), 0);
            out.extend_from_slice(&content);
        }
        let mut head = Vec::with_capacity(HEADER_LEN);
        head.extend(MAGIC);
        head.extend(MAJOR.to_le_bytes());
        head.extend(minor.to_le_bytes());
        head.extend(sections.to_le_bytes());
        head.extend((out.len() as u64).to_le_bytes());
        for (to, from) in out.iter_mut().zip(head) {
            *to = from;
        }
        reseal(&mut out);
        Ok(out)
    }
}

pub(crate) fn count(found: usize, what: &'static str, limit: usize) -> Result<u32, BuildError> {
    u32::try_from(found).ok().filter(|_| found <= limit).ok_or(BuildError::TooMany { what, limit })
}

/// The order of rules for anything but names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum OtherKey<'a> {
    Any,
    Network(Network),
    Glob(&'a str),
}

impl<'a> OtherKey<'a> {
    fn new(hosts: &'a Unnamed) -> Self {
        match hosts {
            Unnamed::Any => Self::Any,
            Unnamed::Network(network) => Self::Network(*network),
            Unnamed::Glob(glob) => Self::Glob(glob.text()),
        }
    }
}

/// A rule for anything but names, with its place in the order and its terms.
type OtherRule<'a> = (OtherKey<'a>, &'a Other, TermsInfo);

/// Section `rules`: those for `*`, which are the first `any`, those of names that have several, then the others.
fn write_listed(others: &[OtherRule<'_>], any: usize, several: &[RuleRecord], network_of_rule: &[u32]) -> Vec<u8> {
    let (for_any, after) = others.split_at_checked(any).unwrap_or((others, &[]));
    let mut section = Vec::with_capacity((others.len() + several.len()) * RULE_LEN);
    let (mut networks, mut globs) = (network_of_rule.iter().copied(), 0..);
    let mut record = |(_, rule, info): &OtherRule<'_>| {
        let (kind, anchor) = match &rule.hosts {
            Unnamed::Any => (RuleKind::Any, 0),
            Unnamed::Network(_) => (RuleKind::Network, networks.next().unwrap_or(0)),
            Unnamed::Glob(_) => (RuleKind::Glob, globs.next().unwrap_or(0)),
        };
        RuleRecord { anchor, line: rule.line, terms: info.index, kind }
    };
    for_any.iter().for_each(|rule| record(rule).write(&mut section));
    several.iter().for_each(|rule| rule.write(&mut section));
    after.iter().for_each(|rule| record(rule).write(&mut section));
    section
}

/// The terms that rules have, each stored once, in their own order.
struct TermsTable<'a> {
    /// By the numbers of the rule set.
    of: Vec<TermsInfo>,
    sources: Vec<&'a Source>,
    records: Vec<u8>,
    ports: Vec<u8>,
    conditions: Vec<u8>,
}

impl<'a> TermsTable<'a> {
    fn new(rules: &'a RuleSet) -> Result<Self, BuildError> {
        let mut used: Vec<(&Terms, u16)> = rules.used_terms().into_iter().filter_map(|id| Some((rules.terms_of(id)?, id))).collect();
        used.sort_unstable();
        let sources: Vec<&Source> = used.iter().map(|(terms, _)| &terms.source).collect::<BTreeSet<_>>().into_iter().collect();
        let mut table = Self { of: Vec::new(), sources, records: Vec::new(), ports: Vec::new(), conditions: vec![0; conditions::FIRST] };
        let mut first_port = 0_u32;
        for (index, (terms, id)) in used.into_iter().enumerate() {
            let too_many = |what, limit| BuildError::TooMany { what, limit };
            let index = u16::try_from(index).map_err(|_| too_many("kinds of rules", usize::from(u16::MAX)))?;
            let source = table.sources.binary_search(&&terms.source).unwrap_or(0);
            let source = u16::try_from(source).map_err(|_| too_many("sources", usize::from(u16::MAX)))?;
            let port_count = u16::try_from(terms.ports.len()).map_err(|_| too_many("ports in one rule", usize::from(u16::MAX)))?;
            let conditions = table.write_conditions(terms)?;
            TermsRecord { access: terms.access, port_count, first_port, conditions, source, profiles: terms.profiles }
                .write(&mut table.records);
            for range in &terms.ports {
                table.ports.extend(range.first.to_le_bytes());
                table.ports.extend(range.last.to_le_bytes());
            }
            first_port += u32::from(port_count);
            let info = TermsInfo { index, access: terms.access, layer: terms.source.layer };
            if table.of.len() <= usize::from(id) {
                table.of.resize(usize::from(id) + 1, info);
            }
            if let Some(place) = table.of.get_mut(usize::from(id)) {
                *place = info;
            }
        }
        Ok(table)
    }

    fn write_conditions(&mut self, terms: &Terms) -> Result<u32, BuildError> {
        if terms.methods.is_empty() && terms.paths.is_empty() && terms.reason.is_empty() {
            return Ok(0);
        }
        let offset = count(self.conditions.len(), "bytes in conditions", u32::MAX as usize)?;
        conditions::write(&mut self.conditions, &terms.methods, &terms.paths, &terms.reason)?;
        Ok(offset)
    }
}

/// Globs: counts, offsets, whose each program is, and the records (see `glob.rs`).
fn write_globs(globs: &[(u32, &Glob)]) -> Result<Vec<u8>, BuildError> {
    let limit = u32::MAX as usize;
    let short =
        |len: usize| u16::try_from(len).map_err(|_| BuildError::TooMany { what: "bytes in one glob", limit: usize::from(u16::MAX) });
    let mut owners = Vec::new();
    for (rule, glob) in globs {
        for program in glob.programs() {
            owners.extend(rule.to_le_bytes());
            owners.extend(short(glob::literal_bytes(program))?.to_le_bytes());
        }
    }
    let mut section = count(globs.len(), "globs", MAX_GLOBS)?.to_le_bytes().to_vec();
    section.extend(count(owners.len() / OWNER_LEN, "alternatives of globs", limit)?.to_le_bytes());
    let first = section.len() + 4 * globs.len() + owners.len();
    let mut records = Vec::new();
    for (rule, glob) in globs {
        section.extend(count(first + records.len(), "bytes in globs", limit)?.to_le_bytes());
        records.extend(rule.to_le_bytes());
        records.extend(short(glob.text().len())?.to_le_bytes());
        records.extend(short(glob.programs().len())?.to_le_bytes());
        records.extend(glob.text().bytes());
        for program in glob.programs() {
            records.extend(short(program.len())?.to_le_bytes());
            records.extend(program);
        }
    }
    section.extend(owners);
    section.extend(records);
    Ok(section)
}

/// A section in postcard.
pub(crate) fn records<T: serde::Serialize + ?Sized>(records: &T) -> Result<Vec<u8>, BuildError> {
    let section = postcard::to_allocvec(records).map_err(|error| BuildError::Encode(error.to_string()))?;
    count(section.len(), "bytes of settings, sources, hooks or sockets", MAX_RECORDS)?;
    Ok(section)
}
