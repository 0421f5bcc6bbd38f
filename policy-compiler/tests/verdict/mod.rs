//! Requests in one line, for tables of what a policy says.

use policy_format::{Blob, Decision, Host, Protocol, Request, decide};
use std::net::IpAddr;

/// What a policy says of `CONNECT host:port`, `socks host:port` or `METHOD http://host:port/path`, with ` -> address` for what the name resolves to: `allow` or
/// the reason, and the rule.
pub(crate) fn verdict(blob: &Blob<Vec<u8>>, asked: &str) -> String {
    let (asked, address) = asked.split_once(" -> ").unwrap_or((asked, ""));
    let (method, target) = asked.split_once(' ').unwrap();
    let (protocol, authority, path) = match (method, target.strip_prefix("http://")) {
        ("CONNECT", None) => (Protocol::Connect, target, None),
        ("socks", None) => (Protocol::Socks5Tcp, target, None),
        (_, Some(url)) => (Protocol::Http, &url[..url.find('/').unwrap()], url.find('/').map(|at| &url[at..])),
        (_, None) => panic!("`{asked}` is no request"),
    };
    let (host, port) = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).unwrap_or((authority, "80"));
    let addresses: Vec<IpAddr> = address.split_whitespace().map(|address| address.parse().unwrap()).collect();
    let request = Request {
        profile: policy_format::ProfileId::default(),
        protocol,
        host: &Host::parse(host).unwrap(),
        port: port.parse().unwrap(),
        method: (protocol == Protocol::Http).then_some(method),
        path,
        addresses: &addresses,
    };
    let (said, rule) = match decide(blob, &request) {
        Decision::Allow(allowed) => ("allow", Some(allowed.rule)),
        Decision::Deny(denied) => (denied.reason.as_str(), denied.rule),
    };
    match rule.and_then(|rule| blob.rule(rule)) {
        Some(rule) => format!("{said} by {rule}"),
        None => said.to_owned(),
    }
}
