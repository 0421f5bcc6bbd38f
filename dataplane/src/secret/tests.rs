//! What children get, and what leaves: the broker as its users see it.

use super::*;
use crate::parse::target::Target;
use policy_format::{BrokerFallback, Credential, CredentialAuth, Host, UrlPrefix};
use std::collections::{HashMap, HashSet};

#[path = "../../../tests/harness/planted.rs"]
#[expect(unreachable_pub, reason = "tests share it with those of the whole proxy")]
mod planted;

use planted::{Way, base64, everywhere, field_with, found};

const ACTIVE: &str = "CODEX_NETWORK_PROXY_CREDENTIAL_BROKER_ACTIVE";
const BROKERED: &str = "CODEX_NETWORK_PROXY_BROKERED_CREDENTIALS";

fn on() -> BrokerSetup {
    BrokerSetup { brokering: Brokering::On, ..BrokerSetup::default() }
}

fn environment(variables: &[(&str, &str)]) -> HashMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The environment of a child, and what became of its variables.
fn child(broker: &Broker, variables: &[(&str, &str)]) -> (HashMap<String, String>, Virtualized) {
    let mut environment = environment(variables);
    let virtualized = broker.virtualize(&mut environment);
    (environment, virtualized)
}

fn described(id: &str, variable: &str, url: &str, auth: CredentialAuth) -> Credential {
    Credential { id: id.into(), env: vec![variable.into()], url_prefixes: vec![UrlPrefix::parse(url).unwrap()], auth }
}

fn header(name: &str, prefix: &str) -> CredentialAuth {
    CredentialAuth::Header { name: name.into(), prefix: prefix.into() }
}

fn own_field() -> CredentialAuth {
    header(planted::FIELD, planted::PREFIX)
}

/// What a request to `url` says in `Authorization`, if it changes.
fn sent(broker: &Broker, url: &str, authorization: &str) -> Option<String> {
    let (tls, rest) = url.strip_prefix("https://").map_or_else(|| (false, url.strip_prefix("http://").unwrap()), |rest| (true, rest));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let target = Target::parse(authority, Some(if tls { 443 } else { 80 })).unwrap();
    let to =
        Destination { host: &target.host, port: target.port, tls, method: "GET", path_and_query: if path.is_empty() { "/" } else { path } };
    let changed = broker.translate(&to, &[("accept", b"*/*"), ("Authorization", authorization.as_bytes())]);
    assert!(changed.len() <= 1 && changed.iter().all(|(name, _)| name == "authorization"));
    changed.into_iter().next().map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
}

#[test]
fn known_credentials_go_where_they_belong() {
    let github = [("GH_TOKEN", "ghp-real"), ("GITHUB_TOKEN", "ghp-other")];
    let enterprise = [("GH_ENTERPRISE_TOKEN", "ghp-real"), ("GH_HOST", "GitHub.Example.com:8443")];
    let openai = [("OPENAI_API_KEY", "sk-real"), ("OPENAI_BASE_URL", "https://sdk.example.com./v1")];
    // Environment, variable, host, whether the credential goes there.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str, bool);
    let cases: &[Case<'_>] = &[
        (&github, "GH_TOKEN", "https://api.github.com/user", true),
        (&github, "GITHUB_TOKEN", "https://github.com", true),
        (&github, "GH_TOKEN", "https://uploads.github.com", true),
        (&github, "GH_TOKEN", "https://API.GitHub.com.:8443/", true),
        (&github, "GH_TOKEN", "https://astemu.ghe.com", true),
        (&github, "GH_TOKEN", "https://api.astemu.ghe.com", true),
        (&github, "GH_TOKEN", "https://ghe.com", false),
        (&github, "GH_TOKEN", "https://notghe.com", false),
        (&github, "GH_TOKEN", "https://raw.github.com", false),
        (&github, "GH_TOKEN", "https://github.com.evil.example", false),
        (&github, "GH_TOKEN", "https://evil.example/github.com", false),
        (&github, "GH_TOKEN", "https://140.82.121.3", false),
        (&github, "GH_TOKEN", "https://api.openai.com", false),
        (&github, "GH_TOKEN", "http://api.github.com", false),
        (&[("GH_TOKEN", "ghp-real"), ("GH_HOST", "github.example.com")], "GH_TOKEN", "https://github.example.com", false),
        (&[("GH_TOKEN", "ghp-real"), ("GH_HOST", "astemu.ghe.com")], "GH_TOKEN", "https://api.astemu.ghe.com", true),
        (&enterprise, "GH_ENTERPRISE_TOKEN", "https://github.example.com", true),
        (&enterprise, "GH_ENTERPRISE_TOKEN", "https://github.example.com:8443", true),
        (&enterprise, "GH_ENTERPRISE_TOKEN", "https://api.github.example.com", false),
        (&enterprise, "GH_ENTERPRISE_TOKEN", "https://api.github.com", false),
        (&[("GITHUB_ENTERPRISE_TOKEN", "x"), ("GH_HOST", "g.example")], "GITHUB_ENTERPRISE_TOKEN", "https://g.example", true),
        (&openai, "OPENAI_API_KEY", "https://api.openai.com/v1", true),
        (&openai, "OPENAI_API_KEY", "https://sdk.example.com/other", true),
        (&openai, "OPENAI_API_KEY", "https://gateway.example.com", true),
        (&openai, "OPENAI_API_KEY", "https://openai.com", false),
        (&openai, "OPENAI_API_KEY", "https://github.com", false),
        (
            &[("OPENAI_API_KEY", "sk-real"), ("OPENAI_BASE_URL", "http://sdk.example.com")],
            "OPENAI_API_KEY",
            "https://sdk.example.com",
            false,
        ),
    ];
    for (variables, name, url, goes) in cases {
        let broker = Broker::new(&BrokerSetup { openai_base_url: Some("https://gateway.example.com./v1".into()), ..on() }).unwrap();
        let (environment, _) = child(&broker, variables);
        let (dummy, real) = (&environment[*name], variables.iter().find(|(other, _)| other == name).unwrap().1);
        assert_ne!(dummy, real);
        let expected = goes.then(|| format!("Bearer {real}"));
        assert_eq!(sent(&broker, url, &format!("Bearer {dummy}")), expected, "{name} {url}");
        let target = Target::parse(url.split('/').nth(2).unwrap(), Some(443)).unwrap();
        assert!(!goes || broker.wants(&target.host, target.port), "{url}");
    }
}

