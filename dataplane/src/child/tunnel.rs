//! The client's side: opens a tunnel through the proxy, and joins it to two streams, as programs ask for that speak neither HTTP nor SOCKS. Blocking: it is a process' only work.

use crate::connect::upstream::{Proxy, Scheme};
use crate::parse::socks5::VERSION;
use crate::parse::target::Target;
use policy_format::Host;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::time::Duration;

/// A head, and the words behind it, are not longer.
const MAX_ANSWER: usize = 16 << 10;

/// How long the proxy may take to answer: it answers when its own connection stands, and gives up earlier by itself.
const PATIENCE: Duration = Duration::from_secs(120);

/// A tunnel that stands.
#[derive(Debug)]
pub struct Tunnel {
    stream: TcpStream,
    /// What the other side said at once.
    early: Vec<u8>,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The URL. It is not shown: it may hold a password.
    #[error("the proxy's URL cannot be used: {0}")]
    Url(&'static str),
    /// Host and port.
    #[error("`{0}` is not a host and a port")]
    Target(String),
    /// The proxy is not there.
    #[error("cannot connect to the proxy {proxy}: {error}")]
    Connect {
        /// Which proxy, without user and password.
        proxy: String,
        /// Why.
        error: io::Error,
    },
    /// It went away, or took too long.
    #[error("the proxy {proxy} did not answer: {error}")]
    Answer {
        /// Which proxy.
        proxy: String,
        /// Why.
        error: io::Error,
    },
    /// It said no.
    #[error("{target}: {reason}")]
    Refused {
        /// Where to.
        target: String,
        /// What the proxy said.
        reason: String,
    },
}

impl Tunnel {
    /// Opens a tunnel to `host:port` through the proxy: by CONNECT, or by SOCKS5, whichever its URL says.
    ///
    /// # Errors
    /// [`TunnelError`].
    pub fn open(proxy: &str, host: &str, port: u16) -> Result<Self, TunnelError> {
        match proxy.trim().split_once("://").map(|(scheme, _)| Scheme::named(scheme)) {
            Some(None) => return Err(TunnelError::Url("its scheme is none of `http`, `socks5` and `socks5h`")),
            Some(Some(Scheme::Https)) => {
                return Err(TunnelError::Url("TLS is not spoken to the proxy here: write `http://` or `socks5h://`"));
            }
            Some(Some(_)) | None => {}
        }
        let proxy = Proxy::parse(proxy).map_err(TunnelError::Url)?;
        let bracketed = if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let target = Target::parse(&bracketed, None).map_err(|_| TunnelError::Target(bracketed))?;
        let at = proxy.at();
        let connected = match &at.host {
            Host::Ip(ip) => TcpStream::connect((*ip, at.port)),
            name => TcpStream::connect((name.to_string().as_str(), at.port)),
        };
        let stream = connected
            .and_then(|stream| {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(stream)
            })
            .map_err(|error| TunnelError::Connect { proxy: proxy.to_string(), error })?;
        let asked = if proxy.scheme().is_http() { ask_http(&stream, &proxy, &target) } else { ask_socks5(&stream, &proxy, &target) };
        match asked {
            Ok(Ok(early)) => {
                stream.set_read_timeout(None).map_err(|error| TunnelError::Answer { proxy: proxy.to_string(), error })?;
                Ok(Self { stream, early })
            }
            Ok(Err(reason)) => Err(TunnelError::Refused { target: target.to_string(), reason }),
            Err(error) => Err(TunnelError::Answer { proxy: proxy.to_string(), error }),
        }
    }

