//! `Hub`: the one observer, who tells all others. The embedding program's is called in place; what logs, the ring and subscribers want goes into the queue, from where one thread
//! takes it.

use super::consumer::{Consumer, Held};
use super::event::{Accepting, Closed, Decided, Dropped, LimitReached, Observer, Reload};
use super::feed::{Board, Feed};
use super::queue::{PerSecond, Queue};
use super::record::{Change, Event, Judged, Kind, Reached, Start, Text, Wants, now};
use super::setup::{self, AuditOverrides};
use super::sink::Sink;
use crate::policy::Snapshot;
use crate::tls::roots::Sources;
use policy_format::{Audit, Limits, Mode};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Events of one limit in a second; the rest is summed up.
const LIMITS_A_SECOND: u32 = 10;
/// Faults in a second; the rest is lost, and counted.
const FAULTS_A_SECOND: u32 = 20;
/// Time that events have to be written at the end, where there is no other.
const SHORTEST: Duration = Duration::from_secs(1);
/// How much longer than it was given the thread may take to end.
const GRACE: Duration = Duration::from_secs(3);
/// Modes that wait to be told. Who sets them is an operator.
const MODES: usize = 1024;
/// Bytes of a text that says what is wrong.
const MAX_TEXT: usize = 2048;

/// Hears everything, and has it told.
pub(crate) struct Hub {
    program: Arc<dyn Observer>,
    /// What anybody wants of the queue.
    wanted: AtomicU8,
    /// What the sinks want.
    sinks_want: AtomicU8,
    pub(super) queue: Queue,
    pub(super) board: Board,
    /// Policies that the consumer has not seen.
    installed: Mutex<Vec<Arc<Snapshot>>>,
    limits: Mutex<Vec<LimitState>>,
    faults: Mutex<PerSecond>,
    asked: Mutex<Asked>,
    state: Mutex<State>,
    stats: Mutex<AuditStats>,
    /// The mode that was told to stand in the place of the policy's own.
    mode: Mutex<Option<Mode>>,
}

/// What is asked of the consumer.
#[derive(Default)]
pub(super) struct Asked {
    /// Told once all that had happened is told.
    pub(super) settled: Vec<oneshot::Sender<()>>,
    pub(super) reopen: bool,
    /// Modes that were set, or taken back: what may loosen a policy is told whatever there is room for.
    pub(super) modes: Vec<Event>,
    /// The end, and until when it may take.
    pub(super) end: Option<Instant>,
}

impl Asked {
    pub(super) fn is_any(&self) -> bool {
        !self.settled.is_empty() || self.reopen || !self.modes.is_empty() || self.end.is_some()
    }
}

/// Of the thread.
enum State {
    /// Not started yet: what it begins with.
    Ready(Box<Ready>),
    Running(JoinHandle<()>),
    Ended,
}

/// What sinks are opened with, beside the settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Means {
    pub(crate) overrides: AuditOverrides,
    /// Whom to trust to be a collector.
    pub(crate) sources: Sources,
}

/// What the thread begins with.
pub(super) struct Ready {
    pub(super) sinks: Vec<Held>,
    pub(super) audit: Audit,
    pub(super) means: Means,
}

/// How events are doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditStats {
    /// Events that wait, about.
    pub queued: usize,
    /// Events that may wait.
    pub queue: usize,
    /// Events that were told.
    pub told: u64,
    /// Events that there was no room for.
    pub lost: u64,
    /// The sinks.
    pub sinks: Vec<SinkStats>,
}

/// How a sink is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkStats {
    /// Its name.
    pub name: &'static str,
    /// Events that it was given.
    pub told: u64,
    /// Events that it has not written yet.
    pub pending: usize,
    /// Events that it has given up.
    pub lost: u64,
    /// Times that it began to fail.
    pub failures: u64,
    /// Whether it fails now.
    pub failing: bool,
}

/// What is summed up of a limit.
#[derive(Default)]
struct LimitState {
    gate: PerSecond,
    count: u64,
    /// The last, without its count.
    last: Option<Event>,
}

