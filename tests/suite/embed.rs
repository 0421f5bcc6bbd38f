//! The proxy as a library: its builder, its handle, and what a program is asked and told.

use harness::client::get;
use harness::{Client, Names, Origin, compile, policy, wait_until};
use netproxy::child::StateDir;
use netproxy::{
    Answer, BlockedRequest, Decided, Event, EventSink, Handle, LoadError, Mode, NetworkProxy, NetworkProxyBuilder, Observer, Policy,
    PolicyError, PolicyRequest, Snapshot, StartError, Verdict,
};
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Layer, Selection, compile_profiles};
use std::collections::HashMap;
use std::future::{Future, pending, ready};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

const LOCAL: &str = "allow_local_binding = true";

fn names() -> Names {
    Names::new(&[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"]), ("c.test", &["127.0.0.1"])])
}

/// Both kinds that a program may have.
fn runtimes() -> [Runtime; 2] {
    [
        Builder::new_current_thread().enable_all().build().unwrap(),
        Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
    ]
}

fn runtime() -> Runtime {
    let [current_thread, _] = runtimes();
    current_thread
}

/// A policy that allows these hosts of this machine.
fn allowing(hosts: &[&str]) -> Vec<u8> {
    let hosts: Vec<_> = hosts.iter().map(|host| (*host, "allow")).collect();
    compile(&policy(LOCAL, &hosts))
}

fn start(runtime: &Runtime, builder: NetworkProxyBuilder) -> Handle {
    runtime.block_on(async { builder.free_ports().resolver(names()).bind().await.unwrap().run().await.unwrap() })
}

/// What comes of a request: the status, and the reason of a block.
fn ask(handle: &Handle, host: &str, origin: &Origin) -> (u16, String) {
    let answer = get(handle.addrs().http, &format!("http://{host}:{}/", origin.port()));
    let reason = if answer.status == 299 { String::new() } else { answer.blocked_reason() };
    (answer.status, reason)
}

fn allowed() -> (u16, String) {
    (299, String::new())
}

fn blocked(reason: &str) -> (u16, String) {
    (403, reason.to_owned())
}

#[test]
fn a_policy_comes_from_wherever_it_is_on_a_runtime_of_either_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.bin");
    let bytes = allowing(&["a.test"]);
    std::fs::write(&path, &bytes).unwrap();
    let blob = policy_format::Blob::open(bytes.clone()).unwrap();
    let origin = Origin::start();
    let builder = NetworkProxy::builder;
    for (what, again) in [
        ("bytes", Box::new(|| builder().policy(bytes.clone())) as Box<dyn Fn() -> NetworkProxyBuilder>),
        ("borrowed bytes", Box::new(|| builder().policy(&bytes[..]))),
        ("a blob", Box::new(|| builder().policy(&blob))),
        ("a policy", Box::new(|| builder().policy(Policy::from_bytes(bytes.clone()).unwrap()))),
        ("a path", Box::new(|| builder().policy(path.as_path()))),
        ("a path as text", Box::new(|| builder().policy(path.to_str().unwrap()))),
        ("an owned path", Box::new(|| builder().policy(path.clone()))),
    ] {
        for runtime in runtimes() {
            let handle = start(&runtime, again());
            assert_eq!(ask(&handle, "a.test", &origin), allowed(), "{what}");
            assert_eq!(ask(&handle, "b.test", &origin), blocked("not_allowed"), "{what}");
            assert_eq!(handle.policy().digest(), blob.digest(), "{what}");
            runtime.block_on(handle.shutdown());
        }
    }
    let runtime = runtime();
    let built_in = start(&runtime, builder());
    assert_eq!(built_in.policy().digest(), runtime.block_on(async { builder().free_ports().bind().await.unwrap().policy().digest() }));
}

#[test]
fn a_profile_is_chosen_in_bytes_and_kept_over_reloads() {
    let two = "default_permissions = \"open\"\n[permissions.open.network]\nenabled = true\nallow_local_binding = true\ndomains = { \"a.test\" = \"allow\" }\n\
               [permissions.tight.network]\nenabled = true\nallow_local_binding = true\ndomains = { \"b.test\" = \"allow\" }\n";
    let source = SourceFile::from_text(Layer::User, Role::Config, "config.toml", two.to_owned());
    let both = compile_profiles(vec![source], Selection { named: &[], all: true }, false, &mut |_, _| {}).unwrap().blob;
    let (runtime, origin) = (runtime(), Origin::start());
    let handle = start(&runtime, NetworkProxy::builder().policy(both.clone()).profile("tight"));
    assert_eq!((ask(&handle, "a.test", &origin), ask(&handle, "b.test", &origin)), (blocked("not_allowed"), allowed()));
    let refused = runtime.block_on(handle.reload(allowing(&["a.test"]))).unwrap_err();
    assert!(matches!(refused, LoadError::Format { error: PolicyError::Profile { .. }, .. }), "{refused}");
    assert_eq!(handle.health().last_error, Some(refused.to_string()));
    // The same bytes under another profile are another policy.
    let other = runtime.block_on(handle.reload(Policy::from_bytes_as(both, "open").unwrap())).unwrap();
    assert_eq!((other.generation(), other.meta().profile.as_str(), handle.health().last_error), (2, "open", None));
    assert_eq!((ask(&handle, "a.test", &origin), ask(&handle, "b.test", &origin)), (allowed(), blocked("not_allowed")));
}

#[test]
fn listeners_are_where_they_are_wanted() {
    let (runtime, origin) = (runtime(), Origin::start());
    let bind = |builder: NetworkProxyBuilder| runtime.block_on(builder.resolver(names()).bind()).unwrap();
    let listener = || TcpListener::bind("127.0.0.1:0").unwrap();
    let at = |listener: &TcpListener| listener.local_addr().unwrap();
    let free = |listener: TcpListener| at(&listener);
    let builder = || NetworkProxy::builder().policy(allowing(&["a.test"])).free_ports();

    let chosen = [free(listener()), free(listener()), free(listener())];
    let addrs = bind(builder().http_addr(chosen[0]).socks_addr(chosen[1]).admin_addr(chosen[2])).addrs();
    assert_eq!([Some(addrs.http), addrs.socks5, addrs.admin], chosen.map(Some));

    // Sockets that are open already, whatever the policy says; they serve.
    let open = [listener(), listener(), listener()];
    let wanted = [at(&open[0]), at(&open[1]), at(&open[2])];
    let [http, socks, admin] = open;
    let proxy = bind(NetworkProxy::builder().policy(allowing(&["a.test"])).http_listener(http).socks_listener(socks).admin_listener(admin));
    let addrs = proxy.addrs();
    assert_eq!([Some(addrs.http), addrs.socks5, addrs.admin], wanted.map(Some));
    let handle = runtime.block_on(proxy.run()).unwrap();
    assert_eq!(ask(&handle, "a.test", &origin), allowed());
    assert_eq!(Client::connect(addrs.socks5.unwrap()).socks5_name("a.test", origin.port()), Some(0));
    assert_eq!(Client::connect(addrs.admin.unwrap()).send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").answer().status, 200);
    drop(handle);

    // Those of a predecessor only where they are asked for.
    let inherited = [listener(), listener()];
    let [kept, left] = [at(&inherited[0]), at(&inherited[1])];
    let [http, socks5] = inherited.map(Some);
    let proxy =
        bind(builder().http_addr(kept).socks_addr(chosen[1]).inherit(netproxy::Sockets { http, socks5, ..netproxy::Sockets::default() }));
    assert_eq!((proxy.addrs().http, proxy.addrs().socks5), (kept, Some(chosen[1])));
    assert!(TcpStream::connect(left).is_err(), "nobody listens where nobody was asked to");

    // None.
    let quiet = bind(builder().without_admin());
    assert_eq!(quiet.addrs().admin, None);
    let socks = listener();
    let off = at(&socks);
    let proxy = bind(NetworkProxy::builder().policy(compile(&policy("enable_socks5 = false", &[]))).free_ports().socks_listener(socks));
    assert_eq!(proxy.addrs().socks5, None);
    assert!(TcpStream::connect(off).is_err(), "it is off, and the listener is closed");
}

#[test]
fn each_mistake_is_told_and_nothing_listens() {
    let runtime = runtime();
    let refused = |builder: NetworkProxyBuilder| runtime.block_on(builder.bind()).unwrap_err();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    let open: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let everywhere = || TcpListener::bind(open).unwrap();
    let free = || NetworkProxy::builder().policy(allowing(&[])).free_ports();
    let sockets = compile(&policy("dangerously_allow_non_loopback_proxy = true\nunix_sockets = { \"/run/a.sock\" = \"allow\" }", &[]));
    let off = compile("default_permissions = \"p\"\n[permissions.p.network]\nenabled = false\n");
    type Check = fn(&StartError) -> bool;
    let cases: Vec<(&str, NetworkProxyBuilder, Check)> = vec![
        ("http taken", free().http_addr(at), |error| matches!(error, StartError::Bind { listener: "http", .. })),
        ("socks taken", free().socks_addr(at), |error| matches!(error, StartError::Bind { listener: "socks5", .. })),
        ("admin taken", free().admin_addr(at), |error| matches!(error, StartError::Bind { listener: "admin", .. })),
        ("http open", free().http_addr(open), |error| matches!(error, StartError::NotLoopback { listener: "http", .. })),
        ("http socket open", free().http_listener(everywhere()), |error| matches!(error, StartError::NotLoopback { listener: "http", .. })),
        ("socks open", free().socks_addr(open), |error| matches!(error, StartError::NotLoopback { listener: "socks5", .. })),
        ("admin open", free().admin_addr(open), |error| matches!(error, StartError::AdminNotLoopback(_))),
        ("admin socket open", free().admin_listener(everywhere()), |error| matches!(error, StartError::AdminNotLoopback(_))),
        ("sockets", free().policy(sockets).http_addr(open), |error| matches!(error, StartError::UnixSockets { listener: "http", .. })),
        ("off", free().policy(off), |error| matches!(error, StartError::Off(policy_format::Network::Blocked))),
        (
            "no file",
            free().policy(Path::new("/no/such/policy")),
            |error| matches!(error, StartError::Policy(LoadError::Read { path, .. }) if path == Path::new("/no/such/policy")),
        ),
        (
            "no policy",
            free().policy(vec![1, 2, 3]),
            |error| matches!(error, StartError::Policy(LoadError::Format { path, .. }) if path == Path::new("(from memory)")),
        ),
        (
            "no profile",
            free().profile("other"),
            |error| matches!(error, StartError::Policy(LoadError::Format { error: PolicyError::Profile { name, .. }, .. }) if name == "other"),
        ),
        ("no hosts", free().hosts("/no/such/hosts"), |error| matches!(error, StartError::Hosts { .. })),
        ("environment", free().environment([("HTTPS_PROXY".to_owned(), "nonsense://".to_owned())]), |error| {
            matches!(error, StartError::Environment(_))
        }),
    ];
    for (what, builder, is_expected) in cases {
        let error = refused(builder);
        assert!(is_expected(&error), "{what}: {error:?}");
        assert!(!error.to_string().is_empty(), "{what}");
    }
    // Without a runtime.
    let polled = std::pin::pin!(free().bind()).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Err(StartError::Runtime(_)))));
}

