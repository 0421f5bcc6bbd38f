//! What the process gives up once it listens, and what it says of that. It has one thread then; those that it starts inherit all of it.

use super::privileges::{self, Account};
use super::seccomp;
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
    path_beneath_rules,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sandbox {
    /// All of it, or the proxy does not start
    Strict,
    /// What the system has, and says what is missing
    Auto,
    /// None of it
    Off,
}

/// What the system reads for whoever looks names up, checks certificates or loads a library for either; folders, because files in them are replaced.
const SYSTEM: &[&str] = &[
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix/store",
    "/gnu/store",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/pki",
    "/var/lib/ca-certificates",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/nscd",
    "/run/host",
    "/proc/self",
    "/proc/sys",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
];

/// What came of it.
pub(crate) struct Report {
    sandbox: Sandbox,
    user: Option<String>,
    capabilities: Outcome<&'static str>,
    no_new_privileges: Outcome<()>,
    landlock: Outcome<(i32, usize, usize)>,
    seccomp: Outcome<usize>,
}

/// Done; not done, and why; not asked for.
type Outcome<T> = Option<Result<T, String>>;

/// Becomes the user and gives up the rest. `files` are read again later: they, or others by their names. In `folders`, files may be made, written, renamed and removed.
///
/// # Errors
/// The user cannot be become; with [`Sandbox::Strict`], anything else that cannot be done.
pub(crate) fn apply(sandbox: Sandbox, user: Option<&Account>, files: &[&Path], folders: &[PathBuf]) -> Result<Report, String> {
    user.map_or(Ok(()), Account::become_it)?;
    give_up(sandbox, user, files, folders, true)
}

/// Gives up the rest for this thread and those that it starts; the others of the process keep what they have.
///
/// # Errors
/// With [`Sandbox::Strict`], what cannot be done.
pub(crate) fn apply_to_thread(sandbox: Sandbox, files: &[&Path], folders: &[PathBuf]) -> Result<Report, String> {
    give_up(sandbox, None, files, folders, false)
}

fn give_up(sandbox: Sandbox, user: Option<&Account>, files: &[&Path], folders: &[PathBuf], all_threads: bool) -> Result<Report, String> {
    let wanted = sandbox != Sandbox::Off;
    let report = Report {
        sandbox,
        user: user.map(ToString::to_string),
        capabilities: wanted.then(privileges::drop_capabilities),
        no_new_privileges: wanted.then(|| rustix::thread::set_no_new_privs(true).map_err(|error| error.to_string())),
        landlock: wanted.then(|| restrict_files(files, folders)),
        // The last: it refuses the calls that the others are made of.
        seccomp: wanted.then(|| seccomp::apply(all_threads)),
    };
    match report.missing().first() {
        Some(missing) if sandbox == Sandbox::Strict => Err(format!("--sandbox strict: {missing}; `--sandbox auto` goes on without")),
        _ => Ok(report),
    }
}

/// Only what is needed may be read; nothing may be run, and nothing be written, made or removed but in `writable`.
fn restrict_files(files: &[&Path], writable: &[PathBuf]) -> Result<(i32, usize, usize), String> {
    let mut folders: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).filter(|path| path.exists()).collect();
    for file in files {
        // A new file comes by rename or by link: into the folder of its name, or into that of the file that a link leads to.
        let led = std::fs::canonicalize(file).ok();
        folders.extend([Some(*file), led.as_deref()].into_iter().flatten().map(folder));
    }
    // For the lines of a backtrace.
    folders.extend(std::env::current_exe());
    folders.sort();
    folders.dedup();
    let count = folders.len();
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // Truncation is for what a crash left behind.
    let write = read | AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::RemoveFile | AccessFs::Truncate;
    let restricted = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|rules| rules.scope(Scope::Signal))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules(&folders, read)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(writable, write)))
        .and_then(|rules| rules.restrict_self())
        .map_err(|error| error.to_string())?;
    match restricted.landlock {
        LandlockStatus::NotEnabled => Err("landlock is not enabled in this kernel (`lsm=` on its command line)".into()),
        LandlockStatus::NotImplemented => Err("this kernel does not have landlock".into()),
        // Linux 6.2: before that, a file could be truncated.
        LandlockStatus::Available { effective_abi, .. } if effective_abi < ABI::V3 || restricted.ruleset == RulesetStatus::NotEnforced => {
            Err(format!("landlock is at ABI {}, and 3 is the first that covers truncation", effective_abi as i32))
        }
        LandlockStatus::Available { effective_abi, .. } => Ok((effective_abi as i32, count, writable.len())),
    }
}

fn folder(file: &Path) -> PathBuf {
    match file.parent() {
        None => file.to_owned(),
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
    }
}

impl Report {
    /// What was wanted and could not be done, each with its reason.
    fn missing(&self) -> Vec<String> {
        fn reason<T>(outcome: &Outcome<T>) -> Option<&String> {
            outcome.as_ref().and_then(|outcome| outcome.as_ref().err())
        }
        let all = [
            ("capabilities", reason(&self.capabilities)),
            ("no new privileges", reason(&self.no_new_privileges)),
            ("landlock", reason(&self.landlock)),
            ("seccomp", reason(&self.seccomp)),
        ];
        all.into_iter().filter_map(|(name, reason)| reason.map(|reason| format!("{name} cannot be applied: {reason}"))).collect()
    }

