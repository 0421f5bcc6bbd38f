//! `Blob`: the container over any bytes. It validates all of them once, then lends views.
//!
//! Order of validation: header and section table (constant time, nothing else may be touched before), digest (so that damage is called damage), cold
//! records, then every record of every hot section. A lookup nevertheless checks bounds: memory safety does not rest on validation.

use crate::addresses::{self, Addresses, NETWORK_LEN, V4_LEN, V6_LEN, WORD_LEN};
use crate::automaton::Automata;
use crate::conditions::{self, Conditions};
use crate::error::FormatError;
use crate::glob::{self, OWNER_LEN};
use crate::header::{self, Digest, Layout, SectionKind};
use crate::host::Host;
use crate::net::Network;
use crate::pattern::{Hosts, Pattern};
use crate::reader::{bytes, record, record_count, u16_at, u32_at};
use crate::records::{Hook, Layer, MAX_HOOKS, Meta, Source};
use crate::rules::{ATTRIBUTES_LEN, Access, AttributesRecord, PORTS_LEN, PortRange, RULE_LEN, RuleId, RuleKind, RuleRecord, port_ranges};
use crate::trie::{self, ROOT, Trie};
use serde::de::DeserializeOwned;
use std::fmt;

/// A validated policy over any bytes: a vector, a static, a memory map.
#[derive(Clone)]
pub struct Blob<B> {
    data: B,
    layout: Layout,
    meta: Meta,
    sources: Vec<Source>,
    hooks: Vec<Hook>,
    hooked: Vec<Hosts>,
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
    /// Validates `data` whole and takes it.
    ///
    /// # Errors
    /// [`FormatError`] with the section and offset that is wrong. Time and memory are bounded by the length of the data.
    pub fn open(data: B) -> Result<Self, FormatError> {
        let bytes = data.as_ref();
        let layout = header::read(bytes)?;
        if header::digest(bytes) != layout.digest {
            return Err(FormatError::Digest);
        }
        let meta = decode(bytes, &layout, SectionKind::Meta)?;
        let sources = decode(bytes, &layout, SectionKind::Sources)?;
        let hooks: Vec<Hook> = decode(bytes, &layout, SectionKind::Hooks)?;
        let hooked = hooked(&hooks)?;
        let blob = Self { layout, meta, sources, hooks, hooked, data };
        blob.check_trie()?;
        blob.check_conditions()?;
        blob.check_rules()?;
        blob.check_addresses()?;
        blob.check_globs()?;
        blob.check_automata()?;
        Ok(blob)
    }

    /// Settings.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
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

    /// Whether a hook speaks of the host.
    #[must_use]
    pub fn is_hooked(&self, host: &Host) -> bool {
        self.hooked.iter().any(|hosts| hosts.matches(host))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.data.as_ref()
    }

    /// How many rules there are.
    #[must_use]
    pub fn rule_count(&self) -> u32 {
        record_count::<RULE_LEN>(self.section(SectionKind::Rules)).unwrap_or(0)
    }

    /// Every rule, in the blob's order.
    pub fn rules(&self) -> impl Iterator<Item = Rule> {
        (0..self.rule_count()).filter_map(|id| self.rule(RuleId(id)))
    }