#[test]
fn two_proxies_in_one_process_have_nothing_in_common() {
    let (runtime, origin) = (runtime(), Origin::start());
    let start = |host| start(&runtime, NetworkProxy::builder().policy(allowing(&[host])));
    let (one, two) = (start("a.test"), start("b.test"));
    let both = |host| (ask(&one, host, &origin), ask(&two, host, &origin));
    assert_eq!(both("a.test"), (allowed(), blocked("not_allowed")));
    assert_eq!(both("b.test"), (blocked("not_allowed"), allowed()));
    let reload = |handle: &Handle, hosts| runtime.block_on(handle.reload(allowing(hosts))).unwrap().generation();
    assert_eq!((reload(&one, &["b.test"]), reload(&two, &["c.test"]), reload(&two, &["a.test"])), (2, 2, 3));
    assert_eq!(both("a.test"), (blocked("not_allowed"), allowed()));
    assert_eq!(both("b.test"), (allowed(), blocked("not_allowed")));
    // What one counts, the other does not.
    let _ = get(one.addrs().http, "http://c.test/");
    let denied =
        |handle: &Handle| metric(&handle.metrics(), "netproxy_decisions_total{protocol=\"http\",decision=\"deny\",reason=\"not_allowed\"}");
    assert_eq!((denied(&one), denied(&two)), (3, 2));
    assert_eq!((blocks(&runtime, &one).len(), blocks(&runtime, &two).len()), (3, 2));
    runtime.block_on(one.shutdown());
    assert!(TcpStream::connect(one.addrs().http).is_err());
    assert_eq!((one.health().serving, two.health().serving), (false, true));
    assert_eq!(ask(&two, "a.test", &origin), allowed());
    assert_eq!(reload(&two, &[]), 4);
    assert_eq!(ask(&two, "a.test", &origin), blocked("not_allowed"));
}

