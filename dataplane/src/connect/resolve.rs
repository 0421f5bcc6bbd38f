//! Names to addresses.
//!
//! Files come first, then what is kept of earlier answers, then whoever is asked: the system's resolver, or the name servers of the policy.

use super::cache::Cache;
use super::dns::Dns;
use super::hosts::Hosts;
use crate::policy::{PolicyHandle, Snapshot};
use crate::tls::roots::Trust;
use arc_swap::ArcSwap;
use policy_format::{Limits, NameServer};
use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What `localhost` and the names below it are, without asking anyone (RFC 6761, section 6.3).
pub(crate) const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The system does not say how long its answers hold. Long enough for a client that opens many connections at once, and as short as a time to live can be.
const SYSTEM_KEEPS: Duration = Duration::from_secs(1);

/// Addresses of a name, at most. All of them are decided on, so that none is left out: a name that has more has no answer that can be used.
pub(crate) const ADDRESSES: usize = 256;

/// A lookup under way.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Looks names up. Asked only for names that the policy allows; what it answers is decided on before it is used.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `name`, which is normalised: lower case, A-labels, no trailing dot. They are tried in this order, but for the two families taking turns; as many as
    /// [`Limits::addresses`] says. All of them are decided on, and more than 256 are as good as no answer.
    /// An error of the kind [`TimedOut`](io::ErrorKind::TimedOut) is told to the client as one.
    fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a>;
}

/// Why there are no addresses. Never a reason to allow anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("there is no such name, or it has no address")]
    NotFound,
    #[error("no name server gave an answer that can be used")]
    NoServer,
    #[error("no name server answered in time")]
    TimedOut,
}

impl Failure {
    /// The one that an error stands for, if it is one of these.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref()).copied()
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        let kind = match failure {
            Failure::NotFound => io::ErrorKind::NotFound,
            Failure::NoServer => io::ErrorKind::Other,
            Failure::TimedOut => io::ErrorKind::TimedOut,
        };
        Self::new(kind, failure)
    }
}

/// What a lookup came to.
pub(crate) type Answer = Result<Arc<[IpAddr]>, Failure>;

/// An answer, and how long it may be given again without asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) answer: Answer,
    pub(crate) keep: Duration,
}

/// Who is asked when nothing is known.
pub(crate) trait Ask: Send + Sync + 'static {
    /// Asks for `name`. The permit is given back when the work is done, which may be after the future was dropped.
    fn ask(&self, name: &str, permit: OwnedSemaphorePermit) -> impl Future<Output = Found> + Send;
}

/// The system's resolver, behind names that files give. Nothing is kept: each lookup asks.
pub struct SystemResolver {
    hosts: Hosts,
    lookups: Arc<Semaphore>,
}

impl SystemResolver {
    /// The system's resolver, with at most `lookups` lookups at once.
    #[must_use]
    pub fn new(lookups: usize) -> Self {
        Self { hosts: Hosts::of_system(), lookups: Arc::new(Semaphore::new(lookups)) }
    }

    /// Puts the names of a file in hosts(5) format before the system's.
    ///
    /// # Errors
    /// What is wrong with the file, and in which line.
    pub fn with_hosts(mut self, path: &Path) -> Result<Self, String> {
        self.hosts.read(path)?;
        Ok(self)
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        if let Some(addresses) = self.hosts.find(name) {
            return Box::pin(std::future::ready(Ok(addresses)));
        }
        Box::pin(async move {
            let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(io::Error::other)?;
            look_up(name, permit).await
        })
    }
}

/// The system's resolver as it is.
struct System;

impl Ask for System {
    async fn ask(&self, name: &str, permit: OwnedSemaphorePermit) -> Found {
        found(look_up(name, permit).await)
    }
}

/// What the system's answer comes to.
fn found(looked_up: io::Result<Vec<IpAddr>>) -> Found {
    let failure = match looked_up {
        Ok(addresses) if !addresses.is_empty() => return Found { answer: Ok(addresses.into()), keep: SYSTEM_KEEPS },
        Ok(_) => None,
        Err(error) => Failure::of(&error),
    };
    // The system does not say whether there is no such name, or nobody who knows.
    Found { answer: Err(failure.unwrap_or(Failure::NotFound)), keep: Duration::ZERO }
}

/// The system's own answer for exactly this name. A name with a dot is asked for with one at its end: a search list would make another name of it, which nobody decided
/// on. The system's hosts file does not know such names, so that whoever asks has looked there before.
async fn look_up(name: &str, permit: OwnedSemaphorePermit) -> io::Result<Vec<IpAddr>> {
    let absolute = if cfg!(unix) && name.contains('.') { format!("{name}.") } else { name.to_owned() };
    // The permit goes with the lookup, which cannot be cancelled, and not with who waits for it, who can.
    let looked_up = tokio::task::spawn_blocking(move || {
        let found = (absolute.as_str(), 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect());
        drop(permit);
        found
    });
    Ok(distinct(looked_up.await.map_err(io::Error::other)??)?)
}

