//! A pattern shown is the same pattern, and an error points into the text that was wrong.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy_format::Pattern;

fuzz_target!(|text: &str| {
    match Pattern::parse(text) {
        Ok(pattern) => assert_eq!(Pattern::parse(&pattern.to_string()).as_ref(), Ok(&pattern), "shown as {pattern}"),
        Err(error) => assert!(text.get(error.span.clone()).is_some(), "{error:?}"),
    }
});
