#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use super::*;
use crate::audit::record::Kind;
use crate::audit::setup::Form;
use policy_format::AuditNaming;
use policy_format::chain::{ChainError, Reader};
use std::collections::BTreeMap;
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

fn spec(folder: &TempDir) -> FileSpec {
    FileSpec {
        path: folder.path().join("audit.jsonl"),
        form: Form { naming: AuditNaming::Codex, metadata: BTreeMap::new(), lossy: true },
        rotate_bytes: 0,
        rotate_age: Duration::ZERO,
        keep: 0,
        fsync: Fsync::Rotate,
        chain: true,
        backlog: 1 << 20,
        owner: None,
        waits: false,
    }
}

fn fault(what: &str) -> Event {
    Event::now(Kind::Fault(what.into()))
}

fn put(sink: &mut FileSink, what: &str) {
    sink.write(&[fault(what)]).unwrap();
    sink.flush().unwrap();
    assert_eq!(sink.pending(), 0);
}

fn text(spec: &FileSpec) -> String {
    fs::read_to_string(&spec.path).unwrap()
}

/// What is wrong with the chain of the files in the folder, and their faults.
fn read(spec: &FileSpec) -> (Vec<ChainError>, Vec<String>) {
    let files = FileSink { open: None, ..idle(spec) }.rotated();
    let (mut reader, mut wrong, mut said) = (Reader::behind(0, Link::default()), Vec::new(), Vec::new());
    for file in files.iter().chain([&spec.path]) {
        for line in fs::read_to_string(file).unwrap().lines() {
            wrong.extend(reader.line(line.as_bytes()).err());
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            said.extend(value["outcome.detail"].as_str().map(str::to_owned));
        }
        let is_new = fs::read_to_string(file).unwrap().lines().count() == 1;
        assert_eq!(reader.end_segment(), u64::from(is_new), "all is sealed, but for the header of a file that has nothing else");
    }
    (wrong, said)
}

fn idle(spec: &FileSpec) -> FileSink {
    FileSink {
        encoder: Encoder::new(&spec.form),
        spec: spec.clone(),
        open: None,
        buffer: Buffer::default(),
        count: 0,
        events: 0,
        chained: (0, 0),
        lost: 0,
        paused: None,
        rotate_again: None,
    }
}

fn close(mut sink: FileSink) {
    sink.close(Instant::now()).unwrap();
}

#[test]
fn what_is_written_is_sealed_and_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(&folder);
    for start in ["one", "two", "three"] {
        let mut sink = FileSink::open(spec.clone()).unwrap();
        put(&mut sink, start);
        put(&mut sink, &format!("{start} more"));
        close(sink);
    }
    assert_eq!(read(&spec), (vec![], ["one", "one more", "two", "two more", "three", "three more"].map(String::from).to_vec()));
    assert_eq!(text(&spec).matches(policy_format::chain::SEGMENT).count(), 1, "it is one segment");
    #[cfg(unix)]
    assert_eq!(fs::metadata(&spec.path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_crash_leaves_a_tail_that_the_next_start_seals_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(&folder);
    let mut sink = FileSink::open(spec.clone()).unwrap();
    put(&mut sink, "sealed");
    close(sink);
    let mut file = OpenOptions::new().append(true).open(&spec.path).unwrap();
    file.write_all(b"{\"outcome.detail\":\"not sealed\"}\n{\"half a li").unwrap();
    drop(file);
    let mut sink = FileSink::open(spec.clone()).unwrap();
    put(&mut sink, "after");
    close(sink);
    assert_eq!(read(&spec), (vec![], ["sealed", "not sealed", "after"].map(String::from).to_vec()));
    assert_eq!(text(&spec).matches("\"chain.unsealed\":1,\"chain.torn\":11,").count(), 1);
}

#[test]
fn a_tail_that_is_longer_than_what_is_looked_at_first_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(&folder);
    let mut sink = FileSink::open(spec.clone()).unwrap();
    put(&mut sink, "sealed");
    close(sink);
    let mut file = OpenOptions::new().append(true).open(&spec.path).unwrap();
    let line = format!("{{\"x\":\"{}\"}}\n", "y".repeat(1000));
    file.write_all(line.repeat(3000).as_bytes()).unwrap();
    file.write_all(&[b'y'; 600_000]).unwrap();
    drop(file);
    close(FileSink::open(spec.clone()).unwrap());
    assert_eq!(read(&spec).0, []);
    assert!(text(&spec).contains("\"chain.unsealed\":3000,\"chain.torn\":600000,"));
}

