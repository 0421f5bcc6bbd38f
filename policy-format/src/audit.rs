//! What is written down of decisions, and where: the settings of audit.
//!
//! Every setting has its default here, and nowhere else.

use crate::host::Host;
use crate::pattern::parse_port;
use crate::settings::{DAY, KIB, Limit, LimitKind, named};
use crate::url::hide_user;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// What is written down of decisions, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The absolute path of a file that gets a line of JSON for each event.
    pub file: Option<String>,
    /// Whether standard output gets the same lines.
    pub stdout: bool,
    /// The syslog server that gets each event (RFC 5424).
    pub syslog: Option<SyslogTarget>,
    /// Whether the journal of systemd gets each event.
    pub journald: bool,
    /// The collector of OpenTelemetry that gets each event.
    pub otlp: Option<Otlp>,
    /// How the fields are called.
    pub naming: AuditNaming,
    /// Which events there are.
    pub level: AuditLevel,
    /// What happens to requests when the queue is full.
    pub on_full: OnFull,
    /// Events that may wait to be written.
    pub queue: usize,
    /// Bytes of the file after which it is closed and the next one begins. 0: it is not.
    pub rotate_bytes: u64,
    /// The same by age, from its first event. Zero: it is not.
    pub rotate_age: Duration,
    /// Files that are kept beside the current one; the oldest is deleted. 0: all.
    pub keep: usize,
    /// When the file is forced to the disk.
    pub fsync: Fsync,
    /// Whether the lines of the file are chained by hashes, so that `netpolicy audit verify` finds what was changed.
    pub chain: bool,
    /// Fields that every event gets, by their name.
    pub metadata: BTreeMap<String, String>,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            file: None,
            stdout: false,
            syslog: None,
            journald: false,
            otlp: None,
            naming: AuditNaming::default(),
            level: AuditLevel::default(),
            on_full: OnFull::default(),
            queue: usize::try_from(QUEUE.default).unwrap_or(usize::MAX),
            rotate_bytes: ROTATE_BYTES.default,
            rotate_age: Duration::from_millis(ROTATE_AGE.default),
            keep: usize::try_from(KEEP.default).unwrap_or(usize::MAX),
            fsync: Fsync::default(),
            chain: true,
            metadata: BTreeMap::new(),
        }
    }
}

/// How the fields of events are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AuditNaming {
    /// `codex.network_proxy.policy_decision`, with dotted names.
    #[default]
    Codex,
    /// Network Activity (class 4001) of the Open Cybersecurity Schema Framework.
    Ocsf,
}

/// Which events there are; each level has those of the one before. What becomes of the audit itself (its start, its stop, what was lost, a fault) is told at every level but `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum AuditLevel {
    /// None.
    Off,
    /// What was denied, or taken back.
    Denied,
    /// What was allowed too.
    Decisions,
    /// How what was allowed has ended too, and limits that were reached.
    #[default]
    All,
}

/// What happens to requests when the queue of events is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnFull {
    /// They go on; the events that are lost are counted, and told in an event.
    #[default]
    Drop,
    /// They wait until there is room.
    Block,
    /// They are denied.
    Deny,
}

/// When the file is forced to the disk: each more often than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Fsync {
    /// When the system thinks so.
    Never,
    /// When the file is closed.
    #[default]
    Rotate,
    /// After each batch of events.
    Always,
}

/// How a collector of OpenTelemetry is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OtlpProtocol {
    /// OTLP/HTTP, with protobuf.
    #[default]
    Http,
    /// OTLP/gRPC.
    Grpc,
}

named! {
    AuditNaming { Codex = "codex", Ocsf = "ocsf" }
    AuditLevel { Off = "off", Denied = "denied", Decisions = "decisions", All = "all" }
    OnFull { Drop = "drop", Block = "block", Deny = "deny" }
    Fsync { Never = "never", Rotate = "rotate", Always = "always" }
    OtlpProtocol { Http = "http", Grpc = "grpc" }
}

