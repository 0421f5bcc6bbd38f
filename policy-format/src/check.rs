//! The whole structure: every record of every section, once.
//!
//! Lookups check bounds themselves and do not rely on any of this. What is made sure of here is that the policy means what it shows: every rule that is listed is
//! found by a lookup, and nothing is found that is not listed.

use crate::automaton::Automata;
use crate::blob::Blob;
use crate::conditions::{self, Conditions};
use crate::error::FormatError;
use crate::glob::{self, OWNER_LEN};
use crate::header::SectionKind;
use crate::reader::{record_count, u32_at};
use crate::rules::{Access, PORTS_LEN, RULE_LEN, RuleId, RuleKind, TERMS_LEN, TermsRecord, port_ranges};
use std::cmp::Reverse;

impl<B: AsRef<[u8]>> Blob<B> {
    /// Validates every record of every section. A large trie is shared among threads, eight at most, which are gone when this is done.
    ///
    /// # Errors
    /// [`FormatError`] with the section and offset that is wrong. Time and memory are bounded by the length of the data.
    pub fn check(&self) -> Result<(), FormatError> {
        self.check_shared()?;
        self.check_rules()?;
        self.check_names()?;
        self.addresses().check(self.section(SectionKind::Rules))?;
        self.check_globs()?;
        self.check_automata()
    }

    /// Validates what rules share, and what hooks say: a part of [`Self::check`] that takes little time however many rules there are. What is left finds its rules, or does not; how much work it makes
    /// to decide a request, and to spell out a rule, is bounded from here on.
    ///
    /// # Errors
    /// [`FormatError`] with the section and offset that is wrong.
    pub fn check_shared(&self) -> Result<(), FormatError> {
        self.check_conditions()?;
        self.check_terms()?;
        self.check_hooks()
    }

    fn check_hooks(&self) -> Result<(), FormatError> {
        let known = self.known_profiles();
        let wrong = self.hooks().iter().any(|hook| hook.profiles.0 == 0 || hook.profiles.0 & !known != 0);
        if wrong { Err(FormatError::Section { section: SectionKind::Hooks, offset: 0, what: "profiles" }) } else { Ok(()) }
    }

    /// The bits of the profiles that there are.
    fn known_profiles(&self) -> u64 {
        u64::MAX.checked_shr(64_u32.saturating_sub(u32::try_from(self.profiles().len()).unwrap_or(64))).unwrap_or(0)
    }

    /// Records stand back to back, so that each is looked at once however many terms share it.
    fn check_conditions(&self) -> Result<(), FormatError> {
        let section = self.section(SectionKind::Conditions);
        let wrong = |section, offset: usize, what| FormatError::Section { section, offset: offset as u64, what };
        if u32_at(section, 0) != Some(0) {
            return Err(wrong(SectionKind::Conditions, 0, "the first word is not 0"));
        }
        let (mut starts, mut at) = (vec![0], conditions::FIRST);
        while at < section.len() {
            let what = "a record is cut, is not text, or has paths that are no trie";
            let (_, end) = Conditions::read(section, at).ok_or(wrong(SectionKind::Conditions, at, what))?;
            starts.push(at);
            at = end;
        }
        let terms = self.section(SectionKind::Terms);
        for index in 0..record_count::<TERMS_LEN>(terms).unwrap_or(0) {
            if TermsRecord::read(terms, index).is_some_and(|record| starts.binary_search(&(record.conditions as usize)).is_err()) {
                return Err(wrong(SectionKind::Terms, index as usize * TERMS_LEN, "conditions"));
            }
        }
        Ok(())
    }

    fn check_terms(&self) -> Result<(), FormatError> {
        let section = self.section(SectionKind::Terms);
        let wrong = |section, index: u32, len: usize, what| FormatError::Section { section, offset: u64::from(index) * len as u64, what };
        let count = record_count::<TERMS_LEN>(section).filter(|count| *count < u32::from(u16::MAX) + 1);
        let ports = record_count::<PORTS_LEN>(self.ports()).ok_or(wrong(SectionKind::Ports, 0, 0, "length"))?;
        let known = self.known_profiles();
        let mut last = Access::Allow;
        for index in 0..count.ok_or(wrong(SectionKind::Terms, 0, 0, "length"))? {
            let wrong = |what| wrong(SectionKind::Terms, index, TERMS_LEN, what);
            let record = TermsRecord::read(section, index).ok_or(wrong("unknown access"))?;
            if std::mem::replace(&mut last, record.access) > record.access {
                return Err(wrong("terms are not in order of access"));
            }
            let end = record.first_port.checked_add(u32::from(record.port_count));
            if end.is_none_or(|end| end > ports) {
                return Err(wrong("ports"));
            }
            if usize::from(record.source) >= self.sources().len() {
                return Err(wrong("source out of range"));
            }
            if record.profiles.0 == 0 || record.profiles.0 & !known != 0 {
                return Err(wrong("profiles"));
            }
        }
        // Terms may share port ranges: each range is looked at once, whoever shares it.
        if let Some(at) = port_ranges(self.ports(), 0, ports).position(|range| range.first == 0 || range.first > range.last) {
            return Err(wrong(SectionKind::Ports, u32::try_from(at).unwrap_or(u32::MAX), PORTS_LEN, "not a range of ports"));
        }
        Ok(())
    }

