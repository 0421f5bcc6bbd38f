#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

//! A real client and a real origin, with streams in memory between them. Where time stands still, it goes on only when nobody has anything to do: whoever waits then is stuck.

use super::head::{self, Head};
use super::pool::{self, Idle};
use super::*;
use crate::connect::{Leads, UpstreamError};
use crate::connection::rig;
use crate::inside::judge::{Actions, Answer, Facts, Judged, Refusal, Standing};
use crate::parse::forwarding::Forwarding;
use crate::policy::{Policy, PolicyHandle};
use crate::shutdown::{self, Trigger};
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use policy_format::Forwarded;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

type Decide = dyn Fn(&Facts<'_>) -> Result<Actions, Answer> + Send + Sync;

/// Decides as it is told to.
struct Script {
    decide: Box<Decide>,
    wanted: Option<usize>,
    allows: AtomicBool,
    seen: Mutex<Vec<String>>,
}

impl Script {
    fn new(decide: impl Fn(&Facts<'_>) -> Result<Actions, Answer> + Send + Sync + 'static) -> Self {
        Self { decide: Box::new(decide), wanted: None, allows: AtomicBool::new(true), seen: Mutex::default() }
    }

    fn yes() -> Self {
        Self::new(|_| Ok(Actions::default()))
    }
}

impl Judge for Script {
    fn body_wanted(&self, _: &Facts<'_>) -> Option<usize> {
        self.wanted
    }

    fn judge(&self, facts: &Facts<'_>, _: &Standing) -> Result<Judged, Refusal> {
        let body = facts.body.map(|body| format!(" {}", String::from_utf8_lossy(body))).unwrap_or_default();
        self.seen.lock().unwrap().push(format!("{} {}{body}", facts.method, facts.path_and_query));
        if !self.allows.load(Ordering::SeqCst) {
            return Err(Refusal::Answer(no()));
        }
        (self.decide)(facts).map(|actions| Judged { actions, generation: 1 }).map_err(Refusal::Answer)
    }

    fn given_up(&self, _: &Facts<'_>, _: &Standing) {}

    fn still_allows(&self, _: &Facts<'_>, _: &Standing) -> bool {
        self.allows.load(Ordering::SeqCst)
    }
}

fn no() -> Answer {
    Answer {
        status: 403,
        fields: vec![("content-type", "application/json".into()), ("x-proxy-error", "blocked-by-allowlist".into())],
        body: "{}".into(),
    }
}

enum Order {
    Leave,
    Die,
}

type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// An origin, as the requests that come to it.
struct Origin {
    asked: UnboundedReceiver<Asked>,
    orders: UnboundedSender<Order>,
}

impl Origin {
    fn start(stream: DuplexStream, builder: h2::server::Builder) -> Self {
        let (requests, asked) = unbounded_channel();
        let (orders, mut ordered) = unbounded_channel();
        tokio::spawn(async move {
            let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
            loop {
                tokio::select! {
                    accepted = connection.accept() => match accepted {
                        Some(Ok(accepted)) => drop(requests.send(accepted)),
                        _ => return,
                    },
                    Some(order) = ordered.recv() => match order {
                        Order::Leave => connection.graceful_shutdown(),
                        Order::Die => return,
                    },
                }
            }
        });
        Self { asked, orders }
    }

    async fn next(&mut self) -> Asked {
        self.asked.recv().await.unwrap()
    }

    fn order(&self, order: Order) {
        assert!(self.orders.send(order).is_ok());
    }
}

struct Rig {
    client: SendRequest<Bytes>,
    /// How the client's connection ended.
    closed: JoinHandle<Result<(), h2::Error>>,
    origin: Origin,
    upstream: Upstream,
    relay: JoinHandle<Over>,
    policy: PolicyHandle,
    trigger: Trigger,
    shutdown: Shutdown,
    shared: Arc<Shared>,
    judge: Arc<Script>,
}

fn target() -> Target {
    Target::parse("api.test", Some(443)).unwrap()
}

async fn rig(judge: Script, limits: &[&str]) -> Rig {
    rig_with(judge, limits, h2::server::Builder::new()).await
}

async fn rig_with(judge: Script, limits: &[&str], origin: h2::server::Builder) -> Rig {
    let (shared, policy) = rig::shared(limits);
    let (near, far) = duplex(64 * 1024);
    let origin = Origin::start(far, origin);
    let upstream = Upstream::open(near, &shared.decider.limits()).await.unwrap();
    let (trigger, shutdown) = shutdown::new(policy.bell().clone());
    let judge = Arc::new(judge);
    let (client, closed, relay) = connect(&upstream, &shared, &judge, &shutdown).await;
    Rig { client, closed, origin, upstream, relay, policy, trigger, shutdown, shared, judge }
}

type Connected = (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>, JoinHandle<Over>);

async fn connect(upstream: &Upstream, shared: &Arc<Shared>, judge: &Arc<Script>, shutdown: &Shutdown) -> Connected {
    let (near, far) = duplex(64 * 1024);
    let terms = Terms {
        shared: Arc::clone(shared),
        client: "127.0.0.1:9".parse().unwrap(),
        target: target(),
        judge: Arc::clone(judge) as Arc<dyn Judge>,
        shutdown: shutdown.clone(),
        tunnel: None,
    };
    let relay = tokio::spawn(relay(far, upstream.clone(), terms));
    let (send, mut connection) = h2::client::handshake(near).await.unwrap();
    // Until the first settings are there: whether WebSockets are offered is among them.
    let pings = connection.ping_pong();
    let closed = tokio::spawn(connection);
    pings.unwrap().ping(h2::Ping::opaque()).await.unwrap();
    (send, closed, relay)
}

fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("https://api.test{path}")).version(Version::HTTP_2).body(()).unwrap()
}

fn get(path: &str) -> Request<()> {
    request("GET", path)
}

fn response(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

async fn whole(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

impl Rig {
    fn send(&self, request: Request<()>, ended: bool) -> (ResponseFuture, SendStream<Bytes>) {
        self.client.clone().send_request(request, ended).unwrap()
    }

    async fn ask(&self, request: Request<()>) -> Result<(http::response::Parts, Vec<u8>), h2::Error> {
        let (parts, mut body) = self.send(request, true).0.await?.into_parts();
        let body = whole(&mut body).await?;
        Ok((parts, body))
    }

    fn counted(&self, sample: &str) -> u64 {
        let text = self.shared.counters.text();
        text.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse().ok()).unwrap()
    }
}

/// The reason of whoever reset it.
async fn reset_of(answer: ResponseFuture) -> Reason {
    let error = answer.await.unwrap_err();
    assert!(error.is_reset() && error.is_remote(), "{error}");
    error.reason().unwrap()
}

#[tokio::test]
async fn a_call_passes_with_fields_bodies_and_trailers() {
    let mut rig = rig(Script::yes(), &[]).await;
    let mut request = request("POST", "/pkg.Service/Call?x=1");
    for (name, value) in [
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("proxy-authorization", "Basic x"),
        ("proxy", "x"),
        ("x-unix-socket", "/run/x"),
        ("http2-settings", "x"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let (answer, mut up) = rig.send(request, false);
    let (asked, mut respond) = rig.origin.next().await;
    let (parts, mut body) = asked.into_parts();
    assert_eq!((parts.method.as_str(), parts.uri.to_string().as_str()), ("POST", "https://api.test/pkg.Service/Call?x=1"));
    let mut fields: Vec<String> = parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    fields.sort();
    assert_eq!(fields, ["content-type: application/grpc", "cookie: a=1", "cookie: b=2", "te: trailers", "via: 2.0 netproxy-test"]);
    // Both ways at once, a message at a time.
    let mut down = respond.send_response(response(200), false).unwrap();
    let (parts, mut answered) = answer.await.unwrap().into_parts();
    assert_eq!(parts.status, 200);
    for n in 0..3_u8 {
        up.send_data(Bytes::from(vec![n; 5]), false).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), [n; 5][..]);
        down.send_data(Bytes::from(vec![n; 7]), false).unwrap();
        assert_eq!(answered.data().await.unwrap().unwrap(), [n; 7][..]);
    }
    let trailers = |name: &'static str| {
        HeaderMap::from_iter([(name.parse().unwrap(), "0".parse().unwrap()), ("authorization".parse().unwrap(), "x".parse().unwrap())])
    };
    up.send_trailers(trailers("x-checksum")).unwrap();
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap(), HeaderMap::from_iter([("x-checksum".parse().unwrap(), "0".parse().unwrap())]));
    down.send_trailers(trailers("grpc-status")).unwrap();
    assert!(answered.data().await.is_none());
    assert_eq!(answered.trailers().await.unwrap().unwrap(), HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]));
    assert_eq!((rig.counted("netproxy_bytes_total{direction=\"up\"}"), rig.counted("netproxy_bytes_total{direction=\"down\"}")), (15, 21));
    // A response that is nothing but trailers.
    let asked = async {
        let (_, mut respond) = rig.origin.asked.recv().await.unwrap();
        let mut response = response(200);
        response.headers_mut().insert("grpc-status", "12".parse().unwrap());
        respond.send_response(response, true).unwrap();
    };
    let answer = rig.client.clone().send_request(get("/"), true).unwrap().0;
    let (answer, ()) = tokio::join!(answer, asked);
    let answer = answer.unwrap();
    assert!(answer.body().is_end_stream() && answer.headers()["grpc-status"] == "12");
}