/// The addresses of an answer, without those that were there before; unless there are too many.
pub(crate) fn distinct(mut addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, Failure> {
    if addresses.len() > 1 {
        let mut seen = HashSet::with_capacity(addresses.len());
        addresses.retain(|address| seen.insert(*address));
    }
    if addresses.len() > ADDRESSES { Err(Failure::NoServer) } else { Ok(addresses) }
}

/// Name servers, asked in their order, behind names that files give and a cache that keeps answers for their time to live.
pub struct NameServers {
    hosts: Hosts,
    cache: Cache<Dns>,
}

impl NameServers {
    /// Asks these servers. [`Limits::resolve_timeout`], [`Limits::lookups`] and [`Limits::cache_names`] hold. Those that are asked by HTTPS are held against the authorities that the
    /// environment of this process names, or else the system's.
    ///
    /// # Errors
    /// Which server is written wrongly, and how.
    pub fn new(servers: &[NameServer], limits: &Limits) -> Result<Self, String> {
        let dns = Dns::new(servers, limits.resolve_timeout, &Arc::default())?;
        Ok(Self { hosts: Hosts::of_system(), cache: Cache::new(dns, limits) })
    }
}

impl Resolve for NameServers {
    fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        match self.hosts.find(name) {
            Some(addresses) => Box::pin(std::future::ready(Ok(addresses))),
            None => self.cache.resolve(name),
        }
    }
}

/// The resolver that the policy in force asks for.
pub(crate) struct PolicyResolver {
    policy: PolicyHandle,
    trust: Arc<Trust>,
    hosts: Hosts,
    chosen: ArcSwap<Chosen>,
}

/// What a policy says about looking names up.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Choice {
    servers: Vec<NameServer>,
    lookups: usize,
    cache_names: usize,
    patience: Duration,
}

struct Chosen {
    generation: u64,
    choice: Choice,
    resolver: Arc<dyn Resolve>,
}

impl Choice {
    fn of(snapshot: &Snapshot) -> Self {
        let limits = snapshot.limits();
        Self {
            servers: snapshot.settings().resolver.clone(),
            lookups: limits.lookups,
            cache_names: limits.cache_names,
            patience: limits.resolve_timeout,
        }
    }

    /// Nobody is asked when a server is written wrongly: the system's resolver might give other answers than those that were asked for.
    fn resolver(&self, limits: &Limits, trust: &Arc<Trust>) -> Arc<dyn Resolve> {
        if self.servers.is_empty() {
            return Arc::new(Cache::new(System, limits));
        }
        match Dns::new(&self.servers, self.patience, trust) {
            Ok(dns) => Arc::new(Cache::new(dns, limits)),
            Err(_) => Arc::new(Nobody),
        }
    }
}

impl PolicyResolver {
    /// Looks names up as the policy in force says, behind the system's hosts file. Name servers that are asked by HTTPS are held against `trust`.
    pub(crate) fn new(policy: PolicyHandle, trust: Arc<Trust>) -> Self {
        let snapshot = policy.current();
        let choice = Choice::of(&snapshot);
        let resolver = choice.resolver(snapshot.limits(), &trust);
        let chosen = ArcSwap::from_pointee(Chosen { generation: snapshot.generation(), choice, resolver });
        Self { policy, trust, hosts: Hosts::of_system(), chosen }
    }

    /// Puts the names of a file in hosts(5) format before all.
    pub(crate) fn with_hosts(mut self, path: &Path) -> Result<Self, String> {
        self.hosts.read(path)?;
        Ok(self)
    }

    /// What was chosen, or what a newer policy chooses. What is kept of answers stays where the policy says the same as before.
    fn chosen(&self) -> Arc<Chosen> {
        let chosen = self.chosen.load_full();
        let snapshot = self.policy.current();
        if snapshot.generation() <= chosen.generation {
            return chosen;
        }
        let choice = Choice::of(&snapshot);
        let resolver = if choice == chosen.choice { Arc::clone(&chosen.resolver) } else { choice.resolver(snapshot.limits(), &self.trust) };
        let next = Arc::new(Chosen { generation: snapshot.generation(), choice, resolver });
        // Where two do so at once, one of them makes it.
        let before = self.chosen.compare_and_swap(&chosen, Arc::clone(&next));
        if Arc::ptr_eq(&before, &chosen) { next } else { self.chosen.load_full() }
    }
}

