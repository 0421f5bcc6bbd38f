//! A log of any bytes is followed without a panic, and what is written as a log is whole; a line that is a seal or a header is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy_format::chain::{Chain, Line, Link, Reader, parse_line};

fuzz_target!(|bytes: &[u8]| {
    let mut reader = Reader::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let _ = reader.line(line);
        if let Ok(Line::Header(header)) = parse_line(line) {
            assert_eq!(header.to_string().as_bytes(), line);
        }
    }
    reader.end_segment();
    // The same lines, where they are none of the chain's, in a segment of their own.
    let header = policy_format::chain::Header { time: String::new(), segment: 1, previous: Link::default(), version: String::new() };
    let (mut chain, mut reader) = (Chain::new(Link::default()), Reader::behind(0, Link::default()));
    chain.add(format!("{header}\n").as_bytes(), 1);
    assert_eq!(reader.line(header.to_string().as_bytes()), Ok(Line::Header(header)));
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| parse_line(line) == Ok(Line::Other)) {
        chain.add(&[line, b"\n"].concat(), 1);
        assert_eq!(reader.line(line), Ok(Line::Other));
        let seal = chain.seal(None);
        assert!(matches!(reader.line(seal.trim_end().as_bytes()), Ok(Line::Seal(_))));
    }
    // The header alone is not sealed.
    assert!(reader.end_segment() <= 1);
});
