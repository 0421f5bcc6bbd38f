//! What a stronger layer demands of weaker ones: `[experimental_network]` in requirements files.
//!
//! Requirements are constraints, not defaults: a weaker layer that conflicts is rejected, with both places. Where no layer says anything, the demanded
//! value holds. Managed denies are always in force; managed allows extend what weaker layers allow, or, with `managed_allowed_domains_only`, are all
//! that is allowed. Hooks that are required, and the hosts that they speak of, are closed to weaker layers.

use crate::diagnostic::{Code, Diagnostic, Place};
use crate::keys;
use crate::merge::{Merged, merge_named};
use crate::schema::{At, AuditDoc, DomainEntry, HookDoc, MitmDoc, NetworkDoc, Reader, SocketEntry, add_listed};
use crate::source::{SourceFile, SourceId, layer_of};
use policy_format::{Access, Audit, AuditLevel, Constraints, Layer, MitmMode, Mode, OnFull, OtlpProtocol};
use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// What one requirements file demands.
#[derive(Debug, Clone, Default)]
pub struct Requirements {
    enabled: Option<At<bool>>,
    http_port: Option<At<u16>>,
    socks_port: Option<At<u16>>,
    allow_upstream_proxy: Option<At<bool>>,
    allow_local_binding: Option<At<bool>>,
    dangerously_allow_non_loopback_proxy: Option<At<bool>>,
    dangerously_allow_non_loopback_admin: Option<At<bool>>,
    dangerously_allow_all_unix_sockets: Option<At<bool>>,
    enable_socks5: Option<At<bool>>,
    enable_socks5_udp: Option<At<bool>>,
    credential_broker: Option<At<bool>>,
    dangerously_allow_plaintext_credential_injection: Option<At<bool>>,
    dangerously_pass_credentials_without_broker: Option<At<bool>>,
    mode: Option<At<Mode>>,
    managed_allowed_domains_only: Option<At<bool>>,
    domains: Vec<DomainEntry>,
    /// The sockets that may be allowed, if the file speaks of sockets.
    unix_sockets: Option<At<Vec<SocketEntry>>>,
    mitm: MitmDoc,
    audit: Option<AuditDoc>,
}

/// Reads a requirements file; `None` when it is not TOML. Keys outside `[experimental_network]` belong to other programs.
pub fn read(id: SourceId, source: &SourceFile, diagnostics: &mut Vec<Diagnostic>) -> Option<Requirements> {
    let mut reader = Reader { id, text: source.text(), diagnostics };
    let mut found = Requirements::default();
    let root = reader.parse()?;
    for (key, value) in root.get_ref() {
        match key.get_ref().as_ref() {
            "experimental_network" => {
                if let Some(table) = reader.table(key, value) {
                    found.read(&mut reader, table);
                }
            }
            // A demand that is silently not read would be no demand.
            other if strsim::damerau_levenshtein(other, "experimental_network") <= 3 => {
                reader
                    .warning(Code::UnknownKey, key.span(), format!("`{other}` is not read by this program"))
                    .did_you_mean("experimental_network");
            }
            _ => {}
        }
    }
    Some(found)
}

impl Requirements {
    fn read(&mut self, reader: &mut Reader<'_>, table: &DeTable<'_>) {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "enabled" => self.enabled = reader.bool(key, value),
                "http_port" => self.http_port = port(reader, key, value),
                "socks_port" => self.socks_port = port(reader, key, value),
                "allow_upstream_proxy" => self.allow_upstream_proxy = reader.bool(key, value),
                "allow_local_binding" => self.allow_local_binding = reader.bool(key, value),
                "dangerously_allow_non_loopback_proxy" => self.dangerously_allow_non_loopback_proxy = reader.bool(key, value),
                "dangerously_allow_non_loopback_admin" => self.dangerously_allow_non_loopback_admin = reader.bool(key, value),
                "dangerously_allow_all_unix_sockets" => self.dangerously_allow_all_unix_sockets = reader.bool(key, value),
                "enable_socks5" => self.enable_socks5 = reader.bool(key, value),
                "enable_socks5_udp" => self.enable_socks5_udp = reader.bool(key, value),
                "credential_broker" => self.credential_broker = reader.bool(key, value),
                "dangerously_allow_plaintext_credential_injection" => {
                    self.dangerously_allow_plaintext_credential_injection = reader.bool(key, value);
                }
                "dangerously_pass_credentials_without_broker" => {
                    self.dangerously_pass_credentials_without_broker = reader.bool(key, value);
                }
                "managed_allowed_domains_only" => self.managed_allowed_domains_only = reader.bool(key, value),
                "mode" => self.mode = reader.mode(key, value),
                "mitm" => {
                    self.mitm = reader.mitm(key, value);
                    let bypass = self.mitm.bypass.take().map(|at| ("bypass", at.place));
                    let certificates = self.mitm.client_certificates.take().map(|at| ("client_certificates", at.place));
                    for (key, place) in bypass.into_iter().chain(certificates) {
                        reader
                            .error(Code::InvalidValue, place.span, format!("`{key}` is a setting, and nothing that can be required"))
                            .help = Some("move it to the settings of this layer, or remove it".into());
                    }
                }
                "audit" => self.audit = reader.audit(key, value).map(demanded_audit),
                "domains" => self.domains.extend(reader.domains(key, value)),
                "allowed_domains" => add_listed(&mut self.domains, reader.pattern_list(key, value, Access::Allow)),
                "denied_domains" => add_listed(&mut self.domains, reader.pattern_list(key, value, Access::Deny)),
                "unix_sockets" => self.unix_sockets = Some(At { value: reader.unix_sockets(key, value), place: reader.place(key.span()) }),
                "allow_unix_sockets" => self.unix_sockets = socket_list(reader, key, value),
                _ => reader.unknown_key(key, table, "`[experimental_network]`", &keys::EXPERIMENTAL_NETWORK),
            }
        }
        for (canonical, older) in [("domains", "allowed_domains"), ("domains", "denied_domains"), ("unix_sockets", "allow_unix_sockets")] {
            if let (Some((new, _)), Some((old, _))) = (table.get_key_value(canonical), table.get_key_value(older)) {
                let message = format!("`{canonical}` and the older `{older}` cannot be combined");
                let (new, old) = (reader.place(new.span()), reader.place(old.span()));
                let help = format!("move the entries of `{older}` to `{canonical}`; `netpolicy migrate` does it");
                reader.push(Diagnostic::error(Code::InvalidValue, message, old).and(new, "the canonical one").with_help(help));
            }
        }
    }
}

