//! Collectors of OpenTelemetry: OTLP/gRPC as tonic serves it, and OTLP/HTTP as hyper does. They decode what they get, answer what they are told to, and can go away and come back.

use crate::{Refusing, wait_until};
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};

/// What a collector answers to one request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// It has all of it.
    Accept,
    /// It has all but so many, and says why.
    Partial(i64, &'static str),
    /// OTLP/HTTP: another status, perhaps with `Retry-After`.
    Http(u16, Option<&'static str>),
    /// OTLP/gRPC: another status, perhaps with so many seconds to wait.
    Grpc(Code, Option<i64>),
}

/// A request, as it came.
#[derive(Debug, Clone)]
pub struct Export {
    pub at: Instant,
    pub headers: HeaderMap,
    pub request: ExportLogsServiceRequest,
    /// Whether the answer was that it has all of it, or some.
    pub accepted: bool,
}

/// A record, with what is around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub name: String,
    pub severity: i32,
    pub nanoseconds: u64,
    pub scope: String,
    pub resource: BTreeMap<String, serde_json::Value>,
    pub attributes: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone)]
struct Seen {
    arrived: Arc<AtomicUsize>,
    exports: Arc<Mutex<Vec<Export>>>,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    /// Whether requests are answered; those that are not wait.
    answers: watch::Receiver<bool>,
}

/// A collector on loopback.
pub struct Collector {
    address: SocketAddr,
    grpc: bool,
    seen: Seen,
    gate: watch::Sender<bool>,
    /// All of it, as long as it is there.
    running: Option<Runtime>,
    /// Its address, as long as it is gone: nobody else is to take it.
    gone: Option<Refusing>,
}

impl Collector {
    /// One that speaks OTLP/HTTP.
    #[must_use]
    pub fn http() -> Self {
        Self::start(false)
    }

    /// One that speaks OTLP/gRPC.
    #[must_use]
    pub fn grpc() -> Self {
        Self::start(true)
    }

    fn start(grpc: bool) -> Self {
        let (gate, answers) = watch::channel(true);
        let seen = Seen { arrived: Arc::default(), exports: Arc::default(), replies: Arc::default(), answers };
        let mut collector = Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), grpc, seen, gate, running: None, gone: None };
        collector.come();
        collector
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As the proxy is told of it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.grpc { "grpc" } else { "http" }, self.address)
    }

    /// It is gone: its listener and its connections.
    pub fn go(&mut self) {
        drop(self.running.take());
        wait_until("the collector has left", || {
            self.gone = Refusing::at(self.address).ok();
            self.gone.is_some()
        });
    }

    /// It is there, where it was before it went.
    pub fn come(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let place = self.gone.take().unwrap_or_default();
        let listener = runtime.block_on(async { place.listen() });
        self.address = listener.local_addr().unwrap();
        let seen = self.seen.clone();
        if self.grpc {
            let service = LogsServiceServer::new(seen).accept_compressed(CompressionEncoding::Gzip);
            runtime.spawn(async move {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                tonic::transport::Server::builder().serve_with_incoming(service, incoming).await.unwrap();
            });
        } else {
            runtime.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    let seen = seen.clone();
                    let service = service_fn(move |request| {
                        let seen = seen.clone();
                        async move { Ok::<_, std::convert::Infallible>(seen.over_http(request).await) }
                    });
                    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
                }
            });
        }
        self.running = Some(runtime);
    }

    /// Requests wait for their answers from now on.
    pub fn hold(&self) {
        self.gate.send_replace(false);
    }

    /// They are answered.
    pub fn release(&self) {
        self.gate.send_replace(true);
    }

    /// What the next requests are answered, in order; those after them are accepted.
    pub fn reply(&self, replies: &[Reply]) {
        self.seen.replies.lock().unwrap().extend(replies.iter().cloned());
    }

    /// Requests so far, those that wait for an answer included.
    #[must_use]
    pub fn arrived(&self) -> usize {
        self.seen.arrived.load(Ordering::SeqCst)
    }

    /// Requests that were answered so far.
    #[must_use]
    pub fn exports(&self) -> Vec<Export> {
        self.seen.exports.lock().unwrap().clone()
    }

    /// Records of requests that were accepted.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.exports().iter().filter(|export| export.accepted).flat_map(|export| records(&export.request)).collect()
    }

    /// Those of one name.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<Record> {
        let name = format!("codex.network_proxy.{name}");
        self.records().into_iter().filter(|record| record.name == name).collect()
    }

    /// Waits until there are that many of one name, and gives them.
    #[must_use]
    pub fn wait_for(&self, name: &str, count: usize) -> Vec<Record> {
        wait_until(&format!("there are {count} events `{name}`"), || self.named(name).len() >= count);
        self.named(name)
    }
}