#[tokio::test]
async fn a_hundred_requests_are_under_way_at_once() {
    let mut rig = rig(Script::yes(), &[]).await;
    let answers: Vec<_> = (0..100).map(|n| rig.send(get(&format!("/{n}")), true).0).collect();
    let mut waiting = Vec::new();
    for _ in 0..100 {
        waiting.push(rig.origin.next().await);
    }
    // The last first.
    for (asked, mut respond) in waiting.into_iter().rev() {
        let mut body = respond.send_response(response(200), false).unwrap();
        body.send_data(Bytes::copy_from_slice(asked.uri().path().as_bytes()), true).unwrap();
    }
    for (n, answer) in answers.into_iter().enumerate() {
        let mut answer = answer.await.unwrap().into_body();
        assert_eq!(whole(&mut answer).await.unwrap(), format!("/{n}").as_bytes());
    }
    assert_eq!(rig.judge.seen.lock().unwrap().len(), 100);
}

/// What stands at a place of a long body.
fn byte(at: usize) -> u8 {
    u8::try_from(at / 7 % 256).unwrap()
}

/// Sends bytes that tell where they are, until nobody has anything to do and no more of them are taken.
async fn send_until_stuck(stream: &mut SendStream<Bytes>, sent: &mut usize, all: usize) {
    while *sent < all {
        stream.reserve_capacity((all - *sent).min(10_000));
        let room = match stream.capacity() {
            0 => match tokio::time::timeout(Duration::from_secs(1), poll_fn(|cx| stream.poll_capacity(cx))).await {
                Ok(room) => room.unwrap().unwrap(),
                Err(_) => return,
            },
            room => room,
        };
        let piece: Vec<u8> = (*sent..(*sent + room).min(all)).map(byte).collect();
        *sent += piece.len();
        stream.send_data(piece.into(), *sent == all).unwrap();
    }
}