    /// One line for people.
    pub(crate) fn text(&self) -> String {
        let mut parts: Vec<String> = self.user.iter().map(|user| format!("user {user}")).collect();
        if self.sandbox == Sandbox::Off {
            parts.push("off".into());
        }
        match &self.capabilities {
            Some(Ok("none")) => parts.push("no capabilities".into()),
            Some(Ok(_)) => parts.push("root, with no capabilities but for files".into()),
            _ => {}
        }
        if let Some(Ok(())) = self.no_new_privileges {
            parts.push("no new privileges".into());
        }
        if let Some(Ok((abi, folders, writable))) = self.landlock {
            let writes = if writable == 0 { "none".to_owned() } else { writable.to_string() };
            parts.push(format!("landlock ABI {abi} (reads {folders} places, writes {writes})"));
        }
        if let Some(Ok(calls)) = self.seccomp {
            parts.push(format!("seccomp ({calls} calls refused)"));
        }
        parts.extend(self.missing());
        format!("sandbox: {}", parts.join(", "))
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "mode": match self.sandbox { Sandbox::Strict => "strict", Sandbox::Auto => "auto", Sandbox::Off => "off" },
            "user": self.user,
            "capabilities": self.capabilities.as_ref().and_then(|outcome| outcome.as_ref().ok()),
            "no_new_privileges": matches!(self.no_new_privileges, Some(Ok(()))),
            "landlock_abi": self.landlock.as_ref().and_then(|outcome| outcome.as_ref().ok()).map(|(abi, ..)| abi),
            "seccomp": matches!(self.seccomp, Some(Ok(_))),
            "missing": self.missing(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::process::Command;

    /// Says that this process is the child, which gives everything up, and where its files are.
    const CHILD: &str = "NETPROXY_TEST_SANDBOX_FILES";

    /// All threads of a process are restricted, so that this is a process of its own: this test once more.
    #[test]
    fn what_is_given_up_is_gone() {
        if let Some(folder) = std::env::var_os(CHILD) {
            return restricted(Path::new(&folder));
        }
        let folder = tempfile::tempdir().unwrap();
        for place in ["policy", "elsewhere", "logs"] {
            fs::create_dir(folder.path().join(place)).unwrap();
            fs::write(folder.path().join(place).join("file"), "text").unwrap();
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "process::sandbox::tests::what_is_given_up_is_gone"])
            .env(CHILD, folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(!folder.path().join("policy/new").exists());
    }

    fn restricted(folder: &Path) {
        let policy = folder.join("policy/file");
        let logs = folder.join("logs");
        let report = apply(Sandbox::Auto, None, &[&policy], std::slice::from_ref(&logs)).unwrap();
        let refused = |error: std::io::Error| error.raw_os_error() == Some(Errno::PERM.raw_os_error());
        if let Some(Ok(_)) = report.landlock {
            assert_eq!(fs::read_to_string(&policy).unwrap(), "text");
            assert_eq!(File::open(folder.join("elsewhere/file")).unwrap_err().kind(), ErrorKind::PermissionDenied);
            assert_eq!(File::create(folder.join("policy/new")).unwrap_err().kind(), ErrorKind::PermissionDenied);
            assert_eq!(fs::remove_file(&policy).unwrap_err().kind(), ErrorKind::PermissionDenied);
            assert!(fs::read_to_string("/etc/hosts").is_ok(), "names are still looked up");
            // What a log needs that is rotated.
            fs::write(logs.join("new"), "text").unwrap();
            fs::rename(logs.join("new"), logs.join("old")).unwrap();
            File::options().write(true).open(logs.join("old")).unwrap().set_len(1).unwrap();
            fs::remove_file(logs.join("old")).unwrap();
            assert!(fs::rename(logs.join("file"), folder.join("policy/moved")).is_err());
        } else {
            println!("skipped: landlock: {}", report.text());
        }
        if let Some(Ok(_)) = report.seccomp {
            use rustix::net::{AddressFamily, SocketType, socket};
            // No program, no process; threads, as before.
            assert!(refused(Command::new("/bin/true").spawn().unwrap_err()));
            assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
            assert_eq!(socket(AddressFamily::PACKET, SocketType::DGRAM, None).unwrap_err(), Errno::PERM);
            assert!(socket(AddressFamily::INET6, SocketType::STREAM, None).is_ok());
            assert!(refused(std::os::unix::fs::chown(&policy, None, None).unwrap_err()));
            assert!(Account::find("1:1").unwrap().become_it().is_err(), "no other user");
            assert!(!fs::read_to_string("/proc/self/status").unwrap().contains("Seccomp:\t0"));
        } else {
            println!("skipped: seccomp: {}", report.text());
        }
        assert!(rustix::thread::no_new_privs().unwrap());
    }
}
