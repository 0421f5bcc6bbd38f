//! What is decided inside TLS, and which tunnels may go on only if they are opened.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_format::{
    Access, Blob, BlobBuilder, Credential, CredentialAuth, Decision, Hook, HookBody, Host, Inside, Intercepted, JsonValue, Layer, Meta,
    Mitm, MitmMode, Mode, Pattern, ProfileId, Profiles, Protocol, Reason, Request, RuleInput, Settings, Source, UrlPrefix, decide,
};
use proptest::prelude::*;

fn source() -> Source {
    Source { layer: Layer::User, label: "config.toml".into() }
}

fn hook(name: &str, host: &str, methods: &[&str], paths: &[&str]) -> Hook {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Hook {
        name: name.to_owned(),
        host: host.to_owned(),
        methods: texts(methods),
        path_prefixes: texts(paths),
        query: vec![],
        headers: vec![],
        strip_request_headers: vec![],
        inject_request_headers: vec![],
        strip_response_headers: vec![],
        source: source(),
        line: 1,
        profiles: Profiles::default(),
    }
}

fn build(meta: Meta, settings: Settings, rules: &[(&str, Access)], hooks: &[Hook]) -> Blob<Vec<u8>> {
    let mut builder = BlobBuilder::new(meta);
    builder.settings(ProfileId::default(), settings);
    for (pattern, access) in rules {
        let (pattern, methods) = pattern.split_once(' ').unwrap_or((pattern, ""));
        let rule = RuleInput::new(Pattern::parse(pattern).unwrap(), *access, source(), 1);
        let methods = methods.split_whitespace().map(str::to_owned).collect();
        builder.rule(RuleInput { methods, ..rule });
    }
    for hook in hooks {
        builder.hook(hook.clone());
    }
    Blob::open(builder.build().unwrap()).unwrap()
}

/// `opened`, `closed` (an opaque tunnel) or the reason.
fn tunnel(blob: &Blob<Vec<u8>>, protocol: Protocol, host: &str, port: u16, can_intercept: bool) -> &'static str {
    let host = Host::parse(host).unwrap();
    match decide(blob, &Request { protocol, can_intercept, ..Request::connect(&host, port) }) {
        Decision::Allow(allowed) => {
            assert!(!allowed.intercept || can_intercept);
            assert!(allowed.intercept || !allowed.read_only, "nothing that is read-only stays unread");
            if allowed.intercept { "opened" } else { "closed" }
        }
        Decision::Deny(denied) => denied.reason.as_str(),
    }
}

