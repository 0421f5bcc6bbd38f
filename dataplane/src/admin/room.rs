//! A bounded number of connections; silent ones cannot fill it.
//!
//! Where all places are taken, who has not sent the head of a request for a moment makes room: of the peer that has most such connections the one that came first, so that whoever opens many is in his own
//! way first. Where there is none of these, a peer that has more than its share makes room for another peer. Otherwise who comes waits: each connection ends in bounded time.

use super::access::Peer;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// So long, who has come and said nothing may have said something that was not read yet: of many who come at once, nobody has been read.
const MOMENT: Duration = Duration::from_millis(100);

/// Places.
pub(super) struct Room {
    most: usize,
    taken: Mutex<Taken>,
    /// Somebody has left.
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    /// Those that came first are first.
    connections: Vec<Connection>,
    next: u64,
}

struct Connection {
    id: u64,
    peer: Peer,
    /// Since when no head of a request has come.
    silent: Option<Instant>,
    leave: Arc<Notify>,
}

/// A place, until it is dropped.
pub(super) struct Place {
    room: Arc<Room>,
    id: u64,
    leave: Arc<Notify>,
}

impl Room {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default(), freed: Notify::new() })
    }

    /// A place for who has come, once there is one.
    pub(super) async fn place(self: &Arc<Self>, peer: Peer) -> Place {
        loop {
            // Who leaves between the look and the wait is not missed.
            let freed = self.freed.notified();
            if let Some(place) = self.take(peer) {
                return place;
            }
            // Who is silent may have become so for long enough by then.
            let _ = timeout(MOMENT, freed).await;
        }
    }

    /// Until nobody is there.
    pub(super) async fn empty(&self) {
        loop {
            let freed = self.freed.notified();
            if self.lock().connections.is_empty() {
                return;
            }
            freed.await;
        }
    }

    fn take(self: &Arc<Self>, peer: Peer) -> Option<Place> {
        let peer = match peer {
            Peer::Address(address) => Peer::Address(address.to_canonical()),
            Peer::Socket => peer,
        };
        let mut taken = self.lock();
        if taken.connections.len() >= self.most {
            let leaving = taken.who_leaves(peer, self.share())?;
            taken.connections.remove(leaving).leave.notify_one();
        }
        let (id, leave) = (taken.next, Arc::new(Notify::new()));
        taken.next += 1;
        taken.connections.push(Connection { id, peer, silent: Some(Instant::now()), leave: Arc::clone(&leave) });
        Some(Place { room: Arc::clone(self), id, leave })
    }

    /// What one peer keeps when others come.
    fn share(&self) -> usize {
        self.most - self.most / 4
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// The place in the list of who makes room for `peer`.
    fn who_leaves(&self, peer: Peer, share: usize) -> Option<usize> {
        let now = Instant::now();
        let is_silent = |connection: &Connection| connection.silent.is_some_and(|since| now.duration_since(since) >= MOMENT);
        let silent = self.of_most(is_silent);
        // Of one that has too much, who has only just come is the first to go.
        let first_of = |wanted: Peer| {
            let mut all = self.connections.iter();
            let new = all.clone().position(|connection| connection.peer == wanted && connection.silent.is_some());
            new.or_else(|| all.position(|connection| connection.peer == wanted))
        };
        match silent {
            Some((wanted, _)) => self.connections.iter().position(|connection| is_silent(connection) && connection.peer == wanted),
            None => self.of_most(|_| true).filter(|(most, count)| *most != peer && *count > share).and_then(|(most, _)| first_of(most)),
        }
    }

    /// The peer that has most of some connections, and how many; of several, the one that came first.
    fn of_most(&self, wanted: impl Fn(&Connection) -> bool) -> Option<(Peer, usize)> {
        let mut counts: HashMap<Peer, usize> = HashMap::new();
        for connection in self.connections.iter().filter(|connection| wanted(connection)) {
            *counts.entry(connection.peer).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        let first = self.connections.iter().find(|connection| counts.get(&connection.peer) == Some(&most))?;
        Some((first.peer, most))
    }
}

impl Place {
    /// The head of a request has come.
    pub(super) fn heard(&self) {
        if let Some(connection) = self.room.lock().connections.iter_mut().find(|connection| connection.id == self.id) {
            connection.silent = None;
        }
    }

    /// Somebody else has the place.
    pub(super) async fn lost(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.lock().connections.retain(|connection| connection.id != self.id);
        self.room.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use std::future::Future;
    use std::net::IpAddr;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn peer(last: u8) -> Peer {
        Peer::Address(IpAddr::from([127, 0, 0, last]))
    }

    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    /// Who comes, to a room of eight, whether he has asked for something, and who leaves for whoever comes last: numbers in the order of coming.
    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_makes_room_and_who_has_too_much() {
        let (quiet, heard) = (false, true);
        for (what, there, comes, leaves) in [
            ("the oldest silent one", vec![(1, quiet); 8], 1, Some(0)),
            ("not one that has asked", [vec![(1, heard); 3], vec![(1, quiet); 5]].concat(), 1, Some(3)),
            ("of who has most of them", [vec![(2, quiet); 2], vec![(1, quiet); 6]].concat(), 3, Some(2)),
            ("of who has most of them, whoever comes", [vec![(2, quiet); 2], vec![(1, quiet); 6]].concat(), 2, Some(2)),
            ("of as many, of who came first", [vec![(2, quiet); 4], vec![(1, quiet); 4]].concat(), 3, Some(0)),
            ("of silent ones, however many others have asked", [vec![(1, heard); 7], vec![(2, quiet); 1]].concat(), 1, Some(7)),
            ("where none is silent, of who has more than his share", [vec![(2, heard); 1], vec![(1, heard); 7]].concat(), 3, Some(1)),
            ("but not for himself", vec![(1, heard); 8], 1, None),
            ("nor where nobody has more than his share", [vec![(2, heard); 2], vec![(1, heard); 6]].concat(), 3, None),
        ] {
            let room = Room::new(8);
            let places: Vec<Place> = there
                .iter()
                .map(|(who, is_heard)| {
                    let place = now(room.place(peer(*who))).unwrap();
                    if *is_heard {
                        place.heard();
                    }
                    place
                })
                .collect();
            let is_any_silent = there.iter().any(|(_, is_heard)| !is_heard);
            assert!(!is_any_silent || now(room.place(peer(comes))).is_none(), "nobody has been silent for a moment: {what}");
            tokio::time::advance(MOMENT).await;
            let came = now(room.place(peer(comes)));
            assert_eq!(came.is_some(), leaves.is_some(), "{what}");
            let lost: Vec<usize> = (0..places.len()).filter(|at| now(places[*at].lost()).is_some()).collect();
            assert_eq!(lost, leaves.into_iter().collect::<Vec<_>>(), "{what}");
            assert_eq!(room.lock().connections.len(), 8, "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_only_just_come_goes_before_who_has_asked() {
        let room = Room::new(8);
        let places: Vec<Place> = (0..8).map(|_| now(room.place(peer(1))).unwrap()).collect();
        places[0].heard();
        let _came = now(room.place(peer(2))).unwrap();
        assert!(now(places[0].lost()).is_none() && now(places[1].lost()).is_some());
    }

    #[tokio::test]
    async fn who_waits_has_the_place_of_the_first_that_leaves() {
        let room = Room::new(2);
        let mut places = Vec::new();
        for _ in 0..2 {
            let place = room.place(Peer::Socket).await;
            place.heard();
            places.push(place);
        }
        let mut waits = pin!(room.place(Peer::Socket));
        assert!(now(&mut waits).is_none());
        places.pop();
        assert!(now(waits).is_some());
        drop(places);
        room.empty().await;
    }
}
