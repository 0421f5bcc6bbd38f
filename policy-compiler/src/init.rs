//! A first policy for a project: from the package managers, remotes and agent settings that its folder shows.
//!
//! [`scan`] looks at a folder, [`propose`] makes of it a policy and a test, and says what it made them from. What a project's files say is not trusted: a
//! host goes into the policy only as a checked pattern, and credentials in addresses are dropped where the address is read.

mod detect;
mod marks;
mod scan;

pub use scan::{Content, File, Folder, Limits, repository, scan};

use crate::presets;
use crate::source::quote;
use crate::suffix::wider_than_public_suffix;
use detect::{Find, Finds, Says};
use marks::{PRESET_ORDER, SOURCE_HOSTS};
use policy_format::net::{is_metadata_address, is_metadata_name};
use policy_format::{Access, Hosts, Pattern};
use std::collections::BTreeMap;
use std::fmt;

/// Where the files go, as the comments in them say it.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The policy.
    pub policy: &'a str,
    /// The test.
    pub tests: &'a str,
}

/// A policy, a test of it, and what they were made from.
#[derive(Debug)]
pub struct Proposal {
    /// What was seen, in the order of the files.
    pub sightings: Vec<Sighting>,
    /// Presets, each with the places that ask for it.
    pub presets: Vec<(&'static str, Vec<String>)>,
    /// Rules, in the order of their patterns.
    pub rules: Vec<Rule>,
    /// The policy's TOML.
    pub policy: String,
    /// The test's TOML.
    pub tests: String,
}

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The file, below the folder.
    pub file: String,
    /// The line, from 1.
    pub line: Option<usize>,
    /// What it is.
    pub what: &'static str,
    /// What was made of it.
    pub outcome: Outcome,
}

/// What was made of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The policy has this preset.
    Preset(&'static str),
    /// The policy allows this pattern.
    Allow(String),
    /// The policy denies this pattern.
    Deny(String),
    /// A preset of the policy has this host already.
    Covered(String, &'static str),
    /// Nothing, and why.
    Nothing(&'static str),
}

/// A rule of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Which hosts.
    pub pattern: Pattern,
    /// Allow or deny.
    pub access: Access,
    /// The places that ask for it.
    pub seen: Vec<String>,
}

impl Sighting {
    /// The file and the line.
    #[must_use]
    pub fn place(&self) -> String {
        match self.line {
            Some(line) => format!("{}:{line}", self.file),
            None => self.file.clone(),
        }
    }
}

impl fmt::Display for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: ", self.place(), self.what)?;
        match &self.outcome {
            Outcome::Preset(name) => write!(f, "preset `{name}`"),
            Outcome::Allow(pattern) => write!(f, "`{pattern}` is allowed"),
            Outcome::Deny(pattern) => write!(f, "`{pattern}` is denied"),
            Outcome::Covered(host, preset) => write!(f, "`{host}` is in preset `{preset}`"),
            Outcome::Nothing(why) => f.write_str(why),
        }
    }
}

/// Makes a policy and a test of what a folder shows. Same folder, same text.
#[must_use]
pub fn propose(folder: &Folder, names: Names<'_>) -> Proposal {
    let mut sightings = Vec::new();
    let mut wanted: Vec<(usize, Pattern, Access)> = Vec::new();
    for file in &folder.files {
        look_at(file, &mut sightings, &mut wanted);
    }
    let presets = asked_presets(&sightings);
    let rules = settle(wanted, &presets, &mut sightings);
    let policy = render_policy(&presets, &rules, names);
    let tests = render_tests(&presets, &rules, names);
    Proposal { sightings, presets, rules, policy, tests }
}

/// What one file says. A sighting that asks for a rule is noted as `wanted`, and settled once all files are known.
fn look_at(file: &File, sightings: &mut Vec<Sighting>, wanted: &mut Vec<(usize, Pattern, Access)>) {
    let Some(mark) = marks::find(&file.path) else { return };
    let mut see = |line, what, outcome| {
        sightings.push(Sighting { file: file.path.clone(), line, what, outcome });
        sightings.len() - 1
    };
    if let Some(preset) = mark.preset {
        see(None, mark.what, Outcome::Preset(preset));
    }
    let text = match &file.content {
        Content::Text(text) => text,
        Content::Unreadable(why) => {
            see(None, mark.what, Outcome::Nothing(why));
            return;
        }
        Content::NotNeeded => {
            if mark.preset.is_none() {
                see(None, mark.what, Outcome::Nothing("nothing is taken over from it"));
            }
            return;
        }
    };
    let mut finds = Finds::default();
    if let Some(read) = mark.read {
        read(text, &mut finds);
    }
    for Find { line, what, says } in finds.found {
        let (text, access) = match says {
            Says::Preset(name) => {
                see(line, what, Outcome::Preset(name));
                continue;
            }
            Says::Unclear => {
                see(line, what, Outcome::Nothing("its host is not written out, so nothing is allowed for it"));
                continue;
            }
            Says::Remote(host) => {
                let name = host.split(':').next().unwrap_or_default().to_ascii_lowercase();
                if let Some((_, preset)) = SOURCE_HOSTS.into_iter().find(|(known, _)| *known == name) {
                    see(line, what, Outcome::Preset(preset));
                    continue;
                }
                (host, Access::Allow)
            }
            Says::Host(host) => (host, Access::Allow),
            Says::Rule(pattern, access) => (pattern, access),
        };
        match acceptable(&text, access != Access::Deny) {
            Ok(pattern) => {
                let at = see(line, what, Outcome::Nothing(""));
                wanted.push((at, pattern, access));
            }
            Err(why) => {
                see(line, what, Outcome::Nothing(why));
            }
        }
    }
    if finds.more > 0 {
        see(None, mark.what, Outcome::Nothing("it has too many entries: the rest is passed over"));
    }
    if let Some(why) = finds.broken {
        see(None, mark.what, Outcome::Nothing(why));
    }
}

