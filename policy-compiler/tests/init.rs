//! `netpolicy init`: what it sees in a project, what it makes of it, and what it leaves alone.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::init::{Content, File, Folder, Limits, Names, Proposal, propose, scan};
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Layer, Options, compile};
use policy_format::{Blob, Decision, Host, Protocol, Request, decide};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const NAMES: Names<'_> = Names { policy: ".codex/config.toml", tests: ".codex/policy.test.toml" };

fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn proposed(files: &[(&str, &str)]) -> Proposal {
    propose(&scan(project(files).path(), Limits::default()).unwrap(), NAMES)
}

fn seen(proposal: &Proposal) -> Vec<String> {
    proposal.sightings.iter().map(ToString::to_string).collect()
}

/// Compiles strictly, and holds the policy against its own test.
fn hold(proposal: &Proposal) -> usize {
    let source = SourceFile::from_text(Layer::Project, Role::Config, "config.toml", proposal.policy.clone());
    let compiled = compile(vec![source], Options { strict: true, ..Options::default() })
        .unwrap_or_else(|failure| panic!("{failure}\n{}", proposal.policy));
    let blob = Blob::open(compiled.blob).unwrap();
    let tests: toml::Table = toml::from_str(&proposal.tests).unwrap();
    let mut checked = 0;
    for case in tests["case"].as_array().unwrap() {
        let one = case.get("request").map(|request| vec![request.clone()]);
        for request in one.unwrap_or_else(|| case["requests"].as_array().unwrap().clone()) {
            let (said, reason) = decided(&blob, request.as_str().unwrap());
            assert_eq!(said, case["expect"].as_str().unwrap(), "{request:?}\n{}", proposal.policy);
            assert_eq!(reason, case.get("reason").map(|reason| reason.as_str().unwrap()), "{request:?}\n{}", proposal.policy);
            checked += 1;
        }
    }
    checked
}

fn decided(blob: &Blob<Vec<u8>>, request: &str) -> (&'static str, Option<&'static str>) {
    let (method, target) = request.split_once(' ').unwrap();
    let (authority, default) = match target.split_once("://") {
        Some(("https", rest)) => (rest.trim_end_matches('/'), 443),
        Some((_, rest)) => (rest.trim_end_matches('/'), 80),
        None => (target, 0),
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().unwrap()),
        _ => (authority, default),
    };
    let host = Host::parse(host).unwrap();
    let protocol = if method == "CONNECT" || default == 443 { Protocol::Connect } else { Protocol::Http };
    let method = Some(method).filter(|_| protocol == Protocol::Http);
    match decide(
        blob,
        &Request {
            profile: policy_format::ProfileId::default(),
            protocol,
            host: &host,
            port,
            method,
            path: None,
            addresses: &[],
            inside: None,
            can_intercept: false,
        },
    ) {
        Decision::Allow(_) => ("allow", None),
        Decision::Deny(denied) => ("deny", Some(denied.reason.as_str())),
    }
}

#[test]
fn an_empty_project_gets_a_policy_that_allows_nothing() {
    let proposal = proposed(&[]);
    assert_eq!(
        proposal.policy,
        r#"# The network policy of this project, started by `netpolicy init` from what it saw here. What no rule allows is denied.
# Try it: netpolicy test --project .codex/config.toml .codex/policy.test.toml

default_permissions = "workspace"

[permissions.workspace.network]
enabled = true
mode = "full"  # "limited" allows reading only: GET, HEAD and OPTIONS
presets = []  # such as ["github"]; `common-dependencies` has what builds commonly need

[permissions.workspace.network.domains]
# "api.example.com" = "allow"
"#
    );
    assert!(proposal.sightings.is_empty());
    assert_eq!(hold(&proposal), 4);
}

