//! `netpolicy presets`, through the binary.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use serde_json::Value;
use std::process::Command;

/// Exit code, standard output, standard error of `netpolicy presets`.
fn presets(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_netpolicy")).arg("presets").args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn json(arguments: &[&str]) -> Value {
    let (_, out, err) = presets(&[arguments, &["--json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"))
}

#[test]
fn lists_every_preset_in_columns() {
    let (code, out, _) = presets(&[]);
    assert_eq!(code, 0);
    let lines: Vec<&str> = out.lines().collect();
    let title = lines[0].find("Nothing").unwrap();
    for (line, listed) in lines.iter().zip(json(&[]).as_array().unwrap()) {
        let cells: Vec<&str> = line.split_whitespace().take(4).collect();
        assert_eq!(cells[..2], [listed["name"].as_str().unwrap(), listed["access"].as_str().unwrap()]);
        assert_eq!(cells[2], listed["patterns"].to_string());
        assert_eq!(cells[3], listed["date"].as_str().unwrap());
        assert_eq!(line[title..], *listed["title"].as_str().unwrap(), "aligned");
    }
    let names: Vec<&str> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
    let expected = "none all common-dependencies openai anthropic github gitlab npm pypi crates go maven-gradle nuget rubygems packagist docker \
                    debian-ubuntu alpine fedora cdn cloud-metadata exfiltration";
    assert_eq!(names.join(" "), expected);
}

#[test]
fn shows_one_by_group_with_source_and_date() {
    let (code, out, _) = presets(&["show", "crates"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("crates: Rust: crates, rustup, toolchains, documentation\nallow, "), "{out}");
    assert!(out.contains("\nsource: vendor documentation, "), "{out}");
    assert!(out.contains("\n\ntoolchains\n  static.rust-lang.org  toolchains, checksums\n  sh.rustup.rs\n"), "{out}");
    let shown = json(&["show", "crates"]);
    let patterns = shown["patterns"].as_array().unwrap();
    let first = &patterns[0];
    assert_eq!(
        (first["pattern"].as_str(), first["group"].as_str(), first["line"].as_u64()),
        (Some("**.crates.io"), Some("crates"), Some(7))
    );
    assert_eq!(out.lines().filter(|line| line.starts_with("  ")).count(), patterns.len());
    assert_eq!(shown["date"].as_str().map(str::len), Some(10));
    let (_, _, err) = presets(&["show", "nope"]);
    assert_eq!(err, "error: there is no preset `nope`\nhelp: see `netpolicy presets` for those that are there\n");
    let (code, out, err) = presets(&["show", "githbu"]);
    assert_eq!((code, out.as_str(), err.as_str()), (2, "", "error: there is no preset `githbu`\nhelp: did you mean `github`?\n"));
}

#[test]
fn tells_which_cover_a_host() {
    let covering = |host: &str| -> Vec<String> {
        let answer = json(&["which", host]);
        let text = |found: &Value, key: &str| found[key].as_str().unwrap().to_owned();
        let row = |found: &Value| format!("{} {} {}", text(found, "preset"), text(found, "access"), text(found, "pattern"));
        answer["presets"].as_array().unwrap().iter().map(row).collect()
    };
    assert_eq!(covering("Some.Where.NPMJS.org."), ["common-dependencies allow **.npmjs.org", "npm allow **.npmjs.org"]);
    assert_eq!(covering("x.trycloudflare.com"), ["exfiltration deny **.trycloudflare.com"]);
    assert_eq!(covering("::ffff:169.254.169.254"), ["cloud-metadata deny 169.254.169.254"]);
    assert_eq!(covering("[fd00:ec2::254]"), ["cloud-metadata deny fd00:ec2::254"]);
    assert_eq!(covering("abc.oast.fun"), ["exfiltration deny **.oast.fun"]);
    assert_eq!(covering("x.trycloudflare.com:443"), ["exfiltration deny **.trycloudflare.com"]);
    assert_eq!(covering("[fd00:ec2::254]:80"), ["cloud-metadata deny fd00:ec2::254"]);
    assert_eq!(covering("plugins-artifacts.gradle.org").len(), 2);

    let (code, out, _) = presets(&["which", "sum.golang.org"]);
    assert_eq!(code, 0);
    let place = out.lines().find(|line| line.starts_with("go ")).unwrap().split_whitespace().nth(3).unwrap();
    let (file, line) = place.rsplit_once(':').unwrap();
    let text = std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    assert!(text.lines().nth(line.parse::<usize>().unwrap() - 1).unwrap().starts_with("sum.golang.org "), "{place}");

    assert_eq!(presets(&["which", "nowhere.example"]), (1, "no preset covers nowhere.example\n".into(), String::new()));
    assert_eq!(presets(&["which", "nowhere.example", "--json"]).0, 1);
    let (code, _, err) = presets(&["which", "https://github.com/x"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.starts_with("error: `https://github.com/x` is not a host: "), "{err}");
}
