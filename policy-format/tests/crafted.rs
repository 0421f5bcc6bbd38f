//! Blobs that nobody would write who means well: what passes [`Blob::open`] shows all that it does.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a test that cannot go on panics")]

use policy_format::{
    Access, Blob, BlobBuilder, Decision, FormatError, Host, Layer, Meta, Network, Pattern, ProfileId, Protocol, Request, RuleInput,
    SectionKind, Source, decide, reseal,
};

fn build(rules: &[(&str, Access)]) -> Vec<u8> {
    let mut builder = BlobBuilder::new(Meta { profile: "test".into(), network: Network::Proxied, ..Meta::default() });
    for (line, (pattern, access)) in (1..).zip(rules) {
        let source = Source { layer: Layer::User, label: "config.toml".into() };
        builder.rule(RuleInput::new(Pattern::parse(pattern).unwrap(), *access, source, line));
    }
    builder.build().unwrap()
}

/// Where a section begins in a blob.
fn place(blob: &Blob<Vec<u8>>, kind: SectionKind) -> usize {
    blob.section(kind).as_ptr().addr() - blob.as_bytes().as_ptr().addr()
}

fn allows(blob: &Blob<Vec<u8>>, host: &str) -> bool {
    let host = Host::parse(host).unwrap();
    let (profile, protocol) = (ProfileId::default(), Protocol::Connect);
    let request =
        Request { profile, protocol, host: &host, port: 443, method: None, path: None, addresses: &[], inside: None, can_intercept: false };
    matches!(decide(blob, &request), Decision::Allow(_))
}

fn changed(blob: Blob<Vec<u8>>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = blob.as_bytes().to_vec();
    drop(blob);
    change(&mut bytes);
    reseal(&mut bytes);
    bytes
}

/// The room behind the only group, up to the next section, has a group in it that only lookups see.
#[test]
fn a_group_behind_the_last_one_is_refused() {
    const HEADER: usize = 64;
    let (shown, hidden) =
        (Blob::open(build(&[("a.test", Access::Allow)])).unwrap(), Blob::open(build(&[("b.test", Access::Allow)])).unwrap());
    let (trie, records, meta) =
        (place(&shown, SectionKind::Trie), place(&shown, SectionKind::Records), place(&shown, SectionKind::Suffixes));
    assert!(shown.section(SectionKind::Trie).len() == HEADER + 32 && trie + HEADER + 64 <= records, "one group, and room for another");
    // Both tries under the key of the second, so that its name has its hash: the first is never found, which a check of it alone would see.
    let record = hidden.section(SectionKind::Records).to_vec();
    let group = hidden.section(SectionKind::Trie)[HEADER..].to_vec();
    let room = records + shown.section(SectionKind::Records).len();
    assert!(room + 4 <= meta);
    let key = hidden.section(SectionKind::Trie)[..32].to_vec();
    let bytes = changed(shown, |bytes| {
        bytes[trie..trie + 32].copy_from_slice(&key);
        bytes[trie + 40] = 2;
        bytes[trie + HEADER + 31] = 1;
        // The tag of the listed name is not known under this key: all are tried.
        let next = trie + HEADER + 32;
        bytes[next..next + 32].copy_from_slice(&group);
        let at = (room - records) as u32;
        bytes[next + 27..next + 31].copy_from_slice(&at.to_le_bytes());
        let len = record.len() - 32;
        bytes[room..room + len].copy_from_slice(&record[..len]);
        bytes[room + len..meta].fill(0);
    });
    let mut seen = 0;
    for tag in 1..=255 {
        let mut bytes = bytes.clone();
        bytes[trie + HEADER] = tag;
        reseal(&mut bytes);
        let sealed = Blob::open_sealed(bytes.clone()).unwrap();
        if allows(&sealed, "a.test") && allows(&sealed, "b.test") {
            seen += 1;
            assert_eq!(sealed.rules().map(|rule| rule.hosts).collect::<Vec<_>>(), ["a.test"], "it is not shown");
            let error = Blob::open(bytes).unwrap_err();
            assert!(
                matches!(error, FormatError::Section { section: SectionKind::Trie, offset: 64, what: "the last group sends lookups on" }),
                "{error}"
            );
        }
    }
    assert_eq!(seen, 1);
}