/// What was refused so far, as the ring has it.
fn blocks(runtime: &Runtime, handle: &Handle) -> Vec<BlockedRequest> {
    runtime.block_on(handle.feed().settled());
    handle.feed().blocked(0, usize::MAX).events.iter().map(|event| BlockedRequest::of(event).unwrap()).collect()
}

fn metric(metrics: &str, sample: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(sample));
    line.unwrap_or_else(|| panic!("no sample {sample} in\n{metrics}")).trim().parse().unwrap()
}

/// A runtime whose threads tell that it is the program's.
fn programs() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).thread_name("program").enable_all().build().unwrap()
}

#[test]
fn who_is_asked_is_told_all_there_is_and_its_word_counts() {
    let (runtime, origin) = (programs(), Origin::start());
    let (asked, questions) = mpsc::channel();
    let decider = move |request: PolicyRequest| {
        let asked = asked.clone();
        async move {
            assert_eq!(std::thread::current().name(), Some("program"), "on the runtime of the program");
            asked.send(request.clone()).unwrap();
            match request.host.as_str() {
                "a.test" => Answer::Allow,
                "b.test" => Answer::Deny("not_today".to_owned()),
                "panics.test" => panic!("on purpose"),
                _ => Answer::Ask(String::new()),
            }
        }
    };
    let denied = compile(&policy(LOCAL, &[("denied.test", "deny")]));
    let builder = NetworkProxy::builder().policy(denied).policy_decider(decider);
    let handle = start(&runtime, builder.command("cargo build").exec_policy_hint("prompt"));
    for (host, expected) in [
        ("a.test", allowed()),
        ("b.test", blocked("not_today")),
        ("c.test", blocked("policy_denied")),
        ("panics.test", blocked("decider_failed")),
    ] {
        assert_eq!(ask(&handle, host, &origin), expected, "{host}");
        let request = questions.recv().unwrap();
        assert_eq!((request.host.as_str(), request.port, request.method.as_deref()), (host, origin.port(), Some("GET")));
        assert_eq!((request.protocol, request.client.ip().is_loopback()), (netproxy::Protocol::Http, true));
        assert_eq!((request.command.as_deref(), request.exec_policy_hint.as_deref()), (Some("cargo build"), Some("prompt")));
    }
    // An answer is for one request.
    assert_eq!(ask(&handle, "a.test", &origin), allowed());
    assert_eq!(questions.recv().unwrap().host, "a.test");
    // Nobody is asked about what a rule denies, nor about what looks like a number.
    assert_eq!(ask(&handle, "denied.test", &origin), blocked("denied"));
    assert_eq!(ask(&handle, "0x7f.1", &origin).0, 403);
    assert!(questions.try_recv().is_err());
    // Tunnels and SOCKS5 too.
    assert_eq!(Client::connect(handle.addrs().http).tunnel(&format!("a.test:{}", origin.port())).status, 200);
    assert_eq!(questions.recv().unwrap().protocol, netproxy::Protocol::Connect);
    assert_eq!(Client::connect(handle.addrs().socks5.unwrap()).socks5_name("a.test", origin.port()), Some(0));
    assert_eq!(questions.recv().unwrap().protocol, netproxy::Protocol::Socks5Tcp);
    let asks: Vec<_> = blocks(&runtime, &handle).into_iter().filter(|blocked| blocked.verdict == Verdict::Ask).collect();
    let found: Vec<_> = asks.iter().map(|blocked| (blocked.host.as_str(), blocked.reason.as_str(), blocked.source)).collect();
    assert_eq!(found, [("c.test", "policy_denied", "decider")]);
}

