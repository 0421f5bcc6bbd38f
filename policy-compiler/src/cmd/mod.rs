//! One file for each subcommand, and what they share: messages on standard error, colour only on a terminal.

#![expect(clippy::print_stderr, reason = "the binary's messages go to standard error")]

pub(crate) mod audit;
pub(crate) mod check;
pub(crate) mod compile;
pub(crate) mod completions;
pub(crate) mod diff;
pub(crate) mod explain;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod man;
pub(crate) mod migrate;
pub(crate) mod presets;
pub(crate) mod progress;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod test;

use crate::cli;
use policy_compiler::check::ListSummary;
use policy_compiler::diagnostic::{self, Diagnostic, Failure, visible};
use policy_compiler::explain::Subject;
use policy_compiler::migrate::MAX_INPUT;
use policy_compiler::source::{LayerFiles, Places, Role, SourceFile};
use policy_compiler::{Compiled, Options, Selection};
use policy_format::Blob;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What to say where there is nothing to read.
const NO_LAYER: &str =
    "no layer was found in the default places\nhelp: name one, such as `--user config.toml`, or write a first one with `netpolicy init`";

/// The layers that the arguments name, or those in their places.
///
/// # Errors
/// One cannot be read, or there is none. It was said.
pub(crate) fn layers(named: cli::Layers) -> Result<Vec<SourceFile>, ExitCode> {
    match LayerFiles::from(named).read(&places()) {
        Ok(sources) if sources.is_empty() => Err(fail(NO_LAYER)),
        Ok(sources) => Ok(sources),
        Err(error) => Err(fail(error)),
    }
}

/// Says what was found in layers, if anything.
pub(crate) fn say_found(sources: &[SourceFile], found: &[Diagnostic]) {
    if !found.is_empty() {
        say_rendered(&diagnostic::render(sources, found, color(&io::stderr())));
    }
}

/// Compiles, with a progress bar for long domain lists.
pub(crate) fn compile(sources: Vec<SourceFile>, options: Options<'_>) -> Result<Compiled, Failure> {
    compile_profiles(sources, Selection { named: options.profile.as_slice(), all: false }, options.strict)
}

/// Compiles the profiles that the arguments name, with a progress bar for long domain lists.
pub(crate) fn compile_named(sources: Vec<SourceFile>, profiles: &cli::Profiles, strict: bool) -> Result<Compiled, Failure> {
    let named: Vec<&str> = profiles.names.iter().map(String::as_str).collect();
    compile_profiles(sources, Selection { named: &named, all: profiles.all }, strict)
}

fn compile_profiles(sources: Vec<SourceFile>, selection: Selection<'_>, strict: bool) -> Result<Compiled, Failure> {
    let mut bar = progress::ProgressBar::stderr();
    policy_compiler::compile_profiles(sources, selection, strict, &mut |path, progress| bar.update(path, progress))
}

/// The profiles of a policy in few words: `profile dev, network proxied, mode full`.
pub(crate) fn describe_profiles<B: AsRef<[u8]>>(blob: &Blob<B>) -> String {
    let profiles = blob.profiles().iter();
    match blob.profiles() {
        [meta] => format!("profile {}, network {}, mode {}", meta.profile, meta.network, meta.mode),
        several => {
            let shown = profiles.map(|meta| format!("{} (network {}, mode {})", meta.profile, meta.network, meta.mode));
            format!("{} profiles, {}", several.len(), shown.collect::<Vec<_>>().join(", "))
        }
    }
}

/// The profiles of a policy as JSON, the default first.
pub(crate) fn profiles_json<B: AsRef<[u8]>>(blob: &Blob<B>) -> serde_json::Value {
    let one = |meta: &policy_format::Meta| serde_json::json!({ "profile": meta.profile, "network": meta.network.to_string(), "mode": meta.mode.as_str() });
    blob.profiles().iter().map(one).collect()
}

/// A domain list in one line.
pub(crate) fn describe_list(list: &ListSummary) -> String {
    let report = &list.report;
    let mut line = format!("{} list {}: {} entries", list.access, list.path.display(), report.entries);
    for (count, what) in [(report.ignored, "ignored"), (report.bad_count, "bad")] {
        if count > 0 {
            line.push_str(&format!(", {count} {what}"));
        }
    }
    line
}

/// A source in one line: layer, role, place.
pub(crate) fn describe(source: &SourceFile) -> String {
    let what = if source.role == Role::Requirements { "requirements" } else { "settings" };
    format!("{} {what} {}", source.layer, source.shown())
}

/// Bad usage or input.
pub(crate) fn fail(message: impl Display) -> ExitCode {
    eprintln!("error: {}", visible(&message.to_string()));
    ExitCode::from(2)
}

pub(crate) fn say(message: impl Display) {
    eprintln!("{}", visible(&message.to_string()));
}

/// Says what is clean already, and may be coloured: diagnostics.
pub(crate) fn say_rendered(text: &str) {
    eprintln!("{text}");
}

/// Prints what was asked for on standard output.
pub(crate) fn print(text: impl Display) -> ExitCode {
    print_bytes(text.to_string().as_bytes())
}

/// Prints a line of data.
pub(crate) fn print_line(line: impl Display) -> ExitCode {
    print(format_args!("{line}\n"))
}

