//! The embedding program's own runtime, and what is asked and told there.

use crate::audit::event::Answer;
use crate::decide::asked::{Deciding, PolicyDecider, PolicyRequest};
use std::sync::{Arc, OnceLock};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// The runtime of the embedding program, once the proxy runs.
pub(crate) type Home = Arc<OnceLock<Handle>>;

/// Asks there: what the program awaits, its own runtime drives, and what takes long there holds up no request but those that wait for it.
pub(crate) struct AtHome {
    pub(crate) decider: Arc<dyn PolicyDecider>,
    pub(crate) home: Home,
}

impl PolicyDecider for AtHome {
    fn decide(&self, request: PolicyRequest) -> Deciding<'_> {
        let decider = Arc::clone(&self.decider);
        let answer = async move { decider.decide(request).await };
        let Some(home) = self.home.get() else { return Box::pin(answer) };
        // Dropping the set ends the question.
        let mut task = JoinSet::new();
        task.spawn_on(answer, home);
        Box::pin(async move {
            match task.join_next().await {
                Some(Ok(answer)) => answer,
                // It panicked, or the runtime has ended.
                Some(Err(_)) | None => Answer::Deny("decider_failed".to_owned()),
            }
        })
    }
}
