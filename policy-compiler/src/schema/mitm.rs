//! `mitm`: TLS interception, hooks and their actions, certificates for servers.

use super::{ActionDoc, At, BodyDoc, HookDoc, Key, MitmDoc, Reader, Value};
use crate::diagnostic::Code;
use crate::keys;
use policy_format::hooks::{TextGlob, TextKind, is_pointer};
use policy_format::{ClientCertificate, HookBody, Hosts, JsonValue, Limit, LimitKind, MitmMode, Pattern, Secret, path};
use toml::de::DeValue;

impl Reader<'_> {
    pub(crate) fn mitm(&mut self, key: &Key<'_>, value: &Value<'_>) -> MitmDoc {
        let mut doc = MitmDoc::default();
        let Some(table) = self.table(key, value) else { return doc };
        let (mut off, mut on) = (false, None);
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "mode" => doc.mode = self.word(key, value, [("auto", MitmMode::Auto), ("always", MitmMode::Always)]),
                "bypass" => doc.bypass = self.bypass(key, value),
                "dangerously_bypass_read_only" => doc.dangerously_bypass_read_only = self.bool(key, value),
                "client_certificates" => doc.client_certificates = self.client_certificates(key, value),
                "ca_cert_path" => doc.ca_cert_path = self.absolute(key, value),
                "ca_key_path" => doc.ca_key_path = self.absolute(key, value),
                "max_body_bytes" => doc.max_body_bytes = self.number(key, value),
                "hooks" => doc.hooks = self.hooks(key, value),
                "actions" => doc.actions = self.actions(key, value),
                // Older: on or off, and looking inside, which is what it is for.
                "enabled" | "inspect" => {
                    let name = key.get_ref();
                    let warning = self.warning(Code::OlderSpelling, key.span(), format!("`{name}` of `mitm` is an older spelling"));
                    warning.help = Some("write `mode = \"always\"`, or leave it out; `netpolicy migrate` rewrites the file".into());
                    match self.bool(key, value) {
                        Some(said) if said.value => on = Some(At { value: MitmMode::Always, place: said.place }),
                        Some(_) => off |= name == "enabled",
                        None => {}
                    }
                }
                _ => self.unknown_key(key, table, "`mitm`", &keys::MITM),
            }
        }
        // What is switched off reads nothing, and `mode` has the last word.
        doc.mode = doc.mode.or(on.filter(|_| !off));
        doc
    }

    /// An absolute path: a policy does not know where it will run.
    fn absolute(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<String>> {
        let text = self.string(key, value)?;
        if !text.value.starts_with('/') || text.value.contains('\0') {
            self.error(Code::InvalidValue, text.place.span, format!("`{}` is an absolute path", key.get_ref())).help =
                Some("write it from the root, such as \"/etc/netpolicy/ca.pem\": a policy does not know where it will run".into());
            return None;
        }
        Some(text)
    }

    fn bypass(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<Vec<At<Pattern>>>> {
        let texts = self.strings(key, value)?;
        let patterns = texts.value.into_iter().filter_map(|text| {
            let pattern = self.pattern(&text.value, &text.place.span)?;
            if pattern.hosts == Hosts::Any {
                self.error(Code::InvalidPattern, text.place.span.clone(), "`*` would open no TLS at all").help =
                    Some("name the hosts whose clients pin certificates".into());
                return None;
            }
            Some(At { value: pattern, place: text.place })
        });
        let patterns = patterns.collect();
        Some(At { value: patterns, place: texts.place })
    }

    fn hooks(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<HookDoc> {
        let Some(table) = self.table(key, value) else { return Vec::new() };
        let mut hooks: Vec<HookDoc> = table.iter().filter_map(|(name, value)| self.hook(name, value)).collect();
        hooks.sort_by_key(|hook| hook.name.place.span.start);
        hooks
    }

    fn hook(&mut self, name: &Key<'_>, value: &Value<'_>) -> Option<HookDoc> {
        let table = self.table(name, value)?;
        let (mut host, mut methods, mut path_prefixes, mut action) = (None, Vec::new(), Vec::new(), Vec::new());
        let (mut query, mut headers, mut body) = (Vec::new(), Vec::new(), None);
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "host" => host = self.hook_host(key, value, "a hook"),
                "methods" => methods = self.methods(key, value),
                "path_prefixes" => path_prefixes = self.path_prefixes(key, value),
                "query" => query = self.values(key, value, true),
                "headers" => headers = self.values(key, value, false),
                "action" => action = self.strings(key, value).map(|at| at.value).unwrap_or_default(),
                "body" => body = self.body(key, value),
                _ => self.unknown_key(key, table, "a hook", &keys::HOOK),
            }
        }
        for required in ["host", "methods", "path_prefixes", "action"] {
            let empty = table.get(required).and_then(|value| value.get_ref().as_array()).is_some_and(|array| array.is_empty());
            if !table.contains_key(required) || (required == "action" && empty) || (required == "path_prefixes" && empty) {
                let message = format!("the hook `{}` needs `{required}`", name.get_ref());
                self.error(Code::InvalidHook, name.span(), message).help = Some(
                    match required {
                        "host" => "write `host = \"api.example.com\"`",
                        "methods" => "write `methods = [\"POST\"]`",
                        "path_prefixes" => "write `path_prefixes = [\"/\"]`",
                        _ => "write `action = [\"NAME\"]`, and say what it does under `[….mitm.actions.NAME]`",
                    }
                    .into(),
                );
            }
        }
        Some(HookDoc {
            name: At { value: name.get_ref().to_string(), place: self.place(name.span()) },
            host: host?,
            methods,
            path_prefixes,
            query,
            headers,
            body,
            action,
        })
    }

    fn hook_host(&mut self, key: &Key<'_>, value: &Value<'_>, of: &str) -> Option<At<Pattern>> {
        let text = self.string(key, value)?;
        let pattern = self.pattern(&text.value, &text.place.span)?;
        let fits = matches!(pattern.hosts, Hosts::Exact(_) | Hosts::Subdomains(_) | Hosts::ApexAndSubdomains(_))
            || matches!(&pattern.hosts, Hosts::Network(network) if network.is_single());
        if !fits || pattern.port.is_some() {
            let message = format!("the `host` of {of} is a name, an address, `*.name` or `**.name`, without a port");
            self.error(Code::InvalidHook, text.place.span, message).help = Some("write `host = \"api.example.com\"`".into());
            return None;
        }
        Some(At { value: pattern, place: text.place })
    }

    fn path_prefixes(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<String> {
        let texts = self.strings(key, value).map(|at| at.value).unwrap_or_default();
        let mut kept = Vec::new();
        for text in texts {
            let wrong = match (text.value.strip_prefix("literal:"), text.value.strip_prefix("pattern:")) {
                (Some(literal), _) => (!literal.starts_with('/')).then(|| "a path starts with `/`".to_owned()),
                (None, Some(glob)) => TextGlob::parse(glob, TextKind::Path).err().map(|error| error.to_string()),
                (None, None) => match path::check_prefix(&text.value) {
                    Err(path::PathError::Wildcard) => {
                        Some("a glob starts with `pattern:`, and a path that has a `*` with `literal:`".to_owned())
                    }
                    checked => checked.err().map(|error| error.to_string()),
                },
            };
            match wrong {
                None => kept.push(text.value),
                Some(why) => {
                    let message = format!("the path `{}` is not valid: {why}", text.value.escape_debug());
                    self.error(Code::InvalidPath, text.place.span, message).help =
                        Some("write a prefix such as \"/repos/\", or a glob such as \"pattern:/repos/*/issues\"".into());
                }
            }
        }
        kept
    }

    /// `query` and `headers`: fields, and the values that each may have.
    fn values(&mut self, key: &Key<'_>, value: &Value<'_>, query: bool) -> Vec<(String, Vec<String>)> {
        let Some(table) = self.table(key, value) else { return Vec::new() };
        let mut all = Vec::new();
        for (name, value) in table {
            let Some(values) = self.strings(name, value) else { continue };
            let field = if query { name.get_ref().to_string() } else { name.get_ref().to_ascii_lowercase() };
            if field.is_empty() || (!query && !is_token(&field)) {
                self.error(Code::InvalidHook, name.span(), format!("`{}` is not the name of a field", name.get_ref().escape_debug()))
                    .help = Some("write its name, such as `\"x-team\" = [\"a\"]`".into());
            } else if query && values.value.is_empty() {
                self.error(Code::InvalidHook, value.span(), format!("`{field}` lists no value: nothing would match")).help =
                    Some("name the values that may pass, or remove it".into());
            } else {
                for value in &values.value {
                    self.check_value(value);
                }
                all.push((field, values.value.into_iter().map(|at| at.value).collect()));
            }
        }
        all.sort();
        all
    }

    /// A value, of which a glob has to be one.
    fn check_value(&mut self, value: &At<String>) {
        if let Some(Err(why)) = value.value.strip_prefix("pattern:").map(|glob| TextGlob::parse(glob, TextKind::Value)) {
            self.error(Code::InvalidHook, value.place.span.clone(), format!("the value is not valid: {why}")).help =
                Some("finish the glob, or write the value behind `literal:`".into());
        }
    }

    /// `body = { json = { "/event" = ["COMMENT"] }, max_bytes = "64KiB" }`.
    fn body(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<BodyDoc> {
        const EXAMPLE: &str = "body = { json = { \"/event\" = [\"COMMENT\"] } }";
        let table = self.table(key, value)?;
        let mut body = BodyDoc { json: Vec::new(), max_bytes: HookBody::DEFAULT_BYTES };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "json" => body.json = self.pointers(key, value),
                "max_bytes" => body.max_bytes = self.body_bytes(key, value).unwrap_or(body.max_bytes),
                _ => self.unknown_key(key, table, "`body`", &keys::BODY),
            }
        }
        let says_nothing = table.get("json").is_none_or(|json| json.get_ref().as_table().is_some_and(|json| json.is_empty()));
        if says_nothing {
            self.error(Code::InvalidHook, key.span(), "`body` says no value: nothing would be looked at").help =
                Some(format!("write `{EXAMPLE}`, or remove it"));
        }
        Some(body)
    }

    /// `json` of a body: pointers, and the values that each may lead to.
    fn pointers(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<(String, Vec<JsonValue>)> {
        let Some(table) = self.table(key, value) else { return Vec::new() };
        let mut all = Vec::new();
        for (pointer, value) in table {
            let text = pointer.get_ref();
            if !is_pointer(text) {
                let slashed = format!("/{text}");
                let error = self.error(Code::InvalidHook, pointer.span(), format!("`{}` is no JSON pointer", text.escape_debug()));
                match is_pointer(&slashed) && !text.starts_with('$') {
                    true => error.did_you_mean(&crate::source::quote(&slashed.replace('.', "/"))),
                    false => error.help = Some("write the names on the way, each behind a `/`, such as \"/pull/draft\" (RFC 6901)".into()),
                }
                continue;
            }
            let Some(array) = value.get_ref().as_array() else {
                self.wrong_type(pointer, value, "a list of values", &format!("{} = [\"…\"]", crate::source::quote(text)));
                self.bracket(value);
                continue;
            };
            if array.is_empty() {
                self.error(Code::InvalidHook, value.span(), format!("`{}` lists no value: nothing would match", text.escape_debug()))
                    .help = Some("name the values that may pass, or remove it".into());
            }
            let values = array.iter().filter_map(|item| self.json_value(pointer, item)).collect();
            all.push((text.to_string(), values));
        }
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    fn json_value(&mut self, pointer: &Key<'_>, item: &Value<'_>) -> Option<JsonValue> {
        match item.get_ref() {
            DeValue::String(text) => {
                self.check_value(&At { value: text.to_string(), place: self.place(item.span()) });
                Some(JsonValue::Text(text.to_string()))
            }
            DeValue::Boolean(value) => Some(JsonValue::Bool(*value)),
            DeValue::Integer(number) if number.radix() == 10 && number.as_str().parse::<u64>().is_ok() => {
                number.as_str().parse().ok().map(JsonValue::Number)
            }
            _ => {
                self.wrong_type(pointer, item, "a list of texts, `true`, `false` and whole numbers", "\"/event\" = [\"COMMENT\"]");
                None
            }
        }
    }

    fn body_bytes(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<u64> {
        const LIMIT: Limit = Limit {
            name: "max_bytes",
            kind: LimitKind::Bytes,
            default: HookBody::DEFAULT_BYTES,
            min: 1,
            max: HookBody::MOST_BYTES,
            doc: "Bytes that a body may have.",
        };
        let text = match value.get_ref() {
            DeValue::String(text) => text.trim(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            _ => {
                self.wrong_type(key, value, LIMIT.expected(), "max_bytes = \"64KiB\"");
                return None;
            }
        };
        match LIMIT.parse(text) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.error(Code::InvalidValue, value.span(), error.to_string()).help = Some("the default is \"64KiB\"".into());
                None
            }
        }
    }

    /// `client_certificates = [{ host = "…", cert_path = "…", key_path = "…" }]`.
    fn client_certificates(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<Vec<ClientCertificate>>> {
        const EXAMPLE: &str = "client_certificates = [{ host = \"api.corp.example\", cert_path = \"/etc/netpolicy/client.pem\", key_path = \"/etc/netpolicy/client.key\" }]";
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of tables", EXAMPLE);
            return None;
        };
        let mut all = Vec::with_capacity(array.len());
        for item in array.iter() {
            let Some(table) = item.get_ref().as_table() else {
                self.wrong_type(key, item, "a list of tables", EXAMPLE);
                continue;
            };
            let (mut host, mut cert_path, mut key_path) = (None, None, None);
            for (key, value) in table {
                match key.get_ref().as_ref() {
                    "host" => host = self.hook_host(key, value, "a client certificate"),
                    "cert_path" => cert_path = self.absolute(key, value),
                    "key_path" => key_path = self.absolute(key, value),
                    _ => self.unknown_key(key, table, "a client certificate", &keys::CLIENT_CERTIFICATE),
                }
            }
            for name in ["host", "cert_path", "key_path"] {
                if !table.contains_key(name) {
                    let error = self.error(Code::MissingKey, item.span(), format!("a client certificate needs `{name}`"));
                    error.help = Some(format!("write `{EXAMPLE}`"));
                }
            }
            if let (Some(host), Some(cert_path), Some(key_path)) = (host, cert_path, key_path) {
                all.push(ClientCertificate { host: host.value.to_string(), cert_path: cert_path.value, key_path: key_path.value });
            }
        }
        Some(At { value: all, place: self.place(value.span()) })
    }

    fn actions(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<ActionDoc> {
        let Some(table) = self.table(key, value) else { return Vec::new() };
        let mut actions: Vec<ActionDoc> = table.iter().filter_map(|(name, value)| self.action(name, value)).collect();
        actions.sort_by_key(|action| action.name.place.span.start);
        actions
    }

    fn action(&mut self, name: &Key<'_>, value: &Value<'_>) -> Option<ActionDoc> {
        let table = self.table(name, value)?;
        let mut action = ActionDoc {
            name: At { value: name.get_ref().to_string(), place: self.place(name.span()) },
            strip_request_headers: Vec::new(),
            inject_request_headers: Vec::new(),
            strip_response_headers: Vec::new(),
        };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "strip_request_headers" => action.strip_request_headers = self.header_names(key, value),
                "strip_response_headers" => action.strip_response_headers = self.header_names(key, value),
                "inject_request_headers" => action.inject_request_headers = self.injected(key, value),
                _ => self.unknown_key(key, table, "an action", &keys::ACTION),
            }
        }
        if !table.values().any(|value| value.get_ref().as_array().is_none_or(|array| !array.is_empty())) {
            self.error(Code::InvalidHook, name.span(), format!("the action `{}` does nothing", name.get_ref())).help =
                Some("write `strip_request_headers = [\"authorization\"]`, or another of its keys".into());
        }
        Some(action)
    }

    fn header_names(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<String> {
        let names = self.strings(key, value).map(|at| at.value).unwrap_or_default();
        names.into_iter().filter_map(|name| self.taken_out(name)).collect()
    }

    /// The name of a header that may be taken out.
    fn taken_out(&mut self, name: At<String>) -> Option<String> {
        let place = name.place.clone();
        let name = self.header_name(name)?;
        if !policy_format::may_be_taken_out(&name) {
            let message = format!("without `{name}` nobody knows where a message ends, or where it goes");
            self.error(Code::InvalidHook, place.span, message).help = Some("leave it out of the list".into());
            return None;
        }
        Some(name)
    }

    pub(super) fn header_name(&mut self, name: At<String>) -> Option<String> {
        if !is_token(&name.value) {
            self.error(Code::InvalidHook, name.place.span, format!("`{}` is not the name of a header", name.value.escape_debug())).help =
                Some("write its name only, such as \"authorization\"".into());
            return None;
        }
        Some(name.value.to_ascii_lowercase())
    }

    /// The name of a header that a secret is sent in.
    pub(super) fn secrets_header(&mut self, name: At<String>) -> Option<String> {
        let place = name.place.clone();
        let name = self.header_name(name)?;
        if !policy_format::carries_secrets(&name) {
            let message = format!("`{name}` says how a message is sent, and carries no secret");
            self.error(Code::InvalidHook, place.span, message).help =
                Some("name the header that the server reads the secret from, such as \"authorization\" or \"x-api-key\"".into());
            return None;
        }
        Some(name)
    }

    fn injected(&mut self, key: &Key<'_>, value: &Value<'_>) -> Vec<(String, Secret, String)> {
        const EXAMPLE: &str = "inject_request_headers = [{ name = \"authorization\", secret_env_var = \"TOKEN\", prefix = \"Bearer \" }]";
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of tables", EXAMPLE);
            return Vec::new();
        };
        let mut all = Vec::new();
        for item in array.iter() {
            let DeValue::Table(table) = item.get_ref() else {
                self.wrong_type(key, item, "a list of tables", EXAMPLE);
                continue;
            };
            let (mut name, mut env, mut file, mut prefix) = (None, None, None, None);
            for (key, value) in table {
                match key.get_ref().as_ref() {
                    "name" => name = self.string(key, value).and_then(|name| self.secrets_header(name)),
                    "secret_env_var" => env = self.string(key, value),
                    "secret_file" => file = self.absolute(key, value),
                    "prefix" => prefix = self.string(key, value),
                    "value" | "secret" => {
                        let message = format!("`{}` would put a secret into the policy", key.get_ref());
                        self.error(Code::Credentials, key.span(), message).help =
                            Some("name where it is: `secret_env_var` or `secret_file`".into());
                    }
                    _ => self.unknown_key(key, table, "an injected header", &keys::INJECT),
                }
            }
            let prefix = prefix.map(|at| at.value).unwrap_or_default();
            if prefix.bytes().any(|byte| byte.is_ascii_control() || !byte.is_ascii()) {
                self.error(Code::InvalidHook, item.span(), "`prefix` has characters that no header has").help =
                    Some("write what stands before the secret, such as \"Bearer \"".into());
            }
            let secret = match (env, file) {
                (Some(env), None) if !env.value.trim().is_empty() => Some(Secret::Env(env.value)),
                (None, Some(file)) => Some(Secret::File(file.value)),
                _ => {
                    self.error(Code::InvalidHook, item.span(), "an injected header needs one of `secret_env_var` and `secret_file`").help =
                        Some(format!("write `{EXAMPLE}`"));
                    None
                }
            };
            if !table.contains_key("name") {
                self.error(Code::InvalidHook, item.span(), "an injected header needs `name`").help = Some(format!("write `{EXAMPLE}`"));
            }
            if let (Some(name), Some(secret)) = (name, secret) {
                all.push((name, secret, prefix));
            }
        }
        all
    }
}

/// A token (RFC 9110, section 5.6.2).
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
