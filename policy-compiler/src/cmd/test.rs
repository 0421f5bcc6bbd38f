//! `netpolicy test`.

use super::explain::explanation_json;
use super::{bare_subject, compiled_subject, fail, places, rule_json, say, say_found, stream, stream_text};
use crate::cli::Test;
use policy_compiler::Layer;
use policy_compiler::explain::{Subject, describe};
use policy_compiler::profiles::Profile;
use policy_compiler::source::{LayerFiles, Role, SourceFile, SourceId};
use policy_compiler::testing::{self, Case, Coverage, Report};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The name of test files that nobody names.
const TESTS: &str = "policy.test.toml";
/// Bytes that a test file may have.
const MAX_TESTS: u64 = 64 << 20;
/// Rules without a test that are listed; JSON has them all.
const MAX_LISTED: usize = 50;

pub(crate) fn run(arguments: Test) -> ExitCode {
    let (mut cases, subject) = match read(&arguments) {
        Ok(read) => read,
        Err(code) => return code,
    };
    for asked in cases.iter_mut().flat_map(|case| &mut case.requests) {
        asked.can_intercept = !arguments.no_interception;
    }
    let report = testing::run(&subject, &cases);
    if let Some(path) = &arguments.junit
        && let Err(error) = std::fs::write(path, report.junit(&cases))
    {
        return fail(format_args!("cannot write `{}`: {error}", path.display()));
    }
    let policy = subject.profile();
    let coverage = report.coverage(policy);
    let too_little = arguments.fail_under.filter(|percent| coverage.percent() < f64::from(*percent));
    let code = ExitCode::from(u8::from(report.counts().1 > 0 || too_little.is_some()));
    let shown = Some(coverage).filter(|_| arguments.coverage || arguments.fail_under.is_some());
    let printed = match arguments.json {
        true => stream(code, |out| writeln!(out, "{}", report_json(&report, &cases, policy, shown))),
        false => stream_text(code, |out| write_report(out, &report, &cases, policy, shown)),
    };
    if let Some(percent) = too_little {
        say(format_args!("the tests exercise {:.1} % of the rules, less than the {percent} % of `--fail-under`", coverage.percent()));
    }
    printed
}

/// The cases, and the policy that they are put to.
fn read(arguments: &Test) -> Result<(Vec<Case>, Subject), ExitCode> {
    let asked = &arguments.subject;
    if let Some(path) = &asked.policy {
        let cases = read_cases(arguments, || vec![beside(path)])?;
        return Ok((cases, bare_subject(path, asked.profile.as_deref())?));
    }
    let layers = LayerFiles::from(asked.layers.clone());
    let sources = layers.read(&places()).map_err(fail)?;
    let cases = read_cases(arguments, || default_files(&layers, &sources))?;
    Ok((cases, compiled_subject(sources, asked.profile.clone())?))
}

fn read_cases(arguments: &Test, default: impl FnOnce() -> Vec<PathBuf>) -> Result<Vec<Case>, ExitCode> {
    let mut files: Vec<PathBuf> = arguments.files.iter().chain(&arguments.tests).cloned().collect();
    if files.is_empty() {
        files = default();
        files.retain(|file| file.is_file());
        let mut seen = HashSet::new();
        files.retain(|file| seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone())));
    }
    if files.is_empty() {
        return Err(fail(
            "no test file was found\nhelp: write `policy.test.toml` beside the policy, or name one: `netpolicy test --user config.toml policy.test.toml`",
        ));
    }
    let sources = files.iter().map(|path| read_file(path)).collect::<Result<Vec<_>, _>>().map_err(fail)?;
    let mut diagnostics = Vec::new();
    let mut cases: Vec<Case> = (0..sources.len()).flat_map(|index| testing::read(SourceId(index), &sources, &mut diagnostics)).collect();
    if !diagnostics.is_empty() {
        say_found(&sources, &diagnostics);
        return Err(ExitCode::from(2));
    }
    let all = cases.len();
    if let Some(text) = &arguments.filter {
        cases.retain(|case| case.name.contains(text));
    }
    match (cases.is_empty(), all) {
        (true, 0) => Err(fail("the test files have no case\nhelp: write `[[case]]`, with `request` and `expect`")),
        (true, _) => Err(fail(format_args!("no case has `{}` in its name", arguments.filter.as_deref().unwrap_or_default()))),
        (false, _) => Ok(cases),
    }
}

