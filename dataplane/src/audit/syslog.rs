//! Syslog (RFC 5424): to the system's socket, to a UDP port (RFC 5426), or to a TCP port, with counted frames (RFC 6587, section 3.4.1).
//!
//! A message has the event's name as its MSGID, what tells one event from another as structured data, and the line of JSON as its text.

use super::backlog::{Backlog, Destination};
use super::json::{Encoder, PRODUCT, Stamp, is_bad};
use super::record::{Change, Event, Kind};
use super::setup::Form;
use policy_format::SyslogTarget;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket};
#[cfg(unix)]
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// Bytes of one message: what goes into a datagram.
const MAX_MESSAGE: usize = 60 * 1024;
/// For a connection.
const CONNECT: Duration = Duration::from_millis(500);
/// For a piece of a message to be taken.
const WRITE: Duration = Duration::from_millis(500);
/// Pieces of what a server says that are passed over before its end is found the next time.
const LOOKS: usize = 16;
/// local0, as `logger` writes it: facility 16.
const FACILITY: u8 = 16;

/// The sink.
pub(super) type SyslogSink = Backlog<Syslog>;

/// The server.
pub(super) struct Syslog {
    target: SyslogTarget,
    way: Option<Way>,
    encoder: Encoder,
    stamp: Stamp,
    host: String,
    /// Bytes of a message that a connection has taken.
    sent: usize,
    /// Datagrams that were refused, and not asked for yet.
    lost: u64,
    doubt: Doubt,
}

/// Whether somebody takes datagrams. That they can be sent says nothing: of the one before, nobody may have known yet that it was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    /// The last one was refused.
    Refused,
    /// One was sent since, of which nothing was heard yet.
    Asked,
}

