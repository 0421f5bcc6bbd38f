//! Globs inside names.
//!
//! `*` is any run of bytes, `?` any one byte, `[ab]`, `[a-z]`, `[!a]` a class, `{a,b}` alternatives, `\x` the byte `x`. As in the proxy whose policies
//! this reads, all of them cross dots: `region*.example.com` matches `region1.eu.example.com`. Braces are expanded when the policy is
//! compiled, so that what is matched is a flat program.
//!
//! A program is a byte string: `*` and `?` as themselves, a class as `[`, a flag byte (1: negated), a count byte and that many pairs of first and last
//! byte, everything else a literal byte of a name. Matching is the usual two-pointer walk that goes back to the last `*` only: at most
//! (bytes of the program) × (bytes of the name) steps. A policy's programs are matched all at once, by the automata that `automaton.rs` makes of them.
//!
//! ```text
//! section `globs`                                record
//!  0 u32    globs                                 0 u32 number of its rule
//!  4 u32    programs of all globs                 4 u16 bytes of text
//!  8 u32 ×  where each glob's record begins       6 u16 programs
//!    6 × for each program: u32 number of its      8     text, as it was written, normalised
//!      rule, u16 bytes that it fixes                    programs, each u16 bytes and itself
//!    records, back to back
//! ```

use crate::host::{HostError, MAX_LABEL, MAX_NAME};
use crate::pattern::PatternErrorKind;

/// Alternatives that the braces of one glob may expand to.
pub const MAX_ALTERNATIVES: usize = 256;

/// Bytes in the text of the longest glob: what patterns may have, and a `**.` before it.
pub(crate) const MAX_TEXT: usize = 2 * MAX_NAME + 3;

/// Bytes in the record that says whose a program is: the rule, and how many bytes the program fixes.
pub(crate) const OWNER_LEN: usize = 6;

/// A checked glob: its text and its programs, any of which may match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    text: String,
    programs: Vec<Vec<u8>>,
}

/// How the matches of one program of a glob end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedEnd<'a> {
    /// The bytes after the last wildcard; the whole name when there is none.
    pub text: &'a str,
    /// Whether there is a wildcard before them.
    pub wildcard: bool,
    /// Whether one of those wildcards is `*`, so that what stands before can be of any length.
    pub run: bool,
}

/// Whether `text` has any character that makes it a glob.
#[must_use]
pub(crate) fn has_wildcards(text: &str) -> bool {
    text.contains(['*', '?', '[', ']', '{', '}', '\\'])
}

impl Glob {
    /// Parses lower-case ASCII text, the leading `*.` or `**.` included.
    pub(crate) fn parse(text: &str) -> Result<Self, PatternErrorKind> {
        // `*.x` is one byte or more and then `.x`; `**.x` is that, or `x` itself.
        let bodies = match (text.strip_prefix("**."), text.strip_prefix("*.")) {
            (Some(rest), _) => vec![rest.to_owned(), format!("?*.{rest}")],
            (None, Some(rest)) => vec![format!("?*.{rest}")],
            (None, None) => vec![text.to_owned()],
        };
        let mut programs = Vec::new();
        for body in bodies {
            for alternative in expand(body.as_bytes())? {
                programs.push(compile(&alternative)?);
            }
        }
        if programs.len() > MAX_ALTERNATIVES {
            return Err(PatternErrorKind::TooManyAlternatives);
        }
        programs.sort();
        programs.dedup();
        Ok(Self { text: text.to_owned(), programs })
    }

    /// The glob as it was written, normalised.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its programs.
    #[must_use]
    pub fn programs(&self) -> &[Vec<u8>] {
        &self.programs
    }

    /// What every match of each program ends in: the literal bytes after its last wildcard.
    pub fn fixed_ends(&self) -> impl Iterator<Item = FixedEnd<'_>> {
        self.programs.iter().map(|program| fixed_end(program))
    }

    /// Whether any program matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.programs.iter().any(|program| matches(program, name.as_bytes()))
    }
}

/// Groups of braces that are looked at while one glob is expanded: alternatives have fewer, unless groups have only one each.
const MAX_GROUPS: usize = 4 * MAX_ALTERNATIVES;

/// Expands the first brace group and, with it, all that follow and nest. Groups without an alternative, such as `{a}`, add no text but work: their number is bounded.
fn expand(text: &[u8]) -> Result<Vec<Vec<u8>>, PatternErrorKind> {
    expand_marked(text, b"")
}

