//! Whatever the bytes of a blob are, and whether or not its digest is right, opening it, asking it and listing its rules does not panic. Nor does asking one
//! whose records nobody checked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use policy_format::{Blob, Host, ProfileId, Protocol, Request, decide, decide_address, named_by, reseal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

/// Something in every section: seeds/blob/sample, and the edits below, begin with it.
static SAMPLE: &[u8] = include_bytes!("../../tests/golden/v1.0/everything.bin");

/// Hosts that its rules speak of: by every kind of node of the trie, by every automaton, by networks.
static HOSTS: LazyLock<Vec<Host>> = LazyLock::new(|| {
    let texts = [
        "a.test",
        "x.b.test",
        "d.c.e.test",
        "x.deep.one.two.three.four.five.six.seven.eight.test",
        "intranet",
        "wiki.corp",
        "x.a-name-of-more-than-thirty-two-characters.long.test",
        "several.test",
        "x.several.test",
        "api.conditions.test",
        "admin.conditions.test",
        "region-7.b7.cdn.test",
        "us-1.x.glob.test",
        "abcdefghijkl-x-y.alone.test",
        "a.hooked.test",
        "10.1.2.3",
        "2001:db8:1::1",
        "::ffff:10.1.2.3",
        "other",
        "127.1",
    ];
    texts.map(|text| Host::parse(text).unwrap()).into()
});

fn ask(blob: &Blob<&[u8]>) {
    let addresses = [IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1))];
    for host in &*HOSTS {
        for (number, port, protocol, seen) in [
            (0, 80, Protocol::Http, Some(("GET", "/v1/users/7"))),
            (1, 443, Protocol::Http, Some(("DELETE", "/admin/../x"))),
            (0, 8080, Protocol::Connect, None),
            (1, 25, Protocol::Socks5Udp, None),
            (63, 443, Protocol::Connect, None),
        ] {
            let (method, path) = seen.unzip();
            let request = Request {
                profile: ProfileId(number),
                protocol,
                host,
                port,
                method,
                path,
                addresses: &addresses,
                inside: None,
                can_intercept: false,
            };
            let _ = (decide(blob, &request), decide_address(blob, &request, addresses[0]));
            let named = named_by(blob, &request);
            assert!(named.windows(2).all(|pair| pair[0].rank >= pair[1].rank));
        }
        if let Some(name) = host.name() {
            let _ = blob.closest(name);
        }
    }
}

fn exercise(bytes: &[u8]) {
    let Ok(blob) = Blob::open_sealed(bytes) else { return };
    // As who trusts the digest asks it: whatever its records say.
    ask(&blob);
    let checked = blob.check().is_ok();
    let rules: Vec<_> = blob.rules().take(10_000).map(|rule| (rule.to_string(), rule.place())).collect();
    // What was checked says of every rule what it is.
    assert!(!checked || rules.len() == 10_000 || rules.len() == blob.rule_count() as usize);
    assert_eq!(checked, Blob::open(bytes).is_ok());
}

/// Where each section begins, and how long it is.
fn sections(blob: &[u8]) -> Vec<(usize, usize)> {
    let number = |at: usize| usize::try_from(u64::from_le_bytes(blob[at..at + 8].try_into().unwrap())).unwrap();
    let count = usize::from(blob[12]);
    (0..count).map(|entry| (number(64 + 32 * entry + 8), number(64 + 32 * entry + 16))).collect()
}

fuzz_target!(|data: &[u8]| {
    exercise(data);
    let mut sealed = data.to_vec();
    reseal(&mut sealed);
    exercise(&sealed);
    // The same bytes as edits: which section, two for where in it, one for what. The last section number means header and table.
    let mut edited = SAMPLE.to_vec();
    let sections = sections(SAMPLE);
    for edit in data.chunks_exact(4) {
        let which = usize::from(edit[0]) % (sections.len() + 1);
        let (start, len) = sections.get(which).copied().unwrap_or((0, 64 + 32 * sections.len()));
        if len > 0 {
            edited[start + usize::from(u16::from_le_bytes([edit[1], edit[2]])) % len] = edit[3];
        }
    }
    reseal(&mut edited);
    exercise(&edited);
});
