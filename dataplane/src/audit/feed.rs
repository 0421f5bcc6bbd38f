//! What the admin API and embedding programs see of events: the last denials, and events as they come.

use super::hub::Hub;
use super::record::{Event, Wants};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Denials that are kept.
pub(crate) const RING: usize = 1024;
/// Events that wait for one subscriber.
const WAITING: usize = 1024;
/// Subscribers at once.
const SUBSCRIBERS: usize = 64;

/// The last denials, and subscriptions to events. Clones are of the same feed.
#[derive(Clone)]
pub struct Feed(pub(super) Arc<Hub>);

/// Denials from the ring.
#[derive(Debug, Clone, Default)]
pub struct Blocked {
    /// The oldest first.
    pub events: Vec<Arc<Event>>,
    /// What to ask for the next time, as `since`.
    pub next: u64,
    /// How many there were in between, and since they were taken out the last time, that have made room for others.
    pub lost: u64,
}

/// What a subscriber gets.
#[derive(Debug, Clone)]
pub enum Item {
    /// An event.
    Event(Arc<Event>),
    /// It was too slow: that many are missing.
    Lost(u64),
}

/// Events as they come. Dropping it ends it.
#[derive(Debug)]
pub struct Subscription {
    events: mpsc::Receiver<Arc<Event>>,
    lost: Arc<AtomicU64>,
}

impl Subscription {
    /// The next one; `None` once the proxy has stopped. Cancel safe.
    pub async fn next(&mut self) -> Option<Item> {
        // What is missing is missing behind what waits.
        if self.events.is_empty() {
            let lost = self.lost.swap(0, Ordering::AcqRel);
            if lost > 0 {
                return Some(Item::Lost(lost));
            }
        }
        self.events.recv().await.map(Item::Event)
    }

    /// The same, if there is one by now.
    pub fn try_next(&mut self) -> Option<Item> {
        match self.events.try_recv() {
            Ok(event) => Some(Item::Event(event)),
            Err(_) => Some(self.lost.swap(0, Ordering::AcqRel)).filter(|lost| *lost > 0).map(Item::Lost),
        }
    }
}

impl Feed {
    /// Denials with a number above `since`, the oldest first, at most `limit` of them. A number that is yet to come is of a process before this one, and stands for none. Those that are on their way to the ring are not in it yet: see [`Self::settled`].
    #[must_use]
    pub fn blocked(&self, since: u64, limit: usize) -> Blocked {
        self.0.board.ring().blocked(since, limit)
    }

    /// Takes all denials out of the ring.
    #[must_use]
    pub fn drain_blocked(&self) -> Vec<Arc<Event>> {
        self.0.board.ring().take()
    }

    /// Whether somebody may have seen an event of this number ([`Event::sequence`]). If not, it is of another process.
    pub(crate) fn has_told(&self, sequence: u64) -> bool {
        sequence <= self.0.board.last.load(Ordering::Acquire)
    }

    /// Events from now on that are wanted, and of which `matches` says so. `None` when there are too many subscribers.
    #[must_use]
    pub fn subscribe(&self, wants: Wants, matches: impl Fn(&Event) -> bool + Send + Sync + 'static) -> Option<Subscription> {
        let (sender, events) = mpsc::channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let subscriber = Subscriber { wants, matches: Box::new(matches), sender, lost: Arc::clone(&lost) };
        self.0.board.add(subscriber).then(|| {
            self.0.follow_wants();
            Subscription { events, lost }
        })
    }

    /// Ends once everything that had happened when it was called is in the ring, and was sent to subscribers.
    pub async fn settled(&self) {
        self.0.settled().await;
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

struct Subscriber {
    wants: Wants,
    matches: Box<dyn Fn(&Event) -> bool + Send + Sync>,
    sender: mpsc::Sender<Arc<Event>>,
    lost: Arc<AtomicU64>,
}

/// Denials by a number of their own, without gaps.
#[derive(Default)]
pub(super) struct Ring {
    events: VecDeque<(u64, Arc<Event>)>,
    last: u64,
    /// The last that has made room for another, and the last that was taken out.
    gone: u64,
    taken: u64,
}

impl Ring {
    fn push(&mut self, event: Arc<Event>) {
        if self.events.len() == RING
            && let Some((number, _)) = self.events.pop_front()
        {
            self.gone = number;
        }
        self.last += 1;
        self.events.push_back((self.last, event));
    }

    fn take(&mut self) -> Vec<Arc<Event>> {
        self.taken = self.last;
        self.events.drain(..).map(|(_, event)| event).collect()
    }

    fn blocked(&self, since: u64, limit: usize) -> Blocked {
        let since = if since > self.last { 0 } else { since };
        let first = self.events.front().map_or(self.last + 1, |(number, _)| *number);
        let lost = self.gone.saturating_sub(since.max(self.taken));
        let found = self.events.iter().filter(|(number, _)| *number > since).take(limit);
        let mut next = since.max(first.saturating_sub(1)).min(self.last);
        let events = found.map(|(number, event)| (next = *number, Arc::clone(event)).1).collect();
        Blocked { events, next, lost }
    }
}

/// Where the consumer puts what it tells.
#[derive(Default)]
pub(super) struct Board {
    ring: Mutex<Ring>,
    subscribers: Mutex<Vec<Subscriber>>,
    /// The sequence number of the last event that anybody may have seen.
    last: AtomicU64,
}

impl Board {
    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribers(&self) -> std::sync::MutexGuard<'_, Vec<Subscriber>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, subscriber: Subscriber) -> bool {
        let mut subscribers = self.subscribers();
        subscribers.retain(|subscriber| !subscriber.sender.is_closed());
        let room = subscribers.len() < SUBSCRIBERS;
        if room {
            subscribers.push(subscriber);
        }
        room
    }

    /// What the ring and those who are subscribed want.
    pub(super) fn wants(&self) -> Wants {
        let mut subscribers = self.subscribers();
        subscribers.retain(|subscriber| !subscriber.sender.is_closed());
        subscribers.iter().fold(Wants::DENIALS, |wants, subscriber| wants.and(subscriber.wants))
    }

    /// Tells them. Gives whether a subscriber has gone.
    pub(super) fn tell(&self, events: &[Event]) -> bool {
        if let Some(event) = events.last() {
            // Before it is seen, so that who comes back with its number is known to have it from here.
            self.last.store(event.sequence, Ordering::Release);
        }
        let subscribers = self.subscribers();
        let mut gone = false;
        for event in events {
            let of = event.kind.of();
            let mut shared: Option<Arc<Event>> = None;
            let mut share = || Arc::clone(shared.get_or_insert_with(|| Arc::new(event.clone())));
            if of == Wants::DENIALS {
                self.ring().push(share());
            }
            for subscriber in subscribers.iter().filter(|subscriber| subscriber.wants.any(of) && (subscriber.matches)(event)) {
                match subscriber.sender.try_send(share()) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => _ = subscriber.lost.fetch_add(1, Ordering::AcqRel),
                    Err(mpsc::error::TrySendError::Closed(_)) => gone = true,
                }
            }
        }
        gone
    }

