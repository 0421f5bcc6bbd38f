//! The format as `docs/format.md` tells it: a reader that was written from that page alone, in another language, answers as `decide()` does.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_format::net::is_metadata_address;
use policy_format::{
    Access, Audit, Blob, BlobBuilder, Decision, Host, Layer, Limits, Meta, Pattern, PortRange, ProfileId, Profiles, Protocol, Reason,
    Request, RuleInput, RuleKind, Settings, Source, decide,
};
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::{env, fs, thread};

/// Rules, sources that they come from, and questions. Few rules of few sources have shorter records.
const POLICIES: [(usize, usize, usize); 2] = [(60, 1, 1_000), (3_000, 15, 9_000)];

/// Profile, port, host.
type Question = (u8, u16, String);

/// Numbers that are the same every time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % limit
    }

    fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }

    /// A name that others are likely to share labels with.
    fn name(&mut self) -> String {
        let labels = match self.below(40) {
            0 => 1,
            1..=14 => 2,
            15..=24 => 3,
            25..=30 => 4,
            31..=34 => 5 + self.below(4),
            35..=38 => 9 + self.below(20),
            _ => 60 + self.below(66),
        };
        let tops = ["test", "example", "invalid", "co", "a-label-of-thirty-four-characters-x", "corp"];
        let mut name = self.pick(&tops).to_owned();
        for at in 1..labels {
            let label = match self.below(30) {
                0 => "a-label-that-is-as-long-as-a-label-may-be-and-not-a-byte-longer".to_owned(),
                1 => "a-label-of-forty-four-characters-or-one-less".to_owned(),
                2 => "_service".to_owned(),
                3..=9 if at == 1 => format!("shop{}", self.below(400)),
                10..=14 => format!("n{}_-{}", self.below(20), self.below(20)),
                _ => self.pick(&["a", "b", "www", "api", "cdn-1", "x9", "0", "_"]).to_owned(),
            };
            let longer = format!("{label}.{name}");
            if longer.len() > 253 || labels > 40 && label.len() > 2 {
                continue;
            }
            name = longer;
        }
        name
    }

    fn address(&mut self) -> IpAddr {
        let (a, b) = (u8::try_from(self.below(4)).unwrap(), u8::try_from(self.below(256)).unwrap());
        match self.below(4) {
            0 => IpAddr::V4(Ipv4Addr::new(10, a, b, a)),
            1 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, b)),
            2 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(self.below(1 << 32)).unwrap())),
            _ => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, u16::from(a), 0, 0, u16::from(b % 4), 0, u16::from(b))),
        }
    }

    fn pattern(&mut self) -> String {
        match self.below(100) {
            0..=5 => {
                let (ip, bits) = (self.address(), [0, 4, 8, 12, 20, 32, 48]);
                let prefix = if ip.is_ipv4() {
                    [8, 12, 16, 24, 30, 32, 0][self.below(7)]
                } else {
                    bits[self.below(7)] + 64 * usize::from(self.below(2) == 0)
                };
                let network = policy_format::net::Network::new(ip, u8::try_from(prefix).unwrap()).unwrap();
                network.to_string()
            }
            6..=7 => {
                let glob = self.pick(&["*", "a*", "?[a-c0]*", "{www,api*}", "*.x?", "**.*9", "[!a]?", "????????????-*"]);
                format!("{glob}.glob{}.test", self.below(12))
            }
            8..=55 => self.name(),
            56..=75 => format!("*.{}", self.name()),
            _ => format!("**.{}", self.name()),
        }
    }

    fn rule(&mut self, line: u32, known: &[String], sources: usize) -> (String, RuleInput) {
        // One in eight speaks of what another speaks of.
        let text = if !known.is_empty() && self.below(8) == 0 { known[self.below(known.len())].clone() } else { self.pattern() };
        let layers = [Layer::Mdm, Layer::Managed, Layer::Cli, Layer::User, Layer::Project];
        let source = self.below(sources);
        let source = Source { layer: layers[source % 5], label: format!("file{}.toml", source / 5) };
        let pattern = Pattern::parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let access = [Access::Allow, Access::Allow, Access::ReadOnly, Access::Deny][self.below(4)];
        let mut rule = RuleInput::new(pattern, access, source, line);
        rule.profiles = Profiles([1, 1, 2, 3][self.below(4)]);
        rule.ports = match self.below(6) {
            0 => vec![PortRange { first: 443, last: 443 }],
            1 => vec![PortRange { first: 80, last: 80 }, PortRange { first: 8000, last: 8999 }],
            _ => Vec::new(),
        };
        if self.below(50) == 0 {
            rule.reason = "said why".into();
        }
        (text, rule)
    }
}

