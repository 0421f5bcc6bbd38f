//! Named, built-in domain sets. Each is a file of patterns under `presets/`:
//!
//! ```text
//! # title: what it is for            the head: title, source, date and access, each once
//! # source: who says so
//! # date: 2026-11-21                 when that was looked at
//! # access: allow                    or deny
//!
//! ## npm                             a group
//! **.example.com   # why             a pattern, with or without a reason
//! ```

use policy_format::{Access, Host, Pattern};

/// A named domain set.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// The name that policies use.
    pub name: &'static str,
    text: &'static str,
}

/// One pattern of a preset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its line in the preset's file, from 1.
    pub line: u32,
    /// Which hosts; without a port.
    pub pattern: Pattern,
    /// The group that it stands in, an ecosystem for instance.
    pub group: &'static str,
    /// What the host is there for, where that is said.
    pub why: Option<&'static str>,
}

/// Every preset.
pub const PRESETS: [Preset; 22] = [
    Preset { name: "none", text: include_str!("../presets/none.txt") },
    Preset { name: "all", text: include_str!("../presets/all.txt") },
    Preset { name: "common-dependencies", text: include_str!("../presets/common-dependencies.txt") },
    Preset { name: "openai", text: include_str!("../presets/openai.txt") },
    Preset { name: "anthropic", text: include_str!("../presets/anthropic.txt") },
    Preset { name: "github", text: include_str!("../presets/github.txt") },
    Preset { name: "gitlab", text: include_str!("../presets/gitlab.txt") },
    Preset { name: "npm", text: include_str!("../presets/npm.txt") },
    Preset { name: "pypi", text: include_str!("../presets/pypi.txt") },
    Preset { name: "crates", text: include_str!("../presets/crates.txt") },
    Preset { name: "go", text: include_str!("../presets/go.txt") },
    Preset { name: "maven-gradle", text: include_str!("../presets/maven-gradle.txt") },
    Preset { name: "nuget", text: include_str!("../presets/nuget.txt") },
    Preset { name: "rubygems", text: include_str!("../presets/rubygems.txt") },
    Preset { name: "packagist", text: include_str!("../presets/packagist.txt") },
    Preset { name: "docker", text: include_str!("../presets/docker.txt") },
    Preset { name: "debian-ubuntu", text: include_str!("../presets/debian-ubuntu.txt") },
    Preset { name: "alpine", text: include_str!("../presets/alpine.txt") },
    Preset { name: "fedora", text: include_str!("../presets/fedora.txt") },
    Preset { name: "cdn", text: include_str!("../presets/cdn.txt") },
    Preset { name: "cloud-metadata", text: include_str!("../presets/cloud-metadata.txt") },
    Preset { name: "exfiltration", text: include_str!("../presets/exfiltration.txt") },
];

/// The preset of that name.
#[must_use]
pub fn find(name: &str) -> Option<Preset> {
    PRESETS.into_iter().find(|preset| preset.name == name)
}

/// The preset whose name `text` may have meant. Nothing and everything are no guesses: whoever means them has to write them.
#[must_use]
pub fn nearest(text: &str) -> Option<&'static str> {
    let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).filter(|name| !matches!(*name, "none" | "all")).collect();
    crate::schema::nearest_of(text, &names)
}

/// Every entry of every preset that covers `host`, as a rule with the preset's access would.
pub fn covering(host: &Host) -> impl Iterator<Item = (Preset, Entry)> {
    PRESETS.into_iter().flat_map(move |preset| {
        let denies = preset.access() == Access::Deny;
        let covers = move |entry: &Entry| if denies { entry.pattern.hosts.denies(host) } else { entry.pattern.hosts.matches(host) };
        preset.patterns().filter(covers).map(move |entry| (preset, entry))
    })
}

