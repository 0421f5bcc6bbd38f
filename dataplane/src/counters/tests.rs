#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use super::outcome::Said;
use super::*;
use crate::audit::event::Dropped;
use crate::policy::PolicyHandle;
use policy_format::{Allowed, Decision, Denied, Reason, RuleId};

fn value(counters: &Counters, sample: &str) -> Option<u64> {
    counters.sample(sample)
}

#[test]
fn what_is_counted_on_one_thread_is_seen_from_another() {
    let counters = Counters::new();
    let held = counters.hold(Counter::TunnelsOpen);
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                counters.add(Counter::BytesUp, 5);
                counters.limited(reached!(head_timeout));
            });
        }
        // A gauge may go down on another thread than it went up on.
        scope.spawn(move || drop(held));
    });
    assert_eq!(value(&counters, "netproxy_bytes_total{direction=\"up\"}"), Some(200));
    assert_eq!(value(&counters, "netproxy_limited_total{limit=\"head_timeout\"}"), Some(40));
    assert_eq!(value(&counters, "netproxy_tunnels_open"), Some(0));
}

#[test]
fn every_counter_has_a_sample_of_its_own_and_every_limit_one() {
    let text = Counters::new().text();
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let distinct: std::collections::HashSet<&str> = samples.iter().copied().collect();
    assert_eq!(samples.len(), distinct.len());
    assert!(samples.iter().all(|line| line.ends_with(" 0")), "{text}");
    for limit in Limits::ALL {
        assert!(text.contains(&format!("netproxy_limited_total{{limit=\"{}\"}} 0\n", limit.name)), "{}", limit.name);
    }
}

/// The samples that are not 0, but for histograms.
fn moved(counters: &Counters) -> Vec<String> {
    let text = counters.text();
    let moved = text.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0") && !line.contains("_duration_seconds"));
    moved.map(str::to_owned).collect()
}

#[test]
fn each_decision_and_each_ending_moves_a_sample_of_its_own() {
    let decision = |outcome| match outcome {
        Outcome::Allowed => {
            Decision::Allow(Allowed { rule: RuleId(0), read_only: false, intercept: false, hook: None, unconditional: true })
        }
        Outcome::Denied(reason) => Decision::Deny(Denied { reason, rule: None }),
        Outcome::Said(_) => Decision::Deny(Denied { reason: Reason::NotAllowed, rule: None }),
    };
    let mut seen = std::collections::HashSet::new();
    for (row, outcome) in Outcome::all().enumerate() {
        assert_eq!(outcome.row(), row);
        let answer = match outcome {
            Outcome::Said(Said::Allow) => Some(Answer::Allow),
            Outcome::Said(Said::Deny) => Some(Answer::Deny("not_approved".to_owned())),
            Outcome::Said(Said::Ask) => Some(Answer::Ask("not_approved".to_owned())),
            _ => None,
        };
        assert_eq!(Outcome::of(decision(outcome), answer.as_ref()), outcome);
        for (_, protocol) in Protocol::ALL {
            let counters = Counters::new();
            one_more(counters.shard().and_then(|shard| shard.decisions.get(row)?.get(*protocol as usize)));
            let sample = format!("netproxy_decisions_total{{protocol=\"{protocol}\",{}}} 1", outcome.labels());
            assert_eq!(moved(&counters), std::slice::from_ref(&sample));
            assert!(seen.insert(sample));
        }
    }
    let endings = [
        Ending::Done,
        Ending::Broken,
        Ending::Upstream("upstream-refused"),
        Ending::Limited("idle_timeout"),
        Ending::Revoked,
        Ending::Looked,
        Ending::Closed,
        Ending::Stopped,
    ];
    assert_eq!(endings.map(Ending::as_str), Ending::KINDS.map(Ending::as_str));
    for (row, how) in endings.into_iter().enumerate() {
        assert_eq!(how.kind(), row);
        for (_, protocol) in Protocol::ALL {
            let counters = Counters::new();
            counters.closed(&Closed {
                id: 1,
                generation: 1,
                client: ([127, 0, 0, 1], 1).into(),
                protocol: *protocol,
                host: policy_format::HostRef::Name("a.test"),
                port: 1,
                up: 0,
                down: 0,
                duration: Duration::from_millis(3),
                ending: how,
            });
            assert_eq!(moved(&counters), [format!("netproxy_closed_total{{protocol=\"{protocol}\",ending=\"{}\"}} 1", how.as_str())]);
            let timed = if matches!(protocol, Protocol::Http | Protocol::Https) { "exchange" } else { "tunnel" };
            assert_eq!(value(&counters, &format!("netproxy_{timed}_duration_seconds_count")), Some(1));
        }
    }
}

