#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

use super::*;
use crate::audit::event::{Ending, Silent};
use crate::audit::feed::Item;
use crate::audit::queue::Spare;
use crate::audit::record::Gap;
use crate::policy::{Policy, PolicyHandle};
use policy_format::{Decision, Denied, Host, HostRef, Limit, OnFull, Protocol, Reason, RuleId};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Hands on what it is told, in batches, and does what is asked of it first.
struct Stand {
    name: &'static str,
    to: Sender<Event>,
    /// What the next call does instead.
    next: Arc<Mutex<Act>>,
    lost: u64,
    /// When it is to be flushed, once.
    due: Option<Instant>,
    flushed: Option<Sender<Instant>>,
}

#[derive(Default, PartialEq)]
enum Act {
    #[default]
    Write,
    Fail,
    Panic,
    /// It has no room.
    Full,
}

impl Sink for Stand {
    fn name(&self) -> &'static str {
        self.name
    }

    fn write(&mut self, events: &[Event]) -> io::Result<()> {
        match *self.next.lock().unwrap() {
            Act::Fail => {
                self.lost += events.len() as u64;
                return Err(io::Error::other("no"));
            }
            Act::Panic => panic!("on purpose"),
            Act::Write | Act::Full => {}
        }
        events.iter().for_each(|event| _ = self.to.send(event.clone()));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(flushed) = self.flushed.take_if(|_| self.due.is_some_and(|due| due <= Instant::now())) {
            self.due = None;
            let _ = flushed.send(Instant::now());
        }
        Ok(())
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn has_room(&self) -> bool {
        self.next.try_lock().is_ok_and(|act| *act != Act::Full)
    }
}

/// A sink, what it is told, and what it does.
fn stand(name: &'static str) -> (Box<dyn Sink>, Receiver<Event>, Arc<Mutex<Act>>) {
    let (to, from) = channel();
    let next = Arc::<Mutex<Act>>::default();
    (Box::new(Stand { name, to, next: Arc::clone(&next), lost: 0, due: None, flushed: None }), from, next)
}

fn audit(queue: usize, on_full: OnFull) -> Audit {
    Audit { queue, on_full, ..Audit::default() }
}

/// A hub with the built-in policy and these sinks, that does not run yet.
fn hub(audit: &Audit, sinks: Vec<Box<dyn Sink>>) -> (Arc<Hub>, PolicyHandle) {
    let hub = Hub::new(Arc::new(Silent));
    let policy = PolicyHandle::new(Policy::built_in().unwrap(), Vec::new(), Arc::clone(&hub) as Arc<dyn Observer>);
    hub.open(audit, Means::default(), sinks).unwrap();
    (hub, policy)
}

fn client() -> SocketAddr {
    "127.0.0.1:1".parse().unwrap()
}

fn deny(hub: &Hub, policy: &PolicyHandle, id: u64) {
    let (snapshot, host) = (policy.current(), Host::parse("a.example").unwrap());
    hub.decided(&Decided {
        snapshot: &snapshot,
        client: client(),
        protocol: Protocol::Connect,
        host: &host,
        port: 443,
        method: None,
        decision: Decision::Deny(Denied { reason: Reason::NotAllowed, rule: Some(RuleId(0)) }),
        id,
        decider: None,
    });
}

fn close(hub: &Hub, id: u64) {
    hub.closed(&Closed {
        id,
        generation: 1,
        client: client(),
        protocol: Protocol::Connect,
        host: HostRef::Name("a.example"),
        port: 443,
        up: 1,
        down: 2,
        duration: Duration::from_millis(3),
        ending: Ending::Done,
    });
}

fn names(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(|event| event.kind.name().trim_start_matches("codex.network_proxy.")).collect()
}

fn end(running: Running) {
    running.end(Duration::from_secs(60), || false);
}

#[test]
fn what_happens_is_told_in_order_with_its_policy_and_rule() {
    let (sink, told, _) = stand("one");
    let (hub, policy) = hub(&audit(100, OnFull::Drop), vec![sink]);
    let running = hub.start().unwrap();
    deny(&hub, &policy, 7);
    close(&hub, 7);
    assert_eq!(policy.swap(Policy::blocked().unwrap()), 2);
    deny(&hub, &policy, 8);
    hub.fault("a fault");
    end(running);
    let told: Vec<Event> = told.iter().collect();
    assert_eq!(names(&told), ["start", "policy_decision", "closed", "policy", "policy_decision", "fault", "stop"]);
    assert!(told.iter().enumerate().all(|(place, event)| event.sequence == place as u64 + 1));
    let label = told[1].label.as_ref().unwrap();
    assert_eq!((label.policy.generation, label.rule.as_ref().unwrap().id), (1, 0));
    assert!(!label.rule.as_ref().unwrap().pattern.is_empty());
    let label = told[4].label.as_ref().unwrap();
    assert_eq!((label.policy.generation, &label.policy.digest), (2, &policy.current().digest().to_string()));
    assert!(label.rule.is_none(), "that policy has none");
    let stats = hub.stats();
    assert_eq!((stats.told, stats.lost, stats.sinks[0].told), (7, 0, 7));
}

