//! Settings of Claude Code: the network of its sandbox, and `WebFetch` in its permissions. Deny beats ask, and ask beats allow.

use super::json::Json;
use super::{Access, ConvertError, Draft, srt};

pub(super) fn read(text: &str) -> Result<Draft, ConvertError> {
    let json = Json::parse(text)?;
    let mut draft = Draft::default();
    if json.bool(&["sandbox", "enabled"])? == Some(false) {
        draft.warn(json.line(&["sandbox", "enabled"]), "the sandbox is off there; here the rules are in force");
    }
    let mut everything = srt::network(&json, &["sandbox", "network"], &mut draft)?;
    let managed = ["sandbox", "network", "allowManagedDomainsOnly"];
    if json.bool(&managed)? == Some(true) {
        let message = "`allowManagedDomainsOnly` is left out: write `managed_allowed_domains_only = true` under `[experimental_network]` in requirements";
        draft.warn(json.line(&managed), message);
    }
    let strict = json.bool(&["sandbox", "network", "strictAllowlist"])? == Some(true);
    for list in ["allow", "deny"] {
        for (entry, line) in json.strings(&["permissions", list])? {
            match (list, domain(&entry)) {
                (_, None) => {}
                ("allow", Some("*")) => {
                    draft.rule("*", Access::Allow, line);
                    draft.warn(line, format!("`{entry}` allows its one tool every host; here every client gets every host"));
                }
                ("allow", Some(domain)) => srt::entry(domain, Access::Allow, line, &mut draft),
                (_, Some("*")) => everything = Some(line),
                (_, Some(domain)) => srt::entry(domain, Access::Deny, line, &mut draft),
            }
        }
    }
    // After the allows: what it takes away has to be there.
    if let Some(line) = everything {
        draft.deny_everything(line);
    }
    for (entry, line) in json.strings(&["permissions", "ask"])? {
        let Some(domain) = domain(&entry) else { continue };
        if domain == "*" {
            draft.warn(line, format!("`{entry}` asks a person; here what no rule allows is blocked, and what one allows passes"));
            continue;
        }
        let Some(pattern) = draft.pattern(domain, line, Access::Deny) else { continue };
        if draft.rules.iter().any(|rule| rule.access != Access::Deny && rule.pattern.overlaps(&pattern)) {
            draft.rule(domain, Access::Deny, line);
            draft.warn(line, format!("`{entry}` asks a person; here it is denied, for another rule would allow it"));
        } else {
            draft.warn(line, format!("`{entry}` asks a person; here it is blocked, as no rule allows it"));
        }
    }
    if !strict && !draft.rules.is_empty() {
        draft.warn(1, "a host that no rule names is asked about there; here it is blocked");
    }
    Ok(draft)
}

/// The domain of a `WebFetch` entry; `*` when it has none.
fn domain(entry: &str) -> Option<&str> {
    let rest = entry.trim().strip_prefix("WebFetch")?;
    if rest.is_empty() {
        return Some("*");
    }
    let inner = rest.strip_prefix('(')?.strip_suffix(')')?.trim();
    if inner == "*" {
        return Some("*");
    }
    inner.strip_prefix("domain:").map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::domain;

    #[test]
    fn finds_the_domain_of_an_entry() {
        for (entry, expected) in [
            ("WebFetch(domain:a.test)", Some("a.test")),
            ("WebFetch(domain:*)", Some("*")),
            ("WebFetch", Some("*")),
            ("WebFetch(*)", Some("*")),
            ("WebFetch(domain: *.a.test )", Some("*.a.test")),
            ("WebFetch(a.test)", None),
            ("WebFetcher", None),
            ("Bash(curl a.test)", None),
        ] {
            assert_eq!(domain(entry), expected, "{entry}");
        }
    }
}
