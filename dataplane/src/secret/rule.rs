//! The kinds of credentials that there are: those that are known, and those that the policy describes.

use super::binding::Binding;
use super::dummy::Shape;
use super::is_field_value;
use super::provider::{PROVIDERS, Provider, Scheme};
use policy_format::{Credential, CredentialAuth};
use std::sync::Arc;

/// Credentials that a policy may describe.
const MAX_DESCRIBED: usize = 256;
/// Bytes of the name of a variable or a field, or of a prefix.
const MAX_TEXT: usize = 256;

/// Why a description cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the credential `{id}` of the policy cannot be used: {what}")]
pub struct CredentialError {
    /// Which one.
    pub id: String,
    /// What is wrong.
    pub what: String,
}

/// How a credential is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// In `Authorization`, by one of these schemes.
    Authorization(&'static [Scheme]),
    /// In this field, whose name is in lower case, behind the prefix.
    Field { name: String, prefix: String },
}

/// A kind of credential: where it comes from, where it goes, how it looks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) id: String,
    pub(super) variables: Vec<String>,
    pub(super) way: Way,
    pub(super) shape: Shape,
    to: To,
}

/// Where a kind goes.
#[derive(Debug, PartialEq, Eq)]
enum To {
    /// Where the provider says, in the light of the environment and of the URL that the policy names.
    Provider { provider: &'static Provider, url: Option<String> },
    /// There.
    Urls(Arc<Binding>),
    /// Nowhere, since the policy describes it wrongly.
    Nowhere(String),
}

impl Kind {
    /// Where it goes, or why it goes nowhere.
    pub(super) fn binding<'v>(&self, variable: impl Fn(&str) -> Option<&'v str>) -> Result<Arc<Binding>, String> {
        match &self.to {
            To::Urls(binding) => Ok(Arc::clone(binding)),
            To::Nowhere(why) => Err(why.clone()),
            To::Provider { provider, url } => {
                provider.binding(url.as_deref(), variable).map(Arc::new).ok_or_else(|| provider.unbound().to_owned())
            }
        }
    }
}

/// All kinds: those of the policy, and those that are known without it. A variable that the policy describes is as the policy says; where it says something that cannot be used, it
/// goes nowhere, and the first such description is told too. `openai_url` names a host for `OPENAI_API_KEY`.
pub(super) fn kinds(credentials: &[Credential], openai_url: Option<&str>) -> (Vec<Arc<Kind>>, Option<CredentialError>) {
    let mut described = Vec::with_capacity(credentials.len());
    let mut error = None;
    for (at, credential) in credentials.iter().enumerate() {
        let kind = check(credential).and_then(|kind| match shared_variable(&described, credential) {
            _ if at >= MAX_DESCRIBED => Err(format!("a policy describes at most {MAX_DESCRIBED}")),
            Some((other, variable)) => Err(format!("`{variable}` is described by `{other}` already")),
            None => Ok(kind),
        });
        let kind = kind.unwrap_or_else(|what| {
            let wrong = CredentialError { id: credential.id.escape_debug().to_string(), what };
            let kind = nowhere(credential, &described, wrong.to_string());
            error.get_or_insert(wrong);
            kind
        });
        described.push(kind);
    }
    let known: Vec<Kind> = PROVIDERS.iter().map(|provider| known(provider, &described, openai_url)).collect();
    (known.into_iter().chain(described).map(Arc::new).collect(), error)
}

/// What is described wrongly: its variables are withheld, but for those that another description has.
fn nowhere(credential: &Credential, described: &[Kind], why: String) -> Kind {
    let is_its_own = |variable: &String| described.iter().all(|other| !other.variables.contains(variable));
    Kind {
        id: credential.id.clone(),
        variables: credential.env.iter().filter(|variable| is_its_own(variable)).cloned().collect(),
        way: Way::Authorization(&[]),
        shape: Shape::Any,
        to: To::Nowhere(why),
    }
}

fn known(provider: &'static Provider, described: &[Kind], openai_url: Option<&str>) -> Kind {
    let is_described = |variable: &str| described.iter().any(|kind| kind.variables.iter().any(|other| other == variable));
    Kind {
        id: provider.id.to_owned(),
        variables: provider.variables.iter().filter(|variable| !is_described(variable)).map(|&variable| variable.to_owned()).collect(),
        way: Way::Authorization(provider.schemes),
        shape: provider.shape,
        to: To::Provider { provider, url: provider.is_configured().then_some(openai_url).flatten().map(str::to_owned) },
    }
}

fn shared_variable(described: &[Kind], credential: &Credential) -> Option<(String, String)> {
    described.iter().find_map(|other| {
        let variable = credential.env.iter().find(|variable| other.variables.contains(variable))?;
        Some((other.id.clone(), variable.clone()))
    })
}

