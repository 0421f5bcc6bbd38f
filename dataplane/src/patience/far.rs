//! Deadlines that are far away: a line on a list of their thread, where a timer takes four times as much.
//!
//! The list is gone through now and then, and whoever is due soon is woken, leaves it, and takes a timer for what is left. A line belongs to the thread that it was made on, as does the
//! task that waits: dropped elsewhere, its place stays taken.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

/// Between two rounds through the list, for which a thread is woken that has nothing else to do.
const ROUND: Duration = Duration::from_secs(5);
/// Whoever is due within this is woken.
const SOON: Duration = ROUND.saturating_mul(2);
/// What is due within this is not put on the list: nobody is written down for one round or two.
const FAR: Duration = SOON.saturating_mul(2);
/// Places that are gone through before others have their turn.
const PIECE: usize = 256;
/// Places that are kept while few of them are taken.
const KEPT: usize = 1024;

// A round may come late by one, and still nobody on the list is due.
const _: () = assert!(SOON.as_millis() >= 2 * ROUND.as_millis() && FAR.as_millis() >= SOON.as_millis() + ROUND.as_millis());

/// A line of the list, which is given back with this.
#[derive(Debug)]
pub(super) struct Line {
    /// Which thread's.
    list: u32,
    at: u32,
}

impl Line {
    /// Has `waker` woken some seconds before `due`; `None` where that is near, or nobody goes through the list of this thread.
    pub(super) fn new(due: Instant, waker: &Waker) -> Option<Self> {
        if due < Instant::now() + FAR {
            return None;
        }
        let (line, idle) = LIST.with_borrow_mut(|list| list.add(Entry { due, waker: waker.clone() }))?;
        idle.into_iter().for_each(Waker::wake);
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
    /// By place. That of somebody who was woken is empty, and taken until its line is given back.
    places: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// Somebody goes through it.
    is_watched: bool,
    /// Who does, while there is nobody on it.
    idle: Option<Waker>,
}

impl List {
    fn new() -> Self {
        static LISTS: AtomicU32 = AtomicU32::new(0);
        let number = LISTS.fetch_add(1, Ordering::Relaxed);
        Self { number, places: Vec::new(), free: Vec::new(), is_watched: false, idle: None }
    }

    fn is_empty(&self) -> bool {
        self.places.len() == self.free.len()
    }

    /// Gives the line, and who is to be told that there is one.
    fn add(&mut self, entry: Entry) -> Option<(Line, Option<Waker>)> {
        if !self.is_watched {
            return None;
        }
        let at = match self.free.pop() {
            Some(at) => at,
            None => {
                let at = u32::try_from(self.places.len()).ok()?;
                self.places.push(None);
                at
            }
        };
        *self.places.get_mut(at as usize)? = Some(entry);
        Some((Line { list: self.number, at }, self.idle.take()))
    }

    fn entry(&self, line: &Line) -> Option<&Entry> {
        self.places.get(line.at as usize).filter(|_| line.list == self.number)?.as_ref()
    }

    fn remove(&mut self, line: &Line) -> Option<Entry> {
        let place = self.places.get_mut(line.at as usize).filter(|_| line.list == self.number)?;
        let entry = place.take();
        self.free.push(line.at);
        if self.is_empty() {
            (self.places, self.free) = (Vec::new(), Vec::new());
        }
        entry
    }

    /// Takes the wakers of those who are due before `end` from a piece of it, or of all; `None` behind its end.
    fn take(&mut self, piece: usize, end: Option<Instant>) -> Option<Vec<Waker>> {
        let is_meant = |entry: &mut Entry| end.is_none_or(|end| entry.due < end);
        let places = self.places.chunks_mut(PIECE).nth(piece)?;
        Some(places.iter_mut().filter_map(|place| place.take_if(is_meant)).map(|entry| entry.waker).collect())
    }

