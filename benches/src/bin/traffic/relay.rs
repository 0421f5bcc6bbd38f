//! The limit: a relay without policy, time limits, names or a log. It takes absolute-form HTTP, CONNECT and SOCKS5 for addresses, keeps upstream connections, and moves bytes with splice(2).
//! It understands the requests of `client` and the answers of `origin`, no others.

use crate::net::{LISTENER, MIB, Poll, accept, again, connect, content_length, head_end, listen, receive, send};
use rustix::net::Shutdown;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

type Pipe = (OwnedFd, OwnedFd);

/// One direction.
#[derive(Default)]
struct Flow {
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    ended: bool,
}

#[derive(PartialEq)]
enum State {
    Start,
    SocksRequest,
    Tunnel,
    /// Between requests, or waiting for an answer's head.
    Http,
    /// So much of an answer is still to come.
    Body(usize),
}

struct Pair {
    client: OwnedFd,
    upstream: Option<OwnedFd>,
    address: SocketAddr,
    state: State,
    /// Of a request, until it is whole.
    head: Vec<u8>,
    /// Of an answer, until the client takes it.
    unsent: Vec<u8>,
    close: bool,
    up: Flow,
    down: Flow,
}

struct Relay {
    poll: Poll,
    idle: HashMap<SocketAddr, Vec<OwnedFd>>,
    pipes: Vec<Pipe>,
    buffer: Vec<u8>,
}

/// Serves until it is ended.
pub(crate) fn run(address: SocketAddr) {
    let (listener, address) = listen(address);
    println!("{address}");
    let mut relay = Relay { poll: Poll::new(), idle: HashMap::new(), pipes: Vec::new(), buffer: vec![0; 64 * 1024] };
    relay.poll.add_listener(&listener, LISTENER);
    let (mut pairs, mut free, mut ready, mut busy) = (Vec::<Option<Pair>>::new(), Vec::new(), Vec::new(), Vec::new());
    loop {
        relay.poll.wait(&mut ready, (!busy.is_empty()).then_some(std::time::Duration::ZERO));
        ready.append(&mut busy);
        for &number in &ready {
            if number == LISTENER {
                while let Some(client) = accept(&listener) {
                    let at = free.pop().unwrap_or_else(|| {
                        pairs.push(None);
                        pairs.len() - 1
                    });
                    relay.poll.add(&client, at as u64 * 2);
                    let (up, down) = (Flow::default(), Flow::default());
                    let (head, unsent) = (Vec::new(), Vec::new());
                    pairs[at] = Some(Pair { client, upstream: None, address, state: State::Start, head, unsent, close: false, up, down });
                }
                continue;
            }
            let at = number as usize / 2;
            let Some(pair) = &mut pairs[at] else { continue };
            match relay.go_on(pair, number) {
                Ok(true) => {}
                Ok(false) => busy.push(number),
                Err(_) => {
                    if let Some(pair) = pairs[at].take() {
                        relay.end(pair);
                    }
                    free.push(at);
                }
            }
        }
    }
}

impl Relay {
    fn end(&mut self, pair: Pair) {
        if let (State::Http, Some(upstream)) = (pair.state, pair.upstream) {
            self.poll.remove(&upstream);
            self.idle.entry(pair.address).or_default().push(upstream);
        }
        self.pipes.extend([pair.up, pair.down].into_iter().filter(|flow| flow.held == 0).filter_map(|flow| flow.pipe));
    }

    /// Does what the event asks for: true when there is nothing more for now.
    fn go_on(&mut self, pair: &mut Pair, number: u64) -> io::Result<bool> {
        let from_client = number.is_multiple_of(2);
        match pair.state {
            State::Start | State::SocksRequest => self.first_bytes(pair, number),
            State::Http if from_client => self.request(pair, number),
            State::Http => self.answer(pair),
            State::Body(_) => self.body(pair),
            State::Tunnel => {
                let up = self.pump(pair, true, MIB)?.0;
                let down = self.pump(pair, false, MIB)?.0;
                if pair.up.ended && pair.down.ended { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(up && down) }
            }
        }
    }

    fn take(&mut self, pair: &mut Pair) -> io::Result<bool> {
        let Some(count) = receive(&pair.client, &mut self.buffer)? else { return Ok(false) };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        pair.head.extend_from_slice(&self.buffer[..count]);
        Ok(true)
    }

