//! `netpolicy audit`.

use super::{fail, stream, stream_text};
use crate::cli::{Audit, AuditTask, Verify};
use policy_compiler::verify::{Finding, Options, Segment, Verified, Verifier, number_of};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

pub(crate) fn run(arguments: Audit) -> ExitCode {
    match arguments.task {
        AuditTask::Verify(arguments) => verify(arguments),
    }
}

fn verify(arguments: Verify) -> ExitCode {
    let verified = match check(&arguments) {
        Ok(verified) => verified,
        Err(error) => return fail(error),
    };
    let code = ExitCode::from(u8::from(!verified.is_whole()));
    match arguments.json {
        true => stream(code, |out| writeln!(out, "{}", to_json(&verified))),
        false => stream_text(code, |out| write_text(out, &verified)),
    }
}

fn check(arguments: &Verify) -> Result<Verified, String> {
    let mut files: Vec<(Option<u64>, &PathBuf)> = Vec::with_capacity(arguments.files.len());
    for path in &arguments.files {
        files.push((File::open(path).and_then(number_of).map_err(|error| unreadable(path, &error))?, path));
    }
    // In the order of the log, however they were named. What is no segment comes last.
    files.sort_by_key(|(number, _)| number.unwrap_or(u64::MAX));
    let mut verifier = Verifier::new(Options { open: arguments.open, noted: arguments.noted.clone() });
    for (at, (_, path)) in files.iter().enumerate() {
        let is_last = at + 1 == files.len();
        let read = File::open(path).and_then(|file| verifier.read(&path.display().to_string(), is_last, file));
        read.map_err(|error| unreadable(path, &error))?;
    }
    Ok(verifier.finish())
}

fn unreadable(path: &std::path::Path, error: &io::Error) -> String {
    format!("cannot read `{}`: {error}", path.display())
}

fn write_text(out: &mut dyn Write, verified: &Verified) -> io::Result<()> {
    for finding in &verified.findings {
        let lead = if finding.kind.is_wrong() { "wrong" } else { "note" };
        writeln!(out, "{lead}: {finding}")?;
    }
    if verified.more > 0 {
        writeln!(out, "wrong: and {} more", verified.more)?;
    }
    let count = |count: u64, what: &str| if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") };
    for Segment { file, number, lines, seals, .. } in &verified.segments {
        let number = number.map_or_else(|| "no segment".to_owned(), |number| format!("segment {number}"));
        writeln!(out, "{file}: {number}, {}, {}", count(*lines, "line"), count(*seals, "seal"))?;
    }
    match verified.segments.last() {
        Some(last) if verified.is_whole() => writeln!(out, "whole, up to the hash {}", last.last),
        _ => writeln!(out, "not whole"),
    }
}

fn to_json(verified: &Verified) -> Value {
    let segment = |segment: &Segment| json!({ "file": segment.file, "segment": segment.number, "lines": segment.lines, "seals": segment.seals, "last": segment.last.to_string() });
    let finding = |finding: &Finding| json!({ "kind": finding.kind.as_str(), "wrong": finding.kind.is_wrong(), "file": finding.file, "line": finding.line, "message": finding.message });
    json!({
        "whole": verified.is_whole(),
        "last": verified.segments.last().map(|segment| segment.last.to_string()),
        "segments": verified.segments.iter().map(segment).collect::<Vec<_>>(),
        "findings": verified.findings.iter().map(finding).collect::<Vec<_>>(),
        "more": verified.more,
    })
}
