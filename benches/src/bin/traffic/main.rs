//! Traffic for `benches/peers`: an origin, clients that count and time what they get, and a relay without any policy, as the limit of what a proxy can reach.
//!
//! Bulk data is sent from memory by the kernel and dropped in the kernel where it is received, so that neither end copies, and a proxy's copies show. One thread each.

#![cfg_attr(
    target_os = "linux",
    allow(
        clippy::unwrap_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::print_stdout,
        clippy::print_stderr,
        reason = "a measurement that cannot go on ends, and its numbers are small"
    )
)]

#[cfg(target_os = "linux")]
mod client;
#[cfg(target_os = "linux")]
mod net;
#[cfg(target_os = "linux")]
mod origin;
#[cfg(target_os = "linux")]
mod relay;

#[cfg(target_os = "linux")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["origin"] => origin::run(),
        ["relay", address] => relay::run(address.parse().unwrap()),
        ["client", options @ ..] => client::run(options),
        _ => {
            eprintln!(
                "usage: traffic origin | relay IP:PORT | client SCENARIO [--proxy IP:PORT] --http IP:PORT --raw IP:PORT [--connections N] [--seconds S] [--cpu PID|FILE]"
            );
            eprintln!("scenarios: {}", client::SCENARIOS.join(" "));
            std::process::exit(2);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {}
