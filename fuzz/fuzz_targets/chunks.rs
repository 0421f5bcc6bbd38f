//! A chunked body reads the same however it arrives: at once, byte by byte, or in pieces of one size.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netproxy::parse::chunks::{Chunk, Chunks};

/// What was read: the data, and how it ended: the trailers, nothing yet, or what is wrong.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    data: Vec<u8>,
    end: Result<Option<Vec<u8>>, &'static str>,
}

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>, trailer_room: usize) -> Read {
    let (mut chunks, mut buffer, mut data) = (Chunks::new(trailer_room), Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match chunks.next(&buffer) {
                Ok(Chunk::Data(len)) => data.extend(take(&mut buffer, len)),
                Ok(Chunk::Skip(len)) => drop(take(&mut buffer, len)),
                Ok(Chunk::End(len)) => return Read { data, end: Ok(Some(take(&mut buffer, len))) },
                Ok(Chunk::More) => break,
                Err(error) => return Read { data, end: Err(error) },
            }
        }
    }
    Read { data, end: Ok(None) }
}

/// The first `len` bytes. None at all would be an endless loop.
fn take(buffer: &mut Vec<u8>, len: usize) -> Vec<u8> {
    assert!((1..=buffer.len()).contains(&len), "{len} of {}", buffer.len());
    buffer.drain(..len).collect()
}

fuzz_target!(|data: &[u8]| {
    let [piece, trailer_room, body @ ..] = data else { return };
    // Trailers always have room for their empty line.
    let (piece, trailer_room) = (1 + usize::from(*piece), 2 + usize::from(*trailer_room));
    let whole = read(std::iter::once(body), trailer_room);
    assert_eq!(read(body.chunks(1), trailer_room), whole, "byte by byte");
    assert_eq!(read(body.chunks(piece), trailer_room), whole, "in pieces of {piece}");
});