    /// After a flood, gives back what is behind the last place that is taken, and has the first places taken next, so that there will be more of it.
    fn shrink(&mut self) {
        if self.places.len() <= KEPT || self.places.len() - self.free.len() > self.places.len() / 4 {
            return;
        }
        self.free.sort_unstable_by(|one, other| other.cmp(one));
        let free_at_the_end = self.free.iter().zip((0..self.places.len()).rev()).take_while(|(free, place)| **free as usize == *place);
        let end = free_at_the_end.count();
        self.free.drain(..end);
        self.places.truncate(self.places.len() - end);
        self.places.shrink_to(KEPT);
        self.free.shrink_to(KEPT);
    }
}

/// Goes through the list of the thread that it was made on, for as long as it is there. It is dropped there too.
pub(super) struct Watch(());

impl Watch {
    pub(super) fn new() -> Self {
        LIST.with_borrow_mut(|list| list.is_watched = true);
        Self(())
    }

    /// Goes through it while there is somebody on it. To be polled on the thread that it was made on.
    pub(super) async fn run(self) {
        loop {
            poll_fn(|cx| {
                let waker = cx.waker().clone();
                let before = LIST.with_borrow_mut(|list| list.is_empty().then(|| list.idle.replace(waker)));
                if before.is_some() { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            sleep(ROUND).await;
            LIST.with_borrow_mut(List::shrink);
            let end = Instant::now() + SOON;
            for piece in 0.. {
                let Some(due) = LIST.with_borrow_mut(|list| list.take(piece, Some(end))) else { break };
                if !due.is_empty() {
                    due.into_iter().for_each(Waker::wake);
                    yield_now().await;
                }
            }
        }
    }
}

impl Drop for Watch {
    /// Whoever is on the list is woken, and takes a timer.
    fn drop(&mut self) {
        let take = |list: &RefCell<List>, piece| {
            let mut list = list.borrow_mut();
            list.is_watched = false;
            list.take(piece, None)
        };
        for piece in 0.. {
            // At the end of a thread there may be no list any more, and nobody on it.
            let Ok(Some(left)) = LIST.try_with(|list| take(list, piece)) else { return };
            left.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::patience::{Alarm, Patience, Ticker};
    use std::future::Future;
    use std::sync::{Arc, Mutex};
    use std::task::{Context, Wake};

    const HOUR: Duration = Duration::from_secs(3600);

    /// Polls it once, with the waker of the one who asks.
    async fn polled(patience: &mut Patience) -> Poll<()> {
        poll_fn(|cx| Poll::Ready(patience.poll_over(cx))).await
    }

    fn is_on_the_list(patience: &Patience) -> bool {
        matches!(patience.alarm, Alarm::Far(_))
    }

    fn taken() -> usize {
        LIST.with_borrow(|list| list.places.len() - list.free.len())
    }

    fn places() -> usize {
        LIST.with_borrow(|list| list.places.capacity())
    }

    async fn ticker() -> tokio::task::JoinHandle<()> {
        let ticker = tokio::spawn(Ticker::new().run());
        yield_now().await;
        ticker
    }

    async fn listed(wait: Duration) -> Patience {
        let mut patience = Patience::new(wait);
        assert!(polled(&mut patience).await.is_pending() && is_on_the_list(&patience));
        patience
    }

    #[test]
    fn a_place_is_small() {
        assert_eq!(size_of::<Option<Entry>>(), 32);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_far_away_is_on_the_list_and_over_when_it_is_due() {
        ticker().await;
        for wait in [FAR, FAR + ROUND / 4, HOUR, 24 * HOUR + Duration::from_millis(1)] {
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
            assert!(early >= ROUND && early <= SOON, "{early:?} before the end");
        }
        assert_eq!(taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_near_has_a_timer_and_so_has_everything_where_nobody_goes_through_the_list() {
        let mut patience = Patience::new(HOUR);
        assert!(polled(&mut patience).await.is_pending() && !is_on_the_list(&patience));
        let first = ticker().await;
        let mut patience = Patience::new(FAR - Duration::from_millis(1));
        assert!(polled(&mut patience).await.is_pending() && !is_on_the_list(&patience));
        // Whoever is on the list is told when nobody goes through it any more.
        let start = Instant::now();
        let mut left = listed(HOUR).await;
        first.abort();
        poll_fn(|cx| left.poll_over(cx)).await;
        assert!(start.elapsed() == HOUR && !is_on_the_list(&left));
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_through_the_list_sleeps_while_there_is_nobody_on_it() {
        let mut watch = Box::pin(Watch::new().run());
        // How often it is polled within an hour.
        let mut an_hour = async || {
            let mut polls = 0;
            let counted = poll_fn(|cx| {
                polls += 1;
                watch.as_mut().poll(cx)
            });
            assert!(tokio::time::timeout(HOUR, counted).await.is_err());
            polls
        };
        assert!(an_hour().await <= 2);
        let patience = listed(10 * HOUR).await;
        let rounds = HOUR.as_secs() / ROUND.as_secs();
        assert!((rounds - 10..rounds + 10).contains(&an_hour().await));
        drop(patience);
        assert!(an_hour().await <= 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_is_kept() {
        ticker().await;
        for (moved, polls_until_then) in [(Duration::from_millis(20), 2), (FAR + ROUND, 3), (2 * HOUR, 4)] {
            let start = Instant::now();
            let mut patience = listed(HOUR).await;
            patience.set(moved);
            let mut polls = 1;
            poll_fn(|cx| {
                polls += 1;
                patience.poll_over(cx)
            })
            .await;
            assert_eq!((start.elapsed(), polls), (moved, polls_until_then + 1), "{moved:?}");
        }
        assert_eq!(taken(), 0);
    }

    /// Wakes nobody, and has something to give back.
    #[derive(Default)]
    struct Holder(Mutex<Option<Patience>>);

    impl Wake for Holder {
        fn wake(self: Arc<Self>) {}
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_else_polls_is_woken_instead() {
        ticker().await;
        let start = Instant::now();
        let mut patience = Patience::new(HOUR);
        let other = Waker::from(Arc::new(Holder::default()));
        assert!(patience.poll_over(&mut Context::from_waker(&other)).is_pending() && is_on_the_list(&patience));
        let over = tokio::time::timeout(2 * HOUR, poll_fn(|cx| patience.poll_over(cx)));
        assert_eq!((over.await, start.elapsed(), taken()), (Ok(()), HOUR, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_given_back_while_another_one_is() {
        ticker().await;
        let holder = Arc::new(Holder::default());
        let waker = Waker::from(Arc::clone(&holder));
        let due = Instant::now() + HOUR;
        let line = Line::new(due, &waker).unwrap();
        *holder.0.lock().unwrap() = Some(listed(HOUR).await);
        drop((waker, holder));
        assert_eq!(taken(), 2);
        // With the last of its wakers.
        drop(line);
        assert_eq!(taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_used_again_and_a_flood_leaves_little_behind_whoever_stays() {
        ticker().await;
        let mut flood = Vec::new();
        for _ in 0..8 * KEPT {
            flood.push(listed(10 * HOUR).await);
        }
        for _ in 0..10_000 {
            drop(listed(HOUR).await);
            assert_eq!(taken(), 8 * KEPT);
        }
        assert!((8 * KEPT..20 * KEPT).contains(&places()));
        // One at the beginning and one in the middle stay: what is behind them is given back.
        flood.truncate(4 * KEPT);
        flood.drain(1..4 * KEPT - 1);
        sleep(2 * ROUND).await;
        assert!((4 * KEPT..5 * KEPT).contains(&places()), "{}", places());
        // The first places are taken first.
        for _ in 0..KEPT / 2 {
            flood.push(listed(10 * HOUR).await);
        }
        drop(flood.remove(1));
        sleep(2 * ROUND).await;
        assert!(places() <= KEPT, "{}", places());
        assert_eq!(taken(), KEPT / 2 + 1);
        drop(flood);
        assert_eq!((taken(), places()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn thousands_who_are_due_at_once_are_woken() {
        ticker().await;
        let start = Instant::now();
        let wait = |_| {
            tokio::spawn(async {
                let mut patience = Patience::new(HOUR);
                poll_fn(|cx| patience.poll_over(cx)).await;
            })
        };
        let waiting: Vec<_> = (0..5 * PIECE + 1).map(wait).collect();
        while taken() < waiting.len() {
            yield_now().await;
        }
        for one in waiting {
            one.await.unwrap();
        }
        assert_eq!((start.elapsed(), taken()), (HOUR, 0));
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
                let _watch = Watch::new();
                let mine = Line::new(due, &waker).unwrap();
                assert_eq!(line.at, mine.at);
                assert!(mine.holds(due, &waker) && !line.holds(due, &waker));
                drop(line);
                assert!(mine.holds(due, &waker));
            });
            there.join().unwrap();
        });
    }
}
