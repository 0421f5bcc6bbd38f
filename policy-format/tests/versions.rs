//! What a blob of another version, with other sections, signed, cut or damaged does: it is refused with words that say so, or it decides as it did.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_format::{
    Blob, BlobBuilder, FormatError, Host, Meta, ProfileId, Protocol, Request, SectionKind, Settings, Sni, UnixSockets, decide, named_by,
    reseal,
};

/// Something in every section but the index of IPv4 ranges (`tests/golden/README.md`).
const EVERYTHING: &[u8] = include_bytes!("../../tests/golden/v1.0/everything.bin");

const TABLE: usize = 64;
const ENTRY: usize = 32;

fn number(blob: &[u8], at: usize) -> usize {
    usize::try_from(u64::from_le_bytes(blob[at..at + 8].try_into().unwrap())).unwrap()
}

fn set(blob: &mut [u8], at: usize, value: usize) {
    blob[at..at + 8].copy_from_slice(&(value as u64).to_le_bytes());
}

fn sections(blob: &[u8]) -> Vec<(u32, std::ops::Range<usize>)> {
    let entry = |at: usize| {
        let kind = u32::from_le_bytes(blob[at..at + 4].try_into().unwrap());
        (kind, number(blob, at + 8)..number(blob, at + 8) + number(blob, at + 16))
    };
    (0..usize::from(blob[12])).map(|n| entry(TABLE + ENTRY * n)).collect()
}

/// The blob with a section more at its end.
fn with_section(kind: u32, flags: u32) -> Vec<u8> {
    let mut blob = EVERYTHING.to_vec();
    let count = usize::from(blob[12]);
    let table_end = TABLE + ENTRY * count;
    blob.splice(table_end..table_end, [0; 64]);
    for n in 0..count {
        let at = TABLE + ENTRY * n + 8;
        let offset = number(&blob, at) + 64;
        set(&mut blob, at, offset);
    }
    let start = blob.len().next_multiple_of(64);
    blob.resize(start, 0);
    blob.extend(b"from another time");
    blob[12] += 1;
    blob[table_end..table_end + 4].copy_from_slice(&kind.to_le_bytes());
    blob[table_end + 4..table_end + 8].copy_from_slice(&flags.to_le_bytes());
    set(&mut blob, table_end + 8, start);
    set(&mut blob, table_end + 16, 17);
    let len = blob.len();
    set(&mut blob, 16, len);
    reseal(&mut blob);
    blob
}

/// The blob with bytes after its content, and a header that says so.
fn signed(bytes: usize) -> Vec<u8> {
    let mut blob = EVERYTHING.to_vec();
    blob.extend((0_u8..=255).cycle().take(bytes));
    let len = blob.len();
    set(&mut blob, 16, len);
    set(&mut blob, 24, bytes);
    blob
}

fn refused(blob: Vec<u8>) -> String {
    assert_eq!(Blob::open(&blob).err(), Blob::open_sealed(&blob).err(), "what the check is not needed for");
    Blob::open(blob).unwrap_err().to_string()
}

fn rules<B: AsRef<[u8]>>(blob: &Blob<B>) -> Vec<String> {
    blob.rules().map(|rule| format!("{rule:?}")).collect()
}

#[test]
fn sections_of_another_time_are_skipped_or_refused() {
    let (plain, blob) = (Blob::open(EVERYTHING).unwrap(), Blob::open(with_section(4711, 0)).unwrap());
    assert_eq!(rules(&blob), rules(&plain));
    assert_ne!(blob.digest(), plain.digest(), "sections that nobody knows are digested too");
    let mut newer = with_section(4711, 1);
    newer[10] = 7;
    reseal(&mut newer);
    let words = refused(newer);
    assert_eq!(words, "section 4711 is required but unknown to this program (blob format 1.7): update netproxy-dp");
    // Kinds that are known are there once, and kind 0 is none.
    assert_eq!(refused(with_section(5, 1)), "section `rules` is missing or there twice: the file is damaged; compile it again");
    assert_eq!(Blob::open(with_section(0, 0)).map(|blob| rules(&blob).len()), Ok(rules(&plain).len()));
    // Flags that do not exist yet may mean anything.
    for flags in [2, 3, 0x8000_0000] {
        assert!(refused(with_section(4711, flags)).contains("unknown flags"), "{flags:#x}");
    }
}

