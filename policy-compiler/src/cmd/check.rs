//! `netpolicy check`: compiles without writing anything.

use super::{compile_named, describe_profiles, layers, print_line, profiles_json, say_found};
use crate::cli::{Check, Format};
use policy_compiler::diagnostic;
use policy_format::Blob;
use std::process::ExitCode;

pub(crate) fn run(arguments: Check) -> ExitCode {
    let sources = match layers(arguments.layers) {
        Ok(sources) => sources,
        Err(code) => return code,
    };
    let format = if arguments.json { Format::Json } else { arguments.format };
    let (sources, diagnostics, blob) = match compile_named(sources, &arguments.profiles, arguments.strict) {
        Ok(compiled) => (compiled.sources, compiled.diagnostics, Some(compiled.blob)),
        Err(failure) => (failure.sources, failure.diagnostics, None),
    };
    let summary = blob.as_deref().and_then(|blob| Blob::open(blob).ok());
    let printed = match format {
        Format::Text => {
            say_found(&sources, &diagnostics);
            match &summary {
                Some(policy) => print_line(format_args!(
                    "ok: {}, {} {}",
                    diagnostic::visible(&describe_profiles(policy)),
                    policy.rule_count(),
                    if policy.rule_count() == 1 { "rule" } else { "rules" }
                )),
                None => ExitCode::SUCCESS,
            }
        }
        Format::Json => {
            let files: Vec<_> = sources.iter().map(super::describe).collect();
            print_line(serde_json::json!({
                "ok": blob.is_some(),
                "sources": files,
                "profile": summary.as_ref().map(|policy| &policy.meta().profile),
                "network": summary.as_ref().map(|policy| policy.meta().network.to_string()),
                "mode": summary.as_ref().map(|policy| policy.meta().mode.as_str()),
                "profiles": summary.as_ref().map(profiles_json),
                "rules": summary.as_ref().map(Blob::rule_count),
                "diagnostics": diagnostic::to_json(&sources, &diagnostics),
            }))
        }
        Format::Sarif => print_line(diagnostic::to_sarif(&sources, &diagnostics)),
    };
    // The answer is no; the question was a good one.
    if printed == ExitCode::SUCCESS && blob.is_none() { ExitCode::from(1) } else { printed }
}
