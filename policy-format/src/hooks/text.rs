//! Globs over paths and over values of fields, as hooks have them behind `pattern:`.
//!
//! In a value, `*` is any run of bytes and `?` any one byte. In a path neither of them takes a `/`, and no class does; `**` as a whole segment is any number of
//! segments, also none, and at the end all that follows. `[ab]`, `[a-z]`, `[!a]` and `[^a]` are classes, `{a,b}` alternatives, `\x` the byte `x`. A glob matches the
//! whole text, in its case.
//!
//! Matching goes back to the last `*` and, in a path, to the last `**` only: what a `*` skips ends with its segment, so that more cannot help. That bounds it by
//! (steps of the glob) × (bytes of the text).

use crate::glob::expand_marked;
use crate::path::MAX_PATH;

/// Bytes that a glob may have.
pub const MAX_GLOB: usize = MAX_PATH;
/// Steps that the alternatives of one glob may have together.
const MAX_STEPS: usize = 4096;

/// Stands where a group begins and ends, so that two stars that only come together there do not become `**`. No glob has it.
const MARK: u8 = 0;

/// What a glob is matched with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    /// A path.
    Path,
    /// The value of a header, of a query field, or of a string in JSON.
    Value,
}

/// Why a glob was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// Nothing.
    #[error("a glob cannot be empty")]
    Empty,
    /// A class, a group or an escape that does not end, or that nothing begins.
    #[error("this glob is unfinished")]
    Unfinished,
    /// `{a,}`.
    #[error("an alternative is empty, which some read as nothing and others pass over; write a glob for each")]
    EmptyAlternative,
    /// `[]`, `[z-a]`, or a class with what it cannot have.
    #[error("a class is empty, has a range that goes down, or has `[`, a backslash or more than ASCII")]
    Class,
    /// Too much of it.
    #[error("this glob is too long, or has too many alternatives; write several")]
    TooLarge,
}

/// A checked glob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextGlob {
    kind: TextKind,
    /// Any of them may match.
    programs: Vec<Box<[Step]>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Byte(u8),
    /// `?`.
    One,
    /// `[…]`: first and last bytes, and whether it is what is in none of them.
    Class(Box<[(u8, u8)]>, bool),
    /// `*`.
    Run,
    /// `**/`: whole segments, also none.
    Segments,
    /// `**` at the end.
    Rest,
}

impl TextGlob {
    /// Parses what stands behind `pattern:`.
    ///
    /// # Errors
    /// [`GlobError`] that says what is wrong.
    pub fn parse(text: &str, kind: TextKind) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        if text.len() > MAX_GLOB {
            return Err(GlobError::TooLarge);
        }
        check_shape(text.as_bytes())?;
        let alternatives = expand_marked(text.as_bytes(), &[MARK]).map_err(|error| match error {
            crate::PatternErrorKind::TooManyAlternatives => GlobError::TooLarge,
            _ => GlobError::Unfinished,
        })?;
        let mut programs = alternatives.iter().map(|alternative| compile(alternative, kind)).collect::<Result<Vec<_>, _>>()?;
        programs.dedup();
        let glob = Self { kind, programs };
        if glob.steps() > MAX_STEPS { Err(GlobError::TooLarge) } else { Ok(glob) }
    }

    /// Steps of all its alternatives: what it costs in memory.
    pub(crate) fn steps(&self) -> usize {
        self.programs.iter().map(|program| program.len()).sum()
    }

    /// Whether it matches a text whole.
    #[must_use]
    pub fn matches(&self, text: impl Iterator<Item = u8> + Clone) -> bool {
        self.programs.iter().any(|program| matches(program, text.clone(), self.kind))
    }
}

