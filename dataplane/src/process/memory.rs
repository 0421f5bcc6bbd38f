//! Keeps what the process has in memory out of files, and from other processes of its user.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

/// What was done.
pub(crate) struct Protection {
    /// No core dumps, and no other process of this user may trace this one or read its memory or its environment. Linux only.
    #[cfg(target_os = "linux")]
    hidden: Result<(), String>,
    /// No core dumps.
    cores: Result<(), String>,
}

/// Protects the memory of this process, as long as it runs this program. To be called once secrets are in use, and after a change of user, which undoes it; seccomp does not
/// refuse it. Root can still read everything. What it starts is not protected, but for the soft limit of core dumps, which is handed down as 0.
#[must_use]
pub(crate) fn protect_memory() -> Protection {
    let limit = getrlimit(Resource::Core);
    Protection {
        #[cfg(target_os = "linux")]
        hidden: rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).map_err(|error| error.to_string()),
        // The hard limit stays, so that children may have core dumps if they ask for them.
        cores: setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: limit.maximum }).map_err(|error| error.to_string()),
    }
}

impl Protection {
    /// What was wanted and could not be done.
    pub(crate) fn missing(&self) -> Option<String> {
        #[cfg(target_os = "linux")]
        if let Err(error) = &self.hidden {
            return Some(format!("other processes of this user can read the memory: {error}"));
        }
        self.cores.as_ref().err().map(|error| format!("core dumps cannot be switched off: {error}"))
    }

    /// One line for people.
    pub(crate) fn text(&self) -> String {
        match self.missing() {
            Some(missing) => format!("memory: {missing}"),
            None if cfg!(target_os = "linux") => "memory: not in core dumps, closed to other processes of this user".to_owned(),
            None => "memory: not in core dumps".to_owned(),
        }
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> Value {
        #[cfg(target_os = "linux")]
        let hidden = self.hidden.is_ok();
        #[cfg(not(target_os = "linux"))]
        let hidden = false;
        json!({ "core_dumps": !hidden && self.cores.is_err(), "closed_to_others": hidden, "missing": self.missing() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Says that this process is the child, which is protected.
    const CHILD: &str = "NETPROXY_TEST_MEMORY";

    /// The whole process is protected, so that this is a process of its own: this test once more.
    #[test]
    fn memory_is_in_no_core_dump() {
        if std::env::var_os(CHILD).is_some() {
            return protected();
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "process::memory::tests::memory_is_in_no_core_dump"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    }

    fn protected() {
        let before = getrlimit(Resource::Core);
        let protection = protect_memory();
        let after = getrlimit(Resource::Core);
        assert_eq!((after.current, after.maximum), (Some(0), before.maximum));
        assert_eq!(protection.missing(), None);
        #[cfg(target_os = "linux")]
        {
            use std::os::unix::fs::MetadataExt;
            let dumpable = rustix::process::dumpable_behavior().unwrap();
            assert!(dumpable == rustix::process::DumpableBehavior::NotDumpable);
            // Its files in /proc belong to root from now on.
            assert_eq!(std::fs::metadata("/proc/self/environ").unwrap().uid(), 0);
            assert_eq!(protection.text(), "memory: not in core dumps, closed to other processes of this user");
            assert_eq!(protection.json(), json!({ "core_dumps": false, "closed_to_others": true, "missing": null }));
        }
    }
}
