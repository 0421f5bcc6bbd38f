//! Origins, proxies and clients for tests, on loopback, with ports chosen by the system.
//!
//! Clients and origins are blocking threads, so that a test reads from top to bottom; every wait has a deadline. Proxies are either the library in this process
//! ([`Proxy`]) or the two real binaries ([`binaries`]).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    missing_docs,
    reason = "tests that cannot go on panic"
)]

pub mod audit;
pub mod binaries;
pub mod client;
pub mod collector;
pub mod dns;
pub mod http2;
pub mod origin;
pub mod planted;
pub mod proxy;
pub mod scrape;
pub mod tls;
pub mod udp;
pub mod udp_proxy;
pub mod upstream;

pub use binaries::DataPlane;
pub use client::{Answer, Client, Metrics};
pub use collector::Collector;
pub use origin::{Exchange, Origin, Refusing};
pub use proxy::{Limited, Names, Proxy};
pub use scrape::Scrape;

use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Layer, Options};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Compiles a user layer.
#[must_use]
pub fn compile(toml: &str) -> Vec<u8> {
    compile_under("", toml)
}

/// The same under requirements of the managed layer.
#[must_use]
pub fn compile_under(requirements: &str, toml: &str) -> Vec<u8> {
    let managed = SourceFile::from_text(Layer::Managed, Role::Requirements, "requirements.toml", requirements.to_owned());
    let user = SourceFile::from_text(Layer::User, Role::Config, "config.toml", toml.to_owned());
    let sources = if requirements.is_empty() { vec![user] } else { vec![managed, user] };
    policy_compiler::compile(sources, Options::default()).unwrap_or_else(|failure| panic!("{failure}")).blob
}

/// A user layer: settings of the network table, and its domains.
#[must_use]
pub fn policy(settings: &str, domains: &[(&str, &str)]) -> String {
    let domains: String = domains.iter().map(|(pattern, access)| format!("\"{pattern}\" = \"{access}\"\n")).collect();
    format!(
        "default_permissions = \"workspace\"\n[permissions.workspace.network]\nenabled = true\n{settings}\n[permissions.workspace.network.domains]\n{domains}"
    )
}

/// Waits until `done`, with a deadline, looking every few milliseconds at what cannot tell by itself.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
