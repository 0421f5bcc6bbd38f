//! URLs that may have a password in them, for people.

use std::borrow::Cow;

/// Text with what stands behind `start` and before its last `@` overwritten, byte for byte: in a URL, a user and a password. Line feeds stay.
#[must_use]
pub fn hide_user(text: &str, start: usize) -> Cow<'_, str> {
    let parts = text.rfind('@').and_then(|end| Some((text.get(..start)?, text.get(start..end)?, text.get(end..)?)));
    let Some((before, secret, after)) = parts else { return Cow::Borrowed(text) };
    let hidden = secret.chars().map(|c| if c == '\n' { Cow::Borrowed("\n") } else { Cow::Owned("*".repeat(c.len_utf8())) });
    Cow::Owned([before].into_iter().map(Cow::Borrowed).chain(hidden).chain([Cow::Borrowed(after)]).collect())
}

/// A URL without its user and its password; nothing of what is none.
pub(crate) fn without_user(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host)),
        None => String::new(),
    }
}
