//! Text of a known file to the hosts in it. Of an address, only host and port are kept: what else it has, credentials included, goes no further.

use policy_format::Access;
use quick_xml::events::Event;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

/// What was found in one file, in its order. Bounded: what is beyond [`MAX_FINDS`] is counted only.
#[derive(Debug, Default)]
pub(super) struct Finds {
    pub(super) found: Vec<Find>,
    pub(super) more: usize,
    /// Why the file could not be understood.
    pub(super) broken: Option<&'static str>,
}

/// Finds of one file; more of them is not a project's set-up.
const MAX_FINDS: usize = 256;

/// Something that was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Find {
    /// From 1; `None` when it is not known.
    pub(super) line: Option<usize>,
    pub(super) what: &'static str,
    pub(super) says: Says,
}

/// What it says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// A host is used: `host` or `host:port`, still to be checked.
    Host(String),
    /// A git remote is at this host.
    Remote(String),
    /// An agent has a rule for this pattern, still to be checked.
    Rule(String, Access),
    /// A preset goes with it.
    Preset(&'static str),
    /// There is an address, but its host is not written out.
    Unclear,
}

impl Finds {
    fn push(&mut self, line: Option<usize>, what: &'static str, says: Says) {
        let find = Find { line, what, says };
        if self.found.contains(&find) {
            return;
        }
        if self.found.len() == MAX_FINDS {
            self.more += 1;
        } else {
            self.found.push(find);
        }
    }

    fn url(&mut self, line: Option<usize>, what: &'static str, url: &str) {
        match endpoint(url) {
            Endpoint::At(host) => self.push(line, what, Says::Host(host)),
            Endpoint::Unclear => self.push(line, what, Says::Unclear),
            Endpoint::NotNetwork => {}
        }
    }
}

/// Where an address points.
#[derive(Debug, PartialEq, Eq)]
enum Endpoint {
    /// `host`, or `host:port` when the port is not that of HTTP.
    At(String),
    /// A variable, or something that is not an address.
    Unclear,
    /// A file.
    NotNetwork,
}

/// The host and port of `scheme://user@host:port/path` or of `user@host:path`.
fn endpoint(address: &str) -> Endpoint {
    let address = address.trim();
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (scheme.rsplit('+').next().unwrap_or_default().to_ascii_lowercase(), rest),
        // A path may hold a colon too, but then behind a slash.
        None => match address.split_once(':') {
            Some((host, _)) if host.len() > 1 && !host.contains('/') => ("ssh".to_owned(), host),
            _ => return Endpoint::NotNetwork,
        },
    };
    let (usual, named) = match scheme.as_str() {
        "https" => (Some("443"), None),
        "http" => (Some("80"), None),
        "ssh" => (None, Some("22")),
        "git" => (None, Some("9418")),
        "file" => return Endpoint::NotNetwork,
        _ => return Endpoint::Unclear,
    };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let spelt = |c: char| c.is_alphanumeric() || ".-_:[]".contains(c);
    let digits = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    if host.is_empty() || !host.chars().all(spelt) || !digits {
        return Endpoint::Unclear;
    }
    match port.filter(|port| Some(*port) != usual).or(named) {
        Some(port) => Endpoint::At(format!("{host}:{port}")),
        None => Endpoint::At(host.to_owned()),
    }
}

/// The addresses in a line, whatever stands around them.
fn urls(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("://").map(|(at, _)| {
        let before = line.get(..at).unwrap_or_default();
        let start = before.rfind(|c: char| !c.is_ascii_alphanumeric() && !"+.-".contains(c)).map_or(0, |at| at + 1);
        let rest = line.get(start..).unwrap_or_default();
        rest.split(|c: char| c.is_whitespace() || "\"'<>(),;".contains(c)).next().unwrap_or_default()
    })
}

/// Lines with their numbers, comments left out.
fn lines<'t>(text: &'t str, comments: &'static [&'static str]) -> impl Iterator<Item = (usize, &'t str)> {
    (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !comments.iter().any(|mark| line.starts_with(mark)))
}