/// What is here has presets that every version has.
const MIXED: &[(&str, &str)] = &[
    (
        ".git/config",
        "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = git@github.com:team/app.git\n[remote \"mirror\"]\n\turl = https://me:s3cret@git.corp.example/team/app.git\n\tpushurl = ssh://git@push.corp.example:7999/team/app.git\n",
    ),
    (
        ".claude/settings.json",
        "{\n  \"permissions\": {\n    \"allow\": [\"Bash(ls)\", \"WebFetch(domain:docs.example.com)\", \"WebFetch(domain:*)\"],\n    \"deny\": [\"WebFetch(domain:evil.example)\"]\n  },\n  \"sandbox\": { \"network\": {\n    \"allowedDomains\": [\"*.api.example.com\", \"api.github.com\", \"www.evil.example\"],\n    \"deniedDomains\": [\"**.evil.example\"]\n  } }\n}\n",
    ),
    (".github/workflows/ci.yml", "on: push\n"),
    (".devcontainer/devcontainer.json", "{ // comment\n}"),
];

#[test]
fn a_project_gets_exactly_this_policy_and_test() {
    let proposal = proposed(MIXED);
    assert_eq!(
        proposal.policy,
        r#"# The network policy of this project, started by `netpolicy init` from what it saw here. What no rule allows is denied.
# Try it: netpolicy test --project .codex/config.toml .codex/policy.test.toml

default_permissions = "workspace"

[permissions.workspace.network]
enabled = true
mode = "full"  # "limited" allows reading only: GET, HEAD and OPTIONS
presets = [
  "github",  # seen in .git/config:4
]

[permissions.workspace.network.domains]
# A host whose address is private needs that network as well, such as "10.20.0.0/16" = "allow".
"**.evil.example" = "deny"  # seen in .claude/settings.json:8
"*.api.example.com" = "allow"  # seen in .claude/settings.json:7
"docs.example.com" = "allow"  # seen in .claude/settings.json:3
"git.corp.example" = "allow"  # seen in .git/config:6
"push.corp.example:7999" = "allow"  # seen in .git/config:7
"#
    );
    assert_eq!(
        proposal.tests,
        r#"# netpolicy test --project .codex/config.toml .codex/policy.test.toml

[[case]]
name = "the preset github can be reached"
request = "GET https://github.com/"
expect = "allow"

[[case]]
name = "hosts that the project names can be reached"
requests = [
  "GET https://www.api.example.com/",
  "GET https://docs.example.com/",
  "GET https://git.corp.example/",
  "CONNECT push.corp.example:7999",
]
expect = "allow"

[[case]]
name = "what is denied cannot be reached"
request = "GET https://evil.example/"
expect = "deny"
reason = "denied"

[[case]]
name = "nothing else can be reached"
requests = [
  "GET https://example.com/",
  "GET https://example.org/",
  "GET https://example.invalid/",
]
expect = "deny"
reason = "not_allowed"

[[case]]
name = "the cloud's metadata service cannot be reached"
request = "GET http://169.254.169.254/"
expect = "deny"
reason = "not_allowed_local"
"#
    );
    let seen = seen(&proposal);
    for line in [
        ".git/config:4: a git remote: preset `github`",
        ".git/config:6: a git remote: `git.corp.example` is allowed",
        ".claude/settings.json:3: an allowed fetch: it says every host, which is not taken over",
        ".claude/settings.json:7: an allowed domain: `api.github.com` is in preset `github`",
        ".claude/settings.json:7: an allowed domain: another of these files denies it",
        ".claude/settings.json:8: a denied domain: `**.evil.example` is denied",
        ".devcontainer/devcontainer.json: a development container: nothing is taken over from it",
        ".github/workflows/ci.yml: a workflow of GitHub Actions: nothing is taken over from it",
    ] {
        assert!(seen.contains(&line.to_owned()), "{line}\n{seen:#?}");
    }
    assert_eq!(hold(&proposal), 10);
}

