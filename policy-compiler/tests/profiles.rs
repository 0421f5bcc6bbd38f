//! Several profiles in one blob: each is what it would be alone, rules that several have stand once, and what a process has once is the same in all of them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::change::Change;
use policy_compiler::decompile::{DecompileError, decompile, decompile_profile};
use policy_compiler::diagnostic::{Code, Diagnostic, Severity};
use policy_compiler::diff::{compare, compare_profiles};
use policy_compiler::explain::{Subject, explain};
use policy_compiler::profiles::{Profile, choose, names};
use policy_compiler::request::Asked;
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Compiled, Options, Selection, compile, compile_profiles};
use policy_format::{Blob, Decision, Layer, MAX_PROFILES, Network, ProfileId, Profiles};

/// Three profiles that share rules and differ in some, and one that is off.
const SHARED: &str = r#"
default_permissions = "dev"

[permissions.base.network]
enabled = true
presets = ["common-dependencies"]

[permissions.base.network.domains]
"**.example.com" = "allow"
"bad.example.com" = "deny"
"10.0.0.0/8" = { access = "allow", ports = [443] }
"img*.example.org" = "read-only"

[permissions.base.network.mitm.hooks.github]
host = "api.github.com"
methods = ["GET"]
path_prefixes = ["/repos"]
action = ["strip"]

[permissions.base.network.mitm.actions.strip]
strip_request_headers = ["cookie"]

[permissions.dev]
extends = "base"

[permissions.dev.network.domains]
"dev.example.net" = "allow"
"www.example.com" = "deny"

[permissions.ci]
extends = "base"

[permissions.ci.network]
mode = "limited"
allow_local_binding = true

[permissions.ci.network.domains]
"ci.example.net" = "allow"
"img1.example.org" = "deny"

[permissions.ci.network.mitm.hooks.gitlab]
host = "gitlab.com"
methods = ["GET"]
path_prefixes = ["/"]
action = ["strip"]

[permissions.locked.network]
enabled = false
proxy_url = "http://127.0.0.1:9999"
"#;

fn layer(layer: Layer, role: Role, text: &str) -> SourceFile {
    SourceFile::from_text(layer, role, if role == Role::Config { "config.toml" } else { "requirements.toml" }, text.to_owned())
}

fn user(text: &str) -> Vec<SourceFile> {
    vec![layer(Layer::User, Role::Config, text)]
}

const ALL: Selection<'_> = Selection { named: &[], all: true };