    /// A rule, spelt out for people. Allocates; not for the hot path.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<Rule> {
        let (record, attributes) = self.rule_record(id)?;
        let source = self.sources.get(usize::from(record.source))?;
        let name = || self.trie().name(record.anchor);
        let conditions = self.conditions(&attributes);
        Some(Rule {
            id,
            kind: record.kind,
            hosts: match record.kind {
                RuleKind::Any => "*".to_owned(),
                RuleKind::Exact => name()?,
                RuleKind::Subdomains => format!("*.{}", name()?),
                RuleKind::ApexAndSubdomains => format!("**.{}", name()?),
                RuleKind::Network => addresses::network(self.section(SectionKind::Networks), record.anchor)?.to_string(),
                RuleKind::Glob => String::from_utf8(self.glob(record.anchor)?.text.to_vec()).ok()?,
            },
            ports: attributes.ports(self.ports()).collect(),
            access: attributes.access,
            methods: conditions.iter().flat_map(|conditions| conditions.methods()).map(str::to_owned).collect(),
            paths: conditions.iter().flat_map(|conditions| conditions.paths()).map(str::to_owned).collect(),
            reason: conditions.map_or_else(String::new, |conditions| conditions.reason.to_owned()),
            layer: source.layer,
            label: source.label.clone(),
            line: record.line,
        })
    }

    /// Every glob: its rule, and its programs ([`glob::ops`]), any of which may match.
    pub fn globs(&self) -> impl Iterator<Item = (RuleId, Vec<&[u8]>)> {
        (0..self.glob_count()).map_while(|index| self.glob(index)).map(|glob| (glob.rule, glob.programs().collect()))
    }

    /// The bytes of a section.
    #[must_use]
    pub fn section(&self, kind: SectionKind) -> &[u8] {
        self.data.as_ref().get(self.layout.range(kind)).unwrap_or_default()
    }

    pub(crate) fn trie(&self) -> Trie<'_> {
        // `open` made sure that this is a trie; an empty one answers nothing.
        Trie::open(self.section(SectionKind::Trie), self.section(SectionKind::Labels)).unwrap_or_else(Trie::empty)
    }

    pub(crate) fn addresses(&self) -> Addresses<'_> {
        Addresses {
            v4: self.section(SectionKind::Ipv4),
            v6: self.section(SectionKind::Ipv6),
            lists: self.section(SectionKind::AddressRules),
        }
    }

    pub(crate) fn ports(&self) -> &[u8] {
        self.section(SectionKind::Ports)
    }

    /// What the rule asks beyond host and port; `None` when it asks nothing.
    pub(crate) fn conditions(&self, attributes: &AttributesRecord) -> Option<Conditions<'_>> {
        if attributes.conditions == 0 {
            return None;
        }
        Conditions::at(self.section(SectionKind::Conditions), attributes.conditions)
    }

    pub(crate) fn rule_record(&self, id: RuleId) -> Option<(RuleRecord, AttributesRecord)> {
        let record = RuleRecord::read(self.section(SectionKind::Rules), id)?;
        Some((record, AttributesRecord::read(self.section(SectionKind::Attributes), record.attributes)?))
    }

    pub(crate) fn rule_network(&self, id: RuleId) -> Option<Network> {
        let record = RuleRecord::read(self.section(SectionKind::Rules), id)?;
        addresses::network(self.section(SectionKind::Networks), record.anchor)
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

    fn glob_programs(&self) -> u32 {
        u32_at(self.section(SectionKind::Globs), 4).unwrap_or(0)
    }

    /// Whose a program is, and how many bytes it fixes.
    fn glob_owner(&self, program: u32) -> Option<(RuleId, u16)> {
        let offsets = usize::try_from(self.glob_count()).ok()?.checked_mul(4)?;
        let owner: [u8; OWNER_LEN] = record(self.section(SectionKind::Globs).get(8_usize.checked_add(offsets)?..)?, program)?;
        Some((RuleId(u32_at(&owner, 0)?), u16_at(&owner, 4)?))
    }

    fn glob_count(&self) -> u32 {
        u32_at(self.section(SectionKind::Globs), 0).unwrap_or(0)
    }

    fn glob(&self, index: u32) -> Option<GlobRecord<'_>> {
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

    fn check_trie(&self) -> Result<(), FormatError> {
        let wrong = |section, offset: u64, what| FormatError::Section { section, offset, what };
        let section = self.section(SectionKind::Trie);
        let trie = Trie::open(section, self.section(SectionKind::Labels)).ok_or(wrong(SectionKind::Trie, 0, "header or length"))?;
        let rules = self.rule_count();
        if trie.any_rules > rules {
            return Err(wrong(SectionKind::Trie, 16, "more rules for `*` than rules"));
        }
        // The hash and the depth of every slot that was found in its place, so that no path is walked twice.
        let mut known: Vec<Option<(u64, usize)>> = vec![None; trie.slots as usize];
        let mut path = Vec::with_capacity(trie::MAX_LABELS);
        for index in 0..trie.slots {
            let at = trie::HEADER_LEN as u64 + u64::from(index) * trie::SLOT_LEN as u64;
            let wrong = |what| wrong(SectionKind::Trie, at, what);
            let slot = trie.slot(index).ok_or(wrong("a slot is cut"))?;
            if slot.label_len == 0 {
                continue;
            }
            if slot.first_rule < trie.any_rules && slot.rule_count > 0 || slot.rules().end > rules {
                return Err(wrong("rules out of range"));
            }
            // From the slot up to the root or to what is known, then the hashes down again.
            path.clear();
            let (mut up, mut hash, mut depth) = (index, trie.seed, 0);
            while up != ROOT {
                if let Some((known_hash, known_depth)) = known.get(up as usize).copied().flatten() {
                    (hash, depth) = (known_hash, known_depth);
                    break;
                }
                let slot = trie.slot(up).filter(|slot| slot.label_len > 0).ok_or(wrong("a parent is not a slot"))?;
                if path.len() == trie::MAX_LABELS {
                    return Err(wrong("parents form a loop"));
                }
                path.push((up, slot));
                up = slot.parent;
            }
            for (index, slot) in path.iter().rev() {
                hash = trie.check_place(*index, slot, hash).ok_or(wrong("a slot is not where a lookup finds it"))?;
                depth += 1;
                if depth > trie::MAX_LABELS {
                    return Err(wrong("a name with too many labels"));
                }
                if let Some(known) = known.get_mut(*index as usize) {
                    *known = Some((hash, depth));
                }
            }
        }
        Ok(())
    }

    /// Records stand back to back, so that each is looked at once however many attributes share it.
    fn check_conditions(&self) -> Result<(), FormatError> {
        let section = self.section(SectionKind::Conditions);
        let wrong = |section, offset: usize, what| FormatError::Section { section, offset: offset as u64, what };
        if u32_at(section, 0) != Some(0) {
            return Err(wrong(SectionKind::Conditions, 0, "the first word is not 0"));
        }
        let (mut starts, mut at) = (vec![0], conditions::FIRST);
        while at < section.len() {
            let (_, end) = Conditions::read(section, at).ok_or(wrong(SectionKind::Conditions, at, "a record is cut or is not text"))?;
            starts.push(at);
            at = end;
        }
        let attributes = self.section(SectionKind::Attributes);
        for index in 0..u16::try_from(attributes.len() / ATTRIBUTES_LEN).unwrap_or(u16::MAX) {
            let record = AttributesRecord::read(attributes, index);
            if record.is_some_and(|record| starts.binary_search(&(record.conditions as usize)).is_err()) {
                return Err(wrong(SectionKind::Attributes, usize::from(index) * ATTRIBUTES_LEN, "conditions"));
            }
        }
        Ok(())
    }

    fn check_rules(&self) -> Result<(), FormatError> {
        let wrong = |section, index: u32, len: usize, what| FormatError::Section { section, offset: u64::from(index) * len as u64, what };
        let count = |kind, n: Option<u32>| n.ok_or(FormatError::Section { section: kind, offset: 0, what: "length" });
        let rules = count(SectionKind::Rules, record_count::<RULE_LEN>(self.section(SectionKind::Rules)))?;
        let attributes = count(SectionKind::Attributes, record_count::<ATTRIBUTES_LEN>(self.section(SectionKind::Attributes)))?;
        let ports = count(SectionKind::Ports, record_count::<PORTS_LEN>(self.ports()))?;
        let networks = count(SectionKind::Networks, record_count::<NETWORK_LEN>(self.section(SectionKind::Networks)))?;
        for index in 0..attributes.min(u32::from(u16::MAX) + 1) {
            let record = u16::try_from(index).ok().and_then(|index| AttributesRecord::read(self.section(SectionKind::Attributes), index));
            let record = record.ok_or(wrong(SectionKind::Attributes, index, ATTRIBUTES_LEN, "unknown access"))?;
            let end = record.first_port.checked_add(u32::from(record.port_count));
            if end.is_none_or(|end| end > ports) {
                return Err(wrong(SectionKind::Attributes, index, ATTRIBUTES_LEN, "ports"));
            }
        }
        // Attributes may share port ranges: each range is looked at once, whoever shares it.
        if let Some(at) = port_ranges(self.ports(), 0, ports).position(|range| range.first == 0 || range.first > range.last) {
            return Err(wrong(SectionKind::Ports, u32::try_from(at).unwrap_or(u32::MAX), PORTS_LEN, "not a range of ports"));
        }
        let trie = self.trie();
        for index in 0..rules {
            let wrong = |what| wrong(SectionKind::Rules, index, RULE_LEN, what);
            let (rule, _) = self.rule_record(RuleId(index)).ok_or(wrong("unknown kind, or attributes out of range"))?;
            if usize::from(rule.source) >= self.sources.len() {
                return Err(wrong("source out of range"));
            }
            let anchored = match rule.kind {
                RuleKind::Any => index < trie.any_rules,
                RuleKind::Exact | RuleKind::Subdomains | RuleKind::ApexAndSubdomains => {
                    trie.slot(rule.anchor).is_some_and(|slot| slot.label_len > 0 && slot.rules().contains(&index))
                }
                RuleKind::Network => rule.anchor < networks,
                RuleKind::Glob => self.glob(rule.anchor).is_some_and(|glob| glob.rule.0 == index),
            };
            if !anchored {
                return Err(wrong("anchor"));
            }
        }
        for index in 0..networks {
            addresses::network(self.section(SectionKind::Networks), index).ok_or(wrong(
                SectionKind::Networks,
                index,
                NETWORK_LEN,
                "not a network",
            ))?;
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), FormatError> {
        let lists = self.section(SectionKind::AddressRules);
        let wrong = |word: usize, what| FormatError::Section { section: SectionKind::AddressRules, offset: (word * WORD_LEN) as u64, what };
        let words = record_count::<WORD_LEN>(lists).filter(|_| addresses::word(lists, 0) == Some(0));
        let words = words.ok_or(wrong(0, "length, or a first list that is not empty"))? as usize;
        // Lists stand back to back, so that each is looked at once however many ranges share it.
        let (mut starts, mut at) = (Vec::new(), 0);
        while at < words {
            starts.push(at);
            let len = addresses::word(lists, at).ok_or(wrong(at, "cut"))? as usize;
            let ids = bytes(lists, (at + 1) * WORD_LEN, len.saturating_mul(WORD_LEN)).ok_or(wrong(at, "a list is cut"))?;
            let rule = |id: &[u8]| u32_at(id, 0).and_then(|id| self.rule_record(RuleId(id)));
            if !ids.chunks_exact(WORD_LEN).all(|id| rule(id).is_some_and(|(rule, _)| rule.kind == RuleKind::Network)) {
                return Err(wrong(at, "a list holds what is not a rule for a network"));
            }
            at += 1 + len;
        }
        self.check_ranges::<V4_LEN>(SectionKind::Ipv4, &starts)?;
        self.check_ranges::<V6_LEN>(SectionKind::Ipv6, &starts)
    }

    /// Ranges ascend, and each has one of the lists.
    fn check_ranges<const N: usize>(&self, kind: SectionKind, starts: &[usize]) -> Result<(), FormatError> {
        let table = self.section(kind);
        let wrong = |index: u32, what| FormatError::Section { section: kind, offset: u64::from(index) * N as u64, what };
        let mut last: Option<&[u8]> = None;
        for index in 0..record_count::<N>(table).ok_or(wrong(0, "length"))? {
            let entry = bytes(table, index as usize * N, N).ok_or(wrong(index, "cut"))?;
            let (first, list) = entry.split_at_checked(N - WORD_LEN).ok_or(wrong(index, "cut"))?;
            // Little-endian numbers compare from their last byte.
            if last.is_some_and(|last| last.iter().rev().cmp(first.iter().rev()).is_ge()) {
                return Err(wrong(index, "ranges do not ascend"));
            }
            last = Some(first);
            let list = u32_at(list, 0).ok_or(wrong(index, "cut"))? as usize;
            if starts.binary_search(&list).is_err() {
                return Err(wrong(index, "its list is none"));
            }
        }
        Ok(())
    }

    fn check_globs(&self) -> Result<(), FormatError> {
        let count = self.glob_count();
        let section = self.section(SectionKind::Globs);
        let mut end = 8 + 4 * u64::from(count) + OWNER_LEN as u64 * u64::from(self.glob_programs());
        let mut owned = 0;
        for index in 0..count {
            let wrong = |what| FormatError::Section { section: SectionKind::Globs, offset: u64::from(index) * 4 + 8, what };
            let glob = self.glob(index).ok_or(wrong("a glob is cut"))?;
            // Records stand back to back, so that none is looked at twice.
            let start = u32_at(section, (index as usize + 2) * 4).map(u64::from);
            let len = 8 + glob.text.len() + glob.programs().map(|program| 2 + program.len()).sum::<usize>();
            if start != Some(end) {
                return Err(wrong("globs overlap or leave gaps"));
            }
            end += len as u64;
            let rule = self.rule_record(glob.rule).is_some_and(|(rule, _)| rule.kind == RuleKind::Glob && rule.anchor == index);
            let programs = glob.programs().filter(|program| glob::is_valid(program)).count();
            if !rule || programs != usize::from(glob.programs) || !glob.text.is_ascii() {
                return Err(wrong("a glob's rule, text or program"));
            }
            let owners = glob.programs().map(|program| Some((glob.rule, u16::try_from(glob::literal_bytes(program)).ok()?)));
            if !(owned..).zip(owners).all(|(number, owner)| owner.is_some() && self.glob_owner(number) == owner) {
                return Err(wrong("whose a program is"));
            }
            owned += u32::from(glob.programs);
        }
        if owned != self.glob_programs() {
            return Err(FormatError::Section { section: SectionKind::Globs, offset: 4, what: "how many programs there are" });
        }
        Ok(())
    }

    fn check_automata(&self) -> Result<(), FormatError> {
        let wrong = |(offset, what)| FormatError::Section { section: SectionKind::Automata, offset: offset as u64, what };
        let section = self.section(SectionKind::Automata);
        let automata = Automata::open(section).ok_or(wrong((0, "counts")))?;
        if section.is_empty() != (self.glob_programs() == 0) {
            return Err(wrong((0, "automata without globs, or globs without automata")));
        }
        automata.check(self.glob_programs()).map_err(wrong)
    }
}

impl<B: AsRef<[u8]>> fmt::Debug for Blob<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("digest", &self.layout.digest).field("rules", &self.rule_count()).finish_non_exhaustive()
    }
}

