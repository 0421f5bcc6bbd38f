//! Several permission profiles in one blob: which go into it, what they must agree on, and which of them is asked.
//!
//! A profile is compiled as if it were the only one. What belongs to the process that runs the blob rather than to a profile must be the same in all profiles that run
//! (`PROCESS`): requests of several profiles may pass through one process, and it opens its listeners once.

use crate::decompile::audit_toml;
use crate::diagnostic::{Code, Diagnostic, Place};
use crate::merge;
use crate::schema::{LayerDoc, NetworkDoc, nearest_of};
use policy_format::{
    Blob, Decision, Denied, Hook, Meta, NamedBy, Network, ProfileId, Profiles, Request, Rule, RuleId, Settings, decide, decide_address,
    named_by,
};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;

/// Names that are listed where there may be many.
const MAX_LISTED: usize = 8;

/// Which profiles go into one blob.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selection<'a> {
    /// These, the blob's default first; where there is none, the one that the layers choose.
    pub named: &'a [&'a str],
    /// All others that the layers define too, by name, after these.
    pub all: bool,
}

/// What is compiled of layers, in the order of the blob; `None` stands for what they choose. With it, a name that two would have.
pub(crate) fn wanted(layers: &[LayerDoc], selection: Selection<'_>) -> (Vec<Option<String>>, Option<Diagnostic>) {
    let mut names: Vec<Option<String>> = Vec::new();
    for name in selection.named {
        let name = Some((*name).to_owned());
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let default = if names.is_empty() { Some(merge::default_profile(layers)) } else { None };
    if names.is_empty() {
        names.push(None);
    }
    let defined: BTreeSet<&String> = layers.iter().flat_map(|layer| layer.profiles.keys()).filter(|_| selection.all).collect();
    let others = defined.iter().filter(|name| !names.iter().flatten().any(|named| named == **name));
    let others: Vec<&String> =
        others.filter(|name| default.as_ref().is_none_or(|default| default.name != Some(name.as_str()))).copied().collect();
    let mixed = default.and_then(|default| {
        let (name, setting) = (default.name?, default.instead?);
        let place =
            layers.iter().find_map(|layer| layer.profiles.get(name).filter(|_| selection.all)).map(|profile| profile.place.clone())?;
        let message = format!("two profiles would have the name `{name}`: this one, and what an older sandbox setting says");
        let error = Diagnostic::error(Code::ProfilesDiffer, message, place).and(setting.clone(), "compiled under that name");
        Some(error.with_help("set `default_permissions`, or name the profiles with `--profile`"))
    });
    names.extend(others.into_iter().map(|name| Some(name.clone())));
    (names, mixed)
}

/// The profile of a name, or the blob's default.
///
/// # Errors
/// [`UnknownProfile`] when the blob has none of that name.
pub fn choose<B: AsRef<[u8]>>(blob: &Blob<B>, name: Option<&str>) -> Result<ProfileId, UnknownProfile> {
    let Some(name) = name else { return Ok(ProfileId::default()) };
    blob.profile(name)
        .ok_or_else(|| UnknownProfile { name: name.to_owned(), known: blob.profiles().iter().map(|meta| meta.profile.clone()).collect() })
}

/// A profile that a policy does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownProfile {
    /// The name that was asked for.
    pub name: String,
    /// The names that the policy has.
    pub known: Vec<String>,
}

impl fmt::Display for UnknownProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<&str> = self.known.iter().map(String::as_str).collect();
        write!(f, "the policy has no profile `{}`; it has {}", self.name.escape_debug(), quoted(&known, usize::MAX))?;
        nearest_of(&self.name, &known).map_or(Ok(()), |near| write!(f, "\nhelp: did you mean `{near}`?"))
    }
}

impl std::error::Error for UnknownProfile {}