enum Way {
    #[cfg(unix)]
    Socket(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl SyslogSink {
    /// A server that is not there yet is no error: it is tried again.
    pub(super) fn open(target: SyslogTarget, form: &Form) -> Result<Self, String> {
        #[cfg(not(unix))]
        if let SyslogTarget::Socket(path) = &target {
            return Err(format!("there is no unix socket `{path}` on this system"));
        }
        let (encoder, stamp, host) = (Encoder::new(form), Stamp::default(), host_name());
        let way = connect(&target);
        let mut sink = Self::new(Syslog { target, way: None, encoder, stamp, host, sent: 0, lost: 0, doubt: Doubt::None }, form.lossy);
        match way {
            Ok(way) => sink.to.way = Some(way),
            Err(error) => sink.pause(&error),
        }
        Ok(sink)
    }
}

impl Destination for Syslog {
    const NAME: &'static str = "syslog";

    fn message(&mut self, event: &Event) -> Vec<u8> {
        let mut message = Vec::with_capacity(1536);
        let time = String::from_utf8_lossy(self.stamp.of(event.time)).into_owned();
        let (priority, name) = (FACILITY * 8 + severity(&event.kind), event.kind.name());
        // Writing to memory cannot fail. A MSGID has 32 bytes at most: the last word is the one that tells.
        let short = name.rsplit('.').next().unwrap_or(name);
        let _ = write!(message, "<{priority}>1 {time} {} {PRODUCT} {} {short} ", self.host, std::process::id());
        structured(&mut message, event);
        message.push(b' ');
        self.encoder.line(&mut message, event);
        message.pop();
        message.truncate(MAX_MESSAGE);
        if matches!(self.target, SyslogTarget::Tcp(_)) {
            let mut framed = format!("{} ", message.len()).into_bytes();
            framed.append(&mut message);
            return framed;
        }
        message
    }

    fn look(&mut self) -> io::Result<()> {
        match &mut self.way {
            Some(Way::Udp(socket)) => match socket.take_error()? {
                Some(error) => Err(self.refused(error)),
                None => {
                    if self.doubt == Doubt::Asked {
                        self.doubt = Doubt::None;
                    }
                    Ok(())
                }
            },
            Some(Way::Tcp(stream)) if has_ended(stream) => {
                // What is written to it goes nowhere, and that is not said before the next time. In another connection, the message begins again.
                self.way = None;
                self.sent = 0;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn is_heard(&self) -> bool {
        self.doubt == Doubt::None
    }

    fn send(&mut self, message: &[u8]) -> io::Result<bool> {
        if self.way.is_none() {
            self.way = Some(connect(&self.target)?);
        }
        let sent = match &mut self.way {
            #[cfg(unix)]
            Some(Way::Socket(socket)) => socket.send(message)?,
            Some(Way::Udp(socket)) => match socket.send(message) {
                Ok(sent) => {
                    if self.doubt == Doubt::Refused {
                        self.doubt = Doubt::Asked;
                    }
                    sent
                }
                Err(error) => return Err(self.refused(error)),
            },
            Some(Way::Tcp(stream)) => match stream.write(message.get(self.sent..).unwrap_or_default()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.sent + written,
                Err(error) if error.kind() == ErrorKind::Interrupted => self.sent,
                Err(error) => return Err(error),
            },
            None => 0,
        };
        let is_all = sent >= message.len();
        self.sent = if is_all { 0 } else { sent };
        Ok(is_all)
    }

    fn failed(&mut self, error: &io::Error) {
        let keeps = match self.way {
            // One that is slow goes on in the middle of a message; in another one, the message begins again.
            Some(Way::Tcp(_)) => error.kind() == ErrorKind::WouldBlock,
            // It is what hears of the last datagram.
            Some(Way::Udp(_)) => self.doubt == Doubt::Asked,
            _ => false,
        };
        if !keeps {
            self.way = None;
            self.sent = 0;
        }
    }
}

impl Syslog {
    /// That nobody listens is said of the datagram before: this one was not sent.
    fn refused(&mut self, error: io::Error) -> io::Error {
        if error.kind() == ErrorKind::ConnectionRefused {
            self.lost += 1;
            self.doubt = Doubt::Refused;
        }
        error
    }
}

/// Whether the server has closed a connection. What it says, which no server does, is not listened to.
fn has_ended(mut stream: &TcpStream) -> bool {
    let mut said = [0; 512];
    let mut looks = 0..LOOKS;
    let mut ended = stream.set_nonblocking(true).is_err();
    while !ended && looks.next().is_some() {
        match stream.read(&mut said) {
            Ok(read) => ended = read == 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => ended = error.kind() != ErrorKind::Interrupted,
        }
    }
    ended || stream.set_nonblocking(false).is_err()
}

fn connect(target: &SyslogTarget) -> io::Result<Way> {
    match target {
        #[cfg(unix)]
        SyslogTarget::Socket(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            socket.set_write_timeout(Some(WRITE))?;
            Ok(Way::Socket(socket))
        }
        #[cfg(not(unix))]
        SyslogTarget::Socket(_) => Err(ErrorKind::Unsupported.into()),
        SyslogTarget::Udp(address) => {
            let any = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(address)?;
            socket.set_write_timeout(Some(WRITE))?;
            Ok(Way::Udp(socket))
        }
        SyslogTarget::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, CONNECT)?;
            stream.set_write_timeout(Some(WRITE))?;
            Ok(Way::Tcp(stream))
        }
    }
}

/// The system's name, or what stands for none.
fn host_name() -> String {
    #[cfg(unix)]
    {
        let name = rustix::system::uname();
        let name = name.nodename().to_string_lossy();
        if !name.is_empty() && name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return name.into_owned();
        }
    }
    "-".to_owned()
}

/// warning, notice or informational.
pub(super) fn severity(kind: &Kind) -> u8 {
    match kind {
        Kind::Fault(_) | Kind::Lost(_) | Kind::Policy(Change::Refused(_) | Change::Withdrawn(_)) => 4,
        kind if is_bad(kind) => 5,
        _ => 6,
    }
}

/// `[netproxy@32473 id="7" …]`: 32473 is the number of nobody, for examples (RFC 5612).
fn structured(message: &mut Vec<u8>, event: &Event) {
    message.extend_from_slice(b"[netproxy@32473");
    let mut one = |name: &str, value: &str| {
        let _ = write!(message, " {name}=\"");
        for byte in value.bytes() {
            if matches!(byte, b'"' | b'\\' | b']') {
                message.push(b'\\');
            }
            message.push(byte);
        }
        message.push(b'"');
    };
    one("sequence", &event.sequence.to_string());
    if let Some(exchange) = event.kind.exchange() {
        one("id", &exchange.id.to_string());
        one("host", exchange.host.as_str());
        one("port", &exchange.port.to_string());
        one("client", &exchange.client.to_string());
        one("protocol", exchange.protocol.as_str());
    }
    if let Some(judged) = event.kind.judged() {
        one("decision", judged.verdict.as_str());
        one("reason", &judged.reason);
    }
    message.push(b']');
}

#[cfg(all(test, unix))]
#[path = "syslog/tests.rs"]
mod tests;
