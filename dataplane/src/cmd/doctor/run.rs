//! Runs a tool, for so long and no longer, with its output out of the way.

use super::origin::NAME;
use super::probes::Probe;
use netproxy::child::ChildEnv;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How often it is looked whether a tool has ended.
const INTERVAL: Duration = Duration::from_millis(20);

/// No more of what a tool says is looked at for its version.
const MAX_OUTPUT: u64 = 4 << 10;

/// How a tool ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    Done,
    TimedOut,
    NotStarted(String),
}

/// A folder for everything, gone with this.
pub(super) struct Scratch {
    path: PathBuf,
    folders: AtomicUsize,
}

impl Scratch {
    pub(super) fn new() -> io::Result<Self> {
        // Nobody knows the name before the folder is there, and nobody else can write into it then.
        let unique = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let path = std::env::temp_dir().join(format!("netproxy-doctor-{}-{unique}", std::process::id()));
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        Ok(Self { path, folders: AtomicUsize::new(0) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// An empty folder.
    pub(super) fn folder(&self) -> io::Result<PathBuf> {
        let folder = self.path.join(format!("tool-{}", self.folders.fetch_add(1, Ordering::SeqCst)));
        fs::create_dir(&folder).map(|()| folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Where a program is.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let names =
        if cfg!(windows) { [".exe", ".cmd", ".bat"].map(|end| format!("{program}{end}")).to_vec() } else { vec![program.to_owned()] };
    std::env::split_paths(&folders)
        .flat_map(|folder| names.iter().map(move |name| folder.join(name)).collect::<Vec<_>>())
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    #[cfg(unix)]
    {
        fs::metadata(path).is_ok_and(|found| found.is_file() && std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o111 != 0)
    }
    #[cfg(not(unix))]
    path.is_file()
}

/// Whether a program does that without failing.
pub(super) fn succeeds(program: &Path, arguments: &[&str], folder: &Path, within: Duration) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    matches!(finish(&mut command, within), Ok(Some(true)))
}

/// The first word of what a program says of its version that has digits and a dot.
pub(super) fn version(program: &Path, arguments: &[&str], folder: &Path, within: Duration) -> String {
    let said = || {
        let path = folder.join("version");
        let out = File::create(&path)?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        finish(&mut command, within)?;
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(File::open(&path)?, MAX_OUTPUT), &mut text)?;
        io::Result::Ok(text)
    };
    said().map(|text| number(&text)).unwrap_or_default()
}

fn number(text: &str) -> String {
    let trimmed = |word: &str| word.trim_matches(|c: char| !c.is_ascii_digit()).to_owned();
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, '/' | ',' | '(' | ')')).map(trimmed);
    words.into_iter().find(|word| word.contains('.')).unwrap_or_default()
}

/// Has a tool ask the origin below `token`.
pub(super) fn run(probe: &Probe, program: &Path, folder: &Path, env: &ChildEnv, port: u16, token: &str, within: Duration) -> Ended {
    let path = format!("/{token}/");
    let fill = |text: &str| {
        let values = [
            ("{url}", format!("https://{NAME}:{port}{path}")),
            ("{path}", path.clone()),
            ("{host}", NAME.to_owned()),
            ("{port}", port.to_string()),
            ("{proxy}", env.http.to_string()),
            ("{dir}", folder.to_string_lossy().into_owned()),
        ];
        values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    };
    let prepared = || {
        if let Some((name, content)) = probe.file {
            fs::write(folder.join(name), content)?;
        }
        let input = folder.join("input");
        fs::write(&input, fill(probe.input))?;
        let output = File::create(folder.join("output"))?;
        let mut command = Command::new(program);
        command.args(probe.arguments.iter().map(|argument| fill(argument))).current_dir(folder);
        command.envs(env.variables(&super::environment())).envs(probe.env.iter().map(|(name, value)| (OsStr::new(name), fill(value))));
        command.stdin(File::open(input)?).stdout(output.try_clone()?).stderr(output);
        io::Result::Ok(command)
    };
    match prepared().and_then(|mut command| finish(&mut command, within)) {
        Ok(Some(_)) => Ended::Done,
        Ok(None) => Ended::TimedOut,
        Err(error) => Ended::NotStarted(error.to_string()),
    }
}

/// Runs it to its end, and says whether it succeeded; nothing where it had to be ended, with all that it had started.
fn finish(command: &mut Command, within: Duration) -> io::Result<Option<bool>> {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    let deadline = Instant::now() + within;
    let mut child = command.spawn()?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if Instant::now() >= deadline {
            end(&mut child);
            return Ok(None);
        }
        std::thread::sleep(INTERVAL);
    }
}

fn end(child: &mut Child) {
    #[cfg(unix)]
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, version) in [
            ("curl 7.88.1 (x86_64-pc-linux-gnu) libcurl/7.88.1", "7.88.1"),
            ("git version 2.39.5", "2.39.5"),
            ("openjdk version \"17.0.15\" 2025-04-15", "17.0.15"),
            ("v20.20.2\n", "20.20.2"),
            ("aws-cli/1.44.0 Python/3.11.7", "1.44.0"),
            ("go version go1.22.1 linux/amd64", "1.22.1"),
            ("nothing of it", ""),
        ] {
            assert_eq!(number(said), version, "{said}");
        }
    }
}