/// A policy with rules of every kind in two profiles, and hosts that they speak of, or nearly.
fn policy(rules: usize, sources: usize, asked: usize) -> (Blob<Vec<u8>>, Vec<Question>) {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    // What is local is open, so that rules decide.
    let meta = |name: &str| Meta { profile: name.into(), allow_local_binding: true, ..Meta::default() };
    let mut builder = BlobBuilder::new(meta("one"));
    builder.profile(meta("two"));
    let mut known = Vec::new();
    for line in 1..=u32::try_from(rules).unwrap() {
        let (text, rule) = numbers.rule(line, &known, sources);
        builder.rule(rule);
        known.push(text);
    }
    for (line, port) in [(4000, Some(8080)), (4001, Some(8081))] {
        let pattern = Pattern { port, ..Pattern::parse("*").unwrap() };
        let source = Source { layer: Layer::User, label: "any.toml".into() };
        let access = if line == 4000 { Access::Allow } else { Access::Deny };
        builder.rule(RuleInput::new(pattern, access, source, line));
    }
    let mut questions = Vec::new();
    while questions.len() < asked {
        let of_rule = known[numbers.below(known.len())].trim_start_matches("*.").trim_start_matches("**.").to_owned();
        let text = match numbers.below(9) {
            0 => numbers.name(),
            8 => format!("{}.glob{}.test", numbers.pick(&["a9", "bc-9", "www", "z.xy", "abcdefghijkl-9", "99"]), numbers.below(12)),
            1 => numbers.address().to_string(),
            2 => format!("x.{of_rule}"),
            3 => format!("www.a.{of_rule}"),
            4 => format!("z{of_rule}"),
            5 => of_rule.replace('*', "9").replace('?', "q").replace("[a-c0]", "b").replace("{www,api9}", "api-2").replace("[!a]", "z"),
            _ => of_rule,
        };
        let text = text.split_once('/').map_or(text.as_str(), |(address, _)| address).to_owned();
        // What a client sends is normalised before a policy is asked.
        let Ok(host) = Host::parse(&text) else { continue };
        if matches!(host, Host::Ip(ip) if is_metadata_address(ip)) {
            continue;
        }
        let port = [443, 443, 80, 8080, 8081, 8500, 1][numbers.below(7)];
        questions.push((u8::try_from(numbers.below(2)).unwrap(), port, host.to_string()));
    }
    (Blob::open(builder.build().unwrap()).unwrap(), questions)
}

/// What `decide()` says, in the reader's words.
fn decided(blob: &Blob<Vec<u8>>, (profile, port, host): &Question) -> String {
    let host = Host::parse(host).unwrap();
    let (method, path) = (Some("GET"), Some("/"));
    let request = Request {
        profile: ProfileId(*profile),
        protocol: Protocol::Http,
        host: &host,
        port: *port,
        method,
        path,
        addresses: &[],
        inside: None,
        can_intercept: false,
    };
    let rule = match decide(blob, &request) {
        Decision::Allow(allowed) => allowed.rule,
        Decision::Deny(denied) if denied.reason == Reason::Denied => denied.rule.unwrap(),
        Decision::Deny(denied) => {
            assert_eq!(denied.reason, Reason::NotAllowed, "{host}");
            return "none".into();
        }
    };
    let rule = blob.rule(rule).unwrap();
    let conditions = if rule.reason.is_empty() { "" } else { "conditions" };
    format!("{}\t{}\t{}\t{conditions}", rule.access, rule.hosts, rule.place())
}

