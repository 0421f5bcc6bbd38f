#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use super::remedy::Refused;
use super::*;
use policy_format::asked::Asked;
use policy_format::{Access, BlobBuilder, Layer, Meta, Pattern, RuleInput};

/// What was decided is kept of plain requests that nobody but the policy lets on, and holds of such under the same policy.
#[test]
fn a_decision_is_kept_for_plain_requests_under_the_policy_that_gave_it() {
    let client = SocketAddr::from(([127, 0, 0, 1], 1));
    let target = Target::parse("a.test:80", None).unwrap();
    let plain = Question::new(client, Protocol::Http, &target);
    let granted = Question { granted: true, ..plain };
    let allowed = Allowed { rule: RuleId(7), read_only: false, intercept: false, hook: None, unconditional: true };
    let others = [Protocol::Https, Protocol::Connect, Protocol::Socks5Tcp, Protocol::Socks5Udp];
    let others = || others.into_iter().map(|protocol| Question { protocol, ..plain }).chain([granted]);
    let kept = KeptDecision::new(3, &plain, allowed).unwrap();
    assert!(KeptDecision::new(3, &plain, Allowed { unconditional: false, ..allowed }).is_none());
    assert_eq!(kept.allowed(3, &plain), Some(allowed));
    // Whatever is asked for at the target.
    assert_eq!(kept.allowed(3, &Question { method: Some("DELETE"), path: Some("/x"), told: Told::Allowed, ..plain }), Some(allowed));
    for generation in [2, 4] {
        assert_eq!(kept.allowed(generation, &plain), None);
    }
    for question in others() {
        assert!(KeptDecision::new(3, &question, allowed).is_none(), "{question:?}");
        assert_eq!(kept.allowed(3, &question), None, "{question:?}");
    }
}

/// What rules for some methods or paths leave to be said: a line that opens all would be one too many, whether they name the host or hold it.
#[test]
fn beside_a_narrow_rule_for_the_host_and_the_port_words_name_it_and_no_line_is_offered() {
    let source = policy_format::Source { layer: Layer::User, label: "config.toml".into() };
    let mut builder = BlobBuilder::new(Meta { profile: "w".into(), ..Meta::default() });
    let rules =
        [("*.a.test", "", "/a"), ("*.b.test:80", "GET", ""), ("c.test", "", "/a"), ("*.d.test", "", ""), ("192.0.2.0/24", "GET", "")];
    for (line, (pattern, method, path)) in (1..).zip(rules) {
        let list = |item: &str| if item.is_empty() { Vec::new() } else { vec![item.to_owned()] };
        let rule = RuleInput::new(Pattern::parse(pattern).unwrap(), Access::Allow, source.clone(), line);
        builder.rule(RuleInput { methods: list(method), paths: list(path), ..rule });
    }
    let policy = crate::policy::Policy::from_bytes(builder.build().unwrap()).unwrap();
    let snapshot = PolicyHandle::new(policy, Vec::new(), Arc::new(crate::audit::event::Silent)).current();
    for (request, line, help) in [
        (
            "GET http://x.a.test/b",
            None,
            "add a rule for \"x.a.test:80\" under [permissions.w.network.domains] that is for such requests only: \"*.a.test\" in user config.toml:1 is not for all",
        ),
        ("POST http://x.b.test/", None, "\"*.b.test:80\" in user config.toml:2 is not for all"),
        ("POST http://x.b.test:8080/", Some("\"x.b.test\" = \"allow\""), "add \"x.b.test\" = \"allow\" under"),
        ("GET http://c.test/b", None, "have \"c.test\" in user config.toml:3 allow such requests too"),
        ("GET http://d.test/b", Some("\"d.test\" = \"allow\""), "add \"d.test\" = \"allow\" under"),
        ("POST http://192.0.2.7/", None, "add a rule for \"192.0.2.7:80\" under"),
    ] {
        let asked = Asked::parse(request).unwrap();
        let refused = Refused { reason: Reason::NotAllowed.as_str(), asked, addresses: &[], address: None, socket: false, rule: None };
        let remedy = refused.remedy(&snapshot).unwrap();
        assert_eq!(remedy.toml.as_deref(), line, "{request}: {}", remedy.help);
        assert!(remedy.help.contains(help), "{request}: {}", remedy.help);
    }
}
