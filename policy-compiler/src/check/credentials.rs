//! Credentials of the broker: where they may go.

use crate::diagnostic::{Code, Diagnostic};
use crate::schema::{CredentialDoc, NetworkDoc};
use crate::source::{SourceFile, layer_of};
use policy_format::{Credential, Layer};
use std::collections::HashMap;

/// Credentials that a policy may have. Each is looked for in every request to its hosts.
const MAX_CREDENTIALS: usize = 256;
/// Variables, and places, that one credential may have.
const MAX_EACH: usize = 64;

pub(super) fn check(network: &NetworkDoc, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) -> Vec<Credential> {
    let plaintext = network.dangerously_allow_plaintext_credential_injection.as_ref().is_some_and(|at| at.value);
    let mut kept: Vec<&CredentialDoc> = Vec::new();
    for credential in &network.credentials {
        let name = &credential.name;
        // What comes with a repository does not say where secrets go.
        if layer_of(sources, &name.place) == Layer::Project {
            let message = format!("the credential `{}` is ignored: a project does not say where secrets may go", name.value.escape_debug());
            let warning = Diagnostic::warning(Code::IgnoredEntry, message, name.place.clone()).with_label("ignored");
            diagnostics.push(warning.with_help("move it to the user's settings, or those of an administrator"));
            continue;
        }
        for (key, count) in [("env", credential.env.len()), ("url_prefixes", credential.url_prefixes.len())] {
            if count > MAX_EACH {
                let message =
                    format!("`{key}` of the credential `{}` has {count} entries, and may have {MAX_EACH}", name.value.escape_debug());
                diagnostics
                    .push(Diagnostic::error(Code::TooLarge, message, name.place.clone()).with_help("make several credentials of it"));
            }
        }
        for prefix in credential.url_prefixes.iter().filter(|prefix| !prefix.value.tls && !plaintext) {
            let message = format!("`{}` is not encrypted, and the credential would not be sent there", prefix.value);
            let mut error = Diagnostic::error(Code::InvalidValue, message, prefix.place.clone());
            error.help = Some("write `https://`, or accept it with `dangerously_allow_plaintext_credential_injection = true`".into());
            diagnostics.push(error);
        }
        kept.push(credential);
    }
    if let Some(credential) = kept.get(MAX_CREDENTIALS) {
        let message = format!("there are {} credentials, and a policy has at most {MAX_CREDENTIALS}", kept.len());
        let error = Diagnostic::error(Code::TooLarge, message, credential.name.place.clone()).with_label("the first one too many");
        diagnostics.push(error.with_help("give one credential several variables and places"));
    }
    one_owner(&kept, diagnostics);
    let mut all: Vec<Credential> = kept.into_iter().take(MAX_CREDENTIALS).map(lower).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// A variable has one stand-in: which credential it is of has to be clear.
fn one_owner(credentials: &[&CredentialDoc], diagnostics: &mut Vec<Diagnostic>) {
    let mut owners: HashMap<&str, &CredentialDoc> = HashMap::new();
    for credential in credentials {
        for env in &credential.env {
            let Some(owner) = owners.insert(&env.value, credential) else { continue };
            let message = format!("`{}` belongs to the credential `{}` already", env.value, owner.name.value.escape_debug());
            let error = Diagnostic::error(Code::InvalidValue, message, env.place.clone()).and(owner.name.place.clone(), "this one");
            diagnostics.push(error.with_help("keep one of them, and give it the `url_prefixes` of both"));
        }
    }
}

fn lower(credential: &CredentialDoc) -> Credential {
    Credential {
        id: credential.name.value.clone(),
        env: credential.env.iter().map(|env| env.value.clone()).collect(),
        url_prefixes: credential.url_prefixes.iter().map(|prefix| prefix.value.clone()).collect(),
        auth: credential.auth.clone(),
    }
}
