//! Variables in the words of shells and of other programs that read them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// For whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shell {
    /// sh, bash, zsh, ksh and dash: `eval "$(netproxy-dp env)"`.
    #[default]
    Sh,
    /// fish: `netproxy-dp env --shell fish | source`.
    Fish,
    /// PowerShell: `netproxy-dp env --shell powershell | Out-String | Invoke-Expression`.
    PowerShell,
    /// A `.env` file. What is in it is read alike by sh, Docker Compose, and the dotenv libraries of Node.js, Python and Ruby.
    Dotenv,
    /// One JSON object.
    Json,
    /// A file for `docker run --env-file`. It has no quotes, and so no values of several lines.
    Docker,
}

/// A value that cannot be written in that form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the value of `{0}` has several lines, which a file for `docker run --env-file` cannot say; unset it")]
pub struct Unwritable(pub String);

impl Shell {
    /// Statements that set the variables; ends with a line's end.
    ///
    /// # Errors
    /// [`Unwritable`] for [`Self::Docker`].
    pub fn set<'v>(self, variables: impl IntoIterator<Item = (&'v str, &'v str)>) -> Result<String, Unwritable> {
        let mut out = String::new();
        let mut object = serde_json::Map::new();
        for (name, value) in variables {
            // Writing to a string does not fail.
            let _ = match self {
                Self::Sh => writeln!(out, "export {name}={}", sh_quoted(value)),
                Self::Fish => writeln!(out, "set -gx {name} {}", fish_quoted(value)),
                Self::PowerShell => writeln!(out, "${{env:{name}}} = {}", powershell_quoted(value)),
                Self::Dotenv => writeln!(out, "{name}={}", dotenv_quoted(value)),
                Self::Docker if value.contains(['\n', '\r']) => return Err(Unwritable(name.to_owned())),
                Self::Docker => writeln!(out, "{name}={value}"),
                Self::Json => {
                    object.insert(name.to_owned(), value.into());
                    Ok(())
                }
            };
        }
        if self == Self::Json {
            out = format!("{:#}\n", serde_json::Value::Object(object));
        }
        Ok(out)
    }

    /// Statements that set variables, or unset those without a value. Files and JSON have no word for that: there the value is empty, or null.
    ///
    /// # Errors
    /// [`Unwritable`] for [`Self::Docker`].
    pub fn restore(self, variables: &BTreeMap<&str, Option<String>>) -> Result<String, Unwritable> {
        if self == Self::Json {
            let object: serde_json::Map<_, _> = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into())).collect();
            return Ok(format!("{:#}\n", serde_json::Value::Object(object)));
        }
        let mut out = String::new();
        for (name, value) in variables {
            let line = match (self, value) {
                (Self::Sh, None) => format!("unset {name}\n"),
                (Self::Fish, None) => format!("set -e {name}\n"),
                (Self::PowerShell, None) => format!("Remove-Item -ErrorAction SilentlyContinue -Path Env:{name}\n"),
                (_, value) => self.set([(*name, value.as_deref().unwrap_or_default())])?,
            };
            out.push_str(&line);
        }
        Ok(out)
    }
}

/// In single quotes, where nothing means anything but the quote itself.
pub(crate) fn sh_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn fish_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

/// The typographic quotes end a text too.
fn powershell_quoted(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        out.extend(std::iter::repeat_n(c, if matches!(c, '\'' | '\u{2018}'..='\u{201b}') { 2 } else { 1 }));
    }
    out.push('\'');
    out
}

