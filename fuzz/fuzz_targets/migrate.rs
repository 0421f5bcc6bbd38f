//! Any text is migrated to TOML with which there is nothing left to do, or refused; any other tool's lists become a policy that compiles, or are refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy_compiler::migrate::from::{Options as FromOptions, Tool, convert};
use policy_compiler::migrate::{Options, migrate};
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options as CompileOptions, compile};
use policy_format::Layer;

fuzz_target!(|text: &str| {
    if let Ok(once) = migrate(text, Options::default()) {
        let twice = migrate(&once.text, Options::default()).expect("what was migrated is TOML");
        assert!(!twice.changed, "migrated twice");
    }
    let read = |_: &str| Ok(String::new());
    for tool in Tool::ALL {
        let options = FromOptions { profile: None, service: None, label: "input", read: &read };
        if let Ok(converted) = convert(tool, text, options) {
            let source = SourceFile::from_text(Layer::User, Role::Config, "policy.toml", converted.text);
            compile(vec![source], CompileOptions::default()).expect("what was converted compiles");
        }
    }
});
