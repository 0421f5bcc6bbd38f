//! The path prefixes of a rule: a trie over segments, read in place. What it holds is what [`crate::path::lies_below`] says of any of them.
//!
//! ```text
//! node, 16 bytes: u32 first_child, u32 children, u32 text, u16 text_len, u8 ends, u8 0
//! ```
//!
//! A prefix is cut at every `/`: `/v1/x` has the segments ``, `v1` and `x`; a last `/` is no segment but one of two ways to end. `ends` says which prefixes
//! end in a node: bit 0 one without a last `/`, which holds every path that leads here; bit 1 one with it, which holds those that go on.
//!
//! Nodes stand level by level, the root first, whose own segment is empty. So the children of a node are a run, sorted by segment; the runs stand back to
//! back, and so do the segments in the text. A lookup walks the segments of a path once, with a binary search at each, however many prefixes there are.

use crate::path::MAX_PATH;
use crate::reader::{bytes, record, record_count, u16_at, u32_at};
use std::cmp::Ordering;

pub(crate) const NODE_LEN: usize = 16;
/// A prefix ends here: it holds what leads here.
const WHOLE: u8 = 1;
/// A prefix ends here with a `/`: it holds what goes on.
const BELOW: u8 = 2;

/// A trie in place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prefixes<'a> {
    pub(crate) nodes: &'a [u8],
    pub(crate) text: &'a [u8],
}

#[derive(Debug, Clone, Copy)]
struct Node {
    first_child: u32,
    children: u32,
    text: u32,
    text_len: u16,
    ends: u8,
    zero: u8,
}

impl Node {
    fn read(nodes: &[u8], index: u32) -> Option<Self> {
        let bytes: [u8; NODE_LEN] = record(nodes, index)?;
        let (first_child, children) = (u32_at(&bytes, 0)?, u32_at(&bytes, 4)?);
        let [.., ends, zero] = bytes;
        Some(Self { first_child, children, text: u32_at(&bytes, 8)?, text_len: u16_at(&bytes, 12)?, ends, zero })
    }

    #[cfg(feature = "build")]
    fn write(&self, out: &mut Vec<u8>) {
        for word in [self.first_child, self.children, self.text] {
            out.extend(word.to_le_bytes());
        }
        out.extend(self.text_len.to_le_bytes());
        out.extend([self.ends, self.zero]);
    }
}

impl<'a> Prefixes<'a> {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether `path` is one of the prefixes or lies below one. As many steps as the path has segments, whatever the bytes are.
    pub(crate) fn hold(&self, path: &str) -> bool {
        let Some(mut node) = Node::read(self.nodes, 0) else { return false };
        let mut segments = path.split('/').peekable();
        while let Some(segment) = segments.next() {
            let Some(child) = self.child(&node, segment.as_bytes()) else { return false };
            if child.ends & WHOLE != 0 || child.ends & BELOW != 0 && segments.peek().is_some() {
                return true;
            }
            node = child;
        }
        false
    }

