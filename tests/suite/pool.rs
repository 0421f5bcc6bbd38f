//! Connections to origins: who is given one that another client had, and when one ends before its exchange does.

use harness::{Answer, Client, Names, Origin, PATIENCE, Proxy, client::get, policy, wait_until};
use policy_format::Mode;
use std::io::{ErrorKind, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

const LOCAL: &str = "allow_local_binding = true";
const ORIGIN: &[u8] = b"HTTP/1.1 299 Origin\r\nContent-Length: 6\r\n\r\norigin";

/// One worker, so that all clients have the same connections to origins.
fn proxy(limits: &[&str]) -> Proxy {
    let names = Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])]);
    Proxy::with_one_worker(&policy(LOCAL, &[("a.test", "allow"), ("b.test", "allow")]), &names, limits)
}

/// The last request of a client. Once its connection has ended, that to the origin is put away, or has ended too.
fn last(client: &mut Client, method: &str, authority: &str) -> Answer {
    let answer = client.send(format!("{method} /last HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")).answer_to(method);
    assert_eq!(client.rest(), Vec::<u8>::new());
    answer
}

#[test]
fn a_connection_is_given_to_the_next_client() {
    let (origin, proxy) = (Origin::start(), proxy(&[]));
    let authority = format!("a.test:{}", origin.port());
    for _ in 0..3 {
        assert_eq!(last(&mut Client::connect(proxy.http()), "GET", &authority).text(), "origin");
    }
    // A client that goes without a word leaves it too.
    for _ in 0..3 {
        let mut client = Client::connect(proxy.http());
        assert_eq!(client.send(format!("GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n")).answer().text(), "origin");
        drop(client);
        wait_until("the client is gone", || proxy.metrics().get("netproxy_connections_open") == 0);
    }
    assert_eq!((origin.connections(), origin.requests().len()), (1, 6));
}

#[test]
fn the_connection_of_a_client_that_stays_is_kept_as_any_other() {
    for (limits, reason) in [
        (["pool_connections=0", "pool_timeout=1d"], "full"),
        (["pool_connections_per_host=0", "pool_timeout=1d"], "full"),
        (["pool_connections=9", "pool_timeout=50ms"], "expired"),
        // It ends with its client, and is put away.
        (["pool_connections=9", "pool_timeout=1d"], ""),
    ] {
        let (ended, ends) = channel();
        let ended = Mutex::new(ended);
        let origin = Origin::raw(move |mut stream| {
            let mut bytes = [0; 4096];
            while let Ok(1..) = stream.read(&mut bytes) {
                stream.write_all(ORIGIN).unwrap();
            }
            let _ = ended.lock().unwrap().send(());
        });
        let proxy = proxy(&limits);
        let mut client = Client::connect(proxy.http());
        let request = format!("POST / HTTP/1.1\r\nHost: a.test:{}\r\nContent-Length: 0\r\n\r\n", origin.address().port());
        for sent in 1..=2 {
            assert_eq!(client.send(&request).answer().status, 299, "{limits:?}");
            if reason.is_empty() {
                assert_eq!(origin.connections(), 1);
                continue;
            }
            // While the client stays.
            ends.recv_timeout(PATIENCE).unwrap();
            assert_eq!(origin.connections(), sent, "{limits:?}");
            let evicted = format!("netproxy_pool_evictions_total{{reason=\"{reason}\"}}");
            wait_until("it is counted", || proxy.metrics().get(&evicted) == sent as u64);
        }
        drop(client);
    }
}