#[test]
fn known_credentials_are_sent_in_known_ways() {
    let broker = Broker::new(&on()).unwrap();
    let (environment, _) = child(&broker, &[("GH_TOKEN", "ghp-real"), ("GITHUB_TOKEN", "ghp-other"), ("OPENAI_API_KEY", "sk-real")]);
    let [gh, other, sk] = ["GH_TOKEN", "GITHUB_TOKEN", "OPENAI_API_KEY"].map(|name| environment[name].as_str());
    let basic = |pair: String| format!("Basic {}", base64(pair.as_bytes()));
    let cases = [
        ("https://github.com", format!("Bearer {gh}"), Some("Bearer ghp-real".to_owned())),
        ("https://github.com", format!("bearer  {gh} "), Some("bearer ghp-real".to_owned())),
        ("https://github.com", format!("token {gh}"), Some("token ghp-real".to_owned())),
        ("https://github.com", format!("Token {other}"), Some("Token ghp-other".to_owned())),
        ("https://github.com", basic(format!("x-access-token:{gh}")), Some(basic("x-access-token:ghp-real".into()))),
        ("https://github.com", basic(format!("{gh}:x-oauth-basic")), Some(basic("ghp-real:x-oauth-basic".into()))),
        ("https://github.com", basic(format!("{gh}:")), Some(basic("ghp-real:".into()))),
        // The same credential twice: the user counts.
        ("https://github.com", basic(format!("{gh}:{gh}")), Some(basic(format!("ghp-real:{gh}")))),
        // Two credentials: nobody knows which was meant.
        ("https://github.com", basic(format!("{gh}:{other}")), None),
        // Another one's dummy is some text here.
        ("https://github.com", basic(format!("{gh}:{sk}")), Some(basic(format!("ghp-real:{sk}")))),
        ("https://github.com", basic(format!("a:b:{gh}")), None),
        ("https://github.com", format!("Basic {gh}"), None),
        ("https://github.com", format!("Digest {gh}"), None),
        ("https://github.com", "Bearer ghp-explicit".to_owned(), None),
        ("https://github.com", "Bearer ghp-real".to_owned(), None),
        ("https://github.com", "Bearer ".to_owned(), None),
        ("https://github.com", String::new(), None),
        ("https://api.openai.com", format!("Bearer {sk}"), Some("Bearer sk-real".to_owned())),
        // The reference replaces whatever contains the dummy.
        ("https://api.openai.com", format!("Bearer x{sk}"), None),
        ("https://api.openai.com", format!("token {sk}"), None),
        ("https://api.openai.com", basic(format!("x:{sk}")), None),
        ("https://api.openai.com", "Bearer sk-explicit".to_owned(), None),
    ];
    for (url, authorization, expected) in cases {
        assert_eq!(sent(&broker, url, &authorization), expected, "{authorization}");
    }
}