/// Nothing happens, so that the thread sleeps by then.
#[test]
fn what_is_due_in_a_sink_is_done_without_an_event() {
    let ((to, _told), (flushed, flushes)) = (channel(), channel());
    let due = Instant::now() + Duration::from_millis(1500);
    let stand = Stand { name: "one", to, next: Arc::default(), lost: 0, due: Some(due), flushed: Some(flushed) };
    let (hub, _policy) = hub(&audit(100, OnFull::Drop), vec![Box::new(stand)]);
    let running = hub.start().unwrap();
    assert!(flushes.recv_timeout(Duration::from_secs(20)).unwrap() >= due);
    end(running);
}

#[test]
fn a_sink_that_fails_is_said_once_and_others_go_on() {
    let ((bad, bads, act), (good, goods, _)) = (stand("bad"), stand("good"));
    let (hub, policy) = hub(&audit(100, OnFull::Drop), vec![bad, good]);
    *act.lock().unwrap() = Act::Fail;
    let running = hub.start().unwrap();
    let mut told = Vec::new();
    for id in 1..4 {
        deny(&hub, &policy, id);
        // Until it was told, so that there are several batches.
        loop {
            told.push(goods.recv().unwrap());
            if matches!(&told.last().unwrap().kind, Kind::Decision(judged) if judged.exchange.id == id) {
                break;
            }
        }
    }
    *act.lock().unwrap() = Act::Write;
    deny(&hub, &policy, 4);
    end(running);
    told.extend(goods.iter());
    let faults: Vec<_> =
        told.iter().filter(|event| matches!(&event.kind, Kind::Fault(what) if **what == *"audit: the sink `bad` fails: no")).collect();
    assert_eq!(faults.len(), 1, "{:?}", names(&told));
    let given_up = hub.stats().sinks[0].lost;
    let said: u64 = told
        .iter()
        .filter_map(|event| if let Kind::Lost(gap) = &event.kind { Some((gap.sink, gap.count)) } else { None })
        .map(|(sink, count)| {
            assert_eq!(sink, Some("bad"));
            count
        })
        .sum();
    assert!(given_up >= 4 && said <= given_up, "{said} {given_up}");
    assert_eq!(bads.iter().count() as u64 + given_up, told.len() as u64);
}

/// What tells of a gap is lost with all the rest: it is not what the next gap is told of for.
#[tokio::test]
async fn a_sink_that_loses_everything_has_nothing_to_tell_where_nothing_happens() {
    let ((bad, _bads, act), (good, goods, _)) = (stand("bad"), stand("good"));
    let (hub, policy) = hub(&audit(100, OnFull::Drop), vec![bad, good]);
    *act.lock().unwrap() = Act::Fail;
    let running = hub.start().unwrap();
    let gaps = |events: &[Event]| names(events).iter().filter(|name| **name == "lost").count();
    for id in 1..3 {
        deny(&hub, &policy, id);
        let mut told = Vec::new();
        // Each is another look, and whoever looks says what it has to say.
        for _ in 0..8 {
            hub.feed().settled().await;
            told.extend(goods.try_iter());
        }
        assert!((1..=3).contains(&gaps(&told)), "{:?}", names(&told));
        for _ in 0..8 {
            hub.feed().settled().await;
        }
        assert_eq!(names(&goods.try_iter().collect::<Vec<_>>()), [""; 0]);
    }
    end(running);
    assert!(gaps(&goods.iter().collect::<Vec<_>>()) <= 1);
}

#[test]
fn a_sink_that_panics_is_told_nothing_more() {
    let ((bad, _bads, act), (good, goods, _)) = (stand("bad"), stand("good"));
    let (hub, policy) = hub(&audit(100, OnFull::Drop), vec![bad, good]);
    *act.lock().unwrap() = Act::Panic;
    let running = hub.start().unwrap();
    let first = goods.recv().unwrap();
    assert_eq!(names(&[first]), ["start"]);
    deny(&hub, &policy, 1);
    end(running);
    let told: Vec<Event> = goods.iter().collect();
    assert_eq!(names(&told), ["fault", "policy_decision", "stop"]);
}