    /// The rules that are listed, apart from those of names.
    fn check_rules(&self) -> Result<(), FormatError> {
        let wrong = |section, index: u32, len: usize, what| FormatError::Section { section, offset: u64::from(index) * len as u64, what };
        let rules = record_count::<RULE_LEN>(self.section(SectionKind::Rules)).ok_or(wrong(SectionKind::Rules, 0, 0, "length"))?;
        let mut last = RuleKind::Any;
        for index in 0..rules {
            let wrong = |what| wrong(SectionKind::Rules, index, RULE_LEN, what);
            let rule = self.listed(RuleId(index)).ok_or(wrong("unknown kind"))?;
            self.terms(u32::from(rule.terms)).ok_or(wrong("terms out of range"))?;
            let anchored = match rule.kind {
                RuleKind::Any => last == RuleKind::Any,
                RuleKind::Exact | RuleKind::Subdomains | RuleKind::ApexAndSubdomains => last == RuleKind::Any || last.names(),
                RuleKind::Network => {
                    last != RuleKind::Glob && self.addresses().rules(rule.anchor).is_some_and(|rules| rules.contains(&index))
                }
                RuleKind::Glob => self.glob_rule(rule.anchor).is_some_and(|of| of.0 == index),
            };
            if !anchored {
                return Err(wrong("anchor, or order"));
            }
            last = rule.kind;
        }
        Ok(())
    }

    /// The trie, and the listed rules of its names: each belongs to one name.
    fn check_names(&self) -> Result<(), FormatError> {
        let listed = (0..self.listed_count()).filter_map(|index| self.listed(RuleId(index)));
        let (first, of_names) = listed
            .enumerate()
            .filter(|(_, rule)| rule.kind.names())
            .fold((None, 0), |(first, count), (index, _)| (first.or(Some(index)), count + 1));
        let mut next = first.unwrap_or(0);
        let end = next + of_names;
        let terms = record_count::<TERMS_LEN>(self.section(SectionKind::Terms)).unwrap_or(0);
        let several = self.trie().check(terms).map_err(|(section, offset, what)| FormatError::Section { section, offset, what })?;
        for node in several {
            // Names that have several follow one another there as they do here.
            let offset = u64::from(node.line) * RULE_LEN as u64;
            let wrong = |what| FormatError::Section { section: SectionKind::Rules, offset, what };
            if node.line as usize != next {
                return Err(wrong("rules of a name are not where they belong"));
            }
            let (mut kinds, mut last) = (0, None);
            while let Some(rule) = self.listed(RuleId(u32::try_from(next).unwrap_or(u32::MAX))).filter(|rule| rule.anchor == node.slot)
                && next < end
            {
                kinds |= rule.kind as u8;
                next += 1;
                // As the writer has them: the closest last, and of equals the strongest layer's.
                let terms = self.terms(u32::from(rule.terms)).ok_or(wrong("terms out of range"))?;
                let layer = self.sources().get(usize::from(terms.source)).map(|source| Reverse(source.layer));
                let order = (rule.kind == RuleKind::Exact, terms.access, layer, rule.line, rule.kind as u8, rule.terms);
                if last.replace(order).is_some_and(|last| last > order) {
                    return Err(wrong("rules of a name are not in order"));
                }
            }
            if kinds != node.kinds {
                return Err(wrong("rules of a name are of other kinds"));
            }
        }
        if next != end {
            let offset = (next * RULE_LEN) as u64;
            return Err(FormatError::Section { section: SectionKind::Rules, offset, what: "a rule of a name that is not there" });
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
            let rule = self.listed(glob.rule).is_some_and(|rule| rule.kind == RuleKind::Glob && rule.anchor == index);
            // What is shown is the text, and what is matched is the programs.
            let text = std::str::from_utf8(glob.text).ok().filter(|text| text.len() <= glob::MAX_TEXT);
            let parsed = text.and_then(|text| glob::Glob::parse(text).ok());
            let same = parsed.is_some_and(|parsed| {
                parsed.programs().len() == usize::from(glob.programs) && glob.programs().eq(parsed.programs().iter().map(Vec::as_slice))
            });
            if !rule || !same {
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
        automata.check(self.glob_programs()).map_err(wrong)?;
        // Programs that stand alone are those of globs; where each is, what is shown is what is matched.
        let programs: Vec<&[u8]> = (0..self.glob_count()).filter_map(|index| self.glob(index)).flat_map(|glob| glob.programs()).collect();
        let known = |number| usize::try_from(number).ok().and_then(|number: usize| programs.get(number).copied());
        match automata.alone().find(|(_, number, program)| known(*number) != Some(program)) {
            Some((at, ..)) => Err(wrong((at, "a program that stands alone is not what its glob says"))),
            None => Ok(()),
        }?;
        // Whether the automata match what the globs say is not proved: that would take as long as to write them. But a glob matches what is written for it here.
        for (number, program) in (0..).zip(&programs) {
            for name in [b"".as_slice(), b"x"].into_iter().filter_map(|run| glob::example(program, run)) {
                let mut found = false;
                automata.for_each_match(&name, |matched| found |= matched == number);
                if !found {
                    return Err(wrong((0, "the automata do not match what a glob says")));
                }
            }
        }
        Ok(())
    }
}