#[test]
fn described_credentials_go_where_the_policy_says() {
    let url = "https://packages.example:8443/npm";
    let credentials = vec![
        described("a", "A", url, CredentialAuth::Bearer),
        described("b", "B", url, CredentialAuth::Token),
        described("c", "C", url, CredentialAuth::Basic),
        described("d", "D", url, own_field()),
        described("e", "E", url, header("authorization", "SSWS ")),
    ];
    let broker = Broker::new(&BrokerSetup { credentials, ..on() }).unwrap();
    let (environment, _) = child(&broker, &[("A", "real-a"), ("B", "real-b"), ("C", "real-c"), ("D", "real-d"), ("E", "real-e")]);
    let dummy = |name: &str| environment[name].as_str();
    let basic = |pair: &str| format!("Basic {}", base64(pair.as_bytes()));
    let inside = "https://packages.example:8443/npm/x";
    assert_eq!(sent(&broker, inside, &format!("Bearer {}", dummy("A"))).as_deref(), Some("Bearer real-a"));
    assert_eq!(sent(&broker, inside, &format!("token {}", dummy("B"))).as_deref(), Some("token real-b"));
    assert_eq!(sent(&broker, inside, &basic(&format!("u:{}", dummy("C")))), Some(basic("u:real-c")));
    assert_eq!(sent(&broker, inside, &format!("SSWS {}", dummy("E"))).as_deref(), Some("SSWS real-e"));
    // Each in its own way, and in its own place.
    for (url, authorization) in [
        (inside, format!("token {}", dummy("A"))),
        (inside, basic(&format!("u:{}", dummy("A")))),
        (inside, format!("Bearer {}", dummy("B"))),
        (inside, format!("Bearer {}", dummy("C"))),
        (inside, format!("Bearer {}", dummy("D"))),
        (inside, format!("Key {}", dummy("D"))),
        (inside, format!("Bearer {}", dummy("E"))),
        (inside, format!("ssws {}", dummy("E"))),
        ("https://packages.example/npm/x", format!("Bearer {}", dummy("A"))),
        ("https://packages.example:8443/npmx", format!("Bearer {}", dummy("A"))),
        ("https://packages.example:8443/npm/../x", format!("Bearer {}", dummy("A"))),
        ("http://packages.example:8443/npm/x", format!("Bearer {}", dummy("A"))),
    ] {
        assert_eq!(sent(&broker, url, &authorization), None, "{url} {authorization}");
    }
    // Several fields, a credential in each.
    let host = Host::parse("packages.example").unwrap();
    let to = Destination { host: &host, port: 8443, tls: true, method: "POST", path_and_query: "/npm" };
    let (key, bearer) = (format!("Key {}", dummy("D")), format!("Bearer {}", dummy("A")));
    let changed = broker.translate(&to, &[("X-Service-Key", key.as_bytes()), ("authorization", bearer.as_bytes())]);
    let changed: Vec<(&str, &[u8])> = changed.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    assert_eq!(changed, [("x-service-key", &b"Key real-d"[..]), ("authorization", b"Bearer real-a")]);
    // TLS is opened for what is bound, and for nothing else.
    for (host, port, wanted) in
        [("packages.example", 8443, true), ("packages.example", 443, false), ("example", 8443, false), ("github.com", 443, false)]
    {
        assert_eq!(broker.wants(&Host::parse(host).unwrap(), port), wanted, "{host}:{port}");
    }
}

#[test]
fn plaintext_needs_the_policys_word() {
    let credentials = vec![
        described("tls", "TLS", "https://a.example", CredentialAuth::Bearer),
        described("clear", "CLEAR", "http://a.example", CredentialAuth::Bearer),
    ];
    for allowed in [false, true] {
        let broker = Broker::new(&BrokerSetup { credentials: credentials.clone(), dangerously_allow_plaintext: allowed, ..on() }).unwrap();
        let (environment, _) = child(&broker, &[("GH_TOKEN", "ghp-real"), ("TLS", "tls"), ("CLEAR", "clear")]);
        let sent = |url, name: &str| sent(&broker, url, &format!("Bearer {}", environment[name])).is_some();
        assert_eq!(sent("http://api.github.com", "GH_TOKEN"), allowed);
        assert_eq!(sent("http://a.example", "CLEAR"), allowed);
        // Bound to TLS by its URL.
        assert!(!sent("http://a.example", "TLS") && !sent("http://a.example:443", "TLS"));
        assert!(sent("https://a.example", "TLS") && !sent("https://a.example", "CLEAR"));
        // No TLS is opened for what is sent in the clear.
        assert!(!broker.wants(&Host::parse("a.example").unwrap(), 80));
    }
}

