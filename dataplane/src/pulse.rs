//! Whether a thread still runs what is to be run on it: it answers when it is asked, busy or idle. One that hangs does not. Where nobody asks, nothing is done for it.

use std::future::pending;
use tokio::sync::{mpsc, oneshot};

/// Who is asked, and told by an answer.
type Question = oneshot::Sender<()>;

/// That a thread is to go on: dropping it ends its [`Heart`].
#[derive(Debug)]
pub(crate) struct Life(mpsc::Sender<Question>);

/// What answers on the thread.
#[derive(Debug)]
pub(crate) struct Heart(mpsc::Receiver<Question>);

/// What can be asked from elsewhere.
#[derive(Debug)]
pub(crate) struct Pulse(mpsc::WeakSender<Question>);

/// For a thread.
pub(crate) fn new() -> (Life, Heart) {
    let (sender, receiver) = mpsc::channel(1);
    (Life(sender), Heart(receiver))
}

impl Life {
    pub(crate) fn pulse(&self) -> Pulse {
        Pulse(self.0.downgrade())
    }
}

impl Heart {
    /// Answers until the life is over. Cancel safe.
    pub(crate) async fn beat(&mut self) {
        while let Some(question) = self.0.recv().await {
            // Whoever asked may be gone.
            let _ = question.send(());
        }
    }
}

impl Pulse {
    /// Returns once the thread has answered, and never where it hangs, or has ended by itself. At once where it was ended, or is being ended.
    pub(crate) async fn felt(&self) {
        let Some(life) = self.0.upgrade() else { return };
        let (question, answer) = oneshot::channel();
        let asked = life.send(question).await.is_ok();
        drop(life);
        let answered = asked && answer.await.is_ok();
        if !answered && self.0.strong_count() > 0 {
            pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

    use super::*;
    use std::future::poll_fn;
    use std::pin::{Pin, pin};
    use std::task::Poll;
    use tokio::runtime::Runtime;

    fn runtime() -> Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    /// Whether `felt`, polled once, is not done.
    async fn is_pending(mut felt: Pin<&mut impl Future<Output = ()>>) -> bool {
        poll_fn(|cx| Poll::Ready(felt.as_mut().poll(cx).is_pending())).await
    }

    #[test]
    fn a_thread_that_is_idle_has_a_pulse_and_one_that_hangs_has_none_until_it_goes_on() {
        let (life, mut heart) = new();
        let pulse = life.pulse();
        let (hang, hangs) = oneshot::channel();
        let (hung, is_hung) = std::sync::mpsc::channel();
        let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let task = tokio::spawn(async move {
                    hangs.await.unwrap();
                    hung.send(()).unwrap();
                    goes_on.recv().unwrap();
                });
                heart.beat().await;
                task.await.unwrap();
            });
        });
        runtime().block_on(async {
            pulse.felt().await;
            pulse.felt().await;
            hang.send(()).unwrap();
            is_hung.recv().unwrap();
            let mut felt = pin!(pulse.felt());
            for _ in 0..1000 {
                assert!(is_pending(felt.as_mut()).await);
                std::thread::yield_now();
            }
            go_on.send(()).unwrap();
            felt.await;
            // It is ended, and is not missed.
            drop(life);
            pulse.felt().await;
        });
        thread.join().unwrap();
    }

    #[test]
    fn a_thread_that_has_ended_by_itself_has_no_pulse() {
        let (life, heart) = new();
        let pulse = life.pulse();
        drop(heart);
        runtime().block_on(async {
            let mut felt = pin!(pulse.felt());
            assert!(is_pending(felt.as_mut()).await);
        });
        // One that is ended while it is asked is none that hangs.
        let (life, heart) = new();
        let pulse = life.pulse();
        runtime().block_on(async {
            let mut felt = pin!(pulse.felt());
            assert!(is_pending(felt.as_mut()).await);
            drop((life, heart));
            felt.await;
        });
    }
}
