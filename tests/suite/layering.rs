//! Who may depend on whom: the arrows of ARCHITECTURE.md, from the manifests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn dependencies(package: &str, table: &str) -> Vec<String> {
    let manifest = root().join(package).join("Cargo.toml");
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

/// The lints of a manifest below a table, by name, without blanks and remarks.
fn lints(manifest: &Path, table: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(manifest).unwrap();
    let mut section = String::new();
    let mut lints = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let (Some(of), Some((name, level))) = (section.strip_prefix(table), line.split_once('=')) {
            let level = level.split('#').next().unwrap_or_default().replace(' ', "");
            lints.insert(format!("{of}.{}", name.trim()), level);
        }
    }
    lints
}

#[test]
fn the_data_plane_has_every_lint_and_one_exception() {
    let mut workspace = lints(&root().join("Cargo.toml"), "workspace.lints.");
    let data_plane = lints(&root().join("dataplane/Cargo.toml"), "lints.");
    assert_eq!(workspace.insert("rust.unsafe_code".into(), "\"deny\"".into()).as_deref(), Some("\"forbid\""));
    assert_eq!(data_plane, workspace);
    // Every other crate takes them as they are.
    for package in ["policy-format", "policy-compiler", "tests", "benches"] {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{package}");
    }
}

#[test]
fn one_call_is_unsafe() {
    let mut found = Vec::new();
    let mut folders = vec![root().join("dataplane")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&entry).unwrap();
                let excepted = text.matches("unsafe_code").count();
                found.extend((excepted > 0).then(|| (entry.file_name().unwrap().to_owned(), excepted, text.matches("unsafe {").count())));
            }
        }
    }
    assert_eq!(found, [("map.rs".into(), 1, 1)]);
}