#[test]
fn no_credential_is_ever_shown() {
    let files = [
        (".git/config", "[remote \"origin\"]\nurl = https://me:s3cret@git.corp.example/x\n"),
        (
            ".npmrc",
            "registry=https://s3cret@npm.corp.example/\n//npm.corp.example/:_authToken=s3cret\n@a:registry=https://x:s3/cret@y.example/\n",
        ),
        ("pip.conf", "[global]\nextra-index-url = https://__token__:s3cret@pip.corp.example/simple\n"),
        (".cargo/config.toml", "[registries.corp]\nindex = \"sparse+https://s3cret:s3cret@cargo.corp.example/\"\ntoken = \"s3cret\"\n"),
        (
            "nuget.config",
            "<configuration><packageSources><add key=\"a\" value=\"https://s3cret@nuget.corp.example/v3\"/></packageSources></configuration>",
        ),
        ("Gemfile", "source \"https://s3cret:x@gems.corp.example\"\n"),
        (".claude/settings.json", "{\"permissions\":{\"allow\":[\"WebFetch(domain:https://s3cret@a.example)\"]}}"),
    ];
    let proposal = proposed(&files);
    let all = format!("{proposal:?} {:#?}", seen(&proposal));
    assert!(!all.contains("s3cret") && !all.contains("cret@"), "{all}");
    for host in ["git", "npm", "pip", "cargo", "nuget", "gems"] {
        assert!(proposal.policy.contains(&format!("\"{host}.corp.example\" = \"allow\"")), "{}", proposal.policy);
    }
}

