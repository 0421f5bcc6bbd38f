//! Any file is certificates or an error with a line of it; what is found is in it once more as it was, and each can be asked what it says.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use netproxy::tls::pem::certificates;
use netproxy::tls::x509::Certificate;

fuzz_target!(|file: &[u8]| {
    let found = match certificates(file) {
        Ok(found) => found,
        Err(error) => {
            let lines = file.split(|byte| *byte == b'\n').count();
            assert!((1..=lines).contains(&error.line), "{error}: {lines} lines");
            return;
        }
    };
    let mut again = String::new();
    for der in &found {
        assert!(der.len() <= file.len(), "more than there is");
        let _ = Certificate::read(der);
        again.extend(["-----BEGIN CERTIFICATE-----\r\n", &STANDARD.encode(der), "\r\n-----END CERTIFICATE-----\r\n"]);
    }
    assert_eq!(certificates(again.as_bytes()).as_ref(), Ok(&found));
});