pub(super) fn git_config(text: &str, finds: &mut Finds) {
    let mut section = None;
    for (number, line) in lines(text, &["#", ";"]) {
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_start().to_ascii_lowercase();
            section = [("remote", "a git remote"), ("submodule", "a git submodule")].into_iter().find(|(kind, _)| name.starts_with(kind));
        } else if let (Some((_, what)), Some((key, value))) = (section, line.split_once('='))
            && ["url", "pushurl"].contains(&key.trim().to_ascii_lowercase().as_str())
        {
            match endpoint(value.trim().trim_matches('"')) {
                Endpoint::At(host) => finds.push(Some(number), what, Says::Remote(host)),
                Endpoint::Unclear => finds.push(Some(number), what, Says::Unclear),
                Endpoint::NotNetwork => {}
            }
        }
    }
}

pub(super) fn npmrc(text: &str, finds: &mut Finds) {
    for (number, line) in lines(text, &["#", ";"]) {
        let Some((key, value)) = line.split_once('=') else { continue };
        let key = key.trim();
        if key == "registry" || (key.starts_with('@') && key.ends_with(":registry")) {
            finds.url(Some(number), "a registry", value.trim().trim_matches(['"', '\'']));
        }
    }
}

pub(super) fn yarnrc(text: &str, finds: &mut Finds) {
    let of_registry = |line: &str| ["npmRegistryServer", "registry ", "\"registry\""].iter().any(|key| line.starts_with(key));
    for (number, line) in lines(text, &["#"]).filter(|(_, line)| of_registry(line)) {
        urls(line).for_each(|url| finds.url(Some(number), "a registry", url));
    }
}

pub(super) fn pip_conf(text: &str, finds: &mut Finds) {
    for (number, line) in lines(text, &["#", ";"]).filter(|(_, line)| !line.starts_with("proxy")) {
        urls(line).for_each(|url| finds.url(Some(number), "a package index", url));
    }
}

pub(super) fn requirements(text: &str, finds: &mut Finds) {
    for (number, line) in lines(text, &["#"]) {
        let line = line.split(" #").next().unwrap_or_default();
        urls(line).for_each(|url| finds.url(Some(number), "a package index or source", url));
    }
}

pub(super) fn gradle(text: &str, finds: &mut Finds) {
    // The address of a repository stands in its block; other addresses are of licences and home pages.
    let mut block = None;
    for (number, line) in lines(text, &["//", "*", "/*"]) {
        if ["maven {", "maven{", "maven(", "ivy {", "ivy{", "ivy("].iter().any(|opening| line.contains(opening)) {
            block = Some(number);
        }
        if block.is_some_and(|opened| number - opened <= 4) && line.to_ascii_lowercase().contains("ur") {
            urls(line).for_each(|url| finds.url(Some(number), "a repository", url));
        }
        if line.starts_with('}') {
            block = None;
        }
    }
}

pub(super) fn wrapper(text: &str, finds: &mut Finds) {
    for (number, line) in lines(text, &["#"]).filter(|(_, line)| line.starts_with("distributionUrl") || line.starts_with("wrapperUrl")) {
        urls(&line.replace("\\:", ":")).for_each(|url| finds.url(Some(number), "a distribution", url));
    }
}

pub(super) fn gemfile(text: &str, finds: &mut Finds) {
    for (number, line) in lines(text, &["#"]).filter(|(_, line)| line.starts_with("source") || line.contains("git")) {
        urls(line).for_each(|url| finds.url(Some(number), "a gem source", url));
    }
}

/// Keys that hold addresses, in any of the TOML files that are read. `*` is any key, `[]` any item.
const TOML_URLS: &[&str] = &[
    "build-dependencies.*.git",
    "dependencies.*.git",
    "dev-dependencies.*.git",
    "extra-index-url.[]",
    "find-links.[]",
    "index-url",
    "index.[].url",
    "install.registry",
    "install.registry.url",
    "install.scopes.*",
    "install.scopes.*.url",
    "patch.*.*.git",
    "registries.*.index",
    "registry.index",
    "source.*.git",
    "source.*.registry",
    "source.[].url",
    "tool.pdm.source.[].url",
    "tool.poetry.source.[].url",
    "tool.uv.extra-index-url.[]",
    "tool.uv.find-links.[]",
    "tool.uv.index-url",
    "tool.uv.index.[].url",
    "tool.uv.sources.*.git",
    "workspace.dependencies.*.git",
];

