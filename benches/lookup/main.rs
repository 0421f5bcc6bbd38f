//! Of very many rules, which one names this host most specifically, and what does it take to know that? The policy blob beside hash maps and the libraries that people
//! would take in its place, in one run. README.md says how to run it and what the numbers mean.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench that cannot go on panics"
)]

mod measure;
#[cfg(feature = "peers")]
mod peers;
mod policy;
mod report;
mod structures;

use measure::{BATCH, Hostile, Plan, Subject};
use netpolicy_benches::domains::{self, Oracle, Queries, Rules, Truth};
use report::{Cost, Report, Row};
use std::hint::black_box;
use std::time::{Duration, Instant};
use structures::{Batch, Candidate, Structure};

/// Environment variable: names of the structures to measure, with commas between; all of them when it is not set.
const ONLY: &str = "NETPOLICY_BENCH_ONLY";
/// Environment variable: the file that gets the numbers as JSON.
const JSON: &str = "NETPOLICY_BENCH_JSON";
/// What checking one structure may take. A slow one is then measured with the queries that it was checked with.
const CHECKING: Duration = Duration::from_secs(15);

/// What cargo and people ask for.
enum Task {
    Measure(Plan),
    Instructions { of: String, lookups: usize },
    Nothing,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let task = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Task::Measure(Plan::FULL),
        ["--test"] => Task::Measure(Plan::SMOKE),
        ["--instructions", of, lookups] => Task::Instructions { of: (*of).to_owned(), lookups: lookups.parse().unwrap() },
        // A filter that criterion's benches get too.
        [filter] if !filter.starts_with('-') => {
            if "lookup".contains(filter) {
                Task::Measure(Plan::FULL)
            } else {
                Task::Nothing
            }
        }
        // Arguments of criterion's benches.
        other => {
            println!("# not run: {other:?} is nothing that it knows");
            Task::Nothing
        }
    };
    match task {
        Task::Measure(plan) => measure(plan),
        Task::Instructions { of, lookups } => instructions(&of, lookups),
        Task::Nothing => {}
    }
}

/// A structure that was built and checked.
struct Built {
    candidate: &'static Candidate,
    structure: Box<dyn Structure>,
    cost: Option<Cost>,
    /// Queries that it answered right.
    checked: usize,
}

fn measure(plan: Plan) {
    let (data, rules, queries) = domains::load(plan.batches == Plan::SMOKE.batches);
    println!("# {data}: {} rules ({} left out), {} queries ({} left out)", rules.len(), rules.left_out, queries.len(), queries.left_out);
    assert!(queries.len() >= BATCH, "{} queries are too few: {BATCH} at least", queries.len());
    let oracle = Oracle::new(&rules);
    let hostile = Hostile::new(rules.iter().map(|rule| rule.name), &oracle);
    let truths = truths(&oracle, &rules, &queries);
    let crafted: Vec<(&str, Truth)> =
        [0, 1].into_iter().flat_map(|which| hostile.hosts(which)).map(|host| (host, oracle.ask(host))).collect();
    drop(oracle);

    let mut policy = None;
    let mut built: Vec<Built> = Vec::new();
    for candidate in chosen() {
        let shared = candidate.name == "decide" && policy.is_some();
        let (structure, cost) = build(candidate, &rules, &mut policy);
        let Some(structure) = structure else {
            println!("# {}: not built, too many rules for it", candidate.name);
            continue;
        };
        let checked = check(candidate.name, &*structure, &queries, &truths, &crafted);
        if checked < queries.len() {
            println!("# {}: {checked} of the queries, in {CHECKING:?}", candidate.name);
        }
        built.push(Built { candidate, structure, cost: (!shared).then_some(cost), checked });
    }
    println!("# each agrees with the oracle on every query that it is measured with");

    let subjects: Vec<Subject<'_>> = built.iter().map(|built| Subject { structure: &*built.structure, checked: built.checked }).collect();
    let samples = measure::run(&subjects, &queries, &hostile, plan);
    let row = |(built, samples): (&Built, _)| Row::new(built.candidate.name, built.candidate.is_map, built.checked, built.cost, samples);
    let report = Report {
        data,
        rules: rules.len(),
        queries: queries.len(),
        hostile_under: hostile.under.clone(),
        structures: built.iter().zip(&samples).map(row).collect(),
        sections: policy.map(|policy| policy.sections()).unwrap_or_default(),
    };
    println!("\n{}", report.table());
    for (section, bytes) in &report.sections {
        #[expect(clippy::cast_precision_loss, reason = "bytes of this machine's memory")]
        let per_rule = *bytes as f64 / report.rules as f64;
        println!("# blob section {section}: {bytes} bytes, {per_rule:.2} B/rule");
    }
    println!("# hostile hosts end in {} and in {}", report.hostile_under[0], report.hostile_under[1]);
    if let Some(path) = std::env::var_os(JSON) {
        std::fs::write(&path, serde_json::to_string_pretty(&report).unwrap() + "\n").unwrap();
    }
}

