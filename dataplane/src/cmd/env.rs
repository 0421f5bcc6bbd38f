//! `netproxy-dp env`: the variables, in the words of a shell.

use super::{environment, no, print, running, state_dir};
use crate::cli::Env;
use crate::{Failure, unusable};
use netproxy::child::{Shell, dummies, removed};
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) fn run(arguments: &Env) -> Result<u8, Failure> {
    let (parent, shell) = (environment(), Shell::from(arguments.shell));
    if arguments.unset {
        let folder = state_dir(&arguments.state).and_then(|folder| std::path::absolute(folder).ok());
        let text = shell.restore(&removed(&parent, folder.as_deref().unwrap_or(Path::new("/nonexistent"))));
        print(&text.map_err(unusable)?);
        return Ok(0);
    }
    let (manifest, folder) = running(&arguments.state)?;
    let dummies = dummies(&folder).map_err(no)?;
    let mut env = manifest.env;
    env.connect = std::env::current_exe().ok();
    for (name, path) in env.missing(&parent, &manifest.included) {
        eprintln!(
            "warning: `{name}` names `{}`, and the running proxy does not know the authorities in it: start it with that variable set",
            path.display()
        );
    }
    let variables = env.variables(&parent);
    let withheld: BTreeMap<&str, Option<String>> =
        dummies.withheld.iter().filter(|name| parent.contains_key(*name)).map(|name| (name.as_str(), None)).collect();
    if !withheld.is_empty() && matches!(shell, Shell::Json | Shell::Dotenv | Shell::Docker) {
        let names: Vec<&str> = withheld.keys().copied().collect();
        eprintln!("warning: the policy keeps credentials from commands that this form cannot take away: unset {}", names.join(", "));
    } else if !withheld.is_empty() {
        print(&shell.restore(&withheld).map_err(unusable)?);
    }
    let text = shell.set(variables.iter().map(|(name, value)| (*name, value.as_str())).chain(dummies.assignments()));
    print(&text.map_err(unusable)?);
    Ok(0)
}