/// File, text, and what is seen in it. The `#` of a line of the expectation stands for the file's name.
const FILES: &[(&str, &str, &[&str])] = &[
    ("package.json", "{}", &["#: a package of npm: preset `npm`"]),
    ("package.json", "[", &["#: a package of npm: preset `npm`", "#: a package of npm: it is not JSON"]),
    (
        "package.json",
        "{\n  \"homepage\": \"https://no.example\",\n  \"dependencies\": {\n    \"z\": \"git+https://git.example.net/team/z.git#v1\",\n    \"a\": \"^1.0\"\n  },\n  \"devDependencies\": {\n    \"b\": \"github:team/b\",\n    \"c\": \"git+ssh://git@ssh.example.net/c.git\",\n    \"d\": \"https://cdn.example.net/d.tgz\",\n    \"e\": \"https://$HOST/d.tgz\"\n  }\n}\n",
        &[
            "#: a package of npm: preset `npm`",
            "#:4: a package's source: `git.example.net` is allowed",
            "#:8: a package's source: preset `github`",
            "#:9: a package's source: `ssh.example.net:22` is allowed",
            "#:10: a package's source: `cdn.example.net` is allowed",
            "#:11: a package's source: its host is not written out, so nothing is allowed for it",
        ],
    ),
    ("web/pnpm-lock.yaml", "", &["#: a lock file of pnpm: preset `npm`"]),
    (
        ".npmrc",
        "; registry=https://no.example/\n@corp:registry = \"http://localhost:4873/\"\nproxy=http://proxy.example\nregistry=${REGISTRY}\n",
        &["#: npm settings: preset `npm`", "#:2: a registry: `localhost:4873` is allowed"],
    ),
    (
        ".yarnrc.yml",
        "npmScopes:\n  corp:\n    npmRegistryServer: \"https://yarn.corp.example\"\n",
        &["#: Yarn settings: preset `npm`", "#:3: a registry: `yarn.corp.example` is allowed"],
    ),
    (
        "bunfig.toml",
        "[install.scopes]\na = \"https://bun.corp.example/\"\n",
        &["#: Bun settings: preset `npm`", "#:2: a registry or source: `bun.corp.example` is allowed"],
    ),
    (
        "requirements-dev.txt",
        "# https://no.example\n--extra-index-url=https://pip.corp.example/simple\nx @ git+ssh://git@git.corp.example/x # https://no.example\n",
        &[
            "#: Python requirements: preset `pypi`",
            "#:2: a package index or source: `pip.corp.example` is allowed",
            "#:3: a package index or source: `git.corp.example:22` is allowed",
        ],
    ),
    (
        "pyproject.toml",
        "[project]\nurls = { home = \"https://no.example\" }\n[[tool.uv.index]]\nname = \"a\"\nurl = \"https://uv.corp.example/\"\n[[tool.poetry.source]]\nurl = \"https://poetry.corp.example/\"\n",
        &[
            "#: a Python project: preset `pypi`",
            "#:5: a registry or source: `uv.corp.example` is allowed",
            "#:7: a registry or source: `poetry.corp.example` is allowed",
        ],
    ),
    ("pyproject.toml", "[", &["#: a Python project: preset `pypi`", "#: a Python project: it is not TOML"]),
    (
        "Cargo.toml",
        "[package]\nrepository = \"https://no.example\"\n[dependencies]\na = { git = \"https://git.corp.example/a\" }\n",
        &["#: a Rust package: preset `crates`", "#:4: a registry or source: `git.corp.example` is allowed"],
    ),
    ("go.mod", "module x\n", &["#: a Go module: preset `go`"]),
    (
        "pom.xml",
        "<project>\n<url>https://no.example</url>\n<!-- <repository><url>https://no.example</url></repository> -->\n<repositories><repository>\n<url>https://maven.corp.example/x</url></repository></repositories>\n<distributionManagement><repository><url>https://no.example</url></repository></distributionManagement></project>",
        &["#: a Maven project: preset `maven-gradle`", "#:5: a repository: `maven.corp.example` is allowed"],
    ),
    ("pom.xml", "<a></b>", &["#: a Maven project: preset `maven-gradle`", "#: a Maven project: it is not XML"]),
    (
        "build.gradle.kts",
        "repositories {\n  maven {\n    url = uri(\"https://gradle.corp.example/x\")\n  }\n}\npom { licenses { license { url.set(\"https://no.example\") } } }\n",
        &["#: a Gradle build: preset `maven-gradle`", "#:3: a repository: `gradle.corp.example` is allowed"],
    ),
    (
        "gradle/wrapper/gradle-wrapper.properties",
        "distributionUrl=https\\://dist.corp.example/gradle.zip\n",
        &["#: a Gradle wrapper: preset `maven-gradle`", "#:1: a distribution: `dist.corp.example` is allowed"],
    ),
    ("src/App.csproj", "<Project/>", &["#: a .NET project: preset `nuget`"]),
    (
        "NuGet.Config",
        "<configuration>\n<packageSources>\n<add key=\"a\" value=\"https://nuget.corp.example/v3/index.json\" />\n<add key=\"b\" value=\"./local\" />\n</packageSources>\n<config><add key=\"x\" value=\"https://no.example\"/></config>\n</configuration>",
        &["#: NuGet settings: preset `nuget`", "#:3: a package source: `nuget.corp.example` is allowed"],
    ),
    (
        "Gemfile",
        "source 'https://gems.corp.example'\ngem 'x', homepage: 'https://no.example'\n",
        &["#: a Gemfile: preset `rubygems`", "#:1: a gem source: `gems.corp.example` is allowed"],
    ),
    (
        "composer.json",
        "{\n\"repositories\": [{ \"type\": \"composer\",\n\"url\": \"https://php.corp.example\" }]}",
        &["#: a package of Composer: preset `packagist`", "#:3: a repository: `php.corp.example` is allowed"],
    ),
    (
        "Dockerfile",
        "FROM --platform=linux/amd64 registry.corp.example:5000/base AS b\nFROM debian\nRUN set -e; apt-get -y install curl \\\n && apk add --no-cache x\n# RUN dnf install x\nFROM $X/y\n",
        &[
            "#: a Dockerfile: preset `docker`",
            "#:1: an image registry: `registry.corp.example:5000` is allowed",
            "#:3: system packages: preset `debian-ubuntu`",
            "#:4: system packages: preset `alpine`",
        ],
    ),
    ("docker/fedora.Dockerfile", "RUN dnf -y install x", &["#: a Dockerfile: preset `docker`", "#:1: system packages: preset `fedora`"]),
    (
        "compose.yaml",
        "services:\n  a:\n    image: \"images.corp.example/a:1\"\n  b:\n    image: postgres\n",
        &["#: a Compose file: preset `docker`", "#:3: an image registry: `images.corp.example` is allowed"],
    ),
    (
        ".gitmodules",
        "[submodule \"a\"]\n\turl = ../a.git\n[submodule \"b\"]\n\turl = https://gitlab.com/x/b\n[submodule \"c\"]\n\turl = git@code.corp.example:c\n",
        &["#:4: a git submodule: preset `gitlab`", "#:6: a git submodule: `code.corp.example:22` is allowed"],
    ),
    (
        ".srt-settings.json",
        "{\"network\":{\"allowedDomains\":[\"*.corp.example\",\"a..b\",\"169.254.169.254\"]}}",
        &[
            "#:1: an allowed domain: `*.corp.example` is allowed",
            "#:1: an allowed domain: it is not a host or a pattern of hosts",
            "#:1: an allowed domain: cloud metadata services are not taken over",
        ],
    ),
    (".claude/settings.json", "nonsense", &["#: settings of Claude Code: it is not JSON"]),
    (".claude/settings.local.json", "", &["#: one person's settings of Claude Code: nothing is taken over from it"]),
    (".codex/config.toml", "", &["#: settings of Codex: nothing is taken over from it"]),
    (".cursor/mcp.json", "", &["#: settings of Cursor: nothing is taken over from it"]),
    (".git", "gitdir: /elsewhere", &["#: a work tree whose repository, and its remotes, are elsewhere: nothing is taken over from it"]),
    (".gitlab-ci.yml", "", &["#: a pipeline of GitLab: nothing is taken over from it"]),
    ("node_modules/x/package.json", "{}", &[]),
    ("README.md", "https://no.example", &[]),
    ("a/b/c/package.json", "{}", &["#: a package of npm: preset `npm`"]),
    ("a/b/c/d/package.json", "{}", &[]),
];

