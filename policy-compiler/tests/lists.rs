//! Domain lists as layers name them: what becomes of their entries, and what is said when something is wrong.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Options, compile};
use policy_format::{Blob, Layer};
use std::fs;
use std::path::Path;

/// Compiles a policy whose lists are in `folder`: rules as `access pattern @ place`, then what was said as `severity code: message`.
fn compiled(folder: &Path, lists: &str, strict: bool) -> (Vec<String>, Vec<String>) {
    compiled_in(Layer::Managed, folder, lists, strict)
}

fn compiled_in(layer: Layer, folder: &Path, lists: &str, strict: bool) -> (Vec<String>, Vec<String>) {
    let text = format!("default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\ndomain_lists = [{lists}]\n");
    let source = SourceFile::from_text(layer, Role::Config, "managed.toml", text).in_folder(folder);
    let (blob, diagnostics) = match compile(vec![source], Options { profile: None, strict }) {
        Ok(compiled) => (Some(compiled.blob), compiled.diagnostics),
        Err(failure) => (None, failure.diagnostics),
    };
    let blob = blob.map(|blob| Blob::open(blob).unwrap());
    let rules =
        blob.iter().flat_map(|blob| blob.rules().map(|rule| format!("{} {rule} @ {}", rule.access, rule.place())).collect::<Vec<_>>());
    let said = diagnostics.iter().map(|diagnostic| {
        let help = diagnostic.help.as_deref().map(|help| format!(" | {help}")).unwrap_or_default();
        format!("{} {}: {}{help}", diagnostic.severity.as_str(), diagnostic.code.as_str(), diagnostic.message)
    });
    (rules.collect(), said.collect())
}

#[test]
fn entries_become_rules_of_the_layer_that_names_the_list() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("lists")).unwrap();
    fs::write(dir.path().join("lists/ads.txt"), "# ads\nads.test\n=only.test\n10.0.0.0/8\n").unwrap();
    fs::write(dir.path().join("ours.hosts"), "0.0.0.0 sink.test\n").unwrap();
    let lists = "{ path = \"lists/ads.txt\", format = \"domains\", access = \"deny\" }, { path = \"ours.hosts\", format = \"hosts\", access = \"read-only\" }";
    let (rules, said) = compiled(dir.path(), lists, true);
    assert_eq!(said, Vec::<String>::new());
    assert_eq!(
        rules,
        [
            "deny **.ads.test @ managed list ads.txt:2",
            "deny only.test @ managed list ads.txt:3",
            "read-only sink.test @ managed list ours.hosts:1",
            "deny 10.0.0.0/8 @ managed list ads.txt:4",
        ]
    );
}

#[test]
fn exceptions_take_entries_out_or_say_that_they_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let list = "||a.test^\n||b.test^\n||x.c.test^\n@@||b.test^\n@@||c.test^\n@@||good.a.test^\n";
    fs::write(dir.path().join("l.txt"), list).unwrap();
    let (rules, said) = compiled(dir.path(), "{ path = \"l.txt\", format = \"adblock\", access = \"deny\" }", false);
    assert_eq!(rules, ["deny **.a.test @ managed list l.txt:1"]);
    assert_eq!(
        said,
        [
            "warning no-effect: exceptions of the list `l.txt` lie within wider entries and stay denied | such as `**.good.a.test` in line 6: a deny has no holes"
        ]
    );
    // What an allow list excepts is denied.
    let (rules, said) = compiled(dir.path(), "{ path = \"l.txt\", format = \"adblock\", access = \"allow\" }", false);
    assert_eq!(said, Vec::<String>::new());
    assert!(rules.contains(&"deny **.good.a.test @ managed list l.txt:6".to_owned()), "{rules:?}");
}

