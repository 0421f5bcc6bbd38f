//! The journal of systemd, by its own protocol: a datagram for each event, with a field for each of its facts.

use super::backlog::{Backlog, Destination};
use super::json::{PRODUCT, Stamp, VERSION, number};
use super::record::{Change, Event, Gap, Kind};
use super::setup::Form;
use std::io;
#[cfg(unix)]
use std::os::unix::net::UnixDatagram;
#[cfg(unix)]
use std::time::Duration;

/// Where it listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// For a datagram to be taken.
#[cfg(unix)]
const WRITE: Duration = Duration::from_millis(500);

/// The sink.
pub(super) type JournaldSink = Backlog<Journal>;

/// The journal.
pub(super) struct Journal {
    path: String,
    #[cfg(unix)]
    socket: Option<UnixDatagram>,
    /// Fields that every event gets, as they are sent.
    metadata: Vec<u8>,
}

impl JournaldSink {
    pub(super) fn open(form: &Form) -> Result<Self, String> {
        if cfg!(not(unix)) {
            return Err("there is no journal on this system".to_owned());
        }
        if !std::path::Path::new(SOCKET).exists() {
            return Err(format!("there is no journal on this system (`{SOCKET}` is missing)"));
        }
        Ok(Self::at(SOCKET, form))
    }

    fn at(path: &str, form: &Form) -> Self {
        let mut metadata = Vec::new();
        for (name, value) in &form.metadata {
            field(&mut metadata, &upper(name), value);
        }
        let mut journal = Journal {
            path: path.to_owned(),
            #[cfg(unix)]
            socket: None,
            metadata,
        };
        // Now, because it may be out of reach later. One that is not there is tried again.
        #[cfg(unix)]
        let _ = journal.connected();
        Self::new(journal, form.lossy)
    }
}

#[cfg(unix)]
impl Journal {
    fn connected(&mut self) -> io::Result<&UnixDatagram> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(&self.path)?;
                socket.set_write_timeout(Some(WRITE))?;
                socket
            }
        };
        Ok(self.socket.insert(socket))
    }
}

impl Destination for Journal {
    const NAME: &'static str = "journald";

    #[cfg(unix)]
    fn send(&mut self, message: &[u8]) -> io::Result<bool> {
        self.connected()?.send(message).map(|_| true)
    }

    #[cfg(not(unix))]
    fn send(&mut self, _message: &[u8]) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn failed(&mut self, _error: &io::Error) {
        #[cfg(unix)]
        {
            self.socket = None;
        }
    }

    fn message(&mut self, event: &Event) -> Vec<u8> {
        let mut out = Vec::with_capacity(768);
        field(&mut out, "MESSAGE", &said(event));
        number_field(&mut out, "PRIORITY", super::syslog::severity(&event.kind).into());
        field(&mut out, "SYSLOG_IDENTIFIER", PRODUCT);
        field(&mut out, "EVENT_NAME", event.kind.name());
        number_field(&mut out, "EVENT_TIME_MS", event.time);
        number_field(&mut out, "EVENT_SEQUENCE", event.sequence);
        if let Some(exchange) = event.kind.exchange() {
            number_field(&mut out, "NETWORK_EXCHANGE_ID", exchange.id);
            number_field(&mut out, "NETWORK_POLICY_GENERATION", exchange.generation);
            field(&mut out, "NETWORK_TRANSPORT_PROTOCOL", exchange.protocol.as_str());
            field(&mut out, "SERVER_ADDRESS", exchange.host.as_str());
            number_field(&mut out, "SERVER_PORT", exchange.port.into());
            field(&mut out, "CLIENT_ADDRESS", &exchange.client.to_string());
        }
        if let Some(judged) = event.kind.judged() {
            field(&mut out, "NETWORK_POLICY_SCOPE", judged.scope());
            field(&mut out, "NETWORK_POLICY_DECISION", judged.verdict.as_str());
            field(&mut out, "NETWORK_POLICY_SOURCE", judged.source);
            field(&mut out, "NETWORK_POLICY_REASON", &judged.reason);
            field(&mut out, "NETWORK_POLICY_OVERRIDE", if judged.is_override { "true" } else { "false" });
            field(&mut out, "HTTP_REQUEST_METHOD", judged.method.as_deref().unwrap_or("none"));
        }
        facts(&mut out, &event.kind);
        if let Some(label) = &event.label {
            // What is about a request has said it.
            if event.kind.exchange().is_none() {
                number_field(&mut out, "NETWORK_POLICY_GENERATION", label.policy.generation);
            }
            field(&mut out, "NETWORK_POLICY_PROFILE", &label.policy.profile);
            field(&mut out, "NETWORK_POLICY_DIGEST", &label.policy.digest);
            if let Some(rule) = &label.rule {
                number_field(&mut out, "NETWORK_POLICY_RULE", rule.id.into());
                field(&mut out, "NETWORK_POLICY_PATTERN", &rule.pattern);
                field(&mut out, "NETWORK_POLICY_LAYER", rule.layer);
                field(&mut out, "NETWORK_POLICY_PLACE", &rule.place);
            }
        }
        out.extend_from_slice(&self.metadata);
        out
    }
}

