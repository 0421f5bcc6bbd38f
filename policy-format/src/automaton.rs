//! The globs of a policy as automata: one pass over a name finds every program ([`crate::glob`]) that matches it, however many there are.
//!
//! An automaton reads a name from its last byte to its first. A name that shares no ending with any glob is in the dead state after a few bytes, so that the
//! automaton is its own filter by suffix. What it has come to at the start of the name says which programs match: matches are whole names, as those of a
//! program tried alone.
//!
//! The tables are this project's own, and not those of a regular expression library: such a library's serialised form is bound to its version, and without
//! `unsafe` it has to be copied and checked before use. These are read in place, with checked bounds, without memory of their own, and can be read for ever.
//!
//! ```text
//! section `automata`: empty without programs          automaton
//!  0 u32    automata, at most 64                       0 u16    states, the dead one included
//!  4 u32    programs that stand alone, at most 4,096   2 u16    classes of bytes, at most 256
//!  8 u32 ×  bytes in each automaton                    4 u16    accepting states: the last ones
//!    the automata, back to back                        6 u16    state to start in
//!    the programs that stand alone, by number:         8 u8 ×   class of each of the 256 bytes
//!     0 u32 number                                   264 u16 ×  next state: a row of classes for each state;
//!     4 u16 bytes                                               state 0 is dead, and its row is zeros
//!     6     the program                                  u32 ×  for each accepting state, where its list ends,
//!                                                               counted in numbers
//!                                                        u32 ×  lists: numbers of programs, ascending
//! ```
//!
//! Programs are numbered through all globs, in the order of section `globs`. Globs that multiply each other's states are spread over several automata. What
//! is too large for an automaton even alone (`????????????-*.example.com` has to remember where it saw each `-`) stands in the section as it is, and is
//! tried on every name. Sizes are bounded by the writer, see `automaton/write.rs`.

use crate::glob;
use crate::reader::{bytes, u16_at, u32_at};

#[cfg(feature = "build")]
mod write;

#[cfg(feature = "build")]
pub(crate) use write::write;

/// Automata in a section.
pub(crate) const MAX_AUTOMATA: usize = 64;
/// Programs that are in no automaton.
pub(crate) const MAX_ALONE: usize = 4096;
/// Bytes of all of them: each may be tried at every byte of a name, so that this bounds the time of a lookup, to about a millisecond.
pub(crate) const MAX_ALONE_BYTES: usize = 8 << 10;
/// Bytes before an automaton's classes.
const HEADER_LEN: usize = 8;
/// Bytes, and so classes at most.
const BYTES: usize = 256;
const NUMBER_LEN: usize = 4;
/// Number and length of a program that stands alone.
const ALONE_LEN: usize = 6;

/// A view of the section.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Automata<'a> {
    alone: usize,
    lengths: &'a [u8],
    /// From the first automaton on.
    rest: &'a [u8],
    /// Where that is.
    at: usize,
}

impl<'a> Automata<'a> {
    /// Reads the counts; `None` when the section cannot be one of automata.
    pub(crate) fn open(section: &'a [u8]) -> Option<Self> {
        if section.is_empty() {
            return Some(Self { alone: 0, lengths: &[], rest: &[], at: 0 });
        }
        let count = |at| u32_at(section, at).and_then(|count| usize::try_from(count).ok());
        let automata = count(0).filter(|automata| *automata <= MAX_AUTOMATA)?;
        let alone = count(4).filter(|alone| *alone <= MAX_ALONE)?;
        let (lengths, rest) = section.get(8..)?.split_at_checked(automata * NUMBER_LEN)?;
        Some(Self { alone, lengths, rest, at: 8 + lengths.len() })
    }

    /// Calls `found` with the number of every program that matches the whole of `name`, ascending, each once.
    #[inline]
    pub(crate) fn for_each_match(self, name: &[u8], mut found: impl FnMut(u32)) {
        if self.lengths.len() > NUMBER_LEN || self.alone > 0 {
            return self.merge(name, &mut found);
        }
        if let Some(automaton) = self.automata().next().and_then(|(_, automaton)| automaton) {
            numbers(automaton.accepts(name)).for_each(found);
        }
    }

