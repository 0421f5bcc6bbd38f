//! Section `settings`: what profiles say that is not the default, by the names that users type.
//!
//! The section has a list of pairs for each profile: a key and a value, ascending by key, in the wire format of postcard. A setting more is a key more, not another
//! section. Whoever does not know a key, or a value, refuses the blob: a limit that nobody holds protects nobody.
//!
//! Values hold values, so they are read by hand: what a foreign file nests and counts is bounded.

use crate::audit::{Audit, AuditLevel, AuditNaming, Fsync, OnFull, Otlp, OtlpProtocol};
use crate::credentials::{ClientCertificate, Credential, CredentialAuth, HookBody, JsonValue, UrlPrefix};
use crate::error::FormatError;
use crate::header::SectionKind;
use crate::pattern::Pattern;
use crate::records::{MAX_RECORDS, Upstream};
use crate::settings::{BrokerFallback, Constraints, Forwarded, Limit, NameServer, OnRevoke, Settings, Sni, UpstreamRule};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Values that the section may have, those within others included.
const MAX_VALUES: usize = 65_536;
/// Lists and tables that a value may lie in.
const MAX_DEPTH: usize = 8;
/// Bytes of a key.
const MAX_KEY: usize = 128;

/// What [`UpstreamRule::proxy`] is where it is `None`.
const DIRECT: &str = "direct";
/// The proxies that there are.
const SCHEMES: [&str; 4] = ["http", "https", "socks5", "socks5h"];

/// A value. The numbers of the variants are part of the format.
#[derive(Debug, Serialize)]
enum Value<'a> {
    Bool(bool),
    Number(u64),
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
    Table(Pairs<'a>),
}

type Pairs<'a> = Vec<(Cow<'a, str>, Value<'a>)>;

/// The section of these profiles; `None` where none of them says anything.
#[cfg(feature = "build")]
pub(crate) fn write(profiles: &[Settings]) -> Result<Option<Vec<u8>>, crate::BuildError> {
    let default = Settings::default();
    if profiles.iter().all(|settings| *settings == default) {
        return Ok(None);
    }
    let encode = |why: String| crate::BuildError::Encode(why);
    let said: Vec<Pairs<'_>> = profiles.iter().map(|settings| pairs(settings, &default)).collect();
    let section = postcard::to_allocvec(&said).map_err(|error| encode(error.to_string()))?;
    // Values out of bounds, and hosts or URLs that are none, would be found by whoever opens the blob.
    match read(&section, profiles.len()) {
        Ok(read) if read == profiles => Ok(Some(section)),
        Ok(_) => Err(encode("a profile has settings that no policy can say".to_owned())),
        Err(error) => Err(encode(error.to_string())),
    }
}

