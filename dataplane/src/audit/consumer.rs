//! The thread `netproxy-audit`: takes events out of the queue, says what policies and rules are called, and tells the ring, subscribers and sinks.

use super::hub::{AuditStats, Hub, Means, Ready, SinkStats};
use super::policies::Policies;
use super::queue::{KEPT, Spare};
use super::record::{Event, Gap, Kind, now};
use super::setup::{self, Spec};
use super::sink::Sink;
use policy_format::{Audit, OnFull};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks into the queue, while there is something in it; less, where there is much, down to the shortest.
const TICK: Duration = Duration::from_millis(50);
const SHORTEST: Duration = Duration::from_millis(2);
/// Events that a look is to find, or a quarter of what the queue may have, if that is less: fewer make the look itself dear, and more have left the processor's cache when they are written.
const AIM: usize = 2048;
/// Looks that find nothing, after which it sleeps until it is woken, or a sink has something to do.
const IDLE: u32 = 20;

/// The thread.
pub(super) struct Consumer {
    hub: Arc<Hub>,
    sinks: Vec<Held>,
    /// The settings in force.
    audit: Audit,
    means: Means,
    policies: Policies,
    sequence: u64,
    /// So many of them were lost, but for the ring and subscribers.
    only_shown: u64,
    lost: u64,
    /// Until the next look.
    pause: Duration,
    /// What it has to say itself, for the next batch.
    own: Vec<Event>,
    batch: Vec<Event>,
    /// What the board was told, and a sink has no room for; and how much room of the queue it takes all the same.
    kept: Vec<Event>,
    owed: usize,
    spare: Spare,
    /// Events that there was no room for and nobody was told of yet, and when the first of them happened.
    missed: Option<(u64, u64)>,
}

/// A sink, and how it is doing.
pub(super) struct Held {
    /// Where it comes from; `None`: the embedding program.
    spec: Option<Spec>,
    sink: Box<dyn Sink>,
    stats: SinkStats,
    /// What it gave up and nobody was told of.
    gap: Option<Gap>,
    /// It was told of something else since the last gap: what is known to be lost since then may be no more than the word of that gap, which would go on for ever.
    news: bool,
    /// It panicked, and is not called any more.
    broken: bool,
}

impl Held {
    pub(super) fn new(spec: Option<Spec>, sink: Box<dyn Sink>) -> Self {
        let stats = SinkStats { name: sink.name(), ..SinkStats::default() };
        Self { spec, sink, stats, gap: None, news: true, broken: false }
    }

    /// Gives it events, and has it go on with what it keeps. Both are one attempt: what only keeps events may take them all and write none.
    fn tell(&mut self, batch: &[Event]) -> Option<String> {
        // Where there is nothing to do, nothing says that it is well again.
        if batch.is_empty() && self.stats.pending == 0 && self.due().is_none_or(|due| Instant::now() < due) {
            return None;
        }
        self.stats.told += batch.len() as u64;
        self.news |= batch.iter().any(|event| !matches!(event.kind, Kind::Lost(_)));
        self.call(|sink| {
            let written = if batch.is_empty() { Ok(()) } else { sink.write(batch) };
            let flushed = sink.flush();
            written.and(flushed)
        })
    }

    /// Calls it. Gives what is to be said of it: a fault, once, until it does what it is asked again.
    fn call(&mut self, what: impl FnOnce(&mut dyn Sink) -> io::Result<()>) -> Option<String> {
        if self.broken {
            return None;
        }
        let name = self.stats.name;
        let result = catch_unwind(AssertUnwindSafe(|| {
            let done = what(self.sink.as_mut());
            (done, self.sink.pending(), self.sink.take_lost())
        }));
        let Ok((done, pending, lost)) = result else {
            (self.broken, self.stats.failing, self.stats.pending) = (true, true, 0);
            return Some(format!("audit: the sink `{name}` panicked, and is told nothing any more"));
        };
        let said = match done {
            Ok(()) => {
                self.stats.failing = false;
                None
            }
            Err(error) => {
                let first = !std::mem::replace(&mut self.stats.failing, true);
                self.stats.failures += u64::from(first);
                first.then(|| format!("audit: the sink `{name}` fails: {error}"))
            }
        };
        self.stats.pending = pending;
        if lost > 0 {
            self.stats.lost += lost;
            let gap = self.gap.get_or_insert(Gap { count: 0, since: now(), sink: Some(name) });
            gap.count += lost;
        }
        said
    }
}