/// `a`, `b` and 3 more, in backticks.
fn quoted(names: &[&str], most: usize) -> String {
    let shown: Vec<String> = names.iter().take(most).map(|name| format!("`{}`", name.escape_debug())).collect();
    match names.len().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// One profile of a blob: what a blob with that profile alone would be.
pub struct Profile<'a, B> {
    blob: &'a Blob<B>,
    id: ProfileId,
}

impl<B> Clone for Profile<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Profile<'_, B> {}

impl<B: AsRef<[u8]>> fmt::Debug for Profile<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("blob", self.blob).field("id", &self.id).finish()
    }
}

impl<'a, B: AsRef<[u8]>> Profile<'a, B> {
    /// A profile by its number, which the blob must have.
    #[must_use]
    pub fn new(blob: &'a Blob<B>, id: ProfileId) -> Self {
        Self { blob, id }
    }

    /// The profile of a name, or the blob's default.
    ///
    /// # Errors
    /// [`UnknownProfile`] when the blob has none of that name.
    pub fn named(blob: &'a Blob<B>, name: Option<&str>) -> Result<Self, UnknownProfile> {
        choose(blob, name).map(|id| Self { blob, id })
    }

    /// The blob.
    #[must_use]
    pub fn blob(&self) -> &'a Blob<B> {
        self.blob
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ProfileId {
        self.id
    }

    /// Its settings.
    #[must_use]
    pub fn meta(&self) -> &'a Meta {
        meta(self.blob, self.id)
    }

    /// What it says beyond its rules.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.blob.settings(self.id).cloned().unwrap_or_default()
    }

    /// Its rules, in the blob's order.
    pub fn rules(&self) -> impl Iterator<Item = Rule> + use<'a, B> {
        let id = self.id;
        self.blob.rules().filter(move |rule| rule.profiles.has(id))
    }

    /// Its rules in no order, which is cheaper.
    pub fn unsorted_rules(&self) -> impl Iterator<Item = Rule> + use<'a, B> {
        let (id, blob) = (self.id, self.blob);
        blob.rule_ids().filter_map(|rule| blob.rule(rule)).filter(move |rule| rule.profiles.has(id))
    }

    /// How many rules it has.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        if self.blob.profiles().len() == 1 { self.blob.rule_count() as usize } else { self.unsorted_rules().count() }
    }

    /// A rule of the blob.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<Rule> {
        self.blob.rule(id)
    }

    /// Its hooks, in the order in which they are tried.
    pub fn hooks(&self) -> impl Iterator<Item = &'a Hook> + use<'a, B> {
        let id = self.id;
        self.blob.hooks().iter().filter(move |hook| hook.profiles.has(id))
    }

    /// Decides a request under this profile, whichever the request names.
    #[must_use]
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        decide(self.blob, &Request { profile: self.id, ..*request })
    }

    /// Decides one address of a request under this profile.
    ///
    /// # Errors
    /// Why it may not be dialled.
    pub fn decide_address(&self, request: &Request<'_>, ip: IpAddr) -> Result<(), Denied> {
        decide_address(self.blob, &Request { profile: self.id, ..*request }, ip)
    }

    /// The rules of this profile that name a request's host.
    #[must_use]
    pub fn named_by(&self, request: &Request<'_>) -> Vec<NamedBy> {
        named_by(self.blob, &Request { profile: self.id, ..*request })
    }
}

/// The settings of a profile, which the blob must have.
pub(crate) fn meta<B: AsRef<[u8]>>(blob: &Blob<B>, id: ProfileId) -> &Meta {
    blob.profile_meta(id).unwrap_or(blob.meta())
}

/// The names of some profiles of a blob.
pub fn names<B: AsRef<[u8]>>(blob: &Blob<B>, profiles: Profiles) -> Vec<&str> {
    let numbered = blob.profiles().iter().zip(0..);
    numbered.filter(|(_, number)| profiles.has(ProfileId(*number))).map(|(meta, _)| meta.profile.as_str()).collect()
}

