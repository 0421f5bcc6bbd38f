//! A line of an audit log: what was decided, or something else.
//!
//! The proxy writes flat objects without blanks, in which nothing is escaped: these are read in place. Whatever else is JSON goes through a parser of all of it.

use policy_format::{Mode, events};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line<'l> {
    /// A request was decided.
    Decision(Event<'l>),
    /// The mode that somebody has set, from which policy on.
    Mode {
        /// What it was set to; `None`: it is the policy's again.
        set: Option<Mode>,
        /// The policy's number since the start.
        generation: u64,
    },
    /// A proxy began.
    Start,
    /// Another event, or nothing.
    Other,
}

/// A request, and what was decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event<'l> {
    /// When: RFC 3339.
    pub time: Cow<'l, str>,
    /// `allow`, `deny` or `ask`.
    pub decision: Cow<'l, str>,
    /// Who decided.
    pub source: Cow<'l, str>,
    /// Why.
    pub reason: Cow<'l, str>,
    /// How the client asked.
    pub protocol: Cow<'l, str>,
    /// For which host.
    pub host: Cow<'l, str>,
    /// For which port.
    pub port: u16,
    /// With which method; `none` where there is none.
    pub method: Cow<'l, str>,
    /// An embedding program allowed what no rule does.
    pub is_override: bool,
    /// The pattern of the rule that decided; empty where there is none.
    pub pattern: Cow<'l, str>,
    /// The policy's number since the start; 0 where it is not said.
    pub generation: u64,
}

impl Event<'_> {
    /// The same, for as long as it is wanted.
    pub(super) fn to_owned_event(&self) -> Event<'static> {
        let own = |text: &Cow<'_, str>| Cow::Owned(text.clone().into_owned());
        Event {
            time: own(&self.time),
            decision: own(&self.decision),
            source: own(&self.source),
            reason: own(&self.reason),
            protocol: own(&self.protocol),
            host: own(&self.host),
            port: self.port,
            method: own(&self.method),
            is_override: self.is_override,
            pattern: own(&self.pattern),
            generation: self.generation,
        }
    }
}

/// Why a line cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// No JSON, or no object.
    #[error("this is not a JSON object")]
    NotJson,
    /// A decision without something that every decision has.
    #[error("a decision without a proper `{0}`")]
    Missing(&'static str),
}

/// A value that is no list and no table.
#[derive(Debug, Clone)]
enum Scalar<'l> {
    Text(Cow<'l, str>),
    Number(u64),
    Bool(bool),
    Other,
}

impl<'l> Scalar<'l> {
    fn text(self) -> Cow<'l, str> {
        if let Self::Text(text) = self { text } else { Cow::Borrowed("") }
    }

    fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

/// What of a line may matter.
#[derive(Debug, Default)]
struct Found<'l> {
    name: Cow<'l, str>,
    event: Event<'l>,
    port: Option<u64>,
    set: bool,
    /// It was set to full: all else is limited.
    full: bool,
}

/// Says what a line is, without its line feed.
///
/// # Errors
/// [`LineError`] for what is no event at all, and for decisions that say too little.
pub fn parse(line: &[u8]) -> Result<Line<'_>, LineError> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return Ok(Line::Other);
    }
    let mut found = Found::default();
    if flat(line, &mut found).is_none() {
        found = Found::default();
        let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(line) else { return Err(LineError::NotJson) };
        match object.contains_key("class_uid") {
            true => ocsf(object, &mut found),
            false => object.into_iter().for_each(|(key, value)| found.take(key.as_bytes(), || scalar(value))),
        }
    }
    found.line()
}

fn scalar(value: Value) -> Scalar<'static> {
    match value {
        Value::String(text) => Scalar::Text(Cow::Owned(text)),
        Value::Number(number) => number.as_u64().map_or(Scalar::Other, Scalar::Number),
        Value::Bool(value) => Scalar::Bool(value),
        _ => Scalar::Other,
    }
}

/// Events with the names of OCSF: what that schema has no place for stands under `unmapped`, by our names.
fn ocsf(mut object: Map<String, Value>, found: &mut Found<'_>) {
    const PLACES: [(&str, &[u8]); 8] = [
        ("/metadata/event_code", b"event.name"),
        ("/app_name", b"network.transport.protocol"),
        ("/dst_endpoint/hostname", b"server.address"),
        ("/dst_endpoint/ip", b"server.address"),
        ("/dst_endpoint/port", b"server.port"),
        ("/status_detail", b"network.policy.reason"),
        ("/firewall_rule/name", b"network.policy.pattern"),
        ("/policy/version", b"network.policy.generation"),
    ];
    if let Some(Value::Object(unmapped)) = object.remove("unmapped") {
        unmapped.into_iter().for_each(|(key, value)| found.take(key.as_bytes(), || scalar(value)));
    }
    found.event.time = object.get("time").and_then(Value::as_u64).map(timestamp).unwrap_or_default().into();
    let object = Value::Object(object);
    for (place, key) in PLACES {
        if let Some(value) = object.pointer(place) {
            found.take(key, || scalar(value.clone()));
        }
    }
}