/// Classes and groups are closed, escapes escape something, alternatives and classes have something in them.
fn check_shape(text: &[u8]) -> Result<(), GlobError> {
    let (mut depth, mut class, mut escaped, mut last) = (0_usize, None, false, 0);
    for byte in text.iter().copied() {
        if std::mem::take(&mut escaped) {
            // An escaped brace opens nothing.
            last = 0;
            continue;
        }
        match (byte, class) {
            (b']', Some(0)) => return Err(GlobError::Class),
            (b']', Some(_)) => class = None,
            (b'!' | b'^', Some(0)) if last == b'[' => {}
            (b'[' | b'\\' | 0x80.., Some(_)) => return Err(GlobError::Class),
            (_, Some(bytes)) => class = Some(bytes + 1),
            (MARK, None) => return Err(GlobError::Unfinished),
            (b'\\', None) => escaped = true,
            (b'[', None) => class = Some(0),
            (b']', None) => return Err(GlobError::Unfinished),
            (b',' | b'}', None) if depth > 0 && matches!(last, b'{' | b',') => return Err(GlobError::EmptyAlternative),
            (b'{', None) => depth += 1,
            (b'}', None) => depth = depth.checked_sub(1).ok_or(GlobError::Unfinished)?,
            (_, None) => {}
        }
        last = byte;
    }
    if depth > 0 || class.is_some() || escaped { Err(GlobError::Unfinished) } else { Ok(()) }
}

/// The steps of text without groups.
fn compile(text: &[u8], kind: TextKind) -> Result<Box<[Step]>, GlobError> {
    let mut steps = Vec::new();
    let (mut rest, mut before) = (text, b'/');
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'*' => {
                let stars = rest.iter().take_while(|byte| **byte == b'*').count();
                rest = rest.get(stars..).unwrap_or_default();
                let whole = kind == TextKind::Path && stars == 1 && before == b'/';
                match rest.split_first() {
                    None if whole => steps.push(Step::Rest),
                    Some((b'/', after)) if whole => {
                        steps.push(Step::Segments);
                        rest = after;
                    }
                    _ => steps.push(Step::Run),
                }
                // What stands behind `**/` stands behind a `/`.
                before = if matches!(steps.last(), Some(Step::Segments)) { b'/' } else { b'*' };
                continue;
            }
            b'?' => steps.push(Step::One),
            b'[' => {
                let end = rest.iter().position(|byte| *byte == b']').ok_or(GlobError::Unfinished)?;
                let (inside, after) = rest.split_at_checked(end).ok_or(GlobError::Unfinished)?;
                rest = after.get(1..).unwrap_or_default();
                steps.push(class(inside)?);
            }
            b'\\' => {
                let (escaped, after) = rest.split_first().ok_or(GlobError::Unfinished)?;
                rest = after;
                steps.push(Step::Byte(*escaped));
            }
            &MARK => {
                before = MARK;
                continue;
            }
            byte => steps.push(Step::Byte(*byte)),
        }
        before = if matches!(steps.last(), Some(Step::Byte(b'/'))) { b'/' } else { 0 };
    }
    Ok(steps.into_boxed_slice())
}

/// What stands between `[` and `]`.
fn class(inside: &[u8]) -> Result<Step, GlobError> {
    let (negated, mut rest) = match inside.split_first() {
        Some((b'!' | b'^', rest)) => (true, rest),
        _ => (false, inside),
    };
    let mut ranges = Vec::new();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let last = match after {
            // A `-` at the end is itself.
            [b'-', last, after @ ..] => {
                rest = after;
                last
            }
            _ => first,
        };
        if first > last {
            return Err(GlobError::Class);
        }
        ranges.push((*first, *last));
    }
    if ranges.is_empty() { Err(GlobError::Class) } else { Ok(Step::Class(ranges.into_boxed_slice(), negated)) }
}

impl Step {
    fn takes(&self, byte: u8, kind: TextKind) -> bool {
        let crosses = kind == TextKind::Value || byte != b'/';
        match self {
            Self::Byte(own) => *own == byte,
            Self::One => crosses,
            Self::Class(ranges, negated) => crosses && ranges.iter().any(|(first, last)| (*first..=*last).contains(&byte)) != *negated,
            Self::Run | Self::Segments | Self::Rest => false,
        }
    }
}