#[test]
fn a_section_that_is_missing_is_named() {
    for (index, (kind, _)) in sections(EVERYTHING).into_iter().enumerate() {
        let mut blob = EVERYTHING.to_vec();
        let at = TABLE + ENTRY * index;
        blob[at..at + 4].copy_from_slice(&4711_u32.to_le_bytes());
        blob[at + 4] = 0;
        reseal(&mut blob);
        let known = SectionKind::ALL[index];
        assert_eq!((kind, Blob::open(blob).unwrap_err()), (known as u32, FormatError::SectionCount(known)));
    }
}

#[test]
fn newer_minor_versions_are_read_and_other_majors_refused() {
    for minor in [1, 2, 3, 0xff] {
        let mut blob = EVERYTHING.to_vec();
        blob[10] = minor;
        assert_eq!(refused(blob.clone()), FormatError::Digest.to_string(), "versions are digested");
        reseal(&mut blob);
        let blob = Blob::open(blob).unwrap();
        assert_eq!(blob.version(), (1, u16::from(minor)));
        assert_eq!(rules(&blob), rules(&Blob::open(EVERYTHING).unwrap()));
    }
    for major in [0, 2, 0xff] {
        let mut blob = EVERYTHING.to_vec();
        blob[8] = major;
        let words = format!(
            "blob format {major}.0 cannot be read by this program, which reads 1.0 to 1.2: compile the policy again with the matching netpolicy"
        );
        // Whether or not its digest, or anything else, is right.
        assert_eq!(refused(blob.clone()), words);
        reseal(&mut blob);
        assert_eq!(refused(blob), words);
    }
}

/// Settings of four profiles, the second and third of which say everything (`tests/golden/v1.1/settings.rules`).
const SETTINGS: &[u8] = include_bytes!("../../tests/golden/v1.1/settings.bin");

#[test]
fn only_a_policy_that_says_settings_is_of_a_newer_minor_version() {
    let built = |settings: Option<Settings>| {
        let mut builder = BlobBuilder::new(Meta::default());
        if let Some(settings) = settings {
            builder.settings(ProfileId(0), settings);
        }
        Blob::open(builder.build().unwrap()).unwrap()
    };
    let (silent, default) = (built(None), built(Some(Settings::default())));
    assert_eq!((silent.version(), silent.digest()), ((1, 0), default.digest()), "what is the default is not said");
    assert_eq!(silent.settings(ProfileId(0)), Some(&Settings::default()));
    let said = built(Some(Settings { sni: Sni::Off, ..Settings::default() }));
    assert_eq!((said.version(), said.settings(ProfileId(0)).unwrap().sni), ((1, 1), Sni::Off));
    assert_eq!(said.settings(ProfileId(1)), None);
    let kinds: Vec<u32> = sections(said.as_bytes()).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, (1..=17).collect::<Vec<_>>());
    // Who reads 1.0 only does not pass over it.
    assert_eq!(said.as_bytes()[TABLE + ENTRY * 16 + 4], 1, "required");
    let mut of_nobody = BlobBuilder::new(Meta::default());
    of_nobody.settings(ProfileId(1), Settings::default());
    assert!(of_nobody.build().unwrap_err().to_string().contains("settings of profile 1, and no such profile"));
}

