//! The binary: where it finds layers, what it says to programs, and how it ends.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use base64::Engine;
use policy_format::{Blob, Mode};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const USER: &str = "default_permissions = \"w\"\npermissions.w.network.enabled = true\n";

/// A folder with `home`, `repo` and whatever a test writes, in which the binary runs with nothing else in its environment.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["home", "repo/.git"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_netpolicy"));
        command.args(arguments).current_dir(self.path("repo")).env_clear().env("CODEX_HOME", self.path("home"));
        command.output().unwrap()
    }

    /// The sources that `check` says it read.
    fn sources(&self, arguments: &[&str]) -> Vec<String> {
        let output = self.run(&[&["check", "--json"], arguments].concat());
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        let root = self.0.path().to_str().unwrap();
        let shown = said["sources"].as_array().unwrap().iter().map(|source| source.as_str().unwrap().replace(root, ""));
        // What the machine that runs the tests has in /etc is not ours.
        shown.filter(|source| !source.contains(" /etc/codex/")).collect()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[test]
fn device_management_is_read_from_both_forms_of_property_lists_and_from_base64() {
    let place = Place::new();
    let user = place.write("user.toml", USER);
    let requirements = "[experimental_network]\nmode = \"limited\"\n";
    let config = "permissions.w.network.domains.\"a.test\" = \"allow\"\n";
    let mut list = plist::Dictionary::new();
    list.insert("requirements_toml_base64".into(), plist::Value::String(base64(requirements)));
    list.insert("config_toml_base64".into(), plist::Value::String(base64(config)));
    let list = plist::Value::Dictionary(list);
    let (xml, binary) = (place.path("mdm.plist"), place.path("mdm-binary.plist"));
    list.to_file_xml(&xml).unwrap();
    list.to_file_binary(&binary).unwrap();
    assert!(fs::read(&xml).unwrap().starts_with(b"<?xml") && fs::read(&binary).unwrap().starts_with(b"bplist00"));
    let (raw_requirements, raw_config) = (place.write("r.b64", base64(requirements) + "\n"), place.write("c.b64", base64(config)));
    let ways = [
        vec!["--mdm", text(&xml)],
        vec!["--mdm", text(&binary)],
        vec!["--mdm-requirements-base64", text(&raw_requirements), "--mdm-config-base64", text(&raw_config)],
    ];
    for way in ways {
        let out = place.path("policy.bin");
        let output = place.run(&[&["compile", "-o", text(&out), "--user", text(&user)], way.as_slice()].concat());
        assert_eq!(output.status.code(), Some(0), "{way:?}: {}", stderr(&output));
        let blob = Blob::open(fs::read(&out).unwrap()).unwrap();
        assert_eq!(blob.meta().mode, Mode::Limited, "{way:?}");
        let rules: Vec<String> = blob.rules().map(|rule| format!("{} {rule} @ {}", rule.access, rule.place())).collect();
        assert_eq!(rules, ["allow a.test @ mdm config_toml_base64:1"], "{way:?}");
    }
}

#[test]
fn a_property_list_that_is_none_is_bad_input() {
    let place = Place::new();
    let mut empty = plist::Dictionary::new();
    empty.insert("other".into(), plist::Value::Boolean(true));
    let without = place.path("without.plist");
    plist::Value::Dictionary(empty).to_file_xml(&without).unwrap();
    let junk = place.write("junk.plist", "junk");
    let bad = place.write("bad.b64", "!!!");
    let binary = place.write("latin1.b64", base64::engine::general_purpose::STANDARD.encode(b"a = \"\xff\""));
    for (arguments, why) in [
        (["--mdm", text(&without)], "it has neither"),
        (["--mdm", text(&junk)], "is not a property list"),
        (["--mdm-config-base64", text(&bad)], "does not hold base64"),
        (["--mdm-config-base64", text(&binary)], "is not UTF-8 text"),
        (["--user", "/nonexistent/config.toml"], "cannot read the user layer"),
        (["-c", "novalue"], "is not `key=value`"),
        (["-c", "[a]\nb=1"], "is not `key=value`"),
    ] {
        let output = place.run(&[&["check"], arguments.as_slice()].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(why) && output.stdout.is_empty(), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn default_places_are_searched_only_where_no_file_is_named() {
    let place = Place::new();
    let user = place.write("home/config.toml", USER);
    place.write("repo/.codex/config.toml", "permissions.w.network.mode = \"limited\"\n");
    let (user_line, project_line) = ("user settings /home/config.toml", "project settings /repo/.codex/config.toml");
    assert_eq!(place.sources(&[]), [user_line, project_line]);
    assert_eq!(place.sources(&["-c", "permissions.w.network.mode=full"]), ["cli settings -c", user_line, project_line]);
    assert_eq!(place.sources(&["--user", text(&user)]), [user_line]);
    assert_eq!(place.sources(&["--user", text(&user), "--discover"]), [user_line, project_line]);
    let other = place.write("other.toml", USER);
    assert_eq!(place.sources(&["--user", text(&other), "--discover"]), ["user settings /other.toml", project_line]);
}

#[test]
fn the_later_of_two_settings_on_the_command_line_wins() {
    let place = Place::new();
    let user = place.write("user.toml", USER);
    let key = "permissions.w.network.mode";
    let said = |first: &str, second: &str| {
        let arguments = ["-c", &format!("{key}={first}"), "-c", &format!("{key}={second}")];
        let output = place.run(&[&["check", "--json", "--user", text(&user)], arguments.as_slice()].concat());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["mode"].clone()
    };
    assert_eq!(said("limited", "full"), "full");
    assert_eq!(said("full", "limited"), "limited");
}

#[test]
fn check_ends_with_what_the_answer_is() {
    let place = Place::new();
    let good = place.write("good.toml", USER);
    let warns = place.write("warns.toml", format!("{USER}features.network_proxy = false\n"));
    let bad = place.write("bad.toml", format!("{USER}permissions.w.network.mode = \"x\"\n"));
    for (arguments, code) in [
        (vec!["--user", text(&good)], 0),
        (vec!["--user", text(&warns)], 0),
        (vec!["--user", text(&warns), "--strict"], 1),
        (vec!["--user", text(&bad)], 1),
        (vec!["--user", "/nonexistent"], 2),
        (vec!["--nonsense"], 2),
        (vec!["--user", text(&good), "--json", "--format", "sarif"], 2),
    ] {
        for format in [&[][..], &["--format", "json"], &["--format", "sarif"]] {
            if code == 2 && !format.is_empty() {
                continue;
            }
            let output = place.run(&[&["check"], arguments.as_slice(), format].concat());
            assert_eq!(output.status.code(), Some(code), "{arguments:?} {format:?}: {}", stderr(&output));
        }
    }
    let nothing = place.run(&["check"]);
    assert_eq!(nothing.status.code(), Some(2), "no layer at all");
    let out = place.path("out.bin");
    let refused = place.run(&["compile", "--user", text(&bad), "-o", text(&out)]);
    assert_eq!((refused.status.code(), out.exists()), (Some(2), false), "a wrong policy is written nowhere");
}

/// Two layers with errors, warnings, two places, an edit and a character of two bytes before a span.
fn wrong() -> (Place, Vec<String>) {
    let place = Place::new();
    let requirements = place.write("requirements.toml", "[experimental_network]\nmode = \"limited\"\n");
    let user = place.write(
        "my user #1 ü.toml",
        "default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\nmode = \"full\"\nallowed_domains = [\"ü.test\", \"https://a.test\"]\nenable_socks = true\n",
    );
    let user = user.to_str().unwrap().to_owned();
    (place, vec!["check".into(), "--requirements".into(), text(&requirements).to_owned(), "--user".into(), user])
}

fn run_wrong(format: &str) -> Value {
    let (place, mut arguments) = wrong();
    arguments.extend(["--format".to_owned(), format.to_owned()]);
    let output = place.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn json_has_every_diagnostic_with_places_and_edits() {
    let said = run_wrong("json");
    assert_eq!(said["ok"], false);
    assert_eq!(said["sources"].as_array().unwrap().len(), 2);
    assert!(said["profile"].is_null() && said["rules"].is_null());
    let all = said["diagnostics"].as_array().unwrap();
    let codes: Vec<(&str, &str)> = all.iter().map(|one| (one["severity"].as_str().unwrap(), one["code"].as_str().unwrap())).collect();
    let expected =
        [("error", "requirement-violated"), ("warning", "older-spelling"), ("error", "invalid-pattern"), ("error", "unknown-key")];
    assert_eq!(codes, expected);
    for one in all {
        assert!(!one["message"].as_str().unwrap().is_empty() && one["help"].is_string(), "{one}");
        for region in one["places"].as_array().unwrap().iter().chain(one["edit"].is_object().then_some(&one["edit"])) {
            for key in ["line", "column", "end_line", "end_column"] {
                assert!(region[key].as_u64().unwrap() >= 1, "{one}");
            }
            assert!(region["file"].is_string() && region["layer"].is_string(), "{one}");
        }
    }
    let layers: Vec<&str> = all[0]["places"].as_array().unwrap().iter().map(|place| place["layer"].as_str().unwrap()).collect();
    assert_eq!(layers, ["user", "managed"], "a conflict has both places");
    // Columns count characters: the `ü` before it is one.
    let place = &all[2]["places"][0];
    assert_eq!((place["line"].as_u64(), place["column"].as_u64(), place["end_column"].as_u64()), (Some(5), Some(31), Some(39)), "{place}");
    assert_eq!(all[2]["edit"]["text"], "a.test");
}

#[test]
fn sarif_is_what_code_hosts_read() {
    let log = run_wrong("sarif");
    assert_eq!(log["version"], "2.1.0");
    assert!(log["$schema"].as_str().unwrap().contains("sarif-2.1.0"));
    let runs = log["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 1);
    let driver = &runs[0]["tool"]["driver"];
    assert_eq!(driver["name"], "netpolicy");
    assert_eq!(runs[0]["columnKind"], "unicodeCodePoints");
    let rules: Vec<&str> = driver["rules"].as_array().unwrap().iter().map(|rule| rule["id"].as_str().unwrap()).collect();
    assert_eq!(rules.iter().collect::<BTreeSet<_>>().len(), rules.len(), "each rule once");
    assert!(driver["rules"].as_array().unwrap().iter().all(|rule| rule["shortDescription"]["text"].is_string()));
    let results = runs[0]["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    let mut fixes = 0;
    for result in results {
        assert!(rules.contains(&result["ruleId"].as_str().unwrap()), "{result}");
        assert!(["error", "warning", "note", "none"].contains(&result["level"].as_str().unwrap()), "{result}");
        assert!(!result["message"]["text"].as_str().unwrap().is_empty());
        assert_eq!(result["locations"].as_array().unwrap().len(), 1);
        for location in result["locations"].as_array().unwrap().iter().chain(result["relatedLocations"].as_array().into_iter().flatten()) {
            let physical = &location["physicalLocation"];
            check_artifact(&physical["artifactLocation"]);
            check_region(&physical["region"]);
        }
        for fix in result["fixes"].as_array().into_iter().flatten() {
            fixes += 1;
            assert!(fix["description"]["text"].is_string(), "{fix}");
            for change in fix["artifactChanges"].as_array().unwrap() {
                check_artifact(&change["artifactLocation"]);
                for replacement in change["replacements"].as_array().unwrap() {
                    check_region(&replacement["deletedRegion"]);
                    assert!(replacement["insertedContent"]["text"].is_string(), "{fix}");
                }
            }
        }
    }
    assert_eq!(fixes, 3);
    assert_eq!(results[0]["relatedLocations"].as_array().unwrap().len(), 1, "a conflict has both places");
}

/// An artifact is named by a URI reference (SARIF 2.1.0, section 3.4.3): no spaces, no backslashes.
fn check_artifact(artifact: &Value) {
    let uri = artifact["uri"].as_str().unwrap();
    assert!(!uri.is_empty() && uri.is_ascii() && !uri.contains([' ', '\\', '"', '<', '>', '#', '?']), "{uri}");
}

/// Lines and columns begin with 1, and no region ends before it begins (section 3.30).
fn check_region(region: &Value) {
    let number = |key: &str| region[key].as_u64().unwrap_or_else(|| panic!("{region}"));
    let (start, end) = ((number("startLine"), number("startColumn")), (number("endLine"), number("endColumn")));
    assert!(start.0 >= 1 && start.1 >= 1 && end >= start, "{region}");
}

#[test]
fn a_clean_policy_is_said_to_be_one_in_every_format() {
    let place = Place::new();
    let user = place.write("user.toml", USER);
    let run = |format: &str| place.run(&["check", "--user", text(&user), "--format", format]).stdout;
    let json: Value = serde_json::from_slice(&run("json")).unwrap();
    assert_eq!(
        (&json["ok"], &json["profile"], &json["network"], &json["mode"]),
        (&true.into(), &"w".into(), &"proxied".into(), &"full".into())
    );
    assert_eq!(json["diagnostics"].as_array().unwrap().len(), 0);
    let sarif: Value = serde_json::from_slice(&run("sarif")).unwrap();
    assert_eq!(sarif["runs"][0]["results"].as_array().unwrap().len(), 0);
    assert_eq!(String::from_utf8(run("text")).unwrap(), "ok: profile w, network proxied, mode full, 0 rules\n");
}
