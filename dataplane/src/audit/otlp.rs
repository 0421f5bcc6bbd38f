//! A sink that sends events to a collector of OpenTelemetry, as logs, over OTLP/HTTP or OTLP/gRPC.
//!
//! Events wait in one bounded queue, as they are; what goes beyond is counted, and told as lost. A thread of its own, `netproxy-otlp`, takes batches out of it, encodes each
//! once, and sends one at a time: again and again where the collector cannot take it now, with longer and longer waits in between or as long as the collector says; not again
//! where it will not have it. So a collector that is gone, or slow, holds up no other sink and no request.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `collector.rs` | the collector's URL, and the file with header fields |
//! | `encode.rs` | events as log records |
//! | `sender.rs` | one connection, one request at a time |
//! | `answer.rs` | what an answer means: accepted, rejected, later |

mod answer;
mod collector;
mod encode;
mod sender;

use super::record::{Event, Kind};
use super::setup::OtlpSpec;
use super::sink::Sink;
use crate::tls::Alpn;
use crate::tls::roots::{Roots, Sources};
use answer::Outcome;
use collector::{Collector, Headers};
use encode::Encoder;
use policy_format::OtlpProtocol;
use sender::Sender;
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until, timeout_at};

/// Its name, in faults, counters and events.
const NAME: &str = "otlp";
/// Events of a request.
const BATCH: usize = 2048;
/// How long an event waits for others to go with.
const GATHER: Duration = Duration::from_millis(200);
/// The first wait after a failure, and the longest; each is twice the one before, and what is waited is between half of it and all of it.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Opens the sink: reads the file with header fields, and whom to trust where the collector is inside TLS.
///
/// # Errors
/// What cannot be read.
pub(super) fn open(spec: &OtlpSpec, sources: &Sources) -> Result<Box<dyn Sink>, String> {
    let otlp = &spec.otlp;
    let collector = Collector::of(otlp).map_err(|error| error.to_string())?;
    let headers = otlp.headers_file.as_ref().map(|path| Headers::read(Path::new(path))).transpose().map_err(|error| error.to_string())?;
    let tls = if collector.tls {
        let alpn = if otlp.protocol == OtlpProtocol::Grpc { Alpn::Http2 } else { Alpn::Http1 };
        let roots = Roots::load(sources, &[]);
        Some(roots.map_err(|error| format!("whom to trust to be the OTLP collector cannot be read: {error}"))?.client_config(alpn, None))
    } else {
        None
    };
    // On this machine, it would cost more than it saves. All collectors take it.
    let gzip = !collector.is_near();
    let collector = Arc::new(collector);
    let sender = Sender::new(Arc::clone(&collector), tls, headers, gzip);
    Ok(Box::new(Otlp::new(collector, spec.queue, spec.form.lossy, sender, Encoder::new(&spec.form))))
}

/// The sink.
struct Otlp {
    shared: Arc<Shared>,
    /// What the thread is made of: it starts with the first events, when the process has given up what it gives up.
    ready: Option<(Sender, Encoder)>,
}

struct Shared {
    collector: Arc<Collector>,
    capacity: usize,
    lossy: bool,
    state: Mutex<State>,
    /// Wakes the thread that sends.
    work: Notify,
    /// Wakes whoever waits for the end.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Event>,
    /// When the first of them came.
    since: Option<Instant>,
    /// Events of the batch that is being sent.
    sending: usize,
    /// Events that were given up and not yet asked for.
    lost: u64,
    /// Those that say how much is missing, and that the collector would not have: they go with the next batch, one for each sink.
    rejected: Vec<Event>,
    /// Why the last batch did not arrive.
    failing: Option<String>,
    /// When nothing is sent any more.
    until: Option<Instant>,
    /// The thread has ended.
    has_ended: bool,
}

impl Otlp {
    fn new(collector: Arc<Collector>, queue: usize, lossy: bool, sender: Sender, encoder: Encoder) -> Self {
        let shared =
            Shared { collector, capacity: queue.max(1), lossy, state: Mutex::default(), work: Notify::new(), ended: Condvar::new() };
        Self { shared: Arc::new(shared), ready: Some((sender, encoder)) }
    }

