//! Libraries that match lists of hosts and cost much to compile: behind the feature `peers`.

use crate::structures::{Answer, Lookup};
use netpolicy_benches::domains::Rules;
use policy_format::Host;
use std::cell::RefCell;

/// `adblock`: every rule, whatever it reaches and whether it allows, is `||name^`: that filter covers a name and all below, and its engine tells which host is covered,
/// not by what. So it is asked an easier question than the others, and held to that.
pub(crate) struct Adblock(adblock::Engine);

impl Adblock {
    pub(crate) fn new(rules: &Rules) -> Self {
        let list: String = rules.iter().map(|rule| format!("||{}^\n", rule.name)).collect();
        let mut filters = adblock::lists::FilterSet::new(false);
        filters.add_filter_list(list, adblock::lists::ParseOptions::default());
        Self(adblock::Engine::new_with_filter_set(filters))
    }

    fn is_listed(&self, name: &str) -> bool {
        let url = format!("https://{name}/");
        let request = adblock::request::Request::preparsed(&url, name, name, "xmlhttprequest", false, "GET");
        self.0.check_network_request(&request).filter.is_some()
    }
}

impl Lookup for Adblock {
    fn look(&self, _: &Host, name: &str) -> u32 {
        u32::from(self.is_listed(name))
    }

    fn answer(&self, _: &Host, name: &str) -> Answer {
        // It decodes such labels, and drops a rule with one that is not well formed.
        if name.contains("xn--") { Answer::Unchecked } else { Answer::Listed(self.is_listed(name)) }
    }
}

/// Rules beyond which globs are not built: a lookup tries them in long rows.
const MOST_GLOBS: usize = 10_000;

/// `globset`: a rule is one glob, or two for a name with all below; of those that match, the longest name wins.
pub(crate) struct Globs {
    set: globset::GlobSet,
    /// Of each glob: how much it fixes, and the rule's value.
    rules: Vec<((bool, usize), u32)>,
    /// Room for the globs that match, so that a lookup need not allocate it.
    matched: RefCell<Vec<usize>>,
}

impl Globs {
    pub(crate) fn new(rules: &Rules) -> Option<Self> {
        if rules.len() > MOST_GLOBS {
            return None;
        }
        let mut builder = globset::GlobSet::builder();
        let mut known = Vec::new();
        for rule in rules.iter() {
            let globs = [(rule.reach.is_exact(), ""), (rule.reach.is_wild(), "*.")];
            for (_, wildcard) in globs.into_iter().filter(|(wanted, _)| *wanted) {
                builder.add(globset::Glob::new(&format!("{wildcard}{}", rule.name)).unwrap());
                known.push(((wildcard.is_empty(), rule.name.len()), rule.value()));
            }
        }
        Some(Self { set: builder.build().unwrap(), rules: known, matched: RefCell::default() })
    }
}

impl Lookup for Globs {
    fn look(&self, _: &Host, name: &str) -> u32 {
        let mut matched = self.matched.borrow_mut();
        self.set.matches_into(name, &mut matched);
        matched.iter().map(|glob| self.rules[*glob]).max().map_or(0, |(_, value)| value)
    }

    fn answer(&self, host: &Host, name: &str) -> Answer {
        Answer::Closest(self.look(host, name))
    }
}