#[test]
fn files_are_rotated_by_size_chained_and_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let spec = FileSpec { rotate_bytes: 600, keep: 3, ..spec(&folder) };
    let mut sink = FileSink::open(spec.clone()).unwrap();
    (0..3).for_each(|number| put(&mut sink, &format!("{number} {}", "x".repeat(600))));
    assert_eq!(sink.rotated().len(), 3);
    assert_eq!(read(&spec).0, []);
    let names: Vec<String> = sink.rotated().iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    for (number, name) in names.iter().enumerate() {
        assert!(name.starts_with("audit.2") && name.ends_with(&format!("Z-{}.jsonl", number + 1)), "{name}");
    }
    (3..6).for_each(|number| put(&mut sink, &format!("{number} {}", "x".repeat(600))));
    assert_eq!(sink.rotated().len(), 3);
    // What is left follows on what was removed.
    let (wrong, said) = read(&spec);
    assert!(matches!(wrong[..], [ChainError::Segment { .. }]), "{wrong:?}");
    assert_eq!(said.len(), 3);
    close(sink);
    // A new start without a file knows where the chain is.
    fs::remove_file(&spec.path).unwrap();
    close(FileSink::open(spec.clone()).unwrap());
    assert!(text(&spec).contains("\"chain.segment\":7,"));
}

#[test]
fn small_files_stay_small_whatever_comes_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let spec = FileSpec { rotate_bytes: 4 << 10, ..spec(&folder) };
    let mut sink = FileSink::open(spec.clone()).unwrap();
    let batch: Vec<Event> = (0..200).map(|_| fault(&"x".repeat(200))).collect();
    sink.write(&batch).unwrap();
    close(sink);
    let (wrong, said) = read(&spec);
    assert_eq!((wrong, said.len()), (vec![], batch.len()));
    let sizes: Vec<u64> = idle(&spec).rotated().iter().map(|path| path.metadata().unwrap().len()).collect();
    assert!(sizes.len() > 4 && sizes.iter().all(|size| *size < 9 << 10), "{sizes:?}");
}

#[test]
fn a_file_that_is_too_old_is_rotated() {
    let folder = tempfile::tempdir().unwrap();
    let spec = FileSpec { rotate_age: Duration::from_secs(60), chain: false, ..spec(&folder) };
    let mut sink = FileSink::open(spec.clone()).unwrap();
    put(&mut sink, "young");
    assert_eq!(sink.rotated().len(), 0);
    sink.open.as_mut().unwrap().began -= 61_000;
    // What comes then is not in it any more.
    put(&mut sink, "new");
    put(&mut sink, "newer");
    assert_eq!(sink.rotated().len(), 1);
    assert_eq!(text(&spec).lines().count(), 2);
    assert!(!text(&spec).contains("young"));
}

#[test]
fn a_file_says_when_it_will_be_too_old_and_is_rotated_then_without_an_event() {
    let folder = tempfile::tempdir().unwrap();
    let spec = FileSpec { rotate_age: Duration::from_secs(60), ..spec(&folder) };
    let mut sink = FileSink::open(spec.clone()).unwrap();
    // One without events is never rotated.
    sink.open.as_mut().unwrap().began -= 61_000;
    assert_eq!(sink.due(), None);
    sink.flush().unwrap();
    assert_eq!(sink.rotated().len(), 0);
    sink.open.as_mut().unwrap().began += 61_000;
    put(&mut sink, "one");
    let left = sink.due().unwrap().duration_since(Instant::now());
    assert!(left > Duration::from_secs(30) && left <= Duration::from_secs(60), "{left:?}");
    sink.open.as_mut().unwrap().began -= 61_000;
    assert!(sink.due().unwrap() <= Instant::now());
    sink.flush().unwrap();
    assert_eq!((sink.rotated().len(), sink.due()), (1, None));
    put(&mut sink, "two");
    close(sink);
    assert_eq!(read(&spec), (vec![], ["one", "two"].map(String::from).to_vec()));
    let forever = FileSpec { rotate_age: Duration::ZERO, ..spec };
    assert_eq!(FileSink::open(forever).unwrap().due(), None);
}

