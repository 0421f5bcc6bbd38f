//! The documents, as they are: every snippet says what its fence says of it, every command prints what is shown, every link leads somewhere.
//!
//! | fence | what is in it, and what has to come of it |
//! | --- | --- |
//! | `toml` | a user's settings, whole: they compile without a word |
//! | `toml network` | what stands under `[permissions.workspace.network]`, and its tables; `enabled = true` is put before it |
//! | `toml domains` | what stands under `[permissions.workspace.network.domains]` |
//! | `toml managed`, `toml project` | settings of that layer, together with a plain user layer |
//! | `toml requirements` | requirements of the managed layer, together with a plain user layer |
//! | `toml … warns=CODE,CODE` | any of these, with warnings of just these codes |
//! | `toml … fails=CODE,CODE` | any of these, with errors and warnings of just these codes |
//! | `toml test` | a file of policy tests: the reader of such files takes it without a word |
//! | `console` | commands after `$ `, each with what it prints on both outputs; `…` stands for any text. They run in the page's own folder |
//! | `console` in README.md | the same where every command is `netpolicy`; the others start the data plane, and are not run |
//! | `console shown` | the same, not run: it needs the data plane, which this crate does not know |
//! | `text requests` | requests to the snippet above, what each gets, and perhaps a word on it, two blanks apart |
//! | `toml gallery`, `text gallery` | what `gallery.rs` writes and compares |
//! | `text`, `sh`, `yaml`, `json` | anything else |
//!
//! A first line such as `# config.toml` (or `! list.txt`) writes the snippet into the page's folder under that name, for the commands below it.
//! So does a comment `<!-- file: config.toml -->` before the fence, where the snippet is shown without the name. `<!-- edit: config.toml: OLD -> NEW -->` there changes
//! that file, in the one place that has OLD, for this block and those below it.
//! `BLESS=1` writes what is printed into the pages; read the difference.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

mod verdict;

use policy_compiler::diagnostic;
use policy_compiler::source::{Role, SourceFile, SourceId};
use policy_compiler::testing;
use policy_format::{Blob, Layer};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use verdict::verdict;

const NETPOLICY: &str = env!("CARGO_BIN_EXE_netpolicy");

/// What is put before a part of a policy to make it one.
const PROFILE: &str = "default_permissions = \"workspace\"\n[permissions.workspace.network]\nenabled = true\n";

/// How many blocks of each kind there are: one that is lost, or marked wrongly, is seen here.
const COUNTS: &[(&str, usize)] = &[
    ("console", 73),
    ("console of the data plane", 4),
    ("console shown", 10),
    ("domains", 11),
    ("domains fails", 5),
    ("domains warns", 1),
    ("json", 5),
    ("managed", 1),
    ("network", 16),
    ("network fails", 11),
    ("network warns", 4),
    ("project", 1),
    ("project fails", 1),
    ("requirements", 3),
    ("sh", 14),
    ("test", 4),
    ("test fails", 1),
    ("text", 10),
    ("text requests", 18),
    ("toml", 33),
    ("toml fails", 8),
    ("toml warns", 8),
    ("yaml", 4),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// README.md and every page under `docs`, sorted.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

/// A fenced block: its info string, and its lines among those of the page, from 0.
struct Block {
    info: String,
    lines: Range<usize>,
}

fn blocks(lines: &[&str]) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, usize)> = None;
    for (number, line) in lines.iter().enumerate() {
        let Some(info) = line.trim_start().strip_prefix("```") else { continue };
        match open.take() {
            None => open = Some((info.trim().to_owned(), number + 1)),
            Some((opened, _)) if opened.ends_with(" gallery") => {}
            Some((opened, first)) => blocks.push(Block { info: opened, lines: first..number }),
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The file that the first line of a block names.
fn file_name<'l>(body: &[&'l str]) -> Option<&'l str> {
    let name = body.first()?.strip_prefix("# ").or_else(|| body.first()?.strip_prefix("! "))?;
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
    (plain && name.contains('.') && !name.contains("..") && !name.starts_with('/')).then_some(name)
}

/// One page on its way through the tests, with a folder in which its files are written.
struct Page {
    shown: String,
    dir: tempfile::TempDir,
}

