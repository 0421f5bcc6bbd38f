//! What a tunnel's first bytes say does not depend on how they arrive, and does not change when more come; nor does how a hello is cut into records. Nothing that a forgiving server of
//! HTTP takes for a request passes as something else. A second hello is found behind the first, in the same place and with the same name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netproxy::parse::look::{Look, OddLine, look};

const MAX_FIELDS: usize = 32;

fuzz_target!(|data: &[u8]| {
    let [port, size, data @ ..] = data else { return };
    let port = if port & 1 == 0 { 80 } else { 443 };
    let whole = look(data, port, MAX_FIELDS);
    let mut early = Look::More;
    for end in 0..=data.len() {
        let now = look(&data[..end], port, MAX_FIELDS);
        assert!(matches!(early, Look::More | Look::Odd) || early == now, "{early:?}, and after {end} bytes {now:?}");
        early = now;
    }
    assert_eq!(early, whole);
    assert!(port != 80 || !matches!(whole, Look::Opaque | Look::Odd) || !is_request(data), "a request");
    // What is let on piece by piece is judged as it is in one.
    let mut line = OddLine::default();
    let pieces = data.chunks(usize::from(*size).max(1)).map(|piece| line.look(piece)).find(|look| *look != Look::More);
    assert_eq!(pieces.unwrap_or(Look::More), OddLine::default().look(data));
    // Any bytes as the content of records: cut in one way or another, they are the same hello.
    let records = |size: usize| -> Vec<u8> {
        let record = |content: &[u8]| [&[22, 3, 3, 0, content.len() as u8], content].concat();
        data.chunks(size).flat_map(record).collect()
    };
    let cut = |size| match look(&records(size), port, MAX_FIELDS) {
        Look::Hello { server_name, encrypted, .. } => Some(Look::Hello { server_name, encrypted, behind: None }),
        // What is behind a hello may lie in its own record or in the next one.
        Look::Malformed("a ClientHello with something behind it") => None,
        look => Some(look),
    };
    if let (Some(one), Some(other)) = (cut(1 + usize::from(*size) % 255), cut(255)) {
        assert_eq!(one, other);
    }
    // Any bytes behind a hello.
    let pieces = usize::from(*size).max(1);
    assert_eq!(behind(data, pieces), behind(data, data.len().max(1)), "in pieces of {pieces}");
});

/// A hello that offers TLS 1.3, and early data.
const FIRST: &[u8] = b"\x16\x03\x01\x00\x38\x01\x00\x00\x34\x03\x0377777777777777777777777777777777\x00\x00\x02\x13\x01\x01\x00\x00\x09\x00\x2b\x00\x01\x00\x00\x2a\x00\x00";

/// How many bytes behind a hello go on before what is there is known, and what that is.
fn behind(bytes: &[u8], pieces: usize) -> (usize, Look) {
    let Look::Hello { behind: Some(mut behind), .. } = look(FIRST, 443, MAX_FIELDS) else { panic!("no hello") };
    assert_eq!(behind.look(FIRST), (FIRST.len(), Look::More));
    let (mut held, mut went_on) = (Vec::new(), 0);
    for piece in bytes.chunks(pieces) {
        held.extend_from_slice(piece);
        let (on, look) = behind.look(&held);
        held.drain(..on);
        went_on += on;
        if look != Look::More {
            return (went_on, look);
        }
    }
    (went_on, Look::More)
}

/// Reads a line as forgiving servers do: words between white space, of which the first is a method and the last begins with the name of the protocol.
fn is_request(bytes: &[u8]) -> bool {
    let Some(line) = bytes.trim_ascii_start().split_inclusive(|byte| *byte == b'\n').next().and_then(|line| line.strip_suffix(b"\n"))
    else {
        return false;
    };
    let mut words = line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
    let (Some(method), Some(protocol)) = (words.next(), words.next_back()) else { return false };
    let is_named = protocol.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"http/"));
    is_named && !method.is_empty()
}