#[test]
fn tunnels_are_opened_where_something_has_to_see_inside() {
    let rules = [
        ("**.a.test", Access::Allow),
        ("read.a.test", Access::ReadOnly),
        ("some.a.test DELETE", Access::Deny),
        ("only.b.test GET", Access::Allow),
        ("pinned-read.a.test", Access::ReadOnly),
    ];
    let credential = Credential {
        id: "c".into(),
        env: vec!["C".into()],
        url_prefixes: vec![UrlPrefix::parse("https://token.a.test/").unwrap(), UrlPrefix::parse("http://plain.a.test/").unwrap()],
        auth: CredentialAuth::Bearer,
    };
    let settings = Settings { credentials: vec![credential], ..Settings::default() };
    let bypass = vec!["pinned.a.test:443".to_owned(), "pinned-read.a.test".to_owned(), "pinned-hook.a.test".to_owned()];
    let meta = |mode, always: bool, broker| Meta {
        mode,
        credential_broker: broker,
        mitm: Mitm { mode: if always { MitmMode::Always } else { MitmMode::Auto }, bypass: bypass.clone(), ..Mitm::default() },
        ..Meta::default()
    };
    let hooks = [hook("h", "hooked.a.test", &["GET"], &["/"]), hook("p", "pinned-hook.a.test", &["GET"], &["/"])];
    let waived = Settings { bypass_read_only: true, ..settings.clone() };
    let full = build(meta(Mode::Full, false, true), settings.clone(), &rules, &hooks);
    let always = build(meta(Mode::Full, true, false), settings.clone(), &rules, &hooks);
    let limited = build(meta(Mode::Limited, false, false), settings, &rules, &hooks);
    let looks_away = build(meta(Mode::Limited, false, false), waived, &rules, &hooks);
    let (connect, socks, udp) = (Protocol::Connect, Protocol::Socks5Tcp, Protocol::Socks5Udp);
    let unread = "mitm_required";
    for (blob, protocol, host, port, expected, without) in [
        (&full, connect, "x.a.test", 443, "closed", "closed"),
        (&full, connect, "read.a.test", 443, "opened", unread),
        (&full, connect, "read.a.test", 22, "opened", unread),
        (&full, socks, "read.a.test", 443, "opened", unread),
        (&full, socks, "read.a.test", 80, unread, unread),
        (&full, socks, "read.a.test", 8443, unread, unread),
        (&full, udp, "read.a.test", 443, unread, unread),
        (&full, udp, "x.a.test", 443, "closed", "closed"),
        (&full, connect, "some.a.test", 443, "opened", unread),
        (&full, connect, "only.b.test", 443, "opened", unread),
        (&full, connect, "hooked.a.test", 8443, "opened", unread),
        (&full, socks, "hooked.a.test", 22, "opened", unread),
        (&full, udp, "hooked.a.test", 443, unread, unread),
        (&full, connect, "token.a.test", 443, "opened", unread),
        (&full, connect, "token.a.test", 22, "closed", "closed"),
        (&full, connect, "plain.a.test", 80, "closed", "closed"),
        (&full, connect, "pinned-hook.a.test", 443, "closed", "closed"),
        (&full, udp, "pinned-hook.a.test", 443, "closed", "closed"),
        (&full, connect, "pinned-read.a.test", 443, unread, unread),
        (&full, connect, "none.test", 443, "not_allowed", "not_allowed"),
        (&always, connect, "x.a.test", 443, "opened", unread),
        (&always, socks, "x.a.test", 22, "opened", unread),
        (&always, udp, "x.a.test", 443, unread, unread),
        (&always, connect, "pinned.a.test", 443, "closed", "closed"),
        (&always, connect, "pinned.a.test", 8443, "opened", unread),
        (&always, connect, "token.a.test", 443, "opened", unread),
        (&limited, connect, "x.a.test", 443, "opened", unread),
        (&limited, connect, "x.a.test", 8443, "opened", unread),
        (&limited, socks, "x.a.test", 443, "opened", unread),
        (&limited, socks, "x.a.test", 8443, unread, unread),
        (&limited, connect, "pinned.a.test", 443, unread, unread),
        (&looks_away, connect, "pinned.a.test", 443, "closed", "closed"),
        (&looks_away, socks, "pinned.a.test", 443, "closed", "closed"),
        (&looks_away, socks, "pinned-read.a.test", 8443, unread, unread),
        (&looks_away, udp, "pinned.a.test", 443, unread, unread),
        (&looks_away, connect, "x.a.test", 443, "opened", unread),
    ] {
        assert_eq!(tunnel(blob, protocol, host, port, true), expected, "{protocol} {host}:{port}");
        assert_eq!(tunnel(blob, protocol, host, port, false), without, "{protocol} {host}:{port}, from who cannot open TLS");
    }
    let hosts = |hosts: &[&str]| Intercepted::Hosts(hosts.iter().map(|host| (*host).to_owned()).collect());
    let own = ["hooked.a.test", "only.b.test", "pinned-hook.a.test", "pinned-read.a.test", "read.a.test", "some.a.test"];
    let brokerless = build(meta(Mode::Full, false, false), Settings::default(), &rules, &hooks);
    assert_eq!(brokerless.intercepted(ProfileId(0)), hosts(&own));
    let all = [&["**.a.test"], &own[..]].concat();
    for blob in [&limited, &always, &full] {
        assert_eq!(blob.intercepted(ProfileId(0)), hosts(&all));
    }
    assert_eq!(
        build(meta(Mode::Full, false, true), Settings::default(), &[("*", Access::Allow)], &[]).intercepted(ProfileId(0)),
        Intercepted::All
    );
    assert_eq!(
        build(meta(Mode::Limited, false, false), Settings::default(), &[("*", Access::Allow)], &[]).intercepted(ProfileId(0)),
        Intercepted::All
    );
    assert_eq!(
        build(meta(Mode::Full, false, false), Settings::default(), &[("*", Access::Allow)], &[]).intercepted(ProfileId(0)),
        hosts(&[])
    );
    assert_eq!(full.intercepted(ProfileId(9)), hosts(&[]));
}

/// A deny of a network that asks for a method, in which a name is found to lie.
/// A hook matches methods and paths: what it lets on says nothing of the next request.
#[test]
fn nothing_is_unconditional_where_a_hook_looks() {
    let blob = build(
        Meta { profile: "test".into(), ..Meta::default() },
        Settings::default(),
        &[("**.test", Access::Allow)],
        &[hook("some", "hooked.test", &["GET"], &["/x"])],
    );
    for (host, unconditional) in [("hooked.test", false), ("other.test", true)] {
        let host = Host::parse(host).unwrap();
        let request = Request { method: Some("GET"), ..inside(&host, "/x", Inside::default()) };
        match decide(&blob, &request) {
            Decision::Allow(allowed) => assert_eq!(allowed.unconditional, unconditional, "{host}"),
            Decision::Deny(denied) => panic!("{host}: {denied:?}"),
        }
    }
}