    /// There are no more events: subscriptions end.
    pub(super) fn end(&self) {
        self.subscribers().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::Kind;

    fn ring(count: u64) -> Ring {
        let mut ring = Ring::default();
        (0..count).for_each(|_| ring.push(Arc::new(Event::now(Kind::Stop))));
        ring
    }

    #[test]
    fn the_ring_is_paged_and_says_what_it_has_lost() {
        let seen = |ring: &Ring, since, limit| {
            let Blocked { events, next, lost } = ring.blocked(since, limit);
            (events.len(), next, lost)
        };
        assert_eq!(seen(&ring(0), 0, 10), (0, 0, 0));
        assert_eq!(seen(&ring(5), 0, 3), (3, 3, 0));
        assert_eq!(seen(&ring(5), 3, 3), (2, 5, 0));
        assert_eq!(seen(&ring(5), 5, 3), (0, 5, 0));
        // Another proxy's number, or one of before it was started anew.
        assert_eq!(seen(&ring(5), 99, 3), (3, 3, 0));
        assert_eq!(seen(&ring(0), 99, 3), (0, 0, 0));
        let full = ring(RING as u64 + 10);
        assert_eq!(seen(&full, 0, 2), (2, 12, 10));
        assert_eq!(seen(&full, 10, 2), (2, 12, 0));
        assert_eq!(seen(&full, 4, usize::MAX), (RING, RING as u64 + 10, 6));
    }

    #[test]
    fn what_was_taken_out_is_not_lost() {
        let seen = |ring: &Ring, since| {
            let Blocked { events, next, lost } = ring.blocked(since, usize::MAX);
            (events.len(), next, lost)
        };
        let mut ring = ring(3);
        assert_eq!(ring.take().len(), 3);
        for since in [0, 2, 3, 99] {
            assert_eq!(seen(&ring, since), (0, 3, 0), "{since}");
        }
        // What comes then is lost as ever: three were taken out, and ten of those behind them have made room.
        let event = Arc::new(Event::now(Kind::Stop));
        (0..RING + 10).for_each(|_| ring.push(Arc::clone(&event)));
        for (since, lost) in [(0, 10), (3, 10), (8, 5), (13, 0)] {
            assert_eq!(seen(&ring, since), (RING, RING as u64 + 13, lost), "{since}");
        }
        assert_eq!(ring.take().len(), RING);
        assert_eq!(seen(&ring, 3), (0, RING as u64 + 13, 0));
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_how_many_it_missed() {
        let board = Board::default();
        let (sender, events) = mpsc::channel(2);
        let lost = Arc::new(AtomicU64::new(0));
        let mut subscription = Subscription { events, lost: Arc::clone(&lost) };
        assert!(board.add(Subscriber { wants: Wants::STATE, matches: Box::new(|_| true), sender, lost }));
        assert_eq!(board.wants(), Wants::DENIALS.and(Wants::STATE));
        let all: Vec<Event> = (1..=5).map(|sequence| Event { sequence, ..Event::now(Kind::Stop) }).collect();
        assert!(!board.tell(&all));
        assert_eq!(board.last.load(Ordering::Acquire), 5);
        for _ in 0..2 {
            assert!(matches!(subscription.next().await, Some(Item::Event(_))));
        }
        assert!(matches!(subscription.next().await, Some(Item::Lost(3))));
        board.end();
        assert!(subscription.next().await.is_none());
        let (sender, events) = mpsc::channel(1);
        assert!(board.add(Subscriber { wants: Wants::ALL, matches: Box::new(|_| true), sender, lost: Arc::default() }));
        drop(events);
        assert!(board.tell(&all));
        assert_eq!(board.wants(), Wants::DENIALS);
    }
}