/// The structures that are asked for.
fn chosen() -> Vec<&'static Candidate> {
    match std::env::var(ONLY) {
        Ok(only) => only.split(',').map(named).collect(),
        Err(_) => structures::ALL.iter().collect(),
    }
}

fn named(name: &str) -> &'static Candidate {
    let known = || structures::ALL.iter().map(|candidate| candidate.name).collect::<Vec<_>>().join(", ");
    structures::ALL.iter().find(|candidate| candidate.name == name).unwrap_or_else(|| panic!("`{name}` is none of {}", known()))
}

/// What is right for every query. The kinds that a file gives its queries hold only if all of its rules are in.
fn truths(oracle: &Oracle<'_>, rules: &Rules, queries: &Queries) -> Vec<Truth> {
    let truths: Vec<Truth> = queries.iter().map(|(host, _)| oracle.ask(host)).collect();
    for ((host, kind), truth) in queries.iter().zip(&truths) {
        assert!(rules.left_out > 0 || truth.kind() == kind, "{host} is meant as {kind:?}, and is {:?}", truth.kind());
    }
    truths
}

fn build(candidate: &Candidate, rules: &Rules, policy: &mut Option<std::rc::Rc<policy::Policy>>) -> (Option<Box<dyn Structure>>, Cost) {
    let mut built = None;
    let start = Instant::now();
    let memory = allocation_counter::measure(|| built = (candidate.build)(rules, policy));
    let build_ms = start.elapsed().as_secs_f64() * 1e3;
    // The counter sees one thread, and the blob is built by several: what it takes is its length.
    let blob = policy.as_ref().filter(|_| candidate.name == "blob").and_then(|policy| policy.len().try_into().ok());
    (built, Cost { build_ms, bytes: blob.unwrap_or(memory.bytes_current), peak_bytes: memory.bytes_max })
}

/// Holds a structure to the truth; how many of the queries there was time for.
fn check(name: &str, structure: &dyn Structure, queries: &Queries, truths: &[Truth], crafted: &[(&str, Truth)]) -> usize {
    let start = Instant::now();
    let right = |host: &str, truth: &Truth| {
        let answer = structure.answer(&netpolicy_benches::host(host), host);
        assert!(answer.agrees(truth), "{name} says of {host}: {answer:?}; right is {truth:?}");
    };
    for (host, truth) in crafted {
        right(host, truth);
    }
    for (number, ((host, _), truth)) in queries.iter().zip(truths).enumerate() {
        if number % BATCH == 0 && number > 0 && start.elapsed() > CHECKING {
            return number;
        }
        right(host, truth);
    }
    queries.len()
}

/// Looks up queries once to warm up, and once where callgrind counts.
fn instructions(of: &str, lookups: usize) {
    let (data, rules, queries) = domains::load(false);
    let mut policy = None;
    let structure = (named(of).build)(&rules, &mut policy).unwrap();
    let batch = Batch::of(queries.range(0, lookups).map(|(host, _)| host));
    assert_eq!(batch.names.len(), lookups, "so many queries are not there");
    // What is only for checks is made before the counting starts.
    black_box(structure.answer(&batch.hosts[0], batch.names[0]));
    black_box(structure.stream(&batch));
    black_box(cg_region(&*structure, &batch));
    println!("{of}: {lookups} lookups, {} rules, {data}", rules.len());
}

/// The region that callgrind counts, by its name.
#[inline(never)]
fn cg_region(structure: &dyn Structure, batch: &Batch<'_>) -> u32 {
    structure.stream(batch)
}
