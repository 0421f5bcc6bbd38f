//! `netpolicy audit verify`: what was done to a log is found, and named by file and line.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::verify::{Kind, Options, Verified, Verifier};
use policy_format::chain::{Chain, Found, Header, Link};
use proptest::prelude::*;
use serde_json::Value;
use std::fs;
use std::process::{Command, Output};

/// A log of segments, each with batches of events that are sealed: lines `{"a":1}`, and so on.
fn log(segments: &[&[&[&str]]]) -> Vec<String> {
    let mut previous = Link::default();
    let mut files = Vec::new();
    for (number, batches) in (1..).zip(segments) {
        let header = Header { time: "2026-01-02T03:04:05.678Z".into(), segment: number, previous, version: "0.1.0".into() };
        let mut text = format!("{header}\n");
        let mut chain = Chain::new(previous);
        chain.add(text.as_bytes(), 1);
        for batch in *batches {
            for event in *batch {
                let line = format!("{{\"event\":\"{event}\"}}\n");
                chain.add(line.as_bytes(), 1);
                text.push_str(&line);
            }
            text.push_str(&chain.seal(None));
        }
        previous = chain.last();
        files.push(text);
    }
    files
}

/// Two segments: lines 1 header, 2 a, 3 b, 4 seal, 5 c, 6 seal; and 1 header, 2 d, 3 seal.
fn two() -> Vec<String> {
    log(&[&[&["a", "b"], &["c"]], &[&["d"]], &[&["e"], &["f"]]])
}

fn verify(files: &[String], options: Options) -> Verified {
    let mut verifier = Verifier::new(options);
    for (at, text) in files.iter().enumerate() {
        verifier.read(&format!("log.{}", at + 1), at + 1 == files.len(), text.as_bytes()).unwrap();
    }
    verifier.finish()
}

/// Findings as `KIND PLACE`.
fn found(verified: &Verified) -> Vec<String> {
    let line = |line: Option<u64>| line.map_or(String::new(), |line| format!(":{line}"));
    verified.findings.iter().map(|finding| format!("{} {}{}", finding.kind.as_str(), finding.file, line(finding.line))).collect()
}

fn lines(text: &str) -> Vec<String> {
    text.split_inclusive('\n').map(str::to_owned).collect()
}

#[test]
fn a_log_that_was_left_alone_is_whole() {
    let verified = verify(&two(), Options::default());
    assert!(verified.is_whole() && verified.findings.is_empty(), "{:?}", verified.findings);
    let shown: Vec<_> = verified.segments.iter().map(|segment| (segment.number, segment.lines, segment.seals)).collect();
    assert_eq!(shown, [(Some(1), 6, 2), (Some(2), 3, 1), (Some(3), 5, 2)]);
    // In its midst, or only begun, it is whole as far as it goes.
    let rest = verify(&two()[1..], Options::default());
    assert!(rest.is_whole());
    assert_eq!(found(&rest), ["begins log.1:1"]);
    let begun = verify(&[lines(&two()[0])[0].clone()], Options::default());
    assert!(begun.is_whole() && begun.findings.is_empty());
}