/// The same with a mark where a group begins and ends.
pub(crate) fn expand_marked(text: &[u8], mark: &[u8]) -> Result<Vec<Vec<u8>>, PatternErrorKind> {
    let mut done = Vec::new();
    let mut open = vec![text.to_vec()];
    let mut groups = 0;
    while let Some(item) = open.pop() {
        match first_group(&item)? {
            None => done.push(item),
            Some((start, end, commas)) => {
                groups += 1;
                let mut from = start + 1;
                for to in commas.into_iter().chain([end]) {
                    let parts = [item.get(..start), Some(mark), item.get(from..to), Some(mark), item.get(end + 1..)];
                    open.push(parts.map(Option::unwrap_or_default).concat());
                    from = to + 1;
                }
            }
        }
        if done.len() + open.len() > MAX_ALTERNATIVES || groups > MAX_GROUPS {
            return Err(PatternErrorKind::TooManyAlternatives);
        }
    }
    Ok(done)
}

type Group = (usize, usize, Vec<usize>);

/// Start, end and commas of the first brace group.
fn first_group(text: &[u8]) -> Result<Option<Group>, PatternErrorKind> {
    let (mut depth, mut start, mut commas, mut in_class, mut escaped) = (0_usize, 0, Vec::new(), false, false);
    for (at, byte) in text.iter().copied().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'[' => in_class = true,
            b']' => in_class = false,
            _ if in_class => {}
            b'{' => {
                if depth == 0 {
                    start = at;
                }
                depth += 1;
            }
            b'}' if depth == 1 => return Ok(Some((start, at, commas))),
            b'}' if depth == 0 => return Err(PatternErrorKind::Unfinished),
            b'}' => depth -= 1,
            b',' if depth == 1 => commas.push(at),
            _ => {}
        }
    }
    if depth > 0 { Err(PatternErrorKind::Unfinished) } else { Ok(None) }
}

/// A program for text without braces.
fn compile(text: &[u8]) -> Result<Vec<u8>, PatternErrorKind> {
    let mut program = Vec::with_capacity(text.len());
    let mut rest = text;
    let mut literals = 0_usize;
    let mut label = 0_usize;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'*' => {
                if program.last() != Some(&b'*') {
                    program.push(b'*');
                }
                label = 0;
            }
            b'?' => program.push(b'?'),
            b'[' => rest = compile_class(rest, &mut program)?,
            b']' => return Err(PatternErrorKind::Unfinished),
            b'\\' => {
                let (escaped, after) = rest.split_first().ok_or(PatternErrorKind::Unfinished)?;
                rest = after;
                program.push(literal(*escaped)?);
            }
            byte => {
                program.push(literal(*byte)?);
                label = if *byte == b'.' { 0 } else { label + 1 };
                literals += usize::from(*byte != b'.');
            }
        }
        if label > MAX_LABEL {
            return Err(PatternErrorKind::Host(HostError::LabelTooLong));
        }
    }
    if program.windows(2).any(|pair| pair == b"..") || program.first() == Some(&b'.') {
        return Err(PatternErrorKind::Host(HostError::EmptyLabel));
    }
    if literals == 0 {
        return Err(PatternErrorKind::Everything);
    }
    if literals > MAX_NAME || program.len() > usize::from(u16::MAX) {
        return Err(PatternErrorKind::Host(HostError::NameTooLong));
    }
    Ok(program)
}

fn literal(byte: u8) -> Result<u8, PatternErrorKind> {
    if byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.') {
        Ok(byte)
    } else {
        Err(PatternErrorKind::Host(HostError::Character(char::from(byte))))
    }
}

/// The class whose opening bracket was just read; returns what follows the closing one.
fn compile_class<'a>(text: &'a [u8], program: &mut Vec<u8>) -> Result<&'a [u8], PatternErrorKind> {
    let (negated, mut rest) = match text {
        [b'!' | b'^', rest @ ..] => (1, rest),
        rest => (0, rest),
    };
    let mut pairs: Vec<[u8; 2]> = Vec::new();
    loop {
        match rest {
            [b']', after @ ..] if !pairs.is_empty() => {
                pairs.sort_unstable();
                pairs.dedup();
                let count = u8::try_from(pairs.len()).map_err(|_| PatternErrorKind::TooManyAlternatives)?;
                program.extend([b'[', negated, count]);
                program.extend(pairs.iter().flatten());
                return Ok(after);
            }
            [first, b'-', last, after @ ..] if *last != b']' => {
                if first > last {
                    return Err(PatternErrorKind::Unfinished);
                }
                pairs.push([*first, *last]);
                rest = after;
            }
            [byte, after @ ..] if *byte != b']' => {
                pairs.push([*byte, *byte]);
                rest = after;
            }
            _ => return Err(PatternErrorKind::Unfinished),
        }
    }
}

