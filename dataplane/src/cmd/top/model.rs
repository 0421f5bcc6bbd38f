//! What is read of the admin API's answers. What a newer or older proxy says otherwise is not missed.

use serde::Deserialize;
use serde_json::Value;

/// `GET /v1/policy`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Policy {
    pub(super) generation: u64,
    pub(super) digest: String,
    pub(super) format: String,
    pub(super) profile: String,
    pub(super) network: String,
    pub(super) mode: Mode,
    pub(super) rules: u64,
    pub(super) hooks: u64,
    pub(super) layers: Vec<Layer>,
    pub(super) file: Option<String>,
    pub(super) loaded: String,
    pub(super) last_error: Option<String>,
    pub(super) withdrawn: bool,
}

/// The mode, and who wants it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Mode {
    pub(super) mode: String,
    pub(super) policy_mode: String,
    pub(super) wanted: Option<String>,
    pub(super) required_by: Option<String>,
}

/// A layer with its files.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Layer {
    pub(super) layer: String,
    pub(super) files: Vec<String>,
    pub(super) holds: Vec<String>,
}

/// `GET /v1/overview`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Overview {
    pub(super) blocked: Vec<TopBlocked>,
    pub(super) not_counted: u64,
    pub(super) series: Series,
}

/// Requests to one host that were blocked for one reason.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct TopBlocked {
    pub(super) count: u64,
    pub(super) last: Blocked,
}

/// A request that was blocked.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Blocked {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) reason: String,
    pub(super) timestamp: i64,
    pub(super) client: Option<String>,
    pub(super) protocol: String,
    pub(super) rule: Option<String>,
    pub(super) place: Option<String>,
    pub(super) change: Option<Change>,
}

/// What would allow it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Change {
    pub(super) table: Option<String>,
    pub(super) toml: Option<String>,
    pub(super) place: Option<String>,
    pub(super) only: Option<String>,
    pub(super) help: String,
}

/// What was done in each of the last seconds.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Series {
    pub(super) end_ms: u64,
    pub(super) allowed: Vec<u64>,
    pub(super) denied: Vec<u64>,
    pub(super) up: Vec<u64>,
    pub(super) down: Vec<u64>,
    pub(super) times: Vec<Times>,
}

/// How long something took in each of them: microseconds.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Times {
    pub(super) what: String,
    pub(super) p50: Vec<Option<u64>>,
    pub(super) p99: Vec<Option<u64>>,
}

/// `GET /v1/tunnels`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Tunnels {
    pub(super) tunnels: Vec<Tunnel>,
    pub(super) total: u64,
}

/// An open tunnel.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Tunnel {
    pub(super) id: u64,
    pub(super) client: String,
    pub(super) protocol: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) opened_ms: u64,
    pub(super) up: u64,
    pub(super) down: u64,
}

/// A decision, as `GET /v1/events` tells it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Decision {
    #[serde(rename = "event.timestamp")]
    pub(super) time: String,
    #[serde(rename = "network.policy.decision")]
    pub(super) verdict: String,
    #[serde(rename = "network.policy.reason")]
    pub(super) reason: String,
    #[serde(rename = "network.policy.pattern")]
    pub(super) rule: Option<String>,
    #[serde(rename = "network.policy.place")]
    pub(super) place: Option<String>,
    #[serde(rename = "network.transport.protocol")]
    pub(super) protocol: String,
    #[serde(rename = "server.address")]
    pub(super) host: String,
    #[serde(rename = "server.port")]
    pub(super) port: u16,
    #[serde(rename = "http.request.method")]
    pub(super) method: String,
    #[serde(rename = "client.address")]
    pub(super) client: String,
}

/// Everything that is asked for again and again.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct State {
    pub(super) policy: Policy,
    pub(super) overview: Overview,
    pub(super) tunnels: Tunnels,
}

/// Reads an answer. Text in it is made harmless first: hosts are chosen by strangers, and a terminal takes some of it for commands.
pub(super) fn read<T: for<'de> Deserialize<'de>>(mut value: Value) -> serde_json::Result<T> {
    disarm(&mut value);
    T::deserialize(value)
}

fn disarm(value: &mut Value) {
    match value {
        Value::String(text) if text.chars().any(is_armed) => *text = plain(text),
        Value::Array(values) => values.iter_mut().for_each(disarm),
        Value::Object(values) => values.values_mut().for_each(disarm),
        _ => {}
    }
}

/// What a terminal may act on, or what turns the order of what follows: controls, C1 controls, and marks of direction and width.
fn is_armed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// Text of which every character is seen.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if is_armed(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use serde_json::json;

    #[test]
    fn text_is_made_harmless_wherever_it_stands() {
        let value = json!({ "blocked": [{ "count": 1, "last": { "host": "\u{1b}]0;owned\u{7}a\u{202e}b.test", "change": { "help": "a\r\nb\u{9b}2J" } } }] });
        let overview: Overview = read(value).unwrap();
        let last = &overview.blocked.first().unwrap().last;
        assert_eq!(last.host, "\\u{1b}]0;owned\\u{7}a\\u{202e}b.test");
        assert_eq!(last.change.as_ref().unwrap().help, "a\\u{d}\\u{a}b\\u{9b}2J");
        assert_eq!(plain("grün.test"), "grün.test");
    }
}