/// What the settings say that is not the default.
#[cfg(feature = "build")]
fn pairs<'a>(settings: &'a Settings, default: &Settings) -> Pairs<'a> {
    let text = |text: &'static str| Value::Text(text.into());
    let Settings {
        sni,
        via,
        forwarded,
        resolver,
        upstream_rules,
        on_revoke,
        limits,
        hook_bodies,
        bypass_read_only,
        client_certificates,
        credentials,
        broker_fallback,
        audit,
        constraints,
    } = settings;
    let mut pairs: Pairs<'a> = crate::Limits::ALL
        .iter()
        .filter_map(|limit| Some((limit, limits.get(limit.name)?)))
        .filter(|(limit, value)| *value != limit.default)
        .map(|(limit, value)| (format!("limits.{}", limit.name).into(), Value::Number(value)))
        .collect();
    let others = [
        ("broker_fallback", *broker_fallback != default.broker_fallback, text(broker_fallback.as_str())),
        ("bypass_read_only", *bypass_read_only != default.bypass_read_only, Value::Bool(*bypass_read_only)),
        (
            "client_certificates",
            *client_certificates != default.client_certificates,
            Value::List(client_certificates.iter().map(|certificate| Value::Table(certificate_pairs(certificate))).collect()),
        ),
        (
            "credentials",
            *credentials != default.credentials,
            Value::List(credentials.iter().map(|credential| Value::Table(credential_pairs(credential))).collect()),
        ),
        ("forwarded", *forwarded != default.forwarded, text(forwarded.as_str())),
        (
            "hook_bodies",
            *hook_bodies != default.hook_bodies,
            Value::List(hook_bodies.iter().map(|body| Value::Table(body_pairs(body))).collect()),
        ),
        ("limits.on_revoke", *on_revoke != default.on_revoke, text(on_revoke.as_str())),
        (
            "resolver",
            *resolver != default.resolver,
            Value::List(resolver.iter().map(|server| Value::Text(server.to_string().into())).collect()),
        ),
        ("sni", *sni != default.sni, text(sni.as_str())),
        (
            "upstream.rules",
            *upstream_rules != default.upstream_rules,
            Value::List(upstream_rules.iter().map(|rule| Value::Table(rule_pairs(rule))).collect()),
        ),
        ("via", *via != default.via, Value::Bool(*via)),
    ];
    pairs.extend(others.into_iter().filter(|(_, differs, _)| *differs).map(|(key, _, value)| (key.into(), value)));
    audit_pairs(audit, &default.audit, &mut pairs);
    pairs.extend(constraints.as_ref().map(|constraints| ("constraints".into(), Value::Table(constraint_pairs(constraints)))));
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    pairs
}

/// What the settings of audit say that is not the default.
#[cfg(feature = "build")]
fn audit_pairs<'a>(audit: &'a Audit, default: &Audit, pairs: &mut Pairs<'a>) {
    let text = |text: &'a str| Value::Text(Cow::Borrowed(text));
    let Audit { file, stdout, syslog, journald, otlp, naming, level, on_full, fsync, chain, metadata, .. } = audit;
    let numbers = Audit::NUMBERS.iter().filter_map(|number| Some((number, audit.get(number.name)?)));
    let numbers = numbers.filter(|(number, value)| *value != number.default);
    pairs.extend(numbers.map(|(number, value)| (format!("audit.{}", number.name).into(), Value::Number(value))));
    let fields = || metadata.iter().map(|(name, value)| (name.as_str().into(), text(value))).collect();
    let said = [
        ("audit.chain", (*chain != default.chain).then_some(Value::Bool(*chain))),
        ("audit.file", file.as_deref().map(text)),
        ("audit.fsync", (*fsync != default.fsync).then(|| text(fsync.as_str()))),
        ("audit.journald", (*journald != default.journald).then_some(Value::Bool(*journald))),
        ("audit.level", (*level != default.level).then(|| text(level.as_str()))),
        ("audit.metadata", (!metadata.is_empty()).then(|| Value::Table(fields()))),
        ("audit.naming", (*naming != default.naming).then(|| text(naming.as_str()))),
        ("audit.on_full", (*on_full != default.on_full).then(|| text(on_full.as_str()))),
        ("audit.otlp", otlp.as_ref().map(|otlp| Value::Table(otlp_pairs(otlp)))),
        ("audit.stdout", (*stdout != default.stdout).then_some(Value::Bool(*stdout))),
        ("audit.syslog", syslog.as_ref().map(|target| Value::Text(target.to_string().into()))),
    ];
    pairs.extend(said.into_iter().filter_map(|(key, value)| Some((key.into(), value?))));
}

/// The layers that hold something.
#[cfg(feature = "build")]
fn constraint_pairs(constraints: &Constraints) -> Pairs<'static> {
    let Constraints { mode_required, local_binding_required, managed_allows_only } = *constraints;
    [("local_binding_required", local_binding_required), ("managed_allows_only", managed_allows_only), ("mode_required", mode_required)]
        .into_iter()
        .filter_map(|(key, layer)| Some((key.into(), Value::Text(layer?.as_str().into()))))
        .collect()
}

