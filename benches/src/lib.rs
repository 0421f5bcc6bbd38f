//! What the benches share: names from a generator that always gives the same ones, and policies made of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench that cannot go on panics")]

pub mod domains;
pub mod synthetic;

use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options, compile};
use policy_format::{Host, Layer};

/// Rules of the policy that asks for much.
pub const MANY: usize = 100_000;

/// Names as lists of domains have them: two to four labels under a few dozen top-level domains. The same on every machine and in every run, and none twice.
pub fn names() -> impl Iterator<Item = String> {
    let mut state = 0x6e65_7470_6f6c_6963_u64;
    (0_u64..).map(move |number| {
        let mut next = |below: u64| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            splitmix(state) % below
        };
        let mut name = String::new();
        for _ in 0..next(3) {
            name.push_str(&label(next(1 << 12)));
            name.push('.');
        }
        // The number is what keeps names apart.
        name.push_str(&label(next(1 << 30)));
        name.push_str(&number.to_string());
        name.push_str(".top");
        name.push_str(&label(next(40)));
        name
    })
}

/// Mixes a counter into a random number (splitmix64).
fn splitmix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number in letters.
fn label(mut number: u64) -> String {
    let mut text = String::new();
    loop {
        text.extend(char::from_digit(10 + u32::try_from(number % 26).unwrap_or(0), 36));
        number /= 26;
        if number == 0 {
            return text;
        }
    }
}

/// `count` patterns: every fourth with its subdomains, the last one a name of 127 labels, which is what makes [`hostile`] hostile.
#[must_use]
pub fn patterns(count: usize) -> Vec<String> {
    let listed = names().enumerate().map(|(n, name)| if n % 4 == 3 { format!("**.{name}") } else { name });
    listed.take(count.saturating_sub(1)).chain([deepest("b")]).collect()
}

/// The longest name with the most labels, 253 bytes in 127 labels, none of which a rule has.
#[must_use]
pub fn hostile() -> Host {
    host(&["z"; 127].join("."))
}

/// As long, and all but its first label leads along the labels of a rule.
#[must_use]
pub fn hostile_and_deep() -> Host {
    host(&deepest("c"))
}

fn deepest(first: &str) -> String {
    format!("{first}.{}", ["a"; 126].join("."))
}

/// A host from its text.
#[must_use]
pub fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

/// A layer that switches the network on and allows `patterns`.
#[must_use]
pub fn layer(patterns: &[String]) -> String {
    let head = "default_permissions = \"bench\"\n[permissions.bench.network]\nenabled = true\n[permissions.bench.network.domains]\n";
    head.to_owned() + &patterns.iter().map(|pattern| format!("\"{pattern}\" = \"allow\"\n")).collect::<String>()
}

/// A layer as the compiler takes it.
#[must_use]
pub fn source(layer: Layer, text: &str) -> SourceFile {
    SourceFile::from_text(layer, Role::Config, "config.toml", text.to_owned())
}

/// The blob of one layer.
#[must_use]
pub fn blob(text: &str) -> Vec<u8> {
    match compile(vec![source(Layer::User, text)], Options::default()) {
        Ok(compiled) => compiled.blob,
        Err(failure) => panic!("{failure}"),
    }
}