#[test]
fn silence_denies() {
    let (runtime, origin) = (programs(), Origin::start());
    let builder = NetworkProxy::builder().policy(allowing(&[])).policy_decider(|_| pending());
    let handle = start(&runtime, builder.decider_timeout(Duration::from_millis(1)));
    assert_eq!(ask(&handle, "a.test", &origin), blocked("decider_timeout"));
    // As does a program that has ended.
    let handle = start(&self::runtime(), NetworkProxy::builder().policy(allowing(&[])).policy_decider(|_| pending()));
    assert_eq!(ask(&handle, "a.test", &origin), blocked("decider_failed"));
}

#[test]
fn it_is_asked_where_the_proxy_runs_wherever_it_was_bound() {
    let (runtime, origin) = (programs(), Origin::start());
    let decider = |_| async {
        assert_eq!(std::thread::current().name(), Some("program"), "on the runtime of `run`");
        Answer::Allow
    };
    let builder = NetworkProxy::builder().policy(compile(&policy(LOCAL, &[]))).free_ports().resolver(names()).policy_decider(decider);
    let first = self::runtime();
    let proxy = first.block_on(builder.bind()).unwrap();
    let handle = runtime.block_on(proxy.run()).unwrap();
    // Nobody drives it any more, and then it is gone.
    assert_eq!(ask(&handle, "a.test", &origin), allowed());
    drop(first);
    assert_eq!(ask(&handle, "b.test", &origin), allowed());
}

