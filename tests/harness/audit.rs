//! Audit logs of proxies, as they are in files.

use serde_json::Value;
use std::path::Path;

/// The events of a log that are there by now, without the lines of its chain.
pub fn events(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    // The last line may be on its way.
    let lines = text.rsplit_once('\n').map_or("", |(lines, _)| lines).lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| !line["chain.count"].is_u64() && !line["chain.format"].is_u64())
        .collect()
}

/// What events are called, without what all names begin with.
pub fn names(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| event["event.name"].as_str().unwrap().trim_start_matches("codex.network_proxy.").to_owned()).collect()
}
