//! How long does it take to open, to write and to compile a policy? A reload opens; an administrator's machine compiles and writes.

#![allow(missing_docs, reason = "the macros of criterion make public functions")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

use criterion::{BatchSize, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use netpolicy_benches::{MANY, blob, layer, patterns, source};
use policy_compiler::{Options, compile};
use policy_format::{Access, Blob, BlobBuilder, Layer, Pattern, RuleInput, Source};

fn open(c: &mut Criterion) {
    let blob = blob(&layer(&patterns(MANY)));
    let mut group = c.benchmark_group(format!("open, {MANY} rules"));
    group.throughput(Throughput::Bytes(blob.len() as u64)).sampling_mode(SamplingMode::Flat).sample_size(50);
    group.bench_function("blob", |b| b.iter(|| Blob::open(blob.as_slice()).unwrap().rule_count()));
    group.finish();
}

fn build(c: &mut Criterion) {
    let meta = Blob::open(blob(&layer(&[]))).unwrap().meta().clone();
    let source = Source { layer: Layer::User, label: "config.toml".into() };
    let rule = |(line, pattern): (u32, String)| RuleInput::new(Pattern::parse(&pattern).unwrap(), Access::Allow, source.clone(), line);
    let rules: Vec<RuleInput> = (1..).zip(patterns(MANY)).map(rule).collect();
    let filled = || {
        let mut builder = BlobBuilder::new(meta.clone());
        for rule in &rules {
            builder.rule(rule.clone());
        }
        builder
    };
    let mut group = c.benchmark_group(format!("build, {MANY} rules"));
    group.throughput(Throughput::Elements(MANY as u64)).sample_size(10);
    group.bench_function("blob", |b| {
        b.iter_batched(filled, |builder| builder.build().unwrap(), BatchSize::PerIteration);
    });
    group.finish();
}

fn compile_layers(c: &mut Criterion) {
    let patterns = patterns(100);
    let layers = [Layer::Managed, Layer::Cli, Layer::User, Layer::Project];
    let sources: Vec<_> = layers.into_iter().zip(patterns.chunks(25)).map(|(from, rules)| source(from, &layer(rules))).collect();
    c.bench_function("compile, 4 layers, 100 rules", |b| {
        b.iter_batched(|| sources.clone(), |sources| compile(sources, Options::default()).unwrap(), BatchSize::SmallInput);
    });
}

criterion_group!(benches, open, build, compile_layers);
criterion_main!(benches);
