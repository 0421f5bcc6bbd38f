//! The queue between requests and the thread that writes. Each thread has a buffer of its own, so that putting an event into one takes a lock that nobody else wants, and no call of the
//! system: the consumer comes by itself, and is woken only if it sleeps, or once half of the room is used.

use super::brief::{Run, Source};
use super::record::{Event, Wants, now};
use policy_format::OnFull;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

/// Buffers. Threads beyond that number share them.
const SHARDS: usize = 16;
/// Room that a buffer takes at once from what all have.
const LOT: usize = 64;
/// Events that a buffer's memory is kept for, also while there are fewer.
pub(super) const KEPT: usize = 1024;
/// Between two looks of somebody who waits for room.
const LOOK: Duration = Duration::from_millis(50);
/// Denials without room that a buffer keeps for the ring.
const SHOWN: usize = 64;

/// The queue.
pub(super) struct Queue {
    shards: [Shard; SHARDS],
    /// Room that no buffer has taken.
    room: AtomicUsize,
    /// Events that there may be.
    bound: AtomicUsize,
    on_full: AtomicU8,
    /// There was no room, and new requests are to be refused.
    full: AtomicBool,
    /// Nobody waits for room any more.
    released: AtomicBool,
    /// How many wait for room.
    waiting: Mutex<usize>,
    more: Condvar,
    consumer: OnceLock<Thread>,
    /// It waits until it is woken.
    asleep: AtomicBool,
    /// It was woken since it looked the last time, because half of the room is used.
    nudged: AtomicBool,
}

/// On cache lines of its own, pairs of which some processors load together.
#[repr(align(128))]
#[derive(Default)]
struct Shard(Mutex<Buffer>);

#[derive(Default)]
struct Buffer {
    events: Run,
    /// Room that it has taken and not used.
    credit: usize,
    lost: u64,
    /// When the first of them happened.
    since: u64,
    /// The first denials of them.
    shown: Vec<Event>,
}

/// Memory for the buffers, of which the consumer has one set and the threads the other.
#[derive(Default)]
pub(super) struct Spare([Run; SHARDS]);

/// What the consumer found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) events: usize,
    /// Denials for which there was no room, for the ring only. They are counted as lost.
    pub(super) shown: Vec<Event>,
    /// Events for which there was no room, and when the first of them happened. Those that cannot be read back are counted with them, as found now: none, unless something is wrong here.
    pub(super) lost: Option<(u64, u64)>,
}

impl Queue {
    pub(super) fn new(bound: usize, on_full: OnFull) -> Self {
        Self {
            shards: std::array::from_fn(|_| Shard::default()),
            room: AtomicUsize::new(bound),
            bound: AtomicUsize::new(bound),
            on_full: AtomicU8::new(number(on_full)),
            full: AtomicBool::new(false),
            released: AtomicBool::new(false),
            waiting: Mutex::new(0),
            more: Condvar::new(),
            consumer: OnceLock::new(),
            asleep: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
        }
    }

    /// Puts an event in, or does what is to be done where there is no room. One that happens now gets its time with the buffer in hand, so that a buffer is in order but for events that were
    /// made before.
    pub(super) fn push(&self, source: impl Source) {
        let mut buffer = self.buffer();
        if buffer.credit == 0 && !self.take_room(&mut buffer) {
            return self.push_without_room(buffer, source.event());
        }
        self.put(buffer, source);
    }

    /// The same, without waiting for room.
    pub(super) fn offer(&self, event: Event) {
        let mut buffer = self.buffer();
        if buffer.credit == 0 && !self.take_room(&mut buffer) {
            return Self::lose(&mut buffer, event);
        }
        self.put(buffer, event);
    }

    fn put(&self, mut buffer: MutexGuard<'_, Buffer>, source: impl Source) {
        buffer.credit -= 1;
        buffer.events.push(source);
        drop(buffer);
        // The consumer says that it sleeps before it looks into the buffers for the last time: either it sees the event, or this sees that it sleeps.
        if self.asleep.load(Ordering::Acquire) {
            self.wake();
        }
    }

    /// An event that there is no room for, by other rules than the queue's.
    pub(super) fn count_lost(&self, time: u64) {
        Self::lose_at(&mut self.buffer(), time);
    }