impl Seen {
    /// Notes a request once it may be answered, and what it is answered.
    async fn take(&self, headers: HeaderMap, request: ExportLogsServiceRequest) -> Reply {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.clone();
        // The sender is there as long as the collector is.
        let _ = answers.wait_for(|answers| *answers).await;
        let reply = self.replies.lock().unwrap().pop_front().unwrap_or(Reply::Accept);
        let accepted = matches!(reply, Reply::Accept | Reply::Partial(..));
        self.exports.lock().unwrap().push(Export { at: Instant::now(), headers, request, accepted });
        reply
    }

    async fn over_http(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let answer = |status: u16, retry_after: Option<&str>, body: Vec<u8>| {
            let mut response = Response::new(Full::new(body.into()));
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response.headers_mut().insert("content-type", "application/x-protobuf".parse().unwrap());
            if let Some(value) = retry_after {
                response.headers_mut().insert("retry-after", value.parse().unwrap());
            }
            response
        };
        let is_otlp = head.method == http::Method::POST
            && head.uri.path() == "/v1/logs"
            && head.headers.get("content-type").is_some_and(|kind| kind == "application/x-protobuf");
        if !is_otlp {
            return answer(404, None, Vec::new());
        }
        let Ok(body) = body.collect().await else { return answer(400, None, Vec::new()) };
        let mut body = body.to_bytes().to_vec();
        if head.headers.get("content-encoding").is_some_and(|coding| coding == "gzip") {
            let mut plain = Vec::new();
            GzDecoder::new(body.as_slice()).read_to_end(&mut plain).unwrap();
            body = plain;
        }
        let Ok(request) = ExportLogsServiceRequest::decode(body.as_slice()) else { return answer(400, None, Vec::new()) };
        match self.take(head.headers, request).await {
            Reply::Accept => answer(200, None, ExportLogsServiceResponse::default().encode_to_vec()),
            Reply::Partial(rejected, why) => answer(200, None, partial(rejected, why).encode_to_vec()),
            Reply::Http(status, retry_after) => answer(status, retry_after, Vec::new()),
            Reply::Grpc(..) => panic!("a status of gRPC over HTTP"),
        }
    }
}

#[tonic::async_trait]
impl LogsService for Seen {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        match self.take(metadata.into_headers(), request).await {
            Reply::Accept => Ok(tonic::Response::new(ExportLogsServiceResponse::default())),
            Reply::Partial(rejected, why) => Ok(tonic::Response::new(partial(rejected, why))),
            Reply::Grpc(code, None) => Err(Status::new(code, "as the test says")),
            Reply::Grpc(code, Some(seconds)) => {
                let details = retry_info(code, seconds).encode_to_vec().into();
                Err(Status::with_details_and_metadata(code, "as the test says", details, MetadataMap::new()))
            }
            Reply::Http(..) => panic!("a status of HTTP over gRPC"),
        }
    }
}

fn partial(rejected: i64, why: &str) -> ExportLogsServiceResponse {
    let partial_success = Some(ExportLogsPartialSuccess { rejected_log_records: rejected, error_message: why.to_owned() });
    ExportLogsServiceResponse { partial_success }
}

/// A `google.rpc.Status` with a `google.rpc.RetryInfo`, written down by their numbers.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

fn retry_info(code: Code, seconds: i64) -> RpcStatus {
    // Field 1, a message: its field 1, a number below 128.
    let value = vec![0x0a, 2, 0x08, u8::try_from(seconds).unwrap()];
    RpcStatus { code: code.into(), details: vec![Detail { type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(), value }] }
}

fn records(request: &ExportLogsServiceRequest) -> Vec<Record> {
    let mut found = Vec::new();
    for of_resource in &request.resource_logs {
        let resource = attributes(&of_resource.resource.as_ref().unwrap().attributes);
        for of_scope in &of_resource.scope_logs {
            let scope = of_scope.scope.as_ref().unwrap().name.clone();
            found.extend(of_scope.log_records.iter().map(|record| Record {
                name: record.event_name.clone(),
                severity: record.severity_number,
                nanoseconds: record.time_unix_nano,
                scope: scope.clone(),
                resource: resource.clone(),
                attributes: attributes(&record.attributes),
            }));
        }
    }
    found
}

/// Each name once, with its value and the value's type.
fn attributes(list: &[KeyValue]) -> BTreeMap<String, serde_json::Value> {
    let mut found = BTreeMap::new();
    for field in list {
        let value = match field.value.as_ref().unwrap().value.as_ref().unwrap() {
            Value::StringValue(text) => json!(text),
            Value::IntValue(number) => json!(number),
            Value::BoolValue(flag) => json!(flag),
            other => panic!("`{}` is of an unexpected type: {other:?}", field.key),
        };
        assert!(found.insert(field.key.clone(), value).is_none(), "`{}` is there twice", field.key);
    }
    found
}
