//! Argument types of `netpolicy`.

use clap::{Args, Parser, Subcommand, ValueEnum};
use policy_compiler::replay::Time;
use policy_compiler::source::LayerFiles;
use policy_format::chain::Link;
use std::ffi::OsString;
use std::path::PathBuf;

/// The heading over the flags of layers.
const LAYERS: &str = "Layers, strongest first (naming a file turns the default places off)";

/// Compiles layered TOML into a policy that netproxy-dp enforces.
#[derive(Debug, Parser)]
#[command(name = "netpolicy", version, max_term_width = 100, after_help = "Exit codes: 0 done, 1 the answer is no, 2 bad usage or input.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, for as long as the arguments are looked at")]
pub(crate) enum Command {
    /// Merge the layers, check them, and write one binary policy
    #[command(after_help = "Exit codes: 0 the policy is written, 2 it is not.")]
    Compile(Compile),
    /// Say what is wrong with the layers, and write nothing
    #[command(after_help = "Exit codes: 0 nothing is wrong, 1 something is, 2 bad usage or unreadable files.")]
    Check(Check),
    /// Say what a policy answers, why, and what would change the answer
    Explain(Explain),
    /// Run a command under the policy of the layers, with a proxy of its own
    #[command(
        after_help = "Exit codes: the command's own; 126 it cannot be run, 127 there is none of that name, 2 bad usage, input or policy."
    )]
    Run(Run),
    /// Run the tests of a policy
    #[command(after_help = "Exit codes: 0 every case passes, 1 one fails or the coverage is too low, 2 bad usage or input.")]
    Test(Test),
    /// Say exactly what a new policy opens and closes, each with a request that shows it
    #[command(after_help = "Exit codes: 0 no difference that counts, 1 there is one (see --fail-on), 2 bad usage or input.")]
    Diff(Diff),
    /// Say which past decisions a new policy would change
    #[command(after_help = "Exit codes: 0 nothing would change, 1 something would, 2 bad usage or input.")]
    Replay(Replay),
    /// Check audit logs
    Audit(Audit),
    /// Show what a compiled policy says, or turn it back into TOML
    Inspect(Inspect),
    /// Rewrite older spellings, or another tool's lists, as this version documents them
    Migrate(Migrate),
    /// List the built-in domain sets, show one, or find those that cover a host
    Presets(Presets),
    /// Look at a project, and write a first policy and a test of it
    Init(Init),
    /// Print the JSON Schema of the TOML, for editors
    Schema(Schema),
    /// Print a completion script for a shell
    Completions(Completions),
    /// Print the manual page, or write one for each command
    Man(Man),
}

#[derive(Debug, Args)]
pub(crate) struct Compile {
    #[command(flatten)]
    pub(crate) layers: Layers,

    /// Where to write the policy; `-` is standard output. The file is replaced whole, never written in place
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,

    #[command(flatten)]
    pub(crate) profiles: Profiles,

    /// Treat warnings as errors
    #[arg(long)]
    pub(crate) strict: bool,

    /// Print what was made, or what is wrong, as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) layers: Layers,

    /// Permission profile to compile, instead of `default_permissions`
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,

    /// Treat warnings as errors
    #[arg(long)]
    pub(crate) strict: bool,

    /// Say on standard error what is blocked, and why
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// The proxy [default: the one beside this program, else that in PATH]
    #[arg(long, value_name = "PATH")]
    pub(crate) netproxy_dp: Option<PathBuf>,

    /// The command and its arguments; `--` stands before one that begins with `-`
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// Which permission profiles go into one policy.
#[derive(Debug, Args)]
pub(crate) struct Profiles {
    /// Permission profile to compile, instead of `default_permissions`. Repeatable: the first is the policy's default
    #[arg(id = "profile", long = "profile", value_name = "NAME")]
    pub(crate) names: Vec<String>,

    /// Compile every profile that the layers define: the default first, the others by name
    #[arg(long = "all-profiles")]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(crate) layers: Layers,

    #[command(flatten)]
    pub(crate) profiles: Profiles,

    /// Treat warnings as errors
    #[arg(long)]
    pub(crate) strict: bool,