    fn child(&self, node: &Node, segment: &[u8]) -> Option<Node> {
        let (mut low, mut high) = (0, node.children);
        while low < high {
            let middle = low + (high - low) / 2;
            let child = Node::read(self.nodes, node.first_child.checked_add(middle)?)?;
            match self.segment(&child)?.cmp(segment) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Some(child),
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    fn segment(&self, node: &Node) -> Option<&'a [u8]> {
        bytes(self.text, usize::try_from(node.text).ok()?, usize::from(node.text_len))
    }

    /// The prefixes as they were written, sorted. Allocates; not for the hot path.
    pub(crate) fn list(&self) -> Vec<String> {
        let nodes: Vec<Node> = (0..).map_while(|index| Node::read(self.nodes, index)).collect();
        // Every node comes after its parent.
        let mut parents = vec![0; nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            let first = node.first_child as usize;
            parents.get_mut(first..first.saturating_add(node.children as usize)).unwrap_or_default().fill(index);
        }
        let segment = |index: usize| nodes.get(index).and_then(|node| std::str::from_utf8(self.segment(node)?).ok()).unwrap_or_default();
        let above = |index: &usize| parents.get(*index).copied().filter(|parent| (1..*index).contains(parent));
        let mut list = Vec::new();
        for (index, node) in nodes.iter().enumerate().filter(|(_, node)| node.ends != 0) {
            let mut segments: Vec<&str> = std::iter::successors(Some(index), above).map(segment).collect();
            segments.reverse();
            let text = segments.join("/");
            list.extend((node.ends & BELOW != 0).then(|| format!("{text}/")));
            list.extend((node.ends & WHOLE != 0).then_some(text));
        }
        list.sort_unstable();
        list
    }

    /// Makes sure that this is a trie as it is written: every node has one parent, which stands before it, every segment is text without `/`, and no prefix is
    /// longer than [`MAX_PATH`]. Linear in its length.
    pub(crate) fn check(&self) -> Option<()> {
        let count = record_count::<NODE_LEN>(self.nodes)?;
        if count == 0 {
            return self.text.is_empty().then_some(());
        }
        // Where the next run of children and the next segment have to be, and the bytes of the path to each node.
        let (mut next_child, mut next_text) = (1_u32, 0_u32);
        let mut lengths = vec![0_usize; usize::try_from(count).ok()?];
        for index in 0..count {
            let node = Node::read(self.nodes, index)?;
            let segment = std::str::from_utf8(self.segment(&node)?).ok()?;
            let length = lengths.get(index as usize).copied()?;
            let in_place = index < next_child && (node.first_child, node.text, node.zero) == (next_child, next_text, 0);
            let has_sense = match index {
                0 => node.ends == 0 && segment.is_empty() && node.children > 0,
                _ => node.ends <= WHOLE | BELOW && (node.ends != 0 || node.children > 0) && !segment.contains('/'),
            };
            if !in_place || !has_sense || length + usize::from(node.ends & BELOW != 0) > MAX_PATH {
                return None;
            }
            next_child = next_child.checked_add(node.children)?;
            next_text = next_text.checked_add(u32::from(node.text_len))?;
            let mut last: Option<&[u8]> = None;
            for child in node.first_child..next_child {
                let segment = self.segment(&Node::read(self.nodes, child)?)?;
                if last.replace(segment).is_some_and(|last| last >= segment) {
                    return None;
                }
                *lengths.get_mut(child as usize)? = length + usize::from(index > 0) + segment.len();
            }
        }
        (next_child == count && usize::try_from(next_text).ok()? == self.text.len()).then_some(())
    }
}

/// Writes the nodes and the text of a trie.
#[cfg(feature = "build")]
pub(crate) fn write(prefixes: &[String]) -> Result<(Vec<u8>, Vec<u8>), crate::build::BuildError> {
    let too_many = |what, limit| crate::build::BuildError::TooMany { what, limit };
    let branches = branches(prefixes).ok_or(too_many("bytes in one path", MAX_PATH))?;
    // Level by level: a branch's children queue up behind those of the branches before it.
    let mut queue: Vec<(&str, &Branch<'_>)> =
        branches.first().filter(|_| !prefixes.is_empty()).map(|root| ("", root)).into_iter().collect();
    let (mut nodes, mut text, mut at) = (Vec::new(), Vec::new(), 0);
    let word = |number: usize| u32::try_from(number).map_err(|_| too_many("bytes in the paths of one rule", u32::MAX as usize));
    while let Some((segment, branch)) = queue.get(at).copied() {
        let node = Node {
            first_child: word(queue.len())?,
            children: word(branch.children.len())?,
            text: word(text.len())?,
            text_len: u16::try_from(segment.len()).map_err(|_| too_many("bytes in one path", MAX_PATH))?,
            ends: branch.ends,
            zero: 0,
        };
        node.write(&mut nodes);
        text.extend(segment.bytes());
        queue.extend(branch.children.iter().filter_map(|(segment, child)| Some((*segment, branches.get(*child)?))));
        at += 1;
    }
    Ok((nodes, text))
}

/// A node before it has a place.
#[cfg(feature = "build")]
#[derive(Default)]
struct Branch<'a> {
    children: std::collections::BTreeMap<&'a str, usize>,
    ends: u8,
}

/// The prefixes as a tree, the root first; `None` when one is longer than [`MAX_PATH`].
#[cfg(feature = "build")]
fn branches(prefixes: &[String]) -> Option<Vec<Branch<'_>>> {
    let mut branches = vec![Branch::default()];
    for prefix in prefixes {
        let (segments, end) = prefix.strip_suffix('/').map_or((prefix.as_str(), WHOLE), |segments| (segments, BELOW));
        let mut at = 0;
        for segment in segments.split('/') {
            let new = branches.len();
            at = *branches.get_mut(at)?.children.entry(segment).or_insert(new);
            if at == new {
                branches.push(Branch::default());
            }
        }
        branches.get_mut(at)?.ends |= end;
    }
    prefixes.iter().all(|prefix| prefix.len() <= MAX_PATH).then_some(branches)
}

