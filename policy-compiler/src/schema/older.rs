//! Older spellings, read into the documents of the canonical ones. Each is a warning that says what to write today.

use super::{At, DomainEntry, Key, LayerDoc, NetworkDoc, Reader, UpstreamDoc, Value};
use crate::diagnostic::Code;
use crate::keys;
use crate::merge;
use policy_format::{Access, PortRange};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

impl Reader<'_> {
    fn older(&mut self, key: &Key<'_>, spelling: &str, canonical: &str) {
        let warning = self.warning(Code::OlderSpelling, key.span(), format!("{spelling} is an older spelling"));
        warning.help = Some(format!("write {canonical}; `netpolicy migrate` rewrites the file"));
    }

    /// `[network_proxy]`, with `policy` and `mitm` in it.
    pub(super) fn network_proxy(&mut self, key: &Key<'_>, value: &Value<'_>, doc: &mut LayerDoc) {
        let Some(table) = self.table(key, value) else { return };
        self.older(key, "`[network_proxy]`", "`[permissions.NAME.network]`, and `default_permissions = \"NAME\"`");
        let mut network = NetworkDoc::default();
        for (key, value) in table {
            if key.get_ref() == "policy" {
                let Some(policy) = self.table(key, value) else { continue };
                for (key, value) in policy {
                    match key.get_ref().as_ref() {
                        "allow_local_binding" => network.allow_local_binding = self.bool(key, value),
                        "allowed_domains" | "denied_domains" | "allow_unix_sockets" => self.older_entries(key, value, &mut network),
                        _ => self.unknown_key(key, policy, "`[network_proxy.policy]`", &keys::OLDER_POLICY),
                    }
                }
            } else if !self.network_key(key, value, &mut network) {
                self.unknown_key(key, table, "`[network_proxy]`", &keys::NETWORK_PROXY);
            }
        }
        self.add_base(key, network, doc);
    }

    /// `[permissions.network]`: no profile is named.
    pub(super) fn network_without_profile(&mut self, key: &Key<'_>, value: &Value<'_>, doc: &mut LayerDoc) {
        let Some(table) = self.table(key, value) else { return };
        self.older(key, "`[permissions.network]`", "`[permissions.NAME.network]`, and `default_permissions = \"NAME\"`");
        let network = self.network(table);
        self.add_base(key, network, doc);
    }

    /// `[network]`: the upstream proxy.
    pub(super) fn older_upstream(&mut self, key: &Key<'_>, value: &Value<'_>, doc: &mut LayerDoc) {
        let Some(table) = self.table(key, value) else { return };
        let mut upstream = UpstreamDoc { url: None, no_proxy: None, rules: None, whole: false };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "proxy" => upstream.url = self.string(key, value),
                "no_proxy" => upstream.no_proxy = self.strings(key, value),
                _ => self.unknown_key(key, table, "`[network]`", &keys::OLDER_UPSTREAM),
            }
        }
        if upstream.url.is_some() || upstream.no_proxy.is_some() {
            self.older(key, "`[network]`", "`[permissions.NAME.network.upstream]` with `url` and `no_proxy`");
            self.add_base(key, NetworkDoc { upstream: Some(upstream), ..NetworkDoc::default() }, doc);
        }
    }

    fn add_base(&mut self, key: &Key<'_>, network: NetworkDoc, doc: &mut LayerDoc) {
        let place = self.place(key.span());
        doc.base = Some(match doc.base.take() {
            None => At { value: network, place },
            Some(below) => At { value: merge::networks(below.value, network, &[], self.diagnostics), place: below.place },
        });
    }

    /// `allowed_domains`, `denied_domains` and `allow_unix_sockets` of a network table.
    pub(super) fn older_list(&mut self, key: &Key<'_>, value: &Value<'_>, doc: &mut NetworkDoc) {
        let canonical = match key.get_ref().as_ref() {
            "allowed_domains" => "`\"PATTERN\" = \"allow\"` under `domains`",
            "denied_domains" => "`\"PATTERN\" = \"deny\"` under `domains`",
            _ => "`\"/PATH\" = \"allow\"` under `unix_sockets`",
        };
        self.older(key, &format!("`{}`", key.get_ref()), canonical);
        self.older_entries(key, value, doc);
    }

    fn older_entries(&mut self, key: &Key<'_>, value: &Value<'_>, doc: &mut NetworkDoc) {
        if key.get_ref() == "allow_unix_sockets" {
            for path in self.strings(key, value).into_iter().flat_map(|paths| paths.value) {
                doc.unix_sockets.extend(self.socket(&path.value, path.place.span, Some(true)));
            }
            return;
        }
        let access = if key.get_ref() == "denied_domains" { Access::Deny } else { Access::Allow };
        let listed = self.pattern_list(key, value, access);
        add_listed(&mut doc.domains, listed);
    }

    /// A list of patterns that have one access.
    pub(crate) fn pattern_list(&mut self, key: &Key<'_>, value: &Value<'_>, access: Access) -> Vec<DomainEntry> {
        let texts = self.strings(key, value).map(|at| at.value).unwrap_or_default();
        let entries = texts.into_iter().filter_map(|text| {
            let pattern = self.pattern(&text.value, &text.place.span)?;
            if self.denies_everything(&pattern, Some(access), &text.place.span) {
                return None;
            }
            let ports = pattern.port.map(|port| PortRange { first: port, last: port }).into_iter().collect();
            Some(DomainEntry {
                pattern,
                place: text.place,
                access: Some(access),
                ports,
                methods: Vec::new(),
                paths: Vec::new(),
                reason: String::new(),
            })
        });
        entries.collect()
    }

    /// `sandbox_mode`; another program's key, of which the network's part is ours.
    pub(super) fn sandbox_mode(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<String>> {
        let words = ["read-only", "workspace-write", "danger-full-access"];
        let mode = self.word(key, value, words.map(|word| (word, word))).map_or("read-only", |at| at.value);
        // A wrong one was there all the same: it is not to be missed as well.
        Some(At { value: mode.to_owned(), place: self.place(value.span()) })
    }

    /// `[sandbox_workspace_write] network_access`.
    pub(super) fn network_access(&mut self, key: &Key<'_>, value: &Value<'_>) -> Option<At<bool>> {
        let (key, value) = self.table(key, value)?.get_key_value("network_access")?;
        self.bool(key, value)
    }
}

/// Adds the entries of a list. In lists, a pattern may be allowed and denied: both matched, and the deny won.
pub(crate) fn add_listed(entries: &mut Vec<DomainEntry>, listed: Vec<DomainEntry>) {
    let mut index: HashMap<String, usize> = entries.iter().enumerate().map(|(at, entry)| (entry.pattern.to_string(), at)).collect();
    for entry in listed {
        match index.entry(entry.pattern.to_string()) {
            Entry::Vacant(place) => {
                place.insert(entries.len());
                entries.push(entry);
            }
            Entry::Occupied(place) if entry.access == Some(Access::Deny) => {
                if let Some(old) = entries.get_mut(*place.get()) {
                    *old = entry;
                }
            }
            Entry::Occupied(_) => {}
        }
    }
}
