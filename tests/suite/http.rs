//! HTTP on the wire: what is refused, what is forwarded, and how.

use harness::{Client, Names, Origin, Proxy, client::get, policy};
use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::mpsc::channel;

const LOCAL: &str = "allow_local_binding = true";

fn names() -> Names {
    Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])])
}

fn proxy() -> Proxy {
    Proxy::start(&policy(LOCAL, &[("a.test", "allow"), ("evil.test", "deny")]), &names())
}

#[test]
fn a_block_says_what_and_why_and_what_to_change() {
    let proxy = proxy();
    let answer = get(proxy.http(), "http://b.test:8080/secret/path?token=1");
    assert_eq!((answer.status, answer.header("x-proxy-error")), (403, Some("blocked-by-allowlist")));
    let json = answer.json();
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        ["status", "host", "reason", "decision", "source", "protocol"].map(text),
        ["blocked", "b.test", "not_allowed", "deny", "baseline_policy", "http"]
    );
    assert_eq!(json["port"], 8080);
    assert!(text("message").contains("add \"b.test\" = \"allow\" under [permissions.workspace.network.domains]"), "{json}");
    assert!(!answer.text().contains("secret") && !answer.text().contains("token"), "no path, no query");

    let denied = get(proxy.http(), "http://evil.test/").json();
    assert_eq!((denied["rule"].as_str(), denied["layer"].as_str()), (Some("evil.test"), Some("user")));
    assert!(denied["message"].as_str().unwrap().contains("user config.toml:"), "{denied}");
}

#[test]
fn connections_are_kept_on_both_sides() {
    let (origin, proxy) = (Origin::start(), proxy());
    let mut client = Client::connect(proxy.http());
    for n in 0..20 {
        let request = if n % 5 == 4 {
            // A block in between ends nothing.
            "GET http://b.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n".to_owned()
        } else {
            format!("GET http://a.test:{0}/{n} HTTP/1.1\r\nHost: a.test:{0}\r\n\r\n", origin.port())
        };
        assert_eq!(client.send(request).answer().status, if n % 5 == 4 { 403 } else { 299 });
    }
    assert_eq!((origin.connections(), origin.requests().len()), (1, 16));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::http(|request, stream| {
        let body = request.first_line.split(' ').nth(1).unwrap().to_owned();
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).is_ok()
    });
    let proxy = proxy();
    let authority = format!("a.test:{}", origin.port());
    let both: String = (1..=3).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: {authority}\r\n\r\n")).collect();
    let mut client = Client::connect(proxy.http());
    client.send(both);
    assert_eq!([client.answer().text(), client.answer().text(), client.answer().text()], ["/1", "/2", "/3"]);
}

#[test]
fn fields_for_one_connection_end_there() {
    let origin = Origin::http(|_, stream| {
        let head = "HTTP/1.1 200 Fine by me\r\nContent-Length: 2\r\nConnection: X-Secret\r\nX-Secret: 1\r\nX-Kept: 2\r\nProxy-Authenticate: Basic\r\nKeep-Alive: timeout=5\r\n\r\nok";
        stream.write_all(head.as_bytes()).is_ok()
    });
    let proxy = proxy();
    let authority = format!("a.test:{}", origin.port());
    let request = format!(
        "GET http://{authority}/p?q=1 HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: Basic c2VjcmV0\r\nProxy-Connection: keep-alive\r\n\
         Proxy-Anything: x\r\nConnection: X-Mine\r\nConnection: keep-alive\r\nX-Mine: 1\r\nX-Kept: 2\r\nTE: trailers\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\n\r\n"
    );
    let answer = Client::connect(proxy.http()).send(request).answer();
    assert_eq!((answer.reason.as_str(), answer.header("x-kept")), ("Fine by me", Some("2")));
    let names = |headers: &[(String, String)]| headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&answer.headers), ["content-length", "x-kept", "via", "date"]);
    let seen = &origin.requests()[0];
    assert_eq!(seen.first_line, "GET /p?q=1 HTTP/1.1");
    assert_eq!(names(&seen.headers), ["host", "x-kept", "via"]);
    assert_eq!(seen.header("host"), Some(authority.as_str()));
}

