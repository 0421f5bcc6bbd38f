//! `netpolicy diff`.

use super::{compile, fail, say, say_rendered, stream};
use crate::cli::{Diff as Arguments, FailOn};
use policy_compiler::Options;
use policy_compiler::diagnostic::visible;
use policy_compiler::diff::{
    Cause, Diff, MAX_SHOWN, ProfileNames, Resolution, Shown, ShownRule, Surface, Verdict, Witness, compare_profiles,
};
use policy_compiler::profiles::Profile;
use policy_compiler::source::{LayerFiles, Places};
use policy_format::{Blob, MAGIC};
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let profile = arguments.profile.as_deref();
    let ((old, old_is_whole), (new, new_is_whole)) = match (read(&arguments.old, profile), read(&arguments.new, profile)) {
        (Ok(old), Ok(new)) => (old, new),
        (old, new) => {
            for error in [old.err(), new.err()].into_iter().flatten() {
                say_rendered(&error);
            }
            return ExitCode::from(2);
        }
    };
    let chosen = |policy, path: &Path| Profile::named(policy, profile).map_err(|error| fail(format_args!("`{}`: {error}", path.display())));
    let (of_old, of_new) = match (chosen(&old, &arguments.old), chosen(&new, &arguments.new)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    let diff = match compare_profiles(of_old, of_new) {
        Ok(diff) if old_is_whole && new_is_whole => diff,
        // Of a configuration only the profile is compiled that is compared.
        Ok(diff) => Diff { profiles: ProfileNames::default(), ..diff },
        Err(error) => return fail(error),
    };
    let text = if arguments.json {
        format!("{}\n", to_json(&diff))
    } else {
        visible(&diff.render(if arguments.all { usize::MAX } else { MAX_SHOWN })).into_owned()
    };
    let fails = match arguments.fail_on {
        FailOn::Any => !diff.is_empty(),
        FailOn::Widen => diff.widens(),
    };
    // Whoever closes the pipe has read enough; the exit code still says what was found.
    stream(ExitCode::from(u8::from(fails)), |out| out.write_all(text.as_bytes()))
}

/// A policy as it is, or a configuration, of which one profile is compiled as the user's layer; and whether all of its profiles are there.
fn read(path: &Path, profile: Option<&str>) -> Result<(Blob<Vec<u8>>, bool), String> {
    let error = |error: &dyn std::fmt::Display| visible(&format!("error: cannot read `{}`: {error}", path.display())).into_owned();
    let mut start = Vec::new();
    let file = fs::File::open(path).map_err(|why| error(&why))?;
    file.take(MAGIC.len() as u64).read_to_end(&mut start).map_err(|why| error(&why))?;
    let is_policy = start == MAGIC;
    let bytes = if is_policy {
        fs::read(path).map_err(|why| error(&why))?
    } else {
        let layers = LayerFiles { user: Some(path.to_owned()), ..LayerFiles::default() };
        let sources = layers.read(&Places::default()).map_err(|why| visible(&format!("error: {why}")).into_owned())?;
        let compiled = compile(sources, Options { profile, strict: false }).map_err(|failure| {
            policy_compiler::diagnostic::render(&failure.sources, &failure.diagnostics, super::color(&std::io::stderr()))
        })?;
        match compiled.diagnostics.len() {
            0 => {}
            1 => say(format_args!("1 warning about {}, shown by `netpolicy check`", path.display())),
            n => say(format_args!("{n} warnings about {}, shown by `netpolicy check`", path.display())),
        }
        compiled.blob
    };
    Blob::open(bytes).map(|blob| (blob, is_policy)).map_err(|why| error(&why))
}

fn to_json(diff: &Diff) -> Value {
    let changes = diff.changes.iter().map(|change| {
        let (include, except) = change.hosts.patterns();
        json!({
            "reach": change.reach.as_str(),
            "hosts": { "include": include, "except": except, "kinds": change.hosts.kinds },
            "requests": surfaces(&change.surfaces),
            "cause": cause(&change.cause),
            "witness": witness(&change.witness),
        })
    });
    json!({
        "widens": diff.widens(),
        "profiles": { "only_old": diff.profiles.only_old, "only_new": diff.profiles.only_new },
        "settings": diff.settings.iter().map(|change| json!({
            "key": change.key,
            "old": change.old,
            "new": change.new,
            "direction": change.direction.as_str(),
        })).collect::<Vec<_>>(),
        "changes": changes.collect::<Vec<_>>(),
        "resolutions": diff.resolutions.iter().map(resolution).collect::<Vec<_>>(),
        "blocked_otherwise": diff.blocked_otherwise,
    })
}

fn resolution(change: &Resolution) -> Value {
    let Shown { include, except } = &change.shown;
    json!({
        "reach": change.reach.as_str(),
        "names": change.names.as_str(),
        "addresses": { "include": include, "except": except },
        "requests": surfaces(&change.surfaces),
        "cause": cause(&change.cause),
        "witness": witness(&change.witness),
    })
}

fn surfaces(surfaces: &[Surface]) -> Vec<Value> {
    let one = |surface: &Surface| {
        json!({
            "ports": surface.ports.iter().map(|range| json!([range.first, range.last])).collect::<Vec<_>>(),
            "tunnels": surface.tunnels,
            "http": surface.plain.iter().map(|plain| json!({
                "methods": plain.methods.to_string(),
                "paths": plain.paths.to_string(),
            })).collect::<Vec<_>>(),
        })
    };
    surfaces.iter().map(one).collect()
}

fn rule(rule: &ShownRule) -> Value {
    json!({ "text": rule.text, "place": rule.place })
}

fn cause(cause: &Cause) -> Value {
    match cause {
        Cause::Other => json!({ "kind": "other" }),
        Cause::Added(own) => json!({ "kind": "added", "rule": rule(own) }),
        Cause::Removed(own) => json!({ "kind": "removed", "rule": rule(own) }),
    }
}

fn witness(witness: &Witness) -> Value {
    let verdict = |verdict: &Verdict| json!({ "verdict": verdict.text, "rule": verdict.rule.as_ref().map(rule) });
    json!({
        "request": witness.to_string(),
        "protocol": witness.protocol.as_str(),
        "host": witness.host.to_string(),
        "port": witness.port,
        "method": witness.method,
        "path": witness.path,
        "address": witness.address.map(|ip| ip.to_string()),
        "old": verdict(&witness.old),
        "new": verdict(&witness.new),
    })
}