    fn lose(buffer: &mut Buffer, event: Event) {
        Self::lose_at(buffer, event.time);
        if event.kind.of() == Wants::DENIALS && buffer.shown.len() < SHOWN {
            buffer.shown.push(event);
        }
    }

    fn lose_at(buffer: &mut Buffer, time: u64) {
        if buffer.lost == 0 {
            buffer.since = time;
        }
        buffer.lost += 1;
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static SHARD: usize = THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS);
        // A thread that is ending has events too.
        let number = SHARD.try_with(|shard| *shard).unwrap_or_default();
        let [first, ..] = &self.shards;
        lock(&self.shards.get(number).unwrap_or(first).0)
    }

    fn take_room(&self, buffer: &mut Buffer) -> bool {
        // A small queue is not to be empty because each buffer has its lot.
        let lot = LOT.min(self.bound.load(Ordering::Relaxed) / (4 * SHARDS)).max(1);
        let took = self.room.fetch_update(Ordering::AcqRel, Ordering::Acquire, |room| (room > 0).then(|| room.saturating_sub(lot)));
        match took {
            Ok(room) => {
                buffer.credit = room.min(lot);
                // Once for each look: half of it is used.
                let is_half_full = room.saturating_sub(lot) <= self.bound.load(Ordering::Relaxed) / 2;
                if is_half_full && !self.nudged.swap(true, Ordering::AcqRel) {
                    self.wake();
                }
                true
            }
            Err(_) => false,
        }
    }

    #[cold]
    fn push_without_room(&self, mut buffer: MutexGuard<'_, Buffer>, event: Event) {
        match on_full(self.on_full.load(Ordering::Relaxed)) {
            OnFull::Block if !self.released.load(Ordering::Acquire) => {
                drop(buffer);
                self.wake();
                *lock(&self.waiting) += 1;
                let mut buffer = self.wait_for_room();
                *lock(&self.waiting) -= 1;
                if buffer.credit > 0 {
                    self.put(buffer, event);
                } else {
                    Self::lose(&mut buffer, event);
                }
            }
            OnFull::Deny => {
                self.full.store(true, Ordering::Relaxed);
                Self::lose(&mut buffer, event);
            }
            OnFull::Drop | OnFull::Block => Self::lose(&mut buffer, event),
        }
    }

    /// The buffer of this thread, with room in it unless nobody is to wait any more.
    fn wait_for_room(&self) -> MutexGuard<'_, Buffer> {
        loop {
            let mut buffer = self.buffer();
            if buffer.credit > 0 || self.take_room(&mut buffer) || self.released.load(Ordering::Acquire) {
                return buffer;
            }
            drop(buffer);
            let waiting = lock(&self.waiting);
            if self.room.load(Ordering::Acquire) == 0 && !self.released.load(Ordering::Acquire) {
                drop(self.more.wait_timeout(waiting, LOOK));
            }
        }
    }

    /// Whether new requests are to be refused.
    pub(super) fn refuses(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Whether somebody waits for room.
    pub(super) fn holds_up(&self) -> bool {
        *lock(&self.waiting) > 0
    }

    /// How many events there may be, and what becomes of others. Fewer than there are, if there are more.
    pub(super) fn set(&self, bound: usize, on_full: OnFull) {
        let before = self.bound.swap(bound, Ordering::AcqRel);
        if bound >= before {
            self.give_back(bound - before);
        } else {
            // What is in the buffers comes back; then there is less. Buffers may hold that much more until they are looked at.
            let _ = self.room.fetch_update(Ordering::AcqRel, Ordering::Acquire, |room| Some(room.saturating_sub(before - bound)));
        }
        self.on_full.store(number(on_full), Ordering::Relaxed);
        if on_full != OnFull::Deny {
            self.full.store(false, Ordering::Relaxed);
        }
    }

    /// Nobody waits for room any more: what there is no room for is lost.
    pub(super) fn release(&self) {
        self.released.store(true, Ordering::Release);
        drop(lock(&self.waiting));
        self.more.notify_all();
    }

    /// The consumer looks soon.
    pub(super) fn wake(&self) {
        self.asleep.store(false, Ordering::Release);
        if let Some(consumer) = self.consumer.get() {
            consumer.unpark();
        }
    }

    // What the consumer does.

    /// The calling thread is the consumer.
    pub(super) fn consume(&self) {
        let _ = self.consumer.set(std::thread::current());
    }

    /// Moves all events to `into`, in the order in which they happened. Their room has to be given back ([`Self::give_back`]).
    ///
    /// All buffers are closed at once: what one thread did before another is not found without it.
    pub(super) fn take(&self, into: &mut Vec<Event>, spare: &mut Spare) -> Found {
        self.nudged.store(false, Ordering::Release);
        let (mut found, mut credit) = (Found::default(), 0);
        let start = into.len();
        let mut from = 0;
        let mut buffers = self.shards.each_ref().map(|shard| lock(&shard.0));
        for (buffer, spare) in buffers.iter_mut().zip(&mut spare.0) {
            from += usize::from(!buffer.events.is_empty());
            if !buffer.events.is_empty() || buffer.events.capacity() > KEPT {
                std::mem::swap(&mut buffer.events, spare);
            }
            credit += std::mem::take(&mut buffer.credit);
            let lost = std::mem::take(&mut buffer.lost);
            if lost > 0 {
                let (count, first) = found.lost.unwrap_or((0, u64::MAX));
                found.lost = Some((count + lost, first.min(buffer.since)));
                found.shown.append(&mut buffer.shown);
            }
        }
        drop(buffers);
        self.give_back(credit);
        // Memory for a burst is given back some time.
        let unread: usize = spare.0.iter_mut().map(|events| events.drain(into, KEPT)).sum();
        if unread > 0 {
            let (count, first) = found.lost.unwrap_or_else(|| (0, now()));
            found.lost = Some((count + unread as u64, first));
            self.give_back(unread);
        }
        found.events = into.len() - start;
        if from > 1 {
            // Runs that are in order already, or nearly, which this kind of sort is made for.
            into.get_mut(start..).unwrap_or_default().sort_by_key(|event| (event.time, event.sequence));
        }
        found.shown.sort_by_key(|event| (event.time, event.sequence));
        found
    }

    /// That much more room.
    pub(super) fn give_back(&self, room: usize) {
        if room == 0 {
            return;
        }
        let bound = self.bound.load(Ordering::Relaxed);
        // Not more than there may be, if that was made less meanwhile.
        let before = self.room.fetch_update(Ordering::AcqRel, Ordering::Acquire, |had| Some(had.saturating_add(room).min(bound)));
        if before.unwrap_or_default().saturating_add(room) > bound / 2 {
            self.full.store(false, Ordering::Relaxed);
        }
        if *lock(&self.waiting) > 0 {
            self.more.notify_all();
        }
    }

    /// How many events wait, about: a buffer's unused room is counted with them.
    pub(super) fn len(&self) -> usize {
        self.bound.load(Ordering::Relaxed).saturating_sub(self.room.load(Ordering::Relaxed))
    }

    /// How many events there may be.
    pub(super) fn bound(&self) -> usize {
        self.bound.load(Ordering::Relaxed)
    }

    /// Says that the consumer sleeps until it is woken. Afterwards it has to look once more, and then either sleep or take this back ([`Self::awake`]).
    pub(super) fn asleep(&self) {
        self.asleep.store(true, Ordering::Release);
    }

    /// It does not sleep after all.
    pub(super) fn awake(&self) {
        self.asleep.store(false, Ordering::Release);
    }

    /// Whether there is anything in a buffer.
    pub(super) fn has_any(&self) -> bool {
        self.shards.iter().any(|shard| {
            let buffer = lock(&shard.0);
            !buffer.events.is_empty() || buffer.lost > 0
        })
    }
}