#[test]
fn bodies_are_streamed_in_both_directions() {
    let origin = Origin::http(|request, stream| {
        let echoed = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", request.body.len());
        stream.write_all(echoed.as_bytes()).is_ok() && stream.write_all(&request.body).is_ok()
    });
    let proxy = proxy();
    let authority = format!("a.test:{}", origin.port());
    let body = vec![b'x'; 1_000_000];
    let mut client = Client::connect(proxy.http());
    client.send(format!("POST / HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {}\r\n\r\n", body.len())).send(&body);
    assert!(client.answer().body == body);
    // Chunked, with extensions, trailers that may pass and trailers that may not.
    client.send(format!("POST / HTTP/1.1\r\nHost: {authority}\r\nTransfer-Encoding: chunked\r\n\r\n"));
    client.send("5;ext=1\r\nhello\r\n").send("6 ; a=\"b\"\r\n world\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n");
    assert_eq!(client.answer().text(), "hello world");
    let seen = origin.requests().pop().unwrap();
    assert_eq!(seen.body, b"hello world");
    let raw = String::from_utf8(seen.raw_body).unwrap();
    assert!(raw.ends_with("0\r\nX-Sum: 1\r\n\r\n") && !raw.contains("ext"), "{raw:?}");
}

#[test]
fn chunked_answers_keep_their_trailers_and_old_clients_get_plain_ones() {
    let origin = Origin::http(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n").is_ok()
    });
    let proxy = proxy();
    let authority = format!("a.test:{}", origin.port());
    let answer = Client::connect(proxy.http()).send(format!("GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n")).answer();
    assert_eq!((answer.text().as_str(), answer.trailers.as_slice()), ("abcde", &[("x-sum".to_owned(), "5".to_owned())][..]));
    let old = Client::connect(proxy.http()).send(format!("GET http://{authority}/ HTTP/1.0\r\n\r\n")).answer();
    assert_eq!((old.text().as_str(), old.header("transfer-encoding"), old.header("connection")), ("abcde", None, Some("close")));
}

#[test]
fn a_client_that_waits_for_100_gets_it() {
    let (origin, proxy) = (Origin::start(), proxy());
    let mut client = Client::connect(proxy.http());
    client.send(format!("POST / HTTP/1.1\r\nHost: a.test:{}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n", origin.port()));
    assert_eq!(client.answer().status, 100);
    assert_eq!(client.send("body").answer().status, 299);
    assert_eq!(origin.requests()[0].body, b"body");
}

