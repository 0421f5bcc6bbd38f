//! `Broker`: gives children dummies for credentials, and puts the credentials into requests that present a dummy to the host that it is for.

use super::binding::Destination;
use super::dummies::Dummies;
use super::dummy::{Random, dummy};
use super::is_field_value;
use super::rule::{CredentialError, Kind, kinds};
use super::table::{Record, Table};
use arc_swap::ArcSwap;
use policy_format::{BrokerFallback, Credential, Host};
use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zeroize::{Zeroize, Zeroizing};

/// The variable that tells a child that its credentials are dummies: `1`.
pub(super) const ACTIVE: &str = "CODEX_NETWORK_PROXY_CREDENTIAL_BROKER_ACTIVE";
/// The variable that tells a child which: variables and dummies, as a JSON array of pairs.
pub(super) const BROKERED: &str = "CODEX_NETWORK_PROXY_BROKERED_CREDENTIALS";

/// Dummies that are valid at once. Beyond, children get no credentials.
const MAX_DUMMIES: usize = 16_384;
/// Dummies that are drawn until one is new. The first is, but for a random source that repeats itself.
const DRAWS: usize = 8;
/// Bytes of a credential whose copies in other variables are looked for. Shorter ones are found where they do not stand.
pub(crate) const MIN_COPY: usize = 16;
/// Whoever asks the running proxy for an environment. All of them share dummies.
const OWN: u64 = 0;

/// Hands out dummies for credentials and knows what they stand for. Clones are the same broker.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    table: ArcSwap<Table>,
    state: Mutex<State>,
}

struct State {
    brokering: Brokering,
    fallback: BrokerFallback,
    plaintext: bool,
    kinds: Vec<Arc<Kind>>,
    next_child: u64,
    own: Dummies,
}

/// What the policy says of credentials.
#[derive(Debug, Clone, Default)]
pub struct BrokerSetup {
    /// Whether there is brokering.
    pub brokering: Brokering,
    /// Credentials that the policy describes, beside those of GitHub and OpenAI.
    pub credentials: Vec<Credential>,
    /// The `https` URL of an interface that `OPENAI_API_KEY` is for too.
    pub openai_base_url: Option<String>,
    /// Whether credentials may go into requests that are not in TLS.
    pub dangerously_allow_plaintext: bool,
    /// What children get for a credential that cannot be brokered.
    pub fallback: BrokerFallback,
}

/// Whether there is brokering.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Brokering {
    /// The policy does not ask for it: environments stay as they are.
    #[default]
    Off,
    /// The policy asks for it, and it cannot be done, for this reason.
    Impossible(String),
    /// There is.
    On,
}

/// A child, whose dummies are its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Child(u64);

/// What became of the credentials in an environment.
#[derive(Debug)]
#[must_use = "the child's dummies are valid until the child is released"]
pub struct Virtualized {
    /// Whose dummies they are. They are valid until [`Broker::release`] or a policy that knows nothing of them.
    pub child: Child,
    /// Variables that were set, and what became of each.
    pub variables: Vec<(String, Outcome)>,
}

/// What became of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has a dummy now.
    Dummy,
    /// It had one.
    AlreadyDummy,
    /// It was taken out, since it cannot be brokered, for this reason.
    Withheld(String),
    /// It is as it was: it cannot be brokered, for this reason, and the policy leaves the child the credential then.
    Real(String),
}

impl State {
    /// Variables that children are to have no credential in.
    fn variables(&self) -> impl Iterator<Item = &str> {
        let kinds = if self.brokering == Brokering::Off { &[][..] } else { &self.kinds };
        kinds.iter().flat_map(|kind| &kind.variables).map(String::as_str)
    }
}

/// One that nobody has set up yet: it brokers nothing.
impl Default for Broker {
    fn default() -> Self {
        let state = State {
            brokering: Brokering::Off,
            fallback: BrokerFallback::default(),
            plaintext: false,
            kinds: Vec::new(),
            next_child: OWN + 1,
            own: Dummies::default(),
        };
        Self(Arc::new(Inner { table: ArcSwap::default(), state: Mutex::new(state) }))
    }
}