fn named<'a>(named: &'a [&'a str]) -> Selection<'a> {
    Selection { named, all: false }
}

fn try_compiled(sources: Vec<SourceFile>, selection: Selection<'_>) -> Result<Compiled, Vec<Diagnostic>> {
    compile_profiles(sources, selection, false, &mut |_, _| {}).map_err(|failure| failure.diagnostics)
}

fn compiled(sources: Vec<SourceFile>, selection: Selection<'_>) -> Blob<Vec<u8>> {
    let made = compile_profiles(sources, selection, false, &mut |_, _| {}).unwrap_or_else(|failure| panic!("{failure}"));
    Blob::open(made.blob).unwrap()
}

fn alone(text: &str, profile: &str) -> Blob<Vec<u8>> {
    let made = compile(user(text), Options { profile: Some(profile), strict: false }).unwrap_or_else(|failure| panic!("{failure}"));
    Blob::open(made.blob).unwrap()
}

fn profile_names(blob: &Blob<Vec<u8>>) -> Vec<&str> {
    blob.profiles().iter().map(|meta| meta.profile.as_str()).collect()
}

fn messages(diagnostics: &[Diagnostic]) -> Vec<&str> {
    diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect()
}

#[test]
fn profiles_stand_in_the_order_in_which_they_are_chosen() {
    let older =
        "[permissions.network]\nenabled = true\ndomains = { \"a.test\" = \"allow\" }\n[permissions.x.network]\nmode = \"limited\"\n";
    let rows: [(&str, &str, Selection<'_>, &[&str]); 8] = [
        ("all: the default first, the others by name", SHARED, ALL, &["dev", "base", "ci", "locked"]),
        ("named: as they are named", SHARED, named(&["locked", "ci"]), &["locked", "ci"]),
        ("a name that is there twice counts once", SHARED, named(&["ci", "dev", "ci"]), &["ci", "dev"]),
        (
            "named and all: the named ones first",
            SHARED,
            Selection { named: &["locked", "ci"], all: true },
            &["locked", "ci", "base", "dev"],
        ),
        ("nothing is named: the default alone", SHARED, Selection::default(), &["dev"]),
        ("built-in profiles go in by name only", SHARED, named(&["dev", ":read-only"]), &["dev", ":read-only"]),
        ("older tables are of the default, and lie under all", older, ALL, &["workspace", "x"]),
        (
            "an older sandbox setting is the default",
            "sandbox_mode = \"read-only\"\npermissions.x.network.enabled = true",
            ALL,
            &["workspace", "x"],
        ),
    ];
    for (what, text, selection, expected) in rows {
        assert_eq!(profile_names(&compiled(user(text), selection)), expected, "{what}");
    }
}

#[test]
fn a_profile_decides_as_if_it_were_alone() {
    let all = compiled(user(SHARED), ALL);
    let requests = [
        "bad.example.com",
        "www.example.com",
        "x.example.com",
        "dev.example.net",
        "ci.example.net",
        "img1.example.org",
        "GET http://img2.example.org/",
        "10.1.2.3:443",
        "10.1.2.3:80",
        "192.168.0.1",
        "api.github.com",
        "gitlab.com",
        "GET http://x.example.com/",
        "POST http://x.example.com/",
        "169.254.169.254",
        "nowhere.test",
    ];
    let mut answers = Vec::new();
    for name in ["dev", "base", "ci", "locked"] {
        let single = alone(SHARED, name);
        let profile = Profile::named(&all, Some(name)).unwrap();
        for request in requests {
            let asked = Asked::parse(request).unwrap();
            let outcome = |decision: Decision, blob: &Blob<Vec<u8>>| match decision {
                Decision::Allow(allowed) => (None, blob.rule(allowed.rule).map(|rule| (rule.hosts, rule.line)), allowed.read_only),
                Decision::Deny(denied) => {
                    (Some(denied.reason), denied.rule.and_then(|id| blob.rule(id)).map(|rule| (rule.hosts, rule.line)), false)
                }
            };
            let own = outcome(Asked { profile: profile.id(), ..asked.clone() }.decide(&all, &[]), &all);
            assert_eq!(own, outcome(asked.decide(&single, &[]), &single), "{request} under {name}");
            answers.push((name, request, own.0.is_none()));
        }
        // Exactly: no request is answered otherwise, and every setting and hook is the same.
        let diff = compare_profiles(Profile::new(&single, ProfileId::default()), profile).unwrap();
        assert_eq!((&diff.settings[..], diff.changes.len(), diff.resolutions.len()), (&[][..], 0, 0), "{name}");
        assert_eq!(diff.blocked_otherwise, 0, "{name}");
        let settings = |profile: Profile<'_, Vec<u8>>| profile.meta().clone();
        assert_eq!(settings(profile), *single.meta());
    }
    let allows = |name: &str, request: &str| answers.contains(&(name, request, true));
    assert!(allows("dev", "dev.example.net") && !allows("base", "dev.example.net") && !allows("ci", "dev.example.net"));
    assert!(allows("base", "www.example.com") && !allows("dev", "www.example.com"));
    assert!(
        allows("ci", "GET http://x.example.com/")
            && !allows("ci", "POST http://x.example.com/")
            && allows("dev", "POST http://x.example.com/")
    );
    assert!(!answers.iter().any(|(name, _, allowed)| *name == "locked" && *allowed), "what is off opens nothing, whatever others open");
}

#[test]
fn rules_that_profiles_share_are_stored_once() {
    let all = compiled(user(SHARED), ALL);
    let (dev, base, ci) = (alone(SHARED, "dev"), alone(SHARED, "base"), alone(SHARED, "ci"));
    // Two more in each of the two.
    assert_eq!((dev.rule_count(), ci.rule_count()), (base.rule_count() + 2, base.rule_count() + 2));
    assert_eq!(all.rule_count(), base.rule_count() + 4);
    assert!(all.as_bytes().len() < base.as_bytes().len() + 1024, "{} and {} bytes", all.as_bytes().len(), base.as_bytes().len());
    let of = |hosts: &str| {
        let rules: Vec<_> = all.rules().filter(|rule| rule.hosts == hosts).collect();
        assert_eq!(rules.len(), 1, "{hosts}");
        names(&all, rules[0].profiles).join(" ")
    };
    for (hosts, expected) in [
        ("**.example.com", "dev base ci"),
        ("10.0.0.0/8", "dev base ci"),
        ("img*.example.org", "dev base ci"),
        ("dev.example.net", "dev"),
        ("img1.example.org", "ci"),
    ] {
        assert_eq!(of(hosts), expected, "{hosts}");
    }
    let hooks: Vec<_> = all.hooks().iter().map(|hook| (hook.name.as_str(), names(&all, hook.profiles).join(" "))).collect();
    assert_eq!(hooks, [("gitlab", "ci".to_owned()), ("github", "dev base ci".to_owned())]);
    // The same sources make the same bytes, and the order is part of what they say.
    assert_eq!(all.digest(), compiled(user(SHARED), ALL).digest());
    assert_ne!(compiled(user(SHARED), named(&["dev", "ci"])).digest(), compiled(user(SHARED), named(&["ci", "dev"])).digest());
}

#[test]
fn one_profile_is_the_blob_that_it_always_was() {
    assert_eq!(compiled(user(SHARED), named(&["ci"])).digest(), alone(SHARED, "ci").digest());
}

#[test]
fn hooks_keep_their_order_in_every_profile() {
    let hook = |profile: &str, name: &str| {
        format!(
            "[permissions.{profile}.network.mitm.hooks.{name}]\nhost = \"{name}.test\"\nmethods = [\"GET\"]\npath_prefixes = [\"/\"]\naction = [\"{name}\"]\n[permissions.{profile}.network.mitm.actions.{name}]\nstrip_request_headers = [\"cookie\"]\n"
        )
    };
    // In the table of a child come first those of its own, then those of what it extends.
    let text = format!(
        "default_permissions = \"b\"\n[permissions.a.network]\nenabled = true\n{}{}[permissions.b]\nextends = \"a\"\n{}[permissions.c]\nextends = \"a\"\n{}",
        hook("a", "one"),
        hook("a", "two"),
        hook("b", "first"),
        hook("c", "other"),
    );
    let all = compiled(user(&text), ALL);
    for name in ["a", "b", "c"] {
        let order = |profile: Profile<'_, Vec<u8>>| profile.hooks().map(|hook| hook.name.clone()).collect::<Vec<_>>();
        let single = alone(&text, name);
        assert_eq!(order(Profile::named(&all, Some(name)).unwrap()), order(Profile::named(&single, None).unwrap()), "{name}");
    }
    assert!(all.hooks().iter().all(|hook| hook.profiles != Profiles(0)));
}

#[test]
fn requirements_hold_for_every_profile() {
    let text = "default_permissions = \"a\"\n[permissions.a.network]\nenabled = true\ndomains = { \"a.test\" = \"allow\" }\n[permissions.b.network]\nenabled = true\nmode = \"full\"\n[permissions.c.network]\nenabled = true\nmode = \"full\"\n";
    let with = |requirements: &str| {
        let managed = layer(Layer::Managed, Role::Requirements, &format!("[experimental_network]\n{requirements}"));
        vec![managed, layer(Layer::User, Role::Config, text)]
    };
    let all = compiled(with("domains = { \"bad.test\" = \"deny\" }\n"), ALL);
    let bad = all.rules().find(|rule| rule.hosts == "bad.test").unwrap();
    assert_eq!((names(&all, bad.profiles), bad.layer), (vec!["a", "b", "c"], Layer::Managed));
    // What is demanded of all, and what two of them say against it.
    let errors = try_compiled(with("mode = \"limited\"\n"), ALL).unwrap_err();
    let errors: Vec<_> = errors.into_iter().filter(|diagnostic| diagnostic.severity == Severity::Error).collect();
    assert!(errors.len() == 2 && errors.iter().all(|error| error.code == Code::RequirementViolated), "{errors:?}");
    for (error, name) in errors.iter().zip(["b", "c"]) {
        assert!(error.message.ends_with(&format!(" (profile `{name}`)")), "{}", error.message);
    }
    assert_eq!(compiled(with("mode = \"limited\"\n"), named(&["a"])).meta().mode, policy_format::Mode::Limited);
}

#[test]
fn what_is_said_of_several_profiles_says_of_which_unless_of_all() {
    let text = |rest: &str| {
        format!(
            "default_permissions = \"a\"\n[permissions.a.network]\nenabled = true\n[permissions.b]\nextends = \"a\"\n[permissions.c.network]\nenabled = true\n{rest}"
        )
    };
    let warn = "dangerously_allow_plaintext_credential_injection = true";
    let said = |text: &str| try_compiled(user(text), ALL).map_or_else(|errors| errors, |compiled| compiled.diagnostics);
    // In two of three; in one; in all, by way of the files themselves.
    let in_two = said(&text("").replacen("enabled = true", &format!("enabled = true\n{warn}"), 1));
    assert_eq!(
        messages(&in_two),
        ["`dangerously_allow_plaintext_credential_injection` has no effect: the credential broker is off (profiles `a`, `b`)"]
    );
    let in_one = said(&text(warn));
    assert_eq!(
        messages(&in_one),
        ["`dangerously_allow_plaintext_credential_injection` has no effect: the credential broker is off (profile `c`)"]
    );
    let in_all = said(&format!("{}\n[features.network_proxy]\n{warn}\n", text("")));
    assert_eq!(messages(&in_all), ["`dangerously_allow_plaintext_credential_injection` has no effect: the credential broker is off"]);
    let of_file = said(&text("domain = {}\n"));
    assert_eq!(of_file.len(), 1, "{of_file:?}");
    // Whoever names the profile already is not told again, and a network that is off is worth a warning in one profile too.
    let off = said(
        &text("domains = { \"a.test\" = \"allow\" }\n").replace("[permissions.c.network]\nenabled = true\n", "[permissions.c.network]\n"),
    );
    assert_eq!(messages(&off), ["the network of profile `c` is not switched on: its rules have no effect"]);
}

#[test]
fn what_a_process_has_once_is_the_same_in_all_profiles_that_run() {
    let text = |a: &str, b: &str| {
        format!("default_permissions = \"a\"\n[permissions.a.network]\nenabled = true\n{a}\n[permissions.b.network]\nenabled = true\n{b}\n")
    };
    let open = "dangerously_allow_non_loopback_proxy = true";
    let rows = [
        ("", "proxy_url = \"http://127.0.0.1:4000\"", "proxy_url", "127.0.0.1:3128", "127.0.0.1:4000"),
        ("proxy_url = \"http://127.0.0.1:4000\"", "", "proxy_url", "127.0.0.1:4000", "127.0.0.1:3128"),
        ("proxy_url = \"http://127.0.0.1:1\"", "proxy_url = \"http://127.0.0.1:2\"", "proxy_url", "127.0.0.1:1", "127.0.0.1:2"),
        ("socks_url = \"socks5://127.0.0.1:1\"", "", "socks_url", "127.0.0.1:1", "127.0.0.1:8081"),
        ("", "enable_socks5 = false", "enable_socks5", "127.0.0.1:8081", "off"),
        ("admin_url = \"http://127.0.0.1:1\"", "", "admin_url", "127.0.0.1:1", "127.0.0.1:8080"),
        (open, "", "dangerously_allow_non_loopback_proxy", "true", "false"),
        ("", "dangerously_allow_non_loopback_admin = true", "dangerously_allow_non_loopback_admin", "false", "true"),
        (
            "mitm = { ca_cert_path = \"/a\", ca_key_path = \"/k\" }",
            "mitm = { ca_cert_path = \"/b\", ca_key_path = \"/k\" }",
            "mitm.ca_cert_path",
            "/a",
            "/b",
        ),
        (
            "mitm = { ca_cert_path = \"/c\", ca_key_path = \"/a\" }",
            "mitm = { ca_cert_path = \"/c\", ca_key_path = \"/b\" }",
            "mitm.ca_key_path",
            "/a",
            "/b",
        ),
    ];
    for (a, b, key, of_a, of_b) in rows {
        let found = try_compiled(user(&text(a, b)), ALL).unwrap_err();
        let errors: Vec<_> = found.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).collect();
        let [error] = errors.as_slice() else { panic!("{key}: {found:?}") };
        assert_eq!(error.code, Code::ProfilesDiffer);
        assert_eq!(error.message, format!("profiles `a` and `b` differ in `{key}`, which a process has once"));
        let shown = format!("{:?} {:?}", error.places.iter().map(|(_, label)| label).collect::<Vec<_>>(), error.help);
        for (value, name) in [(of_a, "a"), (of_b, "b")] {
            let (labelled, unsaid) = (format!("{value} in profile `{name}`"), format!("profile `{name}` says nothing, which is {value}"));
            assert!(shown.contains(&labelled) != shown.contains(&unsaid), "{key}: {shown}");
        }
        assert_eq!(error.places.len(), [a, b].iter().filter(|said| !said.is_empty()).count(), "{key}");
        // Each by itself is as good as ever.
        for name in ["a", "b"] {
            try_compiled(user(&text(a, b)), named(&[name])).unwrap();
        }
    }
    let agrees = [
        // All else is of a profile.
        (
            "mode = \"limited\"\nallow_local_binding = true\nenable_socks5_udp = true\nallow_upstream_proxy = false\ncredential_broker = true\nmitm.mode = \"always\"\nmitm.max_body_bytes = 7",
            "",
        ),
        ("unix_sockets = { \"/run/a.sock\" = \"allow\" }", "upstream = \"http://proxy.example.com:3128\""),
        // One that names no authority uses the one that there is.
        ("mitm.ca_cert_path = \"/a\"\nmitm.ca_key_path = \"/k\"", ""),
        ("proxy_url = \"http://127.0.0.1:4000\"", "proxy_url = \"http://127.0.0.1:4000\""),
    ];
    for (a, b) in agrees {
        assert_eq!(compiled(user(&text(a, b)), ALL).profiles().len(), 2);
    }
    // What is off opens no listener.
    let off = compiled(
        user(
            &text("", "proxy_url = \"http://127.0.0.1:4000\"")
                .replace("[permissions.b.network]\nenabled = true", "[permissions.b.network]\nenabled = false"),
        ),
        ALL,
    );
    assert_eq!(off.profiles().iter().map(|meta| meta.network).collect::<Vec<_>>(), [Network::Proxied, Network::Blocked]);
}

#[test]
fn a_blob_has_sixty_four_profiles_and_no_more() {
    let text = |count: usize| -> String {
        let head = "default_permissions = \"p00\"\n[permissions.base.network]\nenabled = true\ndomains = { \"shared.test\" = \"allow\" }\n";
        let one = |n: usize| {
            format!("[permissions.p{n:02}]\nextends = \"base\"\n[permissions.p{n:02}.network.domains]\n\"p{n:02}.test\" = \"allow\"\n")
        };
        format!("{head}{}", (0..count).map(one).collect::<String>())
    };
    // `base` is one of them.
    let all = compiled(user(&text(MAX_PROFILES - 1)), ALL);
    assert_eq!((all.profiles().len(), all.rule_count() as usize), (64, 64));
    let shared = all.rules().find(|rule| rule.hosts == "shared.test").unwrap();
    assert_eq!(shared.profiles, Profiles(u64::MAX));
    for n in 0..MAX_PROFILES - 1 {
        let profile = Profile::named(&all, Some(&format!("p{n:02}"))).unwrap();
        for (host, own) in [("shared.test", true), (&*format!("p{n:02}.test"), true), (&*format!("p{:02}.test", (n + 1) % 63), false)] {
            let asked = Asked { profile: profile.id(), ..Asked::parse(host).unwrap() };
            assert_eq!(matches!(asked.decide(&all, &[]), Decision::Allow(_)), own, "{host} under p{n:02}");
        }
    }
    let errors = try_compiled(user(&text(MAX_PROFILES)), ALL).unwrap_err();
    assert_eq!(messages(&errors), ["there are 65 profiles: at most 64 fit into one policy"]);
    assert_eq!(errors[0].code, Code::TooLarge);
    let many: Vec<String> = (0..MAX_PROFILES).map(|n| format!("p{n:02}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(compiled(user(&text(MAX_PROFILES)), named(&many)).profiles().len(), 64, "64 of 65 fit");
}

#[test]
fn names_that_nobody_has_are_errors_that_list_those_that_are_there() {
    let errors = try_compiled(user(SHARED), named(&["dev", "lokced"])).unwrap_err();
    assert_eq!((errors[0].code, messages(&errors)), (Code::UnknownProfile, vec!["there is no permission profile `lokced`"]));
    assert_eq!(errors[0].help.as_deref(), Some("these are there: `base`, `ci`, `dev`, `locked`; did you mean `locked`?"));
    let all = compiled(user(SHARED), ALL);
    assert_eq!(choose(&all, None).unwrap(), ProfileId(0));
    assert_eq!(choose(&all, Some("ci")).unwrap(), ProfileId(2));
    let unknown = choose(&all, Some("locket")).unwrap_err().to_string();
    assert_eq!(unknown, "the policy has no profile `locket`; it has `dev`, `base`, `ci`, `locked`\nhelp: did you mean `locked`?");
    assert_eq!(
        choose(&all, Some("zzzzzz")).unwrap_err().to_string(),
        "the policy has no profile `zzzzzz`; it has `dev`, `base`, `ci`, `locked`"
    );
    // Two of one name: what an older setting says, and a table.
    let errors = try_compiled(user("sandbox_mode = \"read-only\"\n[permissions.workspace.network]\nenabled = true\n"), ALL).unwrap_err();
    assert!(errors.iter().any(|error| error.code == Code::ProfilesDiffer && error.message.contains("`workspace`")), "{errors:?}");
    // Nothing chooses a default.
    let errors = try_compiled(user("[permissions.a.network]\nenabled = true\n"), ALL).unwrap_err();
    assert_eq!(messages(&errors), ["no permission profile is chosen"]);
}

#[test]
fn edits_are_tried_under_the_profile_that_is_asked() {
    for name in ["dev", "ci"] {
        let blob = compiled(user(SHARED), ALL);
        let subject = Subject::bare_profile(blob, Some(name)).unwrap();
        let mut asked = Asked::parse("GET http://nowhere.test/").unwrap();
        let explanation = explain(&subject, &asked, &[]);
        assert!(!explanation.allowed);
        let Change::Edits(edits) = &explanation.change else { panic!("{:?}", explanation.change) };
        assert!(edits[0].to_string().contains(&format!("[permissions.{name}.network.domains]")), "{}", edits[0]);
        // A rule that all have, asked about in one.
        asked = Asked::parse("GET http://bad.example.com/").unwrap();
        let explanation = explain(&subject, &asked, &[]);
        assert!(matches!(&explanation.change, Change::Edits(edits) if edits.len() == 1), "{name}: {:?}", explanation.change);
        assert_eq!(explanation.rule.unwrap().rule.hosts, "bad.example.com");
    }
    // Rules of other profiles are not in play.
    let subject = Subject::bare_profile(compiled(user(SHARED), ALL), Some("ci")).unwrap();
    let explanation = explain(&subject, &Asked::parse("GET http://www.example.com/").unwrap(), &[]);
    assert!(explanation.allowed && explanation.others.is_empty(), "{explanation}");
    // Settings are of the profile: `ci` is read-only, and its edit makes it full.
    let explanation = explain(&subject, &Asked::parse("POST http://ci.example.net/").unwrap(), &[]);
    let Change::Edits(edits) = &explanation.change else { panic!("{explanation}") };
    assert!(edits[0].to_string().contains("[permissions.ci.network]") && edits[0].to_string().contains("mode = \"full\""), "{}", edits[0]);
}

#[test]
fn each_profile_goes_back_to_toml_by_itself() {
    let text = SHARED.replace("allow_local_binding = true", "allow_local_binding = true\nenable_socks5_udp = true");
    let all = compiled(user(&text), ALL);
    assert!(matches!(decompile(&all), Err(DecompileError::Several(names)) if names == "`dev`, `base`, `ci`, `locked`"));
    for name in ["dev", "base", "ci", "locked"] {
        let profile = Profile::named(&all, Some(name)).unwrap();
        let back = decompile_profile(profile).unwrap();
        let again = compiled(user(&back), Selection::default());
        assert_eq!(profile_names(&again), [name]);
        let diff = compare_profiles(profile, Profile::named(&again, None).unwrap()).unwrap();
        assert!(diff.settings.is_empty() && diff.changes.is_empty() && diff.resolutions.is_empty(), "{}", diff.render(usize::MAX));
    }
}

#[test]
fn a_comparison_is_of_one_profile_and_names_the_others_that_only_one_side_has() {
    let (all, some) = (compiled(user(SHARED), ALL), compiled(user(SHARED), named(&["dev", "ci"])));
    let diff = compare(&some, &all).unwrap();
    assert_eq!((diff.profiles.only_old.len(), &diff.profiles.only_new[..]), (0, &["base".to_owned(), "locked".to_owned()][..]));
    assert!(!diff.is_empty() && !diff.widens());
    assert_eq!(
        diff.render(usize::MAX),
        "only the new policy has profiles base, locked, which this does not compare\nno difference in what may be reached, nor in settings\n"
    );
    // Two profiles of one policy: what they differ in, and no more.
    let named = |name| Profile::named(&all, Some(name)).unwrap();
    let diff = compare_profiles(named("base"), named("dev")).unwrap();
    assert_eq!(diff.settings.iter().map(|change| change.key.as_str()).collect::<Vec<_>>(), ["profile"]);
    assert_eq!((diff.changes.len(), diff.profiles.is_empty()), (2, true), "{}", diff.render(usize::MAX));
    assert!(diff.widens());
    // A rule of a profile that is not compared changes nothing.
    let other = compiled(user(&SHARED.replace("\"ci.example.net\" = \"allow\"", "\"ci.example.net\" = \"deny\"")), ALL);
    assert!(compare(&all, &other).unwrap().is_empty());
    assert!(!compare_profiles(named("ci"), Profile::named(&other, Some("ci")).unwrap()).unwrap().is_empty());
}

/// The binary, in a folder with the sources.
fn run(dir: &std::path::Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_netpolicy"));
    let output = command.args(arguments).current_dir(dir).env_clear().output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn commands_ask_the_profile_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("config.toml"), SHARED).unwrap();
    let json = |arguments: &[&str]| -> serde_json::Value {
        let (_, said, errors) = run(dir, arguments);
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error}\n{said}{errors}"))
    };
    let listed = |value: &serde_json::Value| -> Vec<String> {
        let profiles = value["profiles"].as_array().unwrap().iter();
        profiles.map(|profile| format!("{} {} {}", profile["profile"], profile["network"], profile["mode"]).replace('"', "")).collect()
    };
    let expected = ["dev proxied full", "base proxied full", "ci proxied limited", "locked blocked full"];
    for command in [&["check", "--json"][..], &["compile", "--json", "-o", "all.bin"]] {
        let said = json(&[command, &["--user", "config.toml", "--all-profiles"]].concat());
        assert_eq!(listed(&said), expected);
        assert_eq!(
            (said["profile"].as_str(), said["mode"].as_str()),
            (Some("dev"), Some("full")),
            "the default's stand where they always did"
        );
    }
    json(&["compile", "--json", "-o", "some.bin", "--user", "config.toml", "--profile", "ci", "--profile", "dev"]);
    let (_, ok, _) = run(dir, &["check", "--user", "config.toml", "--profile", "ci", "--profile", "locked"]);
    assert!(ok.starts_with("ok: 2 profiles, ci (network proxied, mode limited), locked (network blocked, mode full), "), "{ok}");

    let decision = |policy: &[&str], request: &str| {
        json(&[&["explain", "--json"], policy, &[request]].concat())["decision"].as_str().unwrap().to_owned()
    };
    for (policy, expected) in [
        (&["--policy", "all.bin"][..], "allow"),
        (&["--policy", "all.bin", "--profile", "dev"], "allow"),
        (&["--policy", "all.bin", "--as", "base"], "deny"),
        (&["--policy", "all.bin", "--profile", "locked"], "deny"),
        (&["--policy", "some.bin"], "deny"),
        (&["--policy", "some.bin", "--profile", "dev"], "allow"),
        (&["--user", "config.toml", "--profile", "ci"], "deny"),
    ] {
        assert_eq!(decision(policy, "http://dev.example.net/"), expected, "{policy:?}");
    }

    let tests = "[[case]]\nrequest = \"GET http://ci.example.net/\"\nexpect = \"allow\"\n";
    std::fs::write(dir.join("policy.test.toml"), tests).unwrap();
    for (profile, code) in [("ci", 0), ("dev", 1)] {
        for policy in [["--policy", "all.bin"], ["--user", "config.toml"]] {
            let (found, said, errors) = run(dir, &["test", policy[0], policy[1], "--profile", profile]);
            assert_eq!(found, Some(code), "{profile}: {said}{errors}");
        }
    }
    let covered = json(&["test", "--json", "--coverage", "--policy", "all.bin", "--profile", "ci"]);
    assert_eq!(covered["coverage"]["rules"], 6, "the rules of other profiles do not count");

    let inspected = json(&["inspect", "--json", "all.bin"]);
    let of = |value: &serde_json::Value| {
        value["profiles"]
            .as_array()
            .unwrap()
            .iter()
            .map(|profile| profile["settings"]["profile"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&inspected), ["dev", "base", "ci", "locked"]);
    assert_eq!(inspected["hooks"][1]["profiles"], serde_json::json!(["dev", "base", "ci"]));
    let ci = json(&["inspect", "--json", "all.bin", "--profile", "ci"]);
    assert_eq!(
        (of(&ci), ci["settings"]["mode"].as_str(), &ci["rules"]),
        (vec!["ci".to_owned()], Some("limited"), &inspected["profiles"][2]["rules"])
    );
    let (_, rules, _) = run(dir, &["inspect", "--rules", "all.bin"]);
    assert!(
        rules.contains("allow dev.example.net, user config.toml:27 [dev]\n")
            && rules.contains("deny bad.example.com, user config.toml:10 [dev, base, ci]\n"),
        "{rules}"
    );
    let (_, rules, _) = run(dir, &["inspect", "--rules", "--json", "--profile", "base", "all.bin"]);
    assert!(!rules.contains("dev.example.net") && rules.lines().all(|rule| rule.contains("\"base\"")), "{rules}");
    let (_, toml, _) = run(dir, &["inspect", "--toml", "--profile", "ci", "all.bin"]);
    std::fs::write(dir.join("back.toml"), toml).unwrap();
    assert_eq!(
        run(dir, &["diff", "--profile", "ci", "all.bin", "back.toml"]),
        (Some(0), "no difference in what may be reached, nor in settings\n".into(), String::new())
    );
    let (code, said, errors) = run(dir, &["inspect", "--toml", "all.bin"]);
    assert_eq!((code, said.as_str()), (Some(2), ""));
    assert!(errors.contains("`dev`, `base`, `ci`, `locked`") && errors.contains("help: name one with `--profile`"), "{errors}");

    let sets = json(&["diff", "--json", "all.bin", "some.bin"])["profiles"].clone();
    assert_eq!(sets, serde_json::json!({ "only_old": ["base", "locked"], "only_new": [] }));
    let (code, said, _) = run(dir, &["diff", "--profile", "ci", "some.bin", "all.bin"]);
    assert_eq!((code, said.lines().next()), (Some(1), Some("only the new policy has profiles base, locked, which this does not compare")));
    assert_eq!(run(dir, &["diff", "--fail-on", "widen", "--profile", "ci", "some.bin", "all.bin"]).0, Some(0));

    // Wherever it is named, a profile that is not there is said with those that are, and the nearest.
    let words = "the policy has no profile `lokced`; it has `dev`, `base`, `ci`, `locked`\nhelp: did you mean `locked`?\n";
    for arguments in [
        &["explain", "--policy", "all.bin", "--profile", "lokced", "a.test"][..],
        &["test", "--policy", "all.bin", "--profile", "lokced"],
        &["inspect", "all.bin", "--profile", "lokced"],
        &["diff", "all.bin", "all.bin", "--profile", "lokced"],
    ] {
        let (code, said, errors) = run(dir, arguments);
        assert_eq!((code, said.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(errors.starts_with(&format!("error: `all.bin`: {words}")), "{arguments:?}: {errors}");
    }
    let (code, _, errors) = run(dir, &["explain", "--user", "config.toml", "--profile", "lokced", "a.test"]);
    assert!(code == Some(2) && errors.contains("these are there: `base`, `ci`, `dev`, `locked`; did you mean `locked`?"), "{errors}");
}