/// What is said of several profiles, each thing once. What is not true of all of them says of which it is.
pub(crate) fn join(said: Vec<(String, Vec<Diagnostic>)>) -> Vec<Diagnostic> {
    let all = said.len();
    let mut order: Vec<(Diagnostic, Vec<String>)> = Vec::new();
    let mut places: HashMap<Diagnostic, usize> = HashMap::new();
    for (name, diagnostics) in said {
        for diagnostic in diagnostics {
            let at = *places.entry(diagnostic).or_insert_with_key(|diagnostic| {
                order.push((diagnostic.clone(), Vec::new()));
                order.len() - 1
            });
            if let Some((_, names)) = order.get_mut(at).filter(|(_, names)| names.last() != Some(&name)) {
                names.push(name.clone());
            }
        }
    }
    order
        .into_iter()
        .map(|(mut diagnostic, names)| {
            let shown: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
            // Who names it already need not be told.
            let named = matches!(shown.as_slice(), [only] if diagnostic.message.contains(&format!("`{only}`")));
            if names.len() < all && !shown.is_empty() && !named {
                let noun = if shown.len() == 1 { "profile" } else { "profiles" };
                diagnostic.message.push_str(&format!(" ({noun} {})", quoted(&shown, MAX_LISTED)));
            }
            diagnostic
        })
        .collect()
}

type KeyPlace = (&'static str, fn(&NetworkDoc) -> Option<&Place>);

/// A setting that a process has once.
struct ProcessSetting {
    /// Its value, for people; `None` where a profile leaves it to the others.
    value: fn(&Meta, &Settings) -> Option<String>,
    /// The keys that say it, and where they do.
    keys: &'static [KeyPlace],
}

macro_rules! places {
    ($($name:literal: $($field:ident).+),*) => { &[$(($name, |doc: &NetworkDoc| doc.$($field).+.as_ref().map(|at| &at.place))),*] };
}

/// What belongs to the process. All else is of the profile that a request is decided under.
const PROCESS: [ProcessSetting; 10] = [
    ProcessSetting {
        value: |meta, _| Some(meta.listeners.http.to_string()),
        keys: places!("proxy_url": proxy_url, "http_port": http_port),
    },
    ProcessSetting {
        value: |meta, _| Some(meta.listeners.socks.map_or_else(|| "off".to_owned(), |address| address.to_string())),
        keys: places!("enable_socks5": enable_socks5, "socks_url": socks_url, "socks_port": socks_port),
    },
    ProcessSetting { value: |meta, _| Some(meta.listeners.admin.to_string()), keys: places!("admin_url": admin_url) },
    ProcessSetting {
        value: |meta, _| Some(meta.dangerously_allow_non_loopback_proxy.to_string()),
        keys: places!("dangerously_allow_non_loopback_proxy": dangerously_allow_non_loopback_proxy),
    },
    ProcessSetting {
        value: |meta, _| Some(meta.dangerously_allow_non_loopback_admin.to_string()),
        keys: places!("dangerously_allow_non_loopback_admin": dangerously_allow_non_loopback_admin),
    },
    // A process has one authority; a profile that names none uses it as well.
    ProcessSetting { value: |meta, _| meta.mitm.ca_cert_path.clone(), keys: places!("mitm.ca_cert_path": mitm.ca_cert_path) },
    ProcessSetting { value: |meta, _| meta.mitm.ca_key_path.clone(), keys: places!("mitm.ca_key_path": mitm.ca_key_path) },
    ProcessSetting {
        value: |_, settings| Some(settings.limits.connections.to_string()),
        keys: &[("limits.connections", |doc: &NetworkDoc| doc.limits.values.get("connections").map(|at| &at.place))],
    },
    // There is one queue, and what is written is of the process.
    ProcessSetting {
        value: |_, settings| Some(audit(settings)),
        keys: &[("audit", |doc: &NetworkDoc| doc.audit.as_ref().map(|audit| &audit.place))],
    },
    // What was looked up is kept for all.
    ProcessSetting { value: |_, settings| Some(name_servers(settings)), keys: places!("resolver": resolver) },
];

fn audit(settings: &Settings) -> String {
    match &audit_toml(&settings.audit)[..] {
        [] => "none".to_owned(),
        said => format!("{{ {} }}", said.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", ")),
    }
}

