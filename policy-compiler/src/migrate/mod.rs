//! Older spellings to the canonical form, with everything else of the file left as it stands; and other tools' lists to a policy ([`from`]).
//!
//! What is rewritten:
//!
//! | older | canonical |
//! | --- | --- |
//! | `[network_proxy]`, its `policy` and `mitm` | `[permissions.NAME.network]`, its `domains`, `unix_sockets` and `mitm` |
//! | `[permissions.network]` | `[permissions.NAME.network]` |
//! | `allowed_domains`, `denied_domains`, `allow_unix_sockets` | entries of `domains` and `unix_sockets` |
//! | `enabled`, `inspect` of any `mitm` | `mode = "always"` when they switch it on |
//! | `[network]` with `proxy`, `no_proxy` | `[permissions.NAME.network.upstream]` |
//! | `proxy_url`, `socks_url` of another machine | `url` of `[….upstream]` |
//! | `sandbox_mode = "workspace-write"` with `network_access`, and no profile | `enabled` of the profile `workspace` |
//!
//! Comments move along with what they stand at, and a second run finds nothing to do.

pub mod from;
mod layout;
mod lists;

use crate::keys::NETWORK;
use layout::{Original, attach_comment, descend, merge, place_at, set_root_key, take_table};
use lists::Hint;
use similar::TextDiff;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;
use toml_edit::{DocumentMut, Item, Key, Table, Value};

/// Bytes that a file to be migrated may have.
pub const MAX_INPUT: usize = 16 << 20;

/// The profile that is written when neither the file nor the caller names one.
pub const DEFAULT_PROFILE: &str = "workspace";

/// How to migrate.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// The profile that older spellings without one go to, instead of `default_permissions`.
    pub profile: Option<&'a str>,
    /// Whether the file is a requirements file; one with `[experimental_network]` is taken for one anyway.
    pub requirements: bool,
}

/// What was done, or what to look at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// The line of the input, from 1.
    pub line: usize,
    /// Lower case, no final stop.
    pub message: String,
}

/// A migrated file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// The file as it should be.
    pub text: String,
    /// What was done, in the order of the input.
    pub notes: Vec<Note>,
    /// Whether `text` differs from the input.
    pub changed: bool,
}

/// A file that cannot be migrated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// Not TOML.
    #[error("line {line}: this is not TOML: {message}")]
    Toml {
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// Larger than [`MAX_INPUT`].
    #[error("the file has more than {MAX_INPUT} bytes")]
    TooLarge,
}

/// Rewrites the older spellings of a `config.toml` or a requirements file.
///
/// # Errors
/// [`MigrateError`] when the text is not TOML, or too large.
pub fn migrate(text: &str, options: Options<'_>) -> Result<Migration, MigrateError> {
    if text.len() > MAX_INPUT {
        return Err(MigrateError::TooLarge);
    }
    // The editor writes `\n` and no mark; both are put back.
    let (mark, body) = text.strip_prefix('\u{feff}').map_or(("", text), |body| ("\u{feff}", body));
    let crlf = body.contains("\r\n");
    let unix = if crlf { body.replace("\r\n", "\n") } else { body.to_owned() };
    let mut document: DocumentMut = unix.parse().map_err(|error: toml_edit::TomlError| MigrateError::Toml {
        line: unix.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default().matches('\n').count() + 1,
        message: error.message().to_owned(),
    })?;
    let kept = document.to_string() == unix;
    let name = options.profile.or_else(|| document.get("default_permissions").and_then(Item::as_str)).unwrap_or(DEFAULT_PROFILE).to_owned();
    let mut migrator = Migrator { original: Original::new(&unix), name, notes: Vec::new(), entry_lines: HashMap::new(), changed: false };
    if !options.requirements {
        migrator.config(&mut document);
    }
    migrator.requirements(&mut document);
    let Migrator { mut notes, changed, .. } = migrator;
    if !changed {
        notes.sort();
        return Ok(Migration { text: text.to_owned(), notes, changed });
    }
    if !kept {
        let message = "dotted keys that stood apart are put together".to_owned();
        notes.push(Note { line: 1, message });
    }
    if crlf && body.matches('\n').count() != body.matches("\r\n").count() {
        notes.push(Note { line: 1, message: "the line ends were mixed; all of them are CRLF now".to_owned() });
    }
    notes.sort();
    let written = document.to_string();
    let written = if crlf { written.replace('\n', "\r\n") } else { written };
    Ok(Migration { text: format!("{mark}{written}"), notes, changed })
}

