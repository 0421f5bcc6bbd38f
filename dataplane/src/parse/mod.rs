//! Bytes to requests. Knows neither sockets nor policy.

pub mod chunks;
pub mod forwarding;
pub mod http;
pub mod jws;
pub mod look;
pub mod socks5;
pub mod socks5_udp;
pub mod target;
pub mod tls;
