//! Beside a rule for some methods or paths: what lets one request pass, and what passes with it.
//!
//! Who wrote which methods or paths may be asked for did not mean all of them. So the rule is widened by what was asked, or another key of the host gets a rule for
//! just that; whichever opens less comes first. Nothing wider is a candidate.

use super::{Candidate, NewRule, Widened, is_writable, pattern};
use crate::request::Asked;
use policy_format::path::{check_prefix, lies_below};
use policy_format::{Access, Blob, Layer, PortRange, Protocol, READING, Reason, Request, Rule, named_by};
use std::collections::BTreeSet;

/// Words of what else opens, at most.
const MAX_WORDS: usize = 6;
/// A method and a path that no rule names: they stand for all that is not named.
const OTHER_METHOD: &str = "ANY-OTHER";
const OTHER_PATH: &str = "/any-other~path";

/// What is said of an edit that opens all.
pub(super) const EVERYTHING: &str = "every method of every path";

/// What an edit opens beside the request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Also {
    /// In words; nothing where it opens nothing else.
    pub(super) words: Vec<String>,
    /// How far that is from what the rule was for.
    cost: u8,
}

/// The rules that allow some methods or paths of the host, the closest first.
pub(super) fn rules<B: AsRef<[u8]>>(policy: &Blob<B>, asked: &Asked) -> Vec<Rule> {
    let named = named_by(policy, &asked.request(&[]));
    named.iter().filter_map(|named| policy.rule(named.rule)).filter(is_narrow).filter(|rule| rule.access != Access::Deny).collect()
}

pub(super) fn is_narrow(rule: &Rule) -> bool {
    !(rule.methods.is_empty() && rule.paths.is_empty())
}

/// Whether the rule is for the port that is asked for.
pub(super) fn speaks_of_port(rule: &Rule, port: u16) -> bool {
    rule.ports.is_empty() || rule.ports.iter().any(|range| (range.first..=range.last).contains(&port))
}

/// The method and the path that rules get to see.
pub(super) fn seen(asked: &Asked) -> Option<(&str, &str)> {
    asked.method_and_path().filter(|_| asked.protocol.is_read() || asked.can_intercept)
}

/// What to try beside these rules: what opens least first, a rule that is there before another key.
pub(super) fn candidates<B: AsRef<[u8]>>(policy: &Blob<B>, asked: &Asked, narrow: &[Rule], layers: &[Layer]) -> Vec<Candidate> {
    let Some(request) = seen(asked) else { return Vec::new() };
    let exact = asked.host.to_string();
    let is_for_port = |rule: &Rule| rule.ports == [PortRange { first: asked.port, last: asked.port }];
    let own = |for_port: bool| narrow.iter().filter(move |rule| is_for_port(rule) == for_port).filter(|rule| rule.hosts == exact);
    let widened = |rule| widened(policy, asked, rule, request).map(|(cost, widened)| (cost, Candidate::Widen(Box::new(widened))));
    let added = narrow.first().map(|rule| added(policy, asked, rule, request)).unwrap_or_default();
    let added = layers.iter().flat_map(|layer| added.iter().map(|new| (new.also.cost, Candidate::Rule(*layer, Box::new(new.clone())))));
    let mut all: Vec<(u8, Candidate)> = own(true).filter_map(widened).chain(added).chain(own(false).filter_map(widened)).collect();
    all.sort_by_key(|(cost, _)| *cost);
    all.into_iter().map(|(_, candidate)| candidate).collect()
}