impl Page {
    fn new(path: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The search for a project's settings ends here, and there is nobody at home.
        fs::create_dir_all(dir.path().join("page/.git")).unwrap();
        Self { shown: path.strip_prefix(root()).unwrap().display().to_string(), dir }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("page")
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Does what the comments before a fence say; `above` is the page up to the fence.
    fn prepare(&self, above: &[&str], body: &[&str], place: &str) {
        let comments = above.iter().rev().map_while(|line| match line.trim() {
            "" => Some(None),
            line => line.strip_prefix("<!-- ")?.strip_suffix(" -->").map(Some),
        });
        let comments: Vec<&str> = comments.flatten().collect();
        for comment in comments.into_iter().rev() {
            match comment.split_once(": ") {
                Some(("file", name)) => self.write(name, &(body.join("\n") + "\n")),
                Some(("edit", edit)) => {
                    let (name, change) = edit.split_once(": ").unwrap_or_else(|| panic!("{place}: `{comment}` names no file"));
                    let (old, new) = change.split_once(" -> ").unwrap_or_else(|| panic!("{place}: `{comment}` has no `->`"));
                    let text = fs::read_to_string(self.folder().join(name)).unwrap_or_else(|error| panic!("{place}: `{name}`: {error}"));
                    assert_eq!(text.matches(old).count(), 1, "{place}: `{old}` in {name}");
                    self.write(name, &text.replace(old, new));
                }
                _ => panic!("{place}: `{comment}` is no comment that is understood before a block"),
            }
        }
    }

    /// What a command prints on both outputs.
    fn run(&self, command: &str) -> String {
        let tools = Path::new(NETPOLICY).parent().unwrap().to_owned();
        let path = std::env::join_paths([tools].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap()))).unwrap();
        let output = Command::new("sh")
            .args(["-c", &format!("exec 2>&1\n{command}")])
            .current_dir(self.folder())
            .env("PATH", path)
            .env("HOME", self.dir.path().join("home"))
            .env_remove("CODEX_HOME")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Compiles a snippet; `place` is what to say where it fails.
    fn compile(&self, words: &[&str], text: &str, place: &str) -> String {
        let (mut kind, mut outcome, mut expected) = ("toml", "", BTreeSet::new());
        for word in words {
            match word.split_once('=') {
                Some((word @ ("warns" | "fails"), codes)) if outcome.is_empty() => {
                    outcome = word;
                    expected = codes.split(',').map(str::to_owned).collect();
                }
                _ if kind == "toml" => {
                    kind = ["network", "domains", "managed", "project", "requirements", "test"]
                        .into_iter()
                        .find(|known| known == word)
                        .unwrap_or_else(|| panic!("{place}: `{word}` is no word of a toml block"));
                }
                _ => panic!("{place}: `{word}` is one word too many"),
            }
        }
        let file = match kind {
            "network" => format!("{PROFILE}{text}"),
            "domains" => format!("{PROFILE}[permissions.workspace.network.domains]\n{text}"),
            _ => text.to_owned(),
        };
        if kind == "test" {
            let sources = [SourceFile::from_text(Layer::Project, Role::Config, "policy.test.toml", file)];
            let mut diagnostics = Vec::new();
            let cases = testing::read(SourceId(0), &sources, &mut diagnostics);
            let codes: BTreeSet<String> = diagnostics.iter().map(|diagnostic| diagnostic.code.as_str().to_owned()).collect();
            assert!(codes == expected, "{place}: found {codes:?}\n{}", diagnostic::render(&sources, &diagnostics, false));
            assert!(!cases.is_empty() || !expected.is_empty(), "{place}: there is no case");
            return format!("{kind} {outcome}").trim_end().to_owned();
        }
        self.write(".base.toml", PROFILE);
        self.write(".snippet.toml", &file);
        let layers = match kind {
            "managed" | "project" | "requirements" => format!("--user .base.toml --{kind} .snippet.toml"),
            _ => "--user .snippet.toml".to_owned(),
        };
        let printed = self.run(&format!("netpolicy check --json {layers}"));
        let said: serde_json::Value = serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{place}: {error}: {printed}"));
        let codes: BTreeSet<String> =
            said["diagnostics"].as_array().unwrap().iter().map(|diagnostic| diagnostic["code"].as_str().unwrap().to_owned()).collect();
        let text = || self.run(&format!("netpolicy check {layers}"));
        assert!(said["ok"] == (outcome != "fails") && codes == expected, "{place}: found {codes:?}\n{}", text());
        format!("{kind} {outcome}").trim_end().to_owned()
    }

    /// Asks the user's settings that were compiled last.
    fn requests(&self, body: &[&str], place: &str) {
        let printed = self.run("netpolicy compile --user .snippet.toml -o .policy.bin");
        let blob = fs::read(self.folder().join(".policy.bin")).unwrap_or_else(|_| panic!("{place}: {printed}"));
        let blob = Blob::open(blob).unwrap();
        for line in body {
            let mut columns = line.split("  ").map(str::trim).filter(|column| !column.is_empty());
            let (asked, expected) = (columns.next().unwrap(), columns.next().unwrap());
            let found = verdict(&blob, asked);
            let reason = found.split(" by ").next().unwrap();
            assert_eq!(reason, expected, "{place}: {line}");
        }
    }

    /// Runs the commands of a block and gives it back with what they print.
    fn console(&self, body: &[&str], place: &str) -> Vec<String> {
        let mut printed = Vec::new();
        let mut rest = body;
        assert!(body.first().is_some_and(|line| line.starts_with("$ ")), "{place}: a console block starts with `$ `");
        while let Some((command, after)) = rest.split_first() {
            let shown = after.iter().take_while(|line| !line.starts_with("$ ")).count();
            let (shown, after) = after.split_at(shown);
            rest = after;
            let found = self.run(command.strip_prefix("$ ").unwrap());
            printed.push((*command).to_owned());
            // What is left out on purpose stays out.
            if matches(&found, &shown.join("\n")) {
                printed.extend(shown.iter().map(|line| (*line).to_owned()));
            } else {
                printed.extend(found.lines().map(str::to_owned));
            }
        }
        printed
    }
}

