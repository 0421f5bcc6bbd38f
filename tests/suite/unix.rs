//! Unix sockets: which may be reached, and that no link leads elsewhere.

use harness::upstream::without_via;
use harness::{Answer, Client, Names, Proxy, policy, wait_until};
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

/// A policy that says of paths what they are.
fn said(paths: &[(&Path, &str)]) -> String {
    let sockets: Vec<String> = paths.iter().map(|(path, access)| format!("\"{}\" = \"{access}\"", path.display())).collect();
    policy(&format!("unix_sockets = {{ {} }}", sockets.join(", ")), &[])
}

#[test]
fn a_denied_socket_is_closed_to_every_path_that_leads_to_it() {
    let place = Place::new();
    let (run, engine, other) = (place.path("run"), place.path("run/engine.sock"), place.path("run/other.sock"));
    std::fs::create_dir(&run).unwrap();
    let (heads, _other) = (origin(&engine, "engine"), origin(&other, "other"));
    let (link, folder, own) = (place.path("link.sock"), place.path("folder"), place.path("own.sock"));
    symlink(&engine, &link).unwrap();
    symlink(&run, &folder).unwrap();
    symlink(&engine, &own).unwrap();
    let through = folder.join("engine.sock");
    let (gone, hard) = (place.path("gone.sock"), place.path("hard.sock"));
    std::fs::hard_link(&engine, &hard).unwrap();
    let paths = [&engine, &link, &through, &hard, &own, &other];
    // What is denied beside what is allowed, and the verdicts for the paths above.
    type Case<'a> = (&'a Path, &'a [&'a Path], [&'a str; 6]);
    let cases: [Case<'_>; 5] = [
        // The socket itself, whatever is a link to it.
        (&engine, &[&link, &through, &hard, &other], ["denied", "denied", "denied", "denied", "not_allowed", "other"]),
        // By a link to it, by a link to its folder, and by another name of it.
        (&link, &[&engine, &through, &other], ["denied", "denied", "denied", "not_allowed", "not_allowed", "other"]),
        (&through, &[&engine, &link, &other], ["denied", "denied", "denied", "not_allowed", "not_allowed", "other"]),
        (&hard, &[&engine, &link, &other], ["denied", "denied", "not_allowed", "denied", "not_allowed", "other"]),
        // A folder is no socket, and what is not there says nothing of others.
        (&run, &[&engine, &link, &other], ["engine", "engine", "engine", "not_allowed", "engine", "other"]),
    ];
    let proxy = Proxy::start(&said(&[(&gone, "deny")]), &Names::new(&[]));
    for (denied, allowed, expected) in cases {
        let entries: Vec<(&Path, &str)> = allowed.iter().map(|path| (*path, "allow")).chain([(denied, "deny"), (&gone, "deny")]).collect();
        proxy.swap(&said(&entries));
        let verdicts = paths.map(|path| verdict(&proxy, path));
        assert_eq!(verdicts, expected, "{} is denied", denied.display());
        // Whether something is there or not.
        assert_eq!(verdict(&proxy, &gone), "denied");
    }
    let asked = heads.try_iter().count();
    assert_eq!(asked, 4, "only where it was not denied");
    proxy.swap(&said(&[(&engine, "deny"), (&link, "allow")]));
    let answer = ask(&proxy, "GET", link.to_str().unwrap());
    assert_eq!(answer.header("x-proxy-error"), Some("blocked-by-denylist"));
    let text = answer.text();
    assert!(text.contains("the policy denies its real path") && !text.contains("to allow it") && !text.contains("engine.sock"), "{text}");
}

/// Links that lead elsewhere by now than when the policy was loaded, to a denied socket or from a denied path.
#[test]
fn what_is_denied_is_looked_up_with_each_request() {
    let place = Place::new();
    let (first, second, denied) = (place.path("first.sock"), place.path("second.sock"), place.path("denied.sock"));
    let (_first, _second) = (origin(&first, "first"), origin(&second, "second"));
    symlink(&first, &denied).unwrap();
    let proxy = Proxy::start(&said(&[(&first, "allow"), (&second, "allow"), (&denied, "deny")]), &Names::new(&[]));
    assert_eq!([&first, &second].map(|path| verdict(&proxy, path)), ["denied", "second"]);
    std::fs::remove_file(&denied).unwrap();
    symlink(&second, &denied).unwrap();
    // Where it led when the policy was loaded stays closed too.
    assert_eq!([&first, &second, &denied].map(|path| verdict(&proxy, path)), ["denied", "denied", "denied"]);
}

#[test]
fn a_policy_that_denies_the_socket_ends_what_was_opened() {
    let place = Place::new();
    let (socket, link) = (place.path("engine.sock"), place.path("link.sock"));
    let _heads = origin(&socket, "engine");
    symlink(&socket, &link).unwrap();
    let proxy = Proxy::start(&said(&[(&link, "allow")]), &Names::new(&[]));
    let mut client = Client::connect(proxy.http());
    let path = link.display();
    client.send(format!("POST /attach HTTP/1.1\r\nHost: d\r\nX-Unix-Socket: {path}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"));
    assert_eq!(client.answer().status, 101);
    assert_eq!(client.send("ping").bytes(4), b"ping");
    proxy.swap(&said(&[(&link, "allow"), (&socket, "deny")]));
    assert_eq!(client.rest(), Vec::<u8>::new());
    assert_eq!(verdict(&proxy, &link), "denied");
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

#[test]
fn nothing_is_said_to_a_socket_that_a_new_policy_denies_while_it_is_connected_to() {
    let place = Place::new();
    let socket = place.path("busy.sock");
    // Whose queue has room for one.
    let listener = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &rustix::net::SocketAddrUnix::new(&socket).unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let listener = UnixListener::from(listener);
    let first = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    let proxy = Proxy::start(&allow("", &[&socket]), &Names::new(&[]));
    let mut client = Client::connect(proxy.http());
    let path = socket.display();
    client.send(format!("POST /secret HTTP/1.1\r\nHost: d\r\nX-Unix-Socket: {path}\r\nContent-Length: 5\r\n\r\nhello"));
    wait_until("it is allowed, and waits", || proxy.decisions().len() == 1);
    proxy.swap(&said(&[(&place.path("other.sock"), "allow"), (&socket, "deny")]));
    let answer = client.answer();
    assert_eq!((answer.status, answer.blocked_reason().as_str()), (403, "denied"));
    assert_eq!(proxy.revoked().len(), 1);
    drop(first);
    let mut all = Vec::new();
    std::io::Read::read_to_end(&mut listener.accept().unwrap().0, &mut all).unwrap();
    assert_eq!(all, b"", "of the one that was there before");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "there is no other");
}
