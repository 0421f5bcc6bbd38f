//! `BlobBuilder`: the writer. Same input, in whatever order, same bytes.
//!
//! Rules are sorted by what they say; the trie's seed is taken from a hash of its names, with a counter for the case that names collide
//! too much; nothing depends on addresses in memory, the order of maps, or the clock.

use crate::addresses::WORD_LEN;
use crate::automaton;
use crate::conditions;
use crate::glob::{self, Glob, OWNER_LEN};
use crate::header::{self, ALIGN, DIGEST_AT, Digest, ENTRY_LEN, HEADER_LEN, MAGIC, MAJOR, MINOR, REQUIRED, SectionKind};
use crate::host::Name;
use crate::net::Network;
use crate::pattern::{Hosts, Pattern};
use crate::records::{Hook, MAX_HOOKS, Meta, Source};
use crate::rules::{Access, AttributesRecord, PortRange, RULE_LEN, RuleKind, RuleRecord};
use crate::trie::{self, MAX_PROBE, ROOT, SLOT_LEN, Slot};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

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
}

impl RuleInput {
    /// A rule for the hosts and the port of a pattern, every method and every path.
    #[must_use]
    pub fn new(pattern: Pattern, access: Access, source: Source, line: u32) -> Self {
        let ports = pattern.port.map(|port| PortRange { first: port, last: port }).into_iter().collect();
        Self { hosts: pattern.hosts, ports, access, methods: Vec::new(), paths: Vec::new(), reason: String::new(), source, line }
    }

    fn terms(&self) -> Terms<'_> {
        Terms { access: self.access, ports: &self.ports, methods: &self.methods, paths: &self.paths, reason: &self.reason }
    }
}

/// Collects a policy and writes it.
#[derive(Debug)]
pub struct BlobBuilder {
    meta: Meta,
    rules: Vec<RuleInput>,
    hooks: Vec<Hook>,
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
        "the policy's globs are too many or too varied to be matched together: {found} alternatives are left to be tried one by one on every name, and at most {limit} may be; write fewer globs, or globs with fewer `*`, `?` and braces"
    )]
    Globs {
        /// Alternatives of globs that no automaton holds.
        found: usize,
        /// How many may be left.
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
    /// A policy without rules.
    #[must_use]
    pub fn new(meta: Meta) -> Self {
        Self { meta, rules: Vec::new(), hooks: Vec::new() }
    }

    /// Adds a rule.
    pub fn rule(&mut self, rule: RuleInput) -> &mut Self {
        self.rules.push(rule);
        self
    }

    /// Adds a hook. Hooks are tried in the order in which they are added.
    pub fn hook(&mut self, hook: Hook) -> &mut Self {
        self.hooks.push(hook);
        self
    }

    /// Writes the blob.
    ///
    /// # Errors
    /// [`BuildError`] when something is more than the format can count.
    pub fn build(mut self) -> Result<Vec<u8>, BuildError> {
        for rule in &mut self.rules {
            rule.ports.sort_unstable();
            rule.ports.dedup();
            for list in [&mut rule.methods, &mut rule.paths] {
                list.sort_unstable();
                list.dedup();
            }
        }
        let mut rules: Vec<(SortKey, RuleInput)> = self.rules.into_iter().map(|rule| (SortKey::new(&rule.hosts), rule)).collect();
        rules.sort_by(|(a, x), (b, y)| {
            // Of equals the last decides: that is the strongest layer's.
            let rest = |rule: &RuleInput| (rule.access, Reverse(rule.source.layer), rule.line);
            a.cmp(b).then_with(|| rest(x).cmp(&rest(y))).then_with(|| x.terms().cmp(&y.terms())).then_with(|| x.source.cmp(&y.source))
        });
        let rules: Vec<RuleInput> = rules.into_iter().map(|(_, rule)| rule).collect();
        Sections::new(&self.meta, &rules, &self.hooks)?.write()
    }
}

