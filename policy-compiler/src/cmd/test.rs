//! `netpolicy test`.

use super::explain::explanation_json;
use super::{color, fail, rule_json, say, say_rendered, stream, stream_text, subject};
use crate::cli::Test;
use policy_compiler::explain::describe;
use policy_compiler::source::{Role, SourceFile, SourceId};
use policy_compiler::testing::{self, Case, Report};
use policy_compiler::{Layer, diagnostic};
use policy_format::Blob;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Bytes that a test file may have.
const MAX_TESTS: u64 = 64 << 20;
/// Rules without a test that are listed; JSON has them all.
const MAX_LISTED: usize = 50;

pub(crate) fn run(arguments: Test) -> ExitCode {
    let cases = match read_cases(&arguments) {
        Ok(cases) => cases,
        Err(code) => return code,
    };
    let subject = match subject(arguments.subject) {
        Ok(subject) => subject,
        Err(code) => return code,
    };
    let report = testing::run(&subject, &cases);
    if let Some(path) = &arguments.junit
        && let Err(error) = std::fs::write(path, report.junit(&cases))
    {
        return fail(format_args!("cannot write `{}`: {error}", path.display()));
    }
    let policy = subject.policy();
    let too_little = arguments.fail_under.filter(|percent| report.coverage(policy) < f64::from(*percent));
    let code = ExitCode::from(u8::from(report.counts().1 > 0 || too_little.is_some()));
    let coverage = arguments.coverage || arguments.fail_under.is_some();
    let printed = match arguments.json {
        true => stream(code, |out| writeln!(out, "{}", report_json(&report, &cases, policy, coverage))),
        false => stream_text(code, |out| write_report(out, &report, &cases, policy, coverage)),
    };
    if let Some(percent) = too_little {
        say(format_args!("the tests exercise {:.1} % of the rules, less than the {percent} % of `--fail-under`", report.coverage(policy)));
    }
    printed
}

fn read_cases(arguments: &Test) -> Result<Vec<Case>, ExitCode> {
    let mut files: Vec<PathBuf> = arguments.files.iter().chain(&arguments.tests).cloned().collect();
    if files.is_empty() {
        files = default_files(arguments);
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
        say_rendered(&diagnostic::render(&sources, &diagnostics, color()));
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

/// `policy.test.toml` beside what is named, and in the project's folder when nothing is.
fn default_files(arguments: &Test) -> Vec<PathBuf> {
    let beside = |path: &PathBuf| path.parent().unwrap_or(Path::new("")).join("policy.test.toml");
    let mut files: Vec<PathBuf> = arguments.subject.policy.iter().chain(arguments.subject.layers.files()).map(beside).collect();
    files.push(PathBuf::from(".codex/policy.test.toml"));
    files.retain(|file| file.is_file());
    files.dedup();
    files
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

fn write_report(out: &mut dyn Write, report: &Report, cases: &[Case], policy: &Blob<Vec<u8>>, coverage: bool) -> io::Result<()> {
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
    if coverage {
        let unexercised = policy.rule_count() as usize - report.exercised.len();
        writeln!(out, "coverage: {:.1} % of {} rules", report.coverage(policy), policy.rule_count())?;
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

fn report_json(report: &Report, cases: &[Case], policy: &Blob<Vec<u8>>, coverage: bool) -> Value {
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
    if let Some(value) = value.as_object_mut().filter(|_| coverage) {
        let unexercised: Vec<Value> = report.unexercised(policy).map(|rule| rule_json(&rule)).collect();
        value.insert(
            "coverage".into(),
            json!({ "rules": policy.rule_count(), "exercised": report.exercised.len(), "percent": report.coverage(policy), "unexercised": unexercised }),
        );
    }
    value
}