impl Preset {
    /// What it is for.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.head("title")
    }

    /// Who says that these are the hosts.
    #[must_use]
    pub fn source(self) -> &'static str {
        self.head("source")
    }

    /// When the source was looked at: year-month-day.
    #[must_use]
    pub fn date(self) -> &'static str {
        self.head("date")
    }

    /// What its rules do: allow or deny.
    #[must_use]
    pub fn access(self) -> Access {
        if self.head("access") == "allow" { Access::Allow } else { Access::Deny }
    }

    /// Its file, as places show it.
    #[must_use]
    pub fn file(self) -> String {
        format!("presets/{}.txt", self.name)
    }

    /// Its patterns, in the order of the file.
    pub fn patterns(self) -> impl Iterator<Item = Entry> {
        let mut group = "";
        (1..).zip(self.text.lines()).filter_map(move |(line, text)| {
            if let Some(heading) = text.strip_prefix("##") {
                group = heading.trim();
            }
            let (pattern, why) = text.split_once('#').map_or((text, None), |(pattern, why)| (pattern, Some(why.trim())));
            let pattern = Pattern::parse(pattern).ok()?;
            Some(Entry { line, pattern, group, why })
        })
    }

    fn head(self, key: &str) -> &'static str {
        let lines = self.text.lines().map_while(|line| line.strip_prefix("# ")?.split_once(": "));
        lines.into_iter().find(|(found, _)| *found == key).map_or("", |(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suffix::{Width, wider_than_public_suffix};
    use policy_format::Hosts;
    use std::collections::HashSet;

    #[test]
    fn every_file_is_whole() {
        for preset in PRESETS {
            let name = preset.name;
            let keys: Vec<&str> =
                preset.text.lines().map_while(|line| line.strip_prefix("# ")?.split_once(": ")).map(|(key, _)| key).collect();
            assert_eq!(keys, ["title", "source", "date", "access"], "{name}");
            assert!(matches!(preset.head("access"), "allow" | "deny"), "{name}");
            assert!(!preset.title().is_empty() && !preset.source().is_empty(), "{name}");
            let date: Vec<usize> = preset.date().split('-').map(|part| part.parse::<u32>().map_or(0, |_| part.len())).collect();
            assert_eq!(date, [4, 2, 2], "{name}");
            let lines = preset.text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).count();
            assert_eq!(preset.patterns().count(), lines, "{name}: a line is not a pattern");
            let mut seen = HashSet::new();
            for entry in preset.patterns() {
                assert!(seen.insert(entry.pattern.to_string()), "{name}:{}: twice", entry.line);
                assert_eq!(entry.pattern.port, None, "{name}:{}", entry.line);
                assert!(!entry.group.is_empty() && entry.why != Some(""), "{name}:{}", entry.line);
            }
        }
    }

    #[test]
    fn the_sets_are_there_and_of_their_size() {
        let size = |name: &str| find(name).unwrap().patterns().count();
        assert!(size("common-dependencies") >= 70);
        assert!(size("exfiltration") >= 60);
        assert_eq!((size("none"), size("all")), (0, 1));
        for preset in PRESETS.iter().filter(|preset| !matches!(preset.name, "none" | "all")) {
            assert!(preset.patterns().count() >= 9, "{}", preset.name);
            let denies = matches!(preset.name, "cloud-metadata" | "exfiltration");
            assert_eq!(preset.access() == Access::Deny, denies, "{}", preset.name);
        }
        assert!(find("common-dependancies").is_none());
        for (text, near) in [("common-dependancies", Some("common-dependencies")), ("githbu", Some("github")), ("nope", None), ("al", None)]
        {
            assert_eq!(nearest(text), near, "{text}");
        }
    }

    /// An allow that reaches hosts of different owners is what a preset is there to avoid. A deny may: such names are what tunnels give out.
    #[test]
    fn no_allow_is_wider_than_one_owner() {
        for preset in PRESETS {
            for Entry { line, pattern, .. } in preset.patterns().filter(|entry| entry.pattern.hosts != Hosts::Any) {
                let wide = wider_than_public_suffix(&pattern.hosts);
                let anyone = matches!(&wide, Some(wide) if matches!(wide.width, Width::IsSuffix { icann: true } | Width::NoSuffix));
                // OpenAI's own domain for users' files, on the list so that browsers keep them apart.
                let owned = pattern.to_string() == "*.oaiusercontent.com";
                assert!(!anyone && (wide.is_none() || owned || preset.access() == Access::Deny), "{}:{line}: {wide:?}", preset.name);
            }
        }
    }

    #[test]
    fn nothing_that_one_preset_allows_is_denied_by_another() {
        for preset in PRESETS.into_iter().filter(|preset| preset.access() == Access::Allow) {
            for entry in preset.patterns() {
                let name = match entry.pattern.hosts {
                    Hosts::Exact(name) | Hosts::Subdomains(name) | Hosts::ApexAndSubdomains(name) => name,
                    _ => continue,
                };
                let denying = covering(&Host::Name(name)).find(|(found, _)| found.access() == Access::Deny);
                assert!(denying.is_none(), "{}:{}: {denying:?}", preset.name, entry.line);
            }
        }
    }

    #[test]
    fn metadata_services_are_all_denied() {
        use policy_format::net::{METADATA_ADDRESSES, METADATA_NAMES};
        let preset = find("cloud-metadata").unwrap();
        let denied = |host: &Host| preset.patterns().any(|entry| entry.pattern.hosts.denies(host));
        for ip in METADATA_ADDRESSES {
            assert!(denied(&Host::Ip(ip)), "{ip}");
        }
        for name in METADATA_NAMES {
            assert!(denied(&Host::parse(name).unwrap()), "{name}");
        }
        assert!(denied(&Host::parse("::ffff:169.254.169.254").unwrap()));
    }
}