#[test]
fn an_address_opens_a_tunnel_as_a_name_does() {
    let rules = [("a.test", Access::Allow), ("198.18.0.0/15 DELETE", Access::Deny)];
    let meta = Meta { allow_local_binding: true, ..Meta::default() };
    let blob = build(meta, Settings::default(), &rules, &[]);
    let (host, addresses) = (Host::parse("a.test").unwrap(), ["198.18.0.1".parse().unwrap()]);
    let asked = |can_intercept, addresses| decide(&blob, &Request { can_intercept, addresses, ..Request::connect(&host, 443) });
    assert!(matches!(asked(true, &[]), Decision::Allow(allowed) if !allowed.intercept));
    assert!(matches!(asked(true, &addresses), Decision::Allow(allowed) if allowed.intercept));
    assert!(matches!(asked(false, &addresses), Decision::Deny(denied) if denied.reason == Reason::MitmRequired));
}

fn with_body() -> Blob<Vec<u8>> {
    with_body_of(None)
}

/// The same where the profile has a limit for all its hooks.
fn with_body_of(max_body_bytes: Option<u64>) -> Blob<Vec<u8>> {
    let mut first = hook("first", "a.test", &["POST"], &["/v1"]);
    first.query = vec![("state".into(), vec!["open".into(), "pattern:tri*".into()])];
    first.headers = vec![("x-team".into(), vec!["a".into()])];
    let hooks = [first, hook("body", "a.test", &["POST"], &["/v1"]), hook("rest", "a.test", &["POST"], &["pattern:/v1/rest/**"])];
    let body = HookBody {
        hook: "body".into(),
        json: vec![("/a".into(), vec![JsonValue::Text("x".into()), JsonValue::Bool(true)])],
        max_bytes: 40,
    };
    let meta = Meta { mitm: Mitm { max_body_bytes, ..Mitm::default() }, ..Meta::default() };
    build(meta, Settings { hook_bodies: vec![body], ..Settings::default() }, &[("a.test", Access::Allow)], &hooks)
}

fn inside<'a>(host: &'a Host, path: &'a str, inside: Inside<'a>) -> Request<'a> {
    Request { protocol: Protocol::Https, method: Some("POST"), path: Some(path), inside: Some(inside), ..Request::connect(host, 443) }
}

#[test]
fn bodies_are_wanted_only_where_they_decide() {
    let (blob, host) = (with_body(), Host::parse("a.test").unwrap());
    let json: &[(&str, &[u8])] = &[("content-type", b"application/json")];
    let team: &[(&str, &[u8])] = &[("content-type", b"application/json"), ("x-team", b"a")];
    for (path, query, headers, wanted) in [
        ("/v1/x", None, json, Some(40)),
        ("/v1/rest/x", None, json, Some(40)),
        ("/v1/x", Some("state=open"), team, None),
        ("/v1/x", Some("state=closed"), team, Some(40)),
        ("/v2", None, json, None),
        ("/v1/../x", None, json, None),
        ("/v1/x", None, &[], None),
    ] {
        let request = inside(&host, path, Inside { query, headers, body: None });
        assert_eq!(blob.body_wanted(&request), wanted, "{path} {query:?}");
    }
    for (path, body, expected) in [
        ("/v1/x", Some(&b"{\"a\":\"x\"}"[..]), Some(1)),
        ("/v1/x", Some(&b"{\"a\":\"y\"}"[..]), None),
        ("/v1/x", None, None),
        ("/v1/rest/x", Some(&b"{\"a\":\"y\"}"[..]), Some(2)),
        ("/v1/rest/x", Some(&b"{\"a\":true}"[..]), Some(1)),
        ("/v1/rest/x", Some(&b"{\"a\":true                               }"[..]), Some(2)),
    ] {
        let request = inside(&host, path, Inside { query: None, headers: json, body });
        assert_eq!(blob.matching_hook(&request), expected, "{path}");
        let decided = match decide(&blob, &request) {
            Decision::Allow(allowed) => allowed.hook,
            Decision::Deny(denied) => {
                assert_eq!(denied.reason, Reason::MitmHookDenied);
                None
            }
        };
        assert_eq!(decided, expected);
    }
    // What nobody says of it, no hook sees.
    let bare = Request { inside: None, ..inside(&host, "/v1/rest/x", Inside::default()) };
    assert_eq!((blob.matching_hook(&bare), blob.body_wanted(&bare)), (None, None));
}

