//! Deadlines that are far away: a line on a list of their thread, where a timer takes four times as much.
//!
//! The list is looked through now and then, and whoever is due soon is woken, leaves it, and takes a timer for what is left.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks at the list.
const LOOK: Duration = Duration::from_secs(2);
/// Whoever is due within this is woken.
const SOON: Duration = Duration::from_secs(2 * LOOK.as_secs());
/// What is due within this is not put on the list.
pub(super) const FAR: Duration = Duration::from_secs(2 * SOON.as_secs());

/// A line of the list, which is given back with this.
#[derive(Debug)]
pub(super) struct Line {
    /// Which thread's.
    list: u32,
    at: u32,
}

impl Line {
    /// Has `waker` woken some seconds before `due`; `None` where that is near, or nobody looks at the list of this thread.
    pub(super) fn new(due: Instant, waker: &Waker) -> Option<Self> {
        if due < Instant::now() + FAR {
            return None;
        }
        let (line, looker) = LIST.with_borrow_mut(|list| list.add(Entry { due, waker: waker.clone() }))?;
        looker.into_iter().for_each(Waker::wake);
        Some(line)
    }

    /// Whether `waker` has not been woken, and will be in time for `due`.
    pub(super) fn holds(&self, due: Instant, waker: &Waker) -> bool {
        LIST.with_borrow(|list| list.entry(self).is_some_and(|entry| due >= entry.due && entry.waker.will_wake(waker)))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // The last waker of a task takes the task with it, which may have a line itself: not while the list is borrowed. At the end of a thread there is no list any more.
        let entry = LIST.try_with(|list| list.borrow_mut().remove(self));
        drop(entry);
    }
}

#[derive(Debug)]
struct Entry {
    due: Instant,
    waker: Waker,
}

thread_local! {
    static LIST: RefCell<List> = RefCell::new(List::new());
}

/// The list of a thread.
struct List {
    /// No other thread's has it: a line that comes from there is not taken for one of these.
    number: u32,
    /// By place. Who was woken has left an empty one, up to giving it back.
    lines: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// Somebody looks at it.
    is_watched: bool,
    /// Who looks, while there is nobody on it.
    looker: Option<Waker>,
}

impl List {
    fn new() -> Self {
        static LISTS: AtomicU32 = AtomicU32::new(0);
        let number = LISTS.fetch_add(1, Ordering::Relaxed);
        Self { number, lines: Vec::new(), free: Vec::new(), is_watched: false, looker: None }
    }

    fn is_empty(&self) -> bool {
        self.lines.len() == self.free.len()
    }

    /// Gives the line, and who is to be told that there is one.
    fn add(&mut self, entry: Entry) -> Option<(Line, Option<Waker>)> {
        if !self.is_watched {
            return None;
        }
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                let at = u32::try_from(self.lines.len()).ok()?;
                self.lines.push(None);
                at
            }
        };
        *self.lines.get_mut(at as usize)? = Some(entry);
        Some((Line { list: self.number, at }, self.looker.take()))
    }

    fn entry(&self, line: &Line) -> Option<&Entry> {
        self.lines.get(line.at as usize).filter(|_| line.list == self.number)?.as_ref()
    }

    fn remove(&mut self, line: &Line) -> Option<Entry> {
        let place = self.lines.get_mut(line.at as usize).filter(|_| line.list == self.number)?;
        let entry = place.take();
        self.free.push(line.at);
        if self.is_empty() {
            // After a flood, its room is given back.
            (self.lines, self.free) = (Vec::new(), Vec::new());
        }
        entry
    }

    /// Takes the wakers of all who are due before `end`; of all without one.
    fn take(&mut self, end: Option<Instant>) -> Vec<Waker> {
        let is_meant = |entry: &mut Entry| end.is_none_or(|end| entry.due < end);
        self.lines.iter_mut().filter_map(|line| line.take_if(is_meant)).map(|entry| entry.waker).collect()
    }
}

/// Looks at the list of the thread that it was made on, for as long as it is there.
pub(super) struct Looker(());

impl Looker {
    pub(super) fn new() -> Self {
        LIST.with_borrow_mut(|list| list.is_watched = true);
        Self(())
    }

