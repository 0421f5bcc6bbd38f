//! What is written where: the policy's settings, what is said from outside, and the sinks that come of both.

use super::sink::Sink;
use super::{file, journald, stdout, syslog};
use crate::tls::roots::Sources;
use policy_format::{Audit, AuditLevel, AuditNaming, Fsync, OnFull, Otlp, SyslogTarget};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What is written down of decisions, and where, from outside the policy: it adds to what the policy's `audit` table says, or stands in its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditOverrides {
    /// A file that gets a line of JSON for each event.
    pub file: Option<PathBuf>,
    /// Standard output gets the same lines.
    pub stdout: bool,
    /// The syslog server that gets each event.
    pub syslog: Option<SyslogTarget>,
    /// The journal of systemd gets each event.
    pub journald: bool,
    /// The collector of OpenTelemetry that gets each event.
    pub otlp: Option<Otlp>,
    /// How the fields are called.
    pub naming: Option<AuditNaming>,
    /// Which events there are.
    pub level: Option<AuditLevel>,
    /// What happens to requests when the queue of events is full.
    pub on_full: Option<OnFull>,
    /// Fields that every event gets, by their name.
    pub metadata: BTreeMap<String, String>,
    /// Numbers of the user and the group that files are given to, where the process becomes that user once it listens.
    pub owner: Option<(u32, u32)>,
    /// The file may be another process's still, which hands over to this one: events wait until it has ended.
    pub waits: bool,
}

impl AuditOverrides {
    /// What holds, where a policy says `audit`.
    #[must_use]
    pub fn over(&self, audit: &Audit) -> Audit {
        let mut audit = audit.clone();
        if let Some(file) = &self.file {
            audit.file = Some(file.to_string_lossy().into_owned());
        }
        audit.stdout |= self.stdout;
        audit.journald |= self.journald;
        audit.syslog = self.syslog.clone().or(audit.syslog);
        audit.otlp = self.otlp.clone().or(audit.otlp);
        audit.naming = self.naming.unwrap_or(audit.naming);
        audit.level = self.level.unwrap_or(audit.level);
        audit.on_full = self.on_full.unwrap_or(audit.on_full);
        audit.metadata.extend(self.metadata.clone());
        audit
    }
}

/// How a sink writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) naming: AuditNaming,
    pub(super) metadata: BTreeMap<String, String>,
    /// Whether what a sink has no room for is given up, rather than left in the queue until it has. What was taken out of the queue is kept then, however much it is: the queue has bounds.
    pub(super) lossy: bool,
}

/// A sink that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Spec {
    File(FileSpec),
    Stdout(Form),
    Syslog(SyslogTarget, Form),
    Journald(Form),
    Otlp(OtlpSpec),
}

/// How a collector is sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OtlpSpec {
    pub(super) otlp: Otlp,
    /// Events that wait for it.
    pub(super) queue: usize,
    pub(super) form: Form,
}

/// How a file is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileSpec {
    pub(super) path: PathBuf,
    pub(super) form: Form,
    pub(super) rotate_bytes: u64,
    pub(super) rotate_age: Duration,
    pub(super) keep: usize,
    pub(super) fsync: Fsync,
    pub(super) chain: bool,
    /// Bytes that are kept while they cannot be written, about.
    pub(super) backlog: usize,
    pub(super) owner: Option<(u32, u32)>,
    /// Another process may have the file still, and will let go of it.
    pub(super) waits: bool,
}

/// Bytes of memory that an event takes in a backlog, about.
const EVENT_BYTES: usize = 1024;

/// The sinks that settings ask for.
pub(super) fn specs(audit: &Audit, overrides: &AuditOverrides) -> Vec<Spec> {
    if audit.level == AuditLevel::Off {
        return Vec::new();
    }
    let lossy = audit.on_full == OnFull::Drop;
    let form = || Form { naming: audit.naming, metadata: audit.metadata.clone(), lossy };
    let file = audit.file.as_ref().map(|path| {
        Spec::File(FileSpec {
            path: PathBuf::from(path),
            form: form(),
            rotate_bytes: audit.rotate_bytes,
            rotate_age: audit.rotate_age,
            keep: audit.keep,
            fsync: audit.fsync,
            chain: audit.chain,
            backlog: audit.queue.saturating_mul(EVENT_BYTES).clamp(64 << 10, 64 << 20),
            owner: overrides.owner,
            waits: overrides.waits,
        })
    });
    let stdout = audit.stdout.then(|| Spec::Stdout(form()));
    let syslog = audit.syslog.clone().map(|target| Spec::Syslog(target, form()));
    let journald = audit.journald.then(|| Spec::Journald(form()));
    let otlp = audit.otlp.clone().map(|otlp| Spec::Otlp(OtlpSpec { otlp, queue: audit.queue, form: form() }));
    [file, stdout, syslog, journald, otlp].into_iter().flatten().collect()
}

impl Spec {
    /// Opens it.
    pub(super) fn open(
        &self,
        #[cfg_attr(not(feature = "otlp"), expect(unused_variables, reason = "for OpenTelemetry"))] sources: &Sources,
    ) -> Result<Box<dyn Sink>, String> {
        match self {
            Self::File(spec) => Ok(Box::new(file::FileSink::open(spec.clone())?)),
            Self::Stdout(form) => Ok(Box::new(stdout::StdoutSink::new(form))),
            Self::Syslog(target, form) => Ok(Box::new(syslog::SyslogSink::open(target.clone(), form)?)),
            Self::Journald(form) => Ok(Box::new(journald::JournaldSink::open(form)?)),
            #[cfg(feature = "otlp")]
            Self::Otlp(spec) => super::otlp::open(spec, sources),
            #[cfg(not(feature = "otlp"))]
            Self::Otlp(_) => Err("this program was built without OpenTelemetry (the feature `otlp`)".to_owned()),
        }
    }

    /// Whether both write to the same place, so that one has to be done before the other begins.
    pub(super) fn is_at(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(one), Self::File(other)) => one.path == other.path,
            _ => false,
        }
    }
}