/// A place where events have to go, without a word on which, gets all of them.
fn demanded_audit(mut doc: AuditDoc) -> AuditDoc {
    if names_sink(&doc) {
        doc.level.get_or_insert(At { value: AuditLevel::All, place: doc.place.clone() });
    }
    doc
}

fn names_sink(doc: &AuditDoc) -> bool {
    let on = |at: &Option<At<bool>>| at.as_ref().is_some_and(|at| at.value);
    doc.file.is_some() || doc.syslog.is_some() || doc.otlp.endpoint.is_some() || on(&doc.stdout) || on(&doc.journald)
}

fn port(reader: &mut Reader<'_>, key: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>) -> Option<At<u16>> {
    let number = value.get_ref().as_integer().filter(|number| number.radix() == 10);
    let port = number.and_then(|number| policy_format::pattern::parse_port(number.as_str()));
    if port.is_none() {
        reader.error(Code::InvalidPort, value.span(), format!("`{}` is a port from 1 to 65535", key.get_ref())).help =
            Some(format!("write a number, such as `{} = 3128`", key.get_ref()));
    }
    port.map(|value_| At { value: value_, place: reader.place(value.span()) })
}

fn socket_list(reader: &mut Reader<'_>, key: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>) -> Option<At<Vec<SocketEntry>>> {
    let paths = reader.strings(key, value)?;
    let entries = paths.value.into_iter().filter_map(|path| reader.socket(&path.value, path.place.span, Some(true))).collect();
    Some(At { value: entries, place: reader.place(key.span()) })
}

/// Whether the strongest file that speaks of it starts the proxy by itself.
pub fn starts(all: &[Requirements]) -> bool {
    all.iter().find_map(|requirements| requirements.enabled.as_ref()).is_some_and(|on| on.value)
}