/// Milliseconds since 1970 as RFC 3339 has them.
fn timestamp(millis: u64) -> String {
    let (seconds, day) = (millis / 1000, millis / 86_400_000);
    // From days to a date of the Gregorian calendar, in eras of 400 years that begin in March.
    let shifted = day + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", millis % 1000)
}

impl<'l> Found<'l> {
    /// Keeps a member that may matter.
    fn take(&mut self, key: &[u8], value: impl FnOnce() -> Scalar<'l>) {
        let event = &mut self.event;
        match key {
            b"event.name" => self.name = value().text(),
            b"event.timestamp" => event.time = value().text(),
            b"network.policy.decision" => event.decision = value().text(),
            b"network.policy.source" => event.source = value().text(),
            b"network.policy.reason" => event.reason = value().text(),
            b"network.transport.protocol" => event.protocol = value().text(),
            b"server.address" => event.host = value().text(),
            b"server.port" => self.port = value().number(),
            b"http.request.method" => event.method = value().text(),
            b"network.policy.override" => event.is_override = matches!(value(), Scalar::Bool(true)),
            b"network.policy.pattern" => event.pattern = value().text(),
            b"network.policy.generation" => event.generation = value().number().unwrap_or(0),
            b"outcome" => self.set = value().text() == "set",
            b"network.policy.mode" => self.full = value().text() == Mode::Full.as_str(),
            _ => {}
        }
    }

    fn line(self) -> Result<Line<'l>, LineError> {
        match self.name.as_ref() {
            events::DECISION => {}
            events::MODE => {
                let mode = if self.full { Mode::Full } else { Mode::Limited };
                return Ok(Line::Mode { set: self.set.then_some(mode), generation: self.event.generation });
            }
            events::START => return Ok(Line::Start),
            _ => return Ok(Line::Other),
        }
        let port = self.port.and_then(|port| u16::try_from(port).ok()).ok_or(LineError::Missing("server.port"))?;
        let event = Event { port, ..self.event };
        let wants = [
            (event.decision.as_ref(), "network.policy.decision"),
            (event.reason.as_ref(), "network.policy.reason"),
            (event.protocol.as_ref(), "network.transport.protocol"),
            (event.host.as_ref(), "server.address"),
        ];
        let missing = wants.into_iter().find(|(text, _)| text.is_empty()).map(|(_, name)| name);
        missing.map_or(Ok(Line::Decision(event)), |missing| Err(LineError::Missing(missing)))
    }
}

/// Reads an object whose values are no lists and no tables, without blanks and escapes; `None` for everything else.
fn flat<'l>(line: &'l [u8], found: &mut Found<'l>) -> Option<()> {
    let mut rest = line.strip_prefix(b"{")?;
    loop {
        let (key, after) = quoted(rest)?;
        rest = after.strip_prefix(b":")?;
        let value;
        (value, rest) = match rest.first()? {
            b'"' => {
                let (text, after) = quoted(rest)?;
                (Raw::Text(text), after)
            }
            b'0'..=b'9' => number(rest)?,
            b't' => (Raw::Bool(true), rest.strip_prefix(b"true")?),
            b'f' => (Raw::Bool(false), rest.strip_prefix(b"false")?),
            _ => return None,
        };
        let mut is_text = true;
        found.take(key, || {
            value.scalar().unwrap_or_else(|| {
                is_text = false;
                Scalar::Other
            })
        });
        if !is_text {
            return None;
        }
        match rest {
            b"}" => return Some(()),
            _ => rest = rest.strip_prefix(b",")?,
        }
    }
}

/// A value in place.
enum Raw<'l> {
    Text(&'l [u8]),
    Number(u64),
    Bool(bool),
}

impl<'l> Raw<'l> {
    /// `None` for what is not UTF-8.
    fn scalar(self) -> Option<Scalar<'l>> {
        Some(match self {
            Self::Text(text) => Scalar::Text(Cow::Borrowed(std::str::from_utf8(text).ok()?)),
            Self::Number(number) => Scalar::Number(number),
            Self::Bool(value) => Scalar::Bool(value),
        })
    }
}

/// A text without escapes, and what follows it.
fn quoted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let inner = bytes.strip_prefix(b"\"")?;
    let (text, rest) = inner.split_at_checked(memchr::memchr2(b'"', b'\\', inner)?)?;
    Some((text, rest.strip_prefix(b"\"")?))
}