#[test]
fn what_is_allowed_by_word_is_no_way_to_private_addresses() {
    let (runtime, origin) = (programs(), Origin::start());
    let closed = compile(&policy("", &[]));
    let handle = start(&runtime, NetworkProxy::builder().policy(closed).policy_decider(|_| ready(Answer::Allow)));
    assert_eq!(ask(&handle, "a.test", &origin), blocked("not_allowed_local"));
    assert_eq!(origin.connections(), 0);
}

/// Counts what it is told in place.
#[derive(Clone, Default)]
struct InPlace(Arc<AtomicUsize>);

impl Observer for InPlace {
    fn decided(&self, _event: &Decided<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Does not come back while somebody else has the lock.
#[derive(Clone, Default)]
struct Hanging(Arc<Mutex<()>>);

impl Observer for Hanging {
    fn decided(&self, _event: &Decided<'_>) {
        drop(self.0.lock().unwrap());
    }
}

impl EventSink for Hanging {
    fn name(&self) -> &'static str {
        "hanging"
    }

    fn write(&mut self, _events: &[Event]) -> std::io::Result<()> {
        drop(self.0.lock().unwrap());
        Ok(())
    }
}

/// Whether all threads answer, of which one that hangs needs longer than this.
fn responds(runtime: &Runtime, handle: &Handle, within: Duration) -> bool {
    runtime.block_on(async { tokio::time::timeout(within, handle.responds()).await.is_ok() })
}

/// Asks for something, and does not wait for an answer.
fn ask_away(handle: &Handle) -> TcpStream {
    let mut client = TcpStream::connect(handle.addrs().http).unwrap();
    client.write_all(b"GET http://nowhere.test/ HTTP/1.1\r\nHost: nowhere.test\r\n\r\n").unwrap();
    client
}

#[test]
fn a_proxy_responds_while_none_of_its_threads_hangs() {
    let runtime = runtime();
    let hanging = Hanging::default();
    let workers = std::num::NonZero::new(2).unwrap();
    let handle = start(&runtime, NetworkProxy::builder().observer(hanging.clone()).workers(workers));
    assert!(responds(&runtime, &handle, harness::PATIENCE), "idle ones");
    let held = hanging.0.lock().unwrap();
    let client = ask_away(&handle);
    // The other thread and all else goes on.
    wait_until("one hangs", || !responds(&runtime, &handle, Duration::from_millis(250)));
    assert_eq!(handle.health().generation, 1);
    drop(held);
    assert!(responds(&runtime, &handle, harness::PATIENCE), "it has gone on");
    drop(client);
    runtime.block_on(handle.shutdown());
    assert!(responds(&runtime, &handle, harness::PATIENCE), "it has ended");
}

#[test]
fn a_proxy_that_is_held_up_by_its_audit_responds() {
    let runtime = runtime();
    let hanging = Hanging::default();
    let blocking = compile(&policy("audit = { queue = 16, on_full = \"block\" }", &[]));
    let builder = NetworkProxy::builder().policy(blocking).event_sink(hanging.clone()).workers(std::num::NonZero::<usize>::MIN);
    let handle = start(&runtime, builder);
    let held = hanging.0.lock().unwrap();
    // One after the other, until one is not answered: there is no room for its event.
    wait_until("requests wait", || {
        let mut client = ask_away(&handle);
        client.set_read_timeout(Some(Duration::from_millis(250))).unwrap();
        client.read(&mut [0]).is_err()
    });
    assert!(responds(&runtime, &handle, harness::PATIENCE));
    drop(held);
    runtime.block_on(handle.shutdown());
}

/// Keeps what it is given.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Event>>>);

impl EventSink for Kept {
    fn name(&self) -> &'static str {
        "kept"
    }

