//! Stand-ins for credentials: of their shape, random, and of no use but to select what they stand for.

use tokio_rustls::rustls::crypto::{SecureRandom, ring};

/// Random characters that a dummy has at least, so that nobody guesses one.
const RANDOM: usize = 16;

const DIGITS: &[u8] = b"0123456789";
const LOWER: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const LOWER_HEX: &[u8] = b"0123456789abcdef";
const UPPER_HEX: &[u8] = b"0123456789ABCDEF";
const ALPHANUMERIC: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
/// What tokens are put together with (token68 of RFC 9110, section 11.2, and `:`); any other symbol is more likely a part of a password.
const SEPARATORS: &[u8] = b"-._~+/=:";

/// Beginnings that say what kind of token follows, and are the same for everybody. The longest counts.
const PUBLIC_PREFIXES: &[&str] = &[
    "AIza",
    "AKIA",
    "ASIA",
    "ATATT3",
    "EAA",
    "GOCSPX-",
    "SG.",
    "dapi",
    "dckr_pat_",
    "doo_v1_",
    "dop_v1_",
    "figd_",
    "ghp_",
    "gho_",
    "ghr_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "gldt-",
    "glrt-",
    "gsk_",
    "hf_",
    "lin_api_",
    "npm_",
    "nvapi-",
    "pk_live_",
    "pk_test_",
    "pypi-",
    "r8_",
    "rk_live_",
    "rk_test_",
    "rubygems_",
    "sk-",
    "sk-ant-",
    "sk-ant-api03-",
    "sk-or-v1-",
    "sk-proj-",
    "sk_live_",
    "sk_test_",
    "xai-",
    "xapp-",
    "xoxb-",
    "xoxp-",
];

/// How the dummies of a kind of credential begin, and how long they are at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// With the one of `known` that the value begins with, or else with `other`.
    Listed { known: &'static [&'static str], other: &'static str, least: usize },
    /// With `first`, and with the word and the dash behind it, if the value has those.
    Worded { first: &'static str, least: usize },
    /// With a public prefix, if the value has one.
    Any,
}

impl Shape {
    fn prefix<'a>(&'a self, real: &'a str) -> &'a str {
        match self {
            Self::Listed { known, other, .. } => known.iter().find(|prefix| real.starts_with(**prefix)).unwrap_or(other),
            Self::Worded { first, .. } => worded(real, first).unwrap_or(first),
            Self::Any => {
                PUBLIC_PREFIXES.iter().filter(|prefix| real.starts_with(**prefix)).max_by_key(|prefix| prefix.len()).unwrap_or(&"")
            }
        }
    }

    fn least(&self) -> usize {
        match self {
            Self::Listed { least, .. } | Self::Worded { least, .. } => *least,
            Self::Any => 0,
        }
    }
}

/// `sk-` of `sk-proj-…`, and the word behind it. Longer or other words may be a part of the secret.
fn worded<'a>(real: &'a str, first: &str) -> Option<&'a str> {
    let (word, _) = real.strip_prefix(first)?.split_once('-')?;
    let is_word = (1..=12).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_lowercase());
    is_word.then(|| real.get(..=first.len() + word.len())).flatten()
}

/// A dummy for `real`, which is ASCII. It tells of it what the shape tells: the public prefix, the length, where separators stand, and where digits, upper and lower case
/// do. Values that are short, or mostly symbols, get a longer one that tells less. `None` without random bytes.
pub(super) fn dummy(real: &str, shape: &Shape, random: &mut Random) -> Option<String> {
    let prefix = shape.prefix(real);
    let rest = real.as_bytes().get(prefix.len()..).unwrap_or_default();
    let alphabets = Alphabets::of(rest);
    let length = real.len().max(shape.least()).max(prefix.len() + RANDOM);
    let mut dummy = String::with_capacity(length + RANDOM);
    dummy.push_str(prefix);
    let (mut template, mut drawn) = (rest.iter().copied(), 0);
    while dummy.len() < length || drawn < RANDOM {
        let byte = match alphabets.for_place(template.next()) {
            Place::Kept(separator) => separator,
            Place::Drawn(alphabet) => {
                drawn += 1;
                random.of(alphabet)?
            }
        };
        dummy.push(char::from(byte));
    }
    Some(dummy)
}

