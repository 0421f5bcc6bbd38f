//! A SOCKS5 datagram is cut into header and payload without a byte lost, says the same whatever its payload is, and the header of a reply is read as its source.
#![no_main]

use libfuzzer_sys::fuzz_target;
use netproxy::parse::socks5_udp::{Header, LONGEST_HEADER, parse_datagram};
use policy_format::Host;
use std::net::SocketAddr;

fuzz_target!(|data: &[u8]| {
    let Some(datagram) = parse_datagram(data) else { return };
    assert_eq!(3 + datagram.address.len() + datagram.payload.len(), data.len());
    let header = &data[..data.len() - datagram.payload.len()];
    let bare = parse_datagram(header).expect("a header alone is a datagram");
    assert_eq!((bare.fragment, bare.address, bare.payload), (datagram.fragment, datagram.address, &[][..]));
    let Some(target) = datagram.target() else { return };
    assert_eq!(bare.target().as_ref(), Some(&target));
    let Host::Ip(ip) = target.host else { return };
    let mut reply = [&[0xff; LONGEST_HEADER], datagram.payload].concat();
    let reply = Header::from(SocketAddr::new(ip, target.port)).before(&mut reply);
    let read = parse_datagram(reply).expect("what is written is read");
    assert_eq!((read.fragment, read.target(), read.payload), (0, Some(target), datagram.payload));
});