pub(crate) fn print_bytes(bytes: &[u8]) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough: `netpolicy schema | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(format_args!("cannot write to standard output: {error}")),
    }
}

/// Whether an output may be coloured (<https://no-color.org>).
pub(crate) fn color(output: &impl IsTerminal) -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && output.is_terminal()
}

/// The default places of layers on this machine.
pub(crate) fn places() -> Places {
    let home = || std::env::var_os("HOME").filter(|home| !home.is_empty()).map(|home| PathBuf::from(home).join(".codex"));
    Places {
        etc: Some(PathBuf::from("/etc/codex")),
        codex_home: std::env::var_os("CODEX_HOME").filter(|home| !home.is_empty()).map(PathBuf::from).or_else(home),
        working_dir: std::env::current_dir().ok(),
    }
}

/// Bytes that a compiled policy may have.
const MAX_POLICY: u64 = 4 << 30;

/// Whether somebody named the settings instead of what is made of them. No policy is UTF-8 text, and a text without a key is nothing yet.
fn is_toml(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes.get(..MAX_INPUT.min(bytes.len())).unwrap_or_default());
    text.is_ok_and(|text| toml::de::DeTable::parse(text).is_ok_and(|root| !root.get_ref().is_empty()))
}

/// Reads and checks a compiled policy; what is wrong is said.
pub(crate) fn open_policy(path: &Path) -> Result<Blob<Vec<u8>>, ExitCode> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_POLICY + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(fail(format_args!("cannot read the policy `{shown}`: {error}"))),
        Ok(len) if len as u64 > MAX_POLICY => Err(fail(format_args!("the policy `{shown}` has more than {MAX_POLICY} bytes"))),
        Ok(_) if is_toml(&bytes) => Err(fail(format_args!(
            "`{shown}` is not a compiled policy: it is TOML\nhelp: `netpolicy check --user {shown}` says what is in it"
        ))),
        Ok(_) => Blob::open(bytes).map_err(|error| fail(format_args!("`{shown}` is not a policy that can be read: {error}"))),
    }
}

/// The policy that is asked: a compiled one, or the layers, compiled in memory. What is wrong is said; of warnings, only how many there are.
pub(crate) fn subject(arguments: cli::Subject) -> Result<Subject, ExitCode> {
    match arguments.policy {
        Some(path) => bare_subject(&path, arguments.profile.as_deref()),
        None => compiled_subject(LayerFiles::from(arguments.layers).read(&places()).map_err(fail)?, arguments.profile),
    }
}

/// A profile of a compiled policy.
pub(crate) fn bare_subject(path: &Path, profile: Option<&str>) -> Result<Subject, ExitCode> {
    Subject::bare_profile(open_policy(path)?, profile).map_err(|error| fail(format_args!("`{}`: {error}", path.display())))
}

/// The policy that these layers make.
pub(crate) fn compiled_subject(sources: Vec<SourceFile>, profile: Option<String>) -> Result<Subject, ExitCode> {
    if sources.is_empty() {
        return Err(fail(
            "no layer was found in the default places\nhelp: name one, such as `--user config.toml`, or a compiled policy with `--policy policy.bin`",
        ));
    }
    match compile(sources, Options { profile: profile.as_deref(), strict: false }) {
        Err(failure) => {
            say_found(&failure.sources, &failure.diagnostics);
            Err(ExitCode::from(2))
        }
        Ok(compiled) => {
            match compiled.diagnostics.len() {
                0 => {}
                1 => say("1 warning, shown by `netpolicy check`"),
                n => say(format_args!("{n} warnings, shown by `netpolicy check`")),
            }
            let policy = Blob::open(compiled.blob)
                .map_err(|error| fail(format_args!("the compiled policy does not read back, which is a bug: {error}")))?;
            Ok(Subject::with_layers(policy, compiled.sources, profile))
        }
    }
}

/// Writes to standard output through one buffer. A reader that has seen enough, such as `head`, is no failure; `code` is what the command answers.
pub(crate) fn stream(code: ExitCode, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> ExitCode {
    let mut stdout = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Ok(()) => code,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            // What is left in the buffer has no reader.
            let _ = stdout.into_parts();
            code
        }
        Err(error) => fail(format_args!("cannot write to standard output: {error}")),
    }
}

/// [`stream`] for text, of which nothing acts on a terminal.
pub(crate) fn stream_text(code: ExitCode, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> ExitCode {
    stream(code, |out| {
        let mut text = Vec::new();
        write(&mut Visible { out, text: &mut text })
    })
}

/// Escapes what is written, line by line or piece by piece as it comes.
struct Visible<'o> {
    out: &'o mut dyn Write,
    /// Bytes of a character of which the rest has not come yet.
    text: &'o mut Vec<u8>,
}

impl Write for Visible<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(self.text) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.text.len(),
        };
        let piece: Vec<u8> = self.text.drain(..whole).collect();
        self.out.write_all(visible(&String::from_utf8_lossy(&piece)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A rule as JSON.
pub(crate) fn rule_json(rule: &policy_format::Rule) -> serde_json::Value {
    let ports: Vec<String> = rule
        .ports
        .iter()
        .map(|range| if range.first == range.last { range.first.to_string() } else { format!("{}-{}", range.first, range.last) })
        .collect();
    serde_json::json!({
        "access": rule.access.as_str(),
        "hosts": rule.hosts,
        "ports": ports,
        "methods": rule.methods,
        "paths": rule.paths,
        "reason": rule.reason,
        "layer": rule.layer.as_str(),
        "file": rule.label,
        "line": rule.line,
    })
}