    /// Several lists, each of which ascends.
    fn merge(self, name: &[u8], found: &mut dyn FnMut(u32)) {
        let mut lists: [&[u8]; MAX_AUTOMATA] = [&[]; MAX_AUTOMATA];
        let mut filled = 0;
        for automaton in self.automata().filter_map(|(_, automaton)| automaton) {
            let list = automaton.accepts(name);
            if let Some(place) = lists.get_mut(filled).filter(|_| !list.is_empty()) {
                *place = list;
                filled += 1;
            }
        }
        let lists = lists.get_mut(..filled).unwrap_or_default();
        let mut alone = self.alone().filter(|(_, _, program)| glob::matches(program, name)).map(|(_, number, _)| number).peekable();
        while let Some(least) = lists.iter().filter_map(|list| u32_at(list, 0)).chain(alone.peek().copied()).min() {
            found(least);
            for list in lists.iter_mut().filter(|list| u32_at(list, 0) == Some(least)) {
                *list = list.get(NUMBER_LEN..).unwrap_or_default();
            }
            alone.next_if_eq(&least);
        }
    }

    /// Checks the whole section, for so many programs.
    ///
    /// # Errors
    /// The first byte of what is wrong, and what that is.
    pub(crate) fn check(self, programs: u32) -> Result<(), (usize, &'static str)> {
        let mut end = self.at;
        for (at, automaton) in self.automata() {
            let automaton = automaton.ok_or((at, "an automaton is cut"))?;
            automaton.check(programs).map_err(|(inside, what)| (at + inside, what))?;
            end = at + automaton.len();
        }
        let mut last = None;
        for (at, number, program) in self.alone() {
            if number >= programs || last.is_some_and(|last| last >= number) || !glob::is_valid(program) {
                return Err((at, "a program that stands alone, or its number"));
            }
            last = Some(number);
            end = at + ALONE_LEN + program.len();
        }
        if self.alone().map(|(.., program)| program.len()).sum::<usize>() > MAX_ALONE_BYTES {
            return Err((self.at, "more bytes of programs that stand alone than there may be"));
        }
        if self.alone().count() != self.alone || end != self.at + self.rest.len() {
            return Err((end, "programs that stand alone are cut, or something follows them"));
        }
        Ok(())
    }

    /// Each automaton and where it stands; `None` for one that is cut.
    fn automata(self) -> impl Iterator<Item = (usize, Option<Automaton<'a>>)> {
        self.slices().map(|(at, bytes)| (at, bytes.and_then(Automaton::open)))
    }

    fn slices(self) -> impl Iterator<Item = (usize, Option<&'a [u8]>)> {
        self.lengths.chunks_exact(NUMBER_LEN).scan(0_usize, move |from, len| {
            let (start, len) = (*from, u32_at(len, 0).and_then(|len| usize::try_from(len).ok())?);
            *from = start.checked_add(len)?;
            Some((self.at.saturating_add(start), bytes(self.rest, start, len)))
        })
    }

    /// Where each program that stands alone is, its number and itself.
    pub(crate) fn alone(self) -> impl Iterator<Item = (usize, u32, &'a [u8])> {
        // Only read when there are some: to know where they start, all lengths have to be added.
        let behind = self.slices().try_fold(0_usize, |_, (at, slice)| Some(at - self.at + slice?.len()));
        let mut at = behind.filter(|_| self.alone > 0).unwrap_or(self.rest.len());
        (0..self.alone).map_while(move |_| {
            let number = u32_at(self.rest, at)?;
            let program = bytes(self.rest, at + ALONE_LEN, usize::from(u16_at(self.rest, at + NUMBER_LEN)?))?;
            let start = at;
            at += ALONE_LEN + program.len();
            Some((self.at + start, number, program))
        })
    }
}

fn numbers(list: &[u8]) -> impl Iterator<Item = u32> {
    list.chunks_exact(NUMBER_LEN).filter_map(|number| u32_at(number, 0))
}

/// A view of one automaton.
#[derive(Debug, Clone, Copy)]
struct Automaton<'a> {
    states: usize,
    classes: usize,
    accepting: usize,
    start: usize,
    class_of: &'a [u8; BYTES],
    next: &'a [[u8; 2]],
    ends: &'a [u8],
    lists: &'a [u8],
}

