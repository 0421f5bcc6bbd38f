//! `netpolicy inspect`.

use super::{fail, open_policy, rule_json, stream, stream_text};
use crate::cli::Inspect;
use policy_compiler::Layer;
use policy_compiler::decompile::{decompile, decompile_profile};
use policy_compiler::explain::describe;
use policy_compiler::keys::DIRECT;
use policy_compiler::profiles::{Profile, choose, names};
use policy_format::{
    Audit, Blob, BrokerFallback, ClientCertificate, Constraints, Credential, HEADER_LEN, Hook, JsonValue, Limits, Meta, ProfileId,
    Profiles, Rule, SectionKind, Settings, Upstream, UpstreamRule,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;

pub(crate) fn run(arguments: Inspect) -> ExitCode {
    let policy = match open_policy(&arguments.policy) {
        Ok(policy) => policy,
        Err(code) => return code,
    };
    let chosen = match choose(&policy, arguments.profile.as_deref()) {
        Ok(id) => arguments.profile.is_some().then(|| Profile::new(&policy, id)),
        Err(error) => return fail(format_args!("`{}`: {error}", arguments.policy.display())),
    };
    if arguments.toml {
        return match chosen.map_or_else(|| decompile(&policy), decompile_profile) {
            Ok(text) => stream(ExitCode::SUCCESS, |out| out.write_all(text.as_bytes())),
            Err(error) => fail(format_args!("`{}` cannot be written as TOML: {error}", arguments.policy.display())),
        };
    }
    let shown = Shown { policy: &policy, chosen };
    let write = |out: &mut dyn Write| match (arguments.rules, arguments.json) {
        (true, true) => shown.rules().try_for_each(|rule| writeln!(out, "{}", shown.rule_json(&rule))),
        (true, false) => shown.rules().try_for_each(|rule| {
            let reason = if rule.reason.is_empty() { String::new() } else { format!(" ({})", rule.reason.escape_debug()) };
            writeln!(out, "{}{reason}{}", describe(&rule), shown.suffix(rule.profiles))
        }),
        (false, true) => writeln!(out, "{}", shown.summary_json()),
        (false, false) => shown.write_summary(out),
    };
    if arguments.json { stream(ExitCode::SUCCESS, write) } else { stream_text(ExitCode::SUCCESS, write) }
}

type Policy = Blob<Vec<u8>>;

fn settings(meta: &Meta, settings: &Settings) -> Vec<(&'static str, Value)> {
    let listeners = &meta.listeners;
    let mitm = &meta.mitm;
    vec![
        ("profile", meta.profile.as_str().into()),
        ("network", meta.network.to_string().into()),
        ("mode", meta.mode.as_str().into()),
        ("http_listener", listeners.http.to_string().into()),
        ("socks_listener", listeners.socks.map_or(Value::Null, |socks| socks.to_string().into())),
        ("admin_listener", listeners.admin.to_string().into()),
        ("enable_socks5_udp", meta.enable_socks5_udp.into()),
        ("allow_local_binding", meta.allow_local_binding.into()),
        ("dangerously_allow_non_loopback_proxy", meta.dangerously_allow_non_loopback_proxy.into()),
        ("dangerously_allow_non_loopback_admin", meta.dangerously_allow_non_loopback_admin.into()),
        ("allow_upstream_proxy", meta.allow_upstream_proxy.into()),
        // Without its password: this is what people paste.
        ("upstream", meta.upstream.as_ref().map_or(Value::Null, |upstream| upstream.shown().into())),
        ("no_proxy", meta.upstream.as_ref().map_or_else(Vec::new, |upstream| upstream.no_proxy.clone()).into()),
        ("unix_sockets", meta.unix_sockets.allow.clone().into()),
        ("denied_unix_sockets", meta.unix_sockets.deny.clone().into()),
        ("dangerously_allow_all_unix_sockets", meta.unix_sockets.dangerously_allow_all.into()),
        ("mitm_mode", mitm.mode.as_str().into()),
        ("mitm_bypass", mitm.bypass.clone().into()),
        ("mitm_ca_cert_path", mitm.ca_cert_path.clone().into()),
        ("mitm_ca_key_path", mitm.ca_key_path.clone().into()),
        ("mitm_max_body_bytes", mitm.max_body_bytes.into()),
        ("credential_broker", meta.credential_broker.into()),
        ("dangerously_allow_plaintext_credential_injection", meta.dangerously_allow_plaintext_credential_injection.into()),
        ("sni", settings.sni.as_str().into()),
        ("via", settings.via.into()),
        ("forwarded", settings.forwarded.as_str().into()),
        ("resolver", settings.resolver.iter().map(ToString::to_string).collect::<Vec<_>>().into()),
        ("upstream_rules", settings.upstream_rules.iter().map(rule_of_upstream).collect::<Vec<_>>().into()),
        ("on_revoke", settings.on_revoke.as_str().into()),
        ("mitm_dangerously_bypass_read_only", settings.bypass_read_only.into()),
        ("mitm_client_certificates", settings.client_certificates.iter().map(certificate).collect::<Vec<_>>().into()),
        ("credentials", settings.credentials.iter().map(credential).collect::<Vec<_>>().into()),
        ("dangerously_pass_credentials_without_broker", (settings.broker_fallback == BrokerFallback::Real).into()),
        ("held_by_administrators", settings.constraints.as_ref().map_or(Value::Null, held)),
    ]
}

/// What administrators hold, and the layer that does; of a policy that does not tell, nothing is known.
fn held(constraints: &Constraints) -> Value {
    constraints.demands().map(|(held, layer)| format!("{held} ({layer})")).collect::<Vec<_>>().into()
}

fn fields_json(fields: &[(String, Vec<String>)]) -> Value {
    fields.iter().map(|(name, values)| (name.clone(), values.clone().into())).collect::<serde_json::Map<String, Value>>().into()
}

fn certificate(certificate: &ClientCertificate) -> Value {
    json!({ "host": certificate.host, "cert_path": certificate.cert_path, "key_path": certificate.key_path })
}

fn credential(credential: &Credential) -> Value {
    let prefixes: Vec<String> = credential.url_prefixes.iter().map(ToString::to_string).collect();
    json!({ "name": credential.id, "env": credential.env, "url_prefixes": prefixes, "auth": credential.auth.as_str(), "header": credential.auth.header() })
}

fn rule_of_upstream(rule: &UpstreamRule) -> Value {
    json!({ "hosts": rule.hosts, "url": rule.proxy.as_ref().map_or_else(|| DIRECT.to_owned(), Upstream::shown) })
}

/// A setting of which there are many: its name, what it is, and whether it is that without a word.
type Counted = (String, Value, bool);

/// The limits of a profile, as they may be written.
fn limits(settings: &Settings) -> Vec<Counted> {
    let values = Limits::ALL.iter().filter_map(|limit| Some((limit, settings.limits.get(limit.name)?)));
    values.map(|(limit, value)| (limit.name.to_owned(), limit.shown(value).into(), value == limit.default)).collect()
}

/// The settings of audit.
fn audit(settings: &Settings) -> Vec<Counted> {
    let (audit, default) = (&settings.audit, Audit::default());
    let mut all: Vec<Counted> = audit_fields(audit)
        .into_iter()
        .zip(audit_fields(&default))
        .map(|((key, value), (_, default))| (key.to_owned(), value.clone(), value == default))
        .collect();
    let numbers = Audit::NUMBERS.iter().filter_map(|number| Some((number, audit.get(number.name)?)));
    all.extend(numbers.map(|(number, value)| (number.name.to_owned(), number.shown(value).into(), value == number.default)));
    all
}

fn audit_fields(audit: &Audit) -> Vec<(&'static str, Value)> {
    let otlp = audit
        .otlp
        .as_ref()
        .map(|otlp| json!({ "endpoint": otlp.endpoint, "protocol": otlp.protocol.as_str(), "headers_file": otlp.headers_file }));
    vec![
        ("file", audit.file.clone().into()),
        ("stdout", audit.stdout.into()),
        ("syslog", audit.syslog.as_ref().map(ToString::to_string).into()),
        ("journald", audit.journald.into()),
        ("otlp", otlp.into()),
        ("naming", audit.naming.as_str().into()),
        ("level", audit.level.as_str().into()),
        ("on_full", audit.on_full.as_str().into()),
        ("fsync", audit.fsync.as_str().into()),
        ("chain", audit.chain.into()),
        ("metadata", json!(audit.metadata)),
    ]
}

fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.escape_debug().to_string(),
        Value::Null => "none".to_owned(),
        value => value.to_string(),
    }
}

