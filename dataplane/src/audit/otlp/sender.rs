//! One connection to a collector, and one request on it at a time. Everything that is waited for has an end.

use super::answer::{self, Outcome};
use super::collector::{Collector, Headers};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use policy_format::{Host, OtlpProtocol as Protocol};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::{DnsName, ServerName};

/// How long a batch may take to be sent and answered, as exporters of OpenTelemetry have it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same, as gRPC says it.
const TIMEOUT: &str = "10S";
/// How long one address may take to answer; with several, the next has its turn then.
const CONNECT: Duration = Duration::from_secs(3);
/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;
/// A connection that was not used for so long may be gone without a word.
const IDLE: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;
/// Bytes of the fields of an answer.
const MAX_FIELDS: u32 = 64 << 10;
/// Who we are, to collectors.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("netproxy-dp/", env!("CARGO_PKG_VERSION")));

/// Sends batches to a collector, one at a time.
pub(super) struct Sender {
    collector: Arc<Collector>,
    tls: Option<Arc<ClientConfig>>,
    headers: Option<Headers>,
    gzip: bool,
    open: Option<Open>,
    /// Why the header fields are those of before.
    complaint: Option<String>,
}

/// A connection, and when it was last of use.
struct Open {
    connection: Connection,
    driver: JoinHandle<()>,
    used: Instant,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

enum Connection {
    Http(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Grpc(h2::client::SendRequest<Bytes>),
}

/// An answer: its status, its fields with those behind the body, and its body.
type Answer = (StatusCode, HeaderMap, Bytes);

impl Sender {
    /// `tls` is what is spoken inside TLS, where the collector is.
    pub(super) fn new(collector: Arc<Collector>, tls: Option<Arc<ClientConfig>>, headers: Option<Headers>, gzip: bool) -> Self {
        Self { collector, tls, headers, gzip, open: None, complaint: None }
    }

    /// What is sent for a request, once, however often it is.
    pub(super) fn pack(&self, request: Vec<u8>) -> Bytes {
        let (body, compressed) = match self.gzip {
            true => (compress(&request), 1),
            false => (request, 0),
        };
        match self.collector.protocol {
            Protocol::Http => body.into(),
            Protocol::Grpc => {
                // A batch is far from four GiB.
                let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
                [&[compressed][..], &length, &body].concat().into()
            }
        }
    }

    /// What is wrong although batches arrive.
    pub(super) fn complaint(&self) -> Option<String> {
        self.complaint.clone()
    }

    /// Sends what was packed and waits for the answer.
    pub(super) async fn send(&mut self, body: &Bytes) -> Outcome {
        let fields = match &mut self.headers {
            Some(headers) => {
                let (fields, failed) = headers.current();
                self.complaint = failed.map(|error| format!("{error}; those that were there before are sent"));
                fields.clone()
            }
            None => HeaderMap::new(),
        };
        let outcome = timeout(PATIENCE, self.attempt(body, &fields)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {} seconds", PATIENCE.as_secs())));
        match outcome {
            Ok((status, fields, body)) => match self.collector.protocol {
                Protocol::Http => answer::of_http(status, &fields, &body, SystemTime::now()),
                Protocol::Grpc => answer::of_grpc(status, &fields, &body),
            },
            Err(why) => {
                // Whatever is on it: nobody knows where it stands.
                self.open = None;
                Outcome::later(why)
            }
        }
    }

    async fn attempt(&mut self, body: &Bytes, fields: &HeaderMap) -> Result<Answer, String> {
        let waited = self.open.take().filter(|open| open.used.elapsed() < IDLE && open.connection.is_open());
        let (mut open, waited) = match waited {
            Some(open) => (open, true),
            None => (self.connect().await?, false),
        };
        let answer = match open.connection.exchange(&self.collector, self.gzip, fields, body).await {
            // It ended while it waited.
            Err(_) if waited => {
                open = self.connect().await?;
                open.connection.exchange(&self.collector, self.gzip, fields, body).await?
            }
            answer => answer?,
        };
        open.used = Instant::now();
        self.open = Some(open);
        Ok(answer)
    }

    async fn connect(&self) -> Result<Open, String> {
        let stream = self.reach().await?;
        match &self.tls {
            None => self.speak(stream).await,
            Some(config) => {
                let name = match &self.collector.at.host {
                    Host::Ip(ip) => ServerName::from(*ip),
                    Host::Name(name) | Host::NumericLookalike(name) => DnsName::try_from(name.as_str().to_owned())
                        .map_err(|_| "its name is none that a certificate has".to_owned())?
                        .into(),
                };
                let secured = timeout(CONNECT, TlsConnector::from(Arc::clone(config)).connect(name, stream)).await;
                let stream = secured.map_err(|_| "TLS was not set up in time".to_owned())?.map_err(|error| format!("TLS: {error}"))?;
                if self.collector.protocol == Protocol::Grpc && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return Err("it does not choose HTTP/2 inside TLS, which gRPC is spoken over".to_owned());
                }
                self.speak(stream).await
            }
        }
    }