#[test]
fn children_have_dummies_of_their_own() {
    let broker = Broker::new(&on()).unwrap();
    let (first, _) = child(&broker, &[("GH_TOKEN", "ghp-one"), ("PATH", "/bin")]);
    let (second, _) = child(&broker, &[("GH_TOKEN", "ghp-one")]);
    let (third, _) = child(&broker, &[("GH_TOKEN", "ghp-two")]);
    let dummies: HashSet<&String> = [&first, &second, &third].map(|environment| &environment["GH_TOKEN"]).into();
    assert_eq!(dummies.len(), 3);
    assert_eq!(first["PATH"], "/bin");
    let bearer =
        |environment: &HashMap<String, String>| sent(&broker, "https://github.com", &format!("Bearer {}", environment["GH_TOKEN"]));
    for (environment, expected) in [(&first, "Bearer ghp-one"), (&second, "Bearer ghp-one"), (&third, "Bearer ghp-two")] {
        assert_eq!(bearer(environment).as_deref(), Some(expected));
    }
    // A child without a dummy has nothing of the others'.
    assert_eq!(sent(&broker, "https://github.com", "Bearer ghp-one"), None);
    // What is a dummy stays, and stays valid.
    let mut again = first.clone();
    let once_more = broker.virtualize(&mut again);
    assert_eq!(again, first);
    assert_eq!(once_more.variables, [("GH_TOKEN".to_owned(), Outcome::AlreadyDummy)]);
    // Those of a child that is gone are of no use; those of others still are.
    let (fourth, virtualized) = child(&broker, &[("GH_TOKEN", "ghp-one")]);
    broker.release(&virtualized.child);
    assert_eq!((bearer(&fourth), bearer(&first).is_some(), bearer(&second).is_some()), (None, true, true));
}

#[test]
fn children_are_told_what_is_a_dummy() {
    let broker =
        Broker::new(&BrokerSetup { credentials: vec![described("a", "A_TOKEN", "https://a.example", CredentialAuth::Bearer)], ..on() })
            .unwrap();
    let (environment, _) = child(
        &broker,
        &[
            ("OPENAI_API_KEY", "sk-real"),
            ("A_TOKEN", "real"),
            ("GITHUB_TOKEN", " \"quoted\" "),
            ("GH_TOKEN", " "),
            (BROKERED, "[[\"HOME\",\"x\"]]"),
        ],
    );
    assert_eq!(environment[ACTIVE], "1");
    let expected = ["GITHUB_TOKEN", "OPENAI_API_KEY", "A_TOKEN"].map(|name| serde_json::json!([name, environment[name]]));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&environment[BROKERED]).unwrap(), serde_json::json!(expected));
    // A blank value is no credential.
    assert_eq!(environment["GH_TOKEN"], " ");
    assert_eq!(
        sent(&broker, "https://github.com", &format!("Bearer {}", environment["GITHUB_TOKEN"])).as_deref(),
        Some("Bearer \"quoted\"")
    );
    // Without brokering there is nothing to tell, and what was said before is not true.
    for brokering in [Brokering::Off, Brokering::Impossible("there is no TLS".into())] {
        let broker = Broker::new(&BrokerSetup { brokering, ..BrokerSetup::default() }).unwrap();
        let (environment, _) = child(&broker, &[("PATH", "/bin"), (ACTIVE, "1"), (BROKERED, "[]")]);
        assert_eq!(environment.keys().collect::<Vec<_>>(), ["PATH"]);
    }
}