#[test]
fn what_is_wrong_with_a_list_is_said() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.txt"), "good.test\nhttps://x.test/\nalso good\n").unwrap();
    fs::write(dir.path().join("other.txt"), "address=/x.test/\n").unwrap();
    let cases = [
        ("{ path = \"missing.txt\", format = \"domains\", access = \"deny\" }", "error bad-list: the list cannot be read: "),
        (
            "{ path = \"bad.txt\", format = \"domains\", access = \"deny\" }",
            "warning bad-list: 2 lines of the list `bad.txt` cannot be read | line 2: `https://x.test/`: ",
        ),
        (
            "{ path = \"other.txt\", format = \"adblock\", access = \"deny\" }",
            "error bad-list: the list `other.txt` has no entry in 1 lines | is it in another format",
        ),
        (
            "{ path = \"x\", format = \"domain\", access = \"deny\" }",
            "error invalid-value: `format` is \"domains\", \"hosts\", \"adblock\" or \"dnsmasq\", not \"domain\" | did you mean \"domains\"?",
        ),
        ("{ path = \"x\", format = \"domains\" }", "error missing-key: a domain list needs `access`"),
        ("\"x\"", "error wrong-type: `domain_lists` is a list of tables"),
    ];
    for (list, expected) in cases {
        let (_, said) = compiled(dir.path(), list, false);
        assert!(said[0].starts_with(expected), "{list}: {said:?}");
    }
    let (rules, said) = compiled(dir.path(), cases[1].0, true);
    assert!(rules.is_empty() && said.last().unwrap().starts_with("error strict"), "{said:?}");
}

#[test]
fn a_list_that_is_there_twice_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("l.txt"), "a.test\n").unwrap();
    let list = |path: &str, access: &str| format!("{{ path = \"{path}\", format = \"domains\", access = \"{access}\" }}");
    let twice = [list("l.txt", "deny"), list("./l.txt", "deny"), list("l.txt", "read-only")].join(", ");
    let (rules, said) = compiled(dir.path(), &twice, false);
    assert_eq!(rules.len(), 2, "{rules:?}");
    assert_eq!(said, ["warning no-effect: the list `./l.txt` is there twice, and counts once | name it once"]);
    // The bound holds before anything is read.
    let (rules, said) = compiled(dir.path(), &vec![list("l.txt", "deny"); 65].join(", "), false);
    assert!(rules.is_empty());
    assert_eq!(
        said,
        ["error too-large: there are 65 domain lists, and a policy has at most 64 | put the hosts of several lists into one file"]
    );
}

#[test]
fn a_line_that_is_there_twice_is_kept_once() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("b.test\n{}", "a.test\n*.a.test\n=a.test\n10.0.0.0/8\nx*.a.test\n".repeat(4000));
    fs::write(dir.path().join("l.txt"), text).unwrap();
    let (rules, said) = compiled(dir.path(), "{ path = \"l.txt\", format = \"domains\", access = \"allow\" }", false);
    assert_eq!(said, Vec::<String>::new());
    let places: Vec<_> = rules.iter().map(|rule| rule.rsplit_once(':').unwrap().1).collect();
    assert_eq!(places.len(), 6, "{rules:?}");
    assert!(places.iter().all(|line| line.parse::<u32>().unwrap() <= 6), "the first line wins: {rules:?}");
    let text = format!("||a.test^\n{}", "@@||a.test^\n".repeat(4000));
    fs::write(dir.path().join("e.txt"), text).unwrap();
    let (rules, _) = compiled(dir.path(), "{ path = \"e.txt\", format = \"adblock\", access = \"allow\" }", false);
    assert_eq!(rules, ["deny **.a.test @ managed list e.txt:2"]);
}

#[test]
fn as_many_exceptions_as_entries_are_no_product() {
    let dir = tempfile::tempdir().unwrap();
    let line = |n: u32| format!("||10.{}.{}.1^\n@@||10.{}.{}.2^\n", n / 256, n % 256, n / 256, n % 256);
    fs::write(dir.path().join("l.txt"), (0..8000).map(line).collect::<String>()).unwrap();
    let (rules, said) = compiled(dir.path(), "{ path = \"l.txt\", format = \"adblock\", access = \"allow\" }", false);
    assert_eq!((rules.len(), said), (16_000, vec![]));
}

