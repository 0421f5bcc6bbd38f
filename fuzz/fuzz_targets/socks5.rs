//! A SOCKS5 message never claims bytes that are not there, reads the same without what follows it, and a target shown is the same target.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netproxy::parse::socks5::{Parsed, parse_greeting, parse_password, parse_request};
use netproxy::parse::target::Target;
use std::fmt::Debug;

fn check<T: Debug + PartialEq>(parse: impl Fn(&[u8]) -> Parsed<T>, bytes: &[u8]) {
    let parsed = parse(bytes);
    if let Parsed::Complete(_, used) = parsed {
        assert!(used <= bytes.len(), "{used} of {}", bytes.len());
        assert_eq!(parse(&bytes[..used]), parsed);
    }
}

fuzz_target!(|data: &[u8]| {
    check(parse_greeting, data);
    check(parse_password, data);
    check(parse_request, data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    for default_port in [None, Some(80)] {
        if let Ok(target) = Target::parse(text, default_port) {
            assert_eq!(Target::parse(&target.to_string(), None).as_ref(), Ok(&target));
        }
    }
});
