//! Blobs that were written once and are read for ever. `tests/golden/README.md` says what each file is.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_format::{
    Access, Audit, AuditLevel, AuditNaming, Blob, BlobBuilder, Constraints, Decision, Forwarded, Fsync, Hook, Host, InjectedHeader, Layer,
    Listeners, Meta, Mitm, MitmMode, Mode, NameServer, Network, OnFull, OnRevoke, Otlp, OtlpProtocol, Pattern, PortRange, ProfileId,
    Profiles, Protocol, Request, Rule, RuleInput, Secret, Settings, Sni, Source, UnixSockets, Upstream, UpstreamRule, decide,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The folders whose blobs are what the writer writes today: 1.1 and 1.2 for what older ones cannot say. A writer that writes other bytes on purpose gets a new one, and the old ones
/// stay as they are.
const WRITTEN: [&str; 3] = ["v1.0", "v1.1", "v1.2"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

/// What one `.rules` file says.
#[derive(Default)]
struct Input {
    profiles: Vec<Meta>,
    settings: BTreeMap<u8, Settings>,
    hooks: Vec<Hook>,
    rules: Vec<RuleInput>,
    asked: Vec<String>,
}

/// The words after a line's first, as keys and values.
struct Keys<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Keys<'a> {
    fn of(words: &'a [&'a str]) -> Self {
        Self(words.iter().map(|word| word.split_once('=').unwrap_or_else(|| panic!("`{word}` is no key and value"))).collect())
    }

    fn all(&self, key: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| *known == key).map(|(_, value)| *value)
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.all(key).next()
    }

    fn is(&self, key: &str) -> bool {
        self.get(key) == Some("true")
    }

    fn text(&self, key: &str) -> Option<String> {
        self.get(key).map(str::to_owned)
    }

    fn list(&self, key: &str) -> Vec<String> {
        self.get(key).into_iter().flat_map(|list| list.split(',')).map(str::to_owned).collect()
    }

    fn profiles(&self) -> Profiles {
        let number = |text: &str| Profiles::only(ProfileId(text.parse().unwrap()));
        self.get("profiles").map_or_else(Profiles::default, |list| list.split(',').map(number).fold(Profiles(0), Profiles::union))
    }
}

/// Nothing is left to defaults, which may be others one day.
fn meta(name: &str, keys: &Keys<'_>) -> Meta {
    let address = |key: &str, default: &str| keys.get(key).unwrap_or(default).parse().unwrap();
    Meta {
        profile: name.to_owned(),
        network: match keys.get("network") {
            None | Some("proxied") => Network::Proxied,
            Some("blocked") => Network::Blocked,
            Some("direct") => Network::Direct,
            Some(other) => panic!("network {other}"),
        },
        mode: if keys.get("mode") == Some("limited") { Mode::Limited } else { Mode::Full },
        allow_local_binding: keys.is("local"),
        listeners: Listeners {
            http: address("http", "127.0.0.1:3128"),
            socks: (keys.get("socks") != Some("off")).then(|| address("socks", "127.0.0.1:8081")),
            admin: address("admin", "127.0.0.1:8080"),
        },
        dangerously_allow_non_loopback_proxy: keys.is("non_loopback_proxy"),
        dangerously_allow_non_loopback_admin: keys.is("non_loopback_admin"),
        enable_socks5_udp: keys.is("udp"),
        allow_upstream_proxy: keys.get("upstream") != Some("false"),
        upstream: keys.text("proxy").map(|url| Upstream { url, no_proxy: keys.list("no_proxy") }),
        unix_sockets: UnixSockets { allow: keys.list("unix"), dangerously_allow_all: keys.is("unix_all"), deny: keys.list("unix_deny") },
        mitm: Mitm {
            mode: if keys.get("mitm") == Some("always") { MitmMode::Always } else { MitmMode::Auto },
            bypass: keys.list("bypass"),
            ca_cert_path: keys.text("ca_cert"),
            ca_key_path: keys.text("ca_key"),
            max_body_bytes: keys.get("max_body").map(|text| text.parse().unwrap()),
        },
        credential_broker: keys.is("broker"),
        dangerously_allow_plaintext_credential_injection: keys.is("plaintext"),
    }
}