/// Constrains what the layers merged to. `all` is strongest first. Gives back the rules that are demanded.
pub fn apply(all: Vec<Requirements>, merged: &mut Merged, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) -> Vec<DomainEntry> {
    let mut demanded: Vec<DomainEntry> = Vec::new();
    let mut seen: HashMap<(String, bool), usize> = HashMap::new();
    let mut only: Option<At<bool>> = None;
    let mut sockets_are_listed = false;
    let mut audits: Vec<AuditDoc> = Vec::new();
    if starts(&all) {
        merged.network.get_or_insert_default();
    }
    if let Some(network) = &mut merged.network {
        own_hosts(&network.mitm.hooks, network, sources, diagnostics);
    }
    let is_required = !all.is_empty();
    let limited =
        all.iter().find_map(|demands| demands.mode.as_ref().filter(|mode| mode.value == Mode::Limited).map(|at| at.place.clone()));
    let closed =
        all.iter().find_map(|demands| demands.allow_local_binding.as_ref().filter(|local| !local.value).map(|at| at.place.clone()));
    // The strongest first: what it demands is there when a weaker one looks, and a weaker one does not bind a stronger layer.
    for requirements in all {
        let mut constrain = Constrain { sources, diagnostics };
        // The requirement starts the proxy by itself, whatever the feature's own switch says.
        if let Some(on) = requirements.enabled.as_ref().filter(|on| on.value) {
            match &merged.feature {
                Some(feature) if !feature.value && !constrain.is_stronger(&feature.place, &on.place) => merged.feature = Some(on.clone()),
                _ => {}
            }
            if let Some(place) = merged.unconfined.take_if(|place| !constrain.is_stronger(place, &on.place)) {
                let message =
                    format!("the {} layer requires the network proxy, and full access goes around it", constrain.layer(&on.place));
                let error = Diagnostic::error(Code::RequirementViolated, message, place);
                let help = "choose a profile with a network table, or `sandbox_mode = \"workspace-write\"`";
                constrain.diagnostics.push(error.and(on.place.clone(), "required here").with_help(help));
            }
        }
        // Every conflict of every table is said; what won then takes what is demanded, without saying it again.
        for said in &merged.said {
            let mut said = said.clone();
            constrain.network(&requirements, &mut said);
            constrain.sockets(&requirements, &mut said, false);
            constrain.mitm(&requirements.mitm, &mut said);
        }
        if let Some(network) = &mut merged.network {
            let mut said_already = Vec::new();
            let mut constrain = Constrain { sources, diagnostics: &mut said_already };
            constrain.network(&requirements, network);
            constrain.sockets(&requirements, network, sockets_are_listed);
            constrain.mitm(&requirements.mitm, network);
        }
        if let Some(audit) = &requirements.audit {
            // What a weaker requirement demands is no less than what a stronger one needs.
            for stronger in &audits {
                if constrain.is_stronger(&stronger.place, &audit.place) {
                    constrain.audit_least(stronger, audit);
                }
            }
            audits.push(audit.clone());
        }
        sockets_are_listed |= requirements.unix_sockets.is_some();
        let needs = needs_proxy(&requirements);
        merged.needs_proxy = merged.needs_proxy.take().or(needs);
        if let Some(own) = requirements.managed_allowed_domains_only.filter(|only| only.value) {
            if let Some(network) = &mut merged.network {
                constrain.drop_weaker_allows(constrain.layer(&own.place), &own, network);
            }
            only.get_or_insert(own);
        }
        for entry in requirements.domains {
            let denies = entry.access == Some(Access::Deny);
            if let Some(only) = only.as_ref().filter(|only| !denies && constrain.is_stronger(&only.place, &entry.place)) {
                let layer = constrain.layer(&only.place);
                let message = format!("`{}` is ignored: only the {layer} layer may allow domains", entry.pattern);
                let warning = Diagnostic::warning(Code::IgnoredEntry, message, entry.place.clone());
                constrain.diagnostics.push(warning.and(only.place.clone(), "required here").with_help(IGNORED_HELP));
                continue;
            }
            // A deny is always in force; of two allows the stronger layer's is the one.
            let key = (entry.pattern.to_string(), denies);
            match seen.get(&key).and_then(|at: &usize| demanded.get(*at)) {
                Some(old) if !denies && constrain.is_stronger(&old.place, &entry.place) => {}
                Some(old) if same_terms(old, &entry) => {}
                _ => {
                    seen.entry(key).or_insert(demanded.len());
                    demanded.push(entry);
                }
            }
        }
    }
    if let Some(network) = &mut merged.network {
        network.mitm.hooks.sort_by_key(|hook| (layer_of(sources, &hook.name.place), hook.name.place.source));
        // What an administrator's settings say, weaker layers change as little as what is required.
        let held = |said: Option<&Place>, demand: Option<&Place>| {
            let layers = said.into_iter().chain(demand.filter(|_| said.is_some())).map(|place| layer_of(sources, place));
            layers.filter(|layer| layer.is_managed()).min()
        };
        let mode = network.mode.as_ref().filter(|mode| mode.value == Mode::Limited).map(|mode| &mode.place);
        let local = network.allow_local_binding.as_ref().filter(|local| !local.value).map(|local| &local.place);
        let constraints = Constraints {
            mode_required: held(mode, limited.as_ref()),
            local_binding_required: held(local, closed.as_ref()),
            managed_allows_only: only.as_ref().map(|only| layer_of(sources, &only.place)),
        };
        // That nobody holds limited mode is told as well: a proxy that is not told lets nobody set the other.
        let is_told = is_required || mode.is_some() || constraints != Constraints::default();
        merged.constraints = is_told.then_some(constraints);
    }
    demanded
}

const IGNORED_HELP: &str = "remove it: it has no effect here";

/// What holds only where the proxy is: without it, nothing keeps clients from what is denied.
fn needs_proxy(requirements: &Requirements) -> Option<(Place, &'static str)> {
    let deny = requirements.domains.iter().find(|entry| entry.access == Some(Access::Deny)).map(|deny| (deny.place.clone(), "a deny"));
    let only = requirements.managed_allowed_domains_only.as_ref().filter(|only| only.value);
    let mode = requirements.mode.as_ref().filter(|mode| mode.value == Mode::Limited);
    deny.or(only.map(|only| (only.place.clone(), "`managed_allowed_domains_only`")))
        .or(mode.map(|mode| (mode.place.clone(), "`mode = \"limited\"`")))
        .or(requirements.mitm.hooks.first().map(|hook| (hook.name.place.clone(), "a hook")))
        .or(requirements
            .mitm
            .mode
            .as_ref()
            .filter(|mode| mode.value == MitmMode::Always)
            .map(|mode| (mode.place.clone(), "`mitm.mode = \"always\"`")))
        .or(requirements
            .allow_local_binding
            .as_ref()
            .filter(|local| !local.value)
            .map(|local| (local.place.clone(), "`allow_local_binding = false`")))
}