/// Gives a blob whose content was changed by hand its right digest again: for tests and fuzzers that look behind it.
pub fn reseal(blob: &mut [u8]) {
    let Digest(digest) = header::digest(blob);
    if let Some(place) = blob.get_mut(DIGEST_AT..HEADER_LEN) {
        place.copy_from_slice(&digest);
    }
}

/// The order of rules in a blob: those for `*` first, as the trie's header says; then names by reversed labels, networks, globs.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum SortKey {
    Any,
    Name(Vec<u8>, RuleKind),
    Network(Network),
    Glob(String),
}

impl SortKey {
    fn new(hosts: &Hosts) -> Self {
        match hosts {
            Hosts::Any => Self::Any,
            Hosts::Exact(name) => Self::Name(reversed(name), RuleKind::Exact),
            Hosts::Subdomains(name) => Self::Name(reversed(name), RuleKind::Subdomains),
            Hosts::ApexAndSubdomains(name) => Self::Name(reversed(name), RuleKind::ApexAndSubdomains),
            Hosts::Network(network) => Self::Network(*network),
            Hosts::Glob(glob) => Self::Glob(glob.text().to_owned()),
        }
    }
}

/// `www.example.com` as `com\0example\0www`: parents sort before their children, and nothing between them.
fn reversed(name: &Name) -> Vec<u8> {
    let labels: Vec<&[u8]> = name.as_bytes().rsplit(|byte| *byte == b'.').collect();
    labels.join(&0)
}

/// The contents of the sections.
struct Sections {
    contents: BTreeMap<u32, Vec<u8>>,
}

impl Sections {
    fn new(meta: &Meta, rules: &[RuleInput], hooks: &[Hook]) -> Result<Self, BuildError> {
        let encode = |error: postcard::Error| BuildError::Encode(error.to_string());
        count(rules.len(), "rules", u32::MAX as usize - 1)?;
        count(hooks.len(), "hooks", MAX_HOOKS)?;
        let sources: Vec<&Source> = rules.iter().map(|rule| &rule.source).collect::<BTreeSet<_>>().into_iter().collect();
        let source_index: HashMap<&Source, usize> = sources.iter().enumerate().map(|(index, source)| (*source, index)).collect();
        let attributes = Attributes::new(rules)?;
        let trie = NameTable::new(rules)?;
        let WrittenTrie { section: trie_section, labels, slot_of_rule } = trie.write()?;
        let networks: Vec<(u32, Network)> =
            numbered(rules, |hosts| if let Hosts::Network(network) = hosts { Some(*network) } else { None });
        let globs: Vec<(u32, &Glob)> = numbered(rules, |hosts| if let Hosts::Glob(glob) = hosts { Some(glob) } else { None });
        count(globs.len(), "globs", MAX_GLOBS)?;
        let programs: Vec<&[u8]> = globs.iter().flat_map(|(_, glob)| glob.programs()).map(Vec::as_slice).collect();

        let mut records = Vec::with_capacity(rules.len() * RULE_LEN);
        let (mut network, mut glob) = (0, 0);
        for (index, rule) in rules.iter().enumerate() {
            let (kind, anchor) = match &rule.hosts {
                Hosts::Any => (RuleKind::Any, 0),
                Hosts::Exact(_) => (RuleKind::Exact, anchor(&slot_of_rule, index)),
                Hosts::Subdomains(_) => (RuleKind::Subdomains, anchor(&slot_of_rule, index)),
                Hosts::ApexAndSubdomains(_) => (RuleKind::ApexAndSubdomains, anchor(&slot_of_rule, index)),
                Hosts::Network(_) => (RuleKind::Network, post_increment(&mut network)),
                Hosts::Glob(_) => (RuleKind::Glob, post_increment(&mut glob)),
            };
            let source = source_index.get(&rule.source).copied().unwrap_or(0);
            RuleRecord {
                anchor,
                line: rule.line,
                attributes: attributes.index(rule),
                source: u16::try_from(source).map_err(|_| BuildError::TooMany { what: "sources", limit: usize::from(u16::MAX) })?,
                kind,
            }
            .write(&mut records);
        }

        let mut lists = vec![0; WORD_LEN];
        let contents = [
            (SectionKind::Meta, postcard::to_allocvec(meta).map_err(encode)?),
            (SectionKind::Trie, trie_section),
            (SectionKind::Labels, labels),
            (SectionKind::Rules, records),
            (SectionKind::Attributes, attributes.records),
            (SectionKind::Ports, attributes.ports),
            (SectionKind::Ipv4, write_ranges(&networks, true, &mut lists)?),
            (SectionKind::Ipv6, write_ranges(&networks, false, &mut lists)?),
            (SectionKind::AddressRules, lists),
            (SectionKind::Networks, networks.iter().flat_map(|(_, network)| write_network(network)).collect()),
            (SectionKind::Globs, write_globs(&globs)?),
            (SectionKind::Sources, postcard::to_allocvec(&sources).map_err(encode)?),
            (SectionKind::Conditions, attributes.conditions),
            (SectionKind::Hooks, postcard::to_allocvec(hooks).map_err(encode)?),
            (SectionKind::Automata, automaton::write(&programs)?),
        ];
        Ok(Self { contents: contents.into_iter().map(|(kind, content)| (kind as u32, content)).collect() })
    }