/// How many bytes of a name a program fixes: its rank among allows.
pub(crate) fn literal_bytes(program: &[u8]) -> usize {
    let (mut at, mut literals) = (0, 0);
    while let Some(step) = step(program, at) {
        literals += usize::from(matches!(step.op, Op::Literal(_)));
        at = step.next;
    }
    literals
}

fn fixed_end(program: &[u8]) -> FixedEnd<'_> {
    let (mut at, mut start, mut run) = (0, 0, false);
    while let Some(step) = step(program, at) {
        at = step.next;
        if !matches!(step.op, Op::Literal(_)) {
            start = at;
            run |= matches!(step.op, Op::AnyRun);
        }
    }
    FixedEnd { text: std::str::from_utf8(program.get(start..).unwrap_or_default()).unwrap_or_default(), wildcard: start > 0, run }
}

/// Whether a stored program is well formed.
pub(crate) fn is_valid(program: &[u8]) -> bool {
    let mut at = 0;
    while at < program.len() {
        match step(program, at) {
            Some(step) => at = step.next,
            None => return false,
        }
    }
    !program.is_empty()
}

/// What one step of a program matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op<'a> {
    /// Any run of bytes, also none.
    AnyRun,
    /// Any one byte.
    AnyOne,
    /// One byte within any of the pairs of first and last byte; with `true`, one that is in none of them.
    Class(&'a [u8], bool),
    /// That byte.
    Literal(u8),
}

impl Op<'_> {
    /// Whether one byte is what the step asks for. A run takes every byte.
    #[must_use]
    pub fn takes(&self, found: u8) -> bool {
        match self {
            Self::AnyRun | Self::AnyOne => true,
            Self::Literal(byte) => *byte == found,
            Self::Class(pairs, negated) => {
                let inside = pairs.chunks_exact(2).any(|pair| matches!(pair, [first, last] if (*first..=*last).contains(&found)));
                inside != *negated
            }
        }
    }
}

/// The steps of a program, for who reasons about programs; a broken one ends early.
pub fn ops(program: &[u8]) -> impl Iterator<Item = Op<'_>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let step = step(program, at)?;
        at = step.next;
        Some(step.op)
    })
}

/// A name that a program matches, with `run` for every run of bytes; `None` if it would be too long for a name, or if no byte of names is in a class.
pub(crate) fn example(program: &[u8], run: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    for op in ops(program) {
        match op {
            Op::AnyRun => name.extend_from_slice(run),
            Op::AnyOne => name.push(b'x'),
            Op::Literal(byte) => name.push(byte),
            class @ Op::Class(..) => name.push((b'-'..=b'z').find(|byte| class.takes(*byte))?),
        }
    }
    (name.len() <= MAX_NAME).then_some(name)
}

struct Step<'a> {
    op: Op<'a>,
    next: usize,
}

fn step(program: &[u8], at: usize) -> Option<Step<'_>> {
    let op = match program.get(at)? {
        b'*' => Op::AnyRun,
        b'?' => Op::AnyOne,
        b'[' => {
            let negated = *program.get(at + 1)? == 1;
            let end = at + 3 + 2 * usize::from(*program.get(at + 2)?);
            return Some(Step { op: Op::Class(program.get(at + 3..end)?, negated), next: end });
        }
        byte => Op::Literal(*byte),
    };
    Some(Step { op, next: at + 1 })
}