#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_rotated_grows_and_that_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let spec = FileSpec { path: inner.join("audit.jsonl"), rotate_bytes: 300, ..spec(&folder) };
    let mut sink = FileSink::open(spec.clone()).unwrap();
    // The folder is gone, and with it the name; the file is not.
    fs::remove_file(&spec.path).unwrap();
    fs::remove_dir(&inner).unwrap();
    sink.write(&[fault("one")]).unwrap();
    let error = sink.flush().unwrap_err().to_string();
    assert!(error.starts_with("it cannot be rotated, and grows: "), "{error}");
    assert_eq!((sink.pending(), sink.take_lost()), (0, 0));
    sink.paused = None;
    put(&mut sink, "two");
}

#[test]
fn what_whoever_rotates_it_moved_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(&folder);
    let mut sink = FileSink::open(spec.clone()).unwrap();
    put(&mut sink, "one");
    sink.reopen().unwrap();
    put(&mut sink, "two");
    let moved = folder.path().join("audit.jsonl.1");
    fs::rename(&spec.path, &moved).unwrap();
    put(&mut sink, "three");
    sink.reopen().unwrap();
    put(&mut sink, "four");
    close(sink);
    let mut reader = Reader::behind(0, Link::default());
    let mut count = 0;
    for file in [&moved, &spec.path] {
        for line in fs::read_to_string(file).unwrap().lines() {
            reader.line(line.as_bytes()).unwrap();
            count += usize::from(line.contains("outcome.detail"));
        }
        reader.end_segment();
    }
    assert_eq!((count, fs::read_to_string(&moved).unwrap().matches("outcome.detail").count()), (4, 3));
}

/// A full disk, which every system with Linux has.
#[cfg(target_os = "linux")]
#[cfg(unix)]
#[test]
fn what_whoever_rotates_it_made_has_to_be_out_of_the_reach_of_others_too() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(&folder);
    let mut sink = FileSink::open(spec.clone()).unwrap();
    let moved = folder.path().join("audit.jsonl.1");
    fs::rename(&spec.path, &moved).unwrap();
    fs::write(&spec.path, "").unwrap();
    fs::set_permissions(&spec.path, fs::Permissions::from_mode(0o666)).unwrap();
    assert!(sink.reopen().unwrap_err().to_string().contains("can be written by others (mode 0666)"));
    // The old one goes on.
    put(&mut sink, "one");
    assert_eq!((text(&spec), fs::read_to_string(&moved).unwrap().matches("outcome.detail").count()), (String::new(), 1));
}

#[test]
fn what_cannot_be_written_is_kept_within_bounds_and_then_counted() {
    let folder = tempfile::tempdir().unwrap();
    let spec = FileSpec { backlog: 4096, chain: false, ..spec(&folder) };
    let mut sink = FileSink::open(spec.clone()).unwrap();
    let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let good = std::mem::replace(&mut sink.open.as_mut().unwrap().end, Appender::new(file, 0, Fsync::Rotate));
    let events: Vec<Event> = (0..100).map(|number| fault(&format!("{number} {}", "x".repeat(100)))).collect();
    let _ = sink.write(&events);
    assert_eq!(sink.flush().unwrap_err().to_string(), "No space left on device (os error 28)");
    assert!(!sink.has_room());
    let (kept, lost) = (sink.pending() as u64, sink.take_lost());
    assert_eq!(kept + lost, 100);
    assert!((15..40).contains(&kept), "{kept}");
    // Where nothing may be lost, what it was given is kept.
    sink.spec.form.lossy = false;
    let _ = sink.write(&events);
    assert_eq!((sink.pending() as u64, sink.take_lost()), (kept + 100, 0));
    let kept = kept + 100;
    // It is not tried again at once, and still said to fail.
    assert!(sink.flush().is_err());
    sink.open.as_mut().unwrap().end = good;
    sink.paused = None;
    sink.flush().unwrap();
    assert!(sink.has_room());
    assert_eq!((sink.pending(), sink.take_lost(), text(&spec).lines().count() as u64), (0, 0, kept));
}

