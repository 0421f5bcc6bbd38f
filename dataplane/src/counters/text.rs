//! How counters are written: Prometheus' text format 0.0.4, and OpenMetrics 1.0.0 for those who ask for it.

use super::histogram::{Sum, Timed};
use std::fmt::{Display, Write};

/// A way to write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus' text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The one that an `Accept` header likes better; the older where it says nothing of either.
    pub(crate) fn accepted(header: Option<&str>) -> Self {
        let (mut text, mut open) = (0, 0);
        for range in header.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut is_ours) = (1000, true);
            for (name, value) in parts.filter_map(|part| part.split_once('=')) {
                match name.trim().to_ascii_lowercase().as_str() {
                    "q" => quality = thousandths(value.trim()),
                    // Of a later one, who knows what it has.
                    "version" if kind == "application/openmetrics-text" => is_ours = value.trim().trim_matches('"').starts_with("1.0."),
                    _ => {}
                }
            }
            match kind.as_str() {
                "application/openmetrics-text" if is_ours => open = quality.max(open),
                "text/plain" | "text/*" | "*/*" => text = quality.max(text),
                _ => {}
            }
        }
        if open > 0 && open >= text { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// What it is called.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A quality from 0 to 1 (RFC 9110, section 12.4.2); what is none counts as 0.
fn thousandths(quality: &str) -> u32 {
    let quality: f32 = quality.parse().unwrap_or(0.0);
    // NaN is not in the range either.
    if (0.0..=1.0).contains(&quality) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1000")]
        let thousandths = (quality * 1000.0) as u32;
        thousandths
    } else {
        0
    }
}

/// How a metric's values move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Up.
    Counter,
    /// Up and down.
    Gauge,
    /// Times, by how long they are.
    Histogram,
    /// Not: its labels are what it says.
    Info,
}

/// What a scrape is answered with.
pub(crate) struct Page {
    text: String,
    format: Format,
}

impl Page {
    pub(crate) fn new(format: Format) -> Self {
        Self { text: String::with_capacity(64 * 1024), format }
    }

    /// Begins a family: its samples follow.
    pub(crate) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let (family, kind) = match (self.format, kind) {
            (Format::Prometheus, Kind::Counter) => (name, "counter"),
            (Format::OpenMetrics, Kind::Counter) => (name.strip_suffix("_total").unwrap_or(name), "counter"),
            (Format::OpenMetrics, Kind::Info) => (name.strip_suffix("_info").unwrap_or(name), "info"),
            (_, Kind::Gauge) | (Format::Prometheus, Kind::Info) => (name, "gauge"),
            (_, Kind::Histogram) => (name, "histogram"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {family} {help}\n# TYPE {family} {kind}");
    }

    /// A sample of the family that was begun. `labels` are as they are written, without braces.
    pub(crate) fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let text = &mut self.text;
        let _ = if labels.is_empty() { writeln!(text, "{name} {value}") } else { writeln!(text, "{name}{{{labels}}} {value}") };
    }

    /// A family with one sample.
    pub(crate) fn single(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }

    /// The samples of one histogram.
    pub(super) fn histogram(&mut self, name: &str, labels: &str, timed: Timed, sum: &Sum) {
        let comma = if labels.is_empty() { "" } else { "," };
        let text = &mut self.text;
        for (bound, count) in sum.cumulative(timed) {
            let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", sum.count());
        self.sample(&format!("{name}_sum"), labels, sum.seconds());
        self.sample(&format!("{name}_count"), labels, sum.count());
    }

    /// All of it.
    pub(crate) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_openmetrics_gets_it_and_others_get_what_they_know() {
        let cases = [
            (None, Format::Prometheus),
            (Some(""), Format::Prometheus),
            (Some("*/*"), Format::Prometheus),
            (Some("text/html, application/xhtml+xml, */*;q=0.8"), Format::Prometheus),
            (Some("text/plain"), Format::Prometheus),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some("Application/OpenMetrics-Text; Version=1.0.0; charset=utf-8"), Format::OpenMetrics),
            (Some("application/openmetrics-text;version=2.0.0,text/plain;q=0.1"), Format::Prometheus),
            (Some("application/openmetrics-text;version=0.0.1"), Format::Prometheus),
            (Some("application/openmetrics-text;q=0"), Format::Prometheus),
            (Some("application/openmetrics-text;q=NaN"), Format::Prometheus),
            (Some("application/openmetrics-text;q=0.2,text/plain;q=0.5"), Format::Prometheus),
            (Some("application/openmetrics-text;q=0.5,text/plain;q=0.5"), Format::OpenMetrics),
            // Prometheus 2 and 3.
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                ),
                Format::OpenMetrics,
            ),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                ),
                Format::OpenMetrics,
            ),
        ];
        for (header, format) in cases {
            assert_eq!(Format::accepted(header), format, "{header:?}");
        }
    }

    #[test]
    fn families_are_called_as_each_format_wants_it() {
        let page = |format| {
            let mut page = Page::new(format);
            page.single("a_total", Kind::Counter, "As.", 1);
            page.single("b", Kind::Gauge, "Bs.", 2.5);
            page.family("c_info", Kind::Info, "Cs.");
            page.sample("c_info", r#"version="1""#, 1);
            page.finish()
        };
        let expected = "# HELP a_total As.\n# TYPE a_total counter\na_total 1\n# HELP b Bs.\n# TYPE b gauge\nb 2.5\n# HELP c_info Cs.\n# TYPE c_info gauge\nc_info{version=\"1\"} 1\n";
        assert_eq!(page(Format::Prometheus), expected);
        let expected = "# HELP a As.\n# TYPE a counter\na_total 1\n# HELP b Bs.\n# TYPE b gauge\nb 2.5\n# HELP c Cs.\n# TYPE c info\nc_info{version=\"1\"} 1\n# EOF\n";
        assert_eq!(page(Format::OpenMetrics), expected);
    }
}
