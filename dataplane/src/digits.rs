//! Numbers and addresses as text, in place: events and heads of requests are made of them.

use std::fmt::Display;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Bytes that an address has room in: the longest has 39, and its parts are written four bytes at a time.
pub(crate) const ADDRESS: usize = 46;
/// Bytes that an address with a port has room in: the longest has a scope too, and 58.
pub(crate) const SOCKET: usize = 64;

/// What each byte looks like, and how many digits that is.
static BYTES: [([u8; 3], u8); 256] = bytes();

#[expect(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "each is below 256, and this is done when it is compiled")]
const fn bytes() -> [([u8; 3], u8); 256] {
    let mut all = [([b'0'; 3], 1); 256];
    let mut byte = 0;
    while byte < 256 {
        let [hundreds, tens, ones] = [b'0' + (byte / 100) as u8, b'0' + (byte / 10 % 10) as u8, b'0' + (byte % 10) as u8];
        all[byte] = match byte {
            0..10 => ([ones, b'.', b'.'], 1),
            10..100 => ([tens, ones, b'.'], 2),
            _ => ([hundreds, tens, ones], 3),
        };
        byte += 1;
    }
    all
}

/// Writes an address, and gives it as text.
pub(crate) fn address(ip: IpAddr, room: &mut [u8; ADDRESS]) -> &[u8] {
    let used = match ip {
        IpAddr::V4(v4) => dotted(v4, room),
        IpAddr::V6(v6) => shown(v6, room),
    };
    room.get(..used).unwrap_or_default()
}

/// The same with its port.
pub(crate) fn socket(socket: SocketAddr, room: &mut [u8; SOCKET]) -> &[u8] {
    let used = match socket {
        SocketAddr::V4(v4) => {
            let mut used = dotted(*v4.ip(), room);
            let mut digits = [0; 20];
            for part in [b":", number(v4.port().into(), &mut digits)] {
                if let Some(room) = room.get_mut(used..used + part.len()) {
                    room.copy_from_slice(part);
                }
                used += part.len();
            }
            used
        }
        SocketAddr::V6(v6) => shown(v6, room),
    };
    room.get(..used).unwrap_or_default()
}

/// Writes what is shown as everywhere else, and gives how many bytes it has: the longest has room.
fn shown(what: impl Display, room: &mut [u8]) -> usize {
    let all = room.len();
    let mut rest = room;
    let written = write!(rest, "{what}").map(|()| rest.len());
    written.map_or(0, |left| all - left)
}

/// Writes an address of four bytes, and gives how many it has.
fn dotted(v4: Ipv4Addr, room: &mut [u8]) -> usize {
    let mut used = 0;
    for octet in v4.octets() {
        let ([a, b, c], digits) = BYTES.get(usize::from(octet)).copied().unwrap_or_default();
        // With a dot behind it, and whatever there is behind that: the next one is written over it.
        if let Some([one, two, three, four]) = room.get_mut(used..used + 4) {
            [*one, *two, *three, *four] = [a, b, c, b'.'];
        }
        used += usize::from(digits) + 1;
    }
    used - 1
}

/// Writes a number, and gives it as text.
pub(crate) fn number(mut value: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut start = room.len();
    for (place, digit) in room.iter_mut().enumerate().rev() {
        // Below ten.
        *digit = b'0' + u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
        start = place;
        if value == 0 {
            break;
        }
    }
    room.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(ip: IpAddr) -> String {
        String::from_utf8_lossy(address(ip, &mut [0; ADDRESS])).into_owned()
    }

    #[test]
    fn every_byte_is_itself() {
        for byte in 0..=255 {
            let ip = IpAddr::from([byte, 0, byte, 1]);
            assert_eq!(shown(ip), ip.to_string());
        }
    }

    proptest! {
        #[test]
        fn addresses_are_as_everywhere(v4: [u8; 4], v6: [u16; 8]) {
            for ip in [IpAddr::from(v4), IpAddr::from(v6), IpAddr::V6(Ipv4Addr::from(v4).to_ipv6_mapped())] {
                prop_assert_eq!(shown(ip), ip.to_string());
            }
        }

        #[test]
        fn ports_stand_behind_them(v4: [u8; 4], v6: [u16; 8], port: u16, scope: u32) {
            let with_scope = SocketAddr::from(std::net::SocketAddrV6::new(v6.into(), port, 0, scope));
            for socket in [SocketAddr::from((v4, port)), SocketAddr::from((v6, port)), with_scope] {
                let mut room = [0; SOCKET];
                prop_assert_eq!(String::from_utf8_lossy(super::socket(socket, &mut room)).into_owned(), socket.to_string());
            }
            let longest: SocketAddr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535".parse().unwrap();
            prop_assert_eq!(super::socket(longest, &mut [0; SOCKET]).to_vec(), longest.to_string().into_bytes());
        }

        #[test]
        fn numbers_are_as_everywhere(number: u64, digits in 0u32..20) {
            let number = number / 10u64.pow(digits);
            let mut room = [0; 20];
            prop_assert_eq!(super::number(number, &mut room).to_vec(), number.to_string().into_bytes());
        }
    }
}