    fn write(&mut self, events: &[Event]) -> std::io::Result<()> {
        self.0.lock().unwrap().extend_from_slice(events);
        Ok(())
    }
}

#[test]
fn observers_and_sinks_hear_of_everything_once() {
    let (runtime, origin) = (programs(), Origin::start());
    let (in_place, kept) = (InPlace::default(), Kept::default());
    let (told, blocks) = mpsc::channel::<BlockedRequest>();
    let builder = NetworkProxy::builder()
        .policy(compile(&policy(LOCAL, &[("a.test", "allow"), ("b.test", "deny")])))
        .observer(in_place.clone())
        // Events of several threads have no order among them.
        .workers(std::num::NonZero::<usize>::MIN)
        .event_sink(kept.clone())
        .blocked_request_observer(move |blocked| {
            let told = told.clone();
            async move {
                assert_eq!(std::thread::current().name(), Some("program"), "on the runtime of the program");
                let panics = blocked.host == "c.test";
                told.send(blocked).unwrap();
                assert!(!panics, "on purpose: those that follow are told of all the same");
            }
        });
    let handle = start(&runtime, builder);
    for host in ["a.test", "c.test", "b.test", "a.test"] {
        let _ = ask(&handle, host, &origin);
    }
    assert_eq!(in_place.0.load(Ordering::SeqCst), 4, "before the client was answered");
    let [first, second] = [blocks.recv().unwrap(), blocks.recv().unwrap()];
    assert_eq!((first.host.as_str(), first.reason.as_str(), first.rule, first.missed), ("c.test", "not_allowed", None, 0));
    assert_eq!((second.host.as_str(), second.reason.as_str(), second.verdict), ("b.test", "denied", Verdict::Deny));
    assert_eq!((second.rule.as_deref(), second.port, second.method.as_deref()), (Some("b.test"), origin.port(), Some("GET")));
    assert!(second.place.as_deref().unwrap().contains("config.toml:"), "{:?}", second.place);
    assert!(second.time.elapsed().unwrap() < harness::PATIENCE);
    // The same, asked for.
    let ring: Vec<_> = self::blocks(&runtime, &handle).into_iter().map(|blocked| (blocked.id, blocked.host)).collect();
    assert_eq!(ring, [(first.id, first.host), (second.id, second.host)]);
    runtime.block_on(handle.reload(allowing(&["a.test"]))).unwrap();
    runtime.block_on(handle.shutdown());
    assert!(blocks.recv().is_err(), "no more, and the closure is gone");
    let events = kept.0.lock().unwrap();
    let names: Vec<&str> = events.iter().map(|event| event.kind.name().rsplit_once('.').unwrap().1).collect();
    assert_eq!((names.first(), names.last()), (Some(&"start"), Some(&"stop")));
    let count = |name| names.iter().filter(|found| **found == name).count();
    assert_eq!((count("policy_decision"), count("closed"), count("policy")), (4, 2, 1), "{names:?}");
    let line: serde_json::Value =
        serde_json::from_str(&events.iter().find(|event| event.json().contains("b.test")).unwrap().json()).unwrap();
    assert_eq!((&line["network.policy.decision"], &line["server.address"]), (&"deny".into(), &"b.test".into()));
}