impl Held {
    /// Whether it can take more. One that is not called any more holds up nobody.
    fn has_room(&self) -> bool {
        self.broken || catch_unwind(AssertUnwindSafe(|| self.sink.has_room())).unwrap_or(true)
    }

    /// Whether a gap is to be told of, where there is `news`, or was.
    fn has_gap(&self, news: bool) -> bool {
        self.gap.is_some() && (self.news || news)
    }

    /// When something is due that no event brings about. One that is not called any more has nothing.
    fn due(&self) -> Option<Instant> {
        if self.broken { None } else { catch_unwind(AssertUnwindSafe(|| self.sink.due())).unwrap_or_default() }
    }
}

impl Consumer {
    pub(super) fn new(hub: Arc<Hub>, ready: Ready, first: Event) -> Self {
        let Ready { sinks, audit, means } = ready;
        Self {
            hub,
            sinks,
            audit,
            means,
            policies: Policies::default(),
            sequence: 0,
            only_shown: 0,
            lost: 0,
            pause: TICK,
            own: vec![first],
            batch: Vec::new(),
            kept: Vec::new(),
            owed: 0,
            missed: None,
            spare: Spare::default(),
        }
    }

    /// Until the end is asked for.
    pub(super) fn run(mut self) {
        self.hub.queue.consume();
        let mut idle = 0;
        loop {
            let (settled, reopen, end) = {
                let mut asked = self.hub.asked();
                (std::mem::take(&mut asked.settled), std::mem::take(&mut asked.reopen), asked.end)
            };
            if reopen {
                self.each(|sink| sink.reopen());
            }
            let told = self.turn(end.is_some());
            drop(settled);
            if let Some(deadline) = end {
                return self.end(deadline);
            }
            idle = if told || self.is_busy() { 0 } else { idle + 1 };
            if idle < IDLE {
                std::thread::park_timeout(self.pause);
                continue;
            }
            self.hub.queue.asleep();
            if self.hub.queue.has_any() || self.hub.asked().is_any() {
                self.hub.queue.awake();
            } else {
                match self.sinks.iter().filter_map(Held::due).min() {
                    Some(due) => std::thread::park_timeout(due.saturating_duration_since(Instant::now())),
                    None => std::thread::park(),
                }
                self.hub.queue.awake();
            }
            idle = 0;
        }
    }

    /// Whether something is left that nobody wakes it for.
    fn is_busy(&self) -> bool {
        !self.own.is_empty() || self.missed.is_some() || self.sinks.iter().any(|held| held.stats.pending > 0 || held.has_gap(false))
    }

