//! `credentials`: what the broker gives children stand-ins for.

use super::{At, CredentialDoc, Key, Reader, Value};
use crate::diagnostic::Code;
use crate::keys;
use policy_format::{CredentialAuth, UrlPrefix};

const EXAMPLE: &str = "example = { env = \"EXAMPLE_TOKEN\", url_prefixes = [\"https://api.example.com/\"] }";

/// `auth` without what belongs to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Auth {
    Bearer,
    Token,
    Basic,
    Header,
}

impl Reader<'_> {
    pub(super) fn credentials(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<CredentialDoc> {
        let Some(table) = self.table(key, value) else { return Vec::new() };
        let mut all: Vec<CredentialDoc> = table.iter().filter_map(|(name, value)| self.credential(name, value)).collect();
        all.sort_by_key(|credential| credential.name.place.span.start);
        all
    }

    fn credential(&mut self, name: &Key<'_>, value: &Value<'_>) -> Option<CredentialDoc> {
        let table = self.table(name, value)?;
        let (mut env, mut urls, mut auth) = (Vec::new(), Vec::new(), Some(Auth::Bearer));
        let (mut header, mut prefix) = (None, None);
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "env" => env = self.variables(key, value),
                "url_prefixes" => urls = self.url_prefixes(key, value),
                "auth" => {
                    let words = [("bearer", Auth::Bearer), ("token", Auth::Token), ("basic", Auth::Basic), ("header", Auth::Header)];
                    auth = self.word(key, value, words).map(|at| at.value);
                }
                "header" => header = self.string(key, value).and_then(|text| Some((key, self.secrets_header(text)?))),
                "prefix" => prefix = self.string(key, value).map(|text| (key, text)),
                "value" | "secret" | "token" | "password" => {
                    let message = format!("`{}` would put a secret into the policy", key.get_ref());
                    self.error(Code::Credentials, key.span(), message).help = Some("name the variable that has it: `env`".into());
                }
                _ => self.unknown_key(key, table, "a credential", &keys::CREDENTIAL),
            }
        }
        for required in ["env", "url_prefixes"] {
            let empty = table.get(required).and_then(|value| value.get_ref().as_array()).is_some_and(|array| array.is_empty());
            if !table.contains_key(required) || empty {
                let message = format!("the credential `{}` needs `{required}`", name.get_ref().escape_debug());
                self.error(Code::MissingKey, name.span(), message).help = Some(format!("write `{EXAMPLE}`"));
            }
        }
        let auth = match auth? {
            Auth::Header => {
                if !table.contains_key("header") {
                    self.error(Code::MissingKey, name.span(), "`auth = \"header\"` needs `header`").help =
                        Some("write `header = \"x-api-key\"`, the header that carries it".into());
                }
                let prefix = self.credential_prefix(prefix.map(|(_, text)| text));
                CredentialAuth::Header { name: header?.1, prefix }
            }
            other => {
                for key in [header.map(|(key, _)| key), prefix.map(|(key, _)| key)].into_iter().flatten() {
                    let message = format!("`{}` belongs to `auth = \"header\"`", key.get_ref());
                    self.error(Code::InvalidValue, key.span(), message).help = Some("remove it, or write `auth = \"header\"`".into());
                }
                match other {
                    Auth::Token => CredentialAuth::Token,
                    Auth::Basic => CredentialAuth::Basic,
                    Auth::Bearer | Auth::Header => CredentialAuth::Bearer,
                }
            }
        };
        Some(CredentialDoc {
            name: At { value: name.get_ref().to_string(), place: self.place(name.span()) },
            env,
            url_prefixes: urls,
            auth,
        })
    }

    fn credential_prefix(&mut self, prefix: Option<At<String>>) -> String {
        let Some(prefix) = prefix else { return String::new() };
        if prefix.value.bytes().any(|byte| byte.is_ascii_control() || !byte.is_ascii()) {
            self.error(Code::InvalidValue, prefix.place.span, "`prefix` has characters that no header has").help =
                Some("write what stands before the credential, such as \"Key \"".into());
            return String::new();
        }
        prefix.value
    }

    /// One variable, or a list of them.
    fn variables(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<At<String>> {
        let names = match value.get_ref().is_array() {
            true => self.strings(key, value).map(|at| at.value).unwrap_or_default(),
            false => self.string(key, value).into_iter().collect(),
        };
        let mut kept: Vec<At<String>> = Vec::new();
        for name in names {
            let mut bytes = name.value.bytes();
            let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
            if !first || !bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                let bare = name.value.trim().trim_start_matches('$').trim_matches(['{', '}']);
                let meant = if bare != name.value && !bare.is_empty() { Some(format!("\"{}\"", bare.escape_debug())) } else { None };
                let error = self.error(
                    Code::InvalidValue,
                    name.place.span,
                    format!("`{}` is not the name of a variable", name.value.escape_debug()),
                );
                match meant {
                    Some(meant) => error.did_you_mean(&meant),
                    None => error.help = Some("write its name, such as \"EXAMPLE_TOKEN\"".into()),
                }
            } else if kept.iter().all(|known| known.value != name.value) {
                kept.push(name);
            }
        }
        kept
    }

    fn url_prefixes(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<At<UrlPrefix>> {
        let texts = self.strings(key, value).map(|at| at.value).unwrap_or_default();
        let mut kept = Vec::new();
        for text in texts {
            match UrlPrefix::parse(text.value.trim()) {
                Ok(prefix) => kept.push(At { value: prefix, place: text.place }),
                Err(why) => {
                    let https = format!("https://{}", text.value.trim());
                    let shown = crate::diagnostic::hide_passwords(&text.value).escape_debug().to_string();
                    let error = self.error(Code::InvalidValue, text.place.span, format!("`{shown}` says no place for a credential: {why}"));
                    match !text.value.contains("://") && UrlPrefix::parse(&https).is_ok() {
                        true => error.did_you_mean(&crate::source::quote(&https)),
                        false => error.help = Some("write scheme and host, such as \"https://api.example.com/\"".into()),
                    }
                }
            }
        }
        kept
    }
}
