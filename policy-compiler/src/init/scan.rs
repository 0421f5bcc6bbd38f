//! A folder to the facts that a proposal is made from: bounded in depth, entries and bytes, and never outside the folder.

use super::marks;
use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// How far a scan goes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Folders below the root.
    pub depth: usize,
    /// Entries of folders, all together.
    pub entries: usize,
    /// Bytes of one file; a larger one is not read.
    pub file_bytes: u64,
    /// Bytes of all files together.
    pub total_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 3, entries: 5_000, file_bytes: 256 << 10, total_bytes: 16 << 20 }
    }
}

/// What a folder has that says something of its network.
#[derive(Debug, Default)]
pub struct Folder {
    /// Files with a known name, the ones nearest to the root first.
    pub files: Vec<File>,
    /// Whether there was more than the limits allow to look at.
    pub cut: bool,
}

/// A file with a known name.
#[derive(Debug)]
pub struct File {
    /// Its path below the root, with `/`; what could break a line is escaped.
    pub path: String,
    /// What it says.
    pub content: Content,
}

/// What a file says.
#[derive(Debug)]
pub enum Content {
    /// Its name says all.
    NotNeeded,
    /// Its text.
    Text(String),
    /// It cannot be read, and why.
    Unreadable(&'static str),
}

/// Folders that hold what others wrote, or what was made.
const SKIPPED: [&str; 15] = [
    ".git",
    ".gradle",
    ".hg",
    ".next",
    ".svn",
    ".terraform",
    ".tox",
    ".venv",
    "__pycache__",
    "bower_components",
    "dist",
    "node_modules",
    "target",
    "vendor",
    "venv",
];

/// Looks at a folder. Symbolic links are not followed.
///
/// # Errors
/// When the folder itself cannot be listed. What cannot be read below it is said in its place.
pub fn scan(root: &Path, limits: Limits) -> io::Result<Folder> {
    let mut folder = Folder::default();
    let mut budget = limits;
    let mut queue = VecDeque::from([(root.to_owned(), String::new(), 0)]);
    while let Some((path, shown, depth)) = queue.pop_front() {
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(error),
            Err(_) => continue,
        };
        // One more than the budget tells whether something was left out.
        let mut entries: Vec<_> = entries.take(budget.entries + 1).filter_map(Result::ok).collect();
        folder.cut |= entries.len() > budget.entries;
        entries.truncate(budget.entries);
        budget.entries -= entries.len();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name().to_string_lossy().escape_debug().to_string();
            let below = if shown.is_empty() { name.clone() } else { format!("{shown}/{name}") };
            if kind.is_file() {
                folder.files.extend(known(&entry.path(), below, &mut budget));
            } else if kind.is_dir() && below == ".git" {
                folder.files.extend(known(&entry.path().join("config"), ".git/config".to_owned(), &mut budget));
            } else if kind.is_dir() && depth < limits.depth && !SKIPPED.contains(&name.as_str()) {
                queue.push_back((entry.path(), below, depth + 1));
            }
        }
    }
    Ok(folder)
}

fn known(file: &Path, path: String, budget: &mut Limits) -> Option<File> {
    let mark = marks::find(&path)?;
    let content = match mark.read {
        Some(_) => text(file, budget).unwrap_or_else(Content::Unreadable),
        None if fs::symlink_metadata(file).is_ok_and(|found| found.is_file()) => Content::NotNeeded,
        None => return None,
    };
    match content {
        Content::Unreadable(MISSING) => None,
        content => Some(File { path, content }),
    }
}

const MISSING: &str = "it is not a regular file";

fn text(file: &Path, budget: &mut Limits) -> Result<Content, &'static str> {
    let found = fs::symlink_metadata(file).map_err(|_| MISSING)?;
    if !found.is_file() {
        return Err(MISSING);
    }
    let most = budget.file_bytes.min(budget.total_bytes);
    let mut bytes = Vec::new();
    fs::File::open(file).and_then(|file| file.take(most + 1).read_to_end(&mut bytes)).map_err(|_| "it cannot be read")?;
    let length = bytes.len() as u64;
    if length > most {
        return Err("it is too large");
    }
    budget.total_bytes -= length;
    String::from_utf8(bytes).map(Content::Text).map_err(|_| "it is not UTF-8 text")
}

/// The repository's root above a folder: where `.git` is.
#[must_use]
pub fn repository(start: &Path) -> Option<PathBuf> {
    start.ancestors().find(|folder| folder.join(".git").exists()).map(Path::to_owned)
}