/// A unified diff with three lines of context; empty when the two are the same.
#[must_use]
pub fn diff(old: &str, new: &str, path: &str) -> String {
    // A file of very many changed lines gets a coarser diff instead of a long wait.
    let mut config = TextDiff::configure();
    config.timeout(Duration::from_secs(5));
    let diff = config.diff_lines(old, new);
    diff.unified_diff().context_radius(3).header(&format!("a/{path}"), &format!("b/{path}")).to_string()
}

struct Migrator {
    original: Original,
    /// The profile that what has none goes to.
    name: String,
    notes: Vec<Note>,
    /// Where an entry of a list stood: it has no place of its own once it is an entry of a table.
    entry_lines: HashMap<String, usize>,
    changed: bool,
}

impl Migrator {
    fn note(&mut self, line: usize, message: impl Into<String>) {
        self.notes.push(Note { line, message: message.into() });
    }

    fn done(&mut self, line: usize, message: impl Into<String>) {
        self.changed = true;
        self.note(line, message);
    }

    fn config(&mut self, document: &mut DocumentMut) {
        let chosen = document.contains_key("default_permissions");
        let sandbox = self.sandbox(document, chosen);
        let mut chooses = self.network_proxy(document);
        chooses |= self.profileless(document);
        chooses |= self.upstream_table(document);
        self.networks(document);
        if let Some((line, access)) = sandbox {
            self.set_enabled(document, line, access);
            chooses = true;
        }
        if chooses && !chosen {
            let name = self.name.clone();
            set_root_key(document, "default_permissions", &name);
            self.done(1, format!("added `default_permissions = \"{name}\"`"));
        }
    }

    fn requirements(&mut self, document: &mut DocumentMut) {
        let path = ["experimental_network"];
        let older = document.get("experimental_network").and_then(Item::as_table_like);
        let (lists, mitm) = (lists::has_lists(older), has_older_mitm(older));
        if !lists && !mitm {
            return;
        }
        let Some(table) = descend(document, &path) else { return };
        if lists {
            self.own_lists(table, &path);
        }
        self.own_mitm(table, &path);
    }

    /// `network_access`, when it is what says whether the network is on. Asked before anything has moved.
    fn sandbox(&mut self, document: &DocumentMut, chosen: bool) -> Option<(usize, bool)> {
        let access = document.get("sandbox_workspace_write")?.get("network_access")?.as_bool()?;
        if chosen || document.get("sandbox_mode").and_then(Item::as_str) != Some("workspace-write") {
            return None;
        }
        let line = self.original.line(&["sandbox_workspace_write", "network_access"]);
        if document.get("permissions").and_then(|permissions| permissions.get(&self.name)).is_some() {
            let message = format!("left as it is: no profile is chosen, although there is a profile `{}`", self.name);
            self.note(line, message);
            return None;
        }
        Some((line, access))
    }

    fn set_enabled(&mut self, document: &mut DocumentMut, line: usize, access: bool) {
        let name = self.name.clone();
        let Some(network) = descend(document, &["permissions", &name, "network"]) else { return };
        if !network.contains_key("enabled") {
            network.set_implicit(false);
            network.insert("enabled", toml_edit::value(access));
            self.done(line, format!("`network_access = {access}` is now `enabled = {access}` of `[permissions.{name}.network]`"));
        }
        self.note(line, "`sandbox_mode` and `[sandbox_workspace_write]` are kept: other programs read them");
    }

    fn network_proxy(&mut self, document: &mut DocumentMut) -> bool {
        let Some(mut table) = take_table(document, "network_proxy") else { return false };
        let line = self.original.line(&["network_proxy"]);
        self.policy(&mut table);
        self.own_lists(&mut table, &["network_proxy"]);
        if let Some(mut mitm) = take_table(&mut table, "mitm") {
            self.mitm(&mut mitm, &["network_proxy", "mitm"]);
            table.insert("mitm", Item::Table(mitm));
        }
        self.move_to_profile(document, table, &["network_proxy"], line);
        true
    }

