//! A chart: an SVG of a few lines, and the same in words.

use super::text::Age;
use maud::{Markup, html};
use std::fmt::Write;

/// Places for values: no fewer, and no more.
const WIDTHS: (usize, usize) = (60, 300);
/// Of the drawing, in its own units.
const HEIGHT: f64 = 60.0;

/// A line of a chart.
pub(crate) struct Line {
    /// What it shows.
    pub(crate) name: &'static str,
    /// How it is drawn: `one`, `two` or `denied`.
    pub(crate) class: &'static str,
    /// Its values, the oldest first; where there is none, the line is broken.
    pub(crate) values: Vec<Option<f64>>,
}

/// The chart. The last value is at the right edge.
pub(crate) fn chart(title: &str, shown: &dyn Fn(f64) -> String, lines: &[Line]) -> Markup {
    let highest = |line: &Line| {
        line.values.iter().copied().flatten().fold(None, |high: Option<f64>, value| Some(high.map_or(value, |high| high.max(value))))
    };
    let top = lines.iter().filter_map(highest).fold(0.0, f64::max);
    let now = |line: &Line| line.values.iter().rev().copied().find_map(|value| value);
    let spoken = |line: &Line| match (now(line), highest(line)) {
        (Some(now), Some(high)) => format!("{}: {} now, {} at most", line.name, shown(now), shown(high)),
        _ => format!("{}: nothing was measured", line.name),
    };
    let width = lines.iter().map(|line| line.values.len()).max().unwrap_or(0).clamp(WIDTHS.0, WIDTHS.1);
    let text = format!("{title}, the last {}. {}.", Age(width as u64), lines.iter().map(spoken).collect::<Vec<_>>().join("; "));
    html! {
        figure.chart {
            figcaption {
                span.title { (title) }
                span.scale aria-hidden="true" { @if top > 0.0 { "at most " (shown(top)) } }
                span.legend { @for line in lines { span class=(line.class) { (line.name) " " b { @match now(line) { Some(now) => (shown(now)), None => "–" } } } } }
            }
            svg viewBox={ "0 0 " (width) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label=(text) focusable="false" {
                line.base x1="0" x2=(width) y1=(HEIGHT) y2=(HEIGHT) {}
                @for line in lines { path class=(line.class) d=(path(&line.values, top, width)) {} }
            }
        }
    }
}

/// The way along the values.
fn path(values: &[Option<f64>], top: f64, width: usize) -> String {
    let (mut path, mut is_drawing) = (String::new(), false);
    let values = values.get(values.len().saturating_sub(width)..).unwrap_or_default();
    let first = width - values.len();
    for (place, value) in values.iter().enumerate() {
        let Some(value) = value else {
            is_drawing = false;
            continue;
        };
        let share = if top > 0.0 { value / top } else { 0.0 };
        // The line is drawn in the middle of its width: nothing of it is cut off.
        let (x, y) = (first + place, 1.0 + (HEIGHT - 2.0) * (1.0 - share));
        // Writing to a string cannot fail. A value that stands alone is a dot.
        let _ = if is_drawing { write!(path, "L{x} {y:.1}") } else { write!(path, "M{x} {y:.1}h.6") };
        is_drawing = true;
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_the_right_and_breaks_where_there_is_nothing() {
        let values = [Some(0.0), Some(10.0), None, Some(5.0)];
        assert_eq!(path(&values, 10.0, 300), "M296 59.0h.6L297 1.0M299 30.0h.6");
        assert_eq!(path(&[Some(0.0)], 0.0, 300), "M299 59.0h.6", "nothing is at the bottom");
        assert_eq!(path(&vec![None; 1_000], 1.0, 300), "");
    }

    #[test]
    fn it_is_said_in_words_too() {
        let line = |name, values| Line { name, class: "one", values };
        let lines = [line("up", vec![Some(7.0), Some(3.0)]), line("down", vec![None])];
        let text = chart("Bytes", &|value| format!("{value} B"), &lines).into_string();
        assert!(text.contains(r#"aria-label="Bytes, the last 1 min. up: 3 B now, 7 B at most; down: nothing was measured.""#), "{text}");
    }
}