#[test]
fn a_section_of_settings_is_read_whatever_the_minor_version_and_must_be_right() {
    let plain = Blob::open(SETTINGS).unwrap();
    let mut older = SETTINGS.to_vec();
    older[10] = 0;
    reseal(&mut older);
    assert_eq!(Blob::open(older).unwrap().settings(ProfileId(1)), plain.settings(ProfileId(1)));
    // Sixteen bytes of text, and one more: not settings.
    assert!(refused(with_section(17, 1)).starts_with("section `settings` is wrong at byte "));
    // Without content it does not say that everything is the default.
    let mut empty = SETTINGS.to_vec();
    set(&mut empty, TABLE + ENTRY * 16 + 16, 0);
    reseal(&mut empty);
    assert_eq!(refused(empty), "section `settings` is wrong at byte 0 (it is cut): the file is damaged; compile it again");
    let mut twice = SETTINGS.to_vec();
    twice[TABLE + ENTRY * 15] = 17;
    reseal(&mut twice);
    assert_eq!(refused(twice), FormatError::SectionCount(SectionKind::Settings).to_string());
    // A key that this version does not know.
    let mut newer = SETTINGS.to_vec();
    let (_, range) = sections(SETTINGS).pop().unwrap();
    let at = range.start + newer[range.clone()].windows(4).position(|bytes| bytes == b"\x03sni").unwrap();
    newer[at + 3] = b'x';
    reseal(&mut newer);
    assert_eq!(refused(newer), "the setting `snx` is unknown to this program: the policy needs a newer one; update netproxy-dp");
}

/// Changes each byte of the last section, behind the digest: what is opened all the same must not read as it did.
fn every_changed_byte_is_refused_or_read_as_another<T: PartialEq>(golden: &[u8], read: impl Fn(&Blob<&[u8]>) -> T) {
    let plain = read(&Blob::open(golden).unwrap());
    let (_, range) = sections(golden).pop().unwrap();
    let (mut blob, mut opened) = (golden.to_vec(), 0);
    for at in range {
        let good = blob[at];
        for bad in [0, 0xff, good.wrapping_add(1), good ^ 0x10, good ^ 0x80] {
            blob[at] = bad;
            reseal(&mut blob);
            if let Ok(changed) = Blob::open(blob.as_slice()) {
                assert!(bad == good || read(&changed) != plain, "byte {at} is {bad:#x}");
                opened += usize::from(bad != good);
            }
        }
        blob[at] = good;
    }
    assert!(opened > 20, "texts and numbers may be others: {opened}");
}

#[test]
fn behind_the_digest_every_changed_byte_of_settings_is_refused_or_another_value() {
    every_changed_byte_is_refused_or_read_as_another(SETTINGS, |blob| {
        (0..4).map(|id| blob.settings(ProfileId(id)).cloned()).collect::<Vec<_>>()
    });
}

/// Denied sockets of four profiles, the third of which says a setting (`tests/golden/v1.2/sockets.rules`).
const SOCKETS: &[u8] = include_bytes!("../../tests/golden/v1.2/sockets.bin");

fn denied<B: AsRef<[u8]>>(blob: &Blob<B>) -> Vec<Vec<&str>> {
    blob.profiles().iter().map(|meta| meta.unix_sockets.deny.iter().map(String::as_str).collect()).collect()
}