impl Resolve for PolicyResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        if let Some(addresses) = self.hosts.find(name) {
            return Box::pin(std::future::ready(Ok(addresses)));
        }
        let chosen = self.chosen();
        Box::pin(async move { chosen.resolver.resolve(name).await })
    }
}

/// Finds nothing.
struct Nobody;

impl Resolve for Nobody {
    fn resolve<'a>(&'a self, _: &'a str) -> Lookup<'a> {
        Box::pin(std::future::ready(Err(Failure::NoServer.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    fn choice(servers: Vec<NameServer>) -> Choice {
        Choice { servers, lookups: 1, cache_names: 1, patience: Duration::from_secs(1) }
    }

    #[tokio::test]
    async fn names_of_the_file_come_before_the_systems() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        std::fs::write(&file, "127.0.0.9 A.test b.test # c.test\n\n::1 a.test.\n").unwrap();
        let expected: [IpAddr; 2] = ["127.0.0.9".parse().unwrap(), "::1".parse().unwrap()];
        let system = SystemResolver::new(1).with_hosts(&file).unwrap();
        assert_eq!(system.resolve("a.test").await.unwrap(), expected);
        let policy = PolicyHandle::new(Policy::built_in().unwrap(), Vec::new(), Arc::new(crate::audit::event::Silent));
        let names = PolicyResolver::new(policy, Arc::default()).with_hosts(&file).unwrap();
        assert_eq!(names.resolve("a.test").await.unwrap(), expected);
        std::fs::write(&file, "\nlocal a.test\n").unwrap();
        assert_eq!(SystemResolver::new(1).with_hosts(&file).err().unwrap(), "line 2: `local` is not an address");
    }

    #[tokio::test]
    async fn a_server_that_is_written_wrongly_is_not_replaced_by_the_system() {
        let nobody = choice(vec![NameServer::Https("http://dns.example/".into())]).resolver(&Limits::default(), &Arc::default());
        // The system knows this one.
        let error = nobody.resolve("localhost").await.unwrap_err();
        assert_eq!(error.to_string(), Failure::NoServer.to_string());
    }

    #[test]
    fn another_policy_has_its_own_servers_and_the_same_choice_keeps_what_is_known() {
        let policy = PolicyHandle::new(Policy::built_in().unwrap(), Vec::new(), Arc::new(crate::audit::event::Silent));
        let names = PolicyResolver::new(policy.clone(), Arc::default());
        let first = names.chosen();
        assert!(Arc::ptr_eq(&first, &names.chosen()), "nothing changed");
        policy.swap(Policy::built_in().unwrap());
        let second = names.chosen();
        assert_eq!(second.generation, 2);
        assert!(Arc::ptr_eq(&first.resolver, &second.resolver), "the new policy says the same");
        // What was in force said something else.
        let other = choice(vec![NameServer::Dns(([192, 0, 2, 53], 53).into())]);
        let resolver = other.resolver(&Limits::default(), &Arc::default());
        names.chosen.store(Arc::new(Chosen { generation: 2, choice: other, resolver: Arc::clone(&resolver) }));
        assert!(Arc::ptr_eq(&names.chosen().resolver, &resolver));
        policy.swap(Policy::built_in().unwrap());
        assert!(!Arc::ptr_eq(&names.chosen().resolver, &resolver), "a new policy with other servers");
        assert_eq!(names.chosen().choice, first.choice);
    }

    #[test]
    fn each_address_is_there_once_and_not_too_many_are() {
        let ip = |last| IpAddr::from([192, 0, 2, last]);
        assert_eq!(distinct(vec![ip(2), ip(1), ip(2), ip(1), ip(3)]), Ok(vec![ip(2), ip(1), ip(3)]));
        let all: Vec<IpAddr> = (0..=255).map(ip).collect();
        assert_eq!(distinct([all.clone(), all.clone()].concat()), Ok(all.clone()));
        assert_eq!(distinct([all, vec![LOOPBACK[0]]].concat()), Err(Failure::NoServer));
    }

    #[test]
    fn what_the_system_says_is_an_answer_or_none() {
        let nothing = |failure| Found { answer: Err(failure), keep: Duration::ZERO };
        assert_eq!(found(Ok(LOOPBACK.to_vec())), Found { answer: Ok(LOOPBACK.into()), keep: SYSTEM_KEEPS });
        assert_eq!(found(Ok(Vec::new())), nothing(Failure::NotFound));
        assert_eq!(found(Err(io::ErrorKind::Other.into())), nothing(Failure::NotFound));
        assert_eq!(found(Err(Failure::NoServer.into())), nothing(Failure::NoServer));
    }
}
