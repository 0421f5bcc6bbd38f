//! The header of a SOCKS5 datagram (RFC 1928, section 7), free of sockets.
//!
//! ```text
//! both ways: 00 00 fragment type address port data
//! ```

use super::socks5::{Address, address, target};
use super::target::Target;
use std::net::{IpAddr, SocketAddr};

/// A datagram as a client sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Which piece of a longer one it is; 0 for a whole one.
    pub fragment: u8,
    /// Type, address and port, as they are written.
    pub address: &'a [u8],
    /// What is to be sent there.
    pub payload: &'a [u8],
}

impl Datagram<'_> {
    /// Where it is to go; `None` for what is no name and for port 0.
    #[must_use]
    pub fn target(&self) -> Option<Target> {
        target(self.address)
    }
}

/// Reads a datagram; `None` for what is none: cut short, of an address type that does not exist, or with something in the reserved bytes.
#[must_use]
pub fn parse_datagram(bytes: &[u8]) -> Option<Datagram<'_>> {
    let [0, 0, fragment, rest @ ..] = bytes else { return None };
    let Address::Whole(address) = address(rest) else { return None };
    Some(Datagram { fragment: *fragment, address, payload: rest.get(address.len()..)? })
}

/// The longest header of a datagram to a client.
pub const LONGEST_HEADER: usize = 3 + 1 + 16 + 2;

/// The header of a datagram to a client. It stands at the end of [`LONGEST_HEADER`] bytes, so that there is room for it before data that has been received already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    bytes: [u8; LONGEST_HEADER],
    start: usize,
}

impl From<SocketAddr> for Header {
    /// For what came from there.
    fn from(source: SocketAddr) -> Self {
        let [high, low] = source.port().to_be_bytes();
        match source.ip() {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = ip.octets();
                Self { bytes: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, a, b, c, d, high, low], start: 12 }
            }
            IpAddr::V6(ip) => {
                let mut bytes = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low];
                if let Some(octets) = bytes.get_mut(4..20) {
                    octets.copy_from_slice(&ip.octets());
                }
                Self { bytes, start: 0 }
            }
        }
    }
}

impl Header {
    /// It.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Puts it before the data that follows the first [`LONGEST_HEADER`] bytes, and gives the whole datagram.
    #[must_use]
    pub fn before<'b>(&self, buffer: &'b mut [u8]) -> &'b [u8] {
        if let Some(room) = buffer.first_chunk_mut() {
            *room = self.bytes;
        }
        buffer.get(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_headers_of_every_type_and_nothing_that_is_cut() {
        let cases: [(&[u8], &str); 12] = [
            (b"\0\0\0\x01\x7f\0\0\x01\0\x35hi", "127.0.0.1:53 0 hi"),
            (b"\0\0\0\x03\x06A.test\0\x35hi", "a.test:53 0 hi"),
            (b"\0\0\0\x03\x03::1\0\x35", "[::1]:53 0 "),
            (b"\0\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x01\0hi", "[::1]:256 0 hi"),
            (b"\0\0\x81\x01\x7f\0\0\x01\0\x35hi", "127.0.0.1:53 129 hi"),
            (b"\0\0\0\x01\x7f\0\0\x01\0\0hi", "nowhere"),
            (b"\0\0\0\x03\0\0\x35hi", "nowhere"),
            (b"\0\0\0\x03\x03a b\0\x35hi", "nowhere"),
            (b"\0\0\0\x03\x01\xff\0\x35hi", "nowhere"),
            (b"\0\x01\0\x01\x7f\0\0\x01\0\x35hi", "none"),
            (b"\0\0\0\x02\x7f\0\0\x01\0\x35hi", "none"),
            (b"", "none"),
        ];
        for (bytes, expected) in cases {
            let shown = parse_datagram(bytes).map(|datagram| match datagram.target() {
                Some(target) => format!("{target} {} {}", datagram.fragment, String::from_utf8_lossy(datagram.payload)),
                None => "nowhere".into(),
            });
            assert_eq!(shown.as_deref().unwrap_or("none"), expected, "{bytes:?}");
        }
        for whole in [cases[0].0, cases[1].0, cases[3].0] {
            let header = whole.len() - 2;
            assert!(parse_datagram(&whole[..header]).is_some_and(|datagram| datagram.payload.is_empty()), "{whole:?}");
            for len in 0..header {
                assert_eq!(parse_datagram(&whole[..len]), None, "{len} of {whole:?}");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for source in ["127.0.0.1:53", "[2001:db8::1]:65535"] {
            let header = Header::from(source.parse::<SocketAddr>().unwrap());
            let mut buffer = [&[0xff; LONGEST_HEADER][..], b"data"].concat();
            let whole = header.before(&mut buffer).to_vec();
            assert_eq!(whole, [header.as_bytes(), b"data"].concat());
            let read = parse_datagram(&whole).unwrap();
            assert_eq!((read.target().unwrap().to_string().as_str(), read.fragment, read.payload), (source, 0, &b"data"[..]));
        }
    }
}
