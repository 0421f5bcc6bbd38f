//! A blocking client that sends exactly the bytes that it is given.

use crate::PATIENCE;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

/// A connection.
pub struct Client {
    reader: BufReader<TcpStream>,
}

/// An HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Trailers of a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON body.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The reason of a block, from its JSON.
    #[must_use]
    pub fn blocked_reason(&self) -> String {
        self.json()["reason"].as_str().unwrap_or_default().to_owned()
    }
}

impl Client {
    #[must_use]
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { reader: BufReader::new(stream) }
    }

    /// The connection itself; nothing may have been read too early.
    #[must_use]
    pub fn into_stream(self) -> TcpStream {
        assert!(self.reader.buffer().is_empty());
        self.reader.into_inner()
    }

    /// A connection that somebody else opened.
    #[must_use]
    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { reader: BufReader::new(stream) }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        // A peer that has closed already says so in what is read.
        let _ = self.reader.get_mut().write_all(bytes.as_ref());
        self
    }

    /// No more will be sent.
    pub fn finish(&mut self) -> &mut Self {
        let _ = self.reader.get_mut().shutdown(Shutdown::Write);
        self
    }

    /// An answer to a request that is not HEAD.
    pub fn answer(&mut self) -> Answer {
        self.try_answer("GET").unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// An answer to `method`.
    pub fn answer_to(&mut self, method: &str) -> Answer {
        self.try_answer(method).unwrap_or_else(|error| panic!("no answer to {method}: {error}"))
    }

    /// # Errors
    /// What kept the answer from being read whole.
    pub fn try_answer(&mut self, method: &str) -> io::Result<Answer> {
        let first = self.line()?;
        let mut words = first.splitn(3, ' ');
        let status =
            words.nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| io::Error::other(format!("status line {first:?}")))?;
        let reason = words.next().unwrap_or_default().to_owned();
        let headers = self.fields()?;
        let mut answer = Answer { status, reason, headers, body: Vec::new(), trailers: Vec::new() };
        if method == "HEAD" || (method == "CONNECT" && status == 200) || matches!(status, 100..=199 | 204 | 304) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = self.line()?;
                let size = usize::from_str_radix(&size, 16).map_err(|_| io::Error::other(format!("chunk size {size:?}")))?;
                if size == 0 {
                    answer.trailers = self.fields()?;
                    return Ok(answer);
                }
                let mut chunk = vec![0; size + 2];
                self.reader.read_exact(&mut chunk)?;
                assert_eq!(chunk.split_off(size), b"\r\n");
                answer.body.extend(chunk);
            }
        }
        match answer.header("content-length").map(|length| length.parse::<usize>()) {
            Some(Ok(length)) => {
                answer.body.resize(length, 0);
                self.reader.read_exact(&mut answer.body)?;
            }
            Some(Err(_)) => return Err(io::Error::other("content-length")),
            None => {
                self.reader.read_to_end(&mut answer.body)?;
            }
        }
        Ok(answer)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended"));
        };
        Ok(String::from_utf8_lossy(line).into_owned())
    }

    fn fields(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(format!("header line {line:?}")))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Exactly `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.reader.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{len} bytes did not come: {error}"));
        bytes
    }

    /// All that comes until the peer ends; a reset ends too.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.reader.read_to_end(&mut bytes) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("the peer did not end: {error}"),
            _ => bytes,
        }
    }

    /// Both directions, for use from two threads.
    #[must_use]
    pub fn into_halves(self) -> (BufReader<TcpStream>, TcpStream) {
        let writer = self.reader.get_ref().try_clone().unwrap();
        (self.reader, writer)
    }

    /// Opens a tunnel by CONNECT.
    pub fn tunnel(&mut self, authority: &str) -> Answer {
        self.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")).answer_to("CONNECT")
    }

    /// A SOCKS5 request without authentication; the reply code, or `None` when the server hung up.
    pub fn socks5(&mut self, kind: u8, address: &[u8], port: u16) -> Option<u8> {
        self.send([5, 1, 0]);
        let mut chosen = [0; 2];
        self.reader.read_exact(&mut chosen).ok()?;
        assert_eq!(chosen, [5, 0]);
        self.send([&[5, 1, 0, kind], address, &port.to_be_bytes()].concat());
        let mut reply = [0; 10];
        self.reader.read_exact(&mut reply).ok()?;
        Some(reply[1])
    }

    /// The same with a name.
    pub fn socks5_name(&mut self, name: &str, port: u16) -> Option<u8> {
        self.socks5(3, &[&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat(), port)
    }
}

/// One GET in absolute form on a connection of its own.
#[must_use]
pub fn get(proxy: SocketAddr, url: &str) -> Answer {
    let authority = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    Client::connect(proxy).send(format!("GET {url} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")).answer()
}

/// What `GET /metrics` says: samples, with their labels, and their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics(pub BTreeMap<String, u64>);

impl Metrics {
    /// Asks an admin listener.
    #[must_use]
    pub fn read(admin: SocketAddr) -> Self {
        let answer = Client::connect(admin).send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").answer();
        let text = answer.text();
        let samples = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap());
        // Times and what the system says of the process are no whole numbers.
        Self(samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// The value of a sample, which has to be there.
    #[must_use]
    pub fn get(&self, sample: &str) -> u64 {
        *self.0.get(sample).unwrap_or_else(|| panic!("no sample {sample}"))
    }

    /// How often a limit was reached.
    #[must_use]
    pub fn limited(&self, limit: &str) -> u64 {
        self.get(&format!("netproxy_limited_total{{limit=\"{limit}\"}}"))
    }
}
