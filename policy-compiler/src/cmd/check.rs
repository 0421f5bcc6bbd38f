//! `netpolicy check`: compiles without writing anything.

use super::{color, compile, fail, places, print_line, say_rendered};
use crate::cli::{Check, Format};
use policy_compiler::source::LayerFiles;
use policy_compiler::{Options, diagnostic};
use policy_format::Blob;
use std::process::ExitCode;

pub(crate) fn run(arguments: Check) -> ExitCode {
    let sources = match LayerFiles::from(arguments.layers).read(&places()) {
        Ok(sources) => sources,
        Err(error) => return fail(error),
    };
    if sources.is_empty() {
        return fail(super::NO_LAYER);
    }
    let format = if arguments.json { Format::Json } else { arguments.format };
    let (sources, diagnostics, blob) = match compile(sources, Options { profile: arguments.profile.as_deref(), strict: arguments.strict }) {
        Ok(compiled) => (compiled.sources, compiled.diagnostics, Some(compiled.blob)),
        Err(failure) => (failure.sources, failure.diagnostics, None),
    };
    let summary = blob.as_deref().and_then(|blob| Blob::open(blob).ok()).map(|blob| {
        let (meta, rules) = (blob.meta(), blob.rule_count());
        (meta.profile.clone(), meta.network, meta.mode, rules)
    });
    let printed = match format {
        Format::Text => {
            if !diagnostics.is_empty() {
                say_rendered(&diagnostic::render(&sources, &diagnostics, color(&std::io::stderr())));
            }
            match &summary {
                Some((profile, network, mode, rules)) => print_line(format_args!(
                    "ok: profile {}, network {network}, mode {mode}, {rules} {}",
                    diagnostic::visible(profile),
                    if *rules == 1 { "rule" } else { "rules" }
                )),
                None => ExitCode::SUCCESS,
            }
        }
        Format::Json => {
            let files: Vec<_> = sources.iter().map(super::describe).collect();
            print_line(serde_json::json!({
                "ok": blob.is_some(),
                "sources": files,
                "profile": summary.as_ref().map(|(profile, ..)| profile),
                "network": summary.as_ref().map(|(_, network, ..)| network.to_string()),
                "mode": summary.as_ref().map(|(_, _, mode, _)| mode.as_str()),
                "rules": summary.as_ref().map(|(.., rules)| rules),
                "diagnostics": diagnostic::to_json(&sources, &diagnostics),
            }))
        }
        Format::Sarif => print_line(diagnostic::to_sarif(&sources, &diagnostics)),
    };
    // The answer is no; the question was a good one.
    if printed == ExitCode::SUCCESS && blob.is_none() { ExitCode::from(1) } else { printed }
}