impl Hub {
    /// Everything is told to `program`, too.
    pub(crate) fn new(program: Arc<dyn Observer>) -> Arc<Self> {
        let audit = Audit::default();
        let hub = Self {
            program,
            wanted: AtomicU8::new(Wants::DENIALS.bits()),
            sinks_want: AtomicU8::new(Wants::NONE.bits()),
            queue: Queue::new(audit.queue, audit.on_full),
            board: Board::default(),
            installed: Mutex::default(),
            limits: Mutex::new(Limits::ALL.iter().map(|_| LimitState::default()).collect()),
            faults: Mutex::default(),
            asked: Mutex::default(),
            state: Mutex::new(State::Ready(Box::new(Ready { sinks: Vec::new(), audit, means: Means::default() }))),
            stats: Mutex::default(),
            mode: Mutex::default(),
        };
        Arc::new(hub)
    }

    /// Opens the sinks that the policy and whoever starts the proxy ask for, beside those of the embedding program. Nothing is written yet.
    ///
    /// # Errors
    /// What cannot be opened, and why.
    pub(crate) fn open(&self, policys: &Audit, means: Means, programs: Vec<Box<dyn Sink>>) -> Result<(), String> {
        let audit = means.overrides.over(policys);
        let mut sinks = Vec::new();
        for spec in setup::specs(&audit, &means.overrides) {
            let sink = spec.open(&means.sources)?;
            sinks.push(Held::new(Some(spec), sink));
        }
        sinks.extend(programs.into_iter().map(|sink| Held::new(None, sink)));
        self.put_in_force(&audit, !sinks.is_empty());
        *self.state() = State::Ready(Box::new(Ready { sinks, audit, means }));
        Ok(())
    }

    pub(super) fn put_in_force(&self, audit: &Audit, has_sinks: bool) {
        self.queue.set(audit.queue, audit.on_full);
        let wants = if has_sinks { Wants::at(audit.level) } else { Wants::NONE };
        self.sinks_want.store(wants.bits(), Ordering::Relaxed);
        self.follow_wants();
    }