/// A collector of OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Otlp {
    /// Its URL: `http://` or `https://`, a host, perhaps a port and a path.
    pub endpoint: String,
    /// How it is spoken to.
    pub protocol: OtlpProtocol,
    /// The absolute path of a file with headers that requests carry, such as a token: `name: value`, a line each.
    pub headers_file: Option<String>,
}

/// Where a syslog server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogTarget {
    /// A unix socket for datagrams, by its absolute path.
    Socket(String),
    /// A UDP port (RFC 5426).
    Udp(SocketAddr),
    /// A TCP port, with counted frames (RFC 6587, section 3.4.1).
    Tcp(SocketAddr),
}

/// Why text is no setting of audit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuditError(pub String);

const QUEUE: Limit =
    Limit { name: "queue", kind: LimitKind::Count, default: 64 * 1024, min: 16, max: 1 << 24, doc: "Events that may wait to be written." };
const ROTATE_BYTES: Limit = Limit {
    name: "rotate_bytes",
    kind: LimitKind::Bytes,
    default: 64 * KIB * KIB,
    min: 0,
    max: u64::MAX,
    doc: "Bytes of the file after which the next one begins. 0: it grows.",
};
const ROTATE_AGE: Limit = Limit {
    name: "rotate_age",
    kind: LimitKind::Time,
    default: 0,
    min: 0,
    max: 365 * DAY,
    doc: "Time after which the next file begins. 0: it does not by age.",
};
const KEEP: Limit = Limit {
    name: "keep",
    kind: LimitKind::Count,
    default: 16,
    min: 0,
    max: 1 << 20,
    doc: "Files that are kept beside the current one; the oldest is deleted. 0: all.",
};

/// Bytes of a path.
const MAX_PATH: usize = 4096;
/// Bytes of an endpoint's URL.
const MAX_URL: usize = 2048;

/// The first words of names that events have themselves.
const OWN_NAMES: [&str; 8] = ["event", "network", "server", "http", "client", "outcome", "duration_ms", "chain"];

impl Audit {
    /// Its settings that are numbers.
    pub const NUMBERS: &'static [Limit] = &[QUEUE, ROTATE_BYTES, ROTATE_AGE, KEEP];
    /// Fields that every event may get.
    pub const MAX_METADATA: usize = 64;
    /// Bytes of a field's name.
    pub const MAX_NAME: usize = 64;
    /// Bytes of a field's value.
    pub const MAX_VALUE: usize = 1024;

    /// The setting of that name that is a number.
    #[must_use]
    pub fn number(name: &str) -> Option<&'static Limit> {
        Self::NUMBERS.iter().find(|number| number.name == name)
    }

    /// The value of a setting that is a number, in the unit of its kind; `None` for a name that none has.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        Some(match name {
            "queue" => self.queue as u64,
            "rotate_bytes" => self.rotate_bytes,
            "rotate_age" => u64::try_from(self.rotate_age.as_millis()).unwrap_or(u64::MAX),
            "keep" => self.keep as u64,
            _ => return None,
        })
    }

    /// Sets a setting that is a number; a value out of its bounds is brought into them. Does nothing for a name that none has.
    pub fn set(&mut self, name: &str, value: u64) {
        let Some(number) = Self::number(name) else { return };
        let value = value.clamp(number.min, number.max);
        let count = usize::try_from(value).unwrap_or(usize::MAX);
        match name {
            "queue" => self.queue = count,
            "rotate_bytes" => self.rotate_bytes = value,
            "rotate_age" => self.rotate_age = Duration::from_millis(value),
            "keep" => self.keep = count,
            _ => {}
        }
    }

    /// Whether anything is written anywhere.
    #[must_use]
    pub fn has_sink(&self) -> bool {
        self.level != AuditLevel::Off
            && (self.file.is_some() || self.stdout || self.syslog.is_some() || self.journald || self.otlp.is_some())
    }

    /// Checks a field that every event is to get: a name in lower case, in words with dots between them, which is none of an event's own, and a value without control
    /// characters.
    ///
    /// # Errors
    /// [`AuditError`] that says what is wrong.
    pub fn check_metadata(name: &str, value: &str) -> Result<(), AuditError> {
        let wrong = |why: String| Err(AuditError(why));
        let word = |word: &str| !word.is_empty() && word.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if name.len() > Self::MAX_NAME || !name.split('.').all(word) {
            return wrong(format!(
                "`{}` is not the name of a field: words of `a-z`, `0-9` and `_` with dots between them, {} bytes at most",
                shown(name),
                Self::MAX_NAME
            ));
        }
        if name.split('.').next().is_some_and(|first| OWN_NAMES.contains(&first)) {
            return wrong(format!("`{name}` is a field that events have themselves"));
        }
        if value.len() > Self::MAX_VALUE || value.chars().any(char::is_control) {
            return wrong(format!("the value of `{name}` has control characters, or more than {} bytes", Self::MAX_VALUE));
        }
        Ok(())
    }

    /// Whether text is a path that a policy may name: absolute, and of a file.
    #[must_use]
    pub fn is_path(text: &str) -> bool {
        text.starts_with('/') && !text.ends_with('/') && text.len() <= MAX_PATH && !text.chars().any(char::is_control)
    }
}

