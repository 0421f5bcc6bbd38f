//! Heads are found wherever the search was left, and a request head that is accepted has neither a NUL nor a CR or LF on its own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netproxy::parse::http::{head_end, leading_blank, parse_request, parse_response};

const MAX_FIELDS: usize = 32;

fuzz_target!(|data: &[u8]| {
    check(data);
    let data = &data[leading_blank(data)..];
    if let Some(end) = head_end(data, 0) {
        for from in [1, end / 2, end - 1] {
            assert_eq!(head_end(data, from), Some(end), "searched from {from}");
        }
        check(&data[..end]);
    }
});

fn check(head: &[u8]) {
    for method in ["GET", "HEAD"] {
        let _ = parse_response(head, method, MAX_FIELDS);
    }
    if parse_request(head, MAX_FIELDS).is_ok() {
        let blank = head.iter().take_while(|byte| b"\r\n".contains(byte)).count();
        assert_eq!(head_end(&head[blank..], 0), Some(head.len() - blank), "more than a head");
        assert!(!head.contains(&0), "a NUL");
        let pairs = head.windows(2).filter(|pair| pair == b"\r\n").count();
        for half in *b"\r\n" {
            assert_eq!(head.iter().filter(|byte| **byte == half).count(), pairs, "{half:#x} alone");
        }
    }
}