fn same_terms(a: &DomainEntry, b: &DomainEntry) -> bool {
    (a.access, &a.ports, &a.methods, &a.paths) == (b.access, &b.ports, &b.methods, &b.paths)
}

/// A host whose hooks a mdm or managed layer of settings owns takes none from weaker layers: a hook more is a request more that passes.
fn own_hosts(hooks: &[HookDoc], network: &NetworkDoc, sources: &[SourceFile], diagnostics: &mut Vec<Diagnostic>) {
    let constrain = Constrain { sources, diagnostics };
    let is_owner = |hook: &&HookDoc| constrain.layer(&hook.name.place).is_managed();
    let owned: Vec<&HookDoc> = hooks.iter().filter(is_owner).collect();
    let mut found = Vec::new();
    for hook in hooks {
        let owner = owned.iter().find(|owner| {
            constrain.layer(&owner.name.place) < constrain.layer(&hook.name.place) && owner.host.value.hosts.meets(&hook.host.value.hosts)
        });
        found.extend(owner.map(|owner| hook_conflict(&constrain, hook, &owner.name.place, &owner.host)));
    }
    found.extend(bypass_conflicts(&constrain, network, &owned.iter().map(|owner| (*owner).clone()).collect::<Vec<_>>()));
    diagnostics.extend(found);
}

fn hook_conflict(constrain: &Constrain<'_>, hook: &HookDoc, owner: &Place, host: &At<policy_format::Pattern>) -> Diagnostic {
    let layer = constrain.layer(owner);
    let message = format!("the hook `{}` is for `{}`, whose hooks belong to the {layer} layer", hook.name.value, host.value);
    let error = Diagnostic::error(Code::ManagedHook, message, hook.host.place.clone());
    error.and(host.place.clone(), "owned here").with_help(format!("remove it: only the {layer} layer says what may reach this host"))
}

fn bypass_conflicts(constrain: &Constrain<'_>, network: &NetworkDoc, owned: &[HookDoc]) -> Vec<Diagnostic> {
    let Some(bypass) = &network.mitm.bypass else { return Vec::new() };
    let mut found = Vec::new();
    for pattern in &bypass.value {
        let owner = owned.iter().find(|owner| {
            constrain.layer(&owner.name.place) < constrain.layer(&pattern.place) && owner.host.value.hosts.meets(&pattern.value.hosts)
        });
        if let Some(owner) = owner {
            let layer = constrain.layer(&owner.name.place);
            let message = format!("`{}` would bypass the hook `{}` of the {layer} layer", pattern.value, owner.name.value);
            let error = Diagnostic::error(Code::ManagedHook, message, pattern.place.clone()).and(owner.host.place.clone(), "owned here");
            found.push(error.with_help("remove it from `bypass`"));
        }
    }
    found
}

