//! Work on large tables, shared among threads. What comes out does not depend on how many there are.

use std::num::NonZero;
use std::ops::Range;
use std::thread;

/// How many threads are worth having: more than a few wait for memory.
pub(crate) fn count() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get).min(8)
}

/// Does `work` on `0..len`, in as many parts as there are threads if that is at least `parallel_from`; the answers are in the order of the parts. Where the system has
/// no more threads to give, this one does the work.
pub(crate) fn in_parts<T: Send>(len: usize, parallel_from: usize, work: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
    let count = if len < parallel_from { 1 } else { count() };
    if count == 1 {
        return vec![work(0..len)];
    }
    let each = len.div_ceil(count).max(1);
    thread::scope(|scope| {
        let work = &work;
        let parts = (0..len).step_by(each).map(|first| first..len.min(first + each));
        let running: Vec<_> = parts.map(|part| (part.clone(), thread::Builder::new().spawn_scoped(scope, move || work(part)))).collect();
        let join = |(part, thread): (Range<usize>, std::io::Result<thread::ScopedJoinHandle<'_, T>>)| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => work(part),
        };
        running.into_iter().map(join).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_in_one_part_and_parts_are_in_order() {
        for len in [0, 1, 2, 7, 8, 9, 1000] {
            for parallel_from in [0, usize::MAX] {
                let parts = in_parts(len, parallel_from, |part| part);
                assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), (0..len).collect::<Vec<_>>(), "{len}");
            }
        }
    }
}
