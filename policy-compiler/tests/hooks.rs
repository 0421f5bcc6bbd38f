//! Cases of hooks and paths inside TLS, as `netpolicy explain` answers them: `tests/cases/hooks.toml`, which the running proxy is put to as well.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use policy_compiler::explain::{Explanation, Subject, verdict};
use policy_compiler::request::Asked;
use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Layer, Options, compile};
use policy_format::Blob;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    secrets: BTreeMap<String, String>,
    policy: BTreeMap<String, String>,
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    policy: String,
    proves: String,
    method: String,
    host: String,
    target: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    body: Option<String>,
    status: u16,
    reason: Option<String>,
    at: Option<String>,
    hook: Option<String>,
    #[serde(default)]
    strip: Vec<String>,
    #[serde(default)]
    inject: Vec<(String, String)>,
    #[serde(default)]
    strip_response: Vec<String>,
}

fn cases() -> Cases {
    toml::from_str(include_str!("../../tests/cases/hooks.toml")).unwrap()
}

fn subject(toml: &str) -> Subject {
    let source = SourceFile::from_text(Layer::User, Role::Config, "config.toml", toml.to_owned());
    let compiled = compile(vec![source.clone()], Options { profile: None, strict: true }).unwrap_or_else(|failure| panic!("{failure}"));
    Subject::with_layers(Blob::open(compiled.blob).unwrap(), vec![source], None)
}

fn asked(case: &Case) -> Asked {
    let headers: Vec<(String, String)> = case.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    let mut asked =
        Asked::parse(&format!("QUERY https://{}{}", case.host, case.target)).unwrap_or_else(|error| panic!("{}: {error}", case.proves));
    // Methods that nobody writes by mistake are read as they stand here.
    asked.inside.as_mut().unwrap().method.clone_from(&case.method);
    asked.with(&headers, case.body.as_deref()).unwrap()
}

/// What a case expects, in the words of an explanation.
fn wrong(case: &Case, secrets: &BTreeMap<String, String>, found: &Explanation) -> Option<String> {
    let differs = |what: &str, found: String, wanted: String| (found != wanted).then(|| format!("{what}: {found}, expected {wanted}"));
    let at = match (found.protocol, found.allowed) {
        (policy_format::Protocol::Https, _) => None,
        (_, true) => Some("opaque"),
        (_, false) => Some("tunnel"),
    };
    let hook = found.hook.as_ref();
    let mut stripped: Vec<&str> = hook.iter().flat_map(|hook| &hook.strip_request_headers).map(String::as_str).collect();
    let injected: Vec<(String, String)> = hook
        .iter()
        .flat_map(|hook| &hook.inject_request_headers)
        .map(|header| {
            let policy_format::Secret::Env(name) = &header.secret else { panic!("{}: a file", case.proves) };
            (header.name.clone(), format!("{}{}", header.prefix, secrets[name]))
        })
        .collect();
    // Of what the client sent, and what does not come back another way.
    stripped
        .retain(|name| case.headers.iter().any(|(sent, _)| sent.eq_ignore_ascii_case(name)) && injected.iter().all(|(own, _)| own != name));
    let responses: Vec<&str> = hook.iter().flat_map(|hook| &hook.strip_response_headers).map(String::as_str).collect();
    [
        differs("status", if found.allowed { "200" } else { "403" }.to_owned(), case.status.to_string()),
        differs("reason", format!("{:?}", found.reason.map(|reason| reason.as_str())), format!("{:?}", case.reason.as_deref())),
        differs("at", format!("{at:?}"), format!("{:?}", case.at.as_deref())),
        differs("hook", format!("{:?}", hook.map(|hook| hook.name.as_str())), format!("{:?}", case.hook.as_deref())),
        differs("strip", format!("{stripped:?}"), format!("{:?}", case.strip)),
        differs("inject", format!("{injected:?}"), format!("{:?}", case.inject)),
        differs("strip_response", format!("{responses:?}"), format!("{:?}", case.strip_response)),
    ]
    .into_iter()
    .flatten()
    .next()
}

#[test]
fn every_case_is_explained_as_it_is_expected() {
    let cases = cases();
    assert!(cases.case.len() >= 100, "{}", cases.case.len());
    let subjects: BTreeMap<&str, Subject> = cases.policy.iter().map(|(name, toml)| (name.as_str(), subject(toml))).collect();
    let failed: Vec<String> = cases
        .case
        .iter()
        .filter_map(|case| {
            let found = verdict(&subjects[case.policy.as_str()], &asked(case), &[]);
            let why = wrong(case, &cases.secrets, &found)?;
            Some(format!("{} ({}): {} {}{}\n    {why}\n{found}", case.proves, case.policy, case.method, case.host, case.target))
        })
        .collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.case.len(), failed.join("\n"));
}

/// Who cannot open TLS lets nothing through that has to be read, whatever is asked inside.
#[test]
fn nothing_that_has_to_be_read_passes_unread() {
    let cases = cases();
    let subjects: BTreeMap<&str, Subject> = cases.policy.iter().map(|(name, toml)| (name.as_str(), subject(toml))).collect();
    let mut read = 0;
    for case in &cases.case {
        let asked = Asked { can_intercept: false, ..asked(case) };
        let found = verdict(&subjects[case.policy.as_str()], &asked, &[]);
        assert_eq!(found.allowed, case.at.as_deref() == Some("opaque"), "{}: {found}", case.proves);
        if case.at.is_none() {
            assert_eq!(found.reason, Some(policy_format::Reason::MitmRequired), "{}", case.proves);
            read += 1;
        }
    }
    assert!(read >= 100, "{read}");
}

/// Without them nobody knows where a message ends, and a body is taken for the next request; and no secret is read from there.
#[test]
fn no_hook_touches_headers_of_framing() {
    for (action, header) in [
        ("strip_request_headers = [\"HEADER\"]", "Content-Length"),
        ("strip_response_headers = [\"HEADER\"]", "transfer-encoding"),
        ("strip_request_headers = [\"HEADER\"]", "host"),
        ("inject_request_headers = [{ name = \"HEADER\", secret_env_var = \"A\" }]", "content-length"),
        ("inject_request_headers = [{ name = \"HEADER\", secret_env_var = \"A\" }]", "Proxy-Authorization"),
    ] {
        let text = format!(
            "default_permissions = \"w\"\n[permissions.w.network]\nenabled = true\ndomains = {{ \"a.test\" = \"allow\" }}\n\
             [permissions.w.network.mitm.hooks.h]\nhost = \"a.test\"\nmethods = [\"GET\"]\npath_prefixes = [\"/\"]\naction = [\"a\"]\n\
             [permissions.w.network.mitm.actions.a]\n{}\n",
            action.replace("HEADER", header)
        );
        let source = SourceFile::from_text(Layer::User, Role::Config, "config.toml", text);
        let failure = compile(vec![source], Options { profile: None, strict: false }).err().map(|failure| failure.to_string());
        assert!(failure.as_ref().is_some_and(|said| said.contains(&format!("`{}`", header.to_ascii_lowercase()))), "{header}: {failure:?}");
    }
}