    fn write(self) -> Result<Vec<u8>, BuildError> {
        let table = HEADER_LEN + ENTRY_LEN * self.contents.len();
        let mut offset = table;
        let mut out = vec![0; HEADER_LEN];
        for (kind, content) in &self.contents {
            offset = offset.next_multiple_of(ALIGN);
            out.extend(kind.to_le_bytes());
            out.extend(REQUIRED.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            out.extend((content.len() as u64).to_le_bytes());
            out.extend(0_u64.to_le_bytes());
            offset += content.len();
        }
        for content in self.contents.values() {
            out.resize(out.len().next_multiple_of(ALIGN), 0);
            out.extend(content);
        }
        let sections = u32::try_from(self.contents.len()).map_err(|_| BuildError::TooMany { what: "sections", limit: 64 })?;
        let mut head = Vec::with_capacity(HEADER_LEN);
        head.extend(MAGIC);
        head.extend(MAJOR.to_le_bytes());
        head.extend(MINOR.to_le_bytes());
        head.extend(sections.to_le_bytes());
        head.extend((out.len() as u64).to_le_bytes());
        for (to, from) in out.iter_mut().zip(head) {
            *to = from;
        }
        reseal(&mut out);
        Ok(out)
    }
}

fn anchor(slot_of_rule: &[u32], index: usize) -> u32 {
    slot_of_rule.get(index).copied().unwrap_or(0)
}

fn post_increment(counter: &mut u32) -> u32 {
    let before = *counter;
    *counter += 1;
    before
}

fn count(found: usize, what: &'static str, limit: usize) -> Result<u32, BuildError> {
    u32::try_from(found).ok().filter(|_| found <= limit).ok_or(BuildError::TooMany { what, limit })
}

/// The rules of one sort, with their numbers.
fn numbered<'a, T>(rules: &'a [RuleInput], pick: impl Fn(&'a Hosts) -> Option<T>) -> Vec<(u32, T)> {
    (0..).zip(rules).filter_map(|(id, rule)| Some((id, pick(&rule.hosts)?))).collect()
}

/// What rules say beyond their hosts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Terms<'a> {
    access: Access,
    ports: &'a [PortRange],
    methods: &'a [String],
    paths: &'a [String],
    reason: &'a str,
}

/// The attribute records, each stored once.
struct Attributes<'a> {
    known: HashMap<Terms<'a>, u16>,
    records: Vec<u8>,
    ports: Vec<u8>,
    conditions: Vec<u8>,
}

