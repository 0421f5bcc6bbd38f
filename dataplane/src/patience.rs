//! How long a connection may go on waiting: one timer, however often the deadline moves.
//!
//! A deadline that moves away is only written down. The timer finds out when it fires.
//!
//! [`Patience`] has its timer from the first wait on, or a line on a list of its thread while the deadline is far away ([`far`]), as that of a tunnel mostly is. A timer takes memory, a
//! place among the others, and often a system call to tell the one who sleeps until the first of them; and most of what a request waits for comes within a millisecond. With
//! [`LazyPatience`], the first wait of a connection is written on another list of its thread. That list is gone through after 5 to 10 ms, and whoever still waits then gets a timer or a
//! line, for this wait and all that come later.

mod far;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Between two looks at the list.
const TICK: Duration = Duration::from_millis(5);
/// A deadline that is nearer has a timer from the first.
const NEAR: Duration = Duration::from_millis(20);
/// How many on the list its memory is kept for.
const KEPT: usize = 1024;

// Whoever is on the list is woken before any deadline that may be on it, also where each tick comes a millisecond late, which is what the runtime's timers round to.
const _: () = assert!(NEAR.as_millis() > 2 * (TICK.as_millis() + 1));

/// A deadline.
#[derive(Debug)]
pub(crate) struct Patience {
    due: Instant,
    alarm: Alarm,
}

/// What wakes whoever waits.
#[derive(Debug, Default)]
enum Alarm {
    /// Nobody has waited yet.
    #[default]
    None,
    Far(far::Line),
    Timer(Pin<Box<Sleep>>),
}

impl Patience {
    pub(crate) fn new(wait: Duration) -> Self {
        Self { due: Instant::now() + wait, alarm: Alarm::None }
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
        let Self { due, alarm } = self;
        loop {
            match alarm {
                Alarm::Far(line) if line.holds(*due, cx.waker()) => return Poll::Pending,
                Alarm::Timer(timer) => {
                    if timer.deadline() > *due {
                        timer.as_mut().reset(*due);
                    }
                    ready!(timer.as_mut().poll(cx));
                    if *due <= Instant::now() {
                        return Poll::Ready(());
                    }
                }
                Alarm::None | Alarm::Far(_) => {}
            }
            match far::Line::new(*due, cx.waker()) {
                Some(line) => {
                    *alarm = Alarm::Far(line);
                    return Poll::Pending;
                }
                None => *alarm = Alarm::Timer(Box::pin(sleep_until(*due))),
            }
        }
    }
}

/// A deadline of what mostly does not wait long. Without a [`Ticker`] on its thread, it has a timer at once.
#[derive(Debug)]
pub(crate) struct LazyPatience {
    patience: Patience,
    enlisted: Option<Enlisted>,
}

/// That somebody was put on the list, which happens once.
#[derive(Debug, Clone, Copy)]
struct Enlisted {
    /// From this tick on, it has been woken.
    until: u64,
    /// A deadline before this may be over by then.
    near: Instant,
    /// Who is woken.
    waker: usize,
}

impl LazyPatience {
    pub(crate) fn new(wait: Duration) -> Self {
        Self { patience: Patience::new(wait), enlisted: None }
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

    /// Whether something was waited for longer than most is, or may be over soon.
    pub(crate) fn is_armed(&self) -> bool {
        !matches!(self.patience.alarm, Alarm::None)
    }

    /// Ready once the deadline is over.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_armed() && self.is_listed(cx.waker()) {
            return Poll::Pending;
        }
        self.patience.poll_over(cx)
    }

    /// Whether the list sees to it; what waits for the first time is put there.
    fn is_listed(&mut self, waker: &Waker) -> bool {
        let who = waker.data().addr();
        let (is_listed, ticker) = WAITERS.with_borrow_mut(|waiters| match self.enlisted {
            _ if !waiters.are_told => (false, None),
            Some(Enlisted { until, near, waker }) => (waiters.tick < until && self.patience.due >= near && who == waker, None),
            None => {
                let near = Instant::now() + NEAR;
                if self.patience.due < near {
                    return (false, None);
                }
                let (until, ticker) = waiters.add(waker.clone());
                self.enlisted = Some(Enlisted { until, near, waker: who });
                (true, ticker)
            }
        });
        ticker.into_iter().for_each(Waker::wake);
        is_listed
    }
}

thread_local! {
    static WAITERS: RefCell<Waiters> = RefCell::default();
}

/// The list of a thread.
#[derive(Default)]
struct Waiters {
    /// There is a ticker.
    are_told: bool,
    tick: u64,
    /// Those who are woken with the next tick, and with the one after it.
    next: Vec<Waker>,
    later: Vec<Waker>,
    /// Who ticks, while there is nobody on the list.
    ticker: Option<Waker>,
}

impl Waiters {
    /// Gives the tick by which it is woken, and who is to be woken now.
    fn add(&mut self, waker: Waker) -> (u64, Option<Waker>) {
        match self.ticker.take() {
            // The first: the next tick is a whole one away.
            Some(ticker) => {
                self.next.push(waker);
                (self.tick + 1, Some(ticker))
            }
            None => {
                self.later.push(waker);
                (self.tick + 2, None)
            }
        }
    }

    /// Gives those whose time has come.
    fn tick(&mut self) -> Vec<Waker> {
        self.tick += 1;
        mem::replace(&mut self.next, mem::take(&mut self.later))
    }
}

/// Goes through the lists of the thread that it was made on, for as long as it is there.
pub(crate) struct Ticker {
    near: Near,
    far: far::Watch,
}

impl Ticker {
    pub(crate) fn new() -> Self {
        Self { near: Near::new(), far: far::Watch::new() }
    }

