//! Events as log records of OpenTelemetry: the fields of the JSON lines as attributes, numbers as numbers. With the names of OCSF, which nest, the body is the JSON.

use crate::audit::json::{self, PRODUCT, Stamp, VERSION, is_bad, millis};
use crate::audit::record::{Change, Ended, Event, Exchange, Gap, Judged, Kind, Label, Reached};
use crate::audit::setup::Form;
use crate::tls::hexadecimal;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use opentelemetry_proto::tonic::resource::v1::Resource;
use policy_format::AuditNaming;
use prost::Message;
use ring::rand::{SecureRandom, SystemRandom};
use std::time::SystemTime;

/// The scope of all records.
const SCOPE: &str = "codex_otel.network_proxy";
/// Bytes of the records of a request. Collectors take four MiB over gRPC, and more over HTTP, unless they are told otherwise.
const MAX_BYTES: usize = 1 << 20;

/// `ExportLogsServiceRequest`, its records encoded already: then only one of them at a time is there in many pieces.
#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_logs: Vec<ResourceLogs>,
}

/// `ResourceLogs`.
#[derive(Clone, PartialEq, prost::Message)]
struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_logs: Vec<ScopeLogs>,
}

/// `ScopeLogs`. In bytes, a message within another is what a string of bytes is.
#[derive(Clone, PartialEq, prost::Message)]
struct ScopeLogs {
    #[prost(message, optional, tag = "1")]
    scope: Option<InstrumentationScope>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    log_records: Vec<Vec<u8>>,
}

/// Makes requests of events.
pub(super) struct Encoder {
    resource: Resource,
    scope: InstrumentationScope,
    metadata: Vec<KeyValue>,
    instance: String,
    /// What writes the bodies of records, where events have the names of OCSF.
    ocsf: Option<json::Encoder>,
}

impl Encoder {
    pub(super) fn new(form: &Form) -> Self {
        let instance = instance();
        let resource = [
            ("service.name", Some(PRODUCT.to_owned())),
            ("service.version", Some(VERSION.to_owned())),
            ("service.instance.id", Some(instance.clone())),
            ("host.name", host_name()),
        ];
        let attributes = resource.into_iter().filter_map(|(name, value)| Some(text(name, &value?))).collect();
        Self {
            resource: Resource { attributes, ..Resource::default() },
            scope: InstrumentationScope { name: SCOPE.to_owned(), version: VERSION.to_owned(), ..InstrumentationScope::default() },
            metadata: form.metadata.iter().map(|(name, value)| text(name, value)).collect(),
            instance,
            ocsf: (form.naming == AuditNaming::Ocsf).then(|| json::Encoder::new(form)),
        }
    }

    /// A request with as many of these events as go into one, from the first, and how many they are: one at least, if there are any.
    pub(super) fn request<'e>(&mut self, events: impl IntoIterator<Item = &'e Event>) -> (Vec<u8>, usize) {
        let observed = nanoseconds(SystemTime::now());
        let (mut log_records, mut bytes) = (Vec::new(), 0);
        for event in events {
            let record = self.record(event, observed).encode_to_vec();
            bytes += record.len();
            if bytes > MAX_BYTES && !log_records.is_empty() {
                break;
            }
            log_records.push(record);
        }
        let count = log_records.len();
        let scope_logs = vec![ScopeLogs { scope: Some(self.scope.clone()), log_records }];
        let request = Request { resource_logs: vec![ResourceLogs { resource: Some(self.resource.clone()), scope_logs }] };
        (request.encode_to_vec(), count)
    }

    fn record(&mut self, event: &Event, observed: u64) -> LogRecord {
        let name = event.kind.name();
        let mut fields = Fields(Vec::with_capacity(32));
        fields.text("event.name", name);
        fields.text("event.timestamp", &timestamp(event.time));
        let body = self.ocsf.as_mut().map(|encoder| line(encoder, event));
        if body.is_none() {
            fields.kind(&event.kind);
            fields.0.extend_from_slice(&self.metadata);
            fields.policy(event);
            if let Some(exchange) = event.kind.exchange() {
                fields.number("network.exchange.id", exchange.id);
            }
        }
        // A collector that gets a batch twice, since its answer did not arrive, can tell.
        fields.text("log.record.uid", &format!("{}-{}", self.instance, event.sequence));
        let severity = severity(&event.kind);
        LogRecord {
            time_unix_nano: event.time.saturating_mul(1_000_000),
            observed_time_unix_nano: observed,
            severity_number: severity.into(),
            severity_text: severity_text(severity).to_owned(),
            body: body.map(|body| AnyValue { value: Some(Value::StringValue(body)) }),
            attributes: fields.0,
            event_name: name.to_owned(),
            ..LogRecord::default()
        }
    }
}

/// Of what did not go well, what somebody has to see to is an error.
fn severity(kind: &Kind) -> SeverityNumber {
    match kind {
        Kind::Policy(Change::Refused(_) | Change::Withdrawn(_)) | Kind::Fault(_) | Kind::Lost(_) => SeverityNumber::Error,
        kind if is_bad(kind) => SeverityNumber::Warn,
        _ => SeverityNumber::Info,
    }
}

fn severity_text(severity: SeverityNumber) -> &'static str {
    match severity {
        SeverityNumber::Info => "INFO",
        SeverityNumber::Warn => "WARN",
        _ => "ERROR",
    }
}

/// Attributes, in the order of the JSON lines.
struct Fields(Vec<KeyValue>);