#[test]
fn what_was_done_is_named_by_file_and_line() {
    type Edit = fn(&mut Vec<String>);
    fn edit(files: &mut [String], at: usize, change: impl Fn(&mut Vec<String>)) {
        let mut of_it = lines(&files[at]);
        change(&mut of_it);
        files[at] = of_it.concat();
    }
    let cases: [(&str, Edit, &[&str], &str); 18] = [
        ("a line is changed", |files| files[0] = files[0].replace("\"b\"", "\"x\""), &["changed log.1:4"], "a line was changed"),
        (
            "a line is changed, and what follows is as it was",
            |files| files[0] = files[0].replace("\"c\"", "\"x\""),
            &["changed log.1:6"],
            "between line 4 and this seal",
        ),
        (
            "a line is gone",
            |files| edit(files, 0, |lines| drop(lines.remove(1))),
            &["changed log.1:3"],
            "1 line between line 1 and this seal are gone",
        ),
        (
            "two lines are put in",
            |files| edit(files, 0, |lines| (0..2).for_each(|_| lines.insert(1, "{}\n".into()))),
            &["changed log.1:6"],
            "2 lines between line 1 and this seal were put in",
        ),
        ("lines change places", |files| edit(files, 0, |lines| lines.swap(1, 2)), &["changed log.1:4"], "lines changed places"),
        ("a seal is gone", |files| edit(files, 0, |lines| drop(lines.remove(3))), &["changed log.1:5"], "are gone"),
        (
            "the end is cut off behind a seal",
            |files| edit(files, 0, |lines| lines.truncate(4)),
            &["joint log.2:1"],
            "one of them was cut off, changed or put in",
        ),
        (
            "the end is cut off before a seal",
            |files| edit(files, 0, |lines| lines.truncate(5)),
            &["unsealed log.1:5", "joint log.2:1"],
            "not sealed",
        ),
        (
            "the last file is cut off before a seal",
            |files| edit(files, 2, |lines| lines.truncate(4)),
            &["unsealed log.3:4"],
            "`--open` lets them pass",
        ),
        ("the last line has no end", |files| assert!(files[2].pop().is_some()), &["unsealed log.3:4"], "the last one has no end"),
        ("a segment is gone", |files| drop(files.remove(1)), &["missing log.2:1"], "segment 2 is missing between log.1 and this"),
        ("a segment is there twice", |files| files.insert(1, files[0].clone()), &["twice log.2:1"], "this is segment 1, and so is log.1"),
        (
            "segments change places",
            |files| files.swap(0, 1),
            &["begins log.1:1", "missing log.2:1", "missing log.3:1"],
            "before it is not among these files",
        ),
        (
            "a header is gone",
            |files| edit(files, 0, |lines| drop(lines.remove(0))),
            &["header log.1:1", "begins log.2:1"],
            "lines were taken away from its start",
        ),
        ("a header is changed", |files| files[1] = files[1].replacen("03:04:05", "03:04:06", 1), &["changed log.2:3"], "was changed"),
        (
            "two files are joined",
            |files| {
                let next = files.remove(1);
                files[0].push_str(&next);
            },
            &["header log.1:7", "changed log.1:9", "missing log.2:1"],
            "another file was put in here",
        ),
        (
            "a line is made to look like a seal",
            |files| edit(files, 0, |lines| lines[2] = "{\"event.name\":\"codex.network_proxy.seal\",}\n".into()),
            &["malformed log.1:3", "changed log.1:4"],
            "it was changed, or put in",
        ),
        ("a file is empty", |files| files[2].clear(), &["header log.3"], "the file is empty"),
    ];
    for (what, change, expected, words) in cases {
        let mut files = two();
        change(&mut files);
        let verified = verify(&files, Options::default());
        assert_eq!(found(&verified), expected, "{what}: {:#?}", verified.findings);
        assert!(!verified.is_whole(), "{what}");
        let said: Vec<String> = verified.findings.iter().map(ToString::to_string).collect();
        assert!(said.iter().any(|said| said.contains(words)), "{what}: {said:#?}");
    }
}

#[test]
fn what_is_not_sealed_yet_is_no_fault_where_the_log_is_being_written() {
    let mut files = two();
    files[2].push_str("{\"event\":\"g\"}\n{\"eve");
    let open = Options { open: true, ..Options::default() };
    assert_eq!(found(&verify(&files, Options::default())), ["unsealed log.3:6"]);
    let verified = verify(&files, open.clone());
    assert!(verified.is_whole());
    assert_eq!(found(&verified), ["open log.3:6"]);
    // Of a file that another follows it is one.
    files[0].push_str("{}\n");
    assert_eq!(found(&verify(&files, open)), ["unsealed log.1:7", "open log.3:6"]);
}

#[test]
fn what_was_sealed_after_a_crash_is_said() {
    let text = &log(&[&[&["a"]]])[0];
    let mut chain = Chain::resume(verify(std::slice::from_ref(text), Options::default()).segments[0].last, 3);
    chain.add(b"{}\n", 1);
    let verified = verify(&[format!("{text}{{}}\n{}", chain.seal(Some(Found { unsealed: 1, torn: 7 })))], Options::default());
    assert!(verified.is_whole());
    assert_eq!(found(&verified), ["recovered log.1:5"]);
    assert!(verified.findings[0].message.contains("1 line before this line were found without a seal"));
}

