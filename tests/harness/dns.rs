//! A name server on loopback, by UDP and TCP, that says what it is told to: right, wrong, or nothing. It writes its messages itself, byte by byte, so that it shares no
//! mistake with who reads them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// What is said of a name.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    /// Records of the answer: of the type that was asked for, and aliases. One list for each question, the last for all that follow.
    pub answers: Vec<Vec<Record>>,
    /// Records beside the answer.
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
    /// The response code (RFC 1035, section 4.1.1).
    pub code: u8,
    pub manner: Manner,
}

/// How it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    #[default]
    Plain,
    /// By UDP, it is said that there is more, and nothing else.
    Truncated,
    /// The same by TCP.
    AlwaysTruncated,
    /// Nothing.
    Silent,
    /// Nothing to who asks for IPv6.
    SilentOnSix,
    /// FORMERR to who speaks EDNS.
    Old,
    /// An answer to another question.
    OtherQuestion,
    /// What is no message.
    Garbage,
    /// First what others would say who guess: with another number. Then the answer.
    Spoofed,
}

/// A record: owner, seconds to live, data.
#[derive(Debug, Clone)]
pub struct Record {
    pub owner: String,
    pub ttl: u32,
    pub data: Data,
}

#[derive(Debug, Clone)]
pub enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(String),
    /// How long that there is nothing holds.
    Soa(u32),
}

impl Record {
    /// Reads `owner ttl type data`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let [owner, ttl, kind, data] = text.split_whitespace().collect::<Vec<_>>()[..] else { panic!("`{text}` is no record") };
        let data = match kind {
            "A" => Data::A(data.parse().unwrap()),
            "AAAA" => Data::Aaaa(data.parse().unwrap()),
            "CNAME" => Data::Cname(data.to_owned()),
            "SOA" => Data::Soa(data.parse().unwrap()),
            other => panic!("`{other}` is no type"),
        };
        Self { owner: owner.to_owned(), ttl: ttl.parse().unwrap(), data }
    }

    fn kind(&self) -> u16 {
        match self.data {
            Data::A(_) => 1,
            Data::Cname(_) => 5,
            Data::Soa(_) => 6,
            Data::Aaaa(_) => 28,
        }
    }

    fn write(&self, message: &mut Vec<u8>) {
        let data = match &self.data {
            Data::A(ip) => ip.octets().to_vec(),
            Data::Aaaa(ip) => ip.octets().to_vec(),
            Data::Cname(name) => encode(name),
            Data::Soa(minimum) => [encode("ns.test"), encode("root.test"), vec![0; 16], minimum.to_be_bytes().to_vec()].concat(),
        };
        message.extend(encode(&self.owner));
        message.extend(self.kind().to_be_bytes());
        message.extend(1_u16.to_be_bytes());
        message.extend(self.ttl.to_be_bytes());
        message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        message.extend(data);
    }
}

/// A name as it is sent.
fn encode(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    labels.flat_map(|label| [&[u8::try_from(label.len()).unwrap()], label.as_bytes()].concat()).chain([0]).collect()
}

/// A running name server; stops when it is dropped.
pub struct NameServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    zones: Mutex<HashMap<String, Zone>>,
    asked: Mutex<Vec<String>>,
    /// Questions in datagrams, by number, and how often the same was asked before: who hears nothing for a while sends his again.
    datagrams: Mutex<HashMap<(u16, String), usize>>,
    held: Mutex<bool>,
    released: Condvar,
    stop: AtomicBool,
}

impl NameServer {
    /// Knows these names, and says of others that there are none.
    #[must_use]
    pub fn start(zones: impl IntoIterator<Item = (String, Zone)>) -> Self {
        // The system gives one of the two a port that the other can have too, sooner or later.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let shared = Arc::new(Shared { zones: Mutex::new(zones.into_iter().collect()), ..Shared::default() });
        let of_udp = Arc::clone(&shared);
        std::thread::spawn(move || serve_udp(&udp, &of_udp));
        let of_tcp = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                if of_tcp.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&of_tcp);
                std::thread::spawn(move || serve_tcp(stream, &shared));
            }
        });
        Self { address, shared }
    }

    /// One that knows these addresses, all for `ttl` seconds.
    #[must_use]
    pub fn of(ttl: u32, names: &[(&str, &[&str])]) -> Self {
        Self::start(names.iter().map(|(name, ips)| ((*name).to_owned(), zone(name, ttl, ips))))
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says something else of a name from now on.
    pub fn set(&self, name: &str, zone: Zone) {
        self.shared.zones.lock().unwrap().insert(name.to_owned(), zone);
    }

    /// What it was asked: transport, type, name.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Answers nothing until [`Self::release`].
    pub fn hold(&self) {
        *self.shared.held.lock().unwrap() = true;
    }

    pub fn release(&self) {
        *self.shared.held.lock().unwrap() = false;
        self.shared.released.notify_all();
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.release();
        // Wakes both threads.
        let _ = TcpStream::connect(self.address);
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[], self.address));
    }
}

