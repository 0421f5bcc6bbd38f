//! Moving tables and keys about in a document without losing comments.

use super::lists::{access_of, merge_entry, normalise};
use std::collections::HashMap;
use toml_edit::{Decor, Document, DocumentMut, Item, Key, RawString, Table, TableLike};

/// The input as it was read, for line numbers: spans are gone from a document that can be edited.
pub(super) struct Original {
    document: Option<Document<String>>,
    /// Where each line but the first starts.
    starts: Vec<usize>,
}

impl Original {
    pub(super) fn new(text: &str) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1).collect();
        Self { document: Document::parse(text.to_owned()).ok(), starts }
    }

    /// The line of a key, if it was there.
    pub(super) fn find(&self, path: &[&str]) -> Option<usize> {
        let mut item = self.document.as_ref()?.as_item();
        let mut span = None;
        for name in path {
            let (key, value) = entry(item.as_table_like()?, name)?;
            // A header names every table on its way; the table itself knows its own header.
            span = value.as_table().filter(|table| !table.is_dotted()).and_then(Table::span).or_else(|| key.span());
            item = value;
        }
        Some(self.line_at(span?.start))
    }

    /// The line of a key, or of the closest table around it.
    pub(super) fn line(&self, path: &[&str]) -> usize {
        (0..path.len()).rev().find_map(|end| self.find(path.get(..=end)?)).unwrap_or(1)
    }

    /// The line of an item of a list.
    pub(super) fn item_line(&self, path: &[&str], index: usize) -> usize {
        let list = || {
            let mut item = self.document.as_ref()?.as_item();
            for name in path {
                item = item.get(name)?;
            }
            Some(self.line_at(item.as_array()?.get(index)?.span()?.start))
        };
        list().unwrap_or_else(|| self.line(path))
    }

    fn line_at(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset) + 1
    }
}

fn entry<'t>(table: &'t dyn TableLike, name: &str) -> Option<(&'t Key, &'t Item)> {
    table.get_key_value(name)
}

/// The table at `path`, made where it is missing, written out where it is inline. `None` when something else is in the way.
pub(super) fn descend<'t>(root: &'t mut Table, path: &[&str]) -> Option<&'t mut Table> {
    let mut table = root;
    for name in path {
        if !table.contains_key(name) {
            let mut made = Table::new();
            made.set_implicit(true);
            table.insert(name, Item::Table(made));
        } else if table.get(name).is_some_and(Item::is_inline_table)
            && let Some(taken) = take_table(table, name)
        {
            table.insert(name, Item::Table(taken));
        }
        table = table.get_mut(name)?.as_table_mut()?;
    }
    Some(table)
}

/// Takes a table out of its parent, whatever the form it was written in, to be put elsewhere under a header.
pub(super) fn take_table(parent: &mut Table, name: &str) -> Option<Table> {
    if !parent.get(name)?.is_table_like() {
        return None;
    }
    let (key, item) = parent.remove_entry(name)?;
    let inline = item.as_inline_table().is_some();
    let comments = if inline { comments(&key, &item) } else { String::new() };
    let mut table = item.into_table().ok()?;
    if inline {
        table.decor_mut().clear();
        undot(&mut table);
        table.set_implicit(false);
        for (mut key, value) in table.iter_mut() {
            key.leaf_decor_mut().clear();
            if let Some(value) = value.as_value_mut() {
                value.decor_mut().clear();
            }
        }
        attach_comment(&mut table, &comments);
    } else if table.is_dotted() {
        undot(&mut table);
    }
    Some(table)
}

fn undot(table: &mut Table) {
    table.set_dotted(false);
    // Shown by what stands in it.
    table.set_implicit(true);
    for (_, item) in table.iter_mut() {
        if let Some(inner) = item.as_table_mut().filter(|inner| inner.is_dotted()) {
            undot(inner);
        }
    }
}

/// The sub-table `name`, made where it is missing, in the form of its parent. `None` when it is something else than a table.
pub(super) fn child<'t>(parent: &'t mut Table, name: &str, dotted: bool) -> Option<&'t mut Table> {
    let taken = take_inline(parent, name);
    let table = taken.unwrap_or_else(|| {
        let mut table = Table::new();
        table.set_dotted(dotted);
        table
    });
    parent.entry(name).or_insert(Item::Table(table)).as_table_mut()
}

fn take_inline(parent: &mut Table, name: &str) -> Option<Table> {
    parent.get(name).filter(|item| item.is_inline_table())?;
    take_table(parent, name)
}

/// Gives a table that has no header of its own the place of one that is dissolved into it.
pub(super) fn place_at(table: &mut Table, position: Option<isize>) {
    if table.position().is_none() {
        table.set_position(position);
    }
}