/// An empty `headers_file` is none.
#[cfg(feature = "build")]
fn otlp_pairs(otlp: &Otlp) -> Pairs<'_> {
    let Otlp { endpoint, protocol, headers_file } = otlp;
    let headers_file = headers_file.as_deref().unwrap_or_default();
    [("endpoint", endpoint.as_str()), ("headers_file", headers_file), ("protocol", protocol.as_str())]
        .map(|(key, text)| (key.into(), Value::Text(text.into())))
        .into()
}

#[cfg(feature = "build")]
fn rule_pairs(rule: &UpstreamRule) -> Pairs<'_> {
    let hosts = rule.hosts.iter().map(|host| Value::Text(host.as_str().into())).collect();
    let url = rule.proxy.as_ref().map_or(DIRECT, |proxy| &proxy.url);
    vec![("hosts".into(), Value::List(hosts)), ("url".into(), Value::Text(url.into()))]
}

#[cfg(feature = "build")]
fn texts(texts: &[String]) -> Value<'_> {
    Value::List(texts.iter().map(|text| Value::Text(text.as_str().into())).collect())
}

#[cfg(feature = "build")]
fn certificate_pairs(certificate: &ClientCertificate) -> Pairs<'_> {
    let ClientCertificate { host, cert_path, key_path } = certificate;
    [("cert_path", cert_path), ("host", host), ("key_path", key_path)]
        .map(|(key, text)| (key.into(), Value::Text(text.as_str().into())))
        .into()
}

/// `header` and `prefix` are there where the header is one of its own.
#[cfg(feature = "build")]
fn credential_pairs(credential: &Credential) -> Pairs<'_> {
    let Credential { id, env, url_prefixes, auth } = credential;
    let text = |text| Value::Text(Cow::Borrowed(text));
    let mut pairs: Pairs<'_> = vec![("auth".into(), text(auth.as_str())), ("env".into(), texts(env))];
    if let CredentialAuth::Header { name, .. } = auth {
        pairs.push(("header".into(), text(name)));
    }
    pairs.push(("id".into(), text(id)));
    if let CredentialAuth::Header { prefix, .. } = auth {
        pairs.push(("prefix".into(), text(prefix)));
    }
    pairs.push(("url_prefixes".into(), Value::List(url_prefixes.iter().map(|prefix| Value::Text(prefix.to_string().into())).collect())));
    pairs
}

#[cfg(feature = "build")]
fn body_pairs(body: &HookBody) -> Pairs<'_> {
    let HookBody { hook, json, max_bytes } = body;
    let value = |value: &JsonValue| match value {
        JsonValue::Text(text) => Value::Text(text.clone().into()),
        JsonValue::Bool(value) => Value::Bool(*value),
        JsonValue::Number(value) => Value::Number(*value),
    };
    let pointer = |(pointer, values): &(String, Vec<JsonValue>)| {
        let values = Value::List(values.iter().map(value).collect());
        Value::Table(vec![("pointer".into(), Value::Text(pointer.clone().into())), ("values".into(), values)])
    };
    vec![
        ("hook".into(), Value::Text(hook.as_str().into())),
        ("json".into(), Value::List(json.iter().map(pointer).collect())),
        ("max_bytes".into(), Value::Number(*max_bytes)),
    ]
}

/// The settings of as many profiles.
pub(crate) fn read(section: &[u8], profiles: usize) -> Result<Vec<Settings>, FormatError> {
    let mut decoder = Decoder { section, at: 0, values: 0 };
    if section.len() > MAX_RECORDS {
        return Err(decoder.wrong("more bytes than there may be"));
    }
    if usize::try_from(decoder.number()?).ok() != Some(profiles) {
        return Err(decoder.wrong("not as many lists as there are profiles"));
    }
    let mut all = Vec::with_capacity(profiles);
    for _ in 0..profiles {
        let mut settings = Settings::default();
        for (key, value) in decoder.pairs(0)? {
            set(&mut settings, &key, &value).map_err(|what| FormatError::Setting { key: key.into_owned(), what })?;
        }
        all.push(settings);
    }
    if decoder.at != section.len() {
        return Err(decoder.wrong("more bytes than the settings have"));
    }
    Ok(all)
}