/// What no other kind of event has.
fn facts(out: &mut Vec<u8>, kind: &Kind) {
    match kind {
        Kind::Close(ended) => {
            number_field(out, "NETWORK_IO_UP", ended.up);
            number_field(out, "NETWORK_IO_DOWN", ended.down);
            number_field(out, "DURATION_MS", super::json::millis(ended));
            field(out, "OUTCOME", ended.ending.as_str());
            if let Some(detail) = ended.ending.detail() {
                field(out, "OUTCOME_DETAIL", detail);
            }
        }
        Kind::Inner { closed, .. } => field(out, "OUTCOME", if *closed { "closed" } else { "passed" }),
        Kind::Policy(Change::Swapped { rules, .. }) => {
            field(out, "OUTCOME", "swapped");
            number_field(out, "NETWORK_POLICY_RULES", (*rules).into());
        }
        Kind::Policy(Change::Refused(why)) => {
            field(out, "OUTCOME", "refused");
            field(out, "OUTCOME_DETAIL", why);
        }
        Kind::Policy(Change::Withdrawn(why)) => {
            field(out, "OUTCOME", "withdrawn");
            field(out, "OUTCOME_DETAIL", why);
        }
        Kind::Mode { mode, set, .. } => {
            field(out, "NETWORK_POLICY_MODE", mode.as_str());
            field(out, "OUTCOME", if *set { "set" } else { "policy" });
        }
        Kind::Limit(reached) => {
            field(out, "NETWORK_LIMIT_NAME", reached.limit);
            number_field(out, "NETWORK_LIMIT_COUNT", reached.count);
            if let Some(host) = &reached.host {
                field(out, "SERVER_ADDRESS", host.as_str());
            }
            if let Some(port) = reached.port {
                number_field(out, "SERVER_PORT", port.into());
            }
            if let Some(client) = reached.client {
                field(out, "CLIENT_ADDRESS", &client.to_string());
            }
        }
        Kind::Fault(what) => field(out, "OUTCOME_DETAIL", what),
        Kind::Lost(Gap { count, since, sink }) => {
            number_field(out, "EVENT_LOST_COUNT", *count);
            field(out, "EVENT_LOST_SINCE", &String::from_utf8_lossy(Stamp::default().of(*since)));
            if let Some(sink) = sink {
                field(out, "EVENT_LOST_SINK", sink);
            }
        }
        Kind::Start(start) => {
            field(out, "SERVICE_NAME", PRODUCT);
            field(out, "SERVICE_VERSION", VERSION);
            number_field(out, "PROCESS_PID", start.process.into());
        }
        Kind::Decision(_) | Kind::Revoked(_) | Kind::Stop => {}
    }
}

/// A line for people.
fn said(event: &Event) -> String {
    match (&event.kind, event.kind.exchange()) {
        (Kind::Close(ended), Some(exchange)) => {
            format!(
                "closed {} {}:{}: {}, {} B up, {} B down",
                exchange.protocol,
                exchange.host,
                exchange.port,
                ended.ending.as_str(),
                ended.up,
                ended.down
            )
        }
        (kind, Some(exchange)) => {
            let judged = kind.judged().map(|judged| (judged.verdict.as_str(), judged.reason.as_ref()));
            let (verdict, reason) = judged.unwrap_or_default();
            format!("{verdict} {} {}:{} ({reason})", exchange.protocol, exchange.host, exchange.port)
        }
        (Kind::Fault(what), None) => format!("fault: {what}"),
        // All of it, as the logs have it.
        (_, None) => event.json(),
    }
}

/// A field's name: upper case, `_` for what no name has.
fn upper(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// `NAME=value`; with a line feed in the value, its length as eight bytes, little-endian, instead of `=`.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

fn number_field(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    out.push(b'=');
    number(out, value);
    out.push(b'\n');
}

#[cfg(all(test, unix))]
#[path = "journald/tests.rs"]
mod tests;