pub(super) fn toml_urls(text: &str, finds: &mut Finds) {
    fn walk<'t>(value: &'t DeValue<'_>, at: usize, path: &mut Vec<&'t str>, found: &mut dyn FnMut(&[&str], usize, &str)) {
        match value {
            DeValue::String(text) => found(path, at, text),
            DeValue::Array(items) => {
                for item in items.iter() {
                    path.push("[]");
                    walk(item.get_ref(), item.span().start, path, found);
                    path.pop();
                }
            }
            DeValue::Table(table) => walk_table(table, path, found),
            _ => {}
        }
    }
    fn walk_table<'t>(table: &'t DeTable<'_>, path: &mut Vec<&'t str>, found: &mut dyn FnMut(&[&str], usize, &str)) {
        for (key, value) in table {
            path.push(key.get_ref());
            walk(value.get_ref(), value.span().start, path, found);
            path.pop();
        }
    }
    let Ok(root) = DeTable::parse(text) else {
        finds.broken = Some("it is not TOML");
        return;
    };
    let mut hits: Vec<(usize, String)> = Vec::new();
    walk_table(root.get_ref(), &mut Vec::new(), &mut |path, at, url| {
        let wanted = |pattern: &&str| {
            pattern.split('.').count() == path.len()
                && pattern.split('.').zip(path).all(|(want, have)| want == *have || want == "*" && *have != "[]")
        };
        if TOML_URLS.iter().any(wanted) {
            hits.push((at, url.to_owned()));
        }
    });
    hits.sort();
    for (at, url) in hits {
        finds.url(Some(line_at(text, at)), "a registry or source", &url);
    }
}