impl<'a> Attributes<'a> {
    fn new(rules: &'a [RuleInput]) -> Result<Self, BuildError> {
        let distinct: BTreeSet<Terms<'_>> = rules.iter().map(RuleInput::terms).collect();
        let mut all = Self { known: HashMap::new(), records: Vec::new(), ports: Vec::new(), conditions: vec![0; conditions::FIRST] };
        let mut first_port = 0_u32;
        for terms in distinct {
            let too_many = |what, limit| BuildError::TooMany { what, limit };
            let index = u16::try_from(all.known.len()).map_err(|_| too_many("kinds of rules", usize::from(u16::MAX)))?;
            let port_count = u16::try_from(terms.ports.len()).map_err(|_| too_many("ports in one rule", usize::from(u16::MAX)))?;
            let conditions = all.write_conditions(&terms)?;
            AttributesRecord { access: terms.access, port_count, first_port, conditions }.write(&mut all.records);
            for range in terms.ports {
                all.ports.extend(range.first.to_le_bytes());
                all.ports.extend(range.last.to_le_bytes());
            }
            first_port += u32::from(port_count);
            all.known.insert(terms, index);
        }
        Ok(all)
    }

    fn write_conditions(&mut self, terms: &Terms<'_>) -> Result<u32, BuildError> {
        if terms.methods.is_empty() && terms.paths.is_empty() && terms.reason.is_empty() {
            return Ok(0);
        }
        let offset = count(self.conditions.len(), "bytes in conditions", u32::MAX as usize)?;
        let written = conditions::write(&mut self.conditions, terms.methods, terms.paths, terms.reason);
        written.ok_or(BuildError::TooMany { what: "methods, paths or bytes of text in one rule", limit: usize::from(u16::MAX) })?;
        Ok(offset)
    }

    fn index(&self, rule: &RuleInput) -> u16 {
        self.known.get(&rule.terms()).copied().unwrap_or(0)
    }
}

/// A node of the trie before it has a slot.
struct Node<'a> {
    /// Index among the nodes; `None`: the root.
    parent: Option<usize>,
    label: &'a [u8],
    first_rule: u32,
    rule_count: u16,
}

/// The names as a tree, in the order of their reversed labels.
struct NameTable<'a> {
    nodes: Vec<Node<'a>>,
    any_rules: u32,
    node_of_rule: Vec<Option<usize>>,
}

/// The trie's two sections, and the slot of each rule's name.
struct WrittenTrie {
    section: Vec<u8>,
    labels: Vec<u8>,
    slot_of_rule: Vec<u32>,
}

/// Labels end to end, and where each is.
struct Labels<'a> {
    bytes: Vec<u8>,
    at: HashMap<&'a [u8], u32>,
}

impl<'a> NameTable<'a> {
    /// From rules sorted by name: the labels that two neighbours share are a path that is there already.
    fn new(rules: &'a [RuleInput]) -> Result<Self, BuildError> {
        let mut table = Self { nodes: Vec::new(), any_rules: 0, node_of_rule: Vec::with_capacity(rules.len()) };
        let mut path: Vec<usize> = Vec::new();
        for (id, rule) in (0_u32..).zip(rules) {
            let name = match &rule.hosts {
                Hosts::Exact(name) | Hosts::Subdomains(name) | Hosts::ApexAndSubdomains(name) => name,
                Hosts::Any => {
                    table.any_rules += 1;
                    table.node_of_rule.push(None);
                    continue;
                }
                Hosts::Network(_) | Hosts::Glob(_) => {
                    table.node_of_rule.push(None);
                    continue;
                }
            };
            let mut depth = 0;
            for label in name.as_bytes().rsplit(|byte| *byte == b'.') {
                let shared = path.get(depth).and_then(|node| table.nodes.get(*node)).is_some_and(|node| node.label == label);
                if !shared {
                    path.truncate(depth);
                    let parent = path.last().copied();
                    path.push(table.nodes.len());
                    table.nodes.push(Node { parent, label, first_rule: id, rule_count: 0 });
                }
                depth += 1;
            }
            path.truncate(depth);
            let node = path.last().copied();
            if let Some(node) = node.and_then(|index| table.nodes.get_mut(index)) {
                if node.rule_count == 0 {
                    node.first_rule = id;
                }
                node.rule_count = node
                    .rule_count
                    .checked_add(1)
                    .ok_or(BuildError::TooMany { what: "rules for one name", limit: usize::from(u16::MAX) })?;
            }
            table.node_of_rule.push(node);
        }
        count(table.nodes.len(), "names", u32::MAX as usize / 2)?;
        Ok(table)
    }

