//! Any text as a request in words is a request that is said again as itself, or an error that can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy_compiler::request::{Asked, parse_address, parse_resolution};

fuzz_target!(|text: &str| {
    for asked in [Asked::parse(text), Asked::tunnel(text)] {
        match asked {
            Ok(asked) => {
                let said = asked.to_string();
                let again = Asked::parse(&said).unwrap_or_else(|error| panic!("{said:?}: {error}"));
                assert_eq!(again.to_string(), said, "{text:?}");
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    let _ = (parse_resolution(text).is_ok(), parse_address(text).is_ok());
});
