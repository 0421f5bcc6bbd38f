//! Compiles `examples/default.toml` into the policy that runs when none is given.

use policy_compiler::source::{Role, SourceFile};
use policy_compiler::{Layer, Options, compile};
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../examples/default.toml");
    println!("cargo::rerun-if-changed={}", file.display());
    let source = SourceFile::from_text(Layer::User, Role::Config, "default.toml", fs::read_to_string(&file)?);
    let compiled = compile(vec![source], Options { profile: None, strict: true }).map_err(|failure| failure.to_string())?;
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("default.bin"), compiled.blob)?;
    Ok(())
}
