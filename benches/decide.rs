//! How long does a decision take, with few rules and with very many, for hosts that are listed, that are not, and that are made to hurt? Beside it, what a
//! `HashMap` of the same names takes, asked for every suffix.

#![allow(missing_docs, reason = "the macros of criterion make public functions")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use netpolicy_benches::{MANY, blob, host, hostile, hostile_and_deep, layer, names, patterns};
use policy_format::{Blob, Decision, Host, Protocol, Request, decide};
use std::collections::HashMap;
use std::hint::black_box;

/// Hosts asked for in turn, so that no one host's rules stay in the nearest cache.
const HOSTS: usize = 4096;

/// The questions: what is asked, and whether the policy allows it.
fn questions(patterns: &[String]) -> [(&'static str, Vec<Host>, bool); 5] {
    let spread = |wildcards: bool| {
        let some: Vec<&String> = patterns.iter().filter(|pattern| pattern.starts_with("**.") == wildcards && pattern.len() < 100).collect();
        let step = some.len().div_ceil(HOSTS).max(1);
        some.into_iter().step_by(step)
    };
    let hits = spread(false).map(|pattern| host(pattern)).collect();
    let wildcard_hits = spread(true).map(|pattern| host(&pattern.replacen("**", "www.cdn", 1))).collect();
    let misses = names().skip(MANY).take(HOSTS).map(|name| host(&name)).collect();
    [
        ("hit", hits, true),
        ("wildcard hit", wildcard_hits, true),
        ("miss", misses, false),
        ("hostile miss", vec![hostile()], false),
        ("hostile and deep miss", vec![hostile_and_deep()], false),
    ]
}

/// Whether a rule reaches below its name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Name,
    Subdomains,
}

type Table = HashMap<Box<str>, Reach>;

fn table(patterns: &[String]) -> Table {
    let entry = |pattern: &String| match pattern.strip_prefix("**.") {
        Some(name) => (name.into(), Reach::Subdomains),
        None => (pattern.as_str().into(), Reach::Name),
    };
    patterns.iter().map(entry).collect()
}

/// Every suffix is looked up: any of them could hold a deny, which would win.
fn walk(table: &Table, name: &str) -> bool {
    let mut allowed = false;
    let mut suffix = Some(name);
    while let Some(text) = suffix {
        allowed |= table.get(text).is_some_and(|reach| *reach == Reach::Subdomains || text.len() == name.len());
        suffix = text.split_once('.').map(|(_, parent)| parent);
    }
    allowed
}

fn decisions(c: &mut Criterion) {
    for count in [10, MANY] {
        let patterns = patterns(count);
        let policy = Blob::open(blob(&layer(&patterns))).unwrap();
        let table = table(&patterns);
        let mut group = c.benchmark_group(format!("decide, {count} rules"));
        for (question, hosts, allowed) in questions(&patterns) {
            let ask = |host: &Host| {
                let request = Request {
                    profile: policy_format::ProfileId::default(),
                    protocol: Protocol::Connect,
                    host,
                    port: 443,
                    method: None,
                    path: None,
                    addresses: &[],
                    inside: None,
                    can_intercept: false,
                };
                matches!(decide(&policy, &request), Decision::Allow(_))
            };
            let look = |host: &Host| host.name().is_some_and(|name| walk(&table, name.as_str()));
            for host in &hosts {
                assert_eq!((ask(host), look(host)), (allowed, allowed), "{host}");
            }
            let mut next = hosts.iter().cycle();
            group.bench_function(BenchmarkId::new("blob", question), |b| b.iter(|| next.next().map(|host| ask(black_box(host)))));
            let mut next = hosts.iter().cycle();
            group.bench_function(BenchmarkId::new("hash map", question), |b| b.iter(|| next.next().map(|host| look(black_box(host)))));
        }
        group.finish();
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