    /// Looks while there is somebody on the list. To be polled on the thread that it was made on.
    pub(super) async fn run(self) {
        loop {
            poll_fn(|cx| {
                LIST.with_borrow_mut(|list| {
                    if list.is_empty() {
                        list.looker = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                    Poll::Ready(())
                })
            })
            .await;
            sleep(LOOK).await;
            let end = Instant::now() + SOON;
            let due = LIST.with_borrow_mut(|list| list.take(Some(end)));
            due.into_iter().for_each(Waker::wake);
        }
    }
}

impl Drop for Looker {
    /// Whoever is on the list is woken, and takes a timer.
    fn drop(&mut self) {
        // At the end of a thread there may be no list any more, and nobody on it.
        let left = LIST.try_with(|list| {
            let mut list = list.borrow_mut();
            list.is_watched = false;
            (list.take(None), list.looker.take())
        });
        let (left, looker) = left.unwrap_or_default();
        // Another looker is not to be taken for this one.
        left.into_iter().chain(looker).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::patience::{Alarm, Patience, Ticker};
    use std::task::Context;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Polls it once, with the waker of the one who asks.
    async fn polled(patience: &mut Patience) -> Poll<()> {
        poll_fn(|cx| Poll::Ready(patience.poll_over(cx))).await
    }

    fn is_on_the_list(patience: &Patience) -> bool {
        matches!(patience.alarm, Alarm::Far(_))
    }

    fn lines() -> usize {
        LIST.with_borrow(|list| list.lines.len() - list.free.len())
    }

    async fn ticker() -> tokio::task::JoinHandle<()> {
        let ticker = tokio::spawn(Ticker::new().run());
        tokio::task::yield_now().await;
        ticker
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_far_away_is_on_the_list_and_over_when_it_is_due() {
        ticker().await;
        for wait in [FAR, FAR + LOOK / 4, HOUR, 24 * HOUR + Duration::from_millis(1)] {
            let (start, mut polls) = (Instant::now(), Vec::new());
            let mut patience = Patience::new(wait);
            poll_fn(|cx| {
                let over = patience.poll_over(cx);
                polls.push((start.elapsed(), is_on_the_list(&patience)));
                over
            })
            .await;
            assert_eq!(start.elapsed(), wait);
            // Once when it is written down, once when it is due soon, and once when it is over.
            assert_eq!(polls.iter().map(|(_, is_listed)| *is_listed).collect::<Vec<_>>(), [true, false, false]);
            let early = wait - polls[1].0;
            assert!(early >= LOOK && early <= SOON, "{early:?} before the end");
        }
        assert_eq!(lines(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_near_has_a_timer_and_so_has_everything_where_nobody_looks() {
        let mut patience = Patience::new(HOUR);
        assert!(polled(&mut patience).await.is_pending() && !is_on_the_list(&patience));
        let first = ticker().await;
        let mut patience = Patience::new(FAR - Duration::from_millis(1));
        assert!(polled(&mut patience).await.is_pending() && !is_on_the_list(&patience));
        // Whoever is on the list is told when nobody looks any more, and another one does not take the list for its own.
        let start = Instant::now();
        let mut patience = Patience::new(HOUR);
        assert!(polled(&mut patience).await.is_pending() && is_on_the_list(&patience));
        first.abort();
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert!(start.elapsed() == HOUR && !is_on_the_list(&patience));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_is_kept() {
        ticker().await;
        for (moved, polls_until_then) in [(Duration::from_millis(20), 2), (FAR + LOOK, 3), (2 * HOUR, 4)] {
            let start = Instant::now();
            let mut patience = Patience::new(HOUR);
            assert!(polled(&mut patience).await.is_pending());
            patience.set(moved);
            let mut polls = 1;
            poll_fn(|cx| {
                polls += 1;
                patience.poll_over(cx)
            })
            .await;
            assert_eq!((start.elapsed(), polls), (moved, polls_until_then + 1), "{moved:?}");
        }
        assert_eq!(lines(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_given_back_and_used_again_and_a_flood_leaves_nothing() {
        ticker().await;
        let mut flood = Vec::new();
        for _ in 0..1000 {
            let mut patience = Patience::new(HOUR);
            assert!(polled(&mut patience).await.is_pending());
            flood.push(patience);
        }
        flood.drain(..500);
        for _ in 0..10_000 {
            let mut patience = Patience::new(HOUR);
            assert!(polled(&mut patience).await.is_pending() && is_on_the_list(&patience));
            // Somebody else waits for it now: the line is theirs, and there is still one.
            assert!(patience.poll_over(&mut Context::from_waker(Waker::noop())).is_pending());
            assert_eq!(lines(), 501);
        }
        assert!(LIST.with_borrow(|list| list.lines.len() <= 1002));
        drop(flood);
        assert_eq!((lines(), LIST.with_borrow(|list| list.lines.capacity())), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_of_another_thread_is_none_of_this_ones() {
        ticker().await;
        let due = Instant::now() + HOUR;
        let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        let line = Line::new(due, &waker).unwrap();
        // Its first line has the same place there.
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                let _looker = Looker::new();
                let mine = Line::new(due, &waker).unwrap();
                assert_eq!(line.at, mine.at);
                assert!(mine.holds(due, &waker) && !line.holds(due, &waker));
                drop(line);
                assert!(mine.holds(due, &waker));
            });
            there.join().unwrap();
        });
        assert_eq!(lines(), 1);
    }
}
