//! Asks the admin API, by TCP or through its unix socket.

use super::model::{Decision, Overview, Policy, State, Tunnels, plain, read};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// No answer is longer, and no event.
const MAX_ANSWER: usize = 16 << 20;
const MAX_EVENT: usize = 64 << 10;
/// An answer has to come within this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tunnels that are asked for.
const TUNNELS: usize = 500;

/// Where the admin API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// Host and port.
    Tcp(String),
    /// The path of its socket.
    Unix(PathBuf),
}

impl Address {
    /// Of `http://host:port`, with or without a slash at the end.
    pub(super) fn of_url(url: &str) -> Result<Self, String> {
        let wrong = || format!("`--admin {}`: it should be such as http://127.0.0.1:8080", plain(url));
        let authority = url.strip_prefix("http://").ok_or_else(wrong)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let parsed: http::uri::Authority = authority.parse().map_err(|_| wrong())?;
        if authority.contains('@') || parsed.host().is_empty() {
            return Err(wrong());
        }
        Ok(Self::Tcp(if parsed.port().is_some() { authority.to_owned() } else { format!("{authority}:80") }))
    }
}

/// The admin API.
#[derive(Debug, Clone)]
pub(super) struct Api {
    address: Address,
    authorization: Option<HeaderValue>,
}

/// One question of many that make the screen.
pub(super) struct Raw {
    pub(super) policy: Value,
    pub(super) overview: Value,
    pub(super) tunnels: Value,
}

impl Api {
    /// The API there; with the token of a file, where it asks for one.
    pub(super) fn new(address: Address, token: Option<&Path>) -> Result<Self, String> {
        let authorization = token.map(|path| {
            let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
            let mut value = HeaderValue::try_from(format!("Bearer {}", text.trim()))
                .map_err(|_| format!("`{}` has no token: there has to be one line of visible characters", path.display()))?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        });
        Ok(Self { address, authorization: authorization.transpose()? })
    }

    async fn send(&self, method: Method, path: &str, accept: &'static str, body: Option<Value>) -> Result<Response<Incoming>, String> {
        let (stream, host) = self.connect().await?;
        let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            // Whoever reads the body hears of what goes wrong.
            let _ = connection.await;
        });
        let mut request = Request::builder().method(method).uri(path).header(HOST, host).header(ACCEPT, accept);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let body = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        sender.send_request(request).await.map_err(|error| error.to_string())
    }

    async fn connect(&self) -> Result<(TokioIo<Box<dyn Stream>>, String), String> {
        let failed = |error: std::io::Error| format!("cannot reach the admin API at {}: {error}", self.shown());
        let (stream, host): (Box<dyn Stream>, _) = match &self.address {
            Address::Tcp(authority) => (Box::new(TcpStream::connect(authority).await.map_err(failed)?), authority.clone()),
            #[cfg(unix)]
            Address::Unix(path) => (Box::new(tokio::net::UnixStream::connect(path).await.map_err(failed)?), "localhost".to_owned()),
            #[cfg(not(unix))]
            Address::Unix(_) => return Err(failed(std::io::ErrorKind::Unsupported.into())),
        };
        Ok((TokioIo::new(stream), host))
    }

    /// Where it is, for people.
    pub(super) fn shown(&self) -> String {
        match &self.address {
            Address::Tcp(authority) => authority.clone(),
            Address::Unix(path) => path.display().to_string(),
        }
    }

    /// Asks, and reads the whole answer.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, String> {
        let asked = async {
            let answer = self.send(method, path, "application/json", body).await?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?.to_bytes();
            let value: Value = serde_json::from_slice(&body).unwrap_or_default();
            if status.is_success() {
                return Ok(value);
            }
            let said = value.get("detail").or_else(|| value.get("error")).and_then(Value::as_str).map(plain);
            Err(said.unwrap_or_else(|| format!("the admin API answers {status} to {path}")))
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .unwrap_or_else(|_| Err(format!("the admin API at {} does not answer in time", self.shown())))
    }

    /// All that is shown but events, as it is.
    pub(super) async fn raw(&self) -> Result<Raw, String> {
        let get = |path: &'static str| self.ask(Method::GET, path, None);
        let tunnels = format!("/v1/tunnels?limit={TUNNELS}");
        Ok(Raw {
            policy: get("/v1/policy").await?,
            overview: get("/v1/overview").await?,
            tunnels: self.ask(Method::GET, &tunnels, None).await?,
        })
    }

    /// The same, read.
    pub(super) async fn state(&self) -> Result<State, String> {
        let Raw { policy, overview, tunnels } = self.raw().await?;
        Self::parse(policy, overview, tunnels)
            .map_err(|error| format!("what answers at {} is no admin API that is known here: {error}", self.shown()))
    }

    fn parse(policy: Value, overview: Value, tunnels: Value) -> serde_json::Result<State> {
        Ok(State { policy: read::<Policy>(policy)?, overview: read::<Overview>(overview)?, tunnels: read::<Tunnels>(tunnels)? })
    }

    /// Switches the mode, or takes back that it was switched; says what is in force.
    pub(super) async fn set_mode(&self, mode: Option<&str>) -> Result<String, String> {
        let said = self.ask(Method::POST, "/v1/mode", Some(json!({ "mode": mode }))).await?;
        Ok(format!("the mode is {}", said.get("mode").and_then(Value::as_str).map(plain).unwrap_or_default()))
    }

    /// Has the policy loaded again.
    pub(super) async fn reload(&self) -> Result<String, String> {
        let said = self.ask(Method::POST, "/v1/reload", None).await?;
        Ok(match said.get("outcome").and_then(Value::as_str) {
            Some("unchanged") => "the file holds the policy that is in force".to_owned(),
            _ => format!("policy {} is in force", said.get("generation").and_then(Value::as_u64).unwrap_or_default()),
        })
    }

    /// Closes a tunnel.
    pub(super) async fn close(&self, id: u64) -> Result<String, String> {
        self.ask(Method::POST, &format!("/v1/tunnels/{id}/close"), None).await?;
        Ok(format!("tunnel {id} is being closed"))
    }

    /// Decisions as they come, until the connection ends.
    pub(super) async fn events(&self, mut take: impl FnMut(Decision)) -> Result<(), String> {
        let answer = self.send(Method::GET, "/v1/events", "text/event-stream", None).await?;
        if !answer.status().is_success() {
            return Err(format!("the admin API answers {} to /v1/events", answer.status()));
        }
        let (mut body, mut lines) = (answer.into_body(), Lines::default());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() else { continue };
            lines.feed(&data, |line| {
                let event = line.strip_prefix(b"data:").and_then(|data| serde_json::from_slice::<Value>(data).ok());
                let Some(event) = event.filter(is_decision) else { return };
                if let Ok(decision) = read::<Decision>(event) {
                    take(decision);
                }
            });
        }
        Ok(())
    }
}