/// What is said of a value that is none of the key's.
const VALUE: &str = "has a value that this program does not know";
/// What is said of a key that is none.
const KEY: &str = "is unknown to this program";

/// Puts one setting in force.
fn set(settings: &mut Settings, key: &str, value: &Value<'_>) -> Result<(), &'static str> {
    let found = match key {
        "sni" => value.text().and_then(Sni::named).map(|sni| settings.sni = sni),
        "via" => value.bool().map(|via| settings.via = via),
        "forwarded" => value.text().and_then(Forwarded::named).map(|forwarded| settings.forwarded = forwarded),
        "resolver" => value.each(|server| NameServer::read(server.text()?)).map(|servers| settings.resolver = servers),
        "upstream.rules" => value.each(Value::rule).map(|rules| settings.upstream_rules = rules),
        "hook_bodies" => value.each(Value::hook_body).map(|bodies| settings.hook_bodies = bodies),
        "bypass_read_only" => value.bool().map(|bypass| settings.bypass_read_only = bypass),
        "client_certificates" => value.each(Value::client_certificate).map(|all| settings.client_certificates = all),
        "credentials" => value.each(Value::credential).map(|all| settings.credentials = all),
        "broker_fallback" => value.text().and_then(BrokerFallback::named).map(|fallback| settings.broker_fallback = fallback),
        "limits.on_revoke" => value.text().and_then(OnRevoke::named).map(|on_revoke| settings.on_revoke = on_revoke),
        "constraints" => value.constraints().map(|constraints| settings.constraints = Some(constraints)),
        _ if key.starts_with("audit.") => return set_audit(&mut settings.audit, key, value),
        _ => {
            let limit = key.strip_prefix("limits.").and_then(Limit::named).ok_or(KEY)?;
            // One that is out of its bounds here may be within those of another version: it is not brought into them in silence.
            let value = value.number().filter(|value| (limit.min..=limit.max).contains(value));
            value.map(|value| settings.limits.set(limit.name, value))
        }
    };
    found.ok_or(VALUE)
}

/// Puts one setting of audit in force.
fn set_audit(audit: &mut Audit, key: &str, value: &Value<'_>) -> Result<(), &'static str> {
    let path = || value.text().filter(|path| Audit::is_path(path)).map(str::to_owned);
    let found = match key.strip_prefix("audit.").unwrap_or_default() {
        "chain" => value.bool().map(|chain| audit.chain = chain),
        "file" => path().map(|path| audit.file = Some(path)),
        "fsync" => value.text().and_then(Fsync::named).map(|fsync| audit.fsync = fsync),
        "journald" => value.bool().map(|journald| audit.journald = journald),
        "level" => value.text().and_then(AuditLevel::named).map(|level| audit.level = level),
        "metadata" => value.metadata().map(|metadata| audit.metadata = metadata),
        "naming" => value.text().and_then(AuditNaming::named).map(|naming| audit.naming = naming),
        "on_full" => value.text().and_then(OnFull::named).map(|on_full| audit.on_full = on_full),
        "otlp" => value.otlp().map(|otlp| audit.otlp = Some(otlp)),
        "stdout" => value.bool().map(|stdout| audit.stdout = stdout),
        "syslog" => value.text().and_then(|text| text.parse().ok()).map(|target| audit.syslog = Some(target)),
        name => {
            let number = Audit::number(name).ok_or(KEY)?;
            let value = value.number().filter(|value| (number.min..=number.max).contains(value));
            value.map(|value| audit.set(number.name, value))
        }
    };
    found.ok_or(VALUE)
}

impl<'a> Value<'a> {
    fn bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    fn number(&self) -> Option<u64> {
        if let Self::Number(value) = self { Some(*value) } else { None }
    }

    fn text(&self) -> Option<&str> {
        if let Self::Text(value) = self { Some(value) } else { None }
    }

    /// A list of which each value is one of a kind.
    fn each<T>(&self, read: impl FnMut(&Self) -> Option<T>) -> Option<Vec<T>> {
        if let Self::List(values) = self { values.iter().map(read).collect() } else { None }
    }

    fn texts(&self) -> Option<Vec<String>> {
        self.each(|value| value.text().map(str::to_owned))
    }

    /// The values of a table that has these keys, and no others.
    fn table<const N: usize>(&self, keys: [&str; N]) -> Option<[&Self; N]> {
        let Self::Table(pairs) = self else { return None };
        let same = pairs.len() == N && pairs.iter().zip(keys).all(|((key, _), wanted)| key == wanted);
        let values: Vec<&Self> = pairs.iter().map(|(_, value)| value).collect();
        if same { values.try_into().ok() } else { None }
    }

    /// An item of `hook_bodies`.
    fn hook_body(&self) -> Option<HookBody> {
        let [hook, json, max_bytes] = self.table(["hook", "json", "max_bytes"])?;
        let value = |value: &Self| match value {
            Self::Text(text) => Some(JsonValue::Text(text.clone().into_owned())),
            Self::Bool(value) => Some(JsonValue::Bool(*value)),
            Self::Number(value) => Some(JsonValue::Number(*value)),
            Self::List(_) | Self::Table(_) => None,
        };
        let json = json.each(|item| {
            let [pointer, values] = item.table(["pointer", "values"])?;
            Some((pointer.text().filter(|text| crate::hooks::is_pointer(text))?.to_owned(), values.each(value)?))
        })?;
        let max_bytes = max_bytes.number().filter(|bytes| (1..=HookBody::MOST_BYTES).contains(bytes))?;
        Some(HookBody { hook: hook.text()?.to_owned(), json, max_bytes })
    }

    /// An item of `client_certificates`.
    fn client_certificate(&self) -> Option<ClientCertificate> {
        let [cert_path, host, key_path] = self.table(["cert_path", "host", "key_path"])?;
        let path = |value: &Self| value.text().filter(|path| path.starts_with('/')).map(str::to_owned);
        let host = host.text().filter(|host| Pattern::parse(host).is_ok())?.to_owned();
        Some(ClientCertificate { host, cert_path: path(cert_path)?, key_path: path(key_path)? })
    }

    /// `audit.metadata`.
    fn metadata(&self) -> Option<BTreeMap<String, String>> {
        let Self::Table(pairs) = self else { return None };
        let pair = |(name, value): &(Cow<'_, str>, Self)| {
            let value = value.text().filter(|value| Audit::check_metadata(name, value).is_ok())?;
            Some((name.clone().into_owned(), value.to_owned()))
        };
        if (1..=Audit::MAX_METADATA).contains(&pairs.len()) { pairs.iter().map(pair).collect() } else { None }
    }

    /// `audit.otlp`.
    fn otlp(&self) -> Option<Otlp> {
        let [endpoint, headers_file, protocol] = self.table(["endpoint", "headers_file", "protocol"])?;
        let endpoint = endpoint.text().filter(|url| Otlp::check_endpoint(url).is_ok())?.to_owned();
        let headers_file = match headers_file.text()? {
            "" => None,
            path => Some(path).filter(|path| Audit::is_path(path)).map(|path| Some(path.to_owned()))?,
        };
        Some(Otlp { endpoint, protocol: OtlpProtocol::named(protocol.text()?)?, headers_file })
    }

    /// `constraints`.
    fn constraints(&self) -> Option<Constraints> {
        let Self::Table(pairs) = self else { return None };
        let mut constraints = Constraints::default();
        for (key, layer) in pairs {
            let held = match key.as_ref() {
                "mode_required" => &mut constraints.mode_required,
                "local_binding_required" => &mut constraints.local_binding_required,
                "managed_allows_only" => &mut constraints.managed_allows_only,
                _ => return None,
            };
            *held = Some(Constraints::holder(layer.text()?)?);
        }
        Some(constraints)
    }

    /// An item of `credentials`.
    fn credential(&self) -> Option<Credential> {
        let of_its_own = || {
            let [auth, env, header, id, prefix, urls] = self.table(["auth", "env", "header", "id", "prefix", "url_prefixes"])?;
            let own = CredentialAuth::Header { name: header.text()?.to_owned(), prefix: prefix.text()?.to_owned() };
            (auth.text()? == own.as_str()).then_some((own, env, id, urls))
        };
        let (auth, env, id, urls) = match self.table(["auth", "env", "id", "url_prefixes"]) {
            Some([auth, env, id, urls]) => {
                let known = [CredentialAuth::Bearer, CredentialAuth::Token, CredentialAuth::Basic];
                (known.into_iter().find(|known| Some(known.as_str()) == auth.text())?, env, id, urls)
            }
            None => of_its_own()?,
        };
        let url_prefixes = urls.each(|url| UrlPrefix::parse(url.text()?).ok())?;
        Some(Credential { id: id.text()?.to_owned(), env: env.texts()?, url_prefixes, auth })
    }

    /// A rule of `upstream.rules`: `hosts` and `url`, and nothing else.
    fn rule(&self) -> Option<UpstreamRule> {
        let [hosts, url] = self.table(["hosts", "url"])?;
        let hosts = hosts.each(|host| host.text().filter(|text| is_destination(text)).map(str::to_owned))?;
        let proxy = match url.text()? {
            DIRECT => None,
            url => {
                let (scheme, _) = url.split_once("://")?;
                SCHEMES.contains(&scheme).then_some(())?;
                Some(Upstream { url: url.to_owned(), no_proxy: Vec::new() })
            }
        };
        Some(UpstreamRule { hosts, proxy })
    }
}

/// Whether text is what [`Upstream::no_proxy`] may have.
fn is_destination(text: &str) -> bool {
    Pattern::parse(text.strip_prefix('.').unwrap_or(text)).is_ok()
}

/// Reads postcard from the front. Each value costs a byte at least, and there are no more than [`MAX_VALUES`] of them.
struct Decoder<'a> {
    section: &'a [u8],
    at: usize,
    values: usize,
}

impl<'a> Decoder<'a> {
    fn wrong(&self, what: &'static str) -> FormatError {
        FormatError::Section { section: SectionKind::Settings, offset: self.at as u64, what }
    }

    fn byte(&mut self) -> Result<u8, FormatError> {
        let byte = *self.section.get(self.at).ok_or_else(|| self.wrong("it is cut"))?;
        self.at += 1;
        Ok(byte)
    }

    /// A varint.
    fn number(&mut self) -> Result<u64, FormatError> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(self.wrong("a number of more than 64 bits"))
    }

    fn text(&mut self) -> Result<&'a str, FormatError> {
        let len = usize::try_from(self.number()?).map_err(|_| self.wrong("it is cut"))?;
        let text = crate::reader::bytes(self.section, self.at, len).ok_or_else(|| self.wrong("it is cut"))?;
        let text = std::str::from_utf8(text).map_err(|_| self.wrong("text that is not UTF-8"))?;
        self.at += len;
        Ok(text)
    }

    /// Keys and values, ascending by key. `depth` is that of the values.
    fn pairs(&mut self, depth: usize) -> Result<Pairs<'a>, FormatError> {
        let mut pairs: Pairs<'a> = Vec::new();
        for _ in 0..self.number()? {
            let key = self.text()?;
            if key.len() > MAX_KEY {
                return Err(self.wrong("a key that is longer than keys are"));
            }
            if pairs.last().is_some_and(|(last, _)| **last >= *key) {
                return Err(self.wrong("keys that are out of order"));
            }
            pairs.push((key.into(), self.value(depth)?));
        }
        Ok(pairs)
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, FormatError> {
        self.values += 1;
        if self.values > MAX_VALUES || depth > MAX_DEPTH {
            return Err(self.wrong("too many values, or too many in each other"));
        }
        Ok(match self.number()? {
            0 => Value::Bool(match self.byte()? {
                0 => false,
                1 => true,
                _ => return Err(self.wrong("a bool that is neither 0 nor 1")),
            }),
            1 => Value::Number(self.number()?),
            2 => Value::Text(self.text()?.into()),
            3 => {
                let mut values = Vec::new();
                for _ in 0..self.number()? {
                    values.push(self.value(depth + 1)?);
                }
                Value::List(values)
            }
            4 => Value::Table(self.pairs(depth + 1)?),
            _ => return Err(self.wrong("a value of no known kind")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Layer;
    use std::time::Duration;

    /// A profile that says these bytes: a count, then pairs.
    fn one(pairs: &[u8]) -> Result<Settings, String> {
        read(&[&[1], pairs].concat(), 1).map(|mut all| all.remove(0)).map_err(|error| error.to_string())
    }

    /// A pair, with what stands behind the key.
    fn pair(key: &str, value: &[u8]) -> Vec<u8> {
        [&[1, u8::try_from(key.len()).unwrap()], key.as_bytes(), value].concat()
    }

    #[test]
    fn reads_what_is_said() {
        assert_eq!(one(&[0]), Ok(Settings::default()));
        assert_eq!(one(&pair("via", &[0, 0])), Ok(Settings { via: false, ..Settings::default() }));
        assert_eq!(one(&pair("sni", b"\x02\x03log")), Ok(Settings { sni: Sni::Log, ..Settings::default() }));
        let settings = one(&pair("limits.connect_timeout", &[1, 0x88, 0x27])).unwrap();
        assert_eq!(settings.limits.connect_timeout, Duration::from_secs(5));
        let settings = one(&pair("resolver", b"\x03\x02\x02\x0c10.0.0.53:53\x02\x11https://d.test/dq")).unwrap();
        assert_eq!(settings.resolver.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.53:53", "https://d.test/dq"]);
        let settings = one(&pair("upstream.rules", b"\x03\x01\x04\x02\x05hosts\x03\x01\x02\x07.a.test\x03url\x02\x06direct")).unwrap();
        assert_eq!(settings.upstream_rules, [UpstreamRule { hosts: vec![".a.test".into()], proxy: None }]);
        // That nothing is held is something else than that nobody tells.
        assert_eq!(one(&pair("constraints", &[4, 0])).unwrap().constraints, Some(Constraints::default()));
        let settings = one(&pair("constraints", b"\x04\x02\x13managed_allows_only\x02\x07managed\x0dmode_required\x02\x03mdm")).unwrap();
        let held = Constraints { mode_required: Some(Layer::Mdm), managed_allows_only: Some(Layer::Managed), local_binding_required: None };
        assert_eq!(settings.constraints, Some(held));
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let unknown =
            |key: &str| Err(format!("the setting `{key}` is unknown to this program: the policy needs a newer one; update netproxy-dp"));
        let value = |key: &str| {
            Err(format!(
                "the setting `{key}` has a value that this program does not know: the policy needs a newer one; update netproxy-dp"
            ))
        };
        for key in ["audit", "audit.", "audit.path", "ech", "limits", "limits.", "limits.sni", "Via", "", "sni.mode"] {
            assert_eq!(one(&pair(key, &[0, 1])), unknown(key));
        }
        assert_eq!(one(&pair("a\nb", &[0, 1])), unknown("a\\nb"));
        let rule = |rest: &[u8]| [b"\x03\x01".as_slice(), rest].concat();
        for (key, wrong) in [
            ("sni", b"\x02\x06strict".to_vec()),
            ("sni", vec![0, 1]),
            ("via", b"\x02\x04true".to_vec()),
            ("forwarded", vec![1, 1]),
            ("limits.on_revoke", b"\x02\x05pause".to_vec()),
            // Below its bounds, and above.
            ("limits.connect_timeout", vec![1, 9]),
            ("limits.head_fields", vec![1, 0xff, 0xff, 3]),
            ("limits.head_fields", b"\x02\x0264".to_vec()),
            ("audit.file", b"\x02\x01a".to_vec()),
            ("audit.level", b"\x02\x04some".to_vec()),
            ("audit.queue", vec![1, 15]),
            ("audit.stdout", vec![1, 1]),
            ("audit.syslog", b"\x02\x06udp://".to_vec()),
            ("audit.metadata", vec![4, 0]),
            ("audit.metadata", b"\x04\x01\x0aevent.name\x02\x01x".to_vec()),
            ("audit.otlp", b"\x04\x01\x08endpoint\x02\x0dhttp://a.test".to_vec()),
            ("constraints", vec![0, 1]),
            ("constraints", b"\x04\x01\x0dmode_required\x02\x04user".to_vec()),
            ("constraints", b"\x04\x01\x0dmode_required\x00\x01".to_vec()),
            ("constraints", b"\x04\x01\x0csni_required\x02\x03mdm".to_vec()),
            ("resolver", b"\x02\x0c10.0.0.53:53".to_vec()),
            ("resolver", rule(b"\x02\x09dns.test.")),
            ("resolver", rule(b"\x02\x10http://d.test/dq")),
            ("upstream.rules", rule(b"\x04\x01\x05hosts\x03\x00")),
            ("upstream.rules", rule(b"\x04\x02\x05hosts\x03\x01\x02\x03a/b\x03url\x02\x06direct")),
            ("upstream.rules", rule(b"\x04\x02\x05hosts\x03\x00\x03url\x02\x07ftp://a")),
            ("upstream.rules", rule(b"\x04\x03\x05hosts\x03\x00\x03tls\x00\x01\x03url\x02\x06direct")),
        ] {
            assert_eq!(one(&pair(key, &wrong)), value(key), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let refused = |section: &[u8], profiles: usize| read(section, profiles).unwrap_err().to_string();
        let deep = |levels: usize| [pair("resolver", &[]), [3, 1].repeat(levels), vec![0, 1]].concat();
        for (pairs, what) in [
            (vec![1], "it is cut"),
            (vec![0xff; 12], "a number of more than 64 bits"),
            ([[0xff; 9].as_slice(), &[2]].concat(), "a number of more than 64 bits"),
            (pair("via", &[0, 2]), "a bool that is neither 0 nor 1"),
            (pair("via", &[5]), "a value of no known kind"),
            (pair("via", &[2, 1, 0xff]), "text that is not UTF-8"),
            (pair("via", &[2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), "it is cut"),
            ([pair("via", &[0, 0]), vec![0]].concat(), "more bytes than the settings have"),
            (b"\x02\x03via\x00\x00\x03via\x00\x00".to_vec(), "keys that are out of order"),
            (b"\x02\x03via\x00\x00\x03sni\x02\x03off".to_vec(), "keys that are out of order"),
            ([&[1, 0x81, 1], [b'a'; 129].as_slice(), &[0, 0]].concat(), "a key that is longer than keys are"),
            (deep(100_000), "too many values, or too many in each other"),
            (deep(MAX_DEPTH + 1), "too many values, or too many in each other"),
            (
                pair("resolver", &[[3, 0x81, 0x80, 4].as_slice(), &[0, 1].repeat(65_537)].concat()),
                "too many values, or too many in each other",
            ),
        ] {
            let said = refused(&[&[1], pairs.as_slice()].concat(), 1);
            assert!(said.starts_with("section `settings` is wrong at byte ") && said.contains(what), "{said}: {what}");
        }
        // As deep and as many as there may be: the key is known, the value is not.
        assert!(one(&deep(MAX_DEPTH)).unwrap_err().contains("does not know"));
        for (section, profiles) in [([1, 0].as_slice(), 2), (&[2, 0, 0], 1), (&[0], 1)] {
            assert!(refused(section, profiles).contains("not as many lists as there are profiles"));
        }
        assert!(refused(&[], 1).contains("it is cut"));
        assert!(refused(&vec![0; MAX_RECORDS + 1], 1).contains("more bytes than there may be"));
    }
}
