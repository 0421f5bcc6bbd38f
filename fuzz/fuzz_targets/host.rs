//! Normalising a host that is normal already changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy_format::Host;

fuzz_target!(|text: &str| {
    if let Ok(host) = Host::parse(text) {
        assert_eq!(Host::parse(&host.to_string()).as_ref(), Ok(&host));
    }
});
