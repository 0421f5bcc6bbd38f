#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use super::*;

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
