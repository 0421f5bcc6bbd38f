//! Tests of a policy: what it is to answer, as TOML, and whether it does.
//!
//! ```toml
//! [[case]]
//! name = "nothing else can be reached"
//! requests = ["GET https://example.com/", "CONNECT example.org:443"]
//! expect = "deny"
//! reason = "not_allowed"
//! ```
//!
//! A case asks with `request`, `requests` or `hosts` (each a tunnel, to port 443 unless it names another), and may say more of the answer than `expect`: `reason`, `rule` (the
//! pattern that decides), `layer`, `hook` (the name of the one that matches). `resolve` is what names resolve to; `headers` and `body` belong to requests inside TLS, where the policy
//! has it opened.

use crate::diagnostic::{Code, Diagnostic};
use crate::explain::{Explanation, Subject, verdict};
use crate::keys;
use crate::profiles::Profile;
use crate::request::{Asked, RequestError, parse_address, parse_header};
use crate::schema::Reader;
use crate::source::{Lines, SourceFile, SourceId, is_layers_own};
use policy_format::{Blob, Decision, Host, Layer, Pattern, Reason, Request, Rule, RuleId, named_by};
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// One case: requests that are to get the same answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// The file that has it, for people.
    pub file: String,
    /// Its line there, from 1.
    pub line: u32,
    /// What is asked.
    pub requests: Vec<Asked>,
    /// What names resolve to.
    pub resolve: Vec<IpAddr>,
    /// What the answer is to be.
    pub expected: Expected,
}

/// What an answer is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Whether the request may go on.
    pub allowed: bool,
    /// Why it may not.
    pub reason: Option<Reason>,
    /// The pattern of the rule that decides, normalised.
    pub rule: Option<String>,
    /// The layer of the rule that decides.
    pub layer: Option<Layer>,
    /// The hook that matches.
    pub hook: Option<String>,
}

/// The answer to one request of a case.
#[derive(Debug)]
pub struct Outcome {
    /// Index of the case.
    pub case: usize,
    /// What was asked.
    pub request: String,
    /// What was found instead; `None` when the answer is as expected.
    pub failure: Option<Box<Explanation>>,
}

/// All answers.
#[derive(Debug)]
pub struct Report {
    /// The answers, in the order of the cases.
    pub outcomes: Vec<Outcome>,
    /// The rules that some request exercised: they decided, or would have applied.
    pub exercised: HashSet<RuleId>,
}

/// How many rules of a policy some request exercised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coverage {
    /// Of the rules that people wrote one by one.
    pub written: Share,
    /// Of the rules of presets and domain lists, which are named as a whole.
    pub named: Share,
}

/// Part of the rules of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// How many there are.
    pub rules: usize,
    /// How many of them some request exercised.
    pub exercised: usize,
}

impl Coverage {
    /// Written rules that were exercised, in percent of all that are written; where there is none, everything is covered.
    #[must_use]
    pub fn percent(&self) -> f64 {
        match self.written.rules {
            0 => 100.0,
            rules => 100.0 * self.written.exercised as f64 / rules as f64,
        }
    }
}

type Key<'i> = Spanned<DeString<'i>>;
type Value<'i> = Spanned<DeValue<'i>>;

/// Other words for what is expected, with those that are meant.
const EXPECTED: [(&str, &str); 8] = [
    ("allowed", "allow"),
    ("pass", "allow"),
    ("permit", "allow"),
    ("block", "deny"),
    ("blocked", "deny"),
    ("denied", "deny"),
    ("refuse", "deny"),
    ("refused", "deny"),
];

/// Reads a test file. Everything wrong in it is reported; cases with mistakes are left out.
pub fn read(id: SourceId, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) -> Vec<Case> {
    let Some(source) = sources.get(id.0) else { return Vec::new() };
    let lines = Lines::new(sources);
    let mut cases = CaseReader { reader: Reader { id, text: source.text(), diagnostics }, source, lines: &lines };
    let Some(root) = cases.reader.parse() else { return Vec::new() };
    let mut found = Vec::new();
    for (key, value) in root.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref().as_array()) {
            ("case", Some(array)) => found.extend(array.iter().filter_map(|item| cases.case(item))),
            ("case", None) => {
                cases.error(value, "`case` is a list of tables", "write `[[case]]`, with two brackets");
            }
            _ => cases.reader.unknown_key(key, root.get_ref(), "a test file", &keys::TESTS),
        }
    }
    found
}

/// What the requests of a case carry.
#[derive(Default)]
struct Sent {
    headers: Vec<(String, String)>,
    body: Option<String>,
}

