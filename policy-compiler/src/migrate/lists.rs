//! Lists of patterns to entries of a table, each with its comments.

use super::Migrator;
use super::layout::{attach_comment, child, comment_lines, comments, replace_value};
use policy_format::Pattern;
use std::collections::HashMap;
use toml_edit::{Array, Decor, Item, Key, RawString, Table, TableLike};

/// The lists, the tables whose entries they become, and what they say.
pub(super) const LISTS: [(&str, &str, &str); 3] =
    [("allowed_domains", "domains", "allow"), ("denied_domains", "domains", "deny"), ("allow_unix_sockets", "unix_sockets", "allow")];

/// Where a table that has to be made goes, and the comments of its header: those of the table that it replaces.
#[derive(Default)]
pub(super) struct Hint {
    pub(super) position: Option<isize>,
    pub(super) decor: Option<Decor>,
}

/// What was taken out of lists.
#[derive(Default)]
pub(super) struct Moved {
    entries: Vec<Entry>,
    /// Comments that stood at no entry.
    orphans: String,
}

struct Entry {
    table: &'static str,
    text: String,
    access: &'static str,
    /// Comment lines above.
    before: String,
    /// Comment on the same line.
    behind: String,
    line: usize,
}

/// Whether a table has a list that can be moved.
pub(super) fn has_lists(table: Option<&dyn TableLike>) -> bool {
    table.is_some_and(|table| LISTS.iter().any(|(list, ..)| table.get(list).and_then(Item::as_array).is_some_and(is_text)))
}

fn is_text(array: &Array) -> bool {
    array.iter().all(toml_edit::Value::is_str)
}

/// What a pattern is known by: the same for all its spellings.
pub(super) fn normalise(text: &str) -> String {
    Pattern::parse(text).map_or_else(|_| text.to_owned(), |pattern| pattern.to_string())
}

pub(super) fn access_of(item: &Item) -> &str {
    item.as_str().or_else(|| item.get("access").and_then(Item::as_str)).unwrap_or_default()
}

/// An entry meets a second one of its pattern: a deny wins, and otherwise what is there stays. Says what was done.
pub(super) fn merge_entry(there: &mut Item, access: &str) -> &'static str {
    match (access_of(there), access) {
        ("deny", "deny") | ("allow", "allow") => "one is left",
        ("deny", _) => "the deny wins",
        (_, "deny") => {
            replace_value(there, "deny");
            "the deny wins"
        }
        _ => "the entry of the table stays",
    }
}

impl Migrator {
    /// Whether something that is no table stands where one has to be. Nothing is moved then: it would be lost.
    pub(super) fn blocked(&mut self, network: &Table, path: &[&str]) -> bool {
        let Some(name) =
            ["domains", "unix_sockets", "upstream"].into_iter().find(|name| network.get(name).is_some_and(|item| !item.is_table_like()))
        else {
            return false;
        };
        let whole: Vec<&str> = path.iter().copied().chain([name]).collect();
        self.note(self.original.line(&whole), format!("`{name}` is not a table: nothing beside it is rewritten"));
        true
    }

    /// Takes the lists out of `table`, in their order.
    pub(super) fn take_lists(&mut self, table: &mut Table, path: &[&str]) -> Moved {
        let mut moved = Moved::default();
        let names: Vec<String> = table.iter().map(|(key, _)| key.to_owned()).collect();
        for name in names {
            let Some((list, target, access)) = LISTS.iter().find(|(list, ..)| *list == name) else { continue };
            let whole: Vec<&str> = path.iter().copied().chain([*list]).collect();
            let line = self.original.line(&whole);
            if !table.get(list).and_then(Item::as_array).is_some_and(is_text) {
                self.note(line, format!("`{list}` is left as it is: it is not a list of text"));
                continue;
            }
            let Some((key, item)) = table.remove_entry(list) else { continue };
            self.done(line, format!("`{list}` is now entries of `{target}` that say \"{access}\""));
            self.split(&key, &item, target, access, &whole, &mut moved);
        }
        moved
    }