/// Digits, and what follows them.
fn number(bytes: &[u8]) -> Option<(Raw<'_>, &[u8])> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (text, rest) = bytes.split_at_checked(digits)?;
    // JSON has no zeros in front; fractions and exponents go the long way.
    if (text.len() > 1 && text.starts_with(b"0")) || !matches!(rest.first(), Some(b',' | b'}')) {
        return None;
    }
    let value = text.iter().try_fold(0_u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?;
    Some((Raw::Number(value), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &str = r#"{"event.name":"codex.network_proxy.policy_decision","event.timestamp":"2026-01-02T03:04:05.678Z","network.policy.scope":"domain","network.policy.decision":"deny","network.policy.source":"baseline_policy","network.policy.reason":"denied","network.transport.protocol":"http","server.address":"a.test","server.port":80,"http.request.method":"GET","client.address":"127.0.0.1:4000","network.policy.override":false,"network.policy.rule":3,"network.policy.pattern":"**.test","network.policy.layer":"user","network.policy.place":"config.toml:9","network.policy.profile":"w","network.policy.generation":2,"network.exchange.id":7}"#;

    fn event(text: &str) -> Event<'_> {
        match parse(text.as_bytes()) {
            Ok(Line::Decision(event)) => event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn decisions_are_read() {
        let expected = Event {
            time: "2026-01-02T03:04:05.678Z".into(),
            decision: "deny".into(),
            source: "baseline_policy".into(),
            reason: "denied".into(),
            protocol: "http".into(),
            host: "a.test".into(),
            port: 80,
            method: "GET".into(),
            is_override: false,
            pattern: "**.test".into(),
            generation: 2,
        };
        assert_eq!(event(LINE), expected);
        // What another program has written anew says the same.
        for other in [
            LINE.replace("\":", "\" : "),
            LINE.replace("a.test", "\\u0061.test"),
            LINE.replace('}', ",\"x\":{\"y\":[1]}}"),
            format!(" {LINE}\r"),
        ] {
            assert_eq!(event(&other), expected, "{other}");
        }
        assert!(event(&LINE.replace("override\":false", "override\":true")).is_override);
    }

    #[test]
    fn what_is_no_decision_is_passed_over_or_named() {
        for (line, expected) in [
            ("", Ok(Line::Other)),
            ("  ", Ok(Line::Other)),
            ("{}", Ok(Line::Other)),
            (r#"{"event.name":"codex.network_proxy.closed","server.port":1}"#, Ok(Line::Other)),
            (r#"{"event.name":"codex.network_proxy.start"}"#, Ok(Line::Start)),
            (
                r#"{"event.name":"codex.network_proxy.mode","network.policy.mode":"limited","outcome":"set","network.policy.generation":3}"#,
                Ok(Line::Mode { set: Some(Mode::Limited), generation: 3 }),
            ),
            ("null", Err(LineError::NotJson)),
            ("[]", Err(LineError::NotJson)),
            (&LINE[..100], Err(LineError::NotJson)),
            (r#"{"a":01}"#, Err(LineError::NotJson)),
            (r#"{"a":1}x"#, Err(LineError::NotJson)),
            (&LINE.replace("\"server.port\":80,", ""), Err(LineError::Missing("server.port"))),
            (&LINE.replace(":80,", ":65536,"), Err(LineError::Missing("server.port"))),
            (&LINE.replace("\"a.test\"", "1"), Err(LineError::Missing("server.address"))),
            (&LINE.replace("\"a.test\"", "\"\""), Err(LineError::Missing("server.address"))),
        ] {
            assert_eq!(parse(line.as_bytes()), expected, "{line}");
        }
        assert_eq!(parse(b"{\"server.address\":\"\xff\"}"), Err(LineError::NotJson));
    }

    #[test]
    fn the_names_of_ocsf_are_read_too() {
        let line = r#"{"class_uid":4001,"category_uid":4,"activity_id":5,"type_uid":400105,"severity_id":2,"time":1767323045678,"metadata":{"product":{"name":"netproxy-dp"},"version":"1.3.0","event_code":"codex.network_proxy.policy_decision","sequence":9},"src_endpoint":{"ip":"127.0.0.1","port":4000},"dst_endpoint":{"hostname":"a.test","port":80},"connection_info":{"direction_id":2,"protocol_num":6},"app_name":"http","action_id":2,"disposition_id":2,"status_id":2,"status_detail":"denied","firewall_rule":{"uid":"3","name":"**.test"},"policy":{"uid":"00","name":"w","version":"2"},"unmapped":{"network.policy.scope":"domain","network.policy.decision":"deny","network.policy.source":"baseline_policy","network.policy.override":false,"http.request.method":"GET"}}"#;
        assert_eq!(event(line), event(LINE));
        let other = line.replace("\"hostname\":\"a.test\"", "\"ip\":\"192.0.2.1\"");
        assert_eq!(event(&other).host, "192.0.2.1");
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_001, "2000-02-29T00:00:00.001Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
        ] {
            assert_eq!(timestamp(millis), expected);
        }
    }

    proptest! {
        /// The short way says what the long way says.
        #[test]
        fn both_ways_agree(text in r#"\{("[a-z.]{1,3}":("[a-z\\\\u0]{0,4}"|[0-9]{1,3}(\.[0-9])?|true|null)[,}]?){1,3}\}?"#) {
            if flat(text.as_bytes(), &mut Found::default()).is_some() {
                prop_assert!(serde_json::from_str::<Value>(&text).is_ok(), "{}", text);
            }
        }

        #[test]
        fn nothing_panics(line in any::<Vec<u8>>()) {
            let _ = parse(&line);
        }
    }
}
