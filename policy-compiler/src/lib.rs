//! Layered TOML to a policy blob.
//!
//! The pipeline: read each layer ([`source`], [`schema`]), [`merge`] them, hold the result against what administrators require ([`requirements`]), [`check`] it, and
//! lower it ([`emit`]). Every stage reports through [`diagnostic`], and all of them run as far as they can, so that one run shows everything that is wrong.

pub mod change;
pub mod check;
pub mod decompile;
pub mod diagnostic;
pub mod emit;
pub mod explain;
#[cfg(feature = "cli")]
pub mod init;
#[cfg(feature = "cli")]
pub mod json_schema;
pub mod keys;
pub mod lists;
pub mod merge;
#[cfg(feature = "migrate")]
pub mod migrate;
pub mod policy;
pub mod presets;
pub mod request;
pub mod requirements;
pub mod schema;
pub mod source;
pub mod suffix;
pub mod testing;

pub use policy_format::Layer;

use check::{ListSummary, ShowProgress};
use diagnostic::{Code, Diagnostic, Failure};
use policy::Policy;
use source::{Role, SourceFile, SourceId};

/// How to compile.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// The profile to compile, instead of the one that the layers choose.
    pub profile: Option<&'a str>,
    /// Whether warnings stop the compilation.
    pub strict: bool,
}

/// A blob, and what there was to say about it.
#[derive(Debug)]
pub struct Compiled {
    /// The blob.
    pub blob: Vec<u8>,
    /// The layers that it was made from, strongest first.
    pub sources: Vec<SourceFile>,
    /// The domain lists that were read.
    pub lists: Vec<ListSummary>,
    /// Warnings.
    pub diagnostics: Vec<Diagnostic>,
}

/// Compiles layers, strongest first.
///
/// # Errors
/// [`Failure`] with everything that is wrong.
pub fn compile(sources: Vec<SourceFile>, options: Options<'_>) -> Result<Compiled, Failure> {
    compile_showing(sources, options, &mut |_, _| {})
}

/// Compiles layers, strongest first, and shows how far the reading of domain lists has come.
///
/// # Errors
/// [`Failure`] with everything that is wrong.
pub fn compile_showing(sources: Vec<SourceFile>, options: Options<'_>, progress: ShowProgress<'_>) -> Result<Compiled, Failure> {
    let mut diagnostics = Vec::new();
    let policy = policy(&sources, options, progress, &mut diagnostics);
    // In the order of the files, not of the stages.
    diagnostics.sort_by_key(|diagnostic| diagnostic.places.first().map(|(place, _)| (place.source, place.span.start)));
    let strict = options.strict && !diagnostics.is_empty();
    if strict {
        let message = "warnings are errors here (`--strict`)";
        diagnostics.push(Diagnostic::general(Code::Strict, message));
    }
    match policy.filter(|_| !strict) {
        None => Err(Failure { sources, diagnostics }),
        Some((policy, lists)) => match emit::lower(policy) {
            Ok(blob) => Ok(Compiled { blob, sources, lists, diagnostics }),
            Err(error) => {
                diagnostics.push(Diagnostic::general(Code::TooLarge, error.to_string()));
                Err(Failure { sources, diagnostics })
            }
        },
    }
}

fn policy(
    sources: &[SourceFile],
    options: Options<'_>,
    progress: ShowProgress<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<(Policy, Vec<ListSummary>)> {
    let numbered = || sources.iter().enumerate().map(|(index, source)| (SourceId(index), source));
    let layers: Option<Vec<_>> =
        numbered().filter(|(_, source)| source.role == Role::Config).map(|(id, source)| schema::read(id, source, diagnostics)).collect();
    let required = numbered().filter(|(_, source)| source.role == Role::Requirements);
    let requirements: Option<Vec<_>> = required.map(|(id, source)| requirements::read(id, source, diagnostics)).collect();
    // A layer that is not TOML would be merged as if it had said nothing; other errors do not keep the rest from being checked.
    let (layers, requirements) = layers.zip(requirements)?;
    let mut merged = merge::merge(layers, options.profile, requirements::starts(&requirements), sources, diagnostics);
    let demanded = requirements::apply(requirements, &mut merged, sources, diagnostics);
    check::check(merged, demanded, sources, progress, diagnostics)
}