    fn first_bytes(&mut self, pair: &mut Pair, number: u64) -> io::Result<bool> {
        if !self.take(pair)? {
            return Ok(true);
        }
        if pair.state == State::SocksRequest {
            let [5, 1, 0, 1, a, b, c, d, high, low] = pair.head[..] else { return Ok(pair.head.len() < 10) };
            let address = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])));
            return self.tunnel(pair, number, address, b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00");
        }
        if pair.head.first() == Some(&5) {
            pair.state = State::SocksRequest;
            pair.head.clear();
            send(&pair.client, b"\x05\x00")?;
            return Ok(true);
        }
        if pair.head.starts_with(b"CONNECT ") {
            let Some(_) = head_end(&pair.head) else { return Ok(true) };
            let target = pair.head.split(|&byte| byte == b' ').nth(1).unwrap_or_default();
            let address = parse(target)?;
            return self.tunnel(pair, number, address, b"HTTP/1.1 200 OK\r\n\r\n");
        }
        pair.state = State::Http;
        self.forward(pair, number)
    }

    fn tunnel(&mut self, pair: &mut Pair, number: u64, address: SocketAddr, reply: &[u8]) -> io::Result<bool> {
        let upstream = connect(address)?;
        self.poll.add(&upstream, number | 1);
        pair.upstream = Some(upstream);
        pair.head = Vec::new();
        pair.state = State::Tunnel;
        send(&pair.client, reply)?;
        Ok(true)
    }

    fn request(&mut self, pair: &mut Pair, number: u64) -> io::Result<bool> {
        if !self.take(pair)? {
            return Ok(true);
        }
        self.forward(pair, number)
    }

    /// Sends a whole request on, in origin form and without its line about the connection.
    fn forward(&mut self, pair: &mut Pair, number: u64) -> io::Result<bool> {
        let Some(end) = head_end(&pair.head) else { return Ok(true) };
        let text = std::str::from_utf8(&pair.head[..end]).map_err(io::Error::other)?;
        let (line, fields) = text.split_once("\r\n").ok_or(io::ErrorKind::InvalidData)?;
        let (method, rest) = line.split_once(" http://").ok_or(io::ErrorKind::InvalidData)?;
        let (authority, path) = rest.split_once('/').ok_or(io::ErrorKind::InvalidData)?;
        let address = parse(authority.as_bytes())?;
        let (fields, close) = fields.strip_suffix("Connection: close\r\n\r\n").map_or((fields, false), |fields| (fields, true));
        let sent = format!("{method} /{path}\r\n{fields}{}", if close { "\r\n" } else { "" });
        pair.close = close;
        pair.head.drain(..end);
        if pair.upstream.is_none() {
            let upstream = match self.idle.get_mut(&address).and_then(Vec::pop) {
                Some(upstream) => upstream,
                None => connect(address)?,
            };
            self.poll.add(&upstream, number | 1);
            (pair.upstream, pair.address) = (Some(upstream), address);
        }
        if let Some(upstream) = &pair.upstream {
            send(upstream, sent.as_bytes())?;
        }
        Ok(true)
    }

    fn answer(&mut self, pair: &mut Pair) -> io::Result<bool> {
        let Some(upstream) = &pair.upstream else { return Ok(true) };
        let Some(count) = receive(upstream, &mut self.buffer)? else { return Ok(true) };
        let got = &self.buffer[..count];
        let end = head_end(got).ok_or(io::ErrorKind::UnexpectedEof)?;
        let left = content_length(&got[..end]).unwrap_or(0).saturating_sub(count - end);
        let sent = send(&pair.client, got)?.unwrap_or(0);
        pair.unsent.extend_from_slice(&got[sent..]);
        if left > 0 || !pair.unsent.is_empty() {
            pair.state = State::Body(left);
            return self.body(pair);
        }
        finished(pair)
    }

    fn body(&mut self, pair: &mut Pair) -> io::Result<bool> {
        if !pair.unsent.is_empty() {
            let Some(sent) = send(&pair.client, &pair.unsent)? else { return Ok(true) };
            pair.unsent.drain(..sent);
            if !pair.unsent.is_empty() {
                return Ok(true);
            }
        }
        let State::Body(left) = pair.state else { return Ok(true) };
        let (waits, moved) = self.pump(pair, false, left)?;
        pair.state = State::Body(left - moved);
        if left == moved && pair.down.held == 0 {
            pair.state = State::Http;
            return finished(pair);
        }
        Ok(waits)
    }

    /// Moves up to `most` bytes in one direction: whether it has to wait now, and how many it took in.
    fn pump(&mut self, pair: &mut Pair, upward: bool, most: usize) -> io::Result<(bool, usize)> {
        let Some(upstream) = &pair.upstream else { return Ok((true, 0)) };
        let (flow, source, sink) = if upward { (&mut pair.up, &pair.client, upstream) } else { (&mut pair.down, upstream, &pair.client) };
        let (flags, mut moved) = (SpliceFlags::MOVE | SpliceFlags::NONBLOCK, 0);
        for _ in 0..8 {
            if flow.held == 0 {
                if flow.ended || moved == most {
                    break;
                }
                let pipe = match flow.pipe.take().or_else(|| self.pipes.pop()) {
                    Some(pipe) => pipe,
                    None => {
                        let pipe = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                        let _ = fcntl_setpipe_size(&pipe.1, MIB);
                        pipe
                    }
                };
                let taken = again(splice(source, None, &pipe.1, None, most - moved, flags));
                match taken? {
                    None => {
                        self.pipes.push(pipe);
                        return Ok((true, moved));
                    }
                    Some(0) => {
                        flow.ended = true;
                        self.pipes.push(pipe);
                        let _ = rustix::net::shutdown(sink, Shutdown::Write);
                        break;
                    }
                    Some(count) => {
                        (flow.held, flow.pipe) = (count, Some(pipe));
                        moved += count;
                    }
                }
            }
            let Some(pipe) = &flow.pipe else { break };
            match again(splice(&pipe.0, None, sink, None, flow.held, flags))? {
                None => return Ok((true, moved)),
                Some(count) => flow.held -= count,
            }
            if flow.held == 0 {
                self.pipes.extend(flow.pipe.take());
            }
        }
        Ok((flow.ended, moved))
    }
}

/// An answer is over.
fn finished(pair: &Pair) -> io::Result<bool> {
    if pair.close { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(true) }
}

fn parse(target: &[u8]) -> io::Result<SocketAddr> {
    std::str::from_utf8(target).ok().and_then(|text| text.parse().ok()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