/// Whether a program matches a whole name. A broken program matches nothing or stops early; it never reads outside.
pub(crate) fn matches(program: &[u8], name: &[u8]) -> bool {
    let (mut at, mut pos) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let advanced = match (step(program, at), name.get(pos)) {
            (Some(Step { op: Op::AnyRun, next }), _) => {
                retry = Some((next, pos));
                at = next;
                continue;
            }
            (Some(Step { op, next }), Some(found)) => op.takes(*found).then_some(next),
            (None, None) => return at >= program.len(),
            _ => None,
        };
        match (advanced, retry) {
            (Some(next), _) => {
                at = next;
                pos += 1;
            }
            (None, Some((after, from))) if from < name.len() => {
                retry = Some((after, from + 1));
                at = after;
                pos = from + 1;
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_the_reference_does() {
        let cases = [
            ("region*.cdn.test", "region1.cdn.test", true),
            ("region*.cdn.test", "region.cdn.test", true),
            ("region*.cdn.test", "region1.eu.cdn.test", true),
            ("region*.cdn.test", "xregion1.cdn.test", false),
            ("region*.cdn.test", "region1.cdn.test.evil", false),
            ("a?b.test", "a-b.test", true),
            ("a?b.test", "ab.test", false),
            ("a?b.test", "a.b.test", true),
            ("*.a?b.test", "x.a-b.test", true),
            ("*.a?b.test", "a-b.test", false),
            ("**.a?b.test", "a-b.test", true),
            ("**.a?b.test", "x.y.a-b.test", true),
            ("[ab]x.test", "bx.test", true),
            ("[!ab]x.test", "bx.test", false),
            ("[a-c]x.test", "cx.test", true),
            ("{eu,us-*}.api.test", "eu.api.test", true),
            ("{eu,us-*}.api.test", "us-1.api.test", true),
            ("{eu,us-*}.api.test", "ap.api.test", false),
            ("{a,{b,c}}x.test", "cx.test", true),
            ("a*b*c.test", "axxbyyc.test", true),
            ("a*b*c.test", "axxbyy.test", false),
        ];
        for (glob, name, expected) in cases {
            assert_eq!(Glob::parse(glob).unwrap().matches(name), expected, "{glob} on {name}");
        }
    }

    #[test]
    fn tells_what_every_match_ends_in() {
        let cases = [
            ("region*.cdn.test", vec![(".cdn.test", true, true)]),
            ("a*b?c.test", vec![("c.test", true, true)]),
            ("a[xy].test", vec![(".test", true, false)]),
            ("{a,b*}.test", vec![("a.test", false, false), (".test", true, true)]),
            ("a.tes?", vec![("", true, false)]),
            ("**.{a,b}.test", vec![(".a.test", true, true), (".b.test", true, true), ("a.test", false, false), ("b.test", false, false)]),
        ];
        for (text, expected) in cases {
            let glob = Glob::parse(text).unwrap();
            assert_eq!(glob.fixed_ends().map(|end| (end.text, end.wildcard, end.run)).collect::<Vec<_>>(), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_grows_without_end() {
        let bomb = format!("{}.test", "{a,b}".repeat(12));
        assert_eq!(Glob::parse(&bomb), Err(PatternErrorKind::TooManyAlternatives));
        // 256 alternatives, each of which would be taken apart 200 times.
        let bomb = format!("{}{}x.test", "{a,b}".repeat(8), "{}".repeat(200));
        assert_eq!(Glob::parse(&bomb), Err(PatternErrorKind::TooManyAlternatives));
        let most = format!("{}{}x.test", "{}".repeat(200), "{a,b}".repeat(8));
        assert_eq!(Glob::parse(&most).unwrap().programs().len(), 256);
    }

    #[test]
    fn lends_its_steps() {
        let glob = Glob::parse("a?[!b-d]*.test").unwrap();
        let steps: Vec<Op<'_>> = ops(&glob.programs()[0]).collect();
        assert_eq!(steps[..4], [Op::Literal(b'a'), Op::AnyOne, Op::Class(b"bd", true), Op::AnyRun]);
        assert!(steps[2].takes(b'e') && !steps[2].takes(b'c') && steps[0].takes(b'a') && !steps[0].takes(b'b'));
        assert_eq!(ops(b"a[").count(), 1);
    }

    fn naive(program: &[u8], name: &[u8]) -> bool {
        match (program.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => naive(rest, name) || name.split_first().is_some_and(|(_, tail)| naive(program, tail)),
            (Some((b'?', rest)), Some((_, tail))) => naive(rest, tail),
            (Some((byte, rest)), Some((found, tail))) => byte == found && naive(rest, tail),
            _ => false,
        }
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_the_naive_matcher(program in "[ab.*?]{0,8}", name in "[ab.]{0,10}") {
            proptest::prop_assert_eq!(matches(program.as_bytes(), name.as_bytes()), naive(program.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn any_bytes_as_program_are_harmless(program in proptest::collection::vec(proptest::num::u8::ANY, 0..40), name in "[ab.]{0,10}") {
            let _ = (is_valid(&program), literal_bytes(&program), matches(&program, name.as_bytes()));
        }
    }
}