    fn split(&mut self, key: &Key, item: &Item, target: &'static str, access: &'static str, path: &[&str], moved: &mut Moved) {
        let Some(array) = item.as_array() else { return };
        let first = moved.entries.len();
        let mut before = std::mem::take(&mut moved.orphans) + &comments(key, item);
        for (index, value) in array.iter().enumerate() {
            let text = |raw: Option<&RawString>| raw.and_then(RawString::as_str).unwrap_or_default().to_owned();
            // What stands behind a comma on the same line is about the item before it.
            let (same_line, above) = split_line(&text(value.decor().prefix()));
            match moved.entries.get_mut(first..).and_then(<[Entry]>::last_mut) {
                Some(last) => add_behind(&mut last.behind, &same_line),
                None => before.push_str(&comment_lines(&same_line)),
            }
            before.push_str(&comment_lines(&above));
            let mut behind = String::new();
            for comment in comment_lines(&text(value.decor().suffix())).lines() {
                add_behind(&mut behind, comment);
            }
            let line = self.original.item_line(path, index);
            let text = value.as_str().unwrap_or_default().to_owned();
            moved.entries.push(Entry { table: target, text, access, before: std::mem::take(&mut before), behind, line });
        }
        let (same_line, rest) = split_line(array.trailing().as_str().unwrap_or_default());
        match moved.entries.get_mut(first..).and_then(<[Entry]>::last_mut) {
            Some(last) => add_behind(&mut last.behind, &same_line),
            None => before.push_str(&comment_lines(&same_line)),
        }
        moved.orphans = before + &comment_lines(&rest);
    }

    /// Puts entries into their tables. An entry that is there already is not written twice.
    pub(super) fn install(&mut self, network: &mut Table, moved: Moved, hint: &mut Hint) {
        let mut known: HashMap<(&str, String), String> = HashMap::new();
        for target in ["domains", "unix_sockets"] {
            let there = network.get(target).and_then(Item::as_table_like);
            known.extend(there.iter().flat_map(|table| table.iter()).map(|(key, _)| ((target, name_of(target, key)), key.to_owned())));
        }
        for entry in moved.entries {
            let fresh = !network.contains_key(entry.table);
            let dotted = network.is_dotted();
            let Some(table) = child(network, entry.table, dotted) else { continue };
            if fresh && !dotted {
                table.set_position(hint.position);
                if let Some(decor) = hint.decor.take() {
                    *table.decor_mut() = decor;
                }
            }
            self.entry_lines.insert(entry.text.clone(), entry.line);
            let identity = (entry.table, name_of(entry.table, &entry.text));
            if let Some(key) = known.get(&identity) {
                let Some(there) = table.get_mut(key) else { continue };
                let what = merge_entry(there, entry.access);
                self.note(entry.line, format!("`{}` is there twice: {what}", entry.text));
                let behind = comment_lines(&entry.behind);
                attach_to_key(table, key, &format!("{}{behind}", entry.before));
                continue;
            }
            if entry.access == "deny" && entry.text.trim() == "*" {
                self.note(
                    entry.line,
                    "`*` cannot be denied: what no rule allows is denied anyway; to block everything, set `enabled = false`",
                );
            }
            let mut key = quoted_key(&entry.text);
            key.leaf_decor_mut().set_prefix(entry.before);
            let mut value = toml_edit::Value::from(entry.access);
            value.decor_mut().set_prefix(" ");
            value.decor_mut().set_suffix(entry.behind);
            table.insert_formatted(&key, Item::Value(value));
            known.insert(identity, entry.text);
        }
        attach_comment(network, &moved.orphans);
    }
}

fn name_of(table: &str, text: &str) -> String {
    if table == "domains" { normalise(text) } else { text.to_owned() }
}

fn attach_to_key(table: &mut Table, name: &str, comment: &str) {
    if let Some(mut key) = table.key_mut(name).filter(|_| !comment.is_empty()) {
        let own = key.leaf_decor().prefix().and_then(RawString::as_str).unwrap_or_default().to_owned();
        key.leaf_decor_mut().set_prefix(format!("{own}{comment}"));
    }
}

/// Patterns are quoted, also where TOML would not need it.
fn quoted_key(text: &str) -> Key {
    let parsed = Key::parse(&crate::source::quote(text)).ok().and_then(|keys| keys.into_iter().next());
    parsed.unwrap_or_else(|| Key::new(text))
}

/// The rest of the line, and what follows it.
fn split_line(space: &str) -> (String, String) {
    match space.split_once('\n') {
        Some((line, rest)) => (line.trim().to_owned(), rest.to_owned()),
        None => (String::new(), space.to_owned()),
    }
}

fn add_behind(behind: &mut String, comment: &str) {
    if !comment.is_empty() {
        behind.push(' ');
        behind.push_str(comment);
    }
}