    /// Starts the thread, unless it runs.
    fn start(&mut self) -> io::Result<()> {
        let Some((sender, encoder)) = self.ready.take() else { return Ok(()) };
        let shared = Arc::clone(&self.shared);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
        let spawned = runtime.and_then(|runtime| {
            thread::Builder::new().name("netproxy-otlp".into()).spawn(move || {
                // However it ends, nobody waits for it.
                let ended = Ended(&shared);
                runtime.block_on(run(&shared, sender, encoder));
                // A name that is being looked up is not waited for.
                runtime.shutdown_background();
                drop(ended);
            })
        });
        spawned.map(drop)
    }

    /// An error while batches do not arrive.
    fn result(&self) -> io::Result<()> {
        let state = self.shared.state();
        match &state.failing {
            None => Ok(()),
            Some(why) => Err(io::Error::other(format!("{}: {why}; {} events wait", self.shared.collector, state.pending()))),
        }
    }
}

impl Sink for Otlp {
    fn name(&self) -> &'static str {
        NAME
    }

    fn write(&mut self, events: &[Event]) -> io::Result<()> {
        self.shared.put(events);
        self.start()?;
        self.shared.work.notify_one();
        self.result()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.result()
    }

    fn pending(&self) -> usize {
        self.shared.state().pending()
    }

    fn has_room(&self) -> bool {
        self.shared.state().pending() < self.shared.capacity
    }

    fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.shared.state().lost)
    }

    fn close(&mut self, deadline: Instant) -> io::Result<()> {
        let mut state = self.shared.state();
        state.until = Some(deadline);
        self.shared.work.notify_one();
        while self.ready.is_none() && !state.has_ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self.shared.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        let left = state.pending();
        if left == 0 {
            return Ok(());
        }
        let why = state.failing.as_deref().unwrap_or("there was no time");
        Err(io::Error::other(format!("{}: {why}; {left} events were not sent", self.shared.collector)))
    }
}

impl Drop for Otlp {
    fn drop(&mut self) {
        self.shared.state().until.get_or_insert_with(Instant::now);
        self.shared.work.notify_one();
    }
}

/// Says that the thread has ended.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.state().has_ended = true;
        self.0.ended.notify_all();
    }
}

impl State {
    fn pending(&self) -> usize {
        self.waiting.len() + self.sending
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, events: &[Event]) {
        let mut state = self.state();
        for event in events {
            if is_gap(event) {
                // What says how much is missing is never missing: behind another of its kind it is added to that, so that a full queue stays as long as it is.
                if !state.waiting.back_mut().is_some_and(|last| joined(last, event)) {
                    state.waiting.push_back(event.clone());
                }
            } else if !self.lossy || state.pending() < self.capacity {
                state.waiting.push_back(event.clone());
            } else {
                state.lost += 1;
            }
        }
        if !state.waiting.is_empty() {
            state.since.get_or_insert_with(Instant::now);
        }
    }

    /// The next batch, once there is one; `None` at the end. They count as being sent.
    async fn batch(&self) -> Option<Vec<Event>> {
        loop {
            let due = {
                let mut state = self.state();
                let due = state.since.map(|since| since + GATHER);
                let is_due = due.is_some_and(|due| due <= Instant::now()) || state.waiting.len() >= BATCH || state.until.is_some();
                if is_due && !state.waiting.is_empty() {
                    let count = state.waiting.len().min(BATCH);
                    let mut batch = std::mem::take(&mut state.rejected);
                    let rejected = batch.len();
                    for event in state.waiting.drain(..count) {
                        // What is missing by now is said with what was missing before.
                        if !batch.iter_mut().take(rejected).any(|before| joined(before, &event)) {
                            batch.push(event);
                        }
                    }
                    state.sending = batch.len();
                    state.since = (!state.waiting.is_empty()).then(Instant::now);
                    return Some(batch);
                }
                if state.until.is_some() {
                    return None;
                }
                due
            };
            match due {
                Some(due) => _ = timeout_at(due.into(), self.work.notified()).await,
                None => self.work.notified().await,
            }
        }
    }