/// Without the length of a piece in its hash, these two would have one hash under every key.
#[test]
fn names_that_are_cut_alike_do_not_collide() {
    let tail = "bbbbbbbbbbbbbbbbbbbbbbb.com.test";
    assert_eq!(tail.len(), 32);
    let names = [format!("xxxxxxxxyyyyyyy.{tail}"), format!("yyyyyyy.xxxxxxxx{tail}")];
    let blob = Blob::open(build(&names.each_ref().map(|name| (name.as_str(), Access::Allow)))).unwrap();
    assert!(names.iter().all(|name| allows(&blob, name)));
    assert_eq!(blob.rule_count(), 2);
}

#[test]
fn a_glob_is_what_its_text_says() {
    let blob = Blob::open(build(&[("good*.a.test", Access::Allow)])).unwrap();
    let (globs, len) = (place(&blob, SectionKind::Globs), blob.section(SectionKind::Globs).len());
    let text = blob.section(SectionKind::Globs).windows(4).position(|bytes| bytes == b"good").unwrap();
    let program = blob.section(SectionKind::Globs).windows(4).rposition(|bytes| bytes == b"good").unwrap();
    assert!(text < program && program < len);
    for at in [text, program] {
        let blob = Blob::open(build(&[("good*.a.test", Access::Allow)])).unwrap();
        let error = Blob::open(changed(blob, |bytes| bytes[globs + at..][..4].copy_from_slice(b"evil"))).unwrap_err();
        assert!(
            matches!(error, FormatError::Section { section: SectionKind::Globs, what: "a glob's rule, text or program", .. }),
            "{error}"
        );
    }
}

/// `?` after `*`, too often for an automaton: the program stands once with its glob and once where it is matched.
#[test]
fn a_program_that_stands_alone_is_its_globs() {
    let glob = format!("{}-*.a.test", "?".repeat(40));
    let build = || Blob::open(build(&[(glob.as_str(), Access::Deny)])).unwrap();
    let at = place(&build(), SectionKind::Automata) + build().section(SectionKind::Automata).len() - 3;
    let error = Blob::open(changed(build(), |bytes| bytes[at] = b'x')).unwrap_err();
    let what = "a program that stands alone is not what its glob says";
    assert!(matches!(error, FormatError::Section { section: SectionKind::Automata, what: found, .. } if found == what), "{error}");
}

/// Names so long that a group has room for one: the table gets more room until they lie apart.
#[test]
fn very_long_names_find_room() {
    let long = |n: usize| format!("{n:063}.{}.{}.{}", "b".repeat(63), "c".repeat(63), "d".repeat(50));
    let mut builder = BlobBuilder::new(Meta::default());
    for n in 0..4_000 {
        let source = Source { layer: Layer::User, label: "config.toml".into() };
        builder.rule(RuleInput::new(Pattern::parse(&format!("x{}", &long(n)[1..])).unwrap(), Access::Allow, source, 1));
    }
    let blob = Blob::open(builder.build().unwrap()).unwrap();
    assert_eq!(blob.rule_count(), 4_000);
}

/// The automata of a glob are not proved to match what it says, but one that matches nothing is found out.
#[test]
fn automata_that_match_nothing_are_refused() {
    let blob = Blob::open(build(&[("**.a.test", Access::Allow), ("evil*.a.test", Access::Deny)])).unwrap();
    let mut bytes = blob.as_bytes().to_vec();
    // Counts and a length, the automaton's own counts, and then what class each byte is of.
    let classes = place(&blob, SectionKind::Automata) + 8 + 4 + 8;
    bytes[classes..classes + 256].fill(0);
    reseal(&mut bytes);
    assert!(matches!(Blob::open(bytes), Err(FormatError::Section { section: SectionKind::Automata, .. })));
}

/// Rules of one name are listed with the one that decides last: another order would report another rule.
#[test]
fn rules_of_one_name_stand_in_order() {
    let blob = Blob::open(build(&[("**.a.test", Access::Allow), ("**.a.test", Access::ReadOnly)])).unwrap();
    let mut bytes = blob.as_bytes().to_vec();
    let rules = place(&blob, SectionKind::Rules);
    let (first, second) = (bytes[rules..rules + 12].to_vec(), bytes[rules + 12..rules + 24].to_vec());
    bytes[rules..rules + 12].copy_from_slice(&second);
    bytes[rules + 12..rules + 24].copy_from_slice(&first);
    reseal(&mut bytes);
    assert!(matches!(Blob::open(bytes), Err(FormatError::Section { section: SectionKind::Rules, .. })));
}