/// The rule with what was asked for in its lists, where that is what keeps it from holding.
fn widened<B: AsRef<[u8]>>(policy: &Blob<B>, asked: &Asked, rule: &Rule, (method, path): (&str, &str)) -> Option<(u8, Widened)> {
    let more = |is_named: bool, item: &str| Some(item.to_owned()).filter(|_| !is_named);
    let one_more = more(rule.methods.is_empty() || rule.methods.iter().any(|known| known == method), method);
    let path_more = more(rule.paths.is_empty() || rule.paths.iter().any(|known| lies_below(path, known)), path);
    let is_writable = is_writable(rule.layer)
        && speaks_of_port(rule, asked.port)
        && (rule.access == Access::Allow || READING.contains(&method))
        && path_more.as_ref().is_none_or(|path| check_prefix(path).is_ok());
    if !is_writable || (one_more.is_none() && path_more.is_none()) {
        return None;
    }
    let methods: Vec<String> = rule.methods.iter().chain(&one_more).cloned().collect();
    let paths: Vec<String> = rule.paths.iter().chain(&path_more).cloned().collect();
    let mut also = also(policy, asked, rule, &methods, &paths);
    if rule.ports != [PortRange { first: asked.port, last: asked.port }] {
        also.words.push("the same on other ports".to_owned());
        also.cost = also.cost.max(1);
    }
    Some((also.cost, Widened { rule: rule.clone(), method: one_more, path: path_more, also }))
}

/// A rule for what was asked and nothing else, under either key that means the host and the port.
fn added<B: AsRef<[u8]>>(policy: &Blob<B>, asked: &Asked, beside: &Rule, (method, path): (&str, &str)) -> Vec<NewRule> {
    // `/` holds every path: a rule beside one without paths needs to say nothing.
    let says_paths = !beside.paths.is_empty() || (path != "/" && check_prefix(path).is_ok());
    if says_paths && check_prefix(path).is_err() {
        return Vec::new();
    }
    let (methods, paths) = (vec![method.to_owned()], if says_paths { vec![path.to_owned()] } else { Vec::new() });
    let also = also(policy, asked, beside, &methods, &paths);
    let new = |port: Option<u16>| {
        let pattern = pattern(&asked.host, port)?;
        let listed_port = Some(asked.port).filter(|_| port.is_none());
        let (methods, paths, also) = (methods.clone(), paths.clone(), also.clone());
        Some(NewRule { listed_port, methods, paths, also, ..NewRule::new(pattern, Access::Allow) })
    };
    [new(Some(asked.port)), new(None)].into_iter().flatten().collect()
}

/// What a rule for these methods and paths opens beside the request. A list that the rule leaves open is open by its author's will, and costs nothing.
fn also<B: AsRef<[u8]>>(policy: &Blob<B>, asked: &Asked, rule: &Rule, methods: &[String], paths: &[String]) -> Also {
    let Some((method, path)) = seen(asked) else { return Also::default() };
    let old_paths: BTreeSet<&str> = rule.paths.iter().map(String::as_str).collect();
    let listed = |all: bool, list: &[String], one: &str| -> BTreeSet<Option<String>> {
        let others = list.iter().cloned().chain([one.to_owned()]).map(Some);
        others.chain(all.then_some(None)).collect()
    };
    let methods = listed(methods.is_empty(), methods, method);
    let paths = listed(paths.is_empty() || paths.iter().any(|path| path == "/"), paths, path);
    // What the rule holds already is not opened by more of it: long lists make few questions.
    let is_held = |(method, path): &(Option<&str>, Option<&str>)| {
        let has = |list: &[String], one: Option<&str>| one.is_some_and(|one| list.iter().any(|known| known == one));
        rule.access == Access::Allow && has(&rule.methods, *method) && old_paths.contains(&path.unwrap_or_default())
    };
    let pairs = methods.iter().flat_map(|method| paths.iter().map(move |path| (method.as_deref(), path.as_deref())));
    let opened: Vec<(Option<&str>, Option<&str>)> = pairs
        .filter(|pair| *pair != (Some(method), Some(path)) && !is_held(pair))
        .filter(|(method, path)| opens(policy, asked, method.unwrap_or(OTHER_METHOD), path.unwrap_or(OTHER_PATH)))
        .collect();
    let cost = |(one, other): &(Option<&str>, Option<&str>)| {
        let is_meant = (*one == Some(method) || rule.methods.is_empty()) && (*other == Some(path) || rule.paths.is_empty());
        if is_meant { 0 } else { 1 + u8::from(one.is_none() && other.is_none()) }
    };
    Also { cost: opened.iter().map(cost).max().unwrap_or_default(), words: words(&opened) }
}

