//! Layered TOML to a policy blob.
//!
//! The pipeline: read each layer ([`source`], [`schema`]), [`merge`] them, hold the result against what administrators require ([`requirements`]), [`check`] it, and
//! lower it ([`emit`]). Every stage reports through [`diagnostic`], and all of them run as far as they can, so that one run shows everything that is wrong.

pub mod change;
pub mod check;
pub mod decompile;
pub mod diagnostic;
pub mod diff;
pub mod emit;
pub mod explain;
#[cfg(feature = "cli")]
pub mod init;
#[cfg(feature = "cli")]
pub mod json_schema;
pub mod keys;
pub mod lists;
#[cfg(feature = "logs")]
pub mod log;
pub mod merge;
#[cfg(feature = "migrate")]
pub mod migrate;
pub mod policy;
pub mod presets;
pub mod profiles;
#[cfg(feature = "logs")]
pub mod replay;
pub mod requirements;
pub mod schema;
pub mod source;
pub mod suffix;
pub mod testing;
#[cfg(feature = "logs")]
pub mod verify;

pub use policy_format::Layer;
pub use policy_format::asked as request;
pub use profiles::Selection;

use check::{ListSummary, ShowProgress};
use diagnostic::{Code, Diagnostic, Failure};
use emit::Lowering;
use policy_format::{MAX_PROFILES, Meta, Settings};
use profiles::ProcessPlaces;
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
    compile_profiles(sources, Selection { named: options.profile.as_slice(), all: false }, options.strict, progress)
}

/// Compiles several profiles of layers, strongest first, into one blob: each as if it were alone, and rules that several have stored once.
///
/// # Errors
/// [`Failure`] with everything that is wrong.
pub fn compile_profiles(
    sources: Vec<SourceFile>,
    selection: Selection<'_>,
    strict: bool,
    progress: ShowProgress<'_>,
) -> Result<Compiled, Failure> {
    let mut diagnostics = Vec::new();
    let lowered = policies(&sources, selection, progress, &mut diagnostics);
    // In the order of the files, not of the stages.
    diagnostics.sort_by_key(|diagnostic| diagnostic.places.first().map(|(place, _)| (place.source, place.span.start)));
    let strict = strict && !diagnostics.is_empty();
    if strict {
        let message = "warnings are errors here (`--strict`)";
        diagnostics.push(Diagnostic::general(Code::Strict, message));
    }
    match lowered.filter(|_| !strict) {
        None => Err(Failure { sources, diagnostics }),
        Some((lowering, lists)) => match lowering.build() {
            Ok(blob) => Ok(Compiled { blob, sources, lists, diagnostics }),
            Err(error) => {
                diagnostics.push(Diagnostic::general(Code::TooLarge, error.to_string()));
                Err(Failure { sources, diagnostics })
            }
        },
    }
}

/// The profiles on their way into one blob, and the domain lists that they read.
fn policies(
    sources: &[SourceFile],
    selection: Selection<'_>,
    progress: ShowProgress<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<(Lowering, Vec<ListSummary>)> {
    let numbered = || sources.iter().enumerate().map(|(index, source)| (SourceId(index), source));
    let layers: Option<Vec<_>> =
        numbered().filter(|(_, source)| source.role == Role::Config).map(|(id, source)| schema::read(id, source, diagnostics)).collect();
    let required = numbered().filter(|(_, source)| source.role == Role::Requirements);
    let requirements: Option<Vec<_>> = required.map(|(id, source)| requirements::read(id, source, diagnostics)).collect();
    // A layer that is not TOML would be merged as if it had said nothing; other errors do not keep the rest from being checked.
    let (mut layers, mut requirements) = layers.zip(requirements)?;
    let (wanted, mixed) = profiles::wanted(&layers, selection);
    diagnostics.extend(mixed);
    if wanted.len() > MAX_PROFILES {
        let message = format!("there are {} profiles: at most {MAX_PROFILES} fit into one policy", wanted.len());
        let error = Diagnostic::general(Code::TooLarge, message);
        diagnostics.push(error.with_help("name those that go into it with `--profile`, and compile others into another policy"));
        return None;
    }
    let last = wanted.len() - 1;
    let (mut said, mut checked) = (Vec::new(), Vec::new());
    let mut lowering: Option<Lowering> = None;
    let mut lists: Vec<ListSummary> = Vec::new();
    for (at, name) in wanted.into_iter().enumerate() {
        // The last takes what the others copy: there may be millions of entries.
        let (layers, requirements) = match at == last {
            true => (std::mem::take(&mut layers), std::mem::take(&mut requirements)),
            false => (layers.clone(), requirements.clone()),
        };
        // What was wrong with the files counts for every profile.
        let mut own = diagnostics.clone();
        let mut merged = merge::merge(layers, name.as_deref(), requirements::starts(&requirements), sources, &mut own);
        let demanded = requirements::apply(requirements, &mut merged, sources, &mut own);
        let (name, places) = (merged.profile.clone(), ProcessPlaces::of(merged.network.as_ref()));
        let policy = check::check(merged, demanded, sources, &mut *progress, &mut own);
        said.push((name, own.split_off(diagnostics.len())));
        checked.push(policy.map(|(policy, of_it)| {
            lists.extend(of_it);
            let once = (policy.meta().clone(), policy.settings().clone());
            match &mut lowering {
                Some(lowering) => lowering.add(policy),
                None => lowering = Some(Lowering::new(policy)),
            }
            (once, places)
        }));
    }
    diagnostics.extend(profiles::join(said));
    // Of none may anything be wrong.
    let checked: Vec<((Meta, Settings), ProcessPlaces)> = checked.into_iter().collect::<Option<_>>()?;
    let differences = profiles::differences(&checked);
    if !differences.is_empty() {
        diagnostics.extend(differences);
        return None;
    }
    let mut seen = Vec::new();
    lists.retain(|list| {
        let is_new = !seen.contains(list);
        seen.extend(is_new.then(|| list.clone()));
        is_new
    });
    Some((lowering?, lists))
}