impl Otlp {
    /// Checks the URL of a collector: `http://` or `https://`, a host, perhaps a port and a path; no user, no query, no fragment.
    ///
    /// # Errors
    /// [`AuditError`] that says what is wrong.
    pub fn check_endpoint(text: &str) -> Result<(), AuditError> {
        let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else {
            return Err(no_collector(text, "it starts with `http://` or `https://`"));
        };
        check_place(text, rest)
    }

    /// [`Self::check_endpoint`], and that the URL goes with how the collector is spoken to: gRPC has no path.
    ///
    /// # Errors
    /// [`AuditError`] that says what is wrong.
    pub fn check_endpoint_for(text: &str, protocol: OtlpProtocol) -> Result<(), AuditError> {
        Self::check_endpoint(text)?;
        check_path(text, protocol)
    }
}

fn no_collector(text: &str, why: &str) -> AuditError {
    AuditError(format!("`{}` is not the URL of a collector: {why}", shown_url(text)))
}

/// Checks what is behind the scheme.
fn check_place(text: &str, rest: &str) -> Result<(), AuditError> {
    let wrong = |why: &str| Err(no_collector(text, why));
    if text.len() > MAX_URL || rest.contains(|c: char| !c.is_ascii_graphic() || "?#\\\"<>{}^`|".contains(c)) {
        return wrong("it has a query, a fragment, or characters that no URL has");
    }
    let (authority, _) = rest.split_at_checked(rest.find('/').unwrap_or(rest.len())).unwrap_or((rest, ""));
    if authority.contains('@') {
        return wrong("a user or a password has no place in it: headers that authenticate are read from a file of their own");
    }
    let colon = authority.rfind(':').filter(|colon| authority.rfind(']').is_none_or(|bracket| bracket < *colon));
    let (host, port) = colon.and_then(|colon| authority.split_at_checked(colon)).unwrap_or((authority, ""));
    let has_port = port.is_empty() || port.strip_prefix(':').and_then(parse_port).is_some();
    if !has_port || !matches!(Host::parse(host), Ok(Host::Name(_) | Host::Ip(_))) {
        return wrong("its host or its port is none");
    }
    Ok(())
}

fn check_path(text: &str, protocol: OtlpProtocol) -> Result<(), AuditError> {
    let path = text.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    if protocol == OtlpProtocol::Grpc && !path.is_empty() {
        return Err(AuditError(format!("`{}` is not the URL of a collector that is spoken to by gRPC: it has a path", shown_url(text))));
    }
    Ok(())
}

impl FromStr for Otlp {
    type Err = AuditError;

    /// Reads a URL whose scheme says how the collector is spoken to: `http://` or `https://` for OTLP/HTTP, `grpc://` or `grpcs://` for OTLP/gRPC.
    fn from_str(text: &str) -> Result<Self, AuditError> {
        let (scheme, protocol, rest) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (scheme, OtlpProtocol::Http, rest),
            Some(("grpc", rest)) => ("http", OtlpProtocol::Grpc, rest),
            Some(("grpcs", rest)) => ("https", OtlpProtocol::Grpc, rest),
            _ => return Err(no_collector(text, "it starts with `http://`, `https://`, `grpc://` or `grpcs://`")),
        };
        check_place(text, rest)?;
        check_path(text, protocol)?;
        Ok(Self { endpoint: format!("{scheme}://{rest}"), protocol, headers_file: None })
    }
}

