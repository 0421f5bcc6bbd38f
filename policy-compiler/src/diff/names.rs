//! Names, cut into classes: the names that rules speak of, and for each of them what lies below it and is closer to no other one.

use policy_format::{Host, MAX_NAME};

/// A name that rules of either policy speak of; the first one is the root, which stands for all names.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// The closest node above.
    pub(super) parent: usize,
    /// The nodes below it are those from the next one up to this one, which is none of them.
    pub(super) end: usize,
    /// Labels from the right, ended by 0, so that what lies below a name comes right after it.
    pub(super) key: Vec<u8>,
}

/// The nodes, parents before children.
#[derive(Debug)]
pub(super) struct Names {
    nodes: Vec<Node>,
}

/// Bytes of host names, without the dot.
pub(super) const LETTERS: &[u8; 38] = b"abcdefghijklmnopqrstuvwxyz0123456789-_";

/// The bytes of a name from its end, with 0 for dots: a dot sorts before every letter.
pub(super) fn key(name: &str) -> Vec<u8> {
    name.bytes().rev().map(|byte| if byte == b'.' { 0 } else { byte }).collect()
}

fn is_below(key: &[u8], parent: &[u8]) -> bool {
    parent.is_empty() || key.strip_prefix(parent).is_some_and(|rest| rest.first() == Some(&0))
}

impl Names {
    pub(super) fn new(names: impl Iterator<Item = String>) -> Self {
        let mut all: Vec<(Vec<u8>, String)> = names.filter(|name| !name.is_empty()).map(|name| (key(&name), name)).collect();
        all.sort_unstable();
        all.dedup();
        let mut nodes = vec![Node { name: String::new(), parent: 0, end: 0, key: Vec::new() }];
        let mut open = vec![0_usize];
        for (key, name) in all {
            let index = nodes.len();
            while let Some(node) = open.last().and_then(|last| nodes.get_mut(*last))
                && !is_below(&key, &node.key)
            {
                node.end = index;
                open.pop();
            }
            nodes.push(Node { name, parent: open.last().copied().unwrap_or(0), end: 0, key });
            open.push(index);
        }
        let end = nodes.len();
        for index in open {
            if let Some(node) = nodes.get_mut(index) {
                node.end = end;
            }
        }
        Self { nodes }
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Node> {
        self.nodes.get(index)
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let key = key(name);
        self.nodes.binary_search_by(|node| node.key.as_slice().cmp(&key)).ok()
    }

    /// The closest node at or above a name, and whether it is the name itself.
    pub(super) fn nearest(&self, name: &str) -> (usize, bool) {
        let mut rest = Some(name);
        while let Some(text) = rest {
            if let Some(index) = self.find(text) {
                return (index, text.len() == name.len());
            }
            rest = text.split_once('.').map(|(_, parent)| parent);
        }
        (0, false)
    }

    /// A name below a node and closer to no other one; `None` when there is none that is short enough.
    pub(super) fn below(&self, index: usize) -> Option<Host> {
        let node = self.nodes.get(index)?;
        let names: Box<dyn Iterator<Item = String>> = if index == 0 {
            Box::new(["host.example", "host.test", "host.invalid"].into_iter().map(str::to_owned).chain(labels()))
        } else {
            let room = MAX_NAME.checked_sub(node.name.len() + 1)?;
            let fits = labels().skip_while(move |label| label.len() > room).take_while(move |label| label.len() <= room);
            Box::new(fits.map(|label| format!("{label}.{}", node.name)))
        };
        let below = self.nodes.get(index + 1..node.end).unwrap_or_default();
        for name in names {
            let key = key(&name);
            // Whatever is taken belongs to a node, so that this ends after as many steps as there are nodes below.
            let taken = below.binary_search_by(|node| node.key.as_slice().cmp(&key)).is_ok() || (index == 0 && self.nearest(&name).0 != 0);
            if let Some(host) = host(&name).filter(|_| !taken) {
                return Some(host);
            }
            // Below what is no name there are none.
            if index != 0 && host(&node.name).is_none() {
                return None;
            }
        }
        None
    }
}

/// The host of a name, if a request can have it.
pub(super) fn host(name: &str) -> Option<Host> {
    match Host::parse(name) {
        Ok(Host::Name(parsed)) if parsed.as_str() == name => Some(Host::Name(parsed)),
        _ => None,
    }
}

/// Labels that people would choose, and then all of them, the short ones first. Those of digits only come last: at the end of a name they would be a number.
fn labels() -> impl Iterator<Item = String> {
    let counted = (1..=4_u32).flat_map(|len| {
        (0..LETTERS.len().pow(len)).map(move |number| {
            let mut rest = number;
            (0..len)
                .map(|_| {
                    let letter = LETTERS.get(rest % LETTERS.len()).copied().unwrap_or(b'a');
                    rest /= LETTERS.len();
                    char::from(letter)
                })
                .collect()
        })
    });
    ["x", "y", "z"].into_iter().map(str::to_owned).chain(counted)
}