impl<'a> Automaton<'a> {
    fn open(automaton: &'a [u8]) -> Option<Self> {
        let head = |index: usize| u16_at(automaton, 2 * index).map(usize::from);
        let (states, classes, accepting, start) = (head(0)?, head(1)?, head(2)?, head(3)?);
        if classes > BYTES {
            return None;
        }
        let (class_of, rest) = automaton.get(HEADER_LEN..)?.split_first_chunk::<BYTES>()?;
        let (next, rest) = rest.split_at_checked(2 * states * classes)?;
        let (next, _) = next.as_chunks();
        let (ends, lists) = rest.split_at_checked(accepting * NUMBER_LEN)?;
        Some(Self { states, classes, accepting, start, class_of, next, ends, lists })
    }

    fn len(&self) -> usize {
        HEADER_LEN + BYTES + 2 * self.next.len() + self.ends.len() + self.lists.len()
    }

    /// The numbers of the programs that match the whole name.
    #[inline]
    fn accepts(&self, name: &[u8]) -> &'a [u8] {
        let mut state = self.start;
        for byte in name.iter().rev() {
            let class = self.class_of.get(usize::from(*byte)).copied().map_or(0, usize::from);
            state = self.next.get(state * self.classes + class).map_or(0, |next| usize::from(u16::from_le_bytes(*next)));
            if state == 0 {
                return &[];
            }
        }
        self.list(state).unwrap_or_default()
    }

    fn list(&self, state: usize) -> Option<&'a [u8]> {
        let index = state.checked_sub(self.states.checked_sub(self.accepting)?)?;
        let end = |index: usize| usize::try_from(u32_at(self.ends, index * NUMBER_LEN)?).ok()?.checked_mul(NUMBER_LEN);
        let start = if index == 0 { 0 } else { end(index - 1)? };
        self.lists.get(start..end(index)?)
    }

    fn check(&self, programs: u32) -> Result<(), (usize, &'static str)> {
        if self.classes == 0 || self.start == 0 || self.start >= self.states || self.accepting >= self.states {
            return Err((0, "counts of an automaton"));
        }
        if let Some(byte) = self.class_of.iter().position(|class| usize::from(*class) >= self.classes) {
            return Err((HEADER_LEN + byte, "a class that is none"));
        }
        let table = HEADER_LEN + BYTES;
        let leads_out = |(index, state): (usize, usize)| state >= self.states || (index < self.classes && state != 0);
        let states = self.next.iter().map(|state| usize::from(u16::from_le_bytes(*state)));
        if let Some(index) = states.enumerate().position(leads_out) {
            return Err((table + 2 * index, "a state that is none, or a way out of the dead one"));
        }
        let ends = table + 2 * self.next.len();
        let lists = ends + self.ends.len();
        let mut before = 0;
        for (index, state) in (self.states - self.accepting..self.states).enumerate() {
            let at = ends + index * NUMBER_LEN;
            let list = self.list(state).filter(|list| !list.is_empty()).ok_or((at, "a list of programs is cut or empty"))?;
            let mut last = None;
            for number in numbers(list) {
                if number >= programs || last.is_some_and(|last| last >= number) {
                    return Err((lists + before, "numbers of programs"));
                }
                last = Some(number);
            }
            before += list.len();
        }
        if before == self.lists.len() { Ok(()) } else { Err((lists + before, "more than the lists of programs")) }
    }
}

#[cfg(test)]
#[cfg(feature = "build")]
mod tests {
    use super::*;
    use crate::glob::Glob;
    use proptest::prelude::*;

    fn programs(globs: &[&str]) -> Vec<Vec<u8>> {
        globs.iter().flat_map(|glob| Glob::parse(glob).unwrap().programs().to_vec()).collect()
    }

    fn written(programs: &[Vec<u8>]) -> Vec<u8> {
        let section = write(&programs.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        assert_eq!(opened(&section).check(u32::try_from(programs.len()).unwrap()), Ok(()));
        section
    }

    fn opened(section: &[u8]) -> Automata<'_> {
        Automata::open(section).unwrap()
    }

