//! HTTP/2 inside TLS: an origin, and a client that waits for one answer after the other.

use crate::client::Answer;
use crate::origin::Exchange;
use crate::tls::{MOVERS, Secured};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use rustls::ServerConfig;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Fields, in order.
pub type Fields = Vec<(String, String)>;
/// A body, and its trailers.
pub type Body<'b> = (&'b [u8], &'b [(String, String)]);

/// An origin on loopback that speaks HTTP/2 inside TLS, and nothing else.
pub struct Http2Origin {
    port: u16,
    requests: Arc<Mutex<Vec<Exchange>>>,
}

impl Http2Origin {
    /// Answers every request `status` with these fields and without a body. `config` has to choose `h2`.
    #[must_use]
    pub fn start(config: ServerConfig, status: u16, fields: &'static [(&'static str, &'static str)]) -> Self {
        let listener = MOVERS.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let origin = Self { port: listener.local_addr().unwrap().port(), requests: Arc::default() };
        let (acceptor, requests) = (TlsAcceptor::from(Arc::new(config)), Arc::clone(&origin.requests));
        MOVERS.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, requests) = (acceptor.clone(), Arc::clone(&requests));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(serve(request, respond, status, fields, Arc::clone(&requests)));
                    }
                });
            }
        });
        origin
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Requests read so far: `:method` and `:path` as the first line, `:authority` as `host`, trailers behind the body in `raw_body`.
    #[must_use]
    pub fn requests(&self) -> Vec<Exchange> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    status: u16,
    fields: &[(&str, &str)],
    requests: Arc<Mutex<Vec<Exchange>>>,
) {
    let (head, mut body) = request.into_parts();
    let uri = &head.uri;
    let mut exchange = Exchange {
        first_line: format!("{} {} HTTP/2", head.method, uri.path_and_query().map_or("", |path| path.as_str())),
        headers: vec![("host".to_owned(), uri.authority().map_or("", |authority| authority.as_str()).to_owned())],
        ..Exchange::default()
    };
    exchange.headers.extend(texts(&head.headers));
    exchange.raw_head = lines(&[(exchange.first_line.clone(), String::new())]);
    exchange.raw_head.extend(lines(&exchange.headers));
    let Ok((body, trailers)) = whole(&mut body).await else { return };
    exchange.raw_body = [body.clone(), lines(&trailers)].concat();
    exchange.body = body;
    requests.lock().unwrap().push(exchange);
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    let _ = respond.send_response(response.body(()).unwrap(), true);
}

/// A connection to an origin, through a tunnel in which `h2` was chosen.
pub struct Http2 {
    sender: SendRequest<Bytes>,
}

impl Http2 {
    #[must_use]
    pub fn over(secured: Secured) -> Self {
        assert_eq!(secured.protocol.as_deref(), Some("h2"));
        let stream = secured.client.into_stream();
        stream.set_nonblocking(true).unwrap();
        MOVERS.block_on(async {
            let (sender, connection) = h2::client::handshake(TcpStream::from_std(stream).unwrap()).await.unwrap();
            tokio::spawn(connection);
            Self { sender }
        })
    }

    /// Asks, and does not wait: dropping what is given resets the stream.
    ///
    /// # Panics
    /// If the connection has ended, or HTTP/2's own types cannot say this.
    pub fn begin(&mut self, method: &str, authority: &str, path_and_query: &str) -> (ResponseFuture, SendStream<Bytes>) {
        let uri = Uri::builder().scheme("https").authority(authority).path_and_query(path_and_query).build().unwrap();
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        MOVERS.block_on(async {
            self.sender = self.sender.clone().ready().await.unwrap();
            self.sender.send_request(request, true).unwrap()
        })
    }

    /// Asks, with a body and trailers if there are any, and waits for the answer.
    ///
    /// # Errors
    /// There is no answer, or HTTP/2's own types cannot say this.
    pub fn ask(
        &mut self,
        method: &str,
        authority: &str,
        path_and_query: &str,
        headers: &[(String, String)],
        body: Option<Body<'_>>,
    ) -> io::Result<Answer> {
        let uri = Uri::builder().scheme("https").authority(authority).path_and_query(path_and_query).build().map_err(io::Error::other)?;
        let method = Method::from_bytes(method.as_bytes()).map_err(io::Error::other)?;
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, map(headers)?);
        let trailers = body.map(|(_, trailers)| map(trailers)).transpose()?;
        MOVERS.block_on(async {
            let exchange = async {
                self.sender = self.sender.clone().ready().await.map_err(io::Error::other)?;
                let (response, stream) = self.sender.send_request(request, body.is_none()).map_err(io::Error::other)?;
                if let Some((body, _)) = body {
                    send(stream, body, trailers.unwrap_or_default());
                }
                let (head, mut body) = response.await.map_err(io::Error::other)?.into_parts();
                let (body, trailers) = whole(&mut body).await.map_err(io::Error::other)?;
                Ok(Answer { status: head.status.as_u16(), reason: String::new(), headers: texts(&head.headers), body, trailers })
            };
            tokio::time::timeout(crate::PATIENCE, exchange).await?
        })
    }
}

/// A body that fits into the first windows. A peer that has reset the stream already says so in its answer.
fn send(mut stream: SendStream<Bytes>, body: &[u8], trailers: HeaderMap) {
    let _ = stream.send_data(Bytes::copy_from_slice(body), trailers.is_empty());
    if !trailers.is_empty() {
        let _ = stream.send_trailers(trailers);
    }
}

async fn whole(stream: &mut RecvStream) -> Result<(Vec<u8>, Fields), h2::Error> {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok((body, stream.trailers().await?.map(|trailers| texts(&trailers)).unwrap_or_default()))
}

fn map(fields: &[(String, String)]) -> io::Result<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(io::Error::other)?;
        map.append(name, HeaderValue::from_str(value).map_err(io::Error::other)?);
    }
    Ok(map)
}

fn texts(fields: &HeaderMap) -> Fields {
    fields.iter().map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

fn lines(fields: &[(String, String)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| format!("{name}: {value}\r\n").into_bytes()).collect()
}
