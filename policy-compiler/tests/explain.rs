//! What `explain` says, to the letter, and that every edit that it proposes was worth proposing.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::explain::{Subject, explain};
use policy_compiler::request::{Asked, parse_address};
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options, compile};
use policy_format::{Blob, Layer};
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// `# == LAYER FILE` starts a layer (`requirements.toml` is one of requirements), `# ? REQUEST [= ADDRESS…]` asks.
fn read(text: &str) -> (Vec<SourceFile>, Vec<(String, Vec<IpAddr>)>) {
    let (mut sources, mut questions) = (Vec::new(), Vec::new());
    let (head, rest) = text.split_once("# == ").unwrap();
    for line in head.lines() {
        let question = line.strip_prefix("# ? ").unwrap();
        let (request, addresses) = question.split_once(" = ").unwrap_or((question, ""));
        questions.push((request.to_owned(), addresses.split_whitespace().map(|text| parse_address(text).unwrap()).collect()));
    }
    for part in rest.split("# == ") {
        let (head, body) = part.split_once('\n').unwrap();
        let (layer, label) = head.split_once(' ').unwrap();
        let layer =
            [Layer::Mdm, Layer::Managed, Layer::Cli, Layer::User, Layer::Project].into_iter().find(|l| l.as_str() == layer).unwrap();
        let role = if label == "requirements.toml" { Role::Requirements } else { Role::Config };
        sources.push(SourceFile::from_text(layer, role, label, body.to_owned()));
    }
    (sources, questions)
}

fn answers(text: &str) -> String {
    let (sources, questions) = read(text);
    let compiled = compile(sources, Options::default()).unwrap_or_else(|failure| panic!("{failure}"));
    let policy = || Blob::open(compiled.blob.clone()).unwrap();
    let with_layers = Subject::with_layers(policy(), compiled.sources.clone(), None);
    let bare = Subject::bare(policy());
    let mut said = String::new();
    for (request, addresses) in questions {
        let asked = Asked::parse(&request).unwrap();
        let resolved = if addresses.is_empty() { String::new() } else { format!(" = {addresses:?}") };
        writeln!(said, "? {request}{resolved}\n{}", explain(&with_layers, &asked, &addresses)).unwrap();
        writeln!(said, "-- from the policy alone\n{}", explain(&bare, &asked, &addresses)).unwrap();
    }
    said
}

/// `BLESS=1` writes the expected answers anew.
#[test]
fn answers_are_exactly_these() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explain");
    let mut cases = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let said = answers(&fs::read_to_string(&file).unwrap());
        let expected = file.with_extension("expected");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &said).unwrap();
        }
        assert_eq!(said, fs::read_to_string(&expected).unwrap(), "{}", file.display());
        cases += 1;
    }
    assert_eq!(cases, 13);
}