impl Fields {
    fn put(&mut self, name: &str, value: Value) {
        self.0.push(key_value(name, value));
    }

    fn text(&mut self, name: &str, value: &str) {
        self.put(name, Value::StringValue(value.to_owned()));
    }

    /// One that protobuf cannot say is as large as it can.
    fn number(&mut self, name: &str, value: u64) {
        self.put(name, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.put(name, Value::BoolValue(value));
    }

    fn kind(&mut self, kind: &Kind) {
        match kind {
            Kind::Decision(judged) | Kind::Revoked(judged) => self.judged(judged),
            Kind::Inner { judged, closed } => {
                self.judged(judged);
                self.text("outcome", if *closed { "closed" } else { "passed" });
            }
            Kind::Close(ended) => self.ended(ended),
            Kind::Policy(Change::Swapped { rules, .. }) => {
                self.text("outcome", "swapped");
                self.number("network.policy.rules", (*rules).into());
            }
            Kind::Policy(Change::Refused(why)) => self.failed("refused", why),
            Kind::Policy(Change::Withdrawn(why)) => self.failed("withdrawn", why),
            Kind::Mode { mode, set, .. } => {
                self.text("network.policy.mode", mode.as_str());
                self.text("outcome", if *set { "set" } else { "policy" });
            }
            Kind::Limit(reached) => self.limit(reached),
            Kind::Fault(what) => self.text("outcome.detail", what),
            Kind::Lost(Gap { count, since, sink }) => {
                self.number("event.lost.count", *count);
                self.text("event.lost.since", &timestamp(*since));
                if let Some(sink) = sink {
                    self.text("event.lost.sink", sink);
                }
            }
            Kind::Start(start) => {
                self.text("service.name", PRODUCT);
                self.text("service.version", VERSION);
                self.number("process.pid", start.process.into());
            }
            Kind::Stop => {}
        }
    }

    fn judged(&mut self, judged: &Judged) {
        self.text("network.policy.scope", judged.scope());
        self.text("network.policy.decision", judged.verdict.as_str());
        self.text("network.policy.source", judged.source);
        self.text("network.policy.reason", &judged.reason);
        self.exchange(&judged.exchange);
        self.text("http.request.method", judged.method.as_deref().unwrap_or("none"));
        self.flag("network.policy.override", judged.is_override);
    }

    fn ended(&mut self, ended: &Ended) {
        self.exchange(&ended.exchange);
        self.number("network.io.up", ended.up);
        self.number("network.io.down", ended.down);
        self.number("duration_ms", millis(ended));
        self.text("outcome", ended.ending.as_str());
        if let Some(detail) = ended.ending.detail() {
            self.text("outcome.detail", detail);
        }
    }

    fn exchange(&mut self, exchange: &Exchange) {
        self.text("network.transport.protocol", exchange.protocol.as_str());
        self.text("server.address", exchange.host.as_str());
        self.number("server.port", exchange.port.into());
        self.text("client.address", &exchange.client.to_string());
    }

    fn limit(&mut self, reached: &Reached) {
        self.text("network.limit.name", reached.limit);
        self.number("network.limit.count", reached.count);
        if let Some(host) = &reached.host {
            self.text("server.address", host.as_str());
        }
        if let Some(port) = reached.port {
            self.number("server.port", port.into());
        }
        if let Some(client) = reached.client {
            self.text("client.address", &client.to_string());
        }
    }

    fn failed(&mut self, outcome: &str, why: &str) {
        self.text("outcome", outcome);
        self.text("outcome.detail", why);
    }

    /// By which policy, and which rule of it. Of an end, its decision says so.
    fn policy(&mut self, event: &Event) {
        match (&event.label, &event.kind) {
            (Some(label), kind) if !matches!(kind, Kind::Close(_)) => self.label(label),
            (_, kind) => {
                if let Some(exchange) = kind.exchange() {
                    self.number("network.policy.generation", exchange.generation);
                }
            }
        }
    }

    fn label(&mut self, label: &Label) {
        if let Some(rule) = &label.rule {
            self.number("network.policy.rule", rule.id.into());
            self.text("network.policy.pattern", &rule.pattern);
            self.text("network.policy.layer", rule.layer);
            self.text("network.policy.place", &rule.place);
        }
        self.text("network.policy.profile", &label.policy.profile);
        self.text("network.policy.digest", &label.policy.digest);
        self.number("network.policy.generation", label.policy.generation);
    }
}

/// The JSON line of an event, without its end.
fn line(encoder: &mut json::Encoder, event: &Event) -> String {
    let mut line = Vec::with_capacity(1024);
    encoder.line(&mut line, event);
    line.pop();
    String::from_utf8(line).unwrap_or_default()
}

/// As the JSON lines have it.
fn timestamp(time: u64) -> String {
    String::from_utf8_lossy(Stamp::default().of(time)).into_owned()
}

fn key_value(name: &str, value: Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(name: &str, value: &str) -> KeyValue {
    key_value(name, Value::StringValue(value.to_owned()))
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A random UUID (RFC 9562, version 4): each start of a process is an instance of the service.
fn instance() -> String {
    let mut bytes = [0; 16];
    // Without random numbers nothing else would work either.
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hexadecimal(&bytes);
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

#[cfg(unix)]
fn host_name() -> Option<String> {
    let name = rustix::system::uname();
    name.nodename().to_str().ok().filter(|name| !name.is_empty()).map(str::to_owned)
}

#[cfg(not(unix))]
fn host_name() -> Option<String> {
    std::env::var("COMPUTERNAME").ok().filter(|name| !name.is_empty())
}
