//! Certificates and TLS: our authority and its leaves, towards clients; whom we trust, towards origins.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `authority.rs` | the authority, made in memory or read from files; the certificates that it issues |
//! | `constraints.rs` | the hosts that it may speak for |
//! | `leaf.rs`, `server.rs` | leaves, kept; what is spoken with clients |
//! | `roots.rs`, `client.rs` | whom we trust, and what is spoken with origins |
//! | `failure.rs` | why there is no TLS with an origin, for people |
//! | `pem.rs`, `files.rs`, `x509.rs`, `der.rs` | how all of it is written down |

pub(crate) mod authority;
pub(crate) mod client;
pub(crate) mod constraints;
pub(crate) mod der;
pub(crate) mod failure;
pub(crate) mod files;
pub(crate) mod leaf;
pub mod pem;
pub(crate) mod roots;
pub(crate) mod server;
pub mod x509;

#[cfg(test)]
mod others;

use std::fmt::Write;
use std::sync::{Arc, LazyLock};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};

/// What is offered, or agreed on, inside TLS (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Alpn {
    /// Nothing is said of it.
    None,
    Http1,
    Http2,
    /// HTTP/2 rather than HTTP/1.1.
    Both,
}

impl Alpn {
    pub(crate) const ALL: [Self; 4] = [Self::None, Self::Http1, Self::Http2, Self::Both];

    /// As a configuration has it.
    pub(crate) fn protocols(self) -> Vec<Vec<u8>> {
        let names: &[&[u8]] = match self {
            Self::None => &[],
            Self::Http1 => &[b"http/1.1"],
            Self::Http2 => &[b"h2"],
            Self::Both => &[b"h2", b"http/1.1"],
        };
        names.iter().map(|name| name.to_vec()).collect()
    }

    /// What can be spoken here of what another side offers.
    pub(crate) fn common<'a>(offered: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let (mut http1, mut http2) = (false, false);
        for name in offered {
            http1 |= name == b"http/1.1";
            http2 |= name == b"h2";
        }
        match (http1, http2) {
            (false, false) => Self::None,
            (true, false) => Self::Http1,
            (false, true) => Self::Http2,
            (true, true) => Self::Both,
        }
    }
}

/// Digits of bytes, lower case.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The cryptography of all TLS here.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));
    &PROVIDER
}