#[test]
fn a_policy_is_replaced_and_what_is_refused_leaves_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.bin");
    let put = |bytes: &[u8]| {
        std::fs::write(folder.path().join("new"), bytes).unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
    };
    let (runtime, origin) = (runtime(), Origin::start());
    put(&allowing(&["a.test"]));
    let handle = start(&runtime, NetworkProxy::builder().policy(path.as_path()));
    let mut changes = handle.policy_changes();
    let generation = |reloaded: Result<Arc<Snapshot>, LoadError>| reloaded.unwrap().generation();
    // Nothing new is no new generation.
    assert_eq!(generation(runtime.block_on(handle.reload_file())), 1);
    assert_eq!(generation(runtime.block_on(handle.reload(allowing(&["a.test"])))), 1);
    assert!(!changes.has_changed().unwrap());
    put(&allowing(&["b.test"]));
    assert_eq!(generation(runtime.block_on(handle.reload_file())), 2);
    assert_eq!(*changes.borrow_and_update(), 2);
    assert_eq!(ask(&handle, "b.test", &origin), allowed());
    // Watched, too.
    put(&allowing(&["c.test"]));
    runtime.block_on(async { tokio::time::timeout(harness::PATIENCE, changes.changed()).await.unwrap().unwrap() });
    assert_eq!(ask(&handle, "c.test", &origin), allowed());
    put(b"no policy");
    let refused = runtime.block_on(handle.reload_file()).unwrap_err();
    assert!(matches!(&refused, LoadError::Format { path: of, .. } if *of == path), "{refused}");
    assert_eq!((handle.health().last_error, handle.health().generation), (Some(refused.to_string()), 3));
    assert_eq!(ask(&handle, "c.test", &origin), allowed());
    // Off is closed, and listens on.
    let off = compile("default_permissions = \"p\"\n[permissions.p.network]\nenabled = false\n");
    assert_eq!(generation(runtime.block_on(handle.reload(off))), 4);
    assert!(!handle.health().open);
    assert_eq!(ask(&handle, "c.test", &origin).0, 403);
    // Where there is no file.
    let without = start(&runtime, NetworkProxy::builder().policy(allowing(&[])));
    assert!(matches!(runtime.block_on(without.reload_file()), Err(LoadError::NotWatched)));
}

#[test]
fn the_mode_is_tightened_and_given_back() {
    let (runtime, origin) = (runtime(), Origin::start());
    let handle = start(&runtime, NetworkProxy::builder().policy(allowing(&["a.test"])));
    let post = || {
        let authority = format!("a.test:{}", origin.port());
        let request = format!("POST http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 0\r\n\r\n");
        Client::connect(handle.addrs().http).send(request).answer().status
    };
    assert_eq!((post(), handle.health().mode), (299, Mode::Full));
    assert_eq!(handle.set_mode(Some(Mode::Limited)).unwrap(), 2);
    assert_eq!((post(), handle.health().mode), (403, Mode::Limited));
    assert_eq!(handle.set_mode(None).unwrap(), 3);
    assert_eq!((post(), handle.health().mode), (299, Mode::Full));
    let limited = compile(&policy(&format!("{LOCAL}\nmode = \"limited\""), &[("a.test", "allow")]));
    runtime.block_on(handle.reload(limited)).unwrap();
    assert_eq!(post(), 403);
    handle.set_mode(Some(Mode::Full)).expect("no administrator requires limited mode");
    assert_eq!(post(), 299);
}

