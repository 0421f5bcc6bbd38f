//! The dummies that are valid, and what is asked of them for every connection and every request: without a lock, and without a search.

use super::authorization::{Authorization, Place, Presented};
use super::binding::{Binding, Destination, is_below};
use super::rule::{Kind, Way};
use policy_format::Host;
use std::collections::HashMap;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What a dummy stands for.
pub(super) struct Record {
    pub(super) kind: Arc<Kind>,
    /// The variable that it came from.
    pub(super) variable: String,
    pub(super) binding: Arc<Binding>,
    pub(super) real: Zeroizing<Vec<u8>>,
    /// The child that was given the dummy.
    pub(super) child: u64,
}

/// All valid dummies.
#[derive(Default)]
pub(super) struct Table {
    dummies: HashMap<Arc<str>, Arc<Record>>,
    plaintext: bool,
    /// Where they go: hosts with their ports, or `None` for all ports; and names below suffixes.
    hosts: HashMap<Host, Option<Vec<u16>>>,
    below: Vec<&'static str>,
    /// Whether any is sent in `Authorization`.
    authorization: bool,
    /// Fields of the policy's choice, in lower case, and prefixes of values in them.
    fields: Vec<(String, Vec<String>)>,
}

impl Table {
    pub(super) fn new(dummies: HashMap<Arc<str>, Arc<Record>>, plaintext: bool) -> Self {
        let mut table = Self { plaintext, ..Self::default() };
        for record in dummies.values() {
            table.note(record);
        }
        table.dummies = dummies;
        table
    }

    fn note(&mut self, record: &Record) {
        match &*record.binding {
            Binding::Hosts { hosts, below } => {
                self.hosts.extend(hosts.iter().map(|host| (host.clone(), None)));
                self.below.extend(below.iter().filter(|suffix| !self.below.contains(suffix)).copied().collect::<Vec<_>>());
            }
            Binding::Urls(prefixes) => {
                for prefix in prefixes.iter().filter(|prefix| prefix.tls) {
                    let ports = self.hosts.entry(prefix.host.clone()).or_insert_with(|| Some(Vec::new()));
                    if let Some(ports) = ports.as_mut().filter(|ports| !ports.contains(&prefix.port)) {
                        ports.push(prefix.port);
                    }
                }
            }
        }
        match &record.kind.way {
            Way::Authorization(_) => self.authorization = true,
            Way::Field { name, prefix } => match self.fields.iter_mut().find(|(other, _)| other == name) {
                Some((_, prefixes)) if prefixes.contains(prefix) => {}
                Some((_, prefixes)) => prefixes.push(prefix.clone()),
                None => self.fields.push((name.clone(), vec![prefix.clone()])),
            },
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.dummies.is_empty()
    }

    pub(super) fn dummies(&self) -> &HashMap<Arc<str>, Arc<Record>> {
        &self.dummies
    }

    /// Whether a dummy is for a host and a port, in TLS.
    pub(super) fn wants(&self, host: &Host, port: u16) -> bool {
        !self.is_empty()
            && (self.hosts.get(host).is_some_and(|ports| ports.as_ref().is_none_or(|ports| ports.contains(&port)))
                || is_below(host, &self.below))
    }

    /// The fields of a request that change, in lower case, with what they are then.
    pub(super) fn translate(&self, to: &Destination<'_>, headers: &[(&str, &[u8])]) -> Vec<(String, Zeroizing<Vec<u8>>)> {
        // TRACE is answered with the request (RFC 9110, section 9.3.8), so that the child would read what is put in.
        if self.is_empty() || (to.tls && !self.wants(to.host, to.port)) || to.method.eq_ignore_ascii_case("TRACE") {
            return Vec::new();
        }
        let mut changed = Vec::new();
        for (name, value) in headers {
            let is_authorization = self.authorization && name.eq_ignore_ascii_case("authorization");
            let prefixes = self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, prefixes)| prefixes);
            if !is_authorization && prefixes.is_none() {
                continue;
            }
            // Of several, servers do not agree which one counts.
            if headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).count() > 1 {
                continue;
            }
            if let Some(value) = self.field(to, name, value, is_authorization, prefixes.map_or(&[], Vec::as_slice)) {
                changed.push((name.to_ascii_lowercase(), value));
            }
        }
        changed
    }

    /// A field with the one credential that it presents in the place of its dummy.
    fn field(
        &self,
        to: &Destination<'_>,
        name: &str,
        value: &[u8],
        is_authorization: bool,
        prefixes: &[String],
    ) -> Option<Zeroizing<Vec<u8>>> {
        let authorization = is_authorization.then(|| Authorization::read(value)).flatten();
        let pair = authorization.as_ref().and_then(Authorization::pair);
        let by_scheme = authorization.map(|authorization| authorization.presented(pair.as_deref())).into_iter().flatten().flatten();
        let by_field = prefixes.iter().filter_map(|prefix| {
            let value = value.trim_ascii().strip_prefix(prefix.as_bytes())?;
            Some(Presented { value, place: Place::Field { prefix } })
        });
        let mut found: Option<(&Arc<Record>, Place<'_>)> = None;
        for presented in by_scheme.chain(by_field) {
            let Some(record) = self.selected(to, name, &presented) else { continue };
            match &found {
                None => found = Some((record, presented.place)),
                // The same one again: the first place counts.
                Some((first, _)) if Arc::ptr_eq(first, record) => {}
                Some(_) => return None,
            }
        }
        found.map(|(record, place)| place.with(&record.real))
    }

    /// What a presented value stands for, if that goes to where the request does, in the way that it is presented.
    fn selected(&self, to: &Destination<'_>, name: &str, presented: &Presented<'_>) -> Option<&Arc<Record>> {
        let record = self.dummies.get(std::str::from_utf8(presented.value).ok()?)?;
        let fits = match (&record.kind.way, &presented.place) {
            (Way::Authorization(schemes), place) => place.scheme().is_some_and(|scheme| schemes.contains(&scheme)),
            (Way::Field { name: wanted, prefix }, Place::Field { prefix: found }) => wanted.eq_ignore_ascii_case(name) && prefix == found,
            (Way::Field { .. }, _) => false,
        };
        (fits && record.binding.covers(to, self.plaintext)).then_some(record)
    }
}