    /// Joins it to two streams, until the other side ends. The end of `input` is passed on, and what is still said then is read.
    ///
    /// # Errors
    /// The other side's stream breaks off, or `output` takes no more. What happens to `input` is the other side's to see.
    pub fn relay(self, mut input: impl Read + Send + 'static, output: &mut impl Write) -> io::Result<()> {
        let Self { mut stream, early } = self;
        let mut upward = stream.try_clone()?;
        // It ends with the process: reading that waits for a terminal cannot be called off.
        let up = move || {
            let _ = io::copy(&mut input, &mut upward);
            let _ = upward.shutdown(Shutdown::Write);
        };
        std::thread::Builder::new().name("upward".to_owned()).spawn(up)?;
        output.write_all(&early)?;
        output.flush()?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            output.write_all(buffer.get(..count).unwrap_or_default())?;
            output.flush()?;
        }
    }
}

/// What came early; or what the proxy said instead.
type Asked = io::Result<Result<Vec<u8>, String>>;

/// CONNECT (RFC 9110, section 9.3.6).
fn ask_http(mut stream: &TcpStream, proxy: &Proxy, target: &Target) -> Asked {
    let authorization = proxy.authorization().map(|value| format!("Proxy-Authorization: {value}\r\n")).unwrap_or_default();
    stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let end = loop {
        if let Some(at) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        read_some(stream, &mut answer)?;
    };
    let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).into_owned();
    let rest = answer.split_off(end + 4);
    let status = head.lines().next().unwrap_or_default();
    let code = status.split_ascii_whitespace().nth(1).unwrap_or_default();
    if !status.starts_with("HTTP/1.") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "this is not HTTP"));
    }
    if code.starts_with('2') {
        return Ok(Ok(rest));
    }
    // What it says beyond the status line: as much as it has sent, or says that it sends.
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = rest;
    while body.len() < length.unwrap_or(0).min(MAX_ANSWER) && read_some(stream, &mut body).is_ok() {}
    let words = status.split_once(' ').map_or(status, |(_, words)| words);
    let text = [words, String::from_utf8_lossy(&body).trim()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    Ok(Err(printable(&text)))
}

fn read_some(mut stream: &TcpStream, into: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 2048];
    if into.len() > MAX_ANSWER {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is too long"));
    }
    match stream.read(&mut buffer)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => {
            into.extend_from_slice(buffer.get(..count).unwrap_or_default());
            Ok(())
        }
    }
}

/// For a terminal: one line, and nothing that it would take for a command.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// CONNECT of SOCKS5 (RFC 1928, RFC 1929). Names are looked up by the proxy, whatever the scheme: it is what decides on them.
fn ask_socks5(mut stream: &TcpStream, proxy: &Proxy, target: &Target) -> Asked {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "this is not SOCKS5");
    let method = if proxy.credentials().is_some() { 2 } else { 0 };
    stream.write_all(&[VERSION, 1, method])?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer)?;
    if answer != [VERSION, method] {
        return if answer == [VERSION, 0xff] { Ok(Err("the proxy wants other credentials".to_owned())) } else { Err(invalid()) };
    }
    if let Some(credentials) = proxy.credentials() {
        let length = |part: &[u8]| u8::try_from(part.len()).unwrap_or(u8::MAX);
        let (user, password) = (&credentials.user, &credentials.password);
        stream.write_all(&[&[1, length(user)], user.as_slice(), &[length(password)], password].concat())?;
        stream.read_exact(&mut answer)?;
        if answer != [1, 0] {
            return Ok(Err("the proxy does not accept the user and the password".to_owned()));
        }
    }
    let address = match &target.host {
        Host::Ip(IpAddr::V4(ip)) => [&[1], ip.octets().as_slice()].concat(),
        Host::Ip(IpAddr::V6(ip)) => [&[4], ip.octets().as_slice()].concat(),
        name => {
            let name = name.to_string();
            let Ok(length) = u8::try_from(name.len()) else { return Ok(Err("the name is too long for SOCKS5".to_owned())) };
            [&[3, length], name.as_bytes()].concat()
        }
    };
    stream.write_all(&[&[VERSION, 1, 0], address.as_slice(), &target.port.to_be_bytes()].concat())?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let [VERSION, reply, _, kind] = head else { return Err(invalid()) };
    if reply != 0 {
        return Ok(Err(socks5_reply(reply)));
    }
    let rest = match kind {
        1 => 4 + 2,
        4 => 16 + 2,
        3 => {
            let mut length = [0];
            stream.read_exact(&mut length)?;
            usize::from(length[0]) + 2
        }
        _ => return Err(invalid()),
    };
    stream.read_exact(&mut vec![0; rest])?;
    Ok(Ok(Vec::new()))
}