fn name_servers(settings: &Settings) -> String {
    let servers: Vec<String> = settings.resolver.iter().map(ToString::to_string).collect();
    if servers.is_empty() { "the system's resolver".to_owned() } else { servers.join(", ") }
}

/// Where a profile says what belongs to the process.
#[derive(Debug)]
pub(crate) struct ProcessPlaces([Vec<(&'static str, Place)>; PROCESS.len()]);

impl ProcessPlaces {
    /// Before the document is taken apart.
    pub(crate) fn of(network: Option<&NetworkDoc>) -> Self {
        let said = |setting: &ProcessSetting| {
            let places = setting.keys.iter().filter_map(|(key, place)| Some((*key, place(network?)?.clone())));
            places.collect()
        };
        Self(PROCESS.each_ref().map(said))
    }
}

/// What profiles say differently although a process has it once. Each is held against the first that says anything; one whose network is off or direct opens no
/// listener, and says nothing.
pub(crate) fn differences(profiles: &[((Meta, Settings), ProcessPlaces)]) -> Vec<Diagnostic> {
    let running: Vec<_> = profiles.iter().filter(|((meta, _), _)| meta.network == Network::Proxied).collect();
    let mut found = Vec::new();
    for (at, setting) in PROCESS.iter().enumerate() {
        let mut said =
            running.iter().filter_map(|((meta, settings), places)| Some((meta, (setting.value)(meta, settings)?, places.0.get(at)?)));
        let Some((first, value, places)) = said.next() else { continue };
        for (other, different, other_places) in said.filter(|(_, other, _)| *other != value) {
            let (place, other_place) = (places.first(), other_places.first());
            let key = other_place.or(place).map_or_else(|| setting.keys.first().map_or("", |(key, _)| *key), |(key, _)| *key);
            let message = format!("profiles `{}` and `{}` differ in `{key}`, which a process has once", first.profile, other.profile);
            let help = "give both the same value, or compile them into policies of their own";
            let labelled = [(other_place, &different, other), (place, &value, first)];
            let labels = labelled.iter().filter_map(|(place, value, meta)| Some(((*place)?.1.clone(), label(value, &meta.profile))));
            let mut error =
                Diagnostic::general(Code::ProfilesDiffer, message).with_help(match labelled.iter().find(|(place, ..)| place.is_none()) {
                    Some((_, value, meta)) => format!("{help}; profile `{}` says nothing, which is {value}", meta.profile),
                    None => help.to_owned(),
                });
            error.places.extend(labels);
            found.push(error);
        }
    }
    found
}

fn label(value: &str, profile: &str) -> String {
    format!("{value} in profile `{profile}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_all_profiles_is_said_once() {
        let general = |message: &str| Diagnostic::general(Code::NoEffect, message);
        let said = |name: &str, messages: &[&str]| (name.to_owned(), messages.iter().map(|message| general(message)).collect::<Vec<_>>());
        let joined = join(vec![
            said("a", &["of all", "of a", "of all"]),
            said("b", &["of all", "of both"]),
            said("c", &["of all", "of both", "profile `c` is off"]),
        ]);
        let messages: Vec<&str> = joined.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
        assert_eq!(messages, ["of all", "of a (profile `a`)", "of both (profiles `b`, `c`)", "profile `c` is off"]);
    }

    #[test]
    fn long_lists_of_names_are_cut() {
        assert_eq!(quoted(&["a", "b\n", "c"], 2), "`a`, `b\\n` and 1 more");
        assert_eq!(quoted(&["a"], 2), "`a`");
    }
}