impl Broker {
    /// A broker that knows no credential yet.
    ///
    /// # Errors
    /// A description of the policy that cannot be used.
    pub fn new(setup: &BrokerSetup) -> Result<Self, CredentialError> {
        let (kinds, error) = kinds(&setup.credentials, setup.openai_base_url.as_deref());
        error.map_or(Ok(()), Err)?;
        let state = State {
            brokering: setup.brokering.clone(),
            fallback: setup.fallback,
            plaintext: setup.dangerously_allow_plaintext,
            kinds,
            next_child: OWN + 1,
            own: Dummies::default(),
        };
        Ok(Self(Arc::new(Inner { table: ArcSwap::default(), state: Mutex::new(state) })))
    }

    /// A broker with the credentials of an environment: the proxy's own. [`Self::dummies`] are for whoever is to go through it.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_environment(setup: &BrokerSetup, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, CredentialError> {
        let broker = Self::new(setup)?;
        broker.adopt(environment);
        Ok(broker)
    }

    /// Follows a new policy. Dummies stay valid where it says the same of their credential as the one before, and end where it does not.
    ///
    /// # Errors
    /// A description that cannot be used, the first if there are several. Children do not get such a credential; the rest of the new policy is in force.
    pub fn configure(&self, setup: &BrokerSetup) -> Result<(), CredentialError> {
        let (mut kinds, error) = kinds(&setup.credentials, setup.openai_base_url.as_deref());
        let mut state = self.state();
        // What is said of records is compared by address below.
        for kind in &mut kinds {
            if let Some(same) = state.kinds.iter().find(|same| *same == kind) {
                *kind = Arc::clone(same);
            }
        }
        state.kinds = kinds;
        state.brokering = setup.brokering.clone();
        state.fallback = setup.fallback;
        state.plaintext = setup.dangerously_allow_plaintext;
        let on = state.brokering == Brokering::On;
        self.retain(&state, |_, record| on && state.kinds.iter().any(|kind| Arc::ptr_eq(kind, &record.kind)));
        error.map_or(Ok(()), Err)
    }

    /// Puts the credentials of the proxy's own environment in place of those that it had before; what did not change keeps its dummy. To be called after [`Self::configure`] too,
    /// where a policy may name other variables. Says what became of each that is set.
    pub fn adopt(&self, environment: impl IntoIterator<Item = (String, String)>) -> Vec<(String, Outcome)> {
        let mut environment: HashMap<String, String> = environment.into_iter().collect();
        let mut state = self.state();
        let outcomes = self.replace(&mut state, &mut environment, OWN);
        let table = self.0.table.load_full();
        let mut own = Dummies { brokered: marker(&state, &environment, &table), ..Dummies::default() };
        for name in state.variables() {
            match environment.get(name) {
                Some(value) if table.dummies().contains_key(value.as_str()) => {
                    own.variables.insert(name.to_owned(), value.clone());
                }
                _ if state.fallback == BrokerFallback::None => {
                    own.withheld.insert(name.to_owned());
                }
                _ => {}
            }
        }
        environment.values_mut().for_each(Zeroize::zeroize);
        self.retain(&state, |dummy, record| {
            record.child != OWN || own.variables.get(&record.variable).is_some_and(|kept| kept.as_str() == dummy)
        });
        state.own = own;
        outcomes
    }

    /// What [`Self::adopt`] found last.
    #[must_use]
    pub fn dummies(&self) -> Dummies {
        self.state().own.clone()
    }

    /// Replaces the credentials in the environment of a child by dummies, and takes out those that cannot be brokered, unless the policy says otherwise. So it does with copies in other
    /// variables, such as in URLs, if the credential has 16 bytes or more. What is a dummy already stays.
    pub fn virtualize<S: BuildHasher>(&self, environment: &mut HashMap<String, String, S>) -> Virtualized {
        let mut state = self.state();
        let child = state.next_child;
        state.next_child = state.next_child.wrapping_add(1).max(OWN + 1);
        let variables = self.replace(&mut state, environment, child);
        remove(environment, ACTIVE);
        remove(environment, BROKERED);
        let marker = marker(&state, environment, &self.0.table.load());
        if !marker.is_empty() {
            environment.insert(ACTIVE.to_owned(), "1".to_owned());
            environment.insert(BROKERED.to_owned(), marker);
        }
        Virtualized { child: Child(child), variables }
    }

    /// Ends the dummies of a child that is no more.
    pub fn release(&self, child: &Child) {
        self.retain(&self.state(), |_, record| record.child != child.0);
    }

    /// Puts credentials back in place of the dummies that are in the variables they came from, for a child that is meant to go without the proxy; wherever else these dummies stand in the
    /// environment and in the command, too.
    pub fn restore<S: BuildHasher>(&self, environment: &mut HashMap<String, String, S>, command: &mut [String]) {
        if value(environment, ACTIVE).is_none_or(|value| value != "1") {
            return;
        }
        let table = self.0.table.load();
        let own = environment.iter().filter_map(|(name, dummy)| {
            let (dummy, record) = table.dummies().get_key_value(dummy.as_str())?;
            is_same(&record.variable, name).then(|| (Arc::clone(dummy), Arc::clone(record)))
        });
        for (dummy, record) in own.collect::<Vec<_>>() {
            let real = std::str::from_utf8(&record.real).unwrap_or_default();
            let variables = environment.iter_mut().filter(|(name, _)| !is_same(name, BROKERED)).map(|(_, value)| value);
            for text in variables.chain(command.iter_mut()).filter(|text| text.contains(&*dummy)) {
                *text = text.replace(&*dummy, real);
            }
        }
    }

    /// Variables that the policy wants children to have no credential in. Whoever passes on values that are no text takes these out.
    #[must_use]
    pub fn variables(&self) -> Vec<String> {
        self.state().variables().map(str::to_owned).collect()
    }

    /// Whether TLS to a host and a port has to be opened for a credential: whether somebody has a dummy for it.
    pub(crate) fn wants(&self, host: &Host, port: u16) -> bool {
        self.0.table.load().wants(host, port)
    }

    /// The fields of a request in which a dummy is presented to the host that it is for, in lower case, as they are to be sent. All others stay as they are.
    ///
    /// Each field is looked at by itself, and stays as it is if it does not present exactly one credential for this place, in the way that this credential is sent, or if the
    /// request has it more than once.
    pub(crate) fn translate(&self, to: &Destination<'_>, headers: &[(&str, &[u8])]) -> Vec<(String, Zeroizing<Vec<u8>>)> {
        self.0.table.load().translate(to, headers)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is whole between any two of its changes.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retain(&self, state: &State, keep: impl Fn(&str, &Record) -> bool) {
        let table = self.0.table.load();
        let dummies = table.dummies().iter().filter(|(dummy, record)| keep(dummy, record));
        let dummies = dummies.map(|(dummy, record)| (Arc::clone(dummy), Arc::clone(record))).collect();
        self.0.table.store(Arc::new(Table::new(dummies, state.plaintext)));
    }

    /// Replaces the credentials in an environment. Says what became of each variable that is set.
    fn replace<S: BuildHasher>(
        &self,
        state: &mut State,
        environment: &mut HashMap<String, String, S>,
        child: u64,
    ) -> Vec<(String, Outcome)> {
        if state.brokering == Brokering::Off {
            return Vec::new();
        }
        let mut dummies = self.0.table.load().dummies().clone();
        let (before, mut random) = (dummies.len(), Random::new());
        let (mut outcomes, mut copies) = (Vec::new(), Vec::new());
        for kind in &state.kinds {
            let binding = kind.binding(|name| value(environment, name).map(String::as_str));
            for variable in &kind.variables {
                let Some(found) = value(environment, variable).filter(|value| !value.trim().is_empty()) else { continue };
                let real = Zeroizing::new(found.trim().to_owned());
                if dummies.contains_key(real.as_str()) {
                    outcomes.push((variable.clone(), Outcome::AlreadyDummy));
                    continue;
                }
                let replaced = match (&state.brokering, &binding) {
                    (Brokering::Impossible(why), _) => Err(why.clone()),
                    (_, Err(unbound)) => Err(unbound.clone()),
                    (_, Ok(binding)) => {
                        let record = Record {
                            kind: Arc::clone(kind),
                            variable: variable.clone(),
                            binding: Arc::clone(binding),
                            real: Zeroizing::new(real.as_bytes().to_vec()),
                            child,
                        };
                        register(&mut dummies, record, &real, &mut random).map_err(str::to_owned)
                    }
                };
                let outcome = match replaced {
                    Err(why) if state.fallback == BrokerFallback::Real => Outcome::Real(why),
                    Err(why) => {
                        remove(environment, variable);
                        copies.push((real, None));
                        Outcome::Withheld(why)
                    }
                    Ok(dummy) => {
                        remove(environment, variable);
                        environment.insert(variable.clone(), dummy.to_string());
                        copies.push((real, Some(dummy)));
                        Outcome::Dummy
                    }
                };
                outcomes.push((variable.clone(), outcome));
            }
        }
        for (real, dummy) in copies.iter().filter(|(real, _)| real.len() >= MIN_COPY) {
            replace_copies(environment, real, dummy.as_deref(), &mut outcomes);
        }
        if dummies.len() != before {
            self.0.table.store(Arc::new(Table::new(dummies, state.plaintext)));
        }
        outcomes
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dummies = self.0.table.load().dummies().len();
        f.debug_struct("Broker").field("dummies", &dummies).finish_non_exhaustive()
    }
}