/// Takes all of a body, while it is still being sent.
async fn pass(mut from: SendStream<Bytes>, mut sent: usize, mut to: RecvStream, all: usize) {
    let sender = tokio::spawn(async move {
        while sent < all {
            send_until_stuck(&mut from, &mut sent, all).await;
        }
        from
    });
    let bytes = whole(&mut to).await.unwrap();
    assert_eq!(bytes.len(), all);
    assert!(bytes.iter().enumerate().all(|(at, found)| *found == byte(at)));
    drop(sender.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn no_more_is_taken_of_a_body_than_the_other_side_takes() {
    const ALL: usize = 6 << 20;
    let mut rig = rig(Script::yes(), &[]).await;
    let (answer, mut up) = rig.send(request("POST", "/"), false);
    let (asked, mut respond) = rig.origin.next().await;
    let mut down = respond.send_response(response(200), false).unwrap();
    // Our window, and that of whoever does not read.
    let room = |window: u32| window as usize..=window as usize + 65_535;
    let mut sent = 0;
    send_until_stuck(&mut up, &mut sent, ALL).await;
    assert!(room(STREAM_WINDOW).contains(&sent), "{sent}");
    let mut sent_down = 0;
    send_until_stuck(&mut down, &mut sent_down, ALL).await;
    assert!(room(upstream::STREAM_WINDOW).contains(&sent_down), "{sent_down}");
    // Another stream goes on meanwhile.
    let other = rig.client.clone().send_request(get("/other"), true).unwrap().0;
    let (_, mut other_respond) = rig.origin.next().await;
    other_respond.send_response(response(204), true).unwrap();
    assert_eq!(other.await.unwrap().status(), 204);
    pass(up, sent, asked.into_body(), ALL).await;
    pass(down, sent_down, answer.await.unwrap().into_body(), ALL).await;
}

#[tokio::test]
async fn what_is_denied_is_answered_and_the_connection_goes_on() {
    let judge = Script::new(|facts| if facts.path_and_query == "/no" { Err(no()) } else { Ok(Actions::default()) });
    let mut rig = rig(judge, &[]).await;
    let (parts, body) = rig.ask(get("/no")).await.unwrap();
    assert_eq!(
        (parts.status, &parts.headers["x-proxy-error"], &parts.headers["content-length"], body.as_slice()),
        (StatusCode::FORBIDDEN, &"blocked-by-allowlist".parse().unwrap(), &"2".parse().unwrap(), &b"{}"[..])
    );
    let (parts, body) = rig.ask(request("HEAD", "/no")).await.unwrap();
    assert_eq!((parts.status, body.len()), (StatusCode::FORBIDDEN, 0));
    // Whoever still sends is told to stop, once it has its answer.
    let (answer, mut up) = rig.send(request("POST", "/no"), false);
    let mut answer = answer.await.unwrap();
    assert_eq!((answer.status().as_u16(), whole(answer.body_mut()).await.unwrap()), (403, b"{}".to_vec()));
    assert_eq!(poll_fn(|cx| up.poll_reset(cx)).await.unwrap(), Reason::NO_ERROR);
    let answer = rig.send(get("/yes"), true).0;
    let (asked, mut respond) = rig.origin.next().await;
    assert_eq!(asked.uri().path(), "/yes");
    respond.send_response(response(200), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
}

#[tokio::test]
async fn what_is_no_request_for_the_tunnel_is_told_so() {
    let rig = rig(Script::yes(), &[]).await;
    let with = |uri: &str, method: &str| Request::builder().method(method).uri(uri).version(Version::HTTP_2).body(()).unwrap();
    let mut long = with("https://api.test/", "GET");
    long.headers_mut().insert("x", "y".repeat(70_000).parse().unwrap());
    let cases = [
        (with("https://other.test/", "GET"), 421),
        (with("https://api.test:8443/", "GET"), 421),
        (with("http://api.test/", "GET"), 400),
        (with("https://user@api.test/", "GET"), 400),
        (with("api.test:443", "CONNECT"), 405),
        (long, 431),
    ];
    for (request, status) in cases {
        let shown = format!("{request:?}");
        let (parts, _) = rig.ask(request).await.unwrap();
        assert_eq!(parts.status.as_u16(), status, "{shown}");
    }
    assert!(rig.judge.seen.lock().unwrap().is_empty());
    assert_eq!(rig.counted("netproxy_bad_requests_total{protocol=\"http\"}"), 5);
}

/// A frame, byte for byte.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Fields as HPACK has them without any table.
fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
    list.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}

/// What comes of frames that no client would send: how stream 1 ends, or the connection.
async fn told(rig: &Rig, frames: &[u8]) -> String {
    let (mut client, far) = duplex(1 << 20);
    let terms = Terms {
        shared: Arc::clone(&rig.shared),
        client: "127.0.0.1:9".parse().unwrap(),
        target: target(),
        judge: Arc::clone(&rig.judge) as Arc<dyn Judge>,
        shutdown: rig.shutdown.clone(),
        tunnel: None,
    };
    let _relay = tokio::spawn(relay(far, rig.upstream.clone(), terms));
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &[])[..], frames].concat();
    // Who is sent away may not take all of it.
    let _ = client.write_all(&preface).await;
    loop {
        let mut head = [0; 9];
        if client.read_exact(&mut head).await.is_err() {
            return "closed".to_owned();
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.read_exact(&mut payload).await.unwrap();
        let code = |at: usize| Reason::from(u32::from_be_bytes(payload[at..at + 4].try_into().unwrap()));
        match head[3] {
            HEADERS => return "answered".to_owned(),
            RST_STREAM => return format!("{:?}", code(0)),
            GOAWAY => return format!("goaway {:?}", code(4)),
            _ => {}
        }
    }
}

#[tokio::test]
async fn malformed_messages_are_reset_and_floods_end_the_connection() {
    let judge = Script::new(|_| Err(no()));
    let rig = rig(judge, &["head_bytes=8KiB"]).await;
    let good = [(":method", "POST"), (":scheme", "https"), (":authority", "api.test"), (":path", "/")];
    let with = |more: &[(&str, &str)]| frame(HEADERS, END_HEADERS, 1, &fields(&[&good[..], more].concat()));
    let without = |name: &str| {
        let left: Vec<_> = good.iter().copied().filter(|(other, _)| *other != name).collect();
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&left))
    };
    let then = |mut frames: Vec<u8>, more: &[u8]| {
        frames.extend_from_slice(more);
        frames
    };
    assert_eq!(told(&rig, &with(&[])).await, "answered");
    let resets = [
        with(&[("connection", "close")]),
        with(&[("keep-alive", "1")]),
        with(&[("proxy-connection", "close")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("upgrade", "h2c")]),
        with(&[("te", "gzip")]),
        with(&[("X-Upper", "x")]),
        with(&[("x", "a\nb")]),
        with(&[("x y", "z")]),
        with(&[("", "z")]),
        with(&[(":path", "/other")]),
        with(&[("x", "y"), (":path", "/")]),
        with(&[(":protocol", "websocket")]),
        with(&[(":status", "200")]),
        with(&[(":other", "x")]),
        with(&[("content-length", "x")]),
        with(&[("content-length", "1"), ("content-length", "2")]),
        without(":method"),
        without(":scheme"),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&[&good[..], &[("content-length", "5")]].concat())),
    ];
    for frames in resets {
        let told = told(&rig, &frames).await;
        assert!(matches!(told.as_str(), "PROTOCOL_ERROR" | "goaway PROTOCOL_ERROR" | "goaway COMPRESSION_ERROR"), "{told}: {frames:?}");
    }
    // More than was announced, and less.
    let body = |len: &str, data: &[u8]| then(with(&[("content-length", len)]), &frame(DATA, END_STREAM, 1, data));
    let reading = rig_reading().await;
    assert_eq!(told(&reading, &body("1", b"22")).await, "PROTOCOL_ERROR");
    assert_eq!(told(&reading, &body("3", b"22")).await, "PROTOCOL_ERROR");
    // A list that is too long is answered, one that is far too long ends the connection, and so does one that never ends.
    let long = "x".repeat(100);
    let list = |n: usize| fields(&vec![("x", long.as_str()); n]);
    let chunks = |n: usize| {
        let first = then(frame(HEADERS, 0, 1, &fields(&good)), &[]);
        (0..n).fold(first, |frames, _| then(frames, &frame(CONTINUATION, 0, 1, &list(100))))
    };
    assert_eq!(told(&rig, &then(chunks(2), &frame(CONTINUATION, END_HEADERS, 1, &list(1)))).await, "answered");
    assert!(told(&rig, &chunks(60)).await.starts_with("goaway"));
    assert!(
        told(&rig, &(0..5000).fold(frame(HEADERS, 0, 1, &fields(&good)), |frames, _| then(frames, &frame(CONTINUATION, 0, 1, &[]))))
            .await
            .starts_with("goaway")
    );
}

/// One that waits for a body before it decides.
async fn rig_reading() -> Rig {
    rig(Script { wanted: Some(100), ..Script::new(|_| Err(no())) }, &[]).await
}

#[tokio::test]
async fn resets_pass_with_their_reasons() {
    let mut rig = rig(Script::yes(), &[]).await;
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::ENHANCE_YOUR_CALM] {
        // The client's, before and behind the head of a response.
        let (answer, mut up) = rig.send(request("POST", "/"), false);
        let (asked, mut respond) = rig.origin.next().await;
        up.send_reset(reason);
        assert_eq!(poll_fn(|cx| respond.poll_reset(cx)).await.unwrap(), reason);
        drop((answer, asked));
        let (answer, mut up) = rig.send(get("/"), true);
        let (_, mut respond) = rig.origin.next().await;
        let mut down = respond.send_response(response(200), false).unwrap();
        let answer = answer.await.unwrap();
        up.send_reset(reason);
        assert_eq!(poll_fn(|cx| down.poll_reset(cx)).await.unwrap(), reason);
        drop(answer);
        // The origin's.
        let (answer, _up) = rig.send(request("POST", "/"), false);
        let (_asked, mut respond) = rig.origin.next().await;
        respond.send_reset(reason);
        assert_eq!(reset_of(answer).await, reason);
        let (answer, _up) = rig.send(get("/"), true);
        let (_asked, mut respond) = rig.origin.next().await;
        let mut down = respond.send_response(response(200), false).unwrap();
        let mut answer = answer.await.unwrap();
        down.send_data(Bytes::from_static(b"some"), false).unwrap();
        assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "some");
        down.send_reset(reason);
        let error = answer.body_mut().data().await.unwrap().unwrap_err();
        assert_eq!((error.is_remote(), error.reason()), (true, Some(reason)));
    }
}