#[test]
fn a_hash_that_was_noted_holds_for_all_before_it() {
    let whole = verify(&two(), Options::default());
    let noted = whole.segments.iter().map(|segment| segment.last).collect();
    let options = Options { noted, ..Options::default() };
    assert!(verify(&two(), options.clone()).is_whole());
    // Whoever writes the whole chain anew makes a log that is whole by itself.
    let anew = log(&[&[&["a", "x"], &["c"]], &[&["d"]], &[&["e"], &["f"]]]);
    assert!(verify(&anew, Options::default()).is_whole());
    assert_eq!(found(&verify(&anew, options.clone())), ["not-seen ", "not-seen ", "not-seen "]);
    assert_eq!(found(&verify(&two()[..2], options)), ["not-seen "]);
}

#[test]
fn few_of_many_findings_are_said_and_the_rest_is_counted() {
    let batch: &[&str] = &["a"];
    let batches = vec![batch; 150];
    let text = log(&[&batches])[0].replace("\"a\"", "\"b\"");
    let verified = verify(&[text], Options::default());
    assert_eq!((verified.findings.len(), verified.more), (100, 50));
    assert!(!verified.is_whole());
}

proptest! {
    #[test]
    fn no_change_of_a_byte_is_missed(file in 0..3_usize, place in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut files: Vec<Vec<u8>> = two().into_iter().map(String::into_bytes).collect();
        let place = place.index(files[file].len());
        prop_assume!(files[file][place] != to);
        files[file][place] = to;
        let mut verifier = Verifier::new(Options::default());
        for (at, bytes) in files.iter().enumerate() {
            verifier.read("log", at == 2, bytes.as_slice()).unwrap();
        }
        let verified = verifier.finish();
        prop_assert!(verified.findings.iter().any(|finding| finding.kind.is_wrong() && finding.kind != Kind::NotSeen), "{}", place);
    }

    #[test]
    fn nothing_panics(files in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
        let mut verifier = Verifier::new(Options::default());
        for bytes in &files {
            verifier.read("log", false, bytes.as_slice()).unwrap();
        }
        let _ = verifier.finish();
    }
}

fn netpolicy(dir: &tempfile::TempDir, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netpolicy")).args(arguments).current_dir(dir.path()).output().unwrap()
}

#[test]
fn the_command_puts_files_in_order_and_says_what_it_found() {
    let dir = tempfile::tempdir().unwrap();
    let files = two();
    for (name, text) in ["audit.jsonl.1", "audit.jsonl.2", "audit.jsonl"].iter().zip(&files) {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let all = ["audit", "verify", "audit.jsonl", "audit.jsonl.2", "audit.jsonl.1"];
    let output = netpolicy(&dir, &all);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let last = verify(&files, Options::default()).segments[2].last;
    assert!(text.starts_with("audit.jsonl.1: segment 1, 6 lines, 2 seals\n"), "{text}");
    assert!(text.ends_with(&format!("whole, up to the hash {last}\n")), "{text}");
    assert_eq!(netpolicy(&dir, &[&all[..], &["--noted", &last.to_string()]].concat()).status.code(), Some(0));
    let other = Link([1; 32]).to_string();
    assert_eq!(netpolicy(&dir, &[&all[..], &["--noted", &other]].concat()).status.code(), Some(1));

    fs::write(dir.path().join("audit.jsonl.2"), files[1].replace("\"d\"", "\"x\"")).unwrap();
    let output = netpolicy(&dir, &[&all[..], &["--json"]].concat());
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!((&said["whole"], &said["findings"][0]["kind"], &said["findings"][0]["line"]), (&false.into(), &"changed".into(), &3.into()));
    assert_eq!((&said["findings"][0]["file"], said["segments"].as_array().unwrap().len()), (&"audit.jsonl.2".into(), 3));

    for wrong in
        [&["audit", "verify"][..], &["audit", "verify", "none.jsonl"], &["audit", "verify", "--noted", "x", "audit.jsonl"], &["audit"]]
    {
        assert_eq!(netpolicy(&dir, wrong).status.code(), Some(2), "{wrong:?}");
    }
}