    /// One look into the queue. Gives whether there was anything.
    fn turn(&mut self, at_end: bool) -> bool {
        // Where nothing may be lost, what the sinks have no room for waits. The ring and subscribers do not.
        let waits = !at_end && self.audit.on_full != OnFull::Drop && !self.sinks.iter().all(Held::has_room);
        if waits {
            self.each(|sink| sink.flush());
        }
        let retired = self.policies.retired();
        let mut batch = std::mem::take(&mut self.batch);
        // What is not in the queue has no bounds, and is not made while sinks wait. The first of all is the start.
        if !waits || self.sequence == 0 {
            batch.append(&mut self.own);
        }
        if !waits {
            batch.extend(if at_end { self.hub.all_summed_up() } else { self.hub.summed_up(now()) });
        }
        let start = batch.len();
        let found = self.hub.queue.take(&mut batch, &mut self.spare);
        if !waits {
            // Behind the queue: what was decided by a mode is not found without it.
            let mut modes = std::mem::take(&mut self.hub.asked().modes);
            if !modes.is_empty() {
                batch.append(&mut modes);
                batch.get_mut(start..).unwrap_or_default().sort_by_key(|event| (event.time, event.sequence));
            }
        }
        self.pause = pause(self.pause, found.events, AIM.min(self.hub.queue.bound() / 4));
        // Policies are installed before anything is decided by them.
        let installed = std::mem::take(&mut *self.hub.installed());
        // The settings of the first are in force from the start.
        let newest = installed.last().filter(|snapshot| snapshot.generation() > 1).map(|snapshot| snapshot.settings().audit.clone());
        installed.into_iter().for_each(|snapshot| self.policies.add(snapshot));
        if let Some((count, since)) = found.lost {
            self.lost += count;
            let (before, first) = self.missed.unwrap_or((0, since));
            self.missed = Some((before + count, first.min(since)));
        }
        if let Some((count, since)) = self.missed.take_if(|_| !waits) {
            batch.push(Event::now(Kind::Lost(Gap { count, since, sink: None })));
        }
        let news = at_end || !batch.is_empty();
        for held in self.sinks.iter_mut().filter(|held| !waits && held.has_gap(news) && held.has_room()) {
            batch.extend(held.gap.take().map(|gap| Event::now(Kind::Lost(gap))));
            held.news = false;
        }
        if at_end {
            batch.push(Event::now(Kind::Stop));
        }
        let told = !batch.is_empty();
        self.tell(&mut batch);
        self.show(found.shown);
        self.policies.retire(&retired);
        // What no sink wants has no room any more.
        let wanted = batch.len().min(found.events);
        self.hub.queue.give_back(found.events - wanted);
        self.owed += wanted;
        if waits {
            self.kept.append(&mut batch);
        } else {
            if !self.kept.is_empty() {
                let mut all = std::mem::take(&mut self.kept);
                all.append(&mut batch);
                batch = all;
            }
            self.write(&batch);
            self.hub.queue.give_back(std::mem::take(&mut self.owed));
        }
        batch.clear();
        if batch.capacity() > KEPT && found.events < batch.capacity() / 16 {
            batch.shrink_to(KEPT);
        }
        self.batch = batch;
        // Behind what was decided before.
        if let Some(policys) = newest {
            self.follow(&policys);
        }
        self.tell_stats();
        told || waits
    }

    /// Numbers and labels events, tells the ring and subscribers, and leaves what sinks want.
    fn tell(&mut self, batch: &mut Vec<Event>) {
        let wanted = self.hub.sinks_want();
        let mut only_some = false;
        for event in batch.iter_mut() {
            self.sequence += 1;
            event.sequence = self.sequence;
            self.policies.label(event);
            self.policies.label_current(event);
            only_some |= !wanted.any(event.kind.of());
        }
        if self.hub.board.tell(batch) {
            self.hub.follow_wants();
        }
        if only_some {
            batch.retain(|event| wanted.any(event.kind.of()));
        }
    }

    /// Denials that there was no room for: the ring and subscribers hear of them all the same, and nobody else.
    fn show(&mut self, mut events: Vec<Event>) {
        self.only_shown += events.len() as u64;
        for event in &mut events {
            self.sequence += 1;
            event.sequence = self.sequence;
            self.policies.label(event);
        }
        if !events.is_empty() && self.hub.board.tell(&events) {
            self.hub.follow_wants();
        }
    }

    fn write(&mut self, batch: &[Event]) {
        for held in &mut self.sinks {
            let said = held.tell(batch);
            say(&self.hub, &mut self.own, said);
        }
    }

