//! Any text as a layer or as requirements compiles to a blob that opens and can be said in TOML again, or to diagnostics that can be shown; any text
//! as a test file is cases, or diagnostics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy_compiler::decompile::{DecompileError, decompile};
use policy_compiler::diagnostic::render;
use policy_compiler::source::{Role, SourceFile, SourceId};
use policy_compiler::{Options, compile, testing};
use policy_format::{Blob, Layer};

const USER: &str = "default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\ndomains = { \"**.a.test\" = \"allow\" }\n";

fn run(sources: Vec<SourceFile>) -> Option<Blob<Vec<u8>>> {
    let (sources, diagnostics, blob) = match compile(sources, Options::default()) {
        Ok(compiled) => (compiled.sources, compiled.diagnostics, Some(compiled.blob)),
        Err(failure) => {
            assert!(!failure.diagnostics.is_empty(), "refused without a word");
            (failure.sources, failure.diagnostics, None)
        }
    };
    let _ = (render(&sources, &diagnostics, false), render(&sources, &diagnostics, true));
    blob.map(|blob| Blob::open(blob).expect("what was compiled opens"))
}

fuzz_target!(|text: &str| {
    // Lists are files, and files of this machine are no input.
    if text.contains("domain_lists") {
        return;
    }
    let source = |layer, role, text: &str| SourceFile::from_text(layer, role, "config.toml", text.to_owned());
    let alone = run(vec![source(Layer::User, Role::Config, text)]);
    let under = run(vec![source(Layer::Managed, Role::Requirements, text), source(Layer::User, Role::Config, USER)]);
    let over = run(vec![source(Layer::User, Role::Config, USER), source(Layer::Project, Role::Config, text)]);
    for blob in [alone, under, over].into_iter().flatten() {
        match decompile(&blob) {
            Ok(text) => assert!(run(vec![source(Layer::User, Role::Config, &text)]).is_some(), "what was said does not compile:\n{text}"),
            Err(DecompileError::Conflict { .. } | DecompileError::TooManyPorts(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let tests = [source(Layer::Project, Role::Config, text)];
    let mut diagnostics = Vec::new();
    testing::read(SourceId(0), &tests, &mut diagnostics);
    let _ = render(&tests, &diagnostics, false);
});
