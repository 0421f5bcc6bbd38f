//! Bytes to requests. Knows neither sockets nor policy.

pub mod http;
pub mod socks5;
pub mod target;
pub mod tls;
