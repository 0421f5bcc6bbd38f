//! The files that say something of a project's network, and what each of them says.

use super::detect::{self, Finds};

/// A file by its name.
pub(super) struct Mark {
    /// The last parts of its path; one `*` stands for anything. Case does not matter.
    pub(super) name: &'static str,
    /// What it is, for people.
    pub(super) what: &'static str,
    /// The preset that goes with it.
    pub(super) preset: Option<&'static str>,
    /// What finds hosts in its text.
    pub(super) read: Option<fn(&str, &mut Finds)>,
}

const fn mark(name: &'static str, what: &'static str, preset: &'static str) -> Mark {
    Mark { name, what, preset: Some(preset), read: None }
}

const fn reads(name: &'static str, what: &'static str, preset: &'static str, read: fn(&str, &mut Finds)) -> Mark {
    Mark { name, what, preset: Some(preset), read: Some(read) }
}

const fn note(name: &'static str, what: &'static str) -> Mark {
    Mark { name, what, preset: None, read: None }
}

const fn only_reads(name: &'static str, what: &'static str, read: fn(&str, &mut Finds)) -> Mark {
    Mark { name, what, preset: None, read: Some(read) }
}

/// The first that fits is the one.
pub(super) static MARKS: &[Mark] = &[
    only_reads(".git/config", "git remotes", detect::git_config),
    note(".git", "a work tree whose repository, and its remotes, are elsewhere"),
    only_reads(".gitmodules", "git submodules", detect::git_config),
    reads(".npmrc", "npm settings", "npm", detect::npmrc),
    reads(".yarnrc.yml", "Yarn settings", "npm", detect::yarnrc),
    reads(".yarnrc", "Yarn settings", "npm", detect::yarnrc),
    reads("bunfig.toml", "Bun settings", "npm", detect::toml_urls),
    reads("package.json", "a package of npm", "npm", detect::package_json),
    mark("package-lock.json", "a lock file of npm", "npm"),
    mark("npm-shrinkwrap.json", "a lock file of npm", "npm"),
    mark("yarn.lock", "a lock file of Yarn", "npm"),
    mark("pnpm-lock.yaml", "a lock file of pnpm", "npm"),
    mark("bun.lock", "a lock file of Bun", "npm"),
    mark("bun.lockb", "a lock file of Bun", "npm"),
    reads("requirements*.txt", "Python requirements", "pypi", detect::requirements),
    reads("pyproject.toml", "a Python project", "pypi", detect::toml_urls),
    reads("pip.conf", "pip settings", "pypi", detect::pip_conf),
    reads("pip.ini", "pip settings", "pypi", detect::pip_conf),
    reads("Pipfile", "a Pipfile", "pypi", detect::toml_urls),
    reads("uv.toml", "uv settings", "pypi", detect::toml_urls),
    mark("uv.lock", "a lock file of uv", "pypi"),
    mark("poetry.lock", "a lock file of Poetry", "pypi"),
    mark("Pipfile.lock", "a lock file of Pipenv", "pypi"),
    mark("setup.py", "a Python package", "pypi"),
    reads("Cargo.toml", "a Rust package", "crates", detect::toml_urls),
    reads(".cargo/config.toml", "Cargo settings", "crates", detect::toml_urls),
    reads(".cargo/config", "Cargo settings", "crates", detect::toml_urls),
    mark("Cargo.lock", "a lock file of Cargo", "crates"),
    mark("go.mod", "a Go module", "go"),
    mark("go.sum", "a lock file of Go", "go"),
    reads("pom.xml", "a Maven project", "maven-gradle", detect::maven),
    reads("settings.xml", "Maven settings", "maven-gradle", detect::maven),
    reads("build.gradle", "a Gradle build", "maven-gradle", detect::gradle),
    reads("build.gradle.kts", "a Gradle build", "maven-gradle", detect::gradle),
    reads("settings.gradle", "Gradle settings", "maven-gradle", detect::gradle),
    reads("settings.gradle.kts", "Gradle settings", "maven-gradle", detect::gradle),
    reads("gradle-wrapper.properties", "a Gradle wrapper", "maven-gradle", detect::wrapper),
    reads("maven-wrapper.properties", "a Maven wrapper", "maven-gradle", detect::wrapper),
    reads("nuget.config", "NuGet settings", "nuget", detect::nuget),
    mark("*.csproj", "a .NET project", "nuget"),
    mark("*.fsproj", "a .NET project", "nuget"),
    mark("*.vbproj", "a .NET project", "nuget"),
    reads("Gemfile", "a Gemfile", "rubygems", detect::gemfile),
    mark("Gemfile.lock", "a lock file of Bundler", "rubygems"),
    mark("*.gemspec", "a Ruby gem", "rubygems"),
    reads("composer.json", "a package of Composer", "packagist", detect::composer),
    mark("composer.lock", "a lock file of Composer", "packagist"),
    reads("Dockerfile", "a Dockerfile", "docker", detect::dockerfile),
    reads("Dockerfile.*", "a Dockerfile", "docker", detect::dockerfile),
    reads("*.Dockerfile", "a Dockerfile", "docker", detect::dockerfile),
    reads("Containerfile", "a Containerfile", "docker", detect::dockerfile),
    reads("compose*.yaml", "a Compose file", "docker", detect::compose),
    reads("compose*.yml", "a Compose file", "docker", detect::compose),
    reads("docker-compose*.yaml", "a Compose file", "docker", detect::compose),
    reads("docker-compose*.yml", "a Compose file", "docker", detect::compose),
    only_reads(".claude/settings.json", "settings of Claude Code", detect::claude),
    note(".claude/settings.local.json", "one person's settings of Claude Code"),
    only_reads(".srt-settings.json", "settings of a sandbox", detect::srt),
    note(".codex/config.toml", "settings of Codex"),
    note(".cursor/*", "settings of Cursor"),
    note(".devcontainer/devcontainer.json", "a development container"),
    note(".devcontainer.json", "a development container"),
    note(".github/workflows/*.yml", "a workflow of GitHub Actions"),
    note(".github/workflows/*.yaml", "a workflow of GitHub Actions"),
    note(".gitlab-ci.yml", "a pipeline of GitLab"),
];

