//! The layers: where each is found, in which order, and what was read.

use crate::diagnostic::Place;
use base64::Engine;
use policy_format::Layer;
use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes that a source may have. A policy of ten million names fits.
pub const MAX_SOURCE: u64 = 1 << 30;

/// Index of a source among those that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub usize);

/// What a source says: settings, or what settings may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Settings.
    Config,
    /// Constraints on the settings of weaker layers.
    Requirements,
}

/// A source as it was read.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// The layer that it is.
    pub layer: Layer,
    /// What it says.
    pub role: Role,
    /// Where it was read, for people at this machine.
    shown: String,
    /// Its name without the folder, for the blob.
    label: String,
    /// The folder that its relative paths start from.
    folder: Option<PathBuf>,
    text: String,
}

/// Where layers are to be read.
#[derive(Debug, Clone, Default)]
pub struct LayerFiles {
    /// Property list with `config_toml_base64` and `requirements_toml_base64`, XML or binary.
    pub mdm: Option<PathBuf>,
    /// File with the base64 of the MDM settings.
    pub mdm_config_base64: Option<PathBuf>,
    /// File with the base64 of the MDM requirements.
    pub mdm_requirements_base64: Option<PathBuf>,
    /// The administrator's settings.
    pub managed: Option<PathBuf>,
    /// The administrator's requirements.
    pub requirements: Option<PathBuf>,
    /// `key=value` settings of the command line, in order; later ones win.
    pub overrides: Vec<String>,
    /// The user's settings.
    pub user: Option<PathBuf>,
    /// The project's settings.
    pub project: Option<PathBuf>,
    /// Whether to look in the default places for layers that are not named. Without it, the default places are used only when no file is named; `overrides` are no files.
    pub discover: bool,
}

/// Where the default places are. Taken from the environment by the binary, given by tests.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// `/etc/codex`, if there is such a thing.
    pub etc: Option<PathBuf>,
    /// `$CODEX_HOME`, else `~/.codex`.
    pub codex_home: Option<PathBuf>,
    /// Where the search for `.codex/config.toml` starts.
    pub working_dir: Option<PathBuf>,
}

/// A layer that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The file itself.
    #[error("cannot read the {layer} layer `{path}`: {error}")]
    Read {
        /// Which layer.
        layer: Layer,
        /// Which file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// Too large.
    #[error("the {layer} layer `{path}` has more than {MAX_SOURCE} bytes")]
    TooLarge {
        /// Which layer.
        layer: Layer,
        /// Which file.
        path: String,
    },
    /// Not UTF-8.
    #[error("the {layer} layer `{path}` is not UTF-8 text: byte {at} is wrong")]
    Utf8 {
        /// Which layer.
        layer: Layer,
        /// Which file.
        path: String,
        /// The first wrong byte.
        at: usize,
    },
    /// Not base64.
    #[error("`{path}` does not hold base64: {error}")]
    Base64 {
        /// Which file or key.
        path: String,
        /// Why.
        error: base64::DecodeError,
    },
    /// Not a property list, or not the right one.
    #[error("`{path}` is not a property list with `config_toml_base64` or `requirements_toml_base64`: {what}")]
    Plist {
        /// Which file.
        path: String,
        /// Why.
        what: String,
    },
    /// `-c` without `=`.
    #[error("`-c {0}` is not `key=value`")]
    Override(String),
}

impl SourceFile {
    /// A source from text: `label` is its name in blobs and, here, its place.
    #[must_use]
    pub fn from_text(layer: Layer, role: Role, label: &str, text: String) -> Self {
        Self { layer, role, shown: label.to_owned(), label: label.to_owned(), folder: None, text }
    }

    /// The same source, as if it stood in `folder`.
    #[must_use]
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// The same source with other text.
    #[must_use]
    pub(crate) fn with_text(&self, text: String) -> Self {
        Self { text, ..self.clone() }
    }

    /// The same source, as if it had been read at `shown`.
    #[must_use]
    pub(crate) fn shown_as(mut self, shown: &str) -> Self {
        shown.clone_into(&mut self.shown);
        self
    }

