//! From the bytes of a file to the bytes of its text.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

const BUFFER: usize = 64 << 10;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Plain,
    Gzip,
    Xz,
    Zstd,
}

impl Encoding {
    /// By the extension of its name.
    pub(super) fn of(path: &Path) -> Self {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        match extension.to_ascii_lowercase().as_str() {
            "gz" => Self::Gzip,
            "xz" => Self::Xz,
            "zst" | "zstd" => Self::Zstd,
            _ => Self::Plain,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain text",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    /// The text of `source`, unless this program cannot decompress it.
    pub(super) fn decoder(self, source: Counted) -> Option<Box<dyn BufRead>> {
        match self {
            Self::Plain => Some(Box::new(source)),
            #[cfg(feature = "lists")]
            Self::Gzip => Some(buffered(flate2::bufread::MultiGzDecoder::new(source))),
            #[cfg(feature = "lists")]
            Self::Xz => {
                let limit = u32::try_from(super::MAX_WINDOW >> 10).unwrap_or(u32::MAX);
                Some(buffered(lzma_rust2::XzReader::new_mem_limit(source, true, limit.saturating_add(XZ_OVERHEAD_KIB))))
            }
            #[cfg(feature = "lists")]
            Self::Zstd => Some(buffered(zstd::Frames::new(source))),
            #[cfg(not(feature = "lists"))]
            Self::Gzip | Self::Xz | Self::Zstd => None,
        }
    }
}

/// What an xz decoder needs beside its dictionary, in KiB.
#[cfg(feature = "lists")]
const XZ_OVERHEAD_KIB: u32 = 1024;

#[cfg(feature = "lists")]
fn buffered(decoder: impl Read + 'static) -> Box<dyn BufRead> {
    Box::new(BufReader::with_capacity(BUFFER, decoder))
}

/// A file whose bytes are counted as they are used, not as they are read ahead.
pub(super) struct Counted {
    file: BufReader<File>,
    used: Rc<Cell<u64>>,
}

impl Counted {
    pub(super) fn new(file: File, used: Rc<Cell<u64>>) -> Self {
        Self { file: BufReader::with_capacity(BUFFER, file), used }
    }

    fn count(&self, bytes: usize) {
        self.used.set(self.used.get() + bytes as u64);
    }
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(into)?;
        self.count(bytes);
        Ok(bytes)
    }
}

impl BufRead for Counted {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.file.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.file.consume(bytes);
        self.count(bytes);
    }
}

#[cfg(feature = "lists")]
mod zstd {
    use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
    use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
    use std::io::{self, BufRead, Read};

    /// The text of all frames of a file, one after the other. The crate reads one frame and leaves its checksum to the caller.
    pub(super) struct Frames<R> {
        source: R,
        decoder: FrameDecoder,
        /// Whether a frame was begun and not yet left.
        inside: bool,
        /// Whether there was any frame.
        any: bool,
    }

    impl<R: BufRead> Frames<R> {
        pub(super) fn new(source: R) -> Self {
            let mut decoder = FrameDecoder::new();
            decoder.set_max_window_size(super::super::MAX_WINDOW);
            Self { source, decoder, inside: false, any: false }
        }

        /// Begins the next frame; false at the end of the file.
        fn enter(&mut self) -> io::Result<bool> {
            loop {
                if self.any && self.source.fill_buf()?.is_empty() {
                    return Ok(false);
                }
                self.any = true;
                match self.decoder.reset(&mut self.source) {
                    Ok(()) => {
                        self.inside = true;
                        return Ok(true);
                    }
                    Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                        let length = u64::from(length);
                        if io::copy(&mut self.source.by_ref().take(length), &mut io::sink())? != length {
                            return Err(io::ErrorKind::UnexpectedEof.into());
                        }
                    }
                    Err(error) => return Err(io::Error::other(error)),
                }
            }
        }

        /// Leaves a frame whose text was all given.
        fn leave(&mut self) -> io::Result<()> {
            self.inside = false;
            let written = self.decoder.get_checksum_from_data();
            if written.is_some() && written != self.decoder.get_calculated_checksum() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum of the text is wrong"));
            }
            Ok(())
        }
    }

    impl<R: BufRead> Read for Frames<R> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if into.is_empty() {
                return Ok(0);
            }
            loop {
                if !self.inside && !self.enter()? {
                    return Ok(0);
                }
                while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                    self.decoder.decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1)).map_err(io::Error::other)?;
                }
                let bytes = self.decoder.read(into)?;
                if bytes > 0 {
                    return Ok(bytes);
                }
                self.leave()?;
            }
        }
    }
}