    /// How to say it: text on standard error; json or sarif (2.1.0) on standard output
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    pub(crate) format: Format,

    /// The same as `--format json`
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
}

/// How diagnostics are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
    Sarif,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Folder of the project [default: the repository's root, else the working directory]
    #[arg(value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,

    /// Where to write the policy; the test goes beside it [default: .codex/config.toml in DIR]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Replace files that are there
    #[arg(long)]
    pub(crate) force: bool,

    /// Print the files on standard output, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print what was seen and made as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// The schema of requirements.toml, instead of config.toml
    #[arg(long)]
    pub(crate) requirements: bool,

    /// The schema of policy.test.toml, instead of config.toml
    #[arg(long, conflicts_with = "requirements")]
    pub(crate) test: bool,

    /// For uniformity: the schema is JSON anyway
    #[arg(long, hide = true)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write netpolicy.1 and a page for each command into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// The file to rewrite. Comments, order and everything outside the network policy stay as they are
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// FILE is of another tool: its lists are written as a policy, to standard output without `-o`
    #[arg(long, value_name = "TOOL", value_parser = ["srt", "smokescreen", "squid", "claude-settings"], conflicts_with_all = ["dry_run", "requirements"])]
    pub(crate) from: Option<String>,

    /// The service whose rule is taken, with `--from smokescreen` [default: the file's `default`]
    #[arg(long, value_name = "NAME", requires = "from")]
    pub(crate) service: Option<String>,

    /// Show what would change as a diff, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Where to write instead of FILE; `-` is standard output
    #[arg(short, long, value_name = "OUT", conflicts_with = "dry_run")]
    pub(crate) output: Option<PathBuf>,

    /// Permission profile for what has none [default: `default_permissions`, else workspace]
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,

    /// FILE is a requirements file; one with `[experimental_network]` is taken for one anyway
    #[arg(long)]
    pub(crate) requirements: bool,

    /// Print what was done as JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
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
        /// A name or an address, with or without a port: presets hold for every port
        host: String,
    },
}

/// A compiled policy, or the layers to compile.
#[derive(Debug, Args)]
pub(crate) struct Subject {
    /// Compiled policy to ask, instead of layers
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "mdm", "mdm_config_base64", "mdm_requirements_base64", "managed", "requirements", "overrides", "user", "project", "discover"
        ]
    )]
    pub(crate) policy: Option<PathBuf>,

    /// Permission profile to ask, instead of `default_permissions` or the compiled policy's default
    #[arg(long, visible_alias = "as", value_name = "NAME")]
    pub(crate) profile: Option<String>,

    #[command(flatten)]
    pub(crate) layers: Layers,
}

#[derive(Debug, Args)]
#[command(after_help = "Requests:
  GET https://host[:port]/path   the tunnel for it; method and path are inside TLS
  GET http://host[:port]/path    a plain request, with any method; a URL by itself is a GET
  CONNECT host:port              a tunnel
  socks host:port                a SOCKS5 connection
  udp host:port                  a SOCKS5 datagram
  host, host:port, an address    a tunnel, to port 443 unless another is named