#[test]
fn lists_of_a_project_stay_in_the_project() {
    let dir = tempfile::tempdir().unwrap();
    let project = dir.path().join("project");
    fs::create_dir_all(project.join(".codex")).unwrap();
    fs::write(project.join("in.txt"), "a.test\n").unwrap();
    fs::write(dir.path().join("out.txt"), "a.test\n").unwrap();
    let list = |path: &str| format!("{{ path = \"{path}\", format = \"domains\", access = \"deny\" }}");
    let absolute = project.join("in.txt").display().to_string();
    let mut cases = vec![
        (".codex", "../in.txt", None),
        ("", "in.txt", None),
        ("", ".codex/../in.txt", None),
        (".codex", "../../out.txt", Some("lies outside the project")),
        ("", "../out.txt", Some("lies outside the project")),
        ("", "../project/in.txt", None),
        ("", "missing.txt", Some("cannot open the domain list")),
        ("", &absolute, Some("is an absolute path")),
    ];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../out.txt", project.join("link.txt")).unwrap();
        cases.push(("", "link.txt", Some("lies outside the project")));
    }
    for (folder, path, expected) in cases {
        let (rules, said) = compiled_in(Layer::Project, &project.join(folder), &list(path), false);
        match expected {
            None => assert_eq!((rules.len(), said), (1, vec![]), "{path}"),
            Some(text) => assert!(said.len() == 1 && said[0].starts_with("error bad-list") && said[0].contains(text), "{path}: {said:?}"),
        }
        // Whoever is stronger than a project names what they like.
        let (_, said) = compiled_in(Layer::User, &project.join(folder), &list(path), false);
        assert_eq!(said.is_empty(), path != "missing.txt", "{path}: {said:?}");
    }
}

#[test]
fn nothing_of_the_lines_of_a_projects_list_is_said() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("env"), "KEY=hunter2\nhunter3 x\nok.test\n").unwrap();
    fs::write(dir.path().join("hosts"), "192.0.2.77 hunter4.test\n0.0.0.0 ok.test\n").unwrap();
    fs::write(dir.path().join("rules"), "||hunter5.test^\n@@||x.hunter5.test^\n").unwrap();
    for (path, format) in [("env", "domains"), ("hosts", "hosts"), ("rules", "adblock")] {
        let list = format!("{{ path = \"{path}\", format = \"{format}\", access = \"deny\" }}");
        let (_, said) = compiled_in(Layer::Project, dir.path(), &list, false);
        let text = said.join("\n");
        assert!(said.len() == 1 && text.contains("line "), "{text}");
        assert!(!text.contains("hunter") && !text.contains("192.0.2.77"), "{text}");
        let (_, said) = compiled_in(Layer::User, dir.path(), &list, false);
        assert!(said.join("\n").contains("hunter"), "a user sees their own lines: {said:?}");
    }
}

#[test]
fn the_lists_of_a_project_share_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    // One line too long after the entry: it costs nearly nothing, on the disk and to read.
    for name in ["a.txt", "b.txt"] {
        fs::write(dir.path().join(name), "a.test\n").unwrap();
        fs::File::options().write(true).open(dir.path().join(name)).unwrap().set_len(129 << 20).unwrap();
    }
    let list = |path: &str| format!("{{ path = \"{path}\", format = \"domains\", access = \"deny\" }}");
    let lists = format!("{}, {}", list("a.txt"), list("b.txt"));
    let (_, said) = compiled_in(Layer::Project, dir.path(), &lists, false);
    let errors: Vec<_> = said.iter().filter(|text| text.starts_with("error")).collect();
    assert!(errors.len() == 1 && errors[0].contains("b.txt"), "{said:?}");
    assert!(errors[0].ends_with("| the lists of the project layer have at most 268435456 bytes of text together"), "{said:?}");
}

/// `count` lines in no order of their own: names, what is below names, addresses, globs, and some of them twice.
fn many(count: u32) -> Vec<String> {
    let line = |number: u32| match number % 50 {
        0 => format!("10.{}.{}.0/24", number / 256 % 256, number % 256),
        1 => format!("=Exact-{number}.site-{}.test", number % 997),
        2 => format!("*.below-{number}.test"),
        3 if number < 5000 => format!("ads*-{number}.test"),
        4 => format!("**.host-{}.site-{}.test", number + 4, (number + 4) % 997),
        5 => format!("Host-{}.SITE-{}.test.", number + 4, (number + 4) % 997),
        _ => format!("host-{number}.site-{}.test", number % 997),
    };
    (0..count).map(|number| line(number.wrapping_mul(48_271) % count)).collect()
}