    fn found(section: &[u8], name: &str) -> Vec<u32> {
        let mut numbers = Vec::new();
        opened(section).for_each_match(name.as_bytes(), |number| numbers.push(number));
        numbers
    }

    /// What trying every program finds.
    fn tried(programs: &[Vec<u8>], name: &str) -> Vec<u32> {
        (0..).zip(programs).filter(|(_, program)| glob::matches(program, name.as_bytes())).map(|(number, _)| number).collect()
    }

    fn states(section: &[u8]) -> Vec<usize> {
        opened(section).automata().map(|(_, automaton)| automaton.unwrap().states).collect()
    }

    #[test]
    fn finds_every_program_in_order() {
        let programs =
            programs(&["region*.cdn.test", "r*", "*n.tes?", "[!q-s]egion.cdn.test", "region1.cdn.test", "**.cdn.test", "region*.cdn.test"]);
        let section = written(&programs);
        assert_eq!((opened(&section).automata().count(), opened(&section).alone), (1, 0));
        for (name, expected) in [
            ("region1.cdn.test", &[0, 1, 2, 4, 5, 7][..]),
            ("region1.cdn.text", &[1]),
            ("legion.cdn.test", &[2, 3, 5]),
            ("segion.cdn.test", &[2, 5]),
            ("egion.cdn.test", &[2, 5]),
            ("cdn.test", &[2, 6]),
            ("test", &[]),
            ("", &[]),
            ("r", &[1]),
        ] {
            assert_eq!(found(&section, name), expected, "{name}");
        }
    }

    #[test]
    fn no_programs_are_no_bytes() {
        assert_eq!(written(&[]), []);
        assert_eq!(found(&[], "a.test"), []);
    }

    #[test]
    fn runs_and_programs_that_are_equal_cost_no_states() {
        let section = written(&programs(&["a*b*c*d*e*f*g*h.test", "a*b*c*d*e*f*g*h.test"]));
        assert!(states(&section)[0] < 32, "{:?}", states(&section));
        assert_eq!(found(&section, "abcdefgh.test"), [0, 1]);
        let long = format!("{}*{}", "?a".repeat(60), "b?".repeat(60));
        assert_eq!(states(&written(&[long.into_bytes()])).len(), 1);
    }

    #[test]
    fn typical_globs_share_one_automaton() {
        let globs: Vec<String> = (0..1000).map(|number| format!("region{number}*.cdn{number}.example.test")).collect();
        let programs = programs(&globs.iter().map(String::as_str).collect::<Vec<_>>());
        let section = written(&programs);
        assert_eq!((states(&section).len(), opened(&section).alone), (1, 0));
        assert!(states(&section)[0] < 20_000);
        for name in
            ["region7-eu.cdn7.example.test", "region77.cdn7.example.test", "region7.cdn77.example.test", "region999.cdn999.example.test"]
        {
            assert_eq!(found(&section, name), tried(&programs, name), "{name}");
        }
    }

    #[test]
    fn globs_that_multiply_are_spread() {
        let words = [
            "ads", "track", "pixel", "count", "stat", "beacon", "metric", "promo", "click", "banner", "log", "spy", "tag", "geo", "ab",
            "xx",
        ];
        let globs: Vec<String> = words.iter().map(|word| format!("*.{word}.*.test")).collect();
        let programs = programs(&globs.iter().map(String::as_str).collect::<Vec<_>>());
        let section = written(&programs);
        assert!(states(&section).len() > 1 && opened(&section).alone == 0);
        let all = format!("x.{}.test", words.join(".x."));
        assert_eq!(found(&section, &all), tried(&programs, &all));
        assert_eq!(found(&section, &all).len(), words.len() - 1);
        for name in ["a.ads.b.spy.c.test", "a.ads.test", "a.xx.b.ads.c.log.d.test", "xx.ads.a.test"] {
            assert_eq!(found(&section, name), tried(&programs, name), "{name}");
        }
    }