#[tokio::test]
async fn an_origin_that_has_heard_enough_stops_the_request_and_not_its_answer() {
    let mut rig = rig(Script::yes(), &[]).await;
    let (answer, mut up) = rig.send(request("POST", "/"), false);
    up.send_data(Bytes::from_static(b"begin"), false).unwrap();
    let (asked, mut respond) = rig.origin.next().await;
    let mut down = respond.send_response(response(413), false).unwrap();
    down.send_data(Bytes::from_static(b"too much"), true).unwrap();
    // Its stack says NO_ERROR behind that.
    drop((asked, respond, down));
    let mut answer = answer.await.unwrap();
    assert_eq!((answer.status().as_u16(), whole(answer.body_mut()).await.unwrap()), (413, b"too much".to_vec()));
    assert_eq!(poll_fn(|cx| up.poll_reset(cx)).await.unwrap(), Reason::NO_ERROR);
}

#[tokio::test]
async fn an_origin_that_leaves_finishes_what_it_began_and_the_rest_may_be_asked_again() {
    let mut origin = h2::server::Builder::new();
    origin.max_concurrent_streams(1);
    let mut rig = rig_with(Script::yes(), &[], origin).await;
    let first = rig.send(get("/first"), true).0;
    let (_, mut respond) = rig.origin.next().await;
    // It waits for the first to end.
    let second = rig.send(get("/second"), true).0;
    tokio::task::yield_now().await;
    rig.origin.order(Order::Leave);
    assert_eq!(reset_of(second).await, Reason::REFUSED_STREAM);
    assert!(!rig.upstream.is_usable(), "others find out before it is over");
    let mut down = respond.send_response(response(200), false).unwrap();
    down.send_data(Bytes::from_static(b"whole"), true).unwrap();
    assert_eq!(whole(&mut first.await.unwrap().into_body()).await.unwrap(), b"whole");
    // The client is sent away too, in peace.
    assert!(rig.closed.await.unwrap().is_ok());
    assert_eq!(rig.relay.await.unwrap(), Over::Ended);
}

#[tokio::test]
async fn an_origin_that_vanishes_is_told_of() {
    let mut rig = rig(Script::yes(), &[]).await;
    let (waiting, _) = rig.send(get("/waiting"), true);
    let _waits = rig.origin.next().await;
    let (begun, _) = rig.send(get("/begun"), true);
    let (_, mut respond) = rig.origin.next().await;
    let _down = respond.send_response(response(200), false).unwrap();
    let mut begun = begun.await.unwrap();
    rig.origin.order(Order::Die);
    let mut answer = waiting.await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-proxy-error"]), (502, &"upstream-closed".parse().unwrap()));
    assert_eq!(whole(answer.body_mut()).await.unwrap(), b"api.test:443 is allowed, but closed the connection before it answered\n");
    assert_eq!(begun.body_mut().data().await.unwrap().unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
    assert_eq!(rig.counted("netproxy_upstream_failures_total{error=\"upstream-closed\"}"), 1);
}

#[tokio::test]
async fn websockets_are_offered_where_the_origin_offers_them_and_pass_both_ways() {
    let plain = rig(Script::yes(), &[]).await;
    assert!(!plain.client.is_extended_connect_protocol_enabled());
    let mut origin = h2::server::Builder::new();
    origin.enable_connect_protocol();
    let mut rig = rig_with(Script::yes(), &[], origin).await;
    assert!(rig.client.is_extended_connect_protocol_enabled());
    let upgrade = |protocol: &'static str| {
        let mut request = request("CONNECT", "/chat?room=1");
        request.extensions_mut().insert(Protocol::from_static(protocol));
        request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        request
    };
    let (answer, mut up) = rig.send(upgrade("websocket"), false);
    let (asked, mut respond) = rig.origin.next().await;
    assert_eq!(
        (asked.method(), asked.uri().path(), asked.extensions().get::<Protocol>().unwrap().as_str()),
        (&Method::CONNECT, "/chat", "websocket")
    );
    assert_eq!(*rig.judge.seen.lock().unwrap(), ["GET /chat?room=1"]);
    let mut asked = asked.into_body();
    assert_eq!(rig.counted("netproxy_tunnels_open"), 0, "it does not stand yet");
    let mut down = respond.send_response(response(200), false).unwrap();
    let mut answer = answer.await.unwrap();
    assert_eq!(rig.counted("netproxy_tunnels_open"), 1);
    up.send_data(Bytes::from_static(b"ping"), false).unwrap();
    assert_eq!(asked.data().await.unwrap().unwrap(), "ping");
    down.send_data(Bytes::from_static(b"pong"), true).unwrap();
    assert_eq!(whole(answer.body_mut()).await.unwrap(), b"pong");
    // The other way is still open.
    up.send_data(Bytes::from_static(b"more"), true).unwrap();
    assert_eq!(whole(&mut asked).await.unwrap(), b"more");
    let (answer, _up) = rig.send(upgrade("connect-udp"), false);
    assert_eq!(answer.await.unwrap().status(), 501);
    assert_eq!((rig.counted("netproxy_tunnels_open"), rig.counted("netproxy_tunnels_total{protocol=\"https\"}")), (0, 1));
}

