//! Whatever the bytes of a blob are, and whether or not its digest is right, opening it, asking it and listing its rules does not panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy_format::{Access, Blob, BlobBuilder, Host, Layer, Meta, Pattern, Protocol, Request, RuleInput, Source, decide, reseal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

/// Something in every section.
const RULES: [(&str, Access); 11] = [
    ("a.test", Access::Allow),
    ("*.b.test:8443", Access::Deny),
    ("**.c.test", Access::ReadOnly),
    ("x?*.d.test", Access::Allow),
    ("{p,q[0-9]}.*.e.test", Access::Deny),
    ("10.0.0.0/8", Access::Allow),
    ("10.1.0.0/16", Access::Deny),
    ("10.1.2.3:80", Access::Allow),
    ("2001:db8::/32", Access::Allow),
    ("2001:db8:1::/48", Access::Deny),
    ("*:80", Access::Allow),
];

static SAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut builder = BlobBuilder::new(Meta::default());
    for (line, (pattern, access)) in (1..).zip(RULES) {
        let source = Source { layer: Layer::User, label: "config.toml".into() };
        let rule = RuleInput::new(Pattern::parse(pattern).unwrap(), access, source, line);
        // Every third rule has conditions, so that their section is there to be changed.
        let (methods, paths) = if line % 3 == 0 { (vec!["GET".into()], vec!["/v1/".into()]) } else { (Vec::new(), Vec::new()) };
        builder.rule(RuleInput { methods, paths, reason: "why".into(), ..rule });
    }
    builder.build().unwrap()
});

static HOSTS: LazyLock<Vec<Host>> = LazyLock::new(|| {
    let texts = ["a.test", "x.b.test", "c.test", "y.c.test", "xyz.d.test", "q7.r.e.test", "10.1.2.3", "2001:db8:1::1", "other", "127.1"];
    texts.map(|text| Host::parse(text).unwrap()).into()
});

fn exercise(bytes: &[u8]) {
    let Ok(blob) = Blob::open(bytes) else { return };
    let addresses = [IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1))];
    for host in &*HOSTS {
        for (port, protocol, method) in [(80, Protocol::Http, Some("GET")), (8443, Protocol::Connect, None)] {
            let _ = decide(&blob, &Request { profile: policy_format::ProfileId::default(), protocol, host, port, method, path: method.map(|_| "/v1/x"), addresses: &addresses });
        }
    }
    for rule in blob.rules() {
        let _ = (rule.to_string(), rule.place());
    }
}

fuzz_target!(|data: &[u8]| {
    exercise(data);
    let mut sealed = data.to_vec();
    reseal(&mut sealed);
    exercise(&sealed);
    // The same bytes as edits: two for where, one for what.
    let mut edited = SAMPLE.clone();
    for edit in data.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % edited.len();
        edited[at] = edit[2];
    }
    reseal(&mut edited);
    exercise(&edited);
});