struct CaseReader<'a, 'd> {
    reader: Reader<'d>,
    source: &'a SourceFile,
    lines: &'a Lines,
}

impl CaseReader<'_, '_> {
    fn error<T>(&mut self, at: &Spanned<T>, message: impl Into<String>, help: impl Into<String>) {
        self.reader.error(Code::TestCase, at.span(), message).help = Some(help.into());
    }

    fn case(&mut self, item: &Value<'_>) -> Option<Case> {
        let Some(table) = item.get_ref().as_table() else {
            self.error(item, "a case is a table", "write `[[case]]`, and its keys below");
            return None;
        };
        let before = self.reader.diagnostics.len();
        let mut case = Case {
            name: String::new(),
            file: self.source.shown().to_owned(),
            line: self.lines.line(&self.reader.place(item.span())),
            requests: Vec::new(),
            resolve: Vec::new(),
            expected: Expected { allowed: true, reason: None, rule: None, layer: None, hook: None },
        };
        let mut entries: Vec<(&Key<'_>, &Value<'_>)> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut sent = Sent::default();
        for (key, value) in entries {
            self.key(key, value, table, &mut case, &mut sent);
        }
        for asked in &mut case.requests {
            match asked.clone().with(&sent.headers, sent.body.as_deref()) {
                Ok(with) => *asked = with,
                Err(why) => self.error(item, why, "leave `headers` and `body` out, or make a case of the other requests"),
            }
        }
        self.check(item, table, &mut case);
        (self.reader.diagnostics.len() == before).then_some(case)
    }

    fn key(&mut self, key: &Key<'_>, value: &Value<'_>, table: &DeTable<'_>, case: &mut Case, sent: &mut Sent) {
        let expected = &mut case.expected;
        match key.get_ref().as_ref() {
            "name" => case.name = self.text(key, value).unwrap_or_default(),
            "request" => {
                let text = self.text(key, value);
                case.requests.extend(text.and_then(|text| self.asked(value, Asked::parse(&text))));
            }
            "requests" => {
                for (item, text) in self.texts(key, value) {
                    case.requests.extend(self.asked(item, Asked::parse(&text)));
                }
            }
            "hosts" => {
                for (item, text) in self.texts(key, value) {
                    case.requests.extend(self.asked(item, Asked::tunnel(&text)));
                }
            }
            "resolve" => {
                for (item, text) in self.texts(key, value) {
                    match parse_address(&text) {
                        Ok(ip) => case.resolve.push(ip),
                        Err(error) => self.error(item, error, "write an address, such as \"203.0.113.7\""),
                    }
                }
            }
            "headers" => sent.headers = self.headers(key, value),
            "body" => sent.body = self.text(key, value),
            "hook" => expected.hook = self.text(key, value),
            "expect" => {
                let words = [("allow", true), ("deny", false)];
                expected.allowed = self.reader.word_or(key, value, &words, &EXPECTED).is_some_and(|at| at.value);
            }
            "reason" => {
                expected.reason = self.reader.word(key, value, Reason::ALL.map(|reason| (reason.as_str(), reason))).map(|at| at.value);
            }
            "layer" => {
                expected.layer = self.reader.word_or(key, value, Layer::ALL, &[]).map(|at| at.value);
            }
            "rule" => {
                let pattern = self.text(key, value).and_then(|text| self.reader.pattern(&text, &value.span()));
                expected.rule = pattern.map(|pattern| pattern.to_string());
            }
            _ => self.reader.unknown_key(key, table, "a case", &keys::CASE),
        }
    }