#[test]
fn what_cannot_be_brokered_is_withheld_unless_the_policy_says_otherwise() {
    let impossible = Brokering::Impossible("there is no TLS to open".to_owned());
    let credentials = vec![described("a", "A_TOKEN", "https://a.example", CredentialAuth::Bearer)];
    // Brokering, variable, value, and why it cannot be brokered.
    let cases: &[(&Brokering, &str, &str, Option<&str>)] = &[
        (&Brokering::Off, "GH_TOKEN", "ghp-real", None),
        (&Brokering::Off, "A_TOKEN", "real", None),
        (&impossible, "GH_TOKEN", "ghp-real", Some("there is no TLS to open")),
        (&impossible, "A_TOKEN", " real ", Some("there is no TLS to open")),
        (&impossible, "PATH", "/bin", None),
        (&Brokering::On, "GH_ENTERPRISE_TOKEN", "ghp-real", Some("`GH_HOST` does not name the host that it is for")),
        (&Brokering::On, "A_TOKEN", "re\nal", Some("its value cannot stand in a header field")),
        (&Brokering::On, "A_TOKEN", "gehëim", Some("its value cannot stand in a header field")),
        (&Brokering::On, "A_TOKEN", "", None),
        (&Brokering::On, "PATH", "/bin", None),
    ];
    for (brokering, name, value, why) in cases {
        for fallback in [BrokerFallback::None, BrokerFallback::Real] {
            let setup =
                BrokerSetup { brokering: (*brokering).clone(), fallback, credentials: credentials.clone(), ..BrokerSetup::default() };
            let (environment, virtualized) = child(&Broker::new(&setup).unwrap(), &[(name, value)]);
            let stays = why.is_none() || fallback == BrokerFallback::Real;
            assert_eq!(environment.get(*name).map(String::as_str), stays.then_some(*value), "{name} {brokering:?} {fallback:?}");
            let expected = why.map(|why| match fallback {
                BrokerFallback::None => Outcome::Withheld(why.to_owned()),
                BrokerFallback::Real => Outcome::Real(why.to_owned()),
            });
            assert_eq!(virtualized.variables.first().map(|(_, outcome)| outcome), expected.as_ref(), "{name}");
        }
    }
    // `GH_HOST` that belongs to GitHub itself names no host of an enterprise.
    let (environment, _) = child(&Broker::new(&on()).unwrap(), &[("GH_ENTERPRISE_TOKEN", "x"), ("GH_HOST", "astemu.ghe.com")]);
    assert!(!environment.contains_key("GH_ENTERPRISE_TOKEN"));
}

#[test]
fn copies_of_credentials_are_replaced_too() {
    let real = "ghp_0123456789abcdefghij";
    let url = format!("https://x:{real}@github.com/");
    let mut variables = vec![("GH_TOKEN", real), ("GITHUB_TOKEN", real), ("MY_TOKEN", real), ("PIP_URL", url.as_str()), ("PATH", "/bin")];
    let broker = Broker::new(&on()).unwrap();
    let (environment, virtualized) = child(&broker, &variables);
    assert!(environment.values().all(|value| !value.contains(real)), "{environment:?}");
    let dummies = ["GH_TOKEN", "GITHUB_TOKEN"].map(|name| environment[name].as_str());
    assert!(dummies.contains(&environment["MY_TOKEN"].as_str()));
    assert!(dummies.map(|dummy| format!("https://x:{dummy}@github.com/")).contains(&environment["PIP_URL"]));
    let mut changed: Vec<&str> = virtualized.variables.iter().map(|(name, _)| name.as_str()).collect();
    changed.sort_unstable();
    assert_eq!(changed, ["GH_TOKEN", "GITHUB_TOKEN", "MY_TOKEN", "PIP_URL"]);
    // What is withheld, is withheld everywhere; where the policy leaves it, it stays everywhere.
    variables.push(("OPENAI_API_KEY", "sk-short"));
    for fallback in [BrokerFallback::None, BrokerFallback::Real] {
        let setup = BrokerSetup { brokering: Brokering::Impossible("no TLS".into()), fallback, ..BrokerSetup::default() };
        let (left, _) = child(&Broker::new(&setup).unwrap(), &variables);
        match fallback {
            BrokerFallback::None => assert_eq!(left.keys().collect::<Vec<_>>(), ["PATH"]),
            BrokerFallback::Real => assert_eq!(left, self::environment(&variables)),
        }
    }
    // A short value may stand anywhere by chance.
    let (left, _) = child(&broker, &[("OPENAI_API_KEY", "sk-short"), ("NOTE", "sk-shorthand")]);
    assert_eq!(left["NOTE"], "sk-shorthand");
}