/// What is shown of a policy: all of it, or one profile.
struct Shown<'a> {
    policy: &'a Policy,
    chosen: Option<Profile<'a, Vec<u8>>>,
}

impl Shown<'_> {
    /// The profiles that are shown, by their numbers.
    fn profiles(&self) -> Vec<ProfileId> {
        let all = || (0..).take(self.policy.profiles().len()).map(ProfileId).collect();
        self.chosen.map_or_else(all, |profile| vec![profile.id()])
    }

    /// Whether it matters which profile has a rule.
    fn several(&self) -> bool {
        self.policy.profiles().len() > 1
    }

    fn shows(&self, profiles: Profiles) -> bool {
        self.chosen.is_none_or(|chosen| profiles.has(chosen.id()))
    }

    fn rules(&self) -> impl Iterator<Item = Rule> {
        self.policy.rules().filter(|rule| self.shows(rule.profiles))
    }

    fn hooks(&self) -> impl Iterator<Item = &Hook> {
        self.policy.hooks().iter().filter(|hook| self.shows(hook.profiles))
    }

    /// What the first profile that has the hook, of those that are shown, asks of bodies.
    fn body_json(&self, hook: &Hook) -> Value {
        let of_it = self.profiles().into_iter().filter(|id| hook.profiles.has(*id)).filter_map(|id| self.policy.settings(id));
        let mut bodies = of_it.flat_map(|settings| &settings.hook_bodies).filter(|body| body.hook == hook.name);
        bodies.next().map_or(Value::Null, |body| {
            let value = |value: &JsonValue| match value {
                JsonValue::Text(text) => text.as_str().into(),
                JsonValue::Bool(value) => (*value).into(),
                JsonValue::Number(value) => (*value).into(),
            };
            let json = body.json.iter().map(|(pointer, values)| (pointer.clone(), values.iter().map(value).collect::<Vec<Value>>().into()));
            json!({ "json": json.collect::<serde_json::Map<String, Value>>(), "max_bytes": body.max_bytes })
        })
    }

    fn rule_count(&self) -> usize {
        self.chosen.map_or(self.policy.rule_count() as usize, |chosen| chosen.rule_count())
    }

    /// Rules for each layer and access.
    fn counts(&self) -> BTreeMap<(Layer, &'static str), u64> {
        let mut counts = BTreeMap::new();
        let unsorted = self.policy.rule_ids().filter_map(|id| self.policy.rule(id));
        for rule in unsorted.filter(|rule| self.shows(rule.profiles)) {
            *counts.entry((rule.layer, rule.access.as_str())).or_insert(0) += 1;
        }
        counts
    }

    /// A rule, with the profiles that have it where there are several.
    fn rule_json(&self, rule: &Rule) -> Value {
        self.with_profiles(rule_json(rule), rule.profiles)
    }

    /// The profiles that have a rule or a hook, behind it, where there are several.
    fn suffix(&self, profiles: Profiles) -> String {
        match self.several() {
            true => format!(" [{}]", names(self.policy, profiles).join(", ").escape_debug()),
            false => String::new(),
        }
    }

    fn with_profiles(&self, mut value: Value, profiles: Profiles) -> Value {
        if let Some(value) = value.as_object_mut().filter(|_| self.several()) {
            value.insert("profiles".into(), names(self.policy, profiles).into());
        }
        value
    }

    /// The settings of a profile, and how many rules it has.
    fn profile_json(&self, id: ProfileId) -> Value {
        let profile = Profile::new(self.policy, id);
        json!({ "settings": settings_json(profile), "rules": profile.rule_count() })
    }

    /// The sections that the policy has.
    fn sections(&self) -> impl Iterator<Item = SectionKind> {
        SectionKind::ALL.into_iter().filter(|kind| !kind.may_be_missing() || !self.policy.section(*kind).is_empty())
    }

    fn summary_json(&self) -> Value {
        let policy = self.policy;
        let (major, minor) = policy.version();
        let sections: Vec<Value> =
            self.sections().map(|kind| json!({ "section": kind.to_string(), "bytes": policy.section(kind).len() })).collect();
        let rules: Vec<Value> = self
            .counts()
            .into_iter()
            .map(|((layer, access), rules)| json!({ "layer": layer.as_str(), "access": access, "rules": rules }))
            .collect();
        let sources = policy.sources().iter().map(|source| json!({ "layer": source.layer.as_str(), "file": source.label }));
        let hooks = self.hooks().map(|hook| {
            let value = json!({
                "name": hook.name,
                "host": hook.host,
                "methods": hook.methods,
                "path_prefixes": hook.path_prefixes,
                "query": fields_json(&hook.query),
                "headers": fields_json(&hook.headers),
                "body": self.body_json(hook),
                "strip_request_headers": hook.strip_request_headers,
                // Where the secrets are, not what they are.
                "inject_request_headers": hook.inject_request_headers.iter().map(|header| header.name.as_str()).collect::<Vec<_>>(),
                "strip_response_headers": hook.strip_response_headers,
                "layer": hook.source.layer.as_str(),
                "file": hook.source.label,
                "line": hook.line,
            });
            self.with_profiles(value, hook.profiles)
        });
        json!({
            "format": format!("{major}.{minor}"),
            "bytes": policy.as_bytes().len(),
            "digest": policy.digest().to_string(),
            "header_bytes": HEADER_LEN,
            "sections": sections,
            "settings": settings_json(self.chosen.unwrap_or(Profile::new(policy, ProfileId::default()))),
            "profiles": self.profiles().into_iter().map(|id| self.profile_json(id)).collect::<Vec<_>>(),
            "rules": self.rule_count(),
            "rules_by_layer": rules,
            "sources": sources.collect::<Vec<_>>(),
            "hooks": hooks.collect::<Vec<_>>(),
        })
    }

    fn write_summary(&self, out: &mut dyn Write) -> io::Result<()> {
        let policy = self.policy;
        let (major, minor) = policy.version();
        let bytes = policy.as_bytes().len();
        writeln!(out, "format   {major}.{minor}\nbytes    {bytes}\ndigest   {}", policy.digest())?;
        writeln!(out, "\nsection          bytes      %")?;
        for kind in self.sections() {
            let len = policy.section(kind).len();
            writeln!(out, "{:<13} {len:>8}  {:>5.1}", kind.to_string(), 100.0 * len as f64 / bytes as f64)?;
        }
        let content: usize = SectionKind::ALL.into_iter().map(|kind| policy.section(kind).len()).sum();
        let rest = bytes - content.min(bytes);
        writeln!(out, "{:<13} {rest:>8}  {:>5.1}", "header, gaps", 100.0 * rest as f64 / bytes as f64)?;
        self.write_settings(out)?;
        writeln!(out, "\nrules    {}", self.rule_count())?;
        for ((layer, access), rules) in self.counts() {
            writeln!(out, "  {:<8} {access:<10} {rules:>8}", layer.as_str())?;
        }
        writeln!(out, "\nsources  {}", policy.sources().len())?;
        for source in policy.sources() {
            writeln!(out, "  {} {}", source.layer, source.label.escape_debug())?;
        }
        writeln!(out, "\nhooks    {}", self.hooks().count())?;
        for hook in self.hooks() {
            let place = format!("{} {}:{}", hook.source.layer, hook.source.label, hook.line);
            let of = self.suffix(hook.profiles);
            writeln!(out, "  {} {}, {}{of}", hook.name.escape_debug(), hook.host.escape_debug(), place.escape_debug())?;
        }
        Ok(())
    }

    /// The settings of the first profile that is shown, and of each other those that differ.
    fn write_settings(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut first: Option<Vec<(&'static str, Value)>> = None;
        let mut first_counted: Option<Vec<Counted>> = None;
        for id in self.profiles() {
            let profile = Profile::new(self.policy, id);
            let beyond = profile.settings();
            let own = settings(profile.meta(), &beyond);
            let named = |table: &str, settings: Vec<Counted>| -> Vec<Counted> {
                settings.into_iter().map(|(key, value, is_default)| (format!("{table}.{key}"), value, is_default)).collect()
            };
            let counted = [named("audit", audit(&beyond)), named("limits", limits(&beyond))].concat();
            match &first {
                None if self.several() => writeln!(out, "\nsettings of profile {}, {}", shown_name(profile.meta()), rules_of(profile))?,
                None => writeln!(out, "\nsettings")?,
                Some(_) => writeln!(out, "\nprofile {}, {}; where it differs:", shown_name(profile.meta()), rules_of(profile))?,
            }
            for (key, value) in own.iter().filter(|setting| first.as_ref().is_none_or(|first| !first.contains(setting))) {
                writeln!(out, "  {key} = {}", as_text(value))?;
            }
            // They are many: of the first profile those that are not what they are without a word.
            for (at, (key, value, is_default)) in counted.iter().enumerate() {
                if first_counted.as_ref().map_or(!is_default, |first| first.get(at).is_none_or(|(_, first, _)| first != value)) {
                    writeln!(out, "  {key} = {}", as_text(value))?;
                }
            }
            first.get_or_insert(own);
            first_counted.get_or_insert(counted);
        }
        Ok(())
    }
}

fn shown_name(meta: &Meta) -> String {
    meta.profile.escape_debug().to_string()
}

fn rules_of(profile: Profile<'_, Vec<u8>>) -> String {
    match profile.rules().count() {
        1 => "1 rule".to_owned(),
        rules => format!("{rules} rules"),
    }
}

fn settings_json(profile: Profile<'_, Vec<u8>>) -> serde_json::Map<String, Value> {
    let own = profile.settings();
    let object = |settings: Vec<Counted>| -> Value {
        settings.into_iter().map(|(key, value, _)| (key, value)).collect::<serde_json::Map<_, _>>().into()
    };
    let settings = settings(profile.meta(), &own).into_iter().map(|(key, value)| (key.to_owned(), value));
    settings.chain([("limits".to_owned(), object(limits(&own))), ("audit".to_owned(), object(audit(&own)))]).collect()
}