#[test]
fn a_file_without_a_chain_goes_on_in_a_line_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let spec = FileSpec { chain: false, ..spec(&folder) };
    fs::write(&spec.path, "{\"a\":1}\n{\"half").unwrap();
    #[cfg(unix)]
    fs::set_permissions(&spec.path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut sink = FileSink::open(spec.clone()).unwrap();
    put(&mut sink, "one");
    let text = text(&spec);
    let lines: Vec<&str> = text.lines().collect();
    assert!(matches!(lines[..], ["{\"a\":1}", "{\"half", one] if one.starts_with("{\"event.name\"")), "{lines:?}");
    close(sink);
    // With one, it is left alone unless a proxy has begun it,
    let refused = FileSink::open(FileSpec { chain: true, ..spec.clone() }).err().unwrap();
    assert!(refused.contains("its first line is none of an audit log"), "{refused}");
    assert_eq!(fs::read_to_string(&spec.path).unwrap(), text);
    // and moved out of the way then.
    fs::write(&spec.path, lines[2]).unwrap();
    let chained = FileSpec { chain: true, ..spec };
    let mut sink = FileSink::open(chained.clone()).unwrap();
    put(&mut sink, "two");
    assert_eq!(sink.rotated().len(), 1);
    assert!(self::text(&chained).starts_with("{\"event.name\":\"codex.network_proxy.segment\","));
}

#[cfg(unix)]
#[test]
fn a_file_that_is_not_ours_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(&folder);
    let refused = |spec: &FileSpec| FileSink::open(spec.clone()).err().unwrap_or_default();
    let missing = FileSpec { path: folder.path().join("no/audit.jsonl"), ..spec.clone() };
    assert!(refused(&missing).ends_with("has no folder: make it, and give it to the user of the proxy"));
    std::os::unix::fs::symlink("/dev/null", &spec.path).unwrap();
    assert!(refused(&spec).contains("is a symbolic link"));
    fs::remove_file(&spec.path).unwrap();
    fs::create_dir(&spec.path).unwrap();
    assert!(refused(&spec).ends_with("is no regular file"));
    fs::remove_dir(&spec.path).unwrap();
    fs::write(&spec.path, "").unwrap();
    fs::set_permissions(&spec.path, fs::Permissions::from_mode(0o662)).unwrap();
    assert!(refused(&spec).contains("can be written by others (mode 0662); run `chmod 600 "));
    fs::set_permissions(&spec.path, fs::Permissions::from_mode(0o640)).unwrap();
    let sink = FileSink::open(spec.clone()).unwrap();
    assert!(refused(&spec).contains("is written by another process"));
    // Who takes over from that process waits until it has ended.
    let mut waits = FileSink::open(FileSpec { waits: true, ..spec.clone() }).unwrap();
    waits.write(&[fault("waits")]).unwrap();
    waits.flush().unwrap();
    assert_eq!(waits.pending(), 1);
    close(sink);
    waits.flush().unwrap();
    assert_eq!((waits.pending(), read(&spec)), (0, (vec![], vec!["waits".to_owned()])));
}

#[test]
fn a_file_that_was_closed_is_somebody_elses_and_opened_again_when_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(&folder);
    let mut old = FileSink::open(spec.clone()).unwrap();
    put(&mut old, "one");
    old.close(Instant::now()).unwrap();
    let mut new = FileSink::open(spec.clone()).unwrap();
    put(&mut new, "two");
    new.close(Instant::now()).unwrap();
    put(&mut old, "three");
    close(old);
    close(new);
    assert_eq!(read(&spec), (vec![], ["one", "two", "three"].map(String::from).to_vec()));
}

