//! What the system says of the process, under the names that Prometheus' own libraries use.

use super::text::{Kind, Page};
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Ticks a second in `/proc`: on every architecture that Rust has Linux for, whatever the kernel's own.
const TICKS: u64 = 100;

/// Reads `/proc` on the thread that asks. What cannot be read is not shown.
pub(super) fn write(page: &mut Page) {
    let resident = fs::read_to_string("/proc/self/status").ok().and_then(|status| resident(&status));
    let cpu = seconds(clock_gettime(ClockId::ProcessCPUTime));
    let metrics = [
        ("process_cpu_seconds_total", Kind::Counter, "Time that the process spent on processors, its own and the system's.", Some(cpu)),
        ("process_resident_memory_bytes", Kind::Gauge, "Memory of the process that is in RAM.", resident.map(as_f64)),
        ("process_open_fds", Kind::Gauge, "Descriptors that are open.", open_descriptors().map(as_f64)),
        // None is no limit.
        ("process_max_fds", Kind::Gauge, "Descriptors that may be open.", getrlimit(Resource::Nofile).current.map(as_f64)),
        ("process_start_time_seconds", Kind::Gauge, "When the process started, since 1970.", *STARTED),
    ];
    for (name, kind, help, value) in metrics {
        if let Some(value) = value {
            page.single(name, kind, help, value);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "that of a double is what Prometheus has")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970")]
fn seconds(time: rustix::time::Timespec) -> f64 {
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Of `/proc/self/status`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Since Linux 6.2 the folder's size says how many there are; before, they have to be counted.
fn open_descriptors() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    match fs::metadata(FOLDER).ok()?.len() {
        // The one for reading the folder is not open otherwise.
        0 => Some((fs::read_dir(FOLDER).ok()?.count() as u64).saturating_sub(1)),
        open => Some(open),
    }
}

/// Worked out once: clocks are set meanwhile.
static STARTED: LazyLock<Option<f64>> = LazyLock::new(|| {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let since_boot = started(&stat)?;
    let up = seconds(clock_gettime(ClockId::Boottime));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Some(now.as_secs_f64() - up + since_boot)
});

/// Field 22 of `/proc/self/stat`, in seconds after the boot. The name, which is field 2, may have spaces and parentheses in it.
fn started(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u64 = rest.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some(as_f64(ticks) / as_f64(TICKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(resident("VmPeak:\t  9000 kB\nVmRSS:\t    4312 kB\nRssAnon:\t 1 kB\n"), Some(4312 * 1024));
        assert_eq!(resident("VmRSS: many\n"), None);
        let fields: Vec<String> = (3..53).map(|field| (field * 100).to_string()).collect();
        assert_eq!(started(&format!("7 (a) b (c)) {}", fields.join(" "))), Some(22.0));
        assert_eq!(started("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_started_and_has_memory_and_descriptors() {
        let files: Vec<_> = (0..200).map(|_| fs::File::open("/proc/self/status").unwrap()).collect();
        assert!(open_descriptors().unwrap() > files.len() as u64);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(STARTED.is_some_and(|start| start <= now + 1.0 && start > now - 86_400.0), "{:?}", *STARTED);
        assert!(resident(&fs::read_to_string("/proc/self/status").unwrap()).unwrap() > 1 << 20);
    }
}