    /// The folder that its relative paths start from; `None` when it is no file.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Where it was read, for people at this machine.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Its name without the folder, for the blob.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The whole lines around a span, for display.
    #[must_use]
    pub(crate) fn excerpt(&self, span: &Range<usize>) -> Excerpt<'_> {
        let start = floor_char(&self.text, span.start);
        let end = floor_char(&self.text, span.end.max(start)).max(start);
        let from = self.text.get(..start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
        let to = self.text.get(end..).and_then(|after| after.find('\n')).map_or(self.text.len(), |at| end + at);
        let line = 1 + self.text.get(..from).unwrap_or_default().bytes().filter(|byte| *byte == b'\n').count();
        Excerpt { text: self.text.get(from..to).unwrap_or_default(), line, span: start - from..end - from }
    }
}

/// Lines of a source with a span in them.
pub(crate) struct Excerpt<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: usize,
    pub(crate) span: Range<usize>,
}

/// The layer that a place belongs to.
pub(crate) fn layer_of(sources: &[SourceFile], place: &Place) -> Layer {
    sources.get(place.source.0).map_or(Layer::Project, |source| source.layer)
}

/// Whether a label is that of a layer's own file, and of no preset or list that it names.
pub(crate) fn is_layers_own(label: &str) -> bool {
    !["preset ", "list "].iter().any(|kind| label.starts_with(kind))
}

fn floor_char(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// Offsets of line starts: from place to line in a search, not a count.
pub(crate) struct Lines(Vec<Vec<usize>>);

impl Lines {
    pub(crate) fn new(sources: &[SourceFile]) -> Self {
        Self(
            sources.iter().map(|source| source.text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect()).collect(),
        )
    }

    /// The line of a place, from 1.
    pub(crate) fn line(&self, place: &Place) -> u32 {
        let newlines = self.0.get(place.source.0).map(Vec::as_slice).unwrap_or_default();
        u32::try_from(1 + newlines.partition_point(|at| *at < place.span.start)).unwrap_or(u32::MAX)
    }
}

/// Lines and columns of many places: one pass over the sources, then a search for each place, however long its line is.
#[cfg(feature = "cli")]
pub(crate) struct Positions<'s> {
    sources: &'s [SourceFile],
    lines: Lines,
    /// Of each source, how many characters begin before every [`STRIDE`]th byte.
    characters: Vec<Vec<usize>>,
}

/// Bytes between two counts of characters.
#[cfg(feature = "cli")]
const STRIDE: usize = 256;

#[cfg(feature = "cli")]
impl<'s> Positions<'s> {
    pub(crate) fn new(sources: &'s [SourceFile]) -> Self {
        let count = |source: &SourceFile| {
            let before = |total: &mut usize, chunk: &[u8]| Some(std::mem::replace(total, *total + characters(chunk)));
            source.text.as_bytes().chunks(STRIDE).scan(0, before).collect()
        };
        Self { sources, lines: Lines::new(sources), characters: sources.iter().map(count).collect() }
    }

    /// The source of a place, and lines and columns of its start and end, all from 1; columns count characters.
    pub(crate) fn of(&self, place: &Place) -> Option<(&'s SourceFile, [(usize, usize); 2])> {
        let source = self.sources.get(place.source.0)?;
        let at = |offset| self.position(place.source, source, offset);
        Some((source, [at(place.span.start), at(place.span.end)]))
    }

    fn position(&self, id: SourceId, source: &SourceFile, offset: usize) -> (usize, usize) {
        let at = floor_char(&source.text, offset);
        let newlines = self.lines.0.get(id.0).map(Vec::as_slice).unwrap_or_default();
        let line = newlines.partition_point(|newline| *newline < at);
        let start = line.checked_sub(1).and_then(|above| newlines.get(above)).map_or(0, |newline| newline + 1);
        (1 + line, 1 + self.characters_before(id, source, at) - self.characters_before(id, source, start))
    }

    fn characters_before(&self, id: SourceId, source: &SourceFile, at: usize) -> usize {
        let Some(counts) = self.characters.get(id.0).filter(|counts| !counts.is_empty()) else { return 0 };
        let stride = (at / STRIDE).min(counts.len() - 1);
        let rest = source.text.as_bytes().get(stride * STRIDE..at).unwrap_or_default();
        counts.get(stride).map_or(0, |before| before + characters(rest))
    }
}

/// How many characters begin in a piece of UTF-8.
#[cfg(feature = "cli")]
fn characters(utf8: &[u8]) -> usize {
    utf8.iter().filter(|byte| (**byte & 0xc0) != 0x80).count()
}

