//! JSON with the lines that its strings stand in.

use super::ConvertError;
use serde_json::{Map, Value};

/// A document and where its strings are. Lines are looked up by text, in the order of the file: near enough for a warning.
pub(super) struct Json<'t> {
    text: &'t str,
    pub(super) root: Map<String, Value>,
}

impl<'t> Json<'t> {
    pub(super) fn parse(text: &'t str) -> Result<Self, ConvertError> {
        match serde_json::from_str(text) {
            Ok(Value::Object(root)) => Ok(Self { text, root }),
            Ok(_) => Err(ConvertError::new(1, "this is JSON, but no object")),
            Err(error) => Err(ConvertError::new(error.line().max(1), format!("this is not JSON: {error}"))),
        }
    }

    /// Where the key at the end of `path` starts.
    fn offset(&self, path: &[&str]) -> usize {
        path.iter().fold(0, |at, key| self.next(at, key).unwrap_or(at))
    }

    fn next(&self, at: usize, text: &str) -> Option<usize> {
        let quoted = serde_json::to_string(text).ok()?;
        self.text.get(at..)?.find(&quoted).map(|found| at + found)
    }

    fn line_at(&self, offset: usize) -> usize {
        self.text.get(..offset).unwrap_or_default().matches('\n').count() + 1
    }

    /// The line of a key.
    pub(super) fn line(&self, path: &[&str]) -> usize {
        self.line_at(self.offset(path))
    }

    /// The object at `path`; `None` when it is not there.
    pub(super) fn object(&self, path: &[&str]) -> Result<Option<&Map<String, Value>>, ConvertError> {
        let mut table = &self.root;
        for (index, key) in path.iter().enumerate() {
            match table.get(*key) {
                None => return Ok(None),
                Some(Value::Object(inner)) => table = inner,
                Some(_) => return Err(self.wrong(path.get(..=index).unwrap_or_default(), "an object")),
            }
        }
        Ok(Some(table))
    }

    fn value(&self, path: &[&str]) -> Result<Option<&Value>, ConvertError> {
        let Some((last, parents)) = path.split_last() else { return Ok(None) };
        Ok(self.object(parents)?.and_then(|table| table.get(*last)).filter(|value| !value.is_null()))
    }

    fn wrong(&self, path: &[&str], expected: &str) -> ConvertError {
        ConvertError::new(self.line(path), format!("`{}` is not {expected}", path.join(".")))
    }

    /// A list of strings with their lines; empty when it is not there.
    pub(super) fn strings(&self, path: &[&str]) -> Result<Vec<(String, usize)>, ConvertError> {
        let Some(value) = self.value(path)? else { return Ok(Vec::new()) };
        let list = value.as_array().ok_or_else(|| self.wrong(path, "a list of strings"))?;
        // Behind the key, so that a string that is the key's own text is not taken for it. The line is counted along.
        let mut at = self.offset(path) + path.last().map_or(0, |key| key.len() + 2);
        let mut line = self.line_at(at);
        let mut found = Vec::with_capacity(list.len());
        for item in list {
            let text = item.as_str().ok_or_else(|| self.wrong(path, "a list of strings"))?;
            if let Some(next) = self.next(at, text) {
                line += self.text.get(at..next).unwrap_or_default().matches('\n').count();
                at = next + 1;
            }
            found.push((text.to_owned(), line));
        }
        Ok(found)
    }

    /// A bool; `None` when it is not there.
    pub(super) fn bool(&self, path: &[&str]) -> Result<Option<bool>, ConvertError> {
        let value = self.value(path)?;
        value.map(|value| value.as_bool().ok_or_else(|| self.wrong(path, "true or false"))).transpose()
    }

    /// A port; `None` when it is not there.
    pub(super) fn port(&self, path: &[&str]) -> Result<Option<u16>, ConvertError> {
        let value = self.value(path)?;
        let port = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        value.map(|value| port(value).ok_or_else(|| self.wrong(path, "a port from 1 to 65535"))).transpose()
    }
}