#[test]
fn a_profile_limits_the_bodies_of_all_its_hooks() {
    let host = Host::parse("a.test").unwrap();
    let json: &[(&str, &[u8])] = &[("content-type", b"application/json")];
    let body = b"{\"a\":\"x\"}";
    for (most, wanted, expected) in
        [(None, 40, Some(1)), (Some(99), 40, Some(1)), (Some(9), 9, Some(1)), (Some(8), 8, None), (Some(0), 0, None)]
    {
        let blob = with_body_of(most);
        let request = |body| inside(&host, "/v1/x", Inside { query: None, headers: json, body });
        assert_eq!(blob.body_wanted(&request(None)), Some(wanted), "{most:?}");
        assert_eq!(blob.matching_hook(&request(Some(body))), expected, "{most:?}");
    }
}

#[test]
fn what_no_reader_can_prepare_is_not_written() {
    let body = |hook: &str| HookBody { hook: hook.into(), json: vec![("/a".into(), vec![JsonValue::Bool(true)])], max_bytes: 1 };
    let refused = |settings: Settings, hooks: &[Hook]| {
        let mut builder = BlobBuilder::new(Meta::default());
        builder.settings(ProfileId(0), settings);
        for hook in hooks {
            builder.hook(hook.clone());
        }
        builder.build().unwrap_err().to_string()
    };
    let settings = Settings { hook_bodies: vec![body("gone")], ..Settings::default() };
    assert!(refused(settings, &[hook("h", "a.test", &["GET"], &["/"])]).contains("a hook that is not there"));
    let wide = format!("pattern:/{}", "a".repeat(2000));
    let many: Vec<Hook> = (0..1000).map(|n| hook(&n.to_string(), "a.test", &["GET"], &[&wide])).collect();
    assert!(refused(Settings::default(), &many).contains("globs that are too long"));
}

proptest! {
    /// More of what a client says never makes a hook match that did not, where every occurrence has to be allowed.
    #[test]
    fn saying_more_lets_nothing_pass(
        query in "(state=(open|triage|closed|%6fpen)|State=x|x=1|state|a;b|%zz){0,1}(&(state=(open|x)|state\\[\\]=open|y=%00)){0,3}",
        more in "&(state=(evil|open)|STATE=open|z=;|q)",
        teams in proptest::collection::vec("[ab]", 0..3),
        team in "[ab]",
    ) {
        let (blob, host) = (with_body(), Host::parse("a.test").unwrap());
        let first = |query: &str, teams: &[String]| {
            let headers: Vec<(&str, &[u8])> = teams.iter().map(|team| ("x-team", team.as_bytes())).collect();
            blob.matching_hook(&inside(&host, "/v1/x", Inside { query: Some(query), headers: &headers, body: None }))
        };
        let longer = format!("{query}{more}");
        prop_assert!(first(&query, &teams).is_some() || first(&longer, &teams).is_none() || more == "&state=open");
        let mut others = teams.clone();
        others.push(team);
        prop_assert!(first(&query, &teams).is_some() || first(&query, &others).is_none() || teams.is_empty());
    }

    /// Whatever a request says, hooks answer; and what the body decides is wanted.
    #[test]
    fn any_request_is_answered(
        path in "/(v1|rest|[a-z%2.;\\\\/]){0,6}",
        query in proptest::option::of("[a-z=&%;+0-9\\[\\]]{0,24}"),
        kind in "(application/json|text/plain|application/x\\+json; charset=utf-8)",
        body in "[\\[\\]{}\"a:,xtrue ]{0,24}|\\{\"a\":(\"x\"|true|1)\\}",
    ) {
        let (blob, host) = (with_body(), Host::parse("a.test").unwrap());
        let headers: &[(&str, &[u8])] = &[("content-type", kind.as_bytes())];
        let ask = |body| inside(&host, &path, Inside { query: query.as_deref(), headers, body });
        let (without, with) = (ask(None), ask(Some(body.as_bytes())));
        if blob.matching_hook(&without) != blob.matching_hook(&with) {
            prop_assert_eq!(blob.body_wanted(&without), Some(40));
        }
        let decided = matches!(decide(&blob, &with), Decision::Allow(_));
        prop_assert_eq!(decided, blob.matching_hook(&with).is_some());
    }
}
