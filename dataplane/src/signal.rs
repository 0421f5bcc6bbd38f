//! Wakes everyone who waits for something else: a new policy is in force, or a shutdown has started.
//!
//! One bell for all news, so that a connection listens to one thing only. It says that something is new, not what: whoever is woken looks.

use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// The bell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bell(Arc<Rings>);

#[derive(Debug, Default)]
struct Rings {
    /// Twice the times that it rang; odd while it is ringing.
    count: AtomicU64,
    /// One ring after the other.
    ringing: Mutex<()>,
    notify: Arc<Notify>,
}

/// Hears the bell from the moment it was made on.
#[derive(Debug)]
pub(crate) struct Ear(Pin<Box<Listening>>);

pin_project! {
    #[derive(Debug)]
    struct Listening {
        bell: Bell,
        // What the bell had counted before this listened.
        heard: u64,
        // Who is woken by a ring, as `Waker::data` has it.
        who: usize,
        #[pin]
        notified: OwnedNotified,
    }
}

/// No waker's.
const NOBODY: usize = usize::MAX;

impl Bell {
    pub(crate) fn ring(&self) {
        // INVARIANT: nobody who is woken rings this bell at once: a waker only writes down who has to look.
        let ringing = self.0.ringing.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.count.fetch_or(1, Ordering::AcqRel);
        self.0.notify.notify_waiters();
        self.0.count.fetch_add(1, Ordering::AcqRel);
        drop(ringing);
    }

    fn count(&self) -> u64 {
        self.0.count.load(Ordering::Acquire)
    }

    /// `old`, where it listens to this bell, or a new one. It may tell of a ring from before: who hears one looks what is new.
    pub(crate) fn reuse_ear(&self, old: Option<Ear>) -> Ear {
        old.filter(|ear| Arc::ptr_eq(&ear.0.bell.0, &self.0)).unwrap_or_else(|| self.ear())
    }

    pub(crate) fn ear(&self) -> Ear {
        // In this order: a ring in between is one that is heard.
        let heard = self.count();
        let notified = Arc::clone(&self.0.notify).notified_owned();
        Ear(Box::pin(Listening { bell: self.clone(), heard, who: NOBODY, notified }))
    }
}

impl Ear {
    /// Ready if the bell rang since the last time that this was ready; now and then once more for the same ring.
    ///
    /// Every connection asks this whenever it has to wait, and all listen by one list, behind one lock. So whoever is on the list already only compares the count: as long as that is the one from
    /// before this listened, and no ring was going on then, nothing has taken it off the list, and the next ring wakes it.
    pub(crate) fn poll_rung(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.0.as_mut().project();
        let (count, who) = (this.bell.count(), cx.waker().data().addr());
        if count == *this.heard {
            if who == *this.who && count % 2 == 0 {
                return Poll::Pending;
            }
            if this.notified.as_mut().poll(cx).is_pending() {
                // The list has a clone of the waker, so that nobody else is where its data is while `who` says so.
                *this.who = who;
                return Poll::Pending;
            }
        }
        // A new one before anyone looks at what is new: nothing that comes after is missed.
        (*this.heard, *this.who) = (this.bell.count(), NOBODY);
        this.notified.set(Arc::clone(&this.bell.0.notify).notified_owned());
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn an_ear_that_somebody_had_before_hears_its_own_bell_and_none_that_rang_meanwhile_is_missed() {
        let mut cx = Context::from_waker(Waker::noop());
        let (bell, other) = (Bell::default(), Bell::default());
        let mut ear = bell.ear();
        assert!(ear.poll_rung(&mut cx).is_pending());
        bell.ring();
        let mut ear = bell.reuse_ear(Some(ear));
        assert!(ear.poll_rung(&mut cx).is_ready() && ear.poll_rung(&mut cx).is_pending());
        // Of another bell, it would hear nothing of this one.
        let mut ear = other.reuse_ear(Some(ear));
        bell.ring();
        assert!(ear.poll_rung(&mut cx).is_pending());
        other.ring();
        assert!(ear.poll_rung(&mut cx).is_ready());
        let mut ear = other.reuse_ear(None);
        assert!(ear.poll_rung(&mut cx).is_pending());
        other.ring();
        assert!(ear.poll_rung(&mut cx).is_ready());
    }

    /// Wakes a thread that waits.
    struct Unpark(std::thread::Thread);

    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    #[test]
    fn whoever_waits_hears_every_ring_wherever_it_falls() {
        const RINGS: u64 = 20_000;
        let (bell, news) = (Bell::default(), AtomicU64::new(0));
        let (bell, news) = (&bell, &news);
        std::thread::scope(|scope| {
            let listeners: [_; 3] = std::array::from_fn(|_| {
                let mut ear = bell.ear();
                let (tell, told) = std::sync::mpsc::channel();
                scope.spawn(move || {
                    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
                    let (mut cx, mut known, mut looks) = (Context::from_waker(&waker), 0, 0_u32);
                    while known < RINGS {
                        looks = looks.wrapping_add(1);
                        if ear.poll_rung(&mut cx).is_ready() {
                            known = news.load(Ordering::Acquire);
                            tell.send(known).unwrap();
                        } else if looks % 3 == 0 {
                            std::thread::park();
                        }
                    }
                });
                told
            });
            for ring in 1..=RINGS {
                news.store(ring, Ordering::Release);
                bell.ring();
                // Nobody sleeps through one. Every few, so that rings also fall into what the one before is answered with.
                if ring % 7 == 0 || ring == RINGS {
                    for told in &listeners {
                        while told.recv_timeout(std::time::Duration::from_secs(60)).unwrap() < ring {}
                    }
                }
            }
        });
    }

    /// Says who is woken.
    struct Tell(std::sync::mpsc::Sender<&'static str>, &'static str);

    impl std::task::Wake for Tell {
        fn wake(self: Arc<Self>) {
            self.0.send(self.1).unwrap();
        }
    }

    #[test]
    fn who_asks_while_it_rings_is_woken_by_the_next_ring() {
        let (bell, (tell, told)) = (Bell::default(), std::sync::mpsc::channel());
        let waker = Waker::from(Arc::new(Tell(tell, "woken")));
        let mut cx = Context::from_waker(&waker);
        let mut ear = bell.ear();
        assert!(ear.poll_rung(&mut cx).is_pending());
        // What a ring does, step by step.
        bell.0.count.fetch_add(1, Ordering::AcqRel);
        assert!(ear.poll_rung(&mut cx).is_ready() && ear.poll_rung(&mut cx).is_pending());
        bell.0.notify.notify_waiters();
        assert!(ear.poll_rung(&mut cx).is_ready() && ear.poll_rung(&mut cx).is_pending());
        bell.0.count.fetch_add(1, Ordering::AcqRel);
        let before = told.try_iter().count();
        bell.ring();
        assert_eq!((before, told.try_iter().count()), (1, 1));
        assert!(ear.poll_rung(&mut cx).is_ready() && ear.poll_rung(&mut cx).is_pending());
    }

    #[test]
    fn an_ear_wakes_whoever_asked_it_last() {
        let (bell, (tell, told)) = (Bell::default(), std::sync::mpsc::channel());
        let [first, second] = ["first", "second"].map(|name| Waker::from(Arc::new(Tell(tell.clone(), name))));
        let mut ear = bell.ear();
        for waker in [&first, &first, &second, &second] {
            assert!(ear.poll_rung(&mut Context::from_waker(waker)).is_pending());
        }
        bell.ring();
        assert_eq!(told.try_iter().collect::<Vec<_>>(), ["second"]);
    }
}
