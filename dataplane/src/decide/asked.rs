//! What the program that embeds the proxy says of requests that no rule allows.
//!
//! It is asked about that alone: never about what a rule denies, about numbers that only look like addresses, addresses that are not public, metadata services, unix sockets, or
//! a policy that is switched off. What it allows goes on as if a rule had allowed that host, for this one request: its addresses are decided on as ever, and limited mode and
//! read-only rules hold. It has so long to answer; silence denies, and so does a panic.

use crate::audit::event::Answer;
use crate::counters::Counters;
use policy_format::{Host, Protocol, net};
use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// For an answer, where nothing else is said: long enough for somebody who sits before a screen to read the question, shorter than most clients wait for a response.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// Questions that are put at once. Others wait for their turn, which is of the time that they have.
const AT_ONCE: usize = 128;

/// Those of them that come of one client address, so that it takes the turns of no other.
const OF_A_CLIENT: usize = 32;

/// Letters of a reason: it is a word for machines.
const REASON: usize = 64;

/// A request that no rule allows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyRequest {
    /// How the client asks.
    pub protocol: Protocol,
    /// For which host: a name, or an address that is public.
    pub host: String,
    /// For which port.
    pub port: u16,
    /// With which method, where the request can be read.
    pub method: Option<String>,
    /// Who asks.
    pub client: SocketAddr,
    /// The command that the proxy runs for, where the embedding program has said which.
    pub command: Option<String>,
    /// What the embedding program's rules for commands say of it, where it has said that.
    pub exec_policy_hint: Option<String>,
}

/// A future that gives an answer.
pub(crate) type Deciding<'d> = Pin<Box<dyn Future<Output = Answer> + Send + 'd>>;

/// Says what becomes of requests that no rule allows. Any `async` closure from [`PolicyRequest`] to [`Answer`] is one.
///
/// It is asked in the runtime that [`run`](crate::NetworkProxy::run) was called in. Whoever asks may go away: then its future is dropped.
pub(crate) trait PolicyDecider: Send + Sync + 'static {
    /// Decides on one request.
    fn decide(&self, request: PolicyRequest) -> Deciding<'_>;
}

impl<F, D> PolicyDecider for F
where
    F: Fn(PolicyRequest) -> D + Send + Sync + 'static,
    D: Future<Output = Answer> + Send + 'static,
{
    fn decide(&self, request: PolicyRequest) -> Deciding<'_> {
        Box::pin(self(request))
    }
}

/// Who is asked, and for how long an answer is waited for.
pub(crate) struct Asked {
    pub(crate) decider: Arc<dyn PolicyDecider>,
    pub(crate) timeout: Duration,
    pub(crate) command: Option<String>,
    pub(crate) exec_policy_hint: Option<String>,
    pub(crate) turns: Arc<Turns>,
}

/// An answer under way. Dropping it ends the question.
pub(crate) type Asking = Pin<Box<dyn Future<Output = Answer> + Send>>;

impl Asked {
    /// With what holds where nothing else is said.
    pub(crate) fn new(decider: Arc<dyn PolicyDecider>) -> Self {
        Self { decider, timeout: TIMEOUT, command: None, exec_policy_hint: None, turns: Turns::new() }
    }

    /// Puts a question. What belongs to the proxy's own setting is filled in.
    pub(super) fn ask(&self, request: PolicyRequest, counters: &Arc<Counters>) -> Asking {
        let (decider, turns, counters) = (Arc::clone(&self.decider), Arc::clone(&self.turns), Arc::clone(counters));
        let request = PolicyRequest { command: self.command.clone(), exec_policy_hint: self.exec_policy_hint.clone(), ..request };
        let began = Instant::now();
        let due = began + self.timeout;
        Box::pin(async move {
            // A task of its own, so that a panic in it ends nothing else. It is aborted when this is dropped.
            let mut task = JoinSet::new();
            let answer = timeout_at(due, async {
                let share = turns.share(request.client.ip());
                let _of_the_client = share.turns.acquire().await;
                let _turn = turns.all.acquire().await;
                task.spawn(async move { decider.decide(request).await });
                task.join_next().await
            });
            let answer = match answer.await {
                Ok(Some(Ok(answer))) => Some(answer),
                Ok(_) => Some(Answer::Deny("decider_failed".to_owned())),
                Err(_) => None,
            };
            counters.answered(answer.as_ref(), began.elapsed());
            let answer = answer.unwrap_or_else(|| Answer::Deny("decider_timeout".to_owned()));
            match answer {
                Answer::Allow => Answer::Allow,
                Answer::Deny(reason) => Answer::Deny(word(&reason)),
                Answer::Ask(reason) => Answer::Ask(word(&reason)),
            }
        })
    }
}

/// Who may put a question now.
pub(crate) struct Turns {
    all: Semaphore,
    /// Of those who ask or wait, and of nobody else.
    clients: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

impl Turns {
    fn new() -> Arc<Self> {
        Arc::new(Self { all: Semaphore::new(AT_ONCE), clients: Mutex::default() })
    }

    fn clients(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Semaphore>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn share(&self, client: IpAddr) -> Share<'_> {
        let client = client.to_canonical();
        let turns = Arc::clone(self.clients().entry(client).or_insert_with(|| Arc::new(Semaphore::new(OF_A_CLIENT))));
        Share { of: self, client, turns }
    }
}

/// The turns of one client, which are forgotten with the last of its questions.
struct Share<'t> {
    of: &'t Turns,
    client: IpAddr,
    turns: Arc<Semaphore>,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut clients = self.of.clients();
        // One is the table's and one is this: it is cloned under the lock alone.
        if Arc::strong_count(&self.turns) == 2 {
            clients.remove(&self.client);
        }
    }
}

