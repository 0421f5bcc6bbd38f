//! Denied unix sockets in a blob: what was written is what is read, beside settings and without.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use policy_format::{Blob, BlobBuilder, Meta, ProfileId, SectionKind, Settings, UnixSockets, reseal};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn paths() -> impl Strategy<Value = BTreeSet<String>> {
    proptest::collection::btree_set("(/[a-zé ]{1,9}){1,3}", 0..4)
}

fn meta() -> impl Strategy<Value = Meta> {
    (paths(), paths(), any::<bool>()).prop_map(|(allow, deny, dangerously_allow_all)| {
        let unix_sockets = UnixSockets { allow: allow.into_iter().collect(), deny: deny.into_iter().collect(), dangerously_allow_all };
        Meta { unix_sockets, ..Meta::default() }
    })
}

fn build(profiles: &[Meta], via: bool) -> Vec<u8> {
    let mut builder = BlobBuilder::new(profiles.first().cloned().unwrap());
    for meta in profiles.iter().skip(1) {
        builder.profile(meta.clone());
    }
    builder.settings(ProfileId(0), Settings { via, ..Settings::default() });
    builder.build().unwrap()
}

proptest! {
    #[test]
    fn what_is_written_is_read(profiles in proptest::collection::vec(meta(), 1..5), via in any::<bool>()) {
        let blob = Blob::open(build(&profiles, via)).unwrap();
        prop_assert_eq!(blob.profiles(), &profiles[..]);
        let denies = profiles.iter().any(|meta| !meta.unix_sockets.deny.is_empty());
        prop_assert_eq!(blob.version(), (1, if denies { 2 } else { u16::from(!via) }));
        prop_assert_eq!(blob.section(SectionKind::SocketDenies).is_empty(), !denies);
        // Without them, the same bytes as ever.
        let silent: Vec<Meta> = profiles.iter().cloned().map(|mut meta| { meta.unix_sockets.deny.clear(); meta }).collect();
        prop_assert_eq!(build(&silent, via) == build(&profiles, via), !denies);
    }

    #[test]
    fn no_bytes_of_the_section_make_open_panic(
        profiles in proptest::collection::vec(meta(), 1..3),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut bytes = build(&profiles, true);
        let len = Blob::open(&bytes).unwrap().section(SectionKind::SocketDenies).len();
        prop_assume!(len > 0);
        let start = bytes.len() - len;
        for (index, byte) in changes {
            *bytes.get_mut(start + index.index(len)).unwrap() = byte;
        }
        reseal(&mut bytes);
        let _ = Blob::open(bytes);
    }
}
