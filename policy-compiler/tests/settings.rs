//! Settings beyond the rules: from TOML into the policy, out of it again, and what is said where they differ.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::decompile::{decompile, decompile_profile};
use policy_compiler::diff::Direction;
use policy_compiler::diff::compare;
use policy_compiler::profiles::Profile;
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options, Selection, compile, compile_profiles};
use policy_format::{Blob, Layer, LimitKind, Limits, ProfileId, Settings};
use std::fs;
use std::process::Command;

fn source(text: &str) -> SourceFile {
    SourceFile::from_text(Layer::User, Role::Config, "config.toml", text.to_owned())
}

/// A policy with these lines in its network table.
fn policy(lines: &str) -> Blob<Vec<u8>> {
    recompiled(&format!("default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\n{lines}\n"))
}

fn recompiled(text: &str) -> Blob<Vec<u8>> {
    let compiled = compile(vec![source(text)], Options::default()).unwrap_or_else(|failure| panic!("{text}\n{failure}"));
    Blob::open(compiled.blob).unwrap()
}

fn settings(blob: &Blob<Vec<u8>>) -> Settings {
    blob.settings(ProfileId(0)).unwrap().clone()
}

/// Every limit as the least and as the most that it may be, in numbers and in text.
#[test]
fn every_limit_can_be_said() {
    for limit in Limits::ALL {
        for value in [limit.min, limit.max] {
            let blob = policy(&format!("limits.{} = \"{}\"", limit.name, limit.shown(value)));
            assert_eq!(settings(&blob).limits.get(limit.name), Some(value), "{}", limit.name);
        }
        // A number is a count, or bytes, or seconds.
        let unit = if limit.kind == LimitKind::Time { 1000 } else { 1 };
        let number = limit.default.div_ceil(unit);
        let blob = policy(&format!("limits.{} = {number}", limit.name));
        assert_eq!(settings(&blob).limits.get(limit.name), Some(number * unit), "{}", limit.name);
    }
}

#[test]
fn a_policy_as_toml_says_its_settings() {
    for name in ["settings", "audit"] {
        let golden = format!("{}/../tests/golden/v1.1/{name}.bin", env!("CARGO_MANIFEST_DIR"));
        let blob = Blob::open(fs::read(golden).unwrap()).unwrap();
        for (id, meta) in (0..).zip(blob.profiles()) {
            let text = decompile_profile(Profile::new(&blob, ProfileId(id))).unwrap();
            let again = recompiled(&text);
            assert_eq!(again.settings(ProfileId(0)), blob.settings(ProfileId(id)), "{text}");
            // Rules are in another line now, and nothing else is different.
            let lines = |text: &str| text.lines().skip(1).map(|line| line.split('#').next().unwrap().to_owned()).collect::<Vec<_>>();
            assert_eq!(lines(&decompile(&again).unwrap()), lines(&text), "{}", meta.profile);
        }
    }
    // Beside a proxy for all.
    let blob =
        policy("upstream = { url = \"http://p.test:1\", no_proxy = [\"a.test\"], rules = [{ hosts = [\"b.test\"], url = \"direct\" }] }");
    let again = recompiled(&decompile(&blob).unwrap());
    assert_eq!((again.meta(), again.settings(ProfileId(0))), (blob.meta(), blob.settings(ProfileId(0))));
}

/// What the change of some lines says: key, old, new, direction.
fn changed(old: &str, new: &str) -> Vec<(String, String, String, Direction)> {
    let difference = compare(&policy(old), &policy(new)).unwrap();
    difference.settings.into_iter().map(|change| (change.key, change.old, change.new, change.direction)).collect()
}

