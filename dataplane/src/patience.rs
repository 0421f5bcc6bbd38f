//! How long a connection may go on waiting: one timer, however often the deadline moves, and none for what does not wait long.
//!
//! A deadline that moves away is only written down. The timer finds out when it fires.
//!
//! A timer takes memory, a place among the others, and often a system call to tell the one who sleeps until the first of them. Most of what is waited for comes within a millisecond:
//! what waits for the first time is put on a list, and sees to a timer when that is gone through, one or two ticks later.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Between two looks at what has begun to wait.
const TICK: Duration = Duration::from_millis(5);
/// A deadline that is nearer has a timer from the first.
const NEAR: Duration = Duration::from_millis(20);
/// How many on the list its memory is kept for.
const KEPT: usize = 1024;

/// A deadline.
#[derive(Debug)]
pub(crate) struct Patience {
    due: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    pub(crate) fn new(wait: Duration) -> Self {
        Self { due: Instant::now() + wait, timer: None }
    }

    /// Sets the deadline so long after now.
    pub(crate) fn set(&mut self, wait: Duration) {
        self.due = Instant::now() + wait;
    }

    /// Sets the deadline.
    pub(crate) fn set_until(&mut self, due: Instant) {
        self.due = due;
    }

    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Ready once the deadline is over.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(self.due)));
        if timer.deadline() > self.due {
            timer.as_mut().reset(self.due);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if self.due <= Instant::now() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(self.due);
        }
        Poll::Pending
    }
}

/// A deadline of what mostly does not wait long.
#[derive(Debug)]
pub(crate) struct LazyPatience {
    patience: Patience,
    listed: Option<Listed>,
}

/// That somebody is on the list.
#[derive(Debug, Clone, Copy)]
struct Listed {
    /// The tick at which the list is gone through.
    until: u64,
    /// No deadline before this is seen to by then.
    near: Instant,
    /// Who is woken.
    waker: usize,
}

impl LazyPatience {
    pub(crate) fn new(wait: Duration) -> Self {
        Self { patience: Patience::new(wait), listed: None }
    }

    /// Sets the deadline so long after now.
    pub(crate) fn set(&mut self, wait: Duration) {
        self.patience.set(wait);
    }

    /// Sets the deadline.
    pub(crate) fn set_until(&mut self, due: Instant) {
        self.patience.set_until(due);
    }

    pub(crate) fn due(&self) -> Instant {
        self.patience.due()
    }

    /// Whether something was waited for longer than most is; where nobody ticks, for any time.
    pub(crate) fn was_long(&self) -> bool {
        self.patience.timer.is_some()
    }

    /// Ready once the deadline is over.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.was_long() && self.is_listed(cx.waker()) {
            return Poll::Pending;
        }
        self.patience.poll_over(cx)
    }

    /// Whether it is on the list, where it is put when it waits for the first time.
    fn is_listed(&mut self, waker: &Waker) -> bool {
        let who = waker.data().addr();
        CLOCK.with_borrow_mut(|clock| match self.listed {
            Some(listed) => clock.is_kept && clock.tick < listed.until && self.patience.due >= listed.near && who == listed.waker,
            None if clock.is_kept => {
                let near = Instant::now() + NEAR;
                if self.patience.due < near {
                    return false;
                }
                clock.new.push(waker.clone());
                self.listed = Some(Listed { until: clock.tick + 2, near, waker: who });
                // The first of them.
                clock.keeper.take().into_iter().for_each(Waker::wake);
                true
            }
            None => false,
        })
    }
}

thread_local! {
    static CLOCK: RefCell<Clock> = RefCell::default();
}

/// The list of a thread.
#[derive(Default)]
struct Clock {
    is_kept: bool,
    tick: u64,
    /// Since the last tick; and those from before it.
    new: Vec<Waker>,
    old: Vec<Waker>,
    /// Who ticks, while there is nothing on the list.
    keeper: Option<Waker>,
}

/// Whoever ticks; without one, everything that waits has a timer at once.
struct Keeper;

impl Keeper {
    fn new() -> Self {
        CLOCK.with_borrow_mut(|clock| clock.is_kept = true);
        Self
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // What is on the list is polled once more and has timers from then on.
        let clock = CLOCK.take();
        clock.old.into_iter().chain(clock.new).for_each(Waker::wake);
    }
}