/// Whether what passes by no rule so far would pass by one more.
fn opens<B: AsRef<[u8]>>(policy: &Blob<B>, asked: &Asked, method: &str, path: &str) -> bool {
    let protocol = if asked.protocol.is_read() { asked.protocol } else { Protocol::Https };
    let request = Request { protocol, method: Some(method), path: Some(path), ..asked.request(&[]) };
    let rules = named_by(policy, &request).into_iter().filter(|named| named.holds == Some(true));
    // What holds either refuses it, or lets it pass already.
    !rules.filter_map(|named| policy.rule(named.rule)).any(|rule| rule.access != Access::ReadOnly || READING.contains(&method))
}

fn words(opened: &[(Option<&str>, Option<&str>)]) -> Vec<String> {
    if opened.contains(&(None, None)) {
        return vec![EVERYTHING.to_owned()];
    }
    let said: BTreeSet<Option<&str>> = opened.iter().filter(|(_, path)| path.is_none()).map(|(method, _)| *method).collect();
    let word = |(method, path): &(Option<&str>, Option<&str>)| match (*method, *path) {
        (Some(method), None) => Some(format!("{method} of every other path")),
        (None, Some(path)) => Some(format!("every other method of {path}")),
        (Some(one), Some(path)) if !said.contains(method) => Some(format!("{one} {path}")),
        _ => None,
    };
    let mut words: Vec<String> = opened.iter().filter_map(word).collect();
    if words.len() > MAX_WORDS {
        let rest = words.split_off(MAX_WORDS - 1).len();
        words.push(format!("{rest} more combinations of its methods and paths"));
    }
    words
}

/// What is said where such a rule stands in the way, and there is no line that opens no more than is meant.
pub(super) fn in_the_way<B: AsRef<[u8]>>(policy: &Blob<B>, asked: &Asked, reason: Reason) -> Option<String> {
    let (narrow, seen) = (rules(policy, asked), seen(asked).filter(|_| reason != Reason::MitmRequired));
    let rule = narrow.iter().find(|rule| speaks_of_port(rule, asked.port)).or(narrow.first().filter(|_| seen.is_some()))?;
    let what = format!("{rule} at {}", rule.place());
    Some(match seen {
        None => format!("{what} is for some methods or paths, and what this carries cannot be read"),
        Some((_, path)) if !rule.paths.is_empty() && check_prefix(path).is_err() => {
            format!("{what} is for some paths, and no rule can name this one")
        }
        Some(_) => format!("have {what} allow such requests, too"),
    })
}

/// Whether all rules of the host that say no, or say which methods or paths, are there still; all its rules, where the new one is such a rule.
pub(super) fn keeps<B: AsRef<[u8]>, C: AsRef<[u8]>>(before: &Blob<B>, after: &Blob<C>, asked: &Asked, new: &NewRule) -> bool {
    let request = asked.request(&[]);
    let after: Vec<Rule> = named_by(after, &request).iter().filter_map(|named| after.rule(named.rule)).collect();
    let same =
        |a: &Rule, b: &Rule| (&a.hosts, &a.ports, a.access, &a.methods, &a.paths) == (&b.hosts, &b.ports, b.access, &b.methods, &b.paths);
    let mut rules = named_by(before, &request).into_iter().filter_map(|named| before.rule(named.rule));
    rules.all(|rule| {
        let may_go = !new.is_narrow() && rule.access != Access::Deny && !is_narrow(&rule);
        may_go || after.iter().any(|kept| same(kept, &rule))
    })
}
