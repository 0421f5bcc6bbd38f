//! Where secrets come into requests: after the decision, and after the hook that matched has taken fields out and named those that it puts in.

use super::judge::{Actions, Answer, Facts};
use crate::audit::event::Observer;
use crate::policy::Snapshot;
use crate::reply;
use crate::secret::{Broker, BrokerSetup, Brokering, Destination, HookSecrets, MIN_COPY};
use policy_format::{Hook, Host};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// Knows secrets, and where they go.
pub(crate) struct Secrets {
    hooks: HookSecrets,
    broker: Broker,
    /// What the broker is set up from, beside the policy.
    environment: Mutex<HashMap<String, Zeroizing<String>>>,
    /// The policy that it follows.
    generation: AtomicU64,
    observer: Arc<dyn Observer>,
    /// What was wrong last: a request that fails a thousand times is told of once.
    told: Mutex<String>,
}

impl Secrets {
    /// With the environment of the proxy, and the broker that hands out what stands for secrets.
    pub(crate) fn new(environment: HashMap<String, String>, broker: Option<Broker>, observer: Arc<dyn Observer>) -> Self {
        let hooks = HookSecrets::new(environment.clone());
        let environment = environment.into_iter().map(|(name, value)| (name, Zeroizing::new(value))).collect();
        Self {
            hooks,
            broker: broker.unwrap_or_default(),
            environment: Mutex::new(environment),
            generation: AtomicU64::new(0),
            observer,
            told: Mutex::default(),
        }
    }

    /// Tells whoever runs the proxy what is wrong.
    fn tell(&self, what: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != what {
            self.observer.fault(&what);
            *told = what;
        }
    }

    /// Who hands out what stands for secrets.
    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Follows a policy, unless that was done.
    pub(crate) fn follow(&self, policy: &Snapshot) {
        if self.generation.load(Ordering::Acquire) == policy.generation() {
            return;
        }
        let environment = self.environment.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation.load(Ordering::Acquire) > policy.generation() {
            return;
        }
        let (meta, settings) = (policy.meta(), policy.settings());
        let setup = BrokerSetup {
            brokering: match meta.credential_broker {
                true if policy.can_intercept() => Brokering::On,
                true => Brokering::Impossible("the proxy has no authority to open TLS with".to_owned()),
                false => Brokering::Off,
            },
            credentials: settings.credentials.clone(),
            openai_base_url: environment.get("OPENAI_BASE_URL").map(|url| url.to_string()),
            dangerously_allow_plaintext: meta.dangerously_allow_plaintext_credential_injection,
            fallback: settings.broker_fallback,
        };
        // A credential that cannot be used goes nowhere; the others are.
        if let Err(error) = self.broker.configure(&setup) {
            self.tell(error.to_string());
        }
        if meta.credential_broker {
            let before = self.broker.dummies();
            drop(self.broker.adopt(environment.iter().map(|(name, value)| (name.clone(), value.to_string()))));
            // What was left for commands at the start cannot be written again: the process has given that up.
            if self.generation.load(Ordering::Acquire) > 0 && self.broker.dummies() != before {
                self.tell("the new policy speaks of other credentials: start the proxy anew before `netproxy-dp env` or `exec --running` is used again".to_owned());
            }
        }
        self.generation.store(policy.generation(), Ordering::Release);
    }

    /// Takes the secrets of hooks out of an environment, and copies of those that are long enough to be no accident.
    pub(crate) fn withhold(&self, policy: &Snapshot, environment: &mut HashMap<String, String>) {
        let own = self.environment.lock().unwrap_or_else(PoisonError::into_inner);
        for name in policy.secret_variables() {
            let Some(secret) = own.get(&name).map(|value| value.trim()).filter(|secret| !secret.is_empty()) else { continue };
            let is_copy = |value: &str| secret.len() >= MIN_COPY && value.contains(secret);
            environment.retain(|other, value| !(is_copy(value) || (*other == name && value.trim() == secret)));
        }
    }

    /// Whether a request to that host and port, in TLS or not, may carry what stands for a secret.
    pub(crate) fn wants(&self, policy: &Snapshot, host: &Host, port: u16, tls: bool) -> bool {
        self.follow(policy);
        let meta = policy.meta();
        meta.credential_broker && if tls { self.broker.wants(host, port) } else { meta.dangerously_allow_plaintext_credential_injection }
    }

    /// What is changed in a request that may go on, whose fields `facts` has as the client sent them.
    ///
    /// # Errors
    /// There is a secret that it needs, and that cannot be had: what the client is answered.
    pub(crate) fn actions(&self, policy: &Snapshot, hook: Option<&Hook>, facts: &Facts<'_>, tls: bool) -> Result<Actions, Answer> {
        let mut actions = Actions::default();
        if let Some(hook) = hook {
            actions.strip_request.clone_from(&hook.strip_request_headers);
            actions.strip_response.clone_from(&hook.strip_response_headers);
            for injected in &hook.inject_request_headers {
                let value = self.hooks.value(&injected.secret, &injected.prefix).map_err(|error| {
                    self.tell(format!("a request was not sent: {error}"));
                    reply::no_secret()
                })?;
                actions.set_request.push((injected.name.clone(), value));
            }
        }
        let (host, port) = (&facts.target.host, facts.target.port);
        if self.wants(policy, host, port, tls) {
            let to = Destination { host, port, tls, method: facts.method, path_and_query: facts.path_and_query };
            let translated = {
                let is_kept = |name: &str| {
                    !actions.strip_request.iter().any(|taken| taken == name) && !actions.set_request.iter().any(|(set, _)| set == name)
                };
                let kept: Vec<(&str, &[u8])> = facts.headers.iter().copied().filter(|(name, _)| is_kept(name)).collect();
                self.broker.translate(&to, &kept)
            };
            actions.set_request.extend(translated);
        }
        Ok(actions)
    }
}