#[test]
fn each_file_says_this() {
    for (file, text, expected) in FILES {
        let proposal = proposed(&[(file, text)]);
        let expected: Vec<String> = expected.iter().map(|line| line.replacen('#', file, 1)).collect();
        assert_eq!(seen(&proposal), expected, "{file}\n{text}");
        assert!(!proposal.policy.contains("no.example"), "{}", proposal.policy);
    }
}

#[test]
fn all_of_it_together_holds_in_the_test() {
    let file = |(path, text, _): &(&str, &str, _)| File { path: (*path).to_owned(), content: Content::Text((*text).to_owned()) };
    let proposal = propose(&Folder { files: FILES.iter().map(file).collect(), cut: false }, NAMES);
    assert_eq!(proposal.presets.len(), 14, "{:?}", proposal.presets);
    assert!(hold(&proposal) > proposal.presets.len(), "{}", proposal.tests);
}

/// A file that ends anywhere, or is another kind of file, gives a policy that is TOML, and no panic.
#[test]
fn broken_files_do_no_harm() {
    let mut checked = 0;
    for (file, text, _) in FILES {
        let cuts = (0..text.len()).filter(|at| text.is_char_boundary(*at)).map(|at| text[..at].to_owned());
        let others = FILES.iter().map(|(_, other, _)| format!("{text}\u{0}\"'[<{other}"));
        for text in cuts.chain(others) {
            let file = File { path: (*file).to_owned(), content: Content::Text(text) };
            let proposal = propose(&Folder { files: vec![file], cut: false }, NAMES);
            assert!(toml::from_str::<toml::Table>(&proposal.policy).is_ok(), "{}", proposal.policy);
            assert!(toml::from_str::<toml::Table>(&proposal.tests).is_ok(), "{}", proposal.tests);
            checked += 1;
        }
    }
    assert!(checked > 1000);
}