#[test]
fn a_change_of_every_setting_shows_in_the_difference() {
    use Direction::{Looser, Neutral, Tighter};
    for (old, new, key, was, is, forth, back) in [
        ("", "sni = \"log\"", "sni", "enforce", "log", Looser, Tighter),
        ("sni = \"log\"", "sni = \"off\"", "sni", "log", "off", Looser, Tighter),
        ("", "via = false", "via", "true", "false", Neutral, Neutral),
        ("", "forwarded = \"strip\"", "forwarded", "pass", "strip", Tighter, Looser),
        ("", "forwarded = \"forwarded\"", "forwarded", "pass", "forwarded", Looser, Looser),
        ("", "resolver = [\"10.0.0.53\"]", "resolver", "", "10.0.0.53:53", Looser, Looser),
        ("", "limits.on_revoke = \"keep\"", "limits.on_revoke", "close", "keep", Looser, Tighter),
        ("", "limits.connect_timeout = \"5s\"", "limits.connect_timeout", "15s", "5s", Tighter, Looser),
        ("", "limits.connections = 20000", "limits.connections", "16384", "20000", Looser, Tighter),
        ("", "limits.upload_bytes = \"1GB\"", "limits.upload_bytes", "0", "1GB", Tighter, Looser),
        ("", "limits.upload_window = \"2h\"", "limits.upload_window", "1h", "2h", Tighter, Looser),
        ("", "limits.look_bytes = \"8KiB\"", "limits.look_bytes", "16KiB", "8KiB", Looser, Looser),
        ("", "limits.cache_names = 0", "limits.cache_names", "4096", "0", Neutral, Neutral),
        ("", "unix_sockets = { \"/a\" = \"deny\" }", "denied_unix_sockets", "", "/a", Tighter, Looser),
        ("", "audit.file = \"/a\"", "audit.file", "", "/a", Tighter, Looser),
        ("audit.file = \"/a\"", "audit.file = \"/b\"", "audit.file", "/a", "/b", Looser, Looser),
        ("", "audit.syslog = \"/dev/log\"", "audit.syslog", "", "/dev/log", Tighter, Looser),
        ("", "audit.otlp = \"http://o.test\"", "audit.otlp", "", "http://o.test by http", Tighter, Looser),
        ("", "audit.stdout = true", "audit.stdout", "false", "true", Tighter, Looser),
        ("", "audit.journald = true", "audit.journald", "false", "true", Tighter, Looser),
        ("", "audit.level = \"denied\"", "audit.level", "all", "denied", Looser, Tighter),
        ("", "audit.naming = \"ocsf\"", "audit.naming", "codex", "ocsf", Neutral, Neutral),
        ("", "audit.on_full = \"block\"", "audit.on_full", "drop", "block", Tighter, Looser),
        ("audit.on_full = \"block\"", "audit.on_full = \"deny\"", "audit.on_full", "block", "deny", Tighter, Looser),
        ("", "audit.queue = 100", "audit.queue", "65536", "100", Looser, Tighter),
        ("", "audit.keep = 0", "audit.keep", "16", "0", Tighter, Looser),
        ("", "audit.rotate_bytes = \"1MiB\"", "audit.rotate_bytes", "64MiB", "1MiB", Neutral, Neutral),
        ("", "audit.rotate_age = \"1d\"", "audit.rotate_age", "0", "1d", Neutral, Neutral),
        ("", "audit.fsync = \"never\"", "audit.fsync", "rotate", "never", Looser, Tighter),
        ("", "audit.chain = false", "audit.chain", "true", "false", Looser, Tighter),
        ("", "audit.metadata.model = \"m\"", "audit.metadata.model", "", "m", Neutral, Neutral),
        (
            "upstream.rules = [{ hosts = [\"a.test\", \"b.test\"], url = \"http://u:p@p.test:1\" }]",
            "upstream.rules = [{ hosts = [\"a.test\"], url = \"http://u:p@p.test:1\" }, { hosts = [\"*\"], url = \"direct\" }]",
            "upstream.rules",
            "a.test b.test = http://p.test:1",
            "a.test = http://p.test:1, * = direct",
            Looser,
            Looser,
        ),
    ] {
        let change = |old: &str, new: &str, direction| vec![(key.to_owned(), old.to_owned(), new.to_owned(), direction)];
        assert_eq!(changed(old, new), change(was, is, forth));
        assert_eq!(changed(new, old), change(is, was, back));
        assert_eq!(changed(new, new), []);
    }
    let rule = |password: &str| format!("upstream.rules = [{{ hosts = [\"*\"], url = \"http://u:{password}@p.test:1\" }}]");
    let said = changed(&rule("one"), &rule("two"));
    assert_eq!(said[0].2, "* = http://p.test:1 (with another user or password)");
    // Every limit is looked at.
    for limit in Limits::ALL {
        let said = changed("", &format!("limits.{} = \"{}\"", limit.name, limit.shown(limit.max)));
        assert_eq!(
            said.iter().map(|(key, ..)| key.as_str()).collect::<Vec<_>>(),
            if limit.max == limit.default { vec![] } else { vec![format!("limits.{}", limit.name)] }
        );
    }
}