fn is_decision(event: &Value) -> bool {
    let name = event.get("event.name").and_then(Value::as_str).unwrap_or_default();
    name.ends_with(".policy_decision") || name.ends_with(".revoked")
}

/// Either kind of connection.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Bytes that come in pieces, as lines. One that is too long is left out.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    is_too_long: bool,
}

impl Lines {
    fn feed(&mut self, data: &[u8], mut take: impl FnMut(&[u8])) {
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            self.is_too_long |= self.rest.len() + piece.len() > MAX_EVENT;
            if !self.is_too_long {
                self.rest.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                if !self.is_too_long {
                    take(self.rest.trim_ascii_end());
                }
                (self.rest, self.is_too_long) = (Vec::new(), false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;

    #[test]
    fn urls_name_a_host_and_nothing_else() {
        for (url, expected) in [
            ("http://127.0.0.1:8080", Some("127.0.0.1:8080")),
            ("http://[::1]:8080/", Some("[::1]:8080")),
            ("http://localhost", Some("localhost:80")),
            ("https://127.0.0.1:8080", None),
            ("127.0.0.1:8080", None),
            ("http://user:secret@127.0.0.1:8080", None),
            ("http://127.0.0.1:8080/v1", None),
            ("http://", None),
        ] {
            assert_eq!(Address::of_url(url).ok(), expected.map(|authority| Address::Tcp(authority.to_owned())), "{url}");
        }
    }

    #[test]
    fn lines_come_in_pieces_and_those_that_are_too_long_are_left_out() {
        let mut lines = Lines::default();
        let mut taken = Vec::new();
        let mut feed = |data: &[u8]| lines.feed(data, |line| taken.push(String::from_utf8(line.to_vec()).unwrap()));
        feed(b"data: 1");
        feed(b"2\r\n\ndata: ");
        feed(&vec![b'x'; MAX_EVENT]);
        feed(b"\ndata: 3\n");
        assert_eq!(taken, ["data: 12", "", "data: 3"]);
    }

    #[test]
    fn a_token_is_one_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let api = || Api::new(Address::Tcp("a:1".to_owned()), Some(file.path()));
        std::fs::write(file.path(), "secret\n").unwrap();
        let api_with = api().unwrap();
        assert_eq!(api_with.authorization.as_ref().unwrap(), "Bearer secret");
        assert!(!format!("{api_with:?}").contains("secret"));
        std::fs::write(file.path(), "two\nlines").unwrap();
        assert!(api().unwrap_err().contains("one line"));
    }
}
