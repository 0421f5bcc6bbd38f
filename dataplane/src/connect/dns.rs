//! The name servers of a policy, by UDP and TCP (RFC 1035) or by HTTPS (RFC 8484).
//!
//! Messages and how they travel are hickory's. Which server is asked, when the next one is, and what an answer means is decided here: servers are asked one after the
//! other, in the policy's order, because the first may know names that the others must not hear of; and of an answer only what belongs to the question counts.

use super::resolve::{Ask, Failure, Found, distinct};
use crate::parse::target::Target;
use crate::tls::Alpn;
use crate::tls::roots::Trust;
use hickory_net::NetError;
use hickory_net::h2::HttpsClientStream;
use hickory_net::proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Message, Query, ResponseCode};
use hickory_net::proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::tcp::TcpClientStream;
use hickory_net::udp::UdpClientStream;
use hickory_net::xfer::{DnsHandle, DnsRequestSender, FirstAnswer};
use policy_format::{Host, NameServer};
use std::future::Future;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, OwnedSemaphorePermit};
use tokio::time::{Instant, timeout};

/// How long a server that is not the last may take. One that is alive takes less; one that is not must leave time for the next.
const PATIENCE: Duration = Duration::from_secs(2);
/// A datagram that was lost is sent again after so many milliseconds.
const SEND_AGAIN: u64 = 500;
/// How long a server that did not answer is asked after all others.
const AVOIDED: Duration = Duration::from_secs(30);
/// Aliases in an answer that are followed.
const ALIASES: usize = 16;
/// How long it is kept in mind that there is no such name, at most.
const NEGATIVE: Duration = Duration::from_secs(30);
/// The same for addresses of one family when nobody could say whether there are some of the other.
const HALF: Duration = Duration::from_secs(30);
/// How long the other family is waited for once one has addresses: there are servers that answer for IPv4 alone, and say nothing otherwise.
const OTHER_FAMILY: Duration = Duration::from_secs(1);

/// Name servers in their order.
pub(crate) struct Dns {
    servers: Vec<Server>,
    patience: Duration,
    began: Instant,
}

struct Server {
    kind: Kind,
    /// In milliseconds since the beginning. Until then, others are asked first.
    avoided: AtomicU64,
}

enum Kind {
    Dns(SocketAddr),
    Https(Box<Https>),
}

/// A server that is asked by HTTPS, and the connection to it. It is made when it is needed; what it speaks is HTTP/2.
struct Https {
    url: Url,
    /// Whom to trust: the same as of origins. It is asked for each connection, as one of them may turn out to be ours.
    trust: Arc<Trust>,
    connection: Mutex<Option<HttpsClientStream>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Url {
    host: Host,
    port: u16,
    path: Arc<str>,
}

/// What there is of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Family {
    Addresses(Vec<IpAddr>, Duration),
    /// None of this type; of none at all if there is no such name.
    None {
        no_such_name: bool,
        keep: Duration,
    },
    Failed(Failure),
}

/// What an answer says of a name.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Addresses(Vec<IpAddr>, u32),
    /// Nothing, for so many seconds.
    Nothing {
        no_such_name: bool,
        keep: u32,
    },
    /// Aliases without end.
    Loop,
}

/// Whether all of these can be asked.
pub(crate) fn check(servers: &[NameServer]) -> Result<(), String> {
    servers.iter().try_for_each(|server| match server {
        NameServer::Dns(_) => Ok(()),
        NameServer::Https(url) => Url::read(url).map(drop),
    })
}

impl Dns {
    /// Asks these servers, for `patience` in all. Those that are asked by HTTPS are held against `trust`.
    pub(crate) fn new(servers: &[NameServer], patience: Duration, trust: &Arc<Trust>) -> Result<Self, String> {
        if servers.is_empty() {
            return Err("there is no name server".into());
        }
        let servers = servers.iter().map(|server| Ok(Server { kind: Kind::of(server, trust)?, avoided: AtomicU64::new(0) }));
        let servers = servers.collect::<Result<_, String>>()?;
        Ok(Self { servers, patience, began: Instant::now() })
    }

