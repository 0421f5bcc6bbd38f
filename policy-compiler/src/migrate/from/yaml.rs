//! YAML as a tree with lines. An alias shares the node that it names, so a file that names nodes of nodes costs what its text costs.

use super::ConvertError;
use saphyr_parser::{Event, Parser, ScalarStyle};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// Collections in collections; an access list has four.
const MAX_DEPTH: usize = 16;

/// A node and where it starts.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    Null,
    Text(String),
    List(Vec<Rc<Node>>),
    Map(Vec<(String, Rc<Node>)>),
}

impl Node {
    pub(super) fn get(&self, key: &str) -> Option<&Rc<Node>> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            Content::Null | Content::Text(_) | Content::List(_) => None,
        }
    }

    pub(super) fn text(&self, what: &str) -> Result<&str, ConvertError> {
        match &self.content {
            Content::Text(text) => Ok(text),
            _ => Err(ConvertError::new(self.line, format!("`{what}` is not text"))),
        }
    }

    /// The items of a list; none for a key without a value.
    pub(super) fn list(&self, what: &str) -> Result<&[Rc<Node>], ConvertError> {
        match &self.content {
            Content::List(items) => Ok(items),
            Content::Null => Ok(&[]),
            _ => Err(ConvertError::new(self.line, format!("`{what}` is not a list"))),
        }
    }

    /// The keys of a map.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&str, usize)> {
        let entries = match &self.content {
            Content::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(|(name, node)| (name.as_str(), node.line))
    }
}

/// A collection that is still open.
struct Open {
    line: usize,
    anchor: usize,
    is_map: bool,
    items: Vec<Rc<Node>>,
    keys: Vec<String>,
    seen: HashSet<String>,
}

/// Reads the first document of `text`.
pub(super) fn parse(text: &str) -> Result<Rc<Node>, ConvertError> {
    let mut open: Vec<Open> = Vec::new();
    let mut anchors: HashMap<usize, Rc<Node>> = HashMap::new();
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|error| ConvertError::new(error.marker().line(), format!("this is not YAML: {}", error.info())))?;
        let line = span.start.line();
        let (node, anchor) = match event {
            Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
                if open.len() >= MAX_DEPTH {
                    return Err(ConvertError::new(line, format!("there are more than {MAX_DEPTH} collections in one another")));
                }
                let is_map = matches!(event, Event::MappingStart(..));
                open.push(Open { line, anchor, is_map, items: Vec::new(), keys: Vec::new(), seen: HashSet::new() });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(closed) = open.pop() else { continue };
                let content = if closed.is_map {
                    Content::Map(closed.keys.into_iter().zip(closed.items).collect())
                } else {
                    Content::List(closed.items)
                };
                (Rc::new(Node { line: closed.line, content }), closed.anchor)
            }
            Event::Scalar(value, style, anchor, _) => {
                let empty = style == ScalarStyle::Plain && matches!(value.as_ref(), "" | "~" | "null");
                let content = if empty { Content::Null } else { Content::Text(value.into_owned()) };
                (Rc::new(Node { line, content }), anchor)
            }
            Event::Alias(anchor) => match anchors.get(&anchor) {
                Some(node) => (Rc::clone(node), 0),
                None => return Err(ConvertError::new(line, "the alias names a node that is not complete")),
            },
            Event::DocumentEnd => break,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => continue,
        };
        if anchor != 0 {
            anchors.insert(anchor, Rc::clone(&node));
        }
        match open.last_mut() {
            None => return Ok(node),
            Some(parent) if parent.is_map && parent.keys.len() == parent.items.len() => {
                let Content::Text(name) = &node.content else { return Err(ConvertError::new(line, "a key is text")) };
                if name == "<<" {
                    return Err(ConvertError::new(line, "merge keys (`<<`) are not read: write the keys out"));
                }
                if !parent.seen.insert(name.clone()) {
                    return Err(ConvertError::new(line, format!("`{name}` is there twice")));
                }
                parent.keys.push(name.clone());
            }
            Some(parent) => parent.items.push(node),
        }
    }
    Err(ConvertError::new(1, "there is nothing in it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_collections_anchors_and_lines() {
        let root = parse("a: &list\n  - one\n  - \"null\"\nb: *list\nc: ~\n").unwrap();
        let list =
            |key| root.get(key).unwrap().list(key).unwrap().iter().map(|node| (node.text(key).unwrap(), node.line)).collect::<Vec<_>>();
        assert_eq!(list("a"), [("one", 2), ("null", 3)]);
        assert_eq!(list("b"), list("a"));
        assert!(list("c").is_empty());
    }

    #[test]
    fn an_alias_costs_nothing_and_depth_is_bounded() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..100 {
            let alias = format!("*a{}", level - 1);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 10].join(", ")));
        }
        assert_eq!(parse(&bomb).unwrap().keys().count(), 100);
        for deep in ["[".repeat(100_000), "- ".repeat(100_000), "a: {".repeat(1000)] {
            let message = parse(&deep).unwrap_err().message;
            assert!(message.contains("in one another") || message.contains("recursion limit"), "{message}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line, message) in [
            ("", 1, "nothing in it"),
            ("a: 1\na: 2\n", 2, "there twice"),
            ("a: 1\nb: [\n", 3, "not YAML"),
            ("a: &x 1\nb:\n  <<: *x\n", 3, "merge keys"),
            ("a: &x [*x]\n", 1, "not complete"),
            ("? [a]\n: b\n", 1, "a key is text"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.line == line && error.message.contains(message), "{text}: {error}");
        }
    }
}