    fn profileless(&mut self, document: &mut DocumentMut) -> bool {
        let older = document.get("permissions").and_then(|permissions| permissions.get("network")).and_then(Item::as_table_like);
        if !older
            .is_some_and(|table| table.iter().any(|(key, _)| NETWORK.key(key).is_some() || lists::LISTS.iter().any(|list| list.0 == key)))
        {
            return false;
        }
        let Some(table) = descend(document, &["permissions"]).and_then(|permissions| take_table(permissions, "network")) else {
            return false;
        };
        let line = self.original.line(&["permissions", "network"]);
        let mut table = table;
        self.own_lists(&mut table, &["permissions", "network"]);
        self.move_to_profile(document, table, &["permissions", "network"], line);
        true
    }

    /// Puts a network table into its profile, or its keys into the table that is there.
    fn move_to_profile(&mut self, document: &mut DocumentMut, table: Table, path: &[&str], line: usize) {
        let name = self.name.clone();
        let older = path.join(".");
        self.done(line, format!("`[{older}]` is now `[permissions.{name}.network]`"));
        let Some(profile) = descend(document, &["permissions", &name]) else { return };
        match take_table(profile, "network") {
            None => {
                profile.insert("network", Item::Table(table));
            }
            Some(mut network) => {
                let mut lost = Vec::new();
                merge(&mut network, table, path, &mut lost);
                profile.insert("network", Item::Table(network));
                for (path, what) in lost {
                    let keys: Vec<&str> = path.iter().map(String::as_str).collect();
                    let known = keys.last().and_then(|key| self.entry_lines.get(*key)).copied();
                    let line = known.unwrap_or_else(|| self.original.line(&keys));
                    let last = keys.last().copied().unwrap_or_default();
                    self.note(line, format!("`{last}` is there twice: {what}"));
                }
            }
        }
    }

    /// `[network_proxy.policy]`: its lists become tables in its place, its other keys go up.
    fn policy(&mut self, network: &mut Table) {
        let path = ["network_proxy", "policy"];
        if self.blocked(network, &["network_proxy"]) {
            return;
        }
        let Some(mut policy) = take_table(network, "policy") else { return };
        let mut hint = Hint { position: policy.position(), decor: Some(policy.decor().clone()) };
        place_at(network, policy.position());
        let moved = self.take_lists(&mut policy, &path);
        let up: Vec<String> = policy.iter().map(|(key, _)| key.to_owned()).collect();
        for name in up {
            let Some((key, item)) = policy.remove_entry(&name) else { continue };
            if network.contains_key(&name) {
                let line = self.original.line(&["network_proxy", "policy", &name]);
                self.note(line, format!("`{name}` is there twice: the one of `[network_proxy]` stays"));
                continue;
            }
            network.set_implicit(false);
            network.insert_formatted(&key, item);
        }
        self.install(network, moved, &mut hint);
        if let Some(comment) = hint.decor.take().and_then(|decor| layout::comment_of(&decor)) {
            attach_comment(network, &comment);
        }
    }

    /// `enabled` and `inspect` of a `mitm` table are `mode = "always"` when they switch it on.
    fn mitm(&mut self, mitm: &mut Table, path: &[&str]) {
        let Some(active) = switches_on(mitm) else { return };
        let mut said = mitm.contains_key("mode") || !active;
        let shown = path.join(".");
        let names: Vec<String> = mitm.iter().map(|(key, _)| key.to_owned()).collect();
        let mut comments = String::new();
        // Taken out and put back one by one, so that a renamed key keeps its place.
        for name in names {
            let Some((key, mut item)) = mitm.remove_entry(&name) else { continue };
            if !is_switch(&name, &item) {
                mitm.insert_formatted(&key, item);
                continue;
            }
            let whole: Vec<&str> = path.iter().copied().chain([name.as_str()]).collect();
            // A table that named no profile had another path.
            let line = self.original.find(&whole).or_else(|| self.original.find(&["permissions", "network", "mitm", &name]));
            let line = line.unwrap_or_else(|| self.original.line(&whole));
            if said {
                comments.push_str(&layout::comments(&key, &item));
                let why = if active { "`mode` says it" } else { "without `mode` nothing is intercepted" };
                self.done(line, format!("`{name}` of `[{shown}]` is left out: {why}"));
                continue;
            }
            said = true;
            layout::replace_value(&mut item, "always");
            let renamed = Key::new("mode").with_leaf_decor(key.leaf_decor().clone());
            mitm.insert_formatted(&renamed, item);
            self.done(line, format!("`{name} = true` of `[{shown}]` is now `mode = \"always\"`"));
        }
        attach_comment(mitm, &comments);
    }