/// What a line says that is not the default.
fn settings(keys: &Keys<'_>) -> Settings {
    let mut settings = Settings::default();
    for (key, value) in &keys.0 {
        let list = || value.split(',').map(str::to_owned);
        match *key {
            "sni" => settings.sni = Sni::named(value).unwrap(),
            "via" => settings.via = *value == "true",
            "forwarded" => settings.forwarded = Forwarded::named(value).unwrap(),
            "resolver" => settings.resolver = list().map(|server| NameServer::read(&server).unwrap()).collect(),
            "on_revoke" => settings.on_revoke = OnRevoke::named(value).unwrap(),
            "through" => {
                let (url, hosts) = value.split_once('=').unwrap();
                let hosts = hosts.split(',').map(str::to_owned).collect();
                let proxy = (url != "direct").then(|| Upstream { url: url.to_owned(), no_proxy: Vec::new() });
                settings.upstream_rules.push(UpstreamRule { hosts, proxy });
            }
            "constraints" => {
                let layer = |name: &str| [Layer::Mdm, Layer::Managed].into_iter().find(|layer| layer.as_str() == name);
                let mut held = value.split(',').map(layer);
                let mut next = || held.next().unwrap();
                let (mode_required, local_binding_required, managed_allows_only) = (next(), next(), next());
                settings.constraints = Some(Constraints { mode_required, local_binding_required, managed_allows_only });
            }
            key if key.starts_with("audit.") => audit(&mut settings.audit, key, value),
            name => settings.limits.apply(&[format!("{name}={value}").parse().unwrap_or_else(|error| panic!("{name}: {error}"))]),
        }
    }
    settings
}

fn audit(audit: &mut Audit, key: &str, value: &str) {
    match key.trim_start_matches("audit.") {
        "chain" => audit.chain = value == "true",
        "file" => audit.file = Some(value.to_owned()),
        "fsync" => audit.fsync = Fsync::named(value).unwrap(),
        "journald" => audit.journald = value == "true",
        "level" => audit.level = AuditLevel::named(value).unwrap(),
        "metadata" => {
            let pair = |pair: &str| pair.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
            audit.metadata = value.split(',').map(pair).collect();
        }
        "naming" => audit.naming = AuditNaming::named(value).unwrap(),
        "on_full" => audit.on_full = OnFull::named(value).unwrap(),
        "otlp" => {
            let mut parts = value.split(',').map(str::to_owned);
            let protocol = OtlpProtocol::named(&parts.next().unwrap()).unwrap();
            audit.otlp = Some(Otlp { protocol, endpoint: parts.next().unwrap(), headers_file: parts.next() });
        }
        "stdout" => audit.stdout = value == "true",
        "syslog" => audit.syslog = Some(value.parse().unwrap()),
        name => audit.set(name, Audit::number(name).unwrap_or_else(|| panic!("{key}")).parse(value).unwrap()),
    }
}

fn hook(name: &str, keys: &Keys<'_>, source: Source, line: u32) -> Hook {
    let fields = |key: &str| {
        let field = |text: &str| {
            let (name, values) = text.split_once(':').unwrap();
            (name.to_owned(), values.split(',').filter(|value| !value.is_empty()).map(str::to_owned).collect())
        };
        keys.all(key).map(field).collect()
    };
    let injected = |text: &str| {
        let [name, kind, place, prefix] = text.split(':').collect::<Vec<_>>()[..] else { panic!("inject={text}") };
        let secret = if kind == "env" { Secret::Env(place.to_owned()) } else { Secret::File(place.to_owned()) };
        InjectedHeader { name: name.to_owned(), secret, prefix: prefix.replace('_', " ") }
    };
    Hook {
        name: name.to_owned(),
        host: keys.text("host").unwrap(),
        methods: keys.list("methods"),
        path_prefixes: keys.list("paths"),
        query: fields("query"),
        headers: fields("headers"),
        strip_request_headers: keys.list("strip"),
        inject_request_headers: keys.all("inject").map(injected).collect(),
        strip_response_headers: keys.list("strip_response"),
        source,
        line,
        profiles: keys.profiles(),
    }
}

