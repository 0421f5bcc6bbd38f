//! The two real binaries, built once.

use crate::client::Metrics;
use crate::{PATIENCE, wait_until};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};

/// Where a binary is. Cargo tells that only to tests of the binary's own package, so both are built here, with the profile of the tests.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // target/PROFILE/deps/suite-HASH
        let exe = std::env::current_exe().unwrap();
        let folder = exe.ancestors().nth(2).unwrap().to_owned();
        let profile = folder.file_name().unwrap().to_str().unwrap();
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "-p", "policy-compiler", "-p", "dataplane", "--bins"]);
        // Dependencies whose build looks at these would be built anew each time.
        let of_tests = |name: &str| name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_tests)) {
            cargo.env_remove(name);
        }
        if profile != "debug" {
            cargo.args(["--profile", profile]);
        }
        cargo.arg("--target-dir").arg(folder.parent().unwrap());
        let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().expect("cargo runs");
        assert!(status.success(), "the binaries do not build");
        folder
    });
    folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// Runs `netpolicy`, with no layers but those that are named and no places of this machine.
#[must_use]
pub fn netpolicy(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(path("netpolicy"));
    command.args(args).current_dir(dir).env("CODEX_HOME", dir.join("no-such-home")).env("NO_COLOR", "1");
    command.output().expect("netpolicy runs")
}

/// Compiles a user layer to a file with the real binary.
pub fn compile_to(toml: &str, to: &Path) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.toml"), toml).unwrap();
    let output = netpolicy(dir.path(), &["compile", "--user", "config.toml", "-o", to.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The authority of the proxy whose state folder this is, as PEM.
#[must_use]
pub fn authority_in(state: &Path) -> String {
    let is_authority = |name: &str| name.starts_with("ca-") && !name.starts_with("ca-bundle-") && name.ends_with(".pem");
    let files = std::fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = files.filter(|path| is_authority(path.file_name().unwrap().to_str().unwrap())).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    std::fs::read_to_string(found.remove(0)).unwrap()
}

/// A running `netproxy-dp`; killed when it is dropped.
pub struct DataPlane {
    child: Child,
    lines: Mutex<Receiver<serde_json::Value>>,
    said: Arc<Mutex<String>>,
    http: SocketAddr,
    socks5: Option<SocketAddr>,
    admin: SocketAddr,
}

/// Takes the variables that name proxies out of a command's environment.
pub fn without_proxies(command: &mut Command) -> &mut Command {
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "WS_PROXY", "WSS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    command
}

/// Flags that let the system choose the ports.
pub const FREE_PORTS: [&str; 7] =
    ["--json", "--http-listen", "127.0.0.1:0", "--socks-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];

/// A state folder for the proxies of this process.
fn state_dir() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

impl DataPlane {
    /// Starts it and waits until it says where it listens.
    #[must_use]
    pub fn start(args: &[&str]) -> Self {
        Self::start_in(args, &[])
    }

    /// The same with environment variables. Those that name proxies are not inherited.
    #[must_use]
    pub fn start_in(args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(path("netproxy-dp"));
        // What it says of itself to children goes where nobody else looks, unless a test looks there.
        without_proxies(&mut command).env("NETPROXY_STATE_DIR", state_dir());
        command.args(FREE_PORTS).args(args).envs(variables.iter().copied()).stdin(Stdio::null());
        Self::spawn(command)
    }

    /// The same for a command that was made otherwise, with `--json`.
    #[must_use]
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("netproxy-dp runs");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        let said: Arc<Mutex<String>> = Arc::default();
        let all = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                all.lock().unwrap().push_str(&format!("{line}\n"));
                let Ok(value) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
                // What it says of itself is for tests of that, which read `/health`.
                if !["accept", "listening", "policy"].contains(&value["event"].as_str().unwrap_or_default()) {
                    continue;
                }
                // Nobody may wait for it any more; it is kept all the same.
                let _ = send.send(value);
            }
        });
        let mut found = std::collections::HashMap::new();
        while !found.contains_key("admin") {
            let line: serde_json::Value = lines.recv_timeout(PATIENCE).expect("netproxy-dp says where it listens");
            let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            found.insert(text("listener"), text("address").parse::<SocketAddr>().unwrap());
        }
        Self { child, lines: Mutex::new(lines), said, http: found["http"], socks5: found.get("socks5").copied(), admin: found["admin"] }
    }

    #[must_use]
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    #[must_use]
    pub fn socks5(&self) -> Option<SocketAddr> {
        self.socks5
    }

    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What is counted now: samples and their values.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics::read(self.admin)
    }

    /// All that it wrote to standard output so far.
    #[must_use]
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next thing that it says about its policy.
    #[must_use]
    pub fn next_reload(&self) -> serde_json::Value {
        self.lines.lock().unwrap().recv_timeout(PATIENCE).expect("netproxy-dp says what came of a reload")
    }

    /// Sends a signal by name, such as `HUP`.
    pub fn signal(&self, name: &str) {
        // The shell's own `kill`: the program is not everywhere.
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status().expect("sh runs");
        assert!(status.success());
    }

    /// Waits for the end and gives the exit code.
    pub fn wait(&mut self) -> i32 {
        let mut code = None;
        wait_until("netproxy-dp ends", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|status| status.code()).unwrap_or(-1)
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
