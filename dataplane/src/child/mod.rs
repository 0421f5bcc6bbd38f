//! What child processes need so that they go through the proxy, and trust what it opens: variables of their environment, and the files that these name.
//!
//! [`ChildEnv`] says what the variables are, [`StateDir`] writes the files, [`Manifest`] finds a proxy that runs, [`Shell`] writes the variables for whoever reads them, and [`tunnel`] is the
//! client's side of the proxy, for programs that speak neither HTTP nor SOCKS.

mod bundle;
mod java;
mod manifest;
pub mod persistent;
mod shell;
mod state;
mod truststore;
pub mod tunnel;
mod variables;

pub use manifest::{CURRENT, Manifest, ManifestError};
pub use shell::{Shell, Unwritable};
pub use state::{DUMMIES, Published, STATE_DIR, SYSTEM, StateDir, StateError, dummies};
pub use truststore::PASSWORD;
pub(crate) use variables::naming_authorities;
pub use variables::{ChildEnv, Files, Purpose, VARIABLES, Variable, removed};