    fn write(&self) -> Result<WrittenTrie, BuildError> {
        let Labels { bytes: labels, at: label_at } = self.labels()?;
        // Two thirds full: short runs, few bytes.
        let slots = count(self.nodes.len() + self.nodes.len().div_ceil(2), "names", u32::MAX as usize)?;
        for attempt in 0..64 {
            let seed = self.seed(attempt);
            let Some((slot_of, max_probe)) = self.place(seed, slots) else { continue };
            let mut section = Vec::with_capacity(trie::HEADER_LEN + slots as usize * SLOT_LEN);
            section.extend(seed.to_le_bytes());
            section.extend(slots.to_le_bytes());
            section.extend(max_probe.to_le_bytes());
            section.extend(self.any_rules.to_le_bytes());
            section.resize(trie::HEADER_LEN + slots as usize * SLOT_LEN, 0);
            let mut hashes = Vec::with_capacity(self.nodes.len());
            for (index, node) in self.nodes.iter().enumerate() {
                let hash = trie::absorb(self.parent_hash(node, &hashes, seed), node.label, seed);
                hashes.push(hash);
                let slot = Slot {
                    parent: node.parent.map_or(ROOT, |parent| slot_of.get(parent).copied().unwrap_or(ROOT)),
                    label_at: label_at.get(node.label).copied().unwrap_or(0),
                    first_rule: node.first_rule,
                    rule_count: node.rule_count,
                    label_len: u8::try_from(node.label.len()).unwrap_or(0),
                    tag: trie::tag(hash),
                };
                let at = trie::HEADER_LEN + slot_of.get(index).copied().unwrap_or(0) as usize * SLOT_LEN;
                write_slot(&slot, section.get_mut(at..at + SLOT_LEN).unwrap_or_default());
            }
            let slot_of_rule = self.node_of_rule.iter().map(|node| node.and_then(|node| slot_of.get(node).copied()).unwrap_or(0)).collect();
            return Ok(WrittenTrie { section, labels, slot_of_rule });
        }
        Err(BuildError::Collisions)
    }

    fn parent_hash(&self, node: &Node<'_>, hashes: &[u64], seed: u64) -> u64 {
        node.parent.and_then(|parent| hashes.get(parent).copied()).unwrap_or(seed)
    }

    /// Every label once, in the order of first use.
    fn labels(&self) -> Result<Labels<'a>, BuildError> {
        let (mut bytes, mut at) = (Vec::new(), HashMap::new());
        for node in &self.nodes {
            if !at.contains_key(node.label) {
                at.insert(node.label, count(bytes.len(), "bytes in names", u32::MAX as usize)?);
                bytes.extend(node.label);
            }
        }
        Ok(Labels { bytes, at })
    }

    fn seed(&self, attempt: u32) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"netpolicy trie seed");
        hasher.update(&attempt.to_le_bytes());
        for node in &self.nodes {
            hasher.update(&(node.parent.map_or(0, |parent| parent as u64 + 1)).to_le_bytes());
            hasher.update(node.label);
            hasher.update(&[0]);
        }
        let mut seed = [0; 8];
        hasher.finalize_xof().fill(&mut seed);
        u64::from_le_bytes(seed)
    }

    /// A slot for every node by linear probing, and the longest run; `None` when a run is too long under this seed.
    fn place(&self, seed: u64, slots: u32) -> Option<(Vec<u32>, u32)> {
        let mut used = vec![false; slots as usize];
        let (mut slot_of, mut hashes, mut longest) = (Vec::with_capacity(self.nodes.len()), Vec::with_capacity(self.nodes.len()), 0);
        for node in &self.nodes {
            let hash = trie::absorb(self.parent_hash(node, &hashes, seed), node.label, seed);
            hashes.push(hash);
            let mut index = trie::home(hash, slots);
            let mut run = 1;
            while *used.get(index as usize)? {
                index = trie::next(index, slots);
                run += 1;
                if run > MAX_PROBE {
                    return None;
                }
            }
            *used.get_mut(index as usize)? = true;
            slot_of.push(index);
            longest = longest.max(run);
        }
        Some((slot_of, longest))
    }
}