fn without_line(rules: &[String]) -> Vec<&str> {
    let mut rules: Vec<_> = rules.iter().map(|rule| rule.rsplit_once(':').unwrap().0).collect();
    rules.sort_unstable();
    rules
}

/// So long a list is taken apart by several threads, and built by several.
#[test]
fn the_order_of_a_long_list_changes_nothing_but_its_lines() {
    let dir = tempfile::tempdir().unwrap();
    let mut lines = many(70_000);
    let list = "{ path = \"l.txt\", format = \"domains\", access = \"deny\" }";
    let read = |lines: &[String]| {
        fs::write(dir.path().join("l.txt"), lines.join("\n")).unwrap();
        compiled(dir.path(), list, true)
    };
    let (rules, said) = read(&lines);
    assert_eq!(said, Vec::<String>::new());
    assert!(rules == read(&lines).0, "the same list, the same rules");

    // Each rule is in the first line that says it.
    let mut first = std::collections::HashMap::new();
    for (line, number) in lines.iter().zip(1..) {
        let hosts = match (line.strip_prefix('='), line.contains(['*', '/'])) {
            (Some(exact), _) => exact.to_owned(),
            (None, true) => line.clone(),
            (None, false) => format!("**.{}", line.trim_end_matches('.')),
        };
        first.entry(hosts.to_lowercase()).or_insert(number);
    }
    let mut expected: Vec<_> = first.iter().map(|(hosts, line)| format!("deny {hosts} @ managed list l.txt:{line}")).collect();
    let mut found = rules.clone();
    expected.sort_unstable();
    found.sort_unstable();
    assert!(expected == found && rules.len() < lines.len(), "{} of {} rules", found.len(), expected.len());

    lines.reverse();
    lines.rotate_left(12_345);
    assert!(without_line(&rules) == without_line(&read(&lines).0));
}

#[test]
fn two_runs_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("l.txt"), many(70_000).join("\n")).unwrap();
    let text = "default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\ndomain_lists = [{ path = \"l.txt\", format = \"domains\", access = \"deny\" }]\n";
    let blob = || {
        let source = SourceFile::from_text(Layer::User, Role::Config, "config.toml", text.to_owned()).in_folder(dir.path());
        compile(vec![source], Options::default()).unwrap().blob
    };
    assert!(blob() == blob());
}

#[test]
fn many_exceptions_take_their_entries_out() {
    let dir = tempfile::tempdir().unwrap();
    // Of every ten sites one is excepted whole, and of another one a host that was denied by itself.
    let line = |n: u32| match n % 10 {
        0 => format!("||site-{n}.test^\n@@||site-{n}.test^\n||x.site-{n}.test^\n"),
        1 => format!("@@||host.site-{n}.test^\n||host.site-{n}.test^\n||other.site-{n}.test^\n"),
        _ => format!("||site-{n}.test^\n"),
    };
    let text: String = (0..20_000).map(line).collect();
    fs::write(dir.path().join("l.txt"), &text).unwrap();
    let (denied, said) = compiled(dir.path(), "{ path = \"l.txt\", format = \"adblock\", access = \"deny\" }", true);
    assert_eq!((denied.len(), said), (18_000, vec![]));
    let about = |n: u32| denied.iter().filter(|rule| rule.contains(&format!("site-{n}.test "))).count();
    assert_eq!([about(0), about(1), about(2), about(19_990)], [0, 1, 1, 0]);
    let (allowed, _) = compiled(dir.path(), "{ path = \"l.txt\", format = \"adblock\", access = \"allow\" }", true);
    assert_eq!(without_line(&allowed).iter().filter(|rule| rule.starts_with("allow ")).count(), 18_000);
    assert_eq!(without_line(&allowed).iter().filter(|rule| rule.starts_with("deny ")).count(), 4000);
    // An exception too narrow to be taken out is said, the first of them.
    fs::write(dir.path().join("l.txt"), format!("{text}@@||a.site-2.test^\n@@||10.0.0.1^\n||10.0.0.0^\n@@||b.site-3.test^\n")).unwrap();
    let (_, said) = compiled(dir.path(), "{ path = \"l.txt\", format = \"adblock\", access = \"deny\" }", false);
    assert!(said.len() == 1 && said[0].contains("such as `**.a.site-2.test` in line 28001"), "{said:?}");
}