/// Ticks for the thread that this is polled on.
pub(crate) async fn keep_time() {
    let _keeper = Keeper::new();
    loop {
        poll_fn(|cx| {
            CLOCK.with_borrow_mut(|clock| {
                if clock.new.is_empty() && clock.old.is_empty() {
                    clock.keeper = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
        })
        .await;
        sleep(TICK).await;
        let mut due = CLOCK.with_borrow_mut(|clock| {
            clock.tick += 1;
            mem::replace(&mut clock.old, mem::take(&mut clock.new))
        });
        due.drain(..).for_each(Waker::wake);
        due.shrink_to(KEPT);
        CLOCK.with_borrow_mut(|clock| clock.new.is_empty().then(|| clock.new = due));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_last_deadline_that_was_set() {
        let start = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(5));
        assert!(poll_fn(|cx| Poll::Ready(patience.poll_over(cx))).await.is_pending());
        patience.set(Duration::from_secs(60));
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(60));
        patience.set(Duration::from_secs(100));
        assert!(poll_fn(|cx| Poll::Ready(patience.poll_over(cx))).await.is_pending());
        patience.set(Duration::from_secs(1));
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(61));
    }

    /// Polls it once.
    async fn is_over(patience: &mut LazyPatience) -> bool {
        poll_fn(|cx| Poll::Ready(patience.poll_over(cx).is_ready())).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_has_a_timer_two_ticks_later_and_ends_when_it_is_due() {
        tokio::spawn(keep_time());
        tokio::task::yield_now().await;
        let start = Instant::now();
        let mut patience = LazyPatience::new(Duration::from_secs(5));
        let mut polls = 0;
        poll_fn(|cx| {
            let over = patience.poll_over(cx);
            polls += 1;
            assert_eq!(patience.was_long(), polls > 1, "poll {polls}");
            if polls == 2 {
                assert_eq!(start.elapsed(), 2 * TICK);
            }
            over
        })
        .await;
        assert_eq!((start.elapsed(), polls), (Duration::from_secs(5), 3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_at_once_has_no_timer() {
        tokio::spawn(keep_time());
        tokio::task::yield_now().await;
        let mut patience = LazyPatience::new(Duration::from_secs(5));
        for _ in 0..100 {
            assert!(!is_over(&mut patience).await);
            patience.set(Duration::from_secs(5));
        }
        assert!(!patience.was_long());
        assert_eq!(CLOCK.with_borrow(|clock| clock.new.len() + clock.old.len()), 1, "it is on the list once");
        sleep(3 * TICK).await;
        assert_eq!(CLOCK.with_borrow(|clock| clock.new.len() + clock.old.len()), 0, "nobody is on it for longer than two ticks");
        let start = Instant::now();
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(5) - 3 * TICK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_near_or_comes_nearer_has_a_timer() {
        tokio::spawn(keep_time());
        tokio::task::yield_now().await;
        let start = Instant::now();
        let mut patience = LazyPatience::new(NEAR - Duration::from_millis(1));
        assert!(!is_over(&mut patience).await);
        assert!(patience.was_long());
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(start.elapsed(), NEAR - Duration::from_millis(1));
        let mut patience = LazyPatience::new(Duration::from_secs(5));
        assert!(!is_over(&mut patience).await && !patience.was_long());
        patience.set(Duration::from_millis(1));
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(start.elapsed(), NEAR);
    }

    #[tokio::test(start_paused = true)]
    async fn everything_has_a_timer_where_nobody_ticks() {
        let mut patience = LazyPatience::new(Duration::from_secs(5));
        assert!(!is_over(&mut patience).await);
        assert!(patience.was_long());
        let keeper = tokio::spawn(keep_time());
        tokio::task::yield_now().await;
        let mut patience = LazyPatience::new(Duration::from_secs(5));
        assert!(!is_over(&mut patience).await && !patience.was_long());
        keeper.abort();
        let start = Instant::now();
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!((start.elapsed(), patience.was_long()), (Duration::from_secs(5), true));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_else_polls_is_woken_too() {
        tokio::spawn(keep_time());
        tokio::task::yield_now().await;
        let start = Instant::now();
        let mut patience = LazyPatience::new(Duration::from_secs(5));
        let mut nobody = Context::from_waker(Waker::noop());
        assert!(patience.poll_over(&mut nobody).is_pending() && !patience.was_long());
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }
}