fn write_slot(slot: &Slot, to: &mut [u8]) {
    let mut bytes = Vec::with_capacity(SLOT_LEN);
    bytes.extend(slot.parent.to_le_bytes());
    bytes.extend(slot.label_at.to_le_bytes());
    bytes.extend(slot.first_rule.to_le_bytes());
    bytes.extend(slot.rule_count.to_le_bytes());
    bytes.extend([slot.label_len, slot.tag]);
    for (to, from) in to.iter_mut().zip(bytes) {
        *to = from;
    }
}

/// Flattens nested networks into disjoint ranges, each with the list of those that cover it, widest first.
fn write_ranges(networks: &[(u32, Network)], v4: bool, lists: &mut Vec<u8>) -> Result<Vec<u8>, BuildError> {
    let family: Vec<(u128, Option<u128>, u32)> = networks
        .iter()
        .filter(|(_, network)| network.addr().is_ipv4() == v4)
        .map(|(id, network)| {
            let (first, bits) = match network.addr() {
                IpAddr::V4(addr) => (u128::from(addr.to_bits()), 32),
                IpAddr::V6(addr) => (addr.to_bits(), 128),
            };
            let size = 1_u128.checked_shl(u32::from(bits - network.prefix()));
            let end = size.and_then(|size| first.checked_add(size)).filter(|end| !v4 || *end <= u128::from(u32::MAX));
            (first, end, *id)
        })
        .collect();
    if family.is_empty() {
        return Ok(Vec::new());
    }
    let bounds: BTreeSet<u128> = family.iter().flat_map(|(first, end, _)| [Some(0), Some(*first), *end]).flatten().collect();
    // The rules are sorted by address and then prefix length: what covers a range comes widest first.
    let (mut open, mut next): (Vec<(Option<u128>, u32)>, usize) = (Vec::new(), 0);
    let mut known: HashMap<Vec<u32>, u32> = HashMap::from([(Vec::new(), 0)]);
    let mut table = Vec::new();
    for bound in bounds {
        open.retain(|(end, _)| end.is_none_or(|end| end > bound));
        while let Some((_, end, id)) = family.get(next).filter(|(first, ..)| *first == bound) {
            open.push((*end, *id));
            next += 1;
        }
        let ids: Vec<u32> = open.iter().map(|(_, id)| *id).collect();
        let list = match known.get(&ids) {
            Some(list) => *list,
            None => {
                let list = count(lists.len() / WORD_LEN, "overlapping networks", u32::MAX as usize)?;
                lists.extend(count(ids.len(), "overlapping networks", u32::MAX as usize)?.to_le_bytes());
                lists.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
                known.insert(ids, list);
                list
            }
        };
        if v4 {
            table.extend(u32::try_from(bound).unwrap_or(u32::MAX).to_le_bytes());
        } else {
            table.extend(bound.to_le_bytes());
        }
        table.extend(list.to_le_bytes());
    }
    Ok(table)
}

fn write_network(network: &Network) -> Vec<u8> {
    let (family, mut octets) = match network.addr() {
        IpAddr::V4(addr) => (4, addr.octets().to_vec()),
        IpAddr::V6(addr) => (6, addr.octets().to_vec()),
    };
    octets.resize(16, 0);
    [vec![family, network.prefix()], octets].concat()
}

/// Globs: counts, offsets, whose each program is, and the records (see `lib.rs`).
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
