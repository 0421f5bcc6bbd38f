//! `netpolicy compile`.

use super::{compile_named, describe, describe_list, describe_profiles, fail, layers, print_line, profiles_json, say, say_found};
use crate::cli::Compile;
use policy_compiler::{Compiled, diagnostic, emit};
use policy_format::Blob;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn run(arguments: Compile) -> ExitCode {
    let to_stdout = arguments.output == Path::new("-");
    if to_stdout && arguments.json {
        return fail("`--json` and `-o -` both want standard output");
    }
    let sources = match layers(arguments.layers) {
        Ok(sources) => sources,
        Err(code) => return code,
    };
    for source in &sources {
        say(format_args!("read {}", describe(source)));
    }
    let compiled = match compile_named(sources, &arguments.profiles, arguments.strict) {
        Ok(compiled) => compiled,
        Err(failure) => {
            if arguments.json {
                let said = serde_json::json!({ "ok": false, "diagnostics": diagnostic::to_json(&failure.sources, &failure.diagnostics) });
                print_line(said);
                return ExitCode::from(2);
            }
            say_found(&failure.sources, &failure.diagnostics);
            return ExitCode::from(2);
        }
    };
    for list in &compiled.lists {
        say(format_args!("read {}", describe_list(list)));
    }
    say_found(&compiled.sources, &compiled.diagnostics);
    // The compiler reads its own work back before anyone else does.
    let blob = match Blob::open(compiled.blob.as_slice()) {
        Ok(blob) => blob,
        Err(error) => return fail(format_args!("the compiled policy does not read back, which is a bug: {error}")),
    };
    let written = if to_stdout { write_stdout(&compiled.blob) } else { emit::write(&arguments.output, &compiled.blob) };
    if let Err(error) = written {
        return fail(format_args!("cannot write `{}`: {error}", arguments.output.display()));
    }
    if arguments.json { print_json(&compiled, &blob, &arguments.output) } else { summarise(&blob, &arguments.output) }
}

fn write_stdout(blob: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    if stdout.is_terminal() {
        return Err(std::io::Error::other("standard output is a terminal, and a policy is binary"));
    }
    stdout.write_all(blob)?;
    stdout.flush()
}

fn summarise(blob: &Blob<&[u8]>, output: &Path) -> ExitCode {
    let (bytes, rules) = (blob.as_bytes().len(), blob.rule_count());
    say(format_args!(
        "wrote {}: {}, {rules} {}, {bytes} bytes, digest {}",
        output.display(),
        describe_profiles(blob),
        if rules == 1 { "rule" } else { "rules" },
        blob.digest(),
    ));
    ExitCode::SUCCESS
}

fn print_json(compiled: &Compiled, blob: &Blob<&[u8]>, output: &Path) -> ExitCode {
    let meta = blob.meta();
    let (major, minor) = blob.version();
    let summary = serde_json::json!({
        "ok": true,
        "output": output.display().to_string(),
        "format": format!("{major}.{minor}"),
        "digest": blob.digest().to_string(),
        "bytes": blob.as_bytes().len(),
        "rules": blob.rule_count(),
        "profile": meta.profile,
        "network": meta.network.to_string(),
        "mode": meta.mode.as_str(),
        "profiles": profiles_json(blob),
        "sources": compiled.sources.iter().map(describe).collect::<Vec<_>>(),
        "lists": compiled.lists.iter().map(describe_list).collect::<Vec<_>>(),
        "diagnostics": diagnostic::to_json(&compiled.sources, &compiled.diagnostics),
    });
    print_line(summary)
}