/// What the reader in Python answers.
fn asked_of_python(blob: &Blob<Vec<u8>>, questions: &[Question]) -> Vec<String> {
    let file = env::temp_dir().join(format!("netpolicy-reader-{}.bin", std::process::id()));
    fs::write(&file, blob.as_bytes()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reader.py");
    let started = Command::new("python3").arg("-B").arg(script).arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut python = match started {
        Ok(python) => python,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("python3 is not installed: this test runs a reader of blobs that is written in it (apt-get install python3)")
        }
        Err(error) => panic!("python3: {error}"),
    };
    let asked = questions.iter().fold(String::new(), |mut text, (profile, port, host)| {
        writeln!(text, "{profile} {port} {host}").unwrap();
        text
    });
    let mut stdin = python.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(asked.as_bytes()));
    let output = python.wait_with_output().unwrap();
    fs::remove_file(&file).unwrap();
    assert!(output.status.success(), "{script} failed; what it said is above");
    writer.join().unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_reader_that_was_written_from_the_documentation_answers_as_this_one_does() {
    let (mut kinds, mut accesses) = ([0; 6], [0; 4]);
    for (rules, sources, asked) in POLICIES {
        let (blob, questions) = policy(rules, sources, asked);
        let answers = asked_of_python(&blob, &questions);
        assert_eq!(answers.len(), questions.len());
        for (question, answer) in questions.iter().zip(answers) {
            assert_eq!(answer, decided(&blob, question), "{question:?}");
            let access = answer.split('\t').next().unwrap();
            accesses[["none", "allow", "read-only", "deny"].iter().position(|known| *known == access).unwrap()] += 1;
            if let Some(pattern) = answer.split('\t').nth(1) {
                kinds[kind_of(pattern) as usize] += 1;
            }
        }
    }
    // Every answer is there often, and so is every kind of rule.
    assert!(accesses.iter().all(|count| *count > 300), "{accesses:?}");
    assert!(kinds.iter().all(|count| *count > 50), "{kinds:?}");
}

fn kind_of(pattern: &str) -> RuleKind {
    let rest = pattern.trim_start_matches('*');
    match (pattern, pattern.len() - rest.len()) {
        ("*", _) => RuleKind::Any,
        _ if rest.contains(['*', '?', '[', '{']) => RuleKind::Glob,
        _ if pattern.contains(':')
            || pattern.starts_with(|c: char| c.is_ascii_digit()) && !pattern.contains(|c: char| c.is_ascii_lowercase()) =>
        {
            RuleKind::Network
        }
        (_, 0) => RuleKind::Exact,
        (_, 1) => RuleKind::Subdomains,
        _ => RuleKind::ApexAndSubdomains,
    }
}

/// What a value is in JSON; texts here have nothing to escape.
fn json(texts: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", texts.into_iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(", "))
}

/// What profiles say that is not the default, as the reader in Python tells it: by key.
fn said(blob: &Blob<Vec<u8>>) -> Vec<String> {
    let (default, mut lines) = (Settings::default(), Vec::new());
    for (id, _) in (0..).zip(blob.profiles()) {
        let settings = blob.settings(ProfileId(id)).unwrap();
        let rules = settings.upstream_rules.iter().map(|rule| {
            let url = rule.proxy.as_ref().map_or("direct", |proxy| &proxy.url);
            format!("{{\"hosts\": {}, \"url\": \"{url}\"}}", json(rule.hosts.clone()))
        });
        let mut own = vec![
            ("forwarded".to_owned(), format!("\"{}\"", settings.forwarded.as_str()), settings.forwarded == default.forwarded),
            ("limits.on_revoke".to_owned(), format!("\"{}\"", settings.on_revoke.as_str()), settings.on_revoke == default.on_revoke),
            ("resolver".to_owned(), json(settings.resolver.iter().map(ToString::to_string)), settings.resolver.is_empty()),
            ("sni".to_owned(), format!("\"{}\"", settings.sni.as_str()), settings.sni == default.sni),
            ("upstream.rules".to_owned(), format!("[{}]", rules.collect::<Vec<_>>().join(", ")), settings.upstream_rules.is_empty()),
            ("via".to_owned(), settings.via.to_string(), settings.via == default.via),
        ];
        own.extend(audit_said(&settings.audit));
        own.extend(Limits::ALL.iter().map(|limit| {
            let value = settings.limits.get(limit.name).unwrap();
            (format!("limits.{}", limit.name), value.to_string(), value == limit.default)
        }));
        own.sort();
        lines.extend(own.into_iter().filter(|(.., silent)| !silent).map(|(key, value, _)| format!("{id}\t{key}\t{value}")));
    }
    lines
}

