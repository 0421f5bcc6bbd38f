//! Requests in one line, for tables of what a policy says.

use policy_compiler::request::Asked;
use policy_format::{Blob, Decision};
use std::net::IpAddr;

/// What a policy says of `CONNECT host:port`, `socks host:port`, `METHOD http://host:port/path` or `METHOD https://host:port/path`, with ` -> address` for what the name resolves to:
/// `allow`, `opened` for a tunnel that is intercepted, or the reason, and the rule.
pub(crate) fn verdict(blob: &Blob<Vec<u8>>, asked: &str) -> String {
    let (asked, address) = asked.split_once(" -> ").unwrap_or((asked, ""));
    let addresses: Vec<IpAddr> = address.split_whitespace().map(|address| address.parse().unwrap()).collect();
    let asked = Asked::parse(asked).unwrap_or_else(|error| panic!("{error}"));
    let (said, rule) = match asked.decide(blob, &addresses) {
        Decision::Allow(allowed) => (if allowed.intercept { "opened" } else { "allow" }, Some(allowed.rule)),
        Decision::Deny(denied) => (denied.reason.as_str(), denied.rule),
    };
    match rule.and_then(|rule| blob.rule(rule)) {
        Some(rule) => format!("{said} by {rule}"),
        None => said.to_owned(),
    }
}