/// What was decided of a connection's requests stands for the next one only under the same policy and mode, and where neither method nor path has a say.
#[test]
fn a_request_over_a_connection_that_is_kept_is_decided_by_itself_and_by_the_policy_in_force() {
    let origin = Origin::start();
    let proxy = proxy(&[]);
    let rules = |a: &str| policy(LOCAL, &[("b.test", "allow")]) + &format!("\"a.test\" = {a}\n");
    let deletes_denied = "{ access = \"deny\", methods = [\"DELETE\"] }\n\"*.test\" = \"allow\"";
    let addresses_denied = "\"allow\"\n\"127.0.0.0/8\" = { access = \"deny\", methods = [\"DELETE\"] }";
    // The rule for the host, the mode, and requests one after the other, each with its answer.
    type Step<'s> = (&'s str, Mode, &'s [(&'s str, &'s str, u16)]);
    let steps: [Step<'_>; 8] = [
        ("\"allow\"", Mode::Full, &[("GET", "/v1", 299), ("GET", "/v1", 299), ("DELETE", "/", 299), ("PUT", "/v1", 299)]),
        ("\"allow\"", Mode::Limited, &[("GET", "/v1", 299), ("DELETE", "/v1", 403), ("GET", "/", 299)]),
        ("\"deny\"", Mode::Full, &[("GET", "/v1", 403), ("DELETE", "/", 403)]),
        ("\"allow\"", Mode::Full, &[("DELETE", "/v1", 299), ("GET", "/v1", 299), ("GET", "/", 299)]),
        ("\"read-only\"", Mode::Full, &[("GET", "/v1", 299), ("GET", "/", 299), ("DELETE", "/v1", 403), ("OPTIONS", "/v1", 299)]),
        (
            "{ access = \"allow\", paths = [\"/v1\"] }",
            Mode::Full,
            &[("GET", "/v1", 299), ("DELETE", "/v1", 299), ("GET", "/", 403), ("GET", "/v1", 299)],
        ),
        (deletes_denied, Mode::Full, &[("GET", "/v1", 299), ("GET", "/", 299), ("DELETE", "/v1", 403), ("GET", "/v1", 299)]),
        (addresses_denied, Mode::Full, &[("GET", "/v1", 299), ("GET", "/", 299), ("DELETE", "/v1", 403), ("GET", "/v1", 299)]),
    ];
    let authority = format!("a.test:{}", origin.port());
    for same_client in [true, false] {
        let mut client = Client::connect(proxy.http());
        for (rule, mode, requests) in steps {
            let generation = proxy.swap(&rules(rule));
            let generation = if mode == Mode::Limited { proxy.handle().set_mode(Some(mode)).unwrap() } else { generation };
            for (method, path, expected) in requests {
                let what = format!("same client: {same_client}, {rule}, {mode}: {method} {path}");
                let seen = proxy.decisions().len();
                let close = if same_client { "" } else { "Connection: close\r\n" };
                let request = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\n{close}\r\n");
                assert_eq!(client.send(request).answer_to(method).status, *expected, "{what}");
                if !same_client {
                    assert_eq!(client.rest(), Vec::<u8>::new());
                    client = Client::connect(proxy.http());
                }
                // Each is told of as it was decided, whatever was decided before.
                let told: Vec<_> = proxy.decisions().split_off(seen).into_iter().map(|seen| (seen.decision, seen.generation)).collect();
                assert_eq!(told, [(if *expected == 299 { "allow" } else { "deny" }, generation)], "{what}");
                assert_eq!(origin.connections(), 1, "one connection served them all: {what}");
            }
            proxy.handle().set_mode(None).unwrap();
        }
    }
}

