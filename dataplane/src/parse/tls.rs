//! Server names in the first bytes of a tunnel.

use policy_format::Host;

/// What the first bytes of a tunnel say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it is made once a tunnel, and not kept")]
pub enum Look {
    /// Nothing yet.
    More,
    /// That the client wants to speak to this server.
    Server(Host),
    /// Nothing of a server.
    Nothing,
    /// They begin as something that would name a server, and are no such thing.
    Malformed,
}

/// Looks at the first bytes of a tunnel to `port`.
#[must_use]
pub fn look(_bytes: &[u8], _port: u16) -> Look {
    Look::Nothing
}