/// The dummy of a record: a new one, or, in the proxy's own environment, the one that it has.
fn register(
    dummies: &mut HashMap<Arc<str>, Arc<Record>>,
    record: Record,
    real: &str,
    random: &mut Random,
) -> Result<Arc<str>, &'static str> {
    if !is_field_value(real.as_bytes()) {
        return Err("its value cannot stand in a header field");
    }
    if record.child == OWN {
        let same = |other: &&Arc<Record>| {
            other.child == OWN
                && other.variable == record.variable
                && other.kind == record.kind
                && other.binding == record.binding
                && other.real == record.real
        };
        if let Some((dummy, _)) = dummies.iter().find(|(_, other)| same(other)) {
            return Ok(Arc::clone(dummy));
        }
    }
    if dummies.len() >= MAX_DUMMIES {
        return Err("too many children have credentials at once");
    }
    for _ in 0..DRAWS {
        let drawn = dummy(real, &record.kind.shape, random).ok_or("the system has no random numbers")?;
        let is_real = drawn == real || dummies.values().any(|record| *record.real == drawn.as_bytes());
        if !is_real && !dummies.contains_key(drawn.as_str()) {
            let drawn: Arc<str> = drawn.into();
            dummies.insert(Arc::clone(&drawn), Arc::new(record));
            return Ok(drawn);
        }
    }
    Err("the system's random numbers repeat themselves")
}