    /// `headers = { accept = "application/json", x-team = ["a", "b"] }`.
    fn headers(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<(String, String)> {
        let Some(table) = self.reader.table(key, value) else { return Vec::new() };
        let mut headers = Vec::new();
        for (name, value) in table {
            let texts = match value.get_ref().is_str() {
                true => self.text(name, value).into_iter().map(|text| (value, text)).collect(),
                false => self.texts(name, value),
            };
            for (at, text) in texts {
                match parse_header(&format!("{}:{text}", name.get_ref())) {
                    Ok(header) => headers.push(header),
                    Err(why) => self.error(at, why, "write `headers = { accept = \"application/json\" }`"),
                }
            }
        }
        headers
    }

    fn check(&mut self, item: &Value<'_>, table: &DeTable<'_>, case: &mut Case) {
        let asks = ["request", "requests", "hosts"].into_iter().filter(|key| table.contains_key(*key)).count();
        if asks == 0 {
            self.error(item, "a case needs `request`, `requests` or `hosts`", "write `request = \"GET https://example.com/\"`");
        }
        for key in ["requests", "hosts"] {
            if let Some(value) = table.get(key).filter(|value| value.get_ref().as_array().is_some_and(|array| array.is_empty())) {
                self.error(value, format!("`{key}` is empty: the case would test nothing"), "name at least one");
            }
        }
        if !table.contains_key("expect") {
            self.error(item, "a case needs `expect`", "write `expect = \"allow\"` or `expect = \"deny\"`");
        }
        if let Some(hook) = table.get("hook").filter(|_| !case.expected.allowed && table.contains_key("expect")) {
            self.error(hook, "what is denied matches no hook", "leave `hook` out, or write `expect = \"allow\"`");
        }
        if let Some(reason) = table.get("reason").filter(|_| case.expected.allowed && table.contains_key("expect")) {
            self.error(reason, "what is allowed has no reason", "leave `reason` out, or write `expect = \"deny\"`");
        }
        if case.name.is_empty() {
            case.name = format!("case in line {}", case.line);
        }
    }

    fn text(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<String> {
        self.reader.string(key, value).map(|at| at.value)
    }

    fn texts<'v, 'i>(&mut self, key: &Key<'i>, value: &'v Value<'i>) -> Vec<(&'v Value<'i>, String)> {
        let Some(array) = value.get_ref().as_array() else {
            let name = key.get_ref();
            self.error(value, format!("`{name}` is a list of text"), format!("write `{name} = [\"…\"]`"));
            return Vec::new();
        };
        let mut found = Vec::with_capacity(array.len());
        for item in array {
            match item.get_ref().as_str() {
                Some(text) => found.push((item, text.to_owned())),
                None => self.error(item, format!("`{}` is a list of text", key.get_ref()), "put it in quotes"),
            }
        }
        found
    }

    fn asked(&mut self, value: &Value<'_>, asked: Result<Asked, RequestError>) -> Option<Asked> {
        asked
            .map_err(|RequestError { text, what, span, help }| {
                // A quoted text starts behind its quote; where there are escapes the whole is pointed at.
                let whole = value.span();
                let exact = whole.len() == text.len() + 2 && !span.is_empty();
                let at = if exact { whole.start + 1 + span.start..whole.start + 1 + span.end } else { whole };
                self.reader.error(Code::TestCase, at, what).help = help;
            })
            .ok()
    }
}

/// Asks the policy every request of every case.
#[must_use]
pub fn run(subject: &Subject, cases: &[Case]) -> Report {
    let policy = subject.policy();
    let mut report = Report { outcomes: Vec::new(), exercised: HashSet::new() };
    for (index, case) in cases.iter().enumerate() {
        for asked in &case.requests {
            let addresses = if matches!(asked.host, Host::Name(_)) { case.resolve.as_slice() } else { &[] };
            // Where a tunnel is opened, the request inside is what counts.
            let asked = &subject.ask(asked).seen(policy, addresses);
            let decision = asked.decide(policy, addresses);
            exercise(policy, asked, addresses, decision, &mut report.exercised);
            let failure = (!case.expected.is_met(policy, decision)).then(|| Box::new(verdict(subject, asked, addresses)));
            report.outcomes.push(Outcome { case: index, request: asked.to_string(), failure });
        }
    }
    report
}

fn exercise(policy: &Blob<Vec<u8>>, asked: &Asked, addresses: &[IpAddr], decision: Decision, exercised: &mut HashSet<RuleId>) {
    let mut add = |request: &Request<'_>| {
        exercised.extend(named_by(policy, request).into_iter().filter(|named| named.holds == Some(true)).map(|named| named.rule));
    };
    add(&asked.request(&[]));
    for ip in addresses {
        add(&Request { host: &Host::Ip(*ip), ..asked.request(&[]) });
    }
    exercised.extend(deciding(decision));
}

fn deciding(decision: Decision) -> Option<RuleId> {
    match decision {
        Decision::Allow(allowed) => Some(allowed.rule),
        Decision::Deny(denied) => denied.rule,
    }
}

impl Expected {
    fn is_met(&self, policy: &Blob<Vec<u8>>, decision: Decision) -> bool {
        let reason = match decision {
            Decision::Allow(_) => None,
            Decision::Deny(denied) => Some(denied.reason),
        };
        let hook = match decision {
            Decision::Allow(allowed) => allowed.hook.and_then(|at| policy.hooks().get(at)),
            Decision::Deny(_) => None,
        };
        if self.hook.is_some() && self.hook.as_ref() != hook.map(|hook| &hook.name) {
            return false;
        }
        if reason.is_none() != self.allowed || (self.reason.is_some() && self.reason != reason) {
            return false;
        }
        if self.rule.is_none() && self.layer.is_none() {
            return true;
        }
        let Some(rule) = deciding(decision).and_then(|id| policy.rule(id)) else { return false };
        self.rule.as_ref().is_none_or(|pattern| is_pattern_of(pattern, &rule)) && self.layer.is_none_or(|layer| layer == rule.layer)
    }
}

/// A pattern names a rule with or without the port that the rule has.
fn is_pattern_of(pattern: &str, rule: &Rule) -> bool {
    let written = Pattern::parse(pattern);
    *pattern == rule.hosts || *pattern == rule.to_string() || written.is_ok_and(|pattern| pattern.to_string() == rule.to_string())
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allowed { "allow" } else { "deny" })?;
        self.reason.map_or(Ok(()), |reason| write!(f, ", reason {reason}"))?;
        self.rule.as_ref().map_or(Ok(()), |rule| write!(f, ", rule {rule}"))?;
        self.layer.map_or(Ok(()), |layer| write!(f, ", layer {layer}"))?;
        self.hook.as_ref().map_or(Ok(()), |hook| write!(f, ", hook {}", hook.escape_debug()))
    }
}

