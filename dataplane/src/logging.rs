//! `--log` and `--log-format`: log lines on standard error. What the program says on standard output, it says with or without them; what it says itself on standard error, too, in the
//! format that was asked for, so that whoever reads JSON there finds nothing else.

use clap::{Args, ValueEnum};
use netproxy::LOG_TARGETS;
use std::str::FromStr;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// Log lines.
#[derive(Debug, Args)]
pub(crate) struct Logging {
    /// Write log lines to standard error: `error`, `warn`, `info`, `debug`, or `TARGET=LEVEL` for some of them, as in `info,decide=debug`. Targets: accept, close, decide, fault, limit, policy, server
    #[arg(long, value_name = "FILTER")]
    log: Option<Filter>,

    /// How log lines, and all else on standard error, are written [default: text]; without `--log`, those from `info` on
    #[arg(long, value_name = "HOW")]
    log_format: Option<LogFormat>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Time, level, target, message, fields
    Text,
    /// One object a line
    Json,
}

/// What the binary says itself on standard error, whatever is logged.
const PROCESS: &str = "netproxy::process";

/// How much what it says matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    /// It ends for that.
    Error,
    /// Somebody has to see to it.
    Warning,
    /// What is good to know.
    Note,
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Filter {
    all: LevelFilter,
    some: Vec<(&'static str, LevelFilter)>,
}

impl Default for Filter {
    fn default() -> Self {
        Self { all: LevelFilter::INFO, some: Vec::new() }
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut filter = Self::default();
        for directive in text.split(',').map(str::trim) {
            match directive.split_once('=') {
                None => filter.all = level(directive)?,
                Some((target, of)) => {
                    let name = target.strip_prefix("netproxy::").unwrap_or(target);
                    let known = LOG_TARGETS.into_iter().find(|known| *known == name);
                    // Other crates' lines have what ours must not have: header fields, names that were looked up.
                    let known = known.ok_or_else(|| format!("there is no target `{target}`; there are {}", LOG_TARGETS.join(", ")))?;
                    filter.some.push((known, level(of)?));
                }
            }
        }
        Ok(filter)
    }
}

fn level(name: &str) -> Result<LevelFilter, String> {
    match name {
        "off" => Ok(LevelFilter::OFF),
        "error" => Ok(LevelFilter::ERROR),
        "warn" => Ok(LevelFilter::WARN),
        "info" => Ok(LevelFilter::INFO),
        "debug" => Ok(LevelFilter::DEBUG),
        _ => Err(format!("`{name}` is no level; there are off, error, warn, info, debug")),
    }
}

impl Filter {
    /// Ours only.
    fn targets(&self) -> Targets {
        let some = self.some.iter().map(|(name, level)| (format!("netproxy::{name}"), *level));
        Targets::new().with_target("netproxy", self.all).with_targets(some)
    }
}

impl Logging {
    /// Starts to log, if that was asked for.
    pub(crate) fn start(&self) {
        if self.log.is_none() && self.log_format.is_none() {
            return;
        }
        let filter = self.log.clone().unwrap_or_default().targets();
        // With text, `say` writes lines of its own.
        let filter = if self.is_json() { filter.with_target(PROCESS, LevelFilter::INFO) } else { filter };
        if self.is_json() {
            std::panic::set_hook(Box::new(|panic| tracing::error!(target: PROCESS, "{panic}")));
        }
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        let lines = match self.log_format.unwrap_or(LogFormat::Text) {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        };
        tracing_subscriber::registry().with(lines.with_filter(filter)).init();
    }
}

impl Logging {
    /// Whether every line on standard error is JSON.
    fn is_json(&self) -> bool {
        matches!(self.log_format, Some(LogFormat::Json))
    }

    /// A line on standard error, with or without `--log`.
    pub(crate) fn say(&self, what: Said, text: &str) {
        match (self.is_json(), what) {
            (true, Said::Error) => tracing::error!(target: PROCESS, "{text}"),
            (true, Said::Warning) => tracing::warn!(target: PROCESS, "{text}"),
            (true, Said::Note) => tracing::info!(target: PROCESS, "{text}"),
            (false, Said::Error) => eprintln!("error: {text}"),
            (false, Said::Warning) => eprintln!("warning: {text}"),
            (false, Said::Note) => eprintln!("{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn a_filter_says_what_of_ours_is_logged_and_nothing_of_others() {
        let filter: Filter = "warn, decide=debug,netproxy::policy=off".parse().unwrap();
        let targets = filter.targets();
        for (target, level, logged) in [
            ("netproxy::decide", Level::DEBUG, true),
            ("netproxy::server", Level::WARN, true),
            ("netproxy::server", Level::INFO, false),
            ("netproxy::policy", Level::ERROR, false),
            ("h2::client", Level::ERROR, false),
        ] {
            assert_eq!(targets.would_enable(target, &level), logged, "{target} {level}");
        }
        let quiet = Filter::from_str("decide=debug").unwrap().targets();
        assert!(quiet.would_enable("netproxy::server", &Level::INFO) && !quiet.would_enable("netproxy::limit", &Level::DEBUG));
    }

    #[test]
    fn what_is_no_filter_is_told_with_what_there_is() {
        for (text, expected) in [
            ("h2=debug", "there is no target `h2`; there are accept, close, decide, fault, limit, policy, server"),
            ("loud", "`loud` is no level; there are off, error, warn, info, debug"),
            ("decide=", "`` is no level; there are off, error, warn, info, debug"),
            ("", "`` is no level; there are off, error, warn, info, debug"),
        ] {
            assert_eq!(Filter::from_str(text), Err(expected.to_owned()), "{text}");
        }
    }
}