/// What [`BROKERED`] says of an environment; nothing where there is no brokering.
fn marker<S: BuildHasher>(state: &State, environment: &HashMap<String, String, S>, table: &Table) -> String {
    if state.brokering != Brokering::On {
        return String::new();
    }
    let dummy = |name| value(environment, name).filter(|value| table.dummies().contains_key(value.as_str()));
    let pairs = state.variables().filter_map(|name| Some(serde_json::json!([name, dummy(name)?])));
    serde_json::Value::from_iter(pairs).to_string()
}

/// Puts the dummy in place of a credential in all variables, or takes out those that have it.
fn replace_copies<S: BuildHasher>(
    environment: &mut HashMap<String, String, S>,
    real: &str,
    dummy: Option<&str>,
    outcomes: &mut Vec<(String, Outcome)>,
) {
    let holders: Vec<String> = environment.iter().filter(|(_, value)| value.contains(real)).map(|(name, _)| name.clone()).collect();
    for name in holders {
        let Some(mut value) = environment.remove(&name) else { continue };
        let outcome = match dummy {
            Some(dummy) => {
                environment.insert(name.clone(), value.replace(real, dummy));
                Outcome::Dummy
            }
            None => Outcome::Withheld("it has the value of a credential that is withheld".to_owned()),
        };
        value.zeroize();
        outcomes.push((name, outcome));
    }
}

/// Names of variables are compared as the system does it.
fn is_same(name: &str, other: &str) -> bool {
    if cfg!(windows) { name.eq_ignore_ascii_case(other) } else { name == other }
}

fn value<'e, S: BuildHasher>(environment: &'e HashMap<String, String, S>, name: &str) -> Option<&'e String> {
    if cfg!(windows) {
        return environment.iter().find(|(other, _)| is_same(name, other)).map(|(_, value)| value);
    }
    environment.get(name)
}

/// Takes a variable out, and zeroes what it was.
pub(super) fn remove<S: BuildHasher>(environment: &mut HashMap<String, String, S>, name: &str) {
    if cfg!(windows) {
        environment.retain(|other, _| !is_same(name, other));
    } else if let Some(mut value) = environment.remove(name) {
        value.zeroize();
    }
}
