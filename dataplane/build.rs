//! Compiles `examples/default.toml` into the policy that runs when none is given, the policy that blocks everything, and that of `netproxy-dp doctor`.

use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Layer, Options, compile};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// In force when the one that was had to be withdrawn.
const BLOCKED: &str = "default_permissions = \"withdrawn\"\n[permissions.withdrawn.network]\nenabled = false\n";

/// For `netproxy-dp doctor`: everything is opened, and only its own origin may be reached.
const DOCTOR: &str = "default_permissions = \"doctor\"
[permissions.doctor.network]
enabled = true
allow_upstream_proxy = false
[permissions.doctor.network.mitm]
mode = \"always\"
[permissions.doctor.network.domains]
\"doctor.netproxy.test\" = \"allow\"
\"127.0.0.1\" = \"allow\"
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../examples/default.toml");
    println!("cargo::rerun-if-changed={}", file.display());
    let folder = PathBuf::from(env::var("OUT_DIR")?);
    // Nothing is wrong with the first, not even a little; the second is switched off, which is worth a warning, and meant.
    let policies = [
        ("default", fs::read_to_string(&file)?, true),
        ("blocked", BLOCKED.to_owned(), false),
        ("doctor", DOCTOR.to_owned(), true),
        ("opaque", DOCTOR.replace("always", "auto"), true),
    ];
    for (name, text, strict) in policies {
        let source = SourceFile::from_text(Layer::User, Role::Config, &format!("{name}.toml"), text);
        let compiled = compile(vec![source], Options { profile: None, strict }).map_err(|failure| failure.to_string())?;
        fs::write(folder.join(format!("{name}.bin")), compiled.blob)?;
    }
    Ok(())
}