fn rule(access: Access, pattern: &str, keys: &Keys<'_>, source: Source, line: u32) -> RuleInput {
    let pattern = Pattern::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
    let mut rule = RuleInput::new(pattern, access, source, line);
    for range in keys.list("ports") {
        let (first, last) = range.split_once('-').unwrap_or((&range, &range));
        rule.ports.push(PortRange { first: first.parse().unwrap(), last: last.parse().unwrap() });
    }
    let reason = keys.get("reason").unwrap_or_default().replace('_', " ");
    RuleInput { methods: keys.list("methods"), paths: keys.list("paths"), reason, profiles: keys.profiles(), ..rule }
}

impl Input {
    fn read(path: &Path) -> Self {
        let mut input = Self::default();
        let mut source = Source { layer: Layer::User, label: "config.toml".into() };
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for (line, text) in (1..).zip(text.lines()) {
            let words: Vec<&str> = text.split_whitespace().collect();
            match words[..] {
                [] | ["#", ..] => {}
                ["profile", name, ref keys @ ..] => input.profiles.push(meta(name, &Keys::of(keys))),
                ["settings", ref keys @ ..] => {
                    let profile = u8::try_from(input.profiles.len()).unwrap().checked_sub(1).unwrap();
                    assert!(input.settings.insert(profile, settings(&Keys::of(keys))).is_none(), "{}:{line}: {text}", path.display());
                }
                ["source", layer, label] => {
                    let layer = [Layer::Mdm, Layer::Managed, Layer::Cli, Layer::User, Layer::Project]
                        .into_iter()
                        .find(|known| known.as_str() == layer)
                        .unwrap();
                    source = Source { layer, label: label.to_owned() };
                }
                ["hook", name, ref keys @ ..] => input.hooks.push(hook(name, &Keys::of(keys), source.clone(), line)),
                ["ask", ..] => input.asked.push(text.to_owned()),
                [access, pattern, ref keys @ ..] => {
                    let access = [Access::Allow, Access::ReadOnly, Access::Deny]
                        .into_iter()
                        .find(|known| known.as_str() == access)
                        .unwrap_or_else(|| panic!("{}:{line}: {text}", path.display()));
                    input.rules.push(rule(access, pattern, &Keys::of(keys), source.clone(), line));
                }
                [_] => panic!("{}:{line}: {text}", path.display()),
            }
        }
        input
    }

    fn build(&self) -> Vec<u8> {
        let mut profiles = self.profiles.iter().cloned();
        let mut builder = BlobBuilder::new(profiles.next().unwrap());
        for meta in profiles {
            builder.profile(meta);
        }
        for (profile, settings) in &self.settings {
            builder.settings(ProfileId(*profile), settings.clone());
        }
        for rule in &self.rules {
            builder.rule(rule.clone());
        }
        for hook in &self.hooks {
            builder.hook(hook.clone());
        }
        builder.build().unwrap()
    }
}

/// A rule with all that it says.
fn spelt_out(rule: &Rule) -> String {
    let mut text = format!("{} {rule}", rule.access);
    for (key, list) in [("methods", &rule.methods), ("paths", &rule.paths)] {
        if !list.is_empty() {
            write!(text, " {key} {}", list.join(",")).unwrap();
        }
    }
    if !rule.reason.is_empty() {
        write!(text, " reason `{}`", rule.reason).unwrap();
    }
    write!(text, " profiles {:#b}, {}", rule.profiles.0, rule.place()).unwrap();
    text
}

/// `ask PROFILE METHOD HOST:PORT[/PATH]`, and the answer.
fn answer(blob: &Blob<Vec<u8>>, asked: &str) -> String {
    let [_, profile, method, target] = asked.split(' ').collect::<Vec<_>>()[..] else { panic!("{asked}") };
    let (authority, path) = target.find('/').map_or((target, None), |at| (&target[..at], Some(&target[at..])));
    let (host, port) = authority.rsplit_once(':').unwrap();
    let host = Host::parse(host).unwrap();
    let tunnel = method == "CONNECT";
    let request = Request {
        profile: ProfileId(profile.parse().unwrap()),
        protocol: if tunnel { Protocol::Connect } else { Protocol::Http },
        host: &host,
        port: port.parse().unwrap(),
        method: (!tunnel).then_some(method),
        path,
        addresses: &[],
        inside: None,
        can_intercept: false,
    };
    let place = |rule| blob.rule(rule).map(|rule| format!("{rule}, {}", rule.place())).unwrap();
    match decide(blob, &request) {
        Decision::Allow(allowed) => format!("allow{}: {}", if allowed.read_only { " to read" } else { "" }, place(allowed.rule)),
        Decision::Deny(denied) => format!("{}{}", denied.reason, denied.rule.map_or_else(String::new, |rule| format!(": {}", place(rule)))),
    }
}

