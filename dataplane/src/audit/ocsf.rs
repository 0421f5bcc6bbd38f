//! The same events as the Open Cybersecurity Schema Framework has them, version 1.3: Network Activity (4001) with the profile Security Control for what is about a request, Application
//! Lifecycle (6002) for start and stop, and the Base Event (0) for the rest. What it has no place for is under `unmapped`, by our names.

use super::event::{Ending, Verdict};
use super::json::{PRODUCT, VERSION, is_bad, member, millis, number, number_member, socket, text};
use super::record::{Change, Event, Exchange, Gap, Judged, Kind};
use policy_format::Protocol;
use std::net::{IpAddr, SocketAddr};

/// The version of the schema.
const SCHEMA: &str = "1.3.0";
/// Who makes the product.
const VENDOR: &str = "netpolicy";

/// Class, category and activity.
fn class(kind: &Kind) -> (u64, u64, u64) {
    let (open, close, reset, fail, refuse) = (1, 2, 3, 4, 5);
    match kind {
        Kind::Decision(judged) if judged.verdict == Verdict::Allow => (4001, 4, open),
        Kind::Decision(_) => (4001, 4, refuse),
        Kind::Inner { closed: false, .. } => (4001, 4, open),
        Kind::Revoked(_) | Kind::Inner { .. } => (4001, 4, reset),
        Kind::Close(ended) => match ended.ending {
            Ending::Done | Ending::Stopped => (4001, 4, close),
            Ending::Upstream(_) => (4001, 4, fail),
            Ending::Broken | Ending::Limited(_) | Ending::Revoked | Ending::Looked | Ending::Closed => (4001, 4, reset),
        },
        Kind::Start(_) => (6002, 6, 3),
        Kind::Stop => (6002, 6, 4),
        Kind::Policy(_) | Kind::Mode { .. } | Kind::Limit(_) | Kind::Fault(_) | Kind::Lost(_) => (0, 0, 99),
    }
}

fn severity(kind: &Kind) -> u64 {
    let (informational, low, medium) = (1, 2, 3);
    match kind {
        Kind::Fault(_) | Kind::Lost(_) | Kind::Policy(Change::Refused(_) | Change::Withdrawn(_)) => medium,
        kind if is_bad(kind) => low,
        _ => informational,
    }
}

/// Appends the object. `metadata`: members that every event gets, each with a comma in front.
pub(super) fn write(out: &mut Vec<u8>, event: &Event, metadata: &[u8]) {
    let kind = &event.kind;
    let (class, category, activity) = class(kind);
    number_member(out, b"{\"class_uid\":", class);
    number_member(out, b",\"category_uid\":", category);
    number_member(out, b",\"activity_id\":", activity);
    number_member(out, b",\"type_uid\":", class * 100 + activity);
    number_member(out, b",\"severity_id\":", severity(kind));
    number_member(out, b",\"time\":", event.time);
    product(out, b",\"metadata\":{\"product\":");
    member(out, "version", SCHEMA);
    member(out, "event_code", kind.name());
    number_member(out, b",\"sequence\":", event.sequence);
    if class == 4001 {
        out.extend_from_slice(b",\"profiles\":[\"security_control\"]");
    }
    if let Some(exchange) = kind.exchange() {
        out.extend_from_slice(b",\"correlation_uid\":\"");
        number(out, exchange.id);
        out.push(b'"');
    }
    out.push(b'}');
    if class == 6002 {
        product(out, b",\"app\":");
    }
    if let Some(exchange) = kind.exchange() {
        endpoints(out, exchange);
    }
    if let Some(judged) = kind.judged() {
        control(out, judged);
        if let Some(rule) = event.label.as_ref().and_then(|label| label.rule.as_ref()) {
            out.extend_from_slice(b",\"firewall_rule\":{\"uid\":\"");
            number(out, rule.id.into());
            out.push(b'"');
            member(out, "name", &rule.pattern);
            out.push(b'}');
        }
    }
    if let Some(label) = event.label.as_ref().filter(|_| class == 4001) {
        out.extend_from_slice(b",\"policy\":{\"uid\":");
        text(out, &label.policy.digest);
        member(out, "name", &label.policy.profile);
        out.extend_from_slice(b",\"version\":\"");
        number(out, label.policy.generation);
        out.extend_from_slice(b"\"}");
    }
    if let Kind::Close(ended) = kind {
        number_member(out, b",\"duration\":", millis(ended));
        // Seen from whoever asked.
        number_member(out, b",\"traffic\":{\"bytes_in\":", ended.down);
        number_member(out, b",\"bytes_out\":", ended.up);
        number_member(out, b",\"bytes\":", ended.down.saturating_add(ended.up));
        out.push(b'}');
        number_member(out, b",\"status_id\":", if ended.ending == Ending::Done { 1 } else { 2 });
        member(out, "status_detail", ended.ending.detail().unwrap_or(ended.ending.as_str()));
    }
    match kind {
        Kind::Fault(what) | Kind::Policy(Change::Refused(what) | Change::Withdrawn(what)) => member(out, "message", what),
        _ => {}
    }
    unmapped(out, event, metadata);
    out.push(b'}');
}