struct Constrain<'a> {
    sources: &'a [SourceFile],
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Constrain<'_> {
    fn layer(&self, place: &Place) -> Layer {
        layer_of(self.sources, place)
    }

    /// A requirement binds its own layer and weaker ones.
    fn is_stronger(&self, value: &Place, demand: &Place) -> bool {
        self.layer(value) < self.layer(demand)
    }

    fn network(&mut self, demanded: &Requirements, network: &mut NetworkDoc) {
        let equal = |demand: bool, value: bool| demand == value;
        // What only tightens does not conflict.
        let no_looser = |demand: bool, value: bool| demand || !value;
        self.value("enabled", &demanded.enabled, &mut network.enabled, equal);
        self.value("allow_local_binding", &demanded.allow_local_binding, &mut network.allow_local_binding, no_looser);
        self.value("allow_upstream_proxy", &demanded.allow_upstream_proxy, &mut network.allow_upstream_proxy, no_looser);
        self.value("enable_socks5", &demanded.enable_socks5, &mut network.enable_socks5, no_looser);
        self.value("enable_socks5_udp", &demanded.enable_socks5_udp, &mut network.enable_socks5_udp, no_looser);
        self.value("credential_broker", &demanded.credential_broker, &mut network.credential_broker, equal);
        let (demand, value) = (&demanded.dangerously_allow_non_loopback_proxy, &mut network.dangerously_allow_non_loopback_proxy);
        self.value("dangerously_allow_non_loopback_proxy", demand, value, no_looser);
        let (demand, value) = (&demanded.dangerously_allow_non_loopback_admin, &mut network.dangerously_allow_non_loopback_admin);
        self.value("dangerously_allow_non_loopback_admin", demand, value, no_looser);
        let (demand, value) = (&demanded.dangerously_allow_all_unix_sockets, &mut network.dangerously_allow_all_unix_sockets);
        self.value("dangerously_allow_all_unix_sockets", demand, value, no_looser);
        let key = "dangerously_allow_plaintext_credential_injection";
        let demand = &demanded.dangerously_allow_plaintext_credential_injection;
        self.value(key, demand, &mut network.dangerously_allow_plaintext_credential_injection, no_looser);
        let key = "dangerously_pass_credentials_without_broker";
        let demand = &demanded.dangerously_pass_credentials_without_broker;
        self.value(key, demand, &mut network.dangerously_pass_credentials_without_broker, no_looser);
        self.value("mode", &demanded.mode, &mut network.mode, |demand, value| demand == Mode::Full || value == Mode::Limited);
        self.port("proxy_url", &demanded.http_port, &network.proxy_url, &mut network.http_port);
        self.port("socks_url", &demanded.socks_port, &network.socks_url, &mut network.socks_port);
        self.no_upstream(demanded, network);
        self.seen(demanded, network);
        if let Some(demand) = &demanded.audit {
            self.audit(demand, network.audit.get_or_insert_with(|| AuditDoc { place: demand.place.clone(), ..AuditDoc::default() }));
        }
    }

    /// What has to be written down, and where: what does more holds as well.
    fn audit(&mut self, demand: &AuditDoc, audit: &mut AuditDoc) {
        let same = |demand: &str, value: &str| demand == value;
        self.text("audit.file", &demand.file, &mut audit.file, same);
        self.word("audit.syslog", &demand.syslog, &mut audit.syslog, |target| target.to_string(), |demand, value| demand == value);
        self.value("audit.stdout", &demand.stdout, &mut audit.stdout, |demand, value| demand == value);
        self.value("audit.journald", &demand.journald, &mut audit.journald, |demand, value| demand == value);
        let (otlp, own) = (&demand.otlp, &mut audit.otlp);
        self.text("audit.otlp.endpoint", &otlp.endpoint, &mut own.endpoint, same);
        self.word("audit.otlp.protocol", &otlp.protocol, &mut own.protocol, |it| it.as_str().into(), |demand, value| demand == value);
        self.text("audit.otlp.headers_file", &otlp.headers_file, &mut own.headers_file, same);
        self.word("audit.naming", &demand.naming, &mut audit.naming, |it| it.as_str().into(), |demand, value| demand == value);
        self.word("audit.level", &demand.level, &mut audit.level, |it| it.as_str().into(), |demand, value| value >= demand);
        // Where requests wait nothing is lost, and where they are denied neither.
        let loses_no_more = |demand: &OnFull, value: &OnFull| *demand == OnFull::Drop || value == demand || *value == OnFull::Deny;
        self.word("audit.on_full", &demand.on_full, &mut audit.on_full, |it| it.as_str().into(), loses_no_more);
        self.word("audit.fsync", &demand.fsync, &mut audit.fsync, |it| it.as_str().into(), |demand, value| value >= demand);
        self.value("audit.chain", &demand.chain, &mut audit.chain, |demand: bool, value: bool| value || !demand);
        for (name, at) in &demand.numbers {
            let mut value = audit.numbers.remove(name);
            let all_are_kept = |files: u64| if files == 0 { u64::MAX } else { files };
            self.value(&format!("audit.{name}"), &Some(at.clone()), &mut value, |demand, value| {
                if *name == "keep" { all_are_kept(value) >= all_are_kept(demand) } else { value == demand }
            });
            audit.numbers.extend(value.map(|at| (*name, at)));
        }
        for (name, at) in &demand.metadata {
            let mut value = audit.metadata.remove(name);
            self.text(&format!("audit.metadata.{name}"), &Some(at.clone()), &mut value, same);
            audit.metadata.extend(value.map(|at| (name.clone(), at)));
        }
        self.audit_least(demand, audit);
    }

    /// A sink that is demanded is not hollowed out by settings that the demand does not speak of: these have their defaults, or write more. What is of the file alone is
    /// bound where the file is demanded. Nothing is set here, so that another requirement may still ask for more.
    fn audit_least(&mut self, demand: &AuditDoc, audit: &AuditDoc) {
        if !names_sink(demand) {
            return;
        }
        let least = Audit::default();
        if demand.otlp.endpoint.is_some() && demand.otlp.protocol.is_none() {
            let wanted = Some(At { value: OtlpProtocol::default(), place: demand.place.clone() });
            let mut said = audit.otlp.protocol.clone();
            self.word("audit.otlp.protocol", &wanted, &mut said, |it| it.as_str().into(), |demand, value| demand == value);
        }
        if demand.file.is_some() && demand.fsync.is_none() {
            let wanted = Some(At { value: least.fsync, place: demand.place.clone() });
            self.word("audit.fsync", &wanted, &mut audit.fsync.clone(), |it| it.as_str().into(), |demand, value| value >= demand);
        }
        if demand.file.is_some() && demand.chain.is_none() {
            let wanted = Some(At { value: least.chain, place: demand.place.clone() });
            self.value("audit.chain", &wanted, &mut audit.chain.clone(), |demand: bool, value: bool| value || !demand);
        }
        for number in Audit::NUMBERS.iter().filter(|number| number.name == "queue" || demand.file.is_some()) {
            if demand.numbers.contains_key(number.name) {
                continue;
            }
            // For all of these but `queue`, which is never 0, 0 is without an end.
            let end = |value: u64| if value == 0 { u64::MAX } else { value };
            let wanted = Some(At { value: number.default, place: demand.place.clone() });
            let mut said = audit.numbers.get(number.name).cloned();
            self.value(&format!("audit.{}", number.name), &wanted, &mut said, |demand, value| end(value) >= end(demand));
        }
    }

    /// Like [`Self::value()`], of what `shown` makes text of.
    fn word<T: Clone>(
        &mut self,
        key: &str,
        demand: &Option<At<T>>,
        value: &mut Option<At<T>>,
        shown: impl Fn(&T) -> String,
        holds: impl Fn(&T, &T) -> bool,
    ) {
        let (Some(wanted), Some(found)) = (demand, value.as_ref()) else {
            *value = value.take().or_else(|| demand.clone());
            return;
        };
        let text = |at: &At<T>| Some(At { value: shown(&at.value), place: at.place.clone() });
        let fits = holds(&wanted.value, &found.value);
        self.text(key, &text(wanted), &mut text(found), |_, _| fits);
    }

    /// Without an upstream proxy, the policy's own is one too many, in whichever key it is.
    fn no_upstream(&mut self, demanded: &Requirements, network: &NetworkDoc) {
        let Some(demand) = demanded.allow_upstream_proxy.as_ref().filter(|demand| !demand.value) else { return };
        let named = network.upstream.as_ref().and_then(|upstream| upstream.url.as_ref());
        let remote = [&network.proxy_url, &network.socks_url].into_iter().flatten().filter(|url| crate::check::is_remote(&url.value));
        let rules = network.upstream.iter().flat_map(|upstream| &upstream.rules).flat_map(|rules| &rules.value);
        let ruled = rules.map(|rule| &rule.url).filter(|url| url.value.trim() != keys::DIRECT);
        for url in
            named.into_iter().chain(remote).chain(ruled).filter(|url| !self.is_stronger(&url.place, &demand.place)).collect::<Vec<_>>()
        {
            let message =
                format!("the upstream proxy conflicts with the {} requirement `allow_upstream_proxy = false`", self.layer(&demand.place));
            let error = Diagnostic::error(Code::RequirementViolated, message, url.place.clone());
            self.diagnostics.push(error.and(demand.place.clone(), "required here").with_help("remove it: connections are made directly"));
        }
    }

    fn value<T: Copy + Display>(&mut self, key: &str, demand: &Option<At<T>>, value: &mut Option<At<T>>, holds: impl Fn(T, T) -> bool) {
        let Some(demand) = demand else { return };
        match value {
            None => *value = Some(demand.clone()),
            Some(found) if holds(demand.value, found.value) || self.is_stronger(&found.place, &demand.place) => {}
            Some(found) => {
                let (layer, said, required) = (self.layer(&demand.place), as_toml(&found.value), as_toml(&demand.value));
                let message = format!("`{key} = {said}` conflicts with the {layer} requirement `{key} = {required}`");
                let mut error = Diagnostic::error(Code::RequirementViolated, message, found.place.clone());
                error.help = Some(format!("write what is required, or remove `{key}`: the requirement sets it"));
                // Older spellings say it in other words.
                let written = self.sources.get(found.place.source.0).and_then(|source| source.text().get(found.place.span.clone()));
                if written == Some(said.as_str()) {
                    error.fix(&required);
                }
                self.diagnostics.push(error.and(demand.place.clone(), "required here"));
            }
        }
    }

    /// The port of a listener. A URL that names another machine is no listener, and one that is wrong is reported elsewhere.
    fn port(&mut self, key: &str, demand: &Option<At<u16>>, url: &Option<At<String>>, port: &mut Option<At<u16>>) {
        let Some(demand) = demand else { return };
        port.get_or_insert_with(|| demand.clone());
        let scheme = if key == "socks_url" { "socks5" } else { "http" };
        let wanted = format!("{scheme}://127.0.0.1:{}", demand.value);
        match url.as_ref().map(|found| (found, crate::check::listening_port(&found.value))) {
            Some((found, Some(other))) if other != demand.value && !self.is_stronger(&found.place, &demand.place) => {
                let layer = self.layer(&demand.place);
                let message = format!("`{key}` does not use the port {} that the {layer} layer requires", demand.value);
                let mut error =
                    Diagnostic::error(Code::RequirementViolated, message, found.place.clone()).and(demand.place.clone(), "required here");
                error.fix(&format!("\"{wanted}\""));
                error.help = Some("use that port".into());
                self.diagnostics.push(error);
            }
            _ => {}
        }
    }

    /// Where requirements speak of sockets, theirs are the only ones. `listed` says that a stronger layer's did so already.
    fn sockets(&mut self, demanded: &Requirements, network: &mut NetworkDoc, listed: bool) {
        let Some(allowed) = &demanded.unix_sockets else { return };
        let may: HashSet<&str> = allowed.value.iter().filter(|entry| entry.allow == Some(true)).map(|entry| entry.path.as_str()).collect();
        let too_many = |entry: &&SocketEntry| entry.allow == Some(true) && !may.contains(entry.path.as_str());
        for entry in network.unix_sockets.iter().filter(too_many) {
            if self.is_stronger(&entry.place, &allowed.place) {
                continue;
            }
            let message =
                format!("the unix socket `{}` is not among those that the {} layer allows", entry.path, self.layer(&allowed.place));
            let error = Diagnostic::error(Code::RequirementViolated, message, entry.place.clone());
            self.diagnostics.push(error.and(allowed.place.clone(), "required here").with_help(format!("remove `{}`", entry.path)));
        }
        if demanded.dangerously_allow_all_unix_sockets.is_none()
            && let Some(all) = network.dangerously_allow_all_unix_sockets.as_ref().filter(|all| all.value)
            && !self.is_stronger(&all.place, &allowed.place)
        {
            let message = format!("all unix sockets are more than those that the {} layer allows", self.layer(&allowed.place));
            let error = Diagnostic::error(Code::RequirementViolated, message, all.place.clone());
            self.diagnostics.push(error.and(allowed.place.clone(), "required here").with_help("remove it, and name the sockets"));
        }
        if demanded.dangerously_allow_all_unix_sockets.is_none() {
            // A list that a weaker requirement could open again would be none.
            let none_else = At { value: false, place: allowed.place.clone() };
            network.dangerously_allow_all_unix_sockets.get_or_insert(none_else);
        }
        let mut index: HashMap<String, usize> = network.unix_sockets.iter().enumerate().map(|(at, old)| (old.path.clone(), at)).collect();
        for entry in &allowed.value {
            match index.get(&entry.path).and_then(|at| network.unix_sockets.get_mut(*at)) {
                // A weaker deny of what is merely allowed only tightens.
                Some(old) if entry.allow == Some(false) => *old = entry.clone(),
                Some(_) => {}
                None if listed && entry.allow == Some(true) => {}
                None => {
                    index.insert(entry.path.clone(), network.unix_sockets.len());
                    network.unix_sockets.push(entry.clone());
                }
            }
        }
    }

    /// Required hooks and actions go first; nothing weaker may have their names or speak of their hosts.
    fn mitm(&mut self, demanded: &MitmDoc, network: &mut NetworkDoc) {
        let mut found = Vec::new();
        for hook in network.mitm.hooks.iter().filter(|hook| demanded.hooks.iter().all(|own| own.name.place != hook.name.place)) {
            for own in demanded.hooks.iter().filter(|own| !self.is_stronger(&hook.name.place, &own.name.place)) {
                if own.name.value == hook.name.value {
                    found.push(self.name_conflict("hook", &hook.name, &own.name));
                } else if own.host.value.hosts.meets(&hook.host.value.hosts) {
                    found.push(hook_conflict(self, hook, &own.name.place, &own.host));
                }
            }
        }
        for action in &network.mitm.actions {
            for own in demanded.actions.iter().filter(|own| own.name.value == action.name.value) {
                if !self.is_stronger(&action.name.place, &own.name.place) {
                    found.push(self.name_conflict("action", &action.name, &own.name));
                }
            }
        }
        found.extend(bypass_conflicts(self, network, &demanded.hooks));
        self.diagnostics.extend(found);
        let mitm = &mut network.mitm;
        let (hooks, actions) = (std::mem::take(&mut mitm.hooks), std::mem::take(&mut mitm.actions));
        mitm.hooks = merge_named(hooks, demanded.hooks.clone(), |hook| &hook.name, self.sources);
        mitm.actions = merge_named(actions, demanded.actions.clone(), |action| &action.name, self.sources);
        self.value_of("mitm.mode", &demanded.mode, &mut network.mitm.mode);
        let same = |demand: &str, value: &str| demand == value;
        self.text("mitm.ca_cert_path", &demanded.ca_cert_path, &mut network.mitm.ca_cert_path, same);
        self.text("mitm.ca_key_path", &demanded.ca_key_path, &mut network.mitm.ca_key_path, same);
        let (demand, value) = (&demanded.dangerously_bypass_read_only, &mut network.mitm.dangerously_bypass_read_only);
        self.value("mitm.dangerously_bypass_read_only", demand, value, |demand: bool, value: bool| demand || !value);
        self.value("mitm.max_body_bytes", &demanded.max_body_bytes, &mut network.mitm.max_body_bytes, |demand, value| value <= demand);
        let always = demanded.mode.as_ref().filter(|mode| mode.value == policy_format::MitmMode::Always);
        if let (Some(always), Some(bypass)) = (always, network.mitm.bypass.as_ref().filter(|bypass| !bypass.value.is_empty()))
            && !self.is_stronger(&bypass.place, &always.place)
        {
            let message = format!("`mitm.bypass` conflicts with the {} requirement `mitm.mode = \"always\"`", self.layer(&always.place));
            let error = Diagnostic::error(Code::RequirementViolated, message, bypass.place.clone());
            self.diagnostics
                .push(error.and(always.place.clone(), "required here").with_help("remove `bypass`: every request is to be seen"));
        }
    }

    /// What has to be seen to hold, such as limited mode, is not left unseen by a weaker layer.
    fn seen(&mut self, demanded: &Requirements, network: &NetworkDoc) {
        let limited = demanded.mode.as_ref().filter(|mode| mode.value == Mode::Limited).map(|mode| &mode.place);
        let asks = |entry: &&DomainEntry| {
            entry.access == Some(Access::ReadOnly) || (entry.access.is_some() && !(entry.methods.is_empty() && entry.paths.is_empty()))
        };
        let Some(demand) = limited.or(demanded.domains.iter().find(asks).map(|entry| &entry.place)) else { return };
        let Some(at) = network.mitm.dangerously_bypass_read_only.as_ref().filter(|at| at.value && !self.is_stronger(&at.place, demand))
        else {
            return;
        };
        let layer = self.layer(demand);
        let message = format!("`dangerously_bypass_read_only` would leave unseen what the {layer} layer requires to be seen");
        let error = Diagnostic::error(Code::RequirementViolated, message, at.place.clone()).and(demand.clone(), "required here");
        self.diagnostics.push(error.with_help("remove it, and the hosts of `bypass` that need it"));
    }

    fn text(&mut self, key: &str, demand: &Option<At<String>>, value: &mut Option<At<String>>, holds: impl Fn(&str, &str) -> bool) {
        let Some(demand) = demand else { return };
        match value {
            None => *value = Some(demand.clone()),
            Some(found) if holds(&demand.value, &found.value) || self.is_stronger(&found.place, &demand.place) => {}
            Some(found) => {
                let layer = self.layer(&demand.place);
                let message = format!("`{key} = {:?}` conflicts with the {layer} requirement `{key} = {:?}`", found.value, demand.value);
                let error = Diagnostic::error(Code::RequirementViolated, message, found.place.clone());
                self.diagnostics
                    .push(error.and(demand.place.clone(), "required here").with_help(format!("remove `{key}`: the requirement sets it")));
            }
        }
    }

    fn value_of(&mut self, key: &str, demand: &Option<At<policy_format::MitmMode>>, value: &mut Option<At<policy_format::MitmMode>>) {
        let shown = |mode: &Option<At<policy_format::MitmMode>>| {
            mode.as_ref().map(|at| At { value: Shown(at.value.as_str()), place: at.place.clone() })
        };
        let mut mapped = shown(value);
        // `always` may be demanded and then holds; `auto` leaves `always` to the others, which see more.
        self.value(key, &shown(demand), &mut mapped, |demand, value| demand.0 == "auto" || value.0 == "always");
        if value.is_none() {
            value.clone_from(demand);
        }
    }

    fn name_conflict(&self, what: &str, name: &At<String>, own: &At<String>) -> Diagnostic {
        let layer = self.layer(&own.place);
        let message = format!("the {what} `{}` belongs to the {layer} layer and cannot be changed here", name.value);
        let error = Diagnostic::error(Code::ManagedHook, message, name.place.clone());
        error.and(own.place.clone(), "owned here").with_help("remove it, or give it another name")
    }

    fn drop_weaker_allows(&mut self, layer: Layer, only: &At<bool>, network: &mut NetworkDoc) {
        let weaker = |place: &Place| self.layer(place) > layer;
        let stays = |access: Option<Access>, place: &Place| access.is_none_or(|access| access == Access::Deny) || !weaker(place);
        let (kept, dropped): (Vec<_>, Vec<_>) =
            std::mem::take(&mut network.domains).into_iter().partition(|entry| stays(entry.access, &entry.place));
        network.domains = kept;
        let mut ignored: Vec<(String, Place)> =
            dropped.into_iter().map(|entry| (format!("`{}` is ignored", entry.pattern), entry.place)).collect();
        if let Some(lists) = &mut network.domain_lists {
            let (kept, dropped): (Vec<_>, Vec<_>) =
                std::mem::take(&mut lists.value).into_iter().partition(|list| stays(Some(list.access), &list.path.place));
            lists.value = kept;
            ignored.extend(dropped.into_iter().map(|list| (format!("the list `{}` is ignored", list.path.value), list.path.place)));
        }
        if let Some(presets) = &mut network.presets {
            let stays = |name: &At<String>| stays(crate::presets::find(&name.value).map(|preset| preset.access()), &name.place);
            let (kept, dropped): (Vec<_>, Vec<_>) = std::mem::take(&mut presets.value).into_iter().partition(stays);
            presets.value = kept;
            ignored.extend(dropped.into_iter().map(|name| (format!("the preset `{}` is ignored", name.value), name.place)));
        }
        for (message, place) in ignored {
            let message = format!("{message}: only the {layer} layer may allow domains");
            let warning = Diagnostic::warning(Code::IgnoredEntry, message, place).and(only.place.clone(), "required here");
            self.diagnostics.push(warning.with_help(IGNORED_HELP));
        }
    }
}

/// A value as TOML has it.
fn as_toml(value: &impl Display) -> String {
    let text = value.to_string();
    let bare = matches!(text.as_str(), "true" | "false") || text.bytes().all(|byte| byte.is_ascii_digit());
    if bare { text } else { format!("\"{text}\"") }
}

#[derive(Clone, Copy)]
struct Shown(&'static str);

impl Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}