#[test]
fn a_new_policy_ends_dummies_of_which_it_says_something_else() {
    let one = |url: &str| BrokerSetup { credentials: vec![described("a", "A_TOKEN", url, CredentialAuth::Bearer)], ..on() };
    let setup = |url: &str, gateway: &str| BrokerSetup { openai_base_url: Some(gateway.into()), ..one(url) };
    let broker = Broker::new(&setup("https://a.example", "https://gateway.example")).unwrap();
    let (environment, _) = child(&broker, &[("GH_TOKEN", "ghp-real"), ("OPENAI_API_KEY", "sk-real"), ("A_TOKEN", "real")]);
    let valid = || {
        [("GH_TOKEN", "https://github.com"), ("OPENAI_API_KEY", "https://api.openai.com"), ("A_TOKEN", "https://a.example")]
            .map(|(name, url)| sent(&broker, url, &format!("Bearer {}", environment[name])).is_some())
    };
    assert_eq!(valid(), [true; 3]);
    broker.configure(&setup("https://a.example", "https://gateway.example")).unwrap();
    assert_eq!(valid(), [true; 3], "the same policy");
    // What cannot be used is withheld, whatever else is in force.
    let mut wrong = setup("https://a.example", "https://gateway.example");
    wrong.credentials.push(described("b", "B_TOKEN", "https://b.example", header("host", "")));
    wrong.credentials.push(described("c", "A_TOKEN", "https://evil.example", CredentialAuth::Bearer));
    assert_eq!(broker.configure(&wrong).unwrap_err().id, "b");
    assert_eq!(valid(), [true; 3]);
    let (left, _) = child(&broker, &[("B_TOKEN", "real"), ("A_TOKEN", "real")]);
    assert!(!left.contains_key("B_TOKEN") && sent(&broker, "https://evil.example", &format!("Bearer {}", left["A_TOKEN"])).is_none());
    assert!(Broker::new(&wrong).is_err());
    broker.configure(&setup("https://a.example", "https://replacement.example")).unwrap();
    assert_eq!(valid(), [true, false, true]);
    broker.configure(&one("https://b.example")).unwrap();
    assert_eq!(valid(), [true, false, false]);
    broker.configure(&BrokerSetup { dangerously_allow_plaintext: true, ..on() }).unwrap();
    assert!(sent(&broker, "http://github.com", &format!("Bearer {}", environment["GH_TOKEN"])).is_some());
    broker.configure(&BrokerSetup::default()).unwrap();
    assert_eq!(valid(), [false; 3]);
    broker.configure(&on()).unwrap();
    assert_eq!(valid(), [false; 3], "switched off is off");
    assert!(!broker.wants(&Host::parse("github.com").unwrap(), 443));
}

#[test]
fn dummies_become_credentials_for_a_child_without_the_proxy() {
    let broker = Broker::new(&on()).unwrap();
    let (mut environment, _) = child(&broker, &[("GH_TOKEN", "ghp-real"), ("OPENAI_API_KEY", "sk-real"), ("OTHER", "x")]);
    let [gh, sk] = ["GH_TOKEN", "OPENAI_API_KEY"].map(|name| environment[name].clone());
    // What the user put in its place is the user's, and its dummy is not one of the child's any more.
    environment.insert("OPENAI_API_KEY".into(), "sk-own".into());
    environment.insert("OTHER".into(), format!("{gh} {sk}"));
    let mut command = vec!["curl".to_owned(), format!("-HAuthorization: Bearer {gh}"), sk.clone()];
    let untouched = (environment.clone(), command.clone());
    let mut inactive = environment.clone();
    inactive.remove(ACTIVE);
    broker.restore(&mut inactive, &mut command);
    assert_eq!((inactive["GH_TOKEN"].as_str(), &command), (gh.as_str(), &untouched.1));
    broker.restore(&mut environment, &mut command);
    assert_eq!(
        ["GH_TOKEN", "OPENAI_API_KEY", "OTHER"].map(|name| environment[name].as_str()),
        ["ghp-real", "sk-own", &format!("ghp-real {sk}")]
    );
    assert_eq!(command, ["curl", "-HAuthorization: Bearer ghp-real", &sk]);
}