#[test]
fn only_a_policy_that_denies_a_socket_is_of_1_2_and_others_keep_their_bytes() {
    let built = |deny: &[&str], settings: Settings| {
        let sockets = |deny: &[&str]| UnixSockets { deny: deny.iter().map(|path| (*path).to_owned()).collect(), ..UnixSockets::default() };
        let mut builder = BlobBuilder::new(Meta::default());
        let other = builder.profile(Meta { profile: "other".into(), unix_sockets: sockets(deny), ..Meta::default() });
        builder.settings(other, settings);
        Blob::open(builder.build().unwrap()).unwrap()
    };
    let (said, silent) = (Settings { sni: Sni::Off, ..Settings::default() }, Settings::default());
    let kinds = |blob: &Blob<Vec<u8>>| sections(blob.as_bytes()).into_iter().map(|(kind, _)| kind).skip(16).collect::<Vec<_>>();
    for (deny, settings, minor, more) in [
        (&[] as &[&str], &silent, 0, &[] as &[u32]),
        (&[], &said, 1, &[17]),
        (&["/run/a.sock"], &silent, 2, &[18]),
        (&["/a", "/b"], &said, 2, &[17, 18]),
    ] {
        let blob = built(deny, settings.clone());
        assert_eq!((blob.version(), kinds(&blob)), ((1, minor), more.to_vec()), "{deny:?}");
        assert_eq!((denied(&blob), blob.settings(ProfileId(1))), (vec![vec![], deny.to_vec()], Some(settings)));
        // Beside the sections of 1.0, and in the same order.
        let flags = |n: usize| blob.as_bytes()[TABLE + ENTRY * n + 4];
        let required: Vec<u8> = (16..16 + more.len()).map(flags).collect();
        assert_eq!(required, more.iter().map(|kind| u8::from(*kind == 17)).collect::<Vec<_>>(), "required");
    }
    // Where they are is all that differs in the record that every reader knows.
    assert_eq!(built(&["/a"], silent.clone()).section(SectionKind::Meta), built(&[], silent).section(SectionKind::Meta));
    for deny in [&["relative"] as &[&str], &["/b", "/a"]] {
        let unix_sockets = UnixSockets { deny: deny.iter().map(|path| (*path).to_owned()).collect(), ..UnixSockets::default() };
        let error = BlobBuilder::new(Meta { unix_sockets, ..Meta::default() }).build().unwrap_err().to_string();
        assert!(error.contains("denied sockets: "), "{error}");
    }
}

#[test]
fn a_section_of_denied_sockets_is_read_whatever_the_minor_version_and_must_be_right() {
    let plain = Blob::open(SOCKETS).unwrap();
    assert_eq!(denied(&plain), [vec!["/run/docker.sock", "/run/\u{fc}nix.sock"], vec!["/run/docker.sock"], vec![], vec![]]);
    let mut older = SOCKETS.to_vec();
    older[10] = 0;
    reseal(&mut older);
    assert_eq!(denied(&Blob::open(older).unwrap()), denied(&plain));
    // To a reader that does not know its kind it is one of another time.
    let mut unknown = SOCKETS.to_vec();
    unknown[TABLE + ENTRY * 17] = 0xff;
    reseal(&mut unknown);
    let unknown = Blob::open(unknown).unwrap();
    assert_eq!((denied(&unknown), rules(&unknown)), (vec![vec![]; 4], rules(&plain)));
    let wrong = |what: &str| format!("section `socket denies` is wrong at byte 0 ({what}): the file is damaged; compile it again");
    // Sixteen bytes of text, and one more.
    assert_eq!(refused(with_section(18, 0)), wrong("not the record that belongs here"));
    // Without content it does not say that nothing is denied.
    let mut empty = SOCKETS.to_vec();
    set(&mut empty, TABLE + ENTRY * 17 + 16, 0);
    reseal(&mut empty);
    assert_eq!(refused(empty), wrong("not the record that belongs here"));
    let mut twice = SOCKETS.to_vec();
    twice[TABLE + ENTRY * 16] = 18;
    reseal(&mut twice);
    assert_eq!(refused(twice), FormatError::SectionCount(SectionKind::SocketDenies).to_string());
    let (_, range) = sections(SOCKETS).pop().unwrap();
    for (from, to, what) in [
        ("/run/docker.sock", "/run/../er.sock", "a path that is not absolute, or leads up"),
        ("/run/docker.sock", "/zzz/docker.sock", "paths that are out of order"),
    ] {
        let (mut changed, bytes) = (SOCKETS.to_vec(), from.as_bytes());
        let at = range.start + changed[range.clone()].windows(bytes.len()).position(|window| window == bytes).unwrap();
        changed[at..at + to.len()].copy_from_slice(to.as_bytes());
        reseal(&mut changed);
        assert_eq!(refused(changed), wrong(what));
    }
}

#[test]
fn behind_the_digest_every_changed_byte_of_denied_sockets_is_refused_or_another_path() {
    every_changed_byte_is_refused_or_read_as_another(SOCKETS, |blob| {
        denied(blob).into_iter().map(|paths| paths.into_iter().map(str::to_owned).collect()).collect::<Vec<Vec<_>>>()
    });
}