#[cfg(test)]
#[cfg(feature = "build")]
mod tests {
    use super::*;
    use crate::path::lies_below;
    use proptest::prelude::*;

    /// Any text, of few segments, so that prefixes and paths meet: what no server sees among it.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            8 => ("/?", proptest::collection::vec(prop_oneof!["", "v", "v1", "v10", "a", "a-b", "A", "ü", "%20"], 0..5), "/?")
                .prop_map(|(first, segments, last)| format!("{first}{}{last}", segments.join("/"))),
            1 => ".{0,6}",
        ]
    }

    fn written(prefixes: &[&str]) -> (Vec<u8>, Vec<u8>) {
        write(&prefixes.iter().map(|prefix| (*prefix).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn the_trie_holds_what_lies_below_any_prefix(
            prefixes in proptest::collection::vec(text(), 0..12),
            paths in proptest::collection::vec(text(), 1..24),
        ) {
            let (nodes, text) = write(&prefixes).unwrap();
            let trie = Prefixes { nodes: &nodes, text: &text };
            prop_assert_eq!(trie.check(), Some(()));
            for path in paths.iter().chain(&prefixes) {
                prop_assert_eq!(trie.hold(path), prefixes.iter().any(|prefix| lies_below(path, prefix)), "{:?} {:?}", path, prefixes);
            }
            let mut sorted = prefixes;
            sorted.sort_unstable();
            sorted.dedup();
            prop_assert_eq!(trie.list(), sorted);
        }

        /// Lookups and lists do not rest on the check.
        #[test]
        fn any_bytes_are_harmless(
            nodes in proptest::collection::vec(prop_oneof![4 => Just(0_u8), 2 => 0_u8..8, 1 => any::<u8>()], 0..160),
            text in "[/ab]{0,8}",
            path in text(),
        ) {
            let trie = Prefixes { nodes: &nodes, text: text.as_bytes() };
            let _ = (trie.hold(&path), trie.list(), trie.check());
        }
    }

    #[test]
    fn every_changed_byte_is_refused_or_harmless() {
        let (nodes, text) = written(&["/", "/v1", "/v1/", "/v1/x", "/v10/", "/a/b/c", "/a/b/d"]);
        let whole = [nodes.as_slice(), &text].concat();
        let mut refused = 0;
        for at in 0..whole.len() {
            for value in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = value;
                let (changed_nodes, changed_text) = changed.split_at(nodes.len());
                let trie = Prefixes { nodes: changed_nodes, text: changed_text };
                refused += usize::from(trie.check().is_none());
                for path in ["/", "/v1", "/v1/x", "/a/b/c/d", "/v10"] {
                    let _ = trie.hold(path);
                }
                assert!(trie.list().len() <= 2 * nodes.len() / NODE_LEN);
            }
        }
        // All of a node is fixed by the others but its way to end; of a segment, the order of siblings leaves some letters free.
        assert!(refused > nodes.len() * 250, "{refused}");
    }

    #[test]
    fn refuses_what_is_no_trie() {
        let (good, text) = written(&["/a/b", "/c"]);
        assert_eq!(Prefixes { nodes: &good, text: &text }.check(), Some(()));
        // Nodes: 0 the root, 1 its empty segment, 2 `a`, 3 `c`, 4 `b`.
        type Change = fn(&mut Vec<Node>);
        let changes: &[(&str, Change)] = &[
            ("a child that is its own parent", |nodes| nodes[4] = Node { first_child: 4, children: 1, ..nodes[4] }),
            ("a child of two parents", |nodes| nodes[3] = Node { first_child: 4, children: 1, ..nodes[3] }),
            ("a loop to the root", |nodes| nodes[4] = Node { first_child: 0, children: 5, ..nodes[4] }),
            ("a node without a parent", |nodes| nodes[2].children = 0),
            ("a node that nobody else has as a child", |nodes| {
                (nodes[2].children, nodes[2].ends, nodes[3].first_child) = (0, WHOLE, 4);
                nodes[4] = Node { first_child: 4, children: 1, ..nodes[4] };
            }),
            ("children that are not there", |nodes| nodes[4].children = u32::MAX),
            ("children out of order", |nodes| (nodes[2].text, nodes[3].text) = (1, 0)),
            ("text that is not there", |nodes| nodes[4].text_len = 9),
            ("an end that is none", |nodes| nodes[4].ends = 4),
            ("a leaf where nothing ends", |nodes| nodes[4].ends = 0),
            ("a root that is a prefix", |nodes| nodes[0].ends = 1),
            ("a byte that is not zero", |nodes| nodes[1].zero = 1),
            ("a node too many", |nodes| nodes.push(nodes[4])),
            ("a node too few", |nodes| nodes.truncate(4)),
            ("a root alone", |nodes| nodes.truncate(1)),
        ];
        for (what, change) in changes {
            let mut nodes: Vec<Node> = (0..).map_while(|index| Node::read(&good, index)).collect();
            change(&mut nodes);
            let mut bytes = Vec::new();
            nodes.iter().for_each(|node| node.write(&mut bytes));
            assert_eq!(Prefixes { nodes: &bytes, text: &text }.check(), None, "{what}");
        }
        assert_eq!(Prefixes { nodes: &good, text: b"acb!" }.check(), None, "text that no node has");
        assert_eq!(Prefixes { nodes: &good, text: b"aab" }.check(), None, "two children of one segment");
        assert_eq!(Prefixes { nodes: &good, text: b"ac/" }.check(), None, "a segment with a `/`");
        assert_eq!(Prefixes { nodes: &good[1..], text: &text }.check(), None, "half a node");
    }

    #[test]
    fn a_prefix_has_its_limit_on_both_sides() {
        let longest = format!("/{}b", "a/".repeat(MAX_PATH / 2 - 1));
        assert_eq!(longest.len(), MAX_PATH);
        let (nodes, text) = written(&[&longest]);
        let trie = Prefixes { nodes: &nodes, text: &text };
        assert_eq!((trie.check(), trie.list()), (Some(()), vec![longest.clone()]));
        assert!(write(&[format!("{longest}a")]).is_err());
        // A chain that is longer than that, as only another program would write it.
        let mut branch: Vec<u8> = Vec::new();
        let count = u32::try_from(MAX_PATH).unwrap() + 2;
        for index in 0..count {
            let last = index + 1 == count;
            let node = Node { first_child: index + 1, children: u32::from(!last), text: 0, text_len: 0, ends: u8::from(last), zero: 0 };
            node.write(&mut branch);
        }
        assert_eq!(Prefixes { nodes: &branch, text: b"" }.check(), Some(()), "`/` as often as a path may have bytes");
        branch.truncate(branch.len() - NODE_LEN);
        for (first_child, children, ends) in [(count, 1, 0), (count + 1, 0, WHOLE)] {
            Node { first_child, children, text: 0, text_len: 0, ends, zero: 0 }.write(&mut branch);
        }
        assert_eq!(Prefixes { nodes: &branch, text: b"" }.check(), None, "one more");
    }
}
