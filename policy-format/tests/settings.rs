//! Whatever settings profiles have, they are read as they were written; what cannot be read is not written.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_format::{
    Audit, AuditLevel, AuditNaming, Blob, BlobBuilder, BrokerFallback, ClientCertificate, Constraints, Credential, CredentialAuth,
    Forwarded, Fsync, Layer, Limits, Meta, NameServer, OnFull, OnRevoke, Otlp, OtlpProtocol, ProfileId, Settings, Sni, Upstream,
    UpstreamRule, UrlPrefix,
};
use proptest::prelude::*;
use std::net::SocketAddr;
use std::time::Duration;

fn name_server() -> impl Strategy<Value = NameServer> {
    prop_oneof![
        any::<SocketAddr>().prop_filter("no flow", |address| address.to_string().parse() == Ok(*address)).prop_map(NameServer::Dns),
        "[a-z.]{1,20}/[ -~]{0,40}".prop_map(|rest| NameServer::Https(format!("https://{rest}")))
    ]
}

fn rule() -> impl Strategy<Value = UpstreamRule> {
    let host = prop_oneof![
        "\\.?[a-z]{1,9}(\\.[a-z]{1,9}){0,3}(:[1-9][0-9]{0,3})?",
        Just("*".to_owned()),
        Just("10.0.0.0/8".to_owned()),
        Just("[2001:db8::1]:443".to_owned())
    ];
    let url = proptest::option::of("(http|https|socks5|socks5h)://[ -~]{1,30}");
    (proptest::collection::vec(host, 0..6), url)
        .prop_map(|(hosts, url)| UpstreamRule { hosts, proxy: url.map(|url| Upstream { url, no_proxy: Vec::new() }) })
}

fn limits() -> impl Strategy<Value = Limits> {
    proptest::collection::vec((0..Limits::ALL.len(), any::<u64>(), any::<bool>()), 0..12).prop_map(|said| {
        let mut limits = Limits::default();
        for (index, value, near) in said {
            let limit = &Limits::ALL[index];
            let span = (limit.max - limit.min).saturating_add(1);
            limits.set(limit.name, if near { limit.min.saturating_add(value % 3) } else { limit.min + value % span });
        }
        limits
    })
}

fn certificate() -> impl Strategy<Value = ClientCertificate> {
    ("(\\*\\.|\\*\\*\\.)?[a-z]{1,9}\\.test", "/[ -~]{0,20}", "/[ -~]{0,20}").prop_map(|(host, cert_path, key_path)| ClientCertificate {
        host,
        cert_path,
        key_path,
    })
}

fn credential() -> impl Strategy<Value = Credential> {
    let auth = prop_oneof![
        Just(CredentialAuth::Bearer),
        Just(CredentialAuth::Token),
        Just(CredentialAuth::Basic),
        ("[a-z-]{1,9}", "[ -~]{0,9}").prop_map(|(name, prefix)| CredentialAuth::Header { name, prefix })
    ];
    let prefix = "(https|http)://[a-z]{1,9}\\.test(:[1-9][0-9]{0,3})?(/[a-z]{1,5}){0,3}".prop_map(|text| UrlPrefix::parse(&text).unwrap());
    let lists = (proptest::collection::vec("[A-Z_]{1,9}", 0..3), proptest::collection::vec(prefix, 0..3));
    ("[ -~]{1,9}", lists, auth).prop_map(|(id, (env, url_prefixes), auth)| Credential { id, env, url_prefixes, auth })
}

fn inside() -> impl Strategy<Value = Settings> {
    let lists = (proptest::collection::vec(certificate(), 0..3), proptest::collection::vec(credential(), 0..3));
    (lists, any::<bool>(), any::<bool>()).prop_map(|((client_certificates, credentials), bypass_read_only, real)| Settings {
        client_certificates,
        credentials,
        bypass_read_only,
        broker_fallback: if real { BrokerFallback::Real } else { BrokerFallback::None },
        ..Settings::default()
    })
}

fn audit() -> impl Strategy<Value = Audit> {
    let word = |count: usize| 0..count;
    let path = || proptest::option::of("(/[a-z.]{1,9}){1,3}");
    let syslog = prop_oneof![Just("/dev/log"), Just("udp://10.0.0.1:514"), Just("tcp://[2001:db8::1]:601")];
    let otlp = ("https?://[a-z]{1,9}\\.test(:[1-9][0-9]{0,3})?(/[a-z]{1,5}){0,2}", any::<bool>(), path()).prop_map(
        |(endpoint, grpc, headers_file)| Otlp {
            endpoint,
            headers_file,
            protocol: if grpc { OtlpProtocol::Grpc } else { OtlpProtocol::Http },
        },
    );
    let sinks = (path(), any::<bool>(), proptest::option::of(syslog), any::<bool>(), proptest::option::of(otlp));
    let words = (word(AuditNaming::ALL.len()), word(AuditLevel::ALL.len()), word(OnFull::ALL.len()), word(Fsync::ALL.len()), any::<bool>());
    let numbers = proptest::collection::vec((0..Audit::NUMBERS.len(), any::<u64>()), 0..4);
    let metadata = proptest::collection::btree_map("m[a-z0-9_]{0,9}(\\.[a-z0-9_]{1,9}){0,2}", "[ -~é]{0,20}", 0..4);
    (sinks, words, numbers, metadata).prop_map(
        |((file, stdout, syslog, journald, otlp), (naming, level, on_full, fsync, chain), numbers, metadata)| {
            let mut audit = Audit {
                file,
                stdout,
                syslog: syslog.map(|text| text.parse().unwrap()),
                journald,
                otlp,
                naming: AuditNaming::ALL[naming].1,
                level: AuditLevel::ALL[level].1,
                on_full: OnFull::ALL[on_full].1,
                fsync: Fsync::ALL[fsync].1,
                chain,
                metadata,
                ..Audit::default()
            };
            for (at, value) in numbers {
                let number = &Audit::NUMBERS[at];
                audit.set(number.name, number.min.saturating_add(value % (number.max - number.min).saturating_add(1).max(1)));
            }
            audit
        },
    )
}