fn number(on_full: OnFull) -> u8 {
    match on_full {
        OnFull::Drop => 0,
        OnFull::Block => 1,
        OnFull::Deny => 2,
    }
}

fn on_full(number: u8) -> OnFull {
    match number {
        1 => OnFull::Block,
        2 => OnFull::Deny,
        _ => OnFull::Drop,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets so many through in a second.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PerSecond {
    second: u64,
    count: u32,
}

impl PerSecond {
    /// Whether one more may pass at that time, in milliseconds.
    pub(super) fn passes(&mut self, time: u64, most: u32) -> bool {
        let second = time / 1000;
        if second != self.second {
            *self = Self { second, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= most
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::audit::brief::tests::Unreadable;
    use crate::audit::event::{Closed, Ending};
    use crate::audit::record::{Gap, Kind};
    use policy_format::{HostRef, Protocol};
    use std::sync::Arc;

    fn event(time: u64) -> Event {
        Event { time, sequence: 0, label: None, kind: Kind::Stop }
    }

    /// An end, which is kept as bytes.
    fn closed(id: u64) -> Closed<'static> {
        let client = "127.0.0.1:1".parse().unwrap();
        Closed {
            id,
            generation: 1,
            client,
            protocol: Protocol::Http,
            host: HostRef::Name("a.example"),
            port: 80,
            up: 0,
            down: 0,
            duration: Duration::ZERO,
            ending: Ending::Done,
        }
    }

    fn number(event: &Event) -> Option<u64> {
        match &event.kind {
            Kind::Lost(gap) => Some(gap.count),
            Kind::Close(ended) => Some(ended.exchange.id),
            _ => None,
        }
    }

    fn take(queue: &Queue) -> (Vec<u64>, Option<(u64, u64)>) {
        let (mut events, mut spare) = (Vec::new(), Spare::default());
        let found = queue.take(&mut events, &mut spare);
        queue.give_back(found.events);
        assert_eq!(found.events, events.len());
        (events.iter().map(|event| event.time).collect(), found.lost)
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_to_the_last() {
        for bound in [1, 2, 63, 64, 1000] {
            let queue = Queue::new(bound, OnFull::Drop);
            for time in 0..bound as u64 + 7 {
                queue.push(event(time));
            }
            assert_eq!(queue.len(), bound);
            let (events, lost) = take(&queue);
            assert_eq!(events, (0..bound as u64).collect::<Vec<_>>());
            assert_eq!(lost, Some((7, bound as u64)));
            // There is room again, for all of them.
            assert_eq!(queue.len(), 0);
            (0..bound as u64).for_each(|time| queue.push(event(time)));
            assert_eq!(take(&queue), ((0..bound as u64).collect(), None));
        }
    }

    #[test]
    fn bytes_have_the_room_of_events() {
        let queue = Queue::new(4, OnFull::Drop);
        let (mut events, mut spare) = (Vec::new(), Spare::default());
        for round in 1..3 {
            (0..7).for_each(|id| queue.push(&closed(id)));
            assert_eq!(queue.len(), 4);
            let found = queue.take(&mut events, &mut spare);
            assert_eq!(events.drain(..).map(|event| number(&event)).collect::<Vec<_>>(), [0, 1, 2, 3].map(Some), "round {round}");
            assert_eq!((found.events, found.lost.map(|(count, _)| count), found.shown.len()), (4, Some(3), 0));
            queue.give_back(found.events);
        }
    }

    #[test]
    fn what_cannot_be_read_back_is_lost_and_holds_no_room() {
        let queue = Queue::new(4, OnFull::Drop);
        let (mut events, mut spare) = (Vec::new(), Spare::default());
        queue.push(Unreadable);
        queue.push(event(1));
        let found = queue.take(&mut events, &mut spare);
        assert_eq!((found.events, found.lost.map(|(count, _)| count)), (1, Some(1)));
        queue.give_back(found.events);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn threads_put_in_what_is_taken_or_counted() {
        let queue = Arc::new(Queue::new(5000, OnFull::Drop));
        let threads: Vec<_> = (0..20)
            .map(|_| {
                let queue = Arc::clone(&queue);
                std::thread::spawn(move || (0..1000).for_each(|time| queue.push(event(time))))
            })
            .collect();
        let (mut taken, mut lost) = (0, 0);
        loop {
            let ended = threads.iter().all(std::thread::JoinHandle::is_finished);
            let (events, gap) = take(&queue);
            assert!(events.len() <= 5000 && events.is_sorted());
            taken += events.len() as u64;
            lost += gap.map_or(0, |(count, _)| count);
            if ended {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(taken + lost, 20_000);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn who_has_to_wait_waits_until_there_is_room_or_the_end() {
        let queue = Arc::new(Queue::new(1, OnFull::Block));
        queue.push(event(1));
        let other = Arc::clone(&queue);
        let waits = std::thread::spawn(move || other.push(event(2)));
        let mut all = Vec::new();
        while all.len() < 2 {
            all.extend(take(&queue).0);
        }
        waits.join().unwrap();
        assert_eq!(all, [1, 2]);
        queue.push(event(3));
        let other = Arc::clone(&queue);
        assert!(!queue.holds_up());
        let waits = std::thread::spawn(move || other.push(event(4)));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !queue.holds_up() {
            assert!(std::time::Instant::now() < deadline, "nobody waits");
            std::thread::yield_now();
        }
        queue.release();
        waits.join().unwrap();
        assert!(!queue.holds_up());
        assert_eq!(take(&queue), (vec![3], Some((1, 4))));
    }

    #[test]
    fn memory_for_a_burst_is_given_back() {
        let queue = Queue::new(100_000, OnFull::Drop);
        let (mut events, mut spare) = (Vec::new(), Spare::default());
        let room = |queue: &Queue, spare: &Spare| {
            let buffers = queue.shards.iter().map(|shard| lock(&shard.0).events.capacity());
            buffers.chain(spare.0.iter().map(Run::capacity)).max().unwrap()
        };
        for _ in 0..2 {
            (0..50_000).for_each(|time| queue.push(event(time)));
            queue.take(&mut events, &mut spare);
            events.clear();
        }
        assert!(room(&queue, &spare) >= 50_000);
        for _ in 0..2 {
            queue.take(&mut events, &mut spare);
        }
        assert!(room(&queue, &spare) <= KEPT);
    }

    #[test]
    fn requests_are_refused_until_there_is_room() {
        let queue = Queue::new(4, OnFull::Deny);
        (0..4).for_each(|time| queue.push(event(time)));
        assert!(!queue.refuses());
        queue.push(event(4));
        assert!(queue.refuses());
        assert_eq!(take(&queue).1, Some((1, 4)));
        assert!(!queue.refuses());
    }

    #[test]
    fn the_bound_can_be_changed() {
        let queue = Queue::new(4, OnFull::Drop);
        (0..4).for_each(|time| queue.push(event(time)));
        queue.set(2, OnFull::Drop);
        queue.push(event(4));
        assert_eq!(take(&queue), (vec![0, 1, 2, 3], Some((1, 4))));
        (0..4).for_each(|time| queue.push(event(time)));
        assert_eq!(take(&queue), (vec![0, 1], Some((2, 2))));
        queue.set(8, OnFull::Drop);
        (0..9).for_each(|time| queue.push(event(time)));
        assert_eq!(take(&queue).0.len(), 8);
    }

    /// One thread after the other, as a client's requests are: each waits until the one before has put its event in.
    #[test]
    fn what_follows_from_something_is_behind_it() {
        const EVENTS: usize = 20_000;
        let queue = Arc::new(Queue::new(EVENTS, OnFull::Drop));
        let next = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..2)
            .map(|me| {
                let (queue, next) = (Arc::clone(&queue), Arc::clone(&next));
                std::thread::spawn(move || {
                    for turn in (0..EVENTS).filter(|turn| turn % 2 == me) {
                        while next.load(Ordering::Acquire) != turn {
                            std::thread::yield_now();
                        }
                        // Some as bytes, some as they are, of either thread.
                        if turn % 3 == 0 {
                            queue.push(Event::now(Kind::Lost(Gap { count: turn as u64, since: 0, sink: None })));
                        } else {
                            queue.push(&closed(turn as u64));
                        }
                        next.store(turn + 1, Ordering::Release);
                    }
                })
            })
            .collect();
        let (mut all, mut spare) = (Vec::new(), Spare::default());
        while all.len() < EVENTS {
            let found = queue.take(&mut all, &mut spare);
            queue.give_back(found.events);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(all.iter().map(number).eq((0..EVENTS as u64).map(Some)));
    }

    #[test]
    fn so_many_pass_in_a_second() {
        let mut gate = PerSecond::default();
        let passed = |gate: &mut PerSecond, time| (0..5).filter(|_| gate.passes(time, 3)).count();
        assert_eq!((passed(&mut gate, 1000), passed(&mut gate, 1999), passed(&mut gate, 2000)), (3, 0, 3));
    }
}
