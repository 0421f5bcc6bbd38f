//! Unix sockets: which may be reached, and that no link leads elsewhere.

use harness::upstream::without_via;
use harness::{Answer, Client, Names, Proxy, policy};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};

/// An origin behind a socket that answers every request with `text`, and tells the heads that it read.
fn origin(path: &Path, text: &'static str) -> Receiver<String> {
    let listener = UnixListener::bind(path).unwrap();
    let (send, heads) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut stream = stream;
            let mut head = String::new();
            while let Ok(1..) = reader.read_line(&mut head) {
                if !head.ends_with("\r\n\r\n") {
                    continue;
                }
                let upgrade = head.contains("Upgrade: tcp");
                send.send(std::mem::take(&mut head)).unwrap();
                if upgrade {
                    stream.write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n").unwrap();
                    let _ = std::io::copy(&mut reader, &mut stream);
                    break;
                }
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                if stream.write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    heads
}

fn allow(settings: &str, paths: &[&Path]) -> String {
    let sockets: Vec<String> = paths.iter().map(|path| format!("\"{}\" = \"allow\"", path.display())).collect();
    policy(&format!("unix_sockets = {{ {} }}\n{settings}", sockets.join(", ")), &[])
}

fn ask(proxy: &Proxy, method: &str, path: &str) -> Answer {
    let request =
        format!("{method} http://api.local/v1?x=1 HTTP/1.1\r\nHost: api.local\r\nX-Unix-Socket: {path}\r\nConnection: close\r\n\r\n");
    Client::connect(proxy.http()).send(request).answer_to(method)
}

fn verdict(proxy: &Proxy, path: &Path) -> String {
    let answer = ask(proxy, "GET", path.to_str().unwrap());
    match answer.status {
        200 => answer.text(),
        403 => answer.blocked_reason(),
        status => format!("{status} {}", answer.header("x-proxy-error").unwrap_or_default()),
    }
}

struct Place {
    _dir: tempfile::TempDir,
    root: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        Self { _dir: dir, root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

#[test]
fn a_request_goes_to_an_allowed_socket_in_origin_form() {
    let place = Place::new();
    let socket = place.path("api.sock");
    let heads = origin(&socket, "api");
    let names = Names::new(&[]);
    let proxy = Proxy::start(&allow("", &[&socket]), &names);
    let mut client = Client::connect(proxy.http());
    let path = socket.to_str().unwrap();
    let request =
        format!("GET http://api.local:8080/v1?x=1 HTTP/1.1\r\nHost: api.local:8080\r\nx-unix-socket: {path}\r\nX-Mine: 1\r\n\r\n");
    for _ in 0..2 {
        assert_eq!(client.send(&request).answer().text(), "api");
        assert_eq!(without_via(&heads.recv().unwrap()), "GET /v1?x=1 HTTP/1.1\r\nHost: api.local:8080\r\nX-Mine: 1\r\n\r\n");
    }
    // What a container engine's attach does.
    client.send(format!("POST /attach HTTP/1.1\r\nHost: d\r\nX-Unix-Socket: {path}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"));
    assert_eq!(client.answer().status, 101);
    assert_eq!(client.send("ping").bytes(4), b"ping");
    assert_eq!(names.asked(), Vec::<String>::new());
    let seen: Vec<_> = proxy.decisions().into_iter().map(|seen| (seen.host, seen.port, seen.verdict, seen.rule)).collect();
    assert_eq!(seen, vec![("unix-socket".to_owned(), 0, "allow".to_owned(), None); 3]);
    // A policy without it ends what was opened under one with it.
    proxy.swap(&policy("", &[]));
    assert_eq!(client.rest(), Vec::<u8>::new());
    assert_eq!(verdict(&proxy, &socket), "not_allowed");
}

#[test]
fn what_is_not_allowed_is_denied_without_telling_whether_it_is_there() {
    let place = Place::new();
    let (socket, other) = (place.path("api.sock"), place.path("other.sock"));
    let (_api, _other) = (origin(&socket, "api"), origin(&other, "other"));
    let (missing, file) = (place.path("missing.sock"), place.path("file"));
    std::fs::write(&file, "").unwrap();
    let stale = place.path("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let proxy = Proxy::start(&allow("", &[&socket, &missing, &file, &stale]), &Names::new(&[]));
    for (path, expected) in [
        (&socket, "api"),
        (&other, "not_allowed"),
        (&place.path("nothing.sock"), "not_allowed"),
        (&place.root, "not_allowed"),
        (&missing, "502 upstream-socket-missing"),
        (&file, "502 upstream-not-a-socket"),
        (&stale, "502 upstream-refused"),
    ] {
        assert_eq!(verdict(&proxy, path), expected, "{}", path.display());
    }
    let answer = ask(&proxy, "GET", other.to_str().unwrap());
    let (json, text) = (answer.json(), answer.text());
    assert_eq!((json["host"].as_str(), json["port"].as_u64()), (Some("unix-socket"), Some(0)));
    assert_eq!(answer.header("x-proxy-error"), Some("blocked-by-allowlist"));
    assert!(!text.contains("other.sock") && text.contains("network.unix_sockets]"), "{text}");
    let text = ask(&proxy, "GET", missing.to_str().unwrap()).text();
    assert_eq!(text, "the unix socket is allowed, but is not there\n");

    proxy.swap(&allow("mode = \"limited\"", &[&socket]));
    let path = socket.to_str().unwrap();
    assert_eq!((ask(&proxy, "GET", path).status, ask(&proxy, "POST", path).blocked_reason().as_str()), (200, "method_not_allowed"));
    proxy.swap(&policy("dangerously_allow_all_unix_sockets = true", &[]));
    assert_eq!((verdict(&proxy, &other), verdict(&proxy, &file)), ("other".into(), "502 upstream-not-a-socket".into()));
}

#[test]
fn paths_have_one_meaning() {
    let proxy = Proxy::start(&policy("dangerously_allow_all_unix_sockets = true", &[]), &Names::new(&[]));
    let long = format!("/{}", "a".repeat(4095));
    for path in ["relative.sock", "", "/", "/run/", "/run/../etc/x", "/run/..", "@abstract", "/a\tb", "/\u{80}", &long] {
        assert_eq!(ask(&proxy, "GET", path).status, 400, "{path:?}");
    }
    let twice = "GET / HTTP/1.1\r\nHost: a\r\nX-Unix-Socket: /run/a\r\nx-unix-socket: /run/a\r\n\r\n";
    assert_eq!(Client::connect(proxy.http()).send(twice).answer().status, 400);
    let tunnel = "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nX-Unix-Socket: /run/a\r\n\r\n";
    assert_eq!(Client::connect(proxy.http()).send(tunnel).answer().status, 400);
}

#[test]
fn links_lead_where_they_led_when_the_policy_was_loaded() {
    let place = Place::new();
    let (real, secret) = (place.path("real"), place.path("secret"));
    for folder in [&real, &secret] {
        std::fs::create_dir(folder).unwrap();
    }
    let (_api, _secret) = (origin(&real.join("api.sock"), "api"), origin(&secret.join("api.sock"), "secret"));
    let (folder, socket) = (place.path("folder"), place.path("link.sock"));
    symlink(&real, &folder).unwrap();
    symlink(real.join("api.sock"), &socket).unwrap();
    let plain = place.path("plain.sock");
    let _plain = origin(&plain, "plain");
    let toml = allow("", &[&folder.join("api.sock"), &socket, &plain, &place.path("later.sock")]);
    let proxy = Proxy::start(&toml, &Names::new(&[]));
    // By whatever way, it is the same socket.
    for path in [&folder.join("api.sock"), &socket, &real.join("api.sock"), &place.path("./folder//api.sock")] {
        assert_eq!(verdict(&proxy, path), "api", "{}", path.display());
    }
    assert_eq!(verdict(&proxy, &secret.join("api.sock")), "not_allowed");
    // A link of somebody's own, a folder and a socket that were swapped for links, and a link where nothing was.
    let own = place.path("own.sock");
    symlink(secret.join("api.sock"), &own).unwrap();
    std::fs::remove_file(&folder).unwrap();
    symlink(&secret, &folder).unwrap();
    std::fs::remove_file(&socket).unwrap();
    symlink(secret.join("api.sock"), &socket).unwrap();
    std::fs::remove_file(&plain).unwrap();
    symlink(secret.join("api.sock"), &plain).unwrap();
    symlink(secret.join("api.sock"), place.path("later.sock")).unwrap();
    for path in [&own, &folder.join("api.sock"), &socket, &plain, &place.path("later.sock")] {
        assert_eq!(verdict(&proxy, path), "not_allowed", "{}", path.display());
    }
    // A socket that comes later, or again, is reached.
    for name in ["later.sock", "plain.sock"] {
        std::fs::remove_file(place.path(name)).unwrap();
        let _heads = origin(&place.path(name), "new");
        assert_eq!(verdict(&proxy, &place.path(name)), "new");
    }
}

/// While a link goes back and forth between an allowed socket and another, no request gets to the other.
#[test]
fn no_swap_of_links_wins_a_race() {
    let place = Place::new();
    let (good, bad) = (place.path("good.sock"), place.path("bad.sock"));
    let (_good, heads) = (origin(&good, "good"), origin(&bad, "bad"));
    let proxy = Proxy::start(&allow("", &[&good]), &Names::new(&[]));
    let link = place.path("link.sock");
    symlink(&good, &link).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let verdicts: Vec<String> = std::thread::scope(|scope| {
        scope.spawn(|| {
            let next = place.path("next");
            for target in [&bad, &good].into_iter().cycle() {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                symlink(target, &next).unwrap();
                std::fs::rename(&next, &link).unwrap();
            }
        });
        let verdicts = (0..200).map(|_| verdict(&proxy, &link)).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        verdicts
    });
    assert!(verdicts.iter().all(|verdict| verdict == "good" || verdict == "not_allowed"), "{verdicts:?}");
    assert!(heads.try_recv().is_err(), "the other socket was never asked");
}

#[test]
fn a_policy_that_comes_before_the_answer_has_it_refused() {
    let place = Place::new();
    let socket = place.path("silent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let proxy = Proxy::start(&allow("", &[&socket]), &Names::new(&[]));
    let mut client = Client::connect(proxy.http());
    client.send(format!("GET http://api.local/ HTTP/1.1\r\nHost: api.local\r\nX-Unix-Socket: {}\r\n\r\n", socket.display()));
    let mut asked = BufReader::new(listener.accept().unwrap().0);
    asked.read_line(&mut String::new()).unwrap();
    proxy.swap(&allow("", &[&place.path("other.sock")]));
    let answer = client.answer();
    assert_eq!((answer.status, answer.blocked_reason().as_str()), (403, "not_allowed"));
    assert_eq!((proxy.revoked().len(), proxy.decisions().len()), (1, 1));
}