Exit codes: 0 the request is allowed, 1 it is blocked, 2 bad usage or input.")]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) subject: Subject,

    /// What the host resolves to, to decide on its addresses too. Repeatable
    #[arg(long, value_name = "NAME=IP[,IP]")]
    pub(crate) resolve: Vec<String>,

    /// A header field of a request inside TLS. Repeatable
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,

    /// The body of a request inside TLS; JSON, unless a header says otherwise
    #[arg(long, value_name = "TEXT")]
    pub(crate) body: Option<String>,

    /// Explain for a data plane that opens no TLS
    #[arg(long)]
    pub(crate) no_interception: bool,

    /// Print the explanation as JSON
    #[arg(long)]
    pub(crate) json: bool,

    /// The request, in words
    #[arg(required = true, value_name = "REQUEST")]
    pub(crate) request: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Test {
    #[command(flatten)]
    pub(crate) subject: Subject,

    /// Test files [default: policy.test.toml beside each layer that is read or the policy, and in .codex where no layer is named]
    #[arg(value_name = "TESTFILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Another test file. Repeatable
    #[arg(long, value_name = "FILE")]
    pub(crate) tests: Vec<PathBuf>,

    /// Write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,

    /// Show which rules no test exercised; those of presets and lists are only counted
    #[arg(long)]
    pub(crate) coverage: bool,

    /// Fail when the tests exercise fewer rules than this, in percent; those of presets and lists do not count
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) fail_under: Option<u8>,

    /// Test for a data plane that opens no TLS
    #[arg(long)]
    pub(crate) no_interception: bool,

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

    /// Print TOML that compiles to an equivalent policy; of several profiles, the one of --profile
    #[arg(long, conflicts_with_all = ["json", "rules"])]
    pub(crate) toml: bool,

    /// Permission profile to show, instead of all that the policy has
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The old policy: a compiled one, or a configuration (read as the user's layer)
    pub(crate) old: PathBuf,

    /// The new policy, likewise
    pub(crate) new: PathBuf,

    /// Permission profile to compare, of both sides; without it, each side's default is compared, and no other
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,

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

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// The new policy, compiled
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: PathBuf,

    /// Audit logs of the proxy, lines of JSON; `-` is standard input
    #[arg(value_name = "LOG", required = true)]
    pub(crate) logs: Vec<PathBuf>,

    /// Permission profile to ask, instead of the policy's default
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,

    /// Only what was decided then or later: a day, or a time, in UTC
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Time>,

    /// Only what was decided before
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Time>,

    /// Kinds of requests to show of each direction [default: 20, with --json all]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,

    /// For a data plane that opens no TLS
    #[arg(long)]
    pub(crate) no_interception: bool,

    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    #[command(subcommand)]
    pub(crate) task: AuditTask,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditTask {
    /// Check that logs are as they were written, by their hash chain
    #[command(after_help = "Exit codes: 0 all of it is as it was written, 1 it is not, 2 bad usage or unreadable files.")]
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The files of one log, in any order: their headers say which comes first
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,

    /// The last file is being written: lines behind its last seal are no fault
    #[arg(long)]
    pub(crate) open: bool,

    /// A hash that was noted before, which a seal has to have: what stood before it is still there. Repeatable
    #[arg(long, value_name = "HASH")]
    pub(crate) noted: Vec<Link>,

    /// Print the result as JSON
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
#[derive(Debug, Clone, Args)]
pub(crate) struct Layers {
    /// Device management property list (XML or binary) with config_toml_base64 and requirements_toml_base64
    #[arg(help_heading = LAYERS, long, value_name = "PLIST")]
    mdm: Option<PathBuf>,

    /// File with base64 of the device management settings
    #[arg(help_heading = LAYERS, long, value_name = "FILE", conflicts_with = "mdm")]
    mdm_config_base64: Option<PathBuf>,

    /// File with base64 of the device management requirements
    #[arg(help_heading = LAYERS, long, value_name = "FILE", conflicts_with = "mdm")]
    mdm_requirements_base64: Option<PathBuf>,

    /// Administrator's settings [default place: /etc/codex/managed_config.toml]
    #[arg(help_heading = LAYERS, long, value_name = "FILE")]
    managed: Option<PathBuf>,

    /// Administrator's requirements [default place: /etc/codex/requirements.toml]
    #[arg(help_heading = LAYERS, long, value_name = "FILE")]
    requirements: Option<PathBuf>,

    /// A setting by itself; the value is TOML, or else text. Repeatable, later ones win
    #[arg(help_heading = LAYERS, short = 'c', value_name = "KEY=VALUE")]
    overrides: Vec<String>,

    /// User's settings [default place: $CODEX_HOME/config.toml, else ~/.codex/config.toml]
    #[arg(help_heading = LAYERS, long, value_name = "FILE")]
    user: Option<PathBuf>,

    /// Project's settings [default place: .codex/config.toml, from here up to the repository's root]
    #[arg(help_heading = LAYERS, long, value_name = "FILE")]
    project: Option<PathBuf>,

    /// Look in the default places for the layers that are not named
    #[arg(help_heading = LAYERS, long)]
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