/// The words of RFC 1928, section 6.
fn socks5_reply(reply: u8) -> String {
    let words = match reply {
        1 => "the proxy failed",
        2 => "blocked by network policy; the HTTP proxy says by which rule",
        3 => "there is no way to its network",
        4 => "it cannot be reached",
        5 => "it refused the connection",
        6 => "it did not answer in time",
        7 => "the proxy does not do that",
        8 => "the proxy does not take such addresses",
        _ => "the proxy says no",
    };
    format!("{words} (SOCKS5 reply {reply})")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use std::net::TcpListener;

    /// A proxy that says `answer` when it was asked, once; and what it was asked.
    fn proxy(answer: &'static [u8], asks: usize) -> (u16, std::thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; asks];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(answer).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            stream.read_to_end(&mut asked).unwrap();
            asked
        };
        (port, std::thread::spawn(serve))
    }

    #[test]
    fn what_the_proxy_says_is_shown() {
        let asked = "CONNECT host.test:22 HTTP/1.1\r\nHost: host.test:22\r\n\r\n".len();
        for (answer, said) in [
            (
                &b"HTTP/1.1 403 Blocked by network policy (denied)\r\nContent-Length: 4\r\n\r\nno: \x1b"[..],
                "host.test:22: 403 Blocked by network policy (denied): no:",
            ),
            (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 99\r\n\r\nshort", "host.test:22: 502 Bad Gateway: short"),
            (b"HTTP/1.1 403 No\r\n\r\na\x1b[2Jb", "host.test:22: 403 No: a [2Jb"),
            (b"SSH-2.0-x\r\n\r\n", "did not answer: this is not HTTP"),
            (b"HTTP/1.1 200", "did not answer: "),
        ] {
            let (port, _serve) = proxy(answer, asked);
            let error = Tunnel::open(&format!("http://127.0.0.1:{port}"), "host.test", 22).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn user_and_password_are_sent_and_never_shown() {
        let (port, serve) = proxy(b"HTTP/1.1 200 OK\r\n\r\nearly", 60);
        let tunnel = Tunnel::open(&format!("http://user:secret@127.0.0.1:{port}"), "::1", 22).unwrap();
        let mut output = Vec::new();
        tunnel.relay(&b"input"[..], &mut output).unwrap();
        assert_eq!(output, b"early");
        let asked = String::from_utf8(serve.join().unwrap()).unwrap();
        assert_eq!(asked, "CONNECT [::1]:22 HTTP/1.1\r\nHost: [::1]:22\r\nProxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n\r\ninput");
        for url in ["gopher://user:secret@127.0.0.1:1", "https://user:secret@127.0.0.1:1", "http://user:secret@127.0.0.1:1"] {
            let error = Tunnel::open(url, "host.test", 22).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn schemes_that_cannot_be_used_are_not_said_to_be_usable() {
        for (url, said) in [
            ("ftp://127.0.0.1:1", "its scheme is none of `http`, `socks5` and `socks5h`"),
            ("https://127.0.0.1:1", "TLS is not spoken to the proxy here: write `http://` or `socks5h://`"),
        ] {
            let error = Tunnel::open(url, "host.test", 22).unwrap_err().to_string();
            assert_eq!(error, format!("the proxy's URL cannot be used: {said}"), "{url}");
        }
    }

    #[test]
    fn socks5_replies_have_words() {
        assert!(socks5_reply(2).starts_with("blocked by network policy"));
        assert!((0..=255).all(|reply| socks5_reply(reply).contains(&reply.to_string())));
    }
}