/// Addresses of a name, one list for all questions.
#[must_use]
pub fn zone(name: &str, ttl: u32, ips: &[&str]) -> Zone {
    let record = |ip: &&str| {
        let data = match ip.parse().unwrap() {
            IpAddr::V4(ip) => Data::A(ip),
            IpAddr::V6(ip) => Data::Aaaa(ip),
        };
        Record { owner: name.to_owned(), ttl, data }
    };
    Zone { answers: vec![ips.iter().map(record).collect()], ..Zone::default() }
}

fn serve_udp(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        for message in shared.answers(&buffer[..length], "udp") {
            let _ = socket.send_to(&message, client);
        }
    }
}

fn serve_tcp(mut stream: TcpStream, shared: &Shared) {
    loop {
        let mut length = [0; 2];
        if stream.read_exact(&mut length).is_err() {
            return;
        }
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut message).is_err() {
            return;
        }
        for message in shared.answers(&message, "tcp") {
            let length = u16::try_from(message.len()).unwrap().to_be_bytes();
            if stream.write_all(&[&length[..], &message].concat()).is_err() {
                return;
            }
        }
    }
}

impl Shared {
    /// What is sent to who asks, message by message.
    fn answers(&self, query: &[u8], transport: &str) -> Vec<Vec<u8>> {
        let Some((name, kind, question)) = read_question(query) else { return Vec::new() };
        let type_name = match kind {
            1 => "A",
            28 => "AAAA",
            _ => "?",
        };
        let times = {
            let mut asked = self.asked.lock().unwrap();
            let line = format!("{transport} {type_name} {name}");
            let times = asked.iter().filter(|before| **before == line).count();
            let mut datagrams = self.datagrams.lock().unwrap();
            let known = datagrams.entry((u16::from_be_bytes([query[0], query[1]]), line.clone()));
            match known {
                Entry::Occupied(again) if transport == "udp" => *again.get(),
                known => {
                    known.or_insert(times);
                    asked.push(line);
                    times
                }
            }
        };
        let mut held = self.held.lock().unwrap();
        while *held {
            held = self.released.wait(held).unwrap();
        }
        drop(held);
        let nothing = Zone { code: 3, authority: vec![Record::parse("test 60 SOA 60")], ..Zone::default() };
        let zone = self.zones.lock().unwrap().get(&name).cloned().unwrap_or(nothing);
        let id = [query[0], query[1]];
        let say = |id: [u8; 2], question: &[u8], truncated: bool| {
            let list = zone.answers.get(times).or(zone.answers.last()).map_or(&[][..], Vec::as_slice);
            let list: Vec<&Record> = list.iter().filter(|record| record.kind() == kind || record.kind() == 5).collect();
            let list = if truncated { Vec::new() } else { list };
            // A response, recursion wanted and available.
            let mut message = vec![id[0], id[1], 0x81 | (u8::from(truncated) << 1), 0x80 | zone.code];
            for count in [1, list.len(), zone.authority.len(), zone.additional.len()] {
                message.extend(u16::try_from(count).unwrap().to_be_bytes());
            }
            message.extend(question);
            for record in list.into_iter().chain(&zone.authority).chain(&zone.additional) {
                record.write(&mut message);
            }
            message
        };
        let is_long = |message: &Vec<u8>| transport == "udp" && message.len() > 1232;
        match zone.manner {
            Manner::Silent => Vec::new(),
            Manner::SilentOnSix if kind == 28 => Vec::new(),
            // A record beside the question, a response code of 1, and nothing else.
            Manner::Old if query[11] > 0 => vec![[&id[..], &[0x81, 0x81, 0, 1, 0, 0, 0, 0, 0, 0], &question].concat()],
            Manner::Garbage => vec![[&id[..], &[0xff; 30]].concat()],
            Manner::OtherQuestion => vec![say(id, &[encode("other.test"), question[question.len() - 4..].to_vec()].concat(), false)],
            Manner::Spoofed => {
                let bad = Self { zones: Mutex::new(HashMap::new()), ..Self::default() };
                let wrong = [query[0] ^ 1, query[1]];
                let spoofed = bad.answers(&[&wrong[..], &query[2..]].concat(), transport);
                spoofed.into_iter().chain([say(id, &question, false)]).collect()
            }
            Manner::AlwaysTruncated => vec![say(id, &question, true)],
            Manner::Truncated => vec![say(id, &question, transport == "udp")],
            Manner::Plain | Manner::SilentOnSix | Manner::Old => {
                vec![Some(say(id, &question, false)).filter(|message| !is_long(message)).unwrap_or_else(|| say(id, &question, true))]
            }
        }
    }
}

/// The name in lower case, the type, and the question as it came.
fn read_question(query: &[u8]) -> Option<(String, u16, Vec<u8>)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at + 1..=at + length)?).to_ascii_lowercase());
        at += 1 + length;
    }
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    Some((labels.join("."), kind, query.get(12..at + 5)?.to_vec()))
}