    /// Folders that the file needs to be written in.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        let state = self.state();
        let State::Ready(ready) = &*state else { return Vec::new() };
        ready.audit.file.iter().filter(|_| ready.audit.has_sink()).filter_map(|file| super::file::folder(file.as_ref())).collect()
    }

    /// Files that sinks read again.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let state = self.state();
        let State::Ready(ready) = &*state else { return Vec::new() };
        let headers = ready.audit.otlp.iter().filter(|_| ready.audit.has_sink()).filter_map(|otlp| otlp.headers_file.as_ref());
        headers.map(PathBuf::from).collect()
    }

    /// The thread begins.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn start(self: &Arc<Self>) -> io::Result<Running> {
        let mut state = self.state();
        let State::Ready(ready) = std::mem::replace(&mut *state, State::Ended) else { return Ok(Running(Arc::clone(self))) };
        let snapshot = self.installed().last().cloned();
        let generation = snapshot.as_ref().map_or(1, |snapshot| snapshot.generation());
        let hub = Arc::clone(self);
        let first = Event::now(Kind::Start(Start { generation, process: std::process::id() }));
        if let Some(snapshot) = snapshot {
            self.tell_mode(&snapshot);
        }
        let thread = std::thread::Builder::new().name("netproxy-audit".into()).spawn(move || Consumer::new(hub, *ready, first).run())?;
        *state = State::Running(thread);
        Ok(Running(Arc::clone(self)))
    }

    /// What the admin API and embedding programs see.
    pub(crate) fn feed(self: &Arc<Self>) -> Feed {
        Feed(Arc::clone(self))
    }

    /// How it is doing.
    pub(crate) fn stats(&self) -> AuditStats {
        AuditStats {
            queued: self.queue.len(),
            queue: self.queue.bound(),
            ..self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    /// Files are opened again.
    pub(crate) fn reopen(&self) {
        self.asked().reopen = true;
        self.queue.wake();
    }

    pub(super) async fn settled(&self) {
        let (sender, told) = oneshot::channel();
        // Before the end can be asked for: what is asked with it is answered.
        if let State::Running(_) = *self.state() {
            self.asked().settled.push(sender);
        } else {
            return;
        }
        self.queue.wake();
        // Dropped, never used.
        let _ = told.await;
    }

    /// Nobody waits for room in the queue any more: a server that stops does not wait for a log.
    pub(crate) fn release(&self) {
        self.queue.release();
    }

    /// Whether somebody waits for room in the queue.
    pub(crate) fn holds_up(&self) -> bool {
        self.queue.holds_up()
    }

    /// Whether new requests are refused because the queue is full.
    pub(crate) fn is_full(&self) -> bool {
        self.queue.refuses()
    }

    /// Looks up what the ring, subscribers and sinks want.
    pub(super) fn follow_wants(&self) {
        let wants = Wants::from_bits(self.sinks_want.load(Ordering::Relaxed)).and(self.board.wants());
        self.wanted.store(wants.bits(), Ordering::Relaxed);
    }

    fn wants(&self, what: Wants) -> bool {
        Wants::from_bits(self.wanted.load(Ordering::Relaxed)).any(what)
    }

    pub(super) fn sinks_want(&self) -> Wants {
        Wants::from_bits(self.sinks_want.load(Ordering::Relaxed))
    }

    /// What is about no request waits for no room: whoever says it may have what others wait for.
    fn tell(&self, kind: Kind) {
        if self.wants(kind.of()) {
            self.queue.offer(Event::now(kind));
        }
    }

    /// Tells of the mode, where whether it is the policy's own, or which it is, has changed: also by a new policy that has another of its own, or lets none be set.
    fn tell_mode(&self, snapshot: &Snapshot) {
        let set = (snapshot.mode() != snapshot.meta().mode).then(|| snapshot.mode());
        let mut told = self.mode.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *told, set) != set && self.wants(Wants::STATE) {
            let event = Event::now(Kind::Mode { mode: snapshot.mode(), set: set.is_some(), generation: snapshot.generation() });
            let modes = &mut self.asked().modes;
            if modes.len() < MODES {
                modes.push(event);
            } else {
                self.queue.count_lost(event.time);
            }
            self.queue.wake();
        }
    }

    // What the consumer asks.

    pub(super) fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn installed(&self) -> MutexGuard<'_, Vec<Arc<Snapshot>>> {
        self.installed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_stats(&self, stats: AuditStats) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    /// Tells the embedding program of a fault of its own.
    pub(super) fn own_fault(&self, what: &str) {
        self.program.fault(what);
    }

    /// What was summed up of limits and is not of this second.
    pub(super) fn summed_up(&self, time: u64) -> Vec<Event> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let due = limits.iter_mut().filter(|state| state.last.as_ref().is_some_and(|event| event.time / 1000 != time / 1000));
        due.filter_map(LimitState::take).collect()
    }

    /// The same at the end.
    pub(super) fn all_summed_up(&self) -> Vec<Event> {
        self.summed_up(u64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LimitState {
    fn take(&mut self) -> Option<Event> {
        let mut event = self.last.take()?;
        if let Kind::Limit(reached) = &mut event.kind {
            reached.count = std::mem::take(&mut self.count);
        }
        Some(event)
    }
}

/// The thread. Dropping it ends it, soon.
pub(crate) struct Running(Arc<Hub>);

impl Running {
    /// Writes what is left, within that time or the shortest that there is, and ends. Once all is to end `at_once`, it has no more than the shortest.
    pub(crate) fn end(self, within: Duration, at_once: impl Fn() -> bool) {
        let state = std::mem::replace(&mut *self.0.state(), State::Ended);
        let mut hurries = at_once();
        let mut deadline = Instant::now() + if hurries { SHORTEST } else { within.max(SHORTEST) };
        self.0.asked().end = Some(deadline);
        self.0.queue.wake();
        if let State::Running(thread) = state {
            // A sink that takes longer than it may holds nobody up for ever.
            while !thread.is_finished() {
                if !hurries && at_once() {
                    // A sink that waits for longer already does not hear of it, and is left behind.
                    hurries = true;
                    deadline = deadline.min(Instant::now() + SHORTEST);
                }
                if Instant::now() >= deadline + GRACE {
                    return self.0.own_fault("audit: a sink does not end, and what it has not written is lost");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            // One that panicked has ended too.
            let _ = thread.join();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.state() = State::Ended;
        self.0.queue.release();
        self.0.asked().end.get_or_insert_with(Instant::now);
        self.0.queue.wake();
    }
}

fn shortened(text: &str) -> Box<str> {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    text.get(..end).unwrap_or_default().into()
}

impl Observer for Hub {
    fn decided(&self, event: &Decided<'_>) {
        self.program.decided(event);
        let what = if event.verdict() == super::event::Verdict::Allow { Wants::ALLOWS } else { Wants::DENIALS };
        if self.wants(what) {
            self.queue.push(event);
        }
    }

    fn wants_closes(&self) -> bool {
        self.wants(Wants::CLOSES) || self.program.wants_closes()
    }

    fn closed(&self, event: &Closed<'_>) {
        self.program.closed(event);
        if self.wants(Wants::CLOSES) {
            self.queue.push(event);
        }
    }

    fn revoked(&self, event: &Decided<'_>) {
        self.program.revoked(event);
        if self.wants(Wants::DENIALS) {
            self.queue.push(Event::now(Kind::Revoked(Judged::of(event))));
        }
    }

    fn inner(&self, event: &Decided<'_>, closed: bool) {
        self.program.inner(event, closed);
        if self.wants(Wants::DENIALS) {
            self.queue.push(Event::now(Kind::Inner { judged: Judged::of(event), closed }));
        }
    }

    fn dropped(&self, client: SocketAddr, why: Dropped) {
        self.program.dropped(client, why);
    }

    fn in_force(&self, snapshot: &Arc<Snapshot>) {
        self.program.in_force(snapshot);
        let generation = snapshot.generation();
        let mut installed = self.installed();
        installed.push(Arc::clone(snapshot));
        drop(installed);
        // The first is told of by the start.
        if generation > 1 {
            self.tell(Kind::Policy(Change::Swapped { generation, rules: snapshot.rule_count() }));
            self.tell_mode(snapshot);
            self.queue.wake();
        }
    }

    fn mode_set(&self, snapshot: &Arc<Snapshot>) {
        self.program.mode_set(snapshot);
    }

    fn reloaded(&self, outcome: &Reload<'_>) {
        self.program.reloaded(outcome);
        match outcome {
            // Told by `in_force`, which hears of every swap.
            Reload::Swapped(_) | Reload::Unchanged => {}
            Reload::Refused(error) => self.tell(Kind::Policy(Change::Refused(shortened(&error.to_string())))),
            Reload::Withdrawn(error) => self.tell(Kind::Policy(Change::Withdrawn(shortened(&error.to_string())))),
        }
    }

    fn limited(&self, event: &LimitReached<'_>) {
        self.program.limited(event);
        if !self.wants(Wants::LIMITS) {
            return;
        }
        let place = Limits::ALL.iter().position(|limit| std::ptr::eq(limit, event.limit) || limit.name == event.limit.name);
        let reached = Reached {
            limit: event.limit.name,
            count: 0,
            client: event.client,
            host: event.host.map(|host| Text::of(host.into())),
            port: event.port,
        };
        let event = Event::now(Kind::Limit(Box::new(reached)));
        let time = event.time;
        let told = {
            let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(state) = place.and_then(|place| limits.get_mut(place)) else { return };
            state.count += 1;
            state.last = Some(event);
            if state.gate.passes(time, LIMITS_A_SECOND) { state.take() } else { None }
        };
        if let Some(event) = told {
            self.queue.offer(event);
        }
    }

    fn fault(&self, what: &str) {
        self.program.fault(what);
        if !self.wants(Wants::STATE) {
            return;
        }
        let time = now();
        if self.faults.lock().unwrap_or_else(PoisonError::into_inner).passes(time, FAULTS_A_SECOND) {
            self.queue.offer(Event::now(Kind::Fault(shortened(what))));
        } else {
            self.queue.count_lost(time);
        }
    }

    fn accepting(&self, state: &Accepting<'_>) {
        self.program.accepting(state);
        if let Accepting::Paused(error) = state {
            self.tell(Kind::Fault(shortened(&format!("clients wait: {error}"))));
        }
    }

    fn refuses(&self) -> bool {
        self.queue.refuses() || self.program.refuses()
    }
}

#[cfg(test)]
#[path = "hub/tests.rs"]
mod tests;