fn constraints() -> impl Strategy<Value = Option<Constraints>> {
    let layer = || prop_oneof![Just(None), Just(Some(Layer::Mdm)), Just(Some(Layer::Managed))];
    proptest::option::of((layer(), layer(), layer()).prop_map(|(mode_required, local_binding_required, managed_allows_only)| Constraints {
        mode_required,
        local_binding_required,
        managed_allows_only,
    }))
}

fn settings() -> impl Strategy<Value = Settings> {
    let one_of = |count: usize| 0..count;
    let words = (one_of(Sni::ALL.len()), any::<bool>(), one_of(Forwarded::ALL.len()), one_of(OnRevoke::ALL.len()));
    let lists = (proptest::collection::vec(name_server(), 0..4), proptest::collection::vec(rule(), 0..4));
    let rest = (limits(), inside(), audit(), constraints());
    (words, lists, rest).prop_map(|((sni, via, forwarded, on_revoke), (resolver, upstream_rules), (limits, inside, audit, constraints))| {
        Settings {
            audit,
            constraints,
            sni: Sni::ALL[sni].1,
            via,
            forwarded: Forwarded::ALL[forwarded].1,
            resolver,
            upstream_rules,
            on_revoke: OnRevoke::ALL[on_revoke].1,
            limits,
            ..inside
        }
    })
}

fn build(profiles: &[Settings]) -> Result<Vec<u8>, String> {
    let mut builder = BlobBuilder::new(Meta::default());
    for at in 1..profiles.len() {
        builder.profile(Meta { profile: at.to_string(), ..Meta::default() });
    }
    for (id, settings) in (0..).zip(profiles) {
        builder.settings(ProfileId(id), settings.clone());
    }
    builder.build().map_err(|error| error.to_string())
}

proptest! {
    #[test]
    fn what_is_written_is_read(profiles in proptest::collection::vec(settings(), 1..5)) {
        let bytes = build(&profiles).unwrap();
        prop_assert_eq!(&build(&profiles).unwrap(), &bytes);
        let blob = Blob::open(bytes).unwrap();
        let says_anything = profiles.iter().any(|settings| *settings != Settings::default());
        prop_assert_eq!(blob.version(), (1, u16::from(says_anything)));
        for (id, settings) in (0..).zip(&profiles) {
            prop_assert_eq!(blob.settings(ProfileId(id)), Some(settings));
            prop_assert_eq!(blob.constraints(ProfileId(id)), settings.constraints.as_ref());
        }
    }

    #[test]
    fn no_bytes_of_the_section_make_open_panic(
        profiles in proptest::collection::vec(settings(), 1..3),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut bytes = build(&profiles).unwrap();
        let (start, len) = {
            let blob = Blob::open(&bytes).unwrap();
            let section = blob.section(policy_format::SectionKind::Settings);
            (bytes.len() - section.len(), section.len())
        };
        prop_assume!(len > 0);
        for (index, byte) in changes {
            bytes[start + index.index(len)] = byte;
        }
        policy_format::reseal(&mut bytes);
        let _ = Blob::open(bytes);
    }
}

#[test]
fn what_cannot_be_read_is_not_written() {
    let rule = |hosts: &str, url: &str, no_proxy: &[&str]| UpstreamRule {
        hosts: vec![hosts.into()],
        proxy: Some(Upstream { url: url.into(), no_proxy: no_proxy.iter().map(|text| (*text).to_owned()).collect() }),
    };
    let refused = |settings: Settings| build(&[settings]).unwrap_err();
    for rule in [rule("a.test", "direct", &[]), rule("a.test", "proxy.test:80", &[]), rule("a/b", "http://proxy.test", &[])] {
        let error = refused(Settings { upstream_rules: vec![rule], ..Settings::default() });
        assert!(error.contains("settings") && error.contains("upstream.rules") || error.contains("no policy can say"), "{error}");
    }
    for settings in [
        Settings { upstream_rules: vec![rule("a.test", "http://proxy.test", &["b.test"])], ..Settings::default() },
        Settings { resolver: vec![NameServer::Https("http://dns.test/".into())], ..Settings::default() },
        Settings { limits: Limits { connect_timeout: Duration::from_micros(1), ..Limits::default() }, ..Settings::default() },
        Settings { limits: Limits { connections: 0, ..Limits::default() }, ..Settings::default() },
        Settings { resolver: vec![NameServer::Dns("10.0.0.53:53".parse().unwrap()); 65_536], ..Settings::default() },
        Settings { audit: Audit { file: Some("audit.jsonl".into()), ..Audit::default() }, ..Settings::default() },
        Settings { constraints: Some(Constraints { mode_required: Some(Layer::User), ..Constraints::default() }), ..Settings::default() },
        Settings { audit: Audit { queue: 1, ..Audit::default() }, ..Settings::default() },
        Settings {
            audit: Audit { metadata: [("event.name".to_owned(), "x".to_owned())].into(), ..Audit::default() },
            ..Settings::default()
        },
    ] {
        assert!(refused(settings).starts_with("the policy's settings could not be encoded: "));
    }
}