/// The pattern, unless it says more than a project's file should say for its user.
fn acceptable(text: &str, allows: bool) -> Result<Pattern, &'static str> {
    let pattern = Pattern::parse(text).map_err(|_| "it is not a host or a pattern of hosts")?;
    match &pattern.hosts {
        Hosts::Any => Err("it says every host, which is not taken over"),
        hosts if allows && wider_than_public_suffix(hosts).is_some() => Err("anybody can get a name under it, so it is not taken over"),
        Hosts::Exact(_) if is_metadata_name(host_of(&pattern).as_deref().unwrap_or_default()) => {
            Err("cloud metadata services are not taken over")
        }
        Hosts::Network(network) if network.is_single() && is_metadata_address(network.addr()) => {
            Err("cloud metadata services are not taken over")
        }
        _ => Ok(pattern),
    }
}

/// The host of a pattern that names exactly one, or one that it matches. `None` for globs.
fn host_of(pattern: &Pattern) -> Option<String> {
    let hosts = Pattern { hosts: pattern.hosts.clone(), port: None }.to_string();
    match &pattern.hosts {
        Hosts::Exact(_) => Some(hosts),
        Hosts::Subdomains(_) => hosts.strip_prefix("*.").map(|name| format!("www.{name}")),
        Hosts::ApexAndSubdomains(_) => hosts.strip_prefix("**.").map(str::to_owned),
        Hosts::Network(network) => Some(match network.addr() {
            std::net::IpAddr::V4(v4) => v4.to_string(),
            std::net::IpAddr::V6(v6) => format!("[{v6}]"),
        }),
        Hosts::Any | Hosts::Glob(_) => None,
    }
}

fn asked_presets(sightings: &[Sighting]) -> Vec<(&'static str, Vec<String>)> {
    let places = |name: &str| -> Vec<String> {
        let asks = |sighting: &&Sighting| matches!(sighting.outcome, Outcome::Preset(asked) if asked == name);
        sightings.iter().filter(asks).map(Sighting::place).collect()
    };
    PRESET_ORDER.into_iter().map(|name| (name, places(name))).filter(|(_, places)| !places.is_empty()).collect()
}