    /// `[network]`: the upstream proxy.
    fn upstream_table(&mut self, document: &mut DocumentMut) -> bool {
        let older = document.get("network").and_then(Item::as_table_like);
        if !older.is_some_and(|table| table.contains_key("proxy") || table.contains_key("no_proxy")) {
            return false;
        }
        let Some(mut table) = take_table(document, "network") else { return false };
        let line = self.original.line(&["network"]);
        let name = self.name.clone();
        let mut upstream = Table::new();
        upstream.set_position(table.position());
        *upstream.decor_mut() = table.decor().clone();
        for (older, canonical) in [("proxy", "url"), ("no_proxy", "no_proxy")] {
            let Some((key, mut item)) = table.remove_entry(older) else { continue };
            if older == "no_proxy"
                && let Some(text) = item.as_str()
            {
                let list: toml_edit::Array = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
                let decor = item.as_value().map(|value| value.decor().clone()).unwrap_or_default();
                let mut value = Value::Array(list);
                *value.decor_mut() = decor;
                item = Item::Value(value);
            }
            upstream.insert_formatted(&Key::new(canonical).with_leaf_decor(key.leaf_decor().clone()), item);
        }
        if !table.is_empty() {
            table.decor_mut().clear();
            let keys: Vec<String> = table.iter().map(|(key, _)| format!("`{key}`")).collect();
            self.note(line, format!("{} of `[network]` is nothing that this program knows, and is left", keys.join(", ")));
            document.insert("network", Item::Table(table));
        }
        self.done(line, format!("`[network]` is now `[permissions.{name}.network.upstream]`"));
        let Some(network) = descend(document, &["permissions", &name, "network"]) else { return true };
        place_at(network, upstream.position());
        self.allow_upstream(network, line);
        match take_table(network, "upstream") {
            None => {
                network.insert("upstream", Item::Table(upstream));
            }
            Some(mut there) => {
                let mut lost = Vec::new();
                merge(&mut there, upstream, &["network"], &mut lost);
                network.insert("upstream", Item::Table(there));
                for (_, what) in lost {
                    self.note(line, format!("the upstream proxy is there twice: {what}"));
                }
            }
        }
        true
    }

    fn allow_upstream(&mut self, network: &mut Table, line: usize) {
        match network.get("allow_upstream_proxy").and_then(Item::as_bool) {
            Some(true) => {}
            Some(false) => self.note(line, "`allow_upstream_proxy = false` is kept: the upstream proxy is not used until it is true"),
            None => {
                network.set_implicit(false);
                network.insert("allow_upstream_proxy", toml_edit::value(true));
            }
        }
    }

    /// Every network table of a profile, and `features.network_proxy` as a table.
    fn networks(&mut self, document: &mut DocumentMut) {
        let profiles = document.get("permissions").and_then(Item::as_table_like);
        let names: Vec<String> = profiles.map(|profiles| profiles.iter().map(|(name, _)| name.to_owned()).collect()).unwrap_or_default();
        for name in names {
            self.network(document, &["permissions", &name, "network"]);
        }
        self.network(document, &["features", "network_proxy"]);
    }

    fn network(&mut self, document: &mut DocumentMut, path: &[&str]) {
        let mut item = Some(document.as_item());
        for key in path {
            item = item.and_then(|item| item.get(key));
        }
        let Some(table) = item.and_then(Item::as_table_like) else { return };
        let remote =
            URLS.iter().any(|key| table.get(key).and_then(Item::as_str).is_some_and(|url| names_a_proxy(url, open_listener(table))));
        let (lists, mitm) = (lists::has_lists(Some(table)), has_older_mitm(Some(table)));
        if !remote && !lists && !mitm {
            return;
        }
        let Some(network) = descend(document, path) else { return };
        self.own_mitm(network, path);
        if !remote && !lists {
            return;
        }
        if self.blocked(network, path) {
            return;
        }
        self.own_lists(network, path);
        for key in URLS {
            self.remote_url(network, key, path);
        }
    }

