//! Bytes to requests. Knows neither sockets nor policy.

pub mod http;
pub mod socks5;
pub mod socks5_udp;
pub mod target;