fn product(out: &mut Vec<u8>, start: &[u8]) {
    out.extend_from_slice(start);
    out.extend_from_slice(b"{\"name\":");
    text(out, PRODUCT);
    member(out, "vendor_name", VENDOR);
    member(out, "version", VERSION);
    out.push(b'}');
}

fn endpoints(out: &mut Vec<u8>, exchange: &Exchange) {
    let client = exchange.client;
    out.extend_from_slice(b",\"src_endpoint\":{\"ip\":\"");
    super::json::address(out, client.ip());
    number_member(out, b"\",\"port\":", client.port().into());
    out.extend_from_slice(b"},\"dst_endpoint\":{");
    let host = exchange.host.as_str();
    out.extend_from_slice(if host.parse::<IpAddr>().is_ok() { b"\"ip\":" } else { b"\"hostname\":" });
    text(out, host);
    number_member(out, b",\"port\":", exchange.port.into());
    let protocol = if exchange.protocol == Protocol::Socks5Udp { 17 } else { 6 };
    number_member(out, b"},\"connection_info\":{\"direction_id\":2,\"protocol_num\":", protocol);
    out.push(b'}');
    member(out, "app_name", exchange.protocol.as_str());
}

fn control(out: &mut Vec<u8>, judged: &Judged) {
    let allowed = judged.verdict == Verdict::Allow;
    // Allowed and Denied; Allowed and Blocked; Success and Failure.
    let id = if allowed { 1 } else { 2 };
    number_member(out, b",\"action_id\":", id);
    number_member(out, b",\"disposition_id\":", id);
    number_member(out, b",\"status_id\":", id);
    member(out, "status_detail", &judged.reason);
}

fn unmapped(out: &mut Vec<u8>, event: &Event, metadata: &[u8]) {
    let mut members = Vec::new();
    if let Some(judged) = event.kind.judged() {
        member(&mut members, "network.policy.scope", judged.scope());
        member(&mut members, "network.policy.decision", judged.verdict.as_str());
        member(&mut members, "network.policy.source", judged.source);
        members.extend_from_slice(if judged.is_override {
            b",\"network.policy.override\":true"
        } else {
            b",\"network.policy.override\":false"
        });
        if let Some(method) = &judged.method {
            member(&mut members, "http.request.method", method);
        }
        if let Some(rule) = event.label.as_ref().and_then(|label| label.rule.as_ref()) {
            member(&mut members, "network.policy.layer", rule.layer);
            member(&mut members, "network.policy.place", &rule.place);
        }
    }
    match &event.kind {
        Kind::Inner { closed, .. } => member(&mut members, "outcome", if *closed { "closed" } else { "passed" }),
        Kind::Close(ended) => {
            member(&mut members, "outcome", ended.ending.as_str());
            number_member(&mut members, b",\"network.policy.generation\":", ended.exchange.generation);
        }
        Kind::Policy(change) => {
            let outcome = match change {
                Change::Swapped { .. } => "swapped",
                Change::Refused(_) => "refused",
                Change::Withdrawn(_) => "withdrawn",
            };
            member(&mut members, "outcome", outcome);
            if let Change::Swapped { rules, .. } = change {
                number_member(&mut members, b",\"network.policy.rules\":", (*rules).into());
            }
        }
        Kind::Mode { mode, set, .. } => {
            member(&mut members, "network.policy.mode", mode.as_str());
            member(&mut members, "outcome", if *set { "set" } else { "policy" });
        }
        Kind::Limit(reached) => {
            member(&mut members, "network.limit.name", reached.limit);
            number_member(&mut members, b",\"network.limit.count\":", reached.count);
            address(&mut members, reached.client);
            if let Some(host) = &reached.host {
                member(&mut members, "server.address", host.as_str());
            }
            if let Some(port) = reached.port {
                number_member(&mut members, b",\"server.port\":", port.into());
            }
        }
        Kind::Lost(Gap { count, since, sink }) => {
            number_member(&mut members, b",\"event.lost.count\":", *count);
            number_member(&mut members, b",\"event.lost.since\":", *since);
            if let Some(sink) = sink {
                member(&mut members, "event.lost.sink", sink);
            }
        }
        Kind::Start(start) => number_member(&mut members, b",\"process.pid\":", start.process.into()),
        Kind::Decision(_) | Kind::Revoked(_) | Kind::Fault(_) | Kind::Stop => {}
    }
    // The policy of what is about no request has no other place.
    if let Some(label) = event.label.as_ref().filter(|_| event.kind.exchange().is_none()) {
        members.extend_from_slice(&label.json);
    }
    members.extend_from_slice(metadata);
    if let Some((_, members)) = members.split_first() {
        out.extend_from_slice(b",\"unmapped\":{");
        out.extend_from_slice(members);
        out.push(b'}');
    }
}

fn address(out: &mut Vec<u8>, client: Option<SocketAddr>) {
    if let Some(client) = client {
        out.extend_from_slice(b",\"client.address\":\"");
        socket(out, client);
        out.push(b'"');
    }
}
