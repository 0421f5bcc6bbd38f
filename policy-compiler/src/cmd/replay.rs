//! `netpolicy replay`.

use super::{fail, open_policy, stream, stream_text};
use crate::cli::Replay as Arguments;
use policy_compiler::profiles::Profile;
use policy_compiler::replay::{Change, Options, Replay, Replayer};
use policy_format::Reason;
use serde_json::{Value, json};
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

/// Kinds of each direction that are shown as text.
const SHOWN: usize = 20;

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let policy = match open_policy(&arguments.policy) {
        Ok(policy) => policy,
        Err(code) => return code,
    };
    let profile = match Profile::named(&policy, arguments.profile.as_deref()) {
        Ok(profile) => profile,
        Err(error) => return fail(format_args!("`{}`: {error}", arguments.policy.display())),
    };
    let options = Options { since: arguments.since, until: arguments.until, no_interception: arguments.no_interception };
    let mut replayer = Replayer::new(profile, options);
    for path in &arguments.logs {
        let read = match path == Path::new("-") {
            true => replayer.read("-", std::io::stdin().lock()),
            false => File::open(path).and_then(|file| replayer.read(&path.display().to_string(), file)),
        };
        if let Err(error) = read {
            return fail(format_args!("cannot read `{}`: {error}", path.display()));
        }
    }
    let replay = replayer.finish();
    if let (0, 0, Some((place, why))) = (replay.decisions, replay.out_of_time, replay.named.first()) {
        return fail(format_args!(
            "no decision is in these logs, and {} lines cannot be read; the first is {place}: {why}",
            replay.malformed
        ));
    }
    match (replay.decisions, replay.out_of_time) {
        (0, 0) => return fail("no decision is in these logs"),
        (0, others) => return fail(format_args!("no decision in these logs is of that time: {others} of another time are")),
        _ => {}
    }
    let code = ExitCode::from(u8::from(replay.changes_anything()));
    match arguments.json {
        true => stream(code, |out| writeln!(out, "{}", to_json(profile, &replay, arguments.limit.unwrap_or(usize::MAX)))),
        false => stream_text(code, |out| write!(out, "{}", replay.render(arguments.limit.unwrap_or(SHOWN)))),
    }
}

fn to_json(profile: Profile<'_, Vec<u8>>, replay: &Replay, limit: usize) -> Value {
    let unknown = replay.unknown.iter().map(|(why, count)| (why.as_str().to_owned(), (*count).into()));
    let of = |opened: bool| replay.changes.iter().filter(move |change| change.opened == opened).take(limit);
    json!({
        "policy": profile.blob().digest().to_string(),
        "profile": profile.meta().profile,
        "decisions": replay.decisions,
        "opened": replay.opened,
        "closed": replay.closed,
        "denied_otherwise": replay.otherwise,
        "asked_again": replay.asked_again,
        "asked_no_more": replay.asked_no_more,
        "cannot_tell": unknown.collect::<serde_json::Map<String, Value>>(),
        "unlisted": replay.unlisted,
        "other_events": replay.others,
        "out_of_time": replay.out_of_time,
        "malformed": replay.malformed,
        "malformed_lines": replay.named.iter().map(|(place, why)| json!({ "place": place.to_string(), "why": why })).collect::<Vec<_>>(),
        "kinds": replay.changes.len(),
        "changes": of(true).chain(of(false)).map(change).collect::<Vec<_>>(),
    })
}

fn change(change: &Change) -> Value {
    json!({
        "direction": if change.opened { "opened" } else { "closed" },
        "by_program": change.by_program,
        "count": change.count,
        "request": change.request(),
        "protocol": change.protocol.as_str(),
        "host": change.host.to_string(),
        "port": change.port,
        "method": change.method,
        "old": { "decision": change.old, "reason": change.old_reason },
        "new": {
            "decision": if change.opened { "allow" } else { "deny" },
            "reason": change.reason.map_or("allow", Reason::as_str),
            "rule": change.rule.as_ref().map(super::rule_json),
        },
        "first": change.first.to_string(),
    })
}
