//! The table for people, and the numbers for programs.

use crate::measure::{Samples, percentile};
use serde::Serialize;

/// A run.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) data: String,
    pub(crate) rules: usize,
    pub(crate) queries: usize,
    /// Bases of the crafted hosts: no rule is under the first.
    pub(crate) hostile_under: [String; 2],
    pub(crate) structures: Vec<Row>,
    /// Bytes of the blob's sections.
    pub(crate) sections: Vec<(String, usize)>,
}

/// What was found of one structure. Times of lookups are in nanoseconds a lookup.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) is_map: bool,
    /// Queries that it answered right, before it was measured with these.
    pub(crate) checked: usize,
    pub(crate) cost: Option<Cost>,
    pub(crate) stream: Spread,
    pub(crate) dependent: Spread,
    pub(crate) warm: Spread,
    pub(crate) hostile: [Spread; 2],
}

/// What it takes to have a structure; none for one that shares another's.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Cost {
    pub(crate) build_ms: f64,
    /// Bytes that it asked the allocator for and holds.
    pub(crate) bytes: i64,
    /// The most that it held while it was built.
    pub(crate) peak_bytes: u64,
}

/// Samples in short.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) samples: usize,
    pub(crate) p10: f64,
    pub(crate) median: f64,
    pub(crate) p99: f64,
}

impl Spread {
    fn of(samples: &[f64]) -> Self {
        let [p10, median, p99] = [0.1, 0.5, 0.99].map(|share| percentile(samples, share));
        Self { samples: samples.len(), p10, median, p99 }
    }
}

impl Row {
    pub(crate) fn new(name: &'static str, is_map: bool, checked: usize, cost: Option<Cost>, samples: &Samples) -> Self {
        let [stream, dependent, warm] = [&samples.stream, &samples.dependent, &samples.warm].map(|samples| Spread::of(samples));
        let hostile = [0, 1].map(|which| Spread::of(&samples.hostile[which]));
        Self { name, is_map, checked, cost, stream, dependent, warm, hostile }
    }
}

/// A column that has a ratio: its heading, and its number.
type Column = (&'static str, fn(&Row) -> f64);

const COMPARED: [Column; 5] = [
    ("stream", |row| row.stream.median),
    ("dep", |row| row.dependent.median),
    ("warm", |row| row.warm.median),
    ("hostile, free", |row| row.hostile[0].median),
    ("hostile, deep", |row| row.hostile[1].median),
];

impl Report {
    /// The table, in Markdown. Ratios: how many times faster than the fastest map of that column.
    pub(crate) fn table(&self) -> String {
        let mut headings = vec!["structure", "stream", "p99"];
        headings.extend(COMPARED.iter().skip(1).map(|(heading, _)| *heading));
        headings.extend(["B/rule", "peak B/rule", "build ms", "× stream", "× dep", "× warm", "× free", "× deep"]);
        let mut lines = vec![headings.iter().map(ToString::to_string).collect::<Vec<String>>()];
        let fastest = COMPARED.map(|(_, of)| self.structures.iter().filter(|row| row.is_map).map(of).reduce(f64::min));
        for row in &self.structures {
            #[expect(clippy::cast_precision_loss, reason = "bytes of this machine's memory")]
            let per_rule = |bytes: f64| format!("{:.1}", bytes / self.rules as f64);
            let mut line = vec![row.name.to_owned()];
            let [stream, rest @ ..] = COMPARED.map(|(_, of)| nanoseconds(of(row)));
            line.extend([stream, nanoseconds(row.stream.p99)].into_iter().chain(rest));
            #[expect(clippy::cast_precision_loss, reason = "bytes of this machine's memory")]
            line.extend(match row.cost {
                Some(cost) => [per_rule(cost.bytes as f64), per_rule(cost.peak_bytes as f64), format!("{:.0}", cost.build_ms)],
                None => ["-"; 3].map(str::to_owned),
            });
            let ratios = COMPARED.iter().zip(fastest).map(|((_, of), fastest)| fastest.map_or(f64::NAN, |fastest| fastest / of(row)));
            line.extend(ratios.map(|ratio| format!("{ratio:.2}")));
            lines.push(line);
        }
        aligned(&lines)
    }
}

fn nanoseconds(time: f64) -> String {
    if time < 100.0 { format!("{time:.1}") } else { format!("{time:.0}") }
}

/// Lines of cells as a Markdown table, the first line its head, numbers to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns).map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)).collect();
    let mut table = String::new();
    for (number, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!(" {cell:<width$} |"),
            _ => format!(" {cell:>width$} |"),
        });
        table.push('|');
        table.extend(cells);
        table.push('\n');
        if number == 0 {
            table.push('|');
            table.extend(widths.iter().enumerate().map(|(column, width)| {
                let dashes = "-".repeat(*width);
                if column == 0 { format!(" {dashes} |") } else { format!(" {dashes}:|") }
            }));
            table.push('\n');
        }
    }
    table
}