#[test]
fn what_a_process_has_once_is_the_same_in_all_profiles() {
    let two = |a: &str, b: &str| {
        let text = format!(
            "default_permissions = \"a\"\n[permissions.a.network]\nenabled = true\n{a}\n[permissions.b.network]\nenabled = true\n{b}\n"
        );
        compile_profiles(vec![source(&text)], Selection { named: &[], all: true }, false, &mut |_, _| {})
    };
    for (a, b, key) in [
        ("limits.connections = 5", "limits.connections = 6", "limits.connections"),
        ("limits.connections = 5", "", "limits.connections"),
        ("audit.file = \"/a\"", "audit.file = \"/b\"", "audit"),
        ("", "audit.level = \"denied\"", "audit"),
        ("", "resolver = [\"10.0.0.53\"]", "resolver"),
        ("resolver = [\"10.0.0.53\", \"10.0.0.54\"]", "resolver = [\"10.0.0.54\", \"10.0.0.53\"]", "resolver"),
    ] {
        let failure = two(a, b).unwrap_err();
        let messages: Vec<&str> = failure.diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
        assert_eq!(messages, [format!("profiles `a` and `b` differ in `{key}`, which a process has once")]);
        assert!(!failure.diagnostics[0].places.is_empty());
    }
    let said = two("", "resolver = [\"10.0.0.53\"]").unwrap_err().to_string();
    assert!(
        said.contains("profile `a` says nothing, which is the system's resolver") && said.contains("10.0.0.53:53 in profile `b`"),
        "{said}"
    );
    // All else is a profile's own.
    let compiled =
        two("sni = \"off\"\nlimits.head_fields = 5", "via = false\nlimits.on_revoke = \"keep\"\nlimits.connections = 16384").unwrap();
    let blob = Blob::open(compiled.blob).unwrap();
    let of = |id| blob.settings(ProfileId(id)).unwrap();
    assert_eq!((of(0).limits.head_fields, of(1).limits.head_fields), (5, 128));
    assert_eq!((of(0).via, of(1).via), (true, false));
}

#[test]
fn inspect_shows_settings_without_passwords() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/v1.1/settings.bin");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_netpolicy")).arg("inspect").args(arguments).arg(golden).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = run(&["--profile", "said"]);
    for part in [
        "format   1.1\n",
        "\nsettings ",
        "\n  sni = log\n",
        "\n  via = false\n",
        "\n  forwarded = x-forwarded-for\n",
        "\n  resolver = [\"10.0.0.53:53\",\"[2001:db8::53]:5353\",\"https://dns.example.com/dns-query\"]\n",
        "\n  on_revoke = keep\n",
        "{\"hosts\":[\"*\"],\"url\":\"socks5h://[2001:db8::1]:1080\"}]\n",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(!text.contains("secret") && !text.contains("limits."), "{text}");
    // Of the other profiles, what differs from the first: limits too.
    let all = run(&[]);
    assert!(all.contains("  limits.connect_timeout = 5s\n") && all.contains("  limits.cache_names = 0\n"), "{all}");
    assert_eq!(all.matches("limits.connect_timeout").count(), 1, "{all}");
    let json: serde_json::Value = serde_json::from_str(&run(&["--json"])).unwrap();
    let said = &json["profiles"][2]["settings"];
    assert_eq!(
        (&said["limits"]["connections"], &said["limits"]["head_bytes"], &said["limits"]["pool_timeout"]),
        (&"1".into(), &"1MiB".into(), &"10s".into())
    );
    assert_eq!(json["sections"].as_array().unwrap().len(), 17);
    assert!(!json.to_string().contains("secret"));
}