#[test]
fn what_is_lost_is_told_with_its_number() {
    let (sink, told, _) = stand("one");
    let (hub, policy) = hub(&audit(16, OnFull::Drop), vec![sink]);
    // Before the thread runs, nobody takes any out.
    (0..20).for_each(|id| deny(&hub, &policy, id));
    end(hub.start().unwrap());
    let told: Vec<Event> = told.iter().collect();
    assert_eq!(told.len(), 1 + 16 + 2);
    assert!(matches!(told[17].kind, Kind::Lost(Gap { count: 4, sink: None, .. })), "{:?}", told[17]);
    assert_eq!(hub.stats().lost, 4);
}

#[test]
fn denials_without_room_are_in_the_ring_all_the_same() {
    for on_full in [OnFull::Drop, OnFull::Deny] {
        let (sink, told, _) = stand("one");
        let (hub, policy) = hub(&audit(16, on_full), vec![sink]);
        (0..20).for_each(|id| deny(&hub, &policy, id));
        // Ends are in no ring.
        close(&hub, 1);
        end(hub.start().unwrap());
        let blocked = hub.feed().blocked(0, 100);
        let ids: Vec<u64> = blocked.events.iter().map(|event| event.kind.exchange().unwrap().id).collect();
        assert_eq!((ids, blocked.next, blocked.lost), ((0..20).collect(), 20, 0));
        assert!(blocked.events.iter().all(|event| event.label.is_some()));
        assert_eq!((told.iter().filter(|event| event.kind.judged().is_some()).count(), hub.stats().lost), (16, 5));
    }
}

/// Takes what it is given, and cannot write it.
struct Keeps(Arc<std::sync::atomic::AtomicUsize>);

