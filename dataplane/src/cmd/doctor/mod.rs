//! `netproxy-dp doctor`: tries each installed tool against an origin of its own, through a proxy of its own.
//!
//! The origin's name is one that only the proxy can look up, and its certificate comes from an authority that only the proxy trusts. So whatever reaches the origin went through the proxy,
//! and trusts what the proxy shows. Each tool asks below a path of its own, and what counts is what arrives, not what a tool says of itself.

mod origin;
mod probes;
mod run;

use super::{environment, print};
use crate::cli::Doctor;
use crate::{Failure, unusable};
use netproxy::child::{ChildEnv, Published, StateDir};
use netproxy::{Decided, Handle, NetworkProxy, Observer};
use origin::{NAME, Origin};
use probes::{PROBES, Probe};
use run::Scratch;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Everything is opened.
const OPEN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/doctor.bin"));

/// Nothing is.
const OPAQUE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/opaque.bin"));

/// What came of one tool.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    tool: &'static str,
    version: String,
    /// It asked the proxy.
    proxied: bool,
    /// It spoke to the origin, and so trusts what it was shown.
    trusted: bool,
    /// What to do, where something is to be done.
    advice: Option<String>,
}

pub(crate) fn run(arguments: &Doctor) -> Result<u8, Failure> {
    let known = |name: &String| PROBES.iter().any(|probe| probe.name == name);
    if let Some(unknown) = arguments.only.iter().find(|name| !known(name)) {
        let names: Vec<_> = PROBES.iter().map(|probe| probe.name).collect();
        return Err(unusable(format!("`{unknown}` is no tool that is tried; these are: {}", names.join(", "))));
    }
    let bench = Bench::start(arguments.opaque)?;
    let mut findings = Vec::new();
    for probe in PROBES.iter().filter(|probe| arguments.only.is_empty() || arguments.only.iter().any(|name| name == probe.name)) {
        findings.extend(bench.examine(probe, Duration::from_secs(arguments.timeout)));
    }
    print(&if arguments.json { as_json(&findings) } else { as_table(&findings) });
    Ok(u8::from(findings.iter().any(|finding| finding.advice.is_some())))
}

/// The proxy and the origin, running.
struct Bench {
    origin: Origin,
    asked: Arc<AtomicUsize>,
    env: ChildEnv,
    scratch: Scratch,
    _published: Published,
    /// Dropping it ends the proxy.
    _handle: Handle,
    /// Dropping it ends the origin's thread.
    _stop: tokio::sync::oneshot::Sender<()>,
}

/// Counts what the proxy is asked for the origin.
struct Asked(Arc<AtomicUsize>);

impl Observer for Asked {
    fn wants_closes(&self) -> bool {
        false
    }

    fn decided(&self, event: &Decided<'_>) {
        if event.host.to_string() == NAME {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Bench {
    /// `opaque`: TLS is not opened, and tools are told to trust the origin's own authority: then only the variables are tried.
    fn start(opaque: bool) -> Result<Self, Failure> {
        let scratch = Scratch::new().map_err(unusable)?;
        let (origin, authority) = Origin::new().map_err(unusable)?;
        let write = |name: &str, text: &str| {
            let path = scratch.path().join(name);
            std::fs::write(&path, text).map(|()| path).map_err(unusable)
        };
        let hosts = write("hosts", &format!("127.0.0.1 {NAME}\n"))?;
        let trusted = write("origin.pem", &authority)?;
        let asked = Arc::new(AtomicUsize::new(0));
        let variables = [("CODEX_CA_CERTIFICATE".to_owned(), trusted.to_string_lossy().into_owned())];
        let builder = NetworkProxy::builder()
            .policy(if opaque { OPAQUE } else { OPEN })
            .free_ports()
            .without_admin()
            .hosts(hosts)
            .environment(variables);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusable)?;
        let handle = runtime.block_on(async { builder.observer(Asked(Arc::clone(&asked))).bind().await?.run().await }).map_err(unusable)?;
        let shown = if opaque { Some(authority) } else { handle.policy().authority_pem().map(str::to_owned) };
        let shown = shown.ok_or_else(|| unusable("there is no authority to open TLS with; `--opaque` tries the variables alone"))?;
        let state = StateDir::open(&scratch.path().join("state")).map_err(unusable)?;
        // Of the user's environment, and not with the authority of the origin.
        let published = state
            .publish(ChildEnv { connect: std::env::current_exe().ok(), ..handle.child_env() }, Some(&shown), &environment(), false)
            .map_err(unusable)?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let serving = origin.clone();
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serving.serve() => {}
                    // An error is the sender dropped, which means the same.
                    _ = stopped => {}
                }
            });
        };
        std::thread::Builder::new().name("origin".to_owned()).spawn(serve).map_err(unusable)?;
        Ok(Self { origin, asked, env: published.env().clone(), scratch, _published: published, _handle: handle, _stop: stop })
    }

    /// What comes of a tool; nothing where it is not installed.
    fn examine(&self, probe: &Probe, within: Duration) -> Option<Finding> {
        let program = probe.programs.iter().find_map(|program| run::find(program))?;
        let folder = self.scratch.folder().ok()?;
        if !probe.needs.is_empty() && !run::succeeds(&program, probe.needs, &folder, within) {
            return None;
        }
        let version = run::version(&program, probe.version, &folder, within);
        let before = self.asked.load(Ordering::SeqCst);
        let token = self.origin.token();
        let ended = run::run(probe, &program, &folder, &self.env, self.origin.port(), &token, within);
        let trusted = self.origin.was_asked(&token);
        let proxied = trusted || self.asked.load(Ordering::SeqCst) > before;
        Some(Finding { tool: probe.name, version, proxied, trusted, advice: advice(probe, proxied, trusted, ended) })
    }
}