#[test]
fn each_answer_of_the_decider_and_its_silence_are_counted_and_timed() {
    let said = |reason: &str| reason.to_owned();
    for (answer, label) in [
        (Some(Answer::Allow), "allow"),
        (Some(Answer::Deny(said("no"))), "deny"),
        (Some(Answer::Ask(said("later"))), "ask"),
        (None, "timeout"),
    ] {
        let counters = Counters::new();
        counters.answered(answer.as_ref(), Duration::from_millis(2));
        assert_eq!(moved(&counters), [format!("netproxy_decider_answers_total{{answer=\"{label}\"}} 1")]);
        assert_eq!(value(&counters, "netproxy_decider_duration_seconds_count"), Some(1));
    }
}

#[test]
fn labels_are_the_names_that_events_and_answers_have() {
    let failures = [
        UpstreamError::NameNotResolved,
        UpstreamError::NameServerFailed,
        UpstreamError::ResolveTimeout,
        UpstreamError::Refused,
        UpstreamError::Unreachable,
        UpstreamError::ConnectTimeout,
        UpstreamError::ResponseTimeout,
        UpstreamError::Closed,
        UpstreamError::BadResponse,
        UpstreamError::NoDescriptor,
        UpstreamError::SocketMissing,
        UpstreamError::NotASocket,
    ];
    for failure in failures {
        let counters = Counters::new();
        let _ = counters.upstream_failed(failure);
        assert_eq!(moved(&counters), [format!("netproxy_upstream_failures_total{{error=\"{}\"}} 1", failure.proxy_error())]);
    }
    for (failure, label) in [(UpstreamError::Proxy(ProxyError::Refused), "proxy"), (UpstreamError::TlsTimeout, "tls")] {
        let counters = Counters::new();
        let _ = counters.upstream_failed(failure);
        assert_eq!(moved(&counters), [format!("netproxy_upstream_failures_total{{error=\"upstream-{label}\"}} 1")]);
    }
    for why in Dropped::ALL {
        let counters = Counters::new();
        counters.count(Counter::dropped(why));
        assert_eq!(moved(&counters), [format!("netproxy_datagrams_dropped_total{{reason=\"{}\"}} 1", why.as_str())]);
    }
    for (_, protocol) in Protocol::ALL {
        let counters = Counters::new();
        counters.count(Counter::tunnels(*protocol));
        if let Some(requests) = Counter::requests(*protocol) {
            counters.count(requests);
            let both = ["requests", "tunnels"].map(|what| format!("netproxy_{what}_total{{protocol=\"{protocol}\"}} 1"));
            assert_eq!(moved(&counters), both);
        }
    }
}