    #[test]
    fn what_no_automaton_can_hold_is_tried_as_it_is() {
        let doubling = format!("{}-*.test", "?".repeat(24));
        let globs = ["api*.test", doubling.as_str(), "www*.test"];
        let programs = programs(&globs);
        let section = written(&programs);
        assert_eq!((states(&section).len(), opened(&section).alone), (1, 1));
        let long = "a".repeat(24);
        for name in [
            format!("{long}-x.test"),
            format!("api{long}-.test"),
            "www-a.test".to_owned(),
            format!("api{}-.test", "b".repeat(21)),
            format!("{long}.test"),
        ] {
            assert_eq!(found(&section, &name), tried(&programs, &name), "{name}");
        }
        assert_eq!(found(&section, &format!("api{}-.test", "b".repeat(21))), [0, 1]);
    }

    #[test]
    fn programs_as_long_as_they_get_are_harmless() {
        for program in [
            "a".repeat(253),
            "?".repeat(60_000),
            "a*".repeat(126),
            "a?".repeat(126),
            "*?a".repeat(84),
            format!("*{}", "[\0\u{1}az".repeat(100)),
        ] {
            let programs = [program.into_bytes()];
            let section = written(&programs);
            for name in ["a".repeat(253), "ab".repeat(126), "a".to_owned()] {
                assert_eq!(found(&section, &name), tried(&programs, &name));
            }
        }
    }

    #[test]
    fn a_changed_byte_is_harmless() {
        // One of each: an automaton, another, and a program that stands alone.
        let section = sample();
        let programs = 8;
        for at in 0..section.len() {
            for value in [0, 1, 0x7f, 0xff, section[at] ^ 1, section[at].wrapping_add(1)] {
                let mut changed = section.clone();
                changed[at] = value;
                let Some(automata) = Automata::open(&changed) else { continue };
                if let Err((offset, _)) = automata.check(programs) {
                    assert!(offset <= changed.len(), "{offset}");
                }
                for name in NAMES {
                    automata.for_each_match(name.as_bytes(), |_| {});
                }
            }
        }
    }

    const NAMES: [&str; 5] = ["abcabc.t", "a-b.test", "aaaaaaaaaaaaaaaaaaaaaaaa-.t", "a", ""];

    /// Two automata, the second for another program than the first, and a program that stands alone.
    fn sample() -> Vec<u8> {
        let (first, second) = (written(&programs(&["a*.t", "[ab]c?.t"])), written(&programs(&["*b*", "a-b.test"])));
        let alone = b"?????-*";
        let (first, second) = (&first[12..], &second[12..]);
        let mut section = Vec::new();
        for count in [2, 1, first.len(), second.len()] {
            section.extend(u32::try_from(count).unwrap().to_le_bytes());
        }
        section.extend(first);
        section.extend(second);
        section.extend(7_u32.to_le_bytes());
        section.extend(u16::try_from(alone.len()).unwrap().to_le_bytes());
        section.extend(alone);
        section
    }

    #[test]
    fn lists_of_several_automata_are_merged() {
        let section = sample();
        assert_eq!(opened(&section).check(8), Ok(()));
        assert_eq!(found(&section, "abcab-b.t"), [0, 7]);
        assert_eq!(found(&section, "bc-.t"), [0, 1]);
    }