    /// The `mitm` table of a network table; one that says nothing any more goes.
    fn own_mitm(&mut self, network: &mut Table, path: &[&str]) {
        if !has_older_mitm(Some(network)) {
            return;
        }
        let path: Vec<&str> = path.iter().copied().chain(["mitm"]).collect();
        // A table without a header of its own is there as long as it has a key: what holds the last one stays.
        let shown = !network.is_implicit() && !network.is_dotted();
        let keeps = shown || network.len() > 1;
        let Some(mitm) = descend(network, &["mitm"]) else { return };
        if mitm.is_dotted() && switches_on(mitm) == Some(false) && mitm.iter().all(|(key, item)| is_switch(key, item)) {
            mitm.set_dotted(false);
            mitm.set_implicit(false);
        }
        self.mitm(mitm, &path);
        if keeps && mitm.is_empty() && layout::comment_of(mitm.decor()).is_none() {
            network.remove("mitm");
        }
    }

    /// The lists that a network table has itself.
    fn own_lists(&mut self, table: &mut Table, path: &[&str]) {
        if self.blocked(table, path) {
            return;
        }
        let moved = self.take_lists(table, path);
        self.install(table, moved, &mut Hint::default());
    }

    /// A `proxy_url` or `socks_url` that names another machine was meant as the upstream proxy.
    fn remote_url(&mut self, network: &mut Table, name: &str, path: &[&str]) {
        let open = open_listener(network);
        let Some(url) = network.get(name).and_then(Item::as_str).filter(|url| names_a_proxy(url, open)).map(str::to_owned) else { return };
        // A key that came from `[network_proxy]` had another path; its line is found there.
        let whole: Vec<&str> = path.iter().copied().chain([name]).collect();
        let line = self.original.find(&whole).or_else(|| self.original.find(&["network_proxy", name]));
        let line = line.or_else(|| self.original.find(&["permissions", "network", name])).unwrap_or(1);
        let url = upstream_url(name, &url);
        let Some((key, item)) = network.remove_entry(name) else { return };
        let comments = layout::comments(&key, &item);
        let dotted = network.is_dotted();
        let Some(upstream) = layout::child(network, "upstream", dotted) else { return };
        match upstream.get("url").and_then(Item::as_str) {
            Some(there) if there == url => {
                attach_comment(upstream, &comments);
                self.done(line, format!("`{name}` is left out: `url` of `upstream` says the same"));
            }
            Some(_) => {
                // Kept for people: it may hold the only copy of an address.
                attach_comment(upstream, &format!("{comments}# {name} = {}\n", crate::source::quote(&url)));
                self.done(line, format!("`{name}` names a second upstream proxy, and there can be one: it is a comment now"));
            }
            None => {
                let mut key = Key::new("url");
                key.leaf_decor_mut().set_prefix(comments);
                upstream.insert_formatted(&key, toml_edit::value(url.as_str()));
                self.done(line, format!("`{name}` names another machine, so it is now `url` of `upstream`"));
            }
        }
        self.allow_upstream(network, line);
    }
}

const URLS: [&str; 2] = ["proxy_url", "socks_url"];

/// Whether the `mitm` of a network table has keys that are older spellings.
fn has_older_mitm(network: Option<&dyn toml_edit::TableLike>) -> bool {
    let mitm = network.and_then(|network| network.get("mitm")).and_then(Item::as_table_like);
    mitm.is_some_and(|mitm| mitm.iter().any(|(key, item)| is_switch(key, item)))
}

/// An older spelling of `mode`.
fn is_switch(key: &str, item: &Item) -> bool {
    (key == "enabled" || key == "inspect") && item.is_bool()
}

/// Whether the older spellings in a `mitm` table switch it on; `None` when it has none.
fn switches_on(mitm: &Table) -> Option<bool> {
    let said = |key: &str| mitm.get(key).and_then(Item::as_bool);
    match (said("enabled"), said("inspect")) {
        (None, None) => None,
        (Some(enabled), _) => Some(enabled),
        (None, Some(inspect)) => Some(inspect),
    }
}