    /// Whether there is one on this thread.
    pub(crate) fn is_here() -> bool {
        WAITERS.with_borrow(|waiters| waiters.are_told)
    }

    /// Ticks while there is somebody on a list. To be polled on the thread that it was made on.
    pub(crate) async fn run(self) {
        tokio::join!(self.near.run(), self.far.run());
    }
}

/// Goes through the list of those who wait for the first time.
struct Near(());

impl Near {
    fn new() -> Self {
        WAITERS.with_borrow_mut(|waiters| waiters.are_told = true);
        Self(())
    }

    async fn run(self) {
        loop {
            poll_fn(|cx| {
                WAITERS.with_borrow_mut(|waiters| {
                    if waiters.next.is_empty() && waiters.later.is_empty() {
                        waiters.ticker = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                    Poll::Ready(())
                })
            })
            .await;
            sleep(TICK).await;
            let mut due = WAITERS.with_borrow_mut(Waiters::tick);
            due.drain(..).for_each(Waker::wake);
            // Its memory serves again: nobody was put on the list since.
            due.shrink_to(KEPT);
            WAITERS.with_borrow_mut(|waiters| waiters.later.is_empty().then(|| waiters.later = due));
        }
    }
}

impl Drop for Near {
    /// Whoever is on the list is woken, and has a timer.
    fn drop(&mut self) {
        // At the end of a thread there may be no list any more, and nobody on it.
        let left = WAITERS.try_with(|waiters| {
            let mut waiters = waiters.borrow_mut();
            waiters.are_told = false;
            let mut left = waiters.tick();
            left.append(&mut waiters.tick());
            // Another ticker is not to be taken for this one.
            left.extend(waiters.ticker.take());
            left
        });
        left.unwrap_or_default().into_iter().for_each(Waker::wake);
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

    /// Who is not woken.
    fn nobody() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    /// A ticker that waits for the first on the list.
    async fn ticker() -> tokio::task::JoinHandle<()> {
        let ticker = tokio::spawn(Ticker::new().run());
        tokio::task::yield_now().await;
        ticker
    }

    fn on_the_list() -> usize {
        WAITERS.with_borrow(|waiters| waiters.next.len() + waiters.later.len())
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_has_a_timer_after_a_tick_or_two_and_ends_when_it_is_due() {
        ticker().await;
        for ticks in [1, 2] {
            let start = Instant::now();
            // Where somebody is on the list already, the next tick may be near.
            let mut first = LazyPatience::new(Duration::from_secs(5));
            assert!(ticks == 1 || first.poll_over(&mut nobody()).is_pending());
            let mut patience = LazyPatience::new(Duration::from_secs(5));
            let mut polls = 0;
            poll_fn(|cx| {
                let over = patience.poll_over(cx);
                polls += 1;
                assert_eq!(patience.is_armed(), polls > 1, "poll {polls}");
                if polls == 2 {
                    assert_eq!(start.elapsed(), ticks * TICK);
                }
                over
            })
            .await;
            assert_eq!((start.elapsed(), polls), (Duration::from_secs(5), 3));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_at_once_has_no_timer() {
        ticker().await;
        let mut patience = LazyPatience::new(Duration::from_secs(5));
        for _ in 0..100 {
            assert!(!is_over(&mut patience).await);
            patience.set(Duration::from_secs(5));
        }
        assert!(!patience.is_armed());
        assert_eq!(on_the_list(), 1);
        sleep(2 * TICK).await;
        assert_eq!(on_the_list(), 0);
        let start = Instant::now();
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(5) - 2 * TICK);
    }

    #[tokio::test(start_paused = true)]
    async fn the_nearest_deadline_that_is_left_to_the_list_is_kept() {
        ticker().await;
        // Behind a tick, so that the list is gone through as late as it may be.
        let mut first = LazyPatience::new(Duration::from_secs(5));
        assert!(first.poll_over(&mut nobody()).is_pending());
        sleep(TICK + Duration::from_millis(1)).await;
        let start = Instant::now();
        let mut patience = LazyPatience::new(NEAR);
        assert!(!is_over(&mut patience).await && !patience.is_armed());
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(start.elapsed(), NEAR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_near_or_comes_nearer_has_a_timer() {
        ticker().await;
        let start = Instant::now();
        let mut patience = LazyPatience::new(NEAR - Duration::from_millis(1));
        assert!(!is_over(&mut patience).await && patience.is_armed());
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(start.elapsed(), NEAR - Duration::from_millis(1));
        let mut patience = LazyPatience::new(Duration::from_secs(5));
        assert!(!is_over(&mut patience).await && !patience.is_armed());
        patience.set(Duration::from_millis(1));
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(start.elapsed(), NEAR);
    }

    #[tokio::test(start_paused = true)]
    async fn everything_has_a_timer_where_nobody_ticks() {
        let mut patience = LazyPatience::new(Duration::from_secs(5));
        assert!(!is_over(&mut patience).await && patience.is_armed());
        // One that ends hands over what is on its list, and another one does not take it for its own.
        let first = ticker().await;
        let mut patience = LazyPatience::new(Duration::from_secs(5));
        assert!(!is_over(&mut patience).await && !patience.is_armed());
        first.abort();
        tokio::task::yield_now().await;
        ticker().await;
        let start = Instant::now();
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!((start.elapsed(), patience.is_armed()), (Duration::from_secs(5), true));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_else_polls_is_woken_too() {
        ticker().await;
        let start = Instant::now();
        let mut patience = LazyPatience::new(Duration::from_secs(5));
        assert!(patience.poll_over(&mut nobody()).is_pending() && !patience.is_armed());
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }
}