    #[test]
    fn check_says_what_is_wrong_and_where() {
        let section = sample();
        let first = 16;
        let table = first + HEADER_LEN + BYTES;
        let second = first + u32_at(&section, 8).unwrap() as usize;
        let (states, classes) = (u16_at(&section, first).unwrap() as usize, u16_at(&section, first + 2).unwrap() as usize);
        let ends = table + 2 * states * classes;
        let lists = ends + 4 * u16_at(&section, first + 4).unwrap() as usize;
        let alone = section.len() - ALONE_LEN - 7;
        let cases: [(usize, &[u8], usize, &str); 13] = [
            (8, &[0xff, 0xff], first, "an automaton is cut"),
            (first, &[0xff, 0xff], first, "an automaton is cut"),
            (first + 4, &[0xff, 0xff], first, "an automaton is cut"),
            (first + 6, &[0xff, 0xff], first, "counts of an automaton"),
            (first + 6, &[0, 0], first, "counts of an automaton"),
            (first + HEADER_LEN + 9, &[200], first + HEADER_LEN + 9, "a class that is none"),
            (table + 2, &[1, 0], table + 2, "a state that is none, or a way out of the dead one"),
            (table + 2 * classes, &[0xff, 0], table + 2 * classes, "a state that is none, or a way out of the dead one"),
            (ends, &[0xff, 0xff, 0xff, 0xff], ends, "a list of programs is cut or empty"),
            (ends, &[0, 0, 0, 0], ends, "a list of programs is cut or empty"),
            (lists, &[8], lists, "numbers of programs"),
            (second, &[1, 0], second, "counts of an automaton"),
            (alone, &[8], alone, "a program that stands alone, or its number"),
        ];
        for (at, bytes, offset, what) in cases {
            let mut changed = section.clone();
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(opened(&changed).check(8), Err((offset, what)), "{bytes:?} at {at}");
        }
        for (changed, offset) in [([section.as_slice(), b"x"].concat(), section.len()), (section[..section.len() - 1].to_vec(), alone)] {
            assert_eq!(opened(&changed).check(8), Err((offset, "programs that stand alone are cut, or something follows them")));
        }
        assert!(opened(&section).check(7).is_err());
        let counted = |automata: u32, alone: u32| [automata.to_le_bytes(), alone.to_le_bytes()].concat();
        assert!(
            Automata::open(&counted(65, 0)).is_none()
                && Automata::open(&counted(0, 4097)).is_none()
                && Automata::open(&counted(1, 0)).is_none()
        );
    }

    /// Names and globs over few letters, so that many match.
    fn glob() -> impl Strategy<Value = String> {
        let piece = prop_oneof![4 => "[abc.]", 2 => Just("*".to_owned()), 1 => Just("?".to_owned()), 1 => "\\[!?[ab]{1,2}\\]", 1 => "\\{[ab*]{0,2},[bc?]{1,2}\\}"];
        proptest::collection::vec(piece, 1..8).prop_map(|pieces| pieces.concat())
    }

    fn program() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => "[ab.]".prop_map(String::into_bytes),
            2 => Just(b"*".to_vec()),
            1 => Just(b"?".to_vec()),
            1 => (0..2_u8, 97..100_u8, 97..100_u8).prop_map(|(negated, a, b)| vec![b'[', negated, 1, a.min(b), a.max(b)]),
        ];
        proptest::collection::vec(piece, 1..9).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        #[test]
        fn agrees_with_programs_tried_one_by_one(
            programs in proptest::collection::vec(program(), 0..12),
            names in proptest::collection::vec("[abc.]{0,8}", 1..12),
        ) {
            let section = written(&programs);
            for name in names {
                prop_assert_eq!(found(&section, &name), tried(&programs, &name), "{}", name);
            }
        }

        #[test]
        fn agrees_with_the_globset_crate(
            globs in proptest::collection::vec(glob(), 1..8),
            names in proptest::collection::vec("[abc]{1,3}(\\.[abc]{1,3}){0,2}", 1..12),
        ) {
            // What starts with `*.` or `**.` means something else there, and so does `**`.
            let shared = |glob: &&String| !glob.starts_with("*.") && !glob.contains("**") && Glob::parse(glob).is_ok();
            for glob in globs.iter().filter(shared) {
                let matcher = globset::GlobBuilder::new(glob).literal_separator(false).empty_alternates(true).build();
                let Ok(matcher) = matcher.map(|glob| glob.compile_matcher()) else { continue };
                let section = written(Glob::parse(glob).unwrap().programs());
                for name in &names {
                    prop_assert_eq!(!found(&section, name).is_empty(), matcher.is_match(name), "{} on {}", glob, name);
                }
            }
        }

        #[test]
        fn any_bytes_as_section_are_harmless(
            head in proptest::collection::vec(0..3_u8, 0..24),
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            name in "[abc.]{0,8}",
        ) {
            for section in [bytes.clone(), [head, bytes].concat()] {
                if let Some(automata) = Automata::open(&section) {
                    let _ = automata.check(3);
                    automata.for_each_match(name.as_bytes(), |_| {});
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn same_programs_same_bytes(programs in proptest::collection::vec(program(), 0..12)) {
            prop_assert_eq!(written(&programs), written(&programs));
        }
    }
}