/// An answer to HEAD has no body. What comes in its place would be the answer to the next request.
#[test]
fn a_body_after_an_answer_to_head_is_nobodys_answer() {
    const BODY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    for (late, same_client) in [(false, false), (false, true), (true, false), (true, true)] {
        let what = format!("late: {late}, the same client: {same_client}");
        let (release, released) = channel::<()>();
        let released = Mutex::new(released);
        let (wrote, written) = channel();
        let origin = Origin::http(move |request, stream| {
            if !request.first_line.starts_with("HEAD ") {
                return stream.write_all(ORIGIN).is_ok();
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", BODY.len());
            if late {
                let _ = stream.write_all(head.as_bytes());
                let _ = released.lock().unwrap().recv();
                let _ = stream.write_all(BODY.as_bytes());
            } else {
                let _ = stream.write_all(format!("{head}{BODY}").as_bytes());
            }
            wrote.send(()).is_ok()
        });
        let proxy = proxy(&[]);
        let authority = format!("a.test:{}", origin.port());
        let mut client = Client::connect(proxy.http());
        let answer = if same_client {
            client.send(format!("HEAD / HTTP/1.1\r\nHost: {authority}\r\n\r\n")).answer_to("HEAD")
        } else {
            last(&mut client, "HEAD", &authority)
        };
        assert_eq!(answer.status, 200, "{what}");
        let _ = release.send(());
        written.recv_timeout(PATIENCE).unwrap();
        let mut next = if same_client { client } else { Client::connect(proxy.http()) };
        let answer = last(&mut next, "GET", &authority);
        assert_eq!((answer.status, answer.text().as_str()), (299, "origin"), "{what}");
        assert_eq!(origin.connections(), 2, "{what}");
    }
}

/// Some ways to authenticate are for a connection, not for a request: whoever uses it next is taken for the same user.
#[test]
fn a_connection_that_stands_for_a_user_is_given_to_nobody_else() {
    // The fields of one request and of its answer, and whether other clients may have the connection.
    let cases: [(&str, &str, bool); 12] = [
        ("", "", true),
        ("Authorization: Basic dTpw\r\n", "", true),
        ("Authorization: Bearer abc\r\n", "", true),
        ("", "WWW-Authenticate: Basic realm=\"x\"\r\n", true),
        ("Authorization: NTLM TlRMTVNTUAAB\r\n", "", false),
        ("authorization: ntlm TlRMTVNTUAAB\r\n", "", false),
        ("Authorization: Negotiate YIIB\r\n", "", false),
        ("", "WWW-Authenticate: NTLM\r\n", false),
        ("", "WWW-Authenticate: NTLM TlRMTVNTUAAC\r\n", false),
        ("", "www-authenticate: negotiate\r\n", false),
        ("", "WWW-Authenticate: Basic realm=\"x\"\r\nWWW-Authenticate: Negotiate\r\n", false),
        ("", "WWW-Authenticate: Basic realm=\"x\", NTLM\r\n", false),
    ];
    for (asked, told, shared) in cases {
        for goes_elsewhere in [false, true] {
            let what = format!("{asked:?}, {told:?}, goes elsewhere: {goes_elsewhere}");
            let origin = Origin::http(move |request, stream| {
                let told = if request.first_line.starts_with("GET /first ") { told } else { "" };
                stream.write_all(format!("HTTP/1.1 401 Unauthorized\r\n{told}Content-Length: 2\r\n\r\nno").as_bytes()).is_ok()
            });
            let proxy = proxy(&[]);
            let authority = format!("a.test:{}", origin.port());
            let mut client = Client::connect(proxy.http());
            assert_eq!(client.send(format!("GET /first HTTP/1.1\r\nHost: {authority}\r\n{asked}\r\n")).answer().status, 401, "{what}");
            // One exchange of these is enough, however plain the next one is.
            assert_eq!(client.send(format!("GET /next HTTP/1.1\r\nHost: {authority}\r\n\r\n")).answer().status, 401, "{what}");
            assert_eq!(origin.connections(), 1, "{what}: the same client goes on with it");
            let before = if goes_elsewhere {
                let request = format!("GET /elsewhere HTTP/1.1\r\nHost: b.test:{}\r\n\r\n", origin.port());
                assert_eq!(client.send(request).answer().status, 401, "{what}");
                2
            } else {
                assert_eq!(last(&mut client, "GET", &authority).status, 401, "{what}");
                1
            };
            assert_eq!(origin.connections(), before, "{what}");
            assert_eq!(last(&mut Client::connect(proxy.http()), "GET", &authority).status, 401, "{what}");
            assert_eq!(origin.connections(), before + usize::from(!shared), "{what}: another client");
        }
    }
}

#[test]
fn an_upload_ends_when_a_swap_denies_its_host() {
    // How the body is framed, its beginning, and what the client goes on to send, again and again.
    let cases = [
        ("Transfer-Encoding: chunked", "5\r\nfirst\r\n", ""),
        ("Transfer-Encoding: chunked", "5\r\nfirst\r\n", "4\r\nmore\r\n"),
        ("Content-Length: 100", "first", ""),
    ];
    for (framing, first, more) in cases {
        let what = format!("{framing}, {more:?}");
        let (reached, reach) = channel();
        let (ended, end) = channel();
        let origin = Origin::raw(move |mut stream| {
            let (mut all, mut piece) = (Vec::new(), [0; 4096]);
            let mut told = false;
            while let Ok(read @ 1..) = stream.read(&mut piece) {
                if told {
                    continue;
                }
                all.extend_from_slice(&piece[..read]);
                if all.windows(5).any(|window| window == b"first") {
                    told = true;
                    let _ = reached.send(());
                }
            }
            let _ = ended.send(());
        });
        let proxy = proxy(&[]);
        let mut client = Client::connect(proxy.http());
        client.send(format!("POST / HTTP/1.1\r\nHost: a.test:{}\r\n{framing}\r\n\r\n{first}", origin.port()));
        reach.recv_timeout(PATIENCE).unwrap();
        proxy.swap(&policy(LOCAL, &[("b.test", "allow")]));
        let stop = AtomicBool::new(false);
        let (mut reader, mut writer) = client.into_halves();
        let mut rest = Vec::new();
        let (origins, clients) = std::thread::scope(|scope| {
            scope.spawn(|| while !more.is_empty() && !stop.load(Ordering::Relaxed) && writer.write_all(more.as_bytes()).is_ok() {});
            let origins = end.recv_timeout(PATIENCE);
            let clients = reader.read_to_end(&mut rest);
            stop.store(true, Ordering::Relaxed);
            (origins, clients)
        });
        assert!(origins.is_ok(), "{what}: the origin's connection goes on");
        let is_over = clients.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true);
        assert!(is_over, "{what}: the client's connection goes on: {clients:?}");
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{what}: {}", String::from_utf8_lossy(&rest));
    }
}