impl LayerFiles {
    fn names_any(&self) -> bool {
        let files = [
            &self.mdm,
            &self.mdm_config_base64,
            &self.mdm_requirements_base64,
            &self.managed,
            &self.requirements,
            &self.user,
            &self.project,
        ];
        files.iter().any(|file| file.is_some())
    }

    /// Whether the default places are looked at.
    #[must_use]
    pub fn looks_around(&self) -> bool {
        self.discover || !self.names_any()
    }

    /// Reads every layer, the strongest first. A file that is named must exist; a default place may be missing.
    ///
    /// # Errors
    /// [`SourceError`] for the first file that cannot be read or is not what it should be.
    pub fn read(&self, places: &Places) -> Result<Vec<SourceFile>, SourceError> {
        let mut found = Vec::new();
        self.read_mdm(&mut found)?;
        let default = |path: Option<PathBuf>| path.filter(|_| self.looks_around());
        let etc = |name: &str| default(places.etc.as_ref().map(|etc| etc.join(name)));
        let user = default(places.codex_home.as_ref().map(|home| home.join("config.toml")));
        let project = default(places.working_dir.as_deref().and_then(find_project));
        let mut add = |layer, role, named: &Option<PathBuf>, default: Option<PathBuf>| -> Result<(), SourceError> {
            let source = match (named, default) {
                (Some(path), _) => Some(read_file(layer, role, path)?),
                (None, Some(path)) => match read_file(layer, role, &path) {
                    Err(SourceError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => None,
                    source => Some(source?),
                },
                (None, None) => None,
            };
            found.extend(source);
            Ok(())
        };
        add(Layer::Managed, Role::Requirements, &self.requirements, etc("requirements.toml"))?;
        add(Layer::Managed, Role::Config, &self.managed, etc("managed_config.toml"))?;
        add(Layer::User, Role::Config, &self.user, user)?;
        add(Layer::Project, Role::Config, &self.project, project)?;
        // Later overrides are stronger than earlier ones.
        let at = found.iter().position(|source| source.layer > Layer::Cli).unwrap_or(found.len());
        for text in &self.overrides {
            found.insert(at, override_source(text)?);
        }
        Ok(found)
    }

    fn read_mdm(&self, found: &mut Vec<SourceFile>) -> Result<(), SourceError> {
        let keys = [("requirements_toml_base64", Role::Requirements), ("config_toml_base64", Role::Config)];
        if let Some(path) = &self.mdm {
            let shown = path.display().to_string();
            let wrong = |what: &dyn fmt::Display| SourceError::Plist { path: shown.clone(), what: what.to_string() };
            let bytes = read_bytes(Layer::Mdm, path)?;
            let list = plist::Value::from_reader(io::Cursor::new(bytes)).map_err(|error| wrong(&error))?;
            let list = list.as_dictionary().ok_or_else(|| wrong(&"it is not a dictionary"))?;
            let before = found.len();
            for (key, role) in keys {
                let encoded = match list.get(key) {
                    Some(plist::Value::String(text)) => text.as_bytes(),
                    Some(plist::Value::Data(data)) => data,
                    Some(_) => return Err(wrong(&format!("`{key}` is not text"))),
                    None => continue,
                };
                found.push(decode_base64(role, &format!("{shown}: {key}"), key, encoded)?);
            }
            if found.len() == before {
                return Err(wrong(&"it has neither"));
            }
        }
        for (file, (key, role)) in [&self.mdm_requirements_base64, &self.mdm_config_base64].into_iter().zip(keys) {
            if let Some(path) = file {
                found.push(decode_base64(role, &path.display().to_string(), key, &read_bytes(Layer::Mdm, path)?)?);
            }
        }
        Ok(())
    }
}

fn decode_base64(role: Role, shown: &str, label: &str, encoded: &[u8]) -> Result<SourceFile, SourceError> {
    let compact: Vec<u8> = encoded.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(compact).map_err(|error| SourceError::Base64 { path: shown.to_owned(), error })?;
    let text = utf8(Layer::Mdm, shown, bytes)?;
    Ok(SourceFile { layer: Layer::Mdm, role, shown: shown.to_owned(), label: label.to_owned(), folder: None, text })
}

fn read_file(layer: Layer, role: Role, path: &Path) -> Result<SourceFile, SourceError> {
    let shown = path.display().to_string();
    let text = utf8(layer, &shown, read_bytes(layer, path)?)?;
    let label = path.file_name().map_or_else(|| shown.clone(), |name| name.to_string_lossy().into_owned());
    let folder = path.parent().map(Path::to_owned);
    Ok(SourceFile { layer, role, shown, label, folder, text })
}

fn read_bytes(layer: Layer, path: &Path) -> Result<Vec<u8>, SourceError> {
    use io::Read;
    let shown = || path.display().to_string();
    let read = |error| SourceError::Read { layer, path: shown(), error };
    let mut bytes = Vec::new();
    let taken = fs::File::open(path).map_err(read)?.take(MAX_SOURCE + 1).read_to_end(&mut bytes).map_err(read)?;
    if taken as u64 > MAX_SOURCE {
        return Err(SourceError::TooLarge { layer, path: shown() });
    }
    Ok(bytes)
}

fn utf8(layer: Layer, path: &str, bytes: Vec<u8>) -> Result<String, SourceError> {
    String::from_utf8(bytes).map_err(|error| SourceError::Utf8 { layer, path: path.to_owned(), at: error.utf8_error().valid_up_to() })
}

/// `.codex/config.toml`, from the working directory up to the repository's root.
fn find_project(working_dir: &Path) -> Option<PathBuf> {
    for dir in working_dir.ancestors() {
        let file = dir.join(".codex").join("config.toml");
        if file.is_file() {
            return Some(file);
        }
        if dir.join(".git").exists() {
            return None;
        }
    }
    None
}

/// `key=value` as a line of TOML: the value as TOML if it is that, else as a string.
fn override_source(text: &str) -> Result<SourceFile, SourceError> {
    let (key, value) = split_assignment(text).ok_or_else(|| SourceError::Override(text.to_owned()))?;
    let (key, value) = (key.trim(), value.trim());
    // One key, one value: what begins a comment or another line would be something else.
    if key.is_empty() || key.starts_with('#') || key.contains(char::is_control) {
        return Err(SourceError::Override(text.to_owned()));
    }
    let is_toml = !value.is_empty() && !value.contains('\n') && toml::de::DeValue::parse(value).is_ok();
    let line = if is_toml { format!("{key} = {value}\n") } else { format!("{key} = {}\n", quote(value)) };
    // What is typed is meant from where it is typed.
    Ok(SourceFile::from_text(Layer::Cli, Role::Config, "-c", line).in_folder(Path::new("")))
}

/// At the first `=` that is not inside quotes: patterns and paths stand in quotes.
fn split_assignment(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    let at = text.char_indices().find_map(|(at, c)| {
        match (quote, c) {
            (None, '=') => return Some(at),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
        None
    })?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// A TOML basic string.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn order(sources: &[SourceFile]) -> Vec<String> {
        sources.iter().map(|source| format!("{} {:?} {}", source.layer, source.role, source.label())).collect()
    }

    #[test]
    fn reads_default_places_strongest_first() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "etc/managed_config.toml", "");
        write(dir.path(), "etc/requirements.toml", "");
        write(dir.path(), "home/config.toml", "");
        write(dir.path(), "repo/.codex/config.toml", "");
        let inner = write(dir.path(), "repo/src/deep/x", "");
        let places = Places {
            etc: Some(dir.path().join("etc")),
            codex_home: Some(dir.path().join("home")),
            working_dir: Some(inner.parent().unwrap().to_owned()),
        };
        let files = LayerFiles { overrides: vec!["a.b=1".into(), "a.b=2".into()], ..LayerFiles::default() };
        let sources = files.read(&places).unwrap();
        assert_eq!(
            order(&sources),
            [
                "managed Requirements requirements.toml",
                "managed Config managed_config.toml",
                "cli Config -c",
                "cli Config -c",
                "user Config config.toml",
                "project Config config.toml"
            ]
        );
        assert_eq!(sources[2].text(), "a.b = 2\n", "the later override is the stronger");

