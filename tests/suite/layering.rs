//! Who may depend on whom: the arrows of ARCHITECTURE.md, from the manifests.

use std::path::Path;

fn dependencies(package: &str, table: &str) -> Vec<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(package).join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let manifest: toml::de::DeTable<'_> = toml::de::DeTable::parse(&text).unwrap().into_inner();
    let table = manifest.get(table).and_then(|table| table.get_ref().as_table());
    table.into_iter().flatten().map(|(name, _)| name.get_ref().to_string()).collect()
}

#[test]
fn crates_know_only_what_they_may() {
    let forbidden = [
        // The ground floor: no async, no TOML, nobody above.
        ("policy-format", "dependencies", &["policy-compiler", "dataplane", "tokio", "hyper", "rustls", "toml"][..]),
        ("policy-format", "dev-dependencies", &["policy-compiler", "dataplane", "tokio"]),
        ("policy-compiler", "dependencies", &["dataplane", "tokio", "hyper", "rustls"]),
        ("policy-compiler", "dev-dependencies", &["dataplane"]),
        ("dataplane", "dependencies", &["policy-compiler", "toml"]),
        ("dataplane", "dev-dependencies", &["policy-compiler", "toml"]),
    ];
    for (package, table, names) in forbidden {
        let found = dependencies(package, table);
        for name in names {
            assert!(!found.iter().any(|found| found == name), "{package} [{table}] names {name}");
        }
    }
    assert!(dependencies("policy-compiler", "dependencies").contains(&"policy-format".to_owned()), "the manifests are read");
    // The one arrow at build time: the built-in policy.
    assert_eq!(dependencies("dataplane", "build-dependencies"), ["policy-compiler"]);
}