    /// The addresses of both families, asked for at once.
    async fn families(&self, name: &Name) -> (Family, Family) {
        let (mut six, mut four) = (pin!(self.family(name, RecordType::AAAA)), pin!(self.family(name, RecordType::A)));
        tokio::select! {
            first = &mut six => {
                let other = self.other(&first, four).await;
                (first, other)
            }
            first = &mut four => (self.other(&first, six).await, first),
        }
    }

    async fn other(&self, first: &Family, other: impl Future<Output = Family>) -> Family {
        let patience = if matches!(first, Family::Addresses(..)) { OTHER_FAMILY.min(self.patience / 2) } else { self.patience };
        timeout(patience, other).await.unwrap_or(Family::Failed(Failure::TimedOut))
    }

    /// The addresses of one family.
    async fn family(&self, name: &Name, kind: RecordType) -> Family {
        let response = match self.question(name, kind).await {
            Ok(response) => response,
            Err(failure) => return Family::Failed(failure),
        };
        match said(&response, name, kind) {
            Said::Addresses(addresses, ttl) => Family::Addresses(addresses, seconds(ttl)),
            Said::Nothing { no_such_name, keep } => Family::None { no_such_name, keep: seconds(keep).min(NEGATIVE) },
            Said::Loop => Family::Failed(Failure::NoServer),
        }
    }

