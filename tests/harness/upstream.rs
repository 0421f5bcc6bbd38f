//! Proxies that other proxies go through: small ones that say what they were asked.

use crate::Origin;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

/// A fake proxy on loopback.
pub struct Upstream {
    origin: Origin,
    asked: Asked,
}

type Asked = Arc<Mutex<Vec<String>>>;

/// Tunnels echo what comes; an upgrade in them is answered first.
fn echo(stream: &mut (impl Read + Write)) {
    let mut bytes = [0; 4096];
    let mut first = true;
    while let Ok(read @ 1..) = stream.read(&mut bytes) {
        let upgrade = first && bytes.starts_with(b"GET ");
        first = false;
        let answer: &[u8] =
            if upgrade { b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" } else { &bytes[..read] };
        if stream.write_all(answer).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

/// A head as text, read byte by byte so that nothing behind it is lost.
fn head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    String::from_utf8(head).ok()
}

fn serve_http(stream: &mut (impl Read + Write), asked: &Asked, connect: &[u8], plain: &[u8]) {
    while let Some(head) = head(stream) {
        let tunnel = head.starts_with("CONNECT ");
        asked.lock().unwrap().push(head);
        let answer = if tunnel { connect } else { plain };
        if stream.write_all(answer).and_then(|()| stream.flush()).is_err() {
            return;
        }
        if tunnel {
            return if connect.starts_with(b"HTTP/1.1 200") {
                echo(stream)
            };
        }
    }
}

/// Stands, and says something before it is asked.
const STANDS: &[u8] = b"HTTP/1.1 200 OK\r\nX-Made-Up: 1\r\n\r\nearly ";
const PLAIN: &[u8] = b"HTTP/1.1 299 Upstream\r\nContent-Length: 8\r\n\r\nupstream";

impl Upstream {
    /// An HTTP proxy whose tunnels say `early ` and then echo, and which answers plain requests itself.
    #[must_use]
    pub fn http() -> Self {
        Self::answering(STANDS, PLAIN)
    }

    /// An HTTP proxy that answers CONNECT and plain requests with those bytes.
    #[must_use]
    pub fn answering(connect: &'static [u8], plain: &'static [u8]) -> Self {
        let asked = Asked::default();
        let seen = Arc::clone(&asked);
        Self { origin: Origin::raw(move |mut stream| serve_http(&mut stream, &seen, connect, plain)), asked }
    }

    /// The same inside TLS.
    #[must_use]
    pub fn https(config: Arc<rustls::ServerConfig>) -> Self {
        let asked = Asked::default();
        let seen = Arc::clone(&asked);
        let origin = Origin::raw(move |stream| {
            let session = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            serve_http(&mut rustls::StreamOwned::new(session, stream), &seen, STANDS, PLAIN);
        });
        Self { origin, asked }
    }

    /// A SOCKS5 proxy that wants credentials or none, gives that reply to addresses and names that hold `refused`, and whose tunnels echo.
    #[must_use]
    pub fn socks5(credentials: Option<(&'static str, &'static str)>, refused: &'static str, reply: u8) -> Self {
        Self::replying(credentials, move |host| Some(if !refused.is_empty() && host.contains(refused) { reply } else { 0 }))
    }

    /// The same with a reply for each address or name; without one, nothing is said.
    #[must_use]
    pub fn replying(credentials: Option<(&'static str, &'static str)>, reply: impl Fn(&str) -> Option<u8> + Send + Sync + 'static) -> Self {
        let asked = Asked::default();
        let seen = Arc::clone(&asked);
        let origin = Origin::raw(move |mut stream| {
            let _ = serve_socks5(&mut stream, &seen, credentials, &reply);
        });
        Self { origin, asked }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.origin.address()
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.origin.connections()
    }

    /// The same heads as they came.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// What it was asked: request heads, or SOCKS5 destinations.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|head| without_via(head)).collect()
    }
}

/// A head without its `Via`, whose name is another one in each process.
#[must_use]
pub fn without_via(head: &str) -> String {
    head.split_inclusive("\r\n").filter(|line| !line.starts_with("Via: 1.1 netproxy-")).collect()
}

fn serve_socks5(
    stream: &mut (impl Read + Write),
    asked: &Asked,
    credentials: Option<(&str, &str)>,
    reply: &dyn Fn(&str) -> Option<u8>,
) -> std::io::Result<()> {
    let counted = |stream: &mut dyn Read| {
        let mut length = [0];
        stream.read_exact(&mut length)?;
        let mut bytes = vec![0; usize::from(length[0])];
        stream.read_exact(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    let mut version = [0];
    stream.read_exact(&mut version)?;
    let methods = counted(stream)?;
    let method = if credentials.is_some() { 2 } else { 0 };
    if !methods.contains(&method) {
        return stream.write_all(&[5, 0xff]);
    }
    stream.write_all(&[5, method])?;
    if let Some((user, password)) = credentials {
        stream.read_exact(&mut version)?;
        let right = counted(stream)? == user.as_bytes() && counted(stream)? == password.as_bytes();
        stream.write_all(&[1, u8::from(!right)])?;
        if !right {
            return Ok(());
        }
    }
    let mut request = [0; 4];
    stream.read_exact(&mut request)?;
    let host = match request[3] {
        1 => {
            let mut ip = [0; 4];
            stream.read_exact(&mut ip)?;
            Ipv4Addr::from(ip).to_string()
        }
        4 => {
            let mut ip = [0; 16];
            stream.read_exact(&mut ip)?;
            Ipv6Addr::from(ip).to_string()
        }
        _ => String::from_utf8(counted(stream)?).unwrap(),
    };
    let mut port = [0; 2];
    stream.read_exact(&mut port)?;
    asked.lock().unwrap().push(format!("{host} {}", u16::from_be_bytes(port)));
    // Until whoever has asked is gone.
    let Some(reply) = reply(&host) else { return std::io::copy(stream, &mut std::io::sink()).map(drop) };
    // Bound to a name, which is as good as an address.
    stream.write_all(&[&[5, reply, 0, 3, 4], b"here".as_slice(), &[0, 80]].concat())?;
    if reply == 0 {
        echo(stream);
    }
    Ok(())
}
