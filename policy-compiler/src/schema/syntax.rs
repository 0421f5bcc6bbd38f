//! What to say where a file is not TOML: people write a few mistakes again and again, and the parser's words are for those who know the grammar.

use crate::diagnostic::{Code, Diagnostic, Edit, Place};
use policy_format::Pattern;
use std::ops::Range;

/// The line around an offset, without its end.
pub(super) fn line_of(text: &str, at: usize) -> Range<usize> {
    let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let (before, after) = text.split_at(at);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let end = after.find(['\n', '\r']).map_or(text.len(), |newline| at + newline);
    start..end
}

/// A syntax error, with the line as it was probably meant.
pub(super) fn not_toml(text: &str, said: &str, place: Place) -> Diagnostic {
    let line = line_of(text, place.span.start);
    let written = text.get(line.clone()).unwrap_or_default();
    let source = place.source;
    if said.contains("duplicate key") {
        let name = text.get(place.span.clone()).unwrap_or_default().to_owned();
        let error = Diagnostic::error(Code::NotToml, format!("this is not TOML: `{name}` is there twice in one table"), place);
        return error.with_help("keep one of them");
    }
    if said.contains("recurs") {
        let error = Diagnostic::error(Code::NotToml, "tables in tables are nested too deeply to be read", place);
        return error.with_help("write patterns in quotes, and fewer brackets");
    }
    let mut error = Diagnostic::error(Code::NotToml, format!("this is not TOML: {said}"), place);
    // A line that is well by itself is not what is wrong.
    let written = if is_toml(written.to_owned()).is_some() { "" } else { written };
    let fixed = quoted_key(written).map(|fixed| ("a pattern stands in quotes", fixed));
    let fixed = fixed.or_else(|| colon(written).map(|fixed| ("a key and its value have `=` between them", fixed)));
    let fixed = fixed.or_else(|| quoted_value(written).map(|fixed| ("text stands in quotes", fixed)));
    let fixed = fixed.or_else(|| without_end(written).map(|fixed| ("lines do not end in a mark", fixed)));
    match fixed {
        Some((help, fixed)) => {
            error.help = Some(help.to_owned());
            error.edit = Some(Edit { place: Place { source, span: line }, text: fixed });
        }
        None => {
            error.help =
                Some("a line is `key = value`, text stands in quotes, and a pattern does too: `\"*.example.com\" = \"allow\"`".into())
        }
    }
    error
}

/// `*.example.com = "allow"`.
fn quoted_key(line: &str) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    let (indent, name) = (key.len() - key.trim_start().len(), key.trim());
    if name.starts_with(['"', '\'']) || Pattern::parse(name).is_err() {
        return None;
    }
    is_toml(format!("{}\"{name}\" = {}", line.get(..indent)?, value.trim()))
}

/// `"example.com": "allow"`, or with nothing between them.
fn colon(line: &str) -> Option<String> {
    let (indent, trimmed) = (line.len() - line.trim_start().len(), line.trim());
    let key = match trimmed.strip_prefix('"') {
        Some(rest) => rest.find('"')? + 2,
        None if !trimmed.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') => return None,
        None => trimmed.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '.'))?,
    };
    let (key, rest) = (trimmed.get(..key)?, trimmed.get(key..)?.trim_start());
    let value = rest.strip_prefix(':').unwrap_or(rest).trim();
    let fixed = |value: &str| is_toml(format!("{}{key} = {value}", line.get(..indent)?));
    if rest.starts_with('=') || value.is_empty() { None } else { fixed(value).or_else(|| fixed(&format!("\"{value}\""))) }
}

/// `mode = limited`.
fn quoted_value(line: &str) -> Option<String> {
    let (key, value) = line.split_once('=')?;
    let value = value.trim();
    if value.is_empty() || value.contains(['"', '\'', '#', '[', '{', '\\']) {
        return None;
    }
    let meant = match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => "true".to_owned(),
        "false" | "no" | "off" => "false".to_owned(),
        _ => format!("\"{value}\""),
    };
    is_toml(format!("{key}= {meant}"))
}

/// `"example.com" = "allow",`.
fn without_end(line: &str) -> Option<String> {
    let trimmed = line.trim_end();
    let shorter = trimmed.strip_suffix([',', ';'])?;
    is_toml(shorter.to_owned())
}

fn is_toml(line: String) -> Option<String> {
    toml::de::DeTable::parse(&line).is_ok().then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repairs_what_people_write() {
        for (line, expected) in [
            ("  *.example.com = \"allow\"", Some("  \"*.example.com\" = \"allow\"")),
            ("\"a.test\": \"allow\"", Some("\"a.test\" = \"allow\"")),
            ("mode: limited", Some("mode = \"limited\"")),
            ("\"a.test\"\t\"allow\"", Some("\"a.test\" = \"allow\"")),
            ("mode = limited", Some("mode = \"limited\"")),
            ("enabled = True", Some("enabled = true")),
            ("[permissions", None),
            ("mode = \"limited", None),
            ("= 1", None),
            ("- a.test", None),
            ("\"a.test\" = \"deny\",  ", Some("\"a.test\" = \"deny\"")),
            ("", None),
        ] {
            let fixed = quoted_key(line).or_else(|| colon(line)).or_else(|| quoted_value(line)).or_else(|| without_end(line));
            assert_eq!(fixed.as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn finds_the_line() {
        for (at, expected) in [(0, 0..3), (3, 0..3), (5, 5..8), (99, 5..8)] {
            assert_eq!(line_of("one\r\ntwo", at), expected, "{at}");
        }
    }
}