/// An answer in the words of a case: what `expect`, `reason`, `rule` and `layer` would have to say.
#[must_use]
pub fn found(explanation: &Explanation) -> Expected {
    let rule = explanation.rule.as_ref().map(|shown| &shown.rule);
    Expected {
        allowed: explanation.allowed,
        reason: explanation.reason,
        rule: rule.map(ToString::to_string),
        layer: rule.map(|rule| rule.layer),
        hook: explanation.hook.as_ref().map(|hook| hook.name.clone()),
    }
}

impl Report {
    /// How many requests got the expected answer, and how many did not.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let failed = self.outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
        (self.outcomes.len() - failed, failed)
    }

    /// How many rules were exercised.
    #[must_use]
    pub fn coverage(&self, policy: Profile<'_, Vec<u8>>) -> Coverage {
        let mut coverage = Coverage::default();
        for rule in policy.rules() {
            let share = if is_layers_own(&rule.label) { &mut coverage.written } else { &mut coverage.named };
            share.rules += 1;
            share.exercised += usize::from(self.exercised.contains(&rule.id));
        }
        coverage
    }

    /// The rules that people wrote one by one and no request exercised, in the policy's order.
    pub fn unexercised<'a>(&'a self, policy: Profile<'a, Vec<u8>>) -> impl Iterator<Item = Rule> + 'a {
        policy.rules().filter(|rule| !self.exercised.contains(&rule.id) && is_layers_own(&rule.label))
    }

    /// The answers as JUnit XML: a suite for each test file, a test case for each request.
    #[must_use]
    pub fn junit(&self, cases: &[Case]) -> String {
        let mut files: Vec<&str> = Vec::new();
        for case in cases {
            if !files.contains(&case.file.as_str()) {
                files.push(&case.file);
            }
        }
        let (passed, failed) = self.counts();
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"netpolicy\" tests=\"{}\" failures=\"{failed}\">\n",
            passed + failed
        );
        for file in files {
            let own = || {
                self.outcomes
                    .iter()
                    .filter_map(|outcome| cases.get(outcome.case).filter(|case| case.file == file).map(|case| (case, outcome)))
            };
            let failures = own().filter(|(_, outcome)| outcome.failure.is_some()).count();
            let file = escape(file);
            xml.push_str(&format!("  <testsuite name=\"{file}\" tests=\"{}\" failures=\"{failures}\">\n", own().count()));
            for (case, outcome) in own() {
                let name = escape(&format!("{}: {}", case.name, outcome.request));
                let head = format!("    <testcase classname=\"{file}\" name=\"{name}\" file=\"{file}\" line=\"{}\"", case.line);
                match &outcome.failure {
                    None => xml.push_str(&format!("{head}/>\n")),
                    Some(explanation) => {
                        let message = escape(&format!("expected {}, found {}", case.expected, found(explanation)));
                        let text = escape(&explanation.to_string());
                        xml.push_str(&format!("{head}>\n      <failure message=\"{message}\">{text}</failure>\n    </testcase>\n"));
                    }
                }
            }
            xml.push_str("  </testsuite>\n");
        }
        xml.push_str("</testsuites>\n");
        xml
    }
}

/// Text for XML, in attributes too. XML 1.0 has no way to write most control characters.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' | '\r' => escaped.push_str(&format!("&#{};", u32::from(c))),
            c if c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
