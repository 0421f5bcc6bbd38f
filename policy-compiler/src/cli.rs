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
    Compile(Compile),
    /// Say what a policy answers, why, and what would change the answer
    Explain(Explain),
    /// Run the tests of a policy
    Test(Test),
    /// Show what a compiled policy says, or turn it back into TOML
    Inspect(Inspect),
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

/// A compiled policy, or the layers to compile.
#[derive(Debug, Args)]
pub(crate) struct Subject {
    /// Compiled policy to ask, instead of layers
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "mdm", "mdm_config_base64", "mdm_requirements_base64", "managed", "requirements", "overrides", "user", "project", "discover",
            "profile"
        ]
    )]
    pub(crate) policy: Option<PathBuf>,

    /// Permission profile to compile, instead of `default_permissions`
    #[arg(long = "as", alias = "profile", value_name = "PROFILE")]
    pub(crate) profile: Option<String>,

    #[command(flatten)]
    pub(crate) layers: Layers,
}

/// Exit code: 0 when the request is allowed, 1 when it is blocked.
#[derive(Debug, Args)]
#[command(after_help = "Requests:
  GET https://host[:port]/path   the tunnel that a client opens for it; method and path are inside TLS
  GET http://host[:port]/path    a plain request, with any method; a URL by itself is a GET
  CONNECT host:port              a tunnel
  socks host:port                a SOCKS5 connection
  udp host:port                  a SOCKS5 datagram
  host, host:port, an address    a tunnel, to port 443 unless another is named")]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) subject: Subject,

    /// What the host resolves to, to decide on its addresses too. Repeatable
    #[arg(long, value_name = "NAME=IP[,IP]")]
    pub(crate) resolve: Vec<String>,

    /// Print the explanation as JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// The request, in words
    #[arg(required = true, value_name = "REQUEST")]
    pub(crate) request: Vec<String>,
}

/// Exit code: 0 when every case passes, 1 when one fails or the coverage is below --fail-under.
#[derive(Debug, Args)]
pub(crate) struct Test {
    #[command(flatten)]
    pub(crate) subject: Subject,

    /// Test files [default: policy.test.toml beside each named layer or the policy, and .codex/policy.test.toml]
    #[arg(value_name = "TESTFILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Another test file. Repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) tests: Vec<PathBuf>,

    /// Write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,

    /// Show which rules no test exercised
    #[arg(long)]
    pub(crate) coverage: bool,

    /// Fail when the tests exercise fewer rules than this, in percent
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) fail_under: Option<u8>,

    /// Run only the cases whose name has this text
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,

    /// Print the results as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Compiled policy
    #[arg(value_name = "POLICY")]
    pub(crate) policy: PathBuf,

    /// Print as JSON; with --rules one object a line
    #[arg(long)]
    pub(crate) json: bool,

    /// Print every rule, one a line
    #[arg(long)]
    pub(crate) rules: bool,

    /// Print TOML that compiles to an equivalent policy
    #[arg(long, conflicts_with_all = ["json", "rules"])]
    pub(crate) toml: bool,
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

impl Layers {
    /// The files that are named, the strongest first.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let files = [
            &self.mdm,
            &self.mdm_config_base64,
            &self.mdm_requirements_base64,
            &self.managed,
            &self.requirements,
            &self.user,
            &self.project,
        ];
        files.into_iter().flatten()
    }
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
