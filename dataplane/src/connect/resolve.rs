//! Names to addresses.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What `localhost` and the names below it are, without asking anyone (RFC 6761, section 6.3).
pub(crate) const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// A lookup under way.
pub type Lookup<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Looks names up. Asked only for names that the policy allows; what it answers is decided on before it is used.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `name`, which is normalised: lower case, A-labels, no trailing dot.
    fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a>;
}

/// The system's resolver, behind names that a file gives.
pub struct SystemResolver {
    hosts: HashMap<String, Vec<IpAddr>>,
    lookups: Arc<Semaphore>,
}

impl SystemResolver {
    /// The system's resolver, with at most `lookups` lookups at once.
    #[must_use]
    pub fn new(lookups: usize) -> Self {
        Self { hosts: HashMap::new(), lookups: Arc::new(Semaphore::new(lookups)) }
    }

    /// Puts the names of a file in hosts(5) format before the system's.
    ///
    /// # Errors
    /// What is wrong with the file, and in which line.
    pub fn with_hosts(mut self, path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        for (number, line) in (1..).zip(text.lines()) {
            let Some((address, fields)) = hosts_line(line) else { continue };
            let address: IpAddr = address.parse().map_err(|_| format!("line {number}: `{address}` is not an address"))?;
            for name in fields {
                let host = policy_format::Host::parse(name).map_err(|error| format!("line {number}: `{name}`: {error}"))?;
                self.hosts.entry(host.to_string()).or_default().push(address);
            }
        }
        Ok(self)
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        if let Some(addresses) = self.hosts.get(name) {
            let addresses = addresses.clone();
            return Box::pin(async move { Ok(addresses) });
        }
        let (lookups, name) = (Arc::clone(&self.lookups), name.to_owned());
        Box::pin(async move {
            // The permit goes with the lookup, which cannot be cancelled, and not with the request, which can.
            let permit = lookups.acquire_owned().await.map_err(io::Error::other)?;
            let looked_up = tokio::task::spawn_blocking(move || {
                let found = look_up(&name);
                drop(permit);
                found
            });
            let mut addresses: Vec<IpAddr> = looked_up.await.map_err(io::Error::other)??;
            let mut seen = std::collections::HashSet::new();
            addresses.retain(|address| seen.insert(*address));
            Ok(addresses)
        })
    }
}

/// The system's own answer for exactly this name. A name with a dot is asked for as it is: a search list would make another name of it, which nobody decided on. The
/// system's hosts file comes first, because it does not know names that end in the dot that says so.
fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    let ask = |name: &str| (name, 0).to_socket_addrs().map(|found| found.map(|address| address.ip()).collect());
    if cfg!(not(unix)) || !name.contains('.') {
        return ask(name);
    }
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = hosts.lines().filter_map(hosts_line).filter(|(_, names)| names.clone().any(|found| found.eq_ignore_ascii_case(name)));
    let found: Vec<IpAddr> = lines.filter_map(|(address, _)| address.parse().ok()).collect();
    if found.is_empty() { ask(&format!("{name}.")) } else { Ok(found) }
}

/// The address and the names of a line in hosts(5) format.
fn hosts_line(line: &str) -> Option<(&str, std::str::SplitWhitespace<'_>)> {
    let mut fields = line.split('#').next().unwrap_or_default().split_whitespace();
    Some((fields.next()?, fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_of_the_file_come_before_the_systems() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        std::fs::write(&file, "127.0.0.9 A.test b.test # c.test\n\n::1 a.test.\n").unwrap();
        let resolver = SystemResolver::new(1).with_hosts(&file).unwrap();
        let found = resolver.resolve("a.test").await.unwrap();
        assert_eq!(found, ["127.0.0.9".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
        std::fs::write(&file, "\nlocal a.test\n").unwrap();
        assert_eq!(SystemResolver::new(1).with_hosts(&file).err().unwrap(), "line 2: `local` is not an address");
    }
}