    fn each(&mut self, what: impl Fn(&mut dyn Sink) -> io::Result<()>) {
        for held in &mut self.sinks {
            let said = held.call(&what);
            say(&self.hub, &mut self.own, said);
        }
    }

    /// Puts other settings in force, or leaves all as it is.
    fn follow(&mut self, policys: &Audit) {
        let audit = self.means.overrides.over(policys);
        if audit == self.audit {
            return;
        }
        let mut opened: Vec<(Spec, Option<Box<dyn Sink>>)> = Vec::new();
        for spec in setup::specs(&audit, &self.means.overrides) {
            if self.sinks.iter().any(|held| held.spec.as_ref() == Some(&spec)) {
                opened.push((spec, None));
                continue;
            }
            // What is written to the same file has to be there first.
            for held in self.sinks.iter_mut().filter(|held| held.spec.as_ref().is_some_and(|old| old.is_at(&spec))) {
                let said = held.call(|sink| sink.close(Instant::now()));
                say(&self.hub, &mut self.own, said);
            }
            match spec.open(&self.means.sources) {
                Ok(sink) => opened.push((spec, Some(sink))),
                Err(why) => {
                    let what = format!(
                        "audit: the settings of the policy that is in force now cannot be followed, and those from before stay: {why}; \
                         under `--sandbox`, only files in folders that were named at the start can be opened"
                    );
                    return say(&self.hub, &mut self.own, Some(what));
                }
            }
        }
        let mut old = std::mem::take(&mut self.sinks);
        for (spec, sink) in opened {
            match (sink, old.iter().position(|held| held.spec.as_ref() == Some(&spec))) {
                (Some(sink), _) => {
                    let mut new = Held::new(Some(spec), sink);
                    // Counters go on where one takes the place of another of its kind.
                    if let Some(before) = old.iter().find(|held| held.spec.is_some() && held.stats.name == new.stats.name) {
                        (new.stats.told, new.stats.lost, new.stats.failures) =
                            (before.stats.told, before.stats.lost, before.stats.failures);
                    }
                    self.sinks.push(new);
                }
                (None, Some(place)) => self.sinks.push(old.swap_remove(place)),
                (None, None) => {}
            }
        }
        for mut held in old {
            if held.spec.is_none() {
                self.sinks.push(held);
                continue;
            }
            if !self.sinks.iter().any(|new| new.spec.as_ref().zip(held.spec.as_ref()).is_some_and(|(new, old)| new.is_at(old))) {
                let said = held.call(|sink| sink.close(Instant::now() + Duration::from_secs(1)));
                say(&self.hub, &mut self.own, said);
            }
            // What it has not written by now goes with it.
            let left = held.stats.pending as u64;
            let gap = held.gap.take().unwrap_or_else(|| Gap { count: 0, since: now(), sink: Some(held.stats.name) });
            if gap.count + left > 0 {
                self.own.push(Event::now(Kind::Lost(Gap { count: gap.count + left, ..gap })));
                if let Some(new) = self.sinks.iter_mut().find(|new| new.spec.is_some() && new.stats.name == held.stats.name) {
                    new.stats.lost += left;
                }
            }
        }
        self.hub.put_in_force(&audit, !self.sinks.is_empty());
        self.audit = audit;
    }

    fn end(mut self, deadline: Instant) {
        self.hub.board.end();
        let mut not_written = Vec::new();
        for held in &mut self.sinks {
            let said = held.call(|sink| sink.close(deadline));
            say(&self.hub, &mut self.own, said);
            if held.stats.pending > 0 {
                not_written.push(format!("audit: {} events are not written to the sink `{}`", held.stats.pending, held.stats.name));
            }
            // There is no event any more that could say so.
            if let Some(gap) = held.gap.take() {
                not_written.push(format!("audit: {} events are lost to the sink `{}`", gap.count, held.stats.name));
            }
        }
        for what in not_written {
            say(&self.hub, &mut self.own, Some(what));
        }
        self.tell_stats();
    }