    /// A stream to the first of its addresses that takes one.
    async fn reach(&self) -> Result<TcpStream, String> {
        let port = self.collector.at.port;
        let addresses: Vec<SocketAddr> = match &self.collector.at.host {
            Host::Ip(ip) => vec![SocketAddr::new(*ip, port)],
            Host::Name(name) | Host::NumericLookalike(name) => {
                let found = tokio::net::lookup_host((name.as_str(), port)).await;
                found.map_err(|error| format!("its name cannot be looked up: {error}"))?.take(MAX_ADDRESSES).collect()
            }
        };
        let mut why = "its name has no address".to_owned();
        for address in addresses {
            match timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Requests are written whole; without it, they only take longer.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => why = format!("{address}: {error}"),
                Err(_) => why = format!("{address} does not answer"),
            }
        }
        Err(why)
    }

    async fn speak(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Open, String> {
        let (connection, driver) = match self.collector.protocol {
            Protocol::Http => {
                let (send, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
                // What ends it is told to whoever sends.
                (Connection::Http(send), tokio::spawn(async { drop(connection.await) }))
            }
            Protocol::Grpc => {
                let mut builder = h2::client::Builder::new();
                builder.enable_push(false).max_header_list_size(MAX_FIELDS);
                let (send, connection) = builder.handshake::<_, Bytes>(stream).await.map_err(|error| error.to_string())?;
                (Connection::Grpc(send), tokio::spawn(async { drop(connection.await) }))
            }
        };
        Ok(Open { connection, driver, used: Instant::now() })
    }
}

impl Connection {
    fn is_open(&self) -> bool {
        match self {
            Self::Http(send) => !send.is_closed(),
            // Only its driver knows.
            Self::Grpc(_) => true,
        }
    }

    async fn exchange(&mut self, collector: &Collector, gzip: bool, fields: &HeaderMap, body: &Bytes) -> Result<Answer, String> {
        match self {
            Self::Http(send) => over_http(send, collector, gzip, fields, body).await,
            Self::Grpc(send) => over_grpc(send, collector, gzip, fields, body).await,
        }
    }
}

async fn over_http(
    send: &mut hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    collector: &Collector,
    gzip: bool,
    fields: &HeaderMap,
    body: &Bytes,
) -> Result<Answer, String> {
    let failed = |error: hyper::Error| said(&error);
    let mut request = Request::post(collector.path.as_str()).body(Full::new(body.clone())).map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::try_from(collector.at.to_string()).map_err(|error| error.to_string())?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    headers.insert(USER_AGENT, AGENT);
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    add(headers, fields);
    send.ready().await.map_err(failed)?;
    let (head, body) = send.send_request(request).await.map_err(failed)?.into_parts();
    // What is longer says nothing that is read.
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| format!("its answer is cut off: {error}"))?.to_bytes();
    Ok((head.status, head.headers, body))
}

async fn over_grpc(
    send: &mut h2::client::SendRequest<Bytes>,
    collector: &Collector,
    gzip: bool,
    fields: &HeaderMap,
    body: &Bytes,
) -> Result<Answer, String> {
    let failed = |error: h2::Error| said(&error);
    let url = format!("{}://{}{}", collector.http_scheme(), collector.at, collector.path);
    let mut request = Request::post(url).version(http::Version::HTTP_2).body(()).map_err(|error| error.to_string())?;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert("grpc-timeout", HeaderValue::from_static(TIMEOUT));
    headers.insert(USER_AGENT, AGENT);
    if gzip {
        headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
    }
    add(headers, fields);
    let mut ready = send.clone().ready().await.map_err(failed)?;
    let (response, mut stream) = ready.send_request(request, false).map_err(failed)?;
    // It goes as the collector takes it; an answer may come before it is through.
    let _ = stream.send_data(body.clone(), true);
    let (head, mut body) = response.await.map_err(failed)?.into_parts();
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(failed)?;
        // It has been read; a connection that has ended says so next.
        let _ = body.flow_control().release_capacity(data.len());
        message.extend_from_slice(&data);
        if message.len() > MAX_ANSWER {
            return Err("its answer is too long".to_owned());
        }
    }
    let trailers = body.trailers().await.map_err(failed)?;
    // A status without a message stands among the first fields.
    let fields = trailers.filter(|trailers| trailers.contains_key("grpc-status")).unwrap_or(head.headers);
    Ok((head.status, fields, message.into()))
}

/// An error with what it comes from: of itself, it says little.
fn said(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Those of the file; a `user-agent` of its own goes before ours.
fn add(headers: &mut HeaderMap, fields: &HeaderMap) {
    for name in fields.keys() {
        headers.remove(name);
    }
    for (name, value) in fields {
        headers.append(name, value.clone());
    }
}

/// Writing to memory cannot fail.
fn compress(request: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(request.len() / 8), Compression::fast());
    let written: io::Result<Vec<u8>> = encoder.write_all(request).and_then(|()| encoder.finish());
    written.unwrap_or_default()
}