/// Whether every command of a block is `netpolicy`.
fn only_netpolicy(body: &[&str]) -> bool {
    body.iter().filter_map(|line| line.strip_prefix("$ ")).all(|command| command.starts_with("netpolicy "))
}

/// Whether `text` is `pattern`, in which `…` stands for any text.
fn matches(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = text.trim_end().strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn every_snippet_is_what_its_fence_says_and_every_command_prints_what_is_shown() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let bless = std::env::var_os("BLESS").is_some();
    let mut drifted = Vec::new();
    for path in pages() {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let page = Page::new(&path);
        let mut rewritten: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let mut moved: isize = 0;
        for block in blocks(&lines) {
            let place = format!("{}:{}", page.shown, block.lines.start);
            let body = &lines[block.lines.clone()];
            if let Some(name) = file_name(body) {
                page.write(name, &(body.join("\n") + "\n"));
            }
            let words: Vec<&str> = block.info.split_whitespace().collect();
            if words.last() != Some(&"gallery") {
                page.prepare(&lines[..block.lines.start - 1], body, &place);
            }
            let kind = match words.as_slice() {
                ["toml", words @ ..] => page.compile(words, &(body.join("\n") + "\n"), &place),
                ["console", "shown"] => block.info.clone(),
                // The tour starts the data plane on the way, which this crate does not know.
                ["console"] if page.shown == "README.md" && !only_netpolicy(body) => "console of the data plane".to_owned(),
                ["console"] => {
                    let printed = page.console(body, &place);
                    if printed != body {
                        drifted.push(format!("{place}:\n{}", printed.join("\n")));
                    }
                    let at = |line: usize| usize::try_from(isize::try_from(line).unwrap() + moved).unwrap();
                    let (start, end) = (at(block.lines.start), at(block.lines.end));
                    moved += isize::try_from(printed.len()).unwrap() - isize::try_from(body.len()).unwrap();
                    rewritten.splice(start..end, printed);
                    block.info.clone()
                }
                ["text", "requests"] => {
                    page.requests(body, &place);
                    block.info.clone()
                }
                ["text" | "sh" | "yaml" | "json"] => block.info.clone(),
                _ => panic!("{place}: a block `{}` is none that is tested", block.info),
            };
            *counts.entry(kind).or_default() += 1;
        }
        if bless {
            fs::write(&path, rewritten.join("\n") + "\n").unwrap();
        }
    }
    assert!(bless || drifted.is_empty(), "these print something else (`BLESS=1` writes it):\n{}", drifted.join("\n\n"));
    assert_eq!(counts, COUNTS.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect());
}

/// Files, and headings in them.
#[test]
fn every_link_leads_somewhere() {
    let mut links = 0;
    for path in pages() {
        let text = fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            if target.starts_with("https://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(file.exists(), "{}: `{target}` leads nowhere", path.display());
            let found = heading.is_empty() || fs::read_to_string(&file).unwrap().lines().any(|line| slug(line).as_deref() == Some(heading));
            assert!(found, "{}: `{target}`: there is no such heading", path.display());
            links += 1;
        }
    }
    assert!(links > 40, "{links} links");
}

/// The name under which a heading is linked to.
fn slug(line: &str) -> Option<String> {
    let heading = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
    let kept = heading.to_lowercase().replace(' ', "-");
    Some(kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect())
}

#[test]
fn the_entrances_have_every_page() {
    for name in ["policy", "commands"] {
        let entrance = fs::read_to_string(root().join(format!("docs/{name}.md"))).unwrap();
        for page in fs::read_dir(root().join("docs").join(name)).unwrap() {
            let page = page.unwrap().file_name().into_string().unwrap();
            assert!(entrance.contains(&format!("]({name}/{page})")), "docs/{name}.md does not link `{page}`");
        }
    }
}

/// In the words and the order of `netpolicy --help`.
#[test]
fn every_command_is_in_the_table() {
    let help = Command::new(NETPOLICY).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<String> =
        commands.map(|line| line.split_whitespace().next().unwrap().to_owned()).filter(|name| name != "help").collect();
    let page = fs::read_to_string(root().join("docs/commands.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `netpolicy ")?.split('`').next());
    assert!(!commands.is_empty());
    assert_eq!(rows.collect::<Vec<_>>(), commands);
}

#[test]
fn dots_stand_for_any_text() {
    for (text, pattern, expected) in [
        ("a\nb\n", "a\nb", true),
        ("a", "b", false),
        ("a b c", "a … c", true),
        ("abc", "a…", true),
        ("abc", "…c", true),
        ("abcd", "…b…d", true),
        ("abc", "…b", false),
        ("ab", "a…b…b", false),
        ("", "", true),
    ] {
        assert_eq!(matches(text, pattern), expected, "{text:?} {pattern:?}");
    }
}