#[test]
fn a_histogram_is_shown_in_seconds_and_adds_up() {
    let counters = Counters::new();
    counters.observe(Timed::TlsOrigin, Duration::from_micros(150));
    counters.observe(Timed::TlsOrigin, Duration::from_secs(100));
    let text = counters.text();
    let of_origin: Vec<&str> =
        text.lines().filter(|line| line.contains("side=\"origin\"") && line.starts_with("netproxy_tls_handshake_duration")).collect();
    let (first, last) = (&of_origin[..3], &of_origin[of_origin.len() - 4..]);
    let name = "netproxy_tls_handshake_duration_seconds";
    assert_eq!(
        first,
        [
            format!("{name}_bucket{{side=\"origin\",le=\"0.0001\"}} 0"),
            format!("{name}_bucket{{side=\"origin\",le=\"0.0002\"}} 1"),
            format!("{name}_bucket{{side=\"origin\",le=\"0.0004\"}} 1")
        ]
    );
    assert_eq!(
        last,
        [
            format!("{name}_bucket{{side=\"origin\",le=\"52.4288\"}} 1"),
            format!("{name}_bucket{{side=\"origin\",le=\"+Inf\"}} 2"),
            format!("{name}_sum{{side=\"origin\"}} 100.00015"),
            format!("{name}_count{{side=\"origin\"}} 2")
        ]
    );
    assert_eq!(text.matches("# TYPE netproxy_tls_handshake_duration_seconds histogram").count(), 1);
    assert!(text.contains("netproxy_decide_duration_seconds_bucket{le=\"0.0000001\"} 0"));
}

#[test]
fn what_serves_no_server_counts_for_nobody_and_a_level_that_is_gone_is_taken_back() {
    let counters = Counters::new();
    here(|_| panic!("this thread serves nobody"));
    let mut nowhere = Level::default();
    nowhere.set(Counter::PoolIdle, 3);
    let mut level = std::thread::scope(|scope| {
        let serve = || {
            let serving = counters.serve();
            here(|counters| counters.count(Counter::PoolHits));
            let mut level = Level::default();
            level.set(Counter::PoolIdle, 5);
            level.set(Counter::PoolIdle, 2);
            assert_eq!(value(&counters, "netproxy_workers"), Some(1));
            drop(serving);
            level
        };
        scope.spawn(serve).join().unwrap()
    });
    assert_eq!(value(&counters, "netproxy_pool_lookups_total{result=\"hit\"}"), Some(1));
    assert_eq!(value(&counters, "netproxy_pool_idle_connections{protocol=\"http/1.1\"}"), Some(2));
    assert_eq!(value(&counters, "netproxy_workers"), Some(0));
    level.set(Counter::PoolIdle, 9);
    drop((level, nowhere));
    assert_eq!(value(&counters, "netproxy_pool_idle_connections{protocol=\"http/1.1\"}"), Some(0));
}

#[test]
fn names_and_texts_keep_to_the_rules() {
    let counters = Counters::new();
    counters.admin_answered("/v1/policy", 200);
    let policy = PolicyHandle::new(crate::policy::Policy::built_in().unwrap(), Vec::new(), Arc::new(crate::audit::event::Silent));
    let text = counters.page(&policy, Format::Prometheus);
    assert!(text.contains("netproxy_admin_requests_total{route=\"/v1/policy\",status=\"200\"} 1\n"));
    let mut families = std::collections::HashMap::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let help = line.strip_prefix("# HELP ").expect(line);
        let (name, help) = help.split_once(' ').unwrap();
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap();
        assert!(help.ends_with('.') && !help.contains(['"', '\\']), "{help}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        assert!(kind != "histogram" || name.ends_with("_seconds"), "{name}");
        assert_eq!(families.insert(name.to_owned(), kind.to_owned()), None, "{name} is there twice");
        while let Some(sample) = lines.next_if(|line| !line.starts_with('#')) {
            let rest = sample.strip_prefix(name).expect(sample);
            assert!(kind == "histogram" || rest.starts_with([' ', '{']), "{sample}");
        }
    }
    let open = counters.page(&policy, Format::OpenMetrics);
    assert!(open.ends_with("\n# EOF\n") && open.contains("# TYPE netproxy_build info\nnetproxy_build_info{version="));
    assert!(open.contains("# TYPE netproxy_decisions counter\nnetproxy_decisions_total{"));
}
