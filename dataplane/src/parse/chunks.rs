//! Chunked bodies (RFC 9112, section 7.1), and the trailers behind them: read by the rules of heads in `http.rs`.

use super::forwarding;
use super::http::scan::END_TO_END;
use super::http::{FEW, check_lines, head_end, is, parse_error, room, trim};

/// A chunked body read piece by piece (RFC 9112, section 7.1): sizes are checked, extensions are dropped.
#[derive(Debug)]
pub struct Chunks {
    state: ChunkState,
    /// Bytes of trailers that may still come.
    trailer_room: usize,
    /// Bytes of framing beyond what honest chunks have.
    waste: u64,
}

#[derive(Debug, Clone, Copy)]
enum ChunkState {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// A piece of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    /// That many bytes at the front of the buffer are data.
    Data(usize),
    /// That many bytes at the front of the buffer are framing: skip them.
    Skip(usize),
    /// That many bytes at the front of the buffer are the trailers, their empty line included; the body ends with them.
    End(usize),
    /// More bytes are needed.
    More,
}

/// What is wrong with trailers of more bytes than there is room for.
pub(crate) const LONG_TRAILERS: &str = "trailers that are too long";
/// Bytes of a chunk's size line, extensions included.
const MAX_CHUNK_LINE: usize = 1024;
/// Bytes of a size line that cost nothing: digits, and a short extension.
const FREE_CHUNK_LINE: u64 = 16;
/// Bytes of size lines beyond that, and beyond twice what the chunks hold: tiny chunks with long extensions move nothing and cost everybody.
const MAX_CHUNK_WASTE: u64 = 16 * 1024;

impl Chunks {
    /// A body of which nothing was read, and of whose trailers at most `trailer_room` bytes will be.
    #[must_use]
    pub fn new(trailer_room: usize) -> Self {
        Self { state: ChunkState::Size, trailer_room, waste: 0 }
    }

    /// What is at the front of `buffer`.
    ///
    /// # Errors
    /// A line that says what is wrong.
    pub fn next(&mut self, buffer: &[u8]) -> Result<Chunk, &'static str> {
        match self.state {
            ChunkState::Size => {
                let Some(end) = line_end(buffer, MAX_CHUNK_LINE)? else { return Ok(Chunk::More) };
                let size = parse_chunk_size(buffer.get(..end).unwrap_or_default())?;
                self.waste = (self.waste + end as u64).saturating_sub(FREE_CHUNK_LINE).saturating_sub(size.saturating_mul(2));
                if self.waste > MAX_CHUNK_WASTE {
                    return Err("chunks with too little in them for what stands around them");
                }
                self.state = if size == 0 { ChunkState::Trailers } else { ChunkState::Data(size) };
                Ok(Chunk::Skip(end + 2))
            }
            ChunkState::Data(left) => {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                if take == 0 {
                    return Ok(Chunk::More);
                }
                let left = left - take as u64;
                self.state = if left == 0 { ChunkState::DataEnd } else { ChunkState::Data(left) };
                Ok(Chunk::Data(take))
            }
            ChunkState::DataEnd => match buffer {
                [b'\r', b'\n', ..] => {
                    self.state = ChunkState::Size;
                    Ok(Chunk::Skip(2))
                }
                [] | [b'\r'] => Ok(Chunk::More),
                _ => Err("a chunk that does not end where its size says"),
            },
            ChunkState::Trailers => {
                match buffer {
                    [b'\r', b'\n', ..] => {
                        self.state = ChunkState::Done;
                        return Ok(Chunk::End(2));
                    }
                    [] | [b'\r'] => return Ok(Chunk::More),
                    _ => {}
                }
                match head_end(buffer, 0) {
                    Some(end) if end <= self.trailer_room => {
                        self.state = ChunkState::Done;
                        Ok(Chunk::End(end))
                    }
                    None if buffer.len() < self.trailer_room => Ok(Chunk::More),
                    _ => Err(LONG_TRAILERS),
                }
            }
            ChunkState::Done => Ok(Chunk::End(0)),
        }
    }
}

/// Where the line at the front ends, before its CR LF.
fn line_end(buffer: &[u8], max: usize) -> Result<Option<usize>, &'static str> {
    match memchr::memchr2(b'\r', b'\n', buffer) {
        Some(at) if at > max => Err("a chunk size line that is too long"),
        Some(at) => match buffer.get(at..at + 2) {
            Some(b"\r\n") => Ok(Some(at)),
            None if buffer.get(at) == Some(&b'\r') => Ok(None),
            _ => Err("a chunk size line with a bare CR or LF"),
        },
        None if buffer.len() > max => Err("a chunk size line that is too long"),
        None => Ok(None),
    }
}

/// Hexadecimal digits only, then possibly an extension, which nobody here understands and which is therefore not passed on.
fn parse_chunk_size(line: &[u8]) -> Result<u64, &'static str> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, extension) = line.split_at_checked(end).unwrap_or((line, &[]));
    if digits.is_empty() || digits.len() > 16 {
        return Err("a chunk size that is not a number, or out of range");
    }
    match trim(extension) {
        [] if extension.is_empty() => {}
        [b';', rest @ ..] if rest.iter().all(|byte| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t')) => {}
        _ => return Err("a chunk size with something behind it"),
    }
    let digits = std::str::from_utf8(digits).map_err(|_| "a chunk size that is not a number")?;
    let size = u64::from_str_radix(digits, 16).map_err(|_| "a chunk size out of range")?;
    // What cannot be added to without wrapping cannot be counted by those behind us.
    if size > i64::MAX as u64 { Err("a chunk size out of range") } else { Ok(size) }
}

/// Fields that have done their work, or harm, by the time a body has ended, beside [`END_TO_END`]: framing, routing, authority, what the body is, and what may be done with it.
const NO_TRAILERS: &[&str] = &[
    "content_length",
    "transfer_encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "www-authenticate",
    "age",
    "expires",
    "vary",
    "location",
    "x-unix-socket",
];

/// Whether a field may be passed on behind a body.
pub(crate) fn may_trail(name: &str) -> bool {
    // Whatever follows: also with the underscores that some servers take for hyphens.
    let proxys_own = name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("proxy"));
    !(proxys_own || END_TO_END.iter().chain(NO_TRAILERS).any(|other| is(name, other)) || forwarding::tells_the_client(name))
}

/// The trailer fields that may be passed on: no framing, routing or authority (RFC 9110, section 6.5.1).
pub(crate) fn write_trailers(trailers: &[u8], max_fields: usize, out: &mut Vec<u8>) -> Result<(), &'static str> {
    let line_count = check_lines(trailers).map_err(|bad| bad.message)?;
    let (mut few, mut many) = ([httparse::EMPTY_HEADER; FEW], Vec::new());
    let headers = match httparse::parse_headers(trailers, room(line_count, max_fields, &mut few, &mut many))
        .map_err(|error| parse_error(error).message)?
    {
        httparse::Status::Complete((len, headers)) if len == trailers.len() => headers,
        _ => return Err("the trailers are incomplete"),
    };
    for header in headers {
        let name = header.name;
        if !may_trail(name) {
            continue;
        }
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(trim(header.value));
        out.extend_from_slice(b"\r\n");
    }
    Ok(())
}