/// Every preset that a file may go with, in the order in which policies name them.
pub(super) const PRESET_ORDER: [&str; 14] = [
    "github",
    "gitlab",
    "npm",
    "pypi",
    "crates",
    "go",
    "maven-gradle",
    "nuget",
    "rubygems",
    "packagist",
    "docker",
    "debian-ubuntu",
    "alpine",
    "fedora",
];

/// Source hosts that have a preset.
pub(super) const SOURCE_HOSTS: [(&str, &str); 3] = [("github.com", "github"), ("ssh.github.com", "github"), ("gitlab.com", "gitlab")];

/// The mark that fits a path.
pub(super) fn find(path: &str) -> Option<&'static Mark> {
    MARKS.iter().find(|mark| fits(mark.name, path))
}

fn fits(name: &str, path: &str) -> bool {
    // As many parts of the path as the mark has.
    let parts = name.matches('/').count() + 1;
    let start = path.rmatch_indices('/').nth(parts - 1).map_or(0, |(at, _)| at + 1);
    let tail = path.get(start..).unwrap_or_default();
    if tail.matches('/').count() + 1 != parts {
        return false;
    }
    let (name, tail) = (name.to_ascii_lowercase(), tail.to_ascii_lowercase());
    match name.split_once('*') {
        None => name == tail,
        Some((before, after)) => {
            tail.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).is_some_and(|rest| !rest.contains('/'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_fit_paths() {
        for (name, path, expected) in [
            ("package.json", "package.json", true),
            ("package.json", "web/package.json", true),
            ("package.json", "my-package.json", false),
            ("nuget.config", "src/NuGet.Config", true),
            (".git/config", "config", false),
            (".git/config", ".git/config", true),
            ("*.csproj", "a/b/C.csproj", true),
            (".cursor/*", ".cursor/rules.md", true),
            (".cursor/*", ".cursor/rules/a.md", false),
            ("requirements*.txt", "requirements.txt", true),
            ("requirements*.txt", "requirements-dev.txt", true),
            ("requirements*.txt", "requirements.in", false),
        ] {
            assert_eq!(fits(name, path), expected, "{name} {path}");
        }
    }

    #[test]
    fn every_preset_has_its_place_and_is_built_in() {
        let named = MARKS.iter().filter_map(|mark| mark.preset).chain(SOURCE_HOSTS.map(|(_, preset)| preset));
        let known = BTreeSet::from(PRESET_ORDER);
        assert!(named.clone().all(|name| known.contains(name)));
        let missing: Vec<_> = PRESET_ORDER.into_iter().filter(|name| crate::presets::find(name).is_none()).collect();
        assert!(missing.is_empty(), "not built in: {missing:?}");
    }
}
