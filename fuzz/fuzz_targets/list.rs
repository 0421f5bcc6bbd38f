//! Any line of a domain list, in each format, is an error or hosts that a policy can write, and never every host.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy_compiler::lists::{LineKind, ListFormat, parse_line};
use policy_format::{HostsRef, Pattern};

fuzz_target!(|line: &[u8]| {
    for format in ListFormat::ALL {
        let mut entries = 0;
        let kind = parse_line(format, line, &mut |hosts, exception| {
            entries += 1;
            assert!(!exception || format == ListFormat::Adblock, "{format:?}: an exception");
            assert_ne!(hosts, HostsRef::Any, "{format:?}: every host");
            let pattern = Pattern::parse(&hosts.to_string()).expect("what was read can be written");
            assert_eq!((HostsRef::from(&pattern.hosts), pattern.port), (hosts, None), "{format:?}");
        });
        match kind {
            Ok(LineKind::Entries) => assert!(entries > 0, "{format:?}: no entry"),
            Ok(LineKind::Skipped | LineKind::Ignored) => assert_eq!(entries, 0, "{format:?}: entries of no rule"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
});
