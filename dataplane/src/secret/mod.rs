//! What nobody outside of this process may see: credentials that children have stand-ins for, and the secrets of hooks.
//!
//! Values are held in memory that is zeroed when it is given back, in types that show nothing of them, and leave in one way: as the value of a header field, in a request
//! to the host that they are bound to. `docs/credentials.md` says the same for users.

mod authorization;
mod binding;
mod broker;
mod dummies;
mod dummy;
mod hooks;
mod provider;
mod rule;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use binding::Destination;
pub(crate) use broker::MIN_COPY;
pub use broker::{Broker, BrokerSetup, Brokering, Child, Outcome, Virtualized};
pub use dummies::{Dummies, DummiesError};
pub(crate) use hooks::{HookSecrets, SecretError};
pub use rule::CredentialError;

/// Whether the bytes may stand in a header field as its value: visible ASCII, blanks and tabs (RFC 9110, section 5.5, without what is obsolete).
fn is_field_value(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
}