#[test]
fn signatures_are_passed_over_and_do_not_change_the_digest() {
    let plain = Blob::open(EVERYTHING).unwrap();
    for bytes in [1, 112, 65_536] {
        let blob = signed(bytes);
        let opened = Blob::open(&blob).unwrap();
        assert_eq!((opened.digest(), rules(&opened)), (plain.digest(), rules(&plain)), "{bytes}");
        let mut sealed = blob.clone();
        reseal(&mut sealed);
        assert!(sealed == blob, "sealing again changes nothing");
        // Their bytes are anybody's.
        let mut other = blob.clone();
        let last = other.len() - 1;
        other[last] ^= 0xff;
        assert_eq!(Blob::open(other).unwrap().digest(), plain.digest());
        // The content is not.
        let mut other = blob;
        other[EVERYTHING.len() - 1] ^= 1;
        assert_eq!(refused(other), FormatError::Digest.to_string());
    }
}

#[test]
fn signatures_of_a_wrong_length_are_refused() {
    let too_many = "more bytes of signatures than there may be";
    assert!(refused(signed(65_537)).contains(too_many));
    // Without the bytes: they would be taken from the content, whose last section then ends outside of it.
    for bytes in [EVERYTHING.len() - 63, EVERYTHING.len(), usize::MAX] {
        let mut blob = EVERYTHING.to_vec();
        set(&mut blob, 24, bytes);
        assert!(refused(blob).contains(too_many), "{bytes}");
    }
    for bytes in [1, 64, 4096, EVERYTHING.len() - 64] {
        let mut blob = EVERYTHING.to_vec();
        set(&mut blob, 24, bytes);
        reseal(&mut blob);
        assert!(refused(blob).contains("it ends beyond the file"), "{bytes}");
    }
    // Fewer or more than the header says: the last bytes of the content would be signatures, or signatures content.
    let mut less = signed(200);
    set(&mut less, 24, 100);
    assert_eq!(refused(less), FormatError::Digest.to_string());
    let mut cut = signed(200);
    cut.truncate(EVERYTHING.len());
    assert!(refused(cut).contains("it is cut, padded or still being written"));
    let mut longer = signed(200);
    longer.push(0);
    assert!(refused(longer).contains("it is cut, padded or still being written"));
}

/// Asks for everything that its rules speak of; panics are the failure.
fn exercise(blob: &Blob<&[u8]>, hosts: &[Host]) {
    let addresses = ["10.1.2.3".parse().unwrap(), "2001:db8:1::1".parse().unwrap()];
    for (number, host) in (0..).zip(hosts) {
        let seen = number % 2 == 0;
        let (method, path) = if seen { (Some("GET"), Some("/v1/users/7")) } else { (None, None) };
        let protocol = if seen { Protocol::Http } else { Protocol::Connect };
        let profile = ProfileId(number / 2 % 2);
        let request =
            Request { profile, protocol, host, port: 443, method, path, addresses: &addresses, inside: None, can_intercept: false };
        let _ = (decide(blob, &request), named_by(blob, &request));
        host.name().map(|name| blob.closest(name));
    }
}

fn hosts() -> Vec<Host> {
    let texts = [
        "a.test",
        "x.b.test",
        "d.c.e.test",
        "deep.one.two.three.four.five.six.seven.eight.test",
        "wiki.corp",
        "x.a-name-of-more-than-thirty-two-characters.long.test",
        "several.test",
        "x.several.test",
        "api.conditions.test",
        "region-7.b7.cdn.test",
        "abcdefghijkl-x-y.alone.test",
        "10.1.2.3",
        "2001:db8:1::1",
    ];
    texts.map(|text| Host::parse(text).unwrap()).into()
}

