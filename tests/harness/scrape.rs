//! A scrape, read as strictly as Prometheus' text format 0.0.4 and OpenMetrics 1.0.0 are written: what does not keep to them fails the test.

use crate::Client;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What `GET /metrics` says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scrape {
    /// In their order.
    pub families: Vec<Family>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// As its samples are called, without what histograms put behind it.
    pub name: String,
    pub kind: String,
    pub help: String,
    pub samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub value: f64,
}

/// What Prometheus 3 sends.
pub const ACCEPT_OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";

impl Sample {
    /// As it is written, but for the value.
    #[must_use]
    pub fn key(&self) -> String {
        let labels: Vec<String> = self.labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        if labels.is_empty() { self.name.clone() } else { format!("{}{{{}}}", self.name, labels.join(",")) }
    }

    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let (name, labels) = match series.split_once('{') {
            None => (series, ""),
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("no end of labels: {line}"))),
        };
        assert!(is_name(name), "no name: {line}");
        // No value of a label has a comma or a quote in it.
        let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
            let (name, value) = label.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            let value = value.strip_suffix('"').unwrap_or_else(|| panic!("no label: {line}"));
            assert!(is_name(name) && !value.contains(['"', '\\']) && !value.is_empty(), "no label: {line}");
            (name.to_owned(), value.to_owned())
        });
        Self { name: name.to_owned(), labels: labels.collect(), value: value.parse().unwrap_or_else(|_| panic!("no number: {line}")) }
    }

    /// The bound of a bucket.
    fn bound(&self) -> Option<f64> {
        let (_, bound) = self.labels.iter().find(|(name, _)| name == "le")?;
        Some(if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() })
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

impl Scrape {
    /// Asks an admin listener, in Prometheus' format.
    #[must_use]
    pub fn of(admin: SocketAddr) -> Self {
        let (kind, text) = fetch(admin, "*/*");
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        Self::parse(&text, false)
    }

    /// The same, in OpenMetrics.
    #[must_use]
    pub fn open(admin: SocketAddr) -> Self {
        let (kind, text) = fetch(admin, ACCEPT_OPENMETRICS);
        assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        Self::parse(&text, true)
    }

    /// Reads it; `open`: as OpenMetrics.
    #[must_use]
    pub fn parse(text: &str, open: bool) -> Self {
        let text = if open { text.strip_suffix("# EOF\n").expect("it ends with its end") } else { text };
        assert!(text.ends_with('\n'));
        let mut lines = text.lines().peekable();
        let mut families = Vec::new();
        while let Some(line) = lines.next() {
            let (name, help) =
                line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')).unwrap_or_else(|| panic!("no help: {line}"));
            let kind =
                lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} "))).unwrap_or_else(|| panic!("no type: {name}"));
            let mut family = Family { name: name.to_owned(), kind: kind.to_owned(), help: help.to_owned(), samples: Vec::new() };
            if open {
                family.name += match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
            }
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                family.samples.push(Sample::parse(line));
            }
            family.check();
            families.push(family);
        }
        let scrape = Self { families };
        let names: BTreeSet<&str> = scrape.families.iter().map(|family| family.name.as_str()).collect();
        assert_eq!(names.len(), scrape.families.len(), "a family is there twice");
        let keys = scrape.families.iter().flat_map(|family| &family.samples).count();
        assert_eq!(scrape.samples().len(), keys, "a sample is there twice");
        scrape
    }

    /// All samples, by what they are written as.
    #[must_use]
    pub fn samples(&self) -> BTreeMap<String, f64> {
        self.families.iter().flat_map(|family| &family.samples).map(|sample| (sample.key(), sample.value)).collect()
    }

    /// The value of a sample, which has to be there.
    #[must_use]
    pub fn get(&self, sample: &str) -> f64 {
        *self.samples().get(sample).unwrap_or_else(|| panic!("no sample {sample}"))
    }
}

impl Family {
    /// Names of samples, and what adds up in a histogram.
    fn check(&self) {
        let Self { name, kind, samples, .. } = self;
        assert!(["counter", "gauge", "histogram", "info"].contains(&kind.as_str()), "{name}: {kind}");
        if kind != "histogram" {
            assert!(samples.iter().all(|sample| sample.name == *name), "{name}: {samples:?}");
            return;
        }
        let mut series: BTreeMap<Vec<(String, String)>, Vec<&Sample>> = BTreeMap::new();
        for sample in samples {
            let labels = sample.labels.iter().filter(|(name, _)| name != "le").cloned().collect();
            series.entry(labels).or_default().push(sample);
        }
        for samples in series.values() {
            let of = |suffix: &str| -> Vec<&&Sample> { samples.iter().filter(|sample| sample.name == format!("{name}{suffix}")).collect() };
            let (buckets, sums, counts) = (of("_bucket"), of("_sum"), of("_count"));
            assert_eq!((buckets.len() + 2, sums.len(), counts.len()), (samples.len(), 1, 1), "{name}");
            let bounds: Vec<f64> = buckets.iter().map(|bucket| bucket.bound().unwrap()).collect();
            assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]) && bounds.last() == Some(&f64::INFINITY), "{name}: {bounds:?}");
            let values: Vec<f64> = buckets.iter().map(|bucket| bucket.value).collect();
            assert!(values.is_sorted() && values.last() == Some(&counts[0].value), "{name}: {values:?}, {}", counts[0].value);
            // What was counted is in the sum, and no less than the bound below its bucket.
            let least: f64 = bounds.iter().zip(values.windows(2)).map(|(below, pair)| below * (pair[1] - pair[0])).sum();
            assert!(sums[0].value >= least * 0.999_999, "{name}: {} is less than {least}", sums[0].value);
        }
    }
}

fn fetch(admin: SocketAddr, accept: &str) -> (String, String) {
    let answer = Client::connect(admin).send(format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n")).answer();
    assert_eq!(answer.status, 200);
    (answer.header("content-type").unwrap_or_default().to_owned(), answer.text())
}