    /// The first answer that can be used, in the servers' order; those that lately did not answer come last.
    async fn question(&self, name: &Name, kind: RecordType) -> Result<DnsResponse, Failure> {
        let deadline = Instant::now() + self.patience;
        let (avoided, good): (Vec<&Server>, Vec<&Server>) = self.servers.iter().partition(|server| server.is_avoided(self.now()));
        let mut failure = Failure::TimedOut;
        let mut left = self.servers.len();
        for server in good.into_iter().chain(avoided) {
            let rest = deadline.saturating_duration_since(Instant::now());
            let share = if left > 1 { rest.min(PATIENCE).min(self.patience / 2) } else { rest };
            left -= 1;
            match timeout(share, server.kind.ask(name, kind, share)).await {
                Ok(Ok(response)) if is_usable(&response, name, kind) => {
                    server.avoided.store(0, Ordering::Relaxed);
                    return Ok(response);
                }
                // It is there, and does not know.
                Ok(Ok(_)) => failure = Failure::NoServer,
                Ok(Err(error)) if !matches!(error, NetError::Timeout) => {
                    failure = Failure::NoServer;
                    server.avoid(self.now());
                }
                Ok(Err(_)) | Err(_) => server.avoid(self.now()),
            }
        }
        Err(failure)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Ask for Dns {
    async fn ask(&self, name: &str, permit: OwnedSemaphorePermit) -> Found {
        // With the dot at the end, it is this name and no other.
        let found = match Name::from_ascii(format!("{name}.")) {
            Ok(name) => {
                let (six, four) = self.families(&name).await;
                both(six, four)
            }
            // What cannot be asked for in DNS is not there.
            Err(_) => Found { answer: Err(Failure::NotFound), keep: Duration::ZERO },
        };
        drop(permit);
        found
    }
}

/// What both families come to. IPv6 comes first (RFC 8305, section 4).
fn both(six: Family, four: Family) -> Found {
    use Family::{Addresses, Failed, None};
    let (addresses, keep) = match (six, four) {
        (Addresses(mut six, a), Addresses(four, b)) => {
            six.extend(four);
            (six, a.min(b))
        }
        // That there is none of one family holds for as long as the addresses of the other do.
        (Addresses(found, keep), None { .. }) | (None { .. }, Addresses(found, keep)) => (found, keep),
        (Addresses(found, keep), Failed(_)) | (Failed(_), Addresses(found, keep)) => (found, keep.min(HALF)),
        (None { keep: a, .. }, None { keep: b, .. }) => return Found { answer: Err(Failure::NotFound), keep: a.min(b) },
        // Where there is no such name, there is none of either type.
        (None { no_such_name: true, keep }, Failed(_)) | (Failed(_), None { no_such_name: true, keep }) => {
            return Found { answer: Err(Failure::NotFound), keep };
        }
        (Failed(Failure::TimedOut), Failed(Failure::TimedOut) | None { .. }) | (None { .. }, Failed(Failure::TimedOut)) => {
            return Found { answer: Err(Failure::TimedOut), keep: Duration::ZERO };
        }
        (Failed(_), Failed(_) | None { .. }) | (None { .. }, Failed(_)) => {
            return Found { answer: Err(Failure::NoServer), keep: Duration::ZERO };
        }
    };
    match distinct(addresses) {
        Ok(mut addresses) => {
            super::dial::take_turns(&mut addresses);
            Found { answer: Ok(addresses.into()), keep }
        }
        Err(failure) => Found { answer: Err(failure), keep: Duration::ZERO },
    }
}

/// A time to live; one that is too large to be one is none (RFC 2181, section 8).
fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(if ttl > i32::MAX as u32 { 0 } else { u64::from(ttl) })
}

/// Whether it is an answer to this question, from a server that knows.
fn is_usable(response: &Message, name: &Name, kind: RecordType) -> bool {
    let [asked] = response.queries.as_slice() else { return false };
    let same = asked.name == *name && asked.query_type == kind && asked.query_class == DNSClass::IN;
    same && !response.metadata.truncation && matches!(response.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

/// What an answer says of a name: its records, and those of the names that it is an alias for. What else is in there was not asked for.
fn said(response: &Message, name: &Name, kind: RecordType) -> Said {
    let (mut at, mut ttl) = (name, u32::MAX);
    let no_such_name = response.metadata.response_code == ResponseCode::NXDomain;
    for _ in 0..=ALIASES {
        let of_name = || response.answers.iter().filter(|record| record.name == *at && record.dns_class == DNSClass::IN);
        let found: Vec<(IpAddr, u32)> = of_name().filter_map(|record| address(record, kind)).collect();
        if !found.is_empty() && !no_such_name {
            let least = found.iter().map(|(_, own)| *own).min().unwrap_or_default();
            return Said::Addresses(found.into_iter().map(|(address, _)| address).collect(), ttl.min(least));
        }
        let alias = of_name().find_map(|record| match &record.data {
            RData::CNAME(target) => Some((&target.0, record.ttl)),
            _ => None,
        });
        match alias {
            Some((target, own)) => (at, ttl) = (target, ttl.min(own)),
            None => return end(response, no_such_name, at, ttl),
        }
    }
    Said::Loop
}

/// Where the records end without an address. Behind an alias, too, that is all there is (RFC 2308, section 2.2): its target is not asked for, as nobody has decided on that name.
fn end(response: &Message, no_such_name: bool, at: &Name, ttl: u32) -> Said {
    let least = response.authorities.iter().find_map(|record| match &record.data {
        // RFC 2308, section 5. That of another zone says nothing.
        RData::SOA(soa) if record.name.zone_of(at) => Some(soa.minimum.min(record.ttl)),
        _ => None,
    });
    Said::Nothing { no_such_name, keep: ttl.min(least.unwrap_or(0)) }
}

fn address(record: &Record, kind: RecordType) -> Option<(IpAddr, u32)> {
    match (&record.data, kind) {
        (RData::A(ip), RecordType::A) => Some((ip.0.into(), record.ttl)),
        (RData::AAAA(ip), RecordType::AAAA) => Some((ip.0.into(), record.ttl)),
        _ => None,
    }
}

impl Server {
    fn is_avoided(&self, now: u64) -> bool {
        self.avoided.load(Ordering::Relaxed) > now
    }

    fn avoid(&self, now: u64) {
        self.avoided.store(now.saturating_add(u64::try_from(AVOIDED.as_millis()).unwrap_or(u64::MAX)), Ordering::Relaxed);
    }
}

impl Kind {
    fn of(server: &NameServer, trust: &Arc<Trust>) -> Result<Self, String> {
        Ok(match server {
            NameServer::Dns(address) => Self::Dns(*address),
            NameServer::Https(url) => {
                let (url, trust) = (Url::read(url)?, Arc::clone(trust));
                Self::Https(Box::new(Https { url, trust, connection: Mutex::default() }))
            }
        })
    }

    async fn ask(&self, name: &Name, kind: RecordType, patience: Duration) -> Result<DnsResponse, NetError> {
        let mut options = DnsRequestOptions::default();
        let request = |options| DnsRequest::from_query(Query::query(name.clone(), kind), options);
        match self {
            Self::Dns(address) => {
                // A port of its own for each question, and a number that cannot be guessed: whoever is not between us and the server cannot answer for it.
                let datagram = |options| {
                    let datagrams = UdpClientStream::builder(*address, TokioRuntimeProvider::new())
                        .with_timeout(Some(patience))
                        .with_retry_interval_floor(SEND_AGAIN);
                    datagrams.build().send_message(request(options)).first_answer()
                };
                let mut response = datagram(options).await?;
                if matches!(response.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp) {
                    // It is older than EDNS (RFC 6891, section 7).
                    options.use_edns = false;
                    response = datagram(options).await?;
                }
                if !response.metadata.truncation {
                    return Ok(response);
                }
                // What it started ends with the provider.
                let provider = TokioRuntimeProvider::new();
                let stream = TcpClientStream::exchange(*address, None, patience, None, provider.clone()).await?;
                stream.send(request(options)).first_answer().await
            }
            Self::Https(https) => https.ask(|| request(options), patience).await,
        }
    }
}

impl Https {
    /// Asks on the connection that there is. One that was closed meanwhile, or says nothing any more, is replaced, once.
    async fn ask(&self, request: impl Fn() -> DnsRequest, patience: Duration) -> Result<DnsResponse, NetError> {
        let (mut stream, fresh) = self.stream().await?;
        let answer = stream.send_message(request()).first_answer();
        if fresh {
            return answer.await;
        }
        match timeout(patience / 2, answer).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(_)) | Err(_) => {
                *self.connection.lock().await = None;
                let (mut stream, _) = self.stream().await?;
                stream.send_message(request()).first_answer().await
            }
        }
    }

    /// The connection, and whether it is new. Who comes while it is made waits for it.
    async fn stream(&self) -> Result<(HttpsClientStream, bool), NetError> {
        let mut connection = self.connection.lock().await;
        if let Some(stream) = &*connection {
            return Ok((stream.clone(), false));
        }
        let stream = self.connect().await?;
        *connection = Some(stream.clone());
        Ok((stream, true))
    }

    async fn connect(&self) -> Result<HttpsClientStream, NetError> {
        let Url { host, port, path } = &self.url;
        let name: Arc<str> = host.to_string().into();
        let target = (host.to_string(), *port);
        let roots = self.trust.roots().await.map_err(|error| NetError::from(error.to_string()))?;
        let tls = roots.client_config(Alpn::None, None);
        // The server's own name is looked up by the system: nobody else is there to be asked.
        let looked_up = tokio::task::spawn_blocking(move || target.to_socket_addrs());
        let addresses = looked_up.await.map_err(|error| NetError::from(error.to_string()))??;
        let mut last = NetError::NoConnections;
        for address in addresses {
            let builder = HttpsClientStream::builder(Arc::clone(&tls), TokioRuntimeProvider::new());
            match builder.build(address, Arc::clone(&name), Arc::clone(path)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Url {
    /// Reads one, or says which is no name server and why.
    fn read(url: &str) -> Result<Self, String> {
        Self::parse(url).map_err(|what| format!("`{}` is no name server: {what}", url.escape_debug()))
    }

    /// `https://host[:port][/path]`; without a path it is `/dns-query`.
    fn parse(url: &str) -> Result<Self, &'static str> {
        let rest = url.strip_prefix("https://").ok_or("it has to begin with `https://`")?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let Target { host, port } = Target::parse(authority, Some(443)).map_err(|_| "its host or port cannot be read")?;
        match host {
            Host::NumericLookalike(_) => return Err("its host is neither a name nor an address"),
            // The library that speaks HTTP/2 writes no brackets around one.
            Host::Ip(IpAddr::V6(_)) => return Err("its host is an IPv6 address; give the server's name"),
            _ => {}
        }
        let path = if path.is_empty() || path == "/" { "/dns-query" } else { path };
        let plain = path.starts_with('/')
            && path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#' | b'{' | b'}' | b'"' | b'<' | b'>'));
        if plain { Ok(Self { host, port, path: path.into() }) } else { Err("its path cannot be read; a query and a fragment are not used") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::pem;
    use crate::tls::roots::{Own, Sources};
    use bytes::Bytes;
    use h2::RecvStream;
    use h2::server::SendResponse;
    use hickory_net::proto::op::{MessageType, OpCode};
    use hickory_net::proto::rr::rdata::{A, AAAA, CNAME, SOA};
    use hyper::{Request, Response};
    use proptest::prelude::*;
    use std::sync::atomic::AtomicUsize;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn a(owner: &str, ttl: u32, ip: [u8; 4]) -> Record {
        Record::from_rdata(name(owner), ttl, RData::A(A(ip.into())))
    }

    fn alias(owner: &str, ttl: u32, target: &str) -> Record {
        Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
    }

    fn soa(zone: &str, ttl: u32, minimum: u32) -> Record {
        Record::from_rdata(name(zone), ttl, RData::SOA(SOA::new(name("ns.test."), name("root.test."), 1, 1, 1, 1, minimum)))
    }

    fn response(code: ResponseCode, answers: Vec<Record>, authorities: Vec<Record>) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.queries.push(Query::query(name("a.test."), RecordType::A));
        message.metadata.response_code = code;
        (message.answers, message.authorities) = (answers, authorities);
        message
    }

    /// A server on loopback that speaks DNS over HTTPS, and its certificate.
    #[derive(Clone)]
    struct OverHttps {
        address: SocketAddr,
        certificate: CertificateDer<'static>,
        /// TLS connections, and what was asked on them.
        connections: Arc<AtomicUsize>,
        asked: Arc<std::sync::Mutex<Vec<String>>>,
    }

    impl OverHttps {
        /// Closes a connection after so many questions, and answers with this status.
        async fn start(questions: usize, status: u16) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let certified = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
            let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()).into();
            let provider = Arc::new(ring::default_provider());
            let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            let mut server = server.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
            server.alpn_protocols = vec![b"h2".to_vec()];
            let acceptor = TlsAcceptor::from(Arc::new(server));
            let (connections, asked) = (Arc::new(AtomicUsize::new(0)), Arc::default());
            let (counter, log) = (Arc::clone(&connections), Arc::clone(&asked));
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let Ok(tls) = acceptor.accept(stream).await else { continue };
                    counter.fetch_add(1, Ordering::Relaxed);
                    let log = Arc::clone(&log);
                    tokio::spawn(async move {
                        let mut connection = h2::server::handshake(tls).await.unwrap();
                        for _ in 0..questions {
                            let Some(Ok((request, respond))) = connection.accept().await else { return };
                            tokio::spawn(answer(request, respond, status, Arc::clone(&log)));
                        }
                        connection.graceful_shutdown();
                        while connection.accept().await.is_some() {}
                    });
                }
            });
            Self { address, certificate: certified.cert.der().clone(), connections, asked }
        }

        /// Who asks it, and trusts it, but for those certificates that are our own. Its roots are read, and their file is gone before anything is asked.
        async fn dns(&self, host: &str, own: &Arc<Own>) -> Dns {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("roots.pem");
            std::fs::write(&file, pem::encode("CERTIFICATE", &self.certificate).as_bytes()).unwrap();
            let trust = Arc::new(Trust::new(Sources::read([("SSL_CERT_FILE", file.to_str().unwrap())]), Arc::clone(own)));
            trust.roots().await.unwrap();
            drop(dir);
            let url = format!("https://{host}:{}/q", self.address.port());
            Dns::new(&[NameServer::Https(url)], Duration::from_secs(20), &trust).unwrap()
        }
    }