fn check(credential: &Credential) -> Result<Kind, String> {
    if let Some(variable) = credential.env.iter().find(|variable| !is_variable(variable)) {
        return Err(format!("`{}` is no name of an environment variable", variable.escape_debug()));
    }
    let way = match &credential.auth {
        CredentialAuth::Bearer => Way::Authorization(&[Scheme::Bearer]),
        CredentialAuth::Token => Way::Authorization(&[Scheme::Token]),
        CredentialAuth::Basic => Way::Authorization(&[Scheme::Basic]),
        CredentialAuth::Header { name, prefix } => field(name, prefix)?,
    };
    Ok(Kind {
        id: credential.id.clone(),
        variables: credential.env.clone(),
        way,
        shape: Shape::Any,
        to: To::Urls(Arc::new(Binding::Urls(credential.url_prefixes.clone()))),
    })
}

fn is_variable(name: &str) -> bool {
    name.len() <= MAX_TEXT
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn field(name: &str, prefix: &str) -> Result<Way, String> {
    let lower = name.to_ascii_lowercase();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || name.len() > MAX_TEXT || !name.bytes().all(is_token) {
        return Err(format!("`{}` is no name of a header field", name.escape_debug()));
    }
    if !policy_format::carries_secrets(&lower) {
        return Err(format!("no credential is sent in `{lower}`: it frames or routes the message"));
    }
    if prefix.len() > MAX_TEXT || !is_field_value(prefix.as_bytes()) {
        return Err(format!("the prefix `{}` cannot stand in a header field", prefix.escape_debug()));
    }
    // What stands before the first character of a field is no part of its value.
    Ok(Way::Field { name: lower, prefix: prefix.trim_start().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy_format::UrlPrefix;

    fn credential(id: &str, variable: &str, auth: CredentialAuth) -> Credential {
        let url = UrlPrefix::parse("https://packages.example/npm").unwrap();
        Credential { id: id.into(), env: vec![variable.into()], url_prefixes: vec![url], auth }
    }

    #[test]
    fn descriptions_say_what_is_wrong_with_them() {
        let header = |name: &str, prefix: &str| CredentialAuth::Header { name: name.into(), prefix: prefix.into() };
        let cases = [
            ("", CredentialAuth::Bearer, "`` is no name of an environment variable"),
            ("1A", CredentialAuth::Bearer, "is no name of an environment variable"),
            ("A=B", CredentialAuth::Basic, "is no name of an environment variable"),
            ("A", header("x key", ""), "no name of a header field"),
            ("A", header("", ""), "no name of a header field"),
            ("A", header("Content-Length", ""), "no credential is sent in `content-length`"),
            ("A", header("proxy-authorization", ""), "no credential is sent in `proxy-authorization`"),
            ("A", header("x-key", "a\r\nb: "), "the prefix"),
        ];
        for (variable, auth, expected) in cases {
            let (kinds, error) = kinds(&[credential("npm", variable, auth)], None);
            let error = error.unwrap();
            assert!(error.to_string().contains(expected) && error.id == "npm", "{error}");
            // It is known all the same, so that its variable is taken out.
            let kind = kinds.last().unwrap();
            assert_eq!((kind.variables.as_slice(), kind.binding(|_| None)), (&[variable.to_owned()][..], Err(error.to_string())));
        }
    }

    #[test]
    fn a_variable_is_described_once() {
        let twice = [credential("npm", "NPM_TOKEN", CredentialAuth::Bearer), credential("other", "NPM_TOKEN", CredentialAuth::Token)];
        let (both, error) = kinds(&twice, None);
        assert_eq!(
            both.iter().filter(|kind| kind.variables.contains(&"NPM_TOKEN".to_owned())).map(|kind| kind.id.as_str()).collect::<Vec<_>>(),
            ["npm"]
        );
        assert_eq!(
            error.unwrap().to_string(),
            "the credential `other` of the policy cannot be used: `NPM_TOKEN` is described by `npm` already"
        );
        // The policy has the last word on a variable that is known without it.
        let (kinds, error) = kinds(&[credential("own", "GH_TOKEN", CredentialAuth::Bearer)], None);
        assert_eq!(error, None);
        let holders: Vec<&str> =
            kinds.iter().filter(|kind| kind.variables.iter().any(|name| name == "GH_TOKEN")).map(|kind| kind.id.as_str()).collect();
        assert_eq!(holders, ["own"]);
        assert!(kinds.iter().any(|kind| kind.id == "github" && kind.variables == ["GITHUB_TOKEN"]));
    }

    #[test]
    fn there_is_an_end_to_descriptions() {
        let many: Vec<Credential> =
            (0..=MAX_DESCRIBED).map(|n| credential(&format!("c{n}"), &format!("V{n}"), CredentialAuth::Bearer)).collect();
        let error = kinds(&many, None).1.unwrap();
        assert!(error.id == "c256" && error.what.contains("at most 256"), "{error}");
        assert_eq!(kinds(&many[1..], None).1, None);
    }
}
