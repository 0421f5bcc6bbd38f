//! Heads are found wherever the search was left, a request head that is accepted has neither a NUL nor a CR or LF on its own, and each is read as if it were the only one, whatever
//! those before it on the same connection were.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netproxy::parse::http::{LastHead, head_end, leading_blank, parse_request, parse_response};

const MAX_FIELDS: usize = 32;

fuzz_target!(|data: &[u8]| {
    check(data);
    one_after_the_other(data);
    let data = &data[leading_blank(data)..];
    if let Some(end) = head_end(data, 0) {
        for from in [1, end / 2, end - 1] {
            assert_eq!(head_end(data, from), Some(end), "searched from {from}");
        }
        check(&data[..end]);
    }
});

fn one_after_the_other(mut data: &[u8]) {
    let mut last = LastHead::default();
    while let Some(end) = head_end(data, 0) {
        let (head, rest) = data.split_at(end);
        // As most of the time, the next one is the same but for its path, which ends where the version begins. Or the whole of it may come behind another request line.
        let words: Vec<_> = head.splitn(3, |byte| *byte == b' ').collect();
        let other = match words[..] {
            [method, target, rest] => [method, b" ", target, b"x ", rest].concat(),
            _ => Vec::new(),
        };
        let behind = [b"GET http://a.test/ HTTP/1.1\r\n", head].concat();
        for head in [head, head, &other, head, &behind, head] {
            let found = last.parse(head, MAX_FIELDS);
            assert_eq!(found, parse_request(head, MAX_FIELDS));
            if let Ok(found) = found {
                last.keep(found);
            }
        }
        data = &rest[leading_blank(rest)..];
    }
}

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
