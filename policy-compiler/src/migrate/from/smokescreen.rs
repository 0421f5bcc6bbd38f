//! A Smokescreen access list, version `v1`.
//!
//! It asks, first hit wins: the service's `allowed_domains`, `global_deny_list`, `global_allow_list`, and then the service's `action`. Its `*.example.com` is the
//! subdomains without the apex, as here.

use super::yaml::{self, Node};
use super::{Access, Comparisons, ConvertError, Draft};
use policy_format::Pattern;

const KNOWN: [&str; 5] = ["version", "services", "default", "global_deny_list", "global_allow_list"];
const KNOWN_OF_SERVICE: [&str; 6] = ["name", "project", "action", "allowed_domains", "mitm_domains", "allowed_external_proxies"];

pub(super) fn read(text: &str, service: Option<&str>) -> Result<Draft, ConvertError> {
    let root = yaml::parse(text)?;
    let version = root.get("version").ok_or_else(|| ConvertError::new(1, "there is no `version`: it is `v1`"))?;
    if version.text("version")? != "v1" {
        return Err(ConvertError::new(version.line, "`version` is not `v1`"));
    }
    let services = root.get("services").ok_or_else(|| ConvertError::new(1, "there is no `services`"))?;
    let services = services.list("services")?;
    let mut draft = Draft::default();
    for (key, line) in root.keys().filter(|(key, _)| !KNOWN.contains(key)) {
        draft.warn(line, format!("`{key}` is left out: it is not known"));
    }
    let rule = choose(&root, services, service, &mut draft)?;
    lists(&root, rule, &mut draft)?;
    Ok(draft)
}

fn choose<'n>(
    root: &'n Node,
    services: &'n [std::rc::Rc<Node>],
    wanted: Option<&str>,
    draft: &mut Draft,
) -> Result<&'n Node, ConvertError> {
    let mut named = Vec::with_capacity(services.len());
    for service in services {
        let name = service.get("name").ok_or_else(|| ConvertError::new(service.line, "the service has no `name`"))?;
        named.push((name.text("name")?, service.as_ref()));
    }
    let default = root.get("default").filter(|node| !matches!(node.content, yaml::Content::Null)).map(std::rc::Rc::as_ref);
    let names = || named.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let line = root.get("services").map_or(1, |node| node.line);
    match (wanted, default, named.as_slice()) {
        (Some("default"), Some(default), _) => Ok(default),
        (Some(wanted), ..) => match named.iter().find(|(name, _)| *name == wanted) {
            Some((_, service)) => Ok(service),
            None => Err(ConvertError::new(line, format!("there is no service `{wanted}`; these are there: {}", names()))),
        },
        (None, Some(default), []) => Ok(default),
        (None, Some(default), _) => {
            draft.warn(
                line,
                format!("these services have rules of their own, which are not written: {}; choose one with `--service`", names()),
            );
            Ok(default)
        }
        (None, None, [(_, service)]) => Ok(service),
        (None, None, []) => Err(ConvertError::new(line, "there is no service and no `default`")),
        (None, None, _) => Err(ConvertError::new(line, format!("there are several services; choose one with `--service`: {}", names()))),
    }
}

/// A pattern and its line.
type Listed = (Pattern, usize);

/// A list of its globs. What it refuses itself is refused here too.
fn globs(node: Option<&std::rc::Rc<Node>>, what: &str) -> Result<Vec<Listed>, ConvertError> {
    let Some(node) = node else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for item in node.list(what)? {
        let text = item.text(what)?;
        let wrong = |why: &str| ConvertError::new(item.line, format!("`{text}` in `{what}`: {why}"));
        let name = text.strip_prefix("*.").unwrap_or(text);
        if name.is_empty() || text == "*" {
            return Err(wrong("a glob must not match everything"));
        }
        if name.contains(['*', '?', '[', '{', '/', '@']) {
            return Err(wrong("a glob is a name, or `*.` and a name"));
        }
        let pattern = Pattern::parse(text).map_err(|error| wrong(&error.to_string()))?;
        if pattern.port.is_some() {
            return Err(wrong("a glob has no port"));
        }
        found.push((pattern, item.line));
    }
    Ok(found)
}

fn lists(root: &Node, rule: &Node, draft: &mut Draft) -> Result<(), ConvertError> {
    for (key, line) in rule.keys() {
        match key {
            "mitm_domains" => draft
                .warn(line, "`mitm_domains` is left out: interception is written under `[….network.mitm]` here, and has rules of its own"),
            "allowed_external_proxies" => draft.warn(line, "`allowed_external_proxies` is left out: clients cannot name a proxy here"),
            key if !KNOWN_OF_SERVICE.contains(&key) => draft.warn(line, format!("`{key}` is left out: it is not known")),
            _ => {}
        }
    }
    let action = rule
        .get("action")
        .ok_or_else(|| ConvertError::new(rule.line, "the service has no `action`: it is `open`, `report` or `enforce`"))?;
    let open = match action.text("action")? {
        "enforce" => false,
        "open" => true,
        "report" => {
            draft.warn(action.line, "`report` lets everything pass and logs what is not listed; here everything passes, and the log does not tell the two apart");
            true
        }
        other => return Err(ConvertError::new(action.line, format!("`action` is `open`, `report` or `enforce`, not `{other}`"))),
    };
    let allowed = globs(rule.get("allowed_domains"), "allowed_domains")?;
    let denied = globs(root.get("global_deny_list"), "global_deny_list")?;
    let global = globs(root.get("global_allow_list"), "global_allow_list")?;
    for (pattern, line) in allowed.iter().chain(&global) {
        draft.rule(&pattern.to_string(), Access::Allow, *line);
    }
    if open {
        draft.rule("*", Access::Allow, action.line);
        if !draft.warnings.iter().any(|note| note.line == action.line) {
            draft.warn(action.line, "`open` allows every host");
        }
    }
    let mut comparisons = Comparisons::default();
    for (pattern, line) in &denied {
        deny(pattern, *line, [&allowed, &global], open, &mut comparisons, draft);
    }
    comparisons.report(draft);
    Ok(())
}

/// A service's own list is asked before the global deny list; here a deny beats it. The deny is left out where that changes nothing.
fn deny(pattern: &Pattern, line: usize, [allowed, global]: [&[Listed]; 2], open: bool, comparisons: &mut Comparisons, draft: &mut Draft) {
    let own = || allowed.iter().map(|(allow, line)| (allow, *line));
    let Some((first, at)) = comparisons.first(own(), |allow| allow.overlaps(pattern)) else {
        draft.rule(&pattern.to_string(), Access::Deny, line);
        return;
    };
    let whole = comparisons.first(own(), |allow| allow.covers(pattern));
    let wanted = open || comparisons.first(global.iter().map(|(allow, line)| (allow, *line)), |allow| allow.overlaps(pattern)).is_some();
    if whole.is_some() || !wanted {
        let why = if whole.is_some() {
            "the service's own list is asked first there, and allows all of it"
        } else {
            "what else it would deny is not allowed anyway"
        };
        draft.warn(line, format!("the global deny of `{pattern}` is left out: {why} (`{first}`, line {at})"));
        return;
    }
    draft.rule(&pattern.to_string(), Access::Deny, line);
    let message = format!(
        "the global deny of `{pattern}` beats `{first}` of the service's own list (line {at}) here; there the service's list is asked first"
    );
    draft.warn(line, message);
}
