//! What a proxy leads to: an HTTP server with a small and a large answer, and a raw one that echoes (first byte `E`), sends (`D`) or drops (`U`) without end.

use crate::net::{Bulk, LISTENER, MIB, Poll, accept, discard, head_end, listen, receive, send};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

#[derive(Clone, Copy, PartialEq)]
enum What {
    Http,
    /// The rest of a large answer is still to be sent, from this byte on.
    Large(usize),
    /// Not known before the first byte.
    Raw,
    Echo,
    Download(usize),
    Upload,
}

struct Connection {
    socket: OwnedFd,
    what: What,
    head: Vec<u8>,
    close: bool,
}

/// Serves until it is ended. Prints the two addresses.
pub(crate) fn run() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let ((http, http_address), (raw, raw_address)) = (listen(any), listen(any));
    println!("{http_address} {raw_address}");
    let (poll, bulk) = (Poll::new(), Bulk::new());
    poll.add_listener(&http, LISTENER);
    poll.add_listener(&raw, LISTENER - 1);
    let small = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n{}", "x".repeat(100));
    let large = format!("HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {MIB}\r\n\r\n");
    let answers = [small.as_bytes(), large.as_bytes()];
    let (mut connections, mut free, mut ready, mut buffer) =
        (Vec::<Option<Connection>>::new(), Vec::new(), Vec::new(), vec![0; 256 * 1024]);
    // Those that could do more, but others have their turn first.
    let mut busy: Vec<u64> = Vec::new();
    loop {
        poll.wait(&mut ready, (!busy.is_empty()).then_some(std::time::Duration::ZERO));
        ready.append(&mut busy);
        for &number in &ready {
            if number >= LISTENER - 1 {
                let (listener, what) = if number == LISTENER { (&http, What::Http) } else { (&raw, What::Raw) };
                while let Some(socket) = accept(listener) {
                    let at = free.pop().unwrap_or_else(|| {
                        connections.push(None);
                        connections.len() - 1
                    });
                    poll.add(&socket, at as u64);
                    connections[at] = Some(Connection { socket, what, head: Vec::new(), close: false });
                }
                continue;
            }
            let at = number as usize;
            let Some(connection) = &mut connections[at] else { continue };
            match connection.go_on(&mut buffer, &bulk, answers) {
                Ok(true) => {}
                Ok(false) => busy.push(number),
                Err(_) => {
                    connections[at] = None;
                    free.push(at);
                }
            }
        }
    }
}

impl Connection {
    /// Does what can be done: true when there is nothing more for now. An error is the end of the connection, a good one or not.
    fn go_on(&mut self, buffer: &mut [u8], bulk: &Bulk, answers: [&[u8]; 2]) -> io::Result<bool> {
        for _ in 0..16 {
            let done = match self.what {
                What::Http => self.request(buffer, answers)?,
                What::Large(MIB) => {
                    self.what = What::Http;
                    if self.close {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    false
                }
                What::Large(offset) => match bulk.send(&self.socket, offset)? {
                    Some(count) => {
                        self.what = What::Large(offset + count);
                        false
                    }
                    None => true,
                },
                What::Download(offset) => match bulk.send(&self.socket, offset)? {
                    Some(count) => {
                        self.what = What::Download((offset + count) % MIB);
                        false
                    }
                    None => true,
                },
                What::Upload => match discard(&self.socket, buffer)? {
                    Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Some(_) => false,
                    None => true,
                },
                What::Raw | What::Echo => self.echo(buffer)?,
            };
            if done {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn request(&mut self, buffer: &mut [u8], answers: [&[u8]; 2]) -> io::Result<bool> {
        let Some(count) = receive(&self.socket, buffer)? else { return Ok(true) };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.head.extend_from_slice(&buffer[..count]);
        let Some(end) = head_end(&self.head) else { return Ok(false) };
        let head = self.head[..end].to_ascii_lowercase();
        self.head.drain(..end);
        self.close = head.windows(17).any(|window| window == b"connection: close")
            || (head.windows(10).any(|window| window == b" http/1.0\r") && !head.windows(10).any(|window| window == b"keep-alive"));
        let is_large = head.starts_with(b"get /large ");
        send(&self.socket, answers[usize::from(is_large)])?;
        if is_large {
            self.what = What::Large(0);
            return Ok(false);
        }
        if self.close { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(count < buffer.len()) }
    }

    fn echo(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let Some(count) = receive(&self.socket, buffer)? else { return Ok(true) };
        match (self.what, buffer[..count].first()) {
            (_, None) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (What::Raw, Some(b'D')) => self.what = What::Download(0),
            (What::Raw, Some(b'U')) => self.what = What::Upload,
            _ => {
                self.what = What::Echo;
                send(&self.socket, &buffer[..count])?;
                return Ok(count < buffer.len());
            }
        }
        Ok(false)
    }
}
