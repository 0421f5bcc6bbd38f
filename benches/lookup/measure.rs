//! The clock: structures take turns in rounds, so that what else the machine does falls on all of them alike.

use crate::structures::{Batch, Structure};
use netpolicy_benches::domains::{Oracle, Queries};
use policy_format::MAX_NAME;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Lookups between two looks at the clock.
pub(crate) const BATCH: usize = 64;
/// Batches of the hosts that are asked for again and again.
const WARM: usize = 8;

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// Batches a round; slow structures get fewer.
    pub(crate) batches: usize,
    /// What one structure's batches of a round may take.
    pub(crate) turn: Duration,
    /// When rounds end, however many are left.
    pub(crate) total: Duration,
}

impl Plan {
    pub(crate) const FULL: Self = Self { rounds: 40, batches: 256, turn: Duration::from_millis(100), total: Duration::from_secs(90) };
    pub(crate) const SMOKE: Self = Self { rounds: 2, batches: 8, turn: Duration::from_millis(10), total: Duration::from_secs(5) };
}

/// Nanoseconds a lookup, one number a batch or a pass.
#[derive(Default)]
pub(crate) struct Samples {
    pub(crate) stream: Vec<f64>,
    pub(crate) dependent: Vec<f64>,
    pub(crate) warm: Vec<f64>,
    pub(crate) hostile: [Vec<f64>; 2],
}

/// A structure under measurement, and how many queries, from the first, it was checked with and may be asked.
pub(crate) struct Subject<'a> {
    pub(crate) structure: &'a dyn Structure,
    pub(crate) checked: usize,
}

/// The longest hosts, with as many labels as fit: under a name that no rule has, and under the rule with the most labels.
pub(crate) struct Hostile {
    pub(crate) under: [String; 2],
    hosts: [Vec<String>; 2],
}

impl Hostile {
    pub(crate) fn new<'a>(names: impl Iterator<Item = &'a str>, oracle: &Oracle<'_>) -> Self {
        let deepest = names.filter(|name| name.len() < MAX_NAME / 2).max_by_key(|name| (name.matches('.').count(), *name));
        let free = (0..).map(|n| format!("q{n}.com")).find(|name| !oracle.ask(name).listed);
        let under = [free.unwrap_or_default(), deepest.unwrap_or("q.com").to_owned()];
        let hosts = [0, 1].map(|which| (0..BATCH).map(|seed| longest(&under[which], seed)).collect());
        Self { under, hosts }
    }

    pub(crate) fn hosts(&self, which: usize) -> impl Iterator<Item = &str> {
        self.hosts[which].iter().map(String::as_str)
    }
}

/// `base` with labels of one letter in front, 253 bytes in all.
fn longest(base: &str, seed: usize) -> String {
    let room = MAX_NAME - base.len();
    let letter = |at: usize| char::from(b'a' + u8::try_from((seed * 7 + at * (seed + 3)) % 26).unwrap_or(0));
    let mut name: String = (0..room / 2).flat_map(|at| [letter(at), '.']).collect();
    if room % 2 == 1 {
        name.insert(0, 'z');
    }
    name += base;
    assert_eq!(name.len(), MAX_NAME, "{name}");
    name
}

/// Measures all subjects in turns.
pub(crate) fn run(subjects: &[Subject<'_>], queries: &Queries, hostile: &Hostile, plan: Plan) -> Vec<Samples> {
    let start = Instant::now();
    let mut samples: Vec<Samples> = subjects.iter().map(|_| Samples::default()).collect();
    let batches: Vec<usize> = subjects.iter().map(|subject| turn(subject, queries, plan)).collect();
    let crafted = [0, 1].map(|which| Batch::of(hostile.hosts(which)));
    for round in 0..plan.rounds {
        let order = || order(subjects.len(), round);
        for at in order() {
            let (subject, count) = (&subjects[at], batches[at]);
            let mut segment = Segment::new(subject, queries, round * count);
            for _ in 0..count / 8 {
                black_box(subject.structure.stream(segment.next()));
            }
            for _ in count / 8..count {
                let batch = segment.next();
                samples[at].stream.push(clock(|| subject.structure.stream(batch)));
            }
        }
        for at in order() {
            let (subject, count) = (&subjects[at], batches[at].div_ceil(4));
            let mut segment = Segment::new(subject, queries, round * count);
            for _ in 0..count {
                let batch = segment.next();
                samples[at].dependent.push(clock(|| subject.structure.dependent(batch)));
            }
        }
        for at in order() {
            let (subject, passes) = (&subjects[at], batches[at].div_ceil(WARM).clamp(1, 10));
            for pass in 0..passes + 2 {
                let mut segment = Segment::new(subject, queries, round * WARM);
                let mut sum = 0.0;
                for _ in 0..WARM {
                    let batch = segment.next();
                    sum += clock(|| subject.structure.stream(batch));
                }
                if pass >= 2 {
                    samples[at].warm.push(sum / WARM as f64);
                }
            }
        }
        for at in order() {
            let passes = batches[at].div_ceil(64);
            for (batch, samples) in crafted.iter().zip(&mut samples[at].hostile) {
                black_box(subjects[at].structure.stream(batch));
                samples.extend((0..passes).map(|_| clock(|| subjects[at].structure.stream(batch))));
            }
        }
        if start.elapsed() > plan.total {
            break;
        }
    }
    samples
}

/// Who follows whom in a round: each comes first in turn, and not always after the same other one, whose traces it finds in the caches.
fn order(count: usize, round: usize) -> impl Iterator<Item = usize> {
    let steps: Vec<usize> = (1..=count).filter(|step| coprime(*step, count)).collect();
    let step = steps.get(round % steps.len().max(1)).copied().unwrap_or(1);
    (0..count).map(move |at| (at * step + round) % count)
}

fn coprime(mut a: usize, mut b: usize) -> bool {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}

/// Nanoseconds a lookup of a batch.
fn clock(lookups: impl FnOnce() -> u32) -> f64 {
    let start = Instant::now();
    black_box(lookups());
    start.elapsed().as_secs_f64() * 1e9 / BATCH as f64
}

/// How many batches fit into a turn.
fn turn(subject: &Subject<'_>, queries: &Queries, plan: Plan) -> usize {
    let mut segment = Segment::new(subject, queries, 0);
    // The best of a few: the first is slow, and another may have been interrupted.
    let lookup = (0..4).map(|_| {
        let batch = segment.next();
        clock(|| subject.structure.stream(batch))
    });
    let lookup = lookup.fold(f64::MAX, f64::min);
    let fit = plan.turn.as_secs_f64() * 1e9 / (lookup * BATCH as f64).max(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and cut to the plan's batches")]
    let fit = fit as usize;
    fit.clamp(1, plan.batches)
}

/// Batches of queries one after the other, from the start again after the last.
struct Segment<'a> {
    queries: &'a Queries,
    batches: usize,
    next: usize,
    batch: Batch<'a>,
}

impl<'a> Segment<'a> {
    fn new(subject: &Subject<'_>, queries: &'a Queries, next: usize) -> Self {
        Self { queries, batches: (subject.checked / BATCH).max(1), next, batch: Batch::default() }
    }

    /// The next batch. Reading the hosts is not part of what is timed.
    fn next(&mut self) -> &Batch<'a> {
        let first = self.next % self.batches * BATCH;
        self.batch.fill(self.queries.range(first, BATCH).map(|(host, _)| host));
        self.next += 1;
        &self.batch
    }
}

/// The sample below which a share of them lies.
pub(crate) fn percentile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an index of samples")]
    let at = (sorted.len().saturating_sub(1) as f64 * share) as usize;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}
