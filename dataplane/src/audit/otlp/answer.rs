//! What a collector answers, and what that means for what was sent (OTLP 1.10: failures, throttling, partial success).

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, StatusCode};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message;
use std::time::{Duration, SystemTime};

/// The longest that a collector can ask us to wait.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// Characters of what a collector says that are passed on.
const MAX_SAID: usize = 200;

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The collector has it, but for what it rejected.
    Accepted { rejected: u64, says: Option<String> },
    /// It will not have it, however often it is sent.
    Rejected(String),
    /// It is to be sent again: after a while, if the collector says how long.
    Later { after: Option<Duration>, why: String },
}

impl Outcome {
    pub(super) fn later(why: impl Into<String>) -> Self {
        Self::Later { after: None, why: why.into() }
    }
}

/// An answer to OTLP/HTTP.
pub(super) fn of_http(status: StatusCode, fields: &HeaderMap, body: &[u8], now: SystemTime) -> Outcome {
    if status.is_success() {
        return accepted(body);
    }
    // A `google.rpc.Status` says more, in protobuf; what is none says nothing.
    let is_protobuf = fields.get(http::header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-protobuf"));
    let said = if is_protobuf { Status::decode(body).map(|status| status.message).unwrap_or_default() } else { String::new() };
    let why = join(&format!("it answered {}", status.as_u16()), &said);
    match status.as_u16() {
        429 | 502 | 503 | 504 => {
            Outcome::Later { after: fields.get(http::header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now)), why }
        }
        _ => Outcome::Rejected(why),
    }
}

/// Seconds, or a date.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let wait = match text.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text.trim()).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(MAX_WAIT))
}

/// An answer to OTLP/gRPC: the fields that have `grpc-status`, if any do, and the message.
pub(super) fn of_grpc(status: StatusCode, fields: &HeaderMap, body: &[u8]) -> Outcome {
    let code = match fields.get("grpc-status") {
        Some(code) => code.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(UNKNOWN),
        // Whoever answered does not speak gRPC.
        None => match status.as_u16() {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            429 | 502 | 503 | 504 => UNAVAILABLE,
            _ => UNKNOWN,
        },
    };
    if code == 0 {
        // One message: not compressed, as nothing else was offered, and its length.
        return match body.split_first_chunk() {
            Some((&[0, a, b, c, d], message)) if usize::try_from(u32::from_be_bytes([a, b, c, d])) == Ok(message.len()) => {
                accepted(message)
            }
            _ => Outcome::later("its answer is cut off"),
        };
    }
    let said = fields.get("grpc-message").map(|said| decoded(said.as_bytes())).unwrap_or_default();
    let name = CODES.get(usize::try_from(code).unwrap_or(usize::MAX)).copied().unwrap_or("a status that gRPC does not have");
    let why = join(&format!("it answered {name}"), &said);
    let after = fields.get("grpc-status-details-bin").and_then(|details| retry_info(details.as_bytes()));
    match code {
        // What is used up comes back only if the collector says when.
        RESOURCE_EXHAUSTED if after.is_none() => Outcome::Rejected(why),
        1 | 4 | RESOURCE_EXHAUSTED | 10 | 11 | UNAVAILABLE | 15 => Outcome::Later { after, why },
        _ => Outcome::Rejected(why),
    }
}

const UNKNOWN: i32 = 2;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNAVAILABLE: i32 = 14;
/// The names of gRPC's statuses.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// It has it; a message that cannot be read says nothing else.
fn accepted(message: &[u8]) -> Outcome {
    let partial = ExportLogsServiceResponse::decode(message).ok().and_then(|response| response.partial_success).unwrap_or_default();
    let says = Some(shown(&partial.error_message)).filter(|says| !says.is_empty());
    Outcome::Accepted { rejected: u64::try_from(partial.rejected_log_records).unwrap_or(0), says }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, prost::Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// How long the collector wants us to wait.
fn retry_info(details: &[u8]) -> Option<Duration> {
    // With padding or without: gRPC has both.
    const EITHER: GeneralPurpose =
        GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));
    let status = Status::decode(EITHER.decode(details).ok()?.as_slice()).ok()?;
    let info = status.details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay.unwrap_or_default();
    let wait = Duration::new(u64::try_from(delay.seconds).unwrap_or(0), u32::try_from(delay.nanos).unwrap_or(0).min(999_999_999));
    Some(wait.min(MAX_WAIT))
}

