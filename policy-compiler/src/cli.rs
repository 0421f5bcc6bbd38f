//! Argument types of `netpolicy`.

use clap::{Args, Parser, Subcommand};
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
    Compile(Box<Compile>),
    /// List the built-in domain sets, show one, or find those that cover a host
    Presets(Presets),
}

#[derive(Debug, Args)]
pub(crate) struct Presets {
    #[command(subcommand)]
    pub(crate) question: Option<PresetsQuestion>,

    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PresetsQuestion {
    /// Print a preset's patterns by group, with its source and date
    Show {
        /// Such as `common-dependencies`
        name: String,
    },
    /// Print each preset and pattern that covers a host; exit with 1 when none does. `all`, which covers every host, is left out
    Which {
        /// A name or an address
        host: String,
    },
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
