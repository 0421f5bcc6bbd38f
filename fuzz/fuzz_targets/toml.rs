//! Any text as a layer compiles to a blob that opens, or to diagnostics that can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy_compiler::diagnostic::render;
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options, compile};
use policy_format::{Blob, Layer};

fuzz_target!(|text: &str| {
    let source = SourceFile::from_text(Layer::User, Role::Config, "config.toml", text.to_owned());
    let (sources, diagnostics) = match compile(vec![source], Options::default()) {
        Ok(compiled) => {
            Blob::open(compiled.blob).expect("what was compiled opens");
            (compiled.sources, compiled.diagnostics)
        }
        Err(failure) => {
            assert!(!failure.diagnostics.is_empty(), "refused without a word");
            (failure.sources, failure.diagnostics)
        }
    };
    let _ = (render(&sources, &diagnostics, false), render(&sources, &diagnostics, true));
});