#[test]
fn the_proxys_own_environment_is_for_those_who_ask_for_it() {
    let own = |token: &str| vec![("GH_TOKEN".to_owned(), token.to_owned()), ("OPENAI_API_KEY".to_owned(), "sk\nreal".to_owned())];
    let broker = Broker::from_environment(&on(), own("ghp-real")).unwrap();
    let dummies = broker.dummies();
    assert_eq!(dummies.variables.keys().collect::<Vec<_>>(), ["GH_TOKEN"]);
    let withheld: Vec<_> = dummies.withheld.iter().map(String::as_str).collect();
    assert_eq!(withheld, ["GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN", "GITHUB_TOKEN", "OPENAI_API_KEY"]);
    let valid = |dummies: &Dummies| sent(&broker, "https://github.com", &format!("token {}", dummies.variables["GH_TOKEN"]));
    assert_eq!(valid(&dummies).as_deref(), Some("token ghp-real"));
    // The same credential keeps its dummy; another one gets another.
    let outcomes = broker.adopt(own("ghp-real"));
    assert_eq!(outcomes[0], ("GH_TOKEN".to_owned(), Outcome::Dummy));
    assert!(broker.dummies() == dummies);
    broker.adopt(own("ghp-other"));
    assert_eq!((valid(&dummies), valid(&broker.dummies()).as_deref()), (None, Some("token ghp-other")));
    // Whoever asks has no credential of its own afterwards, and has what was there before gone.
    let mut mine = environment(&[("GH_TOKEN", "ghp-mine"), ("OPENAI_API_KEY", "sk-mine"), ("PATH", "/bin"), (BROKERED, "old")]);
    dummies.apply(&mut mine);
    let brokered = serde_json::json!([["GH_TOKEN", dummies.variables["GH_TOKEN"]]]).to_string();
    let expected = [("GH_TOKEN", dummies.variables["GH_TOKEN"].as_str()), ("PATH", "/bin"), (ACTIVE, "1"), (BROKERED, &brokered)];
    assert_eq!(mine, environment(&expected));
    // With the policy's word, what cannot be brokered stays with whoever has it.
    let broker = Broker::from_environment(&BrokerSetup { fallback: BrokerFallback::Real, ..on() }, own("ghp-real")).unwrap();
    assert!(broker.dummies().withheld.is_empty());
    let off = Broker::from_environment(&BrokerSetup::default(), own("ghp-real")).unwrap();
    assert!(off.dummies() == Dummies::default() && off.variables().is_empty());
}

