//! `netpolicy presets`.

use super::{fail, print_line};
use crate::cli::{Presets, PresetsQuestion};
use policy_compiler::presets::{self, Entry, PRESETS, Preset};
use policy_compiler::request::Asked;
use policy_format::{Host, Hosts};
use serde_json::{Value, json};
use std::process::ExitCode;

pub(crate) fn run(arguments: Presets) -> ExitCode {
    match arguments.question {
        None => list(arguments.json),
        Some(PresetsQuestion::Show { name }) => show(&name, arguments.json),
        Some(PresetsQuestion::Which { host }) => which(&host, arguments.json),
    }
}

fn list(json: bool) -> ExitCode {
    if json {
        return print_line(Value::from_iter(PRESETS.map(|preset| summary(preset, preset.patterns().count().into()))));
    }
    let row = |preset: Preset| {
        let count = preset.patterns().count();
        [preset.name.to_owned(), preset.access().to_string(), count.to_string(), preset.date().to_owned(), preset.title().to_owned()]
    };
    print_line(table(PRESETS.map(row).as_slice()))
}

fn show(name: &str, json: bool) -> ExitCode {
    let Some(preset) = presets::find(name) else {
        let help = presets::nearest(name)
            .map_or_else(|| "see `netpolicy presets` for those that are there".to_owned(), |near| format!("did you mean `{near}`?"));
        return fail(format_args!("there is no preset `{name}`\nhelp: {help}"));
    };
    let entries: Vec<Entry> = preset.patterns().collect();
    if json {
        let patterns = entries
            .iter()
            .map(|entry| json!({ "pattern": entry.pattern.to_string(), "group": entry.group, "line": entry.line, "why": entry.why }));
        return print_line(summary(preset, Value::from_iter(patterns)));
    }
    let count = entries.len();
    let noun = if count == 1 { "pattern" } else { "patterns" };
    let mut text = format!(
        "{}: {}\n{}, {count} {noun}, {}\nsource: {}\n",
        preset.name,
        preset.title(),
        preset.access(),
        preset.date(),
        preset.source()
    );
    for group in entries.chunk_by(|a, b| a.group == b.group) {
        let rows: Vec<[String; 2]> =
            group.iter().map(|entry| [format!("  {}", entry.pattern), entry.why.unwrap_or_default().to_owned()]).collect();
        text.push_str(&format!("\n{}\n{}\n", group.first().map_or("", |entry| entry.group), table(&rows)));
    }
    print_line(text.trim_end())
}

fn which(host: &str, json: bool) -> ExitCode {
    // Presets hold for every port, so that one that is named changes nothing.
    let parsed = match Host::parse(host).or_else(|error| Asked::tunnel(host).map(|asked| asked.host).map_err(|_| error)) {
        Ok(parsed) => parsed,
        Err(error) => {
            return fail(format_args!("`{host}` is not a host: {error}\nhelp: write a name or an address, without scheme and path"));
        }
    };
    let found: Vec<(Preset, Entry)> = presets::covering(&parsed).filter(|(_, entry)| entry.pattern.hosts != Hosts::Any).collect();
    let text = if json {
        let covering = found.iter().map(|(preset, entry)| {
            json!({
                "preset": preset.name,
                "access": preset.access().to_string(),
                "pattern": entry.pattern.to_string(),
                "group": entry.group,
                "file": preset.file(),
                "line": entry.line,
            })
        });
        json!({ "host": host, "presets": Value::from_iter(covering) }).to_string()
    } else if found.is_empty() {
        format!("no preset covers {host}")
    } else {
        let row = |(preset, entry): &(Preset, Entry)| {
            let place = format!("{}:{}", preset.file(), entry.line);
            [preset.name.to_owned(), preset.access().to_string(), entry.pattern.to_string(), place, entry.group.to_owned()]
        };
        table(&found.iter().map(row).collect::<Vec<_>>())
    };
    match print_line(&text) {
        done if done == ExitCode::SUCCESS && found.is_empty() => ExitCode::from(1),
        done => done,
    }
}

fn summary(preset: Preset, patterns: Value) -> Value {
    json!({
        "name": preset.name,
        "title": preset.title(),
        "access": preset.access().to_string(),
        "date": preset.date(),
        "source": preset.source(),
        "patterns": patterns,
    })
}

/// Columns as wide as what stands in them, two spaces apart.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