/// The same of audit.
fn audit_said(audit: &Audit) -> Vec<(String, String, bool)> {
    let default = Audit::default();
    let text = |text: &str| format!("\"{text}\"");
    let table = |pairs: Vec<(&str, &str)>| {
        format!("{{{}}}", pairs.iter().map(|(key, value)| format!("\"{key}\": \"{value}\"")).collect::<Vec<_>>().join(", "))
    };
    let otlp = audit.otlp.as_ref().map(|otlp| {
        let headers_file = otlp.headers_file.as_deref().unwrap_or_default();
        table(vec![("endpoint", &otlp.endpoint), ("headers_file", headers_file), ("protocol", otlp.protocol.as_str())])
    });
    let metadata = table(audit.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect());
    let mut own = vec![
        ("audit.chain", audit.chain.to_string(), audit.chain == default.chain),
        ("audit.file", text(audit.file.as_deref().unwrap_or_default()), audit.file.is_none()),
        ("audit.fsync", text(audit.fsync.as_str()), audit.fsync == default.fsync),
        ("audit.journald", audit.journald.to_string(), audit.journald == default.journald),
        ("audit.level", text(audit.level.as_str()), audit.level == default.level),
        ("audit.metadata", metadata, audit.metadata.is_empty()),
        ("audit.naming", text(audit.naming.as_str()), audit.naming == default.naming),
        ("audit.on_full", text(audit.on_full.as_str()), audit.on_full == default.on_full),
        ("audit.otlp", otlp.clone().unwrap_or_default(), otlp.is_none()),
        ("audit.stdout", audit.stdout.to_string(), audit.stdout == default.stdout),
        ("audit.syslog", text(&audit.syslog.as_ref().map(ToString::to_string).unwrap_or_default()), audit.syslog.is_none()),
    ]
    .into_iter()
    .map(|(key, value, silent)| (key.to_owned(), value, silent))
    .collect::<Vec<_>>();
    own.extend(Audit::NUMBERS.iter().map(|number| {
        let value = audit.get(number.name).unwrap();
        (format!("audit.{}", number.name), value.to_string(), value == number.default)
    }));
    own
}

#[test]
fn that_reader_reads_settings_as_this_one_does() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/");
    for (file, at_least) in [("v1.1/settings.bin", 33), ("v1.1/audit.bin", 18), ("v1.0/everything.bin", 0)] {
        let file = format!("{golden}{file}");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reader.py");
        let output = Command::new("python3").args(["-B", script, &file, "settings"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(read, said(&Blob::open(fs::read(&file).unwrap()).unwrap()), "{file}");
        assert!(read.len() >= at_least, "{read:?}");
    }
}

#[test]
fn that_reader_reads_denied_sockets_as_this_one_does() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/");
    for (file, paths) in [("v1.2/sockets.bin", 3), ("v1.1/settings.bin", 0), ("v1.0/everything.bin", 0)] {
        let file = format!("{golden}{file}");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reader.py");
        let output = Command::new("python3").args(["-B", script, &file, "sockets"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        let blob = Blob::open(fs::read(&file).unwrap()).unwrap();
        let denied = |(id, meta): (usize, &Meta)| meta.unix_sockets.deny.iter().map(|path| format!("{id}\t\"{path}\"")).collect::<Vec<_>>();
        let said: Vec<String> = blob.profiles().iter().enumerate().flat_map(denied).collect();
        assert_eq!(read.iter().map(|line| line.replace("\\u00fc", "\u{fc}")).collect::<Vec<_>>(), said, "{file}");
        assert_eq!(read.len(), paths, "{read:?}");
    }
}