impl FromStr for SyslogTarget {
    type Err = AuditError;

    /// Reads `/dev/log`, `udp://10.0.0.1:514` or `tcp://10.0.0.1:601`.
    fn from_str(text: &str) -> Result<Self, AuditError> {
        let wrong = |why: &str| AuditError(format!("`{}` is no syslog server: {why}", shown_url(text)));
        if text.starts_with('/') {
            return if Audit::is_path(text) { Ok(Self::Socket(text.to_owned())) } else { Err(wrong("this is not the path of a socket")) };
        }
        let (scheme, address) = text
            .split_once("://")
            .ok_or_else(|| wrong("it is the absolute path of a socket, `udp://ADDRESS:PORT` or `tcp://ADDRESS:PORT`"))?;
        let address: SocketAddr = address.parse().map_err(|_| wrong("it has no address with a port; names are not looked up"))?;
        // One way to write it: addresses with a flow or a scope have several.
        if address.port() == 0 || address.to_string().parse() != Ok(address) {
            return Err(wrong("nobody listens at this address"));
        }
        match scheme {
            "udp" => Ok(Self::Udp(address)),
            "tcp" => Ok(Self::Tcp(address)),
            _ => Err(wrong("it is spoken to by `udp` or `tcp`")),
        }
    }
}

impl fmt::Display for SyslogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => f.write_str(path),
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Text for an error, which may be long or strange.
fn shown(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_debug).collect()
}