/// Puts `from`'s keys into `into`. What is there stays, except that a deny of the same pattern wins; `lost` gets the paths of what was dropped, and why.
pub(super) fn merge(into: &mut Table, from: Table, path: &[&str], lost: &mut Vec<(Vec<String>, String)>) {
    let patterns = path.last() == Some(&"domains");
    let mut comments = comment_of(from.decor()).unwrap_or_default();
    let mut there: HashMap<String, String> = HashMap::new();
    if patterns {
        there.extend(into.iter().map(|(key, _)| (normalise(key), key.to_owned())));
    }
    for (key, item) in keyed(from) {
        let name = key.get().to_owned();
        let known =
            if patterns { there.get(&normalise(&name)).cloned() } else { Some(name.clone()).filter(|name| into.contains_key(name)) };
        let Some(known) = known else {
            let mut key = key;
            if !comments.is_empty() && item.is_value() {
                let own = key.leaf_decor().prefix().and_then(RawString::as_str).unwrap_or_default().to_owned();
                key.leaf_decor_mut().set_prefix(format!("{}{own}", std::mem::take(&mut comments)));
            }
            into.set_implicit(false);
            into.insert_formatted(&key, item);
            continue;
        };
        let whole: Vec<String> = path.iter().map(|part| (*part).to_owned()).chain([name.clone()]).collect();
        let keys: Vec<&str> = whole.iter().map(String::as_str).collect();
        if patterns {
            let access = access_of(&item).to_owned();
            if let Some(there) = into.get_mut(&known) {
                lost.push((whole, merge_entry(there, &access).to_owned()));
            }
            comments.push_str(&self::comments(&key, &item));
            continue;
        }
        if item.is_table_like() && into.get(&known).is_some_and(Item::is_table_like) {
            let dotted = into.is_dotted();
            if let (Ok(item), Some(child)) = (item.into_table(), child(into, &known, dotted)) {
                merge(child, item, &keys, lost);
            }
            continue;
        }
        comments.push_str(&self::comments(&key, &item));
        lost.push((whole, "the one of the canonical table stays".to_owned()));
    }
    attach_comment(into, &comments);
}

fn keyed(table: Table) -> Vec<(Key, Item)> {
    let mut table = table;
    let names: Vec<String> = table.iter().map(|(key, _)| key.to_owned()).collect();
    names.iter().filter_map(|name| table.remove_entry(name)).collect()
}

/// A key before all tables, behind a comment about the whole file.
pub(super) fn set_root_key(document: &mut DocumentMut, name: &str, text: &str) {
    let mut key = Key::new(name);
    let mut value = toml_edit::Value::from(text);
    if document.as_table().get_values().is_empty() {
        let mut head = String::new();
        let mut blank = false;
        if let Some(first) = first_table(document) {
            let prefix = first.decor().prefix().and_then(RawString::as_str).unwrap_or_default().to_owned();
            let cut = prefix.rfind("\n\n").map_or(0, |at| at + 2);
            let (before, rest) = prefix.split_at(cut);
            head = before.to_owned();
            blank = !rest.starts_with('\n');
            let rest = rest.to_owned();
            first.decor_mut().set_prefix(rest);
        }
        key.leaf_decor_mut().set_prefix(head);
        value.decor_mut().set_prefix(" ");
        value.decor_mut().set_suffix(if blank { "\n" } else { "" });
    }
    document.insert_formatted(&key, Item::Value(value));
}

/// The table whose header comes first in the text.
fn first_table(document: &mut DocumentMut) -> Option<&mut Table> {
    fn first(table: &Table, path: &mut Vec<String>, best: &mut Option<(isize, Vec<String>)>) {
        for (key, item) in table.iter() {
            let Some(inner) = item.as_table() else { continue };
            path.push(key.to_owned());
            let hidden = inner.is_dotted() || (inner.is_implicit() && inner.get_values().is_empty());
            if !hidden && let Some(position) = inner.position().filter(|position| best.as_ref().is_none_or(|best| *position < best.0)) {
                *best = Some((position, path.clone()));
            }
            first(inner, path, best);
            path.pop();
        }
    }
    let mut best = None;
    first(document, &mut Vec::new(), &mut best);
    let (_, path) = best?;
    let mut table: &mut Table = document;
    for key in path {
        table = table.get_mut(&key)?.as_table_mut()?;
    }
    Some(table)
}

/// Adds comment lines above a table's header; above its first key when it has no header.
pub(super) fn attach_comment(table: &mut Table, comment: &str) {
    if comment.is_empty() {
        return;
    }
    if table.is_dotted() {
        if let Some((mut key, _)) = table.iter_mut().next() {
            let own = key.leaf_decor().prefix().and_then(RawString::as_str).unwrap_or_default().to_owned();
            key.leaf_decor_mut().set_prefix(format!("{comment}{own}"));
        }
        return;
    }
    let own = table.decor().prefix().and_then(RawString::as_str).unwrap_or("\n").to_owned();
    table.decor_mut().set_prefix(format!("{own}{comment}"));
}

/// The comment lines before a key, and the one behind its value, each on a line of its own.
pub(super) fn comments(key: &Key, item: &Item) -> String {
    let before = key.leaf_decor().prefix().and_then(RawString::as_str).unwrap_or_default();
    let behind = item.as_value().and_then(|value| value.decor().suffix()).and_then(RawString::as_str).unwrap_or_default();
    comment_lines(before) + &comment_lines(behind)
}

/// The comments of a table's header.
pub(super) fn comment_of(decor: &Decor) -> Option<String> {
    let text = |raw: Option<&RawString>| raw.and_then(RawString::as_str).map(comment_lines).unwrap_or_default();
    Some(text(decor.prefix()) + &text(decor.suffix())).filter(|comments| !comments.is_empty())
}

/// The comments in the space between two tokens, one a line.
pub(super) fn comment_lines(space: &str) -> String {
    space.lines().map(str::trim).filter(|line| line.starts_with('#')).flat_map(|line| [line, "\n"]).collect()
}

/// Another text in the place of a value, with what stands around it.
pub(super) fn replace_value(item: &mut Item, text: &str) {
    let decor = item.as_value().map(|value| value.decor().clone()).unwrap_or_default();
    let mut value = toml_edit::Value::from(text);
    *value.decor_mut() = decor;
    *item = Item::Value(value);
}