/// Whether it may be asked about a host: a name, or an address, that stands for somebody out there.
pub(super) fn may_be_asked(host: &Host) -> bool {
    match host {
        Host::NumericLookalike(_) => false,
        Host::Ip(ip) => net::non_public(*ip).is_none() && !net::is_metadata_address(*ip),
        Host::Name(name) => !host.is_localhost() && !net::is_metadata_name(name.as_str()),
    }
}

/// A reason as it is shown to clients, in a status line too.
fn word(reason: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.');
    let word: String = reason.trim().chars().take(REASON).map(|letter| if is_plain(letter) { letter } else { '_' }).collect();
    if word.is_empty() { "policy_denied".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on panics")]

    use super::*;
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn request() -> PolicyRequest {
        request_of(1)
    }

    fn request_of(client: u8) -> PolicyRequest {
        PolicyRequest {
            protocol: Protocol::Connect,
            host: "a.test".to_owned(),
            port: 443,
            method: None,
            client: SocketAddr::from(([127, 0, 0, client], 1)),
            command: None,
            exec_policy_hint: None,
        }
    }

    async fn answer(decider: impl PolicyDecider) -> Answer {
        Asked::new(Arc::new(decider)).ask(request(), &Counters::new()).await
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_a_panic_deny() {
        assert_eq!(answer(|_: PolicyRequest| async { Answer::Allow }).await, Answer::Allow);
        let began = Instant::now();
        assert_eq!(answer(|_: PolicyRequest| pending()).await, Answer::Deny("decider_timeout".into()));
        assert_eq!(began.elapsed(), TIMEOUT);
        let panics = |_: PolicyRequest| async { if true { panic!("on purpose") } else { Answer::Allow } };
        assert_eq!(answer(panics).await, Answer::Deny("decider_failed".into()));
        let at_once = |_: PolicyRequest| -> std::future::Ready<Answer> { panic!("on purpose") };
        assert_eq!(answer(at_once).await, Answer::Deny("decider_failed".into()));
    }

    #[tokio::test]
    async fn a_reason_is_a_word() {
        for (said, shown) in [
            ("not_approved", "not_approved"),
            ("", "policy_denied"),
            ("  ", "policy_denied"),
            ("two words\r\nx-evil: 1", "two_words__x-evil__1"),
            ("é", "_"),
        ] {
            assert_eq!(
                answer(move |_: PolicyRequest| async move { Answer::Deny(said.to_owned()) }).await,
                Answer::Deny(shown.to_owned()),
                "{said:?}"
            );
            assert_eq!(
                answer(move |_: PolicyRequest| async move { Answer::Ask(said.to_owned()) }).await,
                Answer::Ask(shown.to_owned()),
                "{said:?}"
            );
        }
        assert_eq!(word(&"a".repeat(1000)).len(), REASON);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_are_asked_at_once_and_what_is_dropped_is_asked_no_more() {
        let (asked, dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        struct Counted(Arc<AtomicUsize>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let (count, end) = (Arc::clone(&asked), Arc::clone(&dropped));
        let decider = Asked::new(Arc::new(move |_: PolicyRequest| {
            count.fetch_add(1, Ordering::SeqCst);
            let counted = Counted(Arc::clone(&end));
            async move {
                pending::<()>().await;
                drop(counted);
                Answer::Allow
            }
        }));
        let counters = Counters::new();
        let clients = u8::try_from(AT_ONCE / OF_A_CLIENT).unwrap();
        let of = |client, count: usize| (0..count).map(|_| decider.ask(request_of(client), &counters)).collect::<Vec<_>>();
        let settle = || async {
            for _ in 0..4 * AT_ONCE {
                tokio::task::yield_now().await;
            }
        };
        let put = async |questions: &mut Vec<Asking>| {
            for question in questions {
                assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(question.as_mut().poll(cx))).await.is_pending());
                // A task may do so much at once, and no more.
                tokio::task::yield_now().await;
            }
            settle().await;
            (asked.load(Ordering::SeqCst), dropped.load(Ordering::SeqCst))
        };
        // One client has its share, and leaves the others theirs.
        let mut first = of(1, AT_ONCE);
        assert_eq!(put(&mut first).await, (OF_A_CLIENT, 0));
        let mut others: Vec<_> = (2..=clients + 1).flat_map(|client| of(client, OF_A_CLIENT + 3)).collect();
        assert_eq!(put(&mut others).await, (AT_ONCE, 0));
        drop((first, others));
        assert_eq!(put(&mut Vec::new()).await, (AT_ONCE, AT_ONCE));
        assert!(decider.turns.clients().is_empty(), "nobody is remembered");
    }

    #[test]
    fn it_is_asked_about_who_is_out_there() {
        for (host, asked) in [
            ("a.test", true),
            ("93.184.216.34", true),
            ("2606:4700::1111", true),
            ("localhost", false),
            ("x.localhost", false),
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("169.254.169.254", false),
            ("::1", false),
            ("fd00::1", false),
            ("::ffff:10.0.0.1", false),
            ("metadata.google.internal", false),
            ("0x7f.1", false),
            ("127.1", false),
        ] {
            assert_eq!(may_be_asked(&Host::parse(host).unwrap()), asked, "{host}");
        }
    }
}