/// All that a blob says: what stands in the `.expected` file.
fn said(blob: &Blob<Vec<u8>>, asked: &[String]) -> String {
    let mut text = format!("digest {}\n{} rules\n", blob.digest(), blob.rule_count());
    for rule in blob.rules() {
        writeln!(text, "{}", spelt_out(&rule)).unwrap();
    }
    for asked in asked {
        writeln!(text, "{asked} -> {}", answer(blob, asked)).unwrap();
    }
    text
}

/// The `.rules` files of all folders.
fn inputs() -> Vec<PathBuf> {
    let mut inputs: Vec<PathBuf> = fs::read_dir(golden())
        .unwrap()
        .map(|folder| folder.unwrap().path())
        .filter(|path| path.is_dir())
        .flat_map(|folder| fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rules"))
        .collect();
    inputs.sort();
    inputs
}

/// Those of the folders that are written today.
fn written() -> impl Iterator<Item = PathBuf> {
    inputs().into_iter().filter(|path| path.parent().is_some_and(|folder| WRITTEN.iter().any(|name| folder.ends_with(name))))
}

#[test]
fn every_blob_that_was_ever_written_says_what_it_said() {
    let inputs = inputs();
    assert!(inputs.len() >= 4, "the golden blobs are gone");
    for path in inputs {
        let input = Input::read(&path);
        let blob = Blob::open(fs::read(path.with_extension("bin")).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}: blobs of this version are to be read for ever", path.display()));
        let expected = fs::read_to_string(path.with_extension("expected")).unwrap();
        let said = said(&blob, &input.asked);
        for (line, (said, expected)) in (1..).zip(said.lines().zip(expected.lines())) {
            assert_eq!(said, expected, "{}, line {line} of what is expected", path.display());
        }
        assert_eq!(said.lines().count(), expected.lines().count(), "{}", path.display());
        for (id, _) in (0..).zip(&input.profiles) {
            let settings = input.settings.get(&id).cloned().unwrap_or_default();
            assert_eq!(blob.settings(ProfileId(id)), Some(&settings), "{}, profile {id}", path.display());
        }
        assert_eq!((blob.profiles(), blob.hooks()), (&input.profiles[..], &input.hooks[..]), "{}", path.display());
    }
}

#[test]
fn the_writer_writes_what_it_wrote() {
    for path in written() {
        let (built, kept) = (Input::read(&path).build(), fs::read(path.with_extension("bin")).unwrap());
        let differs = built.iter().zip(&kept).position(|(built, kept)| built != kept);
        assert!(
            built == kept,
            "{}: the writer now writes other bytes ({} instead of {}, the first difference at {differs:?}). If that is an accident, mend the writer: the same \
             policy gives the same bytes. If it is on purpose, leave this folder as it is, and follow `tests/golden/README.md` to add one",
            path.display(),
            built.len(),
            kept.len(),
        );
    }
}

/// The fuzzers begin with a blob that has something in every section of 1.0, one with settings, and one with denied sockets.
#[test]
fn the_seeds_of_the_fuzzers_are_blobs_of_today() {
    for (seed, blob) in [("sample", "v1.0/everything.bin"), ("settings", "v1.1/settings.bin"), ("sockets", "v1.2/sockets.bin")] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/blob").join(seed);
        let blob = golden().join(blob);
        assert!(
            fs::read(file).unwrap() == fs::read(&blob).unwrap(),
            "fuzz/seeds/blob/{seed} is a copy of {}: copy it again",
            blob.display()
        );
    }
}

/// Writes what is not there yet; a file that is there stays as it is.
#[test]
#[ignore = "writes files: for a new folder, or a new blob in the present one"]
fn write_golden_blobs_that_are_missing() {
    for path in written() {
        let input = Input::read(&path);
        let bytes = input.build();
        for (extension, content) in [("bin", bytes.clone()), ("expected", said(&Blob::open(bytes).unwrap(), &input.asked).into_bytes())] {
            let file = path.with_extension(extension);
            if !file.exists() {
                fs::write(&file, content).unwrap();
            }
        }
    }
}