#[test]
fn every_kind_of_pattern_holds_in_the_test() {
    let domains = r#"["*.com", "**.corp.example", "a?c.example", "localhost:3000", "10.20.0.0/16", "[2001:db8::7]:8443", "192.0.2.1", "example.org:22"]"#;
    let text = format!(
        "{{\"network\":{{\"allowedDomains\":{domains},\"deniedDomains\":[\"github.com\", \"10.30.0.0/16\", \"x.corp.example:8080\"]}}}}"
    );
    let proposal = proposed(&[(".srt-settings.json", &text), (".git/config", "[remote \"o\"]\nurl = https://github.com/x/y\n")]);
    assert_eq!(proposal.rules.len(), 10);
    assert!(seen(&proposal).iter().any(|line| line.contains("anybody can get a name under it")), "{:#?}", seen(&proposal));
    assert!(proposal.tests.contains("GET https://api.github.com/"), "github.com itself is denied: {}", proposal.tests);
    assert_eq!(hold(&proposal), 1 + 7 + 3 + 2 + 1, "{}", proposal.tests);
}

#[test]
fn a_wider_rule_stands_for_a_narrower_one() {
    let proposal = proposed(&[
        (".npmrc", "registry=https://npm.corp.example/\n@a:registry=https://npm.corp.example:8443/\n"),
        (".srt-settings.json", "{\"network\":{\"allowedDomains\":[\"**.corp.example\"]}}"),
    ]);
    let rules: Vec<String> = proposal.rules.iter().map(|rule| rule.pattern.to_string()).collect();
    assert_eq!(rules, ["**.corp.example"]);
    assert!(seen(&proposal).contains(&".npmrc:2: a registry: `**.corp.example` is allowed".to_owned()), "{:#?}", seen(&proposal));
}

#[test]
fn a_scan_is_bounded_and_stays_in_the_folder() {
    let outside = project(&[("package.json", "{}"), (".npmrc", "registry=https://outside.example/\n")]);
    let dir =
        project(&[("a/package.json", "{}"), ("b/.npmrc", "registry=https://inside.example/\n"), ("big/.npmrc", &"x".repeat(300 << 10))]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path().join(".npmrc"), dir.path().join(".npmrc")).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join(".git")).unwrap();
    }
    let paths = |folder: &Folder| folder.files.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
    let folder = scan(dir.path(), Limits::default()).unwrap();
    assert_eq!(paths(&folder), ["a/package.json", "b/.npmrc", "big/.npmrc"]);
    assert!(!folder.cut);
    assert!(matches!(folder.files[2].content, Content::Unreadable("it is too large")));
    let proposal = propose(&folder, NAMES);
    assert!(seen(&proposal).contains(&"big/.npmrc: npm settings: it is too large".to_owned()));
    assert!(!proposal.policy.contains("outside"));

    let shallow = scan(dir.path(), Limits { depth: 0, ..Limits::default() }).unwrap();
    assert!(paths(&shallow).is_empty());
    let few = scan(dir.path(), Limits { entries: 2, ..Limits::default() }).unwrap();
    assert!(few.cut && paths(&few).len() <= 2);
    let small = scan(dir.path(), Limits { total_bytes: 10, ..Limits::default() }).unwrap();
    assert!(matches!(small.files[1].content, Content::Unreadable(_)));
    assert!(scan(&dir.path().join("missing"), Limits::default()).is_err());
}

#[cfg(unix)]
#[test]
fn a_file_name_cannot_write_a_line_of_the_policy() {
    let name = "x\n\"evil.example\" = \"allow\"\n#/package.json";
    let proposal = proposed(&[(name, "{}"), (".cursor/a\u{202e}b", "")]);
    assert!(proposal.policy.lines().all(|line| !line.starts_with("\"evil")), "{}", proposal.policy);
    assert_eq!(
        toml::from_str::<toml::Table>(&proposal.policy).unwrap()["permissions"]["workspace"]["network"]["domains"],
        toml::Table::new().into()
    );
    assert!(seen(&proposal).iter().all(|line| !line.contains(['\n', '\u{202e}'])));
}

