//! `netproxy-dp init`: an authority that lasts.

use super::{no, print, state_dir};
use crate::cli::{Init, State};
use crate::{Failure, unusable};
use netproxy::child::StateDir;
use netproxy::child::persistent::{self, InitError};
use serde_json::json;
use std::fmt::Write as _;

pub(crate) fn run(arguments: &Init) -> Result<u8, Failure> {
    let folder = match &arguments.dir {
        Some(folder) => folder.clone(),
        None => {
            let state =
                state_dir(&State { state_dir: None }).ok_or_else(|| unusable("there is no home folder: name a folder with `--dir`"))?;
            // Made as the proxy would make it: what is below it is not for the owner only.
            StateDir::open(&state).map_err(unusable)?;
            state.join("ca")
        }
    };
    let made = persistent::init(&folder, persistent::generate).map_err(|error| match error {
        InitError::Exists(_) => no(error),
        error => unusable(error),
    })?;
    let (certificate, key) = (made.certificate.to_string_lossy(), made.key.to_string_lossy());
    // A TOML string in JSON's quotes is the same string.
    let toml = format!("ca_cert_path = {}\nca_key_path = {}\n", json!(certificate), json!(key));
    let instructions = persistent::instructions(&made.certificate);
    if arguments.json {
        let trust: serde_json::Map<_, _> = instructions.into_iter().map(|(whom, lines)| (whom.to_owned(), json!(lines))).collect();
        print(&format!("{:#}\n", json!({ "certificate": certificate, "key": key, "toml": toml, "trust": trust })));
        return Ok(0);
    }
    let mut text = format!(
        "wrote {certificate} (to be trusted) and {key} (secret: who has it can read all TLS of whoever trusts the other)\n\nin the policy, under [permissions.NAME.network.mitm]:\n"
    );
    // Writing to a string does not fail.
    for line in toml.lines() {
        let _ = writeln!(text, "    {line}");
    }
    text.push_str("\nchildren of `netproxy-dp exec` and shells with `netproxy-dp env` trust it by themselves; to trust it everywhere:\n");
    for (whom, lines) in instructions {
        let _ = writeln!(text, "{whom}:");
        for line in lines {
            let _ = writeln!(text, "    {line}");
        }
    }
    print(&text);
    Ok(0)
}
