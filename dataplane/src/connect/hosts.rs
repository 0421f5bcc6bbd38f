//! Names that files give, in hosts(5) format.

use crate::policy::reload::Stamp;
use std::collections::HashMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the system's file is taken for what it was.
const FRESH: Duration = Duration::from_secs(1);
/// What is read of the system's file, at most.
const LONGEST: u64 = 64 << 20;

type Table = HashMap<String, Vec<IpAddr>>;

/// Names that come before every resolver: those of a file that was named, then those of the system's own file, which may change at any time.
#[derive(Default)]
pub(crate) struct Hosts {
    given: Table,
    system: Option<SystemFile>,
}

struct SystemFile {
    path: PathBuf,
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    looked: Option<Instant>,
    stamp: Option<Stamp>,
    table: Table,
}

impl Hosts {
    /// The system's names alone.
    pub(crate) fn of_system() -> Self {
        Self { given: Table::new(), system: system_path().map(SystemFile::new) }
    }

    /// Puts the names of a file before them. The file is read once, and has to be right.
    pub(crate) fn read(&mut self, path: &Path) -> Result<(), String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        for (number, line) in (1..).zip(text.lines()) {
            let Some((address, names)) = fields(line) else { continue };
            let address: IpAddr = address.parse().map_err(|_| format!("line {number}: `{address}` is not an address"))?;
            for name in names {
                let host = policy_format::Host::parse(name).map_err(|error| format!("line {number}: `{name}`: {error}"))?;
                self.given.entry(host.to_string()).or_default().push(address);
            }
        }
        Ok(())
    }

    /// The addresses that a file gives for a normalised name.
    pub(crate) fn find(&self, name: &str) -> Option<Vec<IpAddr>> {
        self.given.get(name).cloned().or_else(|| self.system.as_ref()?.find(name))
    }
}

impl SystemFile {
    fn new(path: PathBuf) -> Self {
        Self { path, content: Mutex::default() }
    }

    fn find(&self, name: &str) -> Option<Vec<IpAddr>> {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        if content.looked.is_none_or(|looked| looked.elapsed() >= FRESH) {
            content.looked = Some(Instant::now());
            // The stamp is taken before the file is read, so that no change between the two is missed.
            let stamp = Stamp::of(&self.path);
            if stamp != content.stamp {
                content.table = table(&self.path);
                content.stamp = stamp;
            }
        }
        content.table.get(name).cloned()
    }
}

/// The names of the system's file. As everywhere, lines that cannot be read are passed over, and a file that cannot be is empty.
fn table(path: &Path) -> Table {
    let mut text = Vec::new();
    let mut table = Table::new();
    if std::fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut text)).is_err() {
        return table;
    }
    for (address, names) in String::from_utf8_lossy(&text).lines().filter_map(fields) {
        let Ok(address) = address.parse::<IpAddr>() else { continue };
        for name in names {
            let addresses = table.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    table
}

/// The address and the names of a line.
fn fields(line: &str) -> Option<(&str, std::str::SplitWhitespace<'_>)> {
    let mut fields = line.split('#').next().unwrap_or_default().split_whitespace();
    Some((fields.next()?, fields))
}

#[cfg(not(windows))]
fn system_path() -> Option<PathBuf> {
    Some(PathBuf::from("/etc/hosts"))
}

#[cfg(windows)]
fn system_path() -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("SystemRoot")?).join(r"System32\drivers\etc\hosts"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_file_that_was_named_comes_before_the_systems() {
        let dir = tempfile::tempdir().unwrap();
        let (system, given) = (dir.path().join("system"), dir.path().join("given"));
        std::fs::write(&system, "192.0.2.1 A.test. b.test\nfe80::1%lo0 b.test\n192.0.2.1 b.test # c.test\n192.0.2.2 b.test\n").unwrap();
        std::fs::write(&given, "127.0.0.9 A.test # b.test\n\n::1 a.test.\n").unwrap();
        let mut hosts = Hosts { given: Table::new(), system: Some(SystemFile::new(system)) };
        assert_eq!(hosts.find("a.test").unwrap(), ips(&["192.0.2.1"]));
        hosts.read(&given).unwrap();
        assert_eq!(hosts.find("a.test").unwrap(), ips(&["127.0.0.9", "::1"]));
        assert_eq!(hosts.find("b.test").unwrap(), ips(&["192.0.2.1", "192.0.2.2"]));
        assert_eq!(hosts.find("c.test"), None);
    }

    #[test]
    fn a_file_that_was_named_has_to_be_right() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        std::fs::write(&file, "\nlocal a.test\n").unwrap();
        assert_eq!(Hosts::default().read(&file), Err("line 2: `local` is not an address".into()));
    }

    #[test]
    fn the_systems_file_is_read_again_when_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        let file = SystemFile::new(path.clone());
        assert_eq!(file.find("a.test"), None);
        std::fs::write(&path, "192.0.2.1 a.test\n").unwrap();
        assert_eq!(file.find("a.test"), None, "it was looked at a moment ago");
        file.content.lock().unwrap().looked = None;
        assert_eq!(file.find("a.test").unwrap(), ips(&["192.0.2.1"]));
        std::fs::remove_file(&path).unwrap();
        file.content.lock().unwrap().looked = None;
        assert_eq!(file.find("a.test"), None);
    }
}