/// Of gRPC's messages: `%` and two digits stand for a byte.
fn decoded(mut text: &[u8]) -> String {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        let encoded = match rest.split_first_chunk() {
            Some((&[high, low], rest)) if *first == b'%' => digit(high).zip(digit(low)).map(|(high, low)| (high << 4 | low, rest)),
            _ => None,
        };
        let (byte, rest) = encoded.unwrap_or((*first, rest));
        bytes.push(byte);
        text = rest;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn join(what: &str, said: &str) -> String {
    let said = shown(said);
    if said.is_empty() { what.to_owned() } else { format!("{what}: {said}") }
}

/// What a collector says, as it can stand in a line.
fn shown(said: &str) -> String {
    said.chars()
        .take(MAX_SAID)
        .flat_map(|c| if c.is_control() { c.escape_default().to_string().chars().collect() } else { vec![c] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsPartialSuccess;

    fn fields(of: &[(&'static str, &str)]) -> HeaderMap {
        of.iter().map(|(name, value)| ((*name).parse::<http::HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    fn partial(rejected: i64, says: &str) -> Vec<u8> {
        let partial_success = Some(ExportLogsPartialSuccess { rejected_log_records: rejected, error_message: says.to_owned() });
        ExportLogsServiceResponse { partial_success }.encode_to_vec()
    }

    #[test]
    fn http_is_retried_on_four_statuses() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let date = "Sun, 06 Nov 1994 08:49:47 GMT";
        let of = |status: u16, value: &[(&'static str, &str)]| of_http(StatusCode::from_u16(status).unwrap(), &fields(value), b"", now);
        for status in [429, 502, 503, 504] {
            let why = format!("it answered {status}");
            let later = |seconds: Option<u64>| Outcome::Later { after: seconds.map(Duration::from_secs), why: why.clone() };
            assert_eq!(of(status, &[]), later(None));
            assert_eq!(of(status, &[("retry-after", "7")]), later(Some(7)));
            assert_eq!(of(status, &[("retry-after", date)]), later(Some(10)));
            // Nobody is waited for a year, nor for what is no time.
            assert_eq!(of(status, &[("retry-after", "31536000")]), later(Some(300)));
            assert_eq!(of(status, &[("retry-after", "soon")]), later(None));
            assert_eq!(of(status, &[("retry-after", "-1")]), later(None));
        }
        for status in [301, 400, 401, 403, 404, 408, 413, 415, 500, 501, 505] {
            assert_eq!(of(status, &[("retry-after", "7")]), Outcome::Rejected(format!("it answered {status}")));
        }
    }

    #[test]
    fn partial_success_is_counted() {
        for (rejected, says, expected, said) in
            [(0, "", 0, None), (3, "too old", 3, Some("too old")), (0, "slow\ndown", 0, Some("slow\\ndown")), (-1, "", 0, None)]
        {
            let body = partial(rejected, says);
            let accepted = Outcome::Accepted { rejected: expected, says: said.map(str::to_owned) };
            assert_eq!(of_http(StatusCode::OK, &HeaderMap::new(), &body, SystemTime::UNIX_EPOCH), accepted);
            let framed = [&[0][..], &u32::try_from(body.len()).unwrap().to_be_bytes(), &body].concat();
            assert_eq!(of_grpc(StatusCode::OK, &fields(&[("grpc-status", "0")]), &framed), accepted);
            assert!(matches!(of_grpc(StatusCode::OK, &fields(&[("grpc-status", "0")]), framed.get(..3).unwrap()), Outcome::Later { .. }));
        }
        let nothing = Outcome::Accepted { rejected: 0, says: None };
        assert_eq!(of_http(StatusCode::OK, &HeaderMap::new(), b"", SystemTime::UNIX_EPOCH), nothing);
        assert_eq!(of_http(StatusCode::OK, &HeaderMap::new(), b"\xff\xff", SystemTime::UNIX_EPOCH), nothing);
    }

    #[test]
    fn grpc_is_retried_as_otlp_says() {
        let details = |seconds, nanos| {
            let info = RetryInfo { retry_delay: Some(Delay { seconds, nanos }) };
            let detail = Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value: info.encode_to_vec() };
            let status = Status { code: 8, message: String::new(), details: vec![Any::default(), detail] };
            base64::engine::general_purpose::STANDARD.encode(status.encode_to_vec())
        };
        let later =
            |code: &str| matches!(of_grpc(StatusCode::OK, &fields(&[("grpc-status", code)]), b""), Outcome::Later { after: None, .. });
        let retried: Vec<String> = (1..20).map(|code| code.to_string()).filter(|code| later(code)).collect();
        assert_eq!(retried, ["1", "4", "10", "11", "14", "15"]);
        for (padded, wait) in [(true, 1500), (false, 1500)] {
            let details = details(1, 500_000_000);
            let details = if padded { details } else { details.trim_end_matches('=').to_owned() };
            for code in ["8", "14"] {
                let fields = fields(&[("grpc-status", code), ("grpc-status-details-bin", &details)]);
                let outcome = of_grpc(StatusCode::OK, &fields, b"");
                assert!(
                    matches!(outcome, Outcome::Later { after: Some(after), .. } if after == Duration::from_millis(wait)),
                    "{outcome:?}"
                );
            }
        }
        for (message, shown) in
            [("too much", "too much"), ("too%20much%0A%c3%a9", "too much\\né"), ("50%, %2", "50%, %2"), ("%zz%", "%zz%")]
        {
            let fields = fields(&[("grpc-status", "8"), ("grpc-message", message)]);
            assert_eq!(of_grpc(StatusCode::OK, &fields, b""), Outcome::Rejected(format!("it answered RESOURCE_EXHAUSTED: {shown}")));
        }
    }

    #[test]
    fn what_does_not_speak_grpc_is_read_by_its_status() {
        for (status, later) in [(400, false), (401, false), (404, false), (415, false), (429, true), (502, true), (503, true), (504, true)]
        {
            let outcome = of_grpc(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), b"<html>");
            assert_eq!(matches!(outcome, Outcome::Later { .. }), later, "{status}");
        }
        assert!(matches!(of_grpc(StatusCode::OK, &HeaderMap::new(), b""), Outcome::Rejected(_)));
    }
}
