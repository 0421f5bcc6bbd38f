//! What a policy would change, for people.

use super::{Change, Replay};
use std::fmt::Write;

impl Replay {
    /// The report. `limit` is how many kinds of each direction are shown.
    #[must_use]
    pub fn render(&self, limit: usize) -> String {
        let mut text = String::new();
        self.write(&mut text, limit);
        text
    }

    fn write(&self, text: &mut String, limit: usize) {
        let changed = self.opened + self.closed;
        let _ = writeln!(text, "{}: {} would change", number(self.decisions, "decision"), changed);
        for (opened, count, what) in [(true, self.opened, "allowed"), (false, self.closed, "denied")] {
            let kinds: Vec<&Change> = self.changes.iter().filter(|change| change.opened == opened).collect();
            if count == 0 {
                continue;
            }
            let _ = writeln!(text, "\nwould be {what}: {} of {}", number(count, "decision"), number(kinds.len() as u64, "kind"));
            kinds.iter().take(limit).for_each(|change| write_change(text, change));
            if let Some(more) = kinds.len().checked_sub(limit).filter(|more| *more > 0) {
                let _ = writeln!(text, "  and {} more; `--limit` shows more, `--json` all", number(more as u64, "kind"));
            }
        }
        self.write_rest(text);
    }

    fn write_rest(&self, text: &mut String) {
        let mut rest = Vec::new();
        let mut say = |count: u64, what: &str| rest.extend((count > 0).then(|| format!("  {count} {what}")));
        say(self.unlisted, "of kinds that are not listed, because there are too many");
        say(self.otherwise, "denied as before, for another reason");
        say(self.asked_again, "decided by the embedding program, which would be asked again");
        say(self.asked_no_more, "allowed by the embedding program, and now by the policy: it would not be asked");
        for (why, count) in &self.unknown {
            say(*count, &format!("cannot be told: {}", why.meaning()));
        }
        say(self.out_of_time, "out of the time that was asked for");
        say(self.others, if self.others == 1 { "other event" } else { "other events" });
        say(self.malformed, if self.malformed == 1 { "line that cannot be read:" } else { "lines that cannot be read:" });
        if !rest.is_empty() {
            let _ = writeln!(text, "\nbeside these:\n{}", rest.join("\n"));
        }
        for (place, why) in &self.named {
            let _ = writeln!(text, "    {place}: {why}");
        }
        if self.malformed > self.named.len() as u64 && !self.named.is_empty() {
            let _ = writeln!(text, "    and {} more", self.malformed - self.named.len() as u64);
        }
        let _ = writeln!(text, "\nnames are not looked up: a name that leads to an address which the policy closes is denied all the same");
    }
}

fn write_change(text: &mut String, change: &Change) {
    let _ = writeln!(text, "  {} x {}", change.count, change.request().escape_debug());
    let program = if change.by_program { " by the embedding program" } else { "" };
    let was = if change.old == "allow" {
        format!("allowed{program}")
    } else {
        // What a log says may have been written by anybody: it does not act on a terminal, and does not begin lines of its own.
        format!("{}{program}: {}", denied(&change.old), change.old_reason.escape_debug())
    };
    let why = change.reason.map(|reason| format!("denied: {reason}")).unwrap_or_else(|| "allowed".to_owned());
    let rule = change.rule_text().map(|rule| format!(", {rule}")).unwrap_or_default();
    let _ = writeln!(text, "    was {was}\n    now {why}{rule}\n    first at {}", change.first);
}

fn denied(old: &str) -> &str {
    if old == "ask" { "to be asked about" } else { "denied" }
}

fn number(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
