//! What a tunnel's first bytes say does not depend on how they arrive, and does not change when more come; nor does how a hello is cut into records. Nothing that a forgiving server of
//! HTTP takes for a request passes as something else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netproxy::parse::look::{Look, look};

const MAX_FIELDS: usize = 32;

fuzz_target!(|data: &[u8]| {
    let [port, size, data @ ..] = data else { return };
    let port = if port & 1 == 0 { 80 } else { 443 };
    let whole = look(data, port, MAX_FIELDS);
    let mut early = Look::More;
    for end in 0..=data.len() {
        let now = look(&data[..end], port, MAX_FIELDS);
        assert!(early == Look::More || early == now, "{early:?}, and after {end} bytes {now:?}");
        early = now;
    }
    assert_eq!(early, whole);
    assert!(port != 80 || whole != Look::Opaque || !is_request(data), "a request");
    // Any bytes as the content of records: cut in one way or another, they are the same hello.
    let records = |size: usize| -> Vec<u8> {
        let record = |content: &[u8]| [&[22, 3, 3, 0, content.len() as u8], content].concat();
        data.chunks(size).flat_map(record).collect()
    };
    let cut = |size| match look(&records(size), port, MAX_FIELDS) {
        // What is behind a hello may lie in its own record or in the next one.
        Look::Malformed("a ClientHello with something behind it") => None,
        look => Some(look),
    };
    if let (Some(one), Some(other)) = (cut(1 + usize::from(*size) % 255), cut(255)) {
        assert_eq!(one, other);
    }
});

/// Reads a line as forgiving servers do: words between white space, of which the first is a method and the last begins with the name of the protocol.
fn is_request(bytes: &[u8]) -> bool {
    let Some(line) = bytes.trim_ascii_start().split_inclusive(|byte| *byte == b'\n').next().and_then(|line| line.strip_suffix(b"\n"))
    else {
        return false;
    };
    let mut words = line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    let (Some(method), Some(protocol)) = (words.next(), words.next_back()) else { return false };
    let is_named = protocol.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"http/"));
    is_named && method.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}