fn line_at(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

pub(super) fn maven(text: &str, finds: &mut Finds) {
    let reads_from = |path: &[String]| {
        let parent = path.iter().rev().nth(1).map(String::as_str);
        path.last().is_some_and(|name| name == "url")
            && parent.is_some_and(|name| ["repository", "pluginRepository", "mirror"].contains(&name))
            && !path.iter().any(|name| name == "distributionManagement")
    };
    xml(text, finds, |path, event, line, finds| {
        if let Event::Text(url) = event
            && reads_from(path)
        {
            finds.url(Some(line), "a repository", url);
        }
    });
}

pub(super) fn nuget(text: &str, finds: &mut Finds) {
    xml(text, finds, |path, event, line, finds| {
        let (Event::Start(element) | Event::Empty(element)) = event else { return };
        if path.iter().any(|name| name == "packageSources")
            && element.name().as_ref() == "add"
            && let Ok(Some(value)) = element.try_get_attribute("value")
        {
            urls(&value.value).for_each(|url| finds.url(Some(line), "a package source", url));
        }
    });
}

/// Calls back for each event, with the names of the elements around it.
fn xml(text: &str, finds: &mut Finds, mut each: impl FnMut(&[String], &Event<'_>, usize, &mut Finds)) {
    let mut reader = quick_xml::Reader::from_str(text);
    let mut path: Vec<String> = Vec::new();
    loop {
        let at = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        match reader.read_event() {
            Err(_) => {
                finds.broken = Some("it is not XML");
                return;
            }
            Ok(Event::Eof) => return,
            Ok(event) => {
                each(&path, &event, line_at(text, at), finds);
                match &event {
                    Event::Start(element) => path.push(element.local_name().as_ref().to_owned()),
                    Event::End(_) => drop(path.pop()),
                    _ => {}
                }
            }
        }
    }
}

/// Reads JSON, or says that it is not.
fn json(text: &str, finds: &mut Finds) -> Option<Value> {
    let value = serde_json::from_str(text).ok();
    if value.is_none() {
        finds.broken = Some("it is not JSON");
    }
    value
}

/// The line on which a text stands for the first time.
fn line_of(text: &str, value: &str) -> Option<usize> {
    text.find(&Value::from(value).to_string()).map(|at| line_at(text, at))
}

pub(super) fn composer(text: &str, finds: &mut Finds) {
    let Some(root) = json(text, finds) else { return };
    let repositories: Vec<&Value> = match root.get("repositories") {
        Some(Value::Array(items)) => items.iter().collect(),
        Some(Value::Object(items)) => items.values().collect(),
        _ => Vec::new(),
    };
    for url in repositories.into_iter().filter_map(|repository| repository.get("url")?.as_str()) {
        finds.url(line_of(text, url), "a repository", url);
    }
}

/// Tables of `package.json` whose values say where a package comes from.
const NPM_TABLES: [&str; 6] = ["dependencies", "devDependencies", "optionalDependencies", "overrides", "peerDependencies", "resolutions"];

/// The hosts that npm has short names for.
const NPM_HOSTS: [(&str, &str); 4] =
    [("github", "github.com"), ("gitlab", "gitlab.com"), ("bitbucket", "bitbucket.org"), ("gist", "gist.github.com")];

pub(super) fn package_json(text: &str, finds: &mut Finds) {
    let Some(root) = json(text, finds) else { return };
    let tables = NPM_TABLES.iter().filter_map(|table| root.get(table)?.as_object());
    let sources = tables.flat_map(|table| table.values()).filter_map(|value| Some((value.as_str()?, npm_source(value.as_str()?)?)));
    // Looking a line up takes a walk through the text: not more of them than are kept.
    let mut hits: Vec<_> = sources.take(4 * MAX_FINDS).map(|(source, endpoint)| (line_of(text, source), endpoint)).collect();
    hits.sort_by_key(|(line, _)| *line);
    for (line, endpoint) in hits {
        match endpoint {
            Endpoint::At(host) => finds.push(line, "a package's source", Says::Remote(host)),
            Endpoint::Unclear => finds.push(line, "a package's source", Says::Unclear),
            Endpoint::NotNetwork => {}
        }
    }
}

/// Where a dependency comes from, unless it is a version, a path or an alias: a URL, `user@host:path`, `github:team/x`, or `team/x`.
fn npm_source(source: &str) -> Option<Endpoint> {
    if source.contains("://") || source.split(':').next().is_some_and(|host| host.contains('@') && host != source) {
        return Some(endpoint(source));
    }
    let (host, path) = source.split_once(':').unwrap_or(("github", source));
    let (_, host) = NPM_HOSTS.into_iter().find(|(name, _)| *name == host)?;
    let parts: Vec<&str> = path.split('#').next().unwrap_or_default().split('/').collect();
    let spelt = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let named = parts.iter().all(spelt) && parts.first().is_some_and(|first| !first.starts_with('.'));
    // A gist has no owner in its name.
    let whole = parts.len() == 2 || (host.starts_with("gist.") && parts.len() == 1);
    (named && whole).then(|| Endpoint::At(host.to_owned()))
}

fn texts<'v>(root: &'v Value, pointer: &str) -> impl Iterator<Item = &'v str> {
    root.pointer(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// The lists of a network sandbox below `prefix`.
fn sandbox(text: &str, root: &Value, prefix: &str, finds: &mut Finds) {
    for (list, access, what) in [("allowedDomains", Access::Allow, "an allowed domain"), ("deniedDomains", Access::Deny, "a denied domain")]
    {
        for domain in texts(root, &format!("{prefix}/network/{list}")) {
            finds.push(line_of(text, domain), what, Says::Rule(domain.to_owned(), access));
        }
    }
}

pub(super) fn srt(text: &str, finds: &mut Finds) {
    let Some(root) = json(text, finds) else { return };
    sandbox(text, &root, "", finds);
}

pub(super) fn claude(text: &str, finds: &mut Finds) {
    let Some(root) = json(text, finds) else { return };
    sandbox(text, &root, "/sandbox", finds);
    for (list, access, what) in [("allow", Access::Allow, "an allowed fetch"), ("deny", Access::Deny, "a denied fetch")] {
        for permission in texts(&root, &format!("/permissions/{list}")) {
            if let Some(domain) = permission.strip_prefix("WebFetch(domain:").and_then(|rest| rest.strip_suffix(')')) {
                finds.push(line_of(text, permission), what, Says::Rule(domain.trim().to_owned(), access));
            }
        }
    }
}

/// Package managers of distributions, as they stand in build steps.
const SYSTEM_PACKAGES: [(&str, &str, &str); 6] = [
    ("apt-get", "install", "debian-ubuntu"),
    ("apt", "install", "debian-ubuntu"),
    ("apk", "add", "alpine"),
    ("dnf", "install", "fedora"),
    ("microdnf", "install", "fedora"),
    ("yum", "install", "fedora"),
];

pub(super) fn dockerfile(text: &str, finds: &mut Finds) {
    for (number, line) in lines(text, &["#"]) {
        let words: Vec<&str> =
            line.split(|c: char| c.is_whitespace() || ";&|()\"',[]".contains(c)).filter(|word| !word.is_empty()).collect();
        if let Some((first, rest)) = words.split_first()
            && first.eq_ignore_ascii_case("from")
            && let Some(image) = rest.iter().find(|word| !word.starts_with("--"))
        {
            self::image(number, image, finds);
        }
        for (tool, verb, preset) in SYSTEM_PACKAGES {
            let behind = words.iter().position(|word| *word == tool).and_then(|at| words.get(at + 1..));
            if behind.is_some_and(|rest| rest.iter().find(|word| !word.starts_with('-')).is_some_and(|word| *word == verb)) {
                finds.push(Some(number), "system packages", Says::Preset(preset));
            }
        }
    }
}

pub(super) fn compose(text: &str, finds: &mut Finds) {
    for (number, line) in lines(text, &["#"]) {
        if let Some(image) = line.strip_prefix("image:") {
            self::image(number, image.trim().trim_matches(['"', '\'']), finds);
        }
    }
}

/// An image names its registry if its first part looks like a host.
fn image(line: usize, name: &str, finds: &mut Finds) {
    if let Some((registry, _)) = name.split_once('/')
        && (registry.contains(['.', ':']) || registry == "localhost")
        && !registry.contains(['$', '{'])
    {
        finds.url(Some(line), "an image registry", &format!("https://{registry}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gives_its_host_and_port_and_nothing_else() {
        let at = |host: &str| Endpoint::At(host.to_owned());
        for (address, expected) in [
            ("https://npm.corp.example/path?x=1", at("npm.corp.example")),
            ("https://user:s3cret@npm.corp.example:443/", at("npm.corp.example")),
            ("https://s3cret@npm.corp.example:8443", at("npm.corp.example:8443")),
            ("http://localhost:4873", at("localhost:4873")),
            ("http://a.example:443", at("a.example:443")),
            ("sparse+https://cargo.corp.example/index/", at("cargo.corp.example")),
            ("git+ssh://git@git.corp.example/x.git", at("git.corp.example:22")),
            ("ssh://git@git.corp.example:7999/x.git", at("git.corp.example:7999")),
            ("git@git.corp.example:team/x.git", at("git.corp.example:22")),
            ("git://git.corp.example/x.git", at("git.corp.example:9418")),
            ("https://[2001:db8::1]/x", at("[2001:db8::1]")),
            ("https://[2001:db8::1]:8443/x", at("[2001:db8::1]:8443")),
            ("https://a.example\\@b.example/", at("a.example")),
            ("https://a:b/c@d.example/", Endpoint::Unclear),
            ("https://${HOST}/x", Endpoint::Unclear),
            ("https://%HOST%/x", Endpoint::Unclear),
            ("https:///x", Endpoint::Unclear),
            ("s3://bucket/x", Endpoint::Unclear),
            ("file:///x", Endpoint::NotNetwork),
            ("../x.git", Endpoint::NotNetwork),
            ("/srv/a:b.git", Endpoint::NotNetwork),
            ("C:\\x", Endpoint::NotNetwork),
        ] {
            assert_eq!(endpoint(address), expected, "{address}");
        }
    }

    #[test]
    fn a_dependency_of_npm_gives_the_host_that_it_comes_from() {
        let at = |host: &str| Some(Endpoint::At(host.to_owned()));
        for (source, expected) in [
            ("git+https://git.example.net/team/x.git#semver:^1", at("git.example.net")),
            ("git+ssh://git@git.example.net:team/x.git", Some(Endpoint::Unclear)),
            ("git+ssh://git@git.example.net/team/x.git", at("git.example.net:22")),
            ("git@git.example.net:team/x.git", at("git.example.net:22")),
            ("https://user:s3cret@cdn.example.net/x-1.0.0.tgz", at("cdn.example.net")),
            ("github:team/x#main", at("github.com")),
            ("team/x", at("github.com")),
            ("gitlab:team/x", at("gitlab.com")),
            ("bitbucket:team/x", at("bitbucket.org")),
            ("gist:11081aaa281", at("gist.github.com")),
            ("^1.2.3", None),
            ("1.x || >=2.5.0 <3", None),
            ("latest", None),
            ("npm:@scope/x@^1", None),
            ("file:../x", None),
            ("../x", None),
            ("./x", None),
            ("workspace:*", None),
            ("@scope/x", None),
            ("", None),
        ] {
            assert_eq!(npm_source(source), expected, "{source}");
        }
    }

    #[test]
    fn a_file_has_only_so_many_finds() {
        let text: String = (0..300).map(|number| format!("@s{number}:registry=https://r{number}.corp.example/\n")).collect();
        let mut finds = Finds::default();
        npmrc(&text, &mut finds);
        assert_eq!((finds.found.len(), finds.more), (MAX_FINDS, 300 - MAX_FINDS));
    }
}
