//! Wakes tasks a little later: for what need not be done in most cases, because by then there is no more reason to. Costs no timer for each.

use std::cell::RefCell;
use std::task::Waker;
use std::time::Duration;

/// A task is woken after once to twice as long.
const TICK: Duration = Duration::from_millis(5);

/// Those of one thread.
struct Late {
    /// From before the last tick, and since.
    old: Vec<Waker>,
    young: Vec<Waker>,
    /// A task of the thread ticks.
    ticks: bool,
}

thread_local! {
    static LATE: RefCell<Late> = const { RefCell::new(Late { old: Vec::new(), young: Vec::new(), ticks: false }) };
}

/// Wakes a task, unless it has ended, in 5 to 10 ms.
pub(crate) fn wake_later(waker: &Waker) {
    let is_first = LATE.with_borrow_mut(|late| {
        late.young.push(waker.clone());
        !std::mem::replace(&mut late.ticks, true)
    });
    if is_first {
        tokio::spawn(tick());
    }
}

async fn tick() {
    let _ticking = Ticking;
    let mut due = Vec::new();
    loop {
        tokio::time::sleep(TICK).await;
        let is_over = LATE.with_borrow_mut(|late| {
            std::mem::swap(&mut due, &mut late.old);
            std::mem::swap(&mut late.old, &mut late.young);
            late.old.is_empty()
        });
        due.drain(..).for_each(Waker::wake);
        if is_over {
            return;
        }
    }
}

/// Also where the runtime ends.
struct Ticking;

impl Drop for Ticking {
    fn drop(&mut self) {
        // A thread that ends has none any more.
        let _ = LATE.try_with(|late| {
            if let Ok(mut late) = late.try_borrow_mut() {
                late.ticks = false;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Poll;

    /// Ends when it is woken.
    async fn later() {
        let mut asked = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut asked, true) {
                return Poll::Ready(());
            }
            wake_later(cx.waker());
            Poll::Pending
        })
        .await;
    }

    #[test]
    fn who_waits_is_woken_each_time_in_each_runtime_of_a_thread() {
        for _ in 0..2 {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap_or_else(|_| unreachable!());
            runtime.block_on(async {
                for _ in 0..3 {
                    let before = tokio::time::Instant::now();
                    tokio::join!(later(), later());
                    assert!((TICK..=2 * TICK + Duration::from_millis(1)).contains(&before.elapsed()), "{:?}", before.elapsed());
                    // Until nobody ticks.
                    tokio::time::sleep(3 * TICK).await;
                    assert!(!LATE.with_borrow(|late| late.ticks));
                }
                // Left behind by a runtime that ends.
                tokio::spawn(later());
                tokio::task::yield_now().await;
                assert!(LATE.with_borrow(|late| late.ticks));
            });
            drop(runtime);
            assert!(!LATE.with_borrow(|late| late.ticks));
        }
    }
}