/// The same of a URL, without its user and its password, or of a path.
fn shown_url(text: &str) -> String {
    let place = text.find("://").map_or(0, |scheme| scheme + "://".len());
    if text.starts_with('/') { shown(text) } else { shown(&hide_user(text, place)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_defaults_that_they_say() {
        let mut audit = Audit::default();
        for number in Audit::NUMBERS {
            assert!((number.min..=number.max).contains(&number.default), "{}", number.name);
            assert_eq!(audit.get(number.name), Some(number.default), "{}", number.name);
            for value in [number.min, number.default, number.max] {
                assert_eq!(number.parse(&number.shown(value)), Ok(value), "{}", number.name);
                audit.set(number.name, value);
                assert_eq!(audit.get(number.name), Some(value), "{}", number.name);
            }
        }
        audit.set("queue", 1);
        assert_eq!((audit.queue, audit.get("file")), (16, None));
    }

    #[test]
    fn sinks_are_what_is_written_to() {
        let default = Audit::default();
        assert!(!default.has_sink());
        for audit in [
            Audit { file: Some("/a".into()), ..default.clone() },
            Audit { stdout: true, ..default.clone() },
            Audit { journald: true, ..default.clone() },
            Audit { syslog: "/dev/log".parse().ok(), ..default.clone() },
        ] {
            assert!(audit.has_sink(), "{audit:?}");
            assert!(!Audit { level: AuditLevel::Off, ..audit }.has_sink());
        }
    }

    #[test]
    fn syslog_servers_are_read_as_they_are_shown() {
        for text in ["/dev/log", "udp://10.0.0.1:514", "tcp://[2001:db8::1]:601"] {
            assert_eq!(text.parse::<SyslogTarget>().map(|target| target.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "",
            "/",
            "/a/",
            "/a\nb",
            "dev/log",
            "udp://10.0.0.1",
            "udp://log.test:514",
            "udp://10.0.0.1:0",
            "tls://10.0.0.1:6514",
            "10.0.0.1:514",
        ] {
            let error = text.parse::<SyslogTarget>().unwrap_err().to_string();
            assert!(error.contains(" is no syslog server: "), "{text}: {error}");
        }
    }

    #[test]
    fn endpoints_are_urls_without_secrets() {
        for text in [
            "http://127.0.0.1:4318",
            "https://otel.example.com",
            "https://otel.example.com/v1/logs",
            "http://[::1]:4317/",
            "http://localhost:4318",
        ] {
            assert_eq!(Otlp::check_endpoint(text), Ok(()), "{text}");
        }
        for text in [
            "otel.example.com:4317",
            "grpc://a.test",
            "https://",
            "https://:4318",
            "https://a.test:0",
            "https://a.test:x",
            "https://u:p@a.test",
            "https://a.test/?k=v",
            "https://a b",
            "http://127.1/",
            "https://a.test/\u{1}",
            "https://a.test/^",
            "https://a.test/`",
            "https://a.test/|",
            "https://a.test/é",
            "https://bücher.test",
        ] {
            assert!(Otlp::check_endpoint(text).is_err(), "{text}");
        }
        let (http, grpc) = (OtlpProtocol::Http, OtlpProtocol::Grpc);
        for (text, protocol, holds) in [
            ("https://a.test/v1/logs", http, true),
            ("https://a.test/v1/logs", grpc, false),
            ("https://a.test:4317//", grpc, false),
            ("https://a.test:4317/", grpc, true),
            ("https://a.test:4317", grpc, true),
            ("https://a.test:x", grpc, false),
        ] {
            assert_eq!(Otlp::check_endpoint_for(text, protocol).is_ok(), holds, "{text} {protocol:?}");
        }
        for (text, endpoint, protocol) in [
            ("http://a.test:4318", "http://a.test:4318", http),
            ("https://a.test/v1/logs", "https://a.test/v1/logs", http),
            ("grpc://a.test:4317", "http://a.test:4317", grpc),
            ("grpcs://a.test/", "https://a.test/", grpc),
        ] {
            let otlp = Otlp { endpoint: endpoint.to_owned(), protocol, headers_file: None };
            assert_eq!(text.parse(), Ok(otlp), "{text}");
        }
        for (text, said) in [
            ("a.test:4317", "`a.test:4317` is not the URL of a collector: it starts with `http://`, `https://`, `grpc://` or `grpcs://`"),
            ("grpc://a.test/x", "`grpc://a.test/x` is not the URL of a collector that is spoken to by gRPC: it has a path"),
            (
                "grpcs://a.test?x",
                "`grpcs://a.test?x` is not the URL of a collector: it has a query, a fragment, or characters that no URL has",
            ),
        ] {
            assert_eq!(text.parse::<Otlp>().unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn users_and_passwords_are_not_said() {
        for (text, shown) in [
            ("http://user:pw@a.test:4318", "http://*******@a.test:4318"),
            ("grpc://user:p@w@a.test", "grpc://********@a.test"),
            ("user:pw@a.test:4318", "*******@a.test:4318"),
            ("ftp://user:pw@127.0.0.1:1", "ftp://*******@127.0.0.1:1"),
            ("http:/user:pw@a.test", "*************@a.test"),
        ] {
            let errors = [
                text.parse::<Otlp>().unwrap_err(),
                Otlp::check_endpoint(text).unwrap_err(),
                Otlp::check_endpoint_for(text, OtlpProtocol::Grpc).unwrap_err(),
                text.parse::<SyslogTarget>().unwrap_err(),
            ];
            for error in errors.map(|error| error.to_string()) {
                assert!(error.starts_with(&format!("`{shown}` is ")), "{error}");
            }
        }
        assert!("/dev/l@g/".parse::<SyslogTarget>().unwrap_err().to_string().starts_with("`/dev/l@g/` is no"));
    }

    #[test]
    fn fields_do_not_say_what_events_say() {
        for name in ["model", "slug", "auth_mode", "conversation.id", "user.email", "app.version", "k8s.pod.name", "chained"] {
            assert_eq!(Audit::check_metadata(name, "any text, é"), Ok(()), "{name}");
        }
        for name in
            ["", ".", "a.", "A", "a b", "event.name", "network.policy.decision", "duration_ms", "chain", "outcome.detail", &"a".repeat(65)]
        {
            assert!(Audit::check_metadata(name, "x").is_err(), "{name}");
        }
        assert!(Audit::check_metadata("a", "x\ny").is_err() && Audit::check_metadata("a", &"x".repeat(1025)).is_err());
    }
}