#[test]
fn a_batch_larger_than_the_backlog_is_written_and_not_given_up() {
    let folder = TempDir::new().unwrap();
    let spec = FileSpec { backlog: 64 << 10, ..spec(&folder) };
    let mut sink = FileSink::open(spec.clone()).unwrap();
    let long = "x".repeat(1 << 10);
    let batch: Vec<Event> = (0..400).map(|_| fault(&long)).collect();
    sink.write(&batch).unwrap();
    sink.flush().unwrap();
    assert_eq!((sink.take_lost(), sink.pending()), (0, 0));
    close(sink);
    assert_eq!(read(&spec).1.len(), batch.len());
}

/// Much of it goes past the system's cache, in pieces that have nothing to do with batches; then there is little again, files are rotated, and the log goes on after a restart.
#[test]
fn a_busy_log_is_whole() {
    let folder = TempDir::new().unwrap();
    let spec = FileSpec { rotate_bytes: 3 << 20, backlog: 64 << 20, ..spec(&folder) };
    let mut written = 0;
    for _ in 0..2 {
        let mut sink = FileSink::open(spec.clone()).unwrap();
        for round in 0..24 {
            for (events, length) in [(round, 900), (500 * (round % 4), 700), (1, 30_000)] {
                let batch: Vec<Event> = (0..events).map(|_| fault(&"x".repeat(length))).collect();
                sink.write(&batch).unwrap();
                sink.flush().unwrap();
                written += batch.len();
            }
            if round % 7 == 0 {
                sink.reopen().unwrap();
                assert_eq!(sink.pending(), 0, "what others may move away is written");
            }
        }
        close(sink);
    }
    let (wrong, said) = read(&spec);
    assert_eq!((wrong, said.len()), (vec![], written));
    assert!(idle(&spec).rotated().len() > 4);
}

#[test]
fn what_is_collected_is_written_when_there_is_no_more() {
    let folder = TempDir::new().unwrap();
    let spec = FileSpec { backlog: 64 << 20, ..spec(&folder) };
    let mut sink = FileSink::open(spec.clone()).unwrap();
    sink.open.as_mut().unwrap().end.be_patient();
    let batch: Vec<Event> = (0..300).map(|_| fault(&"x".repeat(1000))).collect();
    let mut written = 0;
    for _ in 0..4 {
        sink.write(&batch).unwrap();
        sink.flush().unwrap();
        written += batch.len();
        let (mut file, before) = (text(&spec), sink.pending());
        file.truncate(file.rfind('\n').map_or(0, |end| end + 1));
        assert_eq!(file.matches("outcome.detail").count() + before, written, "what is not in the file is pending");
    }
    // As often as the thread that writes calls it while something is left.
    let deadline = Instant::now() + Duration::from_secs(20);
    while sink.pending() > 0 {
        assert!(Instant::now() < deadline);
        sink.flush().unwrap();
    }
    assert_eq!(read(&spec).1.len(), written);
}

#[test]
fn what_is_left_is_counted_to_the_event() {
    let seal = "{\"event.name\":\"codex.network_proxy.seal\",\"chain.count\":2}\n";
    for (sealed, expected) in [
        (String::new(), 0),
        ("{}\n{}\n".to_owned(), 2),
        (format!("rest\n{{}}\n{seal}"), 2),
        (format!("{{}}\n{seal}{{}}\n{seal}"), 2),
        // Somebody has to come back for it.
        (seal.to_owned(), 1),
        ("t\":2}\n".to_owned(), 1),
    ] {
        assert_eq!(events_in(sealed.as_bytes()), expected, "{sealed}");
    }
}

#[test]
fn what_has_to_last_is_not_collected() {
    let folder = TempDir::new().unwrap();
    let spec = FileSpec { backlog: 64 << 20, fsync: Fsync::Always, ..spec(&folder) };
    let mut sink = FileSink::open(spec.clone()).unwrap();
    let batch: Vec<Event> = (0..300).map(|_| fault(&"x".repeat(1000))).collect();
    for _ in 0..3 {
        sink.write(&batch).unwrap();
        sink.flush().unwrap();
        assert_eq!(sink.pending(), 0);
    }
    assert_eq!(read(&spec).1.len(), 3 * batch.len());
}