enum Place {
    Kept(u8),
    Drawn(&'static [u8]),
}

/// What the characters of a value are replaced by.
struct Alphabets {
    hex: Option<&'static [u8]>,
    digits: bool,
    separators: bool,
}

impl Alphabets {
    fn of(rest: &[u8]) -> Self {
        let only = |alphabet: &[u8]| rest.iter().filter(|byte| byte.is_ascii_alphanumeric()).all(|byte| alphabet.contains(byte));
        let count = rest.iter().filter(|byte| byte.is_ascii_alphanumeric()).count();
        let digits = count > 0 && only(DIGITS);
        // Few letters below `g` are chance.
        let is_hex = |alphabet: &'static [u8]| (count >= RANDOM && !digits && only(alphabet)).then_some(alphabet);
        Self { hex: is_hex(LOWER_HEX).or_else(|| is_hex(UPPER_HEX)), digits, separators: count * 2 >= rest.len() }
    }

    fn for_place(&self, template: Option<u8>) -> Place {
        Place::Drawn(match template {
            Some(byte) if self.separators && SEPARATORS.contains(&byte) => return Place::Kept(byte),
            Some(b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z') | None if self.hex.is_some() => self.hex.unwrap_or(LOWER_HEX),
            Some(b'0'..=b'9') => DIGITS,
            Some(b'a'..=b'z') => LOWER,
            Some(b'A'..=b'Z') => UPPER,
            None if self.digits => DIGITS,
            Some(_) | None => ALPHANUMERIC,
        })
    }
}

/// Random bytes of the system.
pub(super) struct Random {
    source: &'static dyn SecureRandom,
    bytes: [u8; 64],
    left: usize,
}

impl Random {
    pub(super) fn new() -> Self {
        Self { source: ring::default_provider().secure_random, bytes: [0; 64], left: 0 }
    }

    fn byte(&mut self) -> Option<u8> {
        if self.left == 0 {
            self.source.fill(&mut self.bytes).ok()?;
            self.left = self.bytes.len();
        }
        self.left -= 1;
        self.bytes.get(self.left).copied()
    }

