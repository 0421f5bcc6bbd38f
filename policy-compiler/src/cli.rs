//! Argument types of `netpolicy`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use policy_compiler::source::LayerFiles;
use std::path::PathBuf;

/// Compiles layered TOML into a policy that netproxy-dp enforces.
#[derive(Debug, Parser)]
#[command(name = "netpolicy", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Merge the layers, check them, and write one binary policy
    Compile(Compile),
    /// Say exactly what a new policy opens and closes, each with a request that shows it; exit code 1 if there is a difference
    Diff(Diff),
}

#[derive(Debug, Args)]
pub(crate) struct Compile {
    #[command(flatten)]
    pub(crate) layers: Layers,

    /// Where to write the policy; `-` is standard output. The file is replaced whole, never written in place
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,

    /// Permission profile to compile, instead of `default_permissions`
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,

    /// Treat warnings as errors
    #[arg(long)]
    pub(crate) strict: bool,

    /// Print what was made as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The old policy: a compiled one, or a configuration (read as the user's layer)
    pub(crate) old: PathBuf,

    /// The new policy, likewise
    pub(crate) new: PathBuf,

    /// Which differences make the exit code 1
    #[arg(long, value_name = "WHAT", default_value = "any")]
    pub(crate) fail_on: FailOn,

    /// Show every group of requests, not only the first ones
    #[arg(long)]
    pub(crate) all: bool,

    /// Print everything as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// Differences that matter to a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    /// Any difference
    Any,
    /// Something became reachable, or a setting looser
    Widen,
}

/// Where the layers are, strongest first: mdm, managed, cli, user, project.
#[derive(Debug, Args)]
#[command(next_help_heading = "Layers (strongest first; naming a file turns the default places off, -c does not)")]
pub(crate) struct Layers {
    /// Device management property list (XML or binary) with config_toml_base64 and requirements_toml_base64
    #[arg(long, value_name = "PLIST")]
    mdm: Option<PathBuf>,

    /// File with base64 of the device management settings
    #[arg(long, value_name = "FILE", conflicts_with = "mdm")]
    mdm_config_base64: Option<PathBuf>,

    /// File with base64 of the device management requirements
    #[arg(long, value_name = "FILE", conflicts_with = "mdm")]
    mdm_requirements_base64: Option<PathBuf>,

    /// Administrator's settings [default place: /etc/codex/managed_config.toml]
    #[arg(long, value_name = "FILE")]
    managed: Option<PathBuf>,

    /// Administrator's requirements [default place: /etc/codex/requirements.toml]
    #[arg(long, value_name = "FILE")]
    requirements: Option<PathBuf>,

    /// A setting by itself; the value is TOML, or else text. Repeatable, later ones win
    #[arg(short = 'c', value_name = "KEY=VALUE")]
    overrides: Vec<String>,

    /// User's settings [default place: $CODEX_HOME/config.toml, else ~/.codex/config.toml]
    #[arg(long, value_name = "FILE")]
    user: Option<PathBuf>,

    /// Project's settings [default place: .codex/config.toml, from here up to the repository's root]
    #[arg(long, value_name = "FILE")]
    project: Option<PathBuf>,

    /// Look in the default places for the layers that are not named
    #[arg(long)]
    discover: bool,
}

impl From<Layers> for LayerFiles {
    fn from(layers: Layers) -> Self {
        Self {
            mdm: layers.mdm,
            mdm_config_base64: layers.mdm_config_base64,
            mdm_requirements_base64: layers.mdm_requirements_base64,
            managed: layers.managed,
            requirements: layers.requirements,
            overrides: layers.overrides,
            user: layers.user,
            project: layers.project,
            discover: layers.discover,
        }
    }
}