fn matches<I: Iterator<Item = u8> + Clone>(program: &[Step], mut text: I, kind: TextKind) -> bool {
    let mut at = 0;
    // Where the last `*`, and the last `**`, can go on: the step behind it, and the text behind what it took.
    let mut run: Option<(usize, I)> = None;
    let mut segments: Option<(usize, I)> = None;
    loop {
        match program.get(at) {
            Some(Step::Rest) => return true,
            Some(Step::Run) => {
                at += 1;
                run = Some((at, text.clone()));
                continue;
            }
            Some(Step::Segments) => {
                at += 1;
                segments = Some((at, text.clone()));
                run = None;
                continue;
            }
            step => {
                let mut next = text.clone();
                match (step, next.next()) {
                    (None, None) => return true,
                    (Some(step), Some(byte)) if step.takes(byte, kind) => {
                        at += 1;
                        text = next;
                        continue;
                    }
                    _ => {}
                }
            }
        }
        if let Some((after, from)) = &mut run {
            match from.next() {
                Some(byte) if kind == TextKind::Value || byte != b'/' => {
                    (at, text) = (*after, from.clone());
                    continue;
                }
                _ => run = None,
            }
        }
        let Some((after, from)) = &mut segments else { return false };
        if !from.any(|byte| byte == b'/') {
            return false;
        }
        (at, text) = (*after, from.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(glob: &str, text: &str) -> bool {
        TextGlob::parse(glob, TextKind::Path).unwrap().matches(text.bytes())
    }

    fn value(glob: &str, text: &str) -> bool {
        TextGlob::parse(glob, TextKind::Value).unwrap().matches(text.bytes())
    }

    #[test]
    fn in_a_path_a_star_stays_in_its_segment() {
        for (glob, text, expected) in [
            ("/repos/*/issues", "/repos/a/issues", true),
            ("/repos/*/issues", "/repos//issues", true),
            ("/repos/*/issues", "/repos/a/b/issues", false),
            ("/repos/*/issues", "/repos/a/issues/1", false),
            ("/repos/*/issues*", "/repos/a/issues-2", true),
            ("/repos/*/issues*", "/repos/a/issues/2", false),
            ("/a?c", "/abc", true),
            ("/a?c", "/a/c", false),
            ("/a[!x]c", "/a/c", false),
            ("/a[!x]c", "/abc", true),
            ("/a[^x]c", "/axc", false),
            ("/v[1-3]/x", "/v2/x", true),
            ("/v[1-3]/x", "/v4/x", false),
            ("/[a-]", "/-", true),
            ("/**", "/a/b", true),
            ("/**", "/", true),
            ("/a/**", "/a/", true),
            ("/a/**", "/a", false),
            ("/a/**", "/ab", false),
            ("/a/**/z", "/a/z", true),
            ("/a/**/z", "/a/b/c/z", true),
            ("/a/**/z", "/a/bz", false),
            ("/**/z*/y", "/a/zb/x/zc/y", true),
            ("/**/z*/**/y", "/a/zb/x/c/y", true),
            ("/**/a*b/c", "/a/axb/d/ab/c", true),
            ("/a**b", "/axxb", true),
            ("/a**b", "/ax/xb", false),
            ("**/z", "/a/z", true),
            ("**", "/a/z", true),
            ("/{a,b/c}/d", "/b/c/d", true),
            ("/{a,b/c}/d", "/b/d", false),
            ("/\\*", "/*", true),
            ("/\\*", "/a", false),
            ("/A", "/a", false),
            ("/a*a*a*b", "/aaaaaaaaaaaaaaaab", true),
            ("/a*a*a*b", "/aaaaaaaaaaaaaaaac", false),
        ] {
            assert_eq!(path(glob, text), expected, "{glob} on {text}");
        }
    }

    #[test]
    fn in_a_value_a_star_is_anything() {
        for (glob, text, expected) in [
            ("op*", "open", true),
            ("*/*", "text/html", true),
            ("2022*preview", "2022-11-28-preview", true),
            ("2022*preview", "2022-11-28", false),
            ("a**", "a/b", true),
            ("?", "/", true),
            ("?", "", false),
            ("*", "", true),
            ("{a,{b,c}d}", "cd", true),
            ("\\{a\\}", "{a}", true),
            ("[{]", "{", true),
            ("a\\,b", "a,b", true),
        ] {
            assert_eq!(value(glob, text), expected, "{glob} on {text}");
        }
    }

    #[test]
    fn refuses_what_is_unclear_or_grows() {
        for (glob, error) in [
            ("", GlobError::Empty),
            ("/a[", GlobError::Unfinished),
            ("/a]", GlobError::Unfinished),
            ("/a{b", GlobError::Unfinished),
            ("/a}b", GlobError::Unfinished),
            ("/a\\", GlobError::Unfinished),
            ("/{a,}", GlobError::EmptyAlternative),
            ("/{,a}", GlobError::EmptyAlternative),
            ("/{a,,b}", GlobError::EmptyAlternative),
            ("/{}", GlobError::EmptyAlternative),
            ("/[]", GlobError::Class),
            ("/[!]", GlobError::Class),
            ("/[z-a]", GlobError::Class),
            ("/[\\]]", GlobError::Class),
            ("/[ü]", GlobError::Class),
            ("/{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}", GlobError::TooLarge),
        ] {
            assert_eq!(TextGlob::parse(glob, TextKind::Path).unwrap_err(), error, "{glob}");
        }
        assert_eq!(TextGlob::parse(&"a".repeat(MAX_GLOB + 1), TextKind::Value).unwrap_err(), GlobError::TooLarge);
        assert_eq!(
            TextGlob::parse(&format!("{}{}", "{a,b}".repeat(7), "a".repeat(100)), TextKind::Value).unwrap_err(),
            GlobError::TooLarge
        );
    }

    /// Every way to split the text, tried.
    fn naive(program: &[Step], text: &[u8], kind: TextKind) -> bool {
        match (program.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((Step::Rest, _)), _) => true,
            (Some((Step::Run, rest)), _) => {
                naive(rest, text, kind)
                    || text
                        .split_first()
                        .is_some_and(|(byte, tail)| (kind == TextKind::Value || *byte != b'/') && naive(program, tail, kind))
            }
            (Some((Step::Segments, rest)), _) => {
                naive(rest, text, kind) || (0..text.len()).any(|at| text[at] == b'/' && naive(rest, &text[at + 1..], kind))
            }
            (Some((step, rest)), Some((byte, tail))) => step.takes(*byte, kind) && naive(rest, tail, kind),
            _ => false,
        }
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_trying_every_way(glob in "/?([ab*?]|/|\\*\\*/|/\\*\\*){1,8}", text in "/[ab/]{0,12}") {
            for kind in [TextKind::Path, TextKind::Value] {
                let glob = TextGlob::parse(&glob, kind).unwrap();
                let expected = glob.programs.iter().any(|program| naive(program, text.as_bytes(), kind));
                proptest::prop_assert_eq!(glob.matches(text.bytes()), expected);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(glob in "[ab*?{},\\[\\]!^\\\\/-]{0,16}", text in "[ab/{},-]{0,12}") {
            for kind in [TextKind::Path, TextKind::Value] {
                if let Ok(glob) = TextGlob::parse(&glob, kind) {
                    let _ = glob.matches(text.bytes());
                }
            }
        }

        /// What is read like the globs of others matches no more than they do.
        #[test]
        fn matches_no_more_than_globset(glob in "/?([ab*?]|/|\\*\\*/|\\[ab\\]|\\{a,b\\}|\\{ab,\\*\\}){1,8}", text in "/[ab/]{0,12}") {
            for (kind, separates) in [(TextKind::Path, true), (TextKind::Value, false)] {
                let ours = TextGlob::parse(&glob, kind).unwrap();
                let theirs = globset::GlobBuilder::new(&glob).literal_separator(separates).backslash_escape(true).build().unwrap();
                if ours.matches(text.bytes()) {
                    proptest::prop_assert!(theirs.compile_matcher().is_match(&text), "{}", theirs.regex());
                }
            }
        }
    }
}