    /// One of `alphabet`, each as likely as the others.
    fn of(&mut self, alphabet: &[u8]) -> Option<u8> {
        let fair = 256 - 256 % alphabet.len().max(1);
        loop {
            let byte = usize::from(self.byte()?);
            if byte < fair {
                return alphabet.get(byte % alphabet.len().max(1)).copied();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::provider::{GITHUB, OPENAI};
    use super::*;

    /// What stands for the characters of an alphabet in the table below.
    fn alphabet(look: u8) -> Option<&'static [u8]> {
        Some(match look {
            b'9' => DIGITS,
            b'a' => LOWER,
            b'A' => UPPER,
            b'h' => LOWER_HEX,
            b'H' => UPPER_HEX,
            b'?' => ALPHANUMERIC,
            _ => return None,
        })
    }

    /// What stands behind the prefix of dummies: letters are alphabets, other characters themselves, and `?` is added up to the length. Many are looked at, so that an alphabet that
    /// is too narrow shows.
    fn assert_looks(real: &str, shape: &Shape, prefix: &str, looks: &str, length: usize) {
        let mut random = Random::new();
        let dummies: Vec<String> = (0..400).map(|_| dummy(real, shape, &mut random).unwrap()).collect();
        for dummy in &dummies {
            assert!(dummy.starts_with(prefix) && dummy.len() == length, "{dummy} for {real}");
        }
        let looks = looks.bytes().chain(std::iter::repeat(b'?'));
        for (at, look) in (prefix.len()..length).zip(looks) {
            let mut seen: Vec<u8> = dummies.iter().map(|dummy| dummy.as_bytes()[at]).collect();
            seen.sort_unstable();
            seen.dedup();
            let all = seen.escape_ascii();
            match alphabet(look) {
                None => assert_eq!(seen, [look], "place {at} for {real}: {all}"),
                Some(alphabet) => {
                    assert!(seen.iter().all(|byte| alphabet.contains(byte)), "place {at} for {real}: {all}");
                    assert!(seen.len() * 10 >= alphabet.len() * 9, "place {at} for {real} is not random: {all}");
                }
            }
        }
    }

    #[test]
    fn dummies_look_like_what_they_stand_for() {
        let cases = [
            // The reference's lengths: 40 for GitHub, 51 for OpenAI, and never shorter than the value.
            (&GITHUB.shape, "ghp_0aB", "ghp_", "9aA", 40),
            (&GITHUB.shape, "gho_", "gho_", "", 40),
            (&GITHUB.shape, "abcd-tok", "ghp_", "-aaa", 40),
            (
                &GITHUB.shape,
                "github_pat_11AA0bbCC_abcdefghijklmnopqrstuvwxyz0123456789",
                "github_pat_",
                "99AA9aaAA_aaaaaaaaaaaaaaaaaaaaaaaaaa9999999999",
                57,
            ),
            (&OPENAI.shape, "sk-real", "sk-", "aaaa", 51),
            (&OPENAI.shape, "sk-proj-a_B-1", "sk-proj-", "a_A-9", 51),
            (&OPENAI.shape, "key", "sk-", "", 51),
            // What comes before a later dash is a part of the secret.
            (&OPENAI.shape, "sk-longerthantwelve-x", "sk-", "aaaaaaaaaaaaaaaa-a", 51),
            (&OPENAI.shape, "sk-0bc-x", "sk-", "9aa-a", 51),
            // Any other: as long as the value, unless that is short.
            (&Shape::Any, "glpat-AbCdEfGhIjKlMnOp1234", "glpat-", "AaAaAaAaAaAaAaAa9999", 26),
            (&Shape::Any, "sk-ant-api03-abcdefghijklmnopqrst", "sk-ant-api03-", "aaaaaaaaaaaaaaaaaaaa", 33),
            (&Shape::Any, "AKIAABCDEFGHIJKLMNOP", "AKIA", "AAAAAAAAAAAAAAAA", 20),
            (&Shape::Any, "0123456789abcdef0123456789abcdef", "", "hhhhhhhhhhhhhhhhhhhhhhhhhhhhhhhh", 32),
            (&Shape::Any, "550e8400-e29b-41d4-a716-446655440000", "", "hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh", 36),
            (&Shape::Any, "0123456789ABCDEF01", "", "HHHHHHHHHHHHHHHHHH", 18),
            (&Shape::Any, "12345678901234567", "", "99999999999999999", 17),
            (&Shape::Any, "1234", "", "9999999999999999", 16),
            (&Shape::Any, "abc", "", "aaa", 16),
            (&Shape::Any, "a.b.c.d.e.f.g.h.ijklmnop", "", "a.a.a.a.a.a.a.a.aaaaaaaa", 24),
            // Symbols of passwords are not shown, and neither is what consists of them.
            (&Shape::Any, "pa$$ w@rd!pa$$w@rd!", "", "aa???a?aa?aa??a?aa?", 19),
            (&Shape::Any, "-_.-_.-_.-_.-_.-_.", "", "", 18),
        ];
        for (shape, real, prefix, looks, length) in cases {
            assert_looks(real, shape, prefix, looks, length);
        }
    }

    #[test]
    fn every_dummy_is_another() {
        let mut random = Random::new();
        let mut seen = std::collections::HashSet::new();
        for real in ["x", "----------------", "1234", "sk-real", "ghp_0123456789abcdefghijklmnopqrstuvwxyz"] {
            for shape in [&Shape::Any, &GITHUB.shape, &OPENAI.shape] {
                for _ in 0..200 {
                    let dummy = dummy(real, shape, &mut random).unwrap();
                    assert_ne!(dummy, real);
                    assert!(seen.insert(dummy));
                }
            }
        }
    }

    #[test]
    fn characters_are_equally_likely() {
        let mut random = Random::new();
        let mut counts = [0_u32; 256];
        for _ in 0..62_000 {
            counts[usize::from(random.of(ALPHANUMERIC).unwrap())] += 1;
        }
        for byte in ALPHANUMERIC {
            // 1,000 expected; ten standard deviations.
            assert!((680..1320).contains(&counts[usize::from(*byte)]), "{}", char::from(*byte));
        }
    }
}