/// Some number of long heads fills what the system holds for a client that does not read, just so that the one of the switch does not fit any more.
#[test]
fn a_switch_whose_head_waits_for_its_client_is_one() {
    let proxy = proxy(&["head_bytes=1MiB"]);
    for before in 0..=5 {
        let (wrote, written) = channel();
        let origin = Origin::http(move |request, stream| {
            if request.header("upgrade").is_none() {
                return stream.write_all(ORIGIN).is_ok();
            }
            let long = "x".repeat(1_000_000);
            let interim = format!("HTTP/1.1 103 Early Hints\r\nX-Long: {long}\r\n\r\n").repeat(before);
            let switch = format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Long: {long}\r\n\r\n");
            let _ = stream.write_all(interim.as_bytes()).and_then(|()| stream.write_all(switch.as_bytes()));
            let _ = wrote.send(());
            let mut echo = stream.try_clone().unwrap();
            let _ = std::io::copy(stream, &mut echo);
            false
        });
        let authority = format!("a.test:{}", origin.port());
        let mut client = Client::connect(proxy.http());
        client.send(format!("GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"));
        // Where less fits, not all is written before the client reads: then an interim response is the one that waits.
        let _ = written.recv_timeout(Duration::from_secs(1));
        // The worker has its turn with what came.
        for _ in 0..10 {
            assert_eq!(get(proxy.http(), &format!("http://{authority}/")).status, 299);
        }
        for _ in 0..before {
            assert_eq!(client.answer().status, 103, "{before} before it");
        }
        assert_eq!(client.answer().status, 101, "{before} before it");
        assert_eq!(client.send("ping").bytes(4), b"ping", "{before} before it");
    }
}
