//! A progress bar on standard error, for what takes long.

use policy_compiler::lists::Progress;
use std::io::{IsTerminal, Stderr, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Work that is done sooner has no bar.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two drawings.
const INTERVAL: Duration = Duration::from_millis(100);
/// Characters of the bar, and of the name before it: the line fits 80 columns.
const BAR: u64 = 20;
const NAME: usize = 40;
/// To the beginning of the line, and erase it (ECMA-48, EL).
const CLEAR: &str = "\r\x1b[K";

/// One line that is drawn over and over, and erased at the end. Draws nothing where nobody would see it move.
pub(crate) struct ProgressBar<W: Write = Stderr> {
    /// Nothing if there is no terminal.
    out: Option<W>,
    start: Instant,
    drawn: Option<Duration>,
}

impl ProgressBar {
    /// A bar on standard error, if that is a terminal that can erase a line. Time runs from now.
    pub(crate) fn stderr() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let stderr = std::io::stderr();
        let out = (stderr.is_terminal() && !dumb).then_some(stderr);
        Self { out, start: Instant::now(), drawn: None }
    }
}

impl<W: Write> ProgressBar<W> {
    /// Says how far the reading of `path` has come.
    pub(crate) fn update(&mut self, path: &Path, progress: Progress) {
        self.update_at(self.start.elapsed(), path, progress);
    }

    fn update_at(&mut self, elapsed: Duration, path: &Path, progress: Progress) {
        let due = self.drawn.map_or(PATIENCE, |drawn| drawn + INTERVAL);
        if elapsed < due {
            return;
        }
        if let Some(out) = &mut self.out {
            self.drawn = Some(elapsed);
            draw(out, &line(path, progress));
        }
    }

    /// Erases the bar, so that something else can be written.
    pub(crate) fn clear(&mut self) {
        if self.drawn.take().is_some()
            && let Some(out) = &mut self.out
        {
            draw(out, "");
        }
    }
}

impl<W: Write> Drop for ProgressBar<W> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A terminal that is gone is no reason to stop the work.
fn draw(out: &mut impl Write, line: &str) {
    if write!(out, "{CLEAR}{line}").is_ok() {
        out.flush().ok();
    }
}

fn line(path: &Path, progress: Progress) -> String {
    let of = |whole: u64| progress.read.saturating_mul(whole).checked_div(progress.total).unwrap_or(whole).min(whole);
    let done = (0..BAR).map(|at| if at < of(BAR) { '#' } else { '.' });
    format!("reading {} [{}] {:3} %", name(path), done.collect::<String>(), of(100))
}

/// The name of the file, short and without what would move the cursor.
fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let escaped: Vec<_> = name.chars().flat_map(char::escape_debug).collect();
    match escaped.get(..NAME - 1) {
        Some(start) if escaped.len() > NAME => start.iter().chain(['…'].iter()).collect(),
        _ => escaped.iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(steps: &[(u64, &str, u64, u64)]) -> String {
        let mut out = Vec::new();
        let mut bar = ProgressBar { out: Some(&mut out), start: Instant::now(), drawn: None };
        for (milliseconds, path, read, total) in steps {
            bar.update_at(Duration::from_millis(*milliseconds), Path::new(path), Progress { read: *read, total: *total });
        }
        drop(bar);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn short_work_has_no_bar() {
        assert_eq!(drawn(&[(0, "a.txt", 0, 10), (499, "a.txt", 10, 10)]), "");
    }

    #[test]
    fn long_work_has_one_line_that_is_erased() {
        let steps = [(499, "a.txt", 1, 10), (500, "lists/a.txt", 5, 10), (599, "a.txt", 6, 10), (600, "a.txt", 10, 10), (700, "b", 0, 0)];
        let expected = [
            "\r\x1b[Kreading a.txt [##########..........]  50 %",
            "\r\x1b[Kreading a.txt [####################] 100 %",
            "\r\x1b[Kreading b [####################] 100 %",
            "\r\x1b[K",
        ];
        assert_eq!(drawn(&steps), expected.concat());
    }

    #[test]
    fn clearing_twice_erases_once_and_a_bar_comes_again_after_its_time() {
        let mut out = Vec::new();
        let mut bar = ProgressBar { out: Some(&mut out), start: Instant::now(), drawn: None };
        bar.clear();
        bar.update_at(PATIENCE, Path::new("a"), Progress { read: 1, total: 4 });
        bar.clear();
        bar.clear();
        drop(bar);
        assert_eq!(String::from_utf8(out).unwrap(), "\r\x1b[Kreading a [#####...............]  25 %\r\x1b[K");
    }

    #[test]
    fn without_a_terminal_nothing_is_drawn() {
        let mut bar = ProgressBar::<Vec<u8>> { out: None, start: Instant::now(), drawn: None };
        bar.update_at(PATIENCE, Path::new("a"), Progress { read: 1, total: 4 });
        assert_eq!(bar.drawn, None);
    }

    #[test]
    fn the_line_fits_and_moves_no_cursor() {
        for path in ["x".repeat(300), "\u{1b}[2J\n".repeat(50), "\u{202e}".repeat(40), "ü".repeat(40)] {
            let line = line(Path::new(&path), Progress { read: u64::MAX, total: 1 });
            assert!(line.chars().count() <= 78 && line.ends_with(" 100 %"), "{line}");
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
        }
    }
}
