//! What does the proxy add? A request on a warm connection, a tunnel and its first byte, and a tunnel's throughput, each beside the same without a proxy.
//!
//! Clients, proxy and origin share one process, its runtime and loopback: the difference within a pair says something, the numbers alone say little.

#![allow(missing_docs, reason = "the macros of criterion make public functions")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on panics")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use netpolicy_benches::blob;
use netproxy::{Addresses, Handle, NetworkProxy};
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

const POLICY: &str = r#"
default_permissions = "bench"
[permissions.bench.network]
enabled = true
allow_local_binding = true
[permissions.bench.network.domains]
"localhost" = "allow"
"#;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const MIB: usize = 1 << 20;

/// Everything that runs beside the clients.
struct World {
    runtime: Runtime,
    proxy: Addresses,
    /// Dropping it ends the proxy.
    _handle: Handle,
    /// Answers every request with `ok`.
    web: SocketAddr,
    /// Sends back what it gets.
    echo: SocketAddr,
}

impl World {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let (handle, web, echo) = runtime.block_on(async {
            let (web, echo) = (TcpListener::bind(ANY_PORT).await.unwrap(), TcpListener::bind(ANY_PORT).await.unwrap());
            let addresses = (web.local_addr().unwrap(), echo.local_addr().unwrap());
            tokio::spawn(serve(web, answer));
            tokio::spawn(serve(echo, send_back));
            let handle = NetworkProxy::builder().policy(blob(POLICY)).free_ports().bind().await.unwrap().run().await.unwrap();
            (handle, addresses.0, addresses.1)
        });
        Self { runtime, proxy: handle.addrs(), _handle: handle, web, echo }
    }
}

async fn serve<F: Future<Output = std::io::Result<()>> + Send + 'static>(listener: TcpListener, each: fn(TcpStream) -> F) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        // Clients hang up when they have what they want.
        tokio::spawn(each(stream));
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while stream.read_buf(&mut head).await? > 0 {
        if head.ends_with(b"\r\n\r\n") {
            stream.write_all(REPLY).await?;
            head.clear();
        }
    }
    Ok(())
}

async fn send_back(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await.map(drop)
}

async fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    // Ends with a reset, so that thousands of connections a second do not use up the ports.
    stream.set_zero_linger().unwrap();
    stream
}

async fn read_until(stream: &mut TcpStream, end: &[u8]) {
    let mut got = Vec::with_capacity(512);
    while !got.ends_with(end) {
        assert!(stream.read_buf(&mut got).await.unwrap() > 0, "{}", got.escape_ascii());
    }
    assert!(got.starts_with(b"HTTP/1.1 200 "), "{}", got.escape_ascii());
}

async fn get(stream: &mut TcpStream, head: &[u8]) {
    stream.write_all(head).await.unwrap();
    read_until(stream, b"\r\n\r\nok").await;
}

async fn connect_tunnel(proxy: SocketAddr, origin: SocketAddr) -> TcpStream {
    let mut stream = connect(proxy).await;
    let port = origin.port();
    stream.write_all(format!("CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n").as_bytes()).await.unwrap();
    read_until(&mut stream, b"\r\n\r\n").await;
    stream
}

async fn socks5_tunnel(proxy: SocketAddr, origin: SocketAddr) -> TcpStream {
    let mut stream = connect(proxy).await;
    stream.write_all(&[5, 1, 0]).await.unwrap();
    let mut method = [0; 2];
    stream.read_exact(&mut method).await.unwrap();
    stream.write_all(&[b"\x05\x01\x00\x03\x09localhost", &origin.port().to_be_bytes()[..]].concat()).await.unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).await.unwrap();
    assert_eq!((method, reply.first_chunk()), ([5, 0], Some(&[5, 0])));
    stream
}

/// Sends `data` and reads as much, both at once.
async fn echo(stream: &mut TcpStream, data: &[u8], back: &mut [u8]) {
    let (mut read, mut write) = stream.split();
    tokio::try_join!(write.write_all(data), read.read_exact(back)).unwrap();
}

async fn echo_byte(mut stream: TcpStream) {
    echo(&mut stream, black_box(b"x"), &mut [0]).await;
}

fn requests(c: &mut Criterion) {
    let World { runtime, proxy, _handle, web, .. } = World::new();
    let mut group = c.benchmark_group("GET on a warm connection");
    let absolute = format!("GET http://localhost:{0}/ HTTP/1.1\r\nHost: localhost:{0}\r\n\r\n", web.port());
    let origin_form = format!("GET / HTTP/1.1\r\nHost: localhost:{}\r\n\r\n", web.port());
    for (name, to, head) in [("proxy", proxy.http, absolute), ("direct", web, origin_form)] {
        let mut stream = runtime.block_on(connect(to));
        group.bench_function(name, |b| b.iter(|| runtime.block_on(get(&mut stream, head.as_bytes()))));
    }
    group.finish();
}

fn tunnels(c: &mut Criterion) {
    let World { runtime, proxy, _handle, echo, .. } = World::new();
    let socks5 = proxy.socks5.unwrap();
    let mut group = c.benchmark_group("connection and first byte");
    group.sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    group.bench_function("CONNECT", |b| b.iter(|| runtime.block_on(async { echo_byte(connect_tunnel(proxy.http, echo).await).await })));
    group.bench_function("SOCKS5", |b| b.iter(|| runtime.block_on(async { echo_byte(socks5_tunnel(socks5, echo).await).await })));
    group.bench_function("direct", |b| b.iter(|| runtime.block_on(async { echo_byte(connect(echo).await).await })));
    group.finish();
}

fn throughput(c: &mut Criterion) {
    let World { runtime, proxy, _handle, echo: origin, .. } = World::new();
    let (data, mut back) = (vec![7; MIB], vec![0; MIB]);
    let mut group = c.benchmark_group("1 MiB there and back");
    group.throughput(Throughput::Bytes(MIB as u64)).sample_size(20);
    let streams = [("CONNECT", runtime.block_on(connect_tunnel(proxy.http, origin))), ("direct", runtime.block_on(connect(origin)))];
    for (name, mut stream) in streams {
        runtime.block_on(echo(&mut stream, &data, &mut back));
        assert_eq!(back, data);
        group.bench_function(name, |b| b.iter(|| runtime.block_on(echo(&mut stream, &data, &mut back))));
    }
    group.finish();
}

criterion_group!(benches, requests, tunnels, throughput);
criterion_main!(benches);