    fn tell_stats(&self) {
        self.hub.set_stats(AuditStats {
            queued: 0,
            queue: 0,
            told: self.sequence - self.only_shown,
            lost: self.lost,
            sinks: self.sinks.iter().map(|held| held.stats.clone()).collect(),
        });
    }
}

/// As long as it would have taken to find as many as are aimed at, had they come as those did that were found behind the pause before.
fn pause(before: Duration, found: usize, aim: usize) -> Duration {
    let [found, aim] = [found, aim].map(|events| u32::try_from(events).unwrap_or(u32::MAX).max(1));
    (before * aim / found).clamp(SHORTEST, TICK)
}

/// A fault of its own does not go through the queue, which may be full for it.
fn say(hub: &Hub, own: &mut Vec<Event>, said: Option<String>) {
    if let Some(what) = said {
        hub.own_fault(&what);
        own.push(Event::now(Kind::Fault(what.into())));
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use crate::audit::event::{Observer, Silent};
    use policy_format::SyslogTarget;
    use std::sync::Mutex;

    #[test]
    fn who_finds_much_looks_more_often() {
        for (before, found, after) in [
            (TICK, 0, TICK),
            (TICK, AIM, TICK),
            (TICK, 10 * AIM, TICK / 10),
            (TICK / 10, AIM, TICK / 10),
            (TICK, usize::MAX, SHORTEST),
            (SHORTEST, 1, TICK),
        ] {
            assert_eq!(pause(before, found, AIM), after, "{found} events after {before:?}");
        }
        assert_eq!(pause(TICK, 40, 4), TICK / 10);
        assert_eq!(pause(TICK, 40, 0), SHORTEST);
    }

    fn consumer(to: SyslogTarget, program: Arc<dyn Observer>) -> Consumer {
        let (audit, means) = (Audit { syslog: Some(to), ..Audit::default() }, Means::default());
        let specs = setup::specs(&audit, &means.overrides);
        let sinks = specs.into_iter().map(|spec| Held::new(Some(spec.clone()), spec.open(&means.sources).unwrap())).collect();
        Consumer::new(Hub::new(program), Ready { sinks, audit, means }, Event::now(Kind::Stop))
    }

    #[derive(Default)]
    struct Said(Mutex<Vec<String>>);

    impl Observer for Said {
        fn fault(&self, what: &str) {
            self.0.lock().unwrap().push(what.to_owned());
        }
    }

    #[test]
    fn what_is_lost_at_the_very_end_is_said() {
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let said = Arc::<Said>::default();
        let mut consumer = consumer(SyslogTarget::Udp(nobody), Arc::clone(&said) as Arc<dyn Observer>);
        consumer.write(&[Event::now(Kind::Stop)]);
        consumer.end(Instant::now() + Duration::from_secs(1));
        let said = said.0.lock().unwrap();
        let [fails, lost] = said.as_slice() else { panic!("{said:?}") };
        assert!(
            fails.starts_with("audit: the sink `syslog` fails: ") && lost == "audit: 1 events are lost to the sink `syslog`",
            "{said:?}"
        );
    }

    #[test]
    fn what_goes_with_a_sink_that_new_settings_take_away_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let nobody = SyslogTarget::Socket(folder.path().join("log").to_str().unwrap().to_owned());
        let mut consumer = consumer(nobody, Arc::new(Silent));
        consumer.write(&[Event::now(Kind::Stop), Event::now(Kind::Stop)]);
        consumer.follow(&Audit::default());
        assert!(consumer.sinks.is_empty());
        let lost = consumer.own.iter().find_map(|event| match &event.kind {
            Kind::Lost(gap) => Some((gap.count, gap.sink)),
            _ => None,
        });
        assert_eq!(lost, Some((2, Some("syslog"))));
    }
}