/// `policy.test.toml` beside every file that was read and, unless the files were named, in the project's folder.
fn default_files(layers: &LayerFiles, sources: &[SourceFile]) -> Vec<PathBuf> {
    let named = [&layers.mdm, &layers.mdm_config_base64, &layers.mdm_requirements_base64].into_iter().flatten().map(|path| beside(path));
    let of_files = sources.iter().filter(|source| source.layer != Layer::Cli).filter_map(|source| Some(source.folder()?.join(TESTS)));
    let project = layers.looks_around().then(|| Path::new(".codex").join(TESTS));
    // The short name comes first, so that it is the one that is shown.
    project.into_iter().chain(named).chain(of_files).collect()
}

fn beside(path: &Path) -> PathBuf {
    path.with_file_name(TESTS)
}

fn read_file(path: &Path) -> Result<SourceFile, String> {
    let shown = path.display().to_string();
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_TESTS + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => return Err(format!("cannot read the test file `{shown}`: {error}")),
        Ok(len) if len as u64 > MAX_TESTS => return Err(format!("the test file `{shown}` has more than {MAX_TESTS} bytes")),
        Ok(_) => {}
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("the test file `{shown}` is not UTF-8 text"))?;
    Ok(SourceFile::from_text(Layer::Project, Role::Config, &shown, text))
}

fn write_report(
    out: &mut dyn Write,
    report: &Report,
    cases: &[Case],
    policy: Profile<'_, Vec<u8>>,
    coverage: Option<Coverage>,
) -> io::Result<()> {
    for outcome in &report.outcomes {
        let (Some(case), Some(explanation)) = (cases.get(outcome.case), &outcome.failure) else { continue };
        writeln!(out, "FAIL {}:{}: {}: {}", case.file, case.line, case.name.escape_debug(), outcome.request)?;
        writeln!(out, "  - expected: {}", case.expected)?;
        writeln!(out, "  + found:    {}", testing::found(explanation))?;
        // The first line repeats the request.
        for line in explanation.to_string().lines().skip(1) {
            writeln!(out, "    {line}")?;
        }
    }
    if let Some(coverage) = coverage {
        let Coverage { written, named } = coverage;
        let unexercised = written.rules - written.exercised;
        writeln!(out, "coverage: {:.1} % of {} rules", coverage.percent(), written.rules)?;
        if named.rules > 0 {
            writeln!(out, "  and {} of {} rules of presets and lists", named.exercised, named.rules)?;
        }
        for rule in report.unexercised(policy).take(MAX_LISTED) {
            writeln!(out, "  no test: {}", describe(&rule))?;
        }
        if unexercised > MAX_LISTED {
            writeln!(out, "  … and {} more", unexercised - MAX_LISTED)?;
        }
    }
    let (passed, failed) = report.counts();
    writeln!(out, "{passed} passed, {failed} failed")
}

fn report_json(report: &Report, cases: &[Case], policy: Profile<'_, Vec<u8>>, coverage: Option<Coverage>) -> Value {
    let outcomes = report.outcomes.iter().filter_map(|outcome| {
        let case = cases.get(outcome.case)?;
        let mut value = json!({
            "name": case.name,
            "file": case.file,
            "line": case.line,
            "request": outcome.request,
            "passed": outcome.failure.is_none(),
            "expected": case.expected.to_string(),
        });
        if let (Some(value), Some(explanation)) = (value.as_object_mut(), &outcome.failure) {
            value.insert("found".into(), testing::found(explanation).to_string().into());
            value.insert("explanation".into(), explanation_json(explanation));
        }
        Some(value)
    });
    let (passed, failed) = report.counts();
    let mut value = json!({ "passed": passed, "failed": failed, "outcomes": outcomes.collect::<Vec<_>>() });
    if let (Some(value), Some(coverage)) = (value.as_object_mut(), coverage) {
        let unexercised: Vec<Value> = report.unexercised(policy).map(|rule| rule_json(&rule)).collect();
        value.insert(
            "coverage".into(),
            json!({
                "rules": coverage.written.rules,
                "exercised": coverage.written.exercised,
                "percent": coverage.percent(),
                "unexercised": unexercised,
                "presets_and_lists": { "rules": coverage.named.rules, "exercised": coverage.named.exercised },
            }),
        );
    }
    value
}
