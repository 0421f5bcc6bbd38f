//! Numbers for exchanges, tunnels and associations: each is used once while the process lives.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers that a thread takes at a time: the others are not in its way for as long as they last.
const BLOCK: u64 = 1024;

/// A number that nobody had before. Numbers of one thread grow; those of two say nothing about which came first.
pub(crate) fn next() -> u64 {
    static BLOCKS: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static NEXT: Cell<u64> = const { Cell::new(0) };
    }
    let block = || BLOCKS.fetch_add(1, Ordering::Relaxed).wrapping_mul(BLOCK);
    // The last number of a block is 0 in the low bits, so that no number is 0.
    NEXT.try_with(|next| {
        let last = next.get();
        let id = if last % BLOCK == 0 { block() + 1 } else { last + 1 };
        next.set(id);
        id
    })
    // A thread that is ending takes a block for one.
    .unwrap_or_else(|_| block() + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_number_is_given_twice_and_none_is_nought() {
        let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(|| (0..5000).map(|_| next()).collect::<Vec<_>>())).collect();
        let all: Vec<Vec<u64>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(all.iter().all(|one| one.is_sorted()), "those of one thread grow");
        assert!(all.iter().all(|one| one.first().is_some_and(|id| id % 16 == 1)), "the first of a thread is one that is timed");
        let distinct: HashSet<u64> = all.iter().flatten().copied().collect();
        assert_eq!((distinct.len(), distinct.contains(&0)), (8 * 5000, false));
    }
}