impl Sink for Keeps {
    fn name(&self) -> &'static str {
        "keeps"
    }

    fn write(&mut self, events: &[Event]) -> io::Result<()> {
        self.0.fetch_add(events.len(), Ordering::Relaxed);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::Error::other("full"))
    }

    fn pending(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_sink_that_keeps_what_it_cannot_write_is_said_once() {
    let kept = Arc::<std::sync::atomic::AtomicUsize>::default();
    let (sink, told, _) = stand("one");
    let (hub, policy) = hub(&audit(100, OnFull::Drop), vec![Box::new(Keeps(Arc::clone(&kept))), sink]);
    let running = hub.start().unwrap();
    for id in 0..5 {
        deny(&hub, &policy, id);
        hub.feed().settled().await;
    }
    let failing = hub.stats().sinks[0].clone();
    assert_eq!((failing.failures, failing.failing), (1, true));
    end(running);
    let faults = told.iter().filter(|event| matches!(event.kind, Kind::Fault(_))).count();
    assert_eq!((faults, kept.load(Ordering::Relaxed)), (1, 1 + 5 + 1 + 1), "start, denials, the fault, stop");
}

#[test]
fn where_nothing_may_be_lost_requests_wait_for_the_slowest_sink() {
    let ((slow, slows, act), (fast, fasts, _)) = (stand("slow"), stand("fast"));
    let (hub, policy) = hub(&audit(16, OnFull::Block), vec![slow, fast]);
    *act.lock().unwrap() = Act::Full;
    let running = hub.start().unwrap();
    let (other, others) = (Arc::clone(&hub), policy.clone());
    let asks = std::thread::spawn(move || (0..100).for_each(|id| deny(&other, &others, id)));
    // It gets no further than the queue has room.
    while hub.stats().queued < 16 {
        std::thread::yield_now();
    }
    assert!(!asks.is_finished());
    assert!(fasts.try_recv().is_err());
    // Whoever looks on sees it all the same.
    while hub.feed().blocked(0, 100).events.len() < 16 {
        std::thread::yield_now();
    }
    *act.lock().unwrap() = Act::Write;
    asks.join().unwrap();
    end(running);
    for told in [slows, fasts] {
        let told: Vec<Event> = told.iter().collect();
        let ids: Vec<u64> = told.iter().filter_map(|event| event.kind.exchange()).map(|exchange| exchange.id).collect();
        assert_eq!(ids, (0..100).collect::<Vec<_>>());
    }
}

#[test]
fn at_the_end_nobody_waits_for_a_sink_that_takes_nothing() {
    let (sink, _told, act) = stand("stuck");
    let (hub, policy) = hub(&audit(16, OnFull::Block), vec![sink]);
    *act.lock().unwrap() = Act::Full;
    let running = hub.start().unwrap();
    let (other, others) = (Arc::clone(&hub), policy.clone());
    let asks = std::thread::spawn(move || (0..100).for_each(|id| deny(&other, &others, id)));
    while hub.stats().queued < 16 {
        std::thread::yield_now();
    }
    hub.release();
    asks.join().unwrap();
    end(running);
    assert_eq!(hub.stats().lost, 84);
}

#[test]
fn a_limit_is_told_so_often_and_the_rest_is_summed_up() {
    let (sink, told, _) = stand("one");
    let (hub, _policy) = hub(&audit(1000, OnFull::Drop), vec![sink]);
    let limit = Limit::named("head_timeout").unwrap();
    for _ in 0..500 {
        hub.limited(&LimitReached { limit, client: Some(client()), host: None, port: None });
    }
    end(hub.start().unwrap());
    let counts: Vec<u64> =
        told.iter().filter_map(|event| if let Kind::Limit(reached) = event.kind { Some(reached.count) } else { None }).collect();
    assert_eq!(counts.iter().sum::<u64>(), 500);
    // A second may have ended in between.
    assert!(counts.len() <= 22, "{counts:?}");
}

/// Within a millisecond, too.
#[test]
fn a_limit_has_its_place_among_what_happens() {
    let (sink, _told, _) = stand("one");
    let (hub, policy) = hub(&audit(1000, OnFull::Drop), vec![sink]);
    let limit = Limit::named("head_timeout").unwrap();
    for id in 1..=u64::from(LIMITS_A_SECOND) {
        deny(&hub, &policy, id);
        hub.limited(&LimitReached { limit, client: Some(client()), host: None, port: None });
    }
    let mut events = Vec::new();
    hub.queue.take(&mut events, &mut Spare::default());
    assert_eq!(events.len(), 2 * LIMITS_A_SECOND as usize);
    assert!(events.is_sorted_by_key(|event| (event.time, event.sequence)));
}

#[tokio::test]
async fn the_feed_has_denials_and_what_subscribers_want() {
    let (hub, policy) = hub(&audit(100, OnFull::Drop), Vec::new());
    let running = hub.start().unwrap();
    let feed = hub.feed();
    assert!(!hub.wants_closes(), "nobody wants ends yet");
    let mut closes = feed.subscribe(Wants::CLOSES, |event| event.kind.exchange().is_some_and(|exchange| exchange.id > 1)).unwrap();
    assert!(hub.wants_closes());
    deny(&hub, &policy, 1);
    (1..4).for_each(|id| close(&hub, id));
    feed.settled().await;
    let blocked = feed.blocked(0, 10);
    assert_eq!((names(&[(*blocked.events[0]).clone()]), blocked.next, blocked.lost), (vec!["policy_decision"], 1, 0));
    assert!(blocked.events[0].label.is_some());
    for id in 2..4 {
        let Some(Item::Event(event)) = closes.next().await else { panic!("it is told") };
        assert_eq!(event.kind.exchange().unwrap().id, id);
    }
    drop(closes);
    close(&hub, 5);
    feed.settled().await;
    assert!(!hub.wants_closes(), "nobody wants them any more");
    assert_eq!(feed.drain_blocked().len(), 1);
    assert_eq!(feed.blocked(0, 10).events.len(), 0);
    let mut last = feed.subscribe(Wants::ALL, |_| true).unwrap();
    end(running);
    while last.next().await.is_some() {}
    // Nothing is waited for that cannot come.
    feed.settled().await;
}

#[test]
fn a_fault_is_told_so_often_and_the_rest_is_counted() {
    let (sink, told, _) = stand("one");
    let (hub, _policy) = hub(&audit(1000, OnFull::Drop), vec![sink]);
    (0..100).for_each(|_| hub.fault(&"é".repeat(2000)));
    end(hub.start().unwrap());
    let (mut faults, mut lost) = (0, 0);
    for event in told.iter() {
        match event.kind {
            Kind::Fault(what) => {
                assert!(what.len() <= MAX_TEXT && what.len() > MAX_TEXT - 4);
                faults += 1;
            }
            Kind::Lost(gap) => lost += gap.count,
            _ => {}
        }
    }
    assert_eq!(faults + lost, 100);
    assert!(faults <= 40);
}
