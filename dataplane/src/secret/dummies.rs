//! `Dummies`: what those get who go through a running proxy, as a file that only its owner reads. No credential is in it.

use super::broker::{ACTIVE, BROKERED, MIN_COPY, remove};
use crate::private::{self, Links};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::BuildHasher;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Bytes that a file with dummies may have.
const MAX_FILE: u64 = 1 << 20;

/// Variables with dummies, and variables that are to have nothing. Whoever has the dummies can use the credentials, as long as the proxy runs and through it alone: they are
/// for one user, and are shown to nobody by `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Dummies {
    /// Variables, and the dummy of each.
    pub variables: BTreeMap<String, String>,
    /// Variables that children are not to have.
    pub withheld: BTreeSet<String>,
    /// What tells a child which variables have dummies.
    pub(super) brokered: String,
}

/// Why a file with dummies cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the file with the dummies of credentials, `{path}`: {what}")]
pub struct DummiesError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub what: String,
}

impl fmt::Debug for Dummies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.variables.keys().collect();
        f.debug_struct("Dummies").field("variables", &names).field("withheld", &self.withheld).finish_non_exhaustive()
    }
}

impl Dummies {
    /// Puts the dummies into an environment, and takes out what is not to be there. So it does with copies in other variables, if what they are copies of has 16 bytes or more.
    pub fn apply<S: BuildHasher>(&self, environment: &mut HashMap<String, String, S>) {
        let names = self.variables.keys().chain(&self.withheld);
        let copied = names.filter_map(|name| {
            let real = environment.get(name)?.trim();
            let dummy = self.variables.get(name).cloned();
            (real.len() >= MIN_COPY && dummy.as_deref() != Some(real)).then(|| (Zeroizing::new(real.to_owned()), dummy))
        });
        for (real, dummy) in copied.collect::<Vec<_>>() {
            environment.retain(|_, value| dummy.is_some() || !value.contains(&*real));
            for value in environment.values_mut().filter(|value| value.contains(&*real)) {
                *value = value.replace(&*real, dummy.as_deref().unwrap_or_default());
            }
        }
        for name in self.withheld.iter().map(String::as_str).chain([ACTIVE, BROKERED]) {
            remove(environment, name);
        }
        for (name, dummy) in self.assignments() {
            remove(environment, name);
            environment.insert(name.to_owned(), dummy.to_owned());
        }
    }

    /// All variables that are set, those included that say what the others are.
    pub fn assignments(&self) -> impl Iterator<Item = (&str, &str)> {
        let markers = (!self.brokered.is_empty()).then_some([(ACTIVE, "1"), (BROKERED, self.brokered.as_str())]);
        self.variables.iter().map(|(name, dummy)| (name.as_str(), dummy.as_str())).chain(markers.into_iter().flatten())
    }

    /// Writes a file that only its owner reads, in place of the one that is there.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, path: &Path) -> Result<(), DummiesError> {
        self.write_file(path).map_err(|error| DummiesError { path: path.to_owned(), what: format!("cannot be written: {error}") })
    }

    fn write_file(&self, path: &Path) -> io::Result<()> {
        let json = json!({ "version": 1, "variables": self.variables, "withheld": self.withheld, "brokered": self.brokered });
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let temporary = path.with_file_name(name);
        // One that is left of a process that had this number.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = options.open(&temporary).and_then(|mut file| file.write_all(json.to_string().as_bytes()));
        written.and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    /// Reads what [`Self::write`] wrote. The file has to belong to this user or to root, and to be closed to others: who writes it decides what this user's commands send.
    ///
    /// # Errors
    /// It cannot be read, is open to others, or is not such a file.
    pub fn read(path: &Path) -> Result<Self, DummiesError> {
        let failed = |what: String| DummiesError { path: path.to_owned(), what };
        let mut bytes = Vec::new();
        let file = private::open(path, Links::Refused).map_err(|error| failed(format!("cannot be read: {error}")))?;
        check(&file).map_err(failed)?;
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| failed(format!("cannot be read: {error}")))?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(failed(format!("has more than {MAX_FILE} bytes")));
        }
        Self::from_json(&bytes).ok_or_else(|| failed("is not what this version writes; start the proxy anew".to_owned()))
    }

    fn from_json(bytes: &[u8]) -> Option<Self> {
        let json: Value = serde_json::from_slice(bytes).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        (json.get("version")? == 1).then_some(())?;
        Some(Self {
            variables: json
                .get("variables")?
                .as_object()?
                .iter()
                .map(|(name, dummy)| Some((variable(name)?, text(dummy)?)))
                .collect::<Option<_>>()?,
            withheld: json.get("withheld")?.as_array()?.iter().map(|name| variable(name.as_str()?)).collect::<Option<_>>()?,
            brokered: text(json.get("brokered")?)?,
        })
    }
}

/// The name of a variable: shells read these, and must not read anything else in them.
fn variable(name: &str) -> Option<String> {
    let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    (starts && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')).then(|| name.to_owned())
}

fn check(file: &File) -> Result<(), String> {
    let metadata = file.metadata().map_err(|error| format!("cannot be looked at: {error}"))?;
    if !metadata.is_file() {
        return Err("is no file".to_owned());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let user = rustix::process::geteuid().as_raw();
        if metadata.uid() != user && metadata.uid() != 0 {
            return Err(format!("belongs to user {}, not to {user}", metadata.uid()));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(format!("is open to others (mode {:04o}); start the proxy anew", metadata.mode() & 0o7777));
        }
    }
    Ok(())
}