#[test]
fn inspect_shows_denied_sockets() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/v1.2/sockets.bin");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_netpolicy")).arg("inspect").args(arguments).arg(golden).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = run(&["--profile", "both"]);
    for part in ["format   1.2\n", "\nsocket denies ", "\n  denied_unix_sockets = [\"/run/docker.sock\",\"/run/\u{fc}nix.sock\"]\n"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&run(&["--json"])).unwrap();
    assert_eq!(json["profiles"][1]["settings"]["denied_unix_sockets"], serde_json::json!(["/run/docker.sock"]));
    assert_eq!(json["profiles"][3]["settings"]["denied_unix_sockets"], serde_json::json!([]));
    let toml = run(&["--toml", "--profile", "both"]);
    assert!(toml.contains("\"/tmp/link.sock\" = \"allow\"\n\"/run/docker.sock\" = \"deny\"\n"), "{toml}");
}

#[test]
fn inspect_shows_what_is_written_down() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/v1.1/audit.bin");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_netpolicy")).arg("inspect").args(arguments).arg(golden).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = run(&["--profile", "all"]);
    for part in [
        "\n  audit.file = /var/log/netproxy/audit.jsonl\n",
        "\n  audit.level = decisions\n",
        "\n  audit.rotate_age = 1h\n",
        "\n  audit.metadata = {\"conversation.id\":\"c-1\",\"model\":\"m\"}\n",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(!run(&["--profile", "silent"]).contains("audit."));
    let json: serde_json::Value = serde_json::from_str(&run(&["--json"])).unwrap();
    let audit = |profile: usize| &json["profiles"][profile]["settings"]["audit"];
    assert_eq!(
        (&audit(0)["on_full"], &audit(0)["otlp"]["protocol"], &audit(0)["syslog"]),
        (&"deny".into(), &"grpc".into(), &"udp://10.0.0.1:514".into())
    );
    assert_eq!(
        (&audit(1)["file"], &audit(1)["queue"], &audit(1)["otlp"]["headers_file"]),
        (&"/a".into(), &"65536".into(), &serde_json::Value::Null)
    );
    assert_eq!((&audit(2)["file"], &audit(2)["level"]), (&serde_json::Value::Null, &"all".into()));
}

/// The page that lists every limit; `BLESS=1` writes the list anew.
#[test]
fn the_page_lists_every_limit() {
    const BEGIN: &str = "<!-- limits: begin -->\n";
    const END: &str = "<!-- limits: end -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy/limits.md");
    let page = fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let mut table = "\n| limit | default | from | to | what it bounds |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for limit in Limits::ALL {
        let [default, min, max] = [limit.default, limit.min, limit.max].map(|value| limit.shown(value));
        let max = if limit.max == u64::MAX { String::new() } else { max };
        table.push_str(&format!("| `{}` | {default} | {min} | {max} | {} |\n", limit.name, limit.doc));
    }
    let wanted = format!("{before}{BEGIN}{table}\n{END}{after}");
    if std::env::var_os("BLESS").is_some() {
        return fs::write(path, &wanted).unwrap();
    }
    assert!(page == wanted, "run the tests with BLESS=1 to write docs/policy/limits.md anew");
}
