//! Named, built-in domain sets. Each is a file of patterns under `presets/`, with its source and date in its head.

use policy_format::Pattern;

/// A named domain set.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// The name that policies use.
    pub name: &'static str,
    /// What its patterns do.
    pub access: policy_format::Access,
    text: &'static str,
}

/// Every preset.
pub const PRESETS: [Preset; 5] = [
    Preset { name: "none", access: policy_format::Access::Allow, text: include_str!("../presets/none.txt") },
    Preset { name: "common-dependencies", access: policy_format::Access::Allow, text: include_str!("../presets/common-dependencies.txt") },
    Preset { name: "openai", access: policy_format::Access::Allow, text: include_str!("../presets/openai.txt") },
    Preset { name: "github", access: policy_format::Access::Allow, text: include_str!("../presets/github.txt") },
    Preset { name: "all", access: policy_format::Access::Allow, text: include_str!("../presets/all.txt") },
];

/// The preset of that name.
#[must_use]
pub fn find(name: &str) -> Option<Preset> {
    PRESETS.into_iter().find(|preset| preset.name == name)
}

impl Preset {
    /// Its patterns, each with its line from 1.
    pub fn patterns(self) -> impl Iterator<Item = (u32, Pattern)> {
        let lines = (1..).zip(self.text.lines().map(str::trim));
        lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .filter_map(|(number, line)| Some((number, Pattern::parse(line).ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_every_preset_is_a_pattern() {
        for preset in PRESETS {
            let lines = preset.text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).count();
            assert_eq!(preset.patterns().count(), lines, "{}", preset.name);
            assert!(preset.text.starts_with('#'), "{} says what it is", preset.name);
        }
        assert!(find("common-dependencies").unwrap().patterns().count() >= 70);
        assert!(find("common-dependancies").is_none());
    }
}