/// Whether listeners on this machine's own addresses are meant to be open to others.
fn open_listener(table: &dyn toml_edit::TableLike) -> bool {
    table.get("dangerously_allow_non_loopback_proxy").and_then(Item::as_bool) == Some(true)
}

/// Whether a listener's URL names another machine. With `open`, an address may be one of this machine's own.
fn names_a_proxy(url: &str, open: bool) -> bool {
    let rest = url.trim().split_once("://").map_or(url.trim(), |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host_port = authority.rsplit('@').next().unwrap_or_default();
    let host = match host_port.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None if host_port.matches(':').count() == 1 => host_port.split(':').next().unwrap_or_default(),
        None => host_port,
    };
    match host.parse::<IpAddr>() {
        Ok(ip) => !open && !ip.is_loopback() && !ip.is_unspecified(),
        Err(_) => !host.is_empty() && !host.eq_ignore_ascii_case("localhost") && host != "*",
    }
}

/// The URL of the upstream proxy that an older `proxy_url` or `socks_url` meant.
fn upstream_url(key: &str, url: &str) -> String {
    let (scheme, rest) = url.trim().split_once("://").unwrap_or(("", url.trim()));
    match (key, scheme) {
        ("socks_url", "socks5h") => format!("socks5h://{rest}"),
        ("socks_url", _) => format!("socks5://{rest}"),
        (_, "") => format!("http://{rest}"),
        (_, scheme) => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_url_names_another_machine() {
        for (url, open, expected) in [
            ("http://127.0.0.1:3128", false, false),
            ("http://localhost:3128/", false, false),
            ("socks5h://[::1]:1080", false, false),
            ("http://0.0.0.0:3128", false, false),
            ("http://[::]:3128", false, false),
            ("3128", false, true),
            ("", false, false),
            ("http://proxy.corp.example:8080", false, true),
            ("http://user:secret@proxy.corp.example:8080", true, true),
            ("proxy.corp.example", false, true),
            ("http://10.1.2.3:8080", false, true),
            ("http://10.1.2.3:8080", true, false),
            ("socks5://[2001:db8::1]:1080", false, true),
        ] {
            assert_eq!(names_a_proxy(url, open), expected, "{url}");
        }
        for (key, url, expected) in [
            ("proxy_url", "proxy.example:1", "http://proxy.example:1"),
            ("proxy_url", "https://proxy.example", "https://proxy.example"),
            ("socks_url", "proxy.example:1", "socks5://proxy.example:1"),
            ("socks_url", "socks5h://proxy.example:1", "socks5h://proxy.example:1"),
            ("socks_url", "http://proxy.example:1", "socks5://proxy.example:1"),
        ] {
            assert_eq!(upstream_url(key, url), expected);
        }
    }

    #[test]
    fn line_ends_and_the_mark_are_put_back() {
        let text = "\u{feff}a = 1\r\n[permissions.w.network]\r\nallowed_domains = [\"a.test\"]\r\n";
        let migrated = migrate(text, Options::default()).unwrap();
        let expected = "\u{feff}a = 1\r\n[permissions.w.network]\r\n\r\n[permissions.w.network.domains]\r\n\"a.test\" = \"allow\"\r\n";
        assert_eq!(migrated.text, expected);
        let mixed = migrate(&text.replacen("\r\n", "\n", 1), Options::default()).unwrap();
        assert_eq!(mixed.text, expected);
        assert!(mixed.notes.iter().any(|note| note.message.contains("mixed")));
    }

    #[test]
    fn what_is_not_toml_or_too_large_is_refused() {
        assert_eq!(migrate("a = 1\nb = = 2\n", Options::default()).unwrap_err().to_string().split(':').next(), Some("line 2"));
        assert_eq!(migrate(&"#".repeat(MAX_INPUT + 1), Options::default()), Err(MigrateError::TooLarge));
    }

    #[test]
    fn a_diff_names_the_file_and_the_lines() {
        assert_eq!(diff("a\nb\n", "a\nc\n", "x.toml"), "--- a/x.toml\n+++ b/x.toml\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n");
        assert_eq!(diff("a\n", "a\n", "x.toml"), "");
    }
}
