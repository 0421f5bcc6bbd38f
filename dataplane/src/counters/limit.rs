//! Which limit was reached, found when this is compiled.

use policy_format::{Limit, Limits};

/// Which limit was reached: its place in [`Limits::ALL`]. It is part of many answers of the relay, and small for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached(u8);

const _: () = assert!(Limits::ALL.len() < u8::MAX as usize, "a place among them fits");

/// The place of a limit, found when this is compiled; a name that no limit has does not compile.
macro_rules! reached {
    ($name:ident) => {
        const { $crate::counters::Reached::named(stringify!($name)) }
    };
}
pub(crate) use reached;

impl Reached {
    pub(crate) const fn named(name: &str) -> Self {
        let mut place = 0;
        let mut all = Limits::ALL;
        while let [limit, rest @ ..] = all {
            if is_same(limit.name.as_bytes(), name.as_bytes()) {
                return Self(place);
            }
            all = rest;
            place += 1;
        }
        assert!((place as usize) < Limits::ALL.len(), "no limit has this name");
        Self(place)
    }

    /// Its place among all of them.
    pub(super) fn place(self) -> usize {
        self.0.into()
    }

    /// The limit itself.
    pub(crate) fn limit(self) -> Option<&'static Limit> {
        Limits::ALL.get(self.place())
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        self.limit().map_or("", |limit| limit.name)
    }
}

/// `==` of slices is no constant function.
const fn is_same(mut one: &[u8], mut other: &[u8]) -> bool {
    while let ([a, rest @ ..], [b, others @ ..]) = (one, other) {
        if *a != *b {
            return false;
        }
        (one, other) = (rest, others);
    }
    one.is_empty() && other.is_empty()
}