fn netpolicy(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_netpolicy")).arg("init").args(arguments).current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn writes_two_files_once_and_says_what_to_do_next() {
    let dir = project(MIXED);
    let inner = dir.path().join("src/deep");
    fs::create_dir_all(&inner).unwrap();
    let output = netpolicy(dir.path(), &[]);
    let said = text(&output.stderr);
    assert!(output.status.success() && output.stdout.is_empty(), "{said}");
    assert!(said.contains("saw .git/config:6: a git remote: `git.corp.example` is allowed\n"), "{said}");
    assert!(
        said.ends_with(
            "  netpolicy test --project .codex/config.toml .codex/policy.test.toml\n  netpolicy compile --project .codex/config.toml -o policy.bin\n"
        ),
        "{said}"
    );
    let written = fs::read_to_string(dir.path().join(".codex/config.toml")).unwrap();
    assert_eq!(written, proposed(MIXED).policy);
    assert_eq!(fs::read_to_string(dir.path().join(".codex/policy.test.toml")).unwrap(), proposed(MIXED).tests);

    // From inside the repository, the same place is meant, and it is not overwritten.
    fs::write(dir.path().join(".codex/config.toml"), "# mine\n").unwrap();
    let again = netpolicy(&inner, &[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("is there already\nhelp: look at it with `netpolicy check`"), "{}", text(&again.stderr));
    assert_eq!(fs::read_to_string(dir.path().join(".codex/config.toml")).unwrap(), "# mine\n");
    assert!(netpolicy(&inner, &["--force"]).status.success());
    assert_eq!(fs::read_to_string(dir.path().join(".codex/config.toml")).unwrap(), written);
}

#[test]
fn a_dry_run_writes_nothing_and_json_says_all() {
    let dir = project(MIXED);
    let dry = netpolicy(dir.path(), &["--dry-run"]);
    let expected = proposed(MIXED);
    assert_eq!(text(&dry.stdout), format!("# .codex/config.toml\n{}\n# .codex/policy.test.toml\n{}", expected.policy, expected.tests));
    assert!(!dir.path().join(".codex").exists());

    let output =
        netpolicy(Path::new("/"), &[dir.path().to_str().unwrap(), "--json", "--output", dir.path().join("new/p.toml").to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["written"], true);
    assert_eq!(json["presets"], serde_json::json!(["github"]));
    assert_eq!(json["domains"]["push.corp.example:7999"], "allow");
    assert_eq!(json["seen"][0]["file"], ".git/config");
    assert_eq!(json["policy"]["text"], fs::read_to_string(dir.path().join("new/p.toml")).unwrap());
    assert!(dir.path().join("new/policy.test.toml").is_file() && !dir.path().join(".codex").exists());
}

#[cfg(unix)]
#[test]
fn the_default_place_does_not_lead_out_of_the_project() {
    let (dir, outside) = (project(&[(".git/HEAD", "")]), project(&[]));
    std::os::unix::fs::symlink(outside.path(), dir.path().join(".codex")).unwrap();
    let output = netpolicy(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("leads out of the project"), "{}", text(&output.stderr));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn what_is_written_is_valid_for_editors() {
    for proposal in [proposed(&[]), proposed(MIXED)] {
        for (document, written) in [(&policy_compiler::keys::CONFIG, &proposal.policy), (&policy_compiler::keys::TESTS, &proposal.tests)] {
            let schema = policy_compiler::json_schema::schema(document);
            let written: serde_json::Value = toml::from_str(written).unwrap();
            jsonschema::validate(&schema, &written).unwrap_or_else(|error| panic!("{error}: {written}"));
        }
    }
}
