//! Any audit log is read to its end: every decision of it is counted once, whatever becomes of it, and a log that is whole is a segment.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy_compiler::profiles::Profile;
use policy_compiler::replay::{Line, Options, Replayer, parse};
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::verify::{self, Verifier};
use policy_format::{Blob, Layer, ProfileId};
use std::sync::LazyLock;

const POLICY: &str = r#"
default_permissions = "w"
[permissions.w.network]
enabled = true
domains = { "a.test" = "allow", "b.test" = "read-only", "**.c.test" = "deny", "d.test" = { access = "allow", paths = ["/v1/"] }, "10.0.0.0/8" = "deny" }
"#;

static ASKED: LazyLock<Blob<Vec<u8>>> = LazyLock::new(|| {
    let source = SourceFile::from_text(Layer::User, Role::Config, "config.toml", POLICY.to_owned());
    let compiled = policy_compiler::compile(vec![source], policy_compiler::Options::default()).expect("it compiles");
    Blob::open(compiled.blob).expect("what is compiled can be opened")
});

fuzz_target!(|log: &[u8]| {
    let decisions = log.split(|byte| *byte == b'\n').filter(|line| matches!(parse(line), Ok(Line::Decision(_)))).count() as u64;
    let mut replayer = Replayer::new(Profile::new(&ASKED, ProfileId::default()), Options::default());
    replayer.read("log", log).expect("memory can be read");
    let found = replayer.finish();
    assert_eq!(found.decisions, decisions);
    let changed: u64 = found.changes.iter().map(|change| change.count).sum();
    assert_eq!(changed + found.unlisted, found.opened + found.closed);
    let unknown: u64 = found.unknown.iter().map(|(_, count)| count).sum();
    assert!(found.opened + found.closed + found.otherwise + found.asked_again + found.asked_no_more + unknown <= decisions);
    assert!(!found.render(3).is_empty());

    let mut verifier = Verifier::new(verify::Options::default());
    verifier.read("log", true, log).expect("memory can be read");
    let verified = verifier.finish();
    assert!(!verified.is_whole() || verified.segments[0].number.is_some());
});
