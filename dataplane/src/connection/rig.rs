//! What tests of connections have in common.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use super::Shared;
use crate::audit::event::{Observer, Silent};
use crate::connect::Connector;
use crate::connect::resolve::SystemResolver;
use crate::connect::upstream::Environment;
use crate::counters::Counters;
use crate::decide::Decider;
use crate::decide::own::Own;
use crate::inside::secrets::Secrets;
use crate::limits::Gate;
use crate::policy::{Policy, PolicyHandle};
use std::collections::HashMap;
use std::sync::Arc;

/// What all connections use, under the built-in policy with those limits.
pub(crate) fn shared(limits: &[&str]) -> (Arc<Shared>, PolicyHandle) {
    let overrides = limits.iter().map(|limit| limit.parse().unwrap()).collect();
    let policy = PolicyHandle::new(Policy::built_in().unwrap(), overrides, Arc::new(Silent));
    let counters = Counters::new();
    let observer: Arc<dyn Observer> = Arc::new(Silent);
    let environment = Environment::read([]).unwrap();
    let decider = Decider::new(
        policy.clone(),
        Arc::clone(&observer),
        Arc::clone(&counters),
        Own::new(Vec::new()),
        environment,
        Secrets::new(HashMap::new(), None, Arc::new(Silent)),
        None,
    );
    let shared = Shared {
        decider: Arc::new(decider),
        connector: Connector::new(Arc::new(SystemResolver::new(1)), Arc::default()),
        gate: Gate::new(Arc::clone(&counters), observer),
        counters,
        pseudonym: "netproxy-test".to_owned(),
    };
    (Arc::new(shared), policy)
}