#[test]
fn dummies_of_another_process_replace_copies_too() {
    let real = "0123456789abcdefghij";
    let dummies = Dummies {
        variables: [("TOKEN".to_owned(), "dummy".to_owned())].into(),
        withheld: ["KEPT".to_owned()].into(),
        ..Dummies::default()
    };
    let kept = "kept-from-children-0";
    let mut environment: HashMap<String, String> = [
        ("TOKEN", real.to_owned()),
        ("URL", format!("https://u:{real}@host")),
        ("KEPT", kept.to_owned()),
        ("COPY", format!("x{kept}")),
        ("OTHER", "as it was".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    dummies.apply(&mut environment);
    let mut left: Vec<_> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    left.sort();
    assert_eq!(left, ["OTHER=as it was", "TOKEN=dummy", "URL=https://u:dummy@host"]);
}

#[test]
fn dummies_are_handed_over_in_a_file_of_one_user() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dummies.json");
    let broker = Broker::from_environment(&on(), [("GH_TOKEN".to_owned(), "ghp-top-secret".to_owned())]).unwrap();
    for _ in 0..2 {
        broker.dummies().write(&path).unwrap();
    }
    assert!(Dummies::read(&path).unwrap() == broker.dummies());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(&broker.dummies().variables["GH_TOKEN"]) && found(text.as_bytes(), "ghp-top-secret").is_none());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
    let error = |path: &std::path::Path| Dummies::read(path).unwrap_err().to_string();
    for broken in [
        "",
        "{}",
        "[]",
        "{\"version\":2,\"variables\":{},\"withheld\":[],\"brokered\":\"\"}",
        "{\"version\":1,\"variables\":{\"A\":1},\"withheld\":[],\"brokered\":\"\"}",
        "{\"version\":1,\"variables\":{\"A;id #\":\"x\"},\"withheld\":[],\"brokered\":\"\"}",
        "{\"version\":1,\"variables\":{},\"withheld\":[\"$(id)\"],\"brokered\":\"\"}",
    ] {
        std::fs::write(&path, broken).unwrap();
        assert!(error(&path).contains("is not what this version writes"), "{broken}");
    }
    std::fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(error(&path).contains("has more than"));
    assert!(error(&folder.path().join("absent")).contains("cannot be read"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        broker.dummies().write(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(error(&link).contains("cannot be read"));
        assert!(error(folder.path()).contains("is no file"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(error(&path).contains("is open to others (mode 0640)"));
    }
    assert!(broker.dummies().write(&folder.path().join("absent/file")).unwrap_err().to_string().contains("cannot be written"));
}

/// Secrets in every place of a head, to right and wrong hosts: what is sent has the credential in the one place, towards the one host, and is as it was otherwise.
#[test]
fn planted_secrets_go_nowhere_else() {
    let service = |path: &str| format!("https://service.example:8443{path}");
    let credentials = vec![
        described("bearer", "BEARER", &service("/v1"), CredentialAuth::Bearer),
        described("token", "TOKEN", &service(""), CredentialAuth::Token),
        described("basic", "BASIC", &service("/v1/"), CredentialAuth::Basic),
        described("field", "FIELD", &service("/"), own_field()),
    ];
    let github: &[Way] = &[Way::Bearer, Way::Token, Way::BasicUser, Way::BasicPassword];
    let kinds: &[(&str, &str, &str, &[Way])] = &[
        ("GH_TOKEN", "ghp_", "api.github.com:443", github),
        ("GITHUB_TOKEN", "github_pat_", "tenant.ghe.com:443", github),
        ("GH_ENTERPRISE_TOKEN", "", "github.example.com:443", github),
        ("OPENAI_API_KEY", "sk-proj-", "api.openai.com:443", &[Way::Bearer]),
        ("BEARER", "", "service.example:8443", &[Way::Bearer]),
        ("TOKEN", "glpat-", "service.example:8443", &[Way::Token]),
        ("BASIC", "a.b-", "service.example:8443", &[Way::BasicUser, Way::BasicPassword]),
        ("FIELD", "", "service.example:8443", &[Way::Field]),
    ];
    let wrong =
        ["evil.example:443", "api.github.com.evil.example:443", "xghe.com:443", "ghe.com:443", "service.example:443", "192.0.2.7:8443"];
    let broker = Broker::new(&BrokerSetup { credentials, ..on() }).unwrap();
    let (mut planted, mut translated, mut said) = (0_u64, 0, String::new());
    while planted < 1000 {
        for (name, prefix, right, ways) in kinds {
            // One secret for each place.
            for place in 0..everywhere("xx").len() {
                planted += 1;
                let real = planted::secret(prefix, planted);
                let (environment, virtualized) = child(&broker, &[(name, &real), ("GH_HOST", "github.example.com")]);
                let dummy = &environment[*name];
                assert!(found(dummy.as_bytes(), &real).is_none());
                let request = &everywhere(dummy)[place];
                let headers: Vec<(&str, &[u8])> = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
                for (host, tls) in [(*right, true), (*right, false)].into_iter().chain(wrong.map(|host| (host, true))) {
                    let target = Target::parse(host, None).unwrap();
                    let to = Destination {
                        host: &target.host,
                        port: target.port,
                        tls,
                        method: &request.method,
                        path_and_query: &request.path_and_query,
                    };
                    let changed = broker.translate(&to, &headers);
                    said.push_str(&format!("{changed:?}"));
                    let belongs = host == *right && tls && request.way.is_some_and(|way| ways.contains(&way));
                    let changed: Vec<_> = changed.into_iter().map(|(name, value)| (name, value.to_vec())).collect();
                    let head = request.head(host, &changed);
                    let context = format!("{name} in {} to {host} ({tls}): {}", request.place, head.escape_ascii());
                    assert_eq!(found(&head, &real).is_some(), belongs, "{context}");
                    if belongs {
                        let expected = field_with(request, dummy, &real);
                        assert_eq!(changed.len(), 1, "{context}");
                        assert_eq!(changed[0].1.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{context}");
                        translated += 1;
                    } else {
                        assert!(changed.is_empty(), "{context}");
                    }
                }
                said.push_str(&format!("{broker:?} {virtualized:?} {:?}", broker.dummies()));
                assert_eq!(found(said.as_bytes(), &real), None, "something says it");
                assert!(!said.contains(dummy.as_str()));
                said.clear();
                broker.release(&virtualized.child);
            }
        }
    }
    assert!(translated > 40, "{translated}");
}

/// `Debug` of what is handed around shows no value, whatever holds it.
#[test]
fn debug_shows_no_value() {
    let setup = BrokerSetup { credentials: vec![described("a", "A_TOKEN", "https://a.example", CredentialAuth::Bearer)], ..on() };
    let own = [("A_TOKEN".to_owned(), "top-secret-value".to_owned()), ("OPENAI_API_KEY".to_owned(), "top-secret\tvalue\n.".to_owned())];
    let broker = Broker::from_environment(&setup, own.clone()).unwrap();
    let (mut environment, virtualized) = child(&broker, &[("A_TOKEN", "top-secret-value"), ("GH_ENTERPRISE_TOKEN", "top-secret-value")]);
    environment.clear();
    let hooks = HookSecrets::new(own);
    let value = hooks.value(&policy_format::Secret::Env("A_TOKEN".into()), "Bearer ").unwrap();
    assert_eq!(value.as_slice(), b"Bearer top-secret-value");
    let error = hooks.value(&policy_format::Secret::Env("ABSENT".into()), "").unwrap_err();
    let all = format!("{broker:?} {:?} {virtualized:?} {hooks:?} {value:?} {error:?} {error} {setup:?}", broker.dummies());
    assert!(all.contains("Withheld") && found(all.as_bytes(), "top-secret").is_none(), "{all}");
    assert!(!SecretError::ANSWER.contains("ABSENT"));
}