    async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, status: u16, log: Arc<std::sync::Mutex<Vec<String>>>) {
        let (head, mut body) = request.into_parts();
        let mut bytes = Vec::new();
        while let Some(chunk) = body.data().await {
            bytes.extend(chunk.unwrap());
        }
        let query = Message::from_vec(&bytes).unwrap();
        let question = query.queries[0].clone();
        log.lock().unwrap().push(format!("{} {} {} {}", head.method, head.uri.path(), question.query_type, question.name));
        let mut response = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        if question.query_type == RecordType::A {
            response.answers.push(Record::from_rdata(question.name.clone(), 60, RData::A(A([192, 0, 2, 1].into()))));
        }
        response.queries.push(question);
        let head = Response::builder().status(status).header("content-type", "application/dns-message").body(()).unwrap();
        let mut stream = respond.send_response(head, false).unwrap();
        stream.send_data(response.to_vec().unwrap().into(), true).unwrap();
    }

    async fn ask(dns: &Dns) -> Found {
        let permit = Arc::new(tokio::sync::Semaphore::new(1)).acquire_owned().await.unwrap();
        dns.ask("a.test", permit).await
    }

    #[tokio::test]
    async fn servers_are_asked_by_https_on_one_connection() {
        let server = OverHttps::start(usize::MAX, 200).await;
        for host in ["127.0.0.1", "localhost"] {
            let before = server.connections.load(Ordering::Relaxed);
            let dns = server.dns(host, &Arc::default()).await;
            for _ in 0..3 {
                let expected = Found { answer: Ok([IpAddr::from([192, 0, 2, 1])].into()), keep: Duration::from_secs(60) };
                assert_eq!(ask(&dns).await, expected, "{host}");
            }
            assert_eq!(server.connections.load(Ordering::Relaxed), before + 1, "{host}");
        }
        let mut asked = server.asked.lock().unwrap().clone();
        asked.sort_unstable();
        asked.dedup();
        assert_eq!(asked, ["POST /q A a.test.", "POST /q AAAA a.test."]);
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_is_replaced() {
        // Both families at once, and no more.
        let server = OverHttps::start(2, 200).await;
        let dns = server.dns("127.0.0.1", &Arc::default()).await;
        for _ in 0..3 {
            assert!(ask(&dns).await.answer.is_ok());
        }
        assert!(server.connections.load(Ordering::Relaxed) >= 3);
    }

    #[tokio::test]
    async fn who_is_not_trusted_or_does_not_know_gives_no_answer() {
        let nothing = Found { answer: Err(Failure::NoServer), keep: Duration::ZERO };
        let server = OverHttps::start(usize::MAX, 200).await;
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let unknown = OverHttps { certificate: other.cert.der().clone(), ..server.clone() };
        let ours = Arc::<Own>::default();
        ours.add(&server.certificate);
        for dns in [unknown.dns("127.0.0.1", &Arc::default()).await, server.dns("127.0.0.1", &ours).await] {
            assert_eq!(ask(&dns).await, nothing);
        }
        assert_eq!(*server.asked.lock().unwrap(), Vec::<String>::new());
        let failing = OverHttps::start(usize::MAX, 500).await;
        assert_eq!(ask(&failing.dns("127.0.0.1", &Arc::default()).await).await, nothing);
    }

    #[tokio::test]
    async fn a_server_whose_certificate_becomes_ours_is_trusted_no_more() {
        // A connection for each look-up.
        let server = OverHttps::start(2, 200).await;
        let own = Arc::<Own>::default();
        let dns = server.dns("127.0.0.1", &own).await;
        assert!(ask(&dns).await.answer.is_ok());
        own.add(&server.certificate);
        assert_eq!(ask(&dns).await.answer, Err(Failure::NoServer));
    }

    #[test]
    fn of_an_answer_counts_what_belongs_to_the_question() {
        use ResponseCode::{NXDomain, NoError};
        let one = [192, 0, 2, 1];
        let nothing = |no_such_name, keep| Said::Nothing { no_such_name, keep };
        let aaaa = Record::from_rdata(name("a.test."), 60, RData::AAAA(AAAA([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into())));
        let mut chaos = a("a.test.", 60, one);
        chaos.dns_class = DNSClass::CH;
        let cases = [
            (
                "the least time counts",
                response(NoError, vec![a("a.test.", 60, one), a("A.test.", 30, one)], vec![]),
                Said::Addresses(vec![one.into(); 2], 30),
            ),
            (
                "of aliases too",
                response(NoError, vec![alias("a.test.", 5, "b.test."), a("b.test.", 60, one)], vec![]),
                Said::Addresses(vec![one.into()], 5),
            ),
            (
                "in any order",
                response(NoError, vec![a("b.test.", 60, one), alias("a.test.", 90, "b.test.")], vec![]),
                Said::Addresses(vec![one.into()], 60),
            ),
            ("not of another name", response(NoError, vec![a("b.test.", 60, one)], vec![]), nothing(false, 0)),
            ("not beside the answer", response(NoError, vec![], vec![a("a.test.", 60, one)]), nothing(false, 0)),
            ("not of another type", response(NoError, vec![aaaa], vec![]), nothing(false, 0)),
            ("not of another class", response(NoError, vec![chaos], vec![]), nothing(false, 0)),
            (
                "not of a name that there is not",
                response(NXDomain, vec![a("a.test.", 60, one)], vec![soa("test.", 60, 9)]),
                nothing(true, 9),
            ),
            ("nothing, for as long as the zone says", response(NoError, vec![], vec![soa("test.", 7, 9)]), nothing(false, 7)),
            ("but not another zone", response(NoError, vec![], vec![soa("example.", 7, 9)]), nothing(false, 0)),
            ("an alias of nothing", response(NoError, vec![alias("a.test.", 5, "b.test.")], vec![soa("test.", 7, 9)]), nothing(false, 5)),
            ("an alias of which nothing is said", response(NoError, vec![alias("a.test.", 5, "b.test.")], vec![]), nothing(false, 0)),
            ("an alias of itself", response(NoError, vec![alias("a.test.", 5, "a.test.")], vec![]), Said::Loop),
            (
                "aliases in a ring",
                response(NoError, vec![alias("a.test.", 5, "b.test."), alias("b.test.", 5, "a.test.")], vec![]),
                Said::Loop,
            ),
        ];
        for (what, response, expected) in cases {
            assert_eq!(said(&response, &name("a.test."), RecordType::A), expected, "{what}");
        }
    }

    proptest! {
        // Aliases and addresses of a few names, in any order and as entangled as they come out.
        #[test]
        fn what_is_said_is_said_of_the_name_or_of_what_it_is_an_alias_for(records in prop::collection::vec((0..6_u8, prop::option::of(0..6_u8), 0..99_u32), 0..12)) {
            let owner = |number: u8| format!("{}.test.", char::from(b'a' + number));
            let record = |(from, to, ttl): &(u8, Option<u8>, u32)| match to {
                Some(to) => alias(&owner(*from), *ttl, &owner(*to)),
                None => a(&owner(*from), *ttl, [192, 0, 2, *from]),
            };
            let answers: Vec<Record> = records.iter().map(record).collect();
            // Every name that one comes to from the first.
            let mut reached = std::collections::BTreeSet::from([0]);
            for _ in 0..6 {
                reached.extend(records.iter().filter(|(from, ..)| reached.contains(from)).filter_map(|(_, to, _)| *to).collect::<Vec<_>>());
            }
            let least = records.iter().map(|(.., ttl)| *ttl).min().unwrap_or(0);
            match said(&response(ResponseCode::NoError, answers, vec![]), &name("a.test."), RecordType::A) {
                Said::Addresses(found, ttl) => {
                    prop_assert!(!found.is_empty() && ttl >= least);
                    for ip in found {
                        let IpAddr::V4(ip) = ip else { panic!("{ip}") };
                        prop_assert!(reached.contains(&ip.octets()[3]));
                    }
                }
                Said::Nothing { no_such_name, keep } => prop_assert_eq!((no_such_name, keep), (false, 0)),
                Said::Loop => prop_assert!(records.iter().filter(|(_, to, _)| to.is_some()).count() > 0),
            }
        }

        #[test]
        fn no_bytes_are_too_much(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = Message::from_vec(&bytes) {
                said(&message, &name("a.test."), RecordType::A);
                is_usable(&message, &name("a.test."), RecordType::A);
            }
        }
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let usable = |message: &Message| is_usable(message, &name("a.test."), RecordType::A);
        let good = response(ResponseCode::NoError, vec![], vec![]);
        assert!(usable(&good));
        assert!(usable(&response(ResponseCode::NXDomain, vec![], vec![])));
        for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::FormErr, ResponseCode::NotImp] {
            assert!(!usable(&response(code, vec![], vec![])), "{code}");
        }
        let mut truncated = good.clone();
        truncated.metadata.truncation = true;
        let mut without = good.clone();
        without.queries.clear();
        let mut twice = good.clone();
        twice.queries.push(Query::query(name("a.test."), RecordType::A));
        for wrong in [truncated, without, twice] {
            assert!(!usable(&wrong));
        }
        assert!(!is_usable(&good, &name("b.test."), RecordType::A));
        assert!(!is_usable(&good, &name("a.test."), RecordType::AAAA));
    }

    #[test]
    fn both_families_make_one_answer() {
        let second = Duration::from_secs;
        let found = |last, ttl| Family::Addresses(vec![IpAddr::from([192, 0, 2, last])], second(ttl));
        let none = |no_such_name, ttl| Family::None { no_such_name, keep: second(ttl) };
        let (failed, late) = (Family::Failed(Failure::NoServer), Family::Failed(Failure::TimedOut));
        let cases = [
            (found(1, 60), found(2, 30), Ok(vec![1, 2]), 30),
            (found(1, 60), found(1, 60), Ok(vec![1]), 60),
            (none(false, 0), found(2, 60), Ok(vec![2]), 60),
            // Nobody could say whether there is more.
            (failed.clone(), found(2, 600), Ok(vec![2]), 30),
            (found(1, 9), late.clone(), Ok(vec![1]), 9),
            (none(true, 9), none(true, 5), Err(Failure::NotFound), 5),
            (none(true, 9), late.clone(), Err(Failure::NotFound), 9),
            (none(false, 9), failed.clone(), Err(Failure::NoServer), 0),
            (none(false, 9), late.clone(), Err(Failure::TimedOut), 0),
            (late.clone(), late.clone(), Err(Failure::TimedOut), 0),
            (late, failed, Err(Failure::NoServer), 0),
        ];
        for (six, four, expected, keep) in cases {
            let what = format!("{six:?} {four:?}");
            let answer = expected.map(|lasts: Vec<u8>| lasts.into_iter().map(|last| IpAddr::from([192, 0, 2, last])).collect());
            assert_eq!(both(six, four), Found { answer, keep: second(keep) }, "{what}");
        }
        // Of both together there may be so many.
        let six = |count| Family::Addresses((0..count).map(|last| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last])).collect(), second(9));
        assert_eq!(both(six(255), found(1, 9)).answer.map(|all| all.len()), Ok(256));
        assert_eq!(both(six(256), found(1, 9)), Found { answer: Err(Failure::NoServer), keep: Duration::ZERO });
    }

    #[test]
    fn a_time_that_cannot_be_one_is_none() {
        assert_eq!(seconds(u32::MAX), Duration::ZERO);
        assert_eq!(seconds(60), Duration::from_secs(60));
    }

    #[test]
    fn reads_urls_of_name_servers() {
        let good = [
            ("https://dns.example/dns-query", "dns.example", 443, "/dns-query"),
            ("https://dns.example", "dns.example", 443, "/dns-query"),
            ("https://192.0.2.53:8443/q", "192.0.2.53", 8443, "/q"),
        ];
        for (url, host, port, path) in good {
            assert_eq!(Url::parse(url), Ok(Url { host: Host::parse(host).unwrap(), port, path: path.into() }), "{url}");
        }
        let bad = [
            "http://dns.example/dns-query",
            "https://",
            "https://user@dns.example/",
            "https://dns.example:0/",
            "https://dns.example/dns-query{?dns}",
            "https://dns.example/a?b",
            "https://dns.example/a b",
            "https://127.1/",
            "https://[2001:db8::1]/",
        ];
        for url in bad {
            let error = check(&[NameServer::Https(url.into())]).unwrap_err();
            assert!(error.starts_with(&format!("`{url}` is no name server: ")), "{error}");
        }
    }
}