/// In single quotes wherever that will do: what backslashes mean elsewhere, readers do not agree on.
fn dotenv_quoted(text: &str) -> String {
    if !text.contains(['\'', '\\']) {
        return format!("'{text}'");
    }
    let mut out = String::from('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::print_stdout,
        clippy::indexing_slicing,
        reason = "a test that cannot go on panics, and says what it skips"
    )]

    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    /// What is hard to quote.
    const VALUES: &[(&str, &str)] = &[
        ("NP_PLAIN", "http://127.0.0.1:3128"),
        ("NP_EMPTY", ""),
        ("NP_BLANKS", " a  b\t"),
        ("NP_SINGLE", "it's 'quoted'"),
        ("NP_DOUBLE", r#"say "this""#),
        ("NP_BOTH", r#"it's "$HOME" `id` \ \\ \n $(id) ${x} %PATH% !x #y;&|<>*?[~]"#),
        ("NP_LINES", "one\ntwo\n\nfour\n"),
        ("NP_UNICODE", "naïve ‘typographic’ “quotes” ‚low‛ 日本"),
        ("NP_PROPERTIES", "-Dhttp.nonProxyHosts=localhost|127.*|[::1] \"-Dx=a b\""),
        ("NP_BACKSLASH", r"C:\new\table\"),
        ("NP_EQUALS", "a=b=c"),
    ];

    fn run(program: &str, args: &[&str], script: &str) -> Option<String> {
        let mut child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{program}: {script}");
        Some(String::from_utf8(output.stdout).unwrap())
    }

    /// What a child of the shell sees, byte for byte, with a NUL behind each.
    fn expected() -> String {
        VALUES.iter().map(|(_, value)| format!("{value}\0")).collect()
    }

    fn shown() -> String {
        VALUES.iter().map(|(name, _)| format!("printenv -0 {name}")).collect::<Vec<_>>().join("\n")
    }

    #[cfg(unix)]
    #[test]
    fn shells_read_the_very_bytes() {
        let set = |shell: Shell| shell.set(VALUES.iter().copied()).unwrap();
        let sh = format!("{}{}", set(Shell::Sh), shown());
        let dotenv = format!("set -a\n{}{}", set(Shell::Dotenv), shown());
        for (program, args, script) in [
            ("sh", &["-s"][..], sh.clone()),
            ("bash", &["-s"], sh.clone()),
            ("zsh", &["-f", "-s"], sh),
            ("sh", &["-s"], dotenv),
            ("fish", &["--no-config"], format!("{}{}", set(Shell::Fish), shown())),
        ] {
            match run(program, args, &script) {
                Some(said) => assert_eq!(said, expected(), "{program}"),
                None => println!("skipped: {program} is not installed"),
            }
        }
        // Through `eval`, as users write it.
        let eval = format!("eval \"$(cat <<'NETPROXY_END'\n{}NETPROXY_END\n)\"\n{}", set(Shell::Sh), shown());
        assert_eq!(run("sh", &["-s"], &eval).unwrap(), expected());
        if let Some(said) =
            run("pwsh", &["-NoProfile", "-Command", "-"], &format!("{}\n{}", set(Shell::PowerShell), shown().replace('\n', ";")))
        {
            // An empty value takes the variable away there.
            assert_eq!(said.replace('\0', ""), expected().replace('\0', ""));
        }
    }

    #[test]
    fn the_other_forms() {
        let json: serde_json::Value = serde_json::from_str(&Shell::Json.set(VALUES.iter().copied()).unwrap()).unwrap();
        assert!(VALUES.iter().all(|(name, value)| json[name] == *value));
        let one_line = VALUES.iter().copied().filter(|(_, value)| !value.contains('\n'));
        assert_eq!(Shell::Docker.set(one_line.take(2)).unwrap(), "NP_PLAIN=http://127.0.0.1:3128\nNP_EMPTY=\n");
        assert_eq!(Shell::Docker.set([("A", "x\ny")]), Err(Unwritable("A".into())));
        assert_eq!(Shell::PowerShell.set([("A", "it's ‘so’")]).unwrap(), "${env:A} = 'it''s ‘‘so’’'\n");
        assert_eq!(Shell::Fish.set([("A", r"it's \")]).unwrap(), "set -gx A 'it\\'s \\\\'\n");
    }

    #[test]
    fn variables_are_unset() {
        let variables = BTreeMap::from([("A", None), ("B", Some("it's".to_owned()))]);
        for (shell, text) in [
            (Shell::Sh, "unset A\nexport B='it'\\''s'\n"),
            (Shell::Fish, "set -e A\nset -gx B 'it\\'s'\n"),
            (Shell::PowerShell, "Remove-Item -ErrorAction SilentlyContinue -Path Env:A\n${env:B} = 'it''s'\n"),
            (Shell::Dotenv, "A=''\nB=\"it's\"\n"),
            (Shell::Docker, "A=\nB=it's\n"),
            (Shell::Json, "{\n  \"A\": null,\n  \"B\": \"it's\"\n}\n"),
        ] {
            assert_eq!(shell.restore(&variables).unwrap(), text, "{shell:?}");
        }
    }
}