#[test]
fn a_shutdown_waits_for_tunnels_and_a_second_one_or_a_drop_does_not() {
    let (runtime, origin) = (programs(), Origin::echo());
    let builder = || NetworkProxy::builder().policy(allowing(&["a.test"])).without_admin();
    let open = |handle: &Handle| {
        let mut client = Client::connect(handle.addrs().http);
        assert_eq!(client.tunnel(&format!("a.test:{}", origin.port())).status, 200);
        assert_eq!(client.send("ping").bytes(4), b"ping");
        client
    };
    let closed = |handle: &Handle| wait_until("the listener is closed", || TcpStream::connect(handle.addrs().http).is_err());

    let handle = Arc::new(start(&runtime, builder().drain(Duration::from_secs(3600))));
    let mut client = open(&handle);
    let waiting = runtime.spawn({
        let handle = Arc::clone(&handle);
        async move { handle.shutdown().await }
    });
    runtime.block_on(handle.draining());
    closed(&handle);
    assert_eq!(client.send("pong").bytes(4), b"pong", "what is open goes on");
    assert!(!waiting.is_finished());
    drop(client);
    runtime.block_on(waiting).unwrap();
    runtime.block_on(handle.wait());

    let handle = Arc::new(start(&runtime, builder().drain(Duration::from_secs(3600))));
    let mut client = open(&handle);
    handle.drain();
    closed(&handle);
    runtime.block_on(handle.shutdown());
    assert_eq!(client.rest(), Vec::<u8>::new(), "it was broken off");

    let handle = start(&runtime, builder());
    let mut client = open(&handle);
    let http = handle.addrs().http;
    drop(handle);
    assert_eq!(client.rest(), Vec::<u8>::new());
    wait_until("the listener is closed", || TcpStream::connect(http).is_err());

    // And one that waits no longer than it was told to.
    let handle = start(&runtime, builder().drain(Duration::from_millis(1)));
    let mut client = open(&handle);
    runtime.block_on(handle.shutdown());
    assert_eq!(client.rest(), Vec::<u8>::new());
}

#[test]
fn children_go_through_it_with_what_they_are_told() {
    let (runtime, origin) = (runtime(), Origin::start());
    let folder = tempfile::tempdir().unwrap();
    let limited = compile(&policy(&format!("{LOCAL}\nmode = \"limited\""), &[("localhost", "allow")]));
    let handle = start(&runtime, NetworkProxy::builder().policy(limited));
    let curl = |variables: &std::collections::BTreeMap<&'static str, String>, url: &str| {
        let mut command = Command::new("curl");
        harness::binaries::without_proxies(&mut command).envs(variables).env_remove("NO_PROXY").env_remove("no_proxy");
        let output = command.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", url]).output().expect("curl is installed");
        String::from_utf8(output.stdout).unwrap()
    };
    let env = handle.child_env();
    assert_eq!((env.http, env.files.is_none()), (handle.addrs().http, true));
    let variables = env.variables(&HashMap::new());
    assert_eq!(curl(&variables, &format!("http://localhost:{}/", origin.port())), "299");
    assert_eq!(curl(&variables, "http://other.test/"), "403");
    // Where TLS is opened, with the files to trust.
    let state = StateDir::open(&folder.path().join("state")).unwrap();
    let published = handle.publish(&state, None, false).unwrap();
    let bundle = published.env().variables(&HashMap::new())["CURL_CA_BUNDLE"].clone();
    let authority = handle.policy().authority_pem().unwrap().to_owned();
    let base64 = |pem: &str| pem.lines().filter(|line| !line.starts_with('-')).collect::<String>();
    assert!(base64(&std::fs::read_to_string(&bundle).unwrap()).contains(&base64(&authority)));
}