#[test]
fn the_sample_has_something_in_every_section() {
    let empty: Vec<u32> = sections(EVERYTHING).into_iter().filter(|(_, range)| range.is_empty()).map(|(kind, _)| kind).collect();
    assert_eq!(empty, [SectionKind::Ipv4Index as u32], "16,385 ranges would be a large sample");
    let automata = Blob::open(EVERYTHING).unwrap().section(SectionKind::Automata)[..8].to_vec();
    assert_eq!(automata, [1, 0, 0, 0, 1, 0, 0, 0], "an automaton, and a program that stands alone");
    exercise(&Blob::open(EVERYTHING).unwrap(), &hosts());
}

#[test]
fn every_truncation_is_refused() {
    for len in 0..EVERYTHING.len() {
        let cut = &EVERYTHING[..len];
        assert!(Blob::open_sealed(cut).is_err(), "cut to {len} bytes");
        // A header that says that this is all: a section ends outside.
        if len >= 64 {
            let mut cut = cut.to_vec();
            set(&mut cut, 16, len);
            reseal(&mut cut);
            assert!(Blob::open_sealed(&cut).is_err(), "cut to {len} bytes, and sealed");
        }
    }
}

#[test]
fn every_changed_byte_is_refused() {
    let mut blob = EVERYTHING.to_vec();
    for at in 0..EVERYTHING.len() {
        let good = blob[at];
        for bad in [good ^ 0x01, good ^ 0x80, !good] {
            blob[at] = bad;
            assert!(Blob::open_sealed(&blob).is_err(), "byte {at} is {bad:#x}");
        }
        blob[at] = good;
    }
}

/// With a right digest again: refused or opened, it never panics, and neither does one whose records nobody checked. Every byte gets one value of four, those of small
/// sections get all; of what is long and alike, suffixes and automata, some bytes are looked at. (The fuzzers look at all.)
#[test]
fn behind_the_digest_every_changed_byte_is_refused_or_harmless() {
    let (mut blob, hosts) = (EVERYTHING.to_vec(), hosts());
    let mut opened = [0; SectionKind::ALL.len() + 1];
    for (kind, range) in std::iter::once((0, 0..TABLE + ENTRY * 16)).chain(sections(EVERYTHING)) {
        let (start, small) = (range.start, range.len() < 100);
        for at in range {
            let good = blob[at];
            if kind == SectionKind::Suffixes as u32 && at % 61 != 0 && good == 0
                || kind == SectionKind::Automata as u32 && at - start > 100 && at % 7 != 0
            {
                continue;
            }
            let values = [0, 0xff, good.wrapping_add(1), good ^ 0x10];
            for bad in values.into_iter().skip(if small { 0 } else { at % 4 }).take(if small { 4 } else { 1 }) {
                blob[at] = bad;
                reseal(&mut blob);
                if let Ok(changed) = Blob::open_sealed(blob.as_slice()) {
                    let some = at % hosts.len();
                    exercise(&changed, &hosts[some..(some + 4).min(hosts.len())]);
                    let checked = changed.check().is_ok();
                    if checked || at % 4 == 0 {
                        let rules = changed.rules().count();
                        assert!(
                            !checked || rules == changed.rule_count() as usize,
                            "byte {at} is {bad:#x}: not every rule that it says it has is there"
                        );
                    }
                    opened[kind as usize] += usize::from(checked && bad != good);
                }
            }
            blob[at] = good;
        }
        reseal(&mut blob);
    }
    // Some bytes may be anything that they are not: lines, ports, names of files; others only what they are.
    let harmless: Vec<u32> = SectionKind::ALL.into_iter().map(|kind| kind as u32).filter(|kind| opened[*kind as usize] > 0).collect();
    for kind in [SectionKind::Meta, SectionKind::Records, SectionKind::Rules, SectionKind::Terms, SectionKind::Ports, SectionKind::Automata]
    {
        assert!(harmless.contains(&(kind as u32)), "{kind}: {opened:?}");
    }
    for kind in [SectionKind::Ipv4, SectionKind::Ipv6] {
        assert_eq!(opened[kind as usize], 0, "{kind}: {opened:?}");
    }
}