/// What helps.
fn advice(probe: &Probe, proxied: bool, trusted: bool, ended: run::Ended) -> Option<String> {
    match (trusted, proxied, ended) {
        (true, ..) => None,
        (false, _, run::Ended::NotStarted(error)) => Some(format!("it cannot be run: {error}")),
        (false, true, _) => Some(probe.untrusted.to_owned()),
        (false, false, run::Ended::TimedOut) => Some(format!("it took too long (`--timeout`), or: {}", probe.unproxied)),
        (false, false, run::Ended::Done) => Some(probe.unproxied.to_owned()),
    }
}

fn as_table(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "none of the tools is installed\n".to_owned();
    }
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    let head = ["tool", "version", "proxy", "trust", "what to do"].map(str::to_owned);
    let rows = findings.iter().map(|finding| {
        // Whoever does not come to the proxy is not shown anything.
        let trusted = if finding.proxied { yes(finding.trusted) } else { "-" };
        [
            finding.tool.to_owned(),
            finding.version.clone(),
            yes(finding.proxied).to_owned(),
            trusted.to_owned(),
            finding.advice.clone().unwrap_or_default(),
        ]
    });
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    rows.iter()
        .map(|[tool, version, proxy, trust, advice]| {
            let [a, b, c, d] = widths;
            format!("{tool:a$}  {version:b$}  {proxy:c$}  {trust:d$}  {advice}").trim_end().to_owned() + "\n"
        })
        .collect()
}

fn as_json(findings: &[Finding]) -> String {
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({ "tool": finding.tool, "version": finding.version, "proxied": finding.proxied, "trusted": finding.trusted, "advice": finding.advice })
        })
        .collect();
    format!("{:#}\n", json!({ "ok": findings.iter().all(|finding| finding.advice.is_none()), "tools": rows }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on panics")]

    use super::*;

    fn finding(tool: &'static str, proxied: bool, trusted: bool, advice: Option<&str>) -> Finding {
        Finding { tool, version: "1.2".into(), proxied, trusted, advice: advice.map(str::to_owned) }
    }

    #[test]
    fn tables_line_up() {
        let findings = [finding("curl", true, true, None), finding("python urllib", false, false, Some("do this"))];
        let expected = "tool           version  proxy  trust  what to do\n\
                        curl           1.2      yes    yes\n\
                        python urllib  1.2      no     -      do this\n";
        assert_eq!(as_table(&findings), expected);
        let json: serde_json::Value = serde_json::from_str(&as_json(&findings)).unwrap();
        assert_eq!((json["ok"].as_bool(), json["tools"][1]["advice"].as_str()), (Some(false), Some("do this")));
    }

    #[test]
    fn advice_fits_what_was_seen() {
        let probe = &Probe { unproxied: "proxy", untrusted: "trust", ..PROBES[0] };
        assert_eq!(advice(probe, true, true, run::Ended::TimedOut), None);
        assert_eq!(advice(probe, true, false, run::Ended::Done).as_deref(), Some("trust"));
        assert_eq!(advice(probe, false, false, run::Ended::Done).as_deref(), Some("proxy"));
        assert!(advice(probe, false, false, run::Ended::TimedOut).unwrap().starts_with("it took too long"));
        assert!(advice(probe, false, false, run::Ended::NotStarted("why".into())).unwrap().ends_with("why"));
    }

    #[test]
    fn names_are_there_once_and_every_probe_asks_for_the_origin() {
        for (number, probe) in PROBES.iter().enumerate() {
            assert!(PROBES[..number].iter().all(|other| other.name != probe.name), "{}", probe.name);
            let all = probe.arguments.concat() + probe.input;
            assert!(all.contains("{url}") || all.contains("{path}"), "{}", probe.name);
        }
    }

    /// A program that is made for it: one takes the proxy and looks at nothing, one does not.
    #[test]
    fn what_arrives_is_what_counts() {
        let bench = Bench::start(true).unwrap();
        let within = Duration::from_secs(20);
        let Some(curl) = bench.examine(PROBES.iter().find(|probe| probe.name == "curl").unwrap(), within) else { return };
        assert_eq!((curl.proxied, curl.trusted, curl.advice), (true, true, None));
        // The name is nobody's but the proxy's.
        let around = Probe { arguments: &["-sS", "--noproxy", "*", "{url}"], ..PROBES[0] };
        let around = bench.examine(&around, within).unwrap();
        assert_eq!((around.proxied, around.trusted), (false, false));
        let distrustful = Probe { arguments: &["-sS", "--cacert", "{dir}/none.pem", "{url}"], ..PROBES[0] };
        let untrusted = bench.examine(&Probe { file: Some(("none.pem", "")), ..distrustful }, within).unwrap();
        assert!(!untrusted.trusted && untrusted.advice.is_some());
        assert_eq!(bench.examine(&Probe { programs: &["no-such-program"], ..PROBES[0] }, within), None);
        assert_eq!(bench.examine(&Probe { needs: &["--no-such-option"], ..PROBES[0] }, within), None);
    }

    #[cfg(unix)]
    #[test]
    fn what_hangs_is_ended() {
        let bench = Bench::start(true).unwrap();
        let sleeper =
            Probe { programs: &["sh"], version: &["-c", "echo 1.0"], arguments: &["-c", "sleep 600 & sleep 600", "{url}"], ..PROBES[0] };
        let start = std::time::Instant::now();
        let finding = bench.examine(&sleeper, Duration::from_millis(300)).unwrap();
        assert!(finding.advice.unwrap().starts_with("it took too long"));
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