        // A named layer makes the run hermetic, unless discovery is asked for.
        let named = LayerFiles { user: Some(dir.path().join("home/config.toml")), ..LayerFiles::default() };
        assert_eq!(order(&named.read(&places).unwrap()), ["user Config config.toml"]);
        let discovered = LayerFiles { discover: true, ..named };
        assert_eq!(discovered.read(&places).unwrap().len(), 4);
    }

    #[test]
    fn the_search_for_a_project_ends_at_the_repository() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), ".codex/config.toml", "");
        write(dir.path(), "repo/.git/HEAD", "");
        assert_eq!(find_project(&dir.path().join("repo")), None);
        assert_eq!(find_project(&dir.path().join("elsewhere")), Some(dir.path().join(".codex/config.toml")));
    }

    #[test]
    fn a_named_file_must_exist() {
        let files = LayerFiles { user: Some("/nonexistent/config.toml".into()), ..LayerFiles::default() };
        let error = files.read(&Places::default()).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the user layer `/nonexistent/config.toml`"), "{error}");
    }

    #[test]
    fn reads_device_management_in_both_forms() {
        let dir = tempfile::tempdir().unwrap();
        let encoded = base64::engine::general_purpose::STANDARD.encode("a = 1\n");
        let list = |format| {
            let mut dictionary = plist::Dictionary::new();
            dictionary.insert("config_toml_base64".into(), plist::Value::String(encoded.clone()));
            dictionary.insert("requirements_toml_base64".into(), plist::Value::String(encoded.clone()));
            let path = dir.path().join(format!("mdm-{format}.plist"));
            let value = plist::Value::Dictionary(dictionary);
            if format == "xml" { value.to_file_xml(&path) } else { value.to_file_binary(&path) }.unwrap();
            path
        };
        for format in ["xml", "binary"] {
            let files = LayerFiles { mdm: Some(list(format)), ..LayerFiles::default() };
            let sources = files.read(&Places::default()).unwrap();
            assert_eq!(order(&sources), ["mdm Requirements requirements_toml_base64", "mdm Config config_toml_base64"]);
            assert_eq!(sources[0].text(), "a = 1\n");
        }
        let raw = write(dir.path(), "config.b64", &format!("{encoded}\n"));
        let files = LayerFiles { mdm_config_base64: Some(raw), ..LayerFiles::default() };
        assert_eq!(order(&files.read(&Places::default()).unwrap()), ["mdm Config config_toml_base64"]);
    }

    #[test]
    fn overrides_are_toml_or_else_text() {
        for (text, line) in [
            ("a.mode=limited", "a.mode = \"limited\"\n"),
            ("a=true", "a = true\n"),
            ("a = [1, 2]", "a = [1, 2]\n"),
            ("a=", "a = \"\"\n"),
            ("a=x\"y", "a = \"x\\\"y\"\n"),
            ("a=http://x", "a = \"http://x\"\n"),
            ("a.\"b=c\"=allow", "a.\"b=c\" = \"allow\"\n"),
            ("a=1\nb=2", "a = \"1\\u000Ab=2\"\n"),
        ] {
            assert_eq!(override_source(text).unwrap().text(), line);
        }
        for text in ["novalue", "=1", "\"a=1", "#a=1", "[b]\na=1", "a=1\r\nb".split_once('=').map_or("", |(_, rest)| rest)] {
            assert!(override_source(text).is_err(), "{text:?}");
        }
    }

    #[cfg(feature = "cli")]
    #[test]
    fn positions_are_those_that_a_count_finds() {
        let text = format!("one\ntwo = ü\r\n{}x\n\n{}", "aü€😀".repeat(200), "b".repeat(600));
        let sources = [SourceFile::from_text(Layer::User, Role::Config, "x", text.clone())];
        let positions = Positions::new(&sources);
        for at in 0..=text.len() + 1 {
            let before = &text[..floor_char(&text, at)];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
            let (_, [start, end]) = positions.of(&Place { source: SourceId(0), span: at..at }).unwrap();
            assert_eq!((start, end), ((line, column), (line, column)), "{at}");
        }
        assert!(positions.of(&Place::nowhere()).is_none());
        let empty = [SourceFile::from_text(Layer::User, Role::Config, "x", String::new())];
        let (_, found) = Positions::new(&empty).of(&Place { source: SourceId(0), span: 0..9 }).unwrap();
        assert_eq!(found, [(1, 1), (1, 1)]);
    }

    #[test]
    fn an_excerpt_has_the_whole_lines() {
        let source = SourceFile::from_text(Layer::User, Role::Config, "x", "one\ntwo = ü\nthree".into());
        let excerpt = source.excerpt(&(4..7));
        assert_eq!((excerpt.text, excerpt.line, excerpt.span), ("two = ü", 2, 0..3));
        let end = source.excerpt(&(100..200));
        assert_eq!((end.text, end.line, end.span), ("three", 3, 5..5));
    }
}