#[test]
fn lists_that_say_the_same_both_keep_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.txt"), "a.test\n*.a.test\nA.test.\n").unwrap();
    fs::write(dir.path().join("b.txt"), "address=/a.test/\naddress=/b.test/a.test/\n").unwrap();
    fs::write(dir.path().join("c.txt"), "||a.test^\n0.0.0.0 a.test a.test\n").unwrap();
    let list = |path: &str, format: &str| format!("{{ path = \"{path}\", format = \"{format}\", access = \"deny\" }}");
    let all = [list("c.txt", "adblock"), list("a.txt", "domains"), list("b.txt", "dnsmasq")];
    let (mut rules, said) = compiled(dir.path(), &all.join(", "), true);
    rules.sort_unstable();
    assert_eq!(said, Vec::<String>::new());
    assert_eq!(
        rules,
        [
            "deny **.a.test @ managed list a.txt:1",
            "deny **.a.test @ managed list b.txt:1",
            "deny **.a.test @ managed list c.txt:1",
            "deny **.b.test @ managed list b.txt:2",
            "deny *.a.test @ managed list a.txt:2",
            "deny a.test @ managed list c.txt:2",
        ]
    );
    let (mut again, _) = compiled(dir.path(), &[&all[2], &all[0], &all[1]].map(String::as_str).join(", "), true);
    again.sort_unstable();
    assert_eq!(again, rules, "the order of lists changes nothing");
}

/// What is said of rules and hooks that a list decides over.
#[test]
fn rules_and_hooks_are_held_against_lists() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("deny.txt"), "# denied\nads.test\n10.0.0.0/8\nx*.glob.test\n").unwrap();
    fs::write(dir.path().join("allow.txt"), "hooked.test\n192.0.2.0/24\n").unwrap();
    let text = r#"
default_permissions = "w"
[permissions.w.network]
enabled = true
domain_lists = [
    { path = "allow.txt", format = "domains", access = "allow" },
    { path = "deny.txt", format = "domains", access = "deny" },
]
[permissions.w.network.domains]
"www.ads.test" = "allow"
"10.1.2.3" = "allow"
"xy.glob.test" = "allow"
"fine.test" = "allow"
[permissions.w.network.mitm.actions.strip]
strip_request_headers = ["x"]
[permissions.w.network.mitm.hooks.a]
host = "api.hooked.test"
methods = ["GET"]
path_prefixes = ["/"]
action = ["strip"]
[permissions.w.network.mitm.hooks.b]
host = "192.0.2.7"
methods = ["GET"]
path_prefixes = ["/"]
action = ["strip"]
[permissions.w.network.mitm.hooks.c]
host = "idle.test"
methods = ["GET"]
path_prefixes = ["/"]
action = ["strip"]
"#;
    let source = SourceFile::from_text(Layer::User, Role::Config, "config.toml", text.to_owned()).in_folder(dir.path());
    let said = match compile(vec![source], Options::default()) {
        Ok(compiled) => compiled.diagnostics,
        Err(failure) => failure.diagnostics,
    };
    let said: Vec<_> = said.iter().map(|said| format!("{} | {}", said.message, said.help.as_deref().unwrap_or_default())).collect();
    for (start, help) in [
        ("`www.ads.test` is allowed here and never acts: `**.ads.test` denies all of it", "the deny is in line 2 of list deny.txt"),
        ("`10.1.2.3` is allowed here and never acts: `10.0.0.0/8` denies all of it", "the deny is in line 3 of list deny.txt"),
        ("`xy.glob.test` is allowed here and never acts: `x*.glob.test` denies all of it", "the deny is in line 4 of list deny.txt"),
    ] {
        assert!(said.contains(&format!("{start} | {help}")), "{start}: {said:#?}");
    }
    assert_eq!(said.iter().filter(|said| said.contains("never acts")).count(), 3, "{said:#?}");
    let idle: Vec<_> = said.iter().filter(|said| said.contains("nothing to look at")).collect();
    assert!(idle.len() == 1 && idle[0].starts_with("no rule allows `idle.test`"), "{said:#?}");
}
