//! A blocking origin: a thread that accepts, and a thread for each connection.

use crate::client::Client;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::TcpSocket;

/// A server on loopback, IPv4 and IPv6, one port for both.
pub struct Origin {
    port: u16,
    connections: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<Exchange>>>,
    stop: Arc<AtomicBool>,
}

/// An address that refuses connections for as long as this lives: its port is taken, and nobody listens.
pub struct Refusing(TcpSocket);

impl Refusing {
    /// A port of 127.0.0.1.
    #[must_use]
    pub fn new() -> Self {
        Self::bound("127.0.0.1:0".parse().unwrap(), false).unwrap()
    }

    /// This one, whatever has become of connections to it.
    ///
    /// # Errors
    /// Somebody listens there.
    pub fn at(address: SocketAddr) -> std::io::Result<Self> {
        Self::bound(address, true)
    }

    /// Sockets that are all to be reused can have the same port, as long as none of them listens.
    fn bound(address: SocketAddr, reuse: bool) -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(reuse)?;
        socket.bind(address)?;
        Ok(Self(socket))
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// It refuses no longer. Called where tokio runs.
    #[must_use]
    pub fn listen(self) -> tokio::net::TcpListener {
        self.0.set_reuseaddr(true).unwrap();
        self.0.listen(1024).unwrap()
    }
}

impl Default for Refusing {
    fn default() -> Self {
        Self::new()
    }
}

/// A request as the origin saw it.
#[derive(Debug, Clone, Default)]
pub struct Exchange {
    pub first_line: String,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body as it came, framing included.
    pub raw_body: Vec<u8>,
    /// The head as it came.
    pub raw_head: Vec<u8>,
}

impl Exchange {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

impl Origin {
    /// Answers every request `299 Origin` with six bytes, and keeps connections open.
    #[must_use]
    pub fn start() -> Self {
        Self::http(|_, stream| stream.write_all(b"HTTP/1.1 299 Origin\r\nContent-Length: 6\r\n\r\norigin").is_ok())
    }

    /// Reads requests and has `answer` write responses; `false` ends the connection.
    #[must_use]
    pub fn http(answer: impl Fn(&Exchange, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        let requests: Arc<Mutex<Vec<Exchange>>> = Arc::default();
        let seen = Arc::clone(&requests);
        let origin = Self::raw(move |stream| {
            let mut writer = stream.try_clone().unwrap();
            let mut reader = BufReader::new(stream);
            while let Some(exchange) = read_exchange(&mut reader, &mut writer) {
                seen.lock().unwrap().push(exchange.clone());
                if !answer(&exchange, &mut writer) {
                    let _ = writer.shutdown(std::net::Shutdown::Both);
                    return;
                }
            }
        });
        Self { requests, ..origin.take() }
    }

    /// Gives each connection to `serve`.
    #[must_use]
    pub fn raw(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let (v4, v6) = both_families();
        let origin =
            Self { port: v4.local_addr().unwrap().port(), connections: Arc::default(), requests: Arc::default(), stop: Arc::default() };
        let serve = Arc::new(serve);
        for listener in [Some(v4), v6].into_iter().flatten() {
            let (serve, connections, stop) = (Arc::clone(&serve), Arc::clone(&origin.connections), Arc::clone(&origin.stop));
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    let _ = stream.set_nodelay(true);
                    connections.fetch_add(1, Ordering::SeqCst);
                    let serve = Arc::clone(&serve);
                    std::thread::spawn(move || serve(stream));
                }
            });
        }
        origin
    }

    /// Sends back whatever comes, and ends when the client does.
    #[must_use]
    pub fn echo() -> Self {
        Self::raw(|mut stream| {
            let mut copy = stream.try_clone().unwrap();
            let _ = std::io::copy(&mut stream, &mut copy);
            let _ = stream.shutdown(std::net::Shutdown::Write);
        })
    }

    fn take(&self) -> Self {
        Self {
            port: self.port,
            connections: Arc::clone(&self.connections),
            requests: Arc::clone(&self.requests),
            stop: Arc::clone(&self.stop),
        }
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Requests read so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Exchange> {
        self.requests.lock().unwrap().clone()
    }

    /// Accepts no more. The thread notices with a connection of its own.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(Client::connect(self.address()));
    }
}

/// Listeners on one port in both families; IPv6 may be missing on a machine.
fn both_families() -> (TcpListener, Option<TcpListener>) {
    for _ in 0..100 {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        match TcpListener::bind(("::1", v4.local_addr().unwrap().port())) {
            Ok(v6) => return (v4, Some(v6)),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(_) => return (v4, None),
        }
    }
    panic!("no port is free in both families");
}

/// Reads one request; `None` is the end, or no whole request.
pub fn read_exchange(reader: &mut BufReader<TcpStream>, writer: &mut TcpStream) -> Option<Exchange> {
    let mut raw_head = Vec::new();
    let mut line = |reader: &mut BufReader<TcpStream>| {
        let start = raw_head.len();
        reader.read_until(b'\n', &mut raw_head).ok()?;
        raw_head[start..].strip_suffix(b"\r\n").map(|line| String::from_utf8_lossy(line).into_owned())
    };
    let mut exchange = Exchange { first_line: line(reader)?, ..Exchange::default() };
    loop {
        let header = line(reader)?;
        let Some((name, value)) = header.split_once(':') else { break };
        exchange.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    exchange.raw_head = raw_head;
    let line = |reader: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        line.strip_suffix("\r\n").map(str::to_owned)
    };
    if exchange.header("expect").is_some_and(|expected| expected.eq_ignore_ascii_case("100-continue")) {
        writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    if exchange.header("transfer-encoding").is_some() {
        loop {
            let size = line(reader)?;
            exchange.raw_body.extend(format!("{size}\r\n").bytes());
            let size = usize::from_str_radix(&size, 16).ok()?;
            if size == 0 {
                loop {
                    let trailer = line(reader)?;
                    exchange.raw_body.extend(format!("{trailer}\r\n").bytes());
                    if trailer.is_empty() {
                        return Some(exchange);
                    }
                }
            }
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            exchange.raw_body.extend(&chunk);
            exchange.body.extend(&chunk[..size]);
        }
    }
    let length = exchange.header("content-length").map_or(0, |length| length.parse().unwrap());
    exchange.body.resize(length, 0);
    reader.read_exact(&mut exchange.body).ok()?;
    exchange.raw_body.clone_from(&exchange.body);
    Some(exchange)
}