#[test]
fn a_client_that_waits_for_100_may_get_its_answer_at_once() {
    let origin = Origin::raw(|mut stream| {
        let mut head = [0; 1024];
        let _ = std::io::Read::read(&mut stream, &mut head);
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let proxy = proxy();
    let mut client = Client::connect(proxy.http());
    client.send(format!("POST / HTTP/1.1\r\nHost: a.test:{}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n", origin.port()));
    let answer = client.answer();
    assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
    // What it sends instead of the body is no request.
    client.send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(client.rest(), Vec::<u8>::new());
}

/// Reads the head of a request, and nothing of its body.
fn read_head(stream: &std::net::TcpStream) {
    let lines = std::io::BufRead::lines(std::io::BufReader::with_capacity(1, stream));
    assert!(lines.map_while(Result::ok).take_while(|line| !line.is_empty()).count() > 1);
}

#[test]
fn an_early_answer_arrives_whole_although_its_client_sends_on() {
    const LENGTH: usize = 400_000;
    let origin = Origin::raw(|mut stream| {
        read_head(&stream);
        stream.write_all(format!("HTTP/1.1 413 Too Large\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes()).unwrap();
        stream.write_all(&vec![b'x'; LENGTH]).unwrap();
        // Reads on until nobody sends.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let proxy = proxy();
    let mut client = Client::connect(proxy.http());
    client.send(format!("POST / HTTP/1.1\r\nHost: a.test:{}\r\nContent-Length: 30000000\r\n\r\n", origin.port()));
    let (mut reader, mut writer) = client.into_halves();
    let sending = std::thread::spawn(move || writer.write_all(&vec![b'y'; 30_000_000]).is_ok());
    // It reads only when all is sent: by then a reset would have thrown the answer away.
    assert!(sending.join().unwrap(), "it may send all it has");
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert!(all.ends_with(&vec![b'x'; LENGTH]), "{} bytes", all.len());
}

/// Bytes that nobody has read would make a reset of the end, which must not take the answer with it.
#[test]
fn the_last_answer_arrives_whole_although_its_client_sends_on() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\norigin\r\n0\r\n\r\n";
    for answer in ["HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\norigin", chunked] {
        let ((asked, is_asked), (go_on, goes_on)) = (channel(), channel::<()>());
        let (asked, goes_on) = (Mutex::new(asked), Mutex::new(goes_on));
        let origin = Origin::http(move |_, stream| {
            asked.lock().unwrap().send(()).unwrap();
            goes_on.lock().unwrap().recv().unwrap();
            stream.write_all(answer.as_bytes()).is_ok()
        });
        let proxy = proxy();
        let mut client = Client::connect(proxy.http());
        let authority = format!("a.test:{}", origin.port());
        client.send(format!("GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"));
        is_asked.recv().unwrap();
        client.send(format!("GET /next HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
        go_on.send(()).unwrap();
        assert_eq!(client.answer().text(), "origin");
        assert_eq!(origin.requests().len(), 1);
    }
}

#[test]
fn a_body_that_breaks_off_does_not_look_whole() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    for (rest, is_whole) in [("0\r\n\r\n", true), ("5\r\nab", false)] {
        let origin = Origin::raw(move |mut stream| {
            read_head(&stream);
            stream.write_all(format!("{chunked}{rest}").as_bytes()).unwrap();
        });
        let proxy = proxy();
        // Its end is that of the connection.
        let mut client = Client::connect(proxy.http());
        client.send(format!("GET http://a.test:{}/ HTTP/1.0\r\n\r\n", origin.port()));
        let (mut reader, _writer) = client.into_halves();
        let mut all = Vec::new();
        let read = reader.read_to_end(&mut all);
        assert_eq!(read.map_err(|error| error.kind()).is_ok(), is_whole, "{}", String::from_utf8_lossy(&all));
        assert!(!is_whole || all.ends_with(b"\r\n\r\nabc"));
    }
}

#[test]
fn who_speaks_http_1_0_is_answered_once() {
    let (origin, proxy) = (Origin::start(), proxy());
    for (host, status) in [("a.test", 299), ("b.test", 403)] {
        let mut client = Client::connect(proxy.http());
        let request = format!("GET http://{host}:{}/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", origin.port());
        let answer = client.send(request).answer();
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")));
        assert_eq!(client.rest(), Vec::<u8>::new());
    }
}

#[test]
fn an_upload_that_moves_is_waited_for_however_long_it_takes() {
    const PIECES: usize = 60;
    let (came, hear) = std::sync::mpsc::channel::<()>();
    let came = std::sync::Mutex::new(came);
    let origin = Origin::raw(move |mut stream| {
        read_head(&stream);
        let mut piece = [0; 1];
        for _ in 0..PIECES {
            stream.read_exact(&mut piece).unwrap();
            let _ = came.lock().unwrap().send(());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let limits = ["response_timeout=2s"];
    let proxy = Proxy::with_limits(&policy(LOCAL, &[("a.test", "allow")]), &names(), &limits);
    let mut client = Client::connect(proxy.http());
    client.send(format!("POST / HTTP/1.1\r\nHost: a.test:{}\r\nContent-Length: {PIECES}\r\n\r\n", origin.port()));
    let began = std::time::Instant::now();
    for _ in 0..PIECES {
        client.send("x");
        hear.recv().unwrap();
        // The pace of a slow client, of which all together are longer than the limit, and each is a fiftieth of it.
        std::thread::sleep(std::time::Duration::from_millis(40));
    }
    assert!(began.elapsed().as_secs() >= 2);
    assert_eq!(client.answer().status, 200);
}

#[test]
fn what_may_go_no_further_is_answered_here() {
    let (origin, proxy) = (Origin::start(), proxy());
    let mut client = Client::connect(proxy.http());
    let trace = "TRACE http://b.test:81/p?q HTTP/1.1\r\nHost: b.test:81\r\nVia: 1.0 fred\r\nMax-Forwards: 0\r\nX-Api-Key: secret\r\n\r\n";
    let answer = client.send(trace).answer();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("message/http")));
    assert_eq!(answer.text(), "TRACE /p?q HTTP/1.1\r\nHost: b.test:81\r\nVia: 1.0 fred\r\n\r\n");
    let options = format!("OPTIONS * HTTP/1.1\r\nHost: a.test:{}\r\nMax-Forwards: 00\r\n\r\n", origin.port());
    let answer = client.send(options).answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    assert_eq!((origin.connections(), proxy.decisions().len()), (0, 0), "nothing is asked for");
}

#[test]
fn what_came_through_here_before_goes_no_further() {
    let (origin, proxy, other) = (Origin::start(), proxy(), proxy());
    let authority = format!("a.test:{}", origin.port());
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.send(format!("GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n")).answer().status, 299);
    let via = origin.requests()[0].header("via").unwrap().to_owned();
    let again = format!("GET / HTTP/1.1\r\nHost: {authority}\r\nVia: 1.0 fred (x)\r\nvia: 1.1 p, {}\r\n\r\n", via.to_uppercase());
    let answer = client.send(&again).answer();
    assert_eq!((answer.status, answer.header("x-proxy-error")), (508, Some("blocked-by-policy")));
    let connect = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nVia: {via}\r\n\r\n");
    assert_eq!(client.send(connect).answer().status, 508, "a tunnel too");
    assert_eq!(origin.requests().len(), 1);
    assert_eq!(Client::connect(other.http()).send(&again).answer().status, 299, "another proxy has another name");
}

#[test]
fn an_early_answer_is_passed_on_and_ends_the_connection() {
    let origin = Origin::raw(|mut stream| {
        let mut head = [0; 64];
        let _ = std::io::Read::read(&mut stream, &mut head);
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").unwrap();
        // Kept open: what ends the exchange is the answer, not the origin.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let proxy = proxy();
    let mut client = Client::connect(proxy.http());
    client.send(format!("POST / HTTP/1.1\r\nHost: a.test:{}\r\nContent-Length: 1000000\r\n\r\nsome", origin.port()));
    assert_eq!((client.answer().status, client.rest()), (413, Vec::new()));
}

#[test]
fn websocket_is_switched_to_where_writing_is_allowed() {
    let origin = Origin::http(|request, stream| {
        if request.header("upgrade") != Some("websocket") {
            return stream.write_all(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n").is_ok();
        }
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst").unwrap();
        let mut echo = stream.try_clone().unwrap();
        let _ = std::io::copy(stream, &mut echo);
        false
    });
    let ask = |settings: &str| {
        let proxy = Proxy::start(&policy(&format!("{LOCAL}\n{settings}"), &[("a.test", "allow")]), &names());
        let mut client = Client::connect(proxy.http());
        let authority = format!("a.test:{}", origin.port());
        client.send(format!("GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"));
        let answer = client.answer();
        (proxy, client, answer)
    };
    let (_proxy, mut client, answer) = ask("");
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(client.bytes(5), b"first");
    assert_eq!(client.send("frame").bytes(5), b"frame");
    let (_proxy, _client, limited) = ask("mode = \"limited\"");
    assert_eq!(limited.status, 426, "what cannot be read is not switched to in limited mode");
}

#[test]
fn what_was_not_offered_is_not_switched_to() {
    let origin = Origin::http(|_, stream| {
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\nraw").unwrap();
        false
    });
    let proxy = proxy();
    for (offered, status) in [("websocket", 502), ("websocket\r\nUpgrade: other", 101)] {
        let mut client = Client::connect(proxy.http());
        client.send(format!("GET / HTTP/1.1\r\nHost: a.test:{}\r\nConnection: Upgrade\r\nUpgrade: {offered}\r\n\r\n", origin.port()));
        assert_eq!(client.answer().status, status, "{offered:?}");
    }
}

#[test]
fn answers_that_cannot_be_trusted_are_502() {
    let cases: [&[u8]; 9] = [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\n\r\n",
    ];
    let proxy = proxy();
    for bytes in cases {
        let origin = Origin::raw(move |mut stream| {
            let mut head = [0; 4096];
            let _ = std::io::Read::read(&mut stream, &mut head);
            let _ = stream.write_all(bytes);
        });
        let answer = get(proxy.http(), &format!("http://a.test:{}/", origin.port()));
        let error = answer.header("x-proxy-error").unwrap_or_default();
        assert!(answer.status == 502 && error.starts_with("upstream-"), "{:?}: {answer:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn an_answer_that_breaks_off_has_no_other_one_in_it() {
    let (read, seen) = std::sync::mpsc::channel::<()>();
    let seen = std::sync::Mutex::new(seen);
    let origin = Origin::http(move |_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").unwrap();
        seen.lock().unwrap().recv().unwrap();
        let _ = stream.write_all(b"5\r\nworld\r\nno size\r\n");
        false
    });
    let proxy = proxy();
    let mut client = Client::connect(proxy.http());
    client.send(format!("GET / HTTP/1.1\r\nHost: a.test:{}\r\n\r\n", origin.port()));
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello\r\n") {
        answer.extend(client.bytes(1));
    }
    read.send(()).unwrap();
    let rest = String::from_utf8(client.rest()).unwrap();
    assert!(!rest.contains("HTTP/1.1"), "{rest}");
}

#[test]
fn an_answer_without_content_has_no_length() {
    let origin = Origin::http(|_, stream| stream.write_all(b"HTTP/1.1 204 No Content\r\nContent-Length: 99\r\nX-Kept: 1\r\n\r\n").is_ok());
    let proxy = proxy();
    let mut client = Client::connect(proxy.http());
    for _ in 0..2 {
        let answer = client.send(format!("GET / HTTP/1.1\r\nHost: a.test:{}\r\n\r\n", origin.port())).answer();
        assert_eq!((answer.status, answer.header("content-length"), answer.header("x-kept")), (204, None, Some("1")));
    }
}

#[test]
fn a_client_that_went_away_frees_its_upstream() {
    let (ended, end) = std::sync::mpsc::channel();
    let origin = Origin::raw(move |mut stream| {
        // Never answers; hears when nobody waits any more.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        ended.send(()).unwrap();
    });
    let proxy = proxy();
    let mut client = Client::connect(proxy.http());
    client.send(format!("GET / HTTP/1.1\r\nHost: a.test:{}\r\n\r\n", origin.port()));
    harness::wait_until("the origin is asked", || origin.connections() == 1);
    drop(client);
    end.recv_timeout(harness::PATIENCE).unwrap();
}

#[test]
fn a_connection_that_went_stale_is_replaced_where_that_is_safe() {
    // Answers one request on each connection, then closes without saying so.
    let origin = Origin::http(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        false
    });
    let proxy = proxy();
    let mut client = Client::connect(proxy.http());
    for _ in 0..5 {
        let request = format!("GET / HTTP/1.1\r\nHost: a.test:{}\r\n\r\n", origin.port());
        assert_eq!(client.send(request).answer().text(), "ok");
    }
    assert_eq!(origin.connections(), 5);
}

#[test]
fn limited_mode_reads_and_does_not_write() {
    let origin = Origin::start();
    let proxy = Proxy::start(&policy(&format!("{LOCAL}\nmode = \"limited\""), &[("a.test", "allow")]), &names());
    for (method, expected) in [("GET", 299), ("HEAD", 299), ("OPTIONS", 299), ("POST", 403), ("get", 403), ("TRACE", 403)] {
        let request = format!("{method} / HTTP/1.1\r\nHost: a.test:{}\r\n\r\n", origin.port());
        assert_eq!(Client::connect(proxy.http()).send(request).answer_to(method).status, expected, "{method}");
    }
    // A tunnel that is not read goes nowhere.
    assert_eq!(Client::connect(proxy.socks5()).socks5_name("a.test", origin.port()), Some(2));
}

#[test]
fn unix_sockets_are_not_open_unless_the_policy_says_so() {
    let proxy = proxy();
    let answer = Client::connect(proxy.http())
        .send("GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\nX-Unix-Socket: /var/run/docker.sock\r\n\r\n")
        .answer();
    assert_eq!((answer.status, answer.blocked_reason().as_str()), (403, "not_allowed"));
}

#[test]
fn nothing_waits_past_its_deadline() {
    // One limit is short at a time, so that a slow machine meets no other one.
    let with = |limit: &str| Proxy::with_limits(&policy(LOCAL, &[("a.test", "allow")]), &names(), &[limit]);
    let silent = Origin::raw(|mut stream| drop(std::io::copy(&mut stream, &mut std::io::sink())));
    let authority = format!("a.test:{}", silent.port());

    let proxy = with("head_timeout=2s");
    let (mut nothing, mut greeting, mut head) =
        (Client::connect(proxy.http()), Client::connect(proxy.socks5()), Client::connect(proxy.http()));
    greeting.send([5, 1]);
    head.send("GET / HT");
    assert_eq!(nothing.rest(), Vec::<u8>::new(), "a client that says nothing");
    assert_eq!(greeting.rest(), Vec::<u8>::new(), "half a greeting");
    assert_eq!(head.answer().status, 408, "half a head");

    let proxy = with("response_timeout=100ms");
    let answer = Client::connect(proxy.http()).send(format!("GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n")).answer();
    assert_eq!((answer.status, answer.header("x-proxy-error")), (504, Some("upstream-response-timeout")));

    let proxy = with("idle_timeout=100ms");
    let mut tunnel = Client::connect(proxy.http());
    assert_eq!(tunnel.tunnel(&authority).status, 200);
    assert_eq!(tunnel.rest(), Vec::<u8>::new(), "an idle tunnel");

    let proxy = with("keep_alive_timeout=100ms");
    let mut client = Client::connect(proxy.http());
    assert_eq!(client.send("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n").answer().status, 403);
    assert_eq!(client.rest(), Vec::<u8>::new(), "an idle connection");
}

#[test]
fn the_admin_listener_tells_its_health_to_this_machine_only() {
    let proxy = proxy();
    let ask = |request: &str| Client::connect(proxy.admin()).send(request).answer();
    let health = ask(&format!("GET /health HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.admin()));
    let json = health.json();
    assert_eq!((health.status, json["status"].as_str(), json["policy"]["generation"].as_u64()), (200, Some("ok"), Some(1)));
    assert_eq!(json["policy"]["rules"], 2);
    assert_eq!(ask("GET /health HTTP/1.1\r\nHost: rebound.attacker.test\r\n\r\n").status, 403);
    assert_eq!(ask("POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").status, 405);
    let metrics = ask("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!((metrics.status, metrics.header("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    assert!(metrics.text().contains("\nnetproxy_policy_generation 1\n"), "{}", metrics.text());
    assert_eq!(ask("GET /metrics HTTP/1.1\r\nHost: rebound.attacker.test\r\n\r\n").status, 403);
    assert_eq!(ask("GET /other HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 404);
}

#[test]
fn who_passes_an_answer_on_says_when_it_came() {
    let origin = Origin::http(|request, stream| {
        let date = if request.first_line.contains("/dated") { "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n" } else { "" };
        let head = format!("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n{date}Content-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes()).is_ok()
    });
    let (proxy, at) = (proxy(), format!("a.test:{}", origin.port()));
    let dates = |answer: &harness::Answer| -> Vec<String> {
        answer.headers.iter().filter(|(name, _)| name == "date").map(|(_, value)| value.clone()).collect()
    };
    let mut client = Client::connect(proxy.http());
    let mut ask = |path: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {at}\r\n\r\n"));
        (dates(&client.answer()), dates(&client.answer()))
    };
    assert_eq!(ask("/dated"), (vec![], vec!["Sun, 06 Nov 1994 08:49:37 GMT".to_owned()]));
    let (interim, now) = ask("/");
    assert!(interim.is_empty() && now.len() == 1 && now[0].len() == 29 && now[0].ends_with(" GMT"), "{now:?}");
    // What is answered here has one too, and what the admin listener says.
    for (to, request, status) in [
        (proxy.http(), "GET http://b.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n", 403),
        (proxy.http(), "CONNECT b.test:443 HTTP/1.1\r\nHost: b.test:443\r\n\r\n", 403),
        (proxy.http(), "GET / HTTP/1.1\r\n\r\n", 400),
        (proxy.admin(), "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    ] {
        let answer = Client::connect(to).send(request).answer();
        assert_eq!((answer.status, dates(&answer).len()), (status, 1), "{request}");
    }
}