    /// Ends when nothing may be sent any more.
    async fn out_of_time(&self) {
        loop {
            // Not held while anything is waited for.
            let until = self.state().until;
            match until {
                Some(until) => return sleep_until(until.into()).await,
                None => self.work.notified().await,
            }
        }
    }

    /// Notes what became of a request with so many events, or with `gap`: how long to wait before it is sent again, unless that is over.
    fn settle(
        &self,
        outcome: Outcome,
        (events, gap): (u64, Option<&Event>),
        complaint: Option<String>,
        back_off: &mut BackOff,
    ) -> Option<Duration> {
        let mut state = self.state();
        let rejected = match outcome {
            Outcome::Accepted { rejected: 0, .. } => {
                state.failing = complaint;
                return None;
            }
            Outcome::Later { after, why } => {
                state.failing = Some(why);
                return Some(after.unwrap_or_else(|| back_off.next()));
            }
            Outcome::Accepted { rejected, says } => {
                let says = says.map(|says| format!(": {says}")).unwrap_or_default();
                state.failing = Some(format!("it rejects events{says}"));
                rejected
            }
            Outcome::Rejected(why) => {
                state.failing = Some(format!("it rejects events: {why}"));
                events
            }
        };
        match gap {
            // What says how much is missing is not counted as missing, and said again: what it says would be forgotten.
            Some(gap) => {
                if !state.rejected.iter_mut().any(|before| joined(before, gap)) {
                    state.rejected.push(gap.clone());
                }
            }
            None => state.lost += rejected.min(events),
        }
        None
    }
}

fn is_gap(event: &Event) -> bool {
    matches!(event.kind, Kind::Lost(_))
}

/// The first events that may go together. One that says how much is missing goes by itself: so there is no doubt whether it was among those that were rejected.
fn together(events: &[Event]) -> &[Event] {
    let until = events.iter().position(is_gap).map_or(events.len(), |gap| gap.max(1));
    events.get(..until).unwrap_or_default()
}

/// Adds what is missing to the event before it, if that says the same of the same sink.
fn joined(last: &mut Event, event: &Event) -> bool {
    match (&mut last.kind, &event.kind) {
        (Kind::Lost(before), Kind::Lost(gap)) if before.sink == gap.sink => {
            before.count = before.count.saturating_add(gap.count);
            before.since = before.since.min(gap.since);
            true
        }
        _ => false,
    }
}

/// Sends batch after batch, until the end.
async fn run(shared: &Shared, mut sender: Sender, mut encoder: Encoder) {
    while let Some(mut events) = shared.batch().await {
        while !events.is_empty() {
            let (request, count) = encoder.request(together(&events));
            let body = sender.pack(request);
            // Only what waits for its turn is kept as events, and what may have to be said again.
            let gap = events.drain(..count).find(is_gap);
            let mut back_off = BackOff::default();
            loop {
                let outcome = tokio::select! {
                    outcome = sender.send(&body) => outcome,
                    () = shared.out_of_time() => return,
                };
                let Some(wait) = shared.settle(outcome, (count as u64, gap.as_ref()), sender.complaint(), &mut back_off) else { break };
                tokio::select! {
                    () = sleep(wait) => {}
                    () = shared.out_of_time() => return,
                }
            }
            shared.state().sending = events.len();
        }
    }
}

/// Longer and longer waits, of random length: those who lost the same collector do not all come back at once.
struct BackOff(Duration);

impl Default for BackOff {
    fn default() -> Self {
        Self(BACK_OFF.0)
    }
}

impl BackOff {
    fn next(&mut self) -> Duration {
        let longest = self.0;
        self.0 = (longest * 2).min(BACK_OFF.1);
        // Keyed at random, and with nothing hashed.
        let random = RandomState::new().build_hasher().finish();
        let half = longest / 2;
        half + half.mul_f64(f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests;