/// One rule a pattern: a deny is stronger than an allow, and what a preset or a wider rule says needs no rule of its own.
fn settle(wanted: Vec<(usize, Pattern, Access)>, presets: &[(&'static str, Vec<String>)], sightings: &mut [Sighting]) -> Vec<Rule> {
    let preset_with = |pattern: &Pattern| {
        let has = |name: &str| presets::find(name).is_some_and(|preset| preset.patterns().any(|wide| wide.pattern.covers(pattern)));
        presets.iter().map(|(name, _)| *name).find(|name| has(name))
    };
    let mut rules: BTreeMap<String, Rule> = BTreeMap::new();
    for (at, pattern, access) in &wanted {
        let Some(sighting) = sightings.get_mut(*at) else { continue };
        let said = |access: Access| wanted.iter().filter(move |(_, _, said)| *said == access).map(|(_, pattern, _)| pattern);
        // The widest is written, and stands for all that it covers.
        let over = said(*access).filter(|wide| *wide != pattern && wide.covers(pattern));
        let wider = over.min_by_key(|wide| (wide.port.is_some(), wide.to_string().len()));
        let shown = wider.unwrap_or(pattern).to_string();
        sighting.outcome = if *access == Access::Deny {
            Outcome::Deny(shown.clone())
        } else if said(Access::Deny).any(|deny| deny.covers(pattern)) {
            Outcome::Nothing("another of these files denies it")
        } else if let Some(preset) = preset_with(pattern) {
            Outcome::Covered(pattern.to_string(), preset)
        } else {
            Outcome::Allow(shown.clone())
        };
        if wider.is_none() && matches!(sighting.outcome, Outcome::Allow(_) | Outcome::Deny(_)) {
            let rule = rules.entry(shown).or_insert_with(|| Rule { pattern: pattern.clone(), access: *access, seen: Vec::new() });
            rule.seen.push(sighting.place());
        }
    }
    rules.into_values().collect()
}

/// Places for a comment: the first few, and how many more.
fn seen_in(places: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = places.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match places.len().saturating_sub(SHOWN) {
        0 => format!("seen in {shown}"),
        more => format!("seen in {shown} and {more} more"),
    }
}

fn render_policy(presets: &[(&'static str, Vec<String>)], rules: &[Rule], names: Names<'_>) -> String {
    let mut text = format!(
        "# The network policy of this project, started by `netpolicy init` from what it saw here. What no rule allows is denied.\n\
         # Try it: netpolicy test --project {} {}\n\n\
         default_permissions = \"workspace\"\n\n\
         [permissions.workspace.network]\n\
         enabled = true\n\
         mode = \"full\"  # \"limited\" allows reading only: GET, HEAD and OPTIONS\n",
        names.policy, names.tests
    );
    if presets.is_empty() {
        text.push_str("presets = []  # such as [\"github\"]; `common-dependencies` has what builds commonly need\n");
    } else {
        text.push_str("presets = [\n");
        for (name, places) in presets {
            text.push_str(&format!("  {},  # {}\n", quote(name), seen_in(places)));
        }
        text.push_str("]\n");
    }
    text.push_str("\n[permissions.workspace.network.domains]\n");
    if rules.is_empty() {
        text.push_str("# \"api.example.com\" = \"allow\"\n");
    } else {
        text.push_str("# A host whose address is private needs that network as well, such as \"10.20.0.0/16\" = \"allow\".\n");
    }
    for rule in rules {
        text.push_str(&format!("{} = \"{}\"  # {}\n", quote(&rule.pattern.to_string()), rule.access, seen_in(&rule.seen)));
    }
    text
}

fn render_tests(presets: &[(&'static str, Vec<String>)], rules: &[Rule], names: Names<'_>) -> String {
    let mut text = format!("# netpolicy test --project {} {}\n", names.policy, names.tests);
    let denied: Vec<&Rule> = rules.iter().filter(|rule| rule.access == Access::Deny).collect();
    let is_denied = |pattern: &Pattern| denied.iter().any(|rule| rule.pattern.covers(pattern));
    for (name, _) in presets {
        // The first host of the preset that nothing denies.
        let hosts = presets::find(name).into_iter().flat_map(presets::Preset::patterns).filter_map(|entry| host_of(&entry.pattern));
        let mut open = hosts.filter(|host| Pattern::parse(host).is_ok_and(|pattern| !is_denied(&pattern)));
        if let Some(host) = open.next() {
            case(&mut text, &format!("the preset {name} can be reached"), &[format!("GET https://{host}/")], "allow", None);
        }
    }
    let requests = |access: Access| -> Vec<String> {
        rules.iter().filter(|rule| rule.access == access).filter_map(|rule| request(&rule.pattern)).collect()
    };
    case(&mut text, "hosts that the project names can be reached", &requests(Access::Allow), "allow", None);
    case(&mut text, "what is denied cannot be reached", &requests(Access::Deny), "deny", Some("denied"));
    let unnamed = |host: &&str| Pattern::parse(host).is_ok_and(|pattern| !rules.iter().any(|rule| rule.pattern.covers(&pattern)));
    let other: Vec<String> =
        ["example.com", "example.org", "example.invalid"].into_iter().filter(unnamed).map(|host| format!("GET https://{host}/")).collect();
    case(&mut text, "nothing else can be reached", &other, "deny", Some("not_allowed"));
    let metadata = ["GET http://169.254.169.254/".to_owned()];
    case(&mut text, "the cloud's metadata service cannot be reached", &metadata, "deny", Some("not_allowed_local"));
    text
}

fn request(pattern: &Pattern) -> Option<String> {
    let host = host_of(pattern)?;
    Some(match pattern.port {
        Some(port) => format!("CONNECT {host}:{port}"),
        None => format!("GET https://{host}/"),
    })
}

fn case(text: &mut String, name: &str, requests: &[String], expect: &str, reason: Option<&str>) {
    let requests = match requests {
        [] => return,
        [one] => format!("request = {}", quote(one)),
        [_, _] => format!("requests = [{}]", requests.iter().map(|request| quote(request)).collect::<Vec<_>>().join(", ")),
        _ => format!("requests = [\n{}]", requests.iter().map(|request| format!("  {},\n", quote(request))).collect::<String>()),
    };
    text.push_str(&format!("\n[[case]]\nname = {}\n{requests}\nexpect = \"{expect}\"\n", quote(name)));
    if let Some(reason) = reason {
        text.push_str(&format!("reason = \"{reason}\"\n"));
    }
}