#[tokio::test]
async fn what_may_only_be_read_becomes_no_websocket() {
    let mut origin = h2::server::Builder::new();
    origin.enable_connect_protocol();
    let judge = Script::new(|_| Ok(Actions { read_only: true, ..Actions::default() }));
    let rig = rig_with(judge, &[], origin).await;
    let mut upgrade = request("CONNECT", "/");
    upgrade.extensions_mut().insert(Protocol::from_static("websocket"));
    assert_eq!(rig.send(upgrade, false).0.await.unwrap().status(), 403);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_makes_it_read_only_ends_a_websocket() {
    let mut origin = h2::server::Builder::new();
    origin.enable_connect_protocol();
    let read_only = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&read_only);
    let judge = Script::new(move |_| Ok(Actions { read_only: asked.load(Ordering::SeqCst), ..Actions::default() }));
    let mut rig = rig_with(judge, &[], origin).await;
    let mut upgrade = request("CONNECT", "/");
    upgrade.extensions_mut().insert(Protocol::from_static("websocket"));
    let (answer, mut up) = rig.send(upgrade, false);
    let (_asked, mut respond) = rig.origin.next().await;
    let mut down = respond.send_response(response(200), false).unwrap();
    let mut answer = answer.await.unwrap();
    rig.policy.swap(Policy::built_in().unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    down.send_data(Bytes::from_static(b"on"), false).unwrap();
    assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "on");
    read_only.store(true, Ordering::SeqCst);
    rig.policy.swap(Policy::built_in().unwrap());
    assert_eq!(poll_fn(|cx| up.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    assert_eq!(poll_fn(|cx| down.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    assert_eq!(rig.counted("netproxy_tunnels_revoked_total"), 1);
}

#[tokio::test]
async fn fields_are_taken_out_and_put_in() {
    let judge = Script::new(|facts| {
        assert!(facts.headers.contains(&("cookie", &b"a=1; b=2"[..])), "{:?}", facts.headers);
        Ok(Actions {
            strip_request: vec!["x-debug".into(), "x-trailing".into()],
            set_request: vec![
                ("Authorization".into(), Zeroizing::new(b"Bearer real".to_vec())),
                ("x-new".into(), Zeroizing::new(b"1".to_vec())),
            ],
            strip_response: vec!["server".into()],
            read_only: false,
        })
    });
    let mut rig = rig(judge, &[]).await;
    let mut request = request("POST", "/");
    for (name, value) in
        [("authorization", "Bearer dummy"), ("authorization", "Bearer other"), ("x-debug", "1"), ("cookie", "a=1"), ("cookie", "b=2")]
    {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let (answer, mut up) = rig.send(request, false);
    up.send_trailers(HeaderMap::from_iter([("x-trailing".parse().unwrap(), "1".parse().unwrap())])).unwrap();
    let (asked, mut respond) = rig.origin.next().await;
    let fields = asked.headers();
    assert_eq!(fields.get_all("authorization").iter().collect::<Vec<_>>(), ["Bearer real"]);
    assert!(fields["x-new"] == "1" && !fields.contains_key("x-debug"));
    let mut body = asked.into_body();
    assert!(whole(&mut body).await.unwrap().is_empty() && body.trailers().await.unwrap().is_none());
    let mut answered = response(200);
    answered.headers_mut().insert("server", "x".parse().unwrap());
    respond.send_response(answered, true).unwrap();
    let mut answer = answer.await.unwrap();
    assert!(answer.headers_mut().remove("date").is_some(), "where the origin has none");
    assert_eq!(format!("{:?}", answer.headers()), r#"{"via": "2.0 netproxy-test"}"#);
}

#[tokio::test]
async fn what_makes_no_field_is_not_sent() {
    let judge = Script::new(|_| {
        Ok(Actions { set_request: vec![("authorization".into(), Zeroizing::new(b"a\r\nb: c".to_vec()))], ..Actions::default() })
    });
    let mut rig = rig(judge, &[]).await;
    let (parts, body) = rig.ask(get("/")).await.unwrap();
    assert_eq!(parts.status, 500);
    assert!(!String::from_utf8(body).unwrap().contains("b: c"));
    assert!(rig.origin.asked.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_new_policy_ends_what_it_does_not_allow() {
    let mut rig = rig(Script::yes(), &[]).await;
    let (streaming, _) = rig.send(get("/streaming"), true);
    let (_, mut respond) = rig.origin.next().await;
    let mut down = respond.send_response(response(200), false).unwrap();
    down.send_data(Bytes::from_static(b"some"), false).unwrap();
    let mut streaming = streaming.await.unwrap();
    assert_eq!(streaming.body_mut().data().await.unwrap().unwrap(), "some");
    let (uploading, _up) = rig.send(request("POST", "/uploading"), false);
    let (uploaded, _respond) = rig.origin.next().await;
    let (waiting, _) = rig.send(get("/waiting"), true);
    let (_, mut answer) = rig.origin.next().await;
    // One that changes nothing.
    rig.policy.swap(Policy::built_in().unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    down.send_data(Bytes::from_static(b"more"), false).unwrap();
    assert_eq!(streaming.body_mut().data().await.unwrap().unwrap(), "more");
    rig.judge.allows.store(false, Ordering::SeqCst);
    rig.policy.swap(Policy::built_in().unwrap());
    assert_eq!(streaming.body_mut().data().await.unwrap().unwrap_err().reason(), Some(Reason::CANCEL));
    assert_eq!(poll_fn(|cx| down.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    assert_eq!(uploading.await.unwrap().status(), 403);
    assert_eq!(uploaded.into_body().data().await.unwrap().unwrap_err().reason(), Some(Reason::CANCEL));
    // What only waits for its answer does not get it.
    assert_eq!(waiting.await.unwrap().status(), 403);
    assert_eq!(poll_fn(|cx| answer.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    assert_eq!(rig.ask(get("/new")).await.unwrap().0.status, 403);
}

#[tokio::test]
async fn nothing_is_pushed() {
    let mut rig = rig(Script::yes(), &[]).await;
    let (answer, _) = rig.send(get("/"), true);
    let (_, mut respond) = rig.origin.next().await;
    assert!(respond.push_request(get("/pushed")).is_err(), "we told it not to");
    respond.send_response(response(200), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
}

#[tokio::test]
async fn requests_send_no_more_than_they_may() {
    let mut rig = rig(Script::yes(), &["request_body_bytes=10"]).await;
    let mut announced = request("POST", "/");
    announced.headers_mut().insert("content-length", "11".parse().unwrap());
    let answer = rig.send(announced, false).0.await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-proxy-error"]), (413, &"limited-request_body_bytes".parse().unwrap()));
    assert!(rig.origin.asked.try_recv().is_err(), "it was not sent on");
    let (answer, mut up) = rig.send(request("POST", "/"), false);
    up.send_data(Bytes::from_static(b"0123456789"), false).unwrap();
    let mut asked = rig.origin.next().await.0.into_body();
    assert_eq!(asked.data().await.unwrap().unwrap(), "0123456789");
    up.send_data(Bytes::from_static(b"x"), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 413);
    assert_eq!(asked.data().await.unwrap().unwrap_err().reason(), Some(Reason::CANCEL));
    assert_eq!(rig.counted("netproxy_limited_total{limit=\"request_body_bytes\"}"), 2);
}

#[tokio::test]
async fn interim_responses_pass_within_their_limit() {
    let mut rig = rig(Script::yes(), &["interim_responses=2"]).await;
    let (mut answer, _) = rig.send(get("/"), true);
    let (_, mut respond) = rig.origin.next().await;
    let mut hints = response(103);
    hints.headers_mut().insert("link", "</style.css>; rel=preload".parse().unwrap());
    respond.send_informational(hints).unwrap();
    let interim = poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
    assert_eq!((interim.status().as_u16(), &interim.headers()["link"]), (103, &"</style.css>; rel=preload".parse().unwrap()));
    respond.send_informational(response(100)).unwrap();
    assert_eq!(poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap().status(), 100);
    respond.send_response(response(200), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    let (answer, _) = rig.send(get("/"), true);
    let (_, mut respond) = rig.origin.next().await;
    for _ in 0..3 {
        respond.send_informational(response(103)).unwrap();
    }
    let answer = answer.await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["x-proxy-error"]), (502, &"upstream-bad-response".parse().unwrap()));
}

#[tokio::test]
async fn bodies_are_read_where_the_decision_needs_them() {
    let mut rig = rig(Script { wanted: Some(8), ..Script::yes() }, &[]).await;
    // Whole, too long, and announced as too long.
    for (body, announced, judged) in [("12345678", false, "POST / 12345678"), ("123456789", false, "POST /"), ("123456789", true, "POST /")]
    {
        let mut asking = request("POST", "/");
        if announced {
            asking.headers_mut().insert("content-length", body.len().to_string().parse().unwrap());
        }
        let (answer, mut up) = rig.send(asking, false);
        for (at, byte) in body.bytes().enumerate() {
            up.send_data(Bytes::from(vec![byte]), at + 1 == body.len()).unwrap();
        }
        let (asked, mut respond) = rig.origin.next().await;
        assert_eq!(rig.judge.seen.lock().unwrap().pop().unwrap(), judged);
        assert_eq!(whole(&mut asked.into_body()).await.unwrap(), body.as_bytes());
        respond.send_response(response(200), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    // Who waits to be told to go on is told.
    let mut asking = request("POST", "/");
    asking.headers_mut().insert("expect", "100-continue".parse().unwrap());
    let (mut answer, mut up) = rig.send(asking, false);
    assert_eq!(poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap().status(), 100);
    up.send_data(Bytes::from_static(b"now"), true).unwrap();
    let (asked, _respond) = rig.origin.next().await;
    assert!(!asked.headers().contains_key("expect"));
    assert_eq!(whole(&mut asked.into_body()).await.unwrap(), b"now");
}

#[tokio::test]
async fn responses_without_a_body_have_none() {
    let mut rig = rig(Script::yes(), &[]).await;
    for (method, status, length) in [("HEAD", 200, Some("5")), ("GET", 204, None), ("GET", 304, Some("5"))] {
        let (answer, _) = rig.send(request(method, "/"), true);
        let (_, mut respond) = rig.origin.next().await;
        let mut answered = response(status);
        if let Some(length) = length {
            answered.headers_mut().insert("content-length", length.parse().unwrap());
        }
        respond.send_response(answered, true).unwrap();
        let answer = answer.await.unwrap();
        let announced = answer.headers().get("content-length").map(|length| length.to_str().unwrap());
        assert_eq!((answer.status().as_u16(), announced, answer.body().is_end_stream()), (status, length, true));
    }
    // What has one all the same is no response.
    let (answer, _) = rig.send(get("/"), true);
    let (_, mut respond) = rig.origin.next().await;
    let mut down = respond.send_response(response(204), false).unwrap();
    let mut answer = answer.await.unwrap();
    down.send_data(Bytes::from_static(b"body"), true).unwrap();
    assert_eq!(answer.body_mut().data().await.unwrap().unwrap_err().reason(), Some(Reason::PROTOCOL_ERROR));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_for_ever() {
    let mut rig = rig(Script::yes(), &["response_timeout=20s", "idle_timeout=5s", "keep_alive_timeout=60s"]).await;
    let start = tokio::time::Instant::now();
    let (parts, _) = rig.ask(get("/silent")).await.unwrap();
    assert_eq!(
        (parts.status.as_u16(), &parts.headers["x-proxy-error"], start.elapsed().as_secs()),
        (504, &"upstream-response-timeout".parse().unwrap(), 20)
    );
    let _silent = rig.origin.next().await;
    // A request that does not go on, and a response.
    let (answer, _up) = rig.send(request("POST", "/"), false);
    let _asked = rig.origin.next().await;
    assert_eq!(reset_of(answer).await, Reason::CANCEL);
    let (answer, _up) = rig.send(get("/"), true);
    let (_, mut respond) = rig.origin.next().await;
    let mut down = respond.send_response(response(200), false).unwrap();
    let mut answer = answer.await.unwrap();
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(4)).await;
        down.send_data(Bytes::from_static(b"."), false).unwrap();
        assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), ".");
    }
    assert_eq!(answer.body_mut().data().await.unwrap().unwrap_err().reason(), Some(Reason::CANCEL));
    assert_eq!(rig.counted("netproxy_limited_total{limit=\"idle_timeout\"}"), 2);
    let start = tokio::time::Instant::now();
    assert_eq!(rig.relay.await.unwrap(), Over::Limited(reached!(keep_alive_timeout)));
    assert_eq!(
        (start.elapsed().as_secs(), rig.shared.counters.text().contains("netproxy_limited_total{limit=\"keep_alive_timeout\"} 1")),
        (60, true)
    );
    assert!(rig.closed.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_client_or_an_origin_that_says_nothing_at_first_is_given_up() {
    let (shared, policy) = rig::shared(&["head_timeout=3s", "connect_timeout=7s"]);
    let limits = shared.decider.limits();
    let (near, _silent) = duplex(1024);
    let start = tokio::time::Instant::now();
    assert_eq!(Upstream::open(near, &limits).await.unwrap_err(), UpstreamError::ConnectTimeout);
    assert_eq!(start.elapsed().as_secs(), 7);
    let (near, far) = duplex(1024);
    let _origin = Origin::start(far, h2::server::Builder::new());
    let upstream = Upstream::open(near, &limits).await.unwrap();
    let (_trigger, shutdown) = shutdown::new(policy.bell().clone());
    let judge: Arc<dyn Judge> = Arc::new(Script::yes());
    let terms = Terms { shared, client: "127.0.0.1:9".parse().unwrap(), target: target(), judge, shutdown, tunnel: None };
    let (client, _silent) = duplex(1024);
    let start = tokio::time::Instant::now();
    assert_eq!(relay(client, upstream, terms).await, Over::Limited(reached!(head_timeout)));
    assert_eq!(start.elapsed().as_secs(), 3);
    // What speaks something else is no origin.
    let (near, mut far) = duplex(1024);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    assert_eq!(Upstream::open(near, &limits).await.unwrap_err(), UpstreamError::BadResponse);
}

#[tokio::test]
async fn a_shutdown_lets_what_is_under_way_finish() {
    let mut rig = rig(Script::yes(), &[]).await;
    let (answer, _) = rig.send(get("/"), true);
    let (_, mut respond) = rig.origin.next().await;
    rig.trigger.start();
    let mut down = respond.send_response(response(200), false).unwrap();
    let mut answer = answer.await.unwrap();
    assert!(!rig.relay.is_finished());
    down.send_data(Bytes::from_static(b"last"), true).unwrap();
    assert_eq!(whole(answer.body_mut()).await.unwrap(), b"last");
    assert_eq!(rig.relay.await.unwrap(), Over::Stopped);
    assert!(rig.closed.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_client_that_opens_and_cancels_without_end_is_told_to_calm_down() {
    let rig = rig(Script::yes(), &[]).await;
    let mut client = rig.client.clone();
    for _ in 0..2 * CANCELLED {
        let Ok(ready) = client.ready().await else { break };
        client = ready;
        let Ok((answer, mut stream)) = client.send_request(get("/"), true) else { break };
        // Long enough to be accepted.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        stream.send_reset(Reason::CANCEL);
        drop(answer);
    }
    assert_eq!(rig.closed.await.unwrap().unwrap_err().reason(), Some(Reason::ENHANCE_YOUR_CALM));
    rig.relay.await.unwrap();
}

fn config() -> Arc<ClientConfig> {
    let versions = ClientConfig::builder_with_provider(Arc::new(ring::default_provider())).with_safe_default_protocol_versions();
    Arc::new(versions.unwrap().with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

#[tokio::test]
async fn an_origins_connection_serves_one_client_after_the_other() {
    let mut rig = rig(Script::yes(), &[]).await;
    let (tls, other) = (config(), config());
    let idle = |upstream: &Upstream| Idle { upstream: upstream.clone(), leads: Leads::direct(), peer: None, tls: Arc::clone(&tls) };
    // What the first client leaves behind is reset.
    let (left, _) = rig.send(get("/left"), true);
    let (_, mut respond) = rig.origin.next().await;
    let Rig { client, closed, relay, .. } = rig;
    drop((client, left));
    closed.abort();
    relay.await.unwrap();
    assert_eq!(poll_fn(|cx| respond.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
    let counters = Arc::clone(&rig.shared.counters);
    let _serving = counters.serve();
    let counted = |sample: &str| counters.sample(sample).unwrap();
    let waiting = || counted("netproxy_pool_idle_connections{protocol=\"h2\"}");
    pool::put(&target(), idle(&rig.upstream), &rig.shared.decider.limits());
    assert!(pool::take(&target(), &other).is_none(), "another certificate may be shown");
    assert_eq!(waiting(), 1);
    let upstream = pool::take(&target(), &tls).unwrap().upstream;
    assert_eq!((waiting(), counted("netproxy_pool_lookups_total{result=\"hit\"}")), (0, 1));
    assert!(pool::take(&target(), &tls).is_none());
    let (mut client, _closed, _relay) = connect(&upstream, &rig.shared, &rig.judge, &rig.shutdown).await;
    let (answer, _) = client.send_request(get("/again"), true).unwrap();
    let (asked, mut respond) = rig.origin.next().await;
    assert_eq!(asked.uri().path(), "/again");
    respond.send_response(response(200), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    // One that an origin has ended is not kept.
    rig.origin.order(Order::Die);
    while upstream.is_usable() {
        tokio::task::yield_now().await;
    }
    pool::put(&target(), idle(&upstream), &rig.shared.decider.limits());
    assert!(pool::take(&target(), &tls).is_none());
    assert_eq!((waiting(), counted("netproxy_pool_evictions_total{reason=\"closed\"}")), (0, 1));
}

/// Its task closes it by the time that a descriptor is tried for again.
#[tokio::test]
#[cfg(unix)]
async fn a_connection_that_waits_is_given_up_for_want_of_a_descriptor() {
    let mut rig = rig(Script::yes(), &[]).await;
    let counters = Arc::clone(&rig.shared.counters);
    let _serving = counters.serve();
    let Rig { client, closed, relay, upstream, shared, .. } = rig;
    drop(client);
    closed.abort();
    relay.await.unwrap();
    let tls = config();
    pool::put(&target(), Idle { upstream, leads: Leads::direct(), peer: None, tls: Arc::clone(&tls) }, &shared.decider.limits());
    assert!(crate::spare::make_room(&rustix::io::Errno::MFILE.into()).await);
    // Nothing is waited for that comes from elsewhere.
    assert!(rig.origin.asked.recv().await.is_none());
    assert!(pool::take(&target(), &tls).is_none());
    let counted = |sample: &str| counters.sample(sample).unwrap();
    assert_eq!(counted("netproxy_pool_idle_connections{protocol=\"h2\"}"), 0);
    assert_eq!(counted("netproxy_pool_evictions_total{reason=\"descriptors\"}"), 1);
}

/// Where nothing was answered since it waited, the origin may have ended it before the request came.
#[tokio::test]
async fn what_can_be_asked_again_is_refused_where_the_connection_was_stale() {
    for (method, ended, expected) in [("GET", true, Err(Reason::REFUSED_STREAM)), ("POST", true, Ok(502)), ("PUT", false, Ok(502))] {
        let mut rig = rig(Script::yes(), &[]).await;
        rig.upstream.set_stale();
        let (answer, _up) = rig.send(request(method, "/"), ended);
        let asked = rig.origin.next().await;
        rig.origin.order(Order::Die);
        let answered = answer.await.map(|answer| answer.status().as_u16()).map_err(|error| error.reason().unwrap());
        assert_eq!(answered, expected, "{method}");
        drop(asked);
    }
}

fn tunnel() -> Tunnel {
    Tunnel::new(target()).unwrap()
}

#[test]
fn requests_have_one_reading_or_none() {
    let many: Vec<(String, &str)> = (0..200).map(|n| (format!("x-{n}"), "1")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let long = format!("https://api.test/{}", "x".repeat(20_000));
    type Case<'c> = (&'c str, &'c str, &'c [(&'c str, &'c str)], bool, u16);
    let api = "https://api.test/";
    let cases: &[Case<'_>] = &[
        ("GET", api, &[], true, 200),
        ("GET", "https://API.test./x?y", &[], true, 200),
        ("GET", "https://api.test:443/", &[], true, 200),
        ("GET", api, &[("host", "api.test")], true, 200),
        ("GET", api, &[("host", "API.TEST:443")], true, 200),
        ("GET", "/", &[("host", "api.test")], true, 200),
        ("POST", api, &[("content-length", "0")], false, 200),
        ("POST", api, &[("content-length", "12"), ("expect", "100-Continue"), ("te", "trailers")], false, 200),
        ("OPTIONS", api, &[("max-forwards", "10")], true, 200),
        ("GET", api, &[("max-forwards", "x")], true, 200),
        ("TRACE", api, &[], true, 200),
        ("GET", api, &[("cookie", "a"); 150], true, 200),
        // Another host, or port, or more than one.
        ("GET", "https://b.test/", &[], true, 421),
        ("GET", "https://api.test.b.test/", &[], true, 421),
        ("GET", "https://api.test:80/", &[], true, 421),
        ("GET", "/", &[("host", "b.test")], true, 421),
        ("GET", api, &[("host", "b.test")], true, 400),
        ("GET", api, &[("host", "api.test:80")], true, 400),
        ("GET", "https://b.test/", &[("host", "api.test")], true, 421),
        ("GET", api, &[("host", "api.test"), ("host", "api.test")], true, 400),
        ("GET", "/", &[], true, 400),
        ("GET", "/", &[("host", "")], true, 400),
        ("GET", "https://u:p@api.test/", &[], true, 400),
        ("GET", "/", &[("host", "u@api.test")], true, 400),
        ("GET", "http://api.test/", &[], true, 400),
        ("GET", "ftp://api.test/", &[], true, 400),
        ("CONNECT", "api.test:443", &[], false, 405),
        // Paths.
        ("GET", "*", &[("host", "api.test")], true, 400),
        ("OPTIONS", "*", &[("host", "api.test")], true, 200),
        ("GET", &long, &[], true, 414),
        // What belongs to HTTP/1.1.
        ("GET", api, &[("connection", "close")], true, 400),
        ("GET", api, &[("keep-alive", "1")], true, 400),
        ("GET", api, &[("proxy-connection", "close")], true, 400),
        ("POST", api, &[("transfer-encoding", "chunked")], false, 400),
        ("GET", api, &[("upgrade", "websocket")], true, 400),
        ("GET", api, &[("te", "gzip")], true, 400),
        ("GET", api, &[("te", "trailers, gzip")], true, 400),
        // Lengths.
        ("POST", api, &[("content-length", "1"), ("content-length", "1")], false, 400),
        ("POST", api, &[("content-length", "1, 1")], false, 400),
        ("POST", api, &[("content-length", "01")], false, 400),
        ("POST", api, &[("content-length", "+1")], false, 400),
        ("POST", api, &[("content-length", "-1")], false, 400),
        ("POST", api, &[("content-length", "0x1")], false, 400),
        ("POST", api, &[("content-length", "")], false, 400),
        ("POST", api, &[("content-length", "99999999999999999999")], false, 400),
        ("POST", api, &[("content_length", "1")], false, 400),
        ("POST", api, &[("transfer_encoding", "chunked")], false, 400),
        // The rest.
        ("GET", api, &[("x", " y")], true, 400),
        ("GET", api, &[("x", "y\t")], true, 400),
        ("POST", api, &[("expect", "x")], false, 417),
        ("POST", api, &[("expect", "100-continue"), ("expect", "100-continue")], false, 417),
        ("TRACE", api, &[("cookie", "a=b")], true, 400),
        ("TRACE", api, &[("authorization", "x")], true, 400),
        ("TRACE", api, &[], false, 400),
        ("TRACE", api, &[("max-forwards", "-1")], true, 400),
        ("OPTIONS", api, &[("max-forwards", "1"), ("max-forwards", "1")], true, 400),
        ("GET", api, &many, true, 431),
    ];
    for (method, uri, fields, ended, expected) in cases {
        let mut builder = Request::builder().method(*method).uri(*uri);
        for (name, value) in *fields {
            builder = builder.header(*name, *value);
        }
        let (parts, ()) = builder.body(()).unwrap().into_parts();
        let read = Head::read(parts, *ended, &tunnel(), &Limits::default());
        assert_eq!(read.as_ref().map_or_else(|bad| bad.status, |_| 200), *expected, "{method} {uri} {fields:?}: {read:?}");
    }
    let mut other = request("CONNECT", "/");
    other.extensions_mut().insert(Protocol::from_static("webtransport"));
    assert_eq!(Head::read(other.into_parts().0, false, &tunnel(), &Limits::default()).unwrap_err().status, 501);
}

#[test]
fn every_tunnel_has_an_authority_that_names_it() {
    for (to, authority) in [
        ("a.test:443", "a.test"),
        ("a.test:8443", "a.test:8443"),
        ("127.0.0.1:443", "127.0.0.1"),
        ("[2001:DB8::1]:8443", "[2001:db8::1]:8443"),
        ("[::1]:443", "[::1]"),
    ] {
        let tunnel = Tunnel::new(Target::parse(to, None).unwrap()).unwrap();
        assert_eq!(tunnel.authority, authority);
        for uri in [format!("https://{authority}/"), format!("https://{to}/")] {
            let (parts, ()) = Request::builder().uri(&uri).body(()).unwrap().into_parts();
            assert!(Head::read(parts, true, &tunnel, &Limits::default()).is_ok(), "{uri}");
        }
    }
}

#[test]
fn heads_are_sent_on_with_what_the_policy_has_added() {
    let mut request = request("OPTIONS", "/");
    for (name, value) in [
        ("max-forwards", "7"),
        ("via", "1.1 fred"),
        ("x-forwarded-for", "192.0.2.1"),
        ("forwarded", "for=_x"),
        ("x-real-ip", "192.0.2.2"),
        ("expect", "100-continue"),
        ("trailer", "x"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let head = Head::read(request.into_parts().0, true, &tunnel(), &Limits::default()).unwrap();
    assert!(head.went_through("fred") && !head.went_through("us"));
    let said = "forwarded: for=_x\nmax-forwards: 6\nvia: 1.1 fred\nx-forwarded-for: 192.0.2.1\nx-real-ip: 192.0.2.2";
    let cases = [
        (None, Forwarded::Pass, said.to_owned()),
        (Some("us"), Forwarded::Pass, said.replace("fred", "fred\nvia: 2.0 us")),
        (None, Forwarded::Strip, "max-forwards: 6\nvia: 1.1 fred".to_owned()),
        (None, Forwarded::XForwardedFor, said.replace("192.0.2.1", "192.0.2.1, ::1")),
        (None, Forwarded::Forwarded, said.replace("for=_x", "for=_x, for=\"[::1]\"")),
    ];
    for (via, forwarded, expected) in cases {
        let forwarding = Forwarding { via, forwarded, client: "::1".parse().unwrap() };
        let request = head.request(&tunnel(), &forwarding, Actions::default()).unwrap();
        let mut fields: Vec<String> =
            request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        fields.sort();
        assert_eq!(fields.join("\n"), expected, "{via:?} {forwarded:?}");
        assert_eq!(request.uri(), "https://api.test/");
    }
    let forwarding = Forwarding { via: Some("us"), forwarded: Forwarded::Pass, client: "::1".parse().unwrap() };
    let actions = Actions { set_request: vec![("x-secret".into(), Zeroizing::new(b"s".to_vec()))], ..Actions::default() };
    assert!(head.request(&tunnel(), &forwarding, actions).unwrap().headers()["x-secret"].is_sensitive());
    for (name, value) in [("host", "b.test"), ("Content-Length", "1"), ("x y", "z"), ("x", "y\nz")] {
        let actions = Actions { set_request: vec![(name.into(), Zeroizing::new(value.into()))], ..Actions::default() };
        assert_eq!(head.request(&tunnel(), &forwarding, actions).unwrap_err(), head::Unfit, "{name}");
    }
    let (parts, ()) = Response::builder()
        .status(204)
        .header("content-length", "0")
        .header("proxy-authenticate", "x")
        .header("a", "b")
        .body(())
        .unwrap()
        .into_parts();
    let without = ["a".to_owned(), "date".to_owned()];
    let response = head::response(parts, &forwarding, &without, &Limits::default()).unwrap();
    assert_eq!(format!("{:?}", response.headers()), r#"{"via": "2.0 us"}"#);
}

#[test]
fn what_came_through_here_or_may_go_no_further_is_answered_here() {
    let forwarding = Forwarding { via: Some("us"), forwarded: Forwarded::Pass, client: "::1".parse().unwrap() };
    let cases = [
        ("GET", "via", "2.0 us", Some(508)),
        ("GET", "via", "2.0 them", None),
        ("GET", "max-forwards", "0", None),
        ("OPTIONS", "max-forwards", "0", Some(200)),
        ("TRACE", "max-forwards", "0", Some(200)),
        ("TRACE", "max-forwards", "1", None),
    ];
    for (method, name, value, expected) in cases {
        let mut request = request(method, "/x");
        request.headers_mut().insert(name, value.parse().unwrap());
        let head = Head::read(request.into_parts().0, true, &tunnel(), &Limits::default()).unwrap();
        assert_eq!(answer::own(&head, &target(), &forwarding).map(|answer| answer.status), expected, "{method} {name}: {value}");
    }
}