/// The hosts of hooks, parsed.
fn hooked(hooks: &[Hook]) -> Result<Vec<Hosts>, FormatError> {
    let wrong = |what| FormatError::Section { section: SectionKind::Hooks, offset: 0, what };
    if hooks.len() > MAX_HOOKS {
        return Err(wrong("too many hooks"));
    }
    hooks
        .iter()
        .map(|hook| match Pattern::parse(&hook.host) {
            Ok(Pattern {
                hosts: hosts @ (Hosts::Exact(_) | Hosts::Subdomains(_) | Hosts::ApexAndSubdomains(_) | Hosts::Network(_)),
                port: None,
            }) => Ok(hosts),
            _ => Err(wrong("a hook's host is not a name or a scoped wildcard")),
        })
        .collect()
}

fn decode<T: DeserializeOwned>(data: &[u8], layout: &Layout, kind: SectionKind) -> Result<T, FormatError> {
    let wrong = FormatError::Section { section: kind, offset: 0, what: "not the record that belongs here" };
    match postcard::take_from_bytes(data.get(layout.range(kind)).unwrap_or_default()) {
        Ok((value, [])) => Ok(value),
        _ => Err(wrong),
    }
}

struct GlobRecord<'a> {
    rule: RuleId,
    text: &'a [u8],
    programs: u16,
    rest: &'a [u8],
}

impl<'a> GlobRecord<'a> {
    fn programs(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.rest;
        (0..self.programs).map_while(move |_| {
            let len = usize::from(u16_at(rest, 0)?);
            let program = bytes(rest, 2, len)?;
            rest = rest.get(2 + len..)?;
            Some(program)
        })
    }
}
